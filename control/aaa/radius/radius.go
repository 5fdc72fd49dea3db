// Package radius asks RADIUS servers: authentication (RFC 2865, RFC 2548),
// accounting (RFC 2866) and what servers ask of us while a call is up (RFC
// 5176). Codec and dictionaries are those of layeh.com/radius; the transport is
// our own:
//
//	request ──> server by weight ──> socket, identifier ──> answer, verified
//	               ^    │ no answer after Tries: dead for DeadTime, probed
//	               └────┘ next server
//
// Nothing here blocks its caller: results come by callback, from a goroutine of
// the package. All types may be used by several goroutines.
package radius

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"layeh.com/radius"
	"layeh.com/radius/rfc2865"
	"layeh.com/radius/rfc3162"

	"xpptp/control/aaa"
)

// Server is one RADIUS server.
type Server struct {
	Auth, Acct netip.AddrPort
	Secret     aaa.Secret
	Weight     int  // share of the requests; 0: only when no other lives
	Unsigned   bool // take answers without Message-Authenticator
}

func (s *Server) key() []byte { return []byte(s.Secret.Reveal()) }

// NAS is how we present ourselves.
type NAS struct {
	Identifier string
	Address    netip.Addr // invalid: not told
}

// add adds who we are to a request.
func (n *NAS) add(p *radius.Packet) error {
	var a adder
	a.add("NAS-Identifier", rfc2865.NASIdentifier_AddString(p, n.Identifier))
	switch {
	case n.Address.Is4():
		a.add("NAS-IP-Address", rfc2865.NASIPAddress_Add(p, n.Address.AsSlice()))
	case n.Address.Is6():
		a.add("NAS-IPv6-Address", rfc3162.NASIPv6Address_Add(p, n.Address.AsSlice()))
	}
	return a.err
}

// Config is what a Client does. The zero value of a field that has a default
// means that default.
type Config struct {
	Servers []Server
	NAS     NAS

	Timeout  time.Duration // for an answer; it doubles with each try (default 1 s)
	Tries    int           // sendings to one server (default 3)
	DeadTime time.Duration // for which a silent server is left alone (default 30 s)
	Probe    time.Duration // between Status-Server to a dead one; 0: none
	Limit    int           // requests under way to one server (default 1024)
	Queue    int           // requests that wait for that (default 1024)

	Records int           // accounting records kept for servers that are away (default 100,000)
	Interim time.Duration // between accounting updates unless the server says; 0: none
}

func or[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// Client asks a set of servers. It is an aaa.Authenticator and an
// aaa.Accountant.
type Client struct {
	cfg  Config
	log  *slog.Logger
	auth *group
	acct *group
	book ledger
	now  func() time.Time
}

// New makes a client. It opens no socket before the first request.
func New(cfg Config, log *slog.Logger) (*Client, error) {
	if len(cfg.Servers) == 0 {
		return nil, fmt.Errorf("radius: no server")
	}
	for _, s := range cfg.Servers {
		if len(s.key()) == 0 {
			return nil, fmt.Errorf("radius: server %s: empty secret", s.Auth)
		}
	}
	cfg.Timeout, cfg.Tries = or(cfg.Timeout, time.Second), or(cfg.Tries, 3)
	cfg.DeadTime = or(cfg.DeadTime, 30*time.Second)
	cfg.Limit, cfg.Queue, cfg.Records = or(cfg.Limit, 1024), or(cfg.Queue, 1024), or(cfg.Records, 100_000)
	c := &Client{cfg: cfg, log: log, now: time.Now}
	c.auth = newGroup("authentication", &c.cfg, log, func(s *Server) netip.AddrPort { return s.Auth })
	c.acct = newGroup("accounting", &c.cfg, log, func(s *Server) netip.AddrPort { return s.Acct })
	c.book.init(c)
	return c, nil
}

// Close ends the accounting (see Flush), then gives up what is under way and
// closes the sockets.
func (c *Client) Close(ctx context.Context) error {
	err := c.book.end(ctx)
	c.auth.close()
	c.acct.close()
	return err
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
