package sock

import "golang.org/x/sys/unix"

// NeedNoFile raises the limit of open files, like RaiseNoFile, and the hard
// limit too if that is below need and we may (CAP_SYS_RESOURCE). It returns
// the limit now in force, which may be below need. Children inherit it.
func NeedNoFile(need uint64) (uint64, error) {
	have, err := RaiseNoFile()
	if err == nil && have < need && unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: need, Max: need}) == nil {
		have = need
	}
	return have, err
}
