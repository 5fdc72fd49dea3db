package demo

import (
	"net/netip"

	"xpptp/control/lab"
	"xpptp/control/sock"
)

// Addresses of the lab. Nobody outside its namespaces sees them.
var (
	serverAddr = netip.MustParsePrefix("198.18.0.1/24") // RFC 2544: for benchmarks
	clientAddr = netip.MustParsePrefix("198.18.0.2/24")
	insideAddr = netip.MustParseAddr("10.64.0.1")
	insidePool = "10.64.1.0-10.64.2.255"
)

const (
	serverIf = "veth0"
	clientIf = "veth1"
)

// namespaces is two network namespaces on one wire. Neither has a name, so they are
// gone with us and our children, however we end.
type namespaces struct{ server, client *sock.Netns }

func newNamespaces() (_ *namespaces, err error) {
	l := &namespaces{}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if l.server, err = sock.NewNetns(); err != nil {
		return nil, err
	}
	if l.client, err = sock.NewNetns(); err != nil {
		return nil, err
	}
	if err := lab.Wire(l.server, serverIf, l.client, clientIf); err != nil {
		return nil, err
	}
	if err := l.server.Do(func() error { return lab.SetUp(serverIf, serverAddr) }); err != nil {
		return nil, err
	}
	if err := l.client.Do(func() error { return lab.SetUp(clientIf, clientAddr) }); err != nil {
		return nil, err
	}
	return l, l.client.Do(func() error { return lab.Carrier(clientIf) })
}

func (l *namespaces) close() {
	for _, n := range []*sock.Netns{l.server, l.client} {
		if n != nil {
			_ = n.Close()
		}
	}
}
