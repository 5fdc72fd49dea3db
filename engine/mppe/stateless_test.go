package mppe

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"

	"xpptp/engine"
	"xpptp/engine/mppe/multi"
	"xpptp/engine/wire"
)

// refSeal seals stateless packets with crypto/rc4, one by one.
type refSeal struct {
	c     *refChain
	count uint16
}

func (s *refSeal) seal(p []byte) []byte {
	s.count = (s.count + 1) % 4096
	s.c.next()
	out := make([]byte, 2+len(p), 2+len(p)+64)
	binary.BigEndian.PutUint16(out, 0x9000|s.count)
	s.c.rc4().XORKeyStream(out[2:], p)
	return out
}

// What we seal is what the reference seals, for every key length, over more
// than one round of the count, in batches that mix sessions; and it opens.
func TestStatelessAgainstReference(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	const sessions = 9
	e := New(multi.Best())
	var tx [sessions]Tx
	var rx [sessions]Rx
	var ref [sessions]*refSeal
	for i := range tx {
		p := Params{Bits: []int{40, 56, 128}[i%3]}
		p.Start, _ = testKeys(r)
		if err := tx[i].Init(&p); err != nil {
			t.Fatal(err)
		}
		if err := rx[i].Init(&p); err != nil {
			t.Fatal(err)
		}
		ref[i] = &refSeal{newRefChain(p.Bits, p.Start), 4095}
	}
	for n := 0; n < 5000*sessions; {
		size := 1 + r.IntN(600)
		txs, rxs := make([]TxJob, size), make([]RxJob, size)
		want, sealed := make([][]byte, size), make([][]byte, size)
		for i := range txs {
			k := r.IntN(sessions)
			want[i] = plain(r, uint32(n+i), r.IntN(80))
			sealed[i] = ref[k].seal(want[i])
			txs[i] = TxJob{&tx[k], append(make([]byte, 2, 256), want[i]...)}
			rxs[i] = RxJob{Rx: &rx[k], Data: txs[i].Data}
		}
		e.Seal(txs)
		for i := range txs {
			if !bytes.Equal(txs[i].Data, sealed[i]) {
				t.Fatalf("packet %d: sealed %x, want %x", n+i, txs[i].Data[:8], sealed[i][:8])
			}
		}
		e.Open(second, rxs)
		for i := range rxs {
			if rxs[i].Drop != engine.Pass || rxs[i].Reset || !bytes.Equal(rxs[i].Data[2:], want[i]) {
				t.Fatalf("packet %d: %v", n+i, rxs[i].Drop)
			}
		}
		n += size
	}
}

