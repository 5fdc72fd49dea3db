package tun

import (
	"encoding/binary"
	"math/bits"
)

// The Internet checksum (RFC 1071) does not depend on byte order as long as
// the sum is read and written in the same one: little-endian here, whose
// loads need no swapping on the machines that matter.

// sum adds the 16-bit words of b to a running sum. All but the last piece of
// a sum have even length.
func sum(acc uint64, b []byte) uint64 {
	var c uint64
	for len(b) >= 32 {
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(b), 0)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(b[8:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(b[16:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(b[24:]), c)
		acc, _ = bits.Add64(acc, 0, c)
		b = b[32:]
	}
	for len(b) >= 8 {
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(b), 0)
		acc += c
		b = b[8:]
	}
	var last [8]byte
	copy(last[:], b)
	acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(last[:]), 0)
	return acc + c
}

// sum16 adds one number, as if it stood in the packet in network order.
func sum16(acc uint64, v uint16) uint64 {
	acc, c := bits.Add64(acc, uint64(bits.ReverseBytes16(v)), 0)
	return acc + c
}

// put writes the checksum of what was summed to b[:2].
func put(b []byte, acc uint64) {
	binary.LittleEndian.PutUint16(b, ^fold(acc))
}

func fold(acc uint64) uint16 {
	acc = acc>>32 + acc&0xffffffff
	acc = acc>>32 + acc&0xffffffff
	acc = acc>>16 + acc&0xffff
	acc = acc>>16 + acc&0xffff
	acc = acc>>16 + acc&0xffff
	return uint16(acc)
}
