package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"xpptp/control/aaa"
	"xpptp/control/pool"
)

// Bounds of what stress does: every run ends, and no rate is without limit.
const (
	maxStressCalls = 1 << 20
	maxCallRate    = 100_000    // calls a second
	maxPacketRate  = 20_000_000 // packets a second
	maxBitRate     = 200e9      // bits of inside IP a second
	maxStressTime  = 7 * 24 * time.Hour
)

// Weighted is a choice and how often it is taken, in proportion to the others'
// weights.
type Weighted[T comparable] struct {
	Choice T
	Weight int
}

// String is CHOICE=WEIGHT.
func (w Weighted[T]) String() string { return fmt.Sprintf("%v=%d", w.Choice, w.Weight) }

// MarshalText is String.
func (w Weighted[T]) MarshalText() ([]byte, error) { return []byte(w.String()), nil }

// Ramp is how the rate of starting calls gets to its value.
type Ramp string

// The ramps.
const (
	RampNone   Ramp = "none"
	RampLinear Ramp = "linear"
	RampSteps  Ramp = "steps"
)

// LoadRate is how much traffic is wanted: packets or bits a second; neither: none.
type LoadRate struct{ PPS, BPS float64 }

// String is in the form that --traffic takes.
func (r LoadRate) String() string {
	switch {
	case r.PPS > 0:
		return strconv.FormatFloat(r.PPS, 'f', -1, 64) + "pps"
	case r.BPS > 0:
		return strconv.FormatFloat(r.BPS, 'f', -1, 64) + "bit/s"
	}
	return "none"
}

// Direction is which way generated packets go.
type Direction string

// The directions.
const (
	Echo Direction = "echo" // to the far side, which sends them back
	Up   Direction = "up"   // to a responder, which counts them
	Down Direction = "down" // from a responder
	Both Direction = "both" // up and down, each on its own
)

// Pattern is how packets follow each other.
type Pattern string

// The patterns.
const (
	Constant Pattern = "constant"
	Burst    Pattern = "burst"
	RampUp   Pattern = "ramp"
)

// Test is a test by name.
type Test string

// The tests.
const (
	TestCalls      Test = "calls"
	TestThroughput Test = "throughput"
	TestLatency    Test = "latency"
	TestLossCurve  Test = "loss-curve"
	TestBackToBack Test = "back-to-back"
	TestSetupRate  Test = "setup-rate"
	TestCapacity   Test = "capacity"
	TestSoak       Test = "soak"
	TestRecovery   Test = "recovery"
)

// Stress is the plan of stress. What it has of Common is for the emulated
// clients; Auth and MPPE there are not used, the mixes are.
type Stress struct {
	Common
	Name   string
	Seed   int
	Server string // host or host:port; empty with a lab
	Source []pool.Range
	Tests  []Test

	Calls              int
	CallsPerConnection int
	Rate               int // calls a second
	Ramp               Ramp
	RampTime           time.Duration
	RampSteps          int
	StopRate           int           // calls a second, 0: as Rate
	Duration           time.Duration // of the load, once the calls are up
	Settle             time.Duration // for calls to come up after the last start, or to end
	Retry              time.Duration // before a call that failed or was lost is placed again; 0: never

	Churn    Churn
	Storm    time.Duration // all calls are lost and come back, so often; 0: never
	KillRate float64       // connections a second that are closed without ceremony

	User         string // may hold %d
	FirstUser    int
	PasswordFile string
	UsersFile    string
	AuthMix      []Weighted[aaa.Method]
	MPPEMix      []Weighted[Policy]

	Traffic Traffic
	Search  Search

	AllowWorldReadableSecrets bool
}

// Churn makes calls end and come back.
type Churn struct {
	Life   time.Duration // of a call; 0: until the end
	Jitter time.Duration // more or less
	Away   time.Duration // until it comes back
}

// Traffic is what goes through the calls.
type Traffic struct {
	Rate      LoadRate
	PerCall   bool // the rate is that of each call, not of all
	Direction Direction
	Sizes     []int // of IP packets
	IMIX      bool  // 7 of 64, 4 of 576, 1 of 1400 bytes, instead of Sizes
	IPv6      bool
	Pattern   Pattern
	BurstLen  int           // packets at a time
	Quiet     time.Duration // wait for what is under way
	Far       netip.Addr
	Port      int
}

