package main

import (
	"encoding/binary"
	"fmt"
)

var (
	sha1IV = [5]uint32{0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0}
	sha1K  = [4]uint32{0x5A827999, 0x6ED9EBA1, 0x8F1BBCDC, 0xCA62C1D6}
)

func init() {
	words := func(v ...uint32) (b []byte) {
		for _, w := range v {
			b = binary.LittleEndian.AppendUint32(b, w)
		}
		return b
	}
	constant("sha1abcd", words(sha1IV[3], sha1IV[2], sha1IV[1], sha1IV[0]))
	constant("sha1e", words(0, 0, 0, sha1IV[4]))
	constant("reverse16", bytesOf(16, func(i int) int { return 15 - i }))
	constant("sha1const", words(append(append(sha1IV[:], sha1K[:]...), 0)...))
	constant("bswap32", bytesOf(32, func(i int) int { return i&^3 + 3 - i&3 - i&16 }))
}

// sha1Single is one key's SHA-1 with the SHA extensions.
func sha1Single() {
	fn("sha1NI", "hashes the two blocks of m, with session ORed in at byte 56, and stores the first 16 bytes of the digest. The session key comes by itself because it was written a moment ago: loads across its edges would have to wait for the store.",
		"m *shaMessage", "session *[16]byte", "out *[16]byte")
	arg("m", "AX")
	arg("session", "CX")
	arg("out", "BX")
	p("MOVOU (CX), X7")
	p("MOVOU ·reverse16(SB), X8")
	p("MOVOU ·sha1abcd(SB), X0")
	p("MOVOU ·sha1e(SB), X1")
	e := []string{"X1", "X2"}
	m := []string{"X3", "X4", "X5", "X6"}
	for block := range 2 {
		p("MOVO X0, X9")
		p("MOVO X1, X10")
		for q := range 4 {
			p("MOVOU %d(AX), %s", 64*block+16*q, m[q])
			if block == 0 && q == 3 {
				p("MOVO X7, X11")
				p("PSLLO $8, X11")
				p("POR X11, %s", m[q])
			}
			if block == 1 && q == 0 {
				p("PSRLO $8, X7")
				p("POR X7, %s", m[q])
			}
			p("PSHUFB X8, %s", m[q])
		}
		for r := range 20 {
			now, next := e[r%2], e[(r+1)%2]
			at := func(d int) string { return m[(r+d)%4] }
			if r == 0 {
				p("PADDL %s, %s", at(0), now)
			} else {
				p("SHA1NEXTE %s, %s", at(0), now)
			}
			p("MOVO X0, %s", next)
			if 3 <= r && r < 19 {
				p("SHA1MSG2 %s, %s", at(0), at(1))
			}
			p("SHA1RNDS4 $%d, %s, X0", r/5, now)
			if 1 <= r && r < 17 {
				p("SHA1MSG1 %s, %s", at(0), at(3))
			}
			if 2 <= r && r < 18 {
				p("PXOR %s, %s", at(0), at(2))
			}
		}
		p("SHA1NEXTE X10, X1")
		p("PADDL X9, X0")
	}
	p("PSHUFB X8, X0")
	p("MOVOU X0, (BX)")
	p("RET")
	fmt.Fprintln(&asm)
}

