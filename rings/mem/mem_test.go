package mem_test

import (
	"bytes"
	"slices"
	"testing"

	"xpptp/rings"
	"xpptp/rings/mem"
	"xpptp/rings/ringtest"
)

func TestConformance(t *testing.T) {
	for name, link := range map[string]rings.Link{"IP": rings.LinkIP, "Ethernet": rings.LinkEthernet} {
		t.Run(name, func(t *testing.T) {
			ringtest.Run(t, func(t *testing.T) *ringtest.Bench {
				pool := rings.NewPoolN(512, rings.ChunkSmall)
				p, peer := mem.Pair(mem.Config{Link: link, PoolA: pool})
				b := &ringtest.Bench{Port: p, Pool: pool, Ring: 256, Local: [4]byte{10, 0, 0, 1}, Remote: [4]byte{10, 0, 0, 2}}
				if link == rings.LinkEthernet {
					b.TxHeader = ringtest.Ethernet([6]byte{2, 2}, [6]byte{2, 1})
					b.RxHeader = ringtest.Ethernet([6]byte{2, 1}, [6]byte{2, 2})
				}
				b.Inject = func(d []byte) error { send(t, peer, d); return nil }
				b.Capture = func() []byte {
					fs := make([]*rings.Frame, 1)
					if n, _ := peer.Recv(fs); n == 0 {
						return nil
					}
					defer fs[0].Free()
					return bytes.Clone(fs[0].Data())
				}
				return b
			})
		})
	}
}

func send(t *testing.T, p *mem.Port, d []byte) {
	t.Helper()
	f := p.Pool().Get()
	if f == nil || !f.Set(d) {
		t.Fatalf("no frame for %d bytes", len(d))
	}
	if n, err := p.Send([]*rings.Frame{f}); n != 1 || err != nil {
		t.Fatalf("Send: %d, %v", n, err)
	}
	if err := p.Flush(); err != nil {
		t.Fatalf("Flush: %v", err)
	}
}

func recv(t *testing.T, p *mem.Port) (got []string) {
	t.Helper()
	fs := make([]*rings.Frame, 100)
	n, err := p.Recv(fs)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fs[:n] {
		got = append(got, string(f.Data()))
		f.Free()
	}
	return got
}

func TestSimulatedLink(t *testing.T) {
	type later struct {
		p       string
		deliver func([]byte)
	}
	var delayed []later
	a, b := mem.Pair(mem.Config{Link: rings.LinkIP, AtoB: func(p []byte, deliver func([]byte)) {
		switch p[0] {
		case 'l': // lost
		case 'd': // twice
			deliver(p)
			deliver(p)
		case 'r': // late
			delayed = append(delayed, later{string(p), deliver})
		default:
			deliver(p)
		}
	}})
	woken := 0
	b.SetWake(func() { woken++ })
	for _, p := range []string{"1", "lost", "double", "reordered", "2"} {
		send(t, a, []byte(p))
	}
	if got, want := recv(t, b), []string{"1", "double", "double", "2"}; !slices.Equal(got, want) {
		t.Errorf("received %q, want %q", got, want)
	}
	woken = 0
	delayed[0].deliver([]byte(delayed[0].p))
	if woken == 0 {
		t.Error("a late frame does not wake the receiver")
	}
	if got := recv(t, b); !slices.Equal(got, []string{"reordered"}) {
		t.Errorf("received %q late", got)
	}
	if s := a.Stats(); s.TxPackets != 5 {
		t.Errorf("sender counts %d packets, want 5: it can not know what the link loses", s.TxPackets)
	}
}

func TestSimulatedLinkOverflow(t *testing.T) {
	a, b := mem.Pair(mem.Config{Link: rings.LinkIP, Ring: 4, AtoB: func(p []byte, deliver func([]byte)) {
		deliver(p)
		deliver(p)
		deliver(p)
	}})
	send(t, a, []byte("x"))
	send(t, a, []byte("y"))
	if got := recv(t, b); !slices.Equal(got, []string{"x", "x", "x", "y"}) {
		t.Errorf("received %q", got)
	}
	if s := b.Stats(); s.RxDropped != 2 {
		t.Errorf("receiver counts %d drops, want 2", s.RxDropped)
	}
}

