package traffic

import (
	"math"
	"math/bits"
)

const (
	slotShift = 12 // a slot is 4.1 µs
	slots     = 1 << 14
	noEntry   = -1
)

// Calendar holds entries, numbered from 0, by when they are due; to put one in
// and to take one out takes the same time however many there are. It looks
// 67 ms ahead; what is due later is looked at again then.
type Calendar struct {
	cursor int64 // number of the slot up to which everything was taken
	head   []int32
	tail   []int32
	used   [slots / 64]uint64 // slots with entries
	next   []int32            // per entry: the next one in its slot
	at     []uint16           // and the slot
	due    []int64
	n      int

	soonest int64 // what Next returns, if known
	known   bool
}

// NewCalendar returns an empty calendar that begins at now.
func NewCalendar(now int64) *Calendar {
	c := &Calendar{cursor: now >> slotShift, head: make([]int32, slots), tail: make([]int32, slots)}
	for i := range c.head {
		c.head[i] = noEntry
	}
	return c
}

// Grow makes room for entries 0 to n-1.
func (c *Calendar) Grow(n int) {
	for len(c.next) < n {
		c.next = append(c.next, noEntry)
		c.at = append(c.at, 0)
		c.due = append(c.due, 0)
	}
}

// Len returns the number of entries.
func (c *Calendar) Len() int { return c.n }

// Put adds entry i, which must not be in yet, due at due.
func (c *Calendar) Put(i int32, due int64) {
	c.n++
	c.due[i] = due
	c.place(i)
	if c.known && due < c.soonest {
		c.soonest = due
	}
}

func (c *Calendar) place(i int32) {
	at := c.due[i] >> slotShift
	at = min(max(at, c.cursor), c.cursor+slots-1)
	s := at % slots
	c.at[i] = uint16(s)
	c.next[i] = noEntry
	if c.head[s] == noEntry {
		c.head[s] = i
		c.used[s/64] |= 1 << (s % 64)
	} else {
		c.next[c.tail[s]] = i
	}
	c.tail[s] = i
}

// Remove takes out entry i, which must be in.
func (c *Calendar) Remove(i int32) {
	s := c.at[i]
	before := int32(noEntry)
	for j := c.head[s]; j != i; j = c.next[j] {
		before = j
	}
	c.unlink(int64(s), before, i)
	c.n--
	c.known = false
}

// Take removes an entry that is due at now, or earlier, and returns its
// number; -1 if there is none.
func (c *Calendar) Take(now int64) int32 {
	if c.n == 0 || c.known && now < c.soonest {
		return noEntry
	}
	c.known = false
	last := now >> slotShift
	for {
		s := c.cursor % slots
		before := int32(noEntry)
		for i := c.head[s]; i != noEntry; {
			next := c.next[i]
			if c.due[i] <= now {
				c.unlink(s, before, i)
				c.n--
				return i
			}
			if c.due[i]>>slotShift > c.cursor { // it waited here for its time to come nearer
				c.unlink(s, before, i)
				c.place(i)
			} else {
				before = i
			}
			i = next
		}
		if c.cursor >= last {
			return noEntry
		}
		c.cursor = min(c.nextUsed(), last)
	}
}

func (c *Calendar) unlink(s int64, before, i int32) {
	if before == noEntry {
		c.head[s] = c.next[i]
	} else {
		c.next[before] = c.next[i]
	}
	if c.tail[s] == i {
		c.tail[s] = before
	}
	if c.head[s] == noEntry {
		c.used[s/64] &^= 1 << (s % 64)
	}
}

// nextUsed returns the number of the first slot after the cursor's that has
// entries; the last possible if none has.
func (c *Calendar) nextUsed() int64 {
	first := c.cursor + 1
	s := first % slots
	w := s / 64
	word := c.used[w] &^ (1<<(s%64) - 1)
	for range slots/64 + 1 {
		if word != 0 {
			at := w*64 + int64(bits.TrailingZeros64(word))
			return first + (at-s+slots)%slots
		}
		w = (w + 1) % (slots / 64)
		word = c.used[w]
	}
	return c.cursor + slots
}

// Next returns a time before which nothing is due; math.MaxInt64 if there are
// no entries.
func (c *Calendar) Next() int64 {
	if c.n == 0 {
		return math.MaxInt64
	}
	if c.known {
		return c.soonest
	}
	at := c.cursor
	if c.head[at%slots] == noEntry {
		at = c.nextUsed()
	}
	t := int64(math.MaxInt64)
	for i := c.head[at%slots]; i != noEntry; i = c.next[i] {
		t = min(t, c.due[i])
	}
	c.soonest, c.known = min(t, (at+1)<<slotShift), true
	return c.soonest
}
