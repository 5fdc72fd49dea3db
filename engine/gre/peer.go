package gre

// SetPeerWindow sets the receive window that the peer advertised, for a call
// that was made before its reply came. It changes nothing else.
func (s *State) SetPeerWindow(packets uint16) {
	packets = max(packets, 1)
	s.maxWindow = packets
	s.window = packets/2 + packets%2 // §4.2.1
}
