package decrypt

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"xpptp/control/aaa"
	"xpptp/control/ppp/mschap"
	"xpptp/engine"
	"xpptp/engine/wire"
)

const captures = "../../testdata/captures/"

func testSecrets(t testing.TB, text string) *aaa.Secrets {
	t.Helper()
	if text == "" {
		b, err := os.ReadFile(captures + "chap-secrets")
		if err != nil {
			t.Fatal(err)
		}
		text = string(b)
	}
	s, err := aaa.Parse("chap-secrets", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// frame is a captured packet that a test may change.
type frame struct {
	at   int64
	link uint32
	data []byte
	orig int
}

// load reads a recorded capture.
func load(t testing.TB, name string) (frames []frame) {
	t.Helper()
	files, err := filepath.Glob(captures + name + "-*.pcap")
	if err != nil || len(files) != 1 {
		t.Fatalf("capture %s: %v, %v", name, files, err)
	}
	f, err := os.Open(files[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return readAll(t, f)
}

func readAll(t testing.TB, r io.Reader) (frames []frame) {
	t.Helper()
	rd, err := newReader(r)
	if err != nil {
		t.Fatal(err)
	}
	for {
		rec, err := rd.next()
		if errors.Is(err, io.EOF) {
			return frames
		}
		if err != nil {
			t.Fatal(err)
		}
		frames = append(frames, frame{rec.at, rec.link, bytes.Clone(rec.data), rec.orig})
	}
}

// file makes a capture file of frames.
func file(frames []frame) *bytes.Reader {
	var b bytes.Buffer
	ng := newNGWriter(&b, "test")
	ifaces := map[uint32]int{}
	for _, f := range frames {
		if _, ok := ifaces[f.link]; !ok {
			ifaces[f.link] = ng.addInterface(f.link, "test", "")
		}
		ng.write(&packet{at: f.at, iface: ifaces[f.link], data: f.data, orig: f.orig})
	}
	_ = ng.flush() // into memory
	return bytes.NewReader(b.Bytes())
}

// gre returns the GRE packet in a frame with Ethernet header, nil if it is none.
func (f *frame) gre() wire.GRE {
	ip, d := wire.ParseIPv4(f.data[wire.EthernetLen:])
	if d != engine.Pass || ip.Protocol() != wire.ProtoGRE {
		return nil
	}
	g, d := wire.ParseGRE(ip.Payload())
	if d != engine.Pass {
		return nil
	}
	return g
}

func (f *frame) src() [4]byte { return wire.IPv4(f.data[wire.EthernetLen:]).Src() }

// mppe reports whether a frame is an encrypted packet.
func (f *frame) mppe() bool {
	g := f.gre()
	if g == nil || !g.HasSeq() {
		return false
	}
	proto, _, d := wire.ParsePPP(g.Payload())
	return d == engine.Pass && proto == wire.PPPMPPE
}

func run(t testing.TB, frames []frame, secrets string) (*Report, []frame) {
	t.Helper()
	var out bytes.Buffer
	r, err := Run(file(frames), Options{Secrets: testSecrets(t, secrets), Out: &out})
	if err != nil {
		t.Fatal(err)
	}
	return r, readAll(t, &out)
}

// inner checks what the output says was decrypted: PPP frames whose IP and
// ICMP checksums are right, which no wrong key gives. It returns how many there are.
func inner(t testing.TB, out []frame) (packets int) {
	t.Helper()
	for i, f := range out {
		if f.link != linkPPPWithDir || f.orig > len(f.data) {
			continue
		}
		if len(f.data) < 5 || f.data[1] != 0xff || f.data[2] != 3 {
			t.Fatalf("frame %d: %x", i, f.data)
		}
		ip := f.data[5:]
		switch be.Uint16(f.data[3:]) {
		case wire.PPPIPv4:
			v4, d := wire.ParseIPv4(ip)
			if d != engine.Pass || !v4.HeaderChecksumOK() {
				t.Errorf("frame %d: wrong IPv4 header %x", i, ip[:min(len(ip), 20)])
			} else if v4.Protocol() == wire.ProtoICMP && !v4.IsFragment() && wire.Checksum(v4.Payload(), 0) != 0 {
				t.Errorf("frame %d: wrong ICMP checksum", i)
			}
			packets++
		case wire.PPPIPv6:
			if v6, d := wire.ParseIPv6(ip); d != engine.Pass || !transport6OK(v6) {
				t.Errorf("frame %d: wrong IPv6 packet %x", i, ip)
			}
			packets++
		}
	}
	return packets
}

// The recorded sessions open completely. The numbers of encrypted packets
// were counted by tshark 4.0, which knows nothing of this program:
//
//	tshark -r CAPTURE -Y 'ppp.protocol==0xfd && ip.src==10.99.0.2' | wc -l
//
// and the same with 10.99.0.1; no sequence number occurs twice in any of them
// (-T fields -e ip.src -e gre.sequence_number | sort | uniq -d).
//
// Capture 10 opens beyond the point where the Linux peers lost sync, since the
// sender's key is found again whatever became of the receiver's. What happens
// there: the server's Reset-Request 2 is answered by a Reset-Ack, which is lost,
// and a FLUSHED packet (count 00C) with which the client changes its key. The
// server still waits for the Ack, so it discards that packet with its key
// unchanged, and asks again. To the second answer (count 025) both change
// their keys, the client for the second and the server for the first time. From
// then on, packet 74 of the file, the server takes garbage for PPP and answers
// with Protocol-Rejects, the first in packet 75.
func TestCaptures(t *testing.T) {
	for _, tt := range []struct {
		name               string
		toServer, toClient uint64 // encrypted packets by tshark's count
		auth               string
		bits               int
		stateful           bool
		dialect            string
		compressed         uint64
	}{
		{name: "01", auth: "pap"},
		{name: "02", auth: "chap"},
		{name: "03", auth: "mschapv1"},
		{name: "04", toServer: 28, toClient: 26, auth: "mschapv1", bits: 128},
		{name: "05", toServer: 28, toClient: 26, auth: "mschapv2", bits: 40},
		{name: "06", toServer: 28, toClient: 26, auth: "mschapv2", bits: 128},
		{name: "07", toServer: 76, toClient: 26, auth: "mschapv2", bits: 128, stateful: true},
		{name: "10", toServer: 110, toClient: 3, auth: "mschapv2", bits: 128, stateful: true, dialect: "linux"},
		{name: "11", toServer: 115, toClient: 104, auth: "mschapv2", bits: 128},
		{name: "13", auth: "chap", compressed: 88},
		{name: "15", auth: "pap"},
		{name: "18", toServer: 78, toClient: 27, auth: "mschapv2", bits: 128},
		{name: "19", toServer: 77, toClient: 27, auth: "mschapv2", bits: 128},
		{name: "21", toServer: 77, toClient: 26, auth: "mschapv2", bits: 40},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, out := run(t, load(t, tt.name), "")
			if len(r.Calls) != 1 || len(r.Notes) != 0 {
				t.Fatalf("%d calls, notes %q", len(r.Calls), r.Notes)
			}
			c := r.Calls[0]
			if c.Peer != "10.99.0.2" || c.Server.Address != "10.99.0.1" || !c.Control || c.Client.CallID == nil || c.Server.CallID == nil {
				t.Errorf("ends %+v, %+v, control %v", c.Client, c.Server, c.Control)
			}
			if c.User != "vpnuser" || c.Auth != tt.auth || c.AuthResult != "accepted" || c.Secret != SecretFits {
				t.Errorf("user %q by %s, %s, secret %s", c.User, c.Auth, c.AuthResult, c.Secret)
			}
			if c.MPPEBits != tt.bits || c.Stateful != tt.stateful || c.Dialect != tt.dialect {
				t.Errorf("MPPE %d, stateful %v, %q", c.MPPEBits, c.Stateful, c.Dialect)
			}
			if c.ToServer.Decrypted != tt.toServer || c.ToClient.Decrypted != tt.toClient || c.Bad != 0 ||
				c.Decrypted != tt.toServer+tt.toClient || c.Encrypted != c.Decrypted {
				t.Errorf("decrypted %d + %d, bad %d; want %d + %d", c.ToServer.Decrypted, c.ToClient.Decrypted, c.Bad, tt.toServer, tt.toClient)
			}
			if c.Compressed != tt.compressed || c.Duplicate != 0 || c.Reordered != 0 || c.Jumps != 0 || c.Late != 0 {
				t.Errorf("counts %+v", c.Counts)
			}
			if n := inner(t, out); tt.bits > 0 && uint64(n) != c.Decrypted+c.Plain {
				t.Errorf("%d IP packets in the output, %d decrypted, %d plain", n, c.Decrypted, c.Plain)
			}
		})
	}
}

// Where the receiver of capture 10 lost sync is told, see TestCaptures.
func TestLostSync(t *testing.T) {
	r, _ := run(t, load(t, "10"), "")
	c := r.Calls[0]
	want := "first in packet 75: it has lost synchronisation"
	if len(c.Notes) != 1 || !strings.Contains(c.Notes[0], want) || !strings.Contains(c.Notes[0], "the server rejects") {
		t.Errorf("notes %q, want %q", c.Notes, want)
	}
	if c.ResetRequests != 6 || c.ResetAcks != 5 || c.Recovered == 0 {
		t.Errorf("%d requests, %d acks, %d recovered", c.ResetRequests, c.ResetAcks, c.Recovered)
	}
}

func TestNegotiation(t *testing.T) {
	r, _ := run(t, load(t, "21"), "")
	c := r.Calls[0]
	all := strings.Join(c.Negotiation, "\n")
	for _, want := range []string{
		"client: LCP Configure-Request 1: mru 1400, accm 00000000, magic ",
		"server: LCP Configure-Request 1: mru 1400, accm 00000000, auth mschapv2, magic ",
		`server: CHAP Challenge `, `client: CHAP Response `, `name "vpnuser"`, "CHAP Success", "M=Access granted",
		"client: CCP Configure-Request 1: mppe 40+128 bits stateless",
		"server: CCP Configure-Nak 1: mppe 40 bits stateless",
		"server: CCP Configure-Ack 2: mppe 40 bits stateless",
		"server: IPCP Configure-Nak 1: address 192.168.77.11",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in\n%s", want, all)
		}
	}
	if c.Client.IPv4 != "192.168.77.11" || c.Server.IPv4 != "192.168.77.1" || !strings.HasPrefix(c.Client.IPv6, "fe80::") {
		t.Errorf("inside addresses %q, %q, %q", c.Client.IPv4, c.Server.IPv4, c.Client.IPv6)
	}
	if !strings.Contains(c.Server.LCP, "auth mschapv2") || c.Client.CCP != "mppe 40 bits stateless" {
		t.Errorf("agreed %q, %q", c.Server.LCP, c.Client.CCP)
	}
	if strings.Contains(all, "Secret-Pass1") {
		t.Error("the password is shown")
	}
	if c.ControlEnd == "" || c.Server.About == "" {
		t.Errorf("control connection: %q, %q", c.ControlEnd, c.Server.About)
	}
}

func TestSecrets(t *testing.T) {
	for _, tt := range []struct {
		name, capture, secrets string
		state                  SecretState
		note                   string
	}{
		{"wrong", "06", "vpnuser * other *", SecretWrong, `the secret for user "vpnuser" is not the one used in this call: 54 encrypted packets stay closed`},
		{"missing", "06", "someone * Secret-Pass1 *", SecretMissing, `no secret for user "vpnuser" on server "pptpd-srv": 54 encrypted packets stay closed`},
		{"other server", "06", "vpnuser elsewhere Secret-Pass1 *", SecretMissing, `no secret for user "vpnuser"`},
		{"any user", "06", "* pptpd-srv Secret-Pass1 *", SecretFits, ""},
		{"refused", "17", "", SecretWrong, `the secret for user "vpnuser" is not the one used in this call, and the server refused it`},
		{"what was used", "17", "vpnuser * Wrong-Pass *", SecretFits, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, out := run(t, load(t, tt.capture), tt.secrets)
			c := r.Calls[0]
			notes := strings.Join(c.Notes, "\n")
			if c.Secret != tt.state || !strings.Contains(notes, tt.note) || tt.note == "" && notes != "" {
				t.Errorf("secret %s, notes %q", c.Secret, notes)
			}
			if tt.capture == "06" && tt.state != SecretFits {
				if c.Bad != 54 || c.BadWhy[whyNoKey] != 54 || r.Closed() != 54 {
					t.Errorf("bad %d, %v", c.Bad, c.BadWhy)
				}
			}
			if len(c.Negotiation) < 8 || len(out) < 20 {
				t.Errorf("%d steps of negotiation, %d frames in the output: the plain part is missing", len(c.Negotiation), len(out))
			}
			if tt.capture == "17" && c.AuthResult != "refused" {
				t.Errorf("authentication %s", c.AuthResult)
			}
		})
	}
}

