package wire

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"xpptp/engine"
)

func TestL3Offset(t *testing.T) {
	mac := make([]byte, 12)
	frame := func(rest ...uint16) []byte {
		b := bytes.Clone(mac)
		for _, v := range rest {
			b = binary.BigEndian.AppendUint16(b, v)
		}
		return b
	}
	for _, tt := range []struct {
		name string
		b    []byte
		off  int
		typ  uint16
		d    engine.Drop
	}{
		{"IPv4", frame(0x0800), 14, EtherTypeIPv4, engine.Pass},
		{"802.1Q", frame(0x8100, 5, 0x86dd), 18, EtherTypeIPv6, engine.Pass},
		{"802.1ad and 802.1Q", frame(0x88a8, 5, 0x8100, 6, 0x0800), 22, EtherTypeIPv4, engine.Pass},
		{"three tags", frame(0x8100, 5, 0x8100, 6, 0x8100, 7, 0x0800), 22, EtherTypeVLAN, engine.Pass},
		{"short", frame(0x0800)[:13], 0, 0, engine.ShortPacket},
		{"short tag", frame(0x8100, 5), 0, 0, engine.ShortPacket},
		{"short second tag", frame(0x88a8, 5, 0x8100, 6), 0, 0, engine.ShortPacket},
		{"empty", nil, 0, 0, engine.ShortPacket},
	} {
		if off, typ, d := L3Offset(tt.b); off != tt.off || typ != tt.typ || d != tt.d {
			t.Errorf("%s: %d, %#04x, %v; want %d, %#04x, %v", tt.name, off, typ, d, tt.off, tt.typ, tt.d)
		}
	}
	b := make([]byte, 18)
	dst, src := [6]byte{1, 2, 3, 4, 5, 6}, [6]byte{7, 8, 9, 10, 11, 12}
	n := PutVLAN(b, dst, src, 0x2005, EtherTypeIPv4)
	e, d := ParseEthernet(b)
	if d != engine.Pass || n != 18 || e.Dst() != dst || e.Src() != src || e.Type() != EtherTypeVLAN {
		t.Errorf("PutVLAN: %x", b)
	}
	if off, typ, _ := L3Offset(b); off != n || typ != EtherTypeIPv4 {
		t.Errorf("PutVLAN: packet at %d, type %#04x", off, typ)
	}
	if PutEthernet(b, dst, src, EtherTypeIPv6) != 14 || e.Type() != EtherTypeIPv6 {
		t.Errorf("PutEthernet: %x", b)
	}
	if _, d := ParseEthernet(b[:13]); d != engine.ShortPacket {
		t.Errorf("13 bytes: %v", d)
	}
}

func packet4(payload int, edit func(b []byte)) []byte {
	b := make([]byte, IPv4Len+payload)
	PutIPv4(b, &IPv4Fields{TTL: 9, Protocol: ProtoGRE, Src: [4]byte{192, 0, 2, 1}, Dst: [4]byte{198, 51, 100, 2}, PayloadLen: payload})
	for i := range payload {
		b[IPv4Len+i] = byte(i)
	}
	if edit != nil {
		edit(b)
	}
	return b
}

func TestParseIPv4(t *testing.T) {
	for _, tt := range []struct {
		name string
		b    []byte
		n    int
		d    engine.Drop
	}{
		{"good", packet4(10, nil), 30, engine.Pass},
		{"padded", append(packet4(10, nil), make([]byte, 16)...), 30, engine.Pass},
		{"no payload", packet4(0, nil), 20, engine.Pass},
		{"short", packet4(0, nil)[:19], 0, engine.ShortPacket},
		{"version 6", packet4(40, func(b []byte) { b[0] = 0x65 }), 0, engine.NotIPv4},
		{"header length 16", packet4(10, func(b []byte) { b[0] = 0x44 }), 0, engine.BadIPHeader},
		{"header longer than total", packet4(10, func(b []byte) { b[0] = 0x4f }), 0, engine.BadIPHeader},
		{"total shorter than header", packet4(10, func(b []byte) { b[3] = 19 }), 0, engine.BadIPHeader},
		{"total 0", packet4(10, func(b []byte) { b[3] = 0 }), 0, engine.BadIPHeader},
		{"total longer than packet", packet4(10, func(b []byte) { b[3] = 31 }), 0, engine.BadIPHeader},
	} {
		if p, d := ParseIPv4(tt.b); d != tt.d || len(p) != tt.n {
			t.Errorf("%s: %d bytes, %v; want %d, %v", tt.name, len(p), d, tt.n, tt.d)
		}
	}
}

