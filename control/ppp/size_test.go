package ppp

import (
	"reflect"
	"testing"
)

// A server holds tens of thousands of links.
func TestLinkIsSmall(t *testing.T) {
	const limit = 1280
	if n := reflect.TypeFor[Link]().Size(); n > limit {
		t.Errorf("a Link takes %d octets, more than %d", n, limit)
	}
}
