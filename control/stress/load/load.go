// Package load sends test traffic through the calls of a box and judges what
// comes back. A Load has a Port for each of the box's workers, which stands
// where the inside device stands else: what it "receives" are packets that its
// schedules say are due, what the worker sends to it are the replies.
//
// The load is open: when a packet is due does not depend on what became of
// those before. What could not be sent in time is sent late, and counted; what
// is late beyond a bound is not sent at all, and counted.
package load

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"sync"
	"time"

	"xpptp/control/sock"
	"xpptp/engine/traffic"
	"xpptp/rings"
)

// DefaultPort is the UDP port of a responder.
const DefaultPort = 7007

// SourcePort is our UDP port for the first profile; the others follow.
const SourcePort = 7100

// Flow is which way a profile's packets go.
type Flow uint8

// The flows.
const (
	// Echo: up, and the far end sends every packet back: a responder, or anything
	// that turns packets round by their addresses.
	Echo Flow = iota
	// Up: to a responder, which says what it got.
	Up
	// Down: from a responder, which is asked to send.
	Down
	// Both: Up and Down, each to the whole schedule, without regard to each other.
	Both
)

var flowNames = [...]string{"echo", "up", "down", "both"}

// String returns "echo", "up", "down" or "both".
func (f Flow) String() string {
	if int(f) < len(flowNames) {
		return flowNames[f]
	}
	return fmt.Sprintf("flow %d", uint8(f))
}

// Profile is a kind of stream: every call has one of each profile.
type Profile struct {
	Name     string
	Flow     Flow
	V6       bool
	Schedule traffic.Schedule
	// Total: the schedule is that of all calls together, which take turns.
	// Else each call has it to itself.
	Total bool
	// Sync: the calls send in step. Else they are spread evenly.
	Sync  bool
	Sizes traffic.Sizes
	TOS   uint8 // of the packets that we send; the lower two bits are ECN
}

// Check returns an error that names the first value out of range.
func (p *Profile) Check() error {
	if p.Flow > Both {
		return fmt.Errorf("%v is not known", p.Flow)
	}
	if err := p.Schedule.Check(); err != nil {
		return err
	}
	return p.Sizes.Check()
}

// Config describes a load.
type Config struct {
	Workers int // of the box
	Seed    uint64

	// LateAfter is how late a packet must be to count as late; 1 ms.
	LateAfter time.Duration
	// Behind bounds how late a packet is sent: what is later is skipped; 100 ms.
	Behind time.Duration
	// Reserve is how many frames of the pool are left to the worker; 512.
	Reserve int

	// Clock is the monotonic clock, in ns, and ClockID its number for the far
	// end; sock.Monotonic and sock.ClockID.
	Clock   func() int64
	ClockID uint32
}

// CallConfig describes a call to send through.
type CallConfig struct {
	Worker int // that owns the call: rings.Shard of its local call ID
	// V4 and V6 are our inside addresses, Far4 and Far6 what we talk to. A
	// profile of a family that the call does not have leaves it out.
	V4, V6     netip.Addr
	Far4, Far6 netip.AddrPort
	Room       int // largest IP packet that the call takes; longer ones of a profile are cut to it
	Tag        any // the caller's own: see Stream

	// Probe: find out how long it takes until a packet has come back, see First.
	Probe bool
	Age   time.Duration // of the call, which counts
	// Tap, if not nil, is shown every packet that is sent into the call, and
	// every test packet that comes out of it, by the worker; it keeps nothing.
	Tap func(packet []byte)
}

// Call is a call that traffic goes through, from Add to Remove.
type Call struct {
	cfg     CallConfig
	n       int // how many were added before it: its place among them
	streams []*stream
	probe   *probe // nil: none
	gone    bool
}

func (c *Call) tap(packet []byte) {
	if c.cfg.Tap != nil {
		c.cfg.Tap(packet)
	}
}

// Load is the test traffic of a box. All methods may be called from any goroutine.
type Load struct {
	cfg   Config
	ports []*Port

	mu        sync.Mutex
	calls     map[*Call]struct{}
	added     int
	next      uint32      // number of the next stream
	run       *run        // nil before the first
	sum       *Histograms // of the run
	gathering sync.Mutex  // one snapshot at a time
}

// run is what goes on between Start and the next Start.
type run struct {
	profiles []Profile
	tables   []map[int]traffic.SizeTable // per profile, by room
	start    int64
	end      int64
	members  []int // per profile: streams that share it, of all workers
	byWorker [][]int
}

