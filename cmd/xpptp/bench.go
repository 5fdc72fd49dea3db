package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"xpptp/control/bench"
	"xpptp/control/sock"
	"xpptp/engine/mppe/multi"
	"xpptp/hwprofile"
)

// cpuVariable forces a set of MPPE kernels.
const cpuVariable = "XPPTP_CPU"

// checkWay refuses a name in XPPTP_CPU that this machine does not have.
func checkWay(*cobra.Command, []string) error {
	name := os.Getenv(cpuVariable)
	if name == "" {
		return nil
	}
	if _, err := multi.ParseWay(name); err != nil {
		return usageError(fmt.Errorf("%s: %w", cpuVariable, err))
	}
	return nil
}

func newBenchCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure how fast this machine is",
		Long: `Measure how fast this machine is. What is compared runs in turns, in one run, so
that the ratios hold on a machine that has other work, too.`,
	}
	cmd.AddCommand(newBenchMPPECmd(), newBenchAEADCmd(), newBenchMPPCCmd(), newBenchPathCmd(), newBenchCallsCmd(), newMeasuredServeCmd())
	return cmd
}

func newBenchMPPECmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "mppe",
		Short: "Measure encryption and decryption",
		Long: `Measure MPPE (RFC 3078): the time per packet of each set of kernels, by packet
size and by how many packets are worked on at once, and how many times faster
that is than Go's crypto/rc4 and crypto/sha1 one packet at a time.

Sizes are of what is encrypted, PPP protocol and IP packet; imix is a mix of 64,
576 and 1400 bytes at 7:4:1. "many" is a session for each packet of a batch. With
"keys ahead" the session keys were computed in idle time, as serve and dial do
for busy calls; that time is not counted.

A row of -o json: size (0 for imix), sessions, stateful, bits, direction, way,
batch, ns_per_packet, ns_go, ratio_go, ahead, placement (where it ran).`,
		Example: `  xpptp bench mppe
  xpptp bench mppe --sizes 64,1400 --batches 1,128 --sessions many --ways go,avx512
  xpptp bench mppe --sizes imix --direction receive -o json`,
		Args:    cobra.NoArgs,
		PreRunE: checkWay,
	}
	out := addOutput(cmd)
	f := cmd.Flags()
	sizes := f.StringSlice("sizes", []string{"64", "256", "576", "1400", "imix"}, "packet sizes in bytes, or imix")
	batches := f.IntSlice("batches", []int{1, 2, 4, 8, 16, 32, 64, 128, 256}, "packets at once, 1 to 256")
	ways := f.StringSlice("ways", nil, "kernels to measure (all)")
	sessions := f.StringSlice("sessions", []string{"many", "one"}, "many, five, one")
	bits := f.IntSlice("bits", []int{128}, "key lengths: 40, 56, 128")
	modes := f.StringSlice("mode", []string{"stateless", "ahead", "stateful"}, "stateless, stateful, or ahead: stateless with keys ahead, one session")
	directions := f.StringSlice("direction", []string{bench.Send, bench.Receive}, "send, receive, or kernel: without checks and headers")
	perRow := f.Duration("time", 15*time.Millisecond, "time for each row, up to 10s")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		p := bench.MPPEPlan{Batches: *batches, Sessions: *sessions, Bits: *bits, Directions: *directions, Time: *perRow}
		var err error
		if p.Sizes, err = parseSizes(*sizes); err != nil {
			return usageError(err)
		}
		if p.Ways, err = parseWays(*ways, multi.Ways()); err != nil {
			return usageError(err)
		}
		for _, m := range *modes {
			mode, err := bench.ParseMode(m)
			if err != nil {
				return usageError(fmt.Errorf("--mode: %w", err))
			}
			p.Modes = append(p.Modes, mode)
		}
		if *perRow <= 0 || *perRow > 10*time.Second {
			return usageError(fmt.Errorf("--time: %v is not between 1ns and 10s", *perRow))
		}
		if err := p.Check(); err != nil {
			return usageError(err)
		}
		return benchMPPE(cmd, p, out.json())
	}
	return cmd
}

