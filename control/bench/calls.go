package bench

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"

	"xpptp/control"
	"xpptp/control/aaa"
	"xpptp/control/api"
	"xpptp/control/config"
	"xpptp/control/lab"
	"xpptp/control/pool"
	"xpptp/control/sock"
	"xpptp/rings"
	"xpptp/rings/mem"
)

// CallsPlan says how many calls Calls makes, and how.
type CallsPlan struct {
	Calls         int    // 10 to MaxCalls
	PerConnection int    // calls on a control connection
	AtOnce        int    // calls that are being set up at the same time
	IO            string // backend of both ends, "auto" for their choice
	StateCalls    int    // calls in the tables for BytesState
	// Program and Args run xpptp serve, with its own arguments behind them; at
	// SIGUSR1 it has to write a ServeMemory to its standard output.
	Program string
	Args    []string
}

// MaxCalls is how many calls the addresses of Calls are enough for.
const MaxCalls = 200_000

// Check returns an error that names the first value that is out of range.
func (p *CallsPlan) Check() error {
	for _, v := range []struct {
		name     string
		n, limit int
		low      int
	}{
		{"calls", p.Calls, MaxCalls, 10},
		{"calls per connection", p.PerConnection, 1000, 1},
		{"calls at once", p.AtOnce, 4096, 1},
		{"calls in tables", p.StateCalls, 1_000_000, 100},
	} {
		if v.n < v.low || v.n > v.limit {
			return fmt.Errorf("bench calls: %d %s: want %d to %d", v.n, v.name, v.low, v.limit)
		}
	}
	return nil
}

// ServeMemory is what a server's own process says of its memory, after a
// collection, in bytes; and how many goroutines it has.
type ServeMemory struct {
	Heap       uint64 `json:"heap"`
	Stacks     uint64 `json:"stacks"`
	Goroutines int    `json:"goroutines"`
}

// CallsReport is what Calls has found.
type CallsReport struct {
	Calls       int            `json:"calls"`
	Connections int            `json:"connections"` // control connections, for each a TCP connection
	Sources     int            `json:"sources"`     // addresses that they come from
	Files       uint64         `json:"files"`       // limit of open files of each process
	IO          string         `json:"io"`
	Placement   string         `json:"placement"` // where server and caller ran: their plans
	Up          int            `json:"up"`
	Failed      int            `json:"failed"`
	Failures    map[string]int `json:"failures"` // by cause; calls that were lost later, too
	Seconds     float64        `json:"seconds"`  // until all were up
	PerSecond   float64        `json:"calls_per_second"`
	Tenths      []CallsTenth   `json:"tenths"`
	Memory      CallsMemory    `json:"memory"`
	EndSeconds  float64        `json:"end_seconds"` // until all was over
	Left        CallsLeft      `json:"left"`
}

// CallsTenth is about a tenth of the calls, in the order in which they came up.
type CallsTenth struct {
	Calls     int     `json:"calls"`
	PerSecond float64 `json:"calls_per_second"`
	MedianMS  float64 `json:"median_ms"` // from connect(2), or the request on a connection that is there, to an address inside
	P99MS     float64 `json:"p99_ms"`
	MaxMS     float64 `json:"max_ms"`
}

// CallsMemory is what the calls take at the server, in bytes a call.
type CallsMemory struct {
	Resident float64 `json:"resident"` // what the process grew by, garbage included
	Whole    float64 `json:"whole"`    // all that the process has, with what is there without calls
	Heap     float64 `json:"heap"`     // of Resident: in use, after a collection
	Stacks   float64 `json:"stacks"`   // of Resident: goroutines
	// Kernel is what the kernel's slabs grew by, over both ends of all
	// connections, half of it: this machine's other work is in it.
	Kernel float64 `json:"kernel"`
	// State is a call in the tables of a worker, with encryption, without its
	// control connection and PPP: measured with StateCalls of them.
	State      float64 `json:"state"`
	StateCalls int     `json:"state_calls"`
}

