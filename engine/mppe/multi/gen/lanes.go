package main

import "fmt"

// The lane kernels need nothing beyond SSE4.1 and keep to the old encodings.
//
//	SI  S-boxes    CX  laneMem    BX  offset in the payload    AX, DX  x and y
var (
	laneJ = []string{"R8", "R9", "R10", "R11", "R12"}
	laneI = []string{"R13", "R14", "R15", "DI", "BP"}
)

func init() {
	constant("identity", bytesOf(16, func(i int) int { return i }))
}

// identity fills n S-boxes at SI.
func identity(n int) {
	p("MOVOU ·identity(SB), X0")
	p("PCMPEQB X1, X1")
	p("PABSB X1, X1")
	p("PSLLW $4, X1")
	p("XORL AX, AX")
	label("fill")
	for l := range n {
		p("MOVOU X0, %d(SI)(AX*1)", 256*l)
	}
	p("PADDB X1, X0")
	p("ADDL $16, AX")
	p("CMPL AX, $256")
	p("JB fill")
}

// laneSchedule is RC4's key schedule for n lanes.
func laneSchedule(n int) {
	fn(fmt.Sprintf("laneSchedule%d", n), fmt.Sprintf("runs the key schedule of the first %d keys into s.", n), "l *laneMem", "s *[5][256]byte")
	arg("l", "CX")
	arg("s", "SI")
	identity(n)
	for l := range n {
		p("XORL %s, %s", laneJ[l], laneJ[l])
	}
	p("MOVQ SI, DI")
	p("MOVL $16, BX")
	label("again")
	for k := range 16 {
		for l := range n {
			p("MOVBLZX %d(DI), AX", 256*l+k)
			p("ADDB %d(CX), %s", lane["key"]+16*l+k, laneJ[l])
			p("ADDB AX, %s", laneJ[l])
			p("MOVBLZX %d(SI)(%s*1), DX", 256*l, laneJ[l])
			p("MOVB AX, %d(SI)(%s*1)", 256*l, laneJ[l])
			p("MOVB DX, %d(DI)", 256*l+k)
		}
	}
	p("ADDQ $16, DI")
	p("DECL BX")
	p("JNZ again")
	p("RET")
	fmt.Fprintln(&asm)
}

// laneStream XORs keystream into the payloads of n lanes. Each lane has its own i, so a lane that
// is done can take up another stream.
func laneStream(n int) {
	frame(8, fmt.Sprintf("laneStream%d", n), fmt.Sprintf("XORs blocks*16 bytes at the start of data[0..%d] with the keystreams of these lanes.", n-1),
		"l *laneMem", "data *[5][]byte", "blocks uint64")
	arg("l", "CX")
	arg("blocks", "BX")
	p("SHLQ $4, BX")
	p("MOVQ BX, end-8(SP)")
	p("XORL BX, BX")
	p("MOVQ CX, SI")
	for l := range n {
		p("MOVQ %d(CX), %s", lane["j"]+8*l, laneJ[l])
		p("MOVQ %d(CX), %s", lane["i"]+8*l, laneI[l])
		p("LEAQ %d(SI)(%s*1), %s", 256*l, laneI[l], laneI[l])
	}
	label("block")
	for k := range 16 {
		d := k + 1
		for l := range n {
			if k == 15 {
				p("ADDB $16, %s", laneI[l])
				d = 0
			}
			p("MOVBLZX %d(%s), AX", d, laneI[l])
			p("ADDB AX, %s", laneJ[l])
			p("MOVBLZX %d(SI)(%s*1), DX", 256*l, laneJ[l])
			p("MOVB AX, %d(SI)(%s*1)", 256*l, laneJ[l])
			p("MOVB DX, %d(%s)", d, laneI[l])
			p("ADDB DX, AX")
			p("PINSRB $%d, %d(SI)(AX*1), X%d", k, 256*l, l)
		}
	}
	arg("data", "DX")
	for l := range n {
		p("MOVQ %d(DX), AX", sliceSize*l)
		p("MOVOU (AX)(BX*1), X%d", 8+l)
		p("PXOR X%d, X%d", 8+l, l)
		p("MOVOU X%d, (AX)(BX*1)", l)
	}
	p("ADDQ $16, BX")
	p("CMPQ BX, end-8(SP)")
	p("JB block")
	for l := range n {
		p("MOVQ %s, %d(CX)", laneJ[l], lane["j"]+8*l)
		p("MOVBLZX %s, AX", laneI[l])
		p("MOVQ AX, %d(CX)", lane["i"]+8*l)
	}
	p("RET")
	fmt.Fprintln(&asm)
}

// The single-lane kernels are tuned for latency. What a step must wait for is j alone, if x is at
// hand: so x of four steps is loaded before their stores, and each step looks afterwards whether
// its S[j] hit one of them (rare): then they are loaded again.
//
// The core would run the loads of the steps to come, dozens of them, ahead of stores whose address
// (j) it does not know yet, and start over each time a store turns out to have hit one: that costs
// more than the rest. So the address of the next loads is made to depend on j after the first or
// second step of the four, by adding a zero made from it.

