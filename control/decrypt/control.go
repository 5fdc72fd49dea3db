package decrypt

import (
	"bytes"
	"fmt"
	"math"

	"xpptp/control/pptp"
)

// Limits on what is remembered of control connections.
const (
	maxConns   = 4096
	maxCalls   = 16384
	maxSegment = 1 << 16 // bytes of one direction that wait for a whole message
	maxPending = 16      // segments ahead of their turn
)

// endpoint is a TCP address.
type endpoint struct {
	addr [4]byte
	port uint16
}

// conn is a PPTP control connection: the client is who called port 1723.
type conn struct {
	client, server endpoint
	halves         [2]half // 0: from the client
	who            [2]string
	asked          []asked // calls requested and not yet answered
	calls          []*controlCall
	ended          string
}

// asked is a call request.
type asked struct {
	id       uint16
	incoming bool
	half     int
	at       int64
}

// controlCall is a call as the control connection tells it.
type controlCall struct {
	conn         *conn
	pns, pac     [4]byte
	pnsID, pacID uint16
	incoming     bool
	refused      string // the result, if the call was not made
	ended        string
	start        int64
	number       int // packet in the file
}

// controls follows the control connections of a capture.
type controls struct {
	conns map[[2]endpoint]*conn
	calls []*controlCall
	lost  int // connections and calls beyond the limits
	bad   int // pieces of a stream that are no control message
}

func newControls() *controls { return &controls{conns: map[[2]endpoint]*conn{}} }

// half is one direction of a TCP connection.
type half struct {
	started bool
	next    uint32
	buf     []byte
	pending map[uint32][]byte
}

const (
	tcpSYN = 2
	tcpACK = 16
)

// isControl reports whether a TCP segment belongs to a control connection.
func isControl(tcp []byte) bool {
	return len(tcp) >= 20 && (be.Uint16(tcp) == pptp.Port || be.Uint16(tcp[2:]) == pptp.Port)
}

// segment takes one TCP segment of a control connection.
func (c *controls) segment(d *datagram) {
	tcp := d.payload[:d.captured]
	if len(tcp) < 20 {
		return
	}
	hl, flags := int(tcp[12]>>4)*4, tcp[13]
	if hl < 20 || hl > len(tcp) {
		return
	}
	from := endpoint{d.src, be.Uint16(tcp)}
	to := endpoint{d.dst, be.Uint16(tcp[2:])}
	dir := 0
	if from.port == pptp.Port && (to.port != pptp.Port || flags&(tcpSYN|tcpACK) == tcpSYN|tcpACK) {
		dir, from, to = 1, to, from
	}
	key := [2]endpoint{from, to}
	cn := c.conns[key]
	if cn == nil || dir == 0 && flags&(tcpSYN|tcpACK) == tcpSYN && cn.halves[0].started &&
		be.Uint32(tcp[4:])+1 != cn.halves[0].next && len(cn.calls) > 0 {
		if len(c.conns) >= maxConns {
			c.lost++
			return
		}
		cn = &conn{client: from, server: to}
		c.conns[key] = cn
	}
	seq := be.Uint32(tcp[4:])
	h := &cn.halves[dir]
	if flags&tcpSYN != 0 {
		if !h.started {
			h.started, h.next = true, seq+1
		}
		seq++
	}
	c.take(cn, dir, h, seq, tcp[hl:], d)
}

// take puts the bytes of a segment in their place in the stream.
func (c *controls) take(cn *conn, dir int, h *half, seq uint32, b []byte, d *datagram) {
	if len(b) == 0 {
		return
	}
	if !h.started {
		h.started, h.next = true, seq
	}
	if ahead := int32(seq - h.next); ahead > 0 {
		if h.pending == nil {
			h.pending = map[uint32][]byte{}
		}
		h.pending[seq] = bytes.Clone(b)
		if len(h.pending) < maxPending {
			return
		}
		c.overGap(h)
	} else if -int64(ahead) < int64(len(b)) {
		h.push(b[-ahead:])
	}
	for again := true; again; {
		again = false
		for seq, b := range h.pending {
			ahead := int32(seq - h.next)
			if ahead > 0 {
				continue
			}
			delete(h.pending, seq)
			if -int64(ahead) < int64(len(b)) {
				h.push(b[-ahead:])
			}
			again = true
		}
	}
	c.messages(cn, dir, h, d)
}

func (h *half) push(b []byte) {
	h.buf = append(h.buf, b...)
	h.next += uint32(len(b))
}

// overGap gives up what is missing before the segments that wait.
func (c *controls) overGap(h *half) {
	first := int32(math.MaxInt32)
	for seq := range h.pending {
		first = min(first, int32(seq-h.next))
	}
	h.next += uint32(first)
	h.buf = h.buf[:0]
	c.bad++
}

var magicCookie = be.AppendUint32(nil, pptp.Magic)

