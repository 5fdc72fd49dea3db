// Package rings moves frames: the buffers (Arena, Pool, Frame), the one I/O
// seam (Port) and, in sub-packages, what stands behind it: mem (tests),
// tpacket, tun, rawgre, xsk, asavie; and nexthop, which knows from the
// kernel's routes and neighbours where a frame has to go.
package rings

import (
	"fmt"
	"sync/atomic"
)

// The room every received frame has around its data, and the sizes of frames.
const (
	Headroom = 128 // bytes free before the data of a received frame, at least
	Tailroom = 64  // bytes free after it, at least (the contract of every backend)

	ChunkSmall = 2048 // chunk for MTU ≤ 1700
	ChunkLarge = 4096 // chunk for larger MTUs
	MaxMTU     = 3700 // largest MTU any port takes

	// UMEMHeadroom is where data begins in a fresh frame: room for the
	// encapsulation, and the headroom that AF_XDP is told to leave.
	UMEMHeadroom = 256
)

// Frame is one packet buffer: a chunk of its arena, with the packet at
// buf[off:end]. Every frame has one owner at a time. It is a cache line in
// size, so that frames of two owners never share one.
type Frame struct {
	buf   []byte // the whole chunk
	off   uint32
	end   uint32
	idx   uint32
	state atomic.Uint32 //nolint:unused // owner tag, checked under the build tag "framecheck"
	arena *Arena
	pool  *Pool // where Free returns it

	// User is scratch for the frame's owner; ports leave it alone.
	User uint64
}

// Data returns the packet. Its capacity reaches to the end of the chunk, so
// code that needs tailroom may reslice. Valid until the frame is given away.
func (f *Frame) Data() []byte { return f.buf[f.off:f.end] }

// Len returns the length of the packet in bytes.
func (f *Frame) Len() int { return int(f.end - f.off) }

// Headroom returns the free bytes before the packet.
func (f *Frame) Headroom() int { return int(f.off) }

// Tailroom returns the free bytes after the packet.
func (f *Frame) Tailroom() int { return len(f.buf) - int(f.end) }

// Push grows the packet by n bytes at its front and returns the packet. The
// caller has made sure of the headroom: it panics like a slice index if not.
func (f *Frame) Push(n int) []byte {
	_ = f.buf[int(f.off)-n]
	f.off -= uint32(n)
	return f.buf[f.off:f.end]
}

// Pull drops n bytes from the front. n must not exceed Len.
func (f *Frame) Pull(n int) []byte {
	if n < 0 || n > f.Len() {
		panic(fmt.Sprintf("rings: pull %d of %d bytes", n, f.Len()))
	}
	f.off += uint32(n)
	return f.buf[f.off:f.end]
}

// Trim cuts the packet to n bytes; n must not exceed Len.
func (f *Frame) Trim(n int) {
	if n < 0 || n > f.Len() {
		panic(fmt.Sprintf("rings: trim to %d of %d bytes", n, f.Len()))
	}
	f.end = f.off + uint32(n)
}

// Extend grows the packet by n bytes at its end (within the chunk).
func (f *Frame) Extend(n int) []byte {
	_ = f.buf[:int(f.end)+n]
	f.end += uint32(n)
	return f.buf[f.off:f.end]
}

// Reset makes the packet the n bytes at offset off of the chunk.
func (f *Frame) Reset(off, n int) {
	_ = f.buf[off : off+n]
	f.off, f.end = uint32(off), uint32(off+n)
}

// Room returns the largest packet, link header included, that a chunk of the
// given size takes at the standard offset with its tailroom.
func Room(chunk int) int { return chunk - UMEMHeadroom - Tailroom }

// Set copies p into the frame at the standard offset. It reports whether p
// and the tailroom fit.
func (f *Frame) Set(p []byte) bool {
	if len(p) > Room(len(f.buf)) {
		return false
	}
	copy(f.buf[UMEMHeadroom:], p)
	f.off, f.end = UMEMHeadroom, uint32(UMEMHeadroom+len(p))
	return true
}

// Chunk returns the whole chunk.
func (f *Frame) Chunk() []byte { return f.buf }

// Offset returns where the packet begins in the chunk.
func (f *Frame) Offset() int { return int(f.off) }

