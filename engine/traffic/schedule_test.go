package traffic

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func drawSchedule(t *rapid.T) Schedule {
	rate := func(name string) float64 { return math.Exp(rapid.Float64Range(0, math.Log(1e7)).Draw(t, name)) }
	s := Schedule{Rate: rate("rate")}
	switch rapid.IntRange(0, 2).Draw(t, "kind") {
	case 0:
		s.Burst = rapid.IntRange(0, 100).Draw(t, "burst")
	case 1:
		s.Unit = Bits
		s.Rate *= 1000
		fallthrough
	default:
		s.To, s.Over = rate("to"), time.Duration(rapid.Int64Range(1e6, 1e11).Draw(t, "over"))
	}
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
	return s
}

// Due never goes back; Units is its inverse.
func TestScheduleInverse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSchedule(t)
		u := rapid.Float64Range(0, 1e9).Draw(t, "units")
		if s.Burst > 0 {
			u = math.Floor(u/float64(s.Burst)) * float64(s.Burst)
		}
		a, b := s.Due(u), s.Due(u+rapid.Float64Range(0, 1e6).Draw(t, "more"))
		if a > b || a < 0 {
			t.Fatalf("%v units are due at %d, more at %d", u, a, b)
		}
		if a > 1e17 {
			return // three years
		}
		// As far as a time in ns can say.
		off := (max(s.Rate, s.To)+s.Rate)*2e-9 + u*1e-9 + 1e-6
		if s.Burst > 1 {
			off += float64(s.Burst)
		}
		if got := s.Units(a); math.Abs(got-u) > off {
			t.Fatalf("%v units are due at %d, where %v are due", u, a, got)
		}
	})
}

// The rate that comes out is the one that was asked for: packet by packet over a day.
func TestScheduleDoesNotDrift(t *testing.T) {
	day := int64(24 * time.Hour)
	for _, rate := range []float64{0.1, 3, 1e5 / 7, 1e6} {
		s := Schedule{Rate: rate}
		n := rate * 86400
		if at := s.Due(math.Floor(n)); day-at > int64(1e9/rate)+1 || at > day {
			t.Errorf("at %v a second, %v packets take %d ns", rate, n, at)
		}
	}
	// 5 in the first second, 15 at the end of the tenth, and as many ever after.
	s := Schedule{Rate: 5, To: 15, Over: 10 * time.Second}
	for at, want := range map[time.Duration]float64{0: 0, time.Second: 5.5, 10 * time.Second: 100, 20 * time.Second: 250} {
		if got := s.Units(int64(at)); math.Abs(got-want) > 1e-6 {
			t.Errorf("after %v %v packets, want %v", at, got, want)
		}
		if got := time.Duration(s.Due(want)); (got - at).Abs() > time.Microsecond {
			t.Errorf("packet %v is due at %v, want %v", want, got, at)
		}
	}
}

func TestBursts(t *testing.T) {
	s := Schedule{Rate: 3, Burst: 3}
	var p Pacer
	p.Start(&s, 1e9, 1, 0)
	for i := range int64(9) {
		if got, want := p.Due(), 1e9+i/3*1e9; got != want {
			t.Errorf("packet %d is due at %d, want %d", i, got, want)
		}
		p.Sent(64)
	}
}

// Streams that share a schedule send together what one would have sent alone.
func TestShares(t *testing.T) {
	s := Schedule{Rate: 1000}
	ps := make([]Pacer, 3)
	weights := []float64{0.5, 0.25, 0.25}
	n := 0
	for i := range ps {
		ps[i].Start(&s, 0, weights[i], float64(i))
		for ps[i].Due() < 1e9 {
			ps[i].Sent(64)
			n++
		}
	}
	if n < 998 || n > 1001 {
		t.Errorf("%d packets in a second, want 1000", n)
	}
	// With another share it goes on from where it is.
	var p Pacer
	p.Start(&s, 0, 1, 0)
	for range 500 {
		p.Sent(64)
	}
	at := p.Due()
	p.SetShare(0.1)
	if p.Due() != at {
		t.Errorf("a change of share moved the next packet from %d to %d", at, p.Due())
	}
	if p.Sent(64); p.Due() != at+10e6 {
		t.Errorf("then the next comes %d ns later, want 10 ms", p.Due()-at)
	}
}

