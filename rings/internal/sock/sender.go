package sock

import (
	"golang.org/x/sys/unix"

	"xpptp/rings"
	"xpptp/rings/internal/stat"
)

// Sender queues frames and transmits them with sendmmsg(2). It has one owner.
type Sender struct {
	fd    int
	batch *Batch
	pend  []*rings.Frame
	stats *stat.Counters

	// to, if set, returns the destination address of a packet.
	to func(p []byte) [4]byte
}

// NewSender returns a sender on fd for up to n frames at a time.
func NewSender(fd, n int, stats *stat.Counters) *Sender {
	return &Sender{fd: fd, batch: NewBatch(n), pend: make([]*rings.Frame, 0, n), stats: stats}
}

// NewSenderTo is NewSender with a destination address for each packet.
func NewSenderTo(fd, n int, stats *stat.Counters, to func(p []byte) [4]byte) *Sender {
	s := NewSender(fd, n, stats)
	s.batch, s.to = NewBatchTo(n), to
	return s
}

// Queue takes as many of fs as there is room for and returns how many. It
// flushes when it is full. A nil refused is as in Flush.
func (s *Sender) Queue(fs []*rings.Frame, refused func(*rings.Frame, unix.Errno) bool) (int, unix.Errno) {
	taken := 0
	for {
		n := min(len(fs)-taken, cap(s.pend)-len(s.pend))
		s.pend = append(s.pend, fs[taken:taken+n]...)
		taken += n
		if taken == len(fs) {
			return taken, 0
		}
		e := s.Flush(refused)
		if e != 0 || len(s.pend) == cap(s.pend) {
			s.stats.TxFull.Add(uint64(len(fs) - taken))
			return taken, e
		}
	}
}

// Flush transmits what is queued. A full socket buffer leaves the rest queued
// for the next time; a link that is down drops it; any other error drops the
// packet it concerns unless refused, if not nil, reports that it has dealt
// with it. ENXIO and ENODEV say that the device is gone and are returned; the
// frames are dropped then too.
func (s *Sender) Flush(refused func(*rings.Frame, unix.Errno) bool) unix.Errno {
	total := len(s.pend)
	if total == 0 {
		return 0
	}
	for i, f := range s.pend {
		s.batch.Set(i, f.Data())
		if s.to != nil {
			s.batch.SetTo(i, s.to(f.Data()))
		}
	}
	var gone unix.Errno
	sent, bytes, dropped, kicks := 0, 0, 0, 0
	at := 0
loop:
	for at < total {
		kicks++
		n, e := s.batch.Send(s.fd, at, total)
		for _, f := range s.pend[at : at+n] {
			bytes += f.Len()
			f.Free()
		}
		at, sent = at+n, sent+n
		switch e {
		case 0:
		case unix.EAGAIN:
			break loop
		case unix.ENXIO, unix.ENODEV, unix.ENETDOWN:
			if e != unix.ENETDOWN {
				gone = e
			}
			for ; at < total; at++ {
				s.pend[at].Free()
				dropped++
			}
		default:
			f := s.pend[at]
			if refused != nil && refused(f, e) {
				sent, bytes = sent+1, bytes+f.Len()
			} else {
				dropped++
			}
			f.Free()
			at++
		}
	}
	rest := copy(s.pend, s.pend[at:])
	clear(s.pend[rest:])
	s.pend = s.pend[:rest]
	s.stats.Kicks.Add(uint64(kicks))
	s.stats.Tx(sent, bytes)
	if dropped > 0 {
		s.stats.TxDropped.Add(uint64(dropped))
	}
	return gone
}

// Drop gives all queued frames back to their pools.
func (s *Sender) Drop() {
	for i, f := range s.pend {
		f.Free()
		s.pend[i] = nil
	}
	s.pend = s.pend[:0]
}
