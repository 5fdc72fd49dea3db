package main

import (
	"encoding/json"
	"strings"
	"testing"

	"xpptp/control/bench"
)

// All calls come up, two on each control connection; what they take is told,
// and all of it is given back.
func TestBenchCalls(t *testing.T) {
	newNet2(t) // skips
	const calls = 200
	p := command(t, "bench", "calls", "--calls", "200", "--calls-per-connection", "2", "--at-once", "8", "--state-calls", "1000", "-o", "json")
	p.launch()
	p.ends(exitOK, `200/200 calls up`)
	var r bench.CallsReport
	if err := json.Unmarshal([]byte(p.out.String()), &r); err != nil {
		t.Fatalf("%v\n%s", err, p.out.String())
	}
	if r.Calls != calls || r.Up != calls || r.Failed != 0 || len(r.Failures) != 0 || r.Connections != calls/2 || r.Sources != 1 || r.Files < calls {
		t.Errorf("%+v", r)
	}
	if !strings.HasPrefix(r.Placement, "server: ") || !strings.Contains(r.Placement, "; caller: ") {
		t.Errorf("placement %q", r.Placement)
	}
	n := 0
	for _, p := range r.Tenths {
		n += p.Calls
		if p.MedianMS <= 0 || p.P99MS < p.MedianMS || p.MaxMS < p.P99MS || p.PerSecond <= 0 {
			t.Errorf("tenth %+v", p)
		}
	}
	if n != calls || len(r.Tenths) != 10 {
		t.Errorf("%d calls in %d tenths", n, len(r.Tenths))
	}
	if m := &r.Memory; m.Heap < m.State || m.State < 256 || m.Stacks <= 0 || m.Whole <= m.Resident {
		t.Errorf("memory %+v", r.Memory)
	}
	if !r.Left.Clean() {
		t.Errorf("left: %+v", r.Left)
	}
}
