package demo

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"

	"xpptp/control/sock"
)

// Addresses of the lab. Nobody outside its namespaces sees them.
var (
	serverAddr = netip.MustParsePrefix("198.18.0.1/24") // RFC 2544: for benchmarks
	clientAddr = netip.MustParsePrefix("198.18.0.2/24")
	insideAddr = netip.MustParseAddr("10.64.0.1")
	insidePool = "10.64.1.0-10.64.2.255"
)

const (
	serverIf = "veth0"
	clientIf = "veth1"
)

// lab is two network namespaces on one wire. Neither has a name, so they are
// gone with us and our children, however we end.
type lab struct{ server, client *sock.Netns }

func newLab() (l *lab, err error) {
	l = &lab{}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if l.server, err = sock.NewNetns(); err != nil {
		return nil, err
	}
	if l.client, err = sock.NewNetns(); err != nil {
		return nil, err
	}
	err = l.server.Do(func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: serverIf, MTU: 1500},
			PeerName:      clientIf,
			PeerNamespace: netlink.NsFd(l.client.FD()),
		})
	})
	if err != nil {
		return nil, fmt.Errorf("veth pair: %w", err)
	}
	if err := l.server.Do(func() error { return setUp(serverIf, serverAddr) }); err != nil {
		return nil, err
	}
	if err := l.client.Do(func() error { return setUp(clientIf, clientAddr) }); err != nil {
		return nil, err
	}
	return l, l.client.Do(carrier)
}

// setUp makes an interface of the calling thread's namespace ready for use.
func setUp(name string, addr netip.Prefix) error {
	// Nothing on a veth pair fills in the checksums that the kernel leaves out.
	offloads(name)
	// Without addresses of its own making on the wire the kernel keeps quiet there.
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0)
	for _, n := range []string{"lo", name} {
		link, err := netlink.LinkByName(n)
		if err != nil {
			return fmt.Errorf("%s: %w", n, err)
		}
		if n == name {
			a := &netlink.Addr{IPNet: &net.IPNet{IP: addr.Addr().AsSlice(), Mask: net.CIDRMask(addr.Bits(), 32)}}
			if err := netlink.AddrAdd(link, a); err != nil {
				return fmt.Errorf("%s: address %s: %w", name, addr, err)
			}
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("set %s up: %w", n, err)
		}
	}
	return nil
}

// offloads turns off what the kernel would leave to the other end. A feature
// that the kernel does not have is not on either.
func offloads(name string) {
	e, err := ethtool.NewEthtool()
	if err != nil {
		return
	}
	defer e.Close()
	for _, f := range []string{"tx-checksum-ip-generic", "tx-checksum-sctp", "tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-generic-segmentation", "rx-gro"} {
		_ = e.Change(name, map[string]bool{f: false})
	}
}

// carrier waits until the wire carries packets.
func carrier() error {
	for range 500 {
		link, err := netlink.LinkByName(clientIf)
		if err != nil {
			return err
		}
		if link.Attrs().OperState == netlink.OperUp {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("%s has no carrier", clientIf)
}

func (l *lab) close() {
	for _, n := range []*sock.Netns{l.server, l.client} {
		if n != nil {
			_ = n.Close()
		}
	}
}
