package hwprofile

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
)

// Short is the plan in one line, for logs and reports.
func (p *Plan) Short() string {
	var cpus, ifs []string
	for _, w := range p.Workers {
		cpus = append(cpus, fmt.Sprint(w.CPU))
	}
	for _, i := range p.Interfaces {
		ifs = append(ifs, fmt.Sprintf("%s (%s) %s", i.Name, i.Driver, count(len(i.Queues), "queue")))
	}
	if ifs == nil {
		ifs = []string{"no interface"}
	}
	return fmt.Sprintf("%s on CPUs %s, control plane on CPUs %s, %s, steering %s",
		count(len(p.Workers), "worker"), strings.Join(cpus, ","), p.Control, strings.Join(ifs, ", "), p.Steering.Method)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// String is the plan as tables and a drawing.
func (p *Plan) String() string {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "WORKER\tCPU\tNODE\tQUEUES\tTHEIR INTERRUPTS ON")
	for _, w := range p.Workers {
		var queues []string
		for _, q := range w.Queues {
			queues = append(queues, q.String())
		}
		on := fmt.Sprintf("CPU %d", w.IRQCPU)
		if queues == nil {
			queues, on = []string{"-"}, "-"
		}
		fmt.Fprintf(t, "%d\t%d\t%d\t%s\t%s\n", w.ID, w.CPU, w.Node, strings.Join(queues, " "), on)
	}
	_ = t.Flush() // of a buffer
	fmt.Fprintf(&b, "control plane on CPUs %s\n\n", p.Control)
	p.draw(&b)
	fmt.Fprintf(&b, "\nsteering  %s\n", p.Steering.Method)
	for _, l := range []struct{ name, text string }{{"how", p.Steering.How}, {"cost", p.Steering.Cost}, {"device", p.Steering.Device}} {
		for line := range strings.SplitSeq(l.text, "\n") {
			if line != "" {
				wrap(&b, l.name, line)
				l.name = ""
			}
		}
	}
	if len(p.Changes) > 0 {
		fmt.Fprintf(&b, "\n")
		writeChanges(&b, p.Changes)
	} else {
		fmt.Fprintf(&b, "\nnothing to change\n")
	}
	for i, n := range p.Notes {
		if i == 0 {
			fmt.Fprintln(&b)
		}
		wrap(&b, "note", n)
	}
	return b.String()
}

// wrap writes a named paragraph of at most 100 columns.
func wrap(b *strings.Builder, name, text string) {
	const margin, width = 10, 100
	line := fmt.Sprintf("%-*s", margin, name)
	for word := range strings.FieldsSeq(text) {
		if len(line)+1+len(word) > width && len(line) > margin {
			fmt.Fprintln(b, strings.TrimRight(line, " "))
			line = strings.Repeat(" ", margin)
		}
		if len(line) > margin {
			line += " "
		}
		line += word
	}
	fmt.Fprintln(b, strings.TrimRight(line, " "))
}

// writeChanges lists changes; those of one kind that differ in the queue alone
// stand together if they have the same values.
func writeChanges(b *strings.Builder, changes []Change) {
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "CHANGE\tNOW\tPLANNED\tWHY")
	for _, c := range changes {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", c.Setting, c.words(c.Old), c.words(c.New), c.Why)
	}
	_ = t.Flush() // of a buffer
}

// draw shows the cores that may be used, a line for each NUMA node and up to
// twelve cores of it, and who is on their threads.
func (p *Plan) draw(b *strings.Builder) {
	at := make(map[int]string)
	for _, cpu := range p.Control {
		at[cpu] = "C"
	}
	for _, i := range p.Interfaces {
		for _, q := range i.Queues {
			at[q.CPU] = "irq"
		}
	}
	for _, w := range p.Workers {
		at[w.CPU] = fmt.Sprintf("w%d", w.ID)
	}
	nodes := make(map[int]map[int][]string)
	for _, t := range p.threads {
		if nodes[t.Node] == nil {
			nodes[t.Node] = make(map[int][]string)
		}
		who := at[t.ID]
		if who == "" {
			who = "."
		}
		first := t.Siblings[0]
		nodes[t.Node][first] = append(nodes[t.Node][first], fmt.Sprintf("%d:%s", t.ID, who))
	}
	for _, node := range sortedKeys(nodes) {
		cells := make([]string, 0, len(nodes[node]))
		for _, first := range sortedKeys(nodes[node]) {
			cells = append(cells, strings.Join(nodes[node][first], " "))
		}
		width := 0
		for _, c := range cells {
			width = max(width, len(c))
		}
		perLine := max(1, min(12, 88/(width+3)))
		for i, line := range slices.Collect(slices.Chunk(cells, perLine)) {
			name := fmt.Sprintf("node %d", node)
			if i > 0 {
				name = ""
			}
			fmt.Fprintf(b, "%-8s|", name)
			for _, c := range line {
				fmt.Fprintf(b, " %-*s |", width, c)
			}
			fmt.Fprintln(b)
		}
		var here []string
		for _, i := range p.Interfaces {
			if i.Node == node {
				here = append(here, fmt.Sprintf("%s (%s, %s)", i.Name, i.Driver, speed(i.Speed)))
			}
		}
		if here != nil {
			fmt.Fprintf(b, "        '-- %s\n", strings.Join(here, ", "))
		}
	}
	fmt.Fprintln(b, "        a box is a core, CPU:use for each thread; wN a worker, irq interrupts, C the control plane")
}

