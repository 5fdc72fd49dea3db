package mppe

import "xpptp/engine/mppe/multi"

// Session keys can be computed before their packets are there, in time that a
// worker has to spare: that takes the serial chain of keys, most of the work of
// a small packet, off the path of a call that is busy by itself. The keys are a
// function of the start key alone, so what is computed ahead changes no result.

// maxHot is the most directions that keys are kept for.
const maxHot = 64

// hotKeys are the directions used last. A direction is owed a key for every
// packet it had: so its keys reach as far as the longest burst between two
// spells of idleness, and no call makes more work ahead than it makes anyway.
type hotKeys struct {
	slots []hotKey
	hand  uint8 // slot that was given away last
	depth int   // keys per direction
	owing bool  // some slot is owed keys

	keys [maxHot]*multi.KeyState // those owed, and by how much
	of   [maxHot]*hotKey
}

type hotKey struct {
	key  *multi.KeyState
	owed int
}

// note counts a packet of k; there must be slots. slot is k's hint where it stands.
func (h *hotKeys) note(k *multi.KeyState, slot *uint8) {
	h.owing = true
	if s := h.at(*slot); s.key == k {
		s.owed = min(s.owed+1, h.depth)
		return
	}
	if h.hand++; int(h.hand) >= len(h.slots) {
		h.hand = 0
	}
	*slot = h.hand
	h.slots[h.hand] = hotKey{key: k, owed: 1}
}

// at returns the slot that a hint names, or another.
func (h *hotKeys) at(slot uint8) *hotKey { return &h.slots[int(slot)%len(h.slots)] }

// collect fills keys with up to n directions that are owed keys, and returns
// how many there are, and how many keys all of them are owed.
func (h *hotKeys) collect(n int) (found int, depth int) {
	depth = h.depth
	for i := range h.slots {
		s := &h.slots[i]
		if s.owed == 0 {
			continue
		}
		if found == n {
			return found, depth
		}
		h.keys[found], h.of[found] = s.key, s
		found++
		depth = min(depth, s.owed)
	}
	return found, depth
}

// Reserve makes room to compute session keys ahead of time, for the directions
// used last: at most sessions of them (up to 64), keys each, 16 bytes a key. It
// allocates, and drops what was there. Stateful directions have no use for it.
func (e *Engine) Reserve(sessions, keys int) {
	sessions, keys = min(max(sessions, 0), maxHot), max(keys, 0)
	if keys == 0 {
		sessions = 0
	}
	e.hot = hotKeys{slots: make([]hotKey, sessions), depth: keys}
	e.cipher.Reserve(sessions, keys)
}

// Ahead computes up to budget session keys that the directions used last will
// need, and returns how many it did; 0 means that there is nothing to do. For
// a worker that is idle. The engine remembers a Tx or Rx until others have
// taken its place, or until ForgetTx or ForgetRx.
func (e *Engine) Ahead(budget int) int {
	done := 0
	for h := &e.hot; h.owing && done < budget; {
		n, depth := h.collect(min(maxHot, budget-done))
		if n == 0 {
			h.owing = false
			break
		}
		depth = min(depth, (budget-done)/n)
		got := e.cipher.Ahead(h.keys[:n], n*depth)
		for _, s := range h.of[:n] {
			if s.owed -= depth; got < n { // most have all they have room for
				s.owed = 0
			}
		}
		done += got
		clear(h.keys[:n])
	}
	return done
}

// ForgetTx wipes what was computed ahead for t: before it gets a new key, and
// when its call is over.
func (e *Engine) ForgetTx(t *Tx) { e.forget(&t.key, t.hot) }

// ForgetRx is ForgetTx for the receiving direction.
func (e *Engine) ForgetRx(r *Rx) { e.forget(&r.key, r.hot) }

func (e *Engine) forget(k *multi.KeyState, slot uint8) {
	if len(e.hot.slots) == 0 {
		return
	}
	e.cipher.Forget(k)
	if s := e.hot.at(slot); s.key == k {
		*s = hotKey{}
	}
}
