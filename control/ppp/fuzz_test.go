package ppp

import (
	"bytes"
	"testing"
)

func FuzzOptions(f *testing.F) {
	for _, s := range [][]byte{nil, {1, 4, 5, 0x78}, {7, 2, 8, 2}, {3, 5, 0xC2, 0x23, 0x81}, {1, 1}, {5}, {18, 6, 1, 0, 0, 0x40, 2}} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var back []byte
		rest := b
		for {
			o, next, ok := nextOption(rest)
			if !ok {
				break
			}
			rest = next
			back = append(back, o.kind(), uint8(2+len(o.value())))
			back = append(back, o.value()...)
			if o.is(o.kind(), 4) && be32(o.value()) != o.u32() {
				t.Fatal("u32")
			}
			if m := parseMethod(o); m != NoAuth && !bytes.Equal(appendMethod(nil, m)[1:], o[1:]) {
				t.Fatalf("method %s from %x", m, o)
			}
			if len(back) > len(b) {
				t.Fatal("more than there was")
			}
		}
		if whole := bytes.Equal(back, b); whole != wellFormed(b) {
			t.Fatalf("%x gives %x, well formed %v", b, back, wellFormed(b))
		}
		if wellFormed(b) && !subset(b, b) {
			t.Fatal("not a subset of itself")
		}
		// A cipher that has nothing unknown in it is written as it was read.
		if len(b) >= 4 {
			if m, rest := parseMPPE(be32(b)); m.value()|rest != be32(b) {
				t.Fatalf("%x: %+v %x", b[:4], m, rest)
			}
		}
	})
}

func FuzzPacket(f *testing.F) {
	f.Add(pkt(confReq, 1, 7, 2))
	f.Add([]byte{1, 2, 0, 3})
	f.Add([]byte{1, 2, 0, 6, 1, 2, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, ok := parsePacket(b)
		if !ok {
			return
		}
		if out := endPacket(append(beginPacket(nil, p.code, p.id), p.data...)); !bytes.Equal(out, p.whole) || !bytes.HasPrefix(b, out) {
			t.Fatalf("%x from %x", out, b)
		}
		if value, name, ok := parseValue(p.data); ok {
			if out := append(append([]byte{byte(len(value))}, value...), name...); !bytes.Equal(out, p.data) {
				t.Fatalf("%x from %x", out, p.data)
			}
		}
	})
}

func FuzzFailureText(f *testing.F) {
	f.Add("E=691 R=1 C=00112233445566778899AABBCCDDEEFF V=3 M=Access denied")
	f.Add("E=648 R=0 V=2")
	f.Add("M= E=1")
	f.Add(" = R= C=0 E=99999999999999999999")
	f.Fuzz(func(t *testing.T, s string) {
		x := parseFailure(s)
		if x.challenge == nil || x.code < 0 || x.version < 0 {
			return
		}
		a := authenticator{method: MSCHAPv2, retry: x.retry}
		copy(a.challenge[:], x.challenge)
		y := parseFailure(a.failureText(&AuthResult{Code: x.code, Message: "x " + x.message}))
		if y.code != x.code || y.retry != x.retry || !bytes.Equal(y.challenge, a.challenge[:]) || y.message != "x "+x.message || y.version != 3 {
			t.Fatalf("%+v became %+v", x, y)
		}
	})
}

// FuzzInput brings a link to any point of a call and then plays a peer that
// says anything. Whatever that is: no panic, every packet sent well formed,
// what was opened is closed again, and the link ends once, after Close.
func FuzzInput(f *testing.F) {
	protos := []uint16{ProtoLCP, ProtoLCP, ProtoCHAP, ProtoPAP, ProtoCCP, ProtoIPCP, ProtoIPv6CP, ProtoComp, ProtoIPv4, 0x4021}
	f.Add(uint8(0), uint8(0), []byte{0, 6, 1, 1, 0, 6, 7, 2})
	f.Add(uint8(0x41), uint8(5), []byte{2, 8, 2, 1, 0, 8, 3, 1, 2, 3})
	f.Add(uint8(0x82), uint8(200), []byte{4, 10, 1, 9, 0, 10, 18, 6, 1, 0, 0, 0x40})
	f.Add(uint8(0x83), uint8(200), []byte{5, 10, 1, 9, 0, 10, 3, 6, 0, 0, 0, 0, 0xFF, 1})
	f.Add(uint8(0xC3), uint8(60), []byte{0, 10, 8, 1, 0, 10, 0, 0xFD, 0x90, 1, 2, 3, 0, 4, 5, 1, 0, 4})
	f.Fuzz(func(t *testing.T, kind, steps uint8, script []byte) {
		server, client := serverConfig(), clientConfig()
		server.Auth = [][]Method{{MSCHAPv2}, {PAP}, {CHAPMD5, MSCHAPv1}, {MSCHAPv1}}[kind&3]
		server.MPPE.Mode, client.MPPE.Mode = MPPEMode(kind>>2&3), MPPEMode(kind>>4&3)
		server.EchoInterval, client.EchoInterval = 7_000_000_000, 7_000_000_000
		server.AuthRetries, client.AuthRetries = 1, 1
		server.AnswerPeerChallenge, server.User = kind&0x40 != 0, "server"
		s := newSim(t, 1, server, client)
		s.open()
		s.run(int64(steps) * ms(1)) // a call is up after some 60 ms
		o := s.a
		if kind&0x80 != 0 {
			o = s.b
		}
		s.queue = nil
		o.drop = func(proto uint16, info []byte) bool {
			checkSent(t, proto, info)
			return true
		}
		for len(script) >= 2 {
			p, n := script[0], int(script[1])
			script = script[2:]
			if p&0x80 != 0 { // time passes
				s.now += int64(n) * ms(100)
				for d := o.link.Deadline(); d <= s.now; d = o.link.Deadline() {
					o.link.Tick(s.now)
					if o.link.Deadline() == d {
						t.Fatal("a timer that Tick does not move")
					}
				}
				continue
			}
			n = min(n, len(script))
			o.link.Input(s.now, protos[int(p)%len(protos)], script[:n])
			for len(s.queue) > 0 {
				next := s.queue[0]
				s.queue = s.queue[1:]
				next.run()
			}
			script = script[n:]
		}
		o.link.Snapshot()
		o.link.RequestReset(s.now)
		o.link.Close(s.now, Reason{Code: UserRequest})
		for range 100 {
			d := o.link.Deadline()
			if d == never {
				break
			}
			s.now = max(s.now, d)
			o.link.Tick(s.now)
		}
		if len(o.downs) != 1 || len(o.violations) > 0 || o.link.Deadline() != never {
			t.Fatalf("down %v, violations %v", o.downs, o.violations)
		}
	})
}

// checkSent asserts the shape of a packet that a Link sent.
func checkSent(t *testing.T, proto uint16, info []byte) {
	t.Helper()
	p, ok := parsePacket(info)
	if !ok || len(p.whole) != len(info) || len(info) > 1500 {
		t.Fatalf("sent %04x %x", proto, info)
	}
	switch proto {
	case ProtoLCP, ProtoCCP, ProtoIPCP, ProtoIPv6CP:
		if p.code >= confReq && p.code <= confRej && !wellFormed(p.data) {
			t.Fatalf("sent %04x %x", proto, info)
		}
		if p.code == confRej && len(p.data) == 0 || p.code == confNak && len(p.data) == 0 {
			t.Fatalf("sent an empty %04x %x", proto, info)
		}
	case ProtoCHAP, ProtoPAP:
	default:
		t.Fatalf("sent protocol %04x", proto)
	}
}
