package ppp

import (
	"fmt"
	"net/netip"
)

// Host is what a Link acts on. Its methods are called synchronously, in order,
// from inside the methods of the Link, and must not call back into it. The
// order is a promise: what is opened before a message is sent is open when the
// peer can have read the message.
type Host interface {
	// Send transmits one PPP packet. info is valid only during the call. LCP
	// goes out with FF 03 and a two-octet protocol field whatever was
	// negotiated.
	Send(proto uint16, info []byte)
	// LCPUp reports the outcome of LCP, again after each renegotiation.
	LCPUp(LCPParams)
	// Authenticate asks to verify the peer. The answer is given later through
	// Link.AuthResult.
	Authenticate(*AuthRequest)
	// OpenReceive readies the receive side for MPPE. It comes before any CCP
	// message that lets the peer encrypt, and again, with fresh keys, in every
	// new negotiation.
	OpenReceive(MPPEParams)
	// OpenTransmit readies the send side: from here on data is encrypted.
	OpenTransmit(MPPEParams)
	// CloseMPPE forgets both sides.
	CloseMPPE()
	// ResetTransmit asks the send side to flush: the peer sent a Reset-Request
	// (RFC 3078 section 8.2) with identifier id. The Reset-Ack follows from the
	// Link.
	ResetTransmit(id uint8)
	// ResetAcked reports a Reset-Ack to our Reset-Request.
	ResetAcked()
	// NetworkUp opens one network protocol for data, NetworkDown closes it.
	NetworkUp(NetParams)
	NetworkDown(Family)
	// Down reports the end of the link, once. Nothing follows.
	Down(Reason)
}

// InterfaceIDChecker may be implemented by a Host that keeps the interface
// identifiers of its peers unique among each other.
type InterfaceIDChecker interface {
	// InterfaceIDFree reports whether the peer may have id.
	InterfaceIDFree(id uint64) bool
}

// AuthWatcher may be implemented by a Host that wants to know when.
type AuthWatcher interface {
	// Authenticated reports that both ends have proved what they had to.
	Authenticated()
}

// RejectHandler may be implemented by a Host whose encryption wants to know
// what the peer could not make sense of.
type RejectHandler interface {
	// DataRejected reports an LCP Protocol-Reject of something that no protocol
	// of ours sent: most likely our data, decrypted with another key. info is
	// valid only during the call.
	DataRejected(proto uint16, info []byte)
}

// Family is a network protocol.
type Family uint8

// The network protocols.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// LCPParams is what LCP agreed on.
type LCPParams struct {
	MRU, PeerMRU     uint16 // what we may be sent; what we may send
	TxPFC, TxACFC    bool   // we may compress the protocol field; address and control
	RxPFC, RxACFC    bool   // the peer may
	TxACCM, RxACCM   uint32 // the peer's and our ACCM, 0xFFFFFFFF when not negotiated
	Magic, PeerMagic uint32 // 0 when not negotiated
	Auth, AuthToPeer Method // how the peer, and how we, authenticate
}

// MPPEParams opens one direction of MPPE.
type MPPEParams struct {
	Bits     int  // 40, 56 or 128
	Stateful bool // stateless otherwise
	Required bool // plain data must not pass
	// StartKey is the initial session key's start value as RFC 3079 derives it:
	// 16 octets for 128 bits, else the first 8 count.
	StartKey [16]byte
}

// NetParams opens one network protocol.
type NetParams struct {
	Family      Family
	Local, Peer netip.Addr // IPv4 addresses (invalid when not agreed), or IPv6 link-local addresses
	DNS, NBNS   [2]netip.Addr
	Encrypted   bool // plain data must not pass, in either direction
	// LocalID and PeerID are the IPv6 interface identifiers.
	LocalID, PeerID uint64
}

