package control

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"

	"xpptp/control/config"
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

// logDrops tells what was dropped before it reached a worker.
func (p *ports) logDrops(log *slog.Logger) {
	if p.steer == nil {
		return
	}
	d, err := p.steer.Drops()
	if err != nil {
		log.Warn("drops in XDP not known", "err", err)
		return
	}
	log.Info("dropped in XDP", "unknown-call", d.UnknownCall, "source", d.Source)
}

// openOutside opens the outside ports of cfg's worker, in the way that is
// configured, or the best that works.
func (p *ports) openOutside(io config.IO, chunk int, cfg *workers.Config) error {
	p.backend, p.why = io, "configured"
	switch io {
	case config.IOAuto:
		return p.openBest(chunk, cfg)
	case config.IOXSK:
		return p.openXSK(chunk, cfg)
	case config.IOAsavie:
		return p.openAsavie(chunk, cfg)
	case config.IOTpacket:
		return p.openTpacket(chunk, cfg)
	case config.IORaw:
		return p.openRaw(chunk, cfg)
	}
	return fmt.Errorf("io: no backend %q", io)
}

// openBest opens AF_XDP if that works on all outside interfaces, else packet
// sockets.
func (p *ports) openBest(chunk int, cfg *workers.Config) error {
	before := *cfg
	opened := len(p.opened)
	err := p.openXSK(chunk, cfg)
	if err == nil {
		p.backend, p.why = config.IOXSK, "the fastest that works here"
		return nil
	}
	p.closeFrom(opened)
	*cfg = before
	p.steer, p.mode = nil, ""
	p.backend, p.why = config.IOTpacket, "no AF_XDP: "+err.Error()
	return p.openTpacket(chunk, cfg)
}

// openXSK opens AF_XDP sockets on all queues of the outside interfaces.
func (p *ports) openXSK(chunk int, cfg *workers.Config) error {
	umem, err := xsk.NewUMEM(framesPerWorker, chunk)
	if err != nil {
		return err
	}
	p.release(umem.Close)
	cfg.Pool = rings.NewPool(umem.Arena(), 0, umem.Arena().Len())
	steer, err := p.openSteering()
	if err != nil {
		return err
	}
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
	return p.openBeside(cfg)
}

// openAsavie is openXSK by another's library.
func (p *ports) openAsavie(chunk int, cfg *workers.Config) error {
	cfg.Pool = rings.NewPoolN(framesPerWorker, chunk)
	steer, err := p.openSteering()
	if err != nil {
		return err
	}
	for _, name := range p.outside {
		dev, err := asavie.Open(asavie.Config{Interface: name}, steer, cfg.Pool)
		if err != nil {
			return err
		}
		p.release(dev.Close)
		for _, port := range dev.Ports() {
			cfg.Outside = append(cfg.Outside, port)
		}
	}
	return p.openBeside(cfg)
}

func (p *ports) openSteering() (*xsk.Steering, error) {
	s, err := xsk.NewSteering(xsk.SteeringConfig{})
	if err == nil {
		p.release(s.Close)
		p.steer = s
	}
	return s, err
}

// openBeside opens what an AF_XDP backend needs besides: the raw socket by
// which packets come in that the kernel has put together from fragments (and
// that keeps the kernel from refusing GRE), and the way out.
func (p *ports) openBeside(cfg *workers.Config) error {
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
