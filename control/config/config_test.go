package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"xpptp/control/aaa"
)

// minimal is what must be set.
const minimal = "local: 10.0.0.1\npool: 10.0.0.10-10.0.0.250\nsecrets: /etc/xpptp/secrets\n"

func parse(t testing.TB, text string) *Config {
	t.Helper()
	c, err := Parse("f", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestDefaultIsStrong(t *testing.T) {
	c := parse(t, minimal)
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	if len(c.Notes()) != 0 {
		t.Errorf("the default has notes: %q", c.Notes())
	}
	if !reflect.DeepEqual(c.Auth, []aaa.Method{aaa.MSCHAPv2}) || c.MPPE != Require ||
		!reflect.DeepEqual(c.MPPEKeys, []int{128}) || c.MPPEStateful {
		t.Errorf("default is %v, %s, %v, stateful %v", c.Auth, c.MPPE, c.MPPEKeys, c.MPPEStateful)
	}
}

func TestParse(t *testing.T) {
	c := parse(t, `
outside: [eth0, eth1]
listen: 192.0.2.1, 192.0.2.2:1724
io: tpacket
local: 10.0.0.1
pool:
  default: [10.0.0.10-10.0.0.20, 10.0.0.40]
  vip: 10.1.0.0/30
auth: [mschapv2, chap]
mppe-keys: [128, 40]
mppe-stateful: true
pptp:
  host-name: "gate 7"
  echo-interval: 0
gre: {reorder: 10ms, window: rfc}
dns: [10.0.0.2]
limits:
  calls: 50 # not more
`)
	want := Default()
	want.Outside = []string{"eth0", "eth1"}
	want.Listen = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:1723"), netip.MustParseAddrPort("192.0.2.2:1724")}
	want.IO = IOTpacket
	want.Local = netip.MustParseAddr("10.0.0.1")
	want.Auth = []aaa.Method{aaa.MSCHAPv2, aaa.CHAPMD5}
	want.MPPEKeys = []int{128, 40}
	want.MPPEStateful = true
	want.PPTP.HostName = "gate 7"
	want.PPTP.EchoInterval = 0
	want.GRE.Reorder = 10 * time.Millisecond
	want.GRE.Window = WindowRFC
	want.DNS = []netip.Addr{netip.MustParseAddr("10.0.0.2")}
	want.Limits.Calls = 50
	if got := fmt.Sprint(c.Pools); got != "[{default [10.0.0.10-10.0.0.20 10.0.0.40]} {vip [10.1.0.1-10.1.0.2]}]" {
		t.Errorf("pools %s", got)
	}
	want.Pools, want.source = c.Pools, c.source
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
}

func TestParseErrors(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"mpe: deny", `f:1:1: unknown key "mpe": did you mean "mppe"?`},
		{"local: 10.0.0.1\n\nxyzzy: 1", `f:3:1: unknown key "xyzzy": allowed are listen, sources, inside, name, local, pool, dns, nbns, auth-source, secrets, allow-world-readable-secrets, outside, io, tun, workers, cpus, poll, tune, tune-state, tune-profiles, auth, mppe, mppe-keys, mppe-stateful, mtu, mru, ipv6, pptp, ppp, gre, ip, log, radius, limits, control`},
		{"gre:\n  reordering: 5ms", `f:2:3: unknown key "gre.reordering": allowed are reorder, ack-delay, window, receive-window`},
		{"gre:\n  reorde: 5ms", `f:2:3: unknown key "gre.reorde": did you mean "gre.reorder"?`},
		{"pptp.vendor: x", ``}, // the key in one word
		{"mtu: 100", `f:1:6: mtu: 100 is out of range: allowed are 576 to 3700`},
		{"mtu: big", `f:1:6: mtu: "big" is not a whole number: allowed are 576 to 3700`},
		{"mtu: 1400.5", `f:1:6: mtu: "1400.5" is not a whole number: allowed are 576 to 3700`},
		{"mtu: 99999999999999999999", `f:1:6: mtu: "99999999999999999999" is not a whole number: allowed are 576 to 3700`},
		{"mtu: [1400]", `f:1:6: mtu: found a list where one value belongs`},
		{"mtu: {a: 1}", `f:1:6: mtu: found a mapping where one value belongs`},
		{"mtu:", `f:1:6: mtu: found nothing where one value belongs`},
		{"mtu: |\n  1400\n", `f:1:6: mtu: found a block of text where one value belongs`},
		{"mtu: &a 1400\nmru: *a", "f:1:6: mtu: found an anchor or alias where one value belongs\nf:2:6: mru: found an anchor or alias where one value belongs"},
		{"mtu: !!int 1400", `f:1:6: mtu: found a tag where one value belongs`},
		{"ipv6: yes", `f:1:7: ipv6: "yes" is neither true nor false`},
		{"mppe: maybe", `f:1:7: mppe: "maybe" is none of deny, allow, prefer, require`},
		{"io: dpdk", `f:1:5: io: "dpdk" is none of auto, xsk, tpacket, raw, asavie`},
		{"auth: [mschapv2, eap]", `f:1:18: auth: "eap" is none of pap, chap, mschapv1, mschapv2`},
		{"auth: [pap, pap]", `f:1:13: auth: "pap" is there twice`},
		{"auth: [[pap]]", `f:1:8: auth: found a list where one value belongs`},
		{"workers: 65", `f:1:10: workers: 65 is out of range: allowed are 0 to 64`},
		{"cpus: [0, -1]", `f:1:11: cpus: "-1" is not the number of a core`},
		{"poll: often", `f:1:7: poll: "often" is none of adaptive, spin, interrupt`},
		{"sources: [10.0.0.0/8, 'fd00::/8']", `f:1:23: sources: "fd00::/8" is not an IPv4 prefix such as 192.0.2.0/24`},
		{"sources: 10.0.0.1/8", `f:1:10: sources: "10.0.0.1/8" has bits behind its length: 10.0.0.0/8 is meant?`},
		{"mppe-keys: 64", `f:1:12: mppe-keys: "64" is none of 40, 56, 128`},
		{"gre:\n  reorder: 5", `f:2:12: gre.reorder: "5" is not a time such as 5ms or 1m30s: allowed are 0s to 1s`},
		{"gre:\n  reorder: 2s", `f:2:12: gre.reorder: 2s is out of range: allowed are 0s to 1s`},
		{"gre:\n  reorder: -1ms", `f:2:12: gre.reorder: -1ms is out of range: allowed are 0s to 1s`},
		{"gre: 5ms", `f:1:6: gre: found "5ms" where a mapping of keys to values belongs`},
		{"gre:", `f:1:6: gre: found nothing where a mapping of keys to values belongs`},
		{"- a\n- b", `f:1:1: found a list where a mapping of keys to values belongs`},
		{"local: fd00::1", `f:1:8: local: "fd00::1" is not an IPv4 address`},
		{"listen: '[::]:1723'", `f:1:9: listen: "[::]:1723" is not an IPv4 address and port such as 0.0.0.0:1723`},
		{"listen: 0.0.0.0:0", `f:1:9: listen: "0.0.0.0:0" is not an IPv4 address and port such as 0.0.0.0:1723`},
		{"dns: [10.0.0.1, 10.0.0.2, 10.0.0.3]", `f:1:27: dns: "10.0.0.3" is one too many: at most 2 are allowed`},
		{"pool: 10.0.0.9-10.0.0.1", `f:1:7: pool: range "10.0.0.9-10.0.0.1": the end comes before the start`},
		{"pool:\n  vip: [10.0.0.1, x]", `f:2:19: pool.vip: range "x": "x" is not an IPv4 address`},
		{"pool: 'a b=10.0.0.1'", `f:1:7: pool: pool name: "a b" is not a name of 1 to 64 letters, digits, dashes, dots and underscores`},
		{"outside: a-name-that-is-too-long", `f:1:10: outside: "a-name-that-is-too-long" cannot be the name of an interface`},
		{"outside: ''", `f:1:10: outside: "" cannot be the name of an interface`},
		{"pptp:\n  vendor: Überfirma", `f:2:11: pptp.vendor: "Überfirma" is not a text of at most 64 ASCII characters`},
		{`secrets: "a\nb"`, `f:1:10: secrets: "a\nb" holds a control character or is not UTF-8`},
		{"pptp:\n  firmware: 65536", `f:2:13: pptp.firmware: 65536 is out of range: allowed are 0 to 65535`},
		{"mtu: 1400\nmtu: 1300", `f:2:1: mapping key "mtu" already defined at [1:1]`},
		{"mtu: [1400", `f:1:6: sequence end token ']' not found`},
		{"mtu: 1\nmru: 2\nnam: x", "f:1:6: mtu: 1 is out of range: allowed are 576 to 3700\nf:2:6: mru: 2 is out of range: allowed are 576 to 3700\nf:3:1: unknown key \"nam\": did you mean \"name\"?"},
		{"mtu: 1400\n---\nmtu: 1300", `f:3:4: a second document: there must be one only`},
	} {
		_, err := Parse("f", []byte(tt.in))
		if got := text1(err); got != tt.want {
			t.Errorf("%q:\ngot  %s\nwant %s", tt.in, got, tt.want)
		}
	}
}

