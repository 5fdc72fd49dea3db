package workers

import (
	"testing"

	"xpptp/rings"
	"xpptp/rings/mem"
)

// With a clock that moves by one at each reading: every stage that had work
// has time, all of it is of the busy turns, and idle turns and sleep are apart.
func TestTimes(t *testing.T) {
	e := newTestTeam(t, 1, 1, Adaptive)
	w := e.ws[0]
	var now int64
	w.account.clock = func() int64 { now++; return now }
	turn := func(packets int) {
		for i := range packets {
			send(e.out[0], e.greTo(0, uint32(now)+uint32(i)))
			send(e.in[0], e.ipFrom(teamHost, e.addr[0]))
		}
		now += 1000
		w.turn(now)
		w.Step(now)
		drain(e.in[0])
		drain(e.out[0])
	}
	for range 4 * sampleEvery {
		turn(2)
	}
	turn(0) // idle, for the next 1000
	turn(0)
	s := w.State()
	// The times a turn's stages take are ends of laps, between the turns' beginnings.
	if s.Time.Busy < 4*sampleEvery*1000 || s.Time.Busy > 4*sampleEvery*1100 || s.Time.Idle < 1000 || s.Time.Idle > 1100 {
		t.Errorf("busy %d, idle %d", s.Time.Busy, s.Time.Idle)
	}
	var sum int64
	for i, ns := range s.Time.Stages {
		sum += ns
		if ns == 0 {
			t.Errorf("stage %v took no time", Stage(i))
		}
	}
	if sum > s.Time.Busy || sum < s.Time.Busy-int64(NumStages) {
		t.Errorf("all stages took %d of %d", sum, s.Time.Busy)
	}
}

// Batches are counted by the power of two that they reach.
func TestBatches(t *testing.T) {
	e := newTestTeam(t, 1, 1, Adaptive)
	w := e.ws[0]
	for _, n := range []int{1, 2, 3, 4, 63, 64, 64} {
		for range n {
			send(e.in[0], e.ipFrom(teamHost, e.addr[0]))
		}
		w.Step(2)
		drain(e.out[0])
	}
	send(e.out[0], e.greTo(0, 1))
	w.Step(2)
	want := Batches{Outside: [BatchBuckets]uint64{1}, Inside: [BatchBuckets]uint64{1, 2, 1, 0, 0, 1, 2}}
	if got := w.State().Batches; got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// looks counts how often a port is asked.
type looks struct {
	rings.Port
	n int
}

func (l *looks) Recv(fs []*rings.Frame) (int, error) {
	l.n++
	return l.Port.Recv(fs)
}

// The side port costs a look in some turns only, and when it ends a sleep.
func TestSidePort(t *testing.T) {
	pool := rings.NewPoolN(256, rings.ChunkSmall)
	in, _ := mem.Pair(mem.Config{Link: rings.LinkIP, PoolA: pool})
	side, far := mem.Pair(mem.Config{Link: rings.LinkIP, PoolA: pool})
	l := &looks{Port: side}
	w, err := New(Config{Pool: pool, Side: l, Inside: in, CPU: -1}, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for range 10 * sideEvery {
		w.Step(2)
	}
	if l.n != 10 {
		t.Errorf("%d looks in %d turns", l.n, 10*sideEvery)
	}
	w.Step(2)
	send(far, []byte{1})
	w.sideHas = true
	if !w.Step(2) {
		t.Error("nothing found at the side port after a sleep that it ended")
	}
}
