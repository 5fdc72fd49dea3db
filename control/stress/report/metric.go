package report

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Metric is a number of the document that can be expected and compared.
type Metric struct {
	Name  string // as a user writes it: the path without its unit, where that says enough
	Path  string // in the document: names joined by dots
	Unit  string // ms, us, s, pps, bps, bytes, %, calls/s; empty for a count
	About string
}

// units are the endings of names, and what they are called.
var units = []struct{ ending, unit string }{
	{"_ms", "ms"},
	{"_us", "us"},
	{"_s", "s"},
	{"_pps", "pps"},
	{"_bps", "bps"},
	{"_bytes", "bytes"},
	{"_percent", "%"},
}

// short are names for what is asked for most.
var short = map[string]string{
	"loss":   "traffic.loss_percent",
	"failed": "calls.failed",
	"up":     "calls.up",
	"rate":   "setup.rate",
}

// Metrics lists all of them by name. What is in lists has none; what is in
// calls.failures, calls.losses and traffic.drops has one for each name there.
func Metrics() []Metric { return slices.Clone(metrics().list) }

type metricTable struct {
	list []Metric
	by   map[string]Metric // by every name that is understood
}

// seriesRef is what the schema calls a Series: no metric.
const seriesRef = "#/$defs/Series"

var metrics = sync.OnceValue(func() metricTable {
	var root schemaNode
	if err := json.Unmarshal(Schema, &root); err != nil {
		panic(fmt.Sprintf("report: schema.json: %v", err)) // it is part of the program
	}
	t := metricTable{by: map[string]Metric{}}
	var walk func(path string, n *schemaNode)
	walk = func(path string, n *schemaNode) {
		if n.Ref != "" {
			n = root.Defs[strings.TrimPrefix(n.Ref, "#/$defs/")]
		}
		for name, child := range n.Properties {
			p := strings.TrimPrefix(path+"."+name, ".")
			switch {
			case p == "schema" || p == "seed": // say nothing of the run
			case child.Type == "number" || child.Type == "integer":
				t.list = append(t.list, Metric{Path: p, Unit: unitOf(p), About: child.Description})
			case child.Ref != "" && child.Ref != seriesRef:
				walk(p, child)
			case child.AdditionalProperties != nil:
				t.list = append(t.list, Metric{Path: p + ".*", About: child.Description})
			}
		}
	}
	walk("", &root)
	known := map[string]int{}
	for _, m := range t.list {
		known[bare(m.Path)]++
	}
	for i := range t.list {
		m := &t.list[i]
		if m.Name = m.Path; known[bare(m.Path)] == 1 {
			m.Name = bare(m.Path)
		}
		t.by[m.Name], t.by[m.Path] = *m, *m
	}
	for name, path := range short {
		t.by[name] = t.by[path]
	}
	slices.SortFunc(t.list, func(a, b Metric) int { return cmp.Compare(a.Path, b.Path) })
	return t
})

// schemaNode is what matters of a node of the schema.
type schemaNode struct {
	Description          string                 `json:"description"`
	Type                 string                 `json:"type"`
	Ref                  string                 `json:"$ref"`
	Properties           map[string]*schemaNode `json:"properties"`
	AdditionalProperties *schemaNode            `json:"additionalProperties"`
	Defs                 map[string]*schemaNode `json:"$defs"`
}

func unitOf(path string) string {
	for _, u := range units {
		if strings.HasSuffix(path, u.ending) {
			return u.unit
		}
	}
	if strings.HasSuffix(path, "rate") {
		return "calls/s"
	}
	return ""
}

// bare takes the unit off a path.
func bare(path string) string {
	for _, u := range units {
		if s, ok := strings.CutSuffix(path, u.ending); ok {
			return s
		}
	}
	return path
}

// findMetric finds a metric by any of its names.
func findMetric(name string) (Metric, error) {
	t := metrics()
	if m, ok := t.by[name]; ok && !strings.HasSuffix(name, ".*") {
		return m, nil
	}
	if i := strings.LastIndexByte(name, '.'); i >= 0 && i < len(name)-1 && name[i+1:] != "*" {
		if m, ok := t.by[name[:i]+".*"]; ok {
			m.Name, m.Path = name, name
			return m, nil
		}
	}
	return Metric{}, fmt.Errorf("no metric is called %q%s", name, nearest(name, t.by))
}

// nearest proposes names that end like the one that is not there.
func nearest(name string, by map[string]Metric) string {
	last := name[strings.LastIndexByte(name, '.')+1:]
	var near []string
	for _, n := range slices.Sorted(maps.Keys(by)) {
		if last != "" && len(near) < 5 && by[n].Name == n && bare(n[strings.LastIndexByte(n, '.')+1:]) == bare(last) {
			near = append(near, n)
		}
	}
	if near == nil {
		return ""
	}
	return " (is it " + strings.Join(near, ", ") + "?)"
}

// document is a result as its metrics see it.
type document map[string]any

func (r *Result) document() (document, error) {
	b, err := r.encode()
	if err != nil {
		return nil, err
	}
	var d document
	return d, json.Unmarshal(b, &d)
}

// value of a path; ok false if it was not measured.
func (d document) value(path string) (v float64, ok bool) {
	names := strings.Split(path, ".")
	at := map[string]any(d)
	for _, n := range names[:len(names)-1] {
		switch next := at[n].(type) {
		case map[string]any:
			at = next
		default:
			// Of what is counted by name, what did not happen is not there.
			m, known := metrics().by[strings.Join(names[:len(names)-1], ".")+".*"]
			return 0, known && m.Path != ""
		}
	}
	last := names[len(names)-1]
	v, ok = at[last].(float64)
	if !ok {
		_, ok = metrics().by[strings.Join(names[:len(names)-1], ".")+".*"]
		return 0, ok
	}
	// A distribution of nothing, and a share of nothing, are not measured.
	of := map[string]string{"_ms": "count", "_us": "count", "loss_percent": "sent"}
	for ending, count := range of {
		if n, is := at[count].(float64); is && n == 0 && strings.HasSuffix(last, ending) {
			return 0, false
		}
	}
	return v, true
}

// format writes a value with its unit, as a person would.
func (m Metric) format(v float64) string {
	switch m.Unit {
	case "":
		return number(v)
	case "%":
		return number(v) + "%"
	case "calls/s":
		return number(v) + " calls/s"
	case "bps":
		return scaled(v, "bit/s")
	case "pps":
		return scaled(v, "pps")
	case "bytes":
		return scaled(v, "B")
	}
	return number(v) + " " + m.Unit
}

// scaled writes a value with a decimal prefix.
func scaled(v float64, unit string) string {
	for _, p := range []struct {
		at     float64
		prefix string
	}{{1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if math.Abs(v) >= p.at {
			return number(v/p.at) + " " + p.prefix + unit
		}
	}
	return number(v) + " " + unit
}

// number writes four digits, whole numbers in full with commas between thousands.
func number(v float64) string {
	if v == math.Trunc(v) && math.Abs(v) < 1e15 {
		return thousands(int64(v))
	}
	digits := 3 - int(math.Floor(math.Log10(math.Abs(v))))
	s := strconv.FormatFloat(v, 'f', min(max(digits, 0), 9), 64)
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	if i, err := strconv.ParseInt(s, 10, 64); err == nil {
		return thousands(i)
	}
	return s
}

// brief is number with three digits, for a place where space is short.
func brief(v float64) string { return number(digits(v, 3)) }

// briefly is scaled with three digits.
func briefly(v float64, unit string) string { return scaled(digits(v, 3), unit) }

func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
