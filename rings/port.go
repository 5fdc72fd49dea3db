package rings

import "errors"

// Link says what a port's frames begin with.
type Link uint8

const (
	// LinkEthernet frames begin with an Ethernet header (VLAN tags, if any, in the frame).
	LinkEthernet Link = iota
	// LinkIP frames begin with an IPv4 or IPv6 header.
	LinkIP
)

// ErrPortDown is returned (wrapped) by Recv and Send once a port has gone for
// good: its device was removed, or it was closed. A link that is merely down
// is not an error: nothing arrives, and what is sent is dropped and counted.
var ErrPortDown = errors.New("port is gone")

// Info describes a port. It does not change while the port is open.
type Info struct {
	Name    string // "veth0" or "mem:a"
	Backend string // "mem", "tpacket", "xsk", …
	Index   int    // interface index, 0 if none
	Queue   int    // hardware or TUN queue
	Link    Link
	MAC     [6]byte
	MTU     int // largest IP packet
	Batch   int // the burst size this port likes best
}

// Stats counts since the port was opened. Packets and bytes are frames as
// seen at the seam (after segmentation of a TUN super-frame).
type Stats struct {
	RxPackets, RxBytes uint64
	TxPackets, TxBytes uint64
	RxDropped          uint64 // by the kernel: ring full, no buffer
	RxNoFrame          uint64 // times Recv stopped because the pool was empty
	RxTruncated        uint64 // longer than a frame's room
	TxDropped          uint64 // accepted by Send, then refused by the kernel
	TxFull             uint64 // frames that Send did not take
	Kicks, Copies      uint64 // system calls to transmit; frames copied for lack of a shared arena
}

// Port moves frames in batches between the kernel (or a test) and one owner.
// A port is used by one goroutine at a time, except Close and Stats, which
// may be called from any. Close gives frames back to their pools: nobody else
// may be using those at that moment.
//
// Ownership: frames that Recv returns are the caller's until it sends or
// frees them; the first n frames that Send takes are the port's (it returns
// them to the pool they came from when the kernel is done); the rest stay the
// caller's.
type Port interface {
	Info() Info

	// Recv stores up to len(fs) received frames in fs and returns how many.
	// It never blocks; 0 means nothing is waiting, or the pool is empty (what
	// waits then stays where it is, as far as there is room). Each frame has
	// at least Headroom free bytes before its data and Tailroom after.
	// An error is final for the port and wraps ErrPortDown.
	Recv(fs []*Frame) (int, error)

	// Send hands fs[:n] to the port, in order, and returns n. It never blocks.
	// Frames may be transmitted lazily: Flush pushes out what is pending.
	// A packet larger than the MTU is the caller's mistake: dropped, counted.
	Send(fs []*Frame) (int, error)

	// Flush starts transmission of everything Send took (one system call at
	// most for most backends) and reclaims what the kernel has finished with.
	Flush() error

	// FD is a descriptor for poll(2): readable when Recv has work; -1 if the
	// port has none (mem: see its own wake function).
	FD() int

	Stats() Stats

	// Close releases everything. Frames still with the port go back to their
	// pools. Calling it twice is harmless.
	Close() error
}

// Shard returns which of n workers owns the calls with this local call ID,
// 0 to n-1. Every way of steering (packet fanout, XDP program, filters) uses
// the same function.
func Shard(callID uint16, n int) int { return int(callID) % n }
