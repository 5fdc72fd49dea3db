// Package ppp negotiates PPP links (RFC 1661): LCP, authentication by PAP,
// CHAP, MS-CHAP and MS-CHAP version 2, CCP for MPPE (RFC 3078), IPCP and
// IPV6CP, as client and as server.
//
// A Link is one link's control side. It starts no goroutine and reads no
// clock: it takes packets, a time and the host's answers, and calls its Host
// to send packets and to open and close the data plane. Times are nanoseconds
// of a monotonic clock. A Link is not safe for concurrent use.
//
//	Dead ── Open ──> Establish ── LCP opened ──> Authenticate ──> Network
//	  ^                  ^                            │              │
//	  │                  └──── LCP renegotiated ──────┴──────────────┤
//	  └──── Host.Down ──── Terminate <── Close, Terminate-Request ───┘
package ppp

import (
	"math"
	"strconv"
	"sync" //nolint:depguard // a pool of scratch buffers: no link waits for another
)

const defaultMRU = 1500 // RFC 1661 section 6.1

// Phase is where a link stands (RFC 1661 section 3.2).
type Phase uint8

// The phases. Dead is before Open and after Host.Down.
const (
	PhaseDead Phase = iota
	PhaseEstablish
	PhaseAuthenticate
	PhaseNetwork
	PhaseTerminate
	numPhases
)

var phaseNames = [numPhases]string{"dead", "establish", "authenticate", "network", "terminate"}

// String returns the phase's name.
func (p Phase) String() string {
	if p < numPhases {
		return phaseNames[p]
	}
	return "phase(?)"
}

// layerID numbers the protocols that share the automaton.
type layerID uint8

const (
	layerLCP layerID = iota
	layerCCP
	layerIPCP
	layerIPv6CP
	numLayers
)

var layerProto = [numLayers]uint16{ProtoLCP, ProtoCCP, ProtoIPCP, ProtoIPv6CP}

// layer is what a protocol adds to the automaton: its options.
type layer interface {
	mach() *machine
	// request appends the options of our Configure-Request. It gives the same
	// octets until nak or reject is called.
	request(l *Link, b []byte) []byte
	// judge answers the options of the peer's Configure-Request, and takes them
	// over when it finds nothing to refuse. All options are well formed.
	judge(l *Link, opts []byte, a *answer)
	// nak and reject take in the peer's answer to our request.
	nak(l *Link, opts []byte)
	reject(l *Link, opts []byte)
	up(l *Link)       // entering Opened
	down(l *Link)     // leaving Opened
	finished(l *Link) // negotiation or termination came to its end
	// terminated follows the peer's Terminate-Request.
	terminated(l *Link)
	// extra handles a code beyond the common ones; false means unknown.
	extra(l *Link, p packet) bool
}

// Link is one PPP link. Create it with NewLink.
type Link struct {
	cfg  *Config
	host Host
	rand func([]byte)

	now    int64
	phase  Phase
	reason Reason // set by the first cause of the end

	lcp    lcp
	ccp    ccp
	ipcp   ipcp
	ipv6cp ipv6cp

	auth authenticator // we verify the peer
	peer supplicant    // we prove ourselves
	user user          // what authentication yielded
	echo echo

	// kept is the latest Configure-Request of CCP, IPCP and IPV6CP that came
	// before its protocol could answer.
	kept     [numLayers][]byte
	networks bool // IPCP and IPV6CP have been started
}

// NewLink makes a link. rand fills its argument with random octets; it is
// called, in this order, for the magic number (4 octets), an authenticator's
// CHAP identifier (1) and challenge (16, MS-CHAPv1: 8), MS-CHAPv2's peer
// challenge (16) and the IPv6 interface identifier (8).
func NewLink(cfg *Config, host Host, rand func([]byte)) *Link {
	return &Link{cfg: cfg, host: host, rand: rand}
}

// Open starts the link: the lower layer is up. It may be called once.
func (l *Link) Open(now int64) {
	l.now = now
	if l.phase != PhaseDead || l.reason.Code != Unknown {
		return
	}
	l.phase = PhaseEstablish
	l.lcp.reset(l)
	if l.lcp.ask&askAuth != 0 && l.lcp.ours.method == NoAuth {
		l.fail(Reason{Code: AuthRefused, Text: "no method to ask for"})
		l.dead()
		return
	}
	l.open(layerLCP)
}

