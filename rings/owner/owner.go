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

// A key on the stack of a BPF program is a struct bpf_lpm_trie_key, aligned to
// 4 bytes: the number of bits, then the IP version, a word too, and the
// address, IPv4 in the first 4 of 16 bytes.
const (
	KeyLen    = KeyAddr + 16
	KeyAddr   = 8 // where the address is
	hostBits  = 8 * (KeyLen - 4)
	version   = 32 // bits
	addrWords = 4
)

const (
	maxEntries = 1 << 20
	noPrealloc = 1 // BPF_F_NO_PREALLOC: memory for entries that there are
)

// prefixKey is struct bpf_lpm_trie_key.
type prefixKey struct {
	Bits uint32
	Host hostKey
}

type hostKey struct {
	Version uint32
	Addr    [16]byte
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
		Name: "xpptp_hosts", Type: ebpf.Hash, KeySize: KeyLen - 4, ValueSize: 4, MaxEntries: maxEntries, Flags: noPrealloc,
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
	k := hostKey{Version: 6}
	if p.Addr().Is4() {
		k.Version = 4
	}
	copy(k.Addr[:], p.Masked().Addr().AsSlice())
	if p.IsSingleIP() {
		return m.hosts, k, nil
	}
	return m.nets, prefixKey{uint32(version + p.Bits()), k}, nil
}

// Key returns the instructions that store a key at R10+at but for its address:
// all of that of IPv6, the first 4 bytes of that of IPv4.
func Key(at int16, v4 bool) asm.Instructions {
	v := int64(6)
	if v4 {
		v = 4
	}
	i := asm.Instructions{asm.StoreImm(asm.RFP, at, hostBits, asm.Word), asm.StoreImm(asm.RFP, at+4, v, asm.Word)}
	for n := int16(1); v4 && n < addrWords; n++ {
		i = append(i, asm.StoreImm(asm.RFP, at+KeyAddr+4*n, 0, asm.Word))
	}
	return i
}

// Find returns the instructions that look the key at R10+at up and leave the
// address of its owner's number plus 1, a word, in R0; they jump to miss if it
// has none. They change R1 to R5.
func (m *Map) Find(at int16, miss string) asm.Instructions {
	found := fmt.Sprintf("found%d", at)
	i := append(m.host(at), asm.JNE.Imm(asm.R0, 0, found))
	i = append(i, m.FindNet(at, miss)...)
	return append(i, asm.Mov.Reg(asm.R0, asm.R0).WithSymbol(found))
}

// FindNet is Find for prefixes alone.
func (m *Map) FindNet(at int16, miss string) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, int32(at)),
		asm.LoadMapPtr(asm.R1, m.nets.FD()), asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, miss),
	}
}

// FindHost is Find for single addresses alone, not for those in a prefix.
func (m *Map) FindHost(at int16, miss string) asm.Instructions {
	return append(m.host(at), asm.JEq.Imm(asm.R0, 0, miss))
}

func (m *Map) host(at int16) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, int32(at)+4),
		asm.LoadMapPtr(asm.R1, m.hosts.FD()), asm.FnMapLookupElem.Call(),
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
