// Package hwprofile knows the CPUs and network interfaces of a machine, makes
// the plan that ties workers, cores, queues and interrupts together, changes
// the machine accordingly, and puts it back.
//
// Read takes an Inventory: from the running machine (Live) or from a recorded
// one (Recorded). MakePlan is a pure function of the inventory, the drivers'
// Profiles and a Request. Tune and Apply carry a plan out; what they change is
// in a state file before it is changed, and Restore undoes it, also after the
// process was killed. Check says what makes a machine slow or broken.
//
// How cores are chosen: one thread of each physical core, those on the NUMA
// node of the interfaces first, CPU 0's core last of all, since the kernel
// puts its own work there. The interrupts of a queue go to the other thread of
// its worker's core, where the caches are shared and nothing else runs, or to
// the worker's own CPU where cores have one thread. The control plane and the
// Go runtime get the cores that are left.
//
// Nothing here is safe for concurrent use on one value. Functions of the live
// machine look at the network namespace of the calling thread; /sys must be of
// the same (`ip netns exec` sees to that).
package hwprofile

import "fmt"

// Inventory is what a machine has.
type Inventory struct {
	CPU        CPU         `json:"cpu"`
	Memory     Memory      `json:"memory"`
	Kernel     Kernel      `json:"kernel"`
	Process    Process     `json:"process"`
	Interfaces []Interface `json:"interfaces"` // by name; without loopback
	IRQs       []IRQ       `json:"irqs"`       // by number
	// What could not be read, and why. Nothing of it keeps a plan from being made.
	Unknown []string `json:"unknown,omitempty"`
}

// CPU is the processors.
type CPU struct {
	CPUID
	Online   CPUs        `json:"online"`
	Allowed  CPUs        `json:"allowed"`            // by sched_setaffinity(2)
	Cpuset   CPUs        `json:"cpuset"`             // by the cgroup; all that are online if it says nothing
	Isolated CPUs        `json:"isolated,omitempty"` // isolcpus=
	NoHz     CPUs        `json:"nohz_full,omitempty"`
	Quota    float64     `json:"quota,omitempty"` // CPUs' worth of time that the cgroup allows; 0: no limit
	Threads  []CPUThread `json:"threads"`
	Nodes    []Node      `json:"nodes"`
}

// CPUID is what the processor says of itself.
type CPUID struct {
	Vendor     string   `json:"vendor"`
	Model      string   `json:"model"`
	Features   []string `json:"features"`             // sorted, by their names in klauspost/cpuid
	Hypervisor string   `json:"hypervisor,omitempty"` // vendor string; empty: none
	L1D        int      `json:"l1d"`                  // caches in bytes; 0: unknown
	L2         int      `json:"l2"`
	L3         int      `json:"l3"`
}

// CPUThread is a logical processor.
type CPUThread struct {
	ID       int    `json:"id"`
	Core     int    `json:"core"` // within the package
	Package  int    `json:"package"`
	Node     int    `json:"node"`     // NUMA; 0 if there are none
	Siblings CPUs   `json:"siblings"` // threads of the same core, itself among them
	Governor string `json:"governor,omitempty"`
}

// Node is a NUMA node.
type Node struct {
	ID       int   `json:"id"`
	CPUs     CPUs  `json:"cpus"`
	Distance []int `json:"distance"` // to each node, as the firmware tells
	MemKB    int64 `json:"mem_kb"`
}

// Memory is the memory and what of it may be locked.
type Memory struct {
	TotalKB     int64       `json:"total_kb"`
	AvailableKB int64       `json:"available_kb"`
	HugePages   []HugePages `json:"huge_pages"` // by size
	Memlock     int64       `json:"memlock"`    // soft limit in bytes; -1: none
}

// HugePages is the pool of one size.
type HugePages struct {
	SizeKB int `json:"size_kb"`
	Total  int `json:"total"`
	Free   int `json:"free"`
}

// Kernel is what the kernel is set to. Values that could not be read are empty.
type Kernel struct {
	Release         string `json:"release"`
	RTRuntime       string `json:"sched_rt_runtime_us"` // real-time throttling: µs of a second; -1: off
	ClockSource     string `json:"clocksource"`
	MultipathHash   string `json:"fib_multipath_hash_policy"`
	IPForward       string `json:"ip_forward"`
	ConntrackHelper bool   `json:"conntrack_pptp"` // nf_conntrack_pptp is there
	IRQBalance      bool   `json:"irqbalance"`     // is running
	TUN             bool   `json:"tun"`            // /dev/net/tun is there
}

// Process is what this process may.
type Process struct {
	Capabilities uint64 `json:"capabilities"` // effective, bits of capabilities(7)
}

// Interface is a network interface.
type Interface struct {
	Name   string   `json:"name"`
	Index  int      `json:"index"`
	Kind   string   `json:"kind"`            // ethernet, vlan, bond, bridge, veth, tun…
	Node   int      `json:"node"`            // NUMA; -1: unknown
	Speed  int      `json:"speed,omitempty"` // Mbit/s; 0: unknown
	MTU    int      `json:"mtu"`
	Up     bool     `json:"up"`
	Upper  []string `json:"upper,omitempty"` // VLANs, bonds and bridges on top
	Lower  []string `json:"lower,omitempty"` // what it is made of
	Peer   string   `json:"peer,omitempty"`  // the other end of a veth pair, if it is in this namespace
	Queues Queues   `json:"queues"`
	IRQs   []int    `json:"irqs,omitempty"` // ascending
	NIC
}

// Queues is what sysfs shows of an interface's queues.
type Queues struct {
	RX  int    `json:"rx"`
	TX  int    `json:"tx"`
	RPS []CPUs `json:"rps,omitempty"` // of each receive queue; empty: off
	XPS []CPUs `json:"xps,omitempty"` // of each transmit queue; empty: not set
}

