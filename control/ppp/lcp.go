package ppp

// LCP (RFC 1661 section 6) and its echoes, with Identification and
// Time-Remaining of RFC 1570.

// LCP configuration options.
const (
	lcpMRU   = 1
	lcpACCM  = 2 // RFC 1662 section 7.1
	lcpAuth  = 3
	lcpMagic = 5
	lcpPFC   = 7
	lcpACFC  = 8
)

const (
	minMRU      = 128 // below that no peer is sane
	maxLoops    = 5   // Configure-Requests with our own magic number
	defaultACCM = 0xFFFFFFFF
)

// lcpFlags are the options in our Configure-Request.
type lcpFlags uint8

const (
	askMRU lcpFlags = 1 << iota
	askACCM
	askAuth
	askMagic
	askPFC
	askACFC
)

// lcpOptions are one side's negotiated options.
type lcpOptions struct {
	accm, magic uint32
	mru         uint16
	method      Method // how this side wants the other one to authenticate
	pfc, acfc   bool
}

var lcpDefaults = lcpOptions{accm: defaultACCM, mru: defaultMRU}

type lcp struct {
	machine
	ask    lcpFlags
	ours   lcpOptions
	theirs lcpOptions
	tried  uint8 // methods that the peer has refused, as a bit set
	loops  uint8
	nakked uint32 // magic number in our last Configure-Nak
	aux    uint8  // identifier of rejects and the like

	about     string // the peer's Identification
	remaining uint32 // the peer's Time-Remaining, seconds
}

func (c *lcp) mach() *machine { return &c.machine }

// reset chooses what to ask for.
func (c *lcp) reset(l *Link) {
	c.theirs = lcpDefaults
	if !l.cfg.NoMagic {
		c.ours.magic = l.magic()
	}
	c.renew(l)
}

// renew asks anew for everything, under the magic number that we have.
func (c *lcp) renew(l *Link) {
	cfg, magic := l.cfg, c.ours.magic
	c.ask, c.tried, c.loops, c.ours = 0, unusable, 0, lcpDefaults
	if c.ours.mru = cfg.mru(); c.ours.mru != defaultMRU {
		c.ask |= askMRU
	}
	if cfg.OfferACCM {
		c.ask |= askACCM
		c.ours.accm = cfg.ACCM
	}
	if cfg.Server && len(cfg.Auth) > 0 {
		c.ask |= askAuth
		c.ours.method = c.untried(cfg)
	}
	if magic != 0 {
		c.ask |= askMagic
		c.ours.magic = magic
	}
	if cfg.OfferPFC {
		c.ask |= askPFC
	}
	if cfg.OfferACFC {
		c.ask |= askACFC
	}
}

// magic returns a random number that is not zero.
func (l *Link) magic() uint32 {
	var b [4]byte
	l.rand(b[:])
	return max(be32(b[:]), 1)
}

