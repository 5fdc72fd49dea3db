package multi

// Way is a set of kernels.
type Way uint8

const (
	Portable Way = iota // plain Go, on every machine
	SSE4                // lane kernels, SSE4.1
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
func Ways() []Way { return []Way{Portable} }

// Best is the way to use here.
func Best() Way { return Portable }
