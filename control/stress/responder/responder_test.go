package responder

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/ipv4"

	"xpptp/control/sock"
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
	_, err := b.l.Add(load.CallConfig{V4: netip.AddrFrom4(a), Far4: far, Room: room})
	if err != nil {
		b.t.Fatal(err)
	}
}

const room = 1300 // below the largest of a profile's packets

// deliver hands the load a packet from the far end.
func (b *bench) deliver(to netip.AddrPort, payload []byte) {
	for range b.down(payload) {
		ip := make([]byte, wire.IPv4Len+wire.UDPLen+len(payload))
		if len(ip) > room {
			b.t.Errorf("the far end sends %d bytes through a call that takes %d", len(ip), room)
		}
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

func (b *bench) start(length time.Duration, ps ...load.Profile) {
	b.t.Helper()
	if err := b.l.Start(ps, length); err != nil {
		b.t.Fatal(err)
	}
}

// run lets time go by and returns what the load says.
func (b *bench) run(d time.Duration) *load.Snapshot {
	for end := b.now + int64(d); b.now < end; b.now += int64(200 * time.Microsecond) {
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

var profile = load.Profile{Schedule: traffic.Schedule{Rate: 200}, Sizes: traffic.IMIX()}

// Each flow's packets are counted to the last one, at either end.
func TestFlows(t *testing.T) {
	for _, c := range []struct {
		flow     load.Flow
		total    bool
		up, down uint64 // packets in two seconds
	}{
		{load.Echo, false, 2000, 0},
		{load.Up, false, 2000, 0},
		{load.Down, false, 0, 2000},
		{load.Both, false, 2000, 2000},
		{load.Up, true, 400, 0},
		{load.Down, true, 0, 400},
	} {
		t.Run(fmt.Sprintf("%v of all %v", c.flow, c.total), func(t *testing.T) {
			b := newTestBench(t, 7)
			for i := range 5 {
				b.add(i + 1)
			}
			p := profile
			p.Flow, p.Total = c.flow, c.total
			b.start(2*time.Second, p)
			s := b.run(5 * time.Second)
			n := &s.Traffic
			if n.Sent != c.up+c.down || n.Received != n.Sent || n.Missing != 0 || n.Duplicated+n.Reordered+n.Corrupted+n.Old != 0 {
				t.Errorf("%+v, want %d up, %d down", n, c.up, c.down)
			}
			if s.Sending != 0 || s.Sender.Strays != 0 || s.Sender.Foreign != 0 || s.Sender.Requests != s.Sender.Reports {
				t.Errorf("%+v, %d still sending", s.Sender, s.Sending)
			}
			var st Stats
			b.n.add(&st)
			want := Stats{Received: c.up + s.Sender.Requests, Requests: s.Sender.Requests, Sent: c.down}
			if c.flow == load.Echo {
				want.Echoed = c.up
			} else {
				want.Counted = c.up
			}
			if st != want {
				t.Errorf("responder: %+v, want %+v", st, want)
			}
			// Times that can be known, and no others.
			round, up, down := s.Times.Round.TotalCount(), s.Times.Up.TotalCount(), s.Times.Down.TotalCount()
			switch {
			case c.flow == load.Echo && (round != 2000 || up != 2000 || down != 2000):
				t.Errorf("%d round trips, %d up, %d down", round, up, down)
			case c.flow != load.Echo && (round != 0 || up != 0 || down != int64(c.down)):
				t.Errorf("%d round trips, %d up, %d down", round, up, down)
			}
			if b.bank.cal.Len() != 0 || b.bank.rate.used != 0 {
				t.Errorf("%d streams go on, with %v packets/s", b.bank.cal.Len(), b.bank.rate.used)
			}
		})
	}
}

// No time one way where the ends have clocks of their own.
func TestOtherClocks(t *testing.T) {
	b := newTestBench(t, 8)
	b.add(1)
	down := profile
	down.Flow = load.Down
	b.start(time.Second, profile, down)
	s := b.run(2 * time.Second)
	if s.Times.Round.TotalCount() != 200 || s.Times.Up.TotalCount()+s.Times.Down.TotalCount() != 0 || s.Traffic.Received != 400 {
		t.Errorf("%d round trips, %d up, %d down", s.Times.Round.TotalCount(), s.Times.Up.TotalCount(), s.Times.Down.TotalCount())
	}
}

// What a bad link does each way is known, and requests that are lost are made again.
func TestBadLink(t *testing.T) {
	for _, flow := range []load.Flow{load.Echo, load.Up, load.Down} {
		t.Run(flow.String(), func(t *testing.T) {
			b := newTestBench(t, 7)
			rnd := rand.New(rand.NewPCG(1, uint64(flow)))
			var lost, doubled uint64
			bad := func(p []byte) int {
				s := traffic.Stamp(p)
				if s.Flags()&traffic.FlagControl != 0 {
					return rnd.IntN(2) // half of them are lost
				}
				n := min(rnd.IntN(20), 2)
				if n == 2 {
					n = 1 + rnd.IntN(16)/15
				}
				switch n {
				case 0:
					lost++
				case 2:
					doubled++
				}
				return n
			}
			if flow == load.Down {
				b.down = bad
			} else {
				b.up = bad
			}
			for i := range 3 {
				b.add(i + 1)
			}
			p := profile
			p.Flow = flow
			b.start(4*time.Second, p)
			s := b.run(10 * time.Second)
			n := &s.Traffic
			if n.Sent == 0 || n.Sent-n.Received != lost || n.Duplicated != doubled || n.Reordered != 0 || lost == 0 || doubled == 0 {
				t.Errorf("%+v, want %d lost, %d duplicated", n, lost, doubled)
			}
		})
	}
}

// The end that sends stops when it is no longer asked, or told to.
func TestStops(t *testing.T) {
	b := newTestBench(t, 7)
	b.add(1)
	p := profile
	p.Flow = load.Down
	b.start(time.Hour, p)
	b.run(time.Second)
	b.l.Stop()
	s := b.run(time.Second)
	if s.Traffic.Sent == 0 || s.Traffic.Sent != s.Traffic.Received || b.bank.cal.Len() != 0 {
		t.Errorf("after stop: %+v, %d streams go on", s.Traffic, b.bank.cal.Len())
	}
	b.start(time.Hour, p)
	b.run(time.Second)
	b.up = func([]byte) int { return 0 } // the client is gone
	b.run(4 * time.Second)
	before := b.n.sent.Load()
	b.run(time.Second)
	if b.n.sent.Load() != before || b.bank.cal.Len() != 0 {
		t.Error("still sending to one that no longer asks")
	}
}

// request has the bank handle a request from a port of ours.
func (b *bench) request(port uint16, stream uint32, r *traffic.Request) (rep traffic.Report, ok bool) {
	body := r.Append(nil)
	buf := make([]byte, bufferLen)
	n := traffic.StampLen + len(body)
	traffic.PutControl(buf[:n], &traffic.StampFields{Stream: stream}, body)
	n = b.bank.handle(buf, n, net.UDPAddrFromAddrPort(netip.AddrPortFrom(inside, port)), b.now)
	if n == 0 {
		return rep, false
	}
	s, v := traffic.ParseStamp(buf[:n])
	if v != traffic.Whole || s.Flags() != traffic.FlagControl|traffic.FlagReply || s.Stream() != stream {
		b.t.Fatalf("an answer that is none: %d, flags %x", v, s.Flags())
	}
	rep, err := traffic.ParseReport(s.Body())
	if err != nil {
		b.t.Fatal(err)
	}
	return rep, true
}

func TestBounds(t *testing.T) {
	b := newTestBench(t, 7)
	r := traffic.Request{Op: traffic.OpSend, Lease: 5 * time.Second, Schedule: traffic.Schedule{Rate: 60_000}, Sizes: traffic.Fixed(64)}
	if rep, ok := b.request(1, 1, &r); !ok || !rep.Sending {
		t.Errorf("within the rate: %+v, %v", rep, ok)
	}
	if rep, ok := b.request(2, 1, &r); !ok || rep.Sending {
		t.Errorf("beyond the rate of all: %+v, %v", rep, ok)
	}
	if n := b.n.refused.Load(); n != 1 {
		t.Errorf("%d refused", n)
	}
	r.Lease = traffic.MaxLease + time.Second
	if _, ok := b.request(2, 1, &r); ok {
		t.Error("a lease beyond the bound was taken")
	}
	for i := range uint32(100) { // there is room for 64 streams
		b.request(3, i, &traffic.Request{Op: traffic.OpQuery})
	}
	if len(b.bank.flows) != 64 {
		t.Errorf("%d streams are remembered", len(b.bank.flows))
	}
	b.now += int64(idleAfter) + 2e9
	if _, ok := b.request(4, 1, &traffic.Request{Op: traffic.OpQuery}); !ok || len(b.bank.flows) > 3 {
		t.Errorf("old streams were not forgotten: %d", len(b.bank.flows))
	}
}

// What is an answer, or no test packet, is not answered; what is damaged goes back as it is.
func TestNotAnswered(t *testing.T) {
	b := newTestBench(t, 7)
	addr := net.UDPAddrFromAddrPort(netip.AddrPortFrom(inside, 1))
	packet := func(flags uint8) []byte {
		buf := make([]byte, bufferLen)
		traffic.PutStamp(buf[:100], &traffic.StampFields{Flags: flags, Stream: 1})
		return buf
	}
	for _, flags := range []uint8{traffic.FlagReply, traffic.FlagDown, traffic.FlagReply | traffic.FlagShared} {
		if n := b.bank.handle(packet(flags), 100, addr, b.now); n != 0 {
			t.Errorf("flags %x: answered", flags)
		}
	}
	if n := b.bank.handle([]byte("hello"), 5, addr, b.now); n != 0 {
		t.Error("a packet that is none of a test was answered")
	}
	bad := packet(0)
	bad[50] ^= 1
	want := bytes.Clone(bad)
	if n := b.bank.handle(bad, 100, addr, b.now); n != 100 || !bytes.Equal(bad, want) {
		t.Errorf("a damaged packet went back with %d bytes, or changed", n)
	}
	good := packet(0)
	if n := b.bank.handle(good, 100, addr, b.now); n != 100 {
		t.Errorf("a whole packet went back with %d bytes", n)
	}
	var s Stats
	b.n.add(&s)
	if s != (Stats{Received: 2, Echoed: 2, Corrupted: 1, Foreign: 4}) {
		t.Errorf("%+v", s)
	}
}

func FuzzHandle(f *testing.F) {
	buf := make([]byte, 100)
	traffic.PutStamp(buf, &traffic.StampFields{Stream: 1})
	f.Add(bytes.Clone(buf))
	r := traffic.Request{Op: traffic.OpSend, Lease: time.Second, Schedule: traffic.Schedule{Rate: 100}, Sizes: traffic.IMIX()}
	body := r.Append(nil)
	buf = make([]byte, traffic.StampLen+len(body))
	traffic.PutControl(buf, &traffic.StampFields{Stream: 2}, body)
	f.Add(buf)
	addr := net.UDPAddrFromAddrPort(netip.AddrPortFrom(inside, 1))
	var n counters
	now := int64(1e9)
	b := newBank(bankConfig{clock: func() int64 { return now }, streams: 16, rate: &rate{most: 1e5}, count: &n})
	ms := newMessages()
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) > bufferLen {
			return
		}
		buf := make([]byte, bufferLen)
		k := b.handle(buf, copy(buf, p), addr, now)
		// Nobody gets more back than was sent, but for a report.
		if k > max(len(p), 100) {
			t.Fatalf("%d bytes in answer to %d", k, len(p))
		}
		now += 1e6
		n, next := b.produce(ms, now)
		if n > len(ms) || next <= now && n == 0 {
			t.Fatalf("%d packets, the next at %d", n, next-now)
		}
		for i := range ms[:n] {
			ms[i].Buffers[0] = ms[i].Buffers[0][:bufferLen]
		}
	})
}

// Over real sockets.
func TestSockets(t *testing.T) {
	for _, listen := range []string{"127.0.0.1:0", "[::1]:0"} {
		r, err := Open(Config{Listen: []netip.AddrPort{netip.MustParseAddrPort(listen)}, Sockets: 2})
		if err != nil {
			if listen[0] == '[' {
				t.Logf("no IPv6: %v", err)
				continue
			}
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		if a := r.Addrs(); len(a) != 2 || a[0] != a[1] || a[0].Port() == 0 {
			t.Errorf("listens on %v", a)
		}
		for range 4 { // some to each socket
			talk(t, r.Addrs()[0])
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if s := r.Stats(); s.Echoed < 40 || s.Counted == 0 || s.Sent < 4*20 || s.Requests == 0 || s.Foreign+s.Refused+s.Corrupted != 0 {
			t.Errorf("%+v", s)
		}
	}
}

// talk is a client of one stream each way.
func talk(t *testing.T, to netip.AddrPort) {
	t.Helper()
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	send := func(b []byte) {
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	in := make([]byte, bufferLen)
	recv := func() traffic.Stamp {
		n, err := c.Read(in)
		if err != nil {
			t.Fatal(err)
		}
		s, v := traffic.ParseStamp(in[:n])
		if v != traffic.Whole {
			t.Fatalf("verdict %d", v)
		}
		return s
	}
	clock := sock.Monotonic()
	b := make([]byte, 200)
	for seq := range uint64(10) {
		traffic.PutStamp(b, &traffic.StampFields{Stream: 1, Seq: seq, Due: clock(), Clock: sock.ClockID()})
		send(b)
		s := recv()
		if up, ok := s.Up(clock()); s.Seq() != seq || s.Flags()&traffic.FlagReply == 0 || sock.ClockID() != 0 && (!ok || up < 0) {
			t.Fatalf("packet %d came back with number %d, flags %x, up %d", seq, s.Seq(), s.Flags(), up)
		}
	}
	traffic.PutStamp(b, &traffic.StampFields{Flags: traffic.FlagQuiet, Stream: 2})
	send(b)
	ask := func(stream uint32, r traffic.Request) {
		body := r.Append(nil)
		p := make([]byte, traffic.StampLen+len(body))
		traffic.PutControl(p, &traffic.StampFields{Stream: stream}, body)
		send(p)
	}
	ask(2, traffic.Request{Op: traffic.OpQuery})
	if rep, err := traffic.ParseReport(recv().Body()); err != nil || rep.Received != 1 {
		t.Fatalf("%+v, %v", rep, err)
	}
	ask(3, traffic.Request{Op: traffic.OpSend, Lease: 5 * time.Second, Schedule: traffic.Schedule{Rate: 500}, Sizes: traffic.IMIX()})
	var v traffic.Verifier
	for v.Next() < 20 {
		if s := recv(); s.Flags()&traffic.FlagDown != 0 {
			if s.Stream() != 3 || v.Receive(s.Seq()) != traffic.InOrder {
				t.Fatalf("stream %d, number %d", s.Stream(), s.Seq())
			}
		}
	}
	ask(3, traffic.Request{Op: traffic.OpStop})
	for {
		if s := recv(); s.Flags()&traffic.FlagControl != 0 {
			if rep, err := traffic.ParseReport(s.Body()); err != nil || rep.Sending || rep.Sent < 20 {
				t.Fatalf("%+v, %v", rep, err)
			}
			return
		}
	}
}

func TestOpenErrors(t *testing.T) {
	if _, err := Open(Config{}); err == nil {
		t.Error("opened without an address")
	}
	if _, err := Open(Config{Listen: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:7007")}}); err == nil {
		t.Error("opened on an address that is not ours")
	}
}
