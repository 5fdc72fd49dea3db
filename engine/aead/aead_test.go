package aead

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"

	"xpptp/engine"
	"xpptp/engine/mppe"
	"xpptp/engine/wire"
)

// plain is PPP protocol and an IPv4 packet with n bytes of payload.
func plain(n int) []byte {
	b := make([]byte, 2+wire.IPv4Len+n)
	off := wire.PutPPPProtocol(b, wire.PPPIPv4, false)
	wire.PutIPv4(b[off:], &wire.IPv4Fields{TTL: 64, Protocol: 17, PayloadLen: n})
	for i := range n {
		b[len(b)-1-i] = byte(7 * i)
	}
	return b
}

func params(s Suite) Params {
	return Params{Suite: s, Master: bytes.Repeat([]byte{7}, 32), Context: []byte("test"), Role: Client}
}

// pair is the direction from client to server.
func pair(t testing.TB, s Suite) (*Tx, *Rx) {
	t.Helper()
	p := params(s)
	var tx Tx
	var rx Rx
	if err := tx.Init(&p); err != nil {
		t.Fatal(err)
	}
	p.Role = Server
	if err := rx.Init(&p); err != nil {
		t.Fatal(err)
	}
	return &tx, &rx
}

// seek makes n the number of the next packet.
func (t *Tx) seek(n uint64) {
	for e := (max(t.next, 1) - 1) >> epochBits; e < (max(n, 1)-1)>>epochBits; e++ {
		t.update()
	}
	t.next = n
}

// seek makes rx expect number n > 0, as if it had seen the one before.
func (r *Rx) seek(n uint64) {
	for r.epoch < (n-1)>>epochBits {
		r.enter(r.epoch+1, nil)
	}
	r.window.add(n - 1)
}

// seal returns text as the next packet of tx.
func seal(e *Engine, tx *Tx, text []byte) []byte {
	b := make([]byte, len(text)+Overhead)
	copy(b[HeaderLen:], text)
	e.Seal([]TxJob{{tx, b}})
	return b
}

// open opens a copy of b and returns what was in it.
func open(e *Engine, rx *Rx, b []byte) ([]byte, engine.Drop) {
	b = bytes.Clone(b)
	jobs := []RxJob{{Rx: rx, Data: b}}
	e.Open(0, jobs)
	if jobs[0].Drop != engine.Pass {
		return nil, jobs[0].Drop
	}
	return b[HeaderLen : len(b)-TagLen], engine.Pass
}

