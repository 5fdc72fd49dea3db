package sock

import (
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// PeakMemory is the largest resident size that we have had, in bytes.
func PeakMemory() uint64 {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u) // cannot fail
	return uint64(u.Maxrss) << 10
}

// userHZ is the unit of processor times in /proc, on every architecture of
// Linux that Go runs on.
const userHZ = 100

// ThreadTimes is the processor time of each thread of a process, by thread ID;
// none if it is gone.
func ThreadTimes(pid int) map[int]time.Duration {
	times := map[int]time.Duration{}
	dir := "/proc/" + strconv.Itoa(pid) + "/task/"
	tasks, _ := os.ReadDir(dir)
	for _, t := range tasks {
		id, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		if d, err := statTime(dir + t.Name() + "/stat"); err == nil {
			times[id] = d
		}
	}
	return times
}

// ProcessUsage is the processor time and the resident size in bytes of a
// process; zero if it is gone.
func ProcessUsage(pid int) (cpu time.Duration, resident uint64) {
	dir := "/proc/" + strconv.Itoa(pid)
	cpu, _ = statTime(dir + "/stat")
	b, _ := os.ReadFile(dir + "/statm")
	if f := strings.Fields(string(b)); len(f) > 1 {
		pages, _ := strconv.ParseUint(f[1], 10, 64)
		resident = pages * uint64(os.Getpagesize())
	}
	return cpu, resident
}

// ProcessPeak is the largest resident size in bytes that a process has had;
// zero if it is gone.
func ProcessPeak(pid int) uint64 {
	b, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	for line := range strings.Lines(string(b)) {
		if kb, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, _ := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(kb), " kB"), 10, 64)
			return n << 10
		}
	}
	return 0
}

// statTime reads user and system time from a stat file (proc(5)).
func statTime(path string) (time.Duration, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	// The name, in parentheses, may hold anything.
	s := string(b)
	f := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	if len(f) < 13 {
		return 0, unix.EINVAL
	}
	user, err := strconv.ParseInt(f[11], 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(f[12], 10, 64)
	return time.Duration(user+system) * time.Second / userHZ, err
}

// KernelRelease is what uname -r says.
func KernelRelease() string {
	var u unix.Utsname
	_ = unix.Uname(&u) // cannot fail
	return unix.ByteSliceToString(u.Release[:])
}
