package pptp

// ConnState is a state of the control connection (§3.1). One table serves the
// originator (§3.1.1) and the receiver (§3.1.2): the figures differ only in
// how they leave idle. RFC 2637 calls "idle" also what a receiver with an
// open TCP connection waits in, here StateWaitCtlRequest, and what is left
// when TCP is closed, here StateClosed.
type ConnState uint8

// States of the control connection.
const (
	StateIdle           ConnState = iota // Start was not called
	StateWaitCtlRequest                  // receiver: TCP is open
	StateWaitCtlReply                    // originator: request sent
	StateEstablished                     // the RFC's "established"
	StateWaitStopReply                   // Stop-Control-Connection-Request sent
	StateClosed                          // over; nothing leaves this state
	numConnStates       = int(iota)
)

var connStates = []string{"idle", "wait_ctl_request", "wait_ctl_reply", "established", "wait_stop_reply", "closed"}

// String returns the RFC's name where there is one.
func (s ConnState) String() string { return nameOf(connStates, int(s)) }

type connEvent uint8

const (
	onOpen            connEvent = iota // our TCP connection is open
	onAccept                           // the peer's TCP connection is open
	onStartRequest                     // SCCRQ, version OK
	onStartOldVersion                  // SCCRQ, version not OK
	onStartDeclined                    // SCCRQ, but the owner does not want the peer
	onStartReply                       // SCCRP, version OK
	onReplyBadVersion                  // SCCRP, version not OK
	onReplyRefused                     // SCCRP, result not OK
	onStopRequest
	onStopReply
	onEchoRequest
	onEchoReply
	onCallMessage // types 7 to 15
	onLocalStop
	onCollisionLost // §3.1.3
	onEchoDue       // nothing received for the echo interval
	onTimeout
	onTransportLost
	numConnEvents = int(iota)
)

type connAction uint8

const (
	connUnexpected       connAction = iota // report the message
	connIgnore                             // crossed ours on the way
	connSendRequest                        // SCCRQ
	connWait                               // for the peer's SCCRQ
	connSendReply                          // SCCRP, established
	connSendReplyVersion                   // SCCRP: version not supported
	connSendReplyDecline                   // SCCRP with the owner's result
	connSendReplyExists                    // SCCRP: channel exists already
	connEstablish                          // established
	connSendStop                           // StopCCRQ with the owner's reason
	connSendStopVersion                    // StopCCRQ: Stop-Protocol
	connSendStopReply                      // StopCCRP
	connSendStopRefusal                    // StopCCRP: Not-Connected
	connSendEcho                           // Echo-Request
	connSendEchoReply                      // Echo-Reply
	connSendEchoRefusal                    // Echo-Reply: Not-Connected
	connEchoed                             // our echo came back
	connCall                               // hand the message to its call
	connRefuseCall                         // answer it: Not-Connected
	connClose                              // nothing to send
	connAbort                              // send nothing more, not even what waits
)

// connStep is one arrow of the figures. why says how a step into StateClosed
// is reported; 0 there means that the reason was known when the stop began.
type connStep struct {
	next ConnState
	do   connAction
	why  CloseReason
}

