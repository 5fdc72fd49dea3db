package workers

import (
	"encoding/binary"
	"net/netip"
	"runtime"
	"testing"

	"xpptp/engine/mppe"
	"xpptp/engine/session"
)

// More calls than there are call IDs, from many peers: what one costs a worker
// in memory, and that all of them are found and all of it is given back.
func TestManyCalls(t *testing.T) {
	total := 100_000
	if testing.Short() {
		total = 10_000
	}
	e := newTestTeam(t, 2, 0, Adaptive)
	inUse := func() int64 {
		runtime.GC()
		runtime.GC() // what the first found in caches
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	calls := make([]*Call, total)
	hop := teamHop{}
	before := inUse()
	for i := range calls {
		id := uint16(i%60_000 + 1)
		w := e.ws[id%2]
		peer := netip.AddrFrom4([4]byte{10, 1, byte(i / 60_000), byte(i % 250)})
		c := NewCall(&CallParams{
			Local: teamLocal, Peer: peer, CallID: id, PeerCallID: id, PeerKnown: true,
			GRE: w.GREConfig(), PeerWindow: 64, TTL: 64, Hop: hop,
		})
		var inside [4]byte
		binary.BigEndian.PutUint32(inside[:], 10<<24|1<<23|uint32(i))
		w.Add(c, func(ok bool) {
			if !ok {
				t.Errorf("call %d is not added", i)
			}
		})
		p := mppe.Params{Bits: 128, Start: [16]byte{byte(i), byte(i >> 8), byte(i >> 16)}}
		w.SetEncryption(c, session.Required)
		w.OpenReceive(c, p)
		w.OpenTransmit(c, p)
		w.NetworkUp(c, netip.AddrFrom4(inside))
		calls[i] = c
		if i%256 == 255 || i == total-1 {
			for _, w := range e.ws {
				w.Step(2)
			}
		}
	}
	each := float64(inUse()-before) / float64(total)
	t.Logf("%.0f bytes a call", each)
	if each > 1024 {
		t.Errorf("a call takes %.0f bytes of a worker, more than 1 KiB", each)
	}
	if n := e.ws[0].State().Sessions + e.ws[1].State().Sessions; n != total {
		t.Errorf("%d sessions, want %d", n, total)
	}
	for _, c := range calls {
		if s, _ := e.ws[c.CallID%2].table.Lookup(c.CallID, c.Local, c.Peer); s != &c.Session {
			t.Fatalf("call %d is not found", c.CallID)
		}
		e.ws[c.CallID%2].Remove(c, nil)
	}
	for _, w := range e.ws {
		w.Step(3)
		if n := w.State().Sessions; n != 0 {
			t.Errorf("%d sessions left", n)
		}
	}
	for i := range e.ws[0].team.inside.parts {
		if n := len(e.ws[0].team.inside.parts[i].owner); n != 0 {
			t.Errorf("the directory has %d addresses left", n)
		}
	}
	runtime.KeepAlive(calls)
}
