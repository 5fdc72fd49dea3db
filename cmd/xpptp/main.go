// Command xpptp is a PPTP server and client in user space.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// Exit statuses of every command.
const (
	exitOK      = 0
	exitFailure = 1 // it was started and failed
	exitUsage   = 2 // the command line or the configuration is wrong; nothing was started
)

const exitHelp = `Exit status: 0 done, 1 failed, 2 wrong command line or configuration.`

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run executes one command line and returns the exit status.
func run(args []string, stdout, stderr io.Writer) int {
	started := false
	root := newRootCmd()
	root.PersistentPreRun = func(*cobra.Command, []string) { started = true }
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.Execute()
	if err == nil {
		return exitOK
	}
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(stderr, "xpptp: %s\n", strings.TrimSuffix(line, "\n"))
	}
	var coded *exitError
	switch {
	case errors.As(err, &coded):
		return coded.code
	case !started: // cobra did not like the command line
		return exitUsage
	}
	return exitFailure
}

// exitError is an error that has an exit status of its own; without err there
// is nothing to say.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}
func (e *exitError) Unwrap() error { return e.err }

// usageError marks err as a mistake of the user; nil stays nil.
func usageError(err error) error {
	if err == nil {
		return nil
	}
	return &exitError{exitUsage, err}
}

func newRootCmd() *cobra.Command {
	root := &cobra.Command{
		Use:   "xpptp",
		Short: "PPTP server and client in user space",
		Long: `xpptp speaks PPTP (RFC 2637) in user space: it takes calls, makes them and opens recorded ones.

` + exitHelp,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(
		newServeCmd(),
		newDialCmd(),
		newShowCmd(),
		newTerminateCmd(),
		newDrainCmd(),
		newShutdownCmd(),
		newReloadCmd(),
		newStressCmd(),
		newDemoCmd(),
		newCheckCmd(),
		newDecryptCmd(),
		newBenchCmd(),
		newHWCmd(),
		newDoctorCmd(),
		newVersionCmd(),
	)
	return root
}

// output is the value of -o: text, or json for programs.
type output string

func (o *output) Set(s string) error {
	if s != "text" && s != "json" {
		return fmt.Errorf("%q is none of text, json", s)
	}
	*o = output(s)
	return nil
}
func (o *output) String() string { return string(*o) }
func (o *output) Type() string   { return "format" }
func (o *output) json() bool     { return *o == "json" }

// addOutput gives cmd the flag -o.
func addOutput(cmd *cobra.Command) *output {
	o := output("text")
	cmd.Flags().VarP(&o, "output", "o", "text, or json for programs")
	return &o
}
