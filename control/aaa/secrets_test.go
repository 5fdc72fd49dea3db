package aaa

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// Each word list is what pppd 2.4.9 reads from the text.
func TestWords(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want []string
	}{
		{"a b c", []string{"a", "b", "c"}},
		{"  a\tb\rc\v\f", []string{"a", "b", "c"}},
		{"\n# nothing\n  # here\na # tail\n", []string{"a"}},
		{"a#b", []string{"a"}},
		{`a\#b`, []string{"a#b"}},
		{`"a b" 'c "d' "e'f"`, []string{"a b", `c "d`, "e'f"}},
		{`x"y z"w'#'`, []string{"xy zw#"}},
		{`"" ''`, []string{"", ""}},
		{`a\ b "c\"d" 'e\'f' DOM\\user`, []string{"a b", `c"d`, "e'f", `DOM\user`}},
		{`\a\b\f\n\r\s\t`, []string{"\a\b\f\n\r \t"}},
		{`\101\x41\x4a\x4\0603`, []string{"AAJ\x0403"}},
		{`\1012\x411`, []string{"A2A1"}},
		{`\x4g \18`, []string{"\x04g", "\x018"}},
		{`\q\"\'`, []string{`q"'`}},
		{"a \\\nb", []string{"a", "b"}},
		{"a\\\nb", []string{"ab"}},
		{"'a\\\nb'", []string{"ab"}},
		{"\xff\xfe", []string{"\xff\xfe"}},
		{`a\`, []string{"a"}},
		{"", nil},
	} {
		s := scanner{in: []byte(tt.in), line: 1}
		got, _, err := s.next()
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%q = %q, %v; want %q", tt.in, got, err, tt.want)
		}
	}
}

const file = `# client  server  secret  addresses
alice     xpptp   wonder    10.9.0.5
alice     *       other     *
bob       *       "b o b"
*         xpptp   guest     -
*         *       anyone    !10.0.0.1 10.0.0.0/24
bob       *       second-is-ignored
dave      lac     lac-only  10.9.0.6 10.9.1.0/24
CORP\\eve *       corporate 10.9.0.7
eve       *       plain-eve 10.9.0.8
`

func mustParse(t testing.TB, text string) *Secrets {
	t.Helper()
	s, err := Parse("secrets", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestLookup(t *testing.T) {
	s := mustParse(t, file)
	if s.Len() != 9 {
		t.Errorf("%d entries, want 9", s.Len())
	}
	for _, tt := range []struct{ client, server, secret string }{
		{"alice", "xpptp", "wonder"},
		{"alice", "lac", "other"},
		{`HOME\alice`, "xpptp", "wonder"},
		{"bob", "xpptp", "b o b"}, // the client's name weighs more than the server's
		{`HOME\bob`, "xpptp", "b o b"},
		{"carol", "xpptp", "guest"},
		{"carol", "lac", "anyone"},
		{"dave", "lac", "lac-only"},
		{"dave", "xpptp", "guest"},
		{"dave", "other", "anyone"},
		{`CORP\eve`, "xpptp", "corporate"},
		{`HOME\eve`, "xpptp", "plain-eve"},
		{"eve", "xpptp", "plain-eve"},
		{"*", "xpptp", "guest"},
		{"Alice", "lac", "anyone"}, // names are case-sensitive
	} {
		e, ok := s.Lookup(tt.client, tt.server)
		if !ok || e.Secret.Reveal() != tt.secret {
			t.Errorf("Lookup(%q, %q) = %v, %v; want the secret %q", tt.client, tt.server, e, ok, tt.secret)
		}
	}
	s = mustParse(t, "alice xpptp x")
	for _, c := range []string{"bob", "", "*", `alice\`} {
		if e, ok := s.Lookup(c, "xpptp"); ok {
			t.Errorf("Lookup(%q) = line %d", c, e.Line)
		}
	}
	if e, ok := s.Lookup("alice", "*"); ok {
		t.Errorf("a server called * matched line %d", e.Line)
	}
}

func TestAddresses(t *testing.T) {
	for _, tt := range []struct {
		words, fixed string
		yes, no      []string
		none         bool
	}{
		{words: "", yes: []string{"10.0.0.1", "192.0.2.1"}},
		{words: "*", yes: []string{"10.0.0.1"}},
		{words: "-", no: []string{"10.0.0.1"}, none: true},
		{words: "10.0.0.5", fixed: "10.0.0.5", yes: []string{"10.0.0.5"}, no: []string{"10.0.0.6"}},
		{words: "10.0.0.0/24 10.0.1.9", fixed: "10.0.1.9", yes: []string{"10.0.0.200", "10.0.1.9"}, no: []string{"10.0.1.8"}},
		{words: "!10.0.0.1 10.0.0.0/24", yes: []string{"10.0.0.2"}, no: []string{"10.0.0.1", "10.0.1.1"}},
		{words: "!10.0.0.5 10.0.0.5", no: []string{"10.0.0.5"}},
		{words: "!10.0.0.5 *", yes: []string{"10.0.0.4"}, no: []string{"10.0.0.5"}},
		{words: "10.0.0.7/24", yes: []string{"10.0.0.1"}, no: []string{"10.0.1.1"}},
		{words: "10.0.0.1 - 10.0.0.2", fixed: "10.0.0.1", no: []string{"10.0.0.2"}},
		{words: "!10.0.0.1", no: []string{"10.0.0.1", "10.0.0.2"}, none: true},
	} {
		a, err := parseAddresses(strings.Fields(tt.words))
		if err != nil {
			t.Errorf("%q: %v", tt.words, err)
			continue
		}
		if addr, ok := a.Fixed(); ok != (tt.fixed != "") || ok && addr.String() != tt.fixed {
			t.Errorf("%q: fixed %s, %v; want %q", tt.words, addr, ok, tt.fixed)
		}
		for _, s := range tt.yes {
			if !a.Permits(netip.MustParseAddr(s)) {
				t.Errorf("%q denies %s", tt.words, s)
			}
		}
		for _, s := range tt.no {
			if a.Permits(netip.MustParseAddr(s)) {
				t.Errorf("%q permits %s", tt.words, s)
			}
		}
		if a.None() != tt.none {
			t.Errorf("%q: none = %v", tt.words, a.None())
		}
		if again, err := parseAddresses(strings.Fields(a.String())); err != nil || again.String() != a.String() {
			t.Errorf("%q = %q, which reads back as %q, %v", tt.words, a, again, err)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for in, want := range map[string]string{
		"bob":                          `s:1: client "bob": a line needs client, server and secret, this one ends after word 1`,
		"\n\nbob *":                    `s:3: client "bob": a line needs client, server and secret, this one ends after word 2`,
		`bob * ""`:                     `s:1: client "bob": the secret is empty`,
		`"" * x`:                       `s:1: client name is empty: write * for any client`,
		`bob * "hidden *`:              `s:1: quoted word is not closed on its line`,
		"bob * hid\\0den":              `s:1: word holds a NUL byte`,
		"bob * x host.example":         `s:1: client "bob": address "host.example" is not an IPv4 address, a prefix such as 10.0.0.0/24, * or -`,
		"bob * x 10.0.0.0/24+":         `s:1: client "bob": address "10.0.0.0/24+" is not an IPv4 address, a prefix such as 10.0.0.0/24, * or -`,
		"bob * x fd00::1":              `s:1: client "bob": address "fd00::1" is not an IPv4 address, a prefix such as 10.0.0.0/24, * or -`,
		"bob * x * -- mtu 1400":        `s:1: client "bob": address options after "--" are for pppd only: remove them`,
		strings.Repeat("a", maxWord+1): `s:1: word is longer than 1023 bytes`,
		"a\nb * x\nc":                  "s:1: client \"a\": a line needs client, server and secret, this one ends after word 1\ns:3: client \"c\": a line needs client, server and secret, this one ends after word 1",
	} {
		s, err := Parse("s", []byte(in))
		if err == nil || err.Error() != want {
			t.Errorf("%q: error %v, want %s", in, err, want)
		}
		if s != nil {
			t.Errorf("%q: secrets beside an error", in)
		}
	}
	_, err := Parse("s", bytes.Repeat([]byte("bad\n"), 1000))
	if n := strings.Count(err.Error(), "\n") + 1; n != maxErrors {
		t.Errorf("%d errors reported, want %d", n, maxErrors)
	}
}

