package control

import (
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"xpptp/control/aaa"
	"xpptp/control/config"
	"xpptp/control/pool"
	"xpptp/control/ppp"
	"xpptp/engine"
	"xpptp/engine/gre"
	"xpptp/engine/mppe/multi"
	"xpptp/engine/wire"
	"xpptp/rings"
	"xpptp/rings/mem"
	"xpptp/workers"
)

// The simulation: a server and a client, workers and control loops included,
// in one goroutine, over a simulated link and under a virtual clock. A seed
// says everything that happens.

const simStep = int64(1e6) // one turn of everything

var (
	simServer = netip.MustParseAddr("10.0.0.1")
	simClient = netip.MustParseAddr("10.0.0.2")
	simLocal  = netip.MustParseAddr("192.168.7.1")
)

// badness says how bad the simulated link is, in thousandths of the packets.
type badness struct {
	loss, dup, delay, corrupt int
	maxDelay                  int // steps
}

type sim struct {
	t      *testing.T
	rnd    *rand.Rand
	now    int64
	bad    badness
	server *simEnd
	client *simEnd
	late   []latePacket
	pipes  []*pipe
	events []CallEvent
	direct bool         // a perfect wire, without copies
	spread spread       // which worker's port a packet comes to
	tap    func([]byte) // sees what goes onto the wire

	onWire, lostOnWire, copiedOnWire, corruptOnWire int
}

// spread is how the simulated interfaces choose among the workers' ports.
type spread int

const (
	byCall   spread = iota // the call's own: XDP, packet fan-out
	byFlow                 // one for all packets between two addresses: a NIC's queues
	atRandom               // any: what nobody does
)

// pick returns the port that an outside packet comes to.
func (s *sim) pick(p []byte, n int) int {
	switch {
	case n == 1 || len(p) < 28:
		return 0
	case s.spread == byFlow:
		return int(p[15]+p[19]) % n
	case s.spread == atRandom:
		return s.rnd.IntN(n)
	}
	return rings.Shard(binary.BigEndian.Uint16(p[26:]), n)
}

type latePacket struct {
	at      int64
	b       []byte
	deliver func([]byte)
}

// simEnd is one box with the test's ends of its inside ports. What has an entry
// for each worker comes first; what is named alone is the first worker's.
type simEnd struct {
	box     *Box
	loops   []*Loop
	ws      []*workers.Worker
	pools   []*rings.Pool
	wires   []*mem.Port // outside ports
	insides []*mem.Port

	l      *Loop
	w      *workers.Worker
	pool   *rings.Pool
	wire   *mem.Port
	inside *mem.Port

	next int // loop of the next connection
	fs   [64]*rings.Frame
}

// calls returns the calls of all loops, each loop's in the order they were made.
func (e *simEnd) calls() (ks []*call) {
	for _, l := range e.loops {
		ks = append(ks, l.sortedCalls()...)
	}
	return ks
}

// conns returns the number of control connections.
func (e *simEnd) conns() (n int) {
	for _, l := range e.loops {
		n += len(l.conns)
	}
	return n
}

// nextLoop takes the loops in turns, as a box does.
func (e *simEnd) nextLoop() *Loop {
	e.next++
	return e.loops[e.next%len(e.loops)]
}

// drops adds up the drops of all workers.
func (e *simEnd) drops() (d engine.Counters) {
	for _, w := range e.ws {
		o := w.State().Drops
		d.Add(&o)
	}
	return d
}

type simDevice struct{ addrs, routes map[netip.Prefix]bool }

func (*simDevice) Name() string     { return "sim" }
func (*simDevice) Index() int       { return 1 }
func (*simDevice) SetMTU(int) error { return nil }
func (*simDevice) Close() error     { return nil }
func (d *simDevice) AddAddr(p netip.Prefix, _ netip.Addr) error {
	d.addrs[p] = true
	return nil
}

func (d *simDevice) DelAddr(p netip.Prefix, _ netip.Addr) error {
	if !d.addrs[p] {
		return fmt.Errorf("%v was never added", p)
	}
	delete(d.addrs, p)
	return nil
}

