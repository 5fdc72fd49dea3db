package config

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"xpptp/control/aaa"
	"xpptp/hwprofile"
)

// field is one setting.
type field struct {
	key  string // section and name, joined by a dot
	v    value
	help string
}

const hour = time.Hour

func (c *Common) fields() []field {
	return []field{
		{"outside", &list[string]{&c.Outside, "interface", "", 16, parseInterface}, "outside interface; none: found by the kernel's routes"},
		{"io", word[IO]{&c.IO, []IO{IOAuto, IOXSK, IOTpacket, IORaw, IOAsavie}}, "how packets are moved outside"},
		{"tun", text{&c.Tun, "name", checkInterface}, "name of the TUN device; %d is a number the kernel picks"},
		{"workers", integer{&c.Workers, 0, maxWorkers}, "threads that move packets, 0: all cores but one"},
		{"cpus", &list[int]{&c.CPUs, "cores", "numbers of cores", maxWorkers, parseCPU}, "cores to keep the workers on, one each; none: wherever there is time"},
		{"poll", word[Poll]{&c.Poll, []Poll{PollAdaptive, PollSpin, PollInterrupt}}, "what a worker does when there are no packets: look for a while and sleep, look on, sleep at once"},
		{"tune", boolean{&c.Tune}, "keep workers on cores of their own, and set queues, interrupts and offloads for them until the end, as xpptp hw shows"},
		{"tune-state", text{&c.TuneState, "file", checkText}, "file of how it was before, to undo what a killed run has left"},
		{"tune-profiles", text{&c.Profiles, "directory", checkText}, "profiles of drivers that go before those built in"},
		{"auth", &list[aaa.Method]{&c.Auth, "methods", "pap, chap, mschapv1, mschapv2", 4, aaa.ParseMethod}, "authentication methods, best first"},
		{"mppe", word[Policy]{&c.MPPE, []Policy{Deny, Allow, Prefer, Require}}, "encryption of calls"},
		{"mppe-keys", &list[int]{&c.MPPEKeys, "bits", "40, 56, 128", 3, parseBits}, "key lengths of MPPE, best first"},
		{"mppe-stateful", boolean{&c.MPPEStateful}, "accept stateful MPPE, where one lost packet costs several"},
		{"mtu", integer{&c.MTU, minMTU, maxMTU}, "largest IP packet to send in a call"},
		{"mru", integer{&c.MRU, minMTU, maxMTU}, "largest IP packet to ask the peer for"},
		{"ipv6", boolean{&c.IPv6}, "offer IPv6 in calls"},

		{"pptp.host-name", text{&c.PPTP.HostName, "name", checkField}, "host name told to peers"},
		{"pptp.vendor", text{&c.PPTP.Vendor, "name", checkField}, "vendor told to peers"},
		{"pptp.firmware", integer{&c.PPTP.Firmware, 0, 65535}, "firmware revision told to peers"},
		{"pptp.echo-interval", duration{&c.PPTP.EchoInterval, 0, hour}, "silence before an Echo-Request on the control connection, 0: none is sent"},
		{"pptp.echo-timeout", duration{&c.PPTP.EchoTimeout, time.Second, hour}, "time to answer it"},
		{"pptp.start-timeout", duration{&c.PPTP.StartTimeout, time.Second, hour}, "time to start a control connection"},
		{"pptp.call-timeout", duration{&c.PPTP.CallTimeout, time.Second, hour}, "time for the next message of a call that is being set up"},
		{"pptp.stop-timeout", duration{&c.PPTP.StopTimeout, 0, hour}, "time to answer Stop-Control-Connection-Request"},
		{"pptp.close-on-stuck-call", boolean{&c.PPTP.CloseOnStuckCall}, "a call stuck in set-up ends its control connection"},

		{"ppp.echo-interval", duration{&c.PPP.EchoInterval, 0, hour}, "time between LCP Echo-Requests, 0: none is sent"},
		{"ppp.echo-failures", integer{&c.PPP.EchoFailures, 1, 100}, "Echo-Requests without an answer that end a call"},
		{"ppp.restart-timer", duration{&c.PPP.RestartTimer, 100 * time.Millisecond, time.Minute}, "time before a request is sent again"},
		{"ppp.max-configure", integer{&c.PPP.MaxConfigure, 1, 100}, "Configure-Requests without an answer"},
		{"ppp.max-terminate", integer{&c.PPP.MaxTerminate, 1, 100}, "Terminate-Requests without an answer"},
		{"ppp.max-failure", integer{&c.PPP.MaxFailure, 1, 100}, "Configure-Naks before options are rejected"},
		{"ppp.auth-timeout", duration{&c.PPP.AuthTimeout, time.Second, 10 * time.Minute}, "time for authentication"},

		{"gre.reorder", duration{&c.GRE.Reorder, 0, time.Second}, "time to wait for a packet that is late, 0: none"},
		{"gre.ack-delay", duration{&c.GRE.AckDelay, 0, time.Second}, "time to wait for a packet that can carry an acknowledgement"},
		{"gre.window", word[Window]{&c.GRE.Window, []Window{WindowOff, WindowRFC}}, "whether the peer's receive window limits us; off is what fast peers do"},
		{"gre.receive-window", integer{&c.GRE.ReceiveWindow, 1, 65535}, "receive window told to the peer, in packets"},

		{"ip.df", word[DF]{&c.IP.DF, []DF{DFClear, DFCopy, DFSet}}, "Don't Fragment bit of what carries a call"},
		{"ip.copy-dscp", boolean{&c.IP.CopyDSCP}, "copy DSCP from the packet carried"},
		{"ip.copy-ecn", boolean{&c.IP.CopyECN}, "carry ECN marks across (RFC 6040)"},
		{"ip.clamp-mss", boolean{&c.IP.ClampMSS}, "lower the TCP MSS to what a call can carry"},

		{"log.level", word[string]{&c.Log.Level, []string{"debug", "info", "warn", "error"}}, "what is logged"},
		{"log.format", word[string]{&c.Log.Format, []string{"text", "json"}}, "how it is written"},
	}
}

