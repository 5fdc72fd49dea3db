// Package nexthop tells a port where a packet has to go: it asks
// the kernel for routes and neighbours, listens for their changes, and keeps
// for each destination a ready-made link header that the packet path reads
// without a lock.
//
// The kernel never sees our packets, so it would let the neighbour entries
// fade: those in use are kept alive by asking it to use them (NTF_USE), upon which
// it verifies them by its own rules.
package nexthop

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Config describes a table.
type Config struct {
	// Interfaces are the names of those that packets may leave by. A VLAN on
	// top of one counts as part of it, with the tag in the header.
	Interfaces []string

	// Notify, if set, is called after ways have changed, from the table's own
	// goroutine. It must not block, nor call the table.
	Notify func()

	// Interval is how often entries in use are looked after; 0: 1 s.
	Interval time.Duration
}

const (
	defaultInterval = time.Second
	settleTime      = 20 * time.Millisecond // between the first news of routes and asking anew
	refreshEvery    = 60                    // intervals in which every route is asked for anew
	eventBacklog    = 256
	eventBuffer     = 4 << 20
)

// Table holds the next hops. Its methods may be called from any goroutine; it
// works in the network namespace that it was made in.
type Table struct {
	names    []string
	ours     map[string]bool // by name
	notify   func()
	interval time.Duration

	mu     sync.Mutex
	hops   map[hopKey]*Hop
	fresh  []*Hop // made, not yet asked for
	closed bool

	wake     chan struct{} // there are fresh hops
	done     chan struct{}
	finished sync.WaitGroup
	events   chan event
	news     *nl.NetlinkSocket
	nl       *netlink.Handle

	// Owned by the goroutine.
	links   map[int]link
	neighs  map[neighKey]neighbour
	dirty   map[neighKey]bool // neighbours that changed since the last publish
	moved   []netip.Prefix    // routes that changed since the last reroute
	gone    []netip.Addr      // own addresses that did
	reload  bool              // events were lost: ask for everything
	changed bool              // ways have: notify
	turn    int               // of refresh
}

type hopKey struct{ src, dst netip.Addr }

// everywhere is all destinations.
var everywhere = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}

// Hop is one destination. Load may be called from any goroutine.
type Hop struct {
	way  atomic.Pointer[Way]
	used atomic.Bool

	t    *Table
	key  hopKey
	refs int // guarded by t.mu

	// Owned by the table's goroutine.
	route route
	asks  neighKey
}

// New makes a table for interfaces, which must exist.
func New(cfg Config) (*Table, error) {
	t := &Table{
		names:    cfg.Interfaces,
		ours:     map[string]bool{},
		notify:   cfg.Notify,
		interval: cfg.Interval,
		hops:     map[hopKey]*Hop{},
		wake:     make(chan struct{}, 1),
		done:     make(chan struct{}),
		events:   make(chan event, eventBacklog),
		dirty:    map[neighKey]bool{},
	}
	if t.interval <= 0 {
		t.interval = defaultInterval
	}
	if t.notify == nil {
		t.notify = func() {}
	}
	for _, name := range cfg.Interfaces {
		t.ours[name] = true
	}
	if err := t.start(cfg.Interfaces); err != nil {
		return nil, fmt.Errorf("rings: next hops: %w", err)
	}
	return t, nil
}

func (t *Table) start(names []string) (err error) {
	if t.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer func() {
		if err != nil {
			t.nl.Close()
		}
	}()
	// First listen, then ask: nothing is missed.
	t.news, err = nl.SubscribeAt(netns.None(), netns.None(), unix.NETLINK_ROUTE,
		unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink events: %w", err)
	}
	_ = t.news.SetReceiveBufferSize(eventBuffer, true)
	if err := t.load(); err != nil {
		t.news.Close()
		return err
	}
	for _, name := range names {
		if !t.present(name) {
			t.news.Close()
			return fmt.Errorf("interface %s: %w", name, unix.ENODEV)
		}
	}
	t.finished.Go(t.listen)
	t.finished.Go(t.run)
	return nil
}

