package report

import (
	"bytes"
	"testing"
)

func TestText(t *testing.T) {
	for name, r := range map[string]*Result{
		"sample": sample(),
		"empty":  {InvalidReasons: []string{"Nothing was run."}},
		"calls": {
			Name: "calls only", Valid: true, Calls: Calls{Attempted: 3, Up: 3, PeakUp: 3},
			Expectations: []Expectation{{Text: "calls.up==3", Value: 3, Held: true}},
		},
	} {
		var b bytes.Buffer
		if err := r.WriteText(&b); err != nil {
			t.Fatal(err)
		}
		golden(t, "testdata/"+name+".txt", b.Bytes())
	}
}
