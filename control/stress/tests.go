package stress

import (
	"context"
	"fmt"
	"time"

	"xpptp/control/config"
	"xpptp/control/sock"
	"xpptp/control/stress/load"
	"xpptp/control/stress/report"
)

// sizes are the sizes of packets that a test takes one after the other; 0
// stands for the mix.
func (r *run) sizes() []int {
	if r.Plan.Traffic.IMIX {
		return []int{0}
	}
	return r.Plan.Traffic.Sizes
}

// trial sends at a rate for a while. limited says that it was us who could
// not, and not the server.
func (r *run) trial(ctx context.Context, size int, pps float64, length time.Duration) (s *load.Snapshot, limited bool, err error) {
	s, err = r.traffic.run(ctx, config.LoadRate{PPS: pps}, size, length)
	if err != nil {
		return nil, false, err
	}
	if !r.held { // else the load is what the report is about
		r.traffic.fill(&r.out, s, pps)
	}
	return s, float64(s.Sender.Skipped) > lateShare*pps*length.Seconds(), nil
}

func lossPoint(s *load.Snapshot, pps float64) report.LossPoint {
	p := packets(s)
	return report.LossPoint{OfferedPPS: pps, SentPPS: p.SentPPS, ReceivedPPS: p.ReceivedPPS, LossPercent: p.LossPercent}
}

// search finds the highest rate that holds, between low and high: it goes up
// by factors of two, then halves the rest until precision, in percent, is
// reached. 0: low does not hold. ok is asked once for every rate.
func search(low, high, precision float64, ok func(rate float64) (bool, error)) (float64, error) {
	best, bad := 0.0, low
	for {
		held, err := ok(bad)
		if err != nil {
			return best, err
		}
		if !held {
			break
		}
		if best = bad; best == high {
			return best, nil
		}
		bad = min(bad*2, high)
	}
	for best > 0 && (bad-best)/best*100 > precision {
		rate := (best + bad) / 2
		held, err := ok(rate)
		if err != nil {
			return best, err
		}
		if held {
			best = rate
		} else {
			bad = rate
		}
	}
	return best, nil
}

// throughputTest searches for the no-drop and the partial-drop rate of each
// size (RFC 2544 §26.1).
func (r *run) throughputTest(ctx context.Context, _ *fleet) error {
	for _, size := range r.sizes() {
		if _, err := r.throughput(ctx, size); err != nil {
			return err
		}
	}
	return nil
}

// throughput is the search for one size; what it found before stands.
func (r *run) throughput(ctx context.Context, size int) (*report.Throughput, error) {
	for i, t := range r.out.Tests.Throughput {
		if t.SizeBytes == size {
			return &r.out.Tests.Throughput[i], nil
		}
	}
	q := &r.Plan.Search
	t := report.Throughput{SizeBytes: size, PDRLossPercent: q.Loss}
	ours := false
	bits := 0.0 // of a packet
	try := func(allowed float64) func(float64) (bool, error) {
		return func(pps float64) (bool, error) {
			r.phase.Store(fmt.Sprintf("%s, %.0f packets/s", sizeName(size), pps))
			s, limited, err := r.trial(ctx, size, pps, q.Trial)
			if err != nil {
				return false, err
			}
			p := lossPoint(s, pps)
			t.Steps = append(t.Steps, p)
			if c := &s.Traffic; c.Sent > 0 {
				bits = float64(c.TxBytes) * 8 / float64(c.Sent)
			}
			ours = limited
			return !limited && s.Traffic.Sent > 0 && p.LossPercent <= allowed, nil
		}
	}
	var err error
	limited := func(what string) {
		if ours {
			r.note("%s at %s: the generator could not send more, so the server may be faster", what, sizeName(size))
		}
	}
	if t.NDRPPS, err = search(q.MinPPS, q.MaxPPS, q.Precision, try(0)); err != nil {
		return nil, err
	}
	limited("no-drop rate")
	t.NDRBPS = t.NDRPPS * bits
	if q.Loss > 0 {
		low := max(t.NDRPPS, q.MinPPS)
		if t.PDRPPS, err = search(low, q.MaxPPS, q.Precision, try(q.Loss)); err != nil {
			return nil, err
		}
		limited("partial-drop rate")
		t.PDRPPS = max(t.PDRPPS, t.NDRPPS)
		t.PDRBPS = t.PDRPPS * bits
	}
	r.out.Tests.Throughput = append(r.out.Tests.Throughput, t)
	return &r.out.Tests.Throughput[len(r.out.Tests.Throughput)-1], nil
}

