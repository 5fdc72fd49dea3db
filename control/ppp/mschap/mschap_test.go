package mschap

import (
	"bytes"
	"encoding/hex"
	"os"
	"strings"
	"testing"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func equal(t *testing.T, what string, got []byte, want string) {
	t.Helper()
	if !bytes.Equal(got, unhex(t, want)) {
		t.Errorf("%s = %x, want %s", what, got, want)
	}
}

// RFC 2759 section 9.2.
func TestVectorsV2(t *testing.T) {
	auth := [16]byte(unhex(t, "5B5D7C7D7B3F2F3E3C2C602132262628"))
	peer := [16]byte(unhex(t, "21402324255E262A28295F2B3A337C7E"))
	hash := NTHash("clientPass")
	equal(t, "NTHash", hash[:], "44EBBA8D5312B8D611474411F56989AE")
	hh := HashHash(hash)
	equal(t, "HashHash", hh[:], "41C00C584BD2D91C4017A2A12FA59F3F")
	ch := ChallengeHash(peer, auth, "User")
	equal(t, "ChallengeHash", ch[:], "D02E4386BCE91226")
	resp := NTResponse2(auth, peer, "User", hash)
	equal(t, "NTResponse2", resp[:], "82309ECD8D708B5EA08FAA3981CD83544233114A3D85D6DF")
	ar := AuthenticatorResponse(auth, peer, "User", hash, resp)
	const want = "S=407A5589115FD0D6209F510FE9C04566932CDA56"
	if got := FormatAuthenticator(ar); got != want {
		t.Errorf("authenticator response %s, want %s", got, want)
	}
	if back, ok := ParseAuthenticator(want + " M=welcome"); !ok || back != ar {
		t.Errorf("ParseAuthenticator = %x %v", back, ok)
	}
	if NTResponse2(auth, peer, `BIGCO\User`, hash) != resp {
		t.Error("the domain entered the hash")
	}
}

// RFC 2433 appendix B; RFC 3079 section 2.5 for the LM hash.
func TestVectorsV1(t *testing.T) {
	ch := [8]byte(unhex(t, "102DB5DF085D3041"))
	equal(t, "NTHash MyPw", sl(NTHash("MyPw")), "FC156AF7EDCD6C0EDDE3337D427F4EAC")
	r := ChallengeResponse(ch, NTHash("MyPw"))
	equal(t, "NT response", r[:], "4E9D3C8F9CFD385D5BF4D3246791956CA4C351AB409A3D61")
	equal(t, "LMHash clientPass", sl(LMHash("clientPass")), "76A152936096D7830E2390227404AFD2")
	equal(t, "LMHash empty", sl(LMHash("")), "AAD3B435B51404EEAAD3B435B51404EE")
	equal(t, "LMHash long", sl(LMHash("password12345678")), hex.EncodeToString(sl(LMHash("PASSWORD123456"))))
}

func sl(h [16]byte) []byte { return h[:] }

func TestSplitName(t *testing.T) {
	for _, c := range []struct{ name, domain, user string }{
		{"johndoe", "", "johndoe"}, {`BIGCO\johndoe`, "BIGCO", "johndoe"}, {`A\B\c`, `A\B`, "c"}, {`A\`, "A", ""}, {"", "", ""},
	} {
		if d, u := SplitName(c.name); d != c.domain || u != c.user {
			t.Errorf("SplitName(%q) = %q, %q", c.name, d, u)
		}
	}
}

func TestParseAuthenticatorBad(t *testing.T) {
	for _, s := range []string{
		"", "S=", "S=407A", "E=691 R=0", "s=407A5589115FD0D6209F510FE9C04566932CDA56",
		"S=407A5589115FD0D6209F510FE9C04566932CDAXX",
	} {
		if _, ok := ParseAuthenticator(s); ok {
			t.Errorf("ParseAuthenticator(%q) accepted", s)
		}
	}
}

// Against an independent implementation, with names and passwords outside ASCII.
func TestAgainstAnotherImplementation(t *testing.T) {
	b, err := os.ReadFile("testdata/rfc2759.txt")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if f[0] == "#" {
			continue
		}
		auth, peer := [16]byte(unhex(t, f[0])), [16]byte(unhex(t, f[1]))
		user, hash := string(unhex(t, f[2])), NTHash(string(unhex(t, f[3])))
		nt := NTResponse2(auth, peer, user, hash)
		equal(t, "NT response of "+user, nt[:], f[4])
		if s := FormatAuthenticator(AuthenticatorResponse(auth, peer, user, hash, nt)); s != f[5] {
			t.Errorf("authenticator response %s, want %s", s, f[5])
		}
		n++
	}
	if n < 50 {
		t.Errorf("%d vectors", n)
	}
}

func FuzzParseAuthenticator(f *testing.F) {
	f.Add("S=407A5589115FD0D6209F510FE9C04566932CDA56 M=welcome")
	f.Add("S=407a5589115fd0d6209f510fe9c04566932cda56")
	f.Add("S=")
	f.Fuzz(func(t *testing.T, s string) {
		a, ok := ParseAuthenticator(s)
		if !ok {
			return
		}
		if out := FormatAuthenticator(a); !strings.EqualFold(out, s[:len(out)]) {
			t.Fatalf("%q became %q", s, out)
		}
		if b, ok := ParseAuthenticator(FormatAuthenticator(a)); !ok || b != a {
			t.Fatalf("%x became %x", a, b)
		}
	})
}
