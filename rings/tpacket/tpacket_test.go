package tpacket_test

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"xpptp/rings"
	"xpptp/rings/ringtest"
	"xpptp/rings/tpacket"
	"xpptp/rings/tun"
)

// bench is a port on one end of a veth pair and a wire on the other.
type bench struct {
	t     *testing.T
	near  *ringtest.Iface
	far   *ringtest.Iface
	wire  *ringtest.Wire
	ports []*tpacket.Port
	pools []*rings.Pool
}

func newBench(t *testing.T, mtu int) *bench {
	t.Helper()
	b := &bench{t: t}
	b.near, b.far = ringtest.NewVeth(t, ringtest.NewNS(t), ringtest.NewNS(t), mtu)
	b.wire = ringtest.NewWire(t, b.far)
	return b
}

func (b *bench) open(workers, ring int) {
	b.t.Helper()
	b.pools = nil
	for range workers {
		b.pools = append(b.pools, rings.NewPoolN(1024, rings.ChunkSmall))
	}
	b.near.NS.Do(func() {
		var err error
		if b.ports, err = tpacket.OpenGroup(tpacket.Config{Interface: b.near.Name, Ring: ring}, b.pools); err != nil {
			b.t.Fatal(err)
		}
	})
	for _, p := range b.ports {
		b.t.Cleanup(func() { _ = p.Close() })
	}
}

func (b *bench) header() []byte { return ringtest.Ethernet(b.near.MAC, b.far.MAC) }

// gre is an Ethernet frame towards the port.
func (b *bench) gre(call uint16, seq uint32, n int) []byte {
	return append(b.header(), ringtest.Packet(b.far.IP, b.near.IP, call, seq, n)...)
}

func (b *bench) send(p []byte) {
	b.t.Helper()
	if err := b.wire.Send(p); err != nil {
		b.t.Fatalf("send %d bytes on the wire: %v", len(p), err)
	}
}

// recv empties port i.
func (b *bench) recv(i int) (got [][]byte) {
	b.t.Helper()
	fs := make([]*rings.Frame, 64)
	for {
		n, err := b.ports[i].Recv(fs)
		if err != nil {
			b.t.Fatal(err)
		}
		if n == 0 {
			return got
		}
		for _, f := range fs[:n] {
			got = append(got, bytes.Clone(f.Data()))
			f.Free()
		}
	}
}

// settle sends a packet of call 0 and returns what port 0 received before it.
func (b *bench) settle() (got [][]byte) {
	b.t.Helper()
	const mark = 0xffffffff
	b.send(b.gre(0, mark, 64))
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		for _, p := range b.recv(0) {
			if s, ok := ringtest.Seq(p[14:]); ok && s == mark {
				return got
			}
			got = append(got, p)
		}
	}
	b.t.Fatal("a packet did not arrive")
	return nil
}

func TestConformance(t *testing.T) {
	ringtest.Run(t, func(t *testing.T) *ringtest.Bench {
		v := newBench(t, 1500)
		v.open(1, 256)
		return &ringtest.Bench{
			Port: v.ports[0], Pool: v.pools[0], Ring: 256,
			Inject: v.wire.Send, Capture: v.wire.Recv,
			Local: v.near.IP, Remote: v.far.IP,
			RxHeader: v.header(), TxHeader: ringtest.Ethernet(v.far.MAC, v.near.MAC),
			Down: func() { v.near.Down(t) }, Up: func() { v.near.Up(t) },
			Remove: func() { v.near.Remove(t) },
			Reopen: func() (p rings.Port, err error) {
				v.near.NS.Do(func() { p, err = tpacket.Open(tpacket.Config{Interface: v.near.Name, Ring: 256}, v.pools[0]) })
				return p, err
			},
		}
	})
}

