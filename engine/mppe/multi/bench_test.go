package multi

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// BenchmarkCrypt is ns per packet of every way.
func BenchmarkCrypt(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	for _, way := range Ways() {
		for _, sessions := range []string{"many", "one"} {
			for _, stateful := range []bool{false, true} {
				for _, size := range []int{64, 1400} {
					for _, n := range []int{1, 128} {
						b.Run(fmt.Sprintf("%v/%s/stateful=%v/size=%d/batch=%d", way, sessions, stateful, size, n), func(b *testing.B) {
							c := New(way)
							count := n
							if sessions == "one" {
								count = 1
							}
							w := newWorld(r, count, count, kinds[:1])
							units := make([]Unit, n)
							for i := range units {
								units[i] = Unit{Steps: 1, Data: make([]byte, size, 2048)}
								if stateful {
									units[i].Stream = w.streams[i%count]
								} else {
									units[i].Key = w.keys[i%count]
								}
							}
							b.SetBytes(int64(size * n))
							b.ReportAllocs()
							b.ResetTimer()
							for range b.N {
								c.Crypt(units)
							}
							b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/packet")
						})
					}
				}
			}
		}
	}
}
