package ppp

import (
	"crypto/sha1"

	"xpptp/control/ppp/mschap"
)

// keysV2 derives both start keys of MS-CHAPv2 (RFC 3079 section 3). server
// says which end we are.
func keysV2(ntHash [16]byte, ntResponse [24]byte, server bool) KeyMaterial {
	hh := mschap.HashHash(ntHash)
	h := sha1.New()
	h.Write(hh[:])
	h.Write(ntResponse[:])
	h.Write([]byte("This is the MPPE Master Key"))
	master := h.Sum(nil)[:16]
	start := func(text string) (k [16]byte) {
		var pad1, pad2 [40]byte
		for i := range pad2 {
			pad2[i] = 0xF2
		}
		h := sha1.New()
		h.Write(master)
		h.Write(pad1[:])
		h.Write([]byte(text))
		h.Write(pad2[:])
		copy(k[:], h.Sum(nil))
		return k
	}
	k := KeyMaterial{
		Send: start("On the client side, this is the send key; on the server side, it is the receive key."),
		Recv: start("On the client side, this is the receive key; on the server side, it is the send key."),
		Bits: Bits40 | Bits56 | Bits128,
	}
	if server {
		k.Send, k.Recv = k.Recv, k.Send
	}
	return k
}

// keysV1 derives the start keys of MS-CHAPv1 (RFC 3079 section 2). Without the
// password there is no LM hash, and so no 40 or 56 bits.
func keysV1(ntHash [16]byte, s Secret, challenge [8]byte) KeyMaterial {
	hh := mschap.HashHash(ntHash)
	h := sha1.New()
	h.Write(hh[:])
	h.Write(hh[:])
	h.Write(challenge[:])
	var k KeyMaterial
	copy(k.Send[:], h.Sum(nil))
	k.Recv, k.Bits, k.ByLM = k.Send, Bits128, true
	if s.NTHash == nil {
		lm := mschap.LMHash(s.Password)
		copy(k.LM[:], lm[:])
		k.Bits |= Bits40 | Bits56
	}
	return k
}
