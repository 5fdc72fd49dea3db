package multi

import (
	"math/rand/v2"
	"testing"
)

// FuzzCrypt runs what the input describes through every way and the reference. The first three
// bytes choose how many chains and streams there are, then four bytes at a time are a unit or an
// operation on the chains. Contents and key lengths come from a seed, as RC4 does not care.
func FuzzCrypt(f *testing.F) {
	f.Add([]byte{1, 1, 0, 0, 1, 64, 0, 1, 1, 200, 5})
	f.Add([]byte{40, 0, 3, 0, 1, 64, 0, 1, 1, 64, 0, 2, 1, 64, 0, 0, 1, 64, 1})
	f.Add([]byte{3, 5, 9, 255, 0, 0, 0, 7, 0, 255, 14, 6, 2, 31, 2, 254, 0, 0, 0, 0, 1, 1, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) < 3 {
			return
		}
		keys, streams, seed := int(in[0]%70), int(in[1]%12), uint64(in[2])
		if keys+streams == 0 {
			return
		}
		for _, way := range Ways() {
			w := newWorld(rand.New(rand.NewPCG(seed, 1)), keys, streams, kinds)
			c := New(way)
			c.Reserve(3, 4)
			var units []Unit
			var packets []packet
			flush := func() {
				c.Crypt(units)
				w.check(t, units, packets)
				units, packets = nil, nil
			}
			for op := in[3:]; len(op) >= 4 && len(op) < 4000; op = op[4:] {
				switch op[0] {
				case 255:
					flush()
					c.Ahead(w.keys, int(op[1]))
				case 254:
					flush()
					if keys > 0 {
						n := int(op[1]) % keys
						c.Forget(w.keys[n])
						c.Rekey(w.keys[n], int(op[2]&7))
						for range op[2] & 7 {
							w.refs[n].step()
						}
					}
				case 253:
					flush()
				default:
					length := (int(op[2]) | int(op[3])<<8) % 3701
					u, p := w.unit(int(op[0])%(keys+streams), length, int(op[1]&3), int(op[1]>>2))
					units, packets = append(units, u), append(packets, p)
				}
			}
			flush()
		}
	})
}