func TestIPv4Fields(t *testing.T) {
	f := IPv4Fields{TOS: 0xb9, ID: 0x1234, DF: true, TTL: 63, Protocol: 47, Src: [4]byte{10, 1, 2, 3}, Dst: [4]byte{10, 4, 5, 6}, PayloadLen: 7}
	b := make([]byte, 27)
	PutIPv4(b, &f)
	p, d := ParseIPv4(b)
	if d != engine.Pass || !p.HeaderChecksumOK() || naiveSum(b[:20], 0) != 0 {
		t.Fatalf("%v, checksum %#04x", d, p.Checksum())
	}
	if p.TOS() != f.TOS || p.ID() != f.ID || !p.DF() || p.MF() || p.FragOffset() != 0 || p.IsFragment() || p.TTL() != 63 ||
		p.Protocol() != 47 || p.Src() != f.Src || p.Dst() != f.Dst || p.TotalLen() != 27 || len(p.Payload()) != 7 || len(p.Options()) != 0 {
		t.Errorf("fields of %x", b)
	}
	p.SetTOS(3)
	if p.TOS() != 3 || !p.HeaderChecksumOK() {
		t.Error("SetTOS")
	}
	for ttl := 63; ttl > 1; ttl-- {
		if !p.DecTTL() || p.TTL() != uint8(ttl-1) || !p.HeaderChecksumOK() {
			t.Fatalf("DecTTL at %d", ttl)
		}
	}
	if p.DecTTL() || p.TTL() != 1 {
		t.Error("DecTTL at 1")
	}
	b[3]++
	if p.HeaderChecksumOK() {
		t.Error("a wrong checksum passes")
	}
}

func packet6(next uint8, payload []byte) []byte {
	b := make([]byte, IPv6Len, IPv6Len+len(payload))
	PutIPv6(b, &IPv6Fields{
		TrafficClass: 0xb9, FlowLabel: 0xfffff, NextHeader: next, HopLimit: 3,
		Src: LinkLocal6([8]byte{1}), Dst: LinkLocal6([8]byte{2}), PayloadLen: len(payload),
	})
	return append(b, payload...)
}

func TestParseIPv6(t *testing.T) {
	for _, tt := range []struct {
		name string
		b    []byte
		n    int
		d    engine.Drop
	}{
		{"good", packet6(59, make([]byte, 5)), 45, engine.Pass},
		{"padded", append(packet6(59, make([]byte, 5)), 0, 0), 45, engine.Pass},
		{"short", packet6(59, nil)[:39], 0, engine.InnerShort},
		{"cut", packet6(59, make([]byte, 5))[:44], 0, engine.InnerBad},
		{"version 4", append([]byte{0x45}, packet6(59, nil)[1:]...), 0, engine.InnerBad},
	} {
		if p, d := ParseIPv6(tt.b); d != tt.d || len(p) != tt.n {
			t.Errorf("%s: %d bytes, %v; want %d, %v", tt.name, len(p), d, tt.n, tt.d)
		}
	}
	p, _ := ParseIPv6(packet6(58, []byte{1}))
	if p.TrafficClass() != 0xb9 || p.NextHeader() != 58 || p.HopLimit() != 3 || p.PayloadLen() != 1 || len(p.Payload()) != 1 {
		t.Errorf("fields of %x", []byte(p))
	}
	p.SetTrafficClass(0x46)
	if p.TrafficClass() != 0x46 || p[0]>>4 != 6 || be.Uint32(p)&0xfffff != 0xfffff {
		t.Errorf("SetTrafficClass: %x", p[:4])
	}
	for i, want := range []bool{true, true, false} {
		if got := p.DecHopLimit(); got != want {
			t.Errorf("DecHopLimit number %d from 3: %v", i, got)
		}
	}
	if p.HopLimit() != 1 {
		t.Errorf("hop limit %d after DecHopLimit refused", p.HopLimit())
	}
	ll, global, multicast := p.Src(), [16]byte{0x20, 1}, [16]byte{0xff, 2}
	if InterfaceID6(ll) != [8]byte{1} || !IsLinkLocal6(ll) || IsLinkLocal6(global) || !IsMulticast6(multicast) ||
		!IsLinkScope6(ll) || !IsLinkScope6(multicast) || IsLinkScope6(global) || IsLinkScope6([16]byte{0xff, 5}) {
		t.Error("address scopes")
	}
}

