package control

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"syscall"

	"xpptp/control/aaa"
	"xpptp/control/config"
	"xpptp/control/ppp"
	"xpptp/control/pptp"
	"xpptp/control/sock"
)

// Caller is a client's Box that places calls as it is told to, one by one, and
// tells how long every phase of each took: what a load generator wants. Start
// and Shutdown are the Box's. The methods of a Caller and of what it gives may
// be used by any goroutine, once it has started.
type Caller struct {
	*Box
	server netip.AddrPort
}

// NewCaller makes a Caller. Of cfg it takes what is Common, Server,
// CallsPerConnection and Source. It resolves the server, opens nothing yet, and
// sends the server nothing before Connect.
func NewCaller(cfg *config.Dial, log *slog.Logger) (*Caller, error) {
	b, err := newClientBox(cfg, aaa.Secret{}, log)
	if err != nil {
		return nil, err
	}
	b.link.AskDNS = false
	c := &Caller{Box: b}
	if c.server, err = resolve(cfg.Server); err != nil {
		return nil, err
	}
	b.dialFrom = cfg.Source
	if len(b.dialFrom) == 0 {
		a, err := sourceTo(c.server)
		if err != nil {
			return nil, err
		}
		b.dialFrom = []netip.Addr{a}
	}
	return c, nil
}

// Server is the address that the configured server has.
func (c *Caller) Server() netip.AddrPort { return c.server }

// Link makes the PPP settings for calls of one user. They may be shared by
// calls.
func (c *Caller) Link(user string, password aaa.Secret, auth []aaa.Method, mppe config.Policy) *ppp.Config {
	common := *c.common
	common.Auth, common.MPPE = auth, mppe
	l := linkConfig(&common)
	l.User, l.Password = user, password.Reveal()
	return &l
}

// Now is the time on the clock of the phases, in nanoseconds.
func (c *Caller) Now() int64 { return c.clock() }

// Backend is how packets are moved outside, once started.
func (c *Caller) Backend() string { return string(c.ports.backend) }

// Workers is how many threads move packets, and ports SetInside has to make. A
// call belongs to the one that rings.Shard says of its call ID.
func (c *Caller) Workers() int { return c.workers() }

// Phase is a part of setting up a call.
type Phase uint8

// The phases, in order. The first two are of a control connection.
const (
	PhaseTCP     Phase = iota // until TCP is connected
	PhaseStart                // until Start-Control-Connection-Reply
	PhaseCall                 // until Outgoing-Call-Reply
	PhaseLCP                  // until LCP is open
	PhaseAuth                 // until we are authenticated
	PhaseCCP                  // until MPPE is agreed on
	PhaseNetwork              // until IPCP, or IPV6CP alone, is open
	NumPhases
)

var phaseNames = [NumPhases]string{"tcp", "start", "call", "lcp", "auth", "ccp", "ipcp"}

// String returns the name used in reports.
func (p Phase) String() string { return phaseNames[p] }

// trace is what a call notes for a CallWatcher.
type trace struct {
	watch CallWatcher
	times [NumPhases]int64
}

// mark notes that a phase has ended, the first time.
func (k *call) mark(p Phase) {
	if k.trace != nil && k.trace.times[p] == 0 {
		k.trace.times[p] = k.l.clock()
	}
}

// connected notes that the peer has taken the call, and under what number; the
// worker may not know it yet.
func (k *call) connected(peerID uint16) {
	if k.trace == nil {
		return
	}
	k.mark(PhaseCall)
	if w, ok := k.trace.watch.(ConnectWatcher); ok {
		r := k.callReport()
		r.Info.PeerCallID = peerID
		w.CallConnected(r)
	}
}

// Authenticated implements ppp.AuthWatcher.
func (k *call) Authenticated() { k.mark(PhaseAuth) }

// CallReport is what a CallWatcher is told.
type CallReport struct {
	Info CallInfo
	// Begun is when the call was placed, Ends when its phases ended, 0 for
	// those that it has not been through; PhaseTCP and PhaseStart are not
	// among them.
	Begun int64
	Ends  [NumPhases]int64
	// WasUp says that the call has been up, Cause names why it is over: a short
	// word of a fixed set (see causes in the source). Reason has the details.
	WasUp  bool
	Cause  string
	Reason string
}

// Orderly reports whether the call was up and has ended because we wanted.
func (r *CallReport) Orderly() bool { return r.WasUp && r.Cause == CauseEnded }

// CallWatcher hears of a call, on the call's loop; it must not block.
type CallWatcher interface {
	CallUp(*CallReport)   // the first network protocol is open
	CallDown(*CallReport) // the call is over, once, whether it has been up or not
}

