package manners

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"xpptp/control/pptp"
)

// Bounds of the scenarios, whatever the time.
const (
	fewConnections  = 20
	manyConnections = 200
	manyMessages    = 5000
	firstCallID     = 0x4000 // of calls that are never used
)

// brief is how long a server has to show that it closes a connection.
const brief = 200 * time.Millisecond

// controlScenarios are those of TCP and of the control connection.
var controlScenarios = []Scenario{
	{
		Name:   "bad-cookie",
		Does:   "sends control messages with a wrong magic cookie, before and after the start",
		Should: "close the connection at once (RFC 2637 §1.4)",
		run: func(ctx context.Context, a *attack) error {
			return a.each(ctx, fewConnections, func(p *peer, i int) error {
				if i%2 == 1 {
					if err := p.start(); err != nil {
						return err
					}
				}
				b := pptp.Append(nil, startRequest())
				binary.BigEndian.PutUint32(b[4:], a.rng.Uint32())
				p.write(b)
				a.tally(p.fate(brief))
				return nil
			})
		},
	},
	{
		Name:   "bad-length",
		Does:   "sends headers with the lengths 0, 1, 8, 11, 65535, and a wrong one for their type",
		Should: "close the connection at once: the stream is out of step",
		run: func(ctx context.Context, a *attack) error {
			lengths := []uint16{0, 1, 8, 11, 12, 155, 157, 65535}
			return a.each(ctx, 2*len(lengths), func(p *peer, i int) error {
				b := pptp.Append(nil, startRequest())
				binary.BigEndian.PutUint16(b, lengths[i%len(lengths)])
				p.write(b)
				if i >= len(lengths) { // and much behind it
					p.write(a.noise(65536))
				}
				a.tally(p.fate(brief))
				return nil
			})
		},
	},
	{
		Name:   "unknown-types",
		Does:   "sends well-framed messages of types that do not exist",
		Should: "skip them, or close that connection",
		run: func(ctx context.Context, a *attack) error {
			return a.each(ctx, fewConnections, func(p *peer, _ int) error {
				if err := p.start(); err != nil {
					return err
				}
				for range 50 {
					b := make([]byte, 12+a.rng.IntN(500))
					binary.BigEndian.PutUint16(b, uint16(len(b)))
					binary.BigEndian.PutUint16(b[2:], uint16(1+a.rng.IntN(3)))
					binary.BigEndian.PutUint32(b[4:], pptp.Magic)
					binary.BigEndian.PutUint16(b[8:], uint16(16+a.rng.IntN(60000)))
					p.write(b)
				}
				p.send(&pptp.EchoRequest{Identifier: 7})
				a.tally(p.fate(time.Second))
				return nil
			})
		},
	},
	{
		Name:   "truncated",
		Does:   "closes, or resets, connections in the middle of a message",
		Should: "forget the connection",
		run: func(ctx context.Context, a *attack) error {
			whole := pptp.Append(nil, startRequest())
			return a.each(ctx, manyConnections, func(p *peer, i int) error {
				p.write(whole[:1+a.rng.IntN(len(whole)-1)])
				if i%2 == 0 {
					return p.SetLinger(0) // a reset
				}
				return nil
			})
		},
	},
	{
		Name:   "noise",
		Does:   "sends random octets on many connections",
		Should: "close them",
		run: func(ctx context.Context, a *attack) error {
			return a.each(ctx, fewConnections, func(p *peer, i int) error {
				b := a.noise(1 + a.rng.IntN(20_000))
				if i%2 == 1 && len(b) > 8 { // so that it gets further
					binary.BigEndian.PutUint32(b[4:], pptp.Magic)
					binary.BigEndian.PutUint16(b[2:], 1)
				}
				p.write(b)
				a.tally(p.fate(brief))
				return nil
			})
		},
	},
	{
		Name:   "call-before-start",
		Does:   "asks for calls before the control connection is set up",
		Should: "not make a call of it: ignore it or close the connection",
		run: func(ctx context.Context, a *attack) error {
			return a.each(ctx, fewConnections, func(p *peer, i int) error {
				p.send(callRequest(firstCallID + uint16(i)))
				m, err := p.read(brief)
				if r, ok := m.(*pptp.OutgoingCallReply); ok && r.ResultCode == pptp.OutgoingConnected {
					return errors.New("a call was made without a control connection")
				}
				a.tally(fateOf(m, err))
				return nil
			})
		},
	},
	{
		Name:   "start-twice",
		Does:   "starts a control connection that is up, again and again, with a call on it",
		Should: "refuse, ignore, or close that connection, and leave others alone",
		run: func(ctx context.Context, a *attack) error {
			return a.each(ctx, fewConnections, func(p *peer, i int) error {
				if err := p.start(); err != nil {
					return err
				}
				if _, err := p.call(firstCallID + uint16(i)); err != nil {
					return err
				}
				p.send(startRequest(), startRequest(), &pptp.StartReply{ProtocolVersion: 0x0100, ResultCode: pptp.StartOK})
				a.tally(p.fate(brief))
				return nil
			})
		},
	},
	{
		Name:   "unknown-calls",
		Does:   "sends every message about calls that do not exist, and answers nobody has asked for",
		Should: "ignore them or close that connection",
		run: func(ctx context.Context, a *attack) error {
			return a.each(ctx, fewConnections, func(p *peer, _ int) error {
				if err := p.start(); err != nil {
					return err
				}
				id := func() uint16 { return uint16(a.rng.Uint32()) }
				for range 10 {
					p.send(&pptp.CallClearRequest{CallID: id()}, &pptp.SetLinkInfo{PeerCallID: id(), SendACCM: 1, ReceiveACCM: 2},
						&pptp.WANErrorNotify{PeerCallID: id()}, &pptp.CallDisconnectNotify{CallID: id()},
						&pptp.OutgoingCallReply{CallID: id(), PeerCallID: id(), ResultCode: pptp.OutgoingConnected},
						&pptp.IncomingCallReply{CallID: id(), PeerCallID: id(), ResultCode: pptp.IncomingConnect},
						&pptp.IncomingCallConnected{PeerCallID: id()})
				}
				p.send(&pptp.EchoRequest{Identifier: 7})
				a.tally(p.fate(time.Second))
				return nil
			})
		},
	},
	{
		Name:   "strangers-calls",
		Does:   "asks, on its own connection, to clear and to change the calls of others",
		Should: "end or change no call but those of that connection",
		run: func(ctx context.Context, a *attack) error {
			return a.each(ctx, fewConnections, func(p *peer, i int) error {
				if err := p.start(); err != nil {
					return err
				}
				for j, g := range a.good {
					if j%fewConnections == i {
						p.send(&pptp.CallClearRequest{CallID: g.CallID}, &pptp.CallClearRequest{CallID: g.PeerCallID},
							&pptp.SetLinkInfo{PeerCallID: g.PeerCallID}, &pptp.CallDisconnectNotify{CallID: g.CallID},
							&pptp.CallDisconnectNotify{CallID: g.PeerCallID})
					}
				}
				p.send(&pptp.StopRequest{Reason: pptp.StopNone})
				a.tally(p.fate(time.Second))
				return nil
			})
		},
	},
	{
		Name:   "echo-flood",
		Does:   "sends thousands of Echo-Requests, and Echo-Replies nobody has asked for, as fast as they are taken",
		Should: "answer, or close that connection, and serve the others meanwhile",
		run: func(ctx context.Context, a *attack) error {
			return a.each(ctx, 4, func(p *peer, _ int) error {
				if err := p.start(); err != nil {
					return err
				}
				answers := make(chan int)
				go func() {
					n := 0
					for {
						if _, err := p.read(brief); err != nil {
							answers <- n
							return
						}
						n++
					}
				}()
				for i := range manyMessages / 4 / 10 {
					var ms []pptp.Message
					for j := range 9 {
						ms = append(ms, &pptp.EchoRequest{Identifier: uint32(10*i + j)})
					}
					p.send(append(ms, &pptp.EchoReply{Identifier: uint32(i), ResultCode: pptp.EchoOK})...)
				}
				a.saw("answered %d of %d echoes", <-answers, manyMessages/4*9/10)
				return nil
			})
		},
	},
	{
		Name:   "half-open",
		Does:   "opens many connections and says nothing on them",
		Should: "serve others, and give each connection up in time",
		run: func(ctx context.Context, a *attack) error {
			return a.together(ctx, manyConnections, func(*peer, int) error { return nil })
		},
	},
	{
		Name:   "never-authenticates",
		Does:   "starts connections and places calls, and speaks no PPP in them",
		Should: "serve others, and give the calls up in time",
		run: func(ctx context.Context, a *attack) error {
			return a.together(ctx, manyConnections/2, func(p *peer, i int) error {
				if err := p.start(); err != nil {
					return err
				}
				_, err := p.call(firstCallID + uint16(i))
				return err
			})
		},
	},
	{
		Name:   "never-reads",
		Does:   "sends requests without end and reads none of the answers",
		Should: "buffer no more than so much, and hold up nobody else",
		run: func(ctx context.Context, a *attack) error {
			err := a.together(ctx, fewConnections, func(p *peer, _ int) error {
				_ = p.SetReadBuffer(1) // as small as the kernel lets it be
				p.send(startRequest())
				b := []byte{}
				for i := range 100 {
					b = pptp.Append(b, &pptp.EchoRequest{Identifier: uint32(i)})
				}
				end, taken := time.Now().Add(a.time/time.Duration(2*fewConnections)), 0
				_ = p.SetWriteDeadline(end)
				for ctx.Err() == nil && taken < 50_000_000 {
					n, err := p.Write(b)
					a.Messages += uint64(n / 16)
					if taken += n; err != nil {
						break
					}
				}
				return nil
			})
			a.saw("took %d messages unanswered", a.Messages)
			return err
		},
	},
	{
		Name:   "octet-by-octet",
		Does:   "sends good messages one octet at a time",
		Should: "understand them as any others",
		run: func(ctx context.Context, a *attack) error {
			b := pptp.Append(nil, startRequest())
			return a.each(ctx, 4, func(p *peer, _ int) error {
				_ = p.SetNoDelay(true)
				for i := range b {
					p.write(b[i : i+1])
					time.Sleep(a.time / time.Duration(8*len(b)))
				}
				m, err := p.read(patience)
				if r, ok := m.(*pptp.StartReply); !ok || r.ResultCode != pptp.StartOK {
					return fmt.Errorf("a start octet by octet came to %T, %w", m, err)
				}
				a.tally(fateOf(m, err))
				return nil
			})
		},
	},
	{
		Name:   "lcp-loop",
		Does:   "sends LCP Configure-Requests that are always new, and naks every identifier, on calls of its own",
		Should: "stay bounded: answer at most each, give up or wait, and hold up nobody",
		run: func(ctx context.Context, a *attack) error {
			g, err := a.openGRE(a.from)
			if err != nil {
				return err
			}
			defer g.close()
			const calls = 5
			var ids []uint16
			return a.togetherThen(ctx, calls, func(p *peer, i int) error {
				if err := p.start(); err != nil {
					return err
				}
				r, err := p.call(firstCallID + uint16(i))
				if err == nil {
					ids = append(ids, r.CallID)
				}
				return err
			}, func() error {
				seq := uint32(0)
				return a.paced(ctx, forgedRate, func(i int) error {
					// Code 1 is Configure-Request, 3 Configure-Nak (RFC 1661 §5); options: MRU, magic number.
					code, id := byte(1+i%2*2), byte(i/2)
					lcp := []byte{0xff, 0x03, 0xc0, 0x21, code, id, 0, 14, 1, 4, 4, byte(i), 5, 6, byte(i >> 8), byte(i), 1, 2}
					if i%len(ids) == 0 {
						seq++
					}
					return g.send(ids[i%len(ids)], seq, lcp)
				})
			})
		},
	},
	{
		Name:   "replayed-gre",
		Does:   "sends the same GRE packet again and again, and old ones, on a call of its own",
		Should: "take it once",
		run: func(ctx context.Context, a *attack) error {
			g, err := a.openGRE(a.from)
			if err != nil {
				return err
			}
			defer g.close()
			var id uint16
			return a.togetherThen(ctx, 1, func(p *peer, _ int) error {
				if err := p.start(); err != nil {
					return err
				}
				r, err := p.call(firstCallID)
				if err == nil {
					id = r.CallID
				}
				return err
			}, func() error {
				lcp := []byte{0xff, 0x03, 0xc0, 0x21, 1, 1, 0, 10, 5, 6, 1, 2, 3, 4}
				return a.paced(ctx, forgedRate/2, func(i int) error { return g.send(id, uint32(i/100*(i%7)), lcp) })
			})
		},
	},
}

