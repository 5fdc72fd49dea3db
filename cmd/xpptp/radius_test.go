package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/template"
	"time"

	"github.com/vishvananda/netlink"

	"xpptp/control"
	"xpptp/rings/ringtest"
)

// radiusIP is where the RADIUS servers of these tests are: the namespace of the
// client, which only the server of PPTP asks.
const radiusIP = "10.77.0.2"

const radiusSecret = "a shared secret"

// radiusUsers is the users file of the RADIUS server.
const radiusUsers = `
alice Cleartext-Password := "correct-horse"
	Class = "gold"

fixed Cleartext-Password := "correct-horse"
	Framed-IP-Address = 10.9.7.7,
	Framed-Protocol = PPP,
	Service-Type = Framed-User

guest Cleartext-Password := "correct-horse"
	Framed-Pool = "guests",
	Framed-Route = "10.30.0.0/24 0.0.0.0 1",
	MS-Primary-DNS-Server = 10.9.0.53,
	User-Name = "guest@isp"

lost Cleartext-Password := "correct-horse"
	Framed-Pool = "nosuch"

short Cleartext-Password := "correct-horse"
	Session-Timeout = 2

lazy Cleartext-Password := "correct-horse"
	Idle-Timeout = 2

closed Cleartext-Password := "correct-horse", Auth-Type := Reject
	Reply-Message = "come back tomorrow"
`

// radiusd is the configuration of a FreeRADIUS that has no more than it needs.
var radiusd = template.Must(template.New("radiusd").Parse(`
prefix = /usr
confdir = {{.Dir}}
raddbdir = {{.Dir}}
logdir = {{.Dir}}
run_dir = {{.Dir}}
libdir = /usr/lib/freeradius
name = radiusd
max_request_time = 10
cleanup_delay = 2
hostname_lookups = no
log {
	destination = stdout
	auth = yes
}
security {
	reject_delay = 0
	status_server = yes
}
thread pool {
	start_servers = 2
	max_servers = 4
	min_spare_servers = 1
	max_spare_servers = 2
}
client lab {
	ipaddr = 10.77.0.0/24
	secret = "{{.Secret}}"
}
modules {
	pap {
	}
	chap {
	}
	mschap {
		use_mppe = yes
		require_encryption = yes
		require_strong = yes
		with_ntdomain_hack = yes
	}
	files {
		filename = {{.Dir}}/users
	}
	detail {
		filename = {{.Dir}}/detail
		permissions = 0600
	}
}
server default {
	listen {
		type = auth
		ipaddr = {{.IP}}
		port = {{.Port}}
	}
	listen {
		type = acct
		ipaddr = {{.IP}}
		port = {{.AcctPort}}
	}
	authorize {
		chap
		mschap
		files
		pap
	}
	authenticate {
		Auth-Type PAP {
			pap
		}
		Auth-Type CHAP {
			chap
		}
		Auth-Type MS-CHAP {
			mschap
		}
	}
	accounting {
		detail
	}
	post-auth {
{{if .Signed}}		update reply {
			&Message-Authenticator := 0x00
		}
		Post-Auth-Type REJECT {
			update reply {
				&Message-Authenticator := 0x00
			}
		}
{{end}}	}
}
`))

// freeRADIUS is a real server that runs in a namespace.
type freeRADIUS struct {
	*program
	ns             *ringtest.NS
	Dir, IP        string
	Secret         string
	Port, AcctPort int
	Signed         bool
}

