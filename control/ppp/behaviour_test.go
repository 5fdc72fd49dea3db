package ppp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"xpptp/control/ppp/mschap"
)

// lone is one end whose peer is played by the test, packet by packet.
type lone struct {
	*end
	t   *testing.T
	out []frame // sent and not yet looked at
}

func newLone(t *testing.T, cfg Config) *lone {
	s := &sim{rnd: rand.New(rand.NewPCG(7, 7))}
	o := &lone{t: t, end: &end{t: t, name: "ours", sim: s, up: map[Family]NetParams{}, sent: map[uint16]int{}}}
	o.secrets = map[string]string{"vpnuser": "Secret-Pass1"}
	o.drop = func(proto uint16, info []byte) bool {
		o.out = append(o.out, frame{proto: proto, info: bytes.Clone(info)})
		return true
	}
	random := func(b []byte) {
		for i := range b {
			b[i] = byte(s.rnd.Uint32())
		}
	}
	o.link = NewLink(&cfg, o.end, random)
	t.Cleanup(func() {
		if t.Failed() {
			for _, line := range o.log {
				t.Log(line)
			}
		}
	})
	return o
}

// text builds a control packet whose data is text.
func text(code, id uint8, s string) []byte { return pkt(code, id, []byte(s)...) }

// pkt builds a control packet.
func pkt(code, id uint8, data ...byte) []byte {
	b := append([]byte{code, id, 0, 0}, data...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	return b
}

func (o *lone) in(proto uint16, info []byte) {
	o.logf("rcvd %04x %x", proto, info)
	o.link.Input(o.sim.now, proto, info)
	o.settle()
}

// settle lets the host answer.
func (o *lone) settle() {
	for len(o.sim.queue) > 0 {
		f := o.sim.queue[0]
		o.sim.queue = o.sim.queue[1:]
		f.run()
	}
}

// wait lets the clock run.
func (o *lone) wait(n int64) {
	until := o.sim.now + ms(n)
	for d := o.link.Deadline(); d <= until; d = o.link.Deadline() {
		o.sim.now = d
		o.link.Tick(d)
	}
	o.sim.now = until
}

// next returns the next packet sent with that protocol and code, and forgets
// what was sent before it.
func (o *lone) next(proto uint16, code uint8) packet {
	o.t.Helper()
	for i, f := range o.out {
		if p, ok := parsePacket(f.info); ok && f.proto == proto && p.code == code {
			o.out = o.out[i+1:]
			return p
		}
	}
	o.t.Fatalf("no %04x code %d among %d packets", proto, code, len(o.out))
	return packet{}
}

// silent asserts that nothing was sent since.
func (o *lone) silent() {
	o.t.Helper()
	if len(o.out) > 0 {
		o.t.Fatalf("sent %04x %x", o.out[0].proto, o.out[0].info)
	}
}

// ack acknowledges the next Configure-Request.
func (o *lone) ack(proto uint16) packet {
	o.t.Helper()
	p := o.next(proto, confReq)
	o.in(proto, pkt(confAck, p.id, p.data...))
	return p
}

// openLCP plays a peer whose Configure-Request has these options.
func (o *lone) openLCP(opts ...byte) {
	o.t.Helper()
	o.link.Open(o.sim.now)
	o.ack(ProtoLCP)
	o.in(ProtoLCP, pkt(confReq, 9, opts...))
	o.next(ProtoLCP, confAck)
	if len(o.lcp) != 1 {
		o.t.Fatalf("LCP is not up")
	}
}

var noAuth = func() Config {
	c := serverConfig()
	c.Auth, c.MPPE = nil, Policy{}
	return c
}

// respond answers the server's challenge as a client with this password would.
func (o *lone) respond(id uint8, challenge []byte, name, password string) {
	o.t.Helper()
	peer := [16]byte{1, 2, 3}
	nt := mschap.NTResponse2([16]byte(challenge), peer, name, mschap.NTHash(password))
	v := append(append(append([]byte{49}, peer[:]...), make([]byte, 8)...), nt[:]...)
	o.in(ProtoCHAP, pkt(chapResponse, id, append(append(v, 0), name...)...))
}

func TestRejectsAllUnknownOptionsAtOnce(t *testing.T) {
	o := newLone(t, noAuth())
	o.link.Open(0)
	callback, mrru, epd, bad := []byte{13, 3, 6}, []byte{17, 4, 5, 0xDC}, []byte{19, 5, 1, 2, 3}, []byte{1, 3, 5}
	req := bytes.Join([][]byte{callback, {1, 4, 0, 50}, mrru, {7, 2}, epd, bad}, nil)
	o.in(ProtoLCP, pkt(confReq, 1, req...))
	if p := o.next(ProtoLCP, confRej); !bytes.Equal(p.data, bytes.Join([][]byte{callback, mrru, epd, bad}, nil)) || p.id != 1 {
		t.Errorf("Configure-Reject %x", p.data)
	}
	o.in(ProtoLCP, pkt(confReq, 2, 1, 4, 0, 50, 7, 2))
	if p := o.next(ProtoLCP, confNak); !bytes.Equal(p.data, []byte{1, 4, 0, 128}) {
		t.Errorf("Configure-Nak %x", p.data)
	}
	o.in(ProtoLCP, pkt(confReq, 3, 1, 4, 0, 128, 7, 2))
	o.next(ProtoLCP, confAck)
}

func TestMalformedIsIgnored(t *testing.T) {
	o := newLone(t, noAuth())
	o.link.Open(0)
	o.next(ProtoLCP, confReq)
	for _, b := range [][]byte{nil, {1}, {1, 1, 0}, {1, 1, 0, 3}, {1, 1, 0, 9, 1, 4, 5}, {1, 1, 0, 7, 1, 9, 5}, {1, 1, 0, 6, 5, 1}, {1, 1, 0, 5, 8}} {
		o.in(ProtoLCP, b)
		o.silent()
	}
	o.in(ProtoLCP, append(pkt(confReq, 1, 7, 2), 0, 0, 0)) // padding is no part of the packet
	if p := o.next(ProtoLCP, confAck); !bytes.Equal(p.data, []byte{7, 2}) {
		t.Errorf("Ack %x", p.data)
	}
}

func TestRepliesThatDoNotFitAreIgnored(t *testing.T) {
	o := newLone(t, noAuth())
	o.link.Open(0)
	p := o.next(ProtoLCP, confReq)
	o.in(ProtoLCP, pkt(confAck, p.id+1, p.data...))           // another identifier
	o.in(ProtoLCP, pkt(confAck, p.id, p.data[:4]...))         // not all options
	o.in(ProtoLCP, pkt(confRej, p.id, 13, 3, 6))              // never asked for
	o.in(ProtoLCP, pkt(confRej, p.id))                        // nothing
	o.in(ProtoLCP, pkt(confNak, p.id+1, 1, 4, 2, 0))          // another identifier
	o.in(ProtoLCP, pkt(confRej, p.id, 7, 2, 1, 4, 0x05, 120)) // out of order
	o.silent()
	if o.link.lcp.state != reqSent {
		t.Fatalf("state %s", o.link.lcp.state)
	}
	o.in(ProtoLCP, pkt(confAck, p.id, p.data...))
	if o.link.lcp.state != ackRcvd {
		t.Fatalf("state %s", o.link.lcp.state)
	}
	o.in(ProtoLCP, pkt(confAck, p.id, p.data...)) // again
	if o.link.lcp.state != ackRcvd {
		t.Fatalf("state %s after a second Ack", o.link.lcp.state)
	}
}

func TestRejectedOptionsAreNotAskedAgain(t *testing.T) {
	o := newLone(t, noAuth())
	o.link.Open(0)
	p := o.next(ProtoLCP, confReq)
	o.in(ProtoLCP, pkt(confRej, p.id, p.data...))
	if q := o.next(ProtoLCP, confReq); len(q.data) != 0 || q.id == p.id {
		t.Errorf("asks for %x", q.data)
	} else {
		o.in(ProtoLCP, pkt(confAck, q.id))
	}
	o.in(ProtoLCP, pkt(confReq, 1))
	if got := o.lcp[0]; got.MRU != 1500 || got.PeerMRU != 1500 || got.Magic != 0 || got.RxPFC || got.RxACFC || got.RxACCM != defaultACCM {
		t.Errorf("LCP %+v", got)
	}
	o.in(ProtoLCP, pkt(echoReq, 77, 0, 0, 0, 0, 'h', 'i'))
	if p := o.next(ProtoLCP, echoRep); !bytes.Equal(p.data, []byte{0, 0, 0, 0, 'h', 'i'}) || p.id != 77 {
		t.Errorf("Echo-Reply %x", p.data)
	}
}

func TestLoopback(t *testing.T) {
	for _, cfg := range []Config{serverConfig(), noAuth(), clientConfig()} {
		o := newLone(t, cfg)
		o.link.Open(0)
		for range 100 { // the line returns everything
			if len(o.out) == 0 {
				break
			}
			f := o.out[0]
			o.out = o.out[1:]
			o.in(f.proto, f.info)
		}
		o.wait(60_000)
		if len(o.downs) != 1 || o.downs[0].Code != Loopback {
			t.Errorf("%v", o.downs)
		}
	}
}

func TestMagicZeroIsNakked(t *testing.T) {
	o := newLone(t, noAuth())
	o.link.Open(0)
	o.in(ProtoLCP, pkt(confReq, 1, 5, 6, 0, 0, 0, 0))
	if p := o.next(ProtoLCP, confNak); len(p.data) != 6 || p.data[0] != 5 || be32(p.data[2:]) == 0 {
		t.Errorf("Nak %x", p.data)
	}
}

func TestEcho(t *testing.T) {
	cfg := noAuth()
	cfg.EchoInterval, cfg.EchoFailure, cfg.IPv6 = 10_000_000_000, 3, false
	up := func() *lone {
		o := newLone(t, cfg)
		o.openLCP(5, 6, 1, 2, 3, 4)
		o.ack(ProtoIPCP)
		o.in(ProtoIPCP, pkt(confReq, 1, 3, 6, 192, 168, 77, 11))
		return o
	}
	o := up()
	for range 10 {
		o.wait(10_000)
		p := o.next(ProtoLCP, echoReq)
		if be32(p.data) != o.lcp[0].Magic {
			t.Fatalf("magic %x", p.data)
		}
		o.in(ProtoLCP, pkt(echoRep, p.id, 1, 2, 3, 4))
	}
	o.wait(39_000)
	if len(o.downs) > 0 || o.link.Phase() == PhaseTerminate {
		t.Fatal("too early")
	}
	o.wait(11_000)
	if len(o.downs) != 1 || o.downs[0].Code != EchoTimeout || len(o.violations) > 0 {
		t.Errorf("down %v", o.downs)
	}
	// Our own packets coming back are no sign of life.
	o = up()
	for range 8 {
		o.wait(10_000)
		for _, f := range o.out {
			if f.proto == ProtoLCP && f.info[0] == echoReq {
				o.in(f.proto, f.info)
			}
		}
		o.out = nil
	}
	if len(o.downs) != 1 || o.downs[0].Code != Loopback {
		t.Errorf("down %v", o.downs)
	}
}

func TestLCPExtras(t *testing.T) {
	o := newLone(t, noAuth())
	o.openLCP()
	o.in(ProtoLCP, pkt(discardReq, 1, 0, 0, 0, 0, 'x'))
	o.in(ProtoLCP, pkt(identification, 2, append([]byte{0, 0, 0, 0}, "MSRASV5.20\x01"...)...))
	o.in(ProtoLCP, pkt(timeRemaining, 3, 0, 0, 0, 0, 0, 0, 1, 44))
	o.out = nil
	if s := o.link.Snapshot(); s.Identification != "MSRASV5.20?" || s.TimeRemaining != 300 || s.LCP != "opened" {
		t.Errorf("snapshot %+v", s)
	}
	o.in(ProtoLCP, pkt(99, 4, 'a', 'b'))
	if p := o.next(ProtoLCP, codeRej); !bytes.Equal(p.data, pkt(99, 4, 'a', 'b')) {
		t.Errorf("Code-Reject %x", p.data)
	}
	o.in(0x8207, pkt(confReq, 1))
	p := o.next(ProtoLCP, protoRej)
	if !bytes.Equal(p.data, append([]byte{0x82, 0x07}, pkt(confReq, 1)...)) {
		t.Errorf("Protocol-Reject %x", p.data)
	}
	o.link.UnknownProtocol(0, 0x0281, make([]byte, 5000))
	if q := o.next(ProtoLCP, protoRej); len(q.whole) > 1500 || q.id == p.id {
		t.Errorf("Protocol-Reject of %d octets, identifier %d", len(q.whole), q.id)
	}
	// An extended code rejected is no harm, a basic one is the end.
	o.in(ProtoLCP, pkt(codeRej, 5, pkt(identification, 1)...))
	if len(o.downs) > 0 || o.link.lcp.state != opened {
		t.Fatal("Code-Reject of Identification ended the link")
	}
	o.in(ProtoLCP, pkt(codeRej, 6, pkt(confReq, 1)...))
	o.wait(30_000)
	if len(o.downs) != 1 || o.downs[0].Code != ProtocolError {
		t.Errorf("down %v", o.downs)
	}
}

func TestOptionlessPeerCallsItQuits(t *testing.T) {
	o := newLone(t, noAuth())
	o.link.Open(0)
	o.wait(29_000)
	if n := o.sent[ProtoLCP]; n != 10 || len(o.downs) > 0 {
		t.Fatalf("%d Configure-Requests, down %v", n, o.downs)
	}
	o.wait(2_000)
	if len(o.downs) != 1 || o.downs[0].Code != NoAnswer {
		t.Errorf("down %v", o.downs)
	}
}

func TestPeerThatAcksAndNeverAsks(t *testing.T) {
	o := newLone(t, noAuth())
	o.link.Open(0)
	for range 100 {
		if len(o.downs) > 0 {
			break
		}
		if len(o.out) > 0 {
			o.ack(ProtoLCP)
		}
		o.wait(3_000)
	}
	if len(o.downs) != 1 || o.downs[0].Code != NotConverging {
		t.Errorf("down %v after %d packets", o.downs, o.sent[ProtoLCP])
	}
}

func TestPeerThatNeverAgrees(t *testing.T) {
	o := newLone(t, noAuth())
	o.link.Open(0)
	for i := range 100 {
		o.in(ProtoLCP, pkt(confReq, uint8(i), 200, 2))
	}
	o.wait(60_000)
	if len(o.downs) != 1 || o.downs[0].Code != NotConverging || o.sent[ProtoLCP] > 25 {
		t.Errorf("down %v after %d packets", o.downs, o.sent[ProtoLCP])
	}
}

func TestServerDoesNotAnswerChallenges(t *testing.T) {
	for _, allowed := range []bool{false, true} {
		cfg := serverConfig()
		cfg.User, cfg.Password, cfg.Auth, cfg.MPPE = "server", "other", []Method{MSCHAPv2, CHAPMD5}, Policy{}
		cfg.AnswerPeerChallenge = allowed
		o := newLone(t, cfg)
		o.link.Open(0)
		req := o.next(ProtoLCP, confReq)
		auth := []byte{3, 5, 0xC2, 0x23, 5}
		o.in(ProtoLCP, pkt(confReq, 1, auth...))
		if !allowed {
			if p := o.next(ProtoLCP, confRej); !bytes.Equal(p.data, auth) {
				t.Errorf("Reject %x", p.data)
			}
			o.in(ProtoLCP, pkt(confReq, 2))
		}
		o.next(ProtoLCP, confAck)
		o.in(ProtoLCP, pkt(confAck, req.id, req.data...))
		ours := o.next(ProtoCHAP, chapChallenge)
		// Its own challenge returned: the reflection attack.
		o.in(ProtoCHAP, pkt(chapChallenge, ours.id, ours.data...))
		if answered := len(o.out) > 0; answered != allowed {
			t.Errorf("AnswerPeerChallenge %v: answered %v", allowed, answered)
		}
	}
}

func TestCHAPResponseRepeated(t *testing.T) {
	cfg := serverConfig()
	o := newLone(t, cfg)
	o.openLCP()
	c := o.next(ProtoCHAP, chapChallenge)
	challenge, name, _ := parseValue(c.data)
	if string(name) != "xpptp" || len(challenge) != 16 {
		t.Errorf("challenge %x %q", challenge, name)
	}
	o.wait(3_000)
	if again := o.next(ProtoCHAP, chapChallenge); !bytes.Equal(again.whole, c.whole) {
		t.Errorf("repeated as %x", again.whole)
	}
	o.respond(c.id, challenge, `CORP\vpnuser`, "Secret-Pass1")
	first := o.next(ProtoCHAP, chapSuccess)
	if !strings.HasPrefix(string(first.data), "S=") || !strings.HasSuffix(string(first.data), " M=Access granted") {
		t.Errorf("Success %q", first.data)
	}
	o.next(ProtoCCP, confReq)
	o.respond(c.id, challenge, `CORP\vpnuser`, "Secret-Pass1")
	if p := o.next(ProtoCHAP, chapSuccess); !bytes.Equal(p.whole, first.whole) {
		t.Errorf("answered %q again as %q", first.data, p.data)
	}
	o.respond(c.id, challenge, "vpnuser", "wrong") // the same challenge: the same code
	o.next(ProtoCHAP, chapSuccess)
	o.respond(c.id+1, challenge, "vpnuser", "wrong")
	o.silent()
	if s := o.link.Snapshot(); s.Peer != `CORP\vpnuser` {
		t.Errorf("peer %q", s.Peer)
	}
}

func TestCHAPFailureAndRetry(t *testing.T) {
	cfg := serverConfig()
	cfg.AuthRetries = 1
	o := newLone(t, cfg)
	o.openLCP()
	c := o.next(ProtoCHAP, chapChallenge)
	challenge, _, _ := parseValue(c.data)
	o.respond(c.id, challenge, "vpnuser", "wrong")
	first := o.next(ProtoCHAP, chapFailure)
	f := parseFailure(string(first.data))
	if want := fmt.Sprintf("E=691 R=1 C=%X V=3 M=Access denied", f.challenge); string(first.data) != want || len(f.challenge) != 16 || bytes.Equal(f.challenge, challenge) {
		t.Fatalf("Failure %q", first.data)
	}
	o.respond(c.id, challenge, "vpnuser", "wrong") // repeated
	if p := o.next(ProtoCHAP, chapFailure); !bytes.Equal(p.whole, first.whole) {
		t.Errorf("repeated as %q", p.data)
	}
	o.wait(10_000) // "disables short timeouts"
	o.silent()
	o.respond(c.id+1, f.challenge, "vpnuser", "Secret-Pass1")
	if p := o.next(ProtoCHAP, chapSuccess); p.id != c.id+1 {
		t.Errorf("identifier %d", p.id)
	}

	o = newLone(t, cfg)
	o.openLCP()
	c = o.next(ProtoCHAP, chapChallenge)
	challenge, _, _ = parseValue(c.data)
	o.respond(c.id, challenge, "vpnuser", "wrong")
	f = parseFailure(string(o.next(ProtoCHAP, chapFailure).data))
	o.respond(c.id, f.challenge, "vpnuser", "wrong again")
	last := o.next(ProtoCHAP, chapFailure)
	if want := fmt.Sprintf("E=691 R=0 C=%X V=3 M=Access denied", f.challenge); string(last.data) != want {
		t.Errorf("Failure %q, want %q", last.data, want)
	}
	o.next(ProtoLCP, termReq)
	o.wait(10_000)
	if len(o.downs) != 1 || o.downs[0].Code != AuthFailed || o.downs[0].AuthError != 691 || o.downs[0].Text != "vpnuser" {
		t.Errorf("down %v", o.downs)
	}
}

func TestCHAPNonsense(t *testing.T) {
	for name, data := range map[string][]byte{
		"empty": {}, "short value": {16, 1, 2, 3}, "value of 16": append([]byte{16}, make([]byte, 20)...), "value of 48": append([]byte{48}, make([]byte, 60)...),
	} {
		o := newLone(t, serverConfig())
		o.openLCP()
		c := o.next(ProtoCHAP, chapChallenge)
		o.in(ProtoCHAP, pkt(chapResponse, c.id, data...))
		if p := o.next(ProtoCHAP, chapFailure); !strings.HasPrefix(string(p.data), "E=691 R=0 ") {
			t.Errorf("%s: %q", name, p.data)
		}
	}
}

func TestPasswordExpired(t *testing.T) {
	o := newLone(t, serverConfig())
	o.onAuth = func(r *AuthRequest) AuthResult { return r.Refuse(ErrPasswordExpired, "Password expired") }
	o.openLCP()
	c := o.next(ProtoCHAP, chapChallenge)
	challenge, _, _ := parseValue(c.data)
	o.respond(c.id, challenge, "vpnuser", "Secret-Pass1")
	p := o.next(ProtoCHAP, chapFailure)
	if !strings.HasPrefix(string(p.data), "E=648 R=0 C=") || !strings.HasSuffix(string(p.data), " V=3 M=Password expired") {
		t.Errorf("Failure %q", p.data)
	}
	o.in(ProtoCHAP, pkt(chapChange3, c.id+1, make([]byte, 582)...))
	o.wait(10_000)
	if len(o.downs) != 1 || o.downs[0].AuthError != 648 {
		t.Errorf("down %v", o.downs)
	}
	// Unasked for.
	o = newLone(t, serverConfig())
	o.openLCP()
	c = o.next(ProtoCHAP, chapChallenge)
	o.in(ProtoCHAP, pkt(chapChange3, c.id+1, make([]byte, 582)...))
	if p := o.next(ProtoCHAP, chapFailure); !strings.HasPrefix(string(p.data), "E=709 R=0 ") || p.id != c.id+1 {
		t.Errorf("Failure %q", p.data)
	}
	// As client: the code is reported, no Change-Password goes out.
	o = newLone(t, clientConfig())
	o.openLCP(3, 5, 0xC2, 0x23, 0x81)
	o.in(ProtoCHAP, pkt(chapChallenge, 5, append([]byte{16}, make([]byte, 16)...)...))
	o.next(ProtoCHAP, chapResponse)
	o.in(ProtoCHAP, text(chapFailure, 5, "E=648 R=0 C=00112233445566778899AABBCCDDEEFF V=3 M=expired"))
	o.next(ProtoLCP, termReq)
	o.wait(10_000)
	if len(o.downs) != 1 || o.downs[0].AuthError != 648 || o.downs[0].Text != "expired" || o.downs[0].Code != AuthFailed {
		t.Errorf("down %v", o.downs)
	}
}

func TestWrongAuthenticatorEndsTheCall(t *testing.T) {
	for _, message := range []string{"S=0000000000000000000000000000000000000000 M=welcome", "M=welcome", "", "S=00"} {
		o := newLone(t, clientConfig())
		o.openLCP(3, 5, 0xC2, 0x23, 0x81)
		o.in(ProtoCHAP, pkt(chapChallenge, 5, append([]byte{16}, make([]byte, 16)...)...))
		o.next(ProtoCHAP, chapResponse)
		o.in(ProtoCHAP, text(chapSuccess, 6, message)) // another identifier: ignored
		o.silent()
		o.in(ProtoCHAP, text(chapSuccess, 5, message))
		o.next(ProtoLCP, termReq)
		o.wait(10_000)
		if len(o.downs) != 1 || o.downs[0].Code != BadAuthenticator {
			t.Errorf("%q: down %v", message, o.downs)
		}
	}
}

func TestClientRepeatsItsResponse(t *testing.T) {
	o := newLone(t, clientConfig())
	o.openLCP(3, 5, 0xC2, 0x23, 0x81)
	challenge := pkt(chapChallenge, 5, append([]byte{16}, make([]byte, 16)...)...)
	o.in(ProtoCHAP, challenge)
	first := o.next(ProtoCHAP, chapResponse)
	o.in(ProtoCHAP, challenge)
	if p := o.next(ProtoCHAP, chapResponse); !bytes.Equal(p.whole, first.whole) {
		t.Error("another response to the same challenge")
	}
	o.wait(3_000)
	if p := o.next(ProtoCHAP, chapResponse); !bytes.Equal(p.whole, first.whole) {
		t.Error("repeated differently")
	}
	o.in(ProtoCHAP, pkt(chapChallenge, 6, append([]byte{16}, make([]byte, 16)...)...))
	if p := o.next(ProtoCHAP, chapResponse); p.id != 6 || bytes.Equal(p.data, first.data) {
		t.Error("a new challenge got the old response")
	}
	o.wait(40_000)
	if len(o.downs) != 1 || o.downs[0].Code != AuthTimeout {
		t.Errorf("down %v", o.downs)
	}
}

// MS-CHAPv1 without C= in the failure: the challenge counts on by 23 (RFC 2433
// section 8).
func TestClientRetryV1(t *testing.T) {
	cfg := clientConfig()
	cfg.AuthRetries = 2
	o := newLone(t, cfg)
	o.openLCP(3, 5, 0xC2, 0x23, 0x80)
	o.in(ProtoCHAP, pkt(chapChallenge, 5, 8, 250, 2, 3, 4, 5, 6, 7, 8))
	o.next(ProtoCHAP, chapResponse)
	o.in(ProtoCHAP, text(chapFailure, 5, "E=691 R=1 V=3"))
	p := o.next(ProtoCHAP, chapResponse)
	want := mschap.ChallengeResponse([8]byte{17, 2, 3, 4, 5, 6, 7, 8}, mschap.NTHash(cfg.Password))
	if p.id != 6 || !bytes.Equal(p.data[25:49], want[:]) {
		t.Errorf("retry %d %x", p.id, p.data)
	}
	o.in(ProtoCHAP, text(chapFailure, 6, "E=691 R=1 C=0102030405060708 V=3"))
	p = o.next(ProtoCHAP, chapResponse)
	want = mschap.ChallengeResponse([8]byte{1, 2, 3, 4, 5, 6, 7, 8}, mschap.NTHash(cfg.Password))
	if p.id != 7 || !bytes.Equal(p.data[25:49], want[:]) {
		t.Errorf("retry %d %x", p.id, p.data)
	}
	o.in(ProtoCHAP, text(chapFailure, 7, "E=691 R=1 C=0102030405060708 V=3"))
	o.next(ProtoLCP, termReq)
}

func TestPAP(t *testing.T) {
	cfg := serverConfig()
	cfg.Auth, cfg.MPPE = []Method{PAP}, Policy{}
	request := func(id uint8, user, password string) []byte {
		b := append([]byte{byte(len(user))}, user...)
		return pkt(papRequest, id, append(append(b, byte(len(password))), password...)...)
	}
	o := newLone(t, cfg)
	o.openLCP()
	o.in(ProtoPAP, request(3, "vpnuser", "Secret-Pass1"))
	if p := o.next(ProtoPAP, papAck); p.id != 3 || string(p.data) != "\x0eAccess granted" {
		t.Errorf("Ack %d %q", p.id, p.data)
	}
	o.in(ProtoPAP, request(4, "vpnuser", "Secret-Pass1"))
	if p := o.next(ProtoPAP, papAck); p.id != 4 {
		t.Errorf("Ack %d", p.id)
	}
	for name, b := range map[string][]byte{
		"wrong": request(3, "vpnuser", "secret-pass1"), "unknown": request(3, "root", ""), "nonsense": pkt(papRequest, 3, 9, 'a'), "empty": pkt(papRequest, 3),
	} {
		o = newLone(t, cfg)
		o.openLCP()
		o.in(ProtoPAP, b)
		o.next(ProtoPAP, papNak)
		o.next(ProtoLCP, termReq)
		o.wait(10_000)
		if len(o.downs) != 1 || o.downs[0].Code != AuthFailed {
			t.Errorf("%s: down %v", name, o.downs)
		}
	}
}

func TestStaleAuthResult(t *testing.T) {
	o := newLone(t, serverConfig())
	var asked []*AuthRequest
	o.onAuth = func(r *AuthRequest) AuthResult { asked = append(asked, r); return AuthResult{} }
	o.openLCP()
	c := o.next(ProtoCHAP, chapChallenge)
	challenge, _, _ := parseValue(c.data)
	o.respond(c.id, challenge, "vpnuser", "Secret-Pass1")
	o.respond(c.id, challenge, "vpnuser", "Secret-Pass1")
	if len(asked) != 1 {
		t.Fatalf("asked %d times", len(asked))
	}
	o.out = nil
	o.in(ProtoLCP, pkt(confReq, 10)) // the peer starts over
	o.ack(ProtoLCP)
	o.link.AuthResult(o.sim.now, asked[0].Verify(Secret{Password: "Secret-Pass1"}))
	for _, f := range o.out {
		if f.proto == ProtoCHAP && f.info[0] == chapSuccess {
			t.Error("an answer from before the renegotiation was taken")
		}
	}
	c = o.next(ProtoCHAP, chapChallenge)
	challenge2, _, _ := parseValue(c.data)
	if bytes.Equal(challenge, challenge2) {
		t.Error("the challenge came again")
	}
	o.link.AuthResult(o.sim.now, AuthResult{OK: true})
	if o.link.Phase() != PhaseAuthenticate {
		t.Error("an answer to no request was taken")
	}
}

func TestMSCHAPLMOnlyIsRefused(t *testing.T) {
	r := &AuthRequest{Method: MSCHAPv1, Challenge: make([]byte, 8), Response: make([]byte, 49)}
	lm := mschap.ChallengeResponse([8]byte{}, mschap.LMHash("pw"))
	copy(r.Response, lm[:])
	if r.Verify(Secret{Password: "pw"}).OK {
		t.Error("an LM response was accepted")
	}
	nt := mschap.ChallengeResponse([8]byte{}, mschap.NTHash("pw"))
	copy(r.Response[24:], nt[:])
	if r.Verify(Secret{Password: "pw"}).OK {
		t.Error("flag 0 was ignored")
	}
	r.Response[48] = 1
	if !r.Verify(Secret{Password: "pw"}).OK {
		t.Error("a good NT response was refused")
	}
}

// serverToCCP brings a server to the network phase.
func serverToCCP(t *testing.T, mppe Policy) *lone {
	t.Helper()
	cfg := serverConfig()
	cfg.MPPE = mppe
	o := newLone(t, cfg)
	o.openLCP()
	c := o.next(ProtoCHAP, chapChallenge)
	challenge, _, _ := parseValue(c.data)
	o.respond(c.id, challenge, "vpnuser", "Secret-Pass1")
	o.next(ProtoCHAP, chapSuccess)
	return o
}

var (
	require128 = Policy{Mode: Require, Bits: Bits128}
	prefer128  = Policy{Mode: Prefer, Bits: Bits128}
	option128  = []byte{18, 6, 1, 0, 0, 0x40}
)

func TestReceiveOpensBeforeTheRequest(t *testing.T) {
	o := serverToCCP(t, require128)
	receive, request := -1, -1
	for i, line := range o.log {
		switch {
		case strings.Contains(line, "OpenReceive") && receive < 0:
			receive = i
		case strings.Contains(line, "send 80fd 01") && request < 0:
			request = i
		}
	}
	if receive < 0 || request < receive {
		t.Errorf("OpenReceive at %d, request at %d", receive, request)
	}
	if o.transmit != nil {
		t.Error("sends encrypted before CCP is open")
	}
	o.in(ProtoCCP, pkt(confReq, 1, option128...))
	o.ack(ProtoCCP)
	if o.transmit == nil || o.transmit.Bits != 128 || !o.transmit.Required {
		t.Errorf("transmit %+v", o.transmit)
	}
}

func TestIPCPWaitsForCCP(t *testing.T) {
	o := serverToCCP(t, require128)
	ccp := o.next(ProtoCCP, confReq)
	o.in(ProtoIPCP, pkt(confReq, 1, 3, 6, 0, 0, 0, 0))
	o.in(ProtoIPCP, pkt(confReq, 2, 3, 6, 0, 0, 0, 0))
	o.in(ProtoIPv6CP, pkt(confReq, 1, 1, 10, 1, 2, 3, 4, 5, 6, 7, 8))
	o.silent() // no Terminate-Ack above all
	o.in(ProtoCCP, pkt(confReq, 1, option128...))
	o.in(ProtoCCP, pkt(confAck, ccp.id, ccp.data...))
	if p := o.next(ProtoIPCP, confNak); p.id != 2 || !bytes.Equal(p.data, []byte{3, 6, 192, 168, 77, 11}) {
		t.Errorf("Nak %d %x", p.id, p.data)
	}
	o.next(ProtoIPv6CP, confAck)

	// Encryption preferred: answered at once.
	o = serverToCCP(t, prefer128)
	o.next(ProtoCCP, confReq)
	o.next(ProtoIPCP, confReq)
	o.in(ProtoIPCP, pkt(confReq, 1, 3, 6, 0, 0, 0, 0))
	o.next(ProtoIPCP, confNak)
}

func TestCCPRequestBeforeSuccess(t *testing.T) {
	// Success was lost; the server is ahead.
	o := newLone(t, clientConfig())
	o.openLCP(3, 5, 0xC2, 0x23, 0x81)
	o.in(ProtoCHAP, pkt(chapChallenge, 5, append([]byte{16}, make([]byte, 16)...)...))
	o.next(ProtoCHAP, chapResponse)
	o.in(ProtoCCP, pkt(confReq, 1, option128...))
	o.silent()
	o.in(ProtoCHAP, text(chapSuccess, 5, mschap.FormatAuthenticator(o.link.peer.want)))
	o.ack(ProtoCCP)
	if p := o.next(ProtoCCP, confAck); p.id != 1 {
		t.Errorf("Ack %d", p.id)
	}
}

// clientToCCP brings a client to the network phase.
func clientToCCP(t *testing.T, mppe Policy) *lone {
	t.Helper()
	cfg := clientConfig()
	cfg.MPPE = mppe
	o := newLone(t, cfg)
	o.openLCP(3, 5, 0xC2, 0x23, 0x81)
	o.in(ProtoCHAP, pkt(chapChallenge, 5, append([]byte{16}, make([]byte, 16)...)...))
	o.in(ProtoCHAP, text(chapSuccess, 5, mschap.FormatAuthenticator(o.link.peer.want)))
	return o
}

func TestClientHoldsItsAck(t *testing.T) {
	o := clientToCCP(t, require128)
	req := o.next(ProtoCCP, confReq)
	o.in(ProtoCCP, pkt(confReq, 1, option128...))
	o.silent()
	o.in(ProtoCCP, pkt(confAck, req.id, req.data...))
	o.next(ProtoCCP, confAck)
	if o.transmit == nil || o.receive == nil {
		t.Error("not encrypted")
	}

	o = clientToCCP(t, require128) // a second at most
	o.next(ProtoCCP, confReq)
	o.in(ProtoCCP, pkt(confReq, 1, option128...))
	o.wait(999)
	o.silent()
	o.wait(1)
	o.next(ProtoCCP, confAck)

	o = clientToCCP(t, require128) // nor when the peer repeats
	o.next(ProtoCCP, confReq)
	o.in(ProtoCCP, pkt(confReq, 1, option128...))
	o.in(ProtoCCP, pkt(confReq, 2, option128...))
	if p := o.next(ProtoCCP, confAck); p.id != 2 {
		t.Errorf("Ack %d", p.id)
	}
	o.wait(1_500)
	o.silent()
}

func TestEncryptedDataRejected(t *testing.T) {
	o := clientToCCP(t, require128)
	rejected := pkt(protoRej, 1, 0x00, 0xFD, 0x90, 0, 1, 2, 3)
	for round := range maxRedo + 1 {
		o.in(ProtoCCP, pkt(confReq, uint8(10+round), option128...))
		o.ack(ProtoCCP)
		o.next(ProtoCCP, confAck)
		if o.transmit == nil {
			t.Fatalf("round %d: not encrypted", round)
		}
		o.out = nil
		o.in(ProtoLCP, rejected)
		o.in(ProtoLCP, rejected) // one for each packet under way
		if round < maxRedo && (o.transmit != nil || o.receive == nil) {
			t.Fatalf("round %d: receive %v transmit %v", round, o.receive, o.transmit)
		}
	}
	o.next(ProtoLCP, termReq)
	o.wait(10_000)
	if len(o.downs) != 1 || o.downs[0].Code != EncryptionLost {
		t.Errorf("down %v", o.downs)
	}
}

func TestGarbageProtocolRejects(t *testing.T) {
	o := clientToCCP(t, require128)
	o.in(ProtoCCP, pkt(confReq, 1, option128...))
	o.ack(ProtoCCP)
	o.out = nil
	for _, proto := range []uint16{ProtoIPCP, ProtoCCP, ProtoLCP, ProtoIPv6CP, ProtoIPv4} {
		o.in(ProtoLCP, pkt(protoRej, 1, byte(proto>>8), byte(proto), 0x9F, 0x3F, 0xAA, 0x66, 1))
	}
	if len(o.downs) > 0 || o.transmit == nil || o.link.Phase() != PhaseNetwork {
		t.Errorf("garbage ended something: %v", o.downs)
	}
	o.in(ProtoLCP, pkt(protoRej, 2, append([]byte{0x80, 0x57}, pkt(confReq, 1, 1, 10, 1, 2, 3, 4, 5, 6, 7, 8)...)...))
	if o.link.ipv6cp.state != stopped {
		t.Errorf("IPV6CP %s", o.link.ipv6cp.state)
	}
}

func TestCCPRefusals(t *testing.T) {
	zero := []byte{18, 6, 1, 0, 0, 0}
	for _, c := range []struct {
		name string
		play func(o *lone)
	}{
		{"Protocol-Reject", func(o *lone) {
			p := o.next(ProtoCCP, confReq)
			o.in(ProtoLCP, pkt(protoRej, 1, append([]byte{0x80, 0xFD}, p.whole...)...))
		}},
		{"Configure-Reject", func(o *lone) {
			p := o.next(ProtoCCP, confReq)
			o.in(ProtoCCP, pkt(confRej, p.id, p.data...))
		}},
		{"Configure-Nak with no bits", func(o *lone) {
			p := o.next(ProtoCCP, confReq)
			o.in(ProtoCCP, pkt(confNak, p.id, zero...))
		}},
		{"Terminate-Request", func(o *lone) { o.in(ProtoCCP, pkt(termReq, 1)) }},
		{"Terminate-Request when open", func(o *lone) {
			o.in(ProtoCCP, pkt(confReq, 1, option128...))
			o.ack(ProtoCCP)
			o.in(ProtoCCP, pkt(termReq, 1))
		}},
		{"silence", func(o *lone) { o.wait(31_000) }},
		{"no bits for ever", func(o *lone) {
			p := o.next(ProtoCCP, confReq)
			o.in(ProtoCCP, pkt(confAck, p.id, p.data...))
			for i := range uint8(60) {
				o.in(ProtoCCP, pkt(confReq, i, zero...))
				o.wait(500)
			}
		}},
		{"other compression for ever", func(o *lone) {
			for i := range uint8(60) {
				o.in(ProtoCCP, pkt(confReq, i, 26, 4, 0x78, 0))
				o.wait(500)
			}
		}},
	} {
		for _, policy := range []Policy{require128, prefer128, {Mode: Prefer, Bits: Bits128, IPCPWaitsForCCP: true}} {
			o := serverToCCP(t, policy)
			c.play(o)
			if policy.Mode == Require {
				o.wait(10_000)
				if len(o.downs) != 1 || o.downs[0].Code != EncryptionRefused {
					t.Errorf("%s: down %v", c.name, o.downs)
				}
				continue
			}
			if o.sent[ProtoIPCP] == 0 || o.transmit != nil || o.receive != nil || len(o.downs) > 0 {
				t.Errorf("%s: not going on in plain: %v, transmit %v, receive %v", c.name, o.downs, o.transmit, o.receive)
			}
		}
	}
}

func TestMPPEOptionAnswers(t *testing.T) {
	all := Bits40 | Bits56 | Bits128
	for _, c := range []struct {
		policy Policy
		ask    uint32
		nak    uint32 // 0: acknowledged
	}{
		{require128, 0x01000040, 0},
		{require128, 0x010000E0, 0x01000040},
		{require128, 0x010000E1, 0x01000040}, // Windows: everything and MPPC
		{require128, 0x01000041, 0x01000040},
		{require128, 0x01000000, 0x01000040},
		{require128, 0x00000000, 0x01000040},
		{require128, 0x00000040, 0x01000040},
		{require128, 0x01000010, 0x01000040}, // D is obsolete
		{require128, 0x81000040, 0x01000040},
		{require128, 0x01000020, 0x01000040},
		{Policy{Mode: Require, Bits: all}, 0x010000E0, 0x01000040},
		{Policy{Mode: Require, Bits: all}, 0x010000A0, 0x01000080},
		{Policy{Mode: Require, Bits: all}, 0x01000020, 0},
		{Policy{Mode: Require, Bits: all, Stateful: StatefulAllowed}, 0x00000040, 0},
		{Policy{Mode: Require, Bits: all, Stateful: StatefulAllowed}, 0x01000040, 0},
		{Policy{Mode: Require, Bits: all, Stateful: StatefulPreferred}, 0x01000040, 0x00000040},
		{Policy{Mode: Allow, Bits: all}, 0x01000080, 0},
	} {
		o := serverToCCP(t, c.policy)
		o.in(ProtoCCP, pkt(confReq, 1, appendOption32(nil, ccpMPPE, c.ask)...))
		if c.nak == 0 {
			o.next(ProtoCCP, confAck)
			continue
		}
		if p := o.next(ProtoCCP, confNak); len(p.data) != 6 || be32(p.data[2:]) != c.nak {
			t.Errorf("%+v: %08x answered %x, want %08x", c.policy, c.ask, p.data, c.nak)
		}
	}
}

// An Ack for several key lengths leaves the choice open.
func TestAckForAChoice(t *testing.T) {
	o := serverToCCP(t, Policy{Mode: Require, Bits: Bits40 | Bits128})
	if o.receive != nil {
		t.Fatal("the receive side is open for a choice")
	}
	o.ack(ProtoCCP)
	if p := o.next(ProtoCCP, confReq); !bytes.Equal(p.data, option128) || o.receive == nil || o.receive.Bits != 128 {
		t.Errorf("asks %x, receive %+v", p.data, o.receive)
	}
}

func TestReset(t *testing.T) {
	o := serverToCCP(t, Policy{Mode: Require, Bits: Bits128, Stateful: StatefulPreferred})
	o.link.RequestReset(0)
	o.in(ProtoCCP, pkt(resetReq, 1))
	o.in(ProtoCCP, pkt(confReq, 1, 18, 6, 0, 0, 0, 0x40))
	if o.resets != 0 {
		t.Error("reset while CCP is not open")
	}
	o.ack(ProtoCCP)
	o.out = nil
	o.in(ProtoCCP, pkt(resetReq, 42))
	if p := o.next(ProtoCCP, resetAck); p.id != 42 || o.resets != 1 {
		t.Errorf("Reset-Ack %d, %d resets", p.id, o.resets)
	}
	o.link.RequestReset(0)
	first := o.next(ProtoCCP, resetReq)
	o.link.RequestReset(0)
	if again := o.next(ProtoCCP, resetReq); again.id != first.id {
		t.Error("a repeated Reset-Request has a new identifier")
	}
	o.in(ProtoCCP, pkt(resetAck, first.id+1))
	if o.resetAcks != 0 {
		t.Error("a foreign Reset-Ack was taken")
	}
	o.in(ProtoCCP, pkt(resetAck, first.id))
	o.in(ProtoCCP, pkt(resetAck, first.id))
	if o.resetAcks != 1 {
		t.Errorf("%d Reset-Acks", o.resetAcks)
	}
	o.link.RequestReset(0)
	if p := o.next(ProtoCCP, resetReq); p.id == first.id {
		t.Error("a new Reset-Request has the old identifier")
	}
}

func TestIPCPServer(t *testing.T) {
	cfg := noAuth()
	cfg.DNS[1] = netip.MustParseAddr("8.8.8.8")
	cfg.NBNS[0] = netip.MustParseAddr("10.0.0.5")
	o := newLone(t, cfg)
	o.openLCP()
	// Everything that Windows asks, with VJ.
	vj, nbns2 := []byte{2, 6, 0, 0x2D, 15, 1}, []byte{132, 6, 0, 0, 0, 0}
	zero := func(kind byte) []byte { return []byte{kind, 6, 0, 0, 0, 0} }
	o.in(ProtoIPCP, pkt(confReq, 1, bytes.Join([][]byte{vj, zero(3), zero(129), zero(130), zero(131), nbns2}, nil)...))
	if p := o.next(ProtoIPCP, confRej); !bytes.Equal(p.data, append(bytes.Clone(vj), nbns2...)) {
		t.Errorf("Reject %x", p.data)
	}
	o.in(ProtoIPCP, pkt(confReq, 2, bytes.Join([][]byte{zero(3), zero(129), zero(130), zero(131)}, nil)...))
	want := []byte{3, 6, 192, 168, 77, 11, 129, 6, 9, 9, 9, 9, 130, 6, 10, 0, 0, 5, 131, 6, 8, 8, 8, 8}
	if p := o.next(ProtoIPCP, confNak); !bytes.Equal(p.data, want) {
		t.Errorf("Nak %x", p.data)
	}
	o.in(ProtoIPCP, pkt(confReq, 3, want...))
	o.next(ProtoIPCP, confAck)
	// A client that asks for nothing is told its address.
	o = newLone(t, cfg)
	o.openLCP()
	for i := range uint8(5) {
		o.in(ProtoIPCP, pkt(confReq, i))
		o.next(ProtoIPCP, confNak)
	}
	o.in(ProtoIPCP, pkt(confReq, 9)) // it does not listen: so be it
	o.next(ProtoIPCP, confAck)
	// A client that insists on another address gets none.
	o = newLone(t, cfg)
	o.openLCP()
	for i := range uint8(5) {
		o.in(ProtoIPCP, pkt(confReq, i, 3, 6, 1, 2, 3, 4))
		o.next(ProtoIPCP, confNak)
	}
	o.in(ProtoIPCP, pkt(confReq, 9, 3, 6, 1, 2, 3, 4))
	o.next(ProtoIPCP, confRej)
}

func TestPerUserValues(t *testing.T) {
	cfg := serverConfig()
	o := newLone(t, cfg)
	o.onAuth = func(r *AuthRequest) AuthResult {
		res := r.Verify(Secret{Password: "Secret-Pass1"})
		res.PeerIP = netip.MustParseAddr("10.1.1.1")
		res.DNS[0] = netip.MustParseAddr("10.1.1.53")
		res.PeerInterfaceID = 0x42
		res.MPPE = &Policy{Mode: Deny}
		return res
	}
	o.openLCP()
	c := o.next(ProtoCHAP, chapChallenge)
	challenge, _, _ := parseValue(c.data)
	o.respond(c.id, challenge, "vpnuser", "Secret-Pass1")
	o.next(ProtoIPCP, confReq) // no CCP in the way
	o.in(ProtoIPCP, pkt(confReq, 1, 3, 6, 0, 0, 0, 0, 129, 6, 0, 0, 0, 0))
	if p := o.next(ProtoIPCP, confNak); !bytes.Equal(p.data, []byte{3, 6, 10, 1, 1, 1, 129, 6, 10, 1, 1, 53}) {
		t.Errorf("Nak %x", p.data)
	}
	o.in(ProtoIPv6CP, pkt(confReq, 1, 1, 10, 1, 1, 1, 1, 1, 1, 1, 1))
	if p := o.next(ProtoIPv6CP, confNak); !bytes.Equal(p.data, []byte{1, 10, 0, 0, 0, 0, 0, 0, 0, 0x42}) {
		t.Errorf("Nak %x", p.data)
	}
	o.in(ProtoCCP, pkt(confReq, 1, option128...))
	o.next(ProtoLCP, protoRej)
}

func TestIPCPClient(t *testing.T) {
	cfg := clientConfig()
	cfg.MPPE, cfg.AskNBNS, cfg.IPv6 = Policy{}, true, false
	o := newLone(t, cfg)
	o.openLCP()
	p := o.next(ProtoIPCP, confReq)
	want := []byte{3, 6, 0, 0, 0, 0, 129, 6, 0, 0, 0, 0, 130, 6, 0, 0, 0, 0, 131, 6, 0, 0, 0, 0, 132, 6, 0, 0, 0, 0}
	if !bytes.Equal(p.data, want) {
		t.Fatalf("asks %x", p.data)
	}
	o.in(ProtoIPCP, pkt(confRej, p.id, 130, 6, 0, 0, 0, 0, 131, 6, 0, 0, 0, 0, 132, 6, 0, 0, 0, 0))
	p = o.next(ProtoIPCP, confReq)
	if !bytes.Equal(p.data, want[:12]) {
		t.Fatalf("asks %x", p.data)
	}
	o.in(ProtoIPCP, pkt(confNak, p.id, 3, 6, 10, 0, 0, 9, 129, 6, 10, 0, 0, 53, 131, 6, 1, 1, 1, 1))
	o.ack(ProtoIPCP)
	o.in(ProtoIPCP, pkt(confReq, 1, 3, 6, 10, 0, 0, 1))
	n := o.up[IPv4]
	if n.Local.String() != "10.0.0.9" || n.Peer.String() != "10.0.0.1" || n.DNS[0].String() != "10.0.0.53" || n.DNS[1].IsValid() {
		t.Errorf("up %+v", n)
	}
	// IPV6CP is not ours; the peer hears so.
	o.in(ProtoIPv6CP, pkt(confReq, 1))
	o.next(ProtoLCP, protoRej)
	// The peer closes IPCP: no network is left.
	o.in(ProtoIPCP, pkt(termReq, 2))
	o.next(ProtoIPCP, termAck)
	o.wait(10_000)
	if len(o.downs) != 1 || o.downs[0].Code != NoNetwork || len(o.violations) > 0 {
		t.Errorf("down %v %v", o.downs, o.violations)
	}
	// No address: no IPv4, and nothing else either.
	o = newLone(t, cfg)
	o.openLCP()
	p = o.next(ProtoIPCP, confReq)
	o.in(ProtoIPCP, pkt(confRej, p.id, p.data...))
	o.ack(ProtoIPCP)
	o.in(ProtoIPCP, pkt(confReq, 1, 3, 6, 10, 0, 0, 1))
	o.wait(10_000)
	if len(o.downs) != 1 || o.downs[0].Code != NoNetwork {
		t.Errorf("down %v", o.downs)
	}
	// A configured address is insisted on, not for ever.
	cfg.LocalIP = clientIP
	o = newLone(t, cfg)
	o.openLCP()
	for range 50 {
		if len(o.out) == 0 {
			break
		}
		p := o.next(ProtoIPCP, confReq)
		o.in(ProtoIPCP, pkt(confNak, p.id, 3, 6, 10, 0, 0, 9))
	}
	o.wait(30_000)
	if len(o.downs) != 1 || o.downs[0].Code != NoNetwork {
		t.Errorf("down %v", o.downs)
	}
}

func TestIPv6CP(t *testing.T) {
	cfg := noAuth()
	cfg.InterfaceID = 0x0102030405060708
	o := newLone(t, cfg)
	o.takenIDs = map[uint64]bool{0x99: true}
	o.openLCP()
	own := []byte{1, 10, 1, 2, 3, 4, 5, 6, 7, 8}
	for i, opt := range [][]byte{{1, 10, 0, 0, 0, 0, 0, 0, 0, 0}, own, {1, 10, 0, 0, 0, 0, 0, 0, 0, 0x99}, nil} {
		o.in(ProtoIPv6CP, pkt(confReq, uint8(i), opt...))
		p := o.next(ProtoIPv6CP, confNak)
		if len(p.data) != 10 || bytes.Equal(p.data, own) || option(p.data).u64() == 0 || p.data[2]&2 != 0 {
			t.Errorf("%x answered %x", opt, p.data)
		}
	}
	o.in(ProtoIPv6CP, pkt(confReq, 8, 1, 10, 0, 0, 0, 0, 0, 0, 0, 0x98, 2, 4, 0, 0x4F))
	if p := o.next(ProtoIPv6CP, confRej); !bytes.Equal(p.data, []byte{2, 4, 0, 0x4F}) {
		t.Errorf("Reject %x", p.data)
	}
	o.in(ProtoIPv6CP, pkt(confReq, 9, 1, 10, 0, 0, 0, 0, 0, 0, 0, 0x98))
	o.next(ProtoIPv6CP, confAck)
	p := o.link.ipv6cp.id
	o.in(ProtoIPv6CP, pkt(confNak, p, 1, 10, 0, 0, 0, 0, 0, 0, 0, 0x77))
	q := o.ack(ProtoIPv6CP)
	if !bytes.Equal(q.data, []byte{1, 10, 0, 0, 0, 0, 0, 0, 0, 0x77}) {
		t.Errorf("asks %x", q.data)
	}
	if n := o.up[IPv6]; n.Local.String() != "fe80::77" || n.Peer.String() != "fe80::98" {
		t.Errorf("up %+v", n)
	}
	// The suggestion that we made comes back: draw again.
	o = newLone(t, cfg)
	o.openLCP()
	o.in(ProtoIPv6CP, pkt(confReq, 1, own...))
	nak := o.next(ProtoIPv6CP, confNak)
	o.in(ProtoIPv6CP, pkt(confNak, o.link.ipv6cp.id, nak.data...))
	if p := o.next(ProtoIPv6CP, confReq); bytes.Equal(p.data, nak.data) || bytes.Equal(p.data, own) {
		t.Errorf("asks %x", p.data)
	}
}

// A peer that renegotiates LCP in the middle of a call.
func TestRenegotiation(t *testing.T) {
	s := newSim(t, 3, serverConfig(), clientConfig())
	s.open()
	s.run(ms(2_000))
	checkUp(t, s)
	first := *s.a.transmit
	// The client starts over with a fresh Link, as after a restart of pppd.
	cfg := clientConfig()
	old := s.b
	s.b = &end{t: t, name: "client", sim: s, up: map[Family]NetParams{}, sent: map[uint16]int{}, peer: s.a}
	s.b.link = NewLink(&cfg, s.b, old.link.rand)
	s.a.peer = s.b
	s.b.link.Open(s.now)
	s.run(s.now + ms(20_000))
	if len(s.a.lcp) != 2 {
		s.dump(t)
		t.Fatalf("the server's LCP came up %d times", len(s.a.lcp))
	}
	checkUp(t, s)
	if s.a.transmit.StartKey == first.StartKey {
		t.Error("the old keys are in use")
	}
	// And CCP alone.
	s.b.link.event(layerCCP, evDown, nil)
	s.b.link.event(layerCCP, evUp, nil)
	s.run(s.now + ms(20_000))
	checkUp(t, s)
	if len(s.a.lcp) != 2 {
		t.Error("CCP's renegotiation took LCP along")
	}
}

func TestCloseBeforeOpenAndTwice(t *testing.T) {
	o := newLone(t, noAuth())
	o.link.Close(5, Reason{Code: AdminReset})
	o.link.Close(6, Reason{Code: UserRequest})
	o.link.Open(7)
	o.link.Input(8, ProtoLCP, pkt(confReq, 1))
	o.link.Tick(9)
	o.link.UnknownProtocol(10, 0x1234, nil)
	o.link.RequestReset(11)
	if len(o.downs) != 1 || o.downs[0].Code != AdminReset || len(o.out) > 0 || o.link.Deadline() != never {
		t.Errorf("down %v, sent %v", o.downs, o.out)
	}
	o = newLone(t, noAuth())
	o.openLCP()
	o.link.Abort(1, Reason{Code: LowerDown, Text: "TCP closed"})
	o.link.Abort(1, Reason{Code: LowerDown})
	o.link.Close(1, Reason{Code: UserRequest})
	if len(o.downs) != 1 || o.downs[0].String() != "lower-down: TCP closed" || len(o.violations) > 0 {
		t.Errorf("down %v %v", o.downs, o.violations)
	}
}

func TestPeerTerminates(t *testing.T) {
	o := newLone(t, noAuth())
	o.openLCP()
	o.out = nil
	o.in(ProtoLCP, text(termReq, 7, "User request\n"))
	if p := o.next(ProtoLCP, termAck); p.id != 7 {
		t.Errorf("Terminate-Ack %d", p.id)
	}
	o.in(ProtoLCP, text(termReq, 8, "again"))
	o.next(ProtoLCP, termAck)
	o.in(ProtoIPCP, pkt(confReq, 1))
	o.wait(2_999)
	o.silent()
	o.wait(1)
	if len(o.downs) != 1 || o.downs[0].String() != "peer-terminated: User request?" {
		t.Errorf("down %v", o.downs)
	}
}

func TestNames(t *testing.T) {
	for m := NoAuth; m < numMethods; m++ {
		if back, ok := ParseMethod(m.String()); !ok || back != m {
			t.Errorf("method %d", m)
		}
	}
	for c := Unknown; c < numReasons; c++ {
		if c.String() == "" || c.String() == "reason(?)" {
			t.Errorf("reason %d has no name", c)
		}
	}
	if s := (Reason{Code: AuthFailed, AuthError: 691, Text: "x"}).String(); s != "auth-failed (error 691): x" {
		t.Error(s)
	}
}

// opens counts how often the receive side was opened.
func (o *lone) opens() (n int) {
	for _, line := range o.log {
		if strings.Contains(line, "OpenReceive") {
			n++
		}
	}
	return n
}

// A peer that had our Ack may be open and sending. When it asks anew it starts
// over with the first key, and so must our receive side, before the Ack.
func TestReceiveReopensForAPeerThatStartsOver(t *testing.T) {
	o := serverToCCP(t, require128)
	o.in(ProtoCCP, pkt(confReq, 1, option128...))
	o.next(ProtoCCP, confAck)
	if o.opens() != 1 {
		t.Fatalf("opened %d times", o.opens())
	}
	for i, id := range []uint8{1, 2} { // the same once more, another one
		o.in(ProtoCCP, pkt(confReq, id, option128...))
		o.next(ProtoCCP, confAck)
		if o.opens() != i+2 {
			t.Fatalf("opened %d times", o.opens())
		}
		if last := o.log[len(o.log)-2]; !strings.Contains(last, "OpenReceive") {
			t.Errorf("before the Ack comes %q", last)
		}
	}
	o.in(ProtoCCP, pkt(confAck, o.link.ccp.id, option128...))
	if o.transmit == nil || o.opens() != 3 {
		t.Errorf("transmit %v, opened %d times", o.transmit, o.opens())
	}
}

func TestRepeatedRequestWhileOpen(t *testing.T) {
	o := serverToCCP(t, require128)
	o.in(ProtoCCP, pkt(confReq, 1, option128...))
	o.ack(ProtoCCP)
	o.out = nil
	for range 2 {
		o.in(ProtoCCP, pkt(confReq, 1, option128...))
		o.next(ProtoCCP, confAck)
		if o.link.ccp.state != opened || o.transmit == nil {
			t.Fatal("a repeated request tore CCP down")
		}
	}
	// A third time it is meant.
	o.in(ProtoCCP, pkt(confReq, 1, option128...))
	o.next(ProtoCCP, confReq)
	o.next(ProtoCCP, confAck)
	if o.link.ccp.state != ackSent || o.transmit != nil || o.opens() != 2 {
		t.Errorf("CCP %s, transmit %v, opened %d times", o.link.ccp.state, o.transmit, o.opens())
	}
}

func TestRepeatedRequestGetsTheSameRefusal(t *testing.T) {
	o := serverToCCP(t, Policy{Mode: Require, Bits: Bits128, Stateful: StatefulPreferred})
	for range 3 {
		o.in(ProtoCCP, pkt(confReq, 1, option128...))
		if p := o.next(ProtoCCP, confNak); p.data[2] != 0 {
			t.Fatalf("Nak %x", p.data)
		}
	}
	o.in(ProtoCCP, pkt(confReq, 2, option128...)) // it insists
	o.next(ProtoCCP, confAck)
	// Methods: each new refusal names the next one, a repetition the same.
	cfg := clientConfig()
	cfg.Auth = []Method{MSCHAPv2, PAP}
	o = newLone(t, cfg)
	o.link.Open(0)
	for i, want := range [][]byte{{3, 5, 0xC2, 0x23, 0x81}, {3, 5, 0xC2, 0x23, 0x81}, {3, 4, 0xC0, 0x23}, {3, 5, 0xC2, 0x23, 0x81}} {
		id := []uint8{1, 1, 2, 3}[i]
		o.in(ProtoLCP, pkt(confReq, id, 3, 4, 0xC2, 0x27)) // EAP
		if p := o.next(ProtoLCP, confNak); !bytes.Equal(p.data, want) {
			t.Errorf("Nak %x, want %x", p.data, want)
		}
	}
	// With a hash alone there is no PAP.
	hash := mschap.NTHash("x")
	cfg.Auth, cfg.Password, cfg.NTHash = []Method{PAP, CHAPMD5}, "", &hash
	o = newLone(t, cfg)
	o.link.Open(0)
	o.in(ProtoLCP, pkt(confReq, 1, 3, 4, 0xC0, 0x23))
	o.next(ProtoLCP, confRej)
}

func TestClientHoldsItsAckWhenItListens(t *testing.T) {
	o := clientToCCP(t, Policy{Mode: Allow, Bits: Bits128})
	for _, f := range o.out {
		if f.proto == ProtoCCP {
			t.Fatal("Allow asks first")
		}
	}
	for round := range uint8(3) { // again when CCP is open
		o.out = nil
		o.in(ProtoCCP, pkt(confReq, 10+round, option128...))
		req := o.next(ProtoCCP, confReq)
		for _, f := range o.out {
			if f.proto == ProtoCCP {
				t.Fatal("the Ack was not held back")
			}
		}
		o.in(ProtoCCP, pkt(confAck, req.id, req.data...))
		if p := o.next(ProtoCCP, confAck); p.id != 10+round {
			t.Errorf("Ack %d", p.id)
		}
		if o.transmit == nil || o.opens() != int(round)+1 {
			t.Errorf("round %d: transmit %v, opened %d times", round, o.transmit, o.opens())
		}
	}
}

func TestServerListensWithAllow(t *testing.T) {
	o := serverToCCP(t, Policy{Mode: Allow, Bits: Bits128})
	o.next(ProtoIPCP, confReq)
	o.in(ProtoCCP, pkt(confReq, 1, append([]byte{26, 4, 0x78, 0}, option128...)...))
	o.next(ProtoCCP, confReq)
	if p := o.next(ProtoCCP, confRej); !bytes.Equal(p.data, []byte{26, 4, 0x78, 0}) {
		t.Errorf("Reject %x", p.data)
	}
	o.in(ProtoCCP, pkt(confReq, 2, option128...))
	o.next(ProtoCCP, confAck)
	o.in(ProtoCCP, pkt(confAck, o.link.ccp.id, option128...))
	if o.transmit == nil || o.receive == nil {
		t.Error("not encrypted")
	}
	if s := o.link.Snapshot(); s.SendBits != 128 || s.RecvBits != 128 || s.SendStateful {
		t.Errorf("snapshot %+v", s)
	}
}

func TestLCPNaks(t *testing.T) {
	cfg := serverConfig()
	cfg.Auth = []Method{MSCHAPv2, CHAPMD5, PAP}
	o := newLone(t, cfg)
	o.link.Open(0)
	p := o.next(ProtoLCP, confReq)
	// A smaller MRU, more in the ACCM, MD5 instead, another magic number; and an
	// option that we did not ask for.
	o.in(ProtoLCP, pkt(confNak, p.id, 1, 4, 2, 0, 2, 6, 0, 0, 0, 1, 3, 5, 0xC2, 0x23, 5, 5, 6, 9, 9, 9, 9, 7, 2, 8, 2, 13, 3, 6))
	q := o.next(ProtoLCP, confReq)
	if !bytes.HasPrefix(q.data, []byte{1, 4, 2, 0, 2, 6, 0, 0, 0, 1, 3, 5, 0xC2, 0x23, 5, 5, 6}) || len(q.data) != 21 || bytes.Equal(q.data[17:], p.data[17:21]) {
		t.Errorf("asks %x", q.data)
	}
	// A method that is not allowed: the next one of ours. A larger MRU: no.
	o.in(ProtoLCP, pkt(confNak, q.id, 1, 4, 4, 0, 3, 5, 0xC2, 0x23, 0x80))
	q = o.next(ProtoLCP, confReq)
	if !bytes.HasPrefix(q.data, []byte{1, 4, 2, 0, 2, 6, 0, 0, 0, 1, 3, 4, 0xC0, 0x23}) {
		t.Errorf("asks %x", q.data)
	}
	o.in(ProtoLCP, pkt(confRej, q.id, 3, 4, 0xC0, 0x23))
	o.next(ProtoLCP, termReq)
	o.wait(10_000)
	if len(o.downs) != 1 || o.downs[0].Code != AuthRefused {
		t.Errorf("down %v", o.downs)
	}
}

func TestNetworksRefused(t *testing.T) {
	// IPV6CP alone is enough.
	o := newLone(t, noAuth())
	o.openLCP()
	p := o.next(ProtoIPCP, confReq)
	o.in(ProtoLCP, pkt(protoRej, 1, append([]byte{0x80, 0x21}, p.whole...)...))
	o.ack(ProtoIPv6CP)
	o.in(ProtoIPv6CP, pkt(confReq, 1, 1, 10, 1, 2, 3, 4, 5, 6, 7, 8))
	if _, up := o.up[IPv6]; !up || len(o.downs) > 0 {
		t.Fatalf("IPv6 is not up: %v", o.downs)
	}
	if s := o.link.Snapshot(); s.IPv6.PeerID != 0x0102030405060708 || s.IPv4.Family != 0 || s.Phase != PhaseNetwork {
		t.Errorf("snapshot %+v", s)
	}
	o.in(ProtoIPv6CP, pkt(termReq, 2))
	o.wait(10_000)
	if len(o.downs) != 1 || o.downs[0].Code != NoNetwork || len(o.violations) > 0 {
		t.Errorf("down %v %v", o.downs, o.violations)
	}
	// No identifier of our own: no IPv6.
	o = newLone(t, noAuth())
	o.openLCP()
	p = o.next(ProtoIPv6CP, confReq)
	o.in(ProtoIPv6CP, pkt(confRej, p.id, p.data...))
	if p = o.next(ProtoIPv6CP, confReq); len(p.data) != 0 {
		t.Errorf("asks %x", p.data)
	}
	o.in(ProtoIPv6CP, pkt(confAck, p.id))
	o.in(ProtoIPv6CP, pkt(confReq, 1, 1, 10, 1, 2, 3, 4, 5, 6, 7, 8))
	if _, up := o.up[IPv6]; up {
		t.Error("IPv6 is up without an identifier")
	}
	// LCP or the authentication protocol rejected: no link.
	for _, c := range []struct {
		proto uint16
		want  ReasonCode
	}{{ProtoLCP, ProtocolError}, {ProtoCHAP, ProtocolError}} {
		o = newLone(t, serverConfig())
		o.openLCP()
		o.in(ProtoLCP, pkt(protoRej, 1, append([]byte{byte(c.proto >> 8), byte(c.proto)}, pkt(1, 1)...)...))
		o.wait(10_000)
		if len(o.downs) != 1 || o.downs[0].Code != c.want {
			t.Errorf("%04x: down %v", c.proto, o.downs)
		}
	}
}

func TestIdentification(t *testing.T) {
	cfg := noAuth()
	cfg.Identification = "xpptp 1.0"
	o := newLone(t, cfg)
	o.openLCP()
	p := o.next(ProtoLCP, identification)
	if be32(p.data) != o.lcp[0].Magic || string(p.data[4:]) != "xpptp 1.0" {
		t.Errorf("Identification %x", p.data)
	}
}

func TestDoesNotPanicOnZeroRandom(t *testing.T) {
	cfg := noAuth()
	host := newLone(t, cfg)
	l := NewLink(&cfg, host.end, func(b []byte) { clear(b) })
	host.link = l
	host.openLCP()
	host.in(ProtoIPv6CP, pkt(confReq, 1, 1, 10, 0, 0, 0, 0, 0, 0, 0, 1))
	if p := host.next(ProtoIPv6CP, confNak); !bytes.Equal(p.data, []byte{1, 10, 0, 0, 0, 0, 0, 0, 0, 2}) {
		t.Errorf("Nak %x", p.data)
	}
}

func TestServerWithoutAUsableMethod(t *testing.T) {
	cfg := serverConfig()
	cfg.Auth = []Method{EAP, NoAuth}
	o := newLone(t, cfg)
	o.link.Open(0)
	if len(o.downs) != 1 || o.downs[0].Code != AuthRefused {
		t.Errorf("down %v", o.downs)
	}
	cfg.Auth = []Method{EAP, PAP}
	o = newLone(t, cfg)
	o.link.Open(0)
	if p := o.next(ProtoLCP, confReq); !bytes.Contains(p.data, []byte{3, 4, 0xC0, 0x23}) {
		t.Errorf("asks %x", p.data)
	}
}

// An NCP that gives up after its Configure-Ack tells the peer, which may be open.
func TestGivingUpIsSaid(t *testing.T) {
	o := newLone(t, noAuth())
	o.openLCP()
	o.ack(ProtoIPCP)
	o.in(ProtoIPCP, pkt(confReq, 1, 3, 6, 192, 168, 77, 11))
	o.in(ProtoIPv6CP, pkt(confReq, 1, 1, 10, 1, 2, 3, 4, 5, 6, 7, 8))
	o.next(ProtoIPv6CP, confAck)
	o.wait(30_000)
	p := o.next(ProtoIPv6CP, termReq)
	o.in(ProtoIPv6CP, pkt(termAck, p.id))
	if o.link.ipv6cp.state != closed || len(o.downs) > 0 || len(o.up) != 1 {
		t.Errorf("IPV6CP %s, down %v, up %v", o.link.ipv6cp.state, o.downs, o.up)
	}
}
