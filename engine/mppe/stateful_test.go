package mppe

import (
	"bytes"
	"crypto/rc4"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"xpptp/engine"
	"xpptp/engine/mppe/multi"
	"xpptp/engine/wire"
)

// plain returns a packet as it stands inside MPPE: PPP protocol, an IPv4 or
// IPv6 header with right lengths, and a number to know it by.
func plain(r *rand.Rand, number uint32, n int) []byte {
	b := make([]byte, 2+max(n, 48), 2+max(n, 48)+64)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	off := wire.PutPPPProtocol(b, wire.PPPIPv4, r.IntN(4) == 0)
	if r.IntN(4) == 0 {
		off = wire.PutPPPProtocol(b, wire.PPPIPv6, r.IntN(4) == 0)
		wire.PutIPv6(b[off:], &wire.IPv6Fields{NextHeader: 59, PayloadLen: len(b) - off - wire.IPv6Len})
	} else {
		wire.PutIPv4(b[off:], &wire.IPv4Fields{TTL: 64, Protocol: 17, ID: uint16(number), PayloadLen: len(b) - off - wire.IPv4Len})
	}
	binary.BigEndian.PutUint32(b[len(b)-4:], number)
	return b
}

// peer is the other end of a call as others have built it, one packet at a
// time.
type peer interface {
	seal(plain []byte) []byte
	open(b []byte) (plain []byte, ok bool) // !ok: lost, ask for a reset
	flush()                                // a Reset-Request came
}

// linux is Linux's ppp_mppe (drivers/net/ppp/ppp_mppe.c), stateful mode.
type linux struct {
	tx, rx           *refChain
	txs, rxs         *rc4.Cipher
	txCount, rxCount uint16
	flushed, discard bool
}

func newLinux(send, recv [16]byte) *linux {
	l := &linux{tx: newRefChain(128, send), rx: newRefChain(128, recv), txCount: 4095, rxCount: 4095}
	l.txs, l.rxs = l.tx.rc4(), l.rx.rc4()
	return l
}

func (l *linux) seal(p []byte) []byte {
	l.txCount = (l.txCount + 1) % 4096
	h := 0x1000 | l.txCount
	if l.txCount&0xff == 0xff || l.flushed {
		l.tx.next()
		l.txs = l.tx.rc4()
		h |= 0x8000
		l.flushed = false
	}
	out := binary.BigEndian.AppendUint16(nil, h)
	out = append(out, p...)
	l.txs.XORKeyStream(out[2:], out[2:])
	return out
}

func (l *linux) open(b []byte) ([]byte, bool) {
	h := binary.BigEndian.Uint16(b)
	count, flushed := h&0xfff, h&0x8000 != 0
	if count&0xff == 0xff && !flushed {
		return nil, false
	}
	if !l.discard {
		l.rxCount = (l.rxCount + 1) % 4096
		if count != l.rxCount {
			l.discard = true
			return nil, false
		}
	} else {
		if !flushed {
			return nil, false
		}
		for count&^0xff != l.rxCount&^0xff {
			l.rx.next()
			l.rxCount = (l.rxCount + 256) % 4096
		}
		l.discard = false
		l.rxCount = count
	}
	if flushed {
		l.rx.next()
		l.rxs = l.rx.rc4()
	}
	out := bytes.Clone(b[2:])
	l.rxs.XORKeyStream(out, out)
	return out, true
}

func (l *linux) flush() { l.flushed = true }

// rfc is RFC 3078 §7.2 and §8.2 as they read.
type rfc struct {
	linux
	flagFlushed bool // flag packets carry FLUSHED
	firstSent   bool // the first packet has gone out (it carries FLUSHED)
}

func newRFC(send, recv [16]byte, flagFlushed, firstFlushed bool) *rfc {
	return &rfc{linux: *newLinux(send, recv), flagFlushed: flagFlushed, firstSent: !firstFlushed}
}

func (l *rfc) seal(p []byte) []byte {
	l.txCount = (l.txCount + 1) % 4096
	h := 0x1000 | l.txCount
	flag := l.txCount&0xff == 0xff
	if flag {
		l.tx.next()
	}
	if flag || l.flushed {
		l.txs = l.tx.rc4()
	}
	if l.flushed || flag && l.flagFlushed || !l.firstSent {
		h |= 0x8000
	}
	l.flushed, l.firstSent = false, true
	out := binary.BigEndian.AppendUint16(nil, h)
	out = append(out, p...)
	l.txs.XORKeyStream(out[2:], out[2:])
	return out
}

