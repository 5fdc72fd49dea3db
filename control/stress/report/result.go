package report

import (
	"encoding/json"
	"time"
)

// Version of the JSON document. It grows when a name goes or changes its
// meaning, not when names are added.
const Version = 1

// Result is what one run came to. The one who runs it fills it; nothing here
// is safe for concurrent use.
type Result struct {
	// Version of this document.
	Schema int `json:"schema"`
	// Name of the test or of the plan.
	Name string `json:"name"`
	// Whether the result is about the server: the generator had time to spare and the run came to its end.
	Valid bool `json:"valid"`
	// Why the result is not valid, a sentence each.
	InvalidReasons []string `json:"invalid_reasons"`
	// What a reader should know, a sentence each.
	Notes []string `json:"notes,omitempty"`
	// What all random choices came from; the same plan and seed make the same run.
	Seed uint64 `json:"seed"`
	// The plan in full, as it was run.
	Plan json.RawMessage `json:"plan,omitempty"`
	// Where and with what it was run.
	Environment Environment `json:"environment"`
	// Calls by what became of them.
	Calls Calls `json:"calls"`
	// How calls came up.
	Setup Setup `json:"setup"`
	// Packets through the calls.
	Traffic Traffic `json:"traffic"`
	// Time that packets took.
	Latency Latency `json:"latency"`
	// Time in one direction, where both ends read the same clock and latency is the round trip.
	OneWay *Latency `json:"latency_one_way,omitempty"`
	// Results of the tests by name that were run.
	Tests Tests `json:"tests"`
	// How busy the generator itself was.
	Generator Generator `json:"generator"`
	// How busy the server was, if it is a child of the run.
	Server *Server `json:"server,omitempty"`
	// Expectations of the command line and what became of them.
	Expectations []Expectation `json:"expectations,omitempty"`
}

// Environment is where and with what a run was made.
type Environment struct {
	// Version of xpptp.
	Version string `json:"version"`
	// Release of the kernel, as uname -r has it.
	Kernel string `json:"kernel"`
	// Model of the processor.
	CPU string `json:"cpu"`
	// Processors of the machine that the generator may use.
	CPUs int `json:"cpus"`
	// Kernels that encrypt: go, sse4, avx2, avx512.
	CipherWay string `json:"cipher_way"`
	// Backend of the outside port: xsk, tpacket, raw.
	IO string `json:"io"`
	// Threads that move packets.
	Workers int `json:"workers"`
	// Where they and all else run, as xpptp hw shows, with the setting tune.
	Placement string `json:"placement,omitempty"`
	// Address and port of the server.
	Target string `json:"target"`
	// What the server says of itself: vendor and host name of its start reply.
	Server string `json:"server,omitempty"`
	// When the run began.
	Start time.Time `json:"start"`
	// How long the run was, its calls' start and end included.
	DurationS float64 `json:"duration_s"`
	// What was started, without secrets.
	Command []string `json:"command,omitempty"`
}

// Calls counts calls. Attempted is Up + Failed, and what was under way at the
// end of the run.
type Calls struct {
	// Calls begun, those of churn and reconnects included.
	Attempted uint64 `json:"attempted"`
	// Calls that came up: the first network protocol opened.
	Up uint64 `json:"up"`
	// Calls that ended before they were up.
	Failed uint64 `json:"failed"`
	// Calls that had been up and ended without being asked to.
	Lost uint64 `json:"lost"`
	// Largest number of calls up at the same time.
	PeakUp uint64 `json:"peak_up"`
	// Failed calls by cause; the sum is failed.
	Failures map[string]uint64 `json:"failures,omitempty"`
	// Lost calls by cause; the sum is lost.
	Losses map[string]uint64 `json:"losses,omitempty"`
	// Calls by state over time, in order of time.
	States []CallStates `json:"states,omitempty"`
}

// CallStates is how many calls were in each state at one moment.
type CallStates struct {
	// Moment, from the start of the run.
	AtS float64 `json:"at_s"`
	// Waiting for TCP or for the control connection.
	Connecting uint64 `json:"connecting"`
	// Between the call request and the first network protocol.
	Negotiating uint64 `json:"negotiating"`
	// Up.
	Up uint64 `json:"up"`
	// Being cleared.
	Closing uint64 `json:"closing"`
	// Failed or lost so far.
	Failed uint64 `json:"failed"`
}