func TestLineNumbers(t *testing.T) {
	s := mustParse(t, "# one\na \\\n * x\nb * y # d\n\nc * \"z\"")
	for client, line := range map[string]int{"a": 2, "b": 4, "c": 6} {
		if e, ok := s.Lookup(client, "s"); !ok || e.Line != line {
			t.Errorf("%s: line %d, %v; want %d", client, e.Line, ok, line)
		}
	}
}

func TestSecretDoesNotShow(t *testing.T) {
	e, _ := mustParse(t, "bob * Gr8Secret").Lookup("bob", "s")
	private := struct{ s Secret }{e.Secret}
	js, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "secret", e.Secret, "entry", e, "private", private)
	for _, s := range []string{
		fmt.Sprint(e.Secret), fmt.Sprintf("%s %q %x %v %+v %#v %d", e.Secret, e.Secret, e.Secret, e, *e, *e, e.Secret),
		fmt.Sprintf("%v %+v %#v %s %x", private, private, private, private, private), string(js), log.String(),
	} {
		if strings.Contains(s, "Gr8Secret") || strings.Contains(strings.ToLower(s), "4772385365637265") {
			t.Errorf("the secret shows in %s", s)
		}
	}
	if e.Secret.Reveal() != "Gr8Secret" || (Secret{}).Reveal() != "" {
		t.Error("Reveal does not")
	}
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask
		t.Fatal(err)
	}
}

