// Package rawgre is a port on a raw IP socket for GRE (IP protocol 47). Its
// frames begin with the IPv4 header. The kernel routes, finds the next hop,
// fragments and reassembles; netfilter sees everything. In what is sent it
// fills in the header checksum, the total length, and an ID of zero.
//
// It is the backend that works everywhere (--io raw), and, beside AF_XDP, the
// side door by which packets come in that the kernel had to put together
// first.
package rawgre

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"xpptp/rings"
	"xpptp/rings/internal/sock"
)

// Config says what to open. Zero values take the defaults.
type Config struct {
	Local  netip.Addr // receive only what is sent to this IPv4 address; none: to any
	Device string     // receive and send only by this interface; empty: by any
	MTU    int        // what Info says, 1500; the kernel fragments what is too long for the way
	Batch  int        // preferred and largest burst, 64
}

const (
	defaultMTU   = 1500
	defaultBatch = 64
	sendQueue    = 256
	buffer       = 8 << 20

	ipHeaderLen   = 20
	ipTOS         = 1
	ipFlags       = 6
	ipTTL         = 8
	ipSource      = 12
	ipDestination = 16
	flagDF        = 0x40
)

// Port is an open raw socket.
type Port struct {
	sock.Port
	drops    uint32 // the kernel's count, as last read
	in       *sock.Batch
	armed    []*rings.Frame // to receive into
	fragment *fragmenter
}

// Open opens a port for one worker. Frames are received into pool.
func Open(cfg Config, pool *rings.Pool) (*Port, error) {
	ps, err := OpenGroup(cfg, []*rings.Pool{pool})
	if err != nil {
		return nil, err
	}
	return ps[0], nil
}

// OpenGroup opens one port a worker. Port i receives the calls whose ID has
// rings.Shard i, into pools[i]. Every socket sees every packet: with many
// workers another backend serves better.
func OpenGroup(cfg Config, pools []*rings.Pool) ([]*Port, error) {
	var ports []*Port
	for i, pool := range pools {
		p, err := open(cfg, pool, i, len(pools))
		if err != nil {
			for _, p := range ports {
				_ = p.Close()
			}
			return nil, fmt.Errorf("rings: open raw GRE socket: %w", err)
		}
		ports = append(ports, p)
	}
	return ports, nil
}

func open(cfg Config, pool *rings.Pool, shard, shards int) (p *Port, err error) {
	if cfg.MTU == 0 {
		cfg.MTU = defaultMTU
	}
	if cfg.Batch <= 0 {
		cfg.Batch = defaultBatch
	}
	if room := min(rings.MaxMTU, rings.Room(pool.Chunk())); cfg.MTU < ipHeaderLen || cfg.MTU > room {
		return nil, fmt.Errorf("MTU %d is not between %d and %d", cfg.MTU, ipHeaderLen, room)
	}
	name := cfg.Device
	if name == "" {
		name = "raw"
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_GRE)
	if err != nil {
		return nil, err
	}
	p = &Port{
		Port: sock.Port{
			Pool: pool,
			Sock: fd,
			About: rings.Info{
				Name: name, Backend: "raw", Queue: shard, Link: rings.LinkIP, MTU: cfg.MTU, Batch: cfg.Batch,
			},
		},
		in:    sock.NewBatch(cfg.Batch),
		armed: make([]*rings.Frame, 0, cfg.Batch),
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	if err := sock.Attach(fd, sock.GRE(0, false, shard, shards)); err != nil {
		return nil, err
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_HDRINCL, 1); err != nil {
		return nil, fmt.Errorf("IP_HDRINCL: %w", err)
	}
	if err := bind(fd, cfg); err != nil {
		return nil, err
	}
	sock.Buffers(fd, buffer)
	if p.fragment, err = newFragmenter(cfg); err != nil {
		return nil, err
	}
	p.Tx = sock.NewSenderTo(fd, sendQueue, &p.Count, destination)
	p.Refused, p.Dropped, p.Release = p.fragment.send, p.dropped, p.release
	return p, nil
}

func bind(fd int, cfg Config) error {
	if cfg.Device != "" {
		if err := unix.BindToDevice(fd, cfg.Device); err != nil {
			return fmt.Errorf("bind to %s: %w", cfg.Device, err)
		}
	}
	if cfg.Local.IsValid() {
		if !cfg.Local.Is4() {
			return fmt.Errorf("bind to %s: not an IPv4 address", cfg.Local)
		}
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: cfg.Local.As4()}); err != nil {
			return fmt.Errorf("bind to %s: %w", cfg.Local, err)
		}
	}
	return nil
}

