// Package bench measures the parts of xpptp on the machine it runs on. Figures that count are
// ratios taken in one run.
package bench

import (
	"crypto/rc4"
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"xpptp/engine"
	"xpptp/engine/mppe"
	"xpptp/engine/mppe/multi"
)

// Directions of an MPPERow.
const (
	Send    = "send"    // mppe.Engine.Seal
	Receive = "receive" // mppe.Engine.Open, with its checks of what was decrypted
	Kernel  = "kernel"  // multi.Cipher.Crypt alone: the same for both directions
)

// MPPERow is one measurement. The contenders, and crypto/rc4 with crypto/sha1 one packet at a time,
// run in turns, many times. A time is the one that a tenth of the runs keep below: what else the
// machine does makes runs longer, and a little of it should not matter.
type MPPERow struct {
	Size        int     `json:"size"`     // bytes encrypted per packet; 0 for IMIX: 64, 576 and 1400 at 7:4:1
	Sessions    string  `json:"sessions"` // "many": one per packet of the batch; "one"; "five"
	Stateful    bool    `json:"stateful"`
	Bits        int     `json:"bits"` // 40, 56 or 128
	Direction   string  `json:"direction"`
	Way         string  `json:"way"`
	Batch       int     `json:"batch"`
	NsPerPacket float64 `json:"ns_per_packet"`
	NsGo        float64 `json:"ns_go"`    // per packet, of crypto/rc4 and crypto/sha1
	RatioGo     float64 `json:"ratio_go"` // NsGo / NsPerPacket
	Ahead       bool    `json:"ahead"`    // the keys were computed ahead of time and that is not in the time
}

// Mode is how keys come about.
type Mode uint8

// The modes. Ahead is measured with one session only: with many, keys are no bottleneck of their own.
const (
	Stateless Mode = iota
	Ahead          // stateless, the keys computed ahead of time
	Stateful
	numModes
)

var modeNames = [numModes]string{"stateless", "ahead", "stateful"}

// ParseMode is the mode of that name.
func ParseMode(name string) (Mode, error) {
	i := slices.Index(modeNames[:], name)
	if i < 0 {
		return 0, fmt.Errorf("%q is none of %s", name, strings.Join(modeNames[:], ", "))
	}
	return Mode(i), nil
}

// MPPEPlan says what to measure. Empty lists mean the usual ones.
type MPPEPlan struct {
	Ways       []multi.Way
	Sizes      []int // at least 22: PPP protocol and IPv4 header; 0 for IMIX
	Batches    []int // at most 256
	Sessions   []string
	Modes      []Mode
	Bits       []int
	Directions []string
	Time       time.Duration // per row
}

func or[T any](given, usual []T) []T {
	if len(given) == 0 {
		return usual
	}
	return given
}

var imix = [12]int{64, 64, 576, 64, 576, 64, 64, 1400, 576, 64, 576, 64}

// points lists what to measure with every way.
func (p *MPPEPlan) points() (rows []MPPERow) {
	for _, direction := range or(p.Directions, []string{Send, Receive}) {
		for _, mode := range or(p.Modes, []Mode{Stateless, Ahead, Stateful}) {
			for _, sessions := range or(p.Sessions, []string{"many", "one"}) {
				if mode == Ahead && sessions != "one" {
					continue
				}
				for _, bits := range or(p.Bits, []int{128}) {
					for _, batch := range or(p.Batches, []int{1, 2, 4, 8, 16, 32, 64, 128, 256}) {
						for _, size := range or(p.Sizes, []int{64, 256, 576, 1400, 0}) {
							rows = append(rows, MPPERow{
								Size: size, Sessions: sessions, Stateful: mode == Stateful, Bits: bits,
								Direction: direction, Batch: batch, Ahead: mode == Ahead,
							})
						}
					}
				}
			}
		}
	}
	return rows
}

func (p *MPPEPlan) ways() []multi.Way { return or(p.Ways, multi.Ways()) }

// Rows is how many rows the plan makes.
func (p *MPPEPlan) Rows() int { return len(p.points()) * len(p.ways()) }

// Check returns an error that names the first value that is out of range.
func (p *MPPEPlan) Check() error {
	for _, row := range p.points() {
		if _, err := newMPPEWork(row); err != nil {
			return fmt.Errorf("bench mppe: %w", err)
		}
	}
	return nil
}

// MPPE runs the plan and hands every row to f as soon as it is measured. The error is Check's, or
// says which kernel did not decrypt what it had encrypted.
func MPPE(p MPPEPlan, f func(MPPERow)) error {
	if err := p.Check(); err != nil {
		return err
	}
	if p.Time == 0 {
		p.Time = 100 * time.Millisecond
	}
	for _, row := range p.points() {
		if err := measureMPPE(&p, row, f); err != nil {
			return err
		}
	}
	return nil
}