// Search bounds the searches of tests.
type Search struct {
	Trial     time.Duration // of one try
	Loss      float64       // percent that the partial-drop rate allows
	Precision float64       // percent of the result
	MinPPS    float64
	MaxPPS    float64
	Share     float64       // percent of the throughput at which latency is measured
	MaxRate   int           // calls a second
	MaxSetup  time.Duration // p99 of set-up time at which a rate is held
	Points    int           // of the loss curve
	Outage    time.Duration // recovery: how long the server is away
}

// DefaultStress returns the plan before anything is read.
func DefaultStress() *Stress {
	s := &Stress{
		Common: defaultCommon(),
		Name:   "stress", Seed: 1,
		Calls: 100, CallsPerConnection: 1, Rate: 100, Ramp: RampNone, RampTime: 10 * time.Second, RampSteps: 5,
		Duration: 10 * time.Second, Settle: 30 * time.Second,
		Churn: Churn{Away: time.Second},
		User:  "user%d", FirstUser: 1,
		AuthMix: []Weighted[aaa.Method]{{aaa.MSCHAPv2, 1}},
		MPPEMix: []Weighted[Policy]{{Require, 1}},
		Traffic: Traffic{Direction: Echo, Sizes: []int{256}, Pattern: Constant, BurstLen: 64, Quiet: time.Second, Port: 7007},
		Search: Search{
			Trial: 5 * time.Second, Loss: 0.1, Precision: 2, MinPPS: 1000, MaxPPS: 2_000_000, Share: 80,
			MaxRate: 20_000, MaxSetup: time.Second, Points: 10, Outage: 2 * time.Second,
		},
	}
	s.IPv6 = false
	s.Log.Level = "error" // the report has the calls that fail
	return s
}

