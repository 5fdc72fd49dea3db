package hwprofile

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Level is how bad a finding is.
type Level string

// The levels.
const (
	OK   Level = "ok"
	Warn Level = "warn" // slower than it could be, or worth a look
	Bad  Level = "bad"  // broken, or about to be
)

// Finding is what a check found.
type Finding struct {
	Check string `json:"check"`
	Level Level  `json:"level"`
	Found string `json:"found"`
	Why   string `json:"why,omitempty"`  // it matters; empty if all is well
	Mend  string `json:"mend,omitempty"` // the command, or what to do
}

// checker collects findings.
type checker struct {
	inv  *Inventory
	plan *Plan
	list []Finding
}

func (c *checker) add(check string, level Level, found, why, mend string) {
	f := Finding{Check: check, Level: level, Found: found}
	if level != OK {
		f.Why, f.Mend = why, mend
	}
	c.list = append(c.list, f)
}

// Check looks for what makes a machine slow or broken as a PPTP appliance with
// this plan. firewall and unread are what Machine.Firewall returned.
func Check(inv *Inventory, plan *Plan, firewall string, unread error) []Finding {
	c := &checker{inv: inv, plan: plan}
	c.rights()
	c.memory()
	c.processors()
	for _, pi := range plan.Interfaces {
		n := inv.Interface(pi.Name)
		c.queues(n, pi)
		c.offloads(n, pi)
		c.xdp(n, pi)
	}
	c.interrupts()
	c.network()
	if unread != nil {
		c.add("firewall", Warn, "cannot be looked at: "+unread.Error(),
			"it may drop IP protocol 47 (GRE) or TCP port 1723", "sudo xpptp doctor")
	} else {
		c.firewall(firewall)
	}
	return c.list
}

// level is Bad or Warn if something is wrong, else OK.
func level(wrong bool, how Level) Level {
	if wrong {
		return how
	}
	return OK
}

// capabilities of capabilities(7) that serve needs.
var capabilities = []struct {
	bit  int
	name string
	how  Level
	why  string
}{
	{12, "CAP_NET_ADMIN", Bad, "TUN devices, XDP and every setting of an interface need it"},
	{13, "CAP_NET_RAW", Bad, "GRE is sent and received by raw and packet sockets"},
	{39, "CAP_BPF", Warn, "the XDP program cannot be loaded without it: AF_XDP is not used"},
}

const capSysAdmin = 21 // includes CAP_BPF

func (c *checker) rights() {
	has := func(bit int) bool { return c.inv.Process.Capabilities&(1<<bit) != 0 }
	var missing, why []string
	how := OK
	for _, k := range capabilities {
		if has(k.bit) || k.name == "CAP_BPF" && has(capSysAdmin) {
			continue
		}
		missing = append(missing, k.name)
		why = append(why, k.name+": "+k.why)
		if how != Bad {
			how = k.how
		}
	}
	found := "all that is needed"
	if missing != nil {
		found = strings.Join(missing, ", ") + " missing"
	}
	c.add("capabilities", how, found, strings.Join(why, "; "),
		"sudo setcap cap_net_admin,cap_net_raw,cap_bpf+ep $(command -v xpptp)")
	c.add("tun", level(!c.inv.Kernel.TUN, Bad), map[bool]string{true: "/dev/net/tun is there", false: "/dev/net/tun is not there"}[c.inv.Kernel.TUN],
		"calls end in a TUN device", "sudo modprobe tun")
}

// umemPerWorker is what AF_XDP locks for a worker: 8192 frames of 2048 bytes.
const umemPerWorker = 8192 * 2048

func (c *checker) memory() {
	const ipcLock = 14
	need := int64(len(c.plan.Workers)) * umemPerWorker
	limit := c.inv.Memory.Memlock
	free := limit < 0 || limit >= need || c.inv.Process.Capabilities&(1<<ipcLock) != 0
	found := fmt.Sprintf("%d kB may be locked, %d kB are for %s", limit>>10, need>>10, count(len(c.plan.Workers), "worker"))
	if limit < 0 {
		found = "no limit"
	}
	if limit >= 0 && limit < need && free {
		found += "; CAP_IPC_LOCK lifts the limit"
	}
	c.add("memlock", level(!free, Bad), found, "AF_XDP locks the memory of its frames, and does not start without",
		"ulimit -l unlimited; for a systemd unit LimitMEMLOCK=infinity")
	pages := 0
	for _, h := range c.inv.Memory.HugePages {
		if h.SizeKB == 2048 {
			pages = h.Free
		}
	}
	want := len(c.plan.Workers) * umemPerWorker >> 21
	c.add("huge pages", level(pages < want, Warn), fmt.Sprintf("%d of 2 MB are free, frames for %s take %d", pages, count(len(c.plan.Workers), "worker"), want),
		"frames on small pages cost a look-up in the page table for each packet", fmt.Sprintf("sudo sysctl -w vm.nr_hugepages=%d", want))
}

