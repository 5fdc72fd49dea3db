package control

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"xpptp/control/aaa"
	"xpptp/control/pool"
	"xpptp/control/ppp"
)

// addresses is what calls of all loops hold: inside addresses and interface
// identifiers. Its methods may be called from any loop.
type addresses struct {
	pools []*pool.Pool

	mu      sync.Mutex
	holder  map[netip.Addr]holding
	waiting map[netip.Addr][]func()
	ids     map[uint64]*call
}

// holding is a call and whose it is (the call's own record is its loop's).
type holding struct {
	k    *call
	user string
}

// errWait: the address will be free in a moment; the request is repeated then.
var errWait = errors.New("address is being given back")

// take finds an address for a call whose user may have what may says, from the
// pool of this name if it is not empty. retry is called, from any goroutine, if
// errWait was returned.
func (a *addresses) take(k *call, user string, may aaa.Addresses, from string, retry func()) (netip.Addr, error) {
	if may.None() {
		return netip.Addr{}, aaa.ErrNoAddress
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if fixed, ok := may.Fixed(); ok {
		return a.takeFixed(k, user, fixed, retry)
	}
	var last error
	if from != "" {
		last = fmt.Errorf("there is no pool %q", from)
	}
	for _, p := range a.pools {
		if from != "" && p.Name() != from {
			continue
		}
		// A user restricted to some addresses of a pool: as many tries as it
		// takes to see each address once would be too many; the pool goes
		// round, so a few suffice for the usual wide restriction.
		for range 256 {
			addr, err := p.Get(netip.Addr{})
			if err != nil {
				last = err
				break
			}
			if may.Permits(addr) {
				a.hold(addr, k, user)
				return addr, nil
			}
			_ = p.Put(addr)
			last = fmt.Errorf("pool %s has no address that the user may have", p.Name())
		}
	}
	if last == nil {
		last = errors.New("no pool is configured and the user has no address of its own")
	}
	return netip.Addr{}, last
}

// takeFixed takes the one address of a user. If a former call of the same user
// holds it, that call is dead or about to be: it makes room.
func (a *addresses) takeFixed(k *call, user string, addr netip.Addr, retry func()) (netip.Addr, error) {
	if old, held := a.holder[addr]; held {
		if old.user != user {
			return netip.Addr{}, fmt.Errorf("%v is in use by %q", addr, old.user)
		}
		if a.waiting == nil {
			a.waiting = make(map[netip.Addr][]func())
		}
		a.waiting[addr] = append(a.waiting[addr], retry)
		old.k.l.post(old.k.replaced)
		return netip.Addr{}, errWait
	}
	for _, p := range a.pools {
		if p.Contains(addr) {
			if err := p.Take(addr); err != nil {
				return netip.Addr{}, err
			}
		}
	}
	a.hold(addr, k, user)
	return addr, nil
}

func (a *addresses) hold(addr netip.Addr, k *call, user string) {
	if a.holder == nil {
		a.holder = make(map[netip.Addr]holding)
	}
	a.holder[addr] = holding{k, user}
}

// give returns what a call holds.
func (a *addresses) give(k *call) {
	a.mu.Lock()
	var retry []func()
	if k.addr.IsValid() && a.holder[k.addr].k == k {
		delete(a.holder, k.addr)
		for _, p := range a.pools {
			if p.Contains(k.addr) {
				_ = p.Put(k.addr)
			}
		}
		retry = a.waiting[k.addr]
		delete(a.waiting, k.addr)
	}
	if k.iid != 0 && a.ids[k.iid] == k {
		delete(a.ids, k.iid)
	}
	a.mu.Unlock()
	k.addr = netip.Addr{}
	for _, f := range retry {
		f()
	}
}

// takeID gives a call its peer's interface identifier, in place of the one it
// had, unless another call holds it.
func (a *addresses) takeID(k *call, id uint64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if o := a.ids[id]; o != nil && o != k {
		return false
	}
	if a.ids == nil {
		a.ids = make(map[uint64]*call)
	}
	if k.iid != 0 {
		delete(a.ids, k.iid)
	}
	a.ids[id] = k
	k.iid = id
	return true
}

// covered reports whether a pool (and so its route) contains addr.
func (a *addresses) covered(addr netip.Addr) bool {
	for _, p := range a.pools {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// inUse returns how many addresses calls hold.
func (a *addresses) inUse() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.holder)
}

// takeAddress finds the address for an authenticated call.
func (k *call) takeAddress(res aaa.Result, retry func()) error {
	if k.addr.IsValid() {
		return nil // authenticated again on the same link
	}
	addr, err := k.l.box.addr.take(k, res.User, res.Addresses, res.Grant.Pool, func() { k.l.post(retry) })
	if err != nil {
		return err
	}
	k.addr = addr
	return nil
}

// replaced ends a call whose user has called again.
func (k *call) replaced() {
	if k.gone {
		return
	}
	k.link.Abort(k.l.now, ppp.Reason{Code: ppp.AdminReset, Text: "replaced by a new call of the same user"})
	k.rearm()
}
