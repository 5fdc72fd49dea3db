package gre

import (
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"

	"xpptp/engine"
	"xpptp/engine/wire"
)

const ms = int64(1e6)

// end is a receiving State with everything it delivers and drops.
type end struct {
	t     *testing.T
	s     State
	got   []uint32
	drops map[engine.Drop]int
	// forged marks items that Confirm is told are not sane.
	forged map[*packet]bool
}

type packet struct{ seq uint32 }

func newEnd(t *testing.T, cfg *Config) *end {
	e := &end{t: t, drops: map[engine.Drop]int{}, forged: map[*packet]bool{}}
	e.s.Init(cfg, 64, 0)
	return e
}

func config(delay int64) *Config {
	return &Config{Window: 64, ReorderDelay: delay, Buffers: NewBuffers(4, 16)}
}

func (e *end) deliver(now int64, seq uint32, item any) {
	p := item.(*packet)
	if p.seq != seq {
		e.t.Fatalf("item %d handed out as number %d", p.seq, seq)
	}
	sane := !e.forged[p]
	if sane {
		e.got = append(e.got, seq)
	}
	e.s.Confirm(now, seq, sane)
}

func (e *end) receivePacket(now int64, p *packet) engine.Drop {
	held, d := e.s.Receive(now, p.seq, p)
	if d != engine.Pass {
		e.drops[d]++
		return d
	}
	if !held {
		e.deliver(now, p.seq, p)
	}
	e.next(now)
	return d
}

func (e *end) receive(now int64, seq uint32) engine.Drop {
	return e.receivePacket(now, &packet{seq})
}

func (e *end) next(now int64) {
	for {
		seq, item, ok := e.s.Next(now)
		if !ok {
			return
		}
		e.deliver(now, seq, item)
	}
}

func (e *end) expire(now int64) {
	e.s.Expire(now)
	e.next(now)
}

// account checks that every packet received is counted once.
func (e *end) account() {
	e.t.Helper()
	st := e.s.Stats
	if sum := st.Delivered + st.Late + st.Duplicate + st.Jumps + st.Full + st.Cleared + uint64(e.s.Held()); sum != st.Received {
		e.t.Errorf("received %d, accounted for %d: %+v, held %d", st.Received, sum, st, e.s.Held())
	}
}

