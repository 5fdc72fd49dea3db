// Package demo shows a server and a client at work: xpptp serve and xpptp
// dial, each in a network namespace of its own, joined by a veth pair, and
// traffic through every call in both directions, counted to the packet.
package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"xpptp/control"
	"xpptp/control/lab"
	"xpptp/engine"
)

// MaxCalls is the largest number of calls, by the pool of the demo's server.
const MaxCalls = 500

// Options say what is shown.
type Options struct {
	Program  string // path of xpptp
	Calls    int    // 1 to MaxCalls
	Duration time.Duration
	IO       string // as serve and dial take it

	// Started hears of the commands as they are started, Progress how far it
	// is, a few times a second. Both are called from Run's goroutine.
	Started  func(where string, command []string)
	Progress func(Progress)
}

// Progress is how far a demo is.
type Progress struct {
	Up     int           // calls
	Time   time.Duration // of the traffic so far
	Counts Counts
}

// Rate is the traffic so far in bits of IP a second.
func (p Progress) Rate() float64 { return rate(p.Counts.Bytes, p.Time) }

func rate(bytes uint64, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return float64(bytes) * 8 / d.Seconds()
}

// Span is a distribution in milliseconds.
type Span struct {
	Min float64 `json:"min"`
	Avg float64 `json:"avg"`
	Max float64 `json:"max"`
}

func (s *Span) add(d time.Duration, n int) {
	ms := float64(d) / 1e6
	if n == 0 || ms < s.Min {
		s.Min = ms
	}
	s.Max = max(s.Max, ms)
	s.Avg += (ms - s.Avg) / float64(n+1)
}

// End is what one end counted on its own.
type End struct {
	RxPackets uint64            `json:"rx_packets"` // out of calls
	TxPackets uint64            `json:"tx_packets"` // into calls
	Drops     map[string]uint64 `json:"drops"`      // by name
}

// Report is what a demo came to.
type Report struct {
	OK      bool           `json:"ok"`
	Faults  []string       `json:"faults,omitempty"` // why it is not
	Calls   int            `json:"calls"`
	Up      int            `json:"up"`
	Setup   Span           `json:"setup_ms"`  // of a call, from its request to its first network protocol
	AllUp   float64        `json:"all_up_ms"` // from the client's start to the last call
	Ciphers map[string]int `json:"ciphers"`   // calls by cipher
	Seconds float64        `json:"seconds"`   // of traffic
	Counts
	PacketRate float64 `json:"packets_per_second"` // both ways
	BitRate    float64 `json:"bits_per_second"`    // of IP, both ways
	Server     End     `json:"server"`
	Client     End     `json:"client"`
}

// Limits of the phases, so that the whole ends within half a minute.
const (
	startTime = 5 * time.Second
	setupTime = 10 * time.Second
	probeTime = 3 * time.Second
)

const (
	user     = "demo"
	password = "demo-password"
)

