package manners

import (
	"errors"
	"math"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"xpptp/control/config"
	"xpptp/control/stress"
	"xpptp/engine/wire"
	"xpptp/rings"
)

func TestScenarios(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range Scenarios() {
		if s.Name == "" || s.Does == "" || s.Should == "" || s.run == nil || strings.HasSuffix(s.Does, ".") {
			t.Errorf("%q is not complete", s.Name)
		}
		if seen[s.Name] {
			t.Errorf("%s is there twice", s.Name)
		}
		seen[s.Name] = true
	}
	some, err := Find([]string{"path-loss", "bad-cookie"})
	if err != nil || len(some) != 2 || some[0].Name != "bad-cookie" {
		t.Errorf("%v, %v", some, err)
	}
	if _, err := Find([]string{"bad-cookie", "good-cookie"}); err == nil || !strings.Contains(err.Error(), `"good-cookie"`) {
		t.Errorf("%v", err)
	}
}

func TestOptions(t *testing.T) {
	good := Options{Time: time.Second, PPS: 1000}
	for _, c := range []struct {
		change func(*Options)
		want   string
	}{
		{func(*Options) {}, ""},
		{func(o *Options) { o.Time = time.Millisecond }, "time: 1ms"},
		{func(o *Options) { o.Time = time.Hour }, "time: 1h"},
		{func(o *Options) { o.PPS = 0 }, ""},
		{func(o *Options) { o.PPS = -1 }, "pps: -1"},
		{func(o *Options) { o.PPS = math.NaN() }, "pps: NaN"},
		{func(o *Options) { o.PPS = 1e9 }, "pps: 1e+09"},
	} {
		o := good
		c.change(&o)
		if err := o.Check(); c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}

// A server that nobody allowed gets no packet.
func TestRefused(t *testing.T) {
	plan := config.DefaultStress()
	plan.Server = "192.0.2.1"
	plan.Source = nil
	plan.PasswordFile = t.TempDir() + "/password"
	if err := os.WriteFile(plan.PasswordFile, []byte("x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Run(t.Context(), &Options{Plan: plan, Time: time.Second, PPS: 1}, Scenarios())
	var refused *stress.RefusedError
	if !errors.As(err, &refused) {
		if strings.Contains(err.Error(), "no route") {
			t.Skipf("this host has no network: %v", err)
		}
		t.Errorf("%v", err)
	}
}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		name string
		out  Outcome
		want string
	}{
		{"lost", Outcome{Beside: Beside{Sent: 9, Lost: 1}}, "of 9 packets of the calls beside 1 were lost"},
		{"harmed", Outcome{Beside: Beside{Sent: 9, Lost: 1}, Harmed: 1}, ""},
		{"more than harmed", Outcome{Beside: Beside{Sent: 9, Lost: 2}, Harmed: 1}, "2 were lost"},
		{"twice", Outcome{Beside: Beside{Sent: 9, Duplicated: 1}, Harmed: 5}, "1 duplicated"},
		{"corrupted", Outcome{Beside: Beside{Sent: 9, Corrupted: 1}}, "1 corrupted"},
		{"calls", Outcome{Beside: Beside{Calls: 5, LostCalls: 2, Sent: 9}}, "2 of 5 calls beside were lost: connection-lost 2"},
		{"silence", Outcome{}, ""},
	} {
		out := c.out
		out.judge([]string{"connection-lost 2"})
		got := strings.Join(out.Faults, "; ")
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestProcess(t *testing.T) {
	p := process(os.Getpid())
	before := p.files()
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	if n := p.files(); n <= before || before == 0 {
		t.Errorf("%d files, %d before another was opened", n, before)
	}
	f.Close()
	if m := p.memory(); m < 1<<20 {
		t.Errorf("%d bytes of memory", m)
	}
	if p := process(1 << 30); p.files() != 0 || p.memory() != 0 {
		t.Error("a process that is not there has something")
	}
}

// wireEnd is a port that sends to a list and receives from one.
type wireEnd struct {
	rings.Port
	pool *rings.Pool
	link rings.Link
	room int // how many it takes at a time
	sent [][]byte
	come [][]byte
}

func (w *wireEnd) Info() rings.Info { return rings.Info{Link: w.link} }
func (w *wireEnd) Flush() error     { return nil }

func (w *wireEnd) Send(fs []*rings.Frame) (int, error) {
	n := min(w.room, len(fs))
	for _, f := range fs[:n] {
		w.sent = append(w.sent, append([]byte(nil), f.Data()...))
		f.Free()
	}
	return n, nil
}

func (w *wireEnd) Recv(fs []*rings.Frame) (int, error) {
	n := min(len(fs), len(w.come))
	for i := range n {
		fs[i] = w.pool.Get()
		fs[i].Set(w.come[i])
	}
	w.come = w.come[n:]
	return n, nil
}

// packet of a call, numbered.
func packet(link rings.Link, call uint16, seq uint32) []byte {
	b := make([]byte, 100)
	off := 0
	if link == rings.LinkEthernet {
		off = wire.PutEthernet(b, [6]byte{}, [6]byte{}, wire.EtherTypeIPv4)
	}
	a := netip.MustParseAddr("192.0.2.1").As4()
	off += wire.PutIPv4(b[off:], &wire.IPv4Fields{TTL: 9, Protocol: wire.ProtoGRE, Src: a, Dst: a, PayloadLen: 12 + 8})
	off += wire.PutGRE(b[off:], call, 8, seq, true, 0, false)
	return b[:off+8]
}

// What a path does to the calls it harms, it does to nobody else, it counts,
// and it loses no frame.
func TestPath(t *testing.T) {
	const bad, good, n = 7, 8, 600
	for _, link := range []rings.Link{rings.LinkEthernet, rings.LinkIP} {
		for _, c := range []struct {
			name           string
			harm           harm
			least, most    int // of n packets of the bad call that get through
			counted, twice uint64
			altered        bool
		}{
			{"nothing", harm{}, n, n, 0, 0, false},
			{"all lost", harm{lose: 1000}, 0, 0, n, 0, false},
			{"some lost", harm{lose: 100}, 480, 594, 0, 0, false},
			{"damaged", harm{damage: 1000}, n, n, n, 0, true},
			{"delayed", harm{delay: 1000, late: time.Second}, n, n, 0, 0, false},
			{"twice", harm{repeat: 1000, late: time.Second}, n + maxHeld, 2 * n, 0, 0, false},
		} {
			pool := rings.NewPoolN(4096, rings.ChunkSmall)
			end := &wireEnd{pool: pool, link: link, room: 17}
			now := time.Unix(1, 0)
			var h atomic.Pointer[harm]
			count := &harmCount{}
			p := &path{
				Port: end, pool: pool, rng: rand.New(rand.NewPCG(1, 2)), now: func() time.Time { return now }, harm: &h, count: count,
			}
			c.harm.sent, c.harm.received = map[uint16]bool{bad: true}, map[uint16]bool{bad: true}
			h.Store(&c.harm)
			var received [][]byte
			in := make([]*rings.Frame, 64)
			for i := range n {
				for _, call := range []uint16{bad, good} {
					f := pool.Get()
					f.Set(packet(link, call, uint32(i)))
					if k, err := p.Send([]*rings.Frame{f}); k != 1 || err != nil {
						t.Fatal(k, err)
					}
					end.come = append(end.come, packet(link, call, uint32(i)))
				}
				rounds := 1
				if i == n-1 { // whatever was late is due
					now = now.Add(time.Minute)
					rounds = 20
				}
				for range rounds {
					_ = p.Flush()
					k, _ := p.Recv(in)
					for _, f := range in[:k] {
						received = append(received, append([]byte(nil), f.Data()...))
						f.Free()
					}
				}
			}
			for way, list := range map[string][][]byte{"sent": end.sent, "received": received} {
				got := map[uint16]int{}
				altered, next := 0, uint32(0)
				for _, b := range list {
					if link == rings.LinkEthernet {
						b = b[wire.EthernetLen:]
					}
					g, d := wire.ParseGRE(b[wire.IPv4Len:])
					if d != 0 {
						t.Fatal(d)
					}
					got[g.CallID()]++
					if string(g.Payload()) != string(make([]byte, 8)) {
						altered++
					}
					if g.CallID() == good {
						if g.Seq() != next {
							t.Fatalf("%s: %s: the good call's packet %d comes after %d", c.name, way, g.Seq(), next)
						}
						next++
					}
				}
				if got[good] != n || got[bad] < c.least || got[bad] > c.most {
					t.Errorf("%s: %s: %d of the good call, %d of the bad one", c.name, way, got[good], got[bad])
				}
				if c.altered != (altered > 0) || altered > n {
					t.Errorf("%s: %s: %d altered", c.name, way, altered)
				}
			}
			if c.counted > 0 && count.harmed.Load() != 2*c.counted {
				t.Errorf("%s: counted %d, want %d", c.name, count.harmed.Load(), 2*c.counted)
			}
			if pool.Free() != pool.Size() {
				t.Errorf("%s: %d of %d frames are back", c.name, pool.Free(), pool.Size())
			}
		}
	}
}

// A port that is full gets later what it did not take, in order.
func TestPathFull(t *testing.T) {
	pool := rings.NewPoolN(64, rings.ChunkSmall)
	end := &wireEnd{pool: pool, link: rings.LinkIP}
	var h atomic.Pointer[harm]
	h.Store(&harm{sent: map[uint16]bool{}})
	p := &path{Port: end, pool: pool, now: time.Now, harm: &h, count: &harmCount{}}
	var fs []*rings.Frame
	for i := range 10 {
		f := pool.Get()
		f.Set(packet(rings.LinkIP, 1, uint32(i)))
		fs = append(fs, f)
	}
	end.room = 4
	if n, err := p.Send(fs); n != 10 || err != nil {
		t.Fatal(n, err)
	}
	end.room = 0
	_ = p.Flush()
	if len(end.sent) != 4 {
		t.Errorf("%d sent", len(end.sent))
	}
	end.room = 100
	_ = p.Flush()
	for i, b := range end.sent {
		if g, _ := wire.ParseGRE(b[wire.IPv4Len:]); g.Seq() != uint32(i) {
			t.Errorf("packet %d is number %d", i, g.Seq())
		}
	}
	if len(end.sent) != 10 || pool.Free() != 64 {
		t.Errorf("%d sent, %d frames free", len(end.sent), pool.Free())
	}
}
