package api

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"xpptp/control"
	"xpptp/engine"
	"xpptp/workers"
)

func TestSelection(t *testing.T) {
	for query, want := range map[string]control.Selection{
		"":                       {},
		"user=alice":             {User: "alice"},
		"ip=10.0.0.7&user=a+b":   {User: "a b", IP: netip.MustParseAddr("10.0.0.7")},
		"ip=::ffff:10.0.0.7":     {IP: netip.MustParseAddr("10.0.0.7")},
		"ip=fe80::1&call=65535":  {IP: netip.MustParseAddr("fe80::1"), Call: 65535},
		"peer=192.0.2.1&call=1":  {Peer: netip.MustParseAddr("192.0.2.1"), Call: 1},
		"session=5f00-00-a%26b=": {Session: "5f00-00-a&b="},
	} {
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if s, err := ParseSelection(q); err != nil || s != want {
			t.Errorf("%q: %+v, %v", query, s, err)
		}
	}
	for query, want := range map[string]string{
		"usr=alice":           `"usr" is none of call, ip, peer, session, user`,
		"user=":               `user: one value is needed, not 1`,
		"user=a&user=b":       `user: one value is needed, not 2`,
		"call=0":              `call: "0" is not a call ID, 1 to 65535`,
		"call=65536":          `call: "65536" is not a call ID, 1 to 65535`,
		"ip=10.0.0":           `ip: "10.0.0" is not an IP address`,
		"peer=fe80::1%25eth0": `peer: "fe80::1%eth0" is not an IP address`,
	} {
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if s, err := ParseSelection(q); err == nil || err.Error() != want {
			t.Errorf("%q: %+v, %v, want %s", query, s, err, want)
		}
	}
}

// What is parsed reads back the same, and a request that names the same means
// the same.
func FuzzSelection(f *testing.F) {
	f.Add("user=alice&ip=10.0.0.7&peer=192.0.2.1&call=4711&session=5f-00-1")
	f.Add("ip=fe80::1")
	f.Add("user=%00%ff&call=07")
	f.Fuzz(func(t *testing.T, query string) {
		q, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		s, err := ParseSelection(q)
		if err != nil {
			return
		}
		if back, err := ParseSelection(Query(s)); err != nil || back != s {
			t.Errorf("%q: %+v, then %+v, %v", query, s, back, err)
		}
		get := func(key string) string { return Query(s).Get(key) }
		r := TerminateRequest{User: get("user"), IP: get("ip"), Peer: get("peer"), Call: get("call"), Session: get("session")}
		r.All = s == (control.Selection{})
		if same, err := r.selection(); err != nil || same != s {
			t.Errorf("%+v: %+v, %v, want %+v", r, same, err, s)
		}
	})
}

// The keys are a promise.
func TestKeys(t *testing.T) {
	st := workers.State{Drops: engine.Counters{engine.BadGRE: 2}}
	for want, v := range map[string]any{
		"age_seconds auth call_id cipher drops duplicate local lost mtu peer peer_call_id rate_down rate_up reordered rx_bytes rx_packets state tx_bytes tx_packets user worker":                                            newSession(&control.CallState{}),
		"auth_failures_total calls calls_up_total connections drops_total foreign_connections_total pid ports protocol_errors_total refused_connections_total started state uptime_seconds version workers xdp_drops_total": Stat{},
		"backend name rx_bytes rx_dropped rx_packets tx_bytes tx_dropped tx_packets":                                                                                                                                        Port{},
		"reason total workers xdp": newDrops(engine.Counters{}, []workers.State{st}).Reasons[0],
		"batches_inside batches_outside busy_ns busy_polls calls cpu drops frames frames_free handed_over id idle_ns polls ports sleeps stages_ns taken_over": newWorker(&st, -1),
		"free name size used":                      Pool{},
		"inside io mtu outside text tuned workers": Plan{},
		"calls":                              Ended{},
		"calls done":                         Done{},
		"cpu id ports":                       PlanWorker{},
		"backend name queue":                 PlanPort{},
		"control gre mppe parse ppp rx tx":   newWorker(&st, 0).StagesNS,
		"all call hard ip peer session user": TerminateRequest{true, "u", "i", "p", "c", "s", true},
		"mode":                               ShutdownRequest{},
	} {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var keys map[string]json.RawMessage
		if err := json.Unmarshal(b, &keys); err != nil {
			t.Fatal(err)
		}
		var got []string
		for k := range keys {
			got = append(got, k)
		}
		slices.Sort(got)
		if strings.Join(got, " ") != want {
			t.Errorf("%T:\n%s, want\n%s", v, strings.Join(got, " "), want)
		}
	}
}

