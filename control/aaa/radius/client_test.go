package radius

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"layeh.com/radius"
	"layeh.com/radius/rfc2865"
	"layeh.com/radius/rfc2868"
	"layeh.com/radius/rfc2869"

	"xpptp/control/aaa"
)

func TestRequestSaysWhoCalls(t *testing.T) {
	f := newFake(t, accepts)
	c := newClient(t, Config{NAS: NAS{Address: netip.MustParseAddr("192.0.2.9")}}, f.server())
	res := ask(t, c, &aaa.Request{
		Method: aaa.PAP, Name: "alice", Response: []byte("a password longer than sixteen octets"),
		Session: "id-1", Peer: netip.MustParseAddr("198.51.100.7"), Local: netip.MustParseAddr("192.0.2.9"), Port: 42,
	})
	if res.Err != nil || res.User != "alice" || !res.Grant.Remote {
		t.Fatalf("%+v", res)
	}
	p := f.packets()[0]
	if p.Attributes[0].Type != rfc2869.MessageAuthenticator_Type {
		t.Errorf("first attribute %d: Message-Authenticator must be", p.Attributes[0].Type)
	}
	_, client := rfc2868.TunnelClientEndpoint_GetString(p)
	_, kind := rfc2868.TunnelType_Get(p)
	got := strings.Join([]string{
		rfc2865.UserName_GetString(p), rfc2865.UserPassword_GetString(p), rfc2865.NASIdentifier_GetString(p),
		rfc2865.NASIPAddress_Get(p).String(), fmt.Sprint(uint32(rfc2865.NASPort_Get(p))), rfc2865.NASPortType_Get(p).String(),
		rfc2865.ServiceType_Get(p).String(), rfc2865.FramedProtocol_Get(p).String(), rfc2865.CallingStationID_GetString(p),
		rfc2865.CalledStationID_GetString(p), client, kind.String(),
	}, "|")
	if want := "alice|a password longer than sixteen octets|nas|192.0.2.9|42|Virtual|Framed-User|PPP|198.51.100.7|192.0.2.9|198.51.100.7|PPTP"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// Answers that are not to be believed change nothing: the good one that follows
// counts, and all are counted.
func TestUnbelievableAnswers(t *testing.T) {
	for _, c := range []struct {
		name  string
		bad   func(r *radius.Packet) *radius.Packet
		count func(*Counters) uint64
	}{
		{"wrong secret", func(r *radius.Packet) *radius.Packet {
			p := r.Response(radius.CodeAccessAccept)
			p.Secret = []byte("another")
			return sign(p)
		}, func(n *Counters) uint64 { return n.Forged }},
		{"wrong Message-Authenticator", func(r *radius.Packet) *radius.Packet {
			p := sign(r.Response(radius.CodeAccessAccept))
			p.Attributes[0].Attribute[3] ^= 1
			return p
		}, func(n *Counters) uint64 { return n.Forged }},
		{"two Message-Authenticators", func(r *radius.Packet) *radius.Packet {
			return sign(sign(r.Response(radius.CodeAccessAccept)))
		}, func(n *Counters) uint64 { return n.Forged }},
		{"short Message-Authenticator", func(r *radius.Packet) *radius.Packet {
			p := r.Response(radius.CodeAccessAccept)
			p.Add(macType, make([]byte, 15))
			return p
		}, func(n *Counters) uint64 { return n.Forged }},
		{"no Message-Authenticator", func(r *radius.Packet) *radius.Packet {
			return r.Response(radius.CodeAccessAccept)
		}, func(n *Counters) uint64 { return n.Unsigned }},
		{"answer to something else", func(r *radius.Packet) *radius.Packet {
			return sign(r.Response(radius.CodeAccountingResponse))
		}, func(n *Counters) uint64 { return n.Unexpected }},
	} {
		t.Run(c.name, func(t *testing.T) {
			var n atomic.Int32
			f := newFake(t, func(r *radius.Packet) *radius.Packet {
				if n.Add(1) == 1 {
					return c.bad(r)
				}
				return sign(r.Response(radius.CodeAccessReject))
			})
			cl := newClient(t, Config{Timeout: 50 * time.Millisecond, Tries: 8}, f.server())
			if res := ask(t, cl, pap("alice")); !errors.Is(res.Err, aaa.ErrRejected) {
				t.Errorf("%+v", res)
			}
			st := cl.Status().Servers[0]
			if got := c.count(&st.Counters); got != 1 || st.Rejects != 1 || st.Accepts != 0 || st.Retransmits == 0 {
				t.Errorf("counted %d: %+v", got, st)
			}
		})
	}
}

func TestUnsignedWhereAllowed(t *testing.T) {
	f := newFake(t, func(r *radius.Packet) *radius.Packet { return r.Response(radius.CodeAccessAccept) })
	s := f.server()
	s.Unsigned = true
	if res := ask(t, newClient(t, Config{}, s), pap("alice")); res.Err != nil {
		t.Error(res.Err)
	}
}

// The same packet goes out again until there is an answer; a copy of the answer
// is counted.
func TestRetransmission(t *testing.T) {
	var n atomic.Int32
	f := newFake(t, func(r *radius.Packet) *radius.Packet {
		if n.Add(1) < 3 {
			return nil
		}
		return accepts(r)
	})
	c := newClient(t, Config{Timeout: 20 * time.Millisecond, Tries: 10}, f.server())
	if res := ask(t, c, pap("alice")); res.Err != nil {
		t.Fatal(res.Err)
	}
	ps := f.packets()
	for _, p := range ps {
		if p.Identifier != ps[0].Identifier || p.Authenticator != ps[0].Authenticator {
			t.Error("another packet was sent")
		}
	}
	if len(ps) < 3 {
		t.Errorf("%d packets", len(ps))
	}
}

func TestFailOver(t *testing.T) {
	var up atomic.Bool
	var probes atomic.Int32
	first := newFake(t, func(r *radius.Packet) *radius.Packet {
		if r.Code == radius.CodeStatusServer {
			probes.Add(1)
		}
		if up.Load() {
			return accepts(r)
		}
		return nil
	})
	second := newFake(t, accepts)
	spare := second.server()
	spare.Weight = 0
	c := newClient(t, Config{Timeout: 20 * time.Millisecond, Tries: 2, DeadTime: time.Hour, Probe: 20 * time.Millisecond}, first.server(), spare)
	for range 20 {
		if res := ask(t, c, pap("alice")); res.Err != nil {
			t.Fatal(res.Err)
		}
	}
	st := c.Status().Servers
	if st[0].Alive || st[0].Deaths != 1 || st[0].Timeouts != 1 || st[1].Accepts != 20 {
		t.Errorf("%+v", st)
	}
	until(t, "probed", func() bool { return probes.Load() > 1 })
	up.Store(true)
	until(t, "alive again", func() bool { return c.Status().Servers[0].Alive })
	before := second.count()
	if res := ask(t, c, pap("alice")); res.Err != nil || second.count() != before {
		t.Errorf("%v; the spare one was asked", res.Err)
	}
}

func TestNobodyAnswers(t *testing.T) {
	silent := newFake(t, func(*radius.Packet) *radius.Packet { return nil })
	other := newFake(t, func(*radius.Packet) *radius.Packet { return nil })
	c := newClient(t, Config{Timeout: 10 * time.Millisecond, Tries: 2}, silent.server(), other.server())
	res := ask(t, c, pap("alice"))
	if !errors.Is(res.Err, aaa.ErrUnavailable) || !strings.Contains(res.Err.Error(), "2 RADIUS servers tried") {
		t.Error(res.Err)
	}
	// The dead are asked again rather than nobody.
	res = ask(t, c, pap("alice"))
	if !errors.Is(res.Err, aaa.ErrUnavailable) || silent.count()+other.count() != 8 {
		t.Errorf("%v; %d packets", res.Err, silent.count()+other.count())
	}
}

// More requests than one socket has identifiers are under way at once; beyond
// limit and queue they are refused.
func TestManyAtOnceAndOverload(t *testing.T) {
	const limit, queue, more = 600, 50, 30
	open := make(chan struct{})
	f := newFake(t, func(r *radius.Packet) *radius.Packet {
		<-open
		return accepts(r)
	})
	c := newClient(t, Config{Timeout: time.Second, Tries: 10, Limit: limit, Queue: queue}, f.server())
	var wg sync.WaitGroup
	var good, overload atomic.Int32
	for range limit + queue + more {
		wg.Add(1)
		c.Authenticate(context.Background(), pap("alice"), func(res aaa.Result) {
			defer wg.Done()
			switch {
			case res.Err == nil:
				good.Add(1)
			case errors.Is(res.Err, aaa.ErrOverload):
				overload.Add(1)
			default:
				t.Error(res.Err)
			}
		})
	}
	until(t, "refused", func() bool { return overload.Load() == more })
	st := c.Status()
	if st.Servers[0].Pending != limit || st.Waiting != queue || st.Overload != more {
		t.Errorf("%d under way, %d wait, %d refused", st.Servers[0].Pending, st.Waiting, st.Overload)
	}
	close(open)
	wg.Wait()
	if good.Load() != limit+queue {
		t.Errorf("%d of %d", good.Load(), limit+queue)
	}
	if st := c.Status(); st.Servers[0].Pending != 0 || st.Waiting != 0 {
		t.Errorf("left: %+v", st)
	}
}

func TestWeights(t *testing.T) {
	a, b := newFake(t, accepts), newFake(t, accepts)
	s, u := a.server(), b.server()
	s.Weight, u.Weight = 9, 1
	c := newClient(t, Config{}, s, u)
	for range 400 {
		ask(t, c, pap("alice"))
	}
	// 40 are expected; less than 10 or more than 100 would be one case in 10^9.
	if n := b.count(); n < 10 || n > 100 || a.count()+n != 400 {
		t.Errorf("%d and %d", a.count(), n)
	}
}

func TestCancel(t *testing.T) {
	f := newFake(t, func(*radius.Packet) *radius.Packet { return nil })
	c := newClient(t, Config{Timeout: time.Minute}, f.server())
	ctx, cancel := context.WithCancel(context.Background())
	got := make(chan aaa.Result, 2)
	c.Authenticate(ctx, pap("alice"), func(res aaa.Result) { got <- res })
	cancel()
	if res := <-got; !errors.Is(res.Err, context.Canceled) {
		t.Error(res.Err)
	}
	if n := c.Status().Servers[0].Pending; n != 0 {
		t.Errorf("%d under way", n)
	}
	c.Authenticate(ctx, pap("alice"), func(res aaa.Result) { got <- res })
	if res := <-got; !errors.Is(res.Err, context.Canceled) {
		t.Error(res.Err)
	}
}

func TestWhatCannotBeAsked(t *testing.T) {
	f := newFake(t, accepts)
	c := newClient(t, Config{}, f.server())
	for name, r := range map[string]*aaa.Request{
		"no name":       pap(""),
		"long name":     pap(strings.Repeat("x", 254)),
		"long password": {Method: aaa.PAP, Name: "a", Response: make([]byte, 129)},
		"short MD5":     {Method: aaa.CHAPMD5, Name: "a", Response: make([]byte, 15), Challenge: make([]byte, 16)},
		"LM only":       {Method: aaa.MSCHAPv1, Name: "a", Response: make([]byte, 49), Challenge: make([]byte, 8)},
		"challenge":     {Method: aaa.MSCHAPv2, Name: "a", Response: make([]byte, 49), Challenge: make([]byte, 8)},
		"no method":     {Name: "a"},
	} {
		if res := ask(t, c, r); !errors.Is(res.Err, aaa.ErrMalformed) {
			t.Errorf("%s: %v", name, res.Err)
		}
	}
	if f.count() != 0 {
		t.Error("the server was asked")
	}
}

func TestIPv6Transport(t *testing.T) {
	c := newClient(t, Config{Timeout: 10 * time.Millisecond, Tries: 1}, Server{
		Auth: netip.MustParseAddrPort("[::1]:9"), Acct: netip.MustParseAddrPort("[::1]:10"), Secret: aaa.NewSecret("x"), Weight: 1,
	})
	// Nobody is there; what counts is that a socket of the right family is opened.
	if res := ask(t, c, pap("alice")); !errors.Is(res.Err, aaa.ErrUnavailable) {
		t.Error(res.Err)
	}
}

func TestNewRefuses(t *testing.T) {
	if _, err := New(Config{}, quiet()); err == nil {
		t.Error("no server")
	}
	if _, err := New(Config{Servers: []Server{{}}}, quiet()); err == nil {
		t.Error("no secret")
	}
}

// What has waited so long that nobody can want it any more is refused.
func TestWaitedTooLong(t *testing.T) {
	open := make(chan struct{})
	f := newFake(t, func(r *radius.Packet) *radius.Packet {
		<-open
		return accepts(r)
	})
	c := newClient(t, Config{Timeout: time.Second, Tries: 10, Limit: 1, Queue: 5}, f.server())
	results := make(chan error, 3)
	for range 3 {
		c.Authenticate(context.Background(), pap("alice"), func(res aaa.Result) { results <- res.Err })
	}
	until(t, "two wait", func() bool { return c.Status().Waiting == 2 })
	c.auth.mu.Lock()
	c.auth.waiting[0].queued = time.Now().Add(-time.Hour)
	c.auth.mu.Unlock()
	close(open)
	good, late := 0, 0
	for range 3 {
		switch err := <-results; {
		case err == nil:
			good++
		case errors.Is(err, aaa.ErrOverload):
			late++
		}
	}
	if good != 2 || late != 1 || c.Status().Overload != 1 {
		t.Errorf("%d good, %d late", good, late)
	}
}
