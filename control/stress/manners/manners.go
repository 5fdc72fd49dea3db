// Package manners is bad manners on purpose: clients and packets that a PPTP
// server must put up with, one scenario after the other, while well-behaved
// calls beside them carry traffic of which nothing may be lost.
package manners

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"xpptp/control"
	"xpptp/control/config"
	"xpptp/control/stress"
)

// Scenario is one kind of bad manners.
type Scenario struct {
	Name   string `json:"name"`
	Does   string `json:"does"`   // a sentence
	Should string `json:"should"` // what a good server does
	// Lab says that it forges the source of packets: only for a server in a lab
	// of our own.
	Lab bool `json:"lab_only"`

	run func(ctx context.Context, a *attack) error
}

// Scenarios lists all, in the order in which they run.
func Scenarios() []Scenario { return slices.Concat(controlScenarios, greScenarios, pathScenarios) }

// Find returns the scenarios with these names, in their own order; all without names.
func Find(names []string) ([]Scenario, error) {
	all := Scenarios()
	if len(names) == 0 {
		return all, nil
	}
	for _, n := range names {
		if !slices.ContainsFunc(all, func(s Scenario) bool { return s.Name == n }) {
			return nil, fmt.Errorf("no scenario is called %q", n)
		}
	}
	return slices.DeleteFunc(all, func(s Scenario) bool { return !slices.Contains(names, s.Name) }), nil
}

// Options say what is run, and against what.
type Options struct {
	// Plan has the server, the users, the seed and the number of calls beside.
	Plan  *config.Stress
	Allow []netip.Prefix // servers beside loopback and the lab
	Lab   *stress.Lab    // nil: the server is there
	Time  time.Duration  // of each scenario, 100 ms to 1 min
	PPS   float64        // through all calls beside together, 0: nothing goes through them
	Log   *slog.Logger
	// Began and Ended hear of each scenario; they may be nil.
	Began func(Scenario)
	Ended func(Outcome)
}

// Bounds of a run.
const (
	minTime  = 100 * time.Millisecond
	maxTime  = time.Minute
	maxPPS   = 100_000
	patience = 30 * time.Second // for what a good server does at once
)

// Check returns an error that names the first value out of range.
func (o *Options) Check() error {
	switch {
	case o.Time < minTime || o.Time > maxTime:
		return fmt.Errorf("time: %v is out of range: allowed are %v to %v", o.Time, minTime, maxTime)
	case !(o.PPS >= 0 && o.PPS <= maxPPS):
		return fmt.Errorf("pps: %v is out of range: allowed are 0 to %d", o.PPS, maxPPS)
	}
	return nil
}

// Outcome is what became of one scenario.
type Outcome struct {
	Name    string   `json:"name"`
	OK      bool     `json:"ok"`
	Faults  []string `json:"faults"`            // why it is not
	Skipped string   `json:"skipped,omitempty"` // why it was not run
	Seen    []string `json:"seen"`              // what the server did
	// Of what was bad.
	Connections uint64 `json:"connections"`
	Messages    uint64 `json:"messages"` // on control connections
	Packets     uint64 `json:"packets"`  // GRE
	Harmed      uint64 `json:"harmed"`   // packets of good calls that a bad path lost, damaged or delayed
	Repeated    uint64 `json:"repeated"` // and those that it let through twice
	// Of the calls beside.
	Beside Beside `json:"beside"`
	// From request to network protocol, of a good call placed after it.
	SetupMS float64 `json:"setup_ms"`
	// Of the server, if it is our child: open files before and after, and
	// memory after.
	FilesBefore int    `json:"files_before,omitempty"`
	FilesAfter  int    `json:"files_after,omitempty"`
	MemoryBytes uint64 `json:"memory_bytes,omitempty"`
}

// Beside is how the well-behaved calls fared.
type Beside struct {
	Calls      int    `json:"calls"`
	LostCalls  int    `json:"lost_calls"`
	Sent       uint64 `json:"sent"`
	Received   uint64 `json:"received"`
	Lost       uint64 `json:"lost"`
	Duplicated uint64 `json:"duplicated"`
	Corrupted  uint64 `json:"corrupted"`
	// Dropped is what our own side dropped, by name: it is not the server's fault.
	Dropped map[string]uint64 `json:"dropped,omitempty"`
}

func (o *Outcome) fault(format string, args ...any) {
	o.Faults = append(o.Faults, fmt.Sprintf(format, args...))
}

