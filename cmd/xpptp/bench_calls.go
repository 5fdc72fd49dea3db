package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"xpptp/control/bench"
	"xpptp/control/config"
	"xpptp/control/sock"
)

// benchInNamespaces tells a bench calls that it runs in namespaces of its own.
const benchInNamespaces = "XPPTP_BENCH_IN_NAMESPACES"

// measuredServe is the hidden command that bench calls starts its server with.
const measuredServe = "serve-measured"

func newBenchCallsCmd() *cobra.Command {
	p := bench.CallsPlan{Args: []string{"bench", measuredServe}}
	cmd := &cobra.Command{
		Use:   "calls",
		Short: "Measure what calls take: memory, and time to set them up",
		Long: `Measure what calls take: brings up many calls (MS-CHAPv2, MPPE of 128 bits) to
an xpptp serve of its own, each with a control connection, looks at what that
server has got for them, ends them, and looks at what it has left. All happens
in network namespaces of its own, which are gone at the end.

Time: from the TCP connection to an address inside, with --at-once calls on their
way at any time; for each tenth of the calls, so that one sees whether it grows
with the number of calls.

Memory, in bytes a call: what the server's process grew by, garbage included
(resident), and all it has (whole process); of that, what is in use (heap) and
stacks of goroutines; what the kernel has for one end of a connection, with what
else this machine did; and what a call is to a worker, measured on its own, with
--state-calls idle calls in its tables.

A connection is an open file. The limit is raised as far as the system lets us;
if that is not enough, some connections carry a second call.

Without root it runs in a user namespace of its own, if the system allows that.
The status is 1 if a call failed or was lost, or if something was not given back.`,
		Example: `  xpptp bench calls
  xpptp bench calls --calls 1000 --at-once 1 -o json`,
		Args:    cobra.NoArgs,
		PreRunE: checkWay,
	}
	out := addOutput(cmd)
	f := cmd.Flags()
	f.IntVar(&p.Calls, "calls", 20_000, "calls to bring up")
	f.IntVar(&p.PerConnection, "calls-per-connection", 1, "calls on each control connection")
	f.IntVar(&p.AtOnce, "at-once", 32, "calls that are being set up, or ended, at the same time")
	settings := pflag.NewFlagSet("", pflag.ContinueOnError)
	config.BindServe(settings)
	backend := settings.Lookup("io")
	f.AddFlag(backend)
	f.IntVar(&p.StateCalls, "state-calls", 100_000, "idle calls in the tables of a worker")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := p.Check(); err != nil {
			return usageError(err)
		}
		p.IO = backend.Value.String()
		if os.Getenv(benchInNamespaces) == "" {
			own := sock.OwnNetwork
			if len(sock.Missing(sock.SysAdmin)) > 0 {
				own = sock.OwnNamespaces
			}
			return runAgain(cmd, benchInNamespaces, own)
		}
		return benchCalls(cmd, p, out.json())
	}
	return cmd
}

func benchCalls(cmd *cobra.Command, p bench.CallsPlan, asJSON bool) (err error) {
	ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	if p.Program, err = os.Executable(); err != nil {
		return err
	}
	s := &screen{w: cmd.ErrOrStderr(), width: terminal(cmd.ErrOrStderr())}
	r, err := bench.Calls(ctx, p, func(up int) { s.progress(fmt.Sprintf("%d/%d calls up", up, p.Calls)) })
	s.end()
	switch {
	case ctx.Err() != nil:
		return errors.New("interrupted")
	case err != nil:
		return withRights(err)
	}
	if asJSON {
		err = writeJSON(cmd.OutOrStdout(), r)
	} else {
		err = writeCalls(cmd.OutOrStdout(), r)
	}
	switch {
	case err != nil:
		return err
	case r.Failed > 0:
		return fmt.Errorf("%d calls failed or were lost", r.Failed)
	case !r.Left.Clean():
		return errors.New("the server has not given back everything")
	}
	return nil
}

func writeCalls(w io.Writer, r *bench.CallsReport) error {
	fmt.Fprintf(w, "%d calls on %d control connections; addresses of clients: %d, %s, files that may be open: %d\n",
		r.Calls, r.Connections, r.Sources, r.IO, r.Files)
	fmt.Fprintln(w, r.Placement)
	fmt.Fprintf(w, "%d up after %.1f s, %.0f a second; %d failed", r.Up, r.Seconds, r.PerSecond, r.Failed)
	for _, cause := range sorted(r.Failures) {
		fmt.Fprintf(w, ", %s %d", cause, r.Failures[cause])
	}
	fmt.Fprint(w, "\n\n")

	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "calls\tset up a second\tmedian ms\t99 % ms\tslowest ms\t")
	last := 0
	for _, p := range r.Tenths {
		first := last + 1
		last += p.Calls
		fmt.Fprintf(t, "%d-%d\t%.0f\t%.2f\t%.2f\t%.2f\t\n", first, last, p.PerSecond, p.MedianMS, p.P99MS, p.MaxMS)
	}
	if err := t.Flush(); err != nil {
		return err
	}

	m := &r.Memory
	fmt.Fprintln(t, "\nmemory at the server\tbytes a call\t")
	for _, row := range []struct {
		name  string
		bytes float64
	}{
		{"process, by growth", m.Resident},
		{"of that, heap in use", m.Heap},
		{"of that, goroutine stacks", m.Stacks},
		{"whole process", m.Whole},
		{"kernel, an end of a connection", m.Kernel},
		{fmt.Sprintf("at a worker, with %d idle calls", m.StateCalls), m.State},
	} {
		fmt.Fprintf(t, "%s\t%.0f\t\n", row.name, row.bytes)
	}
	if err := t.Flush(); err != nil {
		return err
	}

	l := &r.Left
	var left []string
	for _, v := range []struct {
		n    int
		what string
	}{
		{l.Calls, "calls"},
		{l.Connections, "connections"},
		{l.Sessions, "sessions"},
		{l.Addresses, "addresses"},
		{l.Routes, "routes"},
		{l.Interfaces, "interfaces"},
		{l.Files, "files"},
		{l.Goroutines, "goroutines"},
	} {
		left = append(left, fmt.Sprintf("%d %s", v.n, v.what))
	}
	_, err := fmt.Fprintf(w, "\nall over after %.1f s; left at the server: %s; %.1f MB of heap\n",
		r.EndSeconds, strings.Join(left, ", "), float64(l.HeapBytes)/1e6)
	return err
}

// newMeasuredServeCmd is serve that tells what memory it uses, at SIGUSR1.
func newMeasuredServeCmd() *cobra.Command {
	return &cobra.Command{
		Use:                measuredServe,
		Short:              "Run serve, and write what memory it uses at SIGUSR1",
		Example:            "  xpptp bench " + measuredServe + " --local 10.0.0.1 --pool 10.0.0.10-20 --secrets secrets",
		Hidden:             true,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			asked := make(chan os.Signal, 1)
			signal.Notify(asked, unix.SIGUSR1)
			defer signal.Stop(asked)
			out := json.NewEncoder(cmd.OutOrStdout())
			go func() {
				for range asked {
					var m runtime.MemStats
					runtime.GC()
					runtime.GC() // what the first found in caches
					runtime.ReadMemStats(&m)
					_ = out.Encode(bench.ServeMemory{Heap: m.HeapAlloc, Stacks: m.StackInuse, Goroutines: runtime.NumGoroutine()})
				}
			}()
			status := run(append([]string{"serve"}, args...), cmd.OutOrStdout(), cmd.ErrOrStderr())
			if status == exitOK {
				return nil
			}
			return &exitError{code: status} // it has said why
		},
	}
}
