package rawgre_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"xpptp/rings"
	"xpptp/rings/rawgre"
	"xpptp/rings/ringtest"
)

type bench struct {
	t         *testing.T
	near, far *ringtest.Iface
	wire      *ringtest.Wire
	pool      *rings.Pool
	port      *rawgre.Port
	one       [1]*rings.Frame
}

func newBench(t *testing.T, mtu int, cfg rawgre.Config) *bench {
	t.Helper()
	b := &bench{t: t, pool: rings.NewPoolN(512, rings.ChunkSmall)}
	b.near, b.far = ringtest.NewVeth(t, ringtest.NewNS(t), ringtest.NewNS(t), mtu)
	b.wire = ringtest.NewWire(t, b.far)
	b.port = b.open(cfg)
	t.Cleanup(func() { _ = b.port.Close() })
	return b
}

func (b *bench) open(cfg rawgre.Config) (p *rawgre.Port) {
	b.t.Helper()
	b.near.NS.Do(func() {
		var err error
		if p, err = rawgre.Open(cfg, b.pool); err != nil {
			b.t.Fatal(err)
		}
	})
	return p
}

// inject sends an IP packet to the near end.
func (b *bench) inject(p []byte) error {
	return b.wire.Send(append(ringtest.Ethernet(b.near.MAC, b.far.MAC), p...))
}

// capture returns the next IPv4 packet from the near end.
func (b *bench) capture() []byte {
	for {
		p := b.wire.Recv()
		if p == nil {
			return nil
		}
		if bytes.Equal(p[:14], ringtest.Ethernet(b.far.MAC, b.near.MAC)) {
			return p[14:]
		}
	}
}

func (b *bench) recv(want int) (got [][]byte) {
	b.t.Helper()
	fs := make([]*rings.Frame, 8)
	for end := time.Now().Add(5 * time.Second); len(got) < want && time.Now().Before(end); {
		n, err := b.port.Recv(fs)
		if err != nil {
			b.t.Fatal(err)
		}
		for _, f := range fs[:n] {
			got = append(got, bytes.Clone(f.Data()))
			f.Free()
		}
	}
	return got
}

func (b *bench) send(p []byte) {
	b.t.Helper()
	f := b.pool.Get()
	if !f.Set(p) {
		b.t.Fatalf("no room for %d bytes", len(p))
	}
	if n, err := b.port.Send([]*rings.Frame{f}); n != 1 || err != nil {
		b.t.Fatalf("Send: %d, %v", n, err)
	}
	if err := b.port.Flush(); err != nil {
		b.t.Fatal(err)
	}
}

func TestConformance(t *testing.T) {
	ringtest.Run(t, func(t *testing.T) *ringtest.Bench {
		b := newBench(t, 1500, rawgre.Config{})
		return &ringtest.Bench{
			Port: b.port, Pool: b.pool, Ring: 256,
			Inject: b.inject, Capture: b.capture,
			Local: b.near.IP, Remote: b.far.IP,
			Down: func() { b.near.Down(t) },
			Up: func() {
				b.near.Up(t)
				b.near.Neighbour(t, b.far)
			},
			Reopen: func() (rings.Port, error) { return b.open(rawgre.Config{}), nil },
		}
	})
}

// What is too long for the device is fragmented by the kernel, unless it says not to.
func TestFragmentsOut(t *testing.T) {
	b := newBench(t, 1000, rawgre.Config{})
	p := ringtest.Packet(b.near.IP, b.far.IP, 1, 1, 1500)
	p[1], p[8] = 0x48, 33 // TOS, TTL
	ringtest.Seal(p)
	b.send(p)
	data := make([]byte, 1480)
	got := 0
	for range 2 {
		f := b.next()
		if f[1] != 0x48 || f[8] != 33 || !bytes.Equal(f[12:20], p[12:20]) || f[9] != 47 || f[6]&0x40 != 0 {
			t.Errorf("fragment with header % x, want TOS, TTL and addresses of % x", f[:20], p[:20])
		}
		off := int(binary.BigEndian.Uint16(f[6:])&0x1fff) * 8
		got += copy(data[off:], f[20:])
	}
	if got != 1480 || !bytes.Equal(data, p[20:]) {
		t.Errorf("%d bytes came out, or changed", got)
	}

	p[6] = 0x40 // do not fragment
	ringtest.Seal(p)
	b.send(p)
	if s := b.port.Stats(); s.TxPackets != 1 || s.TxBytes != 1500 || s.TxDropped != 1 {
		t.Errorf("counted %+v, want one sent, one dropped", s)
	}
	p[6] = 0
	ringtest.Seal(p)
	if n := testing.AllocsPerRun(20, func() { b.send2(p) }); n != 0 {
		t.Errorf("%v allocations per fragmented packet", n)
	}
}

