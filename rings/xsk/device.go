// Package xsk is the port on AF_XDP sockets (Documentation/networking/af_xdp.rst
// in the kernel's tree): the outside port of a server or client, steered by
// call ID in an XDP program. Packets pass by the kernel's network stack, and
// so by netfilter and packet captures; all that is not enhanced GRE of a live
// call goes on to the kernel as ever.
//
// A Device is one interface: the program on it, and on each of its queues one
// socket a worker. The sockets of a queue share its fill and completion rings.
// Nothing stays attached when the process ends, however it ends.
//
// Frames are passed as they come, VLAN tags included; nothing is inserted or
// taken off, so VLAN offloads must be off where tags matter. Checksums of what
// is sent are the sender's to compute.
package xsk

import (
	"errors"
	"fmt"
	"math/bits"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"xpptp/rings"
)

// Config says what to open. Zero values take the defaults.
type Config struct {
	Interface string
	Queues    []int // none: all
	Ring      int   // frames in each ring, 2048; rounded up to a power of two
	Batch     int   // preferred burst, 64
	Generic   bool  // do not try the driver's XDP
	Copy      bool  // do not try zero-copy
}

const (
	defaultRing  = 2048
	smallestRing = 64
	defaultBatch = 64
)

// ErrForeignProgram is returned (wrapped) by Open for an interface that has
// another XDP program.
var ErrForeignProgram = errors.New("another XDP program is attached; it is left alone")

// Device is an interface with the steering program.
type Device struct {
	name    string
	native  bool
	workers int
	prog    *ebpf.Program
	xsks    *ebpf.Map // queue × workers + worker → socket
	link    link.Link
	queues  [][]*Port // by queue, then worker
}

// Open attaches the steering program to an interface and opens a socket for
// every worker on each queue; worker i receives into pools[i]. All pools are
// of the arena of one UMEM.
func Open(cfg Config, s *Steering, pools []*rings.Pool) (d *Device, err error) {
	d = &Device{name: cfg.Interface, workers: s.cfg.Workers}
	defer func() {
		if err != nil {
			_ = d.Close()
			d, err = nil, fmt.Errorf("rings: open %s by AF_XDP: %w", cfg.Interface, err)
		}
	}()
	if len(pools) != s.cfg.Workers {
		return d, fmt.Errorf("%d pools for %d workers", len(pools), s.cfg.Workers)
	}
	l, err := netlink.LinkByName(cfg.Interface)
	if err != nil {
		return d, err
	}
	a := l.Attrs()
	if a.EncapType != "ether" {
		return d, fmt.Errorf("interfaces of type %q are not supported", a.EncapType)
	}
	if x := a.Xdp; x != nil && x.Attached {
		return d, fmt.Errorf("%w (program %d)", ErrForeignProgram, x.ProgId)
	}
	if len(cfg.Queues) == 0 {
		if cfg.Queues, err = allQueues(cfg.Interface); err != nil {
			return d, err
		}
	}
	if cfg.Batch <= 0 {
		cfg.Batch = defaultBatch
	}
	if cfg.Ring, err = ringSize(cfg, pools); err != nil {
		return d, err
	}
	highest := 0
	for _, q := range cfg.Queues {
		highest = max(highest, q)
	}
	if d.xsks, err = ebpf.NewMap(&ebpf.MapSpec{
		Name: "xpptp_xsks", Type: ebpf.XSKMap, KeySize: 4, ValueSize: 4, MaxEntries: uint32((highest + 1) * d.workers),
	}); err != nil {
		return d, fmt.Errorf("XDP socket map: %w", err)
	}
	if d.prog, err = loadProgram(s, d.xsks); err != nil {
		return d, fmt.Errorf("XDP program: %w", err)
	}
	if err := d.attach(a.Index, cfg.Generic); err != nil {
		return d, err
	}
	info := rings.Info{
		Name: a.Name, Backend: "xsk", Index: a.Index, Link: rings.LinkEthernet, Batch: cfg.Batch,
		MTU: min(a.MTU, rings.MaxMTU, rings.Room(pools[0].Chunk())-ethernetLen-tagLen),
	}
	copy(info.MAC[:], a.HardwareAddr)
	for _, n := range cfg.Queues {
		info.Queue = n
		if err := d.openQueue(info, cfg, pools); err != nil {
			return d, fmt.Errorf("queue %d: %w", n, err)
		}
	}
	return d, nil
}

