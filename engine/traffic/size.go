package traffic

import (
	"fmt"
	"math/rand/v2"
	"slices"
)

// Sizes says how long packets are, in bytes of the IP packet. The zero value
// is not valid: use Fixed, IMIX, Mix or a range.
type Sizes struct {
	// Mix is a list of sizes with weights; it goes first.
	Mix []Weighted
	// Min and Max bound sizes drawn evenly, if there is no Mix.
	Min, Max int
}

// Weighted is a size and how many of the packets have it, relatively.
type Weighted struct{ Size, Weight int }

// Fixed is one size.
func Fixed(n int) Sizes { return Sizes{Min: n, Max: n} }

// IMIX is 64, 576 and 1400 bytes at 7:4:1, as bench measures.
func IMIX() Sizes { return Sizes{Mix: []Weighted{{64, 7}, {576, 4}, {1400, 1}}} }

// The bounds of packets: those that MinSize and MaxSize return, of weights,
// and of the table that Sizes becomes.
const (
	MaxSize    = 3700 // largest IP packet of a call
	maxWeight  = 1000
	maxMix     = 16
	drawnSizes = 4096
)

// MinSize is the smallest IP packet that has room for a stamp.
func MinSize(v6 bool) int {
	if v6 {
		return headersV6 + StampLen
	}
	return headersV4 + StampLen
}

// Check returns an error that names the first value out of range.
func (s *Sizes) Check() error {
	size := func(what string, n int) error {
		if n < MinSize(false) || n > MaxSize {
			return fmt.Errorf("%s %d: want %d to %d", what, n, MinSize(false), MaxSize)
		}
		return nil
	}
	if len(s.Mix) > maxMix {
		return fmt.Errorf("%d sizes: at most %d", len(s.Mix), maxMix)
	}
	for _, w := range s.Mix {
		if err := size("size", w.Size); err != nil {
			return err
		}
		if w.Weight < 1 || w.Weight > maxWeight {
			return fmt.Errorf("weight %d of size %d: want 1 to %d", w.Weight, w.Size, maxWeight)
		}
	}
	if len(s.Mix) > 0 {
		return nil
	}
	if err := size("smallest size", s.Min); err != nil {
		return err
	}
	if err := size("largest size", s.Max); err != nil {
		return err
	}
	if s.Min > s.Max {
		return fmt.Errorf("smallest size %d is above the largest, %d", s.Min, s.Max)
	}
	return nil
}

// Cut returns s with what is above limit cut to it; 0 is no limit.
func (s Sizes) Cut(limit int) Sizes {
	if limit <= 0 {
		return s
	}
	s.Min, s.Max = min(s.Min, limit), min(s.Max, limit)
	s.Mix = slices.Clone(s.Mix)
	for i := range s.Mix {
		s.Mix[i].Size = min(s.Mix[i].Size, limit)
	}
	return s
}

// SizeTable is the sequence of sizes of a stream, which repeats. It may be
// shared: it does not change.
type SizeTable []uint16

// Table makes the sequence. Sizes that are too small for the address family
// become the smallest possible. A mix is spread as evenly as its weights allow;
// a range is drawn from seed.
func (s *Sizes) Table(v6 bool, seed uint64) SizeTable {
	fit := func(n int) uint16 { return uint16(max(n, MinSize(v6))) }
	if len(s.Mix) == 0 {
		if s.Min == s.Max {
			return SizeTable{fit(s.Min)}
		}
		rnd := rand.New(rand.NewPCG(seed, 1))
		t := make(SizeTable, drawnSizes)
		for i := range t {
			t[i] = fit(s.Min + rnd.IntN(s.Max-s.Min+1))
		}
		return t
	}
	// Smooth weighted round robin: the one that is furthest behind its share.
	total := 0
	for _, w := range s.Mix {
		total += w.Weight
	}
	credit := make([]int, len(s.Mix))
	t := make(SizeTable, 0, total)
	for range total {
		best := 0
		for i, w := range s.Mix {
			credit[i] += w.Weight
			if credit[i] > credit[best] {
				best = i
			}
		}
		credit[best] -= total
		t = append(t, fit(s.Mix[best].Size))
	}
	return t
}

// At returns the size of packet seq of a stream that begins at offset.
func (t SizeTable) At(seq uint64, offset uint32) int {
	if len(t) == 1 {
		return int(t[0])
	}
	return int(t[(seq+uint64(offset))%uint64(len(t))])
}

// Mean returns the mean size.
func (t SizeTable) Mean() float64 {
	sum := 0
	for _, n := range t {
		sum += int(n)
	}
	return float64(sum) / float64(len(t))
}
