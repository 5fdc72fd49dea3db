package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"xpptp/control/bench"
	"xpptp/engine/mppe/multi"
)

func newBenchMPPCCmd() *cobra.Command {
	var p bench.MPPCPlan
	cmd := &cobra.Command{
		Use:   "mppc",
		Short: "Measure compression and decompression",
		Long: `Measure MPPC (RFC 2118): how much smaller packets become and the time per packet,
beside that of MPPE of 128 bits, stateless, with the kernels that this machine
does best with (XPPTP_CPU forces others), and of a copy.

The packets of one call follow one another and carry text, zeros, random bytes, or
text with every fourth packet random (mixed). What does not become smaller is sent
as it is. Sizes are of what is compressed, PPP protocol and IP packet; imix is a
mix of 64, 576 and 1400 bytes at 7:4:1. MB/s are of what is not compressed.

A row of -o json: size (0 for imix), corpus, direction, ratio, ns_per_packet,
mb_per_s, ns_mppe, ns_copy, way (kernels of MPPE), placement (where it ran).`,
		Example: `  xpptp bench mppc
  xpptp bench mppc --corpora text --sizes 576,1400 --direction compress -o json`,
		Args:    cobra.NoArgs,
		PreRunE: checkWay,
	}
	out := addOutput(cmd)
	f := cmd.Flags()
	f.StringSliceVar(&p.Corpora, "corpora", bench.Corpora(), "what the packets carry")
	sizes := f.StringSlice("sizes", []string{"64", "imix", "1400"}, "packet sizes in bytes, or imix")
	f.StringSliceVar(&p.Directions, "direction", []string{bench.Compress, bench.Decompress}, "compress, decompress")
	f.DurationVar(&p.Time, "time", 100*time.Millisecond, "time for each row, up to 10s")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var err error
		if p.Sizes, err = parseSizes(*sizes); err != nil {
			return usageError(err)
		}
		if p.Time <= 0 || p.Time > 10*time.Second {
			return usageError(fmt.Errorf("--time: %v is not between 1ns and 10s", p.Time))
		}
		if err := p.Check(); err != nil {
			return usageError(err)
		}
		p.Way = multi.Best()
		return benchMPPC(cmd, p, out.json())
	}
	return cmd
}

func benchMPPC(cmd *cobra.Command, p bench.MPPCPlan, asJSON bool) error {
	progress := newBenchProgress(cmd.ErrOrStderr(), p.Rows())
	placement := oneThread()
	if asJSON {
		rows := &jsonRows{w: cmd.OutOrStdout(), placement: placement}
		err := bench.MPPC(p, func(r bench.MPPCRow) { rows.add(r); progress.done() })
		progress.end()
		return rows.end(err)
	}
	var rows []bench.MPPCRow
	err := bench.MPPC(p, func(r bench.MPPCRow) { rows = append(rows, r); progress.done() })
	progress.end()
	if err != nil {
		return err
	}
	fmt.Fprintln(cmd.OutOrStdout(), placement)
	return bench.WriteMPPC(cmd.OutOrStdout(), rows)
}
