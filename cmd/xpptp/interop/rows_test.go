//go:build interop

package interop

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"time"
)

// An attempt is one row at work. Its functions return the first thing that is not as it should be.
type attempt struct {
	l   *lab
	s   server
	c   client
	row row
	// newClient makes a client beside the one in c.
	newClient func() client
	wire      *capture // nil: none is taken
	notes     []string
	linux     *guest // where the real peer runs
	serves    bool   // near is the server
}

func (a *attempt) note(format string, args ...any) {
	a.notes = append(a.notes, fmt.Sprintf(format, args...))
}

// A row is one line of the matrix.
type row struct {
	name           string
	server, client policy
	only           string // "serve" or "dial": there is no other way round
	traffic        bool   // moves data: worth a run for every backend
	hostOnly       bool   // with xpptp's own host at the end: not for XPPTP_INSIDE=nic
	uncaptured     bool   // too much traffic to record
	run            func(a *attempt) error
}

// symmetric is a row in which both ends have one policy.
func symmetric(name string, p policy, run func(*attempt) error) row {
	return row{name: name, server: p, client: p, traffic: true, run: run}
}

func mppe128() policy {
	return policy{auth: []string{"mschapv2"}, mppe: "require", bits: []string{"128"}}
}

func with(p policy, change func(*policy)) policy {
	change(&p)
	return p
}

var (
	stateful  = with(mppe128(), func(p *policy) { p.stateful = true })
	kernel    = with(mppe128(), func(p *policy) { p.kernel = true })
	quickEcho = with(mppe128(), func(p *policy) { p.quickEcho = true })
	ipv6      = with(mppe128(), func(p *policy) { p.ipv6 = true })
)

func matrix() []row {
	return []row{
		symmetric("pap", policy{auth: []string{"pap"}, mppe: "deny"}, exchange),
		symmetric("chap-md5", policy{auth: []string{"chap"}, mppe: "deny"}, exchange),
		symmetric("mschapv1-mppe128", policy{auth: []string{"mschapv1"}, mppe: "require", bits: []string{"128"}}, exchange),
		symmetric("mschapv2-mppe128", mppe128(), exchange),
		symmetric("mschapv2-mppe40", policy{auth: []string{"mschapv2"}, mppe: "require", bits: []string{"40"}}, exchange),
		symmetric("mschapv2-mppe128-stateful", stateful, exchange),
		symmetric("mschapv2-mppe40-stateful", with(stateful, func(p *policy) { p.bits = []string{"40"} }), exchange),
		symmetric("no-pfc-acfc", with(mppe128(), func(p *policy) { p.rawHeaders = true }), exchange),
		{name: "ipv6", server: ipv6, client: ipv6, traffic: true, hostOnly: true, run: exchangeIPv6},
		symmetric("all-sizes", mppe128(), allSizes),
		symmetric("kernel", kernel, exchange),
		{name: "wrong-password", server: mppe128(), client: mppe128(), run: refusal(credential{user, "Wrong-Pass1"}, authReason)},
		{name: "unknown-user", server: mppe128(), client: mppe128(), run: refusal(credential{"nobody", password}, authReason)},
		{name: "server-requires-mppe", server: mppe128(), client: with(mppe128(), func(p *policy) { p.mppe = "deny" }), run: refusal(goodCredential, mppeReason)},
		{name: "client-requires-mppe", server: with(mppe128(), func(p *policy) { p.mppe = "deny" }), client: mppe128(), run: refusal(goodCredential, mppeReason)},
		{name: "server-terminates", server: mppe128(), client: mppe128(), run: serverTerminates},
		{name: "client-terminates", server: mppe128(), client: mppe128(), run: clientTerminates},
		{name: "killed-peer", server: mppe128(), client: mppe128(), run: killedPeer},
		{name: "silent-peer", server: quickEcho, client: quickEcho, run: silentPeer},
		symmetric("loss-stateless", kernel, func(a *attempt) error { return lossStateless(a, lossyWire) }),
		symmetric("reorder-stateless", with(mppe128(), func(p *policy) { p.reorder = true }), func(a *attempt) error { return lossStateless(a, unrulyWire) }),
		symmetric("loss-stateful", stateful, lossStateful),
		{name: "two-calls-one-connection", server: mppe128(), client: mppe128(), only: "serve", run: twoCalls},
		{name: "fifty-calls", server: mppe128(), client: with(mppe128(), func(p *policy) { p.patient = true }), only: "dial", traffic: true, run: fiftyCalls},
		{name: "nat-helper", server: mppe128(), client: mppe128(), run: natHelper},
		{name: "nat-plain", server: mppe128(), client: mppe128(), run: natPlain},
		{name: "iperf3", server: kernel, client: kernel, traffic: true, uncaptured: true, run: throughput},
	}
}

