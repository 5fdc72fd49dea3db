package pool

import (
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

func TestParseRange(t *testing.T) {
	for _, tt := range []struct {
		in, want string
		size     int
	}{
		{"10.0.0.7", "10.0.0.7", 1},
		{"10.0.0.7-10.0.0.7", "10.0.0.7", 1},
		{"10.0.0.7 - 10.0.1.6", "10.0.0.7-10.0.1.6", 256},
		{"10.0.0.9-20", "10.0.0.9-10.0.0.20", 12},
		{"10.0.0.0/24", "10.0.0.1-10.0.0.254", 254},
		{"10.0.0.0/30", "10.0.0.1-10.0.0.2", 2},
		{"10.0.0.0/31", "10.0.0.0-10.0.0.1", 2},
		{"10.0.0.4/32", "10.0.0.4", 1},
		{"10.0.0.0/8", "10.0.0.1-10.255.255.254", 1<<24 - 2},
	} {
		r, err := ParseRange(tt.in)
		if err != nil {
			t.Errorf("%q: %v", tt.in, err)
			continue
		}
		if r.String() != tt.want || r.Size() != tt.size {
			t.Errorf("%q = %s with %d addresses, want %s with %d", tt.in, r, r.Size(), tt.want, tt.size)
		}
	}
}

func TestParseRangeErrors(t *testing.T) {
	for in, want := range map[string]string{
		"":                    `range "": "" is not an IPv4 address`,
		"eth0":                `range "eth0": "eth0" is not an IPv4 address`,
		"10.0.0.300":          `range "10.0.0.300": "10.0.0.300" is not an IPv4 address`,
		"10.0.0.9-10.0.0.8":   `range "10.0.0.9-10.0.0.8": the end comes before the start`,
		"10.0.0.9-256":        `range "10.0.0.9-256": "256" is not an IPv4 address`,
		"10.0.0.9-8":          `range "10.0.0.9-8": the end comes before the start`,
		"9-20":                `range "9-20": "9" is not an IPv4 address`,
		"10.0.0.9-":           `range "10.0.0.9-": "" is not an IPv4 address`,
		"10.0.0.1/24":         `range "10.0.0.1/24": host bits are set, the prefix is 10.0.0.0/24`,
		"10.0.0.0/33":         `range "10.0.0.0/33": not an IPv4 prefix such as 10.0.0.0/24`,
		"fd00::/64":           `range "fd00::/64": not an IPv4 prefix such as 10.0.0.0/24`,
		"::1":                 `range "::1": "::1" is not an IPv4 address`,
		"0.0.0.0/0":           `range "0.0.0.0/0": holds addresses of 0.0.0.0/8, which no client can use`,
		"126.0.0.1-128.0.0.1": `range "126.0.0.1-128.0.0.1": holds addresses of 127.0.0.0/8, which no client can use`,
		"239.1.1.1":           `range "239.1.1.1": holds addresses of 224.0.0.0/3, which no client can use`,
	} {
		if _, err := ParseRange(in); err == nil || err.Error() != want {
			t.Errorf("%q: error %v, want %s", in, err, want)
		}
	}
}

func FuzzParseRange(f *testing.F) {
	for _, s := range []string{"10.0.0.7", "10.0.0.7-10.0.1.6", "10.0.0.0/24", "1.2.3.4/31", "::/0", "-", "/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRange(s)
		if err != nil {
			return
		}
		if r.Last.Less(r.First) || r.Size() < 1 || !r.Contains(r.First) || !r.Contains(r.Last) {
			t.Fatalf("%q gave the impossible range %v with %d addresses", s, r, r.Size())
		}
		if again, err := ParseRange(r.String()); err != nil || again != r {
			t.Fatalf("%q = %s, which reads back as %s, %v", s, r, again, err)
		}
	})
}

func mustRanges(t testing.TB, ss ...string) []Range {
	t.Helper()
	var rs []Range
	for _, s := range ss {
		r, err := ParseRange(s)
		if err != nil {
			t.Fatal(err)
		}
		rs = append(rs, r)
	}
	return rs
}

