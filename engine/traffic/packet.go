package traffic

import (
	"fmt"
	"net/netip"

	"xpptp/engine"
	"xpptp/engine/wire"
)

const (
	headersV4 = wire.IPv4Len + wire.UDPLen
	headersV6 = wire.IPv6Len + wire.UDPLen
)

// Path is the addresses and ports of a stream's packets as they are sent. Both
// are IPv4 or both IPv6.
type Path struct{ Src, Dst netip.AddrPort }

// Check returns an error if the addresses are not of one family, or missing.
func (p Path) Check() error {
	s, d := p.Src.Addr(), p.Dst.Addr()
	if !s.IsValid() || !d.IsValid() || s.Is4() != d.Is4() || s.Is4In6() || d.Is4In6() {
		return fmt.Errorf("stream from %v to %v: want two IPv4 or two IPv6 addresses", p.Src, p.Dst)
	}
	return nil
}

// V6 reports whether the path is of IPv6.
func (p Path) V6() bool { return !p.Src.Addr().Is4() }

// Template writes the packets of a stream: all headers are prepared.
type Template struct {
	header [headersV6]byte
	n      int    // length of the headers
	ipSum  uint32 // of the IPv4 header but for its length
	sum    uint32 // of what does not change, for the UDP checksum
	stamp  StampFields
}

// Init prepares the packets of a stream, with DSCP in the upper six bits of
// tos. flags and clock are those of the stamps.
func (t *Template) Init(p Path, tos uint8, stream uint32, flags uint8, clock uint32) error {
	if err := p.Check(); err != nil {
		return err
	}
	*t = Template{stamp: StampFields{Flags: flags, Stream: stream, Clock: clock}}
	if p.V6() {
		src, dst := p.Src.Addr().As16(), p.Dst.Addr().As16()
		t.n = headersV6
		wire.PutIPv6(t.header[:], &wire.IPv6Fields{TrafficClass: tos, NextHeader: wire.ProtoUDP, HopLimit: 64, Src: src, Dst: dst})
		t.sum = wire.PseudoHeader6(src, dst, wire.ProtoUDP, 0)
	} else {
		src, dst := p.Src.Addr().As4(), p.Dst.Addr().As4()
		t.n = headersV4
		wire.PutIPv4(t.header[:], &wire.IPv4Fields{TOS: tos, DF: true, TTL: 64, Protocol: wire.ProtoUDP, Src: src, Dst: dst})
		ip := wire.IPv4(t.header[:wire.IPv4Len])
		be.PutUint16(ip[2:], 0)
		ip.SetChecksum()
		t.ipSum = uint32(^ip.Checksum())
		t.sum = wire.PseudoHeader4(src, dst, wire.ProtoUDP, 0)
	}
	udp := t.header[t.n-wire.UDPLen:]
	be.PutUint16(udp[0:], p.Src.Port())
	be.PutUint16(udp[2:], p.Dst.Port())
	t.sum += uint32(p.Src.Port()) + uint32(p.Dst.Port())
	t.sum += stampMagic + stampVersion<<8 + uint32(flags) + stream>>16 + stream&0xffff + clock>>16 + clock&0xffff
	return nil
}

// Stream returns the stream's number.
func (t *Template) Stream() uint32 { return t.stamp.Stream }

// Align returns by how many bytes a packet should begin behind a multiple of 8,
// so that its checksum is done in whole words.
func (t *Template) Align() int { return -t.n & 7 }

// Put makes b an IP packet of the stream: with number seq, due at due, sent at
// now. Its length, from MinSize to MaxSize, is the packet's.
func (t *Template) Put(b []byte, seq uint64, due, now int64) {
	payload := b[t.n:]
	fill := copy(payload[StampLen:], pattern[:])
	t.stamp.Seq, t.stamp.Due, t.stamp.Late = seq, due, Lateness(due, now)
	crc := putStamp(payload, &t.stamp, crcs[fill])
	t.put(b, &t.stamp, crc, uint64(sums[fill]))
}

