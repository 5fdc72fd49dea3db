package stress

import (
	"fmt"
	"net/netip"
)

// RefusedError says that a server is none that may be put under load.
type RefusedError struct{ Server netip.Addr }

func (e *RefusedError) Error() string {
	return fmt.Sprintf("%v is neither a loopback address nor of a lab that stress has made itself: "+
		"load on other people's servers is an attack; if it is yours, add --allow %[1]v", e.Server)
}

// Permit reports, as a *RefusedError, that server may not be put under load:
// it is neither loopback nor in allow.
func Permit(server netip.Addr, allow []netip.Prefix) error {
	server = server.Unmap()
	if server.IsLoopback() {
		return nil
	}
	for _, p := range allow {
		if p.Contains(server) {
			return nil
		}
	}
	return &RefusedError{server}
}

// ParseAllow reads an address or a prefix in CIDR notation.
func ParseAllow(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Is4() {
		return netip.PrefixFrom(a, 32), nil
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil || !p.Addr().Is4():
		return p, fmt.Errorf("%q is neither an IPv4 address nor a prefix such as 192.0.2.0/24", s)
	case p.Masked() != p:
		return p, fmt.Errorf("%q: host bits are set, the prefix is %s", s, p.Masked())
	case p.Bits() < minAllowBits:
		return p, fmt.Errorf("%q is too wide: name a prefix of /%d or longer", s, minAllowBits)
	}
	return p, nil
}

// minAllowBits keeps anyone from allowing everything.
const minAllowBits = 8
