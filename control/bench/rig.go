package bench

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"

	"xpptp/control/sock"
	"xpptp/engine/wire"
	"xpptp/rings"
	"xpptp/rings/mem"
	"xpptp/rings/rawgre"
	"xpptp/rings/tpacket"
	"xpptp/rings/xsk"
)

// Backends lists what Path can measure. mem is memory: the engine without a kernel.
var Backends = []string{"mem", "raw", "tpacket", "xsk"}

// Addresses of the rig. Nobody outside its namespaces sees them.
var (
	outsideAddr = netip.MustParseAddr("198.18.0.1") // RFC 2544: for benchmarks
	peerAddr    = netip.MustParseAddr("198.18.0.2")
	insideAddr  = netip.MustParseAddr("198.19.0.1")
	serverAddr  = netip.MustParseAddr("198.19.0.2") // what calls talk to
	callPrefix  = netip.MustParsePrefix("10.64.0.0/16")
)

// callAddr is the inside address of call i.
func callAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 64, byte(i >> 8), byte(i)}) }

// Hardware addresses of the rig's near ends, and of what they send to: nobody,
// so that the kernel at the far end drops it at once.
var (
	outsideMAC = [6]byte{2, 0, 0, 0, 18, 1}
	insideMAC  = [6]byte{2, 0, 0, 0, 19, 1}
	nobodyMAC  = [6]byte{2, 0, 0, 0, 0, 99}
	farMAC     = [6]byte{2, 0, 0, 0, 18, 2} // of the far end of the outside wire
)

// rig is an outside and an inside port of one backend, with a far end for each. What is sent at a
// far end arrives at the port; what the port sends ends there.
type rig struct {
	io       string
	calls    int
	pool     *rings.Pool
	out, in  rings.Port
	side     rings.Port // beside out; nil if the backend needs none
	farNS    *sock.Netns
	far, own feeder // of out, of in
	closers  []func() error
}

// feeder sends packets to a port, from one goroutine.
type feeder interface {
	send(ip []byte) error
	// flush sends what has not been sent, and disposes of what the port sent.
	flush() error
	// spent is what the last flush took of the thread's time: the kernel's work
	// to bring the packets to the port; 0 if there is no kernel.
	spent() time.Duration
}

const (
	rigFrames = 8192
	rigBlock  = 1024 // packets under way at a time: any backend's ring has room for them
	rigWarm   = 128  // of them are not counted
)

func newRig(io string, calls int) (r *rig, err error) {
	r = &rig{io: io, calls: calls}
	defer func() {
		if err != nil {
			r.close()
			r = nil
		}
	}()
	if io == "mem" {
		r.openMem()
		return r, nil
	}
	near, err := sock.NewNetns()
	if err != nil {
		return r, err
	}
	r.onClose(near.Close)
	far, err := sock.NewNetns()
	if err != nil {
		return r, err
	}
	r.onClose(far.Close)
	r.farNS = far
	if err := near.Do(func() error { return wireUp(far) }); err != nil {
		return r, err
	}
	err = far.Do(func() error {
		if r.far, err = r.newWire("out1", outsideMAC); err == nil {
			r.own, err = r.newWire("in1", insideMAC)
		}
		return err
	})
	if err != nil {
		return r, err
	}
	if err := near.Do(carriers); err != nil {
		return r, err
	}
	return r, near.Do(r.openPorts)
}

func (r *rig) onClose(f func() error) { r.closers = append(r.closers, f) }

func (r *rig) close() {
	for _, f := range slices.Backward(r.closers) {
		_ = f()
	}
}

