//go:build amd64 && !noasm

package multi

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// BenchmarkKernels reports the cost of the kernels one by one: of a key, or of a keystream byte.
func BenchmarkKernels(b *testing.B) {
	c := New(AVX512)
	if c.Way() != AVX512 {
		c = New(AVX2)
	}
	r := rand.New(rand.NewPCG(1, 1))
	for l := range c.keys {
		copy(c.keys[l][:], randomBytes(r, 16))
	}
	for l := range c.lane.key {
		copy(c.lane.key[l][:], randomBytes(r, 16))
	}
	per := func(b *testing.B, n int) {
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/each")
	}
	for g := 2; g <= 8; g++ {
		if g > 6 && c.Way() != AVX512 {
			continue
		}
		b.Run(fmt.Sprintf("rowSchedule/lanes=%d", 8*g), func(b *testing.B) {
			for range b.N {
				c.rowSchedule(g)
			}
			per(b, 8*g)
		})
	}
	for g := 2; g <= 8; g++ {
		if g > 6 && c.Way() != AVX512 {
			continue
		}
		b.Run(fmt.Sprintf("rowStream/lanes=%d", 8*g), func(b *testing.B) {
			for range b.N {
				c.rowStream(g, 0, 64)
			}
			per(b, 8*g*64)
		})
	}
	for n := 1; n <= maxLanes; n++ {
		b.Run(fmt.Sprintf("laneSchedule/lanes=%d", n), func(b *testing.B) {
			for i := range b.N {
				c.lane.key[0][i&15]++ // the same key over and over would teach the branch predictor
				c.laneSchedule(n, &c.lane.s)
			}
			per(b, n)
		})
		for l := range n {
			c.data[l] = make([]byte, 1024)
		}
		b.Run(fmt.Sprintf("laneStream/lanes=%d", n), func(b *testing.B) {
			for range b.N {
				c.laneStream(n, 64)
			}
			per(b, n*1024)
		})
	}
	b.Run("hash", func(b *testing.B) {
		k := KeyState{Len: 16}
		for range b.N {
			c.hash(&c.msg[0], &k, &k.Session)
		}
		per(b, 1)
	})
	b.Run("hashWords/lanes=64", func(b *testing.B) {
		for range b.N {
			c.hashWords(64)
		}
		per(b, 64)
	})
}

// TestWithoutSHA runs the ways as on a machine that lacks the SHA extensions.
func TestWithoutSHA(t *testing.T) {
	defer func(had bool) { hasSHA = had }(hasSHA)
	hasSHA = false
	r := rand.New(rand.NewPCG(17, 17))
	for _, way := range Ways() {
		c := New(way)
		w := newWorld(r, 7, 0, kinds)
		for range 20 {
			units, packets := w.batch(r.IntN(20), func() int { return r.IntN(200) }, one)
			c.Crypt(units)
			w.check(t, units, packets)
		}
	}
}

// TestEveryGroupCount holds the row kernels of every size against the reference.
func TestEveryGroupCount(t *testing.T) {
	r := rand.New(rand.NewPCG(19, 19))
	for _, way := range Ways() {
		c := New(way)
		if c.rowMax == 0 {
			continue
		}
		c.rowMin = 6
		for n := 6; n <= c.rowMax+6; n++ {
			w := newWorld(r, n, 0, kinds)
			units, packets := w.batch(n, func() int { return 100 + r.IntN(3)*300 }, one)
			c.Crypt(units)
			w.check(t, units, packets)
		}
	}
}
