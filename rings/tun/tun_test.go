package tun_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"xpptp/rings"
	"xpptp/rings/ringtest"
	"xpptp/rings/tun"
)

// create makes a device in ns, set up; it skips the test where there is none.
func create(t *testing.T, ns *ringtest.NS, cfg tun.Config) *tun.Device {
	t.Helper()
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skipf("needs TUN devices: %v", err)
	}
	var d *tun.Device
	ns.Do(func() {
		var err error
		if d, err = tun.Create(cfg); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close() })
		if err := d.SetUp(); err != nil {
			t.Fatal(err)
		}
	})
	return d
}

func open(t *testing.T, d *tun.Device, queue int, pool *rings.Pool) *tun.Port {
	t.Helper()
	p, err := d.Port(queue, pool)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func TestConformance(t *testing.T) {
	ringtest.Run(t, func(t *testing.T) *ringtest.Bench {
		ns := ringtest.NewNS(t)
		cfg := tun.Config{Name: "rt-tun", MTU: 1500}
		d := create(t, ns, cfg)
		pool := rings.NewPoolN(512, rings.ChunkSmall)
		i := &ringtest.Iface{NS: ns, Name: d.Name(), Index: d.Index(), IP: [4]byte{10, 77, 1, 1}}
		w := ringtest.NewWire(t, i)
		return &ringtest.Bench{
			Port: open(t, d, 0, pool), Pool: pool, Ring: 256,
			Inject: func(p []byte) error { return w.Send(p) }, Capture: func() []byte { return w.Recv() },
			Local: [4]byte{10, 77, 1, 1}, Remote: [4]byte{10, 77, 1, 2},
			Down: func() { i.Down(t) }, Up: func() { i.Up(t) },
			Remove: func() { i.Remove(t) },
			Reopen: func() (rings.Port, error) {
				_ = d.Close()
				d = create(t, ns, cfg)
				i.Up(t)
				w = ringtest.NewWire(t, i)
				return d.Port(0, pool)
			},
		}
	})
}

// A small receive buffer in front of a large packet: the rest comes later.
func TestSuperFrameInPieces(t *testing.T) {
	ns := ringtest.NewNS(t)
	pool := rings.NewPoolN(8, rings.ChunkSmall)
	d := create(t, ns, tun.Config{MTU: 1400})
	p := open(t, d, 0, pool)
	addr(t, d, "10.77.1.1/24", "")
	const total, size = 20_000, 1300
	ns.Do(func() {
		c, err := net.Dial("udp4", "10.77.1.2:9")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		rc, _ := c.(*net.UDPConn).SyscallConn()
		if err := rc.Control(func(fd uintptr) {
			if err := unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, size); err != nil {
				t.Skipf("needs UDP segmentation offload: %v", err)
			}
		}); err != nil {
			t.Fatal(err)
		}
		data := make([]byte, total)
		for i := range data {
			data[i] = byte(i * 31)
		}
		if _, err := c.Write(data); err != nil {
			t.Fatal(err)
		}
	})
	var got []byte
	fs := make([]*rings.Frame, 3)
	packets := 0
	for end := time.Now().Add(5 * time.Second); len(got) < total && time.Now().Before(end); {
		n, err := p.Recv(fs)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range fs[:n] {
			d := f.Data()
			if l := int(binary.BigEndian.Uint16(d[2:])); l != f.Len() || l > 1400 {
				t.Errorf("a packet of %d bytes says %d", f.Len(), l)
			}
			got = append(got, d[28:]...)
			packets++
			f.Free()
		}
	}
	if len(got) != total || packets != (total+size-1)/size {
		t.Fatalf("received %d bytes in %d packets, want %d in %d", len(got), packets, total, (total+size-1)/size)
	}
	for i := range got {
		if got[i] != byte(i*31) {
			t.Fatalf("byte %d came out changed", i)
		}
	}
	if pool.Free() != pool.Size() {
		t.Error("a frame is missing")
	}
}

