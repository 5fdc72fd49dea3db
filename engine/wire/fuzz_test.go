package wire

import (
	"bytes"
	"testing"

	"xpptp/engine"
)

func FuzzGRE(f *testing.F) {
	f.Add([]byte{0x30, 0x81, 0x88, 0x0b, 0, 2, 0, 9, 0, 0, 0, 1, 0, 0, 0, 2, 0xff, 3, 0})
	f.Add([]byte{0x20, 0x81, 0x88, 0x0b, 0, 0, 0, 9, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		g, d := ParseGRE(b)
		if d != engine.Pass {
			if g != nil {
				t.Fatal("a view of a bad packet")
			}
			return
		}
		out := make([]byte, GREMaxLen)
		n := PutGRE(out, g.CallID(), g.PayloadLen(), g.Seq(), g.HasSeq(), g.Ack(), g.HasAck())
		if !bytes.Equal(out[:n], g[:g.HeaderLen()]) || g.HasSeq() && len(g.Payload()) != g.PayloadLen() || !g.HasSeq() && len(g.Payload()) != 0 {
			t.Fatalf("%x parses, and is put as %x", []byte(g), out[:n])
		}
	})
}

func FuzzPPP(f *testing.F) {
	f.Add([]byte{0xff, 3, 0xc0, 0x21, 1})
	f.Add([]byte{0x21, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		proto, info, d := ParsePPP(b)
		if d != engine.Pass {
			return
		}
		// One of the four framings gives back the same bytes.
		for _, acfc := range []bool{false, true} {
			for _, pfc := range []bool{false, true} {
				out := make([]byte, PPPMaxLen)
				n := PutPPP(out, proto, acfc, pfc)
				p, i, d := ParsePPP(append(out[:n:n], info...))
				if proto&1 != 0 && proto>>8&1 == 0 && proto != 0xff && (d != engine.Pass || p != proto || !bytes.Equal(i, info)) {
					t.Fatalf("protocol %#04x comes back as %#04x", proto, p)
				}
			}
		}
	})
}

// FuzzIP walks everything that reads network headers over arbitrary bytes:
// no panic, nothing written outside the packet, fragments that add up.
func FuzzIP(f *testing.F) {
	f.Add(packet4(100, nil), uint16(60))
	f.Add(packet6(ProtoTCP, tcpSYN(2, []byte{2, 4, 5, 0xb4}, 0)), uint16(1280))
	f.Add(packet6(extFragment, []byte{17, 0, 0, 9, 0, 0, 0, 0, 1}), uint16(9))
	f.Fuzz(func(t *testing.T, b []byte, mtu uint16) {
		out := make([]byte, 70000)
		off, _, d := L3Offset(b)
		if d == engine.Pass && off > len(b) {
			t.Fatal("offset beyond the frame")
		}
		whole := append(bytes.Clone(b), 0xa5, 0xa5)
		ClampMSS(whole[:len(b)], 536, 1220)
		SetInnerTOS(whole[:len(b)], InnerTOS(whole[:len(b)]))
		if whole[len(b)] != 0xa5 || whole[len(b)+1] != 0xa5 {
			t.Fatal("wrote behind the packet")
		}
		if p, d := ParseIPv4(b); d == engine.Pass {
			if !SaneInner(PPPIPv4, b) {
				t.Fatal("parses, and is not sane")
			}
			if n := PutFragNeeded(out, [4]byte{1}, p, mtu); n > 576 {
				t.Fatalf("ICMP error of %d bytes", n)
			}
			var fr Fragmenter
			if fr.Init(p, int(mtu)) == engine.Pass {
				sum := 0
				for fr.More() {
					q, d := ParseIPv4(out[:fr.Next(out)])
					if d != engine.Pass || len(q) > int(mtu) && len(p) > int(mtu) || q.FragOffset() != p.FragOffset()+sum {
						t.Fatalf("fragment at %d: %v", q.FragOffset(), d)
					}
					sum += len(q.Payload())
				}
				if sum != len(p.Payload()) {
					t.Fatalf("fragments carry %d of %d bytes", sum, len(p.Payload()))
				}
			}
		}
		if p, d := ParseIPv6(b); d == engine.Pass {
			if !SaneInner(PPPIPv6, b) {
				t.Fatal("parses, and is not sane")
			}
			if _, off, _, _, ok := p.Upper(); ok && off > len(p) {
				t.Fatal("upper layer beyond the packet")
			}
			if n := PutPacketTooBig(out, [16]byte{1}, p, uint32(mtu)); n > ICMPErrorMax {
				t.Fatalf("ICMPv6 error of %d bytes", n)
			}
		}
		_, _ = ParseUDP(b)
		_, _ = ParseTCP(b)
		_, _ = ParseICMP(b)
	})
}
