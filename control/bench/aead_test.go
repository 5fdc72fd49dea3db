package bench

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"xpptp/engine/aead"
	"xpptp/engine/mppe/multi"
)

func TestAEAD(t *testing.T) {
	plan := AEADPlan{Sizes: []int{64, 0}, Batch: 10, Way: multi.Portable, Time: time.Nanosecond}
	var rows []AEADRow
	if err := AEAD(plan, func(r AEADRow) { rows = append(rows, r) }); err != nil {
		t.Fatal(err)
	}
	if want := 2 * 2 * (1 + len(aead.Suites())); len(rows) != want || plan.Rows() != want {
		t.Fatalf("%d rows, said to be %d, want %d", len(rows), plan.Rows(), want)
	}
	seen := map[string]bool{}
	for _, r := range rows {
		mean := 64.0
		if r.Size == 0 {
			mean = (7*64 + 4*576 + 1400) / 12.0
		}
		if r.NsPerPacket <= 0 || r.RatioMPPE <= 0 || r.Way != "go" || r.Batch != 10 {
			t.Errorf("row %+v", r)
		}
		if bits := r.BPS * r.NsPerPacket / 1e9; bits < 8*mean-0.01 || bits > 8*mean+0.01 {
			t.Errorf("row %+v: %.3f bits a packet, want %.3f", r, bits, 8*mean)
		}
		if r.Cipher == MPPE128 && r.RatioMPPE != 1 {
			t.Errorf("row %+v: MPPE is not as fast as itself", r)
		}
		key := fmt.Sprint(r.Size, r.Cipher, r.Direction)
		if seen[key] {
			t.Errorf("row %s twice", key)
		}
		seen[key] = true
	}
	var out strings.Builder
	if err := WriteAEAD(&out, rows); err != nil {
		t.Fatal(err)
	}
	// A table for each direction with heading, names, ciphers and an empty line.
	if n, want := strings.Count(out.String(), "\n"), 2*(3+1+len(aead.Suites())); n != want {
		t.Errorf("%d lines of tables, want %d:\n%s", n, want, out.String())
	}
	for _, r := range rows {
		if cell := fmt.Sprintf(" %.0f  %.2f  (%.2f)", r.NsPerPacket, r.BPS/1e9, r.RatioMPPE); !strings.Contains(strings.Join(strings.Fields(out.String()), "  "), strings.TrimSpace(cell)) {
			t.Errorf("no cell %q in\n%s", cell, out.String())
		}
	}
}

func TestAEADRefusesPlan(t *testing.T) {
	for want, plan := range map[string]AEADPlan{
		"batch 257":          {Batch: 257},
		"batch -1":           {Batch: -1},
		"size 21":            {Sizes: []int{21}},
		`direction "kernel"`: {Directions: []string{Kernel}},
	} {
		plan.Time = time.Nanosecond
		if err := AEAD(plan, func(AEADRow) {}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
}
