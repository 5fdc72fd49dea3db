package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

func pageOf(t *testing.T, r *Result) string {
	t.Helper()
	var b bytes.Buffer
	if err := r.WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestPage(t *testing.T) {
	r := sample()
	text := pageOf(t, r)
	golden(t, "testdata/sample.html", []byte(text))
	for _, want := range []string{"Calls that came up", "Calls by state", "Phases of a call", "Latency", "Throughput against size", "Loss against rate", "set-up rate", "Timing of the generator"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page has no %q", want)
		}
	}
	for name, r := range oddResults() {
		t.Run(name, func(t *testing.T) { checkPage(t, pageOf(t, r)) })
	}
}

// oddResults are those that are hard to draw.
func oddResults() map[string]*Result {
	flat := &Result{
		Setup:   Setup{Rate100MS: &Series{BinS: 0.1, Values: []float64{0}}, Phases: Phases{TCP: &MS{Count: 1}}},
		Traffic: Traffic{SentSeries: &Series{BinS: 1, Values: []float64{0, 0}}, ReceivedSeries: &Series{BinS: 1, Values: []float64{0}}},
		Latency: Latency{Kind: RoundTrip, US: US{Count: 1, Curve: []Percentile{{0, 7}, {100, 7}}}},
		Calls:   Calls{States: make([]CallStates, 2)},
		Tests: Tests{
			Throughput: []Throughput{{SizeBytes: 64}, {SizeBytes: 64}, {SizeBytes: 0, NDRPPS: 9}},
			Loss:       []LossCurve{{}, {Points: make([]LossPoint, 2)}},
			SetupRate:  &SetupSearch{Steps: make([]SetupStep, 2)},
		},
	}
	long := sample()
	for range 8 {
		long.Setup.Rate100MS.Values = append(long.Setup.Rate100MS.Values, long.Setup.Rate100MS.Values...)
	}
	for i := range 5000 {
		long.Calls.States = append(long.Calls.States, CallStates{AtS: float64(10 + i), Up: uint64(i)})
	}
	huge := sample()
	huge.Latency.Curve = []Percentile{{50, 1e-9}, {99, 1e9}, {100, 1e12}}
	huge.Tests.Throughput[0].NDRPPS = 3e11
	huge.Setup.Phases.LCP.MeanMS = 1e7
	broken := sample()
	broken.Setup.Rate = math.NaN()
	broken.Setup.Rate1S.Values[2] = math.Inf(1)
	broken.Latency.Curve[3].US = math.NaN()
	broken.Setup.AskedRate = -1
	hostile := sample()
	hostile.Name = `</title><script>alert(1)</script>`
	hostile.Environment.Server = `" onload="alert(1)`
	hostile.InvalidReasons = []string{"<img src=x>"}
	hostile.Calls.Failures = map[string]uint64{"<b>": 1}
	hostile.Plan = []byte(`{"a":"<script>alert(2)</script>"}`)
	return map[string]*Result{"sample": sample(), "empty": {}, "flat": flat, "long": long, "huge": huge, "broken": broken, "hostile": hostile}
}

var (
	drawn   = regexp.MustCompile(`(?s)<svg.*?</svg>`)
	outside = regexp.MustCompile(`(?i)<(script|link|img|iframe|object)|https?:|url\(|@import|<[^>"]*("[^"]*"[^>"]*)*\s(src|href|on[a-z]+)=`)
)

// checkPage looks for what a browser would not forgive.
func checkPage(t *testing.T, text string) {
	if m := outside.FindString(text); m != "" {
		t.Errorf("the page has %q: it would run or fetch something", m)
	}
	for _, svg := range drawn.FindAllString(text, -1) {
		checkDrawing(t, svg)
	}
	body := text[strings.Index(text, "<main>") : strings.Index(text, "</main>")+len("</main>")]
	d := xml.NewDecoder(strings.NewReader(body))
	d.Entity = xml.HTMLEntity
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("not well-formed: %v", err)
		}
	}
}

type element struct {
	XMLName  xml.Name
	Attrs    []xml.Attr `xml:",any,attr"`
	Text     string     `xml:",chardata"`
	Children []element  `xml:",any"`
}

func (e *element) attr(name string) string {
	i := slices.IndexFunc(e.Attrs, func(a xml.Attr) bool { return a.Name.Local == name })
	if i < 0 {
		return ""
	}
	return e.Attrs[i].Value
}

var coordinate = regexp.MustCompile(`-?[0-9.]+`)

