// Package multi does the cryptographic work of MPPE (RFC 3078, RFC 3079) for many packets at once.
//
// RC4 is serial inside one stream, so one packet at a time leaves most of a core idle. A batch
// holds packets of any mix of sessions, directions, key lengths and modes; their key changes and
// key schedules run side by side, and so do their keystreams. What a packet means (coherency
// counts, flushes, which key belongs to which packet) is the caller's business.
package multi

import "encoding/binary"

// KeyState is the key chain of one direction of one session: RFC 3078 §7.3, RFC 3079 §2.
//
// Start and Session hold Len bytes each; a 40- or 56-bit key is 8 bytes with its salt already in
// place (RFC 3079 §2.1, §2.2). The zero value of the unexported fields is ready to use. A copy is
// an independent chain at the same place, so a caller may keep a copy and put it back to undo key
// changes. To begin a new chain assign a new KeyState. Not for concurrent use.
type KeyState struct {
	Start, Session [16]byte

	at    uint64 // place in the store
	store uint16 // index+1 in Cipher.stores, 0 none: keys computed ahead; a hint, checked before use
	slot  uint16 // place in the batch being worked on; a hint, checked before use

	Len  uint8 // 8 (40 and 56 bit) or 16 (128 bit)
	Salt uint8 // leading bytes that RFC 3078 §7.3 overwrites: 3, 1 or 0
}

// saltBytes are the leading octets of a weakened session key (RFC 3078 §7.3).
var saltBytes = [3]byte{0xD1, 0x26, 0x9E}

// full tells whether the key is a full one; every length but 8 counts as 16, so a bad Len cannot
// index out of bounds.
func (k *KeyState) full() bool { return k.Len != 8 }

// Stream is an RC4 state that goes on over packets (stateful mode, RFC 3078 §8.2). Init makes it
// ready. It may be copied, which forks the keystream. Not for concurrent use.
//
// s, i and j stand on a multiple of 16 keystream bytes; what was produced but not yet used waits at
// the end of rest.
type Stream struct {
	s    [256]byte
	rest [16]byte
	i, j uint8
	left uint8  // unused bytes at the end of rest
	slot uint16 // as in KeyState
}

// Init starts the stream with an RC4 key of 1 to 256 bytes; an empty key counts as one zero byte.
func (s *Stream) Init(key []byte) {
	if len(key) == 0 {
		key = []byte{0}
	}
	*s = Stream{}
	schedule(&s.s, key)
}

// Unit is the work of one packet: Data is XORed in place with its keystream.
//
// Nothing past len(Data) is read or written, whatever the capacity: units may lie back to back in one
// buffer.
type Unit struct {
	Key    *KeyState // stateless: the chain of this direction; nil means Stream
	Stream *Stream   // stateful: used if Key is nil; both nil leaves Data alone
	Steps  int       // stateless: key changes before this packet; 1 for the next, more after a loss
	Data   []byte
	Used   [16]byte // stateless, set by Crypt: the session key (Key.Len bytes) of this packet
}

// shaMessage is the text that RFC 3078's GetNewKeyFromSHA hashes, start | pad1 | session | pad2,
// with SHA-1's own padding: two blocks. The session key, at 56 of a message for keys of 16 bytes
// and at 48 for keys of 8, is filled in later.
type shaMessage [128]byte

// build lays out all but the session key (RFC 3078 §7.3; the pads are 40 bytes of 0x00 and of
// 0xF2).
func (m *shaMessage) build(k *KeyState) {
	n := 16
	if !k.full() {
		n = 8
	}
	*m = shaMessage{}
	copy(m[:n], k.Start[:])
	for i := 2*n + 40; i < 2*n+80; i++ {
		m[i] = 0xF2
	}
	m[2*n+80] = 0x80
	binary.BigEndian.PutUint16(m[126:], uint16(2*n+80)*8)
}

// schedule is RC4's key schedule.
func schedule(s *[256]byte, key []byte) {
	for i := range s {
		s[i] = byte(i)
	}
	var j uint8
	n := 0
	for i := range s {
		j += s[i] + key[n]
		s[i], s[j] = s[j], s[i]
		if n++; n == len(key) {
			n = 0
		}
	}
}
