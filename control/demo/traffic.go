package demo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Counts is what the datagrams that went through the calls came to.
type Counts struct {
	Sent      uint64 `json:"sent"`      // by the client
	Arrived   uint64 `json:"arrived"`   // at the server, which sends them back
	Echoed    uint64 `json:"echoed"`    // back at the client, whole
	Lost      uint64 `json:"lost"`      // never came back
	Damaged   uint64 `json:"damaged"`   // came back with a wrong checksum, or to the wrong call
	Reordered uint64 `json:"reordered"` // came back behind a later one
	Duplicate uint64 `json:"duplicate"` // came back once more
	Bytes     uint64 `json:"bytes"`     // IP, both ways
}

// Clean reports whether every datagram came back, once, whole.
func (c *Counts) Clean() bool {
	return c.Sent > 0 && c.Lost == 0 && c.Damaged == 0 && c.Duplicate == 0 && c.Sent == c.Echoed
}

// A datagram is: call (4), sequence number (8), CRC-32C of the rest and of
// these (4), data. All numbers are big endian.
const (
	headLen   = 16
	udpIPLen  = 28
	lostAfter = time.Second // without any answer: what is under way is lost
)

// maxInFlight bounds the datagrams under way on all calls together; the
// queues of the TUN devices hold more.
const maxInFlight = 512

var (
	crcTable = crc32.MakeTable(crc32.Castagnoli)
	filling  = func() (b [2048]byte) {
		for i := range b {
			b[i] = byte(i*i>>3 ^ i)
		}
		return b
	}()
)

// put writes a datagram of len(b) bytes.
func put(b []byte, call uint32, seq uint64) {
	binary.BigEndian.PutUint32(b, call)
	binary.BigEndian.PutUint64(b[4:], seq)
	copy(b[headLen:], filling[seq%256:])
	binary.BigEndian.PutUint32(b[12:], crc(b))
}

func crc(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:12], crcTable), crcTable, b[headLen:])
}

// parse returns what put wrote, ok false if it is not whole.
func parse(b []byte) (call uint32, seq uint64, ok bool) {
	if len(b) < headLen || binary.BigEndian.Uint32(b[12:]) != crc(b) {
		return 0, 0, false
	}
	return binary.BigEndian.Uint32(b), binary.BigEndian.Uint64(b[4:]), true
}

// isProbe in a sequence number marks what is sent before the counting begins.
const isProbe = 1 << 63

// size of a datagram, from the smallest to a full packet.
func size(seq uint64, room int) int {
	largest := room - udpIPLen
	switch seq % 4 {
	case 0:
		return headLen
	case 1:
		return largest
	}
	return headLen + int(seq*613%uint64(largest-headLen))
}

// flow is the traffic of one call. Its sender sends, waits for the echo and
// counts, so it can never send more than comes back.
type flow struct {
	call    uint32
	room    int
	window  int
	near    *net.UDPConn // client's end, connected to far
	far     *net.UDPConn // server's end, connected to near
	pending map[uint64]struct{}
	next    uint64 // sequence number to send
	last    uint64 // how many to send, 0: no end
	highest uint64 // highest that came back, plus one

	mu    sync.Mutex
	count Counts
	// arrived is counted by the far end.
	arrived atomic.Uint64
}

// openFlow opens both ends of a call whose inside address is addr.
func openFlow(l *namespaces, call uint32, addr netip.Addr, room, window int) (f *flow, err error) {
	f = &flow{call: call, room: room, window: window, pending: make(map[uint64]struct{}, window)}
	defer func() {
		if err != nil {
			f.close()
		}
	}()
	// Each end is connected to the other, so that nothing but the call's own
	// packets can be received.
	port := 20000 + int(call)
	far := net.UDPAddrFromAddrPort(netip.AddrPortFrom(insideAddr, uint16(port)))
	near := net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, uint16(port)))
	if err := l.server.Do(func() (err error) { f.far, err = net.DialUDP("udp4", far, near); return }); err != nil {
		return f, fmt.Errorf("server's end of call %d: %w", call, err)
	}
	if err := l.client.Do(func() (err error) { f.near, err = net.DialUDP("udp4", near, far); return }); err != nil {
		return f, fmt.Errorf("client's end of call %d: %w", call, err)
	}
	return f, nil
}

