package control

import (
	"cmp"
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"xpptp/control/aaa"
	"xpptp/control/config"
	"xpptp/control/hostnet"
	"xpptp/control/pool"
	"xpptp/control/ppp"
	"xpptp/control/pptp"
	"xpptp/control/sock"
	"xpptp/engine"
	"xpptp/hwprofile"
	"xpptp/rings"
	"xpptp/workers"
)

// Box is one running appliance: workers, a loop for each, and, for a server,
// the listeners. Make it with NewServer or NewClient.
type Box struct {
	common *config.Common
	serve  *config.Config // nil for a client
	dial   *config.Dial   // nil for a server
	log    *slog.Logger

	pptp   pptp.Config
	link   ppp.Config
	auth   aaa.Authenticator
	books  aaa.Accountant // may be nil
	run    string         // names this run, in the names of sessions
	iid    uint64         // our IPv6 interface identifier
	clock  func() int64
	rand   func([]byte)
	ports  *ports
	nLoops int
	loops  []*Loop
	next   atomic.Uint32 // loop of the next connection

	tuning *hwprofile.Tuning // nil: the machine is as it was

	outsideMTU int
	dialFrom   []netip.Addr                                           // client: our outside addresses
	host       *hostnet.Host                                          // client: what the host lends to calls; may be nil
	ownInside  func(worker int, pool *rings.Pool) (rings.Port, error) // SetInside

	wrapOutside func(rings.Port, *rings.Pool) rings.Port // WrapOutside; may be nil

	listeners []*net.TCPListener
	quit      chan struct{}
	running   sync.WaitGroup
	failed    chan error // a worker ended
	stopping  atomic.Bool
	draining  atomic.Bool   // no new calls
	drained   chan struct{} // poked when there may be no call left
	onEvent   func(CallEvent)

	count struct {
		calls, conns                                              atomic.Int64
		protocolErrors, authFailures, refusedConns, strangers, up atomic.Uint64
	}
	idle chan struct{} // poked when a call or connection is gone

	addr      addresses
	routes    routes
	last      []workers.State // what the workers had counted when they ended
	lastEarly engine.Counters
}

// EventKind says what happened to a call.
type EventKind uint8

// The kinds of event.
const (
	EventUp      EventKind = iota // the first network protocol is open
	EventNetwork                  // another one is
	EventDown                     // the call is over, everything is given back
)

// CallEvent tells the box's user about a call.
type CallEvent struct {
	Kind   EventKind
	Call   CallInfo
	Reason ppp.Reason // with EventDown
	WasUp  bool       // with EventDown: it had been up
}

var eventNames = [...]string{"up", "network", "down"}

// String returns "up", "network" or "down".
func (k EventKind) String() string { return eventNames[k] }

// Orderly reports whether a call that is over had been up and was ended by
// either side in order.
func (e CallEvent) Orderly() bool {
	switch e.Reason.Code {
	case ppp.UserRequest, ppp.AdminReset, ppp.PeerTerminated:
		return e.WasUp
	default: // the others need nothing
	}
	return false
}

// ReasonText is why a call is over; "" for other events.
func (e CallEvent) ReasonText() string {
	if e.Kind != EventDown {
		return ""
	}
	return e.Reason.String()
}

// OnEvent sets the function that hears of calls. It runs on the loops and must
// not block. Set it before Start.
func (b *Box) OnEvent(f func(CallEvent)) { b.onEvent = f }

func (b *Box) event(e CallEvent) {
	if e.Kind == EventUp {
		b.count.up.Add(1)
	}
	if b.onEvent != nil {
		b.onEvent(e)
	}
}

func monotonic() func() int64 {
	start := time.Now()
	// Above zero, since zero stands for "not set" in many places.
	return func() int64 { return int64(time.Since(start)) + int64(time.Second) }
}

func newBox(common *config.Common, log *slog.Logger) *Box {
	return &Box{
		common: common, log: log, nLoops: 1,
		clock:  monotonic(),
		rand:   func(b []byte) { _, _ = crand.Read(b) },
		quit:   make(chan struct{}),
		failed: make(chan error, 64),
		idle:   make(chan struct{}, 1),

		drained: make(chan struct{}, 1),
	}
}

// NewServer makes a concentrator. It opens nothing yet.
func NewServer(cfg *config.Config, auth aaa.Authenticator, log *slog.Logger) (*Box, error) {
	b := newBox(&cfg.Common, log)
	b.serve, b.auth = cfg, auth
	var run [3]byte
	b.rand(run[:])
	b.run = fmt.Sprintf("%08x%x", uint32(time.Now().Unix()), run)
	b.pptp = pptpConfig(&cfg.Common)
	if n := cfg.Limits.CallsPerConnection; n > 0 {
		b.pptp.MaxCalls = n
	}
	if err := b.pptp.Validate(); err != nil {
		return nil, err
	}
	var id [8]byte
	b.rand(id[:])
	id[0] &^= 0x02 // not a universal identifier (RFC 5072 §4.1)
	b.iid = binary.BigEndian.Uint64(id[:]) | 1
	b.link = linkConfig(&cfg.Common)
	b.link.Server, b.link.Name = true, cfg.Name
	b.link.LocalIP, b.link.InterfaceID = cfg.Local, b.iid
	copy(b.link.DNS[:], cfg.DNS)
	copy(b.link.NBNS[:], cfg.NBNS)
	for _, p := range cfg.Pools {
		np, err := pool.New(p.Name, p.Ranges)
		if err != nil {
			return nil, err
		}
		// Ours is not to be given out.
		if np.Contains(cfg.Local) {
			if err := np.Take(cfg.Local); err != nil {
				return nil, err
			}
		}
		b.addr.pools = append(b.addr.pools, np)
	}
	return b, nil
}

