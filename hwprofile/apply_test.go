package hwprofile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

// fake is a machine in memory that can be changed, as the kernel would: masks
// of queues that go are forgotten.
type fake struct {
	fstest.MapFS
	nics   map[string]NIC
	refuse map[Setting]error
	before func(Setting) // called before each change
}

func newFake(t *testing.T, name string) *fake {
	m := tree(t, name).(recorded)
	f := &fake{MapFS: m.FS.(fstest.MapFS), nics: make(map[string]NIC), refuse: make(map[Setting]error)}
	all, err := m.Names()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range all {
		if n, err := m.NIC(name); err == nil {
			f.nics[name] = n
		}
	}
	return f
}

func (f *fake) CPUID() (CPUID, error)     { return CPUID{}, nil }
func (f *fake) Names() ([]string, error)  { return names(f, netDir) }
func (f *fake) Firewall() (string, error) { return "", nil }

func (f *fake) NIC(name string) (NIC, error) {
	n, ok := f.nics[name]
	if !ok {
		return n, fs.ErrNotExist
	}
	// The caller's own copy, as from a driver.
	b, err := json.Marshal(n)
	if err != nil {
		return n, err
	}
	var c NIC
	return c, json.Unmarshal(b, &c)
}

func (f *fake) Set(s Setting, value string) error {
	if f.before != nil {
		f.before(s)
	}
	if err := f.refuse[s]; err != nil {
		return err
	}
	n, ok := f.nics[s.Interface]
	if !ok {
		return fs.ErrNotExist
	}
	v, _ := strconv.Atoi(value)
	switch s.Kind {
	case KindChannels:
		switch s.Name {
		case "combined":
			n.Channels.Combined = v
			f.queues(s.Interface, "rx", v)
			f.queues(s.Interface, "tx", v)
		case "rx":
			n.Channels.RX = v
			f.queues(s.Interface, "rx", v)
		case "tx":
			n.Channels.TX = v
			f.queues(s.Interface, "tx", v)
		}
	case KindRing:
		if s.Name == "rx" {
			n.Rings.RX = v
		} else {
			n.Rings.TX = v
		}
	case KindCoalesce:
		switch s.Name {
		case "adaptive-rx":
			n.Coalesce.AdaptiveRX = value == "on"
		case "rx-usecs":
			n.Coalesce.RXUsecs = v
		}
	case KindFeature:
		n.Features[s.Name] = Feature{On: value == "on"}
	case KindRPS, KindXPS, KindIRQ:
		if f.MapFS[s.file()] == nil {
			return fs.ErrNotExist
		}
		f.MapFS[s.file()] = &fstest.MapFile{Data: []byte(value + "\n")}
	}
	return nil
}

// queues makes an interface have so many queues of a kind.
func (f *fake) queues(name, kind string, n int) {
	file := map[string]string{"rx": "rps_cpus", "tx": "xps_cpus"}[kind]
	for q := range 64 {
		path := fmt.Sprintf("%s/%s/queues/%s-%d/%s", netDir, name, kind, q, file)
		switch {
		case q >= n:
			delete(f.MapFS, path)
		case f.MapFS[path] == nil:
			f.MapFS[path] = &fstest.MapFile{Data: []byte("0\n")}
		}
	}
}

