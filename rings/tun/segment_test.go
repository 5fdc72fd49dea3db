package tun

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"

	"xpptp/rings"
)

// naive is the Internet checksum as RFC 1071 §1 words it.
func naive(parts ...[]byte) uint16 {
	var s uint32
	b := bytes.Join(parts, nil)
	for i := 0; i < len(b); i += 2 {
		w := uint32(b[i]) << 8
		if i+1 < len(b) {
			w |= uint32(b[i+1])
		}
		if s += w; s > 0xffff {
			s -= 0xffff
		}
	}
	return ^uint16(s)
}

func TestSum(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	b := make([]byte, 300)
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	check := func(b []byte) {
		t.Helper()
		var got [2]byte
		put(got[:], sum(0, b))
		if g, w := binary.BigEndian.Uint16(got[:]), naive(b); g != w && g+w != 0xffff {
			t.Fatalf("%d bytes: %#04x, want %#04x", len(b), g, w)
		}
		// In two pieces, the first of even length, and with a number.
		for cut := 0; cut <= len(b); cut += 2 {
			put(got[:], sum16(sum(sum(0, b[:cut]), b[cut:]), 0x1234))
			if g, w := binary.BigEndian.Uint16(got[:]), naive([]byte{0x12, 0x34}, b); g != w && g+w != 0xffff {
				t.Fatalf("%d bytes cut at %d: %#04x, want %#04x", len(b), cut, g, w)
			}
		}
	}
	for n := range b {
		check(b[:n])
	}
	for n := range 100 { // every carry
		check(bytes.Repeat([]byte{0xff}, n))
	}
}

