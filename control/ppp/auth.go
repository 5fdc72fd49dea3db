package ppp

import (
	"crypto/md5" //nolint:gosec // CHAP with MD5, RFC 1994
	"fmt"

	"xpptp/control/ppp/mschap"
)

// CHAP codes (RFC 1994 section 4, RFC 2433 sections 9 and 10, RFC 2759
// section 7) and PAP codes (RFC 1334 section 2.2).
const (
	chapChallenge = 1
	chapResponse  = 2
	chapSuccess   = 3
	chapFailure   = 4
	chapChange1   = 5 // Change-Password, MS-CHAP version 1
	chapChange2   = 6
	chapChange3   = 7 // Change-Password, MS-CHAP version 2

	papRequest = 1
	papAck     = 2
	papNak     = 3
)

// MS-CHAP error codes (RFC 2759 section 6).
const (
	ErrRestrictedHours  = 646
	ErrAccountDisabled  = 647
	ErrPasswordExpired  = 648
	ErrNoDialIn         = 649
	ErrAuthentication   = 691
	ErrChangingPassword = 709
)

const granted, denied = "Access granted", "Access denied"

// AuthRequest is what the peer presented. It is immutable; the host may keep
// it.
type AuthRequest struct {
	Method       Method
	ID           uint8  // CHAP or PAP identifier
	Name         string // as the peer sent it
	Domain, User string // its parts around a backslash
	Password     string // PAP
	Challenge    []byte // ours
	Response     []byte // the CHAP Value field: 16 octets, MS-CHAP 49
}

// Secret is what a local user is verified by: the password, or for MS-CHAP
// its NT hash alone.
type Secret struct {
	Password string
	NTHash   *[16]byte
}

func (s Secret) ntHash() [16]byte {
	if s.NTHash != nil {
		return *s.NTHash
	}
	return mschap.NTHash(s.Password)
}

// Verify checks the request against a local secret and returns the complete
// result: proof and keys for a good one, error 691 else. Compares take the
// same time wherever the difference is. The zero Secret matches an empty
// password: pass it for known users only.
func (r *AuthRequest) Verify(s Secret) AuthResult {
	res := AuthResult{Request: r}
	switch r.Method {
	case PAP:
		res.OK = s.NTHash == nil && mschap.Equal([]byte(s.Password), []byte(r.Password))
	case CHAPMD5:
		want := chapMD5(r.ID, s.Password, r.Challenge)
		res.OK = s.NTHash == nil && mschap.Equal(want[:], r.Response)
	case MSCHAPv1:
		r.verifyV1(s, &res)
	case MSCHAPv2:
		r.verifyV2(s, &res)
	default: // the others need nothing
	}
	return res
}

// Refuse returns a failure with an MS-CHAP error code.
func (r *AuthRequest) Refuse(code int, message string) AuthResult {
	return AuthResult{Request: r, Code: code, Message: message}
}

func chapMD5(id uint8, secret string, challenge []byte) [16]byte {
	b := append([]byte{id}, secret...)
	return md5.Sum(append(b, challenge...)) //nolint:gosec // see the import
}

// verifyV1 takes the NT response only: an LM response (flag 0) is refused (RFC
// 2433 section 6 deprecates it).
func (r *AuthRequest) verifyV1(s Secret, res *AuthResult) {
	if len(r.Response) != mschap.ValueSize || len(r.Challenge) != mschap.ChallengeSize1 || r.Response[48] != 1 {
		return
	}
	hash := s.ntHash()
	want := mschap.ChallengeResponse([8]byte(r.Challenge), hash)
	if res.OK = mschap.Equal(want[:], r.Response[24:48]); res.OK {
		res.Keys = keysV1(hash, s, [8]byte(r.Challenge))
	}
}

func (r *AuthRequest) verifyV2(s Secret, res *AuthResult) {
	if len(r.Response) != mschap.ValueSize || len(r.Challenge) != mschap.ChallengeSize2 {
		return
	}
	hash := s.ntHash()
	ours, theirs := [16]byte(r.Challenge), [16]byte(r.Response[:16])
	nt := [24]byte(r.Response[24:48])
	want := mschap.NTResponse2(ours, theirs, r.Name, hash)
	if res.OK = mschap.Equal(want[:], nt[:]); res.OK {
		res.Authenticator = mschap.FormatAuthenticator(mschap.AuthenticatorResponse(ours, theirs, r.Name, hash, nt))
		res.Keys = keysV2(hash, nt, true)
	}
}

// stage is how far one direction of authentication is.
type stage uint8

const (
	idle      stage = iota // not asked for
	waiting                // for the other side
	verifying              // the host is asked
	passed
	failed
)

