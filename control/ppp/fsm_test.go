package ppp

import (
	"strings"
	"testing"
)

// A second transcription of RFC 1661 section 4.1, as the text has it: action
// and new state, footnotes left out.
const rfcTable = `
Up    | 2        | irc,scr/6 | -         | -             | -     | -     | -         | -         | -         | -
Down  | -        | -         | 0         | tls/1         | 0     | 1     | 1         | 1         | 1         | tld/1
Open  | tls/1    | 1         | irc,scr/6 | 3             | 5     | 5     | 6         | 7         | 8         | 9
Close | 0        | tlf/0     | 2         | 2             | 4     | 4     | irc,str/4 | irc,str/4 | irc,str/4 | tld,irc,str/4
TO+   | -        | -         | -         | -             | str/4 | str/5 | scr/6     | scr/6     | scr/8     | -
TO-   | -        | -         | -         | -             | tlf/2 | tlf/3 | tlf/3     | tlf/3     | tlf/3     | -
RCR+  | -        | -         | sta/2     | irc,scr,sca/8 | 4     | 5     | sca/8     | sca,tlu/9 | sca/8     | tld,scr,sca/8
RCR-  | -        | -         | sta/2     | irc,scr,scn/6 | 4     | 5     | scn/6     | scn/7     | scn/6     | tld,scr,scn/6
RCA   | -        | -         | sta/2     | sta/3         | 4     | 5     | irc/7     | scr/6     | irc,tlu/9 | tld,scr/6
RCN   | -        | -         | sta/2     | sta/3         | 4     | 5     | irc,scr/6 | scr/6     | irc,scr/8 | tld,scr/6
RTR   | -        | -         | sta/2     | sta/3         | sta/4 | sta/5 | sta/6     | sta/6     | sta/6     | tld,zrc,sta/5
RTA   | -        | -         | 2         | 3             | tlf/2 | tlf/3 | 6         | 6         | 8         | tld,scr/6
RUC   | -        | -         | scj/2     | scj/3         | scj/4 | scj/5 | scj/6     | scj/7     | scj/8     | scj/9
RXJ+  | -        | -         | 2         | 3             | 4     | 5     | 6         | 6         | 8         | 9
RXJ-  | -        | -         | tlf/2     | tlf/3         | tlf/2 | tlf/3 | tlf/3     | tlf/3     | tlf/3     | tld,irc,str/5
RXR   | -        | -         | 2         | 3             | 4     | 5     | 6         | 7         | 8         | ser/9
`

func TestTableIsTheRFCs(t *testing.T) {
	names := map[string]action{
		"tld": tld, "tls": tls, "irc": irc, "zrc": zrc, "scr": scr, "sca": sca, "scn": scn,
		"str": str, "sta": sta, "scj": scj, "ser": ser, "tlu": tlu, "tlf": tlf,
	}
	lines := strings.Split(strings.TrimSpace(rfcTable), "\n")
	if len(lines) != int(numEvents) {
		t.Fatalf("%d lines", len(lines))
	}
	for e, line := range lines {
		cells := strings.Split(line, "|")
		if len(cells) != 1+int(numStates) {
			t.Fatalf("%q: %d cells", line, len(cells))
		}
		for s, cell := range cells[1:] {
			next, act, ok := step(state(s), event(e))
			cell = strings.TrimSpace(cell)
			if cell == "-" {
				if ok {
					t.Errorf("%s in state %d: %v, want illegal", cells[0], s, next)
				}
				continue
			}
			want, actions := state(cell[len(cell)-1]-'0'), action(0)
			if i := strings.IndexByte(cell, '/'); i >= 0 {
				for _, a := range strings.Split(cell[:i], ",") {
					if names[a] == 0 {
						t.Fatalf("unknown action %q", a)
					}
					actions |= names[a]
				}
			}
			if !ok || next != want || act != actions {
				t.Errorf("%s in state %d: %04x/%d, want %04x/%d", cells[0], s, act, next, actions, want)
			}
		}
	}
}

// The Restart timer runs exactly where the table has time-outs (RFC 1661
// section 4.1).
func TestTimedStates(t *testing.T) {
	for s := range numStates {
		_, _, ok := step(s, evTOPlus)
		if ok != s.timed() {
			t.Errorf("%s: timer runs %v, time-out legal %v", s, s.timed(), ok)
		}
	}
}
