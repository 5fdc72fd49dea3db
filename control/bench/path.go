package bench

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"text/tabwriter"
	"time"

	"xpptp/control/sock"
	"xpptp/engine"
	"xpptp/engine/gre"
	"xpptp/engine/mppe"
	"xpptp/engine/mppe/multi"
	"xpptp/engine/session"
	"xpptp/engine/wire"
	"xpptp/hwprofile"
	"xpptp/rings"
	"xpptp/workers"
)

// Directions of a PathRow.
const (
	Bare  = "bare"  // from port to port, as it is: what the backend costs
	Decap = "decap" // outside to inside
	Encap = "encap" // inside to outside
	// A single packet on its way out, in, and back:
	RTTBare = "rtt-bare" // turned round at the port
	RTT     = "rtt"      // through a call, and back by an inside that reflects
)

// rttBackends are those with round trips: where the far end is a wire, and the link is ours.
var rttBackends = []string{"tpacket", "xsk"}

func hasRTT(io string) bool { return slices.Contains(rttBackends, io) }

// PathRow is one measurement of a worker between two ports of a backend. It always has packets
// waiting. All rows of the same IO and Size are measured in turns; the times are those that a quarter
// of the turns keep below.
type PathRow struct {
	IO          string  `json:"io"`
	Size        int     `json:"size"` // inside IP packet in bytes; 0 for IMIX: 64, 576 and 1400 at 7:4:1
	Direction   string  `json:"direction"`
	MPPE        bool    `json:"mppe"`          // 128 bits, stateless
	Way         string  `json:"way"`           // kernels; empty without MPPE
	PPS         float64 `json:"pps"`           // packets a second, by the clock on the wall
	NsPerPacket float64 `json:"ns_per_packet"` // of the worker's thread
	NsKernel    float64 `json:"ns_kernel"`     // of another thread, for what the kernel does to bring the packet to the port: beyond sending it and dropping it at once
	RatioBare   float64 `json:"ratio_bare"`    // PPS over that of bare; of round trips P50 over that of rtt-bare
	P50         float64 `json:"p50_ns"`        // half of the round trips take no longer; 0 in other rows, as are the rates in this
}

// PathPlan says what to measure. Empty lists mean the usual ones.
type PathPlan struct {
	IO    []string      // out of Backends; all
	Sizes []int         // 40 to 1400; 0 for IMIX
	Ways  []multi.Way   // Portable and the best
	Calls int           // the packets come from in turns, up to 1024; 64
	Time  time.Duration // per row, with making packets and all
}

const (
	minPathSize  = 40
	maxPathSize  = 1400
	maxPathCalls = 1024
)

func (p *PathPlan) fill() {
	p.IO = or(p.IO, Backends)
	p.Sizes = or(p.Sizes, []int{64, 0, 1400})
	p.Ways = or(p.Ways, slices.Compact([]multi.Way{multi.Portable, multi.Best()}))
	if p.Calls == 0 {
		p.Calls = 64
	}
	if p.Time == 0 {
		p.Time = 500 * time.Millisecond
	}
}

// Check returns an error that names the first value that is out of range.
func (p PathPlan) Check() error {
	p.fill()
	for _, io := range p.IO {
		if !slices.Contains(Backends, io) {
			return fmt.Errorf("bench path: backend %q: want one of %v", io, Backends)
		}
	}
	for _, s := range p.Sizes {
		if s != 0 && (s < minPathSize || s > maxPathSize) {
			return fmt.Errorf("bench path: size %d: want 0 or %d to %d", s, minPathSize, maxPathSize)
		}
	}
	if p.Calls < 1 || p.Calls > maxPathCalls {
		return fmt.Errorf("bench path: %d calls: want 1 to %d", p.Calls, maxPathCalls)
	}
	return nil
}

// Rows is how many rows the plan makes if all its backends work.
func (p PathPlan) Rows() int {
	p.fill()
	n := len(p.IO) * len(p.Sizes) * (3 + 2*len(p.Ways))
	for _, io := range p.IO {
		if hasRTT(io) {
			n += 3
		}
	}
	return n
}