// Run runs scenarios one after the other and returns what became of each. The
// error is for a run that could not begin, or was interrupted.
func Run(ctx context.Context, o *Options, scenarios []Scenario) ([]Outcome, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	b, err := newBeside(o.Plan, o.Log)
	if err != nil {
		return nil, err
	}
	allow := o.Allow
	if o.Lab != nil {
		allow = append(slices.Clone(allow), netip.PrefixFrom(b.caller.Server().Addr(), 32))
	}
	if err := stress.Permit(b.caller.Server().Addr(), allow); err != nil {
		return nil, err
	}
	if err := b.start(ctx, o.Plan.Calls); err != nil {
		return nil, err
	}
	defer b.stop()
	r := &runner{Options: o, beside: b}
	var all []Outcome
	for i, s := range scenarios {
		if err := ctx.Err(); err != nil {
			return all, err
		}
		if o.Began != nil {
			o.Began(s)
		}
		out := r.scenario(ctx, s, uint64(i))
		all = append(all, out)
		if o.Ended != nil {
			o.Ended(out)
		}
		if r.gone() {
			return all, errors.New("the server is gone")
		}
	}
	return all, ctx.Err()
}

type runner struct {
	*Options
	beside *beside
	memory uint64 // of the server, after the first scenario
}

// gone reports whether the server, our child, has ended.
func (r *runner) gone() bool {
	if r.Lab == nil {
		return false
	}
	select {
	case <-r.Lab.Gone():
		return true
	default:
		return false
	}
}

// scenario runs one, with traffic through the calls beside.
func (r *runner) scenario(ctx context.Context, s Scenario, n uint64) (out Outcome) {
	out = Outcome{Name: s.Name, Faults: []string{}, Seen: []string{}}
	if s.Lab && r.Lab == nil {
		out.OK, out.Skipped = true, "it forges sources: only with a server in a lab"
		return out
	}
	var server process
	if r.Lab != nil {
		server = process(r.Lab.PID())
		out.FilesBefore = server.files()
	}
	a := &attack{
		Outcome: &out, time: r.Time, server: r.beside.caller.Server(), from: r.beside.from(), good: r.beside.calls(),
		beside: r.beside, rng: rand.New(rand.NewPCG(uint64(r.Plan.Seed), n)),
	}
	err := r.beside.during(ctx, r.PPS, r.Time, &out, func(ctx context.Context) error { return s.run(ctx, a) })
	if a.after != nil {
		a.after()
	}
	if err != nil && ctx.Err() == nil {
		out.fault("%v", err)
	}
	r.judge(ctx, &out, server)
	out.OK = len(out.Faults) == 0
	return out
}

// judge looks at the server after a scenario.
func (r *runner) judge(ctx context.Context, out *Outcome, server process) {
	out.judge(r.beside.reasons())
	if r.PPS > 0 && out.Beside.Sent == 0 {
		out.fault("the calls beside carried nothing")
	}
	if r.gone() {
		out.fault("the server has ended")
		return
	}
	setup, err := r.beside.another(ctx)
	if err != nil {
		out.fault("a good call afterwards: %v", err)
	}
	out.SetupMS = float64(setup) / 1e6
	if r.Lab == nil {
		return
	}
	// What was opened for the bad ones is given back, at the latest when the
	// server's own time-outs are over.
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		out.FilesAfter = server.files()
		if out.FilesAfter <= out.FilesBefore || time.Now().After(end) || ctx.Err() != nil {
			break
		}
	}
	if out.FilesAfter > out.FilesBefore {
		out.fault("the server has %d open files, %d before", out.FilesAfter, out.FilesBefore)
	}
	out.MemoryBytes = server.memory()
	if r.memory == 0 {
		r.memory = out.MemoryBytes
	}
	if out.MemoryBytes > r.memory+maxGrowth {
		out.fault("the server uses %d MB of memory, %d MB at first", out.MemoryBytes>>20, r.memory>>20)
	}
}

// judge finds fault with how the calls beside fared; reasons are those of the
// calls that were lost.
func (o *Outcome) judge(reasons []string) {
	b := &o.Beside
	if b.LostCalls > 0 {
		o.fault("%d of %d calls beside were lost: %s", b.LostCalls, b.Calls, strings.Join(reasons, "; "))
	}
	// What was harmed may be lost, or come damaged; nothing else.
	if b.Lost > o.Harmed || b.Corrupted > o.Harmed || b.Duplicated > 0 {
		own := ""
		if len(b.Dropped) > 0 {
			own = fmt.Sprintf("; our own side dropped %v", b.Dropped)
		}
		o.fault("of %d packets of the calls beside %d were lost, %d duplicated, %d corrupted%s", b.Sent, b.Lost, b.Duplicated, b.Corrupted, own)
	}
}

// maxGrowth is what a server may use more than after the first scenario: what
// sockets and a garbage collector keep.
const maxGrowth = 128 << 20

// attack is a scenario under way.
type attack struct {
	*Outcome // counts what is sent
	time     time.Duration
	server   netip.AddrPort
	from     netip.Addr // our address
	good     []control.CallInfo
	beside   *beside
	rng      *rand.Rand
	after    func() // once the traffic beside is over; nil: nothing
}

// saw notes what the server did.
func (a *attack) saw(format string, args ...any) {
	a.Seen = append(a.Seen, fmt.Sprintf(format, args...))
}
