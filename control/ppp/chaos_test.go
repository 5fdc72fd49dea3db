package ppp

import (
	"fmt"
	"os"
	"strconv"
	"testing"
)

// chaosSeeds is how many seeds TestChaos runs; PPP_CHAOS_SEEDS asks for more.
func chaosSeeds() uint64 {
	if n, err := strconv.ParseUint(os.Getenv("PPP_CHAOS_SEEDS"), 10, 64); err == nil {
		return n
	}
	if testing.Short() {
		return 300
	}
	return 3000
}

// chaosConfigs draws a pair of configurations and says what a perfect link
// would make of them.
func chaosConfigs(s *sim, server, client *Config) {
	pick := func(n int) int { return s.rnd.IntN(n) }
	methods := [][]Method{{MSCHAPv2}, {MSCHAPv2, MSCHAPv1}, {MSCHAPv1}, {CHAPMD5, MSCHAPv2}, {PAP}, {MSCHAPv2, CHAPMD5, PAP}}
	server.Auth, client.Auth = methods[pick(len(methods))], methods[pick(len(methods))]
	for _, c := range []*Config{server, client} {
		c.MPPE = Policy{
			Mode: MPPEMode(pick(4)), Bits: []Bits{Bits128, Bits128 | Bits40, Bits40 | Bits56 | Bits128, Bits40}[pick(4)],
			Stateful: Stateful(pick(3)), IPCPWaitsForCCP: pick(2) == 0,
		}
		c.IPv6 = pick(3) > 0
		c.OfferPFC, c.OfferACFC, c.OfferACCM = pick(2) == 0, pick(2) == 0, pick(2) == 0
		c.MRU = []uint16{1400, 1500, 1460, 0}[pick(4)]
	}
	if pick(8) == 0 {
		client.Password = "wrong"
		server.AuthRetries, client.AuthRetries = uint8(pick(3)), uint8(pick(3))
	}
}

// TestChaos runs both ends over a link that loses, duplicates, delays and
// reorders, then over one that does not, and asserts that they end up in a
// defined state: both up with the same options, or both down, each with a
// reason.
func TestChaos(t *testing.T) {
	var ups, downs int
	reasons := map[ReasonCode]int{}
	for seed := range chaosSeeds() {
		s := newSim(t, seed, serverConfig(), clientConfig())
		chaosConfigs(s, s.a.link.cfg, s.b.link.cfg)
		s.loss, s.dup = 0.15*s.rnd.Float64(), 0.1*s.rnd.Float64()
		s.reorder, s.jitter = 0.2*s.rnd.Float64(), 1+s.rnd.Int64N(ms(4000))
		s.a.authDelay = s.rnd.Int64N(ms(3500))
		s.b.link.Open(s.now)
		s.run(s.rnd.Int64N(ms(2000)))
		s.a.link.Open(s.now)
		a, b := s.a, s.b
		traffic := func(until int64) {
			for s.now < until {
				a.data()
				b.data()
				s.run(s.now + ms(500))
			}
		}
		traffic(s.now + ms(60_000))
		// Calm: what is under way now decides.
		s.loss, s.dup, s.reorder = 0, 0, 0
		s.run(s.now + ms(10_000))
		traffic(s.now + ms(10_000))
		s.run(s.now + ms(90_000))
		a.dataSent, b.dataSent, a.dataRead, b.dataRead = 0, 0, 0, 0
		traffic(s.now + ms(5_000))
		s.run(s.now + ms(100))
		if len(a.downs) != len(b.downs) || len(a.downs) > 1 {
			s.dump(t)
			t.Fatalf("seed %d: one end is down: %v, %v", seed, a.downs, b.downs)
		}
		if v := append(a.violations, b.violations...); len(v) > 0 {
			s.dump(t)
			t.Fatalf("seed %d: %v", seed, v)
		}
		if a.dataSent != b.dataRead || b.dataSent != a.dataRead || len(a.downs) == 0 && a.transmit != nil && a.dataSent == 0 {
			s.dump(t)
			t.Fatalf("seed %d: up and dead: %d sent, %d read; %d sent, %d read", seed, a.dataSent, b.dataRead, b.dataSent, a.dataRead)
		}
		perfect := newSim(t, seed, *a.link.cfg, *b.link.cfg)
		perfect.open()
		perfect.run(ms(60_000))
		if difference := compare(perfect, s); difference != "" {
			s.dump(t)
			t.Fatalf("seed %d: %s", seed, difference)
		}
		if len(a.downs) == 0 {
			ups++
			if !agrees(t, s) {
				s.dump(t)
				t.Fatalf("seed %d", seed)
			}
			s.b.link.Close(s.now, Reason{Code: UserRequest})
			s.run(s.now + ms(30_000))
			if len(a.downs) != 1 || len(b.downs) != 1 {
				t.Fatalf("seed %d: %v, %v after Close", seed, a.downs, b.downs)
			}
		} else {
			downs++
			for _, r := range []Reason{a.downs[0], b.downs[0]} {
				reasons[r.Code]++
				if r.Code == Unknown || r.Code == UserRequest {
					s.dump(t)
					t.Fatalf("seed %d: %v, %v", seed, a.downs, b.downs)
				}
			}
		}
		if d := min(a.link.Deadline(), b.link.Deadline()); d != never {
			t.Fatalf("seed %d: a timer runs after the end", seed)
		}
	}
	t.Logf("%d up, %d down; reasons %v", ups, downs, reasons)
	if ups == 0 || downs == 0 {
		t.Error("the seeds do not cover both outcomes")
	}
}

const never = 1<<63 - 1

// agrees runs checkUp without giving up on the first failure.
func agrees(t *testing.T, s *sim) bool {
	t.Helper()
	return t.Run("agree", func(t *testing.T) { checkUp(t, s) })
}

// compare holds the outcome over a bad link against that over a perfect one.
// The bad link may end a call for silence, and may find encryption or a
// network refused by silence; what it brings up must be the same.
func compare(perfect, bad *sim) string {
	pa, a := perfect.a, bad.a
	silence := false
	for _, e := range []*end{bad.a, bad.b} {
		for _, r := range e.downs {
			silence = silence || r.Code == NoAnswer || r.Code == AuthTimeout || r.Code == NoNetwork
		}
	}
	switch {
	case silence:
		return ""
	case len(pa.downs) != len(a.downs):
		return fmt.Sprintf("down %v, %v; over a perfect link %v, %v", a.downs, bad.b.downs, pa.downs, perfect.b.downs)
	case len(pa.downs) > 0:
		return ""
	case a.lcp[len(a.lcp)-1].Auth != pa.lcp[len(pa.lcp)-1].Auth:
		return "another method than over a perfect link"
	case (a.transmit == nil) != (pa.transmit == nil) || a.transmit != nil && a.transmit.Bits != pa.transmit.Bits:
		return fmt.Sprintf("cipher %+v; over a perfect link %+v", a.transmit, pa.transmit)
	case len(a.up) > len(pa.up):
		return fmt.Sprintf("networks %v; over a perfect link %v", a.up, pa.up)
	}
	return ""
}
