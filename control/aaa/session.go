package aaa

import (
	"net/netip"
	"time"
)

// Grant is what a user is given besides the addresses of Result. A zero field
// leaves what the server's own settings say.
type Grant struct {
	Remote bool // a server elsewhere has said all this

	Pool        string         // take the address from the pool of this name
	Routes      []netip.Prefix // networks behind the user
	InterfaceID uint64         // IPv6 interface identifier of the peer
	Prefixes    []netip.Prefix // IPv6 prefixes of the link
	Delegated   []netip.Prefix // IPv6 prefixes for networks behind the user
	DNS, NBNS   [2]netip.Addr  // name servers told to the user

	SessionTimeout time.Duration // the longest a call may last
	IdleTimeout    time.Duration // without a packet
	Interim        time.Duration // between two accounting updates
	Rate           Rate
	Encryption     Encryption
	Filter         string   // name of a filter, for whoever knows it
	Class          [][]byte // to be repeated in accounting
}

// Rate is a limit in bits per second, seen from the user. 0 is no limit.
type Rate struct {
	Up, Down uint64
}

// Encryption tightens the server's policy for one user; it never loosens it.
type Encryption struct {
	Required bool
	Bits     []int // allowed key lengths; none: as the server's settings say
}

// Session is a call that accounting hears of. It does not change.
type Session struct {
	ID          string // unique among all calls of all runs
	User        string
	Method      Method
	Peer, Local netip.Addr // outside
	Port        uint32     // number of the call
	IP          netip.Addr // inside; invalid without IPv4
	InterfaceID uint64     // of the peer; 0 without IPv6
	Grant       Grant
}

// Usage is what a session has used so far. Bytes are those of IP packets
// inside the call, as its counters say.
type Usage struct {
	RxPackets, RxBytes uint64 // from the user
	TxPackets, TxBytes uint64 // to the user
	Time               time.Duration
}

// Cause says why a session ended. The values are those of Acct-Terminate-Cause
// (RFC 2866 §5.10).
type Cause uint32

// The causes that occur here.
const (
	CauseUserRequest        Cause = 1 // the user hung up
	CauseLostCarrier        Cause = 2 // the user went silent
	CauseIdleTimeout        Cause = 4
	CauseSessionTimeout     Cause = 5
	CauseAdminReset         Cause = 6  // an operator, or the server's Disconnect-Request
	CauseAdminReboot        Cause = 7  // we stop
	CausePortError          Cause = 8  // negotiation broke
	CauseNASError           Cause = 9  // of our own making
	CauseNASRequest         Cause = 10 // we wanted it, nothing is wrong
	CauseServiceUnavailable Cause = 15 // what the user wants is not to be had
	CauseUserError          Cause = 17 // credentials
)

// Accountant keeps the books about sessions. For each session Start comes
// first and Stop last. No method blocks.
type Accountant interface {
	// Interim is the time until the next Update of a session; 0: none.
	Interim(g *Grant) time.Duration
	Start(s *Session)
	Update(s *Session, u Usage)
	Stop(s *Session, u Usage, c Cause)
}

// Selector says which sessions are meant: those that every field fits which is
// set.
type Selector struct {
	Session, User string
	IP            netip.Addr // inside
	Peer          string     // outside address
}

// Change is what is to be different; nil leaves it.
type Change struct {
	SessionTimeout *time.Duration // since the session began; 0: none
	IdleTimeout    *time.Duration
	Interim        *time.Duration
	Up, Down       *uint64 // bits per second; 0: no limit
}

// Apply puts what c changes into g.
func (c *Change) Apply(g *Grant) {
	set(&g.SessionTimeout, c.SessionTimeout)
	set(&g.IdleTimeout, c.IdleTimeout)
	set(&g.Interim, c.Interim)
	set(&g.Rate.Up, c.Up)
	set(&g.Rate.Down, c.Down)
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

// Sessions is what may be done to the sessions that are up. done hears, from
// any goroutine, how many were meant. No method blocks.
type Sessions interface {
	Disconnect(s Selector, done func(n int))
	Change(s Selector, c Change, done func(n int))
}
