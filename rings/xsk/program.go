package xsk

import (
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"xpptp/rings"
)

// Keys of the drop counters.
const (
	dropUnknownCall = iota
	dropSource
	dropReasons
)

// Verdicts, enum xdp_action of linux/bpf.h.
const (
	xdpDrop     = 1
	xdpPass     = 2
	xdpRedirect = 4
)

// Offsets in struct xdp_md.
const (
	mdData    = 0
	mdDataEnd = 4
	mdIngress = 12
	mdQueue   = 16
)

// Offsets in the headers: IEEE 802.3, RFC 791 §3.1, RFC 2637 §4.1, the latter
// behind an IPv4 header without options.
const (
	ethernetLen = 14
	tagLen      = 4
	etherType   = 12

	ipVersion     = 0
	ipFragment    = 6
	ipProtocol    = 9
	ipSource      = 12
	ipDestination = 16

	greVersion = 20 + 1
	greType    = 20 + 2
	greCallID  = 20 + 6
	greLen     = 20 + 8 // up to the call ID

	fragmentBits  = 0x3fff // more fragments, and the offset
	greProtocol   = 0x880b
	greVersionNow = 1
)

// The stack: keys of map lookups.
const (
	keyAddr   = -4
	keySource = -16 // struct bpf_lpm_trie_key
	keyCall   = -20
	keyDrop   = -24
)

// Program decides what becomes of the packets of an interface: a *Steering
// outside, an *Inside inside.
type Program interface {
	workers() int
	// load compiles the program for one interface, and loads it.
	load(xsks *ebpf.Map, on *rings.Info) (*ebpf.Program, error)
}

// code is a program in the making. Registers: R6 the context, R7 where the
// packet has been read up to (packet pointers survive the helpers that only
// look maps up), R3 the packet's end until the first helper is called.
type code struct{ asm.Instructions }

func (c *code) do(i ...asm.Instruction) { c.Instructions = append(c.Instructions, i...) }

// at makes label the address of the next instructions.
func (c *code) at(label string, more func()) {
	start := len(c.Instructions)
	more()
	c.Instructions[start] = c.Instructions[start].WithSymbol(label)
}

// half loads 16 bits in network order from R7 on, as a number.
func (c *code) half(dst asm.Register, off int16) {
	c.do(asm.LoadMem(dst, asm.R7, off, asm.Half), asm.HostTo(asm.BE, dst, asm.Half))
}

// within passes packets that do not have n bytes from R7 on.
func (c *code) within(n int32) {
	c.do(asm.Mov.Reg(asm.R4, asm.R7), asm.Add.Imm(asm.R4, n), asm.JGT.Reg(asm.R4, asm.R3, "pass"))
}

// begin loads the registers.
func (c *code) begin() {
	c.do(asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R7, asm.R6, mdData, asm.Word),
		asm.LoadMem(asm.R3, asm.R6, mdDataEnd, asm.Word))
	c.within(ethernetLen)
}

// untag steps over the Ethernet header, with up to two tags, and leaves the
// type of what follows in R5.
func (c *code) untag() {
	c.half(asm.R5, etherType)
	c.do(asm.Add.Imm(asm.R7, ethernetLen))
	for _, label := range []string{"tag1", "tag2"} {
		c.do(asm.JEq.Imm(asm.R5, unix.ETH_P_8021Q, label), asm.JNE.Imm(asm.R5, unix.ETH_P_8021AD, "untagged"))
		c.at(label, func() { c.within(tagLen) })
		c.half(asm.R5, tagLen-2)
		c.do(asm.Add.Imm(asm.R7, tagLen))
	}
}

// redirect sends the packet to the socket of the worker in R8 on this queue;
// where there is none the kernel takes it.
func (c *code) redirect(xsks *ebpf.Map, workers int) {
	c.do(asm.LoadMem(asm.R2, asm.R6, mdQueue, asm.Word),
		asm.Mul.Imm(asm.R2, int32(workers)), asm.Add.Reg(asm.R2, asm.R8),
		asm.LoadMapPtr(asm.R1, xsks.FD()), asm.Mov.Imm(asm.R3, xdpPass),
		asm.FnRedirectMap.Call(), asm.Return())
}

// end is where all else goes to the kernel. It loads the program.
func (c *code) end(name string) (*ebpf.Program, error) {
	c.do(asm.Mov.Imm(asm.R0, xdpPass).WithSymbol("pass"), asm.Return())
	return ebpf.NewProgram(&ebpf.ProgramSpec{Name: name, Type: ebpf.XDP, License: "GPL", Instructions: c.Instructions})
}

func (s *Steering) workers() int { return s.cfg.Workers }

// load implements Program. R8 is the call ID and then the worker.
func (s *Steering) load(xsks *ebpf.Map, _ *rings.Info) (*ebpf.Program, error) {
	var p code
	do, half := p.do, p.half
	// lookup leaves the value's address in R0, or 0.
	lookup := func(m *ebpf.Map, key int32) {
		do(asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, key),
			asm.LoadMapPtr(asm.R1, m.FD()), asm.FnMapLookupElem.Call())
	}

	p.begin()
	p.untag()
	p.at("untagged", func() { do(asm.JNE.Imm(asm.R5, unix.ETH_P_IP, "pass")) })

	// IPv4 without options, not a fragment, with enhanced GRE.
	p.within(greLen)
	do(asm.LoadMem(asm.R5, asm.R7, ipVersion, asm.Byte), asm.JNE.Imm(asm.R5, 0x45, "pass"),
		asm.LoadMem(asm.R5, asm.R7, ipProtocol, asm.Byte), asm.JNE.Imm(asm.R5, unix.IPPROTO_GRE, "pass"))
	half(asm.R5, ipFragment)
	do(asm.And.Imm(asm.R5, fragmentBits), asm.JNE.Imm(asm.R5, 0, "pass"))
	half(asm.R5, greType)
	do(asm.JNE.Imm(asm.R5, greProtocol, "pass"),
		asm.LoadMem(asm.R5, asm.R7, greVersion, asm.Byte), asm.And.Imm(asm.R5, 7), asm.JNE.Imm(asm.R5, greVersionNow, "pass"))
	half(asm.R8, greCallID)

	// To one of our addresses.
	do(asm.LoadMem(asm.R5, asm.R7, ipDestination, asm.Word), asm.StoreMem(asm.RFP, keyAddr, asm.R5, asm.Word))
	lookup(s.maps.addrs, keyAddr)
	do(asm.JEq.Imm(asm.R0, 0, "pass"))

	// From where a peer may be.
	if s.maps.sources != nil {
		do(asm.StoreImm(asm.RFP, keySource, 32, asm.Word),
			asm.LoadMem(asm.R5, asm.R7, ipSource, asm.Word), asm.StoreMem(asm.RFP, keySource+4, asm.R5, asm.Word))
		lookup(s.maps.sources, keySource)
		do(asm.StoreImm(asm.RFP, keyDrop, dropSource, asm.Word), asm.JEq.Imm(asm.R0, 0, "drop"))
	}

	// The call's worker.
	if s.cfg.AnyCall {
		do(asm.Mod.Imm(asm.R8, int32(s.cfg.Workers)))
	} else {
		do(asm.StoreMem(asm.RFP, keyCall, asm.R8, asm.Word))
		lookup(s.maps.calls, keyCall)
		do(asm.StoreImm(asm.RFP, keyDrop, dropUnknownCall, asm.Word),
			asm.JEq.Imm(asm.R0, 0, "drop"),
			asm.LoadMem(asm.R8, asm.R0, 0, asm.Word),
			asm.JEq.Imm(asm.R8, 0, "drop"),
			asm.Sub.Imm(asm.R8, 1))
	}

	p.redirect(xsks, s.cfg.Workers)

	// Without a source list and a call map nothing is ever dropped.
	if s.maps.sources != nil || !s.cfg.AnyCall {
		p.at("drop", func() { lookup(s.maps.drops, keyDrop) })
		do(asm.JEq.Imm(asm.R0, 0, "dropped"),
			asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord), asm.Add.Imm(asm.R1, 1), asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
			asm.Mov.Imm(asm.R0, xdpDrop).WithSymbol("dropped"), asm.Return())
	}
	return p.end("xpptp_steer")
}
