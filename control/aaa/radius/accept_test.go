package radius

import (
	"bytes"
	"crypto/md5"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"layeh.com/radius"
	"layeh.com/radius/rfc2759"
	"layeh.com/radius/rfc2865"
	"layeh.com/radius/rfc3079"
	"layeh.com/radius/vendors/microsoft"

	"xpptp/control/aaa"
	"xpptp/control/ppp/mschap"
	"xpptp/engine/mppe"

	"pgregory.net/rapid"
)

// attr is an attribute as octets; one with a vendor goes into Vendor-Specific.
type attr struct {
	vendor uint32
	typ    byte
	value  string
}

func (a attr) addTo(p *radius.Packet) {
	if a.vendor == 0 {
		p.Add(radius.Type(a.typ), radius.Attribute(a.value))
		return
	}
	v := binary.BigEndian.AppendUint32(nil, a.vendor)
	v = append(append(v, a.typ, byte(2+len(a.value))), a.value...)
	p.Add(rfc2865.VendorSpecific_Type, v)
}

func u32(n uint32) string { return string(binary.BigEndian.AppendUint32(nil, n)) }

// judge reads an Access-Accept with these attributes.
func judge(r *aaa.Request, attrs ...attr) aaa.Result {
	req := newRequest(radius.CodeAccessRequest, []byte(testSecret))
	p := req.Response(radius.CodeAccessAccept)
	for _, a := range attrs {
		a.addTo(p)
	}
	return result(r, reply{p, req, &target{}})
}

