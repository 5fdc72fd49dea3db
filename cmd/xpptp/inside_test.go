package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"xpptp/control"
	"xpptp/rings/ringtest"
)

// dialUp starts a client and waits till its calls are up.
func dialUp(t *testing.T, n *net2, calls int, more ...string) (*program, []control.CallInfo) {
	t.Helper()
	p := start(t, n.client, n.dialArgs(append([]string{"--calls", fmt.Sprint(calls), "-o", "json"}, more...)...)...)
	p.until("is up", func() bool { return len(p.events("up")) == calls })
	var infos []control.CallInfo
	for _, e := range p.events("up") {
		infos = append(infos, e.Call)
	}
	return p, infos
}

// udp sends packets from a namespace, from an address if one is given, till one
// of that size comes back, and reports whether one did.
func udp(t *testing.T, ns *ringtest.NS, from, to string, size int, limit time.Duration) bool {
	t.Helper()
	var c net.Conn
	ns.Do(func() {
		d := net.Dialer{}
		if from != "" {
			d.LocalAddr = &net.UDPAddr{IP: net.ParseIP(from)}
		}
		var err error
		if c, err = d.Dial("udp4", net.JoinHostPort(to, "7")); err != nil {
			t.Fatal(err)
		}
	})
	defer c.Close()
	out, in := bytes.Repeat([]byte{'x'}, size), make([]byte, 4096)
	for end := time.Now().Add(limit); time.Now().Before(end); {
		_, _ = c.Write(out)
		_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if n, err := c.Read(in); err == nil && bytes.Equal(in[:n], out) {
			return true
		}
	}
	return false
}

// answer sends back what comes to port 7 of an address, till the test ends.
func answer(t *testing.T, ns *ringtest.NS, addr string) {
	t.Helper()
	ns.Do(func() {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(addr), Port: 7})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		go func() {
			b := make([]byte, 4096)
			for {
				n, from, err := c.ReadFromUDP(b)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err == nil {
					_, _ = c.WriteToUDP(b[:n], from)
				}
			}
		}()
	})
}

// names returns the interfaces of a namespace.
func names(ns *ringtest.NS) (out []string) {
	ns.Do(func() {
		all, _ := net.Interfaces()
		for _, i := range all {
			out = append(out, i.Name)
		}
	})
	return out
}

// serve --inside reflect and sink: for the lab, without any device.
func TestInsideLab(t *testing.T) {
	n := newNet2(t)
	server := startServer(t, n, "--inside", "reflect", "--workers", "2")
	server.says(`msg="ports open".* inside=reflect `)
	client, calls := dialUp(t, n, 3)
	for _, c := range calls {
		for _, size := range []int{10, 1300, 3000} {
			if !udp(t, n.client, c.LocalIP.String(), "10.9.0.1", size, patience) {
				t.Errorf("%d bytes of %v do not come back", size, c.LocalIP)
			}
		}
	}
	if ping, err := exec.LookPath("ping"); err == nil {
		var out []byte
		n.client.Do(func() { out, err = exec.Command(ping, "-c", "3", "-i", "0.2", "-w", "20", "10.9.0.1").CombinedOutput() })
		if err != nil {
			t.Errorf("ping: %v\n%s", err, out)
		}
	}
	if slices.Contains(names(n.server), "xpptp0") {
		t.Error("there is a TUN device")
	}
	client.stops()
	server.stops()

	server = startServer(t, n, "--inside", "sink")
	server.says(`msg="ports open".* inside=sink `)
	client, calls = dialUp(t, n, 1)
	if udp(t, n.client, calls[0].LocalIP.String(), "10.9.0.1", 10, 500*time.Millisecond) {
		t.Error("a packet came back from the sink")
	}
	client.stops()
	server.says(`msg="call down".* rx_packets=[1-9]`)
	server.stops()
}

// Several workers behind one TUN device: every call's packets come to its own
// worker, none is handed over.
func TestSteeredTun(t *testing.T) {
	n := newNet2(t)
	server := startServer(t, n, "--workers", "3")
	client, calls := dialUp(t, n, 6, "--workers", "2")
	for _, c := range calls {
		n.echoes(t, c)
	}
	client.stops()
	server.stops()
	for _, p := range []*program{client, server} {
		if regexp.MustCompile(`handed_over=[1-9]|packets come to any worker`).MatchString(p.err.String()) {
			t.Errorf("%s: packets came to the wrong worker:\n%s", p.cmd.Args[1], p.err.String())
		}
	}
}

