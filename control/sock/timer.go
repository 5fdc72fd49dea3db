package sock

import (
	"fmt"
	"hash/fnv"
	"os"
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

// Monotonic returns a function that reads CLOCK_MONOTONIC, in nanoseconds,
// which all processes of a host share.
func Monotonic() func() int64 {
	var ts unix.Timespec
	start := time.Now()
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // every kernel has this clock
	base := ts.Nano()
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
