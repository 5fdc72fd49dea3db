// Package tpacket is the outside port on an AF_PACKET socket: a TPACKET_V2
// receive ring behind a classic-BPF filter for enhanced GRE, and sendmmsg(2)
// past the queueing discipline. It works on every kind of interface and needs
// no more than CAP_NET_RAW.
//
// The kernel's IP stack sees the same packets. A raw socket that takes
// nothing keeps it from answering them with ICMP errors. The socket is always
// in a fan-out group, even alone: only so does the kernel reassemble
// fragments before it hands them over. With several sockets the group picks
// one by call ID (rings.Shard).
//
// Frames are never tagged: the kernel takes VLAN tags off before it delivers
// to the VLAN's own interface, so that is the one to open. Packets for other
// hosts, or for VLANs that the interface does not have, are not received.
package tpacket

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"xpptp/rings"
	"xpptp/rings/internal/sock"
)

// Config says what to open. Zero values take the defaults.
type Config struct {
	Interface string
	Ring      int // frames in the receive ring, 4096; rounded up to whole blocks
	Batch     int // preferred burst, 64
}

const (
	defaultRing  = 4096
	defaultBatch = 64
	sendQueue    = 256     // frames that wait for Flush
	sendBuffer   = 4 << 20 // bytes in the device's queue
	blockSize    = 1 << 16
	checkEvery   = 64 // idle receives between two looks at the socket's state
)

// Port is an open outside port.
type Port struct {
	sock.Port
	group  *group
	ring   rxRing
	idle   int  // empty receives in a row
	noLink bool // the link went down and nothing has arrived since
}

// group is what the ports of one interface share.
type group struct {
	silence int // raw GRE socket
	users   atomic.Int32
}

// Open opens a port for one worker. Frames are received into pool. Older
// kernels want the interface to be up.
func Open(cfg Config, pool *rings.Pool) (*Port, error) {
	ps, err := OpenGroup(cfg, []*rings.Pool{pool})
	if err != nil {
		return nil, err
	}
	return ps[0], nil
}

// OpenGroup opens one port a worker on the same interface. Port i receives
// the calls whose ID has rings.Shard i, into pools[i].
func OpenGroup(cfg Config, pools []*rings.Pool) (ports []*Port, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("rings: open %s by packet socket: %w", cfg.Interface, err)
		}
	}()
	link, err := netlink.LinkByName(cfg.Interface)
	if err != nil {
		return nil, err
	}
	silence, err := sock.Silence()
	if err != nil {
		return nil, err
	}
	g := &group{silence: silence}
	g.users.Store(1)
	defer g.leave()
	defer func() {
		if err != nil {
			for _, p := range ports {
				_ = p.Close()
			}
			ports = nil
		}
	}()
	var id int // fan-out group; the kernel gives the first socket a free one
	for i, pool := range pools {
		p, err := open(cfg, link, i, pool)
		if err != nil {
			return ports, err
		}
		p.group = g
		g.users.Add(1)
		ports = append(ports, p)
		if id, err = p.join(id); err != nil {
			return ports, err
		}
	}
	// Only now that all are there is the sharding right.
	for _, p := range ports {
		if err := p.listen(); err != nil {
			return ports, err
		}
	}
	return ports, nil
}

func open(cfg Config, link netlink.Link, queue int, pool *rings.Pool) (*Port, error) {
	a := link.Attrs()
	p := &Port{Port: sock.Port{
		Pool: pool,
		About: rings.Info{
			Name: a.Name, Backend: "tpacket", Index: a.Index, Queue: queue, Link: rings.LinkIP, Batch: cfg.Batch,
		},
	}}
	if p.About.Batch <= 0 {
		p.About.Batch = defaultBatch
	}
	header := 0
	switch a.EncapType {
	case "ether", "loopback":
		p.About.Link = rings.LinkEthernet
		header = ethernetHeader
		copy(p.About.MAC[:], a.HardwareAddr)
	case "none", "ppp":
	default:
		return nil, fmt.Errorf("interfaces of type %q are not supported", a.EncapType)
	}
	p.About.MTU = min(a.MTU, rings.MaxMTU, rings.Room(pool.Chunk())-header)

	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	p.Sock = fd
	if err := p.setUp(cfg); err != nil {
		p.ring.close()
		unix.Close(fd)
		return nil, err
	}
	p.Tx = sock.NewSender(fd, sendQueue, &p.Count)
	p.Dropped = p.dropped
	p.Release = func() {
		p.ring.close()
		p.group.leave()
	}
	return p, nil
}

