package control

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"xpptp/control/config"
	"xpptp/control/ppp"
	"xpptp/engine"
	"xpptp/engine/wire"
	"xpptp/rings"
)

// 10,000 calls come and go, by every way a call can end; nothing is left of
// them: no goroutine, timer, address, call ID, interface identifier or frame.
func TestChurn(t *testing.T) {
	for workers, total := range map[int]int{1: 10_000, 2: 1500, 4: 500} {
		t.Run(fmt.Sprintf("%d workers", workers), func(t *testing.T) {
			if testing.Short() {
				total /= 20
			}
			churn(t, workers, total)
		})
	}
}

func churn(t *testing.T, workers, total int) {
	before := runtime.NumGoroutine()
	s := newSim(t, simOptions{seed: 7, workers: workers, common: func(c *config.Common) { c.PPP.EchoInterval = 0 }})
	made, ends := 0, map[string]int{}
	for made < total {
		n := 1 + s.rnd.IntN(40)
		conns := make([]*conn, 0, n)
		for range n {
			calls := 1 + s.rnd.IntN(3)
			conns = append(conns, s.call(calls))
			made += calls
		}
		// Some are ended while they are being set up, the others once they are up.
		for range s.rnd.IntN(60) {
			s.step()
		}
		if s.rnd.IntN(2) == 0 {
			s.until("calls up", 60, func() bool { return s.upCalls() == len(s.client.calls()) && s.serverUp() == s.upCalls() })
		}
		for _, c := range conns {
			switch s.rnd.IntN(4) {
			case 0: // the client hangs up
				for _, k := range s.client.calls() {
					if k.conn == c {
						k.hangUp(ppp.Reason{Code: ppp.UserRequest})
					}
				}
				c.leaving = true
				c.pump()
				ends["client"]++
			case 1: // the server hangs up
				for _, k := range s.server.calls() {
					if k.conn.m.RemoteAddr() == c.m.LocalAddr() {
						k.hangUp(ppp.Reason{Code: ppp.AdminReset})
						k.conn.leaving = true
					}
				}
				ends["server"]++
			case 2: // the control connection breaks
				_ = c.tr.Close()
				ends["broken"]++
			case 3: // the client's side of it stops in order
				c.m.Stop(s.now, 1)
				c.pump()
				ends["stopped"]++
			}
		}
		defer func() {
			if t.Failed() {
				for _, e := range []*simEnd{s.client, s.server} {
					for _, l := range e.loops {
						for c := range l.conns {
							t.Logf("left: conn %v originator %v state %v stopping %v leaving %v placing %d calls %d/%d", c.m.RemoteAddr(), c.m.Originator(), c.m.State(), c.stopping, c.leaving, c.placing, len(c.calls), c.m.NumCalls())
						}
					}
					for _, k := range e.calls() {
						t.Logf("left: call %d client %v opened %v ending %v gone %v phase %v", k.id, k.client, k.opened, k.ending, k.gone, k.link.Phase())
					}
				}
			}
		}()
		s.until("everything over", 300, func() bool {
			for _, c := range conns {
				if !c.closed && len(c.calls) == 0 && !c.stopping {
					c.leaving = true
					c.pump()
				}
			}
			for _, k := range s.client.calls() { // those that were still being placed
				if k.opened && !k.ending {
					k.hangUp(ppp.Reason{Code: ppp.UserRequest})
				}
			}
			return len(s.client.calls())+s.client.conns()+len(s.server.calls())+s.server.conns() == 0
		})
	}
	for range 100 {
		s.step()
	}
	s.clean()
	s.accounted()
	for _, l := range s.server.loops {
		if n := len(l.ids.used); n > 20_000/workers {
			t.Errorf("%d call IDs remembered after 60 s of rest each", n)
		}
	}
	runtime.GC()
	if n := runtime.NumGoroutine(); n > before {
		t.Errorf("%d goroutines, %d before", n, before)
	}
	t.Logf("%d calls; ends %v; drops %v %v", made, ends, drops(s.client), drops(s.server))
}