// Close ends the link in order: Terminate-Request, then, after the peer's
// answer or two time-outs, Host.Down with this reason.
func (l *Link) Close(now int64, why Reason) {
	l.now = now
	if l.phase == PhaseDead {
		l.fail(why)
		l.dead()
		return
	}
	l.close(why)
}

// Abort ends the link at once, without a word to the peer: what carried it is
// gone.
func (l *Link) Abort(now int64, why Reason) {
	l.now = now
	l.fail(why)
	if l.phase != PhaseDead {
		l.event(layerLCP, evDown, nil)
	}
	l.dead()
}

// fail notes why the link ends, if nothing has been noted before.
func (l *Link) fail(why Reason) {
	if l.reason.Code == Unknown {
		l.reason = why
	}
}

// close is Close for the link's own use.
func (l *Link) close(why Reason) {
	if l.phase == PhaseTerminate || l.phase == PhaseDead {
		return
	}
	l.fail(why)
	l.phase = PhaseTerminate
	l.event(layerLCP, evClose, nil)
}

// dead reports the end, once.
func (l *Link) dead() {
	if l.phase == PhaseDead && l.host == nil {
		return
	}
	l.phase = PhaseDead
	for id := range numLayers {
		l.layer(id).mach().deadline = 0
	}
	l.auth.deadline, l.auth.limit, l.peer.deadline, l.peer.limit, l.echo.deadline, l.ccp.heldUntil = 0, 0, 0, 0, 0, 0
	if l.reason.Code == Unknown {
		l.reason.Code = LowerDown
	}
	host := l.host
	l.host = nil
	host.Down(l.reason)
}

// Input takes one PPP packet from the peer: its protocol number and what
// follows the protocol field. info is not kept. Packets of data protocols do
// not belong here; those of protocols that are not known are answered with
// Protocol-Reject.
func (l *Link) Input(now int64, proto uint16, info []byte) {
	l.now = now
	if l.phase == PhaseDead {
		return
	}
	if proto == ProtoLCP {
		l.receive(layerLCP, info)
		return
	}
	// RFC 1661 sections 3.4-3.7: before LCP is open and while it closes only
	// LCP counts.
	if l.lcp.state != opened || l.phase == PhaseTerminate {
		return
	}
	switch proto {
	case ProtoCCP:
		switch {
		case l.phase == PhaseNetwork && l.policy().Mode == Deny:
			l.rejectProtocol(proto, info)
		default:
			l.inputNCP(layerCCP, info)
		}
	case ProtoIPCP:
		l.inputNetwork(layerIPCP, l.cfg.IPv4, info)
	case ProtoIPv6CP:
		l.inputNetwork(layerIPv6CP, l.cfg.IPv6, info)
	case ProtoPAP:
		l.inputPAP(info)
	case ProtoCHAP:
		l.inputCHAP(info)
	case ProtoIPv4, ProtoIPv6, ProtoComp:
		// Supported protocols are discarded in silence while they are closed.
	default:
		l.rejectProtocol(proto, info)
	}
}

// inputNetwork is Input for IPCP and IPV6CP.
func (l *Link) inputNetwork(id layerID, enabled bool, info []byte) {
	if !enabled {
		if l.phase == PhaseNetwork {
			l.rejectProtocol(layerProto[id], info)
		}
		return
	}
	l.inputNCP(id, info)
}

// inputNCP hands a packet to its protocol, or, before that one has started,
// keeps the latest Configure-Request for it: dropping it would cost the peer's
// restart timer, and a Terminate-Ack too.
func (l *Link) inputNCP(id layerID, info []byte) {
	if l.layer(id).mach().running {
		l.receive(id, info)
		return
	}
	const most = 256 // no sane request is longer
	if p, ok := parsePacket(info); ok && p.code == confReq && len(p.whole) <= most {
		l.kept[id] = append(l.kept[id][:0], p.whole...)
	}
}