func text1(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestValidate(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{minimal, ""},
		{"", "f: local: must be set: our IPv4 address inside calls, such as 10.0.0.1\nf: secrets: must be set: the file of users\nf: pool: must be set: addresses for clients, such as 10.0.0.10-10.0.0.250"},
		{"local: 127.0.0.1\nsecrets: s\npool: 10.0.0.2", "f:1:1: local: 127.0.0.1 cannot be the address of a host"},
		{"local: 255.255.255.255\nsecrets: s\npool: 10.0.0.2", "f:1:1: local: 255.255.255.255 cannot be the address of a host"},
		{"local: 10.0.0.1\nsecrets: s\npool: 10.0.0.0/24", "f:3:1: pool: default: range 10.0.0.1-10.0.0.254 holds our own address (local) 10.0.0.1: leave it out"},
		{"local: 10.0.0.1\nsecrets: s\npool: [10.0.0.2-10.0.0.9, 10.0.0.9-10.0.0.12]", "f:3:1: pool: default: ranges 10.0.0.2-10.0.0.9 and 10.0.0.9-10.0.0.12 overlap"},
		{"local: 10.0.0.1\nsecrets: s\npool: {a: 10.0.0.2-10.0.0.9, b: 10.0.0.5}", "f:3:1: pool: range 10.0.0.2-10.0.0.9 of a and range 10.0.0.5 of b overlap"},
		{"local: 10.0.0.1\nsecrets: s\npool: 16.0.0.0/7", "f:3:1: pool: default: more than 16777216 addresses (a /8)"},
		{minimal + "listen: [0.0.0.0, 192.0.2.1]", "f:4:1: listen: 0.0.0.0:1723 and 192.0.2.1:1723 exclude each other: 0.0.0.0 stands for all addresses"},
		{minimal + "listen: [0.0.0.0, '192.0.2.1:99', 192.0.2.2:98]", ""},
		{minimal + "listen: []\nname: ''\nauth: []\nmppe-keys: []", "f:6:1: auth: must not be empty\nf:7:1: mppe-keys: must not be empty\nf:4:1: listen: must not be empty\nf:5:1: name: must not be empty"},
		{minimal + "auth: [pap, chap]", "f:4:1: auth: mppe is require, but pap, chap gives no keys: add mschapv2"},
		{minimal + "auth: [pap, chap]\nmppe: prefer", ""},
		{minimal + "inside: ''", "f:4:1: inside: must not be empty"},
		{minimal + "inside: eth1\noutside: [eth0, eth1]", "f:4:1: inside: eth1 is an outside interface"},
		{minimal + "inside: eth1\nio: tpacket", "f:4:1: inside: an interface needs AF_XDP outside too, and io is tpacket: set io to xsk, or inside to tun"},
		{minimal + "inside: eth1\nio: xsk\noutside: eth0", ""},
		{minimal + "inside: reflect\nio: raw", ""},
		{minimal + "mtu: 1279\nmru: 600", "f:4:1: mtu: 1279 is too small for IPv6, which needs 1280: set ipv6 to false\nf:5:1: mru: 600 is too small for IPv6, which needs 1280: set ipv6 to false"},
		{minimal + "mtu: 1279\nmru: 600\nipv6: false", ""},
		{minimal + "workers: 3\ncpus: [0, 1]", "f:5:1: cpus: 2 cores for 3 workers: name one for each"},
		{minimal + "cpus: [0, 1]\nio: asavie", "f: workers: io asavie has one worker, not 2: its sockets cannot share a queue"},
		{minimal + "workers: 2\ncpus: [0, 1, 2]\nsources: [10.0.0.0/8, 192.0.2.7]", ""},
		{minimal + "tun: 'a%s'", `f:4:1: tun: "a%s" may hold %d once and no other %`},
		{minimal + "tun: '%d%d'", `f:4:1: tun: "%d%d" may hold %d once and no other %`},
	} {
		c := parse(t, tt.in)
		if got := text1(c.Validate()); got != tt.want {
			t.Errorf("%q:\ngot  %s\nwant %s", tt.in, got, tt.want)
		}
	}
}