// send2 is send without the checks.
func (b *bench) send2(p []byte) {
	f := b.pool.Get()
	f.Set(p)
	b.one[0] = f
	_, _ = b.port.Send(b.one[:])
	_ = b.port.Flush()
}

func (b *bench) next() []byte {
	b.t.Helper()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		if p := b.capture(); p != nil {
			return p
		}
	}
	b.t.Fatal("nothing came out")
	return nil
}

// Fragments come in as one packet.
func TestFragmentsIn(t *testing.T) {
	b := newBench(t, 1500, rawgre.Config{})
	whole := ringtest.Packet(b.far.IP, b.near.IP, 3, 5, 1540)
	for _, r := range [][2]int{{20, 1020}, {1020, 1540}} {
		f := append(bytes.Clone(whole[:20]), whole[r[0]:r[1]]...)
		binary.BigEndian.PutUint16(f[2:], uint16(len(f)))
		off := uint16(r[0]-20) / 8
		if r[1] < len(whole) {
			off |= 0x2000
		}
		binary.BigEndian.PutUint16(f[6:], off)
		ringtest.Seal(f)
		if err := b.inject(f); err != nil {
			t.Fatal(err)
		}
	}
	got := b.recv(1)
	if len(got) != 1 || !bytes.Equal(got[0], whole) {
		t.Errorf("received %d packets, want the one of 1540 bytes", len(got))
	}
}

func TestTruncated(t *testing.T) {
	b := newBench(t, 3000, rawgre.Config{})
	for i, n := range []int{100, 2000, 200} {
		if err := b.inject(ringtest.Packet(b.far.IP, b.near.IP, 3, uint32(i), n)); err != nil {
			t.Fatal(err)
		}
	}
	got := b.recv(2)
	if len(got) != 2 || len(got[0]) != 100 || len(got[1]) != 200 {
		t.Errorf("received %d packets, want those of 100 and 200 bytes", len(got))
	}
	if s := b.port.Stats(); s.RxTruncated != 1 || s.RxPackets != 2 {
		t.Errorf("counted %+v, want one truncated", s)
	}
}

// Only enhanced GRE, only for the address that the port is bound to, and the
// kernel stays silent about it.
func TestFilter(t *testing.T) {
	b := newBench(t, 1500, rawgre.Config{Local: netip.AddrFrom4([4]byte{10, 77, 0, 1}), Device: "rt0"})
	v0 := ringtest.Packet(b.far.IP, b.near.IP, 1, 1, 64)
	v0[21] = 0
	for _, p := range [][]byte{
		v0,
		ringtest.Packet(b.far.IP, [4]byte{10, 77, 0, 255}, 1, 2, 64),
		ringtest.Packet(b.far.IP, b.near.IP, 1, 3, 64),
	} {
		if err := b.inject(p); err != nil {
			t.Fatal(err)
		}
	}
	got := b.recv(1)
	if s, _ := ringtest.Seq(got[0]); len(got) != 1 || s != 3 {
		t.Errorf("received %d packets", len(got))
	}
	if p := b.capture(); p != nil && p[9] == unix.IPPROTO_ICMP {
		t.Errorf("the kernel answered: % x", p)
	}
	if s := b.port.Stats(); s.RxDropped != 0 {
		t.Errorf("what the filter keeps out is counted as dropped: %+v", s)
	}
}

