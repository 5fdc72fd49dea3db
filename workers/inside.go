package workers

import (
	"encoding/binary"
	"net/netip"

	"xpptp/engine"
	"xpptp/engine/mppe"
	"xpptp/engine/session"
	"xpptp/engine/wire"
	"xpptp/rings"
)

// From the inside to the outside: find the session, fit the room, encrypt,
// encapsulate, send.

const (
	pppRoom  = 4           // FF 03 and two bytes of protocol
	hopRetry = int64(10e6) // how often a waiting next hop is asked again
	hopTries = 100         // and how many times
	maxHeld  = 128         // packets of a call that wait for the peer's window
)

// route finds the session of an inside packet and queues it for encryption.
func (w *Worker) route(f *rings.Frame) {
	b := f.Data()
	if len(b) == 0 {
		w.drop(f, nil, engine.InnerShort)
		return
	}
	var s *session.Session
	var addr netip.Addr
	var up bool
	var proto uint16
	switch b[0] >> 4 {
	case 4:
		ip, d := wire.ParseIPv4(b)
		if d != engine.Pass {
			w.drop(f, nil, inner(d))
			return
		}
		f.Trim(len(ip))
		a := ip.Dst()
		if w.cfg.Client {
			a = ip.Src()
		}
		if s = w.table.ByV4(a); s != nil {
			up = s.UpV4
		}
		if s == nil || len(s.Nets) > 0 && s.InV4 != netip.AddrFrom4(a) {
			addr = netip.AddrFrom4(a) // another worker may know better: an address, a smaller network
		}
		proto = wire.PPPIPv4
	case 6:
		ip, d := wire.ParseIPv6(b)
		if d != engine.Pass {
			w.drop(f, nil, inner(d))
			return
		}
		f.Trim(len(ip))
		a := ip.Dst()
		if w.cfg.Client {
			a = ip.Src()
		}
		if s = w.table.ByV6(a); s != nil {
			up = s.UpV6
		} else {
			addr = netip.AddrFrom16(a)
		}
		proto = wire.PPPIPv6
	default:
		w.drop(f, nil, engine.InnerBad)
		return
	}
	if addr.IsValid() {
		if to, ok := w.team.inside.find(addr); ok && to != w.cfg.ID {
			w.handOver(f, to, handInside)
			return
		}
	}
	if s == nil {
		w.drop(f, nil, engine.NoRoute)
		return
	}
	c := s.Owner.(*Call)
	switch {
	case !up || !c.PeerKnown:
		w.drop(f, c, engine.NotUp)
	case f.Len() > int(c.Room):
		w.tooBig(c, f, proto)
	default:
		w.enqueue(c, f, proto)
	}
}

// enqueue puts the PPP header (and room for MPPE's) in front of an inside
// packet that fits, and queues it for encryption.
func (w *Worker) enqueue(c *Call, f *rings.Frame, proto uint16) {
	if !c.TxRate.Take(w.now, f.Len()) {
		w.drop(f, c, engine.RateLimit)
		return
	}
	if w.cfg.ClampMSS {
		wire.ClampMSS(f.Data(), c.Room-40, c.Room-60)
	}
	dep := departure{f: f, c: c, tos: wire.EncapTOS(wire.InnerTOS(f.Data()), w.cfg.CopyDSCP, w.cfg.CopyECN), job: -1}
	dep.df = c.copyDF && (proto == wire.PPPIPv6 || wire.IPv4(f.Data()).DF())
	n := f.Len()
	switch {
	case c.TxOpen:
		wire.PutPPPProtocol(f.Push(2), proto, false)
		dep.job = len(w.txJobs)
		w.txJobs = append(w.txJobs, mppe.TxJob{Tx: &c.Tx, Data: f.Push(mppe.HeaderLen)})
	case c.Encrypt == session.Required:
		w.drop(f, c, engine.MPPENoSendKey)
		return
	default:
		pushPPP(f, proto, c.ACFC, c.PFC)
	}
	c.Stats.TxPackets++
	c.Stats.TxBytes += uint64(n)
	w.sealed = append(w.sealed, dep)
}

// pushPPP puts a PPP header in front of the packet.
func pushPPP(f *rings.Frame, proto uint16, acfc, pfc bool) {
	var h [pppRoom]byte
	n := wire.PutPPP(h[:], proto, acfc, pfc)
	copy(f.Push(n), h[:n])
}

// seal encrypts what enqueue collected and sends it on its way, in order.
func (w *Worker) seal() {
	if len(w.sealed) == 0 {
		return
	}
	w.mppe.Seal(w.txJobs)
	w.lap(StageMPPE)
	for i := range w.sealed {
		d := &w.sealed[i]
		if d.job >= 0 {
			pushPPP(d.f, wire.PPPMPPE, d.c.ACFC, d.c.PFC)
		}
		if len(d.c.held) > 0 || !d.c.GRE.CanSend() {
			w.hold(d)
			continue
		}
		w.encapsulate(d.c, d.f, d.tos, d.df)
	}
	w.sealed = w.sealed[:0]
	w.txJobs = w.txJobs[:0]
	w.lap(StageGRE)
}

// hold queues a packet until the peer's window opens (RFC 2637 §4.2). Control
// frames do not wait: a call must not die of a full window.
func (w *Worker) hold(d *departure) {
	if len(d.c.held) >= maxHeld {
		w.drop(d.f, d.c, engine.GREWindow)
		return
	}
	d.c.held = append(d.c.held, *d)
	w.touch(d.c)
}

