package hostnet

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const before = "# the host's own\nsearch example.net\nnameserver 192.0.2.53\noptions timeout:1\n"

var servers = []netip.Addr{netip.MustParseAddr("10.0.0.53"), netip.MustParseAddr("10.0.1.53")}

func resolvFile(t *testing.T) string { return filepath.Join(t.TempDir(), "resolv.conf") }

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o640); err != nil {
		t.Fatal(err)
	}
}

// only fails if anything but resolv.conf is in its directory.
func only(t *testing.T, file string, want ...string) {
	t.Helper()
	es, err := os.ReadDir(filepath.Dir(file))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range es {
		names = append(names, e.Name())
	}
	if fmt.Sprint(names) != fmt.Sprint(want) {
		t.Errorf("left in the directory: %v, want %v", names, want)
	}
}

func TestSetAndRestore(t *testing.T) {
	file := resolvFile(t)
	write(t, file, before)
	was, _ := os.Stat(file)
	r := &resolver{path: file}
	if err := r.set("tun0", servers); err != nil {
		t.Fatal(err)
	}
	got := read(t, file)
	want := "nameserver 10.0.0.53\nnameserver 10.0.1.53\nsearch example.net\noptions timeout:1\n"
	if _, rest, _ := strings.Cut(got, "\n"); rest != want || strings.Contains(got, "192.0.2.53") {
		t.Errorf("written:\n%swant after the first line:\n%s", got, want)
	}
	if err := r.restore(); err != nil {
		t.Fatal(err)
	}
	is, err := os.Stat(file)
	if err != nil || read(t, file) != before || !os.SameFile(was, is) || is.Mode() != was.Mode() {
		t.Errorf("restored: %q, %v, same file: %v", read(t, file), is.Mode(), os.SameFile(was, is))
	}
	only(t, file, "resolv.conf")
	write(t, file, "x")
	if err := r.restore(); err != nil || read(t, file) != "x" {
		t.Errorf("a second restore did something: %v", err)
	}
}

func TestNoFileBefore(t *testing.T) {
	file := resolvFile(t)
	r := &resolver{path: file}
	if err := r.set("tun0", servers); err != nil {
		t.Fatal(err)
	}
	if err := r.restore(); err != nil {
		t.Fatal(err)
	}
	only(t, file)
}

func TestSymlink(t *testing.T) {
	file := resolvFile(t)
	write(t, filepath.Join(filepath.Dir(file), "real"), before)
	if err := os.Symlink("real", file); err != nil {
		t.Fatal(err)
	}
	r := &resolver{path: file}
	if err := r.set("tun0", servers); err != nil {
		t.Fatal(err)
	}
	if read(t, filepath.Join(filepath.Dir(file), "real")) != before {
		t.Error("the link's target was written to")
	}
	if got := read(t, file); !strings.Contains(got, "search example.net") {
		t.Errorf("written:\n%s", got)
	}
	if err := r.restore(); err != nil {
		t.Fatal(err)
	}
	if target, err := os.Readlink(file); target != "real" {
		t.Errorf("restored: link to %q, %v", target, err)
	}
	only(t, file, "real", "resolv.conf")
}

// What somebody else writes meanwhile stays.
func TestChangedMeanwhile(t *testing.T) {
	file := resolvFile(t)
	write(t, file, before)
	r := &resolver{path: file}
	if err := r.set("tun0", servers); err != nil {
		t.Fatal(err)
	}
	write(t, file, "nameserver 203.0.113.1\n")
	if err := r.restore(); err == nil || !strings.Contains(err.Error(), "changed by another program") {
		t.Errorf("restore: %v", err)
	}
	if read(t, file) != "nameserver 203.0.113.1\n" {
		t.Error("the other's text is gone")
	}
	only(t, file, "resolv.conf")
}

// A run that was killed leaves its file; the next takes it back first.
func TestRecover(t *testing.T) {
	file := resolvFile(t)
	write(t, file, before)
	if err := (&resolver{path: file}).set("tun0", servers); err != nil {
		t.Fatal(err)
	}
	// No process has this number: it is above the largest that Linux gives.
	const dead = 1<<22 + 1
	owned := strings.Replace(read(t, file), fmt.Sprintf("process %d;", os.Getpid()), fmt.Sprintf("process %d;", dead), 1)
	write(t, file, owned)
	r := &resolver{path: file}
	if err := r.set("tun1", servers[:1]); err != nil {
		t.Fatal(err)
	}
	if got := read(t, file); strings.Contains(got, "10.0.1.53") || !strings.Contains(got, "search example.net") {
		t.Errorf("written:\n%s", got)
	}
	if err := r.restore(); err != nil || read(t, file) != before {
		t.Errorf("restored %q, %v", read(t, file), err)
	}

	write(t, file, owned)
	write(t, file+keptSuffix, before)
	if err := RecoverDNS(file); err != nil || read(t, file) != before {
		t.Errorf("recovered %q, %v", read(t, file), err)
	}
	if err := RecoverDNS(file); err != nil || read(t, file) != before {
		t.Errorf("recovered twice: %q, %v", read(t, file), err)
	}

	// The kept file is gone: nothing is destroyed.
	write(t, file, owned)
	if err := RecoverDNS(file); err == nil || read(t, file) != owned {
		t.Errorf("without a kept file: %q, %v", read(t, file), err)
	}

	// Another run that lives is left alone.
	alive := strings.Replace(owned, fmt.Sprint(dead), fmt.Sprint(os.Getppid()), 1)
	write(t, file, alive)
	err := r.set("tun0", servers)
	if want := fmt.Sprintf("in use by another xpptp, process %d", os.Getppid()); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %s", err, want)
	}
	if read(t, file) != alive {
		t.Error("changed")
	}
}

// systemd-resolved is told through resolvectl, and its file is left alone.
func TestSystemdResolved(t *testing.T) {
	file := resolvFile(t)
	dir := filepath.Dir(file)
	if err := os.Symlink("../run/systemd/resolve/stub-resolv.conf", file); err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	t.Setenv("PATH", bin)
	r := &resolver{path: file}
	if err := r.set("lo", servers); err == nil || !strings.Contains(err.Error(), "there is no resolvectl") {
		t.Errorf("without resolvectl: %v", err)
	}
	if err := r.restore(); err != nil {
		t.Error(err)
	}
	script := "#!/bin/sh\necho \"$@\" >> " + dir + "/calls\n"
	if err := os.WriteFile(filepath.Join(bin, "resolvectl"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := r.set("lo", servers); err != nil {
		t.Fatal(err)
	}
	if err := r.restore(); err != nil {
		t.Fatal(err)
	}
	if got, want := read(t, filepath.Join(dir, "calls")), "dns lo 10.0.0.53 10.0.1.53\ndomain lo ~.\nrevert lo\n"; got != want {
		t.Errorf("resolvectl was called:\n%swant:\n%s", got, want)
	}
	if target, _ := os.Readlink(file); !strings.HasSuffix(target, "stub-resolv.conf") {
		t.Error("the link was replaced")
	}
}