func TestReceive(t *testing.T) {
	const late, dup, jump = engine.GRELate, engine.GREDuplicate, engine.GREJump
	type arrival struct {
		seq  uint32
		want engine.Drop
	}
	for _, tt := range []struct {
		name  string
		delay int64
		in    []arrival
		got   []uint32 // delivered before the deadline
		after []uint32 // and after it
	}{
		{"first number 0", 5 * ms, []arrival{{0, 0}, {1, 0}, {2, 0}}, []uint32{0, 1, 2}, nil},
		{"first number 1, as Linux", 5 * ms, []arrival{{1, 0}, {2, 0}}, []uint32{1, 2}, nil},
		{"first number arbitrary", 5 * ms, []arrival{{4e9, 0}, {4e9 + 1, 0}}, []uint32{4e9, 4e9 + 1}, nil},
		{"wrap", 5 * ms, []arrival{{1<<32 - 2, 0}, {1<<32 - 1, 0}, {0, 0}, {1, 0}}, []uint32{1<<32 - 2, 1<<32 - 1, 0, 1}, nil},
		{"swap", 5 * ms, []arrival{{0, 0}, {2, 0}, {1, 0}, {3, 0}}, []uint32{0, 1, 2, 3}, nil},
		{"swap over the wrap", 5 * ms, []arrival{{1<<32 - 2, 0}, {0, 0}, {1<<32 - 1, 0}, {1, 0}}, []uint32{1<<32 - 2, 1<<32 - 1, 0, 1}, nil},
		{"swap, no reordering", 0, []arrival{{0, 0}, {2, 0}, {1, late}, {3, 0}}, []uint32{0, 2, 3}, nil},
		{"loss", 5 * ms, []arrival{{0, 0}, {2, 0}, {3, 0}, {5, 0}}, []uint32{0}, []uint32{2, 3, 5}},
		{"duplicate of delivered", 5 * ms, []arrival{{0, 0}, {1, 0}, {0, dup}, {1, dup}}, []uint32{0, 1}, nil},
		{"duplicate of held", 5 * ms, []arrival{{0, 0}, {2, 0}, {2, dup}, {1, 0}}, []uint32{0, 1, 2}, nil},
		{"beyond the buffer", 5 * ms, []arrival{{0, 0}, {2, 0}, {40, 0}, {3, late}, {41, 0}}, []uint32{0, 2, 40, 41}, nil},
		{"large jump", 5 * ms, []arrival{{0, 0}, {5000, jump}, {1, 0}, {5001, 0}, {5002, 0}, {2, jump}}, []uint32{0, 1, 5001, 5002}, nil},
		{"large jump back", 5 * ms, []arrival{{9000, 0}, {5, jump}, {6, 0}, {7, 0}}, []uint32{9000, 6, 7}, nil},
		{"large jump with something held", 5 * ms, []arrival{{0, 0}, {2, 0}, {5000, jump}, {5001, 0}}, []uint32{0, 2, 5001}, nil},
	} {
		e := newEnd(t, config(tt.delay))
		for i, a := range tt.in {
			if d := e.receive(ms*int64(i+1)/10, a.seq); d != a.want {
				t.Errorf("%s: number %d: %v, want %v", tt.name, a.seq, d, a.want)
			}
			e.account()
		}
		if !slices.Equal(e.got, tt.got) {
			t.Errorf("%s: delivered %v, want %v", tt.name, e.got, tt.got)
		}
		e.got = nil
		if at := e.s.Deadline(); e.s.Held() > 0 && at > 6*ms {
			t.Errorf("%s: deadline %d with packets held", tt.name, at)
		}
		e.expire(10 * ms)
		if !slices.Equal(e.got, tt.after) {
			t.Errorf("%s: delivered %v after the deadline, want %v", tt.name, e.got, tt.after)
		}
		if n := e.s.cfg.Buffers.Out(); n != 0 {
			t.Errorf("%s: %d buffers still lent", tt.name, n)
		}
		e.account()
	}
}

// A packet waits no longer than the delay, and only those whose time has come
// are let go.
func TestExpireByAge(t *testing.T) {
	e := newEnd(t, config(5*ms))
	e.receive(1*ms, 0)
	e.receive(1*ms, 2)
	e.receive(4*ms, 4)
	if at := e.s.Deadline(); at != 1*ms+DefaultAckDelay {
		t.Errorf("deadline %d, want the delayed acknowledgment's", at)
	}
	e.s.PutAck(make([]byte, 16), 1)
	if at := e.s.Deadline(); at != 6*ms {
		t.Errorf("deadline %d, want %d", at, 6*ms)
	}
	e.expire(6*ms - 1)
	if !slices.Equal(e.got, []uint32{0}) {
		t.Errorf("delivered %v before the deadline", e.got)
	}
	e.expire(6 * ms)
	if !slices.Equal(e.got, []uint32{0, 2}) {
		t.Errorf("delivered %v at the first deadline, want 0 and 2", e.got)
	}
	if e.s.Held() != 1 {
		t.Errorf("%d held, want 1", e.s.Held())
	}
	e.expire(9 * ms)
	if !slices.Equal(e.got, []uint32{0, 2, 4}) || e.s.Stats.Lost != 2 {
		t.Errorf("delivered %v, lost %d; want 0, 2, 4 and 2 lost", e.got, e.s.Stats.Lost)
	}
}

