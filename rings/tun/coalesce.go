package tun

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"

	"xpptp/rings"
)

// What is sent in one burst is put together again: consecutive TCP segments of
// a connection, alike but for what every segment has of its own, cross to the
// kernel as one packet, which it takes for one that it has yet to cut (as with
// GRO and TSO). Their checksums are verified before, since the kernel then
// trusts the packet.

// burst is how many packets are looked at together.
const burst = 64

// lookBack is how many connections of a burst are followed at a time.
const lookBack = 8

// segment is a packet, seen as a TCP segment.
type segment struct {
	p         []byte
	transport int    // where the TCP header begins
	payload   int    // where its data begins
	seq       uint32 // of the first byte
	tcp       bool   // it is one
	plain     bool   // with data, and nothing but ACK and PSH: it may be part of a larger one
}

func (s *segment) data() []byte { return s.p[s.payload:] }
func (s *segment) v6() bool     { return s.p[0]>>4 == 6 }
func (s *segment) flags() byte  { return s.p[s.transport+tcpFlags] }

// look parses a packet.
func look(p []byte) (s segment) {
	s.p = p
	switch {
	case len(p) >= ipv4HeaderLen+tcpHeaderLen && p[0] == 0x45 && p[ipv4Protocol] == unix.IPPROTO_TCP &&
		int(binary.BigEndian.Uint16(p[ipv4TotalLength:])) == len(p) &&
		binary.BigEndian.Uint16(p[ipv4Fragment:])&fragmented == 0:
		s.transport = ipv4HeaderLen
	case len(p) >= ipv6HeaderLen+tcpHeaderLen && p[0]>>4 == 6 && p[ipv6NextHeader] == unix.IPPROTO_TCP &&
		int(binary.BigEndian.Uint16(p[ipv6Length:])) == len(p)-ipv6HeaderLen:
		s.transport = ipv6HeaderLen
	default:
		return s
	}
	t := p[s.transport:]
	header := int(t[tcpOffset]>>4) * 4
	if header < tcpHeaderLen || header > len(t) {
		return s
	}
	s.tcp = true
	s.payload = s.transport + header
	s.seq = binary.BigEndian.Uint32(t[tcpSequence:])
	s.plain = s.payload < len(p) && t[tcpFlags]&^tcpPSH == tcpACK
	return s
}

const (
	ipv4HeaderLen  = 20
	ipv4Fragment   = 6
	ipv4TTL        = 8
	ipv4Protocol   = 9
	ipv6NextHeader = 6
	tcpAck         = 8
	tcpWindow      = 14
	tcpUrgent      = 18
	tcpACK         = 0x10
	fragmented     = 0x3fff // more fragments, and the offset
	dontFragment   = 0x40   // in the first byte
)

// sameFlow reports whether two TCP segments are of one connection.
func sameFlow(a, b *segment) bool {
	if a.transport != b.transport {
		return false
	}
	from := ipv4Addresses
	if a.v6() {
		from = ipv6Addresses
	}
	end := a.transport + tcpSequence // the ports are between
	return bytes.Equal(a.p[from:end], b.p[from:end])
}

// alike reports whether a plain segment and the n-th one after it differ in
// nothing but their place in the stream, their data and PSH.
func alike(a, b *segment, n int) bool {
	if a.payload != b.payload {
		return false
	}
	x, y := a.p, b.p
	if a.v6() {
		if !bytes.Equal(x[:ipv6Length], y[:ipv6Length]) || x[ipv6NextHeader+1] != y[ipv6NextHeader+1] {
			return false
		}
	} else if x[1] != y[1] || !bytes.Equal(x[ipv4Fragment:ipv4Protocol], y[ipv4Fragment:ipv4Protocol]) {
		return false
	} else if x[ipv4Fragment]&dontFragment == 0 && binary.BigEndian.Uint16(y[ipv4ID:])-binary.BigEndian.Uint16(x[ipv4ID:]) != uint16(n) {
		return false // where it is cut again the numbers are in a row, and here they matter
	}
	x, y = x[a.transport:a.payload], y[a.transport:a.payload]
	return bytes.Equal(x[tcpAck:tcpFlags], y[tcpAck:tcpFlags]) && bytes.Equal(x[tcpWindow:tcpChecksum], y[tcpWindow:tcpChecksum]) &&
		bytes.Equal(x[tcpUrgent:], y[tcpUrgent:])
}

// intact verifies the checksums of a TCP segment and its IPv4 header.
func (s *segment) intact() bool {
	if !s.v6() && fold(sum(0, s.p[:s.transport])) != 0xffff {
		return false
	}
	return fold(sum(s.pseudo(len(s.p)-s.transport), s.p[s.transport:])) == 0xffff
}

