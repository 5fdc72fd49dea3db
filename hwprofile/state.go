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
)

// Kind is a kind of setting.
type Kind string

// The kinds, in the order in which they are changed and restored: settings of
// queues after the number of queues.
const (
	KindChannels Kind = "channels" // Name is rx, tx or combined
	KindRing     Kind = "ring"     // Name is rx or tx
	KindCoalesce Kind = "coalesce" // Name is adaptive-rx, adaptive-tx, rx-usecs or tx-usecs
	KindFeature  Kind = "feature"  // Name is the kernel's name of an offload
	KindRPS      Kind = "rps"      // Name is a receive queue's number, the value a CPU mask
	KindXPS      Kind = "xps"      // Name is a transmit queue's number, the value a CPU mask
	KindIRQ      Kind = "irq"      // Name is an interrupt's number, the value a CPU list
)

var kinds = []Kind{KindChannels, KindRing, KindCoalesce, KindFeature, KindRPS, KindXPS, KindIRQ}

// Setting is something that can be changed.
type Setting struct {
	Interface string `json:"interface"`
	Kind      Kind   `json:"kind"`
	Name      string `json:"name"`
}

// String names the setting as an operator would.
func (s Setting) String() string {
	switch s.Kind {
	case KindRPS:
		return fmt.Sprintf("%s rx-%s RPS CPUs", s.Interface, s.Name)
	case KindXPS:
		return fmt.Sprintf("%s tx-%s XPS CPUs", s.Interface, s.Name)
	case KindIRQ:
		return fmt.Sprintf("%s IRQ %s on CPUs", s.Interface, s.Name)
	default: // the others are named alike
	}
	return fmt.Sprintf("%s %s %s", s.Interface, s.Kind, s.Name)
}

// file is where the kernel shows the setting, without the first slash.
func (s Setting) file() string {
	switch s.Kind {
	case KindRPS:
		return fmt.Sprintf("%s/%s/queues/rx-%s/rps_cpus", netDir, s.Interface, s.Name)
	case KindXPS:
		return fmt.Sprintf("%s/%s/queues/tx-%s/xps_cpus", netDir, s.Interface, s.Name)
	case KindIRQ:
		return fmt.Sprintf("proc/irq/%s/smp_affinity_list", s.Name)
	default: // ethtool's
	}
	return ""
}

// names that a setting of each kind may have; nil: a number.
var settingNames = map[Kind][]string{
	KindChannels: {"rx", "tx", "combined"},
	KindRing:     {"rx", "tx"},
	KindCoalesce: {"adaptive-rx", "adaptive-tx", "rx-usecs", "tx-usecs"},
}

// check refuses what did not come from us: a state file may be anybody's.
func (c Change) check() error {
	bad := func(what, value string) error { return fmt.Errorf("change of %q: %s %q", c.Setting, what, value) }
	if c.Interface == "" || len(c.Interface) > 15 || strings.ContainsAny(c.Interface, "/ \t\n") || c.Interface == ".." || c.Interface == "." {
		return bad("not an interface:", c.Interface)
	}
	isNumber := func(s string) bool { _, err := strconv.ParseUint(s, 10, 31); return err == nil }
	switch c.Kind {
	case KindChannels, KindRing, KindCoalesce:
		if !slices.Contains(settingNames[c.Kind], c.Name) {
			return bad("unknown name", c.Name)
		}
	case KindFeature:
		if c.Name == "" || len(c.Name) > 32 {
			return bad("unknown name", c.Name)
		}
	case KindRPS, KindXPS, KindIRQ:
		if !isNumber(c.Name) {
			return bad("not a number:", c.Name)
		}
	default:
		return bad("unknown kind", string(c.Kind))
	}
	for _, v := range []string{c.Old, c.New} {
		ok := isNumber(v) || v == "on" || v == "off"
		switch c.Kind {
		case KindRPS, KindXPS:
			_, err := ParseMask(v)
			ok = err == nil
		case KindIRQ:
			s, err := ParseList(v)
			ok = err == nil && len(s) > 0
		case KindFeature:
			ok = v == "on" || v == "off"
		default: // numbers, on and off
		}
		if !ok {
			return bad("not a value:", v)
		}
	}
	return nil
}

// Change is a setting and its values before and after.
type Change struct {
	Setting
	Old string `json:"old"`
	New string `json:"new"`
	Why string `json:"why,omitempty"`
}

