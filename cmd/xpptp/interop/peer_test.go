//go:build interop

package interop

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	user       = "vpnuser"
	password   = "Secret-Pass1"
	serverName = "interop-server"

	secretsFile = user + " * " + password + " *\n"

	upLimit  = 20 * time.Second // for a call; the guest starts one pppd after the other, so more calls have more time
	endLimit = 15 * time.Second
)

// upWithin is how long n calls may take to come up.
func upWithin(n int) time.Duration { return upLimit + time.Duration(n-1)*3*time.Second }

// A policy is what one end of a call asks for and allows.
type policy struct {
	auth     []string // allowed methods, named as in xpptp's flags; nil: all four
	mppe     string   // deny, allow, prefer or require
	bits     []string // key lengths
	stateful bool
	ipv6     bool
	// quickEcho looks for dead peers every second, reorder waits long for late packets, patient for a slow peer's first answer.
	quickEcho, reorder, patient bool
	// The rest concerns the Linux end alone.
	rawHeaders bool // neither PFC nor ACFC
	kernel     bool // data path in the kernel; else pptp-linux or pptpd with a pty
}

// A credential is what a client shows.
type credential struct{ user, password string }

var goodCredential = credential{user, password}

// A call as one of its ends describes it; empty where that end does not say.
type call struct {
	device            string // network device of this end
	local, remote     string
	localLL, remoteLL string // IPv6 link-local
	cipher            string // "128 stateless", "none"
}

// A server waits for calls.
type server interface {
	machine() machine
	address() string
	start(p policy) error
	// calls waits until n calls are up and describes them.
	calls(n int) ([]call, error)
	// idle waits until no call is left.
	idle(limit time.Duration) error
	// terminate ends calls and server in order and says what was not orderly.
	terminate() error
	// kill stops it without a word to its peers: they still see a machine that answers, or not even that if the wire is cut too.
	kill() error
	log() string
}

// A client makes calls.
type client interface {
	machine() machine
	// dial makes n calls and waits until they are up. A call that is refused is errRefused.
	dial(server string, p policy, c credential, n int) ([]call, error)
	// ended waits until all calls are over.
	ended(limit time.Duration) error
	hangup() error
	kill() error
	log() string
}

// refused is the error of a call that one of the ends turned down, as opposed to one that failed for no reason given.
type refused struct{ reason string }

func (r refused) Error() string { return "refused: " + r.reason }

// pppdOptions translates a policy.
func pppdOptions(p policy, asServer bool) []string {
	o := []string{"debug", "mtu", "1396", "mru", "1400", "nobsdcomp", "nodeflate"}
	methods := map[string]string{"pap": "pap", "chap": "chap", "mschapv1": "mschap", "mschapv2": "mschap-v2"}
	for _, name := range []string{"pap", "chap", "mschapv1", "mschapv2"} {
		allowed := p.auth == nil || slices.Contains(p.auth, name)
		switch {
		case asServer && allowed:
			o = append(o, "require-"+methods[name])
		case !asServer && !allowed:
			o = append(o, "refuse-"+methods[name])
		}
	}
	if asServer {
		o = append(o, "name", serverName, "auth", "nologfd")
	} else {
		o = append(o, "noauth", "nodefaultroute", "refuse-eap")
	}
	switch p.mppe {
	case "deny":
		o = append(o, "nomppe")
	case "require":
		o = append(o, "require-mppe")
		for _, bits := range []string{"40", "128"} {
			if !slices.Contains(p.bits, bits) {
				o = append(o, "nomppe-"+bits)
			}
		}
	}
	if p.stateful {
		o = append(o, "plugin", filepath.Join(cache, "mppestateful.so"), "mppe-stateful")
	}
	if p.rawHeaders {
		o = append(o, "nopcomp", "noaccomp")
	}
	if p.ipv6 {
		o = append(o, "+ipv6")
	} else {
		o = append(o, "noipv6")
	}
	if p.quickEcho {
		o = append(o, "lcp-echo-interval", "1", "lcp-echo-failure", "3")
	}
	return o
}

