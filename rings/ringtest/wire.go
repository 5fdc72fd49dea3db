package ringtest

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

// Wire is a packet socket on one interface: what stands at the other end of a
// port under test.
type Wire struct {
	fd  int
	buf []byte
}

// NewWire opens a wire on an interface.
func NewWire(t testing.TB, i *Iface) *Wire {
	t.Helper()
	w := &Wire{buf: make([]byte, 1<<16)}
	i.NS.Do(func() {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Skipf("needs the right to open packet sockets: %v", err)
		}
		w.fd = fd
		t.Cleanup(func() { unix.Close(fd) })
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 8<<20)
		_ = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
		all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
		if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index}); err != nil {
			t.Fatalf("bind to %s: %v", i.Name, err)
		}
	})
	return w
}

// Send transmits a frame, link header included.
func (w *Wire) Send(p []byte) error {
	for {
		_, err := unix.Write(w.fd, p)
		if err != unix.EINTR && err != unix.EAGAIN {
			return err
		}
	}
}

// Recv returns the next frame that arrived, valid until the next call; nil if
// there is none.
func (w *Wire) Recv() []byte {
	for {
		n, err := unix.Read(w.fd, w.buf)
		switch err {
		case nil:
			return w.buf[:n]
		case unix.EINTR, unix.ENETDOWN: // the latter once after a link flap
		default:
			return nil
		}
	}
}
