package control

import (
	"testing"

	"xpptp/rings"
)

// No allocation per packet through a whole worker, both directions, encrypted:
// outside to inside and inside to outside, acknowledgements and timers included.
func TestWorkerDoesNotAllocate(t *testing.T) {
	s := newSim(t, simOptions{seed: 11})
	s.call(1)
	s.until("call up", 20, func() bool { return s.upCalls() == 1 && s.serverUp() == 1 })
	for range 100 {
		s.step()
	}
	var k *call
	for _, k = range s.client.calls() {
	}
	up := udp(k.nets[0].Local, simLocal, 1, 1, 600)
	down := udp(simLocal, k.nets[0].Local, 2, 1, 600)
	put := func(e *simEnd, p []byte) {
		var fs [8]*rings.Frame
		for i := range fs {
			fs[i] = e.inside.Pool().Get()
			fs[i].Set(p)
		}
		_, _ = e.inside.Send(fs[:])
		_ = e.inside.Flush()
	}
	drain := func(e *simEnd) (n int) {
		var fs [64]*rings.Frame
		n, _ = e.inside.Recv(fs[:])
		for _, f := range fs[:n] {
			f.Free()
		}
		return n
	}
	got := 0
	s.direct = true
	turn := func() {
		s.now += simStep
		put(s.client, up)
		put(s.server, down)
		for range 2 {
			s.client.w.Step(s.now)
			s.server.w.Step(s.now)
		}
		got += drain(s.client) + drain(s.server)
	}
	for range 50 {
		turn()
	}
	got = 0
	const runs = 200
	if n := testing.AllocsPerRun(runs, turn); n != 0 {
		t.Errorf("%v allocations for 16 packets", n)
	}
	if want := (runs + 1) * 16; got < want-16 {
		t.Errorf("%d of %d packets came through", got, want)
	}
}
