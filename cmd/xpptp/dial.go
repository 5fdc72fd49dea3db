package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"xpptp/control"
	"xpptp/control/config"
)

func newDialCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dial",
		Short: "Call a PPTP server",
		Long: `Call a PPTP server, once or many times, with a TUN device for the traffic.

--default-route sends everything but the call itself through the call, by the
routes 0.0.0.0/1 and 128.0.0.0/1 and a host route to the server; the default
route stays as it is, and IPv6 is not touched. --peer-dns puts the server's name
servers into /etc/resolv.conf, or hands them to systemd-resolved. Both are taken
back when the call ends. If dial was killed, the next one with the same flags
does it; by hand: ip route del SERVER proto 184, and
mv /etc/resolv.conf.before-xpptp /etc/resolv.conf.

--persist calls again, after a pause that grows, until it is stopped.

SIGINT and SIGTERM end the calls in order. Without --persist the command ends
when its last call has ended: with 0 if that was in order, else with 1.`,
		Example: `  xpptp dial --server vpn.example.net --user alice --password-file pw
  xpptp dial --server 192.0.2.1 --user alice --password-file pw --default-route --persist`,
		Args:    cobra.NoArgs,
		PreRunE: checkWay,
	}
	load := config.BindDial(cmd.Flags())
	output := addOutput(cmd)
	stats := cmd.Flags().Bool("stats", false, "say at the end where the workers' time went")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := load()
		if err != nil {
			return usageError(err)
		}
		if err := cfg.Preflight(); err != nil {
			return usageError(err)
		}
		pw, err := cfg.Password()
		if err != nil {
			return usageError(err)
		}
		log := newLogger(cmd.ErrOrStderr(), cfg.Log)
		c, err := control.NewClient(cfg, pw, log)
		if err != nil {
			return err
		}
		if *stats {
			defer func() { reportWorkers(cmd.ErrOrStderr(), log, cfg.Log, c.Snapshot()) }()
		}
		return dial(cmd, cfg, c, output.json(), log)
	}
	return cmd
}

// callJSON is a line of dial -o json.
type callJSON struct {
	Event string           `json:"event"` // up, network, down
	Job   int              `json:"job"`
	Call  control.CallInfo `json:"call"`
	// Reason says why a call is over.
	Reason string `json:"reason,omitempty"`
}

func dial(cmd *cobra.Command, cfg *config.Dial, c *control.Client, asJSON bool, log *slog.Logger) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	events := make(chan control.CallEvent, 4096)
	c.OnEvent(func(e control.CallEvent) {
		select {
		case events <- e:
		default: // nobody reads: the calls matter more
		}
	})
	if err := c.Start(); err != nil {
		return withRights(err)
	}
	op := newOperator()
	if err := op.open(cfg.Control, cfg.Given("control.socket"), false, c.Box, nil, log); err != nil {
		return errors.Join(err, shutdown(c.Shutdown, log))
	}
	enc := json.NewEncoder(cmd.OutOrStdout())
	failures := 0
	show := func(e control.CallEvent) {
		if e.Kind == control.EventDown && !e.Orderly() {
			failures++
		}
		if asJSON {
			_ = enc.Encode(callJSON{Event: e.Kind.String(), Job: e.Call.Job, Call: e.Call, Reason: e.ReasonText()})
		}
	}
	var failed error
	hard := false
loop:
	for {
		select {
		case e := <-events:
			show(e)
		case failed = <-c.Failed():
			log.Error("stopping", "err", failed)
			break loop
		case <-c.Done():
			break loop
		case hard = <-op.stop:
			stop()
			log.Info("stopping", "calls", c.Calls(), "hard", hard)
			break loop
		case <-ctx.Done():
			log.Info("stopping", "calls", c.Calls())
			break loop
		}
	}
	interrupted := ctx.Err() != nil
	op.close(log)
	if hard {
		shutdownHard(c.Box, c.Shutdown, log)
	} else {
		_ = shutdown(c.Shutdown, log)
	}
	logCounters(log, c.Box)
	for len(events) > 0 {
		show(<-events)
	}
	switch {
	case failed != nil:
		return failed
	case failures > 0 && !interrupted:
		return fmt.Errorf("%d calls did not end in order", failures)
	}
	return nil
}
