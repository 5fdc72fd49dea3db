package control

import (
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"xpptp/control/aaa"
	"xpptp/control/ppp"
	"xpptp/engine/session"
)

// terms is what the user of a server's call was granted, and the clocks that
// run because of it.
type terms struct {
	grant   aaa.Grant
	session *aaa.Session // once accounting has heard of it
	cause   aaa.Cause    // of the end, where we know better than the link

	since    int64 // the session began; 0: not yet
	updateAt int64 // next accounting update, 0: none
	pollAt   int64 // next look at the counters, 0: none
	activeAt int64 // when the counters last differed
	packets  uint64
	asked    bool // the worker is being asked for the counters
}

// How often the counters are looked at for Idle-Timeout: a few times within it.
const (
	pollsPerIdle = 4
	minPoll      = time.Second
)

// SetAccounting sets who keeps the books. Set it before Start.
func (b *Box) SetAccounting(a aaa.Accountant) { b.books = a }

// sessionID names the call among all calls of all runs.
func (k *call) sessionID() string {
	return fmt.Sprintf("%s-%02x-%x", k.l.box.run, k.l.id, k.n)
}

// accept takes over what the user was granted and puts it into the link's
// answer.
func (k *call) accept(res *aaa.Result, out *ppp.AuthResult) error {
	g := &res.Grant
	if k.terms == nil {
		k.terms = &terms{}
	}
	k.terms.grant = *g // authenticated again: the clocks go on
	out.PeerInterfaceID = g.InterfaceID
	for i, d := range g.DNS {
		if d.IsValid() {
			out.DNS[i] = d
		}
	}
	for i, n := range g.NBNS {
		if n.IsValid() {
			out.NBNS[i] = n
		}
	}
	policy, err := tighten(k.cfg.MPPE, g.Encryption)
	if err != nil {
		return err
	}
	out.MPPE = &policy
	k.setRate()
	if policy.Mode == ppp.Require {
		k.l.w.SetEncryption(k.wc, session.Required)
	}
	return nil
}

// setRate has the worker keep to the user's rate.
func (k *call) setRate() {
	r := k.terms.grant.Rate
	k.l.w.SetRate(k.wc, r.Up, r.Down)
}

var errEncryption = errors.New("the user's encryption is required elsewhere and denied here")

// tighten applies a user's policy to ours: the stricter of both counts.
func tighten(p ppp.Policy, e aaa.Encryption) (ppp.Policy, error) {
	if e.Required {
		if p.Mode == ppp.Deny {
			return p, errEncryption
		}
		p.Mode = ppp.Require
	}
	if len(e.Bits) > 0 {
		var bits ppp.Bits
		for _, n := range e.Bits {
			bits |= bitsOf(n)
		}
		p.Bits &= bits
	}
	return p, nil
}

func bitsOf(n int) ppp.Bits {
	switch n {
	case 40:
		return ppp.Bits40
	case 56:
		return ppp.Bits56
	case 128:
		return ppp.Bits128
	}
	return 0
}

// mustEncrypt reports whether plain data must not pass.
func (k *call) mustEncrypt() bool {
	return k.cfg.MPPE.Mode == ppp.Require || k.terms != nil && k.terms.grant.Encryption.Required
}

// began starts the clocks and the books: the first network protocol is up.
func (k *call) began() {
	t := k.terms
	if t == nil {
		return
	}
	t.since, t.activeAt = k.l.now, k.l.now
	k.schedulePoll()
	books := k.l.box.books
	if books == nil {
		return
	}
	s := &aaa.Session{
		ID: k.sessionID(), User: k.user, Method: aaaMethod(k.auth), Peer: k.pair.peer, Local: k.pair.local,
		Port: k.port(), Grant: t.grant,
	}
	if n := k.nets[0]; n != nil {
		s.IP = n.Peer
	}
	if n := k.nets[1]; n != nil {
		s.InterfaceID = n.PeerID
	}
	t.session = s
	books.Start(s)
	k.scheduleUpdate()
}

// port is a number that no other call of this address has: loop and call ID.
func (k *call) port() uint32 { return uint32(k.l.id)<<16 | uint32(k.id) }

func (k *call) schedulePoll() {
	t := k.terms
	t.pollAt = 0
	if idle := t.grant.IdleTimeout; idle > 0 {
		t.pollAt = k.l.now + int64(max(idle/pollsPerIdle, minPoll))
	}
}

func (k *call) scheduleUpdate() {
	t := k.terms
	t.updateAt = 0
	if books := k.l.box.books; books != nil && t.session != nil {
		if d := books.Interim(&t.grant); d > 0 {
			t.updateAt = k.l.now + int64(d)
		}
	}
}

// due returns when clock has something to do.
func (t *terms) due() int64 {
	if t == nil || t.since == 0 {
		return math.MaxInt64
	}
	at := int64(math.MaxInt64)
	if limit := t.grant.SessionTimeout; limit > 0 {
		at = t.since + int64(limit)
	}
	for _, d := range []int64{t.updateAt, t.pollAt} {
		if d != 0 && !t.asked {
			at = min(at, d)
		}
	}
	return at
}