// Forged packets, wherever they point, cost at most the genuine packet whose
// number they took, and that only while it waits for its turn.
func TestForged(t *testing.T) {
	for _, delay := range []int64{0, 5 * ms} {
		for _, at := range []uint32{0, 1, 2, 5, 15, 16, 17, 500, 1024, 1025, 1 << 20, 1 << 30, 1<<31 - 1, 1 << 31, 1<<32 - 2, 1<<32 - 100, 1<<32 - 5000} {
			for _, run := range []int{1, 2, 3, 10} {
				e := newEnd(t, config(delay))
				now := ms
				for seq := range uint32(20) {
					e.receive(now, seq)
				}
				for i := range run {
					p := &packet{20 + at + uint32(i)}
					e.forged[p] = true
					e.receivePacket(now, p)
				}
				now += ms / 10
				lost := 0
				for seq := uint32(20); seq < 60; seq++ {
					if d := e.receive(now, seq); d == engine.GRELate || d == engine.GREJump {
						t.Errorf("delay %d, %d forged %d ahead: genuine %d dropped as %v", delay, run, at, seq, d)
					} else if d != engine.Pass {
						lost++
					}
					now += ms / 10
					e.expire(now)
				}
				e.expire(now + 10*ms)
				if lost > run {
					t.Errorf("delay %d, %d forged %d ahead: %d genuine packets lost", delay, run, at, lost)
				}
				if !slices.IsSorted(e.got) {
					t.Errorf("delay %d, %d forged %d ahead: delivered %v", delay, run, at, e.got)
				}
				e.account()
			}
		}
	}
}

// A forged packet that expires out of the buffer while the line is quiet must
// not move the delivery point.
func TestForgedExpires(t *testing.T) {
	e := newEnd(t, config(5*ms))
	e.receive(ms, 0)
	p := &packet{12}
	e.forged[p] = true
	e.receivePacket(2*ms, p)
	e.expire(20 * ms)
	for seq := uint32(1); seq < 30; seq++ {
		if d := e.receive(30*ms+int64(seq), seq); d != engine.Pass {
			t.Errorf("genuine %d: %v", seq, d)
		}
	}
	if len(e.got) != 30 || e.s.Stats.Lost != 0 {
		t.Errorf("delivered %v, lost %d", e.got, e.s.Stats.Lost)
	}
}

// The whole burst goes through Receive before anything is confirmed, as it
// does in front of a batch cipher.
func TestForgedInBurst(t *testing.T) {
	for _, ahead := range []uint32{3, 100, 1 << 30} {
		cfg := config(0)
		var s State
		s.Init(cfg, 64, 0)
		type verdict struct {
			seq  uint32
			sane bool
		}
		var out []verdict
		in := func(seq uint32, sane bool) {
			if _, d := s.Receive(ms, seq, &packet{seq}); d == engine.Pass {
				out = append(out, verdict{seq, sane})
			}
		}
		for seq := range uint32(10) {
			in(seq, true)
		}
		in(9+ahead, false)
		in(10+ahead, false)
		for seq := uint32(10); seq < 20; seq++ {
			in(seq, true)
		}
		for _, v := range out {
			s.Confirm(ms, v.seq, v.sane)
		}
		out = nil
		for seq := uint32(20); seq < 30; seq++ {
			in(seq, true)
		}
		if len(out) != 10 || s.next != 30 {
			t.Errorf("forged %d ahead: of the ten packets after the burst %d were taken, next is %d", ahead, len(out), s.next)
		}
	}
}

// A jump that no one ever judges is forgotten, and reordering goes on.
func TestUnconfirmed(t *testing.T) {
	e := newEnd(t, config(5*ms))
	e.receive(ms, 0)
	for seq := uint32(1 << 30); seq < 1<<30+3; seq++ {
		e.s.Receive(ms, seq, &packet{seq})
	}
	now := 100 * ms
	for _, seq := range []uint32{2, 1, 4, 3} {
		if d := e.receive(now, seq); d != engine.Pass {
			t.Errorf("genuine %d: %v", seq, d)
		}
	}
	if !slices.Equal(e.got, []uint32{0, 1, 2, 3, 4}) {
		t.Errorf("delivered %v", e.got)
	}
}

