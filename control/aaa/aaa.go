// Package aaa decides who may call: it verifies what a peer proved about
// itself and says which addresses and keys follow from that.
//
// Authenticator is the seam: Local verifies against a secrets file, other
// kinds may ask a server elsewhere and answer later.
package aaa

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"xpptp/control/ppp/mschap"
)

// Method is a way of authentication.
type Method uint8

// The methods, from the weakest to the strongest.
const (
	PAP      Method = iota + 1 // RFC 1334: the password in the clear
	CHAPMD5                    // RFC 1994
	MSCHAPv1                   // RFC 2433
	MSCHAPv2                   // RFC 2759
)

var methodNames = [...]string{PAP: "pap", CHAPMD5: "chap", MSCHAPv1: "mschapv1", MSCHAPv2: "mschapv2"}

// String is the name used in configuration and logs: pap, chap, mschapv1 or
// mschapv2.
func (m Method) String() string {
	if m == 0 || int(m) >= len(methodNames) {
		return fmt.Sprintf("method %d", uint8(m))
	}
	return methodNames[m]
}

// MarshalText implements encoding.TextMarshaler.
func (m Method) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// ParseMethod is the inverse of Method.String.
func ParseMethod(s string) (Method, error) {
	for m := PAP; int(m) < len(methodNames); m++ {
		if methodNames[m] == s {
			return m, nil
		}
	}
	return 0, fmt.Errorf("%q is none of %s", s, strings.Join(methodNames[PAP:], ", "))
}

// GivesKeys reports whether MPPE keys follow from the method (RFC 3079).
func (m Method) GivesKeys() bool { return m == MSCHAPv1 || m == MSCHAPv2 }

// Request is one attempt of a peer to authenticate itself. Whoever makes it
// leaves it and its slices unchanged until the result is there.
type Request struct {
	Method Method
	Name   string     // as it stands in the packet, DOMAIN\user included
	Server string     // our own name
	Peer   netip.Addr // where the call comes from

	Session string     // our name for the call, see Session.ID
	Local   netip.Addr // the outside address that was called
	Port    uint32     // number of the call

	ID        uint8  // Identifier of the CHAP packets
	Challenge []byte // Value field of our Challenge; not for PAP
	Response  []byte // Value field of the Response; for PAP the password
}

// Errors of a refusal, wrapped with details that must not reach the peer.
var (
	ErrUnknownUser = errors.New("unknown user")
	ErrWrongSecret = errors.New("wrong password")
	ErrNoAddress   = errors.New("user may have no address")
	ErrMalformed   = errors.New("malformed response")
	ErrRejected    = errors.New("rejected")
	// ErrUnavailable: nothing is known about the user, since nobody answers.
	ErrUnavailable = errors.New("no authentication server answers")
	ErrOverload    = errors.New("too many authentications at a time")
)

// Result is the answer to a Request.
type Result struct {
	Err       error     // why the peer is refused; nil: it is accepted
	User      string    // the name it is accepted under
	Addresses Addresses // what the user may have
	Message   string    // MS-CHAPv2: "S=…" for the Success packet (RFC 2759 §5)
	Keys      *Keys     // if Method.GivesKeys
	Grant     Grant     // what else the user is given

	Code int    // of a refusal: MS-CHAP's E= value (RFC 2759 §6), 0 for 691
	Text string // for the person who calls
}

// Keys is what the MPPE start keys are derived from (RFC 3079 §2, §3), or, if
// Ready, the start keys themselves.
type Keys struct {
	Ready      bool
	Send, Recv [16]byte // of our two directions

	NTHashHash [mschap.HashSize]byte
	NTResponse [mschap.ResponseSize]byte // MS-CHAPv2: the master key depends on it

	LMHash    [8]byte                     // MS-CHAPv1: first 8 octets, the start key of 40 and 56 bits
	Challenge [mschap.ChallengeSize1]byte // MS-CHAPv1: enters the start key of 128 bits
}

// Authenticator judges requests. Implementations may be used by several
// goroutines.
type Authenticator interface {
	// Authenticate calls done exactly once: before it returns, or later and
	// then from another goroutine. It never blocks. When ctx ends first, done
	// is called with its error.
	Authenticate(ctx context.Context, r *Request, done func(Result))
}
