package decrypt

import (
	"slices"

	"xpptp/engine"
	"xpptp/engine/wire"
)

// Limits on what is remembered of GRE.
const (
	maxFlows   = 16384
	maxDigests = 64  // Configure-Requests and Acks of a flow, to pair it by
	maxLines   = 256 // of a flow's negotiation
	maxProofs  = 64  // authentication packets of a flow
)

// flowKey is one direction of a call on the wire: the call ID is the receiver's.
type flowKey struct {
	src, dst [4]byte
	id       uint16
}

// flow is one direction of one call, as the first pass over the file finds it.
type flow struct {
	key    flowKey
	number int // among all flows
	from   int // packet in the file it begins with
	call   *call
	other  *flow // the opposite direction; nil if not captured

	first, last int64 // capture times
	packets     int   // with a sequence number
	acks        int   // without
	firstSeq    uint32
	maxSeq      uint32

	requests, acked []uint64          // digests of Configure-Requests sent, and of those acknowledged
	agreed          map[uint16][]byte // by protocol: the options last acknowledged, so the receiver's
	asked           map[uint16][]byte // the options last asked for
	proofs          []proof
	lines           []line
	dropped         int    // lines beyond maxLines
	resets          [2]int // CCP Reset-Requests and Reset-Acks
	rejected        int    // packets whose protocol the sender rejected as unheard of
	rejectedAt      int    // the first such Protocol-Reject
	echoes          int
}

// line is a step of the negotiation.
type line struct {
	number, times int
	text          string
}

// proof is an authentication packet.
type proof struct {
	number int
	proto  uint16
	code   uint8
	id     uint8
	value  []byte // challenge, response or PAP's password
	text   string // name, or message
}

// flows is the set of all flows.
type flows struct {
	all     []*flow
	byKey   map[flowKey][]*flow // in the order they begin
	ignored int                 // packets beyond maxFlows
	bad     int                 // malformed GRE or PPP
}

func newFlows() *flows { return &flows{byKey: map[flowKey][]*flow{}} }

// packetIn is one GRE packet with a payload.
type packetIn struct {
	flow     *flow
	seq      uint32
	proto    uint16
	info     []byte // in full length
	captured int    // bytes of info that were captured
}

// parseGRE reads the GRE and PPP headers; p.flow is left to the caller.
func parseGRE(d *datagram) (k flowKey, p packetIn, ackOnly, ok bool) {
	g, drop := wire.ParseGRE(d.payload)
	if drop != engine.Pass || d.captured < g.HeaderLen() {
		return k, p, false, false
	}
	k = flowKey{d.src, d.dst, g.CallID()}
	if !g.HasSeq() {
		return k, p, true, true
	}
	var d2 engine.Drop
	p.seq = g.Seq()
	if p.proto, p.info, d2 = wire.ParsePPP(g.Payload()); d2 != engine.Pass {
		return k, p, false, false
	}
	head := len(g) - len(p.info)
	if d.captured < head {
		return k, p, false, false
	}
	p.captured = min(d.captured-head, len(p.info))
	return k, p, false, true
}

// observe is the first pass.
func (fs *flows) observe(d *datagram) {
	k, p, ackOnly, ok := parseGRE(d)
	if !ok {
		fs.bad++
		return
	}
	f := fs.at(k, d.rec.number)
	if ackOnly {
		if f != nil {
			f.acks++
			f.last = d.rec.at
		}
		return
	}
	if p.captured < len(p.info) && p.proto >= 0x8000 {
		p.info = p.info[:0] // options that were cut off are not zeros
	}
	c, isControl := parseControl(p.proto, p.info)
	if f == nil || isControl && f.startsAgain(&c, p.seq) {
		if len(fs.all) >= maxFlows {
			fs.ignored++
			return
		}
		f = &flow{
			key: k, number: len(fs.all), from: d.rec.number, first: d.rec.at, firstSeq: p.seq, maxSeq: p.seq,
			agreed: map[uint16][]byte{}, asked: map[uint16][]byte{},
		}
		fs.all = append(fs.all, f)
		fs.byKey[k] = append(fs.byKey[k], f)
	}
	f.last = d.rec.at
	if f.packets++; f.packets < 64 && int32(p.seq-f.firstSeq) < 0 && int32(p.seq-f.firstSeq) > -64 {
		f.firstSeq = p.seq
	}
	if int32(p.seq-f.maxSeq) > 0 {
		f.maxSeq = p.seq
	}
	if isControl {
		f.note(&c, d.rec.number)
	}
}

