package tpacket

import (
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rxRing is a TPACKET_V2 receive ring (Documentation/networking/packet_mmap
// in the kernel's tree): slots of equal size that the kernel fills in order,
// each handed to and fro by its status word.
type rxRing struct {
	mem  []byte
	size int // of a slot
	n    int
	i    int // next slot to look at
}

// open makes a ring of at least n slots that take packets of the size that
// frames of the given chunk size do.
func (r *rxRing) open(fd, n, chunk int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V2); err != nil {
		return fmt.Errorf("packet ring version 2: %w", err)
	}
	block := max(blockSize, os.Getpagesize())
	perBlock := block / chunk
	blocks := (n + perBlock - 1) / perBlock
	req := unix.TpacketReq{
		Block_size: uint32(block), Block_nr: uint32(blocks),
		Frame_size: uint32(chunk), Frame_nr: uint32(blocks * perBlock),
	}
	if err := unix.SetsockoptTpacketReq(fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &req); err != nil {
		return fmt.Errorf("packet ring of %d KiB: %w", block*blocks>>10, err)
	}
	mem, err := unix.Mmap(fd, 0, block*blocks, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return fmt.Errorf("map the packet ring: %w", err)
	}
	*r = rxRing{mem: mem, size: chunk, n: blocks * perBlock}
	return nil
}

func (r *rxRing) close() {
	if r.mem != nil {
		_ = unix.Munmap(r.mem)
		r.mem = nil
	}
}

func (r *rxRing) header() *unix.Tpacket2Hdr {
	return (*unix.Tpacket2Hdr)(unsafe.Pointer(&r.mem[r.i*r.size]))
}

// peek returns the oldest packet, valid until pop, and whether it is whole;
// nil if none waits. The status is read with acquire order, so that the
// packet is seen as the kernel wrote it.
func (r *rxRing) peek() (p []byte, whole bool) {
	h := r.header()
	if atomic.LoadUint32(&h.Status)&unix.TP_STATUS_USER == 0 {
		return nil, false
	}
	at := r.i*r.size + int(h.Mac)
	return r.mem[at : at+int(h.Snaplen)], h.Len == h.Snaplen
}

// pop gives the slot back to the kernel.
func (r *rxRing) pop() {
	atomic.StoreUint32(&r.header().Status, unix.TP_STATUS_KERNEL)
	if r.i++; r.i == r.n {
		r.i = 0
	}
}