// checkDrawing holds a plot against its frame: nothing outside it, no number
// that is none, and no two labels on each other.
func checkDrawing(t *testing.T, svg string) {
	t.Helper()
	var root element
	if err := xml.Unmarshal([]byte(svg), &root); err != nil {
		t.Fatal(err)
	}
	title := root.attr("aria-label")
	if strings.Contains(svg, "NaN") || strings.Contains(svg, "Inf") {
		t.Errorf("%s: a number that is none", title)
	}
	var height float64
	if _, err := fmt.Sscanf(root.attr("viewBox"), "0 0 440 %f", &height); err != nil || height < 50 {
		t.Fatalf("%s: view box %q", title, root.attr("viewBox"))
	}
	within := func(what string, v, hi float64) {
		if v < -0.1 || v > hi+0.1 {
			t.Errorf("%s: %s at %v of %v", title, what, v, hi)
		}
	}
	value := func(s string) float64 {
		v, err := strconv.ParseFloat(s, 64)
		if err != nil {
			t.Errorf("%s: %v", title, err)
		}
		return v
	}
	type box struct{ x0, x1, y float64 }
	var boxes []box
	var look func(e *element)
	look = func(e *element) {
		switch e.XMLName.Local {
		case "text":
			x, y := value(e.attr("x")), value(e.attr("y"))
			wide := 6.2 * float64(utf8.RuneCountInString(e.Text))
			b := box{x, x + wide, y}
			switch class := e.attr("class"); {
			case strings.Contains(class, "mid"):
				b = box{x - wide/2, x + wide/2, y}
			case strings.Contains(class, "end"):
				b = box{x - wide, x, y}
			}
			within(e.Text, b.x0, 440)
			within(e.Text, b.x1, 440)
			within(e.Text, y, height)
			for _, o := range boxes {
				if math.Abs(o.y-b.y) < 10 && b.x0 < o.x1 && o.x0 < b.x1 {
					t.Errorf("%s: %q lies on another text", title, e.Text)
				}
			}
			boxes = append(boxes, b)
		case "rect":
			x, y, w, h := value(e.attr("x")), value(e.attr("y")), value(e.attr("width")), value(e.attr("height"))
			if w < 0 || h < 0 {
				t.Errorf("%s: rectangle of %v by %v", title, w, h)
			}
			within("rectangle", x, 440)
			within("rectangle", x+w, 440)
			within("rectangle", y+h, height)
		case "circle":
			within("dot", value(e.attr("cx")), 440)
			within("dot", value(e.attr("cy")), height)
		case "path":
			for _, n := range coordinate.FindAllString(e.attr("d"), -1) {
				within("path", value(n), 440)
			}
		}
		for i := range e.Children {
			look(&e.Children[i])
		}
	}
	look(&root)
}

func TestScales(t *testing.T) {
	labels := func(s scale) string {
		var all []string
		for _, t := range s.ticks {
			all = append(all, t.label)
		}
		return strings.Join(all, " ")
	}
	for _, c := range []struct {
		hi   float64
		want string
	}{
		{0, "0 0.2 0.4 0.6 0.8 1.0"},
		{1, "0 0.2 0.4 0.6 0.8 1.0"},
		{7, "0 2 4 6 8"},
		{100, "0 20 40 60 80 100"},
		{2431, "0 500 1000 1500 2000 2500"},
		{9991, "0 2k 4k 6k 8k 10k"},
		{200_300, "0 50k 100k 150k 200k 250k"},
		{3.2e6, "0 1M 2M 3M 4M"},
		{1.9e6, "0 0.5M 1.0M 1.5M 2.0M"},
		{3.3e9, "0 1G 2G 3G 4G"},
		{0.0063, "0 0.002 0.004 0.006 0.008"},
	} {
		if got := labels(linear(c.hi, 6)); got != c.want {
			t.Errorf("0 to %v: %s, want %s", c.hi, got, c.want)
		}
	}
	for _, c := range []struct {
		lo, hi float64
		want   string
	}{
		{15, 1897, "10 20 50 100 200 500 1,000 2,000"},
		{7, 7, "5 10"},
		{1, 1, "1 10"},
		{0.1, 98, "0.1 0.2 0.5 1 2 5 10 20 50 100"},
		{0.1, 1e6, "0.1 1 10 100 1,000 10,000 100,000 1,000,000"},
	} {
		if got := labels(logarithmic(c.lo, c.hi)); got != c.want {
			t.Errorf("%v to %v: %s, want %s", c.lo, c.hi, got, c.want)
		}
	}
}

// XPPTP_PAGE=file writes the sample's page, to be looked at in a browser.
func TestMain(m *testing.M) {
	if f := os.Getenv("XPPTP_PAGE"); f != "" {
		var b bytes.Buffer
		if err := sample().WriteHTML(&b); err == nil {
			_ = os.WriteFile(f, b.Bytes(), 0o644)
		}
	}
	os.Exit(m.Run())
}
