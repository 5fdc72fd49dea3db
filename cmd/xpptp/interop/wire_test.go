//go:build interop

package interop

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// A capture is a tcpdump on the guest's end of the wire: there it also sees what AF_XDP receives and sends at the other end.
type capture struct {
	path   string
	cmd    *exec.Cmd
	stderr lockedBuffer
}

const snapLen = 256 // bytes of each packet: headers, and enough to see whether the contents are encrypted

func startCapture(l *lab, path string) (*capture, error) {
	c := &capture{path: path}
	c.cmd = (&host{netns: l.farNS}).command("tcpdump", "-i", "veth1", "-n", "-U", "--immediate-mode", "-B", "8192", "-Z", "root",
		"-s", fmt.Sprint(snapLen), "-w", path, "ip proto 47 or tcp port 1723 or icmp")
	c.cmd.Stderr = &c.stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	for end := time.Now().Add(10 * time.Second); !strings.Contains(c.stderr.String(), "listening on"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			_ = c.cmd.Process.Kill()
			_ = c.cmd.Wait()
			return nil, fmt.Errorf("tcpdump: %s", c.stderr.String())
		}
	}
	return c, nil
}

func (c *capture) stop() error {
	if c.cmd.ProcessState != nil {
		return nil
	}
	if err := c.cmd.Process.Signal(syscall.SIGINT); err != nil {
		return err
	}
	_ = c.cmd.Wait()
	if out := c.stderr.String(); strings.Contains(out, "dropped by kernel") && !strings.Contains(out, "0 packets dropped by kernel") {
		return fmt.Errorf("tcpdump missed packets: %s", out)
	}
	return nil
}

// PPP protocol numbers a data frame may start with.
const (
	pppIPv4       = 0x0021
	pppIPv6       = 0x0057
	pppCompressed = 0x00FD
)

// A frame is one PPP frame in enhanced GRE as the wire carried it.
type frame struct {
	at       time.Time
	fromFar  bool // from the guest
	seq      uint32
	protocol uint16
	rest     int // bytes after the PPP protocol field
}

// each hands every packet of a stopped capture to f: classic pcap in this machine's byte order, microseconds.
func (c *capture) each(f func(at time.Time, packet []byte)) error {
	const fileHeader, recordHeader = 24, 16
	data, err := os.ReadFile(c.path)
	if err != nil {
		return err
	}
	if len(data) < fileHeader || binary.NativeEndian.Uint32(data) != 0xa1b2c3d4 {
		return fmt.Errorf("%s: not a capture", c.path)
	}
	for data = data[fileHeader:]; len(data) >= recordHeader; {
		seconds, micros := binary.NativeEndian.Uint32(data), binary.NativeEndian.Uint32(data[4:])
		length := int(binary.NativeEndian.Uint32(data[8:]))
		if data = data[recordHeader:]; len(data) < length {
			return nil
		}
		f(time.Unix(int64(seconds), int64(micros)*1000), data[:length])
		data = data[length:]
	}
	return nil
}

// frames reads the GRE data frames of a stopped capture.
func (c *capture) frames() (out []frame, err error) {
	err = c.each(func(at time.Time, packet []byte) {
		if fr, ok := parseFrame(packet); ok {
			fr.at = at
			out = append(out, fr)
		}
	})
	return out, err
}

// outgoingCalls reads the Outgoing-Call-Requests of a stopped capture: the TCP source port and the call ID of each.
func (c *capture) outgoingCalls() (ports, callIDs []uint16, err error) {
	err = c.each(func(_ time.Time, b []byte) {
		if len(b) < 14+20+20 || binary.BigEndian.Uint16(b[12:]) != 0x0800 || b[23] != 6 {
			return
		}
		tcp := b[14+int(b[14]&15)*4:]
		if len(tcp) < 20 || binary.BigEndian.Uint16(tcp[2:]) != 1723 {
			return
		}
		// RFC 2637 section 2.7: length 168, control message type 7, call ID at offset 12.
		if m := tcp[int(tcp[12]>>4)*4:]; len(m) >= 14 && binary.BigEndian.Uint16(m) == 168 && binary.BigEndian.Uint16(m[8:]) == 7 {
			ports = append(ports, binary.BigEndian.Uint16(tcp))
			callIDs = append(callIDs, binary.BigEndian.Uint16(m[12:]))
		}
	})
	return ports, callIDs, err
}

