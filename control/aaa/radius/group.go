package radius

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"layeh.com/radius"

	"xpptp/control/aaa"
)

// identifiers is how many requests a socket can have under way (RFC 2865 §3:
// the Identifier has one octet).
const identifiers = 256

// maxWait is how long a request may wait for room; whoever asked has given up
// by then.
const maxWait = 30 * time.Second

// errBuild: a packet cannot say what it should; no server can change that.
var errBuild = errors.New("request cannot be made")

// group is the servers of one service, authentication or accounting. All its
// fields belong to whoever holds mu.
type group struct {
	service string
	cfg     *Config
	log     *slog.Logger

	mu       sync.Mutex
	targets  []*target
	waiting  []*exchange // for a free identifier
	overload uint64
	closed   bool
	after    []func() // to be called once mu is free
	readers  sync.WaitGroup
}

// target is one server as a group sees it.
type target struct {
	g *group
	*Server
	addr      netip.AddrPort
	socks     []*socket
	inflight  int
	heard     time.Time // of the last good answer
	deadUntil time.Time // the zero time: alive
	warned    time.Time // about answers without Message-Authenticator
	n         Counters
}

// socket is a UDP socket connected to a server.
type socket struct {
	t     *target
	conn  *net.UDPConn
	slots [identifiers]*exchange
	used  int
	next  uint8
}

// exchange is one request on its way to an answer.
type exchange struct {
	// build makes the request for a server.
	build func(t *target) (*radius.Packet, error)
	// done hears of the end, once.
	done func(reply, error)
	only *target // a probe of this server

	tried   []*target
	t       *target
	s       *socket
	id      uint8
	request *radius.Packet
	wire    []byte
	sends   int
	queued  time.Time
	first   time.Time // sent to this server
	timer   *time.Timer
	over    bool
}

// reply is an answer with the request it belongs to.
type reply struct {
	*radius.Packet
	request *radius.Packet
	from    *target
}

func newGroup(service string, cfg *Config, log *slog.Logger, addr func(*Server) netip.AddrPort) *group {
	g := &group{service: service, cfg: cfg, log: log.With("service", service)}
	for i := range cfg.Servers {
		s := &cfg.Servers[i]
		g.targets = append(g.targets, &target{g: g, Server: s, addr: addr(s)})
	}
	return g
}

// unlock frees mu and calls back whoever is to hear of something.
func (g *group) unlock() {
	after := g.after
	g.after = nil
	g.mu.Unlock()
	for _, f := range after {
		f()
	}
}

// submit sends a request to the best server, to the next if that one does not
// answer, and so on. It does not block. The returned function gives the request up.
func (g *group) submit(x *exchange) (cancel func(error)) {
	g.mu.Lock()
	defer g.unlock()
	x.queued = time.Now()
	if g.closed {
		g.end(x, reply{}, net.ErrClosed)
	} else {
		g.place(x, false)
	}
	return func(why error) {
		g.mu.Lock()
		defer g.unlock()
		g.end(x, reply{}, why)
	}
}

// place gives x to a server or lets it wait for one. again says that it has
// waited already.
func (g *group) place(x *exchange, again bool) (placed bool) {
	for {
		t, full := g.choose(x)
		switch {
		case t == nil && full && again:
			return false
		case t == nil && full && len(g.waiting) < g.cfg.Queue && x.only == nil:
			g.waiting = append(g.waiting, x)
			return false
		case t == nil && full:
			g.overload++
			g.end(x, reply{}, fmt.Errorf("%w: %d requests wait for RADIUS servers", aaa.ErrOverload, len(g.waiting)))
			return true
		case t == nil:
			g.end(x, reply{}, fmt.Errorf("%w: %d RADIUS servers tried", aaa.ErrUnavailable, len(x.tried)))
			return true
		}
		err := t.start(x)
		if errors.Is(err, errBuild) {
			g.end(x, reply{}, err)
			return true
		}
		if err != nil {
			t.n.Errors++
			g.log.Error("request not sent", "server", t.addr, "err", err)
			x.tried = append(x.tried, t)
			continue
		}
		return true
	}
}

// choose picks the server for x among those that it has not tried: by weight
// among the living, then those of weight 0, then the dead, since one of them
// may be back. full says that the only reason for nil is a lack of room.
func (g *group) choose(x *exchange) (t *target, full bool) {
	if x.only != nil {
		if len(x.tried) > 0 {
			return nil, false
		}
		return x.only, false
	}
	now := time.Now()
	var alive, spare, dead []*target
	for _, t := range g.targets {
		switch {
		case contains(x.tried, t):
		case t.inflight >= g.cfg.Limit:
			full = true
		case !t.usable(now):
			dead = append(dead, t)
		case t.Weight > 0:
			alive = append(alive, t)
		default:
			spare = append(spare, t)
		}
	}
	for _, ts := range [][]*target{alive, spare, dead} {
		if len(ts) > 0 {
			return pick(ts), false
		}
	}
	return nil, full
}

