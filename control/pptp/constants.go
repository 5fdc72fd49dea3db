package pptp

import (
	"strconv"
	"strings"
)

// Specification constants (RFC 2637).
const (
	// Port is the TCP port of the control connection (§1.4).
	Port = 1723
	// Magic is the magic cookie in every message (§1.4).
	Magic = 0x1A2B3C4D
	// Version is the protocol version spoken here: version 1, revision 0,
	// version in the high octet (§1.4).
	Version = 0x0100
	// MaxName is the size of the host name, vendor, phone number and
	// subaddress fields in octets; longer values are cut when sent.
	MaxName = 64
	// MaxStatistics is the size of the Call Statistics field (§2.13).
	MaxStatistics = 128
)

// Implementation constants.
const (
	// MaxMessage is the longest message, known or unknown, that is read. The
	// longest defined message has 220 octets; anything beyond this is a lost
	// synchronisation.
	MaxMessage = 4096

	headerLen  = 8  // length, PPTP message type, magic cookie
	controlLen = 12 // headerLen, control message type, Reserved0

	controlMessage = 1 // PPTP message type of all messages defined so far
)

// Type is a control message type (§1.4).
type Type uint16

// The control messages.
const (
	TypeStartRequest          Type = 1 + iota // Start-Control-Connection-Request
	TypeStartReply                            // Start-Control-Connection-Reply
	TypeStopRequest                           // Stop-Control-Connection-Request
	TypeStopReply                             // Stop-Control-Connection-Reply
	TypeEchoRequest                           // Echo-Request
	TypeEchoReply                             // Echo-Reply
	TypeOutgoingCallRequest                   // Outgoing-Call-Request
	TypeOutgoingCallReply                     // Outgoing-Call-Reply
	TypeIncomingCallRequest                   // Incoming-Call-Request
	TypeIncomingCallReply                     // Incoming-Call-Reply
	TypeIncomingCallConnected                 // Incoming-Call-Connected
	TypeCallClearRequest                      // Call-Clear-Request
	TypeCallDisconnectNotify                  // Call-Disconnect-Notify
	TypeWANErrorNotify                        // WAN-Error-Notify
	TypeSetLinkInfo                           // Set-Link-Info
	numTypes                  = int(iota) + 1
)

var types = [numTypes]struct {
	name   string
	length int // exact, header included
}{
	TypeStartRequest:          {"Start-Control-Connection-Request", 156},
	TypeStartReply:            {"Start-Control-Connection-Reply", 156},
	TypeStopRequest:           {"Stop-Control-Connection-Request", 16},
	TypeStopReply:             {"Stop-Control-Connection-Reply", 16},
	TypeEchoRequest:           {"Echo-Request", 16},
	TypeEchoReply:             {"Echo-Reply", 20},
	TypeOutgoingCallRequest:   {"Outgoing-Call-Request", 168},
	TypeOutgoingCallReply:     {"Outgoing-Call-Reply", 32},
	TypeIncomingCallRequest:   {"Incoming-Call-Request", 220},
	TypeIncomingCallReply:     {"Incoming-Call-Reply", 24},
	TypeIncomingCallConnected: {"Incoming-Call-Connected", 28},
	TypeCallClearRequest:      {"Call-Clear-Request", 16},
	TypeCallDisconnectNotify:  {"Call-Disconnect-Notify", 148},
	TypeWANErrorNotify:        {"WAN-Error-Notify", 40},
	TypeSetLinkInfo:           {"Set-Link-Info", 24},
}

func (t Type) known() bool { return t > 0 && int(t) < numTypes }

// Length returns the exact length in octets of a message of this type, header
// included, or 0 for an unknown type.
func (t Type) Length() int {
	if !t.known() {
		return 0
	}
	return types[t].length
}

// String returns the RFC's name of the message.
func (t Type) String() string {
	if !t.known() {
		return "control message type " + strconv.Itoa(int(t))
	}
	return types[t].name
}

// codeName formats a code as "name (value)".
func codeName(names []string, v int) string {
	name := "unknown"
	if v < len(names) && names[v] != "" {
		name = names[v]
	}
	return name + " (" + strconv.Itoa(v) + ")"
}

// StartResult is the result code of a Start-Control-Connection-Reply (§2.2).
type StartResult uint8

// Results of a Start-Control-Connection-Request.
const (
	StartOK            StartResult = 1
	StartGeneralError  StartResult = 2 // the error code says which
	StartExists        StartResult = 3
	StartNotAuthorized StartResult = 4
	StartBadVersion    StartResult = 5
)

// String returns the result's name and number.
func (r StartResult) String() string {
	return codeName([]string{
		1: "successful", 2: "general error", 3: "command channel already exists",
		4: "not authorized", 5: "protocol version not supported",
	}, int(r))
}

// StopReason is the reason in a Stop-Control-Connection-Request (§2.3). Real
// peers also send 0.
type StopReason uint8

// Reasons for stopping a control connection.
const (
	StopNone          StopReason = 1 // general request to clear
	StopProtocol      StopReason = 2 // peer's protocol version not supported
	StopLocalShutdown StopReason = 3 // requester is being shut down
)

// String returns the reason's name and number.
func (r StopReason) String() string {
	return codeName([]string{0: "unspecified", 1: "None", 2: "Stop-Protocol", 3: "Stop-Local-Shutdown"}, int(r))
}

