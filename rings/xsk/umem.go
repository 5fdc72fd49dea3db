package xsk

import (
	"fmt"

	"golang.org/x/sys/unix"

	"xpptp/rings"
)

// UMEM is memory that AF_XDP sockets share with the kernel, cut into frames:
// on huge pages where the system has some. It is registered once for every
// queue that uses it. So each queue is bound in its own way, zero-copy or not,
// and a frame that came in by one leaves by any other without a copy.
type UMEM struct {
	mem   []byte
	arena *rings.Arena
	huge  bool
}

const hugePage = 2 << 20

// NewUMEM returns memory for at least n frames of the given chunk size
// (rings.ChunkSmall or rings.ChunkLarge).
func NewUMEM(n, chunk int) (*UMEM, error) {
	if n <= 0 || chunk != rings.ChunkSmall && chunk != rings.ChunkLarge {
		return nil, fmt.Errorf("rings: UMEM of %d frames of %d bytes: a frame has %d or %d", n, chunk, rings.ChunkSmall, rings.ChunkLarge)
	}
	const access, kind = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_PRIVATE | unix.MAP_ANONYMOUS
	size := (n*chunk + hugePage - 1) / hugePage * hugePage
	u := &UMEM{huge: true}
	var err error
	if u.mem, err = unix.Mmap(-1, 0, size, access, kind|unix.MAP_HUGETLB|unix.MAP_POPULATE); err != nil {
		u.huge = false
		if u.mem, err = unix.Mmap(-1, 0, size, access, kind); err != nil {
			return nil, fmt.Errorf("rings: UMEM of %d MiB: %w", size>>20, err)
		}
		_ = unix.Madvise(u.mem, unix.MADV_HUGEPAGE) // the next best
	}
	u.arena = rings.NewArena(u.mem, chunk)
	return u, nil
}

// Arena returns the frames.
func (u *UMEM) Arena() *rings.Arena { return u.arena }

// Huge reports whether the memory is on pages of the huge page pool.
func (u *UMEM) Huge() bool { return u.huge }

// Close unmaps the memory. Nobody may use a frame any more: the ports are
// closed, the workers have ended.
func (u *UMEM) Close() error {
	if u.mem == nil {
		return nil
	}
	mem := u.mem
	u.mem = nil
	return unix.Munmap(mem)
}
