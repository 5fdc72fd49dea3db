package load

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"xpptp/control/sock"
	"xpptp/engine/traffic"
	"xpptp/rings"
)

// stream is the packets of one profile on one call. The port's owner has it
// to itself after add.
type stream struct {
	call    *Call // of which only what never changes is read here
	profile int
	flow    Flow
	back    traffic.Path // of what comes back
	tmpl    traffic.Template
	sizes   traffic.SizeTable
	offset  uint32
	mean    float64 // size
	src     *source // whose turns it takes; nil if it is the far end that sends
	asking  *source // of the requests about it; nil for an echo

	sent, txBytes, rxBytes, corrupted uint64
	ver                               traffic.Verifier

	far      traffic.Report // the latest
	answered uint64         // request that it answers, plus one
	lastLate uint32         // of what the far end sent
}

// source is a schedule and the streams that share it, taking turns; or one of
// requests about a stream. It is an entry of the calendar.
type source struct {
	pace     traffic.Pacer
	streams  []*stream
	turn     int
	entry    int32
	waiting  bool // is in the calendar
	mean     float64
	lastLate int64

	about *stream // requests about it: the next is due at at
	probe *probe  // likewise
	at    int64
	begin int64  // when the stream is to begin
	asked uint64 // requests, or probes, so far
	last  uint64 // the first of them after the end of the run, plus one; 0: not yet
}

// Port implements rings.Port for one worker: see the package's comment. Recv
// and Send are the worker's.
type Port struct {
	l     *Load
	info  rings.Info
	pool  *rings.Pool
	clock func() int64
	timer *sock.Timer
	mail  mailbox

	cal     *traffic.Calendar
	entries []*source // by number in the calendar
	free    []int32   // numbers to use again
	shared  []*source // per profile: the source of a schedule for all calls; nil elsewhere
	members []int     // per profile: streams of all workers
	streams map[uint32]*stream
	probes  map[uint32]*probe // by stream, as if they were some
	run     *run
	until   int64 // when sending ends
	early   bool  // that is before the end of the run
	sending int   // sources in the calendar, but for probes

	counts []traffic.Counts // per profile
	sender Sender
	times  *Histograms
	spare  *Histograms // what Load hands over next for times
	first  First

	armed  int64 // what the timer is set to; 0: not known
	closed atomic.Bool
	gone   chan struct{} // closed with the port
	mu     sync.Mutex    // one of Close and a command's asker at a time

	rxPackets, rxBytes, txPackets, txBytes, noFrame atomic.Uint64
}

func newPort(l *Load, worker int, pool *rings.Pool) (*Port, error) {
	t, err := sock.NewTimer()
	if err != nil {
		return nil, err
	}
	now := l.cfg.Clock()
	return &Port{
		l: l, pool: pool, clock: l.cfg.Clock, timer: t,
		info: rings.Info{
			Name: fmt.Sprintf("load:%d", worker), Backend: "load", Queue: worker,
			Link: rings.LinkIP, MTU: rings.MaxMTU, Batch: 64,
		},
		cal: traffic.NewCalendar(now), streams: map[uint32]*stream{}, probes: map[uint32]*probe{},
		times: newHistograms(), first: newFirst(), gone: make(chan struct{}),
	}, nil
}

// Info implements rings.Port.
func (p *Port) Info() rings.Info { return p.info }

// FD implements rings.Port: a timer that is readable while packets are due,
// or nearly.
func (p *Port) FD() int { return p.timer.FD() }

// Stats implements rings.Port.
func (p *Port) Stats() rings.Stats {
	return rings.Stats{
		RxPackets: p.rxPackets.Load(), RxBytes: p.rxBytes.Load(),
		TxPackets: p.txPackets.Load(), TxBytes: p.txBytes.Load(), RxNoFrame: p.noFrame.Load(),
	}
}

// Flush implements rings.Port.
func (p *Port) Flush() error {
	if p.closed.Load() {
		return p.down()
	}
	return nil
}

// Close implements rings.Port.
func (p *Port) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed.Swap(true) {
		return nil
	}
	close(p.gone)
	return p.timer.Close()
}

