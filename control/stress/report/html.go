package report

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"reflect"
	"strings"
)

//go:embed page.tmpl
var pageText string

var page = template.Must(template.New("page").Parse(pageText))

// tile is one of the numbers that a reader looks for first.
type tile struct{ Name, Value, More string }

// WriteHTML writes the result as one page that needs nothing else: no script,
// no other file, no network. It makes r's numbers finite.
func (r *Result) WriteHTML(w io.Writer) error {
	makeFinite(reflect.ValueOf(r))
	e := &r.Environment
	data := struct {
		*Result
		Title, Verdict string
		Subtitle       string
		Colours        []int
		Missed         bool
		Tiles          []tile
		Plots          []*plot
		Tables         []webTable
		Environment    table
		PlanText       string
	}{Result: r, Title: title(r), Verdict: r.verdict(), Subtitle: r.subtitle(), Colours: []int{1, 2, 3, 4, 5, 6}, Tiles: r.tiles(), Plots: r.plots()}
	for _, x := range r.Expectations {
		data.Missed = data.Missed || !x.Held
	}
	for _, t := range append([]namedTable{
		{"Expectations", r.expectTable()},
		{"Calls", r.callTable()},
		{"Failures and losses of calls", r.causeTable()},
		{"Set-up of a call, ms", r.setupTable()},
		{"Packets", r.packetTable()},
		{"Latency and timing, µs", r.timeTable()},
		{"The generator", r.generatorTable()},
		{"The server", r.serverTable()},
	}, r.testTables(true)...) {
		if len(t.table) > 0 {
			data.Tables = append(data.Tables, newWebTable(t))
		}
	}
	for _, row := range [][]string{
		{"xpptp", e.Version},
		{"server", strings.TrimSpace(e.Target + parens(e.Server))},
		{"kernel", e.Kernel},
		{"processor", e.CPU},
		{"processors", number(float64(e.CPUs))},
		{"MPPE by", e.CipherWay},
		{"backend", e.IO},
		{"workers", number(float64(e.Workers))},
		{"placement", e.Placement},
		{"command", strings.Join(e.Command, " ")},
	} {
		if row[1] != "" && row[1] != "0" {
			data.Environment = append(data.Environment, row)
		}
	}
	var plan bytes.Buffer
	if json.Indent(&plan, r.Plan, "", "  ") == nil {
		data.PlanText = plan.String()
	}
	// What fails to be drawn must not leave half a page.
	var b bytes.Buffer
	if err := page.Execute(&b, data); err != nil {
		return fmt.Errorf("report: page: %w", err)
	}
	_, err := w.Write(b.Bytes())
	return err
}

// subtitle says when and against what.
func (r *Result) subtitle() string {
	s := "against " + or(r.Environment.Target, "an unknown server") + parens(r.Environment.Server)
	if at := r.Environment.Start; !at.IsZero() {
		s = at.Format("2006-01-02 15:04:05 MST") + ", " + s
	}
	return s + fmt.Sprintf(", %s, seed %d", seconds(r.Environment.DurationS), r.Seed)
}

// tiles are the numbers at the top.
func (r *Result) tiles() []tile {
	var t []tile
	if c := &r.Calls; c.Attempted > 0 {
		t = append(t, tile{"calls up", number(float64(c.Up)), fmt.Sprintf("of %s, %s failed", number(float64(c.Attempted)), number(float64(c.Failed)))},
			tile{"set-up rate", brief(round(r.Setup.Rate)), "calls/s"})
	}
	if s := &r.Setup; s.Count > 0 {
		t = append(t, tile{"set-up p99", brief(s.P99MS) + " ms", "p50 " + brief(s.P50MS) + " ms"})
	}
	if p := &r.Traffic.Packets; p.Sent > 0 {
		t = append(t, tile{"loss", brief(p.LossPercent) + "%", fmt.Sprintf("%s of %s", number(float64(p.Lost)), number(float64(p.Sent)))},
			tile{"received", briefly(p.ReceivedPPS, "pps"), briefly(p.ReceivedBPS, "bit/s")})
	}
	if l := &r.Latency; l.Count > 0 {
		t = append(t, tile{l.Kind + " p99", brief(l.P99US) + " µs", "p50 " + brief(l.P50US) + " µs"})
	}
	if len(r.Tests.Throughput) > 0 {
		best := r.Tests.Throughput[0]
		for _, x := range r.Tests.Throughput {
			if x.NDRBPS > best.NDRBPS {
				best = x
			}
		}
		t = append(t, tile{"no-drop rate", briefly(best.NDRBPS, "bit/s"), fmt.Sprintf("%s, %s", sizeName(best.SizeBytes), briefly(best.NDRPPS, "pps"))})
	}
	if c := r.Tests.Capacity; c != nil {
		t = append(t, tile{"call capacity", number(float64(c.Calls)), "at a time"})
	}
	return t
}

// webTable is a table as a page shows it.
type webTable struct {
	Name string
	Head []string
	Rows [][]webCell
}

type webCell struct {
	Text string
	Word bool // to the left
}

func newWebTable(t namedTable) webTable {
	w := webTable{Name: t.name}
	words, rows := t.words(), t.table
	if rows.headed() {
		w.Head, rows = rows[0], rows[1:]
	}
	for _, row := range rows {
		var cells []webCell
		for i, c := range row {
			cells = append(cells, webCell{c, words[i]})
		}
		w.Rows = append(w.Rows, cells)
	}
	return w
}