// UnknownProtocol answers a packet of a protocol that the data plane does not
// know with Protocol-Reject.
func (l *Link) UnknownProtocol(now int64, proto uint16, info []byte) {
	l.now = now
	l.rejectProtocol(proto, info)
}

func (l *Link) rejectProtocol(proto uint16, info []byte) {
	if l.lcp.state != opened || l.phase == PhaseTerminate || l.phase == PhaseDead {
		return
	}
	l.lcp.aux++
	b := grab()
	defer release(b)
	b.a = append(beginPacket(b.a, protoRej, l.lcp.aux), byte(proto>>8), byte(proto))
	b.a = append(b.a, info[:min(len(info), l.room()-len(b.a))]...)
	l.host.Send(ProtoLCP, endPacket(b.a))
}

// room is the longest packet that we send to the peer.
func (l *Link) room() int { return max(min(int(l.lcp.theirs.mru), defaultMRU), minMRU) }

// Deadline returns when Tick is due next, math.MaxInt64 for never.
func (l *Link) Deadline() int64 {
	next := int64(math.MaxInt64)
	for _, d := range l.timers() {
		if *d != 0 && *d < next {
			next = *d
		}
	}
	return next
}

func (l *Link) timers() [10]*int64 {
	return [...]*int64{
		&l.lcp.deadline, &l.ccp.deadline, &l.ipcp.deadline, &l.ipv6cp.deadline, &l.ccp.heldUntil,
		&l.auth.deadline, &l.auth.limit, &l.peer.deadline, &l.peer.limit, &l.echo.deadline,
	}
}

// Tick runs what is due.
func (l *Link) Tick(now int64) {
	l.now = now
	for id := range numLayers {
		m := l.layer(id).mach()
		if !due(m.deadline, now) {
			continue
		}
		switch {
		case m.restarts > 0:
			l.event(id, evTOPlus, nil)
		case m.state == ackSent && id != layerLCP:
			// With our Ack the peer may have opened while its own was lost: it must
			// hear that we have given up.
			l.event(id, evClose, nil)
		default:
			l.event(id, evTOMinus, nil)
		}
	}
	if due(l.ccp.heldUntil, now) {
		l.ccp.release(l)
	}
	l.auth.tick(l)
	l.peer.tick(l)
	l.echo.tick(l)
}

func due(deadline, now int64) bool { return deadline != 0 && now >= deadline }

// Phase returns where the link stands.
func (l *Link) Phase() Phase { return l.phase }

func (l *Link) layer(id layerID) layer {
	switch id {
	case layerLCP:
		return &l.lcp
	case layerCCP:
		return &l.ccp
	case layerIPCP:
		return &l.ipcp
	default:
		return &l.ipv6cp
	}
}

// open starts the automaton of one protocol, whose lower layer is up.
func (l *Link) open(id layerID) {
	m := l.layer(id).mach()
	m.running = true
	m.sent, m.bad, m.repeats = 0, 0, 0
	l.event(id, evOpen, nil)
	l.event(id, evUp, nil)
}

// stop takes the lower layer away from a protocol and closes it.
func (l *Link) stop(id layerID) {
	m := l.layer(id).mach()
	if !m.running {
		return
	}
	l.event(id, evDown, nil)
	m.state, m.running, m.deadline, m.acked = initial, false, 0, 0
}

// event drives the automaton. in is the packet that caused it, if any.
func (l *Link) event(id layerID, e event, in *incoming) {
	y := l.layer(id)
	m := y.mach()
	next, act, ok := step(m.state, e)
	if !ok {
		return
	}
	if m.state = next; !next.timed() {
		m.deadline = 0
	}
	if act&tld != 0 {
		m.sent, m.bad = 0, 0
		y.down(l)
		if m.state != next { // taken down with everything else
			return
		}
	}
	if act&irc != 0 {
		m.restarts = l.cfg.maxConfigure()
		if act&str != 0 {
			m.restarts = l.cfg.maxTerminate()
		}
	}
	if act&zrc != 0 {
		m.restarts, m.deadline = 0, l.now+l.cfg.restart()
	}
	if act&scr != 0 {
		l.sendRequest(id, e == evTOPlus)
	}
	if act&(sca|scn) != 0 {
		l.host.Send(layerProto[id], in.reply)
	}
	if act&str != 0 {
		l.sendTerminate(id, e == evTOPlus)
	}
	if act&sta != 0 {
		l.sendSimple(id, termAck, in.id, nil)
	}
	if act&scj != 0 {
		l.lcp.aux++
		l.sendSimple(id, codeRej, l.lcp.aux, in.whole)
	}
	if act&ser != 0 {
		l.answerEcho(in)
	}
	if act&tlu != 0 {
		m.sent, m.bad, m.repeats = 0, 0, 0
		y.up(l)
	}
	if act&tlf != 0 {
		y.finished(l)
	}
}

