package lan_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"
	"time"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"xpptp/rings"
	"xpptp/rings/lab"
	"xpptp/rings/lan"
	"xpptp/rings/nexthop"
	"xpptp/rings/owner"
	"xpptp/rings/ringtest"
	"xpptp/rings/tun"
	"xpptp/rings/xsk"
)

const patience = 30 * time.Second

// bench is a router's namespace with the port on rt0 (10.77.0.1, fd77::1), and
// a host's, a kernel's, with rt1 (10.77.0.2, fd77::2). Whatever the port
// receives is sent back by it, as a call at the other end of a reflecting
// subscriber would.
type bench struct {
	t         *testing.T
	near, far *ringtest.Iface
	owners    *owner.Map
	pool      *rings.Pool
	port      *lan.Port
	tap       atomic.Pointer[func(p []byte)] // sees what is received
	queue     chan []byte                    // packets to send
	idle      chan struct{}
}

func do(t testing.TB, ns *ringtest.NS, what string, f func() error) {
	t.Helper()
	ns.Do(func() {
		if err := f(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	})
}

func newBench(t *testing.T) *bench {
	t.Helper()
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skipf("needs TUN devices: %v", err)
	}
	b := &bench{t: t, queue: make(chan []byte, 64), idle: make(chan struct{})}
	router, host := ringtest.NewNS(t), ringtest.NewNS(t)
	for _, ns := range []*ringtest.NS{router, host} {
		ns.Do(func() { ns.Sysctl("net/ipv6/conf/default/disable_ipv6", "0") })
	}
	b.near, b.far = ringtest.NewVeth(t, router, host, 1500)
	for i, end := range []*ringtest.Iface{b.near, b.far} {
		do(t, end.NS, "set up "+end.Name, func() error {
			// What a NIC would do on the wire the veth pair leaves undone.
			e, err := ethtool.NewEthtool()
			if err != nil {
				return err
			}
			defer e.Close()
			for _, feature := range []string{"tx-checksum-ip-generic", "tx-vlan-hw-insert", "rx-vlan-hw-parse"} {
				if err := e.Change(end.Name, map[string]bool{feature: false}); err != nil {
					return fmt.Errorf("%s: %w", feature, err)
				}
			}
			return addAddr(end.Name, fmt.Sprintf("fd77::%d/64", i+1))
		})
	}
	router.Do(func() { // neighbours are learnt
		_ = netlink.NeighDel(&netlink.Neigh{LinkIndex: b.near.Index, IP: b.far.IP[:]})
		for _, kv := range [][2]string{{"retrans_time_ms", "100"}, {"base_reachable_time_ms", "300"}, {"delay_first_probe_time", "0"}} {
			router.Sysctl("net/ipv4/neigh/rt0/"+kv[0], kv[1])
		}
	})
	host.Do(func() { _ = netlink.NeighDel(&netlink.Neigh{LinkIndex: b.far.Index, IP: b.near.IP[:]}) })

	var err error
	if b.owners, err = owner.New(); errors.Is(err, unix.EPERM) {
		t.Skipf("needs the right to load XDP programs: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.owners.Close() })
	umem, err := xsk.NewUMEM(1024, rings.ChunkSmall)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = umem.Close() })
	b.pool = rings.NewPool(umem.Arena(), 0, umem.Arena().Len())
	do(t, router, "open", func() error {
		dev, err := tun.Create(tun.Config{Name: "rt-tun", MTU: 1400})
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = dev.Close() })
		up, err := dev.Port(0, b.pool)
		if err != nil {
			return err
		}
		if err := dev.SetUp(); err != nil {
			return err
		}
		for _, p := range []string{"10.66.0.0/16", "10.77.0.128/25", "2001:db8::/64", "fd77::9:0/112"} {
			if err := dev.AddRoute(netip.MustParsePrefix(p), netip.Addr{}); err != nil {
				return err
			}
		}
		nic, err := xsk.Open(xsk.Config{Interface: b.near.Name, Frames: 256}, xsk.NewInside(xsk.InsideConfig{Owners: b.owners, Workers: 1, Room: rings.Room(rings.ChunkSmall), Device: dev.Index()}), []*rings.Pool{b.pool})
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = nic.Close() })
		hops, err := nexthop.New(nexthop.Config{Interfaces: []string{b.near.Name}, Interval: 50 * time.Millisecond})
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = hops.Close() })
		b.port, err = lan.New(lan.Config{NIC: []rings.Port{nic.Ports(0)[0]}, Host: up, Hops: hops})
		return err
	})
	stop := make(chan struct{})
	go b.work(stop)
	t.Cleanup(func() {
		close(stop)
		<-b.idle
		if err := errors.Join(b.port.Close(), b.port.Close()); err != nil {
			t.Error(err)
		}
		if b.pool.Free() != b.pool.Size() {
			t.Errorf("%d of %d frames are back", b.pool.Free(), b.pool.Size())
		}
	})
	return b
}

