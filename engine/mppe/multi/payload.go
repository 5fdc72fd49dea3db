package multi

import "crypto/subtle"

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

// runOne XORs the keystream of lane 0 into b and returns how many bytes of b did not fill a block;
// their keystream is in spill[0].
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
	todo := c.order
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

// expandedKey is the unit's RC4 key, 16 bytes: RC4 repeats a key, so one of 8 bytes is the same as
// itself twice.
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

// cryptRows works on the rows as long as that pays and leaves the rest of the longest payloads to
// the lanes. The units are in order of length, so the last ones are through first and whole groups
// drop out.
func (c *Cipher) cryptRows(idx []int16) {
	for l, i := range idx {
		u := &c.units[i]
		c.keys[l] = expandedKey(u)
		c.rows[l] = u.Data
	}
	clear(c.rows[len(idx) : (len(idx)+7)&^7])
	c.rowSchedule((len(idx) + 7) / 8)
	// Lengths are in order but for the last block, so live lanes stand before those that are
	// through.
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
		switch {
		case len(c.rows[live-1])-off >= chunk+64:
			n = chunk // and then no lane ends in it
		case ending == live:
			n = 0
			for _, b := range c.rows[:live] {
				n = max(n, len(b)-off)
			}
		}
		c.rowStream(groups, off, (n+7)&^7)
		c.rowXor(off, groups, n)
		off += (n + 63) &^ 63
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

// drain runs the lanes until the queue is empty, or until they are through as well. What still runs
// when the queue is empty goes on beside the jobs to come, so that the lanes stay full.
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

// goOn finds more work for a lane that has no whole block left: the last bytes of the unit, the
// next unit of its stream.
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
