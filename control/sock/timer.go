package sock

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Timer is a descriptor for poll(2) that becomes readable at a set time, to
// some microseconds, and stays so until it is set again. Set may be called
// from any goroutine.
type Timer struct{ fd int }

// NewTimer makes a timer that is not set.
func NewTimer() (*Timer, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("timer: %w", err)
	}
	return &Timer{fd}, nil
}

// FD is the descriptor.
func (t *Timer) FD() int { return t.fd }

// Set makes the timer readable after d; at once if that is not above zero.
func (t *Timer) Set(d time.Duration) {
	_ = unix.TimerfdSettime(t.fd, 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(max(int64(d), 1))}, nil)
}

// Stop takes the timer back: it is not readable.
func (t *Timer) Stop() { _ = unix.TimerfdSettime(t.fd, 0, &unix.ItimerSpec{}, nil) }

// Close closes the timer.
func (t *Timer) Close() error { return unix.Close(t.fd) }

// Alarm is a Timer for a goroutine to wait for. A time.Timer is up to a
// millisecond late where nothing else goes on: that is what the runtime sleeps
// by.
type Alarm struct {
	f   *os.File
	raw syscall.RawConn
}

// NewAlarm makes an alarm that is not set.
func NewAlarm() (*Alarm, error) {
	t, err := NewTimer()
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(t.fd), "timer")
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("timer: %w", err), f.Close())
	}
	return &Alarm{f, raw}, nil
}

// Set has Wait return after d, at once if that is not above zero, in place of
// what was set before. Any goroutine may call it, also once the alarm is closed.
func (a *Alarm) Set(d time.Duration) {
	_ = a.raw.Control(func(fd uintptr) { (&Timer{int(fd)}).Set(d) })
}

// Wait waits until the alarm goes off; false: it is closed.
func (a *Alarm) Wait() bool {
	var times [8]byte
	_, err := a.f.Read(times[:])
	return err == nil
}

// Close closes the alarm and ends Wait.
func (a *Alarm) Close() error { return a.f.Close() }

// Monotonic returns a function that reads CLOCK_MONOTONIC, in nanoseconds,
// which all processes of a host share.
func Monotonic() func() int64 {
	var ts unix.Timespec
	var base int64
	start, best := time.Now(), time.Duration(math.MaxInt64)
	// The offset of time.Now, from the reading that was interrupted least: a
	// thread that loses its core in between would put all times wrong.
	for range 20 {
		before := time.Since(start)
		_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // every kernel has this clock
		if took := time.Since(start) - before; took < best {
			best, base = took, ts.Nano()-int64(before+took/2)
		}
	}
	return func() int64 { return base + int64(time.Since(start)) }
}

// ClockID is a number for the clock that Monotonic reads, the same in all
// processes that share it; 0 if that is not known.
func ClockID() uint32 {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return 0
	}
	// A time namespace moves the clock.
	offsets, _ := os.ReadFile("/proc/self/timens_offsets")
	h := fnv.New32a()
	_, _ = h.Write(boot)
	_, _ = h.Write(offsets)
	return max(h.Sum32(), 1)
}
