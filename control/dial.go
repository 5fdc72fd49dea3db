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
	"xpptp/control/hostnet"
	"xpptp/control/ppp"
	"xpptp/control/pptp"
)

// Client places calls: it is a Box and the jobs that keep its calls up.
type Client struct {
	*Box
	server netip.AddrPort
	jobs   sync.WaitGroup
	slots  chan struct{} // holds one for every control connection whose calls are not up yet
	cancel context.CancelFunc
	done   chan struct{}
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
	c := &Client{Box: b, done: make(chan struct{})}
	if cfg.PeerDNS { // the name is looked up next
		if err := hostnet.RecoverDNS(""); err != nil {
			log.Warn("name servers", "err", err)
		}
	}
	if c.server, b.dialFrom, err = c.locate(); err != nil {
		return nil, err
	}
	return c, nil
}

// locate finds the server and our addresses to call it from.
func (c *Client) locate() (server netip.AddrPort, from []netip.Addr, err error) {
	if server, err = resolve(c.dial.Server); err != nil {
		return server, nil, err
	}
	if len(c.dial.Source) > 0 {
		return server, c.dial.Source, nil
	}
	a, err := sourceTo(server)
	return server, []netip.Addr{a}, err
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

// Start opens the ports and begins to place calls, several on each control
// connection if so configured.
func (c *Client) Start() error {
	if c.dial.DefaultRoute || c.dial.PeerDNS {
		h, err := hostnet.New(hostnet.Options{
			Server: c.server.Addr(), DefaultRoute: c.dial.DefaultRoute, DNS: c.dial.PeerDNS, Log: c.log,
		})
		if err != nil {
			return err
		}
		c.host = h
	}
	if err := c.Box.Start(); err != nil {
		c.restoreHost()
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	c.slots = make(chan struct{}, c.dial.Starting)
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
func (c *Client) Done() <-chan struct{} { return c.done }

// Shutdown ends all calls in order and closes everything.
func (c *Client) Shutdown(ctx context.Context) error {
	c.cancel()
	// A call that does not end in time must not keep what the host lent it.
	defer c.restoreHost()
	return c.Box.Shutdown(ctx)
}

// restoreHost gives the host back what calls have of it, and waits for that.
func (c *Client) restoreHost() {
	if c.host != nil {
		c.host.Close()
	}
}

// keep runs n calls on one control connection; with persist it redials, with
// a growing delay, until ctx ends. Calls that share a connection are placed
// again together, once all of them are over.
func (c *Client) keep(ctx context.Context, first, n int) {
	delay := c.dial.RedialMin
	server, from := c.server, c.dialFrom
	for {
		end := c.connect(ctx, server, from[first%len(from)], first, n)
		if !c.dial.Persist || ctx.Err() != nil {
			return
		}
		switch {
		case end.wasUp:
			delay = c.dial.RedialMin
		case end.refused:
			// The same password again and again can lock an account.
			delay = c.dial.RedialMax
		}
		c.log.Info("redialling", "in", delay)
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return
		}
		delay = min(delay*2, c.dial.RedialMax)
		// Either end may have moved.
		if s, f, err := c.locate(); err == nil {
			server, from = s, f
		} else {
			c.log.Warn("server not found, trying where it was", "err", err)
		}
	}
}

// ending says how the calls of a control connection ended.
type ending struct {
	wasUp   bool // any of them
	refused bool // our credentials
}

// connect makes one control connection with n calls and returns when it and
// all of them are over.
func (c *Client) connect(ctx context.Context, server netip.AddrPort, from netip.Addr, first, n int) ending {
	fail := func(err error) {
		c.log.Warn("call failed", "server", server, "err", err)
		for i := range n {
			c.event(CallEvent{
				Kind: EventDown, Call: CallInfo{Job: first + i, Peer: server.Addr()},
				Reason: ppp.Reason{Code: ppp.LowerDown, Text: err.Error()},
			})
		}
	}
	// A slow server gets no more at once than it can set up in time.
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return ending{}
	}
	settled := sync.OnceFunc(func() { <-c.slots })
	defer settled()
	d := net.Dialer{Timeout: connectTimeout, LocalAddr: &net.TCPAddr{IP: from.AsSlice()}}
	nc, err := d.DialContext(ctx, "tcp4", server.String())
	if err != nil {
		fail(err)
		return ending{}
	}
	l := c.loops[int(c.next.Add(1))%len(c.loops)]
	over := make(chan ending, 1)
	c.count.conns.Add(1)
	err = l.serveTCP(nc.(*net.TCPConn), true, func(cn *conn) {
		// All of this runs on the loop.
		var end ending
		placed, left, down := false, 0, false
		starting := n
		started := func() {
			if starting--; starting == 0 {
				settled()
			}
		}
		check := func() {
			if down && left == 0 {
				over <- end
			}
		}
		cn.onUp = func() {
			placed = true
			left = n
			for i := range n {
				cn.place(first+i, started, func(k *call) {
					left--
					if !k.up {
						started()
					}
					end.wasUp = end.wasUp || k.up
					end.refused = end.refused || k.reason.Code == ppp.AuthFailed
					check()
				})
			}
		}
		cn.onDown = func(e pptp.Closed) {
			down = true
			if !placed {
				fail(fmt.Errorf("control connection: %s", e.String()))
			}
			check()
		}
	})
	if err != nil {
		c.count.conns.Add(-1)
		_ = nc.Close()
		fail(err)
		return ending{}
	}
	select {
	case end := <-over:
		return end
	case <-c.quit:
		return ending{}
	}
}

// place asks the server for a call. onEnd is called once, when it is over.
func (c *conn) place(job int, onUp func(), onEnd func(*call)) {
	k, err := c.newCall(c.l.box.linkConfig(), 0, 0, false, true)
	if err != nil {
		c.log.Error("call not placed", "err", err)
		c.leaving = true
		why := ppp.Reason{Code: ppp.LowerDown, Text: err.Error()}
		c.l.box.event(CallEvent{Kind: EventDown, Call: CallInfo{Job: job, Peer: c.m.RemoteAddr().Addr()}, Reason: why})
		onEnd(&call{reason: why})
		return
	}
	k.job = job
	k.user = c.l.box.dial.User
	k.onUp, k.onEnd = onUp, func() { onEnd(k) }
	k.place()
}

// place asks the server for the call.
func (k *call) place() {
	c := k.conn
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
