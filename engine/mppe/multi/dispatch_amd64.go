//go:build amd64 && !noasm

package multi

import (
	"crypto/subtle"

	"github.com/klauspost/cpuid/v2"
)

// The figures are from Zen 5: a key costs 190 ns alone, 118 in five lanes, 106 in 16 rows, 75 in
// 64; a keystream byte 0.84, 0.47, 0.58 and 0.41.
var (
	rowsPay = [9]int{0, 11, 18, 24, 28, 32, 38, 45, 52}
	tuning  = [numWays]tune{
		Portable: {rowMin: noRows, laneMax: laneMaxGo},
		SSE4:     {rowMin: noRows, laneMax: maxLanes},
		AVX2:     {rowMin: 15, rowMax: 48, laneMax: maxLanes, shaColumns: 8, rowsPay: rowsPay},
		AVX512:   {rowMin: 15, rowMax: 64, laneMax: maxLanes, shaColumns: 16, rowsPay: rowsPay},
	}
)

var hasSHA = cpuid.CPU.Supports(cpuid.SHA, cpuid.SSSE3)

func (w Way) usable() bool {
	switch w {
	case Portable:
		return true
	case SSE4:
		return cpuid.CPU.Supports(cpuid.SSE4, cpuid.SSSE3)
	case AVX2:
		return SSE4.usable() && cpuid.CPU.Supports(cpuid.AVX, cpuid.AVX2)
	case AVX512:
		return AVX2.usable() && cpuid.CPU.Supports(cpuid.BMI2, cpuid.AVX512F, cpuid.AVX512BW, cpuid.AVX512DQ, cpuid.AVX512VL, cpuid.AVX512VBMI)
	default: // the others need nothing
	}
	return false
}

// hash makes the interim key of the message m with the session key of k.
func (c *Cipher) hash(m *shaMessage, k *KeyState, out *[16]byte) {
	switch {
	case !hasSHA || c.way == Portable:
		hashGo(m, k, out)
	case k.full():
		sha1NI(m, &k.Session, out)
	default:
		copy(m[48:56], k.Session[:])
		sha1NI(m, &zeroKey, out)
	}
}

var zeroKey [16]byte

func (c *Cipher) laneSchedule(n int, s *[maxLanes][256]byte) {
	if c.way == Portable {
		laneScheduleGo(&c.lane, s, n)
		return
	}
	switch n {
	case 1:
		laneSchedule1(&c.lane.key[0], &s[0])
	case 2:
		laneSchedule1(&c.lane.key[0], &s[0])
		laneSchedule1(&c.lane.key[1], &s[1])
	case 3:
		laneSchedule3(&c.lane, s)
	case 4:
		laneSchedule4(&c.lane, s)
	default:
		laneSchedule5(&c.lane, s)
	}
}

func (c *Cipher) laneStream(n, blocks int) {
	if c.way == Portable {
		laneStreamGo(&c.lane, &c.data, n, blocks)
		return
	}
	switch n {
	case 1:
		laneStream1(&c.lane, &c.data, uint64(blocks))
	case 2:
		laneStream2(&c.lane, &c.data, uint64(blocks))
	case 3:
		laneStream3(&c.lane, &c.data, uint64(blocks))
	case 4:
		laneStream4(&c.lane, &c.data, uint64(blocks))
	default:
		laneStream5(&c.lane, &c.data, uint64(blocks))
	}
}

// hashWords turns the session keys in keys into interim keys for the first n lanes, that stepRows
// has set up.
func (c *Cipher) hashWords(n int) {
	if c.way == AVX512 {
		sha1x16(&c.words, &c.start, &c.keys, uint64(n+15)/16)
	} else {
		sha1x8(&c.words, &c.start, &c.keys, uint64(n+7)/8)
	}
}

// rowRekey turns the interim keys in keys into session keys.
func (c *Cipher) rowRekey(groups int) {
	c.rowSchedule(groups)
	c.rowStream(groups, 0, 16)
	if c.way == AVX512 {
		rowOut512(&c.row, &c.keys, uint64(groups))
	} else {
		rowOut256(&c.row, &c.keys, uint64(groups))
	}
}

// rowSchedule runs the key schedule of keys.
func (c *Cipher) rowSchedule(groups int) {
	if c.way == AVX512 {
		keyRows512(&c.row, &c.keys, uint64(groups))
	} else {
		keyRows256(&c.row, &c.keys, uint64(groups))
	}
	switch groups {
	case 1, 2:
		rowSchedule2(&c.row)
	case 3:
		rowSchedule3(&c.row)
	case 4:
		rowSchedule4(&c.row)
	case 5:
		rowSchedule5(&c.row)
	case 6:
		rowSchedule6(&c.row)
	case 7:
		rowSchedule7(&c.row)
	default:
		rowSchedule8(&c.row)
	}
}

// rowStream makes n keystream bytes from position i on; n is a multiple of 8.
func (c *Cipher) rowStream(groups, i, n int) {
	x, y := uint64(i)&255, uint64(n)
	switch groups {
	case 1, 2:
		rowStream2(&c.row, x, y)
	case 3:
		rowStream3(&c.row, x, y)
	case 4:
		rowStream4(&c.row, x, y)
	case 5:
		rowStream5(&c.row, x, y)
	case 6:
		rowStream6(&c.row, x, y)
	case 7:
		rowStream7(&c.row, x, y)
	default:
		rowStream8(&c.row, x, y)
	}
}

// rowXor XORs n bytes of keystream into every payload from off on, as far as it goes.
func (c *Cipher) rowXor(off, groups, n int) {
	blocks := (n + 63) / 64
	if c.way == AVX512 {
		rowXor512(&c.row, &c.rows, uint64(off), uint64(groups), uint64(blocks))
		return
	}
	for b := range blocks {
		at := off + 64*b
		rowXor256(&c.row, &c.rows, uint64(at), uint64(groups), uint64(64*b), &c.out)
		for l, d := range c.rows[:8*groups] {
			if left := len(d) - at; left > 0 && left < 64 {
				subtle.XORBytes(d[at:], d[at:], c.out[l][:])
			}
		}
	}
}

// rowSplit copies the S-boxes out of the rows.
func (c *Cipher) rowSplit(groups int) {
	if c.way == AVX512 {
		rowSplit512(&c.row, &c.split, uint64(groups))
	} else {
		rowSplit256(&c.row, &c.split, uint64(groups))
	}
}
