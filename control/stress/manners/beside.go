package manners

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"xpptp/control"
	"xpptp/control/aaa"
	"xpptp/control/config"
	"xpptp/control/stress/load"
	"xpptp/engine"
	"xpptp/engine/traffic"
	"xpptp/rings"
)

// beside is the well-behaved calls, and the traffic through them.
type beside struct {
	plan     *config.Stress
	caller   *control.Caller
	load     *load.Load
	password aaa.Secret

	harm  atomic.Pointer[harm] // of the path, nil: none
	harms harmCount

	mu    sync.Mutex
	up    map[*good]struct{}
	lost  map[string]int // calls that ended on their own, by cause
	users int
}

// good is one of them.
type good struct {
	b      *beside
	conn   *control.Connection
	placed *control.Placed
	info   control.CallInfo // once up
	load   *load.Call       // while up, if it has traffic
	quiet  bool             // it has none
	ending bool
	begun  time.Time
	ready  chan error // up, or why not; one value
}

func newBeside(plan *config.Stress, log *slog.Logger) (*beside, error) {
	b := &beside{plan: plan, up: map[*good]struct{}{}, lost: map[string]int{}, users: plan.FirstUser}
	var err error
	if b.password, err = plan.Password(); err != nil {
		return nil, err
	}
	if b.caller, err = control.NewCaller(plan.Dial(), log); err != nil {
		return nil, err
	}
	if b.load, err = load.New(load.Config{Workers: b.caller.Workers(), Seed: uint64(plan.Seed)}); err != nil {
		return nil, err
	}
	b.caller.SetInside(b.load.Inside)
	ports := uint64(0)
	b.caller.WrapOutside(func(p rings.Port, pool *rings.Pool) rings.Port {
		ports++
		return &path{
			Port: p, pool: pool, now: time.Now, harm: &b.harm, count: &b.harms,
			rng: rand.New(rand.NewPCG(uint64(plan.Seed), ports)),
		}
	})
	return b, nil
}

// start brings up n calls.
func (b *beside) start(ctx context.Context, n int) error {
	if err := b.caller.Start(); err != nil {
		return err
	}
	calls := make([]*good, n)
	for i := range calls {
		calls[i] = b.place(false)
		// A server needs no more than a good start.
		if i%10 == 9 {
			time.Sleep(time.Millisecond)
		}
	}
	for _, g := range calls {
		if err := g.wait(ctx); err != nil {
			b.stop()
			return fmt.Errorf("a well-behaved call did not come up: %w", err)
		}
	}
	return nil
}

// place begins a call on a connection of its own.
func (b *beside) place(quiet bool) *good {
	g := &good{b: b, quiet: quiet, begun: time.Now(), ready: make(chan error, 1)}
	b.mu.Lock()
	user := strings.Replace(b.plan.User, "%d", fmt.Sprint(b.users), 1)
	b.users++
	b.mu.Unlock()
	spec := control.ConnSpec{Server: b.caller.Server()}
	if all := b.plan.Sources(); len(all) > 0 {
		spec.From = all[0]
	}
	g.conn = b.caller.Connect(spec)
	g.placed = g.conn.Place(b.caller.Link(user, b.password, []aaa.Method{aaa.MSCHAPv2}, config.Require), g)
	return g
}

// CallUp implements control.CallWatcher.
func (g *good) CallUp(r *control.CallReport) {
	b := g.b
	b.mu.Lock()
	defer b.mu.Unlock()
	g.info = r.Info
	b.up[g] = struct{}{}
	var err error
	if !g.quiet {
		far := g.info.IP // the server's end
		if b.plan.Traffic.Far.IsValid() {
			far = b.plan.Traffic.Far
		}
		g.load, err = b.load.Add(load.CallConfig{
			Worker: rings.Shard(g.info.CallID, b.caller.Workers()), Room: g.info.MTU,
			V4: g.info.LocalIP, Far4: netip.AddrPortFrom(far, uint16(b.plan.Traffic.Port)),
		})
	}
	g.ready <- err
}

// CallDown implements control.CallWatcher.
func (g *good) CallDown(r *control.CallReport) {
	b := g.b
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.up, g)
	if g.load != nil {
		b.load.Remove(g.load)
		g.load = nil
	}
	g.conn.Stop()
	switch {
	case !r.WasUp:
		g.ready <- fmt.Errorf("%s (%s)", r.Cause, r.Reason)
	case !g.ending:
		b.lost[r.Cause]++
	}
}

