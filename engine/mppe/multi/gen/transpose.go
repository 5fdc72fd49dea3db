package main

import "fmt"

// Rows come in as keys (16 bytes of eight lanes) and go out as keystream (16 or 64 bytes of eight
// lanes) or as whole S-boxes. With VBMI a byte transposition of 128 bytes is two VPERMI2B; without
// it four rounds of VPUNPCK.

func init() {
	// Out of two registers of eight rows each: lanes 0..3 (rowsLow) or 4..7 (rowsHigh), 16 bytes a
	// lane.
	constant("rowsLow", bytesOf(64, func(i int) int { return 8*(i%16) + i/16 }))
	constant("rowsHigh", bytesOf(64, func(i int) int { return 8*(i%16) + i/16 + 4 }))
	// Out of two registers of four lanes each: rows 0..7 and 8..15.
	constant("lanesLow", bytesOf(64, func(i int) int { return 16*(i%8) + i/8 }))
	constant("lanesHigh", bytesOf(64, func(i int) int { return 16*(i%8) + i/8 + 8 }))
	constant("rowStart", bytesOf(72, func(i int) int { return i / 8 }))
}

// punpck is one round on eight registers: it takes register-number bit b to the lowest bit of the
// byte position and the highest bit of the byte position to register-number bit b.
func punpck(in, out [8]string, b int) {
	for r := range 8 {
		if r>>b&1 == 1 {
			continue
		}
		o := r | 1<<b
		p("VPUNPCKLBW %s, %s, %s", in[o], in[r], out[r])
		p("VPUNPCKHBW %s, %s, %s", in[o], in[r], out[o])
	}
}

func xregs(from int) (r [8]string) {
	for i := range r {
		r[i] = fmt.Sprintf("X%d", from+i)
	}
	return r
}

// rowsToLanes loads 16 rows at base+off and leaves lane l, 16 bytes, in the returned register l.
// X0..X15 are used. Register and position bits go (r3 r2 r1 | r0 c2 c1 c0) to (c0 c2 c1 | r3 r2 r1
// r0).
func rowsToLanes(base string, off int) [8]string {
	a, b := xregs(0), xregs(8)
	for r := range 8 {
		p("VMOVDQU %d(%s), %s", off+16*r, base, a[r])
	}
	punpck(a, b, 2)
	punpck(b, a, 1)
	punpck(a, b, 0)
	punpck(b, a, 2)
	var out [8]string
	for l := range 8 {
		out[l] = a[l&1<<2|l>>2&1<<1|l>>1&1]
	}
	return out
}

func keyRows512() {
	fn("keyRows512", "spreads the keys of 8*groups lanes into the rows of r.key.", "r *rowMem", "keys *[64][16]byte", "groups uint64")
	arg("r", "DI")
	arg("keys", "SI")
	arg("groups", "CX")
	p("ADDQ $%d, DI", row["key"])
	p("VMOVDQU64 ·lanesLow(SB), Z4")
	p("VMOVDQU64 ·lanesHigh(SB), Z5")
	label("next")
	p("VMOVDQU64 (SI), Z0")
	p("VMOVDQU64 64(SI), Z1")
	p("VMOVDQA64 Z4, Z2")
	p("VMOVDQA64 Z5, Z3")
	p("VPERMI2B Z1, Z0, Z2")
	p("VPERMI2B Z1, Z0, Z3")
	p("VMOVDQU64 Z2, (DI)")
	p("VMOVDQU64 Z3, 64(DI)")
	p("ADDQ $128, SI")
	p("ADDQ $128, DI")
	p("DECQ CX")
	p("JNZ next")
	finish()
}

func keyRows256() {
	fn("keyRows256", "does as keyRows512.", "r *rowMem", "keys *[64][16]byte", "groups uint64")
	arg("r", "DI")
	arg("keys", "SI")
	arg("groups", "CX")
	p("ADDQ $%d, DI", row["key"])
	label("next")
	a, b := xregs(0), xregs(8)
	for l := range 8 {
		p("VMOVDQU %d(SI), %s", 16*l, a[l])
	}
	note("(c2 c1 c0 | r3 r2 r1 r0) to (r3 r2 r1 | r0 c2 c1 c0)")
	punpck(a, b, 2)
	punpck(b, a, 1)
	punpck(a, b, 0)
	for r := range 8 {
		p("VMOVDQU %s, %d(DI)", b[r], 16*r)
	}
	p("ADDQ $128, SI")
	p("ADDQ $128, DI")
	p("DECQ CX")
	p("JNZ next")
	finish()
}