// minRounds is how often contenders run at least: some rounds are interrupted.
const minRounds = 15

func measureMPPE(p *MPPEPlan, row MPPERow, f func(MPPERow)) error {
	ways := p.ways()
	w, err := newMPPEWork(row)
	if err != nil {
		return fmt.Errorf("bench mppe: %w", err)
	}
	sides := []mppeSide{w.std()}
	for _, way := range ways {
		s, err := w.side(way)
		if err != nil {
			return err
		}
		sides = append(sides, s)
	}
	for _, s := range sides {
		if err := s.check(); err != nil {
			return err
		}
	}
	times := w.race(sides, p.Time*time.Duration(len(ways)))
	row.NsGo = times[0]
	for i, way := range ways {
		row.Way, row.NsPerPacket = way.String(), times[i+1]
		row.RatioGo = row.NsGo / row.NsPerPacket
		f(row)
	}
	return nil
}

// race runs the contenders in turns for about d, and returns of each the time per packet in ns that
// a tenth of its runs keep below.
func (w *mppeWork) race(sides []mppeSide, d time.Duration) []float64 {
	runs := make([][]float64, len(sides))
	batches := (max(1, 64/w.row.Batch) + w.sets - 1) / w.sets * w.sets // long enough for the clock
	// The clock takes as long as a small packet: without anything to prepare it is read once a round.
	each := slices.ContainsFunc(sides, func(s mppeSide) bool { return s.prepare != nil })
	end := time.Now().Add(d)
	for n := 0; n < minRounds || time.Now().Before(end); n++ {
		for i, s := range sides {
			var ns time.Duration
			if each {
				ns = s.timeEach(batches, w.sets)
			} else {
				start := time.Now()
				for k := range batches {
					s.run(k % w.sets)
				}
				ns = time.Since(start)
			}
			runs[i] = append(runs[i], float64(ns.Nanoseconds())/float64(w.row.Batch*batches))
		}
	}
	times := make([]float64, len(sides))
	for i, ns := range runs {
		slices.Sort(ns)
		times[i] = ns[len(ns)/10]
	}
	return times
}

// timeEach runs batches, each prepared first, and returns what the runs took.
func (s *mppeSide) timeEach(batches, sets int) (ns time.Duration) {
	for k := range batches {
		if s.prepare != nil {
			s.prepare(k % sets)
		}
		start := time.Now()
		s.run(k % sets)
		ns += time.Since(start)
	}
	return ns
}

// mppeSide is one contender. Its functions are for one batch out of mppeWork.sets.
type mppeSide struct {
	prepare func(set int) // not timed; may be nil
	run     func(set int)
	check   func() error // runs once and looks at the result
}

// mppeWork is the frames and keys of a row.
type mppeWork struct {
	row    MPPERow
	starts [][16]byte
	sizes  []int // of the packets of all sets
	sets   int   // batches of IMIX that are smaller than the mix make it together
}

func newMPPEWork(row MPPERow) (*mppeWork, error) {
	if row.Batch < 1 || row.Batch > 256 {
		return nil, fmt.Errorf("batch %d: want 1 to 256", row.Batch)
	}
	if row.Size != 0 && (row.Size < 22 || row.Size > 1700) {
		return nil, fmt.Errorf("size %d: want 0 or 22 to 1700", row.Size)
	}
	w := &mppeWork{row: row}
	n, ok := map[string]int{"one": 1, "five": 5, "many": row.Batch}[row.Sessions]
	if !ok {
		return nil, fmt.Errorf("sessions %q: want one, five or many", row.Sessions)
	}
	switch row.Bits {
	case 40, 56, 128:
	default:
		return nil, fmt.Errorf("%d bits: want 40, 56 or 128", row.Bits)
	}
	switch row.Direction {
	case Send, Receive, Kernel:
	default:
		return nil, fmt.Errorf("direction %q: want %s, %s or %s", row.Direction, Send, Receive, Kernel)
	}
	r := rand.New(rand.NewPCG(1, 2))
	w.starts = make([][16]byte, n)
	for i := range w.starts {
		for k := range w.starts[i] {
			w.starts[i][k] = byte(r.Uint32())
		}
	}
	w.sets = 1
	for row.Size == 0 && row.Batch < 64 && row.Batch*w.sets%len(imix) != 0 {
		w.sets++
	}
	for i := range row.Batch * w.sets {
		size := row.Size
		if size == 0 {
			size = imix[i%len(imix)]
		}
		w.sizes = append(w.sizes, size)
	}
	return w, nil
}

// Frames stand as in a UMEM.
const (
	frameSize = 2048
	headroom  = 128
)

