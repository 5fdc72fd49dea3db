package hwprofile

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/rogpeppe/go-internal/txtar"
)

// tree is a recorded machine.
func tree(t testing.TB, name string) Machine {
	t.Helper()
	a, err := txtar.ParseFile(filepath.Join("testdata", "trees", name+".txtar"))
	if err != nil {
		t.Fatal(err)
	}
	files := make(fstest.MapFS)
	for _, f := range a.Files {
		files[f.Name] = &fstest.MapFile{Data: f.Data}
	}
	return Recorded(files)
}

func read(t testing.TB, m Machine) *Inventory {
	t.Helper()
	inv, err := Read(m)
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

// The plan and the findings for recorded machines, in files that a person can
// read. UPDATE=1 writes them anew.
func TestTrees(t *testing.T) {
	for _, tt := range []struct {
		tree string
		reqs []Request
	}{
		{"two-sockets", []Request{{Interfaces: []string{"vlan100"}}, {Interfaces: []string{"ens785f0"}, Workers: 20}}},
		{"cloud-ena", []Request{{}, {Workers: 6}}},
		{"container", []Request{{}, {Workers: 2}}},
	} {
		t.Run(tt.tree, func(t *testing.T) {
			m := tree(t, tt.tree)
			inv := read(t, m)
			firewall, unread := m.Firewall()
			var b strings.Builder
			fmt.Fprintf(&b, "%s", inv)
			for i, req := range tt.reqs {
				fmt.Fprintf(&b, "\n======== workers %d (0: the plan's choice), interfaces %v\n\n", req.Workers, req.Interfaces)
				p, err := MakePlan(inv, builtIn, req)
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(&b, "%s\n\n%s", p.Short(), p)
				if i > 0 {
					continue
				}
				fmt.Fprintf(&b, "\n-------- what the doctor says\n\n")
				for _, f := range Check(inv, p, firewall, unread) {
					fmt.Fprintf(&b, "%-5s %s: %s\n", f.Level, f.Check, f.Found)
					if f.Level != OK {
						fmt.Fprintf(&b, "      why   %s\n      mend  %s\n", f.Why, strings.ReplaceAll(f.Mend, "\n", "\n            "))
					}
				}
			}
			golden(t, tt.tree, b.String())
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", "trees", name+".golden")
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is different (UPDATE=1 writes it anew):\n%s", path, got)
	}
}

// What is missing is named, and no more than the CPUs must be there.
func TestReadLittle(t *testing.T) {
	files := fstest.MapFS{"sys/devices/system/cpu/online": {Data: []byte("0\n")}}
	inv := read(t, Recorded(files))
	if len(inv.Unknown) == 0 {
		t.Error("all is said to be known")
	}
	p, err := MakePlan(inv, builtIn, Request{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := p.Short(), "1 worker on CPUs 0, control plane on CPUs 0, no interface, steering direct"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for _, bad := range []string{"", "x\n", "3-1\n"} {
		files["sys/devices/system/cpu/online"].Data = []byte(bad)
		if _, err := Read(Recorded(files)); err == nil {
			t.Errorf("online CPUs %q are taken", bad)
		}
	}
}

// Both versions of control groups, with and without a namespace of their own.
func TestCgroups(t *testing.T) {
	for _, tt := range []struct {
		name, self string
		files      map[string]string
		cpuset     string
		quota      float64
	}{
		{"none", "", nil, "0-7", 0},
		{
			"v2, own namespace", "0::/\n",
			map[string]string{"cpuset.cpus.effective": "2-3\n", "cpu.max": "150000 100000\n"},
			"2-3", 1.5,
		},
		{
			"v2, from above", "0::/a/b\n",
			map[string]string{"a/b/cpu.max": "max 100000\n", "a/cpuset.cpus.effective": "0-5\n", "cpuset.cpus.effective": "0-7\n"},
			"0-5", 0,
		},
		{
			"v1", "4:cpuset:/docker/x\n3:cpu,cpuacct:/docker/x\n1:name=systemd:/\n0::/\n",
			map[string]string{"cpuset/docker/x/cpuset.cpus": "1,3\n", "cpu/docker/x/cpu.cfs_quota_us": "200000\n", "cpu/docker/x/cpu.cfs_period_us": "50000\n"},
			"1,3", 4,
		},
		{
			"v1 in a container", "4:cpuset:/docker/x\n3:cpu:/docker/x\n",
			map[string]string{"cpuset/cpuset.effective_cpus": "6\n", "cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
			"6", 0,
		},
		{"nonsense", "4:cpuset\nx\n0::/\n", map[string]string{"cpuset.cpus.effective": "9-2\n", "cpu.max": "many\n"}, "0-7", 0},
	} {
		files := fstest.MapFS{
			"sys/devices/system/cpu/online": {Data: []byte("0-7\n")},
			"proc/self/cgroup":              {Data: []byte(tt.self)},
		}
		for name, text := range tt.files {
			files["sys/fs/cgroup/"+name] = &fstest.MapFile{Data: []byte(text)}
		}
		c := read(t, Recorded(files)).CPU
		if c.Cpuset.String() != tt.cpuset || c.Quota != tt.quota {
			t.Errorf("%s: cpuset %s, quota %v; want %s, %v", tt.name, c.Cpuset, c.Quota, tt.cpuset, tt.quota)
		}
	}
}

// The queue is in the name of the interrupt, in each driver's own way.
func TestInterrupts(t *testing.T) {
	for _, tt := range []struct {
		name  string
		queue int
	}{
		{"ice-eth0-TxRx-12", 12},
		{"i40e-eth0-TxRx-0", 0},
		{"eth0-TxRx-3", 3},
		{"eth0-Tx-Rx-7", 7},
		{"mlx5_comp31@pci:0000:3b:00.0", 31},
		{"virtio2-input.1", 1},
		{"virtio2-output.1", 1},
		{"virtio2-config", -1},
		{"eth0-rx-2", 2},
		{"eth0", -1},
		{"mlx5_async0@pci:0000:3b:00.0", -1},
		{"ice-0000:b1:00.0:misc", -1},
		{"ena-mgmnt@pci:0000:00:05.0", -1},
	} {
		files := fstest.MapFS{
			"sys/devices/system/cpu/online":                {Data: []byte("0-1\n")},
			"proc/interrupts":                              {Data: []byte("      CPU0 CPU1\n 30:  5  7  PCI-MSIX-0000:01:00.0  2-edge  " + tt.name + "\n NMI:  0  0  Non-maskable interrupts\n  9: 1\n")},
			"proc/irq/30/smp_affinity_list":                {Data: []byte("0-1\n")},
			"sys/class/net/eth0/ifindex":                   {Data: []byte("2\n")},
			"sys/bus/pci/devices/0000:01:00.0/msi_irqs/30": {Data: []byte("msix\n")},
			"nic/eth0.json":                                {Data: []byte(`{"driver":"x","bus":"0000:01:00.0"}`)},
		}
		inv := read(t, Recorded(files))
		if len(inv.IRQs) != 1 {
			t.Fatalf("%+v", inv.IRQs)
		}
		if q := inv.IRQs[0]; q.Queue != tt.queue || q.Interface != "eth0" || q.Name != tt.name || q.Count != 12 || q.Effective.String() != "0-1" {
			t.Errorf("%s: %+v", tt.name, q)
		}
	}
}

func TestRecordedCannotBeChanged(t *testing.T) {
	m := tree(t, "container")
	if err := m.Set(Setting{"eth0", KindRing, "rx"}, "1"); err == nil {
		t.Error("it can")
	}
	if _, err := m.NIC("eth9"); err == nil || !strings.Contains(err.Error(), "eth9") {
		t.Errorf("unknown interface: %v", err)
	}
	_, _ = fs.Stat(m, "proc")
}
