package stress

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/google/gopacket/pcapgo"

	"xpptp/control"
	"xpptp/rings"
)

func TestParseNumbers(t *testing.T) {
	for _, c := range []struct {
		in   string
		want []Numbers // nil: refused
	}{
		{"1", []Numbers{{1, 1}}},
		{"1,3-5, 9", []Numbers{{1, 1}, {3, 5}, {9, 9}}},
		{"0", nil},
		{"5-3", nil},
		{"", nil},
		{"1-", nil},
		{"-1", nil},
		{"one", nil},
	} {
		got, err := ParseNumbers(c.in)
		if (err == nil) != (c.want != nil) {
			t.Errorf("%q: %v, %v", c.in, got, err)
			continue
		}
		for i, n := range c.want {
			if i >= len(got) || got[i] != n {
				t.Errorf("%q: %v, want %v", c.in, got, c.want)
				break
			}
		}
	}
}

// fakePort is a port that takes so many frames at a time.
type fakePort struct {
	rings.Port
	link  rings.Link
	room  int
	waits []*rings.Frame
}

func (p *fakePort) Info() rings.Info { return rings.Info{Link: p.link} }

func (p *fakePort) Send(fs []*rings.Frame) (int, error) {
	n := min(len(fs), p.room)
	for _, f := range fs[:n] {
		f.Data()[0] ^= 0xff // the frame is the port's now
	}
	return n, nil
}

func (p *fakePort) Recv(fs []*rings.Frame) (int, error) { return copy(fs, p.waits), nil }

var (
	tapOurs, tapServer = netip.MustParseAddr("198.18.1.1"), netip.MustParseAddr("198.18.0.1")
	tapInfo            = control.CallInfo{Local: tapOurs, Peer: tapServer, CallID: 7, PeerCallID: 9}
)

// gre is an outer packet with a byte of payload, n, and padding behind it.
func gre(link rings.Link, src, dst netip.Addr, id uint16, n byte) []byte {
	var b []byte
	if link == rings.LinkEthernet {
		b = append(make([]byte, 12), 0x08, 0x00)
	}
	b = append(b, 0x45, 0, 0, 33, 0, 0, 0x40, 0, 64, 47, 0, 0)
	b = append(b, src.AsSlice()...)
	b = append(b, dst.AsSlice()...)
	b = append(b, 0x30, 0x01, 0x88, 0x0b, 0, 1, byte(id>>8), byte(id), 0, 0, 0, n, n)
	return append(b, 0, 0, 0)
}

// What is captured are the packets of the chosen call in both directions, once
// each, without what surrounds them, and as long as it is followed.
func TestTap(t *testing.T) {
	for _, link := range []rings.Link{rings.LinkEthernet, rings.LinkIP} {
		var file bytes.Buffer
		c, err := newCapture(&CaptureOptions{To: &file, Calls: []Numbers{{2, 3}}, Packets: 100})
		if err != nil {
			t.Fatal(err)
		}
		if c.wants(0) || !c.wants(1) || !c.wants(2) || c.wants(3) || (*capture)(nil).wants(1) {
			t.Error("wants the wrong calls")
		}
		pool := rings.NewPoolN(16, rings.ChunkSmall)
		frames := func(packets ...[]byte) (fs []*rings.Frame) {
			for _, p := range packets {
				f := pool.Get()
				f.Set(p)
				fs = append(fs, f)
			}
			return fs
		}
		other := netip.MustParseAddr("198.18.1.2")
		sent := frames(
			gre(link, tapOurs, tapServer, 9, 1),
			gre(link, tapOurs, tapServer, 7, 100), // that is the number for the other direction
			gre(link, other, tapServer, 9, 101),   // the same number of another client's call
			gre(link, tapOurs, tapServer, 9, 2),
			[]byte{1, 2, 3},
		)
		port := &fakePort{link: link, room: 2}
		p := c.wrap(port, pool)
		port.waits = frames(gre(link, tapServer, tapOurs, 7, 3), gre(link, tapServer, tapOurs, 9, 102), gre(link, tapServer, other, 7, 103))
		pass := func() {
			for fs := sent; len(fs) > 0; {
				n, err := p.Send(fs)
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range fs[:n] {
					f.Data()[0] ^= 0xff
				}
				fs = fs[n:]
			}
			if n, err := p.Recv(make([]*rings.Frame, 8)); n != 3 || err != nil {
				t.Fatal(n, err)
			}
		}
		pass() // not yet
		c.follow(&tapInfo, true)
		pass()
		c.inside([]byte{0x45, 4})
		c.follow(&tapInfo, false)
		pass() // not any more
		c.end(func(format string, args ...any) { t.Errorf(format, args...) })

		r, err := pcapgo.NewNgReader(&file, pcapgo.NgReaderOptions{WantMixedLinkType: true})
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range []byte{1, 2, 3, 4} {
			b, _, err := r.ReadPacketData()
			if err != nil || b[0] != 0x45 || b[len(b)-1] != want {
				t.Fatalf("packet %d: %x, %v", i, b, err)
			}
		}
		if b, _, err := r.ReadPacketData(); err == nil {
			t.Errorf("more: %x", b)
		}
	}
}
