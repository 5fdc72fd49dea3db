package wire

import "xpptp/engine"

// ip4OptCopied is the bit of an option's type that says: in every fragment.
const ip4OptCopied = 0x80

// Fragmenter cuts an IPv4 packet into fragments (RFC 791 §3.2), one at a
// time, into buffers of the caller's:
//
//	var f wire.Fragmenter
//	if d := f.Init(p, mtu); d != engine.Pass { … }
//	for f.More() {
//		n := f.Next(buf) // buf holds at least mtu bytes
//	}
//
// It keeps a view of the packet until the last fragment is written.
type Fragmenter struct {
	p     IPv4
	mtu   int
	done  int // payload bytes already written
	opts  [40]byte
	nopts int // length of the options of every fragment but the first
}

// Init starts on packet p, which may be a fragment itself. It returns TooBig
// if p must not be fragmented or mtu has no room for eight bytes of payload,
// and InnerBad if p reaches beyond the largest datagram.
func (f *Fragmenter) Init(p IPv4, mtu int) engine.Drop {
	if len(p) > mtu && (p.DF() || mtu < p.HeaderLen()+8) {
		return engine.TooBig
	}
	if p.FragOffset()+len(p) > 0xffff {
		return engine.InnerBad
	}
	f.p, f.mtu, f.done = p, mtu, 0
	f.nopts = copiedOptions(f.opts[:], p.Options())
	return engine.Pass
}

// More reports whether there is a fragment to write: at least one, even for a
// packet that fits.
func (f *Fragmenter) More() bool { return f.p != nil }

// Next writes the next fragment to b, which must not overlap the packet, and
// returns its length, at most the MTU.
func (f *Fragmenter) Next(b []byte) int {
	opts := f.opts[:f.nopts]
	if f.done == 0 {
		opts = f.p.Options()
	}
	hl := IPv4Len + len(opts)
	rest := f.p.Payload()[f.done:]
	n, mf := len(rest), f.p.MF()
	if hl+n > f.mtu {
		n, mf = (f.mtu-hl)&^7, true
	}
	frag := be.Uint16(f.p[6:8])&^(ip4MF|ip4OffMask) | uint16((f.p.FragOffset()+f.done)/8)
	if mf {
		frag |= ip4MF
	}
	b = b[:hl+n]
	copy(b, f.p[:IPv4Len])
	b[0] = 0x40 | byte(hl/4)
	be.PutUint16(b[2:4], uint16(len(b)))
	be.PutUint16(b[6:8], frag)
	copy(b[IPv4Len:], opts)
	copy(b[hl:], rest[:n])
	IPv4(b).SetChecksum()

	f.done += n
	if n == len(rest) {
		f.p = nil
	}
	return len(b)
}

// copiedOptions writes to dst the options of o whose copied bit is set, padded
// to a multiple of four bytes, and returns their length. Malformed options end
// the walk.
func copiedOptions(dst, o []byte) int {
	n := 0
	for len(o) > 0 && o[0] != 0 {
		if o[0] == 1 { // no operation: one byte
			o = o[1:]
			continue
		}
		if len(o) < 2 || o[1] < 2 || int(o[1]) > len(o) {
			break
		}
		if o[0]&ip4OptCopied != 0 {
			n += copy(dst[n:], o[:o[1]])
		}
		o = o[o[1]:]
	}
	for n%4 != 0 {
		dst[n] = 0 // end of options
		n++
	}
	return n
}