// CallsLeft is what the server still has after the end of all calls, beyond
// what it had before the first.
type CallsLeft struct {
	Calls       int   `json:"calls"`
	Connections int   `json:"connections"`
	Sessions    int   `json:"sessions"` // at the workers
	Addresses   int   `json:"addresses"`
	Routes      int   `json:"routes"`
	Files       int   `json:"files"`
	Goroutines  int   `json:"goroutines"`
	Interfaces  int   `json:"interfaces"` // after its end, in its network namespace
	HeapBytes   int64 `json:"heap_bytes"` // tables and pools keep their size
}

// Clean reports whether everything was given back.
func (l *CallsLeft) Clean() bool {
	return l.Calls == 0 && l.Connections == 0 && l.Sessions == 0 && l.Addresses == 0 && l.Routes == 0 && l.Files == 0 &&
		l.Goroutines == 0 && l.Interfaces == 0
}

// The calls' network.
var (
	callsServer = netip.MustParsePrefix("198.18.0.1/15") // RFC 2544: for benchmarks
	callsClient = netip.MustParseAddr("198.18.1.1")      // the first
)

const (
	callsServerIf, callsClientIf = "veth0", "veth1"

	callsUser, callsPassword = "bench", "bench-password"

	// callsPerSource is how many control connections one address has; TCP has
	// ports for some ten times as many.
	callsPerSource = 2000
	// callsFiles is how many files a process has open beside its connections.
	callsFiles = 128

	callsPatience = 60 * time.Second
)

// callsRun is a run of Calls.
type callsRun struct {
	plan    CallsPlan
	dir     string
	ns      *sock.Netns // the server's
	child   *lab.Child
	memory  chan ServeMemory
	api     *api.Client
	caller  *control.Caller
	sources []netip.Addr
	report  CallsReport
	base    serveState

	mu    sync.Mutex
	took  []callTime // of those that came up, in that order
	lost  int
	slots chan struct{} // one for each call that begins or ends
	conns []*control.Connection
	calls []*benchCall
}

type callTime struct{ at, took int64 }

// Calls brings calls up between a server in a network namespace of its own and
// a caller in ours, which must be ours alone, holds them to see what they
// take, and ends them. progress hears how many are up.
func Calls(ctx context.Context, p CallsPlan, progress func(up int)) (*CallsReport, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	r := &callsRun{plan: p, memory: make(chan ServeMemory, 1)}
	defer r.close()
	var err error
	if r.report.Memory.State, err = StatePerCall(p.StateCalls); err != nil {
		return nil, err
	}
	r.report.Memory.StateCalls = p.StateCalls
	if err := r.prepare(); err != nil {
		return nil, err
	}
	if err := r.start(ctx); err != nil {
		return nil, err
	}
	if err := r.run(ctx, progress); err != nil {
		return nil, err
	}
	return &r.report, nil
}

// prepare says how many connections there are, and makes the network.
func (r *callsRun) prepare() (err error) {
	if r.dir, err = os.MkdirTemp("", "xpptp-bench-"); err != nil {
		return err
	}
	want := (r.plan.Calls + r.plan.PerConnection - 1) / r.plan.PerConnection
	limit, err := sock.NeedNoFile(uint64(want + callsFiles))
	if err != nil {
		return err
	}
	// Where not even root gets more files, some connections carry a call more.
	n := want
	if limit < uint64(want+callsFiles) {
		n = int(limit) - callsFiles
	}
	if n < 1 {
		return fmt.Errorf("bench calls: %d open files are not enough (RLIMIT_NOFILE)", limit)
	}
	r.report.Calls, r.report.Connections, r.report.Files = r.plan.Calls, n, limit
	r.report.Sources = (n-1)/callsPerSource + 1

	own, err := sock.OwnNetns()
	if err != nil {
		return err
	}
	defer own.Close()
	if r.ns, err = sock.NewNetns(); err != nil {
		return err
	}
	if err := lab.Wire(r.ns, callsServerIf, own, callsClientIf); err != nil {
		return err
	}
	a := callsClient
	var addrs []netip.Prefix
	for range r.report.Sources {
		r.sources = append(r.sources, a)
		addrs = append(addrs, netip.PrefixFrom(a, callsServer.Bits()))
		a = a.Next()
	}
	if err := r.ns.Do(func() error { return lab.SetUp(callsServerIf, callsServer) }); err != nil {
		return err
	}
	if err := lab.SetUp(callsClientIf, addrs...); err != nil {
		return err
	}
	return lab.Carrier(callsClientIf)
}

