package radius

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"layeh.com/radius"
	"layeh.com/radius/rfc2865"
	"layeh.com/radius/rfc2866"
	"layeh.com/radius/rfc2869"
	"layeh.com/radius/rfc3162"
	"layeh.com/radius/rfc4818"

	"xpptp/control/aaa"
)

// Pauses of the accounting while no server answers.
const (
	pauseMin = time.Second
	pauseMax = 30 * time.Second
)

// maxSending bounds the accounting records under way.
const maxSending = 256

// ledger keeps accounting records until a server has them. Those of one session
// go out in order, one at a time.
//
//	record ──> page of its session ──> ready ──> under way ──> confirmed
//	                                     ^           │ no answer: pause
//	                                     └───────────┘
type ledger struct {
	c *Client

	mu      sync.Mutex
	pages   map[*aaa.Session]*page
	ready   []*page
	sending int
	pending int  // records
	trial   bool // the last one got no answer: one at a time
	pause   time.Duration
	timer   *time.Timer
	empty   chan struct{} // closed when nothing is pending and somebody waits
	opened  bool          // Accounting-On was sent
	closed  bool
	n       BookStatus
}

// page is what is not confirmed yet of one session; of the NAS itself, without one.
type page struct {
	s       *aaa.Session
	records []record
	waits   bool // in ready, or under way
	busy    bool // its first record is under way
}

type record struct {
	kind  rfc2866.AcctStatusType
	at    time.Time
	usage aaa.Usage
	cause aaa.Cause
}

// BookStatus is the state of the accounting.
type BookStatus struct {
	Pending   int    `json:"pending"` // records that no server has confirmed
	Confirmed uint64 `json:"confirmed"`
	Merged    uint64 `json:"merged"` // updates that a later one replaced
	Lost      uint64 `json:"lost"`   // given up: too many were pending, or we stopped
}

func (b *ledger) init(c *Client) {
	b.c, b.pages, b.pause = c, make(map[*aaa.Session]*page), pauseMin
}

func (b *ledger) status() BookStatus {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.n
	s.Pending = b.pending
	return s
}

// On tells the servers that we begin: whatever sessions of ours they believe
// in are over.
func (c *Client) On() {
	c.book.mu.Lock()
	c.book.opened = true
	c.book.mu.Unlock()
	c.book.add(nil, record{kind: rfc2866.AcctStatusType_Value_AccountingOn})
}

// Start implements aaa.Accountant.
func (c *Client) Start(s *aaa.Session) {
	c.book.add(s, record{kind: rfc2866.AcctStatusType_Value_Start})
}

// Update implements aaa.Accountant.
func (c *Client) Update(s *aaa.Session, u aaa.Usage) {
	c.book.add(s, record{kind: rfc2866.AcctStatusType_Value_InterimUpdate, usage: u})
}

// Stop implements aaa.Accountant.
func (c *Client) Stop(s *aaa.Session, u aaa.Usage, cause aaa.Cause) {
	c.book.add(s, record{kind: rfc2866.AcctStatusType_Value_Stop, usage: u, cause: cause})
}

// Interim implements aaa.Accountant: a tenth more or less than the server or
// the settings say, so that sessions that began together do not stay together.
func (c *Client) Interim(g *aaa.Grant) time.Duration {
	d := or(g.Interim, c.cfg.Interim)
	return d + time.Duration((rand.Float64()*2-1)/10*float64(d))
}

func (b *ledger) add(s *aaa.Session, r record) {
	r.at = b.c.now()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		b.n.Lost++
		return
	}
	p := b.pages[s]
	if p == nil {
		p = &page{s: s}
		b.pages[s] = p
	}
	if !b.merge(p, r) {
		if !b.roomFor(r) {
			b.lose(s, r)
			if len(p.records) == 0 {
				delete(b.pages, s)
			}
			return
		}
		p.records = append(p.records, r)
		b.pending++
	}
	if !p.waits {
		p.waits = true
		b.ready = append(b.ready, p)
	}
	b.pump()
}