// fields is the table of stress. Of Common it takes all but what the mixes
// stand for and what needs a TUN device.
func (s *Stress) fields() []field {
	t, q := &s.Traffic, &s.Search
	fs := []field{
		{"name", text{&s.Name, "name", checkText}, "title of the report"},
		{"seed", integer{&s.Seed, 0, math.MaxInt32}, "what random choices come from; the same plan and seed make the same run"},
		{"server", text{&s.Server, "host", checkServer}, "server to call: HOST or HOST:PORT"},
		{"source", &list[pool.Range]{&s.Source, "ranges", "FIRST-LAST, a prefix or an address", 64, pool.ParseRange}, "our addresses, used in turn; none: the kernel's choice"},
		{"test", &list[Test]{&s.Tests, "tests", joinWords(tests), len(tests), parseTest}, "what to find out, in this order; calls: just make them and send the traffic"},

		{"calls", integer{&s.Calls, 1, maxStressCalls}, "number of calls"},
		{"calls-per-connection", integer{&s.CallsPerConnection, 1, 65535}, "calls in one control connection"},
		{"rate", integer{&s.Rate, 1, maxCallRate}, "calls to begin a second, whatever became of those before"},
		{"ramp", word[Ramp]{&s.Ramp, []Ramp{RampNone, RampLinear, RampSteps}}, "how that rate is reached"},
		{"ramp-time", duration{&s.RampTime, 0, maxStressTime}, "and in what time"},
		{"ramp-steps", integer{&s.RampSteps, 1, 1000}, "and in how many steps"},
		{"stop-rate", integer{&s.StopRate, 0, maxCallRate}, "calls to end a second, 0: as rate"},
		{"duration", duration{&s.Duration, 0, maxStressTime}, "how long the load lasts once the calls are up"},
		{"settle", duration{&s.Settle, time.Second, hour}, "how long to wait for the last calls to come up, and to end"},
		{"retry", duration{&s.Retry, 0, hour}, "pause before a call that failed or was lost is placed again, 0: it is not"},
		{"churn.life", duration{&s.Churn.Life, 0, maxStressTime}, "time a call stays up, 0: to the end"},
		{"churn.jitter", duration{&s.Churn.Jitter, 0, maxStressTime}, "more or less"},
		{"churn.away", duration{&s.Churn.Away, 0, maxStressTime}, "time until it comes back"},
		{"storm", duration{&s.Storm, 0, maxStressTime}, "time between storms, where all calls are lost and come back at once, 0: none"},
		{"kill-rate", number{&s.KillRate, 0, maxCallRate}, "control connections to close a second without ceremony; their calls come back after churn.away"},

		{"user", text{&s.User, "name", checkUser}, "user name; %d is the number of the call"},
		{"first-user", integer{&s.FirstUser, 0, math.MaxInt32}, "first such number"},
		{"password-file", text{&s.PasswordFile, "file", checkText}, "file with the password in its first line"},
		{"users-file", text{&s.UsersFile, "file", checkText}, "users and passwords instead, in the format of pppd's chap-secrets, used in turn"},
		{"allow-world-readable-secrets", boolean{&s.AllowWorldReadableSecrets}, "take a file with secrets that every user can read"},
		{"auth", &list[Weighted[aaa.Method]]{&s.AuthMix, "mix", "METHOD or METHOD=WEIGHT of pap, chap, mschapv1, mschapv2", 4, weighted(aaa.ParseMethod)}, "authentication methods of the calls"},
		{"mppe", &list[Weighted[Policy]]{&s.MPPEMix, "mix", "POLICY or POLICY=WEIGHT of deny, allow, prefer, require", 4, weighted(parsePolicy)}, "encryption of the calls; where authentication gives no keys there is none"},

		{"traffic", loadRate{&t.Rate}, "packets or bits a second through the calls"},
		{"traffic-per-call", boolean{&t.PerCall}, "that is the rate of each call, not of all together"},
		{"direction", word[Direction]{&t.Direction, []Direction{Echo, Up, Down, Both}}, "echo: the far side sends each packet back; the others need a responder there, see --responder"},
		{"size", &list[int]{&t.Sizes, "bytes", "64 to 3700", 32, parseSize}, "IP packet sizes; calls takes turns, other tests take one after the other"},
		{"imix", boolean{&t.IMIX}, "a mix of sizes instead: 7 of 64, 4 of 576, 1 of 1400 bytes"},
		{"traffic-ipv6", boolean{&t.IPv6}, "send IPv6"},
		{"pattern", word[Pattern]{&t.Pattern, []Pattern{Constant, Burst, RampUp}}, "how packets follow each other"},
		{"burst", integer{&t.BurstLen, 1, 1 << 20}, "packets at a time, with pattern burst"},
		{"far", address{&t.Far}, "inside address of the far side; none: the server's"},
		{"port", integer{&t.Port, 1, 65535}, "UDP port there"},
		{"quiet", duration{&t.Quiet, 0, time.Minute}, "how long to wait for packets under way at the end"},

		{"search.trial", duration{&q.Trial, 100 * time.Millisecond, hour}, "length of one try"},
		{"search.loss", number{&q.Loss, 0, 100}, "percent lost that the partial-drop rate allows"},
		{"search.precision", number{&q.Precision, 0.01, 50}, "percent of the result at which a search ends"},
		{"search.min-pps", number{&q.MinPPS, 1, maxPacketRate}, "lowest rate tried"},
		{"search.max-pps", number{&q.MaxPPS, 1, maxPacketRate}, "highest rate tried"},
		{"search.share", number{&q.Share, 1, 100}, "percent of the throughput at which latency is measured"},
		{"search.points", integer{&q.Points, 2, 100}, "points of the loss curve"},
		{"search.max-rate", integer{&q.MaxRate, 1, maxCallRate}, "highest set-up rate tried"},
		{"search.max-setup", duration{&q.MaxSetup, time.Millisecond, hour}, "99th percentile of the set-up time at which a rate is held"},
		{"search.outage", duration{&q.Outage, 0, hour}, "recovery: how long the server is away"},
	}
	for _, f := range s.Common.fields() {
		if !slices.Contains([]string{"auth", "mppe", "tun"}, f.key) {
			fs = append(fs, f)
		}
	}
	return fs
}

