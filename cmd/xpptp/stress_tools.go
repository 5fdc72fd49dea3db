package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os/signal"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"xpptp/control/stress/load"
	"xpptp/control/stress/responder"
)

// addrPorts is the value of --responder.
type addrPorts []netip.AddrPort

func (a *addrPorts) Set(s string) error {
	p, err := netip.ParseAddrPort(s)
	if err != nil || p.Port() == 0 {
		return fmt.Errorf("%q is not an address and a port such as 10.0.0.1:%d or [fd00::1]:%[2]d", s, load.DefaultPort)
	}
	*a = append(*a, p)
	return nil
}

func (a *addrPorts) String() string {
	words := make([]string, len(*a))
	for i, p := range *a {
		words[i] = p.String()
	}
	return strings.Join(words, ",")
}
func (a *addrPorts) Type() string { return "address:port" }

// runResponder answers test traffic until it is stopped.
func runResponder(cmd *cobra.Command, listen []netip.AddrPort, asJSON bool) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	r, err := responder.Open(responder.Config{Listen: listen})
	if err != nil {
		return err
	}
	for _, a := range listen {
		fmt.Fprintf(cmd.ErrOrStderr(), "answering at %v\n", a)
	}
	err = r.Run(ctx)
	s := r.Stats()
	if asJSON {
		return errors.Join(err, writeJSON(cmd.OutOrStdout(), s))
	}
	fmt.Fprintf(cmd.OutOrStdout(), "received %d, echoed %d, counted %d, sent %d on %d requests, %d damaged, %d foreign, %d unsent\n",
		s.Received, s.Echoed, s.Counted, s.Sent, s.Requests, s.Corrupted, s.Foreign, s.Unsent)
	return err
}

// runSelfTest measures the generator against a sink.
func runSelfTest(cmd *cobra.Command, asJSON bool) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	r, err := load.SelfTest(ctx, load.SelfTestConfig{})
	switch {
	case ctx.Err() != nil:
		return errors.New("interrupted")
	case err != nil:
		return withRights(err)
	case asJSON:
		return writeJSON(cmd.OutOrStdout(), r)
	}
	t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "packets of %d bytes, %d calls\t per second of processor\t of the first\t\n", r.Size, r.Calls)
	fmt.Fprintf(t, "bare AF_XDP transmitter\t %.0f\t\t\n", r.Bare)
	fmt.Fprintf(t, "generator alone\t %.0f\t %.0f %%\t\n", r.Generator, r.GeneratorRatio*100)
	fmt.Fprintf(t, "through calls, no MPPE\t %.0f\t %.0f %%\t\n", r.Calling, r.CallingRatio*100)
	fmt.Fprintf(t, "through calls, MPPE of 128 bits\t %.0f\t %.0f %%\t\n", r.MPPE, r.MPPE/max(r.Bare, 1)*100)
	fmt.Fprintln(t)
	fmt.Fprintln(t, "asked/s\t sent/s\t off\t late\t skipped\t late p50 us\t p99 us\t jitter p50 us\t p99 us\t max us\t")
	for i := range r.Pacing {
		p := &r.Pacing[i]
		fmt.Fprintf(t, "%.0f\t %.0f\t %+.2f %%\t %d\t %d\t %.1f\t %.1f\t %.1f\t %.1f\t %.1f\t\n",
			p.Asked, p.Achieved, p.Error()*100, p.Late, p.Skipped, p.LateP50, p.LateP99, p.Jitter50, p.Jitter99, p.JitterMax)
	}
	return t.Flush()
}
