package hwprofile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
)

// Machine is what an inventory is read from and a plan is applied to. As a
// file system it is the root directory: "proc/…", "sys/…", "dev/…"; no links
// need to be read.
type Machine interface {
	fs.FS
	// CPUID says what the processor tells of itself.
	CPUID() (CPUID, error)
	// Names lists the network interfaces.
	Names() ([]string, error)
	// NIC asks the driver of an interface.
	NIC(name string) (NIC, error)
	// Firewall is the packet filter in nft's or iptables-save's words; empty if
	// neither program is there.
	Firewall() (string, error)
	// Set changes a setting. It returns an error that wraps fs.ErrNotExist if
	// there is no such thing any more.
	Set(s Setting, value string) error
}

// errRecorded is returned by Set of a recorded machine.
var errRecorded = errors.New("a recorded machine cannot be changed")

// recorded is a machine in files.
type recorded struct{ fs.FS }

// Recorded is a machine in files: what the kernel shows below proc and sys, and
// cpuid.json (CPUID), nic/NAME.json (NIC) and firewall.txt.
func Recorded(tree fs.FS) Machine { return recorded{tree} }

func (m recorded) CPUID() (c CPUID, err error) { return c, m.json("cpuid.json", &c) }

func (m recorded) NIC(name string) (n NIC, err error) { return n, m.json("nic/"+name+".json", &n) }

func (m recorded) Names() ([]string, error) { return names(m, "sys/class/net") }

func (m recorded) Firewall() (string, error) {
	b, err := fs.ReadFile(m, "firewall.txt")
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return string(b), err
}

func (m recorded) Set(Setting, string) error { return errRecorded }

func (m recorded) json(path string, v any) error {
	b, err := fs.ReadFile(m, path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// names lists a directory.
func names(f fs.FS, dir string) (names []string, err error) {
	entries, err := fs.ReadDir(f, dir)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}
