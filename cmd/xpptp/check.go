package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"xpptp/control/config"
)

func newCheckCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check -c FILE",
		Short: "Check serve's settings and show what it would do",
		Long: `check reads the settings as serve does, from a file and from flags, and
prints the plan: every setting with where it comes from, the pools, and notes on
what is allowed but weak. It starts nothing.

Every key of the file is also a flag: key b of section a is --a-b.`,
		Example: `  xpptp check -c /etc/xpptp/xpptp.yaml
  xpptp check -c xpptp.yaml --mtu 1300 -o json
  xpptp check --example > xpptp.yaml`,
		Args: cobra.NoArgs,
	}
	out := addOutput(cmd)
	example := cmd.Flags().Bool("example", false, "print a file with every key, its meaning and its default")
	offline := cmd.Flags().Bool("offline", false, "check the settings alone, not the files and interfaces they name")
	load := config.BindServe(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *example {
			_, err := fmt.Fprint(cmd.OutOrStdout(), config.Example())
			return err
		}
		cfg, err := load()
		if err == nil && !*offline {
			err = cfg.Preflight()
		}
		if err != nil {
			return usageError(err)
		}
		if !out.json() {
			_, err = fmt.Fprint(cmd.OutOrStdout(), cfg.Plan())
			return err
		}
		js, err := cfg.PlanJSON()
		_, werr := fmt.Fprintf(cmd.OutOrStdout(), "%s\n", js)
		return errors.Join(err, werr)
	}
	return cmd
}
