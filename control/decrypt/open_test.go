package decrypt

import (
	"bytes"
	"testing"

	"xpptp/control/ppp"
	"xpptp/engine/wire"
)

// bench is one direction of a call in the second pass.
type bench struct {
	t    *testing.T
	pass *pass
	side *side
	seq  uint32
}

func newBench(t *testing.T) *bench {
	f := &flow{call: &call{number: 1}, agreed: map[uint16][]byte{}, firstSeq: 1}
	k := keyPair{toServer: true, keys: ppp.KeyMaterial{Bits: ppp.Bits40 | ppp.Bits56 | ppp.Bits128, Recv: startKey}}
	return &bench{
		t:    t,
		pass: &pass{tools: newTools()},
		side: &side{flow: f, toServer: true, keys: []keyPair{k}, count: &Counts{}, next: 1, high: 1, held: map[uint32]*slot{}, left: workBudget},
	}
}

func (b *bench) give(seq uint32, proto uint16, info []byte) {
	b.pass.order(b.side, 0, packetIn{flow: b.side.flow, seq: seq, proto: proto, info: info, captured: len(info)})
	b.pass.relieve()
	if len(b.pass.queue) > maxSlots || b.pass.held > maxHeld {
		b.t.Fatalf("%d packets wait, %d bytes", len(b.pass.queue), b.pass.held)
	}
}

// agree is a Configure-Ack for MPPE.
func (b *bench) agree(option uint32) {
	b.seq++
	b.give(b.seq, wire.PPPCCP, be.AppendUint32([]byte{confAck, 1, 0, 10, ccpMPPE, 6}, option))
}

func (b *bench) send(s *sender, n int) {
	for range n {
		_, sealed := s.next()
		b.seq++
		b.give(b.seq, wire.PPPMPPE, sealed)
	}
}

// CCP that is negotiated again starts new keys, an Ack that is only repeated
// does not; and both must be told by what decrypts.
func TestRenegotiation(t *testing.T) {
	b := newBench(t)
	first, second := newSender(t, cipher{128, false}, 1), newSender(t, cipher{40, true}, 2)
	b.agree(mppeH | mppeS)
	b.agree(mppeH | mppeS)
	b.send(first, 20)
	b.agree(mppeH | mppeS) // the peer missed the first one; the key goes on
	b.send(first, 20)
	b.agree(mppeL)
	b.send(second, 20)
	if c := b.side.current.cipher; c != (cipher{40, true}) {
		t.Errorf("cipher %+v", c)
	}
	b.agree(mppeH | mppeS)
	b.send(newSender(t, cipher{128, false}, 3), 300) // starts anew
	if n := b.side.count; n.Decrypted != 360 || n.Bad != 0 {
		t.Errorf("%+v", *n)
	}
}

// A call without a visible Configure-Ack, or with one for something else.
func TestOtherAlgorithms(t *testing.T) {
	b := newBench(t)
	b.send(newSender(t, cipher{56, true}, 1), 20)
	if n := b.side.count; n.Decrypted != 20 || b.side.current.cipher != (cipher{56, true}) {
		t.Errorf("%+v", *n)
	}
	b.seq++
	b.give(b.seq, wire.PPPCCP, []byte{confAck, 2, 0, 8, ccpDeflate, 4, 0x78, 0})
	b.seq++
	b.give(b.seq, wire.PPPMPPE, []byte{0, 1, 2, 3})
	if n := b.side.count; n.Compressed != 1 || n.Encrypted != 20 {
		t.Errorf("%+v", *n)
	}
	b.agree(mppeH | mppeS)
	for _, tt := range []struct {
		info []byte
		why  string
	}{
		{[]byte{0x90}, whyShort},
		{[]byte{0x80, 0, 1, 2, 3}, whyClear},
		{[]byte{0xb0, 0, 1, 2, 3}, whyMPPC},
		{[]byte{0x90, 0, 1, 2, 3}, whyWrong},
	} {
		b.seq++
		b.give(b.seq, wire.PPPMPPE, tt.info)
		if b.side.count.BadWhy[tt.why] != 1 {
			t.Errorf("%x: %v, want %q", tt.info, b.side.count.BadWhy, tt.why)
		}
	}
}

// Packets wait long for one that was lost, but not without bound; one that
// comes later still is counted.
func TestReorderBounds(t *testing.T) {
	b := newBench(t)
	b.agree(mppeH | mppeS)
	s := newSender(t, cipher{128, false}, 1)
	var late []byte
	var lateSeq uint32
	const packets = 6000
	for i := range packets {
		_, sealed := s.next()
		b.seq++
		if i == 1000 {
			late, lateSeq = bytes.Clone(sealed), b.seq
			continue
		}
		b.give(b.seq, wire.PPPMPPE, sealed)
		if i == 3000 {
			b.give(b.seq-1000, wire.PPPMPPE, sealed) // held already
		}
	}
	n := b.side.count
	if n.Decrypted != packets-1 || n.Bad != 0 || n.Lost != 1 || n.Duplicate != 1 {
		t.Errorf("%+v", *n)
	}
	b.give(lateSeq, wire.PPPMPPE, late)
	if n.Late != 1 || n.Reordered != 1 || n.BadWhy[whyLate] != 1 {
		t.Errorf("late: %+v", *n)
	}
	b.pass.finish()
	if len(b.side.held) != 0 || len(b.pass.queue) != 0 || b.pass.held != 0 {
		t.Errorf("%d, %d packets and %d bytes are left", len(b.side.held), len(b.pass.queue), b.pass.held)
	}
}

// A number far away is believed only if the next packet follows it.
func TestJump(t *testing.T) {
	b := newBench(t)
	b.agree(mppeH | mppeS)
	s := newSender(t, cipher{128, false}, 1)
	b.send(s, 5)
	b.give(b.seq+1<<30, wire.PPPMPPE, []byte{0x90, 9, 1, 2, 3})
	b.send(s, 5)
	b.give(b.seq+1<<30, wire.PPPMPPE, []byte{0x90, 9, 1, 2, 3})
	b.send(s, 5)
	if n := b.side.count; n.Jumps != 2 || n.Decrypted != 15 || n.Bad != 0 {
		t.Errorf("%+v", *n)
	}
	b.seq += 1 << 20 // the sender's numbers do jump
	b.send(s, 5)
	if n := b.side.count; n.Jumps != 3 || n.Decrypted != 19 || n.Bad != 0 {
		t.Errorf("%+v", *n)
	}
}