// Of a burst that is judged only afterwards, what came behind a later packet
// is refused when it is about to be handed on, and counted once, as late.
func TestHandOn(t *testing.T) {
	e := newEnd(t, config(0))
	for _, seq := range []uint32{0, 5, 4, 6} {
		if _, d := e.s.Receive(ms, seq, &packet{seq}); d != engine.Pass {
			t.Fatalf("%d: %v before anything was judged", seq, d)
		}
	}
	for _, tt := range []struct {
		seq  uint32
		want bool
	}{{0, true}, {5, true}, {4, false}, {5, false}, {6, true}} {
		if got := e.s.HandOn(tt.seq); got != tt.want {
			t.Errorf("number %d handed on: %v, want %v", tt.seq, got, tt.want)
		}
	}
	if st := e.s.Stats; st.Late != 2 || st.Delivered != 2 {
		t.Errorf("late %d, delivered %d; want 2 and 2", st.Late, st.Delivered)
	}
}

// A forged number that passed for genuine has moved the delivery point ahead:
// a run of what then seems late brings it back, a shorter or broken run not.
func TestFallBack(t *testing.T) {
	for _, delay := range []int64{0, 5 * ms} {
		e := newEnd(t, config(delay))
		for seq := range uint32(10) {
			e.receive(ms, seq)
		}
		e.receive(ms, 500) // judged sane
		e.expire(20 * ms)
		if e.s.next != 501 {
			t.Fatalf("delay %d: next is %d, want 501", delay, e.s.next)
		}
		for i := range uint32(3 * lagLimit) { // every other number: no run
			if d := e.receive(20*ms, 10+2*i); d != engine.GRELate {
				t.Errorf("delay %d: number %d of a broken run: %v", delay, 10+2*i, d)
			}
		}
		for i := range uint32(30) {
			want := engine.Pass
			if i < lagLimit-1 {
				want = engine.GRELate
			}
			if d := e.receive(30*ms, 100+i); d != want {
				t.Errorf("delay %d: number %d of the run: %v, want %v", delay, i, d, want)
			}
		}
		e.account()
	}
}

// Runs of old packets sent again take the delivery point back without proof.
// Good traffic must get over that: none of it is dropped.
func TestFallBackReplayed(t *testing.T) {
	for _, delay := range []int64{0, 5 * ms} {
		for _, back := range []uint32{70, 100, 500, 1000} {
			e := newEnd(t, config(delay))
			now := ms
			seq := uint32(0)
			for ; seq < 2000; seq++ {
				e.receive(now, seq)
			}
			for range 20 {
				for i := range uint32(lagLimit + 3) {
					p := &packet{seq - back + i}
					e.forged[p] = true
					e.receivePacket(now, p)
				}
				for range 5 {
					now += ms / 10
					if d := e.receive(now, seq); d != engine.Pass {
						t.Errorf("delay %d, %d back: genuine %d: %v", delay, back, seq, d)
					}
					seq++
				}
				now += 10 * ms
				e.expire(now)
			}
			for i := 1; i < len(e.got); i++ {
				if e.got[i] != e.got[i-1]+1 {
					t.Errorf("delay %d, %d back: delivered %d after %d", delay, back, e.got[i], e.got[i-1])
				}
			}
			if e.s.Held() != 0 || uint32(len(e.got)) != seq {
				t.Errorf("delay %d, %d back: %d delivered of %d", delay, back, len(e.got), seq)
			}
			e.account()
		}
	}
}

func TestClear(t *testing.T) {
	e := newEnd(t, config(5*ms))
	e.receive(ms, 0)
	for _, seq := range []uint32{5, 3, 9} {
		e.receive(ms, seq)
	}
	var got []uint32
	e.s.Clear(func(it any) { got = append(got, it.(*packet).seq) })
	if !slices.Equal(got, []uint32{3, 5, 9}) || e.s.Held() != 0 || e.s.cfg.Buffers.Out() != 0 {
		t.Errorf("cleared %v, held %d, buffers out %d", got, e.s.Held(), e.s.cfg.Buffers.Out())
	}
	e.s.Clear(func(any) { t.Error("something was held after Clear") })
	e.account()
}

