package sock

import (
	"runtime"
	"sync/atomic"
	"testing"
)

// Clocks read one after the other never go back, whichever made them first and
// whatever else the machine does.
func TestMonotonicAgrees(t *testing.T) {
	var stop atomic.Bool
	defer stop.Store(true)
	for range 4 * runtime.NumCPU() { // so that threads are interrupted
		go func() {
			for !stop.Load() {
				runtime.Gosched()
			}
		}()
	}
	const slack = 20_000 // ns: an offset is known to half of what its reading took
	clocks := make([]func() int64, 50)
	for i := range clocks {
		clocks[i] = Monotonic()
	}
	last := int64(0)
	for round := range 20 {
		for i, clock := range clocks {
			now := clock()
			if now < last-slack {
				t.Fatalf("round %d: clock %d is %d ns behind the one before", round, i, last-now)
			}
			last = now
		}
	}
}
