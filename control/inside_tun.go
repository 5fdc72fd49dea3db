package control

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"xpptp/control/hostnet"
	"xpptp/control/ppp"
	"xpptp/rings/owner"
	"xpptp/rings/tun"
	"xpptp/workers"
)

// tunInside is a TUN device: the kernel routes between it and the rest.
type tunInside struct {
	b      *Box
	dev    device
	owners *owner.Map // of inside addresses; nil: nothing is steered
}

// device is what a TUN device is told: a *tun.Device.
type device interface {
	Name() string
	Index() int
	SetMTU(n int) error
	AddAddr(local netip.Prefix, peer netip.Addr) error
	DelAddr(local netip.Prefix, peer netip.Addr) error
	AddRoute(dst netip.Prefix, src netip.Addr) error
	DelRoute(dst netip.Prefix) error
	Close() error
}

// openTun makes the TUN device, with a queue for each worker; a server also
// gives it its address and the routes to its pools. owners, if not nil, tells
// which queue a packet belongs to.
func (p *ports) openTun(b *Box, owners *owner.Map, cfgs []workers.Config) (*tunInside, error) {
	mtu := min(b.common.MTU, p.mtu-greOverhead-4)
	dev, err := tun.Create(tun.Config{Name: b.common.Tun, MTU: mtu, Queues: len(cfgs)})
	if err != nil {
		if _, there := net.InterfaceByName(b.common.Tun); there == nil {
			return nil, fmt.Errorf("tun: the name %q is taken by another interface: %w", b.common.Tun, err)
		}
		return nil, err
	}
	p.release(dev.Close)
	if owners != nil && len(cfgs) > 1 {
		if err := dev.Steer(owners, b.serve == nil); err != nil {
			b.log.Warn(unsteered, "err", err)
		}
	}
	for i := range cfgs {
		port, err := dev.Port(i, cfgs[i].Pool)
		if err != nil {
			return nil, err
		}
		p.release(port.Close)
		cfgs[i].Inside = port
	}
	if err := dev.SetUp(); err != nil {
		return nil, err
	}
	t := &tunInside{b: b, dev: dev, owners: owners}
	if b.serve == nil {
		return t, nil
	}
	if err := dev.AddAddr(netip.PrefixFrom(b.serve.Local, 32), netip.Addr{}); err != nil {
		return nil, err
	}
	for _, pl := range b.serve.Pools {
		for _, r := range pl.Ranges {
			for _, pre := range prefixes(r) {
				if err := dev.AddRoute(pre, b.serve.Local); err != nil {
					return nil, err
				}
			}
		}
	}
	if b.common.IPv6 {
		if err := dev.AddAddr(netip.PrefixFrom(linkLocal(b.iid), 64), netip.Addr{}); err != nil {
			b.log.Warn("no IPv6 inside", "err", err)
		}
	}
	return t, nil
}

// String implements inside.
func (t *tunInside) String() string { return t.dev.Name() }

// up implements inside: a server needs a route when no pool's covers the
// address, a client its addresses on the device, always.
func (t *tunInside) up(k *call, p *ppp.NetParams) {
	if mine := insideAddr(k, p); t.owners != nil && mine.IsValid() {
		if err := t.owners.Set(netip.PrefixFrom(mine, mine.BitLen()), k.l.id); err != nil {
			k.log.Warn("packets of the call are not steered", "err", err)
		}
	}
	if k.client {
		t.clientUp(k, p)
		return
	}
	if p.Family == ppp.IPv4 && p.Peer.IsValid() && !t.b.addr.covered(p.Peer) {
		if err := t.dev.AddRoute(netip.PrefixFrom(p.Peer, 32), t.b.serve.Local); err != nil {
			k.log.Error("no route to the client", "err", err)
		}
	}
}

// down implements inside.
func (t *tunInside) down(k *call, p *ppp.NetParams) {
	if mine := insideAddr(k, p); t.owners != nil && mine.IsValid() {
		if err := t.owners.Delete(netip.PrefixFrom(mine, mine.BitLen())); err != nil {
			k.log.Warn("packets of the call are still steered", "err", err)
		}
	}
	if k.client {
		t.clientDown(k, p)
		return
	}
	if p.Family == ppp.IPv4 && p.Peer.IsValid() && !t.b.addr.covered(p.Peer) {
		if err := t.dev.DelRoute(netip.PrefixFrom(p.Peer, 32)); err != nil {
			k.log.Warn("route to the client not removed", "err", err)
		}
	}
}

// route implements inside.
func (t *tunInside) route(k *call, net netip.Prefix, up bool) error {
	if !up {
		var err error
		if t.owners != nil {
			err = t.owners.Delete(net)
		}
		return errors.Join(err, t.dev.DelRoute(net))
	}
	if t.owners != nil {
		if err := t.owners.Set(net, k.l.id); err != nil {
			k.log.Warn("packets of the network are not steered", "network", net, "err", err)
		}
	}
	return t.dev.AddRoute(net, t.b.serve.Local)
}

// insideAddr is the address that a call's inside packets are known by.
func insideAddr(k *call, p *ppp.NetParams) netip.Addr {
	if k.client {
		return p.Local
	}
	return p.Peer
}

// clientUp configures the TUN device for a call, and gives the call what the
// host lends.
func (t *tunInside) clientUp(k *call, p *ppp.NetParams) {
	if err := t.dev.SetMTU(int(k.room())); err != nil {
		k.log.Warn("MTU not set", "err", err)
	}
	local, peer := tunAddrs(k, p)
	if err := t.dev.AddAddr(local, peer); err != nil {
		k.log.Warn("address not set", "err", err)
	}
	if p.Family != ppp.IPv4 || t.b.host == nil {
		return
	}
	lent := hostnet.Call{ID: k, Server: k.pair.peer, Link: t.dev.Name(), Index: t.dev.Index(), Local: p.Local}
	for _, d := range p.DNS {
		if d.IsValid() {
			lent.DNS = append(lent.DNS, d)
		}
	}
	t.b.host.Up(lent)
}

// clientDown takes it back.
func (t *tunInside) clientDown(k *call, p *ppp.NetParams) {
	if p.Family == ppp.IPv4 && t.b.host != nil {
		t.b.host.Down(k)
	}
	if err := t.dev.DelAddr(tunAddrs(k, p)); err != nil {
		k.log.Warn("address not removed", "err", err)
	}
}

// tunAddrs are a call's addresses on the TUN device. A server that uses its
// outside address inside too gets none there: the route to it would lead the
// call through itself.
func tunAddrs(k *call, p *ppp.NetParams) (local netip.Prefix, peer netip.Addr) {
	switch {
	case p.Family == ppp.IPv6:
		return netip.PrefixFrom(p.Local, 64), netip.Addr{}
	case p.Peer == k.pair.peer:
		return netip.PrefixFrom(p.Local, 32), netip.Addr{}
	}
	return netip.PrefixFrom(p.Local, 32), p.Peer
}
