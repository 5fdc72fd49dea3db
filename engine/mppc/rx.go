package mppc

import (
	"encoding/binary"
	"math/bits"

	"xpptp/engine"
)

// Rx is the receiving direction of a call. The zero value is ready to use. It
// is for one goroutine at a time.
//
// A packet is first decompressed, which changes nothing, and then committed. In
// between one can look whether it makes sense: MPPE does not protect what it
// encrypts, and the history should not take in what someone else sent.
type Rx struct {
	pos  int // where the next packet begins
	top  int // bytes of hist in use; those behind are 0
	lost bool
	hist [HistoryLen]byte
}

// Lost takes the news that a packet is missing or was damaged: compressed
// packets are dropped until one is Flushed. The peer is to be asked for that
// with a Reset-Request (RFC 2118 §4.3).
func (r *Rx) Lost() { r.lost = true }

// InSync reports whether no packet is missing.
func (r *Rx) InSync() bool { return !r.lost }

// Decompress returns the packet that was sent as src with these bits of the
// header: src itself or, of one that is compressed, dst's beginning. src and
// dst must not overlap; a dropped packet may leave anything in dst. r stays as it is; Commit is to follow if the packet is
// accepted.
//
// The packet is dropped as MPPCOutOfSync after a loss; as MPPCLong if it is
// longer than dst; as MPPCBad if it does not fit into the history, refers to
// what is not there, is empty, or ends within a code. If it was the peer's, Lost
// is to be called.
func (r *Rx) Decompress(dst, src []byte, b Bits) ([]byte, engine.Drop) {
	if b&Compressed == 0 {
		return src, engine.Pass
	}
	if r.lost && b&Flushed == 0 {
		return nil, engine.MPPCOutOfSync
	}
	pos, top := r.start(b)
	room := min(len(dst), HistoryLen-pos)
	in := reader{src: src}
	n := 0
	for in.more() {
		v := in.peek()
		if v>>62 != 0b11 { // a literal (§4.1)
			if n >= room {
				return nil, tooLong(n, dst)
			}
			if v>>63 == 0 {
				dst[n] = byte(v >> 56)
				in.skip(8)
			} else {
				dst[n] = byte(v>>55) | 0x80
				in.skip(9)
			}
			n++
			continue
		}
		offset, used := readOffset(v)
		in.skip(used)
		length, used := readLength(in.peek())
		in.skip(used)
		if in.short || used == 0 || offset == 0 || offset >= HistoryLen {
			return nil, engine.MPPCBad
		}
		if at := pos + n - offset; at < 0 && at+HistoryLen >= top {
			return nil, engine.MPPCBad
		}
		if length > room-n {
			return nil, tooLong(n+length-1, dst)
		}
		r.copy(dst[:n+length], n, pos, offset)
		n += length
	}
	if in.short || n == 0 {
		return nil, engine.MPPCBad
	}
	return dst[:n], engine.Pass
}

// tooLong says why there is no room for byte n of a packet.
func tooLong(n int, dst []byte) engine.Drop {
	if n >= len(dst) {
		return engine.MPPCLong
	}
	return engine.MPPCBad
}

// start returns pos and top for a packet with these bits.
func (r *Rx) start(b Bits) (pos, top int) {
	switch {
	case b&Flushed != 0:
		return 0, 0
	case b&AtFront != 0:
		return 0, r.top
	}
	return r.pos, r.top
}

// copy fills dst from n on with what stands offset bytes before, in dst or in
// the history in front of it: dst[0] stands at pos.
func (r *Rx) copy(dst []byte, n, pos, offset int) {
	for n < len(dst) && n < offset { // at most twice: up to the end of the ring, and from its front
		at := (pos + n - offset) & ringMask
		n += copy(dst[n:min(len(dst), offset)], r.hist[at:])
	}
	for from := n - offset; n < len(dst); { // what is copied may be copied again
		n += copy(dst[n:], dst[from:n])
	}
}

// Commit takes in a packet that Decompress has returned, with the same bits.
func (r *Rx) Commit(packet []byte, b Bits) {
	pos, top := r.start(b)
	if b&Flushed != 0 {
		clear(r.hist[:r.top])
		r.lost = false
	}
	if b&Compressed != 0 {
		pos += copy(r.hist[pos:], packet)
	} else if b&Flushed == 0 {
		return
	}
	r.pos, r.top = pos, max(pos, top)
}

// readOffset reads the beginning of a copy tuple (§4.2.1) from the upper bits of
// v, and returns how many it has.
func readOffset(v uint64) (offset, used int) {
	switch v >> 60 {
	case 0b1111:
		return int(v >> 54 & 0x3f), 10
	case 0b1110:
		return int(v>>52&0xff) + offset8, 12
	}
	return int(v>>48&0x1fff) + offset13, 16
}

// readLength reads the end of a copy tuple (§4.2.2) from the upper bits of v. It
// uses none if there is no such code.
func readLength(v uint64) (length, used int) {
	ones := bits.LeadingZeros64(^v)
	switch {
	case ones == 0:
		return minMatch, 1
	case ones > 11:
		return 0, 0
	}
	k := ones + 1
	return 1<<k | int(v<<k>>(64-k)), 2 * k
}

// reader takes bits from src, most significant first.
type reader struct {
	src   []byte
	acc   uint64 // the upper bits are next; behind the end of src there are zeros
	bits  int    // of acc that come from src
	short bool   // bits beyond the end of src were taken
}

// more reports whether there is another code: none has less than 8 bits, and
// there are at most 7 of padding.
func (r *reader) more() bool { return 8*len(r.src)+r.bits >= 8 }

// peek returns the next bits, at least 32 of them.
func (r *reader) peek() uint64 {
	if r.bits <= 32 && len(r.src) >= 4 {
		r.acc |= uint64(binary.BigEndian.Uint32(r.src)) << (32 - r.bits)
		r.src = r.src[4:]
		r.bits += 32
		return r.acc
	}
	for r.bits < 32 && len(r.src) > 0 {
		r.acc |= uint64(r.src[0]) << (56 - r.bits)
		r.src = r.src[1:]
		r.bits += 8
	}
	return r.acc
}

func (r *reader) skip(n int) {
	r.acc <<= n
	if r.bits -= n; r.bits < 0 {
		r.short, r.bits = true, 0
	}
}
