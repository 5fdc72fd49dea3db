package mppc

import (
	"testing"

	"xpptp/engine"
)

var benchCorpora = []string{"text", "traffic", "zeros", "random"}

func BenchmarkCompress(b *testing.B) {
	for _, name := range benchCorpora {
		packets := split(corpora(b)[name], 1400)
		packets = packets[:len(packets)-1]
		b.Run(name, func(b *testing.B) {
			var tx Tx
			dst := make([]byte, 1400)
			in, out := 0, 0
			b.SetBytes(1400)
			b.ReportAllocs()
			for i := range b.N {
				p := packets[i%len(packets)]
				sent, _ := tx.Compress(dst, p)
				in, out = in+len(p), out+len(sent)
			}
			b.ReportMetric(float64(in)/float64(out), "ratio")
		})
	}
}

func BenchmarkDecompress(b *testing.B) {
	for _, name := range benchCorpora {
		packets := split(corpora(b)[name], 1400)
		packets = packets[:len(packets)-1]
		var (
			tx   Tx
			sent [][]byte
			bits []Bits
		)
		for _, p := range packets {
			s, h := tx.Compress(make([]byte, len(p)), p)
			sent, bits = append(sent, s), append(bits, h)
		}
		if bits[0]&Compressed != 0 {
			bits[0] |= Flushed // the run begins again and again
		}
		b.Run(name, func(b *testing.B) {
			var rx Rx
			dst := make([]byte, 1400)
			b.SetBytes(1400)
			b.ReportAllocs()
			for i := range b.N {
				k := i % len(sent)
				p, d := rx.Decompress(dst, sent[k], bits[k])
				if d != engine.Pass {
					b.Fatal(d)
				}
				rx.Commit(p, bits[k])
			}
		})
	}
}
