package workers

import "math"

// Timer is an entry of a Wheel. The zero value is stopped. Embed it in what
// it belongs to; Owner says what that is when it fires.
type Timer struct {
	next, prev *Timer
	at         int64
	Owner      any
}

// Armed reports whether the timer is set, At when it fires.
func (t *Timer) Armed() bool { return t.next != nil }

// At returns when an armed timer fires.
func (t *Timer) At() int64 { return t.at }

// Wheel is a hashed timer wheel: set and stop are O(1), and an advance looks
// only at the slots that time has passed over. Times are nanoseconds of a
// monotonic clock. One goroutine owns a wheel.
type Wheel struct {
	tick  int64
	mask  int64
	slots []Timer // list heads
	last  int64   // slot number up to which (inclusive) everything due has fired
	soon  int64   // no timer in slot last fires before
	n     int
	due   Timer // list head: taken out of a slot, not fired yet
}

// NewWheel returns a wheel of slots (a power of two) ticks of the given length.
func NewWheel(tick int64, slots int, now int64) *Wheel {
	w := &Wheel{tick: tick, mask: int64(slots - 1), slots: make([]Timer, slots), last: now / tick, soon: math.MaxInt64}
	for i := range w.slots {
		s := &w.slots[i]
		s.next, s.prev = s, s
	}
	w.due.next, w.due.prev = &w.due, &w.due
	return w
}

// Len returns the number of armed timers.
func (w *Wheel) Len() int { return w.n }

// Set arms t to fire at the first Advance at or after at; it may be armed already.
func (w *Wheel) Set(t *Timer, at int64) {
	if t.next != nil {
		if t.at == at {
			return
		}
		w.Stop(t)
	}
	t.at = at
	slot := max(at/w.tick, w.last)
	if slot == w.last {
		w.soon = min(w.soon, at)
	}
	h := &w.slots[slot&w.mask]
	t.prev, t.next = h.prev, h
	h.prev.next = t
	h.prev = t
	w.n++
}

// Stop disarms t.
func (w *Wheel) Stop(t *Timer) {
	if t.next == nil {
		return
	}
	t.prev.next, t.next.prev = t.next, t.prev
	t.next, t.prev = nil, nil
	w.n--
}

// Advance fires every timer due at now: it is disarmed, then f gets it. f may
// set and stop timers, this one too.
func (w *Wheel) Advance(now int64, f func(*Timer)) {
	end := now / w.tick
	if end < w.last || end == w.last && now < w.soon {
		return
	}
	w.soon = math.MaxInt64
	if w.n > 0 {
		from := w.last
		if end-from > w.mask {
			from = end - w.mask
		}
		for s := from; s <= end; s++ {
			h := &w.slots[s&w.mask]
			for t := h.next; t != h; {
				next := t.next
				if t.at <= now {
					// To the due list: f may stop any timer, the next one too.
					t.prev.next, t.next.prev = t.next, t.prev
					t.prev, t.next = w.due.prev, &w.due
					w.due.prev.next = t
					w.due.prev = t
				} else if s == end {
					w.soon = min(w.soon, t.at)
				}
				t = next
			}
		}
	}
	if end > w.last {
		w.last = end
	}
	for w.due.next != &w.due {
		t := w.due.next
		w.Stop(t)
		f(t)
	}
}

// Next returns a time not later than the first timer's, for sleeping: an
// early wake-up does no harm. math.MaxInt64 if nothing is armed.
func (w *Wheel) Next() int64 {
	if w.n == 0 {
		return math.MaxInt64
	}
	for s := w.last; s <= w.last+w.mask; s++ {
		h := &w.slots[s&w.mask]
		first := int64(math.MaxInt64)
		for t := h.next; t != h; t = t.next {
			if t.at/w.tick <= s {
				first = min(first, t.at)
			}
		}
		if first != math.MaxInt64 {
			return first
		}
	}
	return (w.last + w.mask) * w.tick
}
