package decrypt

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"xpptp/control/aaa"
	"xpptp/control/ppp"
	"xpptp/engine/mppe"
	"xpptp/engine/wire"
)

// Report is what Run found.
type Report struct {
	Packets int     `json:"packets"` // in the file
	Calls   []*Call `json:"calls"`
	// Notes tell what in the file was of no use.
	Notes []string `json:"notes,omitempty"`
}

// Call is one call of the capture.
type Call struct {
	Number int    `json:"number"` // from 1, in the order they begin
	Peer   string `json:"peer"`   // the client's outside address
	Client End    `json:"client"` // who authenticates itself; else who called
	Server End    `json:"server"`
	// Control tells whether the control connection was captured, ControlEnd how
	// the call ended there.
	Control    bool      `json:"control"`
	ControlEnd string    `json:"control_end,omitempty"`
	Start      time.Time `json:"start,omitzero"`
	End        time.Time `json:"end,omitzero"`

	User       string      `json:"user,omitempty"`        // as it stands in the packets
	Auth       string      `json:"auth"`                  // pap, chap, mschapv1, mschapv2, eap, none
	AuthResult string      `json:"auth_result,omitempty"` // accepted, refused, unknown
	AuthText   string      `json:"auth_text,omitempty"`   // the server's words
	Secret     SecretState `json:"secret,omitempty"`

	MPPEBits int    `json:"mppe_bits"` // 0 without MPPE
	Stateful bool   `json:"stateful"`
	Dialect  string `json:"dialect,omitempty"` // stateful: what FLUSHED does to the client's or server's key: rfc, linux
	// Compression that CCP agreed on instead of MPPE.
	Compression string `json:"compression,omitempty"`

	Counts          // both directions together
	ToServer Counts `json:"to_server"`
	ToClient Counts `json:"to_client"`

	ResetRequests int `json:"reset_requests,omitempty"` // CCP, stateful mode
	ResetAcks     int `json:"reset_acks,omitempty"`
	Echoes        int `json:"echoes,omitempty"` // LCP Echo-Requests, replies and Discard-Requests

	// Negotiation has a line for each step: packet in the file, sender, message.
	Negotiation []string `json:"negotiation"`
	// Notes say what stands in the way of decryption, and the like.
	Notes []string `json:"notes,omitempty"`

	exchanges []exchange
}

// End is one end of a call.
type End struct {
	Address string  `json:"address"`
	CallID  *uint16 `json:"call_id,omitempty"` // assigned by this end
	About   string  `json:"about,omitempty"`   // host name and vendor
	LCP     string  `json:"lcp,omitempty"`     // agreed options for what it receives
	CCP     string  `json:"ccp,omitempty"`
	IPv4    string  `json:"ipv4,omitempty"` // inside addresses
	IPv6    string  `json:"ipv6,omitempty"`
	DNS     string  `json:"dns,omitempty"` // and NBNS: name servers it was told
}

// Counts are of GRE packets with a payload, of one direction or both. Packets =
// Duplicate + Jumps + control frames + Plain + Compressed + Encrypted.
type Counts struct {
	Packets    uint64 `json:"packets"`
	Encrypted  uint64 `json:"encrypted"`
	Decrypted  uint64 `json:"decrypted"`
	Bad        uint64 `json:"bad"`       // Encrypted − Decrypted
	Reordered  uint64 `json:"reordered"` // behind a higher number
	Duplicate  uint64 `json:"duplicate"`
	Lost       uint64 `json:"lost"`                 // sequence numbers missing in the capture
	Late       uint64 `json:"late,omitempty"`       // reordered by so much that the others did not wait
	Jumps      uint64 `json:"jumps,omitempty"`      // sequence number unbelievably far away
	Plain      uint64 `json:"plain,omitempty"`      // data that was not encrypted
	Compressed uint64 `json:"compressed,omitempty"` // by another algorithm of CCP
	Cut        uint64 `json:"cut,omitempty"`        // by the capture; decrypted as far as they go
	// Recovered packets, among the decrypted ones, follow a loss in stateful
	// mode: their place in the stream was found by search, while the receiver
	// had to discard them.
	Recovered uint64            `json:"recovered,omitempty"`
	BadWhy    map[string]uint64 `json:"bad_why,omitempty"`
}

func (c *Counts) reason(why string) {
	if c.BadWhy == nil {
		c.BadWhy = map[string]uint64{}
	}
	c.BadWhy[why]++
}