// String is the change in one line.
func (c Change) String() string {
	return fmt.Sprintf("%s: %s -> %s", c.Setting, c.words(c.Old), c.words(c.New))
}

// words says a value as an operator would.
func (c Change) words(v string) string {
	if c.Kind == KindRPS || c.Kind == KindXPS {
		s, err := ParseMask(v)
		switch {
		case err != nil:
		case len(s) == 0:
			return "none"
		default:
			return s.String()
		}
	}
	return v
}

// value is what a setting is at; false if there is no such thing.
func (inv *Inventory) value(s Setting) (string, bool) {
	n := inv.Interface(s.Interface)
	if n == nil {
		return "", false
	}
	number := func(m map[string]int) (string, bool) {
		v, ok := m[s.Name]
		return strconv.Itoa(v), ok
	}
	onOff := func(on bool) string {
		if on {
			return "on"
		}
		return "off"
	}
	mask := func(queues []CPUs) (string, bool) {
		q, err := strconv.Atoi(s.Name)
		if err != nil || q < 0 || q >= len(queues) {
			return "", false
		}
		return queues[q].Mask(), true
	}
	switch s.Kind {
	case KindChannels:
		if c := n.Channels; c != nil {
			return number(map[string]int{"rx": c.RX, "tx": c.TX, "combined": c.Combined})
		}
	case KindRing:
		if r := n.Rings; r != nil {
			return number(map[string]int{"rx": r.RX, "tx": r.TX})
		}
	case KindCoalesce:
		switch c := n.Coalesce; {
		case c == nil:
		case s.Name == "adaptive-rx":
			return onOff(c.AdaptiveRX), true
		case s.Name == "adaptive-tx":
			return onOff(c.AdaptiveTX), true
		default:
			return number(map[string]int{"rx-usecs": c.RXUsecs, "tx-usecs": c.TXUsecs})
		}
	case KindFeature:
		f, ok := n.Features[s.Name]
		return onOff(f.On), ok
	case KindRPS:
		return mask(n.Queues.RPS)
	case KindXPS:
		return mask(n.Queues.XPS)
	case KindIRQ:
		number, err := strconv.Atoi(s.Name)
		if irq := inv.irq(number); err == nil && irq != nil && slices.Contains(n.IRQs, number) {
			return irq.Affinity.String(), true
		}
	}
	return "", false
}

// State is the content of a state file: what was changed and how it was
// before.
type State struct {
	Version int `json:"version"`
	// PID and Start (field 22 of proc_pid_stat(5)) name the process that undoes
	// the changes when it ends; 0: they stay until somebody restores them.
	PID     int            `json:"pid,omitempty"`
	Start   string         `json:"start,omitempty"`
	Index   map[string]int `json:"ifindex"` // of each interface: a new one of that name is another
	Changes []Change       `json:"changes"` // in the order they are made in
}

const stateVersion = 1

// ErrInUse is returned (wrapped) for a state file of a process that is alive.
var ErrInUse = errors.New("is in use")

// ParseState reads a state file, and refuses what could not have been written
// by Apply or Tune.
func ParseState(b []byte) (*State, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	s := &State{}
	if err := d.Decode(s); err != nil {
		return nil, fmt.Errorf("state file: %w", err)
	}
	if s.Version != stateVersion {
		return nil, fmt.Errorf("state file: version %d: only %d is known", s.Version, stateVersion)
	}
	for _, c := range s.Changes {
		if err := c.check(); err != nil {
			return nil, fmt.Errorf("state file: %w", err)
		}
	}
	return s, nil
}

// ReadState reads a state file; a file that is not there has no changes.
func ReadState(path string) (*State, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("state file: %w", err)
	}
	s, err := ParseState(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// write puts the state on the disk before it returns: a new file that takes
// the old one's name when it is complete.
func (s *State) write(path string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("state file %s: %w", path, err)
		}
	}()
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".hw-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // by now it has another
	_, err = f.Write(append(b, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// alive reports whether the process that owns the state still runs.
func (s *State) alive() bool {
	return s.PID != 0 && s.Start != "" && processStart(s.PID) == s.Start
}

// processStart is when a process started, in ticks since boot; empty if there
// is none.
func processStart(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// The name, in parentheses, may hold anything.
	_, rest, _ := strings.Cut(string(b[bytes.LastIndexByte(b, ')')+1:]), " ")
	if f := strings.Fields(rest); len(f) > 19 {
		return f[19]
	}
	return ""
}
