package stress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"time"

	uatomic "go.uber.org/atomic"

	"xpptp/control"
	"xpptp/control/config"
	"xpptp/control/stress/report"
	"xpptp/engine"
)

// Options say what a run is.
type Options struct {
	Plan    *config.Stress
	Allow   []netip.Prefix // servers that may be put under load, beside loopback and the lab
	Lab     *Lab           // nil: the server is there
	Version string
	Command []string
	Log     *slog.Logger
	Capture *CaptureOptions // nil: none
	// Live shows how far the run is, as report.Live does; nil: nobody looks.
	Live func(progress func() report.Progress) (stop func())
}

// shutdownTime bounds the orderly end of what is left after a run.
const shutdownTime = 10 * time.Second

// Run carries out a plan. The result is there, not valid, also when ctx ended
// the run early; the error is for a run that could not begin.
func Run(ctx context.Context, o *Options) (*report.Result, error) {
	caller, err := control.NewCaller(o.Plan.Dial(), o.Log)
	if err != nil {
		return nil, err
	}
	allow := o.Allow
	if o.Lab != nil {
		allow = append(allow, netip.PrefixFrom(labServer.Addr(), 32))
	}
	if err := Permit(caller.Server().Addr(), allow); err != nil {
		return nil, err
	}
	r := &run{Options: o, caller: caller}
	if r.users, err = loadUsers(o.Plan); err != nil {
		return nil, err
	}
	var far netip.Addr
	if o.Lab != nil {
		far = o.Lab.Inside()
	}
	if r.traffic, err = newTraffic(o.Plan, caller, far, o.Log.Warn); err != nil {
		return nil, err
	}
	if o.Capture != nil {
		if r.traffic.capture, err = newCapture(o.Capture); err != nil {
			return nil, err
		}
		caller.WrapOutside(r.traffic.capture.wrap)
	}
	if err := caller.Start(); err != nil {
		return nil, err
	}
	out, err := r.result(ctx)
	ending, cancel := context.WithTimeout(context.Background(), shutdownTime)
	defer cancel()
	_ = caller.Shutdown(ending) // what is left of calls is in the result
	if c := r.traffic.capture; c != nil {
		c.end(r.note)
	}
	if err == nil {
		out.Traffic.Drops = drops(caller)
	}
	return out, err
}

// drops is what a box's workers dropped, by name.
func drops(c *control.Caller) map[string]uint64 {
	all := map[string]uint64{}
	for _, s := range c.Snapshot() {
		for d, n := range s.Drops {
			// An acknowledgement without payload is consumed, not dropped.
			if n > 0 && engine.Drop(d) != engine.GREAckOnly {
				all[engine.Drop(d).String()] += n
			}
		}
	}
	return all
}

// run is a run under way.
type run struct {
	*Options
	caller  *control.Caller
	users   *users
	traffic *traffic
	out     report.Result
	usage   *usage // ours
	server  *usage // the lab's; nil: none
	began   int64
	total   *tally
	held    bool // the plan's load has been on
	phase   uatomic.String
	shown   struct {
		sync.Mutex
		report.Progress
		ups     uint64
		packets report.Packets
	}
}

func (r *run) result(ctx context.Context) (*report.Result, error) {
	out := &r.out
	r.began = r.caller.Now()
	r.total = newTally(r.began)
	*out = report.Result{
		Schema: report.Version, Name: r.Plan.Name, Seed: uint64(r.Plan.Seed), Valid: true,
		Environment: r.environment(),
	}
	var err error
	if out.Plan, err = r.Plan.PlanJSON(); err != nil {
		return nil, err
	}
	out.Setup.AskedRate = float64(r.Plan.Rate)
	r.usage = newUsage(os.Getpid())
	if r.Lab != nil {
		r.server = newUsage(r.Lab.PID())
	}
	if r.Live != nil {
		defer r.Live(r.progress)()
	}
	tests := r.Plan.Tests
	if len(tests) == 0 {
		tests = []config.Test{config.TestCalls}
	}
	if err := r.tests(ctx, tests); err != nil {
		r.invalid("%v", reasonOf(err))
	}
	r.total.fill(out)
	r.first(ctx)
	out.Environment.DurationS = float64(r.caller.Now()-r.began) / 1e9
	r.busy()
	r.judge()
	return out, nil
}

// first fills in the phase that only the load knows of.
func (r *run) first(ctx context.Context) {
	f, err := r.traffic.First(context.WithoutCancel(ctx))
	if err != nil {
		r.note("how long the first packet through a call took is not known: %v", err)
		return
	}
	r.out.Setup.Phases.FirstPacket = report.PhaseOf(f.Times, time.Nanosecond)
	r.out.Traffic.AsideSent, r.out.Traffic.AsideReceived = r.out.Traffic.AsideSent+f.Sent, r.out.Traffic.AsideReceived+f.Back
	switch n := uint64(f.Times.TotalCount()); {
	case n == 0 && f.Silent > 0:
		r.note("nothing came back through any call: the phase first_packet needs a far side that answers, such as xpptp stress --responder at the address far")
	case f.Silent > 0:
		r.note("through %d of %d calls no packet came back", f.Silent, f.Silent+n)
	}
}

func reasonOf(err error) error {
	if errors.Is(err, context.Canceled) {
		return errors.New("interrupted")
	}
	return err
}

