package control

import "net/netip"

// restTime is how long a call ID stays unused after its call (late GRE
// packets of the old call must not enter a new one).
const restTime = int64(60e9)

// pair is the scope of a call ID (RFC 2637 §3.2.2), by address: peers behind
// one NAT share an address, so a control connection would be too small.
type pair struct{ local, peer netip.Addr }

type callKey struct {
	pair
	id uint16
}

// callIDs hands out call IDs, random and rested, for one loop. All its IDs
// leave the same remainder, so the ID alone tells the worker.
type callIDs struct {
	loop, loops int
	rand        func([]byte)
	used        map[callKey]bool // true: in a call; false: resting
	resting     []restingID      // oldest first
}

type restingID struct {
	key   callKey
	until int64
}

func newCallIDs(loop, loops int, rand func([]byte)) *callIDs {
	return &callIDs{loop: loop, loops: loops, rand: rand, used: make(map[callKey]bool)}
}

// get returns a free call ID for the pair; false if there is none.
func (a *callIDs) get(now int64, p pair) (uint16, bool) {
	n := 0
	for n < len(a.resting) && a.resting[n].until <= now {
		delete(a.used, a.resting[n].key)
		n++
	}
	a.resting = a.resting[n:]

	// IDs loop, loop+loops, …; 0 is never given out, since some peers read it as "none".
	span := (1<<16-1-a.loop)/a.loops + 1
	var r [2]byte
	random := func() int {
		a.rand(r[:])
		return (int(r[0])<<8 | int(r[1])) % span
	}
	take := func(n int) (uint16, bool) {
		k := callKey{p, uint16(n*a.loops + a.loop)}
		if _, taken := a.used[k]; taken || k.id == 0 {
			return 0, false
		}
		a.used[k] = true
		return k.id, true
	}
	for range 32 {
		if id, ok := take(random()); ok {
			return id, true
		}
	}
	at := random()
	for i := range span {
		if id, ok := take((at + i) % span); ok {
			return id, true
		}
	}
	return 0, false
}

// put lets a call ID rest.
func (a *callIDs) put(now int64, p pair, id uint16) {
	k := callKey{p, id}
	if !a.used[k] {
		return
	}
	a.used[k] = false
	a.resting = append(a.resting, restingID{k, now + restTime})
}