func be32(b []byte) uint32 {
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

func (c *lcp) request(_ *Link, b []byte) []byte {
	if c.ask&askMRU != 0 {
		b = appendOption16(b, lcpMRU, c.ours.mru)
	}
	if c.ask&askACCM != 0 {
		b = appendOption32(b, lcpACCM, c.ours.accm)
	}
	if c.ask&askAuth != 0 {
		b = appendMethod(b, c.ours.method)
	}
	if c.ask&askMagic != 0 {
		b = appendOption32(b, lcpMagic, c.ours.magic)
	}
	if c.ask&askPFC != 0 {
		b = appendOption(b, lcpPFC)
	}
	if c.ask&askACFC != 0 {
		b = appendOption(b, lcpACFC)
	}
	return b
}

// chapAlgorithms maps methods to CHAP's Algorithm octet (RFC 1994, 2433, 2759).
var chapAlgorithms = [numMethods]uint8{CHAPMD5: 5, MSCHAPv1: 0x80, MSCHAPv2: 0x81}

// appendMethod appends an Authentication-Protocol option.
func appendMethod(b []byte, m Method) []byte {
	switch m {
	case PAP:
		return appendOption16(b, lcpAuth, ProtoPAP)
	case EAP:
		return appendOption16(b, lcpAuth, ProtoEAP)
	default:
		return appendOption(b, lcpAuth, ProtoCHAP>>8, ProtoCHAP&0xFF, chapAlgorithms[m])
	}
}

// parseMethod reads one; NoAuth stands for anything unknown.
func parseMethod(o option) Method {
	switch v := o.value(); {
	case len(v) < 2:
		return NoAuth
	case o.u16() == ProtoPAP && len(v) == 2:
		return PAP
	case o.u16() == ProtoEAP && len(v) == 2:
		return EAP
	case o.u16() == ProtoCHAP && len(v) == 3:
		for m, alg := range chapAlgorithms {
			if alg != 0 && alg == v[2] {
				return Method(m) //nolint:gosec // an index below numMethods
			}
		}
	}
	return NoAuth
}

func (c *lcp) judge(l *Link, opts []byte, a *answer) {
	if c.looped(l, opts, a) {
		return
	}
	got := lcpDefaults
	for o, rest, ok := nextOption(opts); ok; o, rest, ok = nextOption(rest) {
		switch {
		case o.is(lcpMRU, 2):
			if got.mru = o.u16(); got.mru < minMRU {
				a.want(o, func(b []byte) []byte { return appendOption16(b, lcpMRU, minMRU) })
			}
		case o.is(lcpACCM, 4):
			got.accm = o.u32()
		case o.kind() == lcpAuth:
			got.method = parseMethod(o)
			c.judgeAuth(l, o, got.method, a)
		case o.is(lcpMagic, 4) && c.ask&askMagic != 0:
			if got.magic = o.u32(); got.magic == 0 {
				a.want(o, func(b []byte) []byte { return appendOption32(b, lcpMagic, l.magic()) })
			}
		case o.is(lcpMagic, 4):
			got.magic = o.u32()
		case o.is(lcpPFC, 0):
			got.pfc = true
		case o.is(lcpACFC, 0):
			got.acfc = true
		default:
			a.reject(o)
		}
	}
	if a.ok() {
		c.theirs = got
	}
}

// looped looks for our own magic number (RFC 1661 section 6.4). The answer is
// then a Configure-Nak for it alone, so that nothing else of our own request
// is refused by ourselves.
func (c *lcp) looped(l *Link, opts []byte, a *answer) bool {
	if c.ask&askMagic == 0 {
		return false
	}
	for o, rest, ok := nextOption(opts); ok; o, rest, ok = nextOption(rest) {
		if !o.is(lcpMagic, 4) || o.u32() != c.ours.magic {
			continue
		}
		if c.loops++; c.loops >= maxLoops {
			l.close(Reason{Code: Loopback})
			a.reject(o)
			return true
		}
		c.nakked = l.magic()
		a.nak = appendOption32(a.nak, lcpMagic, c.nakked)
		return true
	}
	return false
}

// judgeAuth decides on the way in which the peer wants us to authenticate.
func (c *lcp) judgeAuth(l *Link, o option, m Method, a *answer) {
	if !l.cfg.provesItself() {
		a.reject(o) // no user, or a server, which does not prove itself to clients
		return
	}
	if l.cfg.canProve(m) {
		return
	}
	// With each Configure-Nak the next of our methods.
	hint := NoAuth
	for i := range l.cfg.Auth {
		if hint = l.cfg.Auth[(int(c.failures)+i)%len(l.cfg.Auth)]; l.cfg.canProve(hint) {
			break
		}
	}
	if !l.cfg.canProve(hint) {
		a.reject(o)
		return
	}
	a.want(o, func(b []byte) []byte { return appendMethod(b, hint) })
}

func (c *lcp) nak(l *Link, opts []byte) {
	for o, rest, ok := nextOption(opts); ok; o, rest, ok = nextOption(rest) {
		switch {
		case o.is(lcpMRU, 2) && c.ask&askMRU != 0:
			// A smaller unit we can take; a larger one than configured we cannot.
			if v := o.u16(); v >= minMRU && v < c.ours.mru {
				c.ours.mru = v
			}
		case o.is(lcpACCM, 4) && c.ask&askACCM != 0:
			c.ours.accm |= o.u32()
		case o.kind() == lcpAuth && c.ask&askAuth != 0:
			c.nextMethod(l, parseMethod(o))
		case o.is(lcpMagic, 4) && c.ask&askMagic != 0:
			if o.u32() == c.nakked && c.nakked != 0 {
				if c.loops++; c.loops >= maxLoops {
					l.close(Reason{Code: Loopback})
					return
				}
			}
			c.ours.magic = l.magic()
		case o.kind() == lcpPFC:
			c.ask &^= askPFC
		case o.kind() == lcpACFC:
			c.ask &^= askACFC
		}
	}
}

// nextMethod goes on to the method that the peer would rather use, if it is
// allowed, else to the next on our list.
func (c *lcp) nextMethod(l *Link, hint Method) {
	c.tried |= 1 << c.ours.method
	if l.cfg.allows(hint) && c.tried&(1<<hint) == 0 {
		c.ours.method = hint
		return
	}
	if m := c.untried(l.cfg); m != NoAuth {
		c.ours.method = m
		return
	}
	l.close(Reason{Code: AuthRefused})
}

// unusable are the methods that count as tried from the start.
const unusable = 1<<NoAuth | 1<<EAP

// untried returns the first method on our list that the peer has not refused,
// NoAuth if none is left.
func (c *lcp) untried(cfg *Config) Method {
	for _, m := range cfg.Auth {
		if c.tried&(1<<m) == 0 {
			return m
		}
	}
	return NoAuth
}

func (c *lcp) reject(l *Link, opts []byte) {
	for o, rest, ok := nextOption(opts); ok; o, rest, ok = nextOption(rest) {
		switch o.kind() {
		case lcpMRU:
			c.ask &^= askMRU
		case lcpACCM:
			c.ask &^= askACCM
			c.ours.accm = defaultACCM
		case lcpAuth:
			// Other methods may still do: some peers reject instead of naming one.
			c.nextMethod(l, NoAuth)
		case lcpMagic:
			c.ask &^= askMagic
			c.ours.magic = 0
		case lcpPFC:
			c.ask &^= askPFC
		case lcpACFC:
			c.ask &^= askACFC
		}
	}
}

func (c *lcp) up(l *Link) {
	l.reason = Reason{} // what an earlier attempt ended by
	l.host.LCPUp(c.params())
	if l.cfg.Identification != "" {
		c.aux++
		b := append(be32bytes(c.ours.magic), l.cfg.Identification...)
		l.sendSimple(layerLCP, identification, c.aux, b)
	}
	l.echo.start(l)
	l.authenticate()
}

// params is what LCP agreed on.
func (c *lcp) params() LCPParams {
	p := LCPParams{
		MRU: c.ours.mru, PeerMRU: c.theirs.mru,
		TxPFC: c.theirs.pfc, TxACFC: c.theirs.acfc,
		RxPFC: c.ask&askPFC != 0, RxACFC: c.ask&askACFC != 0,
		TxACCM: c.theirs.accm, RxACCM: c.ours.accm,
		Magic: c.ours.magic, PeerMagic: c.theirs.magic,
		AuthToPeer: c.theirs.method,
	}
	if c.ask&askAuth != 0 {
		p.Auth = c.ours.method
	}
	if c.ask&askMRU == 0 {
		p.MRU = defaultMRU
	}
	return p
}

// down takes everything above LCP with it.
func (c *lcp) down(l *Link) {
	l.echo.stop()
	l.stopNetworks()
	l.auth.stop()
	l.peer.stop()
	c.renew(l)
	l.phase = PhaseEstablish
	if c.state == closing || c.state == stopping {
		l.phase = PhaseTerminate
	}
}

func (c *lcp) terminated(*Link) {}

func (c *lcp) finished(l *Link) {
	l.fail(Reason{Code: NoAnswer, Text: "LCP"})
	l.dead()
}

// peerTerminates notes a Terminate-Request.
func (l *Link) peerTerminates(p packet) {
	l.fail(Reason{Code: PeerTerminated, Text: printable(p.data)})
	if s := l.lcp.state; s == reqSent || s == ackRcvd || s == ackSent {
		// It has probably gone. One more Configure-Request finds out.
		l.lcp.restarts = min(l.lcp.restarts, 1)
	}
}

func (c *lcp) extra(l *Link, p packet) bool {
	if p.code == protoRej {
		if c.state == opened && len(p.data) >= 2 {
			l.protocolRejected(uint16(p.data[0])<<8|uint16(p.data[1]), p.data[2:])
		}
		return true
	}
	if p.code < echoReq || p.code > timeRemaining {
		return false
	}
	if len(p.data) < 4 || c.state != opened {
		return true
	}
	if be32(p.data) == c.ours.magic && c.ours.magic != 0 {
		l.echo.looped = true // our own packet: it proves nothing about the peer
		return true
	}
	switch p.code {
	case echoReq:
		l.event(layerLCP, evRXR, &incoming{packet: p})
	case echoRep:
		l.echo.answered()
	case identification:
		c.about = printable(p.data[4:])
	case timeRemaining:
		if len(p.data) >= 8 {
			c.remaining = be32(p.data[4:])
		}
	}
	return true
}

// answerEcho sends the Echo-Reply: the same data under our magic number.
func (l *Link) answerEcho(in *incoming) {
	b := grab()
	defer release(b)
	b.a = append(beginPacket(b.a, echoRep, in.id), be32bytes(l.lcp.ours.magic)...)
	data := in.data[4:]
	b.a = append(b.a, data[:min(len(data), l.room()-len(b.a))]...)
	l.host.Send(ProtoLCP, endPacket(b.a))
}

func be32bytes(v uint32) []byte { return []byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)} }

