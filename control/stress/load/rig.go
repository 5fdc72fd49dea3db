package load

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"

	"xpptp/control/sock"
	"xpptp/engine/gre"
	"xpptp/engine/mppe"
	"xpptp/engine/mppe/multi"
	"xpptp/engine/session"
	"xpptp/engine/wire"
	"xpptp/rings"
	"xpptp/rings/xsk"
	"xpptp/workers"
)

// rig is a client's worker with calls and a load, on one end of a veth pair
// whose other end drops everything, in two network namespaces of its own.
type rig struct {
	near, far *sock.Netns
	pool      *rings.Pool
	out       rings.Port
	header    []byte // link header of what goes out
	clock     func() int64
	closers   []func() error
}

// Addresses of the rig. Nobody outside its namespaces sees them.
var (
	rigLocal  = netip.MustParseAddr("198.18.0.1") // RFC 2544: for benchmarks
	rigPeer   = netip.MustParseAddr("198.18.0.2")
	rigFar    = netip.MustParseAddrPort("198.19.0.1:7007")
	nobodyMAC = [6]byte{2, 0, 0, 0, 0, 99} // the far end's kernel drops what is for it
)

const (
	rigNear, rigFarName = "load0", "load1"
	rigFrames           = 8192
	rigRoom             = 1400
)

func rigCall(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 64, byte(i >> 8), byte(i)}) }

func newRig() (r *rig, err error) {
	r = &rig{clock: sock.Monotonic()}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	for _, n := range []**sock.Netns{&r.near, &r.far} {
		if *n, err = sock.NewNetns(); err != nil {
			return r, err
		}
		r.closers = append(r.closers, (*n).Close)
		// Without addresses of its own making on the wire the kernel keeps quiet there.
		_ = (*n).Do(func() error {
			return os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0)
		})
	}
	if err := r.near.Do(func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: rigNear, MTU: 1500},
			PeerName:  rigFarName, PeerNamespace: netlink.NsFd(r.far.FD()),
		})
	}); err != nil {
		return r, fmt.Errorf("veth pair: %w", err)
	}
	if err := r.far.Do(func() error { return linkUp(rigFarName) }); err != nil {
		return r, err
	}
	return r, r.near.Do(r.open)
}

func linkUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// open opens the near end, in its namespace.
func (r *rig) open() error {
	if err := linkUp(rigNear); err != nil {
		return err
	}
	link, err := netlink.LinkByName(rigNear)
	if err != nil {
		return err
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: rigLocal.AsSlice(), Mask: net.CIDRMask(24, 32)}}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("%s: address %s: %w", rigNear, rigLocal, err)
	}
	for try := 0; link.Attrs().OperState != netlink.OperUp; try++ {
		if try == 500 {
			return fmt.Errorf("%s has no carrier", rigNear)
		}
		time.Sleep(10 * time.Millisecond)
		if link, err = netlink.LinkByName(rigNear); err != nil {
			return err
		}
	}
	umem, err := xsk.NewUMEM(rigFrames, rings.ChunkSmall)
	if err != nil {
		return err
	}
	r.closers = append(r.closers, umem.Close)
	r.pool = rings.NewPool(umem.Arena(), 0, umem.Arena().Len())
	steer, err := xsk.NewSteering(xsk.SteeringConfig{AnyCall: true})
	if err != nil {
		return err
	}
	r.closers = append(r.closers, steer.Close)
	dev, err := xsk.Open(xsk.Config{Interface: rigNear, Queues: []int{0}}, steer, []*rings.Pool{r.pool})
	if err != nil {
		return err
	}
	r.closers = append(r.closers, dev.Close)
	r.out = dev.Ports(0)[0]
	r.header = make([]byte, wire.EthernetLen)
	wire.PutEthernet(r.header, nobodyMAC, r.out.Info().MAC, wire.EtherTypeIPv4)
	return nil
}

func (r *rig) close() {
	for _, f := range slices.Backward(r.closers) {
		_ = f()
	}
}

// rigHop is a next hop that never changes.
type rigHop struct {
	header []byte
	index  int
}

// Way implements workers.Hop.
func (h *rigHop) Way() ([]byte, int, workers.HopState) { return h.header, h.index, workers.HopReady }

// end is a worker with calls, and the load that goes through them.
type end struct {
	r     *rig
	l     *Load
	w     *workers.Worker
	calls []*workers.Call
	in    rings.Port
}

func (r *rig) newEnd(calls int, encrypted bool) (*end, error) {
	l, err := New(Config{Workers: 1, Clock: r.clock})
	if err != nil {
		return nil, err
	}
	e := &end{r: r, l: l}
	if e.in, err = l.Inside(0, r.pool); err != nil {
		return nil, err
	}
	e.w, err = workers.New(workers.Config{
		Pool: r.pool, Outside: []rings.Port{r.out}, Inside: e.in, Cipher: multi.Best(), CPU: -1, Client: true,
		GRE: gre.Config{First: 1, Window: 4096, AckDelay: int64(5 * time.Millisecond), ReorderDelay: int64(5 * time.Millisecond)},
	}, r.clock())
	if err != nil {
		_ = e.in.Close()
		return nil, err
	}
	hop := &rigHop{r.header, r.out.Info().Index}
	for i := range calls {
		c := workers.NewCall(&workers.CallParams{
			Local: rigLocal, Peer: rigPeer, CallID: uint16(i + 1), PeerCallID: uint16(i + 1), PeerKnown: true,
			Client: true, GRE: e.w.GREConfig(), PeerWindow: 4096, TTL: 64, Hop: hop,
		})
		e.w.Add(c, nil)
		e.w.SetFraming(c, true, true, rigRoom)
		if encrypted {
			p := mppe.Params{Bits: 128}
			p.Start[0], p.Start[1] = byte(i>>8), byte(i)
			e.w.SetEncryption(c, session.Required)
			e.w.OpenReceive(c, p)
			e.w.OpenTransmit(c, p)
		}
		e.w.NetworkUp(c, rigCall(i))
		e.calls = append(e.calls, c)
		if _, err := l.Add(CallConfig{V4: rigCall(i), Far4: rigFar, Room: rigRoom, Tag: i}); err != nil {
			e.close()
			return nil, err
		}
	}
	e.w.Step(r.clock()) // the commands
	return e, nil
}

// close releases what newEnd made; the worker must not be running.
func (e *end) close() {
	e.w.Close()
	_ = e.in.Close()
}
