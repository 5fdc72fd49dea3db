package radius

import (
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"layeh.com/radius"
	"layeh.com/radius/rfc2865"
	"layeh.com/radius/rfc2869"
	"layeh.com/radius/rfc3162"
	"layeh.com/radius/rfc4818"
	"layeh.com/radius/vendors/microsoft"

	"xpptp/control/aaa"
	"xpptp/control/ppp/mschap"
)

// Vendor attributes (RFC 2548; WISPr and MikroTik dictionaries).
const (
	msVendor, wisprVendor, mikrotikVendor = 311, 14122, 14988

	msCHAPError        = 2
	msEncryptionPolicy = 7
	msEncryptionTypes  = 8
	msCHAPKeys         = 12
	msSendKey          = 16
	msRecvKey          = 17
	msCHAP2Success     = 26
	msPrimaryDNS       = 28
	msSecondaryDNS     = 29
	msPrimaryNBNS      = 30
	msSecondaryNBNS    = 31

	wisprMaxUp   = 7
	wisprMaxDown = 8
	mikrotikRate = 8
)

// accept reads an Access-Accept. An attribute that cannot be understood, where
// leaving it out would give more than was meant, makes it a refusal.
func accept(r *aaa.Request, rep reply) aaa.Result {
	res := aaa.Result{User: r.Name, Text: replyMessage(rep.Packet)}
	if u := rfc2865.UserName_GetString(rep.Packet); u != "" {
		res.User = u // RFC 2865 §5.1: the name to use from here on
	}
	res.Grant.Remote = true
	err := service(rep.Packet)
	if err == nil {
		err = address(&res, rep.Packet)
	}
	if err == nil {
		err = grant(&res.Grant, rep.Packet)
	}
	if err == nil {
		err = prove(&res, r, rep)
	}
	if err != nil {
		return aaa.Result{Err: fmt.Errorf("Access-Accept of %s: %w", rep.from.addr, err)}
	}
	return res
}

// service: RFC 2865 §5.6: a service that we do not have is a refusal.
func service(p *radius.Packet) error {
	if v, err := rfc2865.ServiceType_Lookup(p); err == nil && v != rfc2865.ServiceType_Value_FramedUser {
		return fmt.Errorf("Service-Type %v, where only Framed-User is possible", v)
	}
	if v, err := rfc2865.FramedProtocol_Lookup(p); err == nil && v != rfc2865.FramedProtocol_Value_PPP {
		return fmt.Errorf("Framed-Protocol %v, where only PPP is possible", v)
	}
	return nil
}

// address reads Framed-IP-Address. 255.255.255.254 asks for one of ours, and so
// does 255.255.255.255 here, which would let the user choose (RFC 2865 §5.8).
func address(res *aaa.Result, p *radius.Packet) error {
	for _, a := range all(p, rfc2865.FramedIPAddress_Type) {
		if len(a) != 4 {
			return malformed("Framed-IP-Address", a)
		}
		ip := netip.AddrFrom4([4]byte(a))
		if a[0] == 255 && a[1] == 255 && a[2] == 255 && a[3] >= 254 {
			continue
		}
		if ip.IsUnspecified() || ip.IsMulticast() || ip.IsLoopback() {
			return fmt.Errorf("Framed-IP-Address %v cannot be the address of a host", ip)
		}
		res.Addresses = aaa.OneAddress(ip)
	}
	return nil
}

func malformed(name string, a radius.Attribute) error {
	return fmt.Errorf("malformed %s: % X", name, []byte(a))
}

// grant reads everything but the address and the keys.
func grant(g *aaa.Grant, p *radius.Packet) error {
	for _, avp := range p.Attributes {
		if err := grantOne(g, avp.Type, avp.Attribute); err != nil {
			return err
		}
	}
	var err error
	eachVendorAttr(p, func(vendor uint32, typ byte, a radius.Attribute) {
		if e := grantVendor(g, vendor, typ, a); e != nil && err == nil {
			err = e
		}
	})
	return err
}

