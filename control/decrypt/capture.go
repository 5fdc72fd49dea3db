package decrypt

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
)

// Limits on what a capture file may ask for, so that a hostile one cannot make
// us allocate. (gopacket's pcapgo would read too, but it believes every length,
// divides by a time resolution of zero and takes a file cut off for its end.)
const (
	maxPacket     = 262144 // tcpdump's largest snapshot length
	maxInterfaces = 4096   // of a pcapng section
)

// File formats (draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng).
const (
	pcapMicro = 0xa1b2c3d4
	pcapNano  = 0xa1b23c4d

	ngSection   = 0x0a0d0d0a
	ngOrder     = 0x1a2b3c4d
	ngInterface = 1
	ngPacket    = 2 // obsolete
	ngSimple    = 3
	ngEnhanced  = 6

	ngOptEnd      = 0
	ngOptComment  = 1
	ngOptFlags    = 2  // of a packet
	ngOptName     = 2  // of an interface
	ngOptAbout    = 3  // of an interface
	ngOptTSResol  = 9  // of an interface
	ngOptTSOffset = 14 // of an interface
)

// FormatError is a capture file that cannot be read any further. What came
// before Offset is good.
type FormatError struct {
	Offset int64 // of the record or block, in bytes from the start of the file
	Reason string
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("capture file: at byte %d: %s", e.Offset, e.Reason)
}

// record is one captured packet.
type record struct {
	number int    // in the file, from 1
	at     int64  // nanoseconds since 1970
	link   uint32 // link type
	data   []byte // as captured; valid until the next call
	orig   int    // length on the wire, at least len(data)
}

// reader reads pcap and pcapng files of either byte order.
type reader struct {
	br     *bufio.Reader
	offset int64 // of what br delivers next
	start  int64 // of the current record or block
	order  binary.ByteOrder
	ng     bool
	nano   bool
	link   uint32 // pcap
	ifaces []iface
	number int
	buf    []byte
}

// iface is an interface of a pcapng section.
type iface struct {
	link   uint32
	snap   uint32
	unit   uint64 // of time, parts of a second
	offset int64  // seconds
}

// newReader reads the file's header.
func newReader(r io.Reader) (*reader, error) {
	rd := &reader{br: bufio.NewReaderSize(r, 1<<16), order: binary.LittleEndian}
	magic, err := rd.br.Peek(4)
	if err != nil {
		if errors.Is(err, io.EOF) {
			return nil, rd.fail("%d bytes long: this is no capture file", len(magic))
		}
		return nil, err
	}
	if rd.order.Uint32(magic) == ngSection {
		rd.ng = true
		return rd, nil
	}
	for _, rd.order = range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		switch rd.order.Uint32(magic) {
		case pcapMicro:
			return rd, rd.pcapHeader()
		case pcapNano:
			rd.nano = true
			return rd, rd.pcapHeader()
		}
	}
	if magic[0] == 0x1f && magic[1] == 0x8b {
		return nil, rd.fail("the file is compressed: gunzip it first")
	}
	return nil, rd.fail("magic number %#08x is neither that of pcap nor that of pcapng", binary.BigEndian.Uint32(magic))
}

func (r *reader) fail(format string, args ...any) error {
	return &FormatError{Offset: r.start, Reason: fmt.Sprintf(format, args...)}
}

// take reads n bytes, valid until the next call. Only at a boundary, where
// nothing is owed, may the file end.
func (r *reader) take(n int, boundary bool) ([]byte, error) {
	if cap(r.buf) < n {
		r.buf = make([]byte, n, max(n, 4096))
	}
	got, err := io.ReadFull(r.br, r.buf[:n])
	r.offset += int64(got)
	switch {
	case err == nil:
		return r.buf[:n], nil
	case errors.Is(err, io.EOF) && boundary:
		return nil, io.EOF
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, r.fail("the file ends within a record, %d bytes short", n-got)
	}
	return nil, err
}

func (r *reader) skip(n int) error {
	got, err := r.br.Discard(n)
	r.offset += int64(got)
	if errors.Is(err, io.EOF) {
		return r.fail("the file ends within a record, %d bytes short", n-got)
	}
	return err
}

func (r *reader) pcapHeader() error {
	b, err := r.take(24, false)
	if err != nil {
		return err
	}
	if v := r.order.Uint16(b[4:]); v != 2 {
		return r.fail("pcap version %d, want 2", v)
	}
	r.link = r.order.Uint32(b[20:]) & 0x0fffffff // the top bits tell of an FCS
	return nil
}

// next returns the next packet, io.EOF at the end of a whole file, and a
// *FormatError where the file is damaged.
func (r *reader) next() (rec record, err error) {
	if r.ng {
		rec, err = r.nextNG()
	} else {
		rec, err = r.nextPcap()
	}
	if err == nil {
		r.number++
		rec.number = r.number
	}
	return rec, err
}

func (r *reader) nextPcap() (rec record, err error) {
	r.start = r.offset
	b, err := r.take(16, true)
	if err != nil {
		return rec, err
	}
	rec.link = r.link
	frac := int64(r.order.Uint32(b[4:]))
	if !r.nano {
		frac *= 1000
	}
	rec.at = int64(r.order.Uint32(b))*1e9 + frac
	return rec, r.packet(&rec, r.order.Uint32(b[8:]), r.order.Uint32(b[12:]))
}

// packet reads the bytes of a packet.
func (r *reader) packet(rec *record, captured, orig uint32) (err error) {
	if captured > maxPacket {
		return r.fail("packet of %d bytes, more than %d: the file is damaged", captured, maxPacket)
	}
	rec.orig = int(max(captured, min(orig, maxPacket)))
	rec.data, err = r.take(int(captured), false)
	return err
}