func (p *Port) down() error { return fmt.Errorf("%s: closed: %w", p.info.Name, rings.ErrPortDown) }

// Recv implements rings.Port: it makes the packets that are due.
func (p *Port) Recv(fs []*rings.Frame) (int, error) {
	if p.closed.Load() {
		return 0, p.down()
	}
	if p.mail.run() {
		p.armed = 0
	}
	now := p.clock()
	n, bytes := 0, 0
	for n < len(fs) {
		e := p.cal.Take(now)
		if e < 0 {
			break
		}
		src := p.entries[e]
		if src.about != nil || src.probe != nil {
			if f := p.aside(src, now); f != nil {
				bytes += f.Len()
				fs[n] = f
				n++
			}
			continue
		}
		due := src.pace.Due()
		if late := now - due; late > int64(p.l.cfg.Behind) {
			p.sender.Skipped += src.pace.Skip(min(now-int64(p.l.cfg.Behind), p.until), src.mean)
			due = src.pace.Due()
		}
		if due >= p.until {
			p.drop(src)
			continue
		}
		if due > now {
			p.cal.Put(e, due)
			continue
		}
		if p.pool.Free() <= p.l.cfg.Reserve {
			p.cal.Put(e, due)
			p.sender.NoFrame++
			p.noFrame.Add(1)
			break
		}
		for {
			f := p.pool.Get()
			bytes += p.make(f, src, due, now)
			due = src.pace.Due()
			fs[n] = f
			// Go on with the only one; else it is the next one's turn.
			if n++; n == len(fs) || p.cal.Len() > 0 || due > now || due >= p.until || p.pool.Free() <= p.l.cfg.Reserve {
				break
			}
		}
		if due >= p.until {
			p.drop(src)
			continue
		}
		p.cal.Put(e, due)
	}
	if n > 0 {
		p.rxPackets.Add(uint64(n))
		p.rxBytes.Add(uint64(bytes))
		return n, nil
	}
	p.idle(now)
	return 0, nil
}

// aside writes what is no packet of a stream into a frame; nil if there is none.
func (p *Port) aside(src *source, now int64) *rings.Frame {
	if src.probe != nil {
		return p.probe(src, now)
	}
	return p.request(src, now)
}

// make writes the next packet of a source into a frame and returns its length.
func (p *Port) make(f *rings.Frame, src *source, due, now int64) int {
	st := src.streams[src.turn]
	if src.turn++; src.turn == len(src.streams) {
		src.turn = 0
	}
	size := st.sizes.At(st.sent, st.offset)
	f.Reset(rings.UMEMHeadroom+st.tmpl.Align(), size)
	st.tmpl.Put(f.Data(), st.sent, due, now)
	st.sent++
	st.txBytes += uint64(size)
	src.pace.Sent(size)

	late := now - due
	c := &p.counts[st.profile]
	c.Sent++
	c.TxBytes += uint64(size)
	if late > int64(p.l.cfg.LateAfter) {
		p.sender.Late++
	}
	record(p.times.Late, late)
	off := late - src.lastLate
	src.lastLate = late
	record(p.times.Jitter, max(off, -off))
	st.call.tap(f.Data())
	return size
}

// Send implements rings.Port: it takes what came out of the calls. It takes all.
func (p *Port) Send(fs []*rings.Frame) (int, error) {
	if p.closed.Load() {
		return 0, p.down()
	}
	now := p.clock()
	bytes := 0
	for _, f := range fs {
		bytes += f.Len()
		p.judge(f.Data(), now)
		f.Free()
	}
	p.txPackets.Add(uint64(len(fs)))
	p.txBytes.Add(uint64(bytes))
	return len(fs), nil
}

