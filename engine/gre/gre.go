// Package gre keeps the enhanced GRE state of one call (RFC 2637 §4): the
// sequence numbers it sends, what it acknowledges, the order of what it
// receives, and the sliding window.
//
// A State belongs to one goroutine. Times are nanoseconds of one monotonic
// clock, starting above zero. Nothing here allocates per packet once the
// worker's Buffers have grown to what they need.
//
// # Receiving
//
// Receive judges one sequence number. A packet in its turn is delivered; one
// ahead of its turn is held, for at most Config.ReorderDelay, in a buffer
// borrowed from the worker; Next hands out what has become deliverable.
//
// Anyone can forge a GRE packet, so a gap is never committed on trust. A
// packet delivered beyond a gap is tentative: the delivery point stays where
// it was until Confirm says that the packet made sense (it decrypted to
// something sane), and until then packets from before the gap are still
// taken. A jump of more than Config.MaxJump in either direction also wants two
// consecutive packets. Only what is confirmed is acknowledged.
package gre

import (
	"math"

	"xpptp/engine"
	"xpptp/engine/wire"
)

// Defaults of Config, taken for zero values where that makes sense.
const (
	DefaultMaxJump    = 1024
	DefaultAckDelay   = 4e6   // 4 ms
	DefaultMinTimeout = 100e6 // 100 ms
	DefaultMaxTimeout = 10e9  // 10 s
)

// confirmWithin is how long a tentative delivery may stay unconfirmed. The
// verdict comes with the worker's next pass or, for a packet that was dropped
// without one, never.
const confirmWithin = 50e6

// burstAck is how many packets have to wait for an acknowledgment to be worth
// one of its own at the end of a burst.
const burstAck = 8

// NoDeadline is what Deadline returns when no timer runs.
const NoDeadline = math.MaxInt64

// Config is what the calls of a worker have in common. It must not change
// while a State uses it.
type Config struct {
	// First is the sequence number of the first packet sent: 0 (RFC 2637
	// §4.1, FreeBSD) or 1 (Linux).
	First uint32
	// Window is the receive window we advertise, in packets. A quarter of it
	// unacknowledged brings an acknowledgment at once.
	Window int
	// AckDelay is how long an acknowledgment waits for data to ride on.
	AckDelay int64
	// ReorderDelay is how long a packet ahead of its turn waits for the ones
	// before it; 0 delivers at once and drops what comes late.
	ReorderDelay int64
	// Buffers lends the slots for packets that wait. Nil: as if ReorderDelay
	// were 0.
	Buffers *Buffers
	// MaxJump is the longest jump of the sequence number that one packet can
	// make believable.
	MaxJump uint32
	// LimitWindow holds packets back as §4.2 says. Else the window is only
	// estimated, and nothing waits for an acknowledgment.
	LimitWindow bool
	// MinTimeout and MaxTimeout bound the adaptive time-out (§4.4).
	MinTimeout, MaxTimeout int64
}

// Stats counts one call's packets. Of the packets with a sequence number,
// Received = Delivered + Late + Duplicate + Jumps + Full + Cleared + those that
// wait now.
type Stats struct {
	Received  uint64 // packets with a sequence number
	Delivered uint64 // handed on, in their turn or tentatively
	Reordered uint64 // arrived behind a higher number, late ones among them
	Late      uint64 // dropped: their turn had passed
	Duplicate uint64 // dropped: received already
	Jumps     uint64 // dropped: jump too large for one packet
	Full      uint64 // dropped: reorder buffer full
	Cleared   uint64 // handed back by Clear
	Lost      uint64 // numbers passed over
	Sent      uint64 // packets with a sequence number
	AcksSent  uint64 // packets that only acknowledge
	AcksRecv  uint64 // acknowledgments that were news
	BadAcks   uint64 // acknowledgments of what was never sent
	Timeouts  uint64 // window time-outs (§4.4.2)
}