// start starts the server and the caller.
func (r *callsRun) start(ctx context.Context) error {
	secrets, socket := filepath.Join(r.dir, "secrets"), filepath.Join(r.dir, "control.sock")
	if err := os.WriteFile(secrets, []byte(callsUser+" * "+callsPassword+" *\n"), 0o600); err != nil {
		return err
	}
	args := append(slices.Clone(r.plan.Args),
		"--listen", netip.AddrPortFrom(callsServer.Addr(), config.Port).String(), "--outside", callsServerIf, "--io", r.plan.IO,
		"--local", "10.64.0.1", "--pool", "10.65.0.1-10.80.255.254", "--secrets", secrets, "--ipv6=false",
		"--log-level", "warn", "--log-format", "json", "--control-socket", socket)
	var err error
	r.child, err = lab.Start(r.ns, r.plan.Program, args, func(line []byte) {
		var m ServeMemory
		if json.Unmarshal(line, &m) == nil {
			r.memory <- m
		}
	})
	if err != nil {
		return err
	}
	r.api = api.NewClient(socket)
	err = r.await(ctx, func() (bool, error) {
		var s api.Stat
		return r.api.Get(ctx, "stat", nil, &s) == nil, nil
	})
	if err != nil {
		return r.child.Because(fmt.Errorf("does not start: %w", err))
	}

	s := config.DefaultStress()
	s.Server = netip.AddrPortFrom(callsServer.Addr(), config.Port).String()
	s.Source = []pool.Range{{First: r.sources[0], Last: r.sources[len(r.sources)-1]}}
	s.Outside, s.IO = []string{callsClientIf}, config.IO(r.plan.IO)
	s.CallsPerConnection = r.plan.Calls // as it comes
	if r.caller, err = control.NewCaller(s.Dial(), slog.New(slog.DiscardHandler)); err != nil {
		return err
	}
	// Nothing is sent through the calls.
	r.caller.SetInside(func(_ int, frames *rings.Pool) (rings.Port, error) {
		in, _ := mem.Pair(mem.Config{Link: rings.LinkIP, PoolA: frames})
		return in, nil
	})
	if err := r.caller.Start(); err != nil {
		r.caller = nil
		return err
	}
	r.report.IO = r.caller.Backend()
	var plan api.Plan
	if err := r.api.Get(ctx, "plan", nil, &plan); err != nil {
		return err
	}
	r.report.Placement = fmt.Sprintf("server: %s; caller: %s", plan.Text, r.caller.Setup())
	return nil
}

func (r *callsRun) run(ctx context.Context, progress func(int)) (err error) {
	if r.base, err = r.look(ctx); err != nil {
		return err
	}
	slab := kernelSlab()
	begin := r.caller.Now()
	if err := r.bringUp(ctx, progress); err != nil {
		return err
	}
	n := float64(max(len(r.took), 1))
	r.setUp(begin)
	kernel := kernelSlab() - slab
	now, err := r.look(ctx)
	if err != nil {
		return err
	}
	m := &r.report.Memory
	m.Resident, m.Whole = (float64(now.resident)-float64(r.base.resident))/n, float64(now.resident)/n
	m.Heap = (float64(now.memory.Heap) - float64(r.base.memory.Heap)) / n
	m.Stacks = (float64(now.memory.Stacks) - float64(r.base.memory.Stacks)) / n
	m.Kernel = float64(kernel) / 2 / n

	end := time.Now()
	r.takeDown(ctx)
	// What the server has left, once it has no more to do.
	err = r.await(ctx, func() (bool, error) {
		now, err = r.look(ctx)
		r.report.Left = now.beyond(&r.base)
		return r.report.Left.Clean(), err
	})
	if err != nil && !errors.Is(err, errPatience) {
		return err
	}
	r.report.EndSeconds = time.Since(end).Seconds()
	r.report.Left.HeapBytes = int64(now.memory.Heap) - int64(r.base.memory.Heap)
	r.report.Failed, r.report.Failures = r.report.Calls-r.report.Up+r.lost, r.failures()
	if err := r.child.Stop(); err != nil {
		return err
	}
	return r.ns.Do(func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			if name := l.Attrs().Name; name != callsServerIf && name != "lo" && l.Type() != "sit" && l.Type() != "ipip" {
				r.report.Left.Interfaces++
			}
		}
		return err
	})
}

