package multi

import (
	"bytes"
	"crypto/rc4"
	"fmt"
	"math/rand/v2"
	"testing"
)

// world is a set of sessions and streams together with their references.
type world struct {
	r       *rand.Rand
	keys    []*KeyState
	refs    []*refKey
	streams []*Stream
	ciphers []*rc4.Cipher
}

func newWorld(r *rand.Rand, keys, streams int, kinds []kind) *world {
	w := &world{r: r}
	for i := range keys {
		k, ref := newChain(r, kinds[i%len(kinds)])
		w.keys, w.refs = append(w.keys, k), append(w.refs, ref)
	}
	for range streams {
		key := randomBytes(r, 8+8*r.IntN(2))
		s := new(Stream)
		s.Init(key)
		ref, err := rc4.NewCipher(key)
		if err != nil {
			panic(err)
		}
		w.streams, w.ciphers = append(w.streams, s), append(w.ciphers, ref)
	}
	return w
}

const guard = 80

// packet is a unit inside a buffer with bytes around it that must stay.
type packet struct {
	buf, want []byte
}

// unit makes a unit of session or stream c with so many key changes, and does its work on the
// reference. The low bits of place choose where the data starts and how much room there is behind
// it.
func (w *world) unit(c, length, steps, place int) (Unit, packet) {
	at := guard + place&63
	room := []int{0, 1, 15, 62, 63, guard}[place%6]
	p := packet{buf: randomBytes(w.r, at+length+guard)}
	p.want = bytes.Clone(p.buf)
	u := Unit{Data: p.buf[at : at+length : at+length+room]}
	want := p.want[at : at+length]
	if c < len(w.keys) {
		u.Key, u.Steps = w.keys[c], steps
		w.refs[c].crypt(steps, want)
	} else {
		c -= len(w.keys)
		u.Stream = w.streams[c]
		w.ciphers[c].XORKeyStream(want, want)
	}
	return u, p
}

// batch makes n units; length gives the length of a unit, steps its key changes.
func (w *world) batch(n int, length func() int, steps func() int) ([]Unit, []packet) {
	units, packets := make([]Unit, n), make([]packet, n)
	for i := range units {
		units[i], packets[i] = w.unit(w.r.IntN(len(w.keys)+len(w.streams)), length(), steps(), w.r.IntN(64*6))
	}
	return units, packets
}

func (w *world) check(t *testing.T, units []Unit, packets []packet) {
	t.Helper()
	for i, p := range packets {
		if !bytes.Equal(p.buf, p.want) {
			t.Fatalf("unit %d of %d, %d bytes, stateful %v: buffer differs", i, len(units), len(units[i].Data), units[i].Key == nil)
		}
	}
	for i, k := range w.keys {
		if !bytes.Equal(k.Session[:k.Len], w.refs[i].session) {
			t.Fatalf("session %d: key %x, want %x", i, k.Session, w.refs[i].session)
		}
	}
}

func one() int { return 1 }

// TestEveryLength crypts a packet of every length, alone and among others, stateless and stateful.
func TestEveryLength(t *testing.T) {
	top, few := 2100, 40
	if testing.Short() {
		top = 300
	}
	for _, way := range Ways() {
		t.Run(way.String(), func(t *testing.T) {
			r := rand.New(rand.NewPCG(5, uint64(way)))
			c := New(way)
			for _, shape := range []struct{ keys, streams, units int }{{few, 0, few}, {0, few, few}, {1, 0, few}, {1, 1, 1}} {
				w := newWorld(r, shape.keys, shape.streams, kinds)
				for n := 0; n <= top; {
					units, packets := w.batch(shape.units, func() int { n++; return n - 1 }, one)
					c.Crypt(units)
					w.check(t, units, packets)
				}
			}
		})
	}
}

// TestMixes runs random batches of random worlds.
func TestMixes(t *testing.T) {
	rounds := 100
	if testing.Short() {
		rounds = 40
	}
	for _, way := range Ways() {
		t.Run(way.String(), func(t *testing.T) {
			r := rand.New(rand.NewPCG(7, uint64(way)))
			c := New(way)
			c.Reserve(20, 7)
			sizes := []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 31, 32, 33, 48, 63, 64, 65, 128, 256, 257, 300}
			lengths := []struct {
				name string
				f    func() int
			}{
				{"64", func() int { return 64 }},
				{"imix", func() int { return []int{64, 576, 1400}[r.IntN(3)] }},
				{"short", func() int { return r.IntN(80) }},
				{"all", func() int { return r.IntN(1600) }},
				{"long", func() int { return 3700 - r.IntN(600) }},
				{"1400", func() int { return 1400 }},
			}
			steps := func() int { return []int{1, 1, 1, 1, 0, 2, 5}[r.IntN(7)] }
			for i := range rounds {
				l := lengths[i%len(lengths)]
				n := sizes[r.IntN(len(sizes))]
				keys, streams := []int{0, 1, 2, 5, 40, 300}[r.IntN(6)], []int{0, 0, 1, 4, 6, 70}[r.IntN(6)]
				if keys+streams == 0 {
					keys = 3
				}
				w := newWorld(r, keys, streams, kinds[r.IntN(3):])
				t.Run(fmt.Sprintf("%s/%d units/%d keys/%d streams", l.name, n, keys, streams), func(t *testing.T) {
					for range 2 {
						if i%3 == 0 {
							c.Ahead(w.keys, r.IntN(300))
						}
						units, packets := w.batch(n, l.f, steps)
						c.Crypt(units)
						w.check(t, units, packets)
					}
				})
			}
		})
	}
}

