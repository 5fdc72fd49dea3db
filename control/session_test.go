package control

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"xpptp/control/aaa"
	"xpptp/control/config"
	"xpptp/control/ppp"
	"xpptp/engine"
	"xpptp/engine/session"
)

// granting adds a grant to what another authenticator says.
type granting struct {
	aaa.Authenticator
	grant aaa.Grant
	asked []*aaa.Request
}

func (g *granting) Authenticate(ctx context.Context, r *aaa.Request, done func(aaa.Result)) {
	g.asked = append(g.asked, r)
	g.Authenticator.Authenticate(ctx, r, func(res aaa.Result) {
		res.Grant = g.grant
		done(res)
	})
}

// books is an accountant that notes what it hears, in seconds of the session.
type books struct {
	interim  time.Duration
	sessions []*aaa.Session
	notes    []string
	last     aaa.Usage
}

func (b *books) Interim(g *aaa.Grant) time.Duration {
	if g.Interim != 0 {
		return g.Interim
	}
	return b.interim
}

func (b *books) Start(s *aaa.Session) {
	b.sessions = append(b.sessions, s)
	b.notes = append(b.notes, "start")
}

func (b *books) Update(_ *aaa.Session, u aaa.Usage) {
	b.last = u
	b.notes = append(b.notes, fmt.Sprintf("update %d", u.Time/time.Second))
}

func (b *books) Stop(_ *aaa.Session, u aaa.Usage, c aaa.Cause) {
	b.last = u
	b.notes = append(b.notes, fmt.Sprintf("stop %d cause %d", u.Time/time.Second, c))
}

func (b *books) String() string { return strings.Join(b.notes, ", ") }

// newTermsSim is a simulation with one call up whose user was granted g.
func newTermsSim(t *testing.T, o simOptions, g aaa.Grant, b *books) (*sim, *granting) {
	t.Helper()
	s := newSim(t, o)
	auth := &granting{Authenticator: s.server.box.auth, grant: g}
	s.server.box.auth = auth
	s.server.box.SetAccounting(b)
	s.call(1)
	s.until("call up", 20, func() bool { return s.upCalls() == 1 && s.serverUp() == 1 && len(b.sessions) == 1 })
	return s, auth
}

func (s *sim) seconds(n int) {
	for end := s.now + int64(n)*1e9; s.now < end; {
		s.step()
	}
}

func (s *sim) over() {
	s.t.Helper()
	s.until("the call is over", 60, func() bool { return s.server.box.Calls() == 0 })
}

func TestSessionInTheBooks(t *testing.T) {
	b := &books{interim: 2 * time.Second}
	s, auth := newTermsSim(t, simOptions{seed: 31}, aaa.Grant{Class: [][]byte{[]byte("x")}}, b)
	k, got := s.server.calls()[0], b.sessions[0]
	if got.User != "alice" || got.IP != k.addr || got.Peer != simClient || got.Local != simServer || got.Method != aaa.MSCHAPv2 ||
		got.ID == "" || got.ID != auth.asked[0].Session || got.Port != auth.asked[0].Port || string(got.Grant.Class[0]) != "x" {
		t.Errorf("%+v, asked %+v", got, auth.asked[0])
	}
	up, down := &stream{src: k.addr, dst: simLocal, id: 1}, &stream{src: simLocal, dst: k.addr, id: 2}
	for range 20 {
		up.send(s, s.client, 500)
		down.send(s, s.server, 300)
		s.step()
		s.drainInside(s.server, func(p []byte) { up.receive(t, p) })
		s.drainInside(s.client, func(p []byte) { down.receive(t, p) })
	}
	s.seconds(5)
	if got := b.String(); got != "start, update 2, update 4" {
		t.Error(got)
	}
	if u := b.last; u.RxPackets != 20 || u.TxPackets != 20 || u.RxBytes != 20*500 || u.TxBytes != 20*300 {
		t.Errorf("%+v", u)
	}
	s.hangUp()
	if got := b.String(); !strings.HasSuffix(got, "cause 1") || b.last.RxBytes != 20*500 {
		t.Errorf("%s %+v", got, b.last)
	}
}

