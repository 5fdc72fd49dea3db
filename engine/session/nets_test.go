package session

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

// Against a list that is searched from end to end.
func TestNets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var n Nets[int]
		list := map[netip.Prefix]int{}
		octet := rapid.SampledFrom([]byte{0, 1, 127, 128, 255})
		addr := func() [4]byte {
			return [4]byte{octet.Draw(t, "a"), octet.Draw(t, "b"), octet.Draw(t, "c"), octet.Draw(t, "d")}
		}
		for i := range rapid.IntRange(0, 60).Draw(t, "steps") {
			p := netip.PrefixFrom(netip.AddrFrom4(addr()), rapid.IntRange(0, 32).Draw(t, "length"))
			if rapid.Bool().Draw(t, "delete") {
				n.Delete(p)
				delete(list, p.Masked())
			} else {
				n.Set(p, i)
				list[p.Masked()] = i
			}
			if v, ok := n.Get(p); ok != (list[p.Masked()] == i && ok) || ok && v != i {
				t.Fatalf("%v: %d %v", p, v, ok)
			}
			a := addr()
			longest, want := -1, 0
			for q, v := range list {
				if q.Contains(netip.AddrFrom4(a)) && q.Bits() > longest {
					longest, want = q.Bits(), v
				}
			}
			if v, ok := n.Find(a); ok != (longest >= 0) || v != want {
				t.Fatalf("%v: found %d %v, want %d of length %d in %v", a, v, ok, want, longest, list)
			}
		}
	})
}

func TestNetsOfSessions(t *testing.T) {
	tb := NewTable()
	a, b := &Session{CallID: 1}, &Session{CallID: 2}
	tb.Insert(a)
	tb.Insert(b)
	wide, narrow := netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("10.1.0.0/16")
	tb.BindV4(a, netip.MustParseAddr("10.1.0.1"))
	tb.BindNet(a, wide)
	tb.BindNet(b, narrow)
	for addr, want := range map[[4]byte]*Session{
		{10, 1, 0, 1}: a, {10, 1, 0, 2}: b, {10, 2, 0, 1}: a, {11, 0, 0, 1}: nil,
	} {
		if got := tb.ByV4(addr); got != want {
			t.Errorf("%v: the wrong session", addr)
		}
	}
	if !a.Covers([4]byte{10, 9, 9, 9}) || a.Covers([4]byte{11, 0, 0, 1}) || b.Covers([4]byte{10, 2, 0, 1}) {
		t.Error("what a session covers")
	}
	tb.BindNet(b, wide) // the newer holder is right
	if tb.ByV4([4]byte{10, 2, 0, 1}) != b {
		t.Error("not taken over")
	}
	if tb.UnbindNet(a, wide) || tb.ByV4([4]byte{10, 2, 0, 1}) != b || len(a.Nets) != 0 {
		t.Error("the former holder took it along")
	}
	tb.Remove(b)
	if tb.ByV4([4]byte{10, 2, 0, 1}) != nil || tb.ByV4([4]byte{10, 1, 0, 2}) != nil {
		t.Error("networks of a session that is gone")
	}
}
