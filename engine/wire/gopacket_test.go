package wire

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"xpptp/engine"
)

// Packets that gopacket builds must read the same here, field by field, with
// checksums that agree: an independent reading of the same headers.
func TestAgainstGopacket(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	opt := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	for i := range 2000 {
		payload := make([]byte, rnd.IntN(1400))
		for j := range payload {
			payload[j] = byte(rnd.Uint32())
		}
		ip4 := &layers.IPv4{
			Version: 4, IHL: 5, TOS: uint8(rnd.Uint32()), Id: uint16(rnd.Uint32()), TTL: uint8(rnd.Uint32()),
			Protocol: layers.IPProtocolUDP, Flags: layers.IPv4Flag(rnd.IntN(2) * int(layers.IPv4DontFragment)),
			SrcIP: randomBytes(rnd, 4), DstIP: randomBytes(rnd, 4),
		}
		udp := &layers.UDP{SrcPort: layers.UDPPort(rnd.Uint32()), DstPort: layers.UDPPort(rnd.Uint32())}
		if err := udp.SetNetworkLayerForChecksum(ip4); err != nil {
			t.Fatal(err)
		}
		buf := gopacket.NewSerializeBuffer()
		if err := gopacket.SerializeLayers(buf, opt, ip4, udp, gopacket.Payload(payload)); err != nil {
			t.Fatal(err)
		}
		p, d := ParseIPv4(append(bytes.Clone(buf.Bytes()), 0, 0, 0)) // with padding behind
		if d != engine.Pass {
			t.Fatalf("packet %d: %v", i, d)
		}
		src, dst := p.Src(), p.Dst()
		if p.TOS() != ip4.TOS || p.ID() != ip4.Id || p.TTL() != ip4.TTL || p.DF() != (ip4.Flags&layers.IPv4DontFragment != 0) ||
			!bytes.Equal(src[:], ip4.SrcIP) || !bytes.Equal(dst[:], ip4.DstIP) || !p.HeaderChecksumOK() || len(p) != len(buf.Bytes()) {
			t.Fatalf("packet %d reads differently: %x", i, p)
		}
		u, d := ParseUDP(p.Payload())
		if d != engine.Pass || u.SrcPort() != uint16(udp.SrcPort) || u.DstPort() != uint16(udp.DstPort) || !bytes.Equal(u.Payload(), payload) {
			t.Fatalf("packet %d: UDP reads differently (%v): %x", i, d, u)
		}
		if Checksum(p.Payload(), PseudoHeader4(src, dst, ProtoUDP, len(p.Payload()))) != 0 {
			t.Fatalf("packet %d: gopacket's UDP checksum does not hold", i)
		}
	}
}

// What we build, gopacket must read: enhanced GRE with every set of fields.
func TestGREReadByGopacket(t *testing.T) {
	for _, hasSeq := range []bool{true, false} {
		for _, hasAck := range []bool{true, false} {
			payload := []byte{0xff, 0x03, 0xc0, 0x21, 1, 1, 0, 4}
			if !hasSeq {
				payload = nil
			}
			b := make([]byte, IPv4Len+GRELen(hasSeq, hasAck)+len(payload))
			n := PutGRE(b[IPv4Len:], 0x1234, len(payload), 77, hasSeq, 88, hasAck)
			copy(b[IPv4Len+n:], payload)
			PutIPv4(b, &IPv4Fields{TTL: 64, Protocol: ProtoGRE, Src: [4]byte{10, 0, 0, 1}, Dst: [4]byte{10, 0, 0, 2}, PayloadLen: n + len(payload)})
			p := gopacket.NewPacket(b, layers.LayerTypeIPv4, gopacket.NoCopy)
			g, ok := p.Layer(layers.LayerTypeGRE).(*layers.GRE)
			if !ok {
				t.Fatalf("seq %v ack %v: no GRE: %v", hasSeq, hasAck, p.ErrorLayer())
			}
			if g.Version != 1 || g.Protocol != layers.EthernetTypePPP || !g.KeyPresent || g.Key != uint32(len(payload))<<16|0x1234 ||
				g.SeqPresent != hasSeq || hasSeq && g.Seq != 77 || g.AckPresent != hasAck || hasAck && g.Ack != 88 {
				t.Errorf("seq %v ack %v: gopacket reads %+v", hasSeq, hasAck, g)
			}
		}
	}
}

func randomBytes(rnd *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return b
}
