package traffic

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"pgregory.net/rapid"
)

func template(t testing.TB, v6 bool) *Template {
	p := Path{Src: netip.MustParseAddrPort("10.64.0.7:7100"), Dst: netip.MustParseAddrPort("10.99.0.1:7007")}
	if v6 {
		p = Path{Src: netip.MustParseAddrPort("[fe80::7]:7100"), Dst: netip.MustParseAddrPort("[fe80::1]:7007")}
	}
	var tm Template
	if err := tm.Init(p, 0x28, 42, FlagQuiet, 7); err != nil {
		t.Fatal(err)
	}
	return &tm
}

// gopacket reads what the template wrote, and computes the same checksums.
func TestGopacketAgrees(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v6 := rapid.Bool().Draw(t, "v6")
		addr := func(name string) netip.Addr {
			if v6 {
				return netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Filter(func(b []byte) bool { return b[0] != 0 }).Draw(t, name)))
			}
			return netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, name)))
		}
		p := Path{ // ports below mean protocols to gopacket
			Src: netip.AddrPortFrom(addr("src"), rapid.Uint16Min(40000).Draw(t, "sport")),
			Dst: netip.AddrPortFrom(addr("dst"), rapid.Uint16Min(40000).Draw(t, "dport")),
		}
		tos, stream := rapid.Uint8().Draw(t, "tos"), rapid.Uint32().Draw(t, "stream")
		flags := rapid.SampledFrom([]uint8{0, FlagQuiet}).Draw(t, "flags")
		var tm Template
		if err := tm.Init(p, tos, stream, flags, rapid.Uint32().Draw(t, "clock")); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, rapid.IntRange(MinSize(v6), MaxSize).Draw(t, "size"))
		seq, due := rapid.Uint64().Draw(t, "seq"), rapid.Int64Range(0, 1<<62).Draw(t, "due")
		if rapid.Bool().Draw(t, "control") {
			r := Request{Op: OpSend, Lease: MaxLease, Schedule: Schedule{Rate: rapid.Float64().Draw(t, "rate")}, Sizes: IMIX()}
			b = make([]byte, MaxControl)
			b = b[:tm.PutControl(b, seq, due, &r)]
		} else {
			tm.Put(b, seq, due, due+rapid.Int64Range(-10, 1<<33).Draw(t, "late"))
		}
		compare(t, b, p, tos, v6)

		got, v := Judge(b)
		if v != Whole || got.Path != p || got.Stamp.Stream() != stream || got.Stamp.Seq() != seq || got.Stamp.Due() != due {
			t.Fatalf("judged %d: %+v", v, got)
		}
		// Whatever single bit is changed of what does not change on the way, it is noticed, or not ours any more.
		at := rapid.IntRange(0, len(b)-1).Draw(t, "at")
		ttl := at == 8 && !v6 || at == 7 && v6
		b[at] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if got, v := Judge(b); v == Whole && got.Path == p && !ttl && !(v6 && at < 4) {
			t.Fatalf("byte %d changed: whole", at)
		}
	})
}

func compare(t *rapid.T, b []byte, p Path, tos uint8, v6 bool) {
	first := layers.LayerTypeIPv4
	if v6 {
		first = layers.LayerTypeIPv6
	}
	pkt := gopacket.NewPacket(b, first, gopacket.Default)
	if e := pkt.ErrorLayer(); e != nil {
		t.Fatalf("gopacket: %v", e.Error())
	}
	u := pkt.Layer(layers.LayerTypeUDP).(*layers.UDP)
	if u.SrcPort != layers.UDPPort(p.Src.Port()) || u.DstPort != layers.UDPPort(p.Dst.Port()) {
		t.Errorf("ports %v to %v", u.SrcPort, u.DstPort)
	}
	if err := u.SetNetworkLayerForChecksum(pkt.NetworkLayer()); err != nil {
		t.Fatal(err)
	}
	// gopacket writes it again, with lengths and checksums of its own.
	out := gopacket.NewSerializeBuffer()
	ls := []gopacket.SerializableLayer{u, gopacket.Payload(u.Payload)}
	if v6 {
		ip := pkt.NetworkLayer().(*layers.IPv6)
		if ip.TrafficClass != tos || !ip.SrcIP.Equal(p.Src.Addr().AsSlice()) || !ip.DstIP.Equal(p.Dst.Addr().AsSlice()) {
			t.Errorf("IPv6: %+v", ip)
		}
		ls = append([]gopacket.SerializableLayer{ip}, ls...)
	} else {
		ip := pkt.NetworkLayer().(*layers.IPv4)
		if ip.TOS != tos || !ip.SrcIP.Equal(p.Src.Addr().AsSlice()) || !ip.DstIP.Equal(p.Dst.Addr().AsSlice()) {
			t.Errorf("IPv4: %+v", ip)
		}
		ls = append([]gopacket.SerializableLayer{ip}, ls...)
	}
	if err := gopacket.SerializeLayers(out, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ls...); err != nil {
		t.Fatal(err)
	}
	want := out.Bytes()
	// gopacket writes a checksum of zero as it is (RFC 768 wants ffff).
	if at := len(b) - len(u.Payload) - 2; want[at] == 0 && want[at+1] == 0 {
		want[at], want[at+1] = 0xff, 0xff
	}
	if !bytes.Equal(b, want) {
		t.Fatalf("% x\ngopacket: % x", b[:min(len(b), 90)], want[:min(len(want), 90)])
	}
}