// pptpConfig translates the settings of the control connection.
func pptpConfig(c *config.Common) pptp.Config {
	p := pptp.DefaultConfig()
	p.HostName, p.Vendor, p.Firmware = c.PPTP.HostName, c.PPTP.Vendor, uint16(c.PPTP.Firmware)
	p.EchoInterval, p.EchoTimeout = c.PPTP.EchoInterval, c.PPTP.EchoTimeout
	p.StartTimeout, p.CallTimeout, p.StopTimeout = c.PPTP.StartTimeout, c.PPTP.CallTimeout, c.PPTP.StopTimeout
	p.CloseOnStuckCall = c.PPTP.CloseOnStuckCall
	p.RecvWindow = uint16(c.GRE.ReceiveWindow)
	return p
}

// linkConfig translates the settings of PPP.
func linkConfig(c *config.Common) ppp.Config {
	l := ppp.Config{
		MRU: uint16(c.MRU), OfferPFC: true, OfferACFC: true,
		EchoInterval: c.PPP.EchoInterval, EchoFailure: uint8(c.PPP.EchoFailures),
		RestartTimer: c.PPP.RestartTimer, MaxConfigure: uint8(c.PPP.MaxConfigure),
		MaxTerminate: uint8(c.PPP.MaxTerminate), MaxFailure: uint8(c.PPP.MaxFailure),
		AuthTimeout: c.PPP.AuthTimeout,
		IPv4:        true, IPv6: c.IPv6,
	}
	for _, m := range c.Auth {
		l.Auth = append(l.Auth, pppMethod(m))
	}
	switch c.MPPE {
	case config.Deny:
		l.MPPE.Mode = ppp.Deny
	case config.Allow:
		l.MPPE.Mode = ppp.Allow
	case config.Prefer:
		l.MPPE.Mode = ppp.Prefer
	case config.Require:
		l.MPPE.Mode = ppp.Require
	}
	for _, bits := range c.MPPEKeys {
		switch bits {
		case 40:
			l.MPPE.Bits |= ppp.Bits40
		case 56:
			l.MPPE.Bits |= ppp.Bits56
		case 128:
			l.MPPE.Bits |= ppp.Bits128
		}
	}
	if c.MPPEStateful {
		l.MPPE.Stateful = ppp.StatefulAllowed
	}
	return l
}

var methods = map[aaa.Method]ppp.Method{
	aaa.PAP: ppp.PAP, aaa.CHAPMD5: ppp.CHAPMD5, aaa.MSCHAPv1: ppp.MSCHAPv1, aaa.MSCHAPv2: ppp.MSCHAPv2,
}

func pppMethod(m aaa.Method) ppp.Method { return methods[m] }

func aaaMethod(m ppp.Method) aaa.Method {
	for a, p := range methods {
		if p == m {
			return a
		}
	}
	return 0
}

func (b *Box) linkConfig() *ppp.Config { return &b.link }

// Start opens ports and listeners and starts workers and loops. On an error
// nothing is left open.
func (b *Box) Start() (err error) {
	defer func() {
		if err != nil {
			b.closeAll()
		}
	}()
	if _, err := sock.RaiseNoFile(); err != nil {
		b.log.Debug("limit of open files not raised", "err", err)
	}
	if b.serve != nil {
		for _, a := range b.serve.Listen {
			ln, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(a))
			if err != nil {
				return fmt.Errorf("listen %v: %w", a, err)
			}
			b.listeners = append(b.listeners, ln)
		}
	}
	if b.ports, err = b.openPorts(); err != nil {
		return err
	}
	team, err := workers.NewTeam(b.ports.workers, b.clock())
	if err != nil {
		return err
	}
	b.nLoops = len(team)
	for i, w := range team {
		b.loops = append(b.loops, newLoop(b, i, w, b.clock, b.rand))
	}
	// Workers that never sleep must leave room for control, or its timers
	// come late.
	if n := len(team) + 2; runtime.GOMAXPROCS(0) < n {
		runtime.GOMAXPROCS(n)
	}
	for _, l := range b.loops {
		b.running.Add(2)
		go func() {
			defer b.running.Done()
			if err := l.w.Run(b.clock); err != nil {
				b.failed <- fmt.Errorf("worker %d: %w", l.id, err)
			}
		}()
		go func() {
			defer b.running.Done()
			l.run(b.quit)
		}()
	}
	for _, ln := range b.listeners {
		b.running.Add(1)
		go b.accept(ln)
		b.log.Info("listening", "addr", ln.Addr().String())
	}
	return nil
}

