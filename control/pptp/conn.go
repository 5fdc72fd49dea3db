package pptp

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"time"
)

// Never is the Deadline of a connection that waits for nothing.
const Never = int64(math.MaxInt64)

// What commands to a Conn can fail with.
var (
	ErrNotEstablished = errors.New("pptp: control connection not established")
	ErrTooManyCalls   = errors.New("pptp: too many calls on this control connection")
	ErrCallIDInUse    = errors.New("pptp: call ID in use on this control connection")
	ErrNoCall         = errors.New("pptp: no such call")
	ErrCallState      = errors.New("pptp: not possible in the call's state")
	ErrTooSoon        = errors.New("pptp: WAN-Error-Notify sent less than 60 seconds ago")
)

// Config is shared by many connections and not changed while one lives.
// DefaultConfig returns usable values, Validate checks changed ones.
type Config struct {
	// What we say about ourselves. Windows' names are empty and
	// "Microsoft Windows NT". A PNS sets MaxChannels to 0 (§2.1).
	HostName    string
	Vendor      string
	Firmware    uint16
	Framing     Framing
	Bearer      Bearer
	MaxChannels uint16

	// PAC lets the peer place outgoing calls with us (the usual server),
	// PNS lets it announce incoming calls. Without, such requests are
	// answered with "do not accept".
	PAC bool
	PNS bool

	// RecvWindow is the receive window, in packets, that we advertise for a
	// call when the owner names none.
	RecvWindow uint16
	// MaxCalls bounds the calls of one connection, 1 to 65535. Finding a call
	// takes time in proportion.
	MaxCalls int
	// OutputLimit is how many octets may wait for a peer that goes on sending
	// without reading before it is cut off.
	OutputLimit int

	StartTimeout time.Duration // for the peer's start message (§3.1.4)
	EchoInterval time.Duration // silence after which we send an Echo-Request; 0: never
	EchoTimeout  time.Duration // for its Echo-Reply
	StopTimeout  time.Duration // for the Stop-Control-Connection-Reply
	CallTimeout  time.Duration // for a call to leave a waiting state (§3.2.1)
	ClearTimeout time.Duration // for the answer to a Call-Clear-Request

	// CloseOnStuckCall stops the whole control connection when a call hits
	// CallTimeout, as §3.2.1 wants. Otherwise only the call is cleared.
	CloseOnStuckCall bool

	// Statistics, if not nil, returns the Call Statistics text for the
	// Call-Disconnect-Notify of a call that the peer clears. It must not call
	// back into c.
	Statistics func(c *Conn, ref CallRef) string
}

// DefaultConfig returns the RFC's times, except that a stop or clear waits
// only 3 s for its answer, and the willingness to be PAC and PNS.
func DefaultConfig() Config {
	return Config{
		Firmware:     1,
		Framing:      FramingAsync | FramingSync,
		Bearer:       BearerAnalog | BearerDigital,
		PAC:          true,
		PNS:          true,
		RecvWindow:   64,
		MaxCalls:     32,
		OutputLimit:  64 << 10,
		StartTimeout: 60 * time.Second,
		EchoInterval: 60 * time.Second,
		EchoTimeout:  60 * time.Second,
		StopTimeout:  3 * time.Second,
		CallTimeout:  60 * time.Second,
		ClearTimeout: 3 * time.Second,
	}
}

// Validate returns an error that names the first field out of range.
func (c *Config) Validate() error {
	if len(c.HostName) > MaxName {
		return fmt.Errorf("pptp: HostName has %d octets, at most %d", len(c.HostName), MaxName)
	}
	if len(c.Vendor) > MaxName {
		return fmt.Errorf("pptp: Vendor has %d octets, at most %d", len(c.Vendor), MaxName)
	}
	if c.RecvWindow == 0 {
		return errors.New("pptp: RecvWindow is 0, at least 1")
	}
	if c.MaxCalls < 1 || c.MaxCalls > math.MaxUint16 {
		return fmt.Errorf("pptp: MaxCalls is %d, want 1 to %d", c.MaxCalls, math.MaxUint16)
	}
	if c.OutputLimit < MaxMessage {
		return fmt.Errorf("pptp: OutputLimit is %d, at least %d", c.OutputLimit, MaxMessage)
	}
	for _, t := range []struct {
		name  string
		value time.Duration
	}{
		{"StartTimeout", c.StartTimeout},
		{"EchoTimeout", c.EchoTimeout},
		{"StopTimeout", c.StopTimeout},
		{"CallTimeout", c.CallTimeout},
		{"ClearTimeout", c.ClearTimeout},
	} {
		if t.value <= 0 {
			return fmt.Errorf("pptp: %s is %v, want more than 0", t.name, t.value)
		}
	}
	if c.EchoInterval < 0 {
		return fmt.Errorf("pptp: EchoInterval is %v, at least 0", c.EchoInterval)
	}
	return nil
}

