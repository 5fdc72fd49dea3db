package sock

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// CPUs lists the processors that the calling thread may run on.
func CPUs() ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("own processors: %w", err)
	}
	var cpus []int
	for i := 0; len(cpus) < set.Count(); i++ {
		if set.IsSet(i) {
			cpus = append(cpus, i)
		}
	}
	return cpus, nil
}

// Pin ties the calling thread, which its goroutine has locked, to a processor.
func Pin(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("pin to processor %d: %w", cpu, err)
	}
	return nil
}

// ThreadTime is the time that the calling thread has been running.
func ThreadTime() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts) // every kernel has this clock
	return time.Duration(ts.Nano())
}

// FrameSender sends link-layer frames on an interface and receives none.
type FrameSender struct{ fd int }

// NewFrameSender opens a sender on the interface with this index, in the
// network namespace of the calling thread. It needs CAP_NET_RAW.
func NewFrameSender(index int) (*FrameSender, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1) // saves work
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: index}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("packet socket: bind: %w", err)
	}
	return &FrameSender{fd}, nil
}

// Send sends a frame, link header included; it blocks while the socket's
// buffer is full.
func (s *FrameSender) Send(frame []byte) error {
	for {
		_, err := unix.Write(s.fd, frame)
		if err != unix.EINTR && err != unix.ENOBUFS {
			return err
		}
	}
}

// Close closes the sender.
func (s *FrameSender) Close() error { return unix.Close(s.fd) }
