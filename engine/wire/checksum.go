package wire

import (
	"encoding/binary"
	"math/bits"
)

// Checksum returns the Internet checksum (RFC 1071) of b as it stands in a
// header: the complement of the one's-complement sum. initial is a partial
// sum to start from: PseudoHeader4, PseudoHeader6, or 0. Over data that
// includes a right checksum field the result is 0.
func Checksum(b []byte, initial uint32) uint16 { return ^fold(uint64(initial) + uint64(sum(b))) }

// sum returns the folded 16-bit one's-complement sum of b; an odd last byte
// counts as the high byte of a word. The loop adds eight bytes at a time in
// little-endian order: the sum of byte-swapped words is the swapped sum.
func sum(b []byte) uint16 {
	var s, carry uint64
	for len(b) >= 32 {
		s, carry = bits.Add64(s, binary.LittleEndian.Uint64(b), carry)
		s, carry = bits.Add64(s, binary.LittleEndian.Uint64(b[8:]), carry)
		s, carry = bits.Add64(s, binary.LittleEndian.Uint64(b[16:]), carry)
		s, carry = bits.Add64(s, binary.LittleEndian.Uint64(b[24:]), carry)
		b = b[32:]
	}
	for len(b) >= 8 {
		s, carry = bits.Add64(s, binary.LittleEndian.Uint64(b), carry)
		b = b[8:]
	}
	var tail uint64
	if len(b) >= 4 {
		tail = uint64(binary.LittleEndian.Uint32(b))
		b = b[4:]
	}
	if len(b) >= 2 {
		tail += uint64(binary.LittleEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		tail += uint64(b[0])
	}
	s, carry = bits.Add64(s, tail, carry)
	s, carry = bits.Add64(s, 0, carry)
	return bits.ReverseBytes16(fold(s&0xffffffff + s>>32 + carry))
}

func fold(s uint64) uint16 {
	s = s>>32 + s&0xffffffff
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	return uint16(s)
}

// PseudoHeader4 returns the partial sum of the IPv4 pseudo-header (RFC 793
// §3.1) for a transport segment of n bytes.
func PseudoHeader4(src, dst [4]byte, proto uint8, n int) uint32 {
	return uint32(be.Uint16(src[0:])) + uint32(be.Uint16(src[2:])) +
		uint32(be.Uint16(dst[0:])) + uint32(be.Uint16(dst[2:])) +
		uint32(proto) + uint32(n)
}

// PseudoHeader6 returns the partial sum of the IPv6 pseudo-header (RFC 8200
// §8.1) for an upper-layer packet of n bytes.
func PseudoHeader6(src, dst [16]byte, proto uint8, n int) uint32 {
	return uint32(sum(src[:])) + uint32(sum(dst[:])) + uint32(proto) + uint32(n)
}

// UpdateChecksum returns checksum c after a 16-bit word it covers changed from
// was to is (RFC 1624, equation 3).
func UpdateChecksum(c, was, is uint16) uint16 {
	return ^fold(uint64(^c) + uint64(^was) + uint64(is))
}
