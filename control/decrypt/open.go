package decrypt

import (
	"bytes"
	"fmt"

	"xpptp/engine/mppe"
	"xpptp/engine/wire"
)

// Limits on how long packets wait for the ones before them. A receiver waits
// for milliseconds; here nothing is in a hurry, and only memory counts.
const (
	maxSlots  = 4096     // packets, of all calls
	maxHeld   = 32 << 20 // bytes
	maxJump   = 1 << 15  // sequence numbers
	seenReach = 1024     // numbers back in which a duplicate is told from a late packet
)

// side is the second pass's view of a flow.
type side struct {
	*flow
	toServer bool
	keys     []keyPair
	count    *Counts

	next   uint32 // sequence number whose turn it is
	high   uint32 // highest so far
	seen   [seenReach / 64]uint64
	jump   uint32 // number that would make a large jump believable
	jumped bool   // jump is in force
	held   map[uint32]*slot

	current *opener
	pending []*opener // what the last Configure-Ack may mean
	algo    string    // CCP agreed on this instead of MPPE
	failed  int       // packets in a row that did not open
	left    int       // of workBudget
}

// slot is a packet's place in the output, which keeps the order of the capture.
type slot struct {
	side *side // of one that waits for its turn
	at   int64
	in   packetIn
	done bool
	out  *packet
	size int
}

// pass is the second pass over the file.
type pass struct {
	tools *tools
	fs    *flows
	sides []*side
	queue []*slot
	held  int // bytes in queue
	ng    *ngWriter
	links map[uint32]int // interface of control connections, by link type
	ports map[*call]int  // interface of a call
	frame []byte
}

func (s *side) mark(seq uint32)        { s.seen[seq/64%uint32(len(s.seen))] |= 1 << (seq % 64) }
func (s *side) unmark(seq uint32)      { s.seen[seq/64%uint32(len(s.seen))] &^= 1 << (seq % 64) }
func (s *side) marked(seq uint32) bool { return s.seen[seq/64%uint32(len(s.seen))]>>(seq%64)&1 != 0 }

// advance moves the turn past seq, which is in its turn or ahead of it.
func (s *side) advance(seq uint32) {
	s.forget(seq)
	s.mark(seq)
	s.next = seq + 1
}

// forget counts the numbers up to seq as lost.
func (s *side) forget(seq uint32) {
	missing := seq - s.next
	s.count.Lost += uint64(missing)
	for n := seq - min(missing, seenReach); n != seq; n++ {
		s.unmark(n)
	}
	s.next = seq
}

// take sorts one datagram in.
func (ps *pass) take(d *datagram) {
	if d.proto == wire.ProtoTCP {
		if ps.ng != nil && isControl(d.payload) {
			ps.put(&packet{at: d.rec.at, iface: ps.link(d.rec.link), data: d.rec.data, orig: d.rec.orig})
		}
		return
	}
	k, in, ackOnly, ok := parseGRE(d)
	if !ok || ackOnly {
		return
	}
	if in.flow = ps.fs.at(k, d.rec.number); in.flow == nil {
		return
	}
	ps.order(ps.sides[in.flow.number], d.rec.at, in)
	ps.relieve()
}

// order delivers a packet in its turn.
func (ps *pass) order(s *side, at int64, in packetIn) {
	s.count.Packets++
	ahead := int32(in.seq - s.next)
	far := ahead > maxJump || ahead < -maxJump
	dup := ahead < 0 && ahead >= -seenReach && s.marked(in.seq) || s.held[in.seq] != nil
	switch {
	case dup:
		s.count.Duplicate++
		return
	case far:
		if !s.jumped || s.jump != in.seq {
			// Forged, or the numbers start anew: the very next packet tells.
			s.jumped, s.jump = true, in.seq+1
			s.count.Jumps++
			return
		}
		for len(s.held) > 0 {
			ps.overGap(s)
		}
		s.next, s.high = in.seq, in.seq
		if s.current != nil {
			s.current.seq = in.seq - countMask // any count may be the next
		}
		ahead = 0
	case int32(in.seq-s.high) < 0:
		s.count.Reordered++
	default:
		s.high = in.seq
	}
	s.jumped = false
	switch {
	case ahead == 0:
		s.advance(in.seq)
		ps.put(ps.open(s, at, in))
		ps.drain(s)
	case ahead < 0:
		// Its turn has passed; what is not encrypted is good all the same.
		s.count.Late++
		if ahead >= -seenReach {
			s.mark(in.seq)
			if s.count.Lost > 0 {
				s.count.Lost--
			}
		}
		ps.put(ps.open(s, at, in))
	default:
		in.info = bytes.Clone(in.info)
		sl := &slot{side: s, at: at, in: in, size: len(in.info)}
		s.held[in.seq] = sl
		ps.queue = append(ps.queue, sl)
		ps.held += sl.size
	}
}

