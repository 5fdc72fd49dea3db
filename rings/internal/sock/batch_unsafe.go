// Package sock holds what the socket backends share: batches of messages for
// one system call, and the filters that run in the kernel.
package sock

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Batch is a row of messages for sendmmsg(2) and recvmmsg(2), one buffer
// each. The system calls are made without telling the scheduler: they do not
// block.
type Batch struct {
	msgs  []mmsghdr
	iovs  []unix.Iovec
	addrs []unix.RawSockaddrInet4
}

// mmsghdr is struct mmsghdr of <sys/socket.h>.
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// NewBatch returns a batch of n messages.
func NewBatch(n int) *Batch {
	b := &Batch{msgs: make([]mmsghdr, n), iovs: make([]unix.Iovec, n)}
	for i := range b.msgs {
		b.msgs[i].hdr.Iov = &b.iovs[i]
		b.msgs[i].hdr.SetIovlen(1)
	}
	return b
}

// NewBatchTo returns a batch of n messages with an IPv4 destination each.
func NewBatchTo(n int) *Batch {
	b := NewBatch(n)
	b.addrs = make([]unix.RawSockaddrInet4, n)
	for i := range b.msgs {
		b.addrs[i].Family = unix.AF_INET
		b.msgs[i].hdr.Name = (*byte)(unsafe.Pointer(&b.addrs[i]))
		b.msgs[i].hdr.Namelen = unix.SizeofSockaddrInet4
	}
	return b
}

// Set makes p the buffer of message i. It must stay valid until the call.
func (b *Batch) Set(i int, p []byte) {
	b.iovs[i].Base = unsafe.SliceData(p)
	b.iovs[i].SetLen(len(p))
}

// SetTo sets the destination of message i.
func (b *Batch) SetTo(i int, addr [4]byte) { b.addrs[i].Addr = addr }

// Len returns the length of message i after Recv, and whether it was cut.
func (b *Batch) Len(i int) (n int, cut bool) {
	return int(b.msgs[i].len), b.msgs[i].hdr.Flags&unix.MSG_TRUNC != 0
}

// Send sends messages from to to-1. It returns how many the kernel took; an
// error concerns the first that it did not, and comes only if it took none.
func (b *Batch) Send(fd, from, to int) (int, unix.Errno) {
	return b.call(unix.SYS_SENDMMSG, fd, from, to)
}

// Recv receives into messages 0 to n-1 and returns how many came.
func (b *Batch) Recv(fd, n int) (int, unix.Errno) {
	return b.call(unix.SYS_RECVMMSG, fd, 0, n)
}

func (b *Batch) call(nr uintptr, fd, from, to int) (int, unix.Errno) {
	for {
		n, _, e := unix.RawSyscall6(nr, uintptr(fd), uintptr(unsafe.Pointer(&b.msgs[from])), uintptr(to-from), unix.MSG_DONTWAIT, 0, 0)
		switch e {
		case 0:
			return int(n), 0
		case unix.EINTR:
		default:
			return 0, e
		}
	}
}

// Drops returns how many packets a socket has dropped since it was opened
// because its buffer was full (SO_MEMINFO), modulo 2^32.
func Drops(fd int) (n uint32, ok bool) {
	const drops, fields = 8, 9 // SK_MEMINFO_DROPS, SK_MEMINFO_VARS
	var v [fields]uint32
	size := uint32(unsafe.Sizeof(v))
	_, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&v)), uintptr(unsafe.Pointer(&size)), 0)
	return v[drops], e == 0 && size == uint32(unsafe.Sizeof(v))
}
