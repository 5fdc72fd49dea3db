package mppc

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	"xpptp/engine"
)

// corpora are what packets are cut from.
func corpora(t testing.TB) map[string][]byte {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	random := make([]byte, 40000)
	for i := range random {
		random[i] = byte(r.Uint32())
	}
	few := make([]byte, 40000) // many short matches, everywhere
	for i := range few {
		few[i] = "ab\xfe"[r.IntN(3)]
	}
	mixed := bytes.Join([][]byte{random[:3000], make([]byte, 9000), few[:5000], random[3000:3100], few[:9000]}, nil)
	var text, traffic []byte
	for _, name := range files(t, "../../testdata/captures/*.txt", "../../README.md", "*.go") {
		text = append(text, read(t, name)...)
	}
	for _, name := range files(t, "../../testdata/captures/*.pcap") {
		traffic = append(traffic, read(t, name)...)
	}
	return map[string][]byte{
		"text":    text[:min(len(text), 60000)],
		"traffic": traffic[:min(len(traffic), 60000)],
		"zeros":   make([]byte, 40000),
		"random":  random,
		"few":     few,
		"mixed":   mixed,
	}
}

func files(t testing.TB, patterns ...string) (names []string) {
	t.Helper()
	for _, p := range patterns {
		found, err := filepath.Glob(p)
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %d files, %v", p, len(found), err)
		}
		names = append(names, found...)
	}
	return names
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// split cuts data into packets of up to size bytes, or of 1 to 1500 if 0.
func split(data []byte, size int) (packets [][]byte) {
	r := rand.New(rand.NewPCG(3, 4))
	for len(data) > 0 {
		n := size
		if n == 0 {
			n = 1 + r.IntN(1500)
		}
		n = min(n, len(data))
		packets = append(packets, data[:n:n])
		data = data[n:]
	}
	return packets
}

// link is a Tx and an Rx with nothing lost between them.
type link struct {
	tx  Tx
	rx  Rx
	ref reference
}

// send carries a packet over, checks that it arrives, and what the bits claim.
func (l *link) send(t testing.TB, packet []byte) (sent []byte, b Bits) {
	t.Helper()
	in := bytes.Clone(packet)
	sent, b = l.tx.Compress(make([]byte, len(packet)), in)
	if !bytes.Equal(in, packet) {
		t.Fatal("Compress has changed its input")
	}
	if b&Compressed != 0 && len(sent) >= len(packet) || b&Compressed == 0 && !bytes.Equal(sent, packet) {
		t.Fatalf("%d bytes of %d sent with bits %04x", len(sent), len(packet), b)
	}
	if b&Compressed != 0 && b&Flushed == 0 && l.rx.top == 0 {
		t.Fatalf("bits %04x: the history is empty and nothing says so", b)
	}
	before := l.rx
	got, d := l.rx.Decompress(make([]byte, len(packet)), sent, b)
	if d != engine.Pass || !bytes.Equal(got, packet) {
		t.Fatalf("packet of %d bytes, sent as %d with bits %04x: %v, %d bytes, want them unchanged", len(packet), len(sent), b, d, len(got))
	}
	if l.rx != before {
		t.Fatal("Decompress has changed the state")
	}
	l.rx.Commit(got, b)
	if got, err := l.ref.decompress(sent, b); err != nil || !bytes.Equal(got, packet) {
		t.Fatalf("packet of %d bytes, sent with bits %04x: RFC 2118 read literally: %v, %d bytes", len(packet), b, err, len(got))
	}
	if l.ref.at != l.rx.pos || l.ref.ring != l.rx.hist || l.rx.pos != l.tx.pos || l.rx.top != l.tx.top {
		t.Fatalf("histories differ: Rx at %d of %d, Tx at %d of %d, reference at %d", l.rx.pos, l.rx.top, l.tx.pos, l.tx.top, l.ref.at)
	}
	if l.tx.top > HistoryLen-4 {
		t.Fatalf("the history is filled up to %d", l.tx.top)
	}
	if !bytes.Equal(l.rx.hist[:l.rx.top], l.tx.hist[:l.tx.top]) {
		t.Fatal("histories of Tx and Rx differ")
	}
	return sent, b
}

