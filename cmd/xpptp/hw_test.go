package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"xpptp/hwprofile"
	"xpptp/rings/ringtest"
)

// manyQueues is a namespace with an end of a veth pair of four queues, one of
// them in use, and somebody's RPS mask on it.
func manyQueues(t *testing.T) *ringtest.NS {
	t.Helper()
	for _, program := range []string{"ip", "ethtool", "unshare"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("needs %s", program)
		}
	}
	ns, far := ringtest.NewNS(t), ringtest.NewNS(t)
	near := "hw0"
	inNS(t, far, "ip", "link", "add", "hw1", "numtxqueues", "4", "numrxqueues", "4", "type", "veth",
		"peer", "name", near, "numtxqueues", "4", "numrxqueues", "4")
	var fd *os.File
	var err error
	ns.Do(func() { fd, err = os.Open("/proc/thread-self/ns/net") })
	if err != nil {
		t.Fatal(err)
	}
	defer fd.Close()
	far.Do(func() {
		var l netlink.Link
		if l, err = netlink.LinkByName(near); err == nil {
			err = netlink.LinkSetNsFd(l, int(fd.Fd()))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	inNS(t, ns, "ethtool", "-L", near, "rx", "1", "tx", "1")
	inNS(t, far, "ethtool", "-L", "hw1", "rx", "1", "tx", "1")
	inNS(t, ns, "ip", "link", "set", near, "up")
	inNS(t, far, "ip", "link", "set", "hw1", "up")
	inSysfs(t, ns, "echo 1 > /sys/class/net/hw0/queues/rx-0/rps_cpus")
	return ns
}

// inNS runs a program of somebody else's in a namespace.
func inNS(t *testing.T, ns *ringtest.NS, args ...string) string {
	t.Helper()
	var out []byte
	var err error
	ns.Do(func() { out, err = exec.Command(args[0], args[1:]...).CombinedOutput() })
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return string(out)
}

// inSysfs runs a command of the shell with a /sys of the namespace.
func inSysfs(t *testing.T, ns *ringtest.NS, command string) string {
	t.Helper()
	return inNS(t, ns, "unshare", "--mount", "sh", "-c", "mount -t sysfs none /sys && "+command)
}

// seen is what ethtool and sysfs show of hw0.
type seen struct {
	RX, TX   string
	Features map[string]bool
	Masks    string
}

var (
	current  = regexp.MustCompile(`(?s)Current hardware settings:.*?RX:\s+(\d+).*?TX:\s+(\d+)`)
	features = regexp.MustCompile(`(?m)^\s*([a-z0-9-]+): (on|off)(?: \[requested o(?:n|ff)\])?$`)
)

func look(t *testing.T, ns *ringtest.NS) seen {
	t.Helper()
	s := seen{Features: make(map[string]bool)}
	channels := inNS(t, ns, "ethtool", "-l", "hw0")
	m := current.FindStringSubmatch(channels)
	if m == nil {
		t.Fatalf("no channels in %s", channels)
	}
	s.RX, s.TX = m[1], m[2]
	for _, m := range features.FindAllStringSubmatch(inNS(t, ns, "ethtool", "-k", "hw0"), -1) {
		s.Features[m[1]] = m[2] == "on"
	}
	s.Masks = inSysfs(t, ns, "cd /sys/class/net/hw0/queues && grep . */?ps_cpus")
	return s
}

// tuned checks what a plan for two workers makes of hw0.
func tuned(t *testing.T, s seen) {
	t.Helper()
	if s.RX != "2" || s.TX != "2" {
		t.Errorf("%s receive and %s transmit queues", s.RX, s.TX)
	}
	for _, f := range []string{"tx-checksum-ip-generic", "tx-tcp-segmentation", "generic-segmentation-offload", "tx-vlan-offload"} {
		if s.Features[f] {
			t.Errorf("%s is on", f)
		}
	}
	// Two workers have two CPUs, and not the same queue to send by.
	masks := regexp.MustCompile(`tx-\d+/xps_cpus:([0-9a-f,]+)`).FindAllStringSubmatch(s.Masks, -1)
	if len(masks) != 2 || masks[0][1] == masks[1][1] || strings.Trim(masks[0][1], "0,") == "" {
		t.Errorf("XPS masks: %s", s.Masks)
	}
	if !regexp.MustCompile(`(?m)^rx-0/rps_cpus:0+$`).MatchString(s.Masks) {
		t.Errorf("RPS is on: %s", s.Masks)
	}
}

func run2(t *testing.T, ns *ringtest.NS, status int, args ...string) string {
	t.Helper()
	p := start(t, ns, args...)
	p.ends(status)
	return p.out.String()
}

// hw apply changes what it says, and hw restore undoes it: seen from outside.
func TestHWApply(t *testing.T) {
	ns := manyQueues(t)
	needTwoCPUs(t)
	state := filepath.Join(t.TempDir(), "hw.json")
	args := func(verb string, more ...string) []string {
		return append([]string{"hw", verb, "--state", state}, more...)
	}
	before := look(t, ns)

	out := run2(t, ns, 0, args("apply", "--workers", "2", "--interface", "hw0", "--dry-run")...)
	if !strings.Contains(out, "hw0 channels rx: 1 -> 2") {
		t.Errorf("no difference is shown: %s", out)
	}
	if now := look(t, ns); !reflect.DeepEqual(now, before) {
		t.Errorf("--dry-run changed %+v to %+v", before, now)
	}

	run2(t, ns, 0, args("apply", "--workers", "2", "--interface", "hw0")...)
	after := look(t, ns)
	tuned(t, after)
	// Once more: what was there at first is kept.
	run2(t, ns, 0, args("apply", "--workers", "2", "--interface", "hw0")...)
	if now := look(t, ns); !reflect.DeepEqual(now, after) {
		t.Errorf("the second time %+v, the first %+v", now, after)
	}

	run2(t, ns, 0, args("restore")...)
	if now := look(t, ns); !reflect.DeepEqual(now, before) {
		t.Errorf("restored\n%+v\nbefore\n%+v", now, before)
	}
	if out := run2(t, ns, 0, args("restore")...); out != "nothing to restore\n" {
		t.Errorf("again: %s", out)
	}

	// The interface goes away in between: nothing to restore, and no failure.
	run2(t, ns, 0, args("apply", "--workers", "2", "--interface", "hw0")...)
	inNS(t, ns, "ip", "link", "del", "hw0")
	if out := run2(t, ns, 0, args("restore")...); !strings.Contains(out, "is gone") {
		t.Errorf("%s", out)
	}
}

// The inventory says what ethtool says.
func TestHWInventory(t *testing.T) {
	ns := manyQueues(t)
	var shown struct {
		Inventory hwprofile.Inventory `json:"inventory"`
	}
	if err := json.Unmarshal([]byte(run2(t, ns, 0, "hw", "-o", "json")), &shown); err != nil {
		t.Fatal(err)
	}
	n := shown.Inventory.Interface("hw0")
	if n == nil || n.Driver != "veth" || n.Kind != "veth" || !n.Up || n.Peer != "" || n.MTU != 1500 {
		t.Fatalf("%+v", n)
	}
	if c := n.Channels; c == nil || c.RX != 1 || c.TX != 1 || c.MaxRX != 4 || c.MaxTX != 4 {
		t.Errorf("channels %+v", n.Channels)
	}
	if q := n.Queues; q.RX != 1 || q.TX != 1 || len(q.RPS) != 1 || q.RPS[0].String() != "0" || len(q.XPS) != 1 || len(q.XPS[0]) != 0 {
		t.Errorf("queues %+v", q)
	}
	compared := 0
	for name, on := range look(t, ns).Features {
		if f, ok := n.Features[name]; ok {
			compared++
			if f.On != on {
				t.Errorf("%s: %v, ethtool says %v", name, f.On, on)
			}
		}
	}
	if compared < 10 {
		t.Errorf("%d features in common with ethtool", compared)
	}
}

// Killed at any moment, hw apply leaves nothing that hw restore does not undo.
func TestHWApplyKilled(t *testing.T) {
	ns := manyQueues(t)
	needTwoCPUs(t)
	state := filepath.Join(t.TempDir(), "hw.json")
	before := look(t, ns)
	rounds := 5
	if testing.Short() {
		rounds = 2
	}
	cut := 0
	for i := range rounds {
		p := start(t, ns, "hw", "apply", "--workers", "2", "--interface", "hw0", "--state", state)
		// Not before there is something to undo, and then a little later each time.
		for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
			if _, err := os.Stat(state); err == nil || time.Now().After(end) {
				break
			}
		}
		time.Sleep(time.Duration(i) * 5 * time.Millisecond)
		_ = p.cmd.Process.Kill()
		<-p.done
		if p.cmd.ProcessState.ExitCode() != 0 {
			cut++
		}
		run2(t, ns, 0, "hw", "restore", "--state", state)
		if now := look(t, ns); !reflect.DeepEqual(now, before) {
			t.Fatalf("round %d: restored\n%+v\nbefore\n%+v", i, now, before)
		}
	}
	t.Logf("%d of %d were cut short", cut, rounds)
}

func needTwoCPUs(t *testing.T) {
	t.Helper()
	inv, err := hwprofile.Read(hwprofile.Live())
	if err != nil {
		t.Fatal(err)
	}
	if len(inv.CPU.Usable()) < 2 {
		t.Skip("needs two CPUs")
	}
}

func TestDoctor(t *testing.T) {
	ns := manyQueues(t)
	p := start(t, ns, "doctor", "--interface", "hw0", "--workers", "2", "-o", "json")
	select {
	case <-p.done:
	case <-time.After(patience):
		t.Fatal("doctor does not end")
	}
	var report struct {
		Findings []hwprofile.Finding `json:"findings"`
	}
	if err := json.Unmarshal([]byte(p.out.String()), &report); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]hwprofile.Finding)
	bad := false
	for _, f := range report.Findings {
		got[f.Check] = f
		bad = bad || f.Level == hwprofile.Bad
		if f.Level != hwprofile.OK && (f.Why == "" || f.Mend == "") {
			t.Errorf("%+v does not say why, or how to mend it", f)
		}
	}
	if status := p.cmd.ProcessState.ExitCode(); (status == 1) != bad || status > 1 {
		t.Errorf("status %d, something bad %v", status, bad)
	}
	for check, level := range map[string]hwprofile.Level{
		"capabilities": hwprofile.OK, "tun": hwprofile.OK, "queues of hw0": hwprofile.Warn,
		"offloads of hw0": hwprofile.Warn, "veth peer of hw0": hwprofile.Warn, "MTU of hw0": hwprofile.OK,
	} {
		if f, ok := got[check]; !ok || f.Level != level {
			t.Errorf("%s: %+v, want %s", check, f, level)
		}
	}
	// What it says mends it.
	ns.Do(func() {
		mend := strings.TrimPrefix(got["offloads of hw0"].Mend, "sudo ")
		if out, err := exec.Command("sh", "-c", mend).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", mend, err, out)
		}
	})
	if out := start(t, ns, "doctor", "-a", "--interface", "hw0", "--workers", "2"); true {
		<-out.done
		if !strings.Contains(out.out.String(), "ok    offloads of hw0: all off that must be") {
			t.Errorf("%s", out.out.String())
		}
	}
}

