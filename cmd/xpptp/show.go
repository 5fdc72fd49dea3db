package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"xpptp/control/aaa/radius"
	"xpptp/control/api"
	"xpptp/control/config"
	"xpptp/workers"
)

// askTime bounds one question to a running program.
const askTime = 15 * time.Second

// socketHelp is part of the help of all that ask a running program.
const socketHelp = `It asks a running serve by its control socket, which only root may open; a dial
that has one (control.socket) by --socket.`

// addSocket gives cmd the flag --socket.
func addSocket(cmd *cobra.Command) *string {
	return cmd.PersistentFlags().String("socket", config.DefaultSocket, "control socket of the running program")
}

// style is how a table is shown.
type style struct {
	format  string // table, wide, json
	columns []string
	watch   time.Duration
	socket  *string
}

func (s *style) check() error {
	switch {
	case !slices.Contains([]string{"table", "wide", "json"}, s.format):
		return usageError(fmt.Errorf("-o: %q is none of table, wide, json", s.format))
	case s.format == "json" && len(s.columns) > 0:
		return usageError(errors.New("--columns: not with -o json, which has all"))
	case s.watch != 0 && s.watch < 100*time.Millisecond:
		return usageError(fmt.Errorf("--watch: %v is less than 100ms", s.watch))
	}
	return nil
}

func newShowCmd() *cobra.Command {
	s := &style{}
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show what a running server does",
		Long: `Show what a running server does: its calls, counters, workers, pools, RADIUS
servers and the plan it runs with.

` + socketHelp + `
--watch shows it again and again. -o json is what the socket answers; its keys
are only added, never changed.`,
	}
	f := cmd.PersistentFlags()
	f.StringVarP(&s.format, "output", "o", "table", "table, wide (all columns), or json for programs")
	f.StringSliceVar(&s.columns, "columns", nil, "columns to show, in this order")
	f.DurationVar(&s.watch, "watch", 0, "show it again every so often")
	f.Lookup("watch").NoOptDefVal = "2s"
	s.socket = addSocket(cmd)

	cmd.AddCommand(
		newShowSessions(s),
		s.command("stat", "Totals, and what passed the ports", showStat),
		s.command("drops", "Dropped packets by reason", showDrops),
		s.command("workers", "Where the workers' time goes; wide: by stage", showWorkers),
		s.command("pools", "Client addresses", showPools),
		s.command("radius", "RADIUS servers and accounting", showRadius),
		s.command("plan", "Which worker runs where and what it looks at", showPlan),
	)
	return cmd
}

func (s *style) command(what, short string, show func(io.Writer, *style, []byte) error) *cobra.Command {
	return &cobra.Command{
		Use: what, Short: short, Args: cobra.NoArgs,
		Example: "  xpptp show " + what + "\n  xpptp show " + what + " --watch=5s",
		RunE:    func(cmd *cobra.Command, _ []string) error { return s.run(cmd, what, nil, show) },
	}
}

func newShowSessions(s *style) *cobra.Command {
	q := map[string]*string{}
	cmd := &cobra.Command{
		Use: "sessions", Short: "Calls", Args: cobra.NoArgs,
		Long: "Calls, by user and address. RX is from the client, TX to it; both are IP inside the call.\nColumns: " +
			strings.Join(columnNames(sessionColumns), ", ") + ".",
		Example: `  xpptp show sessions
  xpptp show sessions --user alice -o wide
  xpptp show sessions --columns user,ip,age,rx-bytes,tx-bytes --watch`,
	}
	for _, f := range [][2]string{
		{"user", "of this user"},
		{"ip", "with this address inside"},
		{"peer", "with this address outside"},
		{"call", "with this call ID"},
		{"session", "with this name in accounting"},
	} {
		q[f[0]] = cmd.Flags().String(f[0], "", f[1])
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		v := url.Values{}
		for key, text := range q {
			if *text != "" {
				v.Set(key, *text)
			}
		}
		if _, err := api.ParseSelection(v); err != nil {
			return usageError(fmt.Errorf("--%w", err))
		}
		return s.run(cmd, "sessions", v, showSessions)
	}
	return cmd
}

