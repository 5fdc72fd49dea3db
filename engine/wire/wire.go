// Package wire reads and writes the headers of the data plane: Ethernet,
// IPv4, IPv6, enhanced GRE (RFC 2637 §4.1), PPP framing, and as much of TCP,
// UDP and ICMP as a PPTP concentrator needs.
//
// Header types are views: a byte slice with named accessors. A ParseXxx
// function checks everything the accessors rely on, once, and cuts what the
// header's own length says is not part of the packet; accessors of a view
// that came out of a successful parse cannot panic. Converting unchecked
// bytes to a view gives no such promise. Views alias the packet; nothing here
// keeps one.
//
// Numbers are in host order in Go and in network order on the wire. Addresses
// are arrays. No function allocates.
package wire

import (
	"encoding/binary"

	"xpptp/engine"
)

var be = binary.BigEndian

// IP protocol numbers.
const (
	ProtoICMP   = 1
	ProtoTCP    = 6
	ProtoUDP    = 17
	ProtoGRE    = 47
	ProtoICMPv6 = 58
)

// Ethernet frame layout and the types that matter here.
const (
	EthernetLen = 14 // destination, source, type
	VLANLen     = 4  // one 802.1Q or 802.1ad tag

	EtherTypeIPv4 = 0x0800
	EtherTypeARP  = 0x0806
	EtherTypeIPv6 = 0x86DD
	EtherTypeVLAN = 0x8100 // 802.1Q
	EtherTypeQinQ = 0x88A8 // 802.1ad
)

// maxTags is how many VLAN tags L3Offset skips: one service tag and one
// customer tag.
const maxTags = 2

// Ethernet is a frame that begins with an Ethernet II header.
type Ethernet []byte

// ParseEthernet checks that b holds an Ethernet header.
func ParseEthernet(b []byte) (Ethernet, engine.Drop) {
	if len(b) < EthernetLen {
		return nil, engine.ShortPacket
	}
	return Ethernet(b), engine.Pass
}

// Dst returns the destination address.
func (e Ethernet) Dst() [6]byte { return [6]byte(e[0:6]) }

// Src returns the source address.
func (e Ethernet) Src() [6]byte { return [6]byte(e[6:12]) }

// Type returns the type field that follows the addresses: a VLAN tag's type
// if the frame is tagged (see L3Offset).
func (e Ethernet) Type() uint16 { return be.Uint16(e[12:14]) }

// PutEthernet writes an untagged Ethernet II header to b and returns its
// length, EthernetLen.
func PutEthernet(b []byte, dst, src [6]byte, etherType uint16) int {
	_ = b[EthernetLen-1]
	copy(b[0:6], dst[:])
	copy(b[6:12], src[:])
	be.PutUint16(b[12:14], etherType)
	return EthernetLen
}

// PutVLAN writes an Ethernet II header with one 802.1Q tag (tci: priority and
// VLAN ID) and returns its length.
func PutVLAN(b []byte, dst, src [6]byte, tci, etherType uint16) int {
	_ = b[EthernetLen+VLANLen-1]
	PutEthernet(b, dst, src, EtherTypeVLAN)
	be.PutUint16(b[14:16], tci)
	be.PutUint16(b[16:18], etherType)
	return EthernetLen + VLANLen
}

// L3Offset returns where the network-layer packet begins in an Ethernet frame
// and what it is, past up to two 802.1Q or 802.1ad tags.
func L3Offset(eth []byte) (off int, etherType uint16, d engine.Drop) {
	if len(eth) < EthernetLen {
		return 0, 0, engine.ShortPacket
	}
	off = EthernetLen
	etherType = be.Uint16(eth[12:14])
	for range maxTags {
		if etherType != EtherTypeVLAN && etherType != EtherTypeQinQ {
			break
		}
		if len(eth) < off+VLANLen {
			return 0, 0, engine.ShortPacket
		}
		etherType = be.Uint16(eth[off+2 : off+4])
		off += VLANLen
	}
	return off, etherType, engine.Pass
}
