package control

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"xpptp/control/aaa"
	"xpptp/control/config"
	"xpptp/control/ppp"
	"xpptp/control/pptp"
)

// Client places calls: it is a Box and the jobs that keep its calls up.
type Client struct {
	*Box
	password aaa.Secret
	server   netip.AddrPort
	jobs     sync.WaitGroup
	cancel   context.CancelFunc
	done     chan error
}

// connectTimeout bounds the TCP connection to the server.
const connectTimeout = 15 * time.Second

// NewClient makes a client for cfg; it resolves the server and opens nothing
// yet.
func NewClient(cfg *config.Dial, password aaa.Secret, log *slog.Logger) (*Client, error) {
	b, err := newClientBox(cfg, password, log)
	if err != nil {
		return nil, err
	}
	c := &Client{Box: b, password: password, done: make(chan error, 1)}
	if c.server, err = resolve(cfg.Server); err != nil {
		return nil, err
	}
	if b.dialFrom = cfg.Source; len(b.dialFrom) == 0 {
		from, err := sourceTo(c.server)
		if err != nil {
			return nil, err
		}
		b.dialFrom = []netip.Addr{from}
	}
	return c, nil
}

// newClientBox makes the Box of a client.
func newClientBox(cfg *config.Dial, password aaa.Secret, log *slog.Logger) (*Box, error) {
	b := newBox(&cfg.Common, log)
	b.dial = cfg
	b.pptp = pptpConfig(&cfg.Common)
	b.pptp.MaxChannels = 0
	b.pptp.MaxCalls = max(b.pptp.MaxCalls, cfg.CallsPerConnection)
	if err := b.pptp.Validate(); err != nil {
		return nil, err
	}
	b.link = linkConfig(&cfg.Common)
	b.link.User, b.link.Password = cfg.User, password.Reveal()
	b.link.AskDNS = true
	b.link.LocalIP = cfg.Address
	return b, nil
}

// resolve finds the server's IPv4 address: GRE of PPTP runs over IPv4 only.
func resolve(server string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(server)
	if err != nil {
		host, port = server, fmt.Sprint(config.Port)
	}
	a, err := net.ResolveTCPAddr("tcp4", net.JoinHostPort(host, port))
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("server %q: %w", server, err)
	}
	ap := a.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), nil
}

// sourceTo asks the kernel which of our addresses it would use.
func sourceTo(to netip.AddrPort) (netip.Addr, error) {
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return netip.Addr{}, fmt.Errorf("no route to the server %v: %w", to.Addr(), err)
	}
	defer func() { _ = c.Close() }()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), nil
}

// Server returns the server's address.
func (c *Client) Server() netip.AddrPort { return c.server }

// Start opens the ports and begins to place calls, several on each control
// connection if so configured.
func (c *Client) Start() error {
	if err := c.Box.Start(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	per := max(c.dial.CallsPerConnection, 1)
	for first := 0; first < c.dial.Calls; first += per {
		c.jobs.Add(1)
		go func() {
			defer c.jobs.Done()
			c.keep(ctx, first, min(per, c.dial.Calls-first))
		}()
	}
	go func() {
		c.jobs.Wait()
		close(c.done)
	}()
	return nil
}

// Done is closed once every call has ended and none is going to be redialled.
func (c *Client) Done() <-chan error { return c.done }

// Shutdown ends all calls in order and closes everything.
func (c *Client) Shutdown(ctx context.Context) error {
	c.cancel()
	return c.Box.Shutdown(ctx)
}

// keep runs n calls on one control connection; with persist it redials, with
// a growing delay, until ctx ends.
func (c *Client) keep(ctx context.Context, first, n int) {
	delay := c.dial.RedialMin
	for {
		wasUp := c.connect(ctx, first, n)
		if !c.dial.Persist || ctx.Err() != nil {
			return
		}
		if wasUp {
			delay = c.dial.RedialMin
		}
		c.log.Info("redialling", "in", delay)
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return
		}
		delay = min(delay*2, c.dial.RedialMax)
	}
}

