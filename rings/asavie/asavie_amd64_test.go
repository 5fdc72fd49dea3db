package asavie_test

import (
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"xpptp/rings"
	"xpptp/rings/asavie"
	"xpptp/rings/ringtest"
	"xpptp/rings/xsk"
)

// port closes its device with it.
type port struct {
	*asavie.Port
	dev *asavie.Device
}

func (p port) Close() error { return p.dev.Close() }

// All but opening again, which the library can not.
func TestConformance(t *testing.T) {
	const ring = 256
	ringtest.Run(t, func(t *testing.T) *ringtest.Bench {
		near, far := ringtest.NewVeth(t, ringtest.NewNS(t), ringtest.NewNS(t), 1500)
		wire := ringtest.NewWire(t, far)
		pool := rings.NewPoolN(1024, rings.ChunkSmall)
		s, err := xsk.NewSteering(xsk.SteeringConfig{AnyCall: true})
		if errors.Is(err, unix.EPERM) {
			t.Skipf("needs the right to load XDP programs: %v", err)
		}
		if err == nil {
			err = s.AddAddress(netip.AddrFrom4(near.IP))
		}
		if err != nil {
			t.Fatal(err)
		}
		var d *asavie.Device
		near.NS.Do(func() { d, err = asavie.Open(asavie.Config{Interface: near.Name, Ring: ring}, s, pool) })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close(); _ = s.Close() })
		return &ringtest.Bench{
			Port: port{d.Ports()[0], d}, Pool: pool, Ring: ring,
			Inject: wire.Send, Capture: wire.Recv,
			Local: near.IP, Remote: far.IP,
			RxHeader: ringtest.Ethernet(near.MAC, far.MAC), TxHeader: ringtest.Ethernet(far.MAC, near.MAC),
			Down: func() { near.Down(t) }, Up: func() { near.Up(t) },
			Remove: func() { near.Remove(t) },
		}
	})
}