// sha1Wide hashes n messages of two blocks side by side: a vector holds the same word of all of
// them. The messages lie so in memory (words), laid out but for the keys of full length, which come
// by lane and are transposed here. A transposition of 4 x 4 words in every 128 bits takes lane
// n/4*i+b to column 4*b+i, and the same at the end takes it back: so the columns stand in that
// order, and neither end needs more.
//
// The 16 words of the message schedule live in Z0..Z15 with AVX-512 (n = 16), in memory with AVX2
// (n = 8).
func sha1Wide(n int) {
	wide := n == 16
	reg := func(i int) string {
		if wide {
			return fmt.Sprintf("Z%d", i)
		}
		return fmt.Sprintf("Y%d", i)
	}
	size := 4 * n // bytes of a vector
	// state, its copy, and temporaries
	st, old, f, tmp, kc := 16, 24, 21, 22, 23
	mov := "VMOVDQU32"
	if !wide {
		st, old, f, tmp, kc = 0, 10, 5, 6, 7
		mov = "VMOVDQU"
	}
	frameSize := 0
	if !wide {
		frameSize = 16*size + 8
	}
	frame(frameSize, fmt.Sprintf("sha1x%d", n), fmt.Sprintf("hashes count times %d messages: words with start and session keys put in. The first 16 bytes of the digests replace the session keys.", n),
		"words *[33 * 64]uint32", "start *[64][16]byte", "keys *[64][16]byte", "count uint64")
	arg("words", "SI")
	arg("start", "R8")
	arg("keys", "DI")
	arg("count", "CX")
	label("next")
	r := func(i int) string { return reg(st + i) }
	u := []string{reg(old), reg(old + 1), reg(old + 2), reg(old + 3)}
	transpose := func() { // r(0..3) in place
		p("VPUNPCKLDQ %s, %s, %s", r(1), r(0), u[0])
		p("VPUNPCKHDQ %s, %s, %s", r(1), r(0), u[1])
		p("VPUNPCKLDQ %s, %s, %s", r(3), r(2), u[2])
		p("VPUNPCKHDQ %s, %s, %s", r(3), r(2), u[3])
		p("VPUNPCKLQDQ %s, %s, %s", u[2], u[0], r(0))
		p("VPUNPCKHQDQ %s, %s, %s", u[2], u[0], r(1))
		p("VPUNPCKLQDQ %s, %s, %s", u[3], u[1], r(2))
		p("VPUNPCKHQDQ %s, %s, %s", u[3], u[1], r(3))
	}
	swap := func() { // the byte order of r(0..3)
		if wide {
			p("VBROADCASTI32X4 ·bswap32(SB), %s", reg(f))
		} else {
			p("VMOVDQU ·bswap32(SB), %s", reg(f))
		}
		for i := range 4 {
			p("VPSHUFB %s, %s, %s", reg(f), r(i), r(i))
		}
	}
	note("the last row of words tells in which columns the keys go to words 0 and 14")
	if wide {
		p("VMOVDQU32 %d(SI), %s", 32*size, reg(tmp))
		p("VPMOVD2M %s, K1", reg(tmp))
	} else {
		p("VMOVDQU %d(SI), %s", 32*size, reg(tmp))
	}
	for key, at := range []int{0, 14} {
		from := []string{"R8", "DI"}[key]
		for i := range 4 {
			p("%s %d(%s), %s", mov, size*i, from, r(i))
		}
		swap()
		transpose()
		for i := range 4 {
			if wide {
				p("VMOVDQU32 %s, K1, %d(SI)", r(i), size*(at+i))
			} else {
				p("VPMASKMOVD %s, %s, %d(SI)", r(i), reg(tmp), size*(at+i))
			}
		}
	}
	for i := range 5 {
		p("VPBROADCASTD ·sha1const+%d(SB), %s", 4*i, reg(st+i))
		p("%s %s, %s", mov, reg(st+i), reg(old+i))
	}
	p("MOVL $2, DX")
	label("block")
	if wide {
		for w := range 16 {
			p("VMOVDQU32 %d(SI), Z%d", size*w, w)
		}
	}
	v := [5]int{st, st + 1, st + 2, st + 3, st + 4}
	for t := range 80 {
		if t%20 == 0 {
			p("VPBROADCASTD ·sha1const+%d(SB), %s", 4*(5+t/20), reg(kc))
		}
		a, b, c, d, e := reg(v[0]), reg(v[1]), reg(v[2]), reg(v[3]), reg(v[4])
		if wide {
			w := func(d int) string { return reg((t + 16 - d) % 16) }
			if t >= 16 {
				p("VPXORD %s, %s, %s", w(14), w(0), w(0))
				p("VPTERNLOGD $0x96, %s, %s, %s", w(3), w(8), w(0))
				p("VPROLD $1, %s, %s", w(0), w(0))
			}
			p("VPADDD %s, %s, %s", w(0), e, e)
			p("VMOVDQA32 %s, %s", b, reg(f))
			p("VPTERNLOGD $%#x, %s, %s, %s", [4]int{0xCA, 0x96, 0xE8, 0x96}[t/20], d, c, reg(f))
			p("VPADDD %s, %s, %s", reg(kc), e, e)
			p("VPROLD $5, %s, %s", a, reg(tmp))
			p("VPADDD %s, %s, %s", reg(f), e, e)
			p("VPROLD $30, %s, %s", b, b)
			p("VPADDD %s, %s, %s", reg(tmp), e, e)
		} else {
			w := func(d int) string { return fmt.Sprintf("w-%d(SP)", 16*size-size*((t+16-d)%16)) }
			if t < 16 {
				p("VMOVDQU %d(SI), Y8", size*t)
			} else {
				p("VMOVDQU %s, Y8", w(0))
				p("VPXOR %s, Y8, Y8", w(14))
				p("VPXOR %s, Y8, Y8", w(8))
				p("VPXOR %s, Y8, Y8", w(3))
				p("VPSRLD $31, Y8, Y9")
				p("VPADDD Y8, Y8, Y8")
				p("VPOR Y9, Y8, Y8")
			}
			p("VMOVDQU Y8, %s", w(0))
			p("VPADDD Y8, %s, %s", e, e)
			p("VPADDD %s, %s, %s", reg(kc), e, e)
			switch t / 20 {
			case 0:
				p("VPXOR %s, %s, Y5", c, d)
				p("VPAND %s, Y5, Y5", b)
				p("VPXOR %s, Y5, Y5", d)
			case 2:
				p("VPXOR %s, %s, Y5", c, d)
				p("VPAND %s, Y5, Y5", b)
				p("VPAND %s, %s, Y6", c, d)
				p("VPXOR Y6, Y5, Y5")
			default:
				p("VPXOR %s, %s, Y5", b, c)
				p("VPXOR %s, Y5, Y5", d)
			}
			p("VPADDD Y5, %s, %s", e, e)
			p("VPSLLD $5, %s, Y6", a)
			p("VPSRLD $27, %s, Y5", a)
			p("VPADDD Y6, %s, %s", e, e)
			p("VPADDD Y5, %s, %s", e, e)
			p("VPSLLD $30, %s, Y6", b)
			p("VPSRLD $2, %s, %s", b, b)
			p("VPOR Y6, %s, %s", b, b)
		}
		v = [5]int{v[4], v[0], v[1], v[2], v[3]}
	}
	for i := range 5 {
		p("VPADDD %s, %s, %s", reg(old+i), reg(st+i), reg(st+i))
		p("%s %s, %s", mov, reg(st+i), reg(old+i))
	}
	p("ADDQ $%d, SI", 16*size)
	p("DECL DX")
	p("JNZ block")
	note("words to lanes")
	swap()
	transpose()
	for i := range 4 {
		p("%s %s, %d(DI)", mov, r(i), size*i)
	}
	p("ADDQ $%d, SI", size)
	p("ADDQ $%d, R8", 16*n)
	p("ADDQ $%d, DI", 16*n)
	p("DECQ CX")
	p("JNZ next")
	finish()
}
