package load

import (
	"testing"
	"time"

	"xpptp/engine/traffic"
	"xpptp/rings"
)

// What the load costs: making a packet, and judging its echo.
func BenchmarkMake(b *testing.B)  { benchmark(b, false, true) }
func BenchmarkEcho(b *testing.B)  { benchmark(b, true, true) }
func BenchmarkCalls(b *testing.B) { benchmark(b, false, false) }

func benchmark(b *testing.B, echo, total bool) {
	be := newBench(b, 1)
	for i := range 1000 {
		be.call(i)
	}
	rate := 1e6
	if !total {
		rate /= 1000
	}
	if err := be.l.Start([]Profile{{Schedule: traffic.Schedule{Rate: rate}, Total: total, Sizes: traffic.Fixed(64)}}, 10*time.Hour); err != nil {
		b.Fatal(err)
	}
	var fs [64]*rings.Frame
	for be.step() == 0 {
		be.now += 1000
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; {
		be.now += 64_000
		n, _ := be.ports[0].Recv(fs[:])
		if n == 0 {
			b.Fatal("nothing due")
		}
		i += n
		if echo {
			for _, f := range fs[:n] {
				reflect(f.Data())
			}
			_, _ = be.ports[0].Send(fs[:n])
			continue
		}
		for _, f := range fs[:n] {
			f.Free()
		}
	}
}
