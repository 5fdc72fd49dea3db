package ppp

import (
	"testing"
	"time"
)

// ms is a time of the virtual clock.
func ms(n int64) int64 { return n * int64(time.Millisecond) }

// expect says how a call between two configurations must end: up with this
// method and cipher, or down for these reasons.
type expect struct {
	auth           Method
	bits           int // of both directions
	stateful       bool
	server, client ReasonCode
}

func (w expect) check(t *testing.T, s *sim) {
	t.Helper()
	defer func() {
		if t.Failed() {
			s.dump(t)
		}
	}()
	if w.server != Unknown || w.client != Unknown {
		if len(s.a.downs) != 1 || len(s.b.downs) != 1 {
			t.Fatalf("not down: %v, %v", s.a.downs, s.b.downs)
		}
		if got := s.a.downs[0].Code; got != w.server {
			t.Errorf("server: %s, want %s", s.a.downs[0], w.server)
		}
		if got := s.b.downs[0].Code; got != w.client {
			t.Errorf("client: %s, want %s", s.b.downs[0], w.client)
		}
		if v := append(s.a.violations, s.b.violations...); len(v) > 0 {
			t.Errorf("violations: %v", v)
		}
		return
	}
	checkUp(t, s)
	if got := s.a.lcp[len(s.a.lcp)-1].Auth; got != w.auth {
		t.Errorf("method %s, want %s", got, w.auth)
	}
	for _, p := range []*MPPEParams{s.a.transmit, s.a.receive, s.b.transmit, s.b.receive} {
		switch {
		case p == nil && w.bits == 0:
		case p == nil || p.Bits != w.bits || p.Stateful != w.stateful:
			t.Errorf("MPPE %+v, want %d stateful %v", p, w.bits, w.stateful)
		}
	}
}

func TestMethods(t *testing.T) {
	all := []Method{MSCHAPv2, MSCHAPv1, CHAPMD5, PAP}
	for _, c := range []struct {
		name           string
		server, client []Method
		want           expect
	}{
		{"both all", all, all, expect{auth: MSCHAPv2}},
		{"client without v2", all, all[1:], expect{auth: MSCHAPv1}},
		{"client md5", all, all[2:3], expect{auth: CHAPMD5}},
		{"client pap", all, all[3:], expect{auth: PAP}},
		{"server pap", all[3:], all, expect{auth: PAP}},
		{"server md5", all[2:3], all, expect{auth: CHAPMD5}},
		{"server v1", all[1:2], all, expect{auth: MSCHAPv1}},
		{"none", nil, all, expect{auth: NoAuth}},
		{"client has nothing", all, nil, expect{server: AuthRefused, client: PeerTerminated}},
		{"disjoint", all[:1], all[3:], expect{server: AuthRefused, client: PeerTerminated}},
		{"nothing in the middle", []Method{MSCHAPv2, PAP}, []Method{MSCHAPv1, PAP}, expect{auth: PAP}},
	} {
		t.Run(c.name, func(t *testing.T) {
			server, client := serverConfig(), clientConfig()
			server.Auth, client.Auth = c.server, c.client
			server.MPPE, client.MPPE = Policy{}, Policy{}
			s := newSim(t, 1, server, client)
			s.open()
			s.run(ms(60_000))
			c.want.check(t, s)
		})
	}
}