// allQueues returns the numbers of an interface's receive queues in use.
func allQueues(name string) ([]int, error) {
	n := 1
	e, err := ethtool.NewEthtool()
	if err != nil {
		return nil, fmt.Errorf("number of queues: %w", err)
	}
	defer e.Close()
	if c, err := e.GetChannels(name); err == nil {
		n = max(n, int(c.RxCount+c.CombinedCount))
	} // else the driver knows no channels: one queue
	qs := make([]int, n)
	for i := range qs {
		qs[i] = i
	}
	return qs, nil
}

// ringSize returns how many entries the rings get: fill rings take half of
// all frames at most.
func ringSize(cfg Config, pools []*rings.Pool) (int, error) {
	n := cfg.Ring
	if n <= 0 {
		n = defaultRing
	}
	n = 1 << bits.Len(uint(n-1))
	total := 0
	for _, p := range pools {
		if p.Arena() != pools[0].Arena() {
			return 0, errors.New("the workers' pools are of different memories")
		}
		total += p.Size()
	}
	for n*len(cfg.Queues) > total/2 {
		if n /= 2; n < smallestRing {
			return 0, fmt.Errorf("%d frames are too few for %d queues", total, len(cfg.Queues))
		}
	}
	return n, nil
}

// attach attaches the program, in the driver if that can do it.
func (d *Device) attach(ifindex int, generic bool) (err error) {
	for _, flag := range []link.XDPAttachFlags{link.XDPDriverMode, link.XDPGenericMode} {
		if flag == link.XDPDriverMode && generic {
			continue
		}
		d.link, err = link.AttachXDP(link.XDPOptions{Program: d.prog, Interface: ifindex, Flags: flag})
		if err == nil {
			d.native = flag == link.XDPDriverMode
			return nil
		}
		if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) {
			return ErrForeignProgram
		}
	}
	return fmt.Errorf("attach the XDP program: %w", err)
}

func (d *Device) openQueue(info rings.Info, cfg Config, pools []*rings.Pool) error {
	q := newQueue(pools[0].Arena())
	flags := uint16(unix.XDP_USE_NEED_WAKEUP)
	if cfg.Copy || !d.native {
		flags |= unix.XDP_COPY
	} // else the kernel tries zero-copy, then copy
	first := -1
	var ports []*Port
	for i, pool := range pools {
		if len(pools) > 1 {
			q.reserve = max(q.reserve, pool.Size()/2)
		}
		p, err := q.socket(info.Index, info.Queue, cfg.Ring, flags, first)
		if err != nil {
			return err
		}
		p.info, p.pool, p.number = info, pool, i
		p.back = newReturns(2 * cfg.Ring)
		p.backOne = p.returned
		if o, err := getOption[uint32](p.fd, unix.XDP_OPTIONS); err == nil {
			p.zeroCopy = o&unix.XDP_OPTIONS_ZEROCOPY != 0
		}
		if i == 0 {
			first = p.fd
			d.queues = append(d.queues, nil)
		}
		q.open++
		ports = append(ports, p)
		q.ports = ports
		d.queues[len(d.queues)-1] = ports
	}
	for i, p := range ports {
		p.q.refill(p.pool)
		key := uint32(info.Queue*d.workers + i)
		if err := d.xsks.Put(key, uint32(p.fd)); err != nil {
			return fmt.Errorf("XDP socket map: %w", err)
		}
		// A port that is closed while others live must not be sent to.
		p.forget = func() { _ = d.xsks.Delete(key) }
	}
	return nil
}

// Ports returns the ports of a worker, one a queue.
func (d *Device) Ports(worker int) []*Port {
	ps := make([]*Port, len(d.queues))
	for i, q := range d.queues {
		ps[i] = q[worker]
	}
	return ps
}

// Mode describes how the device is used: where the program runs, and whether
// packets are copied.
func (d *Device) Mode() string {
	m := "generic"
	if d.native {
		m = "native"
	}
	for _, q := range d.queues {
		for _, p := range q {
			if !p.zeroCopy {
				return m + ", copy"
			}
		}
	}
	return m + ", zero-copy"
}

// Close closes all ports and detaches the program.
func (d *Device) Close() error {
	var errs []error
	if d.link != nil {
		errs = append(errs, d.link.Close())
	}
	for _, q := range d.queues {
		for _, p := range q {
			errs = append(errs, p.Close())
		}
	}
	if d.prog != nil {
		errs = append(errs, d.prog.Close())
	}
	if d.xsks != nil {
		errs = append(errs, d.xsks.Close())
	}
	d.link, d.prog, d.xsks = nil, nil, nil
	return errors.Join(errs...)
}
