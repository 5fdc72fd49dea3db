package workers

import (
	"fmt"
	"net/netip"
	"sync"

	"xpptp/engine"
	"xpptp/engine/session"
	"xpptp/rings"
	"xpptp/rings/spsc"
)

// team is what the workers of a box share: the rings between every two of
// them, and the directory. The rest of the packet path is each worker's own.
//
// A packet that comes to the wrong worker (a TUN queue that the kernel chose,
// a port without steering) goes to its owner by their ring, the frame with
// it: the owner's pool adopts it, and for every frame a free one goes back by
// the ring of the other direction. So the pools keep their sizes, nobody but
// its owner touches a pool, and no packet is copied. What finds its ring full
// is dropped as engine.Handoff.
//
// A frame on a ring names no call: the owner looks it up like any other. So
// the removal of a call need not wait for rings; what comes for it later is
// for no call.
type team struct {
	members []*Worker
	inside  directory
}

// handoffRing returns how many frames can be on their way from one worker to
// another: some bursts of packets, and as many frames on their way home. A
// worker that does not take them must not hold all that the others have.
func handoffRing(workers, frames int) int { return min(max(frames/workers/4, Burst), 1024) }

// What a frame on a ring is, in Frame.User.
const (
	handOutside = iota // a GRE packet, from its IP header on
	handInside         // an IP packet of the inside
	handFree           // nothing: a frame for a frame
)

// peer is another worker, as seen by one.
type peer struct {
	w    *Worker
	to   *spsc.Ring[*rings.Frame]
	from *spsc.Ring[*rings.Frame]
	out  []*rings.Frame // for to, in this turn
	owed int            // frames taken over and not yet replaced
}

// NewTeam makes the workers of a box. Worker i serves the calls whose local ID
// has rings.Shard i. Their pools are parts of one arena. now is the monotonic
// time at which they start.
func NewTeam(cfgs []Config, now int64) (ws []*Worker, err error) {
	t := &team{}
	defer func() {
		if err != nil {
			for _, w := range t.members {
				w.Close()
			}
			ws = nil
		}
	}()
	for i, cfg := range cfgs {
		if cfg.Pool.Arena() != cfgs[0].Pool.Arena() {
			return nil, fmt.Errorf("worker %d: its frames are of another memory than worker 0's", i)
		}
		cfg.ID = i
		w, err := newWorker(cfg, now)
		if err != nil {
			return nil, fmt.Errorf("worker %d: %w", i, err)
		}
		t.members = append(t.members, w)
		w.team = t
	}
	if len(cfgs) > 1 {
		t.inside.make()
		n := handoffRing(len(cfgs), cfgs[0].Pool.Size())
		for i, a := range t.members {
			for _, b := range t.members[:i] {
				ab, ba := spsc.New[*rings.Frame](n), spsc.New[*rings.Frame](n)
				a.peers = append(a.peers, newPeer(b, ab, ba))
				b.peers = append(b.peers, newPeer(a, ba, ab))
			}
		}
	}
	return t.members, nil
}

func newPeer(w *Worker, to, from *spsc.Ring[*rings.Frame]) peer {
	return peer{w: w, to: to, from: from, out: make([]*rings.Frame, 0, 4*Burst)}
}

// callOwner returns the worker of a call.
func (t *team) callOwner(id uint16) int { return rings.Shard(id, len(t.members)) }

// handOver gives a packet to another worker; it leaves with the end of the turn.
func (w *Worker) handOver(f *rings.Frame, owner int, kind uint64) {
	// Worker i is the peer number i of those after it, and i-1 of those before.
	if owner > w.cfg.ID {
		owner--
	}
	p := &w.peers[owner]
	f.User = kind
	p.out = append(p.out, f)
}

// fromPeers takes what others have handed over through all stages.
func (w *Worker) fromPeers() bool {
	busy := false
	for i := range w.peers {
		p := &w.peers[i]
		n := p.from.Pop(w.rx[:])
		if n == 0 {
			continue
		}
		busy = true
		w.lap(StageRX)
		for _, f := range w.rx[:n] {
			w.cfg.Pool.Adopt(f)
			switch f.User {
			case handFree:
				f.Free()
				continue
			case handOutside:
				w.parse(f, false)
			case handInside:
				w.route(f)
			}
			w.flow.TakenOver++
			p.owed++
		}
		w.lap(StageParse)
		w.sequence()
		w.lap(StageGRE)
		w.deliver()
		w.seal()
	}
	return busy
}