func TestGrants(t *testing.T) {
	ip := netip.MustParseAddr
	for _, c := range []struct {
		name  string
		attrs []attr
		want  aaa.Grant
	}{
		{"nothing", nil, aaa.Grant{}},
		{"pool, filter", []attr{{0, 88, "guests"}, {0, 11, "web-only"}}, aaa.Grant{Pool: "guests", Filter: "web-only"}},
		{
			"time-outs",
			[]attr{{0, 27, u32(3600)}, {0, 28, u32(60)}, {0, 85, u32(300)}},
			aaa.Grant{SessionTimeout: time.Hour, IdleTimeout: time.Minute, Interim: 5 * time.Minute},
		},
		{"interim not too often", []attr{{0, 85, u32(5)}}, aaa.Grant{Interim: time.Minute}},
		{"classes", []attr{{0, 25, "a"}, {0, 25, "b"}}, aaa.Grant{Class: [][]byte{[]byte("a"), []byte("b")}}},
		{
			"routes",
			[]attr{{0, 22, "192.168.5.0/24 0.0.0.0 1"}, {0, 22, "10.0.0.0"}, {0, 22, "172.16.1.1"}},
			aaa.Grant{Routes: []netip.Prefix{netip.MustParsePrefix("192.168.5.0/24"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.1.1/32")}},
		},
		{
			"IPv6",
			[]attr{{0, 97, "\x00\x40\x20\x01\x0d\xb8\x00\x01\x00\x02"}, {0, 96, "\x02\x00\x00\x00\x00\x00\x00\x09"}, {0, 123, "\x00\x38\x20\x01\x0d\xb8\x00\x05\x01"}},
			aaa.Grant{
				Prefixes: []netip.Prefix{netip.MustParsePrefix("2001:db8:1:2::/64")}, InterfaceID: 0x0200000000000009,
				Delegated: []netip.Prefix{netip.MustParsePrefix("2001:db8:5:100::/56")},
			},
		},
		{
			"name servers",
			[]attr{{311, 28, "\x0a\x00\x00\x01"}, {311, 29, "\x0a\x00\x00\x02"}, {311, 30, "\x0a\x00\x00\x03"}, {311, 31, "\x0a\x00\x00\x04"}},
			aaa.Grant{DNS: [2]netip.Addr{ip("10.0.0.1"), ip("10.0.0.2")}, NBNS: [2]netip.Addr{ip("10.0.0.3"), ip("10.0.0.4")}},
		},
		{"WISPr", []attr{{14122, 7, u32(1000)}, {14122, 8, u32(2000)}}, aaa.Grant{Rate: aaa.Rate{Up: 1000, Down: 2000}}},
		{"MikroTik", []attr{{14988, 8, "64k/2M 128k/4M 1/1 10/10"}}, aaa.Grant{Rate: aaa.Rate{Up: 64e3, Down: 2e6}}},
		{"MikroTik, one", []attr{{14988, 8, "1G"}}, aaa.Grant{Rate: aaa.Rate{Up: 1e9, Down: 1e9}}},
		{"encryption", []attr{{311, 7, u32(2)}, {311, 8, u32(6)}}, aaa.Grant{Encryption: aaa.Encryption{Required: true, Bits: []int{40, 128}}}},
		{"encryption allowed, 56", []attr{{311, 7, u32(1)}, {311, 8, u32(8)}}, aaa.Grant{Encryption: aaa.Encryption{Bits: []int{56}}}},
		{"not ours", []attr{{9, 1, "x"}, {0, 62, u32(1)}, {0, 200, ""}, {0, 6, u32(2)}, {0, 7, u32(1)}}, aaa.Grant{}},
	} {
		c.want.Remote = true
		if res := judge(pap("alice"), c.attrs...); res.Err != nil || !reflect.DeepEqual(res.Grant, c.want) {
			t.Errorf("%s: %v\ngot  %+v\nwant %+v", c.name, res.Err, res.Grant, c.want)
		}
	}
}

func TestAddresses(t *testing.T) {
	for value, want := range map[string]string{
		"\x0a\x09\x08\x07": "10.9.8.7", "\xff\xff\xff\xfe": "*", "\xff\xff\xff\xff": "*",
	} {
		if res := judge(pap("alice"), attr{0, 8, value}); res.Err != nil || res.Addresses.String() != want {
			t.Errorf("% X: %v, %v", value, res.Addresses, res.Err)
		}
	}
	if fixed, ok := judge(pap("a"), attr{0, 8, "\x0a\x09\x08\x07"}).Addresses.Fixed(); !ok || fixed != netip.MustParseAddr("10.9.8.7") {
		t.Error(fixed, ok)
	}
	if res := judge(pap("alice"), attr{0, 1, "alice@isp"}, attr{0, 18, "hello\n"}, attr{0, 18, "you"}); res.User != "alice@isp" || res.Text != "hello you" {
		t.Errorf("%+v", res)
	}
}

// What cannot be understood is no permission.
func TestMalformedAccepts(t *testing.T) {
	for _, c := range []struct {
		a    attr
		want string
	}{
		{attr{0, 8, "\x01\x02\x03"}, "malformed Framed-IP-Address: 01 02 03"},
		{attr{0, 8, "\x7f\x00\x00\x01"}, "Framed-IP-Address 127.0.0.1 cannot be"},
		{attr{0, 6, u32(6)}, "Service-Type Administrative-User"},
		{attr{0, 7, u32(2)}, "Framed-Protocol SLIP"},
		{attr{0, 27, "\x01"}, "malformed Session-Timeout: 01"},
		{attr{0, 28, ""}, "malformed Idle-Timeout"},
		{attr{0, 85, "x"}, "malformed Acct-Interim-Interval"},
		{attr{0, 22, " "}, "malformed Framed-Route"},
		{attr{0, 22, "10.0.0.0/33 x"}, "malformed Framed-Route"},
		{attr{0, 22, "ten"}, "malformed Framed-Route"},
		{attr{0, 22, "0.0.0.0/0"}, "malformed Framed-Route"},
		{attr{0, 22, "0.0.0.0"}, "malformed Framed-Route"},
		{attr{0, 22, "2001:db8::/32"}, "malformed Framed-Route"},
		{attr{0, 22, "::1"}, "malformed Framed-Route"},
		{attr{0, 96, "1234567"}, "malformed Framed-Interface-Id"},
		{attr{0, 97, "\x00\x81"}, "malformed Framed-IPv6-Prefix"},
		{attr{0, 123, "\x00"}, "malformed Delegated-IPv6-Prefix"},
		{attr{311, 28, "x"}, "malformed MS-Primary-DNS-Server"},
		{attr{311, 7, u32(3)}, "malformed MS-MPPE-Encryption-Policy"},
		{attr{311, 8, "x"}, "malformed MS-MPPE-Encryption-Types"},
		{attr{14122, 7, "x"}, "malformed WISPr-Bandwidth-Max-Up"},
		{attr{14988, 8, "fast"}, "malformed Mikrotik-Rate-Limit"},
		{attr{14988, 8, "18446744073709551615G"}, "malformed Mikrotik-Rate-Limit"},
		{attr{14988, 8, "1/"}, "malformed Mikrotik-Rate-Limit"},
	} {
		res := judge(pap("alice"), c.a)
		if res.Err == nil || !strings.Contains(res.Err.Error(), c.want) || res.User != "" {
			t.Errorf("%+v: %v", c.a, res.Err)
		}
	}
}

func TestRejects(t *testing.T) {
	for _, c := range []struct {
		method aaa.Method
		code   radius.Code
		attrs  []attr
		number int
		want   string
	}{
		{aaa.PAP, radius.CodeAccessReject, nil, 0, `rejected by RADIUS`},
		{aaa.PAP, radius.CodeAccessReject, []attr{{0, 18, "go\taway"}}, 0, `rejected by RADIUS: "go away"`},
		{aaa.MSCHAPv2, radius.CodeAccessReject, []attr{{311, 2, "\x07E=648 R=0 C=00 V=3 M=x"}}, 648, `rejected by RADIUS: "error 648"`},
		{aaa.MSCHAPv2, radius.CodeAccessReject, []attr{{311, 2, "E=691"}}, 691, `rejected by RADIUS: "error 691"`},
		{aaa.MSCHAPv2, radius.CodeAccessReject, []attr{{311, 2, "E=99999"}}, 0, `rejected by RADIUS: "error 0"`},
		{aaa.PAP, radius.CodeAccessReject, []attr{{311, 2, "\x07E=648"}}, 0, `rejected by RADIUS`},
		{aaa.PAP, radius.CodeAccessChallenge, []attr{{0, 24, "state"}}, 0, `rejected by RADIUS: Access-Challenge`},
	} {
		req := newRequest(radius.CodeAccessRequest, []byte(testSecret))
		p := req.Response(c.code)
		for _, a := range c.attrs {
			a.addTo(p)
		}
		res := result(&aaa.Request{Method: c.method, Name: "alice"}, reply{p, req, &target{}})
		if !errors.Is(res.Err, aaa.ErrRejected) || res.Err.Error() != c.want || res.Code != c.number {
			t.Errorf("%+v: code %d, %v", c, res.Code, res.Err)
		}
	}
}

// hide is RFC 2548 §2.4.2 from the text of the RFC, to hold the library's
// decryption against.
func hide(key, salt, secret, auth []byte) []byte {
	plain := append([]byte{byte(len(key))}, key...)
	for len(plain)%16 != 0 {
		plain = append(plain, 0)
	}
	out := append([]byte(nil), salt...)
	last := append(append([]byte(nil), auth...), salt...)
	for i := 0; i < len(plain); i += 16 {
		b := md5.Sum(append(append([]byte(nil), secret...), last...))
		for j := range b {
			b[j] ^= plain[i+j]
		}
		out = append(out, b[:]...)
		last = b[:]
	}
	return out
}

// A server that is another implementation throughout (the response, the proof
// and the keys by layeh's rfc2759 and rfc3079, their hiding by the RFC's text)
// and Local, which is ours, come to the same proof and keys.
func TestMSCHAPv2Keys(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bytesOf := func(n int, name string) []byte { return rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, name) }
		ours, theirs := bytesOf(16, "challenge"), bytesOf(16, "peer challenge")
		id := rapid.Byte().Draw(t, "id")
		password := rapid.StringMatching(`[a-zA-Z0-9äß]{1,12}`).Draw(t, "password")
		nt, err := rfc2759.GenerateNTResponse(ours, theirs, []byte("alice"), []byte(password))
		if err != nil {
			t.Fatal(err)
		}
		r := &aaa.Request{Method: aaa.MSCHAPv2, Name: "alice", ID: id, Challenge: ours}
		r.Response = append(append(append([]byte(nil), theirs...), make([]byte, 8)...), append(nt, 0)...)

		c := &Client{}
		req, err := c.accessRequest(r, []byte(testSecret))
		if err != nil {
			t.Fatal(err)
		}
		v := microsoft.MSCHAP2Response_Get(req)
		if len(v) != 50 || v[0] != id || !bytes.Equal(v[2:18], theirs) || !bytes.Equal(v[26:], nt) || !bytes.Equal(microsoft.MSCHAPChallenge_Get(req), ours) {
			t.Fatalf("MS-CHAP2-Response % X", v)
		}

		proof, err := rfc2759.GenerateAuthenticatorResponse(ours, theirs, nt, []byte("alice"), []byte(password))
		if err != nil {
			t.Fatal(err)
		}
		p := req.Response(radius.CodeAccessAccept)
		attr{311, 26, string([]byte{id}) + proof}.addTo(p)
		for typ, send := range map[byte]bool{16: true, 17: false} {
			key, err := rfc3079.MakeKey(nt, []byte(password), send)
			if err != nil {
				t.Fatal(err)
			}
			salt := bytesOf(2, "salt")
			salt[0] |= 0x80
			attr{311, typ, string(hide(key, salt, []byte(testSecret), req.Authenticator[:]))}.addTo(p)
		}
		res := result(r, reply{p, req, &target{}})
		if res.Err != nil {
			t.Fatal(res.Err)
		}
		send, recv := mppe.StartKeysV2(mschap.HashHash(mschap.NTHash(password)), [24]byte(nt), true)
		if !res.Keys.Ready || res.Keys.Send != send || res.Keys.Recv != recv || res.Message != proof {
			t.Fatalf("%+v %q\nwant %x %x %q", res.Keys, res.Message, send, recv, proof)
		}
	})
}

