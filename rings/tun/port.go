package tun

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"xpptp/rings"
	"xpptp/rings/internal/stat"
)

// Port is one queue of a TUN device.
type Port struct {
	info  rings.Info
	pool  *rings.Pool
	stats stat.Counters

	mu   sync.Mutex // Close against the owner
	gone error
	io   queue
	fd   int // -1: closed
	cut  super
	left bool // cut has more to give
	join coalescer
}

func newPort(fd int, pool *rings.Pool, info rings.Info) *Port {
	return &Port{info: info, pool: pool, fd: fd, io: newQueue(fd, rings.Room(pool.Chunk()))}
}

// Info implements rings.Port.
func (p *Port) Info() rings.Info { return p.info }

// FD implements rings.Port. It does not show packets that an earlier, short
// Recv has left over from a large one: call Recv until it returns 0.
func (p *Port) FD() int { return p.fd }

// Stats implements rings.Port. RxDropped counts packets with a virtio header
// that makes no sense; what the kernel drops because nobody reads is counted
// by the interface.
func (p *Port) Stats() rings.Stats { return p.stats.Stats() }

// Recv implements rings.Port.
func (p *Port) Recv(fs []*rings.Frame) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone != nil {
		return 0, p.gone
	}
	n, bytes := 0, 0
	for n < len(fs) {
		f := p.pool.Get()
		if f == nil {
			p.stats.RxNoFrame.Add(1)
			break
		}
		if !p.left {
			got, e := p.io.read(f)
			if e != 0 {
				f.Free()
				if e != unix.EAGAIN {
					p.lost(e)
				}
				break
			}
			if !p.accept(f, got) {
				f.Free()
				continue
			}
		}
		if p.left {
			p.left = !p.cut.next(f)
		}
		fs[n] = f
		n++
		bytes += f.Len()
	}
	p.stats.Rx(n, bytes)
	if n > 0 {
		return n, nil // what is wrong shows next time
	}
	return 0, p.gone
}

// accept looks at the n bytes of a packet just read. It makes f that packet,
// or begins to cut it up, or counts why not.
func (p *Port) accept(f *rings.Frame, n int) bool {
	room := rings.Room(p.pool.Chunk())
	switch h := p.io.header(); {
	case h.gsoType() != unix.VIRTIO_NET_HDR_GSO_NONE:
		if !p.cut.parse(h, p.io.whole(f, n)) {
			p.stats.RxDropped.Add(1)
			return false
		}
		if p.cut.largest() > room {
			p.stats.RxTruncated.Add(1)
			return false
		}
		p.left = true
		return true
	case n > room:
		p.stats.RxTruncated.Add(1)
		return false
	default:
		f.Reset(rings.UMEMHeadroom, n)
		if !complete(h, f.Data()) {
			p.stats.RxDropped.Add(1)
			return false
		}
		return true
	}
}

// lost notes that the device is gone.
func (p *Port) lost(e unix.Errno) {
	p.gone = fmt.Errorf("%s: %w: %w", p.info.Name, e, rings.ErrPortDown)
}

// Send implements rings.Port. The kernel has the packets when Send returns,
// TCP segments of a connection as one packet where they fit together. What it
// refuses is dropped and counted.
func (p *Port) Send(fs []*rings.Frame) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for n < len(fs) && p.gone == nil {
		k := min(len(fs)-n, burst)
		sent, bytes, calls, gone := p.writeBurst(fs[n : n+k])
		if gone != 0 {
			p.lost(gone)
		}
		p.stats.Kicks.Add(uint64(calls))
		p.stats.Tx(sent, bytes)
		n += k
	}
	if n > 0 {
		return n, nil // what is wrong shows next time
	}
	return 0, p.gone
}

// Flush implements rings.Port; there is nothing left to do.
func (p *Port) Flush() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gone
}

// Close implements rings.Port.
func (p *Port) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fd < 0 {
		return nil
	}
	err := unix.Close(p.fd)
	p.fd, p.left = -1, false
	p.gone = fmt.Errorf("%s: closed: %w", p.info.Name, rings.ErrPortDown)
	return err
}
