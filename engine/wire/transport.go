package wire

import "xpptp/engine"

// UDPLen is the length of a UDP header, ICMPLen of an ICMP or ICMPv6 header
// with its four bytes of rest, tcpMinLen of a TCP header without options.
const (
	UDPLen    = 8
	ICMPLen   = 8
	tcpMinLen = 20
)

// UDP is a UDP datagram, cut to its length.
type UDP []byte

// ParseUDP checks the lengths and cuts what follows the datagram.
func ParseUDP(b []byte) (UDP, engine.Drop) {
	if len(b) < UDPLen {
		return nil, engine.InnerShort
	}
	n := int(be.Uint16(b[4:6]))
	if n < UDPLen || n > len(b) {
		return nil, engine.InnerBad
	}
	return UDP(b[:n]), engine.Pass
}

// SrcPort returns the source port.
func (u UDP) SrcPort() uint16 { return be.Uint16(u[0:2]) }

// DstPort returns the destination port.
func (u UDP) DstPort() uint16 { return be.Uint16(u[2:4]) }

// Checksum returns the checksum field; 0 means none (IPv4 only).
func (u UDP) Checksum() uint16 { return be.Uint16(u[6:8]) }

// Payload returns the data.
func (u UDP) Payload() []byte { return u[UDPLen:] }

// PutUDP writes a UDP header to b in front of payloadLen bytes of data that
// already stand behind it, and returns UDPLen. pseudo is the partial sum
// PseudoHeader4 or PseudoHeader6 of UDPLen + payloadLen bytes.
func PutUDP(b []byte, src, dst uint16, payloadLen int, pseudo uint32) int {
	b = b[:UDPLen+payloadLen]
	be.PutUint16(b[0:2], src)
	be.PutUint16(b[2:4], dst)
	be.PutUint16(b[4:6], uint16(len(b)))
	be.PutUint16(b[6:8], 0)
	c := Checksum(b, pseudo)
	if c == 0 {
		c = 0xffff // 0 would say "no checksum" (RFC 768)
	}
	be.PutUint16(b[6:8], c)
	return UDPLen
}

// TCP is a TCP segment.
type TCP []byte

// ParseTCP checks the header length.
func ParseTCP(b []byte) (TCP, engine.Drop) {
	if len(b) < tcpMinLen {
		return nil, engine.InnerShort
	}
	if hl := int(b[12]>>4) * 4; hl < tcpMinLen || hl > len(b) {
		return nil, engine.InnerBad
	}
	return TCP(b), engine.Pass
}

// HeaderLen returns the header length in bytes, options included.
func (t TCP) HeaderLen() int { return int(t[12]>>4) * 4 }

// SYN reports whether the SYN flag is set.
func (t TCP) SYN() bool { return t[13]&0x02 != 0 }

// Checksum returns the checksum field.
func (t TCP) Checksum() uint16 { return be.Uint16(t[16:18]) }

// Options returns the header's options.
func (t TCP) Options() []byte { return t[tcpMinLen:t.HeaderLen()] }

// TCP option kinds (RFC 9293 §3.2).
const (
	tcpOptEnd = 0
	tcpOptNop = 1
	tcpOptMSS = 2
)

// ClampMSS lowers the maximum segment size that a TCP SYN in an IPv4 or IPv6
// packet announces to mss4 or mss6 (0 leaves that family alone) and corrects
// the TCP checksum, which must be complete, not partial. It reports whether
// it changed the packet. Fragments, packets with bad lengths and SYNs without
// the option are left alone.
func ClampMSS(ip []byte, mss4, mss6 uint16) bool {
	if len(ip) == 0 {
		return false
	}
	var seg []byte
	var mss uint16
	switch ip[0] >> 4 {
	case 4:
		p, d := ParseIPv4(ip)
		if d != engine.Pass || p.Protocol() != ProtoTCP || p.IsFragment() {
			return false
		}
		seg, mss = p.Payload(), mss4
	case 6:
		p, d := ParseIPv6(ip)
		if d != engine.Pass {
			return false
		}
		proto, off, fragment, _, ok := p.Upper()
		if !ok || fragment || proto != ProtoTCP {
			return false
		}
		seg, mss = p[off:], mss6
	}
	if mss == 0 {
		return false
	}
	t, d := ParseTCP(seg)
	if d != engine.Pass || !t.SYN() {
		return false
	}
	return t.clampMSS(mss)
}

func (t TCP) clampMSS(mss uint16) bool {
	changed := false
	o := t.Options()
	for i := 0; i < len(o); {
		if o[i] == tcpOptEnd {
			break
		}
		if o[i] == tcpOptNop {
			i++
			continue
		}
		if i+1 >= len(o) || o[i+1] < 2 || i+int(o[i+1]) > len(o) {
			break
		}
		if o[i] == tcpOptMSS && o[i+1] == 4 {
			if old := be.Uint16(o[i+2:]); old > mss {
				be.PutUint16(o[i+2:], mss)
				was, is := old, mss
				if i%2 != 0 { // the value straddles two words of the sum
					was, is = was<<8|was>>8, is<<8|is>>8
				}
				be.PutUint16(t[16:18], UpdateChecksum(t.Checksum(), was, is))
				changed = true
			}
		}
		i += int(o[i+1])
	}
	return changed
}