// A worker that has lent all its buffers delivers at once instead of dropping.
func TestBuffersBounded(t *testing.T) {
	cfg := &Config{Window: 64, ReorderDelay: 5 * ms, Buffers: NewBuffers(1, 8)}
	a, b := newEnd(t, cfg), newEnd(t, cfg)
	for _, e := range []*end{a, b} {
		e.receive(ms, 0)
		e.receive(ms, 2)
	}
	if a.s.Held() != 1 || b.s.Held() != 0 || !slices.Equal(b.got, []uint32{0, 2}) {
		t.Errorf("held %d and %d, second delivered %v", a.s.Held(), b.s.Held(), b.got)
	}
	a.receive(ms, 1)
	b.receive(ms, 4)
	if b.s.Held() != 1 || cfg.Buffers.Out() != 1 {
		t.Errorf("the buffer given back was not lent again: held %d, out %d", b.s.Held(), cfg.Buffers.Out())
	}
}

func TestAcks(t *testing.T) {
	e := newEnd(t, &Config{Window: 40, AckDelay: 3 * ms})
	buf := make([]byte, wire.GREMaxLen)
	if n := e.s.PutAck(buf, 9); n != 0 || e.s.AckDue(ms, true) {
		t.Errorf("an acknowledgment of nothing: %d bytes", n)
	}
	if n := e.s.HeaderLen(); n != 12 {
		t.Errorf("header %d bytes with nothing to acknowledge, want 12", n)
	}
	e.receive(ms, 1)
	if e.s.AckDue(4*ms-1, true) {
		t.Error("one packet acknowledged before the delay")
	}
	if at := e.s.Deadline(); at != 4*ms || !e.s.AckDue(at, false) {
		t.Errorf("deadline %d, due %v; want %d, true", at, e.s.AckDue(at, false), 4*ms)
	}
	g, d := wire.ParseGRE(buf[:e.s.PutAck(buf, 9)])
	if d != engine.Pass || g.HasSeq() || !g.HasAck() || g.Ack() != 1 || g.CallID() != 9 || g.PayloadLen() != 0 {
		t.Errorf("acknowledgment %x, %v", []byte(g), d)
	}
	if e.s.Deadline() != NoDeadline || e.s.AckDue(9*ms, true) {
		t.Error("acknowledged, and still due")
	}
	for seq := uint32(2); seq < 2+10; seq++ {
		if due := e.s.AckDue(5*ms, false); due {
			t.Errorf("due after %d packets, want a quarter of 40", seq-2)
		}
		e.receive(5*ms, seq)
	}
	if !e.s.AckDue(5*ms, false) {
		t.Error("a quarter of the window is unacknowledged, and nothing is due")
	}
	n := e.s.PutHeader(5*ms, buf, 7, 100)
	g = wire.GRE(buf[:n])
	if n != 16 || g.Ack() != 11 || !g.HasAck() || g.Seq() != 0 || g.PayloadLen() != 100 || g.CallID() != 7 {
		t.Errorf("data header %x", buf[:n])
	}
	for seq := uint32(12); seq < 20; seq++ {
		e.receive(6*ms, seq)
	}
	if e.s.AckDue(6*ms, false) || !e.s.AckDue(6*ms, true) {
		t.Error("eight packets: want an acknowledgment at the end of the burst, not before")
	}
}

// A tentative packet is not acknowledged before it is confirmed.
func TestAckNotTentative(t *testing.T) {
	var s State
	s.Init(config(0), 64, 0)
	buf := make([]byte, 16)
	s.Receive(ms, 0, nil)
	s.Receive(ms, 700, nil)
	s.PutAck(buf, 1)
	if a := wire.GRE(buf[:12]).Ack(); a != 0 {
		t.Errorf("acknowledged %d, want 0", a)
	}
	s.Confirm(ms, 700, true)
	s.PutAck(buf, 1)
	if a := wire.GRE(buf[:12]).Ack(); a != 700 {
		t.Errorf("acknowledged %d, want 700", a)
	}
}