func mustPool(t testing.TB, ss ...string) *Pool {
	t.Helper()
	p, err := New("p", mustRanges(t, ss...))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var none netip.Addr

func TestNewErrors(t *testing.T) {
	for _, tt := range []struct {
		ranges []string
		want   string
	}{
		{nil, "pool p: no range given"},
		{[]string{"10.0.0.0/24", "10.1.0.1", "10.0.0.200-10.0.1.3"}, "pool p: ranges 10.0.0.1-10.0.0.254 and 10.0.0.200-10.0.1.3 overlap"},
		{[]string{"10.0.0.1", "10.0.0.1"}, "pool p: ranges 10.0.0.1 and 10.0.0.1 overlap"},
		{[]string{"16.0.0.0-18.0.0.0"}, "pool p: more than 16777216 addresses (a /8)"},
	} {
		if _, err := New("p", mustRanges(t, tt.ranges...)); err == nil || err.Error() != tt.want {
			t.Errorf("%v: error %v, want %s", tt.ranges, err, tt.want)
		}
	}
}

func TestOrderAndExhaustion(t *testing.T) {
	p := mustPool(t, "10.0.1.1", "10.0.0.1-10.0.0.2")
	want := []string{"10.0.0.1", "10.0.0.2", "10.0.1.1"}
	for _, w := range want {
		if a, err := p.Get(none); err != nil || a.String() != w {
			t.Fatalf("Get = %s, %v; want %s", a, err, w)
		}
	}
	_, err := p.Get(none)
	if !errors.Is(err, ErrExhausted) || err.Error() != "pool p: no free address: all 3 are in use" {
		t.Fatalf("exhausted pool: %v", err)
	}
	if err := p.Put(netip.MustParseAddr("10.0.0.2")); err != nil {
		t.Fatal(err)
	}
	if a, err := p.Get(none); err != nil || a.String() != "10.0.0.2" {
		t.Fatalf("after Put: %s, %v", a, err)
	}
}

// A returned address goes to the back of the queue.
func TestReturnedAddressRests(t *testing.T) {
	p := mustPool(t, "10.0.0.1-10.0.0.100")
	first, _ := p.Get(none)
	for range 99 {
		if err := p.Put(first); err != nil {
			t.Fatal(err)
		}
		next, err := p.Get(none)
		if err != nil || next == first {
			t.Fatalf("got %s again at once (%v)", next, err)
		}
		first = next
	}
}

func TestPreferTakePut(t *testing.T) {
	p := mustPool(t, "10.0.0.1-10.0.0.9")
	five := netip.MustParseAddr("10.0.0.5")
	if a, _ := p.Get(five); a != five {
		t.Fatalf("preferred free address not given: %s", a)
	}
	if a, _ := p.Get(five); a == five {
		t.Fatal("a taken address was given again")
	}
	for _, tt := range []struct {
		err  error
		want error
		text string
	}{
		{p.Take(five), ErrTaken, "pool p: 10.0.0.5: address is in use"},
		{p.Take(netip.MustParseAddr("10.0.0.10")), ErrOutside, "pool p: 10.0.0.10: address is not in the pool"},
		{p.Put(netip.MustParseAddr("::1")), ErrOutside, "pool p: ::1: address is not in the pool"},
		{p.Put(netip.MustParseAddr("10.0.0.9")), ErrNotTaken, "pool p: 10.0.0.9: address is not in use"},
	} {
		if !errors.Is(tt.err, tt.want) || tt.err.Error() != tt.text {
			t.Errorf("error %v, want %s", tt.err, tt.text)
		}
	}
	if p.Used() != 2 || p.Size() != 9 || p.Name() != "p" || !p.Contains(five) || p.Contains(none) {
		t.Errorf("used %d size %d name %s", p.Used(), p.Size(), p.Name())
	}
}

// TestModel runs random operations against a map.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var ranges []Range
		var all []netip.Addr
		known := map[netip.Addr]bool{}
		next := uint32(0x0a000000)
		for range rapid.IntRange(1, 6).Draw(t, "ranges") {
			next += uint32(rapid.IntRange(1, 300).Draw(t, "gap"))
			n := uint32(rapid.SampledFrom([]int{1, 2, 63, 64, 65, 130, 5000}).Draw(t, "size"))
			ranges = append(ranges, Range{toAddr(next), toAddr(next + n - 1)})
			for i := range n {
				all = append(all, toAddr(next+i))
				known[toAddr(next+i)] = true
			}
			next += n
		}
		p, err := New("m", rapid.Permutation(ranges).Draw(t, "order"))
		if err != nil {
			t.Fatal(err)
		}
		taken := map[netip.Addr]bool{}
		addr := rapid.Custom(func(t *rapid.T) netip.Addr {
			if rapid.IntRange(0, 9).Draw(t, "outside") == 0 {
				return toAddr(0x0a000000 + uint32(rapid.IntRange(0, 40000).Draw(t, "n")))
			}
			return rapid.SampledFrom(all).Draw(t, "a")
		})
		t.Repeat(map[string]func(*rapid.T){
			"get": func(t *rapid.T) {
				a, err := p.Get(none)
				if full := len(taken) == len(all); full != errors.Is(err, ErrExhausted) {
					t.Fatalf("%d of %d taken: %v", len(taken), len(all), err)
				} else if full {
					return
				}
				if taken[a] || !known[a] {
					t.Fatalf("got %s, taken %v", a, taken[a])
				}
				taken[a] = true
			},
			"fill": func(t *rapid.T) {
				for range rapid.IntRange(0, len(all)-len(taken)).Draw(t, "n") {
					a, err := p.Get(none)
					if err != nil || taken[a] {
						t.Fatalf("Get = %s, %v", a, err)
					}
					taken[a] = true
				}
			},
			"take": func(t *rapid.T) {
				a := addr.Draw(t, "addr")
				want := error(nil)
				if !known[a] {
					want = ErrOutside
				} else if taken[a] {
					want = ErrTaken
				}
				if err := p.Take(a); !errors.Is(err, want) {
					t.Fatalf("Take(%s) = %v, want %v", a, err, want)
				}
				if want == nil {
					taken[a] = true
				}
			},
			"put": func(t *rapid.T) {
				a := addr.Draw(t, "addr")
				want := error(nil)
				if !known[a] {
					want = ErrOutside
				} else if !taken[a] {
					want = ErrNotTaken
				}
				if err := p.Put(a); !errors.Is(err, want) {
					t.Fatalf("Put(%s) = %v, want %v", a, err, want)
				}
				delete(taken, a)
			},
			"": func(t *rapid.T) {
				if p.Used() != len(taken) {
					t.Fatalf("used %d, want %d", p.Used(), len(taken))
				}
			},
		})
	})
}

