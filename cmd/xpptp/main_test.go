package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"xpptp": main})
}

// TestScripts runs the program as a user would, see testdata. With UPDATE=1 in
// the environment the expected outputs are written anew.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata", UpdateScripts: os.Getenv("UPDATE") != ""})
}

// Every command says what it does and shows how it is used.
func TestHelp(t *testing.T) {
	root := newRootCmd()
	for _, cmd := range root.Commands() {
		checkHelp(t, cmd)
	}
}

func checkHelp(t *testing.T, cmd *cobra.Command) {
	if cmd.Short == "" || cmd.Example == "" && !cmd.HasSubCommands() {
		t.Errorf("%s has no short help or no example", cmd.CommandPath())
	}
	for _, sub := range cmd.Commands() {
		checkHelp(t, sub)
	}
}
