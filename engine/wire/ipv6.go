package wire

import "xpptp/engine"

// IPv6Len is the length of the IPv6 header without extension headers.
const IPv6Len = 40

// IPv6 next-header values of extension headers (RFC 8200 §4).
const (
	extHopByHop = 0
	extRouting  = 43
	extFragment = 44
	extDestOpts = 60
)

// maxExtHeaders bounds the walk over a packet's extension headers.
const maxExtHeaders = 8

// IPv6 is an IPv6 packet, cut to its payload length.
type IPv6 []byte

// ParseIPv6 checks version and payload length and cuts what follows the
// packet. Jumbograms (payload length 0 with a hop-by-hop option) are not
// supported: such a packet is cut after its header.
func ParseIPv6(b []byte) (IPv6, engine.Drop) {
	if len(b) < IPv6Len {
		return nil, engine.InnerShort
	}
	total := IPv6Len + int(be.Uint16(b[4:6]))
	if b[0]>>4 != 6 || total > len(b) {
		return nil, engine.InnerBad
	}
	return IPv6(b[:total]), engine.Pass
}

// TrafficClass returns the DSCP and ECN octet.
func (p IPv6) TrafficClass() uint8 { return uint8(be.Uint16(p[0:2]) >> 4) }

// PayloadLen returns the bytes after the fixed header.
func (p IPv6) PayloadLen() int { return int(be.Uint16(p[4:6])) }

// NextHeader returns the type of what follows the fixed header.
func (p IPv6) NextHeader() uint8 { return p[6] }

// HopLimit returns the hop limit.
func (p IPv6) HopLimit() uint8 { return p[7] }

// Src returns the source address.
func (p IPv6) Src() [16]byte { return [16]byte(p[8:24]) }

// Dst returns the destination address.
func (p IPv6) Dst() [16]byte { return [16]byte(p[24:40]) }

// Payload returns what follows the fixed header, extension headers included.
func (p IPv6) Payload() []byte { return p[IPv6Len:] }

// SetTrafficClass changes the DSCP and ECN octet.
func (p IPv6) SetTrafficClass(tc uint8) {
	be.PutUint16(p[0:2], be.Uint16(p[0:2])&0xf00f|uint16(tc)<<4)
}

// DecHopLimit takes one from the hop limit. It reports false, and changes
// nothing, if the packet may not be forwarded.
func (p IPv6) DecHopLimit() bool {
	if p[7] <= 1 {
		return false
	}
	p[7]--
	return true
}

// Upper walks the extension headers and returns the upper-layer protocol and
// the offset of its header in p. fragment is true if a fragment header stands
// in between: then proto and off describe what the fragment carries, and only
// at fragOff 0 (in bytes) is that an upper-layer header. ok is false if the
// headers do not fit into the packet or there are more than eight; a header
// this function does not know ends the walk and is returned as proto.
func (p IPv6) Upper() (proto uint8, off int, fragment bool, fragOff int, ok bool) {
	proto, off = p.NextHeader(), IPv6Len
	for range maxExtHeaders {
		var n int
		switch proto {
		case extHopByHop, extRouting, extDestOpts:
			if len(p) < off+8 {
				return 0, 0, fragment, fragOff, false
			}
			n = 8 + int(p[off+1])*8
		case extFragment:
			if len(p) < off+8 {
				return 0, 0, fragment, fragOff, false
			}
			n = 8
			fragment = true
			fragOff = int(be.Uint16(p[off+2:off+4]) &^ 7)
			if fragOff != 0 {
				return p[off], off + n, true, fragOff, true
			}
		default:
			return proto, off, fragment, fragOff, true
		}
		if len(p) < off+n {
			return 0, 0, fragment, fragOff, false
		}
		proto, off = p[off], off+n
	}
	return 0, 0, fragment, fragOff, false
}

// IPv6Fields are the fields of an IPv6 header.
type IPv6Fields struct {
	TrafficClass uint8
	FlowLabel    uint32 // 20 bits
	NextHeader   uint8
	HopLimit     uint8
	Src, Dst     [16]byte
	PayloadLen   int // bytes after the header; at most 65535
}

// PutIPv6 writes an IPv6 header to b and returns its length, IPv6Len.
func PutIPv6(b []byte, f *IPv6Fields) int {
	b = b[:IPv6Len]
	be.PutUint32(b[0:4], 6<<28|uint32(f.TrafficClass)<<20|f.FlowLabel&0xfffff)
	be.PutUint16(b[4:6], uint16(f.PayloadLen))
	b[6] = f.NextHeader
	b[7] = f.HopLimit
	copy(b[8:24], f.Src[:])
	copy(b[24:40], f.Dst[:])
	return IPv6Len
}

// LinkLocal6 returns the link-local address fe80::/64 with interface
// identifier iid (RFC 4291 §2.5.6), as IPV6CP negotiates it (RFC 5072 §5).
func LinkLocal6(iid [8]byte) (a [16]byte) {
	a[0], a[1] = 0xfe, 0x80
	copy(a[8:], iid[:])
	return a
}

// InterfaceID6 returns the interface identifier: the last 64 bits of a.
func InterfaceID6(a [16]byte) [8]byte { return [8]byte(a[8:16]) }

// IsLinkLocal6 reports whether a is in fe80::/10.
func IsLinkLocal6(a [16]byte) bool { return a[0] == 0xfe && a[1]&0xc0 == 0x80 }

// IsMulticast6 reports whether a is in ff00::/8.
func IsMulticast6(a [16]byte) bool { return a[0] == 0xff }

// IsLinkScope6 reports whether a reaches no further than the link: link-local
// unicast, and multicast of interface-local or link-local scope (RFC 4291
// §2.7). A router does not forward to such an address.
func IsLinkScope6(a [16]byte) bool {
	return IsLinkLocal6(a) || IsMulticast6(a) && a[1]&15 <= 2
}