func rowOut512() {
	fn("rowOut512", "XORs the first 16 bytes of r.out into the keys of 8*groups lanes.", "r *rowMem", "keys *[64][16]byte", "groups uint64")
	arg("r", "SI")
	arg("keys", "DI")
	arg("groups", "CX")
	p("ADDQ $%d, SI", row["out"])
	p("VMOVDQU64 ·rowsLow(SB), Z4")
	p("VMOVDQU64 ·rowsHigh(SB), Z5")
	label("next")
	p("VMOVDQU64 (SI), Z0")
	p("VMOVDQU64 64(SI), Z1")
	p("VMOVDQA64 Z4, Z2")
	p("VMOVDQA64 Z5, Z3")
	p("VPERMI2B Z1, Z0, Z2")
	p("VPERMI2B Z1, Z0, Z3")
	p("VPXORQ (DI), Z2, Z2")
	p("VPXORQ 64(DI), Z3, Z3")
	p("VMOVDQU64 Z2, (DI)")
	p("VMOVDQU64 Z3, 64(DI)")
	p("ADDQ $%d, SI", groupOut)
	p("ADDQ $128, DI")
	p("DECQ CX")
	p("JNZ next")
	finish()
}

func rowOut256() {
	fn("rowOut256", "does as rowOut512.", "r *rowMem", "keys *[64][16]byte", "groups uint64")
	arg("r", "SI")
	arg("keys", "DI")
	arg("groups", "CX")
	p("ADDQ $%d, SI", row["out"])
	label("next")
	for l, x := range rowsToLanes("SI", 0) {
		p("VPXOR %d(DI), %s, %s", 16*l, x, x)
		p("VMOVDQU %s, %d(DI)", x, 16*l)
	}
	p("ADDQ $%d, SI", groupOut)
	p("ADDQ $128, DI")
	p("DECQ CX")
	p("JNZ next")
	finish()
}

// transpose64 turns 64 rows at base+off into 64 bytes of each of four lanes, in Z14..Z17; the index
// of rowsLow or rowsHigh is in idx. Z6..Z13 are used.
func transpose64(base string, off int, idx string) {
	for r := range 4 {
		p("VMOVDQU64 %d(%s), Z2", off+128*r, base)
		p("VMOVDQA64 %s, Z%d", idx, 6+r)
		p("VPERMI2B %d(%s), Z2, Z%d", off+128*r+64, base, 6+r)
	}
	note("4 x 4 blocks of 16 bytes")
	p("VSHUFI64X2 $0x44, Z7, Z6, Z10")
	p("VSHUFI64X2 $0xEE, Z7, Z6, Z11")
	p("VSHUFI64X2 $0x44, Z9, Z8, Z12")
	p("VSHUFI64X2 $0xEE, Z9, Z8, Z13")
	p("VSHUFI64X2 $0x88, Z12, Z10, Z14")
	p("VSHUFI64X2 $0xDD, Z12, Z10, Z15")
	p("VSHUFI64X2 $0x88, Z13, Z11, Z16")
	p("VSHUFI64X2 $0xDD, Z13, Z11, Z17")
}

// sliceSize is the size of a slice header: pointer, length, capacity.
const sliceSize = 24

// rowXor512 takes up to 256 bytes of four lanes before it goes to the next: frames stand 2 KB apart
// and push each other out of the cache, so a line should be touched but once.
func rowXor512() {
	fn("rowXor512",
		"XORs r.out into up to 64*blocks bytes at data[l][off:] for 8*groups lanes; bytes beyond the end of data[l] are left alone.",
		"r *rowMem", "data *[64][]byte", "off uint64", "groups uint64", "blocks uint64")
	arg("r", "SI")
	arg("data", "DX")
	arg("groups", "R12")
	p("ADDQ $%d, SI", row["out"])
	p("VMOVDQU64 ·rowsLow(SB), Z0")
	p("VMOVDQU64 ·rowsHigh(SB), Z1")
	p("MOVQ $-1, R8")
	label("next")
	var rare fixups
	for h := range 2 {
		arg("off", "R10")
		arg("blocks", "R9")
		p("MOVQ SI, DI")
		label("block%d", h)
		transpose64("DI", 0, fmt.Sprintf("Z%d", h))
		for q := range 4 {
			l, z := 4*h+q, fmt.Sprintf("Z%d", 14+q)
			p("MOVQ %d(DX), CX", sliceSize*l+8)
			p("MOVQ %d(DX), AX", sliceSize*l)
			p("SUBQ R10, CX")
			p("CMPQ CX, $64")
			p("JLT short%d", l)
			p("VPXORQ (AX)(R10*1), %s, %s", z, z)
			p("VMOVDQU64 %s, (AX)(R10*1)", z)
			label("done%d", l)
			rare = append(rare, func() {
				label("short%d", l)
				p("TESTQ CX, CX")
				p("JLE done%d", l)
				p("BZHIQ CX, R8, CX")
				p("KMOVQ CX, K1")
				p("VMOVDQU8.Z (AX)(R10*1), K1, Z18")
				p("VPXORQ Z18, %s, %s", z, z)
				p("VMOVDQU8 %s, K1, (AX)(R10*1)", z)
				p("JMP done%d", l)
			})
		}
		p("ADDQ $64, R10")
		p("ADDQ $%d, DI", 64*group)
		p("DECQ R9")
		p("JNZ block%d", h)
	}
	p("ADDQ $%d, SI", groupOut)
	p("ADDQ $%d, DX", sliceSize*group)
	p("DECQ R12")
	p("JNZ next")
	finish()
	rare.print()
}