func TestRoundTrip(t *testing.T) {
	for name, data := range corpora(t) {
		for _, size := range []int{1, 2, 3, 4, 5, 7, 8, 9, 31, 64, 255, 576, 1400, 1500, 4096, 8187, 8188, 8189, 8192, 9000, 0} {
			t.Run(fmt.Sprint(name, size), func(t *testing.T) {
				var l link
				fronts, in, out := 0, 0, 0
				part := data
				if size > 0 && size < 9 {
					part = data[:8192+100]
				}
				if testing.Short() {
					part = part[:min(len(part), 20000)]
				}
				for _, p := range split(part, size) {
					sent, b := l.send(t, p)
					in, out = in+len(p), out+len(sent)
					if b&AtFront != 0 {
						fronts++
					}
				}
				if size > 64 && size < 8000 && (name == "text" || name == "few" || name == "zeros") {
					if out > in*3/4 || fronts < in/HistoryLen {
						t.Errorf("%d bytes became %d, %d times from the front", in, out, fronts)
					}
				}
			})
		}
	}
}

// All ways to cut a short text into two and three packets.
func TestEverySplit(t *testing.T) {
	data := []byte("abcabcabcabc\x00\x00\x00\x00\x00\xff\xfe\xff\xfeabcabc\xff\xfe\xff\xfeabcabcabc")
	for i := range len(data) + 1 {
		for k := i; k <= len(data); k++ {
			var l link
			for _, p := range [][]byte{data[:i], data[i:k], data[k:]} {
				l.send(t, p)
			}
		}
	}
}

func TestProperties(t *testing.T) {
	type op struct {
		reset bool
		data  []byte
	}
	gen := rapid.Custom(func(t *rapid.T) op {
		var o op
		o.reset = rapid.IntRange(0, 9).Draw(t, "reset") == 0
		alphabet := rapid.SampledFrom([]int{1, 2, 4, 256}).Draw(t, "alphabet")
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		o.data = make([]byte, rapid.SampledFrom([]int{0, 1, 2, 3, 30, 300, 1400, 3000, 8188, 8189}).Draw(t, "size"))
		for i := range o.data {
			o.data[i] = byte(r.IntN(alphabet) * 255 / alphabet)
		}
		return o
	})
	rapid.Check(t, func(rt *rapid.T) {
		var l link
		for _, o := range rapid.SliceOfN(gen, 1, 20).Draw(rt, "ops") {
			if o.reset {
				l.tx.Reset()
			}
			if _, b := l.send(t, o.data); o.reset && b&Flushed == 0 {
				rt.Fatalf("bits %04x after a reset", b)
			}
		}
	})
}

// After a loss compressed packets are dropped until the reset has taken effect;
// plain ones get through. Nothing wrong is ever delivered.
func TestLossAndReset(t *testing.T) {
	for name, data := range corpora(t) {
		var (
			tx      Tx
			rx      Rx
			r       = rand.New(rand.NewPCG(5, 6))
			request int // packets until the peer's Reset-Request is here, 0 none under way
			dropped int
		)
		for i, p := range split(data, 0) {
			if request > 0 {
				if request--; request == 0 {
					tx.Reset()
				}
			}
			sent, b := tx.Compress(make([]byte, len(p)), p)
			if r.IntN(5) == 0 {
				rx.Lost()
				if request == 0 {
					request = 3
				}
				continue
			}
			got, d := rx.Decompress(make([]byte, len(p)), sent, b)
			if d != engine.Pass {
				if d != engine.MPPCOutOfSync || rx.InSync() || b&Flushed != 0 {
					t.Fatalf("%s: packet %d: %v", name, i, d)
				}
				dropped++
				if request == 0 {
					request = 3
				}
				continue
			}
			if !bytes.Equal(got, p) {
				t.Fatalf("%s: packet %d is wrong", name, i)
			}
			rx.Commit(got, b)
			if b&Flushed != 0 && !rx.InSync() {
				t.Fatalf("%s: packet %d, flushed, has not brought the two in sync", name, i)
			}
		}
		if dropped == 0 && name != "random" && name != "traffic" {
			t.Errorf("%s: losses without effect", name)
		}
	}
}