func TestUpper(t *testing.T) {
	opt := func(next uint8, words int) []byte {
		b := make([]byte, 8+8*words)
		b[0], b[1] = next, byte(words)
		return b
	}
	frag := func(next uint8, off uint16) []byte {
		return []byte{next, 0, byte(off >> 8), byte(off), 0, 0, 0, 1}
	}
	cat := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for _, tt := range []struct {
		name     string
		b        []byte
		proto    uint8
		off      int
		fragment bool
		fragOff  int
		ok       bool
	}{
		{"none", packet6(ProtoTCP, make([]byte, 20)), ProtoTCP, 40, false, 0, true},
		{"hop-by-hop", packet6(extHopByHop, cat(opt(ProtoUDP, 1), make([]byte, 8))), ProtoUDP, 56, false, 0, true},
		{"three", packet6(extHopByHop, cat(opt(extRouting, 0), opt(extDestOpts, 2), opt(ProtoTCP, 0))), ProtoTCP, 80, false, 0, true},
		{"first fragment", packet6(extFragment, cat(frag(ProtoUDP, 1), make([]byte, 8))), ProtoUDP, 48, true, 0, true},
		{"later fragment", packet6(extFragment, cat(frag(extDestOpts, 0x21), make([]byte, 8))), extDestOpts, 48, true, 0x20, true},
		{"cut in option", packet6(extHopByHop, opt(ProtoTCP, 1)[:15]), 0, 0, false, 0, false},
		{"cut in fragment", packet6(extFragment, frag(ProtoTCP, 0)[:7]), 0, 0, false, 0, false},
		{"unknown", packet6(135, opt(ProtoTCP, 0)), 135, 40, false, 0, true},
		{"too many", packet6(extDestOpts, bytes.Repeat(opt(extDestOpts, 0), 9)), 0, 0, false, 0, false},
	} {
		p, d := ParseIPv6(tt.b)
		if d != engine.Pass {
			t.Fatalf("%s: %v", tt.name, d)
		}
		proto, off, fragment, fragOff, ok := p.Upper()
		if ok != tt.ok || ok && (proto != tt.proto || off != tt.off || fragment != tt.fragment || fragOff != tt.fragOff) {
			t.Errorf("%s: %d at %d, fragment %v at %d, %v", tt.name, proto, off, fragment, fragOff, ok)
		}
	}
}

func TestParseGRE(t *testing.T) {
	good := func(edit func(b []byte) []byte) []byte {
		b := make([]byte, 20)
		PutGRE(b, 0x1234, 4, 0xfffffffe, true, 0x80000001, true)
		return edit(b)
	}
	same := func(b []byte) []byte { return b }
	ack := make([]byte, 12)
	PutGRE(ack, 7, 0, 0, false, 99, true)
	for _, tt := range []struct {
		name string
		b    []byte
		n    int
		d    engine.Drop
	}{
		{"data and ack", good(same), 20, engine.Pass},
		{"padded", good(func(b []byte) []byte { return append(b, 1, 2, 3) }), 20, engine.Pass},
		{"no payload", good(func(b []byte) []byte { b[5] = 0; return b }), 16, engine.Pass},
		{"ack alone", ack, 12, engine.Pass},
		{"ack alone, padded", append(bytes.Clone(ack), make([]byte, 34)...), 12, engine.Pass},
		{"ack alone, with a length all the same", func() []byte { b := bytes.Clone(ack); b[5] = 200; return b }(), 12, engine.Pass},
		{"neither", []byte{0x20, 1, 0x88, 0x0b, 0, 0, 0, 1}, 8, engine.Pass},
		{"cut payload", good(func(b []byte) []byte { return b[:19] }), 0, engine.ShortPacket},
		{"cut header", good(func(b []byte) []byte { return b[:15] }), 0, engine.ShortPacket},
		{"cut before the key", good(func(b []byte) []byte { return b[:7] }), 0, engine.ShortPacket},
		{"version 0", good(func(b []byte) []byte { b[1] &^= 1; return b }), 0, engine.BadGRE},
		{"no key", good(func(b []byte) []byte { b[0] &^= 0x20; return b }), 0, engine.BadGRE},
		{"checksum", good(func(b []byte) []byte { b[0] |= 0x80; return b }), 0, engine.BadGRE},
		{"routing", good(func(b []byte) []byte { b[0] |= 0x40; return b }), 0, engine.BadGRE},
		{"strict source route", good(func(b []byte) []byte { b[0] |= 8; return b }), 0, engine.BadGRE},
		{"recursion", good(func(b []byte) []byte { b[0] |= 1; return b }), 0, engine.BadGRE},
		{"flags", good(func(b []byte) []byte { b[1] |= 8; return b }), 0, engine.BadGRE},
		{"IPv4 inside", good(func(b []byte) []byte { b[2], b[3] = 8, 0; return b }), 0, engine.BadGRE},
	} {
		if g, d := ParseGRE(tt.b); d != tt.d || len(g) != tt.n {
			t.Errorf("%s: %d bytes, %v; want %d, %v", tt.name, len(g), d, tt.n, tt.d)
		}
	}
	g, _ := ParseGRE(good(same))
	if g.CallID() != 0x1234 || g.Seq() != 0xfffffffe || g.Ack() != 0x80000001 || g.PayloadLen() != 4 || len(g.Payload()) != 4 || g.HeaderLen() != 16 {
		t.Errorf("fields of %x", []byte(g))
	}
	g, _ = ParseGRE(ack)
	if g.HasSeq() || g.Seq() != 0 || !g.HasAck() || g.Ack() != 99 || len(g.Payload()) != 0 || g.CallID() != 7 {
		t.Errorf("fields of %x", []byte(g))
	}
}