// Loss, reordering, duplicates and forgeries, many sessions in one batch: a
// genuine packet opens if and only if it is ahead of the last genuine one of
// its session, and a forged one never.
func TestStatelessSimulation(t *testing.T) {
	seeds := uint64(60)
	if testing.Short() {
		seeds = 10
	}
	for seed := range seeds {
		simulateStateless(t, rand.New(rand.NewPCG(seed, 77)))
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

type arrival struct {
	session int
	index   int // of a genuine packet; −1: forged
	data    []byte
	plain   []byte
}

func simulateStateless(t *testing.T, r *rand.Rand) {
	const sessions = 4
	e := New(multi.Best())
	loss, dup, forge, swap := r.Float64()*0.5, r.Float64()*0.2, r.Float64()*0.3, r.IntN(10)
	var rx [sessions]Rx
	var ref [sessions]*refSeal
	var last, sent [sessions]int
	for i := range rx {
		p := Params{Bits: []int{40, 56, 128}[r.IntN(3)]}
		p.Start, _ = testKeys(r)
		if err := rx[i].Init(&p); err != nil {
			t.Fatal(err)
		}
		ref[i] = &refSeal{newRefChain(p.Bits, p.Start), 4095}
		last[i] = -1
	}
	now := int64(second)
	for range 12 {
		var line []arrival
		for range 1 + r.IntN(150) {
			k := r.IntN(sessions)
			if r.IntN(200) == 0 { // a burst is lost
				for range r.IntN(500) {
					ref[k].c.next()
					ref[k].count = (ref[k].count + 1) % 4096
					sent[k]++
				}
			}
			p := plain(r, uint32(sent[k]), r.IntN(120))
			a := arrival{k, sent[k], ref[k].seal(p), p}
			sent[k]++
			if r.Float64() >= loss {
				line = append(line, a)
			}
			for r.Float64() < dup {
				b := a
				b.data = slices.Clone(a.data)
				line = append(line, b)
			}
			for r.Float64() < forge {
				f := arrival{k, -1, make([]byte, r.IntN(120), 200), nil}
				for i := range f.data {
					f.data[i] = byte(r.Uint32())
				}
				if len(f.data) >= 2 && r.IntN(4) > 0 {
					binary.BigEndian.PutUint16(f.data, 0x9000|(ref[k].count+uint16(r.IntN(4)))&countMask)
				}
				line = append(line, f)
			}
		}
		for i := range line {
			if swap > 0 {
				j := min(i+r.IntN(swap), len(line)-1)
				line[i], line[j] = line[j], line[i]
			}
		}
		jobs := make([]RxJob, len(line))
		for i, a := range line {
			jobs[i] = RxJob{Rx: &rx[a.session], Data: a.data}
		}
		e.Open(now, jobs)
		now += 2 * second
		for i, a := range line {
			j := &jobs[i]
			if j.Reset {
				t.Error("a stateless session asks for a reset")
			}
			switch {
			case a.index < 0:
				if j.Drop == engine.Pass {
					t.Errorf("forged packet accepted")
				}
			case a.index <= last[a.session]:
				if j.Drop != engine.MPPELate {
					t.Errorf("packet %d after %d: %v, want late", a.index, last[a.session], j.Drop)
				}
			case j.Drop == engine.MPPECatchUp && a.index-last[a.session] > freeSteps:
				// forged packets have used up the session's catch-up work
			default:
				if j.Drop != engine.Pass || !bytes.Equal(j.Data[2:], a.plain) {
					t.Errorf("packet %d after %d: %v", a.index, last[a.session], j.Drop)
				}
				last[a.session] = a.index
			}
		}
	}
}

func newStateless(t testing.TB, protocols Protocols) (*Rx, *refSeal) {
	var start [16]byte
	start[3] = 7
	rx := new(Rx)
	if err := rx.Init(&Params{Bits: 128, Start: start, Protocols: protocols}); err != nil {
		t.Fatal(err)
	}
	return rx, &refSeal{newRefChain(128, start), 4095}
}

func TestOpenDrops(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 8))
	v4 := func() []byte {
		for {
			if p := plain(r, 1, 60); p[0] == 0x21 || p[1] == 0x21 {
				return p
			}
		}
	}
	for _, tt := range []struct {
		name string
		edit func(b []byte) []byte
		want engine.Drop
	}{
		{"good", func(b []byte) []byte { return b }, engine.Pass},
		{"empty", func(b []byte) []byte { return b[:0] }, engine.MPPEShort},
		{"half a header", func(b []byte) []byte { return b[:1] }, engine.MPPEShort},
		{"header alone", func(b []byte) []byte { return b[:2] }, engine.MPPEShort},
		{"one byte", func(b []byte) []byte { return b[:3] }, engine.MPPEInsane},
		{"cut", func(b []byte) []byte { return b[:20] }, engine.MPPEInsane},
		{"bit D clear", func(b []byte) []byte { b[0] &^= 0x10; return b }, engine.MPPEPlain},
		{"bit C set", func(b []byte) []byte { b[0] |= 0x20; return b }, engine.MPPEBits},
		{"bit B set, which means nothing", func(b []byte) []byte { b[0] |= 0x40; return b }, engine.Pass},
		{"bit A clear", func(b []byte) []byte { b[0] &^= 0x80; return b }, engine.MPPEBits},
		{"count of the packet before", func(b []byte) []byte { binary.BigEndian.PutUint16(b, 0x9fff); return b }, engine.MPPELate},
		{"count 2048 ahead of it", func(b []byte) []byte { binary.BigEndian.PutUint16(b, 0x97ff); return b }, engine.MPPEInsane},
		{"count 2049 ahead of it", func(b []byte) []byte { binary.BigEndian.PutUint16(b, 0x9800); return b }, engine.MPPELate},
	} {
		rx, ref := newStateless(t, 0)
		jobs := []RxJob{{Rx: rx, Data: tt.edit(ref.seal(v4()))}}
		New(multi.Best()).Open(second, jobs)
		if jobs[0].Drop != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, jobs[0].Drop, tt.want)
		}
	}
	var none Rx
	for _, rx := range []*Rx{nil, &none} {
		jobs := []RxJob{{Rx: rx, Data: []byte{0x90, 0, 1, 2, 3}}}
		New(multi.Best()).Open(second, jobs)
		if jobs[0].Drop != engine.MPPENoKey {
			t.Errorf("without a key: %v", jobs[0].Drop)
		}
	}
}

