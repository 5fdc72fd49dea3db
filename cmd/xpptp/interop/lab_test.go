//go:build interop

package interop

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Addresses of every lab: labs live in namespaces of their own, so they share them.
const (
	nearIP     = "10.98.0.1" // the near end: xpptp, or in a self-test the second guest
	farIP      = "10.98.0.2" // the guest with the real Linux peer
	tunnelIP   = "192.168.77.1"
	tunnelPool = "192.168.77.11-60"
	lanIP      = "192.168.77.2" // a host behind xpptp, with XPPTP_INSIDE=nic

	prefix    = "xi-" // of network namespaces and run directories
	runRoot   = "/dev/shm"
	bootLimit = 90 * time.Second
)

// A lab is two machines on one wire: two network namespaces joined by a veth pair, the far one with a guest (User-Mode Linux) on it.
type lab struct {
	dir    string // holds the guests' exchange directories and the logs of the row that runs
	nearNS string // veth0
	farNS  string // veth1, which the far guest's vec0 and captures sit on
	near   machine
	far    *guest
	lan    *host // behind xpptp's in0; nil: there is none
}

var labs atomic.Int32

// newLab builds a lab with xpptp's namespace (nearGuest false) or with a second guest at the near end.
func newLab(t *testing.T, nearGuest bool) *lab {
	t.Helper()
	name := fmt.Sprintf("%s%d-%d", prefix, os.Getpid(), labs.Add(1))
	l := &lab{dir: filepath.Join(runRoot, name), nearNS: name + "n", farNS: name + "f"}
	t.Cleanup(func() { removeRun(name) })
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf(`
ip netns add %[1]s; ip netns add %[2]s
ip link add veth0 netns %[1]s type veth peer name veth1 netns %[2]s
ip netns exec %[1]s ethtool -K veth0 tx off rx off tso off gso off gro off >/dev/null 2>&1
ip netns exec %[2]s ethtool -K veth1 tx off rx off tso off gso off gro off >/dev/null 2>&1
ip netns exec %[2]s sysctl -qw net.ipv6.conf.all.disable_ipv6=1
ip -n %[1]s link set lo up; ip -n %[2]s link set veth1 up`, l.nearNS, l.farNS)
	if !nearGuest {
		script += fmt.Sprintf("; ip -n %s addr add %s/24 dev veth0", l.nearNS, nearIP)
	}
	script += fmt.Sprintf("; ip -n %s link set veth0 up", l.nearNS)
	if insideNIC && !nearGuest {
		l.lan = &host{netns: name + "l"}
		script += fmt.Sprintf(`
ip netns add %[1]s; ip link add lan0 netns %[1]s type veth peer name in0 netns %[2]s
ip netns exec %[1]s ethtool -K lan0 tx off tso off gso off gro off >/dev/null 2>&1
ip -n %[1]s addr add %[3]s/24 dev lan0; ip -n %[1]s link set lo up; ip -n %[1]s link set lan0 up
ip -n %[2]s addr add 192.168.77.3/24 dev in0; ip -n %[2]s link set in0 up
ip netns exec %[2]s sysctl -qw net.ipv4.ip_forward=1`, l.lan.netns, l.nearNS, lanIP)
	}
	if out, err := exec.Command("bash", "-ec", script).CombinedOutput(); err != nil {
		t.Fatalf("namespaces: %v\n%s", err, out)
	}
	l.far = boot(t, l, "far", l.farNS, "veth1")
	l.near = &host{netns: l.nearNS}
	if nearGuest {
		l.near = boot(t, l, "near", l.nearNS, "veth0")
	}
	for _, m := range []machine{l.far, l.near} {
		g, ok := m.(*guest)
		if !ok {
			continue
		}
		ip := farIP
		if g.name == "near" {
			ip = nearIP
		}
		if out, err := g.python(bootLimit, "guest.prepare(%q, %q)", ip, secretsFile); err != nil {
			console, _ := os.ReadFile(filepath.Join(g.dir, "console"))
			t.Fatalf("guest %s: %v\n%s\n%s", g.name, err, out, console)
		}
	}
	return l
}

// removeRuns takes away what the runs of the chosen process IDs have left: namespaces with the processes in them, directories.
func removeRuns(chosen func(pid int) bool) {
	seen := map[string]bool{}
	for _, dir := range []string{"/run/netns", runRoot} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			rest, ok := strings.CutPrefix(e.Name(), prefix)
			if !ok {
				continue
			}
			pid, rest, ok := strings.Cut(rest, "-")
			if n, err := strconv.Atoi(pid); !ok || err != nil || !chosen(n) {
				continue
			}
			seen[prefix+pid+"-"+strings.TrimRight(rest, "nfl")] = true
		}
	}
	for name := range seen {
		removeRun(name)
	}
}