func addAddr(iface, prefix string) error {
	l, err := netlink.LinkByName(iface)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(prefix)
	if err != nil {
		return err
	}
	if a.IP.To4() == nil {
		a.Flags = unix.IFA_F_NODAD
	}
	return netlink.AddrReplace(l, a)
}

// work is the worker: what comes in goes back, and waits in poll(2) if there
// is nothing.
func (b *bench) work(stop chan struct{}) {
	defer close(b.idle)
	back := lab.Reflect(1500, 64)
	fs := make([]*rings.Frame, 32)
	fds := []unix.PollFd{{Fd: int32(b.port.FD()), Events: unix.POLLIN}}
	for {
		select {
		case <-stop:
			_ = back.Close()
			return
		case p := <-b.queue:
			f := b.pool.Get()
			f.Set(p)
			_, _ = b.port.Send([]*rings.Frame{f})
			_ = b.port.Flush()
			continue
		default:
		}
		n, err := b.port.Recv(fs)
		if err != nil {
			b.t.Error(err)
			return
		}
		if n == 0 {
			_ = b.port.Flush()
			_, _ = unix.Poll(fds, 5)
			continue
		}
		for _, f := range fs[:n] {
			if tap := b.tap.Load(); tap != nil {
				(*tap)(f.Data())
			}
		}
		_, _ = back.Send(fs[:n])
		n, _ = back.Recv(fs)
		k, _ := b.port.Send(fs[:n])
		for _, f := range fs[k:n] {
			f.Free()
		}
		_ = b.port.Flush()
	}
}

func (b *bench) own(p string) {
	b.t.Helper()
	if err := b.owners.Set(netip.MustParsePrefix(p), 0); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) hostRoute(dst, gw string) {
	b.t.Helper()
	do(b.t, b.far.NS, "route to "+dst, func() error {
		_, n, err := net.ParseCIDR(dst)
		if err != nil {
			return err
		}
		return netlink.RouteReplace(&netlink.Route{Dst: n, Gw: net.ParseIP(gw)})
	})
}

// echo sends to an address from a namespace till it comes back; it reports
// whether it did.
func echo(t *testing.T, ns *ringtest.NS, to string, size int, limit time.Duration) bool {
	t.Helper()
	var c net.Conn
	do(t, ns, "dial "+to, func() (err error) {
		c, err = net.Dial("udp", net.JoinHostPort(to, "7777"))
		return err
	})
	defer c.Close()
	out, in := bytes.Repeat([]byte{7}, size), make([]byte, 2000)
	for end := time.Now().Add(limit); time.Now().Before(end); {
		_, _ = c.Write(out)
		_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if n, err := c.Read(in); err == nil && bytes.Equal(in[:n], out) {
			return true
		}
	}
	return false
}

