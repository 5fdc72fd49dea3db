package tun_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"xpptp/rings"
	"xpptp/rings/owner"
	"xpptp/rings/ringtest"
	"xpptp/rings/tun"
)

func owners(t *testing.T) *owner.Map {
	t.Helper()
	m, err := owner.New()
	if errors.Is(err, unix.EPERM) {
		t.Skipf("needs the right to make BPF maps: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

// Each packet comes out at the queue of its destination's owner, in the server
// role, or of its source's, in the client role; what changes is heeded at once.
func TestSteer(t *testing.T) {
	const queues = 4
	for _, c := range []struct {
		name     string
		bySource bool
	}{{"by destination", false}, {"by source", true}} {
		t.Run(c.name, func(t *testing.T) {
			ns := ringtest.NewNS(t)
			ns.Do(func() { ns.Sysctl("net/ipv6/conf/default/disable_ipv6", "0") })
			m := owners(t)
			d := create(t, ns, tun.Config{Name: "rt-tun", Queues: queues, MTU: 1400})
			if err := d.Steer(m, c.bySource); err != nil {
				t.Fatal(err)
			}
			pool := rings.NewPoolN(512, rings.ChunkSmall)
			var ports []*tun.Port
			for q := range queues {
				ports = append(ports, open(t, d, q, pool))
			}
			// What decides is the near address of 10.66 and fd66, by source, or
			// the far one, by destination; the other address is always the same.
			for _, p := range []string{"10.67.0.1/16", "fd67::1/64"} {
				addr(t, d, p, "")
			}
			for _, p := range []string{"10.66.0.0/16", "fd66::/64"} {
				if c.bySource {
					continue
				}
				if err := d.AddRoute(netip.MustParsePrefix(p), netip.Addr{}); err != nil {
					t.Fatal(err)
				}
			}
			send := func(a netip.Addr) {
				t.Helper()
				other := netip.MustParseAddr("10.67.0.1")
				if a.Is6() {
					other = netip.MustParseAddr("fd67::1")
				}
				src, dst := other, a
				if c.bySource {
					addr(t, d, netip.PrefixFrom(a, a.BitLen()).String(), "")
					src, dst = a, other.Next()
				}
				ns.Do(func() {
					conn, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(src, 0)),
						net.UDPAddrFromAddrPort(netip.AddrPortFrom(dst, 9)))
					if err != nil {
						t.Fatal(err)
					}
					defer conn.Close()
					if _, err := conn.Write([]byte("x")); err != nil {
						t.Fatal(err)
					}
				})
			}
			// where returns the queue that a packet came out at, and throws
			// everything else away.
			where := func(a netip.Addr) int {
				t.Helper()
				fs := make([]*rings.Frame, 16)
				for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
					for q, p := range ports {
						n, err := p.Recv(fs)
						if err != nil {
							t.Fatal(err)
						}
						at := -1
						for _, f := range fs[:n] {
							if decides(f.Data(), c.bySource) == a {
								at = q
							}
							f.Free()
						}
						if at >= 0 {
							return at
						}
					}
				}
				t.Fatalf("the packet of %v never came out", a)
				return -1
			}
			check := func(a string, want int) {
				t.Helper()
				x := netip.MustParseAddr(a)
				send(x)
				if got := where(x); got != want {
					t.Errorf("%v came out at queue %d, want %d", a, got, want)
				}
			}
			set := func(p string, worker int) {
				t.Helper()
				if err := m.Set(netip.MustParsePrefix(p), worker); err != nil {
					t.Fatal(err)
				}
			}
			for i := range 40 {
				for _, a := range []string{fmt.Sprintf("10.66.0.%d", i+1), fmt.Sprintf("fd66::%x", i+1)} {
					x := netip.MustParseAddr(a)
					set(netip.PrefixFrom(x, x.BitLen()).String(), (i*3+1)%queues)
					check(a, (i*3+1)%queues)
				}
			}
			// Prefixes behind calls; the longest match decides.
			set("10.66.8.0/21", 1)
			set("10.66.9.0/24", 2)
			set("10.66.9.7/32", 3)
			set("fd66::8:0:0:0/80", 3)
			set("fd66::8:1:0:0/96", 2)
			for a, want := range map[string]int{
				"10.66.8.1": 1, "10.66.15.254": 1, "10.66.9.6": 2, "10.66.9.7": 3, "10.66.16.1": 0,
				"fd66::8:2:0:1": 3, "fd66::8:1:0:1": 2, "fd66::9:0:0:1": 0,
			} {
				check(a, want)
			}
			// A call ends, another takes its address.
			if err := m.Delete(netip.MustParsePrefix("10.66.9.7/32")); err != nil {
				t.Fatal(err)
			}
			check("10.66.9.7", 2)
			if err := errors.Join(m.Delete(netip.MustParsePrefix("10.66.9.0/24")), m.Delete(netip.MustParsePrefix("10.66.9.0/24"))); err != nil {
				t.Fatal(err)
			}
			check("10.66.9.7", 1)
			set("10.66.9.7/32", 2)
			check("10.66.9.7", 2)
		})
	}
}

// decides returns the address that decides of an IP packet.
func decides(p []byte, bySource bool) netip.Addr {
	at, n := 16, 4
	if p[0]>>4 == 6 {
		at, n = 24, 16
	}
	if bySource {
		at -= n
	}
	a, _ := netip.AddrFromSlice(p[at : at+n])
	return a
}

func TestSteerErrors(t *testing.T) {
	m := owners(t)
	if m.Set(netip.Prefix{}, 0) == nil || m.Delete(netip.Prefix{}) == nil {
		t.Error("a prefix that is none has an owner")
	}
	d := create(t, ringtest.NewNS(t), tun.Config{MTU: 1400})
	open(t, d, 0, rings.NewPoolN(8, rings.ChunkSmall))
	if err := d.Steer(m, false); err == nil {
		t.Error("steering is set though the port is taken")
	}
	_ = m.Close()
	d = create(t, ringtest.NewNS(t), tun.Config{MTU: 1400})
	if err := d.Steer(m, false); err == nil {
		t.Error("steering by a map that is closed")
	}
}
