package session

import (
	"math/bits"
	"net/netip"
)

// Nets finds a T by the longest IPv4 prefix that holds an address: a map for
// each length in use. The zero value is empty.
type Nets[T any] struct {
	byLen [33]map[[4]byte]T
	lens  uint64 // bit n: byLen[n] has entries
}

// Set puts v at p, in place of what was there. p is an IPv4 prefix.
func (n *Nets[T]) Set(p netip.Prefix, v T) {
	l := p.Bits()
	if n.byLen[l] == nil {
		n.byLen[l] = make(map[[4]byte]T)
	}
	n.byLen[l][p.Masked().Addr().As4()] = v
	n.lens |= 1 << l
}

// Get returns what is at exactly p.
func (n *Nets[T]) Get(p netip.Prefix) (T, bool) {
	v, ok := n.byLen[p.Bits()][p.Masked().Addr().As4()]
	return v, ok
}

// Delete empties p.
func (n *Nets[T]) Delete(p netip.Prefix) {
	l := p.Bits()
	delete(n.byLen[l], p.Masked().Addr().As4())
	if len(n.byLen[l]) == 0 {
		n.lens &^= 1 << l
	}
}

// Find returns what is at the longest prefix that holds a.
func (n *Nets[T]) Find(a [4]byte) (v T, ok bool) {
	word := uint32(a[0])<<24 | uint32(a[1])<<16 | uint32(a[2])<<8 | uint32(a[3])
	for lens := n.lens; lens != 0; {
		l := bits.Len64(lens) - 1
		lens &^= 1 << l
		m := word & uint32(^uint64(0)<<(32-l))
		if v, ok := n.byLen[l][[4]byte{byte(m >> 24), byte(m >> 16), byte(m >> 8), byte(m)}]; ok {
			return v, true
		}
	}
	return v, false
}