func (b *bench) echoes(to string, size int) {
	b.t.Helper()
	if !echo(b.t, b.far.NS, to, size, patience) {
		b.t.Fatalf("nothing comes back from %s", to)
	}
}

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// fast waits till packets both ways pass by the kernel: till nothing moves at
// the TUN device any more.
func (b *bench) fast(to string) {
	b.t.Helper()
	until(b.t, "packets of "+to+" to pass by the kernel", func() bool {
		before := b.port.Parts()
		b.echoes(to, 100)
		after := b.port.Parts()
		up := after[1].RxPackets + after[1].TxPackets - before[1].RxPackets - before[1].TxPackets
		return up == 0 && after[0].RxPackets > before[0].RxPackets
	})
	if c := b.port.Parts()[0].Copies; c != 0 {
		b.t.Errorf("%d frames were copied", c)
	}
}

// neighbour is what the host believes of an address.
func (b *bench) neighbour(addr string) (n netlink.Neigh, known bool) {
	b.t.Helper()
	do(b.t, b.far.NS, "neighbours", func() error {
		all, err := netlink.NeighList(b.far.Index, 0)
		for _, e := range all {
			if e.IP.Equal(net.ParseIP(addr)) {
				n, known = e, true
			}
		}
		return err
	})
	return n, known
}

// Behind a router, and in the interface's own network, where the addresses are
// answered for; IPv4 and IPv6.
func TestBothWays(t *testing.T) {
	b := newBench(t)
	b.hostRoute("10.66.0.0/16", "10.77.0.1")
	b.hostRoute("2001:db8::/64", "fd77::1")
	for _, p := range []string{"10.66.0.9/32", "10.77.0.200/32", "2001:db8::9/128", "fd77::9:1/128"} {
		b.own(p)
	}
	for _, to := range []string{"10.66.0.9", "10.77.0.200", "2001:db8::9", "fd77::9:1"} {
		var hops atomic.Int32
		tap := func(p []byte) {
			if p[0]>>4 == 6 && p[6] == unix.IPPROTO_UDP {
				hops.Store(int32(p[7]))
			} else if p[9] == unix.IPPROTO_UDP {
				hops.Store(int32(p[8]))
			}
		}
		b.tap.Store(&tap)
		for _, size := range []int{1, 100, 1400} {
			b.echoes(to, size)
		}
		b.fast(to)
		if n := hops.Load(); n != 63 {
			t.Errorf("%s: %d hops are left, want 63", to, n)
		}
	}
	for _, a := range []string{"10.77.0.200", "fd77::9:1"} {
		if n, ok := b.neighbour(a); !ok || !bytes.Equal(n.HardwareAddr, b.near.MAC[:]) {
			t.Errorf("%s is at %v for the host, want % x", a, n.HardwareAddr, b.near.MAC)
		}
	}
	// The call ends: nobody answers for it.
	if err := b.owners.Delete(netip.MustParsePrefix("10.77.0.200/32")); err != nil {
		t.Fatal(err)
	}
	do(t, b.far.NS, "forget", func() error {
		return netlink.NeighDel(&netlink.Neigh{LinkIndex: b.far.Index, IP: net.IPv4(10, 77, 0, 200)})
	})
	echo(t, b.far.NS, "10.77.0.200", 10, 200*time.Millisecond)
	until(t, "the neighbour to be silent", func() bool {
		n, ok := b.neighbour("10.77.0.200")
		return ok && n.State == netlink.NUD_FAILED
	})
}

