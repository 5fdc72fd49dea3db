package workers

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// The wheel against the obvious model: a map of armed times.
func TestWheelModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const tick = 10
		now := int64(rapid.IntRange(0, 1000).Draw(t, "start"))
		w := NewWheel(tick, 16, now)
		timers := make([]Timer, 8)
		model := map[int]int64{}
		for i := range timers {
			timers[i].Owner = i
		}
		for range 100 {
			i := rapid.IntRange(0, len(timers)-1).Draw(t, "timer")
			switch rapid.IntRange(0, 3).Draw(t, "op") {
			case 0, 1:
				at := now + int64(rapid.IntRange(-20, 700).Draw(t, "in"))
				w.Set(&timers[i], at)
				model[i] = at
			case 2:
				w.Stop(&timers[i])
				delete(model, i)
			case 3:
				now += int64(rapid.IntRange(0, 400).Draw(t, "pass"))
				fired := map[int]bool{}
				w.Advance(now, func(tm *Timer) {
					if fired[tm.Owner.(int)] {
						t.Fatalf("timer %v fired twice", tm.Owner)
					}
					fired[tm.Owner.(int)] = true
				})
				for j, at := range model {
					if (at <= now) != fired[j] {
						t.Fatalf("at %d: timer %d set for %d, fired %v", now, j, at, fired[j])
					}
					if fired[j] {
						delete(model, j)
					}
				}
			}
			if w.Len() != len(model) {
				t.Fatalf("%d armed, want %d", w.Len(), len(model))
			}
			first := int64(math.MaxInt64)
			for _, at := range model {
				first = min(first, at)
			}
			if next := w.Next(); next > first {
				t.Fatalf("Next %d is after the first timer %d", next, first)
			}
		}
	})
}

// A firing timer may set itself again, and stop one that is due with it.
func TestWheelReentry(t *testing.T) {
	w := NewWheel(10, 16, 0)
	var a, b Timer
	w.Set(&a, 50)
	w.Set(&b, 50)
	var fired []*Timer
	w.Advance(60, func(t *Timer) {
		fired = append(fired, t)
		if t == &a {
			w.Stop(&b)
			w.Set(&a, 100)
		}
	})
	if len(fired) != 1 || fired[0] != &a || !a.Armed() || b.Armed() || w.Len() != 1 {
		t.Fatalf("fired %d, a armed %v, b armed %v, %d in the wheel", len(fired), a.Armed(), b.Armed(), w.Len())
	}
}
