package demo

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"xpptp/control/sock"
)

// stopTime bounds the orderly end of a child.
const stopTime = 15 * time.Second

// child is an xpptp that runs in one of the namespaces and logs JSON.
type child struct {
	cmd   *exec.Cmd
	ready chan struct{} // closed at the log line "listening"
	gone  chan struct{} // closed when it has ended and its output is read
	err   error         // how it ended, once gone

	mu    sync.Mutex
	tail  []string // the last lines of its log
	drops map[string]uint64
	total calls
}

// calls is what the calls of a child carried, by its own count.
type calls struct{ RxPackets, TxPackets uint64 }

// logLine is what matters in a line of log.
type logLine struct {
	Msg       string            `json:"msg"`
	RxPackets uint64            `json:"rx_packets"`
	TxPackets uint64            `json:"tx_packets"`
	Drops     json.RawMessage   `json:"drops"` // an object in "counters"
	counts    map[string]uint64 // it, decoded
}

// tailLines is how much of the log an error shows.
const tailLines = 8

// start runs the program in a namespace. Lines of its standard output go to
// lines, if not nil, from one goroutine.
func start(in *sock.Netns, program string, args []string, lines func([]byte)) (*child, error) {
	c := &child{cmd: exec.Command(program, args...), ready: make(chan struct{}), gone: make(chan struct{}), drops: map[string]uint64{}}
	sock.Tied(c.cmd)
	stderr, err := c.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := in.Do(c.cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", args[0], err)
	}
	var readers sync.WaitGroup
	read := func(r io.Reader, f func([]byte)) {
		readers.Go(func() {
			s := bufio.NewScanner(r)
			s.Buffer(nil, 1<<20)
			for s.Scan() {
				f(s.Bytes())
			}
			_, _ = io.Copy(io.Discard, r)
		})
	}
	listening := false
	read(stderr, func(b []byte) {
		if c.log(b) && !listening {
			listening = true
			close(c.ready)
		}
	})
	read(stdout, func(b []byte) {
		if lines != nil {
			lines(b)
		}
	})
	go func() {
		readers.Wait()
		c.err = c.cmd.Wait()
		close(c.gone)
	}()
	return c, nil
}

// log takes a line of log; it reports whether the child says that it listens.
func (c *child) log(b []byte) bool {
	var l logLine
	c.mu.Lock()
	defer c.mu.Unlock()
	if json.Unmarshal(b, &l) != nil {
		l.Msg = ""
	}
	switch l.Msg {
	case "counters":
		if json.Unmarshal(l.Drops, &l.counts) == nil {
			for name, n := range l.counts {
				c.drops[name] += n
			}
		}
	case "call down":
		c.total.RxPackets += l.RxPackets
		c.total.TxPackets += l.TxPackets
	}
	if c.tail = append(c.tail, string(b)); len(c.tail) > tailLines {
		c.tail = c.tail[1:]
	}
	return l.Msg == "listening"
}

// stop ends the child in order and waits for it. It may be called twice.
func (c *child) stop() error {
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.gone:
	case <-time.After(stopTime):
		_ = c.cmd.Process.Signal(os.Kill)
		<-c.gone
	}
	return c.failure()
}

// failure is an error with the end of the log, if the child failed.
func (c *child) failure() error {
	if c.err == nil {
		return nil
	}
	return c.because(c.err)
}

func (c *child) because(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return fmt.Errorf("xpptp %s: %w\n  %s", c.cmd.Args[1], err, strings.Join(c.tail, "\n  "))
}
