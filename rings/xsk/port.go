package xsk

import (
	"encoding/binary"
	"fmt"
	"math"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"xpptp/rings"
	"xpptp/rings/internal/stat"
)

const (
	checkEvery = 512 // idle receives between two looks at the socket's state
	maxKicks   = 64  // system calls of one Flush, at most
)

// Port is one worker's socket on one queue of a device.
type Port struct {
	info     rings.Info
	pool     *rings.Pool
	q        *queue
	number   int // among the queue's ports
	zeroCopy bool
	forget   func() // takes the socket out of the device's map
	count    stat.Counters
	closed   atomic.Bool

	// mu guards what follows: Close and Stats may come from any goroutine.
	// The owner never waits for it else.
	mu       sync.Mutex
	fd       int // -1: closed
	gone     error
	rx, tx   ring[unix.XDPDesc]
	sent     uint32   // kernel's index of the transmit ring, as far as counted
	inFlight int      // frames in the transmit ring, or not completed
	back     *returns // from the other ports of the queue
	backOne  func(uint32)
	noLink   bool // the last attempt to transmit said so
	idle     int  // empty receives in a row
	kernel   unix.XDPStatistics
}

var _ rings.Port = (*Port)(nil)

// Info implements rings.Port.
func (p *Port) Info() rings.Info { return p.info }

// FD implements rings.Port.
func (p *Port) FD() int { return p.fd }

// ZeroCopy reports whether the device reads and writes the frames itself.
func (p *Port) ZeroCopy() bool { return p.zeroCopy }

// Recv implements rings.Port.
func (p *Port) Recv(fs []*rings.Frame) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone != nil {
		return 0, p.gone
	}
	waiting := p.rx.consume(len(fs))
	p.q.take()
	room := rings.Room(p.q.arena.Chunk())
	n, bytes := 0, 0
	for i := range waiting {
		d := p.rx.at(i)
		f, ok := p.q.frame(d.Addr, withKernel)
		if !ok {
			p.count.RxDropped.Add(1)
			continue
		}
		p.pool.Adopt(f)
		length := int(d.Len)
		if length > room {
			p.count.RxTruncated.Add(1)
			f.Free()
			continue
		}
		f.Reset(int(d.Addr%uint64(p.q.arena.Chunk())), length)
		fs[n] = f
		n++
		bytes += length
	}
	p.rx.publish(waiting)
	if !p.q.refill(p.pool) {
		p.count.RxNoFrame.Add(1)
		p.reclaim()
	}
	if waiting > 0 {
		p.idle = 0
		p.count.Rx(n, bytes)
		return n, nil
	}
	if p.idle++; p.idle%checkEvery == 0 {
		p.check()
	}
	if p.q.fill.needWakeup() && p.gone == nil {
		_ = kickRx(p.fd)
	}
	return 0, p.gone
}

// check asks the socket whether its device is still there. Reading the error
// also clears it: until then poll(2) returns at once.
func (p *Port) check() {
	if e, err := unix.GetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || e != 0 {
		p.lost(unix.ENODEV)
	}
}

func (p *Port) lost(e unix.Errno) {
	p.gone = fmt.Errorf("%s: %w: %w", p.info.Name, e, rings.ErrPortDown)
}

// Send implements rings.Port. Frames of another arena are copied, and counted
// as such.
func (p *Port) Send(fs []*rings.Frame) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone != nil {
		return 0, p.gone
	}
	n := p.queue(fs)
	if n < len(fs) { // make room, once
		p.push()
		n += p.queue(fs[n:])
	}
	if n < len(fs) {
		p.count.TxFull.Add(uint64(len(fs) - n))
	}
	return n, p.gone
}

// queue puts frames into the transmit ring, as far as there is room, and
// returns how many it took.
func (p *Port) queue(fs []*rings.Frame) int {
	chunk := uint64(p.q.arena.Chunk())
	room := p.tx.produce(min(len(fs), len(p.back.idx)-p.inFlight))
	used, taken, dropped := 0, 0, 0
	for _, f := range fs {
		if p.noLink || f.Len() == 0 || f.Len() > p.longest(f.Data()) {
			dropped++
			taken++
			f.Free()
			continue
		}
		if used == room {
			break
		}
		if f.Arena() != p.q.arena {
			own := p.copy(f)
			if own == nil {
				break
			}
			f = own
		}
		taken++
		p.q.with[f.Index()] = withPort + uint8(p.number)
		*p.tx.at(used) = unix.XDPDesc{Addr: uint64(f.Index())*chunk + uint64(f.Offset()), Len: uint32(f.Len())}
		used++
	}
	p.q.give()
	p.tx.publish(used)
	p.inFlight += used
	if dropped > 0 {
		p.count.TxDropped.Add(uint64(dropped))
	}
	return taken
}

// longest is the largest frame that may be sent: a VLAN tag comes on top of
// the MTU.
func (p *Port) longest(b []byte) int {
	n := p.info.MTU + ethernetLen
	if len(b) >= ethernetLen {
		switch binary.BigEndian.Uint16(b[etherType:]) {
		case unix.ETH_P_8021Q, unix.ETH_P_8021AD:
			n += tagLen
		}
	}
	return n
}