// Two kernels talk TCP through two devices with us in between: they check
// every checksum.
func TestTCP(t *testing.T) {
	for _, v := range []struct{ name, a, b, pa, pb string }{
		{"IPv4", "10.77.1.1", "10.77.2.1", "10.77.1.1/32", "10.77.2.1/32"},
		{"IPv6", "fd77:1::1", "fd77:2::1", "fd77:1::1/128", "fd77:2::1/128"},
	} {
		t.Run(v.name, func(t *testing.T) {
			nsA, nsB := ringtest.NewNS(t), ringtest.NewNS(t)
			end := func(ns *ringtest.NS, local, peer string) *tun.Port {
				ns.Do(func() { ns.Sysctl("net/ipv6/conf/default/disable_ipv6", "0") })
				d := create(t, ns, tun.Config{MTU: 1400})
				addr(t, d, local, "")
				if err := d.AddRoute(netip.MustParsePrefix(peer), netip.Addr{}); err != nil {
					t.Fatal(err)
				}
				return open(t, d, 0, rings.NewPoolN(256, rings.ChunkSmall))
			}
			pa, pb := end(nsA, v.pa, v.pb), end(nsB, v.pb, v.pa)
			stop := make(chan struct{})
			var wg sync.WaitGroup
			defer wg.Wait()
			defer close(stop)
			wg.Go(func() { // one goroutine is the owner of both ports
				fs := make([]*rings.Frame, 64)
				for {
					select {
					case <-stop:
						return
					default:
					}
					moved := 0
					for _, d := range [][2]*tun.Port{{pa, pb}, {pb, pa}} {
						n, err := d[0].Recv(fs)
						if err != nil {
							t.Error(err)
							return
						}
						k, err := d[1].Send(fs[:n])
						if err != nil {
							t.Error(err)
						}
						for _, f := range fs[k:n] {
							f.Free()
						}
						moved += n
					}
					if moved == 0 {
						time.Sleep(50 * time.Microsecond)
					}
				}
			})
			var l net.Listener
			nsB.Do(func() {
				var err error
				if l, err = net.Listen("tcp", net.JoinHostPort(v.b, "7777")); err != nil {
					t.Fatal(err)
				}
			})
			defer l.Close()
			const total = 8 << 20
			sums := make(chan [32]byte, 1)
			wg.Go(func() {
				c, err := l.Accept()
				if err != nil {
					t.Error(err)
					close(sums)
					return
				}
				defer c.Close()
				h := sha256.New()
				if _, err := io.Copy(h, c); err != nil {
					t.Error(err)
				}
				sums <- [32]byte(h.Sum(nil))
			})
			var c net.Conn
			nsA.Do(func() {
				var err error
				if c, err = net.DialTimeout("tcp", net.JoinHostPort(v.b, "7777"), 5*time.Second); err != nil {
					t.Fatal(err)
				}
			})
			data := make([]byte, total)
			for i := range data {
				data[i] = byte(i ^ i>>8 ^ i>>16)
			}
			if _, err := c.Write(data); err != nil {
				t.Fatal(err)
			}
			c.Close()
			if got := <-sums; got != sha256.Sum256(data) {
				t.Error("the data arrived changed")
			}
			for name, p := range map[string]*tun.Port{"near": pa, "far": pb} {
				if s := p.Stats(); s.RxDropped+s.RxTruncated+s.TxDropped != 0 {
					t.Errorf("%s port: %+v", name, s)
				}
			}
			if s := pb.Stats(); s.Kicks >= s.TxPackets {
				t.Errorf("%d packets crossed in %d calls: none were joined", s.TxPackets, s.Kicks)
			}
		})
	}
}

func addr(t *testing.T, d *tun.Device, prefix, peer string) {
	t.Helper()
	var p netip.Addr
	if peer != "" {
		p = netip.MustParseAddr(peer)
	}
	for range 2 { // a second time is not an error
		if err := d.AddAddr(netip.MustParsePrefix(prefix), p); err != nil {
			t.Fatal(err)
		}
	}
}

