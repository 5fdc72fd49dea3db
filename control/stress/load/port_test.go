package load

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"xpptp/engine/traffic"
	"xpptp/rings"
)

// bench is a load with one or more ports, driven by hand under a clock of its own.
type bench struct {
	t     testing.TB
	l     *Load
	ports []*Port
	pools []*rings.Pool
	now   int64
	// link makes of a packet that was sent those that come back, in order; nil: all at once.
	link func(ip []byte) [][]byte
	// sent is called with every packet before that; may be nil.
	sent func(ip []byte)
}

const benchFrames = 2048

func newBench(t testing.TB, workers int) *bench {
	b := &bench{t: t, now: 1e9}
	var err error
	if b.l, err = New(Config{Workers: workers, Clock: func() int64 { return b.now }, ClockID: 7, Seed: 3}); err != nil {
		t.Fatal(err)
	}
	for w := range workers {
		pool := rings.NewPoolN(benchFrames, rings.ChunkSmall)
		port, err := b.l.Inside(w, pool)
		if err != nil {
			t.Fatal(err)
		}
		b.ports, b.pools = append(b.ports, port.(*Port)), append(b.pools, pool)
	}
	t.Cleanup(func() {
		for w, p := range b.ports {
			for range 2 {
				if err := p.Close(); err != nil {
					t.Error(err)
				}
			}
			if pool := b.pools[w]; pool.Free() != pool.Size() {
				t.Errorf("%d frames of %d are back", pool.Free(), pool.Size())
			}
		}
	})
	return b
}