func TestFirstNumberSent(t *testing.T) {
	for _, first := range []uint32{0, 1, 1<<32 - 1} {
		var s State
		s.Init(&Config{First: first}, 64, 0)
		buf := make([]byte, 16)
		for i := range uint32(3) {
			s.PutHeader(ms, buf, 1, 0)
			if got := wire.GRE(buf[:12]).Seq(); got != first+i {
				t.Errorf("first %d: packet %d has number %d", first, i, got)
			}
		}
		if s.Outstanding() != 3 {
			t.Errorf("outstanding %d, want 3", s.Outstanding())
		}
		s.Acked(2*ms, first+1)
		s.Acked(2*ms, first) // old
		s.Acked(2*ms, first+3)
		if s.Outstanding() != 1 || s.Stats.BadAcks != 1 || s.Stats.AcksRecv != 1 {
			t.Errorf("first %d: outstanding %d, bad %d, acks %d; want 1, 1, 1", first, s.Outstanding(), s.Stats.BadAcks, s.Stats.AcksRecv)
		}
	}
}

// §4.2.1 to §4.2.3: half the peer's window at first, one more with every
// window acknowledged, half on a time-out.
func TestWindow(t *testing.T) {
	cfg := &Config{LimitWindow: true, MinTimeout: 10 * ms, MaxTimeout: 80 * ms}
	var s State
	s.Init(cfg, 9, 20*ms)
	buf := make([]byte, 16)
	now := ms
	fill := func() (n int) {
		for s.CanSend() {
			s.PutHeader(now, buf, 1, 0)
			n++
		}
		return n
	}
	for want := 5; want <= 9; want++ {
		if n := fill(); n != want {
			t.Fatalf("window lets %d packets go, want %d", n, want)
		}
		now += 5 * ms
		s.Acked(now, s.sendNext-1)
		if s.Deadline() != NoDeadline {
			t.Error("a timer runs with nothing outstanding")
		}
	}
	if n := fill(); n != 9 {
		t.Errorf("window lets %d packets go, want the peer's 9", n)
	}
	before := s.Snapshot()
	at := s.Deadline()
	if at != now+before.Timeout {
		t.Errorf("times out at %d, want %d", at, now+before.Timeout)
	}
	s.Expire(at - 1)
	if s.CanSend() {
		t.Error("timed out early")
	}
	s.Expire(at)
	after := s.Snapshot()
	if after.Window != 5 || after.Outstanding != 0 || after.RTT != 2*before.RTT || after.Deviation != before.Deviation || after.Timeouts != 1 {
		t.Errorf("after the time-out %+v, before %+v", after, before)
	}
	for range 10 {
		fill()
		now = s.Deadline()
		s.Expire(now)
	}
	if sn := s.Snapshot(); sn.Window != 1 || sn.Timeout != 80*ms {
		t.Errorf("after ten time-outs window %d, time-out %d; want 1 and the maximum", sn.Window, sn.Timeout)
	}
}

// §4.4.1, computed by hand from RTT 80, DEV 0.
func TestEstimates(t *testing.T) {
	var s State
	s.Init(&Config{MinTimeout: 1 * ms}, 9, 80*ms)
	buf := make([]byte, 16)
	for i, tt := range []struct{ sample, rtt, dev, ato int64 }{
		{40, 75 * ms, 10 * ms, 115 * ms},
		{115, 80 * ms, 17500000, 150 * ms},
	} {
		now := int64(i+1) * 1000 * ms
		s.PutHeader(now, buf, 1, 0)
		s.Acked(now+tt.sample*ms, uint32(i))
		if sn := s.Snapshot(); sn.RTT != tt.rtt || sn.Deviation != tt.dev || sn.Timeout != tt.ato {
			t.Errorf("after sample %d: RTT %d DEV %d ATO %d, want %d %d %d", tt.sample, sn.RTT, sn.Deviation, sn.Timeout, tt.rtt, tt.dev, tt.ato)
		}
	}
}