// bringUp places all calls, so many at a time, and waits for the last.
func (r *callsRun) bringUp(ctx context.Context, progress func(int)) error {
	link := r.caller.Link(callsUser, aaa.NewSecret(callsPassword), []aaa.Method{aaa.MSCHAPv2}, config.Require)
	r.slots = make(chan struct{}, r.plan.AtOnce)
	calls, conns := r.report.Calls, r.report.Connections
	for i := range calls {
		select {
		case r.slots <- struct{}{}:
		case <-r.child.Gone:
			return r.child.Because(errors.New("ended while calls came up"))
		case <-ctx.Done():
			return ctx.Err()
		}
		begin := r.caller.Now()
		// Evenly: if there are fewer connections than calls, some calls in
		// between join the one before.
		if n := i * conns / calls; n == len(r.conns) {
			r.conns = append(r.conns, r.caller.Connect(control.ConnSpec{
				Server: r.caller.Server(), From: r.sources[n%len(r.sources)],
			}))
		}
		k := &benchCall{r: r, begun: begin}
		r.calls = append(r.calls, k)
		k.placed = r.conns[len(r.conns)-1].Place(link, k)
		if i%100 == 99 {
			progress(r.up())
		}
	}
	defer func() { progress(r.up()) }()
	return r.allSlots(ctx)
}

// allSlots waits until no call is on its way.
func (r *callsRun) allSlots(ctx context.Context) error {
	for range cap(r.slots) {
		select {
		case r.slots <- struct{}{}:
		case <-r.child.Gone:
			return r.child.Because(errors.New("ended before its time"))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (r *callsRun) up() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.took)
}

// takeDown ends the calls and then their connections, in order.
func (r *callsRun) takeDown(ctx context.Context) {
	r.slots = make(chan struct{}, r.plan.AtOnce)
	for _, k := range r.calls {
		if !k.end() {
			continue
		}
		select {
		case r.slots <- struct{}{}:
			k.placed.HangUp()
		case <-r.child.Gone:
			return
		case <-ctx.Done():
			return
		}
	}
	_ = r.allSlots(ctx)
	for _, c := range r.conns {
		c.Stop()
	}
}

// benchCall hears of its call.
type benchCall struct {
	r      *callsRun
	begun  int64
	placed *control.Placed
	// Beside the run's lock.
	up, over, ending bool
	cause            string
}

// CallUp implements control.CallWatcher.
func (k *benchCall) CallUp(c *control.CallReport) {
	k.r.mu.Lock()
	defer k.r.mu.Unlock()
	k.up = true
	at := max(c.Ends[control.PhaseNetwork], k.begun)
	k.r.took = append(k.r.took, callTime{at, at - k.begun})
	<-k.r.slots
}

// CallDown implements control.CallWatcher.
func (k *benchCall) CallDown(c *control.CallReport) {
	k.r.mu.Lock()
	defer k.r.mu.Unlock()
	k.over = true
	switch {
	case k.ending, !k.up:
		<-k.r.slots
	default:
		k.r.lost++
	}
	if !k.ending || c.Cause != control.CauseEnded {
		k.cause = c.Cause
	}
}

// end notes that the call is about to be ended; false if it is over already.
func (k *benchCall) end() bool {
	k.r.mu.Lock()
	defer k.r.mu.Unlock()
	k.ending = !k.over
	return k.ending
}

func (r *callsRun) failures() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := map[string]int{}
	for _, k := range r.calls {
		if k.cause != "" {
			all[k.cause]++
		}
	}
	return all
}

// setUp fills in how long it took to set up the calls.
func (r *callsRun) setUp(begin int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.took)
	r.report.Up = n
	if n == 0 {
		return
	}
	last := slices.MaxFunc(r.took, func(a, b callTime) int { return cmp.Compare(a.at, b.at) }).at
	r.report.Seconds = float64(last-begin) / 1e9
	r.report.PerSecond = float64(n) / r.report.Seconds
	r.report.Tenths = tenths(r.took, begin)
}

