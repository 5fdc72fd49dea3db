package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/signal"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"xpptp/control"
	"xpptp/control/aaa"
	"xpptp/control/config"
	"xpptp/control/sock"
)

// shutdownTime bounds the orderly end of all calls.
const shutdownTime = 10 * time.Second

func newServeCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a PPTP concentrator",
		Long: `Run a PPTP concentrator: accept calls, authenticate and encrypt them, and
route their traffic through a TUN device.

SIGINT and SIGTERM end all calls in order; SIGHUP reads the secrets again.`,
		Example: `  xpptp serve --listen 192.0.2.1 --local 10.0.0.1 --pool 10.0.0.10-10.0.0.250 \
      --secrets /etc/xpptp/secrets
  xpptp serve --config /etc/xpptp/xpptp.yaml`,
		Args:    cobra.NoArgs,
		PreRunE: checkWay,
	}
	load := config.BindServe(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := load()
		if err != nil {
			return usageError(err)
		}
		if err := cfg.Preflight(); err != nil {
			return usageError(err)
		}
		log := newLogger(cmd.ErrOrStderr(), cfg.Log)
		store, err := aaa.OpenStore(cfg.Secrets, cfg.AllowWorldReadableSecrets)
		if err != nil {
			return usageError(err)
		}
		box, err := control.NewServer(cfg, aaa.NewLocal(store), log)
		if err != nil {
			return err
		}
		return serve(cmd.Context(), box, store, log)
	}
	return cmd
}

func serve(ctx context.Context, box *control.Box, store *aaa.Store, log *slog.Logger) error {
	ctx, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
	defer stop()
	hup := make(chan struct{}, 1)
	defer onSignal(unix.SIGHUP, hup)()
	if err := box.Start(); err != nil {
		return withRights(err)
	}
	var failed error
	for running := true; running; {
		select {
		case <-hup:
			if err := store.Reload(); err != nil {
				log.Error("secrets not reloaded, the old ones stay", "err", err)
			} else {
				log.Info("secrets reloaded", "users", store.Secrets().Len())
			}
		case failed = <-box.Failed():
			log.Error("stopping", "err", failed)
			running = false
		case <-ctx.Done():
			log.Info("stopping", "calls", box.Calls())
			running = false
		}
	}
	err := shutdown(box.Shutdown, log)
	logCounters(log, box.Snapshot())
	return errors.Join(failed, err)
}

// withRights adds to an error that says "not permitted" what would be needed.
func withRights(err error) error {
	if missing := sock.Missing(sock.NetAdmin, sock.NetRaw); sock.IsPermission(err) && len(missing) > 0 {
		return fmt.Errorf("%w: %v missing: start as root, or with these capabilities", err, missing)
	}
	return err
}

// shutdown ends a box in order; a call that does not end in time is no
// failure of the command.
func shutdown(f func(context.Context) error, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTime)
	defer cancel()
	if err := f(ctx); err != nil {
		log.Warn("stopped", "err", err)
	} else {
		log.Info("stopped")
	}
	return nil
}

// newLogger makes the logger that the settings ask for.
func newLogger(w io.Writer, c config.Log) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		panic(fmt.Sprintf("log level %q passed validation", c.Level))
	}
	opt := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opt))
	}
	return slog.New(slog.NewTextHandler(w, opt))
}