func sortedKeys[V any](m map[int]V) []int {
	keys := make([]int, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// String is the inventory as tables.
func (inv *Inventory) String() string {
	var b strings.Builder
	c := &inv.CPU
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	row("processor", "%s %s", c.Vendor, c.Model)
	if c.Hypervisor != "" {
		row("hypervisor", "%s", c.Hypervisor)
	}
	physical := make(map[int]bool)
	for _, th := range c.Threads {
		physical[th.Siblings[0]] = true
	}
	row("CPUs", "%d online (%s) on %s, %s", len(c.Online), c.Online, count(len(physical), "core"), count(max(len(c.Nodes), 1), "NUMA node"))
	if u := c.Usable(); len(u) < len(c.Online) {
		row("", "%s for this process: affinity %s, cpuset %s", u, c.Allowed, c.Cpuset)
	}
	if c.Quota > 0 {
		row("", "%.1f CPUs' worth of time (cgroup)", c.Quota)
	}
	if len(c.Isolated) > 0 {
		row("", "isolated %s", c.Isolated)
	}
	row("caches", "L1d %s, L2 %s, L3 %s", bytesText(c.L1D), bytesText(c.L2), bytesText(c.L3))
	row("features", "%s", features(c.Features))
	row("governor", "%s", or(governors(c), "not told"))
	m := inv.Memory
	row("memory", "%d MB, %d MB free", m.TotalKB>>10, m.AvailableKB>>10)
	for _, h := range m.HugePages {
		row("huge pages", "%d of %d kB, %d free", h.Total, h.SizeKB, h.Free)
	}
	if m.Memlock < 0 {
		row("memlock", "no limit")
	} else {
		row("memlock", "%d kB", m.Memlock>>10)
	}
	row("kernel", "%s, clock %s, real-time throttling %s", or(inv.Kernel.Release, "?"), or(inv.Kernel.ClockSource, "?"), or(inv.Kernel.RTRuntime, "?"))
	_ = t.Flush() // of a buffer
	for i := range inv.Interfaces {
		inv.Interfaces[i].describe(&b)
	}
	for _, u := range inv.Unknown {
		wrap(&b, "unknown", u)
	}
	return b.String()
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

func governors(c *CPU) string {
	var all []string
	for _, t := range c.Threads {
		if t.Governor != "" {
			all = append(all, t.Governor)
		}
	}
	slices.Sort(all)
	return strings.Join(slices.Compact(all), ", ")
}

// features are those that packets care about.
func features(all []string) string {
	var some []string
	for _, f := range []string{"SSE4", "SSE42", "AVX", "AVX2", "AVX512F", "AVX512BW", "AVX512VL", "SHA", "AESNI", "VAES", "BMI2", "ASIMD", "SHA1"} {
		if slices.Contains(all, f) {
			some = append(some, f)
		}
	}
	return or(strings.Join(some, " "), "-")
}

func bytesText(n int) string {
	switch {
	case n <= 0:
		return "?"
	case n >= 1<<20:
		return fmt.Sprintf("%g MB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%d kB", n>>10)
}

// describe writes an interface as a paragraph.
func (n *Interface) describe(b *strings.Builder) {
	state := "down"
	if n.Up {
		state = "up"
	}
	where := ""
	if n.Node >= 0 {
		where = fmt.Sprintf(", node %d", n.Node)
	}
	fmt.Fprintf(b, "\n%s: %s, driver %s%s%s, %s, MTU %d, %s\n", n.Name, n.Kind, or(n.Driver, "none"), with(" at ", n.Bus), where, speed(n.Speed), n.MTU, state)
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(t, "  %s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	rx, tx := n.queueCount()
	most := "not told"
	if c := n.Channels; c != nil {
		most = fmt.Sprintf("%d and %d", c.MaxCombined+c.MaxRX, c.MaxCombined+c.MaxTX)
	}
	row("queues", "%d receive, %d transmit; most %s", rx, tx, most)
	if r := n.Rings; r != nil {
		row("rings", "%d receive, %d transmit; most %d and %d", r.RX, r.TX, r.MaxRX, r.MaxTX)
	}
	if c := n.Coalesce; c != nil {
		adaptive := ""
		if c.AdaptiveRX {
			adaptive = ", adaptive"
		}
		row("coalescing", "%d µs receive, %d µs transmit%s", c.RXUsecs, c.TXUsecs, adaptive)
	}
	if n.RSS != nil {
		row("RSS", "%s; table of %d", n.RSS, len(n.RSS.Indirection))
	}
	if n.NTuple != nil {
		row("n-tuple", "%d rules of %d", n.NTuple.Rules, n.NTuple.Room)
	}
	if x := n.XDP; x != nil {
		row("XDP", "%s%s", or(strings.Join(x.Features, " "), "generic only"), map[bool]string{true: fmt.Sprintf("; program %d attached", x.Program)}[x.Program != 0])
	}
	if len(n.IRQs) > 0 {
		row("interrupts", "%s", NewCPUs(n.IRQs...))
	}
	for _, l := range []struct {
		name  string
		names []string
	}{{"on top", n.Upper}, {"made of", n.Lower}} {
		if len(l.names) > 0 {
			row(l.name, "%s", strings.Join(l.names, " "))
		}
	}
	if n.Peer != "" {
		row("peer", "%s", n.Peer)
	}
	_ = t.Flush() // of a buffer
}

func with(before, text string) string {
	if text == "" {
		return ""
	}
	return before + text
}