// at returns the flow that the packet with this number in the file belongs to.
func (fs *flows) at(k flowKey, number int) *flow {
	same := fs.byKey[k]
	for i := len(same) - 1; i >= 0; i-- {
		if same[i].from <= number {
			return same[i]
		}
	}
	return nil
}

// startsAgain tells the first packet of a new call with the same call ID: LCP
// begins anew, and so do the sequence numbers.
func (f *flow) startsAgain(c *control, seq uint32) bool {
	return c.proto == wire.PPPLCP && c.code == confReq && seq <= 1 && int32(f.maxSeq-seq) >= 4 &&
		!slices.Contains(f.requests, c.digest())
}

// digest is FNV-1a over what a Configure-Request and its Ack have in common.
func (c *control) digest() uint64 {
	h := uint64(14695981039346656037)
	for _, b := range [...]byte{byte(c.proto >> 8), byte(c.proto), c.id} {
		h = (h ^ uint64(b)) * 1099511628211
	}
	for _, b := range c.data {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return h
}

// note takes a control packet to heart.
func (f *flow) note(c *control, number int) {
	switch c.proto {
	case wire.PPPPAP, wire.PPPCHAP:
		f.noteProof(c, number)
	case wire.PPPEAP:
	default:
		switch c.code {
		case confReq:
			f.requests = remember(f.requests, c.digest())
			f.asked[c.proto] = slices.Clone(c.data)
		case confAck:
			f.acked = remember(f.acked, c.digest())
			f.agreed[c.proto] = slices.Clone(c.data)
		case resetReq, resetAck:
			if c.proto == wire.PPPCCP {
				f.resets[c.code-resetReq]++
				return
			}
		}
		if c.proto == wire.PPPLCP && c.code == protoRej && len(c.data) >= 2 && protoNames[be.Uint16(c.data)] == "" {
			if f.rejected++; f.rejected == 1 {
				f.rejectedAt = number
			}
		}
		if c.proto == wire.PPPLCP && c.code >= echoReq && c.code <= discardReq {
			f.echoes++
			return
		}
	}
	text := c.describe()
	if n := len(f.lines); n > 0 && f.lines[n-1].text == text {
		f.lines[n-1].times++
	} else if n < maxLines {
		f.lines = append(f.lines, line{number, 1, text})
	} else {
		f.dropped++
	}
}

func remember(list []uint64, d uint64) []uint64 {
	if len(list) >= maxDigests {
		list = list[1:]
	}
	return append(list, d)
}

func (f *flow) noteProof(c *control, number int) {
	p := proof{number: number, proto: c.proto, code: c.code, id: c.id}
	switch {
	case c.proto == wire.PPPCHAP && (c.code == chapChallenge || c.code == chapResponse):
		v, name, ok := field(c.data)
		if !ok {
			return
		}
		p.value, p.text = slices.Clone(v), string(name)
	case c.proto == wire.PPPPAP && c.code == papRequest:
		name, rest, ok := field(c.data)
		if !ok {
			return
		}
		pw, _, _ := field(rest)
		p.value, p.text = slices.Clone(pw), string(name)
	case c.proto == wire.PPPPAP:
		m, _, _ := field(c.data)
		p.text = printable(string(m))
	default:
		p.text = printable(string(c.data))
	}
	if len(f.proofs) >= maxProofs {
		// The first ones opened the call; what repeats is of less use.
		f.proofs = slices.Delete(f.proofs, maxProofs/2, maxProofs/2+1)
	}
	f.proofs = append(f.proofs, p)
}

// call is what belongs together: two flows, or one, and what the control
// connection says about them.
type call struct {
	flows  [2]*flow // to the server, to the client; nil if not captured
	ctl    *controlCall
	number int // from 1
}

// second is the unit of capture times.
const second = 1_000_000_000

// pair makes calls of flows: by the control connection; else by a
// Configure-Ack in one that answers a request in the other; else by addresses
// and times.
func pair(fs *flows, c *controls) []*call {
	var calls []*call
	for _, ctl := range c.calls {
		cl := &call{ctl: ctl}
		if ctl.refused == "" {
			cl.take(fs.claim(flowKey{ctl.pns, ctl.pac, ctl.pacID}, ctl))
			cl.take(fs.claim(flowKey{ctl.pac, ctl.pns, ctl.pnsID}, ctl))
		}
		calls = append(calls, cl)
	}
	for _, f := range fs.all {
		if f.other != nil {
			continue
		}
		other := fs.match(f)
		if other == nil {
			continue
		}
		cl := f.call
		if cl == nil {
			cl = other.call
		}
		if cl == nil {
			cl = &call{}
			calls = append(calls, cl)
			cl.take(f)
		}
		cl.take(f)
		cl.take(other)
	}
	for _, f := range fs.all {
		if f.call == nil {
			cl := &call{}
			cl.take(f)
			calls = append(calls, cl)
		}
	}
	for _, cl := range calls {
		cl.turn()
	}
	slices.SortStableFunc(calls, func(a, b *call) int { return a.from() - b.from() })
	for i, cl := range calls {
		cl.number = i + 1
	}
	return calls
}

// claim finds the flow with this key that began with the call.
func (fs *flows) claim(k flowKey, ctl *controlCall) *flow {
	var best *flow
	for _, f := range fs.byKey[k] {
		if f.call == nil && f.last >= ctl.start-second && (best == nil || f.first >= ctl.start-second && best.last < ctl.start) {
			best = f
		}
	}
	return best
}

// match finds the other direction of f among the flows that have none.
func (fs *flows) match(f *flow) *flow {
	var near *flow
	var nearBy int64
	for _, g := range fs.all {
		if g == f || g.other != nil || g.key.src != f.key.dst || g.key.dst != f.key.src || f.call != nil && g.call != nil {
			continue
		}
		if shares(f.acked, g.requests) || shares(g.acked, f.requests) {
			return g
		}
		if len(f.acked) > 0 && len(g.requests) > 0 || len(g.acked) > 0 && len(f.requests) > 0 {
			continue // they would have to match
		}
		if g.first > f.last+second || f.first > g.last+second {
			continue
		}
		if by := max(f.first-g.first, g.first-f.first); near == nil || by < nearBy {
			near, nearBy = g, by
		}
	}
	return near
}

func shares(a, b []uint64) bool {
	return slices.ContainsFunc(a, func(d uint64) bool { return slices.Contains(b, d) })
}

// take adds a flow to a call.
func (cl *call) take(f *flow) {
	if f == nil || f.call == cl {
		return
	}
	f.call = cl
	if cl.flows[0] == nil {
		cl.flows[0] = f
		return
	}
	cl.flows[1] = f
	cl.flows[0].other, f.other = f, cl.flows[0]
}

// from is the packet in the file that the call begins with.
func (cl *call) from() int {
	n := 0
	if cl.ctl != nil {
		n = cl.ctl.number
	}
	for _, f := range cl.flows {
		if f != nil && (n == 0 || f.from < n) {
			n = f.from
		}
	}
	return n
}

// turn puts the flow to the server first. The client is who authenticates
// itself; if that does not tell, who opened the control connection; else who
// sent the first packet.
func (cl *call) turn() {
	a := cl.flows[0]
	if a == nil {
		return
	}
	score := 0
	for i, f := range cl.flows {
		if f == nil {
			continue
		}
		for _, p := range f.proofs {
			byClient := p.proto == wire.PPPCHAP && p.code == chapResponse || p.proto == wire.PPPPAP && p.code == papRequest
			byServer := p.proto == wire.PPPCHAP && p.code == chapChallenge || p.proto == wire.PPPPAP && p.code != papRequest
			switch {
			case byClient && i == 0, byServer && i == 1:
				score++
			case byServer, byClient:
				score--
			}
		}
	}
	if score == 0 && cl.ctl != nil {
		score = 1
		if a.key.src != cl.ctl.conn.client.addr {
			score = -1
		}
	}
	if score < 0 || score == 0 && cl.flows[1] != nil && cl.flows[1].from < a.from {
		cl.flows[0], cl.flows[1] = cl.flows[1], cl.flows[0]
	}
}
