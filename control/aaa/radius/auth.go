package radius

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"layeh.com/radius"
	"layeh.com/radius/rfc2865"
	"layeh.com/radius/rfc2866"
	"layeh.com/radius/rfc2868"
	"layeh.com/radius/vendors/microsoft"

	"xpptp/control/aaa"
	"xpptp/control/ppp/mschap"
)

// Authenticate implements aaa.Authenticator.
func (c *Client) Authenticate(ctx context.Context, r *aaa.Request, done func(aaa.Result)) {
	if err := sane(r); err != nil {
		done(aaa.Result{Err: fmt.Errorf("%q: %w", r.Name, err)})
		return
	}
	refuse := func(err error) { done(aaa.Result{Err: fmt.Errorf("%q: %w", r.Name, err)}) }
	x := &exchange{build: func(t *target) (*radius.Packet, error) { return c.accessRequest(r, t.key()) }}
	stop := func() bool { return true }
	x.done = func(rep reply, err error) {
		stop()
		switch {
		case err != nil:
			refuse(err)
		default:
			res := result(r, rep)
			if res.Err != nil {
				res.Err = fmt.Errorf("%q: %w", r.Name, res.Err)
			}
			done(res)
		}
	}
	cancel := make(chan func(error), 1)
	if ctx.Done() != nil {
		stop = context.AfterFunc(ctx, func() { (<-cancel)(ctx.Err()) })
	}
	// The caller does not wait even for a socket that is full.
	go func() { cancel <- c.auth.submit(x) }()
}

// sane refuses what RADIUS cannot carry.
func sane(r *aaa.Request) error {
	const longest = 253 // RFC 2865 §5
	if r.Name == "" || len(r.Name) > longest {
		return fmt.Errorf("%w: user name of %d octets, 1 to %d are possible", aaa.ErrMalformed, len(r.Name), longest)
	}
	want, challenge := mschap.ValueSize, 0
	switch r.Method {
	case aaa.PAP:
		if len(r.Response) > 128 { // RFC 2865 §5.2
			return fmt.Errorf("%w: password of %d octets, 128 are possible", aaa.ErrMalformed, len(r.Response))
		}
		return nil
	case aaa.CHAPMD5:
		want = 16
	case aaa.MSCHAPv1:
		challenge = mschap.ChallengeSize1
		if len(r.Response) == want && r.Response[48] == 0 {
			return fmt.Errorf("%w: LAN Manager response only", aaa.ErrMalformed)
		}
	case aaa.MSCHAPv2:
		challenge = mschap.ChallengeSize2
	default:
		return fmt.Errorf("%w: %s", aaa.ErrMalformed, r.Method)
	}
	if len(r.Response) != want || challenge != 0 && len(r.Challenge) != challenge || len(r.Challenge) > longest {
		return fmt.Errorf("%w: %s: %d octets for a challenge of %d", aaa.ErrMalformed, r.Method, len(r.Response), len(r.Challenge))
	}
	return nil
}

// accessRequest makes the Access-Request for a server with this secret.
func (c *Client) accessRequest(r *aaa.Request, secret []byte) (*radius.Packet, error) {
	p := newRequest(radius.CodeAccessRequest, secret)
	var a adder
	a.add("User-Name", rfc2865.UserName_AddString(p, r.Name))
	// RFC 2548 §2.1.3, §2.3.2: the identifier, flags, and the parts of the
	// Response in another order.
	switch r.Method {
	case aaa.PAP:
		a.add("User-Password", rfc2865.UserPassword_Add(p, r.Response))
	case aaa.CHAPMD5:
		a.add("CHAP-Password", rfc2865.CHAPPassword_Add(p, append([]byte{r.ID}, r.Response...)))
		a.add("CHAP-Challenge", rfc2865.CHAPChallenge_Add(p, r.Challenge))
	case aaa.MSCHAPv1:
		v := append([]byte{r.ID, 1}, r.Response[:48]...)
		a.add("MS-CHAP-Challenge", microsoft.MSCHAPChallenge_Add(p, r.Challenge))
		a.add("MS-CHAP-Response", microsoft.MSCHAPResponse_Add(p, v))
	case aaa.MSCHAPv2:
		v := append([]byte{r.ID, 0}, r.Response[:48]...)
		a.add("MS-CHAP-Challenge", microsoft.MSCHAPChallenge_Add(p, r.Challenge))
		a.add("MS-CHAP2-Response", microsoft.MSCHAP2Response_Add(p, v))
	}
	a.add("NAS", c.cfg.NAS.add(p))
	a.add("call", addCall(p, &aaa.Session{ID: r.Session, Peer: r.Peer, Local: r.Local, Port: r.Port}))
	return p, a.err
}

