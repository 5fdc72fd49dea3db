package hwprofile

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// Every driver that people have is there, and says where it is from.
func TestProfilesBuiltIn(t *testing.T) {
	for _, driver := range strings.Fields("ixgbe i40e ice igb igc mlx5_core bnxt_en ena gve virtio_net veth tun generic") {
		p, ok := builtIn[driver]
		if !ok {
			t.Errorf("no profile of %s", driver)
			continue
		}
		if len(p.Sources) == 0 || p.Steering.NTuple == "" || p.Steering.RSS == "" || p.XDP.ZeroCopy == "" || p.Hardware == "" {
			t.Errorf("%s leaves out what a reader wants to know: %+v", driver, p)
		}
	}
	if got := builtIn.For("e1000e").Driver; got != Generic {
		t.Errorf("unknown hardware has the profile %q", got)
	}
	if got := (Profiles{}).For("x").Driver; got != Generic {
		t.Errorf("without profiles: %q", got)
	}
	if got := Profiles(nil).For("ice"); got != builtIn["ice"] {
		t.Errorf("nil: %v", got)
	}
}

const minimalProfile = "driver: x\nevidence: documentation\nsources: [y]\nchannels: {kind: combined}\n"

func TestParseProfileErrors(t *testing.T) {
	if _, err := ParseProfile([]byte(minimalProfile)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ in, want string }{
		{"", "EOF"},
		{"driver: x\n", "evidence"},
		{strings.Replace(minimalProfile, "documentation", "hearsay", 1), `evidence: "hearsay" is not hardware or documentation`},
		{strings.Replace(minimalProfile, "[y]", "[]", 1), "sources: must not be empty"},
		{strings.Replace(minimalProfile, "combined", "many", 1), `channels.kind: "many"`},
		{strings.Replace(minimalProfile, "[y]", "!!seq [y]", 1), "line 3: tags, anchors and aliases are not taken"},
		{strings.Replace(minimalProfile, "[y]", "&a [y]", 1), "line 3: tags"},
		{minimalProfile + "colour: red\n", "unknown field"},
		{minimalProfile + "rings: {rx: -1}\n", "rings.rx: -1 is out of range"},
		{minimalProfile + "rings: {tx: 65537}\n", "rings.tx: 65537 is out of range"},
		{minimalProfile + "coalesce: {rx-usecs: 10001}\n", "coalesce.rx-usecs: 10001 is out of range"},
		{minimalProfile + "coalesce: {adaptive-rx: maybe}\n", `"maybe" is not on or off`},
		{minimalProfile + "off: ['']\n", "off:"},
		{minimalProfile + "---\ndriver: z\n", "a second document"},
		{minimalProfile + "driver: z\n", "driver"},
	} {
		if _, err := ParseProfile([]byte(tt.in)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: %v, want %q", tt.in, err, tt.want)
		}
	}
}

func TestLoadProfiles(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("README", "not a profile")
	put("ice.yaml", strings.Replace(minimalProfile, "driver: x", "driver: ice", 1))
	p, err := LoadProfiles(dir)
	if err != nil {
		t.Fatal(err)
	}
	if p["ice"].Sources[0] != "y" || p["ena"] != builtIn["ena"] || builtIn["ice"].Sources[0] == "y" {
		t.Error("not ice alone is replaced")
	}
	put("ena.yaml", minimalProfile)
	if _, err := LoadProfiles(dir); err == nil || !strings.Contains(err.Error(), `ena.yaml: driver: "x" is not the file's name`) {
		t.Errorf("wrong name: %v", err)
	}
	if _, err := LoadProfiles(filepath.Join(dir, "none")); err == nil {
		t.Error("a directory that is not there is taken")
	}
}

func FuzzParseProfile(f *testing.F) {
	f.Add([]byte(minimalProfile))
	files, err := profileFiles.ReadDir("profiles")
	if err != nil {
		f.Fatal(err)
	}
	for _, e := range files {
		b, err := profileFiles.ReadFile("profiles/" + e.Name())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParseProfile(b)
		if err != nil {
			return
		}
		// What it holds is more than YAML can write back (control characters), if
		// it is not text.
		out, err := yaml.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseProfile(out)
		if err != nil || !reflect.DeepEqual(normal(again), normal(p)) {
			t.Skip("text that YAML writes in another way")
		}
	})
}

func normal(p *Profile) *Profile {
	q := *p
	q.Off, q.Traps, q.Sources = nil, nil, nil
	return &q
}