// Conn is one control connection, either end. It is not safe for concurrent
// use.
//
// After every call of a method that takes a time the owner collects Events,
// writes Output, and asks for the new Deadline.
type Conn struct {
	cfg        *Config
	local      netip.AddrPort
	remote     netip.AddrPort
	originator bool
	state      ConnState
	why        CloseReason // set when the end is known

	held    bool
	request *StartRequest // held back
	decline StartReply    // what RefuseStart wants answered; ResultCode 0: nothing
	peer    Peer

	echoID      uint32
	echoPending bool

	deadline     int64 // of the connection's state
	callDeadline int64 // none of the calls is due before

	calls   []*call
	lastRef CallRef

	in     []byte // an incomplete message
	out    []byte // not yet taken
	head   int    // octets left of the first message in out; 0: whole
	events []Event
}

// NewConn returns the machine of one TCP connection: of the one we opened
// (originator) or of one the peer opened. cfg is kept.
func NewConn(cfg *Config, originator bool, local, remote netip.AddrPort) *Conn {
	return &Conn{cfg: cfg, originator: originator, local: local, remote: remote, deadline: Never, callDeadline: Never}
}

// LocalAddr returns our end of the TCP connection.
func (c *Conn) LocalAddr() netip.AddrPort { return c.local }

// RemoteAddr returns the peer's end of the TCP connection.
func (c *Conn) RemoteAddr() netip.AddrPort { return c.remote }

// Originator reports whether we opened the TCP connection.
func (c *Conn) Originator() bool { return c.originator }

// State returns the state of the control connection.
func (c *Conn) State() ConnState { return c.state }

// Peer returns what the peer said about itself; zero before Established.
func (c *Conn) Peer() Peer { return c.peer }

// CollisionWinner reports whether the local side wins when two peers have
// sent a Start-Control-Connection-Request to each other on two TCP
// connections (§3.1.3): the higher address does. The winner's owner calls
// Hold on the connection that the peer opened; the loser's calls
// CollisionLost on its own. Equal addresses cannot collide in this sense, and
// nobody wins.
func CollisionWinner(local, remote netip.Addr) bool {
	return local.Unmap().Compare(remote.Unmap()) > 0
}

// Start tells that the TCP connection is open. An originator sends its
// Start-Control-Connection-Request.
func (c *Conn) Start(now int64) {
	if c.state != StateIdle {
		return
	}
	if c.originator {
		c.step(now, onOpen, nil)
	} else {
		c.step(now, onAccept, nil)
	}
}

// RefuseStart makes a receiver answer the peer's
// Start-Control-Connection-Request with this result (and, for
// StartGeneralError, error code), not StartOK, and close. It counts until the
// request is answered.
func (c *Conn) RefuseStart(result StartResult, code ErrorCode) {
	c.decline.ResultCode, c.decline.ErrorCode = result, code
}

// Hold keeps a receiver from answering, or sending anything: this is the
// connection of a collision's loser and we wait for it to close (§3.1.3).
// It counts until the peer's request is answered.
func (c *Conn) Hold() { c.held = true }

// Release ends Hold: our own connection failed, so the peer's request is
// answered after all.
func (c *Conn) Release(now int64) {
	c.held = false
	if m := c.request; m != nil {
		c.request = nil
		c.message(now, m)
	}
}

// CollisionLost closes an originator's connection without another octet
// (§3.1.3). It does nothing unless the connection waits for the peer's reply.
func (c *Conn) CollisionLost(now int64) {
	if c.state == StateWaitCtlReply {
		c.step(now, onCollisionLost, nil)
	}
}

// Stop ends the connection: all calls are over at once, the peer gets a
// Stop-Control-Connection-Request, and Closed follows with its answer or
// after StopTimeout. Before the connection is established it just closes.
func (c *Conn) Stop(now int64, reason StopReason) {
	c.step(now, onLocalStop, &StopRequest{Reason: reason})
}

// Lost tells that TCP ended.
func (c *Conn) Lost(now int64) {
	if c.state != StateClosed {
		c.step(now, onTransportLost, nil)
	}
}

// Input takes octets from TCP, cut anywhere. It may answer each message in
// it, so the owner offers some kilobytes at a time and writes Output between.
// b is not kept.
func (c *Conn) Input(now int64, b []byte) {
	c.Start(now)
	if len(c.in) > 0 {
		b = append(c.in, b...)
		c.in = nil
	}
	for c.state != StateClosed {
		if len(c.out) > c.cfg.OutputLimit {
			c.out, c.head = nil, 0
			c.close(Closed{Reason: ClosedSlowReader})
			return
		}
		msg, rest, err := Split(b)
		if err != nil {
			c.close(Closed{Reason: ClosedBadMessage, Err: err})
			return
		}
		if msg == nil {
			if len(b) > 0 {
				c.in = bytes.Clone(b)
			}
			return
		}
		b = rest
		m, err := Parse(msg)
		if err != nil {
			c.heard(now)
			c.emit(ProtocolError{State: c.state, Err: err})
			continue
		}
		c.message(now, m)
	}
}

