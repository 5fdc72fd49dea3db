//go:build interop

// Package interop runs xpptp against the real Linux PPTP stack: pptp-linux, pptpd, pppd and the kernel's pptp and ppp_mppe, in a
// User-Mode Linux on the other end of a veth pair. See testdata/interop/README.md.
package interop

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

var (
	scripts   string // testdata/interop
	cache     string // built pppd plugins
	xpptpBin  string // xpptp
	logs      string // where failed rows leave their logs
	ioBackend = envOr("XPPTP_IO", "auto")
	ioWorkers = envOr("XPPTP_WORKERS", "0")
	insideNIC = envOr("XPPTP_INSIDE", "tun") == "nic"
)

func envOr(name, fallback string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return fallback
}

func TestMain(m *testing.M) {
	if err := setUp(); err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		os.Exit(1)
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		<-interrupted
		removeRuns(func(pid int) bool { return pid == os.Getpid() })
		os.Exit(1)
	}()
	os.Exit(m.Run())
}

func setUp() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("needs root: it makes network namespaces and devices")
	}
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	root := filepath.Join(here, "..", "..", "..")
	scripts = filepath.Join(root, "testdata", "interop")
	setup := exec.Command(filepath.Join(scripts, "setup"))
	setup.Stderr = os.Stderr
	out, err := setup.Output()
	if err != nil {
		return fmt.Errorf("setup: %w", err)
	}
	cache = strings.TrimSpace(string(out))
	logs = envOr("XPPTP_INTEROP_LOGS", filepath.Join(cache, "logs"))
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return err
	}
	removeRuns(func(pid int) bool { return syscall.Kill(pid, 0) != nil })
	return nil
}

// buildBinary builds xpptp once for all tests that run it; XPPTP_BIN names one that is built already.
func buildBinary(t *testing.T) {
	t.Helper()
	if xpptpBin = os.Getenv("XPPTP_BIN"); xpptpBin != "" {
		return
	}
	xpptpBin = filepath.Join(cache, "xpptp")
	cmd := exec.Command("go", "build", "-o", xpptpBin, "./cmd/xpptp")
	cmd.Dir = filepath.Join(scripts, "..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
}

// TestLive is the matrix, both ways round at once, each in a lab of its own.
func TestLive(t *testing.T) {
	buildBinary(t)
	for _, way := range []string{"serve", "dial"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			runMatrix(t, way, false)
		})
	}
}

// TestSelfTest puts a second Linux in xpptp's place: it shows that rows and checks are right, and needs no xpptp.
func TestSelfTest(t *testing.T) {
	if os.Getenv("XPPTP_SELFTEST") == "" {
		t.Skip("set XPPTP_SELFTEST=1 to run Linux against Linux, or =all for the rows it is known to fail as well")
	}
	for _, way := range []string{"serve", "dial"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			runMatrix(t, way, true)
		})
	}
}

// selfTestExcused are the rows that the Linux stack fails against its like, and why.
var selfTestExcused = map[string]string{
	"fifty-calls":              "fifty pptp-linux beside fifty pppd take a guest minutes",
	"two-calls-one-connection": "pptpd gives both calls of a control connection one address",
	"loss-stateful":            "two Linux peers lose sync for good when a Reset-Ack is lost",
	"reorder-stateless":        "Linux drops every packet that comes after a later one",
}

func runMatrix(t *testing.T, way string, selfTest bool) {
	parent := t // a lab outlives the row that made it
	l := newLab(parent, selfTest)
	for _, r := range matrix() {
		if r.only != "" && r.only != way || os.Getenv("XPPTP_ROWS") == "traffic" && !r.traffic || insideNIC && r.hostOnly {
			continue
		}
		if _, ok := selfTestExcused[r.name]; ok && selfTest && os.Getenv("XPPTP_SELFTEST") != "all" {
			continue
		}
		t.Run(r.name, func(t *testing.T) {
			// The guests share two cores with everything else, and time-outs of the
			// Linux peers are what they are: a row that fails is tried once more, in
			// a new guest, and both lines are printed.
			for try := tries(); ; try-- {
				err := l.runRow(t, r, way, try > 1)
				if err == nil {
					return
				}
				if try <= 1 {
					t.Fail()
					return
				}
				l = newLab(parent, selfTest)
			}
		})
	}
}