func (c *checker) processors() {
	cpu := &c.inv.CPU
	c.add("cores", level(len(cpu.Usable()) < 2 || len(c.plan.Control.Without(c.workerCPUs())) == 0, Warn),
		fmt.Sprintf("%s may be used; workers on %s, control plane on %s", count(len(cpu.Usable()), "CPU"), c.workerCPUs(), c.plan.Control),
		"a worker that shares its CPU with the control plane makes packets wait", "give the machine, or the container's cpuset, another CPU")
	if cpu.Quota > 0 {
		c.add("cpu quota", level(cpu.Quota < float64(len(c.plan.Workers)+1), Warn), fmt.Sprintf("%.1f CPUs' worth of time", cpu.Quota),
			"a quota stops all threads for the rest of a period when it is used up: packets are lost in bursts",
			"give the container CPUs of its own (--cpuset-cpus) in place of a quota (--cpus)")
	}
	if g := governors(cpu); g != "" {
		slow := g != "performance"
		c.add("governor", level(slow, Warn), g, "the clock of a core goes up only some time after packets come",
			"sudo cpupower frequency-set -g performance")
	}
	if rt := c.inv.Kernel.RTRuntime; rt != "" && rt != "-1" {
		c.add("real-time throttling", OK, rt+" µs of each second for real-time threads; workers are not real-time", "", "")
	}
	if clock := c.inv.Kernel.ClockSource; clock != "" {
		fast := slices.Contains([]string{"tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter"}, clock)
		c.add("clock", level(!fast, Warn), clock, "workers read the time for every burst; this clock takes a system call, or worse",
			"boot with clocksource=tsc, if the processor's is stable")
	}
}

func (c *checker) workerCPUs() CPUs {
	var s CPUs
	for _, w := range c.plan.Workers {
		s = s.With(CPUs{w.CPU})
	}
	return s
}

// changes is how many changes of these kinds the plan has for an interface.
func (c *checker) changes(name string, kinds ...Kind) (list []Change) {
	for _, ch := range c.plan.Changes {
		if ch.Interface == name && slices.Contains(kinds, ch.Kind) {
			list = append(list, ch)
		}
	}
	return list
}

func (c *checker) queues(n *Interface, pi PlanInterface) {
	rx, _ := n.queueCount()
	workers := len(c.plan.Workers)
	found := count(rx, "receive queue") + ", " + count(workers, "worker")
	mend := "the device has no more; a machine with a larger NIC, or fewer workers"
	if len(pi.Queues) > rx {
		mend = "sudo xpptp hw apply --interface " + n.Name
	}
	c.add("queues of "+n.Name, level(rx < workers, Warn), found,
		"one CPU takes in the packets of several workers", mend)
	if r := n.RSS; r != nil && len(r.Indirection) > 0 {
		hit := make(map[int]bool)
		for _, q := range r.Indirection {
			hit[q] = true
		}
		c.add("RSS of "+n.Name, level(len(hit) < rx, Warn), fmt.Sprintf("the table uses %d of %d queues", len(hit), rx),
			"queues that the table does not name stay empty", fmt.Sprintf("sudo ethtool -X %s default", n.Name))
	}
	if n.Node >= 0 && len(c.inv.CPU.Nodes) > 1 {
		away := 0
		for _, w := range c.plan.Workers {
			if w.Node != n.Node {
				away++
			}
		}
		c.add("NUMA of "+n.Name, level(away > 0, Warn), fmt.Sprintf("on node %d; %d of %d workers are on another", n.Node, away, len(c.plan.Workers)),
			"each packet crosses between the sockets", fmt.Sprintf("xpptp serve --cpus with CPUs of node %d", n.Node))
	}
}

