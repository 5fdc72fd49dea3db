package tun

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"xpptp/rings"
)

// vnetHeader is struct virtio_net_hdr (linux/virtio_net.h), in the byte order
// of the machine.
type vnetHeader []byte

const vnetSize = 10

func (h vnetHeader) flags() byte    { return h[0] }
func (h vnetHeader) gsoType() byte  { return h[1] &^ unix.VIRTIO_NET_HDR_GSO_ECN }
func (h vnetHeader) gsoSize() int   { return int(binary.NativeEndian.Uint16(h[4:])) }
func (h vnetHeader) csumStart() int { return int(binary.NativeEndian.Uint16(h[6:])) }
func (h vnetHeader) csumAt() int {
	return h.csumStart() + int(binary.NativeEndian.Uint16(h[8:]))
}
func (h vnetHeader) needsChecksum() bool { return h.flags()&unix.VIRTIO_NET_HDR_F_NEEDS_CSUM != 0 }

// complete finishes the checksum of p that the kernel left half done: the
// field holds the sum of the pseudo-header. It reports whether the header
// made sense.
func complete(h vnetHeader, p []byte) bool {
	if !h.needsChecksum() {
		return true
	}
	start, at := h.csumStart(), h.csumAt()
	if start > len(p) || at+2 > len(p) {
		return false
	}
	put(p[at:], sum(0, p[start:]))
	// UDP: zero would mean "no checksum". TCP knows no such thing, and there
	// the two forms of zero are equal.
	if p[at] == 0 && p[at+1] == 0 {
		p[at], p[at+1] = 0xff, 0xff
	}
	return true
}

// The header fields that segmentation changes.
const (
	ipv4TotalLength = 2
	ipv4ID          = 4
	ipv4Checksum    = 10
	ipv4Addresses   = 12
	ipv6Length      = 4
	ipv6Addresses   = 8
	ipv6HeaderLen   = 40
	udpLength       = 4
	udpChecksum     = 6
	udpHeaderLen    = 8
	tcpSequence     = 4
	tcpOffset       = 12
	tcpFlags        = 13
	tcpChecksum     = 16
	tcpHeaderLen    = 20

	tcpFIN, tcpPSH, tcpCWR = 0x01, 0x08, 0x80
)

// super is a packet larger than the device's MTU, sent by TCP or UDP
// segmentation offload, that is being cut into packets.
type super struct {
	p         []byte // the whole of it; p[:payload] is repeated in each
	transport int    // where the TCP or UDP header begins
	payload   int    // where its data begins
	size      int    // data in each packet but the last
	at        int    // data cut so far
	n         int    // packets cut so far
	proto     byte
	v6        bool
}

// parse begins with packet p. It reports whether header and packet make sense.
func (s *super) parse(h vnetHeader, p []byte) bool {
	*s = super{p: p, size: h.gsoSize(), transport: h.csumStart()}
	if len(p) < 20 || s.size == 0 || !h.needsChecksum() {
		return false
	}
	s.v6 = p[0]>>4 == 6
	switch {
	case s.v6 && s.transport >= ipv6HeaderLen:
	case !s.v6 && p[0]>>4 == 4 && int(p[0]&15)*4 >= 20 && int(p[0]&15)*4 == s.transport:
	default:
		return false
	}
	switch t := h.gsoType(); {
	case t == unix.VIRTIO_NET_HDR_GSO_TCPV4 && !s.v6, t == unix.VIRTIO_NET_HDR_GSO_TCPV6 && s.v6:
		s.proto = unix.IPPROTO_TCP
		if len(p) < s.transport+tcpHeaderLen {
			return false
		}
		header := int(p[s.transport+tcpOffset]>>4) * 4
		if header < tcpHeaderLen {
			return false
		}
		s.payload = s.transport + header
	case t == unix.VIRTIO_NET_HDR_GSO_UDP_L4:
		s.proto = unix.IPPROTO_UDP
		s.payload = s.transport + udpHeaderLen
	default:
		return false
	}
	return len(p) >= s.payload
}

// largest returns the length of the longest packet that next will make.
func (s *super) largest() int { return s.payload + min(s.size, len(s.p)-s.payload) }

// next puts the next packet into f, checksums complete, and reports whether
// it was the last. The frame has room for largest bytes.
func (s *super) next(f *rings.Frame) (last bool) {
	data := s.p[s.payload+s.at:]
	data = data[:min(s.size, len(data))]
	last = s.payload+s.at+len(data) == len(s.p)

	f.Reset(rings.UMEMHeadroom, s.payload+len(data))
	p := f.Data()
	copy(p, s.p[:s.payload])
	copy(p[s.payload:], data)

	t := p[s.transport:]
	var pseudo uint64
	if s.v6 {
		binary.BigEndian.PutUint16(p[ipv6Length:], uint16(len(p)-ipv6HeaderLen))
		pseudo = sum(0, p[ipv6Addresses:ipv6HeaderLen])
	} else {
		binary.BigEndian.PutUint16(p[ipv4TotalLength:], uint16(len(p)))
		binary.BigEndian.PutUint16(p[ipv4ID:], binary.BigEndian.Uint16(p[ipv4ID:])+uint16(s.n))
		p[ipv4Checksum], p[ipv4Checksum+1] = 0, 0
		put(p[ipv4Checksum:], sum(0, p[:s.transport]))
		pseudo = sum(0, p[ipv4Addresses:ipv4Addresses+8])
	}
	pseudo = sum16(sum16(pseudo, uint16(s.proto)), uint16(len(t)))
	field := t[udpChecksum:]
	if s.proto == unix.IPPROTO_TCP {
		binary.BigEndian.PutUint32(t[tcpSequence:], binary.BigEndian.Uint32(t[tcpSequence:])+uint32(s.at))
		if !last {
			t[tcpFlags] &^= tcpFIN | tcpPSH
		}
		if s.n > 0 {
			t[tcpFlags] &^= tcpCWR // RFC 3168 §6.1.2: once per window reduction
		}
		field = t[tcpChecksum:]
	} else {
		binary.BigEndian.PutUint16(t[udpLength:], uint16(len(t)))
	}
	field[0], field[1] = 0, 0
	put(field, sum(pseudo, t))
	if field[0] == 0 && field[1] == 0 {
		field[0], field[1] = 0xff, 0xff
	}
	s.at += len(data)
	s.n++
	return last
}