// KeyMaterial is the outcome of authentication that MPPE starts from. The
// zero value means none.
type KeyMaterial struct {
	// Send and Recv are the start keys of our two directions: the asymmetric
	// start keys of MS-CHAPv2 (RFC 3079 section 3; 40 and 56 bits use the first
	// 8 octets), the one 128-bit start key of MS-CHAPv1 (section 2.3), or
	// MS-MPPE-Send-Key and MS-MPPE-Recv-Key (RFC 2548 section 2.4).
	Send, Recv [16]byte
	// LM is MS-CHAPv1's start key for 40 and 56 bits, in its first 8 octets (RFC
	// 3079 sections 2.1, 2.2).
	LM [16]byte
	// Bits are the key lengths that the material is good for.
	Bits Bits
	// ByLM says that 40 and 56 bits take LM.
	ByLM bool
}

// start returns the start key for one direction and a key length.
func (k *KeyMaterial) start(bits Bits, send bool) [16]byte {
	switch {
	case k.ByLM && bits != Bits128:
		return k.LM
	case send:
		return k.Send
	default:
		return k.Recv
	}
}

// AuthResult is the host's answer to an AuthRequest.
type AuthResult struct {
	// Request is the one answered. An answer to any other than the pending
	// request is ignored.
	Request *AuthRequest
	OK      bool
	// Message is for people: the M= text of MS-CHAP, the whole text of the
	// other methods.
	Message string

	// Authenticator is MS-CHAPv2's proof to the peer, "S=" and 40 digits.
	Authenticator string
	Keys          KeyMaterial

	// Code is MS-CHAP's E= value of a failure (default 691); NoRetry forbids
	// the retry that Config.AuthRetries would allow.
	Code    int
	NoRetry bool

	// What this user gets instead of the configured values, where set.
	LocalIP, PeerIP netip.Addr
	DNS, NBNS       [2]netip.Addr
	PeerInterfaceID uint64
	MPPE            *Policy
}

// ReasonCode classifies the end of a link.
type ReasonCode uint8

// The reasons.
const (
	Unknown           ReasonCode = iota
	UserRequest                  // ended by us, in order
	AdminReset                   // ended by us: operator, shutdown, limit
	PeerTerminated               // the peer sent Terminate-Request
	NoAnswer                     // the peer stopped answering Configure-Requests
	NotConverging                // options never agreed
	Loopback                     // we hear ourselves
	EchoTimeout                  // the peer stopped answering Echo-Requests
	ProtocolError                // the peer rejected something without which there is no link
	AuthRefused                  // the peer will not authenticate itself with any allowed method
	AuthFailed                   // the peer's, or our, credentials were refused
	AuthTimeout                  // authentication took too long
	BadAuthenticator             // MS-CHAPv2: the server did not prove itself
	EncryptionRefused            // encryption is required and the peer does not agree
	NoKeys                       // encryption is required and authentication gave no keys
	EncryptionLost               // the peer cannot read our encrypted packets, and renegotiation did not help
	NoNetwork                    // no network protocol is left
	LowerDown                    // what carries the link went away
	numReasons
)

var reasonNames = [numReasons]string{
	"unknown", "user-request", "admin-reset", "peer-terminated", "no-answer", "not-converging", "loopback",
	"echo-timeout", "protocol-error", "auth-refused", "auth-failed", "auth-timeout", "bad-authenticator",
	"encryption-refused", "no-keys", "encryption-lost", "no-network", "lower-down",
}

// String returns the short name used in logs and counters.
func (c ReasonCode) String() string {
	if c < numReasons {
		return reasonNames[c]
	}
	return "reason(?)"
}

// Reason says why a link ended.
type Reason struct {
	Code ReasonCode
	// AuthError is MS-CHAP's E= value, 0 if there is none.
	AuthError int
	// Text adds to the code: the peer's words, or what was missing.
	Text string
}

// String returns the reason in words.
func (r Reason) String() string {
	s := r.Code.String()
	if r.AuthError != 0 {
		s += fmt.Sprintf(" (error %d)", r.AuthError)
	}
	if r.Text != "" {
		s += ": " + r.Text
	}
	return s
}
