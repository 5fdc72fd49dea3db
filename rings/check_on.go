//go:build framecheck || race

package rings

import "fmt"

// Owner tags: a frame is free or taken, never the same twice in a row.
const (
	ownNone = iota
	ownFree
	ownTaken
)

func (f *Frame) setFree() {
	if f.state.Swap(ownFree) == ownFree {
		panic(fmt.Sprintf("rings: frame %d freed twice", f.idx))
	}
}

func (f *Frame) setTaken() {
	if s := f.state.Swap(ownTaken); s == ownTaken {
		panic(fmt.Sprintf("rings: frame %d taken twice", f.idx))
	}
}
