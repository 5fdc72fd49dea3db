package engine

import "testing"

// Every reason has a name of its own: two reasons under one name would hide
// one behind the other in every counter.
func TestDropNames(t *testing.T) {
	seen := map[string]Drop{}
	for d := Drop(0); d < NumDrops; d++ {
		s := d.String()
		if s == "" {
			t.Errorf("drop %d has no name", d)
		}
		if o, dup := seen[s]; dup {
			t.Errorf("drops %d and %d are both %q", o, d, s)
		}
		seen[s] = d
	}
	if NumDrops.String() != "drop(?)" {
		t.Errorf("out of range: %q", NumDrops.String())
	}
}
