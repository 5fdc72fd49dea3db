package report

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
)

// Capture writes the packets of chosen calls as a pcapng file with two
// interfaces: "wire", the outer IPv4 packets as they were sent and received,
// and "decrypted", the IP packets in them in the clear. Times are in
// nanoseconds. It may be used by several goroutines.
type Capture struct {
	mu      sync.Mutex
	w       *pcapgo.NgWriter
	left    int
	dropped uint64
}

// Interfaces of a capture, by number.
const (
	wireInterface = iota
	decryptedInterface
)

// NewCapture begins a capture of at most limit packets.
func NewCapture(w io.Writer, limit int) (*Capture, error) {
	ng, err := pcapgo.NewNgWriterInterface(w, pcapgo.NgInterface{
		Name: "wire", Description: "outer IP packets of the calls", LinkType: layers.LinkTypeRaw,
	}, pcapgo.NgWriterOptions{SectionInfo: pcapgo.NgSectionInfo{Application: "xpptp stress"}})
	if err != nil {
		return nil, fmt.Errorf("capture: %w", err)
	}
	_, err = ng.AddInterface(pcapgo.NgInterface{
		Name: "decrypted", Description: "inner IP packets of the calls", LinkType: layers.LinkTypeRaw,
	})
	if err != nil {
		return nil, fmt.Errorf("capture: %w", err)
	}
	return &Capture{w: ng, left: limit}, nil
}

// Wire adds an outer IPv4 packet; it keeps nothing of it.
func (c *Capture) Wire(at time.Time, packet []byte) error {
	return c.add(wireInterface, at, packet)
}

// Decrypted adds an inner IP packet; it keeps nothing of it.
func (c *Capture) Decrypted(at time.Time, packet []byte) error {
	return c.add(decryptedInterface, at, packet)
}

func (c *Capture) add(iface int, at time.Time, data []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left <= 0 {
		c.dropped++
		return nil
	}
	c.left--
	return c.w.WritePacket(gopacket.CaptureInfo{Timestamp: at, CaptureLength: len(data), Length: len(data), InterfaceIndex: iface}, data)
}

// Close writes what is buffered; it does not close what was given to
// NewCapture. It returns how many packets were beyond the limit.
func (c *Capture) Close() (beyond uint64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left = 0
	return c.dropped, c.w.Flush()
}