// The bits of plain and compressed packets around what does not compress.
func TestBits(t *testing.T) {
	c := corpora(t)
	text, random := c["text"][:1000], split(c["random"], 1000)
	var l link
	expect := func(what string, packet []byte, want Bits) {
		t.Helper()
		if _, b := l.send(t, packet); b != want {
			t.Errorf("%s: bits %04x, want %04x", what, b, want)
		}
	}
	expect("random first of all", random[0], 0)
	expect("text", text, Flushed|AtFront|Compressed)
	expect("text again", text, Compressed)
	expect("too long for the history", make([]byte, 8189), 0)
	expect("text still known", text, Compressed)
	expect("random", random[1], Flushed)
	expect("random again", random[2], 0)
	expect("after two of them not tried", text, 0)
	expect("text", text, Flushed|AtFront|Compressed)
	for range 5 {
		expect("text", text, Compressed)
	}
	l.tx.Reset()
	expect("reset, then random", random[3], Flushed)
	expect("text", text, Flushed|AtFront|Compressed)
	l.tx.Reset()
	expect("reset, then text", text, Flushed|AtFront|Compressed)
	expect("too long for the history", make([]byte, 8189), 0)
	for range 7 {
		expect("text", text, Compressed)
	}
	expect("no room at the end", text, AtFront|Compressed)
	if sent, b := l.tx.Compress(nil, text); b != Flushed || !bytes.Equal(sent, text) {
		t.Errorf("without room: %d bytes, bits %04x", len(sent), b)
	}
}

// The room that the result needs is enough.
func TestRoom(t *testing.T) {
	data := corpora(t)["text"]
	for size := 300; size < 340; size++ {
		sent, _ := new(Tx).Compress(make([]byte, size), data[:size])
		if len(sent) >= size {
			t.Fatalf("%d bytes of text did not become smaller", size)
		}
		if again, b := new(Tx).Compress(make([]byte, len(sent)), data[:size]); b&Compressed == 0 || !bytes.Equal(again, sent) {
			t.Errorf("%d bytes into a room of %d: %d, bits %04x", size, len(sent), len(again), b)
		}
		if again, b := new(Tx).Compress(make([]byte, len(sent)-1), data[:size]); b != 0 || len(again) != size {
			t.Errorf("%d bytes into a room of %d: %d, bits %04x", size, len(sent)-1, len(again), b)
		}
	}
}

// What does not compress is tried less and less often, and again when it does.
func TestPause(t *testing.T) {
	c := corpora(t)
	var tx Tx
	dst := make([]byte, 1400)
	var tried []int
	for i := range 100 {
		before := tx.pause
		tx.Compress(dst, c["random"][:1400])
		if before == 0 {
			tried = append(tried, i)
		}
	}
	if got, want := fmt.Sprint(tried), "[0 1 3 6 11 20 37 54 71 88]"; got != want {
		t.Errorf("tried %s, want %s", got, want)
	}
	for i := 0; ; i++ {
		if _, b := tx.Compress(dst, c["text"][:1400]); b&Compressed != 0 {
			break
		}
		if i > maxPause {
			t.Fatal("text is not compressed any more")
		}
	}
	if _, b := tx.Compress(dst, c["text"][:1400]); b&Compressed == 0 {
		t.Error("text is compressed once only")
	}
}

// Every literal and the limits of every code, as the bits that RFC 2118 §4 gives.
func TestCodes(t *testing.T) {
	coded := func(put func(*writer)) string {
		w := writer{dst: make([]byte, 16)}
		put(&w)
		n := w.have
		w.end()
		return fmt.Sprintf("%064b", binary.BigEndian.Uint64(w.dst))[:n]
	}
	for b := range 256 {
		want := fmt.Sprintf("0%07b", b)
		if b >= 0x80 {
			want = fmt.Sprintf("10%07b", b-0x80)
		}
		if got := coded(func(w *writer) { w.literal(byte(b)) }); got != want {
			t.Errorf("literal %02x: %s, want %s", b, got, want)
		}
	}
	for o := 1; o < HistoryLen; o++ {
		want := fmt.Sprintf("1111%06b", o)
		if o >= 320 {
			want = fmt.Sprintf("110%013b", o-320)
		} else if o >= 64 {
			want = fmt.Sprintf("1110%08b", o-64)
		}
		got := coded(func(w *writer) { w.offset(o) })
		if got != want {
			t.Errorf("offset %d: %s, want %s", o, got, want)
		}
		if back, used := readOffset(unbits(got)); back != o || used != len(want) {
			t.Errorf("offset %d is read as %d in %d bits", o, back, used)
		}
	}
	// The table of §4.2.2, row by row.
	for _, row := range []struct {
		from, to int
		prefix   string
		bits     int
	}{
		{3, 3, "0", 0},
		{4, 7, "10", 2},
		{8, 15, "110", 3},
		{16, 31, "1110", 4},
		{32, 63, "11110", 5},
		{64, 127, "111110", 6},
		{128, 255, "1111110", 7},
		{256, 511, "11111110", 8},
		{512, 1023, "111111110", 9},
		{1024, 2047, "1111111110", 10},
		{2048, 4095, "11111111110", 11},
		{4096, 8191, "111111111110", 12},
	} {
		for n := row.from; n <= row.to; n++ {
			want := row.prefix
			if row.bits > 0 {
				want += fmt.Sprintf("%0*b", row.bits, n-row.from)
			}
			got := coded(func(w *writer) { w.length(n) })
			if got != want {
				t.Errorf("length %d: %s, want %s", n, got, want)
			}
			if back, used := readLength(unbits(got)); back != n || used != len(want) {
				t.Errorf("length %d is read as %d in %d bits", n, back, used)
			}
		}
	}
	if _, used := readLength(unbits("111111111111")); used != 0 {
		t.Error("a length of twelve 1s is read")
	}
}

