package aaa

import (
	"context"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const users = `
User        *     clientPass  10.9.0.5
pw          *     MyPw
closed      *     MyPw        -
CORP\\pw    *     Other
*           lab   guest       10.9.1.0/24
`

func newLocal(t testing.TB) *Local {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secrets")
	if err := os.WriteFile(path, []byte(users), 0o600); err != nil {
		t.Fatal(err)
	}
	st, err := OpenStore(path, false)
	if err != nil {
		t.Fatal(err)
	}
	return NewLocal(st)
}

// ask returns the result and checks that there is exactly one.
func ask(t testing.TB, a Authenticator, r Request) (res Result) {
	t.Helper()
	n := 0
	a.Authenticate(context.Background(), &r, func(got Result) { res = got; n++ })
	if n != 1 {
		t.Fatalf("done was called %d times", n)
	}
	return res
}

// The example of RFC 2759 §9.2 (the challenges and the response).
var v2 = struct{ challenge, peer, nt, proof string }{
	challenge: "5B5D7C7D7B3F2F3E3C2C602132262628",
	peer:      "21402324255E262A28295F2B3A337C7E",
	nt:        "82309ECD8D708B5EA08FAA3981CD83544233114A3D85D6DF",
	proof:     "S=407A5589115FD0D6209F510FE9C04566932CDA56",
}

func v2Request(t testing.TB) Request {
	return Request{
		Method: MSCHAPv2, Name: "User", Server: "xpptp",
		Challenge: unhex(t, v2.challenge),
		Response:  unhex(t, v2.peer+"0000000000000000"+v2.nt+"00"),
	}
}

func TestMSCHAPv2(t *testing.T) {
	l := newLocal(t)
	res := ask(t, l, v2Request(t))
	if res.Err != nil || res.User != "User" || res.Message != v2.proof {
		t.Fatalf("%+v", res)
	}
	if addr, ok := res.Addresses.Fixed(); !ok || addr.String() != "10.9.0.5" {
		t.Errorf("address %s, %v", addr, ok)
	}
	// PasswordHashHash of RFC 2759 §9.2.
	if got := hex.EncodeToString(res.Keys.NTHashHash[:]); got != "41c00c584bd2d91c4017a2a12fa59f3f" {
		t.Errorf("hash of the hash %s", got)
	}
	if got := strings.ToUpper(hex.EncodeToString(res.Keys.NTResponse[:])); got != v2.nt {
		t.Errorf("NT response %s", got)
	}

	// The hash covers the name without its domain, the file may have either.
	r := v2Request(t)
	r.Name = `HOME\User`
	if res := ask(t, l, r); res.Err != nil || res.User != "User" || res.Message != v2.proof {
		t.Errorf("with a domain: %+v", res)
	}
	r.Name = "user" // another hash, and another user
	if res := ask(t, l, r); !errors.Is(res.Err, ErrUnknownUser) {
		t.Errorf("name in lower case: %v", res.Err)
	}
	for i := range r.Response {
		r := v2Request(t)
		r.Response[i] ^= 0x40
		ignored := i >= 16 && i < 24 || i == 48 // reserved octets and flags
		if res := ask(t, l, r); ignored != (res.Err == nil) || res.Err != nil && !errors.Is(res.Err, ErrWrongSecret) {
			t.Errorf("octet %d changed: %v", i, res.Err)
		}
	}
}

// The examples of RFC 2433 appendix B.2.
func TestMSCHAPv1(t *testing.T) {
	l := newLocal(t)
	r := Request{
		Method: MSCHAPv1, Name: "pw", Server: "xpptp",
		Challenge: unhex(t, "102DB5DF085D3041"),
		Response: unhex(t, strings.Repeat("00", 24)+
			"4E9D3C8F9CFD385D5BF4D3246791956CA4C351AB409A3D61"+"01"),
	}
	res := ask(t, l, r)
	if res.Err != nil || res.User != "pw" || res.Message != "" {
		t.Fatalf("%+v", res)
	}
	if got := hex.EncodeToString(res.Keys.Challenge[:]); got != "102db5df085d3041" {
		t.Errorf("challenge %s", got)
	}
	// First half of the LM hash of MyPw.
	if got := hex.EncodeToString(res.Keys.LMHash[:]); got != "75ba30198e6d1975" {
		t.Errorf("LM hash %s", got)
	}
	r.Response[30] ^= 1
	if res := ask(t, l, r); !errors.Is(res.Err, ErrWrongSecret) || res.Keys != nil {
		t.Errorf("wrong response: %+v", res)
	}
	r.Response[48] = 0
	if res := ask(t, l, r); !errors.Is(res.Err, ErrMalformed) || res.Err.Error() != `"pw": malformed response: LAN Manager response only` {
		t.Errorf("LM only: %v", res.Err)
	}
}

func TestCHAPMD5AndPAP(t *testing.T) {
	l := newLocal(t)
	// printf '\x05MyPw0123456789' | md5sum
	chap := Request{
		Method: CHAPMD5, Name: "pw", ID: 5, Challenge: []byte("0123456789"),
		Response: unhex(t, "90c2766737035644d479017ca9fa2ec3"),
	}
	if res := ask(t, l, chap); res.Err != nil || res.User != "pw" || res.Keys != nil {
		t.Errorf("CHAP: %+v", res)
	}
	chap.ID = 6
	if res := ask(t, l, chap); !errors.Is(res.Err, ErrWrongSecret) {
		t.Errorf("CHAP, other identifier: %v", res.Err)
	}
	pap := Request{Method: PAP, Name: "pw", Response: []byte("MyPw")}
	if res := ask(t, l, pap); res.Err != nil || res.User != "pw" {
		t.Errorf("PAP: %+v", res)
	}
	for _, wrong := range []string{"", "mypw", "MyPw ", "MyP", "MyPw\x00"} {
		pap.Response = []byte(wrong)
		if res := ask(t, l, pap); !errors.Is(res.Err, ErrWrongSecret) {
			t.Errorf("PAP %q: %v", wrong, res.Err)
		}
	}
}

func TestRefusals(t *testing.T) {
	l := newLocal(t)
	pap := func(name, server, password string) Request {
		return Request{Method: PAP, Name: name, Server: server, Response: []byte(password)}
	}
	short := v2Request(t)
	short.Response = short.Response[:48]
	noChallenge := v2Request(t)
	noChallenge.Challenge = nil
	for _, tt := range []struct {
		r    Request
		want string
	}{
		{pap("nobody", "xpptp", "x"), `"nobody": unknown user`},
		{pap("nobody", "xpptp", "no such user"), `"nobody": unknown user`},
		{pap("pw\n", "xpptp", "x"), `"pw\n": unknown user`},
		{pap("closed", "xpptp", "MyPw"), `"closed": user may have no address (line 4)`},
		{pap("closed", "xpptp", "wrong"), `"closed": wrong password`},
		{pap(`CORP\pw`, "xpptp", "MyPw"), `"CORP\\pw": wrong password`},
		{short, `"User": malformed response: mschapv2: 48 octets, want 49`},
		{noChallenge, `"User": malformed response: mschapv2: challenge of 0 octets, want 16`},
		{Request{Method: 9, Name: "User"}, `"User": malformed response: method 9`},
	} {
		res := ask(t, l, tt.r)
		if res.Err == nil || res.Err.Error() != tt.want {
			t.Errorf("%s: %v, want %s", tt.r.Name, res.Err, tt.want)
		}
		if res.User != "" || res.Keys != nil || res.Message != "" {
			t.Errorf("%s: a refusal that gives %+v", tt.r.Name, res)
		}
	}
	if res := ask(t, l, pap(`X\carol`, "lab", "guest")); res.Err != nil || res.User != "carol" {
		t.Errorf("any client of lab: %+v", res)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	r := pap("pw", "xpptp", "MyPw")
	l.Authenticate(ctx, &r, func(res Result) {
		if !errors.Is(res.Err, context.Canceled) {
			t.Errorf("cancelled: %v", res.Err)
		}
	})
}

func TestMethodNames(t *testing.T) {
	for _, m := range []Method{PAP, CHAPMD5, MSCHAPv1, MSCHAPv2} {
		if again, err := ParseMethod(m.String()); err != nil || again != m {
			t.Errorf("%s reads back as %s, %v", m, again, err)
		}
	}
	if _, err := ParseMethod("eap"); err == nil || err.Error() != `"eap" is none of pap, chap, mschapv1, mschapv2` {
		t.Errorf("eap: %v", err)
	}
	if _, err := ParseMethod(""); err == nil {
		t.Error("no name is a method")
	}
}

func FuzzLocal(f *testing.F) {
	l := newLocal(f)
	r := v2Request(f)
	f.Add(uint8(MSCHAPv2), r.Name, uint8(1), r.Challenge, r.Response)
	f.Add(uint8(MSCHAPv1), "pw", uint8(1), make([]byte, 8), make([]byte, 49))
	f.Add(uint8(CHAPMD5), "pw", uint8(1), []byte("x"), make([]byte, 16))
	f.Add(uint8(PAP), "pw", uint8(1), []byte(nil), []byte("MyPw"))
	f.Fuzz(func(t *testing.T, method uint8, name string, id uint8, challenge, response []byte) {
		r := Request{Method: Method(method), Name: name, ID: id, Challenge: challenge, Response: response}
		res := ask(t, l, r)
		if res.Err == nil && (res.User == "" || (res.Keys != nil) != r.Method.GivesKeys()) {
			t.Fatalf("accepted with %+v", res)
		}
		if res.Err != nil && (res.Keys != nil || res.Message != "") {
			t.Fatalf("refused with %+v", res)
		}
		if strings.Contains(errText(res.Err), "clientPass") && !strings.Contains(name, "clientPass") {
			t.Fatalf("the error shows a password: %v", res.Err)
		}
	})
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
