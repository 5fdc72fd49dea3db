package xsk

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"xpptp/rings"
	"xpptp/rings/owner"
	"xpptp/rings/ringtest"
)

// insideBench is the program with sockets for two workers on an interface with
// this address; 10.66.0.9, 10.66.0.10 and 2001:db8::9 have owners, and so do
// 10.67.0.0/16, 2001:db8:1::/48 and fe80::9, which are the kernel's here.
func insideBench(t *testing.T) (mac [6]byte, m *owner.Map, d *Device) {
	t.Helper()
	ns := ringtest.NewNS(t)
	near, _ := ringtest.NewVeth(t, ns, ringtest.NewNS(t), 1500)
	m, err := owner.New()
	if errors.Is(err, unix.EPERM) {
		t.Skipf("needs the right to load XDP programs: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	u, err := NewUMEM(1024, rings.ChunkSmall)
	if err != nil {
		t.Fatal(err)
	}
	ns.Do(func() {
		pools := []*rings.Pool{rings.NewPool(u.Arena(), 0, 512), rings.NewPool(u.Arena(), 512, 1024)}
		d, err = Open(Config{Interface: near.Name, Ring: 64}, NewInside(InsideConfig{Owners: m, Workers: 2, Room: 120}), pools)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close(); _ = m.Close(); _ = u.Close() })
	for p, w := range map[string]int{"10.66.0.9/32": 0, "10.66.0.10/32": 1, "10.67.0.0/16": 1, "2001:db8::9/128": 1, "2001:db8:1::/48": 0, "fe80::9/128": 0, "10.66.0.200/32": 2} {
		if err := m.Set(netip.MustParsePrefix(p), w); err != nil {
			t.Fatal(err)
		}
	}
	return near.MAC, m, d
}

// insideFrame is an Ethernet frame with any tags.
func insideFrame(dst [6]byte, typ uint16, p []byte, tags ...uint16) []byte {
	f := append(append(make([]byte, 0, 128), dst[:]...), 2, 0, 0, 0, 9, 9)
	for _, tag := range tags {
		f = append(binary.BigEndian.AppendUint16(f, tag), 0, 5)
	}
	return append(binary.BigEndian.AppendUint16(f, typ), p...)
}

func ipv4To(dst string, change ...byte) []byte {
	a := netip.MustParseAddr(dst).As4()
	p := ringtest.Packet([4]byte{192, 0, 2, 1}, a, 1, 1, 64)
	for i := 0; i+1 < len(change); i += 2 {
		p[change[i]] = change[i+1]
	}
	return p
}

func ipv6To(dst string, change ...byte) []byte {
	p := make([]byte, 64)
	p[0], p[5], p[6], p[7] = 0x60, 24, 17, 64
	src := netip.MustParseAddr("2001:db8:9::1").As16()
	a := netip.MustParseAddr(dst).As16()
	copy(p[8:], src[:])
	copy(p[24:], a[:])
	for i := 0; i+1 < len(change); i += 2 {
		p[change[i]] = change[i+1]
	}
	return p
}

func arpFor(target string, change ...byte) []byte {
	a := netip.MustParseAddr(target).As4()
	p := append([]byte{0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 9, 9, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0}, a[:]...)
	for i := 0; i+1 < len(change); i += 2 {
		p[change[i]] = change[i+1]
	}
	return append(p, make([]byte, 18)...) // up to the smallest frame
}

func solicitationFor(target string, change ...byte) []byte {
	a := netip.MustParseAddr(target).As16()
	p := ipv6To("ff02::1:ff00:9", 6, 58, 7, 255)
	p[40], p[41] = 135, 0
	copy(p[48:], a[:])
	for i := 0; i+1 < len(change); i += 2 {
		p[change[i]] = change[i+1]
	}
	return append(p, 1, 1, 2, 0, 0, 0, 9, 9)
}

func TestInsideVerdicts(t *testing.T) {
	const ip, ip6, arp, q, ad = unix.ETH_P_IP, unix.ETH_P_IPV6, unix.ETH_P_ARP, unix.ETH_P_8021Q, unix.ETH_P_8021AD
	mac, m, d := insideBench(t)
	all := [6]byte{255, 255, 255, 255, 255, 255}
	group := [6]byte{0x33, 0x33, 0xff, 0, 0, 9}
	last, first := mac, mac
	last[5]++
	first[0] ^= 4
	for _, c := range []struct {
		name  string
		frame []byte
		want  uint32
	}{
		{"address", insideFrame(mac, ip, ipv4To("10.66.0.9")), xdpRedirect},
		{"in a prefix", insideFrame(mac, ip, ipv4To("10.67.200.1")), xdpPass},
		{"of the other worker", insideFrame(mac, ip, ipv4To("10.66.0.10")), xdpRedirect},
		{"fragment", insideFrame(mac, ip, ipv4To("10.66.0.9", 6, 0x20, 7, 1)), xdpRedirect},
		{"VLAN", insideFrame(mac, ip, ipv4To("10.66.0.9"), q), xdpRedirect},
		{"service VLAN", insideFrame(mac, ip, ipv4To("10.66.0.9"), ad, q), xdpRedirect},
		{"TTL 2", insideFrame(mac, ip, ipv4To("10.66.0.9", 8, 2)), xdpRedirect},
		{"header and no more", insideFrame(mac, ip, ipv4To("10.66.0.9")[:20]), xdpRedirect},
		{"three tags", insideFrame(mac, ip, ipv4To("10.66.0.9"), q, q, q), xdpPass},
		{"nobody", insideFrame(mac, ip, ipv4To("10.66.0.8")), xdpPass},
		{"beside the prefix", insideFrame(mac, ip, ipv4To("10.68.0.1")), xdpPass},
		{"a worker that is not", insideFrame(mac, ip, ipv4To("10.66.0.200")), xdpPass},
		{"as long as there is room", append(insideFrame(mac, ip, ipv4To("10.66.0.9")), make([]byte, 120-14-64)...), xdpRedirect},
		{"longer", append(insideFrame(mac, ip, ipv4To("10.66.0.9")), make([]byte, 121-14-64)...), xdpPass},
		{"TTL 1", insideFrame(mac, ip, ipv4To("10.66.0.9", 8, 1)), xdpPass},
		{"TTL 0", insideFrame(mac, ip, ipv4To("10.66.0.9", 8, 0)), xdpPass},
		{"options", insideFrame(mac, ip, ipv4To("10.66.0.9", 0, 0x46)), xdpPass},
		{"cut", insideFrame(mac, ip, ipv4To("10.66.0.9")[:19]), xdpPass},
		{"another station", insideFrame(last, ip, ipv4To("10.66.0.9")), xdpPass},
		{"yet another station", insideFrame(first, ip, ipv4To("10.66.0.9")), xdpPass},
		{"broadcast", insideFrame(all, ip, ipv4To("10.66.0.9")), xdpPass},

		{"IPv6 address", insideFrame(mac, ip6, ipv6To("2001:db8::9")), xdpRedirect},
		{"IPv6 in a prefix", insideFrame(mac, ip6, ipv6To("2001:db8:1:2::3")), xdpPass},
		{"IPv6 in a VLAN", insideFrame(mac, ip6, ipv6To("2001:db8::9"), q), xdpRedirect},
		{"IPv6 nobody", insideFrame(mac, ip6, ipv6To("2001:db8::8")), xdpPass},
		{"IPv6 hop limit 1", insideFrame(mac, ip6, ipv6To("2001:db8::9", 7, 1)), xdpPass},
		{"IPv6 link-local", insideFrame(mac, ip6, ipv6To("fe80::9")), xdpPass},
		{"IPv6 another station", insideFrame(last, ip6, ipv6To("2001:db8::9")), xdpPass},
		{"IPv6 cut", insideFrame(mac, ip6, ipv6To("2001:db8::9")[:39]), xdpPass},
		{"IPv4 address mapped", insideFrame(mac, ip6, ipv6To("::ffff:10.66.0.9")), xdpPass},

		{"ARP", insideFrame(all, arp, arpFor("10.66.0.9")), xdpRedirect},
		{"ARP to us", insideFrame(mac, arp, arpFor("10.66.0.10")), xdpRedirect},
		{"ARP for one in a prefix", insideFrame(mac, arp, arpFor("10.67.1.1")), xdpPass},
		{"ARP in a VLAN", insideFrame(all, arp, arpFor("10.66.0.9"), q), xdpRedirect},
		{"ARP for nobody", insideFrame(all, arp, arpFor("10.66.0.8")), xdpPass},
		{"ARP reply", insideFrame(all, arp, arpFor("10.66.0.9", 7, 2)), xdpPass},
		{"ARP of another network", insideFrame(all, arp, arpFor("10.66.0.9", 1, 6)), xdpPass},
		{"ARP for another protocol", insideFrame(all, arp, arpFor("10.66.0.9", 3, 1)), xdpPass},
		{"ARP with long addresses", insideFrame(all, arp, arpFor("10.66.0.9", 4, 8)), xdpPass},
		{"ARP cut", insideFrame(all, arp, arpFor("10.66.0.9")[:27]), xdpPass},

		{"ND", insideFrame(group, ip6, solicitationFor("2001:db8::9")), xdpRedirect},
		{"ND in a VLAN", insideFrame(group, ip6, solicitationFor("2001:db8::9"), q), xdpRedirect},
		{"ND for nobody", insideFrame(group, ip6, solicitationFor("2001:db8::8")), xdpPass},
		{"ND for a link-local address", insideFrame(group, ip6, solicitationFor("fe80::9")), xdpPass},
		{"ND from afar", insideFrame(group, ip6, solicitationFor("2001:db8::9", 7, 254)), xdpPass},
		{"ND code", insideFrame(group, ip6, solicitationFor("2001:db8::9", 41, 1)), xdpPass},
		{"Neighbor Advertisement", insideFrame(group, ip6, solicitationFor("2001:db8::9", 40, 136)), xdpPass},
		{"UDP to a group", insideFrame(group, ip6, solicitationFor("2001:db8::9", 6, 17)), xdpPass},
		{"ND cut", insideFrame(group, ip6, solicitationFor("2001:db8::9")[:63]), xdpPass},
		{"PPPoE", insideFrame(mac, 0x8864, ipv4To("10.66.0.9")), xdpPass},
	} {
		if got := run(t, d.hook.prog, c.frame); got != c.want {
			t.Errorf("%s: verdict %d, want %d", c.name, got, c.want)
		}
	}
	// The call ends.
	if err := m.Delete(netip.MustParsePrefix("10.66.0.9/32")); err != nil {
		t.Fatal(err)
	}
	for _, f := range [][]byte{insideFrame(mac, ip, ipv4To("10.66.0.9")), insideFrame(all, arp, arpFor("10.66.0.9"))} {
		if got := run(t, d.hook.prog, f); got != xdpPass {
			t.Errorf("verdict %d for an address that nobody has any more, want %d", got, xdpPass)
		}
	}
}

// Frames changed at random: the program and its model agree.
func TestInsideAgainstModel(t *testing.T) {
	mac, _, d := insideBench(t)
	owned := func(a netip.Addr) bool {
		return slices.Contains([]string{"10.66.0.9", "10.66.0.10", "2001:db8::9"}, a.String())
	}
	at := func(b []byte) netip.Addr { a, _ := netip.AddrFromSlice(b); return a }
	redirected := func(f []byte) bool {
		toUs := [6]byte(f[:6]) == mac
		typ, b := binary.BigEndian.Uint16(f[12:]), f[14:]
		for n := 0; n < 2 && (typ == 0x8100 || typ == 0x88a8) && len(b) >= 4; n++ {
			typ, b = binary.BigEndian.Uint16(b[2:]), b[4:]
		}
		switch {
		case typ == 0x800 && len(b) >= 20:
			return toUs && b[0] == 0x45 && b[8] > 1 && owned(at(b[16:20]))
		case typ == 0x806 && len(b) >= 28:
			return binary.BigEndian.Uint64(b) == 0x0001080006040001 && owned(at(b[24:28]))
		case typ == 0x86dd && len(b) >= 40 && b[24] == 0xff:
			return len(b) >= 64 && b[6] == 58 && b[7] == 255 && b[40] == 135 && b[41] == 0 && owned(at(b[48:64]))
		case typ == 0x86dd && len(b) >= 40:
			return toUs && b[7] > 1 && owned(at(b[24:40]))
		}
		return false
	}
	seeds := [][]byte{ipv4To("10.66.0.9"), ipv4To("10.66.0.10"), ipv6To("2001:db8::9"), ipv6To("2001:db8:1::1"), arpFor("10.66.0.9"), solicitationFor("2001:db8::9")}
	types := []uint16{0x800, 0x800, 0x86dd, 0x86dd, 0x806, 0x86dd}
	rnd := rand.New(rand.NewPCG(5, 6))
	seen := map[bool]int{}
	for range 5000 {
		n := rnd.IntN(len(seeds))
		f := insideFrame(mac, types[n], seeds[n], [][]uint16{nil, nil, {0x8100}, {0x88a8, 0x8100}}[rnd.IntN(4)]...)
		for range rnd.IntN(3) {
			f[rnd.IntN(len(f))] ^= 1 << rnd.IntN(8)
		}
		if rnd.IntN(4) == 0 {
			f = f[:14+rnd.IntN(len(f)-14)]
		}
		want := redirected(f)
		if got := run(t, d.hook.prog, f); got != xdpRedirect && want || got != xdpPass && !want {
			t.Fatalf("verdict %d, redirected should be %v: % x", got, want, f)
		}
		seen[want]++
	}
	if seen[true] < 500 || seen[false] < 500 {
		t.Errorf("verdicts %v: too few of a kind", seen)
	}
}
