package hwprofile

import (
	"errors"
	"strings"
	"testing"
)

// finding is what a check of that name says, for a machine of four cores with
// a NIC after change has been at it.
func finding(t *testing.T, check string, change func(*Inventory)) Finding {
	t.Helper()
	inv := withNIC(machine(4, 1, 2), "eth0", "ice", 0, 2, 2)
	inv.Process.Capabilities = 1<<12 | 1<<13 | 1<<21
	inv.Kernel = Kernel{TUN: true, ClockSource: "tsc", MultipathHash: "0", IPForward: "1", RTRuntime: "950000"}
	inv.Memory = Memory{Memlock: -1, HugePages: []HugePages{{SizeKB: 2048, Total: 100, Free: 100}}}
	inv.Interfaces[0].XDP = &XDP{Features: []string{"basic", "xsk-zerocopy"}}
	inv.Interfaces[0].RSS = &RSS{Indirection: []int{0, 1, 0, 1}}
	inv.Interfaces[0].Features = map[string]Feature{"rx-vlan-hw-parse": {}, "rx-gro-hw": {}}
	for i := range inv.CPU.Threads {
		inv.CPU.Threads[i].Governor = "performance"
	}
	change(inv)
	p := plan(t, inv, Request{Workers: 1, Interfaces: []string{"eth0"}})
	for _, f := range Check(inv, p, "", nil) {
		if f.Check == check {
			return f
		}
	}
	t.Fatalf("no check %q", check)
	return Finding{}
}

