// Package workers drives the data plane: one poll loop per worker, which owns
// its ports, its sessions and its pool of frames. Control talks to a worker
// through its mailbox (Post and the commands in call.go), the worker talks
// back through the punt ring. Workers hand each other what came to the wrong
// one (team.go); nothing else is shared.
package workers

import (
	"math"
	"net/netip"
	"sync/atomic"

	uatomic "go.uber.org/atomic"

	"xpptp/engine"
	"xpptp/engine/gre"
	"xpptp/engine/mppe"
	"xpptp/engine/mppe/multi"
	"xpptp/engine/session"
	"xpptp/engine/wire"
	"xpptp/rings"
)

// Mode says what a worker does when it finds nothing.
type Mode uint8

const (
	// Adaptive spins for a short while after the last packet, then sleeps in poll(2).
	Adaptive Mode = iota
	// Spin never sleeps.
	Spin
	// Interrupt sleeps whenever there is nothing.
	Interrupt
)

// Burst is the number of frames taken from a port at a time.
const Burst = 64

// Config is what a worker is made of. The worker owns the ports' data side;
// whoever made them closes them after Run has returned.
type Config struct {
	ID      int // in its team; set by NewTeam
	Pool    *rings.Pool
	Outside []rings.Port // IP protocol 47, of one or more interfaces
	Side    rings.Port   // what the kernel reassembled; may be nil
	Inside  rings.Port   // IP packets of the subscribers
	Cipher  multi.Way
	Mode    Mode
	CPU     int // core to pin to, -1 for none

	// Client looks inside packets up by source address (client role); a
	// single call takes all.
	Client bool
	// LocalV4 and LocalV6 are our own inside addresses: ICMP errors come from them.
	LocalV4, LocalV6 netip.Addr
	// CopyDSCP and CopyECN carry the inner marks to the outer header.
	CopyDSCP, CopyECN bool
	// GRE is what the calls have in common; Buffers is filled in by New.
	GRE gre.Config
	// Sources are where peers may be, IPv4; none: anywhere. A call's peer is
	// who its control connection is with, so this says no more than by which
	// name a packet is dropped that is for no call.
	Sources []netip.Prefix
	// ClampMSS lowers the MSS of TCP SYNs to the call's room.
	ClampMSS bool
}

// Worker is one poll loop. Only Post and the commands, Punts, Snapshot, Stop and
// Down may be called from other goroutines.
type Worker struct {
	cfg   Config
	table *session.Table
	wheel *Wheel
	mppe  *mppe.Engine
	mail  mailbox
	punts *puntRing
	team  *team
	peers []peer // the others of the team
	drops engine.Counters
	loops Loops
	flow  Flow

	account

	rx      [Burst]*rings.Frame
	came    []incoming
	ready   []arrival
	rxJobs  []mppe.RxJob
	txJobs  []mppe.TxJob
	sealed  []departure
	acks    []*Call
	in      []*rings.Frame
	out     [][]*rings.Frame // per outside port
	outIdx  []int            // interface index of each outside port
	sources []span
	icmp    icmpBucket
	touched byte // what warm has read: nothing is done with it
	now     int64
	down    uatomic.Error // why a port is gone

	carried  bool // data has come from the inside or gone there: more is likely
	more     bool // the outside has more waiting than one turn takes
	sideHas  bool // the side port has something: poll(2) said so
	sleeping atomic.Bool
	wakefd   wakeFD
	stop     atomic.Bool
}

// Loops counts what the poll loop did.
type Loops struct {
	Polls, Busy, Sleeps uint64
}

// Flow completes the account of a worker's packets: received + Made + TakenOver
// = sent + Consumed + HandedOver + dropped + waiting, where received and sent
// are the ports' counts. What all have handed over and none has taken over is
// on the rings between them.
type Flow struct {
	Made       uint64 // control frames, acknowledgements, fragments, ICMP errors
	Consumed   uint64 // handed to control, or replaced by their fragments
	HandedOver uint64 // to the worker of their call
	TakenOver  uint64 // from the one they came to
}

// incoming is a GRE packet of a call.
type incoming struct {
	f   *rings.Frame
	c   *Call
	gre wire.GRE
}

// arrival is a frame on its way in, GRE header off: a PPP frame.
type arrival struct {
	f         *rings.Frame
	c         *Call
	seq       uint32
	proto     uint16 // PPP protocol
	encrypted bool
}