// drain delivers what has waited for its turn.
func (ps *pass) drain(s *side) {
	for sl := s.held[s.next]; sl != nil; sl = s.held[s.next] {
		delete(s.held, s.next)
		s.advance(sl.in.seq)
		sl.out, sl.done = ps.open(s, sl.at, sl.in), true
		if sl.out != nil {
			sl.out.data = bytes.Clone(sl.out.data)
		}
		sl.in.info = nil
	}
}

// overGap gives up what is missing before the packets that wait.
func (ps *pass) overGap(s *side) {
	low, first := uint32(0), true
	for seq := range s.held {
		if first || seq-s.next < low-s.next {
			low, first = seq, false
		}
	}
	if first {
		return
	}
	s.forget(low)
	ps.drain(s)
}

// relieve keeps the queue short: what blocks it has waited long enough.
func (ps *pass) relieve() {
	for ps.pop(); len(ps.queue) > maxSlots || ps.held > maxHeld; ps.pop() {
		ps.overGap(ps.queue[0].side)
	}
}

// finish delivers all that still waits.
func (ps *pass) finish() {
	for ps.pop(); len(ps.queue) > 0; ps.pop() {
		ps.overGap(ps.queue[0].side)
	}
}

// pop writes what is done at the head of the queue.
func (ps *pass) pop() {
	for len(ps.queue) > 0 && ps.queue[0].done {
		if p := ps.queue[0].out; p != nil && ps.ng != nil {
			ps.ng.write(p)
		}
		ps.held -= ps.queue[0].size
		ps.queue[0] = nil
		ps.queue = ps.queue[1:]
	}
}

// put appends a packet to the output, p's data still being the caller's.
func (ps *pass) put(p *packet) {
	switch {
	case p == nil || ps.ng == nil:
	case len(ps.queue) == 0:
		ps.ng.write(p)
	default:
		p.data = bytes.Clone(p.data)
		ps.queue = append(ps.queue, &slot{at: p.at, done: true, out: p, size: len(p.data)})
		ps.held += len(p.data)
	}
}

func (ps *pass) link(typ uint32) int {
	i, ok := ps.links[typ]
	if !ok {
		i = ps.ng.addInterface(typ, "control", "PPTP control connections, TCP port 1723, as captured")
		ps.links[typ] = i
	}
	return i
}

func (ps *pass) port(cl *call) int {
	i, ok := ps.ports[cl]
	if !ok {
		i = ps.ng.addInterface(linkPPPWithDir, fmt.Sprintf("call%d", cl.number), cl.title()+"; sent: by the client, received: from the server")
		ps.ports[cl] = i
	}
	return i
}

// open looks at a packet in its turn and returns what stands for it in the
// output, valid until the next call.
func (ps *pass) open(s *side, at int64, in packetIn) *packet {
	proto, info, captured := in.proto, in.info, in.captured
	comment := ""
	if captured < len(info) {
		s.count.Cut++
	}
	switch {
	case proto == wire.PPPMPPE && s.algo != "":
		s.count.Compressed++
	case proto == wire.PPPMPPE:
		o, r, why := ps.decrypt(s, &in)
		s.count.Encrypted++
		if why != "" {
			s.count.Bad++
			s.count.reason(why)
			comment = "not decrypted: " + why
			break
		}
		s.count.Decrypted++
		if r.searched {
			s.count.Recovered++
			comment = "follows lost packets: its place in the stream was found by search"
		}
		var n int
		proto, n = wire.PPPProtocol(o.out)
		info = o.out[n:]
		captured = max(0, min(captured-mppe.HeaderLen-n, len(info)))
	case proto < 0x4000:
		s.count.Plain++
	case proto == wire.PPPCCP:
		ps.ccp(s, &in)
	}
	if ps.ng == nil {
		return nil
	}
	ps.frame = append(ps.frame[:0], 0, 0xff, 0x03, byte(proto>>8), byte(proto))
	p := &packet{at: at, iface: ps.port(s.call), flags: 1, orig: len(ps.frame) + len(info), comment: comment}
	if s.toServer {
		ps.frame[0], p.flags = 1, 2
	}
	ps.frame = append(ps.frame, info[:captured]...)
	p.data = ps.frame
	return p
}

