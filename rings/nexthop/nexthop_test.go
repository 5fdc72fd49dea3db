package nexthop_test

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"xpptp/rings"
	"xpptp/rings/nexthop"
	"xpptp/rings/ringtest"
	"xpptp/rings/tun"
)

// bench is a namespace with a veth interface, rt0, and another at its far end.
type bench struct {
	t         *testing.T
	near, far *ringtest.Iface
	table     *nexthop.Table
	notified  atomic.Int64
}

func newBench(t *testing.T, outside ...string) *bench {
	t.Helper()
	b := &bench{t: t}
	b.near, b.far = ringtest.NewVeth(t, ringtest.NewNS(t), ringtest.NewNS(t), 1500)
	b.near.NS.Do(func() {
		// Let the kernel come to its conclusions soon.
		for _, kv := range [][2]string{{"retrans_time_ms", "100"}, {"base_reachable_time_ms", "300"}, {"delay_first_probe_time", "0"}} {
			b.near.NS.Sysctl("net/ipv4/neigh/rt0/"+kv[0], kv[1])
		}
		_ = netlink.NeighDel(&netlink.Neigh{LinkIndex: b.near.Index, IP: b.far.IP[:]})
		if len(outside) == 0 {
			outside = []string{b.near.Name}
		}
		var err error
		b.table, err = nexthop.New(nexthop.Config{
			Interfaces: outside,
			Notify:     func() { b.notified.Add(1) },
			Interval:   50 * time.Millisecond,
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { _ = b.table.Close() })
	return b
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// until waits for the hop to be as wanted.
func (b *bench) until(h *nexthop.Hop, what string, ok func(w *nexthop.Way) bool) *nexthop.Way {
	b.t.Helper()
	var w *nexthop.Way
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if w = h.Load(); ok(w) {
			return w
		}
	}
	b.t.Fatalf("%s: waited in vain for %s; it is %s %q by %d, next %s, header % x", h.Dst(), what, w.State, w.Reason, w.Index, w.Next, w.Header())
	return nil
}

func ready(w *nexthop.Way) bool { return w.State == nexthop.Ready }

func (b *bench) failed(h *nexthop.Hop, reason string) {
	b.t.Helper()
	b.until(h, "failure: "+reason, func(w *nexthop.Way) bool {
		return w.State == nexthop.Failed && strings.Contains(w.Reason, reason)
	})
}

// do runs netlink calls in the near namespace.
func (b *bench) do(what string, f func() error) {
	b.t.Helper()
	b.near.NS.Do(func() {
		if err := f(); err != nil {
			b.t.Fatalf("%s: %v", what, err)
		}
	})
}

func (b *bench) addRoute(dst, gw string, mtu int) {
	b.t.Helper()
	_, n, err := net.ParseCIDR(dst)
	if err != nil {
		b.t.Fatal(err)
	}
	b.do("add route", func() error {
		return netlink.RouteReplace(&netlink.Route{LinkIndex: b.near.Index, Dst: n, Gw: net.ParseIP(gw), MTU: mtu})
	})
}

func (b *bench) setNeighbour(ip string, mac [6]byte, state int) {
	b.t.Helper()
	b.do("set neighbour", func() error {
		return netlink.NeighSet(&netlink.Neigh{LinkIndex: b.near.Index, IP: net.ParseIP(ip), HardwareAddr: mac[:], State: state})
	})
}

func (b *bench) header(mac [6]byte) []byte { return ringtest.Ethernet(mac, b.near.MAC) }

func TestOnLink(t *testing.T) {
	b := newBench(t)
	h := b.table.Hop(addr("10.77.0.2"))
	w := b.until(h, "an answer", ready)
	if !bytes.Equal(w.Header(), b.header(b.far.MAC)) {
		t.Errorf("header % x, want % x", w.Header(), b.header(b.far.MAC))
	}
	if w.Src != addr("10.77.0.1") || w.Next != addr("10.77.0.2") || w.MTU != 1500 || w.Index != b.near.Index {
		t.Errorf("%+v", w)
	}
	if b.notified.Load() == 0 {
		t.Error("nobody was told")
	}
}

func TestGateway(t *testing.T) {
	b := newBench(t)
	h := b.table.Hop(addr("192.0.2.1"))
	b.failed(h, "no route to 192.0.2.1")
	b.addRoute("192.0.2.0/24", "10.77.0.2", 1400)
	w := b.until(h, "the gateway", ready)
	if w.Next != addr("10.77.0.2") || w.MTU != 1400 || !bytes.Equal(w.Header(), b.header(b.far.MAC)) {
		t.Errorf("%+v", w)
	}
	// A more specific route by another gateway, of which the address is known.
	other := [6]byte{2, 0, 0, 0, 0x77, 9}
	b.setNeighbour("10.77.0.9", other, netlink.NUD_PERMANENT)
	b.addRoute("192.0.2.1/32", "10.77.0.9", 0)
	b.until(h, "the other gateway", func(w *nexthop.Way) bool {
		return ready(w) && w.Next == addr("10.77.0.9") && bytes.Equal(w.Header(), b.header(other)) && w.MTU == 1500
	})
	// And back.
	b.do("delete route", func() error {
		_, n, _ := net.ParseCIDR("192.0.2.1/32")
		return netlink.RouteDel(&netlink.Route{LinkIndex: b.near.Index, Dst: n})
	})
	b.until(h, "the first gateway", func(w *nexthop.Way) bool { return ready(w) && w.Next == addr("10.77.0.2") })
}

// IPv6: on the link, by a gateway, and after a change.
func TestIPv6(t *testing.T) {
	b := newBench(t)
	for i, end := range []*ringtest.Iface{b.near, b.far} {
		end.NS.Do(func() {
			end.NS.Sysctl("net/ipv6/conf/"+end.Name+"/disable_ipv6", "0")
			l, err := netlink.LinkByName(end.Name)
			if err != nil {
				t.Fatal(err)
			}
			a, _ := netlink.ParseAddr(fmt.Sprintf("fd77::%d/64", i+1))
			a.Flags = unix.IFA_F_NODAD
			if err := netlink.AddrAdd(l, a); err != nil {
				t.Skipf("needs IPv6: %v", err)
			}
		})
	}
	header := append(b.header(b.far.MAC)[:12], 0x86, 0xdd)
	h := b.table.Hop(addr("fd77::2"))
	if w := b.until(h, "an answer", ready); !bytes.Equal(w.Header(), header) || w.Src != addr("fd77::1") || w.Index != b.near.Index {
		t.Errorf("%+v, header % x", w, w.Header())
	}
	far := b.table.Hop(addr("2001:db8::1"))
	b.failed(far, "no route to 2001:db8::1")
	b.addRoute("2001:db8::/32", "fd77::2", 1400)
	if w := b.until(far, "the gateway", ready); w.Next != addr("fd77::2") || w.MTU != 1400 || !bytes.Equal(w.Header(), header) {
		t.Errorf("%+v, header % x", w, w.Header())
	}
	moved := [6]byte{2, 0, 0, 0, 0x77, 8}
	b.setNeighbour("fd77::2", moved, netlink.NUD_PERMANENT)
	b.until(far, "the new address", func(w *nexthop.Way) bool { return ready(w) && bytes.Equal(w.Header()[:6], moved[:]) })
	b.failed(b.table.Hop(addr("ff02::1")), "not the address of one host")
}

func TestNeighbourMoves(t *testing.T) {
	b := newBench(t)
	h := b.table.Hop(addr("10.77.0.2"))
	b.until(h, "an answer", ready)
	moved := [6]byte{2, 0, 0, 0, 0x77, 8}
	b.setNeighbour("10.77.0.2", moved, netlink.NUD_PERMANENT)
	b.until(h, "the new address", func(w *nexthop.Way) bool { return ready(w) && bytes.Equal(w.Header(), b.header(moved)) })
}

// The kernel forgets a neighbour: the way stays, and is verified.
func TestNeighbourForgotten(t *testing.T) {
	b := newBench(t)
	moved := [6]byte{2, 0, 0, 0, 0x77, 8}
	b.setNeighbour("10.77.0.2", moved, netlink.NUD_PERMANENT)
	h := b.table.Hop(addr("10.77.0.2"))
	b.until(h, "an answer", ready)
	b.do("delete neighbour", func() error {
		return netlink.NeighDel(&netlink.Neigh{LinkIndex: b.near.Index, IP: b.far.IP[:]})
	})
	b.until(h, "the true address", func(w *nexthop.Way) bool {
		if !ready(w) {
			t.Fatalf("the way became %s meanwhile", w.State)
		}
		return bytes.Equal(w.Header(), b.header(b.far.MAC))
	})
}

func TestSilentNeighbour(t *testing.T) {
	b := newBench(t)
	h := b.table.Hop(addr("10.77.0.66"))
	b.failed(h, "10.77.0.66 does not answer on rt0")
	// It is asked again as long as the hop is used, so it is found once it is there.
	b.far.NS.Do(func() {
		l, err := netlink.LinkByName(b.far.Name)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: netlink.NewIPNet(net.IPv4(10, 77, 0, 66))}); err != nil {
			t.Fatal(err)
		}
	})
	w := b.until(h, "an answer", ready)
	if !bytes.Equal(w.Header(), b.header(b.far.MAC)) {
		t.Errorf("header % x", w.Header())
	}
	// Gone for good.
	b.far.NS.Do(func() {
		if err := netlink.LinkSetARPOff(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: b.far.Index}}); err != nil {
			t.Fatal(err)
		}
	})
	b.failed(h, "10.77.0.66 does not answer on rt0")
}

