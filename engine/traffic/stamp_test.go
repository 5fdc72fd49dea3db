package traffic

import (
	"bytes"
	"hash/crc32"
	"testing"

	"pgregory.net/rapid"
)

// The layout, byte by byte, from the documentation and not from the code.
func TestStampBytes(t *testing.T) {
	b := make([]byte, 40)
	PutStamp(b, &StampFields{Flags: FlagQuiet, Stream: 0x01020304, Seq: 5, Due: 0x0102030405060708, Late: 9, Clock: 0xa0b0c0d0})
	want := []byte{
		0x58, 0x53, 1, 8, 1, 2, 3, 4,
		0, 0, 0, 0, 0, 0, 0, 5,
		1, 2, 3, 4, 5, 6, 7, 8,
		0, 0, 0, 9, 0xa0, 0xb0, 0xc0, 0xd0,
	}
	if !bytes.Equal(b[:32], want) {
		t.Errorf("% x\nwant % x", b[:32], want)
	}
	sum := crc32.Checksum(append(bytes.Clone(pattern[:4]), want...), crc32.MakeTable(crc32.Castagnoli))
	if got := be.Uint32(b[32:]); got != sum {
		t.Errorf("checksum %08x, want %08x", got, sum)
	}
	if !bytes.Equal(b[36:], pattern[:4]) {
		t.Errorf("filled with % x", b[36:])
	}
}

func TestParseStamp(t *testing.T) {
	whole := make([]byte, 100)
	PutStamp(whole, &StampFields{Stream: 1})
	control := make([]byte, 100)
	PutControl(control, &StampFields{Stream: 1}, []byte("a body that is no pattern, of sixty-four bytes, which is what fits"[:64]))
	edit := func(b []byte, f func([]byte)) []byte { c := bytes.Clone(b); f(c); return c }
	for name, c := range map[string]struct {
		b    []byte
		want Verdict
	}{
		"empty":             {nil, Foreign},
		"short":             {whole[:StampLen-1], Foreign},
		"other magic":       {edit(whole, func(b []byte) { b[0]++ }), Foreign},
		"whole":             {whole, Whole},
		"with a body":       {control, Whole},
		"other version":     {edit(whole, func(b []byte) { b[2]++ }), Corrupt},
		"unknown flag":      {edit(whole, func(b []byte) { b[3] = 0x80 }), Corrupt},
		"cut":               {whole[:99], Corrupt},
		"stamp changed":     {edit(whole, func(b []byte) { b[10] ^= 1 }), Corrupt},
		"checksum changed":  {edit(whole, func(b []byte) { b[33] ^= 1 }), Corrupt},
		"pattern changed":   {edit(whole, func(b []byte) { b[99] ^= 1 }), Corrupt},
		"body changed":      {edit(control, func(b []byte) { b[99] ^= 1 }), Corrupt},
		"longer than ports": {append(bytes.Clone(whole), make([]byte, 5000)...), Corrupt},
	} {
		if _, v := ParseStamp(c.b); v != c.want {
			t.Errorf("%s: verdict %d, want %d", name, v, c.want)
		}
	}
}

// Whatever bits change on the way, the packet is never taken for whole.
func TestEveryChangeIsFound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := make([]byte, rapid.IntRange(StampLen, 1500).Draw(t, "length"))
		PutStamp(b, &StampFields{
			Flags: rapid.SampledFrom([]uint8{0, FlagQuiet, FlagDown}).Draw(t, "flags"), Stream: rapid.Uint32().Draw(t, "stream"),
			Seq: rapid.Uint64().Draw(t, "seq"), Due: rapid.Int64().Draw(t, "due"), Late: rapid.Uint32().Draw(t, "late"), Clock: rapid.Uint32().Draw(t, "clock"),
		})
		if _, v := ParseStamp(b); v != Whole {
			t.Fatalf("verdict %d as it was made", v)
		}
		for range rapid.IntRange(1, 3).Draw(t, "changes") {
			at, bit := rapid.IntRange(0, len(b)-1).Draw(t, "at"), rapid.IntRange(0, 7).Draw(t, "bit")
			before := b[at]
			b[at] ^= 1 << bit
			if _, v := ParseStamp(b); v == Whole {
				t.Fatalf("bit %d of byte %d changed: whole", bit, at)
			}
			b[at] = before
		}
	})
}

func TestReply(t *testing.T) {
	const sent, late = int64(7e9), 5
	for _, c := range []struct {
		name         string
		mine, theirs uint32
		up, round    int64
		ok           bool
	}{
		{"one clock", 7, 7, 1000, 3000, true},
		{"at once", 7, 7, 0, 0, true},
		{"long under way", 7, 7, 4e9, 4.2e9, true},
		{"too long to tell", 7, 7, 1000, 1 << 32, false},
		{"other clocks", 7, 8, 1000, 3000, false},
		{"no clock", 0, 0, 1000, 3000, false},
		{"received after it came back", 7, 7, 3001, 3000, false},
	} {
		b := make([]byte, 64)
		PutStamp(b, &StampFields{Stream: 1, Due: sent, Late: late, Clock: c.mine})
		s, _ := ParseStamp(b)
		if _, ok := s.Up(sent + late + c.round); ok {
			t.Errorf("%s: a time before there is a reply", c.name)
		}
		s.Reply(sent+late+c.up, c.theirs)
		s, v := ParseStamp(b)
		if v != Whole || s.Flags()&FlagReply == 0 || s.Due() != sent || s.Sent() != sent+late {
			t.Fatalf("%s: reply is %d, flags %x, due %d", c.name, v, s.Flags(), s.Due())
		}
		up, ok := s.Up(sent + late + c.round)
		if ok != c.ok || ok && up != c.up {
			t.Errorf("%s: %d, %v; want %d, %v", c.name, up, ok, c.up, c.ok)
		}
	}
}

func FuzzStamp(f *testing.F) {
	b := make([]byte, 64)
	PutStamp(b, &StampFields{Stream: 1, Seq: 2, Due: 3, Late: 4, Clock: 5})
	f.Add(bytes.Clone(b))
	PutControl(b, &StampFields{}, make([]byte, 28))
	f.Add(bytes.Clone(b))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, v := ParseStamp(b)
		if v == Foreign {
			if s != nil {
				t.Fatal("a stamp of a foreign packet")
			}
			return
		}
		fields := StampFields{Flags: s.Flags(), Stream: s.Stream(), Seq: s.Seq(), Due: s.Due(), Late: s.Late(), Clock: s.Clock()}
		if v != Whole {
			return
		}
		c := make([]byte, len(b))
		if s.Flags()&FlagControl != 0 {
			PutControl(c, &fields, s.Body())
		} else {
			PutStamp(c, &fields)
		}
		if !bytes.Equal(b, c) {
			t.Fatalf("% x written again is % x", b, c)
		}
		s.Reply(1, 2)
		if _, v := ParseStamp(b); v != Whole {
			t.Fatalf("verdict %d on the reply", v)
		}
	})
}
