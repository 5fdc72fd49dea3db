// Package traffic makes test packets and judges what comes back of them: the
// Stamp that every packet carries, Sizes and Schedule of a stream, the Pacer
// that says when the next packet is due, the Template that writes it, the
// Verifier that finds loss, duplicates and reordering, and the requests by
// which the far end of a call is asked to send.
//
// Times are nanoseconds of a monotonic clock of whoever took them. Lengths
// called size are those of an IP packet, header included.
package traffic

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
)

var be = binary.BigEndian

// StampLen is the length of a stamp: the smallest UDP payload. An IPv4 packet
// with a stamp has 64 bytes at least, an IPv6 packet 84.
const StampLen = 36

const (
	stampMagic   = 0x5853 // "XS"
	stampVersion = 1
)

// Flags of a stamp.
const (
	// FlagReply: the far end has seen the packet and sent it back. Without it,
	// a packet that comes back was turned round by its addresses only.
	FlagReply = 1 << iota
	// FlagShared, in a reply: both ends read the same clock.
	FlagShared
	// FlagDown: made by the far end, on request.
	FlagDown
	// FlagQuiet: not to be sent back. The far end counts it.
	FlagQuiet
	// FlagControl: not a packet of a stream but a Request or a Report about one.
	FlagControl

	flagsKnown = FlagReply | FlagShared | FlagDown | FlagQuiet | FlagControl
)

// Stamp is the UDP payload of a test packet. All numbers are big endian:
//
//	 0  magic 0x5853
//	 2  version 1
//	 3  flags
//	 4  stream
//	 8  sequence number, from 0
//	16  due: when the schedule wanted it sent, on the sender's clock
//	24  late: how much later it was sent, at most 4.29 s
//	28  sender's clock (see Clock); in a reply the time at which the far end
//	    received it: the low 32 bits of its clock
//	32  CRC-32C of what follows the stamp, then of bytes 0 to 31
//	36  a pattern, the same in all packets, or the body of a Request or Report
type Stamp []byte

// StampFields are what PutStamp writes.
type StampFields struct {
	Flags  uint8
	Stream uint32
	Seq    uint64
	Due    int64  // ns
	Late   uint32 // ns
	Clock  uint32 // 0: one that nobody shares
}

// Verdict says what a received packet is.
type Verdict uint8

const (
	// Whole: every bit is as it was sent.
	Whole Verdict = iota
	// Foreign: not a test packet at all.
	Foreign
	// Corrupt: a test packet with other bits than it was sent with.
	Corrupt
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// maxFill is the longest filling: that of the largest packet any port takes.
const maxFill = 4096

// pattern is what fills packets: the same in all of them, so that each end
// knows every byte. crcs and sums are of its first n bytes.
var pattern, crcs, sums = func() (p [maxFill]byte, crcs [maxFill + 1]uint32, sums [maxFill + 1]uint32) {
	x := uint64(0x9e3779b97f4a7c15)
	for i := range p {
		x ^= x << 13 // xorshift64: Marsaglia, 2003
		x ^= x >> 7
		x ^= x << 17
		p[i] = byte(x >> 32)
	}
	var sum uint32
	for i, b := range p {
		crcs[i+1] = crc32.Update(crcs[i], castagnoli, p[i:i+1])
		if i%2 == 0 {
			sum += uint32(b) << 8
		} else {
			sum += uint32(b)
		}
		sums[i+1] = sum
	}
	return p, crcs, sums
}()

// PutStamp makes b, at least StampLen and at most StampLen + 4096 bytes, the
// payload of a test packet: stamp, pattern, checksum.
func PutStamp(b []byte, f *StampFields) {
	n := copy(b[StampLen:], pattern[:])
	putStamp(b, f, crcs[n])
}

// putStamp writes the stamp of a payload that is complete otherwise, and returns
// its checksum; crc is that of what follows the stamp.
func putStamp(b []byte, f *StampFields, crc uint32) uint32 {
	_ = b[StampLen-1]
	// In words of eight bytes, as the checksum reads them right after.
	be.PutUint64(b[0:], stampMagic<<48|stampVersion<<40|uint64(f.Flags)<<32|uint64(f.Stream))
	be.PutUint64(b[8:], f.Seq)
	be.PutUint64(b[16:], uint64(f.Due))
	be.PutUint64(b[24:], uint64(f.Late)<<32|uint64(f.Clock))
	crc = crc32.Update(crc, castagnoli, b[:32])
	be.PutUint32(b[32:], crc)
	return crc
}

// ParseStamp looks at a UDP payload. The stamp of a corrupt packet can be
// read, but nothing it says is sure. That of a foreign one is nil.
func ParseStamp(b []byte) (Stamp, Verdict) {
	if len(b) < StampLen || be.Uint16(b) != stampMagic {
		return nil, Foreign
	}
	s := Stamp(b)
	if s[2] != stampVersion || s.Flags()&^flagsKnown != 0 {
		return s, Corrupt
	}
	rest := b[StampLen:]
	var crc uint32
	switch {
	case s.Flags()&FlagControl != 0:
		crc = checksum(rest)
	case len(rest) <= maxFill && bytes.Equal(rest, pattern[:len(rest)]):
		crc = crcs[len(rest)]
	default:
		return s, Corrupt
	}
	if crc32.Update(crc, castagnoli, b[:32]) != be.Uint32(b[32:]) {
		return s, Corrupt
	}
	return s, Whole
}

// Flags returns the flags.
func (s Stamp) Flags() uint8 { return s[3] }

// Stream returns the stream's number.
func (s Stamp) Stream() uint32 { return be.Uint32(s[4:]) }

// Seq returns the sequence number.
func (s Stamp) Seq() uint64 { return be.Uint64(s[8:]) }

// Due returns when the packet should have been sent.
func (s Stamp) Due() int64 { return int64(be.Uint64(s[16:])) }

// Late returns how much later it was sent.
func (s Stamp) Late() uint32 { return be.Uint32(s[24:]) }

// Sent returns when it was sent.
func (s Stamp) Sent() int64 { return s.Due() + int64(s.Late()) }

// Clock returns the sender's clock; not of a reply.
func (s Stamp) Clock() uint32 { return be.Uint32(s[28:]) }

// Body returns what follows the stamp.
func (s Stamp) Body() []byte { return s[StampLen:] }

// Reply turns a whole packet into its reply, in place: received at now on the
// clock with the given number.
func (s Stamp) Reply(now int64, clock uint32) {
	f := FlagReply
	if clock != 0 && s.Clock() == clock {
		f |= FlagShared
	}
	s[3] |= uint8(f)
	be.PutUint32(s[28:], uint32(now))
	var crc uint32
	if s.Flags()&FlagControl != 0 {
		crc = checksum(s[StampLen:])
	} else {
		crc = crcs[len(s)-StampLen]
	}
	be.PutUint32(s[32:], crc32.Update(crc, castagnoli, s[:32]))
}

// Up returns the time that a reply's packet took to the far end. ok is false
// if that cannot be known: the clocks differ, or the packet was under way for
// so long that the received time is ambiguous. now is when the reply came.
func (s Stamp) Up(now int64) (ns int64, ok bool) {
	if s.Flags()&(FlagReply|FlagShared) != FlagReply|FlagShared {
		return 0, false
	}
	round := now - s.Sent()
	ns = int64(be.Uint32(s[28:]) - uint32(s.Sent()))
	return ns, round >= 0 && ns <= round && round < 1<<32
}
