package sock

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Classic BPF, linux/filter.h and linux/bpf_common.h.
const (
	ldb    = unix.BPF_LD | unix.BPF_B | unix.BPF_ABS
	ldh    = unix.BPF_LD | unix.BPF_H | unix.BPF_ABS
	ldw    = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	ldhInd = unix.BPF_LD | unix.BPF_H | unix.BPF_IND
	ldxMSH = unix.BPF_LDX | unix.BPF_B | unix.BPF_MSH // X = length of the IPv4 header
	and    = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	mod    = unix.BPF_ALU | unix.BPF_MOD | unix.BPF_K
	jeq    = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	jset   = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
	ret    = unix.BPF_RET | unix.BPF_K
	retA   = unix.BPF_RET | unix.BPF_A

	adPktType = 0xfffff000 + 4 // SKF_AD_OFF + SKF_AD_PKTTYPE: not in the packet, but about it

	whole = 0x40000 // more than any packet: accept all of it
)

// The fields of the IPv4 and enhanced GRE headers that the filters look at
// (RFC 791 §3.1, RFC 2637 §4.1).
const (
	ipFragment = 6
	ipProtocol = 9
	greFlags   = 0
	greType    = 2
	greCallID  = 6

	fragmentBits = 0x3fff // more fragments, and the offset
	versionBits  = 7
)

// DropAll accepts nothing.
func DropAll() []unix.SockFilter { return []unix.SockFilter{{Code: ret}} }

// GRE accepts whole IPv4 packets with enhanced GRE (version 1, protocol
// 0x880B) whose IP header begins at offset off. With host it accepts only
// what is addressed to this host at the link layer. With shards > 1 it
// accepts only the calls of that shard (rings.Shard).
func GRE(off uint32, host bool, shard, shards int) []unix.SockFilter {
	var f []unix.SockFilter
	do := func(code uint16, k uint32) { f = append(f, unix.SockFilter{Code: code, K: k}) }
	if host {
		do(ldw, adPktType)
		do(jeq, unix.PACKET_HOST)
	}
	do(ldb, off+ipProtocol)
	do(jeq, unix.IPPROTO_GRE)
	do(ldh, off+ipFragment)
	do(jset, fragmentBits)
	do(ldxMSH, off)
	do(ldhInd, off+greFlags)
	do(and, versionBits)
	do(jeq, 1)
	do(ldhInd, off+greType)
	do(jeq, 0x880b)
	if shards > 1 {
		do(ldhInd, off+greCallID)
		do(mod, uint32(shards))
		do(jeq, uint32(shard))
	}
	do(ret, whole)
	do(ret, 0)
	// Every comparison that fails ends at the last instruction; the one for
	// fragments fails when a bit is set.
	for i := range f {
		switch to := uint8(len(f) - 2 - i); f[i].Code {
		case jeq:
			f[i].Jf = to
		case jset:
			f[i].Jt = to
		}
	}
	return f
}

// CallID returns the call ID of a packet that GRE accepts: for
// PACKET_FANOUT_CBPF, which takes it modulo the number of sockets, as
// rings.Shard does. Fan-out programs see the packet from its IP header on.
func CallID() []unix.SockFilter {
	return []unix.SockFilter{
		{Code: ldxMSH, K: 0},
		{Code: ldhInd, K: greCallID},
		{Code: retA},
	}
}

// Attach makes f the filter of a socket.
func Attach(fd int, f []unix.SockFilter) error {
	return setFilter(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, f)
}

// AttachFanout makes f the program that picks a socket of the fan-out group.
func AttachFanout(fd int, f []unix.SockFilter) error {
	return setFilter(fd, unix.SOL_PACKET, unix.PACKET_FANOUT_DATA, f)
}

func setFilter(fd, level, opt int, f []unix.SockFilter) error {
	p := unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}
	if err := unix.SetsockoptSockFprog(fd, level, opt, &p); err != nil {
		return fmt.Errorf("packet filter: %w", err)
	}
	return nil
}

// Silence opens a raw GRE socket that takes nothing. As long as it is open
// the kernel does not answer GRE with ICMP protocol unreachable, and learns
// path MTUs from the ICMP errors that come back. The caller closes it.
func Silence() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_GRE)
	if err != nil {
		return -1, fmt.Errorf("raw GRE socket: %w", err)
	}
	if err := Attach(fd, DropAll()); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// Buffers asks for socket buffers of the given size, beyond the system's
// limit where allowed.
func Buffers(fd, size int) {
	for _, o := range [][2]int{{unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}, {unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[0], size) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[1], size)
		}
	}
}
