package tun

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"xpptp/rings/owner"
)

// Steer makes every packet come out at the queue of its owner: of its
// destination address, or of its source address if bySource. What nobody owns
// comes out at queue 0. Without it the kernel spreads packets by its own
// rules. It wants CAP_BPF and Linux 4.16.
func (d *Device) Steer(m *owner.Map, bySource bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.fds) == 0 || d.fds[0] < 0 {
		return fmt.Errorf("rings: %s: steering comes before the ports", d.name)
	}
	p, err := loadSteering(m, bySource)
	if err != nil {
		return fmt.Errorf("rings: %s: steering program: %w", d.name, err)
	}
	defer p.Close() // the device holds it
	if err := unix.IoctlSetPointerInt(d.fds[0], unix.TUNSETSTEERINGEBPF, p.FD()); err != nil {
		return fmt.Errorf("rings: %s: TUNSETSTEERINGEBPF: %w", d.name, err)
	}
	return nil
}

// Offsets of the addresses, RFC 791 §3.1 and RFC 8200 §3.
const (
	ipv4Source, ipv4Destination = 12, 16
	ipv6Source, ipv6Destination = 8, 24
)

// The stack of the program.
const (
	keyAt     = -owner.KeyLen
	versionAt = keyAt - 4
)

// loadSteering compiles the program and loads it. R6 is the packet.
func loadSteering(m *owner.Map, bySource bool) (*ebpf.Program, error) {
	v4, v6 := int32(ipv4Destination), int32(ipv6Destination)
	if bySource {
		v4, v6 = ipv4Source, ipv6Source
	}
	var p asm.Instructions
	do := func(i ...asm.Instruction) { p = append(p, i...) }
	// load copies n bytes of the packet to the stack.
	load := func(from, to, n int32) {
		do(asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, from),
			asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, to), asm.Mov.Imm(asm.R4, n),
			asm.FnSkbLoadBytes.Call(), asm.JNE.Imm(asm.R0, 0, "nobody"))
	}
	do(asm.Mov.Reg(asm.R6, asm.R1))
	load(0, versionAt, 1)
	do(asm.LoadMem(asm.R7, asm.RFP, versionAt, asm.Byte), asm.RSh.Imm(asm.R7, 4))
	do(asm.JEq.Imm(asm.R7, 6, "ipv6"), asm.JNE.Imm(asm.R7, 4, "nobody"))
	do(owner.Key(keyAt, true)...)
	load(v4, keyAt+owner.KeyAddr, 4)
	do(asm.Ja.Label("find"))
	start := len(p)
	do(owner.Key(keyAt, false)...)
	p[start] = p[start].WithSymbol("ipv6")
	load(v6, keyAt+owner.KeyAddr, 16)
	start = len(p)
	do(m.Find(keyAt, "nobody")...)
	p[start] = p[start].WithSymbol("find")
	do(asm.LoadMem(asm.R0, asm.R0, 0, asm.Word), asm.Sub.Imm(asm.R0, 1), asm.Return(),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("nobody"), asm.Return())
	return ebpf.NewProgram(&ebpf.ProgramSpec{Name: "xpptp_queues", Type: ebpf.SocketFilter, License: "GPL", Instructions: p})
}