// snapshot is all that Set can change.
func snapshot(t *testing.T, m Machine) string {
	t.Helper()
	inv := read(t, m)
	b, err := json.MarshalIndent(struct {
		I []Interface
		Q []IRQ
	}{inv.Interfaces, inv.IRQs}, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func tune(t *testing.T, m Machine, state string, req Request) *Tuning {
	t.Helper()
	tuning, err := Tune(Options{Machine: m, Profiles: builtIn, Request: req, State: state})
	if err != nil {
		t.Fatal(err)
	}
	return tuning
}

func TestTuneAndRestore(t *testing.T) {
	for _, tt := range []struct {
		tree string
		req  Request
	}{
		{"two-sockets", Request{Interfaces: []string{"ens785f0"}}},
		{"two-sockets", Request{Workers: 3}},
		{"cloud-ena", Request{}},
		{"container", Request{Workers: 2}},
	} {
		m := newFake(t, tt.tree)
		state := filepath.Join(t.TempDir(), "run", "hw.json")
		// Masks of somebody's, on a queue that stays, one that goes and a receive queue.
		for _, n := range []string{"ens785f0", "ens5"} {
			for _, path := range []string{"tx-1/xps_cpus", "tx-7/xps_cpus", "rx-0/rps_cpus", "rx-6/rps_cpus"} {
				if f := m.MapFS[netDir+"/"+n+"/queues/"+path]; f != nil {
					f.Data = []byte("3\n")
				}
			}
		}
		before := snapshot(t, m)
		tuning := tune(t, m, state, tt.req)
		if err := failed(tuning.Results); err != nil || len(tuning.Results) == 0 {
			t.Fatalf("%s: %v, %v", tt.tree, err, tuning.Results)
		}
		if len(tuning.Plan.Changes) == 0 {
			t.Errorf("%s: the plan forgot what it changed", tt.tree)
		}
		// It is as planned now: nothing is left to do.
		if p := plan(t, read(t, m), tt.req); len(p.Changes) != 0 {
			t.Errorf("%s: still to change: %v", tt.tree, p.Changes)
		}
		if _, err := Restore(m, state); err != nil {
			t.Fatal(err)
		}
		if after := snapshot(t, m); after != before {
			t.Errorf("%s: before\n%s\nafter\n%s", tt.tree, before, after)
		}
		if _, err := os.Stat(state); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("state file: %v", err)
		}
		if done, err := Restore(m, state); err != nil || done != nil {
			t.Errorf("again: %v, %v", done, err)
		}
	}
}

// Whatever moment the process dies at, all is undone by the next.
func TestRestoreFromAnyMoment(t *testing.T) {
	total := len(tune(t, newFake(t, "two-sockets"), filepath.Join(t.TempDir(), "s"), Request{}).Results)
	type killed struct{}
	step := 3
	if testing.Short() {
		step = 11
	}
	for at := 0; at < total; at += step {
		m := newFake(t, "two-sockets")
		before := snapshot(t, m)
		state := filepath.Join(t.TempDir(), "hw.json")
		n := 0
		m.before = func(s Setting) {
			st, err := ReadState(state)
			if err != nil || st == nil || !slices.ContainsFunc(st.Changes, func(c Change) bool { return c.Setting == s }) {
				t.Fatalf("%s is changed and is not in the state file: %v", s, err)
			}
			if n++; n > at {
				panic(killed{})
			}
		}
		func() {
			defer func() {
				if _, ok := recover().(killed); !ok {
					t.Fatal("not killed")
				}
			}()
			tune(t, m, state, Request{})
		}()
		m.before = nil
		if _, err := Restore(m, state); err != nil {
			t.Fatal(err)
		}
		if snapshot(t, m) != before {
			t.Fatalf("killed at change %d of %d: not as before", at, total)
		}
	}
}

// The next Tune undoes what the last one left, then makes its own plan; what it
// restores in the end is the beginning.
func TestTuneAfterTune(t *testing.T) {
	m := newFake(t, "cloud-ena")
	before := snapshot(t, m)
	state := filepath.Join(t.TempDir(), "hw.json")
	tune(t, m, state, Request{Workers: 1})
	second := tune(t, m, state, Request{Workers: 2})
	if got := read(t, m).Interface("ens5").Channels.Combined; got != 2 {
		t.Errorf("%d channels", got)
	}
	if _, err := second.Restore(); err != nil {
		t.Fatal(err)
	}
	if snapshot(t, m) != before {
		t.Error("not as at the beginning")
	}
}

func TestRefusedAndGone(t *testing.T) {
	m := newFake(t, "cloud-ena")
	state := filepath.Join(t.TempDir(), "hw.json")
	channels := Setting{"ens5", KindChannels, "combined"}
	m.refuse[channels] = errors.New("no")
	tuning := tune(t, m, state, Request{})
	refused := 0
	for _, r := range tuning.Results {
		if r.Err != nil {
			refused++
		}
	}
	// The plan goes on with the queues that there are.
	if refused != 1 || len(tuning.Plan.Interfaces[0].Queues) != 8 {
		t.Errorf("%d refused, %s", refused, tuning.Plan.Short())
	}

	// A setting that does not come back keeps the file.
	ring := Setting{"ens5", KindRing, "rx"}
	m.refuse[ring] = errors.New("not now")
	if _, err := Restore(m, state); err == nil || !strings.Contains(err.Error(), "not now") || !strings.Contains(err.Error(), state) {
		t.Errorf("%v", err)
	}
	delete(m.refuse, ring)

	// An interface of the same name that is another is left alone.
	m.MapFS[netDir+"/ens5/ifindex"].Data = []byte("77\n")
	now := snapshot(t, m)
	done, err := Restore(m, state)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range done {
		if !r.Gone {
			t.Errorf("%s is not gone", r.Change)
		}
	}
	if len(done) == 0 || snapshot(t, m) != now {
		t.Error("it was changed")
	}

	// Nor is one that is not there any more an error.
	tune(t, m, state, Request{})
	for path := range m.MapFS {
		if strings.HasPrefix(path, netDir+"/ens5/") {
			delete(m.MapFS, path)
		}
	}
	delete(m.nics, "ens5")
	if done, err := Restore(m, state); err != nil || len(done) == 0 {
		t.Errorf("%v, %v", done, err)
	}
}

// A state file of a live process is its own business; of a dead one not.
func TestOwner(t *testing.T) {
	m := newFake(t, "cloud-ena")
	state := filepath.Join(t.TempDir(), "hw.json")
	o := Options{Machine: m, Profiles: builtIn, State: state, Owned: true}
	tuning, err := Tune(o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(m, state); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) {
		t.Errorf("restored under the feet of its owner: %v", err)
	}
	if _, err := Tune(o); !errors.Is(err, ErrInUse) {
		t.Errorf("tuned twice: %v", err)
	}
	s, err := ReadState(state)
	if err != nil {
		t.Fatal(err)
	}
	s.Start = "1" // another process has the number now
	if err := s.write(state); err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(m, state); err != nil {
		t.Errorf("of a dead process: %v", err)
	}
	if done, err := tuning.Restore(); err != nil || done != nil {
		t.Errorf("%v, %v", done, err)
	}
	if done, err := (*Tuning)(nil).Restore(); err != nil || done != nil {
		t.Errorf("nil: %v, %v", done, err)
	}
}

func TestTuneErrors(t *testing.T) {
	m := newFake(t, "cloud-ena")
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, m)
	if _, err := Tune(Options{Machine: m, Profiles: builtIn, State: dir + "/file/hw.json"}); err == nil {
		t.Error("changes without a state file")
	}
	if err := os.WriteFile(dir+"/bad", []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Tune(Options{Machine: m, Profiles: builtIn, State: dir + "/bad"}); err == nil || !strings.Contains(err.Error(), "version 0") {
		t.Errorf("a state file that is none: %v", err)
	}
	if _, err := Tune(Options{Machine: m, Profiles: builtIn, State: dir + "/x", Request: Request{Interfaces: []string{"no"}}}); err == nil {
		t.Error("an interface that is not there")
	}
	if snapshot(t, m) != before {
		t.Error("something was changed")
	}
}

const goodState = `{"version":1,"ifindex":{"eth0":2},"changes":[
{"interface":"eth0","kind":"channels","name":"combined","old":"8","new":"3"},
{"interface":"eth0","kind":"ring","name":"rx","old":"256","new":"2048"},
{"interface":"eth0","kind":"coalesce","name":"adaptive-rx","old":"on","new":"off"},
{"interface":"eth0","kind":"feature","name":"rx-gro","old":"on","new":"off"},
{"interface":"eth0","kind":"xps","name":"0","old":"0","new":"ff,00000001"},
{"interface":"eth0","kind":"irq","name":"37","old":"0-3","new":"1"}]}`

func TestParseState(t *testing.T) {
	if s, err := ParseState([]byte(goodState)); err != nil || len(s.Changes) != 6 {
		t.Fatalf("%v, %v", s, err)
	}
	for _, tt := range []struct{ old, new, want string }{
		{`"version":1`, `"version":2`, "version 2: only 1 is known"},
		{`"version"`, `"versions"`, "unknown field"},
		{`"kind":"ring"`, `"kind":"rings"`, "unknown kind"},
		{`"name":"combined"`, `"name":"all"`, `unknown name "all"`},
		{`"old":"256"`, `"old":"lots"`, `not a value: "lots"`},
		{`"old":"256"`, `"old":"-1"`, `not a value: "-1"`},
		{`"name":"0"`, `"name":"../../x"`, `not a number: "../../x"`},
		{`"name":"37"`, `"name":"37/../38"`, "not a number"},
		{`"new":"ff,00000001"`, `"new":"on"`, `not a value: "on"`},
		{`"old":"0-3"`, `"old":""`, `not a value: ""`},
		{`"name":"rx-gro","old":"on"`, `"name":"rx-gro","old":"1"`, `not a value: "1"`},
		{`"interface":"eth0","kind":"irq"`, `"interface":"../eth0","kind":"irq"`, "not an interface"},
		{`{"version"`, `["version"`, "state file"},
	} {
		text := strings.Replace(goodState, tt.old, tt.new, 1)
		if _, err := ParseState([]byte(text)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s for %s: %v, want %q", tt.new, tt.old, err, tt.want)
		}
	}
}

func FuzzParseState(f *testing.F) {
	f.Add([]byte(goodState))
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseState(b)
		if err != nil {
			return
		}
		for _, c := range s.Changes {
			if p := c.file(); p != "" && (!fs.ValidPath(p) || strings.Contains(p, "..")) {
				t.Fatalf("%q leads to %q", c, p)
			}
		}
		out, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseState(out)
		if err != nil {
			t.Fatalf("%s: %v", out, err)
		}
		twice, err := json.Marshal(again)
		if err != nil || !bytes.Equal(out, twice) {
			t.Fatalf("%s, then %s", out, twice)
		}
	})
}
