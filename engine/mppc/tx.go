package mppc

import (
	"encoding/binary"
	"math/bits"
)

// How the Tx works; the format leaves it free.
const (
	// maxPacket is the longest packet that is compressed. Some implementations
	// fail on packets that fill the last bytes of the history.
	maxPacket = HistoryLen - 4

	hashBits  = 12
	chainLen  = 4   // places looked at for a match
	goodMatch = 32  // one that long is taken at once
	indexed   = 32  // so many places of a match, its last, can be found later
	giveUpAt  = 512 // bytes after which a packet that has not become smaller is given up
	missShift = 5   // after 1<<missShift misses every second place is looked at, and so on
	maxPause  = 16  // packets not tried in a row
)

// Tx is the sending direction of a call. The zero value is ready to use. It is
// large, 32 KiB, and for one goroutine at a time.
type Tx struct {
	pos      int  // where the next packet begins
	top      int  // bytes of hist in use; those from pos on are older than those before
	announce bool // the next packet says that the history was initialised
	failed   int  // packets in a row that did not become smaller
	pause    int  // packets that are not tried

	// The last place of each hash, and of each place the one before with the same
	// hash. Entries go stale; bytes are compared, so that does no harm.
	head [1 << hashBits]uint16
	prev [HistoryLen]uint16
	hist [HistoryLen + 8]byte // and room to read words
}

// Reset empties the history. The next packet will say so. It answers a
// Reset-Request (RFC 2118 §4.3), and comes before every packet in stateless
// mode.
func (t *Tx) Reset() {
	t.pos, t.top, t.announce = 0, 0, true
}

// Compress compresses a packet, PPP protocol field and what follows, and
// returns what to send in its place with the bits of its header. That is dst's
// beginning, or src if the packet is to be sent as it is: the result is never
// longer than src. Results longer than dst are not made; src and dst must not
// overlap.
func (t *Tx) Compress(dst, src []byte) ([]byte, Bits) {
	if t.pause > 0 {
		t.pause--
		return src, t.plain()
	}
	if len(src) > maxPacket {
		return src, t.plain() // the history knows nothing of it
	}
	start := t.pos
	if start+len(src) > maxPacket {
		start = 0
	}
	// A compressed packet must be smaller.
	n := t.encode(dst[:max(0, min(len(dst), len(src)-1))], src, start)
	if n == 0 {
		if t.top > 0 {
			t.Reset()
		}
		if t.failed++; t.failed > 1 {
			t.pause = min(1<<(t.failed-2), maxPause)
			t.failed = min(t.failed, 16)
		}
		return src, t.plain()
	}
	b := Compressed
	if start == 0 {
		b |= AtFront
	}
	if t.top == 0 {
		b |= Flushed
	}
	t.failed, t.announce = 0, false
	t.pos = start + len(src)
	t.top = max(t.top, t.pos)
	return dst[:n], b
}

// plain returns the bits of a packet that is sent as it is.
func (t *Tx) plain() (b Bits) {
	if t.announce {
		b = Flushed
	}
	t.announce = false
	return b
}

// encode puts src into the history at start and its code into dst. It returns
// the code's length, 0 if it does not fit.
func (t *Tx) encode(dst, src []byte, start int) int {
	end := start + copy(t.hist[start:HistoryLen], src)
	w := writer{dst: dst}
	miss := 0
	for p := start; p < end; {
		if end-p >= minMatch {
			if offset, n := t.match(p, end); n >= minMatch {
				w.offset(offset)
				ok := w.flush()
				w.length(n)
				if !ok || !w.flush() {
					return 0
				}
				t.index(max(p+1, p+n-indexed), min(p+n, end-minMatch+1))
				p += n
				miss = 0
				continue
			}
		}
		// The longer nothing was found, the less often it is looked for.
		for next := min(p+1+miss>>missShift, end); p < next; p++ {
			w.literal(t.hist[p])
			if !w.flush() {
				return 0
			}
		}
		miss++
		if done := p - start; done >= giveUpAt && w.n >= done {
			return 0
		}
	}
	return w.end()
}

