package pptp

import (
	"fmt"
	"strings"
	"testing"
)

// The figures and the text of §3.1 and §3.2 once more, one arrow a line:
//
//	state  event  ->  next state  what is done
//
// Lines marked + are not in the figures; see the comments at the tables.
const connFigures = `
# 3.1.1 originator
idle              tcp-open            -> wait_ctl_reply    send-SCCRQ
wait_ctl_reply    collision           -> closed            abort            because collision lost
wait_ctl_reply    SCCRP-version-ok    -> established       up
wait_ctl_reply    SCCRP-version-bad   -> wait_stop_reply   send-StopCCRQ-2  because version mismatch
wait_ctl_reply    StopCCRQ            -> closed            send-StopCCRP    because stopped by peer
established       StopCCRQ            -> closed            send-StopCCRP    because stopped by peer
established       local-stop          -> wait_stop_reply   send-StopCCRQ    because stopped
wait_stop_reply   StopCCRP            -> closed            close
wait_stop_reply   StopCCRQ            -> closed            send-StopCCRP
+ wait_ctl_reply  SCCRP-refused       -> closed            close            because refused by peer
# a request on the connection we opened makes no sense
+ wait_ctl_reply  SCCRQ-version-ok    -> closed            close            because protocol violation
+ wait_ctl_reply  SCCRQ-version-bad   -> closed            close            because protocol violation
+ wait_ctl_reply  SCCRQ-declined      -> closed            close            because protocol violation
# 3.1.2 receiver
idle              tcp-accept          -> wait_ctl_request  wait
wait_ctl_request  SCCRQ-version-ok    -> established       send-SCCRP,up
wait_ctl_request  SCCRQ-version-bad   -> closed            send-SCCRP-5     because version mismatch
+ wait_ctl_request SCCRQ-declined     -> closed            send-SCCRP-no    because declined
# whatever comes before SCCRQ ends it, requests with an answer
+ wait_ctl_request SCCRP-version-ok   -> closed            close            because protocol violation
+ wait_ctl_request SCCRP-version-bad  -> closed            close            because protocol violation
+ wait_ctl_request SCCRP-refused      -> closed            close            because protocol violation
+ wait_ctl_request StopCCRP           -> closed            close            because protocol violation
+ wait_ctl_request Echo-Reply         -> closed            close            because protocol violation
+ wait_ctl_request StopCCRQ           -> closed            send-StopCCRP-2  because stopped by peer
+ wait_ctl_request Echo-Request       -> closed            send-Echo-2      because protocol violation
+ wait_ctl_request call-message       -> closed            refuse-call      because protocol violation
# a second one (result 3)
+ established     SCCRQ-version-ok    -> established       send-SCCRP-3
+ established     SCCRQ-version-bad   -> established       send-SCCRP-3
+ established     SCCRQ-declined      -> established       send-SCCRP-3
# 3.1.4, timers; 2.5, 2.6 echo
wait_ctl_request  timeout             -> closed            close            because start timeout
wait_ctl_reply    timeout             -> closed            close            because start timeout
established       echo-due            -> established       send-Echo-Request
established       Echo-Request        -> established       send-Echo-Reply
established       Echo-Reply          -> established       echoed
established       timeout             -> closed            close            because echo timeout
wait_stop_reply   timeout             -> closed            close            because stopped, no answer
wait_stop_reply   Echo-Request        -> wait_stop_reply   send-Echo-Reply
+ wait_ctl_reply  Echo-Request        -> wait_ctl_reply    send-Echo-2
# calls only in established; what crosses our StopCCRQ is let go
established       call-message        -> established       call
+ wait_ctl_reply  call-message        -> wait_ctl_reply    refuse-call
wait_stop_reply   call-message        -> wait_stop_reply   ignore
wait_stop_reply   Echo-Reply          -> wait_stop_reply   ignore
wait_stop_reply   SCCRP-version-ok    -> wait_stop_reply   ignore
wait_stop_reply   SCCRP-version-bad   -> wait_stop_reply   ignore
wait_stop_reply   SCCRP-refused       -> wait_stop_reply   ignore
wait_stop_reply   local-stop          -> wait_stop_reply   ignore
# local stop before there is a control connection: only TCP to close
+ idle            local-stop          -> closed            close            because stopped
+ wait_ctl_request local-stop         -> closed            close            because stopped
+ wait_ctl_reply  local-stop          -> closed            close            because stopped
# 3: "the TCP connection itself can close at any time"
idle              tcp-closed          -> closed            abort            because connection lost
wait_ctl_request  tcp-closed          -> closed            abort            because connection lost
wait_ctl_reply    tcp-closed          -> closed            abort            because connection lost
established       tcp-closed          -> closed            abort            because connection lost
wait_stop_reply   tcp-closed          -> closed            abort
`

