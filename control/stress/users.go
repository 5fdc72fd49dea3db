package stress

import (
	"fmt"
	"strings"

	"xpptp/control/aaa"
	"xpptp/control/config"
)

// users names the clients and has their passwords.
type users struct {
	pattern  string
	first    int
	password aaa.Secret
	entries  []*aaa.Entry // instead, in turn
}

// loadUsers reads the users of a plan. Without a file there is one password
// for all: that of the password file.
func loadUsers(p *config.Stress) (*users, error) {
	u := &users{pattern: p.User, first: p.FirstUser}
	if p.UsersFile != "" {
		s, err := aaa.Load(p.UsersFile, p.AllowWorldReadableSecrets)
		if err != nil {
			return nil, err
		}
		for _, e := range s.Entries() {
			if e.Client != aaa.Wild {
				u.entries = append(u.entries, e)
			}
		}
		if len(u.entries) == 0 {
			return nil, fmt.Errorf("users-file: %s names no user", p.UsersFile)
		}
		return u, nil
	}
	if p.PasswordFile == "" {
		return nil, fmt.Errorf("password-file: must be set, or users-file")
	}
	var err error
	u.password, err = p.Password()
	return u, err
}

// get is the i-th client's name and password, i from 0.
func (u *users) get(i int) (string, aaa.Secret) {
	if n := len(u.entries); n > 0 {
		e := u.entries[i%n]
		return e.Client, e.Secret
	}
	return strings.Replace(u.pattern, "%d", fmt.Sprint(u.first+i), 1), u.password
}
