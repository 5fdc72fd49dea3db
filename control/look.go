package control

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"xpptp/control/aaa"
	"xpptp/control/config"
	"xpptp/control/ppp"
	"xpptp/engine/gre"
	"xpptp/engine/session"
	"xpptp/rings"
	"xpptp/workers"
)

// Selection says which calls are meant: those that have all of what is set.
// The zero value means every call.
type Selection struct {
	User    string
	IP      netip.Addr // inside address of the client, IPv4 or IPv6
	Peer    netip.Addr // outside address of the peer
	Call    uint16     // our call ID; several calls may have it, with different peers
	Session string     // server: the call's name in accounting, which no other has
}

// CallState is a call as it is, with what it has counted so far.
type CallState struct {
	CallInfo
	Worker int
	State  string        // starting, a phase of PPP (RFC 1661 §3.2: establish, authenticate, network), up, ending
	Age    time.Duration // since the call began
	Stats  session.Stats
	GRE    gre.Stats
}

// lookAtOnce is how many calls a loop and a worker look at before they do
// something else.
const lookAtOnce = 256

// answers collects one answer from each loop or worker.
func answers[T any](ctx context.Context, n int, ask func(i int, answer func(T))) ([]T, error) {
	type numbered struct {
		i int
		v T
	}
	all, got := make([]T, n), make(chan numbered, n)
	for i := range n {
		ask(i, func(v T) { got <- numbered{i, v} })
	}
	for k := range n {
		select {
		case a := <-got:
			all[a.i] = a.v
		case <-ctx.Done():
			return nil, fmt.Errorf("%d of %d did not answer: %w", n-k, n, context.Cause(ctx))
		}
	}
	return all, nil
}

// Look returns the calls that sel means, by worker and in the order they were
// made. It holds up neither loops nor workers; what is up later than ctx is
// an error. Only between Start and Shutdown.
func (b *Box) Look(ctx context.Context, sel Selection) ([]CallState, error) {
	parts, err := answers(ctx, len(b.loops), func(i int, answer func([]CallState)) {
		l := b.loops[i]
		l.post(func() { l.look(ctx, l.sortedCalls(), &sel, nil, answer) })
	})
	if err != nil {
		return nil, fmt.Errorf("calls: %w", err)
	}
	all := []CallState{}
	for _, p := range parts {
		all = append(all, p...)
	}
	return all, nil
}

// look adds those of ks that sel means to got, some at a time: the loop knows
// what they are, the worker what they have counted.
func (l *Loop) look(ctx context.Context, ks []*call, sel *Selection, got []CallState, done func([]CallState)) {
	if ctx.Err() != nil {
		return // nobody waits
	}
	some := ks[:min(len(ks), lookAtOnce)]
	rest := ks[len(some):]
	first := len(got)
	var batch []*call
	for _, k := range some {
		if !k.gone && sel.means(k) {
			batch, got = append(batch, k), append(got, k.look())
		}
	}
	l.w.Post(func() {
		for i, k := range batch {
			got[first+i].Stats, got[first+i].GRE = k.wc.Stats, k.wc.GRE.Stats
		}
		l.post(func() {
			if len(rest) == 0 {
				done(got)
			} else {
				l.look(ctx, rest, sel, got, done)
			}
		})
	})
}

func (k *call) look() CallState {
	s := CallState{CallInfo: k.info(), Worker: k.l.id, State: "starting", Age: time.Duration(k.l.now - k.started)}
	switch phase := k.link.Phase(); {
	case k.ending || phase == ppp.PhaseTerminate:
		s.State = "ending"
	case k.up:
		s.State = "up"
	case k.opened:
		s.State = phase.String()
	}
	return s
}

// means reports whether s means this call.
func (s *Selection) means(k *call) bool {
	return (s.User == "" || s.User == k.user) &&
		(!s.Peer.IsValid() || s.Peer == k.pair.peer) &&
		(s.Call == 0 || s.Call == k.id) &&
		(s.Session == "" || !k.client && s.Session == k.sessionID()) &&
		(!s.IP.IsValid() || k.hasInside(s.IP))
}

// hasInside reports whether a is the client's address in this call.
func (k *call) hasInside(a netip.Addr) bool {
	for _, n := range k.nets {
		if n != nil && (k.client && n.Local == a || !k.client && n.Peer == a) {
			return true
		}
	}
	return false
}

