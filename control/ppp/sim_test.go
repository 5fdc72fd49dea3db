package ppp

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// end is one side of a simulated link: a Host that records what it is told.
type end struct {
	t       testing.TB
	name    string
	sim     *sim
	link    *Link
	peer    *end
	secrets map[string]string

	lcp        []LCPParams
	receive    *MPPEParams
	transmit   *MPPEParams
	up         map[Family]NetParams
	downs      []Reason
	resets     int
	resetAcks  int
	sent       map[uint16]int
	log        []string
	onAuth     func(*AuthRequest) AuthResult
	authDelay  int64
	takenIDs   map[uint64]bool
	drop       func(proto uint16, info []byte) bool
	violations []string

	// A stateless MPPE in the small: the key and how far it has counted.
	rxLast, txNext     int
	dataSent, dataRead int
}

func (e *end) logf(format string, args ...any) {
	e.log = append(e.log, fmt.Sprintf("%8.3f %s ", float64(e.sim.now)/1e9, e.name)+fmt.Sprintf(format, args...))
}

func (e *end) Send(proto uint16, info []byte) {
	e.logf("send %04x %x", proto, info)
	e.sent[proto]++
	if len(e.downs) > 0 {
		e.violations = append(e.violations, "Send after Down")
	}
	if e.drop != nil && e.drop(proto, info) {
		return
	}
	e.sim.carry(e, proto, info)
}

func (e *end) LCPUp(p LCPParams) { e.logf("LCPUp %+v", p); e.lcp = append(e.lcp, p) }

func (e *end) Authenticate(r *AuthRequest) {
	e.logf("Authenticate %s %q", r.Method, r.Name)
	var res AuthResult
	switch password, ok := e.secrets[r.User]; {
	case e.onAuth != nil:
		res = e.onAuth(r)
	case ok:
		res = r.Verify(Secret{Password: password})
	default:
		res = r.Refuse(0, "")
	}
	e.sim.at(e.sim.now+e.authDelay, func() {
		if len(e.downs) == 0 {
			e.link.AuthResult(e.sim.now, res)
		}
	})
}

func (e *end) OpenReceive(p MPPEParams) {
	e.logf("OpenReceive %+v", p)
	e.receive, e.rxLast = &p, -1
}

func (e *end) OpenTransmit(p MPPEParams) {
	e.logf("OpenTransmit %+v", p)
	e.transmit, e.txNext = &p, 0
}

// data sends one encrypted packet, if encryption is on.
func (e *end) data() {
	if e.transmit == nil || len(e.up) == 0 {
		return
	}
	key, count := *e.transmit, e.txNext
	e.txNext++
	e.dataSent++
	e.sim.fly(func() {
		p := e.peer
		// Another key, or a count that has gone by: garbage.
		if p.receive == nil || p.receive.StartKey != key.StartKey || p.receive.Bits != key.Bits || count <= p.rxLast {
			return
		}
		p.rxLast = count
		p.dataRead++
	})
}

func (e *end) CloseMPPE()          { e.logf("CloseMPPE"); e.receive, e.transmit = nil, nil }
func (e *end) ResetTransmit(uint8) { e.logf("ResetTransmit"); e.resets++ }
func (e *end) ResetAcked()         { e.logf("ResetAcked"); e.resetAcks++ }

func (e *end) NetworkUp(p NetParams) {
	e.logf("NetworkUp %+v", p)
	if _, ok := e.up[p.Family]; ok {
		e.violations = append(e.violations, "NetworkUp twice")
	}
	e.up[p.Family] = p
}

func (e *end) NetworkDown(f Family) {
	e.logf("NetworkDown %d", f)
	if _, ok := e.up[f]; !ok {
		e.violations = append(e.violations, "NetworkDown of what is not up")
	}
	delete(e.up, f)
}

