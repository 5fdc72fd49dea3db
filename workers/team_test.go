package workers

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"xpptp/engine"
	"xpptp/engine/gre"
	"xpptp/engine/wire"
	"xpptp/rings"
	"xpptp/rings/mem"
)

var (
	teamLocal = netip.MustParseAddr("10.0.0.1")
	teamPeer  = netip.MustParseAddr("10.0.0.2")
	teamHost  = netip.MustParseAddr("192.168.0.1") // what calls talk to
)

// testTeam is a team with the far ends of its ports, and a plain call at each
// worker: call i+n·k is worker i's.
type testTeam struct {
	ws       []*Worker
	pools    []*rings.Pool
	out, in  []*mem.Port
	calls    []*Call
	addr     []netip.Addr // inside, of calls
	received uint64       // by the ports, all told
}

type teamHop struct{}

func (teamHop) Way() ([]byte, int, HopState) { return nil, 0, HopReady }

const teamFrames = 1024

func newTestTeam(t *testing.T, n, calls int, mode Mode) *testTeam {
	t.Helper()
	e := &testTeam{}
	arena := rings.NewArenaN(n*teamFrames, rings.ChunkSmall)
	var cfgs []Config
	for i := range n {
		pool := rings.NewPool(arena, i*teamFrames, (i+1)*teamFrames)
		out, farOut := mem.Pair(mem.Config{Link: rings.LinkIP, PoolA: pool})
		in, farIn := mem.Pair(mem.Config{Link: rings.LinkIP, PoolA: pool})
		e.pools, e.out, e.in = append(e.pools, pool), append(e.out, farOut), append(e.in, farIn)
		cfgs = append(cfgs, Config{
			Pool: pool, Outside: []rings.Port{out}, Inside: in, CPU: -1, Mode: mode, GRE: gre.Config{First: 1, Window: 4096},
		})
	}
	var err error
	if e.ws, err = NewTeam(cfgs, 1); err != nil {
		t.Fatal(err)
	}
	for i, w := range e.ws {
		t.Cleanup(w.Close)
		cfgs[i].Outside[0].(*mem.Port).SetWake(w.poke)
		cfgs[i].Inside.(*mem.Port).SetWake(w.poke)
	}
	for id := 1; id <= calls; id++ {
		w := e.ws[rings.Shard(uint16(id), n)]
		c := NewCall(&CallParams{
			Local: teamLocal, Peer: teamPeer, CallID: uint16(id), PeerCallID: uint16(id), PeerKnown: true,
			GRE: w.GREConfig(), PeerWindow: 4096, TTL: 64, Hop: teamHop{},
		})
		a := netip.AddrFrom4([4]byte{192, 168, 1, byte(id)})
		w.Add(c, nil)
		w.NetworkUp(c, a)
		e.calls, e.addr = append(e.calls, c), append(e.addr, a)
	}
	for _, w := range e.ws {
		w.Step(1)
	}
	return e
}

// greTo is a packet of the call, IP inside.
func (e *testTeam) greTo(call int, seq uint32) []byte {
	ip := e.ipFrom(e.addr[call], teamHost)
	b := make([]byte, wire.IPv4Len+wire.GRELen(true, false)+4+len(ip))
	p := b[wire.IPv4Len+wire.GRELen(true, false):]
	n := wire.PutPPP(p, wire.PPPIPv4, false, false)
	n += copy(p[n:], ip)
	wire.PutGRE(b[wire.IPv4Len:], uint16(call+1), n, seq, true, 0, false)
	b = b[:wire.IPv4Len+wire.GRELen(true, false)+n]
	wire.PutIPv4(b, &wire.IPv4Fields{TTL: 64, Protocol: wire.ProtoGRE, Src: teamPeer.As4(), Dst: teamLocal.As4(), PayloadLen: len(b) - wire.IPv4Len})
	return b
}

func (e *testTeam) ipFrom(src, dst netip.Addr) []byte {
	b := make([]byte, 40)
	wire.PutIPv4(b, &wire.IPv4Fields{TTL: 64, Protocol: wire.ProtoUDP, Src: src.As4(), Dst: dst.As4(), PayloadLen: 20})
	return b
}

