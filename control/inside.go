package control

import (
	"fmt"
	"net/netip"
	"slices"

	"xpptp/control/config"
	"xpptp/control/pool"
	"xpptp/control/ppp"
	"xpptp/engine/wire"
	"xpptp/rings"
	"xpptp/rings/lab"
	"xpptp/rings/nexthop"
	"xpptp/rings/owner"
	"xpptp/workers"
)

// inside is what stands behind the calls: it has given every worker its inside
// port.
type inside interface {
	// String names it, for the log.
	String() string
	// up makes what is sent to a call (in the server role), or by it (in the
	// client role), come to the inside ports; down takes that back. A call's
	// worker knows the address before up, and until after down.
	up(k *call, p *ppp.NetParams)
	down(k *call, p *ppp.NetParams)
	// route does the same, or takes it back, for a network behind a user.
	route(k *call, net netip.Prefix, up bool) error
}

// SetInside makes f's ports the inside of the box, one for each worker,
// instead of a TUN device: no device, address or route is made. A port receives
// into pool, where it needs frames, and belongs to the box, which closes it.
// Set it before Start.
func (b *Box) SetInside(f func(worker int, pool *rings.Pool) (rings.Port, error)) { b.ownInside = f }

// openInside opens the inside port of every worker.
func (p *ports) openInside(b *Box, cfgs []workers.Config) (err error) {
	if b.serve != nil {
		for i := range cfgs {
			cfgs[i].LocalV4 = b.serve.Local
			if b.common.IPv6 {
				cfgs[i].LocalV6 = linkLocal(b.iid)
			}
		}
	}
	kind := config.InsideTun
	if b.serve != nil {
		kind = b.serve.Inside
	}
	switch {
	case b.ownInside != nil:
		p.inside, err = p.openBare("given", b.ownInside, cfgs)
	case kind == config.InsideSink:
		p.inside, err = p.openBare(kind, func(int, *rings.Pool) (rings.Port, error) { return lab.Sink(rings.MaxMTU), nil }, cfgs)
	case kind == config.InsideReflect:
		p.inside, err = p.openBare(kind, func(int, *rings.Pool) (rings.Port, error) { return lab.Reflect(rings.MaxMTU, reflectRing), nil }, cfgs)
	case kind == config.InsideTun:
		p.inside, err = p.openSteeredTun(b, cfgs)
	default:
		p.inside, err = p.openNIC(b, kind, cfgs)
	}
	return err
}

// reflectRing is how many packets may be on their way back into their calls.
const reflectRing = 1024

const unsteered = "packets come to any worker, which hands them to the right one"

// openSteeredTun opens a TUN device whose queues, if there are several, get the
// packets of their worker's calls, if the kernel lets us.
func (p *ports) openSteeredTun(b *Box, cfgs []workers.Config) (inside, error) {
	if len(cfgs) == 1 {
		return p.openTun(b, nil, cfgs)
	}
	owners, err := owner.New()
	if err != nil {
		b.log.Warn(unsteered, "err", err)
		return p.openTun(b, nil, cfgs)
	}
	p.release(owners.Close)
	return p.openTun(b, owners, cfgs)
}

// bareInside is one that knows no addresses: what arrives at its ports finds
// its call by itself.
type bareInside string

func (p *ports) openBare(name string, open func(int, *rings.Pool) (rings.Port, error), cfgs []workers.Config) (inside, error) {
	for i := range cfgs {
		port, err := open(i, cfgs[i].Pool)
		if err != nil {
			return nil, fmt.Errorf("inside port of worker %d: %w", i, err)
		}
		p.release(port.Close)
		cfgs[i].Inside = port
	}
	return bareInside(name), nil
}

func (i bareInside) String() string           { return string(i) }
func (bareInside) up(*call, *ppp.NetParams)   {}
func (bareInside) down(*call, *ppp.NetParams) {}

func (bareInside) route(*call, netip.Prefix, bool) error { return nil }

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
