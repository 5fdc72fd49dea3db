package bench

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"runtime"

	"xpptp/engine/gre"
	"xpptp/engine/mppe"
	"xpptp/engine/session"
	"xpptp/rings"
	"xpptp/rings/mem"
	"xpptp/workers"
)

// stateFrames is how many frames the worker has that the calls are put into.
const stateFrames = 64

// StatePerCall is what a call takes of a worker's memory, in bytes: the
// session with the state of GRE and of MPPE in both directions, and its places
// in the tables. It puts n of them into the tables of a worker without a
// network, and removes them again.
func StatePerCall(n int) (float64, error) {
	frames := rings.NewPool(rings.NewArenaN(stateFrames, rings.ChunkSmall), 0, stateFrames)
	out, _ := mem.Pair(mem.Config{Link: rings.LinkIP, PoolA: frames})
	in, _ := mem.Pair(mem.Config{Link: rings.LinkIP, PoolA: frames})
	team, err := workers.NewTeam([]workers.Config{{
		Pool: frames, Outside: []rings.Port{out}, Inside: in, CPU: -1, GRE: gre.Config{First: 1, Window: 64},
	}}, 1)
	if err != nil {
		return 0, err
	}
	w := team[0]
	defer w.Close()
	calls := make([]*workers.Call, n)
	refused := 0
	before := heapInUse()
	for i := range calls {
		// More than there are call IDs: they are unique for a peer only.
		id := uint16(i%60_000 + 1)
		peer := netip.AddrFrom4([4]byte{10, 1, byte(i / 60_000), byte(i % 250)})
		c := workers.NewCall(&workers.CallParams{
			Local: outsideAddr, Peer: peer, CallID: id, PeerCallID: id, PeerKnown: true,
			GRE: w.GREConfig(), PeerWindow: 64, TTL: 64, Hop: noHop{},
		})
		w.Add(c, func(ok bool) {
			if !ok {
				refused++
			}
		})
		p := mppe.Params{Bits: 128, Start: [16]byte{byte(i), byte(i >> 8), byte(i >> 16)}}
		w.SetEncryption(c, session.Required)
		w.OpenReceive(c, p)
		w.OpenTransmit(c, p)
		var inside [4]byte
		binary.BigEndian.PutUint32(inside[:], 10<<24|1<<23|uint32(i))
		w.NetworkUp(c, netip.AddrFrom4(inside))
		calls[i] = c
		if i%256 == 255 || i == n-1 {
			w.Step(2)
		}
	}
	each := float64(heapInUse()-before) / float64(n)
	if refused > 0 || w.State().Sessions != n {
		return 0, errors.New("bench calls: not all calls are in the tables")
	}
	for i, c := range calls {
		w.Remove(c, nil)
		if i%256 == 255 || i == n-1 {
			w.Step(3)
		}
	}
	if w.State().Sessions != 0 {
		return 0, errors.New("bench calls: calls are left in the tables")
	}
	return each, nil
}

// noHop is the way to a peer that nothing is sent to.
type noHop struct{}

func (noHop) Way() ([]byte, int, workers.HopState) { return nil, 0, workers.HopReady }

// heapInUse is what is in use after a collection, in bytes.
func heapInUse() int64 {
	runtime.GC()
	runtime.GC() // what the first found in caches
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