// Only protocols of the call's set open, and only with sane headers.
func TestAcceptedProtocols(t *testing.T) {
	v4 := make([]byte, 28)
	wire.PutIPv4(v4, &wire.IPv4Fields{PayloadLen: 8})
	v6 := make([]byte, 48)
	wire.PutIPv6(v6, &wire.IPv6Fields{PayloadLen: 8})
	bad := slices.Clone(v4)
	bad[10] ^= 1 // checksum: matters only where the key would jump
	for _, tt := range []struct {
		name      string
		protocols Protocols
		plain     []byte
		lost      int
		want      engine.Drop
	}{
		{"IPv4", IPv4, append([]byte{0, 0x21}, v4...), 0, engine.Pass},
		{"IPv4, short protocol", IPv4, append([]byte{0x21}, v4...), 0, engine.Pass},
		{"IPv4 not accepted", IPv6, append([]byte{0, 0x21}, v4...), 0, engine.MPPEInsane},
		{"IPv6", IPv6, append([]byte{0, 0x57}, v6...), 0, engine.Pass},
		{"IPv6, short protocol", 0, append([]byte{0x57}, v6...), 5, engine.Pass},
		{"IPv6 not accepted", IPv4, append([]byte{0, 0x57}, v6...), 0, engine.MPPEInsane},
		{"IPv4 as IPv6", 0, append([]byte{0, 0x57}, v4...), 0, engine.MPPEInsane},
		{"VJ compressed", 0, append([]byte{0, 0x2d}, v4...), 0, engine.MPPEInsane},
		{"LCP", 0, append([]byte{0xc0, 0x21}, v4...), 0, engine.MPPEInsane},
		{"IPv4 cut", 0, append([]byte{0x21}, v4[:27]...), 0, engine.MPPEInsane},
		{"bad IPv4 checksum in turn", 0, append([]byte{0x21}, bad...), 0, engine.Pass},
		{"bad IPv4 checksum after a gap", 0, append([]byte{0x21}, bad...), 3, engine.MPPEInsane},
		{"good after a gap", 0, append([]byte{0x21}, v4...), 3, engine.Pass},
	} {
		rx, ref := newStateless(t, tt.protocols)
		for range tt.lost {
			ref.seal(nil)
		}
		jobs := []RxJob{{Rx: rx, Data: ref.seal(tt.plain)}}
		New(multi.Best()).Open(second, jobs)
		if jobs[0].Drop != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, jobs[0].Drop, tt.want)
		}
	}
}

// Forged jumps may cost a bounded amount of work a second; small gaps are
// followed all the same, and a genuine gap costs nothing.
func TestCatchUpBounded(t *testing.T) {
	rx, ref := newStateless(t, 0)
	e := New(multi.Best())
	r := rand.New(rand.NewPCG(1, 1))
	now := int64(second)
	drops := map[engine.Drop]int{}
	forged := func() engine.Drop {
		b := make([]byte, 60, 124)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		binary.BigEndian.PutUint16(b, 0x9000|(ref.count+2000)&countMask)
		jobs := []RxJob{{Rx: rx, Data: b}}
		e.Open(now, jobs)
		return jobs[0].Drop
	}
	for range 100 {
		drops[forged()]++
		for range 20 {
			ref.seal(nil) // lost
		}
		jobs := []RxJob{{Rx: rx, Data: ref.seal(plain(r, 1, 50))}}
		e.Open(now, jobs)
		if jobs[0].Drop != engine.Pass {
			t.Fatalf("genuine packet after a small gap: %v", jobs[0].Drop)
		}
		now += 1e6
	}
	if drops[engine.MPPEInsane] != 2 || drops[engine.MPPECatchUp] != 98 {
		t.Errorf("in a tenth of a second: %v, want 2 tried and 98 refused", drops)
	}
	now += 2 * second
	for range 1000 {
		ref.seal(nil)
	}
	jobs := []RxJob{{Rx: rx, Data: ref.seal(plain(r, 1, 50))}}
	e.Open(now, jobs)
	if jobs[0].Drop != engine.Pass || rx.tokens.n != catchUpRate {
		t.Errorf("genuine gap: %v, allowance %d of %d left", jobs[0].Drop, rx.tokens.n, catchUpRate)
	}
}

