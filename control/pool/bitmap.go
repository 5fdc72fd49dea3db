package pool

import "math/bits"

// bitmap is a set of small integers. Level 0 has one bit per member; a bit of
// each level above says whether the word below it is not zero, so that the
// next member after any point is found by looking at a handful of words,
// however large or full the set is. It costs 1.02 bits a possible member.
type bitmap [][]uint64

// newBitmap returns the set of 0 … n-1, all present. n must be positive.
func newBitmap(n int) bitmap {
	var m bitmap
	for {
		words := make([]uint64, (n+63)/64)
		for i := range words {
			words[i] = ^uint64(0)
		}
		if n%64 != 0 {
			words[len(words)-1] = 1<<(n%64) - 1
		}
		m = append(m, words)
		if len(words) == 1 {
			return m
		}
		n = len(words)
	}
}

func (m bitmap) has(i int) bool { return m[0][i/64]&(1<<(i%64)) != 0 }

func (m bitmap) add(i int) {
	for _, level := range m {
		known := level[i/64] != 0
		level[i/64] |= 1 << (i % 64)
		if known {
			return
		}
		i /= 64
	}
}

func (m bitmap) remove(i int) {
	for _, level := range m {
		level[i/64] &^= 1 << (i % 64)
		if level[i/64] != 0 {
			return
		}
		i /= 64
	}
}

// next returns the smallest member ≥ from.
func (m bitmap) next(from int) (int, bool) {
	i := from
	for l := range m {
		if i/64 >= len(m[l]) {
			return 0, false
		}
		if w := m[l][i/64] >> (i % 64); w != 0 {
			i += bits.TrailingZeros64(w)
			for ; l > 0; l-- { // down again to the first member below
				i = i*64 + bits.TrailingZeros64(m[l-1][i])
			}
			return i, true
		}
		i = i/64 + 1
	}
	return 0, false
}
