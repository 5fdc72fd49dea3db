package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"xpptp/control/aaa"
	"xpptp/control/ppp"
	"xpptp/control/pptp"
	"xpptp/engine/gre"
	"xpptp/engine/mppe"
	"xpptp/engine/session"
	"xpptp/engine/wire"
	"xpptp/workers"
)

// maxEarly is how many PPP frames are kept that came before the call was up
// (LCP over GRE often overtakes the Outgoing-Call-Reply over TCP).
const maxEarly = 8

// greOverhead is what is in front of an inside packet on the outside.
const greOverhead = wire.IPv4Len + 16 + 4 // outer IP, full GRE header, PPP header

// call is control's record of one call: the PPP link, and what the call holds.
// It is the link's Host.
type call struct {
	l    *Loop
	conn *conn
	ref  pptp.CallRef
	log  *slog.Logger

	n      uint64 // calls are numbered by their loop
	pair   pair
	id     uint16 // our call ID
	peerID uint16 // the peer's, once the call is up
	wc     *workers.Call
	cfg    *ppp.Config // of the link
	link   *ppp.Link

	timer  workers.Timer
	early  []earlyFrame
	opened bool // the link was opened: the call is up
	gone   bool // resources are being, or were, returned
	client bool

	user    string
	terms   *terms         // server: once the user is accepted
	routes  []netip.Prefix // networks behind the user that the call holds
	auth    ppp.Method
	addr    netip.Addr // inside IPv4 address that the call holds
	iid     uint64     // peer's interface identifier that the call holds
	mppe    ppp.MPPEParams
	peerMRU uint16
	nets    [2]*ppp.NetParams // IPv4, IPv6
	inside  [2]bool           // the inside knows of it
	started int64
	up      bool  // announced
	upAt    int64 // when to announce it without IPv4; 0: not waiting
	reason  ppp.Reason
	lower   pptp.DownCause // with LowerDown: what the control connection said
	ending  bool           // the link is down, the call is not yet

	// Client side.
	job   int
	onUp  func()
	onEnd func()
	trace *trace // nil: nobody wants to know how long the phases take

	// Final counts, once the worker has let go of the call.
	stats  session.Stats
	greEnd gre.Stats
}

type earlyFrame struct {
	proto uint16
	data  []byte
}

// newCall makes a call on a connection: call ID, worker's record, PPP link.
// The worker hears of it in install.
func (c *conn) newCall(link *ppp.Config, peerID, window uint16, peerKnown, client bool) (*call, error) {
	l := c.l
	p := pair{c.m.LocalAddr().Addr(), c.m.RemoteAddr().Addr()}
	if !p.local.Is4() || !p.peer.Is4() {
		return nil, fmt.Errorf("GRE needs IPv4, the control connection runs from %v to %v", p.local, p.peer)
	}
	id, ok := l.ids.get(l.now, p)
	if !ok {
		return nil, fmt.Errorf("no call ID left between %v and %v", p.local, p.peer)
	}
	if err := l.box.ports.admit(p.local, id); err != nil {
		l.ids.put(l.now, p, id)
		return nil, err
	}
	l.made++
	k := &call{l: l, conn: c, n: l.made, pair: p, id: id, cfg: link, client: client, started: l.now}
	k.log = slog.New(lateLog{k})
	k.timer.Owner = k
	k.peerMRU = 1500
	enc := session.Undecided
	if link.MPPE.Mode == ppp.Require {
		enc = session.Required
	}
	k.wc = workers.NewCall(&workers.CallParams{
		Local: p.local, Peer: p.peer, CallID: id, PeerCallID: peerID, PeerKnown: peerKnown,
		PeerWindow: window, Client: client, Encrypt: enc, GRE: l.w.GREConfig(),
		TTL: 64, DF: l.box.common.IP.DF == "set", CopyDF: l.box.common.IP.DF == "copy",
		Hop: l.box.hop(p.local, p.peer), Control: k,
	})
	k.link = ppp.NewLink(link, k, l.rand)
	l.calls[k] = struct{}{}
	l.box.count.calls.Add(1)
	return k, nil
}