func (l *rfc) open(b []byte) ([]byte, bool) {
	h := binary.BigEndian.Uint16(b)
	count, flushed := h&0xfff, h&0x8000 != 0
	if flushed || count == (l.rxCount+1)%4096 && !l.discard {
		for l.rxCount != count {
			l.rxCount = (l.rxCount + 1) % 4096
			if l.rxCount&0xff == 0xff {
				l.rx.next()
				l.rxs = l.rx.rc4()
			}
		}
		if flushed {
			l.rxs = l.rx.rc4()
		}
		l.discard = false
		out := bytes.Clone(b[2:])
		l.rxs.XORKeyStream(out, out)
		return out, true
	}
	l.discard = true
	return nil, false
}

// ours is this package as an end.
type ours struct {
	e  *Engine
	tx Tx
	rx Rx
}

func newOurs(t *testing.T, send, recv [16]byte) *ours {
	o := &ours{e: New(multi.Best())}
	if err := o.tx.Init(&Params{Bits: 128, Stateful: true, Start: send}); err != nil {
		t.Fatal(err)
	}
	if err := o.rx.Init(&Params{Bits: 128, Stateful: true, Start: recv}); err != nil {
		t.Fatal(err)
	}
	o.tx.Follow(&o.rx)
	return o
}

func (o *ours) seal(p []byte) []byte {
	b := append(make([]byte, 2, len(p)+66), p...)
	o.e.Seal([]TxJob{{&o.tx, b}})
	return b
}

func (o *ours) open([]byte) ([]byte, bool) { panic("an end of ours opens with the time") }

func (o *ours) flush() { panic("an end of ours flushes with an identifier") }

// message is what the links of the simulation carry.
type message struct {
	at   int64
	data []byte // an MPPE packet, or nil
	ctrl byte   // 'r' Reset-Request, 'a' Reset-Ack, 'j' Protocol-Reject
	id   byte

	reject []byte
}

// statefulSim runs our end against a peer over two links in order with a
// delay; each loses packets until half time. It reports what share of the
// packets sent in the last fifth arrived, by direction.
type statefulSim struct {
	t       *testing.T
	r       *rand.Rand
	ours    *ours
	peer    peer
	loss    [2]float64 // toward us, toward the peer
	isLinux bool

	now             int64
	links           [2][]message
	sent            [2]map[uint32][]byte
	arrived, wanted [2]int
	asked, dcError  bool // pppd's CCP: RACK_PENDING; the kernel's SC_DC_ERROR
	repeat          bool
	askedAt         int64
	id, ourID       byte
	late            bool
	rejects         int
}

func (s *statefulSim) send(to int, m message) {
	if !s.late && s.r.Float64() < s.loss[to] {
		return
	}
	m.at = s.now + 10e6
	s.links[to] = append(s.links[to], m)
}

func (s *statefulSim) run(steps int) {
	s.sent = [2]map[uint32][]byte{{}, {}}
	number := uint32(0)
	for step := range steps {
		s.now += 5e6
		s.late = step > steps/2
		last := step > steps*4/5 && step < steps-10
		if s.r.IntN(2) == 0 {
			number++
			p := plain(s.r, number, s.r.IntN(300))
			s.sent[1][number] = p
			if last {
				s.wanted[1]++
			} else {
				delete(s.sent[1], number-400)
			}
			s.send(1, message{data: s.ours.seal(p)})
		}
		if s.r.IntN(2) == 0 {
			number++
			p := plain(s.r, number, s.r.IntN(300))
			s.sent[0][number] = p
			if last {
				s.wanted[0]++
			} else {
				delete(s.sent[0], number-400)
			}
			s.send(0, message{data: s.peer.seal(p)})
		}
		for i := range s.links {
			for len(s.links[i]) > 0 && s.links[i][0].at <= s.now {
				m := s.links[i][0]
				s.links[i] = s.links[i][1:]
				if i == 0 {
					s.toUs(m, last)
				} else {
					s.toPeer(m, last)
				}
			}
		}
		if s.asked && s.now-s.askedAt >= second { // pppd: ccp_rack_timeout
			s.asked = false
			if s.repeat {
				s.ask()
			}
		}
	}
}

func (s *statefulSim) toUs(m message, last bool) {
	switch {
	case m.ctrl == 'r':
		s.ours.tx.Flush(m.id)
		s.send(1, message{ctrl: 'a', id: m.id})
	case m.ctrl == 'j':
		s.rejects++
		s.ours.e.Rejected(s.now, &s.ours.tx, m.reject)
	case m.data != nil:
		jobs := []RxJob{{Rx: &s.ours.rx, Data: m.data}}
		s.ours.e.Open(s.now, jobs)
		if jobs[0].Reset {
			s.ourID++
			s.send(1, message{ctrl: 'r', id: s.ourID})
		}
		if jobs[0].Drop == engine.Pass {
			s.check(0, m.data[2:], last)
		}
	}
}

