package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"xpptp/engine/mppe/multi"
)

func TestMPPE(t *testing.T) {
	plan := MPPEPlan{
		Sizes: []int{64, 0}, Batches: []int{1, 20}, Sessions: []string{"five", "one"}, Bits: []int{56, 128},
		Directions: []string{Send, Receive, Kernel}, Time: time.Nanosecond,
	}
	var rows []MPPERow
	if err := MPPE(plan, func(r MPPERow) { rows = append(rows, r) }); err != nil {
		t.Fatal(err)
	}
	// Stateless and stateful with all numbers of sessions, keys ahead with one.
	if want := 2 * 2 * (2 + 1 + 2) * 2 * 3 * len(multi.Ways()); len(rows) != want || plan.Rows() != want {
		t.Fatalf("%d rows, said to be %d, want %d", len(rows), plan.Rows(), want)
	}
	seen := map[MPPERow]bool{}
	for _, r := range rows {
		if r.NsPerPacket <= 0 || r.RatioGo <= 0 || r.NsGo <= 0 {
			t.Errorf("row %+v measured nothing", r)
		}
		if r.Ahead && (r.Sessions != "one" || r.Stateful) {
			t.Errorf("row %+v: keys ahead", r)
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
	table := MPPETable{W: &out}
	for _, r := range rows {
		table.Add(r)
	}
	table.End()
	text := out.String()
	// A table for each direction, mode, sessions and bits, each with heading, names, batch sizes × ways, and an empty line.
	if n, want := strings.Count(text, "\n"), 3*5*2*(3+2*len(multi.Ways())); n != want || !strings.Contains(text, "IMIX") {
		t.Errorf("%d lines of tables, want %d:\n%s", n, want, text)
	}
	for _, r := range rows {
		if cell := fmt.Sprintf(" %.0f (%.2f)", r.NsPerPacket, r.RatioGo); !strings.Contains(text, cell) {
			t.Errorf("no cell %q", cell)
		}
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
