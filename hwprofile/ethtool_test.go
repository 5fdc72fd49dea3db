package hwprofile

import (
	"encoding/binary"
	"reflect"
	"testing"

	"golang.org/x/sys/unix"
)

// driver answers as a driver does, by the layouts of linux/ethtool.h: struct
// ethtool_rxfh (24 bytes, table, key) and struct ethtool_rxnfc (192 bytes).
type driver struct {
	t      *testing.T
	table  []uint32
	key    []byte
	fields map[uint32]uint64
}

func (d *driver) answer(b []byte) error {
	ne := binary.NativeEndian
	switch ne.Uint32(b) {
	case unix.ETHTOOL_GRSSH:
		indir, key := ne.Uint32(b[8:]), ne.Uint32(b[12:])
		ne.PutUint32(b[8:], uint32(len(d.table)))
		ne.PutUint32(b[12:], uint32(len(d.key)))
		b[16] = 1 << 0 // Toeplitz
		if indir == 0 && key == 0 {
			return nil
		}
		if int(indir) != len(d.table) || int(key) != len(d.key) || len(b) != 24+4*len(d.table)+len(d.key) {
			d.t.Errorf("asked for %d and %d in %d bytes", indir, key, len(b))
			return unix.EINVAL
		}
		for i, q := range d.table {
			ne.PutUint32(b[24+4*i:], q)
		}
		copy(b[24+4*len(d.table):], d.key)
	case unix.ETHTOOL_GRXFH:
		bits, ok := d.fields[ne.Uint32(b[4:])]
		if !ok {
			return unix.EOPNOTSUPP
		}
		ne.PutUint64(b[8:], bits)
	case unix.ETHTOOL_GRXCLSRLCNT:
		if len(b) != 192 {
			d.t.Errorf("%d bytes", len(b))
		}
		ne.PutUint64(b[8:], 0x80000000|1024)
		ne.PutUint32(b[184:], 3)
	default:
		return unix.EOPNOTSUPP
	}
	return nil
}

func TestRSS(t *testing.T) {
	d := &driver{
		t: t, table: []uint32{0, 1, 2, 0}, key: []byte{0xab, 0x01},
		fields: map[uint32]uint64{0x10: 1<<4 | 1<<5, 0x01: 1<<4 | 1<<5 | 1<<6 | 1<<7},
	}
	ask := ethtoolQuery(d.answer)
	want := &RSS{Indirection: []int{0, 1, 2, 0}, Key: "ab01", Function: "toeplitz", Fields: map[string][]string{
		"ipv4": {"src-ip", "dst-ip"}, "tcp4": {"src-ip", "dst-ip", "src-port", "dst-port"},
	}}
	if got := ask.rss(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := want.String(); got != "toeplitz over src-ip, dst-ip" {
		t.Errorf("%q", got)
	}
	if n, room := ask.rules(); n != 3 || room != 1024 {
		t.Errorf("%d rules of %d", n, room)
	}
	// A driver without any of it.
	ask = func([]byte) error { return unix.EOPNOTSUPP }
	if got := ask.rss(); got != nil {
		t.Errorf("%+v", got)
	}
	if n, room := ask.rules(); n != 0 || room != 0 {
		t.Errorf("%d rules of %d", n, room)
	}
	// And one that tells nonsense.
	ask = func(b []byte) error { binary.NativeEndian.PutUint32(b[8:], 1<<31); return nil }
	if got := ask.rss(); got != nil {
		t.Errorf("%+v", got)
	}
}