// packet is an IP packet with n bytes of data and an unfinished checksum, as
// the kernel hands it over, and its virtio header.
func packet(v6 bool, proto byte, size, n int) (vnetHeader, []byte) {
	var p []byte
	transport := 20
	if v6 {
		transport = 40
		p = make([]byte, 40)
		p[0] = 0x60
		p[6], p[7] = proto, 64
		for i := range 32 {
			p[8+i] = byte(i * 7)
		}
	} else {
		p = make([]byte, 20)
		p[0], p[8], p[9] = 0x45, 64, proto
		binary.BigEndian.PutUint16(p[4:], 0xfffe) // wraps
		copy(p[12:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
	}
	field := tcpChecksum
	if proto == unix.IPPROTO_TCP {
		h := make([]byte, 24) // with options
		binary.BigEndian.PutUint32(h[4:], 0xfffffe00)
		h[12], h[13] = 6<<4, tcpFIN|tcpPSH|tcpCWR|0x10
		p = append(p, h...)
	} else {
		p = append(p, 1, 2, 3, 4, 0, 0, 0, 0)
		field = udpChecksum
	}
	for i := range n {
		p = append(p, byte(i*31))
	}
	if v6 {
		binary.BigEndian.PutUint16(p[4:], uint16(len(p)-40))
	} else {
		binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
		binary.BigEndian.PutUint16(p[10:], naive(p[:20]))
	}
	if proto == unix.IPPROTO_UDP {
		binary.BigEndian.PutUint16(p[transport+4:], uint16(len(p)-transport))
	}
	binary.BigEndian.PutUint16(p[transport+field:], ^naive(pseudo(p, transport, proto)))

	h := make(vnetHeader, vnetSize)
	h[0] = unix.VIRTIO_NET_HDR_F_NEEDS_CSUM
	if size > 0 {
		switch {
		case proto == unix.IPPROTO_UDP:
			h[1] = unix.VIRTIO_NET_HDR_GSO_UDP_L4
		case v6:
			h[1] = unix.VIRTIO_NET_HDR_GSO_TCPV6 | unix.VIRTIO_NET_HDR_GSO_ECN
		default:
			h[1] = unix.VIRTIO_NET_HDR_GSO_TCPV4
		}
	}
	binary.NativeEndian.PutUint16(h[4:], uint16(size))
	binary.NativeEndian.PutUint16(h[6:], uint16(transport))
	binary.NativeEndian.PutUint16(h[8:], uint16(field))
	return h, p
}

// pseudo returns the pseudo-header of p (RFC 9293 §3.1, RFC 8200 §8.1).
func pseudo(p []byte, transport int, proto byte) []byte {
	addrs := p[12:20]
	if p[0]>>4 == 6 {
		addrs = p[8:40]
	}
	return binary.BigEndian.AppendUint16(append(bytes.Clone(addrs), 0, proto), uint16(len(p)-transport))
}

// verify checks lengths and checksums of a finished packet.
func verify(t *testing.T, p []byte, transport int, proto byte) {
	t.Helper()
	if p[0]>>4 == 6 {
		if l := int(binary.BigEndian.Uint16(p[4:])); l != len(p)-40 {
			t.Errorf("IPv6 payload length %d in a packet of %d", l, len(p))
		}
	} else {
		if l := int(binary.BigEndian.Uint16(p[2:])); l != len(p) {
			t.Errorf("IPv4 total length %d in a packet of %d", l, len(p))
		}
		if naive(p[:transport]) != 0 {
			t.Error("IPv4 header checksum is wrong")
		}
	}
	if proto == unix.IPPROTO_UDP {
		if l := int(binary.BigEndian.Uint16(p[transport+4:])); l != len(p)-transport {
			t.Errorf("UDP length %d in a packet of %d", l, len(p))
		}
	}
	if naive(pseudo(p, transport, proto), p[transport:]) != 0 {
		t.Error("transport checksum is wrong")
	}
}

func TestSegment(t *testing.T) {
	f := rings.NewPoolN(1, rings.ChunkSmall).Get()
	for _, v6 := range []bool{false, true} {
		for _, proto := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			for _, c := range []struct{ size, n int }{{100, 1000}, {100, 1001}, {100, 999}, {1360, 60000}, {1, 3}, {500, 100}, {500, 0}} {
				h, p := packet(v6, proto, c.size, c.n)
				orig := bytes.Clone(p)
				var s super
				if !s.parse(h, p) {
					t.Fatalf("v6 %v, protocol %d, %+v: refused", v6, proto, c)
				}
				var data []byte
				for n, last := 0, false; !last; n++ {
					if n > c.n {
						t.Fatalf("v6 %v, protocol %d, %+v: no end", v6, proto, c)
					}
					last = s.next(f)
					got := f.Data()
					if f.Headroom() < rings.Headroom || len(got) > s.largest() {
						t.Fatalf("headroom %d, %d bytes of at most %d", f.Headroom(), len(got), s.largest())
					}
					verify(t, got, s.transport, proto)
					if !v6 && binary.BigEndian.Uint16(got[4:]) != uint16(0xfffe+n) {
						t.Errorf("packet %d has ID %#x", n, got[4:6])
					}
					if proto == unix.IPPROTO_TCP {
						tcp := got[s.transport:]
						if seq := binary.BigEndian.Uint32(tcp[4:]); seq != 0xfffffe00+uint32(len(data)) {
							t.Errorf("packet %d has sequence number %#x", n, seq)
						}
						flags := byte(0x10)
						if n == 0 {
							flags |= tcpCWR
						}
						if last {
							flags |= tcpFIN | tcpPSH
						}
						if tcp[13] != flags {
							t.Errorf("packet %d (last: %v) has flags %#x, want %#x", n, last, tcp[13], flags)
						}
					}
					data = append(data, got[s.payload:]...)
				}
				if !bytes.Equal(data, orig[s.payload:]) {
					t.Errorf("v6 %v, protocol %d, %+v: the data came out changed", v6, proto, c)
				}
			}
		}
	}
}

func TestComplete(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, proto := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			for n := range 70 {
				h, p := packet(v6, proto, 0, n)
				if !complete(h, p) {
					t.Fatal("refused")
				}
				transport := 20
				if v6 {
					transport = 40
				}
				verify(t, p, transport, proto)
			}
		}
	}
	// A UDP checksum that comes out as zero is sent as ones (RFC 768).
	h, p := packet(false, unix.IPPROTO_UDP, 0, 2)
	q := bytes.Clone(p)
	complete(h, q)
	binary.BigEndian.PutUint16(p[28:], binary.BigEndian.Uint16(p[28:])+binary.BigEndian.Uint16(q[26:]))
	complete(h, p)
	if p[26] != 0xff || p[27] != 0xff {
		t.Errorf("checksum % x, want ff ff", p[26:28])
	}
	for name, change := range map[string]func(){
		"starts beyond the packet": func() { h[6] = 200 },
		"lies beyond the packet":   func() { h[8] = 200 },
	} {
		h, p = packet(false, unix.IPPROTO_UDP, 0, 20)
		change()
		if complete(h, p) {
			t.Errorf("a checksum that %s is accepted", name)
		}
	}
}

func TestSegmentRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(h vnetHeader, p []byte) []byte
	}{
		{"no size", func(h vnetHeader, p []byte) []byte { h[4], h[5] = 0, 0; return p }},
		{"no checksum", func(h vnetHeader, p []byte) []byte { h[0] = 0; return p }},
		{"unknown type", func(h vnetHeader, p []byte) []byte { h[1] = unix.VIRTIO_NET_HDR_GSO_UDP; return p }},
		{"wrong version", func(h vnetHeader, p []byte) []byte { h[1] = unix.VIRTIO_NET_HDR_GSO_TCPV6; return p }},
		{"no IP", func(h vnetHeader, p []byte) []byte { p[0] = 0x55; return p }},
		{"short IP header", func(h vnetHeader, p []byte) []byte { p[0] = 0x44; return p }},
		{"transport not behind IP", func(h vnetHeader, p []byte) []byte { h[6] = 24; return p }},
		{"short TCP header", func(h vnetHeader, p []byte) []byte { p[32] = 4 << 4; return p }},
		{"TCP header cut", func(h vnetHeader, p []byte) []byte { return p[:43] }},
		{"TCP header missing", func(h vnetHeader, p []byte) []byte { return p[:30] }},
		{"empty", func(h vnetHeader, p []byte) []byte { return nil }},
	} {
		h, p := packet(false, unix.IPPROTO_TCP, 100, 1000)
		var s super
		if p = c.change(h, p); s.parse(h, p) {
			t.Errorf("%s: accepted", c.name)
		}
	}
}

// Whatever the header says: no panic, and what comes out is, put together,
// what went in.
func FuzzSegment(f *testing.F) {
	for _, v6 := range []bool{false, true} {
		for _, proto := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			for _, size := range []int{0, 100} {
				h, p := packet(v6, proto, size, 350)
				f.Add([]byte(h), p)
			}
		}
	}
	frame := rings.NewPoolN(1, rings.ChunkSmall).Get()
	f.Fuzz(func(t *testing.T, h, p []byte) {
		if len(h) < vnetSize || len(p) > largest {
			return
		}
		complete(h, bytes.Clone(p))
		var s super
		if !s.parse(h, p) || s.largest() > rings.Room(rings.ChunkSmall) {
			return
		}
		want := bytes.Clone(p[s.payload:])
		var got []byte
		for last := false; !last; {
			before := len(got)
			last = s.next(frame)
			got = append(got, frame.Data()[s.payload:]...)
			if len(got) == before && len(want) > 0 {
				t.Fatal("an empty packet")
			}
		}
		if !bytes.Equal(got, want) {
			t.Fatal("the data came out changed")
		}
	})
}

func BenchmarkSum(b *testing.B) {
	p := make([]byte, 1400)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		sum(0, p)
	}
}
