package load

import (
	"net/netip"
	"testing"
	"time"

	"xpptp/engine/traffic"
)

// probed adds a call with a probe.
func (b *bench) probed(cfg CallConfig) *Call {
	b.t.Helper()
	cfg.Probe, cfg.Room = true, 1400
	c, err := b.l.Add(cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}

var (
	v4Call = CallConfig{V4: netip.MustParseAddr("10.64.0.2"), Far4: netip.MustParseAddrPort("10.99.0.1:7007"), Age: 3 * time.Millisecond}
	v6Call = CallConfig{V6: netip.MustParseAddr("fe80::2"), Far6: netip.MustParseAddrPort("[fe80::1]:7007"), Age: 3 * time.Millisecond}
)

func TestProbe(t *testing.T) {
	for _, c := range []struct {
		name   string
		call   CallConfig
		lose   int // packets
		late   time.Duration
		first  time.Duration
		sent   uint64
		back   uint64
		silent uint64
	}{
		{name: "at once", call: v4Call, sent: 1, back: 1, first: 3 * time.Millisecond},
		{name: "IPv6", call: v6Call, sent: 1, back: 1, first: 3 * time.Millisecond},
		{name: "the third", call: v4Call, lose: 2, sent: 3, back: 1, first: 18 * time.Millisecond},
		{name: "never", call: v4Call, lose: 100, sent: maxProbes, silent: 1},
		{name: "without an address", call: CallConfig{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, 1)
			n := 0
			b.link = func(ip []byte) [][]byte {
				if n++; n <= c.lose {
					return nil
				}
				return [][]byte{ip}
			}
			var tapped int
			c.call.Tap = func([]byte) { tapped++ }
			call := b.probed(c.call)
			b.run(10*time.Second, time.Millisecond)
			f := await(b, b.l.First)
			if f.Sent != c.sent || f.Back != c.back || f.Silent != c.silent || tapped != int(c.sent+c.back) {
				t.Errorf("%d sent, %d back, %d silent; %d tapped", f.Sent, f.Back, f.Silent, tapped)
			}
			if got := time.Duration(f.Times.Max()).Round(100 * time.Microsecond); got != c.first || f.Times.TotalCount() != int64(c.back) {
				t.Errorf("first after %v, want %v, of %d calls", got, c.first, f.Times.TotalCount())
			}
			b.l.Remove(call)
			b.step()
			if f := await(b, b.l.First); f.Silent != c.silent {
				t.Errorf("%d silent at the end", f.Silent)
			}
			if n := b.ports[0].cal.Len(); n != 0 || len(b.ports[0].probes) != 0 {
				t.Errorf("%d entries are left", n)
			}
		})
	}
}

// A call that ends before its first packet is back has been silent.
func TestProbeEnds(t *testing.T) {
	b := newBench(t, 1)
	b.link = func([]byte) [][]byte { return nil }
	call := b.probed(v4Call)
	b.run(100*time.Millisecond, time.Millisecond)
	b.l.Remove(call)
	b.step()
	if f := await(b, b.l.First); f.Sent != 5 || f.Silent != 1 {
		t.Errorf("%d sent, %d silent", f.Sent, f.Silent)
	}
}

// A probe goes on beside traffic that begins and ends, is none of it, and does
// not keep a run from ending.
func TestProbeBesideTraffic(t *testing.T) {
	b := newBench(t, 1)
	deaf := true
	b.link = func(ip []byte) [][]byte {
		if deaf && len(ip) == probeSize {
			return nil
		}
		return [][]byte{ip}
	}
	call := b.probed(v4Call)
	b.run(50*time.Millisecond, time.Millisecond) // probes at 0, 5, 15, 35 ms
	b.start(100*time.Millisecond, Profile{Schedule: traffic.Schedule{Rate: 1000}, Sizes: traffic.Fixed(200)})
	b.run(200*time.Millisecond, time.Millisecond) // 75, 155 ms
	s := b.final()
	if s.Sending != 0 || s.Traffic.Sent != 100 || s.Traffic.Received != 100 || s.Sender.Strays+s.Sender.Foreign != 0 {
		t.Errorf("sending %d, %+v, %+v", s.Sending, s.Traffic, s.Sender)
	}
	deaf = false
	b.run(time.Second, time.Millisecond) // 315 ms
	if f := await(b, b.l.First); f.Sent != 7 || f.Back != 1 {
		t.Errorf("%d sent, %d back", f.Sent, f.Back)
	}
	b.l.Remove(call)
	b.step()
}