// frames returns frames that hold PPP protocol and an IPv4 packet each, with header and trailer bytes
// of room around them, and a function that puts that back in those of a set.
func (w *mppeWork) frames(header, trailer int) (frames [][]byte, restore func(set int)) {
	mem := make([]byte, frameSize*len(w.sizes))
	for i, size := range w.sizes {
		b := mem[frameSize*i+headroom:][: header+size+trailer : frameSize-headroom]
		p := b[header : header+size]
		p[1] = 0x21
		ip := p[2:]
		ip[0] = 0x45
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
		ip[8], ip[9] = 64, 17
		var sum uint32
		for k := 0; k < 20; k += 2 {
			sum += uint32(binary.BigEndian.Uint16(ip[k:]))
		}
		binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
		frames = append(frames, b)
	}
	plain := slices.Clone(mem)
	return frames, func(set int) {
		at := set * w.row.Batch * frameSize
		copy(mem[at:at+w.row.Batch*frameSize], plain[at:])
	}
}

// set returns the jobs of a set.
func set[T any](jobs []T, n, batch int) []T { return jobs[n*batch : (n+1)*batch] }

func (w *mppeWork) params(i int) *mppe.Params {
	return &mppe.Params{Bits: w.row.Bits, Stateful: w.row.Stateful, Start: w.starts[i]}
}

// chain is the key state of session i, as RFC 3079 §3.3 begins it but for the first change: that is
// of no matter here.
func (w *mppeWork) chain(i int) multi.KeyState {
	k := multi.KeyState{Start: w.starts[i], Session: w.starts[i], Len: 16}
	switch w.row.Bits {
	case 40:
		k.Len, k.Salt = 8, 3
	case 56:
		k.Len, k.Salt = 8, 1
	}
	return k
}

func (w *mppeWork) side(way multi.Way) (mppeSide, error) {
	if w.row.Direction == Kernel {
		return w.kernel(way), nil
	}
	e, sealer, batch := mppe.New(way), mppe.New(way), w.row.Batch
	frames, restore := w.frames(mppe.HeaderLen, 0)
	n := len(w.starts)
	txs, rxs := make([]mppe.Tx, n), make([]mppe.Rx, n)
	for i := range n {
		if err := txs[i].Init(w.params(i)); err != nil {
			return mppeSide{}, fmt.Errorf("bench mppe: %w", err)
		}
		if err := rxs[i].Init(w.params(i)); err != nil {
			return mppeSide{}, fmt.Errorf("bench mppe: %w", err)
		}
	}
	seal, open := make([]mppe.TxJob, len(frames)), make([]mppe.RxJob, len(frames))
	for i, b := range frames {
		seal[i] = mppe.TxJob{Tx: &txs[i%batch%n], Data: b}
		open[i] = mppe.RxJob{Rx: &rxs[i%batch%n], Data: b}
	}
	var ahead func(int)
	if w.row.Ahead {
		e.Reserve(n, (batch+n-1)/n)
		ahead = func(int) { e.Ahead(math.MaxInt) }
	}
	now := int64(0)
	s := mppeSide{prepare: ahead, run: func(k int) { e.Seal(set(seal, k, batch)) }}
	if w.row.Direction == Receive {
		s = mppeSide{
			prepare: func(k int) {
				restore(k)
				sealer.Seal(set(seal, k, batch))
				if ahead != nil {
					ahead(k)
				}
			},
			run: func(k int) { now += int64(time.Millisecond); e.Open(now, set(open, k, batch)) },
		}
	}
	s.check = func() error {
		for k := range w.sets {
			restore(k)
		}
		if w.row.Direction == Receive {
			sealer.Seal(seal)
		} else {
			e.Seal(seal)
		}
		e.Open(now, open)
		for i := range open {
			if open[i].Drop != engine.Pass {
				return fmt.Errorf("bench mppe: way %v: packet %d of %d: %v", way, i, len(open), open[i].Drop)
			}
		}
		return nil
	}
	return s, nil
}

func (w *mppeWork) kernel(way multi.Way) mppeSide {
	c := multi.New(way)
	frames, _ := w.frames(mppe.HeaderLen, 0)
	n := len(w.starts)
	chains, streams, keys := make([]multi.KeyState, n), make([]multi.Stream, n), make([]*multi.KeyState, n)
	for i := range n {
		chains[i] = w.chain(i)
		keys[i] = &chains[i]
		streams[i].Init(chains[i].Session[:chains[i].Len])
	}
	units, batch := make([]multi.Unit, len(frames)), w.row.Batch
	for i, b := range frames {
		units[i] = multi.Unit{Steps: 1, Data: b[mppe.HeaderLen:]}
		if w.row.Stateful {
			units[i].Stream = &streams[i%batch%n]
		} else {
			units[i].Key = keys[i%batch%n]
		}
	}
	s := mppeSide{run: func(k int) { c.Crypt(set(units, k, batch)) }, check: func() error { c.Crypt(units); return nil }}
	if w.row.Ahead {
		c.Reserve(n, (batch+n-1)/n)
		s.prepare = func(int) { c.Ahead(keys, math.MaxInt) }
	}
	return s
}

