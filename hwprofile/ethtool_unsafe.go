package hwprofile

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/bits"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ethtoolQuery asks a driver what the ethtool library does not: RSS key, table
// of any size, hashed fields and flow rules (include/uapi/linux/ethtool.h).
//
// It passes a buffer that starts with a command to the driver, which writes its
// answer there.
type ethtoolQuery func(buf []byte) error

func openEthtool(name string) (ask ethtoolQuery, shut func(), err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket for ethtool: %w", err)
	}
	return func(buf []byte) error { return ethtoolIoctl(fd, name, buf) }, func() { _ = unix.Close(fd) }, nil
}

// ifreq is struct ifreq with a pointer in its union.
type ifreq struct {
	name [unix.IFNAMSIZ]byte
	data unsafe.Pointer
	_    [16]byte
}

func ethtoolIoctl(fd int, name string, buf []byte) error {
	r := ifreq{data: unsafe.Pointer(unsafe.SliceData(buf))}
	copy(r.name[:unix.IFNAMSIZ-1], name)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&r))); e != 0 {
		return e
	}
	return nil
}

// u32 is the field of that offset, in the byte order of the machine.
func u32(buf []byte, offset int) uint32 { return binary.NativeEndian.Uint32(buf[offset:]) }

func put32(buf []byte, offset int, v uint32) { binary.NativeEndian.PutUint32(buf[offset:], v) }

// struct ethtool_rxfh: cmd, rss_context, indir_size, key_size, hfunc, 7 bytes,
// then the table and the key.
const (
	rxfhIndirSize = 8
	rxfhKeySize   = 12
	rxfhFunction  = 16
	rxfhConfig    = 24
)

// struct ethtool_rxnfc: cmd, flow_type, data (64 bits), the flow, rule_cnt.
const (
	rxnfcFlow  = 4
	rxnfcData  = 8
	rxnfcCount = 184
	rxnfcSize  = 192
)

// hashFunctions are the bits of ETH_RSS_HASH, from bit 0 on.
var hashFunctions = []string{"toeplitz", "xor", "crc32"}

// hashFields are the bits of RXH, from bit 0 on.
var hashFields = []string{"", "dst-mac", "vlan", "proto", "src-ip", "dst-ip", "src-port", "dst-port"}

// flowTypes are flow types of which the hashed fields are asked; enhanced GRE
// is "ipv4" to a device. The numbers are TCP_V4_FLOW and so on.
var flowTypes = []struct {
	name string
	id   uint32
}{{"tcp4", 0x01}, {"udp4", 0x02}, {"ipv4", 0x10}}

// rss returns nil if the driver tells nothing.
func (ask ethtoolQuery) rss() *RSS {
	head := make([]byte, rxfhConfig)
	put32(head, 0, unix.ETHTOOL_GRSSH)
	if ask(head) != nil {
		return nil
	}
	indir, key := int(u32(head, rxfhIndirSize)), int(u32(head, rxfhKeySize))
	if indir+key == 0 || indir > 1<<16 || key > 1<<10 {
		return nil
	}
	buf := make([]byte, rxfhConfig+4*indir+key)
	put32(buf, 0, unix.ETHTOOL_GRSSH)
	put32(buf, rxfhIndirSize, uint32(indir))
	put32(buf, rxfhKeySize, uint32(key))
	if ask(buf) != nil {
		return nil
	}
	r := &RSS{Fields: make(map[string][]string)}
	for i := range indir {
		r.Indirection = append(r.Indirection, int(u32(buf, rxfhConfig+4*i)))
	}
	r.Key = hex.EncodeToString(buf[rxfhConfig+4*indir:])
	if i := bits.TrailingZeros8(buf[rxfhFunction]); i < len(hashFunctions) {
		r.Function = hashFunctions[i]
	}
	for _, t := range flowTypes {
		buf := make([]byte, rxnfcSize)
		put32(buf, 0, unix.ETHTOOL_GRXFH)
		put32(buf, rxnfcFlow, t.id)
		if ask(buf) != nil {
			continue
		}
		data := binary.NativeEndian.Uint64(buf[rxnfcData:])
		for i, f := range hashFields {
			if f != "" && data&(1<<i) != 0 {
				r.Fields[t.name] = append(r.Fields[t.name], f)
			}
		}
	}
	return r
}

// rules returns how many flow rules there are and how many there may be.
func (ask ethtoolQuery) rules() (n, room int) {
	buf := make([]byte, rxnfcSize)
	put32(buf, 0, unix.ETHTOOL_GRXCLSRLCNT)
	if ask(buf) != nil {
		return 0, 0
	}
	const special = 0x80000000 // RX_CLS_LOC_SPECIAL: the driver chooses places
	return int(u32(buf, rxnfcCount)), int(u32(buf, rxnfcData) &^ uint32(special))
}

// String is the hash in words, for packets that are not TCP or UDP.
func (r *RSS) String() string {
	if r == nil {
		return "not told"
	}
	function := or(r.Function, "hash")
	if f := r.Fields["ipv4"]; len(f) > 0 {
		return function + " over " + strings.Join(f, ", ")
	}
	return function
}
