package pptp

import (
	"encoding/binary"
	"fmt"
)

// FormatError is a message that cannot be read: its magic cookie or its
// length is wrong. The stream is out of step; §1.4 wants the TCP connection
// closed at once.
type FormatError struct {
	Message Type   // 0 when not known
	Field   string // the RFC's name of the field
	Value   uint32
	Want    string
}

func (e *FormatError) Error() string {
	where := ""
	if e.Message != 0 {
		where = e.Message.String() + ": "
	}
	if e.Field == "Magic Cookie" {
		return fmt.Sprintf("pptp: %s%s is %#08x, want %s", where, e.Field, e.Value, e.Want)
	}
	return fmt.Sprintf("pptp: %s%s is %d, want %s", where, e.Field, e.Value, e.Want)
}

// UnknownTypeError is a well-framed message of a type that RFC 2637 does not
// define. It can be skipped.
type UnknownTypeError struct {
	MessageType uint16 // 1 for a control message, 2 for a management message
	ControlType Type   // only in a control message
}

func (e *UnknownTypeError) Error() string {
	if e.MessageType != controlMessage {
		return fmt.Sprintf("pptp: unknown PPTP message type %d", e.MessageType)
	}
	return fmt.Sprintf("pptp: unknown control message type %d", uint16(e.ControlType))
}

// Split cuts the first message off a TCP stream: msg is one whole message
// (for Parse), rest what follows it. While the message is incomplete msg is
// nil and rest is buf. Both are views of buf.
//
// Any error is a *FormatError and found as early as the octets allow: the
// magic cookie is wrong, the length is outside [8, MaxMessage], or it is not
// the one length that a message of the known type has. Messages of unknown
// type are delivered, whatever they hold.
func Split(buf []byte) (msg, rest []byte, err error) {
	n, err := messageLen(buf)
	if err != nil {
		return nil, buf, err
	}
	if n == 0 || n > len(buf) {
		return nil, buf, nil
	}
	return buf[:n:n], buf[n:], nil
}

// messageLen checks as much of the header as b holds and returns the length
// of the message, or 0 when more octets are needed to tell.
func messageLen(b []byte) (int, error) {
	if len(b) < headerLen {
		return 0, nil
	}
	if cookie := binary.BigEndian.Uint32(b[4:]); cookie != Magic {
		return 0, &FormatError{Field: "Magic Cookie", Value: cookie, Want: fmt.Sprintf("%#08x", uint32(Magic))}
	}
	n := int(binary.BigEndian.Uint16(b))
	low := headerLen
	if binary.BigEndian.Uint16(b[2:]) == controlMessage {
		low = controlLen
	}
	if n < low || n > MaxMessage {
		return 0, &FormatError{Field: "Length", Value: uint32(n), Want: fmt.Sprintf("%d to %d", low, MaxMessage)}
	}
	if low == headerLen {
		return n, nil
	}
	if len(b) < headerLen+2 {
		return 0, nil
	}
	t := Type(binary.BigEndian.Uint16(b[8:]))
	if t.known() && n != t.Length() {
		return 0, &FormatError{Message: t, Field: "Length", Value: uint32(n), Want: fmt.Sprint(t.Length())}
	}
	return n, nil
}