func TestErrorsAreTyped(t *testing.T) {
	c := parse(t, "")
	var e *Error
	if err := c.Validate(); !errors.As(err, &e) || e.Key != "local" || e.Where != "f" {
		t.Errorf("%#v", e)
	}
	if err := Default().Validate(); !strings.HasPrefix(err.Error(), "local: must be set") {
		t.Errorf("without a file: %v", err)
	}
}

func TestNotes(t *testing.T) {
	c := parse(t, minimal+"auth: [mschapv2, pap]\nmppe-keys: [128, 40]\nallow-world-readable-secrets: true\nlimits: {calls: 1000}")
	want := []string{
		"auth: pap sends passwords in the clear",
		"auth: pap gives no keys, and mppe is require: a call that uses it ends",
		"mppe-keys: 40 bits are no protection today",
		"allow-world-readable-secrets: every user of this machine may read the passwords",
		"limits.calls: 1000 calls are allowed, but there are 241 addresses",
	}
	if got := c.Notes(); !reflect.DeepEqual(got, want) {
		t.Errorf("%q", got)
	}
	c = parse(t, minimal+"mppe: allow")
	if got := c.Notes(); len(got) != 1 || got[0] != "mppe: with allow a call may carry traffic in the clear" {
		t.Errorf("%q", got)
	}
}

