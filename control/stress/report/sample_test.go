package report

import (
	"math"
	"math/rand/v2"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// sample is a result with everything in it, the same every time.
func sample() *Result {
	rng := rand.New(rand.NewPCG(1, 2))
	hist := func(n int, median, spread, most float64) *hdrhistogram.Histogram { // microseconds
		h := hdrhistogram.New(1, int64(time.Hour/time.Microsecond), 3)
		for range n {
			_ = h.RecordValue(int64(min(median*math.Exp(spread*rng.NormFloat64()), most)))
		}
		return h
	}
	phase := func(median float64) *MS { return PhaseOf(hist(10000, median, 0.5, 2e5), time.Microsecond) }
	r := &Result{
		Name: "lab: 10,000 calls, throughput, loss & latency", Valid: true, Seed: 42,
		Plan: []byte(`{"calls":{"count":10000,"rate":2500,"auth":"mschapv2","mppe":128},"traffic":{"sizes":[64,512,1400]}}`),
		Environment: Environment{
			Version: "v0.2.0", Kernel: "6.18.0", CPU: "AMD EPYC 9R14", CPUs: 2, CipherWay: "avx512", IO: "xsk", Workers: 1,
			Target: "198.18.0.1:1723", Server: "xpptp <lab>", Start: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC), DurationS: 74.5,
			Command: []string{"xpptp", "stress", "--lab", "--calls", "10000", "--rate", "2500"},
		},
		Calls: Calls{
			Attempted: 10000, Up: 9991, Failed: 9, Lost: 2, PeakUp: 9991,
			Failures: map[string]uint64{"lcp-timeout": 6, "auth-failed": 2, "tcp-refused": 1},
			Losses:   map[string]uint64{"peer-terminated": 2},
		},
		Setup: Setup{
			Rate: 2431.7, AskedRate: 2500, MS: MSOf(hist(9991, 7800, 0.6, 3e5), time.Microsecond),
			Phases: Phases{
				TCP: phase(180), Start: phase(420), Call: phase(390), LCP: phase(1500),
				Auth: phase(2400), CCP: phase(900), IPCP: phase(1100), FirstPacket: phase(650),
			},
			Rate1S:    &Series{BinS: 1, Values: []float64{2350, 2490, 2501, 2280, 370}},
			Rate100MS: &Series{BinS: 0.1},
		},
		Traffic: Traffic{
			Packets: Packets{
				Sent: 12_000_000, Received: 11_999_240, Lost: 760, Duplicated: 3, Reordered: 41, Corrupted: 0, LossPercent: 0.00633,
				SentPPS: 200_000, ReceivedPPS: 199_987, SentBPS: 1.02e9, ReceivedBPS: 1.0199e9,
			},
			AskedPPS: 200_000, DurationS: 60,
			SentSeries:     &Series{BinS: 1},
			ReceivedSeries: &Series{BinS: 1},
			Drops:          map[string]uint64{"gre-out-of-order": 41, "mppe-no-key": 7},
		},
		Generator: Generator{CPUPercent: 71, CPUTotalPercent: 118, LateStarts: 12, LateSends: 240, PeakBytes: 310e6},
		Server:    &Server{CPUPercent: 64, CPUTotalPercent: 77, PeakBytes: 190e6},
		Notes:     []string{"Server and generator share 2 processors."},
	}
	up := 0.0
	for i := range 75 {
		at := float64(i) * 0.1
		step := 250.0
		if at > 4.1 {
			step = 0
		}
		up = min(up+step, 9991)
		r.Calls.States = append(r.Calls.States, CallStates{
			AtS: at, Connecting: uint64(step / 12), Negotiating: uint64(step / 5), Up: uint64(up), Failed: uint64(up / 1110),
		})
		if i < 42 {
			r.Setup.Rate100MS.Values = append(r.Setup.Rate100MS.Values, math.Round(2450+200*math.Sin(at*9)+80*rng.NormFloat64()))
		}
	}
	for i := range 60 {
		sent := 200_000 + 300*math.Sin(float64(i))
		r.Traffic.SentSeries.Values = append(r.Traffic.SentSeries.Values, math.Round(sent))
		if i%17 == 5 {
			sent *= 0.97
		}
		r.Traffic.ReceivedSeries.Values = append(r.Traffic.ReceivedSeries.Values, math.Round(sent))
	}
	rtt, jitter := USOf(hist(200_000, 180, 0.55, 9000), time.Microsecond), USOf(hist(100_000, 3, 0.8, 700), time.Microsecond)
	r.Latency = Latency{Kind: RoundTrip, US: rtt}
	oneWay := USOf(hist(200_000, 85, 0.5, 7000), time.Microsecond)
	r.OneWay = &Latency{Kind: OneWay, US: oneWay}
	r.Traffic.Jitter, r.Generator.SendDelay = &jitter, &jitter
	for _, d := range []string{"up", "down"} {
		p := r.Traffic.Packets
		p.Sent, p.Received, p.Lost = p.Sent/2, p.Received/2, p.Lost/2
		p.SentPPS, p.ReceivedPPS, p.SentBPS, p.ReceivedBPS = p.SentPPS/2, p.ReceivedPPS/2, p.SentBPS/2, p.ReceivedBPS/2
		r.Traffic.Directions = append(r.Traffic.Directions, Direction{d, p})
	}
	for _, size := range []int{64, 256, 512, 1024, 1400} {
		ns := 1900 + 1.1*float64(size) // of a packet
		ndr := math.Round(1e9 / ns)
		bits := 8 * float64(size)
		p := Packets{Sent: 2_400_000, Received: 2_399_848, Lost: 152, LossPercent: 0.00633, SentPPS: 40_000, ReceivedPPS: 39_997, SentBPS: 40_000 * bits, ReceivedBPS: 39_997 * bits}
		r.Traffic.Sizes = append(r.Traffic.Sizes, Size{size, p})
		tp := Throughput{SizeBytes: size, NDRPPS: ndr, NDRBPS: ndr * bits, PDRPPS: ndr * 1.12, PDRBPS: ndr * 1.12 * bits, PDRLossPercent: 0.1}
		curve := LossCurve{SizeBytes: size}
		for share := 0.5; share <= 1.501; share += 0.1 {
			sent := math.Round(ndr * share)
			got := math.Round(min(sent, ndr*1.1*(1-max(0, share-1.1)*0.3)))
			point := LossPoint{OfferedPPS: sent, SentPPS: sent, ReceivedPPS: got, LossPercent: 100 * (sent - got) / sent}
			curve.Points = append(curve.Points, point)
			if len(tp.Steps) < 6 {
				tp.Steps = append(tp.Steps, point)
			}
		}
		r.Tests.Throughput = append(r.Tests.Throughput, tp)
		r.Tests.Loss = append(r.Tests.Loss, curve)
		r.Tests.BackToBack = append(r.Tests.BackToBack, BackToBack{size, uint64(2e6 / ns * 100), 200})
		us := rtt
		us.Curve = nil
		r.Tests.Latency = append(r.Tests.Latency, LatencyAt{size, 90, math.Round(ndr * 0.9), Latency{RoundTrip, us}})
	}
	r.Tests.SetupRate = &SetupSearch{Rate: 2750, Steps: []SetupStep{
		{AskedRate: 1000, Rate: 999.8, Attempted: 5000, P99MS: 14, Held: true},
		{AskedRate: 2000, Rate: 1999, Attempted: 10000, P99MS: 22, Held: true},
		{AskedRate: 4000, Rate: 2810, Attempted: 20000, Failed: 812, P99MS: 1840, Reason: "812 calls failed"},
		{AskedRate: 3000, Rate: 2790, Attempted: 15000, Failed: 3, P99MS: 640, Reason: "3 calls failed"},
		{AskedRate: 2750, Rate: 2748, Attempted: 13750, P99MS: 61, Held: true},
	}}
	r.Tests.Capacity = &Capacity{Calls: 63_104, Limit: "the server refused calls: no resource"}
	r.Tests.Soak = &Soak{DurationS: 3600, ServerStartBytes: 181e6, ServerEndBytes: 184e6}
	r.Tests.Recovery = &Recovery{Calls: 1000, Back: 1000, OutageMS: 5000, FirstMS: 340, AllMS: 2210}
	r.Expectations = []Expectation{
		{Text: "traffic.loss<0.001%", Value: 0.00633},
		{Text: "setup.p99<200ms", Value: r.Setup.P99MS, Held: true},
	}
	return r
}
