package lab_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"xpptp/rings"
	"xpptp/rings/lab"
)

const mtu = 1500

// build makes a packet with all checksums.
func build(t testing.TB, ls ...gopacket.SerializableLayer) []byte {
	t.Helper()
	var network gopacket.NetworkLayer
	for _, l := range ls {
		switch l := l.(type) {
		case gopacket.NetworkLayer:
			network = l
		case interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}:
			if err := l.SetNetworkLayerForChecksum(network); err != nil {
				t.Fatal(err)
			}
		}
	}
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ls...); err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(b.Bytes())
}

func ip4(src, dst byte, proto layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Id: 7, Protocol: proto, SrcIP: []byte{10, 9, 0, src}, DstIP: []byte{10, 8, 0, dst}}
}

func back4(src, dst byte, proto layers.IPProtocol) *layers.IPv4 {
	p := ip4(src, dst, proto)
	p.SrcIP, p.DstIP = p.DstIP, p.SrcIP
	return p
}

func ip6(src, dst byte, proto layers.IPProtocol) *layers.IPv6 {
	a := func(n byte) []byte { return append(append([]byte{0x20, 1, 0xd, 0xb8}, make([]byte, 11)...), n) }
	return &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: proto, SrcIP: a(src), DstIP: a(dst)}
}

func udp(src, dst layers.UDPPort) *layers.UDP { return &layers.UDP{SrcPort: src, DstPort: dst} }

func echo(typ uint8) *layers.ICMPv4 {
	return &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(typ, 0), Id: 0x1234, Seq: 9}
}

func echo6(typ uint8) *layers.ICMPv6 {
	return &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(typ, 0)}
}

var data = gopacket.Payload("any data, of odd length")

// what is sent, and what has to come back; nil: nothing.
func cases(t testing.TB) map[string][2][]byte {
	const u, i, i6 = layers.IPProtocolUDP, layers.IPProtocolICMPv4, layers.IPProtocolICMPv6
	payload6 := gopacket.Payload("\x12\x34\x00\x09data")
	raw := func(p []byte, change func(p []byte)) []byte { change(p); return p }
	later := func(p []byte) { binary.BigEndian.PutUint16(p[6:], 185) }
	noSum := func(p []byte) { p[26], p[27] = 0, 0 }
	group := ip4(1, 2, u)
	group.DstIP = []byte{224, 0, 0, 251}
	group6 := ip6(1, 2, u)
	group6.DstIP = append([]byte{0xff, 2}, make([]byte, 14)...)
	return map[string][2][]byte{
		"UDP":                      {build(t, ip4(1, 2, u), udp(1000, 7), data), build(t, back4(1, 2, u), udp(7, 1000), data)},
		"UDP without checksum":     {raw(build(t, ip4(1, 2, u), udp(1000, 7), data), noSum), raw(build(t, back4(1, 2, u), udp(7, 1000), data), noSum)},
		"UDP, later fragment":      {raw(build(t, ip4(1, 2, u), data), later), raw(build(t, back4(1, 2, u), data), later)},
		"echo":                     {build(t, ip4(1, 2, i), echo(8), data), build(t, back4(1, 2, i), echo(0), data)},
		"UDP over IPv6":            {build(t, ip6(1, 2, u), udp(1000, 7), data), build(t, ip6(2, 1, u), udp(7, 1000), data)},
		"echo over IPv6":           {build(t, ip6(1, 2, i6), echo6(128), payload6), build(t, ip6(2, 1, i6), echo6(129), payload6)},
		"echo reply":               {build(t, ip4(1, 2, i), echo(0), data), nil},
		"echo reply over IPv6":     {build(t, ip6(1, 2, i6), echo6(129), payload6), nil},
		"TCP":                      {build(t, ip4(1, 2, layers.IPProtocolTCP), &layers.TCP{SrcPort: 1, DstPort: 2, SYN: true}), nil},
		"group":                    {build(t, group, udp(1000, 7), data), nil},
		"group of IPv6":            {build(t, group6, udp(1000, 7), data), nil},
		"UDP cut":                  {build(t, ip4(1, 2, u), udp(1000, 7))[:27], nil},
		"UDP over IPv6 cut":        {build(t, ip6(1, 2, u), udp(1000, 7))[:47], nil},
		"IPv6 cut":                 {build(t, ip6(1, 2, u), udp(1000, 7))[:39], nil},
		"header longer than it is": {raw(build(t, ip4(1, 2, u), udp(1000, 7)), func(p []byte) { p[0] = 0x4f }), nil},
		"header too short":         {raw(build(t, ip4(1, 2, u), udp(1000, 7)), func(p []byte) { p[0] = 0x44 }), nil},
		"neither":                  {raw(build(t, ip4(1, 2, u), udp(1000, 7)), func(p []byte) { p[0] = 0x55 }), nil},
		"empty":                    {nil, nil},
	}
}