// Without the right to steer, packets come to any worker, and are handed over.
func TestUnsteeredTun(t *testing.T) {
	n := newNet2(t)
	server := command(t, n.serveArgs("--workers", "3", "--io", "tpacket")...)
	without(t, unix.CAP_SYS_ADMIN, func() {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_BPF, 0, 0, 0); err != nil {
			t.Error(err) // on a goroutine of its own
		}
		n.server.Do(server.launch)
	})
	server.says(`level=WARN msg="packets come to any worker, which hands them to the right one" err=.*not permitted`, "msg=listening")
	client, calls := dialUp(t, n, 6)
	for _, c := range calls {
		n.echoes(t, c)
	}
	client.stops()
	server.stops()
}

// lanNet is a net2 whose server has a LAN behind it: in0 with 10.9.1.1/24, and
// a host's lan0 with 10.9.1.2, which answers at port 7. Clients get addresses
// of the LAN's network.
type lanNet struct {
	*net2
	lan *ringtest.NS
	mac net.HardwareAddr // of in0
}

func newLANNet(t *testing.T) *lanNet {
	t.Helper()
	n := &lanNet{net2: newNet2(t), lan: ringtest.NewNS(t)}
	n.pool = "10.9.1.100-10.9.1.110"
	do := func(ns *ringtest.NS, f func() error) {
		t.Helper()
		ns.Do(func() {
			if err := f(); err != nil {
				t.Fatal(err)
			}
		})
	}
	up := func(name, addr string) error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(addr)
		if err != nil {
			return err
		}
		n.mac = l.Attrs().HardwareAddr
		return errors.Join(netlink.AddrAdd(l, a), netlink.LinkSetUp(l))
	}
	do(n.lan, func() error {
		// A NIC would have completed the checksums on the wire.
		e, err := ethtool.NewEthtool()
		if err != nil {
			return err
		}
		defer e.Close()
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "lan0", MTU: 1500}, PeerName: "in0"}); err != nil {
			return err
		}
		peer, err := netlink.LinkByName("in0")
		if err != nil {
			return err
		}
		n.lan.Sysctl("net/ipv4/conf/lan0/arp_notify", "1") // tells everyone of a new MAC address
		return errors.Join(e.Change("lan0", map[string]bool{"tx-checksum-ip-generic": false}),
			netlink.LinkSetNsFd(peer, n.server.FD()), up("lan0", "10.9.1.2/24"),
			netlink.RouteAdd(&netlink.Route{Dst: netlink.NewIPNet(net.IPv4(10, 9, 0, 1)), Gw: net.IPv4(10, 9, 1, 1)}))
	})
	do(n.server, func() error {
		n.server.Sysctl("net/ipv4/ip_forward", "1")
		return up("in0", "10.9.1.1/24")
	})
	answer(t, n.lan, "10.9.1.2")
	answer(t, n.server, "10.9.1.1")
	return n
}

// toLAN routes the LAN through the client's calls.
func (n *lanNet) toLAN(t *testing.T) {
	t.Helper()
	n.client.Do(func() {
		l, err := netlink.LinkByName("xpptp0")
		if err == nil {
			err = netlink.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: &net.IPNet{IP: net.IPv4(10, 9, 1, 0), Mask: net.CIDRMask(24, 32)}})
		}
		if err != nil {
			t.Fatal(err)
		}
	})
}

func (n *lanNet) must(t *testing.T, ns *ringtest.NS, from, to string, size int) {
	t.Helper()
	if !udp(t, ns, from, to, size, patience) {
		t.Fatalf("nothing comes back from %s to %q", to, from)
	}
}

