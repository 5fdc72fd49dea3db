// Package mppe is Microsoft Point-to-Point Encryption (RFC 3078): one
// direction of one call is a Tx or an Rx, and an Engine, one per worker, seals
// and opens many packets of many calls at once.
//
// MPPE has no integrity check, so the receiver commits nothing on trust. A
// key change and a coherency count are kept only if what they decrypt is an
// accepted protocol with a sane header; a packet that fails leaves no trace
// but its drop, and a bounded amount of work.
//
// Stateless mode changes the key with every packet, so the session key is a
// pure function of the packet's place in the sequence: a packet ahead of its
// turn is opened by changing the key as often as its count says.
//
// Stateful mode keeps one RC4 stream over many packets, changes the key every
// 256 packets, and after a loss asks the peer to start a new stream (CCP
// Reset-Request, answered by a packet with the FLUSHED bit). Implementations
// disagree about that answer: see Dialect.
package mppe

import (
	"encoding/binary"

	"xpptp/engine"
	"xpptp/engine/mppe/multi"
	"xpptp/engine/wire"
)

// HeaderLen is the length of the MPPE header: four bits and the coherency
// count (RFC 3078 §3.1).
const HeaderLen = 2

const (
	bitFlushed    = 0x8000 // A: RC4 was initialised before this packet
	bitCompressed = 0x2000 // C: MPPC, which MPPE alone never negotiates
	bitEncrypted  = 0x1000 // D
	countMask     = 0x0fff

	firstCount = countMask // counts begin at 0: the one before
	halfWindow = 2048      // counts up to here are ahead, the rest behind

	flagMask = 0x00ff // stateful: a count that ends in 0xFF changes the key (§7.2)
)

// Protocols is a set of PPP protocols that a call accepts inside MPPE.
type Protocols uint8

// The protocols that can be told from garbage by their headers.
const (
	IPv4 Protocols = 1 << iota
	IPv6
)

// Params are what one direction of a call negotiated.
type Params struct {
	Bits     int      // 40, 56 or 128
	Stateful bool     // keep one stream over packets
	Start    [16]byte // start key of this direction (RFC 3079)
	// Protocols are accepted on receipt; 0 means both.
	Protocols Protocols
}

// Dialect says what a FLUSHED packet in stateful mode does to the key, other
// than at every 256th packet, where all agree.
type Dialect uint8

const (
	// UnknownDialect: the peer has not shown yet.
	UnknownDialect Dialect = iota
	// RFCDialect initialises RC4 with the current session key (RFC 3078 §8.2).
	RFCDialect
	// LinuxDialect changes the session key first, as Linux's ppp_mppe does.
	LinuxDialect
)

// String returns "unknown", "rfc" or "linux".
func (d Dialect) String() string {
	switch d {
	case RFCDialect:
		return "rfc"
	case LinuxDialect:
		return "linux"
	default: // the others need nothing
	}
	return "unknown"
}

// Tx is the sending direction of a call. Init makes it ready. The zero value
// has no key.
type Tx struct {
	key   multi.KeyState // stateless: the current session key
	st    *txStateful    // stateful mode; nil if stateless
	count uint16         // coherency count of the last packet
	hot   uint8          // place in hotKeys; a hint
}

// Init starts the direction with a new key. It returns an error that names
// the parameter if p is wrong.
func (t *Tx) Init(p *Params) error {
	k, err := newChain(p.Bits, p.Start)
	if err != nil {
		return err
	}
	*t = Tx{key: k, count: firstCount}
	if p.Stateful {
		t.st = newTxStateful(&k)
	}
	return nil
}

// Ready reports whether the direction has a key.
func (t *Tx) Ready() bool { return t.key.Len != 0 }

// Rx is the receiving direction of a call. Init makes it ready. The zero
// value has no key: everything is dropped as MPPENoKey.
type Rx struct {
	// What every packet needs: 64 bytes.
	key    multi.KeyState // stateless: the session key of packet count
	st     *rxStateful    // stateful mode; nil if stateless
	count  uint16         // coherency count of the last packet committed
	run    uint16         // of the last packet taken the fast way in this batch
	pace   pace           // how this batch is worked on
	hot    uint8          // place in hotKeys; a hint
	misses uint8          // stateless: packets that did not open since the last one that did
	accept Protocols

	scout  *scout // stateless: looks for a key far ahead; nil unless lost
	tokens bucket // work that packets which prove wrong may cost
}

// Init starts the direction with a new key. It returns an error that names
// the parameter if p is wrong.
func (r *Rx) Init(p *Params) error {
	k, err := newChain(p.Bits, p.Start)
	if err != nil {
		return err
	}
	*r = Rx{key: k, count: firstCount, accept: p.Protocols, tokens: bucket{n: catchUpRate}}
	if r.accept == 0 {
		r.accept = IPv4 | IPv6
	}
	if p.Stateful {
		r.st = newRxStateful(&k)
	}
	return nil
}

