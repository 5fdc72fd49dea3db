package multi

import (
	"crypto/sha1"
	"encoding/binary"
)

// deriveKeys takes every session through its key changes, all sessions side by side, one change a
// round.
func (c *Cipher) deriveKeys() {
	n := 0
	for i := range c.nchain {
		if ch := &c.chains[i]; ch.need > 0 && ch.k.store == 0 || ch.settle(c) {
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
			if ch.need == 0 && ch.cur == ch.last { // nearly always: settle without the call
				c.units[ch.cur].Used = ch.k.Session
				continue
			}
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

// settle gives the key in force to all units that need no further change, taking keys computed
// ahead of time; false once every unit has its key.
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
		k := c.chains[i].k
		if c.kind[l] != k.Len || !k.full() {
			c.putWords(l, k)
		}
		c.start[l] = k.Start // not both in one statement: that goes by way of the stack
		c.keys[l] = k.Session
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

// putWords lays the SHA-1 message of k as a column of words, with 33 rows of shaColumns words for
// every so many lanes. The last row is all ones for a full key, which the kernel puts in by itself.
func (c *Cipher) putWords(l int, k *KeyState) {
	c.kind[l] = k.Len
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
