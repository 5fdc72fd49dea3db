package config

import (
	"errors"
	"strings"

	"github.com/spf13/pflag"
)

// BindServe adds a flag for every key of serve, and --config. The function it
// returns is for use after parsing: it gives the defaults, overridden by the
// file, overridden by the flags that were given, validated.
func BindServe(fs *pflag.FlagSet) func() (*Config, error) {
	given := bind(fs, Default().fields())
	return func() (*Config, error) {
		c := Default()
		if err := given.apply(&c.source, c.fields()); err != nil {
			return nil, err
		}
		return c, c.Validate()
	}
}

// BindDial is the same for dial.
func BindDial(fs *pflag.FlagSet) func() (*Dial, error) {
	given := bind(fs, DefaultDial().fields())
	return func() (*Dial, error) {
		d := DefaultDial()
		if err := given.apply(&d.source, d.fields()); err != nil {
			return nil, err
		}
		return d, d.Validate()
	}
}

// flags are the keys of one table as flags of a command.
type flags struct {
	file string
	all  []*flag
}

// flag checks what the user gives on a setting of its own, and keeps the words
// to set them again once the file has been read.
type flag struct {
	value
	key   string
	words []string
}

func (f *flag) Set(s string) error {
	if m, ok := f.value.(many); ok && f.words == nil {
		m.reset()
	}
	if err := f.value.Set(s); err != nil {
		return err
	}
	f.words = append(f.words, s)
	return nil
}

func flagName(key string) string { return strings.ReplaceAll(key, ".", "-") }

func bind(fs *pflag.FlagSet, fields []field) *flags {
	given := &flags{}
	fs.SortFlags = false // the table is in order of use
	fs.StringVarP(&given.file, "config", "c", "", "read settings from this file; flags go ahead of it")
	given.bind(fs, fields)
	return given
}

// bindTo is bind with another name for the file.
func bindTo(fs *pflag.FlagSet, fields []field, file, help string) *flags {
	given := &flags{}
	fs.SortFlags = false
	fs.StringVar(&given.file, file, "", help)
	given.bind(fs, fields)
	return given
}

func (given *flags) bind(fs *pflag.FlagSet, fields []field) {
	for _, f := range fields {
		fl := &flag{value: f.v, key: f.key}
		given.all = append(given.all, fl)
		usage := f.help
		if a := f.v.allowed(); a != "" && f.v.Type() != "bool" {
			usage += " (" + a + ")"
		}
		name := flagName(f.key)
		pf := fs.VarPF(fl, name, "", usage)
		if f.v.Type() == "bool" {
			pf.NoOptDefVal = "true"
		}
		pf.Hidden = strings.Contains(f.key, ".") // sections are for the file, see Example
	}
}

// apply reads the file and then the flags into fields.
func (given *flags) apply(s *source, fields []field) error {
	if given.file != "" {
		if err := s.readFile(given.file, fields); err != nil {
			return err
		}
	}
	var errs []error
	for i, fl := range given.all {
		if fl.words == nil {
			continue
		}
		v := fields[i].v
		if m, ok := v.(many); ok {
			m.reset()
		}
		where := "--" + flagName(fl.key)
		s.set(fl.key, where)
		for _, w := range fl.words {
			if err := v.Set(w); err != nil {
				errs = append(errs, &Error{where, fl.key, err.Error()})
			}
		}
	}
	return errors.Join(errs...)
}