func (e *end) Down(r Reason) {
	e.logf("Down %s", r)
	e.downs = append(e.downs, r)
	if len(e.up) > 0 || e.transmit != nil || e.receive != nil {
		e.violations = append(e.violations, "Down with something open")
	}
}

func (e *end) InterfaceIDFree(id uint64) bool { return !e.takenIDs[id] }

// sim carries packets between two ends under a virtual clock.
type sim struct {
	now    int64
	rnd    *rand.Rand
	queue  []flight
	serial int
	a, b   *end

	loss, dup, reorder float64
	delay, jitter      int64
}

type flight struct {
	at     int64
	serial int
	run    func()
}

func (s *sim) at(t int64, run func()) {
	s.serial++
	s.queue = append(s.queue, flight{t, s.serial, run})
}

func (s *sim) carry(from *end, proto uint16, info []byte) {
	packet := slices.Clone(info)
	s.fly(func() {
		from.peer.logf("rcvd %04x %x", proto, packet)
		from.peer.link.Input(s.now, proto, packet)
	})
}

// fly lets something happen at the other end when it gets there, if it does.
func (s *sim) fly(arrive func()) {
	copies := 1
	if s.rnd.Float64() < s.dup {
		copies = 2
	}
	for range copies {
		if s.rnd.Float64() < s.loss {
			continue
		}
		t := s.now + s.delay
		if s.jitter > 0 && s.rnd.Float64() < s.reorder {
			t += s.rnd.Int64N(s.jitter)
		}
		s.at(t, arrive)
	}
}

// run runs until the clock reaches until, or nothing is left to do.
func (s *sim) run(until int64) {
	for {
		next, index := int64(math.MaxInt64), -1
		for i, f := range s.queue {
			if f.at < next || f.at == next && f.serial < s.queue[index].serial {
				next, index = f.at, i
			}
		}
		who := (*end)(nil)
		for _, e := range []*end{s.a, s.b} {
			if d := e.link.Deadline(); d < next {
				next, who = d, e
			}
		}
		if next > until {
			s.now = until
			return
		}
		s.now = max(s.now, next)
		if who != nil {
			who.link.Tick(s.now)
			continue
		}
		f := s.queue[index]
		s.queue = slices.Delete(s.queue, index, index+1)
		f.run()
	}
}

func newSim(t testing.TB, seed uint64, server, client Config) *sim {
	s := &sim{rnd: rand.New(rand.NewPCG(seed, 0x9999)), delay: int64(5 * time.Millisecond)}
	random := func(b []byte) {
		for i := range b {
			b[i] = byte(s.rnd.Uint32())
		}
	}
	make := func(name string, cfg Config) *end {
		e := &end{t: t, name: name, sim: s, up: map[Family]NetParams{}, sent: map[uint16]int{}}
		e.link = NewLink(&cfg, e, random)
		return e
	}
	s.a, s.b = make("server", server), make("client", client)
	s.a.peer, s.b.peer = s.b, s.a
	s.a.secrets = map[string]string{"vpnuser": "Secret-Pass1"}
	return s
}

func (s *sim) open() {
	s.a.link.Open(s.now)
	s.b.link.Open(s.now)
}

var (
	serverIP = netip.MustParseAddr("192.168.77.1")
	clientIP = netip.MustParseAddr("192.168.77.11")
	dns1     = netip.MustParseAddr("9.9.9.9")
)

func serverConfig() Config {
	return Config{
		Server: true, Name: "xpptp", Auth: []Method{MSCHAPv2}, MRU: 1400,
		OfferACCM: true, OfferPFC: true, OfferACFC: true,
		MPPE: Policy{Mode: Require, Bits: Bits128},
		IPv4: true, IPv6: true, LocalIP: serverIP, PeerIP: clientIP, DNS: [2]netip.Addr{dns1},
	}
}

