package decrypt

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"xpptp/control/pptp"
)

var (
	pnsAddr = [4]byte{192, 0, 2, 1}
	pacAddr = [4]byte{192, 0, 2, 2}
)

// segment is a piece of one direction of a control connection.
type segment struct {
	fromClient bool
	seq        uint32
	flags      byte
	data       []byte
}

func (s segment) datagram(number int) *datagram {
	tcp := make([]byte, 20, 20+len(s.data))
	src, dst := pnsAddr, pacAddr
	be.PutUint16(tcp, 40000)
	be.PutUint16(tcp[2:], pptp.Port)
	if !s.fromClient {
		src, dst = dst, src
		be.PutUint16(tcp, pptp.Port)
		be.PutUint16(tcp[2:], 40000)
	}
	be.PutUint32(tcp[4:], s.seq)
	tcp[12], tcp[13] = 5<<4, s.flags
	tcp = append(tcp, s.data...)
	return &datagram{rec: record{number: number, at: int64(number)}, src: src, dst: dst, proto: 6, payload: tcp, captured: len(tcp)}
}

func stream(m ...pptp.Message) (b []byte) {
	for _, m := range m {
		b = pptp.Append(b, m)
	}
	return b
}

var (
	startUp = stream(&pptp.StartRequest{HostName: "pns", VendorName: "one"})
	startOK = stream(&pptp.StartReply{ResultCode: pptp.StartOK, HostName: "pac"})
)

// What a control connection tells does not depend on how TCP cut it, or on
// what was sent twice or came in another order.
func TestControlStream(t *testing.T) {
	client := slices.Concat(startUp,
		stream(&pptp.OutgoingCallRequest{CallID: 5}, &pptp.OutgoingCallRequest{CallID: 6}, &pptp.OutgoingCallRequest{CallID: 7}, &pptp.CallClearRequest{CallID: 6}))
	server := slices.Concat(startOK, stream(
		&pptp.OutgoingCallReply{CallID: 50, PeerCallID: 5, ResultCode: pptp.OutgoingConnected},
		&pptp.OutgoingCallReply{CallID: 60, PeerCallID: 6, ResultCode: pptp.OutgoingConnected},
		&pptp.OutgoingCallReply{PeerCallID: 7, ResultCode: pptp.OutgoingBusy},
		&pptp.CallDisconnectNotify{CallID: 50, ResultCode: pptp.DisconnectAdmin}))
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		c := newControls()
		feed := func(fromClient bool, b []byte) {
			const first = 0xfffffff0 // the numbers wrap
			c.segment(segment{fromClient, first - 1, tcpSYN, nil}.datagram(1))
			var all []segment
			for off := 0; off < len(b); {
				n := min(1+rnd.IntN(300), len(b)-off)
				all = append(all, segment{fromClient, first + uint32(off), tcpACK, b[off : off+n]})
				if rnd.IntN(3) == 0 {
					all = append(all, all[rnd.IntN(len(all))])
				}
				if off += n; rnd.IntN(4) == 0 {
					off -= rnd.IntN(n) // segments overlap
				}
			}
			for i := range all {
				j := min(i+rnd.IntN(3), len(all)-1)
				all[i], all[j] = all[j], all[i]
			}
			for i, s := range all {
				c.segment(s.datagram(2 + i))
			}
		}
		feed(true, client)
		feed(false, server)
		if len(c.conns) != 1 || len(c.calls) != 3 || c.bad != 0 {
			t.Fatalf("seed %d: %d connections, %d calls, %d bad", seed, len(c.conns), len(c.calls), c.bad)
		}
		for i, want := range []controlCall{
			{pnsID: 5, pacID: 50, ended: "Call-Disconnect-Notify: Admin Shutdown (3)"},
			{pnsID: 6, pacID: 60},
			{pnsID: 7, refused: "Outgoing-Call-Reply: Busy (4), error None (0)"},
		} {
			got := c.calls[i]
			if got.pnsID != want.pnsID || got.pacID != want.pacID || got.ended != want.ended || got.refused != want.refused ||
				got.pns != pnsAddr || got.pac != pacAddr || got.conn.who != [2]string{"pns (one)", "pac"} {
				t.Errorf("seed %d: call %d: %+v", seed, i, *got)
			}
		}
	}
}

// A capture that begins in the middle or lost a segment: the calls behind it
// are found.
func TestControlGap(t *testing.T) {
	reply := stream(&pptp.OutgoingCallReply{CallID: 50, PeerCallID: 5, ResultCode: pptp.OutgoingConnected})
	c := newControls()
	c.segment(segment{false, 1000, tcpACK, startOK[100:]}.datagram(1)) // the end of a message
	c.segment(segment{false, 1056, tcpACK, reply}.datagram(2))
	if len(c.calls) != 1 || c.calls[0].pacID != 50 {
		t.Errorf("from the middle: %d calls, %d bad", len(c.calls), c.bad)
	}
	c = newControls()
	c.segment(segment{false, 999, tcpSYN | tcpACK, nil}.datagram(1))
	for i := range uint32(maxPending) {
		c.segment(segment{false, 2000 + i*32, tcpACK, stream(&pptp.OutgoingCallReply{CallID: 50 + uint16(i), PeerCallID: 5, ResultCode: pptp.OutgoingConnected})}.datagram(2))
	}
	if len(c.calls) != maxPending || c.bad != 1 {
		t.Errorf("over a gap: %d calls, %d bad", len(c.calls), c.bad)
	}
}

// An incoming call: the PAC asks.
func TestIncomingCall(t *testing.T) {
	c := newControls()
	server := stream(&pptp.IncomingCallRequest{CallID: 9})
	client := stream(&pptp.IncomingCallReply{CallID: 8, PeerCallID: 9, ResultCode: pptp.IncomingConnect})
	c.segment(segment{false, 1, tcpACK, server}.datagram(3))
	c.segment(segment{true, 1, tcpACK, client}.datagram(4))
	c.segment(segment{true, 1, tcpACK, client}.datagram(5))
	if len(c.calls) != 1 {
		t.Fatalf("%d calls", len(c.calls))
	}
	if got := c.calls[0]; !got.incoming || got.pnsID != 8 || got.pacID != 9 || got.pns != pnsAddr || got.start != 3 {
		t.Errorf("%+v", *got)
	}
}

// A call that was refused is shown without packets.
func TestRefusedCall(t *testing.T) {
	c := newControls()
	c.segment(segment{true, 1, tcpACK, slices.Concat(startUp, stream(&pptp.OutgoingCallRequest{CallID: 7}))}.datagram(1))
	c.segment(segment{false, 1, tcpACK, stream(&pptp.OutgoingCallReply{PeerCallID: 7, ResultCode: pptp.OutgoingBusy})}.datagram(2))
	calls := pair(newFlows(), c)
	if len(calls) != 1 {
		t.Fatalf("%d calls", len(calls))
	}
	got, _ := newCall(calls[0], testSecrets(t, ""))
	if got.Peer != "192.0.2.1" || got.Server.Address != "192.0.2.2" || !strings.Contains(got.ControlEnd, "Busy") || *got.Client.CallID != 7 || got.Server.CallID != nil {
		t.Errorf("%+v", got)
	}
}
