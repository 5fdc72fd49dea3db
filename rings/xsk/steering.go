package xsk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"xpptp/rings"
)

// SteeringConfig says what the XDP program lets through.
type SteeringConfig struct {
	Workers int            // 1 if zero
	Sources []netip.Prefix // IPv4 prefixes that peers may have; none: all

	// AnyCall steers every call ID by rings.Shard, known or not: for
	// reflectors and measurements.
	AnyCall bool
}

// Steering is what the XDP programs of all outside interfaces decide by: our
// addresses, the allowed sources, the live calls. Enhanced GRE to one of our
// addresses goes to the worker of its call; without a live call it is
// dropped, and counted, before it costs a worker anything. Everything else is
// the kernel's.
//
// The worker of a call is rings.Shard of its local call ID. Calls and
// addresses are counted: each Add wants its Remove. All methods may be called
// from any goroutine.
type Steering struct {
	cfg  SteeringConfig
	maps steeringMaps
	live *ebpf.Memory // maps.calls, mapped: no system call for every call

	mu    sync.Mutex
	addrs map[netip.Addr]int
	calls map[uint16]int
}

// steeringMaps are the BPF maps that the programs share.
type steeringMaps struct {
	addrs   *ebpf.Map // hash: address in network order → 1
	sources *ebpf.Map // LPM trie: prefix → 1; nil: all may
	calls   *ebpf.Map // array: call ID → worker + 1; 0: no such call
	drops   *ebpf.Map // per-CPU array: reason → packets
}

const maxAddresses = 4096

// NewSteering makes the maps. Close it after the devices that use it.
func NewSteering(cfg SteeringConfig) (s *Steering, err error) {
	if cfg.Workers == 0 {
		cfg.Workers = 1
	}
	s = &Steering{cfg: cfg, addrs: make(map[netip.Addr]int), calls: make(map[uint16]int)}
	defer func() {
		if err != nil {
			s.Close()
			s, err = nil, fmt.Errorf("rings: XDP maps: %w", err)
		}
	}()
	if cfg.Workers < 0 || cfg.Workers > maxWorkers {
		return s, fmt.Errorf("%d workers are not between 1 and %d", cfg.Workers, maxWorkers)
	}
	// Kernels before 5.11 charge maps to RLIMIT_MEMLOCK.
	if err := rlimit.RemoveMemlock(); err != nil {
		return s, err
	}
	m := &s.maps
	for _, spec := range []struct {
		to *(*ebpf.Map)
		*ebpf.MapSpec
	}{
		{&m.addrs, &ebpf.MapSpec{Name: "xpptp_addrs", Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: maxAddresses}},
		{&m.calls, &ebpf.MapSpec{Name: "xpptp_calls", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1 << 16, Flags: unix.BPF_F_MMAPABLE}},
		{&m.drops, &ebpf.MapSpec{Name: "xpptp_drops", Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 8, MaxEntries: dropReasons}},
	} {
		if *spec.to, err = ebpf.NewMap(spec.MapSpec); err != nil {
			return s, err
		}
	}
	if s.live, err = m.calls.Memory(); err != nil {
		return s, err
	}
	if len(cfg.Sources) == 0 {
		return s, nil
	}
	if m.sources, err = ebpf.NewMap(&ebpf.MapSpec{
		Name: "xpptp_sources", Type: ebpf.LPMTrie, KeySize: 8, ValueSize: 4,
		MaxEntries: uint32(len(cfg.Sources)), Flags: noPrealloc,
	}); err != nil {
		return s, err
	}
	for _, p := range cfg.Sources {
		if !p.IsValid() || !p.Addr().Is4() {
			return s, fmt.Errorf("source %v is not an IPv4 prefix", p)
		}
		k := prefixKey{uint32(p.Bits()), p.Masked().Addr().As4()}
		if err := m.sources.Put(k, uint32(1)); err != nil {
			return s, fmt.Errorf("source %v: %w", p, err)
		}
	}
	return s, nil
}

// noPrealloc is BPF_F_NO_PREALLOC, which LPM tries want.
const noPrealloc = 1

// prefixKey is struct bpf_lpm_trie_key.
type prefixKey struct {
	Bits uint32
	Addr [4]byte
}

// AddAddress makes a one of our addresses.
func (s *Steering) AddAddress(a netip.Addr) error {
	if !a.Is4() {
		return fmt.Errorf("rings: XDP steering: %v is not an IPv4 address", a)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.addrs[a] == 0 {
		if err := s.maps.addrs.Put(a.As4(), uint32(1)); err != nil {
			return fmt.Errorf("rings: XDP steering: address %v: %w", a, err)
		}
	}
	s.addrs[a]++
	return nil
}

// RemoveAddress takes back one AddAddress.
func (s *Steering) RemoveAddress(a netip.Addr) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch s.addrs[a] {
	case 0:
		return fmt.Errorf("rings: XDP steering: %v is not one of our addresses", a)
	case 1:
		delete(s.addrs, a)
		if err := s.maps.addrs.Delete(a.As4()); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("rings: XDP steering: address %v: %w", a, err)
		}
	default:
		s.addrs[a]--
	}
	return nil
}

// AddCall lets in packets with this local call ID: before the peer hears of
// it. The same ID may be live with several peers.
func (s *Steering) AddCall(id uint16) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls[id] == 0 {
		if err := s.setCall(id, uint32(rings.Shard(id, s.cfg.Workers))+1); err != nil {
			return err
		}
	}
	s.calls[id]++
	return nil
}

// RemoveCall takes back one AddCall.
func (s *Steering) RemoveCall(id uint16) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch s.calls[id] {
	case 0:
		return fmt.Errorf("rings: XDP steering: no call has ID %d", id)
	case 1:
		delete(s.calls, id)
		return s.setCall(id, 0)
	}
	s.calls[id]--
	return nil
}

// callStride is how far apart the values of an array map are.
const callStride = 8

func (s *Steering) setCall(id uint16, v uint32) error {
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], v)
	if _, err := s.live.WriteAt(b[:], int64(id)*callStride); err != nil {
		return fmt.Errorf("rings: XDP steering: call ID %d: %w", id, err)
	}
	return nil
}

// Drops is what the XDP programs have dropped.
type Drops struct {
	UnknownCall uint64 // no live call has this ID
	Source      uint64 // the source is not allowed
}

// Drops adds up the counters of all CPUs.
func (s *Steering) Drops() (d Drops, err error) {
	for reason, to := range map[uint32]*uint64{dropUnknownCall: &d.UnknownCall, dropSource: &d.Source} {
		var perCPU []uint64
		if err := s.maps.drops.Lookup(reason, &perCPU); err != nil {
			return d, fmt.Errorf("rings: XDP drop counters: %w", err)
		}
		for _, n := range perCPU {
			*to += n
		}
	}
	return d, nil
}

// Close releases the maps. Programs that are attached keep them alive.
func (s *Steering) Close() error {
	for _, m := range []*ebpf.Map{s.maps.addrs, s.maps.sources, s.maps.calls, s.maps.drops} {
		if m != nil {
			_ = m.Close()
		}
	}
	return nil
}
