package radius

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"layeh.com/radius"
	"layeh.com/radius/rfc2865"
	"layeh.com/radius/rfc2869"
	"layeh.com/radius/rfc3576"

	"xpptp/control/aaa"
)

// fakeSessions notes what it is told to do.
type fakeSessions struct {
	mu    sync.Mutex
	found int
	calls []string
}

func (f *fakeSessions) note(format string, args ...any) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
	return f.found
}

func (f *fakeSessions) Disconnect(s aaa.Selector, done func(int)) {
	done(f.note("disconnect %q %q %v %q", s.Session, s.User, s.IP, s.Peer))
}

func (f *fakeSessions) Change(s aaa.Selector, c aaa.Change, done func(int)) {
	var g aaa.Grant
	c.Apply(&g)
	done(f.note("change %q %q: %v %v %v %v", s.Session, s.User, g.SessionTimeout, g.IdleTimeout, g.Interim, g.Rate))
}

func (f *fakeSessions) find(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.found = n
}

func (f *fakeSessions) done() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.calls...)
}

func listen(t testing.TB, cfg DynConfig) (*Listener, *fakeSessions) {
	t.Helper()
	cfg.Listen = netip.MustParseAddrPort("127.0.0.1:0")
	if cfg.Clients == nil {
		cfg.Clients = map[netip.Addr]aaa.Secret{netip.MustParseAddr("127.0.0.1"): aaa.NewSecret(testSecret)}
	}
	cfg.NAS = NAS{Identifier: "nas", Address: netip.MustParseAddr("192.0.2.9")}
	f := &fakeSessions{found: 1}
	l, err := Listen(cfg, f, quiet())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l, f
}

// request makes a request with an Event-Timestamp of now.
func request(code radius.Code, attrs ...attr) *radius.Packet {
	p := radius.New(code, []byte(testSecret))
	_ = rfc2869.EventTimestamp_Add(p, time.Now())
	for _, a := range attrs {
		a.addTo(p)
	}
	return p
}

// exchange sends a request by layeh's client, which verifies the answer.
func exchangeWith(t testing.TB, l *Listener, p *radius.Packet) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := radius.Exchange(ctx, p, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s := r.Code.String()
	if c, err := rfc3576.ErrorCause_Lookup(r); err == nil {
		s += " " + c.String()
	}
	for _, a := range all(r, rfc2865.ProxyState_Type) {
		s += " " + string(a)
	}
	return s
}

func TestDynamicRequests(t *testing.T) {
	const disconnect, coa = radius.CodeDisconnectRequest, radius.CodeCoARequest
	user := attr{0, 1, "alice"}
	for _, c := range []struct {
		name   string
		p      *radius.Packet
		answer string
		done   string
	}{
		{"by user", request(disconnect, user), "Disconnect-ACK", `disconnect "" "alice" invalid IP ""`},
		{"by all", request(disconnect, user, attr{0, 44, "s1"}, attr{0, 8, "\x0a\x00\x00\x01"}, attr{0, 31, "1.2.3.4"}), "Disconnect-ACK", `disconnect "s1" "alice" 10.0.0.1 "1.2.3.4"`},
		{"proxied", request(disconnect, user, attr{0, 33, "p1"}, attr{0, 33, "p2"}), "Disconnect-ACK p1 p2", `disconnect "" "alice" invalid IP ""`},
		{"for us", request(disconnect, user, attr{0, 32, "nas"}, attr{0, 4, "\xc0\x00\x02\x09"}), "Disconnect-ACK", `disconnect "" "alice" invalid IP ""`},
		{"for another", request(disconnect, user, attr{0, 32, "other"}), "Disconnect-NAK NAS-Identification-Mismatch", ""},
		{"for another address", request(disconnect, user, attr{0, 4, "\xc0\x00\x02\x0a"}), "Disconnect-NAK NAS-Identification-Mismatch", ""},
		{"for nobody", request(disconnect), "Disconnect-NAK Missing-Attribute", ""},
		{"a change in a disconnect", request(disconnect, user, attr{0, 27, u32(5)}), "Disconnect-NAK Unsupported-Attribute", ""},
		{"a rate in a disconnect", request(disconnect, user, attr{14122, 7, u32(5)}), "Disconnect-NAK Unsupported-Attribute", ""},
		{"authorize only", request(coa, user, attr{0, 6, u32(17)}), "CoA-NAK Unsupported-Service", ""},
		{"time-outs", request(coa, user, attr{0, 27, u32(5)}, attr{0, 28, u32(6)}, attr{0, 85, u32(90)}), "CoA-ACK", `change "" "alice": 5s 6s 1m30s {0 0}`},
		{"rates", request(coa, attr{0, 44, "s1"}, attr{14122, 7, u32(5)}, attr{14122, 8, u32(6)}), "CoA-ACK", `change "s1" "": 0s 0s 0s {5 6}`},
		{"MikroTik", request(coa, attr{0, 44, "s1"}, attr{14988, 8, "1k/2k"}), "CoA-ACK", `change "s1" "": 0s 0s 0s {1000 2000}`},
		{"nothing", request(coa, user), "CoA-NAK Missing-Attribute", ""},
		{"unknown", request(coa, user, attr{0, 27, u32(5)}, attr{0, 88, "pool"}), "CoA-NAK Unsupported-Attribute", ""},
		{"unknown of a vendor", request(coa, user, attr{0, 27, u32(5)}, attr{9, 1, "x"}), "CoA-NAK Unsupported-Attribute", ""},
		{"malformed", request(coa, user, attr{0, 27, "x"}), "CoA-NAK Invalid-Attribute-Value", ""},
		{"malformed rate", request(coa, user, attr{14988, 8, "x"}), "CoA-NAK Invalid-Attribute-Value", ""},
		{"malformed address", request(disconnect, attr{0, 8, "x"}), "Disconnect-NAK Invalid-Attribute-Value", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, f := listen(t, DynConfig{})
			if got := exchangeWith(t, l, c.p); got != c.answer {
				t.Errorf("answer %s, want %s", got, c.answer)
			}
			if got := strings.Join(f.done(), "; "); got != c.done {
				t.Errorf("done %s, want %s", got, c.done)
			}
		})
	}
}

