package responder

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/ipv4"

	"xpptp/engine/traffic"
)

// idleAfter is when a stream of which nothing was heard is forgotten, if there
// is need of its place.
const idleAfter = 30 * time.Second

// lateAfter is how late a packet must be sent to count as late.
const lateAfter = uint32(time.Millisecond)

// behind bounds how late a packet is sent: what is later is left out.
const behind = int64(100 * time.Millisecond)

// rate bounds what all streams sent on request have together.
type rate struct {
	mu         sync.Mutex
	most, used float64 // packets a second
}

func (r *rate) take(n float64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.used+n > r.most {
		return false
	}
	r.used += n
	return true
}

func (r *rate) give(n float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used -= n
}

type bankConfig struct {
	clock   func() int64
	clockID uint32
	streams int
	v6      bool
	rate    *rate
	count   *counters
}

// bank is the streams of a socket. All but mu, wake and what never changes is
// guarded by mu.
type bank struct {
	bankConfig
	wake chan struct{} // there is a new stream to send

	mu      sync.Mutex
	flows   map[flowKey]*flow
	swept   int64
	cal     *traffic.Calendar
	entries []*flow
	free    []int32
}

type flowKey struct {
	from   netip.AddrPort
	stream uint32
}

// flow is a stream: what comes of it, and what of it we send.
type flow struct {
	ver   traffic.Verifier
	heard int64 // last

	addr    net.Addr
	stream  uint32
	sending bool
	entry   int32
	until   int64 // end of the lease
	sched   traffic.Schedule
	pace    traffic.Pacer
	sizes   traffic.SizeTable
	rate    float64 // that it has taken
	sent    uint64
}

func newBank(cfg bankConfig) *bank {
	return &bank{
		bankConfig: cfg, wake: make(chan struct{}, 1), flows: map[flowKey]*flow{},
		cal: traffic.NewCalendar(cfg.clock()),
	}
}

// handle takes the packet b[:n] from addr. It returns how many bytes of b are to
// be sent back; 0 for none.
func (b *bank) handle(buf []byte, n int, addr net.Addr, now int64) int {
	s, v := traffic.ParseStamp(buf[:n])
	ua, ok := addr.(*net.UDPAddr)
	if v == traffic.Foreign || !ok || s.Flags()&(traffic.FlagReply|traffic.FlagDown) != 0 {
		b.count.foreign.Add(1) // an answer is never answered: two responders would not stop
		return 0
	}
	b.count.received.Add(1)
	switch {
	case v == traffic.Corrupt:
		b.count.corrupted.Add(1)
		b.count.echoed.Add(1)
		return n // who sent it will see
	case s.Flags()&traffic.FlagControl != 0:
		return b.control(buf, s, ua, now)
	case s.Flags()&traffic.FlagQuiet != 0:
		b.count.counted.Add(1)
		if f := b.flow(ua, s.Stream(), now); f != nil {
			f.ver.Receive(s.Seq())
		}
		return 0
	}
	b.count.echoed.Add(1)
	s.Reply(now, b.clockID)
	return n
}

// flow returns the record of a stream, or nil if there is no room for it.
func (b *bank) flow(a *net.UDPAddr, stream uint32, now int64) *flow {
	k := flowKey{a.AddrPort(), stream}
	f := b.flows[k]
	if f == nil {
		if len(b.flows) >= b.streams && !b.sweep(now) {
			b.count.refused.Add(1)
			return nil
		}
		f = &flow{addr: a, stream: stream}
		b.flows[k] = f
	}
	f.heard = now
	return f
}

// sweep forgets streams of which nothing was heard, at most once a second.
func (b *bank) sweep(now int64) bool {
	if now-b.swept < int64(time.Second) {
		return false
	}
	b.swept = now
	for k, f := range b.flows {
		if now-f.heard > int64(idleAfter) && !f.sending {
			delete(b.flows, k)
		}
	}
	return len(b.flows) < b.streams
}

