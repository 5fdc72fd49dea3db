package hwprofile

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParseList(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want CPUs // nil and an error wanted if err is set
		err  string
	}{
		{"", nil, ""},
		{"\n", nil, ""},
		{"0\n", CPUs{0}, ""},
		{"0-3,8", CPUs{0, 1, 2, 3, 8}, ""},
		{"5-5", CPUs{5}, ""},
		{"8191", CPUs{8191}, ""},
		{"8192", nil, `"8192" is not a CPU number of 0 to 8191`},
		{"3-1", nil, `"3-1" ends before it starts`},
		{"1,1", nil, `"1" is out of order`},
		{"4,2", nil, `"2" is out of order`},
		{"1-", nil, `"" is not a CPU number`},
		{"1,,2", nil, `"" is not a CPU number`},
		{"a", nil, `"a" is not a CPU number`},
		{"-1", nil, `"" is not a CPU number`},
		{"+1", nil, `"+1" is not a CPU number`},
	} {
		got, err := ParseList(tt.in)
		if !slices.Equal(got, tt.want) || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%q: %v, %v; want %v, %q", tt.in, got, err, tt.want, tt.err)
		}
	}
}

func TestParseMask(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want CPUs
		bad  bool
	}{
		{"0", nil, false},
		{"3\n", CPUs{0, 1}, false},
		{"00000001,00000000", CPUs{32}, false},
		{"80000000,00000003", CPUs{0, 1, 63}, false},
		{"", nil, true},
		{"x", nil, true},
		{"100000000", nil, true},
		{"1,,1", nil, true},
		{strings.Repeat("0,", 256) + "1", nil, true},
	} {
		got, err := ParseMask(tt.in)
		if !slices.Equal(got, tt.want) || (err != nil) != tt.bad {
			t.Errorf("%q: %v, %v", tt.in, got, err)
		}
	}
}

func TestCPUs(t *testing.T) {
	a, b := NewCPUs(3, 1, 2, 3), NewCPUs(2, 40)
	for _, tt := range []struct{ got, want string }{
		{a.String(), "1-3"},
		{a.Mask(), "e"},
		{b.Mask(), "100,00000004"},
		{a.With(b).String(), "1-3,40"},
		{a.And(b).String(), "2"},
		{a.Without(b).String(), "1,3"},
		{CPUs(nil).String(), ""},
		{CPUs(nil).Mask(), "0"},
	} {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
}

func genCPUs(t *rapid.T) CPUs {
	return NewCPUs(rapid.SliceOfN(rapid.IntRange(0, maxCPU), 0, 40).Draw(t, "cpus")...)
}

func TestCPUsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := genCPUs(t)
		if got, err := ParseList(s.String()); err != nil || !slices.Equal(got, s) {
			t.Fatalf("list %q: %v, %v", s, got, err)
		}
		if got, err := ParseMask(s.Mask()); err != nil || !slices.Equal(got, s) {
			t.Fatalf("mask %q: %v, %v", s.Mask(), got, err)
		}
	})
}

func FuzzParseList(f *testing.F) {
	for _, s := range []string{"", "0", "0-3,8", "1,,2", "0-8191", "(null)"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseList(text)
		if err != nil {
			return
		}
		if !slices.IsSorted(s) || len(slices.Compact(slices.Clone(s))) != len(s) {
			t.Fatalf("%q: %v is no set", text, s)
		}
		if again, err := ParseList(s.String()); err != nil || !slices.Equal(again, s) {
			t.Fatalf("%q: %v, then %v, %v", text, s, again, err)
		}
	})
}

func FuzzParseMask(f *testing.F) {
	for _, s := range []string{"0", "ff", "ff,00000001", ",", "g"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseMask(text)
		if err != nil {
			return
		}
		if again, err := ParseMask(s.Mask()); err != nil || !slices.Equal(again, s) {
			t.Fatalf("%q: %v, then %v, %v", text, s, again, err)
		}
	})
}
