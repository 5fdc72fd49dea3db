package ppp

// CCP (RFC 1962) for MPPE (RFC 3078 section 2).

const (
	ccpMPPE = 18

	mppeH = 0x01000000 // stateless
	mppeM = 0x80       // 56 bits
	mppeS = 0x40       // 128 bits
	mppeL = 0x20       // 40 bits
)

// ackHold is how long a client keeps its Configure-Ack back at most.
const ackHold = 1_000_000_000 // ns

// maxRedo is how many renegotiations a peer gets that rejects our data.
const maxRedo = 3

// cipher is one direction's cipher. The zero value is none.
type cipher struct {
	bits     Bits
	stateful bool
}

// single reports whether m is one cipher, not none or a choice.
func (m cipher) single() bool { return m.bits != 0 && m.bits == m.bits.strongest() }

func (m cipher) value() (v uint32) {
	if !m.stateful {
		v |= mppeH
	}
	if m.bits&Bits40 != 0 {
		v |= mppeL
	}
	if m.bits&Bits56 != 0 {
		v |= mppeM
	}
	if m.bits&Bits128 != 0 {
		v |= mppeS
	}
	return v
}

// parseMPPE splits the supported bits; rest holds those that mean nothing to
// us, or obsolete ones (C, D).
func parseMPPE(v uint32) (m cipher, rest uint32) {
	m.stateful = v&mppeH == 0
	if v&mppeL != 0 {
		m.bits |= Bits40
	}
	if v&mppeM != 0 {
		m.bits |= Bits56
	}
	if v&mppeS != 0 {
		m.bits |= Bits128
	}
	return m, v &^ (mppeH | mppeL | mppeM | mppeS)
}

type ccp struct {
	machine
	ours    cipher // what we ask for: our receive direction
	theirs  cipher // what we acknowledged: our send direction
	receive cipher // what the host's receive side is open for
	tried   Bits   // refused by the peer
	redo    uint8
	resetID uint8 // of our Reset-Request
	waiting bool  // for its Reset-Ack
	keyed   bool  // the host has an open side
	exposed bool  // the peer may have sent since the receive side was opened

	// A client's Configure-Ack that is held back.
	heldUntil int64
	held      [6]byte // its options: MPPE alone
	repeated  bool    // the peer asks again while we hold
	heldID    uint8
}

func (c *ccp) mach() *machine { return &c.machine }

// secure reports whether both directions are encrypted.
func (c *ccp) secure() bool {
	return c.state == opened && c.ours.bits != 0 && c.theirs.bits != 0
}

// reset forgets the negotiation.
func (c *ccp) reset() {
	*c = ccp{machine: machine{id: c.id}}
}

// start begins as the policy says: Deny not at all, Allow by listening.
func (c *ccp) start(l *Link) {
	p := l.policy()
	if p.Mode == Deny {
		if kept := l.kept[layerCCP]; kept != nil {
			l.kept[layerCCP] = nil
			l.rejectProtocol(ProtoCCP, kept)
		}
		return
	}
	c.choose(p)
	if p.Mode == Allow {
		// Stopped is where the automaton answers without having asked.
		c.state, c.running = stopped, true
		c.sent, c.bad, c.repeats = 0, 0, 0
	} else {
		l.open(layerCCP)
	}
	l.deliverKept(layerCCP)
}

// choose sets our first request: every key length that we take (RFC 3078
// section 2.1). The peer's Configure-Nak picks one.
func (c *ccp) choose(p Policy) {
	c.ours = cipher{bits: p.Bits, stateful: p.Stateful == StatefulPreferred}
}

func (c *ccp) request(_ *Link, b []byte) []byte {
	if c.ours.bits != 0 {
		b = appendOption32(b, ccpMPPE, c.ours.value())
	}
	return b
}

// sending opens the receive side before a request for one cipher leaves: the
// peer may encrypt right behind its Configure-Ack.
func (c *ccp) sending(l *Link) {
	if !c.ours.single() || c.receive == c.ours {
		return
	}
	c.openReceive(l)
}

