package hwprofile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"time"
)

// DefaultState is where hw apply leaves what it changed, and RunState where a
// program does that undoes it at its end.
const (
	DefaultState = "/run/xpptp/hw.json"
	RunState     = "/run/xpptp/tune.json"
)

// Result is what came of a change.
type Result struct {
	Change
	Err  error // nil: done
	Gone bool  // there is no such thing any more; not an error
}

// failed joins the errors of results.
func failed(results []Result) error {
	var errs []error
	for _, r := range results {
		if r.Err != nil {
			errs = append(errs, r.Err)
		}
	}
	return errors.Join(errs...)
}

// Tuning is a machine with a plan carried out.
type Tuning struct {
	Plan    *Plan    // as it came out
	Results []Result // of each change, also of those that were refused

	m    Machine
	path string
}

// Options say how a plan is carried out.
type Options struct {
	Machine  Machine  // nil: Live()
	Profiles Profiles // nil: those built in
	Request  Request
	State    string // the state file
	// Owned: the changes are this process's, which undoes them when it ends. If
	// it does not live to, whoever uses the state file next does. Else they stay
	// until Restore.
	Owned bool
}

// Tune reads the machine, plans and makes the changes, after it has undone
// what is in the state file. A change that the machine refuses is no error of
// Tune, see Results: a box that is not tuned still works.
func Tune(o Options) (*Tuning, error) {
	if o.Machine == nil {
		o.Machine = Live()
	}
	if _, err := Restore(o.Machine, o.State); err != nil {
		return nil, err
	}
	inv, err := Read(o.Machine)
	if err != nil {
		return nil, err
	}
	plan, err := MakePlan(inv, o.Profiles, o.Request)
	if err != nil {
		return nil, err
	}
	t := &Tuning{Plan: plan, m: o.Machine, path: o.State}
	state := &State{Version: stateVersion, Index: make(map[string]int)}
	if o.Owned {
		state.PID, state.Start = os.Getpid(), processStart(os.Getpid())
	}
	// Queues first: with their number the interrupts change, and the masks of
	// those that go are lost.
	shape := func(c Change) bool { return c.Kind == KindChannels || c.Kind == KindRing }
	if err := t.apply(inv, state, slices.DeleteFunc(slices.Clone(plan.Changes), func(c Change) bool { return !shape(c) })); err != nil {
		return t, err
	}
	if len(t.Results) > 0 {
		if inv, err = t.settle(inv); err != nil {
			return t, err
		}
		o.Request.KeepQueues = true
		if t.Plan, err = MakePlan(inv, o.Profiles, o.Request); err != nil {
			return t, err
		}
	}
	err = t.apply(inv, state, slices.DeleteFunc(slices.Clone(t.Plan.Changes), shape))
	return t, err
}

// linkTime is how long a link may take to come back when its queues have
// changed.
const linkTime = 10 * time.Second

// settle reads the machine again, once the links that were up are up.
func (t *Tuning) settle(before *Inventory) (*Inventory, error) {
	for end := time.Now().Add(linkTime); ; time.Sleep(linkTime / 100) {
		inv, err := Read(t.m)
		if err != nil || time.Now().After(end) {
			return inv, err
		}
		down := func(r Result) bool {
			was, is := before.Interface(r.Interface), inv.Interface(r.Interface)
			return was.Up && is != nil && !is.Up
		}
		if !slices.ContainsFunc(t.Results, down) {
			return inv, nil
		}
	}
}

// apply records the changes, then makes them.
func (t *Tuning) apply(inv *Inventory, state *State, changes []Change) error {
	if len(changes) == 0 {
		return nil
	}
	for _, c := range changes {
		n := inv.Interface(c.Interface)
		state.Index[c.Interface] = n.Index
		state.Changes = append(state.Changes, c)
		if c.Kind == KindChannels {
			state.Changes = append(state.Changes, lostWith(n, c)...)
		}
	}
	if err := state.write(t.path); err != nil {
		return err
	}
	for _, c := range changes {
		t.Results = append(t.Results, Result{Change: c, Err: t.m.Set(c.Setting, c.New)})
	}
	return nil
}

// lostWith lists the masks that the kernel forgets when queues go.
func lostWith(n *Interface, c Change) (lost []Change) {
	count, _ := strconv.Atoi(c.New)
	for _, k := range []struct {
		kind   Kind
		queues []CPUs
		other  string
	}{{KindRPS, n.Queues.RPS, "tx"}, {KindXPS, n.Queues.XPS, "rx"}} {
		for q, mask := range k.queues {
			if q >= count && len(mask) > 0 && c.Name != k.other {
				s := Setting{n.Name, k.kind, strconv.Itoa(q)}
				lost = append(lost, Change{Setting: s, Old: mask.Mask(), New: mask.Mask()})
			}
		}
	}
	return lost
}

// Restore undoes what the tuning changed. It may be called on nil.
func (t *Tuning) Restore() ([]Result, error) {
	if t == nil {
		return nil, nil
	}
	return restore(t.m, t.path)
}

// Restore undoes the changes in a state file, and removes it. Without a state
// file there is nothing to do. What has gone away is left alone. If the file
// is of a process that is alive the error wraps ErrInUse; if something could
// not be undone the file stays.
func Restore(m Machine, path string) ([]Result, error) {
	state, err := ReadState(path)
	if err != nil || state == nil {
		return nil, err
	}
	if state.alive() {
		return nil, fmt.Errorf("state file %s %w by process %d, which undoes its changes when it ends", path, ErrInUse, state.PID)
	}
	return restore(m, path)
}

// RestoreDead is Restore, except that a state file of a live process, and one
// that no process owns, are left alone.
func RestoreDead(m Machine, path string) ([]Result, error) {
	state, err := ReadState(path)
	if err != nil || state == nil || state.PID == 0 || state.alive() {
		return nil, err
	}
	return restore(m, path)
}

func restore(m Machine, path string) (results []Result, err error) {
	state, err := ReadState(path)
	if err != nil || state == nil {
		return nil, err
	}
	// In the order of kinds: queues come back before their masks. Of each
	// setting the first value counts.
	var changes []Change
	seen := make(map[Setting]bool)
	for _, c := range state.Changes {
		if !seen[c.Setting] {
			seen[c.Setting] = true
			c.Old, c.New, c.Why = c.New, c.Old, ""
			changes = append(changes, c)
		}
	}
	slices.SortStableFunc(changes, func(a, b Change) int {
		return slices.Index(kinds, a.Kind) - slices.Index(kinds, b.Kind)
	})
	inv, err := Read(m)
	if err != nil {
		return nil, err
	}
	for i, c := range changes {
		if i > 0 && changes[i-1].Kind != c.Kind {
			if inv, err = Read(m); err != nil {
				return results, err
			}
		}
		results = append(results, restoreOne(m, inv, state, c))
	}
	if err := failed(results); err != nil {
		return results, fmt.Errorf("%s stays, for another attempt: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return results, fmt.Errorf("state file: %w", err)
	}
	return results, nil
}

func restoreOne(m Machine, inv *Inventory, state *State, c Change) Result {
	r := Result{Change: c}
	now, ok := inv.value(c.Setting)
	if n := inv.Interface(c.Interface); !ok || n.Index != state.Index[c.Interface] {
		r.Gone = true
		return r
	}
	r.Old = now
	if now != c.New {
		if r.Err = m.Set(c.Setting, c.New); errors.Is(r.Err, fs.ErrNotExist) {
			r.Err, r.Gone = nil, true
		}
	}
	return r
}
