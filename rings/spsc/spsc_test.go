package spsc

import (
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"unsafe"

	"pgregory.net/rapid"
)

// Against a slice: whatever is pushed and popped, in whatever portions.
func TestLikeASlice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := New[int](rapid.IntRange(1, 20).Draw(t, "size"))
		var want []int
		next := 0
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				vs := make([]int, rapid.IntRange(0, 25).Draw(t, "push"))
				for i := range vs {
					vs[i] = next + i
				}
				n := r.Push(vs)
				if n != min(len(vs), r.Cap()-len(want)) {
					t.Fatalf("%d of %d taken with %d of %d there", n, len(vs), len(want), r.Cap())
				}
				want = append(want, vs[:n]...)
				next += n
			},
			"pop": func(t *rapid.T) {
				vs := make([]int, rapid.IntRange(0, 25).Draw(t, "pop"))
				n := r.Pop(vs)
				// The consumer may not have seen the newest yet, but then it has
				// seen some, and the next call gives the rest.
				if n > len(want) || n == 0 && len(vs) > 0 && len(want) > 0 {
					t.Fatalf("%d popped into %d with %d there", n, len(vs), len(want))
				}
				for i, v := range vs[:n] {
					if v != want[i] {
						t.Fatalf("value %d is %d, want %d", i, v, want[i])
					}
				}
				want = want[n:]
			},
			"": func(t *rapid.T) {
				if r.Len() != len(want) {
					t.Fatalf("Len %d, want %d", r.Len(), len(want))
				}
			},
		})
	})
}

func TestSize(t *testing.T) {
	for n, want := range map[int]int{1: 1, 2: 2, 3: 4, 64: 64, 65: 128} {
		if c := New[byte](n).Cap(); c != want {
			t.Errorf("New(%d) holds %d, want %d", n, c, want)
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("a ring of no values was made")
		}
	}()
	New[byte](0)
}

// What the two sides write is never on one cache line.
func TestApart(t *testing.T) {
	var r Ring[int]
	p, c := unsafe.Offsetof(r.producer), unsafe.Offsetof(r.consumer)
	if p < line || c-p-unsafe.Sizeof(r.producer) < line || unsafe.Sizeof(r)-c-unsafe.Sizeof(r.consumer) < line {
		t.Errorf("producer at %d, consumer at %d of %d", p, c, unsafe.Sizeof(r))
	}
}

// Two goroutines: everything arrives once, in order, with what was written
// before it (the race detector watches).
func TestTwoSides(t *testing.T) {
	type value struct{ n, twice int }
	total := 1_000_000
	if testing.Short() {
		total = 50_000
	}
	for _, size := range []int{1, 8, 1024} {
		r := New[*value](size)
		var wg sync.WaitGroup
		wg.Add(1)
		go func() {
			defer wg.Done()
			rnd := rand.New(rand.NewPCG(1, 2))
			var vs []*value
			for n := 0; n < total; {
				for range 1 + rnd.IntN(64) {
					if n < total {
						vs = append(vs, &value{n, 2 * n})
						n++
					}
				}
				for len(vs) > 0 {
					k := r.Push(vs)
					if vs = vs[k:]; k == 0 {
						runtime.Gosched()
					}
				}
			}
		}()
		var vs [64]*value
		for next := 0; next < total; {
			n := r.Pop(vs[:])
			if n == 0 {
				runtime.Gosched()
			}
			for _, v := range vs[:n] {
				if v.n != next || v.twice != 2*next {
					t.Fatalf("ring of %d: got %+v, want %d", size, *v, next)
				}
				next++
			}
		}
		wg.Wait()
		if r.Len() != 0 {
			t.Errorf("ring of %d: %d left", size, r.Len())
		}
	}
}

func TestNoAllocation(t *testing.T) {
	r := New[*int](64)
	vs := make([]*int, 32)
	if n := testing.AllocsPerRun(100, func() { r.Push(vs); r.Pop(vs) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// ns a value from one core to another, at several batch sizes.
func BenchmarkHandOver(b *testing.B) {
	for _, batch := range []int{1, 8, 32, 64} {
		b.Run(strconv.Itoa(batch), func(b *testing.B) {
			r := New[*int](1024)
			done := make(chan struct{})
			go func() {
				defer close(done)
				vs := make([]*int, batch)
				for n := 0; n < b.N; {
					k := r.Push(vs[:min(batch, b.N-n)])
					n += k
					if k == 0 {
						runtime.Gosched()
					}
				}
			}()
			vs := make([]*int, batch)
			for n := 0; n < b.N; {
				k := r.Pop(vs)
				n += k
				if k == 0 {
					runtime.Gosched()
				}
			}
			<-done
		})
	}
}
