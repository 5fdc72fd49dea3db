package workers

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
	"sort"

	"xpptp/engine"
	"xpptp/engine/mppe"
	"xpptp/engine/session"
	"xpptp/engine/wire"
	"xpptp/rings"
)

// From the outside to the inside: parse, sequence, decrypt, check, forward.

// parse finds a frame's session and appends it to w.came.
func (w *Worker) parse(f *rings.Frame, ethernet bool) {
	b := f.Data()
	if ethernet {
		off, etherType, d := wire.L3Offset(b)
		if d == engine.Pass && etherType != wire.EtherTypeIPv4 {
			d = engine.NotIPv4
		}
		if d != engine.Pass {
			w.drop(f, nil, d)
			return
		}
		b = b[off:]
	}
	ip, d := wire.ParseIPv4(b)
	if d != engine.Pass {
		w.drop(f, nil, d)
		return
	}
	switch {
	case ip.IsFragment():
		d = engine.Fragment
	case !ip.HeaderChecksumOK(): // nobody has looked before us (RFC 1122 §3.2.1.2)
		d = engine.BadIPHeader
	case ip.Protocol() != wire.ProtoGRE:
		d = engine.NotGRE
	}
	if d != engine.Pass {
		w.drop(f, nil, d)
		return
	}
	g, d := wire.ParseGRE(ip.Payload())
	if d != engine.Pass {
		w.drop(f, nil, d)
		return
	}
	s, known := w.table.Lookup(g.CallID(), ip.Dst(), ip.Src())
	if s == nil {
		if !w.allowed(ip.Src()) {
			w.drop(f, nil, engine.Source)
			return
		}
		if to := w.team.callOwner(g.CallID()); to != w.cfg.ID {
			setView(f, b)
			w.handOver(f, to, handOutside)
			return
		}
		d = engine.UnknownCall
		if known {
			d = engine.WrongPeer
		}
		w.drop(f, nil, d)
		return
	}
	f.User = uint64(ip.TOS())
	w.came = append(w.came, incoming{f, s.Owner.(*Call), g})
}

// allowed reports whether a peer may have this address.
func (w *Worker) allowed(src [4]byte) bool {
	if len(w.sources) == 0 {
		return true
	}
	a := binary.BigEndian.Uint32(src[:])
	n := sort.Search(len(w.sources), func(i int) bool { return w.sources[i].last >= a })
	return n < len(w.sources) && w.sources[n].first <= a
}

// span is the addresses of a prefix.
type span struct{ first, last uint32 }

// spans sorts prefixes, for a search; of two that overlap the larger remains.
func spans(ps []netip.Prefix) (ss []span) {
	for _, p := range slices.SortedFunc(slices.Values(ps), func(a, b netip.Prefix) int {
		return cmp.Or(a.Masked().Addr().Compare(b.Masked().Addr()), cmp.Compare(a.Bits(), b.Bits()))
	}) {
		b := p.Masked().Addr().As4()
		first := binary.BigEndian.Uint32(b[:])
		if n := len(ss); n > 0 && ss[n-1].last >= first {
			continue // within the one before
		}
		ss = append(ss, span{first, first | uint32(1<<(32-p.Bits())-1)})
	}
	return ss
}

// sequence takes what parse has found through GRE: acknowledgements, then the
// order of packets. What is deliverable is appended to w.ready.
func (w *Worker) sequence() {
	for i := range w.came {
		f, c, g := w.came[i].f, w.came[i].c, w.came[i].gre
		if g.HasAck() {
			c.GRE.Acked(w.now, g.Ack())
			w.unhold(c)
		}
		if !g.HasSeq() {
			w.drops[engine.GREAckOnly]++ // consumed: no loss of the call's
			f.Free()
			continue
		}
		w.touch(c)
		setView(f, g.Payload())
		held, d := c.GRE.Receive(w.now, g.Seq(), f)
		if d != engine.Pass {
			w.drop(f, c, d)
			continue
		}
		if !held {
			w.ready = append(w.ready, arrival{f: f, c: c, seq: g.Seq()})
		}
		w.release(c)
	}
	w.came = w.came[:0]
}