// Index returns the frame's number in its arena.
func (f *Frame) Index() uint32 { return f.idx }

// Arena returns the memory the frame belongs to.
func (f *Frame) Arena() *Arena { return f.arena }

// Free returns the frame to the pool it was taken from. Only the owner of
// that pool may call it.
func (f *Frame) Free() { f.pool.Put(f) }

// Arena is a contiguous piece of memory cut into equal chunks, with one Frame
// each. An AF_XDP UMEM is an arena; so is a plain slice.
type Arena struct {
	mem    []byte
	chunk  int
	frames []Frame
}

// NewArena cuts mem into chunks of the given size (ChunkSmall or ChunkLarge).
// The caller keeps mem alive and unmapped only after the last frame is gone.
func NewArena(mem []byte, chunk int) *Arena {
	a := &Arena{mem: mem, chunk: chunk, frames: make([]Frame, len(mem)/chunk)}
	for i := range a.frames {
		f := &a.frames[i]
		f.buf = mem[i*chunk : (i+1)*chunk : (i+1)*chunk]
		f.idx = uint32(i)
		f.arena = a
		f.off, f.end = UMEMHeadroom, UMEMHeadroom
	}
	return a
}

// NewArenaN returns an arena of n chunks of ordinary memory.
func NewArenaN(n, chunk int) *Arena { return NewArena(make([]byte, n*chunk), chunk) }

// Len returns the number of frames.
func (a *Arena) Len() int { return len(a.frames) }

// Chunk returns the chunk size in bytes.
func (a *Arena) Chunk() int { return a.chunk }

// Mem returns the arena's memory.
func (a *Arena) Mem() []byte { return a.mem }

// Frame returns frame i.
func (a *Arena) Frame(i uint32) *Frame { return &a.frames[i] }

// Pool is a last-in-first-out stack of free frames (the warmest first). One
// goroutine owns it. Free + in flight = Size, always.
type Pool struct {
	arena *Arena
	free  []*Frame
	_     [128]byte    // the owner writes what is above, all who adopt what is below
	size  atomic.Int64 // frames that belong to the pool
	_     [128]byte
}

// NewPool returns a pool that holds frames lo to hi-1 of a.
func NewPool(a *Arena, lo, hi int) *Pool {
	// Room for the whole arena: the pool can adopt all of it.
	p := &Pool{arena: a, free: make([]*Frame, 0, a.Len())}
	p.size.Store(int64(hi - lo))
	for i := hi - 1; i >= lo; i-- {
		f := &a.frames[i]
		f.pool = p
		f.setFree()
		p.free = append(p.free, f)
	}
	return p
}

// NewPoolN returns a pool of n frames of ordinary memory.
func NewPoolN(n, chunk int) *Pool { return NewPool(NewArenaN(n, chunk), 0, n) }

// Get takes a frame, empty, with its data at the standard offset; nil if
// there is none.
func (p *Pool) Get() *Frame {
	n := len(p.free) - 1
	if n < 0 {
		return nil
	}
	f := p.free[n]
	p.free = p.free[:n]
	f.setTaken()
	f.off, f.end = UMEMHeadroom, UMEMHeadroom
	return f
}

// Put returns a frame that came from this pool.
func (p *Pool) Put(f *Frame) {
	if f.pool != p {
		panic("rings: frame returned to a pool that is not its own")
	}
	f.setFree()
	p.free = append(p.free, f)
}

// Adopt makes a frame, which the caller owns and which may be of another pool
// of the same arena, one of this pool: Free returns it here. Pools whose ports
// share a kernel ring exchange frames this way; the sum of their sizes stays.
// The owner of the other pool may be at work meanwhile.
func (p *Pool) Adopt(f *Frame) {
	if f.pool == p {
		return
	}
	f.pool.size.Add(-1)
	p.size.Add(1)
	f.pool = p
}

// Free returns the number of free frames.
func (p *Pool) Free() int { return len(p.free) }

// Size returns the number of frames that belong to the pool: those it was
// made with, and those it has adopted, less those that others have.
func (p *Pool) Size() int { return int(p.size.Load()) }

// Arena returns the memory that the pool's frames belong to.
func (p *Pool) Arena() *Arena { return p.arena }

// Chunk returns the chunk size in bytes.
func (p *Pool) Chunk() int { return p.arena.chunk }