// pace says how the packets of a batch are worked on.
type pace uint8

const (
	noBatch pace = iota
	fast         // so far in order: Rx.run is in force
	careful      // the rest of the batch goes one by one
)

// Ready reports whether the direction has a key.
func (r *Rx) Ready() bool { return r.key.Len != 0 }

// Dialect returns what the peer's FLUSHED packets have shown.
func (r *Rx) Dialect() Dialect {
	if r.st == nil {
		return UnknownDialect
	}
	return r.st.dialect
}

// parse checks an MPPE packet's length and header bits and returns its header.
func (r *Rx) parse(b []byte) (h uint16, d engine.Drop) {
	if len(b) <= HeaderLen {
		return 0, engine.MPPEShort
	}
	h = binary.BigEndian.Uint16(b)
	switch {
	case r == nil || !r.Ready():
		return 0, engine.MPPENoKey
	case h&bitEncrypted == 0:
		return 0, engine.MPPEPlain
	case h&bitCompressed != 0, r.st == nil && h&bitFlushed == 0:
		return 0, engine.MPPEBits
	}
	return h, engine.Pass
}

// Sane reports whether p is PPP protocol and payload, the protocol is one of
// the set, and the lengths in its header fit.
func (s Protocols) Sane(p []byte) bool {
	proto, n := wire.PPPProtocol(p)
	switch proto {
	case wire.PPPIPv4:
		return s&IPv4 != 0 && wire.SaneInner(proto, p[n:])
	case wire.PPPIPv6:
		return s&IPv6 != 0 && wire.SaneInner(proto, p[n:])
	}
	return false
}

// sane reports whether p is PPP protocol and payload of an accepted kind. An
// IPv4 packet must also have a right header checksum if strict: garbage
// passes the plain test about once in a million, too often for a packet that
// would move the key by thousands.
func (r *Rx) sane(p []byte, strict bool) bool {
	if !r.accept.Sane(p) {
		return false
	}
	proto, n := wire.PPPProtocol(p)
	return !strict || proto != wire.PPPIPv4 || wire.IPv4(p[n:]).HeaderChecksumOK()
}

// plainIPv4 is sane for what nearly all packets are, a protocol of two bytes and
// IPv4 without options, and false for others. It is small enough to be inlined.
func (r *Rx) plainIPv4(p []byte) bool {
	if len(p) < 2+wire.IPv4Len || r.accept&IPv4 == 0 {
		return false
	}
	h := binary.BigEndian.Uint64(p)
	total := int(h >> 16 & 0xffff)
	return h>>40 == wire.PPPIPv4<<8|0x45 && total >= wire.IPv4Len && total <= len(p)-2
}

// sanePrefix is sane, strictly, for a packet of n bytes of which p is the
// beginning, up to and including the network header.
func sanePrefix(p []byte, n int) bool {
	proto, off := wire.PPPProtocol(p)
	p, n = p[off:], n-off
	switch {
	case proto == wire.PPPIPv4 && len(p) >= wire.IPv4Len:
		ip := wire.IPv4(p)
		return p[0]>>4 == 4 && ip.HeaderLen() >= wire.IPv4Len && ip.HeaderLen() <= len(p) &&
			ip.TotalLen() <= n && ip.HeaderChecksumOK()
	case proto == wire.PPPIPv6 && len(p) >= wire.IPv6Len:
		return p[0]>>4 == 6 && wire.IPv6Len+wire.IPv6(p).PayloadLen() <= n
	}
	return false
}

// Catch-up work: key changes that lead to nothing. A gap of up to freeSteps is
// always followed; beyond that a call may waste catchUpRate changes a second.
const (
	freeSteps   = 32
	catchUpRate = 4096
	second      = 1e9
)

// bucket counts work still allowed.
type bucket struct {
	at int64
	n  int32
}

// allows reports whether steps of work may be risked now; up to free always.
func (b *bucket) allows(now int64, steps, free int) bool {
	if steps <= free {
		return true
	}
	if d := now - b.at; d > 0 {
		if d >= second {
			b.n = catchUpRate
		} else {
			add := int32(d * catchUpRate / second)
			if add == 0 {
				return steps <= int(b.n)
			}
			b.n = min(b.n+add, catchUpRate)
		}
		b.at = now
	}
	return steps <= int(b.n)
}

// wasted takes back the work that a wrong packet cost.
func (b *bucket) wasted(steps int) { b.n = max(b.n-int32(steps), 0) }
