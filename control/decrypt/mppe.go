package decrypt

import (
	"crypto/sha1"

	"xpptp/engine/mppe"
	"xpptp/engine/mppe/multi"
	"xpptp/engine/wire"
)

// Header bits and counts of MPPE (RFC 3078 §3.1).
const (
	bitFlushed    = 0x8000
	bitCompressed = 0x2000
	bitEncrypted  = 0x1000
	countMask     = 0x0fff
)

// Limits on the work that one direction's losses may cost.
const (
	maxSteps   = 1 << 20 // key changes over one gap
	workBudget = 1 << 22 // key changes and searches that led to nothing, in all
	freeSteps  = 64      // key changes that are allowed even then
	maxLost    = 1600    // bytes that one lost packet may have taken of a stream
	maxSearch  = 1 << 18 // bytes of a stream that are searched for a packet's place
	maxFlushes = 16      // FLUSHED packets that may be among the lost ones
)

// cipher is what CCP agreed on for one direction.
type cipher struct {
	bits     int
	stateful bool
}

// parseCipher reads an agreed MPPE option; ok is false if it holds not exactly
// one key length.
func parseCipher(v uint32) (c cipher, ok bool) {
	c.stateful = v&mppeH == 0
	switch v & (mppeL | mppeM | mppeS) {
	case mppeL:
		c.bits = 40
	case mppeM:
		c.bits = 56
	case mppeS:
		c.bits = 128
	default:
		return c, false
	}
	return c, true
}

// opener opens one direction of MPPE after the fact. It is not the receiver's
// state of engine/mppe: the whole recording is there, so it may search. In
// stateful mode the receiver has to discard what follows a loss until the
// sender starts a new stream; here the place in the stream is found by trying
// how much the lost packets may have taken of it.
//
// A packet that does not open leaves no trace.
type opener struct {
	cipher cipher
	key    multi.KeyState
	stream multi.Stream // stateful: behind the last packet opened
	count  uint16       // coherency count of the last packet opened
	seq    uint32       // its GRE sequence number, or that before the first
	opened bool         // a packet was
	out    []byte       // the last packet opened: PPP protocol and payload

	dialect mppe.Dialect
	tools   *tools
}

// tools is scratch that openers share.
type tools struct {
	cipher *multi.Cipher
	unit   [1]multi.Unit
	zeros  []byte
}

func newTools() *tools {
	return &tools{cipher: multi.New(multi.Best()), zeros: make([]byte, maxSearch)}
}

func (t *tools) crypt(s *multi.Stream, b []byte) {
	t.unit[0] = multi.Unit{Stream: s, Data: b[:len(b):len(b)]}
	t.cipher.Crypt(t.unit[:])
	t.unit[0] = multi.Unit{}
}

func newOpener(t *tools, c cipher, start [16]byte, seq uint32) *opener {
	o := &opener{cipher: c, key: firstKey(c.bits, start), count: countMask, seq: seq, tools: t}
	o.stream.Init(o.key.Session[:o.key.Len])
	return o
}

// firstKey is the key chain at its first session key (RFC 3079 §2.4, §3.1-3.3).
func firstKey(bits int, start [16]byte) multi.KeyState {
	k := multi.KeyState{Start: start, Len: 16}
	if bits < 128 {
		k.Len, k.Salt = 8, 3
		clear(k.Start[8:])
	}
	if bits == 56 {
		k.Salt = 1
	}
	h := sha1.New()
	h.Write(k.Start[:k.Len])
	h.Write(make([]byte, 40))
	h.Write(k.Start[:k.Len])
	for range 40 {
		h.Write([]byte{0xf2})
	}
	copy(k.Session[:k.Len], h.Sum(nil))
	copy(k.Session[:k.Salt], []byte{0xd1, 0x26, 0x9e})
	return k
}

// Why a packet stays closed.
const (
	whyShort     = "shorter than its header"
	whyClear     = "not encrypted, in spite of its protocol"
	whyMPPC      = "compressed by MPPC"
	whyNoKey     = "no key"
	whyLate      = "came too late"
	whyWrong     = "does not decrypt to anything sane"
	whyTruncated = "cut by the capture"
)

