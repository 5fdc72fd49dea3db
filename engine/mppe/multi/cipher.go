package multi

import (
	"crypto/sha1"
	"crypto/subtle"
	"encoding/binary"
)

//go:generate go run -C gen . -out ..

const (
	maxBatch  = 256 // units worked on together; a longer batch is cut
	maxLanes  = 5   // streams a lane kernel takes
	maxRows   = 64  // streams the row kernels take
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

// job is a keystream waiting for a lane: unit's from off on, or that of a Stream with all its units from unit on.
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

// Cipher runs batches with one way. It holds all scratch memory, so nothing is allocated after New. One per worker; not for
// concurrent use.
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

	active [maxBatch]int16 // chains that need a key
	order  [maxBatch]int16 // stateless units, longest first
	norder int
	rows   [maxRows][]byte

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

// New makes a Cipher for a way out of Ways. For a way that this machine lacks it takes the portable one. The first of a way measures, in less
// than a millisecond, where one kernel gets faster than another.
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

// Crypt does the work of all units, those of one KeyState or Stream in the order given: it advances every KeyState by the
// unit's Steps and XORs Data with the keystream of the session key then in force. Afterwards Session is the key of the last
// packet of that session. Data of different units must not overlap, and nothing else may use them meanwhile.
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

// cryptOne is Crypt for a unit alone, without the bookkeeping.
func (c *Cipher) cryptOne(u *Unit) {
	switch {
	case u.Key != nil:
		c.Rekey(u.Key, u.Steps)
		u.Used = u.Key.Session
		c.lane.key[0] = expandedKey(u)
		c.lane.i[0], c.lane.j[0] = 0, 0
		c.laneSchedule(1, &c.lane.s)
		c.runOne(u.Data)
	case u.Stream != nil:
		c.cryptFlow(u.Stream, u.Data)
	}
}

// cryptFlow is the work of one unit of a stream, alone.
func (c *Cipher) cryptFlow(s *Stream, b []byte) {
	if b = s.head(b); len(b) == 0 {
		return
	}
	if c.way == Portable { // no lanes: nothing to gain by copying S
		n := len(b) &^ 15
		xor(&s.s, &s.i, &s.j, b[:n], b[:n])
		if n < len(b) {
			s.rest = [16]byte{}
			xor(&s.s, &s.i, &s.j, s.rest[:], s.rest[:])
			s.left = uint8(16 - subtle.XORBytes(b[n:], b[n:], s.rest[:]))
		}
		return
	}
	c.lane.s[0] = s.s
	c.lane.i[0], c.lane.j[0] = uint64(s.i), uint64(s.j)
	if n := c.runOne(b); n > 0 {
		s.rest, s.left = c.spill[0], uint8(16-n)
	}
	s.s = c.lane.s[0]
	s.i, s.j = uint8(c.lane.i[0]), uint8(c.lane.j[0])
}

// runOne XORs the keystream of lane 0 into b and returns how many bytes of b did not fill a block; their keystream is in spill[0].
func (c *Cipher) runOne(b []byte) int {
	for len(b) >= 16 {
		n := min(len(b)/16, maxBlocks)
		c.data[0] = b
		c.laneStream(1, n)
		b = b[16*n:]
	}
	if len(b) > 0 {
		c.spill[0] = [16]byte{}
		c.data[0] = c.spill[0][:]
		c.laneStream(1, 1)
		subtle.XORBytes(b, b, c.spill[0][:])
	}
	c.data[0] = nil
	return len(b)
}

// sortOut finds the sessions and streams of the batch and puts the stateless units in order of length.
func (c *Cipher) sortOut() {
	c.nchain, c.nflow = 0, 0
	var count [64]int16
	n := 0
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
				c.chains[c.nchain] = chain{k: k, cur: at, last: at, need: max(u.Steps, 0)}
				c.nchain++
			}
			count[bucket(u.Data)]++
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
	var from int16
	for b := range count {
		from, count[b] = from+count[b], from
	}
	for i := range c.units {
		if u := &c.units[i]; u.Key != nil {
			b := bucket(u.Data)
			c.order[count[b]] = int16(i)
			count[b]++
		}
	}
	c.norder = n
}

