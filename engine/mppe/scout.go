package mppe

import "xpptp/engine/mppe/multi"

// After more than half a round of the count is lost at once (a tenth of a
// second's outage of a fast call), the count says where a packet stands in its
// round, but not in which round: it looks late, or it is ahead by too little.
// So once lostAfter packets in a row have failed, a scout walks ahead on the
// key chain, a few steps for every packet that arrives, and tries each packet
// whose count it comes by. It walks faster than the peer, so it finds it in the
// end, and it costs no more than a small gap does.
const (
	lostAfter  = 32
	scoutSteps = 16 // a packet
	scoutTries = 4  // packets that fail at a place before the scout goes on
	scoutRange = 1 << 22
)

type scout struct {
	key   multi.KeyState
	at    int // steps from the last packet committed
	tries int
}

// search moves r's scout on and tries the packet p if its count is within
// reach. On success the packet's key is in e.key.
func (e *Engine) search(r *Rx, count uint16, p []byte) bool {
	s := r.scout
	if s == nil || s.at > scoutRange {
		s = &scout{key: r.key, at: 1} // one ahead: a copy of the last packet must not open again
		e.cipher.Rekey(&s.key, 1)
		r.scout = s
	}
	n := int((count - r.count - uint16(s.at)) & countMask)
	reached := n <= scoutSteps
	if !reached || s.tries >= scoutTries {
		reached = false
		n = scoutSteps
		s.tries = 0
	}
	e.cipher.Rekey(&s.key, n)
	s.at += n
	if !reached {
		return false
	}
	s.tries++
	e.key = s.key
	return e.try(r, &e.key, p, true)
}