// Every check is content with a good machine, and finds what is wrong.
func TestChecks(t *testing.T) {
	for _, tt := range []struct {
		check  string
		change func(*Inventory)
		level  Level
		found  string
		mend   string
	}{
		{"capabilities", func(i *Inventory) { i.Process.Capabilities = 1<<13 | 1<<39 }, Bad, "CAP_NET_ADMIN missing", "setcap"},
		{"capabilities", func(i *Inventory) { i.Process.Capabilities = 1<<12 | 1<<13 }, Warn, "CAP_BPF missing", "setcap"},
		{"capabilities", func(i *Inventory) { i.Process.Capabilities = 0 }, Bad, "CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF missing", "setcap"},
		{"tun", func(i *Inventory) { i.Kernel.TUN = false }, Bad, "is not there", "modprobe tun"},
		{"memlock", func(i *Inventory) { i.Memory.Memlock = 65536 }, Bad, "64 kB may be locked, 16384 kB are for 1 worker", "ulimit -l unlimited"},
		{"memlock", func(i *Inventory) { i.Memory.Memlock = 65536; i.Process.Capabilities |= 1 << 14 }, OK, "CAP_IPC_LOCK lifts the limit", ""},
		{"huge pages", func(i *Inventory) { i.Memory.HugePages[0].Free = 7 }, Warn, "7 of 2 MB are free, frames for 1 worker take 8", "vm.nr_hugepages=8"},
		{"cores", func(i *Inventory) { i.CPU.Allowed = CPUs{2} }, Warn, "1 CPU may be used", "another CPU"},
		{"governor", func(i *Inventory) { i.CPU.Threads[3].Governor = "powersave" }, Warn, "performance, powersave", "cpupower"},
		{"clock", func(i *Inventory) { i.Kernel.ClockSource = "hpet" }, Warn, "hpet", "clocksource=tsc"},
		{"queues of eth0", func(i *Inventory) {}, OK, "2 receive queues, 1 worker", ""},
		{"RSS of eth0", func(i *Inventory) { i.Interfaces[0].RSS.Indirection = []int{0, 0} }, Warn, "uses 1 of 2 queues", "ethtool -X eth0 default"},
		{"NUMA of eth0", func(i *Inventory) { i.CPU.Allowed = CPUs{2, 3} }, Warn, "on node 0; 1 of 1 workers are on another", "--cpus"},
		{"offloads of eth0", func(i *Inventory) { i.Interfaces[0].Features["rx-vlan-hw-parse"] = Feature{On: true} }, Warn, "rx-vlan-hw-parse on", "ethtool -K eth0 rx-vlan-hw-parse off"},
		{"offloads of eth0", func(i *Inventory) { i.Interfaces[0].Features["rx-vlan-hw-parse"] = Feature{On: true, Fixed: true} }, OK, "all off", ""},
		{"offloads of eth0", func(i *Inventory) {
			i.Interfaces[0].Driver = "mlx5_core"
			i.Interfaces[0].Features["rx-gro-hw"] = Feature{On: true}
		}, Bad, "rx-gro-hw on", "rx-gro-hw off"},
		{"MTU of eth0", func(i *Inventory) { i.Interfaces[0].MTU = 9000 }, Bad, "9000", "mtu 1500"},
		{"XDP of eth0", func(i *Inventory) { i.Interfaces[0].XDP.Features = nil }, Warn, "generic", "tpacket"},
		{"XDP of eth0", func(i *Inventory) {}, OK, "zero-copy", ""},
		{"XDP of eth0", func(i *Inventory) { i.Interfaces[0].XDP.Features = []string{"basic"} }, OK, "a copy of each packet", ""},
		{"XDP program of eth0", func(i *Inventory) { i.Interfaces[0].XDP.Program = 7 }, Warn, "program 7", "xdp off"},
		{"interrupts of queues", func(i *Inventory) {}, Warn, "elsewhere than planned: 100", "hw apply"},
		{"interrupts of queues", func(i *Inventory) { i.IRQs[0].Affinity = CPUs{1} }, OK, "where the plan wants them", ""},
		{"other interrupts on worker CPUs", func(i *Inventory) {
			i.IRQs = append(i.IRQs, IRQ{Number: 7, Name: "nvme", Queue: -1, Effective: CPUs{1}, Count: 5000})
		}, Warn, "7 (nvme) on CPU 1", "echo 0,2-3 | sudo tee /proc/irq/7/smp_affinity_list"},
		{"other interrupts on worker CPUs", func(i *Inventory) {
			i.IRQs = append(i.IRQs, IRQ{Number: 7, Name: "nvme", Queue: -1, Effective: CPUs{0}, Count: 5000}, IRQ{Number: 8, Effective: CPUs{1}, Count: 3})
		}, OK, "none", ""},
		{"irqbalance", func(i *Inventory) { i.Kernel.IRQBalance = true }, Warn, "it is running", "systemctl stop irqbalance"},
		{"ip_forward", func(i *Inventory) { i.Kernel.IPForward = "0" }, Warn, "0", "ip_forward=1"},
		{"multipath hash", func(i *Inventory) { i.Kernel.MultipathHash = "1" }, Warn, "1: by ports", "fib_multipath_hash_policy=0"},
		{"conntrack helper", func(i *Inventory) { i.Kernel.ConntrackHelper = true }, Warn, "is loaded", "modprobe -r"},
	} {
		f := finding(t, tt.check, tt.change)
		if f.Level != tt.level || !strings.Contains(f.Found, tt.found) || !strings.Contains(f.Mend, tt.mend) {
			t.Errorf("%s: %+v\nwant %s, %q, %q", tt.check, f, tt.level, tt.found, tt.mend)
		}
		if (f.Level == OK) != (f.Why == "") {
			t.Errorf("%s: %s, and why is %q", tt.check, f.Level, f.Why)
		}
		if tt.level != OK && tt.check != "interrupts of queues" {
			if f := finding(t, tt.check, func(*Inventory) {}); f.Level != OK {
				t.Errorf("%s on a good machine: %+v", tt.check, f)
			}
		}
	}
	quota := func(i *Inventory) { i.CPU.Quota = 1.5 }
	if f := finding(t, "cpu quota", quota); f.Level != Warn {
		t.Errorf("%+v", f)
	}
}

