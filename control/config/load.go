package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Error is what is wrong with one setting.
type Error struct {
	Where   string // file:line:column, file, or flag; "" for a default
	Key     string // "" if the file as a whole is meant
	Problem string // the value, and what is allowed
}

func (e *Error) Error() string {
	var parts []string
	key := e.Key
	if e.Where == "--"+flagName(key) { // the flag's name says it
		key = ""
	}
	for _, s := range []string{e.Where, key, e.Problem} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	return strings.Join(parts, ": ")
}

// source remembers where settings came from.
type source struct {
	file   string            // "" if none was read
	origin map[string]string // key → file:line:column, or flag
}

func (s *source) set(key, where string) {
	if s.origin == nil {
		s.origin = map[string]string{}
	}
	s.origin[key] = where
}

// Given reports whether a setting was given, in the file or by a flag.
func (s *source) Given(key string) bool {
	_, ok := s.origin[key]
	return ok
}

// fault makes an Error about a setting as it stands.
func (s *source) fault(key, format string, args ...any) error {
	where, ok := s.origin[key]
	if !ok {
		where = s.file
	}
	return &Error{where, key, fmt.Sprintf(format, args...)}
}

// Parse reads the text of a configuration file for serve; name stands before
// the line in errors. All errors are returned, joined; each is an *Error. What
// several settings say together is left to Validate.
func Parse(name string, text []byte) (*Config, error) {
	c := Default()
	if err := c.read(name, text, c.fields()); err != nil {
		return nil, err
	}
	return c, nil
}

// Load reads and validates a configuration file for serve.
func Load(path string) (*Config, error) {
	c := Default()
	if err := c.readFile(path, c.fields()); err != nil {
		return nil, err
	}
	return c, c.Validate()
}

// LoadDial reads and validates a configuration file for dial.
func LoadDial(path string) (*Dial, error) {
	d := DefaultDial()
	if err := d.readFile(path, d.fields()); err != nil {
		return nil, err
	}
	return d, d.Validate()
}

// maxFile bounds what is read; a file of every key with its help is a
// hundredth of it.
const maxFile = 1 << 20

func (s *source) readFile(path string, fs []field) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return err
	}
	if len(text) > maxFile {
		return &Error{path, "", "file is larger than 1 MiB"}
	}
	return s.read(path, text, fs)
}

func (s *source) read(name string, text []byte, fs []field) error {
	s.file = name
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		var ye yaml.Error
		if errors.As(err, &ye) {
			return &Error{at(name, ye.GetToken()), "", ye.GetMessage()}
		}
		return &Error{name, "", err.Error()}
	}
	r := reader{source: s, name: name, fields: map[string]value{}}
	for _, f := range fs {
		r.fields[f.key] = f.v
		r.keys = append(r.keys, f.key)
	}
	for i, doc := range file.Docs {
		switch {
		case doc.Body == nil || doc.Body.Type() == ast.NullType:
		case i > 0:
			r.fail(doc.Body, "", "a second document: there must be one only")
		default:
			r.section("", doc.Body)
		}
	}
	return errors.Join(r.errs...)
}

// reader walks the tree of a file.
type reader struct {
	*source
	name   string
	fields map[string]value
	keys   []string // in the order of the table
	errs   []error
}

func at(name string, t *token.Token) string {
	if t == nil || t.Position == nil {
		return name
	}
	return fmt.Sprintf("%s:%d:%d", name, t.Position.Line, t.Position.Column)
}

func (r *reader) fail(n ast.Node, key, format string, args ...any) {
	r.errs = append(r.errs, &Error{at(r.name, n.GetToken()), key, fmt.Sprintf(format, args...)})
}

// section reads a mapping whose keys begin with prefix.
func (r *reader) section(prefix string, n ast.Node) {
	m, ok := n.(ast.MapNode)
	if !ok {
		r.fail(n, strings.TrimSuffix(prefix, "."), "found %s where a mapping of keys to values belongs", describe(n))
		return
	}
	for it := m.MapRange(); it.Next(); {
		node := it.Key()
		key := prefix + node.GetToken().Value
		switch v, known := r.fields[key]; {
		case known:
			r.set(key, node, v, it.Value())
		case r.isSection(key):
			r.section(key+".", it.Value())
		default:
			r.fail(node, "", "unknown key %q%s", key, r.suggest(prefix, key))
		}
	}
}

func (r *reader) isSection(key string) bool {
	return slices.ContainsFunc(r.keys, func(k string) bool { return strings.HasPrefix(k, key+".") })
}

// set reads the value of one key.
func (r *reader) set(key string, keyNode ast.Node, v value, n ast.Node) {
	r.source.set(key, at(r.name, keyNode.GetToken()))
	m, isMany := v.(many)
	if isMany {
		m.reset()
	}
	if p, ok := v.(*pools); ok {
		if names, ok := n.(ast.MapNode); ok {
			for it := names.MapRange(); it.Next(); {
				name := it.Key().GetToken().Value
				r.each(key+"."+name, it.Value(), func(s string) error { return p.add(name, s) })
			}
			return
		}
	}
	if isMany {
		r.each(key, n, v.Set)
		return
	}
	r.scalar(key, n, v.Set)
}

// each reads a scalar or a sequence of scalars.
func (r *reader) each(key string, n ast.Node, set func(string) error) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		r.scalar(key, n, set)
		return
	}
	for _, item := range seq.Values {
		r.scalar(key, item, set)
	}
}

func (r *reader) scalar(key string, n ast.Node, set func(string) error) {
	var s string
	switch n := n.(type) {
	case *ast.StringNode:
		s = n.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		s = n.GetToken().Value
	default:
		r.fail(n, key, "found %s where one value belongs", describe(n))
		return
	}
	if err := set(s); err != nil {
		r.fail(n, key, "%s", err)
	}
}

func describe(n ast.Node) string {
	switch n.Type() {
	case ast.NullType:
		return "nothing"
	case ast.MappingType, ast.MappingValueType:
		return "a mapping"
	case ast.SequenceType:
		return "a list"
	case ast.AnchorType, ast.AliasType:
		return "an anchor or alias"
	case ast.TagType:
		return "a tag"
	case ast.LiteralType:
		return "a block of text"
	default:
		return fmt.Sprintf("%q", n.GetToken().Value)
	}
}

// suggest completes the message about an unknown key: the key that was
// probably meant, else all there are.
func (r *reader) suggest(prefix, key string) string {
	var here []string
	best, bestDistance := "", 3
	for _, k := range r.keys {
		if d := distance(k, key); d < bestDistance {
			best, bestDistance = k, d
		}
		name, in := strings.CutPrefix(k, prefix)
		name, _, _ = strings.Cut(name, ".")
		if in && !slices.Contains(here, name) {
			here = append(here, name)
		}
	}
	if best != "" {
		return fmt.Sprintf(": did you mean %q?", best)
	}
	return ": allowed are " + strings.Join(here, ", ")
}

// distance is the number of letters to insert, delete or change to make b of
// a (Levenshtein). Long words are not compared.
func distance(a, b string) int {
	const long = 64
	if len(a) > long || len(b) > long {
		return long
	}
	var row [long + 1]int
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
