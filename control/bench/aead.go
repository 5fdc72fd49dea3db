package bench

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"xpptp/engine"
	"xpptp/engine/aead"
	"xpptp/engine/mppe/multi"
)

// MPPE128 is the name among ciphers of what the others are compared with: MPPE of 128 bits, stateless.
const MPPE128 = "mppe-128"

// AEADRow is one measurement of how calls between two xpptp are protected. The ciphers and MPPE run
// in turns, as those of an MPPERow, on a batch with a packet for each of many sessions.
type AEADRow struct {
	Size        int     `json:"size"`      // bytes encrypted per packet; 0 for IMIX: 64, 576 and 1400 at 7:4:1
	Cipher      string  `json:"cipher"`    // a suite of package aead, or MPPE128
	Direction   string  `json:"direction"` // Send or Receive
	Batch       int     `json:"batch"`
	NsPerPacket float64 `json:"ns_per_packet"`
	BPS         float64 `json:"bps"`        // bits of what is encrypted, a second
	RatioMPPE   float64 `json:"ratio_mppe"` // times as fast as MPPE128
	Way         string  `json:"way"`        // kernels of MPPE
}

// AEADPlan says what to measure. Empty lists mean the usual ones.
type AEADPlan struct {
	Suites     []aead.Suite
	Sizes      []int // 22 to 1700; 0 for IMIX
	Directions []string
	Batch      int           // at most 256; 128 if 0
	Way        multi.Way     // kernels of MPPE
	Time       time.Duration // per row
}

func (p *AEADPlan) suites() []aead.Suite { return or(p.Suites, aead.Suites()) }

// points lists what all ciphers do.
func (p *AEADPlan) points() (rows []MPPERow) {
	batch := p.Batch
	if batch == 0 {
		batch = 128
	}
	for _, direction := range or(p.Directions, []string{Send, Receive}) {
		for _, size := range or(p.Sizes, []int{64, 0, 1400}) {
			rows = append(rows, MPPERow{Size: size, Sessions: "many", Bits: 128, Direction: direction, Batch: batch})
		}
	}
	return rows
}

// Rows is how many rows the plan makes.
func (p *AEADPlan) Rows() int { return len(p.points()) * (len(p.suites()) + 1) }

// Check returns an error that names the first value that is out of range.
func (p *AEADPlan) Check() error {
	for _, row := range p.points() {
		if row.Direction != Send && row.Direction != Receive {
			return fmt.Errorf("bench aead: direction %q: want %s or %s", row.Direction, Send, Receive)
		}
		if _, err := newMPPEWork(row); err != nil {
			return fmt.Errorf("bench aead: %w", err)
		}
	}
	return nil
}

// AEAD runs the plan and hands every row to f as soon as it is measured, MPPE first. The error is
// Check's, or says which cipher did not open what it had sealed.
func AEAD(p AEADPlan, f func(AEADRow)) error {
	if err := p.Check(); err != nil {
		return err
	}
	if p.Time == 0 {
		p.Time = 100 * time.Millisecond
	}
	for _, point := range p.points() {
		if err := measureAEAD(&p, point, f); err != nil {
			return err
		}
	}
	return nil
}

func measureAEAD(p *AEADPlan, point MPPERow, f func(AEADRow)) error {
	w, err := newMPPEWork(point)
	if err != nil {
		return fmt.Errorf("bench aead: %w", err)
	}
	side, err := w.side(p.Way)
	if err != nil {
		return err
	}
	names, sides := []string{MPPE128}, []mppeSide{side}
	for _, suite := range p.suites() {
		if side, err = w.aeadSide(suite); err != nil {
			return err
		}
		names, sides = append(names, suite.String()), append(sides, side)
	}
	for _, s := range sides {
		if err := s.check(); err != nil {
			return err
		}
	}
	total := 0
	for _, n := range w.sizes {
		total += n
	}
	times := w.race(sides, p.Time*time.Duration(len(sides)))
	for i, ns := range times {
		f(AEADRow{
			Size: point.Size, Cipher: names[i], Direction: point.Direction, Batch: point.Batch, NsPerPacket: ns,
			BPS: float64(8*total) / float64(len(w.sizes)) / ns * 1e9, RatioMPPE: times[0] / ns, Way: p.Way.String(),
		})
	}
	return nil
}

// aeadSide is the contender for a suite.
func (w *mppeWork) aeadSide(suite aead.Suite) (mppeSide, error) {
	e, batch := aead.New(), w.row.Batch
	frames, restore := w.frames(aead.HeaderLen, aead.TagLen)
	n := len(w.starts)
	txs, rxs := make([]aead.Tx, n), make([]aead.Rx, n)
	for i, start := range w.starts {
		p := aead.Params{Suite: suite, Master: bytes.Repeat(start[:], 2), Role: aead.Client}
		if err := txs[i].Init(&p); err != nil {
			return mppeSide{}, fmt.Errorf("bench aead: %w", err)
		}
		p.Role = aead.Server
		if err := rxs[i].Init(&p); err != nil {
			return mppeSide{}, fmt.Errorf("bench aead: %w", err)
		}
	}
	seal, open := make([]aead.TxJob, len(frames)), make([]aead.RxJob, len(frames))
	for i, b := range frames {
		seal[i] = aead.TxJob{Tx: &txs[i%batch%n], Data: b}
		open[i] = aead.RxJob{Rx: &rxs[i%batch%n], Data: b}
	}
	s := mppeSide{run: func(k int) { e.Seal(set(seal, k, batch)) }}
	if w.row.Direction == Receive {
		s = mppeSide{
			prepare: func(k int) { restore(k); e.Seal(set(seal, k, batch)) },
			run:     func(k int) { e.Open(0, set(open, k, batch)) },
		}
	}
	s.check = func() error {
		for k := range w.sets {
			restore(k)
		}
		e.Seal(seal)
		e.Open(0, open)
		for i := range open {
			if open[i].Drop != engine.Pass {
				return fmt.Errorf("bench aead: %v: packet %d of %d: %v", suite, i, len(open), open[i].Drop)
			}
		}
		return nil
	}
	return s, nil
}

// WriteAEAD prints rows for people: a table for each direction, with a line for each cipher and
// columns for each packet size. Rows come in the order of AEAD.
func WriteAEAD(out io.Writer, rows []AEADRow) error {
	for len(rows) > 0 {
		first := rows[0]
		n := slices.IndexFunc(rows, func(r AEADRow) bool { return r.Direction != first.Direction })
		if n < 0 {
			n = len(rows)
		}
		if err := writeAEAD(out, rows[:n]); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

func writeAEAD(out io.Writer, rows []AEADRow) error {
	fmt.Fprintf(out, "%s, %d packets at once: ns a packet, Gbit/s (times as fast as MPPE with %s)\n", rows[0].Direction, rows[0].Batch, rows[0].Way)
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', tabwriter.AlignRight)
	var ciphers []string
	fmt.Fprint(w, "cipher\t")
	for _, r := range rows {
		if !slices.Contains(ciphers, r.Cipher) {
			ciphers = append(ciphers, r.Cipher)
		}
		if r.Cipher == ciphers[0] {
			fmt.Fprintf(w, "%s\tGbit/s\t\t", sizeName(r.Size))
		}
	}
	fmt.Fprintln(w)
	for _, c := range ciphers {
		fmt.Fprintf(w, "%s\t", c)
		for _, r := range rows {
			if r.Cipher == c {
				fmt.Fprintf(w, "%.0f\t%.2f\t(%.2f)\t", r.NsPerPacket, r.BPS/1e9, r.RatioMPPE)
			}
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(out)
	return err
}
