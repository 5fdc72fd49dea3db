package hwprofile

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/cpuid/v2"
	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// live is the running machine. What is below proc is read in one go, or it is
// not whole, so ReadFile must be the system's own.
type live struct {
	rootFS
	sys *os.File // a sysfs of the thread's network namespace; nil: that at /sys must do
}

type rootFS interface {
	fs.ReadFileFS
	fs.ReadDirFS
	fs.StatFS
}

// Live is the running machine, in the network namespace of the calling thread.
func Live() Machine {
	m := &live{rootFS: os.DirFS("/").(rootFS)}
	// A sysfs shows the network namespace that it was mounted in, and a thread
	// may be in another: a mount of our own, that nobody sees, is of the right
	// one. It takes CAP_SYS_ADMIN.
	if fd, err := mountSysfs(); err == nil {
		m.sys = os.NewFile(uintptr(fd), "sysfs")
	}
	return m
}

func mountSysfs() (fd int, err error) {
	ctx, err := unix.Fsopen("sysfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(ctx)
	if err := unix.FsconfigCreate(ctx); err != nil {
		return -1, err
	}
	return unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, 0)
}

// in says in which tree, and by what name there, a file is found.
func (m *live) in(name string) (rootFS, string) {
	if below, ok := strings.CutPrefix(name, "sys/class/net"); ok && m.sys != nil {
		return os.DirFS(fmt.Sprintf("/proc/self/fd/%d", m.sys.Fd())).(rootFS), "class/net" + below
	}
	return m.rootFS, name
}

func (m *live) Open(name string) (fs.File, error) {
	tree, name := m.in(name)
	return tree.Open(name)
}

func (m *live) ReadFile(name string) ([]byte, error) {
	tree, name := m.in(name)
	return tree.ReadFile(name)
}

func (m *live) ReadDir(name string) ([]fs.DirEntry, error) {
	tree, name := m.in(name)
	return tree.ReadDir(name)
}

func (m *live) Stat(name string) (fs.FileInfo, error) {
	tree, name := m.in(name)
	return tree.Stat(name)
}

func (*live) CPUID() (CPUID, error) {
	c := &cpuid.CPU
	id := CPUID{
		Vendor: c.VendorString, Model: c.BrandName, Features: slices.Sorted(slices.Values(c.FeatureSet())),
		Hypervisor: c.HypervisorVendorString,
		L1D:        max(c.Cache.L1D, 0), L2: max(c.Cache.L2, 0), L3: max(c.Cache.L3, 0),
	}
	if id.Hypervisor == "" && c.VM() {
		id.Hypervisor = "unknown"
	}
	return id, nil
}

func (*live) Names() (names []string, err error) {
	ifs, err := net.Interfaces()
	for _, i := range ifs {
		names = append(names, i.Name)
	}
	return names, err
}

func (*live) Firewall() (string, error) {
	var text strings.Builder
	for _, command := range [][]string{{"nft", "list", "ruleset"}, {"iptables-save"}} {
		path, err := exec.LookPath(command[0])
		if err != nil {
			continue
		}
		out, err := exec.Command(path, command[1:]...).Output()
		if err != nil {
			return "", fmt.Errorf("%s: %w", strings.Join(command, " "), err)
		}
		text.Write(out)
	}
	return text.String(), nil
}

