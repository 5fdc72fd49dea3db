package report

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

// Progress is how far a run is. Rates, loss and percentiles are those of the
// last second; what was not measured is zero.
type Progress struct {
	Time    time.Duration // since the start
	Total   time.Duration // as planned; 0 if nobody knows
	Doing   string        // what the run is at, such as "throughput, 64 bytes, 120,000 pps"
	Planned uint64        // calls
	Calls   CallStates    // AtS is not looked at

	SetupRate              float64 // calls a second that came up
	SetupP50MS, SetupP99MS float64

	SentPPS, ReceivedPPS, ReceivedBPS float64
	Lost                              uint64 // in all
	LossPercent                       float64
	LatencyP50US, LatencyP99US        float64

	CPUPercent float64 // of a processor, the generator's busiest thread
}

// How often Live looks and draws.
const (
	drawEvery = 250 * time.Millisecond // on a terminal
	lineEvery = time.Second            // elsewhere
)

// Live shows progress on w until stop is called: on a terminal a few lines,
// drawn in place, elsewhere a line a second. progress is called from one
// goroutine of Live's own, at last within stop, which shows how it ended and
// gives the terminal back as it was. stop may be called more than once.
// Nothing else may write to w meanwhile.
func Live(w io.Writer, isTerminal bool, progress func() Progress) (stop func()) {
	v := &view{w: w, terminal: isTerminal, progress: progress, quit: make(chan struct{})}
	every := lineEvery
	if isTerminal {
		every = drawEvery
		fmt.Fprint(w, hideCursor)
	}
	v.ended.Go(func() { v.run(every) })
	return sync.OnceFunc(func() {
		close(v.quit)
		v.ended.Wait()
		if isTerminal {
			fmt.Fprint(w, showCursor)
		}
	})
}

// What is told a terminal (ECMA-48 §8.3).
const (
	hideCursor = "\x1b[?25l"
	showCursor = "\x1b[?25h"
	lineUp     = "\x1b[%dA"
	clearLine  = "\x1b[K"
	clearBelow = "\x1b[J"
)

type view struct {
	w        io.Writer
	terminal bool
	progress func() Progress
	quit     chan struct{}
	ended    sync.WaitGroup
	lines    int // drawn last time
	history  history
}

func (v *view) run(every time.Duration) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		v.show(v.progress())
		select {
		case <-t.C:
		case <-v.quit:
			v.show(v.progress())
			return
		}
	}
}

func (v *view) show(p Progress) {
	if !v.terminal {
		fmt.Fprintln(v.w, p.line())
		return
	}
	v.history.add(p)
	// One write, so that no half frame is seen.
	b := &strings.Builder{}
	if v.lines > 0 {
		fmt.Fprintf(b, lineUp, v.lines)
	}
	frame := p.frame(terminalWidth(v.w), &v.history)
	for _, l := range frame {
		b.WriteString("\r" + l + clearLine + "\n")
	}
	b.WriteString("\r" + clearBelow)
	v.lines = len(frame)
	_, _ = io.WriteString(v.w, b.String())
}

const usualWidth = 80

// terminalWidth is looked up for every frame: windows change.
func terminalWidth(w io.Writer) int {
	if f, ok := w.(*os.File); ok {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 0 {
			return width
		}
	}
	return usualWidth
}

// history is what the sparkline shows: one value a frame, and of what.
type history struct {
	values []float64
	of     string
}

const packetsOf = "packets/s received"

const historyLength = 400 // no terminal is wider

func (h *history) add(p Progress) {
	value, of := p.ReceivedPPS, packetsOf
	switch {
	case p.SentPPS > 0 || p.ReceivedPPS > 0:
	case p.SetupRate > 0 || h.of != packetsOf: // once idle it goes on as it was
		value, of = p.SetupRate, "calls/s up"
	}
	if of != h.of {
		h.values, h.of = nil, of
	}
	if h.values = append(h.values, value); len(h.values) > historyLength {
		h.values = h.values[1:]
	}
}

var sparks = []rune("▁▂▃▄▅▆▇█")