// ConnectWatcher is a CallWatcher that hears of one more thing.
type ConnectWatcher interface {
	CallWatcher
	CallConnected(*CallReport) // the server has taken the call; PPP is next
}

// Causes that others than a call's link give; see cause for the rest.
const (
	CauseEnded       = "ended"           // by us, in order
	CauseTCPRefused  = "tcp-refused"     // connection refused
	CauseTCPTimeout  = "tcp-timeout"     // no answer to our SYN
	CauseTCPFailed   = "tcp-failed"      // another error of connect
	CauseStart       = "start-failed"    // no, or a negative, Start-Control-Connection-Reply
	CauseNotPlaced   = "not-placed"      // we could not ask for it
	CauseCallRefused = "call-refused"    // negative Outgoing-Call-Reply
	CauseCallTimeout = "call-timeout"    // no Outgoing-Call-Reply
	CauseCleared     = "cleared-by-peer" // Call-Disconnect-Notify or Call-Clear-Request
	CauseLost        = "connection-lost" // the control connection ended
	CauseNoAnswer    = "-no-answer"      // lcp-, auth-, ccp-, ipcp-
	CauseNoAgreement = "-not-converging" // likewise
	CauseAborted     = "killed"          // Kill
	CauseMPPERefused = "mppe-refused"    // encryption is required and was not agreed on
	CauseTerminated  = "peer-terminated" // LCP Terminate-Request
)

// cause names why a call is over.
func (k *call) cause() string {
	switch k.reason.Code {
	case ppp.UserRequest, ppp.AdminReset:
		return CauseEnded
	case ppp.LowerDown:
		return k.lowerCause()
	case ppp.NoAnswer:
		return k.phase() + CauseNoAnswer
	case ppp.NotConverging:
		return k.phase() + CauseNoAgreement
	case ppp.EncryptionRefused:
		return CauseMPPERefused
	case ppp.PeerTerminated:
		return CauseTerminated
	default: // as the code is called
		return k.reason.Code.String()
	}
}

func (k *call) lowerCause() string {
	switch k.lower {
	case pptp.DownRefused:
		return CauseCallRefused
	case pptp.DownTimeout:
		return CauseCallTimeout
	case pptp.DownPeer:
		return CauseCleared
	case pptp.DownConnection:
		if k.conn.killed {
			return CauseAborted
		}
		return CauseLost
	case pptp.DownLocal:
		return CauseEnded
	}
	return CauseNotPlaced
}

// phase names the first phase of the link that the call has not been through.
func (k *call) phase() string {
	for p := PhaseLCP; p < NumPhases; p++ {
		if k.trace.times[p] == 0 && (p != PhaseCCP || k.cfg.MPPE.Mode == ppp.Require) {
			return p.String()
		}
	}
	return PhaseNetwork.String()
}

func (k *call) callReport() *CallReport {
	return &CallReport{Info: k.info(), Begun: k.started, Ends: k.trace.times, WasUp: k.up}
}

// Connection is a control connection of a Caller.
type Connection struct {
	l       *Loop
	spec    ConnSpec
	cn      *conn    // nil until TCP is connected
	up      bool     // established
	over    bool     // nothing more can be placed
	waiting []func() // what is to be done once it is up, or over
	cancel  context.CancelFunc
	times   ConnTimes

	cause, reason string // why it is over
}

// ConnTimes is when things happened to a control connection, 0: not at all.
type ConnTimes struct{ Begun, Connected, Up int64 }

// ConnSpec says what control connection is wanted. The functions run on a
// loop, must not block, and may be nil.
type ConnSpec struct {
	Server netip.AddrPort
	From   netip.Addr // not valid: the kernel's choice
	Up     func(ConnTimes)
	// Down is called once. cause is CauseEnded, or why it could not be made, or
	// CauseLost. The calls on it are told on their own, perhaps later.
	Down func(cause, reason string)
}

// Connect opens a control connection. Calls may be placed on it at once: they
// wait until it is up.
func (c *Caller) Connect(spec ConnSpec) *Connection {
	n := &Connection{l: c.loops[int(c.next.Add(1))%len(c.loops)], spec: spec}
	n.times.Begun = c.clock()
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	n.cancel = cancel
	go n.dial(ctx)
	return n
}

