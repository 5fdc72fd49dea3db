// Package lab has what a demonstration or a test on one machine is made of:
// wires between network namespaces, and xpptp commands that run in them.
package lab

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

// Child is an xpptp that runs in a namespace and logs JSON.
type Child struct {
	cmd   *exec.Cmd
	Ready chan struct{} // closed at the log line "listening"
	Gone  chan struct{} // closed when it has ended and its output is read
	Err   error         // how it ended, once gone

	mu    sync.Mutex
	tail  []string // the last lines of its log
	drops map[string]uint64
	total Packets
}

// Packets is what the calls of a child carried, by its own count.
type Packets struct{ RxPackets, TxPackets uint64 }

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

// Start runs the program in a namespace. Lines of its standard output go to
// lines, if not nil, from one goroutine.
func Start(in *sock.Netns, program string, args []string, lines func([]byte)) (*Child, error) {
	c := &Child{cmd: exec.Command(program, args...), Ready: make(chan struct{}), Gone: make(chan struct{}), drops: map[string]uint64{}}
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
			close(c.Ready)
		}
	})
	read(stdout, func(b []byte) {
		if lines != nil {
			lines(b)
		}
	})
	go func() {
		readers.Wait()
		c.Err = c.cmd.Wait()
		close(c.Gone)
	}()
	return c, nil
}

// log takes a line of log; it reports whether the child says that it listens.
func (c *Child) log(b []byte) bool {
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

// Stop ends the child in order and waits for it. It may be called twice.
func (c *Child) Stop() error {
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.Gone:
	case <-time.After(stopTime):
		_ = c.cmd.Process.Signal(os.Kill)
		<-c.Gone
	}
	return c.failure()
}

// failure is an error with the end of the log, if the child failed.
func (c *Child) failure() error {
	if c.Err == nil {
		return nil
	}
	return c.Because(c.Err)
}

// Because adds the end of the log to err.
func (c *Child) Because(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return fmt.Errorf("xpptp %s: %w\n  %s", c.cmd.Args[1], err, strings.Join(c.tail, "\n  "))
}

// Counts returns what a child that has ended counted: the packets of its
// calls, and its drops by name.
func (c *Child) Counts() (Packets, map[string]uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.total, c.drops
}

// PID is its process ID.
func (c *Child) PID() int { return c.cmd.Process.Pid }

// Kill ends it at once, and waits for that.
func (c *Child) Kill() {
	_ = c.cmd.Process.Kill()
	<-c.Gone
}
