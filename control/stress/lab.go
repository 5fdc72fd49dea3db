package stress

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"xpptp/control/aaa"
	"xpptp/control/config"
	"xpptp/control/lab"
	"xpptp/control/pool"
	"xpptp/control/sock"
	"xpptp/control/stress/report"
)

// Addresses of a lab. Nobody outside its namespaces sees them.
var (
	labServer = netip.MustParsePrefix("198.18.0.1/15") // RFC 2544: for benchmarks
	labClient = netip.MustParseAddr("198.18.1.1")      // the first
	labInside = netip.MustParseAddr("10.64.0.1")
)

const (
	labPool     = "10.65.0.1-10.80.255.254"
	labPassword = "stress-password"
	labServerIf = "veth0"
	labClientIf = "veth1"
	labStart    = 20 * time.Second

	// connectionsPerSource is how many control connections a lab has from one
	// address, by default: TCP has ports for some ten times as many.
	connectionsPerSource = 2000
)

// Lab is xpptp serve in a network namespace of its own, on a wire to ours.
// Its namespace has no name and no way out.
type Lab struct {
	program string
	args    []string
	dir     string
	ns      *sock.Netns
	child   *lab.Child
	port    int        // of the responder, 0: none
	far     *lab.Child // the responder
}

// NewLab makes a lab, with a server that fits the plan, and completes the plan
// for it. Our own network namespace must be ours alone: it gets the wire's
// other end and the plan's addresses. io is the server's backend.
func NewLab(ctx context.Context, p *config.Stress, program string) (l *Lab, err error) {
	l = &Lab{program: program}
	defer func() {
		if err != nil {
			_ = l.Close()
			l = nil
		}
	}()
	if l.dir, err = os.MkdirTemp("", "xpptp-stress-"); err != nil {
		return l, err
	}
	if err := l.network(p); err != nil {
		return l, err
	}
	if err := l.plan(p); err != nil {
		return l, err
	}
	return l, l.Start(ctx)
}

// network makes the wire.
func (l *Lab) network(p *config.Stress) error {
	own, err := sock.OwnNetns()
	if err != nil {
		return err
	}
	defer own.Close()
	if l.ns, err = sock.NewNetns(); err != nil {
		return err
	}
	if err := lab.Wire(l.ns, labServerIf, own, labClientIf); err != nil {
		return err
	}
	if len(p.Source) == 0 {
		connections := (p.Calls + p.CallsPerConnection - 1) / p.CallsPerConnection
		last := labClient
		for range (connections - 1) / connectionsPerSource {
			last = last.Next()
		}
		p.Source = []pool.Range{{First: labClient, Last: last}}
	}
	var addrs []netip.Prefix
	for _, a := range p.Sources() {
		if !labServer.Contains(a) || a == labServer.Addr() {
			return fmt.Errorf("source: %v is not of the lab's network, %v", a, labServer.Masked())
		}
		addrs = append(addrs, netip.PrefixFrom(a, labServer.Bits()))
	}
	if err := l.ns.Do(func() error { return lab.SetUp(labServerIf, labServer) }); err != nil {
		return err
	}
	if err := lab.SetUp(labClientIf, addrs...); err != nil {
		return err
	}
	// Many connections that come and go: all ports, and those of old ones again.
	_ = os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("1024 65535"), 0)
	_ = os.WriteFile("/proc/sys/net/ipv4/tcp_tw_reuse", []byte("1"), 0)
	return lab.Carrier(labClientIf)
}

// plan completes the plan and derives the server's settings from it.
func (l *Lab) plan(p *config.Stress) error {
	p.Server = netip.AddrPortFrom(labServer.Addr(), config.Port).String()
	p.Outside = []string{labClientIf}
	secrets := filepath.Join(l.dir, "secrets")
	if p.UsersFile != "" {
		text, err := aaa.ReadPrivate(p.UsersFile, p.AllowWorldReadableSecrets)
		if err != nil {
			return fmt.Errorf("users-file: %w", err)
		}
		if err := os.WriteFile(secrets, text, 0o600); err != nil {
			return err
		}
	} else {
		if p.PasswordFile == "" {
			p.PasswordFile = filepath.Join(l.dir, "password")
			if err := os.WriteFile(p.PasswordFile, []byte(labPassword+"\n"), 0o600); err != nil {
				return err
			}
		}
		password, err := p.Password()
		if err != nil {
			return err
		}
		if err := os.WriteFile(secrets, []byte("* * \""+password.Reveal()+"\" *\n"), 0o600); err != nil {
			return err
		}
	}
	if p.Traffic.Direction != config.Echo {
		l.port = p.Traffic.Port
	}
	l.args = []string{
		"serve", "--listen", p.Server, "--outside", labServerIf, "--io", string(p.IO),
		"--inside", inside(p), "--local", labInside.String(), "--pool", labPool, "--secrets", secrets,
		"--auth", joined(methodsOf(p)), "--mppe", string(policyOf(p)), "--mppe-keys", joined(p.MPPEKeys),
		fmt.Sprintf("--mppe-stateful=%v", p.MPPEStateful), fmt.Sprintf("--ipv6=%v", p.IPv6),
		"--mtu", fmt.Sprint(p.MTU), "--mru", fmt.Sprint(p.MRU),
		"--log-level", p.Log.Level, "--log-format", "json", "--control-socket=",
	}
	return nil
}