func benchMPPE(cmd *cobra.Command, p bench.MPPEPlan, asJSON bool) error {
	progress := newBenchProgress(cmd.ErrOrStderr(), p.Rows())
	placement := oneThread()
	if asJSON {
		rows := &jsonRows{w: cmd.OutOrStdout(), placement: placement}
		err := bench.MPPE(p, func(r bench.MPPERow) { rows.add(r); progress.done() })
		progress.end()
		return rows.end(err)
	}
	fmt.Fprintln(cmd.OutOrStdout(), placement)
	t := bench.MPPETable{W: cmd.OutOrStdout()}
	err := bench.MPPE(p, func(r bench.MPPERow) {
		if t.Starts(r) {
			progress.end()
		}
		t.Add(r)
		progress.done()
	})
	progress.end()
	t.End()
	return err
}

func newBenchPathCmd() *cobra.Command {
	var p bench.PathPlan
	cmd := &cobra.Command{
		Use:   "path",
		Short: "Measure the way of a packet through a worker",
		Long: `Measure how many packets a second a worker of serve takes from its outside port
to its inside port (decap) and back (encap), for each backend, without MPPE and
with MPPE of 128 bits, stateless; and how that compares with forwarding from port
to port and nothing else (bare). The ports are on veth pairs in network
namespaces of its own, which are gone at the end; inside and outside port are of
the same backend. The backend mem is memory: the engine without a kernel.

The worker's thread and the one that makes the packets have a processor each, if
there are two. The worker is given packets in blocks, so it always has some
waiting; ns a packet is its thread's time.

Sizes are of the inside IP packet; imix is a mix of 64, 576 and 1400 bytes at
7:4:1. It needs root (CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_NET_RAW).

kernel, ns is what the kernel does to bring a packet to the port, here at the
expense of who sends it: with xsk the XDP program and a copy, with tpacket and raw
the IP stack.

Round trips are of a single packet, all spinning: into a call, back by an inside
that reflects, and out again (rtt), and turned round at the port (rtt-bare).

A row of -o json: io, size (0 for imix), direction (bare, decap, encap, rtt-bare,
rtt), mppe, way (kernels, empty without MPPE), pps, ns_per_packet, ns_kernel,
ratio_bare (of pps; for round trips, of p50_ns), p50_ns (of round trips),
placement (the plan: where worker and generator ran).`,
		Example: `  xpptp bench path
  xpptp bench path --io tpacket,xsk --sizes imix --ways go,avx512 -o json`,
		Args:    cobra.NoArgs,
		PreRunE: checkWay,
	}
	out := addOutput(cmd)
	f := cmd.Flags()
	f.StringSliceVar(&p.IO, "io", bench.Backends, "backends")
	sizes := f.StringSlice("sizes", []string{"64", "imix", "1400"}, "packet sizes in bytes, 40 to 1400, or imix")
	ways := f.StringSlice("ways", nil, "kernels of MPPE (go and the best; with "+cpuVariable+" that)")
	f.IntVar(&p.Calls, "calls", 64, "calls that the packets belong to in turns, up to 1024")
	f.DurationVar(&p.Time, "time", 500*time.Millisecond, "time for each row, up to 60s")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var err error
		if p.Sizes, err = parseSizes(*sizes); err != nil {
			return usageError(err)
		}
		usual := []multi.Way{multi.Best()}
		if os.Getenv(cpuVariable) == "" && multi.Best() != multi.Portable {
			usual = []multi.Way{multi.Portable, multi.Best()}
		}
		if p.Ways, err = parseWays(*ways, usual); err != nil {
			return usageError(err)
		}
		if p.Time <= 0 || p.Time > time.Minute {
			return usageError(fmt.Errorf("--time: %v is not between 1ns and 1m", p.Time))
		}
		if err := p.Check(); err != nil {
			return usageError(err)
		}
		return benchPath(cmd, p, out.json())
	}
	return cmd
}

