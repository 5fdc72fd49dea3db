package manners

import (
	"context"
	"encoding/binary"
	"net/netip"

	"xpptp/control"
	"xpptp/engine/wire"
)

// Packets a second. What reaches a worker stays well below what its ring holds
// while a busy machine does something else.
const (
	floodRate  = 10_000
	forgedRate = 4000
	giantRate  = 1000
)

// greScenarios are those of GRE, PPP and MPPE.
var greScenarios = []Scenario{
	{
		Name:   "gre-unknown-calls",
		Does:   "floods the server with GRE for calls that do not exist",
		Should: "drop it and count it",
		run: func(ctx context.Context, a *attack) error {
			live := map[uint16]bool{}
			for _, g := range a.good {
				live[g.PeerCallID] = true
			}
			return a.gre(ctx, a.from, floodRate, func(g *gre, i int) error {
				id := uint16(a.rng.Uint32())
				for live[id] {
					id++
				}
				return g.send(id, uint32(i), a.mppe(uint16(i), 64+i%1000))
			})
		},
	},
	{
		Name:   "gre-malformed",
		Does:   "sends GRE cut short, with wrong flags, versions, protocols and lengths, to the calls of others",
		Should: "drop it",
		run: func(ctx context.Context, a *attack) error {
			return a.gre(ctx, a.from, forgedRate, func(g *gre, i int) error {
				b := make([]byte, wire.GREMaxLen+64)
				n := wire.PutGRE(b, a.target(i).PeerCallID, 64, a.rng.Uint32(), true, 0, false)
				b = b[:n+64]
				switch i % 8 {
				case 0:
					b = b[:a.rng.IntN(n)]
				case 1:
					b[0] ^= byte(1 << a.rng.IntN(8))
				case 2:
					b[1] ^= byte(1 << a.rng.IntN(8))
				case 3:
					binary.BigEndian.PutUint16(b[2:], uint16(a.rng.Uint32())&^1) // 0x880b is odd
				case 4: // more than there is
					binary.BigEndian.PutUint16(b[4:], uint16(65+a.rng.IntN(65000)))
				case 5:
					binary.BigEndian.PutUint16(b[4:], 0)
				case 6: // says that there is a payload, and there is none
					b = b[:n]
				default:
					b = a.noise(1 + a.rng.IntN(100))
					b[0] &= 0x7f // no checksum bit: it is not GRE of PPTP
				}
				return g.bare(b)
			})
		},
	},
	{
		Name:   "gre-tiny-and-giant",
		Does:   "sends packets of one octet and of thousands, which come in fragments, to the calls of others from another address",
		Should: "drop them",
		Lab:    true,
		run: func(ctx context.Context, a *attack) error {
			return a.gre(ctx, a.stranger(), giantRate, func(g *gre, i int) error {
				n := 1 + i%3
				if i%2 == 1 {
					n = 1 + a.rng.IntN(maxPayload)
				}
				return g.send(a.target(i).PeerCallID, uint32(i), a.noise(n))
			})
		},
	},
	{
		Name:   "gre-spoofed",
		Does:   "sends LCP Terminate-Requests, data and acknowledgements into the calls of others, from another address",
		Should: "drop them: a call is with one peer",
		Lab:    true,
		run: func(ctx context.Context, a *attack) error {
			terminate := []byte{0xff, 0x03, 0xc0, 0x21, 5, 1, 0, 4}
			return a.gre(ctx, a.stranger(), forgedRate, func(g *gre, i int) error {
				payload := terminate
				if i%2 == 1 {
					payload = a.mppe(uint16(i), 100)
				}
				return g.send(a.target(i).PeerCallID, a.rng.Uint32(), payload)
			})
		},
	},
	{
		Name:   "wrong-keys",
		Does:   "sends packets into calls, from their own address, encrypted with keys that are not theirs",
		Should: "drop them, and take the good ones beside them as before",
		run: func(ctx context.Context, a *attack) error {
			return a.forged(ctx, func(i int, seq uint32) (uint32, []byte) { return seq, a.mppe(uint16(i)&0xfff, 200) })
		},
	},
	{
		Name:   "forged-coherency",
		Does:   "sends packets into calls, from their own address, with coherency counts far ahead and far behind",
		Should: "drop them; one forged packet must not make the good ones late",
		run: func(ctx context.Context, a *attack) error {
			return a.forged(ctx, func(_ int, seq uint32) (uint32, []byte) {
				return seq, a.mppe(uint16(a.rng.IntN(0x1000)), 40+a.rng.IntN(1000))
			})
		},
	},
	{
		Name:   "forged-sequence",
		Does:   "sends packets into calls, from their own address, whose GRE sequence numbers jump, in pairs too",
		Should: "drop them; a jump counts only with what decrypts",
		run: func(ctx context.Context, a *attack) error {
			far := uint32(0)
			return a.forged(ctx, func(i int, _ uint32) (uint32, []byte) {
				if far++; i%2 == 0 {
					far = a.rng.Uint32()
				}
				return far, a.mppe(uint16(i), 100)
			})
		},
	},
}

// gre opens a sender and has f send packets at a rate a second.
func (a *attack) gre(ctx context.Context, from netip.Addr, rate int, f func(g *gre, i int) error) error {
	g, err := a.openGRE(from)
	if err != nil {
		return err
	}
	defer g.close()
	return a.paced(ctx, rate, func(i int) error { return f(g, i) })
}

// target is one of the well-behaved calls.
func (a *attack) target(i int) control.CallInfo { return a.good[i%len(a.good)] }

// stranger is an address of the lab's network that is nobody's.
func (a *attack) stranger() netip.Addr {
	b := a.from.As4()
	b[2], b[3] = 250, byte(1+a.rng.IntN(250))
	return netip.AddrFrom4(b)
}

// mppe is a packet as MPPE makes them (RFC 3078 §3), of n octets that nobody
// has encrypted.
func (a *attack) mppe(count uint16, n int) []byte {
	b := append([]byte{0xff, 0x03, 0x00, 0xfd, 0, 0}, a.noise(n)...)
	binary.BigEndian.PutUint16(b[4:], 0x9000|count&0x0fff) // flushed, encrypted
	return b
}

// forged sends packets into calls of our own that nothing else goes through:
// who is on the path can do this, and the calls must live through it.
func (a *attack) forged(ctx context.Context, f func(i int, seq uint32) (uint32, []byte)) error {
	victims, err := a.beside.victims(ctx, 4, true)
	if err != nil {
		return err
	}
	defer victims.end()
	err = a.gre(ctx, a.from, forgedRate, func(g *gre, i int) error {
		v := victims.calls[i%len(victims.calls)]
		seq, payload := f(i/len(victims.calls), uint32(10+i/len(victims.calls)))
		return g.send(v.info.PeerCallID, seq, payload)
	})
	if err != nil {
		return err
	}
	return victims.alive()
}