func (t *Table) present(name string) bool {
	for _, l := range t.links {
		if l.name == name {
			return true
		}
	}
	return false
}

// Close ends the table. Ways that were loaded stay as they are.
func (t *Table) Close() error {
	t.mu.Lock()
	was := t.closed
	t.closed = true
	t.mu.Unlock()
	if was {
		return nil
	}
	close(t.done)
	t.news.Close()
	t.finished.Wait()
	t.nl.Close()
	return nil
}

// Hop returns the hop to a destination. It does not block: the way is
// Pending at first. The caller releases it.
func (t *Table) Hop(dst netip.Addr) *Hop { return t.HopFrom(netip.Addr{}, dst) }

// HopFrom is Hop for packets from a certain source address: it matters where
// rules route by source.
func (t *Table) HopFrom(src, dst netip.Addr) *Hop {
	k := hopKey{src.Unmap(), dst.Unmap()}
	t.mu.Lock()
	defer t.mu.Unlock()
	if h, ok := t.hops[k]; ok {
		h.refs++
		return h
	}
	h := &Hop{t: t, key: k, refs: 1}
	h.way.Store(&Way{})
	if t.closed {
		w := failed("the table of next hops is closed")
		h.way.Store(&w)
	}
	t.hops[k] = h
	t.fresh = append(t.fresh, h)
	select {
	case t.wake <- struct{}{}:
	default:
	}
	return h
}

// Dst returns the destination.
func (h *Hop) Dst() netip.Addr { return h.key.dst }

// Load returns the way as it is now, never nil, and marks the hop as in use.
// It takes no lock and allocates nothing; the way is not to be changed.
func (h *Hop) Load() *Way {
	if !h.used.Load() {
		h.used.Store(true)
	}
	return h.way.Load()
}

// Release gives the hop back. Each call of Hop wants one.
func (h *Hop) Release() {
	h.t.mu.Lock()
	defer h.t.mu.Unlock()
	if h.refs--; h.refs == 0 {
		delete(h.t.hops, h.key)
	}
}

// all returns the hops there are.
func (t *Table) all() []*Hop {
	t.mu.Lock()
	defer t.mu.Unlock()
	hs := make([]*Hop, 0, len(t.hops))
	for _, h := range t.hops {
		hs = append(hs, h)
	}
	return hs
}

// run is the table's goroutine.
func (t *Table) run() {
	tick := time.NewTicker(t.interval)
	defer tick.Stop()
	var settle <-chan time.Time
	for {
		select {
		case <-t.done:
			return
		case <-t.wake:
		case e := <-t.events:
			t.take(e)
			for more := true; more; {
				select {
				case e := <-t.events:
					t.take(e)
				default:
					more = false
				}
			}
		case <-settle:
			settle = nil
			t.reroute()
		case <-tick.C:
			t.lookAfter()
		}
		if t.reload {
			t.reload = t.load() != nil // if it fails, the next time round
			t.moved = append(t.moved, everywhere...)
		}
		if len(t.moved)+len(t.gone) > 0 && settle == nil {
			settle = time.After(settleTime)
		}
		t.askFresh()
		t.publishDirty()
		if t.changed {
			t.changed = false
			t.notify()
		}
	}
}

// askFresh finds the routes of new hops.
func (t *Table) askFresh() {
	t.mu.Lock()
	fresh := t.fresh
	t.fresh = nil
	t.mu.Unlock()
	for _, h := range fresh {
		h.route = t.lookup(h.key)
		t.publish(h)
	}
}

// reroute asks again for every hop that the changed routes may concern.
func (t *Table) reroute() {
	moved, gone := t.moved, t.gone
	t.moved, t.gone = nil, nil
	hosts := map[netip.Addr]bool{}
	var nets []netip.Prefix
	for _, p := range moved {
		if p.IsSingleIP() {
			hosts[p.Addr()] = true
		} else {
			nets = append(nets, p)
		}
	}
	own := map[netip.Addr]bool{}
	for _, a := range gone {
		own[a] = true
	}
	for _, h := range t.all() {
		concerns := hosts[h.key.dst] || own[h.route.src] || own[h.key.src]
		for i := 0; i < len(nets) && !concerns; i++ {
			concerns = nets[i].Contains(h.key.dst)
		}
		if concerns {
			h.route = t.lookup(h.key)
			t.publish(h)
		}
	}
}