// Tick does what is due. It may be called at any time.
func (c *Conn) Tick(now int64) {
	if c.deadline != Never && now >= c.deadline {
		if c.state == StateEstablished && !c.echoPending {
			c.step(now, onEchoDue, nil)
		} else {
			c.step(now, onTimeout, nil)
		}
	}
	if c.callDeadline != Never && now >= c.callDeadline {
		c.tickCalls(now)
	}
}

// Deadline returns when Tick wants to be called next, or Never. It may be
// earlier than anything is due.
func (c *Conn) Deadline() int64 { return min(c.deadline, c.callDeadline) }

// Output returns what is to be written next: one message, or the rest of one,
// since some peers stall on two messages in one segment. It is valid until
// the next call of a method; nil when there is nothing.
func (c *Conn) Output() []byte {
	if len(c.out) == 0 {
		return nil
	}
	if c.head == 0 {
		c.head = int(c.out[0])<<8 | int(c.out[1])
	}
	return c.out[:c.head]
}

// Taken tells that the first n octets of Output were written.
func (c *Conn) Taken(n int) {
	if n <= 0 {
		return
	}
	n = min(n, len(c.Output()))
	c.head -= n
	if c.out = c.out[n:]; len(c.out) == 0 {
		c.out = nil
	}
}

// Pending returns how many octets wait to be written.
func (c *Conn) Pending() int { return len(c.out) }

// Events returns what has happened since the last call, in order.
func (c *Conn) Events() []Event {
	e := c.events
	c.events = nil
	return e
}

func (c *Conn) emit(e Event) { c.events = append(c.events, e) }

func (c *Conn) send(m Message) { c.out = Append(c.out, m) }

// heard notes that the peer is alive.
func (c *Conn) heard(now int64) {
	if c.state == StateEstablished && !c.echoPending {
		c.deadline = after(now, c.cfg.EchoInterval)
	}
}

// message feeds one message to the table.
func (c *Conn) message(now int64, m Message) {
	c.heard(now)
	if c.request != nil { // held: the peer has to wait for our reply
		c.close(Closed{Reason: ClosedViolation})
		return
	}
	ev := onCallMessage
	switch m := m.(type) {
	case *StartRequest:
		switch {
		case c.held && c.state == StateWaitCtlRequest:
			c.request = m
			c.emit(StartHeld{})
			return
		case m.ProtocolVersion>>8 < Version>>8:
			ev = onStartOldVersion
		case c.decline.ResultCode != 0:
			ev = onStartDeclined
		default:
			// A newer peer is answered with our version (§3.1.2).
			ev = onStartRequest
		}
	case *StartReply:
		switch {
		case m.ResultCode != StartOK:
			ev = onReplyRefused
		case m.ProtocolVersion>>8 != Version>>8:
			ev = onReplyBadVersion
		default:
			ev = onStartReply
		}
	case *StopRequest:
		ev = onStopRequest
	case *StopReply:
		ev = onStopReply
	case *EchoRequest:
		ev = onEchoRequest
	case *EchoReply:
		ev = onEchoReply
	}
	c.step(now, ev, m)
}

