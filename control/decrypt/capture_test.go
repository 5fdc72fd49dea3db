package decrypt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"reflect"
	"slices"
	"testing"
)

// pcapFile writes the older format by hand.
func pcapFile(order binary.AppendByteOrder, magic, link uint32, units [][2]uint32, data []byte) []byte {
	b := order.AppendUint32(nil, magic)
	b = order.AppendUint16(order.AppendUint16(b, 2), 4)
	b = order.AppendUint32(order.AppendUint32(b, 0), 0)
	b = order.AppendUint32(order.AppendUint32(b, 65535), link)
	for _, u := range units {
		b = order.AppendUint32(order.AppendUint32(b, u[0]), u[1])
		b = order.AppendUint32(order.AppendUint32(b, uint32(len(data))), uint32(len(data)+5))
		b = append(b, data...)
	}
	return b
}

func TestPcapFormats(t *testing.T) {
	for _, tt := range []struct {
		name  string
		order binary.AppendByteOrder
		magic uint32
		at    int64
	}{
		{"little, micro", binary.LittleEndian, pcapMicro, 7_000_009_000},
		{"big, micro", binary.BigEndian, pcapMicro, 7_000_009_000},
		{"little, nano", binary.LittleEndian, pcapNano, 7_000_000_009},
		{"big, nano", binary.BigEndian, pcapNano, 7_000_000_009},
	} {
		got := readAll(t, bytes.NewReader(pcapFile(tt.order, tt.magic, 101|4<<28, [][2]uint32{{7, 9}, {7, 9}}, []byte("abc"))))
		want := frame{tt.at, 101, []byte("abc"), 8}
		if len(got) != 2 || !reflect.DeepEqual(got[0], want) || !reflect.DeepEqual(got[1], want) {
			t.Errorf("%s: %+v", tt.name, got)
		}
	}
}

// block makes a pcapng block.
func block(order binary.AppendByteOrder, typ uint32, body ...[]byte) []byte {
	data := slices.Concat(body...)
	b := order.AppendUint32(order.AppendUint32(nil, typ), uint32(len(data)+12))
	return order.AppendUint32(append(b, data...), uint32(len(data)+12))
}

func TestPcapngFormats(t *testing.T) {
	for _, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
		u16 := func(v ...uint16) (b []byte) {
			for _, v := range v {
				b = order.AppendUint16(b, v)
			}
			return b
		}
		u32 := func(v ...uint32) (b []byte) {
			for _, v := range v {
				b = order.AppendUint32(b, v)
			}
			return b
		}
		section := block(order, ngSection, u32(ngOrder), u16(1, 0), u32(0xffffffff, 0xffffffff))
		data := []byte("abcd")
		file := slices.Concat(
			section,
			block(order, ngInterface, u16(1, 0), u32(2)),
			block(order, ngInterface, u16(113, 0), u32(0), u16(ngOptTSResol, 1), []byte{3, 0, 0, 0}, u16(ngOptTSOffset, 8), order.AppendUint64(nil, 100), u16(0, 0)),
			block(order, ngInterface, u16(101, 0), u32(0), u16(ngOptTSResol, 1), []byte{0x81, 0, 0, 0}), // halves of a second, no end of options
			block(order, 0xbad, u32(1, 2, 3)),
			block(order, ngEnhanced, u32(0, 0, 5, 4, 9), data),
			block(order, ngEnhanced, u32(1, 0, 2001, 3, 3), data, u16(1, 4), data),
			block(order, ngEnhanced, u32(2, 0, 3, 4, 4), data),
			block(order, ngPacket, u16(1, 7), u32(0, 1, 4, 4), data),
			block(order, ngSimple, u32(3), data),
			section, // forgets the interfaces
			block(order, ngInterface, u16(228, 0), u32(0)),
			block(order, ngEnhanced, u32(0, 1, 0, 4, 4), data),
		)
		want := []frame{
			{5000, 1, data, 9},
			{102_001_000_000, 113, data[:3], 3},
			{1_500_000_000, 101, data, 4},
			{100_001_000_000, 113, data, 4},
			{0, 1, data[:2], 3},
			{(1 << 32) * 1000, 228, data, 4},
		}
		if got := readAll(t, bytes.NewReader(file)); !reflect.DeepEqual(got, want) {
			t.Errorf("%v:\ngot  %v\nwant %v", order, got, want)
		}
		for name, bad := range map[string][]byte{
			"no interface":    slices.Concat(section, block(order, ngEnhanced, u32(0, 0, 5, 4, 4), data)),
			"no interface 2":  slices.Concat(section, block(order, ngSimple, u32(4), data)),
			"too long":        slices.Concat(section, block(order, ngInterface, u16(1, 0), u32(0)), block(order, ngEnhanced, u32(0, 0, 5, 5, 5), data)),
			"time resolution": slices.Concat(section, block(order, ngInterface, u16(1, 0), u32(0), u16(ngOptTSResol, 1), []byte{0xff, 0, 0, 0})),
			"short interface": slices.Concat(section, block(order, ngInterface, u32(0))),
			"version":         block(order, ngSection, u32(ngOrder), u16(2, 0), u32(0, 0)),
		} {
			rd, err := newReader(bytes.NewReader(bad))
			if err == nil {
				_, err = rd.next()
			}
			var format *FormatError
			if !errors.As(err, &format) {
				t.Errorf("%v, %s: %v", order, name, err)
			}
		}
	}
}