// Whatever is used is verified again and again.
func TestKeptAlive(t *testing.T) {
	b := newBench(t)
	wire := ringtest.NewWire(t, b.far)
	h := b.table.Hop(addr("10.77.0.2"))
	b.until(h, "an answer", ready)
	asked := 0
	b.until(h, "the neighbour to be asked three times more", func(w *nexthop.Way) bool {
		if !ready(w) {
			t.Fatalf("the way became %s meanwhile", w.State)
		}
		for p := wire.Recv(); p != nil; p = wire.Recv() {
			// To our neighbour alone: a probe of what is believed known.
			if bytes.Equal(p[:6], b.far.MAC[:]) && p[12] == 8 && p[13] == 6 && p[21] == 1 {
				asked++
			}
		}
		return asked >= 3
	})
}

func TestLinkDownAndUp(t *testing.T) {
	b := newBench(t)
	h := b.table.Hop(addr("10.77.0.2"))
	b.until(h, "an answer", ready)
	b.near.Down(t)
	b.until(h, "failure", func(w *nexthop.Way) bool { return w.State == nexthop.Failed })
	b.near.Up(t)
	b.until(h, "an answer again", ready)
	b.do("set address", func() error {
		l, err := netlink.LinkByName(b.near.Name)
		if err != nil {
			return err
		}
		return netlink.LinkSetHardwareAddr(l, []byte{2, 0, 0, 0, 0x77, 0x11})
	})
	b.until(h, "our new address", func(w *nexthop.Way) bool {
		return ready(w) && bytes.Equal(w.Header()[6:12], []byte{2, 0, 0, 0, 0x77, 0x11})
	})
	b.do("set MTU", func() error {
		l, err := netlink.LinkByName(b.near.Name)
		if err != nil {
			return err
		}
		return netlink.LinkSetMTU(l, 1300)
	})
	b.until(h, "the new MTU", func(w *nexthop.Way) bool { return ready(w) && w.MTU == 1300 })
	b.near.Remove(t)
	b.until(h, "failure", func(w *nexthop.Way) bool { return w.State == nexthop.Failed })
}

