package xsk

import (
	"encoding/binary"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"xpptp/rings"
	"xpptp/rings/owner"
)

// Inside is the program for an interface on the inside: packets that a router
// would pass on to an address that the owner map knows go to the owner's
// worker, with the ARP requests and Neighbor Solicitations that ask for it.
// Everything else is the kernel's: what it would not forward as it is (IPv4
// options, a hop limit that runs out, link-local addresses, frames to another
// station).
//
// This host, or another of its routes, may lie within a prefix of the map. So
// packets for a prefix, of IPv4, go to its owner only where the kernel would
// forward them to the calls' device; nobody is told that we have its addresses.
type Inside struct{ cfg InsideConfig }

// InsideConfig says what the program goes by.
type InsideConfig struct {
	Owners  *owner.Map
	Workers int
	Room    int // frames longer than this, in bytes, are the kernel's
	Device  int // index of the interface by which the kernel reaches the calls
}

// NewInside returns the program.
func NewInside(cfg InsideConfig) *Inside { return &Inside{cfg} }

func (i *Inside) workers() int { return i.cfg.Workers }

// Offsets in the headers: RFC 791 §3.1, RFC 8200 §3, RFC 826, RFC 4861 §4.3.
const (
	ipv4Len       = 20
	ipTTL         = 8
	ipv6Len       = 40
	ip6NextHeader = 6
	ip6HopLimit   = 7
	ip6Dst        = 24
	arpLen        = 28
	arpOperation  = 4 // with the lengths of the addresses before it
	arpTarget     = 24
	nsType        = ipv6Len
	nsTarget      = ipv6Len + 8
	nsLen         = nsTarget + 16

	neighborSolicitation = 135
)

// keyInside is the stack's room for the address looked up.
const keyInside = -owner.KeyLen

// load implements Program. R8 is 1 if the frame is to our own MAC address, and
// then the worker.
func (i *Inside) load(xsks *ebpf.Map, on *rings.Info) (*ebpf.Program, error) {
	var p code
	// word loads 32 bits from R7 on, in the packet's order.
	word := func(dst asm.Register, off int16) { p.do(asm.LoadMem(dst, asm.R7, off, asm.Word)) }
	// key makes the key of the address at R7+from.
	key := func(v4 bool, from int16) {
		p.do(owner.Key(keyInside, v4)...)
		words := int16(4)
		if v4 {
			words = 1
		}
		for n := range words {
			word(asm.R5, from+4*n)
			p.do(asm.StoreMem(asm.RFP, keyInside+owner.KeyAddr+4*n, asm.R5, asm.Word))
		}
	}

	p.begin()
	p.do(asm.Mov.Reg(asm.R4, asm.R3), asm.Sub.Reg(asm.R4, asm.R7), asm.JGT.Imm(asm.R4, int32(i.cfg.Room), "pass"),
		asm.Mov.Imm(asm.R8, 0))
	word(asm.R4, 0)
	p.do(asm.LoadImm(asm.R5, int64(binary.NativeEndian.Uint32(on.MAC[:])), asm.DWord), asm.JNE.Reg(asm.R4, asm.R5, "typed"),
		asm.LoadMem(asm.R4, asm.R7, 4, asm.Half),
		asm.JNE.Imm(asm.R4, int32(binary.NativeEndian.Uint16(on.MAC[4:])), "typed"),
		asm.Mov.Imm(asm.R8, 1))
	p.at("typed", p.untag)
	p.at("untagged", func() { p.do(asm.JEq.Imm(asm.R5, unix.ETH_P_ARP, "arp")) })
	p.do(asm.JEq.Imm(asm.R5, unix.ETH_P_IPV6, "ipv6"), asm.JNE.Imm(asm.R5, unix.ETH_P_IP, "pass"))

	// IPv4 without options.
	p.do(asm.JEq.Imm(asm.R8, 0, "pass"))
	p.within(ipv4Len)
	p.do(asm.LoadMem(asm.R5, asm.R7, ipVersion, asm.Byte), asm.JNE.Imm(asm.R5, 0x45, "pass"),
		asm.LoadMem(asm.R5, asm.R7, ipTTL, asm.Byte), asm.JLE.Imm(asm.R5, 1, "pass"))
	key(true, ipDestination)
	p.do(i.cfg.Owners.FindHost(keyInside, "net")...)
	p.do(asm.Ja.Label("found"))
	p.at("net", func() { p.do(i.cfg.Owners.FindNet(keyInside, "pass")...) })
	p.do(asm.LoadMem(asm.R8, asm.R0, 0, asm.Word))
	i.forwarded(&p)
	p.do(asm.Ja.Label("worker"))

	// A request for the Ethernet address of an IPv4 address.
	p.at("arp", func() { p.within(arpLen) })
	for _, w := range []struct {
		at   int16
		want int32
	}{{0, 1<<16 | unix.ETH_P_IP}, {arpOperation, 6<<24 | 4<<16 | 1}} {
		word(asm.R5, w.at)
		p.do(asm.HostTo(asm.BE, asm.R5, asm.Word), asm.JNE.Imm(asm.R5, w.want, "pass"))
	}
	key(true, arpTarget)
	p.do(asm.Ja.Label("find"))

	// IPv6, of global scope, to one host.
	p.at("ipv6", func() { p.within(ipv6Len) })
	p.half(asm.R5, ip6Dst)
	p.do(asm.Mov.Reg(asm.R4, asm.R5), asm.RSh.Imm(asm.R4, 8), asm.JEq.Imm(asm.R4, 0xff, "group"),
		asm.JEq.Imm(asm.R8, 0, "pass"),
		asm.And.Imm(asm.R5, 0xffc0), asm.JEq.Imm(asm.R5, 0xfe80, "pass"),
		asm.LoadMem(asm.R5, asm.R7, ip6HopLimit, asm.Byte), asm.JLE.Imm(asm.R5, 1, "pass"))
	key(false, ip6Dst)
	p.do(asm.Ja.Label("find"))

	// A Neighbor Solicitation, to the group of the address that it asks for.
	p.at("group", func() { p.within(nsLen) })
	for _, b := range []struct {
		at   int16
		want int32
	}{{ip6NextHeader, unix.IPPROTO_ICMPV6}, {ip6HopLimit, 255}, {nsType, neighborSolicitation}, {nsType + 1, 0}} {
		p.do(asm.LoadMem(asm.R5, asm.R7, b.at, asm.Byte), asm.JNE.Imm(asm.R5, b.want, "pass"))
	}
	p.half(asm.R5, nsTarget)
	p.do(asm.And.Imm(asm.R5, 0xffc0), asm.JEq.Imm(asm.R5, 0xfe80, "pass"))
	key(false, nsTarget)

	p.at("find", func() { p.do(i.cfg.Owners.FindHost(keyInside, "pass")...) })
	p.do(asm.LoadMem(asm.R8, asm.R0, 0, asm.Word).WithSymbol("found"),
		asm.Sub.Imm(asm.R8, 1).WithSymbol("worker"), asm.JGE.Imm(asm.R8, int32(i.cfg.Workers), "pass"))
	p.redirect(xsks, i.cfg.Workers)
	return p.end("xpptp_inside")
}

