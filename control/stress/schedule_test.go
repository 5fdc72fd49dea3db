package stress

import (
	"testing"
	"time"

	"xpptp/control/config"
)

// At every moment as many calls have begun as the rate says, to one call.
func TestScheduleFollowsItsRate(t *testing.T) {
	for name, tc := range map[string]struct {
		ramp  config.Ramp
		begun func(seconds float64) float64 // by then
	}{
		"constant": {config.RampNone, func(s float64) float64 { return 500 * s }},
		"linear": {config.RampLinear, func(s float64) float64 {
			if s < 10 {
				return 25 * s * s
			}
			return 2500 + 500*(s-10)
		}},
		"steps": {config.RampSteps, func(s float64) float64 {
			sum := 0.0
			for i := range 5 {
				sum += 100 * float64(i+1) * min(2, max(0, s-2*float64(i)))
			}
			return sum + 500*max(0, s-10)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			p := config.DefaultStress()
			p.Rate, p.Ramp, p.RampTime, p.RampSteps = 500, tc.ramp, 10*time.Second, 5
			s := newSchedule(p)
			last := time.Duration(-1)
			for n := range 8000 {
				at := s.at(n)
				if at <= last {
					t.Fatalf("call %d begins at %v, the one before at %v", n, at, last)
				}
				last = at
				// A microsecond of tolerance: times are whole nanoseconds.
				if early, late := tc.begun(max(0, at.Seconds()-1e-6)), tc.begun(at.Seconds()+1e-6); early > float64(n) || late < float64(n) {
					t.Fatalf("call %d begins at %v, when %v to %v calls should have", n, at, early, late)
				}
			}
		})
	}
}

// Starts are spread to the millisecond: none has more than one call too many
// or too few.
func TestScheduleIsSmooth(t *testing.T) {
	for _, rate := range []int{1, 333, 1000, 2000, 5000, 7777} {
		p := config.DefaultStress()
		p.Rate = rate
		s := newSchedule(p)
		counts := map[int64]int{}
		for n := range 3 * rate {
			counts[s.at(n).Milliseconds()]++
		}
		for ms := range int64(3000) {
			want := float64(rate) / 1000
			if got := float64(counts[ms]); got < want-1 || got > want+1 {
				t.Errorf("rate %d: %v calls begin in millisecond %d, want %v", rate, got, ms, want)
			}
		}
	}
}
