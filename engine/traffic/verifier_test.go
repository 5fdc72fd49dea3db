package traffic

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// naive is what a verifier counts, worked out from the whole list of arrivals.
func naive(arrivals []uint64, sent uint64) (c Counts) {
	seen := map[uint64]bool{}
	next := uint64(0)
	for _, s := range arrivals {
		switch {
		case s < next && next-s > Window:
			c.Old++
			continue
		case seen[s]:
			c.Duplicated++
			continue
		case s < next:
			c.Reordered++
		}
		seen[s] = true
		c.Received++
		next = max(next, s+1)
	}
	c.Missing = max(sent, next) - c.Received
	run := uint64(0)
	for s := range max(sent, next) + 1 {
		if s < max(sent, next) && !seen[s] {
			run++
			continue
		}
		if run > 0 {
			c.Gaps++
			c.LongestGap = max(c.LongestGap, run)
		}
		run = 0
	}
	return c
}

func verify(arrivals []uint64, sent uint64) (c Counts) {
	var v Verifier
	for _, s := range arrivals {
		v.Receive(s)
	}
	v.Finish(sent)
	v.Counts(&c)
	return c
}

// Over a link that loses, doubles, delays and cuts out for a while, the
// verifier says what the truth is.
func TestVerifierKnowsTheTruth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rnd := rapid.Uint64().Draw(t, "seed")
		chance := func(of uint64) bool {
			rnd ^= rnd << 13
			rnd ^= rnd >> 7
			rnd ^= rnd << 17
			return rnd%1000 < of
		}
		rnd |= 1
		lose := rapid.Uint64Range(0, 500).Draw(t, "lose")
		double := rapid.Uint64Range(0, 200).Draw(t, "double")
		delay := rapid.Uint64Range(0, 300).Draw(t, "delay")
		by := rapid.IntRange(1, 3*Window).Draw(t, "by")
		outage := rapid.IntRange(0, 20_000).Draw(t, "outage")
		sent := uint64(rapid.IntRange(1, 8000).Draw(t, "sent"))
		type event struct {
			at  int
			seq uint64
		}
		var es []event
		at := 0
		for s := uint64(0); s < sent; s++ {
			at++
			if s == sent/2 {
				s += uint64(outage)
				sent += uint64(outage)
			}
			for {
				e := event{at, s}
				if chance(delay) {
					e.at += by
				}
				if !chance(lose) {
					es = append(es, e)
				}
				if !chance(double) {
					break
				}
			}
		}
		slices.SortStableFunc(es, func(a, b event) int { return a.at - b.at })
		arrivals := make([]uint64, len(es))
		for i, e := range es {
			arrivals[i] = e.seq
		}
		if got, want := verify(arrivals, sent), naive(arrivals, sent); got != want {
			t.Fatalf("%+v\nwant %+v", got, want)
		}
	})
}

func TestVerifierJumps(t *testing.T) {
	for _, arrivals := range [][]uint64{
		nil,
		{0},
		{5},
		{Window},
		{0, Window, 0},
		{0, Window - 1, 0},
		{0, Window + 1, 1, 2},
		{63, 64, 65, 64 + Window},
		{10 * Window, 3},
		{1, 100_000, 100_001, 99_999, 99_999},
		{1, 99_937, 200_003},
	} {
		sent := uint64(200_100)
		if got, want := verify(arrivals, sent), naive(arrivals, sent); got != want {
			t.Errorf("%v: %+v\nwant %+v", arrivals, got, want)
		}
	}
	var v Verifier // a jump costs no time
	v.Receive(1)
	v.Receive(1 << 62)
	if v.Next() != 1<<62+1 {
		t.Errorf("next is %d", v.Next())
	}
}
