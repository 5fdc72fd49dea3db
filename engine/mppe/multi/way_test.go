package multi

import (
	"slices"
	"testing"
)

func TestWays(t *testing.T) {
	ways := Ways()
	if ways[0] != Portable || !slices.Contains(ways, Best()) {
		t.Fatalf("ways %v, best %v", ways, Best())
	}
	for _, w := range ways {
		got, err := ParseWay(w.String())
		if err != nil || got != w || New(w).Way() != w {
			t.Errorf("way %v: parsed as %v, %v", w, got, err)
		}
	}
	for _, name := range []string{"", "unknown", "AVX2"} {
		if w, err := ParseWay(name); err == nil {
			t.Errorf("way %q: parsed as %v", name, w)
		}
	}
	if w := New(numWays).Way(); w != Portable {
		t.Errorf("unknown way became %v", w)
	}
}

// TestBatchSize holds the borders between lanes and rows.
func TestBatchSize(t *testing.T) {
	c := newCipher(Portable)
	c.tune = tune{rowMin: 16, rowMax: 64, laneMax: 5}
	for n, want := range map[int]int{1: 1, 5: 5, 6: 5, 15: 5, 16: 16, 17: 16, 18: 16, 19: 19, 63: 63, 64: 64, 65: 64, 300: 64} {
		if got := c.batchSize(n); got != want {
			t.Errorf("of %d streams %d are taken, want %d", n, got, want)
		}
	}
}