// connTable is §3.1.1 to §3.1.4. The receiver's figure says "Receive Start Ctl
// Connection Request /Send Stop Reply, Close TCP" where its text, which counts
// here, says Stop-Control-Connection-Request. What they leave open is so:
// before a control connection exists requests are answered with Not-Connected,
// and a receiver whose peer does not begin with a SCCRQ closes; a second
// SCCRQ gets "already exists"; a reply nobody waits for is reported.
var connTable = [numConnStates][numConnEvents]connStep{
	StateIdle: {
		onOpen:          {StateWaitCtlReply, connSendRequest, 0},
		onAccept:        {StateWaitCtlRequest, connWait, 0},
		onLocalStop:     {StateClosed, connClose, ClosedLocally},
		onTransportLost: {StateClosed, connAbort, ClosedTransport},
	},
	StateWaitCtlRequest: {
		onStartRequest:    {StateEstablished, connSendReply, 0},
		onStartOldVersion: {StateClosed, connSendReplyVersion, ClosedVersion},
		onStartDeclined:   {StateClosed, connSendReplyDecline, ClosedDeclined},
		onStartReply:      {StateClosed, connClose, ClosedViolation},
		onReplyBadVersion: {StateClosed, connClose, ClosedViolation},
		onReplyRefused:    {StateClosed, connClose, ClosedViolation},
		onStopRequest:     {StateClosed, connSendStopRefusal, ClosedByPeer},
		onStopReply:       {StateClosed, connClose, ClosedViolation},
		onEchoRequest:     {StateClosed, connSendEchoRefusal, ClosedViolation},
		onEchoReply:       {StateClosed, connClose, ClosedViolation},
		onCallMessage:     {StateClosed, connRefuseCall, ClosedViolation},
		onLocalStop:       {StateClosed, connClose, ClosedLocally},
		onTimeout:         {StateClosed, connClose, ClosedStartTimeout},
		onTransportLost:   {StateClosed, connAbort, ClosedTransport},
	},
	StateWaitCtlReply: {
		onStartReply:      {StateEstablished, connEstablish, 0},
		onReplyBadVersion: {StateWaitStopReply, connSendStopVersion, ClosedVersion},
		onReplyRefused:    {StateClosed, connClose, ClosedRefused},
		onStartRequest:    {StateClosed, connClose, ClosedViolation},
		onStartOldVersion: {StateClosed, connClose, ClosedViolation},
		onStartDeclined:   {StateClosed, connClose, ClosedViolation},
		onStopRequest:     {StateClosed, connSendStopReply, ClosedByPeer},
		onEchoRequest:     {StateWaitCtlReply, connSendEchoRefusal, 0},
		onCallMessage:     {StateWaitCtlReply, connRefuseCall, 0},
		onLocalStop:       {StateClosed, connClose, ClosedLocally},
		onCollisionLost:   {StateClosed, connAbort, ClosedCollision},
		onTimeout:         {StateClosed, connClose, ClosedStartTimeout},
		onTransportLost:   {StateClosed, connAbort, ClosedTransport},
	},
	StateEstablished: {
		onStartRequest:    {StateEstablished, connSendReplyExists, 0},
		onStartOldVersion: {StateEstablished, connSendReplyExists, 0},
		onStartDeclined:   {StateEstablished, connSendReplyExists, 0},
		onStopRequest:     {StateClosed, connSendStopReply, ClosedByPeer},
		onEchoRequest:     {StateEstablished, connSendEchoReply, 0},
		onEchoReply:       {StateEstablished, connEchoed, 0},
		onCallMessage:     {StateEstablished, connCall, 0},
		onLocalStop:       {StateWaitStopReply, connSendStop, ClosedLocally},
		onEchoDue:         {StateEstablished, connSendEcho, 0},
		onTimeout:         {StateClosed, connClose, ClosedEchoTimeout},
		onTransportLost:   {StateClosed, connAbort, ClosedTransport},
	},
	StateWaitStopReply: {
		onStartReply:      {StateWaitStopReply, connIgnore, 0},
		onReplyBadVersion: {StateWaitStopReply, connIgnore, 0},
		onReplyRefused:    {StateWaitStopReply, connIgnore, 0},
		onStopRequest:     {StateClosed, connSendStopReply, 0},
		onStopReply:       {StateClosed, connClose, 0},
		onEchoRequest:     {StateWaitStopReply, connSendEchoReply, 0},
		onEchoReply:       {StateWaitStopReply, connIgnore, 0},
		onCallMessage:     {StateWaitStopReply, connIgnore, 0},
		onLocalStop:       {StateWaitStopReply, connIgnore, 0},
		onTimeout:         {StateClosed, connClose, ClosedStopTimeout},
		onTransportLost:   {StateClosed, connAbort, 0},
	},
}

// CallKind is the direction of a call and our part in it.
type CallKind uint8

// Kinds of call.
const (
	PACIncoming  CallKind = iota // we announced it (§3.2.3.1)
	PNSIncoming                  // the peer announced it (§3.2.3.2)
	PACOutgoing                  // the peer asked for it (§3.2.4.1)
	PNSOutgoing                  // we asked for it (§3.2.4.2)
	numCallKinds = int(iota)
)

var callKinds = []string{"PAC incoming", "PNS incoming", "PAC outgoing", "PNS outgoing"}

// String names the figure of the RFC.
func (k CallKind) String() string { return nameOf(callKinds, int(k)) }

func (k CallKind) pac() bool { return k == PACIncoming || k == PACOutgoing }

// CallState is a state of a call (§3.2).
type CallState uint8

// States of a call. WaitAnswer is ours: the figure of the PNS's incoming
// calls answers an Incoming-Call-Request at once, here the owner is asked.
const (
	CallIdle CallState = iota
	CallWaitAnswer
	CallWaitReply
	CallWaitConnect
	CallWaitCSAns
	CallEstablished
	CallWaitDisconnect
	numCallStates = int(iota)
)

var callStates = []string{
	"idle", "wait_answer", "wait_reply", "wait_connect", "wait_cs_ans", "established",
	"wait_disconnect",
}

// String returns the RFC's name where there is one.
func (s CallState) String() string { return nameOf(callStates, int(s)) }

type callEvent uint8

