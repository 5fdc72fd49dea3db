package aaa

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Addresses says which addresses a user may have: the words that follow the
// secret in the file. The zero value permits every address, since none was
// named.
type Addresses struct {
	rules []addressRule
}

type addressRule struct {
	net    netip.Prefix
	permit bool
}

var anyAddress = netip.PrefixFrom(netip.IPv4Unspecified(), 0)

// parseAddresses reads the address words as pppd does: in order, the first
// that matches decides, what matches none is denied. "*" matches all, "-"
// ends the list, "!" before a word denies it; a word is an IPv4 address or a
// prefix.
func parseAddresses(words []string) (Addresses, error) {
	var a Addresses
	for _, w := range words {
		switch w {
		case "-":
			a.rules = append(a.rules, addressRule{anyAddress, false})
			return a, nil
		case "--":
			return Addresses{}, errors.New(`options after "--" are for pppd only: remove them`)
		case "*":
			a.rules = append(a.rules, addressRule{anyAddress, true})
			continue
		}
		text, deny := strings.CutPrefix(w, "!")
		p, err := parseNet(text)
		if err != nil {
			return Addresses{}, fmt.Errorf("%q is not an IPv4 address, a prefix such as 10.0.0.0/24, * or -", text)
		}
		a.rules = append(a.rules, addressRule{p, !deny})
	}
	return a, nil
}

var errNotIPv4 = errors.New("not IPv4")

func parseNet(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil && addr.Is4() {
		return addr.Prefix(32)
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || !p.Addr().Is4() {
		return netip.Prefix{}, errNotIPv4
	}
	return p.Masked(), nil
}

// Permits reports whether the user may have address addr.
func (a Addresses) Permits(addr netip.Addr) bool {
	if len(a.rules) == 0 {
		return true
	}
	for _, r := range a.rules {
		if r.net.Contains(addr) {
			return r.permit
		}
	}
	return false
}

// Fixed returns the user's own address: the first single address of the list
// that is permitted.
func (a Addresses) Fixed() (addr netip.Addr, ok bool) {
	for _, r := range a.rules {
		if r.permit && r.net.IsSingleIP() && a.Permits(r.net.Addr()) {
			return r.net.Addr(), true
		}
	}
	return netip.Addr{}, false
}

// None reports whether the user may have no address at all.
func (a Addresses) None() bool {
	for _, r := range a.rules {
		if r.permit {
			return false
		}
	}
	return len(a.rules) > 0
}

// String is the list in the file's own notation.
func (a Addresses) String() string {
	if len(a.rules) == 0 {
		return "*"
	}
	words := make([]string, len(a.rules))
	for i, r := range a.rules {
		switch {
		case r.net == anyAddress && !r.permit:
			words[i] = "-"
		case r.net == anyAddress:
			words[i] = "*"
		case r.net.IsSingleIP():
			words[i] = r.net.Addr().String()
		default:
			words[i] = r.net.String()
		}
		if !r.permit && r.net != anyAddress {
			words[i] = "!" + words[i]
		}
	}
	return strings.Join(words, " ")
}

// OneAddress permits addr, which so is the user's own, and no other.
func OneAddress(addr netip.Addr) Addresses {
	return Addresses{rules: []addressRule{{netip.PrefixFrom(addr, 32), true}}}
}
