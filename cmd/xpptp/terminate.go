package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"xpptp/control/api"
)

func newTerminateCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "terminate {user NAME|ip ADDRESS|call ID|session NAME|all}",
		Short: "End calls of a running server",
		Long: `End calls of a running server: those of a user, the one with an address inside,
the one with a call ID, as xpptp show sessions says, the one with a name in
accounting, or all.

In order, which is what is done without --hard, the peer is told by an LCP
Terminate-Request first and may answer it. --hard ends the call at once.

` + socketHelp,
		Example: `  xpptp terminate user alice
  xpptp terminate ip 10.0.0.17 --hard
  xpptp terminate call 4711 --peer 192.0.2.7`,
		Args: cobra.RangeArgs(1, 2),
	}
	var req api.TerminateRequest
	cmd.Flags().BoolVar(&req.Hard, "hard", false, "at once, without a word to the peer inside the call")
	cmd.Flags().StringVar(&req.Peer, "peer", "", "only calls with this address outside")
	socket := addSocket(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		to := map[string]*string{"user": &req.User, "ip": &req.IP, "call": &req.Call, "session": &req.Session}[args[0]]
		switch {
		case args[0] == "all" && len(args) == 1 && req.Peer == "":
			req.All = true
		case args[0] == "all" && len(args) == 1: // all of that peer
		case to == nil:
			return usageError(fmt.Errorf("%q: one of user NAME, ip ADDRESS, call ID, session NAME, all is needed", args[0]))
		case len(args) != 2 || args[1] == "":
			return usageError(fmt.Errorf("terminate %s: which?", args[0]))
		default:
			*to = args[1]
		}
		if err := req.Check(); err != nil {
			return usageError(err)
		}
		var ended api.Ended
		if err := post(cmd, *socket, "terminate", &req, &ended); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s ended\n", plural(ended.Calls, "call"))
		return nil
	}
	return cmd
}

func newDrainCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drain",
		Short: "Let a running server take no new calls and end with its last one",
		Long: `Let a running server take no new calls; those that run go on, and the server ends
when the last of them is over. xpptp shutdown cancel takes it back.

` + socketHelp,
		Example: "  xpptp drain\n  xpptp shutdown cancel",
		Args:    cobra.NoArgs,
	}
	socket := addSocket(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var done api.Done
		if err := post(cmd, *socket, "drain", nil, &done); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "no new calls; %s left\n", plural(done.Calls, "call"))
		return nil
	}
	return cmd
}

func newShutdownCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "shutdown {soft|hard|cancel}",
		Short: "End a running server",
		Long: `End a running server. soft ends all calls in order first, as SIGTERM does; hard
ends them at once; cancel takes a drain back: new calls are taken again.

` + socketHelp,
		Example:   "  xpptp shutdown soft",
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{api.Soft, api.Hard, api.Cancel},
	}
	socket := addSocket(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var done api.Done
		if err := post(cmd, *socket, "shutdown", &api.ShutdownRequest{Mode: args[0]}, &done); err != nil {
			return err
		}
		what := "stopping"
		if args[0] == api.Cancel {
			what = "new calls are taken again"
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s; %s\n", what, plural(done.Calls, "call"))
		return nil
	}
	return cmd
}

func newReloadCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Have a running server read its secrets again",
		Long: `Have a running server read its secrets again, as SIGHUP does, and say whether it
could. With an error nothing has changed.

` + socketHelp,
		Example: "  xpptp reload",
		Args:    cobra.NoArgs,
	}
	socket := addSocket(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var done api.Done
		if err := post(cmd, *socket, "reload", nil, &done); err != nil {
			return err
		}
		fmt.Fprintln(cmd.OutOrStdout(), "reloaded")
		return nil
	}
	return cmd
}

// post has something done by the program at a socket.
func post(cmd *cobra.Command, socket, what string, in, out any) error {
	c := api.NewClient(socket)
	defer c.Close()
	err := ask(cmd.Context(), func(ctx context.Context) error { return c.Post(ctx, what, in, out) })
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: no answer in %v", socket, askTime)
	}
	return err
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
