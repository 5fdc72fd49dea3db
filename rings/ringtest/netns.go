package ringtest

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// NS is a network namespace without a name, gone when its last user is.
type NS struct{ fd int }

// FD is a descriptor of the namespace, open until the test ends.
func (n *NS) FD() int { return n.fd }

// NewNS makes a network namespace for the test: loopback up, no IPv6
// autoconfiguration. It skips the test if it may not.
func NewNS(t testing.TB) *NS {
	t.Helper()
	runtime.LockOSThread()
	old := threadNS(t)
	defer unix.Close(old)
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		t.Skipf("needs the right to make network namespaces: %v", err)
	}
	n := &NS{fd: threadNS(t)}
	t.Cleanup(func() { unix.Close(n.fd) })
	back(old)
	n.Do(func() {
		n.Sysctl("net/ipv6/conf/all/disable_ipv6", "1")
		n.Sysctl("net/ipv6/conf/default/disable_ipv6", "1")
		n.Sysctl("net/ipv4/conf/all/rp_filter", "0")
		n.Sysctl("net/ipv4/conf/default/rp_filter", "0")
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			t.Fatalf("loopback of a new namespace: %v", err)
		}
	})
	return n
}

// Do runs f in the namespace, on the calling goroutine. Goroutines that f
// starts are not in it; sockets that f opens stay in it.
func (n *NS) Do(f func()) {
	runtime.LockOSThread()
	old, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		panic(fmt.Sprintf("ringtest: own network namespace: %v", err))
	}
	defer unix.Close(old)
	if err := unix.Setns(n.fd, unix.CLONE_NEWNET); err != nil {
		panic(fmt.Sprintf("ringtest: enter network namespace: %v", err))
	}
	defer back(old)
	f()
}

// Sysctl sets a value under /proc/sys; use it inside Do. A key that the
// kernel does not have is ignored.
func (n *NS) Sysctl(key, value string) {
	_ = os.WriteFile("/proc/sys/"+key, []byte(value), 0)
}

func threadNS(t testing.TB) int {
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("own network namespace: %v", err)
	}
	return fd
}

// back returns the thread to its namespace. If that fails the thread stays
// locked and dies with its goroutine.
func back(ns int) {
	if unix.Setns(ns, unix.CLONE_NEWNET) == nil {
		runtime.UnlockOSThread()
	}
}

// Iface is a network interface made for a test.
type Iface struct {
	NS    *NS
	Name  string
	Index int
	MAC   [6]byte
	IP    [4]byte
	peer  *Iface // at the other end of a veth pair
}

// NewVeth connects two namespaces by a pair of Ethernet interfaces, "rt0" in
// a with address 10.77.0.1/24 and "rt1" in b with 10.77.0.2/24, up, with
// permanent neighbour entries for each other.
func NewVeth(t testing.TB, a, b *NS, mtu int) (ia, ib *Iface) {
	t.Helper()
	ia = &Iface{NS: a, Name: "rt0", IP: [4]byte{10, 77, 0, 1}, MAC: [6]byte{2, 0, 0, 0, 0x77, 1}}
	ib = &Iface{NS: b, Name: "rt1", IP: [4]byte{10, 77, 0, 2}, MAC: [6]byte{2, 0, 0, 0, 0x77, 2}}
	a.Do(func() {
		err := netlink.LinkAdd(&netlink.Veth{
			LinkAttrs:        netlink.LinkAttrs{Name: ia.Name, MTU: mtu, HardwareAddr: ia.MAC[:]},
			PeerName:         ib.Name,
			PeerNamespace:    netlink.NsFd(b.fd),
			PeerHardwareAddr: ib.MAC[:],
			PeerMTU:          uint32(mtu),
		})
		if err != nil {
			t.Fatalf("veth pair: %v", err)
		}
	})
	ia.Up(t)
	ia.peer, ib.peer = ib, ia
	ib.Up(t)
	ia.Neighbour(t, ib)
	ib.Neighbour(t, ia)
	return ia, ib
}

// Up gives the interface its address and sets it up. Of a pair, the other end
// is up.
func (i *Iface) Up(t testing.TB) {
	t.Helper()
	i.NS.Do(func() {
		l, err := netlink.LinkByName(i.Name)
		if err != nil {
			t.Fatalf("interface %s: %v", i.Name, err)
		}
		i.Index = l.Attrs().Index
		a := &netlink.Addr{IPNet: netlink.NewIPNet(i.IP[:])}
		a.Mask = []byte{255, 255, 255, 0}
		if err := netlink.AddrReplace(l, a); err != nil {
			t.Fatalf("address of %s: %v", i.Name, err)
		}
		if err := netlink.LinkSetUp(l); err != nil {
			t.Fatalf("set %s up: %v", i.Name, err)
		}
	})
	if i.peer != nil {
		i.ready(t)
		i.peer.ready(t)
	}
}

// ready waits until the interface has a carrier and has noticed: till then its
// queue swallows packets.
func (i *Iface) ready(t testing.TB) {
	t.Helper()
	wait(t, i.Name+" to have a carrier", func() (up bool) {
		i.NS.Do(func() {
			l, err := netlink.LinkByName(i.Name)
			up = err == nil && l.Attrs().OperState == netlink.OperUp
		})
		return up
	})
}

// Down sets the interface down.
func (i *Iface) Down(t testing.TB) {
	t.Helper()
	i.NS.Do(func() {
		if err := netlink.LinkSetDown(i.link()); err != nil {
			t.Fatalf("set %s down: %v", i.Name, err)
		}
	})
}

// Remove deletes the interface.
func (i *Iface) Remove(t testing.TB) {
	t.Helper()
	i.NS.Do(func() {
		if err := netlink.LinkDel(i.link()); err != nil {
			t.Fatalf("delete %s: %v", i.Name, err)
		}
	})
}

// Neighbour adds a permanent neighbour entry for o.
func (i *Iface) Neighbour(t testing.TB, o *Iface) {
	t.Helper()
	i.NS.Do(func() {
		err := netlink.NeighSet(&netlink.Neigh{LinkIndex: i.Index, IP: o.IP[:], HardwareAddr: o.MAC[:], State: netlink.NUD_PERMANENT})
		if err != nil {
			t.Fatalf("neighbour entry on %s: %v", i.Name, err)
		}
	})
}

func (i *Iface) link() netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: i.Name, Index: i.Index}}
}
