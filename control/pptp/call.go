package pptp

import (
	"fmt"
	"slices"
	"time"
)

// wanErrorInterval is the least time between two WAN-Error-Notify (§2.14).
const wanErrorInterval = 60 * time.Second

// call is one call of a connection.
type call struct {
	ref      CallRef
	kind     CallKind
	state    CallState
	hasLocal bool // localID is assigned
	hasPeer  bool // peerID is known
	wasUp    bool
	cause    DownCause // why we cleared it, in CallWaitDisconnect

	localID uint16
	peerID  uint16
	serial  uint16

	// What the peer said on the way to established.
	window  uint16
	delay   uint16
	speed   uint32
	channel uint32

	connected *IncomingCallConnected // PACIncoming: to send when the call is answered

	deadline int64
	nextWAN  int64 // no WAN-Error-Notify before
}

// callArg is what comes with a call event: the peer's message, or the owner's
// words.
type callArg struct {
	msg        Message
	answer     Answer
	refusal    Refusal
	disconnect Disconnect
}

// Answer is how the owner accepts a call.
type Answer struct {
	LocalCallID  uint16 // free on this connection
	RecvWindow   uint16 // packets we buffer; 0: Config.RecvWindow
	Delay        uint16 // our packet processing delay, tenths of a second
	ConnectSpeed uint32 // bits per second, outgoing calls only; 0: the request's maximum
	Channel      uint32 // physical channel ID, outgoing calls only
}

// Refusal is why a call is refused. Each has its best expression in an
// Outgoing-Call-Reply and in an Incoming-Call-Reply.
type Refusal uint8

// Reasons to refuse a call.
const (
	RefuseProhibited Refusal = iota // administratively
	RefuseNoResource                // not now
	RefuseNoCarrier
	RefuseBusy
	RefuseNoDialTone
	RefuseTimeout
	RefuseBadCallID // the call ID is in use
	RefusePACError
	refuseNotConnected // no control connection yet
)

var refusals = [...]struct {
	outgoing OutgoingResult
	incoming IncomingResult
	code     ErrorCode // only with a general error
}{
	RefuseProhibited:   {OutgoingDoNotAccept, IncomingDoNotAccept, ErrorNone},
	RefuseNoResource:   {OutgoingGeneralError, IncomingGeneralError, ErrorNoResource},
	RefuseNoCarrier:    {OutgoingNoCarrier, IncomingDoNotAccept, ErrorNone},
	RefuseBusy:         {OutgoingBusy, IncomingDoNotAccept, ErrorNone},
	RefuseNoDialTone:   {OutgoingNoDialTone, IncomingDoNotAccept, ErrorNone},
	RefuseTimeout:      {OutgoingTimeout, IncomingDoNotAccept, ErrorNone},
	RefuseBadCallID:    {OutgoingGeneralError, IncomingGeneralError, ErrorBadCallID},
	RefusePACError:     {OutgoingGeneralError, IncomingGeneralError, ErrorPAC},
	refuseNotConnected: {OutgoingGeneralError, IncomingGeneralError, ErrorNotConnected},
}

// CallInfo is a call as others may see it.
type CallInfo struct {
	Ref         CallRef
	Kind        CallKind
	State       CallState
	LocalCallID uint16
	PeerCallID  uint16
	Serial      uint16
}

// NumCalls returns the number of calls in any state but idle.
func (c *Conn) NumCalls() int { return len(c.calls) }

// Calls returns all calls, oldest first.
func (c *Conn) Calls() []CallInfo {
	out := make([]CallInfo, len(c.calls))
	for i, k := range c.calls {
		out[i] = CallInfo{k.ref, k.kind, k.state, k.localID, k.peerID, k.serial}
	}
	return out
}

