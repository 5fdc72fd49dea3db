package tun

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"xpptp/rings"
)

// queue reads and writes one packet a system call: header, a frame's room,
// and for reading a scratch for what goes beyond. An ordinary packet lands in
// its frame; only a large one is put together in the scratch.
type queue struct {
	fd      int
	room    int
	hdr     *[vnetSize]byte // of the packet read last
	none    *[vnetSize]byte // for packets written: no offload
	large   *[vnetSize]byte // for one that the kernel cuts
	scratch []byte          // room for the frame's part, then the rest
	in      *[3]unix.Iovec
	out     []unix.Iovec // header, and the pieces of a packet
}

const largest = 1 << 16 // no IP packet is longer

func newQueue(fd, room int) queue {
	q := queue{
		fd: fd, room: room,
		hdr: new([vnetSize]byte), none: new([vnetSize]byte), large: new([vnetSize]byte),
		scratch: make([]byte, room+largest),
		in:      new([3]unix.Iovec), out: make([]unix.Iovec, 0, 1+burst),
	}
	set(&q.in[0], q.hdr[:])
	set(&q.in[2], q.scratch[room:])
	return q
}

func set(v *unix.Iovec, b []byte) {
	v.Base = unsafe.SliceData(b)
	v.SetLen(len(b))
}

// read reads a packet into f's chunk, at the standard offset, and returns its
// length; beyond the room of a frame it goes on in the scratch.
func (q *queue) read(f *rings.Frame) (int, unix.Errno) {
	set(&q.in[1], f.Chunk()[rings.UMEMHeadroom:rings.UMEMHeadroom+q.room])
	n, e := call(unix.SYS_READV, q.fd, &q.in[0], len(q.in))
	return n - vnetSize, e
}

// header returns the virtio header of the packet read last.
func (q *queue) header() vnetHeader { return q.hdr[:] }

// whole returns the packet of n bytes read last in one piece, valid until the
// next read.
func (q *queue) whole(f *rings.Frame, n int) []byte {
	copy(q.scratch, f.Chunk()[rings.UMEMHeadroom:rings.UMEMHeadroom+q.room])
	return q.scratch[:n]
}

// begin, more and end write a packet of up to burst pieces: large says that it
// goes with that header.
func (q *queue) begin(p []byte, large bool) {
	q.out = q.out[:0]
	if large {
		q.more(q.large[:])
	} else {
		q.more(q.none[:])
	}
	q.more(p)
}

func (q *queue) more(p []byte) {
	q.out = q.out[:len(q.out)+1]
	set(&q.out[len(q.out)-1], p)
}

func (q *queue) end() unix.Errno {
	_, e := call(unix.SYS_WRITEV, q.fd, &q.out[0], len(q.out))
	return e
}

// call makes a system call that does not block, without telling the scheduler.
func call(nr uintptr, fd int, v *unix.Iovec, n int) (int, unix.Errno) {
	for {
		r, _, e := unix.RawSyscall(nr, uintptr(fd), uintptr(unsafe.Pointer(v)), uintptr(n))
		switch e {
		case 0:
			return int(r), 0
		case unix.EINTR:
		default:
			return 0, e
		}
	}
}
