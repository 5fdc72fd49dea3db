package ppp

import (
	"bytes"
	"crypto/rc4"
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
)

// Replays of recorded negotiations: our Link takes the place of one of the two
// pppds, with that pppd's random values, and hears what the other one said.

// frame is one recorded PPP packet.
type frame struct {
	at         int64 // ns since the first
	fromServer bool
	proto      uint16
	info       []byte
}

// readCapture returns the PPP packets of a capture of one call, in order.
func readCapture(t *testing.T, name string) (frames []frame) {
	t.Helper()
	files, err := filepath.Glob("../../testdata/captures/" + name + "-*.pcap")
	if err != nil || len(files) != 1 {
		t.Fatalf("capture %s: %v %v", name, files, err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	// The classic format: a 24-octet file header, then records of seconds,
	// microseconds, captured and original length, all little endian here.
	le := binary.LittleEndian
	if len(b) < 24 || le.Uint32(b) != 0xA1B2C3D4 {
		t.Fatalf("%s: not a pcap file", files[0])
	}
	start := int64(-1)
	for b = b[24:]; len(b) >= 16; {
		at := int64(le.Uint32(b))*1e9 + int64(le.Uint32(b[4:]))*1e3
		n := 16 + int(le.Uint32(b[8:]))
		if start < 0 {
			start = at
		}
		if fr, ok := parseGRE(b[16:n]); ok {
			fr.at = at - start
			frames = append(frames, fr)
		}
		b = b[n:]
	}
	return frames
}

// parseGRE digs the PPP packet out of an Ethernet frame with enhanced GRE.
func parseGRE(b []byte) (fr frame, ok bool) {
	const eth, protoGRE = 14, 47
	if len(b) < eth+20 || b[eth]>>4 != 4 || b[eth+9] != protoGRE {
		return fr, false
	}
	fr.fromServer = bytes.Equal(b[eth+12:eth+16], []byte{10, 99, 0, 1})
	total := int(binary.BigEndian.Uint16(b[eth+2:]))
	b = b[eth : eth+total][int(b[eth]&15)*4:]
	if len(b) < 8 || b[0]&0x10 == 0 { // no sequence number: an ack only
		return fr, false
	}
	n, off := int(binary.BigEndian.Uint16(b[4:])), 12
	if b[1]&0x80 != 0 {
		off += 4
	}
	p := b[off : off+n]
	if len(p) > 2 && p[0] == 0xFF && p[1] == 3 {
		p = p[2:]
	}
	if p[0]&1 != 0 {
		fr.proto, fr.info = uint16(p[0]), p[1:]
	} else {
		fr.proto, fr.info = binary.BigEndian.Uint16(p), p[2:]
	}
	return fr, true
}

// replay is one capture with the configuration of its peers.
type replay struct {
	name     string
	auth     Method
	mppe     Policy
	password string
	plainLCP bool // no ACCM, PFC, ACFC
	// What our end differs in: see the rows.
	skip map[uint16]bool
	down ReasonCode // of either role, when the call does not come up
	code int
}

var replays = []replay{
	{name: "01", auth: PAP},
	{name: "02", auth: CHAPMD5},
	{name: "03", auth: MSCHAPv1, mppe: Policy{Mode: Require, Bits: Bits40}, down: PeerTerminated},
	{name: "04", auth: MSCHAPv1, mppe: Policy{Mode: Require, Bits: Bits128}},
	{name: "05", auth: MSCHAPv2, mppe: Policy{Mode: Require, Bits: Bits40}},
	{name: "06", auth: MSCHAPv2, mppe: Policy{Mode: Require, Bits: Bits128}},
	{name: "07", auth: MSCHAPv2, mppe: Policy{Mode: Require, Bits: Bits128, Stateful: StatefulPreferred}},
	{name: "10", auth: MSCHAPv2, mppe: Policy{Mode: Require, Bits: Bits128, Stateful: StatefulPreferred}},
	{name: "11", auth: MSCHAPv2, mppe: Policy{Mode: Require, Bits: Bits128}},
	// We speak no Deflate and reject CCP; pppd's answers to that are not recorded.
	{name: "13", auth: CHAPMD5, skip: map[uint16]bool{ProtoCCP: true}},
	// We reject VJ compression, and pppd's next request is not recorded: IPCP
	// cannot come to its end, the rest does.
	{name: "15", auth: PAP, skip: map[uint16]bool{ProtoIPCP: true}},
	{name: "17", auth: MSCHAPv2, mppe: Policy{Mode: Require, Bits: Bits128}, password: "Wrong-Pass", down: AuthFailed, code: 691},
	{name: "18", auth: MSCHAPv2, mppe: Policy{Mode: Require, Bits: Bits128}},
	{name: "19", auth: MSCHAPv2, mppe: Policy{Mode: Require, Bits: Bits128}, plainLCP: true},
	{name: "21", auth: MSCHAPv2, mppe: Policy{Mode: Require, Bits: Bits40 | Bits128}},
}

// recorded are the random values of one side of a capture.
type recorded struct {
	magic, chapID, challenge, peerChallenge, interfaceID []byte
}

func recordedValues(frames []frame, server bool) (v recorded) {
	find := func(b []byte, kind uint8) []byte {
		for o, rest, ok := nextOption(b); ok; o, rest, ok = nextOption(rest) {
			if o.kind() == kind {
				return o.value()
			}
		}
		return nil
	}
	for _, f := range frames {
		p, ok := parsePacket(f.info)
		if !ok || f.fromServer != server {
			continue
		}
		switch {
		case f.proto == ProtoLCP && p.code == confReq && v.magic == nil:
			v.magic = find(p.data, lcpMagic)
		case f.proto == ProtoIPv6CP && p.code == confReq && v.interfaceID == nil:
			v.interfaceID = find(p.data, ipv6cpInterfaceID)
		case f.proto == ProtoCHAP && p.code == chapChallenge && v.challenge == nil:
			v.chapID = []byte{p.id}
			v.challenge, _, _ = parseValue(p.data)
		case f.proto == ProtoCHAP && p.code == chapResponse && v.peerChallenge == nil:
			if value, _, _ := parseValue(p.data); len(value) == 49 {
				v.peerChallenge = value[:16]
			}
		}
	}
	return v
}

// random gives the recorded values in the order in which a Link asks.
func (v recorded) random(t *testing.T, server bool, m Method) func([]byte) {
	queue := [][]byte{v.magic}
	switch {
	case server && m != PAP:
		queue = append(queue, v.chapID, v.challenge)
	case !server && m == MSCHAPv2:
		queue = append(queue, v.peerChallenge)
	}
	queue = append(queue, v.interfaceID)
	return func(b []byte) {
		if len(queue) == 0 || len(queue[0]) != len(b) {
			t.Fatalf("asked for %d random octets, left are %x", len(b), queue)
		}
		copy(b, queue[0])
		queue = queue[1:]
	}
}

func (r replay) config(server bool) Config {
	c := Config{
		Server: server, Name: "pptpd-srv", Auth: []Method{r.auth}, MRU: 1400,
		OfferACCM: !r.plainLCP, OfferPFC: !r.plainLCP, OfferACFC: !r.plainLCP,
		MPPE: r.mppe, IPv4: true, IPv6: true,
	}
	if server {
		c.LocalIP, c.PeerIP = netip.MustParseAddr("192.168.77.1"), netip.MustParseAddr("192.168.77.11")
		if r.name == "21" {
			c.MPPE.Bits = Bits40
		}
	} else {
		c.User, c.Password = "vpnuser", or(r.password, "Secret-Pass1")
	}
	return c
}

// run plays the part of one side and returns what became of it and what it
// sent while the call came up.
func (r replay) run(t *testing.T, frames []frame, server bool) (e *end, sent []frame) {
	t.Helper()
	cfg := r.config(server)
	s := &sim{rnd: rand.New(rand.NewPCG(1, 1))}
	e = &end{t: t, name: "ours", sim: s, up: map[Family]NetParams{}, sent: map[uint16]int{}}
	e.secrets = map[string]string{"vpnuser": "Secret-Pass1"}
	e.drop = func(proto uint16, info []byte) bool {
		sent = append(sent, frame{s.now, server, proto, bytes.Clone(info)})
		return true
	}
	e.link = NewLink(&cfg, e, recordedValues(frames, server).random(t, server, r.auth))
	// The peer's frames from before our first one have waited.
	var early []frame
	open := false
	for _, f := range frames {
		for d := e.link.Deadline(); open && d <= f.at; d = e.link.Deadline() {
			e.link.Tick(d)
		}
		s.now = f.at
		switch {
		case f.fromServer == server && !open:
			open = true
			e.link.Open(s.now)
			for _, x := range early {
				e.link.Input(s.now, x.proto, x.info)
			}
		case f.fromServer == server:
		case open:
			e.link.Input(s.now, f.proto, f.info)
		default:
			early = append(early, f)
		}
		// The answer of a host is due at once.
		for len(s.queue) > 0 {
			next := s.queue[0]
			s.queue = s.queue[1:]
			next.run()
		}
		if len(e.up) == 2 || r.skip[ProtoIPCP] && len(e.up) == 1 {
			return e, sent
		}
	}
	for d := e.link.Deadline(); d != never; d = e.link.Deadline() {
		s.now = d
		e.link.Tick(d)
	}
	return e, sent
}

func TestReplay(t *testing.T) {
	for _, r := range replays {
		frames := readCapture(t, r.name)
		ends := map[bool]*end{}
		for _, server := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/server=%v", r.name, server), func(t *testing.T) {
				e, sent := r.run(t, frames, server)
				ends[server] = e
				defer func() {
					if t.Failed() {
						for _, line := range e.log {
							t.Log(line)
						}
					}
				}()
				r.checkSent(t, frames, sent, server)
				if r.down != Unknown {
					if len(e.downs) != 1 || e.downs[0].Code != r.down || e.downs[0].AuthError != r.code {
						t.Errorf("down %v, want %s %d", e.downs, r.down, r.code)
					}
					return
				}
				if len(e.downs) > 0 || len(e.violations) > 0 {
					t.Fatalf("down %v, violations %v", e.downs, e.violations)
				}
				r.checkUp(t, e, frames, server)
			})
		}
		if a, b := ends[true], ends[false]; r.down == Unknown && a.transmit != nil && b.transmit != nil {
			if a.transmit.StartKey != b.receive.StartKey || b.transmit.StartKey != a.receive.StartKey {
				t.Errorf("%s: the two roles have different keys", r.name)
			}
		}
	}
}

