package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"xpptp/control/aaa"
	"xpptp/control/pool"
	"xpptp/hwprofile"
)

// Validate checks what the settings of serve say together. It asks nothing of
// the machine. All errors are returned, joined; each is an *Error.
func (c *Config) Validate() error {
	errs := c.Common.validate()
	fail := func(key, format string, args ...any) {
		errs = append(errs, c.fault(key, format, args...))
	}
	if len(c.Listen) == 0 {
		fail("listen", "must not be empty")
	}
	if c.Name == "" {
		fail("name", "must not be empty")
	}
	for i, a := range c.Listen {
		for _, b := range c.Listen[i+1:] {
			if a.Port() == b.Port() && (a.Addr().IsUnspecified() || b.Addr().IsUnspecified()) {
				fail("listen", "%s and %s exclude each other: 0.0.0.0 stands for all addresses", a, b)
			}
		}
	}
	switch {
	case !c.Local.IsValid():
		fail("local", "must be set: our IPv4 address inside calls, such as 10.0.0.1")
	case c.Local.IsUnspecified(), c.Local.IsLoopback(), c.Local.IsMulticast(), c.Local == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		fail("local", "%s cannot be the address of a host", c.Local)
	}
	errs = append(errs, c.validateInside()...)
	errs = append(errs, c.validateRadius()...)
	errs = append(errs, c.validatePools()...)
	return errors.Join(errs...)
}

// insideInterface is the network interface that clients' packets go by, if
// they do.
func (c *Config) insideInterface() string {
	switch c.Inside {
	case InsideTun, InsideSink, InsideReflect:
		return ""
	}
	return c.Inside
}

func (c *Config) validateInside() (errs []error) {
	fail := func(format string, args ...any) {
		errs = append(errs, c.fault("inside", format, args...))
	}
	if c.Inside == "" {
		fail("must not be empty")
	}
	nic := c.insideInterface()
	if nic == "" {
		return errs
	}
	if slices.Contains(c.Outside, nic) {
		fail("%s is an outside interface", nic)
	}
	if c.IO != IOAuto && c.IO != IOXSK {
		fail("an interface needs AF_XDP outside too, and io is %s: set io to xsk, or inside to tun", c.IO)
	}
	return errs
}

func (c *Config) validatePools() (errs []error) {
	fail := func(format string, args ...any) {
		errs = append(errs, c.fault("pool", format, args...))
	}
	if len(c.Pools) == 0 {
		fail("must be set: addresses for clients, such as 10.0.0.10-10.0.0.250")
	}
	for i, p := range c.Pools {
		if _, err := pool.New(p.Name, p.Ranges); err != nil {
			fail("%s", strings.TrimPrefix(err.Error(), "pool "))
		}
		for _, r := range p.Ranges {
			if r.Contains(c.Local) {
				fail("%s: range %s holds our own address (local) %s: leave it out", p.Name, r, c.Local)
			}
			for _, q := range c.Pools[i+1:] {
				for _, s := range q.Ranges {
					if r.Overlaps(s) {
						fail("range %s of %s and range %s of %s overlap", r, p.Name, s, q.Name)
					}
				}
			}
		}
	}
	return errs
}

// Validate is the same for dial.
func (d *Dial) Validate() error {
	errs := d.Common.validate()
	fail := func(key, format string, args ...any) {
		errs = append(errs, d.fault(key, format, args...))
	}
	for _, f := range d.fields() {
		if (f.key == "server" || f.key == "user" || f.key == "password-file") && f.v.String() == "" {
			fail(f.key, "must be set: %s", f.help)
		}
	}
	if d.RedialMin > d.RedialMax {
		fail("redial-min", "%s is longer than redial-max, %s", shortTime(d.RedialMin), shortTime(d.RedialMax))
	}
	if d.Calls > 1 && d.Tun != "" && !strings.Contains(d.Tun, "%d") {
		fail("tun", "%q names one device, and calls is %d: write %%d for a number", d.Tun, d.Calls)
	}
	if d.Calls > 1 && d.DefaultRoute {
		fail("default-route", "goes with one call only, and calls is %d", d.Calls)
	}
	return errors.Join(errs...)
}

