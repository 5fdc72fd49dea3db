package radius

import (
	"crypto/md5" //nolint:gosec // to tell packets apart, not to protect them
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"layeh.com/radius"
	"layeh.com/radius/rfc2865"
	"layeh.com/radius/rfc2866"
	"layeh.com/radius/rfc2869"
	"layeh.com/radius/rfc3576"
	"layeh.com/radius/rfc5176"

	"xpptp/control/aaa"
)

// Requests of servers that are being carried out, and answers kept for copies
// of requests.
const (
	maxRunning = 256
	maxAnswers = 16384
)

// DynConfig is what a Listener does.
type DynConfig struct {
	Listen  netip.AddrPort
	Clients map[netip.Addr]aaa.Secret // who may ask
	NAS     NAS
	// Window is how far the Event-Timestamp of a request may be from our clock
	// (default 5 minutes, RFC 5176 §6.3). For as long an answer is kept: a copy
	// of its request gets it again and has no other effect.
	Window time.Duration
	// AllowUntimed takes requests without Event-Timestamp, which whoever has
	// recorded one can repeat once Window is over.
	AllowUntimed bool
}

// Listener takes Disconnect-Requests and CoA-Requests (RFC 5176).
type Listener struct {
	cfg  DynConfig
	act  aaa.Sessions
	log  *slog.Logger
	conn *net.UDPConn
	now  func() time.Time
	done sync.WaitGroup

	mu      sync.Mutex
	answers map[copyKey]*answer
	order   []*answer // oldest first
	running int
	n       DynCounters
}

// DynCounters counts requests by what came of them.
type DynCounters struct {
	Disconnects uint64 `json:"disconnects"` // sessions
	Changes     uint64 `json:"changes"`
	Refused     uint64 `json:"refused"` // answered with NAK
	Copies      uint64 `json:"copies"`
	Foreign     uint64 `json:"foreign"` // from who may not ask
	Forged      uint64 `json:"forged"`
	Malformed   uint64 `json:"malformed"`
	Overload    uint64 `json:"overload"`
}

// copyKey recognises a request that was sent again: by the address and the whole
// packet. (A copy from another port has the same effect, so the port does not count.)
type copyKey struct {
	from netip.Addr
	sum  [md5.Size]byte
}

type answer struct {
	key  copyKey
	at   time.Time
	wire []byte // nil while the request is being carried out
}

// Listen opens the socket and begins.
func Listen(cfg DynConfig, act aaa.Sessions, log *slog.Logger) (*Listener, error) {
	cfg.Window = or(cfg.Window, 5*time.Minute)
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(cfg.Listen))
	if err != nil {
		return nil, fmt.Errorf("radius: %w", err)
	}
	l := &Listener{cfg: cfg, act: act, log: log, conn: conn, now: time.Now, answers: make(map[copyKey]*answer)}
	l.done.Add(1)
	go l.serve()
	return l, nil
}

// Addr is where it listens.
func (l *Listener) Addr() netip.AddrPort { return l.conn.LocalAddr().(*net.UDPAddr).AddrPort() }

// Close ends the listener.
func (l *Listener) Close() error {
	err := l.conn.Close()
	l.done.Wait()
	return err
}

// Counters returns what has happened so far.
func (l *Listener) Counters() DynCounters {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n
}

func (l *Listener) serve() {
	defer l.done.Done()
	b := make([]byte, radius.MaxPacketLength+1)
	for {
		n, from, err := l.conn.ReadFromUDPAddrPort(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
			l.handle(b[:n], from, func(answer []byte) { _, _ = l.conn.WriteToUDPAddrPort(answer, from) })
		}
	}
}

