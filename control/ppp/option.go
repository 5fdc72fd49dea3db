package ppp

import "encoding/binary"

// Codes of LCP and, as far as they go, of the other control protocols (RFC
// 1661 section 5, RFC 1570, RFC 1962).
const (
	confReq        = 1
	confAck        = 2
	confNak        = 3
	confRej        = 4
	termReq        = 5
	termAck        = 6
	codeRej        = 7
	protoRej       = 8
	echoReq        = 9
	echoRep        = 10
	discardReq     = 11
	identification = 12
	timeRemaining  = 13
	resetReq       = 14
	resetAck       = 15
)

const headerLen = 4 // code, identifier, length

// packet is one control packet, cut to its Length field.
type packet struct {
	code, id uint8
	data     []byte // after the header
	whole    []byte
}

// parsePacket reads the header. Octets beyond Length are padding; a Length
// that is impossible makes ok false and the packet is to be ignored (RFC 1661
// section 5).
func parsePacket(info []byte) (p packet, ok bool) {
	if len(info) < headerLen {
		return p, false
	}
	n := int(binary.BigEndian.Uint16(info[2:]))
	if n < headerLen || n > len(info) {
		return p, false
	}
	return packet{info[0], info[1], info[headerLen:n:n], info[:n:n]}, true
}

// beginPacket starts a control packet in b; endPacket fills in its length.
func beginPacket(b []byte, code, id uint8) []byte { return append(b[:0], code, id, 0, 0) }

func endPacket(b []byte) []byte {
	binary.BigEndian.PutUint16(b[2:], uint16(len(b))) //nolint:gosec // bounded by the packets' buffers
	return b
}

// option is one configuration option: type, length, value.
type option []byte

func (o option) kind() uint8   { return o[0] }
func (o option) value() []byte { return o[2:] }

// is reports whether o has that type and that length of value.
func (o option) is(kind uint8, valueLen int) bool { return o[0] == kind && len(o) == 2+valueLen }

func (o option) u16() uint16 { return binary.BigEndian.Uint16(o[2:]) }
func (o option) u32() uint32 { return binary.BigEndian.Uint32(o[2:]) }
func (o option) u64() uint64 { return binary.BigEndian.Uint64(o[2:]) }

// nextOption cuts the first option off b. ok is false when b is empty or the
// length is wrong; wellFormed tells the two apart beforehand.
func nextOption(b []byte) (o option, rest []byte, ok bool) {
	if len(b) < 2 || b[1] < 2 || int(b[1]) > len(b) {
		return nil, nil, false
	}
	return option(b[:b[1]:b[1]]), b[b[1]:], true
}

// wellFormed reports whether b is a list of whole options.
func wellFormed(b []byte) bool {
	for len(b) > 0 {
		_, rest, ok := nextOption(b)
		if !ok {
			return false
		}
		b = rest
	}
	return true
}

func appendOption(b []byte, kind uint8, value ...byte) []byte {
	b = append(b, kind, uint8(2+len(value))) //nolint:gosec // values are a few octets long
	return append(b, value...)
}

func appendOption16(b []byte, kind uint8, v uint16) []byte {
	return binary.BigEndian.AppendUint16(append(b, kind, 4), v)
}

func appendOption32(b []byte, kind uint8, v uint32) []byte {
	return binary.BigEndian.AppendUint32(append(b, kind, 6), v)
}

func appendOption64(b []byte, kind uint8, v uint64) []byte {
	return binary.BigEndian.AppendUint64(append(b, kind, 10), v)
}

// subset reports whether every option of sub occurs in list, octet for octet
// and in the same order, as those of a Configure-Reject must (RFC 1661
// section 5.4).
func subset(sub, list []byte) bool {
	for len(sub) > 0 {
		want, rest, ok := nextOption(sub)
		if !ok {
			return false
		}
		for {
			var have option
			have, list, ok = nextOption(list)
			if !ok {
				return false
			}
			if string(have) == string(want) {
				break
			}
		}
		sub = rest
	}
	return true
}

// digest is FNV-1a over an identifier and options: enough to know a repeated
// packet again.
func digest(id uint8, b []byte) uint64 {
	const prime = 1099511628211
	h := (uint64(14695981039346656037) ^ uint64(id)) * prime
	for _, c := range b {
		h = (h ^ uint64(c)) * prime
	}
	return h | 1 // never zero, which means "none"
}

// answer collects the answer to one Configure-Request while its options are
// judged. Any reject makes it a Configure-Reject, else any nak a
// Configure-Nak, else it is a Configure-Ack (RFC 1661 sections 5.2-5.4).
type answer struct {
	rej, nak []byte
	// noNak turns naks into rejects and stops additions: Max-Failure naks have
	// been sent (RFC 1661 section 4.6).
	noNak bool
}

func (a *answer) reject(o option) { a.rej = append(a.rej, o...) }

// want naks o, asking for the options that fill appends.
func (a *answer) want(o option, fill func([]byte) []byte) {
	if a.noNak {
		a.reject(o)
		return
	}
	a.nak = fill(a.nak)
}

// add asks for an option that is missing, unless the peer has heard it often
// enough.
func (a *answer) add(fill func([]byte) []byte) {
	if !a.noNak {
		a.nak = fill(a.nak)
	}
}

func (a *answer) ok() bool { return len(a.rej) == 0 && len(a.nak) == 0 }
