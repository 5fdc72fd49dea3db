package control

import (
	"net/netip"
	"sync"
)

// routes is which call holds which network behind users. Its mutex is held
// while the inside is told, so that the last holder's word is the last one.
type routes struct {
	mu     sync.Mutex
	holder map[netip.Prefix]holding
}

// routesUp makes the networks behind the user, which its terms name, reachable.
// One that another user's call holds stays there.
func (k *call) routesUp() {
	if k.terms == nil || len(k.routes) > 0 {
		return
	}
	r := &k.l.box.routes
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.holder == nil {
		r.holder = make(map[netip.Prefix]holding)
	}
	for _, p := range k.terms.grant.Routes {
		old, held := r.holder[p]
		if held && old.user != k.user {
			k.log.Error("network not routed", "network", p, "user", k.user, "held_by", old.user)
			continue
		}
		if err := k.l.box.ports.inside.route(k, p, true); err != nil {
			k.log.Error("network not routed", "network", p, "user", k.user, "err", err)
			continue
		}
		if old.k != nil && old.k != k {
			old.k.l.w.UnsetNet(old.k.wc, p)
		}
		r.holder[p] = holding{k, k.user}
		k.routes = append(k.routes, p)
	}
	if len(k.routes) > 0 {
		k.l.w.SetNets(k.wc, k.routes)
	}
}

// routesDown takes them back, but for what a newer call has taken over. The
// worker forgets them with the call's address.
func (k *call) routesDown() {
	if len(k.routes) == 0 {
		return
	}
	r := &k.l.box.routes
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range k.routes {
		if r.holder[p].k != k {
			continue
		}
		delete(r.holder, p)
		if err := k.l.box.ports.inside.route(k, p, false); err != nil {
			k.log.Warn("network still routed", "network", p, "err", err)
		}
	}
	k.routes = nil
}
