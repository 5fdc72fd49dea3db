package xsk_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/safchain/ethtool"
	"golang.org/x/sys/unix"

	"xpptp/rings"
	"xpptp/rings/ringtest"
	"xpptp/rings/xsk"
)

const (
	ringSize  = 256
	perWorker = 1024
)

// bench is a device on one end of a veth pair and a wire on the other.
type bench struct {
	t         *testing.T
	near, far *ringtest.Iface
	wire      *ringtest.Wire
	umem      *xsk.UMEM
	steer     *xsk.Steering
	dev       *xsk.Device
	pools     []*rings.Pool
}

func newBench(t *testing.T, workers int, any bool) *bench {
	t.Helper()
	return newBenchMTU(t, workers, any, 1500, rings.ChunkSmall)
}

func newBenchMTU(t *testing.T, workers int, any bool, mtu, chunk int) *bench {
	t.Helper()
	b := &bench{t: t}
	b.near, b.far = ringtest.NewVeth(t, ringtest.NewNS(t), ringtest.NewNS(t), mtu)
	b.wire = ringtest.NewWire(t, b.far)
	var err error
	if b.umem, err = xsk.NewUMEM(workers*perWorker, chunk); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.umem.Close() })
	for i := range workers {
		b.pools = append(b.pools, rings.NewPool(b.umem.Arena(), i*perWorker, (i+1)*perWorker))
	}
	if b.steer, err = xsk.NewSteering(xsk.SteeringConfig{Workers: workers, AnyCall: any}); err != nil {
		if errors.Is(err, unix.EPERM) {
			t.Skipf("needs the right to load XDP programs: %v", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.steer.Close() })
	if err := b.steer.AddAddress(netip.AddrFrom4(b.near.IP)); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) open(cfg xsk.Config) (d *xsk.Device, err error) {
	cfg.Interface = b.near.Name
	if cfg.Ring == 0 {
		cfg.Ring = ringSize
	}
	b.near.NS.Do(func() { d, err = xsk.Open(cfg, b.steer, b.pools) })
	if err == nil {
		b.dev = d
		b.t.Cleanup(func() { _ = d.Close() })
	}
	return d, err
}