// State is the GRE state of one call. Init makes it ready.
type State struct {
	cfg *Config

	// Receive side.
	next      uint32 // the number whose turn it is
	candBase  uint32 // first number delivered tentatively
	candNext  uint32 // one past the last number delivered tentatively
	jump      uint32 // number that would make a large jump believable
	lastOut   uint32 // number of the last packet the caller handed on
	lag       uint32 // number that would go on with a run of late packets
	lagRun    uint8  // length of that run
	ackedIn   uint32 // highest number we have acknowledged
	unacked   uint32 // packets since then
	seen      uint64 // bit i: number next−1−i was received
	flags     flags
	ring      *ring // packets that wait; nil if none
	candAt    int64 // when the last packet was delivered tentatively
	ackAt     int64 // when the delayed acknowledgment is due; 0 if none is
	reorderAt int64 // when the oldest waiting packet is due; 0 if none waits

	// Send side.
	sendNext  uint32 // next number to send
	ackedOut  uint32 // highest number the peer has acknowledged (First−1 before any)
	probe     uint32 // number whose acknowledgment is timed
	window    uint16 // current send window
	maxWindow uint16 // the peer's
	credit    uint16 // packets acknowledged since the window last grew
	rtt, dev  int64  // §4.4.1
	probeAt   int64  // when probe was sent; 0 if none is timed
	timeoutAt int64  // when the oldest outstanding packet times out; 0 if none

	Stats Stats
}

type flags uint8

const (
	started   flags = 1 << iota // a packet has been delivered in its turn
	tentative                   // candBase and candNext are in force
	jumped                      // jump is in force
	anyIn                       // something can be acknowledged
	handedOn                    // lastOut is in force
)

// Init starts a call. peerWindow is the receive window the peer advertised;
// ppd its packet processing delay (§4.4), the first estimate of the round
// trip. A State in use must be cleared first.
func (s *State) Init(cfg *Config, peerWindow uint16, ppd int64) {
	*s = State{
		cfg:      cfg,
		sendNext: cfg.First,
		ackedOut: cfg.First - 1,
		rtt:      ppd,
	}
	s.SetPeerWindow(peerWindow)
}

// SetPeerWindow sets the peer's receive window once it is known, and starts
// the window anew (§4.2.1).
func (s *State) SetPeerWindow(n uint16) {
	s.maxWindow = max(n, 1)
	s.window = s.maxWindow/2 + s.maxWindow%2
	s.credit = 0
}

// Receive judges a packet with sequence number seq that item stands for (a
// pointer, so that it fits an interface without allocation).
//
// With Pass and held false the caller delivers item, then what Next returns;
// with held true the State keeps item until Next or Clear hands it out, and
// the caller calls Next. With any other Drop the caller keeps item and drops
// the packet.
func (s *State) Receive(now int64, seq uint32, item any) (held bool, d engine.Drop) {
	s.Stats.Received++
	if s.flags&tentative != 0 && now-s.candAt > confirmWithin {
		s.flags &^= tentative
	}
	ahead := int32(seq - s.next)
	switch {
	case ahead == 0:
		if s.ring != nil {
			s.Stats.Reordered++
		}
		s.advance(now, seq)
		s.Stats.Delivered++
		return false, engine.Pass
	case s.flags&(started|tentative) == 0 && (ahead == 1 || ahead < 0 || ahead > int32(s.cfg.maxJump())):
		// The peer's first number is its own choice: usually 0 or 1.
		return s.tentatively(now, seq)
	case ahead > int32(s.cfg.maxJump()) || ahead < -int32(s.cfg.maxJump()):
		return s.leap(now, seq, item)
	case ahead < 0:
		if i := uint32(-ahead) - 1; i < 64 && s.seen>>i&1 != 0 {
			s.count(engine.GREDuplicate)
			return false, engine.GREDuplicate
		}
		if s.fallBack(now, seq) {
			s.Stats.Delivered++
			return false, engine.Pass
		}
		s.count(engine.GRELate)
		return false, engine.GRELate
	case s.flags&tentative != 0 && int32(seq-s.candNext) <= 0 && int32(seq-s.candBase) >= -int32(s.cfg.maxJump()):
		// Before or next to what was delivered on probation: if that proves
		// forged, this one is in its turn; nothing is gained by waiting.
		if seq == s.candNext-1 {
			s.count(engine.GREDuplicate)
			return false, engine.GREDuplicate
		}
		return s.tentatively(now, seq)
	}
	return s.hold(now, seq, uint32(ahead), item)
}

