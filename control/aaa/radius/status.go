package radius

import (
	"time"

	"layeh.com/radius"
)

// Counters is what happened between us and one server. Times are of answered
// requests.
type Counters struct {
	Requests    uint64 `json:"requests"`
	Retransmits uint64 `json:"retransmits"`
	Accepts     uint64 `json:"accepts"`
	Rejects     uint64 `json:"rejects"`
	Challenges  uint64 `json:"challenges"`
	Accounted   uint64 `json:"accounted"` // Accounting-Response
	Timeouts    uint64 `json:"timeouts"`  // requests without an answer
	Deaths      uint64 `json:"deaths"`
	Probes      uint64 `json:"probes"`

	Forged     uint64 `json:"forged"`     // answers with a wrong authenticator
	Unsigned   uint64 `json:"unsigned"`   // without Message-Authenticator
	Unexpected uint64 `json:"unexpected"` // nobody waits for them
	Malformed  uint64 `json:"malformed"`
	Errors     uint64 `json:"errors"` // of the network

	Latency    time.Duration `json:"latency_ns"` // smoothed, one eighth of each new one
	LatencyMax time.Duration `json:"latency_max_ns"`
	LatencySum time.Duration `json:"latency_sum_ns"`
}

func (n *Counters) answer(c radius.Code, took time.Duration) {
	switch c {
	case radius.CodeAccessAccept:
		n.Accepts++
	case radius.CodeAccessReject:
		n.Rejects++
	case radius.CodeAccessChallenge:
		n.Challenges++
	case radius.CodeAccountingResponse:
		n.Accounted++
	default: // there is no other
	}
	if n.Latency == 0 {
		n.Latency = took
	}
	n.Latency += (took - n.Latency) / 8
	n.LatencyMax = max(n.LatencyMax, took)
	n.LatencySum += took
}

// ServerStatus is one server and service, for people and programs.
type ServerStatus struct {
	Service string `json:"service"` // authentication, accounting
	Address string `json:"address"`
	Weight  int    `json:"weight"`
	Alive   bool   `json:"alive"`
	Pending int    `json:"pending"` // requests under way
	Counters
}

// Status is the client's state.
type Status struct {
	Servers  []ServerStatus `json:"servers"`
	Waiting  int            `json:"waiting"`  // authentications that wait for room
	Overload uint64         `json:"overload"` // refused, since too many waited
	Book     BookStatus     `json:"accounting"`
}

// Status returns the client's state.
func (c *Client) Status() Status {
	s := Status{Book: c.book.status()}
	for _, g := range []*group{c.auth, c.acct} {
		g.mu.Lock()
		for _, t := range g.targets {
			s.Servers = append(s.Servers, ServerStatus{
				Service: g.service, Address: t.addr.String(), Weight: t.Weight,
				Alive: t.deadUntil.IsZero(), Pending: t.inflight, Counters: t.n,
			})
		}
		s.Waiting += len(g.waiting)
		s.Overload += g.overload
		g.mu.Unlock()
	}
	return s
}