func TestNotOutside(t *testing.T) {
	b := newBench(t, "lo")
	b.failed(b.table.Hop(addr("10.77.0.2")), "leaves by rt0, not by lo")
	h := b.table.Hop(addr("127.0.0.1"))
	if w := b.until(h, "the loopback", ready); !bytes.Equal(w.Header(), append(make([]byte, 12), 8, 0)) || w.Src != addr("127.0.0.1") {
		t.Errorf("%+v", w)
	}
	b.failed(b.table.Hop(addr("127.255.255.255")), "not the address of one host")
}

// Rules that route by source.
func TestSource(t *testing.T) {
	b := newBench(t)
	b.failed(b.table.HopFrom(addr("10.99.9.9"), addr("10.77.0.2")), "no route to 10.77.0.2") // not ours
	second := &netlink.Addr{IPNet: netlink.NewIPNet(net.IPv4(10, 88, 0, 1))}
	b.do("add address", func() error {
		return netlink.AddrAdd(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: b.near.Index}}, second)
	})
	h := b.table.HopFrom(addr("10.88.0.1"), addr("10.77.0.2"))
	if w := b.until(h, "an answer", ready); w.Src != addr("10.88.0.1") {
		t.Errorf("source %s", w.Src)
	}
	b.do("delete address", func() error {
		return netlink.AddrDel(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: b.near.Index}}, second)
	})
	b.failed(h, "no route to 10.77.0.2")
}

