package lab

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Header fields: RFC 791 §3.1, RFC 8200 §3, RFC 768, RFC 792, RFC 4443 §4.
const (
	ipv4Len         = 20
	ipv4Fragment    = 6
	ipv4Protocol    = 9
	ipv4Addresses   = 12
	ipv6Len         = 40
	ipv6NextHeader  = 6
	ipv6Addresses   = 8
	fragmentOffset  = 0x1fff
	udpLen          = 8
	icmpLen         = 8
	icmpChecksum    = 2
	icmpEcho        = 8
	icmpEchoReply   = 0
	icmpv6Echo      = 128
	icmpv6EchoReply = 129
)

// turn makes an IP packet what its destination would answer with and reports
// whether it could. No checksum but ICMP's changes: the same words are summed.
func turn(b []byte) bool {
	if len(b) < ipv4Len {
		return false
	}
	switch b[0] >> 4 {
	case 4:
		return turn4(b)
	case 6:
		return turn6(b)
	}
	return false
}

func turn4(b []byte) bool {
	header := int(b[0]&15) * 4
	a := b[ipv4Addresses:ipv4Len]
	if header < ipv4Len || header > len(b) || a[4] >= 224 { // a group, or everyone
		return false
	}
	// The first fragment of a packet has the ports, the others follow it.
	later := binary.BigEndian.Uint16(b[ipv4Fragment:])&fragmentOffset != 0
	p := b[header:]
	switch b[ipv4Protocol] {
	case unix.IPPROTO_UDP:
		if !later && !turnUDP(p) {
			return false
		}
	case unix.IPPROTO_ICMP:
		if !later && !turnEcho(p, icmpEcho, icmpEchoReply) {
			return false
		}
	default:
		return false
	}
	swap(a, 4)
	return true
}

func turn6(b []byte) bool {
	if len(b) < ipv6Len || b[ipv6Addresses+16] == 0xff { // a group
		return false
	}
	p := b[ipv6Len:]
	switch b[ipv6NextHeader] {
	case unix.IPPROTO_UDP:
		if !turnUDP(p) {
			return false
		}
	case unix.IPPROTO_ICMPV6:
		if !turnEcho(p, icmpv6Echo, icmpv6EchoReply) {
			return false
		}
	default:
		return false
	}
	swap(b[ipv6Addresses:ipv6Len], 16)
	return true
}

func turnUDP(p []byte) bool {
	if len(p) < udpLen {
		return false
	}
	swap(p, 2)
	return true
}

// turnEcho makes a request a reply; the checksum follows (RFC 1624 §3).
func turnEcho(p []byte, request, reply byte) bool {
	if len(p) < icmpLen || p[0] != request || p[1] != 0 {
		return false
	}
	p[0] = reply
	sum := uint32(^binary.BigEndian.Uint16(p[icmpChecksum:])) + uint32(^(uint16(request) << 8)) + uint32(reply)<<8
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(p[icmpChecksum:], ^uint16(sum))
	return true
}

// swap exchanges the two fields of n bytes that b begins with.
func swap(b []byte, n int) {
	for i := range n {
		b[i], b[n+i] = b[n+i], b[i]
	}
}