// What a capture may look like other than the recorded ones do.
func TestVariations(t *testing.T) {
	for _, name := range []string{"04", "06", "07", "10", "11"} {
		frames := load(t, name)
		base, out := run(t, frames, "")
		want := base.Calls[0].Decrypted
		content := innerSet(out)
		for _, v := range variations {
			if v.v2 && name == "04" {
				continue
			}
			t.Run(name+" "+v.name, func(t *testing.T) {
				r, out := run(t, v.change(slices.Clone(frames)), "")
				if len(r.Calls) != 1 {
					t.Fatalf("%d calls", len(r.Calls))
				}
				c := r.Calls[0]
				if c.Decrypted != want || c.Bad != 0 || c.Peer != "10.99.0.2" || c.Control == v.noControl {
					t.Errorf("decrypted %d, want %d; bad %v, peer %s, control %v", c.Decrypted, want, c.BadWhy, c.Peer, c.Control)
				}
				if v.duplicates != (c.Duplicate > 0) || v.reorders != (c.Reordered > 0) {
					t.Errorf("%d duplicates, %d reordered", c.Duplicate, c.Reordered)
				}
				inner(t, out)
				if !v.cuts && !maps.Equal(innerSet(out), content) {
					t.Error("other packets than without")
				}
			})
		}
	}
}