// StopResult is the result code of a Stop-Control-Connection-Reply (§2.4).
type StopResult uint8

// Results of a Stop-Control-Connection-Request.
const (
	StopOK           StopResult = 1
	StopGeneralError StopResult = 2
)

// String returns the result's name and number.
func (r StopResult) String() string {
	return codeName([]string{1: "OK", 2: "general error"}, int(r))
}

// EchoResult is the result code of an Echo-Reply (§2.6).
type EchoResult uint8

// Results of an Echo-Request.
const (
	EchoOK           EchoResult = 1
	EchoGeneralError EchoResult = 2
)

// String returns the result's name and number.
func (r EchoResult) String() string {
	return codeName([]string{1: "OK", 2: "general error"}, int(r))
}

// OutgoingResult is the result code of an Outgoing-Call-Reply (§2.8).
type OutgoingResult uint8

// Results of an Outgoing-Call-Request.
const (
	OutgoingConnected    OutgoingResult = 1
	OutgoingGeneralError OutgoingResult = 2
	OutgoingNoCarrier    OutgoingResult = 3
	OutgoingBusy         OutgoingResult = 4
	OutgoingNoDialTone   OutgoingResult = 5
	OutgoingTimeout      OutgoingResult = 6
	OutgoingDoNotAccept  OutgoingResult = 7
)

// String returns the result's name and number.
func (r OutgoingResult) String() string {
	return codeName([]string{
		1: "Connected", 2: "General Error", 3: "No Carrier", 4: "Busy",
		5: "No Dial Tone", 6: "Time-out", 7: "Do Not Accept",
	}, int(r))
}

// IncomingResult is the result code of an Incoming-Call-Reply (§2.10).
type IncomingResult uint8

// Results of an Incoming-Call-Request.
const (
	IncomingConnect      IncomingResult = 1
	IncomingGeneralError IncomingResult = 2
	IncomingDoNotAccept  IncomingResult = 3
)

// String returns the result's name and number.
func (r IncomingResult) String() string {
	return codeName([]string{1: "Connect", 2: "General Error", 3: "Do Not Accept"}, int(r))
}

// DisconnectResult is the result code of a Call-Disconnect-Notify (§2.13).
type DisconnectResult uint8

// Reasons for a disconnected call.
const (
	DisconnectLostCarrier  DisconnectResult = 1
	DisconnectGeneralError DisconnectResult = 2
	DisconnectAdmin        DisconnectResult = 3
	DisconnectRequest      DisconnectResult = 4 // answer to a Call-Clear-Request
)

// String returns the result's name and number.
func (r DisconnectResult) String() string {
	return codeName([]string{1: "Lost Carrier", 2: "General Error", 3: "Admin Shutdown", 4: "Request"}, int(r))
}

// ErrorCode is a general error code (§2.16). It is 0 unless the result code
// beside it is "General Error".
type ErrorCode uint8

// General error codes.
const (
	ErrorNone         ErrorCode = 0
	ErrorNotConnected ErrorCode = 1
	ErrorBadFormat    ErrorCode = 2
	ErrorBadValue     ErrorCode = 3
	ErrorNoResource   ErrorCode = 4
	ErrorBadCallID    ErrorCode = 5
	ErrorPAC          ErrorCode = 6
)

// String returns the code's name and number.
func (e ErrorCode) String() string {
	return codeName([]string{
		"None", "Not-Connected", "Bad-Format", "Bad-Value", "No-Resource",
		"Bad-Call ID", "PAC-Error",
	}, int(e))
}

// CauseCode gives additional failure information; for ISDN calls it is the
// Q.931 cause (§2.8, §2.13).
type CauseCode uint16

// String returns the usual Q.931 causes by name.
func (c CauseCode) String() string {
	return codeName([]string{
		0: "none", 1: "unallocated number", 16: "normal call clearing", 17: "user busy",
		18: "no user responding", 19: "no answer", 21: "call rejected", 27: "destination out of order",
		31: "normal, unspecified", 34: "no channel available", 38: "network out of order",
		41: "temporary failure", 42: "congestion", 44: "channel not available",
	}, int(c))
}

// Framing is a set of PPP framing types, as capability (§2.1) or as the type
// of a call (§2.7, §2.11).
type Framing uint32

// Framing types.
const (
	FramingAsync Framing = 1
	FramingSync  Framing = 2
)

// String lists the bits.
func (f Framing) String() string { return bitNames(uint32(f), "async", "sync") }

// Bearer is a set of bearer types, as capability (§2.1) or as the type of a
// call (§2.7, §2.9).
type Bearer uint32

// Bearer types.
const (
	BearerAnalog  Bearer = 1
	BearerDigital Bearer = 2
)

// String lists the bits.
func (b Bearer) String() string { return bitNames(uint32(b), "analog", "digital") }

func bitNames(v uint32, names ...string) string {
	if v == 0 {
		return "none"
	}
	var out []string
	for i, name := range names {
		if v&(1<<i) != 0 {
			out = append(out, name)
			v &^= 1 << i
		}
	}
	if v != 0 {
		out = append(out, "0x"+strconv.FormatUint(uint64(v), 16))
	}
	return strings.Join(out, "+")
}
