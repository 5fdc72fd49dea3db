package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"xpptp/control/bench"
	"xpptp/engine/aead"
	"xpptp/engine/mppe/multi"
)

func newBenchAEADCmd() *cobra.Command {
	var p bench.AEADPlan
	cmd := &cobra.Command{
		Use:   "aead",
		Short: "Measure the ciphers for calls between two xpptp",
		Long: `Measure AES-256-GCM and ChaCha20-Poly1305, as calls between two xpptp use them:
the time per packet, and how many times as fast that is as MPPE of 128 bits,
stateless, with the kernels that this machine does best with (XPPTP_CPU forces
others). A batch has a packet for each of many calls.

Sizes are of what is encrypted, PPP protocol and IP packet; imix is a mix of 64,
576 and 1400 bytes at 7:4:1.

A row of -o json: size (0 for imix), cipher, direction, batch, ns_per_packet,
bps, ratio_mppe, way (kernels of MPPE), placement (where it ran).`,
		Example: `  xpptp bench aead
  xpptp bench aead --ciphers aes-256-gcm --sizes 64,1400 -o json`,
		Args:    cobra.NoArgs,
		PreRunE: checkWay,
	}
	out := addOutput(cmd)
	f := cmd.Flags()
	ciphers := f.StringSlice("ciphers", nil, "ciphers to measure beside MPPE (all)")
	sizes := f.StringSlice("sizes", []string{"64", "imix", "1400"}, "packet sizes in bytes, or imix")
	f.IntVar(&p.Batch, "batch", 128, "packets at once, 1 to 256")
	f.StringSliceVar(&p.Directions, "direction", []string{bench.Send, bench.Receive}, "send, receive")
	f.DurationVar(&p.Time, "time", 100*time.Millisecond, "time for each row, up to 10s")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var err error
		if p.Sizes, err = parseSizes(*sizes); err != nil {
			return usageError(err)
		}
		for _, name := range *ciphers {
			suite, err := aead.ParseSuite(name)
			if err != nil {
				return usageError(fmt.Errorf("--ciphers: %w", err))
			}
			p.Suites = append(p.Suites, suite)
		}
		if p.Batch < 1 {
			return usageError(fmt.Errorf("--batch: %d is not between 1 and 256", p.Batch))
		}
		if p.Time <= 0 || p.Time > 10*time.Second {
			return usageError(fmt.Errorf("--time: %v is not between 1ns and 10s", p.Time))
		}
		if err := p.Check(); err != nil {
			return usageError(err)
		}
		p.Way = multi.Best()
		return benchAEAD(cmd, p, out.json())
	}
	return cmd
}

func benchAEAD(cmd *cobra.Command, p bench.AEADPlan, asJSON bool) error {
	progress := newBenchProgress(cmd.ErrOrStderr(), p.Rows())
	placement := oneThread()
	if asJSON {
		rows := &jsonRows{w: cmd.OutOrStdout(), placement: placement}
		err := bench.AEAD(p, func(r bench.AEADRow) { rows.add(r); progress.done() })
		progress.end()
		return rows.end(err)
	}
	var rows []bench.AEADRow
	err := bench.AEAD(p, func(r bench.AEADRow) { rows = append(rows, r); progress.done() })
	progress.end()
	if err != nil {
		return err
	}
	fmt.Fprintln(cmd.OutOrStdout(), placement)
	return bench.WriteAEAD(cmd.OutOrStdout(), rows)
}