// innerSet counts equal IP packets.
func innerSet(out []frame) map[string]int {
	m := map[string]int{}
	for _, f := range out {
		if f.link == linkPPPWithDir && f.data[3] == 0 {
			m[string(f.data)]++
		}
	}
	return m
}

type variation struct {
	name       string
	change     func([]frame) []frame
	noControl  bool
	duplicates bool
	reorders   bool
	cuts       bool
	v2         bool // with MS-CHAPv2 only
}

var variations = []variation{
	{name: "without control connection", noControl: true, change: func(f []frame) []frame {
		return slices.DeleteFunc(f, func(f frame) bool { return f.gre() == nil })
	}},
	{name: "one direction after the other", change: func(f []frame) []frame {
		slices.SortStableFunc(f, func(a, b frame) int { s, t := a.src(), b.src(); return bytes.Compare(s[:], t[:]) })
		return f
	}},
	{name: "the other direction first", change: func(f []frame) []frame {
		slices.SortStableFunc(f, func(a, b frame) int { s, t := a.src(), b.src(); return bytes.Compare(t[:], s[:]) })
		return f
	}},
	{name: "every packet twice", duplicates: true, change: func(f []frame) (out []frame) {
		for _, f := range f {
			out = append(out, f, f)
		}
		return out
	}},
	{name: "swapped in fours", reorders: true, change: func(f []frame) []frame {
		gre := 0
		for gre < len(f) && !f[gre].mppe() {
			gre++
		}
		for ; gre+4 <= len(f); gre += 4 {
			slices.Reverse(f[gre : gre+4])
		}
		return f
	}},
	{name: "no times", change: func(f []frame) []frame {
		for i := range f {
			f[i].at = 0
		}
		return f
	}},
	{name: "VLAN tags", change: func(f []frame) []frame {
		for i := range f {
			f[i].data = slices.Concat(f[i].data[:12], []byte{0x88, 0xa8, 0, 5, 0x81, 0, 0, 7}, f[i].data[12:])
			f[i].orig += 8
		}
		return f
	}},
	{name: "raw IP", change: func(f []frame) []frame { return relink(f, linkRaw, nil) }},
	{name: "loopback", change: func(f []frame) []frame { return relink(f, linkNull, []byte{2, 0, 0, 0}) }},
	{name: "Linux cooked", change: func(f []frame) []frame { return relink(f, linkSLL, append(make([]byte, 14), 8, 0)) }},
	{name: "Linux cooked 2", change: func(f []frame) []frame { return relink(f, linkSLL2, append([]byte{8, 0}, make([]byte, 18)...)) }},
	{name: "Ethernet padding", change: func(f []frame) []frame {
		for i := range f {
			f[i].data = append(bytes.Clone(f[i].data), make([]byte, 7)...)
			f[i].orig += 7
		}
		return f
	}},
	{name: "cut at 250 bytes", cuts: true, change: func(f []frame) []frame {
		for i := range f {
			f[i].data = f[i].data[:min(len(f[i].data), 250)]
		}
		return f
	}},
	{name: "outer fragments", change: func(f []frame) (out []frame) {
		for _, f := range f {
			if !f.mppe() || len(f.data) < 300 {
				out = append(out, f)
				continue
			}
			a, b := fragment(f)
			out = append(out, b, a) // in the wrong order, as some senders do
		}
		return out
	}},
	{name: "without CCP", change: func(f []frame) []frame {
		return slices.DeleteFunc(f, func(f frame) bool { return f.ppp(wire.PPPCCP, confAck) })
	}},
	{name: "without the challenge", change: func(f []frame) []frame {
		return slices.DeleteFunc(f, func(f frame) bool { return f.ppp(wire.PPPCHAP, chapChallenge) })
	}, v2: true},
	{name: "another PPTP packet from 2^30 ahead", change: func(f []frame) (out []frame) {
		for _, f := range f {
			out = append(out, f)
			if f.mppe() {
				g := frame{f.at, f.link, bytes.Clone(f.data), f.orig}
				be.PutUint32(g.gre()[8:], g.gre().Seq()+1<<30)
				out = append(out, g)
			}
		}
		return out
	}},
}

