package report

import (
	"bytes"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
)

var progresses = []Progress{
	{Time: 300 * time.Millisecond, Total: time.Minute, Doing: "calls up", Planned: 10_000},
	{
		Time: 2 * time.Second, Total: time.Minute, Doing: "calls up", Planned: 10_000,
		Calls: CallStates{Connecting: 40, Negotiating: 380, Up: 4321, Failed: 2}, SetupRate: 2431.7, SetupP50MS: 7.82, SetupP99MS: 41.3, CPUPercent: 88,
	},
	{
		Time: 30 * time.Second, Total: time.Minute, Doing: "throughput, 64 bytes, 120,000 pps", Planned: 10_000,
		Calls: CallStates{Up: 9998, Failed: 2}, SentPPS: 120_000, ReceivedPPS: 119_998.7, ReceivedBPS: 61.44e6, Lost: 12, LossPercent: 0.001,
		LatencyP50US: 181, LatencyP99US: 944, CPUPercent: 71.4,
	},
}

// Frames at several widths, and the lines of what is no terminal.
func TestFrames(t *testing.T) {
	b := &bytes.Buffer{}
	for _, width := range []int{120, 80, 40, 12, 1} {
		h := &history{}
		for _, p := range progresses {
			for range 30 {
				h.add(p)
			}
			fmt.Fprintf(b, "%d characters\n", width)
			for _, l := range p.frame(width, h) {
				if n := utf8.RuneCountInString(l); n > max(width-1, 1) {
					t.Errorf("width %d: a line has %d: %s", width, n, l)
				}
				fmt.Fprintln(b, l)
			}
		}
	}
	for _, p := range progresses {
		fmt.Fprintln(b, p.line())
	}
	golden(t, "testdata/frames.txt", b.Bytes())
}

func TestSparkline(t *testing.T) {
	h := &history{}
	for i := range 2 * historyLength {
		h.add(Progress{SentPPS: 1, ReceivedPPS: float64(i % 8)})
	}
	if got := h.line(60); !strings.HasPrefix(got[len(got)-len("▁  packets/s received, at most 7")-7*len("▁"):], "▁▂▃▄▅▆▇█  packets/s") {
		t.Errorf("%s", got)
	}
	if len(h.values) != historyLength {
		t.Errorf("%d values are kept", len(h.values))
	}
	h.add(Progress{SetupRate: 5}) // another thing: nothing of the first may be beside it
	if got := h.line(60); got != "█  calls/s up, at most 5" {
		t.Errorf("%s", got)
	}
	if got := (&history{values: []float64{0, math.SmallestNonzeroFloat64}}).line(0); got != "" {
		t.Errorf("%q without room", got)
	}
}

// What was drawn in place leaves the last frame and nothing else, also when
// frames shrink.
func TestDrawnInPlace(t *testing.T) {
	b := &bytes.Buffer{}
	v := &view{w: b, terminal: true}
	for _, p := range []Progress{progresses[2], progresses[0], progresses[2], progresses[1]} {
		v.show(p)
	}
	h := &history{}
	h.add(progresses[1])
	want := strings.Join(progresses[1].frame(usualWidth, h), "\n")
	if got := strings.TrimRight(strings.Join(screen(t, b.String()), "\n"), "\n"); got != want {
		t.Errorf("the screen has\n%s\nwant\n%s", got, want)
	}
}

var sequence = regexp.MustCompile(`^\x1b\[(\??\d*)([AKJhl])`)

// screen is what a terminal shows.
func screen(t *testing.T, s string) []string {
	t.Helper()
	lines := []string{""}
	row, column := 0, 0
	for s != "" {
		if m := sequence.FindStringSubmatch(s); m != nil {
			switch m[2] {
			case "A":
				n, _ := strconv.Atoi(m[1])
				if row -= n; row < 0 {
					t.Fatal("above the screen")
				}
			case "K":
				lines[row] = cut(lines[row], column)
			case "J":
				lines = append(lines[:row:row], cut(lines[row], column))
			}
			s = s[len(m[0]):]
			continue
		}
		r, n := utf8.DecodeRuneInString(s)
		s = s[n:]
		switch r {
		case '\r':
			column = 0
		case '\n':
			if row++; row == len(lines) {
				lines = append(lines, "")
			}
		case '\x1b':
			t.Fatalf("unknown sequence %q", s)
		default:
			l := []rune(lines[row])
			if column == len(l) {
				l = append(l, r)
			}
			l[column] = r
			lines[row] = string(l)
			column++
		}
	}
	return lines
}

func cut(s string, column int) string {
	r := []rune(s)
	return string(r[:min(column, len(r))])
}

// buffer may be written and read at the same time.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestLive(t *testing.T) {
	for _, terminal := range []bool{true, false} {
		b := &buffer{}
		var mu sync.Mutex
		at := progresses[0]
		asked := make(chan struct{}, 100)
		stop := Live(b, terminal, func() Progress {
			select {
			case asked <- struct{}{}:
			default:
			}
			mu.Lock()
			defer mu.Unlock()
			return at
		})
		<-asked
		<-asked // it looks again on its own
		mu.Lock()
		at = progresses[2]
		mu.Unlock()
		stop()
		stop()
		got := b.String()
		if !strings.Contains(got, "30.0 s of 60 s") {
			t.Errorf("terminal %v: the end is not shown: %q", terminal, got)
		}
		if hidden, shown := strings.Contains(got, hideCursor), strings.HasSuffix(got, showCursor); hidden != terminal || shown != terminal {
			t.Errorf("terminal %v: cursor hidden %v, given back %v", terminal, hidden, shown)
		}
		if !terminal && strings.Contains(got, "\x1b") {
			t.Errorf("escape sequences where no terminal is: %q", got)
		}
	}
}
