package stress

import (
	"context"
	"net/netip"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"xpptp/control"
	"xpptp/control/config"
	"xpptp/control/stress/load"
	"xpptp/control/stress/report"
	engine "xpptp/engine/traffic"
	"xpptp/rings"
)

// traffic is what goes through the calls of a run, by a load.Load.
type traffic struct {
	*load.Load
	plan    *config.Traffic
	workers int
	far     netip.Addr
	log     func(msg string, args ...any)

	capture        *capture // nil: none
	sent, received report.Series
	last           engine.Counts // at the end of the series
	skipped        uint64        // packets that were not sent, in the last run
}

// newTraffic makes a box's load and puts it inside. far is the inside address
// of the far side, if the plan does not say another.
func newTraffic(p *config.Stress, c *control.Caller, far netip.Addr, log func(string, ...any)) (*traffic, error) {
	l, err := load.New(load.Config{Workers: c.Workers(), Seed: uint64(p.Seed)})
	if err != nil {
		return nil, err
	}
	c.SetInside(l.Inside)
	t := &traffic{Load: l, plan: &p.Traffic, workers: c.Workers(), far: far, log: log}
	if p.Traffic.Far.IsValid() {
		t.far = p.Traffic.Far
	}
	return t, nil
}

// add has a client's call, which has been up for age, take part.
func (t *traffic) add(c *client, age time.Duration) {
	far := t.far
	if !far.IsValid() {
		far = c.info.IP // the server's end
	}
	cfg := load.CallConfig{
		Worker: rings.Shard(c.info.CallID, t.workers), Room: c.info.MTU, Tag: c,
		V4: c.info.LocalIP, Far4: netip.AddrPortFrom(far, uint16(t.plan.Port)),
		Probe: true, Age: age,
	}
	if c.info.LocalIP6.IsValid() {
		cfg.V6, cfg.Far6 = c.info.LocalIP6, netip.AddrPortFrom(c.info.IP6, uint16(t.plan.Port))
	}
	if t.capture.wants(c.n) {
		cfg.Tap = t.capture.inside
	}
	var err error
	if c.load, err = t.Add(cfg); err != nil {
		t.log("no traffic through a call", "client", c.n, "err", err)
	}
}

// remove takes it out; its call is over.
func (t *traffic) remove(c *client) {
	if c.load != nil {
		t.Remove(c.load)
		c.load = nil
	}
}

var flows = map[config.Direction]load.Flow{
	config.Echo: load.Echo, config.Up: load.Up, config.Down: load.Down, config.Both: load.Both,
}

// profile is the plan's kind of traffic at a rate; size 0 stands for the
// plan's own mix.
func (t *traffic) profile(rate config.LoadRate, size int, length time.Duration) []load.Profile {
	p := load.Profile{
		Name: "traffic", Flow: flows[t.plan.Direction], V6: t.plan.IPv6, Total: !t.plan.PerCall,
		Schedule: engine.Schedule{Rate: rate.PPS},
	}
	if rate.BPS > 0 {
		p.Schedule = engine.Schedule{Rate: rate.BPS, Unit: engine.Bits}
	}
	switch t.plan.Pattern {
	case config.Constant:
	case config.Burst:
		p.Schedule.Burst = t.plan.BurstLen
	case config.RampUp:
		p.Schedule.To, p.Schedule.Over = p.Schedule.Rate, length
		p.Schedule.Rate /= 100
	}
	switch {
	case size > 0:
		p.Sizes = engine.Fixed(size)
	case t.plan.IMIX:
		p.Sizes = engine.IMIX()
	default:
		for _, n := range t.plan.Sizes {
			p.Sizes.Mix = append(p.Sizes.Mix, engine.Weighted{Size: n, Weight: 1})
		}
	}
	return []load.Profile{p}
}

// run sends for a time, and waits for what is under way. If ctx ends before,
// what was counted until then comes with its error.
func (t *traffic) run(ctx context.Context, rate config.LoadRate, size int, length time.Duration) (*load.Snapshot, error) {
	return t.Run(ctx, t.profile(rate, size, length), length, t.plan.Quiet)
}

// sample adds to the series what passed in the last second; nil if nothing
// goes on.
func (t *traffic) sample(ctx context.Context) *load.Snapshot {
	s, err := t.Snapshot(ctx)
	if err != nil || s.Elapsed == 0 {
		return nil
	}
	n := &s.Traffic
	if n.Sent < t.last.Sent { // another run
		t.last = engine.Counts{}
	}
	t.sent.BinS, t.received.BinS = 1, 1
	t.sent.Values = append(t.sent.Values, float64(n.Sent-t.last.Sent))
	t.received.Values = append(t.received.Values, float64(n.Received-min(n.Received, t.last.Received)))
	t.last = *n
	return s
}

// packets is a snapshot in the words of a report.
func packets(s *load.Snapshot) report.Packets { return counted(&s.Traffic, s.Elapsed) }

func counted(c *engine.Counts, time time.Duration) report.Packets {
	p := report.Packets{
		Sent: c.Sent, Received: c.Received, Lost: c.Lost(),
		Duplicated: c.Duplicated, Reordered: c.Reordered, Corrupted: c.Corrupted,
	}
	if c.Sent > 0 {
		p.LossPercent = float64(c.Lost()) / float64(c.Sent) * 100
	}
	if sec := time.Seconds(); sec > 0 {
		p.SentPPS, p.ReceivedPPS = float64(c.Sent)/sec, float64(c.Received)/sec
		p.SentBPS, p.ReceivedBPS = float64(c.TxBytes)*8/sec, float64(c.RxBytes)*8/sec
	}
	return p
}

func latencyOf(s *load.Snapshot) report.Latency {
	if s.Times.RoundDue.TotalCount() == 0 {
		return report.Latency{}
	}
	return report.Latency{Kind: report.RoundTrip, US: report.USOf(s.Times.RoundDue, time.Nanosecond)}
}

// fill writes a run of traffic into a result.
func (t *traffic) fill(r *report.Result, s *load.Snapshot, asked float64) {
	tr := &r.Traffic
	tr.Packets = packets(s)
	tr.AskedPPS = asked
	tr.AsideSent, tr.AsideReceived = s.Sender.Requests, s.Sender.Reports
	tr.Directions = nil
	for i := range s.Parts {
		if part := &s.Parts[i]; part.Flow != load.Echo {
			tr.Directions = append(tr.Directions, report.Direction{Direction: part.Flow.String(), Packets: counted(&part.Counts, s.Elapsed)})
		}
	}
	tr.DurationS = s.Elapsed.Seconds()
	tr.SentSeries, tr.ReceivedSeries = &t.sent, &t.received
	jitter := report.USOf(s.Times.Jitter, time.Nanosecond)
	tr.Jitter = &jitter
	r.Latency = latencyOf(s)
	for _, h := range []*hdrhistogram.Histogram{s.Times.Up, s.Times.Down} {
		if h.TotalCount() > 0 {
			r.OneWay = &report.Latency{Kind: report.OneWay, US: report.USOf(h, time.Nanosecond)}
			break
		}
	}
	delay := report.USOf(s.Times.Late, time.Nanosecond)
	g := &r.Generator
	g.SendDelay = &delay
	g.LateSends = s.Sender.Late
	t.skipped = s.Sender.Skipped
	g.RingFull = s.Sender.NoFrame
}