// ask sends pppd's Reset-Request: one at a time, the same again after a
// second if packets still fail.
func (s *statefulSim) ask() {
	if s.asked {
		s.repeat = true
		return
	}
	s.asked, s.repeat, s.askedAt = true, false, s.now
	s.send(0, message{ctrl: 'r', id: s.id})
}

func (s *statefulSim) toPeer(m message, last bool) {
	if o, ok := s.peer.(*ours); ok {
		s.toOther(o, m, last)
		return
	}
	switch {
	case m.ctrl == 'r':
		s.peer.flush()
		s.send(0, message{ctrl: 'a', id: m.id})
	case m.ctrl == 'a':
		s.asked, s.dcError = false, false
	case m.data != nil:
		if s.isLinux && s.dcError { // ppp_generic hands the packet to pppd unopened
			s.ask()
			return
		}
		p, ok := s.peer.open(m.data)
		if !ok {
			if !s.asked {
				s.id++
			}
			s.dcError = true
			s.ask()
			return
		}
		number := binary.BigEndian.Uint32(p[len(p)-4:])
		if !bytes.Equal(s.sent[1][number], p) {
			if p[0]&1 != 0 { // ppp_mppe expands a one-byte protocol
				p = append([]byte{0}, p...)
			}
			if proto := binary.BigEndian.Uint16(p); proto != wire.PPPIPv4 && proto != wire.PPPIPv6 {
				s.send(0, message{ctrl: 'j', reject: p})
			}
			return
		}
		s.check(1, p, last)
	}
}

// toOther is toPeer for a peer that is an end of ours.
func (s *statefulSim) toOther(o *ours, m message, last bool) {
	switch {
	case m.ctrl == 'r':
		o.tx.Flush(m.id)
	case m.data != nil:
		jobs := []RxJob{{Rx: &o.rx, Data: m.data}}
		o.e.Open(s.now, jobs)
		if jobs[0].Reset {
			s.id++
			s.send(0, message{ctrl: 'r', id: s.id})
		}
		if jobs[0].Drop == engine.Pass {
			s.check(1, m.data[2:], last)
		}
	}
}

// check notes a packet that arrived and that it is what was sent.
func (s *statefulSim) check(to int, p []byte, last bool) {
	number := binary.BigEndian.Uint32(p[len(p)-4:])
	if !bytes.Equal(s.sent[to][number], p) {
		s.t.Fatalf("delivered what was never sent: %x", p[:8])
	}
	if last {
		s.arrived[to]++
	}
}

func testKeys(r *rand.Rand) (a, b [16]byte) {
	for i := range a {
		a[i], b[i] = byte(r.Uint32()), byte(r.Uint32())
	}
	return a, b
}

// Against Linux and against the RFC's letter, whatever was lost in either
// direction, requests and answers included: once the loss ends so does the
// trouble.
func TestStatefulRecovers(t *testing.T) {
	seeds := uint64(16)
	if testing.Short() {
		seeds = 4
	}
	for _, kind := range []string{"linux", "rfc", "rfc, flag packets not FLUSHED", "rfc, first packet FLUSHED", "ours", "ours, rfc", "ours, mixed"} {
		for seed := range seeds {
			r := rand.New(rand.NewPCG(seed, 3))
			a, b := testKeys(r)
			s := &statefulSim{t: t, r: r, ours: newOurs(t, a, b), now: second}
			want := RFCDialect
			switch kind {
			case "linux":
				s.peer, s.isLinux, want = newLinux(b, a), true, LinuxDialect
			case "rfc":
				s.peer = newRFC(b, a, true, false)
			case "rfc, first packet FLUSHED":
				s.peer = newRFC(b, a, true, true)
			case "ours", "ours, rfc", "ours, mixed":
				other := newOurs(t, b, a)
				want = LinuxDialect
				if kind != "ours" {
					other.tx.st.chosen, want = RFCDialect, RFCDialect
				}
				if kind == "ours, mixed" {
					s.ours.tx.st.chosen = LinuxDialect
				}
				s.peer = other
			default:
				s.peer = newRFC(b, a, false, false)
			}
			s.loss = [2]float64{r.Float64() * 0.4, r.Float64() * 0.4}
			if seed%4 == 0 {
				s.loss[seed/4%2] = 0
			}
			s.run(6000)
			for to, name := range []string{"from", "to"} {
				if s.arrived[to] < s.wanted[to]-5 {
					t.Errorf("%s, seed %d, loss %.2f: %d of %d packets %s the peer arrived after the loss (dialect %v, we speak %v, rejects %d)",
						kind, seed, s.loss, s.arrived[to], s.wanted[to], name, s.ours.rx.Dialect(), s.ours.tx.st.dialect(), s.rejects)
				}
			}
			if s.loss[0] > 0.05 && s.ours.rx.Dialect() != want {
				t.Errorf("%s, seed %d: dialect %v, want %v", kind, seed, s.ours.rx.Dialect(), want)
			}
		}
	}
}

