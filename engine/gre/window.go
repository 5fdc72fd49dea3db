package gre

// Acked takes the acknowledgment number of a received packet (§4.2.5): it opens
// the window, and gives a sample of the round trip. Numbers that were never
// sent, or are old, change nothing.
//
// One packet at a time is timed, so a sample is that of the packet timed, not
// always of the highest number acknowledged; a late acknowledgment of several
// packets makes the estimate longer, never shorter.
func (s *State) Acked(now int64, ack uint32) {
	n := int32(ack - s.ackedOut)
	if n <= 0 {
		return
	}
	if int32(ack-s.sendNext) >= 0 {
		s.Stats.BadAcks++
		return
	}
	s.Stats.AcksRecv++
	s.ackedOut = ack
	if s.probeAt != 0 && int32(ack-s.probe) >= 0 {
		s.sample(now - s.probeAt)
		s.probeAt = 0
	}
	// A window's worth acknowledged without a time-out opens it by one (§4.2.3).
	for left := uint32(n); s.window < s.maxWindow && left > 0; {
		need := uint32(s.window - s.credit)
		if left < need {
			s.credit += uint16(left)
			break
		}
		left -= need
		s.credit = 0
		s.window++
	}
	s.timeoutAt = 0
	if s.cfg.LimitWindow && s.Outstanding() > 0 {
		s.timeoutAt = now + s.ato()
	}
}

// CanSend reports whether the window has room for another packet. Without
// LimitWindow it always has.
func (s *State) CanSend() bool {
	return !s.cfg.LimitWindow || s.Outstanding() < int(s.window)
}

// Outstanding returns how many packets sent are not acknowledged.
func (s *State) Outstanding() int { return int(s.sendNext - 1 - s.ackedOut) }

// sample adjusts the estimates by one measured round trip (§4.4.1, alpha 1/8,
// beta 1/4).
func (s *State) sample(t int64) {
	diff := t - s.rtt
	s.rtt += diff / 8
	if diff < 0 {
		diff = -diff
	}
	s.dev += (diff - s.dev) / 4
}

// ato is the adaptive time-out (§4.4.1, chi 4).
func (s *State) ato() int64 {
	lo, hi := s.cfg.timeouts()
	return max(lo, min(s.rtt+4*s.dev, hi))
}

// timeout closes the window by half (§4.2.2) and doubles the round trip
// (§4.4.2, delta 2). What was outstanding counts as gone: nothing is sent
// again, and transmission resumes.
func (s *State) timeout() {
	_, hi := s.cfg.timeouts()
	s.Stats.Timeouts++
	s.window = s.window/2 + s.window%2
	s.credit = 0
	s.rtt = min(2*s.rtt, hi)
	s.ackedOut = s.sendNext - 1
	s.probeAt, s.timeoutAt = 0, 0
}

func (c *Config) timeouts() (lo, hi int64) {
	lo, hi = c.MinTimeout, c.MaxTimeout
	if lo == 0 {
		lo = DefaultMinTimeout
	}
	if hi == 0 {
		hi = DefaultMaxTimeout
	}
	return lo, hi
}

// Snapshot is what a report shows of a call's GRE state. Times are
// nanoseconds.
type Snapshot struct {
	Stats
	Next        uint32 // number expected from the peer
	SendNext    uint32 // number of the next packet sent
	Held        int    // packets waiting for their turn
	Window      int    // current send window, whether or not it limits
	MaxWindow   int    // the window the peer advertised
	Outstanding int    // packets sent and not acknowledged
	RTT         int64  // estimated round trip (§4.4.1)
	Deviation   int64  // its mean deviation
	Timeout     int64  // adaptive time-out
}

// Snapshot returns the current state for display.
func (s *State) Snapshot() Snapshot {
	return Snapshot{
		Stats: s.Stats, Next: s.next, SendNext: s.sendNext, Held: s.Held(),
		Window: int(s.window), MaxWindow: int(s.maxWindow), Outstanding: s.Outstanding(),
		RTT: s.rtt, Deviation: s.dev, Timeout: s.ato(),
	}
}
