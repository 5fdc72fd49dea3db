package bench

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"xpptp/engine/mppe/multi"
)

func TestMPPE(t *testing.T) {
	plan := MPPEPlan{
		Sizes: []int{64, 0}, Batches: []int{1, 20}, Sessions: []string{"many", "five", "one"}, Bits: []int{40, 56, 128},
		Directions: []string{Send, Receive, Kernel}, Ahead: true, Time: time.Nanosecond,
	}
	var rows []MPPERow
	if err := MPPE(plan, func(r MPPERow) { rows = append(rows, r) }); err != nil {
		t.Fatal(err)
	}
	if want := 2 * 2 * 3 * 3 * 3 * 2 * len(multi.Ways()); len(rows) != want {
		t.Fatalf("%d rows, want %d", len(rows), want)
	}
	seen := map[MPPERow]bool{}
	for _, r := range rows {
		if r.NsPerPacket <= 0 || r.RatioGo <= 0 || r.NsGo <= 0 {
			t.Errorf("row %+v measured nothing", r)
		}
		if r.Ahead != (r.Direction == Kernel && !r.Stateful) {
			t.Errorf("row %+v: keys ahead %v", r, r.Ahead)
		}
		r.NsPerPacket, r.RatioGo, r.NsGo = 0, 0, 0
		if seen[r] {
			t.Errorf("row %+v twice", r)
		}
		seen[r] = true
	}

	b, err := json.Marshal(rows[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"size", "sessions", "stateful", "bits", "direction", "way", "batch", "ns_per_packet", "ratio_go"} {
		if !bytes.Contains(b, []byte(`"`+name+`":`)) {
			t.Errorf("%s lacks %s", b, name)
		}
	}
	var out strings.Builder
	if err := WriteMPPE(&out, rows); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "\n"); n != len(rows)+1 || !strings.Contains(out.String(), "IMIX") {
		t.Errorf("table of %d lines for %d rows:\n%s", n, len(rows), out.String())
	}
}

func TestMPPERefusesPlan(t *testing.T) {
	for want, plan := range map[string]MPPEPlan{
		"batch 257":        {Batches: []int{257}},
		"batch 0":          {Batches: []int{0}},
		"size 21":          {Sizes: []int{21}},
		"size 2000":        {Sizes: []int{2000}},
		`sessions "two"`:   {Sessions: []string{"two"}},
		"48 bits":          {Bits: []int{48}},
		`direction "both"`: {Directions: []string{"both"}},
	} {
		plan.Time = time.Nanosecond
		if err := MPPE(plan, func(MPPERow) {}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("plan that should be refused for %s: %v", want, err)
		}
	}
}
