package hwprofile

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// machine makes an inventory of cores with as many threads, numbered as Linux
// does on x86: the first threads of all cores, then the second ones.
func machine(cores, threads, nodes int) *Inventory {
	c := CPU{}
	per := max(cores/nodes, 1)
	for id := range cores * threads {
		k := id % cores
		var sib []int
		for i := range threads {
			sib = append(sib, k+i*cores)
		}
		node := min(k/per, nodes-1)
		c.Online = append(c.Online, id)
		c.Threads = append(c.Threads, CPUThread{ID: id, Core: k, Package: node, Node: node, Siblings: NewCPUs(sib...)})
	}
	c.Allowed, c.Cpuset = c.Online, c.Online
	for n := range nodes {
		node := Node{ID: n}
		for m := range nodes {
			node.Distance = append(node.Distance, map[bool]int{true: 10, false: 21}[m == n])
		}
		for _, t := range c.Threads {
			if t.Node == n {
				node.CPUs = append(node.CPUs, t.ID)
			}
		}
		c.Nodes = append(c.Nodes, node)
	}
	return &Inventory{CPU: c}
}

// withNIC adds an interface with so many queues, one interrupt each.
func withNIC(inv *Inventory, name, driver string, node, queues, most int) *Inventory {
	n := Interface{Name: name, Index: len(inv.Interfaces) + 2, Kind: "ethernet", Node: node, Up: true, MTU: 1500, Speed: 100000}
	n.Driver = driver
	n.Channels = &Channels{Combined: queues, MaxCombined: most}
	n.Queues = Queues{RX: queues, TX: queues, RPS: make([]CPUs, queues), XPS: make([]CPUs, queues)}
	for q := range queues {
		number := 100 + len(inv.IRQs)
		n.IRQs = append(n.IRQs, number)
		inv.IRQs = append(inv.IRQs, IRQ{Number: number, Name: fmt.Sprintf("%s-TxRx-%d", name, q), Interface: name, Queue: q, Affinity: inv.CPU.Online, Effective: CPUs{0}})
	}
	inv.Interfaces = append(inv.Interfaces, n)
	return inv
}