// Path runs the plan and hands every row to f as soon as it is measured. A backend that does not open
// here goes to skipped instead, with the reason, unless it is the only one. It needs CAP_SYS_ADMIN,
// CAP_NET_ADMIN and CAP_NET_RAW, and works in network namespaces of its own.
func Path(ctx context.Context, p PathPlan, f func(PathRow), skipped func(io string, why error)) error {
	if err := p.Check(); err != nil {
		return err
	}
	p.fill()
	for _, io := range p.IO {
		r, err := newRig(io, p.Calls)
		if err != nil {
			if len(p.IO) == 1 {
				return fmt.Errorf("bench path: %s: %w", io, err)
			}
			skipped(io, err)
			continue
		}
		err = onWorkerThread(func(cpu int) error { return measurePath(ctx, r, &p, cpu, f) })
		r.close()
		if err != nil {
			return fmt.Errorf("bench path: %s: %w", io, err)
		}
	}
	return nil
}

// Placement is where a worker that is measured runs, and where all else does: the plan of hwprofile
// for this machine and one worker, without the interfaces, since a measurement has its own.
func Placement() (*hwprofile.Plan, error) {
	inv, err := hwprofile.Read(hwprofile.Live())
	if err != nil {
		return nil, err
	}
	inv.Interfaces = nil
	return hwprofile.MakePlan(inv, nil, hwprofile.Request{Workers: 1})
}

// onWorkerThread runs f on a thread pinned to the worker's processor, and tells it the first of the
// others: for what makes the packets.
func onWorkerThread(f func(cpu int) error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		plan, err := Placement()
		if err == nil {
			err = sock.Pin(plan.Workers[0].CPU)
		}
		if err == nil {
			err = f(plan.Control[0])
		}
		done <- err
	}()
	return <-done
}

// pathSide is one contender: a row to be.
type pathSide struct {
	row  PathRow
	data []pathTurn
	by   feeder               // that the packets come by
	make func(n int) error    // sends n packets to it; runs on the feeding thread
	step func() (bool, error) // one turn of its loop
	sent func() uint64        // packets that it has sent since its beginning
	took func(time.Duration)  // hears how long a step took; may be nil
}

// pathTurn is what a block of packets took, in ns a packet.
type pathTurn struct{ cpu, wall, kernel float64 }

func measurePath(ctx context.Context, r *rig, p *PathPlan, feedCPU int, f func(PathRow)) error {
	feeding := newFeed(feedCPU)
	defer feeding.stop()
	plain, err := newPathEnd(r, p.Calls, false, multi.Portable)
	if err != nil {
		return err
	}
	ends := []*pathEnd{plain}
	defer func() {
		for _, e := range ends {
			e.w.Close()
		}
	}()
	for _, way := range p.Ways {
		e, err := newPathEnd(r, p.Calls, true, way)
		if err != nil {
			return err
		}
		ends = append(ends, e)
	}
	for _, size := range p.Sizes {
		sides := []*pathSide{bareSide(r, size)}
		base, err := sendingCost(r, sides[0], feeding)
		if err != nil {
			return err
		}
		for _, e := range ends {
			sides = append(sides, e.side(Decap, size), e.side(Encap, size))
		}
		end := time.Now().Add(p.Time * time.Duration(len(sides)))
		for n := 0; n < 8 || time.Now().Before(end); n++ {
			for _, s := range sides {
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := feeding.do(func() error { return s.make(rigBlock) }); err != nil {
					return err
				}
				t, err := s.turn()
				if err != nil {
					return err
				}
				t.kernel = float64(s.by.spent())/rigBlock - base
				if n > 0 { // the first is for caches and rings
					s.data = append(s.data, t)
				}
			}
		}
		for _, s := range sides {
			s.finish(sides[0])
			f(s.row)
		}
	}
	for _, e := range ends {
		if err := e.complain(); err != nil {
			return err
		}
	}
	if hasRTT(r.io) {
		return measureRTT(ctx, r, p, feeding, f)
	}
	return nil
}

// lostAfter is how long a turn waits for packets that do not come.
const lostAfter = 20 * time.Millisecond

