package decrypt

import (
	"encoding/binary"

	"xpptp/engine"
	"xpptp/engine/wire"
)

var be = binary.BigEndian

// Link types (the registry of draft-ietf-opsawg-pcaplinktype).
const (
	linkNull     = 0
	linkEthernet = 1
	linkRaw12    = 12 // raw IP on most systems
	linkRaw14    = 14 // raw IP on OpenBSD
	linkRaw      = 101
	linkLoop     = 108
	linkSLL      = 113 // Linux cooked
	linkIPv4     = 228
	linkSLL2     = 276 // Linux cooked, version 2
)

const etherTypePPPoE = 0x8864

// network finds the IPv4 packet in a captured frame. known is false if the
// link type is none of those above; ip is nil if the frame holds something else.
func network(link uint32, b []byte) (ip []byte, known bool) {
	switch link {
	case linkEthernet:
		if len(b) < wire.EthernetLen {
			return nil, true
		}
		return tagged(be.Uint16(b[12:]), b[14:]), true
	case linkRaw, linkRaw12, linkRaw14, linkIPv4:
		return b, true
	case linkNull, linkLoop:
		// The address family in the byte order of the host that captured.
		if len(b) < 4 || be.Uint32(b) != 2 && le.Uint32(b) != 2 {
			return nil, true
		}
		return b[4:], true
	case linkSLL:
		if len(b) < 16 {
			return nil, true
		}
		return tagged(be.Uint16(b[14:]), b[16:]), true
	case linkSLL2:
		if len(b) < 20 {
			return nil, true
		}
		return tagged(be.Uint16(b), b[20:]), true
	}
	return nil, false
}

// tagged steps over VLAN tags and a PPPoE header.
func tagged(typ uint16, b []byte) []byte {
	for len(b) >= wire.VLANLen && (typ == wire.EtherTypeVLAN || typ == wire.EtherTypeQinQ) {
		typ, b = be.Uint16(b[2:]), b[wire.VLANLen:]
	}
	if typ == etherTypePPPoE && len(b) >= 8 && be.Uint16(b[6:]) == wire.PPPIPv4 {
		return b[8:]
	}
	if typ != wire.EtherTypeIPv4 {
		return nil
	}
	return b
}

// datagram is an IPv4 packet of interest.
type datagram struct {
	rec      record
	src, dst [4]byte
	proto    uint8
	payload  []byte // in full length: what the capture cut off reads as zeros
	captured int    // bytes of payload that were captured
}

// source delivers the IPv4 packets of a capture.
type source struct {
	*reader
	wide    [maxPacket]byte
	defrag  defrag
	other   map[uint32]int // packets by link type that is not known
	damaged int            // IPv4 packets with wrong lengths
	cut     int            // packets that the capture cut
}

func newSource(r *reader) *source { return &source{reader: r, other: map[uint32]int{}} }

// nextDatagram returns the next TCP or GRE packet, see reader.next for errors. It is
// valid until the next call.
func (s *source) nextDatagram() (d datagram, err error) {
	for {
		if d.rec, err = s.next(); err != nil {
			return d, err
		}
		frame := d.rec.data
		captured := len(frame)
		if d.rec.orig > captured {
			n := copy(s.wide[:], frame)
			clear(s.wide[n:d.rec.orig])
			frame = s.wide[:d.rec.orig]
		}
		b, known := network(d.rec.link, frame)
		if !known {
			if len(s.other) < 64 {
				s.other[d.rec.link]++
			}
			continue
		}
		if len(b) == 0 || b[0]>>4 != 4 {
			continue
		}
		offset := len(frame) - len(b)
		ip, drop := wire.ParseIPv4(b)
		if drop != engine.Pass || captured < offset+wire.IPv4Len {
			s.damaged++
			continue
		}
		d.src, d.dst, d.proto = ip.Src(), ip.Dst(), ip.Protocol()
		if d.proto != wire.ProtoTCP && d.proto != wire.ProtoGRE {
			continue
		}
		d.payload = ip.Payload()
		d.captured = max(0, min(captured-offset-ip.HeaderLen(), len(d.payload)))
		if d.captured < len(d.payload) {
			s.cut++
		}
		if ip.IsFragment() {
			if d.payload, d.captured = s.defrag.add(ip, d.captured); d.payload == nil {
				continue
			}
		}
		return d, nil
	}
}

// defrag puts IPv4 datagrams together again. It keeps the last few that are
// incomplete.
type defrag struct {
	parts [32]partial
	turn  int
}

type fragmentID struct {
	src, dst [4]byte
	proto    uint8
	id       uint16
}

type partial struct {
	id       fragmentID
	data     []byte
	have     []bool // by units of 8 bytes
	got      int    // units
	total    int    // bytes, 0 while not known
	captured int
}

// add takes a fragment and returns the payload of the datagram that it
// completes, else nil.
func (f *defrag) add(ip wire.IPv4, captured int) ([]byte, int) {
	id := fragmentID{ip.Src(), ip.Dst(), ip.Protocol(), ip.ID()}
	var p *partial
	for i := range f.parts {
		if f.parts[i].data != nil && f.parts[i].id == id {
			p = &f.parts[i]
		}
	}
	if p == nil {
		p = &f.parts[f.turn]
		f.turn = (f.turn + 1) % len(f.parts)
		*p = partial{id: id, data: make([]byte, 0, 4096), captured: 1 << 16}
	}
	b, off := ip.Payload(), ip.FragOffset()
	end := off + len(b)
	if end > 1<<16 || ip.MF() && len(b)%8 != 0 {
		return nil, 0
	}
	if len(p.data) < end {
		p.data = append(p.data, make([]byte, end-len(p.data))...)
		p.have = append(p.have, make([]bool, (end+7)/8-len(p.have))...)
	}
	copy(p.data[off:], b)
	for u := off / 8; u < (end+7)/8; u++ {
		if !p.have[u] {
			p.have[u] = true
			p.got++
		}
	}
	if captured < len(b) {
		p.captured = min(p.captured, off+captured)
	}
	if !ip.MF() {
		p.total = end
	}
	if p.total == 0 || p.got < (p.total+7)/8 || len(p.data) < p.total {
		return nil, 0
	}
	data := p.data[:p.total]
	captured = min(p.captured, p.total)
	*p = partial{}
	return data, captured
}
