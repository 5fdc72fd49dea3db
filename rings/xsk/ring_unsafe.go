package xsk

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ring is one of a socket's rings (Documentation/networking/af_xdp.rst in the
// kernel's tree), seen from one side: producer of the fill and transmit rings,
// consumer of the receive and completion rings. Our own index is published
// once a burst with release order, the kernel's read with acquire order: so
// descriptors and packets are seen as they were written, on every CPU. The
// kernel's index is remembered and looked up again only when it limits us.
type ring[T any] struct {
	mem    []byte
	mine   *uint32 // our index
	theirs *uint32 // the kernel's
	flags  *uint32
	desc   []T
	mask   uint32
	own    uint32
	seen   uint32 // the kernel's index as last read
}

// produce returns how many of want descriptors there is room for.
func (r *ring[T]) produce(want int) int {
	size := r.mask + 1
	if size-(r.own-r.seen) < uint32(want) {
		r.seen = atomic.LoadUint32(r.theirs)
	}
	return min(want, int(size-(r.own-r.seen)))
}

// consume returns how many of want descriptors wait.
func (r *ring[T]) consume(want int) int {
	if r.seen-r.own < uint32(want) {
		r.seen = atomic.LoadUint32(r.theirs)
	}
	return min(want, int(r.seen-r.own))
}

// at returns the i-th descriptor from our index on.
func (r *ring[T]) at(i int) *T { return &r.desc[(r.own+uint32(i))&r.mask] }

// publish moves our index on by n.
func (r *ring[T]) publish(n int) {
	if n > 0 {
		r.own += uint32(n)
		atomic.StoreUint32(r.mine, r.own)
	}
}

// kernel returns the kernel's index as it is now.
func (r *ring[T]) kernel() uint32 {
	r.seen = atomic.LoadUint32(r.theirs)
	return r.seen
}

// needWakeup reports whether the kernel sleeps until it is called.
func (r *ring[T]) needWakeup() bool { return atomic.LoadUint32(r.flags)&unix.XDP_RING_NEED_WAKEUP != 0 }

func (r *ring[T]) unmap() {
	if r.mem != nil {
		_ = unix.Munmap(r.mem)
		r.mem = nil
	}
}

// mapRing maps a ring of n descriptors. producer says that we are.
func mapRing[T any](fd int, at int64, off unix.XDPRingOffset, n int, producer bool) (ring[T], error) {
	var t T
	mem, err := unix.Mmap(fd, at, int(off.Desc)+n*int(unsafe.Sizeof(t)), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return ring[T]{}, fmt.Errorf("map a ring: %w", err)
	}
	word := func(off uint64) *uint32 { return (*uint32)(unsafe.Pointer(&mem[off])) }
	r := ring[T]{
		mem: mem, mine: word(off.Producer), theirs: word(off.Consumer), flags: word(off.Flags),
		desc: unsafe.Slice((*T)(unsafe.Pointer(&mem[off.Desc])), n), mask: uint32(n - 1),
	}
	if !producer {
		r.mine, r.theirs = r.theirs, r.mine
	}
	r.own, r.seen = atomic.LoadUint32(r.mine), atomic.LoadUint32(r.theirs)
	return r, nil
}

// register makes mem the socket's UMEM, cut into chunks. The kernel leaves
// XDP_PACKET_HEADROOM, which is rings.UMEMHeadroom, before what it receives.
func register(fd int, mem []byte, chunk int) error {
	reg := unix.XDPUmemReg{Addr: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(mem)))), Len: uint64(len(mem)), Size: uint32(chunk)}
	_, _, e := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_XDP, unix.XDP_UMEM_REG,
		uintptr(unsafe.Pointer(&reg)), unsafe.Sizeof(reg), 0)
	if e != 0 {
		return fmt.Errorf("register %d MiB: %w", len(mem)>>20, e)
	}
	return nil
}

func getOption[T any](fd, opt int) (v T, err error) {
	size := uint32(unsafe.Sizeof(v))
	_, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_XDP, uintptr(opt),
		uintptr(unsafe.Pointer(&v)), uintptr(unsafe.Pointer(&size)), 0)
	if e != 0 {
		return v, fmt.Errorf("AF_XDP socket option %d: %w", opt, e)
	}
	return v, nil
}

// kickTx and kickRx make the kernel look at the transmit and the fill ring.
// They do not block, so the scheduler is not told.
func kickTx(fd int) unix.Errno {
	_, _, e := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
	return e
}

func kickRx(fd int) unix.Errno {
	_, _, e := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
	return e
}