// tries is how often a row is tried: XPPTP_INTEROP_TRIES, or twice.
func tries() int {
	if n, err := strconv.Atoi(os.Getenv("XPPTP_INTEROP_TRIES")); err == nil && n > 0 {
		return n
	}
	return 2
}

// runRow runs one row and prints its line.
func (l *lab) runRow(t *testing.T, r row, way string, again bool) error {
	start := time.Now()
	dir := filepath.Join(l.dir, "row")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	a := l.newAttempt(r, way, dir)
	err := a.execute(dir)
	if hold, _ := time.ParseDuration(os.Getenv("XPPTP_INTEROP_HOLD")); hold > 0 {
		fmt.Printf("%s (%v), held for %v: near end in namespace %s, guest: %s/in %s COMMAND\n", t.Name(), err, hold, l.nearNS, scripts, l.far.dir)
		time.Sleep(hold)
	}
	if err == nil {
		err = a.orderlyEnd()
	}
	verdict, detail := "ok", strings.Join(a.notes, "; ")
	kept := filepath.Join(logs, t.Name())
	if err != nil || os.Getenv("XPPTP_INTEROP_KEEP") != "" {
		a.keepLogs(kept, dir, err)
	}
	if err != nil {
		verdict = "FAIL"
		if again {
			verdict = "fail" // and tried again
		}
		detail = fmt.Sprintf("%v [%s] logs: %s", err, detail, kept)
	}
	fmt.Printf("%-34s %-4s %5.1f s  %s\n", way+"/"+r.name, verdict, time.Since(start).Seconds(), detail)
	a.cleanUp()
	_ = os.RemoveAll(dir)
	return err
}

func (l *lab) newAttempt(r row, way, dir string) *attempt {
	a := &attempt{l: l, row: r, linux: l.far, serves: way == "serve"}
	near, isGuest := l.near.(*guest)
	switch {
	case a.serves && isGuest:
		a.s = &linuxServer{g: near, ip: nearIP}
	case a.serves:
		a.s = &xpptpServer{h: l.near.(*host), lan: l.lan, dir: dir}
	default:
		a.s = &linuxServer{g: l.far, ip: farIP}
	}
	a.newClient = func() client {
		switch {
		case a.serves:
			return &linuxClient{g: l.far}
		case isGuest:
			return &linuxClient{g: near, private: true}
		default:
			return &xpptpClient{h: l.near.(*host), dir: dir}
		}
	}
	a.c = a.newClient()
	return a
}

func (a *attempt) execute(dir string) (err error) {
	for _, m := range []machine{a.l.far, a.l.near} {
		if g, ok := m.(*guest); ok {
			if out, err := g.python(20*time.Second, "guest.fresh()"); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
		}
	}
	if !a.row.uncaptured {
		if a.wire, err = startCapture(a.l, filepath.Join(dir, "wire.pcap")); err != nil {
			return err
		}
		defer a.wire.stop()
	}
	return a.row.run(a)
}

// orderlyEnd: xpptp ends with status 0 when it is told to, whatever came before.
func (a *attempt) orderlyEnd() error {
	if s, ok := a.s.(*xpptpServer); ok && s.program != nil && s.running() {
		return s.terminate()
	}
	if c, ok := a.c.(*xpptpClient); ok {
		for _, p := range c.ps {
			if !p.running() {
				continue
			}
			if err := c.hangup(); err != nil {
				return err
			}
		}
	}
	return nil
}

// cleanUp ends what still runs; the guests clean up before the next row.
func (a *attempt) cleanUp() {
	if s, ok := a.s.(*xpptpServer); ok && s.program != nil {
		_ = s.kill()
	}
	if c, ok := a.c.(*xpptpClient); ok {
		_ = c.kill()
	}
}

func (a *attempt) keepLogs(kept, dir string, failure error) {
	_ = os.RemoveAll(kept)
	if err := os.MkdirAll(kept, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	for name, text := range map[string]string{
		"failure.txt": fmt.Sprintln(failure),
		"server.log":  a.s.log(),
		"client.log":  a.c.log(),
	} {
		_ = os.WriteFile(filepath.Join(kept, name), []byte(text), 0o644)
	}
	captures, _ := filepath.Glob(filepath.Join(dir, "*.pcap"))
	for _, path := range captures {
		if data, err := os.ReadFile(path); err == nil {
			_ = os.WriteFile(filepath.Join(kept, filepath.Base(path)), data, 0o644)
		}
	}
}