// ppp reports whether the frame is a PPP control packet of that kind.
func (f *frame) ppp(proto uint16, code uint8) bool {
	g := f.gre()
	if g == nil || !g.HasSeq() {
		return false
	}
	p, info, d := wire.ParsePPP(g.Payload())
	return d == engine.Pass && p == proto && len(info) > 0 && info[0] == code
}

func relink(f []frame, link uint32, header []byte) []frame {
	for i := range f {
		f[i].data = slices.Concat(header, f[i].data[wire.EthernetLen:])
		f[i].orig += len(header) - wire.EthernetLen
		f[i].link = link
	}
	return f
}

// fragment splits the IPv4 packet in a frame in two.
func fragment(f frame) (a, b frame) {
	ip := wire.IPv4(f.data[wire.EthernetLen:])
	ip = ip[:ip.TotalLen()]
	const at = 200
	one := func(part []byte, flags uint16) frame {
		data := slices.Concat(f.data[:wire.EthernetLen], ip[:20], part)
		h := wire.IPv4(data[wire.EthernetLen:]) //nolint:unconvert // a view with methods
		be.PutUint16(h[2:], uint16(20+len(part)))
		be.PutUint16(h[4:], 77)
		be.PutUint16(h[6:], flags)
		h.SetChecksum()
		return frame{f.at, f.link, data, len(data)}
	}
	return one(ip[20:20+at], 0x2000), one(ip[20+at:], at/8)
}