func sizeName(size int) string {
	if size == 0 {
		return "mix"
	}
	return fmt.Sprintf("%d bytes", size)
}

// latencyTest measures latency at a share of the throughput (RFC 2544 §26.2).
func (r *run) latencyTest(ctx context.Context, _ *fleet) error {
	for _, size := range r.sizes() {
		t, err := r.throughput(ctx, size)
		if err != nil {
			return err
		}
		share := r.Plan.Search.Share
		rate := max(t.NDRPPS*share/100, 1)
		r.phase.Store("latency, " + sizeName(size))
		s, _, err := r.trial(ctx, size, rate, r.Plan.Search.Trial)
		if err != nil {
			return err
		}
		r.out.Tests.Latency = append(r.out.Tests.Latency, report.LatencyAt{
			SizeBytes: size, SharePercent: share, SentPPS: packets(s).SentPPS, Latency: latencyOf(s),
		})
	}
	return nil
}

// lossTest measures loss from the highest rate down (RFC 2544 §26.3): from
// twice the throughput, if that is known, to a share of it.
func (r *run) lossTest(ctx context.Context, _ *fleet) error {
	q := &r.Plan.Search
	for _, size := range r.sizes() {
		t, err := r.throughput(ctx, size)
		if err != nil {
			return err
		}
		top := min(2*max(t.NDRPPS, t.PDRPPS, q.MinPPS), q.MaxPPS)
		c := report.LossCurve{SizeBytes: size}
		for i := range q.Points {
			pps := top * float64(i+1) / float64(q.Points)
			r.phase.Store(fmt.Sprintf("loss, %s, %.0f packets/s", sizeName(size), pps))
			s, _, err := r.trial(ctx, size, pps, q.Trial)
			if err != nil {
				return err
			}
			c.Points = append(c.Points, lossPoint(s, pps))
		}
		r.out.Tests.Loss = append(r.out.Tests.Loss, c)
	}
	return nil
}

// backToBackTest searches for the longest burst of which nothing is lost (RFC
// 2544 §26.4).
func (r *run) backToBackTest(ctx context.Context, _ *fleet) error {
	const atOnce = 1 << 16 // bounded by what is let out late
	for _, size := range r.sizes() {
		var took time.Duration
		n, err := search(16, atOnce, r.Plan.Search.Precision, func(n float64) (bool, error) {
			r.phase.Store(fmt.Sprintf("burst, %s, %.0f packets", sizeName(size), n))
			p := r.traffic.profile(config.LoadRate{PPS: n}, size, time.Second)
			p[0].Schedule.Burst = int(n)
			s, err := r.traffic.Run(ctx, p, time.Second/2, r.Plan.Traffic.Quiet) // one burst
			if err != nil {
				return false, err
			}
			took = time.Duration(s.Times.Late.Max())
			return s.Sender.Skipped == 0 && s.Traffic.Sent > 0 && s.Traffic.Lost() == 0, nil
		})
		if err != nil {
			return err
		}
		r.out.Tests.BackToBack = append(r.out.Tests.BackToBack, report.BackToBack{
			SizeBytes: size, Packets: uint64(n), DurationMS: float64(took) / 1e6,
		})
	}
	return nil
}

// setupTest searches for the highest rate at which calls come up, all of them
// and in time.
func (r *run) setupTest(ctx context.Context) error {
	q := &r.Plan.Search
	out := &report.SetupSearch{}
	r.out.Tests.SetupRate = out
	best, err := search(float64(min(100, q.MaxRate)), float64(q.MaxRate), max(q.Precision, 5), func(rate float64) (bool, error) {
		plan := *r.Plan
		plan.Rate, plan.StopRate, plan.Ramp, plan.Retry = int(rate), 0, config.RampNone, 0
		plan.Churn, plan.Storm, plan.KillRate = config.Churn{}, 0, 0
		plan.Calls = min(plan.Calls, max(100, int(rate*q.Trial.Seconds())))
		var step report.SetupStep
		err := r.withFleet(ctx, &plan, func(_ context.Context, f *fleet) error {
			step = f.step(rate, q.MaxSetup)
			return nil
		})
		if err == nil {
			out.Steps = append(out.Steps, step)
		}
		return step.Held, err
	})
	out.Rate = best
	return err
}

