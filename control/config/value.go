package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"xpptp/control/pool"
)

// value is one setting: how it is read from text, whether it comes from a
// file or a flag, and how it is shown. Its methods are those of pflag.Value.
type value interface {
	Set(text string) error // the error names the text and what is allowed
	String() string        // in a form that Set reads back
	Type() string          // one word for help texts
	allowed() string       // for help texts; "" if anything goes
	get() any              // for JSON
}

// many is a value that holds several: Set adds to it.
type many interface {
	value
	reset()
	items() []string
}

type boolean struct{ p *bool }

func (v boolean) Set(s string) error {
	if s != "true" && s != "false" {
		return fmt.Errorf("%q is neither true nor false", s)
	}
	*v.p = s == "true"
	return nil
}
func (v boolean) String() string  { return strconv.FormatBool(*v.p) }
func (v boolean) Type() string    { return "bool" }
func (v boolean) allowed() string { return "true, false" }
func (v boolean) get() any        { return *v.p }

type integer struct {
	p        *int
	min, max int
}

func (v integer) Set(s string) error {
	n, err := strconv.Atoi(s)
	if err != nil {
		return fmt.Errorf("%q is not a whole number: allowed are %s", s, v.allowed())
	}
	if n < v.min || n > v.max {
		return fmt.Errorf("%d is out of range: allowed are %s", n, v.allowed())
	}
	*v.p = n
	return nil
}
func (v integer) String() string  { return strconv.Itoa(*v.p) }
func (v integer) Type() string    { return "int" }
func (v integer) allowed() string { return fmt.Sprintf("%d to %d", v.min, v.max) }
func (v integer) get() any        { return *v.p }

type duration struct {
	p        *time.Duration
	min, max time.Duration
}

func (v duration) Set(s string) error {
	d, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("%q is not a time such as 5ms or 1m30s: allowed are %s", s, v.allowed())
	}
	if d < v.min || d > v.max {
		return fmt.Errorf("%s is out of range: allowed are %s", shortTime(d), v.allowed())
	}
	*v.p = d
	return nil
}
func (v duration) String() string  { return shortTime(*v.p) }
func (v duration) Type() string    { return "duration" }
func (v duration) allowed() string { return shortTime(v.min) + " to " + shortTime(v.max) }
func (v duration) get() any        { return v.String() }