// destination returns where a packet goes. What has no whole header the
// kernel refuses.
func destination(p []byte) (a [4]byte) {
	if len(p) >= ipHeaderLen {
		copy(a[:], p[ipDestination:])
	}
	return a
}

// Recv implements rings.Port. It returns at most the batch size at a time.
func (p *Port) Recv(fs []*rings.Frame) (int, error) {
	p.Mu.Lock()
	defer p.Mu.Unlock()
	if p.Gone != nil {
		return 0, p.Gone
	}
	want := min(len(fs), cap(p.armed))
	if want == 0 {
		return 0, nil
	}
	for len(p.armed) < want {
		f := p.Pool.Get()
		if f == nil {
			p.Count.RxNoFrame.Add(1)
			break
		}
		p.armed = append(p.armed, f)
	}
	if want = min(want, len(p.armed)); want == 0 {
		return 0, nil
	}
	room := rings.Room(p.Pool.Chunk())
	for i, f := range p.armed[:want] {
		p.in.Set(i, f.Chunk()[rings.UMEMHeadroom:rings.UMEMHeadroom+room])
	}
	got, e := p.in.Recv(p.Sock, want)
	if e != 0 {
		if e != unix.EAGAIN {
			p.Lost(e)
		}
		return 0, p.Gone
	}
	n, kept, bytes := 0, 0, 0
	for i, f := range p.armed {
		length, cut := 0, true
		if i < got {
			if length, cut = p.in.Len(i); cut {
				p.Count.RxTruncated.Add(1)
			}
		}
		if cut { // not used, or to be used again
			p.armed[kept] = f
			kept++
			continue
		}
		f.Reset(rings.UMEMHeadroom, length)
		fs[n] = f
		n++
		bytes += length
	}
	clear(p.armed[kept:])
	p.armed = p.armed[:kept]
	p.Count.Rx(n, bytes)
	return n, nil
}

// dropped returns what the kernel has dropped since the last time because the
// socket's buffer was full.
func (p *Port) dropped() uint64 {
	n, ok := sock.Drops(p.Sock)
	if !ok {
		return 0
	}
	d := n - p.drops
	p.drops = n
	return uint64(d)
}

func (p *Port) release() {
	for _, f := range p.armed {
		f.Free()
	}
	p.armed = p.armed[:0]
	p.fragment.close()
}

// fragmenter sends what is longer than the outgoing device's MTU, which the
// kernel refuses to take together with its IP header: by a socket where it
// writes the header itself. The header's source, TOS and TTL are kept.
type fragmenter struct {
	fd   int
	to   unix.SockaddrInet4
	oob  []byte
	info *unix.Inet4Pktinfo
	tos  *int32
	ttl  *int32
}

func newFragmenter(cfg Config) (*fragmenter, error) {
	fd, err := sock.Silence() // it must not receive
	if err != nil {
		return nil, err
	}
	f := &fragmenter{fd: fd}
	cfg.Local = netip.Addr{} // the source comes with each packet
	if err := bind(fd, cfg); err != nil {
		f.close()
		return nil, err
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT); err != nil {
		f.close()
		return nil, fmt.Errorf("IP_MTU_DISCOVER: %w", err)
	}
	sock.Buffers(fd, buffer)
	f.oob, f.info, f.tos, f.ttl = controls()
	return f, nil
}

// send sends a packet that was refused as too long, if it may be fragmented.
func (f *fragmenter) send(frame *rings.Frame, e unix.Errno) bool {
	p := frame.Data()
	if e != unix.EMSGSIZE || len(p) <= ipHeaderLen || p[0] != 0x45 || p[ipFlags]&flagDF != 0 {
		return false
	}
	f.to.Addr = destination(p)
	copy(f.info.Spec_dst[:], p[ipSource:])
	*f.tos, *f.ttl = int32(p[ipTOS]), int32(p[ipTTL])
	_, err := unix.SendmsgN(f.fd, p[ipHeaderLen:], f.oob, &f.to, unix.MSG_DONTWAIT)
	return err == nil
}

func (f *fragmenter) close() { unix.Close(f.fd) }