// publishDirty renews the hops whose neighbour has changed.
func (t *Table) publishDirty() {
	if len(t.dirty) == 0 {
		return
	}
	for _, h := range t.all() {
		if t.dirty[h.asks] {
			t.publish(h)
		}
	}
	clear(t.dirty)
}

// publish makes the hop's way from what is known, and asks for what is not.
func (t *Table) publish(h *Hop) {
	old := h.way.Load()
	w, asks := t.build(h.route)
	h.asks = asks
	if w.State == Pending {
		if _, asked := t.neighs[asks]; !asked {
			t.neighs[asks] = neighbour{}
			t.solicit(asks)
		}
		// The kernel dropped its entry, not the neighbour its address: go on
		// till it has found out anew.
		if old.State == Ready && old.Next == w.Next && old.Index == w.Index {
			w.State, w.header, w.n = Ready, old.header, old.n
		}
	}
	if w != *old {
		h.way.Store(&w)
		t.changed = true
	}
}

// lookAfter keeps alive what is in use, asks again for what is missing, and
// for a part of the routes, whose path MTUs and rules change without notice.
func (t *Table) lookAfter() {
	hops := t.all()
	asked := map[neighKey]bool{}
	for i, h := range hops {
		used := h.used.Swap(false)
		if i%refreshEvery == t.turn && used {
			h.route = t.lookup(h.key)
			t.publish(h)
		}
		n, known := t.neighs[h.asks]
		if !known || asked[h.asks] {
			continue
		}
		switch {
		case n.state == 0, // unknown
			used && n.state&(netlink.NUD_STALE|netlink.NUD_FAILED) != 0:
			asked[h.asks] = true
			t.solicit(h.asks)
		}
	}
	t.turn = (t.turn + 1) % refreshEvery
}

// solicit makes the kernel find or verify a neighbour. An error will show as
// the neighbour's or the link's state.
func (t *Table) solicit(k neighKey) {
	_ = t.nl.NeighSet(&netlink.Neigh{LinkIndex: k.index, IP: k.addr.AsSlice(), Flags: netlink.NTF_USE})
}