// release moves what is in order to w.ready.
func (w *Worker) release(c *Call) {
	for {
		seq, it, ok := c.GRE.Next(w.now)
		if !ok {
			return
		}
		w.ready = append(w.ready, arrival{f: it.(*rings.Frame), c: c, seq: seq})
	}
}

// setView makes the frame's packet the slice p of its own chunk.
func setView(f *rings.Frame, p []byte) {
	f.Reset(len(f.Chunk())-cap(p), len(p))
}

// touch notes that a call received something in this turn.
func (w *Worker) touch(c *Call) {
	if !c.touched {
		c.touched = true
		w.acks = append(w.acks, c)
	}
}

// deliver takes the ready frames, PPP inside, through decryption and to the
// inside port.
func (w *Worker) deliver() {
	if len(w.ready) == 0 {
		return
	}
	w.rxJobs = w.rxJobs[:0]
	data := w.ready[:0] // filtered in place: what remains is data
	for i := range w.ready {
		if a := w.ready[i]; w.classify(&a) {
			data = append(data, a)
		}
	}
	w.lap(StagePPP)
	w.mppe.Open(w.now, w.rxJobs)
	w.lap(StageMPPE)
	job := 0
	for i := range data {
		a := &data[i]
		d := engine.Pass
		if a.encrypted {
			j := &w.rxJobs[job]
			job++
			if j.Reset {
				w.puntReset(a.c)
			}
			if d = j.Drop; d == engine.Pass {
				p := j.Data[mppe.HeaderLen:]
				proto, n := wire.PPPProtocol(p)
				a.proto = proto
				setView(a.f, p[n:])
			}
		}
		if d == engine.Pass {
			d = w.forward(a)
		}
		w.confirm(a, d)
		if d != engine.Pass {
			w.drop(a.f, a.c, d)
		}
	}
	w.ready = w.ready[:0]
	w.lap(StagePPP)
}

// confirm tells GRE what became of a delivered packet. Nothing is committed on
// trust: a packet that proved senseless gives its turn back to the genuine
// one, and a packet that was refused unread proves nothing.
func (w *Worker) confirm(a *arrival, d engine.Drop) {
	g := &a.c.GRE
	switch d {
	case engine.Pass, engine.PuntRate, engine.PuntFull, engine.PPPNotOpen, engine.InnerSource, engine.InnerDestination:
		g.Confirm(w.now, a.seq, true)
	case engine.MPPEInsane, engine.MPPECatchUp, engine.MPPEBits, engine.MPPEShort,
		engine.InnerBad, engine.InnerShort, engine.PPPShort, engine.PPPProtocol:
		g.Confirm(w.now, a.seq, false)
	case engine.MPPEPlain, engine.MPPENoKey:
		// While a call comes up these are its own early packets; once it is
		// encrypted they are forged.
		if a.c.RxOpen {
			g.Confirm(w.now, a.seq, false)
		}
	default: // late, or out of sync: no news
	}
}

// classify looks at the PPP protocol. It reports true for data, whose view is
// then what follows the protocol field; everything else has been dealt with.
func (w *Worker) classify(a *arrival) bool {
	c, f := a.c, a.f
	proto, info, d := wire.ParsePPP(f.Data())
	if d != engine.Pass {
		w.confirm(a, d)
		w.drop(f, c, d)
		return false
	}
	a.proto = proto
	switch {
	case proto == wire.PPPMPPE && c.RxOpen:
		a.encrypted = true
		setView(f, info)
		w.rxJobs = append(w.rxJobs, mppe.RxJob{Rx: &c.Rx, Data: info})
		return true
	case proto == wire.PPPMPPE:
		d = engine.MPPENoKey
	case proto == wire.PPPIPv4 || proto == wire.PPPIPv6:
		if c.Encrypt != session.Required {
			setView(f, info)
			return true
		}
		d = engine.MPPEPlain
	default:
		d = w.punt(c, proto, info)
	}
	w.confirm(a, d)
	if d == engine.Pass {
		w.flow.Consumed++
		f.Free()
	} else {
		w.drop(f, c, d)
	}
	return false
}