func (c *Counts) add(o *Counts) {
	for _, f := range []struct{ to, from *uint64 }{
		{&c.Packets, &o.Packets},
		{&c.Encrypted, &o.Encrypted},
		{&c.Decrypted, &o.Decrypted},
		{&c.Bad, &o.Bad},
		{&c.Reordered, &o.Reordered},
		{&c.Duplicate, &o.Duplicate},
		{&c.Lost, &o.Lost},
		{&c.Late, &o.Late},
		{&c.Jumps, &o.Jumps},
		{&c.Plain, &o.Plain},
		{&c.Compressed, &o.Compressed},
		{&c.Cut, &o.Cut},
		{&c.Recovered, &o.Recovered},
	} {
		*f.to += *f.from
	}
	for why, n := range o.BadWhy {
		if c.BadWhy == nil {
			c.BadWhy = map[string]uint64{}
		}
		c.BadWhy[why] += n
	}
}

func newReport(src *source, fs *flows, c *controls) *Report {
	r := &Report{Packets: src.number, Calls: []*Call{}}
	note := func(n int, what string) {
		if n > 0 {
			r.Notes = append(r.Notes, fmt.Sprintf("%d %s", n, what))
		}
	}
	for _, t := range slices.Sorted(maps.Keys(src.other)) {
		note(src.other[t], fmt.Sprintf("packets of link type %d, which is not known", t))
	}
	note(src.damaged, "packets with a wrong IPv4 header")
	note(src.cut, "packets cut by the capture")
	note(fs.bad, "GRE packets that are malformed or not PPTP's")
	note(fs.ignored, "packets of more calls than fit in memory")
	note(c.lost, "control connections and calls more than fit in memory")
	note(c.bad, "gaps in control connections")
	return r
}

// ends returns addresses and call IDs.
func (cl *call) ends() (client, server End) {
	if f := cl.flows[0]; f != nil {
		client.Address, server.Address, server.CallID = addr(f.key.src), addr(f.key.dst), &f.key.id
	}
	if f := cl.flows[1]; f != nil {
		client.Address, server.Address, client.CallID = addr(f.key.dst), addr(f.key.src), &f.key.id
	}
	if ctl := cl.ctl; ctl != nil {
		cn := ctl.conn
		if client.Address == "" {
			client.Address, server.Address = addr(cn.client.addr), addr(cn.server.addr)
		}
		ids := []struct {
			id   *uint16
			addr [4]byte
		}{{&ctl.pnsID, ctl.pns}, {&ctl.pacID, ctl.pac}}
		for _, i := range ids {
			if addr(i.addr) == client.Address {
				client.CallID = i.id
			} else if ctl.refused == "" {
				server.CallID = i.id
			}
		}
		client.About, server.About = cn.who[0], cn.who[1]
		if addr(cn.client.addr) != client.Address {
			client.About, server.About = cn.who[1], cn.who[0]
		}
	}
	return client, server
}

func addr(a [4]byte) string { return netip.AddrFrom4(a).String() }

func (e *End) id() string {
	if e.CallID == nil {
		return "call ID unknown"
	}
	return fmt.Sprintf("call ID %d", *e.CallID)
}

// title names a call in one line.
func (cl *call) title() string {
	client, server := cl.ends()
	return fmt.Sprintf("PPTP call %d, client %s (%s), server %s (%s)", cl.number, client.Address, client.id(), server.Address, server.id())
}

// newCall fills in what is known before the second pass.
func newCall(cl *call, secrets *aaa.Secrets) (*Call, []exchange) {
	c := &Call{Number: cl.number, Auth: "none"}
	c.Client, c.Server = cl.ends()
	c.Peer = c.Client.Address
	c.times(cl)
	if ctl := cl.ctl; ctl != nil {
		c.Control = true
		c.ControlEnd = cmp.Or(ctl.refused, ctl.ended, ctl.conn.ended)
	}
	ends := [2]*End{&c.Client, &c.Server}
	for i, f := range cl.flows {
		if f == nil {
			continue
		}
		// What one end acknowledged is what the other asked for.
		ends[1-i].agreed(f)
		c.ResetRequests += f.resets[0]
		c.ResetAcks += f.resets[1]
		c.Echoes += f.echoes
	}
	c.cipher(cl)
	c.exchanges = cl.exchanges(secrets)
	c.authentication(cl)
	c.negotiation(cl)
	return c, c.exchanges
}

func (c *Call) times(cl *call) {
	var first, last int64
	see := func(t int64) {
		if first == 0 || t < first {
			first = t
		}
		last = max(last, t)
	}
	if cl.ctl != nil {
		see(cl.ctl.start)
	}
	for _, f := range cl.flows {
		if f != nil {
			see(f.first)
			see(f.last)
		}
	}
	if last != 0 {
		c.Start, c.End = time.Unix(0, first).UTC(), time.Unix(0, last).UTC()
	}
}