const (
	onPlace      callEvent = iota // owner: ring (PAC), open indication (PNS)
	onRequest                     // OCRQ, ICRQ without fault
	onRequestBad                  // OCRQ, ICRQ in error
	onAnswer                      // owner: accepts (telco answer)
	onRefuse                      // owner: refuses (incomplete call)
	onReply                       // OCRP, ICRP: connected
	onReplyError                  // OCRP, ICRP: anything else
	onConnected                   // ICCN
	onClear                       // owner: local terminate, abort, telco disconnect
	onCallClear                   // CCRQ
	onNotify                      // CDN
	onCallTimeout
	numCallEvents = int(iota)
)

type callAction uint8

const (
	callUnexpected      callAction = iota // report the message
	callIgnore                            // crossed ours on the way
	callAsk                               // ask the owner
	callSendRequest                       // OCRQ, ICRQ
	callSendReply                         // ICRP: connect
	callSendReplyUp                       // OCRP: connected
	callSendRefusal                       // OCRP, ICRP: refused; the owner never knew
	callSendRefusalDown                   // the same; the owner knows
	callSendConnected                     // ICCN
	callUp                                // established by the peer's message
	callSendClear                         // CCRQ
	callSendNotify                        // CDN
	callDown                              // nothing to send
)

type callStep struct {
	next CallState
	do   callAction
}

// callTable is §3.2.3.1, §3.2.3.2, §3.2.4.1 and §3.2.4.2, with the time-out of
// §3.2.1 and a Call-Clear-Request "in any state" (§2.12) added.
var callTable = [numCallKinds][numCallStates][numCallEvents]callStep{
	PACIncoming: {
		CallIdle: {
			onPlace: {CallWaitReply, callSendRequest},
		},
		CallWaitReply: {
			onReply:       {CallEstablished, callSendConnected},
			onReplyError:  {CallIdle, callDown},
			onClear:       {CallIdle, callSendNotify},
			onCallClear:   {CallIdle, callSendNotify},
			onCallTimeout: {CallIdle, callSendNotify},
		},
		CallEstablished: {
			onClear:     {CallIdle, callSendNotify},
			onCallClear: {CallIdle, callSendNotify},
		},
	},
	PNSIncoming: {
		CallIdle: {
			onRequest:    {CallWaitAnswer, callAsk},
			onRequestBad: {CallIdle, callSendRefusal},
		},
		CallWaitAnswer: {
			onAnswer:      {CallWaitConnect, callSendReply},
			onRefuse:      {CallIdle, callSendRefusalDown},
			onClear:       {CallIdle, callSendRefusalDown},
			onNotify:      {CallIdle, callDown},
			onCallTimeout: {CallIdle, callSendRefusalDown},
		},
		CallWaitConnect: {
			onConnected:   {CallEstablished, callUp},
			onNotify:      {CallIdle, callDown},
			onClear:       {CallWaitDisconnect, callSendClear},
			onCallTimeout: {CallWaitDisconnect, callSendClear},
		},
		CallEstablished: {
			onNotify: {CallIdle, callDown},
			onClear:  {CallWaitDisconnect, callSendClear},
		},
		CallWaitDisconnect: {
			onConnected:   {CallWaitDisconnect, callIgnore},
			onNotify:      {CallIdle, callDown},
			onClear:       {CallWaitDisconnect, callIgnore},
			onCallTimeout: {CallIdle, callDown},
		},
	},
	PACOutgoing: {
		CallIdle: {
			onRequest:    {CallWaitCSAns, callAsk},
			onRequestBad: {CallIdle, callSendRefusal},
		},
		CallWaitCSAns: {
			onAnswer:      {CallEstablished, callSendReplyUp},
			onRefuse:      {CallIdle, callSendRefusalDown},
			onClear:       {CallIdle, callSendRefusalDown},
			onCallClear:   {CallIdle, callSendNotify},
			onCallTimeout: {CallIdle, callSendRefusalDown},
		},
		CallEstablished: {
			onClear:     {CallIdle, callSendNotify},
			onCallClear: {CallIdle, callSendNotify},
		},
	},
	PNSOutgoing: {
		CallIdle: {
			onPlace: {CallWaitReply, callSendRequest},
		},
		CallWaitReply: {
			onReply:       {CallEstablished, callUp},
			onReplyError:  {CallIdle, callDown},
			onNotify:      {CallIdle, callDown},
			onClear:       {CallWaitDisconnect, callSendClear},
			onCallTimeout: {CallWaitDisconnect, callSendClear},
		},
		CallEstablished: {
			onNotify: {CallIdle, callDown},
			onClear:  {CallWaitDisconnect, callSendClear},
		},
		CallWaitDisconnect: {
			onReply:       {CallWaitDisconnect, callIgnore},
			onReplyError:  {CallIdle, callDown},
			onNotify:      {CallIdle, callDown},
			onClear:       {CallWaitDisconnect, callIgnore},
			onCallTimeout: {CallIdle, callDown},
		},
	},
}
