package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/google/gopacket/pcapgo"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"xpptp/control/stress/report"
	"xpptp/engine/wire"
	"xpptp/rings/ringtest"
)

// witness sees what comes in on the interfaces of a namespace: everything, and
// packets of calls that are as large as those of the traffic, which nothing
// else is.
type witness struct {
	ns, sock   int
	nic        string
	before     uint64 // packets that the interface had taken
	all, large uint64
}

const (
	witnessSize  = 1000 // bytes of an inside packet
	witnessLarge = 900
)

// within runs f on a thread of its own in a namespace.
func within(ns int, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends here
		if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// received is what the interface has taken; 0 if there is none yet.
func (w *witness) received() (n uint64) {
	_ = within(w.ns, func() error {
		link, err := netlink.LinkByName(w.nic)
		if err == nil {
			n = link.Attrs().Statistics.RxPackets
		}
		return err
	})
	return n
}

// newWitness begins to look, between two packets.
func newWitness(t *testing.T, ns int, nic string) *witness {
	t.Helper()
	w := &witness{ns: ns, nic: nic, sock: -1}
	t.Cleanup(func() { _ = unix.Close(w.sock) })
	for {
		w.before = w.received()
		_ = unix.Close(w.sock)
		err := within(ns, func() (err error) {
			w.sock, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0x0300) // ETH_P_ALL
			if err == nil {
				err = unix.SetsockoptInt(w.sock, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 256<<20)
			}
			return err
		})
		if err != nil {
			t.Skipf("needs packet sockets: %v", err)
		}
		if w.received() == w.before {
			return w
		}
	}
}

// read counts what the socket has kept.
func (w *witness) read(t *testing.T) {
	t.Helper()
	buf := make([]byte, 4096)
	for {
		n, from, err := unix.Recvfrom(w.sock, buf, 0)
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		if err != nil {
			if errors.Is(err, unix.ENETDOWN) {
				continue // the wire was taken away at the end
			}
			t.Fatal(err)
		}
		l, ok := from.(*unix.SockaddrLinklayer)
		if !ok || l.Pkttype == unix.PACKET_OUTGOING || l.Hatype != unix.ARPHRD_ETHER {
			continue
		}
		w.all++
		if off, kind, d := wire.L3Offset(buf[:n]); d == 0 && kind == wire.EtherTypeIPv4 && largeCall(buf[off:n]) {
			w.large++
		}
	}
	if s, err := unix.GetsockoptTpacketStats(w.sock, unix.SOL_PACKET, unix.PACKET_STATISTICS); err != nil || s.Drops != 0 {
		t.Fatalf("the witness itself lost packets: %+v, %v", s, err)
	}
}

// largeCall reports whether an outer IP packet is a large one of a call.
func largeCall(b []byte) bool {
	ip, d := wire.ParseIPv4(b)
	if d != 0 || ip.Protocol() != wire.ProtoGRE {
		return false
	}
	g, d := wire.ParseGRE(ip.Payload())
	return d == 0 && len(g.Payload()) > witnessLarge
}

// What a whole run reports is what was on the wire: by a socket at each end of
// it, which sees what the interface counts, and by the run's own capture.
func TestStressWitness(t *testing.T) {
	// A run that loses packets, as on a machine without time to spare, shows less.
	for range 4 {
		if lost := stressWitness(t); lost == 0 || t.Failed() {
			return
		}
	}
}

func stressWitness(t *testing.T) (lost uint64) {
	ns := ringtest.NewNS(t) // skips
	file := filepath.Join(t.TempDir(), "calls.pcapng")
	near := newWitness(t, ns.FD(), "veth1")
	p := command(t, "stress", "--lab", "-o", "json", "--io", "tpacket", "--calls", "10", "--rate", "5", "--settle", "1m",
		"--traffic", "500pps", "--duration", "1s", "--size", fmt.Sprint(witnessSize), "--quiet", "5s",
		"--capture", file, "--capture-calls", "1-10")
	p.cmd.Env = append(os.Environ(), stressInNamespaces+"=1")
	ns.Do(p.launch)
	server := 0
	p.until("has a server", func() bool {
		server = descendant(p.cmd.Process.Pid, "serve")
		return server != 0
	})
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", server))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() // until then the namespace, and the wire, stay
	far := newWitness(t, int(f.Fd()), "veth0")
	select {
	case <-p.done:
	case <-time.After(patience + time.Minute):
		t.Fatal("does not end")
	}
	var r report.Result
	if err := json.Unmarshal([]byte(p.out.String()), &r); err != nil {
		t.Fatalf("%v\n%s", err, p.out.String())
	}
	for _, w := range []*witness{near, far} {
		w.read(t)
		if got := w.received() - w.before; got != w.all || w.all == 0 {
			t.Errorf("%s took %d packets, the witness saw %d", w.nic, got, w.all)
		}
	}
	n := &r.Traffic
	t.Logf("of %d and %d packets on the wire %d and %d are the traffic: sent %d, received %d", far.all, near.all, far.large, near.large, n.Sent, n.Received)
	if far.large > n.Sent || near.large < n.Received || near.large > far.large {
		t.Errorf("sent %d, on the wire %d, and back %d, received %d", n.Sent, far.large, near.large, n.Received)
	}
	if n.Lost > 0 {
		t.Logf("%d packets lost: %v, %v", n.Lost, n.Drops, r.Notes)
		return n.Lost
	}
	if n.Sent == 0 || n.Sent != far.large || n.Received != near.large || n.Duplicated != 0 || r.Calls.Up != 10 {
		t.Errorf("sent %d, on the wire %d, and back %d, received %d; %d calls up", n.Sent, far.large, near.large, n.Received, r.Calls.Up)
	}
	wire, decrypted := captured(t, file)
	if both := n.Sent + n.Received; wire != both || decrypted != both {
		t.Errorf("sent and received %d, captured %d and %d decrypted", both, wire, decrypted)
	}
	return 0
}

// captured counts the large packets in a capture.
func captured(t *testing.T, file string) (wire, decrypted uint64) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := pcapgo.NewNgReader(f, pcapgo.NgReaderOptions{WantMixedLinkType: true})
	if err != nil {
		t.Fatal(err)
	}
	for {
		b, info, err := r.ReadPacketData()
		if err != nil {
			return wire, decrypted
		}
		switch i, _ := r.Interface(info.InterfaceIndex); {
		case i.Name == "wire" && largeCall(b):
			wire++
		case i.Name == "decrypted" && len(b) == witnessSize:
			decrypted++
		}
	}
}