// handle takes one datagram; reply sends the answer, now or later.
func (l *Listener) handle(b []byte, from netip.AddrPort, reply func([]byte)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	secret, ok := l.cfg.Clients[from.Addr()]
	if !ok {
		l.n.Foreign++
		return
	}
	key := []byte(secret.Reveal())
	p, b, err := parse(b, key)
	if err != nil || p.Code != radius.CodeDisconnectRequest && p.Code != radius.CodeCoARequest {
		l.n.Malformed++
		return
	}
	// RFC 5176 §2.3, and §3.3: where Message-Authenticator is there, it counts,
	// over a packet whose Authenticator is zero.
	if !radius.IsAuthenticRequest(b, key) || errors.Is(checkSignature(b, [16]byte{}, key), errForged) {
		l.n.Forged++
		return
	}
	now := l.now()
	l.forget(now)
	k := copyKey{from.Addr(), md5.Sum(b)} //nolint:gosec // see the import
	if a := l.answers[k]; a != nil {
		l.n.Copies++
		if a.wire != nil {
			reply(a.wire)
		}
		return
	}
	if len(l.order) >= maxAnswers || l.running >= maxRunning {
		l.n.Overload++
		return
	}
	a := &answer{key: k, at: now}
	l.answers[k] = a
	l.order = append(l.order, a)
	l.running++
	log := l.log.With("server", from.Addr().String(), "request", p.Code.String())
	end := func(n int, c *cause) {
		a.wire = l.respond(p, n, c, log)
		l.running--
		if a.wire != nil {
			reply(a.wire)
		}
	}
	sel, change, c := l.read(p, now)
	if c != nil {
		end(0, c)
		return
	}
	later := func(n int) {
		go func() { // whoever tells does not wait for the socket
			l.mu.Lock()
			defer l.mu.Unlock()
			end(n, nil)
		}()
	}
	// Not from under our lock: the answer may come at once.
	if p.Code == radius.CodeDisconnectRequest {
		go l.act.Disconnect(sel, later)
	} else {
		go l.act.Change(sel, change, later)
	}
}

// forget drops answers older than the window, counted twice: a request may be
// dated as far ahead as back.
func (l *Listener) forget(now time.Time) {
	n := 0
	for n < len(l.order) && now.Sub(l.order[n].at) > 2*l.cfg.Window {
		delete(l.answers, l.order[n].key)
		n++
	}
	l.order = slices.Delete(l.order, 0, n)
}

// cause is why a request is refused.
type cause struct {
	code rfc3576.ErrorCause
	text string
}

// respond makes the answer: ACK, or NAK with Error-Cause (RFC 5176 §3.5).
func (l *Listener) respond(p *radius.Packet, n int, c *cause, log *slog.Logger) []byte {
	if c == nil && n == 0 {
		c = &cause{rfc3576.ErrorCause_Value_SessionContextNotFound, "no such session"}
	}
	code, ack := radius.CodeCoANAK, radius.CodeCoAACK
	if p.Code == radius.CodeDisconnectRequest {
		code, ack = radius.CodeDisconnectNAK, radius.CodeDisconnectACK
	}
	if c == nil {
		code = ack
	}
	r := p.Response(code)
	var a adder
	if c != nil {
		a.add("Error-Cause", rfc3576.ErrorCause_Add(r, c.code))
	}
	for _, s := range all(p, rfc2865.ProxyState_Type) { // RFC 5176 §3.1
		r.Add(rfc2865.ProxyState_Type, s)
	}
	wire, err := r.Encode()
	if err = errors.Join(a.err, err); err != nil {
		log.Error("no answer possible", "err", err)
		return nil
	}
	switch {
	case c != nil:
		l.n.Refused++
		log.Warn("RADIUS server's request refused", "cause", c.code.String(), "why", c.text)
	case code == radius.CodeDisconnectACK:
		l.n.Disconnects += uint64(n)
		log.Info("RADIUS server's request done", "sessions", n)
	default:
		l.n.Changes += uint64(n)
		log.Info("RADIUS server's request done", "sessions", n)
	}
	return wire
}

