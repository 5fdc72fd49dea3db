package stress

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"xpptp/control/sock"
	"xpptp/control/stress/report"
	"xpptp/engine/mppe/multi"
)

// How much of the generator's own trouble a result stands.
const (
	lateShare   = 0.01 // of what was to begin or to be sent
	busyPercent = 95   // of a processor, by one thread
)

// usage measures how busy we are.
type usage struct {
	begin   time.Time
	total   time.Duration
	threads map[int]time.Duration
}

func newUsage() *usage {
	return &usage{begin: time.Now(), total: sock.ProcessTime(), threads: sock.ThreadTimes()}
}

func (u *usage) fill(g *report.Generator) {
	wall := time.Since(u.begin)
	percent := func(d time.Duration) float64 { return float64(d) / float64(wall) * 100 }
	g.CPUTotalPercent = percent(sock.ProcessTime() - u.total)
	for id, t := range sock.ThreadTimes() {
		g.CPUPercent = max(g.CPUPercent, percent(t-u.threads[id]))
	}
	g.PeakBytes = sock.PeakMemory()
}

// judge says whether the result is about the server.
func (r *run) judge() {
	o := &r.out
	if n := o.Generator.LateStarts; float64(n) > lateShare*float64(o.Calls.Attempted) {
		r.invalid("%d of %d calls began more than 1 ms late: the generator was the bottleneck", n, o.Calls.Attempted)
	}
	if n := o.Generator.LateSends; float64(n) > lateShare*float64(o.Traffic.Sent) {
		r.invalid("%d of %d packets were sent more than 1 ms late: the generator was the bottleneck", n, o.Traffic.Sent)
	}
	if n := r.traffic.skipped; n > 0 {
		r.invalid("%d packets were too late to be sent at all: the generator was the bottleneck", n)
	}
	if o.Generator.CPUPercent > busyPercent {
		r.invalid("a thread of the generator was busy for %.0f %% of the time", o.Generator.CPUPercent)
	}
}

func (r *run) environment() report.Environment {
	e := report.Environment{
		Version: r.Version, Kernel: sock.KernelRelease(), CPU: cpuModel(), CPUs: runtime.GOMAXPROCS(0),
		CipherWay: multi.Best().String(), IO: r.caller.Backend(), Workers: r.caller.Workers(),
		Target: r.caller.Server().String(), Start: time.Now(), Command: r.Command,
	}
	if p := r.caller.Plan(); p != nil {
		e.Placement = p.Short()
	}
	if r.Lab != nil {
		e.Server = fmt.Sprintf("xpptp %s, in a lab on the same machine", r.Version)
	}
	return e
}

// cpuModel is what the kernel calls the processor, or its architecture.
func cpuModel() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if name, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return runtime.GOARCH
}
