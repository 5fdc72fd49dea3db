// Package api is how a running server or client is looked at and operated:
// HTTP with JSON over a unix socket that only its owner may open.
//
//	GET  /v1/stat       Stat: totals, ports
//	GET  /v1/sessions   []Session; ?user= ?ip= ?peer= ?call= ?session= narrow it
//	GET  /v1/drops      Drops: dropped packets by reason
//	GET  /v1/workers    []Worker: time by stage, batches, ports
//	GET  /v1/pools      []Pool
//	GET  /v1/radius     radius.Status; 404 without servers
//	GET  /v1/plan       Plan: which worker runs where and what it looks at
//	GET  /v1/version    the program's version
//	POST /v1/terminate  TerminateRequest → Ended
//	POST /v1/drain      no new calls; the program ends with the last one
//	POST /v1/shutdown   ShutdownRequest: soft, hard, or cancel a drain
//	POST /v1/reload     what SIGHUP does
//	GET  /healthz       200 while all loops and workers answer
//	GET  /readyz        200 while new calls are taken
//
// An answer that is not 2xx has an object with "error". Keys are only added,
// never changed. Times are in nanoseconds where the key ends in _ns, rates in
// bits per second, counters since the start.
package api

import (
	"net/netip"
	"time"

	"xpptp/control"
	"xpptp/engine"
	"xpptp/hwprofile"
	"xpptp/rings"
	"xpptp/workers"
)

// Stat is the whole at a glance.
type Stat struct {
	Version       string    `json:"version"`
	PID           int       `json:"pid"`
	Started       time.Time `json:"started"`
	UptimeSeconds int64     `json:"uptime_seconds"`
	State         string    `json:"state"` // running, draining
	Workers       int       `json:"workers"`

	Calls              int    `json:"calls"` // in any state
	Connections        int    `json:"connections"`
	CallsUp            uint64 `json:"calls_up_total"` // that have come up
	AuthFailures       uint64 `json:"auth_failures_total"`
	RefusedConnections uint64 `json:"refused_connections_total"`
	Strangers          uint64 `json:"foreign_connections_total"` // from where peers may not be
	ProtocolErrors     uint64 `json:"protocol_errors_total"`     // of control connections
	Drops              uint64 `json:"drops_total"`
	EarlyDrops         uint64 `json:"xdp_drops_total"`

	Ports []Port `json:"ports"` // of all workers together
}

// Port is what passed a port. Packets and bytes are frames as the worker sees
// them.
type Port struct {
	Name      string `json:"name"`
	Backend   string `json:"backend"`
	RxPackets uint64 `json:"rx_packets"`
	RxBytes   uint64 `json:"rx_bytes"`
	RxDropped uint64 `json:"rx_dropped"` // by the kernel, for lack of a frame, or too long
	TxPackets uint64 `json:"tx_packets"`
	TxBytes   uint64 `json:"tx_bytes"`
	TxDropped uint64 `json:"tx_dropped"`
}

func newPort(i *rings.Info, s *rings.Stats) Port {
	return Port{
		Name: i.Name, Backend: i.Backend,
		RxPackets: s.RxPackets, RxBytes: s.RxBytes, RxDropped: s.RxDropped + s.RxNoFrame + s.RxTruncated,
		TxPackets: s.TxPackets, TxBytes: s.TxBytes, TxDropped: s.TxDropped + s.TxFull,
	}
}

func (p *Port) add(o *Port) {
	p.RxPackets += o.RxPackets
	p.RxBytes += o.RxBytes
	p.RxDropped += o.RxDropped
	p.TxPackets += o.TxPackets
	p.TxBytes += o.TxBytes
	p.TxDropped += o.TxDropped
}