func plan(t testing.TB, inv *Inventory, req Request) *Plan {
	t.Helper()
	p, err := MakePlan(inv, builtIn, req)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPlanSizes(t *testing.T) {
	limited := machine(16, 2, 1)
	limited.CPU.Allowed = NewCPUs(4, 5)
	byGroup := machine(16, 2, 1)
	byGroup.CPU.Cpuset = NewCPUs(3, 19, 8)
	quota := machine(8, 1, 1)
	quota.CPU.Quota = 2.5
	isolated := machine(8, 1, 1)
	isolated.CPU.Isolated = NewCPUs(6, 7)
	isolated.CPU.Allowed = NewCPUs(0, 1, 2, 3, 4, 5)
	tasksetOnly := machine(8, 1, 1)
	tasksetOnly.CPU.Isolated = NewCPUs(6, 7)
	tasksetOnly.CPU.Allowed = NewCPUs(2, 3)
	for _, tt := range []struct {
		name string
		inv  *Inventory
		req  Request
		want string
	}{
		{"1 core", machine(1, 1, 1), Request{}, "1 worker on CPUs 0, control plane on CPUs 0"},
		{"1 core, 2 threads", machine(1, 2, 1), Request{}, "1 worker on CPUs 0, control plane on CPUs 1"},
		{"2 cores", machine(2, 1, 1), Request{}, "1 worker on CPUs 1, control plane on CPUs 0"},
		{"2 cores, 2 workers", machine(2, 1, 1), Request{Workers: 2}, "2 workers on CPUs 1,0, control plane on CPUs 0-1"},
		{"2 cores, 3 workers", machine(2, 1, 1), Request{Workers: 3}, "3 workers on CPUs 1,0,1, control plane on CPUs 0-1"},
		{"4 cores", machine(4, 1, 1), Request{}, "3 workers on CPUs 1,2,3, control plane on CPUs 0"},
		{"4 cores, 2 threads", machine(4, 2, 1), Request{}, "3 workers on CPUs 1,2,3, control plane on CPUs 0,4"},
		{"4 cores, 2 threads, 4 workers", machine(4, 2, 1), Request{Workers: 4}, "4 workers on CPUs 1,2,3,0, control plane on CPUs 4"},
		{"4 cores, 2 threads, 6 workers", machine(4, 2, 1), Request{Workers: 6}, "6 workers on CPUs 1,2,3,0,5,6, control plane on CPUs 4,7"},
		{"64 cores", machine(64, 1, 2), Request{}, "16 workers on CPUs 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16, control plane on CPUs 0,17-63"},
		{"64 cores, NIC on node 1", withNIC(machine(64, 1, 2), "eth0", "ice", 1, 64, 64), Request{}, "16 workers on CPUs 32,33,34,35,36,37,38,39,40,41,42,43,44,45,46,47, control plane on CPUs 0-31,48-63, eth0 (ice) 16 queues"},
		{"64 cores, 40 workers", withNIC(machine(64, 1, 2), "eth0", "ice", 1, 64, 64), Request{Workers: 34}, "34 workers on CPUs 32,33,34,35,36,37,38,39,40,41,42,43,44,45,46,47,48,49,50,51,52,53,54,55,56,57,58,59,60,61,62,63,1,2, control plane on CPUs 0,3-31, eth0 (ice) 34 queues"},
		{"affinity", limited, Request{}, "1 worker on CPUs 4, control plane on CPUs 5"},
		{"cpuset", byGroup, Request{}, "1 worker on CPUs 3, control plane on CPUs 8"},
		{"quota", quota, Request{}, "1 worker on CPUs 1, control plane on CPUs 0,2-7"},
		{"isolated", isolated, Request{Workers: 2}, "2 workers on CPUs 6,7, control plane on CPUs 0-5"},
		{"isolated, but tied by hand", tasksetOnly, Request{}, "1 worker on CPUs 2, control plane on CPUs 3"},
		{"named", machine(8, 1, 1), Request{CPUs: []int{5, 2}}, "2 workers on CPUs 5,2, control plane on CPUs 0-1,3-4,6-7"},
		{"one queue", withNIC(machine(8, 1, 1), "eth0", "virtio_net", -1, 1, 1), Request{Workers: 3}, "3 workers on CPUs 1,2,3, control plane on CPUs 0,4-7, eth0 (virtio_net) 1 queue"},
		{"half of the queues", withNIC(machine(16, 1, 1), "eth0", "ena", -1, 8, 8), Request{Workers: 6}, "6 workers on CPUs 1,2,3,4,5,6, control plane on CPUs 0,7-15, eth0 (ena) 4 queues"},
		{"queues that must stay", withNIC(machine(4, 1, 1), "eth0", "unheard-of", -1, 8, 8), Request{Workers: 3}, "3 workers on CPUs 1,2,3, control plane on CPUs 0, eth0 (unheard-of) 8 queues"},
		{"queues kept", withNIC(machine(4, 1, 1), "eth0", "ice", -1, 8, 8), Request{Workers: 3, KeepQueues: true}, "3 workers on CPUs 1,2,3, control plane on CPUs 0, eth0 (ice) 8 queues"},
	} {
		if got := plan(t, tt.inv, tt.req).Short(); !strings.HasPrefix(got, tt.want+", ") {
			t.Errorf("%s:\ngot  %s\nwant %s", tt.name, got, tt.want)
		}
	}
}

func TestPlanErrors(t *testing.T) {
	inv := machine(4, 1, 1)
	inv.CPU.Cpuset = NewCPUs(0, 1, 2)
	for _, tt := range []struct {
		req  Request
		want string
	}{
		{Request{Workers: -1}, "-1 workers: 1 to 256 are possible"},
		{Request{Workers: 257}, "257 workers"},
		{Request{Interfaces: []string{"eth7"}}, `no interface "eth7"`},
		{Request{CPUs: []int{9}}, "no CPU 9: online are 0-3"},
		{Request{CPUs: []int{3}}, "CPU 3 is not in the cgroup's cpuset 0-2"},
		{Request{CPUs: []int{1, 1}}, "CPU 1 is named twice"},
	} {
		if _, err := MakePlan(inv, builtIn, tt.req); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %q", tt.req, err, tt.want)
		}
	}
}

func TestPlanInterfaces(t *testing.T) {
	nic := func(name, kind, driver, bus string, lower, upper []string) Interface {
		return Interface{Name: name, Kind: kind, Up: true, Lower: lower, Upper: upper, Node: -1, NIC: NIC{Driver: driver, Bus: bus}}
	}
	host := []Interface{
		nic("vlan7", "vlan", "802.1Q VLAN Support", "", []string{"bond0"}, nil),
		nic("bond0", "bond", "bonding", "", []string{"eth0", "eth1"}, []string{"vlan7"}),
		nic("eth1", "ethernet", "ice", "0000:01:00.1", nil, []string{"bond0"}),
		nic("eth0", "ethernet", "ice", "0000:01:00.0", nil, []string{"bond0"}),
		nic("eth2", "ethernet", "igb", "0000:02:00.0", nil, nil),
		nic("veth9", "veth", "veth", "", nil, []string{"br0"}),
		nic("br0", "bridge", "bridge", "", []string{"veth9"}, nil),
		nic("away", "vlan", "802.1Q VLAN Support", "", []string{"elsewhere"}, nil),
	}
	container := []Interface{
		nic("eth0", "veth", "veth", "", nil, nil),
		nic("tun0", "tun", "tun", "", nil, nil),
		nic("veth1", "veth", "veth", "", nil, []string{"br0"}),
	}
	host[4].Up = false
	for _, tt := range []struct {
		all  []Interface
		want []string
		got  string
	}{
		{host, nil, "[eth0 eth1]"},
		{host, []string{"vlan7"}, "[eth0 eth1]"},
		{host, []string{"eth1", "bond0", "eth1"}, "[eth0 eth1]"},
		{host, []string{"eth2"}, "[eth2]"},
		{host, []string{"br0"}, "[br0]"},
		{host, []string{"veth9"}, "[veth9]"},
		{host, []string{"away"}, "[away]"},
		{container, nil, "[eth0]"},
	} {
		inv := machine(2, 1, 1)
		inv.Interfaces = tt.all
		var names []string
		for _, i := range plan(t, inv, Request{Interfaces: tt.want}).Interfaces {
			names = append(names, i.Name)
		}
		if got := fmt.Sprint(names); got != tt.got {
			t.Errorf("%v: %s, want %s", tt.want, got, tt.got)
		}
	}
}