// Several calls in one file are kept apart, also those with the same call IDs,
// one after the other or, between other addresses, at the same time.
func TestManyCalls(t *testing.T) {
	a, b := load(t, "06"), load(t, "07")
	rename := func(f []frame, host byte) []frame {
		out := make([]frame, len(f))
		for i, x := range f {
			x.data = bytes.Clone(x.data)
			ip := wire.IPv4(x.data[wire.EthernetLen:])
			for _, at := range []int{15, 19} {
				if ip[at] == 2 {
					ip[at] = host
				}
			}
			out[i] = x
		}
		return out
	}
	shift := func(f []frame, d int64) []frame {
		out := slices.Clone(f)
		for i := range out {
			out[i].at += d
		}
		return out
	}
	t.Run("at the same time", func(t *testing.T) {
		d := b[0].at - a[0].at
		all := slices.Concat(a, shift(rename(b, 3), -d), rename(a, 4))
		slices.SortStableFunc(all, func(x, y frame) int { return int(x.at - y.at) })
		r, _ := run(t, all, "")
		got := map[string]uint64{}
		for _, c := range r.Calls {
			got[c.Peer] = c.Decrypted
			if c.Bad != 0 {
				t.Errorf("%s: bad %v", c.Peer, c.BadWhy)
			}
		}
		if want := (map[string]uint64{"10.99.0.2": 54, "10.99.0.3": 102, "10.99.0.4": 54}); !maps.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
	t.Run("one after the other", func(t *testing.T) {
		// The server's call ID is 0 in both.
		r, _ := run(t, slices.Concat(a, b), "")
		if len(r.Calls) != 2 || r.Calls[0].Decrypted != 54 || r.Calls[1].Decrypted != 102 || r.Calls[0].Bad+r.Calls[1].Bad != 0 ||
			!r.Calls[0].Control || !r.Calls[1].Control || r.Calls[1].Stateful != true {
			for _, c := range r.Calls {
				t.Errorf("call %d: control %v, %+v", c.Number, c.Control, c.Counts)
			}
		}
	})
	for _, control := range []bool{true, false} {
		t.Run("with the same call IDs", func(t *testing.T) {
			// The second call has the same call IDs as the first.
			first := a[slices.IndexFunc(a, func(f frame) bool { return f.gre() != nil })].gre()
			second := b[slices.IndexFunc(b, func(f frame) bool { return f.gre() != nil })].gre()
			ids := map[uint16]uint16{second.CallID(): first.CallID()}
			all := slices.Clone(a)
			for _, f := range b {
				f.data = bytes.Clone(f.data)
				if g := f.gre(); g != nil {
					if id, ok := ids[g.CallID()]; ok {
						be.PutUint16(g[6:], id)
					}
				} else {
					continue
				}
				all = append(all, f)
			}
			if !control {
				all = slices.DeleteFunc(all, func(f frame) bool { return f.gre() == nil })
			}
			r, _ := run(t, all, "")
			if len(r.Calls) != 2 || r.Calls[0].Decrypted != 54 || r.Calls[1].Decrypted != 102 || r.Calls[0].Bad+r.Calls[1].Bad != 0 {
				for _, c := range r.Calls {
					t.Errorf("call %d: %+v", c.Number, c.Counts)
				}
			}
		})
	}
}

// A capture that lost packets: the rest opens.
func TestCaptureLoss(t *testing.T) {
	for _, tt := range []struct {
		name  string
		every int
	}{{"06", 3}, {"06", 2}, {"07", 5}, {"07", 2}, {"07", 7}, {"10", 4}, {"11", 3}} {
		frames := load(t, tt.name)
		var kept []frame
		n, encrypted := 0, uint64(0)
		for _, f := range frames {
			if f.mppe() {
				if n++; n%tt.every == 0 {
					continue
				}
				encrypted++
			}
			kept = append(kept, f)
		}
		r, out := run(t, kept, "")
		c := r.Calls[0]
		if c.Encrypted != encrypted || c.Bad != 0 || c.Decrypted != encrypted || c.Lost == 0 {
			t.Errorf("%s without every packet %d: %d of %d decrypted, bad %v, lost %d", tt.name, tt.every, c.Decrypted, encrypted, c.BadWhy, c.Lost)
		}
		inner(t, out)
	}
}

// A forged or damaged packet is counted and harms no other.
func TestDamagedPackets(t *testing.T) {
	for _, name := range []string{"06", "07"} {
		frames := load(t, name)
		n, damaged := 0, uint64(0)
		for i := range frames {
			if f := &frames[i]; f.mppe() {
				if n++; n%5 == 0 {
					g := f.gre()
					for k := g.HeaderLen() + 6; k < min(len(g), g.HeaderLen()+30); k++ {
						g[k] ^= 0x5a
					}
					damaged++
				}
			}
		}
		r, out := run(t, frames, "")
		c := r.Calls[0]
		if c.Bad != damaged || c.BadWhy[whyWrong] != damaged || c.Decrypted != uint64(n)-damaged {
			t.Errorf("%s: bad %d, want %d; decrypted %d", name, c.Bad, damaged, c.Decrypted)
		}
		inner(t, out)
	}
}

func TestOneDirection(t *testing.T) {
	frames := slices.DeleteFunc(load(t, "06"), func(f frame) bool { return f.src() == [4]byte{10, 99, 0, 1} })
	r, _ := run(t, frames, "")
	c := r.Calls[0]
	// MS-CHAPv2's keys follow from the response alone.
	if len(r.Calls) != 1 || c.Secret != SecretUnknown || c.Decrypted != 28 || c.Bad != 0 {
		t.Errorf("%d calls, secret %s, decrypted %d, bad %v", len(r.Calls), c.Secret, c.Decrypted, c.BadWhy)
	}
	if notes := strings.Join(c.Notes, "\n"); !strings.Contains(notes, "nothing sent by the server was captured") {
		t.Errorf("notes %q", notes)
	}
}

func TestBadFiles(t *testing.T) {
	good, err := os.ReadFile(captures + "06-mschapv2-mppe128-stateless.pcap")
	if err != nil {
		t.Fatal(err)
	}
	ng := make([]byte, file(load(t, "06")).Len())
	if _, err := file(load(t, "06")).Read(ng); err != nil {
		t.Fatal(err)
	}
	patch := func(b []byte, at int, v ...byte) []byte {
		b = bytes.Clone(b)
		copy(b[at:], v)
		return b
	}
	for _, tt := range []struct {
		name string
		data []byte
		want string
		some bool // a report on what came before
	}{
		{"empty", nil, "at byte 0: 0 bytes long: this is no capture file", false},
		{"text", []byte("hello, world"), "magic number 0x68656c6c is neither", false},
		{"gzip", []byte("\x1f\x8b\x08\x00\x00"), "gunzip it first", false},
		{"version", patch(good, 4, 9), "pcap version 9, want 2", false},
		{"cut in a header", good[:24+8], "at byte 24: the file ends within a record, 8 bytes short", true},
		{"cut in a packet", good[:len(good)-3], "the file ends within a record, 3 bytes short", true},
		{"length", patch(good, 24+8, 0xff, 0xff, 0xff, 0x7f), "at byte 24: packet of 2147483647 bytes", true},
		{"pcapng cut", ng[:len(ng)-3], "the file ends within a record, 3 bytes short", true},
		{"pcapng order", patch(ng, 8, 0), "byte-order magic", true},
		{"pcapng block", patch(ng, 40+4, 3), "block length", true},
	} {
		r, err := Run(bytes.NewReader(tt.data), Options{Secrets: testSecrets(t, "")})
		if err == nil || !strings.Contains(err.Error(), tt.want) || (r != nil) != tt.some {
			t.Errorf("%s: %v, report %v; want %q", tt.name, err, r != nil, tt.want)
		}
		var format *FormatError
		if !errors.As(err, &format) {
			t.Errorf("%s: error of type %T", tt.name, err)
		}
	}
	r, err := Run(bytes.NewReader(good[:len(good)-3]), Options{Secrets: testSecrets(t, "")})
	if err == nil || len(r.Calls) != 1 || r.Calls[0].Decrypted < 50 {
		t.Errorf("%v: what came before the damage is not shown", err)
	}
	wrongLink := relink(load(t, "06"), 105, nil)
	if _, err := Run(file(wrongLink), Options{}); err == nil || !strings.Contains(err.Error(), "link types [105] are not known") {
		t.Errorf("link type 105: %v", err)
	}
}

// The names that programs rely on.
func TestJSON(t *testing.T) {
	r, _ := run(t, load(t, "07"), "")
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Calls []struct {
			Peer, Auth                           *string
			MPPEBits                             *int `json:"mppe_bits"`
			Stateful                             *bool
			Decrypted, Bad, Reordered, Duplicate *uint64
		}
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	c := v.Calls[0]
	if c.Peer == nil || c.Auth == nil || c.MPPEBits == nil || *c.MPPEBits != 128 || c.Stateful == nil || !*c.Stateful ||
		c.Decrypted == nil || *c.Decrypted != 102 || c.Bad == nil || c.Reordered == nil || c.Duplicate == nil {
		t.Errorf("%s", b)
	}
	var text strings.Builder
	if err := r.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"call 1: 10.99.0.2 -> 10.99.0.1", "MPPE-128 stateful", "76 decrypted, 0 bad", `user "vpnuser", accepted`} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, text.String())
		}
	}
}

