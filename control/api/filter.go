package api

import (
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strconv"

	"xpptp/control"
)

// filters are the parameters of /v1/sessions.
var filters = map[string]func(s *control.Selection, v string) error{
	"user":    func(s *control.Selection, v string) error { s.User = v; return nil },
	"session": func(s *control.Selection, v string) error { s.Session = v; return nil },
	"ip":      func(s *control.Selection, v string) (err error) { s.IP, err = parseAddr(v); return err },
	"peer":    func(s *control.Selection, v string) (err error) { s.Peer, err = parseAddr(v); return err },
	"call": func(s *control.Selection, v string) error {
		n, err := strconv.ParseUint(v, 10, 16)
		if err != nil || n == 0 {
			return fmt.Errorf("%q is not a call ID, 1 to 65535", v)
		}
		s.Call = uint16(n)
		return nil
	},
}

func parseAddr(v string) (netip.Addr, error) {
	a, err := netip.ParseAddr(v)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%q is not an IP address", v)
	}
	return a.Unmap(), nil
}

// ParseSelection reads a selection of calls from the parameters of a request.
// None means every call. The error names the parameter and its value.
func ParseSelection(q url.Values) (s control.Selection, err error) {
	for _, key := range slices.Sorted(maps.Keys(q)) {
		set, known := filters[key]
		if !known {
			return s, fmt.Errorf("%q is none of call, ip, peer, session, user", key)
		}
		if v := q[key]; len(v) != 1 || v[0] == "" {
			return s, fmt.Errorf("%s: one value is needed, not %d", key, len(v))
		} else if err := set(&s, v[0]); err != nil {
			return s, fmt.Errorf("%s: %w", key, err)
		}
	}
	return s, nil
}

// Query is the reverse of ParseSelection.
func Query(s control.Selection) url.Values {
	q := url.Values{}
	put := func(key, v string) {
		if v != "" {
			q.Set(key, v)
		}
	}
	put("user", s.User)
	put("session", s.Session)
	if s.IP.IsValid() {
		put("ip", s.IP.String())
	}
	if s.Peer.IsValid() {
		put("peer", s.Peer.String())
	}
	if s.Call != 0 {
		put("call", strconv.Itoa(int(s.Call)))
	}
	return q
}

// selection is what a TerminateRequest means.
func (r *TerminateRequest) selection() (control.Selection, error) {
	q := url.Values{}
	for key, v := range map[string]string{"user": r.User, "ip": r.IP, "peer": r.Peer, "call": r.Call, "session": r.Session} {
		if v != "" {
			q.Set(key, v)
		}
	}
	s, err := ParseSelection(q)
	switch {
	case err != nil:
		return s, err
	case r.All == (len(q) > 0):
		return s, fmt.Errorf("either all, or some of call, ip, peer, session, user must be set")
	}
	return s, nil
}

// Check returns an error that says what is wrong with the request.
func (r *TerminateRequest) Check() error {
	_, err := r.selection()
	return err
}
