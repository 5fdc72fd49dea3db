package control

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"xpptp/control/pool"
	"xpptp/control/ppp"
	"xpptp/engine/wire"
	"xpptp/rings/nexthop"
	"xpptp/rings/tun"
	"xpptp/workers"
)

// device is what the inside port's network device is told: a *tun.Device.
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

// openInside makes the TUN device; a server also gives it its address and the
// routes to its pools.
func (p *ports) openInside(b *Box, cfg *workers.Config) (err error) {
	mtu := min(b.common.MTU, p.mtu-greOverhead-4)
	dev, err := tun.Create(tun.Config{Name: b.common.Tun, MTU: mtu})
	if err != nil {
		if _, there := net.InterfaceByName(b.common.Tun); there == nil {
			return fmt.Errorf("tun: the name %q is taken by another interface: %w", b.common.Tun, err)
		}
		return err
	}
	p.tun = dev
	p.release(dev.Close)
	port, err := dev.Port(0, cfg.Pool)
	if err != nil {
		return err
	}
	p.release(port.Close)
	cfg.Inside = port
	if err := dev.SetUp(); err != nil {
		return err
	}
	if b.serve == nil {
		return nil
	}
	cfg.LocalV4 = b.serve.Local
	if err := p.tun.AddAddr(netip.PrefixFrom(b.serve.Local, 32), netip.Addr{}); err != nil {
		return err
	}
	for _, pl := range b.serve.Pools {
		for _, r := range pl.Ranges {
			for _, pre := range prefixes(r) {
				if err := p.tun.AddRoute(pre, b.serve.Local); err != nil {
					return err
				}
			}
		}
	}
	if b.common.IPv6 {
		cfg.LocalV6 = linkLocal(b.iid)
		if err := p.tun.AddAddr(netip.PrefixFrom(cfg.LocalV6, 64), netip.Addr{}); err != nil {
			b.log.Warn("no IPv6 inside", "err", err)
		}
	}
	return nil
}

func linkLocal(iid uint64) netip.Addr {
	var id [8]byte
	for i := range id {
		id[i] = byte(iid >> (56 - 8*i))
	}
	return netip.AddrFrom16(wire.LinkLocal6(id))
}

// prefixes covers a range exactly, with as few prefixes as possible.
func prefixes(r pool.Range) (out []netip.Prefix) {
	first, last := toInt(r.First), toInt(r.Last)
	for first <= last {
		bits := 32
		for bits > 0 {
			size := uint64(1) << (33 - bits) // of the next larger prefix
			if first%size != 0 || first+size-1 > last {
				break
			}
			bits--
		}
		out = append(out, netip.PrefixFrom(fromInt(first), bits))
		first += 1 << (32 - bits)
	}
	return out
}

func toInt(a netip.Addr) uint64 {
	b := a.As4()
	return uint64(b[0])<<24 | uint64(b[1])<<16 | uint64(b[2])<<8 | uint64(b[3])
}

func fromInt(n uint64) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

// rawHop is the next hop of a backend that leaves routing to the kernel.
type rawHop struct{}

// Way implements workers.Hop.
func (rawHop) Way() ([]byte, int, workers.HopState) { return nil, 0, workers.HopReady }

// netHop is a next hop that the kernel's tables know.
type netHop struct{ *nexthop.Hop }

var hopStates = [...]workers.HopState{
	nexthop.Pending: workers.HopPending, nexthop.Ready: workers.HopReady, nexthop.Failed: workers.HopFailed,
}

// Way implements workers.Hop.
func (h netHop) Way() ([]byte, int, workers.HopState) {
	w := h.Load()
	return w.Header(), w.Index, hopStates[w.State]
}

// hop returns the way to a peer, to be released when the call is gone.
func (b *Box) hop(local, peer netip.Addr) workers.Hop {
	if b.ports.hops == nil {
		return rawHop{}
	}
	return netHop{b.ports.hops.HopFrom(local, peer)}
}

// networkUp makes the kernel route a call's inside traffic to us: at a server
// when no pool's route covers the address, at a client always.
func (b *Box) networkUp(k *call, p *ppp.NetParams) {
	if k.client {
		b.clientUp(k, p)
		return
	}
	if p.Family == ppp.IPv4 && p.Peer.IsValid() && !b.addr.covered(p.Peer) {
		if err := b.ports.tun.AddRoute(netip.PrefixFrom(p.Peer, 32), b.serve.Local); err != nil {
			k.log.Error("no route to the client", "err", err)
		}
	}
}

// networkDown takes back what networkUp did.
func (b *Box) networkDown(k *call, p *ppp.NetParams) {
	if k.client {
		b.clientDown(k, p)
		return
	}
	if p.Family == ppp.IPv4 && p.Peer.IsValid() && !b.addr.covered(p.Peer) {
		if err := b.ports.tun.DelRoute(netip.PrefixFrom(p.Peer, 32)); err != nil {
			k.log.Warn("route to the client not removed", "err", err)
		}
	}
}

// release notes how something is closed that was opened.
func (p *ports) release(f func() error) { p.opened = append(p.opened, f) }

// close closes everything, last opened first; frames still with the ports go
// back to their pools. The workers have ended.
func (p *ports) close() { p.closeFrom(0) }

// closeFrom closes what was opened after the first n.
func (p *ports) closeFrom(n int) {
	for _, f := range slices.Backward(p.opened[n:]) {
		_ = f()
	}
	p.opened = p.opened[:n]
}