// The writer's blocks, octet for octet.
func TestWriter(t *testing.T) {
	var b bytes.Buffer
	ng := newNGWriter(&b, "test")
	one, two := ng.addInterface(1, "one", "first"), ng.addInterface(linkPPPWithDir, "two", "")
	ng.write(&packet{at: 1_700_000_000_123_456_789, iface: one, data: []byte("abc"), orig: 3})
	ng.write(&packet{at: 5, iface: two, flags: 2, data: []byte("defg"), orig: 1400, comment: "comment"})
	ng.write(&packet{at: 6, iface: two})
	if err := ng.flush(); err != nil {
		t.Fatal(err)
	}
	u32 := func(v ...uint32) (b []byte) {
		for _, v := range v {
			b = le.AppendUint32(b, v)
		}
		return b
	}
	none := uint32(0xffffffff)
	want := slices.Concat(
		block(le, ngSection, u32(ngOrder, 1, none, none), []byte("\x04\x00\x04\x00test\x00\x00\x00\x00")),
		block(le, ngInterface, u32(1, 0), []byte("\x02\x00\x03\x00one\x00\x03\x00\x05\x00first\x00\x00\x00\x09\x00\x01\x00\x09\x00\x00\x00\x00\x00\x00\x00")),
		block(le, ngInterface, u32(204, 0), []byte("\x02\x00\x03\x00two\x00\x09\x00\x01\x00\x09\x00\x00\x00\x00\x00\x00\x00")),
		block(le, ngEnhanced, u32(0, 1_700_000_000_123_456_789>>32, 1_700_000_000_123_456_789&0xffffffff, 3, 3), []byte("abc\x00")),
		block(le, ngEnhanced, u32(1, 0, 5, 4, 1400), []byte("defg\x01\x00\x07\x00comment\x00\x02\x00\x04\x00\x02\x00\x00\x00\x00\x00\x00\x00")),
		block(le, ngEnhanced, u32(1, 0, 6, 0, 0)),
	)
	if !bytes.Equal(b.Bytes(), want) {
		t.Errorf("got  %q\nwant %q", b.Bytes(), want)
	}
}

func seed(f *testing.F) {
	for _, name := range []string{"03", "17", "07"} {
		frames := slices.DeleteFunc(load(f, name), func(f frame) bool { return len(f.data) > 240 || f.gre() == nil && len(f.data) < 80 })
		b, err := io.ReadAll(file(frames[:min(len(frames), 40)]))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add(pcapFile(binary.BigEndian, pcapNano, 1, [][2]uint32{{1, 2}}, make([]byte, 60)))
	f.Add(block(binary.BigEndian, ngSection, []byte{0x1a, 0x2b, 0x3c, 0x4d, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}))
}

// Whatever a file holds, what is read of it can be written and read again.
func FuzzReader(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		rd, err := newReader(bytes.NewReader(b))
		if err != nil {
			return
		}
		var frames []frame
		for {
			rec, err := rd.next()
			if err != nil {
				var format *FormatError
				if !errors.Is(err, io.EOF) && (!errors.As(err, &format) || format.Offset > int64(len(b))) {
					t.Fatalf("%v", err)
				}
				break
			}
			if rec.orig < len(rec.data) || rec.orig > maxPacket || rec.number != len(frames)+1 {
				t.Fatalf("packet %+v", rec)
			}
			frames = append(frames, frame{rec.at, rec.link & 0xffff, bytes.Clone(rec.data), rec.orig})
		}
		for i := range frames {
			frames[i].at = max(frames[i].at, 0) // times before 1970 do not survive
		}
		if len(frames) == 0 {
			return
		}
		if again := readAll(t, file(frames)); !reflect.DeepEqual(again, frames) {
			t.Fatalf("read %v\nagain %v", frames, again)
		}
	})
}

// Whatever a capture holds, the counts add up and nothing panics.
func FuzzRun(f *testing.F) {
	seed(f)
	secrets := testSecrets(f, "")
	f.Fuzz(func(t *testing.T, b []byte) {
		r, _ := Run(bytes.NewReader(b), Options{Secrets: secrets, Out: io.Discard}) // damaged files are the rule here
		if r == nil {
			return
		}
		for _, c := range r.Calls {
			for _, n := range []Counts{c.Counts, c.ToServer, c.ToClient} {
				why := uint64(0)
				for _, k := range n.BadWhy {
					why += k
				}
				if n.Encrypted != n.Decrypted+n.Bad || n.Bad != why || n.Recovered > n.Decrypted ||
					n.Packets < n.Duplicate+n.Jumps+n.Plain+n.Compressed+n.Encrypted {
					t.Fatalf("%+v", n)
				}
			}
			if c.Peer == "" && len(c.Negotiation) > 0 {
				t.Fatalf("a call of nobody: %+v", c)
			}
		}
		if err := r.WriteText(io.Discard); err != nil {
			t.Fatal(err)
		}
	})
}
