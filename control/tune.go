package control

import (
	"cmp"
	"errors"
	"net"
	"slices"
	"strings"

	"xpptp/control/config"
	"xpptp/hwprofile"
)

// tune makes the plan for this machine and carries it out, if that is asked
// for; else it undoes what a former run was killed over. A machine that cannot
// be tuned is no reason not to start.
func (b *Box) tune(outside []string) {
	if !b.common.Tune {
		done, err := hwprofile.RestoreDead(hwprofile.Live(), b.common.TuneState)
		b.logRestored(done, err)
		return
	}
	names, most := slices.Clone(outside), 0
	if b.serve != nil {
		if _, err := net.InterfaceByName(b.serve.Inside); err == nil {
			names = append(names, b.serve.Inside)
		}
	} else {
		most = b.dial.Calls
	}
	n := cmp.Or(b.common.Workers, len(b.common.CPUs))
	switch {
	case b.ownInside != nil: // whoever brings the inside counts on that many
		n = b.workers()
	case b.common.IO == config.IOAsavie:
		n = 1
	}
	profiles, err := hwprofile.LoadProfiles(b.common.Profiles)
	if err != nil {
		b.log.Warn("not tuned", "err", err)
		return
	}
	b.tuning, err = hwprofile.Tune(hwprofile.Options{
		Profiles: profiles,
		Request:  hwprofile.Request{Workers: n, AtMost: most, CPUs: b.common.CPUs, Interfaces: names, IO: string(b.common.IO)},
		State:    b.common.TuneState,
		Owned:    true,
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

// Plan is the plan that the box runs with, nil without the setting tune.
func (b *Box) Plan() *hwprofile.Plan {
	if b.tuning == nil {
		return nil
	}
	return b.tuning.Plan
}
