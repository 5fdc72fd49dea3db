package gre

import "xpptp/engine"

// ring is a call's reorder buffer: a few packets in no particular order, found
// by looking at all of them. It exists only while something waits.
type ring struct {
	slot []slot // one more than can wait, for the packet that ends the wait
	n    int
	due  int // slots whose wait is over
}

type slot struct {
	item any
	at   int64 // arrival
	seq  uint32
	due  bool
}

func (r *ring) empty() bool { return r.n == 0 }

func (r *ring) find(seq uint32) int {
	for i := range r.slot[:r.n] {
		if r.slot[i].seq == seq {
			return i
		}
	}
	return -1
}

func (r *ring) has(seq uint32) bool { return r.find(seq) >= 0 }

func (r *ring) put(seq uint32, at int64, item any) engine.Drop {
	if r.has(seq) {
		return engine.GREDuplicate
	}
	if r.n == len(r.slot) {
		return engine.GREReorderFull
	}
	r.slot[r.n] = slot{item: item, at: at, seq: seq}
	r.n++
	return engine.Pass
}

func (r *ring) remove(i int) slot {
	s := r.slot[i]
	r.n--
	r.slot[i] = r.slot[r.n]
	r.slot[r.n] = slot{}
	if s.due {
		r.due--
	}
	return s
}

// release ends the wait of every packet that arrived at t or before, and of
// those that stand before it.
func (r *ring) release(next uint32, t int64) {
	last, found := uint32(0), false
	for i := range r.slot[:r.n] {
		if s := &r.slot[i]; s.at <= t {
			last, found = max(last, s.seq-next), true
		}
	}
	if !found {
		return
	}
	for i := range r.slot[:r.n] {
		if s := &r.slot[i]; !s.due && s.seq-next <= last {
			s.due = true
			r.due++
		}
	}
}

// releaseAll ends the wait of every packet.
func (r *ring) releaseAll() {
	for i := range r.slot[:r.n] {
		r.slot[i].due = true
	}
	r.due = r.n
}

// lowest returns the packet that stands first, counted from next; of those
// whose wait is over if due.
func (r *ring) lowest(next uint32, due bool) int {
	best := -1
	for i := range r.slot[:r.n] {
		if due && !r.slot[i].due {
			continue
		}
		if best < 0 || r.slot[i].seq-next < r.slot[best].seq-next {
			best = i
		}
	}
	return best
}

// highest returns how far ahead of next the furthest packet stands, 0 if none
// waits.
func (r *ring) highest(next uint32) (ahead uint32) {
	for i := range r.slot[:r.n] {
		ahead = max(ahead, r.slot[i].seq-next)
	}
	return ahead
}

// oldest returns when the packet that has waited longest arrived.
func (r *ring) oldest() int64 {
	at := int64(NoDeadline)
	for i := range r.slot[:r.n] {
		at = min(at, r.slot[i].at)
	}
	return at
}
