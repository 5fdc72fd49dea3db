package aaa

import (
	"context"
	"errors"
)

// Chain asks authenticators in turn. The next one is asked when one does not
// know the user or cannot be reached; any other answer counts.
func Chain(links ...Authenticator) Authenticator {
	if len(links) == 1 {
		return links[0]
	}
	return chain(links)
}

type chain []Authenticator

// Authenticate implements Authenticator.
func (c chain) Authenticate(ctx context.Context, r *Request, done func(Result)) {
	c[0].Authenticate(ctx, r, func(res Result) {
		if len(c) > 1 && (errors.Is(res.Err, ErrUnknownUser) || errors.Is(res.Err, ErrUnavailable)) {
			c[1:].Authenticate(ctx, r, done)
			return
		}
		done(res)
	})
}