// bucket is 0 for the longest data; lengths of the same bucket need the same number of 64-byte blocks.
func bucket(b []byte) int { return max(63-(len(b)+63)/64, 0) }

// deriveKeys takes every session through its key changes, all sessions side by side, one change a round.
func (c *Cipher) deriveKeys() {
	n := 0
	for i := range c.nchain {
		if c.chains[i].settle(c) {
			c.active[n] = int16(i)
			n++
		}
	}
	for n > 0 {
		c.stepAll(c.active[:n])
		m := 0
		for _, i := range c.active[:n] {
			ch := &c.chains[i]
			ch.need--
			if ch.settle(c) {
				c.active[m] = i
				m++
			}
		}
		n = m
	}
	for i := range c.nchain {
		c.chains[i].k = nil
	}
}

// stepAll changes the keys of the chains in idx.
func (c *Cipher) stepAll(idx []int16) {
	for len(idx) > 0 {
		n := c.batchSize(len(idx))
		if n > maxLanes {
			c.stepRows(idx[:n])
		} else {
			c.stepLanes(idx[:n])
		}
		idx = idx[n:]
	}
}

// batchSize is how many of n streams to take together. One or two too many for a group are better off in the lanes.
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

// settle gives the key in force to all units that need no further change, taking keys computed ahead of time; false once every unit has
// its key.
func (ch *chain) settle(c *Cipher) bool {
	for {
		for ch.need > 0 {
			if !c.take(ch.k) {
				return true
			}
			ch.need--
		}
		c.units[ch.cur].Used = ch.k.Session
		if ch.cur == ch.last {
			return false
		}
		ch.cur = c.next[ch.cur]
		ch.need = max(c.units[ch.cur].Steps, 0)
	}
}

// stepLanes changes the keys of up to maxLanes chains.
func (c *Cipher) stepLanes(idx []int16) {
	for l, i := range idx {
		k := c.chains[i].k
		m := &c.msg[l]
		if c.kind1[l] != k.Len {
			c.kind1[l] = k.Len
			m.build(k)
		} else if k.full() {
			copy(m[:16], k.Start[:])
		} else {
			copy(m[:8], k.Start[:])
		}
		c.hash(m, k, &c.keys[l])
		if !k.full() {
			copy(c.keys[l][8:], c.keys[l][:8])
		}
		c.lane.key[l] = c.keys[l]
		c.lane.i[l], c.lane.j[l] = 0, 0
		c.data[l] = c.keys[l][:]
	}
	c.laneSchedule(len(idx), &c.lane.s)
	c.laneStream(len(idx), 1)
	for l, i := range idx {
		c.chains[i].k.set(&c.keys[l])
		c.data[l] = nil
	}
}

// stepRows changes the keys of up to maxRows chains.
func (c *Cipher) stepRows(idx []int16) {
	for l, i := range idx {
		c.putKeys(l, c.chains[i].k)
	}
	c.hashWords(len(idx))
	for l, i := range idx {
		if !c.chains[i].k.full() {
			copy(c.keys[l][8:], c.keys[l][:8])
		}
	}
	c.rowRekey((len(idx) + 7) / 8)
	for l, i := range idx {
		c.chains[i].k.set(&c.keys[l])
	}
}

// set takes over a new session key.
func (k *KeyState) set(key *[16]byte) {
	k.Session = *key
	if k.full() {
		return
	}
	copy(k.Session[:min(k.Salt, 3)], saltBytes[:])
	clear(k.Session[8:])
}

// putKeys readies lane l for hashWords.
func (c *Cipher) putKeys(l int, k *KeyState) {
	if c.kind[l] != k.Len || !k.full() {
		c.kind[l] = k.Len
		c.putWords(l, k)
	}
	c.start[l], c.keys[l] = k.Start, k.Session
}

