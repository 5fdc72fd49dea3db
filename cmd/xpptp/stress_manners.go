package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"xpptp/control/config"
	"xpptp/control/sock"
	"xpptp/control/stress"
	"xpptp/control/stress/manners"
	"xpptp/control/stress/report"
)

func newMannersCmd() *cobra.Command {
	plan := config.DefaultStress()
	opt := manners.Options{Plan: plan}
	cmd := &cobra.Command{
		Use:   "manners [NAME]...",
		Short: "Show that a server puts up with bad clients",
		Long: `Show that a PPTP server puts up with bad clients: malformed and out-of-state
messages, connections that say nothing or read nothing, forged, replayed and
broken GRE. Each scenario is bounded in number and time. Well-behaved calls are
up beside it and carry traffic: a scenario holds if none of them is lost, none
of their packets is lost, another good call comes up afterwards and, with --lab,
the server is alive and has given back what it had opened.

Only servers at a loopback address, in a lab or named by --allow are called. One
that is no xpptp of a lab needs something behind it that sends packets back.
The status is 1 if a scenario does not hold.`,
		Example: `  xpptp stress manners --list
  xpptp stress manners --lab
  xpptp stress manners --lab --time 10s gre-spoofed half-open
  xpptp stress manners --server 192.0.2.1 --allow 192.0.2.1 --user 'user%d' --password-file pw`,
		Args: func(_ *cobra.Command, args []string) error {
			_, err := manners.Find(args)
			return err
		},
	}
	var allow allowed
	var lab, list bool
	fs := cmd.Flags()
	fs.BoolVar(&lab, "lab", false, "make a server, and a network, for this run alone")
	fs.BoolVar(&list, "list", false, "say what the scenarios do and what a good server does, and do nothing")
	fs.StringVar(&plan.Server, "server", "", "server to call: HOST or HOST:PORT")
	fs.Var(&allow, "allow", "address or prefix of servers that may be treated so")
	fs.StringVar(&plan.User, "user", plan.User, "user name of the well-behaved calls; %d is the number of the call")
	fs.StringVar(&plan.PasswordFile, "password-file", "", "file with their password in its first line")
	fs.IntVar(&plan.Calls, "calls", 100, "well-behaved calls beside, 1 to 1000")
	fs.Float64Var(&opt.PPS, "pps", 1000, "packets a second through all of them, 0: none")
	fs.Var((*addressFlag)(&plan.Traffic.Far), "far", "inside address that sends them back, such as that of xpptp stress --responder; none: the server's")
	fs.DurationVar(&opt.Time, "time", time.Second, "length of each scenario")
	fs.IntVar(&plan.Seed, "seed", plan.Seed, "what random choices come from")
	fs.StringVar((*string)(&plan.IO), "io", string(plan.IO), "how packets are moved: auto, xsk, tpacket or raw")
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		scenarios, err := manners.Find(args)
		if err != nil {
			return usageError(err)
		}
		if list {
			return listScenarios(cmd.OutOrStdout(), scenarios, out.json())
		}
		switch {
		case lab && plan.Server != "":
			return usageError(errors.New("--lab: it has a server of its own, and --server is given"))
		case !lab && plan.Server == "":
			return usageError(errors.New("--server or --lab must be given"))
		case !lab && plan.PasswordFile == "":
			return usageError(errors.New("--password-file must be given"))
		case plan.Calls < 1 || plan.Calls > 1000:
			return usageError(fmt.Errorf("--calls: %d is out of range: allowed are 1 to 1000", plan.Calls))
		case !slices.Contains(mannersIO, plan.IO):
			return usageError(fmt.Errorf("--io: %q is none of auto, xsk, tpacket, raw", plan.IO))
		}
		if err := opt.Check(); err != nil {
			return usageError(err)
		}
		if lab && os.Getenv(stressInNamespaces) == "" {
			return stressAgain(cmd)
		}
		opt.Allow = allow
		return runManners(cmd, &opt, scenarios, lab, out.json())
	}
	return cmd
}

// mannersIO are the backends that --io takes.
var mannersIO = []config.IO{config.IOAuto, config.IOXSK, config.IOTpacket, config.IORaw}