func (r *reader) nextNG() (rec record, err error) {
	for {
		r.start = r.offset
		b, err := r.take(8, true)
		if err != nil {
			return rec, err
		}
		if binary.LittleEndian.Uint32(b) == ngSection { // reads the same in both orders
			if err := r.section(); err != nil {
				return rec, err
			}
			continue
		}
		typ, n := r.order.Uint32(b), r.order.Uint32(b[4:])
		if n < 12 || n%4 != 0 || n > 1<<30 {
			return rec, r.fail("block length %d: want a multiple of 4 from 12 on", n)
		}
		found, err := r.block(typ, int(n)-12, &rec)
		if err != nil {
			return rec, err
		}
		// What the block still holds, and the second copy of its length.
		if err := r.skip(int(r.start + int64(n) - r.offset)); err != nil {
			return rec, err
		}
		if found {
			return rec, nil
		}
	}
}

// section reads a section header block behind its type and length.
func (r *reader) section() error {
	length := append([]byte(nil), r.buf[4:8]...)
	b, err := r.take(8, false)
	if err != nil {
		return err
	}
	switch uint32(ngOrder) {
	case binary.LittleEndian.Uint32(b):
		r.order = binary.LittleEndian
	case binary.BigEndian.Uint32(b):
		r.order = binary.BigEndian
	default:
		return r.fail("byte-order magic %#08x of a pcapng section", binary.BigEndian.Uint32(b))
	}
	if v := r.order.Uint16(b[4:]); v != 1 {
		return r.fail("pcapng version %d, want 1", v)
	}
	n := r.order.Uint32(length)
	if n < 28 || n%4 != 0 || n > 1<<30 {
		return r.fail("section header length %d", n)
	}
	r.ifaces = r.ifaces[:0]
	return r.skip(int(n) - 16)
}

// block reads the part of a block that is of use, n bytes at most, and reports
// whether it was a packet.
func (r *reader) block(typ uint32, n int, rec *record) (bool, error) {
	switch typ {
	case ngInterface:
		return false, r.interfaceBlock(n)
	case ngEnhanced, ngPacket:
		if n < 20 {
			return false, r.fail("packet block of %d bytes", n)
		}
		b, err := r.take(20, false)
		if err != nil {
			return false, err
		}
		id := r.order.Uint32(b)
		if typ == ngPacket {
			id = uint32(r.order.Uint16(b))
		}
		if int64(id) >= int64(len(r.ifaces)) {
			return false, r.fail("packet of interface %d, the section has %d", id, len(r.ifaces))
		}
		i := &r.ifaces[id]
		rec.link = i.link
		rec.at = i.time(uint64(r.order.Uint32(b[4:]))<<32 | uint64(r.order.Uint32(b[8:])))
		return true, r.packetIn(rec, n-20, r.order.Uint32(b[12:]), r.order.Uint32(b[16:]))
	case ngSimple:
		if n < 4 || len(r.ifaces) == 0 {
			return false, r.fail("simple packet block of %d bytes, %d interfaces", n, len(r.ifaces))
		}
		b, err := r.take(4, false)
		if err != nil {
			return false, err
		}
		orig := r.order.Uint32(b)
		captured := min(orig, uint32(n-4))
		if s := r.ifaces[0].snap; s != 0 {
			captured = min(captured, s)
		}
		rec.link, rec.at = r.ifaces[0].link, 0
		return true, r.packetIn(rec, n-4, captured, orig)
	}
	return false, nil
}

// packetIn reads the bytes of a packet from a block that has n left.
func (r *reader) packetIn(rec *record, n int, captured, orig uint32) error {
	if int64(captured) > int64(n) {
		return r.fail("packet of %d bytes in a block that has %d left", captured, n)
	}
	return r.packet(rec, captured, orig)
}

func (r *reader) interfaceBlock(n int) error {
	if n < 8 || n > maxPacket {
		return r.fail("interface description block of %d bytes", n)
	}
	if len(r.ifaces) == maxInterfaces {
		return r.fail("more than %d interfaces", maxInterfaces)
	}
	b, err := r.take(n, false)
	if err != nil {
		return err
	}
	i := iface{link: uint32(r.order.Uint16(b)), snap: r.order.Uint32(b[4:]), unit: 1e6}
	for b = b[8:]; len(b) >= 4; {
		code, l := r.order.Uint16(b), int(r.order.Uint16(b[2:]))
		if code == ngOptEnd || 4+l > len(b) {
			break
		}
		v := b[4 : 4+l]
		switch {
		case code == ngOptTSResol && l == 1:
			if i.unit = resolution(v[0]); i.unit == 0 {
				return r.fail("time resolution %#02x of interface %d", v[0], len(r.ifaces))
			}
		case code == ngOptTSOffset && l == 8:
			i.offset = int64(r.order.Uint64(v))
		}
		b = b[min(4+(l+3)&^3, len(b)):]
	}
	r.ifaces = append(r.ifaces, i)
	return nil
}

// resolution returns the parts of a second that if_tsresol stands for, 0 if
// they are too many.
func resolution(v uint8) uint64 {
	if v&0x80 != 0 {
		if v &= 0x7f; v < 63 {
			return 1 << v
		}
		return 0
	}
	if v > 18 {
		return 0
	}
	unit := uint64(1)
	for range v {
		unit *= 10
	}
	return unit
}

// time converts a time stamp; one outside the years that int64 nanoseconds
// have room for becomes another one.
func (i *iface) time(t uint64) int64 {
	hi, lo := bits.Mul64(t%i.unit, 1e9)
	frac, _ := bits.Div64(hi, lo, i.unit) // the remainder is below the unit, so is hi
	return (int64(t/i.unit)+i.offset)*1e9 + int64(frac)
}
