// Package engine names what every room of the data plane shares: the reasons
// for which a packet is dropped. The sub-packages compute: wire (header
// views), gre (sequence, acknowledgement, window, reorder), mppe (keys,
// coherency, batches), session (one call's state and the tables).
//
// Nothing here or below starts a goroutine, makes a system call, logs, or
// reads a clock: time is a parameter, in nanoseconds of a monotonic clock.
package engine

// Drop says why a packet was dropped. It is counter, trace tag and metric
// label alike: nothing is dropped without one. The zero value, Pass, means
// "not dropped".
type Drop uint8

// The reasons. Keep dropNames in the same order.
const (
	Pass Drop = iota

	// Outside, before a session is known.
	ShortPacket // too short for the headers it claims
	NotIPv4     // outside packet that is not IPv4
	BadIPHeader // version, header length, total length or checksum wrong
	Fragment    // outside fragment that the kernel must reassemble
	NotGRE      // IP protocol is not 47
	BadGRE      // not enhanced GRE version 1 / protocol 0x880B, or bad flags
	UnknownCall // no session for (peer, local address, call ID)
	WrongPeer   // call ID is ours, source address is not the call's
	Foreign     // destination address is not ours
	Source      // source address is not in the list of those allowed

	// GRE.
	GREDuplicate    // sequence number already delivered or held
	GRELate         // behind the delivery point; its turn has passed
	GREJump         // a jump ahead too large to believe from one packet
	GREReorderFull  // the reorder buffer was full
	GREReorderClear // held in the reorder buffer when the call or key changed
	GREAckOnly      // carries no payload: consumed, not lost
	GREWindow       // held back by the peer's window and the queue was full

	// PPP.
	PPPShort    // no room for a protocol field
	PPPProtocol // protocol neither negotiated nor known (Protocol-Reject sent)
	PPPNotOpen  // network protocol before its NCP is open
	PuntRate    // control frame beyond the session's token bucket
	PuntFull    // ring to the control loop was full

	// MPPE.
	MPPEPlain     // plain data where encryption is required
	MPPENoKey     // encrypted data, but no receive key yet
	MPPEShort     // shorter than its two-byte header
	MPPEBits      // header bits that were not negotiated (compressed, clear)
	MPPELate      // coherency count behind the window
	MPPEInsane    // what it decrypts to is not a negotiated protocol: forged or out of sync
	MPPECatchUp   // catch-up work beyond the session's bound
	MPPEOutOfSync // stateful: waiting for a flushed packet
	MPPENoSendKey // must be encrypted, send side not open

	// MPPC.
	MPPCOutOfSync // compressed, after a loss: waiting for a flushed packet
	MPPCBad       // no code, or refers to what is not in the history
	MPPCLong      // longer than the room when decompressed

	// AEAD.
	AEADNoKey  // encrypted data, but no receive key yet
	AEADShort  // shorter than counter, tag and one byte
	AEADReplay // counter was there before
	AEADLate   // counter behind the window
	AEADFar    // counter so far ahead that its key is not at hand, and too many such packets
	AEADForged // authentication failed
	AEADInsane // authentic, but not a negotiated protocol

	// Inner packets.
	InnerShort       // too short for its header
	InnerBad         // version or lengths wrong
	InnerSource      // source address does not belong to the call
	InnerDestination // client role: destination is not ours
	InnerECN         // congestion met on the way, and the inner packet cannot say so (RFC 6040 §4.2)
	TooBig           // larger than the room and not to be fragmented (answered)
	NoRoute          // inside packet for no session
	NoHop            // next hop not known (yet), queue full
	HopFailed        // next hop does not answer
	NotUp            // session not up for this protocol
	RateLimit        // over the call's rate

	// Ports.
	TxFull      // transmit ring full
	NoFrame     // no free frame
	PortDown    // the port is gone
	Truncated   // longer than a frame
	Handoff     // SPSC ring to the owning worker was full
	SessionGone // session removed while the packet was under way

	NumDrops
)

var dropNames = [NumDrops]string{
	"pass",
	"short-packet", "not-ipv4", "bad-ip-header", "fragment", "not-gre", "bad-gre", "unknown-call", "wrong-peer", "foreign", "source",
	"gre-duplicate", "gre-late", "gre-jump", "gre-reorder-full", "gre-reorder-clear", "gre-ack-only", "gre-window",
	"ppp-short", "ppp-protocol", "ppp-not-open", "punt-rate", "punt-full",
	"mppe-plain", "mppe-no-key", "mppe-short", "mppe-bits", "mppe-late", "mppe-insane", "mppe-catch-up", "mppe-out-of-sync", "mppe-no-send-key",
	"mppc-out-of-sync", "mppc-bad", "mppc-long",
	"aead-no-key", "aead-short", "aead-replay", "aead-late", "aead-far", "aead-forged", "aead-insane",
	"inner-short", "inner-bad", "inner-source", "inner-destination", "inner-ecn", "too-big", "no-route", "no-hop", "hop-failed", "not-up", "rate-limit",
	"tx-full", "no-frame", "port-down", "truncated", "handoff", "session-gone",
}

// String returns the name as it stands in counters, traces and metrics.
func (d Drop) String() string {
	if d < NumDrops {
		return dropNames[d]
	}
	return "drop(?)"
}

// Counters counts packets by reason. One owner writes; others take copies
// through whatever hand-over the owner offers.
type Counters [NumDrops]uint64

// Add adds o to c.
func (c *Counters) Add(o *Counters) {
	for i := range c {
		c[i] += o[i]
	}
}