// call adds call i, on the worker whose turn it is.
func (b *bench) call(i int) *Call {
	b.t.Helper()
	c, err := b.l.Add(CallConfig{
		Worker: i % len(b.ports), Room: 1400, Tag: i,
		V4: netip.AddrFrom4([4]byte{10, 64, byte(i >> 8), byte(i)}), Far4: netip.MustParseAddrPort("10.99.0.1:7007"),
		V6: netip.MustParseAddr(fmt.Sprintf("fe80::1:%x", i)), Far6: netip.MustParseAddrPort("[fe80::1]:7007"),
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}

func (b *bench) start(length time.Duration, ps ...Profile) {
	b.t.Helper()
	if err := b.l.Start(ps, length); err != nil {
		b.t.Fatal(err)
	}
}

// reflect turns a packet round in place, as a server's reflect port does.
func reflect(ip []byte) {
	a, n := 12, 4
	if ip[0]>>4 == 6 {
		a, n = 8, 16
	}
	for i := range n {
		ip[a+i], ip[a+n+i] = ip[a+n+i], ip[a+i]
	}
	u := a + 2*n
	ip[u], ip[u+1], ip[u+2], ip[u+3] = ip[u+2], ip[u+3], ip[u], ip[u+1]
}

// step is a turn of each worker's loop. It returns how many packets were sent.
func (b *bench) step() (sent int) {
	var fs [64]*rings.Frame
	for w, p := range b.ports {
		n, err := p.Recv(fs[:])
		if err != nil {
			b.t.Fatal(err)
		}
		sent += n
		for _, f := range fs[:n] {
			if b.sent != nil {
				b.sent(f.Data())
			}
			reflect(f.Data())
			if b.link == nil {
				b.give(p, f)
				continue
			}
			for _, ip := range b.link(f.Data()) {
				back := b.pools[w].Get()
				back.Set(ip)
				b.give(p, back)
			}
			f.Free()
		}
	}
	return sent
}

func (b *bench) give(p *Port, f *rings.Frame) {
	if k, err := p.Send([]*rings.Frame{f}); k != 1 || err != nil {
		b.t.Fatalf("Send took %d of 1: %v", k, err)
	}
}

// run lets time go by, in steps.
func (b *bench) run(d, step time.Duration) {
	for end := b.now + int64(d); b.now < end; b.now += int64(step) {
		b.step()
	}
}

// await runs f, which needs the workers, while they work.
func await[T any](b *bench, f func(context.Context) (T, error)) T {
	b.t.Helper()
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		v, err := f(context.Background())
		done <- result{v, err}
	}()
	for {
		select {
		case r := <-done:
			if r.err != nil {
				b.t.Fatal(r.err)
			}
			return r.v
		default:
			b.step()
		}
	}
}

func (b *bench) snapshot() *Snapshot { b.t.Helper(); return await(b, b.l.Snapshot) }

// final is the counts at the end, everything settled.
func (b *bench) final() *Snapshot {
	b.t.Helper()
	return await(b, func(ctx context.Context) (*Snapshot, error) { return b.l.gather(ctx, true) })
}

// As many packets leave as were asked for, none before it is due, at any rate.
func TestPacing(t *testing.T) {
	for _, c := range []struct {
		name    string
		calls   int
		workers int
		p       Profile
		want    float64 // packets in a second
	}{
		{"100/s", 1, 1, Profile{Schedule: traffic.Schedule{Rate: 100}}, 100},
		{"1000 calls at 10/s", 1000, 1, Profile{Schedule: traffic.Schedule{Rate: 10}}, 10_000},
		{"2 calls at 50,000/s", 2, 1, Profile{Schedule: traffic.Schedule{Rate: 50_000}}, 100_000},
		{"500,000/s of all", 7, 1, Profile{Schedule: traffic.Schedule{Rate: 500_000}, Total: true}, 500_000},
		{"50,000/s of 3 workers", 10, 3, Profile{Schedule: traffic.Schedule{Rate: 50_000}, Total: true}, 50_000},
		{"1.024 Mbit/s", 1, 1, Profile{Schedule: traffic.Schedule{Rate: 1.024e6, Unit: traffic.Bits}}, 1000}, // of 128 bytes
		{"10.24 Mbit/s of all", 4, 2, Profile{Schedule: traffic.Schedule{Rate: 10.24e6, Unit: traffic.Bits}, Total: true}, 10_000},
		{"bursts", 3, 1, Profile{Schedule: traffic.Schedule{Rate: 500, Burst: 50}}, 1500},
		{"bursts in step", 3, 1, Profile{Schedule: traffic.Schedule{Rate: 500, Burst: 50}, Sync: true}, 1500},
		{"ramp", 2, 1, Profile{Schedule: traffic.Schedule{Rate: 100, To: 1900, Over: time.Second}, Sync: true}, 2000},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, c.workers)
			for i := range c.calls {
				b.call(i)
			}
			sent, perCall := 0, map[netip.Addr]int{}
			var worst int64
			b.sent = func(ip []byte) {
				p, _ := traffic.Judge(ip)
				if p.Stamp.Due() > b.now {
					t.Fatalf("sent %d ns before it was due", p.Stamp.Due()-b.now)
				}
				worst = max(worst, b.now-p.Stamp.Due())
				perCall[p.Path.Src.Addr()]++
				sent++
			}
			c.p.Sizes = traffic.Fixed(128)
			length := time.Second
			if testing.Short() && c.p.Schedule.Over == 0 {
				length /= 5
				c.want /= 5
			}
			b.start(length, c.p)
			const step = 50 * time.Microsecond
			b.run(length+50*time.Millisecond, step)
			if math.Abs(float64(sent)-c.want) > max(1, c.want*1e-3) {
				t.Errorf("%d packets in %v, want %v", sent, length, c.want)
			}
			// Within a step, but for bursts of more than one Recv.
			if limit := int64(step) * int64(1+c.calls*c.p.Schedule.Burst/64); worst > limit {
				t.Errorf("sent up to %d ns after it was due, want at most %d", worst, limit)
			}
			least, most := math.MaxInt, 0
			for _, n := range perCall {
				least, most = min(least, n), max(most, n)
			}
			if len(perCall) != c.calls || most-least > max(1, c.p.Schedule.Burst) {
				t.Errorf("%d calls of %d had packets, %d to %d each", len(perCall), c.calls, least, most)
			}
			s := b.final()
			if n := &s.Traffic; n.Sent != uint64(sent) || n.Received != n.Sent || n.Missing != 0 || s.Sending != 0 || s.Sender != (Sender{}) {
				t.Errorf("%d sent, counted %+v, %+v, %d still sending", sent, n, s.Sender, s.Sending)
			}
			if got := s.Times.Late.TotalCount(); got != int64(sent) {
				t.Errorf("%d times in the histogram for %d packets", got, sent)
			}
		})
	}
}

// The calls' packets are spread: no two within much less than their mean distance.
func TestSpread(t *testing.T) {
	b := newBench(t, 1)
	const calls = 100
	for i := range calls {
		b.call(i)
	}
	var last, closest int64 = 0, math.MaxInt64
	b.sent = func(ip []byte) {
		p, _ := traffic.Judge(ip)
		closest = min(closest, p.Stamp.Due()-last)
		last = p.Stamp.Due()
	}
	b.start(time.Second, Profile{Schedule: traffic.Schedule{Rate: 10}, Sizes: traffic.Fixed(64)})
	b.run(1100*time.Millisecond, 10*time.Microsecond)
	if even := int64(time.Second) / 10 / calls; closest < even/4 {
		t.Errorf("two packets %d ns from each other, where %d is even", closest, even)
	}
}