// TestBackToBack crypts units that lie in one buffer without a gap.
func TestBackToBack(t *testing.T) {
	r := rand.New(rand.NewPCG(21, 21))
	for _, way := range Ways() {
		c := New(way)
		for _, streams := range []int{0, 3, 40} {
			w := newWorld(r, 40, streams, kinds)
			units, packets := w.batch(150, func() int { return r.IntN(200) }, one)
			var buf, want []byte
			for i, u := range units {
				at := len(packets[i].buf) - guard - len(u.Data)
				buf = append(buf, u.Data...)
				want = append(want, packets[i].want[at:at+len(u.Data)]...)
			}
			at := 0
			for i := range units {
				n := len(units[i].Data)
				units[i].Data = buf[at : at+n]
				at += n
			}
			c.Crypt(units)
			if !bytes.Equal(buf, want) {
				t.Fatalf("%v, %d streams: buffer differs", way, streams)
			}
		}
	}
}

// TestWaysInterleave lets a chain and a stream go from way to way.
func TestWaysInterleave(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 9))
	w := newWorld(r, 12, 12, kinds)
	for round := range 20 {
		for _, way := range Ways() {
			units, packets := w.batch(20+round, func() int { return r.IntN(400) }, one)
			New(way).Crypt(units)
			w.check(t, units, packets)
		}
	}
}

// TestCopyIsFork holds that a copied state goes its own way: callers undo key changes by putting a
// copy back.
func TestCopyIsFork(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 11))
	for _, way := range Ways() {
		c := New(way)
		k, _ := newChain(r, kinds[0])
		var s Stream
		s.Init([]byte("0123456789abcdef"))
		c.Crypt([]Unit{{Key: k, Steps: 1, Data: make([]byte, 33)}, {Stream: &s, Data: make([]byte, 33)}})
		k2, s2 := *k, s
		a, b := make([]byte, 77), make([]byte, 77)
		a2, b2 := make([]byte, 77), make([]byte, 77)
		c.Crypt([]Unit{{Key: k, Steps: 2, Data: a}, {Stream: &s, Data: b}})
		c.Crypt([]Unit{{Key: &k2, Steps: 2, Data: a2}, {Stream: &s2, Data: b2}})
		if !bytes.Equal(a, a2) || !bytes.Equal(b, b2) || k.Session != k2.Session {
			t.Fatalf("%v: a copy went elsewhere", way)
		}
	}
}

// TestAhead holds that keys computed ahead of time are the ones that the chain comes to, are used,
// and stay within their bounds.
func TestAhead(t *testing.T) {
	const room = 10
	r := rand.New(rand.NewPCG(15, 15))
	for _, way := range Ways() {
		c := New(way)
		w := newWorld(r, 30, 0, kinds)
		if n := c.Ahead(w.keys, 100); n != 0 {
			t.Fatalf("%v: %d keys without room", way, n)
		}
		c.Reserve(len(w.keys), room)
		if n := c.Ahead(w.keys, 95); n != 95 {
			t.Fatalf("%v: %d keys, want the budget of 95", way, n)
		}
		if n := c.Ahead(w.keys, 10000); n != room*len(w.keys)-95 {
			t.Fatalf("%v: %d keys, want what room is left", way, n)
		}
		if n := c.Ahead(w.keys, 10000); n != 0 {
			t.Fatalf("%v: %d keys more than there is room", way, n)
		}
		for i, k := range w.keys {
			fork, at := *k, k.at
			c.Rekey(k, i%14)
			for range i % 14 {
				w.refs[i].step()
			}
			if i%14 <= room && k.at-at != uint64(i%14) {
				t.Fatalf("%v: session %d took %d keys of %d steps", way, i, k.at-at, i%14)
			}
			c.Rekey(&fork, i%14)
			if fork.Session != k.Session {
				t.Fatalf("%v: session %d: a copy came to another key", way, i)
			}
		}
		units, packets := w.batch(100, func() int { return 40 }, one)
		c.Crypt(units)
		w.check(t, units, packets)

		c.Ahead(w.keys, 10000)
		k := w.keys[0]
		s := c.stores[k.store-1]
		c.Forget(k)
		if k.store != 0 || k.at != 0 || s.keys[s.hi%uint64(len(s.keys))] != [16]byte{} {
			t.Fatalf("%v: keys are still there", way)
		}
		units, packets = w.batch(100, func() int { return 40 }, one)
		c.Crypt(units)
		w.check(t, units, packets)
	}
}

func TestNoAllocation(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 13))
	for _, way := range Ways() {
		c := New(way)
		w := newWorld(r, 50, 10, kinds)
		units, _ := w.batch(128, func() int { return r.IntN(1500) }, one)
		c.Reserve(8, 8)
		if n := testing.AllocsPerRun(10, func() { c.Crypt(units); c.Ahead(w.keys, 100) }); n != 0 {
			t.Errorf("%v: %v allocations a batch", way, n)
		}
	}
}