// departure is a frame on its way out: PPP inside, GRE still to come.
type departure struct {
	f   *rings.Frame
	c   *Call
	tos uint8
	df  bool // outer DF
	job int  // index into txJobs, -1 if plain
}

// The bound on frames that wait for their turn: so many calls at once, so many
// frames each.
const (
	reorderBuffers = 64
	reorderSlots   = 64
)

// maxPunts bounds what waits for control, which may be late where there is
// more to do than there are cores: some packets of every call that thousands
// set up at a time. A lost one costs the call seconds.
const maxPunts = 16384

// GREConfig returns the configuration to make this worker's calls with.
func (w *Worker) GREConfig() *gre.Config { return &w.cfg.GRE }

// New makes a worker that works alone. now is the monotonic time at which it
// starts.
func New(cfg Config, now int64) (*Worker, error) {
	ws, err := NewTeam([]Config{cfg}, now)
	if err != nil {
		return nil, err
	}
	return ws[0], nil
}

func newWorker(cfg Config, now int64) (*Worker, error) {
	w := &Worker{
		cfg:   cfg,
		table: session.NewTable(),
		wheel: NewWheel(500_000, 512, now),
		mppe:  mppe.New(cfg.Cipher),
		punts: newPuntRing(maxPunts),
		now:   now,

		sources: spans(cfg.Sources),
	}
	w.mppe.Reserve(aheadDirections, aheadKeys)
	w.cfg.GRE.Buffers = gre.NewBuffers(reorderBuffers, reorderSlots)
	for _, p := range cfg.Outside {
		w.out = append(w.out, make([]*rings.Frame, 0, 2*Burst))
		w.outIdx = append(w.outIdx, p.Info().Index)
	}
	if err := w.wakefd.open(); err != nil {
		return nil, err
	}
	return w, nil
}

// Step is one turn of the poll loop. It reports whether there was anything to do.
func (w *Worker) Step(now int64) bool {
	w.now = now
	w.start(w.loops.Polls)
	busy := false
	for _, p := range w.cfg.Outside {
		busy = w.fromOutside(p) || busy
	}
	if w.sideDue() {
		busy = w.fromOutside(w.cfg.Side) || busy
	}
	busy = w.fromInside() || busy
	if w.fromPeers() {
		busy, w.carried = true, true
	}
	busy = w.mail.run() || busy
	w.wheel.Advance(now, w.timer)
	w.lap(StageControl)
	w.flush()
	w.loops.Polls++
	if busy {
		w.loops.Busy++
	}
	w.more = false
	w.end(busy)
	return busy
}

// sideEvery is one turn of how many that looks at the side port: few packets
// come there, and a look costs a system call.
const sideEvery = 64

// sideDue reports whether this turn looks at the side port. The one after a
// sleep does if that is what ended it.
func (w *Worker) sideDue() bool {
	return w.cfg.Side != nil && (w.sideHas || w.loops.Polls%sideEvery == 0)
}

// fromOutside takes a burst from an outside port through all stages.
func (w *Worker) fromOutside(p rings.Port) bool {
	n, err := p.Recv(w.rx[:])
	if err != nil {
		w.down.Store(err)
	}
	w.warm(w.rx[:n])
	w.more = w.more || n == Burst
	batch(&w.batches.Outside, n)
	w.lap(StageRX)
	ethernet := p.Info().Link == rings.LinkEthernet
	for _, f := range w.rx[:n] {
		w.parse(f, ethernet)
	}
	w.lap(StageParse)
	w.sequence()
	w.lap(StageGRE)
	w.deliver()
	return n > 0
}

// warm reads from every packet of a burst before anything is done to the
// first: another core has written them, and so they come all at once, not one
// after another. Two cache lines hold all headers.
func (w *Worker) warm(fs []*rings.Frame) {
	for _, f := range fs {
		if b := f.Data(); len(b) > 64 {
			w.touched += b[0] + b[64]
		}
	}
}

// fromInside takes a burst from the inside port through all stages.
func (w *Worker) fromInside() bool {
	n, err := w.cfg.Inside.Recv(w.rx[:])
	if err != nil {
		w.down.Store(err)
	}
	w.warm(w.rx[:n])
	batch(&w.batches.Inside, n)
	w.lap(StageRX)
	for _, f := range w.rx[:n] {
		w.route(f)
	}
	w.lap(StagePPP)
	w.seal()
	w.carried = w.carried || n > 0
	return n > 0
}