// turn has the side work until a block of packets has left it. Only the steps that found something
// to do are counted, and not the first: another contender has had the caches.
func (s *pathSide) turn() (t pathTurn, err error) {
	from := s.sent()
	idle := time.Now()
	var cpuSum, wallSum time.Duration
	var n, counted uint64
	for n < rigBlock {
		wall, cpu := time.Now(), sock.ThreadTime()
		busy, err := s.step()
		if err != nil {
			return t, err
		}
		cpuDone, done := sock.ThreadTime(), time.Now()
		if s.took != nil {
			s.took(done.Sub(wall))
		}
		before := n
		n = s.sent() - from
		if busy {
			idle = done
			if before >= rigWarm {
				cpuSum += cpuDone - cpu
				wallSum += done.Sub(wall)
				counted += n - before
			}
		} else if done.Sub(idle) > lostAfter {
			break
		}
	}
	if n < rigBlock/2 {
		return t, fmt.Errorf("%s, %s: %d of %d packets came through", s.row.Direction, sizeName(s.row.Size), n, rigBlock)
	}
	return pathTurn{cpu: float64(cpuSum) / float64(counted), wall: float64(wallSum) / float64(counted)}, nil
}

func (s *pathSide) finish(bare *pathSide) {
	quarter := func(of func(pathTurn) float64) float64 {
		slices.SortFunc(s.data, func(a, b pathTurn) int { return cmp.Compare(of(a), of(b)) })
		return of(s.data[len(s.data)/4])
	}
	s.row.NsPerPacket = quarter(func(t pathTurn) float64 { return t.cpu })
	s.row.NsKernel = max(quarter(func(t pathTurn) float64 { return t.kernel }), 0)
	s.row.PPS = 1e9 / quarter(func(t pathTurn) float64 { return t.wall })
	s.row.RatioBare = s.row.PPS / bare.row.PPS
}

// feed runs what makes packets on a thread of its own, pinned to a processor.
type feed struct {
	work chan func() error
	done chan error
}

func newFeed(cpu int) *feed {
	f := &feed{work: make(chan func() error), done: make(chan error)}
	go func() {
		runtime.LockOSThread() // for good
		err := sock.Pin(cpu)
		for w := range f.work {
			if err == nil {
				err = w()
			}
			f.done <- err
		}
	}()
	return f
}

// settle is how long the kernel has to bring what was sent to the port.
const settle = 50 * time.Microsecond

// do has w done.
func (f *feed) do(w func() error) error {
	f.work <- w
	err := <-f.done
	time.Sleep(settle)
	return err
}

func (f *feed) stop() { close(f.work) }

func pathSizes(size int) func(i int) int {
	if size > 0 {
		return func(int) int { return size }
	}
	return func(i int) int { return imix[i%len(imix)] }
}

// bareSide forwards from outside to inside by the shortest loop there is.
func bareSide(r *rig, size int) *pathSide {
	header := linkHeader(r.in)
	var fs [workers.Burst]*rings.Frame
	var forwarded uint64
	step := func() (bool, error) {
		n, err := r.out.Recv(fs[:])
		if err != nil || n == 0 {
			return false, errors.Join(err, r.in.Flush())
		}
		for _, f := range fs[:n] {
			if header != nil {
				copy(f.Data(), header)
			} else {
				copy(f.Data()[16:20], serverAddr.AsSlice()) // it is for us: on to somebody else
			}
		}
		sent, err := r.in.Send(fs[:n])
		for _, f := range fs[sent:n] {
			f.Free()
		}
		forwarded += uint64(sent)
		return true, errors.Join(err, r.in.Flush())
	}
	of := pathSizes(size)
	b := make([]byte, maxPathSize)
	return &pathSide{
		row: PathRow{IO: r.io, Size: size, Direction: Bare},
		by:  r.far,
		make: func(n int) error {
			for i := range n {
				p := b[:of(i)]
				grePacket(p, peerAddr.As4(), outsideAddr.As4(), uint16(i), uint32(i))
				if err := r.far.send(p); err != nil {
					return err
				}
			}
			return r.far.flush()
		},
		step: step,
		sent: func() uint64 { return forwarded },
	}
}

// sendingCost is what sending costs the feeding thread, in ns a packet, if
// nobody wants what arrives.
func sendingCost(r *rig, bare *pathSide, feeding *feed) (float64, error) {
	w, ok := r.far.(*wireFeeder)
	if !ok {
		return 0, nil
	}
	w.unwanted(true)
	defer w.unwanted(false)
	var cost []float64
	for range 20 {
		if err := feeding.do(func() error { return bare.make(rigBlock) }); err != nil {
			return 0, err
		}
		cost = append(cost, float64(w.spent())/rigBlock)
	}
	slices.Sort(cost)
	return cost[len(cost)/4], nil
}

