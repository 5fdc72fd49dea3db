package multi

import (
	"bytes"
	"crypto/rc4"
	"crypto/sha1"
	"fmt"
	"math/rand/v2"
	"testing"
)

// refKey is the independent description of a chain: one packet at a time with crypto/rc4 and
// crypto/sha1.
type refKey struct {
	start, session []byte
	salt           int
}

func (r *refKey) step() {
	h := sha1.New()
	h.Write(r.start)
	h.Write(make([]byte, 40))
	h.Write(r.session)
	h.Write(bytes.Repeat([]byte{0xF2}, 40))
	interim := h.Sum(nil)[:len(r.start)]
	c, err := rc4.NewCipher(interim)
	if err != nil {
		panic(err)
	}
	next := make([]byte, len(interim))
	c.XORKeyStream(next, interim)
	copy(next, []byte{0xD1, 0x26, 0x9E}[:r.salt])
	r.session = next
}

func (r *refKey) crypt(steps int, b []byte) {
	for range steps {
		r.step()
	}
	c, err := rc4.NewCipher(r.session)
	if err != nil {
		panic(err)
	}
	c.XORKeyStream(b, b)
}

type kind struct{ length, salt int }

var kinds = []kind{{16, 0}, {8, 1}, {8, 3}}

func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func newChain(r *rand.Rand, k kind) (*KeyState, *refKey) {
	s, v := randomBytes(r, k.length), randomBytes(r, k.length)
	ks := &KeyState{Len: uint8(k.length), Salt: uint8(k.salt)}
	copy(ks.Start[:], s)
	copy(ks.Session[:], v)
	return ks, &refKey{start: s, session: v, salt: k.salt}
}

func TestChainAgainstReference(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, w := range Ways() {
		for _, k := range kinds {
			t.Run(fmt.Sprint(w, k), func(t *testing.T) {
				c := New(w)
				ks, ref := newChain(r, k)
				for n := range 5 {
					d := randomBytes(r, 100)
					want := bytes.Clone(d)
					ref.crypt(n, want)
					u := []Unit{{Key: ks, Steps: n, Data: d}}
					c.Crypt(u)
					if !bytes.Equal(d, want) {
						t.Fatalf("%d steps: data differs", n)
					}
					if !bytes.Equal(ks.Session[:k.length], ref.session) || !bytes.Equal(u[0].Used[:k.length], ref.session) {
						t.Fatalf("%d steps: session key %x, used %x, want %x", n, ks.Session, u[0].Used, ref.session)
					}
				}
			})
		}
	}
}

func TestStreamAgainstReference(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, w := range Ways() {
		c := New(w)
		key := randomBytes(r, 16)
		ref, err := rc4.NewCipher(key)
		if err != nil {
			t.Fatal(err)
		}
		var s Stream
		s.Init(key)
		for n := range 300 {
			d := randomBytes(r, n%67)
			want := bytes.Clone(d)
			ref.XORKeyStream(want, want)
			c.Crypt([]Unit{{Stream: &s, Data: d}})
			if !bytes.Equal(d, want) {
				t.Fatalf("%v: packet %d differs", w, n)
			}
		}
	}
}
