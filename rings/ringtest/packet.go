package ringtest

import (
	"encoding/binary"
	"fmt"
)

// Smallest is the shortest packet that Packet makes.
const Smallest = 20 + 12

// Packet returns an IPv4 packet of n bytes with an enhanced GRE header
// (RFC 2637 §4.1), complete with checksum; seq is its sequence number and
// decides what it carries.
func Packet(src, dst [4]byte, call uint16, seq uint32, n int) []byte {
	if n < Smallest {
		panic(fmt.Sprintf("ringtest: packet of %d bytes", n))
	}
	b := make([]byte, n)
	b[0] = 0x45
	binary.BigEndian.PutUint16(b[2:], uint16(n))
	binary.BigEndian.PutUint16(b[4:], uint16(seq)|1) // the kernel fills in an ID of zero
	b[8], b[9] = 64, 47
	copy(b[12:], src[:])
	copy(b[16:], dst[:])
	Seal(b)
	g := b[20:]
	binary.BigEndian.PutUint16(g[0:], 0x3001)
	binary.BigEndian.PutUint16(g[2:], 0x880b)
	binary.BigEndian.PutUint16(g[4:], uint16(n-Smallest))
	binary.BigEndian.PutUint16(g[6:], call)
	binary.BigEndian.PutUint32(g[8:], seq)
	x := seq
	for i := Smallest; i < n; i++ {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}

// Seq returns the sequence number of a packet that Packet made, and whether
// it is one.
func Seq(b []byte) (uint32, bool) {
	if len(b) < Smallest || b[9] != 47 || b[20] != 0x30 || b[21] != 1 {
		return 0, false
	}
	return binary.BigEndian.Uint32(b[28:]), true
}

// Seal computes the IPv4 header checksum of b.
func Seal(b []byte) {
	b[10], b[11] = 0, 0
	var s uint32
	for i := 0; i < int(b[0]&15)*4; i += 2 {
		s += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	binary.BigEndian.PutUint16(b[10:], ^uint16(s))
}

// Ethernet returns an untagged Ethernet header for IPv4.
func Ethernet(dst, src [6]byte) []byte {
	return append(append(append(make([]byte, 0, 14), dst[:]...), src[:]...), 8, 0)
}