func clientConfig() Config {
	return Config{
		User: "vpnuser", Password: "Secret-Pass1", Auth: []Method{MSCHAPv2, MSCHAPv1, CHAPMD5, PAP}, MRU: 1400,
		OfferACCM: true, OfferPFC: true, OfferACFC: true,
		MPPE: Policy{Mode: Require, Bits: Bits128},
		IPv4: true, IPv6: true, AskDNS: true,
	}
}

func (s *sim) dump(t testing.TB) {
	t.Helper()
	all := append(slices.Clone(s.a.log), s.b.log...)
	slices.SortStableFunc(all, func(a, b string) int {
		switch {
		case a[:8] < b[:8]:
			return -1
		case a[:8] > b[:8]:
			return 1
		}
		return 0
	})
	for _, line := range all {
		t.Log(line)
	}
}

func TestPlainCall(t *testing.T) {
	s := newSim(t, 1, serverConfig(), clientConfig())
	s.open()
	s.run(int64(2 * time.Second))
	checkUp(t, s)
	if t.Failed() {
		s.dump(t)
	}
	if got := s.b.up[IPv4]; got.Local != clientIP || got.Peer != serverIP || got.DNS[0] != dns1 || got.DNS[1].IsValid() {
		t.Errorf("client's IPv4 %+v", got)
	}
	s.b.link.Close(s.now, Reason{Code: UserRequest})
	s.run(s.now + int64(time.Minute))
	if len(s.a.downs) != 1 || s.a.downs[0].Code != PeerTerminated || len(s.b.downs) != 1 || s.b.downs[0].Code != UserRequest {
		s.dump(t)
		t.Errorf("ends: %v, %v", s.a.downs, s.b.downs)
	}
}

// checkUp asserts that both ends are up with the same idea of everything.
func checkUp(t testing.TB, s *sim) {
	t.Helper()
	a, b := s.a, s.b
	if len(a.downs)+len(b.downs) > 0 {
		t.Fatalf("down: %v, %v", a.downs, b.downs)
	}
	if a.link.Phase() != PhaseNetwork || b.link.Phase() != PhaseNetwork {
		t.Fatalf("phases %s, %s", a.link.Phase(), b.link.Phase())
	}
	pa, pb := a.lcp[len(a.lcp)-1], b.lcp[len(b.lcp)-1]
	if pa.MRU != pb.PeerMRU || pa.PeerMRU != pb.MRU || pa.TxPFC != pb.RxPFC || pa.TxACFC != pb.RxACFC ||
		pa.Auth != pb.AuthToPeer || pa.Magic != pb.PeerMagic || pa.PeerMagic != pb.Magic || pa.TxACCM != pb.RxACCM {
		t.Fatalf("LCP differs: %+v, %+v", pa, pb)
	}
	for _, p := range [][2]*MPPEParams{{a.transmit, b.receive}, {b.transmit, a.receive}} {
		switch {
		case p[0] == nil:
		case p[1] == nil:
			t.Fatalf("one sends encrypted, the other cannot read")
		case p[0].Bits != p[1].Bits || p[0].Stateful != p[1].Stateful || p[0].StartKey != p[1].StartKey:
			t.Fatalf("MPPE differs: %+v, %+v", p[0], p[1])
		}
	}
	if len(a.up) != len(b.up) || len(a.up) == 0 {
		t.Fatalf("networks %v, %v", a.up, b.up)
	}
	for _, e := range []*end{a, b} {
		for _, n := range e.up {
			if n.Encrypted && (e.transmit == nil || e.receive == nil) {
				t.Fatalf("%s: up without encryption", e.name)
			}
		}
	}
	for f, na := range a.up {
		nb := b.up[f]
		if na.Local != nb.Peer || na.Peer != nb.Local {
			t.Fatalf("IPv%d differs: %+v, %+v", f, na, nb)
		}
	}
	if len(a.violations)+len(b.violations) > 0 {
		t.Fatalf("violations: %v %v", a.violations, b.violations)
	}
}
