package radius

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"layeh.com/radius"
	"layeh.com/radius/rfc2865"
	"layeh.com/radius/rfc2866"
	"layeh.com/radius/rfc2869"

	"xpptp/control/aaa"
)

func confirms(r *radius.Packet) *radius.Packet { return r.Response(radius.CodeAccountingResponse) }

// line is an accounting packet in words.
func line(p *radius.Packet) string {
	return strings.TrimSpace(fmt.Sprintf("%v %s", rfc2866.AcctStatusType_Get(p), rfc2866.AcctSessionID_GetString(p)))
}

func lines(f *fakeServer) (out []string) {
	for _, p := range f.packets() {
		if p.Code == radius.CodeAccountingRequest {
			out = append(out, line(p))
		}
	}
	return out
}

func TestAccountingRecords(t *testing.T) {
	f := newFake(t, confirms)
	c := newClient(t, Config{Interim: time.Minute}, f.server())
	s := &aaa.Session{
		ID: "s-1", User: "alice", Peer: netip.MustParseAddr("198.51.100.7"), Local: netip.MustParseAddr("192.0.2.9"),
		Port: 7, IP: netip.MustParseAddr("10.9.0.4"), InterfaceID: 0x0102030405060708,
		Grant: aaa.Grant{
			Remote: true, Class: [][]byte{[]byte("gold"), []byte("x")},
			Routes:    []netip.Prefix{netip.MustParsePrefix("10.5.0.0/16")},
			Delegated: []netip.Prefix{netip.MustParsePrefix("2001:db8:5::/48")},
		},
	}
	u := aaa.Usage{RxPackets: 3, RxBytes: 5<<32 + 6, TxPackets: 7, TxBytes: 8, Time: 90 * time.Second}
	c.On()
	c.Start(s)
	c.Update(s, u)
	c.Stop(s, u, aaa.CauseIdleTimeout)
	if err := c.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(lines(f), ", "); got != "Accounting-On, Start s-1, Interim-Update s-1, Stop s-1, Accounting-Off" {
		t.Error(got)
	}
	for _, p := range f.packets() {
		if at := rfc2869.EventTimestamp_Get(p); time.Since(at).Abs() > time.Hour || rfc2865.NASIdentifier_GetString(p) != "nas" {
			t.Errorf("%s of %v", line(p), at)
		}
		if line(p) != "Stop s-1" {
			continue
		}
		classes, _ := rfc2865.Class_Gets(p)
		got := fmt.Sprintln(rfc2865.UserName_GetString(p), rfc2865.FramedIPAddress_Get(p), rfc2866.AcctAuthentic_Get(p),
			uint32(rfc2866.AcctInputOctets_Get(p)), uint32(rfc2869.AcctInputGigawords_Get(p)), uint32(rfc2866.AcctInputPackets_Get(p)),
			uint32(rfc2866.AcctOutputOctets_Get(p)), uint32(rfc2869.AcctOutputGigawords_Get(p)), uint32(rfc2866.AcctOutputPackets_Get(p)),
			uint32(rfc2866.AcctSessionTime_Get(p)), rfc2866.AcctTerminateCause_Get(p), string(classes[0]), string(classes[1]),
			rfc2865.FramedRoute_GetString(p), rfc2865.CallingStationID_GetString(p))
		if want := "alice 10.9.0.4 RADIUS 6 5 3 8 0 7 90 Idle-Timeout gold x 10.5.0.0/16 198.51.100.7\n"; got != want {
			t.Errorf("got  %swant %s", got, want)
		}
	}
	if st := c.Status().Book; st.Confirmed != 5 || st.Pending != 0 || st.Lost != 0 {
		t.Errorf("%+v", st)
	}
}

func TestInterimTime(t *testing.T) {
	f := newFake(t, confirms)
	c := newClient(t, Config{Interim: time.Hour}, f.server())
	seen := map[time.Duration]bool{}
	for range 100 {
		d, e := c.Interim(&aaa.Grant{}), c.Interim(&aaa.Grant{Interim: 10 * time.Minute})
		if d < 54*time.Minute || d > 66*time.Minute || e < 9*time.Minute || e > 11*time.Minute {
			t.Fatal(d, e)
		}
		seen[d] = true
	}
	if len(seen) < 50 {
		t.Error("no jitter")
	}
	if d := newClient(t, Config{}, f.server()).Interim(&aaa.Grant{}); d != 0 {
		t.Error(d)
	}
}