// result says how a packet was opened.
type result struct {
	searched bool // its place in the stream had to be found
}

// open opens an MPPE packet, header and ciphertext, with GRE sequence number
// seq. left bounds the work; what was done in vain is taken off it.
func (o *opener) open(p []byte, seq uint32, left *int) (r result, why string) {
	h := be.Uint16(p)
	p = p[mppe.HeaderLen:]
	gap := int64(int32(seq - o.seq))
	if gap <= 0 {
		return r, whyLate
	}
	// The count says by how many packets this one is ahead, the sequence number
	// how many there can have been.
	steps := int64(h-o.count) & countMask
	if steps == 0 {
		steps = countMask + 1
	}
	if steps > gap {
		return r, whyLate
	}
	for ; steps <= min(gap, maxSteps); steps += countMask + 1 {
		if *left <= 0 && steps > freeSteps {
			break
		}
		if o.cipher.stateful {
			r, why = o.openStateful(h, int(steps), p, left)
		} else {
			why = o.openStateless(int(steps), p, left)
		}
		if why == "" {
			o.count, o.seq, o.opened = h&countMask, seq, true
			return r, ""
		}
	}
	return r, whyWrong
}

func (o *opener) openStateless(steps int, p []byte, left *int) string {
	k := o.key
	o.tools.cipher.Rekey(&k, steps)
	var s multi.Stream
	s.Init(k.Session[:k.Len])
	if !o.try(&s, p, o.grade(steps)) {
		*left -= steps
		return whyWrong
	}
	o.key = k
	return ""
}

// grade is how sure one has to be of a packet so many places ahead.
func (o *opener) grade(steps int) grade {
	if steps == 1 && o.opened {
		return likely
	}
	return sure
}

// try decrypts p into o.out and reports whether that is sane; s is left behind p.
func (o *opener) try(s *multi.Stream, p []byte, g grade) bool {
	o.out = append(o.out[:0], p...)
	o.tools.crypt(s, o.out)
	return sane(o.out, g)
}

func (o *opener) openStateful(h uint16, steps int, p []byte, left *int) (result, string) {
	flags := flagsIn(o.count, steps)
	switch {
	case h&bitFlushed != 0 || isFlag(h):
		if o.restart(h, steps, flags, p) {
			return result{}, ""
		}
		*left -= flags + maxFlushes
	case steps == 1:
		s := o.stream
		if o.try(&s, p, o.grade(1)) {
			o.stream = s
			return result{}, ""
		}
		*left--
	case *left > 0:
		if o.search(steps, flags, p) {
			return result{searched: true}, ""
		}
		*left -= min(steps, maxFlushes) * min(steps*maxLost, maxSearch) / 16 // as key changes take
	}
	return result{}, whyWrong
}

// isFlag and flagsIn: in stateful mode a count that ends in FF changes the key
// (RFC 3078 §7.2).
func isFlag(h uint16) bool { return h&0xff == 0xff }

func flagsIn(count uint16, n int) int { return (int(count)+n+1)/256 - (int(count)+1)/256 }

// restart opens a packet that starts a new stream. Flag packets change the
// key. Other FLUSHED packets leave it (RFC 3078 §8.2) or change it (Linux),
// and some of those may be lost.
func (o *opener) restart(h uint16, steps, flags int, p []byte) bool {
	k := o.key
	o.tools.cipher.Rekey(&k, flags)
	for extra := 0; extra <= min(steps, maxFlushes); extra++ {
		if extra > 0 {
			o.tools.cipher.Rekey(&k, 1)
		}
		var s multi.Stream
		s.Init(k.Session[:k.Len])
		if !o.try(&s, p, sure) {
			continue
		}
		o.key, o.stream = k, s
		switch {
		case extra > 0:
			o.dialect = mppe.LinuxDialect
		case o.opened && !isFlag(h) && o.dialect == mppe.UnknownDialect:
			o.dialect = mppe.RFCDialect
		}
		return true
	}
	return false
}

