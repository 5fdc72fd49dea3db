package load

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"time"

	"xpptp/control/sock"
	"xpptp/engine"
	"xpptp/engine/traffic"
	"xpptp/engine/wire"
	"xpptp/rings"
)

// SelfTestConfig says what SelfTest measures. Zero values take the defaults.
type SelfTestConfig struct {
	Size  int           // of IP packets, 64
	Calls int           // that the packets go through in turns, 64
	Rates []float64     // packets/s to keep to; 100 to 500,000
	Time  time.Duration // for each figure, 1 s
}

// SelfTestResult is what the load can do on this machine, with nobody at the
// other end.
type SelfTestResult struct {
	Size  int `json:"size"`  // IP packet in bytes
	Calls int `json:"calls"` // it went through
	// Packets a second of the processor's time:
	Bare      float64 `json:"bare_pps"`      // AF_XDP transmitter that only repeats frames, as long as those with GRE
	Generator float64 `json:"generator_pps"` // test packets sent as they are
	Calling   float64 `json:"calling_pps"`   // test packets through a worker and its calls, without MPPE
	MPPE      float64 `json:"mppe_pps"`      // and with MPPE of 128 bits
	// Generator and Calling over Bare:
	GeneratorRatio float64 `json:"generator_ratio"`
	CallingRatio   float64 `json:"calling_ratio"`

	Pacing []Pace `json:"pacing"`
}

// Pace is how well the load kept to a rate.
type Pace struct {
	Asked     float64 `json:"asked_pps"`
	Achieved  float64 `json:"achieved_pps"` // that left the device
	Late      uint64  `json:"late"`         // packets sent more than 1 ms late
	Skipped   uint64  `json:"skipped"`      // packets not sent
	Lost      uint64  `json:"lost"`         // sent, and not taken by the device
	LateP50   float64 `json:"late_p50_us"`  // from when it was due to when it was sent
	LateP99   float64 `json:"late_p99_us"`
	Jitter50  float64 `json:"jitter_p50_us"` // by how much the time between two packets was off
	Jitter99  float64 `json:"jitter_p99_us"`
	JitterMax float64 `json:"jitter_max_us"`
}

// Error is how far the rate was off, as a part of what was asked.
func (p *Pace) Error() float64 { return p.Achieved/p.Asked - 1 }

func (c *SelfTestConfig) fill() {
	if c.Size == 0 {
		c.Size = traffic.MinSize(false)
	}
	if c.Calls == 0 {
		c.Calls = 64
	}
	if len(c.Rates) == 0 {
		c.Rates = []float64{100, 1000, 10_000, 100_000, 500_000}
	}
	if c.Time == 0 {
		c.Time = time.Second
	}
}

// Check returns an error that names the first value that is out of range.
func (c SelfTestConfig) Check() error {
	c.fill()
	if c.Size < traffic.MinSize(false) || c.Size > rigRoom {
		return fmt.Errorf("self-test: size %d: want %d to %d", c.Size, traffic.MinSize(false), rigRoom)
	}
	if c.Calls < 1 || c.Calls > 4096 {
		return fmt.Errorf("self-test: %d calls: want 1 to 4096", c.Calls)
	}
	for _, r := range c.Rates {
		if !(r >= 1 && r <= 10e6) {
			return fmt.Errorf("self-test: rate %g: want 1 to 10000000", r)
		}
	}
	if c.Time < 100*time.Millisecond || c.Time > time.Minute {
		return fmt.Errorf("self-test: %v for each figure: want 100ms to 1m", c.Time)
	}
	return nil
}

// SelfTest measures the load against a sink: how fast it can be and how well it
// keeps to a rate. It needs CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_NET_RAW, and
// works in network namespaces of its own, which are gone at the end.
func SelfTest(ctx context.Context, c SelfTestConfig) (*SelfTestResult, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	c.fill()
	r, err := newRig()
	if err != nil {
		return nil, fmt.Errorf("self-test: %w", err)
	}
	defer r.close()
	res := &SelfTestResult{Size: c.Size, Calls: c.Calls}
	if err := r.speed(ctx, &c, res); err != nil {
		return nil, fmt.Errorf("self-test: %w", err)
	}
	for _, rate := range c.Rates {
		p, err := r.pace(ctx, &c, rate)
		if err != nil {
			return nil, fmt.Errorf("self-test: %g packets/s: %w", rate, err)
		}
		res.Pacing = append(res.Pacing, *p)
	}
	return res, nil
}

// slice is how long one contender has its turn: of its thread's time, so that
// other work on the processor does not count.
const slice = 5 * time.Millisecond

