package main

import (
	"context"
	"log/slog"
	"time"

	"xpptp/control"
	"xpptp/control/aaa/radius"
	"xpptp/control/api"
	"xpptp/control/config"
)

// hardTime is what is left for the end of calls that are not asked.
const hardTime = time.Second

// operator is the way from the control socket into a running serve or dial.
type operator struct {
	server *api.Server     // nil: there is no socket
	stop   chan bool       // true: hard
	reload chan chan error // each is told how it went
}

func newOperator() *operator {
	return &operator{stop: make(chan bool, 1), reload: make(chan chan error)}
}

// open makes the socket for a box that has started. A socket that nobody has
// asked for and that cannot be is no reason not to run.
func (o *operator) open(c config.Control, given, serves bool, box *control.Box, r *radius.Client, log *slog.Logger) error {
	log.Info("placement", "text", box.Setup().String())
	if c.Socket == "" {
		return nil
	}
	v := readVersion()
	opt := api.Options{Box: box, Radius: r, Version: v, Name: v.Version, Log: log, Stop: func(hard bool) {
		select {
		case o.stop <- hard:
		default: // it is on its way
		}
	}}
	if serves {
		opt.Drains, opt.Reload = true, o.ask
	}
	var err error
	if o.server, err = api.Serve(c.Socket, opt); err == nil {
		log.Info("listening for the operator", "socket", c.Socket)
		return nil
	}
	if given {
		return err
	}
	log.Warn("no control socket", "err", err)
	return nil
}

// ask has the command reload, and waits.
func (o *operator) ask(ctx context.Context) error {
	done := make(chan error, 1)
	select {
	case o.reload <- done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// close takes the socket away: nobody looks at the box from then on.
func (o *operator) close(log *slog.Logger) {
	if o.server == nil {
		return
	}
	if err := o.server.Close(); err != nil {
		log.Warn("control socket", "err", err)
	}
}

// shutdownHard ends a box and its calls without asking peers.
func shutdownHard(box *control.Box, end func(context.Context) error, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), hardTime)
	defer cancel()
	if n, err := box.Terminate(ctx, control.Selection{}, true); err == nil {
		log.Info("calls ended at once", "calls", n)
	}
	if err := end(ctx); err != nil {
		log.Warn("stopped", "err", err)
	} else {
		log.Info("stopped")
	}
}
