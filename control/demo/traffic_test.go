package demo

import (
	"context"
	"net"
	"testing"
	"time"
)

// A flow counts what the way does to its datagrams, each under its name.
func TestFlowCounts(t *testing.T) {
	const sent = 200
	twice := func(b []byte) [][]byte { return [][]byte{b, b} }
	for name, tc := range map[string]struct {
		way  func(seq uint64, b []byte) [][]byte // what comes back for a datagram
		want Counts
	}{
		"clean": {
			func(_ uint64, b []byte) [][]byte { return [][]byte{b} },
			Counts{Echoed: sent},
		},
		"lost": {
			func(seq uint64, b []byte) [][]byte {
				if seq == 10 || seq == 11 {
					return nil
				}
				return [][]byte{b}
			},
			Counts{Echoed: sent - 2, Lost: 2},
		},
		"duplicate": {
			func(seq uint64, b []byte) [][]byte {
				if seq == 7 {
					return twice(b)
				}
				return [][]byte{b}
			},
			Counts{Echoed: sent, Duplicate: 1},
		},
		"damaged": {
			func(seq uint64, b []byte) [][]byte {
				if seq == 21 {
					b[len(b)-1] ^= 0x10
				}
				return [][]byte{b}
			},
			Counts{Echoed: sent - 1, Damaged: 1, Lost: 1},
		},
		"short": {
			func(seq uint64, b []byte) [][]byte {
				if seq == 5 {
					b = b[:headLen-1]
				}
				return [][]byte{b}
			},
			Counts{Echoed: sent - 1, Damaged: 1, Lost: 1},
		},
		"of another call": {
			func(seq uint64, b []byte) [][]byte {
				if seq == 30 {
					put(b, 99, seq)
				}
				return [][]byte{b}
			},
			Counts{Echoed: sent - 1, Damaged: 1, Lost: 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := loopback(t)
			f.last = sent
			go func() {
				var b [2048]byte
				for {
					n, err := f.far.Read(b[:])
					if err != nil {
						return
					}
					_, seq, _ := parse(b[:n])
					for _, out := range tc.way(seq, b[:n]) {
						_, _ = f.far.Write(out)
					}
				}
			}()
			f.run(t.Context())
			got := f.counts()
			if got.Bytes == 0 {
				t.Error("no bytes counted")
			}
			tc.want.Sent, tc.want.Bytes = sent, got.Bytes
			if got != tc.want {
				t.Errorf("counted %+v\nwant    %+v", got, tc.want)
			}
			if clean := name == "clean"; got.Clean() != clean {
				t.Errorf("Clean is %v", !clean)
			}
		})
	}
}

// A datagram that overtakes another is counted, and is no fault.
func TestFlowReordered(t *testing.T) {
	f := loopback(t)
	f.next = 3
	var b [3][64]byte
	for i := range b {
		put(b[i][:], f.call, uint64(i))
		f.pending[uint64(i)] = struct{}{}
	}
	for _, i := range []int{2, 0, 1} {
		f.receive(b[i][:])
	}
	if c := f.counts(); c.Reordered != 2 || c.Echoed != 3 || c.Duplicate != 0 {
		t.Errorf("counted %+v", c)
	}
	put(b[0][:], f.call, isProbe)
	f.receive(b[0][:])
	if c := f.counts(); c.Echoed != 3 || c.Damaged+c.Duplicate != 0 {
		t.Errorf("a probe was counted: %+v", c)
	}
}

// Probes are sent until one comes back, and are not counted.
func TestProbe(t *testing.T) {
	f := loopback(t)
	go func() {
		var b [2048]byte
		for n := 0; ; n++ {
			if _, err := f.far.Read(b[:]); err != nil {
				return
			}
			if n == 2 {
				_, _ = f.far.Write(b[:headLen])
			}
		}
	}()
	f.probe(t.Context())
	if c := f.counts(); c != (Counts{}) {
		t.Errorf("counted %+v", c)
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Millisecond)
	defer stop()
	f.probe(ctx) // no answer: ends with ctx
}

// Sizes reach from the smallest datagram to a full packet, never beyond.
func TestSize(t *testing.T) {
	const room = 1396
	smallest, largest := room, 0
	for seq := range uint64(1000) {
		n := size(seq, room)
		smallest, largest = min(smallest, n), max(largest, n)
		b := make([]byte, n)
		put(b, 3, seq)
		if call, s, ok := parse(b); call != 3 || s != seq || !ok {
			t.Fatalf("size %d reads back as call %d, number %d, %v", n, call, s, ok)
		}
	}
	if smallest != headLen || largest+udpIPLen != room {
		t.Errorf("sizes from %d to %d", smallest, largest)
	}
}

// loopback is a flow whose ends are two sockets of this host.
func loopback(t *testing.T) *flow {
	t.Helper()
	free := func() *net.UDPAddr {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.LocalAddr().(*net.UDPAddr)
	}
	near, far := free(), free()
	f := &flow{call: 3, room: 1396, window: 8, pending: map[uint64]struct{}{}}
	var err error
	if f.near, err = net.DialUDP("udp4", near, far); err != nil {
		t.Fatal(err)
	}
	if f.far, err = net.DialUDP("udp4", far, near); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.close)
	return f
}