// judge counts a packet that came in.
func (p *Port) judge(b []byte, now int64) {
	pkt, v := traffic.Judge(b)
	if v == traffic.Foreign {
		p.sender.Foreign++
		return
	}
	id := pkt.Stamp.Stream()
	st := p.streams[id]
	if st != nil && pkt.Path != st.back {
		st = nil
	}
	if st != nil {
		st.call.tap(b)
	} else if pr := p.probes[id]; pr != nil && pkt.Path == pr.back {
		pr.call.tap(b)
		if v == traffic.Whole {
			p.found(pr, now)
			return
		}
	}
	switch {
	case st == nil && v == traffic.Corrupt:
		p.sender.Broken++
	case v == traffic.Corrupt:
		c := &p.counts[st.profile]
		c.Corrupted++
		c.RxBytes += uint64(len(b))
		st.corrupted++
		st.rxBytes += uint64(len(b))
	case pkt.Stamp.Flags()&traffic.FlagControl != 0:
		p.sender.Reports++
		if st != nil && st.asking != nil && pkt.Stamp.Flags()&traffic.FlagReply != 0 {
			p.reported(st, pkt.Stamp)
		}
	case st == nil || !st.expects(pkt.Stamp):
		p.sender.Strays++
	default:
		st.rxBytes += uint64(len(b))
		p.counts[st.profile].RxBytes += uint64(len(b))
		p.account(st, pkt.Stamp, now)
	}
}

// expects reports whether a packet may be one of the stream's.
func (st *stream) expects(s traffic.Stamp) bool {
	if down := s.Flags()&traffic.FlagDown != 0; down || st.flow == Down {
		return down && st.flow == Down
	}
	return s.Seq() < st.sent
}

// account counts a whole packet of a stream.
func (p *Port) account(st *stream, s traffic.Stamp, now int64) {
	c := &p.counts[st.profile]
	next, gaps := st.ver.Next(), st.ver.Gaps()
	switch st.ver.Receive(s.Seq()) {
	case traffic.InOrder:
		c.Received++
		c.Missing += s.Seq() - next
		c.Gaps += st.ver.Gaps() - gaps
	case traffic.Late:
		c.Received++
		c.Reordered++
		c.Missing--
	case traffic.Duplicate:
		c.Duplicated++
		return
	case traffic.Old:
		c.Old++
		return
	}
	if st.flow == Down {
		p.downTimes(st, s, now)
		return
	}
	record(p.times.Round, now-s.Sent())
	record(p.times.RoundDue, now-s.Due())
	if up, ok := s.Up(now); ok {
		record(p.times.Up, up)
		record(p.times.Down, now-s.Sent()-up)
	}
}

// downTimes notes the times of a packet that the far end sent.
func (p *Port) downTimes(st *stream, s traffic.Stamp, now int64) {
	if id := s.Clock(); id != 0 && id == p.l.cfg.ClockID {
		record(p.times.Down, now-s.Sent())
	}
	late := s.Late()
	record(p.times.Late, int64(late))
	if off := int64(late) - int64(st.lastLate); s.Seq() > 0 {
		record(p.times.Jitter, max(off, -off))
	}
	st.lastLate = late
	if late > uint32(min(p.l.cfg.LateAfter, math.MaxUint32)) {
		p.sender.Late++
	}
}

// How often a responder is asked: until it answers, when it has, and after
// the end of the run, so many times at most.
const (
	askFirst = int64(200 * time.Millisecond)
	askNext  = int64(time.Second)
	askLast  = int64(100 * time.Millisecond)
	lastAsks = 20 // 2 s, as RFC 2544 §26.1 waits for what is under way
	lease    = 3 * time.Second
)