// An interface without link headers: a TUN device, we at its other end too.
func TestConformanceIP(t *testing.T) {
	ringtest.Run(t, func(t *testing.T) *ringtest.Bench {
		ns := ringtest.NewNS(t)
		pool := rings.NewPoolN(1024, rings.ChunkSmall)
		farPool := rings.NewPoolN(256, rings.ChunkSmall)
		near := &ringtest.Iface{NS: ns, Name: "rt-ip", IP: [4]byte{10, 77, 1, 1}}
		var port *tpacket.Port
		var far *tun.Port
		open := func() (p *tpacket.Port, err error) {
			ns.Do(func() { p, err = tpacket.Open(tpacket.Config{Interface: near.Name, Ring: 256}, pool) })
			return p, err
		}
		ns.Do(func() {
			d, err := tun.Create(tun.Config{Name: near.Name, MTU: 1500, Queue: 2000})
			if err != nil {
				t.Skipf("needs TUN devices: %v", err)
			}
			defer d.Close()
			if far, err = d.Port(0, farPool); err != nil {
				t.Fatal(err)
			}
		})
		near.Up(t)
		port, err := open()
		if err != nil {
			t.Fatal(err)
		}
		if i := port.Info(); i.Link != rings.LinkIP {
			t.Fatalf("Info: %+v", i)
		}
		t.Cleanup(func() { _ = port.Close(); _ = far.Close() })
		one := make([]*rings.Frame, 1)
		return &ringtest.Bench{
			Port: port, Pool: pool, Ring: 256, Local: near.IP, Remote: [4]byte{10, 77, 1, 2},
			Inject: func(p []byte) error {
				one[0] = farPool.Get()
				one[0].Set(p)
				_, err := far.Send(one)
				return err
			},
			Capture: func() []byte {
				if n, _ := far.Recv(one); n == 0 {
					return nil
				}
				defer one[0].Free()
				return bytes.Clone(one[0].Data())
			},
			Down: func() { near.Down(t) }, Up: func() { near.Up(t) },
			Remove: func() { near.Remove(t) },
			Reopen: func() (rings.Port, error) { return open() },
		}
	})
}

// The loopback interface shows every packet twice to those who do not take care.
func TestLoopback(t *testing.T) {
	ns := ringtest.NewNS(t)
	pool := rings.NewPoolN(64, rings.ChunkSmall)
	ns.Do(func() {
		p, err := tpacket.Open(tpacket.Config{Interface: "lo"}, pool)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if i := p.Info(); i.Link != rings.LinkEthernet || i.MAC != [6]byte{} || i.MTU > rings.MaxMTU {
			t.Errorf("Info of the loopback: %+v", i)
		}
		lo := [4]byte{127, 0, 0, 1}
		var want [][]byte
		for i := range 3 {
			want = append(want, append(ringtest.Ethernet([6]byte{}, [6]byte{}), ringtest.Packet(lo, lo, 1, uint32(i), 100)...))
			f := pool.Get()
			f.Set(want[i])
			if n, err := p.Send([]*rings.Frame{f}); n != 1 || err != nil {
				t.Fatalf("Send: %d, %v", n, err)
			}
		}
		if err := p.Flush(); err != nil {
			t.Fatal(err)
		}
		var got [][]byte
		fs := make([]*rings.Frame, 8)
		for end := time.Now().Add(5 * time.Second); len(got) < 3 && time.Now().Before(end); {
			n, _ := p.Recv(fs)
			for _, f := range fs[:n] {
				got = append(got, bytes.Clone(f.Data()))
				f.Free()
			}
		}
		if n, _ := p.Recv(fs); n != 0 {
			t.Errorf("%d packets too many", n)
		}
		for i := range want {
			if i >= len(got) || !bytes.Equal(got[i], want[i]) {
				t.Fatalf("received % x, want % x", got, want)
			}
		}
	})
}

