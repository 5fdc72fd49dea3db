package session

import (
	"net/netip"
	"slices"
)

// Table finds sessions. One worker owns it. Set-up, tear-down and look-up are
// O(1): the outside key is (local call ID, local address, peer address), a
// direct index by call ID with a short chain behind it (call IDs are only
// unique per pair of addresses, RFC 2637 §3.2.2); the inside keys are the
// addresses a session holds.
type Table struct {
	byCall []*Session // indexed by call ID, chained through Session.next
	byV4   map[[4]byte]*Session
	byV6   map[[16]byte]*Session
	nets   Nets[*Session]
	n      int
}

// NewTable returns an empty table.
func NewTable() *Table {
	return &Table{
		byCall: make([]*Session, 1<<16),
		byV4:   make(map[[4]byte]*Session),
		byV6:   make(map[[16]byte]*Session),
	}
}

// Len returns the number of sessions.
func (t *Table) Len() int { return t.n }

// Lookup finds the session that a GRE packet from peer to local with this key
// (our call ID) belongs to. If there is none, known reports whether the call
// ID is in use with this local address and another peer: a packet from the
// wrong place, not for an unknown call.
func (t *Table) Lookup(call uint16, local, peer [4]byte) (s *Session, known bool) {
	for s = t.byCall[call]; s != nil; s = s.next {
		if s.Local == local {
			if s.Peer == peer {
				return s, true
			}
			known = true
		}
	}
	return nil, known
}

// Insert adds s. It reports false, and adds nothing, if its outside key is taken.
func (t *Table) Insert(s *Session) bool {
	if o, _ := t.Lookup(s.CallID, s.Local, s.Peer); o != nil {
		return false
	}
	s.next = t.byCall[s.CallID]
	t.byCall[s.CallID] = s
	t.n++
	return true
}

// Remove takes s out, with all its inside addresses. It reports whether s was there.
func (t *Table) Remove(s *Session) bool {
	for p := &t.byCall[s.CallID]; *p != nil; p = &(*p).next {
		if *p == s {
			*p = s.next
			s.next = nil
			t.n--
			t.UnbindV4(s)
			t.UnbindV6(s)
			for len(s.Nets) > 0 {
				t.UnbindNet(s, s.Nets[0])
			}
			return true
		}
	}
	return false
}

// BindV4 makes addr the session's inside IPv4 address, in place of the one it
// had. If another session of this table holds addr it loses it: addresses are
// handed out once, so the newer holder is right.
func (t *Table) BindV4(s *Session, addr netip.Addr) {
	t.UnbindV4(s)
	a := addr.As4()
	if o := t.byV4[a]; o != nil {
		o.InV4 = netip.Addr{}
	}
	t.byV4[a] = s
	s.InV4 = addr
}

// UnbindV4 takes the inside IPv4 address away.
func (t *Table) UnbindV4(s *Session) {
	if s.InV4.IsValid() {
		delete(t.byV4, s.InV4.As4())
		s.InV4 = netip.Addr{}
	}
}

// BindV6 is BindV4 for IPv6.
func (t *Table) BindV6(s *Session, addr netip.Addr) {
	t.UnbindV6(s)
	a := addr.As16()
	if o := t.byV6[a]; o != nil {
		o.InV6 = netip.Addr{}
	}
	t.byV6[a] = s
	s.InV6 = addr
}

// UnbindV6 takes the inside IPv6 address away.
func (t *Table) UnbindV6(s *Session) {
	if s.InV6.IsValid() {
		delete(t.byV6, s.InV6.As16())
		s.InV6 = netip.Addr{}
	}
}

// BindNet adds a network behind the session's far end. Like an address, it
// goes to the newer holder.
func (t *Table) BindNet(s *Session, p netip.Prefix) {
	t.nets.Set(p, s)
	s.Nets = append(s.Nets, p)
}

// UnbindNet takes a network away from the session. It reports whether nobody
// has it now: no newer holder does.
func (t *Table) UnbindNet(s *Session, p netip.Prefix) bool {
	s.Nets = slices.DeleteFunc(s.Nets, func(q netip.Prefix) bool { return q == p })
	if o, _ := t.nets.Get(p); o != s {
		return false
	}
	t.nets.Delete(p)
	return true
}

// ByV4 finds the session that holds an inside address, or else the one with
// the longest network that contains it.
func (t *Table) ByV4(a [4]byte) *Session {
	s := t.byV4[a]
	if s == nil && t.nets.lens != 0 {
		s, _ = t.nets.Find(a)
	}
	return s
}

// ByV6 finds the session that holds an inside IPv6 address.
func (t *Table) ByV6(a [16]byte) *Session { return t.byV6[a] }

// Each calls f for every session; f must not change the table.
func (t *Table) Each(f func(*Session)) {
	if t.n == 0 {
		return
	}
	for _, s := range t.byCall {
		for ; s != nil; s = s.next {
			f(s)
		}
	}
}
