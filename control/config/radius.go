package config

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"xpptp/control/aaa"
)

// AuthSource is who knows the users.
type AuthSource string

// The sources.
const (
	AuthLocal  AuthSource = "local"  // the secrets file
	AuthRadius AuthSource = "radius" // RADIUS servers
)

func parseAuthSource(s string) (AuthSource, error) {
	if a := AuthSource(s); a == AuthLocal || a == AuthRadius {
		return a, nil
	}
	return "", fmt.Errorf("%q is none of local, radius", s)
}

// Radius is how RADIUS servers are used.
type Radius struct {
	Servers    []RadiusServer
	SecretFile string // for the servers that have none of their own

	NASIdentifier string     // "": Name
	NASAddress    netip.Addr // invalid: not told

	Timeout  time.Duration // for the first answer; it doubles
	Tries    int
	DeadTime time.Duration
	Probe    time.Duration
	Limit    int
	Queue    int

	Accounting bool
	Interim    time.Duration
	Records    int

	CoAListen  []netip.AddrPort // at most one
	CoAClients []netip.Addr     // besides the servers
	CoAWindow  time.Duration
	CoAUntimed bool
}

// RadiusServer is one server, written ADDRESS[:PORT] and options.
type RadiusServer struct {
	Auth, Acct netip.AddrPort
	SecretFile string // "": the one for all
	Weight     int
	Unsigned   bool // Message-Authenticator is optional in answers
}

// radiusPort is that of authentication; accounting has the next one (RFC 2865
// §3, RFC 2866 §3).
const radiusPort = 1812

// maxWeight is the largest weight of a server.
const maxWeight = 1000

// String is the form that parseRadiusServer reads.
func (s RadiusServer) String() string {
	text := s.Auth.String()
	if s.Acct.Port() != s.Auth.Port()+1 {
		text += fmt.Sprintf(" acct-port=%d", s.Acct.Port())
	}
	if s.SecretFile != "" {
		text += " secret=" + s.SecretFile
	}
	if s.Weight != 1 {
		text += fmt.Sprintf(" weight=%d", s.Weight)
	}
	if s.Unsigned {
		text += " message-authenticator=optional"
	}
	return text
}

// MarshalText implements encoding.TextMarshaler.
func (s RadiusServer) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// parseRadiusServer reads, for example, "192.0.2.1", "192.0.2.1:1645
// acct-port=1646" or "[2001:db8::1]:1812 secret=/etc/xpptp/other weight=0".
func parseRadiusServer(text string) (s RadiusServer, err error) {
	words := strings.Fields(text)
	if len(words) == 0 {
		return s, fmt.Errorf("%q is not a server such as 192.0.2.1", text)
	}
	if a, err := netip.ParseAddr(words[0]); err == nil {
		s.Auth = netip.AddrPortFrom(a, radiusPort)
	} else if s.Auth, err = netip.ParseAddrPort(words[0]); err != nil || s.Auth.Port() == 0 {
		return s, fmt.Errorf("%q is not an address, with or without a port, such as 192.0.2.1 or [2001:db8::1]:1812", words[0])
	}
	acct, weight := int(s.Auth.Port())+1, 1
	for _, w := range words[1:] {
		key, v, _ := strings.Cut(w, "=")
		switch key {
		case "acct-port":
			acct, err = option(v, 1, 65535)
		case "weight":
			weight, err = option(v, 0, maxWeight)
		case "secret":
			s.SecretFile, err = v, checkText(v)
			if v == "" {
				err = errors.New("no file is named")
			}
		case "message-authenticator":
			s.Unsigned = v == "optional"
			if v != "optional" && v != "required" {
				err = fmt.Errorf("%q is none of required, optional", v)
			}
		default:
			err = errors.New("allowed are acct-port=, secret=, weight= and message-authenticator=")
		}
		if err != nil {
			return s, fmt.Errorf("server %s: option %q: %w", words[0], w, err)
		}
	}
	if acct > 65535 {
		return s, fmt.Errorf("server %s: port %d has no next one for accounting: give acct-port=", words[0], s.Auth.Port())
	}
	s.Acct, s.Weight = netip.AddrPortFrom(s.Auth.Addr(), uint16(acct)), weight
	return s, nil
}

func option(s string, least, most int) (int, error) {
	var n int
	v := integer{&n, least, most}
	return n, v.Set(s)
}

// parseIP reads an IPv4 or IPv6 address.
func parseIP(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return a, fmt.Errorf("%q is not an address", s)
	}
	return a.Unmap(), nil
}

func parseUDP(s string) (netip.AddrPort, error) {
	ap, err := netip.ParseAddrPort(s)
	if err != nil || ap.Port() == 0 {
		return ap, fmt.Errorf("%q is not an address and port such as 192.0.2.9:3799 or [::]:3799", s)
	}
	return ap, nil
}

// anyAddress is an IPv4 or IPv6 address or nothing.
type anyAddress struct{ address }

func (v anyAddress) Set(s string) (err error) {
	*v.p = netip.Addr{}
	if s != "" {
		*v.p, err = parseIP(s)
	}
	return err
}
func (v anyAddress) allowed() string { return "an IPv4 or IPv6 address" }

const serverForm = "ADDRESS[:PORT], then any of acct-port=, secret=FILE, weight=, message-authenticator=optional"