func grantOne(g *aaa.Grant, t radius.Type, a radius.Attribute) (err error) {
	switch t {
	case rfc2869.FramedPool_Type:
		g.Pool = string(a)
	case rfc2865.FilterID_Type:
		g.Filter = string(a)
	case rfc2865.Class_Type:
		g.Class = append(g.Class, a)
	case rfc2865.SessionTimeout_Type:
		g.SessionTimeout, err = seconds("Session-Timeout", a)
	case rfc2865.IdleTimeout_Type:
		g.IdleTimeout, err = seconds("Idle-Timeout", a)
	case rfc2869.AcctInterimInterval_Type:
		g.Interim, err = seconds("Acct-Interim-Interval", a)
		if g.Interim > 0 {
			g.Interim = max(g.Interim, time.Minute) // RFC 2869 §5.16
		}
	case rfc2865.FramedRoute_Type:
		var r netip.Prefix
		if r, err = framedRoute(string(a)); err == nil {
			g.Routes = append(g.Routes, r)
		}
	case rfc3162.FramedInterfaceID_Type:
		if len(a) != 8 {
			return malformed("Framed-Interface-Id", a)
		}
		g.InterfaceID = 0
		for _, b := range a {
			g.InterfaceID = g.InterfaceID<<8 | uint64(b)
		}
	case rfc3162.FramedIPv6Prefix_Type:
		g.Prefixes, err = prefix6("Framed-IPv6-Prefix", g.Prefixes, a)
	case rfc4818.DelegatedIPv6Prefix_Type:
		g.Delegated, err = prefix6("Delegated-IPv6-Prefix", g.Delegated, a)
	default: // says nothing to us
	}
	return err
}

func seconds(name string, a radius.Attribute) (time.Duration, error) {
	n, err := radius.Integer(a)
	if err != nil {
		return 0, malformed(name, a)
	}
	return time.Duration(n) * time.Second, nil
}

func prefix6(name string, ps []netip.Prefix, a radius.Attribute) ([]netip.Prefix, error) {
	n, err := radius.IPv6Prefix(a)
	if err != nil {
		return ps, malformed(name, a)
	}
	ip, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return append(ps, netip.PrefixFrom(ip, ones)), nil
}

