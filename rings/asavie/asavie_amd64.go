package asavie

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"sync"

	"github.com/asavie/xdp"
	"golang.org/x/sys/unix"

	"xpptp/rings"
	"xpptp/rings/internal/stat"
	"xpptp/rings/xsk"
)

const (
	defaultRing = 1024
	batch       = 32 // what the kernel takes in one call
	checkEvery  = 64 // idle receives between two looks at the socket's state

	ethernet  = 14
	tag       = 4
	etherType = 12
)

// Device is an interface with the steering program and a port on each queue.
type Device struct {
	hook  *xsk.Hook
	ports []*Port
}

// Open opens the ports of an interface for one worker; they receive into pool.
// Steering is made for one worker.
func Open(cfg Config, s *xsk.Steering, pool *rings.Pool) (d *Device, err error) {
	d = new(Device)
	defer func() {
		if err != nil {
			_ = d.Close()
			d, err = nil, fmt.Errorf("rings: open %s by asavie/xdp: %w", cfg.Interface, err)
		}
	}()
	if cfg.Ring <= 0 {
		cfg.Ring = defaultRing
	}
	cfg.Ring = 1 << bits.Len(uint(cfg.Ring-1))
	if d.hook, err = xsk.Attach(xsk.Config{Interface: cfg.Interface, Queues: cfg.Queues, Batch: batch, Generic: cfg.Generic}, s); err != nil {
		return d, err
	}
	for _, q := range d.hook.Queues {
		p, err := open(cfg, d.hook.Info, q, pool)
		if err != nil {
			return d, fmt.Errorf("queue %d: %w (a queue can be opened once in a process)", q, err)
		}
		d.ports = append(d.ports, p)
		if err := d.hook.Set(q, 0, p.FD()); err != nil {
			return d, err
		}
	}
	return d, nil
}

// Ports returns the device's ports, one a queue.
func (d *Device) Ports() []*Port { return d.ports }

// Close closes all ports and detaches the program.
func (d *Device) Close() error {
	var errs []error
	if d.hook != nil {
		errs = append(errs, d.hook.Close())
	}
	for _, p := range d.ports {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}

// Port is one socket of the library's.
type Port struct {
	info  rings.Info
	pool  *rings.Pool
	chunk int
	count stat.Counters

	// mu guards what follows: Close and Stats may come from any goroutine.
	mu     sync.Mutex
	sock   *xdp.Socket // nil: closed
	gone   error
	noLink bool
	idle   int // empty receives in a row
	ring   int
	send   []xdp.Desc // a burst on its way into the ring

	// free are the library's frames to send with, taken from the end. The
	// library does not say which frames the kernel has finished with: when
	// the list runs low it is made anew from those that it holds for free.
	free   []uint64
	frames int
	lost   uint64 // the kernel's count of drops, as last read
}

var _ rings.Port = (*Port)(nil)

func open(cfg Config, info rings.Info, queue int, pool *rings.Pool) (p *Port, err error) {
	info.Backend, info.Queue = "asavie", queue
	info.MTU = min(info.MTU, rings.Room(pool.Chunk())-ethernet-tag)
	p = &Port{info: info, pool: pool, chunk: pool.Chunk(), ring: cfg.Ring, frames: 3 * cfg.Ring}
	p.send = make([]xdp.Desc, 0, batch)
	p.free = make([]uint64, 0, p.frames)
	defer guard(&err)
	p.sock, err = xdp.NewSocket(info.Index, queue, &xdp.SocketOptions{
		NumFrames: p.frames, FrameSize: p.chunk,
		FillRingNumDescs: cfg.Ring, RxRingNumDescs: cfg.Ring, TxRingNumDescs: cfg.Ring, CompletionRingNumDescs: 2 * cfg.Ring,
	})
	if err != nil {
		return nil, err
	}
	p.sock.Fill(p.sock.GetDescs(cfg.Ring))
	return p, nil
}

// guard turns a panic of the library into an error.
func guard(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("asavie/xdp: %v", r)
	}
}

// Info implements rings.Port.
func (p *Port) Info() rings.Info { return p.info }

// FD implements rings.Port.
func (p *Port) FD() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sock == nil {
		return -1
	}
	return p.sock.FD()
}

// Recv implements rings.Port. It returns at most 32 frames.
func (p *Port) Recv(fs []*rings.Frame) (n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone != nil {
		return 0, p.gone
	}
	waiting := min(p.sock.NumReceived(), len(fs), batch)
	if waiting == 0 {
		if p.idle++; p.idle%checkEvery == 0 {
			p.check()
		}
		return 0, p.gone
	}
	p.idle = 0
	if free := p.pool.Free(); free < waiting {
		p.count.RxNoFrame.Add(1)
		waiting = free
	}
	bytes := 0
	ds := p.sock.Receive(waiting)
	for i := range ds {
		d := &ds[i]
		f := p.pool.Get()
		if f.Set(p.sock.GetFrame(*d)) {
			fs[n] = f
			n++
			bytes += f.Len()
		} else {
			p.count.RxTruncated.Add(1)
			f.Free()
		}
		d.Addr -= d.Addr % uint64(p.chunk)
	}
	p.sock.Fill(ds)
	p.count.Rx(n, bytes)
	return n, nil
}