// incoming is a packet and, for a Configure-Request, our reply to it.
type incoming struct {
	packet
	reply []byte
}

// receive takes one packet of a protocol whose automaton runs.
func (l *Link) receive(id layerID, info []byte) {
	p, ok := parsePacket(info)
	if !ok {
		return
	}
	y := l.layer(id)
	m := y.mach()
	in := incoming{packet: p}
	switch p.code {
	case confReq:
		l.receiveRequest(id, &in)
	case confAck, confNak, confRej:
		l.receiveReply(id, &in)
	case termReq:
		if id == layerLCP {
			l.peerTerminates(p)
		}
		l.event(id, evRTR, &in)
		y.terminated(l)
	case termAck:
		l.event(id, evRTA, &in)
	case codeRej:
		e := evRXJPlus
		if len(p.data) > 0 && p.data[0] >= confReq && p.data[0] <= codeRej {
			e = evRXJMinus
			if id == layerLCP {
				l.fail(Reason{Code: ProtocolError, Text: "the peer rejects code " + itoa(p.data[0])})
			}
		}
		l.event(id, e, &in)
	default:
		if m.state < closed {
			return
		}
		if !y.extra(l, p) {
			l.event(id, evRUC, &in)
		}
	}
}

// receiveRequest judges a Configure-Request.
func (l *Link) receiveRequest(id layerID, in *incoming) {
	y := l.layer(id)
	m := y.mach()
	if !wellFormed(in.data) {
		return
	}
	if id == layerCCP && l.ccp.heldUntil != 0 {
		l.ccp.heldUntil, l.ccp.repeated = 0, true
	}
	b := grab()
	defer release(b)
	sum := digest(in.id, in.data)
	// A repetition of the request that was acknowledged last, identifier and
	// all, says that our Configure-Ack was late or lost. The automaton would
	// renegotiate; the Ack again is enough. Twice: the peer may mean it.
	if m.state == opened && sum == m.acked && m.repeats < 2 {
		m.repeats++
		l.host.Send(layerProto[id], l.configureAck(b, in))
		return
	}
	if m.state == closing || m.state == stopping || m.state < stopped {
		l.event(id, evRCRPlus, in) // no option counts in these states
		return
	}
	if sum == m.refused && m.failures > 0 {
		m.failures-- // the same once more: the same answer
	}
	a := answer{rej: b.b[:0], nak: b.c[:0], noNak: m.failures >= l.cfg.maxFailure()}
	y.judge(l, in.data, &a)
	l.answerRequest(id, in, &a, b, sum)
}

// answerRequest sends what judge found.
func (l *Link) answerRequest(id layerID, in *incoming, a *answer, b *buffers, sum uint64) {
	y := l.layer(id)
	m := y.mach()
	if l.phase == PhaseDead || m.state < stopped { // judging has ended the link
		return
	}
	if a.ok() {
		m.failures, m.acked, m.refused = 0, sum, 0
		in.reply = l.configureAck(b, in)
		if id == layerCCP {
			if l.ccp.hold(l, in) {
				return
			}
			l.ccp.acking(l)
		}
		l.event(id, evRCRPlus, in)
		return
	}
	m.acked, m.refused = 0, 0
	if m.bad++; m.bad > l.cfg.maxConfigure() {
		l.giveUp(id)
		return
	}
	code, opts := uint8(confRej), a.rej
	if len(opts) == 0 {
		code, opts = confNak, a.nak
		m.failures++
		m.refused = sum
	}
	b.a = append(beginPacket(b.a, code, in.id), opts...)
	in.reply = endPacket(b.a)
	l.event(id, evRCRMinus, in)
}