// The kernel's own traffic, and what only it can deal with.
func TestThroughTheKernel(t *testing.T) {
	b := newBench(t)
	b.own("10.66.0.9/32")
	b.hostRoute("10.66.0.0/16", "10.77.0.1")
	// The router's own processes reach the subscriber, who is reached by others too.
	if !echo(t, b.near.NS, "10.66.0.9", 100, patience) {
		t.Fatal("the host itself does not reach the subscriber")
	}
	b.fast("10.66.0.9")

	// From the subscriber to the router itself, and with a TTL that ends here:
	// the kernel answers.
	replies := make(chan []byte, 64)
	tap := func(p []byte) {
		select {
		case replies <- bytes.Clone(p):
		default:
		}
	}
	b.tap.Store(&tap)
	expect := func(what string, packet []byte, ok func(p []byte) bool) {
		t.Helper()
		until(t, what, func() bool {
			b.queue <- bytes.Clone(packet)
			for {
				select {
				case p := <-replies:
					if ok(p) {
						return true
					}
				case <-time.After(50 * time.Millisecond):
					return false
				}
			}
		})
	}
	b.near.NS.Do(func() {
		b.near.NS.Sysctl("net/ipv4/conf/rt-tun/forwarding", "1")
		b.near.NS.Sysctl("net/ipv4/icmp_ratelimit", "0")
	})
	ping := func(dst [4]byte, ttl byte, size int) []byte {
		p := make([]byte, size)
		copy(p, []byte{0x45, 0, byte(size >> 8), byte(size), 0, 1, 0x40, 0, ttl, 1, 0, 0, 10, 66, 0, 9, dst[0], dst[1], dst[2], dst[3], 8, 0, 0xf7, 0xff})
		ringtest.Seal(p)
		return p
	}
	from := func(typ byte, src [4]byte) func(p []byte) bool {
		return func(p []byte) bool { return p[9] == 1 && p[20] == typ && bytes.Equal(p[12:16], src[:]) }
	}
	expect("the router's echo reply", ping(b.near.IP, 64, 28), from(0, b.near.IP))
	expect("the host's echo reply", ping(b.far.IP, 64, 28), from(0, b.far.IP))
	expect("the kernel's time exceeded", ping(b.far.IP, 1, 28), func(p []byte) bool { return p[9] == 1 && p[20] == 11 })
	do(t, b.near.NS, "MTU", func() error {
		return netlink.LinkSetMTU(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: b.near.Index}}, 1300)
	})
	expect("the kernel's packet too big", ping(b.far.IP, 64, 1390), func(p []byte) bool { return p[9] == 1 && p[20] == 3 && p[21] == 4 })
	// A neighbour that does not answer.
	expect("the kernel's host unreachable", ping([4]byte{10, 77, 0, 99}, 64, 28), func(p []byte) bool { return p[9] == 1 && p[20] == 3 && p[21] == 1 })
	expect("the kernel's network unreachable", ping([4]byte{198, 51, 100, 1}, 64, 28), func(p []byte) bool { return p[9] == 1 && p[20] == 3 && p[21] == 0 })
}

// A network behind a subscriber is reached where the kernel's routes say so:
// what else lies within is left alone.
func TestNetworkBehind(t *testing.T) {
	b := newBench(t)
	b.near.NS.Do(func() { b.near.NS.Sysctl("net/ipv4/conf/rt0/forwarding", "1") })
	b.own("10.0.0.0/8")
	b.hostRoute("10.66.0.0/16", "10.77.0.1")
	b.hostRoute("10.88.0.0/16", "10.77.0.1")
	b.fast("10.66.8.77")
	// The router itself.
	do(t, b.near.NS, "listen", func() error {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: b.near.IP[:], Port: 7777})
		if err != nil {
			return err
		}
		t.Cleanup(func() { c.Close() })
		go func() {
			p := make([]byte, 2000)
			for {
				n, from, err := c.ReadFromUDP(p)
				if err != nil {
					return
				}
				_, _ = c.WriteToUDP(p[:n], from)
			}
		}()
		return nil
	})
	before := b.port.Stats().RxPackets
	b.echoes("10.77.0.1", 100)
	// An address of the LAN that nobody has, and one that no route leads to.
	for _, to := range []string{"10.77.0.99", "10.88.0.1"} {
		if echo(t, b.far.NS, to, 10, 300*time.Millisecond) {
			t.Errorf("%s answers", to)
		}
	}
	if n := b.port.Stats().RxPackets - before; n != 0 {
		t.Errorf("%d packets came to the port", n)
	}
	// Without forwarding the kernel has the last word.
	b.near.NS.Do(func() { b.near.NS.Sysctl("net/ipv4/conf/rt0/forwarding", "0") })
	if echo(t, b.far.NS, "10.66.8.77", 10, 300*time.Millisecond) {
		t.Error("forwarded though forwarding is off")
	}
}