// grePacket fills b with an IPv4 packet that holds an enhanced GRE packet, which all backends take.
func grePacket(b []byte, src, dst [4]byte, call uint16, seq uint32) {
	n := len(b) - wire.IPv4Len
	wire.PutIPv4(b, &wire.IPv4Fields{ID: uint16(seq), TTL: 64, Protocol: wire.ProtoGRE, Src: src, Dst: dst, PayloadLen: n})
	wire.PutGRE(b[wire.IPv4Len:], call, n-wire.GRELen(true, false), seq, true, 0, false)
}

// pathEnd is a worker with its calls, and what their peers know.
type pathEnd struct {
	r     *rig
	w     *workers.Worker
	mppe  bool
	way   multi.Way
	now   int64 // the worker's clock: the time that it has worked, as if it did so all the time
	calls []pathCall

	sealer *mppe.Engine // the peers', on the feeding thread
	jobs   []mppe.TxJob
	bufs   [][]byte
	plain  [maxPathSize]byte
	next   int // call whose turn it is
}

type pathCall struct {
	c    *workers.Call
	addr [4]byte
	tx   mppe.Tx
	seq  uint32
}

// pathHop is a next hop that never changes.
type pathHop struct {
	header []byte
	index  int
}

// Way implements workers.Hop.
func (h *pathHop) Way() ([]byte, int, workers.HopState) { return h.header, h.index, workers.HopReady }

func newPathEnd(r *rig, calls int, encrypted bool, way multi.Way) (*pathEnd, error) {
	w, err := workers.New(workers.Config{
		Pool: r.pool, Outside: []rings.Port{r.out}, Side: r.side, Inside: insidePort(r.in), Cipher: way, CPU: -1, ClampMSS: true,
		GRE: gre.Config{First: 1, Window: 4096, AckDelay: int64(5 * time.Millisecond), ReorderDelay: int64(5 * time.Millisecond)},
	}, 1)
	if err != nil {
		return nil, err
	}
	e := &pathEnd{r: r, w: w, mppe: encrypted, way: way, now: 1, calls: make([]pathCall, calls), sealer: mppe.New(multi.Best())}
	hop := &pathHop{linkHeader(r.out), r.out.Info().Index}
	for i := range e.calls {
		c := workers.NewCall(&workers.CallParams{
			Local: outsideAddr, Peer: peerAddr, CallID: uint16(i + 1), PeerCallID: uint16(i + 1), PeerKnown: true,
			GRE: w.GREConfig(), PeerWindow: 4096, TTL: 64, Hop: hop,
		})
		w.Add(c, nil)
		w.SetFraming(c, true, true, maxPathSize)
		if encrypted {
			in, out := mppe.Params{Bits: 128}, mppe.Params{Bits: 128}
			binary.BigEndian.PutUint32(in.Start[:], uint32(2*i+1))
			binary.BigEndian.PutUint32(out.Start[:], uint32(2*i+2))
			if err := e.calls[i].tx.Init(&in); err != nil {
				w.Close()
				return nil, err
			}
			w.SetEncryption(c, session.Required)
			w.OpenReceive(c, in)
			w.OpenTransmit(c, out)
		}
		w.NetworkUp(c, callAddr(i))
		e.calls[i].c, e.calls[i].addr = c, callAddr(i).As4()
	}
	for range rigBlock {
		e.bufs = append(e.bufs, make([]byte, 2*rings.Headroom+maxPathSize+rings.Tailroom))
	}
	w.Step(e.now) // the commands
	return e, nil
}

// side is the contender for a direction and size.
func (e *pathEnd) side(direction string, size int) *pathSide {
	s := &pathSide{
		row:  PathRow{IO: e.r.io, Size: size, Direction: direction, MPPE: e.mppe},
		step: func() (bool, error) { return e.w.Step(e.now), nil },
		took: func(d time.Duration) { e.now += int64(d) },
	}
	if e.mppe {
		s.row.Way = e.way.String()
	}
	of := pathSizes(size)
	if direction == Decap {
		s.by = e.r.far
		s.make = func(n int) error { return e.feedOutside(n, of) }
		s.sent = func() uint64 { return e.sum(func(st *session.Stats) uint64 { return st.RxPackets }) }
	} else {
		s.by = e.r.own
		s.make = func(n int) error { return e.feedInside(n, of) }
		s.sent = func() uint64 { return e.sum(func(st *session.Stats) uint64 { return st.TxPackets }) }
	}
	return s
}