func TestSessionTimeouts(t *testing.T) {
	t.Run("session", func(t *testing.T) {
		b := &books{}
		s, _ := newTermsSim(t, simOptions{seed: 32}, aaa.Grant{SessionTimeout: 5 * time.Second}, b)
		s.over()
		if got := b.String(); got != "start, stop 5 cause 5" {
			t.Error(got)
		}
		s.hangUp()
	})
	t.Run("idle", func(t *testing.T) {
		b := &books{}
		s, _ := newTermsSim(t, simOptions{seed: 33}, aaa.Grant{IdleTimeout: 4 * time.Second}, b)
		k := s.server.calls()[0]
		up := &stream{src: k.addr, dst: simLocal, id: 1}
		for range 8 { // a packet a second keeps it up
			up.send(s, s.client, 100)
			s.seconds(1)
			s.drainInside(s.server, func(p []byte) { up.receive(t, p) })
		}
		if s.server.box.Calls() != 1 {
			t.Fatal("ended though not idle")
		}
		s.over()
		if got := b.String(); got != "start, stop 12 cause 4" && got != "start, stop 13 cause 4" {
			t.Error(got)
		}
		s.hangUp()
	})
}

func TestSessionsFromOutside(t *testing.T) {
	b := &books{}
	s, _ := newTermsSim(t, simOptions{seed: 34, workers: 2}, aaa.Grant{SessionTimeout: time.Hour}, b)
	k := s.server.calls()[0]
	ask := func(f func(done func(int))) int {
		got := -1
		f(func(n int) { got = n })
		s.until("answered", 5, func() bool { return got >= 0 })
		return got
	}
	disconnect := func(sel aaa.Selector) int {
		return ask(func(done func(int)) { s.server.box.Disconnect(sel, done) })
	}
	change := func(sel aaa.Selector, c aaa.Change) int {
		return ask(func(done func(int)) { s.server.box.Change(sel, c, done) })
	}
	for _, sel := range []aaa.Selector{
		{User: "bob"}, {Session: "x"}, {IP: netip.MustParseAddr("192.168.7.200")}, {Peer: "10.0.0.9"}, {User: "alice", Session: "x"},
	} {
		if n := disconnect(sel); n != 0 {
			t.Errorf("%+v meant %d", sel, n)
		}
	}
	rate, idle, interim := uint64(64000), time.Hour, 3*time.Second
	all := aaa.Selector{User: "alice", Session: b.sessions[0].ID, IP: k.addr, Peer: simClient.String()}
	if n := change(all, aaa.Change{Up: &rate, IdleTimeout: &idle, Interim: &interim}); n != 1 {
		t.Errorf("%d changed", n)
	}
	if g := k.terms.grant; g.Rate.Up != rate || g.Rate.Down != 0 || g.IdleTimeout != idle || g.SessionTimeout != time.Hour {
		t.Errorf("%+v", g)
	}
	s.seconds(4)
	if got := b.String(); !strings.HasPrefix(got, "start, update 3") {
		t.Error(got)
	}
	// A session time-out counts from the beginning: this one is over.
	limit := time.Second
	if n := change(aaa.Selector{IP: k.addr}, aaa.Change{SessionTimeout: &limit}); n != 1 {
		t.Errorf("%d changed", n)
	}
	s.over()
	if got := b.String(); !strings.HasSuffix(got, "cause 5") {
		t.Error(got)
	}
	s.call(2)
	s.until("calls up", 20, func() bool { return s.upCalls() == 2 && len(b.sessions) == 3 })
	if b.sessions[1].ID == b.sessions[2].ID || slices.Contains([]string{b.sessions[1].ID, b.sessions[2].ID}, b.sessions[0].ID) {
		t.Error("names of sessions repeat")
	}
	if n := disconnect(aaa.Selector{User: "alice"}); n != 2 {
		t.Errorf("%d ended", n)
	}
	s.over()
	if got := b.String(); strings.Count(got, "cause 6") != 2 {
		t.Error(got)
	}
	s.hangUp()
}