func TestLoadPermissions(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "secrets")
	for mode, refused := range map[os.FileMode]bool{
		0o600: false, 0o400: false, 0o640: false, 0o644: true, 0o604: true, 0o602: true, 0o666: true,
	} {
		write(t, path, "bob * x", mode)
		_, err := Load(path, false)
		if refused != errors.Is(err, ErrReadable) {
			t.Errorf("mode %04o: %v", mode, err)
		}
		if want := fmt.Sprintf("%s has mode %04o: run chmod 600 %s, or set allow-world-readable-secrets", path, mode, path); refused && !strings.Contains(err.Error(), want) {
			t.Errorf("mode %04o: %v, want %s", mode, err, want)
		}
		if _, err := Load(path, true); err != nil {
			t.Errorf("mode %04o, allowed: %v", mode, err)
		}
	}
	if _, err := Load(filepath.Join(dir, "none"), false); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

func TestSecretFiles(t *testing.T) {
	dir := t.TempDir()
	path, inner := filepath.Join(dir, "secrets"), filepath.Join(dir, "bob")
	write(t, path, "bob * @"+inner+" 10.0.0.9", 0o600)
	for _, tt := range []struct {
		text string
		mode os.FileMode
		want string // error; "" if the secret is "in ner"
	}{
		{"# bob's\n'in ner' more words", 0o600, ""},
		{"'in ner'", 0o644, inner + " has mode 0644"},
		{"\n# empty", 0o600, inner + ": holds no secret"},
		{"\n'open", 0o600, inner + ":2: quoted word is not closed"},
	} {
		write(t, inner, tt.text, tt.mode)
		s, err := Load(path, false)
		if tt.want == "" {
			if err != nil {
				t.Errorf("%q: %v", tt.text, err)
			} else if e, _ := s.Lookup("bob", "s"); e.Secret.Reveal() != "in ner" {
				t.Errorf("%q: secret %q", tt.text, e.Secret.Reveal())
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), path+":1: client \"bob\": ") {
			t.Errorf("%q: error %v, want %s", tt.text, err, tt.want)
		}
	}
}

func TestReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secrets")
	write(t, path, "bob * one", 0o600)
	st, err := OpenStore(path, false)
	if err != nil {
		t.Fatal(err)
	}
	secret := func() string {
		e, _ := st.Secrets().Lookup("bob", "s")
		return e.Secret.Reveal()
	}
	write(t, path, "bob * two", 0o600)
	if secret() != "one" {
		t.Error("the secrets changed before Reload")
	}
	if err := st.Reload(); err != nil || secret() != "two" {
		t.Errorf("after Reload: %q, %v", secret(), err)
	}
	write(t, path, "bob *", 0o600)
	if err := st.Reload(); err == nil || secret() != "two" {
		t.Errorf("after a bad Reload: %q, %v", secret(), err)
	}
	if _, err := OpenStore(path, false); err == nil {
		t.Error("a bad file opened")
	}
}

// quote writes a word so that it reads back as itself.
func quote(w string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(w) {
		if c := w[i]; c > ' ' && c < 0x7f && !strings.ContainsRune(`"\`, rune(c)) {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, `\%03o`, c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

func FuzzParseSecrets(f *testing.F) {
	f.Add([]byte(file))
	for _, s := range []string{`a * "\x41\101\s" *`, "a \\\n* 'b' - #c", "a * @/etc/x !1.2.3.4/8 -", `"`, `\`, "a b c --"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := Parse("f", text)
		if err != nil {
			return
		}
		var b bytes.Buffer
		n := 0
		var clients []string
		for client, entries := range s.byClient {
			clients = append(clients, client)
			for _, e := range entries {
				secret := e.Secret.Reveal()
				if e.SecretFile != "" {
					secret = "@" + e.SecretFile
				}
				fmt.Fprintf(&b, "%s %s %s %s\n", quote(e.Client), quote(e.Server), quote(secret), e.Addresses)
				n++
			}
		}
		if n != s.Len() {
			t.Fatalf("%d entries, Len says %d", n, s.Len())
		}
		again, err := Parse("g", b.Bytes())
		if err != nil {
			t.Fatalf("%q does not read back: %v", b.String(), err)
		}
		for _, c := range clients {
			if len(again.byClient[c]) != len(s.byClient[c]) {
				t.Fatalf("client %q has %d entries, then %d", c, len(s.byClient[c]), len(again.byClient[c]))
			}
			for i, e := range s.byClient[c] {
				g := *again.byClient[c][i]
				g.Line = e.Line
				if g.Addresses.String() != e.Addresses.String() {
					t.Fatalf("addresses %q, then %q", e.Addresses, g.Addresses)
				}
				g.Addresses = e.Addresses
				if !reflect.DeepEqual(&g, e) {
					t.Fatalf("%+v, then %+v", e, g)
				}
			}
			if _, ok := s.Lookup(c, "any"); !ok && !slices.ContainsFunc(s.byClient[c], func(e *Entry) bool { return e.Server != Wild }) {
				t.Fatalf("client %q is in the file but not found", c)
			}
		}
	})
}