func serveFlags(t testing.TB, args ...string) (*Config, error) {
	t.Helper()
	fs := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	fs.SetOutput(io.Discard)
	load := BindServe(fs)
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	return load()
}

func writeFile(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "xpptp.yaml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFlagsOverrideFile(t *testing.T) {
	path := writeFile(t, minimal+"mtu: 1300\nmru: 1310\nauth: [mschapv2, mschapv1]\ngre: {reorder: 7ms}\n")
	c, err := serveFlags(t, "-c", path, "--mtu=1350", "--auth", "mschapv1,chap", "--auth", "mschapv2",
		"--mppe-stateful", "--pool", "10.2.0.0/24", "--pool", "vip=10.3.0.1", "--ppp-echo-interval", "9s")
	if err != nil {
		t.Fatal(err)
	}
	if c.MTU != 1350 || c.MRU != 1310 || c.GRE.Reorder != 7*time.Millisecond || !c.MPPEStateful || c.PPP.EchoInterval != 9*time.Second {
		t.Errorf("%+v", c)
	}
	if got := fmt.Sprintf("%v %v", c.Auth, c.Pools); got != "[mschapv1 chap mschapv2] [{default [10.2.0.1-10.2.0.254]} {vip [10.3.0.1]}]" {
		t.Error(got)
	}
	for line, want := range map[string]string{"mtu": "1350 --mtu", "mru": "1310 " + path + ":5:1", "ipv6": "true default"} {
		m := regexp.MustCompile(`(?m)^` + line + ` +(.*)$`).FindStringSubmatch(c.Plan())
		if m == nil || strings.Join(strings.Fields(m[1]), " ") != want {
			t.Errorf("plan of %s: %q, want %q", line, m, want)
		}
	}
}

func TestFlagErrors(t *testing.T) {
	good := []string{"--local", "10.0.0.1", "--pool", "10.0.0.2", "--secrets", "s"}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{nil, ""},
		{[]string{"--mtu", "9000"}, `invalid argument "9000" for "--mtu" flag: 9000 is out of range: allowed are 576 to 3700`},
		{[]string{"--mpe", "deny"}, `unknown flag: --mpe`},
		{[]string{"--mppe-stateful=maybe"}, `invalid argument "maybe" for "--mppe-stateful" flag: "maybe" is neither true nor false`},
		{[]string{"--pool", "10.0.0.1"}, `--pool: default: range 10.0.0.1 holds our own address (local) 10.0.0.1: leave it out`},
		{[]string{"--auth", "pap"}, `--auth: mppe is require, but pap gives no keys: add mschapv2`},
		{[]string{"-c", "/nonexistent/x.yaml"}, `open /nonexistent/x.yaml: no such file or directory`},
		{[]string{"-c", writeFile(t, strings.Repeat("#", maxFile+1))}, ""},
	} {
		_, err := serveFlags(t, append(good[:len(good):len(good)], tt.args...)...)
		want := tt.want
		if want == "" && len(tt.args) > 0 {
			want = tt.args[1] + ": file is larger than 1 MiB"
		}
		if got := text1(err); got != want {
			t.Errorf("%v:\ngot  %s\nwant %s", tt.args, got, want)
		}
	}
}