// checkSent asserts that what we sent is, octet for octet and in order for each
// protocol and code, what pppd sent in our place: all Configure packets and
// the authentication, failure texts aside. (Across codes the order may differ:
// as client we hold CCP's Configure-Ack back.)
func (r replay) checkSent(t *testing.T, frames, sent []frame, server bool) {
	t.Helper()
	relevant := func(f frame) bool {
		p, ok := parsePacket(f.info)
		if !ok || r.skip[f.proto] {
			return false
		}
		switch f.proto {
		case ProtoLCP, ProtoCCP, ProtoIPCP, ProtoIPv6CP:
			return p.code >= confReq && p.code <= confRej
		case ProtoPAP:
			return p.code == papRequest
		case ProtoCHAP:
			return p.code <= chapSuccess
		}
		return false
	}
	type kind struct {
		proto uint16
		code  uint8
	}
	want := map[kind][][]byte{}
	for _, f := range frames {
		if f.fromServer == server && relevant(f) {
			k := kind{f.proto, f.info[0]}
			want[k] = append(want[k], f.info)
		}
	}
	n := 0
	for _, f := range sent {
		if !relevant(f) {
			continue
		}
		if r.down == PeerTerminated && f.proto == ProtoCCP {
			continue // 03: pppd without LM keys does not even begin
		}
		k := kind{f.proto, f.info[0]}
		w := want[k]
		if len(w) == 0 {
			t.Errorf("sent %04x %x, pppd nothing more", f.proto, f.info)
			continue
		}
		if !bytes.Equal(w[0], f.info) {
			t.Errorf("sent %04x %x, pppd %x", f.proto, f.info, w[0])
		}
		want[k] = w[1:]
		n++
	}
	if n < 3 {
		t.Errorf("only %d packets compared", n)
	}
}