func TestLargePoolFillsOnce(t *testing.T) {
	p := mustPool(t, "10.0.0.0/12")
	seen := newBitmap(1 << 20)
	for range p.Size() {
		a, err := p.Get(none)
		if err != nil {
			t.Fatal(err)
		}
		i := int(toInt(a) & (1<<20 - 1))
		if !seen.has(i) {
			t.Fatalf("%s was given twice", a)
		}
		seen.remove(i)
	}
	if _, err := p.Get(none); !errors.Is(err, ErrExhausted) || !strings.Contains(err.Error(), "1048574") {
		t.Fatalf("full pool: %v", err)
	}
}

func TestGetDoesNotAllocate(t *testing.T) {
	p := mustPool(t, "10.0.0.0/16")
	if n := testing.AllocsPerRun(1000, func() {
		a, err := p.Get(none)
		if err != nil || p.Put(a) != nil {
			t.Fatal(a, err)
		}
	}); n != 0 {
		t.Fatalf("%v allocations per Get and Put", n)
	}
}

func TestConcurrentUse(t *testing.T) {
	p := mustPool(t, "10.0.0.0/22")
	var owner sync.Map
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 2000 {
				a, err := p.Get(none)
				if err != nil {
					t.Error(err)
					return
				}
				if _, twice := owner.LoadOrStore(a, true); twice {
					t.Errorf("%s has two owners", a)
				}
				owner.Delete(a)
				if err := p.Put(a); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if p.Used() != 0 {
		t.Fatalf("%d addresses leaked", p.Used())
	}
}

func BenchmarkGetPut(b *testing.B) {
	p := mustPool(b, "10.0.0.0/8")
	for b.Loop() {
		a, _ := p.Get(none)
		_ = p.Put(a)
	}
}