func (c *checker) offloads(n *Interface, pi PlanInterface) {
	var off, why []string
	for _, ch := range c.changes(n.Name, KindFeature) {
		off = append(off, ch.Name)
		if !slices.Contains(why, ch.Why) {
			why = append(why, ch.Why)
		}
	}
	found := "all off that must be"
	if off != nil {
		found = strings.Join(off, ", ") + " on"
	}
	how := Warn
	if slices.ContainsFunc(off, func(f string) bool { return strings.Contains(f, "lro") || strings.Contains(f, "gro-hw") }) {
		how = Bad
	}
	c.add("offloads of "+n.Name, level(off != nil, how), found, "off, "+strings.Join(why, "; "),
		fmt.Sprintf("sudo ethtool -K %s %s off", n.Name, strings.Join(off, " off ")))
	if n.Driver != "veth" {
		return
	}
	const lost = "packets that the peer's kernel sends come without checksum and too large for XDP: they are lost, or damaged"
	if n.Peer == "" {
		c.add("veth peer of "+n.Name, Warn, "in another namespace: its offloads cannot be seen from here", lost,
			"in the peer's namespace: ethtool -K PEER tx off tso off gso off")
		return
	}
	peer := c.inv.Interface(n.Peer)
	var on []string
	for _, f := range pi.Profile.Off {
		if s := peer.Features[f]; s.On && strings.HasPrefix(f, "tx-") {
			on = append(on, f)
		}
	}
	found = "checksum and segmentation are off at " + n.Peer
	if on != nil {
		found = n.Peer + ": " + strings.Join(on, ", ") + " on"
	}
	c.add("veth peer of "+n.Name, level(on != nil, Warn), found, lost, fmt.Sprintf("sudo ethtool -K %s tx off tso off gso off", n.Peer))
}

func (c *checker) xdp(n *Interface, pi PlanInterface) {
	if most := pi.Profile.XDP.MaxMTU; most > 0 {
		c.add("MTU of "+n.Name, level(n.MTU > most, Bad), fmt.Sprint(n.MTU), fmt.Sprintf("the driver refuses XDP above %d", most),
			fmt.Sprintf("sudo ip link set %s mtu 1500", n.Name))
	}
	x := n.XDP
	if x == nil {
		return // the kernel does not tell
	}
	found := "in the driver"
	switch {
	case slices.Contains(x.Features, "xsk-zerocopy"):
		found += ", zero-copy"
	case len(x.Features) > 0:
		found += ", with a copy of each packet"
	default:
		found = "not in the driver: the kernel's generic way"
	}
	c.add("XDP of "+n.Name, level(len(x.Features) == 0, Warn), found, "generic XDP runs late and copies: about half the packets a second",
		"an interface with a driver that has XDP, or --io tpacket")
	c.add("XDP program of "+n.Name, level(x.Program != 0, Warn), map[bool]string{true: fmt.Sprintf("program %d is attached", x.Program), false: "none of others"}[x.Program != 0],
		"serve leaves another's program alone, and falls back to packet sockets", fmt.Sprintf("sudo ip link set %s xdp off, if nobody needs it", n.Name))
}

func (c *checker) interrupts() {
	workers := c.workerCPUs()
	planned := make(map[int]bool)
	ours := make(map[string]bool)
	for _, pi := range c.plan.Interfaces {
		ours[pi.Name] = true
		for _, q := range pi.Queues {
			for _, number := range q.IRQs {
				planned[number] = true
			}
		}
	}
	var moved []string
	for _, pi := range c.plan.Interfaces {
		for _, ch := range c.changes(pi.Name, KindIRQ) {
			moved = append(moved, ch.Name)
		}
	}
	if len(planned) > 0 {
		found := "where the plan wants them"
		if moved != nil {
			found = count(len(moved), "interrupt") + " of queues elsewhere than planned: " + strings.Join(moved, ", ")
		}
		c.add("interrupts of queues", level(moved != nil, Warn), found, "packets are taken in on one CPU and worked on by another", "sudo xpptp hw apply")
	}
	// Few interrupts do no harm: what fires once a second at boot and never
	// again is not worth a warning.
	const many = 1000
	var foreign, mend []string
	for _, irq := range c.inv.IRQs {
		if !planned[irq.Number] && !ours[irq.Interface] && irq.Count >= many && len(irq.Effective) > 0 && len(irq.Effective.Without(workers)) == 0 && len(c.plan.Control.Without(workers)) > 0 {
			foreign = append(foreign, fmt.Sprintf("%d (%s) on CPU %s", irq.Number, irq.Name, irq.Effective))
			mend = append(mend, fmt.Sprintf("echo %s | sudo tee /proc/irq/%d/smp_affinity_list", c.plan.Control.Without(workers), irq.Number))
		}
	}
	found := "none that is busy"
	if foreign != nil {
		found = strings.Join(foreign, "; ")
	}
	c.add("other interrupts on worker CPUs", level(foreign != nil, Warn), found, "each takes the worker's CPU away for some µs", strings.Join(mend, "\n"))
	c.add("irqbalance", level(c.inv.Kernel.IRQBalance && len(planned) > 0, Warn), map[bool]string{true: "it is running", false: "it is not running"}[c.inv.Kernel.IRQBalance],
		"it moves interrupts away from where the plan puts them", "sudo systemctl stop irqbalance, or ban the plan's CPUs from it (IRQBALANCE_BANNED_CPULIST)")
}