func TestSizeAndAllocations(t *testing.T) {
	if n := unsafe.Sizeof(State{}) - unsafe.Sizeof(Stats{}); n > 160 {
		t.Errorf("State without counters: %d bytes", n)
	}
	e := config(5 * ms)
	var s State
	s.Init(e, 64, 0)
	p := &packet{}
	buf := make([]byte, 16)
	now, seq := ms, uint32(0)
	pass := func() {
		for _, d := range [...]uint32{0, 2, 1, 5, 4, 3, 6, 6, 2} {
			s.Receive(now, seq+d, p)
			for {
				n, _, ok := s.Next(now)
				if !ok {
					break
				}
				s.Confirm(now, n, true)
			}
		}
		seq += 8 // one is lost
		now += 10 * ms
		s.Expire(now)
		s.PutHeader(now, buf, 1, 10)
		s.Acked(now, s.sendNext-1)
		s.AckDue(now, true)
		s.PutAck(buf, 1)
		s.Deadline()
	}
	pass()
	if n := testing.AllocsPerRun(100, pass); n != 0 {
		t.Errorf("%v allocations a pass", n)
	}
}

// link is a bad link: packets by arrival time.
type flight struct {
	at int64
	b  []byte
}

// TestSimulation runs both ends of a call over links that lose, reorder,
// duplicate and delay. What comes out is in order, unduplicated and accounted
// for; with a delay that covers the link's jitter nothing that arrived is
// lost.
func TestSimulation(t *testing.T) {
	seeds := 300
	if testing.Short() {
		seeds = 30
	}
	for seed := range seeds {
		simulate(t, uint64(seed))
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func simulate(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 7))
	delay := []int64{0, 3 * ms, 20 * ms}[r.IntN(3)]
	loss, dup := r.Float64()*0.3, r.Float64()*0.1
	jitter := int64(r.IntN(10)) * ms
	limit := r.IntN(2) == 0
	first := []uint32{0, 1, 1<<32 - 50, r.Uint32()}[r.IntN(4)]
	cfg := &Config{First: first, Window: 32, ReorderDelay: delay, Buffers: NewBuffers(2, 64), LimitWindow: limit, MinTimeout: 20 * ms, MaxTimeout: 200 * ms}
	ends := [2]*end{newEnd(t, cfg), newEnd(t, cfg)}
	var links [2][]flight // links[i]: towards ends[i]
	arrived := [2]map[uint32]bool{{}, {}}
	now := ms
	send := func(to int, b []byte) {
		for n := 1; n > 0; n-- {
			if r.Float64() >= loss {
				f := flight{now + 5*ms, slices.Clone(b)}
				if jitter > 0 {
					f.at += r.Int64N(jitter)
				}
				links[to] = append(links[to], f)
			}
			if r.Float64() < dup {
				n++
			}
		}
	}
	buf := make([]byte, 16)
	for step := range 3000 {
		now += ms / 4
		for i, e := range ends {
			if step < 2500 && r.IntN(3) == 0 && e.s.CanSend() {
				n := e.s.HeaderLen()
				if e.s.PutHeader(now, buf, 5, 0) != n {
					t.Fatal("HeaderLen and PutHeader differ")
				}
				send(1-i, buf[:n])
			}
			slices.SortStableFunc(links[i], func(a, b flight) int { return int(a.at - b.at) })
			for len(links[i]) > 0 && links[i][0].at <= now {
				g, d := wire.ParseGRE(links[i][0].b)
				links[i] = links[i][1:]
				if d != engine.Pass {
					t.Fatal(d)
				}
				if g.HasAck() {
					e.s.Acked(now, g.Ack())
				}
				if g.HasSeq() {
					arrived[i][g.Seq()-first] = true
					e.receive(now, g.Seq())
				}
			}
			if e.s.Deadline() <= now {
				e.expire(now)
			}
			if e.s.AckDue(now, true) {
				send(1-i, buf[:e.s.PutAck(buf, 5)])
			}
			if e.s.Deadline() <= now {
				t.Fatalf("deadline %d at %d after everything due was done", e.s.Deadline(), now)
			}
		}
	}
	for i, e := range ends {
		for k := 1; k < len(e.got); k++ {
			if int32(e.got[k]-e.got[k-1]) <= 0 {
				t.Fatalf("delivered %d after %d", e.got[k], e.got[k-1])
			}
		}
		e.account()
		if e.s.Held() != 0 {
			t.Errorf("%d still held", e.s.Held())
		}
		for n := range arrived[i] { // what was sent before the first that came is late by rights
			if int32(n+first-e.got[0]) < 0 {
				delete(arrived[i], n)
			}
		}
		if delay > jitter && len(e.got) != len(arrived[i]) {
			t.Errorf("delay %d, jitter %d: %d numbers arrived, %d delivered: %+v", delay, jitter, len(arrived[i]), len(e.got), e.s.Stats)
		}
		if uint64(len(e.got)) != e.s.Stats.Delivered || len(e.got) == 0 {
			t.Errorf("delivered %d, counted %d", len(e.got), e.s.Stats.Delivered)
		}
		if o := ends[1-i]; e.s.Stats.BadAcks != 0 {
			t.Errorf("%d acknowledgments of numbers never sent (peer at %d)", e.s.Stats.BadAcks, o.s.sendNext)
		}
	}
}