// framedRoute reads "192.168.1.0/24 192.168.1.1 1" (RFC 2865 §5.22): a
// destination, and what may follow: the gateway, which is the user, and
// metrics. Without a length the address's class says it.
func framedRoute(s string) (netip.Prefix, error) {
	fields := strings.Fields(s)
	if len(fields) == 0 {
		return netip.Prefix{}, errors.New("malformed Framed-Route: empty")
	}
	text := fields[0]
	if !strings.Contains(text, "/") {
		ip, err := netip.ParseAddr(text)
		if err != nil || !ip.Is4() || ip.IsUnspecified() {
			return netip.Prefix{}, fmt.Errorf("malformed Framed-Route: %q", s)
		}
		return netip.PrefixFrom(ip, classLength(ip)), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil || !p.Addr().Is4() || p.Bits() == 0 { // all there is would be ours too
		return netip.Prefix{}, fmt.Errorf("malformed Framed-Route: %q", s)
	}
	return p.Masked(), nil
}

// classLength: RFC 2865 §5.22: 8, 16 or 24 bits by the class, all of them for
// what is no network's address.
func classLength(ip netip.Addr) int {
	b := ip.As4()
	n := 24
	switch {
	case b[0] < 128:
		n = 8
	case b[0] < 192:
		n = 16
	}
	if netip.PrefixFrom(ip, n).Masked().Addr() != ip {
		return 32
	}
	return n
}

func grantVendor(g *aaa.Grant, vendor uint32, typ byte, a radius.Attribute) (err error) {
	type key struct {
		vendor uint32
		typ    byte
	}
	switch (key{vendor, typ}) {
	case key{msVendor, msPrimaryDNS}:
		g.DNS[0], err = host("MS-Primary-DNS-Server", a)
	case key{msVendor, msSecondaryDNS}:
		g.DNS[1], err = host("MS-Secondary-DNS-Server", a)
	case key{msVendor, msPrimaryNBNS}:
		g.NBNS[0], err = host("MS-Primary-NBNS-Server", a)
	case key{msVendor, msSecondaryNBNS}:
		g.NBNS[1], err = host("MS-Secondary-NBNS-Server", a)
	case key{msVendor, msEncryptionPolicy}:
		n, e := radius.Integer(a)
		if e != nil || n != 1 && n != 2 {
			return malformed("MS-MPPE-Encryption-Policy", a)
		}
		g.Encryption.Required = n == 2
	case key{msVendor, msEncryptionTypes}:
		n, e := radius.Integer(a)
		if e != nil {
			return malformed("MS-MPPE-Encryption-Types", a)
		}
		g.Encryption.Bits = encryptionTypes(n)
	case key{wisprVendor, wisprMaxUp}:
		g.Rate.Up, err = bitRate("WISPr-Bandwidth-Max-Up", a)
	case key{wisprVendor, wisprMaxDown}:
		g.Rate.Down, err = bitRate("WISPr-Bandwidth-Max-Down", a)
	case key{mikrotikVendor, mikrotikRate}:
		g.Rate, err = mikrotikRateLimit(string(a))
	}
	return err
}

func host(name string, a radius.Attribute) (netip.Addr, error) {
	if len(a) != 4 {
		return netip.Addr{}, malformed(name, a)
	}
	return netip.AddrFrom4([4]byte(a)), nil
}

// encryptionTypes: RFC 2548 §2.4.4: bits 1 and 2, 40 and 128 bits long; 3 is
// Microsoft's for 56. Without any bit, nothing is said.
func encryptionTypes(n uint32) (lengths []int) {
	for _, t := range []struct {
		bit    uint32
		length int
	}{{2, 40}, {8, 56}, {4, 128}} {
		if n&t.bit != 0 {
			lengths = append(lengths, t.length)
		}
	}
	return lengths
}

func bitRate(name string, a radius.Attribute) (uint64, error) {
	n, err := radius.Integer(a)
	if err != nil {
		return 0, malformed(name, a)
	}
	return uint64(n), nil
}

// mikrotikRateLimit reads "up/down" in bits per second, with k, M or G for
// thousands; one number is for both ways. What may follow, bursts and
// priorities, is not used.
func mikrotikRateLimit(s string) (r aaa.Rate, err error) {
	first, _, _ := strings.Cut(strings.TrimSpace(s), " ")
	up, down, two := strings.Cut(first, "/")
	if !two {
		down = up
	}
	var ok1, ok2 bool
	r.Up, ok1 = rateWord(up)
	r.Down, ok2 = rateWord(down)
	if !ok1 || !ok2 {
		return aaa.Rate{}, fmt.Errorf("malformed Mikrotik-Rate-Limit: %q", s)
	}
	return r, nil
}

func rateWord(s string) (uint64, bool) {
	unit := uint64(1)
	if s != "" {
		switch s[len(s)-1] {
		case 'k', 'K':
			unit = 1e3
		case 'm', 'M':
			unit = 1e6
		case 'g', 'G':
			unit = 1e9
		}
		if unit > 1 {
			s = s[:len(s)-1]
		}
	}
	n, err := strconv.ParseUint(s, 10, 64)
	hi, lo := bits.Mul64(n, unit)
	return lo, err == nil && hi == 0
}

// prove reads what the methods of Microsoft need back from the server.
func prove(res *aaa.Result, r *aaa.Request, rep reply) error {
	switch r.Method {
	case aaa.MSCHAPv1:
		return proveV1(res, r, rep)
	case aaa.MSCHAPv2:
		return proveV2(res, r, rep)
	default:
		return nil
	}
}

// proveV1 reads MS-CHAP-MPPE-Keys (RFC 2548 §2.4.1): 8 octets LM key, 16 octets
// NT key, 8 of padding. The NT key is the hash of the NT hash, as servers and
// clients have it, whatever the RFC says.
func proveV1(res *aaa.Result, r *aaa.Request, rep reply) error {
	found := msAttrs(rep.Packet, msCHAPKeys)
	if len(found) == 0 {
		return nil // no keys, no encryption
	}
	if len(found[0]) != 32 {
		return malformed("MS-CHAP-MPPE-Keys", found[0])
	}
	// Encrypted like a User-Password (§2.4.1), but full of zeros that count.
	auth := rep.request.Authenticator
	plain := unhide(found[0], rep.request.Secret, auth[:])
	res.Keys = &aaa.Keys{
		LMHash: [8]byte(plain), NTHashHash: [16]byte(plain[8:]), Challenge: [8]byte(r.Challenge),
	}
	return nil
}

// proveV2 reads MS-CHAP2-Success (RFC 2548 §2.3.3), without which the peer will
// not believe us, and the start keys (§2.4.2, §2.4.3): "send" and "receive" are
// ours, the NAS's.
func proveV2(res *aaa.Result, r *aaa.Request, rep reply) error {
	found := msAttrs(rep.Packet, msCHAP2Success)
	if len(found) == 0 {
		return errors.New("no MS-CHAP2-Success")
	}
	if _, ok := mschap.ParseAuthenticator(string(found[0][min(1, len(found[0])):])); !ok || found[0][0] != r.ID {
		return malformed("MS-CHAP2-Success", found[0])
	}
	res.Message = string(found[0][1 : 1+2+2*mschap.AuthSize])
	if len(msAttrs(rep.Packet, msSendKey))+len(msAttrs(rep.Packet, msRecvKey)) == 0 {
		return nil
	}
	send, err1 := microsoft.MSMPPESendKey_Lookup(rep.Packet, rep.request)
	recv, err2 := microsoft.MSMPPERecvKey_Lookup(rep.Packet, rep.request)
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("MS-MPPE-Send-Key, MS-MPPE-Recv-Key: %w", err)
	}
	if len(send) != 16 || len(recv) != 16 {
		return fmt.Errorf("MS-MPPE-Send-Key, MS-MPPE-Recv-Key: %d and %d octets, where 16 belong", len(send), len(recv))
	}
	res.Keys = &aaa.Keys{Ready: true, Send: [16]byte(send), Recv: [16]byte(recv)}
	return nil
}