// newFreeRADIUS writes a configuration; run starts the server.
func newFreeRADIUS(t *testing.T, ns *ringtest.NS, port int, signed bool) *freeRADIUS {
	t.Helper()
	for _, name := range []string{"freeradius", "radclient"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("needs %s (Debian: freeradius, freeradius-utils): %v", name, err)
		}
	}
	f := &freeRADIUS{ns: ns, Dir: t.TempDir(), IP: radiusIP, Secret: radiusSecret, Port: port, AcctPort: port + 1, Signed: signed}
	var conf bytes.Buffer
	if err := radiusd.Execute(&conf, f); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"radiusd.conf": conf.String(), "users": radiusUsers, "dictionary": ""} {
		if err := os.WriteFile(filepath.Join(f.Dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func (f *freeRADIUS) run(t *testing.T) *freeRADIUS {
	t.Helper()
	f.program = &program{t: t, cmd: exec.Command("freeradius", "-f", "-l", "stdout", "-d", f.Dir, "-n", "radiusd"), done: make(chan struct{})}
	f.cmd.Stdout, f.cmd.Stderr = &f.out, &f.err
	f.ns.Do(f.launch)
	f.until("is ready", func() bool { return strings.Contains(f.out.String(), "Ready to process requests") })
	return f
}

// quit ends the server at once.
func (f *freeRADIUS) quit() {
	_ = f.cmd.Process.Signal(syscall.SIGKILL)
	<-f.done
}

// records returns the accounting records that the server has, of one kind.
func (f *freeRADIUS) records(kind string) (out []map[string]string) {
	text, _ := os.ReadFile(filepath.Join(f.Dir, "detail"))
	for block := range strings.SplitSeq(string(text), "\n\n") {
		r := map[string]string{}
		for line := range strings.Lines(block) {
			if k, v, ok := strings.Cut(strings.TrimSpace(line), " = "); ok {
				r[k] = strings.Trim(v, `"`)
			}
		}
		if r["Acct-Status-Type"] == kind {
			out = append(out, r)
		}
	}
	return out
}

// radclient sends a request and returns what it prints, and whether the server
// said ACK. $now stands for the time.
func radclient(t *testing.T, ns *ringtest.NS, to, kind, attributes string) (string, bool) {
	t.Helper()
	cmd := exec.Command("radclient", "-x", "-r", "3", "-t", "5", to, kind, radiusSecret)
	cmd.Stdin = strings.NewReader(strings.ReplaceAll(attributes, "$now", strconv.FormatInt(time.Now().Unix(), 10)) + "\n")
	var out []byte
	var err error
	ns.Do(func() { out, err = cmd.CombinedOutput() })
	return string(out), err == nil
}

// withRadius are the flags of a server that asks RADIUS servers.
func withRadius(t *testing.T, more []string, servers ...*freeRADIUS) []string {
	args := []string{
		"--auth-source", "radius", "--radius-secret", file(t, "radius", radiusSecret+"\n", 0o600),
		"--auth", "mschapv2,mschapv1,chap,pap", "--mppe", "prefer",
	}
	for _, f := range servers {
		args = append(args, "--radius-servers", fmt.Sprintf("%s:%d", f.IP, f.Port))
	}
	return append(args, more...)
}

// routed reports whether the server's kernel has a route to a network.
func (n *net2) routed(network string) (found bool) {
	n.server.Do(func() {
		routes, _ := netlink.RouteList(nil, netlink.FAMILY_V4)
		found = slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Dst != nil && r.Dst.String() == network })
	})
	return found
}

// Every method of authentication against a real server, and what it grants.
func TestRadiusMethods(t *testing.T) {
	t.Parallel()
	n := newNet2(t)
	fr := newFreeRADIUS(t, n.client, 1812, true).run(t)
	server := startServer(t, n, withRadius(t, []string{"--pool", "guests=10.9.3.0/24"}, fr)...)
	for _, c := range []struct{ user, auth, mppe, cipher, ip string }{
		{"alice", "mschapv2", "require", "mppe-128-stateless", ""},
		{"alice", "mschapv1", "require", "mppe-128-stateless", ""},
		{"alice", "chap", "deny", "none", ""},
		{"alice", "pap", "deny", "none", ""},
		{"fixed", "mschapv2", "require", "mppe-128-stateless", "10.9.7.7"},
		{"guest", "mschapv2", "require", "mppe-128-stateless", "10.9.3.1"},
	} {
		t.Run(c.user+"-"+c.auth, func(t *testing.T) {
			client := start(t, n.client, n.dialArgs("--user", c.user, "--auth", c.auth, "--mppe", c.mppe, "-o", "json")...)
			client.until("is up", func() bool { return len(client.events("up")) == 1 })
			e := client.events("up")[0].Call
			if e.Cipher != c.cipher || c.ip != "" && e.LocalIP.String() != c.ip && e.IP.String() != c.ip {
				t.Errorf("cipher %s, addresses %v, %v", e.Cipher, e.LocalIP, e.IP)
			}
			n.echoes(t, e)
			if routed := n.routed("10.30.0.0/24"); routed != (c.user == "guest") {
				t.Errorf("the user's network is routed: %v", routed)
			}
			client.stops()
		})
	}
	server.until("routes no network any more", func() bool { return !n.routed("10.30.0.0/24") })
	for user, why := range map[string]string{
		"closed":  `level=WARN msg="authentication failed" .*user=closed .*rejected by RADIUS.*come back tomorrow`,
		"mallory": `level=WARN msg="authentication failed" .*user=mallory .*rejected by RADIUS`,
		"lost":    `level=ERROR msg="no address" .*user=lost err="there is no pool \\"nosuch\\""`,
	} {
		start(t, n.client, n.dialArgs("--user", user)...).ends(exitFailure, "auth-failed")
		server.says(why)
	}
	server.stops()
	server.says(`msg="radius server" service=authentication .* alive=true`)
}

// The books agree with the counters of the client's interface.
func TestRadiusAccounting(t *testing.T) {
	t.Parallel()
	n := newNet2(t)
	fr := newFreeRADIUS(t, n.client, 1812, true).run(t)
	server := startServer(t, n, withRadius(t, []string{"--ipv6=false", "--radius-interim", "1s", "--radius-nas-identifier", "lab"}, fr)...)
	fr.until("has Accounting-On", func() bool { return len(fr.records("Accounting-On")) == 1 })

	client := start(t, n.client, n.dialArgs("--ipv6=false", "--tun", "acct0", "-o", "json")...)
	client.until("is up", func() bool { return len(client.events("up")) == 1 })
	e := client.events("up")[0].Call
	n.echoes(t, e)
	fr.until("has Start", func() bool { return len(fr.records("Start")) == 1 })
	fr.until("has updates", func() bool { return len(fr.records("Interim-Update")) >= 2 })
	// The wire is quiet: what the interface says now is what the call has.
	var st *netlink.LinkStatistics
	n.client.Do(func() {
		link, err := netlink.LinkByName("acct0")
		if err != nil {
			t.Fatal(err)
		}
		st = link.Attrs().Statistics
	})
	client.stops()
	fr.until("has Stop", func() bool { return len(fr.records("Stop")) == 1 })

	first, last := fr.records("Start")[0], fr.records("Stop")[0]
	for k, want := range map[string]string{
		"User-Name": "alice", "NAS-Identifier": "lab", "NAS-Port-Type": "Virtual", "Service-Type": "Framed-User",
		"Framed-Protocol": "PPP", "Framed-IP-Address": e.LocalIP.String(), "Calling-Station-Id": radiusIP,
		"Called-Station-Id": serverIP, "Tunnel-Type:0": "PPTP", "Class": "0x676f6c64", "Acct-Authentic": "RADIUS",
		"Acct-Session-Id": first["Acct-Session-Id"],
	} {
		if first[k] != want || last[k] != want {
			t.Errorf("%s: Start has %q, Stop %q, want %q", k, first[k], last[k], want)
		}
	}
	for k, want := range map[string]uint64{
		"Acct-Input-Octets": st.TxBytes, "Acct-Input-Packets": st.TxPackets, "Acct-Input-Gigawords": 0,
		"Acct-Output-Octets": st.RxBytes, "Acct-Output-Packets": st.RxPackets, "Acct-Output-Gigawords": 0,
	} {
		if last[k] != strconv.FormatUint(want, 10) {
			t.Errorf("%s = %s, the interface says %d", k, last[k], want)
		}
	}
	if last["Acct-Terminate-Cause"] != "User-Request" || st.TxPackets == 0 {
		t.Errorf("ended by %s after %d packets", last["Acct-Terminate-Cause"], st.TxPackets)
	}

	// Calls that are up when the server stops are in the books before it ends.
	again := start(t, n.client, n.dialArgs("--ipv6=false", "-o", "json")...)
	again.until("is up", func() bool { return len(again.events("up")) == 1 })
	server.stops()
	if off, stops := fr.records("Accounting-Off"), fr.records("Stop"); len(off) != 1 || len(stops) != 2 || stops[1]["Acct-Terminate-Cause"] != "Admin-Reboot" {
		t.Errorf("at the end: %d Accounting-Off, Stop records %v", len(off), stops)
	}
}

// What servers ask for while a call is up, and the time-outs that they grant.
func TestRadiusDynamic(t *testing.T) {
	t.Parallel()
	n := newNet2(t)
	fr := newFreeRADIUS(t, n.client, 1812, true).run(t)
	coa := serverIP + ":3799"
	server := startServer(t, n, withRadius(t, []string{"--radius-coa-listen", coa}, fr)...)
	server.says("msg=.listening for Disconnect and CoA requests")
	call := func(user string) (*program, control.CallInfo) {
		p := start(t, n.client, n.dialArgs("--user", user, "-o", "json")...)
		p.until("is up", func() bool { return len(p.events("up")) == 1 })
		return p, p.events("up")[0].Call
	}
	stopped := func(count int) map[string]string {
		t.Helper()
		fr.until("has Stop", func() bool { return len(fr.records("Stop")) == count })
		return fr.records("Stop")[count-1]
	}
	refused := func(kind, attributes, why string) {
		t.Helper()
		if out, ok := radclient(t, n.client, coa, kind, attributes); ok || !strings.Contains(out, why) {
			t.Errorf("%s %s: %v\n%s", kind, attributes, ok, out)
		}
	}
	done := func(kind, attributes string) {
		t.Helper()
		if out, ok := radclient(t, n.client, coa, kind, attributes); !ok {
			t.Errorf("%s %s:\n%s", kind, attributes, out)
		}
	}

	// Sessions are named by user, address and identifier.
	alice, e := call("alice")
	refused("disconnect", `User-Name = "alice"`, "Error-Cause = Missing-Attribute")
	server.says(`request refused" .* why="no Event-Timestamp, .*set radius.coa-untimed`)
	refused("disconnect", `User-Name = "bob", Event-Timestamp = $now`, "Error-Cause = Session-Context-Not-Found")
	refused("disconnect", `User-Name = "alice", Event-Timestamp = 1700000000`, "Error-Cause = Invalid-Request")
	done("disconnect", fmt.Sprintf(`Framed-IP-Address = %v, Event-Timestamp = $now`, e.LocalIP))
	alice.ends(exitOK, "peer-terminated")
	if r := stopped(1); r["Acct-Terminate-Cause"] != "Admin-Reset" {
		t.Errorf("%v", r)
	}

	// A rate is changed, and a time-out that is over ends the call.
	alice, _ = call("alice")
	fr.until("has Start", func() bool { return len(fr.records("Start")) == 2 })
	id := fr.records("Start")[1]["Acct-Session-Id"]
	done("coa", fmt.Sprintf(`Acct-Session-Id = %q, Mikrotik-Rate-Limit = "64k/2M", Event-Timestamp = $now`, id))
	server.says(`msg="session changed" .*user=alice .*rate_up=64000 rate_down=2000000`)
	const burst = 500 // packets of 1000 bytes, of which 8 a second pass, and 7 at once
	n.client.Do(func() {
		c, err := net.Dial("udp4", "10.9.0.1:9")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for range burst {
			_, _ = c.Write(make([]byte, 1000-28))
		}
	})
	refused("coa", fmt.Sprintf(`Acct-Session-Id = %q, Framed-Pool = "x", Event-Timestamp = $now`, id), "Error-Cause = Unsupported-Attribute")
	done("coa", fmt.Sprintf(`Acct-Session-Id = %q, Session-Timeout = 1, Event-Timestamp = $now`, id))
	alice.ends(exitOK, "peer-terminated")
	r := stopped(2)
	if passed, err := strconv.Atoi(r["Acct-Input-Packets"]); r["Acct-Terminate-Cause"] != "Session-Timeout" || err != nil || passed == 0 || passed > burst/2 {
		t.Errorf("%v", r)
	}

	// Time-outs that the server grants from the beginning.
	short, _ := call("short")
	short.ends(exitOK, "peer-terminated")
	if r := stopped(3); r["Acct-Terminate-Cause"] != "Session-Timeout" {
		t.Errorf("%v", r)
	}
	lazy, _ := call("lazy")
	lazy.ends(exitOK, "peer-terminated")
	if r := stopped(4); r["Acct-Terminate-Cause"] != "Idle-Timeout" {
		t.Errorf("%v", r)
	}
	server.stops()
}

// One of two servers goes while calls come in: every call is up. Then both are
// away: a call ends, and the books are right when one is back.
func TestRadiusServersGo(t *testing.T) {
	t.Parallel()
	const calls = 24
	n := newNet2(t)
	n.pool = "10.9.0.10-10.9.0.250"
	one, two := newFreeRADIUS(t, n.client, 1812, true).run(t), newFreeRADIUS(t, n.client, 1822, true).run(t)
	server := startServer(t, n, withRadius(t, []string{"--radius-timeout", "200ms", "--radius-tries", "2", "--radius-probe", "500ms"}, one, two)...)
	client := start(t, n.client, n.dialArgs("--calls", strconv.Itoa(calls), "--starting", "8", "-o", "json")...)
	client.until("has some calls up", func() bool { return len(client.events("up")) > 2 })
	one.quit()
	client.until("has all calls up", func() bool { return len(client.events("up")) == calls })
	n.echoes(t, client.events("up")[calls-1].Call)
	two.until("has Start of every call", func() bool { return len(one.records("Start"))+len(two.records("Start")) >= calls })

	two.quit()
	client.stops()
	server.says(`msg="accounting waits for a server"`)
	one.run(t)
	one.until("has Stop of every call", func() bool { return len(one.records("Stop")) >= calls })
	ids := map[string]bool{}
	for _, r := range append(one.records("Stop"), two.records("Stop")...) {
		ids[r["Acct-Session-Id"]] = true
	}
	if len(ids) != calls {
		t.Errorf("%d sessions of %d ended in the books", len(ids), calls)
	}
	server.says(`msg="RADIUS server answers again"`)
	server.stops()
	server.says(`msg="radius server" service=authentication server=10.77.0.2:1812 `)
}

// A real server that does not sign its answers, which is what an attack by
// CVE-2024-3596 looks like, is not believed, and the log says how to mend it;
// nor is one with another secret.
func TestRadiusForgedAnswers(t *testing.T) {
	t.Parallel()
	n := newNet2(t)
	fr := newFreeRADIUS(t, n.client, 1812, false).run(t)
	short := []string{"--radius-timeout", "300ms", "--radius-tries", "1", "--radius-accounting=false"}
	server := startServer(t, n, withRadius(t, short, fr)...)
	start(t, n.client, n.dialArgs()...).ends(exitFailure, "auth-failed")
	server.says(`level=ERROR msg="answer without Message-Authenticator refused \(CVE-2024-3596\)" .*server=10\.77\.0\.2:1812 mend=".*update reply \{ &Message-Authenticator := 0x00 \}`,
		`msg="authentication failed" .*no authentication server answers`)
	server.stops()
	server.says(`accepts=0 .*unsigned=1`)

	loose := startServer(t, n, "--auth-source", "radius", "--radius-accounting=false",
		"--radius-servers", "10.77.0.2 message-authenticator=optional secret="+file(t, "radius", radiusSecret+"\n", 0o600))
	client := start(t, n.client, n.dialArgs("-o", "json")...)
	client.until("is up", func() bool { return len(client.events("up")) == 1 })
	client.stops()
	loose.stops()

	other := startServer(t, n, append(short, "--auth-source", "radius", "--radius-servers", "10.77.0.2", "--radius-secret", file(t, "other", "another secret\n", 0o600))...)
	start(t, n.client, n.dialArgs()...).ends(exitFailure, "auth-failed")
	other.stops()
	other.says(`timeouts=1 accepts=0 `) // FreeRADIUS does not answer what it does not believe
}