func linuxMode(p policy) string {
	if p.kernel {
		return "kernel"
	}
	return "pty"
}

var (
	pppdUp      = `remote IP address`
	pppdLL      = `remote LL address`
	pppdDevice  = regexp.MustCompile(`Using interface (ppp\d+)`)
	pppdAddress = regexp.MustCompile(`(local |remote) +(IP|LL) address (\S+)`)
	pppdCipher  = regexp.MustCompile(`MPPE (\d+)-bit (state\w+) compression enabled`)
	pppdRefusal = regexp.MustCompile(`(?i).*(authentication failed|access denied|MPPE required|terminated by peer|peer refused|call refused|not authorized|MPPE disabled|EXITING|auth.* not.*possible|peer is not).*`)
)

// pppdCalls reads every call of a pppd log; the logs of several calls may be mixed, then the fields are only as good as that.
func pppdCalls(log string) []call {
	var out []call
	for _, m := range pppdDevice.FindAllStringSubmatch(log, -1) {
		out = append(out, call{device: m[1], cipher: "none"})
	}
	fill := func(pick func(*call) *string, values []string) {
		for i, v := range values {
			if i < len(out) {
				*pick(&out[i]) = v
			}
		}
	}
	found := map[string][]string{}
	for _, m := range pppdAddress.FindAllStringSubmatch(log, -1) {
		key := strings.TrimSpace(m[1]) + m[2]
		found[key] = append(found[key], m[3])
	}
	for _, m := range pppdCipher.FindAllStringSubmatch(log, -1) {
		found["cipher"] = append(found["cipher"], m[1]+" "+m[2])
	}
	fill(func(c *call) *string { return &c.local }, found["localIP"])
	fill(func(c *call) *string { return &c.remote }, found["remoteIP"])
	fill(func(c *call) *string { return &c.localLL }, found["localLL"])
	fill(func(c *call) *string { return &c.remoteLL }, found["remoteLL"])
	fill(func(c *call) *string { return &c.cipher }, found["cipher"])
	return out
}

func pppdUpPatterns(p policy) []string {
	if p.ipv6 {
		return []string{pppdUp, pppdLL}
	}
	return []string{pppdUp}
}

// report is what guest.await_log and guest.await_end print.
type report struct {
	Found  bool
	Status *int
	Log    string
}

func (g *guest) report(limit time.Duration, format string, args ...any) (report, error) {
	out, err := g.python(limit+10*time.Second, format, args...)
	if err != nil {
		return report{}, fmt.Errorf("%w: %s", err, out)
	}
	var r report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		return report{}, fmt.Errorf("%w in %q", err, out)
	}
	return r, nil
}

// linuxServer is pptpd with pppd, or a kernel PPTP socket with pppd (one call).
type linuxServer struct {
	g  *guest
	ip string
	p  policy
}

func (s *linuxServer) machine() machine { return s.g }
func (s *linuxServer) address() string  { return s.ip }

