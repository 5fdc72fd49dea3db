package stress

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"xpptp/control"
	"xpptp/control/stress/report"
)

// tally counts what becomes of calls. It may be used by several goroutines.
type tally struct {
	mu       sync.Mutex
	began    int64 // the clock at the start of the run
	calls    report.Calls
	now      report.CallStates // at this moment
	setup    *hdrhistogram.Histogram
	phases   [control.NumPhases]*hdrhistogram.Histogram
	ups      []float64 // by tenths of a second
	most     uint64    // calls of one merged tally
	bestRate float64
	lastUp   int64
	firstTry int64
	late     uint64
	idle     uint64            // so many times less than none
	reasons  map[string]string // an example for each cause
}

// phaseUnit is the unit of the histograms of set-up times.
const phaseUnit = time.Microsecond

const maxSetup = int64(10 * time.Minute / phaseUnit)

func newHist() *hdrhistogram.Histogram { return hdrhistogram.New(1, maxSetup, 3) }

// newTally makes a tally of a run that began then.
func newTally(began int64) *tally {
	t := &tally{began: began, setup: newHist(), reasons: map[string]string{}}
	t.calls.Failures, t.calls.Losses = map[string]uint64{}, map[string]uint64{}
	for i := range t.phases {
		t.phases[i] = newHist()
	}
	return t
}

func record(h *hdrhistogram.Histogram, ns int64) {
	_ = h.RecordValue(min(max(ns/int64(phaseUnit), 1), maxSetup)) // in range
}

// connection takes the times of a control connection.
func (t *tally) connection(c control.ConnTimes) {
	record(t.phases[control.PhaseTCP], c.Connected-c.Begun)
	record(t.phases[control.PhaseStart], c.Up-c.Connected)
}

// began: a call was due at due, and has been begun now.
func (t *tally) begin(due, now int64) {
	t.calls.Attempted++
	if t.firstTry == 0 {
		t.firstTry = due
	}
	if now-due > int64(time.Millisecond) {
		t.late++
	}
}

// up: a call that was due then has come up.
func (t *tally) up(due, now int64, r *control.CallReport) {
	t.calls.Up++
	t.lastUp = now
	record(t.setup, now-due)
	last := r.Begun
	for p := control.PhaseCall; p < control.NumPhases; p++ {
		// IPCP may overtake CCP, where encryption is not required.
		if at := r.Ends[p]; at != 0 {
			record(t.phases[p], at-last)
			last = max(last, at)
		}
	}
	bin := int((now - t.began) / int64(100*time.Millisecond))
	for len(t.ups) <= bin && bin < maxBins {
		t.ups = append(t.ups, 0)
	}
	if bin < maxBins {
		t.ups[bin]++
	}
}

// maxBins bounds what is kept of a long run: an hour in tenths of a second.
const maxBins = 36_000

// failed: a call ended before it was up; lost: after, unasked.
func (t *tally) failed(r *control.CallReport) {
	t.calls.Failed++
	t.now.Failed++
	t.calls.Failures[r.Cause]++
	t.reasons[r.Cause] = r.Reason
}

func (t *tally) lost(r *control.CallReport) {
	t.calls.Lost++
	t.now.Failed++
	t.calls.Losses[r.Cause]++
	t.reasons[r.Cause] = r.Reason
}

// sample notes how many calls are in which state.
func (t *tally) sample(now int64) report.CallStates {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.now
	s.AtS = float64(now-t.began) / 1e9
	t.calls.States = append(t.calls.States, s)
	return s
}

// merge adds another tally of the same run, which counts no more.
func (t *tally) merge(o *tally) {
	o.mu.Lock()
	defer o.mu.Unlock()
	// The rate is that of the most calls.
	if o.calls.Up > t.most {
		t.most, t.bestRate = o.calls.Up, o.rate()
	}
	a, b := &t.calls, &o.calls
	a.Attempted += b.Attempted
	a.Up += b.Up
	a.Failed += b.Failed
	a.Lost += b.Lost
	a.PeakUp = max(a.PeakUp, b.PeakUp)
	a.States = append(a.States, b.States...)
	for cause, n := range b.Failures {
		a.Failures[cause] += n
	}
	for cause, n := range b.Losses {
		a.Losses[cause] += n
	}
	for cause, text := range o.reasons {
		t.reasons[cause] = text
	}
	t.setup.Merge(o.setup)
	for i, h := range o.phases {
		t.phases[i].Merge(h)
	}
	for i, n := range o.ups {
		if i == len(t.ups) {
			t.ups = append(t.ups, 0)
		}
		t.ups[i] += n
	}
	t.late += o.late
}

// fill writes what was merged into a result.
func (t *tally) fill(r *report.Result) {
	r.Calls = t.calls
	s := &r.Setup
	s.MS = report.MSOf(t.setup, phaseUnit)
	s.Rate = t.bestRate
	h := func(p control.Phase) *report.MS { return report.PhaseOf(t.phases[p], phaseUnit) }
	s.Phases = report.Phases{
		TCP: h(control.PhaseTCP), Start: h(control.PhaseStart), Call: h(control.PhaseCall), LCP: h(control.PhaseLCP),
		Auth: h(control.PhaseAuth), CCP: h(control.PhaseCCP), IPCP: h(control.PhaseNetwork),
	}
	tenths := &report.Series{BinS: 0.1}
	whole := &report.Series{BinS: 1, Values: make([]float64, (len(t.ups)+9)/10)}
	for i, n := range t.ups {
		tenths.Values = append(tenths.Values, n*10)
		whole.Values[i/10] += n
	}
	if len(t.ups) > 0 {
		s.Rate100MS, s.Rate1S = tenths, whole
	}
	r.Generator.LateStarts = t.late
	for _, cause := range slices.Sorted(maps.Keys(t.reasons)) {
		r.Notes = append(r.Notes, fmt.Sprintf("%s, for example: %s", cause, t.reasons[cause]))
	}
}

// rate is how many calls came up a second.
func (t *tally) rate() float64 {
	if t.lastUp <= t.firstTry {
		return 0
	}
	return float64(t.calls.Up) / (float64(t.lastUp-t.firstTry) / 1e9)
}
