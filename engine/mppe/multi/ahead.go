package multi

// keyStore holds session keys of one chain that were computed before they were needed: those of
// positions lo to hi, position p at p modulo the length of keys. Which chain is told by what it
// holds: a KeyState at position p belongs here only if its start key and its session key agree with
// the store's. So copies of a KeyState may use a store side by side, and a store may be given to
// another chain without telling the first.
type keyStore struct {
	start     [16]byte
	len, salt uint8
	hot       bool // used since it was last considered for another chain
	lo, hi    uint64
	keys      [][16]byte
}

// begin gives the store to k.
func (s *keyStore) begin(k *KeyState) {
	*s = keyStore{start: k.Start, len: k.Len, salt: k.Salt, keys: s.keys, hot: true}
	s.keys[0] = k.Session
	k.at = 0
}

// of tells whether the store is for the chain of k, wherever k stands.
func (s *keyStore) of(k *KeyState) bool {
	return s.start == k.Start && s.len == k.Len && s.salt == k.Salt
}

// holds tells whether k stands in the store where it says it does.
func (s *keyStore) holds(k *KeyState) bool {
	p := k.at
	return p-s.lo <= s.hi-s.lo && s.keys[p%uint64(len(s.keys))] == k.Session && s.of(k)
}

// Reserve allocates room to compute keys ahead: for up to sessions chains at a time, keys each, 16
// bytes a key. It drops what was there. Sessions is cut to 65535. Without Reserve, Ahead does
// nothing.
func (c *Cipher) Reserve(sessions, keys int) {
	sessions = min(max(sessions, 0), 65535)
	c.stores, c.hand = nil, 0
	if keys < 1 || sessions == 0 {
		return
	}
	n := keys + 1 // the key in force is kept too
	mem := make([][16]byte, sessions*n)
	c.stores = make([]keyStore, sessions)
	for i := range c.stores {
		c.stores[i].keys = mem[i*n : (i+1)*n : (i+1)*n]
	}
}

// Ahead computes keys that the chains ks will need, at most budget of them, and returns how many; 0
// means that they have all that they have room for. For a worker with nothing to do: the chains
// should be those it expects to be busy again. Where there are more chains than stores, a chain
// takes the store of one that made no use of it lately.
func (c *Cipher) Ahead(ks []*KeyState, budget int) int {
	done := 0
	for len(ks) > 0 && done < budget && len(c.stores) > 0 {
		n := min(len(ks), maxRows, len(c.stores))
		done += c.aheadOf(ks[:n], budget-done)
		ks = ks[n:]
	}
	return done
}

func (c *Cipher) aheadOf(ks []*KeyState, budget int) int {
	n := 0
	for i, k := range ks {
		s := c.storeOf(k)
		c.future[i] = *k
		c.future[i].Session = s.keys[s.hi%uint64(len(s.keys))]
		c.chains[i].k = &c.future[i]
		c.active[n] = int16(i)
		n++
	}
	done := 0
	for done < budget {
		m := 0
		for _, i := range c.active[:n] {
			k := ks[i]
			s := &c.stores[k.store-1]
			// Another chain of ks may have taken the store meanwhile, or be the same.
			if s.holds(k) && s.keys[s.hi%uint64(len(s.keys))] == c.future[i].Session && int(s.hi-k.at)+1 < len(s.keys) {
				c.active[m] = i
				m++
			}
		}
		n = min(m, budget-done)
		if n == 0 {
			break
		}
		c.stepAll(c.active[:n])
		for _, i := range c.active[:n] {
			s := &c.stores[ks[i].store-1]
			if s.keys[s.hi%uint64(len(s.keys))] == c.future[i].Session {
				continue // a chain that shares the store was here
			}
			s.hi++
			s.keys[s.hi%uint64(len(s.keys))] = c.future[i].Session
			if int(s.hi-s.lo) == len(s.keys) {
				s.lo++
			}
		}
		done += n
	}
	for i := range ks {
		c.chains[i].k = nil
		c.future[i] = KeyState{}
	}
	return done
}

// storeNamed is the store that k names, if that is still for its chain.
func (c *Cipher) storeNamed(k *KeyState) *keyStore {
	if r := int(k.store); r > 0 && r <= len(c.stores) && c.stores[r-1].of(k) {
		return &c.stores[r-1]
	}
	return nil
}

// storeOf returns the store of k, if need be one taken from another chain.
func (c *Cipher) storeOf(k *KeyState) *keyStore {
	if s := c.storeNamed(k); s != nil {
		if !s.holds(k) { // the chain went on without it
			s.begin(k)
		}
		return s
	}
	for range c.stores {
		if s := &c.stores[c.hand]; !s.hot {
			break
		}
		c.stores[c.hand].hot = false
		c.hand = (c.hand + 1) % len(c.stores)
	}
	k.store = uint16(c.hand + 1)
	s := &c.stores[c.hand]
	c.hand = (c.hand + 1) % len(c.stores)
	s.begin(k)
	return s
}

// take moves k to its next key if that is known already.
func (c *Cipher) take(k *KeyState) bool {
	if k.store == 0 || int(k.store) > len(c.stores) {
		return false
	}
	s := &c.stores[k.store-1]
	if k.at == s.hi || !s.holds(k) {
		return false
	}
	s.hot = true
	k.at++
	k.Session = s.keys[k.at%uint64(len(s.keys))]
	return true
}

// Forget wipes the keys computed ahead for k. A chain that ends should be forgotten; its KeyState
// may go on without.
func (c *Cipher) Forget(k *KeyState) {
	if s := c.storeNamed(k); s != nil {
		clear(s.keys)
		*s = keyStore{keys: s.keys}
	}
	k.store, k.at = 0, 0
}
