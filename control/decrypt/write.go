package decrypt

import (
	"bufio"
	"encoding/binary"
	"io"
)

// linkPPPWithDir is LINKTYPE_PPP_WITH_DIR: a direction octet, 0 received and 1
// sent, before each PPP frame.
const linkPPPWithDir = 204

// ngWriter writes a pcapng file, little endian, with times in nanoseconds.
// (gopacket's pcapgo has no comments and no directions for packets.)
type ngWriter struct {
	w      *bufio.Writer
	err    error // the first one
	ifaces int
	block  []byte
}

func newNGWriter(w io.Writer, application string) *ngWriter {
	ng := &ngWriter{w: bufio.NewWriter(w)}
	b := ng.begin(ngSection)
	b = le.AppendUint32(b, ngOrder)
	b = le.AppendUint32(b, 1)          // version 1.0
	b = le.AppendUint64(b, ^uint64(0)) // section length unknown
	b = appendNGOption(b, 4, application)
	ng.end(appendNGOption(b, ngOptEnd, ""))
	return ng
}

var le = binary.LittleEndian

func (ng *ngWriter) begin(typ uint32) []byte {
	return le.AppendUint32(le.AppendUint32(ng.block[:0], typ), 0)
}

func (ng *ngWriter) end(b []byte) {
	n := uint32(len(b) + 4)
	le.PutUint32(b[4:], n)
	ng.block = le.AppendUint32(b, n)
	if ng.err == nil {
		_, ng.err = ng.w.Write(ng.block)
	}
}

func appendNGOption(b []byte, code uint16, v string) []byte {
	v = v[:min(len(v), 4096)]
	b = le.AppendUint16(le.AppendUint16(b, code), uint16(len(v)))
	return pad4(append(b, v...))
}

func pad4(b []byte) []byte {
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// addInterface adds an interface and returns its number.
func (ng *ngWriter) addInterface(link uint32, name, about string) int {
	b := ng.begin(ngInterface)
	b = le.AppendUint32(b, link) // 16 bits, and 16 reserved
	b = le.AppendUint32(b, 0)    // no snapshot length
	b = appendNGOption(b, ngOptName, name)
	if about != "" {
		b = appendNGOption(b, ngOptAbout, about)
	}
	b = appendNGOption(b, ngOptTSResol, "\x09")
	ng.end(appendNGOption(b, ngOptEnd, ""))
	ng.ifaces++
	return ng.ifaces - 1
}

// packet is one packet of the output.
type packet struct {
	at      int64
	iface   int
	flags   uint32 // 1 inbound, 2 outbound, 0 unknown
	data    []byte
	orig    int // length before the capture cut it
	comment string
}

func (ng *ngWriter) write(p *packet) {
	b := ng.begin(ngEnhanced)
	b = le.AppendUint32(b, uint32(p.iface))
	b = le.AppendUint32(b, uint32(uint64(p.at)>>32))
	b = le.AppendUint32(b, uint32(p.at))
	b = le.AppendUint32(b, uint32(len(p.data)))
	b = le.AppendUint32(b, uint32(max(p.orig, len(p.data))))
	b = pad4(append(b, p.data...))
	if p.flags != 0 || p.comment != "" {
		if p.comment != "" {
			b = appendNGOption(b, ngOptComment, p.comment)
		}
		if p.flags != 0 {
			b = le.AppendUint32(append(b, ngOptFlags, 0, 4, 0), p.flags)
		}
		b = appendNGOption(b, ngOptEnd, "")
	}
	ng.end(b)
}

// flush writes what is buffered and returns the first error of all.
func (ng *ngWriter) flush() error {
	if ng.err == nil {
		ng.err = ng.w.Flush()
	}
	return ng.err
}