// control answers a request.
func (b *bank) control(buf []byte, s traffic.Stamp, from *net.UDPAddr, now int64) int {
	b.count.requests.Add(1)
	r, err := traffic.ParseRequest(s.Body())
	if err != nil {
		b.count.refused.Add(1)
		return 0
	}
	f := b.flow(from, s.Stream(), now)
	if f == nil {
		return 0
	}
	switch r.Op {
	case traffic.OpSend:
		b.start(f, &r, now)
	case traffic.OpStop:
		b.cancel(f)
	default:
		if f.sending && now >= f.until && f.pace.Due() >= f.until {
			b.cancel(f) // what comes next would be too late
		}
	}
	var c traffic.Counts
	f.ver.Counts(&c)
	rep := traffic.Report{
		Sending: f.sending, Sent: f.sent, Received: c.Received, Duplicated: c.Duplicated, Reordered: c.Reordered, Old: c.Old, Next: f.ver.Next(),
	}
	fields := traffic.StampFields{Flags: traffic.FlagReply, Stream: s.Stream(), Seq: s.Seq(), Due: now, Clock: b.clockID}
	body := rep.Append(nil)
	n := traffic.StampLen + len(body)
	traffic.PutControl(buf[:n], &fields, body)
	return n
}

// start begins to send a stream, or goes on.
func (b *bank) start(f *flow, r *traffic.Request, now int64) {
	f.until = now + int64(r.Lease)
	if f.sending {
		return
	}
	sizes := r.Sizes.Table(b.v6, uint64(f.stream))
	top := max(r.Schedule.Rate, r.Schedule.To)
	if r.Schedule.Over == 0 {
		top = r.Schedule.Rate
	}
	if r.Schedule.Unit == traffic.Bits {
		top /= 8 * sizes.Mean()
	}
	if !b.rate.take(top) {
		b.count.refused.Add(1)
		return
	}
	f.sending, f.rate, f.sizes, f.sched = true, top, sizes, r.Schedule
	if n := len(b.free); n > 0 {
		f.entry = b.free[n-1]
		b.free = b.free[:n-1]
		b.entries[f.entry] = f
	} else {
		f.entry = int32(len(b.entries))
		b.entries = append(b.entries, f)
		b.cal.Grow(len(b.entries))
	}
	f.pace.Start(&f.sched, now+int64(r.Wait), 1, 0)
	b.cal.Put(f.entry, f.pace.Due())
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// cancel ends a stream that may be in the calendar.
func (b *bank) cancel(f *flow) {
	if f.sending {
		b.cal.Remove(f.entry)
		b.stop(f)
	}
}

// stop ends a stream that is out of the calendar.
func (b *bank) stop(f *flow) {
	f.sending = false
	b.entries[f.entry] = nil
	b.free = append(b.free, f.entry)
	b.rate.give(f.rate)
}

// produce fills messages with the packets that are due and returns how many,
// and when the next one is.
func (b *bank) produce(ms []ipv4.Message, now int64) (n int, next int64) {
	headers := traffic.MinSize(b.v6) - traffic.StampLen
	for n < len(ms) {
		e := b.cal.Take(now)
		if e < 0 {
			break
		}
		f := b.entries[e]
		due := f.pace.Due()
		if now-due > behind {
			f.pace.Skip(now-behind, f.sizes.Mean())
			due = f.pace.Due()
		}
		switch {
		case due >= f.until:
			b.stop(f)
			continue
		case due > now:
			b.cal.Put(e, due)
			continue
		}
		size := f.sizes.At(f.sent, 0)
		m := &ms[n]
		m.Buffers[0] = m.Buffers[0][:size-headers]
		m.Addr = f.addr
		late := traffic.Lateness(due, now)
		traffic.PutStamp(m.Buffers[0], &traffic.StampFields{
			Flags: traffic.FlagDown, Stream: f.stream, Seq: f.sent, Due: due, Late: late, Clock: b.clockID,
		})
		b.count.sent.Add(1)
		if late > lateAfter {
			b.count.late.Add(1)
		}
		f.sent++
		f.pace.Sent(size)
		b.cal.Put(e, f.pace.Due())
		n++
	}
	return n, min(b.cal.Next(), now+int64(time.Second))
}