func unbits(s string) (v uint64) {
	for i, c := range s {
		v |= uint64(c-'0') << (63 - i)
	}
	return v
}

// pack makes bytes from bits, padded with zeros.
func pack(parts ...string) (b []byte) {
	var s string
	for _, p := range parts {
		s += p
	}
	for len(s)%8 != 0 {
		s += "0"
	}
	for ; s != ""; s = s[8:] {
		b = append(b, byte(unbits(s[:8])>>56))
	}
	return b
}

// "for" and a match of 3 bytes, 3 back, as the pieces of RFC 2118 §4 give it,
// and what is wrong, each after "for" stands in the history.
func TestDecompressByHand(t *testing.T) {
	const f, o, r = "01100110", "01101111", "01110010"
	back := func(n int) string { return fmt.Sprintf("1111%06b", n) }
	far := func(n int) string { return fmt.Sprintf("110%013b", n-320) }
	for _, tt := range []struct {
		name string
		bits Bits
		in   []byte
		room int
		want string
		drop engine.Drop
	}{
		{"literals", Compressed, pack(f, o, r), 10, "for", engine.Pass},
		{"high literals", Compressed, pack("101111111", "100000000"), 10, "\xff\x80", engine.Pass},
		{"match", Compressed, pack(back(3), "0"), 10, "for", engine.Pass},
		{"match over itself", Compressed, pack(f, back(1), "1000"), 10, "fffff", engine.Pass},
		{"match over itself, 2 back", Compressed, pack(f, o, back(2), "1011"), 10, "fofofofof", engine.Pass},
		{"match out of the history into the packet", Compressed, pack(f, back(3), "1011"), 10, "forforfo", engine.Pass},
		{"padding is not looked at", Compressed, []byte{'f', 0x80, 0x7f}, 10, "f\x80", engine.Pass},
		{"exactly the room", Compressed, pack(back(3), "0", f), 4, "forf", engine.Pass},
		{"flushed", Flushed | Compressed, pack(f), 10, "f", engine.Pass},
		{"from the front", AtFront | Compressed, pack(f, o), 10, "fo", engine.Pass},
		{"from the front, what stood there and zeros behind", AtFront | Compressed, pack(far(8191), "0"), 10, "or\x00", engine.Pass},
		{"from the front, what was never written", AtFront | Compressed, pack(far(8189), "0"), 10, "", engine.MPPCBad},
		{"room for a literal", Compressed, pack(f, o), 1, "", engine.MPPCLong},
		{"room for a match", Compressed, pack(back(3), "0"), 2, "", engine.MPPCLong},
		{"offset 0", Compressed, pack(back(0), "0"), 10, "", engine.MPPCBad},
		{"before the history", Compressed, pack(back(4), "0"), 10, "", engine.MPPCBad},
		{"before the packet, flushed", Flushed | Compressed, pack(f, back(2), "0"), 10, "", engine.MPPCBad},
		{"offset 8192", Compressed, pack(far(8192), "0"), 10, "", engine.MPPCBad},
		{"the largest offset", Compressed, pack(far(8511), "0"), 10, "", engine.MPPCBad},
		{"length of twelve 1s", Compressed, pack(back(3), "111111111111", "0000000000000"), 9000, "", engine.MPPCBad},
		{"longer than the history", Compressed, pack(back(3), "111111111110", "111111111111"), 9000, "", engine.MPPCBad},
		{"empty", Compressed, nil, 10, "", engine.MPPCBad},
		{"ends in a literal", Compressed, []byte{0x80}, 10, "", engine.MPPCBad},
		{"ends in an offset", Compressed, []byte{0xff}, 10, "", engine.MPPCBad},
		{"ends in a length", Compressed, pack(back(3), "111110"), 10, "", engine.MPPCBad},
		{"plain", 0, []byte{0xff}, 0, "\xff", engine.Pass},
	} {
		var rx Rx
		rx.Commit([]byte("for"), Compressed)
		before := rx
		got, d := rx.Decompress(make([]byte, tt.room), tt.in, tt.bits)
		if d != tt.drop || string(got) != tt.want {
			t.Errorf("%s: %q, %v, want %q, %v", tt.name, got, d, tt.want, tt.drop)
		}
		if rx != before {
			t.Errorf("%s: the state has changed", tt.name)
		}
		var ref reference
		ref.ring, ref.at = rx.hist, rx.pos
		if b, err := ref.decompress(tt.in, tt.bits); d == engine.Pass && (err != nil || string(b) != tt.want) {
			t.Errorf("%s: RFC 2118 read literally: %q, %v", tt.name, b, err)
		}
	}
}