// What a server grants reaches the client: name servers, and an encryption that
// is required by the user's terms though not by ours.
func TestGrantedNetwork(t *testing.T) {
	dns := netip.MustParseAddr("192.168.7.53")
	b := &books{}
	s, _ := newTermsSim(t, simOptions{
		seed:   35,
		common: func(c *config.Common) { c.MPPE, c.MPPEKeys = config.Prefer, []int{128, 40} },
		serve:  func(c *config.Config) { c.DNS = []netip.Addr{simLocal, simLocal} },
	}, aaa.Grant{DNS: [2]netip.Addr{dns}, InterfaceID: 0x0200000000000009, Encryption: aaa.Encryption{Required: true, Bits: []int{40}}}, b)
	s.until("IPv6 up", 20, func() bool { return s.client.calls()[0].nets[1] != nil })
	k, c := s.server.calls()[0], s.client.calls()[0]
	if d := c.nets[0].DNS; d[0] != dns || d[1] != simLocal {
		t.Errorf("name servers %v", d)
	}
	if id := c.nets[1].LocalID; id != 0x0200000000000009 {
		t.Errorf("interface identifier %x", id)
	}
	if k.mppe.Bits != 40 || k.wc.Encrypt != session.Required {
		t.Errorf("%d bits, %v", k.mppe.Bits, k.wc.Encrypt)
	}
	s.hangUp()
}

func TestTighten(t *testing.T) {
	ours := ppp.Policy{Mode: ppp.Prefer, Bits: ppp.Bits40 | ppp.Bits128}
	for _, c := range []struct {
		mode ppp.MPPEMode
		e    aaa.Encryption
		want ppp.Policy
		bad  bool
	}{
		{ppp.Prefer, aaa.Encryption{}, ours, false},
		{ppp.Prefer, aaa.Encryption{Bits: []int{128, 56}}, ppp.Policy{Mode: ppp.Prefer, Bits: ppp.Bits128}, false},
		{ppp.Prefer, aaa.Encryption{Required: true}, ppp.Policy{Mode: ppp.Require, Bits: ours.Bits}, false},
		{ppp.Require, aaa.Encryption{}, ppp.Policy{Mode: ppp.Require, Bits: ours.Bits}, false},
		{ppp.Prefer, aaa.Encryption{Required: true, Bits: []int{56}}, ppp.Policy{Mode: ppp.Require}, false},
		{ppp.Deny, aaa.Encryption{Bits: []int{40}}, ppp.Policy{Mode: ppp.Deny, Bits: ppp.Bits40}, false},
		{ppp.Deny, aaa.Encryption{Required: true}, ppp.Policy{}, true},
	} {
		p := ours
		p.Mode = c.mode
		got, err := tighten(p, c.e)
		if (err != nil) != c.bad || err == nil && got != c.want {
			t.Errorf("%+v: %+v, %v", c, got, err)
		}
	}
}

func TestCauses(t *testing.T) {
	for code, want := range map[ppp.ReasonCode]aaa.Cause{
		ppp.PeerTerminated: 1, ppp.LowerDown: 2, ppp.EchoTimeout: 2, ppp.AdminReset: 6, ppp.UserRequest: 10,
		ppp.Loopback: 8, ppp.EncryptionLost: 8, ppp.NoNetwork: 15, ppp.NoKeys: 15, ppp.AuthFailed: 17, ppp.Unknown: 9,
	} {
		k := &call{l: &Loop{box: &Box{}}, terms: &terms{}, reason: ppp.Reason{Code: code}}
		if got := k.whyEnded(); got != want {
			t.Errorf("%v: cause %d, want %d", code, got, want)
		}
	}
}

