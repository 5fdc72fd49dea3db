package aaa

import (
	"errors"
	"strings"
)

// maxWord is the longest word that pppd takes (its MAXWORDLEN less the NUL).
const maxWord = 1023

var (
	errQuote = errors.New("quoted word is not closed on its line")
	errLong  = errors.New("word is longer than 1023 bytes")
	errNUL   = errors.New("word holds a NUL byte")
)

// scanner splits a secrets file into lines of words by the rules of pppd's
// getword: words end at white space or '#', which starts a comment; '…' and
// "…" quote, also within a word; a backslash escapes, also within quotes:
// \a \b \f \n \r \t as in C, \s a space, \ooo octal, \xhh hexadecimal, any
// other character itself, and nothing if it stands before a newline. Unlike
// pppd it refuses a quoted section that runs over the end of its line.
type scanner struct {
	in   []byte
	pos  int
	line int
}

func isSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }

// next returns the words of the next line that has any, and the number of the
// line it begins in; no words at the end of the file. After an error it
// goes on with the following line.
func (s *scanner) next() (words []string, line int, err error) {
	for s.pos < len(s.in) {
		c := s.in[s.pos]
		switch {
		case c == '\n':
			s.pos++
			s.line++
			if len(words) > 0 {
				return words, line, nil
			}
		case c == '#':
			s.skipLine()
		case c == '\\' && s.pos+1 < len(s.in) && s.in[s.pos+1] == '\n':
			s.pos += 2
			s.line++
		case isSpace(c):
			s.pos++
		default:
			if len(words) == 0 {
				line = s.line
			}
			w, err := s.word()
			if err != nil {
				s.skipLine()
				return nil, line, err
			}
			words = append(words, w)
		}
	}
	return words, line, nil
}

// skipLine moves to the newline that ends this line, or to the end.
func (s *scanner) skipLine() {
	for s.pos < len(s.in) && s.in[s.pos] != '\n' {
		s.pos++
	}
}

func (s *scanner) word() (string, error) {
	var b strings.Builder
	quote := byte(0)
	for s.pos < len(s.in) {
		c := s.in[s.pos]
		switch {
		case c == '\\':
			s.pos++
			s.escape(&b)
			continue
		case quote == 0 && (isSpace(c) || c == '#'):
			return checkWord(b.String())
		case c == '\n':
			return "", errQuote
		case c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		default:
			b.WriteByte(c)
		}
		s.pos++
	}
	if quote != 0 {
		return "", errQuote
	}
	return checkWord(b.String())
}

// escape reads what follows a backslash.
func (s *scanner) escape(b *strings.Builder) {
	if s.pos == len(s.in) {
		return
	}
	c := s.in[s.pos]
	s.pos++
	switch c {
	case '\n':
		s.line++
	case 'x':
		b.WriteByte(s.number(2, 16))
	case '0', '1', '2', '3', '4', '5', '6', '7':
		s.pos--
		b.WriteByte(s.number(3, 8))
	default:
		const from, to = "abfnrst", "\a\b\f\n\r \t"
		if i := strings.IndexByte(from, c); i >= 0 {
			c = to[i]
		}
		b.WriteByte(c)
	}
}

// number reads up to n digits; the value wraps at 256 as it does in pppd.
func (s *scanner) number(n int, base byte) (v byte) {
	for ; n > 0 && s.pos < len(s.in); n-- {
		d, ok := digit(s.in[s.pos])
		if !ok || d >= base {
			break
		}
		v = v*base + d
		s.pos++
	}
	return v
}

func digit(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

func checkWord(w string) (string, error) {
	if len(w) > maxWord {
		return "", errLong
	}
	if strings.IndexByte(w, 0) >= 0 {
		return "", errNUL
	}
	return w, nil
}
