package control

import (
	"bytes"
	"log/slog"
	"net/netip"
	"testing"

	"xpptp/control/pptp"
)

// A line of a call says whose it is, in the order of what it belongs to; a line
// below the level is not made.
func TestLogNames(t *testing.T) {
	var out bytes.Buffer
	plain := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	cfg := pptp.DefaultConfig()
	l := &Loop{box: &Box{log: plain.With("end", "server")}}
	c := &conn{l: l, m: pptp.NewConn(&cfg, false, netip.MustParseAddrPort("192.0.2.1:1723"), netip.MustParseAddrPort("192.0.2.9:4000"))}
	c.log = slog.New(lateLog{c})
	k := &call{l: l, conn: c, id: 7}
	k.log = slog.New(lateLog{k})

	c.log.Debug("nobody wants to know")
	c.log.Warn("of a connection", "why", "it is slow")
	k.log.Info("of a call")
	k.opened, k.peerID = true, 8
	k.log.With("user", "alice").WithGroup("drops").Info("of a call that is up", "late", 1)
	const want = `level=WARN msg="of a connection" end=server peer=192.0.2.9 port=4000 why="it is slow"
level=INFO msg="of a call" end=server peer=192.0.2.9 port=4000 call=7
level=INFO msg="of a call that is up" end=server peer=192.0.2.9 port=4000 call=7 peer_call=8 user=alice drops.late=1
`
	if out.String() != want {
		t.Errorf("the log is\n%swant\n%s", out.String(), want)
	}
}
