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
	fullShare   = 0.9  // of all processors, by server and generator
)

// usage measures how busy a process is: we, or the lab's server.
type usage struct {
	pid     int
	begin   time.Time
	total   time.Duration
	threads map[int]time.Duration
}

func newUsage(pid int) *usage {
	total, _ := sock.ProcessUsage(pid)
	return &usage{pid: pid, begin: time.Now(), total: total, threads: sock.ThreadTimes(pid)}
}

// busy is the share of a processor, in percent, that the busiest thread has
// taken, and that of all.
func (u *usage) busy() (most, all float64) {
	wall := time.Since(u.begin)
	percent := func(d time.Duration) float64 { return max(0, float64(d)/float64(wall)*100) }
	total, _ := sock.ProcessUsage(u.pid)
	for id, t := range sock.ThreadTimes(u.pid) {
		most = max(most, percent(t-u.threads[id]))
	}
	return most, percent(total - u.total)
}

// busy fills in how busy we are, and the lab's server.
func (r *run) busy() {
	g := &r.out.Generator
	g.CPUPercent, g.CPUTotalPercent = r.usage.busy()
	g.PeakBytes = sock.PeakMemory()
	if r.server == nil {
		return
	}
	s := &report.Server{PeakBytes: sock.ProcessPeak(r.server.pid)}
	s.CPUPercent, s.CPUTotalPercent = r.server.busy()
	r.out.Server = s
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
	s := o.Server
	if s == nil {
		return
	}
	if s.CPUPercent > busyPercent {
		r.note("a thread of the server was busy for %.0f %% of the time: the server was the bottleneck", s.CPUPercent)
	}
	// What the kernel does for both counts for neither.
	if both, all := s.CPUTotalPercent+o.Generator.CPUTotalPercent, 100*float64(o.Environment.CPUs); both > fullShare*all {
		r.note("server and generator took %.0f %% of the %.0f %% that the machine's processors have: "+
			"this is what both can do beside each other, a server alone can do more", both, all)
	}
}

func (r *run) environment() report.Environment {
	e := report.Environment{
		Version: r.Version, Kernel: sock.KernelRelease(), CPU: cpuModel(), CPUs: runtime.NumCPU(),
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