func TestNoLinkHeader(t *testing.T) {
	ns := ringtest.NewNS(t)
	ns.Do(func() {
		d, err := tun.Create(tun.Config{Name: "rt-ppp", MTU: 1492})
		if err != nil {
			t.Skipf("needs TUN devices: %v", err)
		}
		defer d.Close()
		p, err := d.Port(0, rings.NewPoolN(1, rings.ChunkSmall))
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if err := d.SetUp(); err != nil {
			t.Fatal(err)
		}
		if err := d.AddAddr(netip.MustParsePrefix("10.66.0.1/24"), netip.Addr{}); err != nil {
			t.Fatal(err)
		}
		b := &bench{t: t}
		if b.table, err = nexthop.New(nexthop.Config{Interfaces: []string{"rt-ppp"}}); err != nil {
			t.Fatal(err)
		}
		defer b.table.Close()
		w := b.until(b.table.Hop(addr("10.66.0.2")), "the way", ready)
		if len(w.Header()) != 0 || w.MTU != 1492 || w.Index != d.Index() {
			t.Errorf("%+v", w)
		}
	})
}

func TestSharedAndReleased(t *testing.T) {
	b := newBench(t)
	h := b.table.Hop(addr("10.77.0.2"))
	if b.table.Hop(addr("::ffff:10.77.0.2")) != h {
		t.Error("two hops for one destination")
	}
	h.Release()
	if b.table.Hop(addr("10.77.0.2")) != h {
		t.Error("gone though there is a user")
	}
	h.Release()
	h.Release()
	if b.table.Hop(addr("10.77.0.2")) == h {
		t.Error("still there though there is no user")
	}
}

func TestLoadIsCheap(t *testing.T) {
	b := newBench(t)
	h := b.table.Hop(addr("10.77.0.2"))
	b.until(h, "an answer", ready)
	buf := make([]byte, 0, 64)
	if n := testing.AllocsPerRun(1000, func() {
		w := h.Load()
		buf = append(buf[:0], w.Header()...)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	// Others read while the table changes it.
	var wg sync.WaitGroup
	var stop atomic.Bool
	for range 2 {
		wg.Go(func() {
			for !stop.Load() {
				if w := h.Load(); w.State == nexthop.Ready && (len(w.Header()) != 14 || w.Header()[12] != 8) {
					t.Error("a header half made")
					return
				}
			}
		})
	}
	for i := range 20 {
		b.setNeighbour("10.77.0.2", [6]byte{2, 0, 0, 0, 1, byte(i)}, netlink.NUD_PERMANENT)
	}
	b.until(h, "the last address", func(w *nexthop.Way) bool { return ready(w) && w.Header()[5] == 19 })
	stop.Store(true)
	wg.Wait()
}

func TestClose(t *testing.T) {
	before := runtime.NumGoroutine()
	b := newBench(t)
	h := b.table.Hop(addr("10.77.0.2"))
	b.until(h, "an answer", ready)
	for range 2 {
		if err := b.table.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if !ready(h.Load()) {
		t.Error("a way that was found is taken away")
	}
	h.Release()
	if w := b.table.Hop(addr("10.77.0.3")).Load(); w.State != nexthop.Failed {
		t.Errorf("a closed table says %s", w.State)
	}
	for end := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
	b.near.NS.Do(func() {
		if _, err := nexthop.New(nexthop.Config{Interfaces: []string{"rt0", "nosuch0"}}); err == nil || !strings.Contains(err.Error(), "nosuch0") {
			t.Errorf("an interface that does not exist: %v", err)
		}
	})
}

// Many destinations behind one gateway; routes come and go.
func TestMany(t *testing.T) {
	b := newBench(t)
	const n = 1000
	var hops []*nexthop.Hop
	for i := range n {
		hops = append(hops, b.table.Hop(netip.AddrFrom4([4]byte{192, 0, byte(2 + i>>8), byte(i)})))
	}
	b.failed(hops[n-1], "no route")
	b.addRoute("192.0.0.0/16", "10.77.0.2", 0)
	for _, h := range hops {
		b.until(h, "the gateway", ready)
	}
	for _, h := range hops {
		h.Release()
	}
}

func BenchmarkLoad(b *testing.B) {
	h := new(nexthop.Hop)
	for b.Loop() {
		h.Load()
	}
}
