package bench

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"xpptp/engine"
	"xpptp/engine/gre"
	"xpptp/engine/mppe"
	"xpptp/engine/mppe/multi"
	"xpptp/engine/session"
	"xpptp/engine/wire"
	"xpptp/rings"
	"xpptp/rings/lab"
	"xpptp/rings/tpacket"
	"xpptp/workers"
)

// Round trips of a single packet: from a socket at the far end of the outside
// wire to the worker, into a call, back by an inside that reflects, into the
// call again, and out. The reflector of comparison turns the packet round at
// the outside port. Whoever waits spins.

const (
	rttSize  = 64  // of the inside IP packet
	rttBlock = 100 // trips in one turn of a contender
	rttLost  = 50 * time.Millisecond
)

// rttSide is one contender.
type rttSide struct {
	row   PathRow
	trips []float64 // ns
	next  func() []byte
	step  func() (bool, error)
}

// rttWire is the far end of the outside wire: it sends IP packets and
// receives what comes back for them.
type rttWire struct {
	port   *tpacket.Port
	pool   *rings.Pool
	header []byte
	fs     [64]*rings.Frame
}

// newRTTWire opens it, once all else is measured: it costs what arrives there.
func (r *rig) newRTTWire() (w *rttWire, err error) {
	w = &rttWire{pool: rings.NewPoolN(256, rings.ChunkSmall)}
	err = r.farNS.Do(func() (err error) {
		w.port, err = tpacket.Open(tpacket.Config{Interface: "out1", Ring: 64}, w.pool)
		return err
	})
	if err != nil {
		return nil, err
	}
	r.onClose(w.port.Close)
	w.header = make([]byte, wire.EthernetLen)
	wire.PutEthernet(w.header, outsideMAC, farMAC, wire.EtherTypeIPv4)
	return w, nil
}

// trip sends a packet and waits for the first with a payload that comes back.
func (w *rttWire) trip(ip []byte) (ns float64, ok bool, err error) {
	f := w.pool.Get()
	f.Set(ip)
	copy(f.Push(len(w.header)), w.header)
	w.fs[0] = f
	start := time.Now()
	if n, err := w.port.Send(w.fs[:1]); n != 1 || err != nil {
		return 0, false, fmt.Errorf("round trip: not sent: %w", err)
	}
	if err := w.port.Flush(); err != nil {
		return 0, false, err
	}
	for time.Since(start) < rttLost && !ok {
		n, err := w.port.Recv(w.fs[:])
		if err != nil {
			return 0, false, err
		}
		for _, f := range w.fs[:n] {
			if isData(f.Data()) {
				ns, ok = float64(time.Since(start)), true
			}
			f.Free()
		}
	}
	return ns, ok, nil
}

// isData tells a packet with a payload from an acknowledgement.
func isData(frame []byte) bool {
	ip, d := wire.ParseIPv4(frame[wire.EthernetLen:])
	if d != engine.Pass || ip.Protocol() != wire.ProtoGRE {
		return false
	}
	g, d := wire.ParseGRE(ip.Payload())
	return d == engine.Pass && g.HasSeq()
}

// measureRTT runs on the worker's thread.
func measureRTT(ctx context.Context, r *rig, p *PathPlan, feeding *feed, f func(PathRow)) error {
	far, err := r.newRTTWire()
	if err != nil {
		return err
	}
	sides := []*rttSide{rttReflector(r)}
	for _, encrypted := range []bool{false, true} {
		s, done, err := rttWorker(r, encrypted, p.Ways[len(p.Ways)-1])
		if err != nil {
			return err
		}
		defer done()
		sides = append(sides, s)
	}
	end := time.Now().Add(p.Time * time.Duration(len(sides)))
	for n := 0; n < 3 || time.Now().Before(end); n++ {
		for _, s := range sides {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := s.block(far, feeding); err != nil {
				return err
			}
		}
	}
	for _, s := range sides {
		if len(s.trips) < rttBlock {
			return fmt.Errorf("%s: %d packets came back", s.row.Direction, len(s.trips))
		}
		slices.Sort(s.trips)
		s.row.P50 = s.trips[len(s.trips)/2]
		s.row.RatioBare = s.row.P50 / sides[0].row.P50
		f(s.row)
	}
	return nil
}

// block makes some trips on the feeding thread, while the contender works here.
func (s *rttSide) block(w *rttWire, feeding *feed) error {
	var over atomic.Bool
	feeding.work <- func() error {
		defer over.Store(true)
		for range rttBlock {
			ns, ok, err := w.trip(s.next())
			if err != nil {
				return err
			}
			if ok { // one lost now and then is the kernel's business
				s.trips = append(s.trips, ns)
			}
		}
		return nil
	}
	var err error
	for !over.Load() && err == nil {
		_, err = s.step()
	}
	if ferr := <-feeding.done; err == nil {
		err = ferr
	}
	return err
}