// install puts the call into the worker's tables; done hears, on the loop,
// whether its key was free.
func (k *call) install(done func(ok bool)) {
	k.l.w.Add(k.wc, func(ok bool) { k.l.post(func() { done(ok) }) })
}

// callUp opens the link: the control connection says the call is established.
func (k *call) callUp(e pptp.CallUp) {
	k.peerID = e.PeerCallID
	k.l.w.SetPeer(k.wc, e.PeerCallID, e.Window)
	k.opened = true
	k.connected(e.PeerCallID)
	k.link.Open(k.l.now)
	early := k.early
	k.early = nil
	for _, f := range early {
		k.input(f.proto, f.data)
	}
	k.rearm()
}

// input takes a PPP frame that is not data.
func (k *call) input(proto uint16, data []byte) {
	if !k.opened {
		if len(k.early) < maxEarly {
			k.early = append(k.early, earlyFrame{proto, append([]byte(nil), data...)})
		}
		return
	}
	switch proto {
	case ppp.ProtoLCP, ppp.ProtoPAP, ppp.ProtoCHAP, ppp.ProtoCCP, ppp.ProtoIPCP, ppp.ProtoIPv6CP:
		k.link.Input(k.l.now, proto, data)
	default:
		k.link.UnknownProtocol(k.l.now, proto, data)
	}
}

func (k *call) tick() {
	if k.upAt != 0 && k.l.now >= k.upAt && !k.up {
		k.announce()
	}
	k.clock()
	k.link.Tick(k.l.now)
	k.rearm()
}

// rearm sets the timer to the link's next deadline, and carries on with the
// end of a call whose link is down.
func (k *call) rearm() {
	if k.ending && !k.gone {
		k.finish()
	}
	if k.gone || !k.opened {
		k.l.wheel.Stop(&k.timer)
		return
	}
	at := k.link.Deadline()
	if k.upAt != 0 {
		at = min(at, k.upAt)
	}
	at = min(at, k.terms.due())
	k.l.setTimer(&k.timer, at)
}

// hangUp ends the call in order, with a reason for the peer and the log.
func (k *call) hangUp(why ppp.Reason) {
	if k.gone {
		return
	}
	if !k.opened {
		k.Down(why)
	} else {
		k.link.Close(k.l.now, why)
	}
	k.rearm()
}

// finish gives everything back, then clears the call on the control
// connection: the link has ended.
func (k *call) finish() {
	k.release(func() {
		if k.conn.closed || k.conn.calls[k.ref] != k {
			return
		}
		d := pptp.Disconnect{Result: pptp.DisconnectAdmin, Statistics: k.statistics()}
		switch k.reason.Code {
		case ppp.PeerTerminated, ppp.EchoTimeout, ppp.NoAnswer, ppp.Loopback:
			d.Result = pptp.DisconnectLostCarrier
		default: // the others need nothing
		}
		_ = k.conn.m.Clear(k.l.now, k.ref, d)
		// We ended it: the control connection goes too, unless it carries more.
		if k.client || k.reason.Code != ppp.PeerTerminated {
			k.conn.leaving = !k.conn.keep
		}
		k.conn.pump()
	})
}

// statistics is the text of a Call-Disconnect-Notify (RFC 2637 §2.13).
func (k *call) statistics() string {
	s := &k.stats
	return fmt.Sprintf("rx %d packets %d bytes, tx %d packets %d bytes, lost %d",
		s.RxPackets, s.RxBytes, s.TxPackets, s.TxBytes, k.greEnd.Lost)
}

// callDown: the control connection says that the call is over.
func (k *call) callDown(e pptp.CallDown) {
	if k.gone {
		return
	}
	k.lower = e.Cause
	why := ppp.Reason{Code: ppp.LowerDown, Text: e.Cause.String()}
	switch e.Cause {
	case pptp.DownRefused:
		why.Text = fmt.Sprintf("call refused: %s", refusal(e))
	case pptp.DownPeer:
		why.Text = "cleared by peer"
		if k.terms != nil && k.terms.cause == 0 {
			k.terms.cause = aaa.CauseUserRequest
		}
		if e.Disconnect.Result != 0 {
			why.Text += ": " + e.Disconnect.Result.String()
		}
	default: // the others need nothing
	}
	if k.opened {
		k.link.Abort(k.l.now, why)
	} else {
		k.Down(why)
	}
	if !k.gone {
		k.release(func() {})
	}
}

