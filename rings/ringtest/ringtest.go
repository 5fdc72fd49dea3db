// Package ringtest is the suite that every backend of rings.Port passes, and
// what its tests stand on: namespaces, virtual wires, packets.
package ringtest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"xpptp/rings"
)

// Bench is one port under test, freshly opened, and what stands around it.
type Bench struct {
	Port rings.Port
	Pool *rings.Pool // the port receives into it; the suite takes from it what it sends

	Inject  func(p []byte) error // makes p arrive at the port
	Capture func() []byte        // the next frame the port transmitted, nil if there is none yet

	// Addresses of the two ends and the link headers in front of packets
	// towards the port (Rx) and from it (Tx).
	Local, Remote      [4]byte
	RxHeader, TxHeader []byte

	Ring int // frames that may wait without loss

	// What the backend can do; nil if it can not.
	Down, Up func()                     // link flap
	Remove   func()                     // takes the device away
	Reopen   func() (rings.Port, error) // after Close, on the same device
}

// patience bounds every wait for the kernel.
const patience = 10 * time.Second

// Run runs the suite, less what the backend can not do. open makes a bench
// and registers its clean-up.
func Run(t *testing.T, open func(t *testing.T) *Bench) {
	can := open(t)
	for _, c := range []struct {
		name string
		test func(*testing.T, *Bench)
		able bool
	}{
		{"Idle", idle, true},
		{"Receive", receive, true},
		{"Batches", batches, true},
		{"Send", send, true},
		{"Echo", echo, true},
		{"PartialSend", partialSend, true},
		{"EmptyPool", emptyPool, true},
		{"Poll", poll, can.Port.FD() >= 0},
		{"Allocations", allocations, true},
		{"Close", closing, true},
		{"Reopen", reopen, can.Reopen != nil},
		{"LinkFlap", linkFlap, can.Down != nil},
		{"Remove", remove, can.Remove != nil},
	} {
		if c.able {
			t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
		}
	}
}

// rx and tx are packets number seq of n bytes, with link header, towards the
// port and from it.
func (b *Bench) rx(seq uint32, n int) []byte {
	return append(bytes.Clone(b.RxHeader), Packet(b.Remote, b.Local, uint16(seq), seq, n)...)
}

func (b *Bench) tx(seq uint32, n int) []byte {
	return append(bytes.Clone(b.TxHeader), Packet(b.Local, b.Remote, uint16(seq), seq, n)...)
}

func (b *Bench) inject(t *testing.T, p []byte) {
	t.Helper()
	if err := b.Inject(p); err != nil {
		t.Fatalf("inject %d bytes: %v", len(p), err)
	}
}

func (b *Bench) recv(t *testing.T, fs []*rings.Frame) int {
	t.Helper()
	n, err := b.Port.Recv(fs)
	if err != nil {
		t.Fatalf("Recv: %v", err)
	}
	if n > len(fs) {
		t.Fatalf("Recv returned %d for room of %d", n, len(fs))
	}
	for _, f := range fs[:n] {
		if f == nil {
			t.Fatal("Recv returned a nil frame")
		}
		if f.Headroom() < rings.Headroom || f.Tailroom() < rings.Tailroom {
			t.Fatalf("headroom %d, tailroom %d: want at least %d and %d", f.Headroom(), f.Tailroom(), rings.Headroom, rings.Tailroom)
		}
	}
	return n
}

// recvAll receives want frames in bursts of at most batch.
func (b *Bench) recvAll(t *testing.T, want, batch int) []*rings.Frame {
	t.Helper()
	var got []*rings.Frame
	fs := make([]*rings.Frame, batch)
	wait(t, fmt.Sprintf("%d frames to be received", want), func() bool {
		n := b.recv(t, fs)
		got = append(got, fs[:n]...)
		return len(got) >= want
	})
	return got
}

// sendAll sends every frame, flushing when the port is full.
func (b *Bench) sendAll(t *testing.T, fs []*rings.Frame) {
	t.Helper()
	wait(t, fmt.Sprintf("%d frames to be sent", len(fs)), func() bool {
		n, err := b.Port.Send(fs)
		if err != nil {
			t.Fatalf("Send: %v", err)
		}
		fs = fs[n:]
		b.flush(t)
		return len(fs) == 0
	})
}

