package mppc

import (
	"bytes"
	"testing"

	"xpptp/engine"
)

// FuzzDecompress feeds packets that nobody has compressed, after a history that
// someone has: what comes out is what RFC 2118 read literally gives, and a
// packet that is dropped leaves no trace.
func FuzzDecompress(f *testing.F) {
	var tx Tx
	for _, p := range [][]byte{[]byte("for whom the bell tolls, the bell tolls for thee"), make([]byte, 5000), bytes.Repeat([]byte("bell\xff"), 1000)} {
		sent, b := tx.Compress(make([]byte, len(p)), p)
		f.Add([]byte("the bell"), uint16(3000), sent, uint16(b), uint16(9000))
		f.Add([]byte("the bell"), uint16(8190), sent, uint16(b&^Flushed), uint16(1500))
	}
	f.Add([]byte("for"), uint16(0), pack("1111000011", "111111111110", "111111111111"), uint16(Compressed), uint16(9000))
	f.Fuzz(func(t *testing.T, history []byte, size uint16, packet []byte, bits, room uint16) {
		if len(history) == 0 || len(packet) > 10000 {
			return
		}
		var rx Rx
		rx.Commit(bytes.Repeat(history, 1+int(size)/len(history))[:min(int(size), HistoryLen)], Compressed)
		b := Bits(bits)
		before := rx
		mem := bytes.Repeat([]byte{0xa5}, int(room)+64)
		got, d := rx.Decompress(mem[:room:room], packet, b)
		if rx != before {
			t.Fatal("Decompress has changed the state")
		}
		for i, c := range mem[room:] {
			if c != 0xa5 {
				t.Fatalf("byte %d behind the room was written", i)
			}
		}
		ref := reference{ring: rx.hist, at: rx.pos}
		want, err := ref.decompress(packet, b)
		switch d {
		case engine.Pass:
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%d bytes, want %d, %v", len(got), len(want), err)
			}
			rx.Commit(got, b)
			if rx.pos != ref.at || rx.hist != ref.ring || rx.top > HistoryLen || rx.pos > rx.top {
				t.Fatalf("history at %d of %d, want %d, or its content differs", rx.pos, rx.top, ref.at)
			}
		case engine.MPPCLong:
			if err == nil && len(want) <= int(room) {
				t.Fatalf("%d bytes do not fit into %d", len(want), room)
			}
		case engine.MPPCBad:
			// Nothing at all, or references to what was never written, are no error of the reference.
			if err == nil && len(want) > 0 && rx.top == HistoryLen && b&Flushed == 0 {
				t.Fatalf("%d bytes refused", len(want))
			}
		default:
			t.Fatalf("drop %v", d)
		}
	})
}

// FuzzRoundTrip sends data in packets of all sizes, with resets between them.
func FuzzRoundTrip(f *testing.F) {
	f.Add([]byte("the bell tolls for thee, the bell tolls for thee"), []byte{10, 20, 0, 255}, uint8(3))
	f.Add([]byte{0, 0, 0, 0, 1, 0, 0, 0, 0}, []byte{200}, uint8(200))
	f.Fuzz(func(t *testing.T, data, sizes []byte, times uint8) {
		if len(sizes) == 0 || len(data) > 4000 {
			return
		}
		var l link
		for i := range int(times) + len(sizes) {
			n := int(sizes[i%len(sizes)])
			if n == 255 {
				l.tx.Reset()
				continue
			}
			if len(data) == 0 {
				return
			}
			// Long packets are the data over and over, so that the history fills.
			p := bytes.Repeat(data[i%len(data):], 1+n/16)
			l.send(t, p[:min(len(p), 10+n*n/7, 9000)])
		}
	})
}
