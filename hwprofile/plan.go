package hwprofile

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Request says what to plan for. The zero value leaves everything to the plan.
type Request struct {
	Workers    int      // 0: as many as the machine has room for
	AtMost     int      // bounds the plan's own choice; 0: MaxOwnWorkers
	Interfaces []string // that carry calls; none: all of hardware that are up, or else all that are up
	CPUs       []int    // for the workers, in this order; none: the plan's choice
	IO         string   // backend: xsk, asavie, tpacket, raw; empty or auto: xsk
	// KeepQueues: plan for the number of queues that there are.
	KeepQueues bool
}

// MaxWorkers bounds Request.Workers, and MaxOwnWorkers what the plan chooses.
const (
	MaxWorkers    = 256
	MaxOwnWorkers = 16
)

// Plan ties workers, cores, queues and interrupts together.
type Plan struct {
	Workers    []Worker        `json:"workers"`
	Control    CPUs            `json:"control"` // for everything but workers
	Interfaces []PlanInterface `json:"interfaces"`
	Steering   Steering        `json:"steering"`
	Changes    []Change        `json:"changes"` // what Apply would do
	Notes      []string        `json:"notes,omitempty"`

	threads []CPUThread // of the CPUs that may be used, for the drawing
}

// Worker is where a worker runs, and the queues whose interrupts are near it.
type Worker struct {
	ID     int        `json:"id"`
	CPU    int        `json:"cpu"`
	Node   int        `json:"node"`
	IRQCPU int        `json:"irq_cpu"` // for the interrupts of its queues
	Queues []QueueRef `json:"queues"`
}

// QueueRef is a queue of an interface.
type QueueRef struct {
	Interface string `json:"interface"`
	Queue     int    `json:"queue"`
}

// String is the queue as "eth0:3".
func (q QueueRef) String() string { return fmt.Sprintf("%s:%d", q.Interface, q.Queue) }

// PlanInterface is an interface as the plan wants it.
type PlanInterface struct {
	Name     string   `json:"name"`
	Driver   string   `json:"driver"`
	Profile  *Profile `json:"-"`
	Verified bool     `json:"verified"` // the profile, on hardware
	Node     int      `json:"node"`
	Speed    int      `json:"speed"`
	Queues   []Queue  `json:"queues"`
}

// Queue is a queue and who serves it.
type Queue struct {
	Queue  int   `json:"queue"`
	Worker int   `json:"worker"`
	CPU    int   `json:"cpu"`  // of its interrupts
	IRQs   []int `json:"irqs"` // none: the device has none that are told apart
}

// Steering is how the packets of a call come to its worker.
type Steering struct {
	Method Method `json:"method"`
	How    string `json:"how"`
	Cost   string `json:"cost"`
	Device string `json:"device"` // what the device could do, and why it does not
}

// Method names a way of steering.
type Method string

// The ways.
const (
	CallMap Method = "xdp-call-map" // XDP program and a map of call IDs
	Fanout  Method = "fanout"       // packet fanout by call ID
	Handed  Method = "hand-over"    // one socket, handed on in user space
	Direct  Method = "direct"       // there is one worker
)

// core is a physical core: its threads that may be used.
type core struct {
	threads []CPUThread
	zero    bool // CPU 0 is one of its threads
}

// MakePlan makes the plan for a machine. It depends on its arguments alone,
// and not on their order. Errors name the interface or CPU that is not there.
func MakePlan(inv *Inventory, profiles Profiles, req Request) (*Plan, error) {
	if req.Workers < 0 || req.Workers > MaxWorkers {
		return nil, fmt.Errorf("plan: %d workers: 1 to %d are possible", req.Workers, MaxWorkers)
	}
	p := &Plan{Interfaces: []PlanInterface{}, Changes: []Change{}} // empty lists, not null, in JSON
	ifaces, err := choose(inv, req.Interfaces)
	if err != nil {
		return nil, err
	}
	if err := p.place(inv, req, ifaces); err != nil {
		return nil, err
	}
	p.Steering = steering(req.IO, len(p.Workers))
	next := 0
	for _, n := range ifaces {
		next = p.serve(inv, n, profiles.For(n.Driver), req, next)
	}
	for _, i := range p.Interfaces {
		s := "n-tuple rules: " + i.Profile.Steering.NTuple + "; RSS: " + i.Profile.Steering.RSS
		if text := i.Name + ": " + s; p.Steering.Device == "" {
			p.Steering.Device = text
		} else {
			p.Steering.Device += "\n" + text
		}
	}
	return p, nil
}

