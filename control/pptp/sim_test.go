package pptp

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// failer is what testing.T and rapid.T share.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// owner drives one Conn and checks what any owner relies on.
type owner struct {
	t      failer
	c      *Conn
	wire   []byte // written, not yet read by the peer
	asked  []CallRef
	live   map[CallRef]bool // calls we have heard of; true: up
	nextID uint16
	closed bool
	tcpEnd bool // we have told the machine
}

func newOwner(t failer, cfg *Config, originator bool, firstID uint16) *owner {
	o := &owner{t: t, live: map[CallRef]bool{}, nextID: firstID}
	if originator {
		o.c = NewConn(cfg, true, addrA, addrB)
	} else {
		o.c = NewConn(cfg, false, addrB, addrA)
	}
	return o
}

// id returns a call ID not used before; the two ends use different ones.
func (o *owner) id() uint16 {
	o.nextID += 2
	return o.nextID
}

// settle collects events and output after a call of the machine.
func (o *owner) settle() {
	o.t.Helper()
	for _, e := range o.c.Events() {
		if o.closed {
			o.t.Fatalf("%+v after Closed", e)
		}
		switch e := e.(type) {
		case CallRequest:
			if (e.Incoming == nil) == (e.Outgoing == nil) {
				o.t.Fatalf("%+v", e)
			}
			o.learn(e.Ref)
			o.asked = append(o.asked, e.Ref)
		case CallUp:
			if up, ok := o.live[e.Ref]; !ok || up {
				o.t.Fatalf("up: call %d, known %v, up before %v", e.Ref, ok, up)
			}
			o.live[e.Ref] = true
		case CallDown:
			if up, ok := o.live[e.Ref]; !ok || up != e.WasUp {
				o.t.Fatalf("%+v: known %v, up %v", e, ok, up)
			}
			delete(o.live, e.Ref)
		case LinkInfo:
			o.known(e.Ref)
		case WANError:
			o.known(e.Ref)
		case Closed:
			o.closed = true
		case ProtocolError:
			if e.Err == nil {
				o.t.Fatalf("%+v", e)
			}
		}
	}
	if o.closed != (o.c.State() == StateClosed) {
		o.t.Fatalf("state %v, Closed seen: %v", o.c.State(), o.closed)
	}
	if int(o.c.State()) >= numConnStates {
		o.t.Fatalf("state %v", o.c.State())
	}
	if len(o.live) != o.c.NumCalls() || o.c.NumCalls() > o.c.cfg.MaxCalls {
		o.t.Fatalf("%d calls, the owner knows %d", o.c.NumCalls(), len(o.live))
	}
	for _, k := range o.c.Calls() {
		if up, ok := o.live[k.Ref]; !ok || k.State == CallIdle || k.State == CallEstablished && !up {
			o.t.Fatalf("%+v: known %v, up %v", k, ok, up)
		}
	}
	if len(o.c.in) >= MaxMessage {
		o.t.Fatalf("%d octets of input kept", len(o.c.in))
	}
}

func (o *owner) learn(ref CallRef) {
	if _, ok := o.live[ref]; ok {
		o.t.Fatalf("call %d begins twice", ref)
	}
	o.live[ref] = false
}

func (o *owner) known(ref CallRef) {
	if _, ok := o.live[ref]; !ok {
		o.t.Fatalf("event for call %d, which is not known", ref)
	}
}

// write moves what the machine offers to the wire.
func (o *owner) write() {
	for b := o.c.Output(); b != nil; b = o.c.Output() {
		if _, err := Parse(b); err != nil {
			o.t.Fatalf("we send %x: %v", b, err)
		}
		o.wire = append(o.wire, b...)
		o.c.Taken(len(b))
	}
}

func (o *owner) place(now int64, outgoing bool) {
	id, before := o.id(), o.c.NumCalls()
	var ref CallRef
	var err error
	if outgoing {
		ref, err = o.c.PlaceOutgoing(now, &OutgoingCallRequest{CallID: id})
	} else {
		ref, err = o.c.PlaceIncoming(now, &IncomingCallRequest{CallID: id}, IncomingCallConnected{})
	}
	switch {
	case err == nil:
		o.learn(ref)
	case o.c.State() == StateEstablished && before < o.c.cfg.MaxCalls:
		o.t.Fatalf("place: %v", err)
	}
	o.settle()
}