// An outage of any length is survived, whatever round of the count it ends in,
// even if every tenth packet after it is corrupt.
func TestOutage(t *testing.T) {
	r := rand.New(rand.NewPCG(12, 1))
	for _, lost := range []int{33, 2000, 2047, 2048, 2100, 4000, 4094, 4095, 4096, 4097, 6143, 6144, 9000, 40960, 100000} {
		rx, ref := newStateless(t, 0)
		e := New(multi.Best())
		jobs := []RxJob{{Rx: rx, Data: ref.seal(plain(r, 0, 50))}}
		e.Open(second, jobs)
		for range lost {
			ref.c.next()
		}
		ref.count = (ref.count + uint16(lost)) & countMask
		n := 0
		for ; n < lost/4+500; n++ {
			pl := plain(r, 1, 50)
			data := ref.seal(pl)
			if n%10 == 0 {
				data[2] ^= 0xff
			}
			jobs[0] = RxJob{Rx: rx, Data: data}
			e.Open(second+int64(n)*1e5, jobs)
			if jobs[0].Drop == engine.Pass {
				if !bytes.Equal(jobs[0].Data[2:], pl) {
					t.Fatalf("%d lost: opened to something else", lost)
				}
				break
			}
		}
		if limit := lost/10 + 100; n > limit {
			t.Errorf("%d lost: %d packets more before one opened, want at most %d", lost, n, limit)
		}
		if rx.scout != nil || rx.misses != 0 {
			t.Errorf("%d lost: still searching", lost)
		}
	}
}

// However often old packets come again, they do not open again, and the
// genuine ones in between and after do.
func TestReplay(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 1))
	rx, ref := newStateless(t, 0)
	e := New(multi.Best())
	var old [][]byte
	for range 30 {
		data := ref.seal(plain(r, 1, 50))
		old = append(old, bytes.Clone(data))
		e.Open(second, []RxJob{{Rx: rx, Data: data}})
	}
	for i := range 2000 {
		jobs := []RxJob{{Rx: rx, Data: append(make([]byte, 0, 200), old[len(old)-1-i%7]...)}}
		e.Open(second+int64(i), jobs)
		if jobs[0].Drop != engine.MPPELate {
			t.Fatalf("replay %d: %v", i, jobs[0].Drop)
		}
		if i%500 == 499 {
			jobs[0].Data = ref.seal(plain(r, 1, 50))
			e.Open(second+int64(i), jobs)
			if jobs[0].Drop != engine.Pass {
				t.Fatalf("genuine packet after %d replays: %v", i, jobs[0].Drop)
			}
		}
	}
}

func TestSizes(t *testing.T) {
	if n := unsafe.Sizeof(Tx{}); n > 96 {
		t.Errorf("Tx: %d bytes", n)
	}
	if n := unsafe.Sizeof(Rx{}); n > 96 {
		t.Errorf("Rx: %d bytes", n)
	}
}

func TestAllocations(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	for _, stateful := range []bool{false, true} {
		p := Params{Bits: 128, Stateful: stateful}
		var tx Tx
		var rx Rx
		if err := tx.Init(&p); err != nil {
			t.Fatal(err)
		}
		if err := rx.Init(&p); err != nil {
			t.Fatal(err)
		}
		tx.Follow(&rx)
		e := New(multi.Best())
		template := plain(r, 1, 100)
		txs, rxs := make([]TxJob, 40), make([]RxJob, 40)
		for i := range txs {
			txs[i] = TxJob{&tx, make([]byte, 2+len(template), 256)}
		}
		now := int64(second)
		pass := func() {
			for i := range txs {
				copy(txs[i].Data[2:], template)
			}
			e.Seal(txs)
			for i := range rxs {
				rxs[i] = RxJob{Rx: &rx, Data: txs[i].Data}
			}
			rxs[7].Data[20] ^= 1 // corrupt
			rxs = append(rxs[:11], rxs[12:]...)
			now += second
			e.Open(now, rxs)
			rxs = rxs[:40]
			tx.Flush(uint8(now >> 20))
			e.Rejected(now, &tx, template)
		}
		pass()
		if n := testing.AllocsPerRun(50, pass); n != 0 {
			t.Errorf("stateful %v: %v allocations a batch", stateful, n)
		}
	}
}

