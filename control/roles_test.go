package control

import (
	"testing"

	"xpptp/control/config"
	"xpptp/control/ppp"
	"xpptp/control/pptp"
	"xpptp/engine"
)

// placeIncoming announces a call as its PAC (RFC 2637 §3.2.3): the other way
// round from what clients usually do.
func (c *conn) placeIncoming(t *testing.T) *call {
	t.Helper()
	k, err := c.newCall(c.l.box.linkConfig(), 0, 0, false, true)
	if err != nil {
		t.Fatal(err)
	}
	c.idleSince = 0
	k.install(func(ok bool) {
		if !ok {
			t.Error("call ID taken")
			return
		}
		ref, err := c.m.PlaceIncoming(c.l.now, &pptp.IncomingCallRequest{CallID: k.id, DialedNumber: "1", DialingNumber: "2"},
			pptp.IncomingCallConnected{ConnectSpeed: 1e6, PacketRecvWindowSize: 32, FramingType: pptp.FramingAsync})
		if err != nil {
			t.Error(err)
			return
		}
		k.ref = ref
		c.calls[ref] = k
		c.pump()
	})
	return k
}

// A client that announces its call (ICRQ, ICRP, ICCN): the server is the PNS.
func TestIncomingCall(t *testing.T) {
	for i, over := range []string{"client", "server", "client", "server"} {
		t.Run(over+" hangs up", func(t *testing.T) {
			s := newSim(t, simOptions{seed: 2, workers: 1 + i/2})
			c := s.connect()
			c.onUp = func() { c.placeIncoming(t) }
			s.until("call up", 20, func() bool { return s.upCalls() == 1 && s.serverUp() == 1 })
			k := s.client.calls()[0]
			up := &stream{src: k.nets[0].Local, dst: simLocal, id: 1}
			for range 50 {
				up.send(s, s.client, 500)
				s.step()
				s.drainInside(s.server, func(p []byte) { up.receive(t, p) })
			}
			if up.got < 49 {
				t.Errorf("%d of 50 packets; drops %v", up.got, drops(s.server))
			}
			e := s.client
			if over == "server" {
				e = s.server
			}
			e.calls()[0].hangUp(ppp.Reason{Code: ppp.AdminReset})
			s.until("call over at both ends", 30, func() bool { return len(s.client.calls())+len(s.server.calls()) == 0 })
			s.hangUp()
		})
	}
}

// Every ending has its reason at both ends, and none of them touches the call
// beside it.
func TestEndings(t *testing.T) {
	for name, o := range map[string]struct {
		dial       func(*config.Dial)
		password   string
		serve      func(*config.Config)
		client     ppp.ReasonCode
		serverSays ppp.ReasonCode
	}{
		"wrong password":       {password: "nonsense", client: ppp.AuthFailed, serverSays: ppp.AuthFailed},
		"unknown user":         {dial: func(d *config.Dial) { d.User = "eve" }, client: ppp.AuthFailed, serverSays: ppp.AuthFailed},
		"user without address": {dial: func(d *config.Dial) { d.User = "nobody" }, client: ppp.AuthFailed, serverSays: ppp.AuthFailed},
		"client denies MPPE":   {dial: func(d *config.Dial) { d.MPPE = config.Deny }, client: ppp.PeerTerminated, serverSays: ppp.EncryptionRefused},
		"server denies MPPE":   {serve: func(c *config.Config) { c.MPPE = config.Deny }, client: ppp.EncryptionRefused, serverSays: ppp.PeerTerminated},
		"no common method": {serve: func(c *config.Config) { c.Auth = c.Auth[:1]; c.Auth[0] = 1 }, // PAP
			client: ppp.PeerTerminated, serverSays: ppp.AuthRefused},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, simOptions{seed: 9, workers: 2, dial: o.dial, serve: o.serve})
			var served []CallEvent
			s.server.box.OnEvent(func(e CallEvent) { served = append(served, e) })
			if o.password != "" {
				s.client.box.link.Password = o.password
			}
			s.call(1)
			s.until("refusal at both ends", 100, func() bool { return len(s.events) > 0 && len(served) > 0 })
			if e := s.events[0]; e.WasUp || e.Reason.Code != o.client {
				t.Errorf("the client says %v (up %v), want %v", e.Reason, e.WasUp, o.client)
			}
			if e := served[0]; e.WasUp || e.Reason.Code != o.serverSays {
				t.Errorf("the server says %v (up %v), want %v", e.Reason, e.WasUp, o.serverSays)
			}
			s.until("nothing left", 200, func() bool { return s.client.conns()+s.server.conns() == 0 })
			s.clean()
		})
	}
}

// A peer that vanishes is found by the LCP echo, or by the control
// connection's, and everything it held is given back. The call of another
// client goes on.
func TestVanishedPeer(t *testing.T) {
	for _, lcp := range []bool{true, false} {
		name := "control echo"
		if lcp {
			name = "LCP echo"
		}
		t.Run(name, func(t *testing.T) {
			s := newSim(t, simOptions{seed: 4, workers: 2, common: func(c *config.Common) {
				c.PPP.EchoInterval = 0
				if lcp {
					c.PPP.EchoInterval = 5e9
				}
			}})
			var served []CallEvent
			s.server.box.OnEvent(func(e CallEvent) { served = append(served, e) })
			s.call(1)
			s.until("call up", 20, func() bool { return s.upCalls() == 1 && s.serverUp() == 1 })
			s.bad = badness{loss: 1000}
			s.pipes = nil // TCP carries nothing either
			s.until("server has noticed", 400, func() bool { return len(s.server.calls()) == 0 })
			want := ppp.LowerDown
			if lcp {
				want = ppp.EchoTimeout
			}
			if e := served[len(served)-1]; e.Kind != EventDown || e.Reason.Code != want {
				t.Errorf("%v, want %v", e.Reason, want)
			}
			if n := s.server.box.addr.inUse(); n != 0 {
				t.Errorf("%d addresses still in use", n)
			}
		})
	}
}

// Plain data where encryption is required, and data before the call is up, are
// counted drops.
func TestPlainDataRefused(t *testing.T) {
	s := newSim(t, simOptions{seed: 6})
	s.call(1)
	s.until("call up", 20, func() bool { return s.upCalls() == 1 && s.serverUp() == 1 })
	k := s.client.calls()[0]
	s.client.w.Post(func() { // a client that forgets to encrypt
		k.wc.TxOpen = false
		k.wc.Encrypt = 0
	})
	s.step()
	up := &stream{src: k.nets[0].Local, dst: simLocal, id: 1}
	for i := range 100 {
		if i < 20 {
			up.send(s, s.client, 100)
		}
		s.step()
		s.drainInside(s.server, func([]byte) { t.Error("plain data came through") })
	}
	if n := s.server.drops()[engine.MPPEPlain]; n != 20 {
		t.Errorf("%d of 20 packets dropped as mppe-plain; drops %v", n, drops(s.server))
	}
}