// messages works off the whole messages of one direction. Where the stream is
// out of step, because the capture lost a piece or began in the middle, it
// goes on at the next magic cookie.
func (c *controls) messages(cn *conn, dir int, h *half, d *datagram) {
	for {
		msg, rest, err := pptp.Split(h.buf)
		if err != nil {
			c.bad++
			i := bytes.Index(h.buf[5:], magicCookie) // Split wants 8 bytes to find an error
			if i < 0 {
				h.buf = append(h.buf[:0], h.buf[len(h.buf)-7:]...)
				return
			}
			h.buf = append(h.buf[:0], h.buf[i+1:]...) // the cookie stands 4 bytes into a message
			continue
		}
		if msg == nil {
			break
		}
		if m, err := pptp.Parse(msg); err == nil {
			c.message(cn, dir, m, d)
		}
		h.buf = append(h.buf[:0], rest...)
	}
	if len(h.buf) > maxSegment {
		h.buf = h.buf[:0]
	}
}

// message notes what one control message says.
func (c *controls) message(cn *conn, dir int, m pptp.Message, d *datagram) {
	switch m := m.(type) {
	case *pptp.StartRequest:
		cn.who[dir] = describe(m.HostName, m.VendorName)
	case *pptp.StartReply:
		cn.who[dir] = describe(m.HostName, m.VendorName)
		if m.ResultCode != pptp.StartOK {
			cn.ended = "Start-Control-Connection-Reply: " + m.ResultCode.String()
		}
	case *pptp.StopRequest:
		cn.ended = "Stop-Control-Connection-Request: " + m.Reason.String()
	case *pptp.OutgoingCallRequest:
		cn.ask(asked{id: m.CallID, half: dir, at: d.rec.at})
	case *pptp.IncomingCallRequest:
		cn.ask(asked{id: m.CallID, half: dir, at: d.rec.at, incoming: true})
	case *pptp.OutgoingCallReply:
		call := &controlCall{pns: d.dst, pac: d.src, pnsID: m.PeerCallID, pacID: m.CallID}
		if m.ResultCode != pptp.OutgoingConnected {
			call.refused = fmt.Sprintf("Outgoing-Call-Reply: %v, error %v", m.ResultCode, m.ErrorCode)
		}
		c.answered(cn, call, 1-dir, m.PeerCallID, d)
	case *pptp.IncomingCallReply:
		call := &controlCall{pns: d.src, pac: d.dst, pnsID: m.CallID, pacID: m.PeerCallID, incoming: true}
		if m.ResultCode != pptp.IncomingConnect {
			call.refused = fmt.Sprintf("Incoming-Call-Reply: %v, error %v", m.ResultCode, m.ErrorCode)
		}
		c.answered(cn, call, 1-dir, m.PeerCallID, d)
	case *pptp.CallClearRequest:
		cn.end(m.CallID, d, "Call-Clear-Request")
	case *pptp.CallDisconnectNotify:
		cn.end(m.CallID, d, fmt.Sprintf("Call-Disconnect-Notify: %v", m.ResultCode))
	}
}

// describe names an end by its host name and vendor.
func describe(host, vendor string) string {
	host, vendor = printable(host), printable(vendor)
	switch {
	case host == "":
		return vendor
	case vendor == "":
		return host
	}
	return host + " (" + vendor + ")"
}

func (cn *conn) ask(a asked) {
	if len(cn.asked) >= 256 {
		cn.asked = cn.asked[1:]
	}
	cn.asked = append(cn.asked, a)
}

// answered notes the reply to a call request.
func (c *controls) answered(cn *conn, call *controlCall, asker int, askedID uint16, d *datagram) {
	call.conn, call.start, call.number = cn, d.rec.at, d.rec.number
	for i, a := range cn.asked {
		if a.half == asker && a.id == askedID && a.incoming == call.incoming {
			call.start = a.at
			cn.asked = append(cn.asked[:i], cn.asked[i+1:]...)
			break
		}
	}
	for _, old := range cn.calls {
		if old.pnsID == call.pnsID && old.pacID == call.pacID && old.ended == "" && old.refused == call.refused {
			return // the same reply again
		}
	}
	if len(c.calls) >= maxCalls {
		c.lost++
		return
	}
	c.calls = append(c.calls, call)
	cn.calls = append(cn.calls, call)
}

// end notes the end of a call: by the sender's own call ID, or else by the
// other's, which some peers send in a Call-Disconnect-Notify.
func (cn *conn) end(id uint16, d *datagram, how string) {
	for _, senders := range []bool{true, false} {
		for _, call := range cn.calls {
			have := call.pacID
			if (call.pns == d.src) == senders {
				have = call.pnsID
			}
			if have == id && call.ended == "" && call.refused == "" {
				call.ended = how
				return
			}
		}
	}
}
