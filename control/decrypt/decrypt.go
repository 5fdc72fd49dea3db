// Package decrypt opens recorded PPTP sessions: it reads a capture file,
// finds the calls in it, says in words what their ends negotiated, derives the
// keys from the recorded authentication and the users' secrets, and decrypts
// both directions.
//
// The file is read twice. The first pass collects what is needed to
// understand the second: control connections, which GRE flows make a call,
// authentication and agreed options, so packets may come in any order. The
// second puts each flow in the order of its sequence numbers, opens what is
// encrypted and writes the result, in the order of the capture. Memory does
// not depend on the size of the file.
//
// Nobody has to be believed: a packet counts as decrypted only if what comes
// out makes sense, and whatever does not fit is counted, not fatal.
package decrypt

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"xpptp/control/aaa"
)

// Options of Run.
type Options struct {
	// Secrets of the users that may appear. Nil: nothing is decrypted.
	Secrets *aaa.Secrets
	// Out receives a pcapng file with all PPP frames, decrypted where possible,
	// and the control connections; nil for none.
	Out io.Writer
	// Version of this program, for Out.
	Version string
}

// Run opens the capture file in, pcap or pcapng, which is read twice from its
// start. It returns a report on what could be read even if the error, a
// *FormatError for a damaged file, is not nil; without a report the file could
// not be read at all. Errors of Out are returned as they are.
func Run(in io.ReadSeeker, o Options) (*Report, error) {
	if o.Secrets == nil {
		o.Secrets, _ = aaa.Parse("", nil) // no text, no error
	}
	fs, controls := newFlows(), newControls()
	src, err := scan(in, func(d *datagram) {
		if d.proto != 6 {
			fs.observe(d)
		} else if isControl(d.payload) {
			controls.segment(d)
		}
	})
	if src == nil {
		return nil, err
	}
	calls := pair(fs, controls)
	ps := &pass{
		tools: newTools(), fs: fs, links: map[uint32]int{}, ports: map[*call]int{},
		sides: make([]*side, len(fs.all)),
	}
	report := newReport(src, fs, controls)
	for _, cl := range calls {
		c, exchanges := newCall(cl, o.Secrets)
		report.Calls = append(report.Calls, c)
		var keys []keyPair
		for _, x := range exchanges {
			keys = append(keys, x.keys...)
		}
		for i, f := range cl.flows {
			if f != nil {
				ps.sides[f.number] = &side{
					flow: f, toServer: i == 0, keys: keys[max(0, len(keys)-8):], left: workBudget,
					count: []*Counts{&c.ToServer, &c.ToClient}[i],
					next:  f.firstSeq, high: f.firstSeq, held: map[uint32]*slot{},
				}
			}
		}
	}
	if o.Out != nil {
		ps.ng = newNGWriter(o.Out, "xpptp "+o.Version)
	}
	// The second pass meets the same damage, if any, at the same place.
	if _, err2 := scan(in, ps.take); err2 != nil && err == nil {
		return nil, fmt.Errorf("the file changed while it was read: %w", err2)
	}
	ps.finish()
	for i, cl := range calls {
		report.Calls[i].finish(cl, ps.sides)
	}
	if ps.ng != nil {
		if werr := ps.ng.flush(); werr != nil {
			return report, werr
		}
	}
	if err == nil && src.number > 0 && len(src.other) > 0 && len(calls) == 0 {
		types := make([]uint32, 0, len(src.other))
		for t := range src.other {
			types = append(types, t)
		}
		slices.Sort(types)
		err = fmt.Errorf("capture file: link types %v are not known: want Ethernet, raw IP, Linux cooked or loopback", types)
	}
	return report, err
}

// scan calls f for every TCP and GRE packet of the file, from its start. The
// source is nil if not even the header could be read.
func scan(in io.ReadSeeker, f func(*datagram)) (*source, error) {
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("the capture is read twice, and so must be a file: %w", err)
	}
	r, err := newReader(in)
	if err != nil {
		return nil, err
	}
	src := newSource(r)
	for {
		d, err := src.nextDatagram()
		if errors.Is(err, io.EOF) {
			return src, nil
		}
		if err != nil {
			return src, err
		}
		f(&d)
	}
}