func TestQueues(t *testing.T) {
	ns := ringtest.NewNS(t)
	d := create(t, ns, tun.Config{Queues: 2})
	pool := rings.NewPoolN(64, rings.ChunkSmall)
	a, b := open(t, d, 0, pool), open(t, d, 1, pool)
	if a.Info().Queue != 0 || b.Info().Queue != 1 || a.Info().Index != b.Info().Index {
		t.Errorf("%+v and %+v", a.Info(), b.Info())
	}
	for _, q := range []int{-1, 0, 1, 2} {
		if _, err := d.Port(q, pool); err == nil {
			t.Errorf("queue %d was opened; it is taken or not there", q)
		}
	}
	// The kernel answers a flow on the queue that its last packet came by.
	addr(t, d, "10.77.1.1/24", "")
	for i, p := range []*tun.Port{a, b, a} {
		other := []*tun.Port{b, a, b}[i]
		drain(t, p)
		for range 2 { // it learns after it has answered
			drain(t, p)
			drain(t, other)
			f := pool.Get()
			f.Set(syn(uint16(1000 + i)))
			if n, err := p.Send([]*rings.Frame{f}); n != 1 || err != nil {
				t.Fatalf("Send: %d, %v", n, err)
			}
		}
		if n := drain(t, p); n != 1 {
			t.Errorf("round %d: %d answers on the queue of the question, %d on the other", i, n, drain(t, other))
		}
	}
}