// table returns the sizes of a profile in a call that takes packets up to room.
func (r *run) table(profile, room int, seed uint64) traffic.SizeTable {
	t, ok := r.tables[profile][room]
	if !ok {
		p := &r.profiles[profile]
		sizes := p.Sizes.Cut(room)
		t = sizes.Table(p.V6, seed)
		r.tables[profile][room] = t
	}
	return t
}

// New makes a load. Its ports are made by Inside.
func New(cfg Config) (*Load, error) {
	if cfg.Workers < 1 {
		return nil, fmt.Errorf("load: %d workers: want at least 1", cfg.Workers)
	}
	if cfg.Clock == nil {
		cfg.Clock, cfg.ClockID = sock.Monotonic(), sock.ClockID()
	}
	def := func(d *time.Duration, to time.Duration) {
		if *d <= 0 {
			*d = to
		}
	}
	def(&cfg.LateAfter, time.Millisecond)
	def(&cfg.Behind, 100*time.Millisecond)
	if cfg.Reserve <= 0 {
		cfg.Reserve = 512
	}
	return &Load{
		cfg: cfg, ports: make([]*Port, cfg.Workers), calls: map[*Call]struct{}{},
		next: uint32(cfg.Seed) << 16, sum: newHistograms(),
	}, nil
}

// Inside makes the port of a worker, as control.Box.SetInside wants it. The
// port takes the packets that it makes from pool.
func (l *Load) Inside(worker int, pool *rings.Pool) (rings.Port, error) {
	if worker < 0 || worker >= len(l.ports) {
		return nil, fmt.Errorf("load: worker %d of %d", worker, len(l.ports))
	}
	p, err := newPort(l, worker, pool)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ports[worker] = p
	return p, nil
}

// Add takes up a call. If a run is going on its streams begin at once, in step
// with those of the others.
func (l *Load) Add(cfg CallConfig) (*Call, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if cfg.Worker < 0 || cfg.Worker >= len(l.ports) || l.ports[cfg.Worker] == nil {
		return nil, fmt.Errorf("load: worker %d has no port", cfg.Worker)
	}
	c := &Call{cfg: cfg, n: l.added}
	l.added++
	l.calls[c] = struct{}{}
	if l.run != nil && l.cfg.Clock() < l.run.end {
		sts, err := l.begin(c)
		if err != nil {
			delete(l.calls, c)
			return nil, err
		}
		begun := make([][]*stream, len(l.ports))
		begun[cfg.Worker] = sts
		l.share(begun, max(l.cfg.Clock(), l.run.start))
	}
	if cfg.Probe {
		if c.probe = l.newProbe(c); c.probe != nil {
			p := l.ports[cfg.Worker]
			p.post(func() { p.seek(c.probe) })
		}
	}
	return c, nil
}

// Remove stops a call's streams. What they have counted stays in the sums; what
// comes back later is a stray.
func (l *Load) Remove(c *Call) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.gone {
		return
	}
	c.gone = true
	delete(l.calls, c)
	l.end(c)
	if c.probe != nil {
		p := l.ports[c.cfg.Worker]
		p.post(func() { p.forget(c.probe) })
	}
	if l.run != nil {
		l.share(make([][]*stream, len(l.ports)), l.cfg.Clock())
	}
}

// Start begins a run of the given length: all counts are zero again, and every
// call has a stream of each profile, which it sends until the time is over. A
// run that is going on ends.
func (l *Load) Start(profiles []Profile, length time.Duration) error {
	for i := range profiles {
		if err := profiles[i].Check(); err != nil {
			return fmt.Errorf("traffic %q: %w", profiles[i].Name, err)
		}
	}
	if length <= 0 {
		return fmt.Errorf("traffic for %v: want a time above zero", length)
	}
	l.gathering.Lock() // nobody is between asking the ports and adding up
	defer l.gathering.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.ports {
		if p == nil {
			return errors.New("load: started before its ports were made")
		}
	}
	for c := range l.calls {
		l.end(c)
	}
	l.sum.reset()
	start := l.cfg.Clock() + int64(l.delay())
	profiles = apart(profiles)
	r := &run{
		profiles: profiles, start: start, end: start + int64(length),
		members: make([]int, len(profiles)), byWorker: make([][]int, len(l.ports)),
	}
	for range profiles {
		r.tables = append(r.tables, map[int]traffic.SizeTable{})
	}
	for w, p := range l.ports {
		r.byWorker[w] = make([]int, len(profiles))
		p.post(func() { p.reset(r, start+int64(length)) })
	}
	l.run = r
	begun := make([][]*stream, len(l.ports))
	for c := range l.calls {
		sts, err := l.begin(c)
		if err != nil {
			return err
		}
		begun[c.cfg.Worker] = append(begun[c.cfg.Worker], sts...)
	}
	l.share(begun, start)
	return nil
}

