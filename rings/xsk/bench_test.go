package xsk_test

import (
	"bytes"
	"net/netip"
	"testing"

	"xpptp/rings"
	"xpptp/rings/ringtest"
	"xpptp/rings/xsk"
)

// One packet of 64 bytes sent at one end of a veth pair and received at the
// other, both by one thread: it counts twice what a port costs.
func BenchmarkWire(b *testing.B) {
	near, far := ringtest.NewVeth(b, ringtest.NewNS(b), ringtest.NewNS(b), 1500)
	const frames, burst = 8192, 64
	u, err := xsk.NewUMEM(2*frames, rings.ChunkSmall)
	if err != nil {
		b.Fatal(err)
	}
	defer u.Close()
	s, err := xsk.NewSteering(xsk.SteeringConfig{AnyCall: true})
	if err != nil {
		b.Skipf("needs the right to load XDP programs: %v", err)
	}
	defer s.Close()
	if err := s.AddAddress(netip.AddrFrom4(far.IP)); err != nil {
		b.Fatal(err)
	}
	var ports [2]*xsk.Port
	var pools [2]*rings.Pool
	for i, end := range []*ringtest.Iface{near, far} {
		pools[i] = rings.NewPool(u.Arena(), i*frames, (i+1)*frames)
		var d *xsk.Device
		end.NS.Do(func() { d, err = xsk.Open(xsk.Config{Interface: end.Name}, s, pools[i:i+1]) })
		if err != nil {
			b.Fatal(err)
		}
		defer d.Close()
		ports[i] = d.Ports(0)[0]
	}
	packet := append(ringtest.Ethernet(far.MAC, near.MAC), ringtest.Packet(near.IP, far.IP, 1, 1, 50)...)
	fs, in := make([]*rings.Frame, 0, burst), make([]*rings.Frame, burst)
	b.ReportAllocs()
	b.ResetTimer()
	for sent, got := 0, 0; got < b.N; {
		fs = fs[:0]
		for len(fs) < min(burst, b.N-sent) {
			f := pools[0].Get()
			if f == nil {
				break
			}
			f.Set(packet)
			fs = append(fs, f)
		}
		n, err := ports[0].Send(fs)
		if err != nil || ports[0].Flush() != nil {
			b.Fatal("send: ", err)
		}
		for _, f := range fs[n:] {
			f.Free()
		}
		sent += n
		for n := 1; n > 0; {
			if n, err = ports[1].Recv(in); err != nil {
				b.Fatal(err)
			}
			for _, f := range in[:n] {
				if !bytes.Equal(f.Data()[:6], packet[:6]) {
					b.Fatal("another packet")
				}
				f.Free()
			}
			got += n
		}
		if err := ports[1].Flush(); err != nil {
			b.Fatal(err)
		}
		if lost := ports[1].Stats().RxDropped; lost > 0 {
			b.Fatalf("%d packets dropped", lost)
		}
	}
	b.StopTimer()
	st := ports[0].Stats()
	b.ReportMetric(float64(st.Kicks)/float64(max(st.TxPackets, 1)), "kicks/op")
}
