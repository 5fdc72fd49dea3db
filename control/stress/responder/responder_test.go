package responder

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/ipv4"

	"xpptp/control/stress/load"
	"xpptp/engine/traffic"
	"xpptp/engine/wire"
	"xpptp/rings"
)

var (
	inside = netip.MustParseAddr("10.64.0.1")
	far    = netip.MustParseAddrPort("10.99.0.1:7007")
)

// bench is a load and a bank under one clock, with a link between them that a
// test may spoil.
type bench struct {
	t    *testing.T
	now  int64
	l    *load.Load
	port rings.Port
	bank *bank
	pool *rings.Pool // for what comes back
	n    counters
	ms   []ipv4.Message
	// up and down say how often a packet arrives.
	up, down func(payload []byte) int
}

func newTestBench(t *testing.T, clockID uint32) *bench {
	b := &bench{t: t, now: 5e9, ms: newMessages()}
	clock := func() int64 { return b.now }
	b.bank = newBank(bankConfig{clock: clock, clockID: clockID, streams: 64, rate: &rate{most: 1e5}, count: &b.n})
	var err error
	if b.l, err = load.New(load.Config{Workers: 1, Clock: clock, ClockID: 7}); err != nil {
		t.Fatal(err)
	}
	b.pool = rings.NewPoolN(2048, rings.ChunkSmall)
	if b.port, err = b.l.Inside(0, b.pool); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.port.Close() })
	always := func([]byte) int { return 1 }
	b.up, b.down = always, always
	return b
}

func (b *bench) add(i int) {
	a := inside.As4()
	a[3] = byte(i)
	_, err := b.l.Add(load.CallConfig{V4: netip.AddrFrom4(a), Far4: far, Room: 1400})
	if err != nil {
		b.t.Fatal(err)
	}
}

// deliver hands the load a packet from the far end.
func (b *bench) deliver(to netip.AddrPort, payload []byte) {
	for range b.down(payload) {
		ip := make([]byte, wire.IPv4Len+wire.UDPLen+len(payload))
		copy(ip[28:], payload)
		src, dst := far.Addr().As4(), to.Addr().As4()
		wire.PutUDP(ip[20:], far.Port(), to.Port(), len(payload), wire.PseudoHeader4(src, dst, wire.ProtoUDP, len(ip)-20))
		wire.PutIPv4(ip, &wire.IPv4Fields{TTL: 60, Protocol: wire.ProtoUDP, Src: src, Dst: dst, PayloadLen: len(ip) - 20})
		f := b.pool.Get()
		f.Set(ip)
		if _, err := b.port.Send([]*rings.Frame{f}); err != nil {
			b.t.Fatal(err)
		}
	}
}

// step is what happens in a moment.
func (b *bench) step() {
	var fs [64]*rings.Frame
	n, err := b.port.Recv(fs[:])
	if err != nil {
		b.t.Fatal(err)
	}
	for _, f := range fs[:n] {
		p, v := traffic.Judge(f.Data())
		if v != traffic.Whole || p.Path.Dst != far {
			b.t.Fatalf("the load made a packet for %v: %d", p.Path.Dst, v)
		}
		for range b.up(p.Stamp) {
			buf := make([]byte, bufferLen)
			k := copy(buf, p.Stamp)
			if k = b.bank.handle(buf, k, net.UDPAddrFromAddrPort(p.Path.Src), b.now); k > 0 {
				b.deliver(p.Path.Src, buf[:k])
			}
		}
		f.Free()
	}
	n, _ = b.bank.produce(b.ms, b.now)
	for i := range b.ms[:n] {
		m := &b.ms[i]
		b.deliver(m.Addr.(*net.UDPAddr).AddrPort(), m.Buffers[0])
		m.Buffers[0] = m.Buffers[0][:bufferLen]
	}
}

// run lets time go by and returns what the load says.
func (b *bench) run(d time.Duration) *load.Snapshot {
	for end := b.now + int64(d); b.now < end; b.now += int64(50 * time.Microsecond) {
		b.step()
	}
	return b.snapshot()
}

func (b *bench) snapshot() *load.Snapshot {
	done := make(chan *load.Snapshot)
	go func() {
		s, err := b.l.Snapshot(context.Background())
		if err != nil {
			b.t.Error(err)
		}
		done <- s
	}()
	for {
		select {
		case s := <-done:
			return s
		default:
			b.step()
		}
	}
}

func TestFlows(t *testing.T) {
	for _, flow := range []load.Flow{load.Echo, load.Up, load.Down, load.Both} {
		t.Run(flow.String(), func(t *testing.T) {
			b := newTestBench(t, 7)
			for i := range 5 {
				b.add(i + 1)
			}
			p := []load.Profile{{Flow: flow, Schedule: traffic.Schedule{Rate: 200}, Sizes: traffic.IMIX()}}
			if err := b.l.Start(p, 2*time.Second); err != nil {
				t.Fatal(err)
			}
			s := b.run(5 * time.Second)
			fmt.Printf("%v %+v\n%+v\n%+v\n", flow, s.Parts, s.Sender, &b.n)
			fmt.Println(s.Times.Round.TotalCount(), s.Times.Up.TotalCount(), s.Times.Down.TotalCount(), s.Sending)
		})
	}
}
