package control

import (
	"bytes"
	"net/netip"
	"testing"

	"xpptp/control/config"
	"xpptp/engine"
	"xpptp/engine/wire"
)

// Packets that do not fit a call's room: IPv4 without DF arrives in fragments
// that are the packet, with DF it is answered with the room; IPv6 always is.
func TestTooBig(t *testing.T) {
	s := newSim(t, simOptions{seed: 21, common: func(c *config.Common) { c.MTU, c.MRU = 1300, 1300 }})
	s.call(1)
	s.until("call up", 20, func() bool { return s.upCalls() == 1 && s.serverUp() == 1 })
	for range 50 {
		s.step()
	}
	k := s.server.calls()[0]
	room := int(k.room())
	client := k.nets[0].Peer

	big := udp(simLocal, client, 1, 1, 1400)
	s.inject(s.server, big)
	whole := make([]byte, len(big))
	copy(whole, big[:20])
	got := 0
	for range 20 {
		s.step()
		s.drainInside(s.client, func(p []byte) {
			ip, d := wire.ParseIPv4(p)
			if d != engine.Pass || !ip.HeaderChecksumOK() || !ip.IsFragment() || len(ip) > room {
				t.Fatalf("not a fragment that fits %d: %v %x", room, d, p)
			}
			copy(whole[20+ip.FragOffset():], ip.Payload())
			got += len(ip.Payload())
		})
	}
	if got != len(big)-20 || !bytes.Equal(whole[20:], big[20:]) {
		t.Errorf("%d of %d bytes came, equal: %v", got, len(big)-20, bytes.Equal(whole[20:], big[20:]))
	}

	df := append([]byte(nil), big...)
	df[6] |= 0x40
	wire.IPv4(df).SetChecksum()
	s.inject(s.server, df)
	answers := 0
	for range 5 {
		s.step()
		s.drainInside(s.server, func(p []byte) {
			ip, d := wire.ParseIPv4(p)
			if d != engine.Pass || ip.Protocol() != wire.ProtoICMP {
				t.Fatalf("%v %x", d, p)
			}
			m, _ := wire.ParseICMP(ip.Payload())
			if m.Type() != 3 || m.Code() != 4 || int(m.Rest()) != room || netip.AddrFrom4(ip.Src()) != simLocal || !bytes.HasPrefix(m.Payload(), df[:28]) {
				t.Errorf("answer %x", p)
			}
			answers++
		})
	}
	if answers != 1 {
		t.Errorf("%d answers to a packet with DF", answers)
	}

	src, dst := k.nets[1].Local.As16(), k.nets[1].Peer.As16()
	six := make([]byte, 1400)
	wire.PutIPv6(six, &wire.IPv6Fields{NextHeader: 59, HopLimit: 64, Src: src, Dst: dst, PayloadLen: 1360})
	s.inject(s.server, six)
	answers = 0
	for range 5 {
		s.step()
		s.drainInside(s.server, func(p []byte) {
			ip, d := wire.ParseIPv6(p)
			if d != engine.Pass || ip.NextHeader() != wire.ProtoICMPv6 || ip.Dst() != src {
				t.Fatalf("%v %x", d, p)
			}
			if m, _ := wire.ParseICMP(ip.Payload()); m.Type() != 2 || int(m.Rest()) != room {
				t.Errorf("answer %x", p)
			}
			answers++
		})
	}
	if answers != 1 {
		t.Errorf("%d answers to an IPv6 packet", answers)
	}
	if n := s.server.drops()[engine.TooBig]; n != 2 {
		t.Errorf("%d drops as too-big, want 2", n)
	}
	s.accounted()
}

// The outer header as the options say: DSCP and ECN of the inner packet, DF
// copied, and congestion marks carried over to the inner packet at the far end
// (RFC 6040).
func TestOuterHeader(t *testing.T) {
	s := newSim(t, simOptions{seed: 22, common: func(c *config.Common) {
		c.IP.CopyDSCP, c.IP.CopyECN, c.IP.DF = true, true, config.DFCopy
	}})
	s.call(1)
	s.until("call up", 20, func() bool { return s.upCalls() == 1 && s.serverUp() == 1 })
	for range 50 {
		s.step()
	}
	k := s.server.calls()[0]
	var outer []byte
	s.tap = func(b []byte) {
		if len(b) > 120 {
			outer = b
			wire.IPv4(b).SetTOS(wire.IPv4(b).TOS() | 3) // a congested router
		}
	}
	p := udp(simLocal, k.nets[0].Peer, 1, 1, 200)
	wire.IPv4(p).SetTOS(0xb8 | 2) // EF, ECT(0)
	p[6] |= 0x40
	wire.IPv4(p).SetChecksum()
	s.inject(s.server, p)
	var in []byte
	for range 5 {
		s.step()
		s.drainInside(s.client, func(b []byte) { in = append([]byte(nil), b...) })
	}
	if outer == nil || in == nil {
		t.Fatalf("outer %x, inner %x; drops %v", outer, in, drops(s.client))
	}
	if o := wire.IPv4(outer); o.TOS() != 0xb8|3 || !o.DF() {
		t.Errorf("outer TOS %#x, DF %v", o.TOS(), o.DF())
	}
	if i := wire.IPv4(in); i.TOS() != 0xb8|3 || !i.HeaderChecksumOK() {
		t.Errorf("inner TOS %#x, checksum ok %v", i.TOS(), i.HeaderChecksumOK())
	}
}
