package mppe

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"xpptp/engine"
	"xpptp/engine/mppe/multi"
)

// aheadAll computes all keys that are owed and returns how many there were.
func aheadAll(e *Engine) int {
	n := 0
	for {
		got := e.Ahead(7)
		if n += got; got == 0 {
			return n
		}
	}
}

// Keys computed ahead change nothing: two engines get the same packets, in and
// out, loss, reordering and forgeries among them; one is idle between the
// batches, for a while or for long, and some calls get new keys.
func TestAheadChangesNothing(t *testing.T) {
	const sessions = 6
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 5))
		way := multi.Ways()[r.IntN(len(multi.Ways()))]
		plainEngine, e := New(way), New(way)
		// Fewer places than directions in half of the runs.
		e.Reserve(1+r.IntN(3*sessions), 1+r.IntN(40))
		var tx, tx2 [sessions]Tx
		var rx, rx2 [sessions]Rx
		start := func(i int) {
			p := Params{Bits: []int{40, 56, 128}[r.IntN(3)], Stateful: i == 0}
			p.Start, _ = testKeys(r)
			e.ForgetTx(&tx[i])
			e.ForgetRx(&rx[i])
			for _, err := range []error{tx[i].Init(&p), tx2[i].Init(&p), rx[i].Init(&p), rx2[i].Init(&p)} {
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		for i := range sessions {
			start(i)
		}
		now := int64(second)
		passed := 0
		for range 60 {
			if r.IntN(10) == 0 {
				start(r.IntN(sessions))
			}
			n := 1 + r.IntN(90)
			a, b := make([]TxJob, n), make([]TxJob, n)
			for i := range a {
				k := r.IntN(sessions)
				if r.IntN(3) == 0 {
					k = 1 // a busy one
				}
				p := append(make([]byte, HeaderLen, 256), plain(r, uint32(i), r.IntN(80))...)
				a[i], b[i] = TxJob{&tx[k], p}, TxJob{&tx2[k], append(make([]byte, 0, 256), p...)}
			}
			e.Seal(a)
			plainEngine.Seal(b)
			var in, in2 []RxJob
			for i := range a {
				if !bytes.Equal(a[i].Data, b[i].Data) {
					t.Fatalf("seed %d: sealed %x, without keys ahead %x", seed, a[i].Data, b[i].Data)
				}
				if r.IntN(20) == 0 {
					continue // lost
				}
				for k := range tx {
					if a[i].Tx == &tx[k] {
						in, in2 = append(in, RxJob{Rx: &rx[k], Data: a[i].Data}), append(in2, RxJob{Rx: &rx2[k], Data: b[i].Data})
					}
				}
				last := len(in) - 1
				if r.IntN(15) == 0 { // forged: in its turn, and senseless
					at := HeaderLen + r.IntN(8)
					in[last].Data[at] ^= 0x55
					in2[last].Data[at] ^= 0x55
				}
				if last > 0 && r.IntN(10) == 0 {
					in[last], in[last-1] = in[last-1], in[last]
					in2[last], in2[last-1] = in2[last-1], in2[last]
				}
			}
			now += second / 4
			e.Open(now, in)
			plainEngine.Open(now, in2)
			for i := range in {
				if in[i].Drop != in2[i].Drop || in[i].Reset != in2[i].Reset {
					t.Fatalf("seed %d: packet %d: %v, without keys ahead %v", seed, i, in[i].Drop, in2[i].Drop)
				}
				if in[i].Drop == engine.Pass {
					passed++
					if !bytes.Equal(in[i].Data, in2[i].Data) {
						t.Fatalf("seed %d: packet %d opened differently", seed, i)
					}
				}
			}
			for i := range rx {
				if rx[i].count != rx2[i].count || rx[i].key.Session != rx2[i].key.Session || rx[i].misses != rx2[i].misses || rx[i].tokens != rx2[i].tokens {
					t.Fatalf("seed %d: session %d stands elsewhere than without keys ahead", seed, i)
				}
			}
			if r.IntN(3) > 0 {
				e.Ahead(r.IntN(200))
			}
		}
		if passed < 500 {
			t.Errorf("seed %d: only %d packets opened", seed, passed)
		}
	}
}

