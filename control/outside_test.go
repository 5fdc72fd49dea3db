package control

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"xpptp/rings/xsk"
)

// simSteering keeps account of what a backend is told.
type simSteering struct {
	addrs map[netip.Addr]int
	calls map[uint16]int
	ever  map[uint16]bool
	full  bool
}

func newSimSteering() *simSteering {
	return &simSteering{map[netip.Addr]int{}, map[uint16]int{}, map[uint16]bool{}, false}
}

func (s *simSteering) AddAddress(a netip.Addr) error    { s.addrs[a]++; return nil }
func (s *simSteering) RemoveAddress(a netip.Addr) error { s.addrs[a]--; return nil }
func (s *simSteering) Drops() (xsk.Drops, error)        { return xsk.Drops{}, nil }
func (s *simSteering) RemoveCall(id uint16) error       { s.calls[id]--; return nil }

func (s *simSteering) AddCall(id uint16) error {
	if s.full {
		return errors.New("no room")
	}
	s.calls[id]++
	s.ever[id] = true
	return nil
}

// balanced reports whether all that was added is removed.
func (s *simSteering) balanced() bool {
	for _, n := range s.addrs {
		if n != 0 {
			return false
		}
	}
	for _, n := range s.calls {
		if n != 0 {
			return false
		}
	}
	return true
}

// A call is let in before a peer can send for it, and let out when its ID is
// put to rest; one that can not be let in is refused.
func TestSteering(t *testing.T) {
	s := newSim(t, simOptions{seed: 11})
	steer := map[netip.Addr]*simSteering{simServer: newSimSteering(), simClient: newSimSteering()}
	s.server.box.ports.steer, s.client.box.ports.steer = steer[simServer], steer[simClient]
	packets := 0
	s.tap = func(p []byte) {
		packets++
		to := steer[netip.AddrFrom4([4]byte(p[16:20]))]
		if id := binary.BigEndian.Uint16(p[26:]); to == nil || !to.ever[id] {
			t.Fatalf("a packet for call %d comes before the call was let in", id)
		}
	}
	s.call(3)
	s.until("three calls up", 30, func() bool { return s.upCalls() == 3 && s.serverUp() == 3 })
	for addr, st := range steer {
		live := 0
		for _, n := range st.calls {
			live += n
		}
		if live != 3 || st.addrs[addr] != 3 {
			t.Errorf("%v: %d calls are let in, its address counts %d; want 3 each", addr, live, st.addrs[addr])
		}
	}

	steer[simServer].full = true
	s.call(1)
	s.until("the fourth call refused", 60, func() bool {
		return len(steer[simClient].ever) == 4 && s.client.box.Calls() == 3
	})
	if s.upCalls() != 3 {
		t.Errorf("%d calls are up, want 3", s.upCalls())
	}

	s.hangUp()
	for addr, st := range steer {
		if !st.balanced() {
			t.Errorf("%v: calls %v, addresses %v are still let in", addr, st.calls, st.addrs)
		}
	}
	if packets == 0 {
		t.Error("no packet was seen")
	}
}
