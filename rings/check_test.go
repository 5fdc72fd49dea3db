//go:build framecheck || race

package rings

import "testing"

func TestOwnerTag(t *testing.T) {
	p := NewPoolN(2, ChunkSmall)
	f := p.Get()
	f.Free()
	if !panics(f.Free) {
		t.Error("a frame can be freed twice")
	}
}