const callFigures = `
# 3.2.3.1
PAC-incoming idle            place         -> wait_reply       send-request
PAC-incoming wait_reply      reply-error   -> idle             down
PAC-incoming wait_reply      reply-ok      -> established      send-ICCN,up
PAC-incoming wait_reply      local-clear   -> idle             send-CDN
PAC-incoming established     CCRQ          -> idle             send-CDN
PAC-incoming established     local-clear   -> idle             send-CDN
PAC-incoming wait_reply      CCRQ          -> idle             send-CDN
PAC-incoming wait_reply      timeout       -> idle             send-CDN
# 3.2.3.2, with the owner's answer in wait_answer
PNS-incoming idle            request-bad   -> idle             refuse
PNS-incoming idle            request       -> wait_answer      ask
PNS-incoming wait_answer     answer        -> wait_connect     send-ICRP
PNS-incoming wait_answer     refuse        -> idle             refuse,down
PNS-incoming wait_answer     local-clear   -> idle             refuse,down
PNS-incoming wait_answer     timeout       -> idle             refuse,down
PNS-incoming wait_answer     CDN           -> idle             down
PNS-incoming wait_connect    CDN           -> idle             down
PNS-incoming wait_connect    ICCN          -> established      up
PNS-incoming established     CDN           -> idle             down
PNS-incoming established     local-clear   -> wait_disconnect  send-CCRQ
PNS-incoming wait_disconnect CDN           -> idle             down
PNS-incoming wait_connect    local-clear   -> wait_disconnect  send-CCRQ
PNS-incoming wait_connect    timeout       -> wait_disconnect  send-CCRQ
PNS-incoming wait_disconnect ICCN          -> wait_disconnect  ignore
PNS-incoming wait_disconnect local-clear   -> wait_disconnect  ignore
PNS-incoming wait_disconnect timeout       -> idle             down
# 3.2.4.1
PAC-outgoing idle            request-bad   -> idle             refuse
PAC-outgoing idle            request       -> wait_cs_ans      ask
PAC-outgoing wait_cs_ans     refuse        -> idle             refuse,down
PAC-outgoing wait_cs_ans     timeout       -> idle             refuse,down
PAC-outgoing wait_cs_ans     local-clear   -> idle             refuse,down
PAC-outgoing wait_cs_ans     CCRQ          -> idle             send-CDN
PAC-outgoing wait_cs_ans     answer        -> established      send-OCRP,up
PAC-outgoing established     CCRQ          -> idle             send-CDN
PAC-outgoing established     local-clear   -> idle             send-CDN
# 3.2.4.2
PNS-outgoing idle            place         -> wait_reply       send-request
PNS-outgoing wait_reply      reply-error   -> idle             down
PNS-outgoing wait_reply      reply-ok      -> established      up
PNS-outgoing wait_reply      local-clear   -> wait_disconnect  send-CCRQ
PNS-outgoing wait_reply      timeout       -> wait_disconnect  send-CCRQ
PNS-outgoing wait_reply      CDN           -> idle             down
PNS-outgoing established     CDN           -> idle             down
PNS-outgoing established     local-clear   -> wait_disconnect  send-CCRQ
PNS-outgoing wait_disconnect CDN           -> idle             down
PNS-outgoing wait_disconnect reply-ok      -> wait_disconnect  ignore
PNS-outgoing wait_disconnect reply-error   -> idle             down
PNS-outgoing wait_disconnect local-clear   -> wait_disconnect  ignore
PNS-outgoing wait_disconnect timeout       -> idle             down
`

var connEventNames = [numConnEvents]string{
	onOpen: "tcp-open", onAccept: "tcp-accept", onStartRequest: "SCCRQ-version-ok", onStartOldVersion: "SCCRQ-version-bad",
	onStartDeclined: "SCCRQ-declined", onStartReply: "SCCRP-version-ok", onReplyBadVersion: "SCCRP-version-bad",
	onReplyRefused: "SCCRP-refused", onStopRequest: "StopCCRQ", onStopReply: "StopCCRP", onEchoRequest: "Echo-Request",
	onEchoReply: "Echo-Reply", onCallMessage: "call-message", onLocalStop: "local-stop", onCollisionLost: "collision",
	onEchoDue: "echo-due", onTimeout: "timeout", onTransportLost: "tcp-closed",
}

