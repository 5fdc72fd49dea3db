// Package tun is the inside port on a TUN device: the kernel routes, filters
// and counts what the calls carry like any other interface's traffic.
//
// Packets cross with a virtio header: the kernel leaves checksums and the
// segmentation of TCP and UDP to us, so that it crosses once for many
// packets; Recv cuts and completes them.
package tun

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"xpptp/rings"
)

// Config describes a device. Zero values take the defaults.
type Config struct {
	Name   string // empty: the kernel picks one ("tun0")
	Queues int    // 1
	MTU    int    // 1400
	Queue  int    // packets that wait in each queue for Recv, 1000
	Batch  int    // preferred burst, 64
}

const (
	defaultMTU   = 1400
	defaultQueue = 1000
	defaultBatch = 64
	minMTU       = 68 // RFC 791 §3.2
)

// Device is a TUN device, made by Create; it is gone when it and all of its
// ports are closed, unless it was there before (ip tuntap add). Its methods
// may be called from any goroutine, and work in the network namespace that it
// was made in.
type Device struct {
	name  string
	index int
	batch int
	nl    *netlink.Handle
	link  netlink.Link

	mu  sync.Mutex
	mtu int
	fds []int // of queues without a port; -1: taken
}

// Create makes the device, or attaches to the one of that name.
func Create(cfg Config) (d *Device, err error) {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&cfg.Queues, 1)
	def(&cfg.MTU, defaultMTU)
	def(&cfg.Queue, defaultQueue)
	def(&cfg.Batch, defaultBatch)
	what := cfg.Name
	if what == "" {
		what = "a TUN device"
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("rings: create %s: %w", what, err)
		}
	}()
	if err := checkMTU(cfg.MTU); err != nil {
		return nil, err
	}
	if cfg.Queues < 1 || cfg.Queue < 1 || cfg.Batch < 1 {
		return nil, fmt.Errorf("%d queues of %d packets, batches of %d: must be positive", cfg.Queues, cfg.Queue, cfg.Batch)
	}
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	d = &Device{name: cfg.Name, batch: cfg.Batch, nl: nl}
	defer func() {
		if err != nil {
			_ = d.Close()
			d = nil
		}
	}()
	for range cfg.Queues {
		fd, err := d.attach(cfg.Queues > 1)
		if err != nil {
			return d, err
		}
		d.fds = append(d.fds, fd)
	}
	if d.link, err = nl.LinkByName(d.name); err != nil {
		return d, err
	}
	d.index = d.link.Attrs().Index
	if err := nl.LinkSetTxQLen(d.link, cfg.Queue); err != nil {
		return d, fmt.Errorf("queue length %d: %w", cfg.Queue, err)
	}
	// The address of the kernel's own choice would only be a second one.
	_ = nl.LinkSetIP6AddrGenMode(d.link, 1) // IN6_ADDR_GEN_MODE_NONE; fails without IPv6
	return d, d.SetMTU(cfg.MTU)
}

// attach opens one queue and learns the device's name.
func (d *Device) attach(multi bool) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("/dev/net/tun: %w", err)
	}
	fail := func(what string, err error) (int, error) {
		unix.Close(fd)
		return -1, fmt.Errorf("%s: %w", what, err)
	}
	req, err := unix.NewIfreq(d.name)
	if err != nil {
		return fail("name", err)
	}
	flags := uint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if multi {
		flags |= unix.IFF_MULTI_QUEUE
	}
	req.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return fail("TUNSETIFF", err)
	}
	d.name = req.Name()
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, vnetSize); err != nil {
		return fail("TUNSETVNETHDRSZ", err)
	}
	const tcp = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN
	const udp = unix.TUN_F_USO4 | unix.TUN_F_USO6 // Linux 6.2
	if unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tcp|udp) != nil {
		if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tcp); err != nil {
			return fail("TUNSETOFFLOAD", err)
		}
	}
	return fd, nil
}

// Name returns the interface's name.
func (d *Device) Name() string { return d.name }

// Index returns the interface's index.
func (d *Device) Index() int { return d.index }

