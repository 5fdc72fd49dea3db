// Package spsc is a bounded queue between one producer and one consumer that
// never wait for each other: how a frame goes from the worker that received it
// to the one that owns its call.
package spsc

import (
	"fmt"
	"math/bits"
	"sync/atomic"
)

// line keeps what the two sides write apart: two cache lines, since some
// processors fetch pairs, and some have lines of 128 bytes.
const line = 128

// Ring holds up to Cap values. Push is the producer's, Pop the consumer's;
// each may be any goroutine, one at a time. Len may be called from anywhere.
//
// A value is written before the tail that shows it is stored, and read before
// the head that frees its place is (sync/atomic orders both, on every
// processor). Each side keeps a copy of the other's index and looks at the
// real one only when the copy says full or empty: in between they share
// nothing but the values.
type Ring[T any] struct {
	slots []T
	mask  uint64
	_     [line]byte
	producer
	_ [line]byte
	consumer
	_ [line]byte
}

type producer struct {
	tail     atomic.Uint64 // where the next value goes
	headSeen uint64        // at least so far the consumer is
}

type consumer struct {
	head     atomic.Uint64 // where the next value comes from
	tailSeen uint64        // at least so far the producer is
}

// New returns a ring for n values, rounded up to a power of two. It panics if
// n is not positive.
func New[T any](n int) *Ring[T] {
	if n <= 0 {
		panic(fmt.Sprintf("spsc: ring of %d", n))
	}
	n = 1 << bits.Len(uint(n-1))
	return &Ring[T]{slots: make([]T, n), mask: uint64(n - 1)}
}

// Cap returns how many values fit.
func (r *Ring[T]) Cap() int { return len(r.slots) }

// Len returns how many values wait: exactly for a side that asks between its
// own calls and when the other rests, else a moment's picture.
func (r *Ring[T]) Len() int {
	h := r.head.Load() // first: a head is never ahead of a later tail
	return int(min(r.tail.Load()-h, uint64(len(r.slots))))
}

// Push appends vs, in order, as far as there is room, and returns how many it
// took. They are shown to the consumer all at once.
func (r *Ring[T]) Push(vs []T) int {
	t := r.tail.Load()
	room := uint64(len(r.slots)) - (t - r.headSeen)
	if room < uint64(len(vs)) {
		r.headSeen = r.head.Load()
		room = uint64(len(r.slots)) - (t - r.headSeen)
	}
	n := min(uint64(len(vs)), room)
	if n == 0 {
		return 0
	}
	at := t & r.mask
	k := copy(r.slots[at:], vs[:n])
	copy(r.slots, vs[k:n])
	r.tail.Store(t + n)
	return int(n)
}

// Pop moves up to len(vs) values, the oldest first, to vs and returns how
// many. Places that became free keep what was in them until they are used again.
func (r *Ring[T]) Pop(vs []T) int {
	h := r.head.Load()
	if r.tailSeen == h {
		if r.tailSeen = r.tail.Load(); r.tailSeen == h {
			return 0
		}
	}
	n := min(uint64(len(vs)), r.tailSeen-h)
	at := h & r.mask
	k := copy(vs[:n], r.slots[at:])
	copy(vs[k:n], r.slots)
	r.head.Store(h + n)
	return int(n)
}