// send gives a packet to a far end; it reports false if there is no room.
func send(p *mem.Port, b []byte) bool {
	f := p.Pool().Get()
	if f == nil {
		return false
	}
	f.Set(b)
	n, _ := p.Send([]*rings.Frame{f})
	if n == 0 {
		f.Free()
	}
	_ = p.Flush()
	return n == 1
}

// drain takes what came out at a far end and returns how many packets there were.
func drain(p *mem.Port) (total int) {
	var fs [64]*rings.Frame
	for {
		n, _ := p.Recv(fs[:])
		for _, f := range fs[:n] {
			f.Free()
		}
		if total += n; n == 0 {
			return total
		}
	}
}

// check holds the account of every worker and of all frames; at rest, with
// nothing on the rings.
func (e *testTeam) check(t *testing.T) {
	t.Helper()
	var over, taken uint64
	for i, w := range e.ws {
		s := w.State()
		came, went := s.Flow.Made+s.Flow.TakenOver, s.Flow.Consumed+s.Flow.HandedOver+uint64(w.Waiting())
		for _, p := range s.Stats {
			came += p.RxPackets
			went += p.TxPackets
		}
		for _, n := range s.Drops {
			went += n
		}
		if came != went {
			t.Errorf("worker %d: %d packets came, %d are accounted for: %+v", i, came, went, s)
		}
		over += s.Flow.HandedOver
		taken += s.Flow.TakenOver
		if e.pools[i].Size() != teamFrames || e.pools[i].Free()+w.Waiting() != teamFrames {
			t.Errorf("worker %d: %d of %d frames are free, %d wait; it began with %d", i, e.pools[i].Free(), e.pools[i].Size(), w.Waiting(), teamFrames)
		}
	}
	if over != taken {
		t.Errorf("%d packets were handed over, %d taken", over, taken)
	}
}

// settle steps all workers until the rings are empty.
func (e *testTeam) settle() {
	for range 50 {
		for _, w := range e.ws {
			w.Step(2)
		}
	}
}

// A packet at the wrong worker comes out where it should, from either side.
func TestHandOver(t *testing.T) {
	e := newTestTeam(t, 3, 6, Adaptive)
	for call, c := range e.calls {
		owner := rings.Shard(c.CallID, 3)
		for at := range e.ws {
			if !send(e.out[at], e.greTo(call, uint32(at+1))) || !send(e.in[at], e.ipFrom(teamHost, e.addr[call])) {
				t.Fatal("not sent")
			}
			e.settle()
			for i := range e.ws {
				in, out := drain(e.in[i]), drain(e.out[i])
				want := 0
				if i == owner {
					want = 1
				}
				if in != want || out < want { // and acknowledgements
					t.Errorf("call of worker %d, packet at %d: %d came out inside, %d outside at worker %d", owner, at, in, out, i)
				}
			}
		}
	}
	for i, w := range e.ws {
		if f := w.State().Flow; f.HandedOver != 8 || f.TakenOver != 8 {
			t.Errorf("worker %d: %+v, want 8 each", i, f)
		}
	}
	// For no call, inside or outside: dropped by the worker that finds that out.
	b := e.greTo(0, 9)
	binary.BigEndian.PutUint16(b[26:], 1000) // worker 1's, if there were one
	send(e.out[0], b)
	send(e.in[0], e.ipFrom(teamHost, netip.MustParseAddr("192.168.99.99")))
	e.settle()
	if d := e.ws[1].State().Drops[engine.UnknownCall]; d != 1 {
		t.Errorf("worker 1 dropped %d packets for unknown calls", d)
	}
	if d := e.ws[0].State().Drops[engine.NoRoute]; d != 1 {
		t.Errorf("worker 0 dropped %d packets without a route", d)
	}
	e.check(t)
}

