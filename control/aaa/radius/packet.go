package radius

import (
	"crypto/hmac"
	"crypto/md5" //nolint:gosec // RFC 2865 prescribes MD5
	"errors"
	"fmt"

	"layeh.com/radius"
	"layeh.com/radius/rfc2865"
	"layeh.com/radius/rfc2869"
)

// Where the parts of a packet are (RFC 2865 §3).
const (
	headerLen  = 20
	authOffset = 4
	macLen     = 2 + md5.Size
)

const macType = rfc2869.MessageAuthenticator_Type

// newRequest begins a request. Message-Authenticator, where the code wants one,
// comes first, so that nothing can be put in front of it.
func newRequest(code radius.Code, secret []byte) *radius.Packet {
	p := radius.New(code, secret)
	if signed(code) {
		p.Add(macType, make(radius.Attribute, md5.Size))
	}
	return p
}

// signed reports whether packets of this code carry Message-Authenticator
// (RFC 2869 §5.14, RFC 5997 §3); accounting has no place for it.
func signed(c radius.Code) bool {
	switch c {
	case radius.CodeAccessRequest, radius.CodeStatusServer,
		radius.CodeAccessAccept, radius.CodeAccessReject, radius.CodeAccessChallenge:
		return true
	default:
		return false
	}
}

// seal makes the octets of a request that newRequest began.
func seal(p *radius.Packet) ([]byte, error) {
	b, err := p.Encode()
	if err != nil {
		return nil, err
	}
	if signed(p.Code) {
		mac := messageAuthenticator(b, p.Authenticator, headerLen+2, p.Secret)
		copy(b[headerLen+2:], mac[:])
	}
	return b, nil
}

// messageAuthenticator computes RFC 2869 §5.14 over a packet whose Authenticator
// field counts as auth and whose 16 octets at offset at count as zero.
func messageAuthenticator(b []byte, auth [16]byte, at int, secret []byte) (mac [md5.Size]byte) {
	h := hmac.New(md5.New, secret)
	h.Write(b[:authOffset])
	h.Write(auth[:])
	h.Write(b[headerLen:at])
	h.Write(make([]byte, md5.Size))
	h.Write(b[at+md5.Size:])
	h.Sum(mac[:0])
	return mac
}

// Why a reply is not believed.
var (
	errUnsigned = errors.New("without Message-Authenticator")
	errForged   = errors.New("wrong authenticator")
)

// checkSignature verifies the Message-Authenticator of b, whose Authenticator
// field counts as auth. The attributes of b are well formed.
func checkSignature(b []byte, auth [16]byte, secret []byte) error {
	found := -1
	for at := headerLen; at < len(b); at += int(b[at+1]) {
		if b[at] != byte(macType) {
			continue
		}
		if found >= 0 || b[at+1] != macLen {
			return errForged
		}
		found = at + 2
	}
	if found < 0 {
		return errUnsigned
	}
	want := messageAuthenticator(b, auth, found, secret)
	if !hmac.Equal(want[:], b[found:found+md5.Size]) {
		return errForged
	}
	return nil
}

// parse reads a packet and cuts off what comes after its length.
func parse(b, secret []byte) (*radius.Packet, []byte, error) {
	p, err := radius.Parse(b, secret)
	if err != nil {
		return nil, nil, err
	}
	return p, b[:int(b[2])<<8|int(b[3])], nil
}

// parseReply reads and verifies the answer to the request whose octets are
// sent. needMAC refuses the answer to an Access-Request that has no
// Message-Authenticator: without one, who can change packets under way can
// make an Access-Accept of an Access-Reject (CVE-2024-3596).
func parseReply(b, sent, secret []byte, needMAC bool) (*radius.Packet, error) {
	p, b, err := parse(b, secret)
	if err != nil {
		return nil, err
	}
	if b[1] != sent[1] || !radius.IsAuthenticResponse(b, sent, secret) {
		return nil, errForged
	}
	err = checkSignature(b, [16]byte(sent[authOffset:]), secret)
	if errors.Is(err, errUnsigned) && (!needMAC || !signed(p.Code)) {
		err = nil
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

// msAttrs returns the values of one of Microsoft's attributes, in order.
func msAttrs(p *radius.Packet, typ byte) (out []radius.Attribute) {
	eachVendorAttr(p, func(v uint32, t byte, a radius.Attribute) {
		if v == msVendor && t == typ {
			out = append(out, a)
		}
	})
	return out
}

// eachVendorAttr calls f for every vendor attribute that is well formed (RFC
// 2865 §5.26).
func eachVendorAttr(p *radius.Packet, f func(vendor uint32, typ byte, a radius.Attribute)) {
	for _, avp := range p.Attributes {
		if avp.Type != rfc2865.VendorSpecific_Type {
			continue
		}
		vendor, rest, err := radius.VendorSpecific(avp.Attribute)
		if err != nil {
			continue
		}
		for len(rest) >= 2 && rest[1] >= 2 && int(rest[1]) <= len(rest) {
			f(vendor, rest[0], rest[2:rest[1]])
			rest = rest[rest[1]:]
		}
	}
}

// all returns the values of an attribute, in order.
func all(p *radius.Packet, t radius.Type) (out []radius.Attribute) {
	for _, avp := range p.Attributes {
		if avp.Type == t {
			out = append(out, avp.Attribute)
		}
	}
	return out
}

// adder collects the first error of many additions.
type adder struct{ err error }

func (a *adder) add(name string, err error) {
	if err != nil && a.err == nil {
		a.err = fmt.Errorf("%s: %w", name, err)
	}
}

// unhide decrypts what is hidden like a User-Password (RFC 2865 §5.2); its
// length is a multiple of 16.
func unhide(b, secret, auth []byte) []byte {
	out := make([]byte, 0, len(b))
	for last := auth; len(b) >= md5.Size; b = b[md5.Size:] {
		h := md5.New()
		h.Write(secret)
		h.Write(last)
		pad := h.Sum(nil)
		for i := range pad {
			out = append(out, b[i]^pad[i])
		}
		last = b[:md5.Size]
	}
	return out
}