// Run gives one demo. It needs CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_NET_RAW.
// Nothing is left when it returns, also when ctx ended it early: then the
// error is ctx's.
func Run(ctx context.Context, opt Options) (*Report, error) {
	dir, err := os.MkdirTemp("", "xpptp-demo-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	l, err := newNamespaces()
	if err != nil {
		return nil, err
	}
	defer l.close()
	d := &demo{Options: opt, lab: l, report: Report{Calls: opt.Calls, Ciphers: map[string]int{}}}
	defer d.stop()
	if err := d.serve(ctx, dir); err != nil {
		return nil, err
	}
	if err := d.dial(ctx, dir); err != nil {
		return nil, err
	}
	if err := d.traffic(ctx); err != nil {
		return nil, err
	}
	d.finish()
	return &d.report, nil
}

// demo is a demo that runs.
type demo struct {
	Options
	lab            *namespaces
	server, client *lab.Child
	events         chan control.CallInfo // calls that came up
	flows          []*flow
	report         Report
}

func (d *demo) serve(ctx context.Context, dir string) error {
	secrets := filepath.Join(dir, "secrets")
	if err := os.WriteFile(secrets, []byte(user+" * "+password+" *\n"), 0o600); err != nil {
		return err
	}
	args := []string{
		"serve", "--listen", serverAddr.Addr().String(), "--outside", serverIf, "--io", d.IO,
		"--local", insideAddr.String(), "--pool", insidePool, "--secrets", secrets, "--log-format", "json", "--control-socket=",
	}
	d.Started("server", append([]string{"xpptp"}, args...))
	var err error
	if d.server, err = lab.Start(d.lab.server, d.Program, args, nil); err != nil {
		return err
	}
	select {
	case <-d.server.Ready:
		return nil
	case <-d.server.Gone:
		return d.server.Because(fmt.Errorf("ended at its start: %w", orNil(d.server.Err)))
	case <-time.After(startTime):
		return d.server.Because(errors.New("does not listen"))
	case <-ctx.Done():
		return ctx.Err()
	}
}

var errNoStatus = errors.New("exit status 0")

func orNil(err error) error {
	if err == nil {
		return errNoStatus
	}
	return err
}

// dial starts the client and waits until all calls are up, or some cannot be.
func (d *demo) dial(ctx context.Context, dir string) error {
	file := filepath.Join(dir, "password")
	if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
		return err
	}
	args := []string{
		"dial", "--server", serverAddr.Addr().String(), "--outside", clientIf, "--io", d.IO,
		"--user", user, "--password-file", file, "--calls", fmt.Sprint(d.Calls), "--log-format", "json", "-o", "json",
	}
	d.Started("client", append([]string{"xpptp"}, args...))
	d.events = make(chan control.CallInfo, MaxCalls)
	begun := time.Now()
	var err error
	if d.client, err = lab.Start(d.lab.client, d.Program, args, d.event); err != nil {
		return err
	}
	late := time.After(setupTime)
	show := time.NewTicker(100 * time.Millisecond)
	defer show.Stop()
	for d.report.Up < d.Calls {
		select {
		case call := <-d.events:
			d.report.Setup.add(call.SetupTime, d.report.Up)
			d.report.Up++
			d.report.Ciphers[call.Cipher]++
			d.report.AllUp = float64(time.Since(begun)) / 1e6
			f, err := openFlow(d.lab, uint32(len(d.flows)), call.LocalIP, call.MTU, d.window())
			if err != nil {
				return err
			}
			d.flows = append(d.flows, f)
		case <-show.C:
			d.Progress(Progress{Up: d.report.Up})
		case <-late:
			if d.report.Up > 0 {
				return nil // what is missing is told in the report
			}
			return d.client.Because(fmt.Errorf("no call came up within %v", setupTime))
		case <-d.client.Gone:
			return d.client.Because(fmt.Errorf("ended at its start: %w", orNil(d.client.Err)))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// event takes a line of dial's output.
func (d *demo) event(line []byte) {
	var e struct {
		Event string           `json:"event"`
		Call  control.CallInfo `json:"call"`
	}
	if json.Unmarshal(line, &e) == nil && e.Event == control.EventUp.String() {
		select {
		case d.events <- e.Call:
		default: // more calls than were asked for
		}
	}
}

// window is how many datagrams a call may have under way.
func (d *demo) window() int { return max(1, min(16, maxInFlight/d.Calls)) }

// traffic moves datagrams through every call.
func (d *demo) traffic(ctx context.Context) error {
	var probes, ends, echoes sync.WaitGroup
	defer echoes.Wait()
	defer func() {
		for _, f := range d.flows {
			f.close()
		}
	}()
	probing, stop := context.WithTimeout(ctx, probeTime)
	defer stop()
	for _, f := range d.flows {
		echoes.Go(f.echo)
		probes.Go(func() { f.probe(probing) }) // one without an answer will show in the counts
	}
	probes.Wait()
	sending, stop := context.WithTimeout(ctx, d.Duration)
	defer stop()
	begun := time.Now()
	for _, f := range d.flows {
		ends.Go(func() { f.run(sending) })
	}
	over := make(chan struct{})
	go func() {
		ends.Wait()
		close(over)
	}()
	show := time.NewTicker(100 * time.Millisecond)
	defer show.Stop()
	gone := make(chan struct{}, 2)
	for _, c := range []*lab.Child{d.client, d.server} {
		go func() {
			<-c.Gone
			gone <- struct{}{}
		}()
	}
	for running := true; running; {
		select {
		case <-over:
			running = false
		case <-gone: // the counts and its log tell the rest
			stop()
		case <-show.C:
		}
		d.Progress(Progress{Up: d.report.Up, Time: time.Since(begun), Counts: d.counts()})
	}
	d.report.Seconds = time.Since(begun).Seconds()
	d.report.Counts = d.counts()
	return ctx.Err()
}

func (d *demo) counts() (sum Counts) {
	for _, f := range d.flows {
		sum.add(f.counts())
	}
	return sum
}

// finish ends the children and completes the report.
func (d *demo) finish() {
	r := &d.report
	fault := func(format string, args ...any) {
		r.Faults = append(r.Faults, fmt.Sprintf(format, args...))
	}
	if err := errors.Join(d.client.Stop(), d.server.Stop()); err != nil {
		fault("%v", err)
	}
	r.Client = endOf(d.client)
	r.Server = endOf(d.server)
	if r.Seconds > 0 {
		r.PacketRate = float64(r.Sent+r.Echoed) / r.Seconds
		r.BitRate = rate(r.Bytes, time.Duration(r.Seconds*float64(time.Second)))
	}
	if r.Up < r.Calls {
		fault("%d of %d calls did not come up: %v", r.Calls-r.Up, r.Calls, d.client.Because(errors.New("its log ends with")))
	}
	if !r.Clean() {
		fault("%d packets lost, %d damaged, %d duplicated", r.Lost, r.Damaged, r.Duplicate)
	}
	for i, f := range d.flows {
		if f.count.Echoed == 0 {
			fault("call %d carried nothing", i)
		}
	}
	for cipher, n := range r.Ciphers {
		if cipher == "none" {
			fault("%d calls are not encrypted", n)
		}
	}
	// Both ends say, on their own, that it went through calls.
	counted := d.client.Err == nil && d.server.Err == nil
	if counted && (r.Server.RxPackets < r.Arrived || r.Client.RxPackets < r.Echoed) {
		fault("packets came by another way: server counted %d of %d, client %d of %d in calls",
			r.Server.RxPackets, r.Arrived, r.Client.RxPackets, r.Echoed)
	}
	r.OK = len(r.Faults) == 0
}

// endOf returns what a child that has ended counted.
func endOf(c *lab.Child) End {
	total, drops := c.Counts()
	// An acknowledgement without payload is consumed, not dropped.
	delete(drops, engine.GREAckOnly.String())
	return End{RxPackets: total.RxPackets, TxPackets: total.TxPackets, Drops: drops}
}

// stop ends what runs, at any point.
func (d *demo) stop() {
	for _, f := range d.flows {
		f.close()
	}
	for _, c := range []*lab.Child{d.client, d.server} {
		if c != nil {
			_ = c.Stop()
		}
	}
}
