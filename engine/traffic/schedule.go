package traffic

import (
	"fmt"
	"math"
	"time"
)

// Unit is what a rate counts.
type Unit uint8

// The units of a rate, per second.
const (
	Packets Unit = iota
	Bits         // of IP packets
)

// Schedule says when packets are due. It is a function from the amount sent
// to a time, so that nothing adds up: the schedule cannot drift, and what was
// late once does not move what comes after it.
type Schedule struct {
	Rate float64 // units a second
	Unit Unit

	// To and Over make a ramp: the rate goes evenly from Rate to To within
	// Over, and stays there.
	To   float64
	Over time.Duration

	// Burst packets are due at the same moment, if above 1; the moments are
	// such that the rate comes out. Only for a constant rate of packets.
	Burst int
}

// MaxRate bounds rates of packets, MaxBits those of bits.
const (
	MaxRate = 50e6
	MaxBits = 400e9
	minRate = 1e-3
)

// Check returns an error that names the first value out of range.
func (s *Schedule) Check() error {
	top := MaxRate
	if s.Unit == Bits {
		top = MaxBits
	}
	if s.Unit > Bits {
		return fmt.Errorf("unit %d of a rate is not known", s.Unit)
	}
	// Written so that NaN is refused, too.
	if !(s.Rate >= minRate && s.Rate <= top) {
		return fmt.Errorf("rate %g: want %g to %g", s.Rate, minRate, top)
	}
	if s.Over < 0 {
		return fmt.Errorf("ramp over %v: want a time above zero", s.Over)
	}
	if s.Over > 0 && !(s.To >= minRate && s.To <= top) {
		return fmt.Errorf("ramp to %g: want %g to %g", s.To, minRate, top)
	}
	if s.Burst < 0 || s.Burst > 1<<20 {
		return fmt.Errorf("bursts of %d packets: want 1 to %d", s.Burst, 1<<20)
	}
	if s.Burst > 1 && (s.Over > 0 || s.Unit != Packets) {
		return fmt.Errorf("bursts need a constant rate of packets")
	}
	return nil
}

// Due returns when the packet is due before which so many units were sent, in
// ns after the schedule's beginning.
func (s *Schedule) Due(units float64) int64 {
	if s.Burst > 1 {
		n := float64(s.Burst)
		units = math.Floor(units/n) * n
	}
	if s.Over <= 0 {
		return int64(units * 1e9 / s.Rate)
	}
	over := s.Over.Seconds()
	// Sent until t: Rate·t + (To−Rate)/(2·over)·t²
	sum := (s.Rate + s.To) / 2 * over
	if units >= sum {
		return int64(1e9 * (over + (units-sum)/s.To))
	}
	a := (s.To - s.Rate) / (2 * over)
	// The form of the root that does not subtract nearly equal numbers.
	return int64(1e9 * 2 * units / (s.Rate + math.Sqrt(s.Rate*s.Rate+4*a*units)))
}

// Units returns how many units are due before t, in ns after the schedule's
// beginning: the smallest number whose Due is not before t, but for rounding.
func (s *Schedule) Units(t int64) float64 {
	if t <= 0 {
		return 0
	}
	sec := float64(t) / 1e9
	var u float64
	switch over := s.Over.Seconds(); {
	case s.Over <= 0:
		u = sec * s.Rate
	case sec >= over:
		u = (s.Rate+s.To)/2*over + (sec-over)*s.To
	default:
		u = s.Rate*sec + (s.To-s.Rate)/(2*over)*sec*sec
	}
	if s.Burst > 1 {
		n := float64(s.Burst)
		return math.Ceil(u/n) * n
	}
	return u
}

// Part is the schedule of one of n that have s in common, for who cannot take
// turns with the others.
func (s Schedule) Part(n int) Schedule {
	s.Rate = max(s.Rate/float64(n), minRate)
	s.To = max(s.To/float64(n), minRate)
	return s
}

// Pacer walks along a schedule. It is a value without pointers of its own.
type Pacer struct {
	s     *Schedule
	start int64
	units float64 // of the schedule, so far
	step  float64 // units of the schedule for each unit sent here
}

// Start puts the pacer at the beginning of s, at time start. The stream is one
// of several that have the schedule in common if share is below 1, the part of
// it that is this stream's; phase is in units, of the first packet.
func (p *Pacer) Start(s *Schedule, start int64, share, phase float64) {
	*p = Pacer{s: s, start: start, units: phase, step: 1 / share}
}

// SetShare changes the share from the next packet on.
func (p *Pacer) SetShare(share float64) { p.step = 1 / share }

// Due returns when the next packet is due.
func (p *Pacer) Due() int64 { return p.start + p.s.Due(p.units) }

// Sent moves on by a packet of size bytes.
func (p *Pacer) Sent(size int) {
	if p.s.Unit == Bits {
		p.units += p.step * float64(8*size)
	} else {
		p.units += p.step
	}
}

// Skip leaves out the packets, of the given mean size, that are due before t,
// but for the last, and returns how many.
func (p *Pacer) Skip(t int64, mean float64) uint64 {
	each := p.step
	if p.s.Unit == Bits {
		each *= 8 * mean
	}
	n := math.Floor((p.s.Units(t-p.start) - p.units) / each)
	if n <= 0 {
		return 0
	}
	p.units += n * each
	return uint64(n)
}
