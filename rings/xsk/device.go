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

	"golang.org/x/sys/unix"

	"xpptp/rings"
)

// Config says what to open. Zero values take the defaults.
type Config struct {
	Interface string
	Queues    []int // none: all
	Ring      int   // frames in each ring, 2048; rounded up to a power of two
	Frames    int   // that all queues together may have to receive into; half of all at most, and by default
	Batch     int   // preferred burst, 64
	Generic   bool  // do not try the driver's XDP
	Copy      bool  // do not try zero-copy
}

const (
	defaultRing  = 2048
	smallestRing = 64
	defaultBatch = 64
)

// Device is an interface with an XDP program on it, and sockets for all
// workers on its queues.
type Device struct {
	hook   *Hook
	queues [][]*Port // by queue, then worker
}

// Open attaches a program to an interface and opens a socket for every worker
// on each queue; worker i receives into pools[i]. All pools are of the arena of
// one UMEM.
func Open(cfg Config, p Program, pools []*rings.Pool) (d *Device, err error) {
	d = new(Device)
	defer func() {
		if err != nil {
			_ = d.Close()
			d, err = nil, fmt.Errorf("rings: open %s by AF_XDP: %w", cfg.Interface, err)
		}
	}()
	if len(pools) != p.workers() {
		return d, fmt.Errorf("%d pools for %d workers", len(pools), p.workers())
	}
	if d.hook, err = attach(cfg, p); err != nil {
		return d, err
	}
	if cfg.Ring, err = ringSize(cfg, len(d.hook.Queues), pools); err != nil {
		return d, err
	}
	info := d.hook.Info
	info.Backend = "xsk"
	info.MTU = min(info.MTU, rings.Room(pools[0].Chunk())-ethernetLen-tagLen)
	for _, n := range d.hook.Queues {
		info.Queue = n
		if err := d.openQueue(info, cfg, pools); err != nil {
			return d, fmt.Errorf("queue %d: %w", n, err)
		}
	}
	return d, nil
}

// ringSize returns how many entries the rings of each queue get.
func ringSize(cfg Config, queues int, pools []*rings.Pool) (int, error) {
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
	most := total / 2
	if cfg.Frames > 0 {
		most = min(most, cfg.Frames)
	}
	for n*queues > most {
		if n /= 2; n < smallestRing {
			return 0, fmt.Errorf("%d frames to receive into are too few for %d queues", most, queues)
		}
	}
	return n, nil
}

func (d *Device) openQueue(info rings.Info, cfg Config, pools []*rings.Pool) error {
	q := newQueue(pools[0].Arena())
	flags := uint16(unix.XDP_USE_NEED_WAKEUP)
	if cfg.Copy || !d.hook.Native {
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
		if err := d.hook.Set(info.Queue, i, p.fd); err != nil {
			return err
		}
		// A port that is closed while others live must not be sent to.
		p.forget = func() { _ = d.hook.Unset(info.Queue, i) }
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
	if d.hook.Native {
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
	for _, q := range d.queues {
		for _, p := range q {
			errs = append(errs, p.Close())
		}
	}
	if d.hook != nil {
		errs = append(errs, d.hook.Close())
	}
	return errors.Join(errs...)
}