// tenths cuts the times into ten parts, in the order of at.
func tenths(took []callTime, begin int64) (all []CallsTenth) {
	took = slices.SortedFunc(slices.Values(took), func(a, b callTime) int { return cmp.Compare(a.at, b.at) })
	n := len(took)
	for i := range 10 {
		part := took[i*n/10 : (i+1)*n/10]
		if len(part) == 0 {
			continue
		}
		end := part[len(part)-1].at
		t := CallsTenth{Calls: len(part), PerSecond: float64(len(part)) * 1e9 / float64(max(end-begin, 1))}
		begin = end
		sorted := slices.SortedFunc(slices.Values(part), func(a, b callTime) int { return cmp.Compare(a.took, b.took) })
		t.MedianMS = float64(sorted[len(sorted)/2].took) / 1e6
		t.P99MS = float64(sorted[len(sorted)*99/100].took) / 1e6
		t.MaxMS = float64(sorted[len(sorted)-1].took) / 1e6
		all = append(all, t)
	}
	return all
}

// serveState is what the server has.
type serveState struct {
	resident            uint64
	memory              ServeMemory
	calls, conns        int
	sessions, addresses int
	routes, files       int
}

// look asks the server, and the kernel about it.
func (r *callsRun) look(ctx context.Context) (s serveState, err error) {
	pid := r.child.PID()
	_, s.resident = sock.ProcessUsage(pid) // as it runs: with what is to be collected
	var stat api.Stat
	var pools []api.Pool
	var workers []api.Worker
	err = errors.Join(r.api.Get(ctx, "stat", nil, &stat), r.api.Get(ctx, "pools", nil, &pools), r.api.Get(ctx, "workers", nil, &workers))
	r.api.Close()
	if err != nil {
		return s, r.child.Because(err)
	}
	s.calls, s.conns = stat.Calls, stat.Connections
	for i := range pools {
		s.addresses += pools[i].Used
	}
	for i := range workers {
		s.sessions += workers[i].Calls
	}
	files, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/fd")
	if err != nil {
		return s, err
	}
	s.files = len(files)
	err = r.ns.Do(func() error {
		routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
		s.routes = len(routes)
		return err
	})
	if err != nil {
		return s, err
	}
	if err := syscall.Kill(pid, syscall.SIGUSR1); err != nil {
		return s, err
	}
	select {
	case s.memory = <-r.memory:
		return s, nil
	case <-r.child.Gone:
		return s, r.child.Because(errors.New("ended before its time"))
	case <-time.After(callsPatience):
		return s, r.child.Because(errors.New("does not answer"))
	}
}

// beyond is what there is more than before.
func (s *serveState) beyond(before *serveState) CallsLeft {
	more := func(now, then int) int { return max(now-then, 0) }
	return CallsLeft{
		Calls: s.calls, Connections: s.conns, Sessions: s.sessions, Addresses: more(s.addresses, before.addresses),
		Routes: more(s.routes, before.routes), Files: more(s.files, before.files),
		Goroutines: more(s.memory.Goroutines, before.memory.Goroutines),
	}
}

// errPatience says that something has not come to be in time.
var errPatience = fmt.Errorf("not within %v", callsPatience)

// await asks again and again until done, or an error.
func (r *callsRun) await(ctx context.Context, done func() (bool, error)) error {
	for end := time.Now().Add(callsPatience); ; {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-r.child.Gone:
			return errors.New("it has ended")
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(end) {
			return errPatience
		}
	}
}

func (r *callsRun) close() {
	if r.caller != nil {
		ctx, cancel := context.WithTimeout(context.Background(), callsPatience)
		_ = r.caller.Shutdown(ctx)
		cancel()
	}
	if r.api != nil {
		r.api.Close()
	}
	if r.child != nil {
		_ = r.child.Stop()
	}
	if r.ns != nil {
		_ = r.ns.Close()
	}
	_ = os.RemoveAll(r.dir)
}

// kernelSlab is what the kernel has in slabs, in bytes: sockets, files and
// directory entries are there. See /proc/meminfo in proc(5).
func kernelSlab() int64 {
	b, _ := os.ReadFile("/proc/meminfo")
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "SUnreclaim:" {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n << 10
		}
	}
	return 0
}
