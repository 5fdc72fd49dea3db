package wire

import "xpptp/engine"

// PPP protocol numbers (RFC 1661 §2 and the assigned numbers).
const (
	PPPIPv4   = 0x0021
	PPPIPv6   = 0x0057
	PPPMPPE   = 0x00FD // compressed datagram: MPPE, MPPC (RFC 3078 §3)
	PPPIPCP   = 0x8021
	PPPIPV6CP = 0x8057
	PPPCCP    = 0x80FD
	PPPLCP    = 0xC021
	PPPPAP    = 0xC023
	PPPCHAP   = 0xC223
	PPPEAP    = 0xC227
)

// PPPMaxLen is the longest PPP header: FF 03 and a two-byte protocol.
const PPPMaxLen = 4

// ParsePPP splits a PPP packet without HDLC framing into protocol and
// information. It takes FF 03 or not, and a one- or two-byte protocol,
// whatever was negotiated (RFC 1661 §6.5, §6.6). info aliases b.
func ParsePPP(b []byte) (proto uint16, info []byte, d engine.Drop) {
	if len(b) >= 2 && b[0] == 0xff && b[1] == 0x03 {
		b = b[2:]
	}
	proto, n := PPPProtocol(b)
	if n == 0 {
		return 0, nil, engine.PPPShort
	}
	return proto, b[n:], engine.Pass
}

// PPPProtocol reads the one- or two-byte protocol field at the front of b (an
// odd first octet means one byte) and returns it with its length, 0 if b is
// too short. A two-byte field with an even last octet is no legal protocol
// number; RFC 1661 §2 wants it treated as unknown, so it is returned as it is.
func PPPProtocol(b []byte) (proto uint16, n int) {
	if len(b) >= 1 && b[0]&1 != 0 {
		return uint16(b[0]), 1
	}
	if len(b) >= 2 {
		return be.Uint16(b), 2
	}
	return 0, 0
}

// PutPPP writes a PPP header to b and returns its length, 1 to PPPMaxLen
// bytes. acfc leaves out FF 03, pfc shortens the protocol where that is
// possible; LCP always goes out in full (RFC 1661 §6.5, §6.6).
func PutPPP(b []byte, proto uint16, acfc, pfc bool) int {
	n := 0
	if !acfc || proto == PPPLCP {
		b[0], b[1] = 0xff, 0x03
		n = 2
	}
	return n + PutPPPProtocol(b[n:], proto, pfc)
}

// PutPPPProtocol writes only the protocol field and returns its length. This
// is what stands inside an MPPE packet.
func PutPPPProtocol(b []byte, proto uint16, pfc bool) int {
	if pfc && proto < 0x100 && proto&1 != 0 {
		b[0] = byte(proto)
		return 1
	}
	be.PutUint16(b[:2], proto)
	return 2
}

// SaneInner reports whether p can be the network packet that PPP protocol
// proto announces: for IPv4 and IPv6 the version, the header length and a
// total length within p. No other protocol is sane. It tells what a right key
// decrypts from what a wrong one does.
func SaneInner(proto uint16, p []byte) bool {
	switch proto {
	case PPPIPv4:
		if len(p) < IPv4Len || p[0]>>4 != 4 {
			return false
		}
		hl, total := int(p[0]&15)*4, int(be.Uint16(p[2:4]))
		return hl >= IPv4Len && hl <= total && total <= len(p)
	case PPPIPv6:
		return len(p) >= IPv6Len && p[0]>>4 == 6 && IPv6Len+int(be.Uint16(p[4:6])) <= len(p)
	}
	return false
}