// parseFrame reads Ethernet, IPv4, enhanced GRE (RFC 2637 section 4.1) and the PPP protocol field; not ok for anything else.
func parseFrame(b []byte) (frame, bool) {
	if len(b) < 14+20+16 || binary.BigEndian.Uint16(b[12:]) != 0x0800 {
		return frame{}, false
	}
	ip := b[14:]
	ihl := int(ip[0]&15) * 4
	if ip[9] != 47 || binary.BigEndian.Uint16(ip[6:])&0x1FFF != 0 || len(ip) < ihl+16 {
		return frame{}, false
	}
	gre := ip[ihl:]
	if binary.BigEndian.Uint16(gre[2:]) != 0x880B || gre[0]&0x10 == 0 {
		return frame{}, false
	}
	fr := frame{fromFar: netip.AddrFrom4([4]byte(ip[12:16])).String() == farIP, seq: binary.BigEndian.Uint32(gre[8:])}
	payload, length := gre[12:], int(binary.BigEndian.Uint16(gre[4:]))
	if gre[1]&0x80 != 0 {
		payload = gre[16:]
	}
	if len(payload) > length {
		payload = payload[:length]
	}
	if len(payload) >= 2 && payload[0] == 0xFF && payload[1] == 0x03 {
		payload, length = payload[2:], length-2
	}
	switch {
	case len(payload) >= 1 && payload[0]&1 == 1:
		fr.protocol, fr.rest = uint16(payload[0]), length-1
	case len(payload) >= 2:
		fr.protocol, fr.rest = binary.BigEndian.Uint16(payload), length-2
	default:
		return frame{}, false
	}
	return fr, true
}

// checkCipher holds what the wire carried against what was agreed: with MPPE no IP packet may be readable, without it none encrypted.
func checkCipher(frames []frame, encrypted bool) error {
	count := map[bool]int{}
	for _, f := range frames {
		switch f.protocol {
		case pppCompressed:
			count[true]++
		case pppIPv4, pppIPv6:
			count[false]++
		}
	}
	if count[!encrypted] > 0 || count[encrypted] == 0 {
		return fmt.Errorf("on the wire: %d encrypted and %d readable packets, encrypted should be %v", count[true], count[false], encrypted)
	}
	return nil
}

const (
	echoOverhead = 20 + 8 // IPv4 and ICMP header
	mppeHeader   = 2
)

// An arrival is an encrypted echo packet that came to one end. Late: a packet with a higher sequence number had come more than the
// allowed time before, so the receiver need not have kept a place for it.
type arrival struct {
	size int
	late bool
}

// arrivals picks the MPPE packets of one direction and tells their echo payload size from their length. Sizes must be even: the length
// is known up to the one byte that protocol-field compression may save.
func arrivals(frames []frame, fromFar bool, patience time.Duration) (out []arrival, disorder int) {
	type seen struct {
		seq uint32
		at  time.Time
	}
	var before []seen
	for _, f := range frames {
		if f.fromFar != fromFar || f.protocol != pppCompressed {
			continue
		}
		size := (f.rest - mppeHeader - 1 - echoOverhead) &^ 1
		a := arrival{size: size}
		out1 := false
		for i := len(before) - 1; i >= 0 && i >= len(before)-64; i-- {
			if int32(before[i].seq-f.seq) > 0 {
				out1 = true
				a.late = a.late || f.at.Sub(before[i].at) > patience
			}
		}
		if out1 {
			disorder++
		}
		before = append(before, seen{f.seq, f.at})
		out = append(out, a)
	}
	return out, disorder
}