func TestDynamicNotFound(t *testing.T) {
	l, f := listen(t, DynConfig{})
	f.find(0)
	if got := exchangeWith(t, l, request(radius.CodeDisconnectRequest, attr{0, 1, "x"})); got != "Disconnect-NAK Session-Context-Not-Found" {
		t.Error(got)
	}
	f.find(3)
	if got := exchangeWith(t, l, request(radius.CodeDisconnectRequest, attr{0, 1, "x"})); got != "Disconnect-ACK" {
		t.Error(got)
	}
	if n := l.Counters(); n.Disconnects != 3 || n.Refused != 1 {
		t.Errorf("%+v", n)
	}
}

// input hands a datagram to the listener and returns the answers that come.
func input(l *Listener, b []byte, from string) (answers chan []byte) {
	answers = make(chan []byte, 4)
	l.handle(b, netip.MustParseAddrPort(from), func(b []byte) { answers <- b })
	return answers
}

func TestDynamicReplay(t *testing.T) {
	for _, untimed := range []bool{false, true} {
		l, f := listen(t, DynConfig{Window: time.Minute, AllowUntimed: untimed})
		now := time.Now()
		l.now = func() time.Time { return now }
		p := radius.New(radius.CodeDisconnectRequest, []byte(testSecret))
		attr{0, 1, "alice"}.addTo(p)
		if !untimed {
			_ = rfc2869.EventTimestamp_Add(p, now)
		}
		b, err := p.Encode()
		if err != nil {
			t.Fatal(err)
		}
		first := <-input(l, b, "127.0.0.1:5000")
		// The same again, from wherever on that host: the same answer, no effect.
		again := <-input(l, b, "127.0.0.1:5001")
		if string(first) != string(again) || radius.Code(first[0]) != radius.CodeDisconnectACK || len(f.done()) != 1 || l.Counters().Copies != 1 {
			t.Errorf("copy: %x, %x, %v", first, again, f.done())
		}
		// Within the time that the timestamp is good for, a copy is known.
		now = now.Add(2 * time.Minute)
		if <-input(l, b, "127.0.0.1:5000"); len(f.done()) != 1 {
			t.Error("repeated after two windows")
		}
		// Later it is too old; without a timestamp nothing stops it.
		now = now.Add(time.Second)
		late := <-input(l, b, "127.0.0.1:5000")
		want := 1
		if untimed {
			want = 2
		}
		if len(f.done()) != want || (radius.Code(late[0]) == radius.CodeDisconnectACK) != untimed {
			t.Errorf("untimed %v: later: %x, %v", untimed, late, f.done())
		}
	}
}

func TestDynamicTimestamps(t *testing.T) {
	l, f := listen(t, DynConfig{Window: time.Minute})
	now := time.Now().Truncate(time.Second)
	l.now = func() time.Time { return now }
	for d, want := range map[time.Duration]radius.Code{
		0: radius.CodeDisconnectACK, time.Minute: radius.CodeDisconnectACK, -time.Minute: radius.CodeDisconnectACK,
		61 * time.Second: radius.CodeDisconnectNAK, -61 * time.Second: radius.CodeDisconnectNAK,
	} {
		p := radius.New(radius.CodeDisconnectRequest, []byte(testSecret))
		attr{0, 1, "alice"}.addTo(p)
		_ = rfc2869.EventTimestamp_Add(p, now.Add(d))
		b, _ := p.Encode()
		if a := <-input(l, b, "127.0.0.1:5000"); radius.Code(a[0]) != want {
			t.Errorf("%v away: %v", d, radius.Code(a[0]))
		}
	}
	p := radius.New(radius.CodeDisconnectRequest, []byte(testSecret))
	attr{0, 1, "alice"}.addTo(p)
	b, _ := p.Encode()
	if a := <-input(l, b, "127.0.0.1:5000"); radius.Code(a[0]) != radius.CodeDisconnectNAK {
		t.Error("taken without a timestamp")
	}
	p.Add(rfc2869.EventTimestamp_Type, radius.Attribute("x"))
	b, _ = p.Encode()
	if a := <-input(l, b, "127.0.0.1:5000"); radius.Code(a[0]) != radius.CodeDisconnectNAK {
		t.Error("taken with a malformed timestamp")
	}
	if len(f.done()) != 3 {
		t.Error(f.done())
	}
}

