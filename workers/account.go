package workers

import "math/bits"

// Stage is a part of a worker's turn.
type Stage uint8

// The stages, in the order of a packet from the outside.
const (
	StageRX      Stage = iota // taking frames from ports and other workers
	StageParse                // outer headers, and whose packet it is
	StageGRE                  // sequence, acknowledgements, encapsulation
	StageMPPE                 // keys and cipher
	StagePPP                  // PPP and the inside packet's headers
	StageTX                   // handing frames to ports and other workers
	StageControl              // commands, timers
	NumStages
)

var stageNames = [NumStages]string{"rx", "parse", "gre", "mppe", "ppp", "tx", "control"}

// String returns the stage's name as it stands in tables and metrics.
func (s Stage) String() string { return stageNames[s] }

// Time is where a worker's time went, in nanoseconds, since it runs.
type Time struct {
	Busy int64 // turns that found something to do
	Idle int64 // turns that found nothing, and sleep
	// Stages says what Busy went into. It is taken from a sample of the turns,
	// so that measuring costs nothing worth mentioning.
	Stages [NumStages]int64
}

// BatchBuckets is how many sizes of batches are told apart: bucket i counts
// those of 2^i to 2^(i+1)-1 frames.
const BatchBuckets = 7 // up to Burst

// Batches counts what single looks at ports brought, by size. A worker that
// has little to do finds small batches, a busy one full ones.
type Batches struct {
	Outside, Inside [BatchBuckets]uint64
}

// sampleEvery is one turn of how many the stages of which are timed: of a busy
// turn of some tens of microseconds the readings of the clock are the
// hundredth part, of a turn with a single packet the tenth. It has no divisor
// in common with sideEvery, so that the sample is of all kinds of turns.
const sampleEvery = 17

// interrupted is how long no stage takes: somebody else had the core.
const interrupted = int64(1e6)

// account is the bookkeeping behind Time and Batches.
type account struct {
	clock   func() int64 // nil: Run does not run, nothing is timed
	batches Batches

	busy, idle int64
	last       int64 // when the turn before began; 0: there was none
	lastBusy   bool

	timed   bool // this turn
	at      int64
	laps    [NumStages]int64 // of this turn
	sampled [NumStages]int64 // of all timed turns that were busy
}

// turn is called as a turn begins: the one before, with the sleep after it, is over.
func (a *account) turn(now int64) {
	switch took := now - a.last; {
	case a.last == 0:
	case a.lastBusy:
		a.busy += took
	default:
		a.idle += took
	}
	a.last = now
}

// start begins to time the stages of a turn, if it is one of the sample.
func (a *account) start(turn uint64) {
	if a.timed = a.clock != nil && turn%sampleEvery == 0; a.timed {
		a.at = a.clock()
	}
}

// lap ends a stage of the turn.
func (a *account) lap(s Stage) {
	if a.timed {
		now := a.clock()
		if took := now - a.at; took < interrupted {
			a.laps[s] += took
		}
		a.at = now
	}
}

// end is called as a turn ends.
func (a *account) end(busy bool) {
	a.lastBusy = busy
	if !a.timed {
		return
	}
	if busy {
		for i, ns := range a.laps {
			a.sampled[i] += ns
		}
	}
	a.laps = [NumStages]int64{}
}

// time returns the account so far.
func (a *account) time() Time {
	t := Time{Busy: a.busy, Idle: a.idle}
	var sum int64
	for _, ns := range a.sampled {
		sum += ns
	}
	if sum > 0 {
		for i, ns := range a.sampled {
			t.Stages[i] = int64(float64(ns) / float64(sum) * float64(t.Busy))
		}
	}
	return t
}

// batch counts one look at a port that brought n frames.
func batch(to *[BatchBuckets]uint64, n int) {
	if n > 0 {
		to[min(bits.Len(uint(n))-1, BatchBuckets-1)]++
	}
}