// rowXor256 leaves what is shorter than 64 bytes to its caller.
func rowXor256() {
	fn("rowXor256",
		"transposes 64 rows of r.out, from row on, to out, 64 bytes a lane, and XORs them into data[l][off:off+64] of those of 8*groups lanes that have as much.",
		"r *rowMem", "data *[64][]byte", "off uint64", "groups uint64", "row uint64", "out *[64][64]byte")
	arg("row", "SI")
	p("SHLQ $3, SI")
	arg("r", "AX")
	p("ADDQ AX, SI")
	arg("data", "DX")
	arg("off", "R10")
	arg("groups", "R12")
	arg("out", "DI")
	p("ADDQ $%d, SI", row["out"])
	label("next")
	for q := range 4 {
		for l, x := range rowsToLanes("SI", 128*q) {
			p("VMOVDQU %s, %d(DI)", x, 64*l+16*q)
		}
	}
	p("MOVL $8, R9")
	label("lane")
	p("MOVQ 8(DX), CX")
	p("SUBQ R10, CX")
	p("CMPQ CX, $64")
	p("JLT short")
	p("MOVQ (DX), AX")
	for h := range 2 {
		p("VMOVDQU %d(DI), Y%d", 32*h, h)
		p("VPXOR %d(AX)(R10*1), Y%d, Y%d", 32*h, h, h)
		p("VMOVDQU Y%d, %d(AX)(R10*1)", h, 32*h)
	}
	label("short")
	p("ADDQ $%d, DX", sliceSize)
	p("ADDQ $64, DI")
	p("DECL R9")
	p("JNZ lane")
	p("ADDQ $%d, SI", groupOut)
	p("DECQ R12")
	p("JNZ next")
	finish()
}

func rowSplit512() {
	fn("rowSplit512", "copies the S-boxes of 8*groups lanes out of their rows.", "r *rowMem", "s *[64][256]byte", "groups uint64")
	arg("r", "SI")
	arg("s", "DI")
	arg("groups", "R12")
	p("VMOVDQU64 ·rowsLow(SB), Z0")
	p("VMOVDQU64 ·rowsHigh(SB), Z1")
	label("next")
	p("MOVL $4, R9")
	label("quarter")
	for h := range 2 {
		transpose64("SI", 0, fmt.Sprintf("Z%d", h))
		for q := range 4 {
			p("VMOVDQU64 Z%d, %d(DI)", 14+q, 256*(4*h+q))
		}
	}
	p("ADDQ $512, SI")
	p("ADDQ $64, DI")
	p("DECL R9")
	p("JNZ quarter")
	p("ADDQ $%d, DI", 7*256)
	p("DECQ R12")
	p("JNZ next")
	finish()
}

func rowSplit256() {
	fn("rowSplit256", "does as rowSplit512.", "r *rowMem", "s *[64][256]byte", "groups uint64")
	arg("r", "SI")
	arg("s", "DI")
	arg("groups", "R12")
	label("next")
	p("MOVL $16, R9")
	label("part")
	for l, x := range rowsToLanes("SI", 0) {
		p("VMOVDQU %s, %d(DI)", x, 256*l)
	}
	p("ADDQ $128, SI")
	p("ADDQ $16, DI")
	p("DECL R9")
	p("JNZ part")
	p("ADDQ $%d, DI", 7*256)
	p("DECQ R12")
	p("JNZ next")
	finish()
}
