package control

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"xpptp/control/config"
	"xpptp/control/pool"
	"xpptp/control/ppp"
)

// while steps the simulation until f, which waits for loops and workers, has
// its answer.
func while[T any](s *sim, f func() (T, error)) (T, error) {
	s.t.Helper()
	type answer struct {
		v   T
		err error
	}
	done := make(chan answer, 1)
	go func() {
		v, err := f()
		done <- answer{v, err}
	}()
	for {
		select {
		case a := <-done:
			return a.v, a.err
		default:
			s.step()
		}
	}
}

func (s *sim) look(b *Box, sel Selection) []CallState {
	s.t.Helper()
	calls, err := while(s, func() ([]CallState, error) { return b.Look(context.Background(), sel) })
	if err != nil {
		s.t.Fatal(err)
	}
	return calls
}

func TestLook(t *testing.T) {
	s := newSim(t, simOptions{seed: 3, workers: 2})
	for range 4 {
		s.call(2)
	}
	s.until("calls up", 60, func() bool { return s.upCalls() == 8 && s.serverUp() == 8 })
	calls := s.look(s.server.box, Selection{})
	if len(calls) != 8 {
		t.Fatalf("%d calls", len(calls))
	}
	ids, ips := map[string]bool{}, map[netip.Addr]bool{}
	for i, c := range calls {
		if c.User != "alice" || c.State != "up" || c.Age <= 0 || c.Peer != simClient || c.MPPEBits != 128 || c.Stats.RxControl == 0 || c.GRE.Received == 0 {
			t.Errorf("%+v", c)
		}
		if i > 0 && c.Worker < calls[i-1].Worker {
			t.Errorf("worker %d behind %d", c.Worker, calls[i-1].Worker)
		}
		ids[c.Session], ips[c.IP] = true, true
	}
	if len(ids) != 8 || len(ips) != 8 {
		t.Errorf("%d names, %d addresses", len(ids), len(ips))
	}
	c := calls[5]
	for _, sel := range []Selection{{IP: c.IP}, {IP: c.IP6}, {Session: c.Session}, {Call: c.CallID, Peer: c.Peer}, {User: "alice", IP: c.IP, Call: c.CallID}} {
		if got := s.look(s.server.box, sel); len(got) != 1 || got[0].Session != c.Session {
			t.Errorf("%+v: %+v", sel, got)
		}
	}
	for _, sel := range []Selection{{User: "bob"}, {Peer: simServer}, {IP: c.IP, Call: calls[4].CallID}, {IP: simLocal}, {Session: "-"}} {
		if got := s.look(s.server.box, sel); len(got) != 0 {
			t.Errorf("%+v: %+v", sel, got)
		}
	}
	// On the client's side the address is its own, and there is no accounting.
	if got := s.look(s.client.box, Selection{IP: c.IP}); len(got) != 1 || got[0].CallID != c.PeerCallID {
		t.Errorf("client: %+v", got)
	}
	if got := s.look(s.client.box, Selection{Session: c.Session}); len(got) != 0 {
		t.Errorf("client: %+v", got)
	}
	if got, err := while(s, func() (int, error) {
		states, err := s.server.box.Counters(context.Background())
		return len(states), err
	}); got != 2 || err != nil {
		t.Errorf("%d workers, %v", got, err)
	}
}

// More calls than a loop looks at in one go, in all phases.
func TestLookMany(t *testing.T) {
	r, err := pool.ParseRange("192.168.7.2-192.168.12.250")
	if err != nil {
		t.Fatal(err)
	}
	s := newSim(t, simOptions{seed: 4, serve: func(c *config.Config) {
		c.Pools = []config.Pool{{Name: "default", Ranges: []pool.Range{r}}}
	}})
	n := 2*lookAtOnce + 3
	for range n {
		s.call(1)
	}
	s.until("calls of all kinds", 60, func() bool { return len(s.server.calls()) == n && s.serverUp() > 5 })
	phases := map[string]int{}
	for _, c := range s.look(s.server.box, Selection{}) {
		phases[c.State]++
	}
	all := 0
	for _, k := range phases {
		all += k
	}
	if all != n || phases["up"] == 0 {
		t.Errorf("%v, want %d", phases, n)
	}
}

