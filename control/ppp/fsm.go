package ppp

// The option negotiation automaton of RFC 1661 section 4.1: one table for
// LCP, CCP, IPCP and IPV6CP.

// state is a state of the automaton, numbered as in the RFC.
type state uint8

const (
	initial state = iota
	starting
	closed
	stopped
	closing
	stopping
	reqSent
	ackRcvd
	ackSent
	opened
	numStates

	illegal state = 0xFF // "-" in the table: the event cannot occur
)

var stateNames = [numStates]string{
	"initial", "starting", "closed", "stopped", "closing", "stopping", "req-sent", "ack-rcvd", "ack-sent", "opened",
}

func (s state) String() string {
	if s < numStates {
		return stateNames[s]
	}
	return "illegal"
}

// timed reports whether the Restart timer runs in s.
func (s state) timed() bool { return s >= closing && s <= ackSent }

// event is an event of the automaton, in the RFC's order.
type event uint8

const (
	evUp event = iota
	evDown
	evOpen
	evClose
	evTOPlus
	evTOMinus
	evRCRPlus
	evRCRMinus
	evRCA
	evRCN
	evRTR
	evRTA
	evRUC
	evRXJPlus
	evRXJMinus
	evRXR
	numEvents
)

// action is a set of actions. Their order of execution is fixed: see
// Link.event.
type action uint16

const (
	tld action = 1 << iota
	tls
	irc
	zrc
	scr
	sca
	scn
	str
	sta
	scj
	ser
	tlu
	tlf
)

type transition struct {
	next state
	act  action
}

// table is RFC 1661 section 4.1. The passive option [p] is not used, the
// restart option [r] neither: Open in an open state does nothing.
var table = [numEvents][numStates]transition{
	evUp: {
		{closed, 0}, {reqSent, irc | scr}, no, no, no, no, no, no, no, no,
	},
	evDown: {
		no, no,
		{initial, 0},
		{starting, tls},
		{initial, 0},
		{starting, 0},
		{starting, 0},
		{starting, 0},
		{starting, 0},
		{starting, tld},
	},
	evOpen: {
		{starting, tls},
		{starting, 0},
		{reqSent, irc | scr},
		{stopped, 0},
		{stopping, 0},
		{stopping, 0},
		{reqSent, 0},
		{ackRcvd, 0},
		{ackSent, 0},
		{opened, 0},
	},
	evClose: {
		{initial, 0},
		{initial, tlf},
		{closed, 0},
		{closed, 0},
		{closing, 0},
		{closing, 0},
		{closing, irc | str},
		{closing, irc | str},
		{closing, irc | str},
		{closing, tld | irc | str},
	},
	evTOPlus: {
		no, no, no, no,
		{closing, str},
		{stopping, str},
		{reqSent, scr},
		{reqSent, scr},
		{ackSent, scr},
		no,
	},
	evTOMinus: {
		no, no, no, no,
		{closed, tlf},
		{stopped, tlf},
		{stopped, tlf},
		{stopped, tlf},
		{stopped, tlf},
		no,
	},
	evRCRPlus: {
		no, no,
		{closed, sta},
		{ackSent, irc | scr | sca},
		{closing, 0},
		{stopping, 0},
		{ackSent, sca},
		{opened, sca | tlu},
		{ackSent, sca},
		{ackSent, tld | scr | sca},
	},
	evRCRMinus: {
		no, no,
		{closed, sta},
		{reqSent, irc | scr | scn},
		{closing, 0},
		{stopping, 0},
		{reqSent, scn},
		{ackRcvd, scn},
		{reqSent, scn},
		{reqSent, tld | scr | scn},
	},
	evRCA: {
		no, no,
		{closed, sta},
		{stopped, sta},
		{closing, 0},
		{stopping, 0},
		{ackRcvd, irc},
		{reqSent, scr},
		{opened, irc | tlu},
		{reqSent, tld | scr},
	},
	evRCN: {
		no, no,
		{closed, sta},
		{stopped, sta},
		{closing, 0},
		{stopping, 0},
		{reqSent, irc | scr},
		{reqSent, scr},
		{ackSent, irc | scr},
		{reqSent, tld | scr},
	},
	evRTR: {
		no, no,
		{closed, sta},
		{stopped, sta},
		{closing, sta},
		{stopping, sta},
		{reqSent, sta},
		{reqSent, sta},
		{reqSent, sta},
		{stopping, tld | zrc | sta},
	},
	evRTA: {
		no, no,
		{closed, 0},
		{stopped, 0},
		{closed, tlf},
		{stopped, tlf},
		{reqSent, 0},
		{reqSent, 0},
		{ackSent, 0},
		{reqSent, tld | scr},
	},
	evRUC: {
		no, no,
		{closed, scj},
		{stopped, scj},
		{closing, scj},
		{stopping, scj},
		{reqSent, scj},
		{ackRcvd, scj},
		{ackSent, scj},
		{opened, scj},
	},
	evRXJPlus: {
		no, no,
		{closed, 0},
		{stopped, 0},
		{closing, 0},
		{stopping, 0},
		{reqSent, 0},
		{reqSent, 0},
		{ackSent, 0},
		{opened, 0},
	},
	evRXJMinus: {
		no, no,
		{closed, tlf},
		{stopped, tlf},
		{closed, tlf},
		{stopped, tlf},
		{stopped, tlf},
		{stopped, tlf},
		{stopped, tlf},
		{stopping, tld | irc | str},
	},
	evRXR: {
		no, no,
		{closed, 0},
		{stopped, 0},
		{closing, 0},
		{stopping, 0},
		{reqSent, 0},
		{ackRcvd, 0},
		{ackSent, 0},
		{opened, ser},
	},
}

var no = transition{next: illegal}

// step is the automaton: the next state and what to do. ok is false for an
// event that cannot occur in s; nothing happens then.
func step(s state, e event) (next state, act action, ok bool) {
	t := table[e][s]
	return t.next, t.act, t.next != illegal
}

// machine is what the automaton of one protocol remembers.
type machine struct {
	deadline int64  // of the Restart timer, 0 when it does not run
	acked    uint64 // digest of the Configure-Request that we acknowledged last
	refused  uint64 // digest of the one that we refused last
	state    state
	id       uint8 // identifier of the request that we sent last
	replied  bool  // that request has been answered
	restarts uint8 // Restart counter
	failures uint8 // Configure-Naks sent since the last Configure-Ack
	sent     uint8 // Configure-Requests sent since the lower layer came up or this one opened
	bad      uint8 // Configure-Requests refused likewise
	repeats  uint8 // repeated Configure-Requests acknowledged while open
	running  bool  // the lower layer is up and Open was given
}