// PlaceOutgoing asks the peer, as its PNS, to place a call: it sends m, whose
// CallID the owner has chosen and made ready to receive. A zero receive
// window is replaced by Config.RecvWindow in m. CallUp or CallDown follows.
//
// A call ID should rest before it is used again: messages about its last call
// may still be on their way after a time-out.
func (c *Conn) PlaceOutgoing(now int64, m *OutgoingCallRequest) (CallRef, error) {
	if m.PacketRecvWindowSize == 0 {
		m.PacketRecvWindowSize = c.cfg.RecvWindow
	}
	k := &call{kind: PNSOutgoing, localID: m.CallID, serial: m.CallSerialNumber}
	return c.place(now, k, m)
}

// PlaceIncoming announces to the peer, as its PAC, that a call came in: it
// sends m, whose CallID the owner has chosen and made ready to receive, and
// once the peer has accepted connected (its PeerCallID is filled in, a zero
// receive window replaced by Config.RecvWindow). CallUp or CallDown follows.
func (c *Conn) PlaceIncoming(now int64, m *IncomingCallRequest, connected IncomingCallConnected) (CallRef, error) {
	if connected.PacketRecvWindowSize == 0 {
		connected.PacketRecvWindowSize = c.cfg.RecvWindow
	}
	k := &call{kind: PACIncoming, localID: m.CallID, serial: m.CallSerialNumber, connected: &connected}
	return c.place(now, k, m)
}

func (c *Conn) place(now int64, k *call, m Message) (CallRef, error) {
	switch {
	case c.state != StateEstablished:
		return 0, ErrNotEstablished
	case len(c.calls) >= c.cfg.MaxCalls:
		return 0, ErrTooManyCalls
	case c.localIDInUse(k.localID):
		return 0, ErrCallIDInUse
	}
	k.hasLocal = true
	c.add(k)
	c.callStep(now, k, onPlace, callArg{msg: m})
	return k.ref, nil
}

// Accept answers a CallRequest: the peer's outgoing call is up at once, an
// incoming one when the peer has connected it. The owner has made
// a.LocalCallID ready to receive.
func (c *Conn) Accept(now int64, ref CallRef, a Answer) error {
	k := c.find(ref)
	switch {
	case k == nil:
		return ErrNoCall
	case callTable[k.kind][k.state][onAnswer].do == callUnexpected:
		return ErrCallState
	case c.localIDInUse(a.LocalCallID):
		return ErrCallIDInUse
	}
	if a.RecvWindow == 0 {
		a.RecvWindow = c.cfg.RecvWindow
	}
	if a.ConnectSpeed == 0 {
		a.ConnectSpeed = k.speed
	}
	k.localID, k.hasLocal = a.LocalCallID, true
	c.callStep(now, k, onAnswer, callArg{answer: a})
	return nil
}

// Refuse answers a CallRequest with no. CallDown follows.
func (c *Conn) Refuse(now int64, ref CallRef, why Refusal) error {
	return c.command(now, ref, onRefuse, callArg{refusal: why})
}

// Clear ends a call in any state. As PNS we send a Call-Clear-Request, and
// CallDown follows with the peer's answer or after Config.ClearTimeout; as
// PAC we send d (a zero result is replaced by DisconnectAdmin), or refuse a
// call not yet answered, and CallDown follows at once. Clearing twice is no
// error.
func (c *Conn) Clear(now int64, ref CallRef, d Disconnect) error {
	if d.Result == 0 {
		d.Result = DisconnectAdmin
	}
	return c.command(now, ref, onClear, callArg{disconnect: d})
}

func (c *Conn) command(now int64, ref CallRef, ev callEvent, arg callArg) error {
	k := c.find(ref)
	if k == nil {
		return ErrNoCall
	}
	if !c.callStep(now, k, ev, arg) {
		return ErrCallState
	}
	return nil
}

// SetLinkInfo tells the PAC of an established call, as its PNS, the ACCMs
// that PPP negotiated (§2.15).
func (c *Conn) SetLinkInfo(ref CallRef, sendACCM, receiveACCM uint32) error {
	k := c.find(ref)
	if k == nil {
		return ErrNoCall
	}
	if k.kind.pac() || k.state != CallEstablished {
		return ErrCallState
	}
	c.send(&SetLinkInfo{PeerCallID: k.peerID, SendACCM: sendACCM, ReceiveACCM: receiveACCM})
	return nil
}

