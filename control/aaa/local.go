package aaa

import (
	"context"
	"crypto/md5"
	"crypto/sha256"
	"fmt"

	"xpptp/control/ppp/mschap"
)

// Local verifies against a secrets file and answers at once.
type Local struct {
	store *Store
}

// NewLocal returns an Authenticator over store. What a Reload of the store
// changes counts from the next request on.
func NewLocal(store *Store) *Local { return &Local{store} }

// Authenticate implements Authenticator; done is called before it returns.
func (l *Local) Authenticate(ctx context.Context, r *Request, done func(Result)) {
	if err := ctx.Err(); err != nil {
		done(Result{Err: err})
		return
	}
	done(l.judge(r))
}

func (l *Local) judge(r *Request) Result {
	entry, known := l.store.Secrets().Lookup(r.Name, r.Server)
	if !known {
		// The same work as for a known user, so that the time tells nothing.
		entry = &Entry{Secret: NewSecret("no such user")}
	}
	res, err := verify(r, entry.Secret.Reveal())
	switch {
	case err != nil && known:
		return Result{Err: fmt.Errorf("%q: %w", r.Name, err)}
	case !known:
		return Result{Err: fmt.Errorf("%q: %w", r.Name, ErrUnknownUser)}
	case entry.Addresses.None():
		return Result{Err: fmt.Errorf("%q: %w (line %d)", r.Name, ErrNoAddress, entry.Line)}
	}
	res.Addresses = entry.Addresses
	res.User = entry.Client
	if entry.Client == Wild {
		res.User = StripDomain(r.Name)
	}
	return res
}

// verify compares what the peer sent with what the secret gives, in a time
// that depends on neither.
func verify(r *Request, secret string) (Result, error) {
	switch r.Method {
	case PAP:
		// Hashed, since a comparison takes as long as what it compares.
		want, got := sha256.Sum256([]byte(secret)), sha256.Sum256(r.Response)
		return Result{}, compare(want[:], got[:])
	case CHAPMD5:
		return Result{}, verifyMD5(r, secret)
	case MSCHAPv1:
		return verifyV1(r, secret)
	case MSCHAPv2:
		return verifyV2(r, secret)
	}
	return Result{}, fmt.Errorf("%w: %s", ErrMalformed, r.Method)
}

func compare(want, got []byte) error {
	if !mschap.Equal(want, got) {
		return ErrWrongSecret
	}
	return nil
}

// checkLengths guards the fixed layouts below. A challenge length of 0 takes
// any.
func checkLengths(r *Request, challenge, response int) error {
	if len(r.Response) != response {
		return fmt.Errorf("%w: %s: %d octets, want %d", ErrMalformed, r.Method, len(r.Response), response)
	}
	if challenge != 0 && len(r.Challenge) != challenge {
		return fmt.Errorf("%w: %s: challenge of %d octets, want %d", ErrMalformed, r.Method, len(r.Challenge), challenge)
	}
	return nil
}

// verifyMD5: RFC 1994 §4.1, MD5 over identifier, secret and challenge.
func verifyMD5(r *Request, secret string) error {
	if err := checkLengths(r, 0, md5.Size); err != nil {
		return err
	}
	h := md5.New()
	h.Write([]byte{r.ID})
	h.Write([]byte(secret))
	h.Write(r.Challenge)
	return compare(h.Sum(nil), r.Response)
}

// verifyV1: RFC 2433 §5. The Response is the LM response (24), the NT
// response (24) and a flag that says whether the NT response is valid.
// A LAN Manager response alone is refused: it is broken within minutes.
func verifyV1(r *Request, secret string) (Result, error) {
	if err := checkLengths(r, mschap.ChallengeSize1, mschap.ValueSize); err != nil {
		return Result{}, err
	}
	if r.Response[48] == 0 {
		return Result{}, fmt.Errorf("%w: LAN Manager response only", ErrMalformed)
	}
	hash := mschap.NTHash(secret)
	keys := &Keys{NTHashHash: mschap.HashHash(hash), Challenge: [8]byte(r.Challenge)}
	want := mschap.ChallengeResponse(keys.Challenge, hash)
	if err := compare(want[:], r.Response[24:48]); err != nil {
		return Result{}, err
	}
	lm := mschap.LMHash(secret)
	keys.LMHash = [8]byte(lm[:8])
	return Result{Keys: keys}, nil
}

// verifyV2: RFC 2759 §4. The Response is the peer's challenge (16), 8 octets
// reserved, the NT response (24) and flags.
func verifyV2(r *Request, secret string) (Result, error) {
	if err := checkLengths(r, mschap.ChallengeSize2, mschap.ValueSize); err != nil {
		return Result{}, err
	}
	ours, theirs := [16]byte(r.Challenge), [16]byte(r.Response)
	hash := mschap.NTHash(secret)
	want := mschap.NTResponse2(ours, theirs, r.Name, hash)
	if err := compare(want[:], r.Response[24:48]); err != nil {
		return Result{}, err
	}
	proof := mschap.AuthenticatorResponse(ours, theirs, r.Name, hash, want)
	return Result{
		Message: mschap.FormatAuthenticator(proof),
		Keys:    &Keys{NTHashHash: mschap.HashHash(hash), NTResponse: want},
	}, nil
}