var tests = []Test{TestCalls, TestThroughput, TestLatency, TestLossCurve, TestBackToBack, TestSetupRate, TestCapacity, TestSoak, TestRecovery}

func parseTest(s string) (Test, error) {
	if !slices.Contains(tests, Test(s)) {
		return "", fmt.Errorf("%q is none of %s", s, joinWords(tests))
	}
	return Test(s), nil
}

func parsePolicy(s string) (Policy, error) {
	var p Policy
	return p, word[Policy]{&p, []Policy{Deny, Allow, Prefer, Require}}.Set(s)
}

func parseSize(s string) (int, error) {
	n := 0
	return n, integer{&n, 64, maxMTU}.Set(s)
}

// weighted reads CHOICE or CHOICE=WEIGHT.
func weighted[T comparable](parse func(string) (T, error)) func(string) (Weighted[T], error) {
	return func(s string) (w Weighted[T], err error) {
		choice, weight, given := strings.Cut(s, "=")
		w.Weight = 1
		if given {
			if err := (integer{&w.Weight, 1, 1_000_000}).Set(weight); err != nil {
				return w, fmt.Errorf("weight of %s: %w", choice, err)
			}
		}
		w.Choice, err = parse(choice)
		return w, err
	}
}

func checkUser(s string) error {
	if strings.Count(s, "%") != strings.Count(s, "%d") || strings.Count(s, "%d") > 1 {
		return fmt.Errorf("%q may hold %%d once and no other %%", s)
	}
	return checkText(s)
}

// number is a number that need not be whole.
type number struct {
	p        *float64
	min, max float64
}

func (v number) Set(s string) error {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(f) {
		return fmt.Errorf("%q is not a number: allowed are %s", s, v.allowed())
	}
	if f < v.min || f > v.max {
		return fmt.Errorf("%s is out of range: allowed are %s", s, v.allowed())
	}
	*v.p = f
	return nil
}
func (v number) String() string { return strconv.FormatFloat(*v.p, 'f', -1, 64) }
func (v number) Type() string   { return "number" }
func (v number) allowed() string {
	return number{&v.min, 0, 0}.String() + " to " + number{&v.max, 0, 0}.String()
}
func (v number) get() any { return *v.p }

// loadRate is a rate of packets or bits, or none.
type loadRate struct{ p *LoadRate }

var rateUnits = []struct {
	suffix string
	factor float64
	bits   bool
}{
	{"Mpps", 1e6, false},
	{"kpps", 1e3, false},
	{"pps", 1, false},
	{"Gbit/s", 1e9, true},
	{"Mbit/s", 1e6, true},
	{"kbit/s", 1e3, true},
	{"bit/s", 1, true},
}

func (v loadRate) Set(s string) error {
	if s == "none" {
		*v.p = LoadRate{}
		return nil
	}
	for _, u := range rateUnits {
		n, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		f, err := strconv.ParseFloat(strings.TrimSpace(n), 64)
		f *= u.factor
		limit := float64(maxPacketRate)
		if u.bits {
			limit = maxBitRate
		}
		switch {
		case err != nil || math.IsNaN(f):
			return fmt.Errorf("%q is not a rate such as %s", s, v.allowed())
		case f < 1 || f > limit:
			return fmt.Errorf("%s is out of range: allowed are %s to %s", s, LoadRate{PPS: 1}, v.limit(u.bits))
		case u.bits:
			*v.p = LoadRate{BPS: f}
		default:
			*v.p = LoadRate{PPS: f}
		}
		return nil
	}
	return fmt.Errorf("%q is not a rate such as %s", s, v.allowed())
}

func (loadRate) limit(bits bool) string {
	if bits {
		return "200Gbit/s"
	}
	return "20Mpps"
}
func (v loadRate) String() string { return v.p.String() }
func (loadRate) Type() string     { return "rate" }
func (loadRate) allowed() string  { return "50000pps, 100Mbit/s or none" }
func (v loadRate) get() any       { return v.String() }