// clock does what is due by the user's terms.
func (k *call) clock() {
	t := k.terms
	if t == nil || k.l.now < t.due() || k.ending {
		return
	}
	if limit := int64(t.grant.SessionTimeout); limit > 0 && k.l.now >= t.since+limit {
		k.endFor(aaa.CauseSessionTimeout, "session timeout")
		return
	}
	// The worker owns the counters.
	t.asked = true
	k.l.w.Post(func() {
		s := k.wc.Stats
		k.l.post(func() {
			t.asked = false
			if !k.gone && !k.ending {
				k.counted(&s)
				k.rearm()
			}
		})
	})
}

// counted takes the counters for what asked for them.
func (k *call) counted(s *session.Stats) {
	t, now := k.terms, k.l.now
	if t.updateAt != 0 && now >= t.updateAt {
		k.l.box.books.Update(t.session, k.usage(s))
		k.scheduleUpdate()
	}
	if n := s.RxPackets + s.TxPackets; n != t.packets {
		t.packets, t.activeAt = n, now
	}
	if t.pollAt == 0 || now < t.pollAt {
		return
	}
	if now-t.activeAt >= int64(t.grant.IdleTimeout) {
		k.endFor(aaa.CauseIdleTimeout, "idle timeout")
		return
	}
	k.schedulePoll()
}

// endFor ends the call in order, for a cause that accounting hears of.
func (k *call) endFor(c aaa.Cause, text string) {
	if k.terms.cause == 0 {
		k.terms.cause = c
	}
	k.hangUp(ppp.Reason{Code: ppp.AdminReset, Text: text})
}

func (k *call) usage(s *session.Stats) aaa.Usage {
	return aaa.Usage{
		RxPackets: s.RxPackets, RxBytes: s.RxBytes, TxPackets: s.TxPackets, TxBytes: s.TxBytes,
		Time: time.Duration(k.l.now - k.terms.since),
	}
}

// closeBooks: the call is over and k.stats is final.
func (k *call) closeBooks() {
	if t := k.terms; t != nil && t.session != nil {
		k.l.box.books.Stop(t.session, k.usage(&k.stats), k.whyEnded())
		t.session = nil
	}
}

// whyEnded is why the call ended, as accounting says it.
func (k *call) whyEnded() aaa.Cause {
	if c := k.terms.cause; c != 0 {
		return c
	}
	switch k.reason.Code {
	case ppp.PeerTerminated:
		return aaa.CauseUserRequest
	case ppp.AdminReset:
		if k.l.box.stopping.Load() {
			return aaa.CauseAdminReboot
		}
		return aaa.CauseAdminReset
	case ppp.UserRequest:
		return aaa.CauseNASRequest
	case ppp.LowerDown, ppp.EchoTimeout, ppp.NoAnswer:
		return aaa.CauseLostCarrier
	case ppp.NotConverging, ppp.Loopback, ppp.ProtocolError, ppp.EncryptionLost:
		return aaa.CausePortError
	case ppp.AuthRefused, ppp.AuthFailed, ppp.AuthTimeout, ppp.BadAuthenticator:
		return aaa.CauseUserError
	case ppp.EncryptionRefused, ppp.NoKeys, ppp.NoNetwork:
		return aaa.CauseServiceUnavailable
	default:
		return aaa.CauseNASError
	}
}

// Disconnect implements aaa.Sessions.
func (b *Box) Disconnect(s aaa.Selector, done func(n int)) {
	b.eachMeant(s, done, func(k *call) {
		k.endFor(aaa.CauseAdminReset, "disconnected by the RADIUS server")
	})
}

// Change implements aaa.Sessions.
func (b *Box) Change(s aaa.Selector, c aaa.Change, done func(n int)) {
	b.eachMeant(s, done, func(k *call) {
		c.Apply(&k.terms.grant)
		if c.IdleTimeout != nil {
			k.terms.activeAt = k.l.now
			k.schedulePoll()
		}
		if c.Interim != nil {
			k.scheduleUpdate()
		}
		k.setRate()
		g := &k.terms.grant
		k.log.Info("session changed", "user", k.user, "session_timeout", g.SessionTimeout, "idle_timeout", g.IdleTimeout,
			"rate_up", g.Rate.Up, "rate_down", g.Rate.Down)
		k.rearm()
	})
}

// eachMeant calls f, on their loops, for the sessions that s means.
func (b *Box) eachMeant(s aaa.Selector, done func(n int), f func(*call)) {
	var left, found atomic.Int64
	left.Store(int64(len(b.loops)))
	for _, l := range b.loops {
		l.post(func() {
			for k := range l.calls {
				if k.isMeant(&s) {
					found.Add(1)
					f(k)
				}
			}
			if left.Add(-1) == 0 {
				done(int(found.Load()))
			}
		})
	}
}

// isMeant reports whether s means the session of this call.
func (k *call) isMeant(s *aaa.Selector) bool {
	return k.terms != nil && k.terms.since != 0 && !k.gone && !k.ending &&
		(s.Session == "" || s.Session == k.sessionID()) &&
		(s.User == "" || s.User == k.user) &&
		(!s.IP.IsValid() || s.IP == k.addr) &&
		(s.Peer == "" || s.Peer == k.pair.peer.String())
}

var _ aaa.Sessions = (*Box)(nil)
