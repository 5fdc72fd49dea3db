package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"xpptp/control/stress/report"
)

// stressLab runs stress --lab and returns its report. A busy machine may make
// the result not valid, and so the status 1: both are in the report.
func stressLab(t *testing.T, args ...string) *report.Result {
	t.Helper()
	newNet2(t) // skips
	p := command(t, append([]string{"stress", "--lab", "-o", "json"}, args...)...)
	p.launch()
	p.until("has ended", func() bool {
		select {
		case <-p.done:
			return true
		default:
			return false
		}
	})
	var r report.Result
	if err := json.Unmarshal([]byte(p.out.String()), &r); err != nil {
		t.Fatalf("%v\n%s", err, p.out.String())
	}
	if status := p.cmd.ProcessState.ExitCode(); (status == exitOK) != r.Valid {
		t.Errorf("status %d, valid %v", status, r.Valid)
	}
	return &r
}

func TestStressLab(t *testing.T) {
	const calls = 50
	dir := t.TempDir()
	page, doc := filepath.Join(dir, "r.html"), filepath.Join(dir, "r.json")
	r := stressLab(t, "--calls", "50", "--calls-per-connection", "3", "--rate", "200", "--duration", "1s", "--settle", "1m",
		"--traffic", "2000pps", "--size", "100,1000", "--quiet", "5s", "--html", page, "--json", doc,
		"--auth", "mschapv2=3,chap", "--mppe", "require,deny", "--source", "198.18.5.1-3")
	c := &r.Calls
	if c.Attempted != calls || c.Up != calls || c.Failed != 0 || c.Lost != 0 || c.PeakUp != calls {
		t.Errorf("calls: %+v", c)
	}
	if last := c.States[len(c.States)-1]; last.Up+last.Closing+last.Connecting+last.Negotiating != 0 {
		t.Errorf("at the end: %+v", last)
	}
	for name, want := range map[string]*report.MS{
		"call": r.Setup.Phases.Call, "lcp": r.Setup.Phases.LCP, "auth": r.Setup.Phases.Auth, "ipcp": r.Setup.Phases.IPCP,
		"first_packet": r.Setup.Phases.FirstPacket,
	} {
		if want == nil || want.Count != calls || want.MaxMS <= 0 {
			t.Errorf("phase %s: %+v", name, want)
		}
	}
	if p := r.Setup.Phases; p.TCP.Count != 17 || p.Start.Count != 17 || p.CCP == nil || p.CCP.Count == 0 || p.CCP.Count >= calls {
		t.Errorf("phases: %d tcp, %d start, ccp %+v", p.TCP.Count, p.Start.Count, p.CCP)
	}
	if s := r.Setup; s.Count != calls || s.Rate <= 0 || s.P50MS > s.P99MS {
		t.Errorf("set-up: %+v", s.MS)
	}
	if p := r.Traffic.Packets; p.Sent == 0 || p.Sent > 2001 || p.Received == 0 || p.Received+p.Lost != p.Sent || p.Corrupted != 0 {
		t.Errorf("traffic: %+v", p)
	}
	if s := r.Server; s == nil || s.PeakBytes == 0 || s.CPUTotalPercent <= 0 || s.CPUTotalPercent < s.CPUPercent {
		t.Errorf("the server: %+v", s)
	}
	if r.Latency.Kind != report.RoundTrip || r.Latency.Count != r.Traffic.Received {
		t.Errorf("latency: %+v", r.Latency)
	}
	var plan struct{ Calls int }
	if err := json.Unmarshal(r.Plan, &plan); err != nil || plan.Calls != calls {
		t.Errorf("plan: %v, %s", err, r.Plan)
	}
	if b, err := os.ReadFile(page); err != nil || !strings.Contains(string(b), "</html>") {
		t.Errorf("page: %v", err)
	}
	f, err := os.Open(doc)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if again, err := report.Read(f); err != nil || again.Calls.Up != calls {
		t.Errorf("document: %v", err)
	}
}

// Calls that end come back, those that are killed too, and those of a server
// that dies.
func TestStressComesBack(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	r := stressLab(t, "--calls", "20", "--rate", "100", "--duration", "3s", "--settle", "1m",
		"--churn-life", "500ms", "--churn-jitter", "200ms", "--churn-away", "100ms", "--kill-rate", "5", "--storm", "2s")
	if c := r.Calls; c.Up < 30 || c.Failed != 0 || c.Lost != 0 {
		t.Errorf("churn: %+v", c)
	}
	r = stressLab(t, "--calls", "20", "--rate", "100", "--settle", "1m", "--test", "recovery", "--retry", "200ms", "--search-outage", "500ms")
	if c := r.Tests.Recovery; c == nil || c.Calls != 20 || c.Back != 20 || c.OutageMS < 500 || c.AllMS < c.FirstMS {
		t.Errorf("recovery: %+v", c)
	}
	if c := r.Calls; c.Lost != 20 || c.Losses["connection-lost"] != 20 {
		t.Errorf("lost to the server's death: %+v", c)
	}
}

func TestStressTests(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	r := stressLab(t, "--calls", "10", "--rate", "100", "--settle", "1m",
		"--test", "throughput,latency,loss-curve,setup-rate,capacity", "--size", "128",
		"--search-trial", "200ms", "--search-precision", "50", "--search-min-pps", "100", "--search-max-pps", "400",
		"--search-max-rate", "100", "--search-points", "3", "--quiet", "2s")
	x := &r.Tests
	if len(x.Throughput) != 1 || len(x.Throughput[0].Steps) == 0 || x.Throughput[0].PDRPPS < x.Throughput[0].NDRPPS || x.Throughput[0].NDRPPS > 400 {
		t.Errorf("throughput: %+v", x.Throughput)
	}
	if len(x.Latency) != 1 || x.Latency[0].SharePercent != 80 || len(x.Loss) != 1 || len(x.Loss[0].Points) != 3 {
		t.Errorf("latency: %+v, loss: %+v", x.Latency, x.Loss)
	}
	if x.SetupRate == nil || len(x.SetupRate.Steps) != 1 || x.SetupRate.Steps[0].Attempted != 10 {
		t.Errorf("set-up rate: %+v", x.SetupRate)
	}
	if x.Capacity == nil || x.Capacity.Calls != 10 {
		t.Errorf("capacity: %+v", x.Capacity)
	}
}
