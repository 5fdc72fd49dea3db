package aead

import "xpptp/engine"

const (
	windowBits  = 2048
	windowWords = windowBits / 64

	// Window is how far behind the highest number a packet may be. A word of
	// the bitmap is cleared as soon as the highest number enters it, so one
	// word less than the bitmap has is sure.
	Window = windowBits - 64
)

// window remembers which of the last numbers were there (RFC 6479). The zero
// value has seen none.
type window struct {
	next uint64 // the highest number seen, plus 1
	seen [windowWords]uint64
}

// check tells whether number n may still come.
func (w *window) check(n uint64) engine.Drop {
	switch {
	case n >= w.next:
		return engine.Pass
	case w.next-1-n >= Window:
		return engine.AEADLate
	case w.seen[n/64%windowWords]>>(n%64)&1 != 0:
		return engine.AEADReplay
	}
	return engine.Pass
}

// add notes number n, for which check said Pass.
func (w *window) add(n uint64) {
	if n >= w.next {
		if w.next > 0 {
			at := (w.next - 1) / 64
			for i := range min(n/64-at, windowWords) {
				w.seen[(at+1+i)%windowWords] = 0
			}
		}
		w.next = n + 1
	}
	w.seen[n/64%windowWords] |= 1 << (n % 64)
}

// number returns the packet number nearest to the one after the highest that
// ends in low (RFC 9000 appendix A.3).
func (w *window) number(low uint32) uint64 {
	const half, whole = 1 << 31, 1 << 32
	n := w.next&^(whole-1) | uint64(low)
	switch {
	case n+half <= w.next:
		return n + whole
	case n > w.next+half && n >= whole:
		return n - whole
	}
	return n
}