// protocolRejected acts on a Protocol-Reject. A Linux peer whose stateful MPPE
// has lost synchronisation rejects whatever number its garbage begins with, so
// the rejected packet must look like one that we sent, and rejects of network
// data say nothing.
func (l *Link) protocolRejected(proto uint16, info []byte) {
	ours := len(info) >= headerLen && info[0] >= confReq && info[0] <= resetAck && info[2] < 8
	if proto == ProtoComp {
		l.ccp.dataRejected(l)
		return
	}
	if !ours {
		if h, ok := l.host.(RejectHandler); ok {
			h.DataRejected(proto, info)
		}
		return
	}
	switch proto {
	case ProtoLCP:
		l.fail(Reason{Code: ProtocolError, Text: "the peer rejects LCP"})
		l.event(layerLCP, evRXJMinus, nil)
	case ProtoCCP:
		l.event(layerCCP, evRXJMinus, nil)
		l.ccp.refused(l)
	case ProtoIPCP:
		l.event(layerIPCP, evRXJMinus, nil)
		l.networkGone()
	case ProtoIPv6CP:
		l.event(layerIPv6CP, evRXJMinus, nil)
		l.networkGone()
	case ProtoPAP, ProtoCHAP, ProtoEAP:
		if l.phase == PhaseAuthenticate {
			l.close(Reason{Code: ProtocolError, Text: "the peer rejects the authentication protocol"})
		}
	}
}

