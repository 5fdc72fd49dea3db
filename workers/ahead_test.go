package workers

import (
	"net/netip"
	"testing"

	"xpptp/engine"
	"xpptp/engine/gre"
	"xpptp/engine/mppe"
	"xpptp/engine/mppe/multi"
	"xpptp/engine/session"
	"xpptp/engine/wire"
	"xpptp/rings"
	"xpptp/rings/mem"
)

type readyHop struct{}

func (readyHop) Way() ([]byte, int, HopState) { return nil, 0, HopReady }

// What a worker computes ahead for a call is gone when the call gets another
// key, stops encrypting or ends: nothing is computed for it after that.
func TestKeysAheadForgotten(t *testing.T) {
	server, client := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	inside, subscriber := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	pool := rings.NewPoolN(512, rings.ChunkSmall)
	out, far := mem.Pair(mem.Config{Link: rings.LinkIP, PoolA: pool})
	in, host := mem.Pair(mem.Config{Link: rings.LinkIP, PoolA: pool})
	w, err := New(Config{
		Pool: pool, Outside: []rings.Port{out}, Inside: in, Cipher: multi.Best(), CPU: -1,
		GRE: gre.Config{First: 1, Window: 64, AckDelay: 5e6},
	}, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	key := mppe.Params{Bits: 128, Start: [16]byte{1}}
	c := NewCall(&CallParams{
		Local: server, Peer: client, CallID: 1, PeerCallID: 2, PeerKnown: true, Encrypt: session.Required,
		GRE: w.GREConfig(), PeerWindow: 64, TTL: 64, Hop: readyHop{},
	})
	w.Add(c, nil)
	w.NetworkUp(c, subscriber)
	now := int64(1)
	step := func() { now += 1e6; w.Step(now) }

	// The peer has the same keys for what it sends.
	var peerTx mppe.Tx
	open := func() {
		w.OpenReceive(c, key)
		w.OpenTransmit(c, key)
		if peerTx.Init(&key) != nil {
			t.Fatal("the peer has no key")
		}
		step()
	}
	sealer := mppe.New(multi.Portable)
	seq := uint32(0)
	// traffic takes n packets out and n packets in.
	traffic := func(n int) {
		t.Helper()
		before := c.Stats
		for range n {
			f := host.Pool().Get()
			p := f.Extend(60)
			wire.PutIPv4(p, &wire.IPv4Fields{TTL: 64, Protocol: 17, Src: inside.As4(), Dst: subscriber.As4(), PayloadLen: 40})
			if k, err := host.Send([]*rings.Frame{f}); k != 1 || err != nil {
				t.Fatal(k, err)
			}
			g := far.Pool().Get()
			const head = wire.IPv4Len + 12 + 1 // IP, GRE, PPP protocol of one byte
			b := g.Extend(head + mppe.HeaderLen + 2 + 60)
			wire.PutPPPProtocol(b[head+mppe.HeaderLen:], wire.PPPIPv4, false)
			wire.PutIPv4(b[head+mppe.HeaderLen+2:], &wire.IPv4Fields{TTL: 64, Protocol: 17, Src: subscriber.As4(), Dst: inside.As4(), PayloadLen: 40})
			sealer.Seal([]mppe.TxJob{{Tx: &peerTx, Data: b[head:]}})
			b[head-1] = 0xFD
			wire.PutGRE(b[wire.IPv4Len:], 1, len(b)-head+1, seq, true, 0, false)
			seq++
			wire.PutIPv4(b, &wire.IPv4Fields{TTL: 64, Protocol: wire.ProtoGRE, Src: client.As4(), Dst: server.As4(), PayloadLen: len(b) - wire.IPv4Len})
			if k, err := far.Send([]*rings.Frame{g}); k != 1 || err != nil {
				t.Fatal(k, err)
			}
		}
		if err := host.Flush(); err != nil {
			t.Fatal(err)
		}
		if err := far.Flush(); err != nil {
			t.Fatal(err)
		}
		step()
		if rx, tx := c.Stats.RxPackets-before.RxPackets, c.Stats.TxPackets-before.TxPackets; rx != uint64(n) || tx != uint64(n) {
			t.Fatalf("%d packets in and %d out, want %d: %v", rx, tx, n, w.State().Drops)
		}
	}
	ahead := func(what string, want int) {
		t.Helper()
		if n := w.mppe.Ahead(1000); n != want {
			t.Errorf("%s: %d keys ahead, want %d", what, n, want)
		}
	}
	open()
	traffic(5)
	ahead("five packets each way", 10)
	traffic(3)
	w.OpenTransmit(c, key)
	step()
	ahead("the send key is new", 3)
	open()
	traffic(4)
	open()
	ahead("both keys are new", 0)
	traffic(2)
	w.CloseEncryption(c)
	step()
	ahead("encryption is closed", 0)
	open()
	traffic(6)
	ahead("and open again", 12)
	traffic(2)
	w.Remove(c, nil)
	step()
	ahead("the call is over", 0)
	if d := w.State().Drops[engine.MPPEInsane]; d != 0 {
		t.Errorf("%d packets did not open", d)
	}
}
