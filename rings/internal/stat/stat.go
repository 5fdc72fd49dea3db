// Package stat holds the counters that every port has.
package stat

import (
	"sync/atomic"

	"xpptp/rings"
)

// Counters are a port's statistics: its owner counts, once per burst, and
// anyone may read. The zero value is ready to use.
type Counters struct {
	RxPackets, RxBytes atomic.Uint64
	TxPackets, TxBytes atomic.Uint64
	RxDropped          atomic.Uint64
	RxNoFrame          atomic.Uint64
	RxTruncated        atomic.Uint64
	TxDropped          atomic.Uint64
	TxFull             atomic.Uint64
	Kicks, Copies      atomic.Uint64
}

// Rx counts n frames received.
func (c *Counters) Rx(n, bytes int) {
	if n > 0 {
		c.RxPackets.Add(uint64(n))
		c.RxBytes.Add(uint64(bytes))
	}
}

// Tx counts n frames sent.
func (c *Counters) Tx(n, bytes int) {
	if n > 0 {
		c.TxPackets.Add(uint64(n))
		c.TxBytes.Add(uint64(bytes))
	}
}

// Stats returns a copy. The counters are read one after the other: those of
// a burst under way may be in part.
func (c *Counters) Stats() rings.Stats {
	return rings.Stats{
		RxPackets: c.RxPackets.Load(), RxBytes: c.RxBytes.Load(),
		TxPackets: c.TxPackets.Load(), TxBytes: c.TxBytes.Load(),
		RxDropped:   c.RxDropped.Load(),
		RxNoFrame:   c.RxNoFrame.Load(),
		RxTruncated: c.RxTruncated.Load(),
		TxDropped:   c.TxDropped.Load(),
		TxFull:      c.TxFull.Load(),
		Kicks:       c.Kicks.Load(), Copies: c.Copies.Load(),
	}
}