// MS is a distribution of times in milliseconds.
type MS struct {
	// How many were measured.
	Count uint64 `json:"count"`
	// Mean.
	MeanMS float64 `json:"mean_ms"`
	// Half of them took no longer.
	P50MS float64 `json:"p50_ms"`
	// 90 % of them took no longer.
	P90MS float64 `json:"p90_ms"`
	// 99 % of them took no longer.
	P99MS float64 `json:"p99_ms"`
	// The longest.
	MaxMS float64 `json:"max_ms"`
}

// US is a distribution of times in microseconds.
type US struct {
	// How many were measured.
	Count uint64 `json:"count"`
	// The shortest.
	MinUS float64 `json:"min_us"`
	// Mean.
	MeanUS float64 `json:"mean_us"`
	// Half of them took no longer.
	P50US float64 `json:"p50_us"`
	// 90 % of them took no longer.
	P90US float64 `json:"p90_us"`
	// 99 % of them took no longer.
	P99US float64 `json:"p99_us"`
	// 99.9 % of them took no longer.
	P999US float64 `json:"p999_us"`
	// The longest.
	MaxUS float64 `json:"max_us"`
	// The whole distribution, by growing percentile.
	Curve []Percentile `json:"curve,omitempty"`
}

// Percentile is a point of a distribution.
type Percentile struct {
	// Share of the times that are not longer; the last is 100.
	Percent float64 `json:"percent"`
	// Time.
	US float64 `json:"us"`
}

// Series is a value for each of a row of time bins of the same width, the
// first of which begins with the run.
type Series struct {
	// Width of a bin.
	BinS float64 `json:"bin_s"`
	// A value for each bin.
	Values []float64 `json:"values"`
}

// Setup is how calls came up. Its own distribution is that of the whole, from
// the start of TCP, or of the call request on a connection that was there, to
// the first network protocol.
type Setup struct {
	// Calls that came up a second, from the first start to the last that came up.
	Rate float64 `json:"rate"`
	// Calls a second that were asked for; 0 if as fast as they would go.
	AskedRate float64 `json:"asked_rate"`
	MS
	// Time of each phase of the set-up.
	Phases Phases `json:"phases"`
	// Calls that came up a second, by seconds.
	Rate1S *Series `json:"rate_1s,omitempty"`
	// Calls that came up a second, by tenths of a second.
	Rate100MS *Series `json:"rate_100ms,omitempty"`
}

// Phases are the phases of a call's set-up. One that did not happen in any call is absent.
type Phases struct {
	// TCP connection.
	TCP *MS `json:"tcp,omitempty"`
	// Start-Control-Connection-Request to its reply.
	Start *MS `json:"start,omitempty"`
	// Outgoing-Call-Request to its reply.
	Call *MS `json:"call,omitempty"`
	// First LCP packet to LCP open.
	LCP *MS `json:"lcp,omitempty"`
	// LCP open to authenticated.
	Auth *MS `json:"auth,omitempty"`
	// Authenticated to CCP open.
	CCP *MS `json:"ccp,omitempty"`
	// CCP open, or authenticated without CCP, to the first network protocol open.
	IPCP *MS `json:"ipcp,omitempty"`
	// First network protocol open to the first packet through the call and back.
	FirstPacket *MS `json:"first_packet,omitempty"`
}

// Packets counts packets. Received counts a packet once: what came again is
// duplicated. Sent is Received + Lost, and what came back corrupted is lost too.
type Packets struct {
	// Packets sent into calls.
	Sent uint64 `json:"sent"`
	// Packets that came, whole, once.
	Received uint64 `json:"received"`
	// Packets that never came, or not whole.
	Lost uint64 `json:"lost"`
	// Packets that came once more.
	Duplicated uint64 `json:"duplicated"`
	// Packets that came behind a later one.
	Reordered uint64 `json:"reordered"`
	// Packets that came damaged, or through a wrong call.
	Corrupted uint64 `json:"corrupted"`
	// Lost of sent.
	LossPercent float64 `json:"loss_percent"`
	// Packets a second sent.
	SentPPS float64 `json:"sent_pps"`
	// Packets a second received.
	ReceivedPPS float64 `json:"received_pps"`
	// Bits of inside IP a second sent.
	SentBPS float64 `json:"sent_bps"`
	// Bits of inside IP a second received.
	ReceivedBPS float64 `json:"received_bps"`
}

