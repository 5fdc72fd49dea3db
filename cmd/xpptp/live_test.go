package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"xpptp/control"
	"xpptp/control/demo"
	"xpptp/rings/ringtest"
)

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// net2 is a server's and a client's namespace, joined by a veth pair: "rt0"
// with 10.77.0.1 and "rt1" with 10.77.0.2.
type net2 struct {
	server, client *ringtest.NS
	rt0, rt1       *ringtest.Iface
	secrets        string
	password       string
	listen, pool   string
}

const serverIP = "10.77.0.1"

func newNet2(t *testing.T) *net2 {
	t.Helper()
	if f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0); err != nil {
		t.Skipf("needs TUN devices: %v", err)
	} else {
		f.Close()
	}
	n := &net2{server: ringtest.NewNS(t), client: ringtest.NewNS(t), listen: serverIP, pool: "10.9.0.10-10.9.0.20"}
	n.rt0, n.rt1 = ringtest.NewVeth(t, n.server, n.client, 1500)
	n.secrets = file(t, "secrets", "alice * correct-horse *\n", 0o600)
	n.password = file(t, "password", "correct-horse\n", 0o600)
	return n
}

func file(t *testing.T, name, text string, mode os.FileMode) string {
	t.Helper()
	f := filepath.Join(t.TempDir(), name)
	if err := errors.Join(os.WriteFile(f, []byte(text), mode), os.Chmod(f, mode)); err != nil {
		t.Fatal(err)
	}
	return f
}

func (n *net2) serveArgs(more ...string) []string {
	return append([]string{"serve", "--listen", n.listen, "--local", "10.9.0.1", "--pool", n.pool, "--secrets", n.secrets, "--control-socket="}, more...)
}

func (n *net2) dialArgs(more ...string) []string {
	return append([]string{"dial", "--server", serverIP, "--user", "alice", "--password-file", n.password}, more...)
}

// program is an xpptp that runs.
type program struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  text // standard output
	err  text // and error
	done chan struct{}
}

// text is what a process has written so far.
type text struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (w *text) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(b)
}

func (w *text) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

// start runs a command, xpptp if args begins with one of its, in a namespace.
func start(t *testing.T, ns *ringtest.NS, args ...string) *program {
	t.Helper()
	p := command(t, args...)
	ns.Do(p.launch)
	return p
}

func command(t *testing.T, args ...string) *program {
	p := &program{t: t, cmd: exec.Command("xpptp", args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.err
	return p
}

func (p *program) launch() {
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
	p.t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
		if p.t.Failed() {
			p.t.Logf("%v\n%s%s", p.cmd.Args, p.out.String(), p.err.String())
		}
	})
}

// ends waits for the end and checks the status and what was said.
func (p *program) ends(status int, said ...string) {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatalf("%v does not end", p.cmd.Args)
	}
	if got := p.cmd.ProcessState.ExitCode(); got != status {
		p.t.Errorf("%v: status %d, want %d", p.cmd.Args, got, status)
	}
	p.says(said...)
}

// says waits until standard error matches all patterns.
func (p *program) says(patterns ...string) {
	p.t.Helper()
	for _, pattern := range patterns {
		re := regexp.MustCompile(pattern)
		p.until(fmt.Sprintf("says %q", pattern), func() bool { return re.MatchString(p.err.String()) })
	}
}

func (p *program) until(what string, ok func() bool) {
	p.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		select {
		case <-p.done:
			if !ok() {
				p.t.Fatalf("%v has ended before it %s", p.cmd.Args, what)
			}
			return
		default:
		}
		if time.Now().After(end) {
			p.t.Fatalf("%v: not in time: %s", p.cmd.Args, what)
		}
	}
}

// events returns the lines of dial -o json of one kind.
func (p *program) events(kind string) (es []callJSON) {
	for line := range strings.Lines(p.out.String()) {
		var e callJSON
		if json.Unmarshal([]byte(line), &e) == nil && e.Event == kind {
			es = append(es, e)
		}
	}
	return es
}

// stops ends the program with a signal, in order.
func (p *program) stops() {
	p.t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	p.ends(exitOK, "msg=counters")
}

// startServer returns once it listens.
func startServer(t *testing.T, n *net2, more ...string) *program {
	t.Helper()
	p := start(t, n.server, n.serveArgs(more...)...)
	p.says("msg=listening")
	return p
}

