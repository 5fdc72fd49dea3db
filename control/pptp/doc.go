// Package pptp speaks the control connection of PPTP (RFC 2637 §2 and §3): its
// fifteen messages, and the state machines of the connection and its calls,
// for both ends of the connection (originator, receiver) and of a call (PAC,
// PNS).
//
// Everything here is pure: octets, commands and a time go in; octets and
// ordered events come out. No goroutine, socket, timer or clock. Times are
// nanoseconds of one monotonic clock. The owner of a Conn does, for each thing
// that happens (octets, a due Deadline, a command of its own):
//
//	c.Input(now, b) // or Tick, Lost, PlaceOutgoing, Clear, …
//	for _, e := range c.Events() {
//		// answer a CallRequest, …
//	}
//	for b := c.Output(); b != nil; b = c.Output() {
//		// write b to TCP: n octets
//		c.Taken(n)
//	}
//	// Closed was among the events: close TCP. Else wait until c.Deadline().
package pptp