func TestDial(t *testing.T) {
	fs := pflag.NewFlagSet("dial", pflag.ContinueOnError)
	load := BindDial(fs)
	if _, err := load(); text1(err) != "server: must be set: server to call: HOST or HOST:PORT\nuser: must be set: user name\npassword-file: must be set: file with the password in its first line" {
		t.Errorf("nothing set: %v", err)
	}
	if err := fs.Parse([]string{"--server=vpn.example", "--user", `CORP\bob`, "--password-file=pw", "--calls=3", "--tun=ppp0", "--default-route", "--redial-min=2m"}); err != nil {
		t.Fatal(err)
	}
	_, err := load()
	want := "--redial-min: 2m is longer than redial-max, 1m\n" +
		"--tun: \"ppp0\" names one device, and calls is 3: write %d for a number\n" +
		"--default-route: goes with one call only, and calls is 3"
	if text1(err) != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	for in, want := range map[string]string{"vpn.example": "vpn.example:1723", "192.0.2.1:99": "192.0.2.1:99"} {
		if got := (&Dial{Server: in}).Endpoint(); got != want {
			t.Errorf("%s: endpoint %s, want %s", in, got, want)
		}
	}
	for _, bad := range []string{"vpn:0", "vpn:x", "vpn:70000", "[fd00::1]:1723", "fd00::1", ":1723"} {
		if err := checkServer(bad); err == nil {
			t.Errorf("%q is taken for a server", bad)
		}
	}
	d, err := LoadDial(writeFile(t, "server: a\nuser: b\npassword-file: c\npersist: true\n"))
	if err != nil || !d.Persist || d.Calls != 1 {
		t.Errorf("%+v, %v", d, err)
	}
	if _, err := LoadDial(writeFile(t, "pool: 10.0.0.1")); err == nil || !strings.Contains(err.Error(), `:1:1: unknown key "pool"`) {
		t.Errorf("a key of serve: %v", err)
	}
}

func TestPassword(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pw")
	d := &Dial{PasswordFile: path}
	if _, err := d.Password(); err == nil || !errors.As(err, new(*Error)) {
		t.Errorf("missing file: %v", err)
	}
	for text, want := range map[string]string{"pass word\nrest": "pass word", "x\r\n": "x", " x ": " x ", "": "", "\nx": ""} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := d.Password()
		if s.Reveal() != want || (err != nil) != (want == "") {
			t.Errorf("%q: %q, %v", text, s.Reveal(), err)
		}
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Password(); err == nil || !strings.Contains(err.Error(), "chmod 600 "+path) {
		t.Errorf("open to all: %v", err)
	}
}