func (s *linuxServer) start(p policy) error {
	s.p = p
	options := pppdOptions(p, true)
	if p.kernel {
		options = append(options, tunnelIP+":192.168.77.11")
	}
	pool := fmt.Sprintf("localip %s\nremoteip %s\n", tunnelIP, tunnelPool)
	out, err := s.g.python(30*time.Second, "guest.server(%q, %q, %q, %s, %q)", linuxMode(p), s.ip, filepath.Join(cache, "kpptp.so"), pyList(options), pool)
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func (s *linuxServer) calls(n int) ([]call, error) {
	pattern := fmt.Sprintf("(?s)(%s.*){%d}", pppdUpPatterns(s.p)[len(pppdUpPatterns(s.p))-1], n)
	limit := upWithin(n)
	r, err := s.g.report(limit, "return guest.await_log('server', %s, %v)", pyList([]string{pattern}), limit.Seconds())
	if err != nil {
		return nil, err
	}
	if !r.Found {
		return nil, fmt.Errorf("server: %d calls did not come up", n)
	}
	return pppdCalls(r.Log), nil
}

func (s *linuxServer) idle(limit time.Duration) error { return s.g.noLinks(limit) }

func (g *guest) noLinks(limit time.Duration) error {
	out, err := g.python(limit+10*time.Second, "return guest.await_links(0, %v)", limit.Seconds())
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	if strings.TrimSpace(out) != "0" {
		return fmt.Errorf("guest %s: %s calls left after %v", g.name, strings.TrimSpace(out), limit)
	}
	return nil
}

func (s *linuxServer) signal(name string, processes ...string) error {
	out, err := s.g.python(10*time.Second, "guest.signal_all(%q, *%s)", name, pyList(processes))
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func (s *linuxServer) terminate() error {
	if err := s.signal("SIGTERM", "pppd"); err != nil {
		return err
	}
	if err := s.idle(endLimit); err != nil {
		return err
	}
	return s.signal("SIGTERM", "pptpd")
}

func (s *linuxServer) kill() error {
	return s.signal("SIGKILL", "pptpd", "pptpctrl", "pppd")
}

func (s *linuxServer) log() string { return s.g.logs() }

func (g *guest) logs() string {
	out, err := g.python(10*time.Second, "return guest.logs()")
	if err != nil {
		out += err.Error()
	}
	return out
}

// linuxClient is pptp-linux with pppd, or a kernel PPTP socket with pppd.
type linuxClient struct {
	g     *guest
	names []string
	// private gives this client a control connection of its own, also if others on its machine call the same server.
	private bool
}

func (c *linuxClient) machine() machine { return c.g }

func (c *linuxClient) dial(server string, p policy, cr credential, n int) ([]call, error) {
	options := append(pppdOptions(p, false), "user", cr.user, "password", cr.password)
	script := ""
	if c.private {
		script = "guest.private_pptp(); "
	}
	var calls []call
	for range n {
		name := fmt.Sprintf("client%d", c.g.jobs.Add(1))
		c.names = append(c.names, name)
		out, err := c.g.python(10*time.Second, script+"guest.client(%q, %q, %q, %q, %s)", name, linuxMode(p), server, filepath.Join(cache, "kpptp.so"), pyList(options))
		if err != nil {
			return nil, fmt.Errorf("%w: %s", err, out)
		}
	}
	for _, name := range c.names[len(c.names)-n:] {
		r, err := c.g.report(upLimit, "return guest.await_log(%q, %s, %v)", name, pyList(pppdUpPatterns(p)), upLimit.Seconds())
		switch {
		case err != nil:
			return nil, err
		case r.Found:
			calls = append(calls, pppdCalls(r.Log)...)
		case r.Status != nil:
			reason := strings.Join(pppdRefusal.FindAllString(r.Log, -1), "; ")
			if reason == "" {
				return nil, fmt.Errorf("pppd ended with status %d", *r.Status)
			}
			return nil, refused{fmt.Sprintf("pppd status %d: %s", *r.Status, reason)}
		default:
			return nil, fmt.Errorf("not up after %v", upLimit)
		}
	}
	return calls, nil
}

func (c *linuxClient) ended(limit time.Duration) error {
	for _, name := range c.names {
		r, err := c.g.report(limit, "return guest.await_end(%q, %v)", name, limit.Seconds())
		if err != nil {
			return err
		}
		if r.Status == nil {
			return fmt.Errorf("pppd of %s still runs after %v", name, limit)
		}
	}
	return nil
}

func (c *linuxClient) hangup() error {
	if out, err := c.g.python(10*time.Second, "guest.signal_all('SIGTERM', 'pppd')"); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return c.ended(endLimit)
}

func (c *linuxClient) kill() error {
	out, err := c.g.python(10*time.Second, "guest.signal_all('SIGKILL', 'pppd', 'pptp')")
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func (c *linuxClient) log() string { return c.g.logs() }