// hold keeps a packet that is ahead of its turn, or delivers it on probation
// if it cannot wait.
func (s *State) hold(now int64, seq, ahead uint32, item any) (bool, engine.Drop) {
	if s.cfg.ReorderDelay <= 0 || s.cfg.Buffers == nil {
		return s.beyond(now, seq, item)
	}
	if ahead >= uint32(s.cfg.Buffers.slots) {
		return s.beyond(now, seq, item)
	}
	if s.ring == nil {
		if s.ring = s.cfg.Buffers.get(); s.ring == nil {
			return s.beyond(now, seq, item)
		}
	}
	behind := s.ring.highest(s.next) > ahead
	if d := s.ring.put(seq, now, item); d != engine.Pass {
		s.count(d)
		return false, d
	}
	if behind {
		s.Stats.Reordered++
	}
	if s.reorderAt == 0 {
		s.reorderAt = now + s.cfg.ReorderDelay
	}
	return true, engine.Pass
}

// leap judges a jump too large to believe: the packet that follows the one
// that made it is the first to be taken.
func (s *State) leap(now int64, seq uint32, item any) (bool, engine.Drop) {
	follows := s.flags&jumped != 0 && seq == s.jump ||
		s.flags&tentative != 0 && seq == s.candNext
	s.jump = seq + 1
	s.flags |= jumped
	if !follows {
		s.count(engine.GREJump)
		return false, engine.GREJump
	}
	return s.beyond(now, seq, item)
}

// beyond delivers a packet from beyond a gap, on probation, after everything
// that waits.
func (s *State) beyond(now int64, seq uint32, item any) (bool, engine.Drop) {
	if s.ring != nil {
		if d := s.ring.put(seq, 0, item); d != engine.Pass {
			s.count(d)
			return false, d
		}
		s.ring.releaseAll()
		return true, engine.Pass
	}
	return s.tentatively(now, seq)
}

// tentatively delivers a packet on probation.
func (s *State) tentatively(now int64, seq uint32) (bool, engine.Drop) {
	s.probation(now, seq)
	s.Stats.Delivered++
	return false, engine.Pass
}

// probation notes that seq was delivered tentatively.
func (s *State) probation(now int64, seq uint32) {
	s.candAt = now
	if s.flags&tentative == 0 {
		s.flags |= tentative
		s.candBase, s.candNext = seq, seq+1
		return
	}
	if int32(seq-s.candBase) < 0 {
		s.candBase = seq
	}
	if int32(seq-s.candNext) >= 0 {
		s.candNext = seq + 1
	}
}

// Next returns the next packet that has become deliverable. The caller asks
// until ok is false: after Receive, after Expire and after Confirm.
func (s *State) Next(now int64) (seq uint32, item any, ok bool) {
	r := s.ring
	if r == nil {
		return 0, nil, false
	}
	i := r.find(s.next)
	inTurn := i >= 0
	if i < 0 && r.due > 0 {
		i = r.lowest(s.next, true)
	}
	if i < 0 && s.flags&tentative != 0 {
		i = r.find(s.candNext)
	}
	if i < 0 {
		return 0, nil, false
	}
	p := r.remove(i)
	if inTurn {
		s.advance(now, p.seq)
	} else {
		s.probation(now, p.seq)
	}
	s.Stats.Delivered++
	s.settle()
	return p.seq, p.item, true
}

// lagLimit is how many late packets in a row, one number after the other and
// nothing between them, show that it is us who went astray.
const lagLimit = 8