func TestParsePPP(t *testing.T) {
	for _, tt := range []struct {
		b     string
		proto uint16
		info  int
		d     engine.Drop
	}{
		{"\xff\x03\xc0\x21abc", PPPLCP, 3, engine.Pass},
		{"\xc0\x21abc", PPPLCP, 3, engine.Pass},
		{"\xff\x03\x00\x21", PPPIPv4, 0, engine.Pass},
		{"\xff\x03\x21ab", PPPIPv4, 2, engine.Pass},
		{"\x21ab", PPPIPv4, 2, engine.Pass},
		{"\x00\x57ab", PPPIPv6, 2, engine.Pass},
		{"\xfdxy", PPPMPPE, 2, engine.Pass},
		{"\x00\xfdxy", PPPMPPE, 2, engine.Pass},
		{"\x00\x22", 0x22, 0, engine.Pass}, // no legal number: returned to be rejected
		{"", 0, 0, engine.PPPShort},
		{"\xff\x03", 0, 0, engine.PPPShort},
		{"\xff\x03\xc0", 0, 0, engine.PPPShort},
		{"\x00", 0, 0, engine.PPPShort},
	} {
		proto, info, d := ParsePPP([]byte(tt.b))
		if proto != tt.proto || len(info) != tt.info || d != tt.d {
			t.Errorf("%x: %#04x, %d bytes, %v; want %#04x, %d, %v", tt.b, proto, len(info), d, tt.proto, tt.info, tt.d)
		}
	}
	for _, tt := range []struct {
		proto     uint16
		acfc, pfc bool
		want      string
	}{
		{PPPIPv4, false, false, "\xff\x03\x00\x21"},
		{PPPIPv4, true, false, "\x00\x21"},
		{PPPIPv4, false, true, "\xff\x03\x21"},
		{PPPIPv4, true, true, "\x21"},
		{PPPMPPE, true, true, "\xfd"},
		{PPPIPCP, true, true, "\x80\x21"},
		{PPPLCP, true, true, "\xff\x03\xc0\x21"},
	} {
		b := make([]byte, PPPMaxLen)
		if n := PutPPP(b, tt.proto, tt.acfc, tt.pfc); string(b[:n]) != tt.want {
			t.Errorf("%#04x, acfc %v, pfc %v: %x, want %x", tt.proto, tt.acfc, tt.pfc, b[:n], tt.want)
		}
	}
}

