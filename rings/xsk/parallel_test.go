//go:build !race

// Frames go from worker to worker through the kernel, which the race detector
// does not see.

package xsk_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"xpptp/rings"
	"xpptp/rings/ringtest"
	"xpptp/rings/xsk"
)

// Workers on one queue at the same time: nothing missteered, no frame leaked,
// and nothing lost on the way to them but what the kernel counts (a worker that loses its core
// while it tends the rings holds up the others' supply). XPPTP_FRAMES says how
// many frames there are for all numbers of workers together.
func TestParallel(t *testing.T) {
	total := 200_000
	if n, err := strconv.Atoi(os.Getenv("XPPTP_FRAMES")); err == nil {
		total = n
	} else if testing.Short() {
		total = 20_000
	}
	for _, workers := range []int{2, 4} {
		t.Run(fmt.Sprintf("%d workers", workers), func(t *testing.T) { parallel(t, workers, total/2) })
	}
}

func parallel(t *testing.T, workers, total int) {
	b := newBench(t, workers, true)
	d := b.mustOpen(xsk.Config{})
	header := ringtest.Ethernet(b.far.MAC, b.near.MAC)
	var seen, wrong atomic.Int64
	var stop atomic.Bool
	var wg sync.WaitGroup
	for w := range workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			p := d.Ports(w)[0]
			fs := make([]*rings.Frame, 32)
			for !stop.Load() {
				n, err := p.Recv(fs)
				if err != nil {
					t.Error(err)
					return
				}
				for _, f := range fs[:n] {
					if rings.Shard(binary.BigEndian.Uint16(f.Data()[14+26:]), workers) != w {
						wrong.Add(1)
					}
					copy(f.Data(), header)
				}
				k, err := p.Send(fs[:n])
				for _, f := range fs[k:n] {
					f.Free()
				}
				if err != nil || p.Flush() != nil {
					t.Error("send: ", err)
					return
				}
				if seen.Add(int64(n)); n == 0 {
					_, _ = unix.Poll([]unix.PollFd{{Fd: int32(p.FD()), Events: unix.POLLIN}}, 1)
				}
			}
		}()
	}
	packet := b.gre(0, 0, 64)
	back := 0
	collect := func() {
		for p := b.wire.Recv(); p != nil; p = b.wire.Recv() {
			if bytes.Equal(p[:14], header) && p[23] == 47 {
				back++
			}
		}
	}
	dropped := func() (n int) {
		for w := range workers {
			n += int(d.Ports(w)[0].Stats().RxDropped)
		}
		return n
	}
	// What has arrived sets the pace. The far end's socket loses some of what
	// comes back when this thread does not get its turn.
	end := time.Now().Add(30*time.Second + time.Duration(total)*200*time.Microsecond)
	arrived := func() int { return int(seen.Load()) + dropped() }
	for i := range total {
		binary.BigEndian.PutUint16(packet[14+26:], uint16(i))
		b.send(packet)
		if i%64 == 63 {
			collect()
		}
		for i%64 == 63 && i-arrived() > ringSize/2 && time.Now().Before(end) {
			collect()
		}
	}
	for arrived() < total && time.Now().Before(end) {
		collect()
	}
	stop.Store(true)
	wg.Wait()
	collect()
	if lost := dropped(); int(seen.Load())+lost != total || wrong.Load() != 0 || lost > total/10 || back < total/2 || back > int(seen.Load()) {
		t.Errorf("of %d packets %d arrived and %d came back, %d at the wrong worker, %d dropped", total, seen.Load(), back, wrong.Load(), lost)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	free := 0
	for _, p := range b.pools {
		free += p.Free()
	}
	if free != workers*perWorker {
		t.Errorf("%d frames of %d are back", free, workers*perWorker)
	}
}