// A client that may try again answers the challenge in the failure message,
// which comes without a packet of its own (RFC 2759 §6).
func TestRetry(t *testing.T) {
	const user, password = "vpnuser", "Secret-Pass1"
	auth, peer := [16]byte{1, 2, 3}, [16]byte{4, 5, 6}
	nt := mschap.NTResponse2(auth, peer, user, mschap.NTHash(password))
	value := slices.Concat(peer[:], make([]byte, 8), nt[:], []byte{0})
	client := &flow{proofs: []proof{
		{proto: wire.PPPCHAP, code: chapResponse, id: 7, value: make([]byte, 49), text: user},
		{proto: wire.PPPCHAP, code: chapResponse, id: 8, value: value, text: user},
	}}
	server := &flow{proofs: []proof{
		{proto: wire.PPPCHAP, code: chapChallenge, id: 7, value: make([]byte, 16), text: "srv"},
		{proto: wire.PPPCHAP, code: chapFailure, id: 7, text: "E=691 R=1 C=01020300000000000000000000000000 V=3 M=no"},
		{proto: wire.PPPCHAP, code: chapSuccess, id: 8, text: "S=0 M=yes"},
	}}
	x := (&call{flows: [2]*flow{client, server}}).exchanges(testSecrets(t, "vpnuser srv Secret-Pass1 *"))
	if len(x) != 2 || x[0].secret != SecretWrong || x[0].outcome != "refused" || x[1].secret != SecretFits || x[1].outcome != "accepted" || len(x[1].keys) != 1 {
		t.Errorf("%+v", x)
	}
}
