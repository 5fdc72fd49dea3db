package main

import (
	"fmt"
	"io"
	"log/slog"
	"text/tabwriter"

	"xpptp/control"
	"xpptp/control/config"
	"xpptp/engine"
	"xpptp/workers"
)

// logCounters writes what a box counted: a line for each worker, packets that
// were dropped by reason, and what passed its ports; and one for what was
// dropped before it reached a worker.
func logCounters(log *slog.Logger, box *control.Box) {
	for _, s := range box.Snapshot() {
		var ports []any
		for i, p := range s.Stats {
			ports = append(ports, slog.Group(s.Ports[i].Name,
				"rx", p.RxPackets, "tx", p.TxPackets,
				"rx_dropped", p.RxDropped+p.RxNoFrame+p.RxTruncated, "tx_dropped", p.TxDropped+p.TxFull))
		}
		log.Info("counters", "worker", s.ID, dropGroup(&s.Drops), slog.Group("ports", ports...),
			slog.Group("workers", "handed_over", s.Flow.HandedOver, "taken_over", s.Flow.TakenOver))
	}
	if early := box.Early(); early != (engine.Counters{}) {
		log.Info("dropped in XDP", dropGroup(&early))
	}
}

func dropGroup(c *engine.Counters) slog.Attr {
	var drops []any
	for d, n := range c {
		if n > 0 {
			drops = append(drops, slog.Uint64(engine.Drop(d).String(), n))
		}
	}
	return slog.Group("drops", drops...)
}

// reportWorkers writes where the workers' time went: a table beside a log that
// is text, else lines of the log.
func reportWorkers(out io.Writer, log *slog.Logger, format config.Log, states []workers.State) {
	if format.Format != "json" {
		printWorkers(out, states)
		return
	}
	for _, s := range states {
		var stages []any
		for i, ns := range s.Time.Stages {
			stages = append(stages, slog.Int64(workers.Stage(i).String(), ns))
		}
		log.Info("times", "worker", s.ID, "busy_ns", s.Time.Busy, "idle_ns", s.Time.Idle, slog.Group("stages_ns", stages...),
			slog.Group("batches", "outside", s.Batches.Outside, "inside", s.Batches.Inside))
	}
}

// printWorkers writes where the workers' time went, and what batches they
// found, as a table.
func printWorkers(out io.Writer, states []workers.State) {
	if len(states) == 0 {
		return
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	head := "worker\tcalls\tpackets in\tout\thanded over\tbusy\t"
	for s := range workers.NumStages {
		head += s.String() + "\t"
	}
	fmt.Fprintln(w, head)
	for _, s := range states {
		var rx, tx uint64
		for _, p := range s.Stats {
			rx, tx = rx+p.RxPackets, tx+p.TxPackets
		}
		fmt.Fprintf(w, "%d\t%d\t%d\t%d\t%d\t%s\t", s.ID, s.Sessions, rx, tx, s.Flow.HandedOver, percent(s.Time.Busy, s.Time.Busy+s.Time.Idle))
		for _, ns := range s.Time.Stages {
			fmt.Fprintf(w, "%s\t", percent(ns, s.Time.Busy))
		}
		fmt.Fprintln(w)
	}
	_ = w.Flush()
	head = "batches of\t"
	for i := range workers.BatchBuckets {
		head += fmt.Sprintf("%d\t", 1<<i)
	}
	fmt.Fprintln(w, "\n"+head)
	for _, s := range states {
		for _, side := range []struct {
			name  string
			count [workers.BatchBuckets]uint64
		}{{"outside", s.Batches.Outside}, {"inside", s.Batches.Inside}} {
			fmt.Fprintf(w, "%d %s\t", s.ID, side.name)
			for _, n := range side.count {
				fmt.Fprintf(w, "%d\t", n)
			}
			fmt.Fprintln(w)
		}
	}
	_ = w.Flush()
}

func percent(part, whole int64) string {
	if whole <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f%%", 100*float64(part)/float64(whole))
}