// fallBack takes the delivery point back to seq, if packets that seem late
// are all that comes: a number that was corrupted, or forged where nothing
// tells it, had moved the point too far ahead.
func (s *State) fallBack(now int64, seq uint32) bool {
	if seq != s.lag {
		s.lagRun = 0
	}
	s.lag = seq + 1
	if s.lagRun++; s.lagRun < lagLimit || s.ring != nil {
		return false
	}
	s.lagRun = 0
	s.flags &^= tentative | handedOn
	s.next, s.seen = seq, 0
	s.advance(now, seq)
	return true
}

// HandOn is asked for every packet of data right before it is handed on, when
// its fate is known: false means that a later one went ahead of it. That
// happens when a burst brought a packet from beyond a gap before those of the
// gap; the caller drops it as late.
func (s *State) HandOn(seq uint32) bool {
	if behind := int32(s.lastOut - seq); s.flags&handedOn != 0 && behind >= 0 && behind <= int32(s.cfg.maxJump()) {
		s.Stats.Delivered--
		s.count(engine.GRELate)
		return false
	}
	s.flags |= handedOn
	s.lastOut = seq
	return true
}

// count counts a packet dropped.
func (s *State) count(d engine.Drop) {
	switch d {
	case engine.GREDuplicate:
		s.Stats.Duplicate++
	case engine.GRELate:
		s.Stats.Reordered++
		s.Stats.Late++
	case engine.GREReorderFull:
		s.Stats.Full++
	default:
		s.Stats.Jumps++
	}
}

// settle sets the reorder timer and gives the buffer back if it is empty.
func (s *State) settle() {
	switch {
	case s.ring == nil:
	case s.ring.empty():
		s.cfg.Buffers.put(s.ring)
		s.ring, s.reorderAt = nil, 0
	default:
		s.reorderAt = s.ring.oldest() + s.cfg.ReorderDelay
	}
}

// Confirm tells what became of a delivered packet: sane if it proved genuine
// (decrypted to a negotiated protocol with a sane header, or, without
// encryption, is a PPP packet that makes sense), not sane if it proved forged
// or corrupt. It commits or takes back a tentative jump, and gives a forged
// packet's turn back to the genuine one. A packet that was dropped without
// showing either (no key, out of sync, late count) is not confirmed at all.
func (s *State) Confirm(now int64, seq uint32, sane bool) {
	if s.flags&tentative == 0 {
		if !sane && s.flags&started != 0 && seq == s.next-1 && s.seen&1 != 0 && s.ring == nil {
			s.next--
			s.seen >>= 1
		}
		return
	}
	if int32(seq-s.candBase) < 0 || int32(seq-s.candNext) >= 0 {
		return
	}
	if sane {
		if back := int32(seq - s.next); back >= 0 || back < -int32(s.cfg.maxJump()) || s.flags&started == 0 {
			s.advance(now, seq)
		}
	}
	if seq == s.candNext-1 {
		s.flags &^= tentative
	}
}

// advance moves the delivery point past seq.
func (s *State) advance(now int64, seq uint32) {
	n := seq + 1 - s.next
	switch {
	case int32(n) <= 0 || s.flags&started == 0: // a new line of numbers
		s.seen = 1
	case n <= 64:
		s.seen = s.seen<<n | 1
		s.Stats.Lost += uint64(n) - 1
	default:
		s.seen = 1
		s.Stats.Lost += uint64(n) - 1
	}
	s.next = seq + 1
	s.lagRun = 0
	s.flags |= started | anyIn
	s.unacked++
	if s.ackAt == 0 {
		s.ackAt = now + s.cfg.ackDelay()
	}
}

// Expire runs the timers that are due: packets that have waited long enough
// become deliverable (ask Next), and an unacknowledged window times out. For
// the delayed acknowledgment ask AckDue.
func (s *State) Expire(now int64) {
	if s.reorderAt != 0 && now >= s.reorderAt && s.ring != nil {
		s.ring.release(s.next, now-s.cfg.ReorderDelay)
	}
	if s.timeoutAt != 0 && now >= s.timeoutAt {
		s.timeout()
	}
}

