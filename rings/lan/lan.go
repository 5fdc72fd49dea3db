// Package lan is the inside port on a network interface: packets between the
// calls and those whom the interface reaches pass by the kernel, on AF_XDP
// sockets. Whatever is not as simple as that goes through the kernel by a TUN
// device: to and from the host itself and its other interfaces, a hop limit
// that runs out, a packet that is too large, a neighbour that is not known yet
// or does not answer. So the kernel holds back what waits for a neighbour, and
// writes the ICMP errors.
//
// Addresses of calls that lie in the interface's own network are answered for:
// ARP (RFC 826) and Neighbor Solicitations (RFC 4861 §7.2.8), as the XDP
// program hands them over. Nothing of this outlives the process.
package lan

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"

	"xpptp/rings"
	"xpptp/rings/internal/stat"
	"xpptp/rings/nexthop"
)

// Config says what a port is put together of. It is closed with the port.
type Config struct {
	NIC  []rings.Port // the worker's sockets on the interface, one a queue: Ethernet
	Send int          // which of them sends
	Host rings.Port   // to the kernel: IP

	// Hops knows the ways that leave by the interface.
	Hops interface {
		Hop(dst netip.Addr) *nexthop.Hop
	}
}

// Port is one worker's inside port.
type Port struct {
	info  rings.Info
	nic   []rings.Port
	tx    rings.Port // one of nic
	host  rings.Port
	ways  cache
	epoll int
	count stat.Counters

	mu     sync.Mutex // Close and Stats against the owner
	closed error
	turn   int            // port that receives first
	out    []*rings.Frame // by the interface
	up     []*rings.Frame // to the kernel
	answer []*rings.Frame // to who asks for an address
}

var _ rings.Port = (*Port)(nil)

const (
	burst  = 64
	rounds = 4 // bursts of requests alone before Recv returns with nothing
)

// New puts a port together. On an error the parts stay the caller's.
func New(cfg Config) (p *Port, err error) {
	p = &Port{
		info: cfg.NIC[0].Info(), nic: cfg.NIC, tx: cfg.NIC[cfg.Send], host: cfg.Host,
		out: make([]*rings.Frame, 0, burst), up: make([]*rings.Frame, 0, burst), answer: make([]*rings.Frame, 0, burst),
	}
	p.info.Backend += "+" + cfg.Host.Info().Backend
	p.info.Link = rings.LinkIP
	p.ways.init(cfg.Hops.Hop)
	if p.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("rings: %s: epoll: %w", p.info.Name, err)
	}
	for _, part := range p.parts() {
		if fd := part.FD(); fd >= 0 {
			e := &unix.EpollEvent{Events: unix.EPOLLIN}
			if err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, e); err != nil {
				unix.Close(p.epoll)
				return nil, fmt.Errorf("rings: %s: epoll: %w", p.info.Name, err)
			}
		}
	}
	return p, nil
}

func (p *Port) parts() []rings.Port { return append(p.nic[:len(p.nic):len(p.nic)], p.host) }

// Info implements rings.Port: it is of the interface.
func (p *Port) Info() rings.Info { return p.info }

// FD implements rings.Port: it is readable when a part's is.
func (p *Port) FD() int { return p.epoll }

// Recv implements rings.Port. The interface and the kernel come first by turns.
func (p *Port) Recv(fs []*rings.Frame) (n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed != nil {
		return 0, p.closed
	}
	bytes := 0
	for range rounds {
		got := 0
		for i := range len(p.nic) + 1 {
			if n == len(fs) {
				break
			}
			at := (p.turn + i) % (len(p.nic) + 1)
			part := p.host
			if at < len(p.nic) {
				part = p.nic[at]
			}
			k, e := part.Recv(fs[n:])
			got += k
			if part == p.host {
				n += k
			} else {
				n += p.sift(part, fs[n:n+k])
			}
			if err == nil {
				err = e
			}
		}
		if n > 0 || got == 0 || err != nil {
			break
		}
	}
	if p.turn++; p.turn > len(p.nic) {
		p.turn = 0
	}
	for _, f := range fs[:n] {
		bytes += f.Len()
	}
	p.count.Rx(n, bytes)
	if n > 0 {
		return n, nil // what is wrong shows next time
	}
	return 0, err
}

