package rawgre

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// controls returns a buffer of control messages for source address, TOS and
// TTL of a packet (ip(7)), and where in it they stand.
func controls() (oob []byte, info *unix.Inet4Pktinfo, tos, ttl *int32) {
	size := unix.CmsgSpace(unix.SizeofInet4Pktinfo) + 2*unix.CmsgSpace(4)
	oob = unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(make([]uint64, (size+7)/8)))), size)
	rest := oob
	next := func(kind int32, n int) unsafe.Pointer {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&rest[0]))
		h.Level, h.Type = unix.IPPROTO_IP, kind
		h.SetLen(unix.CmsgLen(n))
		p := unsafe.Pointer(&rest[unix.CmsgLen(0)])
		rest = rest[unix.CmsgSpace(n):]
		return p
	}
	info = (*unix.Inet4Pktinfo)(next(unix.IP_PKTINFO, unix.SizeofInet4Pktinfo))
	tos = (*int32)(next(unix.IP_TOS, 4))
	ttl = (*int32)(next(unix.IP_TTL, 4))
	return oob, info, tos, ttl
}