func TestSaneInner(t *testing.T) {
	for _, tt := range []struct {
		name  string
		proto uint16
		b     []byte
		want  bool
	}{
		{"IPv4", PPPIPv4, packet4(8, nil), true},
		{"IPv4, padded", PPPIPv4, append(packet4(8, nil), 0), true},
		{"IPv4, wrong checksum", PPPIPv4, packet4(8, func(b []byte) { b[10]++ }), true},
		{"IPv4, cut", PPPIPv4, packet4(8, nil)[:27], false},
		{"IPv4, short", PPPIPv4, packet4(8, nil)[:19], false},
		{"IPv4, header length 16", PPPIPv4, packet4(8, func(b []byte) { b[0] = 0x44 }), false},
		{"IPv4, header beyond total", PPPIPv4, packet4(8, func(b []byte) { b[0] = 0x48 }), false},
		{"IPv4 as IPv6", PPPIPv6, packet4(60, nil), false},
		{"IPv6", PPPIPv6, packet6(59, make([]byte, 3)), true},
		{"IPv6, cut", PPPIPv6, packet6(59, make([]byte, 3))[:42], false},
		{"IPv6 as IPv4", PPPIPv4, packet6(59, make([]byte, 3)), false},
		{"IPv6, short", PPPIPv6, packet6(59, nil)[:39], false},
		{"IPv4 as LCP", PPPLCP, packet4(8, nil), false},
		{"nothing", PPPIPv4, nil, false},
	} {
		if got := SaneInner(tt.proto, tt.b); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

// RFC 6040, figures 3 and 4.
func TestECN(t *testing.T) {
	const drop = 0xff
	decap := [4][4]uint8{ // [inner][outer], codepoints 0 Not-ECT, 1 ECT(1), 2 ECT(0), 3 CE
		NotECT: {NotECT, NotECT, NotECT, drop},
		ECT1:   {ECT1, ECT1, ECT1, CE},
		ECT0:   {ECT0, ECT1, ECT0, CE},
		CE:     {CE, CE, CE, CE},
	}
	for in := range uint8(4) {
		for out := range uint8(4) {
			const dscp = 0xb8
			tos, ok := DecapECN(dscp|in, 0x28|out)
			want := decap[in][out]
			if ok != (want != drop) || ok && tos != dscp|want {
				t.Errorf("inner %d, outer %d: %#02x, %v; want %#02x", in, out, tos, ok, want)
			}
		}
		for _, c := range []struct {
			dscp, ecn bool
			want      uint8
		}{{false, false, 0}, {true, false, 0xb8}, {false, true, in}, {true, true, 0xb8 | in}} {
			if got := EncapTOS(0xb8|in, c.dscp, c.ecn); got != c.want {
				t.Errorf("inner %d, copy DSCP %v, ECN %v: %#02x, want %#02x", in, c.dscp, c.ecn, got, c.want)
			}
		}
	}
	v4, v6 := packet4(0, nil), packet6(59, nil)
	SetInnerTOS(v4, 0x2b)
	SetInnerTOS(v6, 0x2b)
	SetInnerTOS(nil, 1)
	if InnerTOS(v4) != 0x2b || InnerTOS(v6) != 0x2b || InnerTOS([]byte{0x45}) != 0 || !IPv4(v4).HeaderChecksumOK() {
		t.Error("SetInnerTOS")
	}
}

func TestUDP(t *testing.T) {
	src, dst := [4]byte{10, 0, 0, 1}, [4]byte{10, 0, 0, 2}
	b := append(make([]byte, UDPLen), "hello"...)
	PutUDP(b, 1000, 2000, 5, PseudoHeader4(src, dst, ProtoUDP, len(b)))
	u, d := ParseUDP(append(b, 0, 0))
	if d != engine.Pass || u.SrcPort() != 1000 || u.DstPort() != 2000 || string(u.Payload()) != "hello" {
		t.Errorf("%x: %v", b, d)
	}
	if Checksum(u, PseudoHeader4(src, dst, ProtoUDP, len(u))) != 0 || u.Checksum() == 0 {
		t.Errorf("checksum %#04x", u.Checksum())
	}
	// A sum of zero is sent as 0xffff (RFC 768).
	for w := range uint32(0x10000) {
		be.PutUint16(b[8:], uint16(w))
		PutUDP(b, 1, 2, 5, 0)
		if UDP(b).Checksum() == 0 {
			t.Fatal("checksum 0 sent")
		}
	}
	for _, bad := range [][]byte{b[:7], {0, 1, 0, 2, 0, 7, 0, 0}, {0, 1, 0, 2, 0, 9, 0, 0}} {
		if _, d := ParseUDP(bad); d == engine.Pass {
			t.Errorf("%x accepted", bad)
		}
	}
}

// tcpSYN returns a TCP segment with the given options, its checksum right.
func tcpSYN(flags byte, opts []byte, pseudo uint32) []byte {
	b := make([]byte, 20, 60)
	for len(opts)%4 != 0 {
		opts = append(opts, 0)
	}
	b = append(b, opts...)
	b[12], b[13] = byte(len(b)/4)<<4, flags
	be.PutUint32(b[4:], 0xdeadbeef)
	b = append(b, "data"...)
	be.PutUint16(b[16:], Checksum(b, pseudo+uint32(len(b))))
	return b
}

func TestClampMSS(t *testing.T) {
	src, dst := [4]byte{10, 0, 0, 1}, [4]byte{10, 0, 0, 2}
	src6, dst6 := LinkLocal6([8]byte{1}), LinkLocal6([8]byte{2})
	mss := func(v uint16) []byte { return []byte{2, 4, byte(v >> 8), byte(v)} }
	for _, tt := range []struct {
		name string
		opts []byte
		want uint16 // 0: unchanged
		at   int    // of the value among the options
	}{
		{"alone", mss(1460), 1300, 2},
		{"after NOP, at an odd offset", append([]byte{1}, mss(1460)...), 1300, 3},
		{"after other options", append([]byte{1, 3, 3, 7, 4, 2}, mss(65535)...), 1300, 8},
		{"small enough", mss(1300), 0, 0},
		{"smaller", mss(536), 0, 0},
		{"none", []byte{4, 2}, 0, 0},
		{"behind the end", append([]byte{0}, mss(1460)...), 0, 0},
		{"wrong length", []byte{2, 3, 9, 9}, 0, 0},
		{"length 0", []byte{8, 0, 2, 4, 9, 9}, 0, 0},
		{"beyond the header", []byte{1, 1, 2, 4}, 0, 0},
	} {
		for _, v6 := range []bool{false, true} {
			var ip, seg []byte
			var pseudo uint32
			if v6 {
				pseudo = PseudoHeader6(src6, dst6, ProtoTCP, 0)
				ip = packet6(extDestOpts, append([]byte{ProtoTCP, 0, 0, 0, 0, 0, 0, 0}, tcpSYN(2, tt.opts, pseudo)...))
				seg = ip[48:]
			} else {
				pseudo = PseudoHeader4(src, dst, ProtoTCP, 0)
				seg = tcpSYN(0x12, tt.opts, pseudo)
				ip = make([]byte, IPv4Len)
				PutIPv4(ip, &IPv4Fields{Protocol: ProtoTCP, Src: src, Dst: dst, PayloadLen: len(seg)})
				ip = append(ip, seg...)
				seg = ip[20:]
			}
			before := bytes.Clone(ip)
			if got := ClampMSS(ip, 1300, 1300); got != (tt.want != 0) {
				t.Errorf("%s, IPv6 %v: changed %v", tt.name, v6, got)
			}
			if tt.want == 0 {
				if !bytes.Equal(ip, before) {
					t.Errorf("%s, IPv6 %v: changed without saying so", tt.name, v6)
				}
				continue
			}
			if got := be.Uint16(seg[20+tt.at:]); got != tt.want {
				t.Errorf("%s, IPv6 %v: MSS %d, want %d", tt.name, v6, got, tt.want)
			}
			if c := naiveSum(seg, pseudo+uint32(len(seg))); c != 0 {
				t.Errorf("%s, IPv6 %v: checksum off by %#04x", tt.name, v6, c)
			}
		}
	}
	// What is left alone.
	syn := func(flags byte) []byte {
		b := make([]byte, IPv4Len)
		seg := tcpSYN(flags, mss(1460), 0)
		PutIPv4(b, &IPv4Fields{Protocol: ProtoTCP, PayloadLen: len(seg)})
		return append(b, seg...)
	}
	edit := func(b []byte, f func([]byte)) []byte { f(b); return b }
	for name, b := range map[string][]byte{
		"no SYN":          syn(0x10),
		"first fragment":  edit(syn(2), func(b []byte) { b[6] = 0x20 }),
		"later fragment":  edit(syn(2), func(b []byte) { b[7] = 1 }),
		"UDP":             edit(syn(2), func(b []byte) { b[9] = ProtoUDP }),
		"cut":             syn(2)[:30],
		"data offset 4":   edit(syn(2), func(b []byte) { b[32] = 0x40 }),
		"data offset 15":  edit(syn(2), func(b []byte) { b[32] = 0xf0 }),
		"version 5":       edit(syn(2), func(b []byte) { b[0] = 0x55 }),
		"empty":           {},
		"IPv6 fragment":   packet6(extFragment, append([]byte{ProtoTCP, 0, 0, 1, 0, 0, 0, 0}, tcpSYN(2, mss(1460), 0)...)),
		"IPv6, cut":       packet6(ProtoTCP, tcpSYN(2, mss(1460), 0))[:60],
		"IPv6, ESP":       packet6(50, tcpSYN(2, mss(1460), 0)),
		"IPv6, no header": packet6(ProtoTCP, nil),
	} {
		if ClampMSS(b, 100, 100) {
			t.Errorf("%s: changed", name)
		}
	}
	if ClampMSS(syn(2), 0, 100) {
		t.Error("changed with no limit for IPv4")
	}
	if !ClampMSS(syn(2), 100, 0) {
		t.Error("not changed with a limit for IPv4 alone")
	}
}

func TestFragments(t *testing.T) {
	opts := []byte{
		0x94, 4, 0, 0, // router alert: copied
		7, 7, 4, 1, 2, 3, 4, // record route: first fragment only
		0x83, 3, 4, // loose source route: copied
		1, 0,
	}
	r := rand.New(rand.NewPCG(6, 6))
	buf := make([]byte, 2000)
	for range 3000 {
		hl := 20
		if r.IntN(2) == 0 {
			hl += len(opts)
		}
		payload := r.IntN(1600)
		b := make([]byte, hl+payload)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		PutIPv4(b, &IPv4Fields{ID: 77, TTL: 5, Protocol: 17, Src: [4]byte{1}, Dst: [4]byte{2}, PayloadLen: hl - 20 + payload})
		b[0] = 0x40 | byte(hl/4)
		copy(b[20:hl], opts)
		firstOff, mf := 0, r.IntN(2) == 0
		if r.IntN(2) == 0 {
			firstOff = r.IntN(1000) * 8
		}
		frag := uint16(firstOff / 8)
		if mf {
			frag |= ip4MF
		}
		be.PutUint16(b[6:], frag)
		p, d := ParseIPv4(b)
		if d != engine.Pass {
			t.Fatal(d)
		}
		mtu := 68 + r.IntN(1500)
		var f Fragmenter
		if d := f.Init(p, mtu); d != engine.Pass {
			t.Fatal(d)
		}
		var whole []byte
		n := 0
		for ; f.More(); n++ {
			q, d := ParseIPv4(buf[:f.Next(buf)])
			if d != engine.Pass || len(q) > mtu || !q.HeaderChecksumOK() {
				t.Fatalf("fragment of %d bytes for an MTU of %d: %v", len(q), mtu, d)
			}
			if q.FragOffset() != firstOff+len(whole) || q.ID() != 77 || q.Src() != p.Src() || q.Dst() != p.Dst() || q.TTL() != 5 {
				t.Fatalf("fragment %d at %d, want %d", n, q.FragOffset(), firstOff+len(whole))
			}
			whole = append(whole, q.Payload()...)
			if last := len(whole) == payload; q.MF() != (mf || !last) {
				t.Fatalf("fragment %d: more fragments %v", n, q.MF())
			}
			want := []byte{}
			switch {
			case hl == 20:
			case n == 0:
				want = opts
			default:
				want = []byte{0x94, 4, 0, 0, 0x83, 3, 4, 0}
			}
			if !bytes.Equal(q.Options(), want) {
				t.Fatalf("fragment %d: options %x, want %x", n, q.Options(), want)
			}
		}
		if !bytes.Equal(whole, p.Payload()) || n > 1 && len(p) <= mtu {
			t.Fatalf("%d fragments carry %d of %d bytes", n, len(whole), payload)
		}
	}
}

func TestFragmenterRefuses(t *testing.T) {
	var f Fragmenter
	df := packet4(100, func(b []byte) { b[6] = 0x40 })
	for _, tt := range []struct {
		name string
		b    []byte
		mtu  int
		want engine.Drop
	}{
		{"DF", df, 100, engine.TooBig},
		{"DF, and fits", df, 120, engine.Pass},
		{"no room for payload", packet4(100, nil), 27, engine.TooBig},
		{"room for eight bytes", packet4(100, nil), 28, engine.Pass},
		{"beyond the largest datagram", packet4(100, func(b []byte) { b[6], b[7] = 0x1f, 0xff }), 60, engine.InnerBad},
	} {
		if d := f.Init(IPv4(tt.b), tt.mtu); d != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, d, tt.want)
		}
	}
}

