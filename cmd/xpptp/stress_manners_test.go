package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"xpptp/control/stress/manners"
)

// mannersTime is how long a run of all scenarios may take on a machine that
// has much else to do.
const mannersTime = 4 * time.Minute

// runsManners runs scenarios in a lab and returns what became of them.
func runsManners(t *testing.T, args ...string) (*program, map[string]manners.Outcome) {
	t.Helper()
	p := command(t, append([]string{"stress", "manners", "--lab", "-o", "json"}, args...)...)
	p.launch()
	select {
	case <-p.done:
	case <-time.After(mannersTime):
		t.Fatal("does not end")
	}
	all := map[string]manners.Outcome{}
	for line := range strings.Lines(p.out.String()) {
		var o manners.Outcome
		if err := json.Unmarshal([]byte(line), &o); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		all[o.Name] = o
	}
	return p, all
}

// Our own server puts up with everything, and a hundred calls beside it do not
// notice.
func TestManners(t *testing.T) {
	newNet2(t) // skips
	length := "400ms"
	if testing.Short() {
		length = "150ms"
	}
	p, all := runsManners(t, "--calls", "100", "--time", length)
	for _, s := range manners.Scenarios() {
		o, ok := all[s.Name]
		// A machine without time for its work loses packets for no fault of the
		// server: such a scenario gets another try alone.
		for try := 0; ok && !o.OK && try < 2; try++ {
			t.Logf("%s: %v", s.Name, o.Faults)
			var again map[string]manners.Outcome
			_, again = runsManners(t, "--calls", "100", "--time", length, s.Name)
			o, ok = again[s.Name]
		}
		switch {
		case !ok:
			t.Errorf("%s was not run: %s", s.Name, p.err.String())
		case !o.OK:
			t.Errorf("%s: %v", s.Name, o.Faults)
		case o.Connections+o.Messages+o.Packets+o.Harmed+o.Repeated == 0:
			t.Errorf("%s did nothing", s.Name)
		case o.Beside.Calls != 100 || o.Beside.Sent == 0:
			t.Errorf("%s: beside it were %+v", s.Name, o.Beside)
		}
	}
	// The server has met what was sent, under its name.
	for _, name := range []string{"bad-gre", "short-packet", "wrong-peer", "gre-duplicate", "mppe-[a-z-]+"} {
		m := regexp.MustCompile(`server dropped (\d+) packets: ` + name + `\n`).FindStringSubmatch(p.err.String())
		if m == nil {
			t.Errorf("the server has dropped nothing as %s: %s", name, p.err.String())
		} else if n, _ := strconv.Atoi(m[1]); n == 0 {
			t.Errorf("none dropped as %s", name)
		}
	}
}

// A server that does not live through it is found out.
func TestMannersServerDies(t *testing.T) {
	newNet2(t) // skips
	p := command(t, "stress", "manners", "--lab", "--calls", "2", "--time", "1m", "half-open")
	p.launch()
	server := 0
	for end := time.Now().Add(patience); server == 0 && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		server = descendant(p.cmd.Process.Pid, "serve")
	}
	if server == 0 {
		t.Fatal("there is no server")
	}
	if err := unix.Kill(server, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.ends(exitFailure)
}

// descendant finds a process below another by its first argument; 0 if there
// is none.
func descendant(of int, first string) int {
	tasks, _ := filepath.Glob("/proc/" + strconv.Itoa(of) + "/task/*/children")
	for _, task := range tasks {
		text, _ := os.ReadFile(task)
		for child := range strings.FieldsSeq(string(text)) {
			pid, _ := strconv.Atoi(child)
			line, _ := os.ReadFile("/proc/" + child + "/cmdline")
			if args := strings.Split(string(line), "\x00"); len(args) > 1 && args[1] == first {
				return pid
			}
			if found := descendant(pid, first); found > 0 {
				return found
			}
		}
	}
	return 0
}