// lookup asks the kernel for a route.
func (t *Table) lookup(k hopKey) route {
	var opts netlink.RouteGetOptions
	if k.src.IsValid() {
		opts.SrcAddr = k.src.AsSlice()
	}
	rs, err := t.nl.RouteGetWithOptions(k.dst.AsSlice(), &opts)
	if err == nil && len(rs) == 0 {
		err = unix.ENETUNREACH
	}
	if err != nil {
		return route{err: fmt.Sprintf("no route to %s: %v", k.dst, err)}
	}
	if typ := rs[0].Type; typ != unix.RTN_UNICAST && typ != unix.RTN_LOCAL {
		return route{err: fmt.Sprintf("%s is not the address of one host", k.dst)}
	}
	r := route{index: rs[0].LinkIndex, v6: k.dst.Is6(), next: k.dst, src: k.src, mtu: rs[0].MTU}
	if !r.src.IsValid() {
		r.src = addrOf(rs[0].Src)
	}
	if gw := addrOf(rs[0].Gw); gw.IsValid() && !gw.IsUnspecified() {
		r.next = gw
	} else if via, ok := rs[0].Via.(*netlink.Via); ok {
		r.next = addrOf(via.Addr) // an IPv6 gateway of an IPv4 route (RFC 5549)
	}
	return r
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// load asks the kernel for all links and neighbours.
func (t *Table) load() error {
	ls, err := t.nl.LinkList()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	ns, err := t.nl.NeighList(0, netlink.FAMILY_V4)
	if err == nil {
		var v6 []netlink.Neigh
		if v6, err = t.nl.NeighList(0, netlink.FAMILY_V6); err != nil {
			err = nil // a kernel without IPv6
		}
		ns = append(ns, v6...)
	}
	if err != nil {
		return fmt.Errorf("list neighbours: %w", err)
	}
	t.links = make(map[int]link, len(ls))
	for _, l := range ls {
		t.links[l.Attrs().Index] = newLink(l)
	}
	t.neighs = make(map[neighKey]neighbour, len(ns))
	for i := range ns {
		t.neighbour(&ns[i], true)
	}
	return nil
}

// neighbour notes what the kernel says about a neighbour.
func (t *Table) neighbour(n *netlink.Neigh, there bool) {
	a := addrOf(n.IP)
	if !a.IsValid() || n.Flags&netlink.NTF_PROXY != 0 {
		return
	}
	k := neighKey{n.LinkIndex, a}
	old, known := t.neighs[k]
	switch {
	case !there && !known:
		return
	case !there,
		// So it looks too when an entry is deleted by hand; ask once more
		// before believing that a neighbour that was there is gone.
		n.State == netlink.NUD_FAILED && old.state&usable != 0:
		delete(t.neighs, k)
	default:
		e := neighbour{state: n.State}
		copy(e.mac[:], n.HardwareAddr)
		t.neighs[k] = e
	}
	t.dirty[k] = true
}

// event is a message of the kernel's, or the news that some were lost.
type event struct {
	kind   uint16 // RTM_…; 0: lost
	header unix.NlMsghdr
	data   []byte
}

// listen hands the kernel's messages to the table's goroutine.
func (t *Table) listen() {
	post := func(e event) bool {
		select {
		case t.events <- e:
			return true
		case <-t.done:
			return false
		}
	}
	for {
		msgs, from, err := t.news.Receive()
		if err != nil {
			select {
			case <-t.done: // Close has closed the socket
				return
			default:
			}
			if !post(event{}) {
				return
			}
			if !errors.Is(err, unix.ENOBUFS) {
				time.Sleep(t.interval) // not known to happen; do not spin
			}
			continue
		}
		if from.Pid != nl.PidKernel {
			continue
		}
		for _, m := range msgs {
			if !post(event{m.Header.Type, unix.NlMsghdr(m.Header), m.Data}) {
				return
			}
		}
	}
}

// take notes one event.
func (t *Table) take(e event) {
	switch e.kind {
	case 0:
		t.reload = true
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		if n, err := netlink.NeighDeserialize(e.data); err == nil && n.Family != unix.AF_BRIDGE {
			t.neighbour(n, e.kind == unix.RTM_NEWNEIGH)
		}
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		t.takeLink(e)
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		t.takeRoute(e.data)
	}
}

func (t *Table) takeLink(e event) {
	l, err := netlink.LinkDeserialize(&e.header, e.data)
	if err != nil {
		return
	}
	if fam := nl.DeserializeIfInfomsg(e.data).Family; fam == unix.AF_BRIDGE {
		return // a bridge's view of its port
	}
	k := newLink(l)
	old, known := t.links[k.index]
	if e.kind == unix.RTM_DELLINK {
		delete(t.links, k.index)
	} else {
		t.links[k.index] = k
		if known && old == k {
			return
		}
	}
	if t.ours[k.name] || t.ours[old.name] || k.parent != 0 {
		t.moved = append(t.moved, everywhere...)
	}
}

func (t *Table) takeRoute(b []byte) {
	m := nl.DeserializeRtMsg(b)
	if m.Flags&unix.RTM_F_CLONED != 0 {
		return
	}
	var dst netip.Addr
	switch m.Family {
	case unix.AF_INET:
		dst = netip.IPv4Unspecified()
	case unix.AF_INET6:
		dst = netip.IPv6Unspecified()
	default:
		return
	}
	attrs, err := nl.ParseRouteAttr(b[m.Len():])
	if err != nil {
		return
	}
	for _, a := range attrs {
		if a.Attr.Type == unix.RTA_DST {
			dst = addrOf(a.Value)
		}
	}
	p := netip.PrefixFrom(dst, int(m.Dst_len))
	if !p.IsValid() {
		return
	}
	t.moved = append(t.moved, p)
	if m.Type == unix.RTN_LOCAL && p.IsSingleIP() {
		t.gone = append(t.gone, dst)
	}
}
