package manners

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/ipv4"

	"xpptp/control/pptp"
	"xpptp/engine/wire"
)

// peer is a control connection by hand.
type peer struct {
	*net.TCPConn
	a   *attack
	buf []byte
}

// dial opens a connection.
func (a *attack) dial(ctx context.Context) (*peer, error) {
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(a.from, 0)), Timeout: patience}
	c, err := d.DialContext(ctx, "tcp4", a.server.String())
	if err != nil {
		return nil, err
	}
	a.Connections++
	return &peer{TCPConn: c.(*net.TCPConn), a: a}, nil
}

// write sends octets. That the server has closed the connection is no error
// here: the caller looks at what it answers.
func (p *peer) write(b []byte) {
	p.a.Messages++
	_ = p.SetWriteDeadline(time.Now().Add(patience))
	_, _ = p.Write(b)
}

func (p *peer) send(ms ...pptp.Message) {
	var b []byte
	for _, m := range ms {
		b = pptp.Append(b, m)
	}
	p.a.Messages += uint64(len(ms)) - 1
	p.write(b)
}

// Why read returns no message.
var (
	errClosed = errors.New("closed")
	errSilent = errors.New("silent")
)

// read returns the next message, or errClosed, or errSilent after a time.
func (p *peer) read(wait time.Duration) (pptp.Message, error) {
	_ = p.SetReadDeadline(time.Now().Add(wait))
	for {
		msg, rest, err := pptp.Split(p.buf)
		if err != nil {
			return nil, err
		}
		if msg != nil {
			m, err := pptp.Parse(msg)
			p.buf = rest
			return m, err
		}
		b := make([]byte, 4096)
		n, err := p.Read(b)
		p.buf = append(p.buf, b[:n]...)
		switch {
		case n > 0:
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, errSilent
		case err != nil:
			return nil, errClosed
		}
	}
}

// start sets up the control connection.
func (p *peer) start() error {
	p.send(startRequest())
	m, err := p.read(patience)
	if err != nil {
		return fmt.Errorf("no answer to a good Start-Control-Connection-Request: %w", err)
	}
	if r, ok := m.(*pptp.StartReply); !ok || r.ResultCode != pptp.StartOK {
		return fmt.Errorf("a good Start-Control-Connection-Request was answered with %T %+v", m, m)
	}
	return nil
}

func startRequest() *pptp.StartRequest {
	return &pptp.StartRequest{
		ProtocolVersion: 0x0100, FramingCapabilities: pptp.FramingAsync | pptp.FramingSync,
		BearerCapabilities: pptp.BearerAnalog | pptp.BearerDigital, HostName: "bad", VendorName: "manners",
	}
}

// call places a call.
func (p *peer) call(id uint16) (*pptp.OutgoingCallReply, error) {
	p.send(callRequest(id))
	m, err := p.read(patience)
	if err != nil {
		return nil, fmt.Errorf("no answer to a good Outgoing-Call-Request: %w", err)
	}
	r, ok := m.(*pptp.OutgoingCallReply)
	if !ok || r.ResultCode != pptp.OutgoingConnected {
		return nil, fmt.Errorf("a good Outgoing-Call-Request was answered with %T %+v", m, m)
	}
	return r, nil
}

func callRequest(id uint16) *pptp.OutgoingCallRequest {
	return &pptp.OutgoingCallRequest{
		CallID: id, CallSerialNumber: id, MinimumBPS: 300, MaximumBPS: 100_000_000, PacketRecvWindowSize: 64,
		BearerType: pptp.BearerAnalog | pptp.BearerDigital, FramingType: pptp.FramingAsync | pptp.FramingSync,
	}
}

// fate says what the server does with the connection.
func (p *peer) fate(wait time.Duration) string { return fateOf(p.read(wait)) }

func fateOf(m pptp.Message, err error) string {
	switch {
	case errors.Is(err, errClosed):
		return "closed the connection"
	case errors.Is(err, errSilent):
		return "stayed silent"
	case err != nil:
		return "answered nonsense: " + err.Error()
	}
	return "answered with " + m.Type().String()
}

// gre sends GRE packets from an address of ours, or from another.
type gre struct {
	a    *attack
	c    *ipv4.RawConn
	from [4]byte
	to   net.IP
	buf  []byte
}

// openGRE opens a sender from an address that need not be ours.
func (a *attack) openGRE(from netip.Addr) (*gre, error) {
	c, err := net.ListenPacket("ip4:47", "0.0.0.0")
	if err != nil {
		return nil, err
	}
	raw, err := ipv4.NewRawConn(c)
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return &gre{a: a, c: raw, from: from.As4(), to: a.server.Addr().AsSlice(), buf: make([]byte, wire.GREMaxLen+maxPayload)}, nil
}

const maxPayload = 8192

func (g *gre) close() { _ = g.c.Close() }

// send sends a packet of a call, by the server's call ID, with a sequence number.
func (g *gre) send(callID uint16, seq uint32, payload []byte) error {
	n := wire.PutGRE(g.buf, callID, len(payload), seq, true, 0, false)
	return g.bare(g.buf[:n+copy(g.buf[n:], payload)])
}

// bare sends what follows the IP header, in fragments if it is too long for
// the way.
func (g *gre) bare(b []byte) error {
	g.a.Packets++
	id := int(uint16(g.a.Packets))
	for off := 0; ; off += fragment {
		part, flags := b[off:], ipv4.HeaderFlags(0)
		if len(part) > fragment {
			part, flags = part[:fragment], ipv4.MoreFragments
		}
		h := &ipv4.Header{
			Version: ipv4.Version, Len: ipv4.HeaderLen, TotalLen: ipv4.HeaderLen + len(part), TTL: 64, Protocol: 47,
			Src: g.from[:], Dst: g.to, ID: id, FragOff: off / 8, Flags: flags,
		}
		if err := g.c.WriteTo(h, part, nil); err != nil || flags == 0 {
			return err
		}
	}
}

// fragment is what one of them carries: it fits any way, and is a multiple of 8.
const fragment = 1208

// paced calls f with 0, 1, 2 …, evenly at a rate a second, for most of the
// scenario's time, until ctx ends or f fails. What is late is left out: a burst
// behind a pause of our own would be another thing than a steady stream.
func (a *attack) paced(ctx context.Context, rate int, f func(i int) error) error {
	begun, each := time.Now(), time.Second/time.Duration(rate)
	due := begun
	for i := 0; time.Since(begun) < a.time*9/10; i++ {
		late := time.Since(due)
		switch {
		case late < -time.Millisecond:
			select {
			case <-time.After(-late):
			case <-ctx.Done():
			}
		case late > 5*time.Millisecond:
			due = due.Add(late)
		}
		if ctx.Err() != nil {
			return nil // as much as the time allowed
		}
		if err := f(i); err != nil {
			return err
		}
		due = due.Add(each)
	}
	return nil
}

// noise is n random octets.
func (a *attack) noise(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(a.rng.Uint32())
	}
	return b
}
