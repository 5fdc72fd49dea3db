package report

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// plots are the diagrams that the result has numbers for.
func (r *Result) plots() []*plot {
	var all []*plot
	for _, p := range []*plot{
		r.setupPlot(), r.statesPlot(), r.phasesPlot(), r.latencyPlot(), r.throughputPlot(false), r.throughputPlot(true),
		r.lossPlot(), r.setupSearchPlot(), r.trafficPlot(), r.timingPlot(),
	} {
		if p != nil {
			all = append(all, p)
		}
	}
	return all
}

// colours of the style sheet.
const colours = 6

// maxPoints is what a line shows: there are no more dots across a screen.
const maxPoints = 260

// thin makes bins wider until there are at most maxPoints; a value is the mean.
func (s *Series) thin() Series {
	n := (len(s.Values) + maxPoints - 1) / maxPoints
	if n <= 1 {
		return *s
	}
	t := Series{BinS: s.BinS * float64(n)}
	for bin := range slices.Chunk(s.Values, n) {
		sum := 0.0
		for _, v := range bin {
			sum += v
		}
		t.Values = append(t.Values, sum/float64(len(bin)))
	}
	return t
}

// stairs are the points of a series.
func (s *Series) stairs() []point {
	var p []point
	for i, v := range s.Values {
		p = append(p, point{float64(i) * s.BinS, v})
	}
	if n := len(p); n > 0 {
		p = append(p, point{float64(n) * s.BinS, p[n-1].y})
	}
	return p
}

func (s *Series) usable() bool { return s != nil && s.BinS > 0 && len(s.Values) > 0 }

// hits tell the value of each bin.
func (s *Series) hits(tell func(i int, v float64) string) []hit {
	var all []hit
	for i, v := range s.Values {
		from, to := float64(i)*s.BinS, float64(i+1)*s.BinS
		all = append(all, hit{from, to, fmt.Sprintf("%s to %s s: %s", number(round(from)), number(round(to)), tell(i, v))})
	}
	return all
}

// fit sets linear axes that take in all lines, and zero on the y axis.
func (p *plot) fit() {
	var last, most float64
	for _, l := range p.lines {
		for _, q := range l.points {
			last, most = max(last, q.x), max(most, q.y)
		}
	}
	p.x, p.y = linear(last, 7), linear(most, 6)
}

func (r *Result) setupPlot() *plot {
	fine, coarse := r.Setup.Rate100MS, r.Setup.Rate1S
	if !fine.usable() && !coarse.usable() {
		return nil
	}
	p := &plot{Title: "Calls that came up", XName: "time since the start, s", YName: "calls/s"}
	told := coarse
	if fine.usable() {
		t := fine.thin()
		told = &t
		p.lines = append(p.lines, line{Name: "by " + number(t.BinS) + " s", Colour: 1, points: t.stairs(), stairs: true, area: true})
	}
	if coarse.usable() {
		t := coarse.thin()
		p.lines = append(p.lines, line{Name: "by " + number(t.BinS) + " s", Colour: 2, points: t.stairs(), stairs: true})
		if !fine.usable() {
			told = &t
		}
	}
	if asked := r.Setup.AskedRate; asked > 0 {
		end := p.lines[0].points[len(p.lines[0].points)-1].x
		p.lines = append(p.lines, line{Name: "asked", Colour: 4, points: []point{{0, asked}, {end, asked}}, dashed: true})
	}
	p.hits = told.hits(func(_ int, v float64) string { return number(round(v)) + " calls/s" })
	p.fit()
	return p
}