// printable makes a peer's text fit for logs: at most 128 octets, nothing
// below a space.
func printable(b []byte) string {
	out := make([]byte, 0, min(len(b), 128))
	for _, c := range b[:min(len(b), 128)] {
		if c < ' ' || c > '~' {
			c = '?'
		}
		out = append(out, c)
	}
	return string(out)
}

// echo sends LCP Echo-Requests and counts what stays unanswered.
type echo struct {
	deadline int64
	id       uint8
	missed   uint8
	looped   bool
}

func (e *echo) start(l *Link) {
	e.missed, e.looped = 0, false
	if l.cfg.EchoInterval > 0 {
		e.deadline = l.now + int64(l.cfg.EchoInterval)
	}
}

func (e *echo) stop() { e.deadline = 0 }

func (e *echo) answered() { e.missed, e.looped = 0, false }

func (e *echo) tick(l *Link) {
	if !due(e.deadline, l.now) {
		return
	}
	if e.missed >= l.cfg.echoFailure() {
		code := EchoTimeout
		if e.looped {
			code = Loopback
		}
		l.close(Reason{Code: code})
		return
	}
	e.missed++
	e.id++
	e.deadline = l.now + int64(l.cfg.EchoInterval)
	l.sendSimple(layerLCP, echoReq, e.id, be32bytes(l.lcp.ours.magic))
}