// Deadline returns when Expire or AckDue next has something to do, or
// NoDeadline.
func (s *State) Deadline() int64 {
	t := int64(NoDeadline)
	for _, at := range [...]int64{s.reorderAt, s.ackAt, s.timeoutAt} {
		if at != 0 && at < t {
			t = at
		}
	}
	return t
}

// Held returns how many packets wait for their turn.
func (s *State) Held() int {
	if s.ring == nil {
		return 0
	}
	return s.ring.n
}

// Clear hands every waiting packet back to f, in order of their numbers, when
// the key changes or the call ends: what was received under one key is not
// delivered under another.
func (s *State) Clear(f func(item any)) {
	if s.ring == nil {
		return
	}
	for !s.ring.empty() {
		s.Stats.Cleared++
		f(s.ring.remove(s.ring.lowest(s.next, false)).item)
	}
	s.settle()
}

// AckDue reports whether an acknowledgment should go out on its own: a
// quarter of the advertised window is unacknowledged, or the delay has
// passed, or the worker's burst ends with several packets unacknowledged.
func (s *State) AckDue(now int64, burstEnd bool) bool {
	if s.unacked == 0 {
		return false
	}
	return int(s.unacked) >= max(s.cfg.Window/4, 1) || now >= s.ackAt || burstEnd && s.unacked >= burstAck
}

// HeaderLen returns the length of the header that PutHeader would write now.
func (s *State) HeaderLen() int { return wire.GRELen(true, s.unacked != 0) }

// PutHeader writes the GRE header of a data packet to b, with the next
// sequence number and, if there is something to acknowledge, the
// acknowledgment. callID is the peer's. It returns HeaderLen.
func (s *State) PutHeader(now int64, b []byte, callID uint16, payloadLen int) int {
	seq := s.sendNext
	s.sendNext++
	s.Stats.Sent++
	if s.probeAt == 0 {
		s.probe, s.probeAt = seq, now
	}
	if s.cfg.LimitWindow && s.timeoutAt == 0 {
		s.timeoutAt = now + s.ato()
	}
	ack, hasAck := s.takeAck()
	return wire.PutGRE(b, callID, payloadLen, seq, true, ack, hasAck)
}

// PutAck writes a packet that only acknowledges and returns its length, 0 if
// nothing has been received yet.
func (s *State) PutAck(b []byte, callID uint16) int {
	if s.flags&anyIn == 0 {
		return 0
	}
	s.takeAck()
	s.Stats.AcksSent++
	return wire.PutGRE(b, callID, 0, 0, false, s.ackedIn, true)
}

func (s *State) takeAck() (ack uint32, ok bool) {
	if s.unacked == 0 {
		return 0, false
	}
	s.ackedIn, s.unacked, s.ackAt = s.next-1, 0, 0
	return s.ackedIn, true
}

// Buffers lends reorder buffers to the calls of one worker and bounds how many
// are out. It is not for concurrent use.
type Buffers struct {
	slots, max, made int
	free             []*ring
}

// NewBuffers returns a lender of at most n buffers of the given number of
// slots (1 to 256) each. Buffers are made as they are needed and kept.
func NewBuffers(n, slots int) *Buffers {
	return &Buffers{slots: min(max(slots, 1), 256), max: n, free: make([]*ring, 0, n)}
}

// Out returns how many buffers are lent out.
func (b *Buffers) Out() int { return b.made - len(b.free) }

func (b *Buffers) get() *ring {
	if n := len(b.free) - 1; n >= 0 {
		r := b.free[n]
		b.free = b.free[:n]
		return r
	}
	if b.made >= b.max {
		return nil
	}
	b.made++
	return &ring{slot: make([]slot, b.slots+1)}
}

func (b *Buffers) put(r *ring) { b.free = append(b.free, r) }

func (c *Config) maxJump() uint32 {
	if c.MaxJump == 0 {
		return DefaultMaxJump
	}
	return c.MaxJump
}

func (c *Config) ackDelay() int64 {
	if c.AckDelay == 0 {
		return DefaultAckDelay
	}
	return c.AckDelay
}
