package control

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"runtime"

	"xpptp/control/config"
	"xpptp/engine/gre"
	"xpptp/engine/mppe/multi"
	"xpptp/rings"
	"xpptp/rings/nexthop"
	"xpptp/workers"
)

// framesPerWorker is the pool of one worker: rings, bursts and what waits for
// reordering all live on it.
const framesPerWorker = 8192

// ports is everything that packets pass through, opened.
type ports struct {
	workers []workers.Config
	inside  inside
	hops    *nexthop.Table // nil with the raw backend: the kernel routes
	backend config.IO
	mode    string         // of the backend, in words
	why     string         // this backend
	sources []netip.Prefix // where peers may be; none: anywhere
	steer   steering       // nil: packets of all calls come in
	outside []string
	opened  []func() error // what closes it, in order
	mtu     int            // smallest outside MTU
}

var pollModes = map[config.Poll]workers.Mode{
	config.PollAdaptive: workers.Adaptive, config.PollSpin: workers.Spin, config.PollInterrupt: workers.Interrupt,
}

// workers returns how many workers the box has: as many as are configured,
// else one for each core but one, which control needs.
func (b *Box) workers() int {
	if p := b.Plan(); p != nil {
		return len(p.Workers)
	}
	if n := cmp.Or(b.common.Workers, len(b.common.CPUs)); n > 0 {
		return n
	}
	if b.common.IO == config.IOAsavie {
		return 1
	}
	n := min(runtime.GOMAXPROCS(0), runtime.NumCPU()) - 1
	if b.dial != nil {
		n = min(n, b.dial.Calls)
	}
	return min(max(n, 1), maxWorkers)
}

// maxWorkers bounds what is taken without being asked for: beyond, the cores
// are better used for what this host routes to.
const maxWorkers = 16

// openPorts opens the outside and inside ports of all workers.
func (b *Box) openPorts() (p *ports, err error) {
	p = &ports{mtu: rings.MaxMTU}
	defer func() {
		if err != nil {
			p.close()
			p = nil
		}
	}()
	if p.outside, err = b.outsideNames(); err != nil {
		return p, err
	}
	for _, name := range p.outside {
		ifi, err := net.InterfaceByName(name)
		if err != nil {
			return p, fmt.Errorf("outside interface %q: %w", name, err)
		}
		p.mtu = min(p.mtu, ifi.MTU)
	}
	b.tune(p.outside)
	chunk := rings.ChunkSmall
	if p.mtu > 1700 {
		chunk = rings.ChunkLarge
	}
	cfg := workers.Config{
		CPU: -1, Mode: pollModes[b.common.Poll], Cipher: multi.Best(),
		Client: b.serve == nil, ClampMSS: b.common.IP.ClampMSS,
		CopyDSCP: b.common.IP.CopyDSCP, CopyECN: b.common.IP.CopyECN,
		GRE: gre.Config{
			First: 1, Window: b.common.GRE.ReceiveWindow,
			AckDelay: int64(b.common.GRE.AckDelay), ReorderDelay: int64(b.common.GRE.Reorder),
			LimitWindow: b.common.GRE.Window == config.WindowRFC,
		},
	}
	if b.serve != nil {
		p.sources = b.serve.Sources
	}
	cfg.Sources = p.sources
	p.workers = make([]workers.Config, b.workers())
	for i := range p.workers {
		p.workers[i] = cfg
		if plan := b.Plan(); plan != nil {
			p.workers[i].CPU = plan.Workers[i].CPU
		} else if len(b.common.CPUs) > 0 {
			p.workers[i].CPU = b.common.CPUs[i]
		}
	}
	if err := p.openOutside(b.common.IO, chunk, p.workers); err != nil {
		return p, err
	}
	b.wrap(p.workers)
	b.outsideMTU = p.mtu
	if err := p.openInside(b, p.workers); err != nil {
		return p, err
	}
	io := string(p.backend)
	if p.mode != "" {
		io += " (" + p.mode + ")"
	}
	b.log.Info("ports open", "workers", len(p.workers), "io", io, "why", p.why, "outside", p.outside, "mtu", p.mtu, "inside", p.inside.String(), "cipher", cfg.Cipher.String())
	return p, nil
}

// outsideNames are the interfaces to listen on for GRE: those configured, else
// those that carry the addresses of the control connections.
func (b *Box) outsideNames() ([]string, error) {
	if len(b.common.Outside) > 0 {
		return b.common.Outside, nil
	}
	var want []netip.Addr
	if b.serve != nil {
		for _, a := range b.serve.Listen {
			want = append(want, a.Addr())
		}
	} else {
		want = b.dialFrom
	}
	ifs, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("interfaces: %w", err)
	}
	var names []string
	for _, i := range ifs {
		addrs, _ := i.Addrs()
		for _, a := range addrs {
			ipn, ok := a.(*net.IPNet)
			if !ok {
				continue
			}
			addr, _ := netip.AddrFromSlice(ipn.IP)
			addr = addr.Unmap()
			if !addr.Is4() || i.Flags&net.FlagUp == 0 {
				continue
			}
			if matches(want, addr) {
				names = append(names, i.Name)
				break
			}
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("outside: no interface has an address of %v; name the interface", want)
	}
	return names, nil
}

func matches(want []netip.Addr, addr netip.Addr) bool {
	for _, w := range want {
		if w == addr || w.IsUnspecified() {
			return true
		}
	}
	return false
}
