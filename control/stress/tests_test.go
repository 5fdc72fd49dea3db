package stress

import (
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"xpptp/control"
	"xpptp/control/config"
	"xpptp/control/stress/report"
)

// A search ends within its precision below what can be held, having asked no
// rate twice and none out of bounds.
func TestSearch(t *testing.T) {
	for _, tc := range []struct{ low, high, precision, limit float64 }{
		{1, 1e6, 1, 123_456},
		{1000, 2e6, 2, 1000},
		{1000, 2e6, 2, 1999},
		{10, 100, 0.01, 63},
		{10, 1000, 50, 640},
		{64, 64, 1, 100},
		{100, 150, 1, 149},
		{100, 150, 1, 151},
		{100, 1000, 1, 99},
	} {
		asked := map[float64]bool{}
		got, err := search(tc.low, tc.high, tc.precision, func(rate float64) (bool, error) {
			if asked[rate] || rate < tc.low || rate > tc.high {
				t.Errorf("%+v: asked for %v", tc, rate)
			}
			asked[rate] = true
			return rate <= tc.limit, nil
		})
		want := min(tc.limit, tc.high)
		switch {
		case err != nil:
			t.Error(err)
		case tc.limit < tc.low && got != 0:
			t.Errorf("%+v: %v, nothing holds", tc, got)
		case tc.limit >= tc.low && (got > want || got < want/(1+tc.precision/100)):
			t.Errorf("%+v: %v", tc, got)
		}
	}
}

func TestSearchStopsAtAnError(t *testing.T) {
	broken := errors.New("broken")
	n := 0
	got, err := search(100, 10_000, 1, func(float64) (bool, error) {
		if n++; n == 3 {
			return false, broken
		}
		return true, nil
	})
	if !errors.Is(err, broken) || got != 200 || n != 3 {
		t.Errorf("%v, %v after %d", got, err, n)
	}
}

// Choices come in proportion to their weights.
func TestPick(t *testing.T) {
	mix := []config.Weighted[string]{{Choice: "a", Weight: 1}, {Choice: "b", Weight: 7}, {Choice: "c", Weight: 2}}
	rng := rand.New(rand.NewPCG(1, 2))
	got := map[string]float64{}
	const n = 100_000
	for range n {
		got[pick(rng, mix)]++
	}
	for _, w := range mix {
		if want := n * float64(w.Weight) / 10; math.Abs(got[w.Choice]-want) > 0.03*want {
			t.Errorf("%s came %v times, want about %v", w.Choice, got[w.Choice], want)
		}
	}
}

func TestUsers(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	p := config.DefaultStress()
	if _, err := loadUsers(p); err == nil {
		t.Error("no password, and no error")
	}
	p.User, p.FirstUser, p.PasswordFile = "u%dx", 7, write("pw", "secret\n")
	u, err := loadUsers(p)
	if err != nil {
		t.Fatal(err)
	}
	if name, pw := u.get(3); name != "u10x" || pw.Reveal() != "secret" {
		t.Errorf("%q, %q", name, pw.Reveal())
	}
	p.UsersFile = write("users", "carol * one *\n* * any *\nbob * two *\nalice * three *\n")
	if u, err = loadUsers(p); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"carol", "bob", "alice", "carol"} {
		if name, _ := u.get(i); name != want {
			t.Errorf("user %d is %q, want %q", i, name, want)
		}
	}
	p.UsersFile = write("nobody", "* * any *\n")
	if _, err := loadUsers(p); err == nil {
		t.Error("a file that names no user, and no error")
	}
}

func TestTally(t *testing.T) {
	const ms = int64(1e6)
	total := newTally(1000 * ms)
	for run := range 2 {
		f := newTally(1000 * ms)
		for i := range int64(10) {
			due := (1000 + 100*i) * ms
			f.begin(due, due+i*ms/2) // those from the third on are late
			switch i {
			case 8:
				f.failed(&control.CallReport{Cause: control.CauseCallRefused, Reason: "busy"})
			case 9:
				f.failed(&control.CallReport{Cause: "auth-failed"})
			default:
				r := &control.CallReport{Begun: due + 5*ms}
				for p := control.PhaseCall; p < control.NumPhases; p++ {
					r.Ends[p] = r.Begun + int64(p)*10*ms
				}
				r.Ends[control.PhaseCCP] = 0 // no encryption
				f.up(due, due+100*ms, r)
			}
		}
		f.lost(&control.CallReport{Cause: "echo-timeout"})
		f.connection(control.ConnTimes{Begun: 1000 * ms, Connected: 1001 * ms, Up: 1003 * ms})
		f.calls.PeakUp = uint64(4 + run)
		total.merge(f)
	}
	var r report.Result
	total.fill(&r)
	c := &r.Calls
	if c.Attempted != 20 || c.Up != 16 || c.Failed != 4 || c.Lost != 2 || c.PeakUp != 5 {
		t.Errorf("%+v", c)
	}
	if c.Failures[control.CauseCallRefused] != 2 || c.Failures["auth-failed"] != 2 || c.Losses["echo-timeout"] != 2 {
		t.Errorf("causes: %v, %v", c.Failures, c.Losses)
	}
	if r.Generator.LateStarts != 14 {
		t.Errorf("%d late", r.Generator.LateStarts)
	}
	// From the first, due at 0, to the last, up at 800 ms: eight calls.
	if s := &r.Setup; math.Abs(s.Rate-10) > 0.01 || s.Count != 16 || math.Abs(s.P99MS-100) > 0.2 {
		t.Errorf("set-up: %+v", s)
	}
	p := &r.Setup.Phases
	for name, tc := range map[string]struct {
		got   *report.MS
		count uint64
		ms    float64
	}{
		"tcp": {p.TCP, 2, 1}, "start": {p.Start, 2, 2}, "call": {p.Call, 16, 20}, "lcp": {p.LCP, 16, 10},
		"auth": {p.Auth, 16, 10}, "ipcp": {p.IPCP, 16, 20},
	} {
		if tc.got == nil || tc.got.Count != tc.count || math.Abs(tc.got.P50MS-tc.ms) > tc.ms/100 {
			t.Errorf("%s: %+v, want %v ms", name, tc.got, tc.ms)
		}
	}
	if p.CCP != nil {
		t.Errorf("ccp: %+v", p.CCP)
	}
	ups := 0.0
	for _, n := range r.Setup.Rate1S.Values {
		ups += n
	}
	if ups != 16 || r.Setup.Rate100MS.Values[1] != 20 {
		t.Errorf("series: %v, %v", r.Setup.Rate1S, r.Setup.Rate100MS)
	}
}
