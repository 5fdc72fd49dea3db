package hostnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// resolver owns the name servers of the host: resolv.conf, or the link's in
// systemd-resolved where that one owns resolv.conf.
//
// A file that was there is kept beside it, under the same name with
// ".before-xpptp", and comes back by a rename: the same file, its owner and
// mode, or the same symbolic link. A resolv.conf that is a mount (as in
// containers) cannot be renamed over; it is written in place.
type resolver struct {
	path    string
	link    string // its name servers are set in systemd-resolved
	changed bool
}

const (
	keptSuffix = ".before-xpptp"
	mark       = "# Written by xpptp dial"
	markKept   = "; the file before is "
	markNone   = "; there was none before."
)

// resolvectlTime bounds one command.
const resolvectlTime = 10 * time.Second

// set makes dns the name servers of the host.
func (r *resolver) set(link string, dns []netip.Addr) error {
	if err := r.recover(); err != nil {
		return err
	}
	target, err := os.Readlink(r.path)
	if err == nil && strings.Contains(target, "systemd/resolve/") {
		return r.setLink(link, dns)
	}
	old, err := os.ReadFile(r.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("hostnet: %w", err)
	}
	text := fmt.Sprintf("%s, process %d", mark, os.Getpid())
	kept, err := r.keep()
	switch {
	case err != nil:
		return fmt.Errorf("hostnet: keep %s: %w", r.path, err)
	case kept:
		text += markKept + r.path + keptSuffix + "\n"
	default:
		text += markNone + "\n"
	}
	for _, a := range dns {
		text += fmt.Sprintf("nameserver %s\n", a)
	}
	// Search lists and options are the host's, not the servers'.
	for line := range strings.Lines(string(old)) {
		switch word, _, _ := strings.Cut(strings.TrimSpace(line), " "); word {
		case "search", "domain", "options", "sortlist":
			text += strings.TrimRight(line, "\n") + "\n"
		}
	}
	if err := r.write([]byte(text)); err != nil {
		_ = os.Remove(r.path + keptSuffix)
		return fmt.Errorf("hostnet: %w", err)
	}
	r.changed = true
	return nil
}

// keep puts the file aside without taking it away; false if there is none.
func (r *resolver) keep() (bool, error) {
	aside := r.path + keptSuffix
	_ = os.Remove(aside) // of a run that is over: recover has looked at it
	target, err := os.Readlink(r.path)
	if err == nil {
		return true, os.Symlink(target, aside)
	}
	err = os.Link(r.path, aside)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	}
	// A mount, or a file system without hard links.
	text, err := os.ReadFile(r.path)
	if err != nil {
		return false, err
	}
	return true, os.WriteFile(aside, text, 0o644)
}

// write replaces the file in one step, if it can be replaced at all.
func (r *resolver) write(text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(r.path), filepath.Base(r.path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	if err := errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	err = os.Rename(f.Name(), r.path)
	if errors.Is(err, syscall.EBUSY) { // a mount
		return os.WriteFile(r.path, text, 0o644)
	}
	return err
}

// restore gives the host its name servers back.
func (r *resolver) restore() error {
	if r.link != "" {
		link := r.link
		r.link = ""
		if _, err := os.Stat("/sys/class/net/" + link); err != nil {
			return nil // systemd-resolved forgets a link that is gone
		}
		return resolvectl("revert", link)
	}
	if !r.changed {
		return nil
	}
	r.changed = false
	first, _, err := r.header()
	switch {
	case err != nil:
		return err
	case first == "":
		_ = os.Remove(r.path + keptSuffix)
		return fmt.Errorf("hostnet: %s was changed by another program: left as it is", r.path)
	}
	return r.putBack(first)
}

// recover restores what a run that was killed has left.
func (r *resolver) recover() error {
	first, pid, err := r.header()
	if err != nil || first == "" {
		return err
	}
	if p, err := os.FindProcess(pid); err == nil && pid != os.Getpid() && p.Signal(syscall.Signal(0)) == nil {
		return fmt.Errorf("hostnet: %s is in use by another xpptp, process %d", r.path, pid)
	}
	return r.putBack(first)
}

// header returns the first line of the file, if it is ours, and the process
// that wrote it; else "".
func (r *resolver) header() (first string, pid int, err error) {
	text, err := os.ReadFile(r.path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return "", 0, nil
		}
		return "", 0, fmt.Errorf("hostnet: %w", err)
	}
	line, _, _ := bytes.Cut(text, []byte("\n"))
	if _, err := fmt.Sscanf(string(line), mark+", process %d;", &pid); err != nil {
		return "", 0, nil
	}
	return string(line), pid, nil
}

// putBack undoes set, by what the first line says.
func (r *resolver) putBack(first string) error {
	if strings.HasSuffix(first, markNone) {
		if err := os.Remove(r.path); err != nil {
			return fmt.Errorf("hostnet: %w", err)
		}
		return nil
	}
	aside := r.path + keptSuffix
	err := os.Rename(aside, r.path)
	if errors.Is(err, syscall.EBUSY) { // a mount
		var text []byte
		if text, err = os.ReadFile(aside); err == nil {
			if err = os.WriteFile(r.path, text, 0o644); err == nil {
				err = os.Remove(aside)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("hostnet: restore %s: %w", r.path, err)
	}
	return nil
}

// setLink hands the name servers to systemd-resolved, for all names.
func (r *resolver) setLink(link string, dns []netip.Addr) error {
	args := []string{"dns", link}
	for _, a := range dns {
		args = append(args, a.String())
	}
	if err := resolvectl(args...); err != nil {
		return err
	}
	r.link = link
	return resolvectl("domain", link, "~.")
}

func resolvectl(args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), resolvectlTime)
	defer cancel()
	out, err := exec.CommandContext(ctx, "resolvectl", args...).CombinedOutput()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return errors.New("hostnet: systemd-resolved owns resolv.conf, and there is no resolvectl to tell it: name servers left as they are")
	case err != nil:
		return fmt.Errorf("hostnet: resolvectl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}