func TestSteering(t *testing.T) {
	inv := machine(8, 1, 1)
	for _, tt := range []struct {
		io      string
		workers int
		want    Method
	}{
		{"", 2, CallMap},
		{"auto", 2, CallMap},
		{"xsk", 4, CallMap},
		{"tpacket", 2, Fanout},
		{"raw", 2, Handed},
		{"asavie", 2, Handed},
		{"xsk", 1, Direct},
	} {
		s := plan(t, inv, Request{IO: tt.io, Workers: tt.workers}).Steering
		if s.Method != tt.want || s.How == "" || s.Cost == "" {
			t.Errorf("%s with %d workers: %+v", tt.io, tt.workers, s)
		}
	}
}

// genInventory draws a machine of any shape, with gaps in what may be used.
func genInventory(t *rapid.T) *Inventory {
	nodes := rapid.IntRange(1, 4).Draw(t, "nodes")
	inv := machine(nodes*rapid.IntRange(1, 16).Draw(t, "cores a node"), rapid.IntRange(1, 3).Draw(t, "threads"), nodes)
	some := func(name string) CPUs {
		return NewCPUs(rapid.SliceOfDistinct(rapid.SampledFrom([]int(inv.CPU.Online)), rapid.ID[int]).Draw(t, name)...)
	}
	if rapid.Bool().Draw(t, "narrow affinity") {
		inv.CPU.Allowed = some("affinity")
	}
	if rapid.Bool().Draw(t, "narrow cpuset") {
		inv.CPU.Cpuset = some("cpuset")
	}
	if rapid.Bool().Draw(t, "isolation") {
		inv.CPU.Isolated = some("isolated")
	}
	if rapid.Bool().Draw(t, "quota") {
		inv.CPU.Quota = rapid.Float64Range(0.1, 40).Draw(t, "cpus of time")
	}
	for i := range rapid.IntRange(0, 3).Draw(t, "interfaces") {
		most := rapid.IntRange(1, 40).Draw(t, "most queues")
		withNIC(inv, fmt.Sprintf("eth%d", i), rapid.SampledFrom([]string{"ice", "ena", "virtio_net", "nobody's"}).Draw(t, "driver"),
			rapid.IntRange(-1, nodes-1).Draw(t, "node"), rapid.IntRange(1, most).Draw(t, "queues"), most)
	}
	return inv
}

func TestPlanProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		inv := genInventory(t)
		req := Request{Workers: rapid.IntRange(0, 40).Draw(t, "workers")}
		p, err := MakePlan(inv, builtIn, req)
		if err != nil {
			t.Fatal(err)
		}
		if req.Workers > 0 && len(p.Workers) != req.Workers {
			t.Fatalf("%d workers, %d were asked for", len(p.Workers), req.Workers)
		}
		checkCPUs(t, inv, p, req)
		checkQueues(t, inv, p)

		// The order of the inventory does not matter.
		again := *inv
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		again.Interfaces, again.IRQs = slices.Clone(inv.Interfaces), slices.Clone(inv.IRQs)
		again.CPU.Threads = slices.Clone(inv.CPU.Threads)
		r.Shuffle(len(again.Interfaces), func(i, j int) {
			again.Interfaces[i], again.Interfaces[j] = again.Interfaces[j], again.Interfaces[i]
		})
		r.Shuffle(len(again.IRQs), func(i, j int) { again.IRQs[i], again.IRQs[j] = again.IRQs[j], again.IRQs[i] })
		r.Shuffle(len(again.CPU.Threads), func(i, j int) {
			again.CPU.Threads[i], again.CPU.Threads[j] = again.CPU.Threads[j], again.CPU.Threads[i]
		})
		if other, err := MakePlan(&again, builtIn, req); err != nil || !reflect.DeepEqual(p, other) {
			t.Fatalf("in another order: %v\n%s\nnot\n%s", err, other, p)
		}
		if p.String() == "" || p.Short() == "" {
			t.Fatal("no text")
		}
	})
}

