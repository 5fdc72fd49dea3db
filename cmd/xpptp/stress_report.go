package main

import (
	"fmt"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"xpptp/control/stress/report"
)

func newCompareCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "compare A.json B.json",
		Short: "Put the results of two runs side by side",
		Long: `Put the results of two runs, written with --json, side by side: every number that
one of them has, and what makes the two hard to compare.`,
		Example: `  xpptp stress compare before.json after.json`,
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var both [2]*report.Result
			for i, path := range args {
				f, err := os.Open(path)
				if err != nil {
					return usageError(err)
				}
				both[i], err = report.Read(f)
				_ = f.Close()
				if err != nil {
					return usageError(fmt.Errorf("%s: %w", path, err))
				}
			}
			c, err := report.Compare(both[0], both[1])
			if err != nil {
				return err
			}
			return c.WriteText(cmd.OutOrStdout())
		},
	}
}

func newMetricsCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "metrics",
		Short: "List what --expect knows",
		Long: `List the metrics that --expect knows: name, unit and meaning. A * stands for a
name, such as that of a cause; what has not happened is zero there.`,
		Example: `  xpptp stress metrics | grep loss`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			for _, m := range report.Metrics() {
				fmt.Fprintf(t, "%s\t%s\t%s\n", m.Name, m.Unit, strings.TrimSuffix(m.About, "."))
			}
			return t.Flush()
		},
	}
}

func newSchemaCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "schema",
		Short:   "Show the JSON Schema of a result",
		Example: `  xpptp stress schema > result.schema.json`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(report.Schema)
			return err
		},
	}
}
