package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"xpptp/hwprofile"
)

func newDoctorCmd() *cobra.Command {
	h := &hwFlags{}
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look for what makes this machine slow or broken",
		Long: `Look for what makes this machine slow or broken as a PPTP appliance: rights,
memory, processors, queues, offloads, interrupts, firewall. Each finding is ok,
warn or bad; what is not ok comes with why it matters and how to mend it. Nothing
is changed.

Exit status: 0 nothing is bad (warnings do not count), 1 something is bad, 2 wrong
command line.`,
		Example: `  xpptp doctor
  xpptp doctor --interface eth1 -o json`,
		Args: cobra.NoArgs,
	}
	out := addOutput(cmd)
	all := cmd.Flags().BoolP("all", "a", false, "show what is ok, too")
	h.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		m, inv, plan, err := h.plan()
		if err != nil {
			return err
		}
		firewall, unread := m.Firewall()
		findings := hwprofile.Check(inv, plan, firewall, unread)
		if out.json() {
			err = writeJSON(cmd.OutOrStdout(), struct {
				Findings []hwprofile.Finding `json:"findings"`
				Unknown  []string            `json:"unknown,omitempty"`
			}{findings, inv.Unknown})
		} else {
			err = writeFindings(cmd.OutOrStdout(), findings, inv.Unknown, *all)
		}
		if err != nil {
			return err
		}
		if bad := countLevel(findings, hwprofile.Bad); bad > 0 {
			return fmt.Errorf("%d of %d checks are bad", bad, len(findings))
		}
		return nil
	}
	return cmd
}

func countLevel(findings []hwprofile.Finding, level hwprofile.Level) (n int) {
	for _, f := range findings {
		if f.Level == level {
			n++
		}
	}
	return n
}

func writeFindings(w io.Writer, findings []hwprofile.Finding, unknown []string, all bool) error {
	var b strings.Builder
	for _, f := range findings {
		if f.Level == hwprofile.OK && !all {
			continue
		}
		fmt.Fprintf(&b, "%-5s %s: %s\n", f.Level, f.Check, f.Found)
		for _, l := range []struct{ name, text string }{{"why", f.Why}, {"mend", f.Mend}} {
			for line := range strings.Lines(l.text) {
				fmt.Fprintf(&b, "      %-5s %s\n", l.name, strings.TrimSpace(line))
				l.name = ""
			}
		}
	}
	for _, u := range unknown {
		fmt.Fprintf(&b, "      could not look at %s\n", u)
	}
	fmt.Fprintf(&b, "%d ok, %d warn, %d bad\n", countLevel(findings, hwprofile.OK), countLevel(findings, hwprofile.Warn), countLevel(findings, hwprofile.Bad))
	_, err := io.WriteString(w, b.String())
	return err
}
