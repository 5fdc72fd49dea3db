package multi

//go:generate go run -C gen . -out ..

const (
	maxBatch  = 256 // units worked on together; a longer batch is cut
	maxLanes  = 5   // streams a lane kernel takes
	maxRows   = 64  // streams the row kernels take
	chunk     = 256 // bytes a lane that the rows make at a time, if all lanes have as much
	maxBlocks = 256 // 16-byte blocks per call of a lane kernel: it cannot be preempted
)

// scratch is the memory of the kernels, in one piece and aligned to a page.
type scratch struct {
	lane  laneMem
	_     [96]byte // lane and what follows stand on 256
	split [maxRows][256]byte
	row   rowMem
	start [maxRows][16]byte
	keys  [maxRows][16]byte
	out   [maxRows][64]byte    // keystream blocks of AVX2
	words [33 * maxRows]uint32 // SHA-1 messages of all lanes, word by word; see the kernels
	msg   [maxLanes]shaMessage // SHA-1 messages one by one
	spill [maxLanes][16]byte   // the last block of a lane that does not fill it
	kind  [maxRows]uint8       // key length that words is laid out for, per lane
	kind1 [maxLanes]uint8      // and msg
}

// chain is a session of the batch and how far it has come.
type chain struct {
	k         *KeyState
	cur, last int16 // units
	need      int   // key changes still to go before unit cur
}

// flow is a Stream of the batch with its units.
type flow struct {
	stream      *Stream
	first, last int16
}

// job is a keystream waiting for a lane: unit's from off on, or that of a Stream with all its units
// from unit on.
type job struct {
	s      *[256]byte
	i, j   uint8
	unit   int16
	off    int
	stream *Stream
}

// laneState is what a lane is doing; data[lane] holds the whole blocks still to go.
type laneState struct {
	tail   []byte // what follows data[lane], less than a block
	unit   int16
	spill  bool // the lane works on its spill block
	stream *Stream
}

// Cipher runs batches with one way. It holds all scratch memory, so nothing is allocated after New.
// One per worker; not for concurrent use.
type Cipher struct {
	way Way
	tune
	*scratch

	units  []Unit
	next   [maxBatch]int16 // the following unit of the same session or stream
	chains [maxBatch]chain
	flows  [maxBatch]flow
	nchain int
	nflow  int

	active  [maxBatch]int16 // chains that need a key
	arrival [maxBatch]int16 // stateless units as they came
	bucket  [maxBatch]uint8 // and their lengths
	sorted  [maxBatch]int16 // stateless units, longest first, where they came otherwise
	order   []int16         // arrival or sorted
	rows    [maxRows][]byte

	lanes [maxLanes]laneState
	data  [maxLanes][]byte
	busy  int // lanes in use
	queue [maxBatch + maxRows]job
	head  int
	tail  int

	stores []keyStore
	hand   int
	future [maxRows]KeyState // chains in the making ahead of time
}

// New makes a Cipher for a way out of Ways. For a way that this machine lacks it takes the portable
// one. The first of a way measures, in less than a millisecond, where one kernel gets faster than
// another.
func New(w Way) *Cipher {
	if !w.usable() {
		w = Portable
	}
	c := newCipher(w)
	c.rowMin = rowsFrom[w]()
	return c
}

func newCipher(w Way) *Cipher { return &Cipher{way: w, tune: tuning[w], scratch: newScratch()} }

// Way tells which way the Cipher uses.
func (c *Cipher) Way() Way { return c.way }

// Crypt does the work of all units, those of one KeyState or Stream in the order given: it advances
// every KeyState by the unit's Steps and XORs Data with the keystream of the session key then in
// force. Afterwards Session is the key of the last packet of that session. Data of different units
// must not overlap, and nothing else may use them meanwhile.
func (c *Cipher) Crypt(units []Unit) {
	if len(units) == 1 {
		c.cryptOne(&units[0])
		return
	}
	for len(units) > 0 {
		n := min(len(units), maxBatch)
		c.units = units[:n]
		c.sortOut()
		c.deriveKeys()
		c.crypt()
		units = units[n:]
	}
	c.units = nil
}

// Rekey changes the session key of k n times (RFC 3078 §7.3).
func (c *Cipher) Rekey(k *KeyState, n int) {
	c.chains[0].k = k
	c.active[0] = 0
	for ; n > 0; n-- {
		if !c.take(k) {
			c.stepLanes(c.active[:1])
		}
	}
	c.chains[0].k = nil
}

// sortOut finds the sessions and streams of the batch and puts the stateless units in order of
// length.
func (c *Cipher) sortOut() {
	c.nchain, c.nflow = 0, 0
	n, mixed := 0, uint8(0)
	for i := range c.units {
		u := &c.units[i]
		at := int16(i)
		c.next[i] = -1
		switch {
		case u.Key != nil:
			k := u.Key
			if s := int(k.slot); s < c.nchain && c.chains[s].k == k {
				c.next[c.chains[s].last] = at
				c.chains[s].last = at
			} else {
				k.slot = uint16(c.nchain)
				ch := &c.chains[c.nchain]
				ch.k, ch.cur, ch.last, ch.need = k, at, at, max(u.Steps, 0)
				c.nchain++
			}
			c.arrival[n], c.bucket[n] = at, bucket(u.Data)
			mixed |= c.bucket[n] ^ c.bucket[0]
			n++
		case u.Stream != nil:
			f := u.Stream
			if s := int(f.slot); s < c.nflow && c.flows[s].stream == f {
				c.next[c.flows[s].last] = at
				c.flows[s].last = at
			} else {
				f.slot = uint16(c.nflow)
				c.flows[c.nflow] = flow{stream: f, first: at, last: at}
				c.nflow++
			}
		}
	}
	c.order = c.arrival[:n]
	if mixed != 0 {
		c.order = c.sorted[:n]
		var count [64]int16
		for _, b := range c.bucket[:n] {
			count[b]++
		}
		var from int16
		for b := range count {
			from, count[b] = from+count[b], from
		}
		for i, b := range c.bucket[:n] {
			c.order[count[b]] = c.arrival[i]
			count[b]++
		}
	}
}

// bucket is 0 for the longest data; lengths of the same bucket need the same number of 64-byte
// blocks.
func bucket(b []byte) uint8 { return uint8(max(63-(len(b)+63)/64, 0)) }

// batchSize is how many of n streams to take together. One or two too many for a group are better
// off in the lanes.
func (c *Cipher) batchSize(n int) int {
	if n >= c.rowMin {
		n = min(n, c.rowMax)
		if n%8 <= 2 {
			n &^= 7
		}
		return n
	}
	return min(n, c.laneMax)
}
