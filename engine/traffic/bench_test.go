package traffic

import "testing"

func BenchmarkPut64(b *testing.B)     { benchPut(b, 64) }
func BenchmarkPut1400(b *testing.B)   { benchPut(b, 1400) }
func BenchmarkJudge64(b *testing.B)   { benchJudge(b, 64) }
func BenchmarkJudge1400(b *testing.B) { benchJudge(b, 1400) }

func benchPut(b *testing.B, n int) {
	t, buf := template(b, false), make([]byte, n)
	for i := range b.N {
		t.Put(buf, uint64(i), int64(i), int64(i))
	}
}

func benchJudge(b *testing.B, n int) {
	t, buf := template(b, false), make([]byte, n)
	t.Put(buf, 1, 2, 3)
	for range b.N {
		if _, v := Judge(buf); v != Whole {
			b.Fatal(v)
		}
	}
}

func BenchmarkCalendar(b *testing.B) {
	c := NewCalendar(0)
	const n = 1000
	c.Grow(n)
	for i := range int32(n) {
		c.Put(i, int64(i)*1000)
	}
	now := int64(0)
	for range b.N {
		i := c.Take(now)
		if i < 0 {
			b.Fatal(now)
		}
		c.Put(i, now+n*1000)
		now += 1000
	}
}

func BenchmarkVerifier(b *testing.B) {
	var v Verifier
	for i := range b.N {
		v.Receive(uint64(i))
	}
}