func (f *flow) close() {
	for _, c := range []*net.UDPConn{f.near, f.far} {
		if c != nil {
			_ = c.Close()
		}
	}
}

// echo sends back what arrives whole, until its socket is closed.
func (f *flow) echo() {
	var b [2048]byte
	for {
		n, err := f.far.Read(b[:])
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			continue
		}
		if n < headLen || b[4]&0x80 == 0 {
			f.arrived.Add(1)
		}
		// A damaged one goes back too: the client finds it.
		_, _ = f.far.Write(b[:n])
	}
}

// probe waits until the call carries packets both ways: the two ends of a PPP
// link do not open at the same moment, and what comes before is dropped.
func (f *flow) probe(ctx context.Context) {
	var b [2048]byte
	for seq := uint64(isProbe); ctx.Err() == nil; seq++ {
		put(b[:headLen], f.call, seq)
		_, _ = f.near.Write(b[:headLen])
		_ = f.near.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		n, err := f.near.Read(b[:])
		if _, _, ok := parse(b[:n]); err == nil && ok {
			return
		}
	}
}

// run sends until ctx ends or the last was sent, then waits for what is under way.
func (f *flow) run(ctx context.Context) {
	var b [2048]byte
	var deadline time.Time
	for {
		for ctx.Err() == nil && len(f.pending) < f.window && (f.last == 0 || f.next < f.last) {
			f.send(b[:size(f.next, f.room)])
		}
		if len(f.pending) == 0 {
			return
		}
		if now := time.Now(); deadline.Sub(now) < lostAfter {
			deadline = now.Add(2 * lostAfter)
			_ = f.near.SetReadDeadline(deadline)
		}
		n, err := f.near.Read(b[:])
		switch {
		case err == nil:
			f.receive(b[:n])
		case errors.Is(err, os.ErrDeadlineExceeded):
			f.mu.Lock()
			f.count.Lost += uint64(len(f.pending))
			f.mu.Unlock()
			clear(f.pending)
			deadline = time.Time{}
		case errors.Is(err, net.ErrClosed):
			return
		}
	}
}

func (f *flow) send(b []byte) {
	put(b, f.call, f.next)
	f.pending[f.next] = struct{}{}
	f.next++
	_, _ = f.near.Write(b) // an error is a loss
	f.mu.Lock()
	f.count.Sent++
	f.count.Bytes += uint64(len(b) + udpIPLen)
	f.mu.Unlock()
}

func (f *flow) receive(b []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	call, seq, ok := parse(b)
	if ok && seq >= isProbe {
		return // an earlier one, late
	}
	if !ok || call != f.call || seq >= f.next {
		f.count.Damaged++
		return
	}
	if _, ok := f.pending[seq]; !ok {
		f.count.Duplicate++
		return
	}
	delete(f.pending, seq)
	if seq < f.highest {
		f.count.Reordered++
	} else {
		f.highest = seq + 1
	}
	f.count.Echoed++
	f.count.Bytes += uint64(len(b) + udpIPLen)
}

// counts returns a copy of what was counted so far.
func (f *flow) counts() Counts {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.count
	c.Arrived = f.arrived.Load()
	return c
}

func (c *Counts) add(o Counts) {
	c.Sent += o.Sent
	c.Arrived += o.Arrived
	c.Echoed += o.Echoed
	c.Lost += o.Lost
	c.Damaged += o.Damaged
	c.Reordered += o.Reordered
	c.Duplicate += o.Duplicate
	c.Bytes += o.Bytes
}
