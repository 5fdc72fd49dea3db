package mppe

import (
	"xpptp/engine"
	"xpptp/engine/mppe/multi"
)

// isFlag reports whether the packet with this count changes the key in
// stateful mode (RFC 3078 §7.2).
func isFlag(count uint16) bool { return count&flagMask == flagMask }

// flagsIn returns how many flag packets there are among the n that follow
// count.
func flagsIn(count uint16, n int) int { return (int(count)+n+1)/256 - (int(count)+1)/256 }

// txStateful is what the sending direction needs in stateful mode. Both
// dialects' keys are kept, so that a wrong guess can be corrected: they stand
// on the same chain, Linux's further on by one for every FLUSHED packet (flag
// packets aside) that we think the peer has seen.
type txStateful struct {
	stream multi.Stream
	rfc    multi.KeyState // changed at flag packets only
	linux  multi.KeyState // changed by other FLUSHED packets as well
	low    multi.KeyState // linux, above changes ago
	above  int
	peer   *Rx     // shows the peer's dialect
	chosen Dialect // what the peer's rejections showed; else the peer's
	asked  bool    // a FLUSHED packet is due
	again  bool    // the peer has not seen the last FLUSHED packet
	lastID uint8   // identifier of the last Reset-Request
	sent   int     // packets since the last FLUSHED packet, −1 before any

	began      multi.KeyState // key that the current stream began with
	beganLen   int            // length of the packet it began with; 0 if that was a flag packet
	rejectedAt int64
}

// How far the Linux key may be off, backward and forward, to be found again.
const (
	maxAbove = 128
	maxAhead = 16
)

// rejectPause is how often rejections bring a FLUSHED packet, to find the
// peer's key by.
const rejectPause = second / 4

func newTxStateful(k *multi.KeyState) *txStateful {
	s := &txStateful{rfc: *k, linux: *k, low: *k, sent: -1, rejectedAt: -rejectPause}
	s.stream.Init(k.Session[:k.Len])
	return s
}

// Follow lets t answer Reset-Requests in the dialect that r, the receiving
// direction of the same call, learns from the peer.
func (t *Tx) Follow(r *Rx) {
	if t.st != nil {
		t.st.peer = r
	}
}

// Flush takes a CCP Reset-Request (RFC 3078 §8.2): the next packet starts a
// new stream and says so. id is the request's identifier; a repeated one
// means that the answer to the last request never took effect. The Reset-Ack
// should go out before that packet: Linux discards data until it has it.
func (t *Tx) Flush(id uint8) {
	s := t.st
	if s == nil || s.asked {
		return
	}
	// The peer sends a new request for the first packet after the lost one that
	// it sees. So if at most one packet followed our last answer, or the request
	// is the same, that answer was lost, and a Linux peer's key stands still.
	s.again = s.sent >= 0 && (id == s.lastID || s.sent <= 1)
	s.asked, s.lastID = true, id
}

// Rejected takes the news that the peer could not make sense of a packet that
// it decrypted: the contents of an LCP Protocol-Reject (RFC 1661 §5.7: rejected
// protocol, then information) of a protocol that was never sent. In stateful
// mode its key is then not ours, and it does not know: Linux loses sync for
// good this way when one of our FLUSHED packets is lost.
//
// What it rejects is our packet under its key. If it is the packet that began
// the stream, the key that makes sense of it is the peer's; if not, the next
// packet begins a new stream, so that there will be one.
func (e *Engine) Rejected(now int64, t *Tx, rejected []byte) {
	s := t.st
	if s == nil || s.asked {
		return
	}
	if e.findPeer(s, rejected) {
		s.asked = true
		return
	}
	if now-s.rejectedAt >= rejectPause {
		s.asked, s.rejectedAt = true, now
	}
}

// findPeer looks for the key under which the packet that began the stream
// becomes the garbage that the peer rejected, and sets the chains by it.
func (e *Engine) findPeer(s *txStateful, garbage []byte) bool {
	if s.beganLen == 0 || len(garbage) < 2 {
		return false
	}
	if len(garbage) == s.beganLen+1 && garbage[0] == 0 {
		garbage = garbage[1:] // the peer expanded a one-byte protocol
	}
	if len(garbage) != s.beganLen {
		return false
	}
	s.beganLen = 0 // one search for a stream
	if e.explains(s, &s.rfc, garbage) {
		s.chosen = RFCDialect
		return true
	}
	e.key = s.low
	for i := 0; i <= s.above+maxAhead; i++ {
		if i > 0 {
			e.cipher.Rekey(&e.key, 1)
		}
		if e.explains(s, &e.key, garbage) {
			s.linux, s.above, s.chosen = e.key, i, LinuxDialect
			return true
		}
	}
	return false
}

