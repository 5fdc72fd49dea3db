package ppp

import (
	"xpptp/control/ppp/mschap"
	"xpptp/engine/mppe"
)

// keysV2 derives both start keys of MS-CHAPv2 (RFC 3079 section 3). server
// says which end we are.
func keysV2(ntHash [16]byte, ntResponse [24]byte, server bool) KeyMaterial {
	k := KeyMaterial{Bits: Bits40 | Bits56 | Bits128}
	k.Send, k.Recv = mppe.StartKeysV2(mschap.HashHash(ntHash), ntResponse, server)
	return k
}

// keysV1 derives the start keys of MS-CHAPv1 (RFC 3079 section 2). Without the
// password there is no LM hash, and so no 40 or 56 bits.
func keysV1(ntHash [16]byte, s Secret, challenge [8]byte) KeyMaterial {
	k := KeyMaterial{Bits: Bits128, ByLM: true}
	k.Send = mppe.StartKeyV1(mschap.HashHash(ntHash), challenge)
	k.Recv = k.Send
	if s.NTHash == nil {
		k.LM = mppe.StartKeyV1LM(mschap.LMHash(s.Password))
		k.Bits |= Bits40 | Bits56
	}
	return k
}
