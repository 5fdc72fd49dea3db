package lan

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"xpptp/rings"
)

var (
	ourMAC   = [6]byte{2, 0, 0, 0, 0x77, 1}
	theirMAC = [6]byte{2, 0, 0, 0, 0x77, 2}
	allMAC   = [6]byte{255, 255, 255, 255, 255, 255}
)

func build(t testing.TB, ls ...gopacket.SerializableLayer) []byte {
	t.Helper()
	var network gopacket.NetworkLayer
	for _, l := range ls {
		if n, ok := l.(gopacket.NetworkLayer); ok {
			network = n
		}
		if c, ok := l.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			if err := c.SetNetworkLayerForChecksum(network); err != nil {
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

// framed is p behind an Ethernet header with tags.
func framed(dst, src [6]byte, typ layers.EthernetType, p []byte, tags ...uint16) []byte {
	b := append(append([]byte{}, dst[:]...), src[:]...)
	for _, tag := range tags {
		b = append(binary.BigEndian.AppendUint16(b, tag), 0, 5)
	}
	return append(binary.BigEndian.AppendUint16(b, uint16(typ)), p...)
}

func ip4(ttl uint8) *layers.IPv4 {
	return &layers.IPv4{Version: 4, IHL: 5, TTL: ttl, Id: 7, Protocol: layers.IPProtocolUDP, SrcIP: []byte{192, 0, 2, 1}, DstIP: []byte{10, 66, 0, 9}}
}

func ip6(src, dst string, hops uint8, next layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{
		Version: 6, HopLimit: hops, NextHeader: next,
		SrcIP: netip.MustParseAddr(src).AsSlice(), DstIP: netip.MustParseAddr(dst).AsSlice(),
	}
}

func solicitation(t testing.TB, src, dst, target string, options ...layers.ICMPv6Option) []byte {
	return build(t, ip6(src, dst, 255, layers.IPProtocolICMPv6), &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(135, 0)},
		&layers.ICMPv6NeighborSolicitation{TargetAddress: netip.MustParseAddr(target).AsSlice(), Options: options})
}

func advertisement(t testing.TB, dst, target string, flags uint8) []byte {
	return build(t, ip6(target, dst, 255, layers.IPProtocolICMPv6), &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(136, 0)},
		&layers.ICMPv6NeighborAdvertisement{
			Flags: flags, TargetAddress: netip.MustParseAddr(target).AsSlice(),
			Options: layers.ICMPv6Options{{Type: layers.ICMPv6OptTargetAddress, Data: ourMAC[:]}},
		})
}

func arp(t testing.TB, op uint16, senderMAC [6]byte, sender string, targetMAC [6]byte, target string) []byte {
	return build(t, &layers.ARP{
		AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: op,
		SourceHwAddress: senderMAC[:], SourceProtAddress: netip.MustParseAddr(sender).AsSlice(),
		DstHwAddress: targetMAC[:], DstProtAddress: netip.MustParseAddr(target).AsSlice(),
	})
}

func TestArrive(t *testing.T) {
	const ip, ip6Type, arpType = layers.EthernetTypeIPv4, layers.EthernetTypeIPv6, layers.EthernetTypeARP
	udp := &layers.UDP{SrcPort: 1000, DstPort: 7}
	data := gopacket.Payload("some data")
	p4, p4aged := build(t, ip4(64), udp, data), build(t, ip4(63), udp, data)
	p6 := build(t, ip6("2001:db8::1", "2001:db8::9", 64, layers.IPProtocolUDP), udp, data)
	p6aged := build(t, ip6("2001:db8::1", "2001:db8::9", 63, layers.IPProtocolUDP), udp, data)
	request := arp(t, 1, theirMAC, "10.66.0.2", [6]byte{}, "10.66.0.9")
	answer := arp(t, 2, ourMAC, "10.66.0.9", theirMAC, "10.66.0.2")
	source := layers.ICMPv6Option{Type: layers.ICMPv6OptSourceAddress, Data: theirMAC[:]}
	group, everyone := [6]byte{0x33, 0x33, 0xff, 0, 0, 9}, [6]byte{0x33, 0x33, 0, 0, 0, 1}
	// RFC 1624's case: a sum that comes to zero.
	odd := build(t, ip4(64))
	binary.BigEndian.PutUint16(odd[4:], binary.BigEndian.Uint16(odd[4:])+binary.BigEndian.Uint16(odd[10:])-0xff00)
	odd[10], odd[11] = 0xff, 0
	oddAged := bytes.Clone(odd)
	oddAged[8]--
	oddAged[10], oddAged[11] = 0, 1
	padding := make([]byte, 18)
	for _, c := range []struct {
		name string
		in   []byte
		want verdict
		out  []byte
	}{
		{"IPv4", framed(ourMAC, theirMAC, ip, p4), pass, p4aged},
		{"IPv4, carry in the checksum", framed(ourMAC, theirMAC, ip, odd), pass, oddAged},
		{"IPv4 in a VLAN", framed(ourMAC, theirMAC, ip, p4, 0x8100), pass, p4aged},
		{"IPv4 in two", framed(ourMAC, theirMAC, ip, p4, 0x88a8, 0x8100), pass, p4aged},
		{"IPv4 padded", framed(ourMAC, theirMAC, ip, append(bytes.Clone(p4), padding...)), pass, append(bytes.Clone(p4aged), padding...)},
		{"IPv6", framed(ourMAC, theirMAC, ip6Type, p6), pass, p6aged},
		{"IPv6 in a VLAN", framed(ourMAC, theirMAC, ip6Type, p6, 0x8100), pass, p6aged},
		{"TTL 1", framed(ourMAC, theirMAC, ip, build(t, ip4(1), udp)), bad, nil},
		{"hop limit 1", framed(ourMAC, theirMAC, ip6Type, build(t, ip6("2001:db8::1", "2001:db8::9", 1, layers.IPProtocolUDP), udp)), bad, nil},
		{"IPv4 as IPv6", framed(ourMAC, theirMAC, ip6Type, p4), bad, nil},
		{"IPv6 as IPv4", framed(ourMAC, theirMAC, ip, p6), bad, nil},
		{"IPv4 cut", framed(ourMAC, theirMAC, ip, p4[:19]), bad, nil},
		{"IPv6 cut", framed(ourMAC, theirMAC, ip6Type, p6[:39]), bad, nil},
		{"tag cut", framed(ourMAC, theirMAC, ip, nil, 0x8100)[:16], bad, nil},
		{"frame cut", framed(ourMAC, theirMAC, ip, nil)[:13], bad, nil},
		{"nothing", nil, bad, nil},
		{"PPPoE", framed(ourMAC, theirMAC, 0x8864, p4), bad, nil},

		{"ARP", framed(allMAC, theirMAC, arpType, request), reply, framed(theirMAC, ourMAC, arpType, answer)},
		{"ARP, padded", framed(allMAC, theirMAC, arpType, append(bytes.Clone(request), padding...)), reply, framed(theirMAC, ourMAC, arpType, append(bytes.Clone(answer), padding...))},
		{"ARP in a VLAN", framed(allMAC, theirMAC, arpType, request, 0x8100), reply, framed(theirMAC, ourMAC, arpType, answer, 0x8100)},
		{"ARP reply", framed(allMAC, theirMAC, arpType, answer), bad, nil},
		{"ARP cut", framed(allMAC, theirMAC, arpType, request[:27]), bad, nil},

		{
			"ND", framed(group, theirMAC, ip6Type, solicitation(t, "2001:db8::2", "ff02::1:ff00:9", "2001:db8::9", source)), reply,
			framed(theirMAC, ourMAC, ip6Type, advertisement(t, "2001:db8::2", "2001:db8::9", 0x40)),
		},
		{
			"ND in a VLAN, without option", framed(group, theirMAC, ip6Type, solicitation(t, "2001:db8::2", "ff02::1:ff00:9", "2001:db8::9"), 0x8100), reply,
			framed(theirMAC, ourMAC, ip6Type, advertisement(t, "2001:db8::2", "2001:db8::9", 0x40), 0x8100),
		},
		{
			"ND, is it still there", framed(ourMAC, theirMAC, ip6Type, solicitation(t, "2001:db8::2", "2001:db8::9", "2001:db8::9", source, source)), reply,
			framed(theirMAC, ourMAC, ip6Type, advertisement(t, "2001:db8::2", "2001:db8::9", 0x40)),
		},
		{
			"ND, search for duplicates", framed(group, theirMAC, ip6Type, solicitation(t, "::", "ff02::1:ff00:9", "2001:db8::9")), reply,
			framed(everyone, ourMAC, ip6Type, advertisement(t, "ff02::1", "2001:db8::9", 0)),
		},
		{"ND cut", framed(group, theirMAC, ip6Type, solicitation(t, "2001:db8::2", "ff02::1:ff00:9", "2001:db8::9")[:63]), bad, nil},
		{"group", framed(group, theirMAC, ip6Type, build(t, ip6("2001:db8::2", "ff02::1:ff00:9", 64, layers.IPProtocolUDP), udp)), bad, nil},
	} {
		pool := rings.NewPoolN(1, rings.ChunkSmall)
		f := pool.Get()
		f.Set(c.in)
		got := arrive(f, ourMAC)
		if got != c.want {
			t.Errorf("%s: verdict %d, want %d", c.name, got, c.want)
		} else if got != bad && !bytes.Equal(f.Data(), c.out) {
			t.Errorf("%s: became\n% x, want\n% x", c.name, f.Data(), c.out)
		}
	}
}

func TestDestination(t *testing.T) {
	p4, p6 := build(t, ip4(64)), build(t, ip6("2001:db8::9", "2001:db8::1", 64, layers.IPProtocolUDP))
	change := func(p []byte, at int, v ...byte) []byte {
		p = bytes.Clone(p)
		copy(p[at:], v)
		return p
	}
	for _, c := range []struct {
		name string
		p    []byte
		want string
	}{
		{"IPv4", p4, "10.66.0.9"},
		{"IPv6", p6, "2001:db8::1"},
		{"TTL 2", change(p4, 8, 2), "10.66.0.9"},
		{"TTL 1", change(p4, 8, 1), ""},
		{"hop limit 1", change(p6, 7, 1), ""},
		{"options", change(p4, 0, 0x46), ""},
		{"group", change(p4, 16, 224, 0, 0, 9), ""},
		{"group of IPv6", change(p6, 24, 0xff, 2), ""},
		{"link-local", change(p6, 24, 0xfe, 0x80), ""},
		{"IPv4 link-local", change(p4, 16, 169, 254), ""},
		{"IPv4 cut", p4[:19], ""},
		{"IPv6 cut", p6[:39], ""},
		{"neither", change(p4, 0, 0x55), ""},
		{"nothing", nil, ""},
	} {
		a, ok := destination(c.p)
		if ok != (c.want != "") || ok && a.String() != c.want {
			t.Errorf("%s: %v, %v, want %q", c.name, a, ok, c.want)
		}
	}
}

// FuzzArrive: nothing panics, a packet passed on has a hop less and is else
// the same, and answers go back to where the question came from.
func FuzzArrive(f *testing.F) {
	f.Add(framed(ourMAC, theirMAC, layers.EthernetTypeIPv4, build(f, ip4(64)), 0x8100))
	f.Add(framed(ourMAC, theirMAC, layers.EthernetTypeIPv6, build(f, ip6("2001:db8::1", "2001:db8::9", 64, layers.IPProtocolUDP))))
	f.Add(framed(allMAC, theirMAC, layers.EthernetTypeARP, arp(f, 1, theirMAC, "10.66.0.2", [6]byte{}, "10.66.0.9")))
	f.Add(framed(allMAC, theirMAC, layers.EthernetTypeIPv6, solicitation(f, "2001:db8::2", "ff02::1:ff00:9", "2001:db8::9")))
	pool := rings.NewPoolN(1, rings.ChunkSmall)
	f.Fuzz(func(t *testing.T, in []byte) {
		fr := pool.Get()
		defer fr.Free()
		if !fr.Set(in) {
			return
		}
		v := arrive(fr, ourMAC)
		out := fr.Data()
		switch v {
		case reply:
			if !bytes.Equal(out[6:12], ourMAC[:]) || !bytes.Equal(out[:6], in[6:12]) && out[0] != 0x33 {
				t.Fatalf("% x is answered by % x", in, out)
			}
		case pass:
			back := bytes.Clone(out)
			if back[0]>>4 == 6 {
				back[ipv6HopLimit]++
			} else {
				back[ipv4TTL]++
				copy(back[ipv4Checksum:], in[len(in)-len(back)+ipv4Checksum:][:2])
			}
			if !bytes.HasSuffix(in, back) {
				t.Fatalf("% x became % x", in, out)
			}
		default:
		}
		destination(out)
	})
}
