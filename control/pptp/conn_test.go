package pptp

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

const second = int64(time.Second)

var (
	addrA = netip.MustParseAddrPort("192.33.45.17:40000")
	addrB = netip.MustParseAddrPort("192.33.45.89:1723")
)

func testConfig() *Config {
	cfg := DefaultConfig()
	cfg.HostName, cfg.Vendor = "host", "vendor"
	return &cfg
}

// output takes all octets waiting, as messages.
func output(t testing.TB, c *Conn) []Message {
	t.Helper()
	var out []Message
	for b := c.Output(); b != nil; b = c.Output() {
		m, err := Parse(b)
		if err != nil {
			t.Fatalf("we send %x: %v", b, err)
		}
		out = append(out, m)
		c.Taken(len(b))
	}
	return out
}

func input(c *Conn, now int64, messages ...Message) {
	for _, m := range messages {
		c.Input(now, Append(nil, m))
	}
}

func expectOutput(t *testing.T, c *Conn, want ...Message) {
	t.Helper()
	got := output(t, c)
	if len(got) == 0 && len(want) == 0 {
		return
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("sent:")
		for _, m := range got {
			t.Errorf("   got %v %+v", m.Type(), m)
		}
		for _, m := range want {
			t.Errorf("  want %v %+v", m.Type(), m)
		}
	}
}

// expectEvents compares the events; an expected ProtocolError stands for any.
func expectEvents(t *testing.T, c *Conn, want ...Event) {
	t.Helper()
	got := c.Events()
	for i := range got {
		if e, ok := got[i].(ProtocolError); ok {
			if e.Err == nil {
				t.Error("ProtocolError without an error")
			}
			got[i] = ProtocolError{}
		}
	}
	if len(got) == 0 && len(want) == 0 {
		return
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("events\n got %+v\nwant %+v", got, want)
	}
}

// server returns an established receiver, client an established originator,
// both with nothing waiting.
func server(t *testing.T, cfg *Config) *Conn {
	t.Helper()
	c := NewConn(cfg, false, addrB, addrA)
	c.Start(0)
	input(c, 0, &StartRequest{ProtocolVersion: Version, VendorName: "peer"})
	output(t, c)
	expectEvents(t, c, Established{Peer{Version: Version, Vendor: "peer"}})
	return c
}

