package radius

import (
	"context"
	"crypto/hmac"
	"crypto/md5"
	"io"
	"log"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"layeh.com/radius"

	"xpptp/control/aaa"
)

const (
	patience   = 30 * time.Second
	testSecret = "xyzzy5461"
)

// fakeServer is a RADIUS server on the loopback, by another hand than ours
// apart from the signing.
type fakeServer struct {
	addr netip.AddrPort
	mu   sync.Mutex
	got  []*radius.Packet // in order
	srv  *radius.PacketServer
}

// newFake answers each request with what respond returns; nil is silence.
func newFake(t testing.TB, respond func(r *radius.Packet) *radius.Packet) *fakeServer {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeServer{addr: conn.LocalAddr().(*net.UDPAddr).AddrPort()}
	f.srv = &radius.PacketServer{
		SecretSource: radius.StaticSecretSource([]byte(testSecret)),
		ErrorLog:     log.New(io.Discard, "", 0),
		Handler: radius.HandlerFunc(func(w radius.ResponseWriter, r *radius.Request) {
			f.mu.Lock()
			f.got = append(f.got, r.Packet)
			f.mu.Unlock()
			if p := respond(r.Packet); p != nil {
				_ = w.Write(p)
			}
		}),
	}
	done := make(chan struct{})
	go func() {
		_ = f.srv.Serve(conn)
		close(done)
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
	return f
}

func (f *fakeServer) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.got)
}

func (f *fakeServer) packets() []*radius.Packet {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]*radius.Packet(nil), f.got...)
}

// sign adds a Message-Authenticator to an answer; it must be the last thing
// done to it.
func sign(p *radius.Packet) *radius.Packet {
	p.Attributes = append(radius.Attributes{{Type: macType, Attribute: make([]byte, 16)}}, p.Attributes...)
	b, err := p.MarshalBinary() // with the request's authenticator
	if err != nil {
		panic(err)
	}
	h := hmac.New(md5.New, p.Secret)
	h.Write(b)
	p.Attributes[0].Attribute = h.Sum(nil)
	return p
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// server is the configuration of a fake.
func (f *fakeServer) server() Server {
	return Server{Auth: f.addr, Acct: f.addr, Secret: aaa.NewSecret(testSecret), Weight: 1}
}

func newClient(t testing.TB, cfg Config, servers ...Server) *Client {
	t.Helper()
	cfg.Servers = servers
	cfg.NAS.Identifier = "nas"
	c, err := New(cfg, quiet())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = c.Close(ctx)
	})
	return c
}

// ask authenticates and waits for the result.
func ask(t testing.TB, c *Client, r *aaa.Request) aaa.Result {
	t.Helper()
	got := make(chan aaa.Result, 2)
	c.Authenticate(context.Background(), r, func(res aaa.Result) { got <- res })
	select {
	case res := <-got:
		return res
	case <-time.After(patience):
		t.Fatal("no result")
		return aaa.Result{}
	}
}

func pap(name string) *aaa.Request {
	return &aaa.Request{Method: aaa.PAP, Name: name, Response: []byte("secret"), Session: "s1"}
}

func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func accepts(r *radius.Packet) *radius.Packet { return sign(r.Response(radius.CodeAccessAccept)) }
