package control

import (
	"xpptp/rings"
	"xpptp/workers"
)

// WrapOutside puts something between the workers and their outside ports, such
// as a bad path: the worker uses what f returns in place of the port. The box
// closes the port itself. Frames that are made on the way come from pool, which
// is the worker's. Set it before Start.
func (b *Box) WrapOutside(f func(p rings.Port, pool *rings.Pool) rings.Port) { b.wrapOutside = f }

func (b *Box) wrap(cfgs []workers.Config) {
	if b.wrapOutside == nil {
		return
	}
	for i := range cfgs {
		for j, p := range cfgs[i].Outside {
			cfgs[i].Outside[j] = b.wrapOutside(p, cfgs[i].Pool)
		}
	}
}