// hash is of the first 3 bytes of v.
func hash(v uint32) uint32 { return (v << 8) * 0x9E3779B1 >> (32 - hashBits) }

func (t *Tx) word(p int) uint32 { return binary.LittleEndian.Uint32(t.hist[p:]) }

// index makes the places from p up to end known to match.
func (t *Tx) index(p, end int) {
	for ; p < end; p++ {
		h := &t.head[hash(t.word(p))]
		t.prev[p&ringMask] = *h
		*h = uint16(p)
	}
}

// match returns the longest match found for place p of a packet that reaches to
// end, and makes p known.
func (t *Tx) match(p, end int) (offset, n int) {
	v := t.word(p)
	h := &t.head[hash(v)]
	c := int(*h) & ringMask
	t.prev[p&ringMask] = uint16(c)
	*h = uint16(p)
	last := 0 // offset of the place before: a chain that does not lead back is stale
	for range chainLen {
		o := (p - c) & ringMask
		if o <= last {
			break
		}
		last = o
		room := end - p
		if c > p {
			if c < end || c >= t.top {
				break // overwritten by this packet, or never written
			}
			room = min(room, t.top-c)
		}
		if room > n && (t.word(c)^v)<<8 == 0 && t.hist[c+n] == t.hist[p+n] {
			if k := t.common(c, p, room); k > n {
				offset, n = o, k
				if n >= goodMatch {
					break
				}
			}
		}
		c = int(t.prev[c]) & ringMask
	}
	return offset, n
}

// common returns how many bytes at c and p are the same, at most room.
func (t *Tx) common(c, p, room int) int {
	for n := 0; n < room; n += 8 {
		if x := binary.LittleEndian.Uint64(t.hist[c+n:]) ^ binary.LittleEndian.Uint64(t.hist[p+n:]); x != 0 {
			return min(n+bits.TrailingZeros64(x)/8, room)
		}
	}
	return room
}

// writer puts bits into dst, most significant first.
type writer struct {
	dst  []byte
	n    int    // bytes of dst written
	acc  uint64 // the last have bits are not yet in dst
	have uint   // less than 32 after flush, so 32 may be put
}

func (w *writer) put(v uint64, n uint) {
	w.acc = w.acc<<n | v
	w.have += n
}

// flush makes room for 32 bits. It returns false if dst is too short.
func (w *writer) flush() bool {
	if w.have < 32 {
		return true
	}
	if w.n+4 > len(w.dst) {
		return false
	}
	w.have -= 32
	binary.BigEndian.PutUint32(w.dst[w.n:], uint32(w.acc>>w.have))
	w.n += 4
	return true
}

// end writes what is left, padded with zeros, and returns the length of all, 0
// if dst is too short.
func (w *writer) end() int {
	left := int(w.have+7) / 8
	if w.n+left > len(w.dst) {
		return 0
	}
	w.acc <<= 64 - w.have
	for i := range left {
		w.dst[w.n+i] = byte(w.acc >> (56 - 8*i))
	}
	return w.n + left
}

// literal writes a byte (§4.1): 0 and 7 bits, or 10 and the low 7 bits.
func (w *writer) literal(b byte) {
	w.put(uint64(b)+uint64(b&0x80), 8+uint(b>>7))
}

// offset writes the beginning of a copy tuple (§4.2.1), up to 16 bits.
func (w *writer) offset(o int) {
	switch {
	case o < offset8:
		w.put(0b1111<<6|uint64(o), 10)
	case o < offset13:
		w.put(0b1110<<8|uint64(o-offset8), 12)
	default:
		w.put(0b110<<13|uint64(o-offset13), 16)
	}
}

// length writes the end of a copy tuple (§4.2.2), up to 24 bits: for each
// doubling over 2 a 1, then 0 and the bits behind the leading one.
func (w *writer) length(n int) {
	if n == minMatch {
		w.put(0, 1)
		return
	}
	k := uint(bits.Len(uint(n))) - 1 // bits behind the leading one
	ones := uint64(1)<<(k-1) - 1
	w.put(ones<<(k+1)|uint64(n)&(1<<k-1), 2*k)
}
