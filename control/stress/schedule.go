// Package stress makes load for a PPTP server and measures what it does: calls
// by the thousand, traffic through them, searches for its limits. What comes
// of it is a report.Result.
//
// A run needs a server. Lab makes one: xpptp serve in a network namespace, on
// a wire that leads nowhere else.
package stress

import (
	"math"
	"time"

	"xpptp/control/config"
)

// schedule is when calls begin, from the start of the run: the n-th begins at
// the moment when the rate, summed up, reaches n. It depends on nothing that
// happens (open loop).
type schedule struct {
	rate  float64 // calls a second, in the end
	steps []step
}

// step is a stretch of time in which the rate goes from one value to another,
// in a straight line.
type step struct {
	begin    float64 // s
	length   float64
	from, to float64
	before   float64 // calls begun before it
}

// newSchedule makes the schedule that a plan asks for.
func newSchedule(p *config.Stress) *schedule {
	rate, long := float64(p.Rate), p.RampTime.Seconds()
	switch {
	case long == 0:
	case p.Ramp == config.RampLinear:
		return profile(rate, step{length: long, to: rate})
	case p.Ramp == config.RampSteps:
		steps := make([]step, p.RampSteps)
		for i := range steps {
			r := rate * float64(i+1) / float64(p.RampSteps)
			steps[i] = step{length: long / float64(p.RampSteps), from: r, to: r}
		}
		return profile(rate, steps...)
	}
	return profile(rate)
}

// profile strings steps together; after the last the rate stays.
func profile(rate float64, steps ...step) *schedule {
	at, sum := 0.0, 0.0
	for i := range steps {
		s := &steps[i]
		s.begin, s.before = at, sum
		at += s.length
		sum += (s.from + s.to) / 2 * s.length
	}
	return &schedule{rate, append(steps, step{begin: at, length: math.Inf(1), from: rate, to: rate, before: sum})}
}

// at is when the n-th call begins, n from 0.
func (s *schedule) at(n int) time.Duration {
	want := float64(n)
	i := len(s.steps) - 1
	for s.steps[i].before > want {
		i--
	}
	t := &s.steps[i]
	want -= t.before
	seconds := want / t.from
	if slope := (t.to - t.from) / t.length; slope != 0 {
		// from·x + slope/2·x² = want
		seconds = (math.Sqrt(t.from*t.from+2*slope*want) - t.from) / slope
	}
	return time.Duration(math.Round((t.begin + seconds) * 1e9))
}