// WANErrorNotify tells the PNS of an established call, as its PAC, the error
// counters of the line (§2.14): at most once in 60 seconds, else ErrTooSoon.
func (c *Conn) WANErrorNotify(now int64, ref CallRef, e WANErrors) error {
	k := c.find(ref)
	switch {
	case k == nil:
		return ErrNoCall
	case !k.kind.pac() || k.state != CallEstablished:
		return ErrCallState
	case now < k.nextWAN:
		return ErrTooSoon
	}
	k.nextWAN = after(now, wanErrorInterval)
	c.send(&WANErrorNotify{
		PeerCallID: k.peerID, CRCErrors: e.CRC, FramingErrors: e.Framing, HardwareOverruns: e.HardwareOverruns,
		BufferOverruns: e.BufferOverruns, TimeoutErrors: e.Timeout, AlignmentErrors: e.Alignment,
	})
	return nil
}

func (c *Conn) add(k *call) {
	c.lastRef++
	k.ref = c.lastRef
	k.deadline = Never
	c.calls = append(c.calls, k)
}

// findCall returns the oldest call that fits, or nil.
func (c *Conn) findCall(fits func(k *call) bool) *call {
	if i := slices.IndexFunc(c.calls, fits); i >= 0 {
		return c.calls[i]
	}
	return nil
}

func (c *Conn) find(ref CallRef) *call {
	return c.findCall(func(k *call) bool { return k.ref == ref })
}

func (c *Conn) localIDInUse(id uint16) bool {
	return c.findCall(func(k *call) bool { return k.hasLocal && k.localID == id }) != nil
}

func (c *Conn) peerIDInUse(id uint16) bool {
	return c.findCall(func(k *call) bool { return k.hasPeer && k.peerID == id }) != nil
}

// ownCall finds a call by kind and the call ID we assigned.
func (c *Conn) ownCall(kind CallKind, id uint16) *call {
	return c.findCall(func(k *call) bool { return k.kind == kind && k.hasLocal && k.localID == id })
}

// clearedCall finds the call of a Call-Clear-Request or
// Call-Disconnect-Notify, in which the sender names the call ID it assigned
// (§2.12, §2.13). Some name ours, so that counts when the other fits nothing.
// A notification may also answer our Call-Clear-Request to a call whose peer
// call ID we never learned.
func (c *Conn) clearedCall(pac bool, id uint16) *call {
	k := c.findCall(func(k *call) bool { return k.kind.pac() == pac && k.hasPeer && k.peerID == id })
	if k == nil {
		k = c.findCall(func(k *call) bool { return k.kind.pac() == pac && k.hasLocal && k.localID == id })
	}
	if k == nil && !pac {
		k = c.findCall(func(k *call) bool { return k.state == CallWaitDisconnect && !k.hasPeer })
	}
	return k
}