// An exhausted pool refuses the next call cleanly, and the calls that are up
// do not notice; once an address is free again a call gets it.
func TestPoolExhausted(t *testing.T) {
	s := newSim(t, simOptions{seed: 3})
	p := s.server.box.addr.pools[0]
	for p.Used() < p.Size()-2 {
		if _, err := p.Get(netip.Addr{}); err != nil {
			t.Fatal(err)
		}
	}
	s.call(2)
	s.until("two calls up", 30, func() bool { return s.upCalls() == 2 && s.serverUp() == 2 })
	s.call(1)
	s.until("third call refused", 30, func() bool { return len(s.events) > 2 })
	if e := s.events[len(s.events)-1]; e.Kind != EventDown || e.WasUp || e.Reason.Code != ppp.AuthFailed {
		t.Errorf("third call: %+v", e)
	}
	if s.upCalls() != 2 || s.serverUp() != 2 {
		t.Errorf("%d and %d calls up after the refusal", s.upCalls(), s.serverUp())
	}
}

// GRE from another address, for an unknown call, or forged far ahead beside
// good traffic: counted under a name each, and the call loses nothing.
func TestForgedGRE(t *testing.T) {
	s := newSim(t, simOptions{seed: 5})
	s.call(1)
	s.until("call up", 20, func() bool { return s.upCalls() == 1 && s.serverUp() == 1 })
	var k *call
	for _, k = range s.server.calls() {
	}
	var last []byte
	s.bad = badness{}
	up := &stream{src: k.nets[0].Peer, dst: simLocal, id: 1}
	tap := func(b []byte) { last = append(last[:0], b...) }
	s.tap = tap
	forge := func(change func(b []byte)) {
		b := append([]byte(nil), last...)
		change(b)
		wire.IPv4(b).SetChecksum()
		f := s.client.pool.Get()
		f.Set(b)
		s.tap = nil
		if n, err := s.client.wire.Send([]*rings.Frame{f}); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		_ = s.client.wire.Flush()
		s.tap = tap
	}
	for i := range 300 {
		up.send(s, s.client, 200)
		s.step()
		s.drainInside(s.server, func(p []byte) { up.receive(t, p) })
		if len(last) < 60 {
			continue
		}
		switch i % 5 {
		case 0:
			forge(func(b []byte) { b[15]++ }) // from another address
		case 1:
			forge(func(b []byte) { b[26]++ }) // for another call
		case 2:
			forge(func(b []byte) { b[28] ^= 0x40 }) // sequence number 2^30 ahead
		case 3:
			forge(func(b []byte) { // next number, coherency count 2000 ahead
				b[31]++
				at := 20 + wire.GRE(b[20:]).HeaderLen()
				_, info, _ := wire.ParsePPP(b[at:])
				at = len(b) - len(info)
				n := uint16(b[at])<<8 | uint16(b[at+1])
				n = n&0xf000 | (n+2000)&0x0fff
				b[at], b[at+1] = byte(n>>8), byte(n)
			})
		case 4:
			forge(func(b []byte) { // plain data where encryption is required
				b[31]++
				at := 20 + wire.GRE(b[20:]).HeaderLen()
				b[at], b[at+1], b[at+2], b[at+3] = 0xff, 0x03, 0x00, 0x21
			})
		}
	}
	for range 50 {
		s.step()
		s.drainInside(s.server, func(p []byte) { up.receive(t, p) })
	}
	d := s.server.drops()
	if up.got != 300 {
		t.Errorf("%d of 300 good packets arrived; drops %v", up.got, drops(s.server))
	}
	for _, want := range []engine.Drop{engine.UnknownCall, engine.GREJump, engine.MPPEInsane, engine.MPPEPlain} {
		if d[want] == 0 {
			t.Errorf("no drop counted as %v; drops %v", want, drops(s.server))
		}
	}
	s.hangUp()
}