func (*live) NIC(name string) (n NIC, err error) {
	e, err := ethtool.NewEthtool()
	if err != nil {
		return n, err
	}
	defer e.Close()
	if info, err := e.DriverInfo(name); err == nil {
		n.Driver, n.Version, n.Firmware, n.Bus = info.Driver, info.Version, info.FwVersion, info.BusInfo
	}
	if c, err := e.GetChannels(name); err == nil {
		n.Channels = &Channels{
			RX: int(c.RxCount), TX: int(c.TxCount), Combined: int(c.CombinedCount),
			MaxRX: int(c.MaxRx), MaxTX: int(c.MaxTx), MaxCombined: int(c.MaxCombined),
		}
	}
	if r, err := e.GetRing(name); err == nil {
		n.Rings = &Rings{RX: int(r.RxPending), TX: int(r.TxPending), MaxRX: int(r.RxMaxPending), MaxTX: int(r.TxMaxPending)}
	}
	if c, err := e.GetCoalesce(name); err == nil {
		n.Coalesce = &Coalesce{
			AdaptiveRX: c.UseAdaptiveRxCoalesce != 0, AdaptiveTX: c.UseAdaptiveTxCoalesce != 0,
			RXUsecs: int(c.RxCoalesceUsecs), TXUsecs: int(c.TxCoalesceUsecs),
			RXFrames: int(c.RxMaxCoalescedFrames), TXFrames: int(c.TxMaxCoalescedFrames),
		}
	}
	if all, err := e.FeaturesWithState(name); err == nil {
		n.Features = make(map[string]Feature, len(all))
		for f, s := range all {
			n.Features[f] = Feature{On: s.Active, Fixed: !s.Available || s.NeverChanged}
		}
	}
	ask, shut, err := openEthtool(name)
	if err != nil {
		return n, err
	}
	defer shut()
	n.RSS = ask.rss()
	if f, ok := n.Features["rx-ntuple-filter"]; ok && (f.On || !f.Fixed) {
		rules, room := ask.rules()
		n.NTuple = &NTuple{On: f.On, Rules: rules, Room: room}
	}
	n.XDP, err = xdpFeatures(name)
	return n, err
}

// The netdev family of generic netlink (include/uapi/linux/netdev.h).
const (
	netdevFamily   = "netdev"
	netdevDevGet   = 1 // NETDEV_CMD_DEV_GET
	netdevIfindex  = 1 // NETDEV_A_DEV_IFINDEX, u32
	netdevFeatures = 3 // NETDEV_A_DEV_XDP_FEATURES, u64
	netdevMaxSegs  = 4 // NETDEV_A_DEV_XDP_ZC_MAX_SEGS, u32
)

// netdevActs are the bits of NETDEV_XDP_ACT, from bit 0 on.
var netdevActs = []string{"basic", "redirect", "ndo-xmit", "xsk-zerocopy", "hw-offload", "rx-sg", "ndo-xmit-sg"}

// genlHeader is struct genlmsghdr. The library's own leaves two bytes to
// chance that this family wants to be zero.
type genlHeader [nl.SizeofGenlmsg]byte

func (genlHeader) Len() int            { return nl.SizeofGenlmsg }
func (h genlHeader) Serialize() []byte { return h[:] }

// xdpFeatures asks the kernel what XDP can do on an interface; nil on a kernel
// that cannot tell (before 6.3).
func xdpFeatures(name string) (*XDP, error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return nil, err
	}
	family, err := netlink.GenlFamilyGet(netdevFamily)
	if err != nil {
		return nil, nil //nolint:nilerr // an old kernel
	}
	req := nl.NewNetlinkRequest(int(family.ID), 0)
	req.AddData(genlHeader{netdevDevGet, 1})
	req.AddData(nl.NewRtAttr(netdevIfindex, nl.Uint32Attr(uint32(l.Attrs().Index))))
	messages, err := req.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil || len(messages) == 0 {
		return nil, nil //nolint:nilerr // an old kernel, or the device went away
	}
	attrs, err := nl.ParseRouteAttr(messages[0][nl.SizeofGenlmsg:])
	if err != nil {
		return nil, fmt.Errorf("netdev family: %w", err)
	}
	x := &XDP{}
	if p := l.Attrs().Xdp; p != nil && p.Attached {
		x.Program = int(p.ProgId)
	}
	for _, a := range attrs {
		switch {
		case a.Attr.Type == netdevFeatures && len(a.Value) >= 8:
			bits := nl.NativeEndian().Uint64(a.Value)
			for i, act := range netdevActs {
				if bits&(1<<i) != 0 {
					x.Features = append(x.Features, act)
				}
			}
		case a.Attr.Type == netdevMaxSegs && len(a.Value) >= 4:
			x.ZCMaxSegs = int(nl.NativeEndian().Uint32(a.Value))
		}
	}
	return x, nil
}