// echoes sends a packet through a call and back, until one comes back.
func (n *net2) echoes(t *testing.T, call control.CallInfo) {
	t.Helper()
	var far, near *net.UDPConn
	open := func(ns *ringtest.NS, c **net.UDPConn, addr string) {
		ns.Do(func() {
			var err error
			if *c, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(addr)}); err != nil {
				t.Fatal(err)
			}
		})
	}
	open(n.server, &far, "10.9.0.1")
	defer far.Close()
	open(n.client, &near, call.LocalIP.String())
	defer near.Close()
	go func() {
		var b [100]byte
		for {
			k, from, err := far.ReadFromUDP(b[:])
			if err != nil {
				return
			}
			_, _ = far.WriteToUDP(b[:k], from)
		}
	}()
	var b [100]byte
	for end := time.Now().Add(patience); time.Now().Before(end); {
		_, _ = near.WriteToUDP([]byte("hello"), far.LocalAddr().(*net.UDPAddr))
		_ = near.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		if k, _, err := near.ReadFromUDP(b[:]); err == nil && string(b[:k]) == "hello" {
			return
		}
	}
	t.Errorf("call %d of %v carries nothing", call.Job, call.LocalIP)
}

func TestDemo(t *testing.T) {
	newNet2(t) // skips
	p := command(t, "demo", "--calls", "6", "--seconds", "1", "-o", "json")
	p.launch()
	p.ends(exitOK, `server  \$ xpptp serve `, `client  \$ xpptp dial `, `6/6 calls up`)
	var r demo.Report
	if err := json.Unmarshal([]byte(p.out.String()), &r); err != nil {
		t.Fatal(err)
	}
	if !r.OK || r.Up != 6 || r.Ciphers["mppe-128-stateless"] != 6 || !r.Clean() || r.Setup.Min <= 0 || r.Setup.Min > r.Setup.Max {
		t.Errorf("%+v", r)
	}
	command(t, "demo", "--calls", "501").runs(exitUsage, `--calls: 501 is not between 1 and 500`)
}

func (p *program) runs(status int, said ...string) {
	p.t.Helper()
	p.launch()
	p.ends(status, said...)
}

// What is wrong with the machine or the settings ends serve with one clear
// error, and disturbs nothing that runs.
func TestServeRefusals(t *testing.T) {
	n := newNet2(t)
	running := startServer(t, n)
	client := start(t, n.client, n.dialArgs("-o", "json")...)
	client.until("is up", func() bool { return len(client.events("up")) == 1 })

	start(t, n.server, n.serveArgs()...).ends(exitFailure, `^xpptp: listen 10\.77\.0\.1:1723: .*address already in use\n$`)
	start(t, n.server, n.serveArgs("--outside", "nosuch0")...).ends(exitUsage, `^xpptp: --outside: no interface "nosuch0": there are .*rt0`)
	n.listen, n.pool = serverIP+":1724", "10.8.0.2-9"
	start(t, n.server, n.serveArgs("--tun", "rt0")...).ends(exitFailure, `^xpptp: tun: the name "rt0" is taken by another interface: `)
	start(t, n.server, n.serveArgs("--tun", "xpptp0")...).ends(exitFailure, `^xpptp: tun: the name "xpptp0" is taken by another interface: `)

	open := file(t, "open", "alice * correct-horse *\n", 0o644)
	start(t, n.server, n.serveArgs("--secrets", open)...).ends(exitUsage, `^xpptp: --secrets: file with secrets is open to every user: .*: run chmod 600 `)
	allowed := start(t, n.server, n.serveArgs("--secrets", open, "--allow-world-readable-secrets", "--local", "10.8.0.1")...)
	allowed.says("msg=listening")
	allowed.stops()

	n.echoes(t, client.events("up")[0].Call)
	client.stops()
	running.stops()
}

func TestDialRefusals(t *testing.T) {
	n := newNet2(t)
	start(t, n.client, n.dialArgs()...).ends(exitFailure, `connection refused`, `\nxpptp: 1 calls did not end in order\n$`)
	start(t, n.client, n.dialArgs("--server", "nosuch.invalid")...).ends(exitFailure, `^xpptp: server "nosuch\.invalid": `)
	start(t, n.client, n.dialArgs("--server", "203.0.113.1")...).ends(exitFailure, `^xpptp: no route to the server 203\.0\.113\.1: .*unreachable`)
	start(t, n.client, n.dialArgs("--outside", "nosuch0")...).ends(exitUsage, `^xpptp: --outside: no interface "nosuch0"`)
	start(t, n.client, n.dialArgs("--tun", "rt1")...).ends(exitFailure, `^xpptp: tun: the name "rt1" is taken by another interface: `)
	open := file(t, "open", "correct-horse\n", 0o644)
	start(t, n.client, n.dialArgs("--password-file", open)...).ends(exitUsage, `^xpptp: --password-file: .*open to every user`)

	server := startServer(t, n)
	wrong := file(t, "wrong", "battery-staple\n", 0o600)
	start(t, n.client, n.dialArgs("--password-file", wrong)...).ends(exitFailure, `msg="call failed".*reason="?auth-failed`, `1 calls did not end in order`)
	server.says(`msg="authentication failed".*user=alice`)
	start(t, n.client, n.dialArgs("--user", "mallory")...).ends(exitFailure, `reason="?auth-failed`)
	server.says(`msg="authentication failed".*user=mallory`)
	start(t, n.client, n.dialArgs("--mppe", "deny")...).ends(exitFailure, `msg="call failed"`)

	client := start(t, n.client, n.dialArgs("--password-file", open, "--allow-world-readable-secrets", "-o", "json")...)
	client.until("is up", func() bool { return len(client.events("up")) == 1 })
	n.echoes(t, client.events("up")[0].Call)
	client.stops()
	server.stops()
}