// read finds out what a request wants.
func (l *Listener) read(p *radius.Packet, now time.Time) (sel aaa.Selector, ch aaa.Change, c *cause) {
	if c = l.timely(p, now); c != nil {
		return
	}
	bad := func(code rfc3576.ErrorCause, format string, args ...any) {
		if c == nil {
			c = &cause{code, fmt.Sprintf(format, args...)}
		}
	}
	invalid := func(err error) {
		if err != nil {
			bad(rfc5176.ErrorCause_Value_InvalidAttributeValue, "%s", err)
		}
	}
	coa := p.Code == radius.CodeCoARequest
	for _, avp := range p.Attributes {
		a := avp.Attribute
		switch avp.Type {
		case rfc2865.UserName_Type:
			sel.User = string(a)
		case rfc2866.AcctSessionID_Type:
			sel.Session = string(a)
		case rfc2865.CallingStationID_Type:
			sel.Peer = string(a)
		case rfc2865.FramedIPAddress_Type:
			ip, err := host("Framed-IP-Address", a)
			invalid(err)
			sel.IP = ip
		case rfc2865.NASIdentifier_Type:
			if string(a) != l.cfg.NAS.Identifier {
				bad(rfc3576.ErrorCause_Value_NASIdentificationMismatch, "NAS-Identifier %q, ours is %q", string(a), l.cfg.NAS.Identifier)
			}
		case rfc2865.NASIPAddress_Type:
			ip, err := host("NAS-IP-Address", a)
			invalid(err)
			if l.cfg.NAS.Address.IsValid() && ip != l.cfg.NAS.Address {
				bad(rfc3576.ErrorCause_Value_NASIdentificationMismatch, "NAS-IP-Address %v, ours is %v", ip, l.cfg.NAS.Address)
			}
		case rfc2865.ServiceType_Type:
			bad(rfc3576.ErrorCause_Value_UnsupportedService, "Service-Type is not supported here")
		case rfc2865.SessionTimeout_Type, rfc2865.IdleTimeout_Type, rfc2869.AcctInterimInterval_Type:
			if !coa {
				bad(rfc3576.ErrorCause_Value_UnsupportedAttribute, "attribute %d in a Disconnect-Request", avp.Type)
				continue
			}
			invalid(changeTime(&ch, avp.Type, a))
		case rfc2865.VendorSpecific_Type, // below
			rfc2865.ProxyState_Type, rfc2869.EventTimestamp_Type, macType, rfc2865.ReplyMessage_Type,
			rfc2866.AcctTerminateCause_Type, rfc2865.State_Type, rfc2865.Class_Type:
		default:
			bad(rfc3576.ErrorCause_Value_UnsupportedAttribute, "attribute %d is not supported here", avp.Type)
		}
	}
	eachVendorAttr(p, func(vendor uint32, typ byte, a radius.Attribute) {
		known, err := changeRate(&ch, vendor, typ, a)
		invalid(err)
		if !known || !coa {
			bad(rfc3576.ErrorCause_Value_UnsupportedAttribute, "attribute %d of vendor %d is not supported here", typ, vendor)
		}
	})
	if c == nil && sel == (aaa.Selector{}) {
		bad(rfc3576.ErrorCause_Value_MissingAttribute, "no session named: User-Name, Acct-Session-Id, Framed-IP-Address or Calling-Station-Id")
	}
	if c == nil && coa && ch == (aaa.Change{}) {
		bad(rfc3576.ErrorCause_Value_MissingAttribute, "nothing to change")
	}
	return sel, ch, c
}

// timely refuses what was recorded and is sent again later (RFC 5176 §6.3).
func (l *Listener) timely(p *radius.Packet, now time.Time) *cause {
	a, ok := p.Lookup(rfc2869.EventTimestamp_Type)
	if !ok {
		if l.cfg.AllowUntimed {
			return nil
		}
		return &cause{
			rfc3576.ErrorCause_Value_MissingAttribute,
			"no Event-Timestamp, so it could be an old one sent again: have the server send it, or set radius.coa-untimed",
		}
	}
	at, err := radius.Date(a)
	if err != nil {
		return &cause{rfc5176.ErrorCause_Value_InvalidAttributeValue, malformed("Event-Timestamp", a).Error()}
	}
	if d := now.Sub(at).Abs(); d > l.cfg.Window {
		return &cause{rfc3576.ErrorCause_Value_InvalidRequest, fmt.Sprintf("Event-Timestamp is %v away from our clock", d.Round(time.Second))}
	}
	return nil
}

func changeTime(ch *aaa.Change, t radius.Type, a radius.Attribute) error {
	var g aaa.Grant
	if err := grantOne(&g, t, a); err != nil {
		return err
	}
	switch t {
	case rfc2865.SessionTimeout_Type:
		ch.SessionTimeout = &g.SessionTimeout
	case rfc2865.IdleTimeout_Type:
		ch.IdleTimeout = &g.IdleTimeout
	default:
		ch.Interim = &g.Interim
	}
	return nil
}

// changeRate reads a rate; known reports whether the attribute is one.
func changeRate(ch *aaa.Change, vendor uint32, typ byte, a radius.Attribute) (known bool, err error) {
	up := vendor == wisprVendor && typ == wisprMaxUp
	down := vendor == wisprVendor && typ == wisprMaxDown
	both := vendor == mikrotikVendor && typ == mikrotikRate
	if !up && !down && !both {
		return false, nil
	}
	var g aaa.Grant
	if err := grantVendor(&g, vendor, typ, a); err != nil {
		return true, err
	}
	if up || both {
		ch.Up = &g.Rate.Up
	}
	if down || both {
		ch.Down = &g.Rate.Down
	}
	return true, nil
}
