package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"xpptp/control/config"
	"xpptp/control/sock"
	"xpptp/control/stress"
	"xpptp/control/stress/report"
)

// stressInNamespaces tells a stress --lab that it runs in namespaces of its own.
const stressInNamespaces = "XPPTP_STRESS_IN_NAMESPACES"

// allowed is the value of --allow.
type allowed []netip.Prefix

func (a *allowed) Set(s string) error {
	p, err := stress.ParseAllow(s)
	if err == nil {
		*a = append(*a, p)
	}
	return err
}
func (a *allowed) String() string { return "" }
func (a *allowed) Type() string   { return "address" }

func newStressCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "stress",
		Short: "Put a PPTP server under load and measure it",
		Long: `Put a PPTP server under load and measure it: calls by the thousand, begun at an
even rate whatever becomes of those before; traffic through them, every packet
of which is counted; searches for the server's limits. The result says whether
the generator itself had time to spare; if not it is marked invalid.

--lab makes a server to try it on: xpptp serve in a network namespace, on a wire
that leads nowhere else, all gone at the end. Any other server than one on a
loopback address has to be named by --allow too.

The plan is a file of the keys below, or flags, or both. A flag --a-b is the key
b in section a where --print-plan shows it so.

The status is 1 if an expectation did not hold, if the result is not valid, or
if, without expectations, a call failed or was lost.`,
		Example: `  xpptp stress --lab --calls 1000 --rate 500 --duration 5s
  xpptp stress --server 192.0.2.1 --allow 192.0.2.1 --user 'user%d' --password-file pw --calls 100
  xpptp stress --plan plan.yaml --print-plan`,
		Args:    cobra.NoArgs,
		PreRunE: checkWay,
	}
	var allow allowed
	var lab, printPlan bool
	fs := cmd.Flags()
	fs.BoolVar(&lab, "lab", false, "make a server, and a network, for this run alone")
	fs.Var(&allow, "allow", "address or prefix of servers that may be put under load")
	fs.BoolVar(&printPlan, "print-plan", false, "show the whole plan, defaults included, and do nothing")
	out := addOutput(cmd)
	load := config.BindStress(fs)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		plan, err := load()
		if err != nil {
			return usageError(err)
		}
		if printPlan {
			fmt.Fprint(cmd.OutOrStdout(), plan.PlanYAML())
			return nil
		}
		switch {
		case lab && plan.Server != "":
			return usageError(errors.New("--lab: it has a server of its own, and server is set"))
		case !lab && plan.Server == "":
			return usageError(errors.New("server: must be set, or --lab given"))
		case lab && os.Getenv(stressInNamespaces) == "":
			return stressAgain(cmd)
		}
		return runStress(cmd, &stress.Options{Plan: plan, Allow: allow}, lab, out.json())
	}
	return cmd
}

// stressAgain runs the same command in a network namespace of its own.
func stressAgain(cmd *cobra.Command) error {
	own := sock.OwnNetwork
	if len(sock.Missing(sock.SysAdmin)) > 0 {
		own = sock.OwnNamespaces
	}
	return runAgain(cmd, stressInNamespaces, own)
}

func runStress(cmd *cobra.Command, o *stress.Options, lab, asJSON bool) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	// Every call may be a file, and the lab's server inherits the limit.
	if _, err := sock.RaiseNoFile(); err != nil {
		return err
	}
	o.Log = newLogger(cmd.ErrOrStderr(), o.Plan.Log)
	o.Version, o.Command = readVersion().Version, os.Args
	if lab {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		if o.Lab, err = stress.NewLab(ctx, o.Plan, self); err != nil {
			return withRights(err)
		}
		defer func() { _ = o.Lab.Close() }()
	}
	s := &screen{w: cmd.ErrOrStderr()}
	s.width = terminal(s.w)
	o.Progress = func(p stress.Progress) {
		s.progress(fmt.Sprintf("%5.1f s %-8s %d connecting, %d negotiating, %d up, %d closing, %d failed | %.0f calls/s",
			p.Since.Seconds(), p.Phase, p.Calls.Connecting, p.Calls.Negotiating, p.Calls.Up, p.Calls.Closing, p.Calls.Failed, p.Rate))
	}
	r, err := stress.Run(ctx, o)
	s.end()
	var refused *stress.RefusedError
	switch {
	case errors.As(err, &refused):
		return usageError(err)
	case err != nil:
		return withRights(err)
	}
	if asJSON {
		err = writeJSON(cmd.OutOrStdout(), r)
	}
	if err != nil {
		return err
	}
	return verdict(ctx, r)
}

// verdict is the error that a result comes to.
func verdict(ctx context.Context, r *report.Result) error {
	switch {
	case ctx.Err() != nil:
		return errors.New("interrupted")
	case !r.Valid:
		return fmt.Errorf("the result is not valid: %s", r.InvalidReasons[0])
	case r.Calls.Failed+r.Calls.Lost > 0:
		return fmt.Errorf("%d calls failed, %d were lost", r.Calls.Failed, r.Calls.Lost)
	}
	return nil
}

// runAgain runs the same command line in namespaces of its own, and ends as it
// ends; env tells it so.
func runAgain(cmd *cobra.Command, env string, own func(*exec.Cmd)) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	again := exec.Command(self, os.Args[1:]...)
	again.Env = append(os.Environ(), env+"=1")
	again.Stdin, again.Stdout, again.Stderr = os.Stdin, cmd.OutOrStdout(), cmd.ErrOrStderr()
	own(again)
	// A terminal sends ^C to both of us; what is sent to us alone is passed on.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer signal.Stop(signals)
	if err := again.Start(); err != nil {
		return fmt.Errorf("needs root (CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_NET_RAW), or a system that lets users "+
			"make user and network namespaces; this one does not: %w", err)
	}
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		for {
			select {
			case s := <-signals:
				_ = again.Process.Signal(s)
			case <-ended:
				return
			}
		}
	}()
	err = again.Wait()
	var status *exec.ExitError
	if errors.As(err, &status) && status.Exited() {
		return &exitError{code: status.ExitCode()} // it has said why
	}
	return err
}
