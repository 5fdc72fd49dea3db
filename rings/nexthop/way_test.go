package nexthop

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestBuild(t *testing.T) {
	var (
		src, dst = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
		gw       = netip.MustParseAddr("10.0.0.254")
		mac      = [6]byte{2, 0, 0, 0, 0, 1}
		their    = [6]byte{2, 0, 0, 0, 0, 2}
	)
	tab := &Table{
		names: []string{"eth0", "lo"},
		ours:  map[string]bool{"eth0": true, "lo": true, "ppp0": true, "down0": true, "ib0": true, "p2p0": true},
		links: map[int]link{
			1:  {name: "lo", index: 1, up: true, mtu: 65536, kind: kindNoARP},
			2:  {name: "eth0", index: 2, up: true, mtu: 1500, mac: mac},
			3:  {name: "eth1", index: 3, up: true, mtu: 1500, mac: mac},
			4:  {name: "eth0.100", index: 4, parent: 2, up: true, mtu: 1496, mac: mac, tag: 100, tpid: 0x8100},
			5:  {name: "eth1.100", index: 5, parent: 3, up: true, mtu: 1496, mac: mac, tag: 100, tpid: 0x8100},
			6:  {name: "ppp0", index: 6, up: true, mtu: 1492, kind: kindIP},
			7:  {name: "down0", index: 7, mtu: 1500, mac: mac},
			8:  {name: "ib0", index: 8, up: true, mtu: 2044, kind: kindOther},
			9:  {name: "p2p0", index: 9, up: true, mtu: 1500, mac: mac, kind: kindNoARP},
			10: {name: "down0.7", index: 10, parent: 7, up: true, mtu: 1500, mac: mac, tag: 7, tpid: 0x8100},
			11: {name: "eth0.s", index: 11, parent: 2, up: true, mtu: 1500, mac: mac, tag: 4000, tpid: 0x88a8},
		},
		neighs: map[neighKey]neighbour{},
	}
	tagged := append(append(append([]byte{}, their[:]...), mac[:]...), 0x81, 0, 0, 100, 8, 0)
	service := append(append(append([]byte{}, their[:]...), mac[:]...), 0x88, 0xa8, 0x0f, 0xa0, 8, 0)
	plain := append(append(append([]byte{}, their[:]...), mac[:]...), 8, 0)
	plain6 := append(append(append([]byte{}, their[:]...), mac[:]...), 0x86, 0xdd)
	self := append(append(append([]byte{}, mac[:]...), mac[:]...), 8, 0)
	for _, c := range []struct {
		name   string
		route  route
		neigh  int // state of the neighbour
		state  State
		index  int
		mtu    int
		header []byte
		reason string
	}{
		{"reachable", route{index: 2, next: dst, src: src}, netlink.NUD_REACHABLE, Ready, 2, 1500, plain, ""},
		{"IPv6", route{index: 2, v6: true, next: netip.MustParseAddr("fe80::1"), src: src}, netlink.NUD_REACHABLE, Ready, 2, 1500, plain6, ""},
		{"stale", route{index: 2, next: dst, src: src}, netlink.NUD_STALE, Ready, 2, 1500, plain, ""},
		{"probed", route{index: 2, next: dst, src: src}, netlink.NUD_PROBE, Ready, 2, 1500, plain, ""},
		{"permanent", route{index: 2, next: gw, src: src}, netlink.NUD_PERMANENT, Ready, 2, 1500, plain, ""},
		{"unknown", route{index: 2, next: dst, src: src}, 0, Pending, 2, 1500, nil, ""},
		{"asked", route{index: 2, next: dst, src: src}, netlink.NUD_INCOMPLETE, Pending, 2, 1500, nil, ""},
		{"silent", route{index: 2, next: dst, src: src}, netlink.NUD_FAILED, Failed, 2, 1500, nil, "10.0.0.2 does not answer on eth0"},
		{"route MTU", route{index: 2, next: dst, src: src, mtu: 1400}, netlink.NUD_REACHABLE, Ready, 2, 1400, plain, ""},
		{"route MTU too large", route{index: 2, next: dst, src: src, mtu: 9000}, netlink.NUD_REACHABLE, Ready, 2, 1500, plain, ""},
		{"VLAN", route{index: 4, next: dst, src: src}, netlink.NUD_REACHABLE, Ready, 2, 1496, tagged, ""},
		{"service VLAN", route{index: 11, next: dst, src: src}, netlink.NUD_REACHABLE, Ready, 2, 1500, service, ""},
		{"VLAN elsewhere", route{index: 5, next: dst, src: src}, netlink.NUD_REACHABLE, Failed, 0, 0, nil, "eth1.100, not by eth0 or lo"},
		{"VLAN on a dead link", route{index: 10, next: dst, src: src}, netlink.NUD_REACHABLE, Failed, 0, 0, nil, "down0 is down"},
		{"elsewhere", route{index: 3, next: dst, src: src}, netlink.NUD_REACHABLE, Failed, 0, 0, nil, "eth1, not by eth0 or lo"},
		{"down", route{index: 7, next: dst, src: src}, netlink.NUD_REACHABLE, Failed, 0, 0, nil, "down0 is down"},
		{"gone", route{index: 99, next: dst, src: src}, netlink.NUD_REACHABLE, Failed, 0, 0, nil, "interface 99 is gone"},
		{"no route", route{err: "no route to 10.0.0.2: network is unreachable"}, 0, Failed, 0, 0, nil, "no route to 10.0.0.2"},
		{"loopback", route{index: 1, next: dst, src: src}, 0, Ready, 1, 65536, append(make([]byte, 12), 8, 0), ""},
		{"PPP", route{index: 6, next: dst, src: src}, 0, Ready, 6, 1492, nil, ""},
		{"no ARP", route{index: 9, next: dst, src: src}, 0, Ready, 9, 1500, self, ""},
		{"other type", route{index: 8, next: dst, src: src}, 0, Failed, 0, 0, nil, "ib0 is of a type"},
	} {
		clear(tab.neighs)
		tab.neighs[neighKey{c.route.index, c.route.next}] = neighbour{mac: their, state: c.neigh}
		w, _ := tab.build(c.route)
		if w.State != c.state || w.Index != c.index || w.MTU != c.mtu || !bytes.Equal(w.Header(), c.header) {
			t.Errorf("%s: %s by %d, MTU %d, header % x; want %s by %d, MTU %d, header % x",
				c.name, w.State, w.Index, w.MTU, w.Header(), c.state, c.index, c.mtu, c.header)
		}
		if !strings.Contains(w.Reason, c.reason) || (c.reason == "") != (w.Reason == "") {
			t.Errorf("%s: reason %q, want %q", c.name, w.Reason, c.reason)
		}
		if w.State == Ready && (w.Src != src || w.Next != c.route.next) {
			t.Errorf("%s: source %s, next %s", c.name, w.Src, w.Next)
		}
	}
}

func TestStateNames(t *testing.T) {
	for s, want := range map[State]string{Pending: "pending", Ready: "ready", Failed: "failed"} {
		if s.String() != want {
			t.Errorf("state %d is called %q", s, s)
		}
	}
}