// sum adds up a count of all calls.
func (e *pathEnd) sum(of func(*session.Stats) uint64) (n uint64) {
	for i := range e.calls {
		n += of(&e.calls[i].c.Stats)
	}
	return n
}

func (e *pathEnd) turnOf() (i int, c *pathCall) {
	i = e.next
	e.next = (e.next + 1) % len(e.calls)
	return i, &e.calls[i]
}

// feedInside sends packets for the calls to the inside port.
func (e *pathEnd) feedInside(n int, of func(int) int) error {
	for k := range n {
		i, c := e.turnOf()
		p := e.plain[:of(k)]
		grePacket(p, serverAddr.As4(), c.addr, uint16(i+1), uint32(k))
		if err := e.r.own.send(p); err != nil {
			return err
		}
	}
	return e.r.own.flush()
}

// feedOutside sends packets of the calls to the outside port.
func (e *pathEnd) feedOutside(n int, of func(int) int) error {
	greLen := wire.GRELen(true, false)
	e.jobs = e.jobs[:0]
	for k := range n {
		i, c := e.turnOf()
		b := e.bufs[k]
		p, size := b[wire.IPv4Len+greLen:], of(k)
		at := wire.PutPPP(p, wire.PPPIPv4, true, true)
		if e.mppe {
			at = wire.PutPPP(p, wire.PPPMPPE, true, true)
			sealed := p[at:]
			at += mppe.HeaderLen + wire.PutPPPProtocol(sealed[mppe.HeaderLen:], wire.PPPIPv4, false)
			e.jobs = append(e.jobs, mppe.TxJob{Tx: &c.tx, Data: sealed[:at-(len(p)-len(sealed))+size]})
		}
		grePacket(p[at:at+size], c.addr, serverAddr.As4(), 1, uint32(k))
		wire.PutIPv4(b, &wire.IPv4Fields{
			ID: uint16(c.seq), TTL: 64, Protocol: wire.ProtoGRE, Src: peerAddr.As4(), Dst: outsideAddr.As4(), PayloadLen: greLen + at + size,
		})
		wire.PutGRE(b[wire.IPv4Len:], uint16(i+1), at+size, c.seq, true, 0, false)
		c.seq++
	}
	e.sealer.Seal(e.jobs)
	for _, b := range e.bufs[:n] {
		if err := e.r.far.send(b[:wire.IPv4(b).TotalLen()]); err != nil {
			return err
		}
	}
	return e.r.far.flush()
}

// complain returns an error if the worker dropped packets. That a backend does not take some, now
// and then, is part of what is measured.
func (e *pathEnd) complain() error {
	st := e.w.State()
	sent := e.sum(func(s *session.Stats) uint64 { return s.RxPackets + s.TxPackets })
	for i, n := range st.Drops {
		d := engine.Drop(i)
		if n == 0 || d == engine.Pass || d == engine.GREAckOnly || d == engine.TxFull && n < sent/100 {
			continue
		}
		return fmt.Errorf("the worker dropped %d of %d packets: %v", n, sent, d)
	}
	return nil
}

// WritePath prints rows, in the order of Path, as a table for people.
func WritePath(out io.Writer, rows []PathRow) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "io\tsize\tdirection\tMPPE\tpackets/s\tns/packet\tof bare\tkernel, ns\t")
	trips := false
	for _, r := range rows {
		if r.P50 > 0 {
			trips = true
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%.0f\t%.0f\t%.2f\t%.0f\t\n", r.IO, sizeName(r.Size), r.Direction, r.wayName(), r.PPS, r.NsPerPacket, r.RatioBare, r.NsKernel)
	}
	if err := w.Flush(); err != nil || !trips {
		return err
	}
	fmt.Fprintln(w, "io\tsize\tround trip\tMPPE\tmedian ns\tof bare\t")
	for _, r := range rows {
		if r.P50 > 0 {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%.0f\t%.2f\t\n", r.IO, sizeName(r.Size), r.Direction, r.wayName(), r.P50, r.RatioBare)
		}
	}
	return w.Flush()
}

func (r *PathRow) wayName() string {
	if !r.MPPE {
		return "-"
	}
	return r.Way
}
