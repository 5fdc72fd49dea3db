package control

import (
	"context"
	"log/slog"
)

// named is what the log says whose line it is.
type named interface {
	on() *Loop
	// handler is the box's, with the names as attributes.
	handler() slog.Handler
}

// lateLog is the handler of a connection's and of a call's log. It makes the
// names only for a line that is written: a logger that carries them takes more
// memory than some parts of a call, and time to make.
type lateLog struct{ named }

// Enabled implements slog.Handler; it is asked before anything is made.
func (h lateLog) Enabled(ctx context.Context, l slog.Level) bool {
	return h.on().box.log.Enabled(ctx, l)
}

// Handle implements slog.Handler.
func (h lateLog) Handle(ctx context.Context, r slog.Record) error {
	return h.handler().Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h lateLog) WithAttrs(attrs []slog.Attr) slog.Handler { return h.handler().WithAttrs(attrs) }

// WithGroup implements slog.Handler.
func (h lateLog) WithGroup(name string) slog.Handler { return h.handler().WithGroup(name) }

func (c *conn) on() *Loop { return c.l }

func (c *conn) handler() slog.Handler {
	from := c.m.RemoteAddr()
	return c.l.box.log.Handler().WithAttrs([]slog.Attr{
		slog.String("peer", from.Addr().String()), slog.Uint64("port", uint64(from.Port())),
	})
}

func (k *call) on() *Loop { return k.l }

func (k *call) handler() slog.Handler {
	attrs := []slog.Attr{slog.Uint64("call", uint64(k.id))}
	if k.opened {
		attrs = append(attrs, slog.Uint64("peer_call", uint64(k.peerID)))
	}
	return k.conn.handler().WithAttrs(attrs)
}