// Without loss neither side asks for anything, over several rounds of the
// count and of the key, in batches.
func TestStatefulNoLoss(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 9))
	for _, kind := range []string{"linux", "rfc", "ours"} {
		a, b := testKeys(r)
		o := newOurs(t, a, b)
		var p peer = newLinux(b, a)
		if kind == "rfc" {
			p = newRFC(b, a, true, true)
		}
		other := newOurs(t, b, a)
		for n := 0; n < 9000; {
			size := 1 + r.IntN(300)
			tx, rx := make([]TxJob, size), make([]RxJob, size)
			want := make([][]byte, size)
			for i := range tx {
				want[i] = plain(r, uint32(n+i), 50)
				tx[i] = TxJob{&o.tx, append(make([]byte, 2, 200), want[i]...)}
				rx[i] = RxJob{Rx: &o.rx, Data: append(p.seal(want[i]), make([]byte, 64)...)}
				rx[i].Data = rx[i].Data[:len(rx[i].Data)-64]
			}
			o.e.Seal(tx)
			if kind == "ours" {
				for i := range tx {
					rx[i] = RxJob{Rx: &other.rx, Data: tx[i].Data}
				}
			}
			o.e.Open(second+int64(n), rx)
			for i := range rx {
				if rx[i].Drop != engine.Pass || rx[i].Reset || !bytes.Equal(rx[i].Data[2:], want[i]) {
					t.Fatalf("%s: packet %d: %v, reset %v", kind, n+i, rx[i].Drop, rx[i].Reset)
				}
				if kind == "ours" {
					continue
				}
				if got, ok := p.open(tx[i].Data); !ok || !bytes.Equal(got, want[i]) {
					t.Fatalf("%s: the peer cannot open packet %d", kind, n+i)
				}
			}
			n += size
		}
	}
}

// Forged packets of any kind among the genuine ones of a stateful session cost
// nothing but themselves.
func TestStatefulForged(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 4))
	for round := range 200 {
		a, b := testKeys(r)
		o := newOurs(t, a, b)
		p := newLinux(b, a)
		number := uint32(0)
		now := int64(second)
		for range 5 {
			var jobs []RxJob
			var want [][]byte
			for range 1 + r.IntN(80) {
				if r.IntN(5) == 0 {
					f := make([]byte, 2+48+r.IntN(100), 300)
					for i := range f {
						f[i] = byte(r.Uint32())
					}
					h := bitEncrypted | (p.txCount+uint16(r.IntN(3)))&countMask
					if r.IntN(4) == 0 {
						h = bitEncrypted | uint16(r.Uint32())&(countMask|bitFlushed)
					}
					if r.IntN(8) == 0 {
						h |= bitFlushed
					}
					binary.BigEndian.PutUint16(f, h)
					jobs, want = append(jobs, RxJob{Rx: &o.rx, Data: f}), append(want, nil)
					continue
				}
				number++
				pl := plain(r, number, 60)
				data := append(make([]byte, 0, 300), p.seal(pl)...)
				jobs, want = append(jobs, RxJob{Rx: &o.rx, Data: data}), append(want, pl)
			}
			o.e.Open(now, jobs)
			now += second
			for i := range jobs {
				switch {
				case want[i] == nil && jobs[i].Drop == engine.Pass:
					t.Fatalf("round %d: forged packet accepted", round)
				case want[i] != nil && (jobs[i].Drop != engine.Pass || !bytes.Equal(jobs[i].Data[2:], want[i])):
					t.Fatalf("round %d: genuine packet %d of %d: %v", round, i, len(jobs), jobs[i].Drop)
				}
			}
		}
	}
}

// Reset-Requests are asked for at once, then at growing intervals.
func TestResetRate(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	a, b := testKeys(r)
	o := newOurs(t, a, b)
	p := newLinux(b, a)
	p.seal(plain(r, 0, 60)) // lost
	var at []int64
	for now := int64(second); now < 11*second; now += 10e6 {
		jobs := []RxJob{{Rx: &o.rx, Data: p.seal(plain(r, 1, 60))}}
		if p.txCount > 200 {
			p.txCount = 1 // stay away from flag packets
		}
		o.e.Open(now, jobs)
		if jobs[0].Reset {
			at = append(at, now)
		}
	}
	if len(at) < 10 || len(at) > 20 || at[0] != second || at[1]-at[0] != minPause {
		t.Errorf("asked %d times in ten seconds, at %v", len(at), at)
	}
	for i := 2; i < len(at); i++ {
		if d := at[i] - at[i-1]; d < at[i-1]-at[i-2] || d > maxPause {
			t.Errorf("asked after %d, then after %d", at[i-1]-at[i-2], d)
		}
	}
}