// A worker that was away sends what is late, and counts it; what is too late it
// leaves out, and counts that.
func TestLate(t *testing.T) {
	b := newBench(t, 1)
	b.call(0)
	b.start(10*time.Second, Profile{Schedule: traffic.Schedule{Rate: 10_000}, Sizes: traffic.Fixed(64)})
	b.run(time.Second, 50*time.Microsecond)
	before := b.snapshot()
	b.now += int64(50 * time.Millisecond) // 500 packets, 490 of them more than 1 ms late
	for b.step() > 0 {
	}
	s := b.snapshot()
	if late := s.Sender.Late; late < 480 || late > 491 || s.Sender.Skipped != 0 {
		t.Errorf("after 50 ms away: %+v, want 490 late", s.Sender)
	}
	if sent := s.Traffic.Sent - before.Traffic.Sent; sent < 499 || sent > 501 {
		t.Errorf("%d caught up with, want 500", sent)
	}
	// From when they were due the replies took long, though not from when they were sent.
	if due, sent := s.Times.RoundDue.Max(), s.Times.Round.Max(); due < 45e6 || sent > 1e6 {
		t.Errorf("round trips took up to %d ns since due, %d since sent", due, sent)
	}
	b.now += int64(time.Second) // 10,000 packets; 100 ms of them are sent
	for b.step() > 0 {
	}
	s = b.snapshot()
	if n := s.Sender.Skipped; n < 8990 || n > 9010 {
		t.Errorf("after a second away %d were left out, want 9000", n)
	}
	b.run(9*time.Second, 500*time.Microsecond)
	s = b.final()
	if all := s.Traffic.Sent + s.Sender.Skipped; all < 99_990 || all > 100_001 {
		t.Errorf("%d sent and left out, want 100,000", all)
	}
}

// What a bad link does is found out, to the packet.
func TestBadLink(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		b := newBench(t, 2)
		for i := range 6 {
			b.call(i)
		}
		rnd := rand.New(rand.NewPCG(1, 2))
		var lost, doubled, changed, foreign uint64
		held := map[int][]byte{} // per call: a packet that waits to be overtaken
		var reordered uint64
		b.link = func(ip []byte) (back [][]byte) {
			p, _ := traffic.Judge(ip)
			call := int(p.Stamp.Stream())
			cp := append([]byte(nil), ip...)
			switch r := rnd.IntN(100); {
			case r < 5:
				lost++
				return nil
			case r < 8:
				doubled++
				back = [][]byte{cp, cp}
			case r < 11:
				changed++
				lost++
				cp[len(cp)-1-rnd.IntN(traffic.StampLen-12)] ^= 1 << rnd.IntN(8) // not of what says whose it is
				return [][]byte{cp}
			case r < 12:
				foreign++
				return [][]byte{cp, {0x45, 0, 0}}
			case r < 20 && held[call] == nil:
				held[call] = cp
				return nil
			default:
				back = [][]byte{cp}
			}
			if h := held[call]; h != nil {
				reordered++
				held[call] = nil
				back = append(back, h)
			}
			return back
		}
		b.start(2*time.Second, Profile{Schedule: traffic.Schedule{Rate: 3000}, Sizes: traffic.Fixed(100), V6: v6})
		b.run(3*time.Second, 100*time.Microsecond)
		for _, h := range held { // they never came
			if h != nil {
				lost++
			}
		}
		s := b.final()
		n := &s.Traffic
		if n.Sent != 36_000 || n.Lost() != lost || n.Missing != lost || n.Duplicated != doubled || n.Corrupted+s.Sender.Broken != changed ||
			n.Reordered != reordered || s.Sender.Foreign != foreign || s.Sender.Strays != 0 {
			t.Errorf("IPv6 %v: %+v %+v\nwant lost %d, duplicated %d, corrupted %d, reordered %d, foreign %d", v6, n, s.Sender, lost, doubled, changed, reordered, foreign)
		}
		if n.Gaps == 0 || n.LongestGap == 0 {
			t.Errorf("no gaps in %+v", n)
		}
		var sum traffic.Counts
		tags := map[any]bool{}
		for _, st := range await(b, b.l.Streams) {
			sum.Add(&st.Counts)
			tags[st.Tag] = true
		}
		if sum != *n || len(tags) != 6 {
			t.Errorf("the streams of %d calls add up to %+v\nwant %+v", len(tags), sum, *n)
		}
	}
}