// copy returns a copy of a foreign frame in one of ours and frees the
// original; nil if there is no frame for it.
func (p *Port) copy(f *rings.Frame) *rings.Frame {
	own := p.pool.Get()
	if own == nil {
		return nil
	}
	own.Set(f.Data()) // it fits: not longer than the MTU allows
	f.Free()
	p.count.Copies.Add(1)
	return own
}

// Flush implements rings.Port. It calls the kernel until it has taken
// everything, or makes no headway.
func (p *Port) Flush() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone == nil {
		p.push()
	}
	return p.gone
}

// push makes the kernel transmit. What is sent while the link is down is
// dropped.
func (p *Port) push() {
	kicks, dropped, lostBytes := 0, 0, 0
	for kicks < maxKicks && p.tx.kernel() != p.tx.own && p.tx.needWakeup() {
		before := p.tx.seen
		e := kickTx(p.fd)
		kicks++
		if e == unix.ENETDOWN && !p.noLink {
			p.void()
		}
		p.noLink = e == unix.ENETDOWN
		headway := p.tx.kernel() != before
		switch e {
		case 0, unix.EAGAIN, unix.ENOBUFS, unix.EINTR, unix.ENETDOWN:
		case unix.EBUSY:
			if headway { // the device has refused the last one taken
				dropped++
				lostBytes += int(p.tx.desc[(p.tx.seen-1)&p.tx.mask].Len)
			}
		default: // ENXIO: the socket is bound to nothing any more
			p.lost(e)
		}
		if !headway {
			break
		}
	}
	if p.tx.seen == p.tx.own {
		p.noLink = false
	}
	if kicks > 0 {
		p.count.Kicks.Add(uint64(kicks))
	}
	p.account(dropped, lostBytes)
	if p.inFlight > 0 {
		p.reclaim()
	}
}

// void takes back all that is in the transmit ring. The kernel may have seen
// that it is there, so the descriptors stay, as ones that it will skip. If the
// device reads the ring itself, it may be at it again by now: it keeps them.
func (p *Port) void() {
	if p.zeroCopy {
		return
	}
	n := 0
	for i := p.tx.seen; i != p.tx.own; i++ {
		d := &p.tx.desc[i&p.tx.mask]
		if f, ok := p.q.frame(d.Addr, withPort+uint8(p.number)); ok {
			f.Free()
			n++
		}
		*d = unix.XDPDesc{Addr: math.MaxUint64} // outside the UMEM: not valid
	}
	p.inFlight -= n
	p.count.TxDropped.Add(uint64(n))
}

// account counts what the kernel has taken out of the transmit ring.
func (p *Port) account(dropped, lostBytes int) {
	n, bytes := 0, 0
	for ; p.sent != p.tx.seen; p.sent++ {
		if d := &p.tx.desc[p.sent&p.tx.mask]; d.Len > 0 { // else it is void
			n++
			bytes += int(d.Len)
		}
	}
	p.count.Tx(n-dropped, bytes-lostBytes)
	if dropped > 0 {
		p.count.TxDropped.Add(uint64(dropped))
	}
}

// reclaim takes back what has been transmitted.
func (p *Port) reclaim() {
	p.q.reclaim(p)
	p.back.drain(p.backOne)
}

// returned takes back one frame that another port of the queue has found.
func (p *Port) returned(i uint32) {
	p.q.with[i] = withUs
	p.q.arena.Frame(i).Free()
	p.inFlight--
}

// Stats implements rings.Port. RxDropped counts what the kernel had no frame
// or no room in the ring for.
func (p *Port) Stats() rings.Stats {
	p.mu.Lock()
	p.readKernel()
	p.mu.Unlock()
	return p.count.Stats()
}

// readKernel adds what the kernel has counted since the last time.
func (p *Port) readKernel() {
	if p.fd < 0 {
		return
	}
	k, err := getOption[unix.XDPStatistics](p.fd, unix.XDP_STATISTICS)
	if err != nil {
		return
	}
	p.count.RxDropped.Add(k.Rx_dropped - p.kernel.Rx_dropped + k.Rx_ring_full - p.kernel.Rx_ring_full)
	p.kernel = k
}

// Kernel returns the kernel's own statistics of the socket, in frames:
// XDP_STATISTICS of linux/if_xdp.h.
func (p *Port) Kernel() unix.XDPStatistics {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.readKernel()
	return p.kernel
}

// Close implements rings.Port. What the kernel has of a queue that several
// workers share goes back to the pools when the last of its ports is closed.
func (p *Port) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fd < 0 {
		return nil
	}
	p.readKernel()
	p.closed.Store(true)
	if p.forget != nil {
		p.forget()
	}
	err := p.release()
	p.q.leave()
	p.gone = fmt.Errorf("%s: closed: %w", p.info.Name, rings.ErrPortDown)
	return err
}

// release closes the socket. Its mappings hold it open, and so its queue busy.
func (p *Port) release() error {
	p.unmap()
	err := unix.Close(p.fd)
	p.fd = -1
	return err
}

func (p *Port) unmap() {
	p.rx.unmap()
	p.tx.unmap()
}
