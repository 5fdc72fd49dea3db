package decrypt

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"

	"xpptp/engine/wire"
)

// Codes of LCP and the network control protocols (RFC 1661 §5, RFC 1962 §3,
// RFC 1570).
const (
	confReq    = 1
	confAck    = 2
	confNak    = 3
	confRej    = 4
	termReq    = 5
	termAck    = 6
	codeRej    = 7
	protoRej   = 8
	echoReq    = 9
	discardReq = 11
	resetReq   = 14
	resetAck   = 15
)

// Codes of CHAP and PAP (RFC 1994, RFC 1334).
const (
	chapChallenge = 1
	chapResponse  = 2
	chapSuccess   = 3
	chapFailure   = 4

	papRequest = 1
	papAck     = 2
	papNak     = 3
)

var codeNames = map[uint8]string{
	confReq: "Configure-Request", confAck: "Configure-Ack", confNak: "Configure-Nak", confRej: "Configure-Reject",
	termReq: "Terminate-Request", termAck: "Terminate-Ack", codeRej: "Code-Reject", protoRej: "Protocol-Reject",
	echoReq: "Echo-Request", 10: "Echo-Reply", discardReq: "Discard-Request", 12: "Identification",
	13: "Time-Remaining", resetReq: "Reset-Request", resetAck: "Reset-Ack",
}

var protoNames = map[uint16]string{
	wire.PPPLCP: "LCP", wire.PPPCCP: "CCP", wire.PPPIPCP: "IPCP", wire.PPPIPV6CP: "IPV6CP",
	wire.PPPPAP: "PAP", wire.PPPCHAP: "CHAP", wire.PPPEAP: "EAP",
	0xc029: "CBCP", 0xc02b: "BACP", 0xc02d: "BAP", 0x8053: "ECP", 0x803f: "NBFCP", 0x802b: "IPXCP", 0x8281: "MPLSCP",
	wire.PPPIPv4: "IPv4", wire.PPPIPv6: "IPv6", wire.PPPMPPE: "compressed data",
	0x2b: "IPX", 0x2d: "VJ compressed TCP", 0x2f: "VJ uncompressed TCP", 0x3d: "multilink", 0x3f: "NetBEUI",
}

func protoName(p uint16) string {
	if n := protoNames[p]; n != "" {
		return n
	}
	return fmt.Sprintf("protocol %04x", p)
}

// control is a packet of a PPP control protocol, cut to its length field.
type control struct {
	proto    uint16
	code, id uint8
	data     []byte
}

// parseControl reads the header that all control protocols share. A length
// that is impossible makes ok false.
func parseControl(proto uint16, info []byte) (c control, ok bool) {
	if proto < 0x8000 || len(info) < 4 {
		return c, false
	}
	n := int(be.Uint16(info[2:]))
	if n < 4 || n > len(info) {
		return c, false
	}
	return control{proto, info[0], info[1], info[4:n]}, true
}

// options calls f for each whole option of a list.
func options(b []byte, f func(kind uint8, v []byte)) {
	for len(b) >= 2 && b[1] >= 2 && int(b[1]) <= len(b) {
		f(b[0], b[2:b[1]])
		b = b[b[1]:]
	}
}

// describe says in words what the packet says. Passwords and challenges stay out.
func (c *control) describe() string {
	switch c.proto {
	case wire.PPPPAP:
		return fmt.Sprintf("PAP %s %d%s", papName(c.code), c.id, c.papWords())
	case wire.PPPCHAP:
		return fmt.Sprintf("CHAP %s %d%s", chapName(c.code), c.id, c.chapWords())
	}
	name := codeNames[c.code]
	if name == "" {
		name = fmt.Sprintf("code %d", c.code)
	}
	s := fmt.Sprintf("%s %s %d", protoName(c.proto), name, c.id)
	switch c.code {
	case confReq, confAck, confNak, confRej:
		if w := optionWords(c.proto, c.data); w != "" {
			s += ": " + w
		}
	case termReq, termAck:
		if len(c.data) > 0 {
			s += fmt.Sprintf(": %q", printable(string(c.data)))
		}
	case protoRej:
		if len(c.data) >= 2 {
			s += ": " + protoName(be.Uint16(c.data))
		}
	case 12:
		if len(c.data) > 4 {
			s += fmt.Sprintf(": %q", printable(string(c.data[4:])))
		}
	}
	return s
}

func papName(code uint8) string {
	switch code {
	case papRequest:
		return "Authenticate-Request"
	case papAck:
		return "Authenticate-Ack"
	case papNak:
		return "Authenticate-Nak"
	}
	return fmt.Sprintf("code %d", code)
}

func chapName(code uint8) string {
	switch code {
	case chapChallenge:
		return "Challenge"
	case chapResponse:
		return "Response"
	case chapSuccess:
		return "Success"
	case chapFailure:
		return "Failure"
	}
	return fmt.Sprintf("code %d", code)
}

// field cuts a field with a length octet off b.
func field(b []byte) (v, rest []byte, ok bool) {
	if len(b) < 1 || len(b) < 1+int(b[0]) {
		return nil, nil, false
	}
	return b[1 : 1+b[0]], b[1+b[0]:], true
}

