// Package config holds what the operator decides: the settings of serve and
// dial, read from a YAML file and from flags.
//
// One table per command (see fields) says for each setting its key, its kind,
// what is allowed and what it is for. The file, the flags, the help texts, the
// example file and the plan all come from that table. A key "a.b" is the key b
// in section a of the file and the flag --a-b.
//
// A setting is checked when it is read; what several settings say together is
// checked by Validate, what the machine has to say by Preflight.
package config

import (
	"net/netip"
	"time"

	"xpptp/control/aaa"
)

// Port is the TCP port of PPTP (RFC 2637 §3).
const Port = 1723

// Packet size limits of IP inside a call. The upper one is what a frame of
// 4096 bytes has room for.
const (
	minMTU  = 576
	maxMTU  = 3700
	minMTU6 = 1280 // RFC 8200 §5
)

// Policy says whether calls are encrypted.
type Policy string

// The policies, from none to must.
const (
	Deny    Policy = "deny"    // never
	Allow   Policy = "allow"   // if the peer asks
	Prefer  Policy = "prefer"  // ask the peer, go on without
	Require Policy = "require" // or end the call
)

// IO is a way to move packets on the outside.
type IO string

// The ways.
const (
	IOAuto    IO = "auto"    // the best there is
	IOXSK     IO = "xsk"     // AF_XDP
	IOTpacket IO = "tpacket" // a ring of AF_PACKET
	IORaw     IO = "raw"     // a raw IP socket
	IOAsavie  IO = "asavie"  // AF_XDP by github.com/asavie/xdp
)

// Poll says what a worker does when there are no packets.
type Poll string

// The ways.
const (
	PollAdaptive  Poll = "adaptive"  // look again for a while, then sleep
	PollSpin      Poll = "spin"      // never sleep: least delay, a whole core each
	PollInterrupt Poll = "interrupt" // sleep at once
)

// Where clients' packets go, if not by a network interface.
const (
	InsideTun     = "tun"     // the kernel's TUN device
	InsideSink    = "sink"    // nowhere
	InsideReflect = "reflect" // back to their sender
)

// DF says what the Don't Fragment bit of the outer header is.
type DF string

// The ways.
const (
	DFClear DF = "clear"
	DFCopy  DF = "copy" // from the inner packet
	DFSet   DF = "set"
)

// Window says whether the peer's receive window holds us back.
type Window string

// The modes.
const (
	WindowOff Window = "off" // never hold back
	WindowRFC Window = "rfc" // RFC 2637 §4.2 to §4.4
)

// Common is what serve and dial have in common.
type Common struct {
	Outside []string // interfaces; none: by the kernel's routes
	IO      IO
	Tun     string // device name, may hold %d

	Workers int // threads that move packets; 0: as many as suit the machine
	CPUs    []int
	Poll    Poll

	Tune      bool   // set the interfaces for the workers until the end
	TuneState string // file of how they were before
	Profiles  string // directory of drivers' profiles; none: those built in

	Auth         []aaa.Method // in order of preference
	MPPE         Policy
	MPPEKeys     []int // bits, in order of preference
	MPPEStateful bool  // accept stateful mode
	MTU, MRU     int   // of IP inside a call
	IPv6         bool

	PPTP PPTP
	PPP  PPP
	GRE  GRE
	IP   IP
	Log  Log

	source
}

// PPTP is the control connection.
type PPTP struct {
	HostName, Vendor string
	Firmware         int
	EchoInterval     time.Duration // of silence before an Echo-Request; 0: never
	EchoTimeout      time.Duration
	StartTimeout     time.Duration // for SCCRQ, or for SCCRP
	CallTimeout      time.Duration // for the next message of a call
	StopTimeout      time.Duration // for the answer to Stop-Control-Connection
	CloseOnStuckCall bool          // RFC 2637 §3.2.1
}

// PPP is the negotiation inside a call (names of RFC 1661 §4.6).
type PPP struct {
	EchoInterval time.Duration // 0: never
	EchoFailures int
	RestartTimer time.Duration
	MaxConfigure int
	MaxTerminate int
	MaxFailure   int
	AuthTimeout  time.Duration // for the whole of authentication
}

// GRE is the data channel of a call.
type GRE struct {
	Reorder       time.Duration // how long to wait for a missing packet; 0: not at all
	AckDelay      time.Duration
	Window        Window
	ReceiveWindow int // packets, as told to the peer
}

// IP is the treatment of packets.
type IP struct {
	DF       DF
	CopyDSCP bool
	CopyECN  bool
	ClampMSS bool
}

// Log is what is logged and how.
type Log struct {
	Level, Format string
}

// Control is how the program is operated while it runs.
type Control struct {
	Socket string // path of a unix socket; "" for none
}

// DefaultSocket is the control socket of serve.
const DefaultSocket = "/run/xpptp/control.sock"

// Limits bound what serve takes on. 0 is no limit.
type Limits struct {
	Calls, Connections, CallsPerConnection int
}

// Config is the configuration of serve.
type Config struct {
	Common
	Listen []netip.AddrPort
	// Sources are where peers may be; none: anywhere.
	Sources []netip.Prefix
	Inside  string // InsideTun, InsideSink, InsideReflect, or the name of an interface
	Name    string // ours, in authentication and in the secrets file
	Local   netip.Addr
	Pools   []Pool
	DNS     []netip.Addr
	NBNS    []netip.Addr
	Limits  Limits
	Control Control

	AuthSource                []AuthSource // asked in this order
	Secrets                   string
	AllowWorldReadableSecrets bool
	Radius                    Radius
}

// Dial is the configuration of dial.
type Dial struct {
	Common
	Server             string // host or host:port
	User               string
	PasswordFile       string
	Calls              int
	CallsPerConnection int
	Starting           int          // control connections that set up calls at the same time
	Source             []netip.Addr // our outside addresses; none: the kernel's choice
	Address            netip.Addr   // the inside address to ask for
	DefaultRoute       bool
	PeerDNS            bool
	Persist            bool
	Control            Control
	RedialMin          time.Duration
	RedialMax          time.Duration

	AllowWorldReadableSecrets bool
}
