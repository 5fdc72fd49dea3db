package tun

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"

	"xpptp/rings"
)

// cut makes a large TCP packet, as the kernel would hand it over, and the
// segments that it stands for.
func cut(t testing.TB, v6 bool, size, n int, flags byte) (h vnetHeader, p []byte, segments [][]byte) {
	t.Helper()
	h, p = packet(v6, unix.IPPROTO_TCP, size, n)
	h[1] &^= unix.VIRTIO_NET_HDR_GSO_ECN
	transport := h.csumStart()
	p[transport+tcpFlags] = flags
	var s super
	if !s.parse(h, bytes.Clone(p)) {
		t.Fatal("the packet is not taken for a large one")
	}
	pool := rings.NewPoolN(1, rings.ChunkLarge)
	for last := false; !last; {
		f := pool.Get()
		last = s.next(f)
		segments = append(segments, bytes.Clone(f.Data()))
		f.Free()
	}
	binary.NativeEndian.PutUint16(h[2:], uint16(transport+24))
	return h, p, segments
}

// joined is what a burst becomes: virtio header and packet.
type joined struct {
	h vnetHeader
	p []byte
}

func join(packets ...[]byte) (out []joined) {
	c := new(coalescer)
	for i := range packets {
		packets[i] = bytes.Clone(packets[i])
		c.add(i, packets[i])
	}
	for i := range c.n {
		g := &c.groups[i]
		j := joined{h: make(vnetHeader, vnetSize)}
		if g.n > 1 {
			g.seal((*[vnetSize]byte)(j.h))
		}
		j.p = bytes.Clone(g.first.p)
		for at, k := g.at, 1; k < g.n; k++ {
			at = c.follows[at]
			j.p = append(j.p, packets[at][g.first.payload:]...)
		}
		out = append(out, j)
	}
	return out
}

// Segments that were cut become what they were cut from, byte for byte.
func TestJoinWhatWasCut(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 7))
	for _, v6 := range []bool{false, true} {
		for range 200 {
			size := 1 + rnd.IntN(1300)
			n := size + 1 + rnd.IntN(min(size*(burst-1), 60000))
			flags := byte(tcpACK)
			if rnd.IntN(2) == 0 {
				flags |= tcpPSH
			}
			h, p, segments := cut(t, v6, size, n, flags)
			got := join(segments...)
			if len(got) != 1 {
				t.Fatalf("%d segments of %d bytes became %d packets", len(segments), size, len(got))
			}
			if !bytes.Equal(got[0].h, h) || !bytes.Equal(got[0].p, p) {
				t.Fatalf("%d bytes in segments of %d: header % x, want % x; packet % x, want % x", n, size, got[0].h, h, got[0].p[:64], p[:64])
			}
		}
	}
}

// What is not alike, or not in its place, or damaged, crosses as it is.
func TestJoinRefuses(t *testing.T) {
	const size = 1000
	finish := func(p []byte) { // checksums after a change
		transport := 20
		if p[0]>>4 == 6 {
			transport = 40
		} else {
			p[10], p[11] = 0, 0
			binary.BigEndian.PutUint16(p[10:], naive(p[:20]))
		}
		p[transport+16], p[transport+17] = 0, 0
		binary.BigEndian.PutUint16(p[transport+16:], naive(pseudo(p, transport, unix.IPPROTO_TCP), p[transport:]))
	}
	for _, c := range []struct {
		name   string
		change func(s [][]byte) [][]byte // of four segments
		v6     bool
		want   []int // lengths of what crosses, in segments of data; see below
	}{
		{name: "nothing", want: []int{4000}},
		{name: "nothing, IPv6", v6: true, want: []int{4000}},
		{name: "TCP checksum", change: func(s [][]byte) [][]byte { s[2][100]++; return s }, want: []int{2000, 1000, 1000}},
		{name: "TCP checksum of the first", change: func(s [][]byte) [][]byte { s[0][100]++; return s }, want: []int{1000, 3000}},
		{name: "IPv4 checksum", change: func(s [][]byte) [][]byte { s[1][10]++; return s }, want: []int{1000, 1000, 2000}},
		{name: "TCP checksum over IPv6", v6: true, change: func(s [][]byte) [][]byte { s[3][100]++; return s }, want: []int{3000, 1000}},
		{name: "acknowledgement", change: func(s [][]byte) [][]byte { s[2][20+8]++; finish(s[2]); return s }, want: []int{2000, 1000, 1000}},
		{name: "window", change: func(s [][]byte) [][]byte { s[2][20+14]++; finish(s[2]); return s }, want: []int{2000, 1000, 1000}},
		{name: "urgent pointer", change: func(s [][]byte) [][]byte { s[2][20+18]++; finish(s[2]); return s }, want: []int{2000, 1000, 1000}},
		{name: "options", change: func(s [][]byte) [][]byte { s[2][20+20]++; finish(s[2]); return s }, want: []int{2000, 1000, 1000}},
		{name: "TOS", change: func(s [][]byte) [][]byte { s[2][1]++; finish(s[2]); return s }, want: []int{2000, 1000, 1000}},
		{name: "TTL", change: func(s [][]byte) [][]byte { s[2][8]--; finish(s[2]); return s }, want: []int{2000, 1000, 1000}},
		{name: "identification", change: func(s [][]byte) [][]byte { s[2][4]++; finish(s[2]); return s }, want: []int{2000, 1000, 1000}},
		{name: "flow label", v6: true, change: func(s [][]byte) [][]byte { s[2][3]++; return s }, want: []int{2000, 1000, 1000}},
		{name: "hop limit", v6: true, change: func(s [][]byte) [][]byte { s[2][7]--; return s }, want: []int{2000, 1000, 1000}},
		{name: "SYN", change: func(s [][]byte) [][]byte { s[1][20+13] = 0x12; finish(s[1]); return s }, want: []int{1000, 1000, 2000}},
		{name: "FIN", change: func(s [][]byte) [][]byte { s[3][20+13] |= 1; finish(s[3]); return s }, want: []int{3000, 1000}},
		{name: "PSH", change: func(s [][]byte) [][]byte { s[1][20+13] |= 8; finish(s[1]); return s }, want: []int{2000, 2000}},
		{name: "a gap", change: func(s [][]byte) [][]byte { return [][]byte{s[0], s[2], s[3]} }, want: []int{1000, 2000}},
		{name: "disorder", change: func(s [][]byte) [][]byte { return [][]byte{s[0], s[2], s[1], s[3]} }, want: []int{1000, 1000, 1000, 1000}},
		{name: "twice", change: func(s [][]byte) [][]byte { return [][]byte{s[0], s[0], s[1]} }, want: []int{1000, 2000}},
		{name: "fragment", change: func(s [][]byte) [][]byte { s[1][6] |= 0x20; finish(s[1]); return s }, want: []int{1000, 1000, 2000}},
		{name: "IPv4 options", change: func(s [][]byte) [][]byte { s[1][0] = 0x46; return s }, want: []int{1000, 1000, 2000}},
		{name: "padding", change: func(s [][]byte) [][]byte { s[1] = append(s[1], 0); return s }, want: []int{1000, 1001, 2000}},
		{name: "acknowledgement between", change: func(s [][]byte) [][]byte {
			ack := bytes.Clone(s[1][:44])
			binary.BigEndian.PutUint16(ack[2:], 44)
			finish(ack)
			return [][]byte{s[0], ack, s[1], s[2]}
		}, want: []int{1000, 0, 2000}},
		{name: "not TCP", change: func(s [][]byte) [][]byte { s[1][9] = 17; finish(s[1]); return s }, want: []int{1000, 1000, 2000}},
		{name: "empty", change: func(s [][]byte) [][]byte { return [][]byte{s[0], {}, s[1]} }, want: []int{2000, -44}},
	} {
		_, _, s := cut(t, c.v6, size, 4*size, tcpACK)
		if c.change != nil {
			s = c.change(s)
		}
		header := 44
		if c.v6 {
			header = 64
		}
		var got []int
		for _, j := range join(s...) {
			got = append(got, len(j.p)-header)
		}
		if fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: packets with %v bytes of data, want %v", c.name, got, c.want)
		}
	}
}

