package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"xpptp/control/aaa"
	"xpptp/control/decrypt"
)

func newDecryptCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "decrypt IN.pcap --secrets FILE",
		Short: "Open a recorded PPTP session",
		Long: `decrypt reads a capture file (pcap or pcapng) with PPTP in it, taken at either
end or in between, and shows each call: what was negotiated, in words, and how
many packets were decrypted. MS-CHAP's responses are in the recording; with the
users' secrets the keys follow from them.

-w writes a capture for Wireshark: an interface with the control connections as
they were recorded, and one for each call with its PPP frames, decrypted, in the
order of the recording. A frame that stays closed carries a comment that says
why.

-o json: packets, notes, and for each of calls: number, peer (the client's
address), client and server (address, call_id, about, agreed lcp, ccp, ipv4, ipv6
and dns), control, control_end, start, end, user, auth, auth_result, auth_text,
secret (fits, wrong, missing, unproven), mppe_bits, stateful, dialect,
compression, negotiation, notes, and the counts packets, encrypted, decrypted,
bad, reordered, duplicate, lost, late, jumps, plain, compressed, cut, recovered
and bad_why, which to_server and to_client hold by direction.

Exit status 1 also if encrypted packets stay closed because their user's secret
is missing or wrong; what is not encrypted is shown all the same.`,
		Example: `  xpptp decrypt session.pcap --secrets /etc/ppp/chap-secrets
  xpptp decrypt session.pcap --secrets chap-secrets -w plain.pcapng -o json`,
		Args:    cobra.ExactArgs(1),
		PreRunE: checkWay,
	}
	out := addOutput(cmd)
	secretsFile := cmd.Flags().String("secrets", "", "file of users, in the format of pppd's chap-secrets")
	allowOpen := cmd.Flags().Bool("allow-world-readable-secrets", false, "take a secrets file that every user can read")
	write := cmd.Flags().StringP("write", "w", "", "file to write the decrypted capture to, as pcapng")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *secretsFile == "" {
			return usageError(errors.New("--secrets: which file? Without it nothing can be decrypted"))
		}
		secrets, err := aaa.Load(*secretsFile, *allowOpen)
		if err != nil {
			return usageError(err)
		}
		report, err := decryptFile(args[0], *write, secrets)
		if report == nil {
			return err
		}
		if out.json() {
			err = errors.Join(err, writeJSON(cmd.OutOrStdout(), report))
		} else {
			err = errors.Join(err, report.WriteText(cmd.OutOrStdout()))
		}
		if n := report.Closed(); n > 0 {
			err = errors.Join(err, fmt.Errorf("%d encrypted packets stay closed: see the notes of their calls", n))
		}
		return err
	}
	return cmd
}

// decryptFile opens the capture at in and, unless empty, writes what it holds
// to out. Without a report nothing could be read.
func decryptFile(in, out string, secrets *aaa.Secrets) (*decrypt.Report, error) {
	f, err := os.Open(in)
	if err != nil {
		return nil, usageError(err)
	}
	defer f.Close()
	options := decrypt.Options{Secrets: secrets, Version: readVersion().Version}
	if out == "" {
		report, err := decrypt.Run(f, options)
		return report, inFile(in, err)
	}
	w, err := createOutput(f, out)
	if err != nil {
		return nil, usageError(err)
	}
	options.Out = w
	report, err := decrypt.Run(f, options)
	err = inFile(in, err)
	if cerr := w.Close(); cerr != nil {
		err = errors.Join(err, cerr)
	}
	return report, err
}

func inFile(name string, err error) error {
	var format *decrypt.FormatError
	if err == nil || !errors.As(err, &format) {
		return err
	}
	return fmt.Errorf("%s: %w", name, err)
}

// createOutput makes the file for what was encrypted: for the owner alone, and
// never over the capture itself.
func createOutput(in *os.File, name string) (io.WriteCloser, error) {
	a, err := in.Stat()
	if err != nil {
		return nil, err
	}
	if b, err := os.Stat(name); err == nil && os.SameFile(a, b) {
		return nil, fmt.Errorf("-w %s is the capture to be read", name)
	}
	return os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
}
