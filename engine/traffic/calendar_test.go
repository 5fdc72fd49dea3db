package traffic

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// Against a plain list: everything comes out once it is due, never before, and
// Next is never too late.
func TestCalendar(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := rapid.Int64Range(0, 1<<50).Draw(t, "begin")
		c := NewCalendar(now)
		const entries = 20
		c.Grow(entries)
		due := map[int32]int64{}
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0, 1:
				i := rapid.Int32Range(0, entries-1).Draw(t, "entry")
				if _, in := due[i]; in {
					continue
				}
				// From the past to far beyond the horizon, and ends of slots.
				at := now + rapid.SampledFrom([]int64{-1e9, -1, 0, 1, 4095, 4096, 5000, 1e6, 67_000_000, 67_108_864, 1e9, 1e10}).Draw(t, "due") +
					rapid.Int64Range(0, 10_000).Draw(t, "and")
				due[i] = at
				c.Put(i, at)
			case 2:
				i := rapid.Int32Range(0, entries-1).Draw(t, "entry")
				if _, in := due[i]; in {
					c.Remove(i)
					delete(due, i)
				}
			default:
				now += rapid.SampledFrom([]int64{0, 1, 1000, 4096, 100_000, 10e6, 67_108_864, 200e6, 2e10}).Draw(t, "time")
			}
			soonest := int64(math.MaxInt64)
			for _, at := range due {
				soonest = min(soonest, at)
			}
			if next := c.Next(); next > soonest || (len(due) == 0) != (next == math.MaxInt64) {
				t.Fatalf("at %d next is %d, want not after %d", now, next, soonest)
			}
			for i := c.Take(now); i >= 0; i = c.Take(now) {
				at, in := due[i]
				if !in || at > now {
					t.Fatalf("at %d came entry %d, due at %d (%v)", now, i, at, in)
				}
				delete(due, i)
			}
			for i, at := range due {
				if at <= now {
					t.Fatalf("at %d entry %d did not come, due at %d", now, i, at)
				}
			}
			if c.Len() != len(due) {
				t.Fatalf("%d entries, want %d", c.Len(), len(due))
			}
		}
	})
}

// Entries behind their time take turns.
func TestCalendarIsFair(t *testing.T) {
	c := NewCalendar(0)
	c.Grow(3)
	for i := range int32(3) {
		c.Put(i, 0)
	}
	var count [3]int
	for range 300 {
		i := c.Take(1e9)
		count[i]++
		c.Put(i, int64(count[i]))
	}
	if count != [3]int{100, 100, 100} {
		t.Errorf("turns: %v", count)
	}
}