// toPeers sends what this turn has for others, and the frames it owes.
func (w *Worker) toPeers() {
	for i := range w.peers {
		p := &w.peers[i]
		packets := len(p.out)
		for p.owed > 0 && len(p.out) < cap(p.out) {
			f := w.cfg.Pool.Get()
			if f == nil {
				break // later
			}
			f.User = handFree
			p.out = append(p.out, f)
			p.owed--
		}
		if len(p.out) == 0 {
			continue
		}
		n := p.to.Push(p.out)
		w.flow.HandedOver += uint64(min(n, packets))
		for k := n; k < len(p.out); k++ {
			if k < packets {
				w.drop(p.out[k], nil, engine.Handoff)
			} else {
				p.out[k].Free()
				p.owed++
			}
		}
		p.out = p.out[:0]
		if n > 0 {
			p.w.poke()
		}
	}
}

// handed reports whether there is anything from others.
func (w *Worker) handed() bool {
	for i := range w.peers {
		if w.peers[i].from.Len() > 0 {
			return true
		}
	}
	return false
}

// bind makes addr an inside address of the call, here and in the directory.
func (w *Worker) bind(c *Call, addr netip.Addr) {
	w.unbind(c, addr.Is6())
	if addr.Is4() {
		w.table.BindV4(&c.Session, addr)
	} else {
		w.table.BindV6(&c.Session, addr)
	}
	w.team.inside.set(addr, w.cfg.ID)
}

// unbind takes the call's inside address away.
func (w *Worker) unbind(c *Call, v6 bool) {
	a := c.InV4
	if v6 {
		a = c.InV6
	}
	if a.IsValid() {
		w.team.inside.unset(a, w.cfg.ID)
	}
	if v6 {
		w.table.UnbindV6(&c.Session)
		return
	}
	w.table.UnbindV4(&c.Session)
	for len(c.Nets) > 0 {
		w.unbindNet(c, c.Nets[0])
	}
}

// unbindNet takes a network away from the call.
func (w *Worker) unbindNet(c *Call, p netip.Prefix) {
	if w.table.UnbindNet(&c.Session, p) {
		w.team.inside.unsetNet(p, w.cfg.ID)
	}
}

// directory knows which worker has an inside address. Workers write it as
// calls come and go, and read it for the packets only that are not theirs.
// One without parts, of a single worker, knows nothing.
type directory struct {
	parts []directoryPart

	mu   sync.RWMutex
	nets session.Nets[int] // behind the far ends of calls
}

type directoryPart struct {
	mu    sync.RWMutex
	owner map[netip.Addr]int
	_     [88]byte // two readers seldom share a cache line
}

const directoryParts = 64

func (d *directory) make() {
	d.parts = make([]directoryPart, directoryParts)
	for i := range d.parts {
		d.parts[i].owner = make(map[netip.Addr]int)
	}
}

func (d *directory) part(a netip.Addr) *directoryPart {
	b := a.As16()
	return &d.parts[b[15]%directoryParts]
}

func (d *directory) set(a netip.Addr, owner int) {
	if d.parts == nil {
		return
	}
	p := d.part(a)
	p.mu.Lock()
	p.owner[a] = owner
	p.mu.Unlock()
}

// unset forgets an address, unless it is another worker's by now.
func (d *directory) unset(a netip.Addr, owner int) {
	if d.parts == nil {
		return
	}
	p := d.part(a)
	p.mu.Lock()
	if p.owner[a] == owner {
		delete(p.owner, a)
	}
	p.mu.Unlock()
}

func (d *directory) setNet(p netip.Prefix, owner int) {
	d.mu.Lock()
	d.nets.Set(p, owner)
	d.mu.Unlock()
}

func (d *directory) unsetNet(p netip.Prefix, owner int) {
	d.mu.Lock()
	if o, ok := d.nets.Get(p); ok && o == owner {
		d.nets.Delete(p)
	}
	d.mu.Unlock()
}

func (d *directory) find(a netip.Addr) (owner int, ok bool) {
	if d.parts == nil {
		return 0, false
	}
	p := d.part(a)
	p.mu.RLock()
	owner, ok = p.owner[a]
	p.mu.RUnlock()
	if !ok && a.Is4() {
		d.mu.RLock()
		owner, ok = d.nets.Find(a.As4())
		d.mu.RUnlock()
	}
	return owner, ok
}
