//go:build interop

package interop

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// router makes the guest a router with masquerade between the wire and n network namespaces of its own, c1 … (10.99.1.2, 10.99.2.2 …).
// Masquerade is toward the wire in a serve row, where the clients sit behind it; toward the namespaces in a dial row, where xpptp does.
func (a *attempt) router(n int, rules string) (remove func(), err error) {
	up, down := "sysctl -qw net.ipv4.ip_forward=1\n", "iptables-legacy -t nat -F; iptables-legacy -t raw -F; sysctl -qw net.ipv4.ip_forward=0\n"
	var links strings.Builder
	for i := 1; i <= n; i++ {
		fmt.Fprintf(&links, "netns add c%[1]d\nlink add v%[1]d type veth peer name e0 netns c%[1]d\naddr add 10.99.%[1]d.1/24 dev v%[1]d\nlink set v%[1]d up\n", i)
		up += fmt.Sprintf("printf 'link set lo up\naddr add 10.99.%[1]d.2/24 dev e0\nlink set e0 up\nroute add default via 10.99.%[1]d.1\n' | ip -n c%[1]d -batch -\n", i)
		down += fmt.Sprintf("ip netns del c%[1]d; ip link del v%[1]d\n", i)
	}
	remove = func() { _, _ = a.linux.shell(60*time.Second, "%s", down) }
	out, err := a.linux.shell(60*time.Second, "set -e\nprintf '%s' | ip -batch -\n%s%s", links.String(), up, rules)
	if err != nil {
		remove()
		return nil, fmt.Errorf("router: %w\n%s", err, out)
	}
	return remove, nil
}

const natHelp = "iptables-legacy -t raw -A PREROUTING -p tcp --dport 1723 -j CT --helper pptp\n"

// natHelper: three calls through masquerade with the kernel's PPTP helper, which makes the TCP source port the client's call ID. The
// wire shows that where it runs behind the router, in a serve row.
func natHelper(a *attempt) error {
	if err := a.behindNAT(3, natHelp); err != nil || !a.serves {
		return err
	}
	ports, ids, err := a.wire.outgoingCalls()
	if err != nil {
		return err
	}
	if len(ids) < 3 || !slices.Equal(ports, ids) {
		return fmt.Errorf("the helper did not rewrite the call IDs: %v, ports %v", ids, ports)
	}
	a.note("call IDs rewritten to %v", ids)
	return nil
}

// natPlain: one call through masquerade that knows nothing of call IDs: what comes back is sent to the one client by address.
func natPlain(a *attempt) error { return a.behindNAT(1, "") }

func (a *attempt) behindNAT(n int, rules string) error {
	out, inside := "vec0", "10.99.1.2"
	if !a.serves {
		out, inside = "v1", nearIP
	}
	rules += fmt.Sprintf("iptables-legacy -t nat -A POSTROUTING -o %s -j MASQUERADE\n", out)
	if !strings.Contains(rules, "helper") {
		rules += fmt.Sprintf("iptables-legacy -t nat -A PREROUTING -i %s -p gre -j DNAT --to-destination %s\n", out, inside)
	}
	remove, err := a.router(n, rules)
	if err != nil {
		return err
	}
	defer remove()
	if a.serves {
		err = a.clientsBehindNAT(n)
	} else {
		err = a.serverBehindNAT(n)
	}
	if err != nil {
		return err
	}
	return a.checkWire()
}

func (a *attempt) clientsBehindNAT(n int) error {
	if err := a.s.start(a.row.server); err != nil {
		return err
	}
	type pair struct {
		m machine
		c call
	}
	var pairs []pair
	for i := range n {
		c := &linuxClient{g: a.linux.in(fmt.Sprintf("c%d", i+1)), private: true}
		calls, err := c.dial(a.s.address(), a.row.client, goodCredential, 1)
		if err != nil {
			return fmt.Errorf("client %d: %w", i+1, err)
		}
		pairs = append(pairs, pair{c.g, calls[0]})
	}
	if _, err := a.s.calls(n); err != nil {
		return err
	}
	for _, p := range pairs {
		if err := a.ping(p.m, p.c.remote); err != nil {
			return err
		}
		if err := a.ping(a.s.machine(), p.c.local); err != nil {
			return err
		}
	}
	return nil
}

func (a *attempt) serverBehindNAT(n int) error {
	s := &linuxServer{g: a.linux.in("c1"), ip: "10.99.1.2"}
	a.s = s
	if err := s.start(a.row.server); err != nil {
		return err
	}
	if out, err := a.c.machine().shell(10*time.Second, "ip route replace 10.99.0.0/16 via %s", farIP); err != nil {
		return fmt.Errorf("route: %w\n%s", err, out)
	}
	calls, err := a.c.dial(s.ip, a.row.client, goodCredential, n)
	if err != nil {
		return err
	}
	for _, c := range calls {
		if err := a.ping(s.g, c.local); err != nil {
			return err
		}
	}
	return a.ping(a.c.machine(), calls[0].remote)
}