// explains reports whether a peer with key k, seeing the first packet of our
// stream, would have seen this garbage.
func (e *Engine) explains(s *txStateful, k *multi.KeyState, garbage []byte) bool {
	n := copy(e.saved[:], garbage)
	for _, key := range [...]*multi.KeyState{k, &s.began} {
		e.stream.Init(key.Session[:key.Len])
		e.crypt(e.saved[:n:n])
	}
	return sanePrefix(e.saved[:n], len(garbage))
}

// dialect is what to speak: what the peer's rejections showed, what it
// speaks, or else a guess: Linux alone begins without FLUSHED.
func (s *txStateful) dialect() Dialect {
	switch {
	case s.chosen != UnknownDialect:
		return s.chosen
	case s.peer == nil || s.peer.st == nil:
		return LinuxDialect
	case s.peer.st.dialect != UnknownDialect:
		return s.peer.st.dialect
	case s.peer.st.beganFlushed:
		return RFCDialect
	}
	return LinuxDialect
}

// restarts reports whether the packet with this count starts a new stream.
func (s *txStateful) restarts(count uint16) bool {
	if s.sent >= 0 {
		s.sent++
	}
	return s.asked || isFlag(count)
}

// restart starts a new stream for the packet of n bytes with this count.
func (s *txStateful) restart(c *multi.Cipher, count uint16, n int) {
	s.beganLen = n
	switch {
	case isFlag(count):
		s.beganLen = 0
		c.Rekey(&s.rfc, 1)
		c.Rekey(&s.low, 1)
		c.Rekey(&s.linux, 1)
	case !s.again:
		c.Rekey(&s.linux, 1)
		if s.above++; s.above > maxAbove {
			c.Rekey(&s.low, 1)
			s.above--
		}
	}
	if s.asked {
		s.asked, s.again, s.sent = false, false, 0
	}
	s.began = s.linux
	if s.dialect() == RFCDialect {
		s.began = s.rfc
	}
	s.stream.Init(s.began.Session[:s.began.Len])
}

// rxStateful is what the receiving direction needs in stateful mode.
type rxStateful struct {
	stream  multi.Stream
	before  multi.Stream   // stream before the packets of the current batch
	rfc     multi.KeyState // key of the last packet if the peer speaks RFC
	linux   multi.KeyState // and if it speaks Linux
	dialect Dialect

	beganFlushed bool  // the peer's first packet was FLUSHED
	begun        bool  // there was a first packet
	asks         uint8 // Reset-Requests since the last good packet
	askedAt      int64
	pause        int64 // between Reset-Requests
}

// Reset-Requests are sent at once, then again after a pause that doubles.
const (
	minPause = second / 10
	maxPause = second
)

func newRxStateful(k *multi.KeyState) *rxStateful {
	s := &rxStateful{rfc: *k, linux: *k, askedAt: -maxPause, pause: minPause}
	s.stream.Init(k.Session[:k.Len])
	return s
}

// good notes a packet that made sense.
func (s *rxStateful) good() {
	s.begun = true
	s.asks = 0
	s.pause = minPause
}

// ask lets a Reset-Request go out unless one went out just now.
func (s *rxStateful) ask(now int64, j *RxJob) {
	if now-s.askedAt < s.pause {
		return
	}
	if s.asks > 0 {
		s.pause = min(2*s.pause, maxPause)
	}
	s.asks = min(s.asks+1, 250)
	s.askedAt = now
	j.Reset = true
}

