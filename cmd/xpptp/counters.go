package main

import (
	"log/slog"

	"xpptp/engine"
	"xpptp/workers"
)

// logCounters writes what the workers counted: a line for each, packets that
// were dropped by reason, and what passed its ports.
func logCounters(log *slog.Logger, states []workers.State) {
	for _, s := range states {
		var drops, ports []any
		for d, n := range s.Drops {
			if n > 0 {
				drops = append(drops, slog.Uint64(engine.Drop(d).String(), n))
			}
		}
		for i, p := range s.Stats {
			ports = append(ports, slog.Group(s.Ports[i].Name,
				"rx", p.RxPackets, "tx", p.TxPackets,
				"rx_dropped", p.RxDropped+p.RxNoFrame+p.RxTruncated, "tx_dropped", p.TxDropped+p.TxFull))
		}
		log.Info("counters", "worker", s.ID, slog.Group("drops", drops...), slog.Group("ports", ports...))
	}
}