func TestBufferFull(t *testing.T) {
	b := newBench(t, 1500, rawgre.Config{})
	const total = 40_000 // more than any buffer holds
	for i := range total {
		if err := b.inject(ringtest.Packet(b.far.IP, b.near.IP, 3, uint32(i), 600)); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	fs := make([]*rings.Frame, 64)
	for {
		k, err := b.port.Recv(fs)
		if err != nil {
			t.Fatal(err)
		}
		if k == 0 {
			break
		}
		for _, f := range fs[:k] {
			f.Free()
		}
		n += k
	}
	if s := b.port.Stats(); s.RxDropped == 0 || int(s.RxDropped)+n != total {
		t.Errorf("received %d and counted %d dropped, together not %d", n, s.RxDropped, total)
	}
}

func TestShards(t *testing.T) {
	near, far := ringtest.NewVeth(t, ringtest.NewNS(t), ringtest.NewNS(t), 1500)
	wire := ringtest.NewWire(t, far)
	pools := []*rings.Pool{rings.NewPoolN(256, rings.ChunkSmall), rings.NewPoolN(256, rings.ChunkSmall), rings.NewPoolN(256, rings.ChunkSmall)}
	var ports []*rawgre.Port
	near.NS.Do(func() {
		var err error
		if ports, err = rawgre.OpenGroup(rawgre.Config{}, pools); err != nil {
			t.Fatal(err)
		}
	})
	const calls = 120
	for id := range uint16(calls) {
		if err := wire.Send(append(ringtest.Ethernet(near.MAC, far.MAC), ringtest.Packet(far.IP, near.IP, id, uint32(id), 64)...)); err != nil {
			t.Fatal(err)
		}
	}
	seen := 0
	fs := make([]*rings.Frame, 64)
	for i, p := range ports {
		defer p.Close()
		for n := 1; n > 0; {
			n, _ = p.Recv(fs)
			for _, f := range fs[:n] {
				if id := binary.BigEndian.Uint16(f.Data()[26:]); rings.Shard(id, 3) != i {
					t.Errorf("call %d arrived at worker %d", id, i)
				}
				seen++
				f.Free()
			}
		}
	}
	if seen != calls {
		t.Errorf("%d of %d packets arrived", seen, calls)
	}
}

func TestSendRefused(t *testing.T) {
	b := newBench(t, 1500, rawgre.Config{})
	b.send(make([]byte, 10))                                                       // no header
	b.send(ringtest.Packet(b.near.IP, [4]byte{192, 0, 2, 1}, 1, 1, 64))            // no route
	b.send(ringtest.Packet(b.near.IP, b.far.IP, 1, 2, 64))                         // fine
	if s := b.port.Stats(); s.TxDropped != 2 || s.TxPackets != 1 || s.Kicks != 3 { // one call each
		t.Errorf("counted %+v, want two dropped", s)
	}
	if b.pool.Free() != b.pool.Size() {
		t.Error("a frame did not come back")
	}
}

func TestOpenErrors(t *testing.T) {
	ns := ringtest.NewNS(t)
	pool := rings.NewPoolN(8, rings.ChunkSmall)
	ns.Do(func() {
		for _, c := range []struct {
			cfg  rawgre.Config
			want string
		}{
			{rawgre.Config{Device: "nosuch0"}, "nosuch0"},
			{rawgre.Config{Local: netip.MustParseAddr("192.0.2.1")}, "192.0.2.1"},
			{rawgre.Config{Local: netip.MustParseAddr("::1")}, "not an IPv4 address"},
			{rawgre.Config{MTU: 1729}, "MTU 1729"},
			{rawgre.Config{MTU: -1}, "MTU -1"},
		} {
			p, err := rawgre.Open(c.cfg, pool)
			if err == nil {
				p.Close()
				t.Errorf("%+v: opened", c.cfg)
			} else if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%+v: error %q does not say %q", c.cfg, err, c.want)
			}
		}
	})
}
