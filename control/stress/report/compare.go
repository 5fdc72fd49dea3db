package report

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
)

// Row is a metric of two results.
type Row struct {
	Metric      Metric
	A, B        float64
	InA, InB    bool    // whether it was measured there
	DiffPercent float64 // of B against A; 0 if one of them was not measured or A is 0
}

// Comparison is what two results have in numbers, side by side.
type Comparison struct {
	NameA, NameB string
	Rows         []Row
	// Differs lists what makes the two hard to compare, a sentence each.
	Differs []string
}

// Compare puts two results side by side: every metric that at least one of
// them measured.
func Compare(a, b *Result) (*Comparison, error) {
	da, err := a.document()
	if err != nil {
		return nil, err
	}
	db, err := b.document()
	if err != nil {
		return nil, err
	}
	c := &Comparison{NameA: title(a), NameB: title(b)}
	for _, m := range Metrics() {
		switch {
		case strings.HasPrefix(m.Path, "environment."), strings.HasSuffix(m.Path, ".count"):
			continue // not what a run came to
		case strings.HasSuffix(m.Path, ".*"):
			path := strings.TrimSuffix(m.Path, ".*")
			names := maps.Clone(da.counts(path))
			maps.Copy(names, db.counts(path))
			for _, n := range slices.Sorted(maps.Keys(names)) {
				c.add(Metric{Name: path + "." + n, Path: path + "." + n, About: m.About}, da, db)
			}
		default:
			c.add(m, da, db)
		}
	}
	for _, d := range []struct{ what, a, b string }{
		{"processor", a.Environment.CPU, b.Environment.CPU},
		{"kernel", a.Environment.Kernel, b.Environment.Kernel},
		{"backend", a.Environment.IO, b.Environment.IO},
		{"cipher kernels", a.Environment.CipherWay, b.Environment.CipherWay},
		{"workers", fmt.Sprint(a.Environment.Workers), fmt.Sprint(b.Environment.Workers)},
		{"xpptp version", a.Environment.Version, b.Environment.Version},
	} {
		if d.a != d.b {
			c.Differs = append(c.Differs, fmt.Sprintf("The %s differs: %s, %s.", d.what, or(d.a, "unknown"), or(d.b, "unknown")))
		}
	}
	if string(a.Plan) != string(b.Plan) {
		c.Differs = append(c.Differs, "The plans differ.")
	}
	for name, r := range map[string]*Result{"A": a, "B": b} {
		if !r.Valid {
			c.Differs = append(c.Differs, fmt.Sprintf("%s is not valid: %s", name, or(strings.Join(r.InvalidReasons, " "), "no reason given.")))
		}
	}
	slices.Sort(c.Differs)
	return c, nil
}

func (c *Comparison) add(m Metric, a, b document) {
	r := Row{Metric: m}
	r.A, r.InA = a.value(m.Path)
	r.B, r.InB = b.value(m.Path)
	if r.A == 0 && r.B == 0 { // not measured, or nothing to tell
		return
	}
	if r.InA && r.InB && r.A != 0 {
		r.DiffPercent = 100 * (r.B - r.A) / math.Abs(r.A)
	}
	c.Rows = append(c.Rows, r)
}

// counts returns what is counted by name at a path; never nil.
func (d document) counts(path string) map[string]bool {
	at := map[string]any(d)
	for n := range strings.SplitSeq(path, ".") {
		at, _ = at[n].(map[string]any)
	}
	names := map[string]bool{}
	for n := range at {
		names[n] = true
	}
	return names
}

// WriteText writes the comparison as an aligned table.
func (c *Comparison) WriteText(w io.Writer) error {
	t := table{{"", "A", "B", "change"}}
	cell := func(r Row, v float64, in bool) string {
		if !in {
			return "-"
		}
		return r.Metric.format(v)
	}
	for _, r := range c.Rows {
		change := ""
		switch {
		case r.InA && r.InB && r.A == r.B:
			change = "="
		case r.InA && r.InB && r.A != 0:
			change = fmt.Sprintf("%+.1f%%", r.DiffPercent)
		}
		t = append(t, []string{r.Metric.Name, cell(r, r.A, r.InA), cell(r, r.B, r.InB), change})
	}
	b := &strings.Builder{}
	t.write(b, "")
	fmt.Fprintf(b, "\nA: %s\nB: %s\n", c.NameA, c.NameB)
	for _, d := range c.Differs {
		fmt.Fprintf(b, "   %s\n", d)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// title names a result among others.
func title(r *Result) string {
	name := or(r.Name, "stress")
	if r.Environment.Start.IsZero() {
		return name
	}
	return name + " of " + r.Environment.Start.Format("2006-01-02 15:04:05 MST")
}

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