// merge puts an update in the place of an earlier one that has not left yet.
func (b *ledger) merge(p *page, r record) bool {
	last := len(p.records) - 1
	if r.kind != rfc2866.AcctStatusType_Value_InterimUpdate || last < 0 ||
		p.records[last].kind != r.kind || last == 0 && p.busy {
		return false
	}
	p.records[last] = r
	b.n.Merged++
	return true
}

// roomFor: updates may fill half of what is kept.
func (b *ledger) roomFor(r record) bool {
	most := b.c.cfg.Records
	if r.kind == rfc2866.AcctStatusType_Value_InterimUpdate {
		most /= 2
	}
	return b.pending < most
}

func (b *ledger) lose(s *aaa.Session, r record) {
	b.n.Lost++
	if s != nil && r.kind != rfc2866.AcctStatusType_Value_InterimUpdate {
		b.c.log.Error("accounting record lost: too many wait for a server", "session", s.ID, "user", s.User,
			"record", r.kind.String(), "pending", b.pending)
	}
}

// pump sends what is ready.
func (b *ledger) pump() {
	most := maxSending
	if b.trial || b.pages[nil] != nil { // what is about ourselves goes first, alone
		most = 1
	}
	for len(b.ready) > 0 && b.sending < most && b.timer == nil && !b.closed {
		p := b.ready[0]
		b.ready[0] = nil
		b.ready = b.ready[1:]
		p.busy = true
		b.sending++
		b.send(p, p.records[0])
	}
}

func (b *ledger) send(p *page, r record) {
	x := &exchange{
		build: func(t *target) (*radius.Packet, error) {
			return b.c.accountingRequest(p.s, &r, t.key())
		},
		done: func(_ reply, err error) { b.done(p, err) },
	}
	// Not from under our lock: the end of an exchange comes back here.
	go b.c.acct.submit(x)
}

// done: the first record of a page was confirmed, or was not.
func (b *ledger) done(p *page, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sending--
	p.busy = false
	kept := false
	switch {
	case err == nil:
		b.trial, b.pause = false, pauseMin
		b.n.Confirmed++
	case errors.Is(err, errBuild):
		b.c.log.Error("accounting record lost", "err", err)
		b.n.Lost++
	case b.closed:
		return
	default:
		kept = true
		b.rest(err)
	}
	if !kept {
		b.pending--
		p.records = p.records[1:]
	}
	switch {
	case len(p.records) == 0:
		p.waits = false
		delete(b.pages, p.s)
	case kept:
		b.ready = slices.Insert(b.ready, 0, p)
	default:
		b.ready = append(b.ready, p)
	}
	if b.pending == 0 && b.empty != nil {
		close(b.empty)
		b.empty = nil
	}
	b.pump()
}

// rest leaves the servers alone for a while.
func (b *ledger) rest(err error) {
	if b.timer != nil {
		return
	}
	if !b.trial {
		b.c.log.Warn("accounting waits for a server", "err", err, "pending", b.pending)
	}
	b.trial = true
	b.timer = time.AfterFunc(b.pause, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.timer = nil
		b.pump()
	})
	b.pause = min(2*b.pause, pauseMax)
}

// Flush waits until the servers have confirmed every record, at most until ctx
// ends.
func (c *Client) Flush(ctx context.Context) error { return c.book.flush(ctx) }

func (b *ledger) flush(ctx context.Context) error {
	b.mu.Lock()
	if b.pending == 0 {
		b.mu.Unlock()
		return nil
	}
	if b.empty == nil {
		b.empty = make(chan struct{})
	}
	empty := b.empty
	// We are about to stop: no more long pauses.
	b.pause = pauseMin
	if b.timer != nil && b.timer.Stop() {
		b.timer = nil
		b.pump()
	}
	b.mu.Unlock()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%d accounting records reached no server", b.status().Pending)
	}
}

