package wire

import (
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

// naiveSum is RFC 1071 read word by word, in 64 bits so that it cannot overflow.
func naiveSum(b []byte, initial uint32) uint16 {
	s := uint64(initial)
	for i := 0; i < len(b); i += 2 {
		w := uint64(b[i]) << 8
		if i+1 < len(b) {
			w |= uint64(b[i+1])
		}
		s += w
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}

func TestChecksumEveryLength(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	random, ones := make([]byte, 2104), make([]byte, 2104)
	for i := range random {
		random[i], ones[i] = byte(r.Uint32()), 0xff
	}
	for n := range 2101 {
		for off := range 4 {
			for name, buf := range map[string][]byte{"random": random, "ones": ones, "zeros": make([]byte, 2104)} {
				for _, initial := range []uint32{0, 1, 0xffff, 0x10000, 0xffffffff, r.Uint32()} {
					b := buf[off : off+n]
					if got, want := Checksum(b, initial), naiveSum(b, initial); got != want {
						t.Fatalf("%s, length %d, offset %d, initial %#x: %#04x, want %#04x", name, n, off, initial, got, want)
					}
				}
			}
		}
	}
}

func TestUpdateChecksum(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	b := make([]byte, 64)
	for range 20000 {
		for i := range b {
			b[i] = byte(r.Uint32())
			if r.IntN(4) == 0 {
				b[i] = 0xff * byte(r.IntN(2))
			}
		}
		be.PutUint16(b[10:], 0)
		be.PutUint16(b[10:], Checksum(b, 0))
		i := 12 + 2*r.IntN(26)
		old := be.Uint16(b[i:])
		now := uint16(r.Uint32())
		if r.IntN(4) == 0 {
			now = 0xffff * uint16(r.IntN(2))
		}
		be.PutUint16(b[i:], now)
		be.PutUint16(b[10:], UpdateChecksum(be.Uint16(b[10:]), old, now))
		if c := Checksum(b, 0); c != 0 {
			t.Fatalf("word at %d from %#04x to %#04x: the sum over all is %#04x, want 0", i, old, now, c)
		}
	}
}

func TestPseudoHeaders(t *testing.T) {
	src4, dst4 := [4]byte{192, 0, 2, 1}, [4]byte{255, 255, 255, 254}
	flat := append(append(src4[:], dst4[:]...), 0, 17, 0x12, 0x34)
	if got, want := Checksum(nil, PseudoHeader4(src4, dst4, 17, 0x1234)), naiveSum(flat, 0); got != want {
		t.Errorf("IPv4: %#04x, want %#04x", got, want)
	}
	var src6, dst6 [16]byte
	for i := range src6 {
		src6[i], dst6[i] = byte(0xf0+i), byte(0xff-i)
	}
	flat = append(append(src6[:], dst6[:]...), 0, 0, 0x12, 0x34, 0, 0, 0, 58)
	if got, want := Checksum(nil, PseudoHeader6(src6, dst6, 58, 0x1234)), naiveSum(flat, 0); got != want {
		t.Errorf("IPv6: %#04x, want %#04x", got, want)
	}
}

func BenchmarkChecksum1400(b *testing.B) {
	buf := make([]byte, 1400)
	b.SetBytes(1400)
	for b.Loop() {
		Checksum(buf, 0)
	}
}

// The short way to check a header's sum says what the long one does.
func TestHeaderChecksumOK(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := IPv4(rapid.SliceOfN(rapid.Byte(), 60, 60).Draw(t, "header"))
		p[0] = 0x40 | byte(rapid.IntRange(5, 15).Draw(t, "words"))
		if rapid.Bool().Draw(t, "right") {
			p.SetChecksum()
		}
		if want := Checksum(p[:p.HeaderLen()], 0) == 0; p.HeaderChecksumOK() != want {
			t.Fatalf("%x: %v, want %v", p[:p.HeaderLen()], !want, want)
		}
	})
}