// BindStress adds a flag for every key of stress, and --plan. The function it
// returns is for use after parsing, as with BindServe.
func BindStress(fs *pflag.FlagSet) func() (*Stress, error) {
	given := bindTo(fs, DefaultStress().fields(), "plan", "read the plan from this file; flags go ahead of it")
	return func() (*Stress, error) {
		s := DefaultStress()
		if err := given.apply(&s.source, s.fields()); err != nil {
			return nil, err
		}
		return s, s.Validate()
	}
}

// ParseStress reads the text of a plan; name stands before the line in errors.
func ParseStress(name string, text []byte) (*Stress, error) {
	s := DefaultStress()
	if err := s.read(name, text, s.fields()); err != nil {
		return nil, err
	}
	return s, s.Validate()
}

// Validate checks what the settings say together.
func (s *Stress) Validate() error {
	s.Auth, s.MPPE = nil, Deny
	for _, m := range s.AuthMix {
		s.Auth = append(s.Auth, m.Choice)
	}
	for _, p := range s.MPPEMix {
		if p.Choice != Deny {
			s.MPPE = p.Choice
		}
	}
	errs := s.Common.validate()
	fail := func(key, format string, args ...any) {
		errs = append(errs, s.fault(key, format, args...))
	}
	if len(s.MPPEMix) == 0 {
		fail("mppe", "must not be empty")
	}
	if s.Churn.Jitter > s.Churn.Life {
		fail("churn.jitter", "%s is more than churn.life, %s", shortTime(s.Churn.Jitter), shortTime(s.Churn.Life))
	}
	if len(s.Traffic.Sizes) == 0 && !s.Traffic.IMIX {
		fail("size", "must not be empty")
	}
	for _, n := range s.Traffic.Sizes {
		if n > s.MTU {
			fail("size", "%d is larger than mtu, %d", n, s.MTU)
		}
		if s.Traffic.IPv6 && n < minSize6 {
			fail("size", "%d is too small for IPv6, which needs %d", n, minSize6)
		}
	}
	if s.Traffic.IPv6 && !s.IPv6 {
		fail("traffic-ipv6", "needs ipv6")
	}
	if s.Search.MinPPS > s.Search.MaxPPS {
		fail("search.min-pps", "%v is more than search.max-pps, %v", s.Search.MinPPS, s.Search.MaxPPS)
	}
	if n := s.SourceCount(); n > maxSources {
		fail("source", "%d addresses are too many: at most %d are allowed", n, maxSources)
	}
	return errors.Join(errs...)
}

const (
	maxSources = 4096
	minSize6   = 96 // IPv6, UDP and what a packet is known by
)

// SourceCount is the number of source addresses.
func (s *Stress) SourceCount() (n int) {
	for _, r := range s.Source {
		n += r.Size()
	}
	return n
}

// Sources lists the source addresses.
func (s *Stress) Sources() (all []netip.Addr) {
	for _, r := range s.Source {
		for a := r.First; !r.Last.Less(a); a = a.Next() {
			all = append(all, a)
		}
	}
	return all
}

// PlanYAML is the whole plan, defaults included, as a file that --plan takes.
func (s *Stress) PlanYAML() string { return fileText(s.fields()) }

// PlanJSON is the whole plan for a report.
func (s *Stress) PlanJSON() (json.RawMessage, error) { return json.Marshal(tree(s.fields())) }

// Dial is what a Caller is made with.
func (s *Stress) Dial() *Dial {
	return &Dial{Common: s.Common, Server: s.Server, Calls: s.Calls, CallsPerConnection: s.CallsPerConnection, Source: s.Sources()}
}

// Password reads the password file.
func (s *Stress) Password() (aaa.Secret, error) {
	d := Dial{Common: s.Common, PasswordFile: s.PasswordFile, AllowWorldReadableSecrets: s.AllowWorldReadableSecrets}
	return d.Password()
}

// fileText writes settings as a file that reads back.
func fileText(fs []field) string {
	var b strings.Builder
	section := ""
	for _, f := range fs {
		indent, key := "", f.key
		if s, rest, ok := strings.Cut(f.key, "."); ok {
			if s != section {
				fmt.Fprintf(&b, "%s:\n", s)
				section = s
			}
			indent, key = "  ", rest
		}
		fmt.Fprintf(&b, "%s%s: %s\n", indent, key, yamlText(f.v))
	}
	return b.String()
}