// apart makes of each profile that goes both ways one for each way.
func apart(profiles []Profile) (ps []Profile) {
	for _, p := range profiles {
		if p.Flow != Both {
			ps = append(ps, p)
			continue
		}
		p.Flow = Up
		ps = append(ps, p)
		p.Flow = Down
		ps = append(ps, p)
	}
	return ps
}

const minDelay = 20 * time.Millisecond

// delay is from Start to the first packet: till then all streams are set up.
func (l *Load) delay() time.Duration {
	return minDelay + time.Duration(len(l.calls))*20*time.Microsecond
}

// Stop ends sending before the time of the run is over. What is under way may still come in.
func (l *Load) Stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.run == nil {
		return
	}
	now := l.cfg.Clock()
	l.run.end = min(l.run.end, now)
	for _, p := range l.ports {
		p.post(func() { p.stop(now) })
	}
}

// begin makes a call's streams.
func (l *Load) begin(c *Call) ([]*stream, error) {
	r := l.run
	for i := range r.profiles {
		pr := &r.profiles[i]
		path := traffic.Path{Src: netip.AddrPortFrom(c.cfg.V4, uint16(SourcePort+i)), Dst: c.cfg.Far4}
		if pr.V6 {
			path = traffic.Path{Src: netip.AddrPortFrom(c.cfg.V6, uint16(SourcePort+i)), Dst: c.cfg.Far6}
		}
		if path.Check() != nil {
			continue // the call does not have this family
		}
		flags := uint8(0)
		if pr.Flow == Up {
			flags = traffic.FlagQuiet
		}
		st := &stream{call: c, profile: i, flow: pr.Flow, sizes: r.table(i, c.cfg.Room, l.cfg.Seed), offset: uint32(c.n) * 7, back: traffic.Path{Src: path.Dst, Dst: path.Src}}
		if err := st.tmpl.Init(path, pr.TOS, l.next, flags, l.cfg.ClockID); err != nil {
			return nil, err
		}
		l.next++
		st.mean = st.sizes.Mean()
		c.streams = append(c.streams, st)
		r.members[i]++
		r.byWorker[c.cfg.Worker][i]++
	}
	return c.streams, nil
}

// end takes a call's streams out.
func (l *Load) end(c *Call) {
	p := l.ports[c.cfg.Worker]
	for _, st := range c.streams {
		l.run.members[st.profile]--
		l.run.byWorker[c.cfg.Worker][st.profile]--
		p.post(func() { p.remove(st) })
	}
	c.streams = nil
}

// share gives every worker the streams that begin, at a time, and tells it its
// part of the schedules that all calls have in common; one that had none takes
// it up from then on.
func (l *Load) share(begun [][]*stream, from int64) {
	r := l.run
	members := slices.Clone(r.members)
	for w, p := range l.ports {
		parts := make([]float64, len(r.profiles))
		for i := range parts {
			if r.members[i] > 0 {
				parts[i] = float64(r.byWorker[w][i]) / float64(r.members[i])
			}
		}
		p.post(func() {
			p.add(r, begun[w], members, from)
			p.setShares(r, parts, from)
		})
	}
}

// Sender is how well the load itself did, and what it could not make sense of.
type Sender struct {
	Late     uint64 // packets sent later than Config.LateAfter
	Skipped  uint64 // packets not sent, since they would have been later than Config.Behind
	NoFrame  uint64 // times that sending had to wait for frames of the pool
	Requests uint64 // packets sent besides those of streams: to a responder
	Reports  uint64 // packets received about these
	Strays   uint64 // whole packets of no stream here: of a call or run that is over
	Broken   uint64 // corrupt packets of which it cannot be told whose they are
	Foreign  uint64 // packets that are not test packets
}

func (s *Sender) add(o *Sender) {
	s.Late += o.Late
	s.Skipped += o.Skipped
	s.NoFrame += o.NoFrame
	s.Requests += o.Requests
	s.Reports += o.Reports
	s.Strays += o.Strays
	s.Broken += o.Broken
	s.Foreign += o.Foreign
}

