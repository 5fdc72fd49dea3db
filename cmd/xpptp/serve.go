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
	"xpptp/control/aaa/radius"
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

--inside IFACE moves packets between calls and a network interface past the
kernel, by AF_XDP, along the kernel's routes and neighbours; calls whose
addresses are in the interface's own network are answered for (ARP, Neighbor
Discovery). Everything else goes through the TUN device as before: to and from
this host and its other interfaces, packets that are too large, and the first
ones to a neighbour, for which the kernel must forward (net.ipv4.ip_forward=1).

SIGINT and SIGTERM end all calls in order; SIGHUP reads the secrets again.
xpptp show, terminate, drain, shutdown and reload operate it by its control
socket.`,
		Example: `  xpptp serve --listen 192.0.2.1 --local 10.0.0.1 --pool 10.0.0.10-10.0.0.250 \
      --secrets /etc/xpptp/secrets
  xpptp serve --inside eth1 --local 10.0.0.1 --pool 10.0.0.10-10.0.0.250 --secrets secrets
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
		s := &server{log: log}
		auth, err := s.open(cfg)
		if err != nil {
			return usageError(err)
		}
		if s.box, err = control.NewServer(cfg, auth, log); err != nil {
			return err
		}
		defer func() { reportWorkers(cmd.ErrOrStderr(), log, cfg.Log, s.box.Snapshot()) }()
		return s.run(cmd.Context(), cfg)
	}
	return cmd
}

// server is a concentrator with what it asks about users.
type server struct {
	log    *slog.Logger
	box    *control.Box
	store  *aaa.Store     // nil: users are not from a file
	radius *radius.Client // nil: there are no servers
}

// open opens what users are authenticated by.
func (s *server) open(cfg *config.Config) (aaa.Authenticator, error) {
	var err error
	if cfg.UsesSecrets() {
		if s.store, err = aaa.OpenStore(cfg.Secrets, cfg.AllowWorldReadableSecrets); err != nil {
			return nil, err
		}
	}
	if len(cfg.Radius.Servers) > 0 {
		if s.radius, err = newRadius(cfg, s.log); err != nil {
			return nil, err
		}
	}
	var sources []aaa.Authenticator
	for _, src := range cfg.AuthSource {
		if src == config.AuthRadius {
			sources = append(sources, s.radius)
		} else {
			sources = append(sources, aaa.NewLocal(s.store))
		}
	}
	return aaa.Chain(sources...), nil
}

func (s *server) run(ctx context.Context, cfg *config.Config) error {
	ctx, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
	defer stop()
	hup := make(chan struct{}, 1)
	defer onSignal(unix.SIGHUP, hup)()
	box, log := s.box, s.log
	op := newOperator()
	accounting := s.radius != nil && cfg.Radius.Accounting
	if accounting {
		box.SetAccounting(s.radius)
	}
	if err := box.Start(); err != nil {
		return withRights(err)
	}
	coa, err := listenCoA(cfg, box, log)
	if err != nil {
		return errors.Join(withRights(err), shutdown(box.Shutdown, log))
	}
	if accounting {
		s.radius.On()
	}
	if err := op.open(cfg.Control, cfg.Given("control.socket"), true, box, s.radius, log); err != nil {
		_ = coa()
		err = errors.Join(err, shutdown(box.Shutdown, log))
		if s.radius != nil {
			closeRadius(s.radius, log)
		}
		return err
	}
	var failed error
	hard := false
	for running := true; running; {
		select {
		case <-hup:
			_ = s.reload()
		case done := <-op.reload:
			done <- s.reload()
		case hard = <-op.stop:
			log.Info("stopping", "calls", box.Calls(), "hard", hard)
			running = false
		case <-box.Drained():
			if running = !box.Draining() || box.Calls() > 0; !running {
				log.Info("stopping: the last call is over")
			}
		case failed = <-box.Failed():
			log.Error("stopping", "err", failed)
			running = false
		case <-ctx.Done():
			log.Info("stopping", "calls", box.Calls())
			running = false
		}
	}
	op.close(log)
	_ = coa()
	if hard {
		shutdownHard(box, box.Shutdown, log)
	} else {
		err = shutdown(box.Shutdown, log)
	}
	if s.radius != nil {
		closeRadius(s.radius, log)
	}
	logCounters(log, box)
	return errors.Join(failed, err)
}

// reload reads the secrets again. With an error the old ones stay.
func (s *server) reload() error {
	if s.store == nil {
		return nil
	}
	if err := s.store.Reload(); err != nil {
		s.log.Error("secrets not reloaded, the old ones stay", "err", err)
		return fmt.Errorf("secrets not reloaded, the old ones stay: %w", err)
	}
	s.log.Info("secrets reloaded", "users", s.store.Secrets().Len())
	return nil
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
