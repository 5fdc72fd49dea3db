package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"xpptp/control"
	"xpptp/control/aaa/radius"
)

// Bounds of what is read and waited for.
const (
	maxHeader   = 16 << 10
	maxBody     = 16 << 10
	readTime    = 5 * time.Second
	writeTime   = 30 * time.Second
	idleTime    = time.Minute
	collectTime = 5 * time.Second // for loops and workers to answer
)

// Options are what a Server looks at and operates.
type Options struct {
	Box     *control.Box
	Radius  *radius.Client // nil: there are no servers
	Version any            // what /v1/version says
	Name    string         // the version in a word
	Log     *slog.Logger
	// Drains: the program ends when a box that is draining has no call left.
	Drains bool
	// Reload is what SIGHUP does; nil: there is nothing to reload.
	Reload func(context.Context) error
	// Stop ends the program: at once, or after the calls have ended in order.
	Stop func(hard bool)
}

// Server answers requests on a unix socket.
type Server struct {
	o       Options
	path    string
	ln      net.Listener
	own     os.FileInfo // the socket, as we made it
	http    http.Server
	started time.Time
	stop    context.CancelCauseFunc
	served  chan struct{}
}

var (
	errTimeout = errors.New("no answer in time")
	errClosing = errors.New("shutting down")
)

// Serve makes the socket, which only its owner may open, and answers requests
// until Close. The box must have started. What another process that lives has
// at path is an error, what a dead one has left is replaced.
func Serve(path string, o Options) (*Server, error) {
	s := &Server{o: o, path: path, started: time.Now(), served: make(chan struct{})}
	var err error
	if s.ln, s.own, err = listen(path); err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	s.stop = cancel
	s.http = http.Server{
		Handler: s.handler(), ReadTimeout: readTime, ReadHeaderTimeout: readTime, WriteTimeout: writeTime,
		IdleTimeout: idleTime, MaxHeaderBytes: maxHeader,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
	}
	go func() {
		defer close(s.served)
		_ = s.http.Serve(s.ln)
	}()
	return s, nil
}

// Close lets requests that are under way end, for a moment, and takes the
// socket away. No request looks at the box afterwards.
func (s *Server) Close() error {
	s.stop(errClosing)
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = s.http.Close()
	}
	<-s.served
	if now, e := os.Lstat(s.path); e == nil && os.SameFile(now, s.own) {
		err = errors.Join(err, os.Remove(s.path))
	}
	return err
}

// maxPath is what a socket's address has room for, with the name it has while
// it is made.
const maxPath = 107 - len(".new")

// listen makes the socket under another name first, so that whoever finds it
// finds it with its mode.
func listen(path string) (net.Listener, os.FileInfo, error) {
	if len(path) > maxPath {
		return nil, nil, fmt.Errorf("%s: longer than %d bytes", path, maxPath)
	}
	switch old, err := os.Lstat(path); {
	case errors.Is(err, os.ErrNotExist):
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, nil, err
		}
	case err != nil:
		return nil, nil, err
	case old.Mode().Type() != os.ModeSocket:
		return nil, nil, fmt.Errorf("%s is in the way: it is no socket", path)
	default:
		if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
			_ = c.Close()
			return nil, nil, fmt.Errorf("%s is another running xpptp's: name a different one by control.socket", path)
		}
	}
	fresh := path + ".new"
	_ = os.Remove(fresh)
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return nil, nil, err
	}
	ln.SetUnlinkOnClose(false)
	var own os.FileInfo
	if err = os.Chmod(fresh, 0o600); err == nil {
		if err = os.Rename(fresh, path); err == nil {
			own, err = os.Lstat(path)
		}
	}
	if err != nil {
		_ = ln.Close()
		_ = os.Remove(fresh)
		return nil, nil, err
	}
	return ln, own, nil
}

// failure is an error with the status it is answered with.
type failure struct {
	status int
	text   string
}

func (f *failure) Error() string { return f.text }

