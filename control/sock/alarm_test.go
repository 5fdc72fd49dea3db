package sock

import (
	"testing"
	"time"
)

// An alarm goes off at what was set last, by whomever, and not after its end.
func TestAlarm(t *testing.T) {
	a, err := NewAlarm()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []time.Duration{time.Millisecond, 0, -time.Second} {
		a.Set(d)
		if !a.Wait() {
			t.Fatalf("set to %v: closed", d)
		}
	}
	a.Set(time.Hour)
	went := make(chan bool)
	go func() { went <- a.Wait() }()
	a.Set(0)
	if !<-went {
		t.Error("set anew: closed")
	}
	a.Set(time.Hour)
	go func() { went <- a.Wait() }()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if <-went {
		t.Error("it went off when it was closed")
	}
	a.Set(0)
	if a.Wait() {
		t.Error("it goes off closed")
	}
}
