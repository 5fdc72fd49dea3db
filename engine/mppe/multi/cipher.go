package multi

import (
	"crypto/sha1"
	"crypto/subtle"
)

// Cipher runs batches with one way. It holds all scratch memory, so nothing is allocated after New. One per worker; not for concurrent use.
type Cipher struct {
	way Way
	s   [256]byte
	msg shaMessage
}

// New makes a Cipher for a way out of Ways. A way that this machine lacks gives the portable one.
func New(w Way) *Cipher { return &Cipher{way: Portable} }

// Way tells which way the Cipher uses.
func (c *Cipher) Way() Way { return c.way }

// Crypt does the work of all units, those of one KeyState or Stream in the order given: it advances every KeyState by
// the unit's Steps and XORs Data with the keystream of the session key then in force. Afterwards Session is the key of the
// last packet of that session. Data of different units must not overlap.
func (c *Cipher) Crypt(units []Unit) {
	for i := range units {
		u := &units[i]
		switch {
		case u.Key != nil:
			c.Rekey(u.Key, u.Steps)
			u.Used = u.Key.Session
			n := 16
			if !u.Key.bits128() {
				n = 8
			}
			schedule(&c.s, u.Used[:n])
			var x, y uint8
			xor(&c.s, &x, &y, u.Data, u.Data)
		case u.Stream != nil:
			u.Stream.xor(u.Data)
		}
	}
}

// Rekey changes the session key of k n times (RFC 3078 §7.3).
func (c *Cipher) Rekey(k *KeyState, n int) {
	l := 16
	if !k.bits128() {
		l = 8
	}
	for ; n > 0; n-- {
		c.msg.build(k)
		d := sha1.Sum(c.msg[:2*l+80])
		schedule(&c.s, d[:l])
		var x, y uint8
		xor(&c.s, &x, &y, k.Session[:l], d[:l])
		copy(k.Session[:min(k.Salt, 3)], saltBytes[:])
	}
}

func (s *Stream) xor(b []byte) {
	r := s.rest[16-s.left:]
	n := subtle.XORBytes(b, b, r)
	s.left -= uint8(n)
	b = b[n:]
	xor(&s.s, &s.i, &s.j, b[:len(b)&^15], b[:len(b)&^15])
	b = b[len(b)&^15:]
	if len(b) > 0 {
		s.rest = [16]byte{}
		xor(&s.s, &s.i, &s.j, s.rest[:], s.rest[:])
		s.left = uint8(16 - subtle.XORBytes(b, b, s.rest[:]))
	}
}

// xor is RC4's output function.
func xor(s *[256]byte, pi, pj *uint8, dst, src []byte) {
	i, j := *pi, *pj
	for k, v := range src {
		i++
		x := s[i]
		j += x
		y := s[j]
		s[i], s[j] = y, x
		dst[k] = v ^ s[x+y]
	}
	*pi, *pj = i, j
}
