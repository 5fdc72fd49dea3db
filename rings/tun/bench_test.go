package tun_test

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"xpptp/rings"
	"xpptp/rings/ringtest"
	"xpptp/rings/tun"
)

// Bursts of TCP segments of 1400 bytes cross to the kernel, which throws them
// away: of one connection, and of as many as there are segments.
func BenchmarkSend(b *testing.B) {
	for _, c := range []struct {
		name  string
		flows int
	}{{"one-flow", 1}, {"64-flows", 64}} {
		b.Run(c.name, func(b *testing.B) {
			const burst, size = 64, 1400
			ns := ringtest.NewNS(b)
			pool := rings.NewPoolN(burst, rings.ChunkSmall)
			var p *tun.Port
			ns.Do(func() {
				d, err := tun.Create(tun.Config{MTU: 1500})
				if err != nil {
					b.Skipf("needs TUN devices: %v", err)
				}
				b.Cleanup(func() { _ = d.Close() })
				if p, err = d.Port(0, pool); err != nil {
					b.Fatal(err)
				}
				b.Cleanup(func() { _ = p.Close() })
				if err := d.SetUp(); err != nil {
					b.Fatal(err)
				}
				if err := d.AddAddr(netip.MustParsePrefix("10.77.1.1/24"), netip.Addr{}); err != nil {
					b.Fatal(err)
				}
				sink := &netlink.Route{Type: 6 /* blackhole */, Dst: netlink.NewIPNet([]byte{10, 99, 0, 1})}
				if err := netlink.RouteAdd(sink); err != nil {
					b.Fatal(err)
				}
			})
			var packets [burst][]byte
			for i := range packets {
				q := make([]byte, size)
				copy(q, []byte{0x45, 0, size >> 8, size & 255, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 77, 1, 2, 10, 99, 0, 1})
				t := q[20:]
				t[1], t[3] = byte(i%c.flows), 80
				binary.BigEndian.PutUint32(t[4:], uint32(i*(size-40)))
				t[12], t[13], t[14] = 5<<4, 0x10, 1
				ringtest.Seal(q)
				sum := uint32(6 + len(t))
				for j := 12; j < len(q); j += 2 {
					sum += uint32(q[j])<<8 | uint32(q[j+1])
				}
				sum = sum>>16 + sum&0xffff
				binary.BigEndian.PutUint16(t[16:], ^uint16(sum+sum>>16))
				packets[i] = q
			}
			fs := make([]*rings.Frame, burst)
			b.SetBytes(size)
			b.ReportAllocs()
			b.ResetTimer()
			for n := 0; n < b.N; n += burst {
				for i := range fs {
					fs[i] = pool.Get()
					fs[i].Set(packets[i])
				}
				if k, err := p.Send(fs); k != burst || err != nil {
					b.Fatal(k, err)
				}
			}
			b.StopTimer()
			s := p.Stats()
			if s.TxDropped > 0 {
				b.Fatalf("%+v", s)
			}
			b.ReportMetric(float64(s.Kicks)/float64(s.TxPackets), "calls/op")
		})
	}
}