func checkCPUs(t *rapid.T, inv *Inventory, p *Plan, req Request) {
	usable := inv.CPU.Usable()
	perCPU, perCore := make(map[int]int), make(map[int]int)
	for _, w := range p.Workers {
		if !usable.Has(w.CPU) || !usable.Has(w.IRQCPU) {
			t.Fatalf("worker %+v is not on CPUs %s", w, usable)
		}
		perCPU[w.CPU]++
		perCore[inv.CPU.thread(w.CPU).Siblings[0]]++
	}
	cores := make(map[int]bool)
	for _, id := range usable {
		cores[inv.CPU.thread(id).Siblings[0]] = true
	}
	if len(p.Workers) <= len(usable) {
		for cpu, n := range perCPU {
			if n > 1 {
				t.Fatalf("%d workers on CPU %d, and there are %d CPUs for %d", n, cpu, len(usable), len(p.Workers))
			}
		}
	}
	if len(p.Workers) <= len(cores) {
		for core, n := range perCore {
			if n > 1 {
				t.Fatalf("%d workers on the core of CPU %d, and there are %d cores for %d", n, core, len(cores), len(p.Workers))
			}
		}
	}
	// CPU 0's core is taken last.
	if first := inv.CPU.thread(0).Siblings[0]; len(p.Workers) < len(cores) && perCore[first] > 0 {
		t.Fatalf("a worker on the core of CPU 0, and %d of %d cores taken", len(p.Workers), len(cores))
	}
	if len(p.Control) == 0 || len(p.Control.Without(usable)) > 0 {
		t.Fatalf("control plane on %s of %s", p.Control, usable)
	}
	if len(p.Workers) < len(usable) {
		for _, w := range p.Workers {
			if p.Control.Has(w.CPU) {
				t.Fatalf("control plane on %s, with worker %+v, and there are CPUs left", p.Control, w)
			}
		}
	}
	if req.Workers == 0 && len(cores) > 1 {
		for _, id := range p.Control {
			if n := perCore[inv.CPU.thread(id).Siblings[0]]; n > 0 {
				t.Fatalf("the plan's own choice puts the control plane beside a worker: %s", p.Short())
			}
		}
	}
}

func checkQueues(t *rapid.T, inv *Inventory, p *Plan) {
	served := make(map[QueueRef]int)
	for _, w := range p.Workers {
		for _, q := range w.Queues {
			served[q]++
		}
	}
	queues := 0
	for _, pi := range p.Interfaces {
		n := inv.Interface(pi.Name)
		want := n.Channels.Combined
		for _, c := range p.Changes {
			if c.Setting == (Setting{pi.Name, KindChannels, "combined"}) {
				want = len(pi.Queues)
				if c.New != fmt.Sprint(want) {
					t.Fatalf("%s, but %d queues are planned", c, want)
				}
			}
		}
		if len(pi.Queues) != want || want < 1 || want > n.Channels.MaxCombined {
			t.Fatalf("%s has %d queues, the plan %d", pi.Name, want, len(pi.Queues))
		}
		for i, q := range pi.Queues {
			if q.Queue != i || served[QueueRef{pi.Name, i}] != 1 {
				t.Fatalf("queue %d of %s is served %d times", i, pi.Name, served[QueueRef{pi.Name, i}])
			}
			if q.CPU != p.Workers[q.Worker].IRQCPU {
				t.Fatalf("%+v is not where worker %d wants it", q, q.Worker)
			}
		}
		queues += len(pi.Queues)
		// Each worker sends by a queue that it may use.
		for _, w := range p.Workers {
			ok := false
			for q := range pi.Queues {
				v, _ := inv.value(Setting{pi.Name, KindXPS, fmt.Sprint(q)})
				for _, c := range p.Changes {
					if c.Setting == (Setting{pi.Name, KindXPS, fmt.Sprint(q)}) {
						v = c.New
					}
				}
				mask, err := ParseMask(or(v, "0"))
				ok = ok || err == nil && (mask.Has(w.CPU) || len(pi.Queues) == 1)
			}
			if !ok {
				t.Fatalf("worker %+v has no queue of %s to send by", w, pi.Name)
			}
		}
	}
	if len(served) != queues {
		t.Fatalf("%d queues are served, there are %d", len(served), queues)
	}
	// Nobody has two queues more than another.
	least, most := queues, 0
	for _, w := range p.Workers {
		least, most = min(least, len(w.Queues)), max(most, len(w.Queues))
	}
	if most-least > 1 {
		t.Fatalf("a worker has %d queues, another %d", most, least)
	}
}