func removeRun(name string) {
	for _, ns := range []string{name + "n", name + "f", name + "l"} {
		if _, err := os.Stat("/run/netns/" + ns); err != nil {
			continue
		}
		out, _ := exec.Command("ip", "netns", "pids", ns).Output()
		for _, pid := range strings.Fields(string(out)) {
			if n, err := strconv.Atoi(pid); err == nil && n != os.Getpid() {
				_ = syscall.Kill(n, syscall.SIGKILL)
			}
		}
		_ = exec.Command("ip", "netns", "del", ns).Run()
	}
	_ = os.RemoveAll(filepath.Join(runRoot, name))
}

// A machine runs scripts: a network namespace of this host, or a guest.
type machine interface {
	// shell runs a bash script and returns its output; a status other than 0 is an error.
	shell(limit time.Duration, format string, args ...any) (string, error)
	// echo runs echo.py with these arguments and returns its line of JSON.
	echo(limit time.Duration, args ...string) (string, error)
}

type host struct{ netns string }

func (h *host) command(name string, args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", h.netns, name}, args...)...)
}

func (h *host) run(limit time.Duration, name string, args ...string) (string, error) {
	out, err := runLimited(h.command(name, args...), limit)
	return out, err
}

func (h *host) shell(limit time.Duration, format string, args ...any) (string, error) {
	return h.run(limit, "bash", "-c", fmt.Sprintf(format, args...))
}

func (h *host) echo(limit time.Duration, args ...string) (string, error) {
	return h.run(limit, "/usr/bin/python3", append([]string{filepath.Join(scripts, "echo.py")}, args...)...)
}

func runLimited(cmd *exec.Cmd, limit time.Duration) (string, error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	timer := time.AfterFunc(limit, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	err := cmd.Wait()
	if !timer.Stop() {
		err = fmt.Errorf("no end within %v", limit)
	}
	return out.String(), err
}

// A guest is a User-Mode Linux with agent.py as its only program, reached by files in dir.
type guest struct {
	name  string
	dir   string
	netns string // a network namespace inside the guest that jobs run in; empty: the guest's own
	jobs  *atomic.Int64
}

func boot(t *testing.T, l *lab, name, netns, iface string) *guest {
	t.Helper()
	g := &guest{name: name, dir: filepath.Join(l.dir, name), jobs: new(atomic.Int64)}
	for _, d := range []string{"jobs", "results"} {
		if err := os.MkdirAll(filepath.Join(g.dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	console, err := os.Create(filepath.Join(g.dir, "console"))
	if err != nil {
		t.Fatal(err)
	}
	defer console.Close()
	cmd := exec.Command(filepath.Join(scripts, "uml"), g.dir, netns, iface)
	cmd.Stdout, cmd.Stderr = console, console
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	return g
}

// in returns the same guest with its jobs in one of its network namespaces.
func (g *guest) in(netns string) *guest {
	inner := *g
	inner.netns = netns
	return &inner
}

func (g *guest) shell(limit time.Duration, format string, args ...any) (string, error) {
	script := fmt.Sprintf(format, args...)
	if g.netns != "" {
		script = fmt.Sprintf("exec ip netns exec %s bash -c %s", g.netns, shellQuote(script))
	}
	return g.job("sh", script, limit)
}

func (g *guest) echo(limit time.Duration, args ...string) (string, error) {
	return g.python(limit, "return guest.ping(*%s)", pyList(args))
}

// python runs the body of a Python function in the guest's agent, with module guest at hand, and returns what it returns.
func (g *guest) python(limit time.Duration, format string, args ...any) (string, error) {
	script := fmt.Sprintf(format, args...)
	if g.netns != "" {
		script = fmt.Sprintf("guest.enter(%q); %s", g.netns, script)
	}
	return g.job("py", script, limit)
}

var errStatus = errors.New("status")

func (g *guest) job(kind, text string, limit time.Duration) (string, error) {
	name := fmt.Sprintf("%08d.%s", g.jobs.Add(1), kind)
	hidden := filepath.Join(g.dir, "jobs", "."+name)
	if err := os.WriteFile(hidden, []byte(text), 0o600); err != nil {
		return "", err
	}
	if err := os.Rename(hidden, filepath.Join(g.dir, "jobs", name)); err != nil {
		return "", err
	}
	result := filepath.Join(g.dir, "results", name)
	for end := time.Now().Add(limit); ; time.Sleep(5 * time.Millisecond) {
		data, err := os.ReadFile(result)
		if err == nil {
			_ = os.Remove(result)
			status, out, _ := strings.Cut(string(data), "\n")
			if status != "0" {
				return out, fmt.Errorf("%w %s", errStatus, status)
			}
			return out, nil
		}
		if time.Now().After(end) {
			return "", fmt.Errorf("guest %s: no answer within %v", g.name, limit)
		}
	}
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// pyList writes strings as a Python list; Go's quoting of ASCII text is Python's too.
func pyList(items []string) string {
	quoted := make([]string, len(items))
	for i, s := range items {
		quoted[i] = strconv.QuoteToASCII(s)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// A lockedBuffer takes the output of a process while others read it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