// ccp follows what the sender agrees to do: its Configure-Ack names the cipher
// of what it will send (RFC 1962 §4.1: a request is about the requester's
// receiving side).
func (ps *pass) ccp(s *side, in *packetIn) {
	c, ok := parseControl(in.proto, in.info[:in.captured])
	if !ok || c.code != confAck {
		return
	}
	var ciphers []cipher
	s.algo = ""
	options(c.data, func(kind uint8, v []byte) {
		if kind == ccpMPPE && len(v) == 4 {
			if ci, ok := parseCipher(be.Uint32(v)); ok {
				ciphers = append(ciphers, ci)
			}
		} else {
			s.algo = optionWord(wire.PPPCCP, kind, v)
		}
	})
	if len(ciphers) > 0 {
		s.algo = ""
	}
	s.pending = ps.openers(s, ciphers, in.seq)
}

// openers returns one for every key and cipher that may be in force from
// behind seq on.
func (ps *pass) openers(s *side, ciphers []cipher, seq uint32) (list []*opener) {
	for _, k := range s.keys {
		for _, c := range ciphers {
			if k.has(c.bits) && len(list) < 32 {
				list = append(list, newOpener(ps.tools, c, k.start(c.bits, s.toServer), seq))
			}
		}
	}
	return list
}

// decrypt opens an encrypted packet.
func (ps *pass) decrypt(s *side, in *packetIn) (o *opener, r result, why string) {
	switch {
	case len(in.info) <= mppe.HeaderLen:
		return nil, r, whyShort
	case in.captured < mppe.HeaderLen:
		return nil, r, whyTruncated
	case len(s.keys) == 0:
		return nil, r, whyNoKey
	}
	h := be.Uint16(in.info)
	switch {
	case h&bitEncrypted == 0:
		return nil, r, whyClear
	case h&bitCompressed != 0:
		return nil, r, whyMPPC
	}
	late := s.current != nil
	for _, o := range s.pending {
		if r, why = o.open(in.info, in.seq, &s.left); why == "" {
			s.adopt(o)
			return o, r, ""
		}
		late = late && why == whyLate
	}
	if o := s.current; o != nil {
		if r, why = o.open(in.info, in.seq, &s.left); why == "" {
			s.failed = 0
			return o, r, ""
		}
		late = late && why == whyLate
	}
	if late {
		return nil, r, whyLate
	}
	// The Configure-Ack may be missing from the capture. Not for every packet of
	// a hopeless case.
	if s.failed++; s.failed <= 16 || s.failed%64 == 0 {
		for _, o := range ps.openers(s, s.guess(h), s.firstSeq-1) {
			if r, w := o.open(in.info, in.seq, &s.left); w == "" {
				s.adopt(o)
				return o, r, ""
			}
		}
	}
	if in.captured < len(in.info) {
		return nil, r, whyTruncated
	}
	return nil, r, whyWrong
}

// adopt makes o the opener in force.
func (s *side) adopt(o *opener) {
	s.current, s.pending, s.failed = o, nil, 0
}

// guess returns the ciphers that may be in force if the capture does not say
// when they came into force.
func (s *side) guess(h uint16) (list []cipher) {
	said := [][]byte{s.agreed[wire.PPPCCP]}
	if s.flow.other != nil {
		said = append(said, s.flow.other.asked[wire.PPPCCP])
	}
	for _, b := range said {
		options(b, func(kind uint8, v []byte) {
			if kind != ccpMPPE || len(v) != 4 {
				return
			}
			if c, ok := parseCipher(be.Uint32(v)); ok {
				list = append(list, c)
			}
		})
		if len(list) > 0 {
			return list
		}
	}
	for _, bits := range []int{128, 56, 40} {
		if h&bitFlushed != 0 { // stateless mode sets it in every packet
			list = append(list, cipher{bits, false})
		}
		list = append(list, cipher{bits, true})
	}
	return list
}