// check asks the socket whether its device is still there.
func (p *Port) check() {
	if e, err := unix.GetsockoptInt(p.sock.FD(), unix.SOL_SOCKET, unix.SO_ERROR); err != nil || e != 0 {
		p.gone = fmt.Errorf("%s: %w: %w", p.info.Name, unix.ENODEV, rings.ErrPortDown)
	}
}

// Send implements rings.Port.
func (p *Port) Send(fs []*rings.Frame) (n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n < len(fs) && p.gone == nil {
		k := p.burst(fs[n:min(len(fs), n+batch)])
		if n += k; k == 0 {
			p.count.TxFull.Add(uint64(len(fs) - n))
			break
		}
	}
	return n, p.gone
}

// burst copies frames and sends them with one call. It returns how many it
// took.
func (p *Port) burst(fs []*rings.Frame) (taken int) {
	if len(p.free) < len(fs) {
		p.gather()
	}
	room := min(p.sock.NumFreeTxSlots(), len(p.free))
	p.send = p.send[:0]
	bytes, dropped := 0, 0
	for _, f := range fs {
		if p.noLink || f.Len() == 0 || f.Len() > p.longest(f.Data()) {
			dropped++
		} else {
			if len(p.send) == room {
				break
			}
			last := len(p.free) - 1
			d := xdp.Desc{Addr: p.free[last], Len: uint32(f.Len())}
			p.free = p.free[:last]
			copy(p.sock.GetFrame(d), f.Data())
			p.send = append(p.send, d)
			bytes += f.Len()
		}
		taken++
		f.Free()
	}
	if len(p.send) > 0 {
		p.transmit(p.send)
		p.count.Tx(len(p.send), bytes)
		p.count.Copies.Add(uint64(len(p.send)))
	}
	if dropped > 0 {
		p.count.TxDropped.Add(uint64(dropped))
	}
	return taken
}

// gather makes the list of free frames anew. None may be on its way into a
// ring at that moment.
func (p *Port) gather() {
	p.complete()
	p.free = p.free[:0]
	for _, d := range p.sock.GetDescs(p.frames) {
		p.free = append(p.free, d.Addr)
	}
}

// longest is the largest frame that may be sent: a VLAN tag comes on top of
// the MTU.
func (p *Port) longest(b []byte) int {
	n := p.info.MTU + ethernet
	if len(b) >= ethernet {
		switch binary.BigEndian.Uint16(b[etherType:]) {
		case unix.ETH_P_8021Q, unix.ETH_P_8021AD:
			n += tag
		}
	}
	return n
}

// transmit puts ds into the ring, which has room, and calls the kernel.
func (p *Port) transmit(ds []xdp.Desc) {
	p.count.Kicks.Add(1)
	err := func() (err error) {
		defer guard(&err)
		p.sock.Transmit(ds)
		return nil
	}()
	p.noLink = err != nil
	if err != nil {
		p.check() // the device is gone, or just its link
	}
}

func (p *Port) complete() {
	if n := p.sock.NumCompleted(); n > 0 {
		p.sock.Complete(n)
	}
}

// Flush implements rings.Port.
func (p *Port) Flush() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.gone == nil {
		room := p.sock.NumFreeTxSlots()
		if room == p.ring {
			p.noLink = false
			break
		}
		p.transmit(nil)
		if p.sock.NumFreeTxSlots() == room {
			break
		}
	}
	if p.gone == nil {
		p.complete()
	}
	return p.gone
}

// Stats implements rings.Port.
func (p *Port) Stats() rings.Stats {
	p.mu.Lock()
	p.readKernel()
	p.mu.Unlock()
	return p.count.Stats()
}

func (p *Port) readKernel() {
	if p.sock == nil {
		return
	}
	if s, err := p.sock.Stats(); err == nil {
		lost := s.KernelStats.Rx_dropped + s.KernelStats.Rx_ring_full
		p.count.RxDropped.Add(lost - p.lost)
		p.lost = lost
	}
}

// Close implements rings.Port.
func (p *Port) Close() (err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sock == nil {
		return nil
	}
	p.readKernel()
	defer guard(&err)
	s := p.sock
	p.sock = nil
	p.gone = fmt.Errorf("%s: closed: %w", p.info.Name, rings.ErrPortDown)
	return s.Close()
}
