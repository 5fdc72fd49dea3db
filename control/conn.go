package control

import (
	"log/slog"
	"net/netip"

	"xpptp/control/pptp"
	"xpptp/workers"
)

// idleConn is how long a control connection may stay without a call.
const idleConn = int64(60e9)

// conn is one control connection: the machine, its transport, and its calls.
type conn struct {
	l     *Loop
	m     *pptp.Conn
	tr    transport
	log   *slog.Logger
	timer workers.Timer
	calls map[pptp.CallRef]*call

	idleSince int64 // when the last call went; 0 while there is one
	blocked   bool  // a goroutine waits for the transport
	closed    bool
	stopping  bool
	leaving   bool // stop once the last call is gone
	keep      bool // stay when the last call is gone
	killed    bool // by us, without ceremony
	placing   int  // calls on their way to the worker

	// Client side.
	onUp   func()            // established
	onDown func(pptp.Closed) // over
}

func (l *Loop) addConn(tr transport, originator bool, local, remote netip.AddrPort) *conn {
	c := &conn{
		l: l, tr: tr,
		m:         pptp.NewConn(&l.pptp, originator, local, remote),
		calls:     make(map[pptp.CallRef]*call),
		idleSince: l.now,
	}
	c.log = slog.New(lateLog{c})
	c.timer.Owner = c
	l.conns[c] = struct{}{}
	if l.box.stopping.Load() {
		c.m.RefuseStart(pptp.StartGeneralError, pptp.ErrorNoResource)
	}
	c.m.Start(l.now)
	c.pump()
	return c
}

// input takes octets from the transport.
func (c *conn) input(b []byte) {
	if c.closed {
		return
	}
	c.l.busy = c
	c.m.Input(c.l.now, b)
	c.pump()
}

// statistics is what the machine puts into the Call-Disconnect-Notify that
// answers a Call-Clear-Request: the call's final counts, if its link has ended
// before, as it does when a peer hangs up in order.
func (l *Loop) statistics(_ *pptp.Conn, ref pptp.CallRef) string {
	if k := l.busy.calls[ref]; k != nil && k.greEnd.Received > 0 {
		return k.statistics()
	}
	return ""
}

// lost tells that the transport ended.
func (c *conn) lost(err error) {
	if c.closed {
		return
	}
	if err != nil {
		c.log.Debug("control connection lost", "err", err)
	}
	c.m.Lost(c.l.now)
	c.pump()
}

func (c *conn) tick() {
	if c.closed {
		return
	}
	if c.idleSince != 0 && !c.stopping && c.l.now-c.idleSince >= idleConn {
		c.log.Debug("control connection has no calls")
		c.leaving = true
	}
	c.m.Tick(c.l.now)
	c.pump()
}

func (c *conn) stopReason() pptp.StopReason {
	if c.l.box.stopping.Load() {
		return pptp.StopLocalShutdown
	}
	return pptp.StopNone
}

// pump handles what the machine has to say, writes what it has to send, and
// sets the timer. It follows every call of the machine.
func (c *conn) pump() {
	for {
		evs := c.m.Events()
		for _, e := range evs {
			c.event(e)
		}
		if c.closed {
			return
		}
		if len(evs) == 0 {
			if (c.leaving || c.l.box.stopping.Load()) && len(c.calls) == 0 && c.placing == 0 && !c.stopping && c.m.NumCalls() == 0 {
				c.stopping = true
				c.m.Stop(c.l.now, c.stopReason())
				continue
			}
			break
		}
	}
	c.write()
	at := c.m.Deadline()
	if c.idleSince != 0 && !c.stopping {
		at = min(at, c.idleSince+idleConn)
	}
	c.l.setTimer(&c.timer, at)
}

func (c *conn) write() {
	for !c.blocked {
		b := c.m.Output()
		if len(b) == 0 {
			return
		}
		n, err := c.tr.TryWrite(b)
		if err != nil {
			return // the reader hears of it too
		}
		c.m.Taken(n)
		if n < len(b) {
			// The peer reads slowly. Wait aside; what is waiting is bounded by the machine.
			c.blocked = true
			c.tr.Writable(func() {
				c.l.post(func() {
					c.blocked = false
					if !c.closed {
						c.pump()
					}
				})
			})
		}
	}
}

func (c *conn) event(e pptp.Event) {
	switch e := e.(type) {
	case pptp.Established:
		c.log.Debug("control connection up", "host", e.Peer.HostName, "vendor", e.Peer.Vendor)
		if c.onUp != nil {
			c.onUp()
		}
	case pptp.CallRequest:
		c.request(e)
	case pptp.CallUp:
		if k := c.calls[e.Ref]; k != nil {
			k.callUp(e)
		}
	case pptp.CallDown:
		if k := c.calls[e.Ref]; k != nil {
			delete(c.calls, e.Ref)
			k.callDown(e)
			if len(c.calls) == 0 {
				c.idleSince = c.l.now
			}
		}
	case pptp.ProtocolError:
		c.l.box.count.protocolErrors.Add(1)
		c.log.Debug("unexpected control message", "state", e.State, "message", e.Message, "err", e.Err)
	case pptp.Closed:
		c.end(e)
	}
}

// end closes the transport and forgets the connection.
func (c *conn) end(e pptp.Closed) {
	c.write()
	c.closed = true
	_ = c.tr.Close()
	c.l.wheel.Stop(&c.timer)
	delete(c.l.conns, c)
	c.log.Debug("control connection closed", "reason", e.String())
	c.l.box.connDone(c)
	if c.onDown != nil {
		c.onDown(e)
	}
}

// request answers a peer that wants a call.
func (c *conn) request(e pptp.CallRequest) {
	box := c.l.box
	var peerID, window uint16
	if e.Outgoing != nil {
		peerID, window = e.Outgoing.CallID, e.Outgoing.PacketRecvWindowSize
	} else {
		peerID = e.Incoming.CallID
	}
	refuse := func(why pptp.Refusal, text string) {
		c.log.Warn("call refused", "reason", text)
		_ = c.m.Refuse(c.l.now, e.Ref, why)
	}
	switch {
	case box.stopping.Load():
		refuse(pptp.RefuseNoResource, "shutting down")
		return
	case box.draining.Load():
		refuse(pptp.RefuseNoResource, "no new calls are taken")
		return
	case box.serve == nil:
		refuse(pptp.RefuseProhibited, "this end takes no calls")
		return
	case box.serve.Limits.Calls > 0 && int(box.count.calls.Load()) >= box.serve.Limits.Calls:
		refuse(pptp.RefuseNoResource, "limit of calls reached")
		return
	}
	k, err := c.newCall(box.linkConfig(), peerID, window, true, false)
	if err != nil {
		refuse(pptp.RefuseNoResource, err.Error())
		return
	}
	k.ref = e.Ref
	c.calls[e.Ref] = k
	c.idleSince = 0
	k.install(func(ok bool) {
		if c.closed || k.gone {
			return
		}
		if !ok {
			refuse(pptp.RefuseBadCallID, "call ID in use")
		} else if err := c.m.Accept(c.l.now, e.Ref, pptp.Answer{LocalCallID: k.id}); err != nil {
			c.log.Warn("call not accepted", "err", err)
		}
		c.pump()
	})
}
