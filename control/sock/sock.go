// Package sock holds the few socket calls that control needs beyond net.
package sock

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// Stream is a TCP connection that can be written to without blocking. Reads
// go through the net.Conn as usual.
type Stream struct {
	net.Conn
	raw syscall.RawConn
}

// NewStream wraps a TCP connection.
func NewStream(c *net.TCPConn) (*Stream, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &Stream{c, raw}, nil
}

// TryWrite writes what the socket takes now: n < len(b) with a nil error means
// that it would block.
func (s *Stream) TryWrite(b []byte) (n int, err error) {
	cerr := s.raw.Write(func(fd uintptr) bool {
		n, err = unix.Write(int(fd), b)
		return true
	})
	if cerr != nil {
		return 0, cerr
	}
	switch {
	case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
		return 0, nil
	case err != nil:
		return 0, err
	}
	return n, nil
}

// WaitWritable blocks until the socket takes more, or is closed.
func (s *Stream) WaitWritable() error {
	first := true
	return s.raw.Write(func(uintptr) bool {
		if first {
			first = false
			return false
		}
		return true
	})
}

// RaiseNoFile raises the limit of open files to its hard limit: every control
// connection is one. It returns the limit now in force.
func RaiseNoFile() (uint64, error) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0, err
	}
	if l.Cur < l.Max {
		l.Cur = l.Max
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
			return 0, err
		}
	}
	return l.Cur, nil
}

// BindLate has a net.Dialer with a local address leave the choice of the port
// to connect(2): then a port serves once for every server, not once in all
// (IP_BIND_ADDRESS_NO_PORT).
func BindLate(_, _ string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	}); cerr != nil {
		return cerr
	}
	return err
}