// putWords lays the SHA-1 message of k as a column of words, with 33 rows of shaColumns words for every so many lanes. The last row is all
// ones for a full key, which the kernel puts in by itself.
func (c *Cipher) putWords(l int, k *KeyState) {
	w := c.shaColumns
	var m shaMessage
	m.build(k)
	mask := ^uint32(0)
	if !k.full() {
		copy(m[48:], k.Session[:8])
		mask = 0
	}
	col := 4*(l%(w/4)) + l%w/(w/4)
	words := c.words[l/w*33*w+col:]
	for i := range 32 {
		words[i*w] = binary.BigEndian.Uint32(m[4*i:])
	}
	words[32*w] = mask
}

// crypt XORs all payloads.
func (c *Cipher) crypt() {
	for i := range c.nflow {
		f := &c.flows[i]
		if c.way == Portable {
			for u := f.first; u >= 0; u = c.next[u] {
				c.cryptFlow(f.stream, c.units[u].Data)
			}
			f.stream = nil
			continue
		}
		c.push(job{s: &f.stream.s, i: f.stream.i, j: f.stream.j, unit: f.first, stream: f.stream})
		f.stream = nil
	}
	todo := c.order[:c.norder]
	for len(todo) > 0 {
		n := c.batchSize(len(todo))
		if n > maxLanes {
			c.cryptRows(todo[:n])
		} else {
			c.cryptLanes(todo[:n])
		}
		todo = todo[n:]
		c.drain(false)
	}
	c.drain(true)
}

// expandedKey is the unit's RC4 key, 16 bytes: RC4 repeats a key, so one of 8 bytes is the same as itself twice.
func expandedKey(u *Unit) (k [16]byte) {
	k = u.Used
	if !u.Key.full() {
		copy(k[8:], k[:8])
	}
	return k
}

func (c *Cipher) cryptLanes(idx []int16) {
	for l, i := range idx {
		c.lane.key[l] = expandedKey(&c.units[i])
	}
	c.laneSchedule(len(idx), (*[maxLanes][256]byte)(c.split[:]))
	for l, i := range idx {
		c.push(job{s: &c.split[l], unit: i})
	}
}

// cryptRows works on the rows as long as that pays and leaves the rest of the longest payloads to the lanes. The units are in order of
// length, so the last ones are through first and whole groups drop out.
func (c *Cipher) cryptRows(idx []int16) {
	for l, i := range idx {
		u := &c.units[i]
		c.keys[l] = expandedKey(u)
		c.rows[l] = u.Data
	}
	clear(c.rows[len(idx) : (len(idx)+7)&^7])
	c.rowSchedule((len(idx) + 7) / 8)
	// Lengths are in order but for the last block, so live lanes stand before those that are through.
	off, live, ending := 0, len(idx), 0
	for {
		for live > 0 && len(c.rows[live-1]) <= off {
			live--
			ending--
		}
		for ending = max(ending, 0); ending < live && len(c.rows[live-1-ending]) <= off+64; ending++ {
		}
		groups := (live + 7) / 8
		if live+ending/2 < c.rowsPay[groups] || live == 0 {
			break
		}
		n := 64
		if ending == live {
			n = 0
			for _, b := range c.rows[:live] {
				n = max(n, len(b)-off)
			}
		}
		c.rowStream(groups, off, (n+7)&^7)
		c.rowXor(off, groups)
		off += 64
	}
	if live > 0 {
		c.rowSplit((live + 7) / 8)
		for l := range live {
			if off < len(c.rows[l]) {
				c.push(job{s: &c.split[l], i: uint8(off), j: c.row.j[l/8][l%8], unit: idx[l], off: off})
			}
		}
	}
	clear(c.rows[:len(idx)])
}

func (c *Cipher) push(j job) {
	c.queue[c.tail] = j
	c.tail++
}

