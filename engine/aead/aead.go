package aead

import (
	"encoding/binary"

	"xpptp/engine"
	"xpptp/engine/mppe"
)

// What a packet grows by: the counter in front, the tag behind.
const (
	HeaderLen = 4
	TagLen    = 16
	Overhead  = HeaderLen + TagLen
)

// Params are what both ends of a call agreed on; only Role differs between
// them.
type Params struct {
	Suite   Suite
	Master  []byte // secret of both ends, 32 bytes or more; not kept
	Context []byte // what else the keys shall depend on, such as names and nonces of the negotiation; may be empty
	Role    Role   // which end this is
	// Protocols are accepted on receipt; 0 means all that are known.
	Protocols mppe.Protocols
}

// Tx is the sending direction of a call. Init makes it ready. The zero value
// has no key. Not for concurrent use.
type Tx struct {
	next  uint64 // number of the next packet
	key   *key   // of its epoch
	chain chain  // of the epoch after
}

// Init starts the direction anew. It returns an error that names the parameter
// if p is wrong. The same secret and context must not serve twice: numbers
// begin at 0 again.
func (t *Tx) Init(p *Params) error {
	c, err := newChain(p, p.Role)
	if err != nil {
		return err
	}
	*t = Tx{chain: c}
	t.update()
	return nil
}

// Ready reports whether the direction has a key.
func (t *Tx) Ready() bool { return t.key != nil }

// update goes on to the next epoch.
func (t *Tx) update() {
	t.key = t.chain.key()
	t.chain.step()
}

// Rx is the receiving direction of a call. Init makes it ready. The zero value
// has no key: everything is dropped as AEADNoKey. Not for concurrent use.
type Rx struct {
	window window
	epoch  uint64 // of the highest number seen
	keys   [3]*key
	chain  chain // of the epoch that follows keys[following]
	far    budget
	accept mppe.Protocols
}

// The places of Rx.keys: the epoch before, which may be nil, that of the highest
// number, and the one after.
const (
	before = iota
	current
	following
)

// Init starts the direction anew. It returns an error that names the parameter
// if p is wrong.
func (r *Rx) Init(p *Params) error {
	c, err := newChain(p, p.Role.peer())
	if err != nil {
		return err
	}
	*r = Rx{chain: c, accept: p.Protocols, far: budget{left: farTries}}
	if r.accept == 0 {
		r.accept = mppe.IPv4 | mppe.IPv6
	}
	for _, place := range []int{current, following} {
		r.keys[place] = r.chain.key()
		r.chain.step()
	}
	return nil
}

// Ready reports whether the direction has a key.
func (r *Rx) Ready() bool { return r.keys[current] != nil }

// Packets beyond the epoch that follows: farTries of them are tried in a
// second.
const (
	farTries = 8
	second   = 1e9
)

// budget counts what may still be tried in the second that began at start.
type budget struct {
	start int64
	left  int
}

// take reports whether one more may be tried now.
func (b *budget) take(now int64) bool {
	if now-b.start >= second {
		*b = budget{start: now, left: farTries}
	}
	if b.left == 0 {
		return false
	}
	b.left--
	return true
}

// Engine seals and opens packets in batches. It holds scratch memory only: one
// per worker, not for concurrent use.
type Engine struct {
	nonce [nonceLen]byte
	ahead ahead
}

// ahead is a key beyond those at hand, and the chain behind it.
type ahead struct {
	key   *key
	chain chain
}

// New returns an engine.
func New() *Engine { return &Engine{} }

// TxJob is a packet to seal. Data is HeaderLen bytes of room for the counter,
// PPP protocol and payload, and TagLen bytes of room for the tag: it is sealed
// in place, and at least Overhead bytes. What lies beyond Data is not touched.
type TxJob struct {
	Tx   *Tx
	Data []byte
}

// Seal seals packets; those of one Tx, which must be Ready, in the order given.
// The outer PPP protocol 00FD is the caller's to write. Nothing is allocated
// but the key of a new epoch.
func (e *Engine) Seal(jobs []TxJob) {
	for i := range jobs {
		t, b := jobs[i].Tx, jobs[i].Data
		n := t.next
		t.next++
		if n > 0 && n&(1<<epochBits-1) == 0 {
			t.update()
		}
		binary.BigEndian.PutUint32(b, uint32(n))
		k := t.key
		k.nonce(&e.nonce, n)
		text := b[HeaderLen : len(b)-TagLen]
		k.aead.Seal(text[:0:len(b)-HeaderLen], e.nonce[:], text, k.ad[:])
	}
}

// RxJob is a packet to open: Data is counter, ciphertext and tag. On Drop ==
// Pass Data[HeaderLen:len(Data)-TagLen] is PPP protocol and payload, authentic,
// of an accepted protocol and with sane lengths, and there before for the first
// time; else Data is worthless.
type RxJob struct {
	Rx   *Rx
	Data []byte
	Drop engine.Drop
}

// Open opens packets and sets Drop of every job; those of one Rx in the order
// given. now is in nanoseconds. Nothing is allocated but the key of a new
// epoch.
func (e *Engine) Open(now int64, jobs []RxJob) {
	for i := range jobs {
		j := &jobs[i]
		j.Drop = e.open(now, j.Rx, j.Data)
	}
}

func (e *Engine) open(now int64, r *Rx, b []byte) engine.Drop {
	switch {
	case len(b) <= Overhead:
		return engine.AEADShort
	case r == nil || !r.Ready():
		return engine.AEADNoKey
	}
	n := r.window.number(binary.BigEndian.Uint32(b))
	if d := r.window.check(n); d != engine.Pass {
		return d
	}
	k, d := e.keyOf(now, r, n>>epochBits)
	if d != engine.Pass {
		return d
	}
	k.nonce(&e.nonce, n)
	text := b[HeaderLen:]
	text, err := k.aead.Open(text[:0], e.nonce[:], text, k.ad[:])
	if err != nil {
		return engine.AEADForged
	}
	r.window.add(n)
	r.enter(n>>epochBits, e)
	if !r.accept.Sane(text) {
		return engine.AEADInsane
	}
	return engine.Pass
}

// keyOf returns the key of an epoch. One that is not at hand is left in e.ahead
// as well, with its chain.
func (e *Engine) keyOf(now int64, r *Rx, epoch uint64) (*key, engine.Drop) {
	switch place := epoch + current - r.epoch; {
	case place <= following: // an epoch before the one before wraps round
		if k := r.keys[place]; k != nil {
			return k, engine.Pass
		}
		return nil, engine.AEADLate
	case epoch < r.epoch:
		return nil, engine.AEADLate
	case !r.far.take(now):
		return nil, engine.AEADFar
	}
	c := r.chain // at the epoch after the following one; fewer than 512 steps, since n is within 2^32
	for range epoch - r.epoch - 2 {
		c.step()
	}
	e.ahead = ahead{key: c.key(), chain: c}
	e.ahead.chain.step()
	return e.ahead.key, engine.Pass
}

// enter goes on to epoch, if that is a new one: a packet of it was authentic.
func (r *Rx) enter(epoch uint64, e *Engine) {
	switch {
	case epoch <= r.epoch:
		return
	case epoch == r.epoch+1:
		r.keys[before], r.keys[current] = r.keys[current], r.keys[following]
	default:
		r.keys[before], r.keys[current], r.chain = nil, e.ahead.key, e.ahead.chain
		e.ahead = ahead{}
	}
	r.epoch = epoch
	r.keys[following] = r.chain.key()
	r.chain.step()
}