// A server that is away gets everything when it is back: in order, updates
// merged, told how late it is; a flush does not wait for the pause to end.
func TestAccountingWaits(t *testing.T) {
	var up atomic.Bool
	f := newFake(t, func(r *radius.Packet) *radius.Packet {
		if up.Load() && r.Code == radius.CodeAccountingRequest {
			return confirms(r)
		}
		return nil
	})
	c := newClient(t, Config{Timeout: 10 * time.Millisecond, Tries: 1}, f.server())
	var late atomic.Int64
	c.now = func() time.Time { return time.Now().Add(time.Duration(late.Load())) }
	a, b := &aaa.Session{ID: "a"}, &aaa.Session{ID: "b"}
	c.Start(a)
	until(t, "no answer", func() bool { return c.Status().Servers[1].Timeouts > 0 })
	for range 5 {
		c.Update(a, aaa.Usage{})
	}
	c.Start(b)
	c.Stop(a, aaa.Usage{}, aaa.CauseUserRequest)
	if st := c.Status().Book; st.Pending != 4 || st.Merged != 4 || st.Confirmed != 0 {
		t.Errorf("%+v", st)
	}
	late.Store(int64(100 * time.Second))
	up.Store(true)
	before := f.count()
	if err := c.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	var ofA []string
	for _, p := range f.packets()[before:] {
		if id := rfc2866.AcctSessionID_GetString(p); id == "a" {
			ofA = append(ofA, line(p))
		}
		if d := rfc2866.AcctDelayTime_Get(p); d < 100 || d > 200 {
			t.Errorf("%s is %d s late", line(p), d)
		}
	}
	if got := strings.Join(ofA, ", "); got != "Start a, Interim-Update a, Stop a" {
		t.Error(got)
	}
	if st := c.Status().Book; st.Pending != 0 || st.Confirmed != 4 || st.Lost != 0 {
		t.Errorf("%+v", st)
	}
}

// What is kept is bounded; updates leave room for what matters more; what was
// lost is counted; the end is waited for, not forever.
func TestAccountingBounds(t *testing.T) {
	f := newFake(t, func(*radius.Packet) *radius.Packet { return nil })
	c := newClient(t, Config{Timeout: time.Minute, Records: 10}, f.server())
	for i := range 8 {
		c.Update(&aaa.Session{ID: fmt.Sprint(i)}, aaa.Usage{})
	}
	if st := c.Status().Book; st.Pending != 5 || st.Lost != 3 {
		t.Errorf("updates: %+v", st)
	}
	for i := range 8 {
		c.Start(&aaa.Session{ID: fmt.Sprint(i)})
	}
	if st := c.Status().Book; st.Pending != 10 || st.Lost != 6 {
		t.Errorf("all: %+v", st)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := c.Close(ctx); err == nil || err.Error() != "10 accounting records reached no server" {
		t.Error(err)
	}
	c.Start(&aaa.Session{})
	if st := c.Status().Book; st.Pending != 0 || st.Lost != 17 {
		t.Errorf("after the end: %+v", st)
	}
}

// A record that no packet can hold is lost; those behind it are not.
func TestAccountingImpossibleRecord(t *testing.T) {
	f := newFake(t, confirms)
	c := newClient(t, Config{}, f.server())
	s := &aaa.Session{ID: "long", User: strings.Repeat("x", 300)}
	c.Start(s)
	c.Start(&aaa.Session{ID: "short"})
	if err := c.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	if st := c.Status().Book; st.Lost != 1 || st.Confirmed != 1 || strings.Join(lines(f), ",") != "Start short" {
		t.Errorf("%+v %v", st, lines(f))
	}
}

func TestChain(t *testing.T) {
	var up atomic.Bool
	f := newFake(t, func(r *radius.Packet) *radius.Packet {
		switch {
		case !up.Load():
			return nil
		case rfc2865.UserName_GetString(r) == "bob":
			return sign(r.Response(radius.CodeAccessReject))
		}
		return accepts(r)
	})
	c := newClient(t, Config{Timeout: 10 * time.Millisecond, Tries: 1}, f.server())
	after := fixedAnswer(aaa.Result{User: "after"})
	unknown := fixedAnswer(aaa.Result{Err: aaa.ErrUnknownUser})
	wrong := fixedAnswer(aaa.Result{Err: aaa.ErrWrongSecret})
	for _, s := range []struct {
		up    bool
		user  string
		links []aaa.Authenticator
		want  string
	}{
		{true, "alice", []aaa.Authenticator{c, after}, "alice"},
		{true, "bob", []aaa.Authenticator{c, after}, ""}, // a refusal is an answer
		{false, "alice", []aaa.Authenticator{c, after}, "after"},
		{true, "alice", []aaa.Authenticator{unknown, c}, "alice"},
		{true, "alice", []aaa.Authenticator{wrong, c}, ""},
		{true, "alice", []aaa.Authenticator{unknown, unknown, after}, "after"},
		{true, "alice", []aaa.Authenticator{unknown}, ""},
	} {
		up.Store(s.up)
		got := make(chan aaa.Result, 2)
		aaa.Chain(s.links...).Authenticate(context.Background(), pap(s.user), func(r aaa.Result) { got <- r })
		if r := <-got; r.User != s.want || (r.Err == nil) != (s.want != "") {
			t.Errorf("%+v: %+v", s, r)
		}
	}
}

type fixedAnswer aaa.Result

func (f fixedAnswer) Authenticate(_ context.Context, _ *aaa.Request, done func(aaa.Result)) {
	done(aaa.Result(f))
}
