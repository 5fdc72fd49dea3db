// Package pool hands out client addresses.
//
// A pool is one set of IPv4 ranges. No address is given twice before it was
// returned. Addresses are given in rising order and round again, so a returned
// address rests for as long as the pool can afford. A pool of any size costs
// about one bit an address and every operation looks at a handful of words.
//
// A Pool may be used by several goroutines.
package pool

import (
	"errors"
	"fmt"
	"net/netip"
	"sort"
	"sync"
)

// MaxSize is the largest number of addresses a pool may have (a /8).
const MaxSize = 1 << 24

// Errors of Get, Take and Put, wrapped with the pool's name and the address.
var (
	ErrExhausted = errors.New("no free address")
	ErrTaken     = errors.New("address is in use")
	ErrOutside   = errors.New("address is not in the pool")
	ErrNotTaken  = errors.New("address is not in use")
)

// Pool is a set of addresses, each free or taken.
type Pool struct {
	name   string
	ranges []span
	size   int

	mu   sync.Mutex
	free bitmap // by position, see position
	used int
	from int // where the next search starts
}

// span is a range with the position of its first address among all.
type span struct {
	Range
	base int
}

// New makes a pool of the given ranges, which must not overlap. The name
// appears in errors.
func New(name string, ranges []Range) (*Pool, error) {
	if len(ranges) == 0 {
		return nil, fmt.Errorf("pool %s: %w", name, errNoRange)
	}
	if a, b, bad := Overlap(ranges); bad {
		return nil, fmt.Errorf("pool %s: ranges %s and %s overlap", name, a, b)
	}
	size := totalSize(ranges)
	if size > MaxSize {
		return nil, fmt.Errorf("pool %s: more than %d addresses (a /8)", name, MaxSize)
	}
	p := &Pool{name: name, size: size, free: newBitmap(size)}
	base := 0
	for _, r := range sortRanges(ranges) {
		p.ranges = append(p.ranges, span{r, base})
		base += r.Size()
	}
	return p, nil
}

// Name is the name given to New.
func (p *Pool) Name() string { return p.name }

// Size is the number of addresses, free and taken.
func (p *Pool) Size() int { return p.size }

// Used is the number of addresses taken.
func (p *Pool) Used() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.used
}

// Contains reports whether a belongs to the pool, free or taken.
func (p *Pool) Contains(a netip.Addr) bool {
	_, ok := p.position(a)
	return ok
}

// Get takes a free address: prefer, if that is free and in the pool (a client
// that comes back may so keep the address it had; the zero Addr prefers none),
// else the next one in turn. With none left the error wraps ErrExhausted.
func (p *Pool) Get(prefer netip.Addr) (netip.Addr, error) {
	at, ok := p.position(prefer)
	p.mu.Lock()
	defer p.mu.Unlock()
	if !ok || !p.free.has(at) {
		if at, ok = p.free.next(p.from); !ok {
			at, ok = p.free.next(0)
		}
		if !ok {
			return netip.Addr{}, fmt.Errorf("pool %s: %w: all %d are in use", p.name, ErrExhausted, p.size)
		}
		p.from = at + 1
	}
	p.free.remove(at)
	p.used++
	return p.address(at), nil
}

// Take takes one given address. The error wraps ErrOutside or ErrTaken.
func (p *Pool) Take(a netip.Addr) error {
	at, ok := p.position(a)
	if !ok {
		return fmt.Errorf("pool %s: %s: %w", p.name, a, ErrOutside)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.free.has(at) {
		return fmt.Errorf("pool %s: %s: %w", p.name, a, ErrTaken)
	}
	p.free.remove(at)
	p.used++
	return nil
}

// Put gives an address back. The error wraps ErrOutside or ErrNotTaken and
// means that the caller's books are wrong; the pool is unchanged then.
func (p *Pool) Put(a netip.Addr) error {
	at, ok := p.position(a)
	if !ok {
		return fmt.Errorf("pool %s: %s: %w", p.name, a, ErrOutside)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.free.has(at) {
		return fmt.Errorf("pool %s: %s: %w", p.name, a, ErrNotTaken)
	}
	p.free.add(at)
	p.used--
	return nil
}

// position numbers the addresses of the pool 0 … size-1 in rising order.
func (p *Pool) position(a netip.Addr) (int, bool) {
	if !a.Is4() {
		return 0, false
	}
	i := sort.Search(len(p.ranges), func(i int) bool { return !p.ranges[i].Last.Less(a) })
	if i == len(p.ranges) || !p.ranges[i].Contains(a) {
		return 0, false
	}
	return p.ranges[i].base + int(toInt(a)-toInt(p.ranges[i].First)), true
}

func (p *Pool) address(at int) netip.Addr {
	i := sort.Search(len(p.ranges), func(i int) bool { return p.ranges[i].base > at }) - 1
	return toAddr(toInt(p.ranges[i].First) + uint32(at-p.ranges[i].base))
}