// Session is a call. Packets and bytes are of IP inside it; rx is from the
// peer.
type Session struct {
	User       string     `json:"user"` // "" before authentication
	State      string     `json:"state"`
	IP         netip.Addr `json:"ip,omitzero"` // the peer's
	IP6        netip.Addr `json:"ip6,omitzero"`
	LocalIP    netip.Addr `json:"local_ip,omitzero"`
	Peer       netip.Addr `json:"peer"` // outside
	Local      netip.Addr `json:"local"`
	CallID     uint16     `json:"call_id"`
	PeerCallID uint16     `json:"peer_call_id"`
	Session    string     `json:"session,omitempty"`
	Worker     int        `json:"worker"`
	Auth       string     `json:"auth"`
	Cipher     string     `json:"cipher"`
	MTU        int        `json:"mtu"`
	RateUp     uint64     `json:"rate_up"`
	RateDown   uint64     `json:"rate_down"`
	AgeSeconds int64      `json:"age_seconds"`
	RxPackets  uint64     `json:"rx_packets"`
	RxBytes    uint64     `json:"rx_bytes"`
	TxPackets  uint64     `json:"tx_packets"`
	TxBytes    uint64     `json:"tx_bytes"`
	Drops      uint64     `json:"drops"`
	Lost       uint64     `json:"lost"` // sequence numbers that never came
	Reordered  uint64     `json:"reordered"`
	Duplicate  uint64     `json:"duplicate"`
}

func newSession(c *control.CallState) Session {
	s, g := &c.Stats, &c.GRE
	return Session{
		User: c.User, State: c.State, IP: c.IP, IP6: c.IP6, LocalIP: c.LocalIP, Peer: c.Peer, Local: c.Local,
		CallID: c.CallID, PeerCallID: c.PeerCallID, Session: c.Session, Worker: c.Worker,
		Auth: c.Auth, Cipher: c.Cipher, MTU: c.MTU, RateUp: c.Rate.Up, RateDown: c.Rate.Down,
		AgeSeconds: int64(c.Age / time.Second),
		RxPackets:  s.RxPackets, RxBytes: s.RxBytes, TxPackets: s.TxPackets, TxBytes: s.TxBytes, Drops: s.Drops,
		Lost: g.Lost, Reordered: g.Reordered, Duplicate: g.Duplicate,
	}
}

// Drops counts dropped packets by reason, in the order of the way in. Reasons
// without a packet are left out.
type Drops struct {
	Reasons []Drop `json:"reasons"`
}

// Drop is one reason.
type Drop struct {
	Reason  string   `json:"reason"`
	Total   uint64   `json:"total"`
	XDP     uint64   `json:"xdp"`     // before a worker saw them
	Workers []uint64 `json:"workers"` // by worker
}

func newDrops(early engine.Counters, states []workers.State) Drops {
	d := Drops{Reasons: []Drop{}}
	for i := range early {
		r := Drop{Reason: engine.Drop(i).String(), Total: early[i], XDP: early[i], Workers: make([]uint64, len(states))}
		for w := range states {
			n := states[w].Drops[i]
			r.Workers[w] = n
			r.Total += n
		}
		if r.Total > 0 {
			d.Reasons = append(d.Reasons, r)
		}
	}
	return d
}

// Worker is what a worker did.
type Worker struct {
	ID         int              `json:"id"`
	CPU        int              `json:"cpu"` // -1: the kernel chooses
	Calls      int              `json:"calls"`
	BusyNS     int64            `json:"busy_ns"`
	IdleNS     int64            `json:"idle_ns"`
	StagesNS   map[string]int64 `json:"stages_ns"` // what busy_ns went into
	Polls      uint64           `json:"polls"`
	BusyPolls  uint64           `json:"busy_polls"`
	Sleeps     uint64           `json:"sleeps"`
	HandedOver uint64           `json:"handed_over"` // to the worker of their call
	TakenOver  uint64           `json:"taken_over"`
	Drops      uint64           `json:"drops"`
	Frames     int              `json:"frames"`
	FramesFree int              `json:"frames_free"`
	// How many looks at the ports brought 2^i to 2^(i+1)-1 packets.
	BatchesOutside [workers.BatchBuckets]uint64 `json:"batches_outside"`
	BatchesInside  [workers.BatchBuckets]uint64 `json:"batches_inside"`
	Ports          []Port                       `json:"ports"`
}