// agreed takes the options that f's sender acknowledged.
func (e *End) agreed(f *flow) {
	e.LCP = optionWords(wire.PPPLCP, f.agreed[wire.PPPLCP])
	e.CCP = optionWords(wire.PPPCCP, f.agreed[wire.PPPCCP])
	var servers []string
	options(f.agreed[wire.PPPIPCP], func(kind uint8, v []byte) {
		if len(v) != 4 {
			return
		}
		if kind == ipcpAddress {
			e.IPv4 = addr([4]byte(v))
		} else if kind >= 129 && kind <= 132 {
			servers = append(servers, optionWord(wire.PPPIPCP, kind, v))
		}
	})
	e.DNS = strings.Join(servers, ", ")
	options(f.agreed[wire.PPPIPV6CP], func(kind uint8, v []byte) {
		if kind == 1 && len(v) == 8 {
			e.IPv6 = interfaceID([8]byte(v))
		}
	})
}

// cipher takes what CCP agreed on; what proves true on decryption goes ahead
// of it, see finish.
func (c *Call) cipher(cl *call) {
	for _, f := range cl.flows {
		if f == nil {
			continue
		}
		options(f.agreed[wire.PPPCCP], func(kind uint8, v []byte) {
			if kind != ccpMPPE || len(v) != 4 {
				c.Compression = optionWord(wire.PPPCCP, kind, v)
			} else if ci, ok := parseCipher(be.Uint32(v)); ok {
				c.MPPEBits, c.Stateful = ci.bits, ci.stateful
			}
		})
	}
}

func (c *Call) authentication(cl *call) {
	for i, x := range c.exchanges {
		// Of several the one that says most: by the client, accepted, last.
		if i > 0 && c.AuthResult == "accepted" && (x.outcome != "accepted" || !x.toServer) {
			continue
		}
		c.User, c.Auth, c.AuthResult, c.AuthText, c.Secret = printable(x.name), x.method.String(), x.outcome, x.message, x.secret
	}
	if len(c.exchanges) > 0 {
		return
	}
	for _, f := range cl.flows {
		if f == nil {
			continue
		}
		options(f.agreed[wire.PPPLCP], func(kind uint8, v []byte) {
			if kind == lcpAuth && len(v) >= 2 {
				c.Auth, c.AuthResult = authWord(v), "unknown"
			}
		})
	}
}

// negotiation merges the lines of both directions.
func (c *Call) negotiation(cl *call) {
	type merged struct {
		line
		who string
	}
	var all []merged
	for i, f := range cl.flows {
		if f == nil {
			continue
		}
		for _, l := range f.lines {
			all = append(all, merged{l, [2]string{"client", "server"}[i]})
		}
		if f.dropped > 0 {
			c.note("%d more steps of the negotiation are not shown", f.dropped)
		}
	}
	slices.SortStableFunc(all, func(a, b merged) int { return a.number - b.number })
	c.Negotiation = []string{}
	for _, m := range all {
		s := fmt.Sprintf("%d %s: %s", m.number, m.who, m.text)
		if m.times > 1 {
			s += fmt.Sprintf(" (%d times)", m.times)
		}
		c.Negotiation = append(c.Negotiation, s)
	}
}

func (c *Call) note(format string, args ...any) {
	c.Notes = append(c.Notes, fmt.Sprintf(format, args...))
}

// finish fills in the outcome of the second pass.
func (c *Call) finish(cl *call, sides []*side) {
	c.Counts.add(&c.ToServer)
	c.Counts.add(&c.ToClient)
	for i, f := range cl.flows {
		if f == nil {
			if cl.flows[1-i] != nil {
				c.note("nothing sent by the %s was captured", [2]string{"client", "server"}[i])
			}
			continue
		}
		if f.rejected > 0 && c.Decrypted > 0 {
			// A receiver with another key takes garbage for a protocol number.
			c.note("the %s rejects %d packets of protocols that nobody speaks, first in packet %d: it has lost synchronisation and cannot read what it is sent",
				[2]string{"client", "server"}[i], f.rejected, f.rejectedAt)
		}
		if o := sides[f.number].current; o != nil {
			c.MPPEBits, c.Stateful = o.cipher.bits, o.cipher.stateful
			if o.dialect != mppe.UnknownDialect {
				c.Dialect = o.dialect.String()
			}
		}
	}
	c.explain()
}

// explain says why nothing could be decrypted, if so.
func (c *Call) explain() {
	if c.Encrypted > 0 && c.MPPEBits == 0 && c.Decrypted == 0 {
		c.note("encrypted, but the capture does not show by which cipher: CCP's packets are missing")
	}
	keys := false
	for _, x := range c.exchanges {
		keys = keys || len(x.keys) > 0
	}
	for _, x := range c.exchanges {
		why := x.verdict()
		if why == "" || keys {
			continue
		}
		switch {
		case c.Encrypted > 0:
			c.note("%s: %d encrypted packets stay closed", why, c.Encrypted)
		case x.secret == SecretWrong && x.outcome == "refused":
			c.note("%s, and the server refused it", why)
		default:
			c.note("%s", why)
		}
	}
	if c.Encrypted == 0 || keys {
		return
	}
	switch {
	case len(c.exchanges) == 0:
		c.note("no authentication was captured: %d encrypted packets stay closed", c.Encrypted)
	case !slices.ContainsFunc(c.exchanges, func(x exchange) bool { return x.method == ppp.MSCHAPv1 || x.method == ppp.MSCHAPv2 }):
		c.note("MPPE after %s has no keys known here: %d encrypted packets stay closed", c.Auth, c.Encrypted)
	}
}

