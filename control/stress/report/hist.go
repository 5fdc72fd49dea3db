package report

import (
	"math"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// MSOf reads a histogram whose values are in unit.
func MSOf(h *hdrhistogram.Histogram, unit time.Duration) MS {
	ms := func(v float64) float64 { return round(v * float64(unit) / float64(time.Millisecond)) }
	if h == nil || h.TotalCount() == 0 {
		return MS{}
	}
	at := func(p float64) float64 { return ms(float64(h.ValueAtPercentile(p))) }
	return MS{
		Count: uint64(h.TotalCount()), MeanMS: ms(h.Mean()), MaxMS: ms(float64(h.Max())),
		P50MS: at(50), P90MS: at(90), P99MS: at(99),
	}
}

// PhaseOf is MSOf of a phase: nil if the histogram is empty.
func PhaseOf(h *hdrhistogram.Histogram, unit time.Duration) *MS {
	if h == nil || h.TotalCount() == 0 {
		return nil
	}
	m := MSOf(h, unit)
	return &m
}

// curvePercents are the percentiles of a Curve: the share above is halved, or
// less, from each to the next.
var curvePercents = []float64{
	0, 10, 25, 50, 75, 90, 95, 97.5, 99, 99.5, 99.75, 99.9, 99.95, 99.975, 99.99, 99.995, 99.999, 99.9999,
}

// USOf reads a histogram whose values are in unit, with its curve as far as
// the number of values carries it.
func USOf(h *hdrhistogram.Histogram, unit time.Duration) US {
	us := func(v float64) float64 { return round(v * float64(unit) / float64(time.Microsecond)) }
	if h == nil || h.TotalCount() == 0 {
		return US{}
	}
	at := func(p float64) float64 { return us(float64(h.ValueAtPercentile(p))) }
	d := US{
		Count: uint64(h.TotalCount()), MinUS: us(float64(h.Min())), MeanUS: us(h.Mean()), MaxUS: us(float64(h.Max())),
		P50US: at(50), P90US: at(90), P99US: at(99), P999US: at(99.9),
	}
	for _, p := range curvePercents {
		if p > 50 && (100-p)*float64(d.Count) < 99.99 {
			break // less than one value lies above: it is the maximum
		}
		d.Curve = append(d.Curve, Percentile{p, at(p)})
	}
	d.Curve = append(d.Curve, Percentile{100, d.MaxUS})
	return d
}

// round keeps six digits, which is more than a histogram has.
func round(v float64) float64 { return digits(v, 6) }

// digits rounds to n digits in all; what is no number becomes 0.
func digits(v float64, n int) float64 {
	if math.Abs(v) < 1e-12 || math.IsNaN(v) || math.IsInf(v, 0) {
		return 0
	}
	scale := math.Pow(10, float64(n-1)-math.Floor(math.Log10(math.Abs(v))))
	return math.Round(v*scale) / scale
}