func (n *Connection) dial(ctx context.Context) {
	defer n.cancel()
	d := net.Dialer{Control: sock.BindLate}
	if n.spec.From.IsValid() {
		d.LocalAddr = &net.TCPAddr{IP: n.spec.From.AsSlice()}
	}
	nc, err := d.DialContext(ctx, "tcp4", n.spec.Server.String())
	if err != nil {
		n.l.post(func() { n.failed(err) })
		return
	}
	n.times.Connected = n.l.clock()
	n.l.box.count.conns.Add(1)
	err = n.l.serveTCP(nc.(*net.TCPConn), true, n.connected)
	if err != nil {
		n.l.box.count.conns.Add(-1)
		_ = nc.Close()
		n.l.post(func() { n.failed(err) })
	}
}

func (n *Connection) failed(err error) {
	cause := CauseTCPFailed
	switch {
	case errors.Is(err, context.Canceled):
		cause = CauseAborted
	case errors.Is(err, syscall.ECONNREFUSED):
		cause = CauseTCPRefused
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT), errors.Is(err, context.DeadlineExceeded):
		cause = CauseTCPTimeout
	}
	n.end(cause, err.Error())
}

// connected runs on the loop, once TCP is.
func (n *Connection) connected(cn *conn) {
	n.cn = cn
	cn.keep = true
	cn.onUp = func() {
		n.up = true
		n.times.Up = n.l.clock()
		if n.spec.Up != nil {
			n.spec.Up(n.times)
		}
		n.proceed()
	}
	cn.onDown = func(e pptp.Closed) {
		cause := CauseLost
		switch {
		case cn.killed:
			cause = CauseAborted
		case !n.up:
			cause = CauseStart
		case e.Reason == pptp.ClosedLocally || e.Reason == pptp.ClosedStopTimeout:
			cause = CauseEnded
		}
		n.end(cause, e.String())
	}
}

func (n *Connection) end(cause, reason string) {
	n.over, n.cause, n.reason = true, cause, reason
	n.proceed()
	if n.spec.Down != nil {
		n.spec.Down(cause, reason)
	}
}

func (n *Connection) proceed() {
	waiting := n.waiting
	n.waiting = nil
	for _, f := range waiting {
		f()
	}
}

// do runs f on the loop, once the connection is up, or over.
func (n *Connection) do(f func()) {
	n.l.post(func() {
		if n.up || n.over {
			f()
		} else {
			n.waiting = append(n.waiting, f)
		}
	})
}

// Placed is a call of a Caller.
type Placed struct {
	l    *Loop
	k    *call // once it is placed
	over bool  // hung up before that
}

// Place asks for a call, as soon as the connection is up. watch hears what
// comes of it.
func (n *Connection) Place(link *ppp.Config, watch CallWatcher) *Placed {
	p := &Placed{l: n.l}
	n.do(func() { n.place(p, link, watch) })
	return p
}

func (n *Connection) place(p *Placed, link *ppp.Config, watch CallWatcher) {
	not := func(cause, reason string) {
		watch.CallDown(&CallReport{Info: CallInfo{User: link.User, Peer: n.spec.Server.Addr(), Local: n.spec.From}, Cause: cause, Reason: reason})
	}
	switch {
	case p.over:
		not(CauseEnded, "hung up before it was placed")
		return
	case n.over:
		not(n.cause, n.reason)
		return
	case n.cn.stopping:
		not(CauseEnded, "the control connection is being closed")
		return
	}
	k, err := n.cn.newCall(link, 0, 0, false, true)
	if err != nil {
		not(CauseNotPlaced, err.Error())
		return
	}
	p.k = k
	k.started = n.l.clock()
	k.user = link.User
	k.trace = &trace{watch: watch}
	k.onUp = func() { watch.CallUp(k.callReport()) }
	k.onEnd = func() {
		r := k.callReport()
		r.Cause, r.Reason = k.cause(), k.reason.String()
		watch.CallDown(r)
	}
	k.place()
}

// HangUp ends the call in order.
func (p *Placed) HangUp() {
	p.l.post(func() {
		p.over = true
		if p.k != nil {
			p.k.hangUp(ppp.Reason{Code: ppp.UserRequest})
		}
	})
}

// Stop ends the connection in order once its last call is gone.
func (n *Connection) Stop() {
	n.do(func() {
		if n.cn != nil && !n.cn.closed {
			n.cn.leaving = true
			n.cn.pump()
		}
	})
}

// Kill closes the connection without ceremony, as if we had died: its calls
// are over, and nobody has said so to the server.
func (n *Connection) Kill() {
	n.cancel()
	n.l.post(func() {
		if n.cn != nil && !n.cn.closed {
			n.cn.killed = true
			_ = n.cn.tr.Close()
			n.cn.lost(nil)
		}
	})
}
