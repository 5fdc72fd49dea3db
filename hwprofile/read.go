package hwprofile

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Read takes the inventory of a machine. What cannot be read is left out and
// named in Unknown; an error means that not even the CPUs are known.
func Read(m Machine) (*Inventory, error) {
	r := &reader{m: m, inv: &Inventory{}}
	if err := r.cpu(); err != nil {
		return nil, fmt.Errorf("hardware: %w", err)
	}
	r.memory()
	r.kernel()
	r.process()
	r.irqs()
	r.interfaces()
	return r.inv, nil
}

// UsableCPUs is what CPU.Usable of the machine's inventory is, and no more is
// read.
func UsableCPUs(m Machine) (CPUs, error) {
	r := &reader{m: m, inv: &Inventory{}}
	if err := r.cpu(); err != nil {
		return nil, fmt.Errorf("hardware: %w", err)
	}
	return r.inv.CPU.Usable(), nil
}

// reader reads the files of a machine.
type reader struct {
	m   Machine
	inv *Inventory
}

func (r *reader) unknown(what string, err error) {
	r.inv.Unknown = append(r.inv.Unknown, fmt.Sprintf("%s: %v", what, err))
}

// text is what a file says, without the space around it; empty if there is no
// such file.
func (r *reader) text(name string) string {
	b, err := fs.ReadFile(r.m, name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func (r *reader) number(name string, otherwise int) int {
	n, err := strconv.Atoi(r.text(name))
	if err != nil {
		return otherwise
	}
	return n
}

func (r *reader) has(name string) bool {
	_, err := fs.Stat(r.m, name)
	return err == nil
}

func (r *reader) list(name string) CPUs {
	s, err := ParseList(r.text(name))
	if err != nil {
		r.unknown("/"+name, err)
	}
	return s
}

func (r *reader) mask(name string) CPUs {
	text := r.text(name)
	if text == "" {
		return nil
	}
	s, err := ParseMask(text)
	if err != nil {
		r.unknown("/"+name, err)
	}
	return s
}

// numbered lists the entries of a directory that are prefix and a number,
// ascending by it.
func (r *reader) numbered(dir, prefix string) (numbers []int) {
	all, _ := names(r.m, dir)
	for _, name := range all {
		digits, ok := strings.CutPrefix(name, prefix)
		if n, err := strconv.Atoi(digits); ok && err == nil {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers
}

const (
	cpuDir  = "sys/devices/system/cpu"
	nodeDir = "sys/devices/system/node"
	netDir  = "sys/class/net"
)

func (r *reader) cpu() (err error) {
	c := &r.inv.CPU
	if c.Online, err = ParseList(r.text(cpuDir + "/online")); err != nil || len(c.Online) == 0 {
		return fmt.Errorf("/%s/online tells no CPUs: %w", cpuDir, errors.Join(err, fs.ErrNotExist))
	}
	if c.CPUID, err = r.m.CPUID(); err != nil {
		r.unknown("processor", err)
	}
	c.Allowed = c.Online
	if s, err := ParseList(r.field("proc/self/status", "Cpus_allowed_list")); err == nil && len(s) > 0 {
		c.Allowed = s.And(c.Online)
	}
	c.Isolated = r.list(cpuDir + "/isolated").And(c.Online)
	if s, err := ParseList(r.text(cpuDir + "/nohz_full")); err == nil { // "(null)" without
		c.NoHz = s
	}
	r.cgroup()
	nodeOf := make(map[int]int)
	for _, id := range r.numbered(nodeDir, "node") {
		dir := fmt.Sprintf("%s/node%d", nodeDir, id)
		n := Node{ID: id, CPUs: r.list(dir + "/cpulist")}
		for f := range strings.FieldsSeq(r.text(dir + "/distance")) {
			d, _ := strconv.Atoi(f)
			n.Distance = append(n.Distance, d)
		}
		n.MemKB = kilobytes(r.field(dir+"/meminfo", fmt.Sprintf("Node %d MemTotal", id)))
		for _, cpu := range n.CPUs {
			nodeOf[cpu] = id
		}
		c.Nodes = append(c.Nodes, n)
	}
	for _, id := range c.Online {
		dir := fmt.Sprintf("%s/cpu%d", cpuDir, id)
		t := CPUThread{
			ID: id, Node: nodeOf[id],
			Core:     r.number(dir+"/topology/core_id", id),
			Package:  max(r.number(dir+"/topology/physical_package_id", 0), 0),
			Siblings: r.list(dir + "/topology/thread_siblings_list"),
			Governor: r.text(dir + "/cpufreq/scaling_governor"),
		}
		if t.Siblings = t.Siblings.And(c.Online); !t.Siblings.Has(id) {
			t.Siblings = t.Siblings.With(CPUs{id})
		}
		c.Threads = append(c.Threads, t)
	}
	r.caches()
	return nil
}

// caches fills in what the processor did not tell. The sizes in sysfs are of
// the CPU that is looked at, in kilobytes: "32K".
func (r *reader) caches() {
	c := &r.inv.CPU
	dir := fmt.Sprintf("%s/cpu%d/cache", cpuDir, c.Online[0])
	for _, i := range r.numbered(dir, "index") {
		d := fmt.Sprintf("%s/index%d/", dir, i)
		k, err := strconv.Atoi(strings.TrimSuffix(r.text(d+"size"), "K"))
		if err != nil {
			continue
		}
		switch level, kind := r.text(d+"level"), r.text(d+"type"); {
		case level == "1" && kind == "Data":
			c.L1D = k << 10
		case level == "2":
			c.L2 = k << 10
		case level == "3":
			c.L3 = k << 10
		}
	}
}

// cgroup reads what the process's control groups allow, of either version.
func (r *reader) cgroup() {
	c := &r.inv.CPU
	c.Cpuset = c.Online
	for line := range strings.Lines(r.text("proc/self/cgroup")) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3) // number:controllers:path
		if len(f) != 3 {
			continue
		}
		controllers, group := strings.Split(f[1], ","), f[2]
		set := func(text string) {
			if s, err := ParseList(text); err == nil && len(s) > 0 {
				c.Cpuset = c.Cpuset.And(s)
			}
		}
		switch {
		case f[0] == "0" && f[1] == "":
			for _, mount := range []string{"sys/fs/cgroup", "sys/fs/cgroup/unified"} {
				set(r.inGroup(mount, group, "cpuset.cpus.effective"))
				quota, period, _ := strings.Cut(r.inGroup(mount, group, "cpu.max"), " ")
				r.quota(quota, period)
			}
		case slices.Contains(controllers, "cpuset"):
			text := r.inGroup("sys/fs/cgroup/cpuset", group, "cpuset.effective_cpus")
			if text == "" {
				text = r.inGroup("sys/fs/cgroup/cpuset", group, "cpuset.cpus")
			}
			set(text)
		case slices.Contains(controllers, "cpu"):
			const mount = "sys/fs/cgroup/cpu"
			r.quota(r.inGroup(mount, group, "cpu.cfs_quota_us"), r.inGroup(mount, group, "cpu.cfs_period_us"))
		}
	}
	if len(c.Cpuset) == 0 {
		c.Cpuset = c.Online
	}
}

func (r *reader) quota(quota, period string) {
	q, err1 := strconv.ParseFloat(quota, 64) // "max" and -1 are no limit
	p, err2 := strconv.ParseFloat(period, 64)
	if err1 == nil && err2 == nil && q > 0 && p > 0 {
		r.inv.CPU.Quota = q / p
	}
}

// inGroup reads a file of a control group, or of the nearest one above that
// has it: a container's own group is at the mount's root whatever its path.
func (r *reader) inGroup(mount, group, file string) string {
	for {
		if text := r.text(path.Join(mount, group, file)); text != "" {
			return text
		}
		if group == "/" || group == "." || group == "" {
			return ""
		}
		group = path.Dir(group)
	}
}

// field is what follows "name:" in a line of a file.
func (r *reader) field(file, name string) string {
	for line := range strings.Lines(r.text(file)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// kilobytes reads "8218400 kB".
func kilobytes(text string) int64 {
	n, _ := strconv.ParseInt(strings.TrimSuffix(text, " kB"), 10, 64)
	return n
}

func (r *reader) memory() {
	m := &r.inv.Memory
	m.TotalKB = kilobytes(r.field("proc/meminfo", "MemTotal"))
	m.AvailableKB = kilobytes(r.field("proc/meminfo", "MemAvailable"))
	const dir = "sys/kernel/mm/hugepages"
	all, _ := names(r.m, dir)
	for _, name := range all { // hugepages-2048kB
		size, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(name, "hugepages-"), "kB"))
		if err == nil {
			d := dir + "/" + name
			m.HugePages = append(m.HugePages, HugePages{
				SizeKB: size, Total: r.number(d+"/nr_hugepages", 0), Free: r.number(d+"/free_hugepages", 0),
			})
		}
	}
	slices.SortFunc(m.HugePages, func(a, b HugePages) int { return a.SizeKB - b.SizeKB })
	for line := range strings.Lines(r.text("proc/self/limits")) {
		if rest, ok := strings.CutPrefix(line, "Max locked memory"); ok {
			soft := strings.Fields(rest)[0]
			if soft == "unlimited" {
				m.Memlock = -1
			} else {
				m.Memlock, _ = strconv.ParseInt(soft, 10, 64)
			}
		}
	}
}

func (r *reader) kernel() {
	r.inv.Kernel = Kernel{
		Release:         r.text("proc/sys/kernel/osrelease"),
		RTRuntime:       r.text("proc/sys/kernel/sched_rt_runtime_us"),
		ClockSource:     r.text("sys/devices/system/clocksource/clocksource0/current_clocksource"),
		MultipathHash:   r.text("proc/sys/net/ipv4/fib_multipath_hash_policy"),
		IPForward:       r.text("proc/sys/net/ipv4/ip_forward"),
		ConntrackHelper: r.has("sys/module/nf_conntrack_pptp"),
		TUN:             r.has("dev/net/tun"),
	}
	for _, pid := range r.numbered("proc", "") {
		if r.text(fmt.Sprintf("proc/%d/comm", pid)) == "irqbalance" {
			r.inv.Kernel.IRQBalance = true
		}
	}
}

func (r *reader) process() {
	r.inv.Process.Capabilities, _ = strconv.ParseUint(r.field("proc/self/status", "CapEff"), 16, 64)
}

// irqs reads /proc/interrupts: a column for each CPU that is online, then
// chip, hardware number and the names of the handlers.
func (r *reader) irqs() {
	s := bufio.NewScanner(strings.NewReader(r.text("proc/interrupts")))
	s.Buffer(nil, 1<<20)
	columns := 0
	for s.Scan() {
		f := strings.Fields(s.Text())
		if columns == 0 {
			columns = len(f)
			continue
		}
		number, err := strconv.Atoi(strings.TrimSuffix(f[0], ":"))
		if err != nil || len(f) < columns+2 {
			continue // NMI, LOC and the like
		}
		irq := IRQ{Number: number, Queue: -1, Name: handler(f[columns+1:])}
		for _, n := range f[1 : columns+1] {
			count, _ := strconv.ParseUint(n, 10, 64)
			irq.Count += count
		}
		dir := fmt.Sprintf("proc/irq/%d/", number)
		irq.Affinity = r.list(dir + "smp_affinity_list")
		if irq.Effective = r.list(dir + "effective_affinity_list"); irq.Effective == nil {
			irq.Effective = irq.Affinity
		}
		r.inv.IRQs = append(r.inv.IRQs, irq)
	}
	slices.SortFunc(r.inv.IRQs, func(a, b IRQ) int { return a.Number - b.Number })
}

// handler is the name at the end of a line: what follows the hardware number,
// "4-edge" or "524289-edge" or "0-edge".
func handler(f []string) string {
	for i, word := range f {
		if strings.HasSuffix(word, "-edge") || strings.HasSuffix(word, "-fasteoi") || word == "Edge" || word == "Level" {
			return strings.Join(f[i+1:], " ")
		}
	}
	return f[len(f)-1]
}

// queueName finds the queue in the name of an interrupt, as the drivers form
// them: "ice-eth0-TxRx-3", "eth0-TxRx-3", "eth0-Tx-Rx-3", "mlx5_comp3@pci:…",
// "virtio2-input.0", "virtio2-output.0", "eth0-rx-0".
var queueName = regexp.MustCompile(`(?:TxRx-|Tx-Rx-|rx-|tx-|mlx5_comp|input\.|output\.)(\d+)(?:@.*)?$`)

func (r *reader) interfaces() {
	all, err := r.m.Names()
	if err != nil {
		r.unknown("interfaces", err)
	}
	slices.Sort(all)
	for _, name := range all {
		if name != "lo" && (r.has(netDir+"/"+name+"/ifindex") || !r.has(netDir)) {
			r.inv.Interfaces = append(r.inv.Interfaces, r.iface(name))
		} else if name != "lo" {
			r.unknown(name, errors.New("/sys shows another network namespace: start by `ip netns exec`, or in a mount namespace with a /sys of its own"))
		}
	}
	for i := range r.inv.Interfaces {
		n := &r.inv.Interfaces[i]
		if n.Driver != "veth" {
			continue
		}
		for _, peer := range r.inv.Interfaces {
			if peer.Driver == "veth" && peer.Index != n.Index && peer.Index == r.number(netDir+"/"+n.Name+"/iflink", 0) &&
				n.Index == r.number(netDir+"/"+peer.Name+"/iflink", 0) {
				n.Peer = peer.Name
			}
		}
	}
}

func (r *reader) iface(name string) Interface {
	dir := netDir + "/" + name + "/"
	n := Interface{
		Name: name, Index: r.number(dir+"ifindex", 0), Kind: "ethernet",
		Node: r.number(dir+"device/numa_node", -1), Speed: max(r.number(dir+"speed", 0), 0),
		MTU: r.number(dir+"mtu", 0), Up: r.text(dir+"operstate") == "up",
	}
	var err error
	if n.NIC, err = r.m.NIC(name); err != nil {
		r.unknown(name, err)
	}
	for line := range strings.Lines(r.text(dir + "uevent")) {
		if kind, ok := strings.CutPrefix(strings.TrimSpace(line), "DEVTYPE="); ok {
			n.Kind = kind
		}
	}
	if n.Driver == "veth" || n.Driver == "tun" {
		n.Kind = n.Driver
	}
	entries, _ := names(r.m, netDir+"/"+name)
	for _, e := range entries {
		if upper, ok := strings.CutPrefix(e, "upper_"); ok {
			n.Upper = append(n.Upper, upper)
		}
		if lower, ok := strings.CutPrefix(e, "lower_"); ok {
			n.Lower = append(n.Lower, lower)
		}
	}
	for _, q := range r.numbered(dir+"queues", "rx-") {
		n.Queues.RX++
		n.Queues.RPS = append(n.Queues.RPS, r.mask(fmt.Sprintf("%squeues/rx-%d/rps_cpus", dir, q)))
	}
	for _, q := range r.numbered(dir+"queues", "tx-") {
		n.Queues.TX++
		n.Queues.XPS = append(n.Queues.XPS, r.mask(fmt.Sprintf("%squeues/tx-%d/xps_cpus", dir, q)))
	}
	// A device below virtio is not on the PCI bus itself, but its bus address is.
	pci := "sys/bus/pci/devices/" + n.Bus
	if n.Bus != "" && fs.ValidPath(pci) {
		if n.Node < 0 {
			n.Node = r.number(pci+"/numa_node", -1)
		}
		n.IRQs = r.numbered(pci+"/msi_irqs", "")
	}
	for _, number := range n.IRQs {
		if irq := r.inv.irq(number); irq != nil {
			irq.Interface = name
			if m := queueName.FindStringSubmatch(irq.Name); m != nil {
				irq.Queue, _ = strconv.Atoi(m[1])
			}
		}
	}
	return n
}
