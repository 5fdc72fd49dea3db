package mppe

import (
	"encoding/binary"

	"xpptp/engine"
	"xpptp/engine/mppe/multi"
)

// batch is how many packets go to the cipher in one call. Longer slices of
// jobs are worked off in pieces.
const batch = 256

// probeLen is how much of a packet is decrypted to judge it: PPP protocol and
// the longest IPv4 or the fixed IPv6 header.
const probeLen = 64

// Engine seals and opens packets in batches. It holds scratch memory only:
// one per worker, not for concurrent use.
type Engine struct {
	cipher *multi.Cipher
	units  []multi.Unit
	hot    hotKeys
	fast   []fastJob
	slow   [batch]bool // left to the third pass
	rest   bool        // some are

	one    [1]multi.Unit
	stream multi.Stream
	key    multi.KeyState // chains being tried; here, since the cipher keeps no promise not to hold on to them
	other  multi.KeyState
	saved  [probeLen]byte
	waste  [probeLen]byte
}

// fastJob is a packet that was decrypted on the assumption that its batch is
// in order.
type fastJob struct {
	job   int
	count uint16
	first bool     // first of its session in the batch
	prev  [16]byte // session key before the first
}

// New returns an engine that uses the given kernels.
func New(way multi.Way) *Engine {
	return &Engine{
		cipher: multi.New(way),
		units:  make([]multi.Unit, 0, batch),
		fast:   make([]fastJob, 0, batch),
	}
}

// TxJob is a packet to seal. Data is HeaderLen bytes of room for the MPPE
// header, then PPP protocol and payload: it is sealed in place. What lies
// beyond Data is not touched.
type TxJob struct {
	Tx   *Tx
	Data []byte
}

// Seal seals packets; those of one Tx, which must be Ready, in the order
// given. The outer PPP protocol 00FD is the caller's to write.
func (e *Engine) Seal(jobs []TxJob) {
	for i := range jobs {
		j := &jobs[i]
		t := j.Tx
		t.count = (t.count + 1) & countMask
		h := bitEncrypted | t.count
		if t.st == nil {
			h |= bitFlushed
			u := e.unit(j.Data)
			u.Key, u.Steps = &t.key, 1
			if len(e.hot.slots) > 0 {
				e.hot.note(&t.key, &t.hot)
			}
		} else {
			if t.st.restarts(t.count) {
				e.run() // what this stream still owes comes first
				t.st.restart(e.cipher, t.count, len(j.Data)-HeaderLen)
				h |= bitFlushed
			}
			e.unit(j.Data).Stream = &t.st.stream
		}
		binary.BigEndian.PutUint16(j.Data, h)
		if len(e.units) == batch {
			e.run()
		}
	}
	e.run()
}

// unit begins another unit, for the packet p. It is filled in where it stands:
// a copy of what was written a moment ago would wait for those stores.
func (e *Engine) unit(p []byte) *multi.Unit {
	n := len(e.units)
	e.units = e.units[:n+1]
	u := &e.units[n]
	u.Data = p[HeaderLen:]
	return u
}

// run works off the units collected.
func (e *Engine) run() {
	e.cipher.Crypt(e.units)
	clear(e.units)
	e.units = e.units[:0]
}

// RxJob is a packet to open. Data is MPPE header and ciphertext. On Drop ==
// Pass Data[HeaderLen:] is PPP protocol and payload, of an accepted protocol
// and with sane lengths, and the key and count are committed; else Data is
// worthless. Reset asks the caller to send a CCP Reset-Request, whatever Drop
// says.
type RxJob struct {
	Rx    *Rx
	Data  []byte
	Drop  engine.Drop
	Reset bool
}

// Open opens packets; those of one Rx in the order given. It sets Drop and
// Reset of every job. now is in nanoseconds.
func (e *Engine) Open(now int64, jobs []RxJob) {
	for len(jobs) > batch {
		e.open(now, jobs[:batch])
		jobs = jobs[batch:]
	}
	e.open(now, jobs)
}

// open works in three passes. Packets that continue their session's count
// without a gap are decrypted together; then they are judged, in order; then
// the rest, if any, is tried one by one, each against what has been committed
// before.
func (e *Engine) open(now int64, jobs []RxJob) {
	e.fast = e.fast[:0]
	e.rest = false
	e.sort(jobs)
	e.cipher.Crypt(e.units)
	e.judge(jobs)
	clear(e.units)
	e.units = e.units[:0]
	if e.rest {
		e.openRest(now, jobs)
	}
}

