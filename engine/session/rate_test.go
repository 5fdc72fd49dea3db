package session

import (
	"testing"

	"pgregory.net/rapid"
)

// Whatever arrives when: in any stretch of time no more passes than the rate
// gives in it and a bucket, and what stays below the rate passes.
func TestRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bits := rapid.Uint64Range(8000, 1e11).Draw(t, "bits")
		bucket := max(float64(bits)/8*float64(rateBurst)/1e9, rateLeast)
		var r Rate
		r.Set(bits)
		now := rapid.Int64Range(1, 1e18).Draw(t, "start")
		start, passed, offered := now, 0.0, 0.0
		for range rapid.IntRange(1, 300).Draw(t, "packets") {
			now += rapid.Int64Range(0, 50e6).Draw(t, "gap")
			n := rapid.IntRange(20, 3700).Draw(t, "bytes")
			given := float64(bits) / 8 * float64(now-start) / 1e9
			offered += float64(n)
			if r.Take(now, n) {
				passed += float64(n)
			} else if offered <= given && offered <= bucket-3700 {
				t.Fatalf("%d bytes refused: %v offered, %v given", n, offered, given)
			}
			if passed > given+bucket+1 {
				t.Fatalf("%v bytes passed, the rate gave %v and the bucket %v", passed, given, bucket)
			}
		}
	})
}

func TestRateSteady(t *testing.T) {
	for _, bits := range []uint64{8_000, 64_000, 10_000_000, 1_000_000_000} {
		var r Rate
		r.Set(bits)
		gap := r.cost(1400) / 4 // four times too much
		passed, now := 0, int64(1)
		for ; now < 100*second && passed < 100_000; now += gap {
			if r.Take(now, 1400) {
				passed++
			}
		}
		bucket := max(float64(bits)/8*float64(rateBurst)/1e9, rateLeast)
		want := (float64(bits)/8*float64(now)/1e9 + bucket) / 1400
		if got := float64(passed); got > want+1 || got < want*0.98-2 {
			t.Errorf("%d bit/s: %d packets in %d ms, the rate gives %.0f", bits, passed, now/1e6, want)
		}
	}
	var none Rate
	for range 1000 {
		if !none.Take(1, 65535) {
			t.Fatal("no limit, and yet")
		}
	}
	none.Set(8000)
	for none.Take(1, 1400) {
		continue
	}
	none.Set(0)
	if !none.Take(1, 1400) || none.Bits() != 0 {
		t.Error("limit not lifted")
	}
}

func TestRateAllocatesNothing(t *testing.T) {
	var r Rate
	r.Set(1e6)
	now := int64(1)
	if n := testing.AllocsPerRun(1000, func() { now += 1e6; r.Take(now, 100) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