func TestPathCheck(t *testing.T) {
	v4, v6 := netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort("[fe80::1]:1")
	mapped := netip.MustParseAddrPort("[::ffff:10.0.0.1]:1")
	for _, c := range []struct {
		p  Path
		ok bool
	}{
		{Path{v4, v4}, true},
		{Path{v6, v6}, true},
		{Path{v4, v6}, false},
		{Path{v6, v4}, false},
		{Path{v4, netip.AddrPort{}}, false},
		{Path{}, false},
		{Path{mapped, v6}, false},
	} {
		var tm Template
		if err := tm.Init(c.p, 0, 0, 0, 0); (err == nil) != c.ok {
			t.Errorf("%v: %v", c.p, err)
		}
	}
}

// What is no UDP packet with a stamp is foreign, whatever it is.
func TestJudgeForeign(t *testing.T) {
	whole := make([]byte, 100)
	template(t, false).Put(whole, 1, 2, 3)
	edit := func(f func([]byte)) []byte { b := bytes.Clone(whole); f(b); return b }
	for name, b := range map[string][]byte{
		"empty":     nil,
		"version 5": edit(func(b []byte) { b[0] = 0x55 }),
		"cut":       whole[:99],
		"TCP":       edit(func(b []byte) { b[9] = 6 }),
		"fragment":  edit(func(b []byte) { b[6] = 0x20 }),
		"UDP cut":   edit(func(b []byte) { b[25] = 7 }),
		"no magic":  edit(func(b []byte) { b[28] = 0 }),
	} {
		if p, v := Judge(b); v != Foreign || p.Stamp != nil {
			t.Errorf("%s: verdict %d", name, v)
		}
	}
	// Without a UDP checksum, which IPv4 allows, the stamp's own stands for it.
	if _, v := Judge(edit(func(b []byte) { b[26], b[27] = 0, 0 })); v != Whole {
		t.Errorf("without a UDP checksum: verdict %d", v)
	}
}

func FuzzJudge(f *testing.F) {
	for _, v6 := range []bool{false, true} {
		b := make([]byte, 120)
		template(f, v6).Put(b, 1, 2, 3)
		f.Add(b)
		b = make([]byte, MaxControl)
		f.Add(b[:template(f, v6).PutControl(b, 1, 2, &Request{Op: OpQuery})])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, v := Judge(b)
		if v != Whole || p.Stamp.Flags()&FlagControl != 0 {
			return
		}
		// Written again with what was read of it, it is judged the same.
		var tm Template
		if tm.Init(p.Path, 0, p.Stamp.Stream(), p.Stamp.Flags(), p.Stamp.Clock()) != nil {
			return // addresses that no stream has
		}
		c := make([]byte, tm.n+len(p.Stamp))
		tm.Put(c, p.Stamp.Seq(), p.Stamp.Due(), p.Stamp.Sent())
		q, v := Judge(c)
		if v != Whole || q.Path != p.Path || !bytes.Equal(p.Stamp, q.Stamp) {
			t.Fatalf("%+v, written again, is %d: %+v", p, v, q)
		}
	})
}

func TestNoAllocations(t *testing.T) {
	tm, b := template(t, false), make([]byte, 1400)
	var v Verifier
	c := NewCalendar(0)
	c.Grow(1)
	var p Pacer
	s := Schedule{Rate: 1e6}
	p.Start(&s, 0, 1, 0)
	r := Request{Op: OpSend, Schedule: s, Sizes: IMIX()}
	seq := uint64(0)
	if n := testing.AllocsPerRun(1000, func() {
		c.Put(0, p.Due())
		if c.Take(p.Due()) != 0 {
			t.Fatal("not due")
		}
		tm.Put(b, seq, p.Due(), p.Due())
		pkt, verdict := Judge(b)
		if verdict != Whole || v.Receive(pkt.Stamp.Seq()) != InOrder {
			t.Fatal("not whole, or out of order")
		}
		pkt.Stamp.Reply(1, 7)
		tm.PutControl(b, seq, 0, &r)
		p.Sent(len(b))
		seq++
	}); n != 0 {
		t.Errorf("%v allocations per packet", n)
	}
}