// end says goodbye to the servers and waits for the records.
func (b *ledger) end(ctx context.Context) error {
	b.mu.Lock()
	opened := b.opened
	b.mu.Unlock()
	err := b.flush(ctx)
	if opened && err == nil {
		b.add(nil, record{kind: rfc2866.AcctStatusType_Value_AccountingOff})
		err = b.flush(ctx)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.n.Lost += uint64(b.pending)
	b.pending = 0
	if b.timer != nil {
		b.timer.Stop()
	}
	return err
}

// accountingRequest makes the packet of a record; s is nil for those about
// ourselves.
func (c *Client) accountingRequest(s *aaa.Session, r *record, secret []byte) (*radius.Packet, error) {
	p := newRequest(radius.CodeAccountingRequest, secret)
	var a adder
	a.add("Acct-Status-Type", rfc2866.AcctStatusType_Add(p, r.kind))
	a.add("NAS", c.cfg.NAS.add(p))
	a.add("Event-Timestamp", rfc2869.EventTimestamp_Add(p, r.at))
	delay := max(c.now().Sub(r.at), 0) / time.Second
	a.add("Acct-Delay-Time", rfc2866.AcctDelayTime_Add(p, rfc2866.AcctDelayTime(delay)))
	if s != nil {
		a.add("session", addSession(p, s))
		if r.kind != rfc2866.AcctStatusType_Value_Start {
			a.add("usage", addUsage(p, &r.usage))
		}
		if r.kind == rfc2866.AcctStatusType_Value_Stop {
			a.add("Acct-Terminate-Cause", rfc2866.AcctTerminateCause_Add(p, rfc2866.AcctTerminateCause(r.cause)))
		}
	}
	return p, a.err
}

func addSession(p *radius.Packet, s *aaa.Session) error {
	var a adder
	a.add("User-Name", rfc2865.UserName_AddString(p, s.User))
	by := rfc2866.AcctAuthentic_Value_Local
	if s.Grant.Remote {
		by = rfc2866.AcctAuthentic_Value_RADIUS
	}
	a.add("Acct-Authentic", rfc2866.AcctAuthentic_Add(p, by))
	a.add("call", addCall(p, s))
	if s.IP.IsValid() {
		a.add("Framed-IP-Address", rfc2865.FramedIPAddress_Add(p, s.IP.AsSlice()))
	}
	if s.InterfaceID != 0 {
		id := make([]byte, 8)
		for i := range id {
			id[i] = byte(s.InterfaceID >> (56 - 8*i))
		}
		a.add("Framed-Interface-Id", rfc3162.FramedInterfaceID_Add(p, id))
	}
	for _, d := range s.Grant.Prefixes {
		a.add("Framed-IPv6-Prefix", rfc3162.FramedIPv6Prefix_Add(p, ipNet(d)))
	}
	for _, d := range s.Grant.Delegated {
		a.add("Delegated-IPv6-Prefix", rfc4818.DelegatedIPv6Prefix_Add(p, ipNet(d)))
	}
	for _, r := range s.Grant.Routes {
		a.add("Framed-Route", rfc2865.FramedRoute_AddString(p, r.String()))
	}
	for _, c := range s.Grant.Class {
		a.add("Class", rfc2865.Class_Add(p, c))
	}
	return a.err
}

// addUsage: what is input for us came from the user (RFC 2866 §5.3); octets
// beyond 32 bits count in gigawords (RFC 2869 §5.1).
func addUsage(p *radius.Packet, u *aaa.Usage) error {
	var a adder
	a.add("Acct-Session-Time", rfc2866.AcctSessionTime_Add(p, rfc2866.AcctSessionTime(u.Time/time.Second)))
	a.add("Acct-Input-Octets", rfc2866.AcctInputOctets_Add(p, rfc2866.AcctInputOctets(uint32(u.RxBytes))))
	a.add("Acct-Input-Gigawords", rfc2869.AcctInputGigawords_Add(p, rfc2869.AcctInputGigawords(u.RxBytes>>32)))
	a.add("Acct-Output-Octets", rfc2866.AcctOutputOctets_Add(p, rfc2866.AcctOutputOctets(uint32(u.TxBytes))))
	a.add("Acct-Output-Gigawords", rfc2869.AcctOutputGigawords_Add(p, rfc2869.AcctOutputGigawords(u.TxBytes>>32)))
	a.add("Acct-Input-Packets", rfc2866.AcctInputPackets_Add(p, rfc2866.AcctInputPackets(uint32(u.RxPackets))))
	a.add("Acct-Output-Packets", rfc2866.AcctOutputPackets_Add(p, rfc2866.AcctOutputPackets(uint32(u.TxPackets))))
	return a.err
}
