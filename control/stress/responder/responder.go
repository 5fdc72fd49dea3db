// Package responder is the far end of test traffic: behind the server under
// test it answers packets of xpptp stress. It sends test packets back, with the
// time at which they came, counts those that are not to be sent back, and sends
// streams of its own to whoever asks, for as long as they go on asking.
package responder

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"xpptp/control/sock"
)

// Config describes a responder. Zero values take the defaults.
type Config struct {
	Listen  []netip.AddrPort // at least one
	Sockets int              // for each address, a thread or two each; as many as processors
	Streams int              // that each socket remembers; 65,536
	Rate    float64          // of packets that all streams sent on request have together, a second; 1,000,000
}

// Stats is what a responder has done so far.
type Stats struct {
	Received  uint64 `json:"received"`  // test packets
	Echoed    uint64 `json:"echoed"`    // of these, sent back
	Counted   uint64 `json:"counted"`   // of these, not to be sent back
	Corrupted uint64 `json:"corrupted"` // with other bits than they were sent with; sent back as they are
	Foreign   uint64 `json:"foreign"`   // not test packets, or answers to one
	Requests  uint64 `json:"requests"`
	Refused   uint64 `json:"refused"` // requests that were senseless, or beyond the bounds
	Sent      uint64 `json:"sent"`    // packets sent on request
	Late      uint64 `json:"late"`    // of these, more than 1 ms late
	Unsent    uint64 `json:"unsent"`  // packets that the kernel did not take
}

type counters struct {
	received, echoed, counted, corrupted, foreign, requests, refused, sent, late, unsent atomic.Uint64
}

func (c *counters) add(s *Stats) {
	s.Received += c.received.Load()
	s.Echoed += c.echoed.Load()
	s.Counted += c.counted.Load()
	s.Corrupted += c.corrupted.Load()
	s.Foreign += c.foreign.Load()
	s.Requests += c.requests.Load()
	s.Refused += c.refused.Load()
	s.Sent += c.sent.Load()
	s.Late += c.late.Load()
	s.Unsent += c.unsent.Load()
}

// Responder answers on a number of sockets.
type Responder struct {
	ports []*port
	rate  rate
}

// batcher is an ipv4.PacketConn or an ipv6.PacketConn.
type batcher interface {
	ReadBatch(ms []ipv4.Message, flags int) (int, error)
	WriteBatch(ms []ipv4.Message, flags int) (int, error)
}

// port is one socket and the streams that come by it.
type port struct {
	conn  *net.UDPConn
	batch batcher
	bank  *bank
	count counters
}

const (
	batchLen  = 64
	bufferLen = 4096
)

// Open opens the sockets. Nothing is answered before Run.
func Open(cfg Config) (*Responder, error) {
	if len(cfg.Listen) == 0 {
		return nil, errors.New("responder: no address to listen on")
	}
	if cfg.Sockets <= 0 {
		cfg.Sockets = runtime.NumCPU()
	}
	if cfg.Streams <= 0 {
		cfg.Streams = 1 << 16
	}
	if cfg.Rate <= 0 {
		cfg.Rate = 1e6
	}
	r := &Responder{rate: rate{most: cfg.Rate}}
	clock, id := sock.Monotonic(), sock.ClockID()
	for _, a := range cfg.Listen {
		for range cfg.Sockets {
			conn, err := sock.ListenUDP(a)
			if err != nil {
				r.close()
				return nil, fmt.Errorf("responder: listen on %v: %w", a, err)
			}
			a = conn.LocalAddr().(*net.UDPAddr).AddrPort() // the others take the same port
			p := &port{conn: conn}
			p.batch = ipv4.NewPacketConn(conn)
			v6 := a.Addr().Is6()
			if v6 {
				p.batch = ipv6.NewPacketConn(conn)
			}
			p.bank = newBank(bankConfig{clock: clock, clockID: id, streams: cfg.Streams, v6: v6, rate: &r.rate, count: &p.count})
			r.ports = append(r.ports, p)
		}
	}
	return r, nil
}

// Addrs returns the addresses that are listened on, one for each socket.
func (r *Responder) Addrs() (as []netip.AddrPort) {
	for _, p := range r.ports {
		as = append(as, p.conn.LocalAddr().(*net.UDPAddr).AddrPort())
	}
	return as
}

// Stats returns the counts so far. It may be called from any goroutine.
func (r *Responder) Stats() (s Stats) {
	for _, p := range r.ports {
		p.count.add(&s)
	}
	return s
}

func (r *Responder) close() {
	for _, p := range r.ports {
		_ = p.conn.Close()
	}
}

// Run answers until ctx ends, and closes the sockets.
func (r *Responder) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make(chan error, len(r.ports))
	var running sync.WaitGroup
	for _, p := range r.ports {
		running.Go(func() { errs <- p.answer() })
		running.Go(func() { p.send(ctx) })
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-errs:
		cancel()
	}
	r.close()
	running.Wait()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return err
}

func newMessages() []ipv4.Message {
	ms := make([]ipv4.Message, batchLen)
	for i := range ms {
		ms[i].Buffers = [][]byte{make([]byte, bufferLen)}
	}
	return ms
}

// answer answers what comes in until the socket is closed.
func (p *port) answer() error {
	in := newMessages()
	out := make([]ipv4.Message, 0, batchLen)
	for {
		n, err := p.batch.ReadBatch(in, 0)
		if err != nil {
			return err
		}
		now := p.bank.clock()
		out = out[:0]
		p.bank.mu.Lock()
		for i := range in[:n] {
			m := &in[i]
			if k := p.bank.handle(m.Buffers[0], m.N, m.Addr, now); k > 0 {
				out = append(out, ipv4.Message{Buffers: [][]byte{m.Buffers[0][:k]}, Addr: m.Addr})
			}
		}
		p.bank.mu.Unlock()
		p.write(out)
	}
}

// write sends all of ms; what the kernel refuses is counted.
func (p *port) write(ms []ipv4.Message) {
	for len(ms) > 0 {
		n, err := p.batch.WriteBatch(ms, 0)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			p.count.unsent.Add(1)
			n = max(n, 0) + 1 // the one it did not take
		}
		ms = ms[min(n, len(ms)):]
	}
}

// send sends the streams that were asked for until ctx ends.
func (p *port) send(ctx context.Context) {
	// Sleeping and pacing are this thread's.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ms := newMessages()
	for ctx.Err() == nil {
		p.bank.mu.Lock()
		n, next := p.bank.produce(ms, p.bank.clock())
		p.bank.mu.Unlock()
		if n > 0 {
			p.write(ms[:n])
			for i := range ms[:n] {
				ms[i].Buffers[0] = ms[i].Buffers[0][:bufferLen]
			}
			continue
		}
		select {
		case <-p.bank.wake:
		default:
			if d := time.Duration(next - p.bank.clock()); d > 10*time.Millisecond {
				select {
				case <-p.bank.wake:
				case <-time.After(d - 5*time.Millisecond):
				case <-ctx.Done():
				}
			} else if d > 0 {
				sock.Nap(d)
			}
		}
	}
}
