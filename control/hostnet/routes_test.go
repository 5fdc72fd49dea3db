package hostnet

import (
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"xpptp/rings/ringtest"
)

var (
	server  = netip.MustParseAddr("203.0.113.7")
	gateway = net.IPv4(192, 0, 2, 1).To4()
	inside  = netip.MustParseAddr("10.0.0.9")
)

// host is a namespace with an uplink ("up0", 192.0.2.9/24, a default route)
// and a device for the call ("call0").
type host struct {
	*ringtest.NS
	call int // index
}

func newHost(t *testing.T) *host {
	h := &host{NS: ringtest.NewNS(t)}
	h.Do(func() {
		add := func(name, addr string) netlink.Link {
			l := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: name}}
			if err := netlink.LinkAdd(l); err != nil {
				t.Skipf("needs dummy interfaces: %v", err)
			}
			a, err := netlink.ParseAddr(addr)
			if err != nil {
				t.Fatal(err)
			}
			if err := netlink.AddrAdd(l, a); err != nil {
				t.Fatal(err)
			}
			if err := netlink.LinkSetUp(l); err != nil {
				t.Fatal(err)
			}
			return l
		}
		add("up0", "192.0.2.9/24")
		h.call = add("call0", "10.0.0.9/32").Attrs().Index
		if err := netlink.RouteAdd(&netlink.Route{Gw: gateway}); err != nil {
			t.Fatal(err)
		}
	})
	return h
}

// way returns the gateway and the device by which the host reaches an address.
func (h *host) way(t *testing.T, to string) string {
	t.Helper()
	rs, err := netlink.RouteGet(net.ParseIP(to))
	if err != nil || len(rs) == 0 {
		t.Fatalf("route to %s: %v", to, err)
	}
	l, err := netlink.LinkByIndex(rs[0].LinkIndex)
	if err != nil {
		t.Fatal(err)
	}
	if rs[0].Gw == nil {
		return l.Attrs().Name
	}
	return l.Attrs().Name + " " + rs[0].Gw.String()
}

func (h *host) table(t *testing.T) (out []string) {
	t.Helper()
	rs, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rs {
		out = append(out, r.String())
	}
	slices.Sort(out)
	return out
}