func (c *Common) validate() (errs []error) {
	fail := func(key, format string, args ...any) {
		errs = append(errs, c.fault(key, format, args...))
	}
	if len(c.Auth) == 0 {
		fail("auth", "must not be empty")
	}
	if len(c.MPPEKeys) == 0 {
		fail("mppe-keys", "must not be empty")
	}
	if c.MPPE == Require && len(c.Auth) > 0 && !slices.ContainsFunc(c.Auth, aaa.Method.GivesKeys) {
		fail("auth", "mppe is require, but %s gives no keys: add mschapv2", joinMethods(c.Auth))
	}
	tooSmall := "%d is too small for IPv6, which needs %d: set ipv6 to false"
	if c.IPv6 && c.MTU < minMTU6 {
		fail("mtu", tooSmall, c.MTU, minMTU6)
	}
	if c.IPv6 && c.MRU < minMTU6 {
		fail("mru", tooSmall, c.MRU, minMTU6)
	}
	if n := len(c.CPUs); n > 0 && c.Workers > n {
		fail("cpus", "%d cores for %d workers: name one for each", n, c.Workers)
	}
	if c.IO == IOAsavie && max(c.Workers, len(c.CPUs)) > 1 {
		fail("workers", "io asavie has one worker, not %d: its sockets cannot share a queue", max(c.Workers, len(c.CPUs)))
	}
	if strings.Count(c.Tun, "%") != strings.Count(c.Tun, "%d") || strings.Count(c.Tun, "%d") > 1 {
		fail("tun", "%q may hold %%d once and no other %%", c.Tun)
	}
	return errs
}

func joinMethods(ms []aaa.Method) string {
	names := make([]string, len(ms))
	for i, m := range ms {
		names[i] = m.String()
	}
	return strings.Join(names, ", ")
}

// Preflight asks the machine whether serve can start: the interfaces are
// there, the secrets can be read. It changes nothing.
func (c *Config) Preflight() error {
	errs := c.Common.preflight()
	if nic := c.insideInterface(); nic != "" {
		if _, err := net.InterfaceByName(nic); err != nil {
			errs = append(errs, c.fault("inside", "no interface %q%s", nic, interfaces()))
		}
	}
	if c.UsesSecrets() {
		if _, err := aaa.Load(c.Secrets, c.AllowWorldReadableSecrets); err != nil {
			errs = append(errs, c.fault("secrets", "%s", err))
		}
	}
	errs = append(errs, c.preflightRadius()...)
	return errors.Join(errs...)
}

// Preflight is the same for dial.
func (d *Dial) Preflight() error {
	errs := d.Common.preflight()
	if _, err := d.Password(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Password reads the password file: its first line, without the line end.
func (d *Dial) Password() (aaa.Secret, error) {
	secret, err := firstLine(d.PasswordFile, d.AllowWorldReadableSecrets)
	if err != nil {
		return secret, d.fault("password-file", "%s", err)
	}
	return secret, nil
}

func (c *Common) preflight() (errs []error) {
	for _, name := range c.Outside {
		if _, err := net.InterfaceByName(name); err != nil {
			errs = append(errs, c.fault("outside", "no interface %q%s", name, interfaces()))
		}
	}
	if usable, err := hwprofile.UsableCPUs(hwprofile.Live()); err == nil {
		for _, n := range c.CPUs {
			if !usable.Has(n) {
				errs = append(errs, c.fault("cpus", "core %d is not one of those this process may use: %s", n, usable))
			}
		}
	}
	if c.Profiles != "" {
		if _, err := hwprofile.LoadProfiles(c.Profiles); err != nil {
			errs = append(errs, c.fault("tune-profiles", "%s", err))
		}
	}
	return errs
}

func interfaces() string {
	all, err := net.Interfaces()
	if err != nil || len(all) == 0 {
		return ""
	}
	names := make([]string, 0, len(all))
	for _, i := range all {
		names = append(names, i.Name)
	}
	return fmt.Sprintf(": there are %s", strings.Join(names, ", "))
}
