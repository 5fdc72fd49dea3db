package mppc

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"xpptp/engine"
)

// freeRDP is a process with a compressor and a decompressor of FreeRDP's.
type freeRDP struct {
	t   *testing.T
	in  io.Writer
	out *bufio.Reader
}

// buildFreeRDP builds the program of testdata/oracle, and skips the test
// without compiler or library.
func buildFreeRDP(t *testing.T) (program string) {
	t.Helper()
	cc, err := exec.LookPath("cc")
	if err != nil {
		t.Skip("no C compiler")
	}
	flags, err := exec.Command("pkg-config", "--cflags", "--libs", "freerdp2").Output()
	if err != nil {
		t.Skip("pkg-config does not know freerdp2 (Debian: pkg-config, freerdp2-dev)")
	}
	program = filepath.Join(t.TempDir(), "mppc")
	args := append([]string{"-O2", "-o", program, "testdata/oracle/mppc.c"}, strings.Fields(string(flags))...)
	if out, err := exec.Command(cc, args...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}

func startFreeRDP(t *testing.T, program string) *freeRDP {
	t.Helper()
	cmd := exec.Command(program)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("FreeRDP's side: %v", err)
		}
	})
	return &freeRDP{t: t, in: in, out: bufio.NewReader(out)}
}

func (f *freeRDP) ask(what, flags byte, packet []byte) ([]byte, byte) {
	f.t.Helper()
	request := binary.BigEndian.AppendUint16([]byte{what, flags}, uint16(len(packet)))
	if _, err := f.in.Write(append(request, packet...)); err != nil {
		f.t.Fatal(err)
	}
	var header [4]byte
	if _, err := io.ReadFull(f.out, header[:]); err != nil {
		f.t.Fatal(err)
	}
	answer := make([]byte, binary.BigEndian.Uint16(header[2:]))
	if _, err := io.ReadFull(f.out, answer); err != nil {
		f.t.Fatal(err)
	}
	if header[0] != 0 {
		f.t.Fatalf("%c with flags %02x: FreeRDP refuses %x", what, flags, packet)
	}
	return answer, header[1]
}

// rdpCorpora are packets of each corpus in many sizes, and "turns": of all in
// turns, so that the history begins anew now and then.
func rdpCorpora(t *testing.T) map[string][][]byte {
	all := map[string][][]byte{}
	for name, data := range corpora(t) {
		for _, size := range []int{1, 3, 40, 576, 1400, 4000, 8180, 0} {
			n := 20000
			if size > 0 && size < 40 {
				n = 400
			}
			all[name] = append(all[name], split(data[:n], size)...)
		}
	}
	for i := range 100 {
		for _, name := range []string{"text", "few", "zeros", "random", "traffic", "text", "mixed"} {
			if p := all[name]; name != "random" || i%5 == 0 {
				all["turns"] = append(all["turns"], p[len(p)-1-i%25])
			}
		}
	}
	return all
}

// What we compress, FreeRDP decompresses, and the other way round.
func TestFreeRDP(t *testing.T) {
	program := buildFreeRDP(t)
	for name, packets := range rdpCorpora(t) {
		t.Run(name, func(t *testing.T) {
			rdp := startFreeRDP(t, program)
			var (
				tx          Tx
				rx          Rx
				plain, bits = 0, map[Bits]int{}
				in, ours    = 0, 0
				theirs      = 0
			)
			dst := make([]byte, HistoryLen)
			for i, p := range packets {
				if i%97 == 50 {
					tx.Reset()
					rdp.ask('R', 0, nil)
				}
				sent, b := tx.Compress(dst, p)
				in, ours = in+len(p), ours+len(sent)
				bits[b]++
				if got, _ := rdp.ask('D', byte(b>>8), sent); !bytes.Equal(got, p) {
					t.Fatalf("packet %d of %d bytes, sent as %d with bits %04x: FreeRDP has %d bytes, or others", i, len(p), len(sent), b, len(got))
				}
				sent, flags := rdp.ask('C', 0, p)
				b = Bits(flags) << 8
				theirs += len(sent)
				got, d := rx.Decompress(dst, sent, b)
				if d != engine.Pass || !bytes.Equal(got, p) {
					t.Fatalf("packet %d of %d bytes, FreeRDP's %d with flags %02x: %v, %d bytes", i, len(p), len(sent), flags, d, len(got))
				}
				rx.Commit(got, b)
				if b&Compressed == 0 {
					plain++
				}
			}
			t.Logf("%d packets, %d bytes: ours %d, FreeRDP's %d (%d plain); bits of ours %04x", len(packets), in, ours, theirs, plain, bits)
			if ours > theirs+theirs/10 {
				t.Errorf("%d bytes became %d, FreeRDP makes %d of them", in, ours, theirs)
			}
		})
	}
}

// The bits of FreeRDP's around what does not compress, as the package's
// documentation says.
func TestFreeRDPBits(t *testing.T) {
	rdp := startFreeRDP(t, buildFreeRDP(t))
	c := corpora(t)
	text, random := c["text"][:1000], c["random"][:1000]
	for i, tt := range []struct {
		packet []byte
		want   byte
	}{
		{text, 0x60},
		{text, 0x20},
		{random, 0x80},
		{random, 0x80},
		{text, 0xe0},
		{text, 0x20},
	} {
		if _, flags := rdp.ask('C', 0, tt.packet); flags != tt.want {
			t.Errorf("packet %d: flags %02x, want %02x", i, flags, tt.want)
		}
	}
}