// MS-CHAPv1: hash of the NT hash and half of the LM hash, hidden like a password.
func TestMSCHAPv1Keys(t *testing.T) {
	r := &aaa.Request{Method: aaa.MSCHAPv1, Name: "alice", ID: 9, Challenge: []byte("12345678"), Response: make([]byte, 49)}
	r.Response[48] = 1
	c := &Client{}
	req, err := c.accessRequest(r, []byte(testSecret))
	if err != nil {
		t.Fatal(err)
	}
	if v := microsoft.MSCHAPResponse_Get(req); len(v) != 50 || v[0] != 9 || v[1] != 1 {
		t.Fatalf("MS-CHAP-Response % X", v)
	}
	lm, hh := mschap.LMHash("secret"), mschap.HashHash(mschap.NTHash("secret"))
	plain := append(append(append([]byte(nil), lm[:8]...), hh[:]...), make([]byte, 8)...)
	hidden, err := radius.NewUserPassword(plain, []byte(testSecret), req.Authenticator[:])
	if err != nil {
		t.Fatal(err)
	}
	answer := func(value string) aaa.Result {
		p := req.Response(radius.CodeAccessAccept)
		attr{311, 12, value}.addTo(p)
		return result(r, reply{p, req, &target{}})
	}
	res := answer(string(hidden))
	if res.Err != nil || res.Keys.Ready || res.Keys.NTHashHash != hh || res.Keys.LMHash != [8]byte(lm[:8]) || string(res.Keys.Challenge[:]) != "12345678" {
		t.Errorf("%+v", res)
	}
	if res := answer("short"); res.Err == nil {
		t.Error("short keys taken")
	}
	if res := judge(r); res.Err != nil || res.Keys != nil {
		t.Errorf("without keys: %+v", res)
	}
}

