// Package mschap computes the hashes and responses of MS-CHAP version 1
// (RFC 2433 appendix A) and version 2 (RFC 2759 section 8).
//
// The functions are pure and safe for concurrent use. Passwords are Go
// strings in UTF-8; user names are the bytes as they stand in the packet.
// The keys for MPPE that follow from the same values (RFC 3079) are in
// engine/mppe.
package mschap

import (
	"crypto/des" //nolint:gosec // the protocol prescribes DES, SHA-1 and MD4
	"crypto/sha1"
	"crypto/subtle"
	"encoding/hex"
	"strings"
	"unicode/utf16"

	"golang.org/x/crypto/md4" //nolint:staticcheck // NT hashes are MD4
)

// Sizes in octets.
const (
	HashSize       = 16 // NT hash, LM hash, hash of the NT hash
	ChallengeSize1 = 8  // version 1 authenticator challenge
	ChallengeSize2 = 16 // version 2 authenticator and peer challenge
	ResponseSize   = 24 // NT or LM response
	ValueSize      = 49 // Value field of a Response packet, both versions
	AuthSize       = 20 // authenticator response, binary
)

// SplitName parts a name as a peer presents it, "DOMAIN\user", into domain
// and user. A name without a backslash is all user. Only the user part enters
// the version 2 hash (RFC 2759 section 4).
func SplitName(name string) (domain, user string) {
	if i := strings.LastIndexByte(name, '\\'); i >= 0 {
		return name[:i], name[i+1:]
	}
	return "", name
}

// NTHash is MD4 over the password in UTF-16, little endian (RFC 2759 section
// 8.3).
func NTHash(password string) [HashSize]byte {
	h := md4.New()
	var b [2]byte
	for _, u := range utf16.Encode([]rune(password)) {
		b[0], b[1] = byte(u), byte(u>>8)
		h.Write(b[:])
	}
	return [HashSize]byte(h.Sum(nil))
}

// HashHash is the hash of the NT hash (RFC 2759 section 8.4).
func HashHash(ntHash [HashSize]byte) [HashSize]byte {
	h := md4.New()
	h.Write(ntHash[:])
	return [HashSize]byte(h.Sum(nil))
}

// LMHash is the LAN Manager hash: DES of a constant under the first 14
// characters of the password in upper case (RFC 2433 appendix A.2). Letters
// outside ASCII are taken as they are: their OEM code page is not known here.
func LMHash(password string) [HashSize]byte {
	var key [14]byte
	copy(key[:], strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' {
			return r - 'a' + 'A'
		}
		return r
	}, password))
	var out [HashSize]byte
	desEncrypt(out[0:8], []byte("KGS!@#$%"), key[0:7])
	desEncrypt(out[8:16], []byte("KGS!@#$%"), key[7:14])
	return out
}

// ChallengeResponse encrypts an 8-octet challenge three times under a
// 16-octet hash (RFC 2759 section 8.5). With the NT hash it gives the NT
// response of version 1, with the LM hash the LM response.
func ChallengeResponse(challenge [8]byte, hash [HashSize]byte) (response [ResponseSize]byte) {
	var z [21]byte
	copy(z[:], hash[:])
	for i := range 3 {
		desEncrypt(response[8*i:8*i+8], challenge[:], z[7*i:7*i+7])
	}
	return response
}

// ChallengeHash is the 8-octet challenge of version 2: both challenges and
// the user name without its domain (RFC 2759 section 8.2).
func ChallengeHash(peerChallenge, authChallenge [ChallengeSize2]byte, name string) [8]byte {
	_, user := SplitName(name)
	h := sha1.New()
	h.Write(peerChallenge[:])
	h.Write(authChallenge[:])
	h.Write([]byte(user))
	return [8]byte(h.Sum(nil)[:8])
}

// NTResponse2 is the NT-Response of version 2 (RFC 2759 section 8.1,
// GenerateNTResponse) from the NT hash.
func NTResponse2(authChallenge, peerChallenge [ChallengeSize2]byte, name string, ntHash [HashSize]byte) [ResponseSize]byte {
	return ChallengeResponse(ChallengeHash(peerChallenge, authChallenge, name), ntHash)
}

// AuthenticatorResponse proves to the peer that the authenticator knows the
// password's hash (RFC 2759 section 8.7), as 20 octets.
func AuthenticatorResponse(authChallenge, peerChallenge [ChallengeSize2]byte, name string,
	ntHash [HashSize]byte, ntResponse [ResponseSize]byte,
) [AuthSize]byte {
	hh := HashHash(ntHash)
	h := sha1.New()
	h.Write(hh[:])
	h.Write(ntResponse[:])
	h.Write([]byte("Magic server to client signing constant"))
	digest := h.Sum(nil)
	challenge := ChallengeHash(peerChallenge, authChallenge, name)
	h.Reset()
	h.Write(digest)
	h.Write(challenge[:])
	h.Write([]byte("Pad to make it do more than one iteration"))
	return [AuthSize]byte(h.Sum(nil))
}

// FormatAuthenticator writes an authenticator response as the Success packet
// carries it: "S=" and 40 hexadecimal digits in upper case (RFC 2759 section 5).
func FormatAuthenticator(a [AuthSize]byte) string {
	return "S=" + strings.ToUpper(hex.EncodeToString(a[:]))
}

// ParseAuthenticator finds the authenticator response at the start of the
// Message field of a Success packet. Lower-case digits are accepted.
func ParseAuthenticator(message string) (a [AuthSize]byte, ok bool) {
	if len(message) < 2+2*AuthSize || message[:2] != "S=" {
		return a, false
	}
	_, err := hex.Decode(a[:], []byte(message[2:2+2*AuthSize]))
	return a, err == nil
}

// Equal compares two responses without telling by its duration where they
// differ.
func Equal(a, b []byte) bool { return subtle.ConstantTimeCompare(a, b) == 1 }

// desEncrypt encrypts one block under a 56-bit key (RFC 2759 section 8.6).
func desEncrypt(dst, clear, key7 []byte) {
	var key [8]byte
	var acc uint64
	for _, b := range key7 {
		acc = acc<<8 | uint64(b)
	}
	for i := range key {
		key[i] = byte(acc>>(49-7*i)) << 1 // parity bits are ignored
	}
	c, err := des.NewCipher(key[:]) //nolint:gosec // see above
	if err != nil {
		panic(err) // the key is eight octets long
	}
	c.Encrypt(dst, clear)
}