func (l *Link) configureAck(b *buffers, in *incoming) []byte {
	b.a = append(beginPacket(b.a, confAck, in.id), in.data...)
	return endPacket(b.a)
}

// receiveReply takes in the answer to our Configure-Request. Answers to other
// requests, second answers, and answers that do not fit are ignored (RFC 1661
// sections 5.2-5.4).
func (l *Link) receiveReply(id layerID, in *incoming) {
	y := l.layer(id)
	m := y.mach()
	if m.state < reqSent {
		if m.state >= closed {
			l.event(id, evRCA, in)
		}
		return
	}
	if in.id != m.id || m.replied || !wellFormed(in.data) {
		return
	}
	b := grab()
	defer release(b)
	request := y.request(l, b.a[:0])
	switch in.code {
	case confAck:
		if string(in.data) != string(request) {
			return
		}
		m.replied = true
		if id == layerCCP && !l.ccp.acked() {
			break
		}
		l.event(id, evRCA, in)
		if id == layerCCP {
			l.ccp.release(l) // the Configure-Ack that waited for this one
		}
		return
	case confNak:
		m.replied = true
		y.nak(l, in.data)
	case confRej:
		if len(in.data) == 0 || !subset(in.data, request) {
			return
		}
		m.replied = true
		y.reject(l, in.data)
	}
	// The answer may have ended the link or this protocol.
	if l.phase != PhaseDead && m.state >= reqSent {
		l.event(id, evRCN, in)
	}
}

// giveUp ends a negotiation that does not converge.
func (l *Link) giveUp(id layerID) {
	if id == layerLCP {
		l.fail(Reason{Code: NotConverging, Text: "LCP"})
	}
	l.event(id, evTOMinus, nil)
}

// sendRequest sends our Configure-Request. A retransmission that has not been
// answered keeps its identifier.
func (l *Link) sendRequest(id layerID, again bool) {
	y := l.layer(id)
	m := y.mach()
	if m.sent++; m.sent > 2*l.cfg.maxConfigure() {
		// Answers come, agreement does not: let the timer end it.
		m.restarts, m.deadline = 0, l.now+l.cfg.restart()
		if id == layerLCP {
			l.fail(Reason{Code: NotConverging, Text: "LCP"})
		}
		return
	}
	if !again || m.replied {
		m.id++
	}
	m.replied = false
	if m.restarts > 0 {
		m.restarts--
	}
	m.deadline = l.now + l.cfg.restart()
	b := grab()
	defer release(b)
	if id == layerCCP {
		l.ccp.sending(l)
	}
	b.a = y.request(l, beginPacket(b.a, confReq, m.id))
	l.host.Send(layerProto[id], endPacket(b.a))
}

// sendTerminate sends a Terminate-Request with the reason in words.
func (l *Link) sendTerminate(id layerID, again bool) {
	m := l.layer(id).mach()
	if !again {
		m.id++
	}
	if m.restarts > 0 {
		m.restarts--
	}
	m.deadline = l.now + l.cfg.restart()
	var text []byte
	if id == layerLCP {
		text = []byte(l.reason.Code.String())
	}
	l.sendSimple(id, termReq, m.id, text)
}

// sendSimple sends a packet of any code, its data cut to the peer's MRU.
func (l *Link) sendSimple(id layerID, code, ident uint8, data []byte) {
	b := grab()
	defer release(b)
	b.a = beginPacket(b.a, code, ident)
	b.a = append(b.a, data[:min(len(data), l.room()-len(b.a))]...)
	l.host.Send(layerProto[id], endPacket(b.a))
}

// buffers are the scratch space for one packet: a for what is sent, b and c
// for rejects and naks while options are judged.
type buffers struct{ a, b, c []byte }

var scratch = sync.Pool{New: func() any {
	return &buffers{make([]byte, 0, defaultMRU), make([]byte, 0, defaultMRU), make([]byte, 0, defaultMRU)}
}}

func grab() *buffers     { return scratch.Get().(*buffers) } //nolint:forcetypeassert // only buffers go in
func release(b *buffers) { scratch.Put(b) }

func itoa(v uint8) string { return strconv.Itoa(int(v)) }