// openRest is the third pass.
func (e *Engine) openRest(now int64, jobs []RxJob) {
	for i := range jobs {
		if !e.slow[i] {
			continue
		}
		e.slow[i] = false
		j := &jobs[i]
		j.Rx.pace = noBatch
		h := binary.BigEndian.Uint16(j.Data)
		if j.Rx.st == nil {
			e.catchUp(now, j, h)
		} else {
			e.resync(now, j, h)
		}
	}
}

// later leaves job i to the third pass.
func (e *Engine) later(i int) {
	e.slow[i] = true
	e.rest = true
}

// sort decides whether jobs go the fast way or the careful one. Once a session
// has left the fast way it stays off it for the rest of the batch, so its
// packets keep their order.
func (e *Engine) sort(jobs []RxJob) {
	for i := range jobs {
		j := &jobs[i]
		r := j.Rx
		h, drop := r.parse(j.Data)
		j.Drop, j.Reset = drop, false
		if drop != engine.Pass {
			continue
		}
		count := h & countMask
		first := r.pace == noBatch
		if first {
			r.pace, r.run = fast, r.count
		}
		if r.pace == careful || count != (r.run+1)&countMask || r.st != nil && (h&bitFlushed != 0 || isFlag(count)) {
			r.pace = careful
			e.later(i)
			continue
		}
		r.run = count
		n := len(e.fast)
		e.fast = e.fast[:n+1]
		f, u := &e.fast[n], e.unit(j.Data)
		f.job, f.count, f.first = i, count, first
		switch {
		case r.st == nil:
			u.Key, u.Steps = &r.key, 1
			if first {
				f.prev = r.key.Session
			}
		case first:
			r.st.before = r.st.stream
			fallthrough
		default:
			u.Stream = &r.st.stream
		}
	}
}

// judge commits what the fast jobs decrypted where it is sane.
func (e *Engine) judge(jobs []RxJob) {
	for i := range e.fast {
		f := &e.fast[i]
		j := &jobs[f.job]
		r := j.Rx
		r.pace = noBatch
		if e.rest && e.slow[f.job] {
			continue // sent back by an earlier one of its stream
		}
		if p := j.Data[HeaderLen:]; !r.plainIPv4(p) && !r.sane(p, false) {
			if r.st != nil {
				e.rewind(i, jobs)
				continue
			}
			j.Drop = engine.MPPEInsane
			if f.first {
				r.key.Session = f.prev // the cipher left the key of the last packet there
			}
			continue
		}
		r.count = f.count
		if r.st != nil {
			r.st.good()
			continue
		}
		r.key.Session = e.units[i].Used
		if r.misses > 0 { // there is no scout without
			r.misses, r.scout = 0, nil
		}
		if len(e.hot.slots) > 0 {
			e.hot.note(&r.key, &r.hot)
		}
	}
}

// catchUp opens a stateless packet that is not next in turn: the key is
// changed as often as its count says, in a copy that is kept only if the
// packet proves sane (RFC 3078 §8.1).
func (e *Engine) catchUp(now int64, j *RxJob, h uint16) {
	r, p := j.Rx, j.Data[HeaderLen:]
	count := h & countMask
	steps := int((count - r.count) & countMask)
	e.key = r.key
	switch {
	case steps == 0 || steps > halfWindow:
		j.Drop = engine.MPPELate
	case !r.tokens.allows(now, steps, freeSteps):
		j.Drop = engine.MPPECatchUp
	default:
		e.cipher.Rekey(&e.key, steps)
		if !e.try(r, &e.key, p, steps > 1) {
			r.tokens.wasted(steps)
			j.Drop = engine.MPPEInsane
		}
	}
	if j.Drop != engine.Pass {
		if r.misses < lostAfter {
			r.misses++
			return
		}
		if !e.search(r, count, p) {
			return
		}
		j.Drop = engine.Pass
	}
	r.key, r.count = e.key, count
	r.misses, r.scout = 0, nil
}

// try decrypts p with a session key, in place, if what comes out is sane, and
// restores it if not. e.stream is left behind p.
func (e *Engine) try(r *Rx, k *multi.KeyState, p []byte, strict bool) bool {
	e.stream.Init(k.Session[:k.Len])
	return e.tryStream(r, p, strict)
}

// tryStream is try with e.stream where it stands.
func (e *Engine) tryStream(r *Rx, p []byte, strict bool) bool {
	n := min(len(p), probeLen)
	copy(e.saved[:n], p)
	e.crypt(p[:n:n])
	if !r.sane(p, strict) {
		copy(p, e.saved[:n])
		return false
	}
	e.crypt(p[n:])
	return true
}

// crypt runs e.stream over p.
func (e *Engine) crypt(p []byte) {
	e.one[0] = multi.Unit{Stream: &e.stream, Data: p}
	e.cipher.Crypt(e.one[:])
	e.one[0] = multi.Unit{}
}
