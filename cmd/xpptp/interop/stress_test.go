//go:build interop

package interop

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	results "xpptp/control/stress/report"
)

// TestStress: xpptp stress with 20 calls against pptpd, and traffic to a responder behind it. Every call comes up, and what
// comes back is whole; xpptp drops nothing.
func TestStress(t *testing.T) {
	buildBinary(t)
	for try := tries(); ; try-- {
		start := time.Now()
		r, err := stressRow(t)
		if err != nil && try > 1 {
			fmt.Printf("%-34s %-4s %5.1f s  %v\n", "stress/pptpd", "fail", time.Since(start).Seconds(), err)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("%-34s %-4s %5.1f s  %d calls, set-up p99 %.0f ms, %d packets, %d back\n", "stress/pptpd", "ok", time.Since(start).Seconds(),
			r.Calls.Up, r.Setup.P99MS, r.Traffic.Sent, r.Traffic.Received)
		return
	}
}

func stressRow(t *testing.T) (*results.Result, error) {
	l := newLab(t, false)
	s := &linuxServer{g: l.far, ip: farIP}
	p := mppe128()
	if err := s.start(p); err != nil {
		return nil, err
	}
	if out, err := l.far.shell(20*time.Second, "ip addr add 192.168.78.1/32 dev lo; setsid %s stress --responder 192.168.78.1:7007 >/dev/null 2>&1 & sleep 1", xpptpBin); err != nil {
		return nil, fmt.Errorf("responder: %w\n%s", err, out)
	}
	file := filepath.Join(l.dir, "password")
	if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
		return nil, err
	}
	const calls = 20
	// An address for each client. Every pptpctrl has a raw socket that takes all GRE of its peer's address: from one address
	// each packet wakes all twenty of them, and a busy guest loses up to half of the packets; so it loses none.
	if out, err := l.near.shell(20*time.Second, "for i in $(seq 11 30); do ip addr add 10.98.0.$i/24 dev veth0; done"); err != nil {
		return nil, fmt.Errorf("addresses: %w\n%s", err, out)
	}
	doc := filepath.Join(l.dir, "stress.json")
	args := []string{
		"stress", "--server", farIP, "--allow", farIP, "--source", "10.98.0.11-10.98.0.30", "--user", user, "--password-file", file,
		"--calls", fmt.Sprint(calls), "--rate", "1", "--settle", "2m", "--io", ioBackend,
		"--far", "192.168.78.1", "--traffic", "40pps", "--duration", "10s", "--quiet", "10s", "--json", doc,
	}
	args = append(args, policyArgs(policy{patient: true})...)
	program, err := startProgram(l.near.(*host), args...)
	if err != nil {
		return nil, err
	}
	// The status says that the result is not valid where the machine has other work to do.
	if err := program.wait(5 * time.Minute); err != nil && !fileThere(doc) {
		return nil, fmt.Errorf("%w\n%s", err, program.log())
	}
	text, err := os.ReadFile(doc)
	if err != nil {
		return nil, err
	}
	var r results.Result
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, err
	}
	c, n := &r.Calls, &r.Traffic
	switch {
	case c.Up != calls || c.Failed != 0 || c.Lost != 0:
		return nil, fmt.Errorf("calls: %d up, failures %v, losses %v", c.Up, c.Failures, c.Losses)
	case r.Setup.Phases.CCP == nil || r.Setup.Phases.CCP.Count != calls:
		return nil, fmt.Errorf("not every call agreed on MPPE: %+v", r.Setup.Phases.CCP)
	// A guest that has to share its processor loses some of what it is sent.
	case n.Sent < 300 || n.Received < n.Sent/2 || n.Corrupted != 0 || n.Duplicated != 0 || len(n.Drops) != 0:
		return nil, fmt.Errorf("traffic: %+v\ndrops %v", n.Packets, n.Drops)
	case r.Setup.Phases.FirstPacket == nil:
		return nil, fmt.Errorf("no first packet: %v", r.Notes)
	case r.Latency.Kind != results.RoundTrip || r.Latency.P50US <= 0:
		return nil, fmt.Errorf("latency: %+v", r.Latency)
	}
	return &r, s.idle(endLimit)
}

func fileThere(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
