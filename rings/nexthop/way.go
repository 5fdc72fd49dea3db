package nexthop

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// State says whether packets can go.
type State uint8

const (
	// Pending: the kernel has been asked and has not answered yet.
	Pending State = iota
	// Ready: Header is right.
	Ready
	// Failed: there is no way at present; Reason says why.
	Failed
)

func (s State) String() string {
	switch s {
	case Pending:
		return "pending"
	case Ready:
		return "ready"
	default:
		return "failed"
	}
}

// Way is how packets for a destination leave. It is never changed once it is
// published.
type Way struct {
	State  State
	Reason string // of a Failed way

	Index int        // the interface to send by
	Src   netip.Addr // the source address that the kernel would choose
	Next  netip.Addr // the next hop: a gateway, or the destination itself
	MTU   int        // largest IP packet

	header [ethernetTagged]byte
	n      int
}

// Header returns what goes in front of the packet: 14 bytes of Ethernet, 18
// with a VLAN tag, none where there is no link header. Only for a Ready way.
func (w *Way) Header() []byte { return w.header[:w.n] }

// Lengths of Ethernet headers, without and with a tag (IEEE 802.1Q).
const (
	ethernet       = 14
	ethernetTagged = 18
)

// link is what matters of an interface.
type link struct {
	name   string
	index  int
	parent int // of a VLAN
	up     bool
	mtu    int
	mac    [6]byte
	kind   kind
	tag    uint16 // VLAN: ID
	tpid   uint16 // VLAN: type of the tag
}

type kind uint8

const (
	kindARP   kind = iota // Ethernet with address resolution
	kindNoARP             // Ethernet without: loopback, IFF_NOARP
	kindIP                // no link header
	kindOther             // not supported
)

func newLink(l netlink.Link) link {
	a := l.Attrs()
	k := link{name: a.Name, index: a.Index, up: a.RawFlags&unix.IFF_UP != 0, mtu: a.MTU}
	copy(k.mac[:], a.HardwareAddr)
	switch a.EncapType {
	case "ether":
		if a.RawFlags&unix.IFF_NOARP != 0 {
			k.kind = kindNoARP
		}
	case "loopback":
		k.kind = kindNoARP
	case "none", "ppp":
		k.kind = kindIP
	default:
		k.kind = kindOther
	}
	if v, ok := l.(*netlink.Vlan); ok {
		k.parent, k.tag, k.tpid = a.ParentIndex, uint16(v.VlanId), uint16(v.VlanProtocol)
		if k.tpid == 0 {
			k.tpid = unix.ETH_P_8021Q
		}
	}
	return k
}

// route is the kernel's answer for a destination.
type route struct {
	index int
	v6    bool // of the destination; the next hop may be of the other kind
	next  netip.Addr
	src   netip.Addr
	mtu   int    // 0: the interface's
	err   string // there is none
}

// neighbour is the kernel's entry for a next hop.
type neighbour struct {
	mac   [6]byte
	state int // NUD_…; 0: unknown, and asked for
}

// usable are the states in which the kernel would send to the address too.
const usable = netlink.NUD_PERMANENT | netlink.NUD_NOARP | netlink.NUD_REACHABLE | netlink.NUD_STALE | netlink.NUD_DELAY | netlink.NUD_PROBE

// neighKey names a next hop.
type neighKey struct {
	index int
	addr  netip.Addr
}

func failed(format string, args ...any) Way {
	return Way{State: Failed, Reason: fmt.Sprintf(format, args...)}
}

// build puts together the way for a route. asks is the neighbour it depends
// on, if it does.
func (t *Table) build(r route) (w Way, asks neighKey) {
	if r.err != "" {
		return failed("%s", r.err), asks
	}
	l, ok := t.links[r.index]
	if !ok {
		return failed("interface %d is gone", r.index), asks
	}
	port, tagged := l, false
	if !t.ours[l.name] {
		parent, ok := t.links[l.parent]
		if l.parent == 0 || !ok || !t.ours[parent.name] {
			return failed("the route leaves by %s, not by %s", l.name, strings.Join(t.names, " or ")), asks
		}
		port, tagged = parent, true
	}
	if !l.up {
		return failed("%s is down", l.name), asks
	}
	if !port.up {
		return failed("%s is down", port.name), asks
	}
	w = Way{State: Ready, Index: port.index, Src: r.src, Next: r.next, MTU: l.mtu}
	if r.mtu > 0 && r.mtu < w.MTU {
		w.MTU = r.mtu
	}
	dst := l.mac // as the kernel does where nobody is asked
	switch l.kind {
	case kindIP:
		return w, asks
	case kindOther:
		return failed("%s is of a type that is not supported", l.name), asks
	case kindARP:
		asks = neighKey{l.index, r.next}
		n := t.neighs[asks]
		switch {
		case n.state&usable != 0:
			dst = n.mac
		case n.state == netlink.NUD_FAILED:
			f := failed("%s does not answer on %s", r.next, l.name)
			f.Index, f.Src, f.Next, f.MTU = w.Index, w.Src, w.Next, w.MTU
			return f, asks
		default:
			w.State = Pending
			return w, asks
		}
	default: // the others need nothing
	}
	h := append(append(w.header[:0], dst[:]...), l.mac[:]...)
	if tagged {
		h = binary.BigEndian.AppendUint16(h, l.tpid)
		h = binary.BigEndian.AppendUint16(h, l.tag)
	}
	typ := uint16(unix.ETH_P_IP)
	if r.v6 {
		typ = unix.ETH_P_IPV6
	}
	h = binary.BigEndian.AppendUint16(h, typ)
	w.n = len(h)
	return w, asks
}
