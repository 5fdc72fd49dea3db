package config

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"

	"xpptp/control/aaa"
)

// Plan describes what serve will do, for a person: every setting with where
// it comes from, the pools, and what is worth a second thought.
func (c *Config) Plan() string {
	var table, b strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	section := ""
	for _, f := range c.fields() {
		name := f.key
		if s, rest, ok := strings.Cut(f.key, "."); ok {
			if s != section {
				fmt.Fprintf(w, "%s\t\t\n", s)
				section = s
			}
			name = "  " + rest
		}
		text := f.v.String()
		if text == "" {
			text = "-"
		}
		where, ok := c.origin[f.key]
		if !ok {
			where = "default"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", name, text, where)
	}
	_ = w.Flush() // to a Builder
	for line := range strings.Lines(table.String()) {
		b.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	for _, p := range c.Pools {
		fmt.Fprintf(&b, "\npool %s: %d addresses", p.Name, p.Size())
	}
	for _, n := range c.Notes() {
		fmt.Fprintf(&b, "\nnote: %s", n)
	}
	b.WriteByte('\n')
	return b.String()
}

// PlanJSON is the plan for a program: an object with file, config (the keys in
// their sections), pools (name, size) and notes.
func (c *Config) PlanJSON() ([]byte, error) {
	type poolSize struct {
		Name string `json:"name"`
		Size int    `json:"size"`
	}
	sizes := []poolSize{}
	for _, p := range c.Pools {
		sizes = append(sizes, poolSize{p.Name, p.Size()})
	}
	return json.MarshalIndent(map[string]any{
		"file":   c.file,
		"config": tree(c.fields()),
		"pools":  sizes,
		"notes":  append([]string{}, c.Notes()...),
	}, "", "  ")
}

func tree(fs []field) map[string]any {
	root := map[string]any{}
	for _, f := range fs {
		at, key := root, f.key
		if s, rest, ok := strings.Cut(key, "."); ok {
			if root[s] == nil {
				root[s] = map[string]any{}
			}
			at, key = root[s].(map[string]any), rest
		}
		at[key] = f.v.get()
	}
	return root
}

// Size is the number of addresses.
func (p Pool) Size() (n int) {
	for _, r := range p.Ranges {
		n += r.Size()
	}
	return n
}

// Notes says what is allowed but weak, or will not do what it seems to.
func (c *Config) Notes() []string {
	notes := c.Common.notes()
	if c.AllowWorldReadableSecrets {
		notes = append(notes, "allow-world-readable-secrets: every user of this machine may read the passwords")
	}
	notes = append(notes, c.radiusNotes()...)
	size := 0
	for _, p := range c.Pools {
		size += p.Size()
	}
	if c.Limits.Calls > size {
		notes = append(notes, fmt.Sprintf("limits.calls: %d calls are allowed, but there are %d addresses", c.Limits.Calls, size))
	}
	return notes
}

func (c *Common) notes() (notes []string) {
	if slices.Contains(c.Auth, aaa.PAP) {
		notes = append(notes, "auth: pap sends passwords in the clear")
	}
	if c.MPPE == Require {
		for _, m := range c.Auth {
			if !m.GivesKeys() {
				notes = append(notes, fmt.Sprintf("auth: %s gives no keys, and mppe is require: a call that uses it ends", m))
			}
		}
	} else {
		notes = append(notes, fmt.Sprintf("mppe: with %s a call may carry traffic in the clear", c.MPPE))
	}
	for _, bits := range c.MPPEKeys {
		if bits < 128 && c.MPPE != Deny {
			notes = append(notes, fmt.Sprintf("mppe-keys: %d bits are no protection today", bits))
		}
	}
	return notes
}

// Example is a configuration file of serve that holds every key, each with its
// meaning and what is allowed, as a comment with the default.
func Example() string {
	var b strings.Builder
	b.WriteString("# Settings of xpptp serve. What is commented out is the default.\n")
	section := ""
	c := Default()
	for _, f := range c.fields() {
		indent, key := "", f.key
		if s, rest, ok := strings.Cut(f.key, "."); ok {
			if s != section {
				fmt.Fprintf(&b, "\n#%s:\n", s)
				section = s
			}
			indent, key = "  ", rest
		}
		fmt.Fprintf(&b, "\n# %s%s", indent, f.help)
		if a := f.v.allowed(); a != "" {
			fmt.Fprintf(&b, " (%s)", a)
		}
		fmt.Fprintf(&b, "\n#%s%s: %s\n", indent, key, yamlText(f.v))
	}
	return b.String()
}

// plainText is what needs no quotes.
var plainText = regexp.MustCompile(`^[0-9A-Za-z]([0-9A-Za-z._/:=,+-]*[0-9A-Za-z])?$`)

// yamlText is a value as it stands in a file.
func yamlText(v value) string {
	if m, ok := v.(many); ok {
		return "[" + strings.Join(m.items(), ", ") + "]"
	}
	if s := v.String(); plainText.MatchString(s) && !strings.EqualFold(s, "null") {
		return s
	}
	return "'" + strings.ReplaceAll(v.String(), "'", "''") + "'"
}
