package main

import (
	"bytes"
	"encoding/json"
	"io"
	"math"
	"net/netip"
	"testing"
	"time"

	"xpptp/control/aaa/radius"
	"xpptp/control/api"
	"xpptp/hwprofile"
)

// Tables of what a server could have answered, to the letter.
func TestShowTables(t *testing.T) {
	ip := netip.MustParseAddr
	server := radius.ServerStatus{Service: "authentication", Address: "192.0.2.10:1812", Weight: 2, Alive: true, Pending: 1}
	server.Requests, server.Accepts, server.Rejects, server.Timeouts, server.Latency = 1200, 1100, 99, 1, 1234567*time.Nanosecond
	dead := radius.ServerStatus{Service: "accounting", Address: "[2001:db8::1]:1813", Weight: 1}
	dead.Forged, dead.Unsigned = 3, 4
	for _, c := range []struct {
		show func(io.Writer, *style, []byte) error
		s    style
		v    any
		want string
	}{
		{showSessions, style{format: "table"}, []api.Session{
			{User: "bob", State: "up", IP: ip("10.0.0.9"), Peer: ip("192.0.2.1"), CallID: 7, AgeSeconds: 90061, Cipher: "none", RxBytes: 999, TxBytes: 1234567, Drops: 1},
			{User: "alice", State: "up", IP: ip("10.0.0.10"), Peer: ip("192.0.2.1"), CallID: 50000, AgeSeconds: 3600},
			{User: "alice", State: "network", IP: ip("10.0.0.2"), Peer: ip("192.0.2.1"), CallID: 9},
			{User: "b\x1b[2J", State: "establish", Peer: ip("192.0.2.77"), CallID: 8, AgeSeconds: 61},
		}, `USER        IP         PEER         CALL  STATE        AGE  CIPHER  RX-BYTES  TX-BYTES  DROPS
alice       10.0.0.2   192.0.2.1       9  network       0s  -            0 B       0 B      0
alice       10.0.0.10  192.0.2.1   50000  up         1h00m  -            0 B       0 B      0
"b\x1b[2J"  -          192.0.2.77      8  establish  1m01s  -            0 B       0 B      0
bob         10.0.0.9   192.0.2.1       7  up         1d01h  none       999 B    1.2 MB      1
`},
		{
			showSessions,
			style{format: "table", columns: []string{"rate-up", "user"}},
			[]api.Session{{User: "a", RateUp: 2_500_000}, {User: "b"}},
			"   RATE-UP  USER\n2.5 Mbit/s  a\n         -  b\n",
		},
		{
			showRadius,
			style{format: "table"},
			radius.Status{Servers: []radius.ServerStatus{server, dead}, Waiting: 5, Overload: 6},
			`SERVICE         SERVER              STATE  REQUESTS  ACCEPTS  REJECTS  ACCOUNTED  TIMEOUTS  FORGED  LATENCY
authentication  192.0.2.10:1812     alive      1200     1100       99          0         1       0   1.23ms
accounting      [2001:db8::1]:1813  dead          0        0        0          0         0       7       0s

waiting 5, refused for too many waiting 6
`,
		},
		{
			showDrops,
			style{format: "wide"},
			api.Drops{Reasons: []api.Drop{{Reason: "bad-gre", Total: 12, XDP: 4, Workers: []uint64{8, 0}}}},
			"REASON   PACKETS  XDP  WORKER-0  WORKER-1\nbad-gre       12    4         8         0\n",
		},
		{showPlan, style{format: "table"}, api.Plan{
			Text: "2 workers on CPUs 1,2, xsk on eth0, inside eth1", IO: "xsk", Why: "asked for",
			Workers: []api.PlanWorker{{ID: 0, CPU: 1, Ports: []api.PlanPort{{Name: "eth0", Backend: "xsk"}}}, {ID: 1, CPU: -1}},
			Hardware: &hwprofile.Plan{
				Workers: []hwprofile.Worker{{CPU: 1}}, Control: hwprofile.CPUs{0},
				Interfaces: []hwprofile.PlanInterface{{Name: "eth0", Driver: "ixgbe", Queues: make([]hwprofile.Queue, 2)}},
				Steering:   hwprofile.Steering{Method: "xdp"},
			},
		}, `2 workers on CPUs 1,2, xsk on eth0, inside eth1
xsk: asked for
tuned: 1 worker on CPUs 1, control plane on CPUs 0, eth0 (ixgbe) 2 queues, steering xdp

WORKER  CPU  PORTS
     0    1  eth0:0 (xsk)
     1  any  -
`},
	} {
		raw, err := json.Marshal(c.v)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := c.show(&b, &c.s, raw); err != nil || b.String() != c.want {
			t.Errorf("%v\n%s\nwant\n%s", err, b.String(), c.want)
		}
	}
}

func TestUnits(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0 B", 999: "999 B", 1000: "1.0 kB", 999_949: "999.9 kB", 999_950: "1.0 MB", 5_000_000_000: "5.0 GB", math.MaxUint64: "18.4 EB",
	} {
		if got := bytesText(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0s", 59: "59s", 60: "1m00s", 3599: "59m59s", 3600: "1h00m", 86399: "23h59m", 86400: "1d00h", 864000: "10d00h"} {
		if got := ageText(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