// run shows it once, or until it is interrupted.
func (s *style) run(cmd *cobra.Command, what string, q url.Values, show func(io.Writer, *style, []byte) error) error {
	if err := s.check(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	c := api.NewClient(*s.socket)
	defer c.Close()
	out := cmd.OutOrStdout()
	for n := 0; ; n++ {
		var raw json.RawMessage
		if err := ask(ctx, func(ctx context.Context) error { return c.Get(ctx, what, q, &raw) }); err != nil {
			if n > 0 && ctx.Err() != nil {
				return nil
			}
			return err
		}
		// All at once, so that a watched table does not flicker.
		var b bytes.Buffer
		if s.format == "json" {
			b.Write(raw)
			b.WriteByte('\n')
		} else if err := show(&b, s, raw); err != nil {
			return err
		}
		switch {
		case s.watch == 0:
		case terminal(out) > 0:
			fmt.Fprintf(out, "\x1b[H\x1b[2J%s  every %v\n\n", time.Now().Format(time.TimeOnly), s.watch)
		case n > 0 && s.format != "json":
			fmt.Fprintln(out)
		}
		if _, err := out.Write(b.Bytes()); err != nil || s.watch == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(s.watch):
		}
	}
}

func ask(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	return f(ctx)
}

// column is one column of a table of Ts.
type column[T any] struct {
	name  string
	wide  bool // only in a wide table
	right bool // aligned to the right: numbers
	text  func(*T) string
}

func columnNames[T any](cs []column[T]) (ns []string) {
	for _, c := range cs {
		ns = append(ns, c.name)
	}
	return ns
}

