package main

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// Calls come and go in order and not, the link goes down and up, encrypted
// traffic runs all the time: no frame is lost, no packet vanishes without a
// name, memory stays. XPPTP_SOAK says how long, in all; for 1, 2 and 4 workers.
func TestSoak(t *testing.T) {
	total, err := time.ParseDuration(os.Getenv("XPPTP_SOAK"))
	if err != nil {
		t.Skip("XPPTP_SOAK=10m, or another time, runs it")
	}
	for _, workers := range []int{1, 2, 4} {
		t.Run(fmt.Sprintf("%d workers", workers), func(t *testing.T) { soak(t, workers, total/3) })
	}
}

const soakPort = 7777

func soak(t *testing.T, workers int, long time.Duration) {
	n := newNet2(t)
	n.pool = "10.9.0.10-10.9.0.250"
	s := startServer(t, n, "--workers", strconv.Itoa(workers), "--ppp-echo-interval", "2s", "--ppp-echo-failures", "3")
	n.echoServer(t)
	// Several clients on one interface share it by packet sockets only: an XDP
	// program drops what is for another's calls.
	dial := func() *program {
		p := start(t, n.client, n.dialArgs("--io", "tpacket", "--calls", "4", "--workers", strconv.Itoa(workers), "--persist", "--redial-min", "1s", "-o", "json")...)
		p.says("ports open")
		return p
	}
	var clients []*program
	for range 3 {
		clients = append(clients, dial())
	}
	stop := make(chan struct{})
	var traffic sync.WaitGroup
	var sent, back int
	traffic.Add(1)
	go func() {
		defer traffic.Done()
		sent, back = n.chatter(stop)
	}()
	quiet := sync.OnceFunc(func() { close(stop); traffic.Wait() })
	defer quiet()
	flap := func() { // the server's link, down for a moment
		n.server.Do(func() {
			l, err := netlink.LinkByName(n.rt0.Name)
			if err == nil {
				err = netlink.LinkSetDown(l)
			}
			time.Sleep(time.Duration(rand.IntN(400)) * time.Millisecond)
			if err == nil {
				err = netlink.LinkSetUp(l)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	early := 0
	begin := time.Now()
	for what := 0; time.Since(begin) < long; what++ {
		time.Sleep(2 * time.Second)
		i := rand.IntN(len(clients))
		switch what % 4 {
		case 0:
			clients[i].stops()
			clients[i] = dial()
		case 1:
			flap()
		case 2: // its calls stay at the server until it notices
			_ = clients[i].cmd.Process.Kill()
			<-clients[i].done
			clients[i] = dial()
		}
		if early == 0 && time.Since(begin) > long/3 {
			early = memory(t, s)
		}
		select {
		case <-s.done:
			t.Fatal("the server has ended")
		default:
		}
	}
	quiet()
	late := memory(t, s)
	for _, c := range clients {
		c.stops()
	}
	s.stops()
	for _, p := range append(clients, s) {
		if strings.Contains(p.err.String(), "frames lost") {
			t.Errorf("%v has lost frames", p.cmd.Args)
		}
	}
	if late > early+early/4+16<<20 {
		t.Errorf("memory went from %d to %d MiB", early>>20, late>>20)
	}
	if sent == 0 || back < sent/4 {
		t.Errorf("%d packets sent through calls, %d came back", sent, back)
	}
	t.Logf("%d packets sent through calls, %d came back; memory %d MiB, then %d MiB", sent, back, early>>20, late>>20)
	for line := range strings.Lines(s.err.String()) {
		if strings.Contains(line, "msg=counters") || strings.Contains(line, `msg="dropped in XDP"`) {
			t.Log(strings.TrimSpace(line))
		}
	}
}

// echoServer answers on the server's address inside.
func (n *net2) echoServer(t *testing.T) {
	var far *net.UDPConn
	n.server.Do(func() {
		var err error
		if far, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(10, 9, 0, 1), Port: soakPort}); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { far.Close() })
	go func() {
		b := make([]byte, 2000)
		for {
			k, from, err := far.ReadFromUDP(b)
			if err != nil {
				return
			}
			_, _ = far.WriteToUDP(b[:k], from)
		}
	}()
}

// chatter sends through whatever calls there are until stop, and counts what
// was sent and what came back.
func (n *net2) chatter(stop chan struct{}) (sent, back int) {
	b := make([]byte, 1400)
	for {
		select {
		case <-stop:
			return sent, back
		default:
		}
		var conns []*net.UDPConn
		n.client.Do(func() {
			addrs, _ := net.InterfaceAddrs()
			for _, a := range addrs {
				p, err := netip.ParsePrefix(a.String())
				if err != nil || !strings.HasPrefix(p.Addr().String(), "10.9.") {
					continue
				}
				if c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: p.Addr().AsSlice()}); err == nil {
					conns = append(conns, c)
				}
			}
		})
		for range 50 {
			for _, c := range conns {
				if _, err := c.WriteToUDP(b[:64+rand.IntN(1200)], &net.UDPAddr{IP: net.IPv4(10, 9, 0, 1), Port: soakPort}); err == nil {
					sent++
				}
			}
			time.Sleep(2 * time.Millisecond)
			for _, c := range conns {
				for {
					_ = c.SetReadDeadline(time.Now().Add(50 * time.Microsecond))
					if _, _, err := c.ReadFromUDP(b); err != nil {
						break
					}
					back++
				}
			}
		}
		for _, c := range conns {
			c.Close()
		}
		if len(conns) == 0 {
			time.Sleep(50 * time.Millisecond)
		}
	}
}

// memory is what a process has in memory, in bytes.
func memory(t *testing.T, p *program) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	m := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(text)
	if err != nil || m == nil {
		t.Fatalf("memory of process %d: %v", p.cmd.Process.Pid, err)
	}
	kb, _ := strconv.Atoi(string(m[1]))
	return kb << 10
}