func frame(t testing.TB, pool *rings.Pool, p []byte) *rings.Frame {
	t.Helper()
	f := pool.Get()
	if f == nil || !f.Set(p) {
		t.Fatalf("no frame for %d bytes", len(p))
	}
	return f
}

func send(t *testing.T, p *lab.Port, fs ...*rings.Frame) {
	t.Helper()
	if n, err := p.Send(fs); n != len(fs) || err != nil {
		t.Fatalf("Send took %d of %d: %v", n, len(fs), err)
	}
	if err := p.Flush(); err != nil {
		t.Fatal(err)
	}
}

func TestReflect(t *testing.T) {
	pool := rings.NewPoolN(4, rings.ChunkSmall)
	fs := make([]*rings.Frame, 4)
	for name, c := range cases(t) {
		p := lab.Reflect(mtu, 4)
		send(t, p, frame(t, pool, c[0]))
		n, err := p.Recv(fs)
		switch {
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case c[1] == nil && n != 0:
			t.Errorf("%s: came back: % x", name, fs[0].Data())
		case c[1] == nil && p.Stats().TxDropped != 1:
			t.Errorf("%s: not counted: %+v", name, p.Stats())
		case c[1] != nil && n != 1:
			t.Errorf("%s: %d came back", name, n)
		case n == 1 && !bytes.Equal(fs[0].Data(), c[1]):
			t.Errorf("%s: % x came back, want % x", name, fs[0].Data(), c[1])
		}
		for _, f := range fs[:n] {
			f.Free()
		}
		if pool.Free() != pool.Size() {
			t.Fatalf("%s: a frame is missing", name)
		}
	}
}

// It keeps order, takes no more than it has room for, and gives back what it
// has when it is closed.
func TestReflectBounds(t *testing.T) {
	pool := rings.NewPoolN(16, rings.ChunkSmall)
	p := lab.Reflect(mtu, 5)
	fs := make([]*rings.Frame, 3)
	sent, got := uint16(0), uint16(0)
	packet := func() *rings.Frame {
		sent++
		b := build(t, ip4(1, 2, layers.IPProtocolUDP), udp(1000, 7), data)
		binary.BigEndian.PutUint16(b[4:], sent)
		return frame(t, pool, b)
	}
	for range 20 { // round the ring several times
		send(t, p, packet(), packet(), packet())
		n, err := p.Recv(fs)
		if n != 3 || err != nil {
			t.Fatalf("%d packets, %v", n, err)
		}
		for _, f := range fs[:n] {
			got++
			if id := binary.BigEndian.Uint16(f.Data()[4:]); id != got {
				t.Fatalf("packet %d comes as number %d", id, got)
			}
			if f.Headroom() < rings.Headroom || f.Tailroom() < rings.Tailroom {
				t.Errorf("headroom %d, tailroom %d", f.Headroom(), f.Tailroom())
			}
			f.Free()
		}
	}
	for range 7 {
		send(t, p, packet())
	}
	if s := p.Stats(); s.TxDropped != 2 || s.TxPackets != 65 || s.RxPackets != 60 {
		t.Errorf("%+v", s)
	}
	if pool.Free() != 11 {
		t.Errorf("%d frames are free, want 11", pool.Free())
	}
	// Room in front is missing: the packet moves.
	if n, _ := p.Recv(fs[:1]); n != 1 {
		t.Fatal("nothing waits")
	}
	f := fs[0]
	copy(f.Chunk(), f.Data())
	f.Reset(0, f.Len())
	send(t, p, f)
	if err := errors.Join(p.Close(), p.Close()); err != nil {
		t.Fatal(err)
	}
	if pool.Free() != pool.Size() {
		t.Errorf("%d frames are missing", pool.Size()-pool.Free())
	}
	if _, err := p.Recv(fs); !errors.Is(err, rings.ErrPortDown) {
		t.Errorf("Recv after Close: %v", err)
	}
	f = packet()
	if n, err := p.Send([]*rings.Frame{f}); n != 0 || !errors.Is(err, rings.ErrPortDown) {
		t.Errorf("Send after Close: %d, %v", n, err)
	}
	if !errors.Is(p.Flush(), rings.ErrPortDown) {
		t.Error("Flush after Close")
	}
}

