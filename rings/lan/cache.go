package lan

import (
	"encoding/binary"
	"net/netip"
	"time"

	"xpptp/rings/nexthop"
)

// cache remembers the ways to the destinations used last: sets of a few, in
// which a new one takes the place of one that is not in use. It has one owner.
type cache struct {
	hop  func(netip.Addr) *nexthop.Hop
	sets []set
	n    int // of ways asked for
	left int // that may be asked for till the second is over
	till time.Time
}

type set [4]struct {
	dst  netip.Addr
	hop  *nexthop.Hop
	used bool
}

const (
	setBits = 10 // 4096 destinations
	// asks is how many new destinations a second the kernel is asked for.
	// Whoever scans a network shall not keep it from its work: further ones
	// take the way through the kernel.
	asks = 2000
)

func (c *cache) init(hop func(netip.Addr) *nexthop.Hop) {
	c.hop, c.sets = hop, make([]set, 1<<setBits)
}

// to returns the way to dst as far as it is known; nil: not now.
func (c *cache) to(dst netip.Addr) *nexthop.Way {
	s := &c.sets[place(dst)]
	for i := range s {
		if e := &s[i]; e.dst == dst {
			e.used = true
			return e.hop.Load()
		}
	}
	return c.ask(s, dst)
}

// ask makes a way for dst in its set.
func (c *cache) ask(s *set, dst netip.Addr) *nexthop.Way {
	if c.left == 0 {
		now := time.Now()
		if now.Before(c.till) {
			return nil
		}
		c.left, c.till = asks, now.Add(time.Second)
	}
	c.left--
	c.n++
	victim := c.n % len(s)
	for i := range s {
		if !s[i].used {
			victim = i
		}
		s[i].used = false // till it is used again
	}
	e := &s[victim]
	if e.hop != nil {
		e.hop.Release()
	}
	e.dst, e.hop, e.used = dst, c.hop(dst), true
	return e.hop.Load()
}

func (c *cache) clear() {
	for i := range c.sets {
		for j := range c.sets[i] {
			if h := c.sets[i][j].hop; h != nil {
				h.Release()
			}
		}
	}
	clear(c.sets)
}

// place returns the number of dst's set.
func place(dst netip.Addr) uint64 {
	b := dst.As16()
	h := binary.LittleEndian.Uint64(b[:])*0x9e3779b97f4a7c15 ^ binary.LittleEndian.Uint64(b[8:])
	h *= 0x9e3779b97f4a7c15
	return h >> (64 - setBits)
}