// speed measures how fast each contender is, in turns on one thread.
func (r *rig) speed(ctx context.Context, c *SelfTestConfig, res *SelfTestResult) error {
	alone, err := r.newEnd(c.Calls, false)
	if err != nil {
		return err
	}
	defer alone.close()
	plain, err := r.newEnd(c.Calls, false)
	if err != nil {
		return err
	}
	defer plain.close()
	sealed, err := r.newEnd(c.Calls, true)
	if err != nil {
		return err
	}
	defer sealed.close()
	// More than any machine can send: what is too late is skipped.
	flat := []Profile{{Schedule: traffic.Schedule{Rate: 20e6}, Total: true, Sizes: traffic.Fixed(c.Size)}}
	for _, e := range []*end{alone, plain, sealed} {
		if err := e.l.Start(flat, time.Hour); err != nil {
			return err
		}
	}
	contenders := []func() error{r.bare(c.Size), alone.generate(), plain.flood(), sealed.flood()}
	pps := make([][]float64, len(contenders))
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		cpus, err := sock.CPUs()
		if err == nil {
			err = sock.Pin(cpus[len(cpus)-1])
		}
		for end := time.Now().Add(c.Time * time.Duration(len(contenders))); err == nil && time.Now().Before(end); {
			if err = ctx.Err(); err == nil {
				err = r.round(contenders, pps)
			}
		}
		done <- err
	}()
	if err := <-done; err != nil {
		return err
	}
	// What is fast and what is slow time of the machine is the same for those that took turns in it.
	over := func(v []float64) float64 {
		ratio := make([]float64, len(v))
		for i := range v {
			ratio[i] = v[i] / pps[0][i]
		}
		return median(ratio)
	}
	res.GeneratorRatio, res.CallingRatio = over(pps[1]), over(pps[2])
	res.Bare, res.Generator, res.Calling, res.MPPE = median(pps[0]), median(pps[1]), median(pps[2]), median(pps[3])
	for _, e := range []*end{plain, sealed} {
		if err := e.complain(); err != nil {
			return err
		}
	}
	return nil
}

// round gives each contender a turn.
func (r *rig) round(contenders []func() error, pps [][]float64) error {
	for i, step := range contenders {
		n, err := r.turn(step)
		if err != nil {
			return err
		}
		pps[i] = append(pps[i], n)
	}
	return nil
}

func median(v []float64) float64 { return slices.Sorted(slices.Values(v))[len(v)/2] }

// turn runs a contender for a slice and returns how many packets a second left.
func (r *rig) turn(step func() error) (float64, error) {
	before, start := r.out.Stats().TxPackets, sock.ThreadTime()
	var took time.Duration
	for took < slice {
		for range 8 {
			if err := step(); err != nil {
				return 0, err
			}
		}
		took = sock.ThreadTime() - start
	}
	return float64(r.out.Stats().TxPackets-before) / took.Seconds(), nil
}

// bare sends frames of the length that the worker's have, without touching them.
func (r *rig) bare(size int) func() error {
	n := len(r.header) + wire.IPv4Len + wire.GRELen(true, false) + 1 + size // with protocol field compression
	var fs [64]*rings.Frame
	return func() error {
		k := 0
		for k < len(fs) {
			f := r.pool.Get()
			if f == nil {
				break
			}
			f.Extend(n)
			fs[k] = f
			k++
		}
		sent, err := r.out.Send(fs[:k])
		for _, f := range fs[sent:k] {
			f.Free()
		}
		if err != nil {
			return err
		}
		return r.out.Flush()
	}
}

// generate sends the load's packets as they are, without calls.
func (e *end) generate() func() error {
	var fs [64]*rings.Frame
	return func() error {
		n, err := e.in.Recv(fs[:])
		if err != nil {
			return err
		}
		for _, f := range fs[:n] {
			copy(f.Push(len(e.r.header)), e.r.header)
		}
		sent, err := e.r.out.Send(fs[:n])
		for _, f := range fs[sent:n] {
			f.Free()
		}
		if err != nil {
			return err
		}
		return e.r.out.Flush()
	}
}

// flood is a turn of the worker's loop.
func (e *end) flood() func() error {
	return func() error {
		e.w.Step(e.r.clock())
		return e.w.Down()
	}
}

// complain returns an error if packets did not take the way that was to be measured.
func (e *end) complain() error {
	for d, n := range e.w.State().Drops {
		if engine.Drop(d) != engine.TxFull && n > 0 {
			return fmt.Errorf("the worker dropped %d packets: %v", n, engine.Drop(d))
		}
	}
	return nil
}

// pace has a worker, in its own loop, keep to a rate.
func (r *rig) pace(ctx context.Context, c *SelfTestConfig, rate float64) (*Pace, error) {
	e, err := r.newEnd(c.Calls, false)
	if err != nil {
		return nil, err
	}
	defer e.close()
	done := make(chan error, 1)
	go func() { done <- e.w.Run(r.clock) }()
	before := r.out.Stats().TxPackets
	s, err := e.l.Run(ctx, []Profile{{Schedule: traffic.Schedule{Rate: rate}, Total: true, Sizes: traffic.Fixed(c.Size)}}, c.Time, 0)
	e.w.Stop()
	if werr := <-done; werr != nil {
		return nil, werr
	}
	if err != nil {
		return nil, err
	}
	out := r.out.Stats().TxPackets - before
	us := func(ns int64) float64 { return float64(ns) / 1e3 }
	return &Pace{
		Asked: rate, Achieved: float64(out) / s.Elapsed.Seconds(),
		Late: s.Sender.Late, Skipped: s.Sender.Skipped, Lost: s.Traffic.Sent - out,
		LateP50: us(s.Times.Late.ValueAtQuantile(50)), LateP99: us(s.Times.Late.ValueAtQuantile(99)),
		Jitter50: us(s.Times.Jitter.ValueAtQuantile(50)), Jitter99: us(s.Times.Jitter.ValueAtQuantile(99)),
		JitterMax: us(s.Times.Jitter.Max()),
	}, e.complain()
}
