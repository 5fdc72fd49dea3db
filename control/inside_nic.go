package control

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"xpptp/control/config"
	"xpptp/rings"
	"xpptp/rings/lan"
	"xpptp/rings/nexthop"
	"xpptp/rings/owner"
	"xpptp/rings/xsk"
	"xpptp/workers"
)

// nicInside is a network interface whose packets pass by the kernel, beside
// the TUN device by which all others go.
type nicInside struct {
	*tunInside
	name, mode string
}

// openNIC opens AF_XDP sockets for all workers on all queues of an inside
// interface, and the TUN device.
func (p *ports) openNIC(b *Box, name string, cfgs []workers.Config) (inside, error) {
	switch {
	case slices.Contains(p.outside, name):
		return nil, fmt.Errorf("inside: %s is an outside interface", name)
	case p.backend != config.IOXSK:
		return nil, fmt.Errorf("inside: an interface needs AF_XDP outside too, and io is %s (%s): take inside: tun", p.backend, p.why)
	}
	owners, err := owner.New()
	if err != nil {
		return nil, err
	}
	p.release(owners.Close)
	t, err := p.openTun(b, owners, cfgs)
	if err != nil {
		return nil, err
	}
	var pools []*rings.Pool
	for i := range cfgs {
		pools = append(pools, cfgs[i].Pool)
	}
	// The outside has up to half of all frames to receive into.
	dev, err := xsk.Open(xsk.Config{Interface: name, Frames: framesPerWorker * len(cfgs) / 4},
		xsk.NewInside(xsk.InsideConfig{
			Owners: owners, Workers: len(cfgs), Room: rings.Room(pools[0].Chunk()), Device: t.dev.Index(),
		}), pools)
	if err != nil {
		return nil, fmt.Errorf("inside: %w", err)
	}
	p.release(dev.Close)
	hops, err := nexthop.New(nexthop.Config{Interfaces: []string{name}})
	if err != nil {
		return nil, fmt.Errorf("inside: %w", err)
	}
	p.release(hops.Close)
	for i := range cfgs {
		c := lan.Config{Host: cfgs[i].Inside, Hops: hops}
		for _, port := range dev.Ports(i) {
			c.NIC = append(c.NIC, port)
		}
		c.Send = i % len(c.NIC)
		port, err := lan.New(c)
		if err != nil {
			return nil, err
		}
		p.release(port.Close)
		cfgs[i].Inside = port
	}
	if !forwards(name) {
		b.log.Warn("IP forwarding is off: what has to go through the kernel is lost", "set", "net.ipv4.ip_forward=1")
	}
	return &nicInside{t, name, dev.Mode()}, nil
}

// String implements inside.
func (n *nicInside) String() string {
	return fmt.Sprintf("%s (%s) and %s", n.name, n.mode, n.tunInside)
}

// forwards reports whether the kernel forwards IPv4 packets that come in by an
// interface.
func forwards(name string) bool {
	b, err := os.ReadFile("/proc/sys/net/ipv4/conf/" + name + "/forwarding")
	return err != nil || strings.TrimSpace(string(b)) != "0"
}