// each runs f on n connections, one after the other.
func (a *attack) each(ctx context.Context, n int, f func(p *peer, i int) error) error {
	for i := range n {
		if ctx.Err() != nil {
			return nil
		}
		p, err := a.dial(ctx)
		if err != nil {
			return a.notOurs(ctx, err)
		}
		err = f(p, i)
		_ = p.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// together opens n connections, runs f on each, and holds all of them until
// the scenario's time is over.
func (a *attack) together(ctx context.Context, n int, f func(p *peer, i int) error) error {
	return a.togetherThen(ctx, n, f, func() error {
		<-ctx.Done()
		return nil
	})
}

// togetherThen is together with something to do once all are there.
func (a *attack) togetherThen(ctx context.Context, n int, f func(p *peer, i int) error, then func() error) error {
	var all []*peer
	defer func() {
		for _, p := range all {
			_ = p.Close()
		}
	}()
	for i := range n {
		if ctx.Err() != nil {
			break
		}
		p, err := a.dial(ctx)
		if err != nil {
			return a.notOurs(ctx, err)
		}
		all = append(all, p)
		if err := f(p, i); err != nil {
			return err
		}
	}
	return then()
}

// notOurs drops an error that comes of the scenario's time being over.
func (a *attack) notOurs(ctx context.Context, err error) error {
	var op *net.OpError
	if end, ok := ctx.Deadline(); ok && time.Until(end) < a.time/10 && errors.As(err, &op) {
		return nil
	}
	return err
}

// tally notes how a connection fared; it is told once for all that fared alike.
func (a *attack) tally(fate string) {
	if !slices.Contains(a.Seen, fate) {
		a.Seen = append(a.Seen, fate)
	}
}