// Many connections in a burst: each keeps its order and loses nothing.
func TestJoinFlows(t *testing.T) {
	rnd := rand.New(rand.NewPCG(8, 8))
	for range 300 {
		flows := 1 + rnd.IntN(12)
		left := make([][][]byte, flows)
		for i := range left {
			_, _, s := cut(t, i%2 == 0, 100+rnd.IntN(900), 4000, tcpACK)
			for _, p := range s {
				transport := 20
				if p[0]>>4 == 6 {
					transport = 40
				}
				p[transport+1] = byte(i) // the port, and so the flow
				p[transport+16], p[transport+17] = 0, 0
				binary.BigEndian.PutUint16(p[transport+16:], naive(pseudo(p, transport, unix.IPPROTO_TCP), p[transport:]))
				if rnd.IntN(20) == 0 {
					p[len(p)-1]++ // damaged
				}
			}
			left[i] = s
		}
		var sent [][]byte
		want := make([][]byte, flows)
		for len(sent) < burst {
			i := rnd.IntN(flows)
			if len(left[i]) == 0 {
				break
			}
			p := left[i][0]
			left[i] = left[i][1:]
			sent = append(sent, p)
			want[i] = append(want[i], p[headers(p):]...)
		}
		got := make([][]byte, flows)
		packets := 0
		for _, j := range join(sent...) {
			h := headers(j.p)
			i := int(j.p[h-24+1])
			got[i] = append(got[i], j.p[h:]...)
			packets++
		}
		for i := range want {
			if !bytes.Equal(got[i], want[i]) {
				t.Fatalf("flow %d of %d: what came is not what was sent", i, flows)
			}
		}
		if flows == 1 && len(sent) > 3 && packets == len(sent) {
			t.Error("nothing was joined")
		}
	}
}

func headers(p []byte) int {
	if p[0]>>4 == 6 {
		return 64
	}
	return 44
}

func FuzzJoin(f *testing.F) {
	for _, v6 := range []bool{false, true} {
		_, _, s := cut(f, v6, 100, 300, tcpACK)
		f.Add(s[0], s[1], s[2])
	}
	f.Fuzz(func(t *testing.T, a, b, c []byte) {
		if len(a)+len(b)+len(c) > 4000 {
			return
		}
		total := 0
		for _, j := range join(a, b, c) {
			total++
			if j.h.gsoType() == unix.VIRTIO_NET_HDR_GSO_NONE {
				continue
			}
			// It is one that we ourselves would cut into its parts.
			var s super
			if !s.parse(j.h, j.p) || len(j.p) <= s.payload+s.size {
				t.Fatalf("% x: joined to what cannot be cut: % x % x", [][]byte{a, b, c}, j.h, j.p)
			}
		}
		if total == 0 || total > 3 {
			t.Fatalf("three packets became %d", total)
		}
	})
}
