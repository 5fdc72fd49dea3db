package multi

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

// Best is the way to use here.
func Best() Way { ws := Ways(); return ws[len(ws)-1] }

// tune is what a way can do, and from where on it pays, as measured.
type tune struct {
	rowMin, rowMax int    // streams for which rows are used, and how many at most
	laneMax        int    // streams a lane kernel takes
	shaColumns     int    // messages side by side in words
	rowsPay        [9]int // for 1..8 groups: streams that must be alive for a row step to cost less than lane steps
}

const noRows = maxBatch + 1