// syn is a TCP SYN to a port that nobody listens at: a reset comes back.
func syn(port uint16) []byte {
	p := make([]byte, 40)
	copy(p, []byte{0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 77, 1, 2, 10, 77, 1, 1})
	ringtest.Seal(p)
	binary.BigEndian.PutUint16(p[20:], port)
	binary.BigEndian.PutUint16(p[22:], 9)
	p[32], p[33] = 5<<4, 2
	var s uint32 = 6 + 20
	for k := 12; k < 40; k += 2 {
		s += uint32(binary.BigEndian.Uint16(p[k:]))
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	binary.BigEndian.PutUint16(p[36:], ^uint16(s))
	return p
}

// drain returns how many TCP packets waited.
func drain(t *testing.T, p *tun.Port) (tcp int) {
	t.Helper()
	fs := make([]*rings.Frame, 8)
	n, err := p.Recv(fs)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fs[:n] {
		if f.Data()[9] == 6 {
			tcp++
		}
		f.Free()
	}
	return tcp
}

func TestSend(t *testing.T) {
	ns := ringtest.NewNS(t)
	d := create(t, ns, tun.Config{})
	pool := rings.NewPoolN(8, rings.ChunkSmall)
	p := open(t, d, 0, pool)
	var fs []*rings.Frame
	for _, b := range [][]byte{ringtest.Packet([4]byte{1}, [4]byte{2}, 1, 1, 100), bytes.Repeat([]byte{0xff}, 50), {}, ringtest.Packet([4]byte{1}, [4]byte{2}, 1, 2, 100)} {
		f := pool.Get()
		f.Set(b)
		fs = append(fs, f)
	}
	if n, err := p.Send(fs); n != 4 || err != nil {
		t.Fatalf("Send: %d, %v", n, err)
	}
	if s := p.Stats(); s.TxPackets != 2 || s.TxDropped != 2 || s.TxBytes != 200 {
		t.Errorf("counted %+v, want 2 sent and 2 dropped: what is no IP packet the kernel refuses", s)
	}
}

func TestAddressesAndRoutes(t *testing.T) {
	ns := ringtest.NewNS(t)
	ns.Do(func() { ns.Sysctl("net/ipv6/conf/default/disable_ipv6", "0") })
	d := create(t, ns, tun.Config{Name: "rt-addr", MTU: 1396})
	if d.Name() != "rt-addr" {
		t.Errorf("named %q", d.Name())
	}
	link := func() (l netlink.Link) {
		ns.Do(func() {
			var err error
			if l, err = netlink.LinkByName("rt-addr"); err != nil {
				t.Fatal(err)
			}
		})
		return l
	}
	if got := link().Attrs(); got.MTU != 1396 || got.Index != d.Index() || got.Flags&net.FlagUp == 0 {
		t.Errorf("MTU %d, index %d, flags %v", got.MTU, got.Index, got.Flags)
	}
	for _, n := range []int{67, rings.MaxMTU + 1} {
		if err := d.SetMTU(n); err == nil {
			t.Errorf("MTU %d was taken", n)
		}
	}
	if err := d.SetMTU(1500); err != nil || link().Attrs().MTU != 1500 {
		t.Errorf("MTU 1500: %v, the link has %d", err, link().Attrs().MTU)
	}
	if err := d.SetMTU(rings.MaxMTU); err != nil {
		t.Error(err)
	}
	if _, err := d.Port(0, rings.NewPoolN(1, rings.ChunkSmall)); err == nil || !strings.Contains(err.Error(), "does not fit") {
		t.Errorf("small frames for a large MTU: %v", err)
	}

	addr(t, d, "192.168.77.1/32", "")
	addr(t, d, "192.168.78.1/32", "192.168.78.2")
	addr(t, d, "fe80::77/64", "")
	show := func() (s []string) {
		ns.Do(func() {
			as, err := netlink.AddrList(link(), netlink.FAMILY_ALL)
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range as {
				x := a.IPNet.String()
				if a.Peer != nil && !a.Peer.IP.Equal(a.IP) {
					x += " peer " + a.Peer.String()
				}
				s = append(s, x)
			}
		})
		return s
	}
	if got, want := strings.Join(show(), ", "), "192.168.77.1/32, 192.168.78.1/32 peer 192.168.78.2/32, fe80::77/64"; got != want {
		t.Errorf("addresses: %s; want %s", got, want)
	}

	host4, host6 := netip.MustParsePrefix("192.168.77.10/32"), netip.MustParsePrefix("fd77::10/128")
	routes := func(dst string, family int) (n int, src string) {
		ns.Do(func() {
			rs, err := netlink.RouteList(link(), family)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range rs {
				if r.Dst != nil && r.Dst.String() == dst {
					n++
					src = r.Src.String()
				}
			}
		})
		return n, src
	}
	for range 2 {
		if err := d.AddRoute(host4, netip.MustParseAddr("192.168.77.1")); err != nil {
			t.Fatal(err)
		}
		if err := d.AddRoute(host6, netip.Addr{}); err != nil {
			t.Fatal(err)
		}
	}
	if n, src := routes("192.168.77.10/32", netlink.FAMILY_V4); n != 1 || src != "192.168.77.1" {
		t.Errorf("%d IPv4 routes, source %s", n, src)
	}
	if n, _ := routes("fd77::10/128", netlink.FAMILY_V6); n != 1 {
		t.Errorf("%d IPv6 routes", n)
	}
	for range 2 { // a second time is not an error
		if err := d.DelRoute(host4); err != nil {
			t.Error(err)
		}
		if err := d.DelRoute(host6); err != nil {
			t.Error(err)
		}
		if err := d.DelAddr(netip.MustParsePrefix("192.168.77.1/32"), netip.Addr{}); err != nil {
			t.Error(err)
		}
		if err := d.DelAddr(netip.MustParsePrefix("192.168.78.1/32"), netip.MustParseAddr("192.168.78.2")); err != nil {
			t.Error(err)
		}
	}
	if n, _ := routes("192.168.77.10/32", netlink.FAMILY_V4); n != 0 {
		t.Error("the IPv4 route is still there")
	}
	if got := strings.Join(show(), ", "); got != "fe80::77/64" {
		t.Errorf("addresses left: %s", got)
	}
	if err := d.AddRoute(netip.MustParsePrefix("10.0.0.0/8"), netip.MustParseAddr("192.0.2.1")); err == nil {
		t.Error("a source address that the host does not have was taken")
	}
}

func TestCreateErrors(t *testing.T) {
	ns := ringtest.NewNS(t)
	create(t, ns, tun.Config{Name: "rt-taken"})
	ns.Do(func() {
		for _, c := range []struct {
			cfg  tun.Config
			want string
		}{
			{tun.Config{Name: "rt-taken"}, "rt-taken"},
			{tun.Config{Name: "lo"}, "lo"},
			{tun.Config{Name: "a-name-that-is-too-long"}, "a-name-that-is-too-long"},
			{tun.Config{MTU: 40}, "MTU 40"},
			{tun.Config{MTU: 9000}, "MTU 9000"},
			{tun.Config{Queues: -1}, "-1 queues"},
		} {
			d, err := tun.Create(c.cfg)
			if err == nil {
				d.Close()
				t.Errorf("%+v: created", c.cfg)
			} else if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%+v: error %q does not say %q", c.cfg, err, c.want)
			}
		}
	})
}