// connect makes one control connection with n calls and returns when all of
// them are over. It reports whether any of them came up.
func (c *Client) connect(ctx context.Context, first, n int) (wasUp bool) {
	fail := func(err error) {
		c.log.Warn("call failed", "server", c.server, "err", err)
		for i := range n {
			c.event(CallEvent{Kind: EventDown, Call: CallInfo{Job: first + i, Peer: c.server.Addr()},
				Reason: ppp.Reason{Code: ppp.LowerDown, Text: err.Error()}})
		}
	}
	from := c.dialFrom[first%len(c.dialFrom)]
	d := net.Dialer{Timeout: connectTimeout, LocalAddr: &net.TCPAddr{IP: from.AsSlice()}}
	nc, err := d.DialContext(ctx, "tcp4", c.server.String())
	if err != nil {
		fail(err)
		return false
	}
	l := c.loops[int(c.next.Add(1))%len(c.loops)]
	over := make(chan bool, 1)
	c.count.conns.Add(1)
	err = l.serveTCP(nc.(*net.TCPConn), true, func(cn *conn) {
		ended, up := 0, false
		placed := false
		cn.onUp = func() {
			placed = true
			for i := range n {
				cn.place(first+i, func(k *call) {
					up = up || k.up
					ended++
				})
			}
		}
		cn.onDown = func(e pptp.Closed) {
			if !placed {
				fail(fmt.Errorf("control connection: %s", e.String()))
			}
			over <- up
		}
	})
	if err != nil {
		c.count.conns.Add(-1)
		_ = nc.Close()
		fail(err)
		return false
	}
	return <-over
}

// place asks the server for a call.
func (c *conn) place(job int, onEnd func(*call)) {
	k, err := c.newCall(0, 0, false, true)
	if err != nil {
		c.log.Error("call not placed", "err", err)
		c.leaving = true
		return
	}
	k.job = job
	k.user = c.l.box.dial.User
	k.onEnd = func(ppp.Reason) { onEnd(k) }
	c.idleSince = 0
	c.placing++
	k.install(func(ok bool) {
		c.placing--
		if c.closed || !ok {
			k.Down(ppp.Reason{Code: ppp.LowerDown, Text: "control connection lost"})
			k.rearm()
			return
		}
		ref, err := c.m.PlaceOutgoing(c.l.now, &pptp.OutgoingCallRequest{
			CallID: k.id, MinimumBPS: 300, MaximumBPS: 100_000_000,
			BearerType: pptp.BearerAnalog | pptp.BearerDigital, FramingType: pptp.FramingAsync | pptp.FramingSync,
			PacketRecvWindowSize: uint16(c.l.box.common.GRE.ReceiveWindow),
		})
		if err != nil {
			k.Down(ppp.Reason{Code: ppp.LowerDown, Text: err.Error()})
			k.rearm()
			return
		}
		k.ref = ref
		c.calls[ref] = k
		c.pump()
	})
}

// clientUp configures the TUN device for a call.
func (b *Box) clientUp(k *call, p *ppp.NetParams) {
	t := b.ports.tun
	if err := t.SetMTU(int(k.room())); err != nil {
		k.log.Warn("MTU not set", "err", err)
	}
	var err error
	if p.Family == ppp.IPv4 {
		err = t.AddAddr(netip.PrefixFrom(p.Local, 32), p.Peer)
	} else {
		err = t.AddAddr(netip.PrefixFrom(p.Local, 64), netip.Addr{})
	}
	if err != nil {
		k.log.Error("address not set", "err", err)
	}
}

// clientDown takes it back.
func (b *Box) clientDown(k *call, p *ppp.NetParams) {
	bits, peer := 32, p.Peer
	if p.Family == ppp.IPv6 {
		bits, peer = 64, netip.Addr{}
	}
	if err := b.ports.tun.DelAddr(netip.PrefixFrom(p.Local, bits), peer); err != nil {
		k.log.Warn("address not removed", "err", err)
	}
}
