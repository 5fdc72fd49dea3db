package bench

import (
	"bytes"
	_ "embed"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"xpptp/engine"
	"xpptp/engine/mppc"
	"xpptp/engine/mppe/multi"
)

// Directions of an MPPCRow.
const (
	Compress   = "compress"
	Decompress = "decompress"
)

// mppcBatch is how many packets follow one another, all of one call. Even the
// smallest must be more than the history holds: they come again.
const mppcBatch = 256

// MPPCRow is one measurement of compression. It runs in turns with MPPE and with
// a copy of the same packets, as the contenders of an MPPERow.
type MPPCRow struct {
	Size        int     `json:"size"`      // bytes per packet before compression; 0 for IMIX: 64, 576 and 1400 at 7:4:1
	Corpus      string  `json:"corpus"`    // what the packets carry
	Direction   string  `json:"direction"` // Compress or Decompress
	Ratio       float64 `json:"ratio"`     // bytes before by bytes after
	NsPerPacket float64 `json:"ns_per_packet"`
	MBPS        float64 `json:"mb_per_s"` // of what is not compressed, 10⁶ bytes
	NsMPPE      float64 `json:"ns_mppe"`  // per packet, of MPPE of 128 bits, stateless, on what is not compressed
	NsCopy      float64 `json:"ns_copy"`  // per packet, of a copy
	Way         string  `json:"way"`      // kernels of MPPE
}

// MPPCPlan says what to measure. Empty lists mean the usual ones.
type MPPCPlan struct {
	Corpora    []string
	Sizes      []int // 22 to 1700; 0 for IMIX
	Directions []string
	Way        multi.Way     // kernels of MPPE
	Time       time.Duration // per row
}

// Corpora are the names of what packets carry: text, zeros, random bytes, and
// "mixed", text in which every fourth packet is random.
func Corpora() []string { return []string{"text", "mixed", "zeros", "random"} }

// text is a text.
//
//go:embed mppe.go
var text string

// points lists what to measure.
func (p *MPPCPlan) points() (rows []MPPCRow) {
	for _, direction := range or(p.Directions, []string{Compress, Decompress}) {
		for _, size := range or(p.Sizes, []int{64, 0, 1400}) {
			for _, corpus := range or(p.Corpora, Corpora()) {
				rows = append(rows, MPPCRow{Size: size, Corpus: corpus, Direction: direction, Way: p.Way.String()})
			}
		}
	}
	return rows
}

// Rows is how many rows the plan makes.
func (p *MPPCPlan) Rows() int { return len(p.points()) }

// Check returns an error that names the first value that is out of range.
func (p *MPPCPlan) Check() error {
	for _, row := range p.points() {
		if !slices.Contains(Corpora(), row.Corpus) {
			return fmt.Errorf("bench mppc: corpus %q: want one of %s", row.Corpus, strings.Join(Corpora(), ", "))
		}
		if row.Direction != Compress && row.Direction != Decompress {
			return fmt.Errorf("bench mppc: direction %q: want %s or %s", row.Direction, Compress, Decompress)
		}
		if _, err := newMPPEWork(row.mppe()); err != nil {
			return fmt.Errorf("bench mppc: %w", err)
		}
	}
	return nil
}

// mppe is what MPPE does with the packets of the row.
func (r *MPPCRow) mppe() MPPERow {
	row := MPPERow{Size: r.Size, Sessions: "one", Bits: 128, Direction: Send, Batch: mppcBatch}
	if r.Direction == Decompress {
		row.Direction = Receive
	}
	return row
}

// MPPC runs the plan and hands every row to f as soon as it is measured. The
// error is Check's, or says which packets were not the same after decompression.
func MPPC(p MPPCPlan, f func(MPPCRow)) error {
	if err := p.Check(); err != nil {
		return err
	}
	if p.Time == 0 {
		p.Time = 100 * time.Millisecond
	}
	for _, row := range p.points() {
		if err := measureMPPC(&p, row, f); err != nil {
			return err
		}
	}
	return nil
}

