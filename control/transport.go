package control

import (
	"errors"
	"io"
	"net"
	"net/netip"

	"xpptp/control/sock"
)

// transport carries a control connection's octets. Writes never block.
type transport interface {
	// TryWrite writes what can be written now; n < len(b) means "later".
	TryWrite(b []byte) (n int, err error)
	// Writable calls f, once, when more can be written or the transport is
	// closed; not before it returns.
	Writable(f func())
	Close() error
}

// tcp is the transport of a TCP connection.
type tcp struct{ *sock.Stream }

// Writable implements transport. A goroutine waits, only while a peer reads
// slowly.
func (t tcp) Writable(f func()) {
	go func() {
		_ = t.WaitWritable() // a closed one is found out by the next write
		f()
	}()
}

// readChunk is how much is read from a control connection at a time; the
// longest message has 220 octets, and most have fewer.
const readChunk = 256

// serveTCP hands an open TCP connection to the loop: a goroutine of its own
// reads and posts, and writes only when the peer reads slowly.
func (l *Loop) serveTCP(nc *net.TCPConn, originator bool, up func(*conn)) error {
	st, err := sock.NewStream(nc)
	if err != nil {
		return err
	}
	local := nc.LocalAddr().(*net.TCPAddr).AddrPort()
	remote := nc.RemoteAddr().(*net.TCPAddr).AddrPort()
	local = netip.AddrPortFrom(local.Addr().Unmap(), local.Port())
	remote = netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())
	l.post(func() {
		c := l.addConn(tcp{st}, originator, local, remote)
		if up != nil {
			up(c)
		}
		go c.read(st)
	})
	return nil
}

// readAhead is how many chunks of a connection wait for the loop: a peer that
// floods waits, in TCP's own window. The usual message waits for nobody, and
// its reader need not be woken when it is done.
const readAhead = 2

// read posts what arrives until the connection ends.
func (c *conn) read(r io.Reader) {
	buf := make([]byte, readChunk)
	waiting := make(chan struct{}, readAhead)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			b := append([]byte(nil), buf[:n]...)
			waiting <- struct{}{}
			c.l.post(func() { <-waiting; c.input(b) })
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				err = nil
			}
			c.l.post(func() { c.lost(err) })
			return
		}
	}
}
