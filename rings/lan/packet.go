package lan

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"xpptp/rings"
)

// Headers: IEEE 802.3 and 802.1Q, RFC 791 §3.1, RFC 8200 §3, RFC 826,
// RFC 4861 §4.3 and §4.4.
const (
	macLen      = 6
	ethernetLen = 14
	tagLen      = 4
	etherType   = 12

	ipv4Len      = 20
	ipv4TTL      = 8
	ipv4Checksum = 10
	ipv4Dst      = 16
	ipv6Len      = 40
	ipv6Payload  = 4
	ipv6Next     = 6
	ipv6HopLimit = 7
	ipv6Src      = 8
	ipv6Dst      = 24

	arpLen          = 28
	arpOperation    = 6
	arpSender       = 8 // MAC and IPv4 address
	arpTarget       = 18
	arpRequest      = 1
	arpReply        = 2
	arpAddressesLen = 10

	ndTarget        = 8
	ndLen           = 24 // without options
	ndSolicitation  = 135
	ndAdvertisement = 136
	ndFlags         = 4
	ndSolicited     = 0x40
	ndSourceOption  = 1
	ndTargetOption  = 2
	ndOptionLen     = 8
)

// verdict says what becomes of a frame.
type verdict uint8

const (
	pass  verdict = iota // it has become the IP packet to pass on
	reply                // it has become the answer to a question
	bad
)

// arrive makes a frame of the interface what it is for. mac is ours.
func arrive(f *rings.Frame, mac [macLen]byte) verdict {
	b := f.Data()
	n, typ := link(b)
	p := b[n:]
	switch typ {
	case unix.ETH_P_IP:
		if len(p) < ipv4Len || p[0]>>4 != 4 || p[ipv4TTL] <= 1 {
			return bad
		}
	case unix.ETH_P_IPV6:
		if len(p) < ipv6Len || p[0]>>4 != 6 {
			return bad
		}
		if solicits(p) {
			return advertise(f, n, mac)
		}
		if p[ipv6Dst] == 0xff {
			return bad
		}
		if p[ipv6HopLimit] <= 1 {
			return bad
		}
	case unix.ETH_P_ARP:
		return answerARP(b, n, mac)
	default:
		return bad
	}
	age(p)
	f.Pull(n)
	return pass
}

// link returns the length of a frame's Ethernet header, with up to two tags,
// and the type of what follows; 0 if it is cut.
func link(b []byte) (n int, typ uint16) {
	if len(b) < ethernetLen {
		return len(b), 0
	}
	n, typ = ethernetLen, binary.BigEndian.Uint16(b[etherType:])
	for range 2 {
		if typ != unix.ETH_P_8021Q && typ != unix.ETH_P_8021AD {
			break
		}
		if len(b) < n+tagLen {
			return len(b), 0
		}
		typ = binary.BigEndian.Uint16(b[n+tagLen-2:])
		n += tagLen
	}
	return n, typ
}

// age takes one off the TTL of an IPv4 packet (RFC 1624 §3 for the checksum)
// or off the hop limit of an IPv6 packet.
func age(p []byte) {
	if p[0]>>4 == 6 {
		p[ipv6HopLimit]--
		return
	}
	p[ipv4TTL]--
	sum := uint32(binary.BigEndian.Uint16(p[ipv4Checksum:])) + 0x100
	binary.BigEndian.PutUint16(p[ipv4Checksum:], uint16(sum+sum>>16))
}

// destination returns where a packet of a call goes, if it is one that a
// router passes on without a second thought.
func destination(p []byte) (netip.Addr, bool) {
	var a netip.Addr
	if len(p) < ipv4Len {
		return a, false
	}
	switch {
	case p[0] == 0x45 && p[ipv4TTL] > 1:
		a = netip.AddrFrom4([4]byte(p[ipv4Dst:]))
	case p[0]>>4 == 6 && len(p) >= ipv6Len && p[ipv6HopLimit] > 1:
		a = netip.AddrFrom16([16]byte(p[ipv6Dst:]))
	default:
		return a, false
	}
	// A loopback address never comes with a way; neither does broadcast.
	return a, !a.IsMulticast() && !a.IsLinkLocalUnicast()
}

// answerARP makes a request for somebody's address the answer that it is ours.
func answerARP(b []byte, n int, mac [macLen]byte) verdict {
	p := b[n:]
	// Ethernet and IPv4 addresses.
	if len(p) < arpLen || binary.BigEndian.Uint64(p) != 0x0001_0800_0604_0000|arpRequest {
		return bad
	}
	asked := [4]byte(p[arpTarget+macLen:])
	p[arpOperation+1] = arpReply
	copy(p[arpTarget:], p[arpSender:arpSender+arpAddressesLen])
	copy(p[arpSender:], mac[:])
	copy(p[arpSender+macLen:], asked[:])
	turn(b, mac)
	return reply
}

// turn sends a frame back to where it came from.
func turn(b []byte, mac [macLen]byte) {
	copy(b, b[macLen:2*macLen])
	copy(b[macLen:], mac[:])
}

// solicits reports whether an IPv6 packet is a Neighbor Solicitation for an
// address that was looked up: the target, if it goes to a group, else the
// destination.
func solicits(p []byte) bool {
	if len(p) < ipv6Len+ndLen || p[ipv6Next] != unix.IPPROTO_ICMPV6 || p[ipv6HopLimit] != 255 || p[ipv6Len] != ndSolicitation {
		return false
	}
	return p[ipv6Dst] == 0xff || [16]byte(p[ipv6Dst:]) == [16]byte(p[ipv6Len+ndTarget:])
}

// advertise makes a Neighbor Solicitation, behind n bytes of Ethernet header,
// a Neighbor Advertisement that somebody's address is ours.
func advertise(f *rings.Frame, n int, mac [macLen]byte) verdict {
	const length = ndLen + ndOptionLen
	f.Reset(f.Offset(), n+ipv6Len+length) // longer at most by the tailroom
	b := f.Data()
	p := b[n:]
	nd := p[ipv6Len:]
	asker := netip.AddrFrom16([16]byte(p[ipv6Src:]))
	turn(b, mac)
	flags := byte(ndSolicited)
	if asker.IsUnspecified() { // looks for duplicates: tell everyone
		asker, flags = netip.IPv6LinkLocalAllNodes(), 0
		copy(b, []byte{0x33, 0x33, 0, 0, 0, 1})
	}
	binary.BigEndian.PutUint16(p[ipv6Payload:], length)
	a := asker.As16()
	copy(p[ipv6Dst:], a[:])
	copy(p[ipv6Src:], nd[ndTarget:ndLen])
	nd[0], nd[1], nd[2], nd[3] = ndAdvertisement, 0, 0, 0
	nd[ndFlags], nd[ndFlags+1], nd[ndFlags+2], nd[ndFlags+3] = flags, 0, 0, 0
	nd[ndLen], nd[ndLen+1] = ndTargetOption, ndOptionLen/8
	copy(nd[ndLen+2:], mac[:])
	sum := uint32(unix.IPPROTO_ICMPV6 + length) // the pseudo-header (RFC 8200 §8.1)
	for _, s := range [][]byte{p[ipv6Src:ipv6Len], nd} {
		for i := 0; i < len(s); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(s[i:]))
		}
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(nd[2:], ^uint16(sum))
	return reply
}
