package wire

import "xpptp/engine"

// ICMP types and codes that routers send (RFC 792, RFC 1191, RFC 4443).
const (
	ICMPEchoReply    = 0
	ICMPUnreachable  = 3
	ICMPEcho         = 8
	ICMPTimeExceeded = 11

	ICMPFragNeeded = 4 // code of ICMPUnreachable

	ICMPv6Unreachable  = 1
	ICMPv6TooBig       = 2
	ICMPv6TimeExceeded = 3
	ICMPv6Echo         = 128
	ICMPv6EchoReply    = 129

	icmpv6Redirect = 137
)

// Longest ICMP error: 576 bytes for IPv4 (RFC 1812 §4.3.2.3), the minimum MTU
// for IPv6 (RFC 4443 §2.4 c). A buffer of ICMPErrorMax bytes holds either.
const (
	icmp4ErrorMax = 576
	ICMPErrorMax  = 1280
)

// icmpTOS is the precedence of ICMP errors: internetwork control (RFC 1812
// §4.3.2.5).
const icmpTOS = 0xc0

// PutFragNeeded writes to b the answer to an IPv4 packet with DF that is
// larger than mtu: an IPv4 packet from src with ICMP type 3 code 4 (RFC 1191
// §4). It returns the packet's length, or 0 if none may be sent. b must hold
// ICMPErrorMax bytes and not overlap orig.
func PutFragNeeded(b []byte, src [4]byte, orig IPv4, mtu uint16) int {
	return PutICMPError(b, src, orig, ICMPUnreachable, ICMPFragNeeded, uint32(mtu))
}

// PutICMPError writes to b an IPv4 packet with an ICMP error about orig, to
// its source; rest is the second word of the ICMP header. It returns the
// packet's length, or 0 if RFC 1812 §4.3.2.7 forbids an answer: orig is an
// ICMP error itself, not the first fragment, sent to a multicast or broadcast
// address, or its source is no single host. The rate is the caller's to
// limit. b must hold ICMPErrorMax bytes and not overlap orig.
func PutICMPError(b []byte, src [4]byte, orig IPv4, icmpType, code uint8, rest uint32) int {
	if !icmpAnswerable(orig) {
		return 0
	}
	n := min(len(orig), icmp4ErrorMax-IPv4Len-ICMPLen)
	PutIPv4(b, &IPv4Fields{
		TOS: icmpTOS, DF: true, TTL: 64, Protocol: ProtoICMP,
		Src: src, Dst: orig.Src(), PayloadLen: ICMPLen + n,
	})
	m := b[IPv4Len : IPv4Len+ICMPLen+n]
	putICMP(m, icmpType, code, rest)
	copy(m[ICMPLen:], orig[:n])
	be.PutUint16(m[2:4], Checksum(m, 0))
	return IPv4Len + len(m)
}

func icmpAnswerable(p IPv4) bool {
	src := p.Src()
	if p.FragOffset() != 0 || IsMulticast4(p.Dst()) ||
		src[0] == 0 || src[0] == 127 || src[0] >= 224 {
		return false
	}
	if p.Protocol() != ProtoICMP {
		return true
	}
	// Only queries and replies are answered; a type this list lacks may be an error.
	m := p.Payload()
	if len(m) < 1 {
		return false
	}
	switch m[0] {
	case ICMPEchoReply, ICMPEcho, 9, 10, 13, 14, 15, 16, 17, 18:
		return true
	}
	return false
}

// PutPacketTooBig writes to b the answer to an IPv6 packet larger than mtu: an
// IPv6 packet from src with ICMPv6 type 2 (RFC 4443 §3.2). It returns the
// packet's length, or 0 if none may be sent. b must hold ICMPErrorMax bytes
// and not overlap orig.
func PutPacketTooBig(b []byte, src [16]byte, orig IPv6, mtu uint32) int {
	return PutICMPv6Error(b, src, orig, ICMPv6TooBig, 0, mtu)
}

// PutICMPv6Error writes to b an IPv6 packet with an ICMPv6 error about orig,
// to its source. It returns the packet's length, or 0 if orig is not to be
// answered (RFC 4443 §2.4 e): an ICMPv6 error or redirect, a fragment after
// the first (it may belong to one), a multicast destination, or a source that
// is no single node. The rate is the caller's to limit. b must hold
// ICMPErrorMax bytes and not overlap orig.
func PutICMPv6Error(b []byte, src [16]byte, orig IPv6, icmpType, code uint8, rest uint32) int {
	from := orig.Src()
	if from == ([16]byte{}) || IsMulticast6(from) || IsMulticast6(orig.Dst()) {
		return 0
	}
	proto, off, _, fragOff, ok := orig.Upper()
	if !ok || fragOff != 0 {
		return 0
	}
	if proto == ProtoICMPv6 && (off >= len(orig) || orig[off] < 128 || orig[off] == icmpv6Redirect) {
		return 0
	}
	n := min(len(orig), ICMPErrorMax-IPv6Len-ICMPLen)
	PutIPv6(b, &IPv6Fields{
		NextHeader: ProtoICMPv6, HopLimit: 64, Src: src, Dst: from, PayloadLen: ICMPLen + n,
	})
	m := b[IPv6Len : IPv6Len+ICMPLen+n]
	putICMP(m, icmpType, code, rest)
	copy(m[ICMPLen:], orig[:n])
	be.PutUint16(m[2:4], Checksum(m, PseudoHeader6(src, from, ProtoICMPv6, len(m))))
	return IPv6Len + len(m)
}

func putICMP(m []byte, icmpType, code uint8, rest uint32) {
	m[0], m[1] = icmpType, code
	be.PutUint16(m[2:4], 0)
	be.PutUint32(m[4:8], rest)
}

// ICMP is an ICMP or ICMPv6 message.
type ICMP []byte

// ParseICMP checks that the message holds a header.
func ParseICMP(b []byte) (ICMP, engine.Drop) {
	if len(b) < ICMPLen {
		return nil, engine.InnerShort
	}
	return ICMP(b), engine.Pass
}

// Type returns the message type.
func (m ICMP) Type() uint8 { return m[0] }

// Code returns the message code.
func (m ICMP) Code() uint8 { return m[1] }

// Rest returns the second word of the header: identifier and sequence number
// of an echo, the MTU of "fragmentation needed" and Packet Too Big.
func (m ICMP) Rest() uint32 { return be.Uint32(m[4:8]) }

// Payload returns what follows the header.
func (m ICMP) Payload() []byte { return m[ICMPLen:] }
