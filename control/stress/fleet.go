package stress

import (
	"container/heap"
	"context"
	"math/rand/v2"
	"net/netip"
	"time"

	"xpptp/control"
	"xpptp/control/aaa"
	"xpptp/control/config"
	"xpptp/control/ppp"
	"xpptp/control/sock"
	"xpptp/control/stress/load"
)

// fleet is the emulated clients. One goroutine, drive, does what is due; what
// becomes of calls is told on the control loops. All share the tally's lock.
type fleet struct {
	*tally
	plan    *config.Stress
	caller  *control.Caller
	sources []netip.Addr
	traffic *traffic // nil: none

	clients []*client
	groups  []*group
	actions actions
	unbegun int         // clients that launch has not come to
	alarm   *sock.Alarm // for the earliest action
	ending  bool        // nothing begins any more
	rng     *rand.Rand
	killing bool
}

// state is where a client stands.
type state uint8

const (
	idle state = iota
	connecting
	negotiating
	up
	closing
)

// client is one emulated client: it has at most one call at a time.
type client struct {
	f     *fleet
	n     int
	group *group
	link  *ppp.Config
	rng   *rand.Rand

	state  state
	due    int64 // when its call was to begin
	placed *control.Placed
	info   control.CallInfo // while up
	load   *load.Call       // while up and there is to be traffic
}

// group is the clients of one control connection.
type group struct {
	f       *fleet
	n       int
	clients []*client
	conn    *control.Connection // nil: none
	up      bool
}

// action is something to do at a time.
type action struct {
	at int64
	do func(due int64)
}

type actions []action

func (a actions) Len() int           { return len(a) }
func (a actions) Less(i, j int) bool { return a[i].at < a[j].at }
func (a actions) Swap(i, j int)      { a[i], a[j] = a[j], a[i] }

// Push implements heap.Interface.
func (a *actions) Push(x any) { *a = append(*a, x.(action)) }

// Pop implements heap.Interface.
func (a *actions) Pop() any {
	last := (*a)[len(*a)-1]
	(*a)[len(*a)-1] = action{}
	*a = (*a)[:len(*a)-1]
	return last
}

// newFleet makes the clients of a plan.
func newFleet(p *config.Stress, users *users, caller *control.Caller, t *traffic, began int64) (*fleet, error) {
	alarm, err := sock.NewAlarm()
	if err != nil {
		return nil, err
	}
	f := &fleet{
		tally: newTally(began), plan: p, caller: caller, traffic: t,
		sources: p.Sources(), alarm: alarm,
		rng: rand.New(rand.NewPCG(uint64(p.Seed), 0)),
	}
	for i := range p.Calls {
		if i%p.CallsPerConnection == 0 {
			f.groups = append(f.groups, &group{f: f, n: len(f.groups)})
		}
		g := f.groups[len(f.groups)-1]
		c := &client{f: f, n: i, group: g, rng: rand.New(rand.NewPCG(uint64(p.Seed), uint64(i)+1))}
		user, password := users.get(i)
		// Each client keeps to its method and policy, so that a run repeats.
		method, policy := pick(c.rng, p.AuthMix), pick(c.rng, p.MPPEMix)
		if !method.GivesKeys() {
			policy = config.Deny
		}
		c.link = caller.Link(user, password, []aaa.Method{method}, policy)
		g.clients = append(g.clients, c)
		f.clients = append(f.clients, c)
	}
	return f, nil
}

// pick takes a choice at random, by weight.
func pick[T comparable](rng *rand.Rand, mix []config.Weighted[T]) T {
	sum := 0
	for _, w := range mix {
		sum += w.Weight
	}
	n := rng.IntN(sum)
	for _, w := range mix {
		if n -= w.Weight; n < 0 {
			return w.Choice
		}
	}
	return mix[0].Choice
}