// step takes one arrow of connTable. m is the message that caused it, or for
// onLocalStop the one to send; nil for other events.
func (c *Conn) step(now int64, ev connEvent, m Message) {
	if c.state == StateClosed {
		return
	}
	s := connTable[c.state][ev]
	if s.do == connUnexpected {
		if m != nil {
			c.unexpected(m, nil)
		}
		return
	}
	entered := s.next != c.state
	c.state = s.next
	if s.why != 0 && (c.why == 0 || c.why == ClosedLocally) {
		c.why = s.why
	}
	if entered {
		c.deadline = c.stateDeadline(now)
	}
	closed := Closed{}

	switch s.do {
	case connUnexpected, connIgnore, connWait, connClose:
	case connSendRequest:
		c.send(&StartRequest{
			ProtocolVersion: Version, FramingCapabilities: c.cfg.Framing, BearerCapabilities: c.cfg.Bearer,
			MaximumChannels: c.cfg.MaxChannels, FirmwareRevision: c.cfg.Firmware,
			HostName: c.cfg.HostName, VendorName: c.cfg.Vendor,
		})
	case connSendReply:
		m := m.(*StartRequest)
		c.sendStartReply(StartOK, ErrorNone)
		c.established(Peer{
			m.ProtocolVersion, m.FramingCapabilities, m.BearerCapabilities, m.MaximumChannels,
			m.FirmwareRevision, m.HostName, m.VendorName,
		})
	case connSendReplyVersion:
		c.sendStartReply(StartBadVersion, ErrorNone)
	case connSendReplyDecline:
		closed.StartResult, closed.ErrorCode = c.decline.ResultCode, c.decline.ErrorCode
		c.sendStartReply(c.decline.ResultCode, c.decline.ErrorCode)
	case connSendReplyExists:
		c.unexpected(m, nil)
		c.sendStartReply(StartExists, ErrorNone)
	case connEstablish:
		m := m.(*StartReply)
		c.established(Peer{
			m.ProtocolVersion, m.FramingCapabilities, m.BearerCapabilities, m.MaximumChannels,
			m.FirmwareRevision, m.HostName, m.VendorName,
		})
	case connSendStop:
		c.downCalls()
		c.send(m)
	case connSendStopVersion:
		c.send(&StopRequest{Reason: StopProtocol})
	case connSendStopReply:
		c.send(&StopReply{ResultCode: StopOK})
	case connSendStopRefusal:
		c.send(&StopReply{ResultCode: StopGeneralError, ErrorCode: ErrorNotConnected})
	case connSendEcho:
		c.echoID++
		c.echoPending = true
		c.deadline = after(now, c.cfg.EchoTimeout)
		c.send(&EchoRequest{Identifier: c.echoID})
	case connSendEchoReply:
		c.send(&EchoReply{Identifier: m.(*EchoRequest).Identifier, ResultCode: EchoOK})
	case connSendEchoRefusal:
		c.unexpected(m, nil)
		c.send(&EchoReply{
			Identifier: m.(*EchoRequest).Identifier, ResultCode: EchoGeneralError,
			ErrorCode: ErrorNotConnected,
		})
	case connEchoed:
		c.echoed(now, m.(*EchoReply))
	case connCall:
		c.callMessage(now, m)
	case connRefuseCall:
		c.unexpected(m, nil)
		c.refuseUnconnected(m)
	case connAbort:
		c.out, c.head = nil, 0
	}

	if s.next == StateClosed {
		closed.Reason = c.why
		switch c.why {
		case ClosedByPeer:
			closed.StopReason = m.(*StopRequest).Reason
		case ClosedRefused:
			closed.StartResult, closed.ErrorCode = m.(*StartReply).ResultCode, m.(*StartReply).ErrorCode
		default: // the others need nothing
		}
		c.close(closed)
	}
}

func (c *Conn) stateDeadline(now int64) int64 {
	switch c.state {
	case StateWaitCtlRequest, StateWaitCtlReply:
		return after(now, c.cfg.StartTimeout)
	case StateEstablished:
		return after(now, c.cfg.EchoInterval)
	case StateWaitStopReply:
		return after(now, c.cfg.StopTimeout)
	default: // the others need nothing
	}
	return Never
}

func (c *Conn) sendStartReply(result StartResult, code ErrorCode) {
	c.send(&StartReply{
		ProtocolVersion: Version, ResultCode: result, ErrorCode: code, FramingCapabilities: c.cfg.Framing,
		BearerCapabilities: c.cfg.Bearer, MaximumChannels: c.cfg.MaxChannels, FirmwareRevision: c.cfg.Firmware,
		HostName: c.cfg.HostName, VendorName: c.cfg.Vendor,
	})
}

func (c *Conn) established(p Peer) {
	c.peer = p
	c.emit(Established{Peer: p})
}

// echoed takes any Echo-Reply as an answer: a peer that garbles the
// identifier is reported, but alive.
func (c *Conn) echoed(now int64, m *EchoReply) {
	if !c.echoPending || m.Identifier != c.echoID {
		c.unexpected(m, fmt.Errorf("pptp: Echo-Reply: Identifier is %d, want %d", m.Identifier, c.echoID))
	}
	c.echoPending = false
	c.heard(now)
}

// unexpected reports a message that the state has no use for.
func (c *Conn) unexpected(m Message, err error) {
	if err == nil {
		err = fmt.Errorf("pptp: unexpected %v", m.Type())
	}
	c.emit(ProtocolError{State: c.state, Message: m.Type(), Err: err})
}

// close ends the connection in whatever state it is.
func (c *Conn) close(e Closed) {
	c.state = StateClosed
	c.deadline = Never
	c.in, c.request = nil, nil
	c.downCalls()
	c.emit(e)
}

// after returns now + d, or Never if there is no such time or no time-out.
func after(now int64, d time.Duration) int64 {
	if t := now + int64(d); d > 0 && t > now {
		return t
	}
	return Never
}
