package mppe

import (
	"crypto/sha1"
	"fmt"

	"xpptp/engine/mppe/multi"
)

// The texts and pads of RFC 3079 §3.4.
const (
	magic1 = "This is the MPPE Master Key"
	magic2 = "On the client side, this is the send key; on the server side, it is the receive key."
	magic3 = "On the client side, this is the receive key; on the server side, it is the send key."
)

var pad1, pad2 = [40]byte{}, func() (p [40]byte) {
	for i := range p {
		p[i] = 0xf2
	}
	return p
}()

// StartKeysV2 derives the start keys of both directions from MS-CHAPv2
// credentials (RFC 3079 §3): passwordHashHash is MD4(MD4(password in UTF-16)),
// ntResponse the response of the peer that authenticated. server says whose
// side we are on. They serve all key lengths: a 40- or 56-bit key uses the
// first eight octets. RADIUS carries the same keys as MS-MPPE-Send-Key and
// MS-MPPE-Recv-Key (RFC 2548 §2.4).
func StartKeysV2(passwordHashHash [16]byte, ntResponse [24]byte, server bool) (send, recv [16]byte) {
	master := digest(passwordHashHash[:], ntResponse[:], []byte(magic1))
	toServer := digest(master[:], pad1[:], []byte(magic2), pad2[:])
	toClient := digest(master[:], pad1[:], []byte(magic3), pad2[:])
	if server {
		return toClient, toServer
	}
	return toServer, toClient
}

// StartKeyV1 derives the start key of both directions from MS-CHAPv1
// credentials for 128-bit encryption (RFC 3079 §2.3): passwordHashHash as for
// MS-CHAPv2, challenge the first one the authenticator sent.
func StartKeyV1(passwordHashHash [16]byte, challenge [8]byte) [16]byte {
	return digest(passwordHashHash[:], passwordHashHash[:], challenge[:])
}

// StartKeyV1LM returns the start key of both directions from MS-CHAPv1
// credentials for 40- and 56-bit encryption (RFC 3079 §2.1, §2.2): the first
// eight octets of the LAN Manager password hash.
func StartKeyV1LM(lmPasswordHash [16]byte) (start [16]byte) {
	copy(start[:8], lmPasswordHash[:8])
	return start
}

func digest(parts ...[]byte) [16]byte {
	h := sha1.New()
	for _, p := range parts {
		h.Write(p)
	}
	return [16]byte(h.Sum(nil)[:16])
}

// newChain returns the key chain of one direction at its first session key
// (RFC 3079 §2.4, §3.1 to §3.3).
func newChain(bits int, start [16]byte) (multi.KeyState, error) {
	k := multi.KeyState{Start: start, Len: 16}
	switch bits {
	case 40:
		k.Len, k.Salt = 8, 3
	case 56:
		k.Len, k.Salt = 8, 1
	case 128:
	default:
		return k, fmt.Errorf("mppe: key length %d bits: want 40, 56 or 128", bits)
	}
	if k.Len == 8 {
		clear(k.Start[8:])
	}
	n := k.Len
	d := digest(k.Start[:n], pad1[:], k.Start[:n], pad2[:])
	copy(k.Session[:n], d[:n])
	copy(k.Session[:k.Salt], []byte{0xd1, 0x26, 0x9e})
	return k, nil
}
