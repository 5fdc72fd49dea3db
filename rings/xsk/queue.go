package xsk

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"xpptp/rings"
	"xpptp/rings/internal/sock"
)

// queue is one receive and transmit queue of a device, as the sockets on it
// share it: the fill and the completion ring, and the account of which frames
// the kernel has.
type queue struct {
	arena *rings.Arena
	ports []*Port // one a worker

	// lock guards the rings. Workers only ever try it: whoever holds it does
	// the work for all.
	lock sync.Mutex
	fill ring[uint64]
	comp ring[uint64]
	open int // ports that are not closed

	// reserve is what a worker keeps to transmit with: where several share the
	// queue, those that receive end up with the frames that all have given.
	reserve int

	// with says of every frame of the arena who has it. An entry belongs to
	// whom it names.
	with []uint8

	// handed stands for the kernel where it brings a frame, and its entry of
	// with, from one worker to another: the rings order that in memory, but
	// Go's memory model and the race detector know nothing of them.
	handed atomic.Uint32
}

// give is called before frames are published to the kernel, take after frames
// came from it.
func (q *queue) give() {
	if len(q.ports) > 1 {
		q.handed.Add(1) // not a store: that would hide what others gave before
	}
}

func (q *queue) take() { _ = q.handed.Load() }

// Who has a frame; from withPort on: the kernel, sent by that port.
const (
	withUs     = iota
	withKernel // to receive into, or received and not yet taken
	withPort

	maxWorkers = 64
)

func newQueue(arena *rings.Arena) *queue {
	return &queue{arena: arena, with: make([]uint8, arena.Len())}
}

// frame returns the frame at an address of the UMEM, if who has it.
func (q *queue) frame(addr uint64, who uint8) (f *rings.Frame, ok bool) {
	i := addr / uint64(q.arena.Chunk())
	if i >= uint64(len(q.with)) || q.with[i] != who {
		return nil, false
	}
	q.with[i] = withUs
	return q.arena.Frame(uint32(i)), true
}

// refill gives frames of the pool to the kernel to receive into: all there is
// room for, once that is worth it, less the reserve. It reports false if the
// kernel has none left and the pool neither.
func (q *queue) refill(pool *rings.Pool) bool {
	if !q.lock.TryLock() {
		return true
	}
	defer q.lock.Unlock()
	size := len(q.fill.desc)
	room := q.fill.produce(size)
	if room < min(refillAt, size) {
		return true
	}
	n := max(min(room, pool.Free()-q.reserve), 0)
	chunk := uint64(q.arena.Chunk())
	for i := range n {
		f := pool.Get()
		q.with[f.Index()] = withKernel
		*q.fill.at(i) = uint64(f.Index()) * chunk
	}
	q.give()
	q.fill.publish(n)
	return room < size || n > 0
}

// refillAt is how many frames are missing before the fill ring is topped up.
const refillAt = 32

// reclaim takes back what the kernel has transmitted. Frames of other ports go
// to these by their return rings.
func (q *queue) reclaim(p *Port) {
	if !q.lock.TryLock() {
		return
	}
	defer q.lock.Unlock()
	n := q.comp.consume(len(q.comp.desc))
	q.take()
	chunk := uint64(q.arena.Chunk())
	for i := range n {
		idx := *q.comp.at(i) / chunk
		if idx >= uint64(len(q.with)) || q.with[idx] < withPort {
			continue
		}
		switch o := q.ports[q.with[idx]-withPort]; {
		case o == p:
			q.with[idx] = withUs
			q.arena.Frame(uint32(idx)).Free()
			p.inFlight--
		case !o.closed.Load():
			o.back.put(uint32(idx))
		} // frames of a closed port wait for the queue's end
	}
	q.comp.publish(n)
}

// leave is called by every port that is closed. The last one releases the
// rings and gives every frame that the kernel still has back to its pool.
func (q *queue) leave() {
	q.lock.Lock()
	defer q.lock.Unlock()
	if q.open--; q.open > 0 {
		return
	}
	q.fill.unmap()
	q.comp.unmap()
	for i, w := range q.with {
		if w != withUs {
			q.with[i] = withUs
			q.arena.Frame(uint32(i)).Free()
		}
	}
}