func newWorker(s *workers.State, cpu int) Worker {
	w := Worker{
		Ports: []Port{},
		ID:    s.ID, CPU: cpu, Calls: s.Sessions, BusyNS: s.Time.Busy, IdleNS: s.Time.Idle, StagesNS: map[string]int64{},
		Polls: s.Loops.Polls, BusyPolls: s.Loops.Busy, Sleeps: s.Loops.Sleeps,
		HandedOver: s.Flow.HandedOver, TakenOver: s.Flow.TakenOver, Drops: total(&s.Drops),
		Frames: s.Frames, FramesFree: s.Free, BatchesOutside: s.Batches.Outside, BatchesInside: s.Batches.Inside,
	}
	for i, ns := range s.Time.Stages {
		w.StagesNS[workers.Stage(i).String()] = ns
	}
	for i := range s.Ports {
		w.Ports = append(w.Ports, newPort(&s.Ports[i], &s.Stats[i]))
	}
	return w
}

func total(c *engine.Counters) (n uint64) {
	for _, k := range c {
		n += k
	}
	return n
}

// Pool is a pool of client addresses.
type Pool struct {
	Name string `json:"name"`
	Size int    `json:"size"`
	Used int    `json:"used"`
	Free int    `json:"free"`
}

// Plan is which worker runs on which CPU and looks at what, and how the
// machine was set for that.
type Plan struct {
	Text    string       `json:"text"` // in one line
	Tuned   bool         `json:"tuned"`
	IO      string       `json:"io"`
	Mode    string       `json:"mode,omitempty"` // of the backend
	Why     string       `json:"why,omitempty"`  // this backend
	Outside []string     `json:"outside"`
	Inside  string       `json:"inside"`
	MTU     int          `json:"mtu"`
	Workers []PlanWorker `json:"workers"`
	// Hardware is the plan that tune has carried out.
	Hardware *hwprofile.Plan `json:"hardware,omitempty"`
}

// PlanWorker is one worker's place.
type PlanWorker struct {
	ID    int        `json:"id"`
	CPU   int        `json:"cpu"` // -1: the kernel chooses
	Ports []PlanPort `json:"ports"`
}

// PlanPort is a queue that a worker looks at.
type PlanPort struct {
	Name    string `json:"name"`
	Backend string `json:"backend"`
	Queue   int    `json:"queue"`
}

// NewPlan describes a box that has started.
func NewPlan(b *control.Box) Plan {
	s, hw := b.Setup(), b.Plan()
	p := Plan{
		Text: s.String(), Tuned: hw != nil, IO: string(s.IO), Mode: s.Mode, Why: s.Why,
		Outside: s.Outside, Inside: s.Inside, MTU: s.MTU, Hardware: hw,
	}
	for _, w := range s.Workers {
		pw := PlanWorker{ID: w.ID, CPU: w.CPU}
		for _, i := range w.Ports {
			pw.Ports = append(pw.Ports, PlanPort{i.Name, i.Backend, i.Queue})
		}
		p.Workers = append(p.Workers, pw)
	}
	return p
}

// TerminateRequest says which calls are to end. All that is set must fit; All
// alone means every call. An ID alone that several calls have is a conflict.
type TerminateRequest struct {
	All     bool   `json:"all,omitempty"`
	User    string `json:"user,omitempty"`
	IP      string `json:"ip,omitempty"`
	Peer    string `json:"peer,omitempty"`
	Call    string `json:"call,omitempty"`
	Session string `json:"session,omitempty"`
	Hard    bool   `json:"hard,omitempty"` // without LCP Terminate-Request
}

// Ended is how many calls a request began to end.
type Ended struct {
	Calls int `json:"calls"`
}

// The ways to shut down.
const (
	Soft   = "soft"   // end all calls in order, then the program
	Hard   = "hard"   // at once
	Cancel = "cancel" // take new calls again, if drained
)

// ShutdownRequest says how.
type ShutdownRequest struct {
	Mode string `json:"mode"`
}

// Done is the answer to what has nothing to say.
type Done struct {
	Done  bool `json:"done"`
	Calls int  `json:"calls"` // that are left
}

// Packets adds up what passed the worker's ports.
func (w *Worker) Packets() (rx, tx uint64) {
	for i := range w.Ports {
		rx, tx = rx+w.Ports[i].RxPackets, tx+w.Ports[i].TxPackets
	}
	return rx, tx
}