// NIC is what the driver says, by ethtool and the netdev family of netlink.
// What is nil the driver does not tell.
type NIC struct {
	Driver   string             `json:"driver"`
	Version  string             `json:"version,omitempty"`
	Firmware string             `json:"firmware,omitempty"`
	Bus      string             `json:"bus,omitempty"`
	Channels *Channels          `json:"channels,omitempty"`
	Rings    *Rings             `json:"rings,omitempty"`
	Coalesce *Coalesce          `json:"coalesce,omitempty"`
	Features map[string]Feature `json:"features,omitempty"` // by the kernel's names
	RSS      *RSS               `json:"rss,omitempty"`
	NTuple   *NTuple            `json:"ntuple,omitempty"`
	XDP      *XDP               `json:"xdp,omitempty"`
}

// Channels is how many queues there are, and may be (ethtool -l).
type Channels struct {
	RX          int `json:"rx"`
	TX          int `json:"tx"`
	Combined    int `json:"combined"`
	MaxRX       int `json:"max_rx"`
	MaxTX       int `json:"max_tx"`
	MaxCombined int `json:"max_combined"`
}

// Rings is how many packets a queue holds (ethtool -g).
type Rings struct {
	RX    int `json:"rx"`
	TX    int `json:"tx"`
	MaxRX int `json:"max_rx"`
	MaxTX int `json:"max_tx"`
}

// Coalesce is how long the device saves up interrupts (ethtool -c).
type Coalesce struct {
	AdaptiveRX bool `json:"adaptive_rx"`
	AdaptiveTX bool `json:"adaptive_tx"`
	RXUsecs    int  `json:"rx_usecs"`
	TXUsecs    int  `json:"tx_usecs"`
	RXFrames   int  `json:"rx_frames"`
	TXFrames   int  `json:"tx_frames"`
}

// Feature is an offload (ethtool -k).
type Feature struct {
	On    bool `json:"on"`
	Fixed bool `json:"fixed,omitempty"` // cannot be changed
}

// RSS is how the device spreads packets over queues (ethtool -x, -n rx-flow-hash).
type RSS struct {
	Indirection []int               `json:"indirection"` // queue of each hash bucket
	Key         string              `json:"key"`         // hexadecimal
	Function    string              `json:"function"`
	Fields      map[string][]string `json:"fields"` // hashed, by flow type
}

// NTuple is the device's flow rules (ethtool -n).
type NTuple struct {
	On    bool `json:"on"`
	Rules int  `json:"rules"`
	Room  int  `json:"room"` // 0: unknown
}

// XDP is what the driver's XDP can do (netdev family of netlink, Linux 6.3).
type XDP struct {
	Features  []string `json:"features"`
	ZCMaxSegs int      `json:"zc_max_segs,omitempty"`
	// Program is the ID of what is attached; 0: nothing.
	Program int `json:"program,omitempty"`
}

// IRQ is an interrupt with a handler.
type IRQ struct {
	Number    int    `json:"number"`
	Name      string `json:"name"`
	Interface string `json:"interface,omitempty"`
	Queue     int    `json:"queue"`     // of the interface; -1: of none
	Affinity  CPUs   `json:"affinity"`  // where it may go
	Effective CPUs   `json:"effective"` // where it goes
	Count     uint64 `json:"count"`     // since start, all CPUs
}

// Interface returns the interface of that name, or nil.
func (inv *Inventory) Interface(name string) *Interface {
	for i := range inv.Interfaces {
		if inv.Interfaces[i].Name == name {
			return &inv.Interfaces[i]
		}
	}
	return nil
}

// irq returns the interrupt of that number, or nil.
func (inv *Inventory) irq(number int) *IRQ {
	for i := range inv.IRQs {
		if inv.IRQs[i].Number == number {
			return &inv.IRQs[i]
		}
	}
	return nil
}

// Usable is the CPUs that this process may put threads on: what its affinity
// and its cgroup allow, and isolated CPUs, which are kept out of the affinity
// that processes are born with, unless the affinity was narrowed by hand.
func (c *CPU) Usable() CPUs {
	s := c.Allowed
	if housekeeping := c.Online.Without(c.Isolated); len(housekeeping.Without(s)) == 0 {
		s = s.With(c.Isolated)
	}
	if s = s.And(c.Cpuset).And(c.Online); len(s) == 0 {
		return c.Online
	}
	return s
}

// thread returns the logical processor of that number.
func (c *CPU) thread(id int) CPUThread {
	for _, t := range c.Threads {
		if t.ID == id {
			return t
		}
	}
	return CPUThread{ID: id, Core: id, Siblings: CPUs{id}}
}

// distance is the cost of memory on node b seen from node a; a node of -1 is
// as near as can be.
func (c *CPU) distance(a, b int) int {
	for _, n := range c.Nodes {
		if n.ID != a {
			continue
		}
		for i, m := range c.Nodes {
			if m.ID == b && i < len(n.Distance) {
				return n.Distance[i]
			}
		}
	}
	return 10 // local, by the ACPI's SLIT
}

// queueCount is how many queues the driver is set to: receive and transmit.
func (n *Interface) queueCount() (rx, tx int) {
	if c := n.Channels; c != nil && c.Combined+c.RX > 0 {
		return c.Combined + c.RX, c.Combined + c.TX
	}
	return max(n.Queues.RX, 1), max(n.Queues.TX, 1)
}

// speed is the link speed in words.
func speed(mbit int) string {
	switch {
	case mbit <= 0:
		return "speed unknown"
	case mbit%1000 == 0:
		return fmt.Sprintf("%d Gbit/s", mbit/1000)
	}
	return fmt.Sprintf("%d Mbit/s", mbit)
}
