// Package hostnet lends the host's default route and its name servers to a
// call, and gives them back: when the call ends, when the program ends, and,
// for what a program that was killed has left, at the next start.
//
// The default route itself is never touched. Two routes, 0.0.0.0/1 and
// 128.0.0.0/1, go ahead of it because they are longer; the server gets a host
// route by the way it is reached before, so that the call does not run
// through itself. The routes into the call end with the TUN device. The host
// route of a program that was killed stays until the next call to that server,
// or until it is deleted by hand: `ip route del SERVER proto 184`.
// IPv6 is left alone: PPTP gives no global addresses.
package hostnet

import (
	"errors"
	"log/slog"
	"net/netip"
	"sync"
)

// Options say what a call may have.
type Options struct {
	Server       netip.Addr // outside address, IPv4, as far as it is known
	DefaultRoute bool
	DNS          bool
	Resolv       string // resolv.conf; empty: /etc/resolv.conf
	Log          *slog.Logger
}

// Call is one that is up.
type Call struct {
	ID     any        // what Down names it by
	Server netip.Addr // outside address
	Link   string
	Index  int        // of the link
	Local  netip.Addr // our inside address
	DNS    []netip.Addr
}

// Host does one thing after the other on a goroutine of its own: a name
// service that is slow must not hold up any call.
type Host struct {
	opt    Options
	routes *routes
	resolv *resolver
	owner  any // the call that has it all; nil: none

	mu     sync.Mutex
	queue  []func()
	closed bool
	wake   chan struct{}
	done   chan struct{}
}

// New takes back what a former run for the same server has left. The host's
// network is the calling thread's network namespace.
func New(opt Options) (*Host, error) {
	if opt.Resolv == "" {
		opt.Resolv = "/etc/resolv.conf"
	}
	h := &Host{opt: opt, wake: make(chan struct{}, 1), done: make(chan struct{})}
	var err error
	if h.routes, err = newRoutes(); err != nil {
		return nil, err
	}
	h.resolv = &resolver{path: opt.Resolv}
	if opt.DefaultRoute {
		h.warn("default route", h.routes.unpin(opt.Server))
	}
	go h.run()
	return h, nil
}

// RecoverDNS restores resolv.conf, empty for /etc/resolv.conf, if a former run
// was killed before it could. Do it before the server's name is looked up.
func RecoverDNS(path string) error {
	if path == "" {
		path = "/etc/resolv.conf"
	}
	return (&resolver{path: path}).recover()
}

// Up gives a call what it may have, unless another call has it. It does not
// wait.
func (h *Host) Up(c Call) { h.post(func() { h.up(c) }) }

// Down takes everything back from the call, if it has it. It does not wait.
func (h *Host) Down(id any) {
	h.post(func() {
		if h.owner == id {
			h.restore()
		}
	})
}

// Close restores the host and waits until that is done.
func (h *Host) Close() {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return
	}
	h.queue = append(h.queue, h.restore)
	h.closed = true
	h.mu.Unlock()
	h.poke()
	<-h.done
}

func (h *Host) post(f func()) {
	h.mu.Lock()
	if !h.closed {
		h.queue = append(h.queue, f)
	}
	h.mu.Unlock()
	h.poke()
}

func (h *Host) poke() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

func (h *Host) run() {
	defer close(h.done)
	for range h.wake {
		h.mu.Lock()
		queue, closed := h.queue, h.closed
		h.queue = nil
		h.mu.Unlock()
		for _, f := range queue {
			f()
		}
		if closed {
			h.routes.close()
			return
		}
	}
}

func (h *Host) up(c Call) {
	if h.owner != nil {
		return
	}
	h.owner = c.ID
	var through []netip.Prefix
	switch {
	case h.opt.DefaultRoute:
		through = halves[:]
	case h.opt.DNS: // name servers that nothing leads to are of no use
		for _, a := range c.DNS {
			if a != c.Server {
				through = append(through, netip.PrefixFrom(a, 32))
			}
		}
	}
	if len(through) > 0 {
		err := h.routes.divert(c.Server, c.Index, c.Local, through)
		if err == nil && h.opt.DefaultRoute {
			h.opt.Log.Info("default route", "link", c.Link)
		}
		h.warn("default route", err)
	}
	if !h.opt.DNS {
		return
	}
	if len(c.DNS) == 0 {
		h.warn("name servers", errors.New("the server named none"))
		return
	}
	err := h.resolv.set(c.Link, c.DNS)
	if err == nil {
		h.opt.Log.Info("name servers", "link", c.Link, "dns", c.DNS)
	}
	h.warn("name servers", err)
}

func (h *Host) restore() {
	if h.owner == nil {
		return
	}
	h.owner = nil
	h.warn("name servers", h.resolv.restore())
	h.warn("default route", h.routes.restore())
	h.opt.Log.Info("routes and name servers restored")
}

func (h *Host) warn(what string, err error) {
	if err != nil {
		h.opt.Log.Warn(what, "err", err)
	}
}