// answer takes the oldest unanswered request.
func (o *owner) answer(now int64, accept bool) {
	if len(o.asked) == 0 {
		return
	}
	ref := o.asked[0]
	o.asked = o.asked[1:]
	_, known := o.live[ref]
	var err error
	if accept {
		err = o.c.Accept(now, ref, Answer{LocalCallID: o.id()})
	} else {
		err = o.c.Refuse(now, ref, RefuseBusy)
	}
	if known != (err == nil) {
		o.t.Fatalf("answer: call known %v, %v", known, err)
	}
	o.settle()
}

func (o *owner) clear(now int64, nth int) {
	if calls := o.c.Calls(); len(calls) > 0 {
		ref := calls[nth%len(calls)].Ref
		if err := o.c.Clear(now, ref, Disconnect{Result: DisconnectAdmin}); err != nil {
			o.t.Fatalf("clear: %v", err)
		}
		o.settle()
	}
}

// notify sends what may be sent about the nth call.
func (o *owner) notify(now int64, nth int) {
	if calls := o.c.Calls(); len(calls) > 0 {
		k := calls[nth%len(calls)]
		link := o.c.SetLinkInfo(k.Ref, 0, 0)
		wan := o.c.WANErrorNotify(now, k.Ref, WANErrors{})
		if link == nil && wan == nil {
			o.t.Fatalf("%+v is PAC and PNS of one call", k)
		}
	}
}

func (o *owner) tick(now int64) {
	o.c.Tick(now)
	o.settle()
	if d := o.c.Deadline(); d <= now && o.c.State() != StateIdle {
		o.t.Fatalf("after Tick(%d) in state %v the deadline is %d", now, o.c.State(), d)
	}
}

func (o *owner) lost(now int64) {
	o.tcpEnd = true
	o.c.Lost(now)
	o.settle()
}

// read gives the first n octets of the peer's wire to the machine, and the
// end of TCP when the peer has closed.
func (o *owner) read(now int64, peer *owner, n int) {
	n = min(n, len(peer.wire))
	o.c.Input(now, peer.wire[:n])
	peer.wire = peer.wire[n:]
	o.settle()
	if peer.closed && len(peer.wire) == 0 && !o.tcpEnd {
		o.lost(now)
	}
}

// simulate runs the two ends of a control connection against each other with
// whatever choose(n), a number below n, decides, and then to an end.
func simulate(t failer, choose func(n int) int) {
	cfg := DefaultConfig()
	cfg.MaxCalls = 1 + choose(6)
	cfg.CloseOnStuckCall = choose(4) == 0
	a, b := newOwner(t, &cfg, true, 0), newOwner(t, &cfg, false, 1)
	ends := [2]*owner{a, b}
	now := int64(choose(1000))
	a.c.Start(now)
	b.c.Start(now)

	for range 20 + choose(100) {
		i := choose(2)
		o, peer := ends[i], ends[1-i]
		switch choose(14) {
		case 0, 1:
			o.read(now, peer, 1+choose(400))
		case 2:
			o.read(now, peer, 1<<16)
		case 3, 4:
			o.place(now, choose(2) == 0)
		case 5, 6:
			o.answer(now, choose(4) > 0)
		case 7:
			o.clear(now, choose(8))
		case 8:
			o.notify(now, choose(8))
		case 9:
			now += int64(choose(5)) * int64(time.Second)
		case 10:
			if choose(4) == 0 {
				now += int64(choose(70)) * int64(time.Second)
			}
			o.tick(now)
		case 11:
			if choose(30) == 0 {
				o.c.Stop(now, StopNone)
				o.settle()
			}
		case 12:
			if choose(60) == 0 { // the whole TCP connection
				a.lost(now)
				b.lost(now)
			}
		case 13:
			if choose(20) == 0 {
				o.c.Input(now, Append(nil, newMessage(Type(1+choose(numTypes-1)))))
				o.settle()
			}
		}
		o.write()
	}

	quiet := func() {
		for range 1000 {
			for i, o := range ends {
				for len(o.asked) > 0 {
					o.answer(now, true)
				}
				o.write()
				o.read(now, ends[1-i], 1<<16)
				o.write()
			}
			if len(a.wire)+len(b.wire)+len(a.asked)+len(b.asked) == 0 && a.closed == b.closed {
				return
			}
		}
		t.Fatalf("the ends never fall silent")
	}
	quiet()
	if a.c.State() != b.c.State() {
		t.Fatalf("silence in states %v and %v", a.c.State(), b.c.State())
	}

	if choose(2) == 0 {
		ends[choose(2)].c.Stop(now, StopLocalShutdown)
		a.settle()
		b.settle()
		quiet()
	} else {
		a.lost(now)
		b.lost(now)
	}
	for _, o := range ends {
		if !o.closed || len(o.live) != 0 || o.c.Deadline() != Never {
			t.Fatalf("at the end: closed %v, %d calls, deadline %d", o.closed, len(o.live), o.c.Deadline())
		}
	}
}

func TestBothEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := rapid.Custom(func(t *rapid.T) uint16 { return rapid.Uint16().Draw(t, "v") })
		simulate(t, func(n int) int { return int(draw.Draw(t, "choice")) % n })
	})
}

// Thousands of seeds, cheaper than rapid's.
func TestBothEndsSeeds(t *testing.T) {
	seeds := 20000
	if testing.Short() {
		seeds = 1000
	}
	for seed := range seeds {
		state := uint64(seed)*0x9e3779b97f4a7c15 + 1
		simulate(seeded{t, seed}, func(n int) int {
			state ^= state << 13
			state ^= state >> 7
			state ^= state << 17
			return int(state>>33) % n
		})
	}
}

// seeded names the seed in failures.
type seeded struct {
	*testing.T
	seed int
}

func (s seeded) Fatalf(format string, args ...any) {
	s.Helper()
	s.T.Fatalf("seed %d: %s", s.seed, fmt.Sprintf(format, args...))
}

// Without chaos both ends end up with the same calls.
func TestBothEndsAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := DefaultConfig()
		a, b := newOwner(t, &cfg, true, 0), newOwner(t, &cfg, false, 1)
		ends := [2]*owner{a, b}
		now := int64(0)
		a.c.Start(now)
		a.write()
		b.read(now, a, 1<<16)
		b.write()
		a.read(now, b, 1<<16)

		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			i := rapid.IntRange(0, 1).Draw(t, "end")
			o, peer := ends[i], ends[1-i]
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0:
				o.place(now, rapid.Bool().Draw(t, "outgoing"))
			case 1:
				o.answer(now, rapid.IntRange(0, 3).Draw(t, "accept") > 0)
			case 2:
				o.clear(now, rapid.IntRange(0, 9).Draw(t, "call"))
			case 3:
				now += int64(rapid.IntRange(0, 2000).Draw(t, "ms")) * int64(time.Millisecond)
				o.tick(now)
			default:
				o.read(now, peer, rapid.IntRange(1, 300).Draw(t, "octets"))
			}
			o.write()
		}
		for len(a.wire)+len(b.wire)+len(a.asked)+len(b.asked) > 0 {
			for i, o := range ends {
				o.answer(now, true)
				o.write()
				o.read(now, ends[1-i], 1<<16)
				o.write()
			}
		}
		type pair struct{ a, b uint16 }
		got, want := map[pair]CallState{}, map[pair]CallState{}
		for _, k := range a.c.Calls() {
			got[pair{k.LocalCallID, k.PeerCallID}] = k.State
		}
		for _, k := range b.c.Calls() {
			want[pair{k.PeerCallID, k.LocalCallID}] = k.State
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("calls differ: %v and %v", got, want)
		}
		for p, state := range got {
			if state != CallEstablished {
				t.Fatalf("call %v is in state %v", p, state)
			}
		}
	})
}

// choices takes decisions from fuzzed octets; zeros when they run out.
type choices []byte

