package sock

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"xpptp/rings"
	"xpptp/rings/internal/stat"
)

// Port is what the socket backends have in common: all of rings.Port but
// Recv. A backend embeds it and fills it in.
type Port struct {
	About rings.Info
	Pool  *rings.Pool // where Recv takes frames
	Count stat.Counters

	// Mu guards what follows, and the backend's own state: Close and Stats
	// may come from any goroutine. The owner never waits for it else.
	Mu   sync.Mutex
	Sock int   // -1: closed
	Gone error // why the port is at its end

	Tx      *Sender
	Refused func(*rings.Frame, unix.Errno) bool // see Sender.Flush
	Dropped func() uint64                       // what the kernel has dropped since the last call
	Release func()                              // gives back what the backend holds
}

// Info implements rings.Port.
func (p *Port) Info() rings.Info { return p.About }

// FD implements rings.Port.
func (p *Port) FD() int { return p.Sock }

// Lost notes that the device or the socket is gone.
func (p *Port) Lost(e unix.Errno) {
	p.Gone = fmt.Errorf("%s: %w: %w", p.About.Name, e, rings.ErrPortDown)
}

// Send implements rings.Port.
func (p *Port) Send(fs []*rings.Frame) (int, error) {
	p.Mu.Lock()
	defer p.Mu.Unlock()
	if p.Gone != nil {
		return 0, p.Gone
	}
	n, e := p.Tx.Queue(fs, p.Refused)
	if e != 0 {
		p.Lost(e)
	}
	return n, p.Gone
}

// Flush implements rings.Port.
func (p *Port) Flush() error {
	p.Mu.Lock()
	defer p.Mu.Unlock()
	if p.Gone != nil {
		return p.Gone
	}
	if e := p.Tx.Flush(p.Refused); e != 0 {
		p.Lost(e)
	}
	return p.Gone
}

// Stats implements rings.Port. RxDropped counts what found the socket's
// buffer or ring full.
func (p *Port) Stats() rings.Stats {
	p.Mu.Lock()
	if p.Sock >= 0 {
		p.Count.RxDropped.Add(p.Dropped())
	}
	p.Mu.Unlock()
	return p.Count.Stats()
}

// Close implements rings.Port.
func (p *Port) Close() error {
	p.Mu.Lock()
	defer p.Mu.Unlock()
	if p.Sock < 0 {
		return nil
	}
	p.Count.RxDropped.Add(p.Dropped())
	p.Tx.Drop()
	p.Release()
	err := unix.Close(p.Sock)
	p.Sock = -1
	p.Gone = fmt.Errorf("%s: closed: %w", p.About.Name, rings.ErrPortDown)
	return err
}