// Calls come and go: the rate of all together stays, and what comes back to
// those that are gone is none of the others'.
func TestCallsComeAndGo(t *testing.T) {
	b := newBench(t, 2)
	var calls []*Call
	for i := range 10 {
		calls = append(calls, b.call(i))
	}
	var wait [][]byte // what is under way
	b.link = func(ip []byte) [][]byte {
		wait = append(wait, append([]byte(nil), ip...))
		if len(wait) < 50 {
			return nil
		}
		first := wait[0]
		wait = wait[1:]
		return [][]byte{first}
	}
	sent := 0
	b.sent = func([]byte) { sent++ }
	b.start(10*time.Second, Profile{Schedule: traffic.Schedule{Rate: 5000}, Total: true, Sizes: traffic.IMIX()},
		Profile{Schedule: traffic.Schedule{Rate: 10}, Sizes: traffic.Fixed(84), V6: true})
	b.run(time.Second, 250*time.Microsecond)
	for i := range 9 { // one is left, on one worker
		b.l.Remove(calls[i])
		b.l.Remove(calls[i])
		b.run(100*time.Millisecond, 250*time.Microsecond)
	}
	sent = 0
	b.run(time.Second, 250*time.Microsecond)
	if sent < 5000 || sent > 5020 {
		t.Errorf("one call sends %d packets a second, want 5010", sent)
	}
	s := b.snapshot()
	if s.Streams != 2 || s.Sender.Strays == 0 {
		t.Errorf("%d streams of one call; %d strays of those that are gone", s.Streams, s.Sender.Strays)
	}
	b.l.Remove(calls[9])
	b.run(100*time.Millisecond, 250*time.Microsecond)
	sent = 0
	b.run(time.Second, 250*time.Microsecond)
	if sent != 0 {
		t.Errorf("%d packets without any call", sent)
	}
	for i := range 4 { // and there is one again, and more
		b.call(20 + i)
	}
	b.run(100*time.Millisecond, 250*time.Microsecond)
	sent = 0
	b.run(time.Second, 250*time.Microsecond)
	if sent < 5030 || sent > 5050 {
		t.Errorf("four calls send %d packets a second, want 5040", sent)
	}
	// In a new run there is nothing left of the one before.
	b.start(time.Second, Profile{Schedule: traffic.Schedule{Rate: 100}, Sizes: traffic.Fixed(64)})
	b.run(2*time.Second, 250*time.Microsecond)
	if s := b.final(); s.Traffic.Sent != 400 || s.Streams != 4 || len(s.Parts) != 1 || s.Sender.Strays == 0 {
		t.Errorf("the next run: %+v, %+v", s.Traffic, s.Sender)
	}
}

func TestStop(t *testing.T) {
	b := newBench(t, 1)
	b.call(0)
	b.l.Stop() // nothing runs
	b.start(time.Hour, Profile{Schedule: traffic.Schedule{Rate: 1000}, Sizes: traffic.Fixed(64)})
	b.run(time.Second, time.Millisecond)
	b.l.Stop()
	b.run(time.Second, time.Millisecond)
	s := await(b, func(ctx context.Context) (*Snapshot, error) { return b.l.Drain(ctx, time.Second) })
	if n := s.Traffic.Sent; n < 950 || n > 1001 || s.Sending != 0 || s.Elapsed > time.Second {
		t.Errorf("%d packets sent in %v, %d still sending", n, s.Elapsed, s.Sending)
	}
}

// A pool that runs low is left to the worker; the packets go out later.
func TestReserve(t *testing.T) {
	b := newBench(t, 1)
	b.call(0)
	b.start(time.Second, Profile{Schedule: traffic.Schedule{Rate: 20_000}, Sizes: traffic.Fixed(64)})
	b.step()
	var held []*rings.Frame
	for b.pools[0].Free() > b.l.cfg.Reserve+10 {
		held = append(held, b.pools[0].Get())
	}
	b.now += int64(50 * time.Millisecond)
	var fs [64]*rings.Frame
	n, err := b.ports[0].Recv(fs[:])
	if n != 10 || err != nil || b.ports[0].Stats().RxNoFrame == 0 {
		t.Errorf("with 10 frames above the reserve Recv made %d packets, %v", n, err)
	}
	for _, f := range append(held, fs[:n]...) {
		f.Free()
	}
	b.run(2*time.Second, 50*time.Microsecond)
	if s := b.final(); s.Traffic.Sent != 20_000 || s.Sender.NoFrame == 0 {
		t.Errorf("%+v, %+v", s.Traffic, s.Sender)
	}
}