// PutControl makes b, MaxControl bytes, an IP packet with a request about the
// stream, with number seq, and returns its length.
func (t *Template) PutControl(b []byte, seq uint64, now int64, r *Request) int {
	body := r.Append(b[t.n+StampLen : t.n+StampLen])
	b = b[:t.n+StampLen+len(body)]
	f := t.stamp
	f.Flags, f.Seq, f.Due, f.Late = FlagControl, seq, now, 0
	crc := putStamp(b[t.n:], &f, checksum(body))
	// The flags of the stream's packets are in the sum already.
	t.put(b, &f, crc, uint64(^wire.Checksum(body, 0))+uint64(f.Flags)+uint64(^uint16(t.stamp.Flags)))
	return len(b)
}

// put writes the headers in front of a stamp that is complete; sum is that of
// what follows the stamp.
func (t *Template) put(b []byte, f *StampFields, crc uint32, sum uint64) {
	n := copy(b, t.header[:t.n])
	udp := b[n-wire.UDPLen:]
	be.PutUint16(udp[4:], uint16(len(udp)))
	// The sum of the words of what was written, without reading it again. The
	// length counts twice: in the pseudo-header, too.
	due := uint64(f.Due)
	sum += uint64(t.sum) + 2*uint64(len(udp)) + f.Seq>>32 + f.Seq&0xffffffff + due>>32 + due&0xffffffff + uint64(f.Late) + uint64(crc)
	c := complement(sum)
	if c == 0 {
		c = 0xffff // 0 would say "no checksum" (RFC 768)
	}
	be.PutUint16(udp[6:], c)
	if n == headersV4 {
		be.PutUint16(b[2:], uint16(len(b)))
		be.PutUint16(b[10:], complement(uint64(t.ipSum)+uint64(len(b))))
	} else {
		be.PutUint16(b[4:], uint16(len(udp)))
	}
}

// complement is the Internet checksum of words that add up to sum; a word of 32
// bits counts as its two halves (RFC 1071 §2).
func complement(sum uint64) uint16 {
	sum = sum>>32 + sum&0xffffffff
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	return ^uint16(sum>>16 + sum)
}

// Lateness is what a stamp says of a packet due at due and sent at now.
func Lateness(due, now int64) uint32 {
	return uint32(max(0, min(now-due, 1<<32-1)))
}

// Packet is what Judge found: addresses and ports as they came, and the stamp.
type Packet struct {
	Path  Path
	Stamp Stamp
}

// Judge looks at an IP packet that came in. Of a foreign one nothing is known;
// that a corrupt one has a stamp does not make the stamp right.
func Judge(b []byte) (p Packet, v Verdict) {
	if len(b) == 0 {
		return p, Foreign
	}
	var src, dst netip.Addr
	var up []byte
	var sum uint32
	intact := true
	switch b[0] >> 4 {
	case 4:
		ip, d := wire.ParseIPv4(b)
		if d != engine.Pass || ip.IsFragment() || ip.Protocol() != wire.ProtoUDP {
			return p, Foreign
		}
		s, d4 := ip.Src(), ip.Dst()
		src, dst, up = netip.AddrFrom4(s), netip.AddrFrom4(d4), ip.Payload()
		sum = wire.PseudoHeader4(s, d4, wire.ProtoUDP, len(up))
		intact = ip.HeaderChecksumOK()
	case 6:
		ip, d := wire.ParseIPv6(b)
		if d != engine.Pass || ip.NextHeader() != wire.ProtoUDP {
			return p, Foreign
		}
		s, d6 := ip.Src(), ip.Dst()
		src, dst, up = netip.AddrFrom16(s), netip.AddrFrom16(d6), ip.Payload()
		sum = wire.PseudoHeader6(s, d6, wire.ProtoUDP, len(up))
	default:
		return p, Foreign
	}
	u, d := wire.ParseUDP(up)
	if d != engine.Pass {
		return p, Foreign
	}
	p.Path = Path{Src: netip.AddrPortFrom(src, u.SrcPort()), Dst: netip.AddrPortFrom(dst, u.DstPort())}
	p.Stamp, v = ParseStamp(u.Payload())
	if v != Whole {
		return p, v
	}
	if len(u) != len(up) || !intact {
		return p, Corrupt
	}
	if u.Checksum() == 0 && src.Is4() {
		return p, Whole // sent without
	}
	head := len(u)
	if p.Stamp.Flags()&FlagControl == 0 {
		// The rest is the pattern: its sum is known.
		head = wire.UDPLen + StampLen
		sum += sums[len(u)-head]
	}
	if wire.Checksum(u[:head], sum) != 0 {
		return p, Corrupt
	}
	return p, Whole
}