func (c *control) papWords() string {
	if v, _, ok := field(c.data); ok {
		if c.code == papRequest {
			return fmt.Sprintf(": user %q", printable(string(v)))
		}
		return fmt.Sprintf(": %q", printable(string(v)))
	}
	return ""
}

func (c *control) chapWords() string {
	switch c.code {
	case chapChallenge, chapResponse:
		if v, name, ok := field(c.data); ok {
			return fmt.Sprintf(": name %q, value of %d octets", printable(string(name)), len(v))
		}
	case chapSuccess, chapFailure:
		return fmt.Sprintf(": %q", printable(string(c.data)))
	}
	return ""
}

func optionWords(proto uint16, b []byte) string {
	var w []string
	options(b, func(kind uint8, v []byte) {
		if len(w) < 32 {
			w = append(w, optionWord(proto, kind, v))
		}
	})
	return strings.Join(w, ", ")
}

// LCP options (RFC 1661 §6, RFC 1662, RFC 1570).
const (
	lcpMRU   = 1
	lcpACCM  = 2
	lcpAuth  = 3
	lcpMagic = 5
	lcpPFC   = 7
	lcpACFC  = 8
)

const (
	ccpBSD     = 21
	ccpMPPE    = 18
	ccpDeflate = 26
)

const ipcpAddress = 3

func optionWord(proto uint16, kind uint8, v []byte) string {
	switch proto {
	case wire.PPPLCP:
		switch {
		case kind == lcpMRU && len(v) == 2:
			return fmt.Sprintf("mru %d", be.Uint16(v))
		case kind == lcpACCM && len(v) == 4:
			return fmt.Sprintf("accm %08x", be.Uint32(v))
		case kind == lcpAuth && len(v) >= 2:
			return "auth " + authWord(v)
		case kind == lcpMagic && len(v) == 4:
			return fmt.Sprintf("magic %08x", be.Uint32(v))
		case kind == lcpPFC && len(v) == 0:
			return "pfc"
		case kind == lcpACFC && len(v) == 0:
			return "acfc"
		case kind == 13:
			return "callback"
		case kind == 17 && len(v) == 2:
			return fmt.Sprintf("mrru %d", be.Uint16(v))
		case kind == 19:
			return "endpoint discriminator"
		}
	case wire.PPPCCP:
		switch {
		case kind == ccpMPPE && len(v) == 4:
			return mppeWord(be.Uint32(v))
		case kind == ccpDeflate || kind == 24:
			return "deflate"
		case kind == ccpBSD:
			return "bsd-compress"
		case kind == 1 || kind == 2:
			return "predictor"
		case kind == 17:
			return "stac lzs"
		}
	case wire.PPPIPCP:
		name := map[uint8]string{ipcpAddress: "address", 129: "dns", 130: "nbns", 131: "second dns", 132: "second nbns"}[kind]
		switch {
		case name != "" && len(v) == 4:
			return name + " " + netip.AddrFrom4([4]byte(v)).String()
		case kind == 2 && len(v) >= 2 && be.Uint16(v) == 0x2d:
			return "vj compression"
		case kind == 2:
			return "header compression"
		}
	case wire.PPPIPV6CP:
		if kind == 1 && len(v) == 8 {
			return "interface identifier " + interfaceID([8]byte(v))
		}
	}
	return fmt.Sprintf("option %d (%s)", kind, hex.EncodeToString(v[:min(len(v), 16)]))
}

// interfaceID writes an IPv6 interface identifier as the link-local address
// made of it.
func interfaceID(id [8]byte) string {
	a := [16]byte{0xfe, 0x80}
	copy(a[8:], id[:])
	return netip.AddrFrom16(a).String()
}

func authWord(v []byte) string {
	switch p := be.Uint16(v); {
	case p == wire.PPPPAP:
		return methodPAP
	case p == wire.PPPEAP:
		return "eap"
	case p == wire.PPPCHAP && len(v) == 3:
		switch v[2] {
		case 5:
			return methodMD5
		case 0x80:
			return methodV1
		case 0x81:
			return methodV2
		}
		return fmt.Sprintf("chap algorithm %d", v[2])
	default:
		return fmt.Sprintf("protocol %04x", p)
	}
}

// Bits of the MPPE option (RFC 3078 §2.1).
const (
	mppeH = 1 << 24 // stateless
	mppeM = 0x80
	mppeS = 0x40
	mppeL = 0x20
	mppeC = 0x01 // MPPC compression
)

func mppeWord(v uint32) string {
	var w []string
	for _, b := range []struct {
		bit  uint32
		name string
	}{{mppeL, "40"}, {mppeM, "56"}, {mppeS, "128"}} {
		if v&b.bit != 0 {
			w = append(w, b.name)
		}
	}
	s := "mppe without bits"
	if len(w) > 0 {
		s = "mppe " + strings.Join(w, "+") + " bits"
	}
	if v&mppeC != 0 {
		s += " mppc"
	}
	if v&mppeH != 0 {
		return s + " stateless"
	}
	return s + " stateful"
}

// printable makes a peer's text fit to be shown: at most 128 octets, none
// outside ASCII's printable ones.
func printable(s string) string {
	b := []byte(s[:min(len(s), 128)])
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '?'
		}
	}
	return strings.TrimSpace(string(b))
}