func (d *simDevice) AddRoute(p netip.Prefix, _ netip.Addr) error {
	d.routes[p] = true
	return nil
}

func (d *simDevice) DelRoute(p netip.Prefix) error {
	if !d.routes[p] {
		return fmt.Errorf("%v was never added", p)
	}
	delete(d.routes, p)
	return nil
}

// simOptions change the settings of both ends.
type simOptions struct {
	seed    uint64
	workers int // of each end, 1 if zero
	bad     badness
	common  func(*config.Common)
	serve   func(*config.Config)
	dial    func(*config.Dial)
	log     bool
}

func newSim(t *testing.T, o simOptions) *sim {
	t.Helper()
	s := &sim{t: t, rnd: rand.New(rand.NewPCG(o.seed, 1)), now: 1e9, bad: o.bad}
	sc, dc := config.Default(), config.DefaultDial()
	sc.Local = simLocal
	r, err := pool.ParseRange("192.168.7.2-192.168.7.250")
	if err != nil {
		t.Fatal(err)
	}
	sc.Pools = []config.Pool{{Name: "default", Ranges: []pool.Range{r}}}
	dc.User = "alice"
	for _, c := range []*config.Common{&sc.Common, &dc.Common} {
		if o.common != nil {
			o.common(c)
		}
	}
	if o.serve != nil {
		o.serve(sc)
	}
	if o.dial != nil {
		o.dial(dc)
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	if o.log {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	file := filepath.Join(t.TempDir(), "secrets")
	if err := os.WriteFile(file, []byte("alice * wonder *\nfixed * wonder 192.168.7.77\nnobody * wonder -\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	store, err := aaa.OpenStore(file, false)
	if err != nil {
		t.Fatal(err)
	}
	sb, err := NewServer(sc, aaa.NewLocal(store), log.With("end", "server"))
	if err != nil {
		t.Fatal(err)
	}
	cb, err := newClientBox(dc, aaa.NewSecret("wonder"), log.With("end", "client"))
	if err != nil {
		t.Fatal(err)
	}
	cb.OnEvent(func(e CallEvent) { s.events = append(s.events, e) })

	n := max(o.workers, 1)
	s.server, s.client = s.end(sb, n), s.end(cb, n)
	for i := range n {
		var a, b *mem.Port
		// What a port sends comes to any port of the other end.
		toClient := func(p []byte) { s.server.wires[s.pick(p, n)].Inject(p) }
		toServer := func(p []byte) { s.client.wires[s.pick(p, n)].Inject(p) }
		a, b = mem.Pair(mem.Config{
			Link: rings.LinkIP, Ring: 1024, PoolA: s.server.pools[i], PoolB: s.client.pools[i],
			AtoB: func(frame []byte, _ func([]byte)) { s.link(frame, toClient) },
			BtoA: func(frame []byte, _ func([]byte)) { s.link(frame, toServer) },
		})
		s.server.wires, s.client.wires = append(s.server.wires, a), append(s.client.wires, b)
	}
	s.start(s.server)
	s.start(s.client)
	return s
}

// end begins one box: its frames, the simulation's clock and randomness.
func (s *sim) end(b *Box, n int) *simEnd {
	b.clock = func() int64 { return s.now }
	b.rand = func(x []byte) {
		for i := range x {
			x[i] = byte(s.rnd.Uint32())
		}
	}
	b.outsideMTU = 1500
	b.nLoops = n
	b.ports = &ports{inside: &tunInside{b: b, dev: &simDevice{map[netip.Prefix]bool{}, map[netip.Prefix]bool{}}}}
	arena := rings.NewArenaN(2048*n, rings.ChunkSmall)
	e := &simEnd{box: b}
	for i := range n {
		e.pools = append(e.pools, rings.NewPool(arena, 2048*i, 2048*(i+1)))
	}
	return e
}

// start finishes it: inside ports in memory, workers and loops.
func (s *sim) start(e *simEnd) {
	b := e.box
	var cfgs []workers.Config
	for i, p := range e.pools {
		inside, far := mem.Pair(mem.Config{Link: rings.LinkIP, Ring: 1024, PoolA: p})
		e.insides = append(e.insides, far)
		cfgs = append(cfgs, workers.Config{
			Pool: p, Outside: []rings.Port{e.wires[i]}, Inside: inside, CPU: -1, Cipher: multi.Best(),
			Client: b.serve == nil, ClampMSS: true, LocalV4: simLocal, LocalV6: linkLocal(b.iid),
			CopyDSCP: b.common.IP.CopyDSCP, CopyECN: b.common.IP.CopyECN,
			GRE: gre.Config{
				First: uint32(s.rnd.IntN(2)), Window: b.common.GRE.ReceiveWindow, ReorderDelay: int64(b.common.GRE.Reorder),
				LimitWindow: b.common.GRE.Window == config.WindowRFC,
			},
		})
	}
	ws, err := workers.NewTeam(cfgs, s.now)
	if err != nil {
		s.t.Fatal(err)
	}
	e.ws = ws
	for i, w := range ws {
		s.t.Cleanup(w.Close)
		e.loops = append(e.loops, newLoop(b, i, w, b.clock, b.rand))
	}
	b.loops = e.loops
	e.l, e.w, e.pool, e.wire, e.inside = e.loops[0], e.ws[0], e.pools[0], e.wires[0], e.insides[0]
}

// link is the simulated wire.
func (s *sim) link(frame []byte, deliver func([]byte)) {
	if s.direct {
		deliver(frame)
		return
	}
	s.onWire++
	if s.tap != nil {
		s.tap(frame)
	}
	hit := func(n int) bool { return n > 0 && s.rnd.IntN(1000) < n }
	if hit(s.bad.loss) {
		s.lostOnWire++
		return
	}
	n := 1
	if hit(s.bad.dup) {
		n = 2
		s.copiedOnWire++
	}
	for range n {
		b := append([]byte(nil), frame...)
		if hit(s.bad.corrupt) {
			s.corruptOnWire++
			// Without encryption nobody can see that a GRE sequence number was
			// changed: that would show as disorder, and rightly.
			if i := s.rnd.IntN(len(b)); s.client.box.link.MPPE.Mode != ppp.Deny || i < 28 || i >= 32 {
				b[i] ^= byte(1 + s.rnd.IntN(255))
			}
		}
		if hit(s.bad.delay) {
			s.late = append(s.late, latePacket{s.now + int64(1+s.rnd.IntN(s.bad.maxDelay))*simStep, b, deliver})
		} else {
			deliver(b)
		}
	}
}

// pipe is one direction of a control connection: the test's TCP.
type pipe struct {
	s      *sim
	to     *conn
	buf    []byte
	closed bool
	other  *pipe
}

func (p *pipe) TryWrite(b []byte) (int, error) {
	if p.closed {
		return 0, io.ErrClosedPipe
	}
	n := 1 + p.s.rnd.IntN(len(b)) // some peers read slowly
	p.buf = append(p.buf, b[:n]...)
	return n, nil
}

func (*pipe) Writable(f func()) { f() }

func (p *pipe) Close() error {
	p.closed, p.other.closed = true, true
	return nil
}

// connect makes a control connection from client to server and returns the
// client's end.
func (s *sim) connect() *conn {
	ca := netip.AddrPortFrom(simClient, uint16(1024+s.rnd.IntN(60000)))
	sa := netip.AddrPortFrom(simServer, 1723)
	up, down := &pipe{s: s}, &pipe{s: s}
	up.other, down.other = down, up
	s.server.box.count.conns.Add(1)
	s.client.box.count.conns.Add(1)
	down.to = s.client.nextLoop().addConn(up, true, ca, sa)
	up.to = s.server.nextLoop().addConn(down, false, sa, ca)
	s.pipes = append(s.pipes, up, down)
	return down.to
}

// call connects and places n calls.
func (s *sim) call(n int) *conn {
	c := s.connect()
	c.onUp = func() {
		for i := range n {
			c.place(i, func() {}, func(*call) {})
		}
	}
	return c
}

// step lets everything happen for one step of time.
func (s *sim) step() {
	s.now += simStep
	late := s.late
	s.late = s.late[:0:0]
	for _, p := range late {
		if p.at <= s.now {
			p.deliver(p.b)
		} else {
			s.late = append(s.late, p)
		}
	}
	for _, e := range []*simEnd{s.server, s.client} {
		for range 4 {
			for _, l := range e.loops {
				l.step(s.now)
			}
			for _, w := range e.ws {
				w.Step(s.now)
			}
		}
	}
	keep := s.pipes[:0]
	for _, p := range s.pipes {
		if len(p.buf) > 0 && p.to != nil {
			n := 1 + s.rnd.IntN(len(p.buf))
			b := p.buf[:n]
			p.buf = p.buf[n:]
			p.to.input(b)
		}
		if p.closed && len(p.buf) == 0 {
			p.to.lost(nil)
			continue
		}
		keep = append(keep, p)
	}
	s.pipes = keep
}

// until steps until f is true; it fails the test after so much virtual time.
func (s *sim) until(what string, seconds int, f func() bool) {
	s.t.Helper()
	for end := s.now + int64(seconds)*1e9; !f(); {
		if s.now > end {
			for _, e := range []*simEnd{s.client, s.server} {
				for _, k := range e.calls() {
					s.t.Logf("client %v: call %d/%d opened %v up %v ending %v gone %v link %+v nets %v %v", k.client, k.id, k.wc.PeerCallID,
						k.opened, k.up, k.ending, k.gone, k.link.Snapshot(), k.nets[0], k.nets[1])
				}
				s.t.Logf("drops %v", drops(e))
			}
			s.t.Fatalf("after %d s of virtual time still not: %s", seconds, what)
		}
		s.step()
	}
}

func (s *sim) upCalls() (n int) {
	for _, k := range s.client.calls() {
		if k.up && !k.gone && k.ready() {
			n++
		}
	}
	return n
}

// ready reports whether IPv4 data may pass, or never will: a link that
// corrupts packets can have IPCP end for good, and the call then has IPv6 only.
func (k *call) ready() bool {
	if k.mppe.Bits == 0 && k.cfg.MPPE.Mode != ppp.Deny {
		return false
	}
	return k.nets[0] != nil || k.up && k.l.now-k.started > 60e9
}

func (s *sim) serverUp() (n int) {
	for _, k := range s.server.calls() {
		if !k.gone && k.ready() {
			n++
		}
	}
	return n
}

// hangUp ends everything and checks that nothing is left.
func (s *sim) hangUp() {
	s.t.Helper()
	for _, e := range []*simEnd{s.client, s.server} {
		e.box.stopping.Store(true)
		for _, l := range e.loops {
			l.hangUpAll()
		}
		s.until("all calls and connections gone", 120, func() bool {
			return e.box.count.calls.Load() == 0 && e.box.count.conns.Load() == 0
		})
	}
	s.until("the other end clean too", 200, func() bool {
		return s.server.box.count.calls.Load()+s.server.box.count.conns.Load() == 0 &&
			s.client.box.count.calls.Load()+s.client.box.count.conns.Load() == 0
	})
	for range 2000 { // what is still on the wire
		s.step()
	}
	s.clean()
}

// clean checks that neither end holds anything.
func (s *sim) clean() {
	s.t.Helper()
	for name, e := range map[string]*simEnd{"server": s.server, "client": s.client} {
		for i, l := range e.loops {
			if n := e.ws[i].State().Sessions; n != 0 || len(l.calls) != 0 || len(l.conns) != 0 {
				s.t.Errorf("%s: %d sessions, %d calls, %d connections left", name, n, len(l.calls), len(l.conns))
			}
			if n := l.wheel.Len(); n != 0 {
				s.t.Errorf("%s: %d timers left", name, n)
			}
			for k, used := range l.ids.used {
				if used {
					s.t.Errorf("%s: call ID %d still in use", name, k.id)
				}
			}
		}
		if n := e.box.addr.inUse(); n != 0 || len(e.box.addr.ids) != 0 {
			s.t.Errorf("%s: %d addresses and %d interface identifiers left", name, n, len(e.box.addr.ids))
		}
		for _, p := range e.box.addr.pools {
			if p.Used() != 0 {
				s.t.Errorf("%s: pool %s has %d addresses in use", name, p.Name(), p.Used())
			}
		}
		if d := e.box.ports.inside.(*tunInside).dev.(*simDevice); len(d.addrs)+len(d.routes) != 0 {
			s.t.Errorf("%s: addresses %v, routes %v left on the device", name, d.addrs, d.routes)
		}
		s.drainInside(e, func([]byte) {})
		for i, p := range e.pools {
			// What came by the rings has gone back by them: each has what it began with.
			if p.Free() != 2048 || p.Size() != 2048 {
				s.t.Errorf("%s: worker %d has %d free frames and %d in all of 2048", name, i, p.Free(), p.Size())
			}
		}
	}
}

// drainInside gives every packet that came out at an inside port to f.
func (s *sim) drainInside(e *simEnd, f func([]byte)) {
	for _, p := range e.insides {
		for {
			n, err := p.Recv(e.fs[:])
			if err != nil {
				s.t.Fatal(err)
			}
			for _, fr := range e.fs[:n] {
				f(fr.Data())
				fr.Free()
			}
			if n == 0 {
				break
			}
		}
	}
}

// inject puts an IP packet into an inside port, the same for all packets
// between two hosts.
func (s *sim) inject(e *simEnd, b []byte) {
	p := e.insides[(int(b[15])+int(b[19]))%len(e.insides)]
	f := p.Pool().Get()
	if f == nil || !f.Set(b) {
		s.t.Fatal("inject: no frame")
	}
	if n, err := p.Send([]*rings.Frame{f}); n != 1 || err != nil {
		s.t.Fatalf("inject: %d, %v", n, err)
	}
	if err := p.Flush(); err != nil {
		s.t.Fatal(err)
	}
}

// udp makes a packet of the given total length that names its stream and number.
func udp(src, dst netip.Addr, stream, seq uint32, n int) []byte {
	n = max(n, 28+8)
	b := make([]byte, n)
	payload := b[28:]
	binary.BigEndian.PutUint32(payload, stream)
	binary.BigEndian.PutUint32(payload[4:], seq)
	for i := 8; i < len(payload); i++ {
		payload[i] = byte(seq*7 + uint32(i)*13)
	}
	wire.PutUDP(b[20:], 7, 7, len(payload), wire.PseudoHeader4(src.As4(), dst.As4(), wire.ProtoUDP, n-20))
	wire.PutIPv4(b, &wire.IPv4Fields{PayloadLen: n - 20, TTL: 64, Protocol: wire.ProtoUDP, Src: src.As4(), Dst: dst.As4()})
	return b
}

// stream checks what comes out at one end: in order, once, byte for byte.
type stream struct {
	src, dst netip.Addr
	id, next uint32
	sent     uint32
	got      int
	corrupt  int
}

func (st *stream) send(s *sim, e *simEnd, n int) {
	s.inject(e, udp(st.src, st.dst, st.id, st.sent, n))
	st.sent++
}

// receive takes one packet. MPPE carries no integrity check, so a packet that
// was corrupted on the wire may come out corrupted; a host sees that by the
// UDP checksum, and so does this.
func (st *stream) receive(t *testing.T, p []byte) {
	t.Helper()
	ip, d := wire.ParseIPv4(p)
	if d != engine.Pass || ip.Protocol() != wire.ProtoUDP || !ip.HeaderChecksumOK() {
		st.corrupt++
		return
	}
	src, dst := ip.Src(), ip.Dst()
	if wire.Checksum(ip.Payload(), wire.PseudoHeader4(src, dst, wire.ProtoUDP, len(ip.Payload()))) != 0 {
		st.corrupt++
		return
	}
	payload := ip.Payload()[8:]
	seq := binary.BigEndian.Uint32(payload[4:])
	if seq < st.next {
		t.Fatalf("stream %d: packet %d after %d: out of order or twice", st.id, seq, st.next-1)
	}
	want := udp(st.src, st.dst, st.id, seq, len(p))
	if string(want) != string(p) {
		t.Fatalf("stream %d: packet %d differs:\ngot  %x\nwant %x", st.id, seq, p, want)
	}
	st.next = seq + 1
	st.got++
}

// A clean link: a call comes up with the strongest cipher, data passes both
// ways, and everything is given back.
func TestCall(t *testing.T) {
	s := newSim(t, simOptions{seed: 1})
	s.call(1)
	s.until("one call up", 20, func() bool { return s.upCalls() == 1 && s.serverUp() == 1 })
	var k *call
	for _, k = range s.client.calls() {
	}
	if got := k.cipher(); got != "mppe-128-stateless" {
		t.Errorf("cipher %s", got)
	}
	up := &stream{src: k.nets[0].Local, dst: simLocal, id: 1}
	down := &stream{src: simLocal, dst: k.nets[0].Local, id: 2}
	for i := range 500 {
		up.send(s, s.client, 28+8+i*2)
		down.send(s, s.server, 1300-i*2)
		s.step()
		s.drainInside(s.server, func(p []byte) { up.receive(t, p) })
		s.drainInside(s.client, func(p []byte) { down.receive(t, p) })
	}
	for range 20 {
		s.step()
		s.drainInside(s.server, func(p []byte) { up.receive(t, p) })
		s.drainInside(s.client, func(p []byte) { down.receive(t, p) })
	}
	if up.got != 500 || down.got != 500 {
		t.Errorf("%d and %d of 500 packets arrived; drops %v, %v", up.got, down.got, drops(s.client), drops(s.server))
	}
	s.hangUp()
}

// drops names the drops of one end.
func drops(e *simEnd) map[string]uint64 {
	m := map[string]uint64{}
	for d, n := range e.drops() {
		if n > 0 {
			m[engine.Drop(d).String()] = n
		}
	}
	return m
}

// Packets that come to any worker but their own, outside and inside, are
// handed over: all arrive, in order, and every frame goes home.
func TestWrongWorker(t *testing.T) {
	packets := 300
	if testing.Short() {
		packets = 60
	}
	for _, n := range []int{2, 4} {
		for _, how := range []spread{byFlow, atRandom} {
			t.Run(fmt.Sprintf("%d workers/%d", n, how), func(t *testing.T) {
				s := newSim(t, simOptions{seed: 31, workers: n})
				s.spread = how
				for range n {
					s.call(2)
				}
				s.until("calls up", 60, func() bool { return s.upCalls() == 2*n && s.serverUp() == 2*n })
				var streams []*stream
				up, down := map[netip.Addr]*stream{}, map[netip.Addr]*stream{}
				for i, k := range s.client.calls() {
					a := k.nets[0].Local
					up[a] = &stream{src: a, dst: simLocal, id: uint32(2 * i)}
					down[a] = &stream{src: simLocal, dst: a, id: uint32(2*i + 1)}
					streams = append(streams, up[a], down[a])
				}
				turn := func() {
					s.step()
					s.drainInside(s.server, func(p []byte) { up[netip.AddrFrom4(wire.IPv4(p).Src())].receive(t, p) })
					s.drainInside(s.client, func(p []byte) { down[netip.AddrFrom4(wire.IPv4(p).Dst())].receive(t, p) })
				}
				for range packets {
					for i, st := range streams {
						st.send(s, []*simEnd{s.client, s.server}[i%2], 36+s.rnd.IntN(1300))
					}
					turn()
				}
				for range 50 {
					turn()
				}
				for _, st := range streams {
					if st.got != packets {
						t.Errorf("stream %d: %d of %d arrived; drops %v, %v", st.id, st.got, packets, drops(s.client), drops(s.server))
					}
				}
				for name, e := range map[string]*simEnd{"server": s.server, "client": s.client} {
					var over uint64
					for _, w := range e.ws {
						over += w.State().Flow.HandedOver
					}
					if over < uint64(packets) {
						t.Errorf("%s: %d packets were handed over", name, over)
					}
				}
				s.accounted()
				s.hangUp()
			})
		}
	}
}

// Thousands of bad links: whatever the link does, what is delivered is in
// order, unduplicated and byte-exact, nothing vanishes without a name, the
// machines end in a defined state and give everything back.
func TestBadLinks(t *testing.T) {
	seeds := map[int]int{1: 20, 2: 14, 4: 4} // by number of workers
	for workers := range seeds {
		if n, err := strconv.Atoi(os.Getenv("XPPTP_SEEDS")); err == nil {
			seeds[workers] = n
		} else if testing.Short() {
			seeds[workers] = 1
		}
	}
	links := map[string]badness{
		"loss":    {loss: 150},
		"dup":     {dup: 200},
		"reorder": {delay: 300, maxDelay: 8},
		"corrupt": {corrupt: 50},
		"all":     {loss: 80, dup: 80, delay: 150, maxDelay: 30, corrupt: 30},
	}
	for name, bad := range links {
		for workers, n := range seeds {
			t.Run(fmt.Sprintf("%s/%d workers", name, workers), func(t *testing.T) {
				for seed := range n {
					t.Run(strconv.Itoa(seed), func(t *testing.T) { badLink(t, uint64(seed), workers, bad) })
					if t.Failed() {
						return
					}
				}
			})
		}
	}
}

func badLink(t *testing.T, seed uint64, workers int, bad badness) {
	s := newSim(t, simOptions{seed: seed, workers: workers, bad: bad, log: os.Getenv("XPPTP_SIM_LOG") != "", common: func(c *config.Common) {
		c.MPPEStateful = seed%3 == 0
		if seed%5 == 1 {
			c.GRE.Reorder = 0
		}
		if seed%7 == 3 {
			c.MPPE = config.Deny
		}
		if seed%4 == 2 {
			c.GRE.Window = config.WindowRFC
			c.GRE.ReceiveWindow = 4 + int(seed%60)
		}
	}})
	if seed%3 == 0 {
		s.client.box.link.MPPE.Stateful = ppp.StatefulPreferred
	}
	s.spread = spread(seed % 2)
	calls := 1 + int(seed%3)
	if workers == 1 {
		s.call(calls)
	} else { // each at another worker
		for range calls {
			s.call(1)
		}
	}
	settled := func() bool {
		n := len(s.client.calls()) // calls may fail on a bad link; those that live must be up at both ends
		return (n == calls || len(s.events) > 0) && s.upCalls() == n && s.serverUp() == len(s.server.calls()) && s.serverUp() == n
	}
	s.until("calls up or over", 200, settled)

	type pair struct{ up, down *stream }
	var streams []*pair // in order of calls: a map's order would not be the seed's
	byAddr := map[netip.Addr]*pair{}
	for _, k := range s.client.calls() {
		if n := k.nets[0]; n != nil {
			id := uint32(len(streams)*2 + 1)
			p := &pair{&stream{src: n.Local, dst: simLocal, id: id}, &stream{src: simLocal, dst: n.Local, id: id + 1}}
			streams = append(streams, p)
			byAddr[n.Local] = p
		}
	}
	var foreign int
	check := func() {
		s.drainInside(s.server, func(p []byte) {
			if st := byAddr[netip.AddrFrom4(wire.IPv4(p).Src())]; st != nil {
				st.up.receive(t, p)
			} else {
				foreign++
			}
		})
		s.drainInside(s.client, func(p []byte) {
			if st := byAddr[netip.AddrFrom4(wire.IPv4(p).Dst())]; st != nil {
				st.down.receive(t, p)
			} else {
				foreign++
			}
		})
	}
	for range 400 {
		for _, st := range streams {
			st.up.send(s, s.client, 36+s.rnd.IntN(1300))
			st.down.send(s, s.server, 36+s.rnd.IntN(1300))
		}
		s.step()
		check()
	}
	for range 200 {
		s.step()
		check()
	}
	sent, got := 0, 0
	for _, st := range streams {
		sent += 800
		got += st.up.got + st.down.got
		if bad.corrupt == 0 && st.up.corrupt+st.down.corrupt > 0 {
			t.Errorf("%d corrupt packets on a link that corrupts nothing", st.up.corrupt+st.down.corrupt)
		}
		if s.client.box.common.GRE.Window == config.WindowRFC {
			continue // held back on purpose: how much passes is the window's business
		}
		// Stateless MPPE loses what the link loses, and what the link delays for
		// longer than we wait. (A stateful call loses more: a round trip at least
		// for every loss.)
		if s.client.box.link.MPPE.Stateful == ppp.StatelessOnly && (st.up.got < 200 || st.down.got < 200) {
			t.Errorf("only %d up and %d down of 400 arrived; drops %v, %v", st.up.got, st.down.got, drops(s.client), drops(s.server))
		}
	}
	if foreign > 0 && bad.corrupt == 0 {
		t.Errorf("%d packets came out with foreign addresses", foreign)
	}
	if bad.loss == 0 && bad.corrupt == 0 && bad.delay == 0 && got != sent {
		t.Errorf("%d of %d packets arrived over a link without loss; drops %v, %v", got, sent, drops(s.client), drops(s.server))
	}
	s.accounted()

	// Once the link is good again everything passes: no call has lost its place
	// for good.
	s.bad = badness{}
	settle := func(n int) {
		for range n {
			s.step()
			check()
		}
	}
	settle(1500)
	for _, st := range streams {
		// The first packets may be what shows a stateful receiver that it has
		// lost its place, and are lost with that.
		warm := 12 // more than the run of late packets that takes the sequence back
		if s.client.box.common.GRE.Window == config.WindowRFC {
			// A number corrupted on the wire can have taken the sequence ahead;
			// then nothing is acknowledged until a run of packets shows it, and
			// each packet waits for a time-out.
			warm = 60
		}
		for range warm {
			st.up.send(s, s.client, 100)
			st.down.send(s, s.server, 100)
			settle(400)
		}
		up, down := st.up.got, st.down.got
		for range 20 {
			st.up.send(s, s.client, 100)
			st.down.send(s, s.server, 100)
			settle(1)
		}
		settle(20)
		if st.up.got-up != 20 || st.down.got-down != 20 {
			t.Errorf("on a good link again %d up and %d down of 20 arrived; drops %v, %v",
				st.up.got-up, st.down.got-down, drops(s.client), drops(s.server))
			for _, e := range []*simEnd{s.client, s.server} {
				for _, k := range e.calls() {
					t.Logf("client %v: call %d: GRE %+v", k.client, k.id, k.wc.GRE.Snapshot())
				}
			}
		}
	}
	s.accounted()
	s.hangUp()
}

// accounted checks that every packet that came in at a port, or was made here,
// left at a port, was consumed, waits, or was dropped under a name.
func (s *sim) accounted() {
	s.t.Helper()
	for name, e := range map[string]*simEnd{"server": s.server, "client": s.client} {
		var handed, taken uint64
		for i, w := range e.ws {
			st := w.State()
			came, went := st.Flow.Made+st.Flow.TakenOver, st.Flow.Consumed+st.Flow.HandedOver+uint64(w.Waiting())
			for _, p := range st.Stats {
				came += p.RxPackets
				went += p.TxPackets
			}
			for _, n := range st.Drops {
				went += n
			}
			if came != went {
				s.t.Errorf("%s: worker %d: %d packets came, %d are accounted for; flow %+v, drops %v", name, i, came, went, st.Flow, drops(e))
			}
			handed += st.Flow.HandedOver
			taken += st.Flow.TakenOver
		}
		if handed != taken {
			s.t.Errorf("%s: %d packets were handed over, %d taken", name, handed, taken)
		}
	}
}
