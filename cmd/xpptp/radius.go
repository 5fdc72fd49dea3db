package main

import (
	"cmp"
	"context"
	"log/slog"
	"net/netip"
	"time"

	"xpptp/control"
	"xpptp/control/aaa"
	"xpptp/control/aaa/radius"
	"xpptp/control/config"
)

// flushTime bounds the wait for servers that are to have the last accounting
// records.
const flushTime = 10 * time.Second

// newRadius makes the client that the settings describe.
func newRadius(cfg *config.Config, log *slog.Logger) (*radius.Client, error) {
	r := &cfg.Radius
	rc := radius.Config{
		NAS:     nas(cfg),
		Timeout: r.Timeout, Tries: r.Tries, DeadTime: r.DeadTime, Probe: r.Probe,
		Limit: r.Limit, Queue: r.Queue, Records: r.Records, Interim: r.Interim,
	}
	for i := range r.Servers {
		s := &r.Servers[i]
		secret, err := cfg.RadiusSecret(s)
		if err != nil {
			return nil, err
		}
		rc.Servers = append(rc.Servers, radius.Server{
			Auth: s.Auth, Acct: s.Acct, Secret: secret, Weight: s.Weight, Unsigned: s.Unsigned,
		})
	}
	return radius.New(rc, log)
}

func nas(cfg *config.Config) radius.NAS {
	return radius.NAS{Identifier: cmp.Or(cfg.Radius.NASIdentifier, cfg.Name), Address: cfg.Radius.NASAddress}
}

// listenCoA takes Disconnect and CoA requests for the calls of a box, if the
// settings say so. The function it returns ends that.
func listenCoA(cfg *config.Config, box *control.Box, log *slog.Logger) (end func() error, err error) {
	r := &cfg.Radius
	if len(r.CoAListen) == 0 {
		return func() error { return nil }, nil
	}
	clients := make(map[netip.Addr]aaa.Secret)
	for _, a := range r.CoAClients {
		if clients[a], err = cfg.RadiusSecret(nil); err != nil {
			return nil, err
		}
	}
	for i := range r.Servers {
		s := &r.Servers[i]
		if clients[s.Auth.Addr()], err = cfg.RadiusSecret(s); err != nil {
			return nil, err
		}
	}
	l, err := radius.Listen(radius.DynConfig{
		Listen: r.CoAListen[0], Clients: clients, NAS: nas(cfg), Window: r.CoAWindow, AllowUntimed: r.CoAUntimed,
	}, box, log)
	if err != nil {
		return nil, err
	}
	log.Info("listening for Disconnect and CoA requests", "addr", l.Addr().String())
	return l.Close, nil
}

// closeRadius waits, not forever, until the servers know how the calls ended.
func closeRadius(c *radius.Client, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), flushTime)
	defer cancel()
	err := c.Close(ctx)
	if err != nil {
		log.Error("accounting incomplete", "err", err)
	}
	st := c.Status()
	for _, s := range st.Servers {
		log.Info("radius server", "service", s.Service, "server", s.Address, "alive", s.Alive, "requests", s.Requests,
			"retransmits", s.Retransmits, "timeouts", s.Timeouts, "accepts", s.Accepts, "rejects", s.Rejects,
			"accounted", s.Accounted, "forged", s.Forged, "unsigned", s.Unsigned, "latency", s.Latency)
	}
}