func (b *bench) mustOpen(cfg xsk.Config) *xsk.Device {
	b.t.Helper()
	d, err := b.open(cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	return d
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

// await receives from p until want frames are there and returns the calls
// they are of.
func (b *bench) await(p *xsk.Port, want int) (calls []uint16) {
	b.t.Helper()
	fs := make([]*rings.Frame, 64)
	for end := time.Now().Add(10 * time.Second); len(calls) < want; {
		n, err := p.Recv(fs)
		if err != nil {
			b.t.Fatal(err)
		}
		for _, f := range fs[:n] {
			calls = append(calls, binary.BigEndian.Uint16(f.Data()[14+26:]))
			f.Free()
		}
		if time.Now().After(end) {
			b.t.Fatalf("%d frames of %d arrived", len(calls), want)
		}
	}
	return calls
}

// port is a port that closes its device with it: what the suite opens again.
type port struct {
	*xsk.Port
	dev *xsk.Device
}

func (p port) Close() error { return p.dev.Close() }

func conformance(t *testing.T, cfg xsk.Config, mtu, chunk int) {
	ringtest.Run(t, func(t *testing.T) *ringtest.Bench {
		b := newBenchMTU(t, 1, true, mtu, chunk)
		d := b.mustOpen(cfg)
		return &ringtest.Bench{
			Port: port{d.Ports(0)[0], d}, Pool: b.pools[0], Ring: ringSize,
			Inject: b.wire.Send, Capture: b.wire.Recv,
			Local: b.near.IP, Remote: b.far.IP,
			RxHeader: b.header(), TxHeader: ringtest.Ethernet(b.far.MAC, b.near.MAC),
			Down: func() { b.near.Down(t) }, Up: func() { b.near.Up(t) },
			Remove: func() { b.near.Remove(t) },
			Reopen: func() (rings.Port, error) {
				d, err := b.open(cfg)
				if err != nil {
					return nil, err
				}
				return port{d.Ports(0)[0], d}, nil
			},
		}
	})
}

func TestConformance(t *testing.T) { conformance(t, xsk.Config{}, 1500, rings.ChunkSmall) }

func TestConformanceGeneric(t *testing.T) {
	conformance(t, xsk.Config{Generic: true}, 1500, rings.ChunkSmall)
}

func TestConformanceLarge(t *testing.T) { conformance(t, xsk.Config{}, 3498, rings.ChunkLarge) }

// A queue can be opened again at once, as often as one likes
// (XSK_REOPEN times, if set), and no frame is lost over it.
func TestReopen(t *testing.T) {
	times := 40
	if v := os.Getenv("XSK_REOPEN"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			t.Fatalf("XSK_REOPEN: %v", err)
		}
		times = n
	}
	b := newBench(t, 2, true)
	for i := range times {
		var d *xsk.Device
		var err error
		b.near.NS.Do(func() {
			d, err = xsk.Open(xsk.Config{Interface: b.near.Name, Ring: ringSize}, b.steer, b.pools)
		})
		if err != nil {
			t.Fatalf("opening for the %d. time: %v", i+1, err)
		}
		b.send(b.gre(uint16(i), 1, 64))
		b.await(d.Ports(i % 2)[0], 1)
		if err := d.Close(); err != nil {
			t.Fatalf("closing for the %d. time: %v", i+1, err)
		}
		free, size := 0, 0
		for _, p := range b.pools {
			free, size = free+p.Free(), size+p.Size()
		}
		if free != 2*perWorker || size != 2*perWorker {
			t.Fatalf("after the %d. time %d frames are free, the pools have %d, want %d", i+1, free, size, 2*perWorker)
		}
	}
}

// Calls go to their workers' sockets on one queue; frames of one worker may
// be sent by another, and all come back.
func TestWorkers(t *testing.T) {
	for _, workers := range []int{2, 3, 4} {
		b := newBench(t, workers, false)
		d := b.mustOpen(xsk.Config{})
		const calls = 200
		for id := range uint16(calls) {
			if err := b.steer.AddCall(id); err != nil {
				t.Fatal(err)
			}
		}
		header := ringtest.Ethernet(b.far.MAC, b.near.MAC)
		fs := make([]*rings.Frame, 64)
		for round := range uint32(20) {
			for id := range uint16(calls) {
				b.send(b.gre(id, round, 64))
			}
			seen := 0
			for end := time.Now().Add(10 * time.Second); seen < calls; {
				for w := range workers {
					p := d.Ports(w)[0]
					n, err := p.Recv(fs)
					if err != nil {
						t.Fatal(err)
					}
					for _, f := range fs[:n] {
						id := binary.BigEndian.Uint16(f.Data()[14+26:])
						if rings.Shard(id, workers) != w {
							t.Fatalf("%d workers: call %d arrived at worker %d", workers, id, w)
						}
						f.Set(append(bytes.Clone(header), ringtest.Packet(b.near.IP, b.far.IP, id, round, 64)...))
					}
					k, err := p.Send(fs[:n])
					if err != nil || k != n {
						t.Fatalf("Send: %d of %d, %v", k, n, err)
					}
					if err := p.Flush(); err != nil {
						t.Fatal(err)
					}
					seen += n
				}
				if time.Now().After(end) {
					t.Fatalf("%d workers: %d packets of %d arrived", workers, seen, calls)
				}
			}
			back := map[uint16]int{}
			for end := time.Now().Add(10 * time.Second); len(back) < calls && time.Now().Before(end); {
				for p := b.wire.Recv(); p != nil; p = b.wire.Recv() {
					if s, ok := ringtest.Seq(p[14:]); ok && s == round {
						back[binary.BigEndian.Uint16(p[14+26:])]++
					}
				}
			}
			if len(back) != calls {
				t.Fatalf("%d workers: %d calls of %d came back", workers, len(back), calls)
			}
		}
		// One port less: the kernel takes its packets, the others go on.
		if err := d.Ports(1)[0].Close(); err != nil {
			t.Fatal(err)
		}
		b.send(b.gre(1, 0, 64))
		b.send(b.gre(uint16(workers), 0, 64))
		b.await(d.Ports(0)[0], 1)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		free, size := 0, 0
		for _, p := range b.pools {
			free, size = free+p.Free(), size+p.Size()
		}
		if free != workers*perWorker || size != free {
			t.Errorf("%d workers: %d frames are free, the pools have %d, want %d", workers, free, size, workers*perWorker)
		}
	}
}

// A device with several queues has a port on each; what arrives on a queue
// that is not served is the kernel's.
func TestQueues(t *testing.T) {
	b := newBench(t, 1, true)
	for _, i := range []*ringtest.Iface{b.near, b.far} {
		i.NS.Do(func() {
			e, err := ethtool.NewEthtool()
			if err != nil {
				t.Fatal(err)
			}
			defer e.Close()
			if _, err := e.SetChannels(i.Name, ethtool.Channels{RxCount: 2, TxCount: 2}); err != nil {
				t.Skipf("needs a veth pair with two queues: %v", err)
			}
		})
	}
	b.near.Up(t)
	header := ringtest.Ethernet(b.far.MAC, b.near.MAC)
	for _, queues := range [][]int{nil, {1}, {0}} {
		d := b.mustOpen(xsk.Config{Queues: queues})
		ports := d.Ports(0)
		if want := max(1, 2-len(queues)); len(ports) != want {
			t.Fatalf("queues %v: %d ports, want %d", queues, len(ports), want)
		}
		fs := make([]*rings.Frame, 64)
		for _, p := range ports {
			if queues != nil && p.Info().Queue != queues[0] {
				t.Errorf("queues %v: a port on queue %d", queues, p.Info().Queue)
			}
			f := b.pools[0].Get()
			f.Set(append(bytes.Clone(header), ringtest.Packet(b.near.IP, b.far.IP, 1, 5, 64)...))
			if n, err := p.Send([]*rings.Frame{f}); n != 1 || err != nil {
				t.Fatalf("Send: %d, %v", n, err)
			}
		}
		seen := 0
		for end := time.Now().Add(10 * time.Second); seen < 100 && time.Now().Before(end); {
			// Which queue a packet takes is the sender's business: by its CPU, say.
			b.send(b.gre(1, 0, 64))
			for _, p := range ports {
				n, err := p.Recv(fs)
				if err != nil || p.Flush() != nil {
					t.Fatal(err)
				}
				for _, f := range fs[:n] {
					f.Free()
				}
				seen += n
			}
			runtime.Gosched()
			if len(queues) > 0 && time.Until(end) < 9900*time.Millisecond {
				break // all packets may take the other queue
			}
		}
		if seen < 100 && len(queues) == 0 {
			t.Errorf("both queues served: %d packets of 100 arrived", seen)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if b.pools[0].Free() != perWorker {
			t.Errorf("%d frames of %d are back", b.pools[0].Free(), perWorker)
		}
	}
}

// A flood for calls that do not live ends in the program, and is counted.
func TestUnknownCalls(t *testing.T) {
	b := newBench(t, 1, false)
	p := b.mustOpen(xsk.Config{}).Ports(0)[0]
	for range 2 { // two peers use the same ID
		if err := b.steer.AddCall(7); err != nil {
			t.Fatal(err)
		}
	}
	for i := range uint16(100) {
		b.send(b.gre(100+i, 0, 64))
	}
	b.send(b.gre(7, 0, 64))
	if calls := b.await(p, 1); len(calls) != 1 || calls[0] != 7 {
		t.Errorf("calls %v arrived, want 7 alone", calls)
	}
	if d, err := b.steer.Drops(); err != nil || d.UnknownCall != 100 || d.Source != 0 {
		t.Errorf("drops %+v, %v; want 100 for unknown calls", d, err)
	}
	for i := range 2 {
		if err := b.steer.RemoveCall(7); err != nil {
			t.Fatal(err)
		}
		b.send(b.gre(7, 0, 64))
		if i == 0 {
			b.await(p, 1)
		}
	}
	for end := time.Now().Add(10 * time.Second); ; {
		d, err := b.steer.Drops()
		if err != nil || time.Now().After(end) {
			t.Fatalf("drops %+v, %v; want 101 for unknown calls", d, err)
		}
		if d.UnknownCall == 101 {
			break
		}
	}
	if err := b.steer.RemoveCall(7); err == nil {
		t.Error("a call is removed more often than it was added")
	}
}

// VLAN tags are part of the frame, and other traffic is none of ours.
func TestTagged(t *testing.T) {
	b := newBench(t, 1, true)
	p := b.mustOpen(xsk.Config{}).Ports(0)[0]
	plain := b.gre(1, 9, 100)
	tagged := append(append(bytes.Clone(plain[:12]), 0x81, 0, 0x20, 5), plain[12:]...)
	arp := append(append(bytes.Clone(plain[:12]), 8, 6), make([]byte, 46)...)
	for _, f := range [][]byte{arp, tagged, arp, plain} {
		b.send(f)
	}
	var got [][]byte
	fs := make([]*rings.Frame, 4)
	for end := time.Now().Add(10 * time.Second); len(got) < 2 && time.Now().Before(end); {
		n, err := p.Recv(fs)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range fs[:n] {
			got = append(got, bytes.Clone(f.Data()))
			f.Free()
		}
	}
	if len(got) != 2 || !bytes.Equal(got[0], tagged) || !bytes.Equal(got[1], plain) {
		t.Errorf("received % x", got)
	}
}

// Frames that are not of the UMEM are copied.
func TestForeignFrames(t *testing.T) {
	b := newBench(t, 1, true)
	p := b.mustOpen(xsk.Config{}).Ports(0)[0]
	foreign := rings.NewPoolN(4, rings.ChunkSmall)
	want := append(ringtest.Ethernet(b.far.MAC, b.near.MAC), ringtest.Packet(b.near.IP, b.far.IP, 1, 5, 300)...)
	var fs []*rings.Frame
	for range 4 {
		f := foreign.Get()
		f.Set(want)
		fs = append(fs, f)
	}
	if n, err := p.Send(fs); n != 4 || err != nil {
		t.Fatalf("Send: %d, %v", n, err)
	}
	if foreign.Free() != 4 {
		t.Errorf("%d foreign frames of 4 are back", foreign.Free())
	}
	got := 0
	for end := time.Now().Add(10 * time.Second); got < 4 && time.Now().Before(end); {
		if err := p.Flush(); err != nil {
			t.Fatal(err)
		}
		for f := b.wire.Recv(); f != nil; f = b.wire.Recv() {
			if bytes.Equal(f, want) {
				got++
			}
		}
	}
	if s := p.Stats(); got != 4 || s.Copies != 4 || s.TxPackets != 4 {
		t.Errorf("%d frames arrived, counted %+v; want 4", got, s)
	}
}

func TestTooLargeToSend(t *testing.T) {
	b := newBench(t, 1, true)
	p := b.mustOpen(xsk.Config{}).Ports(0)[0]
	header := ringtest.Ethernet(b.far.MAC, b.near.MAC)
	tagged := append(append([]byte{}, header[:12]...), 0x81, 0, 0, 5, 8, 0)
	var fs []*rings.Frame
	for _, c := range []struct {
		header []byte
		n      int
	}{{header, 1500}, {header, 1501}, {tagged, 1500}, {tagged, 1501}, {nil, 32}} {
		f := b.pools[0].Get()
		f.Set(append(bytes.Clone(c.header), ringtest.Packet(b.near.IP, b.far.IP, 1, 0, c.n)...))
		if c.header == nil {
			f.Trim(0)
		}
		fs = append(fs, f)
	}
	if n, err := p.Send(fs); n != len(fs) || err != nil {
		t.Fatalf("Send: %d, %v", n, err)
	}
	if err := p.Flush(); err != nil {
		t.Fatal(err)
	}
	if s := p.Stats(); s.TxPackets != 2 || s.TxDropped != 3 {
		t.Errorf("counted %+v, want 2 sent, 3 dropped", s)
	}
}

// What the kernel finds no room for is counted.
func TestRingFull(t *testing.T) {
	b := newBench(t, 1, true)
	p := b.mustOpen(xsk.Config{Ring: 64}).Ports(0)[0]
	for i := range 100 {
		b.send(b.gre(1, uint32(i), 64))
	}
	b.await(p, 64)
	for range 2 { // reading must not count twice
		if s := p.Stats(); s.RxPackets != 64 || s.RxDropped != 36 {
			t.Errorf("counted %+v, want 64 and 36 dropped", s)
		}
	}
	if k := p.Kernel(); k.Rx_dropped+k.Rx_ring_full != 36 {
		t.Errorf("the kernel counted %+v", k)
	}
}

// A program that is already there stays, and is the reason given.
func TestForeignProgram(t *testing.T) {
	b := newBench(t, 1, true)
	pass, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R0, 2), asm.Return(),
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer pass.Close()
	for _, flag := range []link.XDPAttachFlags{link.XDPDriverMode, link.XDPGenericMode} {
		var l link.Link
		b.near.NS.Do(func() { l, err = link.AttachXDP(link.XDPOptions{Program: pass, Interface: b.near.Index, Flags: flag}) })
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.open(xsk.Config{}); !errors.Is(err, xsk.ErrForeignProgram) {
			t.Errorf("opened beside a foreign program: %v", err)
		}
		if b.pools[0].Free() != perWorker {
			t.Error("a failed Open keeps frames")
		}
		if i, err := l.Info(); err != nil || i.XDP().Ifindex != uint32(b.near.Index) {
			t.Errorf("the foreign program is not attached any more: %v", err)
		}
		l.Close()
	}
	b.mustOpen(xsk.Config{})
	// And the other way round: nobody takes ours away by accident.
	b.near.NS.Do(func() {
		if l, err := link.AttachXDP(link.XDPOptions{Program: pass, Interface: b.near.Index}); err == nil {
			l.Close()
			t.Error("another program was attached over ours")
		}
	})
}

// Killed without a chance to clean up, a process leaves nothing behind.
func TestKilled(t *testing.T) {
	b := newBench(t, 1, true)
	var cmd *exec.Cmd
	b.near.NS.Do(func() {
		cmd = exec.Command(os.Args[0], "-test.run=^TestKilledChild$")
		cmd.Env = append(os.Environ(), "XSK_TEST_CHILD="+b.near.Name)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 1)); err != nil {
			t.Fatalf("the child did not open the device: %v", err)
		}
	})
	if _, err := b.open(xsk.Config{}); !errors.Is(err, xsk.ErrForeignProgram) {
		t.Errorf("the child's program is not attached: %v", err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	p := b.mustOpen(xsk.Config{}).Ports(0)[0]
	b.send(b.gre(1, 1, 64))
	b.await(p, 1)
}

// TestKilledChild is what TestKilled kills.
func TestKilledChild(t *testing.T) {
	name := os.Getenv("XSK_TEST_CHILD")
	if name == "" {
		return
	}
	u, err := xsk.NewUMEM(perWorker, rings.ChunkSmall)
	if err != nil {
		t.Fatal(err)
	}
	s, err := xsk.NewSteering(xsk.SteeringConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := xsk.Open(xsk.Config{Interface: name}, s, []*rings.Pool{rings.NewPool(u.Arena(), 0, perWorker)}); err != nil {
		t.Fatal(err)
	}
	_, _ = os.Stdout.WriteString("!")
	time.Sleep(time.Minute)
}

// An interface that is down can be opened and works once it is up.
func TestOpenWhileDown(t *testing.T) {
	for _, generic := range []bool{false, true} {
		b := newBench(t, 1, true)
		b.near.Down(t)
		p := b.mustOpen(xsk.Config{Generic: generic}).Ports(0)[0]
		b.near.Up(t)
		for i := 0; ; i++ {
			b.send(b.gre(1, 1, 64))
			fs := make([]*rings.Frame, 8)
			n, err := p.Recv(fs)
			if err != nil || i == 1_000_000 {
				t.Fatalf("generic %v: nothing arrives, %v", generic, err)
			}
			for _, f := range fs[:n] {
				f.Free()
			}
			if n > 0 {
				break
			}
		}
	}
}

func TestUMEM(t *testing.T) {
	for _, c := range []struct{ n, chunk int }{{0, rings.ChunkSmall}, {-1, rings.ChunkSmall}, {16, 1024}, {16, 0}} {
		if _, err := xsk.NewUMEM(c.n, c.chunk); err == nil {
			t.Errorf("%d frames of %d bytes are made", c.n, c.chunk)
		}
	}
	u, err := xsk.NewUMEM(1000, rings.ChunkLarge)
	if err != nil {
		t.Fatal(err)
	}
	if n := u.Arena().Len(); n < 1000 || u.Arena().Chunk() != rings.ChunkLarge {
		t.Errorf("%d frames of %d bytes", n, u.Arena().Chunk())
	}
	for i := range u.Arena().Len() {
		u.Arena().Frame(uint32(i)).Chunk()[rings.ChunkLarge-1] = 1
	}
	for range 2 {
		if err := u.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Pools and numbers that do not fit are refused, and nothing is left behind.
func TestOpenErrors(t *testing.T) {
	b := newBench(t, 2, true)
	pools := b.pools
	for _, c := range []struct {
		name  string
		cfg   xsk.Config
		pools []*rings.Pool
	}{
		{"one pool for two workers", xsk.Config{}, pools[:1]},
		{"two memories", xsk.Config{}, []*rings.Pool{pools[0], rings.NewPoolN(perWorker, rings.ChunkSmall)}},
		{"few frames", xsk.Config{Queues: make([]int, 64)}, pools},
		{"no such queue", xsk.Config{Queues: []int{0, 77}}, pools},
	} {
		b.pools = c.pools
		if _, err := b.open(c.cfg); err == nil || !strings.Contains(err.Error(), b.near.Name) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	b.pools = pools
	b.near.NS.Do(func() {
		for _, name := range []string{"lo", "nosuch0"} {
			if _, err := xsk.Open(xsk.Config{Interface: name}, b.steer, pools); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	for i, p := range pools {
		if p.Free() != perWorker {
			t.Errorf("pool %d: %d frames of %d are back", i, p.Free(), perWorker)
		}
	}
	b.mustOpen(xsk.Config{})
}