// wireUp makes the two veth pairs, out0–out1 and in0–in1, from the namespace of
// the near ends.
func wireUp(far *sock.Netns) error {
	// Without addresses of its own making on the wire the kernel keeps quiet there.
	quiet := func() error {
		for _, key := range []string{"ipv6/conf/default/disable_ipv6=1", "ipv4/conf/all/rp_filter=0", "ipv4/conf/default/rp_filter=0"} {
			n := len(key) - 2
			_ = os.WriteFile("/proc/sys/net/"+key[:n], []byte(key[n+1:]), 0)
		}
		return nil
	}
	_ = quiet()
	_ = far.Do(quiet)
	for _, w := range []struct {
		near, far    string
		mac, peerMAC [6]byte
		local, peer  netip.Addr
	}{
		{"out0", "out1", outsideMAC, farMAC, outsideAddr, peerAddr},
		{"in0", "in1", insideMAC, [6]byte{2, 0, 0, 0, 19, 2}, insideAddr, serverAddr},
	} {
		err := netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: w.near, MTU: 1500, HardwareAddr: w.mac[:]},
			PeerName:  w.far, PeerNamespace: netlink.NsFd(far.FD()), PeerHardwareAddr: w.peerMAC[:],
		})
		if err != nil {
			return fmt.Errorf("veth pair: %w", err)
		}
		if err := far.Do(func() error { return linkUp(w.far) }); err != nil {
			return err
		}
		if err := linkUp(w.near); err != nil {
			return err
		}
		link, err := netlink.LinkByName(w.near)
		if err != nil {
			return err
		}
		a := &netlink.Addr{IPNet: &net.IPNet{IP: w.local.AsSlice(), Mask: net.CIDRMask(24, 32)}}
		if err := netlink.AddrAdd(link, a); err != nil {
			return fmt.Errorf("%s: address %s: %w", w.near, w.local, err)
		}
		err = netlink.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, IP: w.peer.AsSlice(), HardwareAddr: nobodyMAC[:], State: netlink.NUD_PERMANENT})
		if err != nil {
			return fmt.Errorf("%s: neighbour %s: %w", w.near, w.peer, err)
		}
	}
	if err := linkUp("lo"); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	// Packets for calls are for this host: else the raw backend would not see them.
	err = netlink.RouteAdd(&netlink.Route{
		LinkIndex: lo.Attrs().Index, Type: 2 /* RTN_LOCAL */, Table: 255, Scope: netlink.SCOPE_HOST,
		Dst: &net.IPNet{IP: callPrefix.Addr().AsSlice(), Mask: net.CIDRMask(callPrefix.Bits(), 32)},
	})
	if err != nil {
		return fmt.Errorf("route %s: %w", callPrefix, err)
	}
	return nil
}

func linkUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// carriers waits until both near ends carry packets.
func carriers() error {
	for range 500 {
		up := 0
		for _, name := range []string{"out0", "in0"} {
			link, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			if link.Attrs().OperState == netlink.OperUp {
				up++
			}
		}
		if up == 2 {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("veth pairs have no carrier")
}

// openPorts opens the near ends, as control does for a server.
func (r *rig) openPorts() error {
	if r.io == "xsk" {
		return r.openXSK()
	}
	r.pool = rings.NewPoolN(rigFrames, rings.ChunkSmall)
	open := func(name string) (p rings.Port, err error) {
		if r.io == "raw" {
			p, err = rawgre.Open(rawgre.Config{Device: name}, r.pool)
		} else {
			p, err = tpacket.Open(tpacket.Config{Interface: name}, r.pool)
		}
		if err == nil {
			r.onClose(p.Close)
		}
		return p, err
	}
	var err error
	if r.out, err = open("out0"); err != nil {
		return err
	}
	r.in, err = open("in0")
	return err
}

func (r *rig) openXSK() error {
	umem, err := xsk.NewUMEM(rigFrames, rings.ChunkSmall)
	if err != nil {
		return err
	}
	r.onClose(umem.Close)
	r.pool = rings.NewPool(umem.Arena(), 0, umem.Arena().Len())
	steer, err := xsk.NewSteering(xsk.SteeringConfig{AnyCall: true})
	if err != nil {
		return err
	}
	r.onClose(steer.Close)
	for i := range r.calls {
		if err := steer.AddAddress(callAddr(i)); err != nil {
			return err
		}
	}
	if err := steer.AddAddress(outsideAddr); err != nil {
		return err
	}
	for _, o := range []struct {
		name string
		port *rings.Port
	}{{"out0", &r.out}, {"in0", &r.in}} {
		dev, err := xsk.Open(xsk.Config{Interface: o.name, Queues: []int{0}}, steer, []*rings.Pool{r.pool})
		if err != nil {
			return err
		}
		r.onClose(dev.Close)
		*o.port = dev.Ports(0)[0]
	}
	side, err := rawgre.Open(rawgre.Config{}, r.pool)
	if err != nil {
		return err
	}
	r.onClose(side.Close)
	r.side = side
	return nil
}

func (r *rig) openMem() {
	r.pool = rings.NewPoolN(rigFrames, rings.ChunkSmall)
	open := func(mac [6]byte) (rings.Port, feeder) {
		near, far := mem.Pair(mem.Config{
			Link: rings.LinkEthernet, Ring: 2 * rigBlock, MACA: mac,
			PoolA: r.pool, PoolB: rings.NewPoolN(4*rigBlock, rings.ChunkSmall),
		})
		r.onClose(near.Close)
		r.onClose(far.Close)
		return near, &memFeeder{port: far, header: ethernetTo(mac)}
	}
	r.out, r.far = open(outsideMAC)
	r.in, r.own = open(insideMAC)
}

func ethernetTo(mac [6]byte) []byte {
	b := make([]byte, wire.EthernetLen)
	wire.PutEthernet(b, mac, nobodyMAC, wire.EtherTypeIPv4)
	return b
}

// wireFeeder sends on the far end of a veth pair. What arrives there is the
// kernel's, which drops it.
type wireFeeder struct {
	s      *sock.FrameSender
	header []byte
	frames [][]byte // to send
	n      int
	took   time.Duration // of the thread's time, by the last flush
}

func (r *rig) newWire(name string, mac [6]byte) (*wireFeeder, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	s, err := sock.NewFrameSender(link.Attrs().Index)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	r.onClose(s.Close)
	w := &wireFeeder{s: s, header: ethernetTo(mac)}
	for range rigBlock {
		w.frames = append(w.frames, make([]byte, 0, 2048))
	}
	return w, nil
}

func (w *wireFeeder) send(ip []byte) error {
	w.frames[w.n] = append(append(w.frames[w.n][:0], w.header...), ip...)
	w.n++
	return nil
}

func (w *wireFeeder) flush() error {
	from := sock.ThreadTime()
	for _, f := range w.frames[:w.n] {
		if err := w.s.Send(f); err != nil {
			return err
		}
	}
	w.took, w.n = sock.ThreadTime()-from, 0
	return nil
}

func (w *wireFeeder) spent() time.Duration { return w.took }

// unwanted makes what is sent from here on frames that no port takes, of an
// EtherType for experiments (IEEE 802), or ends that.
func (w *wireFeeder) unwanted(yes bool) {
	t := uint16(wire.EtherTypeIPv4)
	if yes {
		t = 0x88b5
	}
	w.header[12], w.header[13] = byte(t>>8), byte(t)
}

// memFeeder is the far end of a pair of ports in memory.
type memFeeder struct {
	port   *mem.Port
	header []byte
	fs     [64]*rings.Frame
	n      int
}

func (m *memFeeder) send(ip []byte) error {
	f := m.port.Pool().Get()
	if f == nil || !f.Set(ip) {
		return fmt.Errorf("mem: no frame for %d bytes", len(ip))
	}
	copy(f.Push(len(m.header)), m.header)
	m.fs[m.n] = f
	if m.n++; m.n == len(m.fs) {
		return m.push()
	}
	return nil
}

func (*memFeeder) spent() time.Duration { return 0 }

func (m *memFeeder) push() error {
	n, err := m.port.Send(m.fs[:m.n])
	for _, f := range m.fs[n:m.n] {
		f.Free()
	}
	m.n = 0
	if err != nil {
		return err
	}
	return m.port.Flush()
}

func (m *memFeeder) flush() error {
	err := m.push()
	for {
		n, rerr := m.port.Recv(m.fs[:])
		for _, f := range m.fs[:n] {
			f.Free()
		}
		if n == 0 || rerr != nil {
			return err
		}
	}
}

// ipPort makes a port of IP packets of one with Ethernet frames: the inside
// port of a worker. The next hop is always the same.
type ipPort struct {
	rings.Port
	header []byte
}

func insidePort(p rings.Port) rings.Port {
	if p.Info().Link == rings.LinkIP {
		return p
	}
	return &ipPort{p, linkHeader(p)}
}

// linkHeader is what packets are sent with that leave by p; none if p's packets have none.
func linkHeader(p rings.Port) []byte {
	if p.Info().Link == rings.LinkIP {
		return nil
	}
	b := make([]byte, wire.EthernetLen)
	wire.PutEthernet(b, nobodyMAC, p.Info().MAC, wire.EtherTypeIPv4)
	return b
}

// Info implements rings.Port.
func (p *ipPort) Info() rings.Info {
	i := p.Port.Info()
	i.Link = rings.LinkIP
	return i
}

// Recv implements rings.Port.
func (p *ipPort) Recv(fs []*rings.Frame) (int, error) {
	n, err := p.Port.Recv(fs)
	for _, f := range fs[:n] {
		f.Pull(len(p.header))
	}
	return n, err
}

// Send implements rings.Port. Frames that it does not take have the header, too.
func (p *ipPort) Send(fs []*rings.Frame) (int, error) {
	for _, f := range fs {
		copy(f.Push(len(p.header)), p.header)
	}
	return p.Port.Send(fs)
}