// connect starts the server, makes one call and checks what both ends say about it.
func (a *attempt) connect() (fromClient, fromServer call, err error) {
	if err = a.s.start(a.row.server); err != nil {
		return
	}
	return a.call()
}

func (a *attempt) call() (fromClient, fromServer call, err error) {
	cs, err := a.c.dial(a.s.address(), a.row.client, goodCredential, 1)
	if err != nil {
		return
	}
	ss, err := a.s.calls(1)
	if err != nil {
		return
	}
	fromClient, fromServer = cs[0], ss[0]
	if fromClient.remote != tunnelIP || !inPool(fromClient.local) {
		err = fmt.Errorf("client has address %q, peer %q", fromClient.local, fromClient.remote)
		return
	}
	want := "none"
	if a.row.client.mppe == "require" {
		want = strings.Join(a.row.client.bits, ",") + map[bool]string{false: " stateless", true: " stateful"}[a.row.client.stateful]
	}
	linux := fromClient
	if !a.serves {
		linux = fromServer
	}
	if linux.cipher != want {
		err = fmt.Errorf("the Linux end says cipher %q, agreed should be %q", linux.cipher, want)
	}
	a.note("%s, cipher %s", fromClient.local, linux.cipher)
	if a.serves && a.l.lan != nil && err == nil {
		// All traffic of the row is with the host on the LAN.
		var out string
		if out, err = a.c.machine().shell(10*time.Second, "ip route replace %s dev %s", lanIP, fromClient.device); err != nil {
			err = fmt.Errorf("route to the LAN: %w\n%s", err, out)
		}
		fromClient.remote = lanIP
	}
	return
}

func inPool(address string) bool {
	ip, err := netip.ParseAddr(address)
	if err != nil || !ip.Is4() {
		return false
	}
	b := ip.As4()
	return b[0] == 192 && b[1] == 168 && b[2] == 77 && b[3] >= 11 && b[3] <= 60
}

// echoes is echo.py's line.
type echoes struct {
	Sent, Refused, Received, Corrupt, Duplicate, Disorder int
	Lost                                                  []int
}

func sendEchoes(m machine, args ...string) (echoes, error) {
	out, err := m.echo(2*time.Minute, args...)
	var e echoes
	if jsonErr := json.Unmarshal([]byte(out), &e); jsonErr != nil {
		return e, fmt.Errorf("echo.py %s: %w\n%s", strings.Join(args, " "), errors.Join(err, jsonErr), out)
	}
	return e, nil
}

// ping wants every echo request answered, once and byte for byte.
func (a *attempt) ping(m machine, target string, args ...string) error {
	e, err := sendEchoes(m, append(args, target)...)
	if err != nil {
		return err
	}
	if e.Received != e.Sent || e.Corrupt+e.Duplicate > 0 {
		e.Lost = e.Lost[:min(len(e.Lost), 20)]
		return fmt.Errorf("echo to %s: %+v", target, e)
	}
	a.note("%d/%d to %s", e.Received, e.Sent, target)
	return nil
}

// pingBoth pings through the tunnel from both ends.
func (a *attempt) pingBoth(c call, args ...string) error {
	if err := a.ping(a.c.machine(), c.remote, args...); err != nil {
		return err
	}
	return a.ping(a.s.machine(), c.local, args...)
}

