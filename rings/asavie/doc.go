// Package asavie is the outside port on the AF_XDP sockets of
// github.com/asavie/xdp, a second opinion on package xsk (--io asavie), with
// the same XDP program in front. It is for comparison, not for service; the
// library sets its limits:
//
//   - It has no memory barriers, so that only the memory order of x86 keeps
//     its rings in step: on others than amd64 Open refuses.
//   - A closed socket stays mapped and its queue busy until the process ends:
//     a queue can be opened once in a process.
//   - Every socket has memory of its own: every frame is copied, in and out.
//   - One system call transmits 32 frames at most, and comes with every burst.
//   - One socket a queue, so one worker.
//   - A frame sent while the link is down waits in the ring and goes out when
//     the link is up again; what follows is dropped.
//
// The library panics where sendto(2) fails; here that is an error of the port.
package asavie

// Config says what to open. Zero values take the defaults.
type Config struct {
	Interface string
	Queues    []int // none: all
	Ring      int   // frames in each ring, 1024; rounded up to a power of two
	Generic   bool  // do not try the driver's XDP
}