func refusal(e pptp.CallDown) string {
	if e.Kind == pptp.PACIncoming {
		return e.Incoming.String()
	}
	s := e.Outgoing.String()
	if e.Error != pptp.ErrorNone {
		s += " (" + e.Error.String() + ")"
	}
	return s
}

// release takes the call off the worker; only then are its address and its
// call ID free.
func (k *call) release(done func()) {
	k.gone = true
	k.l.wheel.Stop(&k.timer)
	k.l.remove(k.wc, func(s session.Stats, g gre.Stats) {
		k.stats, k.greEnd = s, g
		if h, ok := k.wc.Hop.(interface{ Release() }); ok {
			h.Release()
		}
		l := k.l
		if err := l.box.ports.dismiss(k.pair.local, k.id); err != nil {
			k.log.Warn("call ID is still let in", "err", err)
		}
		l.ids.put(l.now, k.pair, k.id)
		l.box.addr.give(k)
		delete(l.calls, k)
		l.box.count.calls.Add(-1)
		k.report()
		done()
		if k.onEnd != nil {
			k.onEnd()
		}
		l.box.callDone()
	})
}

// report writes the one line about a call's end.
func (k *call) report() {
	k.closeBooks()
	args := []any{
		"user", k.user, "reason", k.reason.String(), "seconds", (k.l.now - k.started) / int64(time.Second),
		"rx_packets", k.stats.RxPackets, "rx_bytes", k.stats.RxBytes,
		"tx_packets", k.stats.TxPackets, "tx_bytes", k.stats.TxBytes, "drops", k.stats.Drops,
	}
	if k.up {
		k.log.Info("call down", args...)
	} else {
		k.log.Warn("call failed", args...)
	}
	k.l.box.event(CallEvent{Kind: EventDown, Call: k.info(), Reason: k.reason, WasUp: k.up})
}

// The ppp.Host methods: called from inside the link's methods.

// Send implements ppp.Host.
func (k *call) Send(proto uint16, info []byte) { k.l.w.SendPPP(k.wc, proto, info) }

// LCPUp implements ppp.Host.
func (k *call) LCPUp(p ppp.LCPParams) {
	k.mark(PhaseLCP)
	k.peerMRU, k.auth = p.PeerMRU, max(p.Auth, p.AuthToPeer)
	k.l.w.SetFraming(k.wc, p.TxACFC, p.TxPFC, k.room())
}

// room is the largest inside packet that the peer may be sent.
func (k *call) room() uint16 {
	box := k.l.box
	room := min(int(k.peerMRU), box.outsideMTU-greOverhead)
	if k.cfg.MPPE.Mode != ppp.Deny {
		room -= 4 // MPPE header and the protocol field behind it
	}
	return uint16(min(room, box.common.MTU))
}

// Authenticate implements ppp.Host.
func (k *call) Authenticate(r *ppp.AuthRequest) {
	box := k.l.box
	req := &aaa.Request{
		Method: aaaMethod(r.Method), Name: r.Name, Server: box.serve.Name, Peer: k.pair.peer,
		ID: r.ID, Challenge: r.Challenge, Response: r.Response,
		Session: k.sessionID(), Local: k.pair.local, Port: k.port(),
	}
	if r.Method == ppp.PAP {
		req.Response = []byte(r.Password)
	}
	box.auth.Authenticate(context.Background(), req, func(res aaa.Result) {
		// The answer comes back through the mailbox whatever goroutine gives it:
		// a Host method must not call back into the link.
		k.l.post(func() { k.authDone(r, res) })
	})
}

