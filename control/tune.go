package control

import (
	"cmp"
	"errors"
	"net"
	"strings"

	"xpptp/control/config"
	"xpptp/hwprofile"
)

// tune makes the plan for this machine and carries it out, if that is asked
// for; else it undoes what a former run was killed over. A machine that cannot
// be tuned is no reason not to serve.
func (b *Box) tune(outside []string) {
	if b.serve == nil {
		return
	}
	if !b.serve.Tune {
		done, err := hwprofile.RestoreDead(hwprofile.Live(), b.serve.TuneState)
		b.logRestored(done, err)
		return
	}
	names := outside
	if _, err := net.InterfaceByName(b.serve.Inside); err == nil {
		names = append(names[:len(names):len(names)], b.serve.Inside)
	}
	n := cmp.Or(b.common.Workers, len(b.common.CPUs))
	if b.common.IO == config.IOAsavie {
		n = 1
	}
	var err error
	b.tuning, err = hwprofile.Tune(hwprofile.Options{
		Request: hwprofile.Request{Workers: n, CPUs: b.common.CPUs, Interfaces: names, IO: string(b.common.IO)},
		State:   b.serve.TuneState,
		Owned:   true,
	})
	if err != nil {
		b.log.Warn("not tuned", "err", err)
	}
	if b.tuning == nil {
		return
	}
	p := b.tuning.Plan
	b.log.Info("plan", "text", p.Short(), "cost", p.Steering.Cost)
	for _, note := range p.Notes {
		b.log.Info("plan", "note", note)
	}
	for _, r := range b.tuning.Results {
		if r.Err != nil {
			b.log.Warn("not tuned", "change", r.Change.String(), "err", r.Err)
		} else {
			b.log.Info("tuned", "change", r.Change.String())
		}
	}
	if err := hwprofile.Confine(p.Control); err != nil {
		b.log.Warn("control plane not kept to its CPUs", "cpus", p.Control.String(), "err", err)
	}
}

// untune puts the machine back.
func (b *Box) untune() {
	done, err := b.tuning.Restore()
	b.logRestored(done, err)
}

func (b *Box) logRestored(done []hwprofile.Result, err error) {
	if err != nil && !errors.Is(err, hwprofile.ErrInUse) {
		b.log.Warn("not all restored", "err", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	for _, r := range done {
		if r.Err == nil && !r.Gone && r.Old != r.New {
			b.log.Info("restored", "change", r.Change.String())
		}
	}
}

// Plan is the plan that the box runs with, nil without serve's setting tune.
func (b *Box) Plan() *hwprofile.Plan {
	if b.tuning == nil {
		return nil
	}
	return b.tuning.Plan
}