// table writes rows with the columns that the style asks for.
func table[T any](w io.Writer, s *style, cs []column[T], rows []T) error {
	var use []column[T]
	for _, name := range s.columns {
		i := slices.IndexFunc(cs, func(c column[T]) bool { return c.name == name })
		if i < 0 {
			return usageError(fmt.Errorf("--columns: %q is none of %s", name, strings.Join(columnNames(cs), ", ")))
		}
		use = append(use, cs[i])
	}
	if len(s.columns) == 0 {
		for _, c := range cs {
			if !c.wide || s.format == "wide" {
				use = append(use, c)
			}
		}
	}
	lines := make([][]string, len(rows)+1)
	width := make([]int, len(use))
	for i, c := range use {
		lines[0] = append(lines[0], strings.ToUpper(c.name))
		for r := range rows {
			lines[r+1] = append(lines[r+1], cmp.Or(c.text(&rows[r]), "-"))
		}
		for _, l := range lines {
			width[i] = max(width[i], len([]rune(l[i])))
		}
	}
	for _, l := range lines {
		var b strings.Builder
		for i, text := range l {
			pad := strings.Repeat(" ", width[i]-len([]rune(text)))
			if use[i].right {
				text = pad + text
			} else {
				text += pad
			}
			if i > 0 {
				b.WriteString("  ")
			}
			b.WriteString(text)
		}
		if _, err := fmt.Fprintln(w, strings.TrimRight(b.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}

func decoded[T any](raw []byte) (v T, err error) {
	err = json.Unmarshal(raw, &v)
	return v, err
}

var sessionColumns = []column[api.Session]{
	{name: "user", text: func(s *api.Session) string { return printable(s.User) }},
	{name: "ip", text: func(s *api.Session) string { return addrText(s.IP) }},
	{name: "peer", text: func(s *api.Session) string { return addrText(s.Peer) }},
	{name: "call", right: true, text: func(s *api.Session) string { return fmt.Sprint(s.CallID) }},
	{name: "state", text: func(s *api.Session) string { return s.State }},
	{name: "age", right: true, text: func(s *api.Session) string { return ageText(s.AgeSeconds) }},
	{name: "cipher", text: func(s *api.Session) string { return s.Cipher }},
	{name: "rx-packets", right: true, wide: true, text: func(s *api.Session) string { return fmt.Sprint(s.RxPackets) }},
	{name: "rx-bytes", right: true, text: func(s *api.Session) string { return bytesText(s.RxBytes) }},
	{name: "tx-packets", right: true, wide: true, text: func(s *api.Session) string { return fmt.Sprint(s.TxPackets) }},
	{name: "tx-bytes", right: true, text: func(s *api.Session) string { return bytesText(s.TxBytes) }},
	{name: "drops", right: true, text: func(s *api.Session) string { return fmt.Sprint(s.Drops) }},
	{name: "lost", right: true, wide: true, text: func(s *api.Session) string { return fmt.Sprint(s.Lost) }},
	{name: "reordered", right: true, wide: true, text: func(s *api.Session) string { return fmt.Sprint(s.Reordered) }},
	{name: "duplicate", right: true, wide: true, text: func(s *api.Session) string { return fmt.Sprint(s.Duplicate) }},
	{name: "auth", wide: true, text: func(s *api.Session) string { return s.Auth }},
	{name: "worker", right: true, wide: true, text: func(s *api.Session) string { return fmt.Sprint(s.Worker) }},
	{name: "mtu", right: true, wide: true, text: func(s *api.Session) string { return fmt.Sprint(s.MTU) }},
	{name: "rate-up", right: true, wide: true, text: func(s *api.Session) string { return rateText(s.RateUp) }},
	{name: "rate-down", right: true, wide: true, text: func(s *api.Session) string { return rateText(s.RateDown) }},
	{name: "local-ip", wide: true, text: func(s *api.Session) string { return addrText(s.LocalIP) }},
	{name: "ip6", wide: true, text: func(s *api.Session) string { return addrText(s.IP6) }},
	{name: "local", wide: true, text: func(s *api.Session) string { return addrText(s.Local) }},
	{name: "peer-call", right: true, wide: true, text: func(s *api.Session) string { return fmt.Sprint(s.PeerCallID) }},
	{name: "session", wide: true, text: func(s *api.Session) string { return s.Session }},
}

func showSessions(w io.Writer, s *style, raw []byte) error {
	rows, err := decoded[[]api.Session](raw)
	if err != nil {
		return err
	}
	slices.SortStableFunc(rows, func(a, b api.Session) int {
		return cmp.Or(cmp.Compare(a.User, b.User), a.IP.Compare(b.IP), a.Peer.Compare(b.Peer), cmp.Compare(a.CallID, b.CallID))
	})
	return table(w, s, sessionColumns, rows)
}

var portColumns = []column[api.Port]{
	{name: "port", text: func(p *api.Port) string { return p.Name }},
	{name: "backend", text: func(p *api.Port) string { return p.Backend }},
	{name: "rx-packets", right: true, text: func(p *api.Port) string { return fmt.Sprint(p.RxPackets) }},
	{name: "rx-bytes", right: true, text: func(p *api.Port) string { return bytesText(p.RxBytes) }},
	{name: "rx-dropped", right: true, text: func(p *api.Port) string { return fmt.Sprint(p.RxDropped) }},
	{name: "tx-packets", right: true, text: func(p *api.Port) string { return fmt.Sprint(p.TxPackets) }},
	{name: "tx-bytes", right: true, text: func(p *api.Port) string { return bytesText(p.TxBytes) }},
	{name: "tx-dropped", right: true, text: func(p *api.Port) string { return fmt.Sprint(p.TxDropped) }},
}

func showStat(w io.Writer, s *style, raw []byte) error {
	st, err := decoded[api.Stat](raw)
	if err != nil {
		return err
	}
	for _, line := range [][2]any{
		{"version", st.Version},
		{"pid", st.PID},
		{"up", ageText(st.UptimeSeconds)},
		{"state", st.State},
		{"workers", st.Workers},
		{"calls", st.Calls},
		{"control connections", st.Connections},
		{"calls that came up", st.CallsUp},
		{"failed logins", st.AuthFailures},
		{"refused connections", st.RefusedConnections},
		{"connections from elsewhere", st.Strangers},
		{"protocol errors", st.ProtocolErrors},
		{"packets dropped", st.Drops},
		{"of these in XDP", st.EarlyDrops},
	} {
		fmt.Fprintf(w, "%-27s %v\n", line[0], line[1])
	}
	fmt.Fprintln(w)
	return table(w, s, portColumns, st.Ports)
}

func showDrops(w io.Writer, s *style, raw []byte) error {
	d, err := decoded[api.Drops](raw)
	if err != nil {
		return err
	}
	cs := []column[api.Drop]{
		{name: "reason", text: func(d *api.Drop) string { return d.Reason }},
		{name: "packets", right: true, text: func(d *api.Drop) string { return fmt.Sprint(d.Total) }},
		{name: "xdp", right: true, text: func(d *api.Drop) string { return fmt.Sprint(d.XDP) }},
	}
	if len(d.Reasons) > 0 {
		for i := range d.Reasons[0].Workers {
			cs = append(cs, column[api.Drop]{
				name: fmt.Sprintf("worker-%d", i), wide: true, right: true,
				text: func(d *api.Drop) string { return fmt.Sprint(d.Workers[i]) },
			})
		}
	}
	return table(w, s, cs, d.Reasons)
}

func showWorkers(w io.Writer, s *style, raw []byte) error {
	rows, err := decoded[[]api.Worker](raw)
	if err != nil {
		return err
	}
	cs := []column[api.Worker]{
		{name: "worker", right: true, text: func(w *api.Worker) string { return fmt.Sprint(w.ID) }},
		{name: "cpu", right: true, text: func(w *api.Worker) string { return cpuText(w.CPU) }},
		{name: "calls", right: true, text: func(w *api.Worker) string { return fmt.Sprint(w.Calls) }},
		{name: "busy", right: true, text: func(w *api.Worker) string { return percent(w.BusyNS, w.BusyNS+w.IdleNS) }},
		{name: "rx-packets", right: true, text: func(w *api.Worker) string { rx, _ := w.Packets(); return fmt.Sprint(rx) }},
		{name: "tx-packets", right: true, text: func(w *api.Worker) string { _, tx := w.Packets(); return fmt.Sprint(tx) }},
		{name: "handed-over", right: true, text: func(w *api.Worker) string { return fmt.Sprint(w.HandedOver) }},
		{name: "drops", right: true, text: func(w *api.Worker) string { return fmt.Sprint(w.Drops) }},
		{name: "frames-free", right: true, text: func(w *api.Worker) string { return fmt.Sprintf("%d/%d", w.FramesFree, w.Frames) }},
		{name: "sleeps", right: true, wide: true, text: func(w *api.Worker) string { return fmt.Sprint(w.Sleeps) }},
	}
	for stage := range workers.NumStages {
		name := stage.String()
		cs = append(cs, column[api.Worker]{name: name, wide: true, right: true, text: func(w *api.Worker) string {
			return percent(w.StagesNS[name], w.BusyNS)
		}})
	}
	cs = append(cs, batchColumns("outside", func(w *api.Worker) []uint64 { return w.BatchesOutside[:] })...)
	cs = append(cs, batchColumns("inside", func(w *api.Worker) []uint64 { return w.BatchesInside[:] })...)
	return table(w, s, cs, rows)
}

// batchColumns are how many looks at a side brought so many packets.
func batchColumns(side string, of func(*api.Worker) []uint64) (cs []column[api.Worker]) {
	for i := range workers.BatchBuckets {
		cs = append(cs, column[api.Worker]{
			name: fmt.Sprintf("%s-%d", side, 1<<i), wide: true, right: true,
			text: func(w *api.Worker) string { return fmt.Sprint(of(w)[i]) },
		})
	}
	return cs
}

func showPools(w io.Writer, s *style, raw []byte) error {
	rows, err := decoded[[]api.Pool](raw)
	if err != nil {
		return err
	}
	return table(w, s, []column[api.Pool]{
		{name: "pool", text: func(p *api.Pool) string { return p.Name }},
		{name: "size", right: true, text: func(p *api.Pool) string { return fmt.Sprint(p.Size) }},
		{name: "used", right: true, text: func(p *api.Pool) string { return fmt.Sprint(p.Used) }},
		{name: "free", right: true, text: func(p *api.Pool) string { return fmt.Sprint(p.Free) }},
	}, rows)
}

func showRadius(w io.Writer, s *style, raw []byte) error {
	st, err := decoded[radius.Status](raw)
	if err != nil {
		return err
	}
	count := func(name string, wide bool, of func(*radius.ServerStatus) uint64) column[radius.ServerStatus] {
		return column[radius.ServerStatus]{name: name, wide: wide, right: true, text: func(s *radius.ServerStatus) string { return fmt.Sprint(of(s)) }}
	}
	if err := table(w, s, []column[radius.ServerStatus]{
		{name: "service", text: func(s *radius.ServerStatus) string { return s.Service }},
		{name: "server", text: func(s *radius.ServerStatus) string { return s.Address }},
		{name: "state", text: func(s *radius.ServerStatus) string {
			if s.Alive {
				return "alive"
			}
			return "dead"
		}},
		count("requests", false, func(s *radius.ServerStatus) uint64 { return s.Requests }),
		count("accepts", false, func(s *radius.ServerStatus) uint64 { return s.Accepts }),
		count("rejects", false, func(s *radius.ServerStatus) uint64 { return s.Rejects }),
		count("accounted", false, func(s *radius.ServerStatus) uint64 { return s.Accounted }),
		count("timeouts", false, func(s *radius.ServerStatus) uint64 { return s.Timeouts }),
		count("forged", false, func(s *radius.ServerStatus) uint64 { return s.Forged + s.Unsigned }),
		{name: "latency", right: true, text: func(s *radius.ServerStatus) string { return s.Latency.Round(10 * time.Microsecond).String() }},
		{name: "weight", right: true, wide: true, text: func(s *radius.ServerStatus) string { return fmt.Sprint(s.Weight) }},
		{name: "pending", right: true, wide: true, text: func(s *radius.ServerStatus) string { return fmt.Sprint(s.Pending) }},
		count("challenges", true, func(s *radius.ServerStatus) uint64 { return s.Challenges }),
		count("retransmits", true, func(s *radius.ServerStatus) uint64 { return s.Retransmits }),
		count("deaths", true, func(s *radius.ServerStatus) uint64 { return s.Deaths }),
		count("malformed", true, func(s *radius.ServerStatus) uint64 { return s.Malformed }),
		count("unexpected", true, func(s *radius.ServerStatus) uint64 { return s.Unexpected }),
	}, st.Servers); err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "\nwaiting %d, refused for too many waiting %d\n", st.Waiting, st.Overload)
	return err
}

func showPlan(w io.Writer, s *style, raw []byte) error {
	p, err := decoded[api.Plan](raw)
	if err != nil {
		return err
	}
	fmt.Fprintln(w, p.Text)
	if p.Why != "" {
		fmt.Fprintf(w, "%s: %s\n", p.IO, p.Why)
	}
	if p.Hardware != nil {
		fmt.Fprintf(w, "tuned: %s\n", p.Hardware.Short())
	} else {
		fmt.Fprintln(w, "not tuned: the machine is as it was found")
	}
	fmt.Fprintln(w)
	return table(w, s, []column[api.PlanWorker]{
		{name: "worker", right: true, text: func(w *api.PlanWorker) string { return fmt.Sprint(w.ID) }},
		{name: "cpu", right: true, text: func(w *api.PlanWorker) string { return cpuText(w.CPU) }},
		{name: "ports", text: func(w *api.PlanWorker) string {
			var ports []string
			for _, p := range w.Ports {
				ports = append(ports, fmt.Sprintf("%s:%d (%s)", p.Name, p.Queue, p.Backend))
			}
			return strings.Join(ports, ", ")
		}},
	}, p.Workers)
}

func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// printable is a name that a stranger has chosen.
func printable(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r >= 0x7f && r < 0xa0 || r == 0xfffd }) {
		return fmt.Sprintf("%q", s)
	}
	return s
}

func cpuText(n int) string {
	if n < 0 {
		return "any"
	}
	return fmt.Sprint(n)
}

// ageText is a time in its two largest units.
func ageText(seconds int64) string {
	d, h, m, s := seconds/86400, seconds/3600%24, seconds/60%60, seconds%60
	switch {
	case d > 0:
		return fmt.Sprintf("%dd%02dh", d, h)
	case h > 0:
		return fmt.Sprintf("%dh%02dm", h, m)
	case m > 0:
		return fmt.Sprintf("%dm%02ds", m, s)
	}
	return fmt.Sprintf("%ds", s)
}

func bytesText(n uint64) string { return scaled(n, "B") }

func rateText(n uint64) string {
	if n == 0 {
		return ""
	}
	return scaled(n, "bit/s")
}

// scaled is a number with a prefix of powers of 1000.
func scaled(n uint64, unit string) string {
	if n < 1000 {
		return fmt.Sprintf("%d %s", n, unit)
	}
	v, prefix := float64(n)/1000, 0
	for v >= 999.95 && prefix < len("kMGTPE")-1 {
		v /= 1000
		prefix++
	}
	return fmt.Sprintf("%.1f %c%s", v, "kMGTPE"[prefix], unit)
}
