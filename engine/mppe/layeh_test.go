package mppe

import (
	"bytes"
	"crypto/rand"
	"testing"

	"layeh.com/radius/rfc2759"
	"layeh.com/radius/rfc3079"
)

// The start keys of MS-CHAPv2 against an independent implementation, which
// derives them from the password.
func TestStartKeysV2AgainstLayeh(t *testing.T) {
	for range 200 {
		pw := make([]byte, 24) // UTF-16LE
		nt := make([]byte, 24)
		_, _ = rand.Read(pw)
		_, _ = rand.Read(nt)
		hash := rfc2759.NTPasswordHash(pw)
		hashHash := [16]byte(rfc2759.NTPasswordHash(hash))
		master := rfc3079.GetMasterKey(hashHash[:], nt)
		wantSend, err := rfc3079.GetAsymmetricStartKey(master, rfc3079.KeyLength128Bit, true)
		if err != nil {
			t.Fatal(err)
		}
		wantRecv, err := rfc3079.GetAsymmetricStartKey(master, rfc3079.KeyLength128Bit, false)
		if err != nil {
			t.Fatal(err)
		}
		send, recv := StartKeysV2(hashHash, [24]byte(nt), true)
		if !bytes.Equal(send[:], wantSend) || !bytes.Equal(recv[:], wantRecv) {
			t.Fatalf("server keys %x %x, want %x %x", send, recv, wantSend, wantRecv)
		}
		send, recv = StartKeysV2(hashHash, [24]byte(nt), false)
		if !bytes.Equal(send[:], wantRecv) || !bytes.Equal(recv[:], wantSend) {
			t.Fatalf("client keys %x %x, want the server's crosswise", send, recv)
		}
	}
}
