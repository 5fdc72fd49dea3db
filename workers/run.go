package workers

import (
	"math"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// idlePolls is how many empty turns an adaptive worker makes, after the last
// that carried data, before it sleeps.
const idlePolls = 200

// While a worker is idle it computes MPPE keys ahead: for so many directions,
// so many keys each (16 bytes a key), so many between two looks at the ports:
// some microseconds, which is the most that a packet may wait for it.
const (
	aheadDirections = 64
	aheadKeys       = 256
	aheadAtOnce     = 16
)

// maxSleep bounds one sleep, so that a lost wake-up could only delay.
var maxSleep = time.Second // a variable for the test that no wake-up is lost

// wakeFD is an eventfd that ends a worker's poll(2).
type wakeFD struct{ fd int }

func (e *wakeFD) open() (err error) {
	e.fd, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	return err
}

func (e *wakeFD) wake() { _, _ = unix.Write(e.fd, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }

func (e *wakeFD) drain() {
	var b [8]byte
	_, _ = unix.Read(e.fd, b[:])
}

// Run polls until Stop, or until a port is gone: then it returns that error.
// It occupies the calling goroutine's thread, pinned to the configured core.
// clock is the monotonic clock in nanoseconds.
func (w *Worker) Run(clock func() int64) error {
	runtime.LockOSThread()
	if w.cfg.CPU >= 0 {
		var set unix.CPUSet
		set.Set(w.cfg.CPU)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return err
		}
		// The thread keeps its affinity: it ends with the goroutine.
	} else {
		defer runtime.UnlockOSThread()
	}
	fds := w.pollSet()
	w.account.clock = clock
	idle := 0
	for !w.stop.Load() {
		now := clock()
		w.turn(now)
		busy := w.Step(now)
		w.sideHas = false
		if busy {
			if w.carried { // what control has to say is not followed by more at once
				idle, w.carried = 0, false
			}
			continue
		}
		if err := w.down.Load(); err != nil {
			return err
		}
		if w.mppe.Ahead(aheadAtOnce) > 0 {
			continue
		}
		idle++
		if w.cfg.Mode == Spin || w.cfg.Mode == Adaptive && idle < idlePolls {
			continue
		}
		w.sleep(fds, clock)
	}
	w.Step(clock()) // what was posted before Stop is done
	return nil
}

// sleep waits in poll(2) for a port, a command or the next deadline.
func (w *Worker) sleep(fds []unix.PollFd, clock func() int64) {
	// No lost wake-up: whoever posts after this store writes to the eventfd;
	// what was posted before is seen by the load below.
	w.sleeping.Store(true)
	defer w.sleeping.Store(false)
	if w.mail.pending.Load() || w.stop.Load() || w.handed() {
		return
	}
	d := maxSleep
	if next := w.wheel.Next(); next != math.MaxInt64 {
		d = min(d, time.Duration(next-clock()))
	}
	if d <= 0 {
		return
	}
	w.loops.Sleeps++
	ts := unix.NsecToTimespec(int64(d))
	_, _ = unix.Ppoll(fds, &ts, nil)
	for _, fd := range fds {
		switch {
		case fd.Revents == 0:
		case fd.Fd == int32(w.wakefd.fd):
			w.wakefd.drain()
		case w.cfg.Side != nil && fd.Fd == int32(w.cfg.Side.FD()):
			w.sideHas = true
		}
	}
}

func (w *Worker) pollSet() []unix.PollFd {
	fds := []unix.PollFd{{Fd: int32(w.wakefd.fd), Events: unix.POLLIN}}
	for _, p := range w.ports() {
		if fd := p.FD(); fd >= 0 {
			fds = append(fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
		}
	}
	return fds
}

// Stop makes Run return after its current turn.
func (w *Worker) Stop() {
	w.stop.Store(true)
	w.wakefd.wake()
}

// Close releases what New took, and takes back what is on its way from others;
// no worker of the team may be running.
func (w *Worker) Close() {
	_ = unix.Close(w.wakefd.fd)
	for i := range w.peers {
		for n := w.peers[i].from.Pop(w.rx[:]); n > 0; n = w.peers[i].from.Pop(w.rx[:]) {
			for _, f := range w.rx[:n] {
				w.cfg.Pool.Adopt(f)
				f.Free()
			}
		}
	}
}

// Lost returns how many frames of the pool are nowhere: neither free nor
// waiting. Once all workers and ports of a box are closed the sum of all
// workers is 0, or a frame has leaked.
func (w *Worker) Lost() int { return w.cfg.Pool.Size() - w.cfg.Pool.Free() - w.Waiting() }
