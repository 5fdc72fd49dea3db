package pool

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Range is a run of IPv4 addresses, both ends included.
type Range struct{ First, Last netip.Addr }

// ParseRange reads one address, FIRST-LAST or a prefix in CIDR notation, IPv4
// only. LAST may be the last octet alone, as in 10.0.0.10-250. Of a prefix
// shorter than /31 the network and broadcast addresses are left out, since some
// clients refuse them; write FIRST-LAST to have them.
func ParseRange(s string) (Range, error) {
	if first, last, ok := strings.Cut(s, "-"); ok {
		first, last = strings.TrimSpace(first), strings.TrimSpace(last)
		if _, err := strconv.ParseUint(last, 10, 8); err == nil {
			last = first[:strings.LastIndexByte(first, '.')+1] + last
		}
		return parseEnds(s, first, last)
	}
	if strings.Contains(s, "/") {
		return parsePrefix(s)
	}
	return parseEnds(s, s, s)
}

func parseEnds(s, first, last string) (Range, error) {
	a, err := netip.ParseAddr(first)
	if err != nil || !a.Is4() {
		return Range{}, fmt.Errorf("range %q: %q is not an IPv4 address", s, first)
	}
	b, err := netip.ParseAddr(last)
	if err != nil || !b.Is4() {
		return Range{}, fmt.Errorf("range %q: %q is not an IPv4 address", s, last)
	}
	if b.Less(a) {
		return Range{}, fmt.Errorf("range %q: the end comes before the start", s)
	}
	return Range{a, b}.check(s)
}

func parsePrefix(s string) (Range, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil || !p.Addr().Is4() {
		return Range{}, fmt.Errorf("range %q: not an IPv4 prefix such as 10.0.0.0/24", s)
	}
	if p.Masked() != p {
		return Range{}, fmt.Errorf("range %q: host bits are set, the prefix is %s", s, p.Masked())
	}
	first := toInt(p.Addr())
	last := first + uint32(uint64(1)<<(32-p.Bits())-1)
	if p.Bits() < 31 {
		first++
		last--
	}
	return Range{toAddr(first), toAddr(last)}.check(s)
}

// Address blocks that no subscriber can have.
var unusable = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("224.0.0.0/3"), // multicast, reserved, broadcast
}

func (r Range) check(s string) (Range, error) {
	for _, p := range unusable {
		if p.Contains(r.First) || p.Contains(r.Last) || r.Contains(p.Addr()) {
			return Range{}, fmt.Errorf("range %q: holds addresses of %s, which no client can use", s, p)
		}
	}
	return r, nil
}

// Size is the number of addresses in r.
func (r Range) Size() int { return int(toInt(r.Last)-toInt(r.First)) + 1 }

// Contains reports whether a lies in r.
func (r Range) Contains(a netip.Addr) bool {
	return a.Is4() && !a.Less(r.First) && !r.Last.Less(a)
}

// Overlaps reports whether r and o have an address in common.
func (r Range) Overlaps(o Range) bool {
	return !r.Last.Less(o.First) && !o.Last.Less(r.First)
}

// String is FIRST-LAST, or the address alone if there is only one.
func (r Range) String() string {
	if r.First == r.Last {
		return r.First.String()
	}
	return r.First.String() + "-" + r.Last.String()
}

// Overlap returns the first pair of ranges that have an address in common.
func Overlap(ranges []Range) (a, b Range, found bool) {
	sorted := sortRanges(ranges)
	for i := 1; i < len(sorted); i++ {
		if sorted[i-1].Overlaps(sorted[i]) {
			return sorted[i-1], sorted[i], true
		}
	}
	return Range{}, Range{}, false
}

func sortRanges(ranges []Range) []Range {
	sorted := slices.Clone(ranges)
	slices.SortFunc(sorted, func(a, b Range) int {
		return cmp.Or(a.First.Compare(b.First), a.Last.Compare(b.Last))
	})
	return sorted
}

var errNoRange = errors.New("no range given")

func toInt(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func toAddr(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}

// totalSize adds up the ranges without overflow on 32-bit machines.
func totalSize(ranges []Range) int {
	var n uint64
	for _, r := range ranges {
		n += uint64(toInt(r.Last)-toInt(r.First)) + 1
	}
	return int(min(n, math.MaxInt32))
}