func TestDrops(t *testing.T) {
	a, b := workers.State{}, workers.State{}
	a.Drops[engine.BadGRE], b.Drops[engine.BadGRE], b.Drops[engine.PPPShort] = 2, 3, 7
	d := newDrops(engine.Counters{engine.BadGRE: 10}, []workers.State{a, b})
	if len(d.Reasons) != 2 || d.Reasons[0].Total != 15 || d.Reasons[0].XDP != 10 || !slices.Equal(d.Reasons[0].Workers, []uint64{2, 3}) ||
		d.Reasons[1].Reason != engine.PPPShort.String() || d.Reasons[1].Total != 7 {
		t.Errorf("%+v", d)
	}
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func serve(t *testing.T, path string, o Options) *Server {
	t.Helper()
	o.Log = quiet()
	s, err := Serve(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestSocket(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "run", "control.sock")
	s := serve(t, path, Options{Version: "1"})
	if fi, err := os.Lstat(path); err != nil || fi.Mode() != os.ModeSocket|0o600 {
		t.Fatal(fi.Mode(), err)
	}
	// One that lives is left alone.
	if _, err := Serve(path, Options{Log: quiet()}); err == nil || !strings.Contains(err.Error(), "is another running xpptp's") {
		t.Error(err)
	}
	var v string
	c := NewClient(path)
	if err := c.Get(context.Background(), "version", nil, &v); err != nil || v != "1" {
		t.Error(v, err)
	}
	c.Close()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Error("the socket is left:", err)
	}
	if err := c.Get(context.Background(), "version", nil, &v); err == nil || !strings.Contains(err.Error(), "no xpptp listens on "+path) {
		t.Error(err)
	}

	// One that a dead process has left is replaced.
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	_ = dead.Close()
	if err := c.Get(context.Background(), "version", nil, &v); err == nil || !strings.Contains(err.Error(), "no xpptp listens on "+path) {
		t.Error(err)
	}
	s = serve(t, path, Options{Version: "2"})
	if err := c.Get(context.Background(), "version", nil, &v); err != nil || v != "2" {
		t.Error(v, err)
	}
	c.Close()
	// What is no longer ours is not taken away.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := Serve(path, Options{Log: quiet()}); err == nil || !strings.HasSuffix(err.Error(), "is in the way: it is no socket") {
		t.Error(err)
	}
	if b, _ := os.ReadFile(path); string(b) != "precious" {
		t.Errorf("%q", b)
	}
	if _, err := Serve(filepath.Join(dir, strings.Repeat("x", 100)), Options{Log: quiet()}); err == nil || !strings.HasSuffix(err.Error(), ": longer than 103 bytes") {
		t.Error(err)
	}
}

// What cannot be done is answered with a status and a reason.
func TestRefusals(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	stops := make(chan bool, 4)
	s := serve(t, path, Options{Box: &control.Box{}, Stop: func(hard bool) { stops <- hard }})
	c := NewClient(path)
	t.Cleanup(c.Close)
	for _, r := range []struct {
		method, target, body string
		status               int
		want                 string
	}{
		{"GET", "/v2/stat", "", 404, "there is no GET /v2/stat"},
		{"DELETE", "/v1/sessions", "", 404, "there is no DELETE /v1/sessions"},
		{"GET", "/v1/terminate", "", 404, "there is no GET /v1/terminate"},
		{"GET", "/v1/sessions?usr=x", "", 400, `"usr" is none of call, ip, peer, session, user`},
		{"GET", "/v1/radius", "", 404, "no RADIUS server is configured"},
		{"POST", "/v1/terminate", "", 400, "either all, or some of call, ip, peer, session, user must be set"},
		{"POST", "/v1/terminate", `{"all":true,"user":"alice"}`, 400, "either all, or some of call, ip, peer, session, user must be set"},
		{"POST", "/v1/terminate", `{"user":7}`, 400, "body: json: cannot unmarshal number into Go struct field TerminateRequest.user of type string"},
		{"POST", "/v1/terminate", `{"usr":"alice"}`, 400, `body: json: unknown field "usr"`},
		{"POST", "/v1/terminate", `{"user":"alice"}{}`, 400, "body: more than one object"},
		{"POST", "/v1/terminate", `{"user":"` + strings.Repeat("a", maxBody) + `"}`, 400, "body: http: request body too large"},
		{"POST", "/v1/terminate", `{"user":"alice"}`, 404, "no such call"},
		{"POST", "/v1/shutdown", `{"mode":"now"}`, 400, `mode: "now" is none of soft, hard, cancel`},
		{"POST", "/v1/shutdown", `{"mode":"cancel"}`, 409, "nothing to cancel: new calls are taken"},
		{"POST", "/v1/drain", "", 404, "a client takes no calls: shut it down"},
		{"POST", "/v1/reload", "", 404, "there is nothing to reload"},
	} {
		req, err := http.NewRequest(r.method, "http://x"+r.target, strings.NewReader(r.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var e struct{ Error string }
		if err := json.NewDecoder(resp.Body).Decode(&e); err != nil || resp.StatusCode != r.status || e.Error != r.want {
			t.Errorf("%s %s: %d %q, %v, want %d %q", r.method, r.target, resp.StatusCode, e.Error, err, r.status, r.want)
		}
		_ = resp.Body.Close()
	}
	for _, mode := range []string{Soft, Hard} {
		var d Done
		if err := c.Post(context.Background(), "shutdown", &ShutdownRequest{mode}, &d); err != nil || !d.Done {
			t.Error(d, err)
		}
		if hard := <-stops; hard != (mode == Hard) {
			t.Errorf("%s: hard %v", mode, hard)
		}
	}
	c.Close()
	_ = s.Close()
}

// Who is silent, or asks forever, does not keep the server from ending, and a
// request that waits is told.
func TestClose(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	waits := make(chan struct{})
	s := serve(t, path, Options{Reload: func(ctx context.Context) error {
		close(waits)
		<-ctx.Done()
		return context.Cause(ctx)
	}})
	silent, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	told := make(chan error, 1)
	c := NewClient(path)
	defer c.Close()
	go func() { told <- c.Post(context.Background(), "reload", nil, &Done{}) }()
	<-waits
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-told:
		if err == nil || err.Error() != errClosing.Error() {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Error("nobody tells")
	}
}