// step judges what has come up so far as a try of a set-up rate.
func (f *fleet) step(rate float64, maxSetup time.Duration) report.SetupStep {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := report.SetupStep{
		AskedRate: rate, Rate: f.rate(), Attempted: f.calls.Attempted, Failed: f.calls.Attempted - f.calls.Up,
		P99MS: report.MSOf(f.setup, phaseUnit).P99MS,
	}
	late := float64(f.late) / float64(max(f.calls.Attempted, 1))
	switch {
	case s.Failed > 0:
		s.Reason = fmt.Sprintf("%d calls did not come up", s.Failed)
	case s.P99MS > float64(maxSetup)/1e6:
		s.Reason = fmt.Sprintf("set-up took %.0f ms, more than %v", s.P99MS, maxSetup)
	case s.Rate < 0.9*rate:
		s.Reason = fmt.Sprintf("%.0f calls a second came up", s.Rate)
	case late > 0.5:
		s.Reason = "the generator could not keep up"
	default:
		s.Held = true
	}
	return s
}

// capacityTest makes calls until one fails, or the plan's number is up.
func (r *run) capacityTest(ctx context.Context) error {
	p := *r.Plan
	p.Retry = 0
	return r.withFleet(ctx, &p, func(_ context.Context, f *fleet) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		c := &report.Capacity{Calls: f.calls.PeakUp, Limit: fmt.Sprintf("the plan's %d calls", p.Calls)}
		for cause := range f.calls.Failures {
			c.Limit = fmt.Sprintf("%s: %s", cause, f.reasons[cause])
		}
		r.out.Tests.Capacity = c
		return nil
	})
}

// soakTest keeps calls and traffic for the plan's time.
func (r *run) soakTest(ctx context.Context, f *fleet) error {
	out := &report.Soak{}
	begin := r.caller.Now()
	if r.Lab != nil {
		_, out.ServerStartBytes = sock.ProcessUsage(r.Lab.PID())
	}
	err := r.hold(ctx)
	out.DurationS = float64(r.caller.Now()-begin) / 1e9
	if r.Lab != nil {
		_, out.ServerEndBytes = sock.ProcessUsage(r.Lab.PID())
	}
	f.mu.Lock()
	out.LostCalls = f.calls.Lost
	f.mu.Unlock()
	out.LostPackets = r.out.Traffic.Lost
	r.out.Tests.Soak = out
	return err
}

// recoveryTest kills the lab's server and starts it again, and measures how
// long the calls take to be back.
func (r *run) recoveryTest(ctx context.Context) error {
	if r.Lab == nil {
		return fmt.Errorf("needs a lab: nobody else's server is killed")
	}
	p := *r.Plan
	if p.Retry == 0 {
		p.Retry = time.Second
	}
	return r.withFleet(ctx, &p, func(ctx context.Context, f *fleet) error {
		out := &report.Recovery{}
		r.out.Tests.Recovery = out
		out.Calls = f.sample(r.caller.Now()).Up
		r.phase.Store("outage")
		gone := r.caller.Now()
		r.Lab.Kill()
		if err := sleep(ctx, p.Search.Outage); err != nil {
			return err
		}
		if err := r.Lab.Start(ctx); err != nil {
			return err
		}
		r.server = newUsage(r.Lab.PID())
		r.phase.Store("recovery")
		back := r.caller.Now()
		out.OutageMS = float64(back-gone) / 1e6
		before := f.ups()
		err := until(ctx, p.Settle, func() bool {
			n := f.ups() - before
			if n > 0 && out.FirstMS == 0 {
				out.FirstMS = float64(r.caller.Now()-back) / 1e6
			}
			return n >= out.Calls
		})
		out.Back = f.sample(r.caller.Now()).Up
		out.AllMS = float64(r.caller.Now()-back) / 1e6
		return err
	})
}

func (f *fleet) ups() uint64 {
	n, _ := f.upTimes()
	return n
}
