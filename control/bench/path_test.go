package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"xpptp/control/sock"
	"xpptp/engine/mppe"
	"xpptp/engine/mppe/multi"
	"xpptp/engine/wire"
	"xpptp/rings"
)

// Every backend that this machine has makes its rows, in order, and leaves
// nothing behind to trip the next one.
func TestPath(t *testing.T) {
	plan := PathPlan{IO: Backends, Sizes: []int{64, 0}, Ways: multi.Ways()[:1], Calls: 5, Time: time.Nanosecond}
	if len(sock.Missing(sock.SysAdmin, sock.NetAdmin, sock.NetRaw)) > 0 {
		t.Log("without root: only mem")
		plan.IO = []string{"mem"}
	}
	var rows []PathRow
	var missing []string
	err := Path(context.Background(), plan, func(r PathRow) { rows = append(rows, r) }, func(io string, why error) {
		t.Logf("%s: %v", io, why)
		missing = append(missing, io)
	})
	if err != nil {
		t.Fatal(err)
	}
	var want []PathRow
	for _, io := range plan.IO {
		if slices.Contains(missing, io) {
			continue
		}
		for _, size := range plan.Sizes {
			want = append(
				want, PathRow{IO: io, Size: size, Direction: Bare},
				PathRow{IO: io, Size: size, Direction: Decap}, PathRow{IO: io, Size: size, Direction: Encap},
				PathRow{IO: io, Size: size, Direction: Decap, MPPE: true, Way: "go"}, PathRow{IO: io, Size: size, Direction: Encap, MPPE: true, Way: "go"},
			)
		}
		if hasRTT(io) {
			want = append(want, PathRow{IO: io, Size: 64, Direction: RTTBare}, PathRow{IO: io, Size: 64, Direction: RTT}, PathRow{IO: io, Size: 64, Direction: RTT, MPPE: true, Way: "go"})
		}
	}
	if len(missing) == 0 && plan.Rows() != len(want) {
		t.Errorf("%d rows announced, want %d", plan.Rows(), len(want))
	}
	var got []PathRow
	for _, r := range rows {
		trip := r.Direction == RTT || r.Direction == RTTBare
		if (r.PPS > 0) == trip || (r.NsPerPacket > 0) == trip || (r.P50 > 0) != trip || r.RatioBare <= 0 ||
			(r.Direction == Bare || r.Direction == RTTBare) && r.RatioBare != 1 {
			t.Errorf("row %+v measured nothing", r)
		}
		r.PPS, r.NsPerPacket, r.NsKernel, r.RatioBare, r.P50 = 0, 0, 0, 0, 0
		got = append(got, r)
	}
	if !slices.Equal(got, want) {
		t.Errorf("rows\n%+v\nwant\n%+v", got, want)
	}

	b, err := json.Marshal(rows[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"io", "size", "direction", "mppe", "way", "pps", "ns_per_packet", "ns_kernel", "ratio_bare", "p50_ns"} {
		if !bytes.Contains(b, []byte(`"`+name+`":`)) {
			t.Errorf("%s lacks %s", b, name)
		}
	}
	var out strings.Builder
	if err := WritePath(&out, rows); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "\n"); n != len(rows)+1+min(len(got)-10*len(plan.IO)+10*len(missing), 1) {
		t.Errorf("table of %d lines for %d rows:\n%s", n, len(rows), out.String())
	}
}

// What is measured is what it says: behind the worker stand the packets that
// went in, decapsulated and opened, or encapsulated and sealed for their peer.
func TestPathPackets(t *testing.T) {
	r, err := newRig("mem", 3)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	for _, encrypted := range []bool{false, true} {
		e, err := newPathEnd(r, 3, encrypted, multi.Portable)
		if err != nil {
			t.Fatal(err)
		}
		defer e.w.Close()
		var peers [3]mppe.Rx
		for i := range peers {
			if err := peers[i].Init(&mppe.Params{Bits: 128, Start: [16]byte{3: byte(2*i + 2)}}); err != nil {
				t.Fatal(err)
			}
		}
		opener := mppe.New(multi.Portable)
		for _, direction := range []string{Decap, Encap} {
			s := e.side(direction, 0)
			if err := s.make(rigBlock); err != nil {
				t.Fatal(err)
			}
			if _, err := s.turn(); err != nil {
				t.Fatal(err)
			}
			far, want := r.own, func(i int) []byte {
				b := make([]byte, imix[i%len(imix)])
				grePacket(b, callAddr(i%3).As4(), serverAddr.As4(), 1, uint32(i))
				return b
			}
			if direction == Encap {
				i0 := rigBlock % 3 // the turn of the calls goes on
				far, want = r.far, func(i int) []byte {
					b := make([]byte, imix[i%len(imix)])
					c := (i0 + i) % 3
					grePacket(b, serverAddr.As4(), callAddr(c).As4(), uint16(c+1), uint32(i))
					return b
				}
			}
			n := 0
			for _, b := range received(far.(*memFeeder)) {
				ip, d := wire.ParseIPv4(b[wire.EthernetLen:])
				if d != 0 {
					t.Fatalf("%s: %v", direction, d)
				}
				p := []byte(ip)
				if direction == Encap {
					g, d := wire.ParseGRE(ip.Payload())
					if d != 0 || ip.Dst() != peerAddr.As4() {
						t.Fatalf("%s: %v, to %v", direction, d, ip.Dst())
					}
					if !g.HasSeq() {
						continue // acknowledges what came in before
					}
					proto, info, _ := wire.ParsePPP(g.Payload())
					if proto == wire.PPPMPPE {
						jobs := []mppe.RxJob{{Rx: &peers[g.CallID()-1], Data: info}}
						opener.Open(1, jobs)
						if jobs[0].Drop != 0 {
							t.Fatalf("packet %d does not open: %v", n, jobs[0].Drop)
						}
						proto, info, _ = wire.ParsePPP(info[mppe.HeaderLen:])
					}
					if encrypted == (g.Payload()[0] == 0x21) || proto != wire.PPPIPv4 {
						t.Fatalf("packet %d: protocol %#x, encrypted %v", n, g.Payload()[0], encrypted)
					}
					p = info
				}
				if !bytes.Equal(p, want(n)) {
					t.Fatalf("%s: packet %d: %x, want %x", direction, n, p[:40], want(n)[:40])
				}
				n++
			}
			if n != rigBlock {
				t.Errorf("%s: %d packets, want %d", direction, n, rigBlock)
			}
		}
		if err := e.complain(); err != nil {
			t.Error(err)
		}
	}
	if free := r.pool.Free(); free != rigFrames {
		t.Errorf("%d of %d frames are free", free, rigFrames)
	}
}

// received takes what a port in memory has sent.
func received(m *memFeeder) (packets [][]byte) {
	var fs [64]*rings.Frame
	for {
		n, _ := m.port.Recv(fs[:])
		if n == 0 {
			return packets
		}
		for _, f := range fs[:n] {
			packets = append(packets, bytes.Clone(f.Data()))
			f.Free()
		}
	}
}

func TestPathRefusesPlan(t *testing.T) {
	for want, plan := range map[string]PathPlan{
		`backend "dpdk"`: {IO: []string{"dpdk"}},
		"size 39":        {Sizes: []int{39}},
		"size 1401":      {Sizes: []int{1401}},
		"1025 calls":     {Calls: 1025},
	} {
		err := Path(context.Background(), plan, func(PathRow) {}, func(string, error) {})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("plan that should be refused for %s: %v", want, err)
		}
	}
}