// checkUp holds the outcome against the capture: addresses, identifiers, LCP's
// options, and the cipher by decrypting the first encrypted packet of each
// direction.
func (r replay) checkUp(t *testing.T, e *end, frames []frame, server bool) {
	t.Helper()
	lcp := e.lcp[len(e.lcp)-1]
	ours, theirs := recordedValues(frames, server), recordedValues(frames, !server)
	if lcp.MRU != 1400 || lcp.PeerMRU != 1400 || lcp.Magic != be32(ours.magic) || lcp.PeerMagic != be32(theirs.magic) ||
		lcp.TxPFC == r.plainLCP || lcp.RxPFC == r.plainLCP || lcp.TxACFC == r.plainLCP || lcp.RxACFC == r.plainLCP {
		t.Errorf("LCP %+v", lcp)
	}
	if m := max(lcp.Auth, lcp.AuthToPeer); m != r.auth {
		t.Errorf("method %s", m)
	}
	if !r.skip[ProtoIPCP] {
		local, peer := netip.MustParseAddr("192.168.77.1"), netip.MustParseAddr("192.168.77.11")
		if !server {
			local, peer = peer, local
		}
		if n := e.up[IPv4]; n.Local != local || n.Peer != peer {
			t.Errorf("IPv4 %+v", n)
		}
	}
	if n := e.up[IPv6]; n.LocalID != binary.BigEndian.Uint64(ours.interfaceID) || n.PeerID != binary.BigEndian.Uint64(theirs.interfaceID) {
		t.Errorf("IPv6 %+v", n)
	}
	if r.mppe.Mode == Deny {
		if e.transmit != nil || e.receive != nil {
			t.Errorf("encrypts")
		}
		return
	}
	for _, f := range frames {
		if f.proto != ProtoComp {
			continue
		}
		p := e.receive
		if f.fromServer == server {
			p = e.transmit
		}
		plain, count := decryptFirst(p, f.info)
		if count > 8 {
			continue // the key of a later packet says no more than that of an early one
		}
		if count == 0 && (len(plain) < 3 || plain[0] != 0x21 && plain[0] != 0x57 && !(plain[0] == 0 && (plain[1] == 0x21 || plain[1] == 0x57))) {
			t.Errorf("from server %v: decrypts to %x", f.fromServer, plain[:min(8, len(plain))])
		}
	}
}

// decryptFirst decrypts an MPPE packet near the start of a call straight from
// RFC 3078 and 3079; stateful packets only when they are the first.
func decryptFirst(p *MPPEParams, info []byte) (plain []byte, count int) {
	n, reduce := 16, []byte(nil)
	switch p.Bits {
	case 40:
		n, reduce = 8, []byte{0xD1, 0x26, 0x9E}
	case 56:
		n, reduce = 8, []byte{0xD1}
	}
	start := p.StartKey[:n]
	change := func(session []byte) []byte {
		h := sha1.New()
		h.Write(start)
		h.Write(make([]byte, 40))
		h.Write(session)
		h.Write(bytes.Repeat([]byte{0xF2}, 40))
		return h.Sum(nil)[:n]
	}
	key := change(start)
	copy(key, reduce)
	count = int(binary.BigEndian.Uint16(info) & 0xFFF)
	if !p.Stateful {
		for range count + 1 {
			key = change(key)
			c, _ := rc4.NewCipher(key)
			c.XORKeyStream(key, key)
			copy(key, reduce)
		}
	}
	c, _ := rc4.NewCipher(key)
	plain = make([]byte, len(info)-2)
	c.XORKeyStream(plain, info[2:])
	return plain, count
}