// FuzzReceive feeds arbitrary numbers, times and verdicts. Whatever comes,
// every packet is accounted for, nothing is handed out twice, and what is
// confirmed between two jumps comes in order.
func FuzzReceive(f *testing.F) {
	f.Add([]byte{0, 0, 1, 0, 2, 0, 1, 1, 200, 3, 5, 7})
	f.Add([]byte{1, 255, 1, 255, 0, 254, 3, 1, 2, 9, 9, 9})
	f.Fuzz(func(t *testing.T, b []byte) {
		var s State
		cfg := &Config{Window: 8, ReorderDelay: 5 * ms, Buffers: NewBuffers(1, 8), MaxJump: 64}
		s.Init(cfg, 8, 0)
		now, seq := ms, uint32(1<<32-4)
		out := map[*packet]bool{}
		give := func(p *packet, sane bool) {
			if out[p] {
				t.Fatalf("number %d handed out twice", p.seq)
			}
			out[p] = true
			s.Confirm(now, p.seq, sane)
		}
		for len(b) >= 2 {
			op, arg := b[0], b[1]
			b = b[2:]
			switch op % 8 {
			case 0, 1:
				seq += uint32(int8(arg))
			case 2:
				seq += uint32(int8(arg)) << 24
			case 3:
				now += int64(arg) * ms / 16
				s.Expire(now)
			case 4:
				s.Clear(func(it any) { out[it.(*packet)] = true })
			default:
				seq++
			}
			p := &packet{seq}
			if held, d := s.Receive(now, seq, p); d == engine.Pass && !held {
				give(p, op < 200)
			}
			for n := 0; ; n++ {
				q, it, ok := s.Next(now)
				if !ok {
					break
				}
				if n > 16 || it.(*packet).seq != q {
					t.Fatalf("item %d of number %d", n, q)
				}
				give(it.(*packet), op < 220)
			}
			st := s.Stats
			if sum := st.Delivered + st.Late + st.Duplicate + st.Jumps + st.Full + st.Cleared + uint64(s.Held()); sum != st.Received {
				t.Fatalf("received %d, accounted for %d", st.Received, sum)
			}
			if s.Held() == 0 && cfg.Buffers.Out() != 0 {
				t.Fatal("a buffer lent for nothing")
			}
			if s.Held() > 0 && s.reorderAt == 0 {
				t.Fatal("packets held without a deadline")
			}
		}
	})
}
