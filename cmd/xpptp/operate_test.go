package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"xpptp/control/api"
)

// asks runs a command on a control socket and returns what it writes.
func asks(t *testing.T, socket string, status int, args ...string) string {
	t.Helper()
	p := command(t, append(args, "--socket", socket)...)
	p.launch()
	p.ends(status)
	return p.out.String() + p.err.String()
}

// like checks text against lines that are patterns.
func like(t *testing.T, text string, lines ...string) {
	t.Helper()
	got := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if len(got) != len(lines) {
		t.Errorf("%d lines, want %d:\n%s", len(got), len(lines), text)
		return
	}
	for i, line := range lines {
		if !regexp.MustCompile("^" + line + "$").MatchString(got[i]) {
			t.Errorf("line %d: %q is not like %q", i+1, got[i], line)
		}
	}
}

// A server is looked at and operated by its socket.
func TestOperate(t *testing.T) {
	n := newNet2(t)
	dir := t.TempDir()
	socket := filepath.Join(dir, "run", "s")
	server := startServer(t, n, "--control-socket", socket, "--workers", "1")
	server.says(`msg="listening for the operator" socket=` + socket)
	if fi, err := os.Lstat(socket); err != nil || fi.Mode() != os.ModeSocket|0o600 {
		t.Fatal(fi, err)
	}
	client := start(t, n.client, n.dialArgs("--calls", "3", "-o", "json", "--io", "tpacket", "--control-socket", filepath.Join(dir, "c"))...)
	client.until("has 3 calls", func() bool { return len(client.events("up")) == 3 })
	sessions := func(more ...string) (s []api.Session) {
		t.Helper()
		text := asks(t, socket, exitOK, append([]string{"show", "sessions", "-o", "json"}, more...)...)
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			t.Fatal(err, text)
		}
		return s
	}
	server.until("has 3 calls", func() bool {
		return !slices.ContainsFunc(sessions(), func(s api.Session) bool { return s.State != "up" })
	})

	t.Run("show", func(t *testing.T) {
		like(t, asks(t, socket, exitOK, "show", "sessions"),
			`USER   IP         PEER       +CALL  STATE  +AGE  CIPHER              +RX-BYTES  +TX-BYTES  DROPS`,
			`alice  10\.9\.0\.10  10\.77\.0\.2 +\d+  up +\d+s  mppe-128-stateless .*`,
			`alice  10\.9\.0\.11  10\.77\.0\.2 .*`,
			`alice  10\.9\.0\.12  10\.77\.0\.2 .*`)
		like(t, asks(t, socket, exitOK, "show", "sessions", "--ip", "10.9.0.11", "--columns", "cipher,ip,auth"),
			`CIPHER              IP         AUTH`,
			`mppe-128-stateless  10\.9\.0\.11  mschapv2`)
		like(t, asks(t, socket, exitOK, "show", "sessions", "--user", "bob", "--columns", "user,ip"), `USER  IP`)
		like(t, asks(t, socket, exitOK, "show", "pools"),
			`POOL     SIZE  USED  FREE`,
			`default    11     3     8`)
		like(t, asks(t, socket, exitOK, "show", "workers"),
			`WORKER  CPU  CALLS +BUSY  RX-PACKETS  TX-PACKETS  HANDED-OVER  DROPS  FRAMES-FREE`,
			` +0  any      3 +[0-9.]+% +\d+ +\d+ +0 +\d+ +\d+/\d+`)
		like(t, asks(t, socket, exitOK, "show", "plan"),
			`1 worker on any CPU, \w+ on rt0, inside xpptp\d+`,
			`\w+: .+`,
			`not tuned: the machine is as it was found`,
			``,
			`WORKER  CPU  PORTS`,
			` +0  any  rt0:0 \(\w+\), .*xpptp\d+:0 \(tun\)`)
		server.says(`msg=placement text="1 worker on any CPU, `)
		stat := asks(t, socket, exitOK, "show", "stat")
		for _, line := range []string{`state +running`, `calls +3`, `calls that came up +3`, `PORT +BACKEND +RX-PACKETS .*`, `rt0 +\w+ +[1-9]\d* .*`} {
			if !regexp.MustCompile(`(?m)^` + line + `$`).MatchString(stat) {
				t.Errorf("no line %q in\n%s", line, stat)
			}
		}
		like(t, strings.SplitAfter(asks(t, socket, exitOK, "show", "drops", "-o", "wide"), "\n")[0], `REASON +PACKETS  XDP.*`)
		like(t, asks(t, socket, exitFailure, "show", "radius"), `xpptp: no RADIUS server is configured`)
		like(t, asks(t, socket, exitUsage, "show", "sessions", "--columns", "user,shoe-size"), `xpptp: --columns: "shoe-size" is none of user, ip, .*`)
		like(t, asks(t, filepath.Join(dir, "none"), exitFailure, "show", "stat"), `xpptp: no xpptp listens on .*/none: is it running, and with this control\.socket\?`)
		// The client has a socket, too, and sees the same calls from its side.
		if text := asks(t, filepath.Join(dir, "c"), exitOK, "show", "sessions", "--ip", "10.9.0.11", "--columns", "local-ip,peer"); !strings.Contains(text, "10.9.0.11  10.77.0.1") {
			t.Error(text)
		}
		like(t, asks(t, filepath.Join(dir, "c"), exitFailure, "drain"), `xpptp: a client takes no calls: shut it down`)

		watch := command(t, "show", "pools", "--watch=100ms", "--socket", socket)
		watch.launch()
		watch.until("is shown three times", func() bool { return strings.Count(watch.out.String(), "POOL") == 3 })
		_ = watch.cmd.Process.Signal(os.Interrupt)
		watch.ends(exitOK)
	})

	t.Run("reload", func(t *testing.T) {
		like(t, asks(t, socket, exitOK, "reload"), `reloaded`)
		if err := os.WriteFile(n.secrets, []byte("alice *\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		like(t, asks(t, socket, exitFailure, "reload"), `xpptp: secrets not reloaded, the old ones stay: .*`)
		if err := os.WriteFile(n.secrets, []byte("alice * correct-horse *\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	})

	t.Run("terminate", func(t *testing.T) {
		like(t, asks(t, socket, exitFailure, "terminate", "user", "bob"), `xpptp: no such call`)
		like(t, asks(t, socket, exitUsage, "terminate", "ip", "alice"), `xpptp: ip: "alice" is not an IP address`)
		like(t, asks(t, socket, exitUsage, "terminate", "everything"), `xpptp: "everything": one of user NAME, .*`)
		like(t, asks(t, socket, exitOK, "terminate", "ip", "10.9.0.11"), `1 call ended`)
		server.says(`reason="admin-reset: ended by the operator"`)
		client.until("has lost a call", func() bool { return len(client.events("down")) == 1 })
		if why := client.events("down")[0].Reason; !strings.HasPrefix(why, "peer-terminated") {
			t.Error(why)
		}
		call := sessions("--ip", "10.9.0.12")[0]
		like(t, asks(t, socket, exitOK, "terminate", "session", call.Session, "--hard"), `1 call ended`)
		client.until("has lost two calls", func() bool { return len(client.events("down")) == 2 })
		if why := client.events("down")[1].Reason; strings.HasPrefix(why, "peer-terminated") {
			t.Error(why)
		}
		server.until("has one call", func() bool { return len(sessions()) == 1 })
		if left := sessions(); left[0].IP.String() != "10.9.0.10" {
			t.Errorf("%+v", left)
		}
	})

	t.Run("drain", func(t *testing.T) {
		like(t, asks(t, socket, exitFailure, "shutdown", "cancel"), `xpptp: nothing to cancel: new calls are taken`)
		like(t, asks(t, socket, exitOK, "drain"), `no new calls; 1 call left`)
		start(t, n.client, n.dialArgs("--io", "tpacket", "--tun", "late%d")...).ends(exitFailure, `did not end in order`)
		like(t, asks(t, socket, exitOK, "shutdown", "cancel"), `new calls are taken again; 1 call`)
		again := start(t, n.client, n.dialArgs("-o", "json", "--io", "tpacket", "--tun", "again%d")...)
		again.until("is up", func() bool { return len(again.events("up")) == 1 })
		like(t, asks(t, socket, exitOK, "drain"), `no new calls; 2 calls left`)
		again.stops()
		client.stops()
		server.ends(exitOK, `msg="stopping: the last call is over"`)
	})
	if _, err := os.Lstat(socket); !os.IsNotExist(err) {
		t.Error("the socket is left:", err)
	}
}

// Of two servers only one has a socket. The other does not start if it was
// asked for; its calls are ended by shutdown, one way or the other.
func TestTwoSockets(t *testing.T) {
	n := newNet2(t)
	dir := t.TempDir()
	one, two := filepath.Join(dir, "1"), filepath.Join(dir, "2")
	first := startServer(t, n, "--control-socket", one)
	first.says("listening for the operator")
	n.listen, n.pool = serverIP+":1724", "10.8.0.2-9"
	start(t, n.server, n.serveArgs("--local", "10.8.0.1", "--control-socket", one)...).ends(exitFailure,
		`\nxpptp: control socket: .*/1 is another running xpptp's: name a different one by control\.socket\n$`)
	second := startServer(t, n, "--local", "10.8.0.1", "--control-socket", two)
	second.says("listening for the operator")
	like(t, asks(t, two, exitOK, "show", "pools"), `POOL     SIZE  USED  FREE`, `default     8     0     8`)

	client := start(t, n.client, n.dialArgs("-o", "json")...)
	client.until("is up", func() bool { return len(client.events("up")) == 1 })
	like(t, asks(t, one, exitOK, "shutdown", "hard"), `stopping; 1 call`)
	first.ends(exitOK, `msg="calls ended at once" calls=1`, `reason="admin-reset: ended by the operator"`)
	client.ends(exitFailure)
	like(t, asks(t, two, exitOK, "shutdown", "soft"), `stopping; 0 calls`)
	second.ends(exitOK, `msg=stopped`)
}