// unhold sends what the window has room for again.
func (w *Worker) unhold(c *Call) {
	n := 0
	for n < len(c.held) && c.GRE.CanSend() {
		d := &c.held[n]
		w.encapsulate(c, d.f, d.tos, d.df)
		n++
	}
	if n > 0 {
		left := copy(c.held, c.held[n:])
		clear(c.held[left:])
		c.held = c.held[:left]
	}
}

// sendControl sends a PPP control frame.
func (w *Worker) sendControl(c *Call, proto uint16, info []byte) {
	w.flow.Made++
	if !c.PeerKnown {
		w.drops[engine.NotUp]++
		return
	}
	f := w.cfg.Pool.Get()
	if f == nil {
		w.drops[engine.NoFrame]++
		return
	}
	if !f.Set(info) {
		w.drop(f, c, engine.Truncated)
		return
	}
	lcp := proto == wire.PPPLCP
	pushPPP(f, proto, c.ACFC && !lcp, false)
	c.Stats.TxControl++
	w.encapsulate(c, f, 0, false)
}

// encapsulate puts GRE, with sequence number and acknowledgement, and the
// outer headers in front of a PPP frame and queues it for the outside port.
func (w *Worker) encapsulate(c *Call, f *rings.Frame, tos uint8, df bool) {
	n := f.Len()
	c.GRE.PutHeader(w.now, f.Push(c.GRE.HeaderLen()), c.PeerCallID, n)
	w.sendOuter(c, f, tos, df)
}

// sendOuter puts the outer IP header in front of a GRE packet and sends it.
func (w *Worker) sendOuter(c *Call, f *rings.Frame, tos uint8, df bool) {
	total := uint32(f.Len() + wire.IPv4Len)
	h := f.Push(wire.IPv4Len)
	_ = h[wire.IPv4Len-1]
	copy(h, c.ip[:])
	c.ipID++
	// The checksum is that of the template and of what changes in it.
	sum := c.ipSum + total + uint32(c.ipID)
	if more := tos &^ c.ip[1]; more != 0 {
		h[1] |= more
		sum += uint32(more)
	}
	if df && c.ip[6]&0x40 == 0 {
		h[6] |= 0x40
		sum += 0x4000
	}
	sum = sum>>16 + sum&0xffff
	sum = ^(sum>>16 + sum)
	binary.BigEndian.PutUint32(h[2:], total<<16|uint32(c.ipID))
	binary.BigEndian.PutUint16(h[10:], uint16(sum))
	w.transmit(c, f)
}

// transmit puts the link header in front and queues the frame for its port.
// While the next hop is being resolved a few packets wait.
func (w *Worker) transmit(c *Call, f *rings.Frame) {
	header, ifindex, st := c.Hop.Way()
	switch st {
	case HopReady:
		for i, idx := range w.outIdx {
			if idx == ifindex {
				copy(f.Push(len(header)), header)
				w.out[i] = append(w.out[i], f)
				return
			}
		}
		w.drop(f, c, engine.NoHop)
	case HopFailed:
		w.drop(f, c, engine.HopFailed)
	default:
		if len(c.pending) >= maxPending {
			w.drop(f, c, engine.NoHop)
			return
		}
		c.pending = append(c.pending, f)
		w.rearm(c)
	}
}

// expire does what a call's deadlines ask for.
func (w *Worker) expire(c *Call) {
	if len(c.pending) > 0 {
		w.retryPending(c)
	}
	c.GRE.Expire(w.now)
	w.unhold(c)
	w.release(c)
	w.deliver()
	w.touch(c)
}

// retryPending asks a waiting next hop again.
func (w *Worker) retryPending(c *Call) {
	_, _, st := c.Hop.Way()
	c.tries++
	if st == HopPending && c.tries < hopTries {
		return
	}
	if st == HopPending {
		st = HopFailed
	}
	c.tries = 0
	fs := c.pending
	c.pending = c.pending[len(c.pending):]
	for _, f := range fs {
		if st == HopReady {
			w.transmit(c, f)
		} else {
			w.drop(f, c, engine.HopFailed)
		}
	}
	if len(c.pending) == 0 {
		c.pending = nil
	}
}

// acknowledge sends the acknowledgements that this turn made due and no data
// carried (RFC 2637 §4.3), and sets the timers of the calls it touched. A burst
// that more packets follow has not ended: their acknowledgement is for these too.
func (w *Worker) acknowledge() {
	for _, c := range w.acks {
		c.touched = false
		if c.PeerKnown && c.GRE.AckDue(w.now, !w.more) {
			w.sendAck(c)
		}
		w.rearm(c)
	}
	clear(w.acks)
	w.acks = w.acks[:0]
}

// sendAck sends a packet that only acknowledges.
func (w *Worker) sendAck(c *Call) {
	f := w.cfg.Pool.Get()
	w.flow.Made++
	if f == nil {
		w.drops[engine.NoFrame]++
		return
	}
	f.Extend(wire.GRELen(false, true))
	n := c.GRE.PutAck(f.Data(), c.PeerCallID)
	f.Trim(n)
	if n == 0 { // nothing received yet
		w.flow.Made--
		f.Free()
		return
	}
	w.sendOuter(c, f, 0, false)
}