func (c *checker) network() {
	k := &c.inv.Kernel
	if k.IPForward != "" {
		c.add("ip_forward", level(k.IPForward == "0", Warn), k.IPForward, "the kernel does not pass on what comes out of calls", "sudo sysctl -w net.ipv4.ip_forward=1")
	}
	if p := k.MultipathHash; p != "" {
		words := map[string]string{"0": "0: by addresses", "1": "1: by ports", "2": "2: by inner addresses", "3": "3: by chosen fields"}
		found, ok := words[p]
		if !ok {
			found = p
		}
		c.add("multipath hash", level(p != "0", Warn), found,
			"where routes have several ways TCP port 1723 and the GRE of a call take different ones; routers upstream that hash ports for ECMP do the same: have them hash addresses",
			"sudo sysctl -w net.ipv4.fib_multipath_hash_policy=0")
	}
	c.add("conntrack helper", level(k.ConntrackHelper, Warn), map[bool]string{true: "nf_conntrack_pptp is loaded", false: "nf_conntrack_pptp is not loaded"}[k.ConntrackHelper],
		"with NAT it rewrites call IDs, and it drops GRE of calls that it did not see begin",
		"sudo modprobe -r nf_nat_pptp nf_conntrack_pptp; on a router that needs it leave it")
}

var (
	// A chain at the door, in nft's words and in iptables-save's.
	nftInput  = regexp.MustCompile(`(?m)hook (?:input|prerouting) [^\n]*policy drop`)
	iptInput  = regexp.MustCompile(`(?m)^:INPUT DROP`)
	greRule   = regexp.MustCompile(`(?mi)^[^\n#]*(?:\bgre\b|protocol 47\b|l4proto 47\b|-p 47\b|\{[^}\n]*\b(?:47|gre)\b[^}\n]*\})[^\n]*$`)
	pptpRule  = regexp.MustCompile(`(?m)^[^\n#]*(?:\b1723\b|\bpptp\b)[^\n]*$`)
	dropWords = regexp.MustCompile(`(?i)\b(?:drop|reject)\b`)
)

// firewall looks for rules about protocol 47 and TCP port 1723. It reads words,
// not meanings: what jumps where it does not follow.
func (c *checker) firewall(text string) {
	closed := nftInput.MatchString(text) || iptInput.MatchString(text)
	for _, door := range []struct {
		check string
		rule  *regexp.Regexp
		why   string
		mend  string
	}{
		{
			"firewall, GRE", greRule, "without IP protocol 47 calls come up and carry nothing; AF_XDP takes the GRE of live calls before the firewall, the other backends do not",
			"sudo iptables -I INPUT -p gre -j ACCEPT, or: sudo nft insert rule inet filter input ip protocol gre accept",
		},
		{
			"firewall, TCP 1723", pptpRule, "without TCP port 1723 there are no calls",
			"sudo iptables -I INPUT -p tcp --dport 1723 -j ACCEPT, or: sudo nft insert rule inet filter input tcp dport 1723 accept",
		},
	} {
		var drop, accept string
		for _, line := range door.rule.FindAllString(text, -1) {
			line = strings.TrimSpace(line)
			switch {
			case dropWords.MatchString(line):
				drop = line
			case strings.Contains(strings.ToLower(line), "accept"):
				accept = line
			}
		}
		switch {
		case drop != "":
			c.add(door.check, Bad, "a rule drops it: "+drop, door.why, "remove the rule, or: "+door.mend)
		case closed && accept == "":
			c.add(door.check, Bad, "a chain drops what no rule accepts, and none names it", door.why, door.mend)
		case closed:
			c.add(door.check, OK, "let in: "+accept, "", "")
		default:
			c.add(door.check, OK, "nothing stops it here", "", "")
		}
	}
}
