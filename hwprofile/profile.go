package hwprofile

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// Profile is what is known of a driver and how it should be set: a file of the
// directory profiles.
type Profile struct {
	Driver   string   `yaml:"driver" json:"driver"`     // as ethtool -i names it
	Hardware string   `yaml:"hardware" json:"hardware"` // what it drives, in words
	Evidence Evidence `yaml:"evidence" json:"evidence"`
	Sources  []string `yaml:"sources" json:"sources"`

	XDP struct {
		Native   bool   `yaml:"native" json:"native"`
		ZeroCopy string `yaml:"zero-copy" json:"zero_copy"` // no, or since which Linux
		MaxMTU   int    `yaml:"max-mtu" json:"max_mtu"`     // with a program attached; 0: as without
	} `yaml:"xdp" json:"xdp"`

	// What the device can do to bring a call's packets to the queue of its
	// worker; without, the XDP program does it after the device has chosen.
	Steering struct {
		RSS    string `yaml:"rss" json:"rss"`
		NTuple string `yaml:"n-tuple" json:"n_tuple"`
	} `yaml:"steering" json:"steering"`

	Channels struct {
		Kind   ChannelKind `yaml:"kind" json:"kind"`
		Max    int         `yaml:"max" json:"max"`       // useful; 0: as many as the device has
		Half   bool        `yaml:"half" json:"half"`     // XDP takes a second queue for each
		Shrink bool        `yaml:"shrink" json:"shrink"` // fewer than there are may be set
	} `yaml:"channels" json:"channels"`

	Rings struct { // 0: as it is
		RX int `yaml:"rx" json:"rx"`
		TX int `yaml:"tx" json:"tx"`
	} `yaml:"rings" json:"rings"`

	Coalesce struct { // empty: as it is
		AdaptiveRX string `yaml:"adaptive-rx" json:"adaptive_rx,omitempty"`
		RXUsecs    *int   `yaml:"rx-usecs" json:"rx_usecs,omitempty"`
	} `yaml:"coalesce" json:"coalesce"`

	Off   []string `yaml:"off" json:"off"` // offloads, by the kernel's names
	Traps []string `yaml:"traps" json:"traps"`
}

// Evidence says how a profile is known to be right.
type Evidence string

// The kinds of evidence.
const (
	OnHardware    Evidence = "hardware"      // run and looked at
	Documentation Evidence = "documentation" // read, in the profile's sources
)

// ChannelKind says how a driver counts queues.
type ChannelKind string

// The ways.
const (
	Combined ChannelKind = "combined"
	Separate ChannelKind = "rx-tx"
	NoSwitch ChannelKind = "none" // ethtool -L does not change it
)

// Profiles are profiles by driver; "generic" is for all others. Nil are those
// built in.
type Profiles map[string]*Profile

// Generic is the name of the profile for drivers without one.
const Generic = "generic"

// For returns the profile of a driver, or the generic one.
func (p Profiles) For(driver string) *Profile {
	if p == nil {
		p = builtIn
	}
	if profile, ok := p[driver]; ok {
		return profile
	}
	if profile, ok := p[Generic]; ok {
		return profile
	}
	return builtIn[Generic]
}

//go:embed profiles/*.yaml
var profileFiles embed.FS

var builtIn = func() Profiles {
	dir, err := fs.Sub(profileFiles, "profiles")
	if err != nil {
		panic(err)
	}
	p, err := readProfiles(dir)
	if err != nil {
		panic(err)
	}
	return p
}()

// LoadProfiles returns the profiles that are built in, with those of a
// directory, if one is named, in their place: files DRIVER.yaml.
func LoadProfiles(dir string) (Profiles, error) {
	p := make(Profiles)
	for driver, profile := range builtIn {
		p[driver] = profile
	}
	if dir == "" {
		return p, nil
	}
	own, err := readProfiles(os.DirFS(dir))
	if err != nil {
		return nil, fmt.Errorf("profiles in %s: %w", dir, err)
	}
	for driver, profile := range own {
		p[driver] = profile
	}
	return p, nil
}

