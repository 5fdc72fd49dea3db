// Package mem is a pair of ports in memory, for tests and for benchmarks
// without I/O: what one end sends, the other receives, copied into a frame of
// its own pool. A function in the middle can play a bad link.
package mem

import (
	"fmt"
	"sync"
	"sync/atomic"

	"xpptp/rings"
	"xpptp/rings/internal/stat"
)

// Link is a simulated link in one direction. It is called with every frame
// that is flushed, and calls deliver for each frame that shall arrive: none
// to lose, twice to duplicate, later (with a copy: frame is only valid during
// the call) to delay or reorder. Both run in the sender's goroutine; a later
// deliver must too. What does not fit the receiver's ring is dropped and
// counted there (RxDropped).
type Link func(frame []byte, deliver func(frame []byte))

// Config describes a pair. Zero values take the defaults.
type Config struct {
	Link         rings.Link
	MTU          int         // largest IP packet, 1500
	Batch        int         // 64
	Ring         int         // frames that wait in each direction, 256
	PoolA, PoolB *rings.Pool // where each end receives; nil: 1024 frames of its own
	AtoB, BtoA   Link        // nil: everything arrives at once, in order
	MACA, MACB   [6]byte
}

// ethernetHeader is the length of an Ethernet header with one VLAN tag.
const ethernetHeader = 18

// Port is one end of a pair. The two ends may be used by two goroutines.
type Port struct {
	info rings.Info
	pool *rings.Pool
	in   *ring // towards us
	out  *ring // towards the other end
	max  int   // largest frame
	link Link
	late func([]byte) // what link delivers with
	wake atomic.Pointer[func()]
	peer *Port

	mu     sync.Mutex // Close against the owner; never contended else
	pend   []*rings.Frame
	closed bool

	gone  atomic.Bool // closed, as the other end sees it
	stats stat.Counters
}

// Pair returns two connected ports. It panics when the pools' chunks are too
// small for the MTU, or a number is negative.
func Pair(cfg Config) (a, b *Port) {
	def := func(v *int, d int) {
		if *v < 0 {
			panic(fmt.Sprintf("mem: negative setting %d", *v))
		}
		if *v == 0 {
			*v = d
		}
	}
	def(&cfg.MTU, 1500)
	def(&cfg.Batch, 64)
	def(&cfg.Ring, 256)
	size := cfg.MTU
	if cfg.Link == rings.LinkEthernet {
		size += ethernetHeader
	}
	ab, ba := newRing(cfg.Ring, size), newRing(cfg.Ring, size)
	end := func(name string, mac [6]byte, pool *rings.Pool, in, out *ring, l Link) *Port {
		if pool == nil {
			chunk := rings.ChunkSmall
			if size > rings.Room(chunk) {
				chunk = rings.ChunkLarge
			}
			pool = rings.NewPoolN(1024, chunk)
		}
		if size > rings.Room(pool.Chunk()) {
			panic(fmt.Sprintf("mem: MTU %d does not fit frames of %d bytes", cfg.MTU, pool.Chunk()))
		}
		p := &Port{
			info: rings.Info{Name: "mem:" + name, Backend: "mem", Link: cfg.Link, MAC: mac, MTU: cfg.MTU, Batch: cfg.Batch},
			pool: pool, in: in, out: out, max: size, link: l, pend: make([]*rings.Frame, 0, cfg.Ring),
		}
		p.late = func(b []byte) { p.deliver(b); p.wakePeer() }
		return p
	}
	a = end("a", cfg.MACA, cfg.PoolA, ba, ab, cfg.AtoB)
	b = end("b", cfg.MACB, cfg.PoolB, ab, ba, cfg.BtoA)
	a.peer, b.peer = b, a
	return a, b
}

// SetWake sets what the other end calls, in its own goroutine, after it has
// put frames into this port's ring: it stands in for poll(2).
func (p *Port) SetWake(f func()) { p.wake.Store(&f) }

// Inject puts a frame into the other end's ring, as a simulated link does with
// what arrives: for one that chooses among several pairs. In the goroutine of
// the Link.
func (p *Port) Inject(frame []byte) { p.late(frame) }

// Pool returns the pool that the port receives into.
func (p *Port) Pool() *rings.Pool { return p.pool }

// Waiting returns the number of frames that Recv would find.
func (p *Port) Waiting() int { return p.in.used() }

// Info implements rings.Port.
func (p *Port) Info() rings.Info { return p.info }

