package ppp

import (
	"encoding/hex"
	"strconv"
	"strings"

	"xpptp/control/ppp/mschap"
)

// supplicant proves us to the peer.
type supplicant struct {
	deadline  int64  // of our packet's repetition
	limit     int64  // of the phase
	seen      uint64 // digest of the challenge answered last
	packet    []byte // our response or Authenticate-Request
	keys      KeyMaterial
	challenge [mschap.ChallengeSize2]byte // the one answered last, for retries
	want      [mschap.AuthSize]byte       // what the authenticator must prove
	id        uint8
	tries     uint8
	stage     stage
	method    Method
}

func (s *supplicant) stop() { *s = supplicant{} }

func (s *supplicant) start(l *Link, m Method) {
	*s = supplicant{method: m, stage: waiting, limit: l.now + l.cfg.authTimeout()}
	if m != PAP {
		return // the authenticator speaks first
	}
	s.id = 1
	name, password := cut255(l.cfg.User), cut255(l.cfg.Password)
	b := beginPacket(nil, papRequest, s.id)
	b = append(append(b, byte(len(name))), name...)
	b = append(append(b, byte(len(password))), password...)
	s.packet = endPacket(b)
	s.send(l)
}

func cut255(s string) string { return s[:min(len(s), 255)] }

// send sends our packet and readies its repetition: Success or Ack may be lost.
func (s *supplicant) send(l *Link) {
	proto := uint16(ProtoCHAP)
	if s.method == PAP {
		proto = ProtoPAP
	}
	l.host.Send(proto, s.packet)
	if s.stage == waiting {
		s.deadline = l.now + l.cfg.restart()
	}
}

func (s *supplicant) tick(l *Link) {
	switch {
	case due(s.limit, l.now):
		l.close(Reason{Code: AuthTimeout})
	case due(s.deadline, l.now):
		s.send(l)
	}
}

// challenged answers a Challenge, at any time (RFC 1994 section 4.1). The same
// challenge gets the same response.
func (s *supplicant) challenged(l *Link, p packet) {
	if s.stage == failed {
		return
	}
	sum := digest(p.id, p.data)
	if sum == s.seen {
		s.send(l)
		return
	}
	value, _, ok := parseValue(p.data)
	if !ok || !s.respond(l, p.id, value) {
		return
	}
	s.seen = sum
	s.send(l)
}

// respond computes the response to a challenge value into s.packet.
func (s *supplicant) respond(l *Link, id uint8, challenge []byte) bool {
	var value []byte
	secret := Secret{Password: l.cfg.Password, NTHash: l.cfg.NTHash}
	switch s.method {
	case CHAPMD5:
		if len(challenge) == 0 {
			return false
		}
		sum := chapMD5(id, secret.Password, challenge)
		value = sum[:]
	case MSCHAPv1:
		if len(challenge) != mschap.ChallengeSize1 {
			return false
		}
		hash, c := secret.ntHash(), [8]byte(challenge)
		nt := mschap.ChallengeResponse(c, hash)
		// The LM response stays zero (RFC 2433 section 6).
		value = append(append(make([]byte, 24, mschap.ValueSize), nt[:]...), 1)
		s.keep(keysV1(hash, secret, c))
	case MSCHAPv2:
		if len(challenge) != mschap.ChallengeSize2 {
			return false
		}
		var mine [mschap.ChallengeSize2]byte
		l.rand(mine[:])
		hash, c := secret.ntHash(), [16]byte(challenge)
		nt := mschap.NTResponse2(c, mine, l.cfg.User, hash)
		s.want = mschap.AuthenticatorResponse(c, mine, l.cfg.User, hash, nt)
		value = append(append(append(make([]byte, 0, mschap.ValueSize), mine[:]...), make([]byte, 8)...), nt[:]...)
		value = append(value, 0)
		s.keep(keysV2(hash, nt, false))
	default:
		return false
	}
	copy(s.challenge[:], challenge)
	s.id = id
	b := append(beginPacket(nil, chapResponse, id), byte(len(value)))
	s.packet = endPacket(append(append(b, value...), l.cfg.User...))
	return true
}

// keep takes keys over, from the first authentication only (RFC 3079 section 2).
func (s *supplicant) keep(k KeyMaterial) {
	if s.stage == waiting {
		s.keys = k
	}
}

func (s *supplicant) success(l *Link, p packet) {
	if s.stage != waiting || s.packet == nil || p.id != s.id {
		return
	}
	if s.method == MSCHAPv2 {
		got, ok := mschap.ParseAuthenticator(string(p.data))
		if !ok || !mschap.Equal(got[:], s.want[:]) {
			s.stage = failed
			l.close(Reason{Code: BadAuthenticator, Text: "the server does not know the password"})
			return
		}
	}
	s.done(l)
}

func (s *supplicant) done(l *Link) {
	s.stage, s.deadline, s.limit = passed, 0, 0
	if l.user.keys.Bits == 0 {
		l.user.keys = s.keys
	}
	l.authDone()
}

// failure takes a Failure. When it allows a retry, and so do we, the response
// goes out again under the new challenge and the next identifier.
func (s *supplicant) failure(l *Link, p packet) {
	if s.stage == failed || s.packet == nil || p.id != s.id {
		return
	}
	f := parseFailure(string(p.data))
	if s.method > CHAPMD5 && f.retry && f.code == ErrAuthentication && s.tries < l.cfg.AuthRetries && s.stage == waiting {
		s.tries++
		if s.respond(l, s.id+1, s.nextChallenge(f)) {
			s.send(l)
			return
		}
	}
	s.stage = failed
	why := Reason{Code: AuthFailed, Text: printable(p.data)}
	if s.method > CHAPMD5 {
		why.AuthError, why.Text = f.code, printable([]byte(f.message))
	}
	l.close(why)
}

// nextChallenge is the one of the Failure packet, or, as MS-CHAPv1 allows, the
// last one plus 23 in its first octet (RFC 2433 section 8).
func (s *supplicant) nextChallenge(f chapFailureText) []byte {
	if f.challenge != nil {
		return f.challenge
	}
	if s.method == MSCHAPv2 {
		return nil
	}
	c := s.challenge
	c[0] += 23
	return c[:mschap.ChallengeSize1]
}

// chapFailureText is the Message field of an MS-CHAP Failure packet.
type chapFailureText struct {
	code      int
	retry     bool
	challenge []byte
	version   int
	message   string
}

// parseFailure reads "E=… R=… C=… V=… M=…", in any order, leniently; M= takes
// the rest.
func parseFailure(s string) (f chapFailureText) {
	for s != "" {
		s = strings.TrimLeft(s, " ")
		if strings.HasPrefix(s, "M=") {
			f.message = s[2:]
			return f
		}
		var field string
		field, s, _ = strings.Cut(s, " ")
		if len(field) < 2 || field[1] != '=' {
			continue
		}
		switch v := field[2:]; field[0] {
		case 'E':
			f.code, _ = strconv.Atoi(v)
		case 'R':
			f.retry = v == "1"
		case 'C':
			if c, err := hex.DecodeString(v); err == nil {
				f.challenge = c
			}
		case 'V':
			f.version, _ = strconv.Atoi(v)
		}
	}
	return f
}

// papAnswer takes Authenticate-Ack or -Nak.
func (s *supplicant) papAnswer(l *Link, p packet, ok bool) {
	if s.stage != waiting || p.id != s.id {
		return
	}
	if ok {
		s.done(l)
		return
	}
	s.stage = failed
	text, _, _ := parseValue(p.data)
	l.close(Reason{Code: AuthFailed, Text: printable(text)})
}