// shortTime leaves out the zeros that time.Duration ends in: 1h, not 1h0m0s.
func shortTime(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// text is a string that passes check.
type text struct {
	p     *string
	kind  string // for help: "file", "interface", …
	check func(string) error
}

func (v text) Set(s string) error {
	if s != "" {
		if err := v.check(s); err != nil {
			return err
		}
	}
	*v.p = s
	return nil
}
func (v text) String() string  { return *v.p }
func (v text) Type() string    { return v.kind }
func (v text) allowed() string { return "" }
func (v text) get() any        { return *v.p }

// word is one of a few words.
type word[T ~string] struct {
	p     *T
	words []T
}

func (v word[T]) Set(s string) error {
	if !slices.Contains(v.words, T(s)) {
		return fmt.Errorf("%q is none of %s", s, v.allowed())
	}
	*v.p = T(s)
	return nil
}
func (v word[T]) String() string  { return string(*v.p) }
func (v word[T]) Type() string    { return "word" }
func (v word[T]) allowed() string { return joinWords(v.words) }
func (v word[T]) get() any        { return *v.p }

func joinWords[T ~string](words []T) string {
	var b strings.Builder
	for i, w := range words {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(string(w))
	}
	return b.String()
}

// address is an IPv4 address or nothing.
type address struct{ p *netip.Addr }

func (v address) Set(s string) (err error) {
	*v.p = netip.Addr{}
	if s != "" {
		*v.p, err = parseAddr(s)
	}
	return err
}

func (v address) String() string {
	if !v.p.IsValid() {
		return ""
	}
	return v.p.String()
}
func (v address) Type() string    { return "address" }
func (v address) allowed() string { return "an IPv4 address" }
func (v address) get() any        { return *v.p }

// list holds values of one kind, in the order given.
type list[T comparable] struct {
	p     *[]T
	kind  string
	words string // what is allowed
	max   int
	parse func(string) (T, error)
}

func (v list[T]) Set(s string) error {
	for part := range strings.SplitSeq(s, ",") {
		t, err := v.parse(strings.TrimSpace(part))
		if err != nil {
			return err
		}
		if slices.Contains(*v.p, t) {
			return fmt.Errorf("%q is there twice", part)
		}
		if len(*v.p) == v.max {
			return fmt.Errorf("%q is one too many: at most %d are allowed", part, v.max)
		}
		*v.p = append(*v.p, t)
	}
	return nil
}
func (v list[T]) String() string  { return strings.Join(v.items(), ",") }
func (v list[T]) Type() string    { return v.kind }
func (v list[T]) allowed() string { return v.words }
func (v list[T]) get() any        { return append([]T{}, *v.p...) }
func (v list[T]) reset()          { *v.p = nil }
func (v list[T]) items() []string {
	var out []string
	for _, t := range *v.p {
		out = append(out, fmt.Sprint(t))
	}
	return out
}

// Pool is a named set of client addresses.
type Pool struct {
	Name   string
	Ranges []pool.Range
}

// DefaultPool is the name of the pool whose ranges are given without a name.
const DefaultPool = "default"

// pools is written RANGE or NAME=RANGE, or as a mapping of names to ranges.
type pools struct{ p *[]Pool }

func (v pools) Set(s string) error {
	for part := range strings.SplitSeq(s, ",") {
		name, r, named := strings.Cut(part, "=")
		if !named {
			name, r = DefaultPool, part
		}
		if err := v.add(strings.TrimSpace(name), strings.TrimSpace(r)); err != nil {
			return err
		}
	}
	return nil
}

func (v pools) add(name, r string) error {
	if err := checkName(name); err != nil {
		return fmt.Errorf("pool name: %w", err)
	}
	parsed, err := pool.ParseRange(r)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(*v.p, func(p Pool) bool { return p.Name == name })
	if i < 0 {
		i = len(*v.p)
		*v.p = append(*v.p, Pool{Name: name})
	}
	(*v.p)[i].Ranges = append((*v.p)[i].Ranges, parsed)
	return nil
}
func (v pools) String() string  { return strings.Join(v.items(), ",") }
func (v pools) Type() string    { return "ranges" }
func (v pools) allowed() string { return "FIRST-LAST, a prefix or an address, or NAME=RANGE" }
func (v pools) reset()          { *v.p = nil }
func (v pools) items() []string {
	var out []string
	for _, p := range *v.p {
		for _, r := range p.Ranges {
			if p.Name == DefaultPool {
				out = append(out, r.String())
			} else {
				out = append(out, p.Name+"="+r.String())
			}
		}
	}
	return out
}

func (v pools) get() any {
	out := map[string][]string{}
	for _, p := range *v.p {
		for _, r := range p.Ranges {
			out[p.Name] = append(out[p.Name], r.String())
		}
	}
	return out
}

func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() {
		return netip.Addr{}, fmt.Errorf("%q is not an IPv4 address", s)
	}
	return a, nil
}

// parseListen reads ADDRESS:PORT or ADDRESS, IPv4 since PPTP's GRE is.
func parseListen(s string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Is4() {
		return netip.AddrPortFrom(a, Port), nil
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil || !ap.Addr().Is4() || ap.Port() == 0 {
		return netip.AddrPort{}, fmt.Errorf("%q is not an IPv4 address and port such as 0.0.0.0:1723", s)
	}
	return ap, nil
}

// checkName accepts what can be a word in logs and labels.
func checkName(s string) error {
	bad := func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && !strings.ContainsRune("-_.", r)
	}
	if s == "" || len(s) > 64 || strings.ContainsFunc(s, bad) {
		return fmt.Errorf("%q is not a name of 1 to 64 letters, digits, dashes, dots and underscores", s)
	}
	return nil
}

// checkInterface accepts what the kernel takes as an interface name.
func checkInterface(s string) error {
	if checkText(s) != nil || len(s) > 15 || s == "." || s == ".." || strings.ContainsAny(s, "/: \t\n") {
		return fmt.Errorf("%q cannot be the name of an interface", s)
	}
	return nil
}

// checkField accepts what fits a string field of a PPTP message, 64 octets
// (RFC 2637 §2.1).
func checkField(s string) error {
	if len(s) > 64 || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
		return fmt.Errorf("%q is not a text of at most 64 ASCII characters", s)
	}
	return nil
}

// checkText accepts what can be shown in one line.
func checkText(s string) error {
	if !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		return fmt.Errorf("%q holds a control character or is not UTF-8", s)
	}
	return nil
}