// pseudo sums up the pseudo-header of n bytes of TCP.
func (s *segment) pseudo(n int) uint64 {
	from := ipv4Addresses
	if s.v6() {
		from = ipv6Addresses
	}
	return sum16(sum16(sum(0, s.p[from:s.transport]), unix.IPPROTO_TCP), uint16(n))
}

// group is packets that cross as one: a single one of any kind, or segments.
type group struct {
	first segment
	open  bool   // it may grow
	next  uint32 // the sequence number it would go on with
	size  int    // data in each segment but the last
	bytes int    // of the whole packet
	n     int    // packets
	at    int    // where in the burst the first is
	last  int    // and the last
}

// coalescer puts the packets of a burst together.
type coalescer struct {
	groups  [burst]group
	n       int
	follows [burst]int // a packet in its group, by their places in the burst
}

// add takes the next packet of the burst, number i.
func (c *coalescer) add(i int, p []byte) {
	s := look(p)
	if s.tcp {
		for g := c.n - 1; g >= max(c.n-lookBack, 0); g-- {
			o := &c.groups[g]
			if !o.open || !sameFlow(&o.first, &s) {
				continue
			}
			if o.grow(&s) {
				c.follows[o.last] = i
				o.last = i
				return
			}
			o.open = false // else a later segment would overtake this one
			break
		}
	}
	c.groups[c.n] = group{
		first: s, open: s.plain && s.flags()&tcpPSH == 0, next: s.seq + uint32(len(p)-s.payload), size: len(p) - s.payload,
		bytes: len(p), n: 1, at: i, last: i,
	}
	c.n++
}

// grow appends a segment if it goes on where the group ends.
func (g *group) grow(s *segment) bool {
	data := len(s.data())
	if !s.plain || s.seq != g.next || data > g.size || g.bytes+data > largest-1 || !alike(&g.first, s, g.n) || !s.intact() {
		return false
	}
	if g.n == 1 && !g.first.intact() {
		return false
	}
	g.n++
	g.bytes += data
	g.next += uint32(data)
	if s.flags()&tcpPSH != 0 {
		g.first.p[g.first.transport+tcpFlags] |= tcpPSH
		g.open = false
	}
	if data < g.size {
		g.open = false // only the last segment may be short
	}
	return true
}

// seal makes the first packet's headers those of the whole and writes the
// virtio header.
func (g *group) seal(h *[vnetSize]byte) {
	s := &g.first
	length := g.bytes - s.transport
	*h = [vnetSize]byte{unix.VIRTIO_NET_HDR_F_NEEDS_CSUM, unix.VIRTIO_NET_HDR_GSO_TCPV4}
	if s.v6() {
		h[1] = unix.VIRTIO_NET_HDR_GSO_TCPV6
		binary.BigEndian.PutUint16(s.p[ipv6Length:], uint16(length))
	} else {
		binary.BigEndian.PutUint16(s.p[ipv4TotalLength:], uint16(g.bytes))
		s.p[ipv4Checksum], s.p[ipv4Checksum+1] = 0, 0
		put(s.p[ipv4Checksum:], sum(0, s.p[:s.transport]))
	}
	for i, v := range [...]int{s.payload, g.size, s.transport, tcpChecksum} { // hdr_len, gso_size, csum_start, csum_offset
		binary.NativeEndian.PutUint16(h[2+2*i:], uint16(v))
	}
	// The sum of the pseudo-header; the kernel adds the rest.
	binary.LittleEndian.PutUint16(s.p[s.transport+tcpChecksum:], fold(s.pseudo(length)))
}

// writeBurst hands a burst to the kernel and frees it. It returns how many
// packets and bytes the kernel took, in how many calls, and why the port is
// gone, if it is.
func (p *Port) writeBurst(fs []*rings.Frame) (sent, bytes, calls int, gone unix.Errno) {
	c := &p.join
	c.n = 0
	for i, f := range fs {
		c.add(i, f.Data())
		bytes += f.Len()
	}
	for i := range c.n {
		g := &c.groups[i]
		if g.n > 1 {
			g.seal(p.io.large)
		}
		p.io.begin(g.first.p, g.n > 1)
		for at, k := g.at, 1; k < g.n; k++ {
			at = c.follows[at]
			p.io.more(fs[at].Data()[g.first.payload:])
		}
		calls++
		switch e := p.io.end(); e {
		case 0:
			sent += g.n
			continue
		case unix.EBADFD:
			gone = e
		default: // EIO: the interface is down; EINVAL: not an IP packet
		}
		p.stats.TxDropped.Add(uint64(g.n))
		for at, k := g.at, 0; k < g.n; k++ {
			bytes -= fs[at].Len()
			at = c.follows[at]
		}
	}
	for _, f := range fs {
		f.Free()
	}
	return sent, bytes, calls, gone
}