// callMessage hands a call message to its call.
func (c *Conn) callMessage(now int64, m Message) {
	switch m := m.(type) {
	case *OutgoingCallRequest:
		c.requested(now, m, &call{
			kind: PACOutgoing, peerID: m.CallID, serial: m.CallSerialNumber,
			window: m.PacketRecvWindowSize, delay: m.PacketProcessingDelay, speed: m.MaximumBPS,
		}, c.cfg.PAC)
	case *IncomingCallRequest:
		c.requested(now, m, &call{
			kind: PNSIncoming, peerID: m.CallID, serial: m.CallSerialNumber, channel: m.PhysicalChannelID,
		}, c.cfg.PNS)
	case *OutgoingCallReply:
		k := c.ownCall(PNSOutgoing, m.PeerCallID)
		c.replied(now, m, k, m.ResultCode == OutgoingConnected, m.CallID, m.PeerCallID)
	case *IncomingCallReply:
		k := c.ownCall(PACIncoming, m.PeerCallID)
		c.replied(now, m, k, m.ResultCode == IncomingConnect, m.CallID, m.PeerCallID)
	case *IncomingCallConnected:
		k := c.ownCall(PNSIncoming, m.PeerCallID)
		if k == nil {
			c.unknownCall(m, m.PeerCallID)
			c.send(&CallClearRequest{CallID: m.PeerCallID})
			return
		}
		if k.state == CallWaitConnect {
			k.speed, k.window, k.delay = m.ConnectSpeed, m.PacketRecvWindowSize, m.PacketTransmitDelay
		}
		c.callStep(now, k, onConnected, callArg{msg: m})
	case *CallClearRequest:
		k := c.clearedCall(true, m.CallID)
		if k == nil {
			// Not known any more, or never: the peer waits for this answer.
			c.unknownCall(m, m.CallID)
			c.send(&CallDisconnectNotify{CallID: m.CallID, ResultCode: DisconnectGeneralError, ErrorCode: ErrorBadCallID})
			return
		}
		d := Disconnect{Result: DisconnectRequest}
		if c.cfg.Statistics != nil {
			d.Statistics = c.cfg.Statistics(c, k.ref)
		}
		c.callStep(now, k, onCallClear, callArg{msg: m, disconnect: d})
	case *CallDisconnectNotify:
		k := c.clearedCall(false, m.CallID)
		if k == nil {
			c.unknownCall(m, m.CallID)
			return
		}
		c.callStep(now, k, onNotify, callArg{msg: m, disconnect: Disconnect{
			m.ResultCode, m.ErrorCode, m.CauseCode, m.CallStatistics,
		}})
	case *SetLinkInfo:
		k := c.findCall(func(k *call) bool { return k.kind.pac() && k.hasLocal && k.localID == m.PeerCallID })
		if k == nil {
			c.unknownCall(m, m.PeerCallID)
			return
		}
		c.emit(LinkInfo{k.ref, m.SendACCM, m.ReceiveACCM})
	case *WANErrorNotify:
		k := c.findCall(func(k *call) bool { return !k.kind.pac() && k.hasLocal && k.localID == m.PeerCallID })
		if k == nil {
			c.unknownCall(m, m.PeerCallID)
			return
		}
		c.emit(WANError{k.ref, WANErrors{
			m.CRCErrors, m.FramingErrors, m.HardwareOverruns, m.BufferOverruns, m.TimeoutErrors, m.AlignmentErrors,
		}})
	}
}

// requested takes the peer's request for a new call k.
func (c *Conn) requested(now int64, m Message, k *call, willing bool) {
	k.hasPeer = true
	ev, arg := onRequestBad, callArg{msg: m}
	switch {
	case !willing:
		arg.refusal = RefuseProhibited
	case c.peerIDInUse(k.peerID):
		c.unexpected(m, fmt.Errorf("pptp: %v: Call ID %d is in use", m.Type(), k.peerID))
		arg.refusal = RefuseBadCallID
	case len(c.calls) >= c.cfg.MaxCalls:
		arg.refusal = RefuseNoResource
	default:
		ev = onRequest
		c.add(k)
	}
	c.callStep(now, k, ev, arg)
}

// replied takes the peer's reply to our request for call k, nil if unknown.
func (c *Conn) replied(now int64, m Message, k *call, ok bool, peerID, ownID uint16) {
	switch {
	case k == nil:
		// Perhaps we gave up. Do not leave it up at the peer's.
		c.unknownCall(m, ownID)
		if ok && m.Type() == TypeOutgoingCallReply {
			c.send(&CallClearRequest{CallID: ownID})
		} else if ok {
			c.send(&CallDisconnectNotify{CallID: ownID, ResultCode: DisconnectGeneralError, ErrorCode: ErrorBadCallID})
		}
	case !ok:
		c.callStep(now, k, onReplyError, callArg{msg: m})
	case k.hasPeer: // a second reply
		c.callStep(now, k, onReply, callArg{msg: m})
	case k.state == CallWaitReply && c.peerIDInUse(peerID):
		// Two calls with one GRE key would not work.
		c.unexpected(m, fmt.Errorf("pptp: %v: Call ID %d is in use", m.Type(), peerID))
		c.callStep(now, k, onClear, callArg{disconnect: Disconnect{
			Result: DisconnectGeneralError, Error: ErrorBadCallID,
		}})
	default:
		k.peerID, k.hasPeer = peerID, true
		switch m := m.(type) {
		case *OutgoingCallReply:
			k.speed, k.channel = m.ConnectSpeed, m.PhysicalChannelID
			k.window, k.delay = m.PacketRecvWindowSize, m.PacketProcessingDelay
		case *IncomingCallReply:
			k.window, k.delay = m.PacketRecvWindowSize, m.PacketTransmitDelay
		}
		c.callStep(now, k, onReply, callArg{msg: m})
	}
}

