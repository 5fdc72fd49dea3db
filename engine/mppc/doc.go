// Package mppc is Microsoft Point-to-Point Compression (RFC 2118): one
// direction of one call is a Tx or an Rx. Both keep the last 8 KiB of what was
// compressed, the history; a packet is literals and references into it.
//
// The bits A, B and C of the two-byte header are produced and consumed here, as
// Bits. The header itself, bit D and the coherency count are shared with MPPE
// and not here: who reads the count tells the Rx of a loss (Lost) and the Tx of
// the peer's Reset-Request (Reset). What is compressed begins with the PPP
// protocol field, and only network protocols, 0x0021 to 0x00FA, are to be
// compressed (§3). The sender compresses, then encrypts (RFC 3078 §3.1). In
// stateless mode bit A stands on every packet and counts for compression, too:
// call Reset before each.
//
// A packet that does not become smaller is sent as it is, and the history
// starts anew. Bit A says so on that packet, as RDP's implementations expect,
// and again on the first compressed one after it, as those expect that read it
// only there. After several such packets in a row the next ones are not even
// tried, more of them each time, up to 16. As in stateful MPPE bit A makes the
// cipher begin again with the same key, it is set no more often than that.
//
// # The history
//
// Where there is no room at its end, a packet goes to the front (bit B). What
// stands behind it there is still valid: the history is a ring, and references
// may reach back round its end. RFC 2118 is silent here. Implementations agree,
// whether they count offsets modulo 8192, as RDP's, or copy the old history in
// front of the new one, as those of BSD and Linux.
//
// # FreeRDP
//
// The 8 KiB variant of RDP 4 is the same format. FreeRDP 2.11, which the tests
// hold this package against in both directions, differs in what surrounds it:
//
//   - Flags are 0x80, 0x40 and 0x20 of a byte: A, B and C of the header's first
//     one. There is no coherency count, as RDP loses nothing.
//   - Its first packet of all has B and C; here it has A, too. Later its bits are
//     as here: A on the plain packet that makes the history begin anew, and A, B
//     and C on the compressed one after it. It never stops trying, so it says A
//     again on every packet that does not become smaller.
//   - Its compressor leaves the last bytes of the history empty, as the Tx does;
//     the Rx takes all 8192.
//   - After a flush its compressor forgets how much of the history is in use, and
//     a match may run on into what was never written. RFC 2118 forbids that, but
//     it is zero on both ends: the Rx accepts references that begin in what was
//     written, wherever they end.
//   - Its decompressor does not check that a reference stays within the history,
//     and copies on past the end of the buffer. The Tx never makes a reference
//     that goes on over the end; the Rx follows it round.
package mppc

// HistoryLen is the length of the history in bytes (RFC 2118 §4).
const HistoryLen = 8192

// Bits are bits of the first two bytes of an MPPC packet in network byte order
// (RFC 2118 §3.1).
type Bits uint16

// The bits. D is MPPE's.
const (
	Flushed    Bits = 0x8000 // A: the history was initialised before this packet
	AtFront    Bits = 0x4000 // B: the packet begins at the front of the history
	Compressed Bits = 0x2000 // C
)

// Offsets are coded with 6, 8 or 13 bits, counted from these (RFC 2118
// §4.2.1). Lengths begin with 3 (§4.2.2).
const (
	offset8  = 64
	offset13 = 320
	minMatch = 3

	ringMask = HistoryLen - 1
)