// resync opens a stateful packet that cannot simply go on: it comes after a
// gap, starts a new stream, or stands behind one that did. There is no state
// "out of sync": whatever comes is tried against the stream as it stands or,
// if FLUSHED, against the keys the peer may have, and kept only if sane; so no
// forged packet can throw the session out, and no loss is for good.
func (e *Engine) resync(now int64, j *RxJob, h uint16) {
	r, s, count := j.Rx, j.Rx.st, h&countMask
	ahead := int((count - r.count) & countMask)
	p := j.Data[HeaderLen:]
	switch {
	case ahead == 0 || ahead > halfWindow && s.asks == 0:
		j.Drop = engine.MPPELate
		return
	case h&bitFlushed != 0 || isFlag(count):
		j.Drop = e.restart(now, r, count, ahead, p)
	case ahead == 1:
		e.stream = s.stream
		j.Drop = engine.MPPEInsane
		if e.tryStream(r, p, false) {
			j.Drop = engine.Pass
		}
	default:
		j.Drop = engine.MPPEOutOfSync
	}
	if j.Drop != engine.Pass {
		s.ask(now, j)
		return
	}
	if !s.begun {
		s.beganFlushed = h&bitFlushed != 0
	}
	s.stream = e.stream
	r.count = count
	s.good()
}

// restart finds the key of a packet that starts a new stream. The flag packets
// up to it have changed the key in any dialect. The rest is what it shows of
// the peer's dialect: the RFC's key is then the current one; Linux's has
// changed once for this packet (unless it is a flag packet), and once for
// every FLUSHED packet that was lost, of which there may be as many as we
// asked for.
func (e *Engine) restart(now int64, r *Rx, count uint16, ahead int, p []byte) engine.Drop {
	s := r.st
	flags := flagsIn(r.count, ahead)
	more := 2 + int(s.asks)
	if s.asks >= 4 {
		more += 16 // lost for so long that the count may have wrapped
	}
	if s.dialect == RFCDialect && s.asks == 0 {
		more = 0
	}
	if !r.tokens.allows(now, flags+more, freeSteps/4) {
		return engine.MPPECatchUp
	}
	diverged := s.rfc.Session != s.linux.Session
	rfc := &e.other
	*rfc = s.rfc
	e.cipher.Rekey(rfc, flags)
	if diverged && s.dialect != LinuxDialect && e.try(r, rfc, p, true) {
		s.rfc, s.linux, s.dialect = *rfc, *rfc, RFCDialect
		return engine.Pass
	}
	e.key = s.linux
	e.cipher.Rekey(&e.key, flags)
	for extra := 0; extra <= more; extra++ {
		if extra > 0 {
			e.cipher.Rekey(&e.key, 1)
		}
		if e.try(r, &e.key, p, true) {
			s.learn(rfc, &e.key, extra, isFlag(count), diverged)
			return engine.Pass
		}
	}
	if diverged && s.dialect == LinuxDialect && e.try(r, rfc, p, true) {
		s.rfc, s.linux, s.dialect = *rfc, *rfc, RFCDialect
		return engine.Pass
	}
	r.tokens.wasted(flags + more + 2)
	return engine.MPPEInsane
}

// learn takes the key found on the Linux chain, extra changes beyond the flag
// packets, and what it says about the peer.
func (s *rxStateful) learn(rfc, found *multi.KeyState, extra int, flag, diverged bool) {
	switch {
	case extra > 0 && s.dialect == RFCDialect && extra%16 == 0:
		rfc = found // whole rounds of the count were lost, with 16 flag packets each
	case extra > 0:
		s.dialect = LinuxDialect
	case !flag && !diverged:
		s.dialect = RFCDialect
	}
	s.rfc, s.linux = *rfc, *found
}

// rewind takes back what a stateful stream did from fast job i on: the stream
// stands again behind the last sane packet, and this packet and those after it
// are ciphertext again, to be tried one by one.
func (e *Engine) rewind(i int, jobs []RxJob) {
	r := jobs[e.fast[i].job].Rx
	e.stream = r.st.before
	for k := range e.fast {
		j := &jobs[e.fast[k].job]
		switch {
		case j.Rx != r:
		case k < i:
			e.skip(len(j.Data) - HeaderLen)
		default:
			if k == i {
				r.st.stream = e.stream
			}
			e.crypt(j.Data[HeaderLen:])
			e.later(e.fast[k].job)
		}
	}
}

// skip moves e.stream on by n bytes.
func (e *Engine) skip(n int) {
	for n > 0 {
		k := min(n, len(e.waste))
		e.crypt(e.waste[:k:k])
		n -= k
	}
}