func expect(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func TestDefaultRoute(t *testing.T) {
	h := newHost(t)
	h.Do(func() {
		before := h.table(t)
		var log strings.Builder
		n, err := New(Options{Server: server, DefaultRoute: true, Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		up := func(id int) {
			n.Up(Call{ID: id, Server: server, Link: "call0", Index: h.call, Local: inside})
		}
		wait := func() {
			done := make(chan struct{})
			n.post(func() { close(done) })
			<-done
		}
		up(1)
		wait()
		expect(t, "way to the server", h.way(t, server.String()), "up0 192.0.2.1")
		expect(t, "way to anybody", h.way(t, "8.8.8.8"), "call0")
		expect(t, "way to anybody in the upper half", h.way(t, "198.51.100.1"), "call0")
		expect(t, "way to a neighbour", h.way(t, "192.0.2.77"), "up0")
		up(2)
		n.Down(2) // it has nothing
		wait()
		expect(t, "way after another call's end", h.way(t, "8.8.8.8"), "call0")
		n.Down(1)
		wait()
		if after := h.table(t); !slices.Equal(before, after) {
			t.Errorf("before %v\nafter  %v", before, after)
		}
		up(3)
		n.Close()
		if after := h.table(t); !slices.Equal(before, after) {
			t.Errorf("closed:\nbefore %v\nafter  %v", before, after)
		}
		n.Close()
		if strings.Contains(log.String(), "level=WARN") {
			t.Error(log.String())
		}
	})
}

// The device of the call is gone, and with it the routes through it.
func TestDeviceGone(t *testing.T) {
	h := newHost(t)
	h.Do(func() {
		r, err := newRoutes()
		if err != nil {
			t.Fatal(err)
		}
		defer r.close()
		before := h.table(t)
		if err := r.divert(server, h.call, inside, halves[:]); err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkDel(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "call0", Index: h.call}}); err != nil {
			t.Fatal(err)
		}
		if err := r.restore(); err != nil {
			t.Error(err)
		}
		if after := h.table(t); !slices.Equal(before, after) {
			t.Errorf("before %v\nafter  %v", before, after)
		}
	})
}

// A run that was killed has left its host route, and the gateway is another
// one now.
func TestStalePin(t *testing.T) {
	h := newHost(t)
	h.Do(func() {
		before := h.table(t)
		stale := &netlink.Route{Dst: ipNet(netip.PrefixFrom(server, 32)), Gw: net.IPv4(192, 0, 2, 200), Protocol: protocol}
		if err := netlink.RouteAdd(stale); err != nil {
			t.Fatal(err)
		}
		n, err := New(Options{Server: server, DefaultRoute: true, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		expect(t, "way to the server", h.way(t, server.String()), "up0 192.0.2.1")
		n.Close()
		if after := h.table(t); !slices.Equal(before, after) {
			t.Errorf("before %v\nafter  %v", before, after)
		}
	})
}

// What the operator has set up is neither replaced nor deleted.
func TestForeignRoutes(t *testing.T) {
	h := newHost(t)
	h.Do(func() {
		r, err := newRoutes()
		if err != nil {
			t.Fatal(err)
		}
		defer r.close()
		own := &netlink.Route{Dst: ipNet(netip.PrefixFrom(server, 32)), Gw: net.IPv4(192, 0, 2, 200)}
		if err := netlink.RouteAdd(own); err != nil {
			t.Fatal(err)
		}
		before := h.table(t)
		if err := r.divert(server, h.call, inside, halves[:]); err != nil {
			t.Fatal(err)
		}
		expect(t, "way to the server", h.way(t, server.String()), "up0 192.0.2.200")
		if err := r.restore(); err != nil {
			t.Error(err)
		}
		if after := h.table(t); !slices.Equal(before, after) {
			t.Errorf("before %v\nafter  %v", before, after)
		}

		other := &netlink.Route{Dst: ipNet(halves[1]), Gw: gateway}
		if err := netlink.RouteAdd(other); err != nil {
			t.Fatal(err)
		}
		before = h.table(t)
		err = r.divert(server, h.call, inside, halves[:])
		if err == nil || !strings.Contains(err.Error(), "there is a route to 128.0.0.0/1 already") {
			t.Errorf("error %v", err)
		}
		if after := h.table(t); !slices.Equal(before, after) {
			t.Errorf("after an error:\nbefore %v\nafter  %v", before, after)
		}
	})
}

// Without the default route the name servers alone are reached through the call.
func TestNameServerRoutes(t *testing.T) {
	h := newHost(t)
	h.Do(func() {
		before := h.table(t)
		file := filepath.Join(t.TempDir(), "resolv.conf")
		n, err := New(Options{Server: server, DNS: true, Resolv: file, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		n.Up(Call{ID: 1, Server: server, Link: "call0", Index: h.call, Local: inside, DNS: []netip.Addr{servers[0], server}})
		done := make(chan struct{})
		n.post(func() { close(done) })
		<-done
		expect(t, "way to the name server", h.way(t, servers[0].String()), "call0")
		expect(t, "way to the server", h.way(t, server.String()), "up0 192.0.2.1")
		expect(t, "way to anybody", h.way(t, "8.8.8.8"), "up0 192.0.2.1")
		if got := read(t, file); !strings.Contains(got, "nameserver 10.0.0.53\nnameserver 203.0.113.7\n") {
			t.Error(got)
		}
		n.Close()
		if after := h.table(t); !slices.Equal(before, after) {
			t.Errorf("before %v\nafter  %v", before, after)
		}
		only(t, file)
	})
}