// search finds the place of a packet that follows lost ones: further on in
// the stream, or in one that started with one of the lost packets.
func (o *opener) search(steps, flags int, p []byte) bool {
	reach := min((steps-1)*maxLost, maxSearch-len(p))
	if reach < 0 || len(p) < 2+wire.IPv4Len {
		return false
	}
	if flags == 0 && o.find(o.stream, reach, p) {
		return true
	}
	k := o.key
	o.tools.cipher.Rekey(&k, flags)
	for extra := range min(steps, maxFlushes) {
		if extra > 0 {
			o.tools.cipher.Rekey(&k, 1)
		} else if flags == 0 && o.dialect == mppe.LinuxDialect {
			continue
		}
		var s multi.Stream
		s.Init(k.Session[:k.Len])
		if o.find(s, reach, p) {
			o.key = k
			return true
		}
	}
	return false
}

// find looks for p within the first reach bytes of s and beyond.
func (o *opener) find(s multi.Stream, reach int, p []byte) bool {
	ks := o.tools.zeros[:reach+len(p)]
	clear(ks)
	walk := s
	o.tools.crypt(&walk, ks)
	for at := 0; at <= reach; at++ {
		x := ks[at : at+len(p)]
		switch b := p[0] ^ x[0]; {
		case b == 0 && (p[1]^x[1] == wire.PPPIPv4 || p[1]^x[1] == wire.PPPIPv6):
		case b == wire.PPPIPv4 && (p[1]^x[1])>>4 == 4:
		case b == wire.PPPIPv6 && (p[1]^x[1])>>4 == 6:
		default:
			continue
		}
		o.out = append(o.out[:0], p...)
		for i := range o.out {
			o.out[i] ^= x[i]
		}
		if sane(o.out, certain) {
			o.stream = s
			clear(ks[:at+len(p)])
			o.tools.crypt(&o.stream, ks[:at+len(p)])
			return true
		}
	}
	return false
}

// grade is how much has to speak for a packet before it is believed.
type grade uint8

const (
	likely  grade = iota // it was next in turn and the key is proven
	sure                 // it moves the key
	certain              // one of many thousand tries
)

// sane reports whether p, PPP protocol and payload, is what a sender would
// have encrypted.
func sane(p []byte, g grade) bool {
	proto, n := wire.PPPProtocol(p)
	if n == 0 {
		return false
	}
	ip := p[n:]
	switch proto {
	case wire.PPPIPv4:
		if !wire.SaneInner(proto, ip) {
			return false
		}
		v4 := wire.IPv4(ip)
		return g == likely || v4.HeaderChecksumOK() && (g == sure || v4.TotalLen() == len(ip))
	case wire.PPPIPv6:
		if !wire.SaneInner(proto, ip) {
			return false
		}
		v6 := wire.IPv6(ip)
		return g == likely || wire.IPv6Len+v6.PayloadLen() == len(ip) && plausible6(v6) && (g == sure || transport6OK(v6))
	case 0x2b, 0x2d, 0x2f, 0x3d, 0x3f, 0x0281: // IPX, VJ, multilink, NetBEUI, MPLS: nothing to check
		return g == likely
	}
	return false
}

// plausible6 knows the next headers that occur.
func plausible6(p wire.IPv6) bool {
	switch p.NextHeader() {
	case 0, 4, wire.ProtoTCP, wire.ProtoUDP, 41, 43, 44, wire.ProtoGRE, 50, 51, wire.ProtoICMPv6, 59, 60, 132:
		return true
	}
	return false
}

// transport6OK verifies the checksum of what IPv6 carries.
func transport6OK(p wire.IPv6) bool {
	switch p.NextHeader() {
	case wire.ProtoTCP, wire.ProtoUDP, wire.ProtoICMPv6:
	default:
		return false
	}
	// The pseudo header's addresses stand right before the payload.
	return wire.Checksum(p[8:], uint32(p.PayloadLen())+uint32(p.NextHeader())) == 0
}
