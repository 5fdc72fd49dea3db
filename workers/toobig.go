package workers

import (
	"net/netip"

	"xpptp/engine"
	"xpptp/engine/wire"
	"xpptp/rings"
)

// tooBig deals with an inside packet that is larger than the call's room:
// IPv4 without DF is fragmented, with DF answered; IPv6 gets a Packet Too Big.
func (w *Worker) tooBig(c *Call, f *rings.Frame, proto uint16) {
	if proto == wire.PPPIPv6 {
		w.answer(c, f, func(b []byte, src netip.Addr) int {
			return wire.PutPacketTooBig(b, src.As16(), wire.IPv6(f.Data()), uint32(c.Room))
		}, w.cfg.LocalV6)
		return
	}
	ip := wire.IPv4(f.Data())
	if ip.DF() {
		w.answer(c, f, func(b []byte, src netip.Addr) int {
			return wire.PutFragNeeded(b, src.As4(), ip, c.Room)
		}, w.cfg.LocalV4)
		return
	}
	var fr wire.Fragmenter
	if d := fr.Init(ip, int(c.Room)); d != engine.Pass {
		w.drop(f, c, d)
		return
	}
	for fr.More() {
		g := w.cfg.Pool.Get()
		if g == nil {
			w.drop(f, c, engine.NoFrame) // the rest of the packet is lost with it
			return
		}
		w.flow.Made++
		b := g.Extend(int(c.Room))
		g.Trim(fr.Next(b))
		w.enqueue(c, g, proto)
	}
	w.flow.Consumed++
	f.Free()
}

// answer sends an ICMP error about f back into the inside, rate-limited, and
// drops f.
func (w *Worker) answer(c *Call, f *rings.Frame, put func(b []byte, src netip.Addr) int, src netip.Addr) {
	if src.IsValid() && w.icmp.take(w.now) {
		if g := w.cfg.Pool.Get(); g != nil {
			b := g.Extend(min(1280, len(g.Chunk())-rings.UMEMHeadroom-rings.Tailroom))
			if n := put(b, src); n > 0 {
				g.Trim(n)
				w.flow.Made++
				w.in = append(w.in, g)
			} else {
				g.Free()
			}
		}
	}
	w.drop(f, c, engine.TooBig)
}

// icmpBucket limits the ICMP errors a worker sends.
type icmpBucket struct {
	tokens int64
	last   int64
}

const (
	icmpBurst    = 50
	icmpInterval = int64(1e6) // 1000 a second
)

func (b *icmpBucket) take(now int64) bool {
	if b.last == 0 {
		b.last, b.tokens = now, icmpBurst
	}
	if n := (now - b.last) / icmpInterval; n > 0 {
		b.last += n * icmpInterval
		b.tokens = min(icmpBurst, b.tokens+n)
	}
	if b.tokens == 0 {
		return false
	}
	b.tokens--
	return true
}