// A worker that does not take what it is handed costs the others nothing but
// the packets for it, which are counted; their frames stay.
func TestHandOverFull(t *testing.T) {
	e := newTestTeam(t, 2, 2, Adaptive)
	total := uint64(handoffRing(2, teamFrames) + 100)
	for sent := uint64(0); sent < total; { // call 0 has ID 1: worker 1's
		if send(e.out[0], e.greTo(0, uint32(sent))) {
			sent++
		}
		e.ws[0].Step(2)
	}
	s := e.ws[0].State()
	if s.Flow.HandedOver+s.Drops[engine.Handoff] != total || s.Drops[engine.Handoff] == 0 || s.Drops[engine.NoFrame] != 0 {
		t.Errorf("of %d packets %d were handed over, %d dropped", total, s.Flow.HandedOver, s.Drops[engine.Handoff])
	}
	for drain(e.in[1]); e.ws[0].handed() || e.ws[1].handed() || drain(e.in[1])+drain(e.out[1]) > 0; {
		e.settle()
	}
	e.check(t)
}

// A call is removed while packets of it are on a ring, and its address given
// to another: nothing of it remains, nobody gets what is not theirs.
func TestRemoveOnTheWay(t *testing.T) {
	e := newTestTeam(t, 2, 4, Adaptive)
	send(e.out[0], e.greTo(0, 1)) // call ID 1: worker 1's
	send(e.in[0], e.ipFrom(teamHost, e.addr[0]))
	e.ws[0].Step(2)
	if !e.ws[1].handed() {
		t.Fatal("nothing on the ring")
	}
	e.ws[1].Remove(e.calls[0], nil)
	e.ws[1].mail.run()
	e.ws[0].NetworkUp(e.calls[1], e.addr[0]) // call ID 2: worker 0's
	e.ws[0].mail.run()
	e.ws[1].Step(3)
	if n := e.ws[1].State().Drops[engine.UnknownCall]; n != 1 {
		t.Errorf("%d packets dropped for an unknown call, want 1", n)
	}
	// By now the address is a call's of worker 0: there it goes.
	e.settle()
	if n := drain(e.out[0]); n != 1 {
		t.Errorf("%d packets for the address' new holder", n)
	}
	if n := drain(e.in[1]) + drain(e.out[1]); n != 0 {
		t.Errorf("%d packets of a removed call", n)
	}
	// The address is forgotten with its last holder.
	e.ws[0].Remove(e.calls[1], nil)
	e.settle()
	if _, found := e.ws[0].team.inside.find(e.addr[0]); found {
		t.Error("the directory still has the address")
	}
	e.check(t)
}

// Pools that are not of one memory cannot exchange frames.
func TestTeamOfTwoMemories(t *testing.T) {
	var cfgs []Config
	for range 2 {
		pool := rings.NewPoolN(64, rings.ChunkSmall)
		a, _ := mem.Pair(mem.Config{Link: rings.LinkIP, PoolA: pool})
		cfgs = append(cfgs, Config{Pool: pool, Inside: a, CPU: -1})
	}
	if _, err := NewTeam(cfgs, 1); err == nil {
		t.Error("a team of workers with frames of two memories")
	}
}

// Workers on their own threads, asleep and awake, packets at any of them: all
// are accounted for, and every pool ends as it began.
func TestTeamRuns(t *testing.T) {
	total := 20_000
	if testing.Short() {
		total = 3000
	}
	for _, mode := range []Mode{Adaptive, Interrupt} {
		e := newTestTeam(t, 3, 9, mode)
		var running, feeding sync.WaitGroup
		now := clock()
		for _, w := range e.ws {
			running.Add(1)
			go func() {
				defer running.Done()
				if err := w.Run(now); err != nil {
					t.Error(err)
				}
			}()
		}
		out, in := make([]int, len(e.ws)), make([]int, len(e.ws))
		stop := make(chan struct{})
		for i := range e.ws {
			feeding.Add(1)
			go func() {
				defer feeding.Done()
				rnd := rand.New(rand.NewPCG(uint64(i), 1))
				for n := 0; n < total; {
					call := rnd.IntN(len(e.calls))
					var ok bool
					if n%2 == 0 {
						ok = send(e.in[i], e.ipFrom(teamHost, e.addr[call]))
					} else {
						ok = send(e.out[i], e.greTo(call, 0)) // the same number again: dropped, and counted
					}
					out[i] += drain(e.out[i])
					in[i] += drain(e.in[i])
					if n++; !ok {
						runtime.Gosched()
					}
				}
				for {
					out[i] += drain(e.out[i])
					in[i] += drain(e.in[i])
					select {
					case <-stop:
						return
					case <-time.After(time.Millisecond):
					}
				}
			}()
		}
		// At rest once nothing changes: every packet handed over has been taken.
		deadline := time.Now().Add(time.Minute)
		for quiet := 0; quiet < 20 && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			var over, taken, came uint64
			for _, w := range e.ws {
				got := make(chan State, 1)
				w.Snapshot(func(s State) { got <- s })
				s := <-got
				over, taken = over+s.Flow.HandedOver, taken+s.Flow.TakenOver
				for _, p := range s.Stats {
					came += p.RxPackets
				}
			}
			if quiet++; over != taken || came == 0 || came != e.received {
				quiet = 0
			}
			e.received = came
		}
		close(stop)
		feeding.Wait()
		for _, w := range e.ws {
			w.Stop()
		}
		running.Wait()
		e.settle()
		for i := range e.ws {
			drain(e.out[i])
			drain(e.in[i])
		}
		e.settle()
		e.check(t)
		var over uint64
		for _, w := range e.ws {
			over += w.State().Flow.HandedOver
		}
		if over == 0 {
			t.Error("nothing was handed over")
		}
	}
}