func TestPreflight(t *testing.T) {
	secrets := filepath.Join(t.TempDir(), "secrets")
	if err := os.WriteFile(secrets, []byte("bob * x *\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := parse(t, minimal+"outside: [lo]\n")
	c.Secrets = secrets
	if err := c.Preflight(); err != nil {
		t.Errorf("good: %v", err)
	}
	if err := os.Chmod(secrets, 0o644); err != nil {
		t.Fatal(err)
	}
	c.Outside = []string{"lo", "nosuch0"}
	err := c.Preflight()
	for _, want := range []string{
		`f:4:1: outside: no interface "nosuch0": there are `,
		"\nf:3:1: secrets: file with secrets is open to every user: " + secrets + " has mode 0644: run chmod 600 " + secrets,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks %s", err, want)
		}
	}
	c.AllowWorldReadableSecrets = true
	c.Outside = nil
	if err := c.Preflight(); err != nil {
		t.Errorf("allowed: %v", err)
	}
	c.Secrets = secrets + "x"
	if err := c.Preflight(); err == nil || !strings.Contains(err.Error(), "secrets: open "+secrets+"x: no such file") {
		t.Errorf("missing: %v", err)
	}
}

// The example names every key; with the comment signs taken away it is the
// default.
func TestExample(t *testing.T) {
	live := regexp.MustCompile(`(?m)^#((  )?[a-z0-9-]+:)`).ReplaceAllString(Example(), "$1")
	c := parse(t, live)
	if len(c.origin) != len(c.fields()) {
		t.Errorf("%d keys in the example, %d in the table", len(c.origin), len(c.fields()))
	}
	want := Default()
	want.source = c.source
	for i, f := range c.fields() { // nil and empty lists are the same
		if got, want := f.v.String(), want.fields()[i].v.String(); got != want {
			t.Errorf("%s: %q, default is %q", f.key, got, want)
		}
	}
	if _, err := Parse("f", []byte(Example())); err != nil {
		t.Errorf("with its comments: %v", err)
	}
}

// Keys, flags and help must be unique and present in both tables.
func TestTables(t *testing.T) {
	for name, fs := range map[string][]field{"serve": Default().fields(), "dial": DefaultDial().fields()} {
		flags := map[string]bool{"config": true}
		for _, f := range fs {
			if f.help == "" || flags[flagName(f.key)] {
				t.Errorf("%s: %s has no help, or its flag is taken", name, f.key)
			}
			flags[flagName(f.key)] = true
			if m, ok := f.v.(many); ok {
				m.reset()
			}
		}
		for i, f := range map[string][]field{"serve": Default().fields(), "dial": DefaultDial().fields()}[name] {
			text := f.v.String()
			if text == "" {
				continue
			}
			if err := fs[i].v.Set(text); err != nil || fs[i].v.String() != text {
				t.Errorf("%s: default %q of %s reads back as %q, %v", name, text, f.key, fs[i].v, err)
			}
		}
	}
}

func TestPlanJSON(t *testing.T) {
	c := parse(t, minimal+"gre: {reorder: 7ms}\nauth: [mschapv2, pap]")
	js, err := c.PlanJSON()
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		File   string
		Config struct {
			Auth  []string
			MTU   int
			Local string
			Pool  map[string][]string
			GRE   struct{ Reorder string }
		}
		Pools []struct {
			Name string
			Size int
		}
		Notes []string
	}
	if err := json.Unmarshal(js, &got); err != nil {
		t.Fatal(err)
	}
	if s := fmt.Sprintf("%+v", got); s != "{File:f Config:{Auth:[mschapv2 pap] MTU:1400 Local:10.0.0.1 Pool:map[default:[10.0.0.10-10.0.0.250]] GRE:{Reorder:7ms}} Pools:[{Name:default Size:241}] Notes:[auth: pap sends passwords in the clear auth: pap gives no keys, and mppe is require: a call that uses it ends]}" {
		t.Error(s)
	}
}

// What is read can be written in a file of its own and reads back the same.
func FuzzParse(f *testing.F) {
	f.Add([]byte(minimal))
	f.Add([]byte(Example()))
	f.Add([]byte(regexp.MustCompile(`(?m)^#((  )?[a-z0-9-]+:)`).ReplaceAllString(Example(), "$1")))
	for _, s := range []string{"pool: {a: [10.0.0.1, 10.0.0.3-10.0.0.7], b: 10.1.0.0/16}", "gre: {reorder: 5ms", "mtu: &x 1\nmru: *x", "---\n...\n---\n", "? a\n: b", "<<: {a: b}", "\t", "- - -", "a: |\n b"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := Parse("f", text)
		if err != nil {
			if err.Error() == "" {
				t.Fatal("an error without text")
			}
			return
		}
		_ = c.Validate()
		_ = c.Plan()
		if _, err := c.PlanJSON(); err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for _, f := range c.fields() {
			fmt.Fprintf(&b, "%q: %s\n", f.key, yamlText(f.v))
		}
		again, err := Parse("g", []byte(b.String()))
		if err != nil {
			t.Fatalf("%s\ndoes not read back: %v", b.String(), err)
		}
		for i, f := range c.fields() {
			if got := again.fields()[i].v.String(); got != f.v.String() {
				t.Fatalf("%s: %q reads back as %q", f.key, f.v, got)
			}
		}
	})
}