func (k *call) authDone(r *ppp.AuthRequest, res aaa.Result) {
	if k.gone {
		return
	}
	out := ppp.AuthResult{Request: r}
	if res.Err == nil {
		k.user = res.User
		err := k.takeAddress(res, func() { k.authDone(r, res) })
		if errors.Is(err, errWait) {
			return
		}
		what, say := "no address", "no address available"
		if err == nil {
			what, say = "call not possible", "not possible"
			err = k.accept(&res, &out)
		}
		if err != nil {
			k.log.Error(what, "user", res.User, "err", err)
			out.Message = say
			out.NoRetry = true
			k.link.AuthResult(k.l.now, out)
			k.rearm()
			return
		}
		out.OK, out.PeerIP = true, k.addr
		out.Message = res.Text
		out.Authenticator = res.Message
		out.Keys = keyMaterial(req{r.Method, res.Keys})
	} else {
		k.user = r.Name
		k.log.Warn("authentication failed", "user", r.Name, "method", r.Method, "err", res.Err)
		k.l.box.count.authFailures.Add(1)
		out.Message = cmp.Or(res.Text, "Authentication failed")
		out.Code = res.Code
	}
	k.link.AuthResult(k.l.now, out)
	k.rearm()
}

type req struct {
	method ppp.Method
	keys   *aaa.Keys
}

// keyMaterial derives the server's start keys (RFC 3079 §2, §3), unless a
// server elsewhere has.
func keyMaterial(r req) (m ppp.KeyMaterial) {
	if r.keys == nil {
		return m
	}
	m.Bits = ppp.Bits40 | ppp.Bits56 | ppp.Bits128
	if r.keys.Ready {
		m.Send, m.Recv = r.keys.Send, r.keys.Recv
		return m
	}
	if r.method == ppp.MSCHAPv1 {
		m.Send = mppe.StartKeyV1(r.keys.NTHashHash, r.keys.Challenge)
		m.Recv = m.Send
		copy(m.LM[:], r.keys.LMHash[:])
		m.ByLM = true
		if r.keys.LMHash == [8]byte{} {
			m.Bits = ppp.Bits128 // no LM hash: only the NT hash is known
		}
		return m
	}
	m.Send, m.Recv = mppe.StartKeysV2(r.keys.NTHashHash, r.keys.NTResponse, true)
	return m
}

// OpenReceive implements ppp.Host.
func (k *call) OpenReceive(p ppp.MPPEParams) { k.l.w.OpenReceive(k.wc, mppeParams(p)) }

// OpenTransmit implements ppp.Host.
func (k *call) OpenTransmit(p ppp.MPPEParams) {
	k.mark(PhaseCCP)
	k.mppe = p
	k.l.w.SetEncryption(k.wc, session.Required)
	k.l.w.OpenTransmit(k.wc, mppeParams(p))
}

func mppeParams(p ppp.MPPEParams) mppe.Params {
	return mppe.Params{Bits: p.Bits, Stateful: p.Stateful, Start: p.StartKey}
}

// CloseMPPE implements ppp.Host.
func (k *call) CloseMPPE() {
	k.mppe = ppp.MPPEParams{}
	k.l.w.CloseEncryption(k.wc)
	if !k.mustEncrypt() {
		k.l.w.SetEncryption(k.wc, session.Undecided)
	}
}

// ResetTransmit implements ppp.Host.
func (k *call) ResetTransmit(id uint8) { k.l.w.FlushTransmit(k.wc, id) }

// ResetAcked implements ppp.Host.
func (k *call) ResetAcked() {}

// DataRejected implements ppp.RejectHandler.
func (k *call) DataRejected(proto uint16, info []byte) {
	k.l.w.DataRejected(k.wc, append([]byte{byte(proto >> 8), byte(proto)}, info...))
}

// InterfaceIDFree implements ppp.InterfaceIDChecker.
func (k *call) InterfaceIDFree(id uint64) bool {
	return id != k.l.box.iid && k.l.box.addr.takeID(k, id)
}

// NetworkUp implements ppp.Host.
func (k *call) NetworkUp(p ppp.NetParams) {
	inside := p.Peer
	if k.client {
		inside = p.Local
	}
	k.mark(PhaseNetwork)
	i := 0
	if p.Family == ppp.IPv6 {
		i = 1
	}
	k.nets[i] = &p
	if !inside.IsValid() {
		k.log.Warn("no inside address agreed", "family", p.Family)
		return
	}
	k.l.w.NetworkUp(k.wc, inside)
	// Once the worker knows the address, and not before: what anybody sends at
	// once then finds the call.
	k.l.w.Post(func() {
		k.l.post(func() {
			if k.nets[i] != &p {
				return // down again
			}
			k.l.box.ports.inside.up(k, &p)
			k.inside[i] = true
			if p.Family == ppp.IPv4 {
				k.routesUp()
			}
			k.announce()
			k.rearm()
		})
	})
}

