package workers

import (
	"math/rand/v2"
	"testing"

	"xpptp/engine/wire"
)

// The outer header, put together from the call's template, has the right
// length, marks and checksum whatever it carries.
func TestOuterHeaderSum(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	w := newTestTeam(t, 1, 0, Adaptive).ws[0]
	for range 5000 {
		tos, more, df, alsoDF := byte(rnd.Uint32()&0xe0), byte(rnd.Uint32()), rnd.IntN(2) == 0, rnd.IntN(2) == 0
		c := NewCall(&CallParams{
			Local: teamLocal, Peer: teamPeer, TTL: byte(rnd.Uint32()), TOS: tos, DF: df, GRE: w.GREConfig(), Hop: teamHop{},
		})
		c.ipID = uint16(rnd.Uint32())
		n := rnd.IntN(1400)
		f := w.cfg.Pool.Get()
		f.Extend(n)
		w.sendOuter(c, f, more, alsoDF)
		ip, d := wire.ParseIPv4(f.Data())
		if d != 0 || !ip.HeaderChecksumOK() || len(ip) != n+wire.IPv4Len || ip.TOS() != tos|more || ip.DF() != (df || alsoDF) {
			t.Fatalf("%d bytes, TOS %#x and %#x, DF %v and %v: %v %x", n, tos, more, df, alsoDF, d, f.Data()[:wire.IPv4Len])
		}
		w.push(w.cfg.Outside[0], w.out[0])
		w.out[0] = w.out[0][:0]
	}
}