// inside is where the server's traffic goes: back, or to a responder.
func inside(p *config.Stress) string {
	if p.Traffic.Direction == config.Echo {
		return config.InsideReflect
	}
	return config.InsideTun
}

// methodsOf are the methods that the server takes, best first.
func methodsOf(p *config.Stress) (all []aaa.Method) {
	for _, w := range p.AuthMix {
		all = append(all, w.Choice)
	}
	slices.Sort(all)
	slices.Reverse(all)
	return slices.Compact(all)
}

// policyOf is the server's policy with which all calls of the mix come up.
func policyOf(p *config.Stress) config.Policy {
	policy := p.MPPEMix[0].Choice
	for _, w := range p.MPPEMix {
		if w.Choice != policy {
			return config.Prefer
		}
	}
	for _, m := range p.AuthMix {
		if policy == config.Require && !m.Choice.GivesKeys() {
			return config.Prefer
		}
	}
	return policy
}

func joined[T any](all []T) string {
	words := make([]string, len(all))
	for i, v := range all {
		words[i] = fmt.Sprint(v)
	}
	return strings.Join(words, ",")
}

// Command is the server's command line.
func (l *Lab) Command() []string { return append([]string{"xpptp"}, l.args...) }

// Inside is the server's address inside calls.
func (l *Lab) Inside() netip.Addr { return labInside }

// Start starts the server, and waits until it listens.
func (l *Lab) Start(ctx context.Context) (err error) {
	if l.child, err = lab.Start(l.ns, l.program, l.args, nil); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, labStart)
	defer cancel()
	for {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp4", netip.AddrPortFrom(labServer.Addr(), config.Port).String())
		if err == nil {
			_ = c.Close()
			return l.respond(ctx)
		}
		select {
		case <-l.child.Gone:
			return l.child.Because(fmt.Errorf("ended at its start: %w", l.child.Err))
		case <-ctx.Done():
			return l.child.Because(fmt.Errorf("does not listen: %w", err))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// respond starts the responder, if the plan needs one: the server has its
// inside address by now.
func (l *Lab) respond(ctx context.Context) (err error) {
	if l.port == 0 || l.far != nil {
		return nil
	}
	// It has all addresses, so that the server may go and come back.
	args := []string{"stress", "--responder", fmt.Sprintf("0.0.0.0:%d", l.port)}
	if l.far, err = lab.Start(l.ns, l.program, args, nil); err != nil {
		return err
	}
	return l.ns.Do(func() error { return taken(ctx, l.port) })
}

// taken waits until somebody has a UDP port of this namespace: until what is
// sent there is not refused.
func taken(ctx context.Context, port int) error {
	c, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	if err != nil {
		return err
	}
	defer c.Close()
	for ctx.Err() == nil {
		_, err := c.Write([]byte{0})
		if err == nil {
			_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			_, err = c.Read(make([]byte, 1))
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
	}
	return fmt.Errorf("the responder does not answer at port %d: %w", port, ctx.Err())
}

// Gone is closed when the server has ended.
func (l *Lab) Gone() <-chan struct{} { return l.child.Gone }

// Kill ends the server at once.
func (l *Lab) Kill() { l.child.Kill() }

// PID is the server's process ID.
func (l *Lab) PID() int { return l.child.PID() }

// Account ends the server in order and adds what it counted to a result: if the
// server failed, the result is not valid.
func (l *Lab) Account(r *report.Result) {
	if err := l.child.Stop(); err != nil {
		r.Valid = false
		r.InvalidReasons = append(r.InvalidReasons, fmt.Sprintf("the lab's server failed: %v", err))
	}
	_, drops := l.child.Counts()
	for _, d := range slices.Sorted(maps.Keys(drops)) {
		r.Notes = append(r.Notes, fmt.Sprintf("the lab's server dropped %d packets: %s", drops[d], d))
	}
}

// Close ends the server in order, if Account has not; its error is the server's.
func (l *Lab) Close() (err error) {
	if l.far != nil {
		l.far.Kill()
	}
	if l.child != nil {
		err = l.child.Stop()
	}
	if l.ns != nil {
		_ = l.ns.Close()
	}
	_ = os.RemoveAll(l.dir)
	return err
}