func (c *choices) next() int {
	if len(*c) == 0 {
		return 0
	}
	v := (*c)[0]
	*c = (*c)[1:]
	return int(v)
}

func (c *choices) take(n int) []byte {
	n = min(n, len(*c))
	b := (*c)[:n]
	*c = (*c)[n:]
	return b
}

// FuzzConn: any octets, commands and times. The first octet says which end
// we are; then each operation is an octet with its arguments behind it.
func FuzzConn(f *testing.F) {
	start := func(first byte, messages ...Message) []byte {
		b := []byte{first}
		for _, m := range messages {
			body := Append(nil, m)[controlLen:]
			b = append(b, 1, byte(m.Type()), byte(len(body)))
			b = append(b, body...)
		}
		return b
	}
	ok := &StartReply{ProtocolVersion: Version, ResultCode: StartOK}
	hello := &StartRequest{ProtocolVersion: Version}
	f.Add(start(0, hello, &OutgoingCallRequest{CallID: 1}, &CallClearRequest{CallID: 1}, &StopRequest{Reason: 1}))
	f.Add(append(start(0, hello, &OutgoingCallRequest{CallID: 1}), 3, 9, 6, 0, 5, 0))
	f.Add(append(start(1, ok), 2, 0, 1, 8, 20, 0, 1, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0))
	f.Add(append(start(1, ok), 2, 1, 1, 10, 12, 0, 1, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0))
	f.Add(start(2, hello, &EchoRequest{1}))
	f.Add([]byte{0, 0, 12, 0x00, 0x10, 0x00, 0x01, 0x1a, 0x2b, 0x3c, 0x4d, 0x00, 0x05, 0x00, 0x00})
	f.Fuzz(func(t *testing.T, data []byte) {
		in := choices(data)
		cfg := DefaultConfig()
		cfg.MaxCalls = 4
		cfg.OutputLimit = MaxMessage
		first := in.next()
		cfg.CloseOnStuckCall = first&4 != 0
		cfg.PNS = first&8 == 0
		o := newOwner(t, &cfg, first&1 != 0, 0)
		if first&2 != 0 {
			o.c.Hold()
		}
		now := int64(0)
		o.c.Start(now)
		read := 512
		for len(in) > 0 {
			switch in.next() % 12 {
			case 0: // raw octets
				o.c.Input(now, in.take(in.next()))
				o.settle()
			case 1: // a framed message
				typ := Type(in.next())
				b := in.take(in.next())
				n := controlLen + len(b)
				if typ.known() {
					n = typ.Length()
				}
				m := header(n, 1, Magic, int(typ))
				m = append(m, b...)
				m = append(m, make([]byte, n)...)[:n]
				o.c.Input(now, m)
				o.settle()
			case 2:
				o.place(now, in.next()%2 == 0)
			case 3:
				o.answer(now, in.next()%4 > 0)
			case 4:
				o.clear(now, in.next())
			case 5:
				o.notify(now, in.next())
			case 6:
				now += int64(in.next()) * int64(time.Second)
			case 7:
				o.tick(now)
			case 8:
				o.c.Stop(now, StopReason(in.next()))
				o.settle()
			case 9:
				read = in.next() // how much the peer reads at a time
			case 10:
				o.c.Release(now)
				o.settle()
			case 11:
				o.c.CollisionLost(now)
				o.settle()
			}
			if b := o.c.Output(); b != nil {
				o.c.Taken(min(read, len(b)))
			}
			// The limit, what one Input or command can add, and no more.
			if limit := cfg.OutputLimit + 256*TypeCallDisconnectNotify.Length(); o.c.Pending() > limit {
				t.Fatalf("%d octets wait", o.c.Pending())
			}
		}
		// Alone it comes to an end by time-outs.
		for range 20 {
			if d := o.c.Deadline(); d != Never {
				now = max(now, d)
				o.tick(now)
			}
		}
		if o.c.State() != StateClosed {
			t.Fatalf("still %v", o.c.State())
		}
		if len(o.live) != 0 {
			t.Fatalf("%d calls left", len(o.live))
		}
	})
}