func TestMSCHAPv2Refusals(t *testing.T) {
	r := &aaa.Request{Method: aaa.MSCHAPv2, Name: "alice", ID: 9, Challenge: make([]byte, 16), Response: make([]byte, 49)}
	good := attr{311, 26, "\x09S=" + strings.Repeat("0A", 20)}
	for want, attrs := range map[string][]attr{
		"no MS-CHAP2-Success":                       nil,
		"malformed MS-CHAP2-Success: 08":            {{311, 26, "\x08" + good.value[1:]}},
		"malformed MS-CHAP2-Success: 09 53 3D 30 4": {{311, 26, good.value[:42]}},
		"malformed MS-CHAP2-Success: ":              {{311, 26, ""}},
		"invalid length":                            {good, {311, 16, "12345"}, {311, 17, "12345"}},
		"attribute not found":                       {good, {311, 16, "\x80\x01" + strings.Repeat("x", 32)}},
	} {
		if res := judge(r, attrs...); res.Err == nil || !strings.Contains(res.Err.Error(), want) || res.Keys != nil {
			t.Errorf("%s: %v", want, res.Err)
		}
	}
	if res := judge(r, good); res.Err != nil || res.Keys != nil || res.Message != good.value[1:] {
		t.Errorf("without keys: %+v", res)
	}
}