const ahead = 4

var (
	singleX = []string{"R8", "R9", "R10", "R11"}
	singleT = []string{"R12", "R13", "R15", "BP"}
)

// fixups holds the code of the rare branches, which goes after the function.
type fixups []func()

func (f fixups) print() {
	for _, g := range f {
		g()
	}
	fmt.Fprintln(&asm)
}

// conflict tests whether j-i is in [first, first+n) and if so jumps to code that runs reload and
// comes back. Register i holds i in its low byte.
func (f *fixups) conflict(i string, k, first, n int, reload func()) {
	p("MOVL R14, AX")
	p("SUBL %s, AX", i)
	p("SUBB $%d, AX", first)
	p("CMPB AX, $%d", n)
	p("JCS stale%d", k)
	label("fresh%d", k)
	*f = append(*f, func() {
		label("stale%d", k)
		reload()
		p("JMP fresh%d", k)
	})
}

func singleSchedule() {
	frame(8, "laneSchedule1", "runs the key schedule of one key, with the least latency.", "key *[16]byte", "s *[256]byte")
	arg("key", "CX")
	arg("s", "SI")
	identity(1)
	p("XORL R14, R14")
	p("XORL BX, BX")
	p("MOVQ SI, DI")
	label("again")
	var rare fixups
	for w := 0; w < 16; w += ahead {
		load := func(k int) {
			p("MOVBLZX %d(DI)(BX*1), %s", w+k, singleX[k])
			p("MOVBLZX %d(CX), %s", w+k, singleT[k])
			p("ADDL %s, %s", singleX[k], singleT[k])
		}
		for k := range ahead {
			load(k)
		}
		for k := range ahead {
			p("ADDB %s, R14", singleT[k])
			if k == 0 {
				note("a zero that takes as long as j")
				p("MOVL R14, BX")
				p("ANDL $0, BX")
			}
			p("MOVBLZX (SI)(R14*1), DX")
			p("MOVB %s, (SI)(R14*1)", singleX[k])
			p("MOVB DX, %d(DI)", w+k)
			if k < ahead-1 {
				rare.conflict("DI", w+k, w+k+1, ahead-1-k, func() {
					for m := k + 1; m < ahead; m++ {
						load(m)
					}
				})
			}
		}
	}
	p("ADDQ $16, DI")
	p("TESTB DI, DI")
	p("JNE again")
	p("RET")
	rare.print()
}

func singleStream() {
	frame(8, "laneStream1", "XORs blocks*16 bytes at data[0] with the keystream of the first lane, with the least latency.",
		"l *laneMem", "data *[5][]byte", "blocks uint64")
	arg("l", "CX")
	arg("data", "AX")
	p("MOVQ (AX), BX")
	arg("blocks", "AX")
	p("SHLQ $4, AX")
	p("ADDQ BX, AX")
	p("MOVQ AX, end-8(SP)")
	p("MOVQ CX, SI")
	p("MOVQ %d(CX), DI", lane["i"])
	p("ADDQ SI, DI")
	p("MOVQ %d(CX), R14", lane["j"])
	p("XORL R12, R12")
	label("block")
	var rare fixups
	for w := 0; w < 16; w += ahead {
		load := func(k int) {
			if w+k < 15 {
				p("MOVBLZX %d(DI)(R12*1), %s", w+k+1, singleX[k])
				return
			}
			p("MOVQ DI, AX")
			p("ADDB $16, AX")
			p("MOVBLZX (AX)(R12*1), %s", singleX[k])
		}
		for k := range ahead {
			load(k)
		}
		for k := range ahead {
			at := fmt.Sprintf("%d(DI)", w+k+1)
			if w+k == 15 {
				p("ADDB $16, DI")
				at = "(DI)"
			}
			p("ADDB %s, R14", singleX[k])
			if k == 1 {
				p("MOVL R14, R12")
				p("ANDL $0, R12")
			}
			p("MOVBLZX (SI)(R14*1), DX")
			p("MOVB %s, (SI)(R14*1)", singleX[k])
			p("MOVB DX, %s", at)
			p("LEAL (DX)(%s*1), AX", singleX[k])
			p("MOVBLZX AX, AX")
			p("PINSRB $%d, (SI)(AX*1), X0", w+k)
			if k < ahead-1 {
				rare.conflict("DI", w+k, w+k+2, ahead-1-k, func() {
					for m := k + 1; m < ahead; m++ {
						load(m)
					}
				})
			}
		}
	}
	p("MOVOU (BX), X1")
	p("PXOR X1, X0")
	p("MOVOU X0, (BX)")
	p("ADDQ $16, BX")
	p("CMPQ BX, end-8(SP)")
	p("JB block")
	p("MOVQ R14, %d(CX)", lane["j"])
	p("SUBQ SI, DI")
	p("MOVQ DI, %d(CX)", lane["i"])
	p("RET")
	rare.print()
}
