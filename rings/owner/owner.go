// Package owner tells BPF programs which worker owns which inside address:
// addresses of calls, and prefixes behind them. The steering of TUN queues and
// that of an inside network card look into the same maps.
package owner

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/rlimit"
)

// Map says who owns which addresses. Its methods may be called from any
// goroutine.
type Map struct {
	hosts *ebpf.Map // hash: address → worker + 1
	nets  *ebpf.Map // LPM trie: prefix → worker + 1
}

// KeyLen is the room on a BPF program's stack that Find looks up: struct
// bpf_lpm_trie_key with an address of 16 bytes, IPv4 as IPv4-mapped IPv6
// (RFC 4291 §2.5.5.2). It is aligned to 4 bytes.
const KeyLen = 4 + 16

const (
	maxEntries = 1 << 20
	noPrealloc = 1 // BPF_F_NO_PREALLOC: memory for entries that there are
)

// prefixKey is struct bpf_lpm_trie_key.
type prefixKey struct {
	Bits uint32
	Addr [16]byte
}

// New makes an empty map.
func New() (m *Map, err error) {
	m = new(Map)
	defer func() {
		if err != nil {
			_ = m.Close()
			m, err = nil, fmt.Errorf("rings: BPF maps: %w", err)
		}
	}()
	// Kernels before 5.11 charge maps to RLIMIT_MEMLOCK.
	if err := rlimit.RemoveMemlock(); err != nil {
		return m, err
	}
	if m.hosts, err = ebpf.NewMap(&ebpf.MapSpec{
		Name: "xpptp_hosts", Type: ebpf.Hash, KeySize: 16, ValueSize: 4, MaxEntries: maxEntries, Flags: noPrealloc,
	}); err != nil {
		return m, err
	}
	m.nets, err = ebpf.NewMap(&ebpf.MapSpec{
		Name: "xpptp_nets", Type: ebpf.LPMTrie, KeySize: KeyLen, ValueSize: 4, MaxEntries: maxEntries, Flags: noPrealloc,
	})
	return m, err
}

// Set makes worker the owner of p, in place of another.
func (m *Map) Set(p netip.Prefix, worker int) error {
	to, key, err := m.entry(p)
	if err == nil {
		err = to.Put(key, uint32(worker+1))
	}
	if err != nil {
		return fmt.Errorf("rings: owner of %v: %w", p, err)
	}
	return nil
}

// Delete makes p nobody's; it is not an error if it is already.
func (m *Map) Delete(p netip.Prefix) error {
	to, key, err := m.entry(p)
	if err == nil {
		err = to.Delete(key)
	}
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("rings: owner of %v: %w", p, err)
	}
	return nil
}

// entry returns where p's entry is.
func (m *Map) entry(p netip.Prefix) (*ebpf.Map, any, error) {
	if !p.IsValid() {
		return nil, nil, errors.New("not a prefix")
	}
	a := p.Masked().Addr().As16()
	if p.IsSingleIP() {
		return m.hosts, a, nil
	}
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	return m.nets, prefixKey{uint32(bits), a}, nil
}

// Key returns the instructions that store everything but the address of a key
// at R10+at: for IPv4 also all of the address but its last 4 bytes. They
// change R5.
func Key(at int16, v4 bool) asm.Instructions {
	i := asm.Instructions{asm.StoreImm(asm.RFP, at, 128, asm.Word)}
	if v4 {
		i = append(i,
			asm.StoreImm(asm.RFP, at+4, 0, asm.Word), asm.StoreImm(asm.RFP, at+8, 0, asm.Word),
			asm.Mov.Imm(asm.R5, 0xffff), asm.HostTo(asm.BE, asm.R5, asm.Word), asm.StoreMem(asm.RFP, at+12, asm.R5, asm.Word))
	}
	return i
}

// Find returns the instructions that look the key at R10+at up and leave the
// address of its owner's number plus 1, a word, in R0; they jump to miss if it
// has none. They change R1 to R5.
func (m *Map) Find(at int16, miss string) asm.Instructions {
	found := fmt.Sprintf("found%d", at)
	return asm.Instructions{
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, int32(at)+4),
		asm.LoadMapPtr(asm.R1, m.hosts.FD()), asm.FnMapLookupElem.Call(),
		asm.JNE.Imm(asm.R0, 0, found),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, int32(at)),
		asm.LoadMapPtr(asm.R1, m.nets.FD()), asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, miss),
		asm.Mov.Reg(asm.R0, asm.R0).WithSymbol(found),
	}
}

// Close releases the maps. Programs that look into them keep them alive.
func (m *Map) Close() error {
	var errs []error
	for _, b := range []*ebpf.Map{m.hosts, m.nets} {
		if b != nil {
			errs = append(errs, b.Close())
		}
	}
	return errors.Join(errs...)
}