// flush hands everything collected in this turn to the ports.
func (w *Worker) flush() {
	w.acknowledge()
	w.lap(StageGRE)
	for i, p := range w.cfg.Outside {
		w.out[i] = w.push(p, w.out[i])
	}
	w.carried = w.carried || len(w.in) > 0
	w.in = w.push(w.cfg.Inside, w.in)
	w.toPeers()
	w.lap(StageTX)
}

func (w *Worker) push(p rings.Port, fs []*rings.Frame) []*rings.Frame {
	if len(fs) > 0 {
		n, err := p.Send(fs)
		d := engine.TxFull
		if err != nil {
			w.down.Store(err)
			d = engine.PortDown
		}
		for _, f := range fs[n:] {
			w.drops[d]++
			f.Free()
		}
	}
	if err := p.Flush(); err != nil {
		w.down.Store(err)
	}
	return fs[:0]
}

// timer is called when a call's earliest deadline has come.
func (w *Worker) timer(t *Timer) {
	c := t.Owner.(*Call)
	w.expire(c)
	w.rearm(c)
}

// rearm sets a call's timer to its next deadline.
func (w *Worker) rearm(c *Call) {
	at := c.GRE.Deadline()
	if len(c.pending) > 0 {
		at = min(at, w.now+hopRetry)
	}
	if at == math.MaxInt64 {
		w.wheel.Stop(&c.timer)
	} else {
		w.wheel.Set(&c.timer, at)
	}
}

// drop ends a frame's way under a name. c may be nil.
func (w *Worker) drop(f *rings.Frame, c *Call, d engine.Drop) {
	w.drops[d]++
	if c != nil {
		c.Stats.Drops++
	}
	f.Free()
}

// Post hands the worker a command. Commands are carried out in order, between
// two bursts, and none is ever dropped. Safe from any goroutine.
func (w *Worker) Post(f func()) {
	w.mail.post(f)
	w.poke()
}

// poke wakes the worker if it sleeps, after something was left for it.
func (w *Worker) poke() {
	if w.sleeping.CompareAndSwap(true, false) { // one wake-up is enough
		w.wakefd.wake()
	}
}

// OnPunt sets the function that is called (on the worker) after punts were
// added; it must not block. Set it before Run.
func (w *Worker) OnPunt(wake func()) { w.punts.wake = wake }

// Punts gives every waiting punt to f, in order, and returns how many there
// were. One goroutine, the control loop, may call it.
func (w *Worker) Punts(f func(*Punt)) int { return w.punts.drain(f) }

// Down returns why a port is gone, nil while all are there. Safe from any
// goroutine.
func (w *Worker) Down() error { return w.down.Load() }

// State is a copy of a worker's counters.
type State struct {
	ID       int
	Sessions int
	Drops    engine.Counters
	Loops    Loops
	Flow     Flow
	Time     Time
	Batches  Batches
	Free     int // frames in the pool
	Frames   int // frames the pool was made with
	Ports    []rings.Info
	Stats    []rings.Stats // per port: outside, side, inside
}

// Snapshot posts a command that hands done a copy of the counters; done runs
// on the worker.
func (w *Worker) Snapshot(done func(State)) { w.Post(func() { done(w.State()) }) }

// State returns the counters. Only on the worker, or when it does not run.
func (w *Worker) State() State {
	s := State{
		ID: w.cfg.ID, Sessions: w.table.Len(), Drops: w.drops, Loops: w.loops, Flow: w.flow,
		Time: w.time(), Batches: w.batches,
		Free: w.cfg.Pool.Free(), Frames: w.cfg.Pool.Size(),
	}
	for _, p := range w.ports() {
		s.Ports = append(s.Ports, p.Info())
		s.Stats = append(s.Stats, p.Stats())
	}
	return s
}

// Waiting returns how many frames wait in the worker: for their turn, or for a
// next hop. It looks at every session. Only on the worker, or when it does not run.
func (w *Worker) Waiting() (n int) {
	w.table.Each(func(s *session.Session) {
		c := s.Owner.(*Call)
		n += s.GRE.Held() + len(c.pending) + len(c.held)
	})
	return n
}

func (w *Worker) ports() []rings.Port {
	ps := append([]rings.Port(nil), w.cfg.Outside...)
	if w.cfg.Side != nil {
		ps = append(ps, w.cfg.Side)
	}
	return append(ps, w.cfg.Inside)
}