// addressFlag is an IPv4 address, or none.
type addressFlag netip.Addr

func (a *addressFlag) Set(s string) error {
	v, err := netip.ParseAddr(s)
	if err != nil || !v.Is4() {
		return fmt.Errorf("%q is not an IPv4 address", s)
	}
	*a = addressFlag(v)
	return nil
}

func (a *addressFlag) String() string {
	if v := netip.Addr(*a); v.IsValid() {
		return v.String()
	}
	return ""
}
func (a *addressFlag) Type() string { return "address" }

func listScenarios(w io.Writer, scenarios []manners.Scenario, asJSON bool) error {
	if asJSON {
		return writeJSON(w, scenarios)
	}
	for _, s := range scenarios {
		lab := ""
		if s.Lab {
			lab = " (with --lab only)"
		}
		fmt.Fprintf(w, "%s%s\n  %s.\n  A good server: %s.\n", s.Name, lab, strings.ToUpper(s.Does[:1])+s.Does[1:], s.Should)
	}
	return nil
}

func runManners(cmd *cobra.Command, o *manners.Options, scenarios []manners.Scenario, lab, asJSON bool) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	if _, err := sock.RaiseNoFile(); err != nil {
		return err
	}
	o.Log = newLogger(cmd.ErrOrStderr(), o.Plan.Log)
	if lab {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		o.Plan.Log.Level = "info" // the server's: it tells its drops at the end
		if o.Lab, err = stress.NewLab(ctx, o.Plan, self); err != nil {
			return withRights(err)
		}
		defer func() { _ = o.Lab.Close() }()
	}
	w := cmd.OutOrStdout()
	failed := 0
	if asJSON { // a line each
		enc := json.NewEncoder(w)
		o.Ended = func(out manners.Outcome) { _ = enc.Encode(out) }
	} else {
		o.Ended = func(out manners.Outcome) { writeOutcome(w, &out) }
	}
	all, err := manners.Run(ctx, o, scenarios)
	var refused *stress.RefusedError
	if errors.As(err, &refused) {
		return usageError(err)
	}
	if lab {
		var r report.Result
		o.Lab.Account(&r)
		for _, n := range r.Notes {
			fmt.Fprintln(cmd.ErrOrStderr(), n)
		}
		if r.InvalidReasons != nil {
			err = errors.Join(err, errors.New(r.InvalidReasons[0]))
		}
	}
	if err != nil {
		return withRights(err)
	}
	for _, out := range all {
		if !out.OK {
			failed++
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d scenarios did not hold", failed, len(all))
	}
	return nil
}

func writeOutcome(w io.Writer, o *manners.Outcome) {
	verdict := "ok"
	switch {
	case o.Skipped != "":
		verdict = "skipped"
	case !o.OK:
		verdict = "FAILED"
	}
	t := tabwriter.NewWriter(w, 22, 0, 2, ' ', 0)
	fmt.Fprintf(t, "%s\t%s", o.Name, verdict)
	if o.Skipped != "" {
		fmt.Fprintf(t, ": %s\n", o.Skipped)
		_ = t.Flush()
		return
	}
	b := &o.Beside
	var bad []string
	for _, c := range []struct {
		n    uint64
		what string
	}{{o.Connections, "connections"}, {o.Messages, "messages"}, {o.Packets, "GRE packets"}, {o.Harmed, "packets harmed"}, {o.Repeated, "packets repeated"}} {
		if c.n > 0 {
			bad = append(bad, fmt.Sprintf("%d %s", c.n, c.what))
		}
	}
	fmt.Fprintf(t, "; %s; beside: %d calls, %d of %d packets; then a call in %.1f ms\n",
		strings.Join(bad, ", "), b.Calls-b.LostCalls, b.Received, b.Sent, o.SetupMS)
	if len(o.Seen) > 0 {
		fmt.Fprintf(t, "\tthe server %s\n", strings.Join(o.Seen, "; "))
	}
	for _, f := range o.Faults {
		fmt.Fprintf(t, "\tFAULT: %s\n", f)
	}
	_ = t.Flush()
}
