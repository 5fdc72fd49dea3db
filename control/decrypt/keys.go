package decrypt

import (
	"encoding/hex"
	"fmt"
	"strings"

	"xpptp/control/aaa"
	"xpptp/control/ppp"
	"xpptp/control/ppp/mschap"
	"xpptp/engine/mppe"
	"xpptp/engine/wire"
)

// Names of the methods of authentication, as in the configuration.
var (
	methodPAP = ppp.PAP.String()
	methodMD5 = ppp.CHAPMD5.String()
	methodV1  = ppp.MSCHAPv1.String()
	methodV2  = ppp.MSCHAPv2.String()
)

// SecretState says whether the secrets given open a call.
type SecretState string

// What the secret for a call's user is. A call without authentication has none
// of them.
const (
	SecretFits    SecretState = "fits"     // it gives the response recorded
	SecretWrong   SecretState = "wrong"    // it gives another response
	SecretMissing SecretState = "missing"  // there is none for the user
	SecretUnknown SecretState = "unproven" // the challenge was not captured
)

// exchange is one authentication: a response and what belongs to it.
type exchange struct {
	method   ppp.Method
	name     string // of the one who authenticates itself
	server   string // of the other
	toServer bool   // the client authenticates itself to the server
	secret   SecretState
	outcome  string // accepted, refused, unknown
	message  string
	keys     []keyPair
}

// keyPair is what MPPE may start from: start keys of both directions.
type keyPair struct {
	keys     ppp.KeyMaterial // as the authenticator has them
	toServer bool            // as in exchange
}

// start returns the start key of a direction.
func (k *keyPair) start(bits int, toServer bool) [16]byte {
	switch {
	case k.keys.ByLM && bits != 128:
		return k.keys.LM
	case toServer == k.toServer: // to the authenticator
		return k.keys.Recv
	}
	return k.keys.Send
}

// has reports whether the material is good for a key length.
func (k *keyPair) has(bits int) bool {
	want := map[int]ppp.Bits{40: ppp.Bits40, 56: ppp.Bits56, 128: ppp.Bits128}[bits]
	return k.keys.Bits&want != 0
}

// exchanges finds the authentications of a call and tries the secrets on them.
func (cl *call) exchanges(secrets *aaa.Secrets) (all []exchange) {
	for i, f := range cl.flows {
		if f == nil {
			continue
		}
		other := cl.flows[1-i]
		var seen [][]byte
	next:
		for _, p := range f.proofs {
			response := p.proto == wire.PPPCHAP && p.code == chapResponse || p.proto == wire.PPPPAP && p.code == papRequest
			if !response {
				continue
			}
			for _, v := range seen {
				if string(v) == string(p.value) {
					continue next // sent again
				}
			}
			seen = append(seen, p.value)
			all = append(all, newExchange(p, other, i == 0, secrets))
		}
	}
	return all
}

func newExchange(p proof, other *flow, toServer bool, secrets *aaa.Secrets) exchange {
	x := exchange{name: p.text, toServer: toServer, outcome: "unknown"}
	var challenge *proof
	var answers []proof
	server := ""
	if other != nil {
		for i := range other.proofs {
			q := &other.proofs[i]
			if q.proto == wire.PPPCHAP && q.code == chapChallenge {
				server = q.text
			}
			switch {
			case p.proto == wire.PPPCHAP && q.code == chapFailure && q.proto == p.proto && q.id+1 == p.id:
				// A failure that allows a retry holds the next challenge (RFC 2433 §8,
				// RFC 2759 §6).
				if c := retryChallenge(q.text); c != nil && challenge == nil {
					challenge = &proof{number: q.number, value: c, text: server}
				}
			case q.proto != p.proto || q.id != p.id:
			case p.proto == wire.PPPCHAP && q.code == chapChallenge:
				if challenge == nil || q.number < p.number {
					challenge = q
				}
			default:
				answers = append(answers, *q)
			}
		}
	}
	for _, q := range answers {
		switch {
		case p.proto == wire.PPPCHAP && q.code == chapSuccess, p.proto == wire.PPPPAP && q.code == papAck:
			x.outcome, x.message = "accepted", q.text
		case p.proto == wire.PPPCHAP && q.code == chapFailure, p.proto == wire.PPPPAP && q.code == papNak:
			if x.outcome == "unknown" {
				x.outcome, x.message = "refused", q.text
			}
		}
	}
	if challenge != nil {
		x.server = challenge.text
	}
	x.method = methodOf(p, challenge)
	x.try(p, challenge, secrets)
	return x
}

// retryChallenge finds the challenge in a failure message, "… R=1 C=<hex> …".
func retryChallenge(message string) []byte {
	if !strings.Contains(message, "R=1") {
		return nil
	}
	for _, word := range strings.Fields(message) {
		if digits, ok := strings.CutPrefix(word, "C="); ok {
			if c, err := hex.DecodeString(digits); err == nil && (len(c) == mschap.ChallengeSize1 || len(c) == mschap.ChallengeSize2) {
				return c
			}
		}
	}
	return nil
}

// methodOf tells the methods apart by what the packets look like.
func methodOf(p proof, challenge *proof) ppp.Method {
	switch {
	case p.proto == wire.PPPPAP:
		return ppp.PAP
	case len(p.value) != mschap.ValueSize:
		return ppp.CHAPMD5
	case challenge != nil && len(challenge.value) == mschap.ChallengeSize1:
		return ppp.MSCHAPv1
	case challenge == nil && string(p.value[16:24]) != string(make([]byte, 8)):
		return ppp.MSCHAPv1 // version 2 has zeros there
	}
	return ppp.MSCHAPv2
}

// try finds the secret and derives keys.
func (x *exchange) try(p proof, challenge *proof, secrets *aaa.Secrets) {
	e, ok := secrets.Lookup(x.name, x.server)
	if !ok {
		x.secret = SecretMissing
		return
	}
	secret := e.Secret.Reveal()
	req := ppp.AuthRequest{Method: x.method, ID: p.id, Name: x.name, Response: p.value, Password: string(p.value)}
	if challenge == nil && p.proto == wire.PPPCHAP {
		// MS-CHAPv2's keys do not depend on the challenge, only the proof does.
		x.secret = SecretUnknown
		if x.method == ppp.MSCHAPv2 {
			k := keyPair{toServer: x.toServer}
			k.keys.Bits = ppp.Bits40 | ppp.Bits56 | ppp.Bits128
			k.keys.Send, k.keys.Recv = mppe.StartKeysV2(mschap.HashHash(mschap.NTHash(secret)), [24]byte(p.value[24:48]), true)
			x.keys = append(x.keys, k)
		}
		return
	}
	if challenge != nil {
		req.Challenge = challenge.value
	}
	res := req.Verify(ppp.Secret{Password: secret})
	if !res.OK {
		x.secret = SecretWrong
		return
	}
	x.secret = SecretFits
	if res.Keys.Bits != 0 {
		x.keys = append(x.keys, keyPair{res.Keys, x.toServer})
	}
}

// verdict says what is wrong with the secret, "" if nothing is.
func (x *exchange) verdict() string {
	switch x.secret {
	case SecretMissing:
		if x.server == "" {
			return fmt.Sprintf("no secret for user %q", printable(x.name))
		}
		return fmt.Sprintf("no secret for user %q on server %q", printable(x.name), printable(x.server))
	case SecretWrong:
		return fmt.Sprintf("the secret for user %q is not the one used in this call", printable(x.name))
	case SecretUnknown:
		return fmt.Sprintf("the challenge that user %q answered was not captured: the secret cannot be checked", printable(x.name))
	case SecretFits:
	}
	return ""
}