// Traffic is what went through the calls.
type Traffic struct {
	Packets
	// Packets a second that were asked for.
	AskedPPS float64 `json:"asked_pps"`
	// How long was sent.
	DurationS float64 `json:"duration_s"`
	// The same by direction.
	Directions []Direction `json:"directions,omitempty"`
	// The same by size.
	Sizes []Size `json:"sizes,omitempty"`
	// Packets a second sent, over time.
	SentSeries *Series `json:"sent_series_pps,omitempty"`
	// Packets a second received, over time.
	ReceivedSeries *Series `json:"received_series_pps,omitempty"`
	// Time between two packets of a stream, off what it should have been, either way.
	Jitter *US `json:"jitter,omitempty"`
	// Packets sent besides those: to find out when the first comes back, and requests to a responder.
	AsideSent uint64 `json:"aside_sent,omitempty"`
	// What came back of these.
	AsideReceived uint64 `json:"aside_received,omitempty"`
	// Drops of the generator's own engine by name.
	Drops map[string]uint64 `json:"drops,omitempty"`
}

// Direction is the traffic of one direction: up is from the generator into its
// calls, down comes to it.
type Direction struct {
	// Which: up, down.
	Direction string `json:"direction"`
	Packets
}

// Size is the traffic of one size of packet.
type Size struct {
	// Length of the inside IP packet.
	SizeBytes int `json:"size_bytes"`
	Packets
}

// The kinds of latency.
const (
	RoundTrip = "round-trip"
	OneWay    = "one-way"
)

// Latency is the time packets took from their scheduled sending, so that a
// generator that was late hides nothing.
type Latency struct {
	// What was measured: round-trip, one-way; empty if nothing was.
	Kind string `json:"kind"`
	US
}

// Tests are the results of the tests by name; those not run are absent.
type Tests struct {
	// Highest rates by size (RFC 2544 §26.1).
	Throughput []Throughput `json:"throughput,omitempty"`
	// Latency at a share of the throughput (RFC 2544 §26.2).
	Latency []LatencyAt `json:"latency,omitempty"`
	// Loss against offered rate (RFC 2544 §26.3).
	Loss []LossCurve `json:"loss,omitempty"`
	// Longest burst without loss (RFC 2544 §26.4).
	BackToBack []BackToBack `json:"back_to_back,omitempty"`
	// Highest sustained rate of call set-up.
	SetupRate *SetupSearch `json:"setup_rate,omitempty"`
	// Largest number of calls.
	Capacity *Capacity `json:"capacity,omitempty"`
	// Calls and traffic over a long time.
	Soak *Soak `json:"soak,omitempty"`
	// Return of the calls after loss of the server (RFC 2544 §26.5).
	Recovery *Recovery `json:"recovery,omitempty"`
}

// Throughput is the highest rate of one size of packet.
type Throughput struct {
	// Length of the inside IP packet; 0 stands for a mix.
	SizeBytes int `json:"size_bytes"`
	// Highest rate at which nothing was lost.
	NDRPPS float64 `json:"ndr_pps"`
	// The same in bits of inside IP.
	NDRBPS float64 `json:"ndr_bps"`
	// Highest rate at which no more than pdr_loss_percent was lost; absent if not searched.
	PDRPPS float64 `json:"pdr_pps,omitempty"`
	// The same in bits of inside IP.
	PDRBPS float64 `json:"pdr_bps,omitempty"`
	// Loss that the partial drop rate allows.
	PDRLossPercent float64 `json:"pdr_loss_percent,omitempty"`
	// What the search tried, in its order.
	Steps []LossPoint `json:"steps,omitempty"`
}

// LossPoint is the loss at one offered rate.
type LossPoint struct {
	// Rate that was asked for.
	OfferedPPS float64 `json:"offered_pps"`
	// Rate that was sent.
	SentPPS float64 `json:"sent_pps"`
	// Rate that was received.
	ReceivedPPS float64 `json:"received_pps"`
	// Lost of sent.
	LossPercent float64 `json:"loss_percent"`
}

// LatencyAt is the latency at a share of the throughput.
type LatencyAt struct {
	// Length of the inside IP packet; 0 stands for a mix.
	SizeBytes int `json:"size_bytes"`
	// Share of the no-drop rate.
	SharePercent float64 `json:"share_percent"`
	// Rate that was sent.
	SentPPS float64 `json:"sent_pps"`
	Latency
}

// LossCurve is loss against rate for one size of packet.
type LossCurve struct {
	// Length of the inside IP packet; 0 stands for a mix.
	SizeBytes int `json:"size_bytes"`
	// By growing rate.
	Points []LossPoint `json:"points"`
}