// Without a capability the error says which one.
func TestMissingCapability(t *testing.T) {
	n := newNet2(t)
	for capability, name := range map[uintptr]string{unix.CAP_NET_ADMIN: "CAP_NET_ADMIN", unix.CAP_NET_RAW: "CAP_NET_RAW"} {
		for _, args := range [][]string{n.serveArgs(), n.dialArgs()} {
			p := command(t, args...)
			without(t, capability, func() { n.in(args[0]).Do(p.launch) })
			p.ends(exitFailure, `not permitted: \[`+name+`\] missing: start as root, or with these capabilities\n$`)
		}
	}
}

func (n *net2) in(cmd string) *ringtest.NS {
	if cmd == "serve" {
		return n.server
	}
	return n.client
}

// without runs f on a thread whose children never get a capability.
func without(t *testing.T, capability uintptr, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0)
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Skipf("needs the right to give up a capability: %v", err)
	}
}

// The third call on a pool of two is refused; the two go on.
func TestExhaustedPool(t *testing.T) {
	n := newNet2(t)
	n.pool = "10.9.0.10-10.9.0.11"
	server := startServer(t, n)
	client := start(t, n.client, n.dialArgs("--calls", "3", "-o", "json")...)
	client.until("has two calls up and one refused", func() bool { return len(client.events("up")) == 2 && len(client.events("down")) == 1 })
	server.says(`level=ERROR msg="no address".*user=alice.*err=.*pool`)
	if e := client.events("down")[0]; !strings.Contains(e.Reason, "no address available") {
		t.Errorf("refused because: %q", e.Reason)
	}
	for _, e := range client.events("up") {
		n.echoes(t, e.Call)
	}
	// What a call gives back is free for the next.
	client.stops()
	again := start(t, n.client, n.dialArgs("--calls", "2", "-o", "json")...)
	again.until("has two calls up", func() bool { return len(again.events("up")) == 2 })
	again.stops()
	server.stops()
}

// dial calls again: when the server is not there yet, and when it was killed.
func TestPersist(t *testing.T) {
	n := newNet2(t)
	client := start(t, n.client, n.dialArgs("--persist", "--redial-min", "100ms", "--redial-max", "400ms", "--calls", "2", "-o", "json")...)
	client.says(`connection refused`, `msg=redialling in=200ms`, `msg=redialling in=400ms`)
	for round := 1; round <= 3; round++ {
		server := startServer(t, n)
		client.until("is up", func() bool { return len(client.events("up")) == 2*round })
		for _, e := range client.events("up")[2*round-2:] {
			n.echoes(t, e.Call)
		}
		if round < 3 {
			_ = server.cmd.Process.Kill()
			<-server.done
			client.until("has noticed", func() bool {
				up := slices.DeleteFunc(client.events("down"), func(e callJSON) bool { return e.Call.CallID == 0 })
				return len(up) >= 2*round
			})
			continue
		}
		client.stops()
		server.stops()
	}
	n.client.Do(func() {
		if _, err := net.InterfaceByName("xpptp0"); err == nil {
			t.Error("the TUN device is still there")
		}
	})
}