func (b *Bench) flush(t *testing.T) {
	t.Helper()
	if err := b.Port.Flush(); err != nil {
		t.Fatalf("Flush: %v", err)
	}
}

// capture returns the next frame of ours that the port transmitted.
func (b *Bench) capture(t *testing.T) []byte {
	t.Helper()
	var p []byte
	wait(t, "a transmitted frame", func() bool {
		b.flush(t)
		p = b.Capture()
		if p == nil || len(p) < len(b.TxHeader) {
			return false
		}
		_, ok := Seq(p[len(b.TxHeader):])
		return ok
	})
	return p
}

// full closes the port and checks that every frame is back.
func (b *Bench) full(t *testing.T) {
	t.Helper()
	if err := b.Port.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	if b.Pool.Free() != b.Pool.Size() {
		t.Fatalf("%d frames of %d are back after Close", b.Pool.Free(), b.Pool.Size())
	}
}

func (b *Bench) frame(t *testing.T, p []byte) *rings.Frame {
	t.Helper()
	f := b.Pool.Get()
	if f == nil || !f.Set(p) {
		t.Fatalf("no frame for %d bytes (%d free)", len(p), b.Pool.Free())
	}
	return f
}

func wait(t testing.TB, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !done(); {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func free(fs []*rings.Frame) {
	for _, f := range fs {
		f.Free()
	}
}

// sizes are packet lengths from the smallest to the largest the port takes.
func (b *Bench) sizes() []int {
	mtu := b.Port.Info().MTU
	s := []int{Smallest, Smallest + 1, 60, 64, 127, 128, 576, 1400, 1499, mtu - 1, mtu}
	for i, n := range s {
		s[i] = min(n, mtu)
	}
	return s
}

func idle(t *testing.T, b *Bench) {
	i := b.Port.Info()
	if i.Batch <= 0 || i.MTU < 576 || i.MTU > rings.MaxMTU || i.Backend == "" || i.Name == "" {
		t.Errorf("Info is not complete: %+v", i)
	}
	fs := make([]*rings.Frame, 8)
	for _, room := range []int{0, 1, 8} {
		if n, err := b.Port.Recv(fs[:room]); n != 0 || err != nil {
			t.Errorf("Recv with room for %d on an idle port: %d, %v", room, n, err)
		}
	}
	if n, err := b.Port.Send(nil); n != 0 || err != nil {
		t.Errorf("Send(nil): %d, %v", n, err)
	}
	for range 3 {
		b.flush(t)
	}
	if s := b.Port.Stats(); s.RxPackets != 0 || s.TxPackets != 0 || s.RxDropped != 0 || s.TxDropped != 0 {
		t.Errorf("an idle port counted %+v", s)
	}
	b.full(t)
}

// receive: contents, order, room around the data, counters.
func receive(t *testing.T, b *Bench) {
	bytesIn := 0
	var want [][]byte
	for i, n := range b.sizes() {
		p := b.rx(uint32(i), n)
		b.inject(t, p)
		want = append(want, p)
		bytesIn += len(p)
	}
	got := b.recvAll(t, len(want), 64)
	// What is written around one frame must not be seen in another.
	for i, f := range got {
		f.Push(rings.Headroom)
		f.Extend(rings.Tailroom)
		d := f.Data()
		for j := range rings.Headroom {
			d[j] = byte(i)
		}
		for j := range rings.Tailroom {
			d[len(d)-1-j] = byte(i)
		}
	}
	for i, f := range got {
		f.Pull(rings.Headroom)
		f.Trim(f.Len() - rings.Tailroom)
		if !bytes.Equal(f.Data(), want[i]) {
			t.Errorf("frame %d of %d bytes differs from what was sent (%d bytes)", i, f.Len(), len(want[i]))
		}
	}
	s := b.Port.Stats()
	if s.RxPackets != uint64(len(want)) || s.RxBytes != uint64(bytesIn) {
		t.Errorf("counted %d frames, %d bytes; want %d, %d", s.RxPackets, s.RxBytes, len(want), bytesIn)
	}
	free(got)
	b.full(t)
}

// batches: as many frames as the ring holds, read in bursts of every kind.
func batches(t *testing.T, b *Bench) {
	for _, batch := range []int{1, 2, 31, 64, 100, b.Ring + 1} {
		for i := range b.Ring {
			b.inject(t, b.rx(uint32(i), Smallest+i%64))
		}
		fs := make([]*rings.Frame, batch)
		seen := 0
		wait(t, "all frames", func() bool {
			n := b.recv(t, fs)
			for _, f := range fs[:n] {
				if !bytes.Equal(f.Data(), b.rx(uint32(seen), Smallest+seen%64)) {
					t.Fatalf("bursts of %d: frame %d is not the one sent in its place", batch, seen)
				}
				seen++
				f.Free()
			}
			return seen >= b.Ring
		})
		if n := b.recv(t, fs); n != 0 {
			t.Fatalf("bursts of %d: %d frames more than were sent", batch, n)
		}
	}
	if s := b.Port.Stats(); s.RxDropped != 0 || s.RxTruncated != 0 {
		t.Errorf("drops below ring size: %+v", s)
	}
	b.full(t)
}

// send: contents, order, frames back in the pool, counters.
func send(t *testing.T, b *Bench) {
	bytesOut := 0
	var want [][]byte
	var fs []*rings.Frame
	for i, n := range b.sizes() {
		p := b.tx(uint32(i), n)
		want = append(want, p)
		fs = append(fs, b.frame(t, p))
		bytesOut += len(p)
	}
	b.sendAll(t, fs)
	for i, w := range want {
		if p := b.capture(t); !bytes.Equal(p, w) {
			t.Fatalf("packet %d: % x, want % x", i, p, w)
		}
	}
	s := b.Port.Stats()
	if s.TxPackets != uint64(len(want)) || s.TxBytes != uint64(bytesOut) || s.TxDropped != 0 {
		t.Errorf("counted %d frames, %d bytes, %d drops; want %d, %d, 0", s.TxPackets, s.TxBytes, s.TxDropped, len(want), bytesOut)
	}
	b.full(t)
}

// echo turns many packets (RINGTEST_PACKETS of them, if set) round in bursts of random size: none lost, none
// twice, none in a frame that is already in use, none leaked.
func echo(t *testing.T, b *Bench) {
	total := 20_000
	if testing.Short() || raceEnabled {
		total = 5_000
	}
	if v := os.Getenv("RINGTEST_PACKETS"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			t.Fatalf("RINGTEST_PACKETS: %v", err)
		}
		total = n
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	taken := map[*rings.Frame]bool{}
	fs := make([]*rings.Frame, 64)
	stop := make(chan struct{})
	defer close(stop)
	go func() { // counters may be read at any time
		for {
			select {
			case <-stop:
				return
			default:
				b.Port.Stats()
				time.Sleep(time.Millisecond)
			}
		}
	}()
	mtu := b.Port.Info().MTU
	for seq := 0; seq < total; {
		burst := min(1+rnd.IntN(min(b.Ring, 64)), total-seq)
		var want []int
		for i := range burst {
			n := Smallest + rnd.IntN(96)
			if rnd.IntN(16) == 0 {
				n = Smallest + rnd.IntN(mtu-Smallest)
			}
			b.inject(t, b.rx(uint32(seq+i), n))
			want = append(want, n)
		}
		for got := 0; got < burst; {
			n := 0
			wait(t, "the burst", func() bool { n = b.recv(t, fs[:1+rnd.IntN(64)]); return n > 0 })
			for i, f := range fs[:n] {
				if taken[f] {
					t.Fatalf("frame %d was given out twice", f.Index())
				}
				taken[f] = true
				if !bytes.Equal(f.Data(), b.rx(uint32(seq+got+i), want[got+i])) {
					t.Fatalf("packet %d arrived changed or out of order", seq+got+i)
				}
				if !f.Set(b.tx(uint32(seq+got+i), want[got+i])) {
					t.Fatal("a packet that was received does not fit for sending")
				}
			}
			for _, f := range fs[:n] {
				delete(taken, f)
			}
			b.sendAll(t, fs[:n])
			got += n
		}
		for i := range burst {
			if p := b.capture(t); !bytes.Equal(p, b.tx(uint32(seq+i), want[i])) {
				t.Fatalf("packet %d came back changed or out of order", seq+i)
			}
		}
		seq += burst
	}
	s := b.Port.Stats()
	if s.RxPackets != uint64(total) || s.TxPackets != uint64(total) || s.RxDropped+s.TxDropped+s.RxTruncated != 0 {
		t.Errorf("after %d packets the counters say %+v", total, s)
	}
	b.full(t)
}

// partialSend: what Send does not take stays the caller's, what it takes goes
// out in order.
func partialSend(t *testing.T, b *Bench) {
	n := b.Pool.Free()
	fs := make([]*rings.Frame, 0, n)
	for i := range n {
		f := b.Pool.Get()
		if f == nil {
			break // the port holds some itself
		}
		f.Set(b.tx(uint32(i), 64))
		fs = append(fs, f)
	}
	rest, sent := fs, 0
	for range 4 {
		k, err := b.Port.Send(rest)
		if err != nil {
			t.Fatalf("Send: %v", err)
		}
		sent += k
		rest = rest[k:]
	}
	if len(rest) > 0 && b.Port.Stats().TxFull == 0 {
		t.Error("frames that were not taken are not counted")
	}
	for i, f := range rest {
		if !bytes.Equal(f.Data(), b.tx(uint32(sent+i), 64)) {
			t.Fatalf("frame %d was changed though not taken", sent+i)
		}
		f.Free()
	}
	b.flush(t)
	for i := range sent {
		if p := b.capture(t); !bytes.Equal(p, b.tx(uint32(i), 64)) {
			t.Fatalf("packet %d of %d taken: not the one sent in its place", i, sent)
		}
	}
	b.full(t)
}

// emptyPool: no frame, no error; with frames again, packets again.
func emptyPool(t *testing.T, b *Bench) {
	var held []*rings.Frame
	for f := b.Pool.Get(); f != nil; f = b.Pool.Get() {
		held = append(held, f)
	}
	fs := make([]*rings.Frame, 16)
	for i := range 4 {
		b.inject(t, b.rx(uint32(i), 64))
	}
	for range 100 {
		free(fs[:b.recv(t, fs)]) // a port that keeps frames of its own may have some
		for f := b.Pool.Get(); f != nil; f = b.Pool.Get() {
			held = append(held, f)
		}
	}
	free(held)
	got := 0
	wait(t, "packets after frames came back", func() bool {
		b.inject(t, b.rx(9, 64))
		n := b.recv(t, fs)
		free(fs[:n])
		got += n
		return got > 0
	})
	b.full(t)
}

// poll: the descriptor is readable when frames wait, and not when none do.
func poll(t *testing.T, b *Bench) {
	fd := b.Port.FD()
	readable := func(ms int) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for {
			n, err := unix.Poll(p, ms)
			if err == unix.EINTR {
				continue
			}
			return err == nil && n == 1 && p[0].Revents&unix.POLLIN != 0
		}
	}
	if readable(0) {
		t.Error("readable though nothing waits")
	}
	for range 3 {
		b.inject(t, b.rx(1, 100))
		if !readable(int(patience.Milliseconds())) {
			t.Fatal("not readable though a frame waits")
		}
		free(b.recvAll(t, 1, 64))
		if readable(0) {
			t.Error("readable after everything was received")
		}
	}
	b.full(t)
}

// allocations: none per burst.
func allocations(t *testing.T, b *Bench) {
	const burst = 8
	fs := make([]*rings.Frame, burst)
	for range b.Ring {
		b.inject(t, b.rx(1, 200))
	}
	out := b.tx(2, 200)
	moved := 0
	if a := testing.AllocsPerRun(b.Ring/burst, func() {
		n, err := b.Port.Recv(fs)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range fs[:n] {
			f.Set(out)
		}
		k, err := b.Port.Send(fs[:n])
		if err != nil || b.Port.Flush() != nil {
			t.Fatal("send: ", err)
		}
		free(fs[k:n])
		moved += k
	}); a != 0 {
		t.Errorf("%v allocations per burst", a)
	}
	if moved == 0 {
		t.Error("nothing was moved")
	}
	b.full(t)
}

// closing: frames under way come back, a closed port says so, twice is harmless.
func closing(t *testing.T, b *Bench) {
	for i := range 4 {
		b.inject(t, b.rx(uint32(i), 64))
	}
	fs := []*rings.Frame{b.frame(t, b.tx(1, 64)), b.frame(t, b.tx(2, 64))}
	n, err := b.Port.Send(fs)
	if err != nil {
		t.Fatalf("Send: %v", err)
	}
	free(fs[n:])
	b.full(t)
	if err := b.Port.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if n, err := b.Port.Recv(make([]*rings.Frame, 4)); n != 0 || !errors.Is(err, rings.ErrPortDown) {
		t.Errorf("Recv after Close: %d, %v", n, err)
	}
	f := b.frame(t, b.tx(3, 64))
	if n, err := b.Port.Send([]*rings.Frame{f}); n != 0 || !errors.Is(err, rings.ErrPortDown) {
		t.Errorf("Send after Close: %d, %v", n, err)
	}
	f.Free()
	if err := b.Port.Flush(); !errors.Is(err, rings.ErrPortDown) {
		t.Errorf("Flush after Close: %v", err)
	}
	b.Port.Stats()
}

// reopen: a closed port leaves nothing behind that keeps the next one out.
func reopen(t *testing.T, b *Bench) {
	times := 50
	if testing.Short() || raceEnabled {
		times = 5
	}
	b.full(t)
	for i := range times {
		p, err := b.Reopen()
		if err != nil {
			t.Fatalf("opening for the %d. time: %v", i+2, err)
		}
		b.Port = p
		b.inject(t, b.rx(uint32(i), 64))
		got := b.recvAll(t, 1, 4)
		if !bytes.Equal(got[0].Data(), b.rx(uint32(i), 64)) {
			t.Fatalf("opened for the %d. time, the port received something else", i+2)
		}
		free(got)
		b.full(t)
	}
}

// linkFlap: a link that is down loses and counts; up again, it works again.
func linkFlap(t *testing.T, b *Bench) {
	fs := make([]*rings.Frame, 8)
	for round := range 3 {
		b.Down()
		before := b.Port.Stats()
		b.sendAll(t, []*rings.Frame{b.frame(t, b.tx(7, 64))})
		for range 200 {
			free(fs[:b.recv(t, fs)])
		}
		if s := b.Port.Stats(); s.TxDropped == before.TxDropped && s.TxPackets == before.TxPackets {
			t.Errorf("round %d: a frame sent on a dead link was not counted", round)
		}
		b.Up()
		wait(t, "the link to carry packets in again", func() bool {
			_ = b.Inject(b.rx(uint32(round), 100))
			n := b.recv(t, fs)
			free(fs[:n])
			return n > 0
		})
		for n := b.recv(t, fs); n > 0; n = b.recv(t, fs) {
			free(fs[:n])
		}
		wait(t, "the link to carry packets out again", func() bool {
			b.sendAll(t, []*rings.Frame{b.frame(t, b.tx(77, 80))})
			for p := b.Capture(); p != nil; p = b.Capture() {
				if bytes.Equal(p, b.tx(77, 80)) {
					return true
				}
			}
			return false
		})
	}
	b.full(t)
}

// remove: a device that is gone is an error, soon, and not a spin.
func remove(t *testing.T, b *Bench) {
	b.Remove()
	fs := make([]*rings.Frame, 8)
	for i := 0; ; i++ {
		n, err := b.Port.Recv(fs)
		free(fs[:n])
		if errors.Is(err, rings.ErrPortDown) {
			break
		}
		if err != nil {
			t.Fatalf("Recv: %v does not wrap ErrPortDown", err)
		}
		if i == 10_000 {
			t.Fatal("the device is gone, Recv does not say so")
		}
	}
	f := b.frame(t, b.tx(1, 64))
	n, err := b.Port.Send([]*rings.Frame{f})
	if n == 0 {
		f.Free()
	}
	if err == nil {
		err = b.Port.Flush()
	}
	if !errors.Is(err, rings.ErrPortDown) {
		t.Errorf("Send and Flush without a device: %v", err)
	}
	b.full(t)
}