// A neighbour gets another Ethernet address, the link goes down and comes back.
func TestChanges(t *testing.T) {
	b := newBench(t)
	b.own("10.77.0.200/32")
	b.fast("10.77.0.200")
	do(t, b.far.NS, "MAC", func() error {
		return netlink.LinkSetHardwareAddr(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: b.far.Index}}, []byte{2, 0, 0, 0, 0x77, 0x55})
	})
	do(t, b.near.NS, "neighbour", func() error {
		return netlink.NeighSet(&netlink.Neigh{LinkIndex: b.near.Index, IP: b.far.IP[:], HardwareAddr: []byte{2, 0, 0, 0, 0x77, 0x55}, State: netlink.NUD_REACHABLE})
	})
	b.fast("10.77.0.200")
	b.near.Down(t)
	b.near.Up(t)
	b.fast("10.77.0.200")
}

// Tags are in the frames: hand-made ones, since not every kernel has VLANs.
func TestTagged(t *testing.T) {
	b := newBench(t)
	b.own("10.77.0.200/32")
	seen := make(chan []byte, 64)
	tap := func(p []byte) {
		select {
		case seen <- bytes.Clone(p):
		default:
		}
	}
	b.tap.Store(&tap)
	w := ringtest.NewWire(t, b.far)
	header := func(dst [6]byte) []byte {
		return append(append(append([]byte{}, dst[:]...), b.far.MAC[:]...), 0x88, 0xa8, 0, 9, 0x81, 0, 0, 5)
	}
	packet := ringtest.Packet(b.far.IP, [4]byte{10, 77, 0, 200}, 1, 77, 64)
	until(t, "the packet", func() bool {
		if err := w.Send(append(append(header(b.near.MAC), 8, 0), packet...)); err != nil {
			t.Fatal(err)
		}
		for {
			select {
			case p := <-seen:
				if n, ok := ringtest.Seq(p); ok && n == 77 && len(p) == len(packet) {
					return true
				}
			case <-time.After(50 * time.Millisecond):
				return false
			}
		}
	})
	request := append(header([6]byte{255, 255, 255, 255, 255, 255}), 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	request = append(append(append(request, b.far.MAC[:]...), 10, 77, 0, 2, 0, 0, 0, 0, 0, 0), 10, 77, 0, 200)
	// The far kernel has taken the outer tag off when it shows the frame.
	want := append(append(append([]byte{}, b.far.MAC[:]...), b.near.MAC[:]...), 0x81, 0, 0, 5, 8, 6, 0, 1, 8, 0, 6, 4, 0, 2)
	want = append(append(want, b.near.MAC[:]...), 10, 77, 0, 200)
	until(t, "the answer", func() bool {
		if err := w.Send(request); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
		for p := w.Recv(); p != nil; p = w.Recv() {
			if bytes.HasPrefix(p, want) {
				return true
			}
		}
		return false
	})
}

// A scan of many destinations keeps neither the packets nor the kernel busy.
func TestScan(t *testing.T) {
	b := newBench(t)
	b.own("10.77.0.200/32")
	b.fast("10.77.0.200")
	for i := range 20000 {
		p := ringtest.Packet([4]byte{10, 77, 0, 200}, [4]byte{10, 99, byte(i >> 8), byte(i)}, 1, 1, 64)
		b.queue <- p
	}
	b.fast("10.77.0.200")
}

// ping is a program that others wrote.
func TestPing(t *testing.T) {
	ping, err := exec.LookPath("ping")
	if err != nil {
		t.Skipf("needs ping: %v", err)
	}
	b := newBench(t)
	b.own("10.77.0.200/32")
	b.own("fd77::9:1/128")
	for _, to := range []string{"10.77.0.200", "fd77::9:1"} {
		var out []byte
		b.far.NS.Do(func() { out, err = exec.Command(ping, "-c", "3", "-i", "0.2", "-w", "20", to).CombinedOutput() })
		if err != nil {
			t.Errorf("ping %s: %v\n%s", to, err, out)
		}
	}
}
