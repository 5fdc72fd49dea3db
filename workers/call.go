package workers

import (
	"net/netip"
	"slices"

	"xpptp/engine"
	"xpptp/engine/gre"
	"xpptp/engine/mppe"
	"xpptp/engine/session"
	"xpptp/engine/wire"
	"xpptp/rings"
)

// HopState says whether a next hop can be sent to.
type HopState uint8

const (
	HopPending HopState = iota // being resolved: hold a few packets back
	HopReady
	HopFailed // no route, or the neighbour does not answer
)

// Hop tells how to reach a peer. It is asked for every packet, so it must be
// cheap, and must not block. rings/nexthop has the real one.
type Hop interface {
	// Way returns the link header in front of the IP packet (valid until the
	// next call) and the interface index of the outside port.
	Way() (header []byte, ifindex int, state HopState)
}

// Call is the worker's record of one session. Control makes it, hands it over
// with Add, and from then on only reads the fields that never change.
type Call struct {
	session.Session
	Hop Hop
	// Control is control's own record; the worker does not look at it.
	Control any

	timer   Timer
	touched bool // received something in this burst: an acknowledgement may be due
	added   bool
	ipID    uint16
	copyDF  bool
	ip      [20]byte // outer header, total length, ID and checksum zero
	ipSum   uint32   // the sum of its words
	pending []*rings.Frame
	tries   int
	held    []departure // wait for the peer's window
}

// maxPending bounds the packets that wait for a call's next hop.
const maxPending = 4

// CallParams is what a call begins with.
type CallParams struct {
	Local, Peer netip.Addr // outside addresses, IPv4
	CallID      uint16
	PeerCallID  uint16
	PeerKnown   bool
	Client      bool
	Encrypt     session.Encryption
	// GRE is shared by the calls of a worker: Worker.GREConfig.
	GRE        *gre.Config
	PeerWindow uint16 // the receive window the peer advertised
	TTL, TOS   uint8
	DF         bool // of the outer header
	CopyDF     bool // take it from the inside packet
	Hop        Hop
	Control    any
}

// NewCall makes the record of a call.
func NewCall(p *CallParams) *Call {
	c := &Call{Hop: p.Hop, Control: p.Control}
	c.Owner = c
	c.timer.Owner = c
	c.Local, c.Peer = p.Local.As4(), p.Peer.As4()
	c.CallID, c.PeerCallID, c.PeerKnown = p.CallID, p.PeerCallID, p.PeerKnown
	c.Client, c.Encrypt = p.Client, p.Encrypt
	c.Room = 1400
	c.copyDF = p.CopyDF
	c.GRE.Init(p.GRE, p.PeerWindow, 0)
	wire.PutIPv4(c.ip[:], &wire.IPv4Fields{
		TOS: p.TOS, TTL: p.TTL, Protocol: wire.ProtoGRE, Src: c.Local, Dst: c.Peer, DF: p.DF,
	})
	clear(c.ip[2:4])   // total length
	clear(c.ip[10:12]) // checksum
	for i := 0; i < len(c.ip); i += 2 {
		c.ipSum += uint32(c.ip[i])<<8 | uint32(c.ip[i+1])
	}
	return c
}

// The commands. Each is posted by control, in order, and carried out by the
// worker between two bursts.

// Add puts a call into the tables; done, if not nil, hears whether its key was
// free. It runs on the worker.
func (w *Worker) Add(c *Call, done func(ok bool)) {
	w.Post(func() {
		c.added = w.table.Insert(&c.Session)
		if done != nil {
			done(c.added)
		}
	})
}

// Remove takes a call out, returns its frames, and confirms: only then are
// its address and call ID free. done runs on the worker, with the final
// statistics.
func (w *Worker) Remove(c *Call, done func(session.Stats, gre.Stats)) {
	w.Post(func() {
		if c.added {
			w.unbind(c, false)
			w.unbind(c, true)
			w.table.Remove(&c.Session)
			c.added = false
		}
		w.mppe.ForgetRx(&c.Rx)
		w.mppe.ForgetTx(&c.Tx)
		w.wheel.Stop(&c.timer)
		c.GRE.Clear(func(it any) { w.drop(it.(*rings.Frame), c, engine.GREReorderClear) })
		for _, f := range c.pending {
			w.drop(f, c, engine.SessionGone)
		}
		for i := range c.held {
			w.drop(c.held[i].f, c, engine.SessionGone)
		}
		c.pending, c.held = nil, nil
		c.UpV4, c.UpV6, c.PeerKnown = false, false, false
		if done != nil {
			done(c.Stats, c.GRE.Stats)
		}
	})
}