// authenticator verifies the peer.
type authenticator struct {
	deadline  int64  // of the challenge's retransmission
	limit     int64  // of the phase
	last      uint64 // digest of the response answered last
	pending   *AuthRequest
	reply     []byte // our answer to the response answered last
	challenge [mschap.ChallengeSize2]byte
	id        uint8
	tries     uint8
	stage     stage
	retry     bool // the last failure allowed one
	method    Method
}

// authenticate enters the authentication phase, or passes it by.
func (l *Link) authenticate() {
	l.phase = PhaseAuthenticate
	l.user = user{mppe: l.cfg.MPPE}
	if l.lcp.ask&askAuth != 0 {
		l.auth.start(l, l.lcp.ours.method)
	}
	if m := l.lcp.theirs.method; m != NoAuth {
		l.peer.start(l, m)
	}
	l.authDone()
}

// authDone goes on to the network phase when both directions are done.
func (l *Link) authDone() {
	ready := func(s stage) bool { return s == idle || s == passed }
	if l.phase == PhaseAuthenticate && ready(l.auth.stage) && ready(l.peer.stage) {
		l.network()
	}
}

func (a *authenticator) stop() { *a = authenticator{} }

func (a *authenticator) start(l *Link, m Method) {
	*a = authenticator{method: m, stage: waiting, limit: l.now + l.cfg.authTimeout()}
	if m == PAP {
		return
	}
	var id [1]byte
	l.rand(id[:])
	a.id = id[0]
	l.rand(a.value())
	a.sendChallenge(l)
}

// value is the challenge as long as the method has it.
func (a *authenticator) value() []byte {
	if a.method == MSCHAPv1 {
		return a.challenge[:mschap.ChallengeSize1]
	}
	return a.challenge[:]
}

func (a *authenticator) sendChallenge(l *Link) {
	b := grab()
	defer release(b)
	v := a.value()
	b.a = append(beginPacket(b.a, chapChallenge, a.id), byte(len(v)))
	b.a = append(append(b.a, v...), l.cfg.Name...)
	l.host.Send(ProtoCHAP, endPacket(b.a))
	a.deadline = l.now + l.cfg.restart()
}

func (a *authenticator) tick(l *Link) {
	switch {
	case due(a.limit, l.now):
		l.close(Reason{Code: AuthTimeout})
	case due(a.deadline, l.now):
		a.sendChallenge(l) // the same one: an answer may be under way
	}
}

// inputCHAP sorts CHAP packets: responses to the authenticator, the rest to
// the supplicant.
func (l *Link) inputCHAP(info []byte) {
	p, ok := parsePacket(info)
	if !ok || l.phase < PhaseAuthenticate {
		return
	}
	switch p.code {
	case chapResponse:
		if l.auth.method > PAP {
			l.auth.response(l, p)
		}
	case chapChange1, chapChange2, chapChange3:
		if l.auth.method > CHAPMD5 {
			l.auth.changePassword(l, p)
		}
	case chapChallenge:
		if l.peer.method > PAP {
			l.peer.challenged(l, p)
		}
	case chapSuccess:
		if l.peer.method > PAP {
			l.peer.success(l, p)
		}
	case chapFailure:
		if l.peer.method > PAP {
			l.peer.failure(l, p)
		}
	}
}

// response takes a CHAP Response.
func (a *authenticator) response(l *Link, p packet) {
	sum := digest(p.id, p.data)
	switch a.stage {
	case passed:
		// Whatever a response to this challenge says now, it gets the same reply
		// (RFC 1994 section 4.1).
		if p.id == a.id {
			l.host.Send(ProtoCHAP, a.reply)
		}
		return
	case waiting:
	default:
		return
	}
	if sum == a.last {
		l.host.Send(ProtoCHAP, a.reply)
		return
	}
	// A retry carries the next identifier (RFC 2433 appendix B.1.3); some peers keep it.
	if p.id != a.id && (!a.retry || p.id != a.id+1) {
		return
	}
	a.id, a.last, a.deadline = p.id, sum, 0
	value, name, ok := parseValue(p.data)
	size := mschap.ValueSize
	if a.method == CHAPMD5 {
		size = md5.Size
	}
	req := &AuthRequest{
		Method: a.method, ID: p.id, Name: string(name),
		Challenge: append([]byte(nil), a.value()...), Response: append([]byte(nil), value...),
	}
	req.Domain, req.User = mschap.SplitName(req.Name)
	a.ask(l, req, ok && len(value) == size)
}

// ask hands a request to the host; one that is no response at all fails
// without it.
func (a *authenticator) ask(l *Link, req *AuthRequest, sane bool) {
	a.pending, a.stage = req, verifying
	if !sane {
		l.AuthResult(l.now, AuthResult{Request: req, NoRetry: true})
		return
	}
	l.host.Authenticate(req)
}