func measureMPPC(p *MPPCPlan, row MPPCRow, f func(MPPCRow)) error {
	w, err := newMPPEWork(row.mppe())
	if err != nil {
		return fmt.Errorf("bench mppc: %w", err)
	}
	encrypt, err := w.side(p.Way)
	if err != nil {
		return err
	}
	if err := encrypt.check(); err != nil {
		return err
	}
	c := newMPPCWork(row.Corpus, w.sizes)
	in, out, err := c.check()
	if err != nil {
		return fmt.Errorf("bench mppc: %s: %w", row.Corpus, err)
	}
	run := mppeSide{run: c.compress}
	if row.Direction == Decompress {
		run.run = c.decompress
	}
	times := w.race([]mppeSide{run, encrypt, {run: c.copy}}, 3*p.Time)
	row.Ratio = float64(in) / float64(out)
	row.NsPerPacket, row.NsMPPE, row.NsCopy = times[0], times[1], times[2]
	row.MBPS = float64(in) / float64(len(w.sizes)) / row.NsPerPacket * 1e3
	f(row)
	return nil
}

// mppcWork is packets as they are and as they are sent, and a call's two ends.
type mppcWork struct {
	packets [][]byte
	sent    [][]byte
	bits    []mppc.Bits
	tx      mppc.Tx
	rx      mppc.Rx
	dst     [frameSize]byte
}

// newMPPCWork makes packets of these sizes, PPP protocol, IPv4 header and what
// the corpus has.
func newMPPCWork(corpus string, sizes []int) *mppcWork {
	c := new(mppcWork)
	r := rand.New(rand.NewPCG(1, 2))
	at := 0
	for i, size := range sizes {
		b := make([]byte, size)
		b[1] = 0x21
		ip, data := b[2:22], b[22:]
		ip[0], ip[8], ip[9] = 0x45, 64, 17
		binary.BigEndian.PutUint16(ip[2:], uint16(size-2))
		binary.BigEndian.PutUint16(ip[4:], uint16(i))
		binary.BigEndian.PutUint64(ip[12:], 0x0a000001_0a000002)
		switch {
		case corpus == "random" || corpus == "mixed" && i%4 == 3:
			for k := range data {
				data[k] = byte(r.Uint32())
			}
		case corpus != "zeros":
			for n := 0; n < len(data); {
				k := copy(data[n:], text[at:])
				n, at = n+k, (at+k)%len(text)
			}
		}
		c.packets = append(c.packets, b)
	}
	return c
}

// check sends all packets, keeps what is sent, and returns the sums of lengths
// before and after.
func (c *mppcWork) check() (in, out int, err error) {
	for i, p := range c.packets {
		b, bits := c.tx.Compress(c.dst[:], p)
		in, out = in+len(p), out+len(b)
		c.sent, c.bits = append(c.sent, bytes.Clone(b)), append(c.bits, bits)
		got, d := c.rx.Decompress(make([]byte, len(p)), b, bits)
		if d != engine.Pass || !bytes.Equal(got, p) {
			return 0, 0, fmt.Errorf("packet %d of %d: %v, and not the same", i, len(c.packets), d)
		}
		c.rx.Commit(got, bits)
	}
	return in, out, nil
}

func (c *mppcWork) compress(int) {
	for _, p := range c.packets {
		c.tx.Compress(c.dst[:], p)
	}
}

// decompress does what check sent. The first compressed packet is flushed, so it
// can come again.
func (c *mppcWork) decompress(int) {
	for i, b := range c.sent {
		if p, d := c.rx.Decompress(c.dst[:], b, c.bits[i]); d == engine.Pass {
			c.rx.Commit(p, c.bits[i])
		}
	}
}

func (c *mppcWork) copy(int) {
	for _, p := range c.packets {
		copy(c.dst[:], p)
	}
}

// WriteMPPC prints rows for people: a table for each direction, with a line for
// each packet size and corpus. Rows come in the order of MPPC.
func WriteMPPC(out io.Writer, rows []MPPCRow) error {
	for len(rows) > 0 {
		first := rows[0]
		n := slices.IndexFunc(rows, func(r MPPCRow) bool { return r.Direction != first.Direction })
		if n < 0 {
			n = len(rows)
		}
		fmt.Fprintf(out, "%s, one call: ns a packet, beside MPPE with %s and a copy of the same packets\n", first.Direction, first.Way)
		w := tabwriter.NewWriter(out, 0, 8, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(w, "packets\tof\tratio\tns\tMB/s\tMPPE, ns\tcopy, ns\t")
		for _, r := range rows[:n] {
			fmt.Fprintf(w, "%s\t%s\t%.2f\t%.0f\t%.0f\t%.0f\t%.0f\t\n", sizeName(r.Size), r.Corpus, r.Ratio, r.NsPerPacket, r.MBPS, r.NsMPPE, r.NsCopy)
		}
		if err := w.Flush(); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(out); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}