// What is ours and what is not.
func TestFilter(t *testing.T) {
	b := newBench(t, 1500)
	b.open(1, 256)
	change := func(f func(p []byte) []byte) []byte {
		p := f(ringtest.Packet(b.far.IP, b.near.IP, 1, 7, 80))
		ringtest.Seal(p)
		return append(b.header(), p...)
	}
	options := func(p []byte) []byte {
		p[0] = 0x46
		binary.BigEndian.PutUint16(p[2:], 84)
		return append(append(append([]byte{}, p[:20]...), 1, 1, 1, 0), p[20:]...)
	}
	tag := func(tci uint16) []byte {
		p := b.gre(1, 7, 80)
		return append(append(append([]byte{}, p[:12]...), 0x81, 0, byte(tci>>8), byte(tci)), p[12:]...)
	}
	for _, c := range []struct {
		name  string
		frame []byte
		want  bool
	}{
		{"enhanced GRE", b.gre(1, 7, 80), true},
		{"ack only", change(func(p []byte) []byte { p[20], p[21] = 0x20, 0x81; return p }), true},
		{"IP options", change(options), true},
		{"do not fragment", change(func(p []byte) []byte { p[6] = 0x40; return p }), true},
		{"priority tag", tag(5 << 13), true},
		{"VLAN we do not have", tag(100), false},
		{"GRE version 0", change(func(p []byte) []byte { p[21] = 0; return p }), false},
		{"GRE version 2", change(func(p []byte) []byte { p[21] = 2; return p }), false},
		{"GRE carrying IPv4", change(func(p []byte) []byte { p[22], p[23] = 8, 0; return p }), false},
		{"UDP", change(func(p []byte) []byte { p[9] = 17; return p }), false},
		{"IPv4 header and no more", change(func(p []byte) []byte { p[3] = 20; return p[:20] }), false},
		{"first fragment alone", change(func(p []byte) []byte { p[6] = 0x20; return p }), false},
		{"later fragment alone", change(func(p []byte) []byte { p[7] = 100; return p }), false},
		{"another host's", append(ringtest.Ethernet([6]byte{2, 9, 9, 9, 9, 9}, b.far.MAC), b.gre(1, 7, 80)[14:]...), false},
		{"ARP", append(b.gre(1, 7, 80)[:12], append([]byte{8, 6}, make([]byte, 46)...)...), false},
	} {
		b.send(c.frame)
		got := b.settle()
		if !c.want && len(got) > 0 {
			t.Errorf("%s: received % x", c.name, got)
		}
		if want := c.frame; c.want {
			if c.name == "priority tag" {
				want = b.gre(1, 7, 80) // the kernel takes it off
			}
			if len(got) != 1 || !bytes.Equal(got[0], want) {
				t.Errorf("%s: received % x, want % x", c.name, got, want)
			}
		}
	}
	for p := b.wire.Recv(); p != nil; p = b.wire.Recv() {
		if p[12] == 8 && p[13] == 0 && p[23] == unix.IPPROTO_ICMP && p[34] == 3 && p[35] == 2 && p[51] == unix.IPPROTO_GRE {
			t.Errorf("the kernel answers GRE with protocol unreachable: % x", p)
		}
	}
}

// fragments cuts an IPv4 packet into fragments with at most n bytes of data.
func fragments(p []byte, n int) (fs [][]byte) {
	for at := 20; at < len(p); at += n {
		end := min(at+n, len(p))
		f := append(bytes.Clone(p[:20]), p[at:end]...)
		binary.BigEndian.PutUint16(f[2:], uint16(len(f)))
		off := uint16(at-20) / 8
		if end < len(p) {
			off |= 0x2000
		}
		binary.BigEndian.PutUint16(f[6:], off)
		ringtest.Seal(f)
		fs = append(fs, f)
	}
	return fs
}

// The kernel reassembles, and the whole packet arrives once.
func TestFragments(t *testing.T) {
	for _, workers := range []int{1, 2} {
		b := newBench(t, 1500)
		b.open(workers, 256)
		want := ringtest.Packet(b.far.IP, b.near.IP, 0, 5, 1540)
		for _, f := range fragments(want, 1000) {
			b.send(append(b.header(), f...))
		}
		got := b.settle()
		if len(got) != 1 || !bytes.Equal(got[0][14:], want) {
			t.Errorf("%d workers: received %d packets, want the reassembled one", workers, len(got))
		}
		// One that a frame has no room for.
		for _, f := range fragments(ringtest.Packet(b.far.IP, b.near.IP, 0, 6, 6000), 1400) {
			b.send(append(b.header(), f...))
		}
		if got := b.settle(); len(got) != 0 {
			t.Errorf("%d workers: a packet of 6000 bytes arrived as % x", workers, got)
		}
		if s := b.ports[0].Stats(); s.RxTruncated != 1 {
			t.Errorf("%d workers: counted %+v, want one truncated", workers, s)
		}
	}
}