func contains(ts []*target, t *target) bool {
	for _, o := range ts {
		if o == t {
			return true
		}
	}
	return false
}

// pick chooses by weight at random.
func pick(ts []*target) *target {
	sum := 0
	for _, t := range ts {
		sum += t.Weight
	}
	if sum == 0 {
		return ts[0]
	}
	n := rand.IntN(sum)
	for _, t := range ts {
		if n -= t.Weight; n < 0 {
			return t
		}
	}
	return ts[0]
}

// usable: alive, or dead long enough to be tried with one request.
func (t *target) usable(now time.Time) bool {
	return t.deadUntil.IsZero() || now.After(t.deadUntil) && t.inflight == 0
}

// start sends x to t for the first time.
func (t *target) start(x *exchange) (err error) {
	s, err := t.room()
	if err != nil {
		return err
	}
	p, err := x.build(t)
	if err != nil {
		return fmt.Errorf("%w: %w", errBuild, err)
	}
	for s.slots[s.next] != nil {
		s.next++
	}
	p.Identifier = s.next
	if x.wire, err = seal(p); err != nil {
		return fmt.Errorf("%w: %w", errBuild, err)
	}
	x.t, x.s, x.id, x.request = t, s, s.next, p
	s.slots[s.next] = x
	s.next++ // the longest rest for an identifier that becomes free
	s.used++
	t.inflight++
	t.n.Requests++
	x.sends, x.first = 0, time.Now()
	x.send()
	return nil
}

// room returns a socket with a free identifier.
func (t *target) room() (*socket, error) {
	for _, s := range t.socks {
		if s.used < identifiers {
			return s, nil
		}
	}
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(t.addr))
	if err != nil {
		return nil, err
	}
	s := &socket{t: t, conn: conn, next: uint8(rand.UintN(identifiers))}
	t.socks = append(t.socks, s)
	t.g.readers.Add(1)
	go s.read()
	return s, nil
}

// send sends x, once more or for the first time, and waits (RFC 5080 §2.2.1:
// twice as long each time, a tenth more or less).
func (x *exchange) send() {
	g := x.t.g
	if x.sends > 0 {
		x.t.n.Retransmits++
	}
	// An error here is the answer to an earlier packet (ICMP), or no buffer:
	// the next sending follows in any case.
	if _, err := x.s.conn.Write(x.wire); err != nil {
		x.t.n.Errors++
	}
	wait := g.cfg.Timeout << x.sends
	wait += time.Duration((rand.Float64()*2 - 1) / 10 * float64(wait))
	x.sends++
	sends, t := x.sends, x.t
	x.timer = time.AfterFunc(wait, func() {
		g.mu.Lock()
		defer g.unlock()
		if !x.over && x.t == t && x.sends == sends {
			x.late()
		}
	})
}

// late: no answer came in time.
func (x *exchange) late() {
	t := x.t
	tries := t.g.cfg.Tries
	if x.only != nil {
		tries = 1
	}
	if x.sends < tries {
		x.send()
		return
	}
	t.n.Timeouts++
	if !t.heard.After(x.first) {
		t.die()
	}
	x.leave()
	x.tried = append(x.tried, t)
	t.g.place(x, false)
	t.g.serveWaiting()
}

// leave gives the identifier back.
func (x *exchange) leave() {
	if x.timer != nil {
		x.timer.Stop()
	}
	if x.s != nil {
		x.s.slots[x.id] = nil
		x.s.used--
		x.t.inflight--
		x.s = nil
	}
}

// end tells how x ended.
func (g *group) end(x *exchange, r reply, err error) {
	if x.over {
		return
	}
	x.over = true
	x.leave()
	g.after = append(g.after, func() { x.done(r, err) })
	g.serveWaiting()
}

// serveWaiting sends what waits, as far as there is room.
func (g *group) serveWaiting() {
	for len(g.waiting) > 0 && !g.closed {
		x := g.waiting[0]
		if !x.over && time.Since(x.queued) > maxWait {
			g.overload++
			x.over = true
			g.after = append(g.after, func() {
				x.done(reply{}, fmt.Errorf("%w: no RADIUS server had room for %v", aaa.ErrOverload, maxWait))
			})
		}
		if !x.over && !g.place(x, true) {
			return
		}
		if len(g.waiting) > 0 && g.waiting[0] == x {
			g.waiting[0] = nil
			g.waiting = g.waiting[1:]
		}
	}
}