// Offsets in struct bpf_fib_lookup of linux/bpf.h, and results of the helper.
const (
	fibLen   = 64
	fibIndex = 8
	fibSrc   = 16
	fibDst   = 32

	fibSuccess     = 0
	fibNoNeighbour = 7 // the device has none

	keyFIB = keyInside - fibLen
)

// forwarded passes an IPv4 packet that the kernel would not forward to the
// calls' device. R8 is kept.
func (i *Inside) forwarded(p *code) {
	for at := int16(0); at < fibLen; at += 4 {
		p.do(asm.StoreImm(asm.RFP, keyFIB+at, 0, asm.Word))
	}
	p.do(asm.StoreImm(asm.RFP, keyFIB, unix.AF_INET, asm.Byte),
		asm.LoadMem(asm.R5, asm.R6, mdIngress, asm.Word), asm.StoreMem(asm.RFP, keyFIB+fibIndex, asm.R5, asm.Word),
		asm.LoadMem(asm.R5, asm.R7, ipSource, asm.Word), asm.StoreMem(asm.RFP, keyFIB+fibSrc, asm.R5, asm.Word),
		asm.LoadMem(asm.R5, asm.R7, ipDestination, asm.Word), asm.StoreMem(asm.RFP, keyFIB+fibDst, asm.R5, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, keyFIB),
		asm.Mov.Imm(asm.R3, fibLen), asm.Mov.Imm(asm.R4, 0), asm.FnFibLookup.Call(),
		asm.JEq.Imm(asm.R0, fibSuccess, "routed"), asm.JNE.Imm(asm.R0, fibNoNeighbour, "pass"),
		asm.LoadMem(asm.R5, asm.RFP, keyFIB+fibIndex, asm.Word).WithSymbol("routed"),
		asm.JNE.Imm(asm.R5, int32(i.cfg.Device), "pass"))
}
