package xsk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"xpptp/rings"
	"xpptp/rings/ringtest"
)

var (
	ours  = [4]byte{10, 77, 0, 1}
	other = [4]byte{10, 77, 0, 9}
	peer  = [4]byte{10, 77, 0, 2}
	alien = [4]byte{192, 0, 2, 1}
)

// steered is the program with a socket behind it, for two workers, call IDs
// 4 and 5 live; sources as given.
func steered(t *testing.T, sources ...netip.Prefix) (*Steering, *Device) {
	t.Helper()
	ns := ringtest.NewNS(t)
	near, _ := ringtest.NewVeth(t, ns, ringtest.NewNS(t), 1500)
	s, err := NewSteering(SteeringConfig{Workers: 2, Sources: sources})
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
	var d *Device
	ns.Do(func() {
		pools := []*rings.Pool{rings.NewPool(u.Arena(), 0, 512), rings.NewPool(u.Arena(), 512, 1024)}
		d, err = Open(Config{Interface: near.Name, Ring: 64}, s, pools)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close(); _ = s.Close(); _ = u.Close() })
	for _, err := range []error{s.AddAddress(netip.AddrFrom4(ours)), s.AddCall(4), s.AddCall(5)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return s, d
}

func run(t *testing.T, p *ebpf.Program, frame []byte) uint32 {
	t.Helper()
	v, err := p.Run(&ebpf.RunOptions{Data: frame})
	if err != nil {
		t.Skipf("needs BPF_PROG_TEST_RUN: %v", err)
	}
	return v
}

// packet is a frame for the program; change, if not nil, alters the IP packet.
func packet(src, dst [4]byte, call uint16, change func(p []byte) []byte, tags ...uint16) []byte {
	p := ringtest.Packet(src, dst, call, 1, 64)
	if change != nil {
		p = change(p)
	}
	f := ringtest.Ethernet([6]byte{2, 1}, [6]byte{2, 2})[:12]
	for _, tag := range tags {
		f = binary.BigEndian.AppendUint16(f, tag)
		f = append(f, 0, 9)
	}
	return append(append(f, 8, 0), p...)
}

func TestVerdicts(t *testing.T) {
	set := func(at int, v byte) func([]byte) []byte {
		return func(p []byte) []byte { p[at] = v; return p }
	}
	const q, ad = unix.ETH_P_8021Q, unix.ETH_P_8021AD
	s, d := steered(t)
	for _, c := range []struct {
		name  string
		frame []byte
		want  uint32
	}{
		{"live call, worker 0", packet(peer, ours, 4, nil), xdpRedirect},
		{"live call, worker 1", packet(peer, ours, 5, nil), xdpRedirect},
		{"do not fragment", packet(peer, ours, 4, set(6, 0x40)), xdpRedirect},
		{"ack only", packet(peer, ours, 4, func(p []byte) []byte { p[20], p[21] = 0x20, 0x81; return p }), xdpRedirect},
		{"VLAN", packet(peer, ours, 4, nil, q), xdpRedirect},
		{"service VLAN", packet(peer, ours, 4, nil, ad, q), xdpRedirect},
		{"cut behind the call ID", packet(peer, ours, 4, nil)[:14+28], xdpRedirect},
		{"three tags", packet(peer, ours, 4, nil, ad, q, q), xdpPass},
		{"tag and no more", packet(peer, ours, 4, nil, q)[:14], xdpPass},
		{"unknown call", packet(peer, ours, 6, nil), xdpDrop},
		{"unknown call in a VLAN", packet(peer, ours, 6, nil, q), xdpDrop},
		{"call ID in the wrong order", packet(peer, ours, 4<<8, nil), xdpDrop},
		{"call ID 0", packet(peer, ours, 0, nil), xdpDrop},
		{"call ID 65535", packet(peer, ours, 65535, nil), xdpDrop},
		{"not ours", packet(peer, other, 4, nil), xdpPass},
		{"cut before the call ID", packet(peer, ours, 4, nil)[:14+27], xdpPass},
		{"Ethernet header and no more", packet(peer, ours, 4, nil)[:14], xdpPass},
		{"first fragment", packet(peer, ours, 4, set(6, 0x20)), xdpPass},
		{"later fragment", packet(peer, ours, 4, set(7, 1)), xdpPass},
		{"last fragment", packet(peer, ours, 4, set(6, 0x01)), xdpPass},
		{"IP options", packet(peer, ours, 4, set(0, 0x46)), xdpPass},
		{"IP version 6", packet(peer, ours, 4, set(0, 0x65)), xdpPass},
		{"TCP", packet(peer, ours, 4, set(9, 6)), xdpPass},
		{"GRE version 0", packet(peer, ours, 4, set(21, 0)), xdpPass},
		{"GRE version 2", packet(peer, ours, 4, set(21, 2)), xdpPass},
		{"GRE version 7", packet(peer, ours, 4, set(21, 7)), xdpPass},
		{"GRE carrying IPv4", packet(peer, ours, 4, func(p []byte) []byte { p[22], p[23] = 8, 0; return p }), xdpPass},
		{"protocol in the wrong order", packet(peer, ours, 4, func(p []byte) []byte { p[22], p[23] = 0x0b, 0x88; return p }), xdpPass},
		{"ARP", append(append(make([]byte, 12), 8, 6), make([]byte, 46)...), xdpPass},
	} {
		if got := run(t, d.hook.prog, c.frame); got != c.want {
			t.Errorf("%s: verdict %d, want %d", c.name, got, c.want)
		}
	}
	if n, err := s.Drops(); err != nil || n != (Drops{UnknownCall: 5}) {
		t.Errorf("drops %+v, %v; want 5 for unknown calls", n, err)
	}

	// No socket any more: the kernel's.
	if err := d.Ports(1)[0].Close(); err != nil {
		t.Fatal(err)
	}
	if v, w := run(t, d.hook.prog, packet(peer, ours, 5, nil)), run(t, d.hook.prog, packet(peer, ours, 4, nil)); v != xdpPass || w != xdpRedirect {
		t.Errorf("with the socket of worker 1 closed: verdicts %d and %d, want %d and %d", v, w, xdpPass, xdpRedirect)
	}
	// Addresses and calls are counted.
	for _, c := range []struct {
		do   func() error
		want uint32
	}{
		{func() error { return s.AddCall(4) }, xdpRedirect},
		{func() error { return s.RemoveCall(4) }, xdpRedirect},
		{func() error { return s.AddAddress(netip.AddrFrom4(ours)) }, xdpRedirect},
		{func() error { return s.RemoveAddress(netip.AddrFrom4(ours)) }, xdpRedirect},
		{func() error { return s.RemoveCall(4) }, xdpDrop},
		{func() error { return s.RemoveAddress(netip.AddrFrom4(ours)) }, xdpPass},
	} {
		if err := c.do(); err != nil {
			t.Fatal(err)
		}
		if got := run(t, d.hook.prog, packet(peer, ours, 4, nil)); got != c.want {
			t.Errorf("verdict %d, want %d", got, c.want)
		}
	}
	if s.RemoveAddress(netip.AddrFrom4(ours)) == nil || s.AddAddress(netip.IPv6Loopback()) == nil {
		t.Error("an address that is not there is removed, or one of IPv6 added")
	}
}

func TestSources(t *testing.T) {
	s, d := steered(t, netip.MustParsePrefix("10.77.0.7/30"), netip.MustParsePrefix("10.77.0.2/32"))
	for _, c := range []struct {
		src  [4]byte
		want uint32
	}{
		{peer, xdpRedirect},
		{[4]byte{10, 77, 0, 3}, xdpDrop},
		{[4]byte{10, 77, 0, 4}, xdpRedirect},
		{[4]byte{10, 77, 0, 7}, xdpRedirect},
		{[4]byte{10, 77, 0, 8}, xdpDrop},
		{alien, xdpDrop},
	} {
		if got := run(t, d.hook.prog, packet(c.src, ours, 4, nil)); got != c.want {
			t.Errorf("source %v: verdict %d, want %d", c.src, got, c.want)
		}
	}
	// What is not for us is none of our business.
	if got := run(t, d.hook.prog, packet(alien, other, 4, nil)); got != xdpPass {
		t.Errorf("from an alien to another: verdict %d, want %d", got, xdpPass)
	}
	if n, err := s.Drops(); err != nil || n != (Drops{Source: 3}) {
		t.Errorf("drops %+v, %v; want 3 for the source", n, err)
	}
	for _, p := range []netip.Prefix{{}, netip.MustParsePrefix("2001:db8::/32")} {
		if _, err := NewSteering(SteeringConfig{Sources: []netip.Prefix{p}}); err == nil {
			t.Errorf("source %v is accepted", p)
		}
	}
	if _, err := NewSteering(SteeringConfig{Workers: maxWorkers + 1}); err == nil {
		t.Error("too many workers are accepted")
	}
}

// model is the program, written again.
func model(f []byte) uint32 {
	if len(f) < 14 {
		return xdpPass
	}
	typ, b := f[12:14], f[14:]
	for range 2 {
		if !bytes.Equal(typ, []byte{0x81, 0}) && !bytes.Equal(typ, []byte{0x88, 0xa8}) {
			break
		}
		if len(b) < 4 {
			return xdpPass
		}
		typ, b = b[2:4], b[4:]
	}
	if len(b) < 28 || !bytes.Equal(typ, []byte{8, 0}) || b[0] != 0x45 || b[9] != 47 ||
		b[6]&0x3f != 0 || b[7] != 0 || !bytes.Equal(b[22:24], []byte{0x88, 0x0b}) || b[21]&7 != 1 ||
		!bytes.Equal(b[16:20], ours[:]) {
		return xdpPass
	}
	switch binary.BigEndian.Uint16(b[26:]) {
	case 4, 5:
		return xdpRedirect
	}
	return xdpDrop
}

// Packets changed at random: the program and its model agree.
func TestAgainstModel(t *testing.T) {
	_, d := steered(t)
	rnd := rand.New(rand.NewPCG(3, 4))
	seen := map[uint32]int{}
	for range 5000 {
		f := packet(peer, ours, uint16(3+rnd.IntN(4)), nil, [][]uint16{nil, nil, {0x8100}, {0x88a8, 0x8100}}[rnd.IntN(4)]...)
		for range rnd.IntN(3) {
			if at := 12 + rnd.IntN(38); at < len(f) {
				f[at] ^= 1 << rnd.IntN(8)
			}
		}
		if rnd.IntN(4) == 0 {
			f = f[:14+rnd.IntN(len(f)-14)]
		}
		want, got := model(f), run(t, d.hook.prog, f)
		if got != want {
			t.Fatalf("verdict %d, want %d: % x", got, want, f)
		}
		seen[got]++
	}
	if len(seen) != 3 {
		t.Errorf("verdicts %v: some never came", seen)
	}
}