// The port's descriptor says when there is something to do.
func TestDescriptor(t *testing.T) {
	b := newBench(t, 1)
	p := b.ports[0]
	readable := func(ms int) bool {
		fds := []unix.PollFd{{Fd: int32(p.FD()), Events: unix.POLLIN}}
		for {
			n, err := unix.Poll(fds, ms)
			if err != unix.EINTR {
				return err == nil && n == 1
			}
		}
	}
	quiet := func(what string) {
		t.Helper()
		b.step()
		b.step()
		if readable(0) {
			t.Errorf("%s: readable", what)
		}
	}
	quiet("without calls")
	b.call(0)
	quiet("without a run")
	b.start(time.Hour, Profile{Schedule: traffic.Schedule{Rate: 0.001}, Sizes: traffic.Fixed(64)})
	if !readable(30_000) {
		t.Error("not readable though a run was started")
	}
	b.step() // reads the command; the first packet is 20 ms away
	b.step()
	if !readable(30_000) {
		t.Error("not readable before a packet is due")
	}
	b.now += int64(time.Second)
	if b.step() != 1 {
		t.Error("nothing was due")
	}
	quiet("with a packet due in 1000 s")
}

func TestAllocations(t *testing.T) {
	b := newBench(t, 1)
	for i := range 100 {
		b.call(i)
	}
	b.start(time.Hour, Profile{Schedule: traffic.Schedule{Rate: 1000}, Sizes: traffic.IMIX()},
		Profile{Schedule: traffic.Schedule{Rate: 1000}, Total: true, Sizes: traffic.Fixed(84), V6: true})
	b.now += int64(time.Second)
	b.step()
	var fs [64]*rings.Frame
	packets := 0
	if n := testing.AllocsPerRun(1000, func() {
		b.now += 100_000
		n, _ := b.ports[0].Recv(fs[:])
		for _, f := range fs[:n] {
			reflect(f.Data())
		}
		_, _ = b.ports[0].Send(fs[:n])
		packets += n
	}); n != 0 {
		t.Errorf("%v allocations per turn", n)
	}
	if packets < 1000 {
		t.Errorf("only %d packets", packets)
	}
}

func TestErrors(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("a load without workers")
	}
	l, err := New(Config{Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	good := Profile{Schedule: traffic.Schedule{Rate: 1}, Sizes: traffic.Fixed(64)}
	if l.Start([]Profile{good}, time.Second) == nil {
		t.Error("started without ports")
	}
	if _, err := l.Add(CallConfig{}); err == nil {
		t.Error("a call on a worker without a port")
	}
	if _, err := l.Snapshot(context.Background()); err == nil {
		t.Error("counts without ports")
	}
	if _, err := l.Inside(1, nil); err == nil {
		t.Error("a port for worker 1 of 1")
	}
	b := newBench(t, 1)
	for name, p := range map[string]Profile{
		"no rate": {Sizes: traffic.Fixed(64)},
		"no size": {Schedule: traffic.Schedule{Rate: 1}},
		"flow":    {Schedule: traffic.Schedule{Rate: 1}, Sizes: traffic.Fixed(64), Flow: Both + 1},
	} {
		if b.l.Start([]Profile{p}, time.Second) == nil {
			t.Errorf("%s: started", name)
		}
	}
	if b.l.Start([]Profile{good}, 0) == nil {
		t.Error("started for no time")
	}
	// Nobody works here: who asks does not wait for ever.
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := b.l.Snapshot(ctx); err == nil {
		t.Error("counts of a worker that does not work")
	}
	_ = b.ports[0].Close()
	if _, err := b.l.Snapshot(context.Background()); err == nil {
		t.Error("counts of a closed port")
	}
	var fs [4]*rings.Frame
	if _, err := b.ports[0].Recv(fs[:]); err == nil {
		t.Error("Recv on a closed port")
	}
	if _, err := b.ports[0].Send(nil); err == nil {
		t.Error("Send on a closed port")
	}
	if b.ports[0].Flush() == nil {
		t.Error("Flush on a closed port")
	}
}
