package load

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// longest is the largest value that a histogram holds; what is above counts as that.
const longest = int64(time.Minute)

// Histograms are distributions of times in nanoseconds, from 1 ns to a minute
// with three significant digits.
type Histograms struct {
	Round    *hdrhistogram.Histogram // from sending to the reply
	RoundDue *hdrhistogram.Histogram // from when it should have been sent to the reply: no coordinated omission
	Up       *hdrhistogram.Histogram // to the far end; only where both share a clock
	Down     *hdrhistogram.Histogram // from the far end; only where both share a clock
	Late     *hdrhistogram.Histogram // from when it should have been sent to when it was
	Jitter   *hdrhistogram.Histogram // by how much the time between two packets of a schedule was off
}

func newHistograms() *Histograms {
	h := &Histograms{}
	for _, p := range h.all() {
		*p = hdrhistogram.New(1, longest, 3)
	}
	return h
}

func (h *Histograms) all() [6]**hdrhistogram.Histogram {
	return [...]**hdrhistogram.Histogram{&h.Round, &h.RoundDue, &h.Up, &h.Down, &h.Late, &h.Jitter}
}

// merge adds o to h and empties o.
func (h *Histograms) merge(o *Histograms) {
	to := h.all()
	for i, p := range o.all() {
		if (*p).TotalCount() > 0 {
			(*to[i]).Merge(*p)
			(*p).Reset()
		}
	}
}

func (h *Histograms) reset() {
	for _, p := range h.all() {
		(*p).Reset()
	}
}

func (h *Histograms) clone() *Histograms {
	c := &Histograms{}
	to := c.all()
	for i, p := range h.all() {
		*to[i] = (*p).Clone()
	}
	return c
}

// record adds a value within the histogram's bounds: such a value is never refused.
func record(h *hdrhistogram.Histogram, ns int64) { _ = h.RecordValue(min(max(ns, 1), longest)) }