// returns is a single-producer single-consumer ring of frames on their way
// back to the port that sent them. Who holds the queue's lock produces. It has
// room for all that a port can have in flight.
type returns struct {
	idx  []uint32
	mask uint32
	_    [64]byte
	tail atomic.Uint32 // producer's
	_    [60]byte
	head atomic.Uint32 // consumer's
}

func newReturns(n int) *returns { return &returns{idx: make([]uint32, n), mask: uint32(n - 1)} }

func (r *returns) put(i uint32) {
	t := r.tail.Load()
	r.idx[t&r.mask] = i
	r.tail.Store(t + 1)
}

// drain hands f every frame that has come back.
func (r *returns) drain(f func(uint32)) {
	h, t := r.head.Load(), r.tail.Load()
	if h == t {
		return
	}
	for ; h != t; h++ {
		f(r.idx[h&r.mask])
	}
	r.head.Store(h)
}

// patience is how long the kernel may take to let go of a queue whose last
// user has just closed it.
const patience = 5 * time.Second

// socket opens an AF_XDP socket on a queue. The first socket brings the
// queue's rings; others join it by name.
func (q *queue) socket(ifindex, number, size int, flags uint16, first int) (p *Port, err error) {
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		p, err = q.trySocket(ifindex, number, size, flags, first)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			return p, err
		}
	}
}

func (q *queue) trySocket(ifindex, number, size int, flags uint16, first int) (p *Port, err error) {
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("AF_XDP socket: %w", err)
	}
	p = &Port{fd: fd, q: q}
	defer func() {
		if err != nil {
			p.unmap()
			if first < 0 {
				q.fill.unmap()
				q.comp.unmap()
			}
			unix.Close(fd)
			p = nil
		}
	}()
	set := func(opt, n int, what string) {
		if err == nil {
			if err = unix.SetsockoptInt(fd, unix.SOL_XDP, opt, n); err != nil {
				err = fmt.Errorf("%s ring of %d: %w", what, n, err)
			}
		}
	}
	if first < 0 {
		if err = register(fd, q.arena.Mem(), q.arena.Chunk()); err != nil {
			return p, err
		}
		set(unix.XDP_UMEM_FILL_RING, size, "fill")
		set(unix.XDP_UMEM_COMPLETION_RING, 2*size, "completion")
	}
	set(unix.XDP_RX_RING, size, "receive")
	set(unix.XDP_TX_RING, size, "transmit")
	if err != nil {
		return p, err
	}
	off, err := getOption[unix.XDPMmapOffsets](fd, unix.XDP_MMAP_OFFSETS)
	if err != nil {
		return p, err
	}
	if first < 0 {
		if q.fill, err = mapRing[uint64](fd, unix.XDP_UMEM_PGOFF_FILL_RING, off.Fr, size, true); err != nil {
			return p, err
		}
		if q.comp, err = mapRing[uint64](fd, unix.XDP_UMEM_PGOFF_COMPLETION_RING, off.Cr, 2*size, false); err != nil {
			return p, err
		}
	}
	if p.rx, err = mapRing[unix.XDPDesc](fd, unix.XDP_PGOFF_RX_RING, off.Rx, size, false); err != nil {
		return p, err
	}
	if p.tx, err = mapRing[unix.XDPDesc](fd, unix.XDP_PGOFF_TX_RING, off.Tx, size, true); err != nil {
		return p, err
	}
	p.sent = p.tx.own
	sa := &unix.SockaddrXDP{Flags: flags, Ifindex: uint32(ifindex), QueueID: uint32(number)}
	if first >= 0 { // flags are the first socket's
		sa.Flags, sa.SharedUmemFD = unix.XDP_SHARED_UMEM, uint32(first)
	}
	if err = unix.Bind(fd, sa); err != nil {
		return p, fmt.Errorf("bind: %w", err)
	}
	// Kernels before 6.17 do not know it and take 32 frames a call.
	_ = unix.SetsockoptInt(fd, unix.SOL_XDP, unix.XDP_MAX_TX_SKB_BUDGET, txBudget)
	// Without zero-copy what the device has not sent yet counts as the socket's.
	sock.Buffers(fd, sendBuffer)
	return p, nil
}

const (
	txBudget   = 256
	sendBuffer = 8 << 20
)
