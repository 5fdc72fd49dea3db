package ppp

import "net/netip"

// IPCP (RFC 1332) with the name servers of RFC 1877.

const (
	ipcpAddress = 3
	ipcpDNS1    = 129
	ipcpNBNS1   = 130
	ipcpDNS2    = 131
	ipcpNBNS2   = 132
)

// serverKinds are the name server options in the order of ipcp.servers.
var serverKinds = [4]uint8{ipcpDNS1, ipcpNBNS1, ipcpDNS2, ipcpNBNS2}

type ip4 [4]byte

func toIP4(a netip.Addr) (ip ip4) {
	if a = a.Unmap(); a.Is4() {
		ip = a.As4()
	}
	return ip
}

// addr returns ip as an address, the invalid one for 0.0.0.0.
func (ip ip4) addr() netip.Addr {
	if ip == (ip4{}) {
		return netip.Addr{}
	}
	return netip.AddrFrom4(ip)
}

type ipcp struct {
	machine
	local, peer ip4    // ours; what the peer must have, or has
	servers     [4]ip4 // client: learned; server: given out
	given       [4]bool
	noAddress   bool // the peer rejected our address option
	fixed       bool // the peer has no choice of address
	asked       [4]bool
	isUp        bool // the host knows
}

func (c *ipcp) mach() *machine { return &c.machine }

// reset chooses what to ask for and what to give.
func (c *ipcp) reset(l *Link) {
	cfg, u := l.cfg, &l.user
	*c = ipcp{machine: machine{id: c.id}}
	c.local = toIP4(or(u.localIP, cfg.LocalIP))
	c.peer = toIP4(or(u.peerIP, cfg.PeerIP))
	c.fixed = c.peer != ip4{}
	if !cfg.Server {
		c.asked = [4]bool{cfg.AskDNS, cfg.AskNBNS, cfg.AskDNS, cfg.AskNBNS}
		return
	}
	for i := range 2 {
		c.servers[2*i] = toIP4(or(u.dns[i], cfg.DNS[i]))
		c.servers[2*i+1] = toIP4(or(u.nbns[i], cfg.NBNS[i]))
	}
	for i, s := range c.servers {
		c.given[i] = s != ip4{}
	}
}

func (c *ipcp) request(_ *Link, b []byte) []byte {
	if !c.noAddress {
		b = appendOption(b, ipcpAddress, c.local[:]...)
	}
	for i, kind := range serverKinds {
		if c.asked[i] {
			b = appendOption(b, kind, c.servers[i][:]...)
		}
	}
	return b
}

func (c *ipcp) judge(l *Link, opts []byte, a *answer) {
	peer, seen := c.peer, false
	if !c.fixed {
		peer = ip4{}
	}
	for o, rest, ok := nextOption(opts); ok; o, rest, ok = nextOption(rest) {
		if o.is(ipcpAddress, 4) {
			seen = true
			switch got := ip4(o.value()); {
			case c.fixed && got != c.peer:
				a.want(o, func(b []byte) []byte { return appendOption(b, ipcpAddress, c.peer[:]...) })
			case got == ip4{} || got == c.local && got != c.peer:
				a.reject(o) // nothing to give, or our own address
			default:
				peer = got
			}
			continue
		}
		i := serverIndex(o)
		if i < 0 || !c.given[i] {
			a.reject(o) // compression (VJ) and whatever else
			continue
		}
		if s := c.servers[i]; ip4(o.value()) != s {
			a.want(o, func(b []byte) []byte { return appendOption(b, o.kind(), s[:]...) })
		}
	}
	if !seen && c.fixed && l.cfg.Server {
		a.add(func(b []byte) []byte { return appendOption(b, ipcpAddress, c.peer[:]...) })
	}
	if a.ok() && !c.fixed {
		c.peer = peer
	}
}

// serverIndex returns the place of a name server option in ipcp.servers, -1
// for any other.
func serverIndex(o option) int {
	for i, kind := range serverKinds {
		if o.is(kind, 4) {
			return i
		}
	}
	return -1
}

func (c *ipcp) nak(l *Link, opts []byte) {
	for o, rest, ok := nextOption(opts); ok; o, rest, ok = nextOption(rest) {
		if o.is(ipcpAddress, 4) {
			// A configured address is kept; if the peer insists, it never ends, and
			// the limit on requests ends it.
			if v := ip4(o.value()); !or(l.user.localIP, l.cfg.LocalIP).IsValid() && v != (ip4{}) {
				c.local = v
			}
			continue
		}
		if i := serverIndex(o); i >= 0 && c.asked[i] {
			c.servers[i] = ip4(o.value())
		}
	}
}

func (c *ipcp) reject(_ *Link, opts []byte) {
	for o, rest, ok := nextOption(opts); ok; o, rest, ok = nextOption(rest) {
		if o.kind() == ipcpAddress {
			c.noAddress = true
			continue
		}
		if i := serverIndex(o); i >= 0 {
			c.asked[i] = false
			c.servers[i] = ip4{}
		}
	}
}

func (c *ipcp) up(l *Link) {
	p := c.params(l)
	if !l.cfg.Server && !p.Local.IsValid() {
		l.event(layerIPCP, evClose, nil) // no address, no IPv4
		l.networkGone()
		return
	}
	c.isUp = true
	l.host.NetworkUp(p)
}

func (c *ipcp) params(l *Link) NetParams {
	p := NetParams{Family: IPv4, Local: c.local.addr(), Peer: c.peer.addr(), Encrypted: l.policy().Mode == Require}
	for i := range 2 {
		p.DNS[i], p.NBNS[i] = c.servers[2*i].addr(), c.servers[2*i+1].addr()
	}
	return p
}

func (c *ipcp) down(l *Link) {
	if c.isUp {
		c.isUp = false
		l.host.NetworkDown(IPv4)
	}
}

func (c *ipcp) finished(l *Link)             { l.networkGone() }
func (c *ipcp) terminated(l *Link)           { l.networkGone() }
func (c *ipcp) extra(l *Link, p packet) bool { return false }
