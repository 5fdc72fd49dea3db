package xsk

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"xpptp/rings"
)

// ErrForeignProgram is returned (wrapped) for an interface that has another
// XDP program.
var ErrForeignProgram = errors.New("another XDP program is attached; it is left alone")

// Hook is an XDP program on an interface, and which socket gets the
// packets of which queue and worker. It is a bpf_link: the kernel takes it off
// when the process ends.
type Hook struct {
	Info   rings.Info // of the interface
	Queues []int      // that are served
	Native bool       // in the driver; else in the kernel's generic way

	workers int
	xsks    *ebpf.Map // queue × workers + worker → socket
	prog    *ebpf.Program
	link    link.Link
}

// Attach attaches the steering program to an interface, for sockets of another
// kind than this package's. Of cfg it heeds Interface, Queues, Batch and
// Generic. Until it has sockets all packets go to the kernel.
func Attach(cfg Config, s *Steering) (*Hook, error) {
	h, err := attach(cfg, s)
	if err != nil {
		return nil, fmt.Errorf("rings: attach to %s: %w", cfg.Interface, err)
	}
	return h, nil
}

func attach(cfg Config, p Program) (h *Hook, err error) {
	h = &Hook{workers: p.workers(), Queues: cfg.Queues}
	defer func() {
		if err != nil {
			_ = h.Close()
			h = nil
		}
	}()
	l, err := netlink.LinkByName(cfg.Interface)
	if err != nil {
		return h, err
	}
	a := l.Attrs()
	if a.EncapType != "ether" {
		return h, fmt.Errorf("interfaces of type %q are not supported", a.EncapType)
	}
	if x := a.Xdp; x != nil && x.Attached {
		return h, fmt.Errorf("%w (program %d)", ErrForeignProgram, x.ProgId)
	}
	h.Info = rings.Info{Name: a.Name, Index: a.Index, Link: rings.LinkEthernet, Batch: cfg.Batch, MTU: min(a.MTU, rings.MaxMTU)}
	if h.Info.Batch <= 0 {
		h.Info.Batch = defaultBatch
	}
	copy(h.Info.MAC[:], a.HardwareAddr)
	if len(h.Queues) == 0 {
		if h.Queues, err = allQueues(cfg.Interface); err != nil {
			return h, err
		}
	}
	highest := 0
	for _, q := range h.Queues {
		highest = max(highest, q)
	}
	if h.xsks, err = ebpf.NewMap(&ebpf.MapSpec{
		Name: "xpptp_xsks", Type: ebpf.XSKMap, KeySize: 4, ValueSize: 4, MaxEntries: uint32((highest + 1) * h.workers),
	}); err != nil {
		return h, fmt.Errorf("XDP socket map: %w", err)
	}
	if h.prog, err = p.load(h.xsks, &h.Info); err != nil {
		return h, fmt.Errorf("XDP program: %w", err)
	}
	for _, flag := range []link.XDPAttachFlags{link.XDPDriverMode, link.XDPGenericMode} {
		if flag == link.XDPDriverMode && cfg.Generic {
			continue
		}
		h.link, err = link.AttachXDP(link.XDPOptions{Program: h.prog, Interface: a.Index, Flags: flag})
		if err == nil {
			h.Native = flag == link.XDPDriverMode
			return h, nil
		}
		if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) {
			return h, ErrForeignProgram
		}
	}
	return h, fmt.Errorf("attach the XDP program: %w", err)
}

// allQueues returns the numbers of an interface's receive queues in use.
func allQueues(name string) ([]int, error) {
	n := 1
	e, err := ethtool.NewEthtool()
	if err != nil {
		return nil, fmt.Errorf("number of queues: %w", err)
	}
	defer e.Close()
	if c, err := e.GetChannels(name); err == nil {
		n = max(n, int(c.RxCount+c.CombinedCount))
	} // else the driver knows no channels: one queue
	qs := make([]int, n)
	for i := range qs {
		qs[i] = i
	}
	return qs, nil
}

// Set makes fd the AF_XDP socket of a queue and worker.
func (h *Hook) Set(queue, worker, fd int) error {
	if err := h.xsks.Put(uint32(queue*h.workers+worker), uint32(fd)); err != nil {
		return fmt.Errorf("XDP socket map: %w", err)
	}
	return nil
}

// Unset takes the socket of a queue and worker out: its packets go to the
// kernel.
func (h *Hook) Unset(queue, worker int) error {
	return h.xsks.Delete(uint32(queue*h.workers + worker))
}

// Close detaches the program.
func (h *Hook) Close() error {
	var errs []error
	if h.link != nil {
		errs = append(errs, h.link.Close())
	}
	if h.prog != nil {
		errs = append(errs, h.prog.Close())
	}
	if h.xsks != nil {
		errs = append(errs, h.xsks.Close())
	}
	h.link, h.prog, h.xsks = nil, nil, nil
	return errors.Join(errs...)
}
