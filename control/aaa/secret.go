package aaa

import (
	"fmt"
	"io"
	"log/slog"
)

// Secret is a password that does not show itself: however it is printed,
// logged or marshalled, alone or inside another value, it reads "(secret)" or
// an address in memory. The zero Secret is empty.
type Secret struct {
	text *string // behind a pointer: fmt does not call methods of unexported fields
}

const hidden = "(secret)"

// NewSecret hides s.
func NewSecret(s string) Secret { return Secret{&s} }

// Reveal returns the password.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// Format implements fmt.Formatter for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, hidden) }

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText implements encoding.TextMarshaler, and so hides the secret from
// encoding/json and from YAML.
func (s Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }
