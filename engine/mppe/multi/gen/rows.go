package main

import "fmt"

// Registers of the row kernels:
//
//	SI      the current group's S-boxes        R13  group 0's
//	DI      8*i                                 R8   rowMem
//	AX, DX  j and x of the current group        BX, CX  j of the current pair of lanes
//	R11     key rows or output rows             R9, R12 counters
//	R14, R15  j and x of the group after
//
// y, z and a zero are shared by the groups: their first VPINSRB takes the zero as its source and so
// waits for nothing.
const (
	regY    = "X12"
	regZ    = "X14"
	regZero = "X15"
)

// rowJ and rowX name the registers of group g out of n. Up to six groups fit in the sixteen
// registers of AVX.
func rowJ(g, n int) string {
	if n <= 6 {
		return fmt.Sprintf("X%d", g)
	}
	return fmt.Sprintf("X%d", 16+g)
}

func rowX(g, n int) string {
	if n <= 6 {
		return fmt.Sprintf("X%d", 6+g)
	}
	return fmt.Sprintf("X%d", g)
}

// fetch brings the bytes of a register of group q to dst. With more than six groups it does so one
// group ahead, through spare: measured, it helps there and harms below.
func fetch(q, n int, reg func(g, n int) string, spare, dst string) {
	if n <= 6 {
		p("VMOVQ %s, %s", reg(q, n), dst)
		return
	}
	if q == 0 {
		p("VMOVQ %s, %s", reg(0, n), spare)
	}
	p("MOVQ %s, %s", spare, dst)
	if q+1 < n {
		p("VMOVQ %s, %s", reg(q+1, n), spare)
	}
}

// gather loads S[index] of eight lanes into dst, the indices being the bytes of AX; with swap it
// puts the bytes of DX in their place.
func gather(dst string, swap bool) {
	from := regZero
	for l := 0; l < group; l += 2 {
		p("MOVBLZX AX, BX")
		p("MOVBLZX AH, CX")
		p("VPINSRB $%d, %d(SI)(BX*8), %s, %s", l, l, from, dst)
		p("VPINSRB $%d, %d(SI)(CX*8), %s, %s", l+1, l+1, dst, dst)
		if swap {
			p("MOVB DX, %d(SI)(BX*8)", l)
			p("MOVB DH, %d(SI)(CX*8)", l+1)
		}
		if l < group-2 {
			p("SHRQ $16, AX")
			if swap {
				p("SHRQ $16, DX")
			}
		}
		from = dst
	}
}

// gatherWords stores S[index] of eight lanes, the indices being the bytes of AX, at off(R11), two
// lanes at a time. VPINSRB needs a shuffle, of which there are two a cycle, and this does not: a
// third of the keystream this way is the best mixture.
func gatherWords(off int) {
	for l := 0; l < group; l += 2 {
		p("MOVBLZX AX, BX")
		p("MOVBLZX AH, CX")
		p("MOVBLZX %d(SI)(BX*8), BX", l)
		p("MOVB %d(SI)(CX*8), BH", l+1)
		if l < group-2 {
			p("SHRQ $16, AX")
		}
		p("MOVW BX, %d(R11)", off+l)
	}
}

// unrolled is how many steps of g groups go into a loop body: about as much code whatever g is,
// since the instruction cache is small.
func unrolled(g int) int {
	switch {
	case g <= 2:
		return 8
	case g <= 4:
		return 4
	}
	return 2
}

// finish leaves a vector kernel.
func finish() {
	p("VZEROUPPER")
	p("RET")
	fmt.Fprintln(&asm)
}

