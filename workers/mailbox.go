package workers

import (
	"sync"
	"sync/atomic"
)

// mailbox is the way in from control: an unbounded, ordered list of commands
// (control never drops one). Order is a promise: what was posted first is
// done first. Empty, it costs the poll loop one atomic load.
type mailbox struct {
	pending atomic.Bool
	mu      sync.Mutex
	box     []func()
	spare   []func()
}

// post adds a command.
func (m *mailbox) post(f func()) {
	m.mu.Lock()
	m.box = append(m.box, f)
	m.mu.Unlock()
	m.pending.Store(true)
}

// run executes everything posted so far, in order, and reports whether there was anything.
func (m *mailbox) run() bool {
	if !m.pending.Load() {
		return false
	}
	m.mu.Lock()
	m.pending.Store(false)
	box := m.box
	m.box = m.spare[:0]
	m.mu.Unlock()
	for i, f := range box {
		f()
		box[i] = nil
	}
	m.spare = box
	return len(box) > 0
}

// PuntKind says why the worker hands something to control.
type PuntKind uint8

const (
	// PuntPPP is a PPP frame that is not the data plane's: control protocols
	// and unknown ones. Proto and Data are its protocol and information.
	PuntPPP PuntKind = iota
	// PuntReset asks for a CCP Reset-Request: stateful MPPE lost its place.
	PuntReset
)

// Punt is what goes from a worker to its control loop.
type Punt struct {
	Call  *Call
	Kind  PuntKind
	Proto uint16
	Data  []byte // valid until the consumer's callback returns
}

// puntRing is a bounded single-producer single-consumer ring; its slots own
// their buffers, so that a punt costs a copy and no allocation. The producer
// never waits: a full ring is a counted drop.
type puntRing struct {
	slots []Punt
	mask  uint64
	_     [48]byte
	head  atomic.Uint64 // consumer's
	_     [56]byte
	tail  atomic.Uint64 // producer's
	_     [56]byte
	wake  func()
}

func newPuntRing(n int) *puntRing {
	return &puntRing{slots: make([]Punt, n), mask: uint64(n - 1), wake: func() {}}
}

func (r *puntRing) put(c *Call, kind PuntKind, proto uint16, data []byte) bool {
	t := r.tail.Load()
	if t-r.head.Load() > r.mask {
		return false
	}
	s := &r.slots[t&r.mask]
	s.Call, s.Kind, s.Proto = c, kind, proto
	s.Data = append(s.Data[:0], data...)
	r.tail.Store(t + 1)
	return true
}

// drain gives every waiting punt to f, in order, and returns how many there were.
func (r *puntRing) drain(f func(*Punt)) int {
	n := 0
	for h := r.head.Load(); h != r.tail.Load(); h++ {
		s := &r.slots[h&r.mask]
		f(s)
		s.Call = nil
		r.head.Store(h + 1)
		n++
	}
	return n
}