// Requests that are none get no answer and are counted.
func TestDynamicStrangers(t *testing.T) {
	l, f := listen(t, DynConfig{})
	good, _ := request(radius.CodeDisconnectRequest, attr{0, 1, "alice"}).Encode()
	forged := append([]byte(nil), good...)
	forged[len(forged)-1] ^= 1
	signed := request(radius.CodeDisconnectRequest, attr{0, 1, "alice"}, attr{0, 80, strings.Repeat("x", 16)})
	badMAC, _ := signed.Encode()
	access, _ := request(radius.CodeAccessRequest).Encode()
	for _, c := range []struct {
		b    []byte
		from string
		n    func(DynCounters) uint64
	}{
		{good, "127.0.0.2:5000", func(n DynCounters) uint64 { return n.Foreign }},
		{forged, "127.0.0.1:5000", func(n DynCounters) uint64 { return n.Forged }},
		{badMAC, "127.0.0.1:5000", func(n DynCounters) uint64 { return n.Forged }},
		{access, "127.0.0.1:5000", func(n DynCounters) uint64 { return n.Malformed }},
		{good[:19], "127.0.0.1:5000", func(n DynCounters) uint64 { return n.Malformed }},
	} {
		before := c.n(l.Counters())
		if a := input(l, c.b, c.from); len(a) != 0 || c.n(l.Counters()) != before+1 {
			t.Errorf("from %s: %d answers, %+v", c.from, len(a), l.Counters())
		}
	}
	if len(f.done()) != 0 {
		t.Error(f.done())
	}
}

// A right Message-Authenticator in a request counts for nothing more, and is
// computed with a zero Authenticator.
func TestDynamicSigned(t *testing.T) {
	l, f := listen(t, DynConfig{})
	p := request(radius.CodeDisconnectRequest, attr{0, 1, "alice"}, attr{0, 80, strings.Repeat("\x00", 16)})
	p.Authenticator = [16]byte{}
	b, _ := p.MarshalBinary()
	mac := messageAuthenticator(b, [16]byte{}, len(b)-16, p.Secret)
	copy(p.Attributes[len(p.Attributes)-1].Attribute, mac[:])
	if got := exchangeWith(t, l, p); got != "Disconnect-ACK" || len(f.done()) != 1 {
		t.Error(got, f.done())
	}
}

// Whatever octets come: no panic, no answer without the secret, and one answer
// with it.
func FuzzCoA(f *testing.F) {
	for _, p := range []*radius.Packet{
		request(radius.CodeDisconnectRequest, attr{0, 1, "alice"}),
		request(radius.CodeCoARequest, attr{0, 44, "s"}, attr{0, 27, u32(9)}, attr{14988, 8, "1k/2k"}, attr{14122, 8, u32(9)}),
	} {
		b, err := p.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{40, 0, 0, 20, 19: 0})
	l, act := listen(f, DynConfig{AllowUntimed: true})
	f.Fuzz(func(t *testing.T, b []byte) {
		act.mu.Lock()
		act.calls = nil
		act.mu.Unlock()
		if a := input(l, b, "127.0.0.1:5000"); len(a) != 0 {
			t.Fatal("answered without the secret")
		}
		p, err := radius.Parse(b, []byte(testSecret))
		if err != nil {
			return
		}
		p.Code = radius.CodeCoARequest
		if len(b) > 0 && b[0]&1 == 0 {
			p.Code = radius.CodeDisconnectRequest
		}
		p.Attributes.Del(macType)
		wire, err := p.Encode()
		if err != nil {
			return
		}
		l.mu.Lock()
		l.answers, l.order = make(map[copyKey]*answer), nil
		l.mu.Unlock()
		select {
		case a := <-input(l, wire, "127.0.0.1:5000"):
			r, err := radius.Parse(a, []byte(testSecret))
			if err != nil || !radius.IsAuthenticResponse(a, wire, []byte(testSecret)) || r.Identifier != p.Identifier {
				t.Fatalf("answer %x: %v", a, err)
			}
		case <-time.After(patience):
			t.Fatal("no answer")
		}
	})
}