func (c *Conn) unknownCall(m Message, id uint16) {
	c.unexpected(m, fmt.Errorf("pptp: %v: no call with call ID %d", m.Type(), id))
}

// callStep takes one arrow of callTable. It reports whether there is one;
// an unexpected message is reported to the owner.
func (c *Conn) callStep(now int64, k *call, ev callEvent, arg callArg) bool {
	s := callTable[k.kind][k.state][ev]
	if s.do == callUnexpected {
		if arg.msg != nil {
			c.unexpected(arg.msg, fmt.Errorf("pptp: unexpected %v in state %v of a %v call", arg.msg.Type(), k.state, k.kind))
		}
		return false
	}
	if s.next != k.state {
		k.state = s.next
		c.setCallDeadline(now, k)
	}

	switch s.do {
	case callUnexpected, callIgnore:
	case callAsk:
		e := CallRequest{Ref: k.ref}
		e.Outgoing, _ = arg.msg.(*OutgoingCallRequest)
		e.Incoming, _ = arg.msg.(*IncomingCallRequest)
		c.emit(e)
	case callSendRequest:
		c.send(arg.msg)
	case callSendReply:
		c.send(&IncomingCallReply{
			CallID: k.localID, PeerCallID: k.peerID, ResultCode: IncomingConnect,
			PacketRecvWindowSize: arg.answer.RecvWindow, PacketTransmitDelay: arg.answer.Delay,
		})
	case callSendReplyUp:
		k.speed, k.channel = arg.answer.ConnectSpeed, arg.answer.Channel
		c.send(&OutgoingCallReply{
			CallID: k.localID, PeerCallID: k.peerID, ResultCode: OutgoingConnected, ConnectSpeed: k.speed,
			PacketRecvWindowSize: arg.answer.RecvWindow, PacketProcessingDelay: arg.answer.Delay,
			PhysicalChannelID: k.channel,
		})
		c.up(k)
	case callSendRefusal, callSendRefusalDown:
		if ev == onCallTimeout {
			arg.refusal = RefuseTimeout
		}
		c.sendRefusal(k.kind, k.peerID, arg.refusal)
		if s.do == callSendRefusalDown {
			arg.disconnect = Disconnect{} // not sent
			c.down(k, ev, arg)
		}
	case callSendConnected:
		m := *k.connected
		m.PeerCallID = k.peerID
		k.speed = m.ConnectSpeed
		c.send(&m)
		c.up(k)
	case callUp:
		c.up(k)
	case callSendClear:
		k.cause = DownLocal
		if ev == onCallTimeout {
			k.cause = DownTimeout
		}
		c.send(&CallClearRequest{CallID: k.localID})
	case callSendNotify:
		if ev == onCallTimeout {
			arg.disconnect = Disconnect{Result: DisconnectGeneralError, Error: ErrorPAC}
		}
		id := k.localID
		if !k.hasLocal { // cleared before we answered; the peer knows only its own
			id = k.peerID
		}
		d := arg.disconnect
		c.send(&CallDisconnectNotify{
			CallID: id, ResultCode: d.Result, ErrorCode: d.Error, CauseCode: d.Cause, CallStatistics: d.Statistics,
		})
		c.down(k, ev, arg)
	case callDown:
		c.down(k, ev, arg)
	}
	return true
}