// forward checks an inside packet and queues it for the inside port. On a
// drop the frame is still the caller's.
func (w *Worker) forward(a *arrival) engine.Drop {
	c, f := a.c, a.f
	var d engine.Drop
	switch a.proto {
	case wire.PPPIPv4:
		d = w.checkV4(c, f)
	case wire.PPPIPv6:
		d = w.checkV6(c, f)
	default:
		d = engine.PPPProtocol
	}
	if d == engine.Pass && !c.GRE.HandOn(a.seq) {
		d = engine.GRELate
	}
	if d == engine.Pass && !c.RxRate.Take(w.now, f.Len()) {
		d = engine.RateLimit
	}
	if d != engine.Pass {
		return d
	}
	if w.cfg.ClampMSS {
		wire.ClampMSS(f.Data(), c.Room-40, c.Room-60)
	}
	if w.cfg.CopyECN {
		tos, ok := wire.DecapECN(wire.InnerTOS(f.Data()), uint8(f.User))
		if !ok {
			return engine.InnerECN
		}
		wire.SetInnerTOS(f.Data(), tos)
	}
	c.Stats.RxPackets++
	c.Stats.RxBytes += uint64(f.Len())
	w.in = append(w.in, f)
	return engine.Pass
}

// checkV4 checks an inside packet and cuts padding. A server's call may send
// only from its own address and the networks behind it; what a client receives must be for it.
func (w *Worker) checkV4(c *Call, f *rings.Frame) engine.Drop {
	ip, d := wire.ParseIPv4(f.Data())
	if d != engine.Pass {
		return inner(d)
	}
	if !c.UpV4 {
		return engine.PPPNotOpen
	}
	mine := c.InV4.As4()
	if c.Client {
		if dst := ip.Dst(); dst != mine && !wire.IsMulticast4(dst) && dst != [4]byte{255, 255, 255, 255} {
			return engine.InnerDestination
		}
	} else if src := ip.Src(); src != mine && !c.Covers(src) {
		return engine.InnerSource
	}
	f.Trim(len(ip))
	return engine.Pass
}

func (w *Worker) checkV6(c *Call, f *rings.Frame) engine.Drop {
	ip, d := wire.ParseIPv6(f.Data())
	if d != engine.Pass {
		return inner(d)
	}
	if !c.UpV6 {
		return engine.PPPNotOpen
	}
	mine := c.InV6.As16()
	if c.Client {
		if dst := ip.Dst(); dst != mine && !wire.IsMulticast6(dst) {
			return engine.InnerDestination
		}
	} else if ip.Src() != mine {
		return engine.InnerSource
	}
	f.Trim(len(ip))
	return engine.Pass
}

// inner renames what is wrong with an IP header when the header is an inside one.
func inner(d engine.Drop) engine.Drop {
	if d == engine.ShortPacket {
		return engine.InnerShort
	}
	return engine.InnerBad
}

// punt hands a PPP frame to control, within the call's allowance.
func (w *Worker) punt(c *Call, proto uint16, info []byte) engine.Drop {
	if !c.TakePunt(w.now) {
		return engine.PuntRate
	}
	if !w.punts.put(c, PuntPPP, proto, info) {
		return engine.PuntFull
	}
	c.Stats.RxControl++
	w.punts.wake()
	return engine.Pass
}

// puntReset asks control to send a CCP Reset-Request.
func (w *Worker) puntReset(c *Call) {
	if w.punts.put(c, PuntReset, 0, nil) {
		w.punts.wake()
	}
}