// letGo is how long queues that are to go may be in use still.
const letGo = 2 * time.Second

func (m *live) Set(s Setting, value string) error {
	err := m.set(s, value)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENODEV):
		err = errors.Join(fs.ErrNotExist, err)
	}
	return fmt.Errorf("set %s to %s: %w", s, value, err)
}

func (m *live) set(s Setting, value string) error {
	switch s.Kind {
	case KindXPS, KindRPS, KindIRQ:
		path := "/" + s.file()
		if below, ok := strings.CutPrefix(path, "/sys/"); ok && m.sys != nil {
			path = fmt.Sprintf("/proc/self/fd/%d/%s", m.sys.Fd(), below)
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString(value)
		return errors.Join(err, f.Close())
	default: // the others go by ethtool
	}
	e, err := ethtool.NewEthtool()
	if err != nil {
		return err
	}
	defer e.Close()
	if s.Kind == KindFeature {
		return e.Change(s.Interface, map[string]bool{s.Name: value == "on"})
	}
	v := uint32(0)
	if value == "on" {
		v = 1
	} else if value != "off" {
		n, err := strconv.ParseUint(value, 10, 32)
		if err != nil {
			return err
		}
		v = uint32(n)
	}
	switch s.Kind {
	case KindChannels:
		c, err := e.GetChannels(s.Interface)
		if err != nil {
			return err
		}
		count := map[string]*uint32{"rx": &c.RxCount, "tx": &c.TxCount, "combined": &c.CombinedCount}[s.Name]
		fewer := v < *count
		*count = v
		// The kernel lets go of a closed AF_XDP socket a little later, and until
		// then its queue cannot go.
		for end := time.Now().Add(letGo); ; time.Sleep(letGo / 100) {
			_, err = e.SetChannels(s.Interface, c)
			if !fewer || !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
				return err
			}
		}
	case KindRing:
		r, err := e.GetRing(s.Interface)
		if err != nil {
			return err
		}
		*map[string]*uint32{"rx": &r.RxPending, "tx": &r.TxPending}[s.Name] = v
		_, err = e.SetRing(s.Interface, r)
		return err
	case KindCoalesce:
		c, err := e.GetCoalesce(s.Interface)
		if err != nil {
			return err
		}
		*map[string]*uint32{
			"adaptive-rx": &c.UseAdaptiveRxCoalesce, "adaptive-tx": &c.UseAdaptiveTxCoalesce,
			"rx-usecs": &c.RxCoalesceUsecs, "tx-usecs": &c.TxCoalesceUsecs,
		}[s.Name] = v
		_, err = e.SetCoalesce(s.Interface, c)
		return err
	default: // dealt with above
	}
	return fmt.Errorf("unknown kind %q", s.Kind)
}

// Confine keeps the threads of this process, and those that they start, on
// some CPUs. A thread that is put on one of its own later is free to go there.
func Confine(cpus CPUs) error {
	var set unix.CPUSet
	for _, n := range cpus {
		set.Set(n)
	}
	// Threads that start meanwhile are seen in another round.
	const rounds = 10
	done := make(map[string]bool)
	for range rounds {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		fresh := false
		for _, task := range tasks {
			id, err := strconv.Atoi(task.Name())
			if err != nil || done[task.Name()] {
				continue
			}
			done[task.Name()], fresh = true, true
			if err := unix.SchedSetaffinity(id, &set); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("put thread %d on CPUs %s: %w", id, cpus, err)
			}
		}
		if !fresh {
			break
		}
	}
	return nil
}
