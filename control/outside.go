package control

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"xpptp/control/config"
	"xpptp/engine"
	"xpptp/rings"
	"xpptp/rings/asavie"
	"xpptp/rings/nexthop"
	"xpptp/rings/rawgre"
	"xpptp/rings/tpacket"
	"xpptp/rings/xsk"
	"xpptp/workers"
)

// steering is what a backend has to know that takes the packets of live calls
// only: an *xsk.Steering.
type steering interface {
	AddAddress(netip.Addr) error
	RemoveAddress(netip.Addr) error
	AddCall(id uint16) error
	RemoveCall(id uint16) error
	Drops() (xsk.Drops, error)
}

// admit lets a call's packets in, before its peer hears of the call ID.
func (p *ports) admit(local netip.Addr, id uint16) error {
	if p.steer == nil {
		return nil
	}
	if err := p.steer.AddAddress(local); err != nil {
		return err
	}
	if err := p.steer.AddCall(id); err != nil {
		_ = p.steer.RemoveAddress(local)
		return err
	}
	return nil
}

// dismiss takes back one admit.
func (p *ports) dismiss(local netip.Addr, id uint16) error {
	if p.steer == nil {
		return nil
	}
	return errors.Join(p.steer.RemoveCall(id), p.steer.RemoveAddress(local))
}

// early returns what was dropped before it reached a worker.
func (p *ports) early() (c engine.Counters) {
	if p.steer == nil {
		return c
	}
	if d, err := p.steer.Drops(); err == nil {
		c[engine.UnknownCall], c[engine.Source] = d.UnknownCall, d.Source
	}
	return c
}

// openOutside opens the outside ports of the workers, in the way that is
// configured, or the best that works.
func (p *ports) openOutside(io config.IO, chunk int, cfgs []workers.Config) error {
	p.backend, p.why = io, "configured"
	switch io {
	case config.IOAuto:
		return p.openBest(chunk, cfgs)
	case config.IOXSK:
		return p.openXSK(chunk, cfgs)
	case config.IOAsavie:
		return p.openAsavie(chunk, cfgs)
	case config.IOTpacket:
		return p.openTpacket(chunk, cfgs)
	case config.IORaw:
		return p.openRaw(chunk, cfgs)
	}
	return fmt.Errorf("io: no backend %q", io)
}

// openBest opens AF_XDP if that works on all outside interfaces, else packet
// sockets.
func (p *ports) openBest(chunk int, cfgs []workers.Config) error {
	before := slices.Clone(cfgs)
	opened := len(p.opened)
	err := p.openXSK(chunk, cfgs)
	if err == nil {
		p.backend, p.why = config.IOXSK, "the fastest that works here"
		return nil
	}
	p.closeFrom(opened)
	copy(cfgs, before)
	p.steer, p.mode = nil, ""
	p.backend, p.why = config.IOTpacket, "no AF_XDP: "+err.Error()
	return p.openTpacket(chunk, cfgs)
}

// makePools shares the frames of a memory among the workers.
func makePools(a *rings.Arena, cfgs []workers.Config) []*rings.Pool {
	pools := make([]*rings.Pool, len(cfgs))
	for i := range cfgs {
		pools[i] = rings.NewPool(a, i*a.Len()/len(cfgs), (i+1)*a.Len()/len(cfgs))
		cfgs[i].Pool = pools[i]
	}
	return pools
}

// openXSK opens AF_XDP sockets for all workers on all queues of the outside
// interfaces.
func (p *ports) openXSK(chunk int, cfgs []workers.Config) error {
	umem, err := xsk.NewUMEM(framesPerWorker*len(cfgs), chunk)
	if err != nil {
		return err
	}
	p.release(umem.Close)
	pools := makePools(umem.Arena(), cfgs)
	steer, err := p.openSteering(len(cfgs))
	if err != nil {
		return err
	}
	for _, name := range p.outside {
		// Half of the frames are for receiving, on all interfaces together.
		dev, err := xsk.Open(xsk.Config{Interface: name, Ring: framesPerWorker / 4 / len(p.outside)}, steer, pools)
		if err != nil {
			return err
		}
		p.release(dev.Close)
		p.mode = dev.Mode()
		for i := range cfgs {
			for _, port := range dev.Ports(i) {
				cfgs[i].Outside = append(cfgs[i].Outside, port)
			}
		}
	}
	return p.openBeside(pools, cfgs)
}

// openAsavie is openXSK by another's library, whose sockets cannot share a
// queue: for one worker.
func (p *ports) openAsavie(chunk int, cfgs []workers.Config) error {
	pools := makePools(rings.NewArenaN(framesPerWorker, chunk), cfgs)
	steer, err := p.openSteering(len(cfgs))
	if err != nil {
		return err
	}
	for _, name := range p.outside {
		dev, err := asavie.Open(asavie.Config{Interface: name}, steer, pools[0])
		if err != nil {
			return err
		}
		p.release(dev.Close)
		for _, port := range dev.Ports() {
			cfgs[0].Outside = append(cfgs[0].Outside, port)
		}
	}
	return p.openBeside(pools, cfgs)
}

func (p *ports) openSteering(n int) (*xsk.Steering, error) {
	s, err := xsk.NewSteering(xsk.SteeringConfig{Workers: n, Sources: p.sources})
	if err == nil {
		p.release(s.Close)
		p.steer = s
	}
	return s, err
}

// openBeside opens what an AF_XDP backend needs besides: the raw sockets by
// which packets come in that the kernel has put together from fragments (and
// that keep the kernel from refusing GRE), and the way out.
func (p *ports) openBeside(pools []*rings.Pool, cfgs []workers.Config) error {
	sides, err := rawgre.OpenGroup(rawgre.Config{MTU: p.mtu}, pools)
	if err != nil {
		return err
	}
	for i, side := range sides {
		p.release(side.Close)
		cfgs[i].Side = side
	}
	return p.openHops()
}

func (p *ports) openTpacket(chunk int, cfgs []workers.Config) error {
	pools := makePools(rings.NewArenaN(framesPerWorker*len(cfgs), chunk), cfgs)
	for _, name := range p.outside {
		group, err := tpacket.OpenGroup(tpacket.Config{Interface: name}, pools)
		if err != nil {
			return err
		}
		for i, port := range group {
			p.release(port.Close)
			cfgs[i].Outside = append(cfgs[i].Outside, port)
		}
	}
	return p.openHops()
}

func (p *ports) openRaw(chunk int, cfgs []workers.Config) error {
	pools := makePools(rings.NewArenaN(framesPerWorker*len(cfgs), chunk), cfgs)
	group, err := rawgre.OpenGroup(rawgre.Config{MTU: p.mtu}, pools)
	if err != nil {
		return err
	}
	for i, port := range group {
		p.release(port.Close)
		cfgs[i].Outside = append(cfgs[i].Outside, port)
	}
	return nil
}

func (p *ports) openHops() (err error) {
	p.hops, err = nexthop.New(nexthop.Config{Interfaces: p.outside})
	if err == nil {
		p.release(p.hops.Close)
	}
	return err
}
