package wire

import (
	"encoding/binary"

	"xpptp/engine"
)

// IPv4Len is the length of an IPv4 header without options.
const IPv4Len = 20

const (
	ip4DF      = 0x4000
	ip4MF      = 0x2000
	ip4OffMask = 0x1fff
)

// IPv4 is an IPv4 packet, cut to its total length.
type IPv4 []byte

// ParseIPv4 checks version, header length and total length, and cuts what
// follows the packet (Ethernet padding). It does not verify the header
// checksum: see HeaderChecksumOK.
func ParseIPv4(b []byte) (IPv4, engine.Drop) {
	if len(b) < IPv4Len {
		return nil, engine.ShortPacket
	}
	if b[0]>>4 != 4 {
		return nil, engine.NotIPv4
	}
	hl, total := int(b[0]&15)*4, int(be.Uint16(b[2:4]))
	if hl < IPv4Len || hl > total || total > len(b) {
		return nil, engine.BadIPHeader
	}
	return IPv4(b[:total]), engine.Pass
}

// HeaderLen returns the header length in bytes, options included.
func (p IPv4) HeaderLen() int { return int(p[0]&15) * 4 }

// TOS returns the DSCP and ECN octet.
func (p IPv4) TOS() uint8 { return p[1] }

// TotalLen returns the total length in bytes.
func (p IPv4) TotalLen() int { return int(be.Uint16(p[2:4])) }

// ID returns the identification field.
func (p IPv4) ID() uint16 { return be.Uint16(p[4:6]) }

// DF reports whether the packet must not be fragmented.
func (p IPv4) DF() bool { return be.Uint16(p[6:8])&ip4DF != 0 }

// MF reports whether more fragments follow.
func (p IPv4) MF() bool { return be.Uint16(p[6:8])&ip4MF != 0 }

// FragOffset returns the fragment offset in bytes.
func (p IPv4) FragOffset() int { return int(be.Uint16(p[6:8])&ip4OffMask) * 8 }

// IsFragment reports whether the packet is a fragment, the first included.
func (p IPv4) IsFragment() bool { return be.Uint16(p[6:8])&(ip4MF|ip4OffMask) != 0 }

// TTL returns the time to live.
func (p IPv4) TTL() uint8 { return p[8] }

// Protocol returns the protocol of the payload.
func (p IPv4) Protocol() uint8 { return p[9] }

// Checksum returns the header checksum field.
func (p IPv4) Checksum() uint16 { return be.Uint16(p[10:12]) }

// Src returns the source address.
func (p IPv4) Src() [4]byte { return [4]byte(p[12:16]) }

// Dst returns the destination address.
func (p IPv4) Dst() [4]byte { return [4]byte(p[16:20]) }

// Options returns the header's options; empty if there are none.
func (p IPv4) Options() []byte { return p[IPv4Len:p.HeaderLen()] }

// Payload returns what follows the header.
func (p IPv4) Payload() []byte { return p[p.HeaderLen():] }

// HeaderChecksumOK reports whether the header checksum is right.
func (p IPv4) HeaderChecksumOK() bool {
	if p.HeaderLen() != IPv4Len {
		return Checksum(p[:p.HeaderLen()], 0) == 0
	}
	// Without options, as nearly all are: all words at once. Whether the sum is
	// right does not depend on the order of bytes.
	_ = p[IPv4Len-1]
	s := binary.LittleEndian.Uint64(p)
	s = s>>32 + s&0xffffffff
	t := binary.LittleEndian.Uint64(p[8:])
	return fold(s+t>>32+t&0xffffffff+uint64(binary.LittleEndian.Uint32(p[16:]))) == 0xffff
}

// SetChecksum computes the header checksum anew.
func (p IPv4) SetChecksum() {
	be.PutUint16(p[10:12], 0)
	be.PutUint16(p[10:12], Checksum(p[:p.HeaderLen()], 0))
}

// SetTOS changes the DSCP and ECN octet and corrects the checksum.
func (p IPv4) SetTOS(tos uint8) {
	old := be.Uint16(p[0:2])
	p[1] = tos
	be.PutUint16(p[10:12], UpdateChecksum(p.Checksum(), old, be.Uint16(p[0:2])))
}

// DecTTL takes one from the time to live and corrects the checksum. It
// reports false, and changes nothing, if the packet may not be forwarded.
func (p IPv4) DecTTL() bool {
	if p[8] <= 1 {
		return false
	}
	old := be.Uint16(p[8:10])
	p[8]--
	be.PutUint16(p[10:12], UpdateChecksum(p.Checksum(), old, be.Uint16(p[8:10])))
	return true
}

// IPv4Fields are the fields of an IPv4 header without options.
type IPv4Fields struct {
	TOS        uint8
	ID         uint16
	DF         bool
	TTL        uint8
	Protocol   uint8
	Src, Dst   [4]byte
	PayloadLen int // bytes after the header; at most 65535 − IPv4Len
}

// PutIPv4 writes an IPv4 header with its checksum to b and returns its
// length, IPv4Len.
func PutIPv4(b []byte, f *IPv4Fields) int {
	b = b[:IPv4Len]
	b[0] = 0x45
	b[1] = f.TOS
	be.PutUint16(b[2:4], uint16(IPv4Len+f.PayloadLen))
	be.PutUint16(b[4:6], f.ID)
	var frag uint16
	if f.DF {
		frag = ip4DF
	}
	be.PutUint16(b[6:8], frag)
	b[8] = f.TTL
	b[9] = f.Protocol
	copy(b[12:16], f.Src[:])
	copy(b[16:20], f.Dst[:])
	IPv4(b).SetChecksum()
	return IPv4Len
}

// IsMulticast4 reports whether a is a multicast address or the limited
// broadcast address.
func IsMulticast4(a [4]byte) bool {
	return a[0]>>4 == 0xe || a == [4]byte{255, 255, 255, 255}
}