func (c *ccp) openReceive(l *Link) {
	c.receive, c.keyed, c.exposed = c.ours, true, false
	l.host.OpenReceive(l.mppeParams(c.ours, false))
}

// acking comes before a Configure-Ack leaves. A request from a peer that has
// had an Ack before means that the peer, which may have been open and sending,
// starts over with the first key: so does our receive side. A request that is
// only sent again does no harm here: what the peer encrypts after it, it
// encrypts from the first key on.
func (c *ccp) acking(l *Link) {
	if c.exposed && c.state != opened && c.receive == c.ours {
		c.openReceive(l)
	}
	c.exposed = c.receive.bits != 0
}

func (l *Link) mppeParams(m cipher, send bool) MPPEParams {
	return MPPEParams{
		Bits: m.bits.Len(), Stateful: m.stateful, Required: l.policy().Mode == Require,
		StartKey: l.user.keys.start(m.bits, send),
	}
}

func (c *ccp) judge(l *Link, opts []byte, a *answer) {
	var got cipher
	for o, rest, ok := nextOption(opts); ok; o, rest, ok = nextOption(rest) {
		if !o.is(ccpMPPE, 4) || got.bits != 0 {
			a.reject(o)
			continue
		}
		m, unknown := parseMPPE(o.u32())
		want := c.settle(l.policy(), m)
		if want == m && unknown == 0 {
			got = m
			continue
		}
		a.want(o, func(b []byte) []byte { return appendOption32(b, ccpMPPE, want.value()) })
	}
	if len(opts) == 0 && l.policy().Mode >= Prefer {
		a.add(func(b []byte) []byte {
			return appendOption32(b, ccpMPPE, c.settle(l.policy(), cipher{}).value())
		})
	}
	if a.ok() {
		c.theirs = got
	}
}

// settle returns the cipher that we would use towards a peer that offers m: m
// itself if it is one we take.
func (c *ccp) settle(p Policy, m cipher) cipher {
	want := cipher{bits: (m.bits & p.Bits).strongest(), stateful: m.stateful}
	if want.bits == 0 {
		want.bits = p.Bits.strongest()
	}
	switch p.Stateful {
	case StatelessOnly:
		want.stateful = false
	case StatefulPreferred:
		// Asked for once; a peer that insists on stateless mode gets it.
		want.stateful = m.stateful || c.failures == 0
	default: // the others need nothing
	}
	return want
}

func (c *ccp) nak(l *Link, opts []byte) {
	p := l.policy()
	for o, rest, ok := nextOption(opts); ok; o, rest, ok = nextOption(rest) {
		if !o.is(ccpMPPE, 4) {
			continue
		}
		m, _ := parseMPPE(o.u32())
		if p.Stateful == StatelessOnly {
			m.stateful = false
		}
		if m.bits = (m.bits & p.Bits).strongest(); m.bits == 0 {
			c.refuse(l)
			return
		}
		c.ours = m
		return
	}
	c.refuse(l)
}

func (c *ccp) reject(l *Link, _ []byte) { c.refuse(l) }

// refuse notes that the peer does not take what we ask for, and asks for the
// next weaker cipher, if any is allowed.
func (c *ccp) refuse(l *Link) {
	if c.ours.single() {
		c.tried |= c.ours.bits
	}
	c.ours.bits = (l.policy().Bits &^ c.tried).strongest()
	if c.ours.bits == 0 {
		c.refused(l)
	}
}

// acked looks at a Configure-Ack. One for a choice leaves open which cipher is
// meant: it counts as a Configure-Nak for the strongest.
func (c *ccp) acked() bool {
	if c.ours.bits == 0 || c.ours.single() {
		return true
	}
	c.ours.bits = c.ours.bits.strongest()
	return false
}

// refused is the end of all hope for encryption: with Require the end of the
// call, else the end of CCP.
func (c *ccp) refused(l *Link) {
	if l.phase != PhaseNetwork {
		return
	}
	if l.policy().Mode == Require {
		l.close(Reason{Code: EncryptionRefused})
		return
	}
	c.ours = cipher{}
	c.forget(l)
	if c.state >= reqSent {
		l.event(layerCCP, evClose, nil)
	}
	l.openNetworks()
}