// Terminate ends the calls that sel means and returns how many: in order, or at
// once, without a word inside the call. It does not wait for their end.
func (b *Box) Terminate(ctx context.Context, sel Selection, hard bool) (int, error) {
	counts, err := answers(ctx, len(b.loops), func(i int, answer func(int)) {
		l := b.loops[i]
		l.post(func() {
			n := 0
			for _, k := range l.sortedCalls() {
				if !k.gone && !k.ending && sel.means(k) {
					k.terminate(hard)
					n++
				}
			}
			answer(n)
		})
	})
	n := 0
	for _, c := range counts {
		n += c
	}
	return n, err
}

func (k *call) terminate(hard bool) {
	why := ppp.Reason{Code: ppp.AdminReset, Text: "ended by the operator"}
	if k.terms != nil && k.terms.cause == 0 {
		k.terms.cause = aaa.CauseAdminReset
	}
	if hard && k.opened {
		k.link.Abort(k.l.now, why)
		k.rearm()
		return
	}
	k.hangUp(why)
}

// Drain makes the box take no new calls and connections, or take them again.
// Calls that run are left alone.
func (b *Box) Drain(on bool) {
	b.draining.Store(on)
	b.poke()
}

// Draining reports whether the box takes no new calls.
func (b *Box) Draining() bool { return b.draining.Load() }

// Drained yields a value when a box that is draining may have no call left.
func (b *Box) Drained() <-chan struct{} { return b.drained }

// Counters is Snapshot for others than the box's owner: it ends with ctx, and
// is for the time between Start and Shutdown only.
func (b *Box) Counters(ctx context.Context) ([]workers.State, error) {
	all, err := answers(ctx, len(b.loops), func(i int, answer func(workers.State)) { b.loops[i].w.Snapshot(answer) })
	if err != nil {
		return nil, fmt.Errorf("workers: %w", err)
	}
	return all, nil
}

// Totals is what the box counts besides its workers.
type Totals struct {
	Calls, Connections                                                  int // now
	Up, AuthFailures, RefusedConnections, Strangers, ProtocolViolations uint64
}

// Totals returns them; at any time.
func (b *Box) Totals() Totals {
	c := &b.count
	return Totals{
		Calls: int(c.calls.Load()), Connections: int(c.conns.Load()),
		Up: c.up.Load(), AuthFailures: c.authFailures.Load(), RefusedConnections: c.refusedConns.Load(),
		Strangers: c.strangers.Load(), ProtocolViolations: c.protocolErrors.Load(),
	}
}

// PoolState is a pool of client addresses.
type PoolState struct {
	Name       string
	Size, Used int
}

// Pools returns the pools in the order of the settings; none for a client.
func (b *Box) Pools() []PoolState {
	b.addr.mu.Lock()
	defer b.addr.mu.Unlock()
	ps := make([]PoolState, len(b.addr.pools))
	for i, p := range b.addr.pools {
		ps[i] = PoolState{Name: p.Name(), Size: p.Size(), Used: p.Used()}
	}
	return ps
}

// Setup is how the box moves packets: what has been opened.
type Setup struct {
	IO        config.IO
	Mode, Why string   // of the outside, and why this backend
	Outside   []string // interfaces
	Inside    string
	MTU       int // outside
	Workers   []WorkerSetup
}

// WorkerSetup is where a worker runs and what it looks at.
type WorkerSetup struct {
	ID, CPU int // CPU is -1 where the kernel chooses
	Ports   []rings.Info
}

// Setup returns it; after Start.
func (b *Box) Setup() Setup {
	p := b.ports
	s := Setup{IO: p.backend, Mode: p.mode, Why: p.why, Outside: p.outside, Inside: p.inside.String(), MTU: p.mtu}
	for i := range p.workers {
		w := &p.workers[i]
		ws := WorkerSetup{ID: i, CPU: w.CPU}
		for _, port := range w.Outside {
			ws.Ports = append(ws.Ports, port.Info())
		}
		ws.Ports = append(ws.Ports, w.Inside.Info())
		s.Workers = append(s.Workers, ws)
	}
	return s
}

// String is the placement in one line, for logs and reports.
func (s Setup) String() string {
	var cpus []string
	for _, w := range s.Workers {
		if w.CPU >= 0 {
			cpus = append(cpus, fmt.Sprint(w.CPU))
		}
	}
	where := "any CPU"
	if cpus != nil {
		where = "CPUs " + strings.Join(cpus, ",")
	}
	n := "1 worker"
	if len(s.Workers) != 1 {
		n = fmt.Sprintf("%d workers", len(s.Workers))
	}
	return fmt.Sprintf("%s on %s, %s on %s, inside %s", n, where, s.IO, strings.Join(s.Outside, ","), s.Inside)
}