func client(t *testing.T, cfg *Config) *Conn {
	t.Helper()
	c := NewConn(cfg, true, addrA, addrB)
	c.Start(0)
	input(c, 0, &StartReply{ProtocolVersion: Version, ResultCode: StartOK, VendorName: "peer"})
	output(t, c)
	expectEvents(t, c, Established{Peer{Version: Version, Vendor: "peer"}})
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestStart(t *testing.T) {
	request := &StartRequest{
		ProtocolVersion: Version, FramingCapabilities: 3, BearerCapabilities: 3,
		FirmwareRevision: 1, HostName: "host", VendorName: "vendor",
	}
	reply := &StartReply{
		ProtocolVersion: Version, ResultCode: StartOK, FramingCapabilities: 3, BearerCapabilities: 3,
		FirmwareRevision: 1, HostName: "host", VendorName: "vendor",
	}
	peer := Peer{Version, 3, 3, 0, 1, "host", "vendor"}

	a := NewConn(testConfig(), true, addrA, addrB)
	b := NewConn(testConfig(), false, addrB, addrA)
	a.Start(5)
	b.Start(5)
	expectOutput(t, b)
	expectOutput(t, a, request)
	input(b, 6, request)
	expectOutput(t, b, reply)
	expectEvents(t, b, Established{peer})
	input(a, 7, reply)
	expectOutput(t, a)
	expectEvents(t, a, Established{peer})
	if a.State() != StateEstablished || b.State() != StateEstablished || a.Peer() != peer || b.Peer() != peer {
		t.Errorf("states %v, %v; peers %+v, %+v", a.State(), b.State(), a.Peer(), b.Peer())
	}
	if !a.Originator() || b.Originator() || a.LocalAddr() != addrA || a.RemoteAddr() != addrB {
		t.Error("wrong ends")
	}
}

func TestVersions(t *testing.T) {
	for _, tt := range []struct {
		peer uint16
		ok   bool
	}{
		{0x0100, true}, {0x0101, true}, {0x0200, true}, {0xffff, true}, {0x00ff, false}, {0, false},
	} {
		c := NewConn(testConfig(), false, addrB, addrA)
		input(c, 0, &StartRequest{ProtocolVersion: tt.peer})
		reply := output(t, c)[0].(*StartReply)
		want, state := StartOK, StateEstablished
		if !tt.ok {
			want, state = StartBadVersion, StateClosed
			expectEvents(t, c, Closed{Reason: ClosedVersion})
		}
		if reply.ResultCode != want || reply.ProtocolVersion != Version || c.State() != state {
			t.Errorf("request with version %#04x: reply %+v, state %v", tt.peer, reply, c.State())
		}
	}
	for _, tt := range []struct {
		peer uint16
		ok   bool
	}{
		{0x0100, true}, {0x0101, true}, {0x0200, false}, {0x00ff, false},
	} {
		c := NewConn(testConfig(), true, addrA, addrB)
		c.Start(0)
		output(t, c)
		input(c, 0, &StartReply{ProtocolVersion: tt.peer, ResultCode: StartOK})
		if tt.ok {
			expectOutput(t, c)
			continue
		}
		expectOutput(t, c, &StopRequest{StopProtocol})
		if c.State() != StateWaitStopReply {
			t.Errorf("reply with version %#04x: state %v", tt.peer, c.State())
		}
		c.Tick(3 * second)
		expectEvents(t, c, Closed{Reason: ClosedVersion})
	}
}

// One message to a connection in one state.
func TestConnStep(t *testing.T) {
	callRequest := &OutgoingCallRequest{CallID: 9}
	notConnected := &OutgoingCallReply{PeerCallID: 9, ResultCode: OutgoingGeneralError, ErrorCode: ErrorNotConnected}
	reported := ProtocolError{}
	for _, tt := range []struct {
		name   string
		state  ConnState
		in     Message
		out    []Message
		events []Event
	}{
		{
			"call before start", StateWaitCtlRequest, callRequest,
			[]Message{notConnected},
			[]Event{reported, Closed{Reason: ClosedViolation}},
		},
		{
			"incoming call before start", StateWaitCtlRequest, &IncomingCallRequest{CallID: 4},
			[]Message{&IncomingCallReply{PeerCallID: 4, ResultCode: IncomingGeneralError, ErrorCode: ErrorNotConnected}},
			[]Event{reported, Closed{Reason: ClosedViolation}},
		},
		{"clear before start", StateWaitCtlRequest, &CallClearRequest{}, nil, []Event{reported, Closed{Reason: ClosedViolation}}},
		{
			"echo before start", StateWaitCtlRequest, &EchoRequest{3},
			[]Message{&EchoReply{3, EchoGeneralError, ErrorNotConnected}},
			[]Event{reported, Closed{Reason: ClosedViolation}},
		},
		{
			"stop before start", StateWaitCtlRequest, &StopRequest{StopLocalShutdown},
			[]Message{&StopReply{StopGeneralError, ErrorNotConnected}},
			[]Event{Closed{Reason: ClosedByPeer, StopReason: StopLocalShutdown}},
		},
		{
			"reply to nothing", StateWaitCtlRequest, &StartReply{ProtocolVersion: Version, ResultCode: StartOK}, nil,
			[]Event{Closed{Reason: ClosedViolation}},
		},
		{"echo reply before start", StateWaitCtlRequest, &EchoReply{}, nil, []Event{Closed{Reason: ClosedViolation}}},

		{
			"refused", StateWaitCtlReply, &StartReply{ProtocolVersion: Version, ResultCode: StartGeneralError, ErrorCode: ErrorNoResource},
			nil,
			[]Event{Closed{Reason: ClosedRefused, StartResult: StartGeneralError, ErrorCode: ErrorNoResource}},
		},
		{
			"refused without result", StateWaitCtlReply, &StartReply{ProtocolVersion: Version}, nil,
			[]Event{Closed{Reason: ClosedRefused}},
		},
		{
			"request to originator", StateWaitCtlReply, &StartRequest{ProtocolVersion: Version}, nil,
			[]Event{Closed{Reason: ClosedViolation}},
		},
		{
			"stop instead of reply", StateWaitCtlReply, &StopRequest{0},
			[]Message{&StopReply{StopOK, 0}},
			[]Event{Closed{Reason: ClosedByPeer}},
		},
		{
			"echo before reply", StateWaitCtlReply, &EchoRequest{3},
			[]Message{&EchoReply{3, EchoGeneralError, ErrorNotConnected}},
			[]Event{reported},
		},
		{"call before reply", StateWaitCtlReply, callRequest, []Message{notConnected}, []Event{reported}},
		{"stray stop reply", StateWaitCtlReply, &StopReply{StopOK, 0}, nil, []Event{reported}},

		{"echo", StateEstablished, &EchoRequest{0xdeadbeef}, []Message{&EchoReply{0xdeadbeef, EchoOK, 0}}, nil},
		{"unasked echo reply", StateEstablished, &EchoReply{Identifier: 5}, nil, []Event{reported}},
		{"second start", StateEstablished, &StartRequest{ProtocolVersion: Version}, []Message{&StartReply{
			ProtocolVersion: Version, ResultCode: StartExists, FramingCapabilities: 3, BearerCapabilities: 3,
			FirmwareRevision: 1, HostName: "host", VendorName: "vendor",
		}}, []Event{reported}},
		{"second start reply", StateEstablished, &StartReply{ProtocolVersion: Version, ResultCode: StartOK}, nil, []Event{reported}},
		{
			"stop", StateEstablished, &StopRequest{StopNone},
			[]Message{&StopReply{StopOK, 0}},
			[]Event{Closed{Reason: ClosedByPeer, StopReason: StopNone}},
		},
		{"stray stop reply", StateEstablished, &StopReply{StopOK, 0}, nil, []Event{reported}},

		{"stop answered", StateWaitStopReply, &StopReply{StopOK, 0}, nil, []Event{Closed{Reason: ClosedLocally}}},
		{"stop refused", StateWaitStopReply, &StopReply{StopGeneralError, ErrorPAC}, nil, []Event{Closed{Reason: ClosedLocally}}},
		{
			"stops cross", StateWaitStopReply, &StopRequest{StopNone},
			[]Message{&StopReply{StopOK, 0}},
			[]Event{Closed{Reason: ClosedLocally}},
		},
		{"echo while stopping", StateWaitStopReply, &EchoRequest{1}, []Message{&EchoReply{1, EchoOK, 0}}, nil},
		{"call while stopping", StateWaitStopReply, callRequest, nil, nil},

		{"anything after the end", StateClosed, &EchoRequest{1}, nil, nil},
	} {
		t.Run(tt.state.String()+"/"+tt.name, func(t *testing.T) {
			var c *Conn
			switch tt.state {
			case StateWaitCtlRequest:
				c = NewConn(testConfig(), false, addrB, addrA)
				c.Start(0)
			case StateWaitCtlReply:
				c = NewConn(testConfig(), true, addrA, addrB)
				c.Start(0)
			default:
				c = server(t, testConfig())
			}
			if tt.state == StateWaitStopReply {
				c.Stop(0, StopNone)
			}
			if tt.state == StateClosed {
				c.Lost(0)
			}
			output(t, c)
			c.Events()
			if c.State() != tt.state {
				t.Fatalf("in state %v", c.State())
			}
			input(c, 1, tt.in)
			expectOutput(t, c, tt.out...)
			expectEvents(t, c, tt.events...)
		})
	}
}

func TestStartDeclined(t *testing.T) {
	c := NewConn(testConfig(), false, addrB, addrA)
	c.RefuseStart(StartGeneralError, ErrorNoResource)
	input(c, 0, &StartRequest{ProtocolVersion: Version})
	reply := output(t, c)[0].(*StartReply)
	if reply.ResultCode != StartGeneralError || reply.ErrorCode != ErrorNoResource {
		t.Errorf("got %+v", reply)
	}
	expectEvents(t, c, Closed{Reason: ClosedDeclined, StartResult: StartGeneralError, ErrorCode: ErrorNoResource})
}

func TestCollision(t *testing.T) {
	for _, tt := range []struct {
		local, remote string
		wins          bool
	}{
		{"192.33.45.89", "192.33.45.17", true}, // the RFC's example
		{"192.33.45.17", "192.33.45.89", false},
		{"10.0.0.1", "9.255.255.255", true},
		{"200.0.0.1", "100.0.0.1", true}, // unsigned
		{"::ffff:10.0.0.2", "10.0.0.1", true},
		{"10.0.0.1", "10.0.0.1", false},
	} {
		if got := CollisionWinner(netip.MustParseAddr(tt.local), netip.MustParseAddr(tt.remote)); got != tt.wins {
			t.Errorf("%s against %s: wins %v", tt.local, tt.remote, got)
		}
	}

	// The loser's own connection: not another octet.
	c := NewConn(testConfig(), true, addrA, addrB)
	c.Start(0)
	c.Taken(20)
	c.CollisionLost(1)
	if c.Output() != nil {
		t.Error("the loser still writes")
	}
	expectEvents(t, c, Closed{Reason: ClosedCollision})

	// Too late: it is established.
	c = client(t, testConfig())
	c.CollisionLost(1)
	expectEvents(t, c)

	// The winner's side of it: silence, until TCP ends …
	request := &StartRequest{ProtocolVersion: Version}
	c = NewConn(testConfig(), false, addrB, addrA)
	c.Hold()
	c.Start(0)
	input(c, 1, request)
	expectOutput(t, c)
	expectEvents(t, c, StartHeld{})
	c.Lost(2)
	expectEvents(t, c, Closed{Reason: ClosedTransport})

	// … or our own connection fails …
	c = NewConn(testConfig(), false, addrB, addrA)
	c.Hold()
	input(c, 1, request)
	c.Events()
	c.Release(2)
	if len(output(t, c)) != 1 || c.State() != StateEstablished {
		t.Errorf("not answered after Release: %v", c.State())
	}

	// … or the peer does not keep quiet, or time is out.
	for _, end := range []struct {
		do   func(c *Conn)
		want CloseReason
	}{
		{func(c *Conn) { input(c, 2, &EchoRequest{}) }, ClosedViolation},
		{func(c *Conn) { c.Tick(60 * second) }, ClosedStartTimeout},
	} {
		c = NewConn(testConfig(), false, addrB, addrA)
		c.Hold()
		c.Start(0)
		input(c, 1, request)
		c.Events()
		end.do(c)
		expectOutput(t, c)
		expectEvents(t, c, Closed{Reason: end.want})
	}
}

func TestStartTimeout(t *testing.T) {
	for _, originator := range []bool{false, true} {
		c := NewConn(testConfig(), originator, addrA, addrB)
		if c.Deadline() != Never {
			t.Error("deadline before start")
		}
		c.Start(10)
		if c.Deadline() != 10+60*second {
			t.Errorf("deadline %d", c.Deadline())
		}
		c.Tick(9 + 60*second)
		expectEvents(t, c)
		c.Tick(10 + 60*second)
		expectEvents(t, c, Closed{Reason: ClosedStartTimeout})
		if c.Deadline() != Never {
			t.Error("a closed connection has a deadline")
		}
	}
}

func TestEcho(t *testing.T) {
	c := server(t, testConfig())
	input(c, 5*second, &SetLinkInfo{}) // any message counts as a sign of life
	c.Events()
	c.Tick(64 * second)
	expectOutput(t, c)
	c.Tick(65 * second)
	expectOutput(t, c, &EchoRequest{1})
	c.Tick(66 * second)
	expectOutput(t, c)
	input(c, 70*second, &EchoReply{Identifier: 1, ResultCode: EchoOK})
	expectEvents(t, c)
	if c.Deadline() != 130*second {
		t.Errorf("next echo at %d s", c.Deadline()/second)
	}
	c.Tick(130 * second)
	expectOutput(t, c, &EchoRequest{2})
	// Another message is no Echo-Reply.
	input(c, 150*second, &EchoRequest{77})
	expectOutput(t, c, &EchoReply{77, EchoOK, 0})
	// A wrong identifier is reported, but the peer lives.
	input(c, 151*second, &EchoReply{Identifier: 1 << 24, ResultCode: EchoOK})
	expectEvents(t, c, ProtocolError{})
	c.Tick(c.Deadline())
	expectOutput(t, c, &EchoRequest{3})
	if c.Deadline() != (151+60+60)*second {
		t.Errorf("give up at %d s", c.Deadline()/second)
	}
	c.Tick(c.Deadline())
	expectOutput(t, c)
	expectEvents(t, c, Closed{Reason: ClosedEchoTimeout})

	cfg := testConfig()
	cfg.EchoInterval = 0
	if c := server(t, cfg); c.Deadline() != Never {
		t.Error("echo is off, but there is a deadline")
	}
}

func TestStop(t *testing.T) {
	c := server(t, testConfig())
	ref, err := c.PlaceIncoming(0, &IncomingCallRequest{CallID: 7}, IncomingCallConnected{})
	must(t, err)
	output(t, c)
	c.Stop(100*second, StopLocalShutdown)
	expectOutput(t, c, &StopRequest{StopLocalShutdown})
	expectEvents(t, c, CallDown{Ref: ref, Kind: PACIncoming, LocalCallID: 7, Cause: DownConnection})
	c.Stop(100*second, StopLocalShutdown)
	expectOutput(t, c)
	if c.Deadline() != 103*second {
		t.Errorf("waits until %d", c.Deadline())
	}
	if _, err := c.PlaceOutgoing(101*second, &OutgoingCallRequest{}); !errors.Is(err, ErrNotEstablished) {
		t.Errorf("a call while stopping: %v", err)
	}
	c.Tick(103 * second)
	expectEvents(t, c, Closed{Reason: ClosedStopTimeout})

	c = NewConn(testConfig(), true, addrA, addrB)
	c.Start(0)
	c.Stop(1, StopNone)
	expectEvents(t, c, Closed{Reason: ClosedLocally})
}

func TestOutgoingCall(t *testing.T) {
	pns, pac := client(t, testConfig()), server(t, testConfig())
	request := &OutgoingCallRequest{
		CallID: 0, CallSerialNumber: 3, MinimumBPS: 300, MaximumBPS: 1e8,
		BearerType: 3, FramingType: 3, PacketProcessingDelay: 1, PhoneNumber: "1",
	}
	ref, err := pns.PlaceOutgoing(0, request)
	must(t, err)
	sent := output(t, pns)
	if got := sent[0].(*OutgoingCallRequest); *got != *request || got.PacketRecvWindowSize != 64 {
		t.Errorf("sent %+v", got)
	}
	input(pac, 1, sent...)
	asked := pac.Events()[0].(CallRequest)
	if asked.Incoming != nil || *asked.Outgoing != *request {
		t.Errorf("asked for %+v", asked)
	}
	if err := pac.SetLinkInfo(asked.Ref+1, 0, 0); !errors.Is(err, ErrNoCall) {
		t.Errorf("Set-Link-Info for no call: %v", err)
	}
	if err := pac.WANErrorNotify(2, asked.Ref, WANErrors{}); !errors.Is(err, ErrCallState) {
		t.Errorf("WAN-Error-Notify before the call is up: %v", err)
	}
	must(t, pac.Accept(2, asked.Ref, Answer{LocalCallID: 0, RecvWindow: 16, Delay: 2, Channel: 5}))
	reply := &OutgoingCallReply{
		ResultCode: OutgoingConnected, ConnectSpeed: 1e8, PacketRecvWindowSize: 16,
		PacketProcessingDelay: 2, PhysicalChannelID: 5,
	}
	expectOutput(t, pac, reply)
	expectEvents(t, pac, CallUp{Ref: asked.Ref, Kind: PACOutgoing, Serial: 3, Window: 64, Delay: 1, ConnectSpeed: 1e8, Channel: 5})
	input(pns, 3, reply)
	expectEvents(t, pns, CallUp{Ref: ref, Kind: PNSOutgoing, Serial: 3, Window: 16, Delay: 2, ConnectSpeed: 1e8, Channel: 5})
	want := []CallInfo{{Ref: ref, Kind: PNSOutgoing, State: CallEstablished, Serial: 3}}
	if got := pns.Calls(); !reflect.DeepEqual(got, want) {
		t.Errorf("calls %+v", got)
	}

	// Wrong commands for the state or the role.
	if err := pac.Accept(4, asked.Ref, Answer{LocalCallID: 8}); !errors.Is(err, ErrCallState) {
		t.Errorf("second Accept: %v", err)
	}
	input(pac, 4, &IncomingCallRequest{CallID: 8})
	if err := pac.Accept(4, asked.Ref+1, Answer{LocalCallID: 0}); !errors.Is(err, ErrCallIDInUse) {
		t.Errorf("Accept with a call ID in use: %v", err)
	}
	must(t, pac.Refuse(4, asked.Ref+1, RefuseBusy))
	output(t, pac)
	pac.Events()
	if err := pac.Refuse(4, asked.Ref, RefuseBusy); !errors.Is(err, ErrCallState) {
		t.Errorf("Refuse after Accept: %v", err)
	}
	if err := pac.SetLinkInfo(asked.Ref, 0, 0); !errors.Is(err, ErrCallState) {
		t.Errorf("Set-Link-Info from the PAC: %v", err)
	}
	if err := pns.WANErrorNotify(4, ref, WANErrors{}); !errors.Is(err, ErrCallState) {
		t.Errorf("WAN-Error-Notify from the PNS: %v", err)
	}
	if _, err := pns.PlaceOutgoing(4, request); !errors.Is(err, ErrCallIDInUse) {
		t.Errorf("call ID twice: %v", err)
	}
	expectOutput(t, pac)
	expectOutput(t, pns)

	// A second reply changes nothing.
	input(pns, 4, &OutgoingCallReply{CallID: 9, ResultCode: OutgoingConnected})
	expectEvents(t, pns, ProtocolError{})

	// Set-Link-Info one way, WAN-Error-Notify the other.
	must(t, pns.SetLinkInfo(ref, 1, 2))
	input(pac, 5, output(t, pns)...)
	expectEvents(t, pac, LinkInfo{asked.Ref, 1, 2})
	counters := WANErrors{1, 2, 3, 4, 5, 6}
	must(t, pac.WANErrorNotify(5, asked.Ref, counters))
	if err := pac.WANErrorNotify(4+60*second, asked.Ref, counters); !errors.Is(err, ErrTooSoon) {
		t.Errorf("WAN-Error-Notify too soon: %v", err)
	}
	input(pns, 6, output(t, pac)...)
	expectEvents(t, pns, WANError{ref, counters})
	must(t, pac.WANErrorNotify(5+60*second, asked.Ref, counters))
	output(t, pac)

	// The PNS clears it.
	pac.cfg.Statistics = func(*Conn, CallRef) string { return "rx=1" }
	must(t, pns.Clear(7, ref, Disconnect{}))
	must(t, pns.Clear(7, ref, Disconnect{}))
	expectEvents(t, pns)
	cleared := output(t, pns)
	if !reflect.DeepEqual(cleared, []Message{&CallClearRequest{CallID: 0}}) {
		t.Errorf("sent %+v", cleared)
	}
	input(pac, 8, cleared...)
	d := Disconnect{Result: DisconnectRequest, Statistics: "rx=1"}
	expectEvents(t, pac, CallDown{Ref: asked.Ref, Kind: PACOutgoing, WasUp: true, Cause: DownPeer, Disconnect: d})
	input(pns, 9, output(t, pac)...)
	expectEvents(t, pns, CallDown{Ref: ref, Kind: PNSOutgoing, WasUp: true, Cause: DownLocal, Disconnect: d})
	if pns.NumCalls() != 0 || pac.NumCalls() != 0 {
		t.Error("calls left")
	}
	if err := pns.Clear(9, ref, Disconnect{}); !errors.Is(err, ErrNoCall) {
		t.Errorf("Clear of a call that is over: %v", err)
	}
}

func TestIncomingCall(t *testing.T) {
	pac, pns := client(t, testConfig()), server(t, testConfig())
	request := &IncomingCallRequest{
		CallID: 11, CallSerialNumber: 4, CallBearerType: 2, PhysicalChannelID: 6,
		DialedNumber: "1", DialingNumber: "2",
	}
	ref, err := pac.PlaceIncoming(0, request, IncomingCallConnected{ConnectSpeed: 64000, PacketTransmitDelay: 3, FramingType: 2})
	must(t, err)
	input(pns, 1, output(t, pac)...)
	asked := pns.Events()[0].(CallRequest)
	if asked.Outgoing != nil || *asked.Incoming != *request {
		t.Errorf("asked for %+v", asked)
	}
	must(t, pns.Accept(2, asked.Ref, Answer{LocalCallID: 22, Delay: 1}))
	reply := &IncomingCallReply{CallID: 22, PeerCallID: 11, ResultCode: IncomingConnect, PacketRecvWindowSize: 64, PacketTransmitDelay: 1}
	expectOutput(t, pns, reply)
	expectEvents(t, pns)
	input(pac, 3, reply)
	expectEvents(t, pac, CallUp{Ref: ref, Kind: PACIncoming, LocalCallID: 11, PeerCallID: 22, Serial: 4, Window: 64, Delay: 1, ConnectSpeed: 64000})
	connected := &IncomingCallConnected{PeerCallID: 22, ConnectSpeed: 64000, PacketRecvWindowSize: 64, PacketTransmitDelay: 3, FramingType: 2}
	expectOutput(t, pac, connected)
	input(pns, 4, connected)
	expectEvents(t, pns, CallUp{
		Ref: asked.Ref, Kind: PNSIncoming, LocalCallID: 22, PeerCallID: 11, Serial: 4, Window: 64,
		Delay: 3, ConnectSpeed: 64000, Channel: 6,
	})

	// The caller hangs up.
	d := Disconnect{DisconnectLostCarrier, 0, 16, "tx=2"}
	must(t, pac.Clear(5, ref, d))
	expectEvents(t, pac, CallDown{Ref: ref, Kind: PACIncoming, LocalCallID: 11, PeerCallID: 22, WasUp: true, Cause: DownLocal, Disconnect: d})
	notify := output(t, pac)
	if got := notify[0].(*CallDisconnectNotify); got.CallID != 11 {
		t.Errorf("the notification names call ID %d", got.CallID)
	}
	input(pns, 6, notify...)
	expectEvents(t, pns, CallDown{Ref: asked.Ref, Kind: PNSIncoming, LocalCallID: 22, PeerCallID: 11, WasUp: true, Cause: DownPeer, Disconnect: d})
}

func TestRefusals(t *testing.T) {
	for why := RefuseProhibited; why <= RefusePACError; why++ {
		pns, pac := client(t, testConfig()), server(t, testConfig())
		out, err := pns.PlaceOutgoing(0, &OutgoingCallRequest{CallID: 5})
		must(t, err)
		input(pac, 0, output(t, pns)...)
		asked := pac.Events()[0].(CallRequest)
		must(t, pac.Refuse(0, asked.Ref, why))
		expectEvents(t, pac, CallDown{Ref: asked.Ref, Kind: PACOutgoing, PeerCallID: 5, Cause: DownLocal})
		reply := output(t, pac)[0].(*OutgoingCallReply)
		input(pns, 0, reply)
		expectEvents(t, pns, CallDown{
			Ref: out, Kind: PNSOutgoing, LocalCallID: 5, Cause: DownRefused,
			Outgoing: refusals[why].outgoing, Error: refusals[why].code,
		})

		in, err := pns.PlaceIncoming(0, &IncomingCallRequest{CallID: 5}, IncomingCallConnected{})
		must(t, err)
		input(pac, 0, output(t, pns)...)
		asked = pac.Events()[0].(CallRequest)
		must(t, pac.Refuse(0, asked.Ref, why))
		input(pns, 0, output(t, pac)...)
		expectEvents(t, pns, CallDown{
			Ref: in, Kind: PACIncoming, LocalCallID: 5, Cause: DownRefused,
			Incoming: refusals[why].incoming, Error: refusals[why].code,
		})
		// §2.8, §2.10: an error code goes with a general error only.
		if (reply.ErrorCode != 0) != (reply.ResultCode == OutgoingGeneralError) {
			t.Errorf("refusal %d: %+v", why, reply)
		}
	}
}

func TestRequestsInError(t *testing.T) {
	cfg := testConfig()
	cfg.MaxCalls = 2
	c := server(t, cfg)
	input(c, 0, &OutgoingCallRequest{CallID: 1})
	c.Events()
	input(c, 0, &IncomingCallRequest{CallID: 1})
	expectOutput(t, c, &IncomingCallReply{PeerCallID: 1, ResultCode: IncomingGeneralError, ErrorCode: ErrorBadCallID})
	expectEvents(t, c, ProtocolError{})
	input(c, 0, &IncomingCallRequest{CallID: 2})
	c.Events()
	input(c, 0, &OutgoingCallRequest{CallID: 3})
	expectOutput(t, c, &OutgoingCallReply{PeerCallID: 3, ResultCode: OutgoingGeneralError, ErrorCode: ErrorNoResource})
	if _, err := c.PlaceOutgoing(0, &OutgoingCallRequest{}); !errors.Is(err, ErrTooManyCalls) {
		t.Errorf("a call too many: %v", err)
	}
	if c.NumCalls() != 2 {
		t.Errorf("%d calls", c.NumCalls())
	}

	cfg = testConfig()
	cfg.PAC, cfg.PNS = false, false
	c = server(t, cfg)
	input(c, 0, &OutgoingCallRequest{CallID: 3}, &IncomingCallRequest{CallID: 4})
	expectOutput(t, c, &OutgoingCallReply{PeerCallID: 3, ResultCode: OutgoingDoNotAccept},
		&IncomingCallReply{PeerCallID: 4, ResultCode: IncomingDoNotAccept})
	expectEvents(t, c)
}

// twoCalls returns a PNS with two calls up: local 1, peer's 101; local 2,
// peer's 102.
func twoCalls(t *testing.T) (c *Conn, first, other CallRef) {
	t.Helper()
	c = client(t, testConfig())
	var refs [2]CallRef
	for i := range refs {
		var err error
		refs[i], err = c.PlaceOutgoing(0, &OutgoingCallRequest{CallID: uint16(i + 1)})
		must(t, err)
		input(c, 0, &OutgoingCallReply{CallID: uint16(i + 101), PeerCallID: uint16(i + 1), ResultCode: OutgoingConnected})
	}
	output(t, c)
	c.Events()
	return c, refs[0], refs[1]
}

func TestWhoseCallID(t *testing.T) {
	// A Call-Disconnect-Notify with the PAC's call ID, and with ours.
	for id, local := range map[uint16]uint16{101: 1, 102: 2, 1: 1, 2: 2} {
		c, ref, other := twoCalls(t)
		peer := uint16(101)
		if local == 2 {
			ref, peer = other, 102
		}
		input(c, 1, &CallDisconnectNotify{CallID: id, ResultCode: DisconnectAdmin})
		expectEvents(t, c, CallDown{
			Ref: ref, Kind: PNSOutgoing, LocalCallID: local, PeerCallID: peer, WasUp: true,
			Cause: DownPeer, Disconnect: Disconnect{Result: DisconnectAdmin},
		})
	}

	// The PAC's own counts first when it fits one call and ours another.
	c := client(t, testConfig())
	_, err := c.PlaceOutgoing(0, &OutgoingCallRequest{CallID: 7})
	must(t, err)
	ref, err := c.PlaceOutgoing(0, &OutgoingCallRequest{CallID: 8})
	must(t, err)
	input(c, 0, &OutgoingCallReply{CallID: 8, PeerCallID: 7, ResultCode: OutgoingConnected},
		&OutgoingCallReply{CallID: 7, PeerCallID: 8, ResultCode: OutgoingConnected})
	c.Events()
	input(c, 0, &CallDisconnectNotify{CallID: 7})
	if e := c.Events()[0].(CallDown); e.Ref != ref {
		t.Errorf("call ID 7 ended %+v", e)
	}

	// Aborted before the reply: the notification carries an ID never learned.
	c = client(t, testConfig())
	ref, err = c.PlaceOutgoing(0, &OutgoingCallRequest{CallID: 7})
	must(t, err)
	must(t, c.Clear(0, ref, Disconnect{}))
	expectOutput(t, c, &OutgoingCallRequest{CallID: 7, PacketRecvWindowSize: 64}, &CallClearRequest{7})
	input(c, 0, &CallDisconnectNotify{CallID: 555, ResultCode: DisconnectRequest})
	expectEvents(t, c, CallDown{
		Ref: ref, Kind: PNSOutgoing, LocalCallID: 7, Cause: DownLocal,
		Disconnect: Disconnect{Result: DisconnectRequest},
	})

	// As PAC, asked to clear before we have assigned one: the peer's.
	c = server(t, testConfig())
	input(c, 0, &OutgoingCallRequest{CallID: 9}, &CallClearRequest{9})
	expectOutput(t, c, &CallDisconnectNotify{CallID: 9, ResultCode: DisconnectRequest})
	if c.NumCalls() != 0 {
		t.Error("the call is still there")
	}
}

func TestUnknownCalls(t *testing.T) {
	for _, tt := range []struct{ in, out Message }{
		{&OutgoingCallReply{CallID: 8, PeerCallID: 9, ResultCode: OutgoingConnected}, &CallClearRequest{9}},
		{&OutgoingCallReply{CallID: 8, PeerCallID: 9, ResultCode: OutgoingBusy}, nil},
		{
			&IncomingCallReply{CallID: 8, PeerCallID: 9, ResultCode: IncomingConnect},
			&CallDisconnectNotify{CallID: 9, ResultCode: DisconnectGeneralError, ErrorCode: ErrorBadCallID},
		},
		{&IncomingCallReply{CallID: 8, PeerCallID: 9, ResultCode: IncomingDoNotAccept}, nil},
		{&IncomingCallConnected{PeerCallID: 9}, &CallClearRequest{9}},
		{
			&CallClearRequest{CallID: 9},
			&CallDisconnectNotify{CallID: 9, ResultCode: DisconnectGeneralError, ErrorCode: ErrorBadCallID},
		},
		{&CallDisconnectNotify{CallID: 9}, nil},
		{&SetLinkInfo{PeerCallID: 9}, nil},
		{&WANErrorNotify{PeerCallID: 9}, nil},
	} {
		c, _, _ := twoCalls(t)
		input(c, 1, tt.in)
		if tt.out != nil {
			expectOutput(t, c, tt.out)
		} else {
			expectOutput(t, c)
		}
		expectEvents(t, c, ProtocolError{})
		if c.NumCalls() != 2 {
			t.Errorf("%v: other calls are gone", tt.in.Type())
		}
	}
}

func TestPeerCallIDTwice(t *testing.T) {
	c := client(t, testConfig())
	for id := range uint16(2) {
		_, err := c.PlaceOutgoing(0, &OutgoingCallRequest{CallID: id})
		must(t, err)
		input(c, 0, &OutgoingCallReply{CallID: 5, PeerCallID: id, ResultCode: OutgoingConnected})
	}
	out := output(t, c)
	if last := out[len(out)-1]; !reflect.DeepEqual(last, &CallClearRequest{1}) {
		t.Errorf("sent %+v", last)
	}
	calls := c.Calls()
	if calls[0].State != CallEstablished || calls[1].State != CallWaitDisconnect {
		t.Errorf("calls %+v", calls)
	}
}

func TestCallTimeouts(t *testing.T) {
	// As PAC: the owner does not answer.
	c := server(t, testConfig())
	input(c, 0, &OutgoingCallRequest{CallID: 9})
	ref := c.Events()[0].(CallRequest).Ref
	input(c, 50*second, &EchoRequest{}) // the connection itself is alive
	output(t, c)
	c.Tick(c.Deadline())
	expectOutput(t, c, &OutgoingCallReply{PeerCallID: 9, ResultCode: OutgoingTimeout})
	expectEvents(t, c, CallDown{Ref: ref, Kind: PACOutgoing, PeerCallID: 9, Cause: DownTimeout})
	if c.Deadline() != 110*second {
		t.Errorf("deadline %d s", c.Deadline()/second)
	}
	if err := c.Accept(61*second, ref, Answer{}); !errors.Is(err, ErrNoCall) {
		t.Errorf("too late: %v", err)
	}

	// As PAC: the peer does not answer our Incoming-Call-Request.
	ref, err := c.PlaceIncoming(100*second, &IncomingCallRequest{CallID: 4}, IncomingCallConnected{})
	must(t, err)
	output(t, c)
	input(c, 159*second, &EchoRequest{})
	output(t, c)
	c.Tick(160 * second)
	d := Disconnect{Result: DisconnectGeneralError, Error: ErrorPAC}
	expectOutput(t, c, &CallDisconnectNotify{CallID: 4, ResultCode: d.Result, ErrorCode: d.Error})
	expectEvents(t, c, CallDown{Ref: ref, Kind: PACIncoming, LocalCallID: 4, Cause: DownTimeout, Disconnect: d})

	// As PNS: no reply, and none to the Call-Clear-Request either.
	c = client(t, testConfig())
	ref, err = c.PlaceOutgoing(0, &OutgoingCallRequest{CallID: 4})
	must(t, err)
	output(t, c)
	input(c, 59*second, &EchoRequest{})
	output(t, c)
	c.Tick(60 * second)
	expectOutput(t, c, &CallClearRequest{4})
	expectEvents(t, c)
	c.Tick(63 * second)
	expectEvents(t, c, CallDown{Ref: ref, Kind: PNSOutgoing, LocalCallID: 4, Cause: DownTimeout})

	// The whole connection, if so configured; but not for an unanswered clear.
	cfg := testConfig()
	cfg.CloseOnStuckCall = true
	c = client(t, cfg)
	ref, err = c.PlaceOutgoing(0, &OutgoingCallRequest{CallID: 4})
	must(t, err)
	must(t, c.Clear(0, ref, Disconnect{}))
	c.Tick(3 * second)
	expectEvents(t, c, CallDown{Ref: ref, Kind: PNSOutgoing, LocalCallID: 4, Cause: DownLocal})
	_, err = c.PlaceOutgoing(3*second, &OutgoingCallRequest{CallID: 4})
	must(t, err)
	input(c, 59*second, &EchoRequest{})
	output(t, c)
	c.Tick(63 * second)
	expectOutput(t, c, &CallClearRequest{4}, &StopRequest{StopNone})
	c.Events()
	c.Tick(66 * second)
	expectEvents(t, c, Closed{Reason: ClosedStuckCall})
}

func TestBadInput(t *testing.T) {
	c := server(t, testConfig())
	input(c, 0, &OutgoingCallRequest{CallID: 3})
	ref := c.Events()[0].(CallRequest).Ref
	c.Input(0, header(16, 1, 0x1A2B3C4E, 5))
	events := c.Events()
	if down, ok := events[0].(CallDown); !ok || down.Ref != ref || down.Cause != DownConnection {
		t.Errorf("events %+v", events)
	}
	closed := events[1].(Closed)
	var format *FormatError
	if closed.Reason != ClosedBadMessage || !errors.As(closed.Err, &format) || format.Field != "Magic Cookie" {
		t.Errorf("closed %+v", closed)
	}
	if want := "bad message: pptp: Magic Cookie is 0x1a2b3c4e, want 0x1a2b3c4d"; closed.String() != want {
		t.Errorf("got %q", closed.String())
	}

	// Unknown types are passed over, in one piece or many, before and after.
	c = NewConn(testConfig(), false, addrB, addrA)
	stream := append(header(300, 1, Magic, 99), make([]byte, 288)...)
	stream = append(stream, header(12, 2, Magic, 0)...)
	stream = Append(stream, &StartRequest{ProtocolVersion: Version})
	for _, b := range stream {
		c.Input(0, []byte{b})
	}
	expectEvents(t, c, ProtocolError{}, ProtocolError{}, Established{Peer{Version: Version}})
}

func TestSlowReader(t *testing.T) {
	cfg := testConfig()
	c := server(t, cfg)
	echo := Append(nil, &EchoRequest{})
	most := 0
	for c.State() != StateClosed && most <= cfg.OutputLimit+1000 {
		c.Input(0, echo)
		most = max(most, c.Pending())
	}
	if most > cfg.OutputLimit+TypeEchoReply.Length() {
		t.Errorf("%d octets were waiting", most)
	}
	expectEvents(t, c, Closed{Reason: ClosedSlowReader})
	if c.Pending() != 0 {
		t.Error("octets still waiting")
	}
}

// Output is one message at a time, also when the socket takes less.
func TestOutputOneMessage(t *testing.T) {
	c := server(t, testConfig())
	input(c, 0, &EchoRequest{1}, &EchoRequest{2})
	if got := len(c.Output()); got != 20 {
		t.Fatalf("%d octets offered", got)
	}
	c.Taken(7)
	c.Taken(0)
	if got := len(c.Output()); got != 13 {
		t.Fatalf("%d octets offered", got)
	}
	input(c, 0, &EchoRequest{3})
	c.Taken(1000)
	expectOutput(t, c, &EchoReply{2, EchoOK, 0}, &EchoReply{3, EchoOK, 0})
}

// 100,000 connections have to fit: nothing is kept that is not needed.
func TestIdleConnIsSmall(t *testing.T) {
	c := server(t, testConfig())
	input(c, 0, &OutgoingCallRequest{CallID: 9})
	must(t, c.Accept(0, c.Events()[0].(CallRequest).Ref, Answer{LocalCallID: 1}))
	output(t, c)
	c.Events()
	if c.in != nil || c.out != nil || c.events != nil || c.request != nil {
		t.Error("an idle connection keeps buffers")
	}
	if size := reflect.TypeFor[Conn]().Size() + reflect.TypeFor[call]().Size(); size > 1024 {
		t.Errorf("connection and call take %d octets", size)
	}
}

// The recorded session of pptp-linux and pptpd, each against our other end.
func TestRecordedPeers(t *testing.T) {
	var recorded []Message
	for _, v := range loadVectors(t) {
		if v.Source == "01-pap-plain.pcap" {
			m, err := Parse(v.bytes())
			must(t, err)
			recorded = append(recorded, m)
		}
	}
	// SCCRQ and OCRQ, CCRQ from the client; SCCRP, OCRP from the server.
	pac := NewConn(testConfig(), false, addrB, addrA)
	input(pac, 0, recorded[0])
	if e := pac.Events()[0].(Established); e.Peer.Vendor != "cananian" {
		t.Errorf("peer %+v", e.Peer)
	}
	input(pac, 0, recorded[2])
	asked := pac.Events()[0].(CallRequest)
	must(t, pac.Accept(0, asked.Ref, Answer{LocalCallID: 77}))
	if e := pac.Events()[0].(CallUp); e.PeerCallID != 63965 || e.Window != 3 || e.ConnectSpeed != 1e7 {
		t.Errorf("up: %+v", e)
	}
	input(pac, 0, recorded[4])
	if e := pac.Events()[0].(CallDown); e.Cause != DownPeer {
		t.Errorf("down: %+v", e)
	}

	pns := NewConn(testConfig(), true, addrA, addrB)
	pns.Start(0)
	input(pns, 0, recorded[1])
	ref, err := pns.PlaceOutgoing(0, &OutgoingCallRequest{CallID: 63965})
	must(t, err)
	input(pns, 0, recorded[3])
	events := pns.Events()
	if e := events[0].(Established); e.Peer.Vendor != "linux" {
		t.Errorf("peer %+v", e.Peer)
	}
	want := CallUp{Ref: ref, Kind: PNSOutgoing, LocalCallID: 63965, PeerCallID: 0, Window: 3, ConnectSpeed: 1e7}
	if events[1] != want {
		t.Errorf("up: %+v", events[1])
	}
}

func TestConfigValidate(t *testing.T) {
	cfg := DefaultConfig()
	must(t, cfg.Validate())
	for field, change := range map[string]func(c *Config){
		"HostName":     func(c *Config) { c.HostName = strings.Repeat("x", 65) },
		"Vendor":       func(c *Config) { c.Vendor = strings.Repeat("x", 65) },
		"RecvWindow":   func(c *Config) { c.RecvWindow = 0 },
		"MaxCalls":     func(c *Config) { c.MaxCalls = 65536 },
		"OutputLimit":  func(c *Config) { c.OutputLimit = 100 },
		"StartTimeout": func(c *Config) { c.StartTimeout = 0 },
		"EchoInterval": func(c *Config) { c.EchoInterval = -1 },
		"EchoTimeout":  func(c *Config) { c.EchoTimeout = -1 },
		"StopTimeout":  func(c *Config) { c.StopTimeout = 0 },
		"CallTimeout":  func(c *Config) { c.CallTimeout = 0 },
		"ClearTimeout": func(c *Config) { c.ClearTimeout = 0 },
	} {
		cfg := DefaultConfig()
		change(&cfg)
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func TestNames(t *testing.T) {
	for _, tt := range []struct{ got, want string }{
		{StateClosed.String(), "closed"},
		{ConnState(77).String(), "77"},
		{CallWaitDisconnect.String(), "wait_disconnect"},
		{PNSOutgoing.String(), "PNS outgoing"},
		{DownConnection.String(), "connection"},
		{ClosedStuckCall.String(), "stuck call"},
		{Closed{Reason: ClosedByPeer, StopReason: 3}.String(), "stopped by peer: Stop-Local-Shutdown (3)"},
		{
			Closed{Reason: ClosedRefused, StartResult: 2, ErrorCode: 4}.String(),
			"refused by peer: general error (2), No-Resource (4)",
		},
	} {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
}
