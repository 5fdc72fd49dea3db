package bench

import (
	"strings"
	"testing"
)

// Calls that came up in another order than they are listed in, in tenths: as
// many in each, the rate from the end of the one before.
func TestTenths(t *testing.T) {
	const begin, step = int64(5e9), int64(1e6)
	var took []callTime
	for i := range int64(200) {
		k := 199 - i
		took = append(took, callTime{at: begin + (k+1)*step, took: (k%20 + 1) * step})
	}
	all := tenths(took, begin)
	if len(all) != 10 {
		t.Fatalf("%d parts", len(all))
	}
	for i, p := range all {
		if want := (CallsTenth{Calls: 20, PerSecond: 1000, MedianMS: 11, P99MS: 20, MaxMS: 20}); p != want {
			t.Errorf("part %d: %+v, want %+v", i, p, want)
		}
	}
	// Three calls have seven empty tenths, which are left out.
	n := 0
	for _, p := range tenths(took[:3], begin) {
		n += p.Calls
	}
	if n != 3 {
		t.Errorf("%d of 3 calls in parts", n)
	}
}

// What serve has is told from what it had before.
func TestBeyond(t *testing.T) {
	before := serveState{routes: 3, files: 12, memory: ServeMemory{Goroutines: 9}}
	if l := before.beyond(&before); !l.Clean() {
		t.Errorf("left: %+v", l)
	}
	for name, now := range map[string]serveState{
		"call": {calls: 1}, "connection": {conns: 1}, "session": {sessions: 1}, "address": {addresses: 1},
		"route": {routes: 4}, "file": {files: 13}, "goroutine": {memory: ServeMemory{Goroutines: 10}},
	} {
		if l := now.beyond(&before); l.Clean() {
			t.Errorf("a %s more is not seen: %+v", name, l)
		}
	}
}

// A call at a worker stays small, with more calls than there are call IDs.
func TestStatePerCall(t *testing.T) {
	n := 70_000
	if testing.Short() {
		n = 5000
	}
	each, err := StatePerCall(n)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%.0f bytes", each)
	if each < 256 || each > 1024 {
		t.Errorf("a call takes %.0f bytes of a worker, want at most 1 KiB", each)
	}
}

func TestCallsPlan(t *testing.T) {
	good := CallsPlan{Calls: 20_000, PerConnection: 1, AtOnce: 32, StateCalls: 100_000}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*CallsPlan){
		"9 calls: want 10 to":              func(p *CallsPlan) { p.Calls = 9 },
		"0 calls per connection: want 1":   func(p *CallsPlan) { p.PerConnection = 0 },
		"5000 calls at once: want 1 to":    func(p *CallsPlan) { p.AtOnce = 5000 },
		"1 calls in tables: want 100 to 1": func(p *CallsPlan) { p.StateCalls = 1 },
	} {
		p := good
		change(&p)
		if err := p.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