func (r *Result) statesPlot() *plot {
	states := r.Calls.States
	if len(states) < 2 {
		return nil
	}
	if n := (len(states) + maxPoints - 1) / maxPoints; n > 1 {
		var some []CallStates
		for i := 0; i < len(states); i += n {
			some = append(some, states[i])
		}
		states = some
	}
	p := &plot{Title: "Calls by state", XName: "time since the start, s", YName: "calls"}
	base := make([]float64, len(states))
	for i, of := range []struct {
		name   string
		colour int
		n      func(*CallStates) uint64
	}{
		{"up", 3, func(s *CallStates) uint64 { return s.Up }},
		{"negotiating", 1, func(s *CallStates) uint64 { return s.Negotiating }},
		{"connecting", 6, func(s *CallStates) uint64 { return s.Connecting }},
		{"closing", 2, func(s *CallStates) uint64 { return s.Closing }},
		{"failed or lost so far", 4, func(s *CallStates) uint64 { return s.Failed }},
	} {
		l := line{Name: of.name, Colour: of.colour, area: i < 4, dashed: i == 4}
		any := i == 0
		if l.area && i > 0 {
			l.base = slices.Clone(base)
		}
		for j := range states {
			v := float64(of.n(&states[j]))
			any = any || v > 0
			if l.area {
				base[j] += v
				v = base[j]
			}
			l.points = append(l.points, point{states[j].AtS, v})
		}
		if any {
			p.lines = append(p.lines, l)
		}
	}
	for i, s := range states {
		to := s.AtS
		if i+1 < len(states) {
			to = states[i+1].AtS
		}
		p.hits = append(p.hits, hit{s.AtS, to, fmt.Sprintf("%s s: %d up, %d negotiating, %d connecting, %d closing, %d failed or lost",
			number(round(s.AtS)), s.Up, s.Negotiating, s.Connecting, s.Closing, s.Failed)})
	}
	p.fit()
	return p
}

// phasesPlot shows the phases one after the other, each as long as its mean:
// means add up, percentiles do not.
func (r *Result) phasesPlot() *plot {
	phases := r.Setup.Phases.All()
	if len(phases) == 0 {
		return nil
	}
	p := &plot{Title: "Phases of a call's set-up", About: "Mean of each phase; p99 in brackets.", XName: "time since the call was begun, ms"}
	at := 0.0
	for i, n := range phases {
		p.bars = append(p.bars, bar{
			name: phaseNames[n.Name], colour: i%colours + 1, from: at, to: at + n.MeanMS,
			label: fmt.Sprintf("%s (%s)", brief(n.MeanMS), brief(n.P99MS)),
			tells: fmt.Sprintf("%s: mean %s ms, p50 %s ms, p90 %s ms, p99 %s ms, max %s ms, of %s", phaseNames[n.Name],
				number(n.MeanMS), number(n.P50MS), number(n.P90MS), number(n.P99MS), number(n.MaxMS), number(float64(n.Count))),
		})
		at += n.MeanMS
	}
	p.x = linear(at, 6)
	return p
}

func (r *Result) latencyPlot() *plot {
	p := &plot{Title: "Latency", XName: "share of the packets that took no longer", YName: "µs, logarithmic"}
	p.percentiles(or(r.Latency.Kind, "latency"), 1, &r.Latency.US)
	if r.OneWay != nil {
		p.percentiles(r.OneWay.Kind, 2, &r.OneWay.US)
	}
	return p.fitPercentiles()
}

func (r *Result) timingPlot() *plot {
	p := &plot{
		Title: "Timing of the generator", About: "How exact the load was, not how fast the server is.",
		XName: "share of the packets", YName: "µs, logarithmic",
	}
	p.percentiles("gap off its plan", 6, r.Traffic.Jitter)
	p.percentiles("sent late by", 5, r.Generator.SendDelay)
	return p.fitPercentiles()
}

// nines puts percentiles on an axis where the share above is logarithmic.
func nines(percent float64) float64 { return -math.Log10(1 - min(percent, 99.99999)/100) }

// share writes a percentile with all its nines.
func share(percent float64) string { return strconv.FormatFloat(percent, 'f', -1, 64) + "%" }

