package mschap

import (
	"bytes"
	"crypto/rand"
	"testing"

	"layeh.com/radius/rfc2759"
)

// MS-CHAPv2 against an independent implementation.
func TestAgainstLayeh(t *testing.T) {
	for _, password := range []string{"", "a", "clientPass", "pässwörd €", "0123456789abcdef0123456789"} {
		for range 50 {
			var auth, peer [16]byte
			_, _ = rand.Read(auth[:])
			_, _ = rand.Read(peer[:])
			want, err := rfc2759.GenerateNTResponse(auth[:], peer[:], []byte("User"), []byte(password))
			if err != nil {
				t.Fatal(err)
			}
			hash := NTHash(password)
			got := NTResponse2(auth, peer, `DOMAIN\User`, hash)
			if !bytes.Equal(got[:], want) {
				t.Fatalf("%q: response %x, want %x", password, got, want)
			}
			wantS, err := rfc2759.GenerateAuthenticatorResponse(auth[:], peer[:], want, []byte("User"), []byte(password))
			if err != nil {
				t.Fatal(err)
			}
			if s := FormatAuthenticator(AuthenticatorResponse(auth, peer, "User", hash, got)); s != wantS {
				t.Fatalf("%q: %s, want %s", password, s, wantS)
			}
		}
	}
}
