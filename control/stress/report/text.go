package report

import (
	"cmp"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// table is rows of cells. If the first cell of the first row is empty, that
// row is the head.
type table [][]string

// headed reports whether the first row is the head.
func (t table) headed() bool { return len(t) > 0 && t[0][0] == "" }

// words reports for each column whether it has words, not only numbers.
func (t table) words() []bool {
	var words []bool
	for i, row := range t {
		for j, c := range row {
			if j == len(words) {
				words = append(words, j == 0)
			}
			if i > 0 || !t.headed() {
				words[j] = words[j] || c != "" && unicode.IsLetter([]rune(c)[0])
			}
		}
	}
	return words
}

// write aligns the columns: words to the left, numbers to the right.
func (t table) write(b *strings.Builder, indent string) {
	words := t.words()
	widths := make([]int, len(words))
	for _, row := range t {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	for _, row := range t {
		line := indent
		for i, c := range row {
			if i > 0 {
				line += "  "
			}
			gap := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c))
			if words[i] {
				line += c + gap
			} else {
				line += gap + c
			}
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
}

// WriteText writes the summary that a terminal shows at the end of a run. It
// makes r's numbers finite.
func (r *Result) WriteText(w io.Writer) error {
	makeFinite(reflect.ValueOf(r))
	b := &strings.Builder{}
	section := func(name string, t table) {
		if len(t) > 0 {
			fmt.Fprintf(b, "\n%s\n", name)
			t.write(b, "  ")
		}
	}
	e := &r.Environment
	fmt.Fprintf(b, "%s\n", title(r))
	fmt.Fprintf(b, "against %s%s, seed %d, %s\n", or(e.Target, "an unknown server"), parens(e.Server), r.Seed, seconds(e.DurationS))
	fmt.Fprintf(b, "xpptp %s, kernel %s, %s, %s, MPPE by %s, backend %s, %s\n", or(e.Version, "unknown"), or(e.Kernel, "unknown"),
		or(e.CPU, "unknown processor"), plural(e.CPUs, "processor"), or(e.CipherWay, "unknown kernels"), or(e.IO, "unknown"), plural(e.Workers, "worker"))
	if e.Placement != "" {
		fmt.Fprintln(b, e.Placement)
	}
	section("Calls", r.callTable())
	section("Failures and losses of calls", r.causeTable())
	section("Set-up of a call, ms", r.setupTable())
	section("Packets", r.packetTable())
	section("Latency and timing, us", r.timeTable())
	for _, t := range r.testTables(false) {
		section(t.name, t.table)
	}
	section("The generator", r.generatorTable())
	section("The server", r.serverTable())
	section("Expectations", r.expectTable())
	b.WriteString("\n")
	for _, n := range r.Notes {
		fmt.Fprintf(b, "Note: %s\n", n)
	}
	b.WriteString(r.verdict() + "\n")
	for _, why := range r.InvalidReasons {
		fmt.Fprintf(b, "  %s\n", why)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// verdict is the sentence that matters most.
func (r *Result) verdict() string {
	missed := 0
	for _, e := range r.Expectations {
		if !e.Held {
			missed++
		}
	}
	switch {
	case !r.Valid:
		return "NOT VALID: this is not a result about the server."
	case missed > 0:
		return fmt.Sprintf("Valid, but %d of %s not met.", missed, plural(len(r.Expectations), "expectation"))
	case len(r.Expectations) > 0:
		return "Valid, and as expected."
	}
	return "Valid: the generator was not the bottleneck."
}

func (r *Result) callTable() table {
	c, s := &r.Calls, &r.Setup
	if c.Attempted == 0 {
		return nil
	}
	t := table{
		{"attempted", number(float64(c.Attempted))},
		{"up", number(float64(c.Up)), percentOf(c.Up, c.Attempted)},
		{"failed", number(float64(c.Failed)), percentOf(c.Failed, c.Attempted)},
		{"lost while up", number(float64(c.Lost)), percentOf(c.Lost, c.Up)},
		{"most at a time", number(float64(c.PeakUp))},
		{"came up", number(s.Rate) + "/s"},
	}
	if s.AskedRate > 0 {
		t[len(t)-1] = append(t[len(t)-1], "of "+number(s.AskedRate)+"/s asked")
	}
	return t
}

func (r *Result) causeTable() table {
	var t table
	for _, kind := range []struct {
		name   string
		causes map[string]uint64
	}{{"failed", r.Calls.Failures}, {"lost", r.Calls.Losses}} {
		for _, c := range byCount(kind.causes) {
			t = append(t, []string{kind.name + ": " + c.name, number(float64(c.n))})
		}
	}
	return t
}

type counted struct {
	name string
	n    uint64
}

// byCount lists counts, the largest first.
func byCount(m map[string]uint64) []counted {
	var list []counted
	for name, n := range m {
		list = append(list, counted{name, n})
	}
	slices.SortFunc(list, func(a, b counted) int {
		return cmp.Or(cmp.Compare(b.n, a.n), cmp.Compare(a.name, b.name))
	})
	return list
}

// phaseNames are the phases in words.
var phaseNames = map[string]string{
	"tcp": "TCP connection", "start": "control connection", "call": "call request", "lcp": "LCP",
	"auth": "authentication", "ccp": "CCP (MPPE)", "ipcp": "IPCP", "first_packet": "first packet",
}

func (r *Result) setupTable() table {
	if r.Setup.Count == 0 {
		return nil
	}
	row := func(name string, m MS) []string {
		return []string{name, number(m.MeanMS), number(m.P50MS), number(m.P90MS), number(m.P99MS), number(m.MaxMS), number(float64(m.Count))}
	}
	t := table{{"", "mean", "p50", "p90", "p99", "max", "calls"}, row("whole", r.Setup.MS)}
	for _, p := range r.Setup.Phases.All() {
		t = append(t, row(phaseNames[p.Name], p.MS))
	}
	return t
}

func (r *Result) packetTable() table {
	if r.Traffic.Sent == 0 {
		return nil
	}
	n := func(v uint64) string { return number(float64(v)) }
	row := func(name string, p Packets) []string {
		return []string{
			name, n(p.Sent), n(p.Received), n(p.Lost), number(p.LossPercent) + "%", n(p.Duplicated), n(p.Reordered), n(p.Corrupted),
			number(p.ReceivedPPS), scaled(p.ReceivedBPS, "bit/s"),
		}
	}
	t := table{{"", "sent", "received", "lost", "loss", "again", "reordered", "damaged", "packets/s", "bits/s"}, row("all", r.Traffic.Packets)}
	for _, d := range r.Traffic.Directions {
		t = append(t, row(d.Direction, d.Packets))
	}
	for _, s := range r.Traffic.Sizes {
		t = append(t, row(sizeName(s.SizeBytes), s.Packets))
	}
	return t
}

func sizeName(bytes int) string {
	if bytes == 0 {
		return "mix"
	}
	return number(float64(bytes)) + " bytes"
}

func (r *Result) timeTable() table {
	t := table{{"", "min", "mean", "p50", "p90", "p99", "p99.9", "max", "packets"}}
	row := func(name string, u *US) {
		if u == nil || u.Count == 0 {
			return
		}
		t = append(t, []string{
			name, number(u.MinUS), number(u.MeanUS), number(u.P50US), number(u.P90US), number(u.P99US), number(u.P999US), number(u.MaxUS),
			number(float64(u.Count)),
		})
	}
	row(or(r.Latency.Kind, "latency"), &r.Latency.US)
	if r.OneWay != nil {
		row(r.OneWay.Kind, &r.OneWay.US)
	}
	row("gap off its plan", r.Traffic.Jitter)
	row("sent late by", r.Generator.SendDelay)
	if len(t) == 1 {
		return nil
	}
	return t
}

// namedTable is a table and its title.
type namedTable struct {
	name string
	table
}

// testTables are the results of the tests by name; of loss curves, if they
// are not wanted in full, only what is beyond the last point without loss.
func (r *Result) testTables(full bool) []namedTable {
	var all []namedTable
	add := func(name string, head []string, rows table) {
		if len(rows) == 0 {
			return
		}
		if head != nil {
			rows = append(table{head}, rows...)
		}
		all = append(all, namedTable{name, rows})
	}
	var rows table
	for _, t := range r.Tests.Throughput {
		row := []string{sizeName(t.SizeBytes), number(t.NDRPPS), scaled(t.NDRBPS, "bit/s")}
		if t.PDRPPS > 0 {
			row = append(row, number(t.PDRPPS), scaled(t.PDRBPS, "bit/s"), number(t.PDRLossPercent)+"%")
		}
		rows = append(rows, row)
	}
	add("Throughput (RFC 2544): no-drop and partial-drop rate", []string{"", "NDR pps", "NDR bits/s", "PDR pps", "PDR bits/s", "at loss"}, rows)
	rows = nil
	for _, l := range r.Tests.Latency {
		rows = append(rows, []string{
			sizeName(l.SizeBytes), number(l.SharePercent) + "%", number(l.SentPPS), number(l.P50US), number(l.P99US), number(l.P999US), number(l.MaxUS),
		})
	}
	add("Latency at a share of the no-drop rate, us", []string{"", "share", "packets/s", "p50", "p99", "p99.9", "max"}, rows)
	rows = nil
	for _, c := range r.Tests.Loss {
		points := c.Points
		for !full && len(points) > 1 && points[1].LossPercent == 0 {
			points = points[1:]
		}
		for i, p := range points {
			name := ""
			if i == 0 {
				name = sizeName(c.SizeBytes)
			}
			rows = append(rows, []string{name, number(p.OfferedPPS), number(p.SentPPS), number(p.ReceivedPPS), number(p.LossPercent) + "%"})
		}
	}
	add("Loss against rate", []string{"", "offered pps", "sent pps", "received pps", "loss"}, rows)
	rows = nil
	for _, b := range r.Tests.BackToBack {
		rows = append(rows, []string{sizeName(b.SizeBytes), number(float64(b.Packets)), number(b.DurationMS)})
	}
	add("Longest burst without loss", []string{"", "packets", "ms"}, rows)
	if s := r.Tests.SetupRate; s != nil {
		rows = nil
		for i, p := range s.Steps {
			held := "held"
			if !p.Held {
				held = or(p.Reason, "not held")
			}
			rows = append(rows, []string{
				fmt.Sprintf("try %d", i+1), number(p.AskedRate), number(p.Rate), number(float64(p.Attempted)), number(float64(p.Failed)), number(p.P99MS), held,
			})
		}
		add("Set-up rate: "+number(s.Rate)+" calls/s held", []string{"", "asked/s", "came up/s", "calls", "failed", "p99 ms", ""}, rows)
	}
	if c := r.Tests.Capacity; c != nil {
		add("Call capacity", nil, table{{"calls at a time", number(float64(c.Calls))}, {"limited by", or(c.Limit, "the plan")}})
	}
	if s := r.Tests.Soak; s != nil {
		rows = table{{"duration", seconds(s.DurationS)}, {"calls lost", number(float64(s.LostCalls))}, {"packets lost", number(float64(s.LostPackets))}}
		if s.ServerEndBytes > 0 {
			rows = append(rows,
				[]string{"server's memory at the begin", scaled(float64(s.ServerStartBytes), "B")},
				[]string{"server's memory at the end", scaled(float64(s.ServerEndBytes), "B")})
		}
		add("Soak", nil, rows)
	}
	if c := r.Tests.Recovery; c != nil {
		add("Recovery after loss of the server", nil, table{
			{"away for", number(c.OutageMS) + " ms"},
			{"calls back", fmt.Sprintf("%s of %s", number(float64(c.Back)), number(float64(c.Calls)))},
			{"first after", number(c.FirstMS) + " ms"},
			{"all after", number(c.AllMS) + " ms"},
		})
	}
	return all
}

func (r *Result) generatorTable() table {
	g := &r.Generator
	t := table{
		{"busiest thread, of a processor", number(g.CPUPercent) + "%"},
		{"all threads, of a processor", number(g.CPUTotalPercent) + "%"},
		{"calls begun late", number(float64(g.LateStarts))},
		{"packets sent late", number(float64(g.LateSends))},
		{"not taken by a full ring", number(float64(g.RingFull))},
	}
	if g.PeakBytes > 0 {
		t = append(t, []string{"memory", scaled(float64(g.PeakBytes), "B")})
	}
	for _, d := range byCount(r.Traffic.Drops) {
		t = append(t, []string{"dropped: " + d.name, number(float64(d.n))})
	}
	return t
}

func (r *Result) serverTable() table {
	s := r.Server
	if s == nil {
		return nil
	}
	return table{
		{"busiest thread, of a processor", number(s.CPUPercent) + "%"},
		{"all threads, of a processor", number(s.CPUTotalPercent) + "%"},
		{"memory", scaled(float64(s.PeakBytes), "B")},
	}
}

func (r *Result) expectTable() table {
	var t table
	for _, e := range r.Expectations {
		held := "held"
		if !e.Held {
			held = "NOT MET"
		}
		t = append(t, []string{e.Text, number(e.Value), held})
	}
	return t
}

func percentOf(n, of uint64) string {
	if of == 0 {
		return ""
	}
	return number(100*float64(n)/float64(of)) + "%"
}

func seconds(s float64) string {
	switch {
	case s >= 3600:
		return fmt.Sprintf("%d h %02d min", int(s)/3600, int(s)/60%60)
	case s >= 600:
		return fmt.Sprintf("%d min %02d s", int(s)/60, int(s)%60)
	}
	return number(s) + " s"
}

func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

func parens(s string) string {
	if s == "" {
		return ""
	}
	return " (" + s + ")"
}