// request writes the next request of a source that was taken out of the
// calendar into a frame. It returns nil if there is no need, or no frame.
func (p *Port) request(src *source, now int64) *rings.Frame {
	st := src.about
	over := now >= p.until
	if over && src.last > 0 && (st.settled(src) || src.asked >= src.last-1+lastAsks) {
		p.drop(src)
		return nil
	}
	if p.pool.Free() <= p.l.cfg.Reserve {
		p.sender.NoFrame++
		src.at = now + int64(time.Millisecond)
		p.cal.Put(src.entry, src.at)
		return nil
	}
	r := traffic.Request{Op: traffic.OpQuery}
	every := askNext
	if st.answered == 0 {
		every = askFirst
	}
	if st.flow == Down {
		pr := &p.run.profiles[st.profile]
		r = traffic.Request{Op: traffic.OpSend, Schedule: pr.Schedule, Sizes: pr.Sizes.Cut(st.call.cfg.Room)}
		if pr.Total {
			r.Schedule = pr.Schedule.Part(max(p.members[st.profile], 1))
		}
		r.Lease = min(lease, time.Duration(p.until-now)+time.Microsecond) // of which the last part is cut off
		r.Wait = min(max(time.Duration(src.begin-now), 0), r.Lease)
	}
	if over {
		every = askLast
		r = traffic.Request{Op: traffic.OpQuery}
		if st.flow == Down && p.early { // else it stops by itself
			r.Op = traffic.OpStop
		}
		if src.last == 0 {
			src.last = src.asked + 1
		}
	}
	f := p.pool.Get()
	f.Reset(rings.UMEMHeadroom+st.tmpl.Align(), traffic.MaxControl)
	f.Trim(st.tmpl.PutControl(f.Data(), src.asked, now, &r))
	st.call.tap(f.Data())
	src.asked++
	p.sender.Requests++
	src.at = now + every
	if !over {
		src.at = min(src.at, max(p.until, now))
	}
	p.cal.Put(src.entry, src.at)
	return f
}

// settled reports whether everything is known: a report from after the end of
// the run that misses nothing.
func (st *stream) settled(src *source) bool {
	if src.last == 0 || st.answered < src.last {
		return false
	}
	if st.flow == Down {
		return !st.far.Sending && st.ver.Next() >= st.far.Sent
	}
	return st.far.Received >= st.sent
}

// reported takes note of what the far end says about a stream.
func (p *Port) reported(st *stream, s traffic.Stamp) {
	r, err := traffic.ParseReport(s.Body())
	if err != nil || s.Seq() >= st.asking.asked || s.Seq() < st.answered {
		return // none of an answer, or an old one
	}
	st.answered = s.Seq() + 1
	c, was := &p.counts[st.profile], &st.far
	if st.flow == Down {
		c.Sent += r.Sent - min(r.Sent, was.Sent)
		st.sent = max(st.sent, r.Sent)
	} else if r.Next <= st.sent && r.Received >= was.Received {
		c.Received += r.Received - was.Received
		c.Duplicated += r.Duplicated - was.Duplicated
		c.Reordered += r.Reordered - was.Reordered
		c.Old += r.Old - was.Old
		c.Missing += (r.Next - r.Received) - (was.Next - was.Received)
	}
	st.far = r
}

// The timer wakes a sleeping worker so much before a packet is due, and the
// worker looks until then: to sleep exactly is beyond the kernel.
const wakeEarly = int64(60 * time.Microsecond)

// idle sets the timer by which a worker that goes to sleep is woken in time.
func (p *Port) idle(now int64) {
	next := p.cal.Next()
	if next == p.armed || next-now <= wakeEarly && p.armed != 0 && p.armed-wakeEarly <= now {
		return // it is right, or readable already, and stays so
	}
	p.armed = next
	if next == math.MaxInt64 {
		p.timer.Stop()
	} else {
		p.timer.Set(time.Duration(next - now - wakeEarly)) // if that is over, readable at once
	}
	if p.mail.pending.Load() { // posted before the timer was set
		p.timer.Set(0)
	}
}

// The commands: each runs on the worker.

// reset begins a run.
func (p *Port) reset(r *run, end int64) {
	p.run, p.until, p.early = r, end, false
	for _, src := range p.entries {
		if src != nil && src.waiting {
			p.cal.Remove(src.entry)
		}
	}
	p.entries, p.free, p.sending = p.entries[:0], p.free[:0], 0
	p.shared = make([]*source, len(r.profiles))
	clear(p.streams)
	p.counts, p.sender = make([]traffic.Counts, len(r.profiles)), Sender{}
	p.times.reset()
	p.again()
}