func TestSkip(t *testing.T) {
	for _, c := range []struct {
		s    Schedule
		want uint64 // packets left out
	}{
		{Schedule{Rate: 1000}, 490},
		{Schedule{Rate: 1e6, Unit: Bits}, 490}, // of 125 bytes
		{Schedule{Rate: 1000, Burst: 100}, 490},
	} {
		var p Pacer
		p.Start(&c.s, 0, 1, 0)
		for range 10 {
			p.Sent(125)
		}
		if n := p.Skip(500e6, 125); n != c.want {
			t.Errorf("%+v: %v left out, want %v", c.s, n, c.want)
		}
		if d := p.Due() - 500e6; d != 0 {
			t.Errorf("%+v: then the next is due at %d", c.s, p.Due())
		}
		if n := p.Skip(400e6, 125); n != 0 {
			t.Errorf("%+v: skipped back by %v", c.s, n)
		}
		if n := p.Skip(500.9e6, 125); c.s.Burst == 0 && (n != 0 || p.Due() != 500e6) {
			t.Errorf("%+v: %v left out within the time of one, the next is due at %d", c.s, n, p.Due())
		}
	}
}

func TestScheduleCheck(t *testing.T) {
	for _, c := range []struct {
		s  Schedule
		ok bool
	}{
		{Schedule{Rate: 1}, true},
		{Schedule{Rate: MaxBits, Unit: Bits}, true},
		{Schedule{}, false},
		{Schedule{Rate: math.NaN()}, false},
		{Schedule{Rate: math.Inf(1)}, false},
		{Schedule{Rate: MaxBits}, false},
		{Schedule{Rate: -1}, false},
		{Schedule{Rate: 1, Unit: 2}, false},
		{Schedule{Rate: 1, Over: time.Second}, false},
		{Schedule{Rate: 1, Over: -1, To: 1}, false},
		{Schedule{Rate: 1, To: 2, Over: time.Second}, true},
		{Schedule{Rate: 1, To: 2, Over: time.Second, Burst: 2}, false},
		{Schedule{Rate: 1000, Unit: Bits, Burst: 2}, false},
		{Schedule{Rate: 1, Burst: -1}, false},
		{Schedule{Rate: 1, Burst: 1 << 21}, false},
	} {
		if err := c.s.Check(); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c.s, err)
		}
	}
}

func TestSizes(t *testing.T) {
	imix := IMIX()
	table := imix.Table(false, 1)
	count := map[int]int{}
	for i := range uint64(1200) {
		count[table.At(i, 5)]++
	}
	if count[64] != 700 || count[576] != 400 || count[1400] != 100 {
		t.Errorf("IMIX came out as %v", count)
	}
	if m := table.Mean(); math.Abs(m-(7*64+4*576+1400)/12.) > 1e-9 {
		t.Errorf("mean size %v", m)
	}
	// Evenly: never two of the large ones, nor more than two small ones, in a row.
	for i := range uint64(24) {
		if table.At(i, 0) == 64 && table.At(i+1, 0) == 64 && table.At(i+2, 0) == 64 {
			t.Errorf("three small ones from %d on", i)
		}
	}
	cut := imix.Cut(1000)
	if imix.Mix[2].Size != 1400 || cut.Cut(0).Mix[2].Size != 1000 || Fixed(200).Cut(100).Max != 100 {
		t.Errorf("cut: %+v, %+v", imix, cut)
	}
	if got := cut.Table(true, 1); got.At(0, 0) != 84 || got.Mean() > 1000 {
		t.Errorf("IPv6 in a room of 1000: %v", got)
	}
	drawn := Sizes{Min: 100, Max: 199}
	a, b, c := drawn.Table(false, 1), drawn.Table(false, 1), drawn.Table(false, 2)
	differ := false
	seen := map[uint16]bool{}
	for i := range a {
		if a[i] != b[i] {
			t.Fatal("another sequence from the same seed")
		}
		differ = differ || a[i] != c[i]
		seen[a[i]] = true
	}
	if !differ || len(seen) != 100 {
		t.Errorf("drawn: %d sizes of 100, other seed differs: %v", len(seen), differ)
	}
}

func TestSizesCheck(t *testing.T) {
	for _, c := range []struct {
		s  Sizes
		ok bool
	}{
		{Fixed(64), true},
		{IMIX(), true},
		{Sizes{}, false},
		{Fixed(63), false},
		{Fixed(3701), false},
		{Sizes{Min: 200, Max: 100}, false},
		{Sizes{Mix: []Weighted{{64, 0}}}, false},
		{Sizes{Mix: []Weighted{{64, 1001}}}, false},
		{Sizes{Mix: []Weighted{{0, 1}}}, false},
		{Sizes{Mix: make([]Weighted, 17)}, false},
	} {
		if err := c.s.Check(); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c.s, err)
		}
	}
}
