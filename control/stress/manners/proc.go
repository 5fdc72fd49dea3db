package manners

import (
	"fmt"
	"os"
	"strings"
)

// process is a process of this host, by its number.
type process int

// files counts its open files; 0 if nobody may know.
func (p process) files() int {
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", int(p)))
	if err != nil {
		return 0
	}
	return len(list)
}

// memory is what it has resident, in bytes.
func (p process) memory() uint64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", int(p)))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		var kB uint64
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kB); n == 1 {
			return kB << 10
		}
	}
	return 0
}