// Part is one way of one profile.
type Part struct {
	Name   string
	Flow   Flow // not Both
	Counts traffic.Counts
}

// Snapshot is what a run came to so far.
type Snapshot struct {
	Elapsed time.Duration  // of the run; not more than its length
	Streams int            // that there are
	Sending int            // schedules that have packets left
	Traffic traffic.Counts // of all parts
	Parts   []Part
	Sender  Sender
	Times   *Histograms
}

// Snapshot asks all ports for their counts. It needs the workers running.
func (l *Load) Snapshot(ctx context.Context) (*Snapshot, error) { return l.gather(ctx, false) }

func (l *Load) gather(ctx context.Context, settle bool) (*Snapshot, error) {
	l.gathering.Lock()
	defer l.gathering.Unlock()
	s := &Snapshot{}
	for _, p := range l.ports {
		if p == nil {
			return nil, errors.New("load: asked before its ports were made")
		}
		if p.spare == nil {
			p.spare = newHistograms()
		}
		part, err := ask(ctx, p, func() part { return p.hand(p.spare, settle) })
		if err != nil {
			return nil, err
		}
		s.Streams += part.streams
		s.Sending += part.sending
		for len(s.Parts) < len(part.counts) {
			s.Parts = append(s.Parts, Part{})
		}
		for i := range part.counts {
			s.Parts[i].Counts.Add(&part.counts[i])
			s.Traffic.Add(&part.counts[i])
		}
		s.Sender.add(&part.sender)
		l.sum.merge(part.times)
		p.spare = part.times
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.run != nil {
		for i := range s.Parts {
			s.Parts[i].Name, s.Parts[i].Flow = l.run.profiles[i].Name, l.run.profiles[i].Flow
		}
		s.Elapsed = max(0, time.Duration(min(l.cfg.Clock(), l.run.end)-l.run.start))
	}
	s.Times = l.sum.clone()
	return s, nil
}

// Stream is what became of the packets of a profile on a call.
type Stream struct {
	Tag    any    // of the call
	Part   int    // of Snapshot.Parts
	ID     uint32 // in the stamps of its packets
	Counts traffic.Counts
}

// Streams returns what there is of the run, less what was removed: of each
// stream alone, in no order. It is work for the workers, for after a run.
func (l *Load) Streams(ctx context.Context) ([]Stream, error) {
	l.gathering.Lock()
	defer l.gathering.Unlock()
	var all []Stream
	for _, p := range l.ports {
		if p == nil {
			return nil, errors.New("load: asked before its ports were made")
		}
		part, err := ask(ctx, p, p.each)
		if err != nil {
			return nil, err
		}
		all = append(all, part...)
	}
	return all, nil
}

// Run is a whole run: Start, until its time is over, then until nothing has
// come back for quiet, or everything has. It returns the final counts. If ctx
// ends before, sending stops, and the error says so along with the counts.
func (l *Load) Run(ctx context.Context, profiles []Profile, length, quiet time.Duration) (*Snapshot, error) {
	if err := l.Start(profiles, length); err != nil {
		return nil, err
	}
	l.mu.Lock()
	left := time.Duration(l.run.end - l.cfg.Clock())
	l.mu.Unlock()
	select {
	case <-time.After(left):
	case <-ctx.Done():
		l.Stop()
	}
	s, err := l.Drain(context.WithoutCancel(ctx), quiet)
	if err == nil {
		err = ctx.Err()
	}
	return s, err
}

// drainPoll is how often Drain looks.
const drainPoll = 10 * time.Millisecond

// Drain waits until everything that was sent has come back, or nothing has for
// quiet, and returns the final counts. Nothing may be sending any more, except
// what is late.
func (l *Load) Drain(ctx context.Context, quiet time.Duration) (*Snapshot, error) {
	var last uint64 = math.MaxUint64
	since := time.Now()
	for {
		s, err := l.Snapshot(ctx)
		if err != nil {
			return nil, err
		}
		c := &s.Traffic
		if n := c.Received + c.Duplicated + c.Corrupted + c.Old + c.Sent; n != last {
			last, since = n, time.Now()
		}
		if s.Sending == 0 && (c.Received >= c.Sent || time.Since(since) >= quiet) {
			return l.gather(ctx, true)
		}
		select {
		case <-time.After(drainPoll):
		case <-ctx.Done():
			return s, ctx.Err()
		}
	}
}
