package ppp

import "net/netip"

// user is what authentication yielded for this call.
type user struct {
	name            string // as authenticated
	keys            KeyMaterial
	mppe            Policy // in force
	localIP, peerIP netip.Addr
	dns, nbns       [2]netip.Addr
	peerID          uint64
}

// take takes over what the host said about the peer.
func (u *user) take(r *AuthResult) {
	u.name, u.keys = r.Request.Name, r.Keys
	u.localIP, u.peerIP, u.dns, u.nbns, u.peerID = r.LocalIP, r.PeerIP, r.DNS, r.NBNS, r.PeerInterfaceID
	if r.MPPE != nil {
		u.mppe = *r.MPPE
	}
}

func (l *Link) policy() Policy { return l.user.mppe }

// network enters the network phase: CCP, then IPCP and IPV6CP, which wait for
// it if the policy says so.
func (l *Link) network() {
	l.phase = PhaseNetwork
	if w, ok := l.host.(AuthWatcher); ok {
		w.Authenticated()
	}
	p := &l.user.mppe
	if p.Mode != Deny && p.Bits&l.user.keys.Bits == 0 {
		if p.Mode == Require {
			l.close(Reason{Code: NoKeys})
			return
		}
		p.Mode = Deny
	}
	p.Bits &= l.user.keys.Bits
	l.ccp.start(l)
	if l.phase == PhaseNetwork && !l.waitForCCP() {
		l.openNetworks()
	}
}

// waitForCCP reports whether IPCP and IPV6CP must wait still.
func (l *Link) waitForCCP() bool {
	switch p := l.policy(); p.Mode {
	case Require:
		return !l.ccp.secure()
	case Prefer:
		return p.IPCPWaitsForCCP && l.ccp.state >= reqSent && l.ccp.state != opened
	default:
		return false
	}
}

// openNetworks starts IPCP and IPV6CP, once.
func (l *Link) openNetworks() {
	if l.networks || l.phase != PhaseNetwork {
		return
	}
	l.networks = true
	if l.cfg.IPv4 {
		l.ipcp.reset(l)
		l.open(layerIPCP)
		l.deliverKept(layerIPCP)
	}
	if l.cfg.IPv6 && l.phase == PhaseNetwork {
		l.ipv6cp.reset(l)
		l.open(layerIPv6CP)
		l.deliverKept(layerIPv6CP)
	}
	l.networkGone()
}

// deliverKept answers the Configure-Request that came too early.
func (l *Link) deliverKept(id layerID) {
	p := l.kept[id]
	l.kept[id] = nil
	if p != nil && l.phase == PhaseNetwork {
		l.receive(id, p)
	}
}

// stopNetworks takes the network phase down.
func (l *Link) stopNetworks() {
	l.stop(layerIPCP)
	l.stop(layerIPv6CP)
	l.stop(layerCCP)
	l.ccp.forget(l)
	l.ccp.reset()
	l.networks = false
	l.kept = [numLayers][]byte{}
}

// networkGone ends the link when no network protocol is open or on its way.
func (l *Link) networkGone() {
	if !l.networks || l.phase != PhaseNetwork {
		return
	}
	if l.ipcp.state < reqSent && l.ipv6cp.state < reqSent {
		l.close(Reason{Code: NoNetwork})
	}
}