// serve --tune changes what it says, restores it at the end, and what it was
// killed over is undone by the next serve, or by hw restore.
func TestServeTune(t *testing.T) {
	ns := manyQueues(t)
	needTwoCPUs(t)
	inNS(t, ns, "ip", "addr", "add", "10.78.0.1/24", "dev", "hw0")
	secrets := file(t, "secrets", "alice * correct-horse *\n", 0o600)
	state := filepath.Join(t.TempDir(), "serve.json")
	serve := func(more ...string) *program {
		t.Helper()
		p := start(t, ns, append([]string{
			"serve", "--control-socket=", "--listen", "10.78.0.1", "--local", "10.9.0.1", "--pool", "10.9.0.10-20",
			"--secrets", secrets, "--tune-state", state,
		}, more...)...)
		p.says("listening")
		return p
	}
	kill := func(p *program) {
		t.Helper()
		_ = p.cmd.Process.Kill()
		<-p.done
	}
	before := look(t, ns)
	same := func(when string) {
		t.Helper()
		if now := look(t, ns); !reflect.DeepEqual(now, before) {
			t.Errorf("%s\n%+v\nbefore\n%+v", when, now, before)
		}
	}

	p := serve("--tune", "--workers", "2")
	tuned(t, look(t, ns))
	for _, want := range []string{"msg=plan", "2 workers on CPUs", `change="hw0 channels rx: 1 -> 2"`, "msg=tuned"} {
		p.says(want)
	}
	pinned(t, p, 2)
	// Nobody takes it away from a server that is alive.
	run2(t, ns, 1, "hw", "restore", "--state", state)
	tuned(t, look(t, ns))
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	p.ends(0, `msg=restored change="hw0 channels rx: 2 -> 1"`)
	same("after the end")

	p = serve("--tune", "--workers", "2")
	kill(p)
	tuned(t, look(t, ns)) // still: nobody was there to undo it
	run2(t, ns, 0, "hw", "restore", "--state", state)
	same("after SIGKILL and hw restore")

	kill(serve("--tune", "--workers", "2"))
	p = serve() // does not tune, but tidies up
	same("after SIGKILL and another serve")
	kill(p)

	kill(serve("--tune", "--workers", "2"))
	p = serve("--tune", "--workers", "2")
	tuned(t, look(t, ns))
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	p.ends(0)
	same("after SIGKILL, another serve --tune and its end")
}

// pinned waits until so many threads of a program are each on a CPU that no
// other of them is on.
func pinned(t *testing.T, p *program, want int) {
	t.Helper()
	one := regexp.MustCompile(`(?m)^Cpus_allowed_list:\s+(\d+)$`)
	deadline := time.Now().Add(patience)
	for {
		cpus := make(map[string]bool)
		files, _ := filepath.Glob("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/task/*/status")
		for _, f := range files {
			b, err := os.ReadFile(f)
			if m := one.FindSubmatch(b); err == nil && m != nil {
				cpus[string(m[1])] = true
			}
		}
		if len(cpus) >= want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("threads are tied to CPUs %v, not to %d", cpus, want)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
