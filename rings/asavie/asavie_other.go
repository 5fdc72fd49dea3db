//go:build !amd64

package asavie

import (
	"fmt"
	"runtime"

	"xpptp/rings"
	"xpptp/rings/xsk"
)

// Device is not to be had on this architecture.
type Device struct{}

// Port is not to be had on this architecture.
type Port struct{ rings.Port }

// Open refuses.
func Open(cfg Config, _ *xsk.Steering, _ *rings.Pool) (*Device, error) {
	return nil, fmt.Errorf("rings: open %s by asavie/xdp: the library serves amd64 only, this is %s", cfg.Interface, runtime.GOARCH)
}

// Ports returns nothing.
func (*Device) Ports() []*Port { return nil }

// Close does nothing.
func (*Device) Close() error { return nil }
