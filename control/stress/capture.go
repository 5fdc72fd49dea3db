package stress

import (
	"fmt"
	"io"
	"maps"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"xpptp/control"
	"xpptp/control/stress/report"
	"xpptp/engine/wire"
	"xpptp/rings"
)

// CaptureOptions say what of a run is written to a capture.
type CaptureOptions struct {
	To      io.Writer
	Calls   []Numbers // of the plan, from 1
	Packets int       // at most
}

// Numbers is a range of numbers of calls.
type Numbers struct{ First, Last int }

// String is FIRST-LAST, or one number.
func (n Numbers) String() string {
	if n.First == n.Last {
		return strconv.Itoa(n.First)
	}
	return fmt.Sprintf("%d-%d", n.First, n.Last)
}

// ParseNumbers reads numbers and ranges of them, separated by commas.
func ParseNumbers(s string) (all []Numbers, err error) {
	for _, word := range strings.Split(s, ",") {
		first, last, ok := strings.Cut(strings.TrimSpace(word), "-")
		if !ok {
			last = first
		}
		var n Numbers
		n.First, err = strconv.Atoi(first)
		if err == nil {
			n.Last, err = strconv.Atoi(last)
		}
		if err != nil || n.First < 1 || n.Last < n.First {
			return nil, fmt.Errorf("%q is neither the number of a call, from 1, nor a range such as 3-5", word)
		}
		all = append(all, n)
	}
	return all, nil
}

// capture writes the packets of chosen calls to a file: those of the outside
// as its ports pass them, those of the inside as the load's ports show them.
type capture struct {
	*report.Capture
	chosen []Numbers

	mu     sync.Mutex
	calls  atomic.Pointer[map[wireCall]struct{}] // replaced as a whole
	failed atomic.Pointer[error]                 // the first
}

// wireCall is what tells the packets of a call, in one direction. Servers may
// give the same number to calls of several clients.
type wireCall struct {
	ours [4]byte // address
	id   uint16  // in the packets
	sent bool
}

func newCapture(o *CaptureOptions) (*capture, error) {
	w, err := report.NewCapture(o.To, o.Packets)
	if err != nil {
		return nil, err
	}
	c := &capture{Capture: w, chosen: o.Calls}
	c.calls.Store(&map[wireCall]struct{}{})
	return c, nil
}

// wants reports whether a client's calls are to be captured; c may be nil.
func (c *capture) wants(client int) bool {
	if c == nil {
		return false
	}
	for _, n := range c.chosen {
		if n.First <= client+1 && client+1 <= n.Last {
			return true
		}
	}
	return false
}

// follow begins, or ends, to take a call's packets.
func (c *capture) follow(i *control.CallInfo, on bool) {
	if !i.Local.Is4() {
		return // it was never placed
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	calls := maps.Clone(*c.calls.Load())
	for _, k := range []wireCall{{i.Local.As4(), i.PeerCallID, true}, {i.Local.As4(), i.CallID, false}} {
		if on {
			calls[k] = struct{}{}
		} else {
			delete(calls, k)
		}
	}
	c.calls.Store(&calls)
}

func (c *capture) failing(err error) {
	if err != nil {
		c.failed.CompareAndSwap(nil, &err)
	}
}

// inside takes an IP packet of a call.
func (c *capture) inside(packet []byte) { c.failing(c.Decrypted(time.Now(), packet)) }

// end completes the file; what is wrong with it is noted.
func (c *capture) end(note func(format string, args ...any)) {
	beyond, err := c.Close()
	c.failing(err)
	if beyond > 0 {
		note("capture: %d packets beyond its limit are not in it", beyond)
	}
	if err := c.failed.Load(); err != nil {
		note("the capture is not complete: %v", *err)
	}
}

// tap is an outside port whose packets are captured.
type tap struct {
	rings.Port
	c     *capture
	found []passed // scratch
	bytes []byte   // likewise
}

// passed is a packet that is about to be sent: the n-th of a burst, and where
// in bytes it begins and ends.
type passed struct{ n, begin, end int }

func (c *capture) wrap(p rings.Port, _ *rings.Pool) rings.Port { return &tap{Port: p, c: c} }

// Recv implements rings.Port.
func (t *tap) Recv(fs []*rings.Frame) (int, error) {
	n, err := t.Port.Recv(fs)
	if calls := *t.c.calls.Load(); len(calls) > 0 {
		for _, f := range fs[:n] {
			if ip := t.of(f.Data(), calls, false); ip != nil {
				t.c.failing(t.c.Wire(time.Now(), ip))
			}
		}
	}
	return n, err
}

// Send implements rings.Port. The frames are the port's afterwards, and those
// that it does not take come again: so they are copied before.
func (t *tap) Send(fs []*rings.Frame) (int, error) {
	calls := *t.c.calls.Load()
	if len(calls) == 0 {
		return t.Port.Send(fs)
	}
	t.found, t.bytes = t.found[:0], t.bytes[:0]
	for i, f := range fs {
		if ip := t.of(f.Data(), calls, true); ip != nil {
			begin := len(t.bytes)
			t.bytes = append(t.bytes, ip...)
			t.found = append(t.found, passed{i, begin, len(t.bytes)})
		}
	}
	now := time.Now()
	n, err := t.Port.Send(fs)
	for _, p := range t.found {
		if p.n < n {
			t.c.failing(t.c.Wire(now, t.bytes[p.begin:p.end]))
		}
	}
	return n, err
}

// of returns the IP packet in a frame if it is of one of the calls, else nil.
func (t *tap) of(b []byte, calls map[wireCall]struct{}, sent bool) []byte {
	if t.Info().Link == rings.LinkEthernet {
		off, kind, d := wire.L3Offset(b)
		if d != 0 || kind != wire.EtherTypeIPv4 {
			return nil
		}
		b = b[off:]
	}
	ip, d := wire.ParseIPv4(b)
	if d != 0 || ip.Protocol() != wire.ProtoGRE {
		return nil
	}
	g, d := wire.ParseGRE(ip.Payload())
	if d != 0 {
		return nil
	}
	k := wireCall{ip.Dst(), g.CallID(), sent}
	if sent {
		k.ours = ip.Src()
	}
	if _, ok := calls[k]; !ok {
		return nil
	}
	return ip
}