func (r *Radius) fields() []field {
	return []field{
		{"radius.servers", &list[RadiusServer]{&r.Servers, "server", serverForm, 16, parseRadiusServer}, "RADIUS server; a share of requests by weight (1), none while another lives with 0"},
		{"radius.secret", text{&r.SecretFile, "file", checkText}, "file with the secret shared with the servers in its first line"},
		{"radius.nas-identifier", text{&r.NASIdentifier, "name", checkText}, "our NAS-Identifier; empty: name"},
		{"radius.nas-address", anyAddress{address{&r.NASAddress}}, "our NAS-IP-Address or NAS-IPv6-Address; empty: not told"},
		{"radius.timeout", duration{&r.Timeout, 10 * time.Millisecond, time.Minute}, "time for the first answer; it doubles with each try"},
		{"radius.tries", integer{&r.Tries, 1, 10}, "times a request is sent to one server"},
		{"radius.dead-time", duration{&r.DeadTime, time.Second, hour}, "time to leave a server alone that does not answer"},
		{"radius.probe", duration{&r.Probe, 0, hour}, "time between Status-Server to such a server, 0: none is sent"},
		{"radius.limit", integer{&r.Limit, 1, 1 << 16}, "requests under way to one server"},
		{"radius.queue", integer{&r.Queue, 1, 1 << 16}, "requests that wait for that; more are refused"},
		{"radius.accounting", boolean{&r.Accounting}, "tell the servers about calls"},
		{"radius.interim", duration{&r.Interim, 0, 24 * hour}, "time between accounting updates, unless the server says, 0: none"},
		{"radius.records", integer{&r.Records, 1, 1 << 24}, "accounting records kept for servers that do not answer"},
		{"radius.coa-listen", &list[netip.AddrPort]{&r.CoAListen, "address:port", "an address with a port", 1, parseUDP}, "address to take Disconnect and CoA requests on, port 3799 by custom; none: they are not taken"},
		{"radius.coa-clients", &list[netip.Addr]{&r.CoAClients, "address", "addresses", 64, parseIP}, "who may send them besides the servers, with the common secret"},
		{"radius.coa-window", duration{&r.CoAWindow, time.Second, hour}, "how far their Event-Timestamp may be from our clock"},
		{"radius.coa-untimed", boolean{&r.CoAUntimed}, "take them without Event-Timestamp; recorded ones can be repeated then"},
	}
}

func defaultRadius() Radius {
	return Radius{
		Timeout: time.Second, Tries: 3, DeadTime: 30 * time.Second, Probe: 5 * time.Second, Limit: 1024, Queue: 1024,
		Accounting: true, Interim: 10 * time.Minute, Records: 100_000,
		CoAWindow: 5 * time.Minute,
	}
}

// validateRadius checks where users and servers come from.
func (c *Config) validateRadius() (errs []error) {
	fail := func(key, format string, args ...any) {
		errs = append(errs, c.fault(key, format, args...))
	}
	r := &c.Radius
	if len(c.AuthSource) == 0 {
		fail("auth-source", "must not be empty")
	}
	if c.UsesSecrets() && c.Secrets == "" {
		fail("secrets", "must be set: the file of users")
	}
	if slices.Contains(c.AuthSource, AuthRadius) && len(r.Servers) == 0 {
		fail("radius.servers", "must be set: auth-source is %s", joinWords(c.AuthSource))
	}
	for i, s := range r.Servers {
		if s.SecretFile == "" && r.SecretFile == "" {
			fail("radius.servers", "%s has no secret: set radius.secret, or secret= for the server", s.Auth)
		}
		for _, o := range r.Servers[i+1:] {
			if o.Auth == s.Auth {
				fail("radius.servers", "%s is there twice", s.Auth)
			}
		}
	}
	switch {
	case len(r.CoAListen) > 0 && len(r.Servers) == 0 && len(r.CoAClients) == 0:
		fail("radius.coa-listen", "nobody may send: there are neither radius.servers nor radius.coa-clients")
	case len(r.CoAClients) > 0 && r.SecretFile == "":
		fail("radius.coa-clients", "their secret is missing: set radius.secret")
	}
	return errs
}

// UsesSecrets reports whether users come from the secrets file.
func (c *Config) UsesSecrets() bool { return slices.Contains(c.AuthSource, AuthLocal) }

// RadiusSecret reads the secret shared with a server, or, for nil, the common one.
func (c *Config) RadiusSecret(s *RadiusServer) (aaa.Secret, error) {
	key, file := "radius.secret", c.Radius.SecretFile
	if s != nil && s.SecretFile != "" {
		key, file = "radius.servers", s.SecretFile
	}
	secret, err := firstLine(file, c.AllowWorldReadableSecrets)
	if err != nil {
		return secret, c.fault(key, "%s", err)
	}
	return secret, nil
}

// firstLine reads a file with a secret in its first line.
func firstLine(path string, open bool) (aaa.Secret, error) {
	text, err := aaa.ReadPrivate(path, open)
	if err != nil {
		return aaa.Secret{}, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	line = strings.TrimSuffix(line, "\r")
	if line == "" {
		return aaa.Secret{}, fmt.Errorf("the first line of %s is empty", path)
	}
	return aaa.NewSecret(line), nil
}

func (c *Config) radiusNotes() (notes []string) {
	for _, s := range c.Radius.Servers {
		if s.Unsigned {
			notes = append(notes, "radius.servers: without Message-Authenticator who is on the way to "+s.Auth.String()+" can forge its answers (CVE-2024-3596)")
		}
	}
	if len(c.Radius.CoAListen) > 0 && c.Radius.CoAUntimed {
		notes = append(notes, "radius.coa-untimed: requests that somebody has recorded can be repeated after "+shortTime(2*c.Radius.CoAWindow))
	}
	return notes
}

// preflightRadius reads the secrets.
func (c *Config) preflightRadius() (errs []error) {
	for i := range c.Radius.Servers {
		if _, err := c.RadiusSecret(&c.Radius.Servers[i]); err != nil {
			errs = append(errs, err)
		}
	}
	if len(c.Radius.CoAClients) > 0 {
		if _, err := c.RadiusSecret(nil); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}