// BackToBack is the longest burst of one size of packet.
type BackToBack struct {
	// Length of the inside IP packet; 0 stands for a mix.
	SizeBytes int `json:"size_bytes"`
	// Packets at the shortest distance of which none was lost.
	Packets uint64 `json:"packets"`
	// How long the burst was.
	DurationMS float64 `json:"duration_ms"`
}

// SetupSearch is a search for the highest sustained rate of call set-up.
type SetupSearch struct {
	// Highest rate, in calls a second, that was held.
	Rate float64 `json:"rate"`
	// What the search tried, in its order.
	Steps []SetupStep `json:"steps"`
}

// SetupStep is one try of a search.
type SetupStep struct {
	// Calls a second that were asked for.
	AskedRate float64 `json:"asked_rate"`
	// Calls a second that came up.
	Rate float64 `json:"rate"`
	// Calls begun.
	Attempted uint64 `json:"attempted"`
	// Calls that did not come up.
	Failed uint64 `json:"failed"`
	// Set-up time that 99 % did not exceed.
	P99MS float64 `json:"p99_ms"`
	// Whether the rate was held.
	Held bool `json:"held"`
	// Why it was not.
	Reason string `json:"reason,omitempty"`
}

// Capacity is the largest number of calls that were up at the same time.
type Capacity struct {
	// Calls.
	Calls uint64 `json:"calls"`
	// What ended the climb.
	Limit string `json:"limit"`
}

// Soak is what a long time did to calls.
type Soak struct {
	// How long.
	DurationS float64 `json:"duration_s"`
	// Calls that ended on their own.
	LostCalls uint64 `json:"lost_calls"`
	// Packets lost.
	LostPackets uint64 `json:"lost_packets"`
	// Memory of the server at the begin, if it is a child of the run.
	ServerStartBytes uint64 `json:"server_start_bytes,omitempty"`
	// Memory of the server at the end.
	ServerEndBytes uint64 `json:"server_end_bytes,omitempty"`
}

// Recovery is the return of calls after the server was lost.
type Recovery struct {
	// Calls that had been up.
	Calls uint64 `json:"calls"`
	// Calls that are up again.
	Back uint64 `json:"back"`
	// How long the server was away.
	OutageMS float64 `json:"outage_ms"`
	// From the server's return to the first call.
	FirstMS float64 `json:"first_ms"`
	// From the server's return to the last call.
	AllMS float64 `json:"all_ms"`
}

// Generator is how busy the generator itself was.
type Generator struct {
	// Largest share of a processor that one of its threads took.
	CPUPercent float64 `json:"cpu_percent"`
	// Share of a processor that all of it took; may be above 100.
	CPUTotalPercent float64 `json:"cpu_total_percent"`
	// Calls begun more than 1 ms after their time.
	LateStarts uint64 `json:"late_starts"`
	// Packets sent after their time by more than the plan's tolerance.
	LateSends uint64 `json:"late_sends"`
	// Packets that a full ring did not take.
	RingFull uint64 `json:"ring_full"`
	// How late packets were sent.
	SendDelay *US `json:"send_delay,omitempty"`
	// Largest memory in use.
	PeakBytes uint64 `json:"peak_bytes,omitempty"`
}

// Server is how busy a server was that is a child of the run, from the start
// of the run, or from its own if it was started again later.
type Server struct {
	// Largest share of a processor that one of its threads took.
	CPUPercent float64 `json:"cpu_percent"`
	// Share of a processor that all of it took; may be above 100.
	CPUTotalPercent float64 `json:"cpu_total_percent"`
	// Largest memory in use.
	PeakBytes uint64 `json:"peak_bytes"`
}

// Expectation is one of --expect and what became of it.
type Expectation struct {
	// Metric, operator and value, in the metric's unit.
	Text string `json:"text"`
	// What was measured, in the unit of the metric.
	Value float64 `json:"value"`
	// Whether it held.
	Held bool `json:"held"`
}

// Named is a distribution and what it is of.
type Named struct {
	Name string // as in the JSON document
	MS
}

// All returns the phases that happened, in their order.
func (p *Phases) All() []Named {
	var all []Named
	for _, n := range []struct {
		name string
		ms   *MS
	}{
		{"tcp", p.TCP},
		{"start", p.Start},
		{"call", p.Call},
		{"lcp", p.LCP},
		{"auth", p.Auth},
		{"ccp", p.CCP},
		{"ipcp", p.IPCP},
		{"first_packet", p.FirstPacket},
	} {
		if n.ms != nil {
			all = append(all, Named{n.name, *n.ms})
		}
	}
	return all
}