func TestBounded(t *testing.T) {
	a, b := mem.Pair(mem.Config{Link: rings.LinkIP, Ring: 8})
	var fs []*rings.Frame
	for range 10 {
		f := a.Pool().Get()
		f.Set([]byte("p"))
		fs = append(fs, f)
	}
	if n, _ := a.Send(fs[:6]); n != 6 {
		t.Fatalf("took %d of 6 with room for 8", n)
	}
	if b.Waiting() != 0 {
		t.Error("frames arrived before Flush")
	}
	if n, _ := a.Send(fs[6:]); n != 2 {
		t.Fatalf("took %d of 4 with room for 2", n)
	}
	if err := a.Flush(); err != nil {
		t.Fatal(err)
	}
	if n, _ := a.Send(fs[8:]); n != 0 {
		t.Fatalf("took %d though the other end has not read", n)
	}
	if got := recv(t, b); len(got) != 8 {
		t.Errorf("received %d, want 8", len(got))
	}
	if n, _ := a.Send(fs[8:]); n != 2 {
		t.Fatalf("took %d of 2 after the other end has read", n)
	}
	if s := a.Stats(); s.TxFull != 4 {
		t.Errorf("counts %d frames not taken, want 4", s.TxFull)
	}
}

func TestPeerClosed(t *testing.T) {
	a, b := mem.Pair(mem.Config{Link: rings.LinkIP})
	send(t, a, []byte("before"))
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if got := recv(t, b); !slices.Equal(got, []string{"before"}) {
		t.Errorf("received %q", got)
	}
	send(t, b, []byte("after"))
	if s := b.Stats(); s.TxDropped != 1 || s.TxPackets != 0 {
		t.Errorf("sending to a closed end: %+v", s)
	}
	if b.Pool().Free() != b.Pool().Size() {
		t.Error("frame lost")
	}
}

func TestTooLong(t *testing.T) {
	a, b := mem.Pair(mem.Config{Link: rings.LinkIP, MTU: 600})
	send(t, a, make([]byte, 601))
	send(t, a, make([]byte, 600))
	if got := recv(t, b); len(got) != 1 || len(got[0]) != 600 {
		t.Errorf("received %d frames", len(got))
	}
	if s := a.Stats(); s.TxDropped != 1 || s.TxPackets != 1 {
		t.Errorf("counted %+v", s)
	}
}

// Two goroutines, one an end: run with -race this checks the ring's ordering.
func TestTwoGoroutines(t *testing.T) {
	const total = 50_000
	a, b := mem.Pair(mem.Config{Link: rings.LinkIP, Ring: 64})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for sent := 0; sent < total; {
			f := a.Pool().Get()
			f.Set([]byte{byte(sent), byte(sent >> 8), byte(sent >> 16)})
			if n, _ := a.Send([]*rings.Frame{f}); n == 0 {
				f.Free()
			} else {
				sent++
			}
			_ = a.Flush()
		}
	}()
	fs := make([]*rings.Frame, 16)
	for got := 0; got < total; {
		n, err := b.Recv(fs)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range fs[:n] {
			d := f.Data()
			if v := int(d[0]) | int(d[1])<<8 | int(d[2])<<16; v != got {
				t.Fatalf("received %d in the place of %d", v, got)
			}
			got++
			f.Free()
		}
	}
	<-done
}

func BenchmarkPair(b *testing.B) {
	x, y := mem.Pair(mem.Config{Link: rings.LinkIP})
	fs := make([]*rings.Frame, 64)
	p := make([]byte, 100)
	for b.Loop() {
		for i := range fs {
			fs[i] = x.Pool().Get()
			fs[i].Set(p)
		}
		_, _ = x.Send(fs)
		_ = x.Flush()
		n, _ := y.Recv(fs)
		for _, f := range fs[:n] {
			f.Free()
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/64, "ns/packet")
}