// TestVectors holds both directions against examples that another implementation made.
func TestVectors(t *testing.T) {
	file, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	type hexString string
	var sets []struct {
		Suite, Sender   string
		Master, Context hexString
		Packets         []struct {
			Number                uint64
			Key, IV, Text, Packet hexString
		}
	}
	if err := json.Unmarshal(file, &sets); err != nil {
		t.Fatal(err)
	}
	raw := func(s hexString) []byte {
		b, err := hex.DecodeString(string(s))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if len(sets) != 4 {
		t.Fatalf("%d sets of vectors, want each suite from each end", len(sets))
	}
	e := New()
	for _, set := range sets {
		p := Params{Master: raw(set.Master), Context: raw(set.Context), Role: Client}
		if p.Suite, err = ParseSuite(set.Suite); err != nil {
			t.Fatal(err)
		}
		if set.Sender == Server.String() {
			p.Role = Server
		}
		var tx Tx
		var rx Rx
		if err := tx.Init(&p); err != nil {
			t.Fatal(err)
		}
		p.Role = p.Role.peer()
		if err := rx.Init(&p); err != nil {
			t.Fatal(err)
		}
		c, err := newChain(&p, p.Role.peer())
		if err != nil {
			t.Fatal(err)
		}
		epoch := uint64(0)
		for _, v := range set.Packets {
			for ; epoch < v.Number>>epochBits; epoch++ {
				c.step()
			}
			if got := c.key(); !bytes.Equal(expand(c.secret[:], "key", keyLen), raw(v.Key)) || !bytes.Equal(got.iv[:], raw(v.IV)) {
				t.Errorf("%s from %s: keys of packet %d are others", set.Suite, set.Sender, v.Number)
			}
			tx.seek(v.Number)
			if got := seal(e, &tx, raw(v.Text)); !bytes.Equal(got, raw(v.Packet)) {
				t.Errorf("%s from %s: packet %d is %x, want %s", set.Suite, set.Sender, v.Number, got, v.Packet)
			}
			if v.Number > 0 {
				rx.seek(v.Number)
			}
			if got, d := open(e, &rx, raw(v.Packet)); d != engine.Pass || !bytes.Equal(got, raw(v.Text)) {
				t.Errorf("%s from %s: packet %d opens as %x, %v", set.Suite, set.Sender, v.Number, got, d)
			}
		}
	}
}

// TestWindow holds the bitmap against a set, over numbers that jump about.
func TestWindow(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 200 {
		var w window
		seen := map[uint64]bool{}
		highest, any := uint64(0), false
		at := r.Uint64N(3) * r.Uint64N(1<<40)
		for range 3000 {
			switch r.IntN(40) {
			case 0:
				at += r.Uint64N(1 << 13)
			case 1:
				at += Window + r.Uint64N(130) - 65
			default:
				at += r.Uint64N(3)
			}
			n := at - min(at, r.Uint64N([]uint64{1, 8, 64, Window + 3}[r.IntN(4)]))
			want := engine.Pass
			switch {
			case any && n < highest && highest-n >= Window:
				want = engine.AEADLate
			case seen[n]:
				want = engine.AEADReplay
			}
			if d := w.check(n); d != want {
				t.Fatalf("number %d after %d: %v, want %v", n, highest, d, want)
			}
			if want == engine.Pass && r.IntN(4) > 0 {
				w.add(n)
				seen[n], any = true, true
				highest = max(highest, n)
			}
		}
	}
}

// TestNumber: whatever is within 2^31 of the number awaited is found from its lower half.
func TestNumber(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	for range 100000 {
		w := window{next: r.Uint64() >> (8 + r.IntN(50))}
		n := w.next + r.Uint64N(1<<31)
		if r.IntN(2) == 0 {
			n = w.next - min(w.next, r.Uint64N(1<<31))
		}
		if got := w.number(uint32(n)); got != n {
			t.Fatalf("%d, waiting for %d: %d", n, w.next, got)
		}
	}
}

// TestHostile: nothing but the packet itself, once, from the other end, gets through, and what does
// not leaves no trace.
func TestHostile(t *testing.T) {
	e := New()
	for _, s := range Suites() {
		tx, rx := pair(t, s)
		text := plain(40)
		for range 100 {
			if _, d := open(e, rx, seal(e, tx, text)); d != engine.Pass {
				t.Fatal(d)
			}
		}
		before := *rx
		refuse := func(what string, b []byte, want engine.Drop) {
			t.Helper()
			if _, d := open(e, rx, b); d != want {
				t.Errorf("%v: %s: %v, want %v", s, what, d, want)
			}
			if rx.far = before.far; *rx != before {
				t.Fatalf("%v: %s left a trace", s, what)
			}
		}
		good := seal(e, tx, text)
		for n := range good {
			want := engine.AEADForged
			if n <= Overhead {
				want = engine.AEADShort
			}
			refuse("truncated", good[:n], want)
		}
		refuse("a byte more", append(bytes.Clone(good), 0), engine.AEADForged)
		for bit := range 8 * len(good) {
			b := bytes.Clone(good)
			b[bit/8] ^= 1 << (bit % 8)
			_, d := open(e, rx, b)
			if d == engine.Pass {
				t.Fatalf("%v: bit %d forged gets through", s, bit)
			}
			if rx.far = before.far; *rx != before {
				t.Fatalf("%v: bit %d forged left a trace", s, bit)
			}
		}

		var back Tx // the same secret, the other way
		p := params(s)
		p.Role = Server
		if err := back.Init(&p); err != nil {
			t.Fatal(err)
		}
		back.seek(tx.next)
		refuse("from the wrong end", seal(e, &back, text), engine.AEADForged)
		for _, change := range []func(*Params){
			func(p *Params) { p.Context = []byte("tesT") },
			func(p *Params) { p.Master = bytes.Repeat([]byte{7}, 33) },
			func(p *Params) { p.Suite = AES256GCM + ChaCha20Poly1305 - p.Suite },
		} {
			p := params(s)
			change(&p)
			var other Tx
			if err := other.Init(&p); err != nil {
				t.Fatal(err)
			}
			other.seek(tx.next)
			refuse("of other keys", seal(e, &other, text), engine.AEADForged)
		}

		if got, d := open(e, rx, good); d != engine.Pass || !bytes.Equal(got, text) {
			t.Fatalf("%v: after all that the packet itself: %v", s, d)
		}
		before = *rx
		refuse("again", good, engine.AEADReplay)
		var none Rx
		if _, d := open(e, &none, good); d != engine.AEADNoKey {
			t.Errorf("no key: %v", d)
		}
		if _, d := open(e, nil, good); d != engine.AEADNoKey {
			t.Errorf("no direction: %v", d)
		}
	}
}

// TestInsane: an authentic packet is taken off the window, whatever is in it.
func TestInsane(t *testing.T) {
	e := New()
	tx, rx := pair(t, AES256GCM)
	v6 := make([]byte, 2+wire.IPv6Len)
	off := wire.PutPPPProtocol(v6, wire.PPPIPv6, false)
	wire.PutIPv6(v6[off:], &wire.IPv6Fields{NextHeader: 59})
	if _, d := open(e, rx, seal(e, tx, v6)); d != engine.Pass {
		t.Errorf("IPv6: %v", d)
	}
	rx.accept = mppe.IPv4
	for _, text := range [][]byte{v6, {0}, {0xc0, 0x21, 1, 1, 0, 4}, plain(20)[:30]} {
		b := seal(e, tx, text)
		if _, d := open(e, rx, b); d != engine.AEADInsane {
			t.Errorf("% x: %v", text, d)
		}
		if _, d := open(e, rx, b); d != engine.AEADReplay {
			t.Errorf("% x again: %v", text, d)
		}
	}
}

// TestReorder delivers packets in any order, each once, across a change of keys.
func TestReorder(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	e := New()
	for _, s := range Suites() {
		for _, start := range []uint64{0, 1<<epochBits - 1000, 1<<32 - 1000} {
			tx, rx := pair(t, s)
			tx.seek(start)
			if start > 0 {
				rx.seek(start)
			}
			var air [][]byte
			sent, got := 0, 0
			for sent < 4000 || len(air) > 0 {
				for sent < 4000 && len(air) < 500 {
					air = append(air, seal(e, tx, plain(sent%50)))
					sent++
				}
				i := r.IntN(min(len(air), 300)) // the oldest is taken in time
				b := air[i]
				if r.IntN(20) == 0 {
					i = 0
					b = air[0]
				}
				air = append(air[:i], air[i+1:]...)
				if _, d := open(e, rx, b); d != engine.Pass {
					t.Fatalf("%v from %d: packet %d: %v", s, start, sent, d)
				}
				got++
				if _, d := open(e, rx, b); d != engine.AEADReplay {
					t.Fatalf("%v from %d: a packet twice: %v", s, start, d)
				}
			}
			if got != 4000 {
				t.Fatalf("%d packets delivered", got)
			}
		}
	}
}

// TestUpdate sends packets across a change of keys in batches, a few of them forged, and loses none
// of the others. XPPTP_PACKETS says how many; ten million begin at number 0.
func TestUpdate(t *testing.T) {
	packets, start := 40000, uint64(1<<epochBits-20000)
	if n, err := strconv.Atoi(os.Getenv("XPPTP_PACKETS")); err == nil {
		packets, start = n, 0
	}
	e := New()
	for _, s := range Suites() {
		tx, rx := pair(t, s)
		tx.seek(start)
		if start > 0 {
			rx.seek(start)
		}
		text := plain(22)
		var txs [64]TxJob
		var rxs [64]RxJob
		for i := range txs {
			b := make([]byte, len(text)+Overhead)
			txs[i], rxs[i] = TxJob{tx, b}, RxJob{Rx: rx, Data: b}
		}
		first := rx.keys[current]
		for n := 0; n < packets; n += len(txs) {
			for i := range txs {
				copy(txs[i].Data[HeaderLen:], text)
			}
			e.Seal(txs[:])
			forged := n / 64 % 64
			if n%1024 == 0 {
				txs[forged].Data[n/1024%len(text)] ^= 1
			}
			e.Open(int64(n), rxs[:])
			for i := range rxs {
				if bad := i == forged && n%1024 == 0; (rxs[i].Drop == engine.Pass) == bad {
					t.Fatalf("%v: packet %d: %v", s, n+i, rxs[i].Drop)
				}
			}
		}
		if rx.epoch != (start+uint64(packets)-1)>>epochBits || rx.epoch > 0 && rx.keys[current] == first {
			t.Fatalf("%v: epoch %d at the end", s, rx.epoch)
		}
	}
}

// TestFarAhead: a receiver that missed whole epochs finds the sender again, and who only says to be
// far ahead costs it a bounded number of tries.
func TestFarAhead(t *testing.T) {
	e := New()
	tx, rx := pair(t, ChaCha20Poly1305)
	if _, d := open(e, rx, seal(e, tx, plain(1))); d != engine.Pass {
		t.Fatal(d)
	}
	tx.seek(7<<epochBits + 5)
	good := seal(e, tx, plain(2))
	forged := bytes.Clone(good)
	forged[len(forged)-1] ^= 1
	before := *rx
	tried := 0
	for range 100 {
		jobs := []RxJob{{Rx: rx, Data: bytes.Clone(forged)}}
		e.Open(0, jobs)
		switch jobs[0].Drop {
		case engine.AEADForged:
			tried++
		case engine.AEADFar:
		default:
			t.Fatal(jobs[0].Drop)
		}
	}
	if tried != farTries {
		t.Errorf("%d tries in no time, want %d", tried, farTries)
	}
	if before.far = rx.far; *rx != before {
		t.Error("forged packets left a trace")
	}
	if _, d := open(e, rx, good); d != engine.AEADFar {
		t.Errorf("beyond the bound: %v", d)
	}
	jobs := []RxJob{{Rx: rx, Data: bytes.Clone(good)}}
	e.Open(second, jobs)
	if jobs[0].Drop != engine.Pass || rx.epoch != 7 {
		t.Fatalf("a second later: %v, epoch %d", jobs[0].Drop, rx.epoch)
	}
	tx.seek(8<<epochBits - 1)
	for n := range 3 { // the epochs that follow go as ever
		if _, d := open(e, rx, seal(e, tx, plain(3))); d != engine.Pass {
			t.Fatalf("packet %d after the jump: %v", n, d)
		}
	}
	if rx.epoch != 8 {
		t.Errorf("epoch %d, want 8", rx.epoch)
	}
}

func TestInitRefuses(t *testing.T) {
	for want, change := range map[string]func(*Params){
		"suite 0":              func(p *Params) { p.Suite = 0 },
		"suite 3":              func(p *Params) { p.Suite = 3 },
		"role 0":               func(p *Params) { p.Role = 0 },
		"role 3":               func(p *Params) { p.Role = 3 },
		"master secret of 31 ": func(p *Params) { p.Master = p.Master[:31] },
	} {
		p := params(AES256GCM)
		change(&p)
		var tx Tx
		var rx Rx
		for _, err := range []error{tx.Init(&p), rx.Init(&p)} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v", want, err)
			}
		}
		if tx.Ready() || rx.Ready() {
			t.Errorf("%s: ready", want)
		}
	}
	if _, err := ParseSuite("rc4"); err == nil || !strings.Contains(err.Error(), `"rc4"`) {
		t.Errorf("suite rc4: %v", err)
	}
}