func readProfiles(dir fs.FS) (Profiles, error) {
	files, err := fs.ReadDir(dir, ".")
	if err != nil {
		return nil, err
	}
	p := make(Profiles)
	for _, f := range files {
		driver, ok := strings.CutSuffix(f.Name(), ".yaml")
		if !ok {
			continue
		}
		b, err := fs.ReadFile(dir, f.Name())
		if err != nil {
			return nil, err
		}
		profile, err := ParseProfile(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name(), err)
		}
		if profile.Driver != driver {
			return nil, fmt.Errorf("%s: driver: %q is not the file's name", f.Name(), profile.Driver)
		}
		p[driver] = profile
	}
	return p, nil
}

// ParseProfile reads a profile. Unknown keys and values that mean nothing are
// errors.
func ParseProfile(b []byte) (*Profile, error) {
	// The library panics on some tags and anchors, which no profile needs.
	file, err := parser.ParseBytes(b, 0)
	if err != nil {
		return nil, errors.New(yaml.FormatError(err, false, false))
	}
	v := &plain{}
	for _, doc := range file.Docs {
		if doc.Body != nil {
			ast.Walk(v, doc.Body)
		}
	}
	if v.err != nil {
		return nil, v.err
	}
	p := &Profile{}
	d := yaml.NewDecoder(bytes.NewReader(b), yaml.Strict())
	if err := d.Decode(p); err != nil {
		return nil, errors.New(yaml.FormatError(err, false, false))
	}
	if d.Decode(&Profile{}) != io.EOF { //nolint:errorlint // the decoder returns it bare
		return nil, errors.New("a second document: there must be one only")
	}
	return p, p.check()
}

// plain finds what is not plain YAML.
type plain struct{ err error }

func (v *plain) Visit(n ast.Node) ast.Visitor {
	switch n.(type) {
	case *ast.TagNode, *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode:
		v.err = fmt.Errorf("line %d: tags, anchors and aliases are not taken", n.GetToken().Position.Line)
		return nil
	}
	return v
}

// Limits of what a profile may ask for.
const (
	maxQueues = 1024
	maxRing   = 65536
	maxUsecs  = 10000
	maxMTU    = 65535
)

func (p *Profile) check() error {
	bad := func(key string, value any, want string) error {
		return fmt.Errorf("%s: %q is not %s", key, fmt.Sprint(value), want)
	}
	between := func(key string, n, most int) error {
		if n < 0 || n > most {
			return fmt.Errorf("%s: %d is out of range: allowed are 0 to %d", key, n, most)
		}
		return nil
	}
	switch {
	case p.Driver == "":
		return bad("driver", "", "a driver's name")
	case p.Evidence != OnHardware && p.Evidence != Documentation:
		return bad("evidence", p.Evidence, "hardware or documentation")
	case len(p.Sources) == 0:
		return errors.New("sources: must not be empty")
	case !slices.Contains([]ChannelKind{Combined, Separate, NoSwitch}, p.Channels.Kind):
		return bad("channels.kind", p.Channels.Kind, "combined, rx-tx or none")
	case !slices.Contains([]string{"", "on", "off"}, p.Coalesce.AdaptiveRX):
		return bad("coalesce.adaptive-rx", p.Coalesce.AdaptiveRX, "on or off")
	}
	usecs := 0
	if p.Coalesce.RXUsecs != nil {
		usecs = *p.Coalesce.RXUsecs
	}
	for _, f := range p.Off {
		if f == "" || len(f) > 32 {
			return bad("off", f, "the name of an offload")
		}
	}
	return errors.Join(
		between("channels.max", p.Channels.Max, maxQueues),
		between("rings.rx", p.Rings.RX, maxRing), between("rings.tx", p.Rings.TX, maxRing),
		between("coalesce.rx-usecs", usecs, maxUsecs),
		between("xdp.max-mtu", p.XDP.MaxMTU, maxMTU),
	)
}