// percentiles adds a distribution. Points from the smallest that can be drawn
// on a logarithmic axis on.
func (p *plot) percentiles(name string, colour int, u *US) {
	if u == nil || len(u.Curve) < 2 {
		return
	}
	l := line{Name: name, Colour: colour, dots: true}
	for _, q := range u.Curve {
		x := nines(q.Percent)
		if q.Percent == 100 {
			x = max(math.Log10(float64(u.Count)), 1) // the one at the end
		}
		l.points = append(l.points, point{x, max(q.US, 0.1)})
		label := share(q.Percent)
		if q.Percent == 100 {
			label = "longest"
		}
		p.hits = append(p.hits, hit{x, x, fmt.Sprintf("%s, %s: %s µs", name, label, number(q.US))})
	}
	p.lines = append(p.lines, l)
}

func (p *plot) fitPercentiles() *plot {
	if p.lines == nil {
		return nil
	}
	lo, hi, last := math.MaxFloat64, 0.0, 1.0
	for _, l := range p.lines {
		for _, q := range l.points {
			lo, hi, last = min(lo, q.y), max(hi, q.y), max(last, q.x)
		}
	}
	p.y = logarithmic(lo, hi)
	p.x = scale{lo: 0, hi: last}
	for _, percent := range []float64{50, 90, 99, 99.9, 99.99, 99.999, 99.9999} {
		if at := nines(percent); at <= last {
			p.x.ticks = append(p.x.ticks, tick{at, share(percent)})
		}
	}
	// What is at the same place tells of all lines; a strip reaches halfway
	// to its neighbours.
	slices.SortStableFunc(p.hits, func(a, b hit) int { return int(math.Copysign(1, a.from-b.from)) * btoi(a.from != b.from) })
	var merged []hit
	for _, h := range p.hits {
		if n := len(merged); n > 0 && h.from-merged[n-1].from < last/100 {
			merged[n-1].tells += "\n" + h.tells
			continue
		}
		merged = append(merged, h)
	}
	for i := range merged {
		at := merged[i].from
		if i > 0 {
			merged[i].from = merged[i-1].to
		} else {
			merged[i].from = 0
		}
		merged[i].to = last
		if i+1 < len(merged) {
			merged[i].to = (at + merged[i+1].from) / 2
		}
	}
	p.hits = merged
	return p
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (r *Result) throughputPlot(bits bool) *plot {
	list := slices.Clone(r.Tests.Throughput)
	list = slices.DeleteFunc(list, func(t Throughput) bool { return t.SizeBytes == 0 })
	if len(list) < 2 {
		return nil
	}
	slices.SortFunc(list, func(a, b Throughput) int { return a.SizeBytes - b.SizeBytes })
	p := &plot{Title: "Throughput against size, packets", XName: "size of the inside IP packet, bytes", YName: "packets/s"}
	if bits {
		p.Title, p.YName = "Throughput against size, bits", "inside IP, bit/s"
	}
	ndr := line{Name: "no-drop rate", Colour: 1, dots: true}
	pdr := line{Name: "partial-drop rate", Colour: 2, dots: true}
	for i, t := range list {
		x := float64(t.SizeBytes)
		n, d := t.NDRPPS, t.PDRPPS
		if bits {
			n, d = t.NDRBPS, t.PDRBPS
		}
		ndr.points = append(ndr.points, point{x, n})
		if d > 0 {
			pdr.points = append(pdr.points, point{x, d})
		}
		h := hit{from: x, to: x, tells: fmt.Sprintf("%d bytes: no-drop rate %s, %s", t.SizeBytes, scaled(t.NDRPPS, "pps"), scaled(t.NDRBPS, "bit/s"))}
		if t.PDRPPS > 0 {
			h.tells += fmt.Sprintf("\nat most %s%% lost: %s, %s", number(t.PDRLossPercent), scaled(t.PDRPPS, "pps"), scaled(t.PDRBPS, "bit/s"))
		}
		if i > 0 {
			h.from = (x + float64(list[i-1].SizeBytes)) / 2
		}
		if i+1 < len(list) {
			h.to = (x + float64(list[i+1].SizeBytes)) / 2
		}
		p.hits = append(p.hits, h)
	}
	p.lines = []line{ndr}
	if pdr.points != nil {
		pdr.Name = "at most " + number(list[0].PDRLossPercent) + "% lost"
		p.lines = append(p.lines, pdr)
	}
	p.fit()
	return p
}

func (r *Result) lossPlot() *plot {
	p := &plot{Title: "Loss against rate", XName: "sent, packets/s", YName: "lost, %"}
	for i, c := range r.Tests.Loss {
		points := slices.Clone(c.Points)
		if len(points) < 2 || i >= colours {
			continue
		}
		slices.SortFunc(points, func(a, b LossPoint) int { return int(a.SentPPS - b.SentPPS) })
		l := line{Name: sizeName(c.SizeBytes), Colour: i + 1, dots: true}
		for _, q := range points {
			l.points = append(l.points, point{q.SentPPS, q.LossPercent})
			p.hits = append(p.hits, hit{q.SentPPS, q.SentPPS, fmt.Sprintf("%s: of %s pps %s%% lost", l.Name, number(q.SentPPS), number(q.LossPercent))})
		}
		p.lines = append(p.lines, l)
	}
	if p.lines == nil {
		return nil
	}
	p.fit()
	return p.narrow()
}

func (r *Result) setupSearchPlot() *plot {
	s := r.Tests.SetupRate
	if s == nil || len(s.Steps) < 2 {
		return nil
	}
	steps := slices.Clone(s.Steps)
	slices.SortStableFunc(steps, func(a, b SetupStep) int { return int(a.AskedRate - b.AskedRate) })
	p := &plot{
		Title: "Search for the set-up rate", About: number(s.Rate) + " calls/s were held.",
		XName: "asked, calls/s", YName: "came up, calls/s",
	}
	l := line{Name: "came up", Colour: 1, dots: true}
	for _, t := range steps {
		l.points = append(l.points, point{t.AskedRate, t.Rate})
		held := "held"
		if !t.Held {
			held = or(t.Reason, "not held")
		}
		p.hits = append(p.hits, hit{t.AskedRate, t.AskedRate, fmt.Sprintf("asked %s/s: %s/s, p99 %s ms, %s", number(t.AskedRate), number(t.Rate), number(t.P99MS), held)})
	}
	most := steps[len(steps)-1].AskedRate
	p.lines = []line{l, {Name: "asked", Colour: 4, points: []point{{0, 0}, {most, most}}, dashed: true}}
	p.fit()
	return p.narrow()
}

// narrow makes the hits, which are points, strips of a plot's hundredth.
func (p *plot) narrow() *plot {
	half := (p.x.hi - p.x.lo) / 100
	for i := range p.hits {
		p.hits[i].from -= half
		p.hits[i].to += half
	}
	return p
}

func (r *Result) trafficPlot() *plot {
	sent, received := r.Traffic.SentSeries, r.Traffic.ReceivedSeries
	if !sent.usable() || !received.usable() {
		return nil
	}
	s, g := sent.thin(), received.thin()
	p := &plot{Title: "Packets through the calls", XName: "time since the start, s", YName: "packets/s"}
	p.lines = []line{
		{Name: "received", Colour: 1, points: g.stairs(), stairs: true, area: true},
		{Name: "sent", Colour: 2, points: s.stairs(), stairs: true},
	}
	p.hits = s.hits(func(i int, v float64) string {
		tells := []string{number(round(v)) + " sent/s"}
		if i < len(g.Values) {
			tells = append(tells, number(round(g.Values[i]))+" received/s")
		}
		return strings.Join(tells, ", ")
	})
	p.fit()
	return p
}
