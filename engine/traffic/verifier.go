package traffic

// windowWords is the size of a verifier's memory, in words of 64 numbers.
const windowWords = 16

// Window is how far behind the highest number a packet may come and still be
// told from a duplicate.
const Window = 64 * windowWords

// Counts is what became of a stream's packets.
type Counts struct {
	Sent       uint64 // by whoever sends the stream
	Received   uint64 // whole, each once
	Duplicated uint64 // whole, once more
	Reordered  uint64 // received behind a higher number (RFC 4737 §3.3)
	Corrupted  uint64 // received with other bits than they were sent with
	Old        uint64 // too far behind to say whether they are duplicates; not in Received
	Missing    uint64 // numbers below the highest that are not in Received
	Gaps       uint64 // runs of missing numbers, as far as settled (RFC 3357: loss periods)
	LongestGap uint64 // the longest of these
	TxBytes    uint64 // IP packets sent
	RxBytes    uint64 // IP packets received, in any state
}

// Add adds o to c.
func (c *Counts) Add(o *Counts) {
	c.Sent += o.Sent
	c.Received += o.Received
	c.Duplicated += o.Duplicated
	c.Reordered += o.Reordered
	c.Corrupted += o.Corrupted
	c.Old += o.Old
	c.Missing += o.Missing
	c.Gaps += o.Gaps
	c.LongestGap = max(c.LongestGap, o.LongestGap)
	c.TxBytes += o.TxBytes
	c.RxBytes += o.RxBytes
}

// Lost returns how many packets have not come, when no more are expected:
// corrupted ones are among them.
func (c *Counts) Lost() uint64 { return c.Sent - min(c.Sent, c.Received) }

// Arrival says what a sequence number is to a verifier.
type Arrival uint8

// The kinds of arrival.
const (
	InOrder   Arrival = iota
	Late              // behind a higher one: reordered
	Duplicate         // has been here
	Old               // out of the verifier's memory
)

// Verifier keeps account of the sequence numbers of a stream that come in. It
// remembers the Window below the highest. The zero value is ready to use.
type Verifier struct {
	next uint64 // highest number that came, plus one
	seen [windowWords]uint64

	received, duplicated, reordered, old uint64
	gaps, longest, run                   uint64
}

// Receive takes note of a number.
func (v *Verifier) Receive(seq uint64) Arrival {
	if seq >= v.next {
		v.advance(seq + 1)
		v.mark(seq)
		v.received++
		return InOrder
	}
	if v.next-seq > Window {
		v.old++
		return Old
	}
	if v.has(seq) {
		v.duplicated++
		return Duplicate
	}
	v.mark(seq)
	v.received++
	v.reordered++
	return Late
}

func (v *Verifier) mark(seq uint64)     { v.seen[seq/64%windowWords] |= 1 << (seq % 64) }
func (v *Verifier) has(seq uint64) bool { return v.seen[seq/64%windowWords]>>(seq%64)&1 != 0 }

// advance moves the window up so that it ends at next; what leaves it is settled.
func (v *Verifier) advance(next uint64) {
	for v.next < next {
		// The place of number v.next is that of v.next − Window, which leaves.
		if v.next%64 == 0 && next-v.next >= 64 {
			if next-v.next > 2*Window && v.next >= Window && v.empty() {
				// A long run: nothing in the window, nothing new in it either.
				skip := (next - v.next - Window) / 64 * 64
				v.run += skip
				v.next += skip
				continue
			}
			v.settleWord(v.seen[v.next/64%windowWords], v.next >= Window)
			v.seen[v.next/64%windowWords] = 0
			v.next += 64
			continue
		}
		if v.next >= Window {
			v.settle(v.has(v.next))
		}
		v.seen[v.next/64%windowWords] &^= 1 << (v.next % 64)
		v.next++
	}
}

func (v *Verifier) empty() bool {
	for _, w := range v.seen {
		if w != 0 {
			return false
		}
	}
	return true
}

func (v *Verifier) settleWord(w uint64, real bool) {
	if !real {
		return
	}
	switch w {
	case 0:
		v.run += 64
	case ^uint64(0):
		v.endRun()
	default:
		for i := range 64 {
			v.settle(w>>i&1 != 0)
		}
	}
}

// settle takes note of what became of the number that leaves the window.
func (v *Verifier) settle(came bool) {
	if came {
		v.endRun()
	} else {
		v.run++
	}
}

func (v *Verifier) endRun() {
	if v.run > 0 {
		v.gaps++
		v.longest = max(v.longest, v.run)
		v.run = 0
	}
}

// Next returns the highest number that came, plus one.
func (v *Verifier) Next() uint64 { return v.next }

// Gaps returns how many runs of missing numbers have left the window.
func (v *Verifier) Gaps() uint64 { return v.gaps }

// LongestGap returns the longest of these.
func (v *Verifier) LongestGap() uint64 { return v.longest }

// Counts adds what was counted to c: everything but Sent, Corrupted and the bytes.
func (v *Verifier) Counts(c *Counts) {
	c.Received += v.received
	c.Duplicated += v.duplicated
	c.Reordered += v.reordered
	c.Old += v.old
	c.Missing += v.next - v.received
	c.Gaps += v.gaps
	c.LongestGap = max(c.LongestGap, v.longest)
}

// Finish settles the whole window, and what was sent beyond the highest number
// that came: the gaps are complete then, and nothing more may be received.
func (v *Verifier) Finish(sent uint64) {
	for s := v.next - min(v.next, Window); s < v.next; s++ {
		v.settle(v.has(s))
	}
	if sent > v.next {
		v.run += sent - v.next
		v.next = sent
	}
	v.endRun()
	v.seen = [windowWords]uint64{}
}