// A direction is owed a key for each packet it had, no more than there is room
// for; a forged packet is owed nothing; what is forgotten is owed nothing.
func TestAheadOwed(t *testing.T) {
	var tx, other Tx
	var rx Rx
	p := Params{Bits: 128, Start: [16]byte{1}}
	q := Params{Bits: 128, Start: [16]byte{2}}
	for _, err := range []error{tx.Init(&p), other.Init(&q), rx.Init(&p)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	e := New(multi.Best())
	seal := func(t *Tx, n int) []TxJob {
		jobs := make([]TxJob, n)
		r := rand.New(rand.NewPCG(1, 1))
		for i := range jobs {
			jobs[i] = TxJob{t, append(make([]byte, HeaderLen, 256), plain(r, 1, 40)...)}
		}
		e.Seal(jobs)
		return jobs
	}
	want := func(what string, n int) {
		t.Helper()
		if got := aheadAll(e); got != n {
			t.Errorf("%s: %d keys ahead, want %d", what, got, n)
		}
	}
	seal(&tx, 3)
	want("nothing reserved", 0)
	e.Reserve(8, 20)
	want("nothing sent", 0)
	seal(&tx, 5)
	want("five packets", 5)
	want("nothing since", 0)
	seal(&tx, 3)
	want("three of the keys used", 3)
	seal(&tx, 90)
	want("more packets than room", 20)
	seal(&tx, 2)
	seal(&other, 4)
	want("two calls", 6)
	seal(&tx, 4)
	seal(&other, 4)
	e.ForgetTx(&tx)
	want("one forgotten", 4)
	seal(&tx, 1)
	want("and used again, from nothing", 1)

	e.Reserve(8, 20)
	if err := tx.Init(&p); err != nil {
		t.Fatal(err)
	}
	sealed := seal(&tx, 6)
	want("sent", 6)
	jobs := make([]RxJob, 6)
	for i := range jobs {
		jobs[i] = RxJob{Rx: &rx, Data: sealed[i].Data}
	}
	jobs[5].Data[HeaderLen] ^= 0x55
	jobs[5].Data[HeaderLen+1] ^= 0x55
	e.Open(second, jobs)
	if jobs[4].Drop != engine.Pass || jobs[5].Drop != engine.MPPEInsane {
		t.Fatalf("genuine packet %v, forged one %v", jobs[4].Drop, jobs[5].Drop)
	}
	want("five genuine packets and a forged one", 5)
}

// Neither computing keys ahead nor using them allocates.
func TestAheadAllocations(t *testing.T) {
	var tx Tx
	var rx Rx
	p := Params{Bits: 128, Start: [16]byte{9}}
	if err := tx.Init(&p); err != nil {
		t.Fatal(err)
	}
	if err := rx.Init(&p); err != nil {
		t.Fatal(err)
	}
	e := New(multi.Best())
	e.Reserve(8, 64)
	template := plain(rand.New(rand.NewPCG(1, 1)), 1, 100)
	txs, rxs := make([]TxJob, 40), make([]RxJob, 40)
	for i := range txs {
		b := make([]byte, HeaderLen+len(template), 256)
		txs[i], rxs[i] = TxJob{&tx, b}, RxJob{Rx: &rx, Data: b}
	}
	keys := 0
	pass := func() {
		for i := range txs {
			copy(txs[i].Data[HeaderLen:], template)
		}
		e.Seal(txs)
		e.Open(second, rxs)
		keys = e.Ahead(1000)
	}
	pass()
	if n := testing.AllocsPerRun(50, pass); n != 0 {
		t.Errorf("%v allocations a pass", n)
	}
	if keys != 2*len(txs) || rxs[39].Drop != engine.Pass {
		t.Errorf("%d keys ahead for %d packets each way, the last %v", keys, len(txs), rxs[39].Drop)
	}
}