// parseValue splits the data of a Challenge or Response.
func parseValue(b []byte) (value, name []byte, ok bool) {
	if len(b) < 1 || int(b[0]) > len(b)-1 {
		return nil, nil, false
	}
	n := 1 + int(b[0])
	return b[1:n], b[n:], true
}

// changePassword refuses to: error 709, and the end.
func (a *authenticator) changePassword(l *Link, p packet) {
	if a.stage != waiting {
		return
	}
	a.id = p.id
	a.pending, a.stage = &AuthRequest{Method: a.method, ID: p.id}, verifying
	l.AuthResult(l.now, AuthResult{Request: a.pending, Code: ErrChangingPassword, NoRetry: true})
}

// inputPAP takes an Authenticate-Request or its answer.
func (l *Link) inputPAP(info []byte) {
	p, ok := parsePacket(info)
	if !ok || l.phase < PhaseAuthenticate {
		return
	}
	switch {
	case p.code == papRequest && l.auth.method == PAP:
		l.auth.papRequest(l, p)
	case p.code == papAck && l.peer.method == PAP:
		l.peer.papAnswer(l, p, true)
	case p.code == papNak && l.peer.method == PAP:
		l.peer.papAnswer(l, p, false)
	}
}

func (a *authenticator) papRequest(l *Link, p packet) {
	switch a.stage {
	case passed:
		a.reply[1] = p.id
		l.host.Send(ProtoPAP, a.reply)
		return
	case waiting:
	default:
		return
	}
	name, rest, ok := parseValue(p.data)
	password, _, ok2 := parseValue(rest)
	req := &AuthRequest{Method: PAP, ID: p.id, Name: string(name), Password: string(password)}
	req.Domain, req.User = mschap.SplitName(req.Name)
	a.ask(l, req, ok && ok2)
}

// AuthResult gives the answer to an AuthRequest. It may be called from
// anywhere but inside a Host method. Answers to anything but the request that
// is pending are ignored.
func (l *Link) AuthResult(now int64, r AuthResult) {
	l.now = now
	a := &l.auth
	if r.Request == nil || r.Request != a.pending {
		return
	}
	a.pending = nil
	if r.OK {
		a.stage, a.deadline, a.limit = passed, 0, 0
		a.answer(l, r.Request, true, a.successText(&r))
		l.user.take(&r)
		l.authDone()
		return
	}
	r.Code = or(r.Code, ErrAuthentication)
	a.retry = a.method > CHAPMD5 && !r.NoRetry && r.Code == ErrAuthentication && a.tries < l.cfg.AuthRetries
	if a.retry {
		a.tries++
		l.rand(a.value())
		a.stage, a.limit = waiting, l.now+l.cfg.authTimeout()
		a.answer(l, r.Request, false, a.failureText(&r))
		return
	}
	a.stage = failed
	a.answer(l, r.Request, false, a.failureText(&r))
	why := Reason{Code: AuthFailed, Text: printable([]byte(r.Request.Name))}
	if a.method > CHAPMD5 {
		why.AuthError = r.Code
	}
	l.close(why)
}

func (a *authenticator) successText(r *AuthResult) string {
	text := or(r.Message, granted)
	if a.method == MSCHAPv2 {
		return r.Authenticator + " M=" + text
	}
	return text
}

// failureText is the Message of a Failure packet (RFC 2759 section 6, RFC 2433
// section 8).
func (a *authenticator) failureText(r *AuthResult) string {
	retry := 0
	if a.retry {
		retry = 1
	}
	text := or(r.Message, denied)
	switch a.method {
	case MSCHAPv2:
		return fmt.Sprintf("E=%d R=%d C=%X V=3 M=%s", r.Code, retry, a.value(), text)
	case MSCHAPv1:
		return fmt.Sprintf("E=%d R=%d C=%X V=3", r.Code, retry, a.value())
	default:
		return text
	}
}

// answer sends Success or Failure, or PAP's Ack or Nak, and keeps it for
// repetition.
func (a *authenticator) answer(l *Link, req *AuthRequest, ok bool, text string) {
	proto, code := uint16(ProtoCHAP), uint8(chapFailure)
	switch {
	case req.Method == PAP && ok:
		proto, code = ProtoPAP, papAck
	case req.Method == PAP:
		proto, code = ProtoPAP, papNak
	case ok:
		code = chapSuccess
	}
	b := beginPacket(nil, code, req.ID)
	if req.Method == PAP {
		text = text[:min(len(text), 255)]
		b = append(b, byte(len(text)))
	}
	a.reply = endPacket(append(b, text[:min(len(text), 512)]...))
	l.host.Send(proto, a.reply)
}
