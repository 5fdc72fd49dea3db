package mppe

import (
	"bytes"
	"crypto/rc4"
	"encoding/hex"
	"strings"
	"testing"

	"xpptp/engine/mppe/multi"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// RFC 3079 §3.5: MS-CHAPv2, user "User", password "clientPass". The last octet
// of the 56-bit message is misprinted there (58): crypto/rc4 with the key as
// printed gives B8, as asserted here.
func TestKeysV2(t *testing.T) {
	hh := [16]byte(unhex(t, "41 C0 0C 58 4B D2 D9 1C 40 17 A2 A1 2F A5 9F 3F"))
	if got := ntHashHash("clientPass"); got != hh {
		t.Fatalf("PasswordHashHash %x, want %x", got, hh)
	}
	nt := [24]byte(unhex(t, "82 30 9E CD 8D 70 8B 5E A0 8F AA 39 81 CD 83 54 42 33 11 4A 3D 85 D6 DF"))
	send, recv := StartKeysV2(hh, nt, true)
	if want := unhex(t, "8B 7C DC 14 9B 99 3A 1B A1 18 CB 15 3F 56 DC CB"); !bytes.Equal(send[:], want) {
		t.Errorf("server's send start key %x, want %x", send, want)
	}
	clientSend, clientRecv := StartKeysV2(hh, nt, false)
	if clientSend != recv || clientRecv != send || send == recv {
		t.Errorf("client sends %x, receives %x; server sends %x, receives %x", clientSend, clientRecv, send, recv)
	}
	for _, tt := range []struct {
		bits             int
		session, message string
	}{
		{40, "D1 26 9E C4 9F A6 2E 3E", "92 91 37 91 7E 58 03 D6 68 D7 58 98"},
		{56, "D1 5C 00 C4 9F A6 2E 3E", "3F 10 68 33 FA 44 8D A8 42 BC 57 B8"},
		{128, "40 5C B2 24 7A 79 56 E6 E2 11 00 7A E2 7B 22 D4", "81 84 83 17 DF 68 84 62 72 FB 5A BE"},
	} {
		k, err := newChain(tt.bits, send)
		if err != nil {
			t.Fatal(err)
		}
		if want := unhex(t, tt.session); !bytes.Equal(k.Session[:k.Len], want) {
			t.Errorf("%d bits: session key %x, want %x", tt.bits, k.Session[:k.Len], want)
		}
		var s multi.Stream
		s.Init(k.Session[:k.Len])
		msg := append(make([]byte, 0, 128), "test message"...)
		multi.New(multi.Best()).Crypt([]multi.Unit{{Stream: &s, Data: msg}})
		ref := []byte("test message")
		refRC4(unhex(t, tt.session)).XORKeyStream(ref, ref)
		if want := unhex(t, tt.message); !bytes.Equal(msg, want) || !bytes.Equal(ref, want) {
			t.Errorf("%d bits: message %x, want %x", tt.bits, msg, want)
		}
	}
}

// RFC 3079 §2.5: MS-CHAPv1. Step 3 of §2.5.3 has a misprint in one octet
// ("ca d1" for "c1 d1"); step 4 repeats the key as it must be for step 5.
func TestKeysV1(t *testing.T) {
	lm := [16]byte(unhex(t, "76 a1 52 93 60 96 d7 83 0e 23 90 22 74 04 af d2"))
	hh := [16]byte(unhex(t, "41 c0 0c 58 4b d2 d9 1c 40 17 a2 a1 2f a5 9f 3f"))
	challenge := [8]byte(unhex(t, "10 2d b5 df 08 5d 30 41"))
	for _, tt := range []struct {
		bits          int
		start         [16]byte
		wantStart     string
		wantSessionAt string
	}{
		{40, StartKeyV1LM(lm), "76 a1 52 93 60 96 d7 83 00 00 00 00 00 00 00 00", "d1 26 9e 53 8c ec 4a 08"},
		{56, StartKeyV1LM(lm), "76 a1 52 93 60 96 d7 83 00 00 00 00 00 00 00 00", "d1 08 01 53 8c ec 4a 08"},
		{128, StartKeyV1(hh, challenge), "a8 94 78 50 cf c0 ac c1 d1 78 9f b6 2d dc dd b0", "59 d1 59 bc 09 f7 6f 1d a2 a8 6a 28 ff ec 0b 1e"},
	} {
		if want := unhex(t, tt.wantStart); !bytes.Equal(tt.start[:], want) {
			t.Errorf("%d bits: start key %x, want %x", tt.bits, tt.start, want)
		}
		k, err := newChain(tt.bits, tt.start)
		if err != nil {
			t.Fatal(err)
		}
		if want := unhex(t, tt.wantSessionAt); !bytes.Equal(k.Session[:k.Len], want) {
			t.Errorf("%d bits: session key %x, want %x", tt.bits, k.Session[:k.Len], want)
		}
	}
}

func TestParamsRefused(t *testing.T) {
	for _, bits := range []int{0, 64, -1, 129} {
		var tx Tx
		var rx Rx
		for _, err := range []error{tx.Init(&Params{Bits: bits}), rx.Init(&Params{Bits: bits})} {
			if err == nil || !strings.Contains(err.Error(), "key length") {
				t.Errorf("%d bits: error %v, want one that names the key length", bits, err)
			}
		}
		if tx.Ready() || rx.Ready() {
			t.Errorf("%d bits: ready after an error", bits)
		}
	}
}

// The reference: a key chain with crypto/rc4 and crypto/sha1, as RFC 3078
// §7.3 reads.
type refChain struct {
	start, session []byte
	salt           int
}

func newRefChain(bits int, start [16]byte) *refChain {
	c := &refChain{start: start[:16]}
	switch bits {
	case 40:
		c.start, c.salt = start[:8], 3
	case 56:
		c.start, c.salt = start[:8], 1
	}
	c.session = c.sha(c.start)
	return c
}

func (c *refChain) sha(session []byte) []byte {
	d := digest(c.start, make([]byte, 40), session, bytes.Repeat([]byte{0xf2}, 40))
	k := append([]byte(nil), d[:len(c.start)]...)
	copy(k, []byte{0xd1, 0x26, 0x9e}[:c.salt])
	return k
}

func (c *refChain) next() {
	interim := digest(c.start, make([]byte, 40), c.session, bytes.Repeat([]byte{0xf2}, 40))
	c.session = make([]byte, len(c.start))
	refRC4(interim[:len(c.start)]).XORKeyStream(c.session, interim[:len(c.start)])
	copy(c.session, []byte{0xd1, 0x26, 0x9e}[:c.salt])
}

func (c *refChain) rc4() *rc4.Cipher { return refRC4(c.session) }

func refRC4(key []byte) *rc4.Cipher {
	s, err := rc4.NewCipher(key)
	if err != nil {
		panic(err)
	}
	return s
}