// drive does what is due until ctx ends.
func (f *fleet) drive(ctx context.Context) {
	context.AfterFunc(ctx, func() { _ = f.alarm.Close() })
	for {
		f.mu.Lock()
		for len(f.actions) > 0 {
			if d := time.Duration(f.actions[0].at - f.caller.Now()); d > 0 {
				f.alarm.Set(d)
				break
			}
			a := heap.Pop(&f.actions).(action)
			a.do(a.at)
		}
		f.mu.Unlock()
		if !f.alarm.Wait() {
			return
		}
	}
}

// do has something done at a time; the tally is locked.
func (f *fleet) do(at int64, what func(due int64)) {
	heap.Push(&f.actions, action{at, what})
	if f.actions[0].at == at {
		f.alarm.Set(time.Duration(at - f.caller.Now()))
	}
}

// launch has every client begin, by a schedule from now on, and returns when
// the last does.
func (f *fleet) launch(s *schedule) (last int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ending = false
	begin := f.caller.Now()
	for i, c := range f.clients {
		last = begin + int64(s.at(i))
		f.unbegun++
		f.do(last, func(due int64) {
			f.unbegun--
			c.begin(due)
		})
	}
	if f.plan.KillRate > 0 && !f.killing {
		f.killing = true
		f.do(last, f.killOne)
	}
	if f.plan.Storm > 0 {
		f.do(last+int64(f.plan.Storm), f.storm)
	}
	return last
}

// begin places the client's call.
func (c *client) begin(due int64) {
	f := c.f
	if f.ending || c.state != idle {
		return
	}
	f.tally.begin(due, f.caller.Now())
	c.due = due
	g := c.group
	if g.conn == nil {
		g.connect()
	}
	c.set(connecting)
	if g.up {
		c.set(negotiating)
	}
	c.placed = g.conn.Place(c.link, c)
}

func (g *group) connect() {
	spec := control.ConnSpec{Server: g.f.caller.Server()}
	if n := len(g.f.sources); n > 0 {
		spec.From = g.f.sources[g.n%n]
	}
	g.up = false
	// The functions run while the lock is ours, at the earliest after g.conn is set.
	var conn *control.Connection
	spec.Up = func(t control.ConnTimes) {
		g.f.mu.Lock()
		defer g.f.mu.Unlock()
		g.f.connection(t)
		if g.conn != conn {
			return
		}
		g.up = true
		for _, c := range g.clients {
			if c.state == connecting {
				c.set(negotiating)
			}
		}
	}
	spec.Down = func(string, string) {
		g.f.mu.Lock()
		defer g.f.mu.Unlock()
		if g.conn == conn {
			g.conn, g.up = nil, false
		}
	}
	conn = g.f.caller.Connect(spec)
	g.conn = conn
}

// release stops the group's connection if nobody is going to use it.
func (g *group) release() {
	if g.conn == nil {
		return
	}
	for _, c := range g.clients {
		if c.state != idle {
			return
		}
	}
	if len(g.clients) > 1 && !g.f.ending {
		return
	}
	g.conn.Stop()
	g.conn, g.up = nil, false
}

// CallConnected implements control.ConnectWatcher.
func (c *client) CallConnected(r *control.CallReport) {
	if capture := c.f.traffic.capture; capture.wants(c.n) {
		capture.follow(&r.Info, true)
	}
}

// CallUp implements control.CallWatcher.
func (c *client) CallUp(r *control.CallReport) {
	f := c.f
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.caller.Now()
	f.tally.up(c.due, now, r)
	c.info = r.Info
	c.set(up)
	f.traffic.add(c, time.Duration(now-r.Ends[control.PhaseNetwork]))
	f.calls.PeakUp = max(f.calls.PeakUp, f.tally.now.Up)
	if life := int64(f.plan.Churn.Life); life > 0 && !f.ending {
		if j := int64(f.plan.Churn.Jitter); j > 0 {
			life += c.rng.Int64N(2*j+1) - j
		}
		placed := c.placed
		f.do(now+life, func(int64) {
			if c.placed == placed {
				c.hangUp()
			}
		})
	}
}