// Whatever octets come as an answer, nothing breaks, and without the secret
// nothing is believed. With it, what is parsed and made again says the same.
func FuzzReply(f *testing.F) {
	f.Add([]byte{2, 0, 0, 20, 19: 0}, uint8(4))
	for _, a := range []attr{{0, 8, "\x0a\x00\x00\x01"}, {0, 22, "10.0.0.0/8 1.1.1.1 1"}, {311, 26, "\x09S="}, {14988, 8, "1k/2M"}, {0, 97, "\x00\x40abcdefgh"}} {
		req := newRequest(radius.CodeAccessRequest, []byte(testSecret))
		p := req.Response(radius.CodeAccessAccept)
		a.addTo(p)
		b, err := p.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, uint8(3))
	}
	f.Fuzz(func(t *testing.T, b []byte, method uint8) {
		r := &aaa.Request{Method: aaa.Method(method%4 + 1), Name: "alice", ID: 9, Challenge: make([]byte, 16), Response: make([]byte, 49)}
		req := newRequest(radius.CodeAccessRequest, []byte(testSecret))
		sent, err := seal(req)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseReply(b, sent, req.Secret, true); err == nil {
			t.Fatal("believed without the secret")
		}
		p, err := radius.Parse(b, req.Secret)
		if err != nil {
			return
		}
		answer := req.Response(radius.CodeAccessAccept)
		for _, a := range p.Attributes {
			if a.Type != macType {
				answer.Attributes = append(answer.Attributes, a)
			}
		}
		answer.Identifier = req.Identifier
		first := result(r, reply{answer, req, &target{}})
		wire, err := sign(answer).Encode()
		if err != nil {
			return // one attribute more than fits
		}
		again, err := parseReply(wire, sent, req.Secret, true)
		if err != nil {
			t.Fatalf("our own signature: %v", err)
		}
		second := result(r, reply{again, req, &target{}})
		if fmt.Sprint(first.Err) != fmt.Sprint(second.Err) || !reflect.DeepEqual(first.Grant, second.Grant) || first.User != second.User {
			t.Fatalf("%+v\n%+v", first, second)
		}
	})
}
