package hostnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink"
)

// protocol marks our routes in the kernel's table, so that they can be told
// from the operator's. Its number is from those that nobody has claimed in
// rtnetlink(7) and iproute2.
const protocol netlink.RouteProtocol = 184

// halves of the address space: together they are the default route, and
// longer than it.
var halves = [...]netip.Prefix{
	netip.PrefixFrom(netip.AddrFrom4([4]byte{0}), 1),
	netip.PrefixFrom(netip.AddrFrom4([4]byte{128}), 1),
}

// routes are those that a call gets.
type routes struct {
	nl   *netlink.Handle
	ours []*netlink.Route // in the order they were added
}

func newRoutes() (*routes, error) {
	nl, err := netlink.NewHandle(syscall.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("hostnet: netlink: %w", err)
	}
	return &routes{nl: nl}, nil
}

func (r *routes) close() { r.nl.Close() }

// divert pins the server to the way it is reached now and routes prefixes to
// the link. On an error nothing is changed.
func (r *routes) divert(server netip.Addr, link int, src netip.Addr, through []netip.Prefix) (err error) {
	defer func() {
		if err != nil {
			_ = r.restore()
		}
	}()
	if err := r.pin(server, link); err != nil {
		return err
	}
	for _, p := range through {
		old, err := r.to(p)
		if err != nil {
			return err
		}
		for _, o := range old {
			if o.Protocol != protocol || o.LinkIndex != link {
				return fmt.Errorf("hostnet: there is a route to %s already: %s", p, o)
			}
		}
		route := &netlink.Route{Dst: ipNet(p), LinkIndex: link, Scope: netlink.SCOPE_LINK, Src: src.AsSlice(), Protocol: protocol}
		if err := r.nl.RouteReplace(route); err != nil {
			return fmt.Errorf("hostnet: route %s: %w", p, err)
		}
		r.ours = append(r.ours, route)
	}
	return nil
}

// pin gives the server a host route by its present way.
func (r *routes) pin(server netip.Addr, link int) error {
	if err := r.unpin(server); err != nil {
		return err
	}
	host := netip.PrefixFrom(server, 32)
	old, err := r.to(host)
	if err != nil {
		return err
	}
	if len(old) > 0 {
		return nil // the operator's own, as good as ours
	}
	way, err := r.nl.RouteGet(server.AsSlice())
	if err != nil || len(way) == 0 {
		return fmt.Errorf("hostnet: no route to the server %s: %w", server, err)
	}
	switch w := way[0]; {
	case w.Type == syscall.RTN_LOCAL:
		return nil // this host itself
	case w.LinkIndex == link:
		return fmt.Errorf("hostnet: the way to the server %s leads through the call itself", server)
	default:
		route := &netlink.Route{Dst: ipNet(host), LinkIndex: w.LinkIndex, Gw: w.Gw, Protocol: protocol}
		if w.Gw == nil {
			route.Scope = netlink.SCOPE_LINK
		}
		if err := r.nl.RouteAdd(route); err != nil {
			return fmt.Errorf("hostnet: host route to the server %s: %w", server, err)
		}
		r.ours = append(r.ours, route)
	}
	return nil
}

// unpin deletes a host route of ours to the server.
func (r *routes) unpin(server netip.Addr) error {
	old, err := r.to(netip.PrefixFrom(server, 32))
	if err != nil {
		return err
	}
	for _, o := range old {
		if o.Protocol == protocol {
			if err := r.nl.RouteDel(&o); err != nil && !gone(err) {
				return fmt.Errorf("hostnet: delete old route to %s: %w", server, err)
			}
		}
	}
	return nil
}

// to returns the routes of the main table to exactly p.
func (r *routes) to(p netip.Prefix) ([]netlink.Route, error) {
	rs, err := r.nl.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Dst: ipNet(p)}, netlink.RT_FILTER_DST)
	if err != nil {
		return nil, fmt.Errorf("hostnet: routes to %s: %w", p, err)
	}
	return rs, nil
}

// restore deletes what was added, the last first: the server's own route stays
// until nothing leads into the call.
func (r *routes) restore() error {
	var errs []error
	for len(r.ours) > 0 {
		last := len(r.ours) - 1
		route := r.ours[last]
		r.ours = r.ours[:last]
		if err := r.nl.RouteDel(route); err != nil && !gone(err) {
			errs = append(errs, fmt.Errorf("hostnet: delete route to %s: %w", route.Dst, err))
		}
	}
	return errors.Join(errs...)
}

// gone reports whether there was nothing to delete: the link and its routes
// are gone together.
func gone(err error) bool { return errors.Is(err, syscall.ESRCH) || errors.Is(err, syscall.ENODEV) }

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
