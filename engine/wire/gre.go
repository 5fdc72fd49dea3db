package wire

import "xpptp/engine"

// Enhanced GRE (RFC 2637 §4.1).
const (
	GREMaxLen = 16     // header with sequence and acknowledgment number
	GREPPP    = 0x880B // protocol type

	greMinLen = 8
	greK      = 0x2000 // key present: always
	greS      = 0x1000 // sequence number present
	greA      = 0x0080 // acknowledgment number present
	greVer    = 0x0001
)

// GRE is an enhanced GRE packet, cut to its header and payload length.
type GRE []byte

// ParseGRE checks version 1, protocol type 0x880B, the flags and the lengths,
// and cuts what follows the payload. A packet without a sequence number
// carries no payload, whatever its length field says: it only acknowledges.
func ParseGRE(b []byte) (GRE, engine.Drop) {
	if len(b) < greMinLen {
		return nil, engine.ShortPacket
	}
	if be.Uint16(b[0:2])&^(greS|greA) != greK|greVer || be.Uint16(b[2:4]) != GREPPP {
		return nil, engine.BadGRE
	}
	g := GRE(b)
	n := g.HeaderLen()
	if g.HasSeq() {
		n += g.PayloadLen()
	}
	if n > len(b) {
		return nil, engine.ShortPacket
	}
	return g[:n], engine.Pass
}

// HasSeq reports whether the packet has a sequence number, and so a payload.
func (g GRE) HasSeq() bool { return g[0]&(greS>>8) != 0 }

// HasAck reports whether the packet acknowledges.
func (g GRE) HasAck() bool { return g[1]&greA != 0 }

// HeaderLen returns the length of the header in bytes: 8, 12 or 16.
func (g GRE) HeaderLen() int { return GRELen(g.HasSeq(), g.HasAck()) }

// PayloadLen returns the payload length field (the high half of the key).
func (g GRE) PayloadLen() int { return int(be.Uint16(g[4:6])) }

// CallID returns the call ID of the receiver (the low half of the key).
func (g GRE) CallID() uint16 { return be.Uint16(g[6:8]) }

// Seq returns the sequence number, 0 without one.
func (g GRE) Seq() uint32 {
	if !g.HasSeq() {
		return 0
	}
	return be.Uint32(g[8:12])
}

// Ack returns the acknowledgment number, 0 without one. It stands at offset 8
// if there is no sequence number.
func (g GRE) Ack() uint32 {
	if !g.HasAck() {
		return 0
	}
	n := g.HeaderLen()
	return be.Uint32(g[n-4 : n])
}

// Payload returns the PPP packet.
func (g GRE) Payload() []byte { return g[g.HeaderLen():] }

// GRELen returns the length of a header with these fields.
func GRELen(hasSeq, hasAck bool) int {
	n := greMinLen
	if hasSeq {
		n += 4
	}
	if hasAck {
		n += 4
	}
	return n
}

// PutGRE writes an enhanced GRE header to b and returns its length. callID is
// the receiver's call ID; payloadLen counts the bytes after the header.
func PutGRE(b []byte, callID uint16, payloadLen int, seq uint32, hasSeq bool, ack uint32, hasAck bool) int {
	flags, n := uint16(greK|greVer), greMinLen
	if hasSeq {
		flags |= greS
		be.PutUint32(b[n:n+4], seq)
		n += 4
	}
	if hasAck {
		flags |= greA
		be.PutUint32(b[n:n+4], ack)
		n += 4
	}
	be.PutUint16(b[0:2], flags)
	be.PutUint16(b[2:4], GREPPP)
	be.PutUint16(b[4:6], uint16(payloadLen))
	be.PutUint16(b[6:8], callID)
	return n
}
