// Package session holds one call's data-plane state and the tables that find
// it. One worker owns a session; nothing here is safe for concurrent use.
package session

import (
	"net/netip"

	"xpptp/engine/gre"
	"xpptp/engine/mppe"
)

// Encryption says what the data plane may do with data.
type Encryption uint8

const (
	// Plain: nothing is encrypted; encrypted data is dropped for want of a key.
	Plain Encryption = iota
	// Undecided: plain data passes both ways until encryption opens.
	Undecided
	// Required: plain data is dropped and counted, both ways.
	Required
)

// Session is the data-plane state of one call.
type Session struct {
	next *Session // Table chain

	// Identity, fixed while the session is in a table. Addresses are IPv4 in
	// network byte order.
	Local, Peer [4]byte
	CallID      uint16 // ours: the GRE key of what we receive
	PeerCallID  uint16 // the peer's: the GRE key of what we send; 0 is legal
	PeerKnown   bool   // PeerCallID is known: GRE may be sent

	// Client: we are the calling side of the inside traffic. A client's
	// packets are checked by destination, a server's by source.
	Client bool

	// Framing towards the peer (RFC 1661 §6.5, §6.6), as it asked for.
	ACFC, PFC bool
	// Room is the largest inside packet that may be sent to the peer, in bytes.
	Room uint16

	// UpV4 and UpV6: the network protocol is open, its data may pass.
	UpV4, UpV6 bool
	Encrypt    Encryption
	RxOpen     bool // Rx holds a key
	TxOpen     bool // Tx holds a key: everything sent is encrypted

	// Inside addresses of the far end (server role) or of ours (client role);
	// kept by Table.BindV4 and BindV6.
	InV4, InV6 netip.Addr
	// Nets are the IPv4 networks behind the far end; kept by Table.BindNet.
	Nets []netip.Prefix

	GRE gre.State
	Rx  mppe.Rx
	Tx  mppe.Tx

	Stats Stats
	punt  bucket

	RxRate, TxRate Rate // limits of what comes from the peer, and goes to it

	// Owner is the worker's own record of this session.
	Owner any
}

// Stats counts what passed, since the session was added. Bytes are those of
// inside packets.
type Stats struct {
	RxPackets, RxBytes uint64 // from the peer to the inside
	TxPackets, TxBytes uint64 // from the inside to the peer
	RxControl          uint64 // PPP control frames punted
	TxControl          uint64
	Drops              uint64 // packets of this session dropped under any name
}

// Covers reports whether a belongs to a network behind the far end.
func (s *Session) Covers(a [4]byte) bool {
	for _, p := range s.Nets {
		if p.Contains(netip.AddrFrom4(a)) {
			return true
		}
	}
	return false
}

// bucket is a token bucket for punts.
type bucket struct {
	tokens int32
	last   int64
}

// The punt bucket: a call's negotiation takes some thirty frames at once;
// after that a handful a second is plenty.
const (
	puntBurst    = 100
	puntInterval = int64(20e6) // one token every 20 ms: 50 a second
)

// TakePunt takes a token of the session's allowance of frames for control.
func (s *Session) TakePunt(now int64) bool {
	b := &s.punt
	if b.last == 0 {
		b.last, b.tokens = now, puntBurst
	}
	if n := (now - b.last) / puntInterval; n > 0 {
		b.last += n * puntInterval
		b.tokens = int32(min(puntBurst, int64(b.tokens)+n))
	}
	if b.tokens == 0 {
		return false
	}
	b.tokens--
	return true
}
