package report

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write schema.json and the golden files anew")

// golden compares with a file, or writes it.
func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: run the test with -update and read what changed\ngot:\n%s", file, firstDifference(got, want))
	}
}

func firstDifference(got, want []byte) string {
	g, w := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
	for i := range g {
		if i >= len(w) || g[i] != w[i] {
			return fmt.Sprintf("line %d: %s", i+1, g[i])
		}
	}
	return fmt.Sprintf("ends at line %d", len(g))
}

// schemaOf makes the schema from the declarations of result.go.
func schemaOf(t *testing.T) []byte {
	f, err := parser.ParseFile(token.NewFileSet(), "result.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	types := map[string]*ast.StructType{}
	about := map[string]string{}
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.TYPE {
			continue
		}
		for _, s := range g.Specs {
			spec := s.(*ast.TypeSpec)
			if st, ok := spec.Type.(*ast.StructType); ok {
				types[spec.Name.Name] = st
				about[spec.Name.Name] = text(g.Doc)
			}
		}
	}
	type object = map[string]any
	var typeOf func(ast.Expr) object
	typeOf = func(e ast.Expr) object {
		switch e := e.(type) {
		case *ast.Ident:
			switch e.Name {
			case "string":
				return object{"type": "string"}
			case "bool":
				return object{"type": "boolean"}
			case "float64":
				return object{"type": "number"}
			case "int", "uint64":
				return object{"type": "integer", "minimum": 0}
			}
			return object{"$ref": "#/$defs/" + e.Name}
		case *ast.StarExpr:
			return typeOf(e.X)
		case *ast.ArrayType:
			return object{"type": "array", "items": typeOf(e.Elt)}
		case *ast.MapType:
			return object{"type": "object", "additionalProperties": typeOf(e.Value)}
		case *ast.SelectorExpr:
			if e.Sel.Name == "Time" {
				return object{"type": "string", "format": "date-time"}
			}
			return object{} // any JSON
		}
		t.Fatalf("type %T has no schema", e)
		return nil
	}
	var fields func(st *ast.StructType, properties object, required []string) []string
	fields = func(st *ast.StructType, properties object, required []string) []string {
		for _, f := range st.Fields.List {
			if len(f.Names) == 0 {
				required = fields(types[f.Type.(*ast.Ident).Name], properties, required)
				continue
			}
			tag, _ := strconv.Unquote(f.Tag.Value)
			name, options, _ := strings.Cut(reflect.StructTag(tag).Get("json"), ",")
			p := typeOf(f.Type)
			p["description"] = text(f.Doc)
			if p["description"] == "" {
				t.Errorf("%s has no comment", name)
			}
			if _, twice := properties[name]; twice {
				t.Errorf("%s is there twice", name)
			}
			properties[name] = p
			if options == "" {
				required = append(required, name)
			}
		}
		return required
	}
	define := func(name string) object {
		properties := object{}
		return object{
			"type": "object", "description": about[name],
			"required": fields(types[name], properties, nil), "properties": properties,
		}
	}
	root := define("Result")
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "Result of xpptp stress"
	defs := object{}
	for name := range types {
		if name != "Result" && name != "Named" {
			defs[name] = define(name)
		}
	}
	root["$defs"] = defs
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	if err := enc.Encode(root); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func text(c *ast.CommentGroup) string { return strings.Join(strings.Fields(c.Text()), " ") }

// The schema is what the types and their comments say.
func TestSchema(t *testing.T) { golden(t, "schema.json", schemaOf(t)) }

// What is written fits the schema: nothing undescribed, nothing missing.
func TestSampleFitsSchema(t *testing.T) {
	var root map[string]any
	if err := json.Unmarshal(Schema, &root); err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]*Result{"sample": sample(), "empty": {}} {
		b, err := r.encode()
		if err != nil {
			t.Fatal(err)
		}
		var doc any
		if err := json.Unmarshal(b, &doc); err != nil {
			t.Fatal(err)
		}
		fits(t, name, root, root, doc)
	}
}

func fits(t *testing.T, path string, root, node map[string]any, v any) {
	t.Helper()
	if ref, ok := node["$ref"].(string); ok {
		node = root["$defs"].(map[string]any)[strings.TrimPrefix(ref, "#/$defs/")].(map[string]any)
	}
	is := ""
	switch v := v.(type) {
	case map[string]any:
		is = "object"
		properties, _ := node["properties"].(map[string]any)
		for _, name := range anyStrings(node["required"]) {
			if _, ok := v[name]; !ok {
				t.Errorf("%s.%s is missing", path, name)
			}
		}
		for name, child := range v {
			p, ok := properties[name].(map[string]any)
			if !ok {
				p, ok = node["additionalProperties"].(map[string]any)
			}
			switch {
			case ok:
				fits(t, path+"."+name, root, p, child)
			case node["type"] != nil:
				t.Errorf("%s.%s is not in the schema", path, name)
			}
		}
	case []any:
		is = "array"
		if items, ok := node["items"].(map[string]any); ok {
			for _, child := range v {
				fits(t, path+"[]", root, items, child)
			}
		}
	case string:
		is = "string"
	case bool:
		is = "boolean"
	case float64:
		is = "number"
		if node["type"] == "integer" && v == float64(uint64(v)) {
			is = "integer"
		}
	}
	if node["type"] != nil && node["type"] != is {
		t.Errorf("%s is %v (%s): want %v", path, v, is, node["type"])
	}
}

func anyStrings(v any) (s []string) {
	list, _ := v.([]any)
	for _, x := range list {
		s = append(s, x.(string))
	}
	return s
}
