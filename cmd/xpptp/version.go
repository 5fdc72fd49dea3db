package main

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"xpptp/engine/mppe/multi"
)

// Set by the linker (see Makefile); without it the build's own record counts.
var version, commit string

// versionInfo is what is known about this program.
type versionInfo struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

// mppeInfo names the kernels that MPPE uses here, and those it could.
type mppeInfo struct {
	Way  string   `json:"mppe_way"`
	Ways []string `json:"mppe_ways"`
}

func readMPPE() mppeInfo {
	m := mppeInfo{Way: multi.Best().String()}
	for _, w := range multi.Ways() {
		m.Ways = append(m.Ways, w.String())
	}
	return m
}

func readVersion() versionInfo {
	v := versionInfo{Version: version, Commit: commit, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		if v.Version == "" {
			v.Version = info.Main.Version
		}
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && v.Commit == "" {
				v.Commit = s.Value
			}
		}
	}
	if v.Version == "" {
		v.Version = "(devel)"
	}
	return v
}

func newVersionCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show the version of this program",
		Long: `Show the version of this program, and the kernels that it uses for MPPE here:
those that a short measurement finds fastest, or those that the environment
variable XPPTP_CPU names.`,
		Example: "  xpptp version\n  xpptp version -o json",
		Args:    cobra.NoArgs,
		PreRunE: checkWay,
	}
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		v, m := readVersion(), readMPPE()
		if out.json() {
			return writeJSON(cmd.OutOrStdout(), struct {
				versionInfo
				mppeInfo
			}{v, m})
		}
		fmt.Fprintf(cmd.OutOrStdout(), "xpptp %s\n", v.Version)
		if v.Commit != "" {
			fmt.Fprintf(cmd.OutOrStdout(), "commit %s\n", v.Commit)
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s %s/%s\n", v.Go, v.OS, v.Arch)
		fmt.Fprintf(cmd.OutOrStdout(), "MPPE kernels: %s (of %s)\n", m.Way, strings.Join(m.Ways, ", "))
		return nil
	}
	return cmd
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