func TestSink(t *testing.T) {
	pool := rings.NewPoolN(4, rings.ChunkSmall)
	p := lab.Sink(100)
	send(t, p, frame(t, pool, make([]byte, 100)), frame(t, pool, make([]byte, 101)))
	if n, err := p.Recv(make([]*rings.Frame, 4)); n != 0 || err != nil {
		t.Errorf("%d packets, %v", n, err)
	}
	if s := p.Stats(); s.TxPackets != 1 || s.TxBytes != 100 || s.TxDropped != 1 || s.RxPackets != 0 {
		t.Errorf("%+v", s)
	}
	if pool.Free() != pool.Size() || p.FD() != -1 || p.Info().Link != rings.LinkIP {
		t.Errorf("%d of %d frames free, %+v", pool.Free(), pool.Size(), p.Info())
	}
	if p.Close() != nil || p.Flush() == nil {
		t.Error("closing")
	}
}

func TestNoAllocations(t *testing.T) {
	pool := rings.NewPoolN(64, rings.ChunkSmall)
	packet := build(t, ip4(1, 2, layers.IPProtocolUDP), udp(1000, 7), data)
	fs := make([]*rings.Frame, 32)
	for name, p := range map[string]*lab.Port{"sink": lab.Sink(mtu), "reflect": lab.Reflect(mtu, 64)} {
		if n := testing.AllocsPerRun(100, func() {
			for i := range fs {
				fs[i] = frame(t, pool, packet)
			}
			send(t, p, fs...)
			n, _ := p.Recv(fs)
			for _, f := range fs[:n] {
				f.Free()
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// FuzzReflect: a packet reflected twice, where that is possible, is itself;
// one that is refused is not changed in length, and nothing panics.
func FuzzReflect(f *testing.F) {
	for _, c := range cases(f) {
		f.Add(c[0])
	}
	pool := rings.NewPoolN(2, rings.ChunkSmall)
	fs := make([]*rings.Frame, 1)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > mtu {
			return
		}
		p := lab.Reflect(mtu, 1)
		send(t, p, frame(t, pool, b))
		if n, _ := p.Recv(fs); n == 1 {
			if once := bytes.Clone(fs[0].Data()); len(once) != len(b) {
				t.Fatalf("%d bytes became %d", len(b), len(once))
			}
			send(t, p, fs[0])
			if n, _ := p.Recv(fs); n == 1 {
				if !bytes.Equal(fs[0].Data(), b) {
					t.Fatalf("% x came back as % x", b, fs[0].Data())
				}
				fs[0].Free()
			}
		}
		if pool.Free() != pool.Size() {
			t.Fatal("a frame is missing")
		}
	})
}

func benchmark(b *testing.B, p *lab.Port, packet []byte) {
	pool := rings.NewPoolN(128, rings.ChunkSmall)
	fs := make([]*rings.Frame, 64)
	for i := range fs {
		fs[i] = frame(b, pool, packet)
	}
	b.ReportAllocs()
	for range b.N/64 + 1 {
		for i := range fs {
			if fs[i] == nil {
				fs[i] = pool.Get()
			}
		}
		_, _ = p.Send(fs)
		_ = p.Flush()
		n, _ := p.Recv(fs)
		clear(fs[n:])
	}
}

func BenchmarkSink(b *testing.B) {
	benchmark(b, lab.Sink(mtu), build(b, ip4(1, 2, layers.IPProtocolUDP), udp(1, 2), data))
}

func BenchmarkReflect(b *testing.B) {
	benchmark(b, lab.Reflect(mtu, 64), build(b, ip4(1, 2, layers.IPProtocolUDP), udp(1, 2), data))
}
