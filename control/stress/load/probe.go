package load

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"xpptp/engine/traffic"
	"xpptp/rings"
)

// probe finds out how long it takes until a packet has come back through a
// call. The port's owner has it to itself after it was posted.
type probe struct {
	call *Call
	tmpl traffic.Template
	back traffic.Path
	src  *source
	up   int64 // when the call came up
	done bool
}

// ProbePort is our UDP port for probes: in front of those of profiles.
const ProbePort = SourcePort - 1

// A probe is sent at once, and again after a time that doubles, until it has
// come back or as often as that.
const (
	probeAgain = int64(5 * time.Millisecond)
	maxProbes  = 10 // the last 2.6 s after the first
	probeSize  = 84 // IP packet: the smallest that IPv6 takes, too
)

// First is what came of the probes of all calls since New.
type First struct {
	Sent, Back uint64                  // packets
	Silent     uint64                  // calls that were given up, or have ended before
	Times      *hdrhistogram.Histogram // ns, from when a call came up
}

func newFirst() First { return First{Times: hdrhistogram.New(1, longest, 3)} }

// First asks all ports what came of the probes. It needs the workers running.
func (l *Load) First(ctx context.Context) (First, error) {
	sum := newFirst()
	for _, p := range l.ports {
		if p == nil {
			return sum, errors.New("load: asked before its ports were made")
		}
		f, err := ask(ctx, p, func() First {
			f := p.first
			f.Times = f.Times.Clone()
			return f
		})
		if err != nil {
			return sum, err
		}
		sum.Sent += f.Sent
		sum.Back += f.Back
		sum.Silent += f.Silent
		sum.Times.Merge(f.Times)
	}
	return sum, nil
}

// newProbe makes a call's probe; nil if it has no address to send to.
func (l *Load) newProbe(c *Call) *probe {
	path := traffic.Path{Src: netip.AddrPortFrom(c.cfg.V4, ProbePort), Dst: c.cfg.Far4}
	if path.Check() != nil {
		path = traffic.Path{Src: netip.AddrPortFrom(c.cfg.V6, ProbePort), Dst: c.cfg.Far6}
	}
	pr := &probe{call: c, back: traffic.Path{Src: path.Dst, Dst: path.Src}, up: l.cfg.Clock() - int64(c.cfg.Age)}
	if pr.tmpl.Init(path, 0, l.next, 0, l.cfg.ClockID) != nil {
		return nil
	}
	l.next++
	pr.src = &source{probe: pr}
	return pr
}

// seek begins a probe.
func (p *Port) seek(pr *probe) {
	p.probes[pr.tmpl.Stream()] = pr
	pr.src.at = p.clock()
	p.schedule(pr.src)
}

// forget ends a probe.
func (p *Port) forget(pr *probe) {
	if pr.src.waiting {
		p.first.Silent++ // the call has ended before
	}
	delete(p.probes, pr.tmpl.Stream())
	p.cancel(pr.src)
}

// again puts the probes that still wait into a calendar that was cleared.
func (p *Port) again() {
	for _, pr := range p.probes {
		if pr.src.waiting {
			p.schedule(pr.src)
		}
	}
}

// probe writes a probe that was taken out of the calendar into a frame. It
// returns nil if there was the last, or no frame.
func (p *Port) probe(src *source, now int64) *rings.Frame {
	pr := src.probe
	switch {
	case src.asked == maxProbes:
		p.first.Silent++
		p.drop(src)
		return nil
	case p.pool.Free() <= p.l.cfg.Reserve:
		p.sender.NoFrame++
		src.at = now + int64(time.Millisecond)
		p.cal.Put(src.entry, src.at)
		return nil
	}
	f := p.pool.Get()
	f.Reset(rings.UMEMHeadroom+pr.tmpl.Align(), probeSize)
	pr.tmpl.Put(f.Data(), src.asked, now, now)
	src.at = now + probeAgain<<src.asked
	src.asked++
	p.first.Sent++
	p.cal.Put(src.entry, src.at)
	pr.call.tap(f.Data())
	return f
}

// found takes a probe that has come back.
func (p *Port) found(pr *probe, now int64) {
	p.first.Back++
	if pr.done {
		return
	}
	pr.done = true
	record(p.first.Times, now-pr.up)
	p.cancel(pr.src)
}
