package lan_test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"xpptp/rings"
	"xpptp/rings/lan"
	"xpptp/rings/nexthop"
	"xpptp/rings/owner"
	"xpptp/rings/ringtest"
	"xpptp/rings/tun"
	"xpptp/rings/xsk"
)

// A packet of 64 bytes goes from a host on the LAN to a subscriber and comes
// back: by an inside port on the interface, and by a TUN device with the
// kernel routing in between. The host's end, AF_XDP in both, is part of the
// figure.
func BenchmarkThereAndBack(b *testing.B) {
	for _, kind := range []string{"interface", "tun"} {
		b.Run(kind, func(b *testing.B) { thereAndBack(b, kind == "tun") })
	}
}

func thereAndBack(b *testing.B, byKernel bool) {
	const burst, frames = 64, 4096
	near, far := ringtest.NewVeth(b, ringtest.NewNS(b), ringtest.NewNS(b), 1500)
	pools := make([]*rings.Pool, 2)
	for i := range pools {
		u, err := xsk.NewUMEM(frames, rings.ChunkSmall)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = u.Close() })
		pools[i] = rings.NewPool(u.Arena(), 0, u.Arena().Len())
	}
	steer, err := xsk.NewSteering(xsk.SteeringConfig{AnyCall: true})
	if err != nil {
		b.Skipf("needs the right to load XDP programs: %v", err)
	}
	b.Cleanup(func() { _ = steer.Close() })
	if err := steer.AddAddress(netip.AddrFrom4(far.IP)); err != nil {
		b.Fatal(err)
	}
	var host rings.Port
	do(b, far.NS, "open the host's end", func() error {
		d, err := xsk.Open(xsk.Config{Interface: far.Name}, steer, pools[1:])
		if err == nil {
			b.Cleanup(func() { _ = d.Close() })
			host = d.Ports(0)[0]
		}
		return err
	})
	var port rings.Port
	do(b, near.NS, "open", func() error {
		near.NS.Sysctl("net/ipv4/ip_forward", "1")
		dev, err := tun.Create(tun.Config{Name: "rt-tun", MTU: 1400})
		if err != nil {
			return err
		}
		b.Cleanup(func() { _ = dev.Close() })
		up, err := dev.Port(0, pools[0])
		if err != nil {
			return err
		}
		b.Cleanup(func() { _ = up.Close() })
		if err := dev.SetUp(); err != nil {
			return err
		}
		if err := dev.AddRoute(netip.MustParsePrefix("10.66.0.0/16"), netip.Addr{}); err != nil {
			return err
		}
		port = up
		if byKernel {
			return nil
		}
		m, err := owner.New()
		if err != nil {
			return err
		}
		b.Cleanup(func() { _ = m.Close() })
		if err := m.Set(netip.MustParsePrefix("10.66.0.9/32"), 0); err != nil {
			return err
		}
		nic, err := xsk.Open(xsk.Config{Interface: near.Name}, xsk.NewInside(xsk.InsideConfig{Owners: m, Workers: 1, Room: rings.Room(rings.ChunkSmall), Device: dev.Index()}), pools[:1])
		if err != nil {
			return err
		}
		hops, err := nexthop.New(nexthop.Config{Interfaces: []string{near.Name}})
		if err != nil {
			return err
		}
		b.Cleanup(func() { _ = hops.Close() })
		l, err := lan.New(lan.Config{NIC: []rings.Port{nic.Ports(0)[0]}, Host: up, Hops: hops})
		b.Cleanup(func() { _ = nic.Close() })
		if err != nil {
			return err
		}
		b.Cleanup(func() { _ = l.Close() })
		port = l
		return netlink.NeighSet(&netlink.Neigh{LinkIndex: near.Index, IP: net.IP(far.IP[:]), HardwareAddr: far.MAC[:], State: netlink.NUD_PERMANENT})
	})
	there := append(ringtest.Ethernet(near.MAC, far.MAC), ringtest.Packet(far.IP, [4]byte{10, 66, 0, 9}, 1, 1, 50)...)
	back := ringtest.Packet([4]byte{10, 66, 0, 9}, far.IP, 1, 1, 50)
	fs := make([]*rings.Frame, burst)
	move := func(n int, from *rings.Pool, p []byte, by, to rings.Port) int {
		k := 0
		for ; k < min(n, burst); k++ {
			fs[k] = from.Get()
			fs[k].Set(p)
		}
		sent, err := by.Send(fs[:k])
		if err != nil || by.Flush() != nil || sent != k {
			b.Fatalf("%d of %d sent: %v", sent, k, err)
		}
		for got := 0; got < sent; {
			m, err := to.Recv(fs)
			if err != nil {
				b.Fatal(err)
			}
			for _, f := range fs[:m] {
				if _, ok := ringtest.Seq(f.Data()[f.Len()-50:]); ok {
					got++
				}
				f.Free()
			}
			_ = to.Flush()
		}
		return sent
	}
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; n += burst {
		move(burst, pools[1], there, host, port)
		move(burst, pools[0], back, port, host)
	}
}
