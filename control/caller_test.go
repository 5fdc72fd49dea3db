package control

import (
	"testing"

	"xpptp/control/ppp"
	"xpptp/control/pptp"
)

// Every end of a call has the name that a report counts it by.
func TestCause(t *testing.T) {
	through := func(last Phase) (tr trace) {
		for p := PhaseCall; p <= last; p++ {
			tr.times[p] = 1
		}
		return tr
	}
	for _, tc := range []struct {
		reason ppp.ReasonCode
		lower  pptp.DownCause
		after  Phase
		mppe   ppp.MPPEMode
		killed bool
		want   string
	}{
		{ppp.UserRequest, 0, PhaseNetwork, ppp.Require, false, "ended"},
		{ppp.AdminReset, 0, PhaseLCP, ppp.Require, false, "ended"},
		{ppp.LowerDown, pptp.DownRefused, 0, ppp.Require, false, "call-refused"},
		{ppp.LowerDown, pptp.DownTimeout, 0, ppp.Require, false, "call-timeout"},
		{ppp.LowerDown, pptp.DownPeer, PhaseNetwork, ppp.Require, false, "cleared-by-peer"},
		{ppp.LowerDown, pptp.DownConnection, PhaseNetwork, ppp.Require, false, "connection-lost"},
		{ppp.LowerDown, pptp.DownConnection, PhaseNetwork, ppp.Require, true, "killed"},
		{ppp.LowerDown, 0, 0, ppp.Require, false, "not-placed"},
		{ppp.NoAnswer, 0, PhaseCall, ppp.Require, false, "lcp-no-answer"},
		{ppp.NoAnswer, 0, PhaseLCP, ppp.Require, false, "auth-no-answer"},
		{ppp.NoAnswer, 0, PhaseAuth, ppp.Require, false, "ccp-no-answer"},
		{ppp.NoAnswer, 0, PhaseAuth, ppp.Prefer, false, "ipcp-no-answer"},
		{ppp.NotConverging, 0, PhaseCCP, ppp.Require, false, "ipcp-not-converging"},
		{ppp.EncryptionRefused, 0, PhaseAuth, ppp.Require, false, "mppe-refused"},
		{ppp.PeerTerminated, 0, PhaseNetwork, ppp.Require, false, "peer-terminated"},
		{ppp.AuthFailed, 0, PhaseLCP, ppp.Require, false, "auth-failed"},
		{ppp.EchoTimeout, 0, PhaseNetwork, ppp.Require, false, "echo-timeout"},
	} {
		tr := through(tc.after)
		k := &call{
			conn: &conn{killed: tc.killed}, cfg: &ppp.Config{MPPE: ppp.Policy{Mode: tc.mppe}}, trace: &tr,
			reason: ppp.Reason{Code: tc.reason}, lower: tc.lower,
		}
		if got := k.cause(); got != tc.want {
			t.Errorf("%v, %v after %v: %q, want %q", tc.reason, tc.lower, tc.after, got, tc.want)
		}
	}
}