// die marks a server dead and begins to look for its return.
func (t *target) die() {
	first := t.deadUntil.IsZero()
	t.deadUntil = time.Now().Add(t.g.cfg.DeadTime)
	if !first {
		return
	}
	t.n.Deaths++
	t.g.log.Warn("RADIUS server does not answer", "server", t.addr)
	if t.g.cfg.Probe > 0 {
		t.probeLater()
	}
}

// alive: a good answer came.
func (t *target) alive(now time.Time) {
	t.heard = now
	if !t.deadUntil.IsZero() {
		t.deadUntil = time.Time{}
		t.g.log.Info("RADIUS server answers again", "server", t.addr)
	}
}

// probeLater asks a dead server for its status now and then (RFC 5997).
func (t *target) probeLater() {
	g := t.g
	time.AfterFunc(g.cfg.Probe, func() {
		g.mu.Lock()
		defer g.unlock()
		if g.closed || t.deadUntil.IsZero() {
			return
		}
		t.n.Probes++
		x := &exchange{only: t, queued: time.Now()}
		x.build = func(t *target) (*radius.Packet, error) {
			p := newRequest(radius.CodeStatusServer, t.key())
			return p, g.cfg.NAS.add(p)
		}
		x.done = func(reply, error) {
			g.mu.Lock()
			defer g.unlock()
			if !t.deadUntil.IsZero() {
				t.probeLater()
			}
		}
		g.place(x, false)
	})
}

// read takes the answers that come to a socket.
func (s *socket) read() {
	g := s.t.g
	defer g.readers.Done()
	b := make([]byte, radius.MaxPacketLength+1)
	for {
		n, err := s.conn.Read(b)
		if err == nil {
			g.mu.Lock()
			s.input(b[:n], time.Now())
			g.unlock()
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		// ICMP: anyone can send that, so the request waits as long as ever.
		g.mu.Lock()
		s.t.n.Errors++
		g.unlock()
	}
}

// input takes one datagram. What is not the answer that somebody waits for is
// counted; the waiting goes on.
func (s *socket) input(b []byte, now time.Time) {
	t := s.t
	if len(b) < headerLen {
		t.n.Malformed++
		return
	}
	x := s.slots[b[1]]
	if x == nil {
		t.n.Unexpected++ // a copy, or too late
		return
	}
	probe := x.only != nil
	p, err := parseReply(b, x.wire, t.key(), !t.Unsigned && !probe)
	switch {
	case errors.Is(err, errForged):
		t.n.Forged++
		return
	case errors.Is(err, errUnsigned):
		t.n.Unsigned++
		t.warnUnsigned(now)
		return
	case err != nil:
		t.n.Malformed++
		return
	case !answers(p.Code, x.request.Code):
		t.n.Unexpected++
		return
	}
	t.alive(now)
	t.n.answer(p.Code, now.Sub(x.first))
	t.g.end(x, reply{p, x.request, t}, nil)
}

func answers(reply, request radius.Code) bool {
	switch request {
	case radius.CodeAccessRequest:
		return reply == radius.CodeAccessAccept || reply == radius.CodeAccessReject || reply == radius.CodeAccessChallenge
	case radius.CodeAccountingRequest:
		return reply == radius.CodeAccountingResponse
	case radius.CodeStatusServer:
		return reply == radius.CodeAccessAccept || reply == radius.CodeAccountingResponse
	default:
		return false
	}
}

// warnUnsigned says once a minute how to mend what looks like an attack and is
// most often an old server.
func (t *target) warnUnsigned(now time.Time) {
	if now.Sub(t.warned) < time.Minute {
		return
	}
	t.warned = now
	t.g.log.Error("answer without Message-Authenticator refused (CVE-2024-3596)", "server", t.addr,
		"mend", `update the server; FreeRADIUS before 3.2.5: add "update reply { &Message-Authenticator := 0x00 }" to post-auth `+
			`and to its Post-Auth-Type REJECT; or, on a network that you trust, message-authenticator=optional for this server`)
}

// close gives everything up.
func (g *group) close() {
	g.mu.Lock()
	g.closed = true
	for _, x := range g.waiting {
		g.end(x, reply{}, net.ErrClosed)
	}
	for _, t := range g.targets {
		for _, s := range t.socks {
			for _, x := range s.slots {
				if x != nil {
					g.end(x, reply{}, net.ErrClosed)
				}
			}
			_ = s.conn.Close()
		}
	}
	g.unlock()
	g.readers.Wait()
}
