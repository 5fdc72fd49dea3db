package lab

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

// Wire joins two namespaces by a veth pair whose ends have these names.
func Wire(a *sock.Netns, aName string, b *sock.Netns, bName string) error {
	err := a.Do(func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: aName, MTU: 1500},
			PeerName:      bName,
			PeerNamespace: netlink.NsFd(b.FD()),
		})
	})
	if err != nil {
		return fmt.Errorf("veth pair: %w", err)
	}
	return nil
}

// SetUp makes an interface of the calling thread's namespace ready for use.
func SetUp(name string, addrs ...netip.Prefix) error {
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
			if err := addAddrs(link, addrs); err != nil {
				return err
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

// Carrier waits until the wire carries packets.
func Carrier(name string) error {
	for range 500 {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if link.Attrs().OperState == netlink.OperUp {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("%s has no carrier", name)
}

func addAddrs(link netlink.Link, addrs []netip.Prefix) error {
	for _, addr := range addrs {
		a := &netlink.Addr{IPNet: &net.IPNet{IP: addr.Addr().AsSlice(), Mask: net.CIDRMask(addr.Bits(), 32)}}
		if err := netlink.AddrAdd(link, a); err != nil {
			return fmt.Errorf("%s: address %s: %w", link.Attrs().Name, addr, err)
		}
	}
	return nil
}