// sift keeps the packets to pass on, as IP, at the beginning of fs, answers
// the questions, and returns how many it kept.
func (p *Port) sift(from rings.Port, fs []*rings.Frame) (n int) {
	for _, f := range fs {
		switch arrive(f, p.info.MAC) {
		case pass:
			fs[n] = f
			n++
		case reply:
			p.answer = append(p.answer, f)
		case bad:
			p.count.RxDropped.Add(1)
			f.Free()
		}
	}
	if len(p.answer) > 0 {
		k, _ := from.Send(p.answer) // an error shows when receiving
		for _, f := range p.answer[k:] {
			f.Free()
		}
		p.answer = p.answer[:0]
	}
	return n
}

// Send implements rings.Port. It takes everything; what neither the interface
// nor the kernel has room for is dropped and counted.
func (p *Port) Send(fs []*rings.Frame) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed != nil {
		return 0, p.closed
	}
	var err error
	for n := 0; n < len(fs); {
		k := min(len(fs)-n, burst)
		err = errors.Join(err, p.send(fs[n:n+k]))
		n += k
	}
	return len(fs), err
}

func (p *Port) send(fs []*rings.Frame) error {
	for _, f := range fs {
		if !p.depart(f) {
			p.up = append(p.up, f)
		}
	}
	var errs [2]error
	for i, to := range []struct {
		port rings.Port
		fs   *[]*rings.Frame
	}{{p.tx, &p.out}, {p.host, &p.up}} {
		if len(*to.fs) == 0 {
			continue
		}
		bytes := 0
		for _, f := range *to.fs {
			bytes += f.Len()
		}
		var n int
		n, errs[i] = to.port.Send(*to.fs)
		for _, f := range (*to.fs)[n:] {
			bytes -= f.Len()
			f.Free()
		}
		p.count.TxDropped.Add(uint64(len(*to.fs) - n))
		p.count.Tx(n, bytes)
		*to.fs = (*to.fs)[:0]
	}
	return errors.Join(errs[0], errs[1])
}

// depart sends f by the interface, as a router would, and reports whether that
// is its way.
func (p *Port) depart(f *rings.Frame) bool {
	b := f.Data()
	dst, ok := destination(b)
	if !ok {
		return false
	}
	w := p.ways.to(dst)
	if w == nil || w.State != nexthop.Ready || len(b) > w.MTU || w.Index != p.info.Index {
		return false
	}
	age(b)
	h := w.Header()
	copy(f.Push(len(h)), h)
	p.out = append(p.out, f)
	return true
}

// Flush implements rings.Port.
func (p *Port) Flush() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed != nil {
		return p.closed
	}
	err := p.host.Flush()
	for _, part := range p.nic {
		if e := part.Flush(); err == nil {
			err = e
		}
	}
	return err
}

// Stats implements rings.Port: packets as they pass here, and what the parts
// have dropped.
func (p *Port) Stats() rings.Stats {
	s := p.count.Stats()
	for _, part := range p.parts() {
		t := part.Stats()
		s.RxDropped += t.RxDropped
		s.RxNoFrame += t.RxNoFrame
		s.RxTruncated += t.RxTruncated
		s.TxDropped += t.TxDropped
		s.TxPackets -= min(s.TxPackets, t.TxDropped)
		s.Kicks += t.Kicks
		s.Copies += t.Copies
	}
	return s
}

// Parts returns what the parts have counted: the interface's ports, then the
// kernel's.
func (p *Port) Parts() []rings.Stats {
	var s []rings.Stats
	for _, part := range p.parts() {
		s = append(s, part.Stats())
	}
	return s
}

// Close implements rings.Port. It closes the parts too.
func (p *Port) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed != nil {
		return nil
	}
	p.closed = fmt.Errorf("%s: closed: %w", p.info.Name, rings.ErrPortDown)
	p.ways.clear()
	err := unix.Close(p.epoll)
	for _, part := range p.parts() {
		err = errors.Join(err, part.Close())
	}
	return err
}
