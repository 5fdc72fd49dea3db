package hwprofile

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// maxCPU bounds what the parsers take; Linux has at most 8192 CPUs.
const maxCPU = 8191

// CPUs is a set of CPUs: their numbers in ascending order, each once. The zero
// value is the empty set.
type CPUs []int

// NewCPUs makes a set of numbers in any order.
func NewCPUs(n ...int) CPUs {
	s := CPUs(slices.Clone(n))
	slices.Sort(s)
	return slices.Compact(s)
}

// ParseList reads the kernel's list format, such as "0-3,8" (cpuset(7)). The
// empty list is the empty set.
func ParseList(text string) (CPUs, error) {
	var s CPUs
	text = strings.TrimSpace(text)
	if text == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(part, "-")
		a, err := parseCPU(first)
		if err != nil {
			return nil, fmt.Errorf("CPU list %q: %w", text, err)
		}
		b := a
		if isRange {
			if b, err = parseCPU(last); err != nil {
				return nil, fmt.Errorf("CPU list %q: %w", text, err)
			}
		}
		if b < a {
			return nil, fmt.Errorf("CPU list %q: %q ends before it starts", text, part)
		}
		if len(s) > 0 && a <= s[len(s)-1] {
			return nil, fmt.Errorf("CPU list %q: %q is out of order", text, part)
		}
		for n := a; n <= b; n++ {
			s = append(s, n)
		}
	}
	return s, nil
}

func parseCPU(text string) (int, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n > maxCPU {
		return 0, fmt.Errorf("%q is not a CPU number of 0 to %d", text, maxCPU)
	}
	return int(n), nil
}

// ParseMask reads the kernel's mask format: groups of 32 bits in hexadecimal,
// the highest first, with commas between them, such as "ff,00000001".
func ParseMask(text string) (CPUs, error) {
	var s CPUs
	text = strings.TrimSpace(text)
	groups := strings.Split(text, ",")
	if len(groups)*32 > maxCPU+1 {
		return nil, fmt.Errorf("CPU mask of %d groups: %d are the most", len(groups), (maxCPU+1)/32)
	}
	for i := range groups {
		g := groups[len(groups)-1-i]
		v, err := strconv.ParseUint(g, 16, 32)
		if err != nil {
			return nil, fmt.Errorf("CPU mask %q: %q is not 32 bits in hexadecimal", text, g)
		}
		for b := range 32 {
			if v&(1<<b) != 0 {
				s = append(s, 32*i+b)
			}
		}
	}
	return s, nil
}

// MarshalJSON writes an array, also for the empty set.
func (s CPUs) MarshalJSON() ([]byte, error) {
	if s == nil {
		return []byte("[]"), nil
	}
	return json.Marshal([]int(s))
}

// String is the list format, as ParseList reads it.
func (s CPUs) String() string {
	var b strings.Builder
	for i := 0; i < len(s); {
		j := i
		for j+1 < len(s) && s[j+1] == s[j]+1 {
			j++
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Itoa(s[i]))
		if j > i {
			b.WriteByte('-')
			b.WriteString(strconv.Itoa(s[j]))
		}
		i = j + 1
	}
	return b.String()
}

// Mask is the mask format, as ParseMask reads it.
func (s CPUs) Mask() string {
	if len(s) == 0 {
		return "0"
	}
	groups := make([]uint32, s[len(s)-1]/32+1)
	for _, n := range s {
		groups[n/32] |= 1 << (n % 32)
	}
	var b strings.Builder
	for i := len(groups) - 1; i >= 0; i-- {
		if i == len(groups)-1 {
			fmt.Fprintf(&b, "%x", groups[i])
		} else {
			fmt.Fprintf(&b, ",%08x", groups[i])
		}
	}
	return b.String()
}

// Has reports whether CPU n is in the set.
func (s CPUs) Has(n int) bool {
	_, ok := slices.BinarySearch(s, n)
	return ok
}

// With returns the union of two sets.
func (s CPUs) With(t CPUs) CPUs { return NewCPUs(append(slices.Clone(s), t...)...) }

// And returns what is in both sets.
func (s CPUs) And(t CPUs) CPUs { return s.filter(t.Has) }

// Without returns what is in s and not in t.
func (s CPUs) Without(t CPUs) CPUs { return s.filter(func(n int) bool { return !t.Has(n) }) }

func (s CPUs) filter(keep func(int) bool) CPUs {
	var r CPUs
	for _, n := range s {
		if keep(n) {
			r = append(r, n)
		}
	}
	return r
}