// exchange: a call, pings of many sizes and fragments both ways, and what the wire carried fits the agreed cipher.
func exchange(a *attempt) error {
	c, _, err := a.connect()
	if err != nil {
		return err
	}
	if err := a.pingBoth(c, "-s", "0-1400:100,1363,1364,1365,3000"); err != nil {
		return err
	}
	return a.checkWire()
}

func (a *attempt) checkWire() error {
	if err := a.wire.stop(); err != nil {
		return err
	}
	frames, err := a.wire.frames()
	if err != nil {
		return err
	}
	return checkCipher(frames, a.row.client.mppe == "require")
}

func allSizes(a *attempt) error {
	c, _, err := a.connect()
	if err != nil {
		return err
	}
	if err := a.pingBoth(c, "-s", "0-1400", "-i", "0"); err != nil {
		return err
	}
	return a.pingBoth(c, "-s", "1401-3000:97,8000,20000")
}

func exchangeIPv6(a *attempt) error {
	c, s, err := a.connect()
	if err != nil {
		return err
	}
	clientLL, serverLL := c.localLL, c.remoteLL
	if !a.serves {
		clientLL, serverLL = s.remoteLL, s.localLL
	}
	if clientLL == "" || serverLL == "" || clientLL == serverLL {
		return fmt.Errorf("link-local addresses: client %q, server %q", clientLL, serverLL)
	}
	for _, p := range []struct {
		m      machine
		target string
	}{{a.c.machine(), serverLL + "%" + c.device}, {a.s.machine(), clientLL + "%" + s.device}} {
		for _, size := range []int{0, 1200, 3000} {
			out, err := p.m.shell(30*time.Second, "ping -6 -n -c 3 -i .05 -W 3 -s %d %s", size, p.target)
			if err != nil {
				return fmt.Errorf("ping %s with %d bytes: %w\n%s", p.target, size, err, out)
			}
		}
		a.note("ping %s", p.target)
	}
	return a.pingBoth(c, "-s", "0-1400:350")
}

// What a client must know of a refusal.
var (
	authReason = regexp.MustCompile(`(?i)auth`)
	mppeReason = regexp.MustCompile(`(?i)mppe|encryption`)
)

// refusal: the call is turned down, the client knows why, and nothing is left of it at the server.
func refusal(cr credential, why *regexp.Regexp) func(*attempt) error {
	return func(a *attempt) error {
		if err := a.s.start(a.row.server); err != nil {
			return err
		}
		_, err := a.c.dial(a.s.address(), a.row.client, cr, 1)
		var r refused
		switch {
		case err == nil:
			return errors.New("the call came up")
		case !errors.As(err, &r):
			return err
		case !why.MatchString(r.reason):
			return fmt.Errorf("%w: the reason should match %q", err, why)
		}
		a.note("%v", r)
		return a.s.idle(endLimit)
	}
}

func serverTerminates(a *attempt) error {
	c, _, err := a.connect()
	if err != nil {
		return err
	}
	if err := a.pingBoth(c, "-s", "56,1000"); err != nil {
		return err
	}
	if err := a.s.terminate(); err != nil {
		return err
	}
	return a.c.ended(endLimit)
}

// clientTerminates twice: the server must be as good as new after the first time.
func clientTerminates(a *attempt) error {
	if err := a.s.start(a.row.server); err != nil {
		return err
	}
	for range 2 {
		c, _, err := a.call()
		if err != nil {
			return err
		}
		if err := a.pingBoth(c, "-s", "56,1000"); err != nil {
			return err
		}
		if err := a.c.hangup(); err != nil {
			return err
		}
		if err := a.s.idle(endLimit); err != nil {
			return err
		}
		a.c = a.newClient()
	}
	return nil
}

// killedPeer: the Linux end's programs die at once, its kernel closes their sockets; xpptp ends the call and goes on.
func killedPeer(a *attempt) error {
	if _, _, err := a.connect(); err != nil {
		return err
	}
	return a.loseLinux(endLimit)
}