func TestPolicies(t *testing.T) {
	const b40, b56, b128 = Bits40, Bits56, Bits128
	on := func(mode MPPEMode, bits Bits) Policy { return Policy{Mode: mode, Bits: bits} }
	with := func(p Policy, st Stateful) Policy { p.Stateful = st; return p }
	plain, full := expect{auth: MSCHAPv2}, expect{auth: MSCHAPv2, bits: 128}
	for _, c := range []struct {
		name           string
		server, client Policy
		want           expect
	}{
		{"deny deny", on(Deny, b128), on(Deny, b128), plain},
		{"deny allow", on(Deny, b128), on(Allow, b128), plain},
		{"deny prefer", on(Deny, b128), on(Prefer, b128), plain},
		{"deny require", on(Deny, b128), on(Require, b128), expect{server: PeerTerminated, client: EncryptionRefused}},
		{"allow deny", on(Allow, b128), on(Deny, b128), plain},
		{"allow allow", on(Allow, b128), on(Allow, b128), plain},
		{"allow prefer", on(Allow, b128), on(Prefer, b128), full},
		{"allow require", on(Allow, b128), on(Require, b128), full},
		{"prefer deny", on(Prefer, b128), on(Deny, b128), plain},
		{"prefer allow", on(Prefer, b128), on(Allow, b128), full},
		{"prefer prefer", on(Prefer, b128), on(Prefer, b128), full},
		{"prefer require", on(Prefer, b128), on(Require, b128), full},
		{"require deny", on(Require, b128), on(Deny, b128), expect{server: EncryptionRefused, client: PeerTerminated}},
		{"require allow", on(Require, b128), on(Allow, b128), full},
		{"require prefer", on(Require, b128), on(Prefer, b128), full},
		{"require require", on(Require, b128), on(Require, b128), full},

		{"all bits", on(Require, b40|b56|b128), on(Require, b40|b56|b128), full},
		{"40 of the server", on(Require, b40), on(Require, b40|b128), expect{auth: MSCHAPv2, bits: 40}},
		{"40 of the client", on(Require, b40|b128), on(Require, b40), expect{auth: MSCHAPv2, bits: 40}},
		{"56 in common", on(Require, b56|b128), on(Require, b40|b56), expect{auth: MSCHAPv2, bits: 56}},
		{"no bits in common", on(Require, b128), on(Require, b40), expect{server: EncryptionRefused, client: EncryptionRefused}},
		{"no bits, prefer", on(Prefer, b128), on(Prefer, b40), plain},
		{"no bits, prefer require", on(Prefer, b128), on(Require, b40), expect{server: PeerTerminated, client: EncryptionRefused}},

		{"stateful both", with(on(Require, b128), StatefulPreferred), with(on(Require, b128), StatefulPreferred), expect{auth: MSCHAPv2, bits: 128, stateful: true}},
		{"stateful asked and allowed", with(on(Require, b128), StatefulPreferred), with(on(Require, b128), StatefulAllowed), expect{auth: MSCHAPv2, bits: 128, stateful: true}},
		{"stateful allowed and asked", with(on(Require, b128), StatefulAllowed), with(on(Require, b128), StatefulPreferred), expect{auth: MSCHAPv2, bits: 128, stateful: true}},
		{"stateful allowed", with(on(Require, b128), StatefulAllowed), with(on(Require, b128), StatefulAllowed), full},
		{"stateful refused", with(on(Require, b128), StatefulPreferred), on(Require, b128), full},
		{"stateful refused by the server", on(Require, b128), with(on(Require, b128), StatefulPreferred), full},
	} {
		for _, wait := range []bool{false, true} {
			name := c.name
			if wait {
				name += " waiting"
			}
			t.Run(name, func(t *testing.T) {
				server, client := serverConfig(), clientConfig()
				server.MPPE, client.MPPE = c.server, c.client
				server.MPPE.IPCPWaitsForCCP, client.MPPE.IPCPWaitsForCCP = wait, wait
				s := newSim(t, 1, server, client)
				s.open()
				s.run(ms(60_000))
				c.want.check(t, s)
			})
		}
	}
}

// Every method with every key length: only MS-CHAP gives keys.
func TestMethodsAndKeys(t *testing.T) {
	for _, m := range []Method{PAP, CHAPMD5, MSCHAPv1, MSCHAPv2} {
		for _, bits := range []Bits{Bits40, Bits56, Bits128} {
			for _, hash := range []bool{false, true} {
				server, client := serverConfig(), clientConfig()
				server.Auth = []Method{m}
				server.MPPE.Bits, client.MPPE.Bits = bits, bits
				s := newSim(t, 1, server, client)
				if hash { // the server knows the NT hash only
					h := Secret{Password: "Secret-Pass1"}.ntHash()
					s.a.onAuth = func(r *AuthRequest) AuthResult {
						if m <= CHAPMD5 {
							return r.Verify(Secret{Password: "Secret-Pass1"})
						}
						return r.Verify(Secret{NTHash: &h})
					}
				}
				s.open()
				s.run(ms(60_000))
				want := expect{auth: m, bits: bits.Len()}
				switch {
				case m <= CHAPMD5:
					// Both end it; whose Terminate-Request comes first is not the point.
					if len(s.a.downs) != 1 || s.a.downs[0].Code != NoKeys {
						t.Errorf("%s: %v", m, s.a.downs)
					}
					continue
				case m == MSCHAPv1 && bits != Bits128 && hash:
					want = expect{server: NoKeys, client: PeerTerminated}
				}
				want.check(t, s)
			}
		}
	}
}
