package load

import (
	"net/netip"
	"testing"
	"time"

	"xpptp/engine/traffic"
	"xpptp/rings"
	"xpptp/rings/ringtest"
)

var _ = ringtest.Smallest

// bench is a load with one port, driven by hand under a clock of its own.
type bench struct {
	t    testing.TB
	l    *Load
	p    *Port
	pool *rings.Pool
	now  int64
	// turn makes of a packet that was sent those that come back.
	turn func(ip []byte) [][]byte
	sent uint64
}

func newBench(t testing.TB) *bench {
	b := &bench{t: t, now: 1e9, pool: rings.NewPoolN(2048, rings.ChunkSmall)}
	var err error
	if b.l, err = New(Config{Workers: 1, Clock: func() int64 { return b.now }, ClockID: 7}); err != nil {
		t.Fatal(err)
	}
	port, err := b.l.Inside(0, b.pool)
	if err != nil {
		t.Fatal(err)
	}
	b.p = port.(*Port)
	t.Cleanup(func() {
		if err := b.p.Close(); err != nil {
			t.Error(err)
		}
		if b.pool.Free() != b.pool.Size() {
			t.Errorf("%d frames of %d are back", b.pool.Free(), b.pool.Size())
		}
	})
	return b
}

func (b *bench) call(i int) *Call {
	c, err := b.l.Add(CallConfig{
		V4: netip.AddrFrom4([4]byte{10, 64, byte(i >> 8), byte(i)}), Far4: netip.MustParseAddrPort("10.99.0.1:7007"),
		V6: netip.MustParseAddr("fe80::2"), Far6: netip.MustParseAddrPort("[fe80::1]:7007"), Room: 1400,
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}

// reflect turns a packet round in place, as a server's reflect port does.
func reflect(ip []byte) {
	a, n := 12, 4
	if ip[0]>>4 == 6 {
		a, n = 8, 16
	}
	for i := range n {
		ip[a+i], ip[a+n+i] = ip[a+n+i], ip[a+i]
	}
	u := a + 2*n
	ip[u], ip[u+1], ip[u+2], ip[u+3] = ip[u+2], ip[u+3], ip[u], ip[u+1]
}

// step is a turn of the worker's loop.
func (b *bench) step() int {
	var fs [64]*rings.Frame
	n, err := b.p.Recv(fs[:])
	if err != nil {
		b.t.Fatal(err)
	}
	for _, f := range fs[:n] {
		reflect(f.Data())
	}
	b.sent += uint64(n)
	if k, err := b.p.Send(fs[:n]); k != n || err != nil {
		b.t.Fatalf("Send took %d of %d: %v", k, n, err)
	}
	return n
}

func (b *bench) run(d time.Duration, step time.Duration) {
	for end := b.now + int64(d); b.now < end; b.now += int64(step) {
		b.step()
	}
}

func TestSkeleton(t *testing.T) {
	b := newBench(t)
	for i := range 10 {
		b.call(i)
	}
	if err := b.l.Start([]Profile{{Name: "x", Schedule: traffic.Schedule{Rate: 100}, Sizes: traffic.IMIX()}}, time.Second); err != nil {
		t.Fatal(err)
	}
	b.run(3*time.Second, 10*time.Microsecond)
	if b.sent != 1000 || b.p.counts[0].Received != 1000 || b.p.counts[0].Missing != 0 {
		t.Errorf("%d %+v %+v", b.sent, b.p.counts, b.p.sender)
	}
}