// choose returns the interfaces that are asked for, by name; in place of VLANs
// and bonds what they are made of, since that has the queues. Without a wish
// the ends of other people's containers stay out of it.
func choose(inv *Inventory, want []string) ([]*Interface, error) {
	chosen := make(map[string]*Interface)
	var add func(name string) error
	add = func(name string) error {
		n := inv.Interface(name)
		switch {
		case n == nil:
			return fmt.Errorf("plan: there is no interface %q", name)
		case len(n.Lower) == 0 || n.Kind == "bridge" || chosen[name] != nil:
			chosen[name] = n
			return nil
		}
		for _, lower := range n.Lower {
			if lower == name || inv.Interface(lower) == nil { // it is in another namespace
				chosen[name] = n
			} else if err := add(lower); err != nil {
				return err
			}
		}
		return nil
	}
	for _, name := range want {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	if len(want) == 0 {
		plain := func(n Interface) bool {
			return n.Up && n.Driver != "" && (n.Kind == "ethernet" || n.Kind == "veth") && len(n.Lower) == 0
		}
		hardware := func(n Interface) bool { return plain(n) && n.Bus != "" && n.Bus != "N/A" }
		take := hardware
		if !slices.ContainsFunc(inv.Interfaces, hardware) {
			take = func(n Interface) bool { return plain(n) && len(n.Upper) == 0 }
		}
		for i, n := range inv.Interfaces {
			if take(n) {
				chosen[n.Name] = &inv.Interfaces[i]
			}
		}
	}
	return slices.SortedFunc(maps.Values(chosen), func(a, b *Interface) int { return cmp.Compare(a.Name, b.Name) }), nil
}

// homeNode is the NUMA node that most interfaces are on, -1 if it is unknown.
func homeNode(ifaces []*Interface) int {
	count := make(map[int]int)
	home := -1
	for _, n := range ifaces {
		if n.Node < 0 {
			continue
		}
		count[n.Node]++
		if home < 0 || count[n.Node] > count[home] || count[n.Node] == count[home] && n.Node < home {
			home = n.Node
		}
	}
	return home
}

// cores returns the physical cores that may be used, the best first: isolated
// ones, then those near the node, CPU 0's last.
func cores(c *CPU, usable CPUs, home int) (list []core) {
	seen := make(map[int]int) // first sibling → index in list
	for _, id := range usable {
		t := c.thread(id)
		first := t.Siblings[0]
		i, ok := seen[first]
		if !ok {
			i = len(list)
			seen[first] = i
			list = append(list, core{zero: first == 0})
		}
		list[i].threads = append(list[i].threads, t)
	}
	slices.SortStableFunc(list, func(a, b core) int {
		ta, tb := a.threads[0], b.threads[0]
		rank := func(last bool) int {
			if last {
				return 1
			}
			return 0
		}
		return cmp.Or(
			rank(a.zero)-rank(b.zero),
			rank(!c.Isolated.Has(ta.ID))-rank(!c.Isolated.Has(tb.ID)),
			cmp.Compare(c.distance(home, ta.Node), c.distance(home, tb.Node)),
			cmp.Compare(ta.ID, tb.ID),
		)
	})
	return list
}

// place gives each worker a CPU and finds the rest for the control plane.
func (p *Plan) place(inv *Inventory, req Request, ifaces []*Interface) error {
	c := &inv.CPU
	usable := c.Usable()
	home := homeNode(ifaces)
	list := cores(c, usable, home)
	for _, id := range usable {
		p.threads = append(p.threads, c.thread(id))
	}
	n := req.Workers
	if n == 0 {
		if n = len(req.CPUs); n == 0 {
			n = p.room(c, list, home)
			if req.AtMost > 0 {
				n = min(n, req.AtMost)
			}
		}
	}
	// One thread of each core, then the other threads.
	var order CPUs
	for depth := 0; len(order) < len(usable); depth++ {
		for _, k := range list {
			if depth < len(k.threads) {
				order = append(order, k.threads[depth].ID)
			}
		}
	}
	if len(req.CPUs) > 0 {
		order = CPUs(req.CPUs)
		for i, id := range order {
			if !c.Online.Has(id) {
				return fmt.Errorf("plan: there is no CPU %d: online are %s", id, c.Online)
			}
			if !c.Cpuset.Has(id) {
				return fmt.Errorf("plan: CPU %d is not in the cgroup's cpuset %s", id, c.Cpuset)
			}
			if slices.Contains(order[:i], id) {
				return fmt.Errorf("plan: CPU %d is named twice", id)
			}
		}
	}
	for i := range n {
		t := c.thread(order[i%len(order)])
		p.Workers = append(p.Workers, Worker{ID: i, CPU: t.ID, Node: t.Node, IRQCPU: t.ID, Queues: []QueueRef{}})
	}
	switch {
	case n > len(order):
		p.note("%d workers share %d CPUs: fewer workers would be faster", n, len(order))
	case len(req.CPUs) == 0 && n > len(list):
		p.note("%d workers on %d cores: some share a core with another", n, len(list))
	}
	p.shareOut(c, usable)
	if c.Quota > 0 && float64(n) >= c.Quota {
		p.note("the cgroup gives %.1f CPUs' worth of time to %d workers and the control plane: they will be held up", c.Quota, n)
	}
	remote := 0
	for _, w := range p.Workers {
		if home >= 0 && len(c.Nodes) > 1 && w.Node != home {
			remote++
		}
	}
	if remote > 0 {
		p.note("%d of %d workers are not on node %d, where the interface is: each of their packets crosses between the sockets", remote, n, home)
	}
	return nil
}

// room is how many workers the machine has room for: a core each, near the
// interfaces, and one core left.
func (p *Plan) room(c *CPU, list []core, home int) int {
	near := 0
	for _, k := range list[:len(list)-1] { // the last is for the control plane
		if home < 0 || c.distance(home, k.threads[0].Node) <= c.distance(home, home) {
			near++
		}
	}
	if c.Quota > 0 {
		near = min(near, int(c.Quota)-1)
	}
	return min(max(near, 1), MaxOwnWorkers)
}

// shareOut gives the CPUs without a worker to interrupts and control plane.
func (p *Plan) shareOut(c *CPU, usable CPUs) {
	var taken CPUs
	for _, w := range p.Workers {
		taken = taken.With(CPUs{w.CPU})
	}
	free := usable.Without(taken)
	var beside CPUs // free threads of workers' cores
	for i := range p.Workers {
		w := &p.Workers[i]
		idle := c.thread(w.CPU).Siblings.And(free)
		beside = beside.With(idle)
		if len(idle) > 0 {
			w.IRQCPU = idle[0]
		}
	}
	p.Control = free.Without(beside)
	if len(p.Control) == 0 && len(beside) > 0 {
		// Every core has a worker: the control plane sits beside the last ones, and
		// the interrupts that were to go there come to the worker itself.
		last := p.Workers[len(p.Workers)-1]
		p.Control = c.thread(last.CPU).Siblings.And(beside)
		if len(p.Control) == 0 {
			p.Control = beside
		}
		for i := range p.Workers {
			if w := &p.Workers[i]; p.Control.Has(w.IRQCPU) {
				w.IRQCPU = w.CPU
			}
		}
		p.note("no core is left for the control plane: it is on CPUs %s, beside workers", p.Control)
	}
	if len(p.Control) == 0 {
		p.Control = usable
		p.note("no CPU is left for the control plane: it shares those of the workers")
	}
}

func (p *Plan) note(format string, args ...any) {
	p.Notes = append(p.Notes, fmt.Sprintf(format, args...))
}

// steering says how packets find their worker.
func steering(io string, workers int) Steering {
	if workers == 1 {
		return Steering{
			Method: Direct, How: "there is one worker: all packets are its own",
			Cost: "nothing",
		}
	}
	switch io {
	case "tpacket":
		return Steering{
			Method: Fanout, How: "the kernel's packet fanout reads the call ID and picks the worker's ring",
			Cost: "the kernel's stack sees each packet first; about twice the time of AF_XDP",
		}
	case "raw", "asavie":
		return Steering{
			Method: Handed, How: "one socket for all; a packet for another worker is handed on in memory",
			Cost: "a hand-over for each packet, and one thread that reads for all",
		}
	}
	return Steering{
		Method: CallMap,
		How:    "the device spreads packets over its queues by the outer addresses; the XDP program finds the call ID in a map and puts the packet into its worker's socket on that queue",
		Cost:   "30 to 50 ns a packet, and a socket for each worker on each queue; packets of one peer all come by one queue",
	}
}

// serve plans an interface. next is the worker that gets the next queue.
func (p *Plan) serve(inv *Inventory, n *Interface, profile *Profile, req Request, next int) int {
	pi := PlanInterface{
		Name: n.Name, Driver: n.Driver, Profile: profile, Verified: profile.Evidence == OnHardware,
		Node: n.Node, Speed: n.Speed,
	}
	rx, tx := n.queueCount()
	if !req.KeepQueues {
		rx, tx = p.queues(n, profile, rx, tx)
	}
	irqs := make(map[int][]int)
	for _, number := range n.IRQs {
		if irq := inv.irq(number); irq != nil && irq.Queue >= 0 {
			irqs[irq.Queue] = append(irqs[irq.Queue], number)
		}
	}
	for q := range rx {
		w := &p.Workers[(next+q)%len(p.Workers)]
		w.Queues = append(w.Queues, QueueRef{n.Name, q})
		pi.Queues = append(pi.Queues, Queue{Queue: q, Worker: w.ID, CPU: w.IRQCPU, IRQs: append([]int{}, irqs[q]...)})
	}
	p.Interfaces = append(p.Interfaces, pi)
	switch {
	case rx < len(p.Workers) && len(p.Workers) > 1:
		p.note("%s has %d receive queues for %d workers: the CPUs of their interrupts carry what comes in for all", n.Name, rx, len(p.Workers))
	case rx > len(p.Workers) && len(p.Workers) > 1:
		p.note("%s has %d receive queues for %d workers: some serve several", n.Name, rx, len(p.Workers))
	}
	if r := n.RSS; r != nil && len(r.Indirection) > 0 && !req.KeepQueues {
		hit := make(map[int]bool)
		for _, q := range r.Indirection {
			hit[q] = true
		}
		if now, _ := n.queueCount(); len(hit) < now {
			p.note("%s: its RSS table uses %d of %d queues, and is left so: `ethtool -X %s default` spreads again", n.Name, len(hit), now, n.Name)
		}
	}
	if profile.Evidence != OnHardware {
		p.note("%s: the profile of %s is from documentation, not verified on hardware", n.Name, profile.Driver)
	}
	if mtu := profile.XDP.MaxMTU; mtu > 0 && n.MTU > mtu {
		p.note("%s: an MTU of %d is too large for XDP with %s: at most %d", n.Name, n.MTU, profile.Driver, mtu)
	}
	p.change(inv, n, profile, req, pi, tx)
	return next + rx
}

// queues is how many receive and transmit queues to ask for: one for each
// worker, if the device has them and XDP leaves them.
func (p *Plan) queues(n *Interface, profile *Profile, rx, tx int) (int, int) {
	c := n.Channels
	if c == nil || profile.Channels.Kind == NoSwitch {
		return rx, tx
	}
	target := func(now, most int) int {
		if most == 0 {
			return now
		}
		if profile.Channels.Half {
			most = max(most/2, 1)
		}
		if m := profile.Channels.Max; m > 0 {
			most = min(most, m)
		}
		want := min(len(p.Workers), most)
		if !profile.Channels.Shrink {
			want = max(want, now)
		}
		return want
	}
	if c.MaxCombined > 0 {
		q := target(c.Combined, c.MaxCombined)
		return q + c.RX, q + c.TX
	}
	return target(c.RX, c.MaxRX), target(c.TX, c.MaxTX)
}

// change lists what is different from what the plan wants of an interface.
func (p *Plan) change(inv *Inventory, n *Interface, profile *Profile, req Request, pi PlanInterface, tx int) {
	add := func(name string, kind Kind, setting, value, why string) {
		s := Setting{name, kind, setting}
		if old, ok := inv.value(s); ok && old != value {
			p.Changes = append(p.Changes, Change{s, old, value, why})
		}
	}
	if c := n.Channels; c != nil && !req.KeepQueues {
		why := fmt.Sprintf("a queue for each of %d workers", len(p.Workers))
		if c.MaxCombined > 0 {
			add(n.Name, KindChannels, "combined", strconv.Itoa(len(pi.Queues)-c.RX), why)
		} else {
			add(n.Name, KindChannels, "rx", strconv.Itoa(len(pi.Queues)), why)
			add(n.Name, KindChannels, "tx", strconv.Itoa(tx), why)
		}
	}
	if r := n.Rings; r != nil {
		ring := func(name string, want, now, most int) {
			if want > 0 && most > 0 && now < min(want, most) {
				add(n.Name, KindRing, name, strconv.Itoa(min(want, most)), "room for what comes while a worker is busy")
			}
		}
		ring("rx", profile.Rings.RX, r.RX, r.MaxRX)
		ring("tx", profile.Rings.TX, r.TX, r.MaxTX)
	}
	const steady = "interrupts at a steady, short interval"
	if a := profile.Coalesce.AdaptiveRX; a != "" {
		add(n.Name, KindCoalesce, "adaptive-rx", a, steady)
	}
	if u := profile.Coalesce.RXUsecs; u != nil {
		add(n.Name, KindCoalesce, "rx-usecs", strconv.Itoa(*u), steady)
	}
	p.offloads(inv, n, profile, add)
	for q := range len(n.Queues.RPS) {
		add(n.Name, KindRPS, strconv.Itoa(q), CPUs(nil).Mask(), "packets stay on the CPU of their queue")
	}
	for q := range tx {
		// Fewer queues than workers are shared, each of more is somebody's.
		users := CPUs{p.Workers[q%len(p.Workers)].CPU}
		for i := q; i < len(p.Workers); i += tx {
			users = users.With(CPUs{p.Workers[i].CPU})
		}
		p.xps(inv, n, q, tx, users)
	}
	for _, q := range pi.Queues {
		for _, number := range q.IRQs {
			add(n.Name, KindIRQ, strconv.Itoa(number), strconv.Itoa(q.CPU), fmt.Sprintf("queue %d is served by worker %d", q.Queue, q.Worker))
		}
	}
}

// xps plans the mask of one of several transmit queues, also of one that is
// still to come. A single queue is everybody's.
func (p *Plan) xps(inv *Inventory, n *Interface, q, queues int, users CPUs) {
	s := Setting{n.Name, KindXPS, strconv.Itoa(q)}
	old, ok := inv.value(s)
	if !ok {
		old = CPUs(nil).Mask()
	}
	hasXPS := len(n.Queues.XPS) > 0
	if value := users.Mask(); hasXPS && queues > 1 && old != value {
		p.Changes = append(p.Changes, Change{s, old, value, "each worker sends by a queue of its own"})
	}
}

// offloads plans what the profile wants off, at both ends of a veth pair whose
// other end is here.
func (p *Plan) offloads(inv *Inventory, n *Interface, profile *Profile, add func(name string, kind Kind, setting, value, why string)) {
	ends := []string{n.Name}
	if peer := inv.Interface(n.Peer); peer != nil && !slices.ContainsFunc(p.Changes, func(c Change) bool {
		return c.Interface == n.Peer && c.Kind == KindFeature
	}) {
		ends = append(ends, n.Peer)
	}
	for _, name := range ends {
		for _, f := range profile.Off {
			if feature := inv.Interface(name).Features[f]; feature.On && !feature.Fixed {
				if slices.ContainsFunc(p.Changes, func(c Change) bool { return c.Interface == name && c.Kind == KindFeature && c.Name == f }) {
					continue
				}
				add(name, KindFeature, f, "off", offloadWhy(f))
			}
		}
	}
}

// offloadWhy says what an offload does to calls.
func offloadWhy(feature string) string {
	switch {
	case strings.Contains(feature, "vlan"):
		return "VLAN tags stay in the frame, where XDP sees them"
	case strings.Contains(feature, "lro"), strings.Contains(feature, "gro"):
		return "packets arrive as they were sent; XDP does not take merged ones"
	}
	return "the other end reads packets before a device would have completed them"
}