// Closed counts the encrypted packets for which there was no key at all.
func (r *Report) Closed() (n uint64) {
	for _, c := range r.Calls {
		n += c.BadWhy[whyNoKey]
	}
	return n
}

// WriteText writes the report for people.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "packets: %d, calls: %d\n", r.Packets, len(r.Calls))
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	for _, c := range r.Calls {
		b.WriteByte('\n')
		c.writeText(&b)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (c *Call) writeText(b *strings.Builder) {
	row := func(key, format string, args ...any) {
		fmt.Fprintf(b, "  %-12s%s\n", key, fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(b, "call %d: %s -> %s, %s, %.3f s\n", c.Number, c.Client.Address, c.Server.Address,
		c.Start.Format("2006-01-02 15:04:05 MST"), c.End.Sub(c.Start).Seconds())
	for _, n := range c.Notes {
		row("NOTE", "%s", n)
	}
	c.Client.writeText(row, "client")
	c.Server.writeText(row, "server")
	if c.Control {
		row("control", "%s", cmp.Or(c.ControlEnd, "its end was not captured"))
	} else {
		row("control", "connection not captured")
	}
	auth := c.Auth
	if c.User != "" {
		auth += fmt.Sprintf(", user %q", c.User)
	}
	if c.AuthResult != "" {
		auth += ", " + c.AuthResult
	}
	if c.AuthText != "" {
		auth += fmt.Sprintf(": %q", c.AuthText)
	}
	row("auth", "%s", auth)
	if c.Secret != "" {
		row("secret", "%s", c.Secret)
	}
	row("cipher", "%s", c.cipherText())
	c.ToServer.writeText(row, "to server")
	c.ToClient.writeText(row, "to client")
	if c.ResetRequests+c.ResetAcks > 0 {
		row("resets", "%d requests, %d acks", c.ResetRequests, c.ResetAcks)
	}
	if c.Echoes > 0 {
		row("lcp echoes", "%d", c.Echoes)
	}
	b.WriteString("  negotiation\n")
	for _, l := range c.Negotiation {
		number, text, _ := strings.Cut(l, " ")
		fmt.Fprintf(b, "    %5s %s\n", number, text)
	}
}

func (c *Call) cipherText() string {
	switch {
	case c.MPPEBits == 0 && c.Compression != "":
		return "none; " + c.Compression + " compression"
	case c.MPPEBits == 0:
		return "none"
	}
	s := fmt.Sprintf("MPPE-%d stateless", c.MPPEBits)
	if c.Stateful {
		s = fmt.Sprintf("MPPE-%d stateful", c.MPPEBits)
	}
	if c.Dialect != "" {
		s += ", FLUSHED as " + c.Dialect + " has it"
	}
	return s
}

func (e *End) writeText(row func(key, format string, args ...any), name string) {
	about := ""
	if e.About != "" {
		about = ", " + e.About
	}
	row(name, "%s, %s%s", e.Address, e.id(), about)
	for _, l := range []struct{ key, text string }{
		{"  lcp", e.LCP}, {"  ccp", e.CCP}, {"  ipv4", e.IPv4}, {"  servers", e.DNS}, {"  ipv6", e.IPv6},
	} {
		if l.text != "" {
			row(l.key, "%s", l.text)
		}
	}
}

func (c *Counts) writeText(row func(key, format string, args ...any), name string) {
	parts := []string{fmt.Sprintf("%d packets", c.Packets)}
	for _, p := range []struct {
		n      uint64
		what   string
		always bool
	}{
		{c.Decrypted, "decrypted", c.Encrypted > 0},
		{c.Bad, "bad", c.Encrypted > 0},
		{c.Recovered, "of the decrypted recovered by search", false},
		{c.Plain, "plain", false},
		{c.Compressed, "compressed", false},
		{c.Lost, "lost", false},
		{c.Reordered, "reordered", false},
		{c.Duplicate, "duplicate", false},
		{c.Late, "late", false},
		{c.Jumps, "with a sequence number far off", false},
		{c.Cut, "cut by the capture", false},
	} {
		if p.n > 0 || p.always {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	row(name, "%s", strings.Join(parts, ", "))
	for _, why := range slices.Sorted(maps.Keys(c.BadWhy)) {
		row("", "%d bad: %s", c.BadWhy[why], why)
	}
}
