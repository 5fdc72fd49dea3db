package rings

import (
	"bytes"
	"testing"
	"unsafe"
)

func panics(f func()) (yes bool) {
	defer func() { yes = recover() != nil }()
	f()
	return false
}

func TestFrameMoves(t *testing.T) {
	p := NewPoolN(1, ChunkSmall)
	f := p.Get()
	if f.Len() != 0 || f.Headroom() != UMEMHeadroom || f.Offset() != UMEMHeadroom {
		t.Fatalf("fresh frame: %d bytes at %d", f.Len(), f.Offset())
	}
	if !f.Set([]byte("payload")) {
		t.Fatal("Set refused 7 bytes")
	}
	copy(f.Push(4), "head")
	if got := f.Data(); string(got) != "headpayload" {
		t.Fatalf("after Push: %q", got)
	}
	copy(f.Extend(2)[11:], "!!")
	if got := f.Pull(4); string(got) != "payload!!" {
		t.Fatalf("after Pull: %q", got)
	}
	f.Trim(3)
	if got := f.Data(); string(got) != "pay" || f.Tailroom() != ChunkSmall-UMEMHeadroom-3 {
		t.Fatalf("after Trim: %q, tailroom %d", got, f.Tailroom())
	}
	if cap(f.Data()) != f.Len()+f.Tailroom() {
		t.Error("the data's capacity does not reach to the end of the chunk")
	}
	f.Reset(10, 20)
	if f.Offset() != 10 || f.Len() != 20 {
		t.Errorf("after Reset: %d bytes at %d", f.Len(), f.Offset())
	}
	f.Free()
	if g := p.Get(); g.Len() != 0 || g.Offset() != UMEMHeadroom {
		t.Error("a frame comes back from the pool with old bounds")
	}
}

func TestFrameBounds(t *testing.T) {
	f := NewPoolN(1, ChunkSmall).Get()
	f.Set(make([]byte, 10))
	for name, do := range map[string]func(){
		"Push":     func() { f.Push(UMEMHeadroom + 1) },
		"Pull":     func() { f.Pull(11) },
		"Pull < 0": func() { f.Pull(-1) },
		"Trim":     func() { f.Trim(11) },
		"Trim < 0": func() { f.Trim(-1) },
		"Extend":   func() { f.Extend(ChunkSmall) },
		"Reset":    func() { f.Reset(ChunkSmall-5, 6) },
	} {
		if !panics(do) {
			t.Errorf("%s beyond the bounds goes through", name)
		}
		if f.Len() != 10 || f.Offset() != UMEMHeadroom {
			t.Errorf("%s changed the frame before it panicked", name)
		}
	}
}

func TestSetFits(t *testing.T) {
	for _, chunk := range []int{ChunkSmall, ChunkLarge} {
		f := NewPoolN(1, chunk).Get()
		if !f.Set(make([]byte, Room(chunk))) || f.Tailroom() != Tailroom {
			t.Errorf("chunk %d: the largest packet does not fit (tailroom %d)", chunk, f.Tailroom())
		}
		if f.Set(make([]byte, Room(chunk)+1)) {
			t.Errorf("chunk %d: one byte too much fits", chunk)
		}
	}
	const ethernet = 18
	if Room(ChunkSmall) < 1700+ethernet || Room(ChunkLarge) < MaxMTU+ethernet {
		t.Error("the chunks do not hold the MTUs they are for")
	}
}

func TestPool(t *testing.T) {
	a := NewArenaN(8, ChunkSmall)
	p, q := NewPool(a, 0, 4), NewPool(a, 4, 8)
	if p.Size() != 4 || p.Free() != 4 || a.Len() != 8 || p.Chunk() != ChunkSmall {
		t.Fatalf("pool of %d, %d free, arena of %d", p.Size(), p.Free(), a.Len())
	}
	seen := map[uint32]bool{}
	var fs []*Frame
	for f := p.Get(); f != nil; f = p.Get() {
		if seen[f.Index()] || f.Index() >= 4 || f.Arena() != a || a.Frame(f.Index()) != f {
			t.Fatalf("frame %d out of place", f.Index())
		}
		seen[f.Index()] = true
		fs = append(fs, f)
	}
	if len(fs) != 4 {
		t.Fatalf("%d frames from a pool of 4", len(fs))
	}
	if !panics(func() { q.Put(fs[0]) }) {
		t.Error("a pool takes another's frame")
	}
	for _, f := range fs {
		f.Free()
	}
	if p.Get() != fs[3] {
		t.Error("the frame freed last is not the first to come")
	}
	// Chunks lie side by side and do not overlap.
	for i := range a.Len() {
		c := a.Frame(uint32(i)).Chunk()
		for j := range c {
			c[j] = byte(i)
		}
	}
	for i := range a.Len() {
		if !bytes.Equal(a.Mem()[i*a.Chunk():(i+1)*a.Chunk()], bytes.Repeat([]byte{byte(i)}, a.Chunk())) {
			t.Errorf("chunk %d does not lie in its place", i)
		}
	}
}

func TestAdopt(t *testing.T) {
	a := NewArenaN(8, ChunkSmall)
	p, q := NewPool(a, 0, 4), NewPool(a, 4, 8)
	if p.Arena() != a {
		t.Error("the pool does not know its arena")
	}
	if n := testing.AllocsPerRun(1, func() {
		for f := p.Get(); f != nil; f = p.Get() {
			q.Adopt(f)
			q.Adopt(f)
			f.Free()
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if p.Size() != 0 || p.Free() != 0 || q.Size() != 8 || q.Free() != 8 {
		t.Errorf("%d of %d and %d of %d frames free, want 0 of 0 and 8 of 8", p.Free(), p.Size(), q.Free(), q.Size())
	}
	if !panics(func() { p.Put(q.Get()) }) {
		t.Error("a pool takes back what another has adopted")
	}
}

func TestPoolAllocatesNothing(t *testing.T) {
	p := NewPoolN(64, ChunkSmall)
	var fs [64]*Frame
	if n := testing.AllocsPerRun(100, func() {
		for i := range fs {
			fs[i] = p.Get()
		}
		for _, f := range fs {
			f.Free()
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestShard(t *testing.T) {
	for n := 1; n <= 9; n++ {
		for id := range 1 << 16 {
			if s := Shard(uint16(id), n); s != id%n {
				t.Fatalf("Shard(%d, %d) = %d", id, n, s)
			}
		}
	}
}

// A frame is a cache line.
func TestFrameSize(t *testing.T) {
	if n := unsafe.Sizeof(Frame{}); n != 64 {
		t.Errorf("a frame has %d bytes", n)
	}
}
