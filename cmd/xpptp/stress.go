package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"strings"

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

// numbers is the value of --capture-calls.
type numbers []stress.Numbers

func (n *numbers) Set(s string) (err error) {
	*n, err = stress.ParseNumbers(s)
	return err
}

func (n *numbers) String() string {
	words := make([]string, len(*n))
	for i, r := range *n {
		words[i] = r.String()
	}
	return strings.Join(words, ",")
}
func (n *numbers) Type() string { return "numbers" }

// capturing is what of a run is written to a capture.
type capturing struct {
	file    string // "" for none
	calls   numbers
	packets int
}

// with runs something with a capture as wanted.
func (c *capturing) with(o *stress.Options, run func() error) error {
	if c.file == "" {
		return run()
	}
	for _, n := range c.calls {
		if n.Last > o.Plan.Calls {
			return usageError(fmt.Errorf("--capture-calls: %d: the plan has %d calls", n.Last, o.Plan.Calls))
		}
	}
	if c.packets < 1 {
		return usageError(fmt.Errorf("--capture-packets: %d: want at least 1", c.packets))
	}
	f, err := os.Create(c.file)
	if err != nil {
		return err
	}
	o.Capture = &stress.CaptureOptions{To: f, Calls: c.calls, Packets: c.packets}
	err = run()
	if closing := f.Close(); err == nil {
		err = closing
	}
	return err
}

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
  xpptp stress --lab --calls 20 --traffic 100pps --capture calls.pcapng --capture-calls 1-3
  xpptp stress --plan plan.yaml --print-plan`,
		Args:    cobra.NoArgs,
		PreRunE: checkWay,
	}
	var allow allowed
	var lab, printPlan, selfTest bool
	var respond addrPorts
	fs := cmd.Flags()
	fs.BoolVar(&lab, "lab", false, "make a server, and a network, for this run alone")
	fs.Var(&allow, "allow", "address or prefix of servers that may be put under load")
	fs.BoolVar(&printPlan, "print-plan", false, "show the whole plan, defaults included, and do nothing")
	fs.BoolVar(&selfTest, "self-test", false, "measure what the generator itself can do on this machine")
	fs.Var(&respond, "responder", "answer test traffic at this ADDRESS:PORT until stopped, behind the server under test; may be repeated")
	to := outputs{format: addOutput(cmd)}
	fs.StringVar(&to.json, "json", "", "write the result to this `file`, as JSON")
	fs.StringVar(&to.html, "html", "", "write the result to this `file`, as a page with plots")
	fs.Var(&to.expect, "expect", "what must hold for status 0, such as 'loss<0.001%', see xpptp stress metrics; may be repeated")
	dump := capturing{calls: numbers{{First: 1, Last: 1}}}
	fs.StringVar(&dump.file, "capture", "", "write packets of chosen calls to this pcapng `file`: as on the wire, and decrypted")
	fs.Var(&dump.calls, "capture-calls", "whose packets to write, by number from 1, such as 1,7-9")
	fs.IntVar(&dump.packets, "capture-packets", 100_000, "how many packets to write at most")
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
		case selfTest:
			return runSelfTest(cmd, to.format.json())
		case len(respond) > 0:
			return runResponder(cmd, respond, to.format.json())
		case lab && plan.Server != "":
			return usageError(errors.New("--lab: it has a server of its own, and server is set"))
		case !lab && plan.Server == "":
			return usageError(errors.New("server: must be set, or --lab given"))
		case lab && os.Getenv(stressInNamespaces) == "":
			return stressAgain(cmd)
		}
		o := &stress.Options{Plan: plan, Allow: allow}
		return dump.with(o, func() error { return runStress(cmd, o, lab, &to) })
	}
	cmd.AddCommand(newMannersCmd(), newCompareCmd(), newMetricsCmd(), newSchemaCmd())
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

func runStress(cmd *cobra.Command, o *stress.Options, lab bool, to *outputs) error {
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
	w := cmd.ErrOrStderr()
	o.Live = func(p func() report.Progress) func() { return report.Live(w, terminal(w) > 0, p) }
	r, err := stress.Run(ctx, o)
	var refused *stress.RefusedError
	switch {
	case errors.As(err, &refused):
		return usageError(err)
	case err != nil:
		return withRights(err)
	}
	if lab {
		o.Lab.Account(r)
	}
	failed := to.expect.Check(r)
	if err := to.write(cmd.OutOrStdout(), r); err != nil {
		return err
	}
	return verdict(ctx, r, failed)
}

// outputs is where a result goes.
type outputs struct {
	format     *output
	json, html string // files; "" for none
	expect     report.Expects
}

func (o *outputs) write(w io.Writer, r *report.Result) error {
	write := r.WriteText
	if o.format.json() {
		write = r.WriteJSON
	}
	err := write(w)
	for _, f := range []struct {
		path  string
		write func(io.Writer) error
	}{{o.json, r.WriteJSON}, {o.html, r.WriteHTML}} {
		if f.path != "" {
			err = errors.Join(err, writeFile(f.path, f.write))
		}
	}
	return err
}

func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

// verdict is the error that a result comes to; failed is about expectations.
func verdict(ctx context.Context, r *report.Result, failed error) error {
	switch {
	case ctx.Err() != nil:
		return errors.New("interrupted")
	case failed != nil:
		return failed
	case !r.Valid:
		return fmt.Errorf("the result is not valid: %s", strings.Join(r.InvalidReasons, "; "))
	case len(r.Expectations) == 0 && r.Calls.Failed+r.Calls.Lost > 0:
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
	sock.Tied(again) // it ends with us; what we are sent is passed on
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
