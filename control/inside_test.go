package control

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"xpptp/control/aaa"
	"xpptp/control/config"
	"xpptp/control/pool"
	"xpptp/control/sock"
	"xpptp/rings"
	"xpptp/rings/lab"
)

// insideBox is a server on the loopback, with the raw backend.
func insideBox(t *testing.T, workers int, inside string) *Box {
	t.Helper()
	file := filepath.Join(t.TempDir(), "secrets")
	if err := os.WriteFile(file, []byte("alice * wonder *\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	store, err := aaa.OpenStore(file, false)
	if err != nil {
		t.Fatal(err)
	}
	cfg := config.Default()
	cfg.Local = netip.MustParseAddr("10.9.0.1")
	cfg.Listen = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1723")}
	cfg.Outside, cfg.IO, cfg.Workers = []string{"lo"}, config.IORaw, workers
	r, err := pool.ParseRange("10.9.0.2-10.9.0.9")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Pools = []config.Pool{{Name: "default", Ranges: []pool.Range{r}}}
	cfg.Inside = inside
	b, err := NewServer(cfg, aaa.NewLocal(store), slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// inOwnNetns runs f in a network namespace made for the test.
func inOwnNetns(t *testing.T, f func() error) {
	t.Helper()
	ns, err := sock.NewNetns()
	if err != nil {
		t.Skipf("needs the right to make network namespaces: %v", err)
	}
	defer ns.Close()
	err = ns.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			return err
		}
		return f()
	})
	if err != nil {
		t.Error(err)
	}
}

func stop(b *Box) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return b.Shutdown(ctx)
}

// A box with ports of its own makes no device, gives each worker one, and
// closes them.
func TestSetInside(t *testing.T) {
	inOwnNetns(t, func() error {
		b := insideBox(t, 3, config.InsideTun)
		given := map[int]*lab.Port{}
		b.SetInside(func(worker int, pool *rings.Pool) (rings.Port, error) {
			if pool == nil || given[worker] != nil {
				t.Errorf("worker %d: pool %v, port %v", worker, pool, given[worker])
			}
			given[worker] = lab.Sink(1400)
			return given[worker], nil
		})
		if err := b.Start(); err != nil {
			return err
		}
		ifs, err := net.Interfaces()
		if err != nil || len(ifs) != 1 {
			t.Errorf("interfaces %v, %v", ifs, err)
		}
		if len(given) != 3 {
			t.Errorf("ports for %d of 3 workers", len(given))
		}
		err = stop(b)
		for i, p := range given {
			if !errors.Is(p.Flush(), rings.ErrPortDown) {
				t.Errorf("the port of worker %d is not closed", i)
			}
		}
		return err
	})
}

func TestInsideErrors(t *testing.T) {
	for _, c := range []struct {
		name, inside, want string
		given              func(int, *rings.Pool) (rings.Port, error)
	}{
		{name: "given", want: "inside port of worker 1: nothing left", given: func(worker int, _ *rings.Pool) (rings.Port, error) {
			if worker == 1 {
				return nil, errors.New("nothing left")
			}
			return lab.Sink(1400), nil
		}},
		{name: "interface without AF_XDP", inside: "in0", want: "inside: an interface needs AF_XDP outside too, and io is raw"},
		{name: "outside interface", inside: "lo", want: "inside: lo is an outside interface"},
	} {
		t.Run(c.name, func(t *testing.T) {
			inOwnNetns(t, func() error {
				b := insideBox(t, 2, c.inside)
				b.SetInside(c.given)
				err := b.Start()
				if err == nil {
					_ = stop(b)
				}
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v, want %s", err, c.want)
				}
				// Nothing is left open.
				ln, err := net.Listen("tcp4", "127.0.0.1:1723")
				if err != nil {
					return err
				}
				return ln.Close()
			})
		})
	}
}

// Boxes with several workers steer their TUN queues by the calls' addresses.
func TestSteeredQueues(t *testing.T) {
	inOwnNetns(t, func() error {
		b := insideBox(t, 2, config.InsideTun)
		if err := b.Start(); err != nil {
			return err
		}
		tun := b.ports.inside.(*tunInside)
		if tun.owners == nil {
			t.Error("nothing is steered")
		}
		ifs, err := net.Interfaces()
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(ifs, func(i net.Interface) bool { return i.Name == tun.dev.Name() }) {
			t.Errorf("no device %s among %v", tun.dev.Name(), ifs)
		}
		return stop(b)
	})
}
