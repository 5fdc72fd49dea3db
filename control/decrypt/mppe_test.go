package decrypt

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"xpptp/engine/mppe"
	"xpptp/engine/mppe/multi"
	"xpptp/engine/wire"
)

// sender seals packets with engine/mppe, which shares no code with opener but
// the key changes.
type sender struct {
	e    *mppe.Engine
	tx   mppe.Tx
	seq  uint32
	rand *rand.Rand
}

var startKey = [16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}

func newSender(t *testing.T, c cipher, seed uint64) *sender {
	t.Helper()
	s := &sender{e: mppe.New(multi.Best()), rand: rand.New(rand.NewPCG(seed, 1))}
	if err := s.tx.Init(&mppe.Params{Bits: c.bits, Stateful: c.stateful, Start: startKey}); err != nil {
		t.Fatal(err)
	}
	return s
}

// next returns PPP protocol and payload in the clear, and the sealed packet.
func (s *sender) next() (plain, sealed []byte) {
	payload := make([]byte, s.rand.IntN(1300))
	for i := range payload {
		payload[i] = byte(s.rand.Uint32())
	}
	b := make([]byte, mppe.HeaderLen+2+wire.IPv4Len)
	b[3] = wire.PPPIPv4
	wire.PutIPv4(b[4:], &wire.IPv4Fields{TTL: 64, Protocol: 17, ID: uint16(s.seq), Src: [4]byte{10, 0, 0, 1}, Dst: [4]byte{10, 0, 0, 2}, PayloadLen: len(payload)})
	b = append(b, payload...)
	plain = bytes.Clone(b[mppe.HeaderLen:])
	s.e.Seal([]mppe.TxJob{{Tx: &s.tx, Data: b}})
	s.seq++
	return plain, b
}

// Whatever is lost and whenever streams start anew, in either dialect: what
// was captured opens.
func TestOpenerLoss(t *testing.T) {
	for _, c := range []cipher{{40, false}, {56, false}, {128, false}, {40, true}, {56, true}, {128, true}} {
		for _, dialect := range []mppe.Dialect{mppe.RFCDialect, mppe.LinuxDialect} {
			if dialect == mppe.RFCDialect && !c.stateful {
				continue
			}
			for _, loss := range []int{0, 2, 10, 60} {
				t.Run(fmt.Sprintf("%d stateful %v %v %d%%", c.bits, c.stateful, dialect, loss), func(t *testing.T) {
					s := newSender(t, c, uint64(loss)+1)
					if dialect == mppe.RFCDialect {
						s.teach(t, c)
					}
					o := newOpener(newTools(), c, startKey, 0)
					left := workBudget
					opened := 0
					for i := range 1200 {
						if i%37 == 36 {
							s.tx.Flush(uint8(i))
						}
						plain, sealed := s.next()
						if s.rand.IntN(100) < loss {
							continue
						}
						_, why := o.open(sealed, s.seq, &left)
						if why != "" {
							t.Fatalf("packet %d, header %x: %s", i, sealed[:2], why)
						}
						if !bytes.Equal(o.out, plain) {
							t.Fatalf("packet %d opened wrong", i)
						}
						opened++
					}
					if opened < 300 {
						t.Errorf("only %d packets", opened)
					}
					if c.stateful && o.dialect != dialect {
						t.Errorf("dialect %v, want %v", o.dialect, dialect)
					}
				})
			}
		}
	}
}

// teach lets a Tx speak as RFC 3078 does: it follows a peer that has shown to.
func (s *sender) teach(t *testing.T, c cipher) {
	t.Helper()
	var peer mppe.Tx
	var rx mppe.Rx
	p := &mppe.Params{Bits: c.bits, Stateful: true, Start: startKey}
	if err := peer.Init(p); err != nil {
		t.Fatal(err)
	}
	if err := rx.Init(p); err != nil {
		t.Fatal(err)
	}
	// The key of the first packet of a stream that begins anew is the first key.
	_, b := (&sender{e: s.e, tx: peer, rand: s.rand}).next()
	b[0] |= bitFlushed >> 8
	job := []mppe.RxJob{{Rx: &rx, Data: b}}
	s.e.Open(1e9, job)
	if job[0].Drop != 0 || rx.Dialect() == mppe.LinuxDialect {
		t.Fatalf("%v, dialect %v", job[0].Drop, rx.Dialect())
	}
	s.tx.Follow(&rx)
}

// The count wraps at 4096; the GRE numbers tell how often.
func TestOpenerLongGap(t *testing.T) {
	for _, gap := range []int{4000, 4096, 4097, 10000} {
		s := newSender(t, cipher{128, false}, 7)
		o := newOpener(newTools(), cipher{128, false}, startKey, 0)
		left := workBudget
		for i := range gap + 10 {
			_, sealed := s.next()
			if i > 4 && i < 5+gap {
				continue
			}
			if _, why := o.open(sealed, s.seq, &left); why != "" {
				t.Errorf("gap of %d: packet %d: %s", gap, i, why)
			}
		}
	}
}

// Garbage opens nothing, costs a bounded amount of work, and leaves no trace.
func TestOpenerGarbage(t *testing.T) {
	for _, c := range []cipher{{128, false}, {128, true}} {
		s := newSender(t, c, 3)
		o := newOpener(newTools(), c, startKey, 0)
		left := workBudget
		for range 600 {
			junk := make([]byte, 2+s.rand.IntN(200))
			for i := range junk {
				junk[i] = byte(s.rand.Uint32())
			}
			junk[0] |= bitEncrypted >> 8
			if _, why := o.open(junk, s.seq+1+uint32(s.rand.IntN(3000)), &left); why == "" {
				t.Fatalf("%v: %x opened to %x", c, junk, o.out)
			}
		}
		plain, sealed := s.next()
		left = 0 // a packet in its turn opens whatever has been wasted
		if _, why := o.open(sealed, s.seq, &left); why != "" || !bytes.Equal(plain, o.out) {
			t.Errorf("%v: a good packet after garbage: %s", c, why)
		}
	}
}