// All of the history may be filled, and referred to round its end.
func TestRing(t *testing.T) {
	var rx Rx
	all := make([]byte, HistoryLen)
	for i := range all {
		all[i] = byte(i * 7 >> 3)
	}
	rx.Commit(all, Compressed)
	if _, d := rx.Decompress(make([]byte, 10), []byte("f"), Compressed); d != engine.MPPCBad {
		t.Errorf("a byte behind the end of the history: %v", d)
	}
	// From the front, 4 bytes and then 8 from 10 back: six of them from the end.
	got, d := rx.Decompress(make([]byte, 20), pack("01100110", "01100110", "01100110", "01100110", "1111001010", "110000"), AtFront|Compressed)
	if want := "ffff" + string(all[HistoryLen-6:]) + "ff"; d != engine.Pass || string(got) != want {
		t.Errorf("%q, %v, want %q", got, d, want)
	}
}

// Long data in a Commit that Decompress cannot have returned stays within the history.
func TestCommitTooMuch(t *testing.T) {
	var rx Rx
	rx.Commit(make([]byte, 5000), Compressed)
	rx.Commit(make([]byte, 5000), Compressed)
	if rx.pos != HistoryLen || rx.top != HistoryLen {
		t.Errorf("at %d of %d", rx.pos, rx.top)
	}
}

func TestNoAllocations(t *testing.T) {
	var l link
	for name, data := range corpora(t) {
		dst, back, i := make([]byte, 1500), make([]byte, 1500), 0
		packets := split(data, 0)
		if n := testing.AllocsPerRun(200, func() {
			p := packets[i%len(packets)]
			i++
			sent, b := l.tx.Compress(dst, p)
			got, d := l.rx.Decompress(back, sent, b)
			if d != engine.Pass || !bytes.Equal(got, p) {
				t.Fatalf("%s: %v", name, d)
			}
			l.rx.Commit(got, b)
		}); n != 0 {
			t.Errorf("%s: %v allocations a packet", name, n)
		}
	}
}

// reference is a second reading of RFC 2118, bit by bit, without bounds on
// references: what was never written is 0.
type reference struct {
	ring [HistoryLen]byte
	at   int
}

func (r *reference) decompress(src []byte, b Bits) (out []byte, err error) {
	defer func() {
		if recover() != nil {
			err = fmt.Errorf("out of bits or history")
		}
	}()
	if b&Flushed != 0 {
		*r = reference{}
	}
	if b&Compressed == 0 {
		return src, nil
	}
	if b&AtFront != 0 {
		r.at = 0
	}
	bit := 0
	take := func(n int) (v int) {
		for ; n > 0; n-- {
			v = v<<1 | int(src[bit/8]>>(7-bit%8)&1)
			bit++
		}
		return v
	}
	write := func(c byte) {
		r.ring[r.at] = c
		r.at++
		out = append(out, c)
	}
	for 8*len(src)-bit >= 8 {
		if take(1) == 0 {
			write(byte(take(7)))
			continue
		}
		if take(1) == 0 {
			write(byte(0x80 + take(7)))
			continue
		}
		var offset int
		switch {
		case take(1) == 0:
			offset = take(13) + 320
		case take(1) == 0:
			offset = take(8) + 64
		default:
			offset = take(6)
		}
		ones := 0
		for take(1) == 1 {
			ones++
		}
		n := 3
		if ones > 0 {
			n = 1<<(ones+1) + take(ones+1)
		}
		if offset == 0 || offset >= HistoryLen || ones > 11 {
			return nil, fmt.Errorf("offset %d, %d ones", offset, ones)
		}
		for range n {
			write(r.ring[(r.at-offset+HistoryLen)%HistoryLen])
		}
	}
	return out, nil
}
