package bench

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"xpptp/engine/mppe/multi"
)

func TestMPPC(t *testing.T) {
	plan := MPPCPlan{Sizes: []int{64, 0, 1400}, Way: multi.Portable, Time: time.Nanosecond}
	var rows []MPPCRow
	if err := MPPC(plan, func(r MPPCRow) { rows = append(rows, r) }); err != nil {
		t.Fatal(err)
	}
	if want := 2 * 3 * len(Corpora()); len(rows) != want || plan.Rows() != want {
		t.Fatalf("%d rows, said to be %d, want %d", len(rows), plan.Rows(), want)
	}
	ratios := map[string]float64{}
	for _, r := range rows {
		if r.NsPerPacket <= 0 || r.NsMPPE <= 0 || r.NsCopy <= 0 || r.Way != "go" {
			t.Errorf("row %+v", r)
		}
		mean := float64(r.Size)
		if r.Size == 0 {
			// Of 256 packets: 21 times the mix, and its first four.
			mean = (21*(7*64+4*576+1400) + 3*64 + 576) / 256.0
		}
		if size := r.MBPS * r.NsPerPacket / 1e3; size < mean-0.01 || size > mean+0.01 {
			t.Errorf("row %+v: %.2f bytes a packet, want %.2f", r, size, mean)
		}
		if r.Size == 1400 {
			if last, ok := ratios[r.Corpus]; ok && last != r.Ratio {
				t.Errorf("%s: ratio %v, and in the other direction %v", r.Corpus, r.Ratio, last)
			}
			ratios[r.Corpus] = r.Ratio
		}
	}
	if ratios["random"] != 1 || ratios["mixed"] < 1.2 || ratios["text"] < ratios["mixed"] || ratios["zeros"] < 50 {
		t.Errorf("ratios %v", ratios)
	}
	var out strings.Builder
	if err := WriteMPPC(&out, rows); err != nil {
		t.Fatal(err)
	}
	// A table for each direction with heading, names, lines and an empty line.
	if n, want := strings.Count(out.String(), "\n"), 2*3+len(rows); n != want {
		t.Errorf("%d lines of tables, want %d:\n%s", n, want, out.String())
	}
	flat := strings.Join(strings.Fields(out.String()), " ")
	for _, r := range rows {
		if line := fmt.Sprintf(" %s %.2f %.0f %.0f %.0f %.0f ", r.Corpus, r.Ratio, r.NsPerPacket, r.MBPS, r.NsMPPE, r.NsCopy); !strings.Contains(flat+" ", line) {
			t.Errorf("no line %q in\n%s", line, out.String())
		}
	}
}

func TestMPPCRefusesPlan(t *testing.T) {
	for want, plan := range map[string]MPPCPlan{
		`corpus "pictures"`: {Corpora: []string{"pictures"}},
		"size 21":           {Sizes: []int{21}},
		`direction "send"`:  {Directions: []string{Send}},
	} {
		plan.Time = time.Nanosecond
		if err := MPPC(plan, func(MPPCRow) {}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
}