// dial --default-route --peer-dns: everything goes through the call, and all
// is as before when it is over, however the call ends.
func TestHostRestored(t *testing.T) {
	n := newNet2(t)
	if _, err := exec.LookPath("unshare"); err != nil {
		t.Skipf("needs unshare and mount for a resolv.conf of its own: %v", err)
	}
	const far = "203.0.113.7" // behind the gateway 10.77.0.1, for the client
	n.server.Do(func() {
		a, _ := netlink.ParseAddr(far + "/32")
		if err := netlink.AddrAdd(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "rt0", Index: n.rt0.Index}}, a); err != nil {
			t.Fatal(err)
		}
	})
	n.client.Do(func() {
		if err := netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(serverIP)}); err != nil {
			t.Fatal(err)
		}
	})
	etc := t.TempDir()
	resolv := filepath.Join(etc, "resolv.conf")
	const before = "nameserver 192.0.2.53\nsearch example.net\n"
	if err := os.WriteFile(resolv, []byte(before), 0o644); err != nil {
		t.Fatal(err)
	}
	routes := func() (rs []string) {
		n.client.Do(func() {
			all, err := netlink.RouteList(nil, netlink.FAMILY_V4)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range all {
				rs = append(rs, r.String())
			}
		})
		slices.Sort(rs)
		return rs
	}
	way := func(to string) (dev string) {
		n.client.Do(func() {
			rs, err := netlink.RouteGet(net.ParseIP(to))
			if err != nil || len(rs) == 0 {
				return
			}
			if l, err := netlink.LinkByIndex(rs[0].LinkIndex); err == nil {
				dev = l.Attrs().Name
			}
		})
		return dev
	}
	was := routes()
	restored := func() bool {
		text, err := os.ReadFile(resolv)
		return err == nil && string(text) == before && slices.Equal(routes(), was)
	}

	serve := func() *program { return startServer(t, n, "--listen", far, "--dns", "10.9.0.53") }
	server := serve()
	args := n.dialArgs("--server", far, "--default-route", "--peer-dns", "--persist", "--redial-min", "100ms", "--redial-max", "200ms", "--tun", "call0", "-o", "json")
	client := command(t)
	client.cmd = exec.Command("unshare", append([]string{"-m", "sh", "-c", `mount --bind "$0" /etc && exec xpptp "$@"`, etc}, args...)...)
	client.cmd.Stdout, client.cmd.Stderr = &client.out, &client.err
	n.client.Do(client.launch)

	through := func() bool {
		text, _ := os.ReadFile(resolv)
		return way("8.8.8.8") == "call0" && way("198.51.100.1") == "call0" && way(far) == "rt1" &&
			strings.Contains(string(text), "nameserver 10.9.0.53\nsearch example.net\n")
	}
	// The event of a call is written after the host's settings are made.
	up := func(n int) func() bool {
		return func() bool { return len(client.events("up")) == n && through() }
	}
	client.until("has the default route and the name server", up(1))
	n.echoes(t, client.events("up")[0].Call)

	_ = server.cmd.Process.Kill()
	<-server.done
	client.until("has given them back", restored)
	server = serve()
	client.until("has them again", up(2))
	n.echoes(t, client.events("up")[1].Call)

	client.stops()
	if !restored() {
		text, _ := os.ReadFile(resolv)
		t.Errorf("routes %v\nwere   %v\nresolv.conf: %s", routes(), was, text)
	}
	if es, _ := os.ReadDir(etc); len(es) != 1 {
		t.Errorf("left beside resolv.conf: %v", es)
	}
	server.stops()
}

// Several workers at both ends: every call carries packets, whichever worker
// has it and wherever the kernel puts them.
func TestWorkers(t *testing.T) {
	for _, io := range []string{"xsk", "tpacket", "raw"} {
		t.Run(io, func(t *testing.T) {
			n := newNet2(t)
			s := startServer(t, n, "--io", io, "--workers", "2", "--poll", "interrupt")
			c := start(t, n.client, n.dialArgs("--io", io, "--workers", "3", "--calls", "6", "-o", "json")...)
			c.until("has 6 calls up", func() bool { return len(c.events("up")) == 6 })
			at := map[int]bool{}
			for _, e := range c.events("up") {
				n.echoes(t, e.Call)
				at[int(e.Call.PeerCallID)%2] = true
			}
			if len(at) != 2 {
				t.Error("all calls are with one of the server's workers")
			}
			c.stops()
			s.stops()
			s.says("msg=counters worker=0", "msg=counters worker=1")
		})
	}
}

// Who is not in the list of sources gets no control connection; who is, a call.
func TestSources(t *testing.T) {
	n := newNet2(t)
	s := startServer(t, n, "--sources", "192.0.2.0/24")
	start(t, n.client, n.dialArgs()...).ends(exitFailure, `msg="call failed"`)
	s.stops()
	s.says("connections_from_elsewhere=1")
	s = startServer(t, n, "--sources", "192.0.2.0/24,10.77.0.2")
	c := start(t, n.client, n.dialArgs("-o", "json", "--stats")...)
	c.until("has its call up", func() bool { return len(c.events("up")) == 1 })
	n.echoes(t, c.events("up")[0].Call)
	c.stops()
	for _, p := range []*program{s, c} {
		if p == s {
			s.stops()
		}
		p.says(`(?m)^ *worker +calls +packets in +out +handed over +busy +rx +parse +gre +mppe +ppp +tx +control`, `(?m)^ *0 outside( +\d+){7}`)
	}
}
