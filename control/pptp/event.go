package pptp

import "fmt"

// Event is what a Conn tells its owner. The concrete types are the structs of
// this file, by value.
type Event interface{ event() }

// CallRef names a call within its connection. It is never used twice.
type CallRef uint32

// Peer is what the peer said about itself in its Start-Control-Connection
// message. The names are the peer's octets: not trusted.
type Peer struct {
	Version     uint16
	Framing     Framing
	Bearer      Bearer
	MaxChannels uint16
	Firmware    uint16
	HostName    string
	Vendor      string
}

// Established: the control connection is up, calls can be placed.
type Established struct {
	Peer Peer
}

// StartHeld: a connection held by Hold has received its
// Start-Control-Connection-Request and waits for Release or the end of TCP.
type StartHeld struct{}

// CallRequest: the peer asks for a call; the owner answers with Accept or
// Refuse, within the call time-out. Exactly one of the messages is set:
// Outgoing makes us the call's PAC, Incoming its PNS.
//
// Every call whose CallRef the owner has learned, here or from PlaceOutgoing
// and PlaceIncoming, ends with exactly one CallDown.
type CallRequest struct {
	Ref      CallRef
	Outgoing *OutgoingCallRequest
	Incoming *IncomingCallRequest
}

// CallUp: the call is established and data may flow.
type CallUp struct {
	Ref          CallRef
	Kind         CallKind
	LocalCallID  uint16 // in the GRE packets we receive
	PeerCallID   uint16 // in the GRE packets we send
	Serial       uint16 // call serial number, the same at both ends
	Window       uint16 // packets the peer will buffer; 0 has been seen
	Delay        uint16 // the peer's packet processing delay, tenths of a second
	ConnectSpeed uint32 // bits per second
	Channel      uint32 // physical channel ID
}

// DownCause says why a call is over.
type DownCause uint8

// Causes of CallDown.
const (
	DownLocal      DownCause = iota + 1 // cleared or refused by our side
	DownPeer                            // cleared by the peer
	DownRefused                         // refused by the peer
	DownTimeout                         // stuck in a state (§3.2.1)
	DownConnection                      // the control connection ended
)

var downCauses = []string{
	DownLocal: "local", DownPeer: "peer", DownRefused: "refused", DownTimeout: "timeout",
	DownConnection: "connection",
}

// String returns a short name.
func (d DownCause) String() string { return nameOf(downCauses, int(d)) }

// Disconnect is why a call ends, as a Call-Disconnect-Notify says it. A PNS
// clears calls without giving a reason.
type Disconnect struct {
	Result     DisconnectResult
	Error      ErrorCode
	Cause      CauseCode
	Statistics string
}

// CallDown: the call is over; its call ID is free as far as this connection
// is concerned.
type CallDown struct {
	Ref         CallRef
	Kind        CallKind
	LocalCallID uint16 // 0 when none was assigned
	PeerCallID  uint16 // 0 when none is known
	WasUp       bool
	Cause       DownCause
	// Disconnect is the notification that the PAC sent, whichever side that
	// is; zero if none was.
	Disconnect Disconnect
	// Outgoing or Incoming is the peer's negative result, with DownRefused,
	// and its error and cause codes.
	Outgoing  OutgoingResult
	Incoming  IncomingResult
	Error     ErrorCode
	CauseCode CauseCode
}

// LinkInfo: the PNS set the ACCMs of a call (Set-Link-Info, §2.15).
type LinkInfo struct {
	Ref         CallRef
	SendACCM    uint32
	ReceiveACCM uint32
}

// WANErrors are the cumulative counters of a WAN-Error-Notify (§2.14).
type WANErrors struct {
	CRC, Framing, HardwareOverruns, BufferOverruns, Timeout, Alignment uint32
}

// WANError: the PAC reported errors on a call's line.
type WANError struct {
	Ref    CallRef
	Errors WANErrors
}

// ProtocolError: a message was unexpected or unknown. The connection goes on
// unless Closed follows.
type ProtocolError struct {
	State   ConnState // when it came
	Message Type      // 0 for a message of unknown type
	Err     error
}

// CloseReason says why a control connection ended.
type CloseReason uint8

// Reasons of Closed.
const (
	ClosedByPeer       CloseReason = iota + 1 // Stop-Control-Connection-Request received
	ClosedLocally                             // Stop was called
	ClosedStopTimeout                         // no answer to our Stop-Control-Connection-Request
	ClosedStartTimeout                        // no start message in time (§3.1.4)
	ClosedRefused                             // the peer's Start-Control-Connection-Reply says no
	ClosedDeclined                            // RefuseStart said no
	ClosedVersion                             // no common protocol version
	ClosedEchoTimeout                         // Echo-Request not answered (§3.1.4)
	ClosedBadMessage                          // magic cookie or length wrong (§1.4)
	ClosedViolation                           // a message that may not come in this state
	ClosedSlowReader                          // the peer does not read what it causes us to write
	ClosedCollision                           // lost the collision (§3.1.3)
	ClosedTransport                           // TCP ended
	ClosedStuckCall                           // Config.CloseOnStuckCall
)

var closeReasons = []string{
	ClosedByPeer: "stopped by peer", ClosedLocally: "stopped",
	ClosedStopTimeout: "stopped, no answer", ClosedStartTimeout: "start timeout", ClosedRefused: "refused by peer",
	ClosedDeclined: "declined", ClosedVersion: "version mismatch", ClosedEchoTimeout: "echo timeout",
	ClosedBadMessage: "bad message", ClosedViolation: "protocol violation", ClosedSlowReader: "slow reader",
	ClosedCollision: "collision lost", ClosedTransport: "connection lost", ClosedStuckCall: "stuck call",
}

// String returns a short name.
func (r CloseReason) String() string { return nameOf(closeReasons, int(r)) }

// Closed is the last event of a connection. The owner writes what Output
// still holds and closes TCP.
type Closed struct {
	Reason      CloseReason
	StopReason  StopReason  // the peer's, with ClosedByPeer
	StartResult StartResult // with ClosedRefused and ClosedDeclined
	ErrorCode   ErrorCode   // with ClosedRefused and ClosedDeclined
	Err         error       // the *FormatError with ClosedBadMessage
}

// String is fit for a log line.
func (e Closed) String() string {
	s := e.Reason.String()
	switch e.Reason {
	case ClosedByPeer:
		s += ": " + e.StopReason.String()
	case ClosedRefused, ClosedDeclined:
		s += ": " + e.StartResult.String()
		if e.ErrorCode != ErrorNone {
			s += ", " + e.ErrorCode.String()
		}
	default: // the others need nothing
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (Established) event()   {}
func (StartHeld) event()     {}
func (CallRequest) event()   {}
func (CallUp) event()        {}
func (CallDown) event()      {}
func (LinkInfo) event()      {}
func (WANError) event()      {}
func (ProtocolError) event() {}
func (Closed) event()        {}

// nameOf returns names[v], or the number for a value without a name.
func nameOf(names []string, v int) string {
	if v < len(names) && names[v] != "" {
		return names[v]
	}
	return fmt.Sprint(v)
}
