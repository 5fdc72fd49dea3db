package workers

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"xpptp/engine/gre"
	"xpptp/rings"
	"xpptp/rings/mem"
)

func newTestWorker(t *testing.T, mode Mode) (w *Worker, outside, inside *mem.Port) {
	t.Helper()
	pool := rings.NewPoolN(256, rings.ChunkSmall)
	out, farOut := mem.Pair(mem.Config{Link: rings.LinkIP, PoolA: pool})
	in, farIn := mem.Pair(mem.Config{Link: rings.LinkIP, PoolA: pool})
	w, err := New(Config{Pool: pool, Outside: []rings.Port{out}, Inside: in, CPU: -1, Mode: mode, GRE: gre.Config{Window: 64}}, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w, farOut, farIn
}

func clock() func() int64 {
	start := time.Now()
	return func() int64 { return int64(time.Since(start)) + 1 }
}

// A command posted at any moment is carried out, whatever the worker is doing:
// asleep, about to sleep, or polling. A lost wake-up would hang this test,
// since nothing else wakes the worker for an hour.
func TestNoLostWakeUp(t *testing.T) {
	defer func(d time.Duration) { maxSleep = d }(maxSleep)
	maxSleep = time.Hour
	for _, mode := range []Mode{Adaptive, Interrupt} {
		w, _, _ := newTestWorker(t, mode)
		ended := make(chan error, 1)
		go func() { ended <- w.Run(clock()) }()
		for range 2000 {
			done := make(chan struct{})
			w.Post(func() { close(done) })
			<-done
			for range rand.IntN(2000) { // now and then let it fall asleep
				_ = w.sleeping.Load()
			}
		}
		w.Stop()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	}
}

// Commands are carried out in the order they were posted.
func TestPostOrder(t *testing.T) {
	w, _, _ := newTestWorker(t, Adaptive)
	var got []int
	for i := range 100 {
		w.Post(func() { got = append(got, i) })
	}
	w.Step(2)
	for i, n := range got {
		if n != i {
			t.Fatalf("command %d came at place %d", n, i)
		}
	}
	if len(got) != 100 {
		t.Fatalf("%d of 100 commands", len(got))
	}
}

// A port that is gone ends the worker with an error that says which.
func TestPortGone(t *testing.T) {
	w, outside, _ := newTestWorker(t, Adaptive)
	if err := w.cfg.Outside[0].Close(); err != nil {
		t.Fatal(err)
	}
	_ = outside
	err := w.Run(clock())
	if !errors.Is(err, rings.ErrPortDown) || !errors.Is(w.Down(), rings.ErrPortDown) {
		t.Fatalf("Run: %v, Down: %v", err, w.Down())
	}
}

// Garbage from the outside is dropped under a name, frame by frame, and no
// frame is lost to the pool.
func TestGarbage(t *testing.T) {
	w, outside, inside := newTestWorker(t, Adaptive)
	rnd := rand.New(rand.NewPCG(3, 4))
	sent := uint64(0)
	now := int64(1)
	for range 2000 {
		for _, p := range []*mem.Port{outside, inside} {
			f := p.Pool().Get()
			b := make([]byte, rnd.IntN(120))
			for i := range b {
				b[i] = byte(rnd.Uint32())
			}
			if len(b) > 28 && rnd.IntN(2) == 0 { // get past the first checks
				copy(b, []byte{0x45, 0, 0, byte(len(b)), 0, 0, 0, 0, 64, 47})
				copy(b[20:], []byte{0x30, 0x81, 0x88, 0x0b, 0, byte(len(b) - 28)})
			}
			f.Set(b)
			if n, err := p.Send([]*rings.Frame{f}); n != 1 || err != nil {
				t.Fatal(n, err)
			}
			_ = p.Flush()
			sent++
		}
		now += 1e6
		w.Step(now)
	}
	s := w.State()
	var dropped uint64
	for _, n := range s.Drops {
		dropped += n
	}
	if dropped != sent {
		t.Errorf("%d packets sent, %d dropped under a name", sent, dropped)
	}
	if s.Free != s.Frames {
		t.Errorf("%d of %d frames leaked", s.Frames-s.Free, s.Frames)
	}
}