func TestFragNeeded(t *testing.T) {
	router := [4]byte{10, 9, 8, 7}
	b := make([]byte, ICMPErrorMax)
	for _, payload := range []int{0, 8, 500, 528, 529, 1480} {
		orig := IPv4(packet4(payload, nil))
		n := PutFragNeeded(b, router, orig, 1400)
		p, d := ParseIPv4(b[:n])
		if d != engine.Pass || n > 576 || !p.HeaderChecksumOK() || p.Src() != router || p.Dst() != orig.Src() || p.Protocol() != ProtoICMP {
			t.Fatalf("payload %d: %d bytes, %v, from %v to %v", payload, n, d, p.Src(), p.Dst())
		}
		m, d := ParseICMP(p.Payload())
		if d != engine.Pass || m.Type() != 3 || m.Code() != 4 || m.Rest() != 1400 || naiveSum(m, 0) != 0 {
			t.Errorf("payload %d: %v, type %d code %d rest %d", payload, d, m.Type(), m.Code(), m.Rest())
		}
		if !bytes.HasPrefix(orig, m.Payload()) || len(m.Payload()) != min(len(orig), 548) {
			t.Errorf("payload %d: quotes %d bytes of %d", payload, len(m.Payload()), len(orig))
		}
	}
	icmp := func(typ byte) []byte {
		return packet4(8, func(b []byte) { b[9], b[20] = ProtoICMP, typ })
	}
	for name, tt := range map[string]struct {
		b    []byte
		want bool
	}{
		"echo":                {icmp(8), true},
		"echo reply":          {icmp(0), true},
		"unreachable":         {icmp(3), false},
		"time exceeded":       {icmp(11), false},
		"redirect":            {icmp(5), false},
		"unknown ICMP":        {icmp(200), false},
		"ICMP without a type": {packet4(0, func(b []byte) { b[9] = ProtoICMP }), false},
		"first fragment":      {packet4(8, func(b []byte) { b[6] = 0x20 }), true},
		"later fragment":      {packet4(8, func(b []byte) { b[7] = 1 }), false},
		"to multicast":        {packet4(8, func(b []byte) { b[16] = 224 }), false},
		"to broadcast":        {packet4(8, func(b []byte) { copy(b[16:], "\xff\xff\xff\xff") }), false},
		"from multicast":      {packet4(8, func(b []byte) { b[12] = 239 }), false},
		"from nowhere":        {packet4(8, func(b []byte) { b[12] = 0 }), false},
		"from loopback":       {packet4(8, func(b []byte) { b[12] = 127 }), false},
	} {
		if got := PutFragNeeded(b, router, IPv4(tt.b), 576) != 0; got != tt.want {
			t.Errorf("%s: answered %v, want %v", name, got, tt.want)
		}
	}
}