// counters are the packets that have passed a device of the server.
func (n *lanNet) packets(t *testing.T, dev string) (count uint64) {
	t.Helper()
	n.server.Do(func() {
		l, err := netlink.LinkByName(dev)
		if err != nil {
			t.Fatal(err)
		}
		count = l.Attrs().Statistics.RxPackets + l.Attrs().Statistics.TxPackets
	})
	return count
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// neighbour is what the LAN's host knows of an address.
func (n *lanNet) neighbour(t *testing.T, addr string) (e netlink.Neigh) {
	t.Helper()
	n.lan.Do(func() {
		all, err := netlink.NeighList(0, netlink.FAMILY_V4)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range all {
			if x.IP.String() == addr {
				e = x
			}
		}
	})
	return e
}

// untouched reports whether the server's namespace is as it was: no program on
// in0, no TUN device, the routes that there were.
func (n *lanNet) untouched(was []string) bool {
	attached := true
	n.server.Do(func() {
		if l, err := netlink.LinkByName("in0"); err == nil {
			attached = l.Attrs().Xdp != nil && l.Attrs().Xdp.Attached
		}
	})
	return !attached && !slices.Contains(names(n.server), "xpptp0") && slices.Equal(routes(n.server), was)
}

func routes(ns *ringtest.NS) (rs []string) {
	ns.Do(func() {
		all, _ := netlink.RouteList(nil, netlink.FAMILY_ALL)
		for _, r := range all {
			rs = append(rs, r.String())
		}
	})
	slices.Sort(rs)
	return rs
}

// serve --inside IFACE: packets between calls and a LAN pass by the kernel,
// which has the rest; nothing is left at the end.
func TestInsideInterface(t *testing.T) {
	n := newLANNet(t)
	was := routes(n.server)
	start(t, n.server, n.serveArgs("--inside", "nosuch0")...).ends(exitUsage, `^xpptp: --inside: no interface "nosuch0": there are .*in0`)
	start(t, n.server, n.serveArgs("--inside", "rt0")...).ends(exitFailure, `^xpptp: inside: rt0 is an outside interface`)

	server := startServer(t, n.net2, "--inside", "in0", "--workers", "2")
	server.says(`msg="ports open".* io="xsk .* inside="in0 \(.*\) and xpptp0"`)
	client, calls := dialUp(t, n.net2, 3)
	n.toLAN(t)
	for _, c := range calls {
		addr := c.LocalIP.String()
		answer(t, n.client, addr)
		for _, size := range []int{10, 1300, 3000} {
			n.must(t, n.client, addr, "10.9.1.2", size) // from the call to the LAN
			n.must(t, n.lan, "", addr, size)            // from the LAN to the call
		}
		if e := n.neighbour(t, addr); !bytes.Equal(e.HardwareAddr, n.mac) {
			t.Errorf("the LAN finds %s at %v, want %v", addr, e.HardwareAddr, n.mac)
		}
		n.echoes(t, c)                            // to the server itself
		n.must(t, n.client, addr, "10.9.1.1", 10) // by any of its addresses
		n.must(t, n.server, "", addr, 10)         // and back
	}
	by := calls[0].LocalIP.String()
	eventually(t, "packets to pass by the kernel", func() bool {
		before := n.packets(t, "xpptp0")
		n.must(t, n.client, by, "10.9.1.2", 10)
		n.must(t, n.lan, "", by, 10)
		return n.packets(t, "xpptp0") == before
	})

	// A packet that does not fit the call and must not be cut.
	if ping, err := exec.LookPath("ping"); err == nil {
		eventually(t, "an ICMP error", func() bool {
			var out []byte
			n.lan.Do(func() {
				out, _ = exec.Command(ping, "-c", "1", "-w", "2", "-M", "do", "-s", "1450", by).CombinedOutput()
			})
			return bytes.Contains(out, []byte("mtu")) || bytes.Contains(out, []byte("too long"))
		})
	}

	// The host on the LAN gets another Ethernet address.
	n.lan.Do(func() {
		l, err := netlink.LinkByName("lan0")
		if err == nil {
			err = netlink.LinkSetHardwareAddr(l, net.HardwareAddr{2, 0, 0, 0, 9, 9})
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	n.must(t, n.client, by, "10.9.1.2", 10)

	// The calls end: nobody answers for their addresses.
	client.stops()
	n.lan.Do(func() {
		if l, err := netlink.LinkByName("lan0"); err == nil {
			_ = netlink.LinkSetARPOff(l)
			_ = netlink.LinkSetARPOn(l) // forgets all neighbours
		}
	})
	eventually(t, "silence", func() bool {
		udp(t, n.lan, "", by, 10, 50*time.Millisecond)
		return n.neighbour(t, by).State == netlink.NUD_FAILED
	})
	server.stops()
	if !n.untouched(was) {
		t.Errorf("left: interfaces %v, routes %v, were %v", names(n.server), routes(n.server), was)
	}

	// Killed: nothing stays attached, and the next one starts.
	server = startServer(t, n.net2, "--inside", "in0")
	client, calls = dialUp(t, n.net2, 1)
	n.toLAN(t)
	n.must(t, n.client, calls[0].LocalIP.String(), "10.9.1.2", 10)
	_ = server.cmd.Process.Kill()
	<-server.done
	eventually(t, "everything to be gone", func() bool { return n.untouched(was) })
	n.must(t, n.server, "", "10.9.1.2", 10)
	client.ends(exitFailure)
	server = startServer(t, n.net2, "--inside", "in0")
	client, calls = dialUp(t, n.net2, 1)
	n.toLAN(t)
	n.must(t, n.client, calls[0].LocalIP.String(), "10.9.1.2", 10)
	client.stops()
	server.stops()
}
