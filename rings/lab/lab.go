// Package lab has inside ports without anything behind them, for load tests:
// Sink swallows what the calls carry, Reflect sends it back to them.
package lab

import (
	"fmt"
	"sync"

	"xpptp/rings"
	"xpptp/rings/internal/stat"
)

// Port is a Sink or a Reflect.
type Port struct {
	info    rings.Info
	count   stat.Counters
	reflect bool

	mu     sync.Mutex // Close and Stats against the owner
	closed error
	back   []*rings.Frame // a ring of packets on their way back
	head   int            // of the oldest
	n      int
}

var _ rings.Port = (*Port)(nil)

const batch = 64

// Sink returns a port that counts and swallows what is sent, and receives
// nothing.
func Sink(mtu int) *Port {
	return &Port{info: rings.Info{Name: "sink", Backend: "lab", Link: rings.LinkIP, MTU: mtu, Batch: batch}}
}

// Reflect returns a port that receives what is sent, in order, as its
// destination would return it: UDP with addresses and ports swapped, ICMP and
// ICMPv6 echo requests as replies. Everything else, and what finds size
// packets waiting, is dropped and counted (TxDropped).
//
// It has no descriptor to wait for: whoever sends to it receives until nothing
// is left before it sleeps.
func Reflect(mtu, size int) *Port {
	p := Sink(mtu)
	p.info.Name, p.reflect, p.back = "reflect", true, make([]*rings.Frame, size)
	return p
}

// Info implements rings.Port.
func (p *Port) Info() rings.Info { return p.info }

// FD implements rings.Port.
func (*Port) FD() int { return -1 }

// Stats implements rings.Port.
func (p *Port) Stats() rings.Stats { return p.count.Stats() }

// Recv implements rings.Port.
func (p *Port) Recv(fs []*rings.Frame) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n, bytes := min(len(fs), p.n), 0
	for i := range n {
		f := p.back[p.head]
		p.back[p.head] = nil
		if p.head++; p.head == len(p.back) {
			p.head = 0
		}
		fs[i] = f
		bytes += f.Len()
	}
	p.n -= n
	p.count.Rx(n, bytes)
	return n, p.closed
}

// Send implements rings.Port. It takes everything.
func (p *Port) Send(fs []*rings.Frame) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed != nil {
		return 0, p.closed
	}
	n, bytes := 0, 0
	for _, f := range fs {
		size := f.Len()
		switch {
		case size > p.info.MTU, p.reflect && !p.turn(f):
			p.count.TxDropped.Add(1)
			f.Free()
			continue
		case !p.reflect:
			f.Free()
		}
		n++
		bytes += size
	}
	p.count.Tx(n, bytes)
	return len(fs), nil
}

// turn makes f its own answer and lets it wait, if it can.
func (p *Port) turn(f *rings.Frame) bool {
	if p.n == len(p.back) || !turn(f.Data()) {
		return false
	}
	if f.Headroom() < rings.Headroom || f.Tailroom() < rings.Tailroom {
		if !f.Set(f.Data()) {
			return false
		}
	}
	at := p.head + p.n
	if at >= len(p.back) {
		at -= len(p.back)
	}
	p.back[at] = f
	p.n++
	return true
}

// Flush implements rings.Port.
func (p *Port) Flush() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// Close implements rings.Port.
func (p *Port) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for ; p.n > 0; p.n-- {
		p.back[p.head].Free()
		p.head = (p.head + 1) % len(p.back)
	}
	p.closed = fmt.Errorf("%s: closed: %w", p.info.Name, rings.ErrPortDown)
	return nil
}
