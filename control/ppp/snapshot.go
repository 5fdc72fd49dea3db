package ppp

// Snapshot is a link's state for people and programs that look at it.
type Snapshot struct {
	Phase Phase
	// The automata's states by their RFC 1661 names, such as "opened".
	LCP, CCP, IPCP, IPv6CP string
	// Options is what LCP agreed on, once it has.
	Options LCPParams
	// Peer is the name that the peer authenticated itself with, empty when it
	// did not (yet).
	Peer string
	// SendBits and RecvBits are MPPE's key lengths, 0 for a direction that is
	// not encrypted.
	SendBits, RecvBits         int
	SendStateful, RecvStateful bool
	// IPv4 and IPv6 are valid (Family is set) while that protocol is up.
	IPv4, IPv6 NetParams
	// Identification and TimeRemaining (seconds) are what the peer said of
	// itself (RFC 1570).
	Identification string
	TimeRemaining  uint32
	// EchoMissed is the number of Echo-Requests without an answer.
	EchoMissed uint8
}

// Snapshot returns the link's state.
func (l *Link) Snapshot() Snapshot {
	s := Snapshot{
		Phase: l.phase,
		LCP:   l.lcp.state.String(), CCP: l.ccp.state.String(), IPCP: l.ipcp.state.String(), IPv6CP: l.ipv6cp.state.String(),
		Peer:           l.user.name,
		Identification: l.lcp.about, TimeRemaining: l.lcp.remaining, EchoMissed: l.echo.missed,
	}
	if l.lcp.state == opened {
		s.Options = l.lcp.params()
	}
	if c := &l.ccp; c.state == opened {
		s.SendBits, s.SendStateful = c.theirs.bits.Len(), c.theirs.bits != 0 && c.theirs.stateful
		s.RecvBits, s.RecvStateful = c.ours.bits.Len(), c.ours.bits != 0 && c.ours.stateful
	}
	if l.ipcp.isUp {
		s.IPv4 = l.ipcp.params(l)
	}
	if l.ipv6cp.isUp {
		s.IPv6 = l.ipv6cp.params(l)
	}
	return s
}