func benchPath(cmd *cobra.Command, p bench.PathPlan, asJSON bool) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	plan, err := bench.Placement()
	if err != nil {
		return err
	}
	placement := fmt.Sprintf("worker on CPU %d, all else on CPUs %s", plan.Workers[0].CPU, plan.Control)
	if !asJSON {
		fmt.Fprintln(cmd.OutOrStdout(), placement)
	}
	progress := newBenchProgress(cmd.ErrOrStderr(), p.Rows())
	rows := &jsonRows{w: cmd.OutOrStdout(), placement: placement}
	var table []bench.PathRow // of one backend
	var werr error
	show := func() {
		progress.end()
		if len(table) > 0 && werr == nil {
			werr = bench.WritePath(cmd.OutOrStdout(), table)
		}
		table = table[:0]
	}
	err = bench.Path(ctx, p, func(r bench.PathRow) {
		switch {
		case asJSON:
			rows.add(r)
		case len(table) > 0 && table[0].IO != r.IO:
			show()
			fallthrough
		default:
			table = append(table, r)
		}
		progress.done()
	}, func(io string, why error) {
		progress.end()
		fmt.Fprintf(cmd.ErrOrStderr(), "xpptp: %s not measured: %v\n", io, why)
	})
	show()
	if ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	if missing := sock.Missing(sock.SysAdmin, sock.NetAdmin, sock.NetRaw); sock.IsPermission(err) && len(missing) > 0 {
		err = fmt.Errorf("%w: %v missing: start as root, or measure --io mem", err, missing)
	}
	err = errors.Join(err, werr)
	if asJSON {
		return rows.end(err)
	}
	return err
}

// parseSizes reads packet sizes; "imix" is 0.
func parseSizes(names []string) (sizes []int, err error) {
	for _, s := range names {
		n := 0
		if !strings.EqualFold(s, "imix") {
			if n, err = strconv.Atoi(s); err != nil || n <= 0 {
				return nil, fmt.Errorf("--sizes: %q is neither imix nor a number of bytes", s)
			}
		}
		sizes = append(sizes, n)
	}
	return sizes, nil
}

// parseWays reads names of kernels; none means usual.
func parseWays(names []string, usual []multi.Way) ([]multi.Way, error) {
	if len(names) == 0 {
		return usual, nil
	}
	var ways []multi.Way
	for _, name := range names {
		w, err := multi.ParseWay(name)
		if err != nil {
			return nil, fmt.Errorf("--ways: %w", err)
		}
		if !slices.Contains(ways, w) {
			ways = append(ways, w)
		}
	}
	return ways, nil
}

// benchProgress shows on a terminal how far a run is.
type benchProgress struct {
	s       screen
	n, rows int
}

func newBenchProgress(w io.Writer, rows int) *benchProgress {
	return &benchProgress{s: screen{w: w, width: terminal(w)}, rows: rows}
}

func (p *benchProgress) done() {
	p.n++
	if p.s.width > 0 {
		p.s.progress(fmt.Sprintf("%d of %d measured", p.n, p.rows))
	}
}

// end takes the progress off the screen.
func (p *benchProgress) end() {
	if p.s.drawn {
		fmt.Fprint(p.s.w, clearLine)
		p.s.drawn = false
	}
}

// oneThread says where a measurement ran that is a single thread, which the
// kernel places.
func oneThread() string {
	cpus, err := hwprofile.UsableCPUs(hwprofile.Live())
	if err != nil {
		return "one thread, on any CPU"
	}
	return fmt.Sprintf("one thread, on any of CPUs %s", cpus)
}

// jsonRows writes an array, a line for each row as soon as it is there. Every
// row says where it was measured.
type jsonRows struct {
	w         io.Writer
	placement string
	n         int
	err       error
}

func (j *jsonRows) add(row any) {
	b, err := json.Marshal(row)
	if err == nil {
		b = fmt.Appendf(b[:len(b)-1], ",\"placement\":%q}", j.placement)
		sep := ",\n"
		if j.n == 0 {
			sep = "[\n"
		}
		_, err = fmt.Fprintf(j.w, "%s%s", sep, b)
	}
	j.n++
	if j.err == nil {
		j.err = err
	}
}

// end closes the array and returns err, or what went wrong with writing.
func (j *jsonRows) end(err error) error {
	if j.n == 0 {
		fmt.Fprint(j.w, "[")
	}
	_, werr := fmt.Fprintln(j.w, "\n]")
	if j.err == nil {
		j.err = werr
	}
	if err == nil {
		err = j.err
	}
	return err
}