func TestCheckVethPeer(t *testing.T) {
	inv := machine(2, 1, 1)
	inv.Interfaces = []Interface{
		{Name: "va", Kind: "veth", MTU: 1500, NIC: NIC{Driver: "veth"}},
		{Name: "vb", Kind: "veth", MTU: 1500, NIC: NIC{Driver: "veth", Features: map[string]Feature{"tx-checksum-ip-generic": {On: true}}}},
	}
	look := func() Finding {
		for _, f := range Check(inv, plan(t, inv, Request{Interfaces: []string{"va"}}), "", nil) {
			if f.Check == "veth peer of va" {
				return f
			}
		}
		t.Fatal("no check of the peer")
		return Finding{}
	}
	if f := look(); f.Level != Warn || !strings.Contains(f.Found, "another namespace") {
		t.Errorf("%+v", f)
	}
	inv.Interfaces[0].Peer, inv.Interfaces[1].Peer = "vb", "va"
	if f := look(); f.Level != Warn || !strings.Contains(f.Mend, "ethtool -K vb tx off") {
		t.Errorf("%+v", f)
	}
	// The plan switches off what is on at either end.
	p := plan(t, inv, Request{Interfaces: []string{"va"}})
	if len(p.Changes) != 1 || p.Changes[0].Interface != "vb" {
		t.Errorf("%v", p.Changes)
	}
	inv.Interfaces[1].Features["tx-checksum-ip-generic"] = Feature{}
	if f := look(); f.Level != OK {
		t.Errorf("%+v", f)
	}
}

func TestCheckFirewall(t *testing.T) {
	const nft = "table inet filter {\n\tchain input {\n\t\ttype filter hook input priority filter; policy drop;\n\t\tRULES\n\t}\n}\n"
	const ipt = "*filter\n:INPUT DROP [0:0]\n:FORWARD ACCEPT [0:0]\nRULES\nCOMMIT\n"
	inv := machine(2, 1, 1)
	p := plan(t, inv, Request{})
	for _, tt := range []struct {
		name, text string
		gre, tcp   Level
	}{
		{"none", "", OK, OK},
		{"open", strings.Replace(nft, "policy drop", "policy accept", 1), OK, OK},
		{"closed", nft, Bad, Bad},
		{"nft accepts both", strings.Replace(nft, "RULES", "ip protocol gre accept\n\t\ttcp dport 1723 accept", 1), OK, OK},
		{"nft accepts by number", strings.Replace(nft, "RULES", "meta l4proto 47 accept\n\t\ttcp dport { 22, 1723 } accept", 1), OK, OK},
		{"nft accepts a set of protocols", strings.Replace(nft, "RULES", "meta l4proto { icmp, gre } counter accept", 1), OK, Bad},
		{"nft drops GRE", "table ip t {\n\tchain c {\n\t\ttype filter hook input priority 0; policy accept;\n\t\tip protocol gre drop\n\t}\n}\n", Bad, OK},
		{"a port of 47", strings.Replace(nft, "RULES", "tcp dport 47 accept\n\t\ttcp dport 1723 accept", 1), Bad, OK},
		{"iptables accepts both", strings.Replace(ipt, "RULES", "-A INPUT -p gre -j ACCEPT\n-A INPUT -p tcp -m tcp --dport 1723 -j ACCEPT", 1), OK, OK},
		{"iptables accepts by number", strings.Replace(ipt, "RULES", "-A INPUT -p 47 -j ACCEPT", 1), OK, Bad},
		{"iptables rejects", strings.Replace(strings.Replace(ipt, "INPUT DROP", "INPUT ACCEPT", 1), "RULES", "-A INPUT -p tcp -m tcp --dport 1723 -j REJECT --reject-with icmp-port-unreachable", 1), OK, Bad},
	} {
		got := make(map[string]Level)
		for _, f := range Check(inv, p, tt.text, nil) {
			got[f.Check] = f.Level
		}
		if got["firewall, GRE"] != tt.gre || got["firewall, TCP 1723"] != tt.tcp {
			t.Errorf("%s: GRE %s, TCP 1723 %s; want %s, %s", tt.name, got["firewall, GRE"], got["firewall, TCP 1723"], tt.gre, tt.tcp)
		}
	}
	list := Check(inv, p, "", errors.New("not permitted"))
	if f := list[len(list)-1]; f.Check != "firewall" || f.Level != Warn || !strings.Contains(f.Found, "not permitted") {
		t.Errorf("%+v", f)
	}
}