func (c *Config) fields() []field {
	fs := []field{
		{"listen", &list[netip.AddrPort]{&c.Listen, "address:port", "IPv4 addresses, with or without a port", 64, parseListen}, "address to take control connections on"},
		{"sources", &list[netip.Prefix]{&c.Sources, "prefix", "IPv4 prefixes and addresses", 1024, parsePrefix}, "where peers may be; none: anywhere"},
		{"inside", text{&c.Inside, "interface", checkInterface}, "where clients' packets go: tun, an interface to send by without the kernel, or for tests sink or reflect"},
		{"name", text{&c.Name, "name", checkName}, "our name, as the secrets file knows the server"},
		{"local", address{&c.Local}, "our address inside calls"},
		{"pool", &pools{&c.Pools}, "client addresses"},
		{"dns", &list[netip.Addr]{&c.DNS, "address", "IPv4 addresses", 2, parseAddr}, "name server for clients, up to two"},
		{"nbns", &list[netip.Addr]{&c.NBNS, "address", "IPv4 addresses", 2, parseAddr}, "WINS server for clients, up to two"},
		{"auth-source", &list[AuthSource]{&c.AuthSource, "sources", "local, radius", 2, parseAuthSource}, "who knows the users; the next one is asked about a user that one does not know or while it does not answer"},
		{"secrets", text{&c.Secrets, "file", checkText}, "file of users, in the format of pppd's chap-secrets"},
		{"allow-world-readable-secrets", boolean{&c.AllowWorldReadableSecrets}, "take a secrets file that every user can read"},
	}
	fs = append(fs, c.Common.fields()...)
	fs = append(fs, c.Radius.fields()...)
	return append(fs, []field{
		{"limits.calls", integer{&c.Limits.Calls, 0, 1 << 20}, "calls at a time, 0: no limit"},
		{"limits.connections", integer{&c.Limits.Connections, 0, 1 << 20}, "control connections at a time, 0: no limit"},
		{"limits.calls-per-connection", integer{&c.Limits.CallsPerConnection, 0, 65535}, "calls in one control connection, 0: no limit"},
		{"control.socket", text{&c.Control.Socket, "file", checkText}, "unix socket for xpptp show, terminate and the like; empty: none"},
	}...)
}

func (d *Dial) fields() []field {
	fs := []field{
		{"server", text{&d.Server, "host", checkServer}, "server to call: HOST or HOST:PORT"},
		{"user", text{&d.User, "name", checkText}, "user name"},
		{"password-file", text{&d.PasswordFile, "file", checkText}, "file with the password in its first line"},
		{"allow-world-readable-secrets", boolean{&d.AllowWorldReadableSecrets}, "take a password file that every user can read"},
		{"calls", integer{&d.Calls, 1, 65535}, "number of calls"},
		{"calls-per-connection", integer{&d.CallsPerConnection, 1, 65535}, "calls in one control connection"},
		{"starting", integer{&d.Starting, 1, 65535}, "control connections that set up calls at the same time"},
		{"source", &list[netip.Addr]{&d.Source, "address", "IPv4 addresses", 64, parseAddr}, "our outside address; none: the kernel's choice"},
		{"address", address{&d.Address}, "address to ask the server for"},
		{"default-route", boolean{&d.DefaultRoute}, "send everything through the call"},
		{"peer-dns", boolean{&d.PeerDNS}, "use the server's name servers while the call is up"},
		{"persist", boolean{&d.Persist}, "call again when a call ends"},
		{"redial-min", duration{&d.RedialMin, 100 * time.Millisecond, hour}, "first pause before calling again; it doubles"},
		{"redial-max", duration{&d.RedialMax, 100 * time.Millisecond, 24 * hour}, "longest pause before calling again"},
	}
	fs = append(fs, d.Common.fields()...)
	return append(fs, field{"control.socket", text{&d.Control.Socket, "file", checkText}, "unix socket for xpptp show, terminate and the like; empty: none"})
}

