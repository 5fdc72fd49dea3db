package aaa

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync/atomic"
)

// Wild stands for any client or any server in a secrets file.
const Wild = "*"

// Entry is one line of a secrets file.
type Entry struct {
	Client, Server string
	Secret         Secret
	SecretFile     string // the file that holds the secret ("@/path"), else ""
	Addresses      Addresses
	Line           int
}

// Secrets is a secrets file in the format of pppd's chap-secrets: lines of
// client, server, secret and addresses. It does not change once made and may
// be used by several goroutines.
type Secrets struct {
	byClient map[string][]*Entry // in file order
	count    int
}

// Errors that a secrets file reports beside its number of errors.
const maxErrors = 20

// Parse reads the text of a secrets file; name stands before the line number
// in errors, which never quote a secret. All errors are returned, joined, up
// to a limit. Secrets of the form @/path are left empty, see Load.
func Parse(name string, text []byte) (*Secrets, error) {
	s := &Secrets{byClient: map[string][]*Entry{}}
	var errs []error
	scan := scanner{in: text, line: 1}
	for {
		words, line, err := scan.next()
		if err == nil && len(words) == 0 {
			break
		}
		var e *Entry
		if err == nil {
			e, err = parseEntry(words)
		}
		if err != nil {
			if len(errs) < maxErrors {
				errs = append(errs, fmt.Errorf("%s:%d: %w", name, line, err))
			}
			continue
		}
		e.Line = line
		s.byClient[e.Client] = append(s.byClient[e.Client], e)
		s.count++
	}
	if errs != nil {
		return nil, errors.Join(errs...)
	}
	return s, nil
}

func parseEntry(words []string) (*Entry, error) {
	e := &Entry{Client: words[0]}
	if e.Client == "" {
		return nil, errors.New("client name is empty: write * for any client")
	}
	if len(words) < 3 {
		return nil, fmt.Errorf("client %q: a line needs client, server and secret, this one ends after word %d",
			e.Client, len(words))
	}
	e.Server = words[1]
	switch secret := words[2]; {
	case secret == "":
		return nil, fmt.Errorf("client %q: the secret is empty", e.Client)
	case strings.HasPrefix(secret, "@/"):
		e.SecretFile = secret[1:]
	default:
		e.Secret = NewSecret(secret)
	}
	var err error
	if e.Addresses, err = parseAddresses(words[3:]); err != nil {
		return nil, fmt.Errorf("client %q: address %w", e.Client, err)
	}
	return e, nil
}

// ErrReadable says that users other than the owner and the group can get at a
// file with secrets.
var ErrReadable = errors.New("file with secrets is open to every user")

// ReadPrivate reads a file that holds secrets. Unless allowOpen is set it
// refuses, with an error that wraps ErrReadable, one that every user may
// read or write.
func ReadPrivate(path string, allowOpen bool) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat() // of what was opened, not of what the path means by now
	if err != nil {
		return nil, err
	}
	if mode := st.Mode().Perm(); mode&0o007 != 0 && st.Mode().IsRegular() && !allowOpen {
		return nil, fmt.Errorf("%w: %s has mode %04o: run chmod 600 %[2]s, or set allow-world-readable-secrets",
			ErrReadable, path, mode)
	}
	return io.ReadAll(f)
}

// Load reads the secrets file at path and the files that its secrets point
// to (@/path: the first word of that file). See ReadPrivate for allowOpen.
func Load(path string, allowOpen bool) (*Secrets, error) {
	text, err := ReadPrivate(path, allowOpen)
	if err != nil {
		return nil, err
	}
	s, err := Parse(path, text)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, entries := range s.byClient {
		for _, e := range entries {
			if e.SecretFile == "" {
				continue
			}
			if err := e.readSecret(allowOpen); err != nil {
				errs = append(errs, fmt.Errorf("%s:%d: client %q: %w", path, e.Line, e.Client, err))
			}
		}
	}
	if errs != nil {
		return nil, errors.Join(errs...)
	}
	return s, nil
}

func (e *Entry) readSecret(allowOpen bool) error {
	text, err := ReadPrivate(e.SecretFile, allowOpen)
	if err != nil {
		return err
	}
	scan := scanner{in: text, line: 1}
	words, line, err := scan.next()
	if err != nil {
		return fmt.Errorf("%s:%d: %w", e.SecretFile, line, err)
	}
	if len(words) == 0 || words[0] == "" {
		return fmt.Errorf("%s: holds no secret", e.SecretFile)
	}
	e.Secret = NewSecret(words[0])
	return nil
}

// Len is the number of entries.
func (s *Secrets) Len() int { return s.count }

// Entries lists all entries in the order of the file.
func (s *Secrets) Entries() []*Entry {
	all := make([]*Entry, 0, s.count)
	for _, es := range s.byClient {
		all = append(all, es...)
	}
	slices.SortFunc(all, func(a, b *Entry) int { return cmp.Compare(a.Line, b.Line) })
	return all
}

// Lookup finds the entry for a client and a server. As in pppd a line that
// names the client goes ahead of one that names only the server, that ahead of
// one with two stars, and of equals the first wins. A name DOMAIN\user that
// is not in the file is looked up as user, ahead of lines for any client.
func (s *Secrets) Lookup(client, server string) (*Entry, bool) {
	names := []string{client}
	if user := StripDomain(client); user != client {
		names = append(names, user)
	}
	for _, name := range append(names, Wild) {
		var best *Entry
		for _, e := range s.byClient[name] {
			if e.Server == server && server != Wild {
				return e, true
			}
			if e.Server == Wild {
				best = cmp.Or(best, e)
			}
		}
		if best != nil {
			return best, true
		}
	}
	return nil, false
}

// StripDomain returns name without a leading DOMAIN\, as Windows clients send
// it (RFC 2759 §4).
func StripDomain(name string) string {
	return name[strings.LastIndexByte(name, '\\')+1:]
}

// Store is a secrets file that can be read again while it is in use, by
// several goroutines.
type Store struct {
	path      string
	allowOpen bool
	current   atomic.Pointer[Secrets]
}

// OpenStore loads the secrets file at path, see Load.
func OpenStore(path string, allowOpen bool) (*Store, error) {
	st := &Store{path: path, allowOpen: allowOpen}
	if err := st.Reload(); err != nil {
		return nil, err
	}
	return st, nil
}

// Reload reads the file again. On an error the secrets in use stay.
func (st *Store) Reload() error {
	s, err := Load(st.path, st.allowOpen)
	if err != nil {
		return err
	}
	st.current.Store(s)
	return nil
}

// Secrets returns what was last loaded.
func (st *Store) Secrets() *Secrets { return st.current.Load() }