// A call always goes to its worker, also after the link was down.
func TestShards(t *testing.T) {
	for _, workers := range []int{2, 3, 4} {
		b := newBench(t, 1500)
		b.open(workers, 1024)
		for round := range 2 {
			const calls = 200
			for id := range uint16(calls) {
				b.send(b.gre(id, uint32(id), 64))
			}
			seen := 0
			for end := time.Now().Add(10 * time.Second); seen < calls && time.Now().Before(end); {
				for i := range b.ports {
					for _, p := range b.recv(i) {
						id := binary.BigEndian.Uint16(p[14+26:])
						if rings.Shard(id, workers) != i {
							t.Fatalf("%d workers, round %d: call %d arrived at worker %d", workers, round, id, i)
						}
						seen++
					}
				}
			}
			if seen != calls {
				t.Fatalf("%d workers, round %d: %d of %d packets arrived", workers, round, seen, calls)
			}
			b.near.Down(t)
			b.near.Up(t)
		}
	}
}

func TestRingFull(t *testing.T) {
	b := newBench(t, 1500)
	b.open(1, 32)
	for i := range 100 {
		b.send(b.gre(1, uint32(i), 64))
	}
	got := b.recv(0)
	if len(got) != 32 {
		t.Fatalf("received %d of a ring of 32", len(got))
	}
	for i, p := range got {
		if s, _ := ringtest.Seq(p[14:]); s != uint32(i) {
			t.Fatalf("packet %d in the place of %d", s, i)
		}
	}
	for range 2 { // reading must not count twice
		if s := b.ports[0].Stats(); s.RxPackets != 32 || s.RxDropped != 68 {
			t.Errorf("counted %+v, want 32 and 68 dropped", s)
		}
	}
}

func TestTooLargeToSend(t *testing.T) {
	b := newBench(t, 1400)
	b.open(1, 32)
	header := ringtest.Ethernet(b.far.MAC, b.near.MAC)
	var fs []*rings.Frame
	for i, n := range []int{1400, 1401, 1400} {
		f := b.pools[0].Get()
		f.Set(append(bytes.Clone(header), ringtest.Packet(b.near.IP, b.far.IP, 1, uint32(i), n)...))
		fs = append(fs, f)
	}
	if n, err := b.ports[0].Send(fs); n != 3 || err != nil {
		t.Fatalf("Send: %d, %v", n, err)
	}
	if err := b.ports[0].Flush(); err != nil {
		t.Fatal(err)
	}
	if s := b.ports[0].Stats(); s.TxPackets != 2 || s.TxDropped != 1 {
		t.Errorf("counted %+v, want 2 sent, 1 dropped", s)
	}
	if b.pools[0].Free() != b.pools[0].Size() {
		t.Error("a frame did not come back")
	}
}

func TestNoInterface(t *testing.T) {
	ns := ringtest.NewNS(t)
	pool := rings.NewPoolN(8, rings.ChunkSmall)
	ns.Do(func() {
		p, err := tpacket.Open(tpacket.Config{Interface: "nosuch0"}, pool)
		if err == nil {
			p.Close()
			t.Fatal("opened an interface that does not exist")
		}
		if !strings.Contains(err.Error(), "nosuch0") {
			t.Errorf("error %q does not name the interface", err)
		}
	})
	if pool.Free() != pool.Size() {
		t.Error("a failed Open keeps frames")
	}
}

// An interface that is down can be opened (or, by older kernels, is refused
// with a hint) and works once it is up.
func TestOpenWhileDown(t *testing.T) {
	b := newBench(t, 1500)
	b.near.Down(t)
	pool := rings.NewPoolN(8, rings.ChunkSmall)
	b.near.NS.Do(func() {
		p, err := tpacket.Open(tpacket.Config{Interface: b.near.Name}, pool)
		if err != nil {
			if !strings.Contains(err.Error(), "is the interface up?") {
				t.Errorf("error %q does not say why", err)
			}
			return
		}
		b.ports, b.pools = []*tpacket.Port{p}, []*rings.Pool{pool}
		t.Cleanup(func() { _ = p.Close() })
	})
	b.near.Up(t)
	if b.ports != nil {
		b.settle()
	}
}
