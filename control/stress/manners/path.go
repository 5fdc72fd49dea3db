package manners

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"xpptp/engine/wire"
	"xpptp/rings"
)

// harm is what a path does to the GRE packets of some calls, both ways. It is
// not changed once it is in use.
type harm struct {
	sent, received map[uint16]bool // by the call ID in the packet

	// Of a thousand packets so many are lost, damaged, sent twice, delayed;
	// what comes twice comes the second time, like the delayed, up to late later.
	lose, damage, repeat, delay int
	late                        time.Duration
}

// path is a port behind which the path may be harmful. Like any port it has
// one owner; harm may be set by anybody.
type path struct {
	rings.Port
	pool  *rings.Pool
	rng   *rand.Rand
	now   func() time.Time
	harm  *atomic.Pointer[harm]
	count *harmCount

	out, in []held
	pass    []*rings.Frame // scratch
}

// harmCount counts what paths have done.
type harmCount struct {
	harmed   atomic.Uint64 // packets that were lost, damaged or delayed
	repeated atomic.Uint64 // packets that came once more
}

// held is a packet that is late.
type held struct {
	f  *rings.Frame
	at time.Time
}

// maxHeld bounds the frames that a path keeps, each way; beyond, nothing is
// late.
const maxHeld = 512

// Recv implements rings.Port.
func (p *path) Recv(fs []*rings.Frame) (int, error) {
	n, err := p.Port.Recv(fs)
	if h := p.harm.Load(); h != nil {
		keep := fs[:0]
		for _, f := range fs[:n] {
			if p.treat(h, f, h.received, &p.in) {
				keep = append(keep, f)
			}
		}
		n = len(keep)
	}
	for n < len(fs) {
		f := p.due(&p.in)
		if f == nil {
			break
		}
		fs[n] = f
		n++
	}
	return n, err
}

// Send implements rings.Port.
func (p *path) Send(fs []*rings.Frame) (int, error) {
	h := p.harm.Load()
	if h == nil {
		return p.Port.Send(fs)
	}
	if err := p.release(); err != nil {
		return 0, err
	}
	p.pass = p.pass[:0]
	for _, f := range fs {
		if p.treat(h, f, h.sent, &p.out) {
			p.pass = append(p.pass, f)
		}
	}
	return len(fs), p.forward(p.pass)
}

// Flush implements rings.Port: it also sends what was late and is due.
func (p *path) Flush() error {
	if err := p.release(); err != nil {
		return err
	}
	return p.Port.Flush()
}

// release sends what was late and is due, as far as there is room.
func (p *path) release() error {
	for f := p.due(&p.out); f != nil; f = p.due(&p.out) {
		if err := p.forward([]*rings.Frame{f}); err != nil {
			return err
		}
		if len(p.out) > 0 && p.out[0].f == f {
			break // the port is full
		}
	}
	return nil
}

// forward sends frames; those for which there is no room go first next time.
func (p *path) forward(fs []*rings.Frame) error {
	n, err := p.Port.Send(fs)
	var rest []held
	for _, f := range fs[n:] {
		rest = append(rest, held{f: f})
	}
	if rest != nil {
		p.out = append(rest, p.out...)
	}
	return err
}

// treat does to a packet what the path does. It reports whether it goes on
// now; else it is gone, or held.
func (p *path) treat(h *harm, f *rings.Frame, calls map[uint16]bool, to *[]held) bool {
	payload, ok := p.payload(f, calls)
	if !ok {
		return true
	}
	hit := func(perMille int) bool { return p.rng.IntN(1000) < perMille }
	later := func() time.Time { return p.now().Add(time.Duration(p.rng.Int64N(int64(h.late) + 1))) }
	if hit(h.lose) {
		p.count.harmed.Add(1)
		f.Free()
		return false
	}
	if hit(h.repeat) && len(*to) < maxHeld {
		if again := p.pool.Get(); again != nil {
			if again.Set(f.Data()) {
				*to = append(*to, held{again, later()})
				p.count.repeated.Add(1)
			} else {
				again.Free()
			}
		}
	}
	if hit(h.damage) && len(payload) > 0 {
		p.count.harmed.Add(1)
		bit := p.rng.IntN(8 * len(payload))
		payload[bit/8] ^= 1 << (bit % 8)
	}
	if hit(h.delay) && len(*to) < maxHeld {
		p.count.harmed.Add(1)
		*to = append(*to, held{f, later()})
		return false
	}
	return true
}

// payload is what GRE carries in a packet of one of the calls.
func (p *path) payload(f *rings.Frame, calls map[uint16]bool) ([]byte, bool) {
	b := f.Data()
	if p.Info().Link == rings.LinkEthernet {
		off, kind, d := wire.L3Offset(b)
		if d != 0 || kind != wire.EtherTypeIPv4 {
			return nil, false
		}
		b = b[off:]
	}
	ip, d := wire.ParseIPv4(b)
	if d != 0 || ip.Protocol() != wire.ProtoGRE {
		return nil, false
	}
	g, d := wire.ParseGRE(ip.Payload())
	if d != 0 || !calls[g.CallID()] {
		return nil, false
	}
	return g.Payload(), true
}

// due takes the first packet whose time has come; nil if there is none.
func (p *path) due(from *[]held) *rings.Frame {
	if len(*from) == 0 {
		return nil
	}
	now := p.now()
	for i, h := range *from {
		if !h.at.After(now) {
			*from = append((*from)[:i], (*from)[i+1:]...)
			return h.f
		}
	}
	return nil
}

// pathScenarios are well-behaved calls on a bad path.
var pathScenarios = []Scenario{
	onBadPath("path-loss", "loses a tenth of the packets of twenty calls, both ways", harm{lose: 100}),
	onBadPath("path-reordering", "makes a fifth of the packets of twenty calls up to 5 ms late, so that others overtake them", harm{delay: 200, late: 5 * time.Millisecond}),
	onBadPath("path-duplication", "has half of the packets of twenty calls come twice", harm{repeat: 500}),
	onBadPath("path-replay", "replays every packet of twenty calls, encrypted as it is, within 50 ms", harm{repeat: 1000, late: 50 * time.Millisecond}),
	onBadPath("path-corruption", "flips a bit in a tenth of the packets of twenty calls", harm{damage: 100}),
	onBadPath("path-delay", "makes all packets of twenty calls up to 100 ms late", harm{delay: 1000, late: 100 * time.Millisecond}),
}

func onBadPath(name, does string, h harm) Scenario {
	return Scenario{
		Name:   name,
		Does:   does,
		Should: "keep the calls up, lose no packet but those that the path harmed, deliver none twice",
		run: func(ctx context.Context, a *attack) error {
			v, err := a.beside.victims(ctx, 20, false)
			if err != nil {
				return err
			}
			a.after = v.end // when their traffic is over
			h.sent, h.received = map[uint16]bool{}, map[uint16]bool{}
			for _, g := range v.calls {
				h.sent[g.info.PeerCallID], h.received[g.info.CallID] = true, true
			}
			c := &a.beside.harms
			harmed, repeated := c.harmed.Load(), c.repeated.Load()
			a.beside.harm.Store(&h)
			defer func() {
				a.beside.harm.Store(nil)
				a.Harmed, a.Repeated = c.harmed.Load()-harmed, c.repeated.Load()-repeated
			}()
			<-ctx.Done()
			if err := v.alive(); err != nil {
				return fmt.Errorf("on a bad path: %w", err)
			}
			return nil
		},
	}
}