// stop ends sending at a time.
func (p *Port) stop(at int64) {
	if at >= p.until {
		return
	}
	p.until, p.early = at, true
	for _, src := range p.entries {
		switch {
		case src == nil || src.probe != nil:
		case src.about != nil: // it is time for the last requests
			p.cal.Remove(src.entry)
			src.at = min(src.at, p.until)
			p.cal.Put(src.entry, src.at)
		case src.pace.Due() >= p.until:
			p.cancel(src)
		}
	}
}

// add begins streams of a run; schedules of their own begin at from. members is
// how many streams, of all workers, each profile has now.
func (p *Port) add(r *run, sts []*stream, members []int, from int64) {
	if p.run != r {
		return
	}
	p.members = members
	for _, st := range sts {
		pr := &r.profiles[st.profile]
		p.streams[st.tmpl.Stream()] = st
		if st.flow != Echo {
			// Early enough for the far end to begin in time, not all at once.
			st.asking = &source{about: st, begin: from + phase(pr, st.call.n, st.mean), at: from - int64(turn(st.call.n)*float64(minDelay))}
			p.schedule(st.asking)
		}
		if st.flow == Down {
			continue
		}
		src := &source{mean: st.mean}
		if pr.Total {
			if src = p.shared[st.profile]; src == nil {
				src = &source{mean: st.mean}
				p.shared[st.profile] = src
			}
		}
		st.src = src
		src.streams = append(src.streams, st)
		if !pr.Total { // else setShares follows
			src.pace.Start(&pr.Schedule, from+phase(pr, st.call.n, st.mean), 1, 0)
			p.schedule(src)
		}
	}
}

// turn is a number from 0 to 1 for each of many: spread evenly, however many
// there are, since they are multiples of the golden ratio.
func turn(place int) float64 {
	_, part := math.Modf(float64(place) * 0.6180339887498949)
	return part
}

// phase is how much later a call's schedule begins than that of the first, in
// ns: so that the packets, or bursts, of all calls are spread evenly.
func phase(pr *Profile, place int, mean float64) int64 {
	if pr.Sync {
		return 0
	}
	units := float64(max(pr.Schedule.Burst, 1))
	if pr.Schedule.Unit == traffic.Bits {
		units = 8 * mean
	}
	return int64(turn(place) * units / pr.Schedule.Rate * 1e9)
}

// setShares sets the port's part of every schedule that all calls share; one
// that it takes up begins at from.
func (p *Port) setShares(r *run, parts []float64, from int64) {
	if p.run != r {
		return
	}
	for i, src := range p.shared {
		if src == nil {
			continue
		}
		if len(src.streams) == 0 {
			p.cancel(src)
			continue
		}
		if src.waiting {
			src.pace.SetShare(parts[i])
			continue
		}
		pr := &r.profiles[i]
		// The workers' packets are to alternate.
		phase := float64(p.info.Queue)
		if pr.Schedule.Unit == traffic.Bits {
			phase *= 8 * src.mean
		}
		src.pace.Start(&pr.Schedule, r.start, parts[i], pr.Schedule.Units(from-r.start)+phase)
		p.schedule(src)
	}
}

func (p *Port) schedule(src *source) {
	if n := len(p.free); n > 0 {
		src.entry = p.free[n-1]
		p.free = p.free[:n-1]
		p.entries[src.entry] = src
	} else {
		src.entry = int32(len(p.entries))
		p.entries = append(p.entries, src)
		p.cal.Grow(len(p.entries))
	}
	src.waiting = true
	due := src.at
	if src.about == nil && src.probe == nil {
		due = src.pace.Due()
	}
	if src.probe == nil {
		p.sending++
	}
	p.cal.Put(src.entry, due)
}

// drop forgets a source that is out of the calendar.
func (p *Port) drop(src *source) {
	src.waiting = false
	if src.probe == nil {
		p.sending--
	}
	p.entries[src.entry] = nil
	p.free = append(p.free, src.entry)
}

// remove ends a stream; what it counted stays.
func (p *Port) remove(st *stream) {
	if p.streams[st.tmpl.Stream()] != st {
		return
	}
	delete(p.streams, st.tmpl.Stream())
	p.settle(st)
	if st.asking != nil {
		p.cancel(st.asking)
	}
	src := st.src
	if src == nil {
		return
	}
	src.streams = slices.DeleteFunc(src.streams, func(s *stream) bool { return s == st })
	if src.turn >= len(src.streams) {
		src.turn = 0
	}
	if len(src.streams) == 0 {
		p.cancel(src)
	}
}