// What is for no call is told apart by whether its source is allowed; a call's
// own packets are not asked.
func TestSources(t *testing.T) {
	prefix := netip.MustParsePrefix
	w := &Worker{sources: spans([]netip.Prefix{
		prefix("192.0.2.0/25"), prefix("10.0.0.0/8"), prefix("10.1.0.0/16"), prefix("255.255.255.255/32"), prefix("192.0.2.0/24"),
	})}
	if len(w.sources) != 3 {
		t.Errorf("spans %v", w.sources)
	}
	for a, want := range map[string]bool{
		"9.255.255.255": false, "10.0.0.0": true, "10.255.255.255": true, "11.0.0.0": false, "0.0.0.0": false,
		"192.0.1.255": false, "192.0.2.0": true, "192.0.2.255": true, "192.0.3.0": false, "255.255.255.255": true, "255.255.255.254": false,
	} {
		if w.allowed(netip.MustParseAddr(a).As4()) != want {
			t.Errorf("%s: allowed %v", a, !want)
		}
	}
	for _, all := range [][]netip.Prefix{nil, {prefix("0.0.0.0/0")}} {
		if w.sources = spans(all); !w.allowed([4]byte{1, 2, 3, 4}) || !w.allowed([4]byte{255, 255, 255, 255}) {
			t.Errorf("%v does not allow all", all)
		}
	}

	e := newTestTeam(t, 2, 2, Adaptive)
	for _, w := range e.ws {
		w.sources = spans([]netip.Prefix{prefix("172.16.0.0/12")})
	}
	b := e.greTo(0, 1)
	send(e.out[1], b)
	binary.BigEndian.PutUint16(b[26:], 1000)
	send(e.out[1], b)
	e.settle()
	if n := drain(e.in[1]); n != 1 {
		t.Errorf("%d packets of the call came through", n)
	}
	if d := e.ws[1].State().Drops; d[engine.Source] != 1 || d[engine.UnknownCall] != 0 {
		t.Errorf("%d dropped for their source, %d for their call", d[engine.Source], d[engine.UnknownCall])
	}
	e.check(t)
}

// Frames that are on the way between workers when these end go home.
func TestCloseOnTheWay(t *testing.T) {
	e := newTestTeam(t, 2, 2, Adaptive)
	for i := range 10 {
		send(e.out[0], e.greTo(0, uint32(i)))
		send(e.in[1], e.ipFrom(teamHost, e.addr[1]))
	}
	for _, w := range e.ws {
		w.Step(2)
	}
	lost := func() (n int) {
		for _, w := range e.ws {
			n += w.Lost()
		}
		return n
	}
	if lost() == 0 {
		t.Error("nothing is on the way")
	}
	for _, w := range e.ws {
		w.Close()
	}
	if n := lost(); n != 0 {
		t.Errorf("%d frames are lost", n)
	}
}