// announceWait is how long the announcement of a call waits for IPv4, when
// IPv6 was first.
const announceWait = int64(2e9)

// announce tells that the call is up, once: when IPv4 is there, or IPv6 alone
// after a while.
func (k *call) announce() {
	n4, n6 := k.nets[0], k.nets[1]
	if !k.up && !k.inside[0] && k.l.box.link.IPv4 && k.upAt == 0 {
		k.upAt = k.l.now + announceWait
		return
	}
	args := []any{"user", k.user, "cipher", k.cipher(), "auth", k.auth.String()}
	if n4 != nil {
		args = append(args, "ip", n4.Peer, "local_ip", n4.Local)
	}
	if n6 != nil {
		args = append(args, "ip6", n6.Peer)
	}
	k.upAt = 0
	if k.up {
		k.log.Info("network up", args...)
		k.l.box.event(CallEvent{Kind: EventNetwork, Call: k.info()})
		return
	}
	k.up = true
	k.began()
	k.log.Info("call up", append(args, "setup_ms", (k.l.now-k.started)/1e6)...)
	k.l.box.event(CallEvent{Kind: EventUp, Call: k.info()})
	if k.onUp != nil {
		k.onUp()
	}
}

// cipher names the encryption in force.
func (k *call) cipher() string {
	if k.mppe.Bits == 0 {
		return "none"
	}
	mode := "stateless"
	if k.mppe.Stateful {
		mode = "stateful"
	}
	return fmt.Sprintf("mppe-%d-%s", k.mppe.Bits, mode)
}

// NetworkDown implements ppp.Host.
func (k *call) NetworkDown(f ppp.Family) {
	i := 0
	if f == ppp.IPv6 {
		i = 1
	}
	if i == 0 {
		k.routesDown()
	}
	if k.nets[i] != nil {
		k.l.box.ports.inside.down(k, k.nets[i])
		k.nets[i], k.inside[i] = nil, false
	}
	k.l.w.NetworkDown(k.wc, f == ppp.IPv6)
}

// Down implements ppp.Host: the link has ended. What follows must not run
// inside the link's method, so the caller of that method does it, in rearm.
func (k *call) Down(why ppp.Reason) {
	if k.ending {
		return
	}
	k.ending = true
	k.reason = why
	k.routesDown()
	for i, n := range k.nets {
		if n != nil {
			k.l.box.ports.inside.down(k, n)
			k.nets[i], k.inside[i] = nil, false
		}
	}
}

// CallInfo describes a call to people and programs.
type CallInfo struct {
	CallID, PeerCallID uint16
	Peer, Local        netip.Addr
	User               string
	Session            string   `json:",omitempty"` // server: name of the call in accounting
	Rate               aaa.Rate `json:",omitzero"`  // server: limit
	Auth               string
	Cipher             string
	MPPEBits           int
	Stateful           bool
	IP, LocalIP        netip.Addr
	IP6, LocalIP6      netip.Addr
	DNS                []netip.Addr
	MTU                int
	SetupTime          time.Duration
	Job                int // dial: which of its calls
}

func (k *call) info() CallInfo {
	i := CallInfo{
		CallID: k.id, PeerCallID: k.wc.PeerCallID, Peer: k.pair.peer, Local: k.pair.local, User: k.user,
		Auth: k.auth.String(), Cipher: k.cipher(), MPPEBits: k.mppe.Bits, Stateful: k.mppe.Stateful,
		Job: k.job, MTU: int(k.room()), SetupTime: time.Duration(k.l.now - k.started),
	}
	if k.terms != nil {
		i.Session, i.Rate = k.sessionID(), k.terms.grant.Rate
	}
	if n := k.nets[0]; n != nil {
		i.IP, i.LocalIP = n.Peer, n.Local
		for _, d := range n.DNS {
			if d.IsValid() {
				i.DNS = append(i.DNS, d)
			}
		}
	}
	if n := k.nets[1]; n != nil {
		i.IP6, i.LocalIP6 = n.Peer, n.Local
	}
	return i
}

var _ ppp.Host = (*call)(nil)