// addCall adds what access and accounting requests say about a call.
func addCall(p *radius.Packet, s *aaa.Session) error {
	var a adder
	a.add("NAS-Port", rfc2865.NASPort_Add(p, rfc2865.NASPort(s.Port)))
	a.add("NAS-Port-Type", rfc2865.NASPortType_Add(p, rfc2865.NASPortType_Value_Virtual))
	a.add("Service-Type", rfc2865.ServiceType_Add(p, rfc2865.ServiceType_Value_FramedUser))
	a.add("Framed-Protocol", rfc2865.FramedProtocol_Add(p, rfc2865.FramedProtocol_Value_PPP))
	a.add("Acct-Session-Id", rfc2866.AcctSessionID_AddString(p, s.ID))
	a.add("Tunnel-Type", rfc2868.TunnelType_Add(p, 0, rfc2868.TunnelType_Value_PPTP))
	a.add("Tunnel-Medium-Type", rfc2868.TunnelMediumType_Add(p, 0, rfc2868.TunnelMediumType_Value_IPv4))
	if s.Peer.IsValid() {
		a.add("Calling-Station-Id", rfc2865.CallingStationID_AddString(p, s.Peer.String()))
		a.add("Tunnel-Client-Endpoint", rfc2868.TunnelClientEndpoint_AddString(p, 0, s.Peer.String()))
	}
	if s.Local.IsValid() {
		a.add("Called-Station-Id", rfc2865.CalledStationID_AddString(p, s.Local.String()))
		a.add("Tunnel-Server-Endpoint", rfc2868.TunnelServerEndpoint_AddString(p, 0, s.Local.String()))
	}
	return a.err
}

// result reads the answer to an Access-Request.
func result(r *aaa.Request, rep reply) aaa.Result {
	switch rep.Code {
	case radius.CodeAccessAccept:
		return accept(r, rep)
	case radius.CodeAccessReject:
		return reject(r, rep)
	default: // RFC 2865 §4.4: whoever has no use for a challenge takes it for a refusal
		return aaa.Result{Err: fmt.Errorf("%w by RADIUS: %v", aaa.ErrRejected, rep.Code)}
	}
}

func reject(r *aaa.Request, rep reply) aaa.Result {
	res := aaa.Result{Text: replyMessage(rep.Packet)}
	why := res.Text
	if e := msAttrs(rep.Packet, msCHAPError); len(e) > 0 && r.Method.GivesKeys() {
		res.Code = chapError(e[0])
		why = strings.TrimSpace(fmt.Sprintf("error %d %s", res.Code, why))
	}
	res.Err = fmt.Errorf("%w by RADIUS", aaa.ErrRejected)
	if why != "" {
		res.Err = fmt.Errorf("%w: %q", res.Err, why)
	}
	return res
}

// replyMessage is what the server has to say to the user, in one line.
func replyMessage(p *radius.Packet) string {
	var b strings.Builder
	for _, a := range all(p, rfc2865.ReplyMessage_Type) {
		b.Write(a)
	}
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7F {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(b.String(), "?"))
}

// chapError finds the number in MS-CHAP-Error (RFC 2548 §2.1.5): an identifier,
// which some servers leave out, and "E=691 R=…".
func chapError(a radius.Attribute) int {
	_, text, ok := strings.Cut(string(a), "E=")
	if !ok {
		return 0
	}
	text, _, _ = strings.Cut(text, " ")
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return 0
	}
	return int(n)
}
