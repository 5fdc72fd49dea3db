package stress

import (
	"errors"
	"net/netip"
	"testing"
)

func TestPermit(t *testing.T) {
	for _, tc := range []struct {
		server string
		allow  []string
		ok     bool
	}{
		{"127.0.0.1", nil, true},
		{"127.9.9.9", nil, true},
		{"::ffff:127.0.0.1", nil, true},
		{"192.0.2.1", nil, false},
		{"198.18.0.1", nil, false}, // a lab's address counts only where a lab has been made
		{"10.0.0.1", nil, false},
		{"0.0.0.0", nil, false},
		{"192.0.2.1", []string{"192.0.2.1"}, true},
		{"192.0.2.2", []string{"192.0.2.1"}, false},
		{"::ffff:192.0.2.1", []string{"192.0.2.1"}, true},
		{"192.0.2.77", []string{"198.51.100.0/24", "192.0.2.64/26"}, true},
		{"192.0.2.1", []string{"192.0.2.64/26"}, false},
	} {
		var allow []netip.Prefix
		for _, s := range tc.allow {
			p, err := ParseAllow(s)
			if err != nil {
				t.Fatal(err)
			}
			allow = append(allow, p)
		}
		err := Permit(netip.MustParseAddr(tc.server), allow)
		var refused *RefusedError
		if (err == nil) != tc.ok || err != nil && !errors.As(err, &refused) {
			t.Errorf("%s with --allow %v: %v", tc.server, tc.allow, err)
		}
	}
}

func TestParseAllow(t *testing.T) {
	for s, ok := range map[string]bool{
		"192.0.2.1": true, "192.0.2.0/24": true, "10.0.0.0/8": true,
		"0.0.0.0/0": false, "0.0.0.0/1": false, "192.0.2.1/24": false,
		"": false, "vpn.example.net": false, "::1": false, "2001:db8::/32": false, "192.0.2.0/33": false,
	} {
		if _, err := ParseAllow(s); (err == nil) != ok {
			t.Errorf("%q: %v", s, err)
		}
	}
}
