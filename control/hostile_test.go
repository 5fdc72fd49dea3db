package control

import (
	"net/netip"
	"testing"

	"xpptp/control/pptp"
)

// Silent, slow and hostile clients beside a good call: each of theirs ends,
// or waits without harm, and the call neither stops nor loses a packet.
func TestHostileControlConnections(t *testing.T) {
	s := newSim(t, simOptions{seed: 8})
	s.call(1)
	s.until("call up", 20, func() bool { return s.upCalls() == 1 && s.serverUp() == 1 })
	k := s.client.calls()[0]
	up := &stream{src: k.nets[0].Local, dst: simLocal, id: 1}

	start := pptp.Append(nil, &pptp.StartRequest{ProtocolVersion: 0x100, HostName: "evil"})
	echo := pptp.Append(nil, &pptp.EchoRequest{Identifier: 7})
	call := pptp.Append(nil, &pptp.OutgoingCallRequest{CallID: 1, MinimumBPS: 1, MaximumBPS: 1, PacketRecvWindowSize: 1})
	broken := append([]byte(nil), start...)
	broken[4] ^= 0xff // magic cookie
	long := append([]byte(nil), start...)
	long[0], long[1] = 0xff, 0xff
	random := make([]byte, 1000)
	for i := range random {
		random[i] = byte(s.rnd.Uint32())
	}
	repeat := func(b []byte, n int) (out []byte) {
		for range n {
			out = append(out, b...)
		}
		return out
	}
	cases := []struct {
		name  string
		bytes []byte
		ends  bool // at once; else by a time-out
	}{
		{"says nothing", nil, false},
		{"half a message", start[:50], false},
		{"wrong magic cookie", broken, true},
		{"impossible length", long, true},
		{"random bytes", random, true},
		{"a call before the start", call, true},
		{"the same start many times", repeat(start, 50), false},
		{"a flood of echoes", append(append([]byte(nil), start...), repeat(echo, 5000)...), false},
		{"the same call ID again and again", append(append([]byte(nil), start...), repeat(call, 200)...), false},
	}
	type hostile struct {
		c    *conn
		p    *pipe
		left []byte
	}
	var all []*hostile
	for i, tc := range cases {
		down := &pipe{s: s} // server to client: nobody reads
		up := &pipe{s: s, other: down}
		down.other = up
		s.server.box.count.conns.Add(1)
		h := &hostile{p: down, left: tc.bytes}
		h.c = s.server.l.addConn(down, false, netip.AddrPortFrom(simServer, 1723), netip.AddrPortFrom(netip.MustParseAddr("10.0.0.99"), uint16(2000+i)))
		all = append(all, h)
	}
	for range 3000 {
		for _, h := range all {
			if n := min(len(h.left), 1+s.rnd.IntN(200)); n > 0 && !h.c.closed {
				h.c.input(h.left[:n])
				h.left = h.left[n:]
			}
		}
		up.send(s, s.client, 100)
		s.step()
		s.drainInside(s.server, func(p []byte) { up.receive(t, p) })
	}
	for i, h := range all {
		if cases[i].ends && !h.c.closed {
			t.Errorf("%s: connection still open", cases[i].name)
		}
	}
	if up.got < 2999 {
		t.Errorf("the good call lost packets: %d of 3000; drops %v", up.got, drops(s.server))
	}
	// Time ends the rest: no start, no echo reply, no call that comes up.
	s.until("hostile connections gone", 600, func() bool {
		for _, h := range all {
			if !h.c.closed {
				return false
			}
		}
		return true
	})
	if s.upCalls() != 1 || s.serverUp() != 1 {
		t.Errorf("%d and %d calls up at the end, want the good one", s.upCalls(), s.serverUp())
	}
	s.hangUp()
}
