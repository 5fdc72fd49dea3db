package report

import (
	"fmt"
	"html"
	"html/template"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// plot is a diagram with two axes, drawn as SVG. Its colours and letters come
// from the page's style sheet.
type plot struct {
	Title string
	About string // a sentence below the title
	XName string // what is along the axes, with its unit
	YName string
	x, y  scale
	lines []line
	// hits are the places that tell their values when pointed at.
	hits []hit
	// bars replace the y axis by named rows.
	bars []bar
}

// line is a row of points in one colour.
type line struct {
	Name   string
	Colour int // of the style sheet, from 1
	points []point
	stairs bool      // each value holds until the next point
	dots   bool      // points are shown
	dashed bool      // not measured: asked for
	area   bool      // filled, down to base
	base   []float64 // nil for the axis
}

type point struct{ x, y float64 }

// hit is a vertical strip of the plot, and what it tells.
type hit struct {
	from, to float64 // along x
	tells    string
}

// bar is a row of a plot with bars.
type bar struct {
	name     string
	colour   int
	from, to float64
	label    string
	tells    string
}

// scale is an axis.
type scale struct {
	lo, hi float64
	log    bool
	ticks  []tick
}

type tick struct {
	at    float64
	label string
}

// Sizes in the units of the drawing, which a page stretches to its width.
const (
	plotWidth  = 440
	plotHeight = 270
	plotTop    = 26 // the name of the y axis is above it
	plotBottom = 42 // ticks and name of the x axis
	plotRight  = 18
	letterWide = 6.6 // of the style sheet's letters, about
	rowHeight  = 26
)

// linear makes an axis from 0 to hi with about want ticks at round numbers.
func linear(hi float64, want int) scale {
	if !(hi > 0) {
		hi = 1
	}
	step := math.Pow(10, math.Floor(math.Log10(hi/float64(want))))
	for _, m := range []float64{1, 2, 5, 10} {
		if hi/(step*m) <= float64(want) {
			step *= m
			break
		}
	}
	hi = math.Ceil(hi/step-1e-9) * step
	s := scale{hi: hi}
	for i := range int(math.Round(hi/step)) + 1 {
		at := float64(i) * step
		s.ticks = append(s.ticks, tick{at, axisNumber(at, step, hi)})
	}
	return s
}

// logarithmic makes an axis that covers lo to hi, which are above 0, with
// ticks at powers of ten, and at 2 and 5 where there is room.
func logarithmic(lo, hi float64) scale {
	var steps []float64 // 1, 2, 5, 10 … around lo to hi
	for e := math.Floor(math.Log10(lo)); len(steps) == 0 || steps[len(steps)-1] < hi; e++ {
		for _, m := range []float64{1, 2, 5} {
			v := round(m * math.Pow(10, e))
			if v*2.5 > lo && (len(steps) == 0 || steps[len(steps)-1] < hi) {
				steps = append(steps, v)
			}
		}
	}
	if len(steps) == 1 {
		steps = append(steps, round(steps[0]*10))
	}
	s := scale{lo: steps[0], hi: steps[len(steps)-1], log: true}
	for _, v := range steps {
		if digits := v / math.Pow(10, math.Floor(math.Log10(v)+1e-9)); len(steps) <= 10 || digits < 1.5 {
			s.ticks = append(s.ticks, tick{v, number(v)})
		}
	}
	return s
}

// axisNumber writes a tick, all of an axis with the same prefix and digits.
func axisNumber(v, step, hi float64) string {
	unit, prefix := 1.0, ""
	switch {
	case hi >= 2e9:
		unit, prefix = 1e9, "G"
	case hi >= 2e6:
		unit, prefix = 1e6, "M"
	case hi >= 1e4:
		unit, prefix = 1e3, "k"
	}
	if v == 0 {
		return "0"
	}
	digits := max(0, int(-math.Floor(math.Log10(step/unit)+1e-9)))
	return fmt.Sprintf("%.*f%s", digits, v/unit, prefix)
}

// part is where on the axis a value is, from 0 to 1.
func (s scale) part(v float64) float64 {
	if s.log {
		return math.Log(max(v, s.lo)/s.lo) / math.Log(s.hi/s.lo)
	}
	return (v - s.lo) / (s.hi - s.lo)
}

// drawing collects elements of SVG.
type drawing struct {
	strings.Builder
	left, height float64
}

func (d *drawing) add(format string, args ...any) { fmt.Fprintf(d, format+"\n", args...) }

func (d *drawing) text(class string, x, y float64, s string) {
	d.add(`<text class="%s" x="%.1f" y="%.1f">%s</text>`, class, x, y, html.EscapeString(s))
}

// Height of the drawing.
func (p *plot) height() float64 {
	if p.bars != nil {
		return plotTop/2 + plotBottom + rowHeight*float64(len(p.bars))
	}
	return plotHeight
}

// SVG draws the plot.
func (p *plot) SVG() template.HTML {
	wide := 0
	for _, t := range p.y.ticks {
		wide = max(wide, utf8.RuneCountInString(t.label))
	}
	for _, b := range p.bars {
		wide = max(wide, utf8.RuneCountInString(b.name))
	}
	d := &drawing{left: 14 + letterWide*float64(wide), height: p.height()}
	d.add(`<svg viewBox="0 0 %d %.0f" role="img" aria-label="%s">`, plotWidth, d.height, html.EscapeString(p.Title))
	top, bottom := float64(plotTop), d.height-plotBottom
	if p.bars != nil {
		top = plotTop / 2
	}
	x := func(v float64) float64 { return d.left + p.x.part(v)*(plotWidth-plotRight-d.left) }
	y := func(v float64) float64 { return bottom - p.y.part(v)*(bottom-top) }
	for _, t := range p.x.ticks {
		d.add(`<line class="grid" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/>`, x(t.at), top, x(t.at), bottom)
	}
	d.xTicks(p.x.ticks, x, bottom+16)
	d.text("name mid", (d.left+plotWidth-plotRight)/2, d.height-6, p.XName)
	for _, t := range p.y.ticks {
		d.add(`<line class="grid" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/>`, d.left, y(t.at), float64(plotWidth-plotRight), y(t.at))
		d.text("tick end", d.left-6, y(t.at)+4, t.label)
	}
	if p.bars == nil {
		d.text("name", 2, 12, p.YName)
	}
	for i, b := range p.bars {
		at := top + rowHeight*float64(i)
		d.text("tick end", d.left-6, at+rowHeight/2+4, b.name)
		d.add(`<g class="hit"><title>%s</title><rect x="%.1f" y="%.1f" width="%.1f" height="%d"/>`,
			html.EscapeString(b.tells), d.left, at, plotWidth-plotRight-d.left, rowHeight)
		d.add(`<rect class="fill c%d" x="%.1f" y="%.1f" width="%.1f" height="%d"/></g>`, b.colour, x(b.from), at+5, max(x(b.to)-x(b.from), 1), rowHeight-10)
		// Behind the bar, before it where the paper ends, or in it.
		room, middle := letterWide*float64(utf8.RuneCountInString(b.label)), at+rowHeight/2+4
		switch {
		case x(b.to)+6+room < plotWidth:
			d.text("tick", x(b.to)+6, middle, b.label)
		case x(b.from)-6-room > d.left:
			d.text("tick end", x(b.from)-6, middle, b.label)
		default:
			d.text("in end", x(b.to)-6, middle, b.label)
		}
	}
	for i := range p.lines {
		d.line(&p.lines[i], x, y, bottom)
	}
	d.add(`<path class="axis" d="M%.1f %.1fV%.1fH%d"/>`, d.left, top, bottom, plotWidth-plotRight)
	for _, h := range p.hits {
		from, to := max(x(h.from), d.left), min(x(h.to), plotWidth-plotRight)
		d.add(`<g class="hit"><title>%s</title><rect x="%.1f" y="%.1f" width="%.1f" height="%.1f"/></g>`, html.EscapeString(h.tells), from, top, max(to-from, 1), bottom-top)
	}
	d.add(`</svg>`)
	return template.HTML(d.String()) // all text in it is escaped
}

// xTicks writes the labels below the axis, leaving out those without room.
func (d *drawing) xTicks(ticks []tick, x func(float64) float64, y float64) {
	end := -math.MaxFloat64
	for _, t := range ticks {
		half := letterWide * float64(utf8.RuneCountInString(t.label)) / 2
		if x(t.at)-half < end {
			continue
		}
		end = x(t.at) + half + letterWide
		if x(t.at)+half > plotWidth {
			d.text("tick end", plotWidth-1, y, t.label)
		} else {
			d.text("tick mid", x(t.at), y, t.label)
		}
	}
}

func (d *drawing) line(l *line, x, y func(float64) float64, bottom float64) {
	path := &strings.Builder{}
	for i, p := range l.points {
		switch {
		case i == 0:
			fmt.Fprintf(path, "M%.1f %.1f", x(p.x), y(p.y))
		case l.stairs:
			fmt.Fprintf(path, "H%.1fV%.1f", x(p.x), y(p.y))
		default:
			fmt.Fprintf(path, "L%.1f %.1f", x(p.x), y(p.y))
		}
	}
	if l.area && len(l.points) > 0 {
		fill := &strings.Builder{}
		fill.WriteString(path.String())
		for i, p := range slices.Backward(l.points) {
			base := bottom
			if l.base != nil {
				base = y(l.base[i])
			}
			fmt.Fprintf(fill, "L%.1f %.1f", x(p.x), base)
		}
		if l.base != nil { // one on another: the line would hide the one below
			d.add(`<path class="stack c%d" d="%sZ"/>`, l.Colour, fill)
			return
		}
		d.add(`<path class="area c%d" d="%sZ"/>`, l.Colour, fill)
	}
	class := "line"
	if l.dashed {
		class = "line dash"
	}
	d.add(`<path class="%s c%d" d="%s"/>`, class, l.Colour, path)
	if l.dots {
		for _, p := range l.points {
			d.add(`<circle class="fill c%d" cx="%.1f" cy="%.1f" r="3"/>`, l.Colour, x(p.x), y(p.y))
		}
	}
}

// Legend lists the lines, where there is more than one.
func (p *plot) Legend() []line {
	if len(p.lines) < 2 {
		return nil
	}
	return p.lines
}

// Dashed reports whether the line is what was asked for.
func (l line) Dashed() bool { return l.dashed }