// drain runs the lanes until the queue is empty, or until they are through as well. What still runs when the queue is empty goes on beside
// the jobs to come, so that the lanes stay full.
func (c *Cipher) drain(all bool) {
	for {
		for c.busy < c.laneMax && c.refill(c.busy) {
			c.busy++
		}
		if c.head == c.tail {
			c.head, c.tail = 0, 0
			if !all || c.busy == 0 {
				return
			}
		}
		blocks := maxBlocks
		for l := range c.busy {
			blocks = min(blocks, len(c.data[l])/16)
		}
		c.laneStream(c.busy, blocks)
		for l := c.busy - 1; l >= 0; l-- {
			c.data[l] = c.data[l][16*blocks:]
			if len(c.data[l]) > 0 || c.goOn(l) || c.refill(l) {
				continue
			}
			c.busy--
			if l != c.busy {
				c.lanes[l], c.data[l] = c.lanes[c.busy], c.data[c.busy]
				c.lane.s[l] = c.lane.s[c.busy]
				c.lane.i[l], c.lane.j[l] = c.lane.i[c.busy], c.lane.j[c.busy]
				if c.lanes[l].spill {
					c.spill[l] = c.spill[c.busy]
					c.data[l] = c.spill[l][:]
				}
			}
			c.lanes[c.busy], c.data[c.busy] = laneState{}, nil
		}
	}
}

// refill gives lane l the next job that has work for it; false if there is none.
func (c *Cipher) refill(l int) bool {
	for c.head < c.tail {
		j := &c.queue[c.head]
		c.head++
		ok := c.load(l, j)
		*j = job{}
		if ok {
			return true
		}
	}
	return false
}

// load gives lane l a job; false if there was nothing for a lane to do.
func (c *Cipher) load(l int, j *job) bool {
	c.lane.s[l] = *j.s
	c.lane.i[l], c.lane.j[l] = uint64(j.i), uint64(j.j)
	st := &c.lanes[l]
	*st = laneState{unit: j.unit, stream: j.stream}
	b := c.units[j.unit].Data[j.off:]
	if j.stream != nil {
		b = j.stream.head(b)
	}
	return c.begin(l, b) || c.goOn(l)
}

// begin sets lane l on b; false if b is empty.
func (c *Cipher) begin(l int, b []byte) bool {
	n := len(b) &^ 15
	c.data[l], c.lanes[l].tail = b[:n], b[n:]
	return n > 0
}

// goOn finds more work for a lane that has no whole block left: the last bytes of the unit, the next unit of its stream.
func (c *Cipher) goOn(l int) bool {
	st := &c.lanes[l]
	for {
		if st.spill {
			n := subtle.XORBytes(st.tail, st.tail, c.spill[l][:])
			st.spill = false
			st.tail = nil
			if st.stream != nil {
				st.stream.rest, st.stream.left = c.spill[l], uint8(16-n)
			}
		} else if len(st.tail) > 0 {
			st.spill = true
			c.spill[l] = [16]byte{}
			c.data[l] = c.spill[l][:]
			return true
		}
		if st.stream == nil {
			return false
		}
		st.unit = c.next[st.unit]
		if st.unit < 0 {
			st.stream.s = c.lane.s[l]
			st.stream.i, st.stream.j = uint8(c.lane.i[l]), uint8(c.lane.j[l])
			return false
		}
		if c.begin(l, st.stream.head(c.units[st.unit].Data)) {
			return true
		}
	}
}

// head XORs what keystream is left over from the last block and returns the rest of b.
func (s *Stream) head(b []byte) []byte {
	n := subtle.XORBytes(b, b, s.rest[16-s.left:])
	s.left -= uint8(n)
	return b[n:]
}

// hashGo is hash with crypto/sha1.
func hashGo(m *shaMessage, k *KeyState, out *[16]byte) {
	n := 112
	if k.full() {
		copy(m[56:], k.Session[:])
	} else {
		n = 96
		copy(m[48:], k.Session[:8])
	}
	d := sha1.Sum(m[:n])
	copy(out[:], d[:])
	if k.full() {
		clear(m[56:72])
	}
}