func badRequest(err error) error { return &failure{http.StatusBadRequest, err.Error()} }

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	for pattern, f := range map[string]func(*http.Request) (any, error){
		"GET /v1/stat":       s.stat,
		"GET /v1/sessions":   s.sessions,
		"GET /v1/drops":      s.drops,
		"GET /v1/workers":    s.workers,
		"GET /v1/pools":      s.pools,
		"GET /v1/radius":     s.radius,
		"GET /v1/plan":       func(*http.Request) (any, error) { return NewPlan(s.o.Box), nil },
		"GET /v1/version":    func(*http.Request) (any, error) { return s.o.Version, nil },
		"POST /v1/terminate": s.terminate,
		"POST /v1/drain":     s.drain,
		"POST /v1/shutdown":  s.shutdown,
		"POST /v1/reload":    s.reload,
		"GET /healthz":       s.health,
		"GET /readyz":        s.ready,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeoutCause(r.Context(), collectTime, errTimeout)
			defer cancel()
			r = r.WithContext(ctx)
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			v, err := f(r)
			answer(w, v, err)
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		answer(w, nil, &failure{http.StatusNotFound, fmt.Sprintf("there is no %s %s", r.Method, r.URL.Path)})
	})
	return mux
}

// answer writes v, or err as an object.
func answer(w http.ResponseWriter, v any, err error) {
	status := http.StatusOK
	if err != nil {
		status = http.StatusServiceUnavailable
		var f *failure
		if errors.As(err, &f) {
			status = f.status
		}
		v = map[string]string{"error": err.Error()}
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		status = http.StatusInternalServerError
		b.Reset()
		fmt.Fprintf(&b, "{\"error\": %q}\n", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes())
}

// read decodes a request's body into v. An empty body leaves v.
func read(r *http.Request, v any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil && d.More() {
		err = errors.New("more than one object")
	}
	if err != nil {
		return badRequest(fmt.Errorf("body: %w", err))
	}
	return nil
}

func (s *Server) stat(r *http.Request) (any, error) {
	states, err := s.o.Box.Counters(r.Context())
	if err != nil {
		return nil, err
	}
	t := s.o.Box.Totals()
	early := s.o.Box.Early()
	st := Stat{
		Version: s.o.Name, PID: os.Getpid(), Started: s.started.UTC().Truncate(time.Second),
		UptimeSeconds: int64(time.Since(s.started) / time.Second), State: "running", Workers: len(states), Ports: []Port{},
		Calls: t.Calls, Connections: t.Connections, CallsUp: t.Up, AuthFailures: t.AuthFailures,
		RefusedConnections: t.RefusedConnections, Strangers: t.Strangers, ProtocolErrors: t.ProtocolViolations,
		EarlyDrops: total(&early),
	}
	if s.o.Box.Draining() {
		st.State = "draining"
	}
	at := map[string]int{} // name → index
	for i := range states {
		w := &states[i]
		st.Drops += total(&w.Drops)
		for k := range w.Ports {
			p := newPort(&w.Ports[k], &w.Stats[k])
			if n, ok := at[p.Name+" "+p.Backend]; ok {
				st.Ports[n].add(&p)
				continue
			}
			at[p.Name+" "+p.Backend] = len(st.Ports)
			st.Ports = append(st.Ports, p)
		}
	}
	st.Drops += st.EarlyDrops
	return st, nil
}

func (s *Server) sessions(r *http.Request) (any, error) {
	sel, err := ParseSelection(r.URL.Query())
	if err != nil {
		return nil, badRequest(err)
	}
	calls, err := s.o.Box.Look(r.Context(), sel)
	if err != nil {
		return nil, err
	}
	out := make([]Session, len(calls))
	for i := range calls {
		out[i] = newSession(&calls[i])
	}
	return out, nil
}

func (s *Server) drops(r *http.Request) (any, error) {
	states, err := s.o.Box.Counters(r.Context())
	if err != nil {
		return nil, err
	}
	return newDrops(s.o.Box.Early(), states), nil
}

func (s *Server) workers(r *http.Request) (any, error) {
	states, err := s.o.Box.Counters(r.Context())
	if err != nil {
		return nil, err
	}
	setup := s.o.Box.Setup()
	out := make([]Worker, len(states))
	for i := range states {
		out[i] = newWorker(&states[i], setup.Workers[i].CPU)
	}
	return out, nil
}

func (s *Server) pools(*http.Request) (any, error) {
	out := []Pool{}
	for _, p := range s.o.Box.Pools() {
		out = append(out, Pool{p.Name, p.Size, p.Used, p.Size - p.Used})
	}
	return out, nil
}

func (s *Server) radius(*http.Request) (any, error) {
	if s.o.Radius == nil {
		return nil, &failure{http.StatusNotFound, "no RADIUS server is configured"}
	}
	return s.o.Radius.Status(), nil
}

func (s *Server) terminate(r *http.Request) (any, error) {
	var req TerminateRequest
	if err := read(r, &req); err != nil {
		return nil, err
	}
	sel, err := req.selection()
	if err != nil {
		return nil, badRequest(err)
	}
	if sel == (control.Selection{Call: sel.Call}) && sel.Call != 0 {
		calls, err := s.o.Box.Look(r.Context(), sel)
		if err != nil {
			return nil, err
		}
		if len(calls) > 1 {
			return nil, &failure{http.StatusConflict, fmt.Sprintf("call %d: %d calls with different peers have this ID: name the peer, or the session", sel.Call, len(calls))}
		}
	}
	n, err := s.o.Box.Terminate(r.Context(), sel, req.Hard)
	switch {
	case err != nil:
		return nil, err
	case n == 0 && !req.All:
		return nil, &failure{http.StatusNotFound, "no such call"}
	}
	s.o.Log.Info("calls ended by the operator", "calls", n, "hard", req.Hard)
	return Ended{n}, nil
}

func (s *Server) drain(*http.Request) (any, error) {
	if !s.o.Drains {
		return nil, &failure{http.StatusNotFound, "a client takes no calls: shut it down"}
	}
	s.o.Log.Info("no new calls are taken", "calls", s.o.Box.Calls())
	s.o.Box.Drain(true)
	return s.done(), nil
}

func (s *Server) done() Done { return Done{true, s.o.Box.Calls()} }

func (s *Server) shutdown(r *http.Request) (any, error) {
	var req ShutdownRequest
	if err := read(r, &req); err != nil {
		return nil, err
	}
	switch req.Mode {
	case Soft, Hard:
		s.o.Stop(req.Mode == Hard)
	case Cancel:
		if !s.o.Box.Draining() {
			return nil, &failure{http.StatusConflict, "nothing to cancel: new calls are taken"}
		}
		s.o.Log.Info("new calls are taken again")
		s.o.Box.Drain(false)
	default:
		return nil, badRequest(fmt.Errorf("mode: %q is none of soft, hard, cancel", req.Mode))
	}
	return s.done(), nil
}

func (s *Server) reload(r *http.Request) (any, error) {
	if s.o.Reload == nil {
		return nil, &failure{http.StatusNotFound, "there is nothing to reload"}
	}
	if err := s.o.Reload(r.Context()); err != nil {
		return nil, &failure{http.StatusUnprocessableEntity, err.Error()}
	}
	return s.done(), nil
}

// health asks every loop and every worker.
func (s *Server) health(r *http.Request) (any, error) {
	// Nobody has this name, so that they only have to answer.
	if _, err := s.o.Box.Look(r.Context(), control.Selection{Session: "-"}); err != nil {
		return nil, err
	}
	return Done{true, s.o.Box.Calls()}, nil
}

func (s *Server) ready(r *http.Request) (any, error) {
	if s.o.Box.Draining() {
		return nil, &failure{http.StatusServiceUnavailable, "draining"}
	}
	return s.health(r)
}