func defaultCommon() Common {
	return Common{
		IO:        IOAuto,
		Tun:       "xpptp%d",
		Poll:      PollAdaptive,
		TuneState: hwprofile.RunState,
		Auth:      []aaa.Method{aaa.MSCHAPv2},
		MPPE:      Require,
		MPPEKeys:  []int{128},
		MTU:       1400,
		MRU:       1400,
		IPv6:      true,
		PPTP: PPTP{
			HostName: "xpptp", Vendor: "xpptp", Firmware: 1,
			EchoInterval: time.Minute, EchoTimeout: time.Minute, // RFC 2637 §3.1.4
			StartTimeout: time.Minute, CallTimeout: time.Minute,
			StopTimeout: 3 * time.Second,
		},
		PPP: PPP{
			EchoInterval: 30 * time.Second, EchoFailures: 4,
			RestartTimer: 3 * time.Second, MaxConfigure: 10, MaxTerminate: 2, MaxFailure: 5, // RFC 1661 §4.6
			AuthTimeout: 30 * time.Second,
		},
		GRE: GRE{
			Reorder: 5 * time.Millisecond, AckDelay: 5 * time.Millisecond,
			Window: WindowOff, ReceiveWindow: 4096,
		},
		IP:  IP{DF: DFClear, ClampMSS: true},
		Log: Log{Level: "info", Format: "text"},
	}
}

// Default returns serve's settings before any are read: the strongest
// authentication and encryption there is. Local, Pools and Secrets are empty
// and must be set.
func Default() *Config {
	return &Config{
		Common: defaultCommon(),
		Listen: []netip.AddrPort{netip.AddrPortFrom(netip.IPv4Unspecified(), Port)},
		Inside: InsideTun,
		Name:   "xpptp",

		Control: Control{Socket: DefaultSocket},

		AuthSource: []AuthSource{AuthLocal},
		Radius:     defaultRadius(),
	}
}

// DefaultDial returns dial's settings before any are read. Server, User and
// PasswordFile are empty and must be set.
func DefaultDial() *Dial {
	return &Dial{
		Common:             defaultCommon(),
		Calls:              1,
		CallsPerConnection: 1,
		Starting:           10,
		RedialMin:          time.Second,
		RedialMax:          time.Minute,
	}
}

func parseInterface(s string) (string, error) {
	if s == "" {
		return "", fmt.Errorf("%q cannot be the name of an interface", s)
	}
	return s, checkInterface(s)
}

func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		var a netip.Addr
		if a, err = netip.ParseAddr(s); err == nil {
			p = netip.PrefixFrom(a, a.BitLen())
		}
	}
	switch {
	case err != nil || !p.Addr().Is4():
		return p, fmt.Errorf("%q is not an IPv4 prefix such as 192.0.2.0/24", s)
	case p != p.Masked():
		return p, fmt.Errorf("%q has bits behind its length: %s is meant?", s, p.Masked())
	}
	return p, nil
}

// maxWorkers is how many sockets a queue can have.
const maxWorkers = 64

func parseCPU(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > 1023 {
		return 0, fmt.Errorf("%q is not the number of a core", s)
	}
	return n, nil
}

func parseBits(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n != 40 && n != 56 && n != 128 {
		return 0, fmt.Errorf("%q is none of 40, 56, 128", s)
	}
	return n, nil
}

func checkServer(s string) error {
	host, port := splitServer(s)
	n, err := strconv.ParseUint(port, 10, 16)
	if ip := net.ParseIP(host); err != nil || n == 0 || host == "" || ip != nil && ip.To4() == nil {
		return fmt.Errorf("%q is not a host name or IPv4 address, with or without :PORT", s)
	}
	return nil
}

func splitServer(s string) (host, port string) {
	if host, port, err := net.SplitHostPort(s); err == nil {
		return host, port
	}
	return s, strconv.Itoa(Port)
}

// Endpoint returns the server's host and port in the form that net.Dial takes.
func (d *Dial) Endpoint() string { return net.JoinHostPort(splitServer(d.Server)) }
