package report

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"reflect"
)

// Schema is the JSON Schema (draft 2020-12) of the document, made from the
// comments of Result.
//
//go:embed schema.json
var Schema []byte

// WriteJSON writes the document, indented, its numbers made finite. It sets
// r.Schema.
func (r *Result) WriteJSON(w io.Writer) error {
	b, err := r.encode()
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

func (r *Result) encode() ([]byte, error) {
	r.Schema = Version
	if r.InvalidReasons == nil {
		r.InvalidReasons = []string{}
	}
	if !json.Valid(r.Plan) {
		r.Plan = nil
	}
	makeFinite(reflect.ValueOf(r))
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	return append(b, '\n'), nil
}

// makeFinite sets numbers to 0 that JSON has no word for: a rate over no time
// must not cost a long run its report.
func makeFinite(v reflect.Value) {
	switch v.Kind() {
	case reflect.Float64:
		if f := v.Float(); math.IsNaN(f) || math.IsInf(f, 0) {
			v.SetFloat(0)
		}
	case reflect.Pointer:
		if !v.IsNil() {
			makeFinite(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				makeFinite(v.Field(i))
			}
		}
	case reflect.Slice:
		switch v.Type().Elem().Kind() {
		case reflect.Struct, reflect.Float64:
			for i := range v.Len() {
				makeFinite(v.Index(i))
			}
		default: // text and bytes
		}
	default: // no number with a fraction
	}
}

// maxDocument bounds what Read takes: a run of a day with every series is
// some megabytes.
const maxDocument = 256 << 20

// Read reads a document that WriteJSON wrote. Names it does not know are left
// out; another version is an error.
func Read(rd io.Reader) (*Result, error) {
	var r Result
	if err := json.NewDecoder(io.LimitReader(rd, maxDocument)).Decode(&r); err != nil {
		return nil, fmt.Errorf("report: not a result in JSON: %w", err)
	}
	if r.Schema != Version {
		return nil, fmt.Errorf("report: schema %d: want %d", r.Schema, Version)
	}
	return &r, nil
}