// Who waits no longer gets an error, and what was asked ends by itself.
func TestLookTimeout(t *testing.T) {
	s := newSim(t, simOptions{seed: 5})
	why := errors.New("too late")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(why)
	if _, err := s.server.box.Look(ctx, Selection{}); !errors.Is(err, why) {
		t.Error(err)
	}
	if _, err := s.server.box.Counters(ctx); !errors.Is(err, why) {
		t.Error(err)
	}
	if _, err := s.server.box.Terminate(ctx, Selection{}, true); !errors.Is(err, why) {
		t.Error(err)
	}
	s.step()
	s.step()
}

func TestTerminate(t *testing.T) {
	for _, hard := range []bool{false, true} {
		s := newSim(t, simOptions{seed: 6, workers: 2})
		for range 5 {
			s.call(1)
		}
		s.until("calls up", 60, func() bool { return s.upCalls() == 5 && s.serverUp() == 5 })
		victim := s.look(s.server.box, Selection{})[2]
		requests := func() (n int) {
			for _, e := range s.events {
				if e.Kind == EventDown && e.Reason.Code == ppp.PeerTerminated {
					n++
				}
			}
			return n
		}
		end := func(sel Selection, want int) {
			t.Helper()
			n, err := while(s, func() (int, error) { return s.server.box.Terminate(context.Background(), sel, hard) })
			if n != want || err != nil {
				t.Errorf("%d calls, %v, want %d", n, err, want)
			}
		}
		end(Selection{User: "bob"}, 0)
		end(Selection{IP: victim.IP}, 1)
		s.until("one call over", 60, func() bool { return s.upCalls() == 4 && len(s.server.calls()) == 4 && len(s.client.calls()) == 4 })
		for _, c := range s.look(s.server.box, Selection{}) {
			if c.Session == victim.Session {
				t.Errorf("hard %v: still there: %+v", hard, c)
			}
		}
		down := 0
		for _, e := range s.events {
			if e.Kind == EventDown {
				down++
				if e.Call.CallID != victim.PeerCallID {
					t.Errorf("hard %v: call %d is over, %d was meant", hard, e.Call.CallID, victim.PeerCallID)
				}
			}
		}
		// In order the peer heard of it inside the call; at once, only by the
		// control connection.
		if got := requests() == 1; down != 1 || got == hard {
			t.Errorf("hard %v: %d calls over, %d by Terminate-Request", hard, down, requests())
		}
		end(Selection{}, 4)
		s.until("all calls over", 60, func() bool { return s.server.conns() == 0 && s.client.conns() == 0 })
		s.clean()
	}
}

func TestDrain(t *testing.T) {
	s := newSim(t, simOptions{seed: 8})
	box := s.server.box
	s.call(1)
	s.until("a call up", 60, func() bool { return s.upCalls() == 1 && s.serverUp() == 1 })
	drained := func() bool {
		select {
		case <-box.Drained():
			return true
		default:
			return false
		}
	}
	box.Drain(true)
	if drained() || !box.Draining() {
		t.Error("drained with a call")
	}
	s.call(1)
	s.until("the second call refused", 60, func() bool {
		for _, e := range s.events {
			if e.Kind == EventDown && e.Reason.Code == ppp.LowerDown {
				return true
			}
		}
		return false
	})
	if s.serverUp() != 1 || drained() {
		t.Error("the first call should be alone")
	}
	box.Drain(false)
	s.call(1)
	s.until("a third call up", 60, func() bool { return s.upCalls() == 2 && s.serverUp() == 2 })
	box.Drain(true)
	for _, k := range s.client.calls() {
		k.hangUp(ppp.Reason{Code: ppp.UserRequest})
	}
	s.until("drained", 60, drained)
	if box.Calls() != 0 {
		t.Errorf("%d calls", box.Calls())
	}
}
