package report

import (
	"bytes"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket/pcapgo"
)

var (
	// GRE version 1, protocol 0x880b, call ID 0x1234, sequence number 7, with an LCP Echo-Request.
	outer = unhex("4500002c00004000402f0000c6120002c6120001" + "3001880b000c123400000007" + "ff03c0210901000804030201")
	// An ICMP echo request in IPv4.
	inner = unhex("4500001c000000004001000a0a4000020a400001" + "0800f7fd00010001")
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

func TestCapture(t *testing.T) {
	var b bytes.Buffer
	c, err := NewCapture(&b, 3)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1_700_000_000, 123_456_789)
	for i := range 5 {
		add, data := c.Wire, outer
		if i == 1 {
			add, data = c.Decrypted, inner
		}
		if err := add(at.Add(time.Duration(i)), data); err != nil {
			t.Fatal(err)
		}
	}
	if beyond, err := c.Close(); err != nil || beyond != 2 {
		t.Fatalf("%d beyond the limit, %v", beyond, err)
	}
	r, err := pcapgo.NewNgReader(bytes.NewReader(b.Bytes()), pcapgo.NgReaderOptions{WantMixedLinkType: true})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		data, info, err := r.ReadPacketData()
		if err != nil {
			t.Fatal(err)
		}
		want, iface := outer, wireInterface
		if i == 1 {
			want, iface = inner, decryptedInterface
		}
		if !bytes.Equal(data, want) || info.InterfaceIndex != iface || !info.Timestamp.Equal(at.Add(time.Duration(i))) {
			t.Errorf("packet %d: %x of interface %d at %v", i, data, info.InterfaceIndex, info.Timestamp)
		}
	}

	tshark, err := exec.LookPath("tshark")
	if err != nil {
		t.Skip("tshark is not installed")
	}
	file := filepath.Join(t.TempDir(), "calls.pcapng")
	if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(tshark, "-r", file, "-T", "fields", "-e", "frame.interface_name", "-e", "frame.time_epoch",
		"-e", "gre.key.call_id", "-e", "gre.sequence_number", "-e", "icmp.type", "-e", "_ws.col.Protocol").Output()
	if err != nil {
		t.Fatal(err)
	}
	wire := "wire\t1700000000.12345678%d\t4660\t7\t\tPPP LCP"
	want := strings.Join([]string{
		strings.Replace(wire, "%d", "9", 1),
		"decrypted\t1700000000.123456790\t\t\t8\tICMP",
		strings.Replace(wire, "8%d", "91", 1),
	}, "\n")
	if got := strings.TrimSpace(string(out)); got != want {
		t.Errorf("tshark reads\n%s\nwant\n%s", got, want)
	}
}