func TestPacketTooBig(t *testing.T) {
	router := [16]byte{0x20, 1, 0xd, 0xb8}
	b := make([]byte, ICMPErrorMax)
	for _, payload := range []int{0, 8, 1191, 1192, 1193, 1460} {
		orig := IPv6(packet6(59, make([]byte, payload)))
		n := PutPacketTooBig(b, router, orig, 1280)
		p, d := ParseIPv6(b[:n])
		if d != engine.Pass || n > 1280 || p.Src() != router || p.Dst() != orig.Src() || p.NextHeader() != ProtoICMPv6 {
			t.Fatalf("payload %d: %d bytes, %v", payload, n, d)
		}
		m := ICMP(p.Payload())
		if m.Type() != 2 || m.Code() != 0 || m.Rest() != 1280 || naiveSum(m, PseudoHeader6(p.Src(), p.Dst(), ProtoICMPv6, len(m))) != 0 {
			t.Errorf("payload %d: type %d code %d rest %d", payload, m.Type(), m.Code(), m.Rest())
		}
		if !bytes.HasPrefix(orig, m.Payload()) || len(m.Payload()) != min(len(orig), 1280-48) {
			t.Errorf("payload %d: quotes %d bytes of %d", payload, len(m.Payload()), len(orig))
		}
	}
	edit := func(b []byte, i int, v byte) []byte { b[i] = v; return b }
	for name, tt := range map[string]struct {
		b    []byte
		want bool
	}{
		"UDP":                              {packet6(17, make([]byte, 8)), true},
		"echo":                             {packet6(58, []byte{128, 0, 0, 0, 0, 0, 0, 0}), true},
		"ICMPv6 error":                     {packet6(58, []byte{1, 0, 0, 0, 0, 0, 0, 0}), false},
		"redirect":                         {packet6(58, []byte{137, 0, 0, 0, 0, 0, 0, 0}), false},
		"ICMPv6, no type":                  {packet6(58, nil), false},
		"error behind an extension header": {packet6(60, []byte{58, 0, 0, 0, 0, 0, 0, 0, 3}), false},
		"first fragment":                   {packet6(44, []byte{17, 0, 0, 1, 0, 0, 0, 0, 1}), true},
		"later fragment":                   {packet6(44, []byte{17, 0, 0, 9, 0, 0, 0, 0, 1}), false},
		"cut headers":                      {packet6(60, []byte{17}), false},
		"to multicast":                     {edit(packet6(17, nil), 24, 0xff), false},
		"from multicast":                   {edit(packet6(17, nil), 8, 0xff), false},
		"from nowhere":                     {append(append(packet6(17, nil)[:8:8], make([]byte, 16)...), packet6(17, nil)[24:]...), false},
	} {
		if got := PutPacketTooBig(b, router, IPv6(tt.b), 1280) != 0; got != tt.want {
			t.Errorf("%s: answered %v, want %v", name, got, tt.want)
		}
	}
}

func TestAllocations(t *testing.T) {
	v4, syn := packet4(1400, nil), packet6(ProtoTCP, tcpSYN(2, []byte{2, 4, 5, 0xb4}, 0))
	buf := make([]byte, 2048)
	if n := testing.AllocsPerRun(50, func() {
		p, _ := ParseIPv4(v4)
		var f Fragmenter
		f.Init(p, 600)
		for f.More() {
			f.Next(buf)
		}
		PutFragNeeded(buf, [4]byte{1}, p, 1400)
		ClampMSS(syn, 1300, 1200)
		PutGRE(buf, 1, 2, 3, true, 4, true)
		ParseGRE(buf)
		q, _ := ParseIPv6(syn)
		PutPacketTooBig(buf, [16]byte{1}, q, 1280)
		PutUDP(buf, 1, 2, 100, 0)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