func (g *good) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case err := <-g.ready:
		return err
	case <-ctx.Done():
		return errors.New("is not up in time")
	}
}

func (g *good) hangUp() {
	g.b.mu.Lock()
	g.ending = true
	g.b.mu.Unlock()
	g.placed.HangUp()
}

// another has one more call come up, and end.
func (b *beside) another(ctx context.Context) (time.Duration, error) {
	g := b.place(true)
	err := g.wait(ctx)
	took := time.Since(g.begun)
	g.hangUp()
	for end := time.Now().Add(patience); b.is(g) && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	return took, err
}

func (b *beside) is(g *good) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, up := b.up[g]
	return up
}

// calls lists those that are up with traffic.
func (b *beside) calls() (all []control.CallInfo) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for g := range b.up {
		if !g.quiet {
			all = append(all, g.info)
		}
	}
	slices.SortFunc(all, func(a, c control.CallInfo) int { return int(a.CallID) - int(c.CallID) })
	return all
}

// from is our address, as the server sees it.
func (b *beside) from() netip.Addr {
	if all := b.calls(); len(all) > 0 {
		return all[0].Local
	}
	return netip.Addr{}
}

// reasons lists why calls were lost.
func (b *beside) reasons() (all []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, cause := range slices.Sorted(maps.Keys(b.lost)) {
		all = append(all, fmt.Sprintf("%s %d", cause, b.lost[cause]))
	}
	return all
}

func (b *beside) lostCalls() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, k := range b.lost {
		n += k
	}
	return n
}

// drops is what our own side has dropped, by name.
func (b *beside) drops() map[string]uint64 {
	all := map[string]uint64{}
	for _, s := range b.caller.Snapshot() {
		for d, n := range s.Drops {
			// An acknowledgement without payload is consumed, not dropped.
			if n > 0 && engine.Drop(d) != engine.GREAckOnly {
				all[engine.Drop(d).String()] += n
			}
		}
		for _, p := range s.Stats {
			all["by the kernel"] += p.RxDropped + p.TxDropped
		}
	}
	return all
}

// quietTime is how long packets that are under way have to come in.
const quietTime = 2 * time.Second

// during does f while traffic goes through the calls, for at least length.
func (b *beside) during(ctx context.Context, pps float64, length time.Duration, out *Outcome, f func(context.Context) error) error {
	calls, lost, own := len(b.calls()), b.lostCalls(), b.drops()
	if pps > 0 {
		profile := load.Profile{Name: "beside", Total: true, Schedule: traffic.Schedule{Rate: pps}, Sizes: traffic.IMIX()}
		// It ends when f has.
		if err := b.load.Start([]load.Profile{profile}, length+maxTime); err != nil {
			return err
		}
	}
	bad, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	err := f(bad)
	<-bad.Done()
	if pps > 0 {
		b.load.Stop()
		s, derr := b.load.Drain(ctx, quietTime)
		err = errors.Join(err, derr)
		if s != nil {
			t := &s.Traffic
			out.Beside = Beside{Sent: t.Sent, Received: t.Received, Lost: t.Lost(), Duplicated: t.Duplicated, Corrupted: t.Corrupted}
		}
	}
	out.Beside.Calls, out.Beside.LostCalls = calls, b.lostCalls()-lost
	out.Beside.Dropped = map[string]uint64{}
	for name, n := range b.drops() {
		if n > own[name] {
			out.Beside.Dropped[name] = n - own[name]
		}
	}
	return err
}

// stop ends all calls.
func (b *beside) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = b.caller.Shutdown(ctx) // what is left of calls is of no interest any more
}

// victims are calls that are attacked themselves.
type victims struct {
	b     *beside
	calls []*good
}

// victims has n more calls come up; quiet ones have no traffic.
func (b *beside) victims(ctx context.Context, n int, quiet bool) (*victims, error) {
	v := &victims{b: b}
	for range n {
		v.calls = append(v.calls, b.place(quiet))
	}
	for _, g := range v.calls {
		if err := g.wait(ctx); err != nil {
			v.end()
			return nil, fmt.Errorf("a call to be attacked: %w", err)
		}
	}
	return v, nil
}

// alive reports, as an error, if one of them is over.
func (v *victims) alive() error {
	for _, g := range v.calls {
		if !v.b.is(g) {
			return errors.New("an attacked call has ended")
		}
	}
	return nil
}

func (v *victims) end() {
	for _, g := range v.calls {
		g.hangUp()
	}
}
