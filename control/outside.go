package control

import (
	"errors"
	"fmt"
	"net/netip"

	"xpptp/control/config"
	"xpptp/rings"
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

// openOutside opens the outside ports of cfg's worker, in the way that is
// configured, or the best that works.
func (p *ports) openOutside(io config.IO, chunk int, cfg *workers.Config) error {
	p.backend, p.why = io, "configured"
	switch io {
	case config.IOAuto:
		p.backend, p.why = config.IOTpacket, "works everywhere"
		return p.openTpacket(chunk, cfg)
	case config.IOXSK:
		return p.openXSK(chunk, cfg)
	case config.IOTpacket:
		return p.openTpacket(chunk, cfg)
	case config.IORaw:
		return p.openRaw(chunk, cfg)
	}
	return fmt.Errorf("io: no backend %q", io)
}

// openXSK opens AF_XDP sockets on all queues of the outside interfaces, and
// beside them the raw socket by which packets come in that the kernel has put
// together from fragments.
func (p *ports) openXSK(chunk int, cfg *workers.Config) error {
	umem, err := xsk.NewUMEM(framesPerWorker, chunk)
	if err != nil {
		return err
	}
	p.release(umem.Close)
	cfg.Pool = rings.NewPool(umem.Arena(), 0, umem.Arena().Len())
	steer, err := xsk.NewSteering(xsk.SteeringConfig{})
	if err != nil {
		return err
	}
	p.release(steer.Close)
	p.steer = steer
	for _, name := range p.outside {
		// Half of the frames are for receiving, on all interfaces together.
		dev, err := xsk.Open(xsk.Config{Interface: name, Ring: framesPerWorker / 4 / len(p.outside)}, steer, []*rings.Pool{cfg.Pool})
		if err != nil {
			return err
		}
		p.release(dev.Close)
		p.mode = dev.Mode()
		for _, port := range dev.Ports(0) {
			cfg.Outside = append(cfg.Outside, port)
		}
	}
	side, err := rawgre.Open(rawgre.Config{MTU: p.mtu}, cfg.Pool)
	if err != nil {
		return err
	}
	p.release(side.Close)
	cfg.Side = side
	return p.openHops()
}

func (p *ports) openTpacket(chunk int, cfg *workers.Config) error {
	cfg.Pool = rings.NewPoolN(framesPerWorker, chunk)
	for _, name := range p.outside {
		port, err := tpacket.Open(tpacket.Config{Interface: name}, cfg.Pool)
		if err != nil {
			return err
		}
		p.release(port.Close)
		cfg.Outside = append(cfg.Outside, port)
	}
	return p.openHops()
}

func (p *ports) openRaw(chunk int, cfg *workers.Config) error {
	cfg.Pool = rings.NewPoolN(framesPerWorker, chunk)
	port, err := rawgre.Open(rawgre.Config{MTU: p.mtu}, cfg.Pool)
	if err != nil {
		return err
	}
	p.release(port.Close)
	cfg.Outside = append(cfg.Outside, port)
	return nil
}

func (p *ports) openHops() (err error) {
	p.hops, err = nexthop.New(nexthop.Config{Interfaces: p.outside})
	if err == nil {
		p.release(p.hops.Close)
	}
	return err
}