// loseLinux kills the Linux end and waits until the other end has noticed.
func (a *attempt) loseLinux(limit time.Duration) error {
	if !a.serves {
		if err := a.s.kill(); err != nil {
			return err
		}
		start := time.Now()
		err := a.c.ended(limit)
		a.note("noticed after %.1f s", time.Since(start).Seconds())
		return err
	}
	if err := a.c.kill(); err != nil {
		return err
	}
	start := time.Now()
	if err := a.s.idle(limit); err != nil {
		return err
	}
	a.note("noticed after %.1f s", time.Since(start).Seconds())
	return nil
}

// silentPeer: as killedPeer, but the wire is cut before, so that only unanswered echoes can tell.
func silentPeer(a *attempt) error {
	c, _, err := a.connect()
	if err != nil {
		return err
	}
	if err := a.pingBoth(c, "-s", "56"); err != nil {
		return err
	}
	defer a.linux.link("up")
	if err := a.linux.link("down"); err != nil {
		return err
	}
	return a.loseLinux(30 * time.Second)
}

// link takes the guest's end of the wire up or down.
func (g *guest) link(state string) error {
	out, err := g.python(10*time.Second, "guest.sh('ip link set vec0 %s')", state)
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func (g *guest) netem(options string) error {
	out, err := g.python(20*time.Second, "guest.netem(%q)", options)
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

const (
	lossyWire = "limit 10000 loss 15%"
	// netem's reorder lets a share of the packets pass the others that wait for the delay.
	unrulyWire = lossyWire + " delay 8ms reorder 25%"
	// A packet that comes longer than this after one with a higher sequence number may count as lost: xpptp waits 20 ms in this row.
	patience = 15 * time.Millisecond
)

// lossStateless sends echo requests of distinct sizes in bursts from both ends over a wire that loses packets. With encryption a
// packet on the wire shows only its length, and here that names the request. So, from the capture at the Linux end's interface, behind
// its netem on the way out and before it on the way in:
//   - every request that reached xpptp must have its answer leaving xpptp;
//   - every answer that reached xpptp must have come out of the tunnel.
//
// Packets that came late (see arrival) are excused and counted.
func lossStateless(a *attempt, netem string) error {
	c, _, err := a.connect()
	if err != nil {
		return err
	}
	const sizes = "100-1299:2"
	linuxM, nearM, linuxTarget, nearTarget := a.c.machine(), a.s.machine(), c.remote, c.local
	if !a.serves {
		linuxM, nearM, linuxTarget, nearTarget = nearM, linuxM, nearTarget, linuxTarget
	}
	if err := a.ping(linuxM, linuxTarget, "-s", "56"); err != nil {
		return err
	}
	if err := a.wire.stop(); err != nil {
		return err
	}
	if err := a.linux.netem(netem); err != nil {
		return err
	}
	defer a.linux.netem("")

	fromLinux, err := a.lossy(linuxM, linuxTarget, sizes, ".requests.pcap")
	if err != nil {
		return err
	}
	asked, disorder := arrivals(fromLinux.frames, true, patience)
	answered, _ := arrivals(fromLinux.frames, false, patience)
	if err := a.accountFor("requests", asked, sizeSet(answered), disorder); err != nil {
		return err
	}
	fromNear, err := a.lossy(nearM, nearTarget, sizes, ".answers.pcap")
	if err != nil {
		return err
	}
	came, disorder := arrivals(fromNear.frames, true, patience)
	delivered := map[int]bool{}
	for size := 100; size < 1300; size += 2 {
		delivered[size] = true
	}
	for _, size := range fromNear.Lost {
		delete(delivered, size)
	}
	return a.accountFor("answers", came, delivered, disorder)
}

type lossyEchoes struct {
	echoes
	frames []frame
}

func (a *attempt) lossy(m machine, target, sizes, suffix string) (lossyEchoes, error) {
	wire, err := startCapture(a.l, strings.TrimSuffix(a.wire.path, ".pcap")+suffix)
	if err != nil {
		return lossyEchoes{}, err
	}
	e, err := sendEchoes(m, "-s", sizes, "-b", "6", "-i", "0.03", "-n", "0", "-w", "1", target)
	if stopErr := wire.stop(); err == nil {
		err = stopErr
	}
	if err != nil {
		return lossyEchoes{}, err
	}
	if e.Corrupt+e.Duplicate > 0 {
		return lossyEchoes{}, fmt.Errorf("echo to %s: %+v", target, e)
	}
	frames, err := wire.frames()
	return lossyEchoes{e, frames}, err
}

func sizeSet(as []arrival) map[int]bool {
	set := map[int]bool{}
	for _, a := range as {
		set[a.size] = true
	}
	return set
}

// accountFor wants every arrival in done unless it was late; and the wire must have been as bad as ordered.
func (a *attempt) accountFor(what string, came []arrival, done map[int]bool, disorder int) error {
	var missing []int
	late := 0
	for _, p := range came {
		switch {
		case done[p.size] || p.size < 100 || p.size >= 1300:
		case p.late:
			late++
		default:
			missing = append(missing, p.size)
		}
	}
	a.note("%s: %d of 600 came, %d out of order, %d too late", what, len(came), disorder, late)
	if len(missing) > 0 {
		return fmt.Errorf("%s: %d came and were not taken, sizes %v", what, len(missing), missing)
	}
	if len(came) > 590 || len(came) < 200 || late > 60 || a.row.client.reorder && disorder < 10 {
		return fmt.Errorf("%s: the wire was not as ordered: %d came, %d out of order, %d too late", what, len(came), disorder, late)
	}
	return nil
}

// lossStateful: encryption state is lost with every lost packet and must come back every time, also when the requests for it are lost.
func lossStateful(a *attempt) error {
	c, _, err := a.connect()
	if err != nil {
		return err
	}
	const rounds = 6
	var worst time.Duration
	for i := range rounds {
		if err := a.linux.netem(lossyWire); err != nil {
			return err
		}
		for _, end := range []struct {
			m      machine
			target string
		}{{a.c.machine(), c.remote}, {a.s.machine(), c.local}} {
			if _, err := sendEchoes(end.m, "-s", "100-499:4", "-i", "0.01", "-n", "0", "-w", "0.2", end.target); err != nil {
				return err
			}
		}
		if err := a.linux.netem(""); err != nil {
			return err
		}
		took, err := a.recovers(c)
		if err != nil {
			return fmt.Errorf("round %d: %w", i, err)
		}
		worst = max(worst, took)
	}
	a.note("%d rounds, slowest recovery %.1f s", rounds, worst.Seconds())
	return nil
}

// recovers waits until pings pass both ways without a loss.
func (a *attempt) recovers(c call) (time.Duration, error) {
	start := time.Now()
	for {
		forth, err := sendEchoes(a.c.machine(), "-s", "100-104", "-n", "0", "-w", "0.5", c.remote)
		if err != nil {
			return 0, err
		}
		back, err := sendEchoes(a.s.machine(), "-s", "100-104", "-n", "0", "-w", "0.5", c.local)
		if err != nil {
			return 0, err
		}
		took := time.Since(start)
		if forth.Received == forth.Sent && back.Received == back.Sent {
			return took, nil
		}
		if took > 20*time.Second {
			return took, fmt.Errorf("no recovery within %.0f s: %+v, back %+v", took.Seconds(), forth, back)
		}
	}
}

// twoCalls: pptp-linux puts calls to one server on one control connection.
func twoCalls(a *attempt) error {
	if err := a.s.start(a.row.server); err != nil {
		return err
	}
	first, err := a.c.dial(a.s.address(), a.row.client, goodCredential, 1)
	if err != nil {
		return err
	}
	second, err := a.c.dial(a.s.address(), a.row.client, goodCredential, 1)
	if err != nil {
		return err
	}
	if _, err := a.s.calls(2); err != nil {
		return err
	}
	out, err := a.linux.shell(10*time.Second, "ss -Htn state established '( dport = :1723 )' | wc -l")
	if err != nil || strings.TrimSpace(out) != "1" {
		return fmt.Errorf("control connections: %s, %v", out, err)
	}
	if first[0].local == second[0].local {
		return fmt.Errorf("both calls have address %s", first[0].local)
	}
	for i, c := range []call{first[0], second[0]} {
		// Both calls have the same peer: each must send from its own address.
		out, err := a.linux.shell(10*time.Second, "ip route add default dev %s table %d && ip rule add from %s table %d", c.device, 100+i, c.local, 100+i)
		if err != nil {
			return fmt.Errorf("route of %s: %w\n%s", c.device, err, out)
		}
		defer a.linux.shell(10*time.Second, "ip rule del table %d", 100+i)
	}
	for _, c := range []call{first[0], second[0]} {
		if err := a.ping(a.c.machine(), c.remote, "-S", c.local); err != nil {
			return err
		}
		if err := a.ping(a.s.machine(), c.local); err != nil {
			return err
		}
	}
	return nil
}

func fiftyCalls(a *attempt) error {
	if err := a.s.start(a.row.server); err != nil {
		return err
	}
	calls, err := a.c.dial(a.s.address(), a.row.client, goodCredential, 50)
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, c := range calls {
		if seen[c.local] || !inPool(c.local) || c.remote != tunnelIP {
			return fmt.Errorf("call with address %q, peer %q", c.local, c.remote)
		}
		seen[c.local] = true
	}
	for _, c := range calls {
		if err := a.ping(a.s.machine(), c.local, "-s", "0,500,1400"); err != nil {
			return err
		}
	}
	a.notes = nil
	a.note("%d calls, each answers", len(calls))
	if err := a.checkWire(); err != nil {
		return err
	}
	if err := a.c.hangup(); err != nil {
		return err
	}
	return a.s.idle(endLimit)
}

// throughput: TCP through the tunnel for 10 s each way, something in every second.
func throughput(a *attempt) error {
	c, _, err := a.connect()
	if err != nil {
		return err
	}
	for _, way := range []string{"", "-R"} {
		served := make(chan error, 1)
		go func() {
			out, err := a.s.machine().shell(2*time.Minute, "iperf3 -s -1 -B %s", c.remote)
			if err != nil {
				err = fmt.Errorf("iperf3 -s: %w\n%s", err, out)
			}
			served <- err
		}()
		// A window of 64 KiB: the guest's packet socket holds some ninety packets, and a host's TCP would only fill it to
		// the brim and have thousands sent again. The server takes a moment to start; until then the connection is refused (and iperf3 -J ends with status 0).
		out, err := a.c.machine().shell(2*time.Minute,
			"for i in $(seq 60); do out=$(iperf3 -c %s -t 10 -w 64K -J %s); [[ $out == *'unable to connect'* ]] || break; sleep .5; done; echo \"$out\"", c.remote, way)
		if err != nil {
			return fmt.Errorf("iperf3 -c: %w\n%s", err, out)
		}
		if err := a.checkThroughput(out, way); err != nil {
			return err
		}
		if err := <-served; err != nil {
			return err
		}
	}
	return nil
}

func (a *attempt) checkThroughput(out, way string) error {
	var r struct {
		Error     string
		Intervals []struct {
			Sum struct{ Bytes, Seconds float64 }
		}
		End struct {
			Sent     struct{ Retransmits int } `json:"sum_sent"`
			Received struct {
				Rate float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		return fmt.Errorf("iperf3 %s: %w", way, err)
	}
	if r.Error != "" {
		return fmt.Errorf("iperf3 %s: %s", way, r.Error)
	}
	if len(r.Intervals) < 10 {
		return fmt.Errorf("iperf3 %s: only %d intervals", way, len(r.Intervals))
	}
	for i, iv := range r.Intervals {
		if iv.Sum.Bytes == 0 && iv.Sum.Seconds > 0.5 {
			return fmt.Errorf("iperf3 %s: nothing moved in second %d\n%s", way, i, out)
		}
	}
	name := "to server"
	if way == "-R" {
		name = "to client"
	}
	a.note("%s %.0f Mbit/s, %d retransmits", name, r.End.Received.Rate/1e6, r.End.Sent.Retransmits)
	return nil
}