// FuzzOpen mixes arbitrary packets among genuine ones. Nothing panics, what
// opens is sane, and what is genuine and in order opens, unless an arbitrary
// packet was accepted before it.
func FuzzOpen(f *testing.F) {
	f.Add(false, []byte{3, 0x90, 0x00, 0x55, 0, 0, 5, 0x97, 0xff, 1, 2, 3, 0})
	f.Add(true, []byte{0, 0, 4, 0x10, 0x02, 1, 1, 0, 4, 0x90, 0x02, 1, 1, 0})
	f.Fuzz(func(t *testing.T, stateful bool, b []byte) {
		r := rand.New(rand.NewPCG(2, 2))
		var p Params
		p.Bits, p.Stateful = 128, stateful
		var tx Tx
		var rx Rx
		_, _ = tx.Init(&p), rx.Init(&p)
		e := New(multi.Best())
		var jobs []RxJob
		var want [][]byte
		for len(b) > 0 && len(jobs) < 300 {
			n := min(int(b[0]), len(b)-1)
			data := append(make([]byte, 0, n+64), b[1:1+n]...)
			b = b[1+n:]
			if n == 0 {
				pl := plain(r, uint32(len(jobs)), 50)
				data = append(make([]byte, 2, len(pl)+66), pl...)
				e.Seal([]TxJob{{&tx, data}})
				want = append(want, pl)
			} else {
				want = append(want, nil)
			}
			jobs = append(jobs, RxJob{Rx: &rx, Data: data})
		}
		e.Open(second, jobs)
		for i := range jobs {
			if jobs[i].Drop == engine.Pass {
				if !rx.sane(jobs[i].Data[2:], false) {
					t.Fatalf("packet %d passed and is not sane", i)
				}
				if want[i] == nil {
					return // accepted by luck, or a fuzzer that learnt the key
				}
			}
			if want[i] != nil && (jobs[i].Drop != engine.Pass || !bytes.Equal(jobs[i].Data[2:], want[i])) {
				t.Fatalf("genuine packet %d: %v", i, jobs[i].Drop)
			}
		}
	})
}

// FuzzHeader holds the header's parse against its bits read one by one.
func FuzzHeader(f *testing.F) {
	f.Add(byte(0x90), byte(0), 5, true)
	f.Add(byte(0x10), byte(0xff), 2, false)
	f.Fuzz(func(t *testing.T, a, b byte, n int, stateful bool) {
		data := make([]byte, min(max(n, 0), 64))
		if len(data) > 1 {
			data[0], data[1] = a, b
		}
		var rx Rx
		if err := rx.Init(&Params{Bits: 40, Stateful: stateful}); err != nil {
			t.Fatal(err)
		}
		h, d := rx.parse(data)
		want := engine.Pass
		switch {
		case len(data) < 3:
			want = engine.MPPEShort
		case a>>4&1 == 0:
			want = engine.MPPEPlain
		case a>>5&1 == 1, a>>7 == 0 && !stateful:
			want = engine.MPPEBits
		}
		if d != want || d == engine.Pass && (h&countMask != uint16(a&15)<<8|uint16(b) || byte(h>>8) != a) {
			t.Fatalf("%02x%02x, %d bytes: %#04x %v, want %v", a, b, len(data), h, d, want)
		}
	})
}

// TestPlainIPv4 holds the short check against the whole one, over packets that miss it by a little.
func TestPlainIPv4(t *testing.T) {
	r := rand.New(rand.NewPCG(23, 23))
	agreed := 0
	for range 20000 {
		rx := Rx{accept: []Protocols{IPv4, IPv6, IPv4 | IPv6}[r.IntN(3)]}
		p := make([]byte, r.IntN(40))
		copy(p, []byte{0, 0x21, 0x45, 0, 0, byte(r.IntN(40))})
		if len(p) > 0 && r.IntN(2) == 0 {
			p[r.IntN(min(len(p), 6))] = byte(r.Uint32())
		}
		got, want := rx.plainIPv4(p), rx.sane(p, false)
		twoByteIPv4 := len(p) > 2 && p[0] == 0 && p[1] == 0x21 && p[2] == 0x45
		if got && !want || want && !got && twoByteIPv4 {
			t.Fatalf("% x: %v, the whole check says %v", p, got, want)
		}
		if got {
			agreed++
		}
	}
	if agreed < 200 {
		t.Fatalf("only %d packets passed", agreed)
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, n := range []int{64, 1400} {
		b.Run(map[int]string{64: "64B", 1400: "1400B"}[n], func(b *testing.B) {
			const sessions = 64
			e := New(multi.Best())
			tx, rx := make([]Tx, sessions), make([]Rx, sessions)
			txs, rxs := make([]TxJob, sessions), make([]RxJob, sessions)
			pl := plain(rand.New(rand.NewPCG(1, 1)), 1, n)
			for i := range tx {
				p := Params{Bits: 128}
				p.Start[0] = byte(i)
				_, _ = tx[i].Init(&p), rx[i].Init(&p)
				txs[i] = TxJob{&tx[i], make([]byte, 2+len(pl), 2048)}
			}
			b.SetBytes(int64(n))
			for i := 0; i < b.N; i += sessions {
				for k := range txs {
					copy(txs[k].Data[2:], pl)
				}
				e.Seal(txs)
				for k := range rxs {
					rxs[k] = RxJob{Rx: &rx[k], Data: txs[k].Data}
				}
				e.Open(second, rxs)
			}
		})
	}
}
