package report

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A result survives being written and read, and its numbers are finite.
func TestJSON(t *testing.T) {
	r := sample()
	var b bytes.Buffer
	if err := r.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/sample.json", b.Bytes())
	got, err := Read(&b)
	if err != nil {
		t.Fatal(err)
	}
	got.Plan, r.Plan = nil, nil // indented
	if !reflect.DeepEqual(got, r) {
		t.Errorf("read back: %+v\nwritten: %+v", got, r)
	}
	r = &Result{Setup: Setup{Rate: math.NaN(), Rate1S: &Series{Values: []float64{1, math.Inf(1)}}}, Plan: []byte("{")}
	r.Tests.Loss = []LossCurve{{Points: []LossPoint{{LossPercent: math.Inf(-1)}}}}
	r.OneWay = &Latency{US: US{P50US: math.NaN()}}
	if err := r.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	if got, err = Read(&b); err != nil || got.Setup.Rate1S.Values[0] != 1 || got.Setup.Rate1S.Values[1] != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "[]", `{"schema":99}`, `{"schema":1,"calls":{"up":-1}}`} {
		if _, err := Read(strings.NewReader(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestHistograms(t *testing.T) {
	h := hdrhistogram.New(1, 1e9, 3)
	for v := int64(1); v <= 1000; v++ {
		_ = h.RecordValue(v * 1000) // 1 to 1000 µs in ns
	}
	near := func(name string, got, want float64) {
		if math.Abs(got-want) > want/500 {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	us := USOf(h, 1)
	near("min", us.MinUS, 1)
	near("p50", us.P50US, 500)
	near("p99", us.P99US, 990)
	near("p99.9", us.P999US, 999)
	near("max", us.MaxUS, 1000)
	near("mean", us.MeanUS, 500.5)
	ms := MSOf(h, 1)
	near("p90 in ms", ms.P90MS, 0.9)
	if us.Count != 1000 || ms.Count != 1000 {
		t.Errorf("counts %d, %d", us.Count, ms.Count)
	}
	last := Percentile{-1, 0}
	for _, p := range us.Curve {
		if p.Percent <= last.Percent || p.US < last.US {
			t.Errorf("curve goes from %v to %v", last, p)
		}
		last = p
	}
	// A thousandth of a thousand values is one: nothing finer is told.
	if n := len(us.Curve); last != (Percentile{100, us.MaxUS}) || us.Curve[n-2].Percent != 99.9 {
		t.Errorf("curve ends with %v", us.Curve[n-2:])
	}
	if PhaseOf(hdrhistogram.New(1, 10, 1), 1) != nil || !reflect.DeepEqual(USOf(nil, 1), US{}) {
		t.Error("of nothing something was measured")
	}
}

func TestExpect(t *testing.T) {
	r := sample()
	r.Traffic.LossPercent = 0.00633
	r.Setup.P99MS = 42.5
	r.Latency.P50US = 180
	r.Traffic.SentBPS = 1.02e9
	r.Tests.Recovery.AllMS = 2210
	r.Environment.DurationS = 74.5
	for _, c := range []struct {
		text string
		want string // "" if it holds
	}{
		{"loss<0.01%", ""},
		{"loss<0.001%", "traffic.loss is 0.00633%"},
		{"traffic.loss <= 0.00633 %", ""},
		{"traffic.loss_percent>1e-3%", ""},
		{"setup.p99<200ms", ""},
		{"setup.p99_ms<0.2s", ""},
		{"setup.p99<42500us", "setup.p99 is 42.5 ms"},
		{"setup.p99==42.5ms", ""},
		{"latency.p50>=0.18ms", ""},
		{"latency.p50!=180us", "latency.p50 is 180 us"},
		{"traffic.sent_bps>1Gbit/s", ""},
		{"traffic.sent_bps>2Gbit/s", "traffic.sent_bps is 1.02 Gbit/s"},
		{"traffic.sent_pps>=0.2Mpps", ""},
		{"traffic.sent>=12000001", "traffic.sent is 12,000,000"},
		{"calls.up==9991", ""},
		{"up>=9991", ""},
		{"failed==0", "calls.failed is 9"},
		{"setup.rate>2000", ""},
		{"rate>2500calls/s", "setup.rate is 2,432 calls/s"},
		{"setup.phases.lcp.p99<1us", "setup.phases.lcp.p99 is "},
		{"calls.failures.lcp-timeout<6", "calls.failures.lcp-timeout is 6"},
		{"calls.failures.never-seen==0", ""},
		{"tests.recovery.all<3s", ""},
		{"environment.duration<2m", ""},
		{"tests.soak.server_end<1GiB", ""},
	} {
		var e Expects
		if err := e.Set(c.text); err != nil {
			t.Error(err)
			continue
		}
		err := e.Check(r)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.text, err)
		case c.want != "" && (!errors.Is(err, ErrExpect) || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %q", c.text, err, c.want)
		}
		if len(r.Expectations) != 1 || r.Expectations[0].Held != (c.want == "") {
			t.Errorf("%s: noted %+v", c.text, r.Expectations)
		}
	}
	// Of several every one that does not hold is told.
	var e Expects
	for _, s := range []string{"up>1", "failed==0", "loss<0.001%"} {
		if err := e.Set(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Check(r); len(strings.Split(err.Error(), "\n")) != 2 {
		t.Errorf("two of three: %v", err)
	}
}

// What was not measured does not hold, whatever the bound.
func TestExpectNotMeasured(t *testing.T) {
	for _, s := range []string{"loss<100%", "setup.p99<1s", "latency.p50>0us", "setup.phases.ccp.p99<1s", "latency_one_way.p99<1s", "tests.capacity.calls>0"} {
		var e Expects
		if err := e.Set(s); err != nil {
			t.Error(err)
			continue
		}
		if err := e.Check(&Result{}); !errors.Is(err, ErrExpect) || !strings.Contains(err.Error(), "not measured") {
			t.Errorf("%s: %v", s, err)
		}
	}
	var e Expects
	if err := errors.Join(e.Set("calls.failures.x==0"), e.Set("traffic.drops.mppe-no-key<1"), e.Check(&Result{})); err != nil {
		t.Errorf("what never happened is zero: %v", err)
	}
}

func TestExpectErrors(t *testing.T) {
	for text, want := range map[string]string{
		"":                     "want a metric",
		"loss":                 "want a metric",
		"loss=1%":              "the operators are",
		"loss!1%":              "the operators are",
		"loss<1":               `loss has the unit "", it wants %`[4:],
		"setup.p99<200":        "it wants us, µs, ms, s",
		"setup.p99<200m":       "it wants us, µs, ms, s",
		"traffic.sent<5pps":    "it wants none",
		"sent<5":               "is it traffic.sent",
		"setup.p98<1ms":        `no metric is called "setup.p98"`,
		"setup.phases.p99<1ms": "is it generator.send_delay.p99",
		"loss<%":               `"" is no number`,
		"loss<1.2.3%":          `"1.2.3" is no number`,
		"loss<1e400%":          "is no number",
		"calls.failures.*<1":   "no metric",
		"calls.failures.<1":    "no metric",
		"calls.failures<1":     "no metric",
	} {
		_, err := ParseExpect(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// Every metric has an explanation and can be expected by each of its names.
func TestMetrics(t *testing.T) {
	seen := map[string]string{}
	for _, m := range Metrics() {
		if m.About == "" {
			t.Errorf("%s is not explained", m.Name)
		}
		if other, ok := seen[m.Name]; ok {
			t.Errorf("%s is %s and %s", m.Name, m.Path, other)
		}
		seen[m.Name] = m.Path
		if strings.HasSuffix(m.Path, ".*") {
			continue
		}
		for _, name := range []string{m.Name, m.Path} {
			e := Expect{metric: Metric{Name: name, Unit: m.Unit}, op: "<", value: 1}
			if got, err := ParseExpect(e.String()); err != nil || got.metric != m {
				t.Errorf("%s: %+v, %v", e, got, err)
			}
		}
	}
	for name, path := range short {
		if m, err := findMetric(name); err != nil || m.Path != path {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
}

func TestNumbers(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 1: "1", 999: "999", 1000: "1,000", -1234567: "-1,234,567", -100: "-100", 0.00633: "0.00633", 0.1: "0.1",
		12.3456: "12.35", 1234.56: "1,235", 99999.99: "100,000", 0.000012345: "0.00001234",
	} {
		if got := number(v); got != want {
			t.Errorf("%v: %q, want %q", v, got, want)
		}
	}
}

func TestCompare(t *testing.T) {
	a, b := sample(), sample()
	b.Setup.Rate = a.Setup.Rate * 1.1
	b.Calls.Failures = map[string]uint64{"tcp-refused": 9}
	b.Tests.Capacity = nil
	b.Environment.IO = "tpacket"
	b.Valid, b.InvalidReasons = false, []string{"The generator was late."}
	c, err := Compare(a, b)
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]Row{}
	for _, r := range c.Rows {
		rows[r.Metric.Path] = r
	}
	if r := rows["setup.rate"]; math.Abs(r.DiffPercent-10) > 1e-9 {
		t.Errorf("rate: %+v", r)
	}
	if r := rows["calls.failures.lcp-timeout"]; r.A != 6 || r.B != 0 || !r.InA || !r.InB {
		t.Errorf("a cause of one of them: %+v", r)
	}
	if r := rows["tests.capacity.calls"]; !r.InA || r.InB {
		t.Errorf("measured once: %+v", r)
	}
	var out bytes.Buffer
	if err := c.WriteText(&out); err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/compare.txt", out.Bytes())
}

func FuzzExpect(f *testing.F) {
	for _, s := range []string{"loss<0.001%", "setup.p99 >= 200 ms", "traffic.sent_bps>1Gbit/s", "calls.failures.x!=3", "up==1e3", "a<", "<1", "loss<-.5%"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e, err := ParseExpect(s)
		if err != nil {
			return
		}
		again, err := ParseExpect(e.String())
		if err != nil || again != e {
			t.Errorf("%q: %q: %+v, %v, want %+v", s, e, again, err, e)
		}
	})
}