// Port returns the port of a queue, which receives into pool. Each queue has
// one port, once. The MTU should be set before.
func (d *Device) Port(queue int, pool *rings.Pool) (*Port, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if queue < 0 || queue >= len(d.fds) || d.fds[queue] < 0 {
		return nil, fmt.Errorf("rings: %s has no free queue %d", d.name, queue)
	}
	if d.mtu > rings.Room(pool.Chunk()) {
		return nil, fmt.Errorf("rings: %s: MTU %d does not fit frames of %d bytes", d.name, d.mtu, pool.Chunk())
	}
	p := newPort(d.fds[queue], pool, rings.Info{
		Name: d.name, Backend: "tun", Index: d.index, Queue: queue, Link: rings.LinkIP, MTU: d.mtu, Batch: d.batch,
	})
	d.fds[queue] = -1
	return p, nil
}

func checkMTU(n int) error {
	if n < minMTU || n > rings.MaxMTU {
		return fmt.Errorf("MTU %d is not between %d and %d", n, minMTU, rings.MaxMTU)
	}
	return nil
}

// SetMTU sets the MTU of the device; ports keep what they were opened with.
func (d *Device) SetMTU(n int) error {
	if err := checkMTU(n); err != nil {
		return fmt.Errorf("rings: %s: %w", d.name, err)
	}
	if err := d.nl.LinkSetMTU(d.link, n); err != nil {
		return fmt.Errorf("rings: %s: MTU %d: %w", d.name, n, err)
	}
	d.mu.Lock()
	d.mtu = n
	d.mu.Unlock()
	return nil
}

// SetUp sets the interface up.
func (d *Device) SetUp() error {
	if err := d.nl.LinkSetUp(d.link); err != nil {
		return fmt.Errorf("rings: set %s up: %w", d.name, err)
	}
	return nil
}

// AddAddr gives the interface an address: with a valid peer a point-to-point
// pair, else the prefix as it is (a /32, a /128, a link-local /64). An address
// that is there already is not an error.
func (d *Device) AddAddr(local netip.Prefix, peer netip.Addr) error {
	a := &netlink.Addr{IPNet: ipNet(local)}
	if peer.IsValid() {
		a.Peer = ipNet(netip.PrefixFrom(peer, peer.BitLen()))
	}
	if local.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD // there is nobody to ask
	}
	if err := d.nl.AddrReplace(d.link, a); err != nil {
		return fmt.Errorf("rings: %s: add address %s: %w", d.name, local, err)
	}
	return nil
}

// DelAddr takes an address away; one that is not there is not an error.
func (d *Device) DelAddr(local netip.Prefix, peer netip.Addr) error {
	a := &netlink.Addr{IPNet: ipNet(local)}
	if peer.IsValid() {
		a.Peer = ipNet(netip.PrefixFrom(peer, peer.BitLen()))
	}
	if err := d.nl.AddrDel(d.link, a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("rings: %s: delete address %s: %w", d.name, local, err)
	}
	return nil
}

// AddRoute routes dst to the interface, with src, if valid, as the source of
// the host's own packets. It replaces a route to the same destination and
// metric.
func (d *Device) AddRoute(dst netip.Prefix, src netip.Addr) error {
	r := d.route(dst)
	if src.IsValid() {
		r.Src = src.AsSlice()
	}
	if err := d.nl.RouteReplace(r); err != nil {
		return fmt.Errorf("rings: add route to %s by %s: %w", dst, d.name, err)
	}
	return nil
}

// DelRoute deletes the interface's route to dst; one that is not there is not
// an error.
func (d *Device) DelRoute(dst netip.Prefix) error {
	if err := d.nl.RouteDel(d.route(dst)); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("rings: delete route to %s by %s: %w", dst, d.name, err)
	}
	return nil
}

func (d *Device) route(dst netip.Prefix) *netlink.Route {
	r := &netlink.Route{LinkIndex: d.index, Dst: ipNet(dst.Masked())}
	if dst.Addr().Is4() {
		r.Scope = netlink.SCOPE_LINK
	}
	return r
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Close lets go of the device. Ports are closed on their own; the last one
// takes the device with it.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, fd := range d.fds {
		if fd >= 0 {
			unix.Close(fd)
			d.fds[i] = -1
		}
	}
	d.nl.Close()
	return nil
}