// hold keeps a client's Configure-Ack back until the peer has acknowledged our
// request: some servers open their receive side only then, and lose for good
// what is encrypted before. Not for longer than a second and not when the peer
// repeats its request, or two such peers would wait for each other.
func (c *ccp) hold(l *Link, in *incoming) bool {
	if l.cfg.Server || len(in.data) != len(c.held) || c.repeated {
		return false
	}
	switch c.state {
	case reqSent:
	case stopped, opened:
		// Our own request first, as the automaton has it, the Ack later.
		l.event(layerCCP, evDown, nil)
		l.event(layerCCP, evUp, nil)
	default:
		return false
	}
	copy(c.held[:], in.data)
	c.heldID, c.heldUntil = in.id, l.now+ackHold
	return true
}

// release sends the Configure-Ack that was held back.
func (c *ccp) release(l *Link) {
	if c.heldUntil == 0 {
		return
	}
	c.drop()
	b := grab()
	defer release(b)
	in := incoming{packet: packet{code: confReq, id: c.heldID, data: c.held[:]}}
	in.reply = l.configureAck(b, &in)
	c.acking(l)
	l.event(layerCCP, evRCRPlus, &in)
}

// drop forgets a Configure-Ack that is held back.
func (c *ccp) drop() { c.heldUntil, c.repeated = 0, false }

func (c *ccp) up(l *Link) {
	c.waiting = false
	c.drop()
	if l.policy().Mode == Require && !c.secure() {
		c.refused(l)
		return
	}
	if c.theirs.bits != 0 {
		c.keyed = true
		l.host.OpenTransmit(l.mppeParams(c.theirs, true))
	}
	l.openNetworks()
}

func (c *ccp) down(l *Link) {
	c.drop()
	c.forget(l)
}

// forget closes what is open at the host.
func (c *ccp) forget(l *Link) {
	c.receive = cipher{}
	if c.keyed {
		c.keyed = false
		l.host.CloseMPPE()
	}
}

func (c *ccp) finished(l *Link) {
	c.drop()
	c.refused(l)
}

// terminated acts on the peer's Terminate-Request: it wants no encryption, or
// no more.
func (c *ccp) terminated(l *Link) {
	c.drop()
	if l.phase != PhaseNetwork {
		return
	}
	if c.state >= reqSent {
		l.event(layerCCP, evTOMinus, nil)
		return
	}
	c.refused(l)
}

// dataRejected acts on a Protocol-Reject of our encrypted data: the peer has
// no receive side. Negotiating again opens it; if that does not help, the call
// is better ended than up and dead.
func (c *ccp) dataRejected(l *Link) {
	if c.state != opened || l.phase != PhaseNetwork {
		return
	}
	if c.redo++; c.redo > maxRedo {
		l.close(Reason{Code: EncryptionLost, Text: "the peer rejects encrypted packets"})
		return
	}
	l.event(layerCCP, evDown, nil)
	l.event(layerCCP, evUp, nil)
}

func (c *ccp) extra(l *Link, p packet) bool {
	switch p.code {
	case resetReq:
		if c.state == opened {
			// Flush first: the acknowledgement says that it is done.
			l.host.ResetTransmit(p.id)
			l.sendSimple(layerCCP, resetAck, p.id, nil)
		}
	case resetAck:
		if c.state == opened && c.waiting && p.id == c.resetID {
			c.waiting = false
			l.host.ResetAcked()
		}
	default:
		return false
	}
	return true
}

// RequestReset sends a CCP Reset-Request: our receive side has lost
// synchronisation (RFC 3078 section 8.2). Repetitions until the Reset-Ack keep
// the identifier (RFC 1962 section 3.1). The caller limits the rate.
func (l *Link) RequestReset(now int64) {
	l.now = now
	c := &l.ccp
	if c.state != opened || l.phase != PhaseNetwork {
		return
	}
	if !c.waiting {
		c.waiting = true
		c.resetID++
	}
	l.sendSimple(layerCCP, resetReq, c.resetID, nil)
}