const ethernetHeader = 14

// setUp makes the socket ready to join: bound, with its ring, deaf as yet.
func (p *Port) setUp(cfg Config) error {
	if err := sock.Attach(p.Sock, sock.DropAll()); err != nil {
		return err
	}
	// Both save work where they are known and change nothing where not.
	_ = unix.SetsockoptInt(p.Sock, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1)
	_ = unix.SetsockoptInt(p.Sock, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
	sock.Buffers(p.Sock, sendBuffer)
	n := cfg.Ring
	if n <= 0 {
		n = defaultRing
	}
	if err := p.ring.open(p.Sock, n, p.Pool.Chunk()); err != nil {
		return err
	}
	if err := unix.Bind(p.Sock, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_IP), Ifindex: p.About.Index}); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	return nil
}

// join enters the fan-out group with the given id, 0 for a new one, and
// returns its id.
func (p *Port) join(id int) (int, error) {
	mode := unix.PACKET_FANOUT_CBPF | unix.PACKET_FANOUT_FLAG_DEFRAG
	first := id == 0
	if first {
		mode |= unix.PACKET_FANOUT_FLAG_UNIQUEID
	}
	if err := unix.SetsockoptInt(p.Sock, unix.SOL_PACKET, unix.PACKET_FANOUT, id|mode<<16); err != nil {
		if errors.Is(err, unix.EINVAL) {
			return 0, fmt.Errorf("packet fan-out: %w (is the interface up?)", err)
		}
		return 0, fmt.Errorf("packet fan-out: %w", err)
	}
	if !first {
		return id, nil
	}
	v, err := unix.GetsockoptInt(p.Sock, unix.SOL_PACKET, unix.PACKET_FANOUT)
	if err != nil {
		return 0, fmt.Errorf("packet fan-out: %w", err)
	}
	return v & 0xffff, sock.AttachFanout(p.Sock, sock.CallID())
}

// listen lets packets in.
func (p *Port) listen() error {
	off := uint32(0)
	if p.About.Link == rings.LinkEthernet {
		off = ethernetHeader
	}
	return sock.Attach(p.Sock, sock.GRE(off, true, 0, 1))
}

// networkOrder returns v as the kernel wants it in a field in network order.
func networkOrder(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// Recv implements rings.Port. Packets longer than a frame has room for
// (reassembled fragments, or what segmentation offload put together) are
// dropped and counted as truncated.
func (p *Port) Recv(fs []*rings.Frame) (int, error) {
	p.Mu.Lock()
	defer p.Mu.Unlock()
	if p.Gone != nil {
		return 0, p.Gone
	}
	n, bytes := 0, 0
	for n < len(fs) {
		b, whole := p.ring.peek()
		if b == nil {
			break
		}
		if !whole || len(b) > rings.Room(p.Pool.Chunk()) {
			p.Count.RxTruncated.Add(1)
			p.ring.pop()
			continue
		}
		f := p.Pool.Get()
		if f == nil {
			p.Count.RxNoFrame.Add(1)
			break
		}
		f.Set(b)
		p.ring.pop()
		fs[n] = f
		n++
		bytes += len(b)
	}
	if n > 0 {
		p.Count.Rx(n, bytes)
		p.idle, p.noLink = 0, false
		return n, nil
	}
	if p.idle++; p.noLink || p.idle%checkEvery == 0 {
		p.check()
	}
	return 0, p.Gone
}

// check asks the socket whether its device is still there. Reading the error
// also clears it: until then poll(2) returns at once.
func (p *Port) check() {
	e, err := unix.GetsockoptInt(p.Sock, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && unix.Errno(e) == unix.ENETDOWN {
		p.noLink = true
	}
	if !p.noLink {
		return
	}
	sa, err := unix.Getsockname(p.Sock)
	if ll, ok := sa.(*unix.SockaddrLinklayer); err != nil || ok && ll.Ifindex != p.About.Index {
		p.Lost(unix.ENODEV)
	}
}

// dropped returns what the kernel has dropped because the ring was full;
// asking resets its count.
func (p *Port) dropped() uint64 {
	s, err := unix.GetsockoptTpacketStats(p.Sock, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0
	}
	return uint64(s.Drops)
}

func (g *group) leave() {
	if g.users.Add(-1) == 0 {
		unix.Close(g.silence)
	}
}
