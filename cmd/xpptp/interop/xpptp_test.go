//go:build interop

package interop

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A program is one running xpptp.
type program struct {
	h       *host
	cmd     *exec.Cmd
	stdout  lockedBuffer
	stderr  lockedBuffer
	done    chan struct{}
	waitErr error
}

func startProgram(h *host, args ...string) (*program, error) {
	p := &program{h: h, cmd: h.command(xpptpBin, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.waitErr = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// wait waits for the end and returns how it ended.
func (p *program) wait(limit time.Duration) error {
	select {
	case <-p.done:
		return p.waitErr
	case <-time.After(limit):
		return fmt.Errorf("%s still runs after %v", p.cmd.Args[4], limit)
	}
}

func (p *program) signal(s syscall.Signal) error {
	select {
	case <-p.done:
		return fmt.Errorf("%s ended early: %v", p.cmd.Args[4], p.waitErr)
	default:
		return p.cmd.Process.Signal(s)
	}
}

func (p *program) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

func (p *program) log() string {
	return fmt.Sprintf("==> xpptp %s\n%s\n==> stderr\n%s", strings.Join(p.cmd.Args[4:], " "), p.stdout.String(), p.stderr.String())
}

// poll waits until the condition holds; it ends early with the program.
func (p *program) poll(limit time.Duration, what string, condition func() bool) error {
	for end := time.Now().Add(limit); !condition(); time.Sleep(10 * time.Millisecond) {
		if !p.running() {
			if condition() {
				return nil
			}
			return fmt.Errorf("%s: ended before %s: %v", p.cmd.Args[4], what, p.waitErr)
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s: not %s after %v", p.cmd.Args[4], what, limit)
		}
	}
	return nil
}

func policyArgs(p policy) []string {
	var args []string
	if p.auth != nil {
		args = append(args, "--auth", strings.Join(p.auth, ","))
	}
	if p.mppe != "" {
		args = append(args, "--mppe", p.mppe)
	}
	if p.bits != nil {
		args = append(args, "--mppe-keys", strings.Join(p.bits, ","))
	}
	if p.stateful {
		args = append(args, "--mppe-stateful")
	}
	if p.quickEcho {
		args = append(args, "--ppp-echo-interval", "1s", "--ppp-echo-failures", "3", "--pptp-echo-interval", "2s", "--pptp-echo-timeout", "2s")
	}
	if p.patient {
		args = append(args, "--ppp-max-configure", "60", "--ppp-auth-timeout", "2m", "--pptp-start-timeout", "3m", "--pptp-call-timeout", "3m")
	}
	if p.reorder {
		args = append(args, "--gre-reorder", "20ms")
	}
	return args
}

// What xpptp writes when a call comes and goes, in either log format.
var (
	callUp   = regexp.MustCompile(`msg="?call up`)
	callDown = regexp.MustCompile(`msg="?call (down|ended)`)
)

// xpptpServer is `xpptp serve`.
type xpptpServer struct {
	h   *host
	lan *host // behind it; nil: there is none
	dir string
	*program
}

// machine is who stands for the server in a call's traffic: itself, or a host
// on its LAN.
func (s *xpptpServer) machine() machine {
	if s.lan != nil {
		return s.lan
	}
	return s.h
}

func (s *xpptpServer) address() string { return nearIP }

func (s *xpptpServer) start(p policy) error {
	secrets := filepath.Join(s.dir, "chap-secrets")
	if err := os.WriteFile(secrets, []byte(secretsFile), 0o600); err != nil {
		return err
	}
	inside := "tun"
	if s.lan != nil {
		inside = "in0"
	}
	args := []string{"serve", "--control-socket=", "--outside", "veth0", "--listen", nearIP + ":1723", "--io", ioBackend, "--workers", ioWorkers, "--inside", inside, "--local", tunnelIP,
		"--pool", "192.168.77.11-192.168.77.60", "--secrets", secrets}
	args = append(args, policyArgs(p)...)
	args = append(args, strings.Fields(os.Getenv("XPPTP_SERVE_ARGS"))...)
	var err error
	if s.program, err = startProgram(s.h, args...); err != nil {
		return err
	}
	return s.poll(10*time.Second, "listening", func() bool {
		out, err := s.h.run(5*time.Second, "cat", "/proc/net/tcp", "/proc/net/tcp6")
		return err == nil && listening.MatchString(out)
	})
}

var listening = regexp.MustCompile(`:06BB [0-9A-F]+:0000 0A`)

// tunDevice is the name of the one TUN device in the namespace.
func (h *host) tunDevice() (string, error) {
	out, err := h.shell(5*time.Second, "ip -o link show type tun | cut -d: -f2")
	if err != nil || strings.TrimSpace(out) == "" {
		return "", fmt.Errorf("no tun device (%v) %s", err, out)
	}
	return strings.Fields(out)[0], nil
}

func (s *xpptpServer) count(r *regexp.Regexp) int {
	return len(r.FindAllStringIndex(s.stderr.String(), -1))
}

func (s *xpptpServer) calls(n int) ([]call, error) {
	err := s.poll(upWithin(n), fmt.Sprintf("%d calls up", n), func() bool { return s.count(callUp)-s.count(callDown) >= n })
	if err != nil {
		return nil, err
	}
	device, err := s.h.tunDevice()
	if err != nil {
		return nil, err
	}
	calls := make([]call, n)
	for i := range calls {
		calls[i] = call{device: device, local: tunnelIP}
	}
	return calls, nil
}

func (s *xpptpServer) idle(limit time.Duration) error {
	return s.poll(limit, "idle", func() bool { return s.count(callUp) == s.count(callDown) })
}

func (s *xpptpServer) terminate() error {
	if err := s.signal(syscall.SIGTERM); err != nil {
		return err
	}
	return s.wait(endLimit)
}

func (s *xpptpServer) kill() error {
	if err := s.signal(syscall.SIGKILL); err != nil {
		return err
	}
	_ = s.wait(endLimit)
	return nil
}

func (s *xpptpServer) log() string {
	if s.program == nil {
		return ""
	}
	return s.program.log()
}

// xpptpClient is `xpptp dial`.
type xpptpClient struct {
	h   *host
	dir string
	mu  sync.Mutex
	ps  []*program
}

func (c *xpptpClient) machine() machine { return c.h }

// dialed is a line of JSON of dial.
type dialed struct {
	Event  string
	Reason string // with event down
	Call   struct {
		Cipher      string
		IP, LocalIP string // the peer's, ours
		IP6         string
		LocalIP6    string
	}
}

// events reads the lines of one event: up or down.
func (p *program) events(event string) (calls []dialed) {
	for line := range strings.Lines(p.stdout.String()) {
		var d dialed
		if json.Unmarshal([]byte(line), &d) == nil && d.Event == event {
			calls = append(calls, d)
		}
	}
	return calls
}

func (c *xpptpClient) dial(server string, p policy, cr credential, n int) ([]call, error) {
	file := filepath.Join(c.dir, "password")
	if err := os.WriteFile(file, []byte(cr.password+"\n"), 0o600); err != nil {
		return nil, err
	}
	c.mu.Lock()
	tun := fmt.Sprintf("xi%d", len(c.ps))
	c.mu.Unlock()
	if n > 1 {
		tun = "xi%d" // one device for each call, numbered by the kernel
	}
	args := []string{"dial", "--io", ioBackend, "--workers", ioWorkers, "--server", server, "--user", cr.user, "--password-file", file, "--tun", tun, "--calls", fmt.Sprint(n), "-o", "json"}
	args = append(args, policyArgs(p)...)
	if p.patient {
		args = append(args, "--persist") // pptpd's queue of connections is short: some are refused at first
	}
	args = append(args, strings.Fields(os.Getenv("XPPTP_DIAL_ARGS"))...)
	prog, err := startProgram(c.h, args...)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.ps = append(c.ps, prog)
	c.mu.Unlock()
	err = prog.poll(upWithin(n), fmt.Sprintf("%d calls up", n), func() bool { return len(prog.events("up")) >= n })
	var exit *exec.ExitError
	if err != nil && !prog.running() && errors.As(prog.waitErr, &exit) && exit.Exited() {
		down := prog.events("down")
		if len(down) == 0 {
			return nil, err
		}
		return nil, refused{fmt.Sprintf("exit %d: %s", exit.ExitCode(), down[0].Reason)}
	}
	if err != nil {
		return nil, err
	}
	var calls []call
	for _, d := range prog.events("up") {
		calls = append(calls, call{device: tun, local: d.Call.LocalIP, remote: d.Call.IP, localLL: d.Call.LocalIP6, remoteLL: d.Call.IP6, cipher: d.Call.Cipher})
	}
	return calls, nil
}

func (c *xpptpClient) each(f func(*program) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.ps {
		if err := f(p); err != nil {
			return err
		}
	}
	return nil
}

// ended: dial without --persist ends when its calls do; how is not asked here.
func (c *xpptpClient) ended(limit time.Duration) error {
	return c.each(func(p *program) error {
		if err := p.wait(limit); err != nil && p.running() {
			return err
		}
		return nil
	})
}

func (c *xpptpClient) hangup() error {
	return c.each(func(p *program) error {
		if err := p.signal(syscall.SIGTERM); err != nil {
			return err
		}
		return p.wait(endLimit)
	})
}

func (c *xpptpClient) kill() error {
	return c.each(func(p *program) error {
		if err := p.signal(syscall.SIGKILL); err != nil {
			return err
		}
		_ = p.wait(endLimit)
		return nil
	})
}

func (c *xpptpClient) log() string {
	var b strings.Builder
	_ = c.each(func(p *program) error { b.WriteString(p.log()); return nil })
	return b.String()
}
