package ppp

import (
	"net/netip"
	"slices"
	"time"
)

// Protocol numbers of PPP (RFC 1661 section 2 and the assigned numbers).
const (
	ProtoIPv4   = 0x0021
	ProtoIPv6   = 0x0057
	ProtoComp   = 0x00FD // compressed or encrypted datagram
	ProtoIPCP   = 0x8021
	ProtoIPv6CP = 0x8057
	ProtoCCP    = 0x80FD
	ProtoLCP    = 0xC021
	ProtoPAP    = 0xC023
	ProtoCHAP   = 0xC223
	ProtoEAP    = 0xC227
)

// Method is an authentication protocol.
type Method uint8

// The methods, weakest first. EAP is known by name only: it is neither
// offered nor accepted.
const (
	NoAuth Method = iota
	PAP
	CHAPMD5
	MSCHAPv1
	MSCHAPv2
	EAP
	numMethods
)

var methodNames = [numMethods]string{"none", "pap", "chap", "mschapv1", "mschapv2", "eap"}

// String returns the name used in configuration and output.
func (m Method) String() string {
	if m < numMethods {
		return methodNames[m]
	}
	return "method(?)"
}

// ParseMethod is the inverse of String.
func ParseMethod(s string) (Method, bool) {
	for m := NoAuth; m < numMethods; m++ {
		if methodNames[m] == s {
			return m, true
		}
	}
	return NoAuth, false
}

// Bits is a set of MPPE key lengths.
type Bits uint8

// The key lengths of RFC 3078.
const (
	Bits40 Bits = 1 << iota
	Bits56
	Bits128
)

// strongest returns the set with only its strongest member.
func (b Bits) strongest() Bits {
	for _, k := range []Bits{Bits128, Bits56, Bits40} {
		if b&k != 0 {
			return k
		}
	}
	return 0
}

// Len returns the key length in bits of a set of one, 0 for the empty set.
func (b Bits) Len() int {
	switch b.strongest() {
	case Bits128:
		return 128
	case Bits56:
		return 56
	case Bits40:
		return 40
	}
	return 0
}

// MPPEMode says what a call does about encryption.
type MPPEMode uint8

// Deny refuses CCP; Allow encrypts when the peer asks; Prefer asks and goes
// on without when the peer refuses; Require ends the call then.
const (
	Deny MPPEMode = iota
	Allow
	Prefer
	Require
)

// Stateful says whether MPPE may run in stateful mode (RFC 3078 section 7.2).
type Stateful uint8

// StatelessOnly insists on the H bit; StatefulAllowed asks for stateless mode
// and accepts stateful; StatefulPreferred asks for stateful and accepts
// stateless.
const (
	StatelessOnly Stateful = iota
	StatefulAllowed
	StatefulPreferred
)

// Policy is the encryption policy of a call.
type Policy struct {
	Mode     MPPEMode
	Bits     Bits
	Stateful Stateful
	// IPCPWaitsForCCP delays IPCP and IPV6CP until CCP is open or has given up.
	// With Require they always wait, with Deny and Allow never.
	IPCPWaitsForCCP bool
}

// Config is the part of a link's behaviour that many links share. It must not
// change while a Link uses it. The zero value of a field that names a default
// means that default.
type Config struct {
	// Server makes the link the authenticator that gives out addresses.
	Server bool
	// Name is ours in CHAP challenges.
	Name string

	// User and Password (or NTHash, enough for MS-CHAP) are what the client
	// authenticates itself with. User may be "DOMAIN\user".
	User, Password string
	NTHash         *[16]byte

	// Auth lists the methods: server: what the peer must use, best first
	// (empty: no authentication); client: what it consents to, best first.
	Auth []Method
	// AuthTimeout bounds the authentication phase (default 30 s).
	AuthTimeout time.Duration
	// AuthRetries is how often a peer that failed MS-CHAP may try again (R=1),
	// and, at the client, how often it does when it may. Default 0.
	AuthRetries uint8
	// AnswerPeerChallenge lets a server authenticate itself, with User and
	// Password, to a client that asks. Off, such a request is refused, so no
	// client can have the server answer challenges (reflection).
	AnswerPeerChallenge bool

	// MRU is what we can receive (default 1500, then not negotiated).
	MRU uint16
	// OfferACCM negotiates ACCM; without it the option is not sent. It has no
	// effect over GRE, but peers are used to it.
	OfferACCM bool
	ACCM      uint32
	// OfferPFC and OfferACFC tell the peer that it may compress these fields.
	// Ours are compressed when the peer offers the same.
	OfferPFC, OfferACFC bool
	// NoMagic leaves the magic number, and with it loop detection, out.
	NoMagic bool
	// Identification, when set, is sent once LCP is open (RFC 1570).
	Identification string

	// EchoInterval is the time between LCP Echo-Requests (0: none), EchoFailure
	// the number of unanswered ones that ends the link (default 5).
	EchoInterval time.Duration
	EchoFailure  uint8

	MPPE Policy

	// IPv4 and IPv6 enable IPCP and IPV6CP.
	IPv4, IPv6 bool
	// LocalIP is our address. The client asks for one when it is not valid.
	LocalIP netip.Addr
	// PeerIP is the peer's address. A server that has none, here or in
	// AuthResult, acknowledges whatever the peer has; a client insists on it.
	PeerIP netip.Addr
	// DNS and NBNS are what a server tells a client that asks (RFC 1877).
	DNS, NBNS [2]netip.Addr
	// AskDNS and AskNBNS make the client ask.
	AskDNS, AskNBNS bool
	// InterfaceID is our IPv6 interface identifier (0: random).
	InterfaceID uint64

	// RestartTimer (default 3 s), MaxConfigure (10), MaxTerminate (2) and
	// MaxFailure (5) are those of RFC 1661 section 4.6.
	RestartTimer                           time.Duration
	MaxConfigure, MaxTerminate, MaxFailure uint8
}

func or[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

func (c *Config) mru() uint16          { return or(c.MRU, defaultMRU) }
func (c *Config) restart() int64       { return int64(or(c.RestartTimer, 3*time.Second)) }
func (c *Config) maxConfigure() uint8  { return or(c.MaxConfigure, 10) }
func (c *Config) maxTerminate() uint8  { return or(c.MaxTerminate, 2) }
func (c *Config) maxFailure() uint8    { return or(c.MaxFailure, 5) }
func (c *Config) echoFailure() uint8   { return or(c.EchoFailure, 5) }
func (c *Config) authTimeout() int64   { return int64(or(c.AuthTimeout, 30*time.Second)) }
func (c *Config) allows(m Method) bool { return slices.Contains(c.Auth, m) }

// provesItself reports whether we authenticate ourselves if asked to.
func (c *Config) provesItself() bool { return (!c.Server || c.AnswerPeerChallenge) && c.User != "" }

// canProve reports whether we may and can do that with m: PAP and CHAP with
// MD5 need the password itself.
func (c *Config) canProve(m Method) bool {
	return m > NoAuth && m < EAP && c.allows(m) && (m > CHAPMD5 || c.Password != "" || c.NTHash == nil)
}