// accept takes control connections; none of them can hold up another.
func (b *Box) accept(ln *net.TCPListener) {
	defer b.running.Done()
	for {
		nc, err := ln.AcceptTCP()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of descriptors, most likely: running calls matter more.
			b.log.Warn("accept failed", "err", err)
			time.Sleep(100 * time.Millisecond)
			continue
		}
		if !b.mayConnect(nc.RemoteAddr()) {
			b.count.strangers.Add(1)
			_ = nc.Close()
			continue
		}
		if n := b.serve.Limits.Connections; n > 0 && int(b.count.conns.Load()) >= n || b.draining.Load() {
			b.count.refusedConns.Add(1)
			_ = nc.Close()
			continue
		}
		b.count.conns.Add(1)
		l := b.loops[int(b.next.Add(1))%len(b.loops)]
		if err := l.serveTCP(nc, false, nil); err != nil {
			b.log.Warn("connection not served", "err", err)
			b.count.conns.Add(-1)
			_ = nc.Close()
		}
	}
}

// mayConnect reports whether a control connection comes from where peers may be.
func (b *Box) mayConnect(from net.Addr) bool {
	if len(b.serve.Sources) == 0 {
		return true
	}
	a := from.(*net.TCPAddr).AddrPort().Addr().Unmap()
	return slices.ContainsFunc(b.serve.Sources, func(p netip.Prefix) bool { return p.Contains(a) })
}

// connDone is told of every connection that was counted and has ended.
func (b *Box) connDone(*conn) {
	b.count.conns.Add(-1)
	b.poke()
}

func (b *Box) callDone() { b.poke() }

func (b *Box) poke() {
	select {
	case b.idle <- struct{}{}:
	default:
	}
	if b.draining.Load() && b.count.calls.Load() == 0 {
		select {
		case b.drained <- struct{}{}:
		default:
		}
	}
}

// Failed yields the error of a worker that lost a port.
func (b *Box) Failed() <-chan error { return b.failed }

// Calls returns the number of calls in any state.
func (b *Box) Calls() int { return int(b.count.calls.Load()) }

// Shutdown ends all calls in order (Terminate-Request, Call-Disconnect-Notify,
// Stop-Control-Connection), at most until ctx ends, then closes everything.
func (b *Box) Shutdown(ctx context.Context) error {
	b.stopping.Store(true)
	for _, ln := range b.listeners {
		_ = ln.Close()
	}
	for _, l := range b.loops {
		l.post(l.hangUpAll)
	}
	var err error
	for b.count.conns.Load() > 0 || b.count.calls.Load() > 0 {
		select {
		case <-b.idle:
			continue
		case <-ctx.Done():
			err = fmt.Errorf("%d calls and %d control connections did not end in time",
				b.count.calls.Load(), b.count.conns.Load())
		}
		break
	}
	b.closeAll()
	b.log.Info("calls and connections", "calls_up", b.count.up.Load(), "auth_failures", b.count.authFailures.Load(),
		"connections_refused", b.count.refusedConns.Load(), "connections_from_elsewhere", b.count.strangers.Load(), "protocol_errors", b.count.protocolErrors.Load())
	return err
}

// sortedCalls returns the calls in the order they were made.
func (l *Loop) sortedCalls() []*call {
	return slices.SortedFunc(maps.Keys(l.calls), func(a, b *call) int { return cmp.Compare(a.n, b.n) })
}

func (l *Loop) hangUpAll() {
	for _, k := range l.sortedCalls() {
		k.hangUp(ppp.Reason{Code: ppp.AdminReset, Text: "shutting down"})
	}
	for c := range l.conns {
		c.pump()
	}
}

// closeAll stops what runs and closes what is open.
func (b *Box) closeAll() {
	for _, ln := range b.listeners {
		_ = ln.Close()
	}
	for _, l := range b.loops {
		l.w.Stop()
	}
	close(b.quit)
	b.running.Wait()
	for _, l := range b.loops {
		for c := range l.conns {
			_ = c.tr.Close()
		}
		b.last = append(b.last, l.w.State())
		l.w.Close()
	}
	if b.ports != nil {
		b.lastEarly = b.ports.early()
		b.ports.close()
		lost := 0
		for _, l := range b.loops {
			lost += l.w.Lost()
		}
		if lost != 0 {
			b.log.Error("frames lost: a fault of this program", "frames", lost)
		}
	}
	b.untune()
}

// Early returns what was dropped in XDP, before it reached a worker, by reason;
// after Shutdown, the final counts.
func (b *Box) Early() engine.Counters {
	if b.last != nil || b.ports == nil {
		return b.lastEarly
	}
	return b.ports.early()
}

// Snapshot returns the counters of every worker; after Shutdown, the final ones.
func (b *Box) Snapshot() []workers.State {
	if b.last != nil {
		return b.last
	}
	out := make([]workers.State, len(b.loops))
	var wg sync.WaitGroup
	for i, l := range b.loops {
		wg.Add(1)
		l.w.Snapshot(func(s workers.State) { out[i] = s; wg.Done() })
	}
	wg.Wait()
	return out
}
