package load

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"xpptp/control/sock"
	"xpptp/engine"
	"xpptp/engine/gre"
	"xpptp/engine/traffic"
	"xpptp/rings"
	"xpptp/rings/mem"
	"xpptp/workers"
)

// patience bounds every wait.
const patience = time.Minute

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// A worker that sleeps when it finds nothing sends what is due all the same,
// while calls come and go and counts are read.
func TestWorkerLoop(t *testing.T) {
	for _, mode := range []workers.Mode{workers.Adaptive, workers.Interrupt, workers.Spin} {
		pool := rings.NewPoolN(4096, rings.ChunkSmall)
		near, far := mem.Pair(mem.Config{Link: rings.LinkIP, Ring: 1024, PoolA: pool})
		defer near.Close()
		defer far.Close()
		clock := sock.Monotonic()
		// Slow machines are not what this is about: nothing is left out.
		l, err := New(Config{Workers: 1, Clock: clock, Behind: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		in, err := l.Inside(0, pool)
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		w, err := workers.New(workers.Config{
			Pool: pool, Outside: []rings.Port{near}, Inside: in, CPU: -1, Client: true, Mode: mode,
			GRE: gre.Config{First: 1, Window: 4096, AckDelay: 5e6, ReorderDelay: 5e6},
		}, clock())
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		var added sync.WaitGroup
		const calls = 4
		for i := range calls {
			c := workers.NewCall(&workers.CallParams{
				Local: rigLocal, Peer: rigPeer, CallID: uint16(i + 1), PeerCallID: uint16(i + 1), PeerKnown: true,
				Client: true, GRE: w.GREConfig(), PeerWindow: 4096, TTL: 64, Hop: &rigHop{},
			})
			added.Add(1)
			w.Add(c, func(bool) { added.Done() })
			w.SetFraming(c, true, true, rigRoom)
			w.NetworkUp(c, rigCall(i))
		}
		ran := make(chan error, 1)
		go func() { ran <- w.Run(clock) }()
		added.Wait()
		// The far end takes everything out.
		quit := make(chan struct{})
		var drained sync.WaitGroup
		drained.Go(func() {
			var fs [64]*rings.Frame
			for {
				n, _ := far.Recv(fs[:])
				for _, f := range fs[:n] {
					f.Free()
				}
				select {
				case <-quit:
					return
				default:
					time.Sleep(time.Millisecond)
				}
			}
		})
		var cs []*Call
		add := func(i int) {
			c, err := l.Add(CallConfig{V4: rigCall(i), Far4: rigFar, Room: rigRoom})
			if err != nil {
				t.Error(err)
			}
			cs = append(cs, c)
		}
		for i := range calls - 1 {
			add(i)
		}
		ctx := testContext(t)
		length := 300 * time.Millisecond
		ps := []Profile{{Schedule: traffic.Schedule{Rate: 1000}, Total: true, Sizes: traffic.IMIX()}}
		if mode == workers.Adaptive { // nobody is there to answer
			ps = append(ps, Profile{Flow: Down, Schedule: traffic.Schedule{Rate: 1000}, Total: true, Sizes: traffic.IMIX()})
		}
		if err := l.Start(ps, length); err != nil {
			t.Fatal(err)
		}
		add(calls - 1)
		for range 5 {
			if _, err := l.Snapshot(ctx); err != nil {
				t.Fatal(err)
			}
		}
		l.Remove(cs[0])
		s, err := l.Drain(ctx, 0)
		for s.Sending > 0 || s.Elapsed < length {
			if err != nil {
				t.Fatal(err)
			}
			s, err = l.Drain(ctx, 0)
		}
		if len(ps) > 1 && s.Sender.Requests < (calls-1)*lastAsks {
			t.Errorf("%d requests", s.Sender.Requests)
		}
		if n := s.Traffic.Sent; n < 295 || n > 301 || s.Sender.Skipped != 0 {
			t.Errorf("mode %d: %d packets sent, %+v; want 300", mode, n, s.Sender)
		}
		w.Stop()
		if err := <-ran; err != nil {
			t.Error(err)
		}
		close(quit)
		drained.Wait()
		st := w.State()
		if (mode == workers.Spin) != (st.Loops.Sleeps == 0) {
			t.Errorf("mode %d: the worker slept %d times", mode, st.Loops.Sleeps)
		}
		if n := st.Drops[engine.NoRoute]; n > 0 {
			t.Errorf("%d packets of no call", n)
		}
	}
}

func liveRig(t *testing.T) *rig {
	t.Helper()
	if missing := sock.Missing(sock.SysAdmin, sock.NetAdmin, sock.NetRaw); len(missing) > 0 {
		t.Skipf("needs %v", missing)
	}
	r, err := newRig()
	if err != nil {
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) || sock.IsPermission(err) {
			t.Skipf("no AF_XDP here: %v", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	return r
}

// witness counts what arrives at the far end, by a packet socket there.
type witness struct {
	fd       int
	byStream map[uint32]uint64
	gre      uint64
	other    uint64
}

func newWitness(t *testing.T, r *rig) *witness {
	w := &witness{byStream: map[uint32]uint64{}}
	err := r.far.Do(func() error {
		link, err := netlink.LinkByName(rigFarName)
		if err != nil {
			return err
		}
		all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
		if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return err
		}
		_ = unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
		return unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Attrs().Index})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(w.fd) })
	return w
}

// read takes everything that waits.
func (w *witness) read() {
	var b [2048]byte
	for {
		n, err := unix.Read(w.fd, b[:])
		if err != nil {
			return
		}
		w.look(b[:n])
	}
}

// deviceCount is the packets that the far end's device has received.
func deviceCount(t *testing.T, r *rig) (n uint64) {
	err := r.far.Do(func() error {
		link, err := netlink.LinkByName(rigFarName)
		if err == nil {
			n = link.Attrs().Statistics.RxPackets
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// look reads a packet: GRE by offsets, not with the code that wrote it.
func (w *witness) look(b []byte) {
	const ip, greAt = 14, 14 + 20
	if len(b) < greAt+12 || binary.BigEndian.Uint16(b[12:]) != 0x0800 || b[ip+9] != 47 || b[greAt]&0x10 == 0 {
		w.other++
		return
	}
	w.gre++
	inner := b[greAt+12+1:] // one byte of protocol: 21, compressed
	if b[greAt+12] != 0x21 || len(inner) < 28+traffic.StampLen {
		w.other++
		return
	}
	w.byStream[binary.BigEndian.Uint32(inner[28+4:])]++
}

// What the load says it sent is what a capture and the device's counter say, to
// the packet and by stream.
func TestOutsideWitness(t *testing.T) {
	r := liveRig(t)
	const calls = 8
	e, err := r.newEnd(calls, false)
	if err != nil {
		t.Fatal(err)
	}
	defer e.close()
	ran := make(chan error, 1)
	go func() { ran <- e.w.Run(r.clock) }()
	w := newWitness(t, r)
	before := deviceCount(t, r)
	p := []Profile{
		{Schedule: traffic.Schedule{Rate: 1500}, Total: true, Sizes: traffic.IMIX()},
		{Schedule: traffic.Schedule{Rate: 50}, Sizes: traffic.Fixed(200)},
	}
	s, err := e.l.Run(testContext(t), p, time.Second, 0)
	if err != nil {
		t.Fatal(err)
	}
	streams, err := e.l.Streams(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(patience); deviceCount(t, r)-before < s.Traffic.Sent && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	if got := deviceCount(t, r) - before; got != s.Traffic.Sent {
		t.Errorf("the device received %d packets, sent were %d", got, s.Traffic.Sent)
	}
	w.read()
	e.w.Stop()
	if err := <-ran; err != nil {
		t.Error(err)
	}
	st, err := unix.GetsockoptTpacketStats(w.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil || st.Drops > 0 {
		t.Fatalf("the kernel did not give the capture %d packets, %v", st.Drops, err)
	}
	if w.gre != s.Traffic.Sent || w.other != 0 || len(streams) != 2*calls {
		t.Errorf("captured %d packets of %d streams, and %d others; sent were %d", w.gre, len(w.byStream), w.other, s.Traffic.Sent)
	}
	for i := range streams {
		if st := &streams[i]; w.byStream[st.ID] != st.Counts.Sent {
			t.Errorf("stream %08x: captured %d, sent %d", st.ID, w.byStream[st.ID], st.Counts.Sent)
		}
	}
	if all := s.Traffic.Sent + s.Sender.Skipped; all < 1890 || all > 1910 {
		t.Errorf("%d sent, %d left out, want 1900 together", s.Traffic.Sent, s.Sender.Skipped)
	}
}

func TestSelfTest(t *testing.T) {
	liveRig(t)
	res, err := SelfTest(testContext(t), SelfTestConfig{Time: 100 * time.Millisecond, Calls: 3, Rates: []float64{1000, 20_000}})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", res)
	if res.Bare <= 0 || res.Generator <= 0 || res.Calling <= 0 || res.MPPE <= 0 || res.GeneratorRatio <= 0 || res.CallingRatio <= 0 {
		t.Errorf("%+v", res)
	}
	if len(res.Pacing) != 2 {
		t.Fatalf("%d rates", len(res.Pacing))
	}
	for i := range res.Pacing {
		// What was not sent for want of time is said to be.
		p := &res.Pacing[i]
		missing := p.Asked/10 - p.Achieved/10
		if off := missing - float64(p.Skipped+p.Lost); off > 2 || off < -2 {
			t.Errorf("%+v: %.0f packets are missing and not accounted for", p, missing)
		}
	}
}

func TestSelfTestCheck(t *testing.T) {
	for _, c := range []SelfTestConfig{
		{Size: 63}, {Size: 1401}, {Calls: -1}, {Calls: 5000}, {Rates: []float64{0}}, {Rates: []float64{1e9}}, {Time: time.Millisecond}, {Time: time.Hour},
	} {
		if c.Check() == nil {
			t.Errorf("%+v: taken", c)
		}
	}
	if err := (SelfTestConfig{}).Check(); err != nil {
		t.Error(err)
	}
}
