package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"xpptp/control/config"
	"xpptp/control/demo"
	"xpptp/control/sock"
)

// inNamespaces tells a demo that it runs as root of namespaces of its own.
const inNamespaces = "XPPTP_DEMO_IN_NAMESPACES"

func newDemoCmd() *cobra.Command {
	opt := demo.Options{Calls: 50}
	seconds := 5
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show a server and a client at work",
		Long: `Show a server and a client at work: demo makes two network namespaces with a
wire between them, runs xpptp serve in one and xpptp dial in the other, and
sends UDP packets through every call to the server, which sends them back.
Every packet is counted. The namespaces have no way out, and are gone at the end.

Without root it runs in a user namespace of its own, if the system allows that.

The status is 1 if a call did not come up, or if a packet was lost.`,
		Example: `  xpptp demo
  xpptp demo --calls 200 --seconds 10 -o json`,
		Args:    cobra.NoArgs,
		PreRunE: checkWay,
	}
	out := addOutput(cmd)
	cmd.Flags().IntVar(&opt.Calls, "calls", opt.Calls, fmt.Sprintf("number of calls, up to %d", demo.MaxCalls))
	cmd.Flags().IntVar(&seconds, "seconds", seconds, "time to send for, up to 3600")
	settings := pflag.NewFlagSet("", pflag.ContinueOnError)
	config.BindServe(settings)
	backend := settings.Lookup("io")
	cmd.Flags().AddFlag(backend)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case opt.Calls < 1 || opt.Calls > demo.MaxCalls:
			return usageError(fmt.Errorf("--calls: %d is not between 1 and %d", opt.Calls, demo.MaxCalls))
		case seconds < 1 || seconds > 3600:
			return usageError(fmt.Errorf("--seconds: %d is not between 1 and 3600", seconds))
		}
		opt.IO = backend.Value.String()
		opt.Duration = time.Duration(seconds) * time.Second
		missing := sock.Missing(sock.SysAdmin, sock.NetAdmin, sock.NetRaw)
		if len(missing) > 0 {
			if os.Getenv(inNamespaces) != "" {
				return fmt.Errorf("%v missing even in a user namespace of its own: start as root", missing)
			}
			return demoInNamespaces(cmd)
		}
		return runDemo(cmd, opt, out.json())
	}
	return cmd
}

func runDemo(cmd *cobra.Command, opt demo.Options, asJSON bool) (err error) {
	// Until the end: a second ^C must not leave anything behind either.
	ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	if opt.Program, err = os.Executable(); err != nil {
		return err
	}
	// With -o json standard output is for the report alone.
	s := &screen{w: cmd.OutOrStdout()}
	if asJSON {
		s.w = cmd.ErrOrStderr()
	}
	s.width = terminal(s.w)
	opt.Started = func(where string, command []string) {
		s.line(fmt.Sprintf("%s  $ %s", where, strings.Join(command, " ")))
	}
	opt.Progress = func(p demo.Progress) { s.progress(progressText(p, opt.Calls)) }
	s.line("demo    two network namespaces, joined by a veth pair")
	r, err := demo.Run(ctx, opt)
	s.end()
	switch {
	case ctx.Err() != nil:
		return errors.New("interrupted")
	case sock.IsPermission(err) && os.Getenv(inNamespaces) != "":
		return fmt.Errorf("%w: this system gives users no rights in their own namespaces: start as root", err)
	case err != nil:
		return withRights(err)
	}
	if asJSON {
		err = writeJSON(cmd.OutOrStdout(), r)
	} else {
		err = writeReport(s.w, r)
	}
	if err == nil && !r.OK {
		err = errors.New(strings.Join(r.Faults, "\n"))
	}
	return err
}

func progressText(p demo.Progress, calls int) string {
	text := fmt.Sprintf("%d/%d calls up", p.Up, calls)
	if p.Time == 0 {
		return text
	}
	return fmt.Sprintf("%s | %4.1f s | %d sent, %d echoed, %d lost | %s",
		text, p.Time.Seconds(), p.Counts.Sent, p.Counts.Echoed, p.Counts.Lost, bitRate(p.Rate()))
}

func writeReport(w io.Writer, r *demo.Report) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	fmt.Fprintln(t)
	row("calls up", "%d of %d, all after %.0f ms", r.Up, r.Calls, r.AllUp)
	row("set-up of a call", "min %.1f ms, avg %.1f ms, max %.1f ms", r.Setup.Min, r.Setup.Avg, r.Setup.Max)
	for _, c := range sorted(r.Ciphers) {
		row("cipher", "%s (%d calls)", c, r.Ciphers[c])
	}
	row("packets", "%d sent, %d at the server, %d echoed", r.Sent, r.Arrived, r.Echoed)
	row("", "%d lost, %d damaged, %d duplicated, %d reordered", r.Lost, r.Damaged, r.Duplicate, r.Reordered)
	row("bytes", "%.1f MB in %.1f s, both ways", float64(r.Bytes)/1e6, r.Seconds)
	row("rate", "%s, %.0f packets/s, both ways", bitRate(r.BitRate), r.PacketRate)
	for _, end := range []struct {
		name string
		demo.End
	}{{"server", r.Server}, {"client", r.Client}} {
		row(end.name+" counted", "%d packets from calls, %d into calls", end.RxPackets, end.TxPackets)
		var drops []string
		for _, d := range sorted(end.Drops) {
			drops = append(drops, fmt.Sprintf("%s %d", d, end.Drops[d]))
		}
		if drops == nil {
			drops = []string{"none"}
		}
		row(end.name+" drops", "%s", strings.Join(drops, ", "))
	}
	result := "every packet came back, whole and once"
	if !r.OK {
		result = "FAILED"
	}
	row("result", "%s", result)
	return t.Flush()
}

func sorted[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for n := range m {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

func bitRate(bps float64) string {
	if bps >= 1e9 {
		return fmt.Sprintf("%.2f Gbit/s", bps/1e9)
	}
	return fmt.Sprintf("%.1f Mbit/s", bps/1e6)
}

// screen shows lines, and a last one that is drawn again and again on a
// terminal, or else written anew every second.
type screen struct {
	w     io.Writer
	width int // 0: not a terminal
	drawn bool
	text  string
	next  time.Time
}

const clearLine = "\r\x1b[K"

func (s *screen) line(text string) { fmt.Fprintln(s.w, text) }

func (s *screen) progress(text string) {
	s.text = text
	switch now := time.Now(); {
	case s.width > 0:
		fmt.Fprint(s.w, clearLine+text[:min(len(text), s.width-1)])
		s.drawn = true
	case now.After(s.next):
		s.line(text)
		s.next = now.Add(time.Second)
		s.text = ""
	}
}

// end leaves the last progress on the screen.
func (s *screen) end() {
	switch {
	case s.drawn:
		s.line("")
	case s.text != "":
		s.line(s.text)
	}
}

// terminal returns the width of a terminal, 0 if w is none.
func terminal(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	switch {
	case err != nil:
		return 0
	case size.Col == 0: // it does not know
		return 80
	}
	return int(size.Col)
}

// demoInNamespaces runs the same command as root of its own namespaces, and
// ends as it ends.
func demoInNamespaces(cmd *cobra.Command) error {
	const needs = "needs root (CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_NET_RAW), or a system that lets users "
	tun, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf(needs+"use TUN devices; this one does not: %w", err)
	}
	_ = tun.Close()
	return runAgain(cmd, inNamespaces, sock.OwnNamespaces)
}
