package workers

import (
	"encoding/binary"
	"net/netip"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"xpptp/engine/gre"
	"xpptp/engine/mppe"
	"xpptp/engine/mppe/multi"
	"xpptp/engine/session"
	"xpptp/engine/wire"
	"xpptp/rings"
)

// fountain is a port without a far end: it gives the same packets again and
// again, GRE ones with their next sequence number, and takes everything.
type fountain struct {
	pool    *rings.Pool
	packets [][]byte
	gre     bool
	next    int
	seq     uint32
	index   int
	taken   int
	_       [128]byte // the next one is another worker's
}

func (*fountain) FD() int            { return -1 }
func (*fountain) Flush() error       { return nil }
func (*fountain) Stats() rings.Stats { return rings.Stats{} }
func (*fountain) Close() error       { return nil }
func (p *fountain) Info() rings.Info {
	return rings.Info{Link: rings.LinkIP, MTU: 1500, Index: p.index}
}

func (p *fountain) Send(fs []*rings.Frame) (int, error) {
	for _, f := range fs {
		f.Free()
	}
	p.taken += len(fs)
	return len(fs), nil
}

func (p *fountain) Recv(fs []*rings.Frame) (int, error) {
	if len(p.packets) == 0 {
		return 0, nil
	}
	for i := range fs {
		f := p.pool.Get()
		f.Set(p.packets[p.next])
		if p.gre {
			binary.BigEndian.PutUint32(f.Data()[wire.IPv4Len+8:], p.seq)
		}
		if p.next++; p.next == len(p.packets) {
			p.next = 0
			p.seq++
		}
		fs[i] = f
	}
	return len(fs), nil
}

// benchTeam makes n workers with calls each that packets of one direction
// never run out for, and steps them, each on a thread and core of its own,
// until each has had count packets. It returns the threads' time a packet.
func benchTeam(b *testing.B, n int, decap, encrypted bool, count int) (ns float64) {
	const calls, frames = 64, 1024
	arena := rings.NewArenaN(n*frames, rings.ChunkSmall)
	var cfgs []Config
	var sinks []*fountain
	for i := range n {
		pool := rings.NewPool(arena, i*frames, (i+1)*frames)
		out, in := &fountain{pool: pool, gre: true}, &fountain{pool: pool}
		for k := range calls {
			id, a := uint16(k*n+i+1), netip.AddrFrom4([4]byte{10, byte(i), 0, byte(k)})
			ip := make([]byte, 64)
			wire.PutIPv4(ip, &wire.IPv4Fields{TTL: 64, Protocol: wire.ProtoUDP, Src: teamHost.As4(), Dst: a.As4(), PayloadLen: 44})
			if !decap {
				in.packets = append(in.packets, ip)
				continue
			}
			wire.PutIPv4(ip, &wire.IPv4Fields{TTL: 64, Protocol: wire.ProtoUDP, Src: a.As4(), Dst: teamHost.As4(), PayloadLen: 44})
			p := make([]byte, wire.IPv4Len+wire.GRELen(true, false)+1+len(ip))
			wire.PutPPP(p[wire.IPv4Len+wire.GRELen(true, false):], wire.PPPIPv4, true, true)
			copy(p[len(p)-len(ip):], ip)
			wire.PutGRE(p[wire.IPv4Len:], id, 1+len(ip), 0, true, 0, false)
			wire.PutIPv4(p, &wire.IPv4Fields{TTL: 64, Protocol: wire.ProtoGRE, Src: teamPeer.As4(), Dst: teamLocal.As4(), PayloadLen: len(p) - wire.IPv4Len})
			out.packets = append(out.packets, p)
		}
		cfgs = append(cfgs, Config{
			Pool: pool, Outside: []rings.Port{out}, Inside: in, CPU: -1, Cipher: multi.Best(), ClampMSS: true,
			GRE: gre.Config{Window: 4096, AckDelay: 5e6, ReorderDelay: 5e6},
		})
		sinks = append(sinks, map[bool]*fountain{true: in, false: out}[decap])
	}
	ws, err := NewTeam(cfgs, 1)
	if err != nil {
		b.Fatal(err)
	}
	for i, w := range ws {
		defer w.Close()
		for k := range calls {
			id := uint16(k*n + i + 1)
			c := NewCall(&CallParams{
				Local: teamLocal, Peer: teamPeer, CallID: id, PeerCallID: id, PeerKnown: true,
				GRE: w.GREConfig(), PeerWindow: 4096, TTL: 64, Hop: teamHop{},
			})
			w.Add(c, nil)
			w.SetFraming(c, true, true, 1400)
			if encrypted {
				var p mppe.Params
				p.Bits = 128
				p.Start[0] = byte(k)
				w.SetEncryption(c, session.Required)
				w.OpenReceive(c, p)
				w.OpenTransmit(c, p)
			}
			w.NetworkUp(c, netip.AddrFrom4([4]byte{10, byte(i), 0, byte(k)}))
		}
	}
	var cpus unix.CPUSet
	_ = unix.SchedGetaffinity(0, &cpus)
	var wg sync.WaitGroup
	var mu sync.Mutex
	now := clock()
	for i, w := range ws {
		wg.Add(1)
		go func() {
			defer wg.Done()
			runtime.LockOSThread() // for good: the affinity goes with it
			for cpu, k := 0, 0; cpu < 1024; cpu++ {
				if cpus.IsSet(cpu) {
					if k++; k == i+1 {
						var one unix.CPUSet
						one.Set(cpu)
						_ = unix.SchedSetaffinity(0, &one)
					}
				}
			}
			for range 100 {
				w.Step(now())
			}
			from, at := threadTime(), sinks[i].taken
			for sinks[i].taken-at < count {
				w.Step(now())
			}
			took := float64(threadTime()-from) / float64(sinks[i].taken-at)
			mu.Lock()
			ns += took / float64(n)
			mu.Unlock()
		}()
	}
	wg.Wait()
	return ns
}

func threadTime() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts)
	return ts.Nano()
}

// The engine without I/O: a worker's time a packet alone, and beside another
// on a core of its own. Nothing but the rings is shared, so two do nearly
// twice as much.
func BenchmarkTeam(b *testing.B) {
	for _, c := range []struct {
		name             string
		decap, encrypted bool // not both: that would want new packets all the time
	}{{"decap", true, false}, {"encap", false, false}, {"encap-mppe", false, true}} {
		b.Run(c.name, func(b *testing.B) {
			var one, two float64
			for range 20 { // others use the machine too: the best of some
				k := max(b.N/20, 10_000)
				if ns := benchTeam(b, 1, c.decap, c.encrypted, k); one == 0 || ns < one {
					one = ns
				}
				if ns := benchTeam(b, 2, c.decap, c.encrypted, k); two == 0 || ns < two {
					two = ns
				}
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(one, "ns/packet")
			b.ReportMetric(two, "ns/packet-of-2")
			b.ReportMetric(2*one/two, "times-as-much-by-2")
		})
	}
}