// line draws the last of the values, at most width characters with the label.
func (h *history) line(width int) string {
	most := 0.0
	for _, v := range h.values {
		most = max(most, v)
	}
	label := fmt.Sprintf("  %s, at most %s", h.of, number(whole(most)))
	room := min(width-utf8.RuneCountInString(label), 60)
	if room < 8 {
		label, room = "", width
	}
	b := &strings.Builder{}
	for _, v := range h.values[max(0, len(h.values)-max(room, 0)):] {
		i := 0
		if most > 0 {
			i = min(int(v/most*float64(len(sparks))), len(sparks)-1)
		}
		b.WriteRune(sparks[i])
	}
	return b.String() + label
}

// frame draws the lines for a terminal that is width characters wide.
func (p *Progress) frame(width int, h *history) []string {
	width = max(width-1, 1) // some terminals wrap at a full line
	c := &p.Calls
	lines := []string{
		fields(width, p.clock(), p.Doing),
		fields(width, "calls   ", p.upOf(), count(c.Failed, "failed"), count(c.Connecting, "connecting"), count(c.Negotiating, "negotiating"), count(c.Closing, "closing")),
		fields(width, "set-up  ", number(whole(p.SetupRate))+" calls/s", timing("p50", p.SetupP50MS, "ms"), timing("p99", p.SetupP99MS, "ms")),
	}
	if p.SentPPS > 0 || p.ReceivedPPS > 0 || p.Lost > 0 {
		lines = append(lines,
			fields(width, "packets ", number(whole(p.SentPPS))+" sent/s", number(whole(p.ReceivedPPS))+" received/s",
				"loss "+number(p.LossPercent)+"%", count(p.Lost, "lost in all"), scaled(p.ReceivedBPS, "bit/s")),
			fields(width, "latency ", timing("p50", p.LatencyP50US, "us"), timing("p99", p.LatencyP99US, "us"), busy(p.CPUPercent)))
	}
	return append(lines, h.line(width))
}

// line is the progress in one line.
func (p *Progress) line() string {
	c := &p.Calls
	s := []string{p.clock(), p.Doing, "calls: " + p.upOf(), count(c.Failed, "failed"), number(whole(p.SetupRate)) + " calls/s", timing("set-up p99", p.SetupP99MS, "ms")}
	if p.SentPPS > 0 || p.ReceivedPPS > 0 || p.Lost > 0 {
		s = append(s, number(whole(p.SentPPS))+" sent/s", number(whole(p.ReceivedPPS))+" received/s", count(p.Lost, "lost"),
			timing("p50", p.LatencyP50US, "us"), timing("p99", p.LatencyP99US, "us"))
	}
	return fields(1<<20, s...)
}

func (p *Progress) clock() string {
	s := fmt.Sprintf("%.1f s", p.Time.Seconds())
	if p.Total > 0 {
		s += fmt.Sprintf(" of %.0f s", p.Total.Seconds())
	}
	return s
}

func (p *Progress) upOf() string {
	s := number(float64(p.Calls.Up)) + " up"
	if p.Planned > 0 {
		s += " of " + number(float64(p.Planned))
	}
	return s
}

func count(n uint64, what string) string { return number(float64(n)) + " " + what }

func timing(name string, v float64, unit string) string {
	if v == 0 {
		return ""
	}
	return name + " " + number(v) + " " + unit
}

func busy(percent float64) string {
	if percent == 0 {
		return ""
	}
	return "generator " + number(whole(percent)) + "% busy"
}

// whole cuts off what changes too fast to be read.
func whole(v float64) float64 { return float64(int64(v + 0.5)) }

// fields joins what there is, as far as it fits: better a field less than
// half a number.
func fields(width int, list ...string) string {
	line := ""
	for _, f := range list {
		sep := " | "
		if line == "" {
			sep = ""
		}
		switch {
		case f == "":
		case line == "" && utf8.RuneCountInString(f) > width:
			return string([]rune(f)[:width])
		case utf8.RuneCountInString(line+sep+f) > width:
			return line
		default:
			line += sep + f
		}
	}
	return line
}
