package config

import (
	"strings"
	"testing"
	"time"

	"xpptp/control/aaa"
)

func TestStressPlan(t *testing.T) {
	s, err := ParseStress("plan.yaml", []byte(`
server: 192.0.2.1
source: [198.51.100.1-198.51.100.9, 203.0.113.0/29]
calls: 10000
rate: 2000
ramp: linear
churn: {life: 30s, jitter: 5s}
auth: [mschapv2=9, pap]
mppe: [require=3, deny]
traffic: 2.5Mpps
size: [64, 1400]
test: [throughput, latency]
search:
  trial: 1s
`))
	if err != nil {
		t.Fatal(err)
	}
	if s.Calls != 10000 || s.Rate != 2000 || s.Ramp != RampLinear || s.Churn.Jitter != 5*time.Second || s.Search.Trial != time.Second {
		t.Errorf("read %+v", s)
	}
	if s.Traffic.Rate != (LoadRate{PPS: 2.5e6}) {
		t.Errorf("traffic: %v", s.Traffic.Rate)
	}
	if got := s.AuthMix; len(got) != 2 || got[0] != (Weighted[aaa.Method]{aaa.MSCHAPv2, 9}) || got[1] != (Weighted[aaa.Method]{aaa.PAP, 1}) {
		t.Errorf("auth: %v", got)
	}
	if n := len(s.Sources()); n != 9+6 || s.SourceCount() != n {
		t.Errorf("%d sources", n)
	}
	if s.MPPE != Require || len(s.Auth) != 2 {
		t.Errorf("what calls are offered: %v, %v", s.MPPE, s.Auth)
	}
}

// Errors name the place, the key and the value.
func TestStressErrors(t *testing.T) {
	for text, want := range map[string]string{
		"calls: 0":           "plan:1:8: calls: 0 is out of range: allowed are 1 to 1048576",
		"rate: 1000000":      "allowed are 1 to 100000",
		"duration: 200h":     "200h is out of range: allowed are 0s to 168h",
		"ratee: 1":           `plan:1:1: unknown key "ratee": did you mean "rate"?`,
		"ramp: steep":        `"steep" is none of none, linear, steps`,
		"traffic: 10":        `"10" is not a rate such as 50000pps, 100Mbit/s or none`,
		"traffic: NaNpps":    `"NaNpps" is not a rate`,
		"traffic: 30Mpps":    "30Mpps is out of range",
		"traffic: 1Tbit/s":   `"1Tbit/s" is not a rate`,
		"auth: [mschapv2=0]": "weight of mschapv2: 0 is out of range",
		"auth: [eap]":        `"eap" is none of pap`,
		"mppe: [maybe]":      `"maybe" is none of deny`,
		"test: [speed]":      `"speed" is none of calls, throughput`,
		"user: 'u%s'":        `"u%s" may hold %d once and no other %`,
		"size: [63]":         "63 is out of range: allowed are 64 to 3700",
		"size: [1500]":       "size: 1500 is larger than mtu, 1400",
		"size: [64]\nipv6: true\ntraffic-ipv6: true": "64 is too small for IPv6",
		"traffic-ipv6: true":                         "traffic-ipv6: needs ipv6",
		"churn: {life: 1s, jitter: 2s}":              "churn.jitter: 2s is more than churn.life, 1s",
		"search: {min-pps: 10, max-pps: 5}":          "search.min-pps: 10 is more than search.max-pps, 5",
		"source: 10.0.0.0/8":                         "16777214 addresses are too many",
		"kill-rate: -1":                              "-1 is out of range",
		"server: [a, b]":                             "found a list where one value belongs",
	} {
		_, err := ParseStress("plan", []byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v\nwant %s", text, err, want)
		}
	}
}

func TestLoadRateText(t *testing.T) {
	for s, want := range map[string]LoadRate{
		"none": {}, "100pps": {PPS: 100}, "50kpps": {PPS: 50e3}, "0.5Mpps": {PPS: 5e5}, "1 pps": {PPS: 1},
		"100Mbit/s": {BPS: 1e8}, "1.5Gbit/s": {BPS: 1.5e9}, "64kbit/s": {BPS: 64e3}, "9bit/s": {BPS: 9},
	} {
		var r LoadRate
		if err := (loadRate{&r}).Set(s); err != nil || r != want {
			t.Errorf("%q: %+v, %v", s, r, err)
		}
		var back LoadRate
		if err := (loadRate{&back}).Set(r.String()); err != nil || back != r {
			t.Errorf("%q shown as %s: %+v, %v", s, r, back, err)
		}
	}
}

// The plan as it is shown reads back as the same plan.
func FuzzStress(f *testing.F) {
	f.Add([]byte(DefaultStress().PlanYAML()))
	f.Add([]byte("calls: 5\nauth: [pap=2, chap]\nmppe: prefer\nsource: 10.0.0.1-9\nuser: '%d''s'\n"))
	f.Add([]byte("search: {loss: 0.001}\nname: \"a: b # c\"\nserver: h:99\n"))
	f.Add([]byte("traffic: 1e3pps\nkill-rate: 1e-3\nchurn: {life: 1m30s}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := ParseStress("plan", text)
		if err != nil {
			return
		}
		shown := s.PlanYAML()
		again, err := ParseStress("shown", []byte(shown))
		if err != nil {
			t.Fatalf("%v\n%s", err, shown)
		}
		if got := again.PlanYAML(); got != shown {
			t.Errorf("shown\n%s\nthen\n%s", shown, got)
		}
	})
}
