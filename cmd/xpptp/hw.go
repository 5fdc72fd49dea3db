package main

import (
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"xpptp/hwprofile"
)

// hwFlags are what the commands about hardware have in common.
type hwFlags struct {
	request  hwprofile.Request
	profiles string
}

func (h *hwFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.IntVar(&h.request.Workers, "workers", 0, fmt.Sprintf("plan for so many workers, up to %d (as many as there is room for)", hwprofile.MaxWorkers))
	f.StringSliceVar(&h.request.Interfaces, "interface", nil, "interfaces that carry calls (all that are up and of hardware)")
	f.IntSliceVar(&h.request.CPUs, "cpus", nil, "CPUs for the workers, in this order (the plan's choice)")
	f.StringVar(&h.request.IO, "io", "auto", "backend: auto, xsk, asavie, tpacket, raw")
	f.StringVar(&h.profiles, "profiles", "", "directory of driver profiles that go before those built in")
}

// plan takes the inventory and makes the plan.
func (h *hwFlags) plan() (hwprofile.Machine, *hwprofile.Inventory, *hwprofile.Plan, error) {
	profiles, err := hwprofile.LoadProfiles(h.profiles)
	if err != nil {
		return nil, nil, nil, usageError(err)
	}
	m := hwprofile.Live()
	inv, err := hwprofile.Read(m)
	if err != nil {
		return nil, nil, nil, err
	}
	p, err := hwprofile.MakePlan(inv, profiles, h.request)
	return m, inv, p, usageError(err)
}

func newHWCmd() *cobra.Command {
	h := &hwFlags{}
	cmd := &cobra.Command{
		Use:   "hw",
		Short: "Show CPUs and network interfaces, and the plan for them",
		Long: `Show what the machine has, and the plan that serve follows: which worker runs on
which core, which queues of the interfaces and which interrupts go there, and
where the control plane stays. Nothing is changed; "hw apply" does that.

A worker has one thread of a physical core, near the interfaces and on CPU 0 last
of all; interrupts go to the other thread of its core, if it has one.`,
		Example: `  xpptp hw
  xpptp hw --workers 4 --interface eth1 -o json`,
		Args: cobra.NoArgs,
	}
	out := addOutput(cmd)
	h.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		_, inv, plan, err := h.plan()
		if err != nil {
			return err
		}
		if out.json() {
			return writeJSON(cmd.OutOrStdout(), struct {
				Inventory *hwprofile.Inventory `json:"inventory"`
				Plan      *hwprofile.Plan      `json:"plan"`
			}{inv, plan})
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n%s", inv, plan)
		return err
	}
	cmd.AddCommand(newHWApplyCmd(), newHWRestoreCmd())
	return cmd
}

func newHWApplyCmd() *cobra.Command {
	h := &hwFlags{}
	var dryRun bool
	state := hwprofile.DefaultState
	cmd := &cobra.Command{
		Use:   "apply",
		Short: "Set the interfaces as the plan says",
		Long: `Set the interfaces as the plan says: queues, rings, interrupts, and offloads that
must be off. The differences are shown first. How it was before is written to the
state file before anything is changed; "hw restore" puts it back, and so does the
next "hw apply" before it begins. A change that the machine refuses is reported,
the others are made, and the status is 1.`,
		Example: `  xpptp hw apply --dry-run
  sudo xpptp hw apply --workers 4 --interface eth1`,
		Args: cobra.NoArgs,
	}
	h.add(cmd)
	f := cmd.Flags()
	f.BoolVar(&dryRun, "dry-run", false, "show what would be changed, and change nothing")
	f.StringVar(&state, "state", state, "state file")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		w := cmd.OutOrStdout()
		m, _, plan, err := h.plan()
		if err != nil {
			return err
		}
		fmt.Fprintln(w, plan.Short())
		if dryRun {
			return writeDifference(w, plan)
		}
		if done, err := hwprofile.Restore(m, state); err != nil {
			return err
		} else if len(done) > 0 {
			fmt.Fprintf(w, "restored first, from %s:\n", state)
			if err := writeResults(w, done); err != nil {
				return err
			}
			if _, _, plan, err = h.plan(); err != nil {
				return err
			}
		}
		if err := writeDifference(w, plan); err != nil || len(plan.Changes) == 0 {
			return err
		}
		profiles, err := hwprofile.LoadProfiles(h.profiles)
		if err != nil {
			return err
		}
		t, err := hwprofile.Tune(hwprofile.Options{Machine: m, Profiles: profiles, Request: h.request, State: state})
		if err != nil {
			return withRights(err)
		}
		fmt.Fprintln(w, "done:")
		if err := writeResults(w, t.Results); err != nil {
			return err
		}
		fmt.Fprintf(w, "how it was before is in %s: xpptp hw restore puts it back\n", state)
		return refused(t.Results)
	}
	return cmd
}

func newHWRestoreCmd() *cobra.Command {
	states := []string{hwprofile.RunState, hwprofile.DefaultState}
	cmd := &cobra.Command{
		Use:   "restore",
		Short: "Put the interfaces back as they were",
		Long: `Put the interfaces back as they were before "hw apply", or before a command
with --tune that was killed. Interfaces and queues that have gone away are left alone. If
there is nothing to restore that is no failure.`,
		Example: `  sudo xpptp hw restore`,
		Args:    cobra.NoArgs,
	}
	cmd.Flags().StringSliceVar(&states, "state", states, "state files")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var errs []error
		nothing := true
		for _, state := range states {
			done, err := hwprofile.Restore(hwprofile.Live(), state)
			errs = append(errs, err)
			if len(done) > 0 {
				nothing = false
				fmt.Fprintf(cmd.OutOrStdout(), "from %s:\n", state)
				errs = append(errs, writeResults(cmd.OutOrStdout(), done))
			}
		}
		err := errors.Join(errs...)
		if nothing && err == nil {
			fmt.Fprintln(cmd.OutOrStdout(), "nothing to restore")
		}
		return err
	}
	return cmd
}

func writeDifference(w io.Writer, plan *hwprofile.Plan) error {
	if len(plan.Changes) == 0 {
		_, err := fmt.Fprintln(w, "nothing to change")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, c := range plan.Changes {
		fmt.Fprintf(t, "  %s\t%s\n", c, c.Why)
	}
	return t.Flush()
}

// writeResults lists what was done, and what was not.
func writeResults(w io.Writer, results []hwprofile.Result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range results {
		how := "ok"
		switch {
		case r.Gone:
			how = "is gone"
		case r.Err != nil:
			how = "REFUSED: " + r.Err.Error()
		case r.Old == r.New:
			how = "was so"
		}
		fmt.Fprintf(t, "  %s\t%s\n", r.Change, how)
	}
	return t.Flush()
}

// refused is the error of an apply that was not all done.
func refused(results []hwprofile.Result) error {
	n := 0
	for _, r := range results {
		if r.Err != nil {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d changes were refused", n, len(results))
}