var connActionNames = []string{
	connIgnore: "ignore", connSendRequest: "send-SCCRQ", connWait: "wait", connSendReply: "send-SCCRP,up",
	connSendReplyVersion: "send-SCCRP-5", connSendReplyDecline: "send-SCCRP-no", connSendReplyExists: "send-SCCRP-3",
	connEstablish: "up", connSendStop: "send-StopCCRQ", connSendStopVersion: "send-StopCCRQ-2",
	connSendStopReply: "send-StopCCRP", connSendStopRefusal: "send-StopCCRP-2", connSendEcho: "send-Echo-Request",
	connSendEchoReply: "send-Echo-Reply", connSendEchoRefusal: "send-Echo-2", connEchoed: "echoed", connCall: "call",
	connRefuseCall: "refuse-call", connClose: "close", connAbort: "abort",
}

var callEventNames = [numCallEvents]string{
	onPlace: "place", onRequest: "request", onRequestBad: "request-bad", onAnswer: "answer", onRefuse: "refuse",
	onReply: "reply-ok", onReplyError: "reply-error", onConnected: "ICCN", onClear: "local-clear", onCallClear: "CCRQ",
	onNotify: "CDN", onCallTimeout: "timeout",
}

var callActionNames = []string{
	callIgnore: "ignore", callAsk: "ask", callSendRequest: "send-request", callSendReply: "send-ICRP",
	callSendReplyUp: "send-OCRP,up", callSendRefusal: "refuse", callSendRefusalDown: "refuse,down",
	callSendConnected: "send-ICCN,up", callUp: "up", callSendClear: "send-CCRQ", callSendNotify: "send-CDN",
	callDown: "down",
}

// figureLines returns the arrows of a figure with single blanks.
func figureLines(figure string) map[string]bool {
	lines := map[string]bool{}
	for line := range strings.SplitSeq(strings.TrimSpace(figure), "\n") {
		if line = strings.TrimPrefix(line, "+ "); !strings.HasPrefix(line, "#") {
			lines[strings.Join(strings.Fields(line), " ")] = true
		}
	}
	return lines
}

func compareFigures(t *testing.T, got, want map[string]bool) {
	t.Helper()
	for line := range got {
		if !want[line] {
			t.Errorf("the table has an arrow more: %s", line)
		}
	}
	for line := range want {
		if !got[line] {
			t.Errorf("the table lacks an arrow: %s", line)
		}
	}
}

func TestConnTable(t *testing.T) {
	got := map[string]bool{}
	for state, events := range connTable {
		for event, s := range events {
			if s == (connStep{}) {
				continue
			}
			line := fmt.Sprintf("%v %s -> %v %s", ConnState(state), connEventNames[event], s.next, connActionNames[s.do])
			if s.why != 0 {
				line += " because " + s.why.String()
			}
			got[line] = true
		}
	}
	compareFigures(t, got, figureLines(connFigures))
}

func TestCallTable(t *testing.T) {
	got := map[string]bool{}
	for kind, states := range callTable {
		for state, events := range states {
			for event, s := range events {
				if s == (callStep{}) {
					continue
				}
				got[fmt.Sprintf("%s %v %s -> %v %s", strings.ReplaceAll(CallKind(kind).String(), " ", "-"),
					CallState(state), callEventNames[event], s.next, callActionNames[s.do])] = true
			}
		}
	}
	compareFigures(t, got, figureLines(callFigures))
}

// What must hold whatever the figures say.
func TestTablesAlwaysEnd(t *testing.T) {
	for state := StateIdle; state < StateClosed; state++ {
		if s := connTable[state][onTransportLost]; s.next != StateClosed {
			t.Errorf("%v: the end of TCP leads to %v", state, s.next)
		}
		if s := connTable[state][onTimeout]; state != StateIdle && s.next != StateClosed {
			t.Errorf("%v: a time-out leads to %v", state, s.next)
		}
	}
	if connTable[StateClosed] != [numConnEvents]connStep{} {
		t.Error("something leaves closed")
	}
	for kind, states := range callTable {
		reached := map[CallState]bool{CallIdle: true}
		for range numCallStates {
			for state := range reached {
				for _, s := range states[state] {
					reached[s.next] = true
				}
			}
		}
		for state, events := range states {
			state := CallState(state)
			waits := state != CallIdle && state != CallEstablished && reached[state]
			if s := events[onCallTimeout]; waits != (s.do != callUnexpected) {
				t.Errorf("%v, %v: waits %v, time-out %v", CallKind(kind), state, waits, s)
			} else if waits && s.next != CallIdle && s.next != CallWaitDisconnect {
				t.Errorf("%v, %v: a time-out leads to %v", CallKind(kind), state, s.next)
			}
			if reached[state] && state != CallIdle && events[onClear].do == callUnexpected {
				t.Errorf("%v, %v: cannot be cleared", CallKind(kind), state)
			}
			if !reached[state] && events != [numCallEvents]callStep{} {
				t.Errorf("%v, %v: has arrows but cannot be reached", CallKind(kind), state)
			}
		}
	}
}