// CallDown implements control.CallWatcher.
func (c *client) CallDown(r *control.CallReport) {
	f := c.f
	if capture := f.traffic.capture; capture.wants(c.n) {
		capture.follow(&r.Info, false)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.traffic.remove(c)
	hung := c.state == closing
	c.set(idle)
	c.placed = nil
	p := f.plan
	back := int64(-1)
	switch {
	case r.Cause == control.CauseAborted:
		back = int64(p.Churn.Away)
	case r.Cause == control.CauseEnded && r.WasUp || hung:
		if p.Churn.Life > 0 {
			back = int64(p.Churn.Away)
		}
	case r.WasUp:
		f.lost(r)
		back = retry(p)
	default:
		f.failed(r)
		back = retry(p)
	}
	c.group.release()
	if back >= 0 && !f.ending {
		f.do(f.caller.Now()+back, c.begin)
	}
}

func retry(p *config.Stress) int64 {
	if p.Retry == 0 {
		return -1
	}
	return int64(p.Retry)
}

func (c *client) hangUp() {
	if c.state == up {
		c.set(closing)
		c.placed.HangUp()
	}
}

// set changes the client's state, and the count of clients by state.
func (c *client) set(s state) {
	*c.f.tally.count(c.state)--
	c.state = s
	*c.f.tally.count(s)++
}

func (t *tally) count(s state) *uint64 {
	switch s {
	case connecting:
		return &t.now.Connecting
	case negotiating:
		return &t.now.Negotiating
	case up:
		return &t.now.Up
	case closing:
		return &t.now.Closing
	default: // not counted
		return &t.idle
	}
}

// killOne closes a connection at random, and does so again after a random
// time, so that it happens at the plan's rate.
func (f *fleet) killOne(due int64) {
	if f.ending {
		f.killing = false
		return
	}
	if g := f.groups[f.rng.IntN(len(f.groups))]; g.conn != nil {
		g.conn.Kill()
	}
	f.do(due+int64(f.rng.ExpFloat64()/f.plan.KillRate*1e9), f.killOne)
}

// storm has all connections lost, and all clients come back at once.
func (f *fleet) storm(due int64) {
	if f.ending {
		return
	}
	for _, g := range f.groups {
		if g.conn != nil {
			g.conn.Kill()
		}
	}
	f.do(due+int64(f.plan.Storm), f.storm)
}

// settled reports whether all clients have begun and no call is on its way up.
func (f *fleet) settled() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.unbegun == 0 && f.tally.now.Connecting+f.tally.now.Negotiating == 0
}

// empty reports whether all calls are over.
func (f *fleet) empty() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := &f.tally.now
	return n.Connecting+n.Negotiating+n.Up+n.Closing == 0
}

// bringUp has all clients begin and waits until they have settled; what has
// not after the plan's time is left as it is.
func (f *fleet) bringUp(ctx context.Context, s *schedule) error {
	last := f.launch(s)
	wait := time.Duration(last - f.caller.Now())
	if err := sleep(ctx, wait); err != nil {
		return err
	}
	return until(ctx, f.plan.Settle, f.settled)
}

// takeDown has all calls end at the plan's rate, and waits for it.
func (f *fleet) takeDown(ctx context.Context) error {
	f.mu.Lock()
	f.ending = true
	f.actions, f.unbegun = nil, 0
	rate := f.plan.StopRate
	if rate == 0 {
		rate = f.plan.Rate
	}
	begin, n := f.caller.Now(), 0
	for _, c := range f.clients {
		if c.state == idle || c.state == closing {
			continue
		}
		f.do(begin+int64(n)*int64(time.Second)/int64(rate), func(int64) { c.end() })
		n++
	}
	f.mu.Unlock()
	if err := sleep(ctx, time.Duration(n)*time.Second/time.Duration(rate)); err != nil {
		return err
	}
	return until(ctx, f.plan.Settle, f.empty)
}

// end hangs up whatever the client has.
func (c *client) end() {
	if c.placed != nil && c.state != closing {
		c.set(closing)
		c.placed.HangUp()
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// until waits for a condition, so long at most; that it does not come to hold
// is no error.
func until(ctx context.Context, limit time.Duration, holds func() bool) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	end := time.After(limit)
	for !holds() {
		select {
		case <-tick.C:
		case <-end:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