// rowSchedule is RC4's key schedule for g groups.
func rowSchedule(g int) {
	name := fmt.Sprintf("rowSchedule%d", g)
	fn(name, fmt.Sprintf("runs the key schedule of %d lanes from r.key and zeroes r.j.", g*group), "r *rowMem")
	arg("r", "R8")
	p("MOVQ R8, SI")
	p("MOVQ R8, R13")
	note("rows 0..255 hold their own number")
	v, size, mov := "Y", 32, "VMOVDQU"
	if g > 6 {
		v, size, mov = "Z", 64, "VMOVDQU64"
	}
	p("%s ·rowStart(SB), %s0", mov, v)
	p("VPBROADCASTB ·rowStart+%d(SB), %s1", size, v)
	p("MOVL $%d, R9", groupSize/size)
	label("fill")
	for q := range g {
		p("%s %s0, %d(SI)", mov, v, q*groupSize)
	}
	p("VPADDB %s1, %s0, %s0", v, v, v)
	p("ADDQ $%d, SI", size)
	p("DECL R9")
	p("JNZ fill")
	p("VPXOR %s, %s, %s", regZero, regZero, regZero)
	for q := range g {
		if g > 6 {
			p("VPXORD %s, %s, %s", rowJ(q, g), rowJ(q, g), rowJ(q, g))
		} else {
			p("VPXOR %s, %s, %s", rowJ(q, g), rowJ(q, g), rowJ(q, g))
		}
		p("VMOVQ %s, %d(R8)", regZero, row["j"]+group*q)
	}
	u := unrolled(g)
	p("MOVQ R13, SI")
	p("XORL DI, DI")
	label("again")
	p("LEAQ %d(R8), R11", row["key"])
	p("MOVL $%d, R12", 16/u)
	label("step")
	for k := range u {
		for q := range g {
			p("VMOVQ %d(R13)(DI*1), %s", q*groupSize+8*k, rowX(q, g))
			p("VPADDB %d(R11), %s, %s", q*groupKey+8*k, rowJ(q, g), rowJ(q, g))
			p("VPADDB %s, %s, %s", rowX(q, g), rowJ(q, g), rowJ(q, g))
		}
		for q := range g {
			if q > 0 {
				p("ADDQ $%d, SI", groupSize)
			}
			fetch(q, g, rowJ, "R14", "AX")
			fetch(q, g, rowX, "R15", "DX")
			gather(regY, true)
			p("VMOVQ %s, %d(SI)(DI*1)", regY, 8*k)
		}
		if g > 1 {
			p("MOVQ R13, SI")
		}
	}
	p("ADDQ $%d, DI", 8*u)
	p("ADDQ $%d, R11", 8*u)
	p("DECL R12")
	p("JNZ step")
	p("CMPQ DI, $%d", groupSize)
	p("JB again")
	finish()
}

// rowStream makes keystream rows for g groups.
func rowStream(g int) {
	u := unrolled(g)
	name := fmt.Sprintf("rowStream%d", g)
	fn(name, fmt.Sprintf("makes n bytes of keystream for each of %d lanes in r.out and goes on from i; n is a multiple of %d up to 256.", g*group, u),
		"r *rowMem", "i uint64", "n uint64")
	arg("r", "R8")
	arg("i", "DI")
	arg("n", "R12")
	p("SHLQ $3, DI")
	p("MOVQ R8, SI")
	p("MOVQ R8, R13")
	p("LEAQ %d(R8), R11", row["out"])
	p("VPXOR %s, %s, %s", regZero, regZero, regZero)
	for q := range g {
		p("VMOVQ %d(R8), %s", row["j"]+group*q, rowJ(q, g))
	}
	label("step")
	for k := range u {
		p("ADDL $8, DI")
		p("ANDL $%d, DI", groupSize-1)
		for q := range g {
			p("VMOVQ %d(R13)(DI*1), %s", q*groupSize, rowX(q, g))
			p("VPADDB %s, %s, %s", rowX(q, g), rowJ(q, g), rowJ(q, g))
		}
		for q := range g {
			if q > 0 {
				p("ADDQ $%d, SI", groupSize)
			}
			fetch(q, g, rowJ, "R14", "AX")
			fetch(q, g, rowX, "R15", "DX")
			gather(regY, true)
			p("VMOVQ %s, (SI)(DI*1)", regY)
			p("VPADDB %s, %s, %s", regY, rowX(q, g), rowX(q, g))
		}
		if g > 1 {
			p("MOVQ R13, SI")
		}
		for q := range g {
			if q > 0 {
				p("ADDQ $%d, SI", groupSize)
			}
			fetch(q, g, rowX, "R14", "AX")
			if q%3 == 0 {
				gatherWords(q*groupOut + 8*k)
				continue
			}
			gather(regZ, false)
			p("VMOVQ %s, %d(R11)", regZ, q*groupOut+8*k)
		}
		if g > 1 {
			p("MOVQ R13, SI")
		}
	}
	p("ADDQ $%d, R11", 8*u)
	p("SUBQ $%d, R12", u)
	p("JNZ step")
	for q := range g {
		p("VMOVQ %s, %d(R8)", rowJ(q, g), row["j"]+group*q)
	}
	finish()
}