// TestAllocs: packets good and bad cost no allocation.
func TestAllocs(t *testing.T) {
	e := New()
	for _, s := range Suites() {
		tx, rx := pair(t, s)
		text := plain(100)
		var txs [8]TxJob
		var rxs [8]RxJob
		for i := range txs {
			b := make([]byte, len(text)+Overhead)
			txs[i], rxs[i] = TxJob{tx, b}, RxJob{Rx: rx, Data: b}
		}
		if n := testing.AllocsPerRun(100, func() {
			for i := range txs {
				copy(txs[i].Data[HeaderLen:], text)
			}
			e.Seal(txs[:])
			txs[3].Data[20] ^= 1
			e.Open(0, rxs[:])
		}); n != 0 {
			t.Errorf("%v: %v allocations for a batch", s, n)
		}
		if rxs[2].Drop != engine.Pass || rxs[3].Drop != engine.AEADForged {
			t.Errorf("%v: %v, %v", s, rxs[2].Drop, rxs[3].Drop)
		}
	}
}

// FuzzOpen: what a sender did not seal is dropped and leaves no trace; what it did comes out as it
// went in, once, whatever stands around it.
func FuzzOpen(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 1, 2, 3}, uint32(0), plain(5))
	f.Add(bytes.Repeat([]byte{0xff}, 60), uint32(1<<epochBits-1), plain(0))
	f.Add(make([]byte, 30), uint32(1<<31), []byte{0x21, 0x45})
	f.Fuzz(func(t *testing.T, noise []byte, at uint32, text []byte) {
		e := New()
		for _, s := range Suites() {
			tx, rx := pair(t, s)
			n := uint64(at) % (4 << epochBits)
			tx.seek(n)
			if n > 0 {
				rx.seek(n)
			}
			before := *rx
			if _, d := open(e, rx, noise); d == engine.Pass || d == engine.AEADInsane {
				t.Fatalf("%v: noise opens: %v", s, d)
			}
			if rx.far = before.far; *rx != before {
				t.Fatalf("%v: noise left a trace", s)
			}
			frame := append(append([]byte("before"), make([]byte, len(text)+Overhead)...), "after"...)
			b := frame[6 : 6+len(text)+Overhead]
			copy(b[HeaderLen:], text)
			e.Seal([]TxJob{{tx, b}})
			got, d := open(e, rx, b)
			want := engine.Pass
			switch {
			case len(text) == 0:
				want = engine.AEADShort
			case !rx.accept.Sane(text):
				want = engine.AEADInsane
			}
			if d != want || d == engine.Pass && !bytes.Equal(got, text) {
				t.Fatalf("%v: %x opens as %x, %v, want %v", s, text, got, d, want)
			}
			if string(frame[:6]) != "before" || string(frame[len(frame)-5:]) != "after" {
				t.Fatalf("%v: wrote beside the packet", s)
			}
		}
	})
}

