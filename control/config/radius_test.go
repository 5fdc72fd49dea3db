package config

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRadiusServers(t *testing.T) {
	for text, want := range map[string]RadiusServer{
		"192.0.2.1": {Auth: netip.MustParseAddrPort("192.0.2.1:1812"), Acct: netip.MustParseAddrPort("192.0.2.1:1813"), Weight: 1},
		"192.0.2.1:1645  weight=0 secret=/x": {
			Auth: netip.MustParseAddrPort("192.0.2.1:1645"), Acct: netip.MustParseAddrPort("192.0.2.1:1646"), SecretFile: "/x",
		},
		"[2001:db8::1]:5000 acct-port=7 message-authenticator=optional weight=1000": {
			Auth: netip.MustParseAddrPort("[2001:db8::1]:5000"), Acct: netip.MustParseAddrPort("[2001:db8::1]:7"), Weight: 1000, Unsigned: true,
		},
		"2001:db8::1 message-authenticator=required": {
			Auth: netip.MustParseAddrPort("[2001:db8::1]:1812"), Acct: netip.MustParseAddrPort("[2001:db8::1]:1813"), Weight: 1,
		},
	} {
		got, err := parseRadiusServer(text)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
		if again, err := parseRadiusServer(got.String()); err != nil || again != got {
			t.Errorf("%s: shown as %s, read as %+v, %v", text, got, again, err)
		}
	}
	for text, want := range map[string]string{
		"":                                      "is not a server",
		"radius.example.net":                    `"radius.example.net" is not an address`,
		"192.0.2.1:0":                           "is not an address",
		"192.0.2.1 weight=-1":                   `server 192.0.2.1: option "weight=-1": -1 is out of range: allowed are 0 to 1000`,
		"192.0.2.1 weight":                      "is not a whole number",
		"192.0.2.1 acct-port=70000":             "70000 is out of range: allowed are 1 to 65535",
		"192.0.2.1 secret=":                     "no file is named",
		"192.0.2.1 wieght=1":                    "allowed are acct-port=, secret=, weight= and message-authenticator=",
		"192.0.2.1 message-authenticator=never": `"never" is none of required, optional`,
		"192.0.2.1:65535":                       "port 65535 has no next one for accounting",
	} {
		if _, err := parseRadiusServer(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// What is read is shown in a form that reads the same.
func FuzzRadiusServer(f *testing.F) {
	for _, s := range []string{"192.0.2.1", "[2001:db8::1]:1812 secret=/x weight=0", "192.0.2.1 acct-port=7 message-authenticator=optional", "fe80::1%eth0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseRadiusServer(text)
		if err != nil {
			return
		}
		if again, err := parseRadiusServer(s.String()); err != nil || again != s {
			t.Fatalf("%q: %+v, shown as %q, read as %+v, %v", text, s, s.String(), again, err)
		}
	})
}

func TestRadiusSettings(t *testing.T) {
	const base = "local: 10.0.0.1\npool: 10.0.0.2-10.0.0.9\n"
	for text, want := range map[string]string{
		"auth-source: radius\nradius: {servers: [192.0.2.1], secret: s}":                    "",
		"auth-source: [local, radius]\nsecrets: f\nradius: {servers: [192.0.2.1 secret=x]}": "",
		"auth-source: radius": "f: radius.servers: must be set: auth-source is radius",
		"auth-source: [radius, local]\nradius: {servers: [192.0.2.1], secret: s}": "f: secrets: must be set: the file of users",
		"auth-source: []\nsecrets: f":                         "f:3:1: auth-source: must not be empty",
		"auth-source: kerberos":                               `f:3:14: auth-source: "kerberos" is none of local, radius`,
		"auth-source: radius\nradius: {servers: [192.0.2.1]}": "f:4:10: radius.servers: 192.0.2.1:1812 has no secret: set radius.secret, or secret= for the server",
		"auth-source: radius\nradius: {secret: s, servers: [192.0.2.1, 192.0.2.1 weight=2]}":                             "192.0.2.1:1812 is there twice",
		"secrets: f\nradius: {coa-listen: 192.0.2.9:3799}":                                                               "nobody may send: there are neither radius.servers nor radius.coa-clients",
		"secrets: f\nradius: {coa-listen: 192.0.2.9:3799, coa-clients: ['2001:db8::5']}":                                 "their secret is missing: set radius.secret",
		"secrets: f\nradius: {coa-listen: 192.0.2.9, secret: s}":                                                         `"192.0.2.9" is not an address and port such as`,
		"secrets: f\nradius: {nas-address: here}":                                                                        `"here" is not an address`,
		"secrets: f\nradius: {nas-address: '2001:db8::9', coa-listen: '[::]:3799', secret: s, coa-clients: [192.0.2.7]}": "",
	} {
		c, err := Parse("f", []byte(base+text))
		if err == nil {
			err = c.Validate()
		}
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s:\ngot  %v\nwant %s", text, err, want)
		}
	}
}

func TestRadiusSecrets(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		f := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(f, []byte(text), mode), os.Chmod(f, mode)); err != nil {
			t.Fatal(err)
		}
		return f
	}
	common, own := write("common", "one secret\r\nnot this\n", 0o600), write("own", "another", 0o600)
	open, empty := write("open", "x\n", 0o644), write("empty", "\n", 0o600)
	c := Default()
	c.AuthSource, c.Radius.SecretFile = []AuthSource{AuthRadius}, common
	for server, want := range map[string]string{"192.0.2.1": "one secret", "192.0.2.1 secret=" + own: "another"} {
		s, err := parseRadiusServer(server)
		if err != nil {
			t.Fatal(err)
		}
		secret, err := c.RadiusSecret(&s)
		if err != nil || secret.Reveal() != want {
			t.Errorf("%s: %q, %v", server, secret.Reveal(), err)
		}
		c.Radius.Servers = append(c.Radius.Servers, s)
	}
	if err := c.Preflight(); err != nil {
		t.Error(err)
	}
	for file, want := range map[string]string{open: "open to every user", empty: "is empty", dir + "/nosuch": "no such file"} {
		c.Radius.SecretFile = file
		if err := c.Preflight(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", file, err)
		}
	}
	s, _ := parseRadiusServer("192.0.2.1 message-authenticator=optional")
	c.Radius.Servers, c.Radius.CoAListen, c.Radius.CoAUntimed = []RadiusServer{s}, []netip.AddrPort{s.Auth}, true
	if notes := strings.Join(c.Notes(), "\n"); !strings.Contains(notes, "192.0.2.1:1812 can forge") || !strings.Contains(notes, "can be repeated after 10m") {
		t.Error(notes)
	}
}
