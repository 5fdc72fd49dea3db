package wire

// ECN codepoints, the low two bits of the TOS or traffic class octet (RFC
// 3168 §5).
const (
	NotECT = 0
	ECT1   = 1
	ECT0   = 2
	CE     = 3
)

// EncapTOS returns the outer header's TOS octet for an inner one. Without
// copyECN the outer header says Not-ECT (RFC 6040 §4.1, compatibility mode),
// with it the inner codepoint (normal mode).
func EncapTOS(inner uint8, copyDSCP, copyECN bool) uint8 {
	var tos uint8
	if copyDSCP {
		tos = inner &^ 3
	}
	if copyECN {
		tos |= inner & 3
	}
	return tos
}

// DecapECN returns what becomes of the inner header's TOS octet when the
// tunnel's outer header is taken off (RFC 6040 §4.2, figure 4). ok is false
// if the packet must be dropped: congestion was marked outside and the inner
// packet cannot carry the mark.
func DecapECN(inner, outer uint8) (tos uint8, ok bool) {
	in, out := inner&3, outer&3
	switch {
	case in == NotECT:
		return inner, out != CE
	case out == CE:
		return inner | CE, true
	case in == ECT0 && out == ECT1:
		return inner&^3 | ECT1, true
	}
	return inner, true
}

// InnerTOS returns the TOS or traffic class octet of an IPv4 or IPv6 packet
// that SaneInner has passed, 0 if it is neither.
func InnerTOS(ip []byte) uint8 {
	switch {
	case len(ip) >= IPv4Len && ip[0]>>4 == 4:
		return IPv4(ip).TOS()
	case len(ip) >= IPv6Len && ip[0]>>4 == 6:
		return IPv6(ip).TrafficClass()
	}
	return 0
}

// SetInnerTOS changes the TOS or traffic class octet of an IPv4 or IPv6
// packet, the IPv4 checksum with it; it leaves anything else alone.
func SetInnerTOS(ip []byte, tos uint8) {
	switch {
	case len(ip) >= IPv4Len && ip[0]>>4 == 4:
		IPv4(ip).SetTOS(tos)
	case len(ip) >= IPv6Len && ip[0]>>4 == 6:
		IPv6(ip).SetTrafficClass(tos)
	}
}
