package ppp

import (
	"encoding/binary"
	"net/netip"
)

// IPV6CP (RFC 5072 section 4).

const ipv6cpInterfaceID = 1

type ipv6cp struct {
	machine
	local, peer uint64
	nakked      uint64 // what our last Configure-Nak suggested
	rejected    bool   // the peer rejected our identifier
	isUp        bool   // the host knows
}

func (c *ipv6cp) mach() *machine { return &c.machine }

func (c *ipv6cp) reset(l *Link) {
	*c = ipv6cp{machine: machine{id: c.id}}
	if c.local = l.cfg.InterfaceID; c.local == 0 {
		c.local = l.interfaceID()
	}
}

// interfaceID returns a random identifier, not zero, with the universal bit
// cleared (RFC 5072 section 4.1).
func (l *Link) interfaceID() uint64 {
	const universal = 1 << 57
	var b [8]byte
	l.rand(b[:])
	return max(binary.BigEndian.Uint64(b[:])&^universal, 1)
}

func (c *ipv6cp) request(_ *Link, b []byte) []byte {
	if !c.rejected {
		b = appendOption64(b, ipv6cpInterfaceID, c.local)
	}
	return b
}

func (c *ipv6cp) judge(l *Link, opts []byte, a *answer) {
	var got uint64
	seen := false
	for o, rest, ok := nextOption(opts); ok; o, rest, ok = nextOption(rest) {
		if !o.is(ipv6cpInterfaceID, 8) || seen {
			a.reject(o)
			continue
		}
		seen, got = true, o.u64()
		if c.acceptable(l, got) {
			continue
		}
		a.want(o, func(b []byte) []byte { return appendOption64(b, ipv6cpInterfaceID, c.suggest(l)) })
	}
	if !seen {
		a.add(func(b []byte) []byte { return appendOption64(b, ipv6cpInterfaceID, c.suggest(l)) })
	}
	if a.ok() {
		c.peer = got
	}
}

func (c *ipv6cp) acceptable(l *Link, id uint64) bool {
	if id == 0 || id == c.local {
		return false
	}
	if l.user.peerID != 0 {
		return id == l.user.peerID
	}
	check, ok := l.host.(InterfaceIDChecker)
	return !ok || check.InterfaceIDFree(id)
}

// suggest returns an identifier for the peer: the one it is due, or a random
// one that differs from ours.
func (c *ipv6cp) suggest(l *Link) uint64 {
	if c.nakked = l.user.peerID; c.nakked == 0 {
		c.nakked = l.interfaceID()
	}
	if c.nakked == c.local {
		if c.nakked = 1; c.local == 1 {
			c.nakked = 2
		}
	}
	return c.nakked
}

func (c *ipv6cp) nak(l *Link, opts []byte) {
	for o, rest, ok := nextOption(opts); ok; o, rest, ok = nextOption(rest) {
		if !o.is(ipv6cpInterfaceID, 8) {
			continue
		}
		// Our own suggestion back means that both ends draw alike: draw again.
		if c.local = o.u64(); c.local == 0 || c.local == c.nakked {
			c.local = l.interfaceID()
		}
	}
}

func (c *ipv6cp) reject(*Link, []byte) { c.rejected = true }

func (c *ipv6cp) up(l *Link) {
	if c.rejected || c.peer == 0 {
		l.event(layerIPv6CP, evClose, nil) // no identifier, no address
		l.networkGone()
		return
	}
	c.isUp = true
	l.host.NetworkUp(c.params(l))
}

func (c *ipv6cp) params(l *Link) NetParams {
	return NetParams{
		Family: IPv6, Local: linkLocal(c.local), Peer: linkLocal(c.peer), LocalID: c.local, PeerID: c.peer,
		Encrypted: l.policy().Mode == Require,
	}
}

// linkLocal returns fe80::id (RFC 5072 section 5).
func linkLocal(id uint64) netip.Addr {
	a := [16]byte{0xFE, 0x80}
	binary.BigEndian.PutUint64(a[8:], id)
	return netip.AddrFrom16(a)
}

func (c *ipv6cp) down(l *Link) {
	if c.isUp {
		c.isUp = false
		l.host.NetworkDown(IPv6)
	}
}

func (c *ipv6cp) finished(l *Link)         { l.networkGone() }
func (c *ipv6cp) terminated(l *Link)       { l.networkGone() }
func (c *ipv6cp) extra(*Link, packet) bool { return false }