// SetPeer opens the way to the peer: its call ID and window became known.
func (w *Worker) SetPeer(c *Call, id, window uint16) {
	w.Post(func() {
		c.PeerCallID, c.PeerKnown = id, true
		c.GRE.SetPeerWindow(window)
	})
}

// SetFraming sets what LCP agreed on: the framing the peer takes and the
// largest inside packet it may be sent.
func (w *Worker) SetFraming(c *Call, acfc, pfc bool, room uint16) {
	w.Post(func() { c.ACFC, c.PFC, c.Room = acfc, pfc, room })
}

// SetEncryption sets the policy for plain data.
func (w *Worker) SetEncryption(c *Call, e session.Encryption) {
	w.Post(func() { c.Encrypt = e })
}

// SetRate limits what comes from the peer and what goes to it, in bits per
// second; 0 is no limit.
func (w *Worker) SetRate(c *Call, fromPeer, toPeer uint64) {
	w.Post(func() {
		c.RxRate.Set(fromPeer)
		c.TxRate.Set(toPeer)
	})
}

// OpenReceive sets the receive key. What was held for reordering belongs to
// the time before and is let go.
func (w *Worker) OpenReceive(c *Call, p mppe.Params) {
	w.Post(func() {
		c.GRE.Clear(func(it any) { w.drop(it.(*rings.Frame), c, engine.GREReorderClear) })
		w.mppe.ForgetRx(&c.Rx)
		c.RxOpen = c.Rx.Init(&p) == nil
		c.Tx.Follow(&c.Rx)
	})
}

// OpenTransmit sets the send key: from here on all data is encrypted.
func (w *Worker) OpenTransmit(c *Call, p mppe.Params) {
	w.Post(func() {
		w.mppe.ForgetTx(&c.Tx)
		c.TxOpen = c.Tx.Init(&p) == nil
		c.Tx.Follow(&c.Rx)
	})
}

// CloseEncryption forgets both keys.
func (w *Worker) CloseEncryption(c *Call) {
	w.Post(func() {
		w.mppe.ForgetRx(&c.Rx)
		w.mppe.ForgetTx(&c.Tx)
		c.RxOpen, c.TxOpen = false, false
	})
}

// FlushTransmit answers a CCP Reset-Request: the next packet re-synchronises.
// id is the request's identifier.
func (w *Worker) FlushTransmit(c *Call, id uint8) {
	w.Post(func() {
		if c.TxOpen {
			c.Tx.Flush(id)
		}
	})
}

// DataRejected hands on what the peer made of a packet of ours and rejected:
// protocol, then information. The slice becomes the worker's.
func (w *Worker) DataRejected(c *Call, p []byte) {
	w.Post(func() {
		if c.TxOpen {
			w.mppe.Rejected(w.now, &c.Tx, p)
		}
	})
}

// NetworkUp opens a network protocol: addr is the inside address that the
// session is found by (the far end's for a server, ours for a client).
func (w *Worker) NetworkUp(c *Call, addr netip.Addr) {
	w.Post(func() {
		if !c.added {
			return
		}
		w.bind(c, addr)
		if addr.Is4() {
			c.UpV4 = true
		} else {
			c.UpV6 = true
		}
	})
}

// SetNets makes IPv4 networks reachable behind the far end of a server's call,
// once IPv4 is up and until it is down.
func (w *Worker) SetNets(c *Call, nets []netip.Prefix) {
	nets = slices.Clone(nets)
	w.Post(func() {
		if !c.UpV4 {
			return
		}
		for _, p := range nets {
			w.table.BindNet(&c.Session, p)
			w.team.inside.setNet(p, w.cfg.ID)
		}
	})
}

// UnsetNet takes one of them away.
func (w *Worker) UnsetNet(c *Call, p netip.Prefix) {
	w.Post(func() { w.unbindNet(c, p) })
}

// NetworkDown closes a network protocol.
func (w *Worker) NetworkDown(c *Call, v6 bool) {
	w.Post(func() {
		w.unbind(c, v6)
		if v6 {
			c.UpV6 = false
		} else {
			c.UpV4 = false
		}
	})
}

// SendPPP sends a control frame: proto and info, never encrypted. LCP goes
// out with FF 03 and two bytes of protocol whatever was negotiated
// (RFC 1661 §6.5, §6.6). info is copied.
func (w *Worker) SendPPP(c *Call, proto uint16, info []byte) {
	p := append([]byte(nil), info...)
	w.Post(func() { w.sendControl(c, proto, p) })
}