// cancel ends a source that may be in the calendar.
func (p *Port) cancel(src *source) {
	if src.waiting {
		p.cal.Remove(src.entry)
		p.drop(src)
	}
}

// settle counts everything that a stream has sent and that has not come as missing.
func (p *Port) settle(st *stream) {
	c := &p.counts[st.profile]
	if st.flow == Up && st.ver.Next() == 0 { // the far end has counted
		if st.far.Next < st.sent {
			c.Missing += st.sent - st.far.Next
			st.far.Next = st.sent
		}
		return
	}
	next, gaps := st.ver.Next(), st.ver.Gaps()
	if st.flow == Down && next > st.sent { // its last report was lost
		c.Sent += next - st.sent
		st.sent = next
	}
	st.ver.Finish(st.sent)
	c.Missing += st.ver.Next() - next
	c.Gaps += st.ver.Gaps() - gaps
	c.LongestGap = max(c.LongestGap, st.ver.LongestGap())
}

// part is a port's part of a Snapshot.
type part struct {
	streams, sending int
	counts           []traffic.Counts
	sender           Sender
	times            *Histograms
}

// hand gives out the counts: the distributions since the last time, for which
// it takes fresh ones, everything else since the beginning of the run.
func (p *Port) hand(fresh *Histograms, settle bool) part {
	if settle {
		for _, st := range p.streams {
			p.settle(st)
		}
	}
	a := part{len(p.streams), p.sending, slices.Clone(p.counts), p.sender, p.times}
	p.times = fresh
	return a
}

// each returns what every stream has counted.
func (p *Port) each() []Stream {
	ss := make([]Stream, 0, len(p.streams))
	for id, st := range p.streams {
		s := Stream{Tag: st.call.cfg.Tag, Part: st.profile, ID: id, Counts: traffic.Counts{
			Sent: st.sent, Corrupted: st.corrupted, TxBytes: st.txBytes, RxBytes: st.rxBytes,
		}}
		c := &s.Counts
		st.ver.Counts(c)
		if far := &st.far; st.flow == Up && st.ver.Next() == 0 { // the far end has counted
			c.Received, c.Duplicated, c.Reordered, c.Old = far.Received, far.Duplicated, far.Reordered, far.Old
			c.Missing = far.Next - far.Received
		}
		ss = append(ss, s)
	}
	return ss
}

// ask has the worker carry out f and returns what came of it.
func ask[T any](ctx context.Context, p *Port, f func() T) (none T, err error) {
	answer := make(chan T, 1)
	var claimed atomic.Bool // by the answer, or by who no longer waits for it
	posted := p.post(func() {
		if !claimed.Swap(true) {
			answer <- f()
		}
	})
	if !posted {
		return none, p.down()
	}
	err = p.down()
	select {
	case a := <-answer:
		return a, nil
	case <-p.gone:
	case <-ctx.Done():
		err = fmt.Errorf("%s: no answer: %w", p.info.Name, ctx.Err())
	}
	if claimed.Swap(true) {
		return <-answer, nil
	}
	return none, err
}

// post hands the worker a command. It reports false if the port is closed.
func (p *Port) post(f func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed.Load() {
		return false
	}
	p.mail.post(f)
	p.timer.Set(0)
	return true
}

// mailbox is a list of commands, done in order. Empty, it costs one atomic load.
type mailbox struct {
	pending atomic.Bool
	mu      sync.Mutex
	box     []func()
}

func (m *mailbox) post(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.box = append(m.box, f)
	m.pending.Store(true)
}

// run does what was posted and reports whether there was anything.
func (m *mailbox) run() bool {
	if !m.pending.Load() {
		return false
	}
	m.mu.Lock()
	box := m.box
	m.box = nil
	m.pending.Store(false)
	m.mu.Unlock()
	for _, f := range box {
		f()
	}
	return true
}