// std is the standard library's side: one packet after the other.
func (w *mppeWork) std() mppeSide {
	frames, _ := w.frames(mppe.HeaderLen, 0)
	n := len(w.starts)
	sessions := make([]stdSession, n)
	for i := range sessions {
		k := w.chain(i)
		sessions[i].key = k
		if w.row.Stateful {
			sessions[i].stream = mustRC4(k.Session[:k.Len])
		}
	}
	run := func(k int) {
		for i, b := range set(frames, k, w.row.Batch) {
			sessions[i%n].crypt(b[mppe.HeaderLen:])
		}
	}
	return mppeSide{run: run, check: func() error { run(0); return nil }}
}

// stdSession is a session as the standard library would do it.
type stdSession struct {
	key    multi.KeyState
	msg    [112]byte
	stream *rc4.Cipher
}

func (s *stdSession) crypt(b []byte) {
	if s.stream != nil {
		s.stream.XORKeyStream(b, b)
		return
	}
	k := &s.key
	n := int(k.Len)
	m := s.msg[:80+2*n]
	clear(m)
	copy(m, k.Start[:n])
	copy(m[n+40:], k.Session[:n])
	for i := 2*n + 40; i < len(m); i++ {
		m[i] = 0xF2
	}
	d := sha1.Sum(m)
	mustRC4(d[:n]).XORKeyStream(k.Session[:n], d[:n])
	copy(k.Session[:k.Salt], []byte{0xD1, 0x26, 0x9E})
	mustRC4(k.Session[:n]).XORKeyStream(b, b)
}

// mustRC4 is for keys of 8 and 16 bytes, which crypto/rc4 takes.
func mustRC4(key []byte) *rc4.Cipher {
	c, err := rc4.NewCipher(key)
	if err != nil {
		panic(err)
	}
	return c
}

// MPPETable prints rows for people: a table for each direction, mode, number of sessions and key
// length, as soon as it is complete, with a line for each batch size and way and a column for each
// packet size. Rows come in the order of MPPE.
type MPPETable struct {
	W    io.Writer
	rows []MPPERow
}

// Starts tells whether r begins another table, so that Add prints the one before.
func (t *MPPETable) Starts(r MPPERow) bool { return len(t.rows) > 0 && t.rows[0].table() != r.table() }

// Add takes a row.
func (t *MPPETable) Add(r MPPERow) {
	if t.Starts(r) {
		t.End()
	}
	t.rows = append(t.rows, r)
}

// table is the heading of the table that the row stands in.
func (r MPPERow) table() string {
	mode := "stateless"
	switch {
	case r.Stateful:
		mode = "stateful"
	case r.Ahead:
		mode = "stateless, keys ahead"
	}
	return fmt.Sprintf("%s, sessions: %s, %s, %d bits", r.Direction, r.Sessions, mode, r.Bits)
}

// End prints what has not been printed.
func (t *MPPETable) End() {
	if len(t.rows) == 0 {
		return
	}
	type line struct {
		batch int
		way   string
	}
	type column struct{ batch, size int }
	var sizes []int
	var lines []line
	cells, best := map[line]map[int]MPPERow{}, map[column]float64{}
	for _, r := range t.rows {
		l, c := line{r.Batch, r.Way}, column{r.Batch, r.Size}
		if cells[l] == nil {
			cells[l] = map[int]MPPERow{}
			lines = append(lines, l)
		}
		if !slices.Contains(sizes, r.Size) {
			sizes = append(sizes, r.Size)
		}
		cells[l][r.Size] = r
		best[c] = max(best[c], r.RatioGo)
	}
	fmt.Fprintf(t.W, "%s: ns a packet (times as fast as crypto/rc4); * fastest\n", t.rows[0].table())
	w := tabwriter.NewWriter(t.W, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "batch\tway\t")
	for _, s := range sizes {
		fmt.Fprintf(w, "%s\t", sizeName(s))
	}
	fmt.Fprintln(w)
	for _, l := range lines {
		fmt.Fprintf(w, "%d\t%s\t", l.batch, l.way)
		for _, s := range sizes {
			r, mark := cells[l][s], " "
			if r.RatioGo == best[column{l.batch, s}] {
				mark = "*"
			}
			fmt.Fprintf(w, "%.0f (%.2f)%s\t", r.NsPerPacket, r.RatioGo, mark)
		}
		fmt.Fprintln(w)
	}
	_ = w.Flush() // an error of W comes again
	fmt.Fprintln(t.W)
	t.rows = t.rows[:0]
}

func sizeName(size int) string {
	if size == 0 {
		return "IMIX"
	}
	return fmt.Sprintf("%d B", size)
}
