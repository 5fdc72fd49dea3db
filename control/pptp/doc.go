// Package pptp speaks the control connection of PPTP (RFC 2637 §2 and §3): its
// fifteen messages, and the state machines of the connection and its calls,
// for both ends of the connection (originator, receiver) and of a call (PAC,
// PNS).
//
// Everything here is pure: octets, commands and a time go in; octets and
// ordered events come out. No goroutine, socket, timer or clock. Times are
// nanoseconds of one monotonic clock.
package pptp