func (r *run) invalid(format string, args ...any) {
	r.out.Valid = false
	r.out.InvalidReasons = append(r.out.InvalidReasons, fmt.Sprintf(format, args...))
}

func (r *run) note(format string, args ...any) {
	r.out.Notes = append(r.out.Notes, fmt.Sprintf(format, args...))
}

// tests runs tests by name, in order. Those that need the plan's calls, and
// follow each other, have them in common.
func (r *run) tests(ctx context.Context, tests []config.Test) error {
	with := map[config.Test]func(context.Context, *fleet) error{
		config.TestCalls:      func(ctx context.Context, _ *fleet) error { return r.hold(ctx) },
		config.TestThroughput: r.throughputTest,
		config.TestLatency:    r.latencyTest,
		config.TestLossCurve:  r.lossTest,
		config.TestBackToBack: r.backToBackTest,
		config.TestSoak:       r.soakTest,
	}
	alone := map[config.Test]func(context.Context) error{
		config.TestSetupRate: r.setupTest,
		config.TestCapacity:  r.capacityTest,
		config.TestRecovery:  r.recoveryTest,
	}
	for len(tests) > 0 {
		var err error
		if test := alone[tests[0]]; test != nil {
			err, tests = named(tests[0], test(ctx)), tests[1:]
		} else {
			err = r.withFleet(ctx, r.Plan, func(ctx context.Context, f *fleet) (err error) {
				for err == nil && len(tests) > 0 && with[tests[0]] != nil {
					err, tests = named(tests[0], with[tests[0]](ctx, f)), tests[1:]
				}
				return err
			})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func named(t config.Test, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", t, err)
}

// withFleet has a plan's calls up, does what is to be done with them, and
// ends them.
func (r *run) withFleet(ctx context.Context, p *config.Stress, with func(context.Context, *fleet) error) error {
	f, err := newFleet(p, r.users, r.caller, r.traffic, r.began)
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	go f.drive(running)
	watched := r.watch(running, f)
	r.phase.Store("calls")
	err = f.bringUp(ctx, newSchedule(p))
	if err == nil {
		err = with(ctx, f)
	}
	r.phase.Store("ending")
	err = errors.Join(err, f.takeDown(ctx))
	stop()
	<-watched
	f.sample(r.caller.Now())
	r.total.merge(f.tally)
	return err
}

// watch samples the fleet until ctx ends, then closes the channel.
func (r *run) watch(ctx context.Context, f *fleet) <-chan struct{} {
	done := make(chan struct{})
	p := f.plan
	every := max(100*time.Millisecond, (p.Duration+time.Duration(p.Calls)*time.Second/time.Duration(p.Rate))/maxStates)
	go func() {
		defer close(done)
		tick := time.NewTicker(every)
		defer tick.Stop()
		var second time.Time
		for {
			states := f.sample(r.caller.Now())
			r.shown.Lock()
			r.shown.Calls, r.shown.Planned = states, uint64(p.Calls)
			r.shown.Unlock()
			if since := time.Since(second); since >= time.Second {
				second = time.Now()
				r.look(ctx, f, min(since, time.Hour))
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return done
}

// maxStates is about how many samples of the calls' states a report has.
const maxStates = 1000

// look brings up to date what is shown, but for the calls' states; since is
// the time since the last look.
func (r *run) look(ctx context.Context, f *fleet, since time.Duration) {
	ups, setup := f.upTimes()
	now := r.traffic.sample(ctx)
	r.shown.Lock()
	defer r.shown.Unlock()
	s := &r.shown
	s.SetupRate = float64(ups-min(ups, s.ups)) / since.Seconds()
	s.ups = ups
	s.SetupP50MS, s.SetupP99MS = setup.P50MS, setup.P99MS
	if now == nil {
		return
	}
	p, old := packets(now), s.packets
	s.packets = p
	if p.Sent < old.Sent {
		old = report.Packets{} // another run of traffic
	}
	per := func(a, b uint64) float64 { return float64(a-min(a, b)) / since.Seconds() }
	s.SentPPS, s.ReceivedPPS = per(p.Sent, old.Sent), per(p.Received, old.Received)
	s.ReceivedBPS = p.ReceivedBPS
	s.Lost, s.LossPercent = now.Traffic.Missing, 0
	if p.Sent > 0 {
		s.LossPercent = float64(s.Lost) / float64(p.Sent) * 100
	}
	l := latencyOf(now)
	s.LatencyP50US, s.LatencyP99US = l.P50US, l.P99US
	s.CPUPercent, _ = r.usage.busy()
}

// progress is what is shown.
func (r *run) progress() report.Progress {
	r.shown.Lock()
	defer r.shown.Unlock()
	p := r.shown.Progress
	p.Time, p.Doing = time.Duration(r.caller.Now()-r.began), r.phase.Load()
	return p
}

// upTimes is how many calls have come up, and how long that took.
func (t *tally) upTimes() (uint64, report.MS) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.calls.Up, report.MSOf(t.setup, phaseUnit)
}

// hold keeps the plan's load on for the plan's time.
func (r *run) hold(ctx context.Context) error {
	r.phase.Store("load")
	rate := r.Plan.Traffic.Rate
	if rate == (config.LoadRate{}) {
		return sleep(ctx, r.Plan.Duration)
	}
	s, err := r.traffic.run(ctx, rate, 0, r.Plan.Duration)
	if s != nil {
		r.held = true
		r.traffic.fill(&r.out, s, rate.PPS)
	}
	return err
}