func (c *Conn) setCallDeadline(now int64, k *call) {
	switch k.state {
	case CallIdle, CallEstablished:
		k.deadline = Never
	case CallWaitDisconnect:
		k.deadline = after(now, c.cfg.ClearTimeout)
	default:
		k.deadline = after(now, c.cfg.CallTimeout)
	}
	c.callDeadline = min(c.callDeadline, k.deadline)
}

// sendRefusal answers the request with the peer's call ID with no. There is
// no call ID of ours.
func (c *Conn) sendRefusal(kind CallKind, peerID uint16, why Refusal) {
	if int(why) >= len(refusals) {
		why = RefuseProhibited
	}
	r := refusals[why]
	if kind == PACOutgoing {
		c.send(&OutgoingCallReply{PeerCallID: peerID, ResultCode: r.outgoing, ErrorCode: r.code})
	} else {
		c.send(&IncomingCallReply{PeerCallID: peerID, ResultCode: r.incoming, ErrorCode: r.code})
	}
}

// refuseUnconnected answers a request that came before the control
// connection is established (§2.16).
func (c *Conn) refuseUnconnected(m Message) {
	switch m := m.(type) {
	case *OutgoingCallRequest:
		c.sendRefusal(PACOutgoing, m.CallID, refuseNotConnected)
	case *IncomingCallRequest:
		c.sendRefusal(PNSIncoming, m.CallID, refuseNotConnected)
	}
}

func (c *Conn) up(k *call) {
	k.wasUp = true
	k.connected = nil
	c.emit(CallUp{
		Ref: k.ref, Kind: k.kind, LocalCallID: k.localID, PeerCallID: k.peerID, Serial: k.serial,
		Window: k.window, Delay: k.delay, ConnectSpeed: k.speed, Channel: k.channel,
	})
}

// down forgets a call and tells the owner why.
func (c *Conn) down(k *call, ev callEvent, arg callArg) {
	c.calls = slices.DeleteFunc(c.calls, func(other *call) bool { return other == k })
	if len(c.calls) == 0 {
		c.calls, c.callDeadline = nil, Never
	}
	e := k.downEvent(DownLocal)
	e.Disconnect = arg.disconnect
	switch ev {
	case onNotify, onCallClear:
		e.Cause = DownPeer
	case onReplyError:
		e.Cause = DownRefused
		switch m := arg.msg.(type) {
		case *OutgoingCallReply:
			e.Outgoing, e.Error, e.CauseCode = m.ResultCode, m.ErrorCode, m.CauseCode
		case *IncomingCallReply:
			e.Incoming, e.Error = m.ResultCode, m.ErrorCode
		}
	case onCallTimeout:
		e.Cause = DownTimeout
	default: // the others need nothing
	}
	if k.cause != 0 { // we cleared it, whatever ended the wait
		e.Cause = k.cause
	}
	c.emit(e)
}

func (k *call) downEvent(cause DownCause) CallDown {
	return CallDown{Ref: k.ref, Kind: k.kind, LocalCallID: k.localID, PeerCallID: k.peerID, WasUp: k.wasUp, Cause: cause}
}

// downCalls ends all calls with the connection (§2.3).
func (c *Conn) downCalls() {
	for _, k := range c.calls {
		cause := DownConnection
		if k.cause != 0 {
			cause = k.cause
		}
		c.emit(k.downEvent(cause))
	}
	c.calls, c.callDeadline = nil, Never
}

// tickCalls lets the calls that are due time out and finds the next.
func (c *Conn) tickCalls(now int64) {
	for _, k := range slices.Clone(c.calls) {
		if k.deadline > now || c.state != StateEstablished {
			continue
		}
		stuck := k.state != CallWaitDisconnect
		c.callStep(now, k, onCallTimeout, callArg{})
		if stuck && c.cfg.CloseOnStuckCall {
			c.why = ClosedStuckCall
			c.Stop(now, StopNone)
		}
	}
	c.callDeadline = Never
	for _, k := range c.calls {
		c.callDeadline = min(c.callDeadline, k.deadline)
	}
}