// FD implements rings.Port: there is none.
func (p *Port) FD() int { return -1 }

// Stats implements rings.Port.
func (p *Port) Stats() rings.Stats { return p.stats.Stats() }

// Recv implements rings.Port.
func (p *Port) Recv(fs []*rings.Frame) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0, p.down()
	}
	n, bytes := 0, 0
	for n < len(fs) {
		b := p.in.peek()
		if b == nil {
			break
		}
		f := p.pool.Get()
		if f == nil {
			p.stats.RxNoFrame.Add(1)
			break
		}
		f.Set(b) // fits: checked in Pair
		p.in.pop()
		fs[n] = f
		n++
		bytes += len(b)
	}
	p.stats.Rx(n, bytes)
	return n, nil
}

// Send implements rings.Port. Without a simulated link it takes no more than
// the other end has room for.
func (p *Port) Send(fs []*rings.Frame) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0, p.down()
	}
	room := cap(p.pend) - len(p.pend)
	if p.link == nil {
		room -= p.out.used()
	}
	n := min(len(fs), max(room, 0))
	p.pend = append(p.pend, fs[:n]...)
	if n < len(fs) {
		p.stats.TxFull.Add(uint64(len(fs) - n))
	}
	return n, nil
}

// Flush implements rings.Port.
func (p *Port) Flush() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return p.down()
	}
	if len(p.pend) == 0 {
		return nil
	}
	p.stats.Kicks.Add(1)
	n, bytes := 0, 0
	for i, f := range p.pend {
		switch {
		case p.peer.gone.Load() || f.Len() > p.max:
			p.stats.TxDropped.Add(1)
		case p.link != nil:
			p.link(f.Data(), p.late)
			n, bytes = n+1, bytes+f.Len()
		default:
			p.deliver(f.Data())
			n, bytes = n+1, bytes+f.Len()
		}
		f.Free()
		p.pend[i] = nil
	}
	p.pend = p.pend[:0]
	p.stats.Tx(n, bytes)
	p.wakePeer()
	return nil
}

func (p *Port) wakePeer() {
	if w := p.peer.wake.Load(); w != nil && p.out.used() > 0 {
		(*w)()
	}
}

// deliver puts a frame into the other end's ring.
func (p *Port) deliver(b []byte) {
	if !p.out.push(b) {
		p.peer.stats.RxDropped.Add(1)
	}
}

// Close implements rings.Port. What the other end has not yet received stays
// for it; what it sends from now on is dropped.
func (p *Port) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	p.gone.Store(true)
	for _, f := range p.pend {
		f.Free()
	}
	p.pend = nil
	return nil
}

func (p *Port) down() error { return fmt.Errorf("%s: closed: %w", p.info.Name, rings.ErrPortDown) }

// ring is a queue of packets for one producer and one consumer.
type ring struct {
	slots []slot
	size  uint32
	_     [64]byte
	head  atomic.Uint32 // next to pop; written by the consumer
	_     [64]byte
	tail  atomic.Uint32 // next to push; written by the producer
}

type slot struct {
	buf []byte
	n   int
}

func newRing(n, size int) *ring {
	mem := make([]byte, n*size)
	r := &ring{slots: make([]slot, n), size: uint32(n)}
	for i := range r.slots {
		r.slots[i].buf = mem[i*size : (i+1)*size]
	}
	return r
}

// used returns how many packets wait. head and tail run from 0 to 2*size-1,
// so that full and empty differ without a modulus of the whole range.
func (r *ring) used() int {
	u := int(r.tail.Load()) - int(r.head.Load())
	if u < 0 {
		u += 2 * int(r.size)
	}
	return u
}

func (r *ring) next(i uint32) uint32 {
	if i++; i == 2*r.size {
		return 0
	}
	return i
}

func (r *ring) at(i uint32) *slot {
	if i >= r.size {
		i -= r.size
	}
	return &r.slots[i]
}

func (r *ring) push(b []byte) bool {
	if r.used() == int(r.size) {
		return false
	}
	t := r.tail.Load()
	s := r.at(t)
	if len(b) > len(s.buf) {
		return false
	}
	s.n = copy(s.buf, b)
	r.tail.Store(r.next(t))
	return true
}

// peek returns the oldest packet, valid until pop, or nil.
func (r *ring) peek() []byte {
	if r.used() == 0 {
		return nil
	}
	s := r.at(r.head.Load())
	return s.buf[:s.n]
}

func (r *ring) pop() { r.head.Store(r.next(r.head.Load())) }
