package multi

import "unsafe"

// newScratch allocates scratch on a page boundary. It holds no pointers, so a byte slice may carry
// it.
func newScratch() *scratch {
	const page = 4096
	b := make([]byte, unsafe.Sizeof(scratch{})+page)
	off := -uintptr(unsafe.Pointer(&b[0])) % page
	return (*scratch)(unsafe.Pointer(&b[off]))
}
