package report

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Expect is a bound of a metric, such as loss<0.001% or setup.p99<200ms.
type Expect struct {
	metric Metric
	op     string
	value  float64 // in the metric's unit
}

// operators, the longer ones first.
var operators = []string{"<=", ">=", "==", "!=", "<", ">"}

// scales are the units that a value may have, by the unit of the metric.
var scales = map[string]map[string]float64{
	"":        {"": 1},
	"%":       {"%": 1},
	"ms":      {"us": 1e-3, "µs": 1e-3, "ms": 1, "s": 1e3},
	"us":      {"us": 1, "µs": 1, "ms": 1e3, "s": 1e6},
	"s":       {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600},
	"pps":     {"": 1, "pps": 1, "kpps": 1e3, "Mpps": 1e6},
	"bps":     {"": 1, "bps": 1, "bit/s": 1, "kbit/s": 1e3, "Mbit/s": 1e6, "Gbit/s": 1e9},
	"calls/s": {"": 1, "/s": 1, "calls/s": 1},
	"bytes":   {"": 1, "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30},
}

// ParseExpect reads an expectation: the name of a metric, an operator (<, <=,
// >, >=, ==, !=), a number and its unit. A share wants %, a time us, ms or s;
// a count has none. Spaces between them do not matter.
func ParseExpect(text string) (Expect, error) {
	fail := func(format string, args ...any) (Expect, error) {
		return Expect{}, fmt.Errorf("expect %q: %s", text, fmt.Sprintf(format, args...))
	}
	at := strings.IndexAny(text, "<>=!")
	if at < 0 {
		return fail("want a metric, one of %s and a value, such as loss<0.001%%", strings.Join(operators, " "))
	}
	i := slices.IndexFunc(operators, func(op string) bool { return strings.HasPrefix(text[at:], op) })
	if i < 0 {
		return fail("the operators are %s", strings.Join(operators, " "))
	}
	e := Expect{op: operators[i]}
	var err error
	if e.metric, err = findMetric(strings.TrimSpace(text[:at])); err != nil {
		return fail("%v", err)
	}
	value := strings.TrimSpace(text[at+len(e.op):])
	end := strings.LastIndexAny(value, "0123456789.") + 1
	unit := strings.TrimSpace(value[end:])
	scale, ok := scales[e.metric.Unit][unit]
	if !ok {
		return fail("%s has the unit %q, it wants %s", e.metric.Name, unit, unitNames(e.metric.Unit))
	}
	v, err := strconv.ParseFloat(value[:end], 64)
	if err != nil || math.IsInf(v, 0) || math.IsNaN(v) || math.IsInf(v*scale, 0) {
		return fail("%q is no number", value[:end])
	}
	e.value = v * scale
	return e, nil
}

// unitNames lists the units of a value, the small before the large.
func unitNames(unit string) string {
	var names []string
	for n := range scales[unit] {
		if n == "" {
			n = "none"
		}
		names = append(names, n)
	}
	slices.SortFunc(names, func(a, b string) int {
		if d := scales[unit][a] - scales[unit][b]; d != 0 {
			return int(math.Copysign(1, d))
		}
		return strings.Compare(a, b)
	})
	return strings.Join(names, ", ")
}

// String writes the expectation so that ParseExpect reads the same, in the
// metric's own unit.
func (e Expect) String() string {
	unit := e.metric.Unit
	if unit == "bytes" {
		unit = "B"
	}
	return e.metric.Name + e.op + strconv.FormatFloat(e.value, 'f', -1, 64) + unit
}

func (e Expect) holds(v float64) bool {
	switch e.op {
	case "<":
		return v < e.value
	case "<=":
		return v <= e.value
	case ">":
		return v > e.value
	case ">=":
		return v >= e.value
	case "==":
		return v == e.value
	}
	return v != e.value
}

// Expects is a list of expectations; it is a flag that may be given again.
type Expects []Expect

// Set adds an expectation.
func (e *Expects) Set(text string) error {
	x, err := ParseExpect(text)
	if err != nil {
		return err
	}
	*e = append(*e, x)
	return nil
}

// String lists the expectations.
func (e *Expects) String() string {
	var all []string
	for _, x := range *e {
		all = append(all, x.String())
	}
	return strings.Join(all, " ")
}

// Type is what the flag's help calls a value.
func (e *Expects) Type() string { return "METRIC<VALUE" }

// ErrExpect is the kind of error that Check returns: the run was made, and its
// result is not as expected.
var ErrExpect = errors.New("not as expected")

// Check evaluates the expectations and notes what became of them in
// r.Expectations. What was not measured holds nothing. The error, of kind
// ErrExpect, has a line for each that does not hold.
func (e Expects) Check(r *Result) error {
	doc, err := r.document()
	if err != nil {
		return err
	}
	var failed []error
	r.Expectations = nil
	for _, x := range e {
		v, measured := doc.value(x.metric.Path)
		held := measured && x.holds(v)
		r.Expectations = append(r.Expectations, Expectation{Text: x.String(), Value: v, Held: held})
		switch {
		case held:
		case !measured:
			failed = append(failed, fmt.Errorf("%w: %s: %s was not measured", ErrExpect, x, x.metric.Name))
		default:
			failed = append(failed, fmt.Errorf("%w: %s: %s is %s", ErrExpect, x, x.metric.Name, x.metric.format(v)))
		}
	}
	return errors.Join(failed...)
}
