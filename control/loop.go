// Package control decides: it accepts and places calls, negotiates PPP,
// authenticates, hands out addresses, and tells the workers. One Loop per
// worker owns everything that is not a packet of data; TCP readers,
// authenticators and workers post to it.
package control

import (
	"math"
	"sync"
	"time"

	"xpptp/control/pptp"
	"xpptp/engine/gre"
	"xpptp/engine/session"
	"xpptp/workers"
)

// tick is the granularity of control's timers.
const tick = int64(10e6)

// Loop is one control loop. All fields but the mailbox belong to its goroutine.
type Loop struct {
	box   *Box
	id    int
	w     *workers.Worker
	clock func() int64
	rand  func([]byte)

	now   int64
	wheel *workers.Wheel
	ids   *callIDs
	conns map[*conn]struct{}
	calls map[*call]struct{}
	made  uint64      // calls so far
	pptp  pptp.Config // the box's, with our statistics
	busy  *conn       // whose input is being handled

	mu   sync.Mutex
	mail []func()
	wake chan struct{}
}

func newLoop(box *Box, id int, w *workers.Worker, clock func() int64, rand func([]byte)) *Loop {
	l := &Loop{
		box: box, id: id, w: w, clock: clock, rand: rand,
		now:   clock(),
		wheel: workers.NewWheel(tick, 4096, clock()),
		ids:   newCallIDs(id, box.nLoops, rand),
		conns: make(map[*conn]struct{}),
		calls: make(map[*call]struct{}),
		wake:  make(chan struct{}, 1),
	}
	l.pptp = box.pptp
	l.pptp.Statistics = l.statistics
	w.OnPunt(l.notify)
	return l
}

// notify makes the loop look; it never blocks.
func (l *Loop) notify() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// post hands f to the loop's goroutine. Posts are carried out in order.
func (l *Loop) post(f func()) {
	l.mu.Lock()
	l.mail = append(l.mail, f)
	l.mu.Unlock()
	l.notify()
}

// run is the loop's goroutine; it ends when quit is closed.
func (l *Loop) run(quit <-chan struct{}) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		for l.step(l.clock()) {
			// again, until nothing is left
		}
		sleep := time.Hour
		if next := l.wheel.Next(); next != math.MaxInt64 {
			sleep = max(time.Duration(next-l.clock()), time.Duration(tick)/10)
		}
		timer.Reset(sleep)
		select {
		case <-l.wake:
		case <-timer.C:
		case <-quit:
			return
		}
	}
}

// step does what is waiting and reports whether there was anything.
func (l *Loop) step(now int64) bool {
	l.now = now
	l.mu.Lock()
	mail := l.mail
	l.mail = nil
	l.mu.Unlock()
	for _, f := range mail {
		f()
	}
	n := l.w.Punts(l.punt)
	l.wheel.Advance(now, func(t *workers.Timer) {
		switch o := t.Owner.(type) {
		case *conn:
			o.tick()
		case *call:
			o.tick()
		}
	})
	return len(mail)+n > 0
}

// punt takes one frame or request from the worker.
func (l *Loop) punt(p *workers.Punt) {
	k := p.Call.Control.(*call)
	if k.gone {
		return
	}
	switch p.Kind {
	case workers.PuntPPP:
		k.input(p.Proto, p.Data)
	case workers.PuntReset:
		k.link.RequestReset(l.now)
	}
	k.rearm()
}

// setTimer arms t for at; math.MaxInt64 stops it.
func (l *Loop) setTimer(t *workers.Timer, at int64) {
	if at == math.MaxInt64 {
		l.wheel.Stop(t)
	} else {
		l.wheel.Set(t, at)
	}
}

// remove takes a call off the worker and continues here, with what it counted.
func (l *Loop) remove(wc *workers.Call, done func(session.Stats, gre.Stats)) {
	l.w.Remove(wc, func(s session.Stats, g gre.Stats) {
		l.post(func() { done(s, g) })
	})
}
