package multi

import (
	"fmt"
	"math"
	"os"   //nolint:depguard // Best reads XPPTP_CPU, once
	"sync" //nolint:depguard // Best is measured once
	"time"
)

// Way is a set of kernels.
type Way uint8

const (
	Portable Way = iota // plain Go, on every machine
	SSE4                // up to 5 lanes, SSE4.1
	AVX2                // rows of up to 32 lanes
	AVX512              // rows of up to 64 lanes; AVX-512 F, BW, DQ, VL and VBMI
	numWays
)

var wayNames = [numWays]string{"go", "sse4", "avx2", "avx512"}

// String is the name used by XPPTP_CPU and in reports.
func (w Way) String() string {
	if w >= numWays {
		return "unknown"
	}
	return wayNames[w]
}

// Ways lists the ways usable on this machine, Portable first.
func Ways() []Way {
	var ws []Way
	for w := range numWays {
		if w.usable() {
			ws = append(ws, w)
		}
	}
	return ws
}

// ParseWay is the way of that name; an error names the usable ones.
func ParseWay(name string) (Way, error) {
	for _, w := range Ways() {
		if w.String() == name {
			return w, nil
		}
	}
	return Portable, fmt.Errorf("way %q: this machine has %v", name, Ways())
}

// Best is the way that is fastest here, measured once, or the one that the environment variable
// XPPTP_CPU names. A name that ParseWay refuses counts as none.
var Best = sync.OnceValue(func() Way {
	if w, err := ParseWay(os.Getenv("XPPTP_CPU")); err == nil {
		return w
	}
	ways := Ways()
	ciphers := make([]*Cipher, len(ways))
	for i, w := range ways {
		ciphers[i] = New(w)
	}
	best, least := Portable, time.Duration(math.MaxInt64)
	for i, t := range race(ciphers, 64, 4) {
		if t < least {
			best, least = ways[i], t
		}
	}
	return best
})

// race has every cipher do the same batch of n packets several times, in turns, and returns the
// shortest times: what else the machine does then matters least.
func race(ciphers []*Cipher, n, rounds int) []time.Duration {
	keys, units := make([]KeyState, n), make([]Unit, n)
	for i := range units {
		keys[i] = KeyState{Start: [16]byte{byte(i)}, Session: [16]byte{1, byte(i)}, Len: 16}
		units[i] = Unit{Key: &keys[i], Steps: 1, Data: make([]byte, 256)}
	}
	times := make([]time.Duration, len(ciphers))
	for round := range rounds {
		for i, c := range ciphers {
			start := time.Now()
			c.Crypt(units)
			if d := time.Since(start); round < 2 || d < times[i] { // the first round is for the caches
				times[i] = d
			}
		}
	}
	return times
}

// rowsFrom measures, once per way, from how many streams on rows beat lanes.
var rowsFrom = func() (f [numWays]func() int) {
	for w := range numWays {
		f[w] = sync.OnceValue(func() int {
			t := tuning[w]
			if t.rowMin == noRows {
				return noRows
			}
			rows, lanes := newCipher(w), newCipher(w)
			rows.rowMin, lanes.rowMin = 6, noRows
			for _, n := range []int{8, 12, 16, 24, 32, 48} {
				if d := race([]*Cipher{rows, lanes}, n, 6); d[0] < d[1] {
					return n
				}
			}
			return noRows
		})
	}
	return f
}()

// tune is what a way can do, and from where on it pays, as measured.
type tune struct {
	rowMin, rowMax int    // streams for which rows are used, and how many at most
	laneMax        int    // streams a lane kernel takes
	shaColumns     int    // messages side by side in words
	rowsPay        [9]int // for 1..8 groups: streams that must be alive for a row step to cost less than lane steps
}

const noRows = maxBatch + 1
