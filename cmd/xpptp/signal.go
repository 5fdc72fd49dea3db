package main

import (
	"os"
	"os/signal"
)

// onSignal pokes c when the signal comes, until the function it returns is called.
func onSignal(sig os.Signal, c chan<- struct{}) (stop func()) {
	in := make(chan os.Signal, 1)
	done := make(chan struct{})
	signal.Notify(in, sig)
	go func() {
		for {
			select {
			case <-in:
				select {
				case c <- struct{}{}:
				default:
				}
			case <-done:
				return
			}
		}
	}()
	return func() { signal.Stop(in); close(done) }
}