// What a server says about a call's rate holds, from the beginning and when it
// changes; what is over it is counted.
func TestGrantedRate(t *testing.T) {
	b := &books{}
	s, _ := newTermsSim(t, simOptions{seed: 36}, aaa.Grant{Rate: aaa.Rate{Up: 80_000}}, b)
	k := s.server.calls()[0]
	// A second of 1000 packets of 100 bytes each way.
	second := func() (up, down int) {
		s.seconds(1) // the buckets fill
		from, to := k.wc.Stats.RxPackets, k.wc.Stats.TxPackets
		st, back := &stream{src: k.addr, dst: simLocal, id: 1}, &stream{src: simLocal, dst: k.addr, id: 2}
		for range 1000 {
			st.send(s, s.client, 100)
			back.send(s, s.server, 100)
			s.step()
			for _, e := range []*simEnd{s.server, s.client} {
				s.drainInside(e, func([]byte) {})
			}
		}
		return int(k.wc.Stats.RxPackets - from), int(k.wc.Stats.TxPackets - to)
	}
	near := func(got, want int) bool { return got >= want-5 && got <= want+5 }
	// 80 kbit/s are 100 such packets a second, and the bucket holds 74 more.
	if up, down := second(); !near(up, 174) || !near(down, 1000) {
		t.Errorf("%d up, %d down", up, down)
	}
	rate, none := uint64(160_000), uint64(0)
	s.server.box.Change(aaa.Selector{User: "alice"}, aaa.Change{Down: &rate, Up: &none}, func(int) {})
	if up, down := second(); !near(up, 1000) || !near(down, 274) {
		t.Errorf("changed: %d up, %d down", up, down)
	}
	if n := s.server.drops()[engine.RateLimit]; !near(int(n), 826+726) {
		t.Errorf("%d dropped", n)
	}
	s.hangUp()
}

// Networks behind users: packets come and go for them, whichever worker has the
// call. A newer call of the same user takes them over, another user's does not.
func TestGrantedRoutes(t *testing.T) {
	for _, n := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d workers", n), func(t *testing.T) {
			wide, narrow := netip.MustParsePrefix("10.20.0.0/16"), netip.MustParsePrefix("10.20.5.0/24")
			b := &books{}
			s, auth := newTermsSim(t, simOptions{seed: 37, workers: n}, aaa.Grant{Routes: []netip.Prefix{wide, narrow}}, b)
			first := s.server.calls()[0]
			dev := s.server.box.ports.inside.(*tunInside).dev.(*simDevice)
			settle := func() {
				for range 5 {
					s.step()
				}
			}
			// taker is the call that a packet to dst went to.
			taker := func(dst string) (taker *call) {
				before := map[*call]uint64{}
				for _, k := range s.server.calls() {
					before[k] = k.wc.Stats.TxPackets
				}
				s.inject(s.server, udp(simLocal, netip.MustParseAddr(dst), 1, 1, 100))
				settle()
				for _, k := range s.server.calls() {
					if k.wc.Stats.TxPackets > before[k] {
						taker = k
					}
				}
				return taker
			}
			if taker("10.20.5.1") != first || taker("10.20.6.1") != first || taker("10.21.0.1") != nil || !dev.routes[wide] || !dev.routes[narrow] {
				t.Errorf("routes %v", dev.routes)
			}
			// The other way: the source belongs to the call. (The client's end has to
			// believe that the source is its own.)
			for src, want := range map[string]uint64{"10.20.9.9": 1, "10.21.0.1": 0} {
				before, c := first.wc.Stats.RxPackets, s.client.calls()[0]
				c.l.w.NetworkUp(c.wc, netip.MustParseAddr(src))
				settle()
				s.inject(s.client, udp(netip.MustParseAddr(src), simLocal, 1, 1, 100))
				settle()
				if got := first.wc.Stats.RxPackets - before; got != want {
					t.Errorf("%d packets from %s", got, src)
				}
			}

			auth.grant.Routes = []netip.Prefix{wide}
			s.call(1)
			s.until("second call up", 20, func() bool { return len(b.sessions) == 2 })
			settle()
			second := s.server.calls()[0]
			if second == first {
				second = s.server.calls()[1]
			}
			if taker("10.20.6.1") != second || taker("10.20.5.1") != first {
				t.Error("not taken over, or too much")
			}
			first.hangUp(ppp.Reason{Code: ppp.AdminReset})
			s.until("first call over", 60, func() bool { return s.server.box.Calls() == 1 })
			if taker("10.20.6.1") != second || !dev.routes[wide] || dev.routes[narrow] {
				t.Errorf("after the first: routes %v", dev.routes)
			}

			second.user = "bob" // and so another's
			s.server.box.routes.holder[wide] = holding{second, "bob"}
			s.call(1)
			s.until("third call up", 20, func() bool { return len(b.sessions) == 3 })
			settle()
			if taker("10.20.6.1") != second {
				t.Error("taken from another user")
			}
			s.hangUp()
			if len(s.server.box.routes.holder) != 0 {
				t.Errorf("held: %v", s.server.box.routes.holder)
			}
		})
	}
}