// BenchmarkPacket is bytes a second of what stands inside, at 64 bytes, the mix of 64, 576 and 1400
// bytes at 7:4:1, and 1400 bytes.
func BenchmarkPacket(b *testing.B) {
	mix := []int{64, 64, 576, 64, 576, 64, 64, 1400, 576, 64, 576, 64}
	for _, s := range Suites() {
		for _, size := range []string{"64", "imix", "1400"} {
			for _, direction := range []string{"seal", "open"} {
				b.Run(s.String()+"/"+size+"/"+direction, func(b *testing.B) {
					e := New()
					tx, rx := pair(b, s)
					var txs, sealed []TxJob
					var rxs []RxJob
					total := 0
					for _, n := range mix {
						if size != "imix" {
							n, _ = strconv.Atoi(size)
						}
						frame := make([]byte, n+Overhead)
						copy(frame[HeaderLen:], plain(n-22))
						txs = append(txs, TxJob{tx, frame})
						sealed = append(sealed, TxJob{tx, bytes.Clone(frame)})
						rxs = append(rxs, RxJob{Rx: rx, Data: bytes.Clone(frame)})
						total += n
					}
					e.Seal(sealed)
					b.SetBytes(int64(total))
					for range b.N {
						if direction == "seal" {
							e.Seal(txs)
							continue
						}
						rx.window = window{}
						for i := range rxs {
							copy(rxs[i].Data, sealed[i].Data)
						}
						e.Open(0, rxs)
						if rxs[0].Drop != engine.Pass {
							b.Fatal(rxs[0].Drop)
						}
					}
					b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(mix)), "ns/packet")
				})
			}
		}
	}
}