// rttReflector turns packets round at the outside port, by the shortest loop
// there is.
func rttReflector(r *rig) *rttSide {
	header := farHeader(r)
	var fs [workers.Burst]*rings.Frame
	packet := make([]byte, rttSize+wire.IPv4Len+wire.GRELen(true, false)+1)
	grePacket(packet, peerAddr.As4(), outsideAddr.As4(), 1, 1)
	return &rttSide{
		row:  PathRow{IO: r.io, Size: rttSize, Direction: RTTBare},
		next: func() []byte { return packet },
		step: func() (bool, error) {
			n, err := r.out.Recv(fs[:])
			if err != nil || n == 0 {
				return false, err
			}
			for _, f := range fs[:n] {
				copy(f.Data(), header)
				ip := f.Data()[len(header):]
				var src [4]byte
				copy(src[:], ip[12:])
				copy(ip[12:], ip[16:20])
				copy(ip[16:], src[:])
			}
			sent, err := r.out.Send(fs[:n])
			for _, f := range fs[sent:n] {
				f.Free()
			}
			if err != nil {
				return true, err
			}
			return true, r.out.Flush()
		},
	}
}

// farHeader is the link header of what goes to the far end and is to be seen
// there.
func farHeader(r *rig) []byte {
	b := linkHeader(r.out)
	if len(b) > 0 {
		wire.PutEthernet(b, farMAC, r.out.Info().MAC, wire.EtherTypeIPv4)
	}
	return b
}

// rttWorker is a worker with one call, whose inside reflects.
func rttWorker(r *rig, encrypted bool, way multi.Way) (s *rttSide, done func(), err error) {
	w, err := workers.New(workers.Config{
		Pool: r.pool, Outside: []rings.Port{r.out}, Side: r.side, Inside: lab.Reflect(maxPathSize, 256), Cipher: way, CPU: -1, ClampMSS: true,
		GRE: gre.Config{First: 1, Window: 4096, AckDelay: int64(5 * time.Millisecond), ReorderDelay: int64(5 * time.Millisecond)},
	}, 1)
	if err != nil {
		return nil, nil, err
	}
	c := workers.NewCall(&workers.CallParams{
		Local: outsideAddr, Peer: peerAddr, CallID: 1, PeerCallID: 1, PeerKnown: true,
		GRE: w.GREConfig(), PeerWindow: 4096, TTL: 64, Hop: &pathHop{farHeader(r), r.out.Info().Index},
	})
	w.Add(c, nil)
	w.SetFraming(c, true, true, maxPathSize)
	var tx mppe.Tx
	if encrypted {
		in, out := mppe.Params{Bits: 128, Start: [16]byte{1}}, mppe.Params{Bits: 128, Start: [16]byte{2}}
		if err := tx.Init(&in); err != nil {
			w.Close()
			return nil, nil, err
		}
		w.SetEncryption(c, session.Required)
		w.OpenReceive(c, in)
		w.OpenTransmit(c, out)
	}
	w.NetworkUp(c, callAddr(0))

	udp := make([]byte, rttSize)
	wire.PutUDP(udp[wire.IPv4Len:], 7, 7, rttSize-wire.IPv4Len-8, wire.PseudoHeader4(callAddr(0).As4(), serverAddr.As4(), wire.ProtoUDP, rttSize-wire.IPv4Len))
	wire.PutIPv4(udp, &wire.IPv4Fields{TTL: 64, Protocol: wire.ProtoUDP, Src: callAddr(0).As4(), Dst: serverAddr.As4(), PayloadLen: rttSize - wire.IPv4Len})
	start := time.Now()
	sealer := mppe.New(multi.Best())
	buf := make([]byte, 2*rings.Headroom+maxPathSize)
	seq := uint32(0)
	s = &rttSide{
		row:  PathRow{IO: r.io, Size: rttSize, Direction: RTT, MPPE: encrypted},
		step: func() (bool, error) { return w.Step(int64(time.Since(start)) + 1), w.Down() },
		next: func() []byte {
			seq++
			return peerPacket(buf, sealer, &tx, encrypted, 1, seq, udp)
		},
	}
	if encrypted {
		s.row.Way = way.String()
	}
	w.Step(1) // the commands
	return s, w.Close, nil
}

// peerPacket makes the outer packet of a call's peer that holds ip.
func peerPacket(b []byte, sealer *mppe.Engine, tx *mppe.Tx, encrypted bool, call uint16, seq uint32, ip []byte) []byte {
	greLen := wire.GRELen(true, false)
	p := b[wire.IPv4Len+greLen:]
	var n int
	if encrypted {
		n = wire.PutPPP(p, wire.PPPMPPE, true, true)
		sealed := p[n:]
		m := mppe.HeaderLen + wire.PutPPPProtocol(sealed[mppe.HeaderLen:], wire.PPPIPv4, false)
		m += copy(sealed[m:], ip)
		sealer.Seal([]mppe.TxJob{{Tx: tx, Data: sealed[:m]}})
		n += m
	} else {
		n = wire.PutPPP(p, wire.PPPIPv4, true, true)
		n += copy(p[n:], ip)
	}
	wire.PutGRE(b[wire.IPv4Len:], call, n, seq, true, 0, false)
	wire.PutIPv4(b, &wire.IPv4Fields{TTL: 64, Protocol: wire.ProtoGRE, Src: peerAddr.As4(), Dst: outsideAddr.As4(), PayloadLen: greLen + n})
	return b[:wire.IPv4Len+greLen+n]
}
