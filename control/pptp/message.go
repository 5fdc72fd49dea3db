package pptp

import (
	"bytes"
	"encoding/binary"
	"strings"
)

// Message is one control message. The concrete types are pointers to the
// structs of this file, whose fields are those of RFC 2637 §2 in their order
// and under their names, without the reserved ones: these are sent as zero
// and ignored when received. Numbers are in host order.
//
// Text fields are the peer's octets up to the first NUL: not trusted, not
// necessarily printable. Longer text than the field holds is cut when sent.
type Message interface {
	// Type returns the control message type.
	Type() Type
	// fields walks all fields behind Reserved0, in the order of the wire.
	fields(c *codec)
}

// StartRequest is a Start-Control-Connection-Request (§2.1).
type StartRequest struct {
	ProtocolVersion     uint16 // version in the high octet, revision in the low
	FramingCapabilities Framing
	BearerCapabilities  Bearer
	MaximumChannels     uint16
	FirmwareRevision    uint16
	HostName            string
	VendorName          string
}

// StartReply is a Start-Control-Connection-Reply (§2.2).
type StartReply struct {
	ProtocolVersion     uint16
	ResultCode          StartResult
	ErrorCode           ErrorCode
	FramingCapabilities Framing
	BearerCapabilities  Bearer
	MaximumChannels     uint16
	FirmwareRevision    uint16
	HostName            string
	VendorName          string
}

// StopRequest is a Stop-Control-Connection-Request (§2.3).
type StopRequest struct {
	Reason StopReason
}

// StopReply is a Stop-Control-Connection-Reply (§2.4).
type StopReply struct {
	ResultCode StopResult
	ErrorCode  ErrorCode
}

// EchoRequest is an Echo-Request (§2.5).
type EchoRequest struct {
	Identifier uint32
}

// EchoReply is an Echo-Reply (§2.6).
type EchoReply struct {
	Identifier uint32
	ResultCode EchoResult
	ErrorCode  ErrorCode
}

// OutgoingCallRequest is an Outgoing-Call-Request, PNS to PAC (§2.7).
type OutgoingCallRequest struct {
	CallID                uint16 // assigned by the PNS
	CallSerialNumber      uint16
	MinimumBPS            uint32 // bits per second
	MaximumBPS            uint32
	BearerType            Bearer
	FramingType           Framing
	PacketRecvWindowSize  uint16 // packets
	PacketProcessingDelay uint16 // tenths of a second
	PhoneNumber           string
	Subaddress            string
}

// OutgoingCallReply is an Outgoing-Call-Reply, PAC to PNS (§2.8).
type OutgoingCallReply struct {
	CallID                uint16 // assigned by the PAC
	PeerCallID            uint16 // that of the request
	ResultCode            OutgoingResult
	ErrorCode             ErrorCode
	CauseCode             CauseCode
	ConnectSpeed          uint32 // bits per second
	PacketRecvWindowSize  uint16 // packets
	PacketProcessingDelay uint16 // tenths of a second
	PhysicalChannelID     uint32
}

// IncomingCallRequest is an Incoming-Call-Request, PAC to PNS (§2.9).
type IncomingCallRequest struct {
	CallID            uint16 // assigned by the PAC
	CallSerialNumber  uint16
	CallBearerType    Bearer
	PhysicalChannelID uint32
	DialedNumber      string
	DialingNumber     string
	Subaddress        string
}

// IncomingCallReply is an Incoming-Call-Reply, PNS to PAC (§2.10).
type IncomingCallReply struct {
	CallID               uint16 // assigned by the PNS
	PeerCallID           uint16 // that of the request
	ResultCode           IncomingResult
	ErrorCode            ErrorCode
	PacketRecvWindowSize uint16 // packets
	PacketTransmitDelay  uint16 // tenths of a second
}

// IncomingCallConnected is an Incoming-Call-Connected, PAC to PNS (§2.11).
type IncomingCallConnected struct {
	PeerCallID           uint16 // that of the reply
	ConnectSpeed         uint32 // bits per second
	PacketRecvWindowSize uint16 // packets
	PacketTransmitDelay  uint16 // tenths of a second
	FramingType          Framing
}

// CallClearRequest is a Call-Clear-Request, PNS to PAC (§2.12).
type CallClearRequest struct {
	CallID uint16 // assigned by the PNS, the sender
}

// CallDisconnectNotify is a Call-Disconnect-Notify, PAC to PNS (§2.13).
type CallDisconnectNotify struct {
	CallID         uint16 // assigned by the PAC, the sender; some peers send the PNS's
	ResultCode     DisconnectResult
	ErrorCode      ErrorCode
	CauseCode      CauseCode
	CallStatistics string
}

// WANErrorNotify is a WAN-Error-Notify, PAC to PNS (§2.14). The counters are
// cumulative since the call was established.
type WANErrorNotify struct {
	PeerCallID       uint16 // assigned by the PNS, the receiver
	CRCErrors        uint32
	FramingErrors    uint32
	HardwareOverruns uint32
	BufferOverruns   uint32
	TimeoutErrors    uint32
	AlignmentErrors  uint32
}

// SetLinkInfo is a Set-Link-Info, PNS to PAC (§2.15).
type SetLinkInfo struct {
	PeerCallID  uint16 // assigned by the PAC, the receiver
	SendACCM    uint32
	ReceiveACCM uint32
}

// Type returns TypeStartRequest.
func (*StartRequest) Type() Type { return TypeStartRequest }

// Type returns TypeStartReply.
func (*StartReply) Type() Type { return TypeStartReply }

// Type returns TypeStopRequest.
func (*StopRequest) Type() Type { return TypeStopRequest }

// Type returns TypeStopReply.
func (*StopReply) Type() Type { return TypeStopReply }

// Type returns TypeEchoRequest.
func (*EchoRequest) Type() Type { return TypeEchoRequest }

// Type returns TypeEchoReply.
func (*EchoReply) Type() Type { return TypeEchoReply }

// Type returns TypeOutgoingCallRequest.
func (*OutgoingCallRequest) Type() Type { return TypeOutgoingCallRequest }

// Type returns TypeOutgoingCallReply.
func (*OutgoingCallReply) Type() Type { return TypeOutgoingCallReply }

// Type returns TypeIncomingCallRequest.
func (*IncomingCallRequest) Type() Type { return TypeIncomingCallRequest }

// Type returns TypeIncomingCallReply.
func (*IncomingCallReply) Type() Type { return TypeIncomingCallReply }

// Type returns TypeIncomingCallConnected.
func (*IncomingCallConnected) Type() Type { return TypeIncomingCallConnected }

// Type returns TypeCallClearRequest.
func (*CallClearRequest) Type() Type { return TypeCallClearRequest }

// Type returns TypeCallDisconnectNotify.
func (*CallDisconnectNotify) Type() Type { return TypeCallDisconnectNotify }

// Type returns TypeWANErrorNotify.
func (*WANErrorNotify) Type() Type { return TypeWANErrorNotify }

// Type returns TypeSetLinkInfo.
func (*SetLinkInfo) Type() Type { return TypeSetLinkInfo }

func (m *StartRequest) fields(c *codec) {
	u16(c, &m.ProtocolVersion)
	c.reserved(2)
	u32(c, &m.FramingCapabilities)
	u32(c, &m.BearerCapabilities)
	u16(c, &m.MaximumChannels)
	u16(c, &m.FirmwareRevision)
	c.text(&m.HostName, MaxName)
	c.text(&m.VendorName, MaxName)
}

func (m *StartReply) fields(c *codec) {
	u16(c, &m.ProtocolVersion)
	u8(c, &m.ResultCode)
	u8(c, &m.ErrorCode)
	u32(c, &m.FramingCapabilities)
	u32(c, &m.BearerCapabilities)
	u16(c, &m.MaximumChannels)
	u16(c, &m.FirmwareRevision)
	c.text(&m.HostName, MaxName)
	c.text(&m.VendorName, MaxName)
}

func (m *StopRequest) fields(c *codec) {
	u8(c, &m.Reason)
	c.reserved(3)
}

func (m *StopReply) fields(c *codec) {
	u8(c, &m.ResultCode)
	u8(c, &m.ErrorCode)
	c.reserved(2)
}

func (m *EchoRequest) fields(c *codec) {
	u32(c, &m.Identifier)
}

func (m *EchoReply) fields(c *codec) {
	u32(c, &m.Identifier)
	u8(c, &m.ResultCode)
	u8(c, &m.ErrorCode)
	c.reserved(2)
}

func (m *OutgoingCallRequest) fields(c *codec) {
	u16(c, &m.CallID)
	u16(c, &m.CallSerialNumber)
	u32(c, &m.MinimumBPS)
	u32(c, &m.MaximumBPS)
	u32(c, &m.BearerType)
	u32(c, &m.FramingType)
	u16(c, &m.PacketRecvWindowSize)
	u16(c, &m.PacketProcessingDelay)
	digits := c.digits(m.PhoneNumber)
	c.reserved(2)
	c.number(&m.PhoneNumber, digits)
	c.text(&m.Subaddress, MaxName)
}

func (m *OutgoingCallReply) fields(c *codec) {
	u16(c, &m.CallID)
	u16(c, &m.PeerCallID)
	u8(c, &m.ResultCode)
	u8(c, &m.ErrorCode)
	u16(c, &m.CauseCode)
	u32(c, &m.ConnectSpeed)
	u16(c, &m.PacketRecvWindowSize)
	u16(c, &m.PacketProcessingDelay)
	u32(c, &m.PhysicalChannelID)
}

func (m *IncomingCallRequest) fields(c *codec) {
	u16(c, &m.CallID)
	u16(c, &m.CallSerialNumber)
	u32(c, &m.CallBearerType)
	u32(c, &m.PhysicalChannelID)
	dialed := c.digits(m.DialedNumber)
	dialing := c.digits(m.DialingNumber)
	c.number(&m.DialedNumber, dialed)
	c.number(&m.DialingNumber, dialing)
	c.text(&m.Subaddress, MaxName)
}

func (m *IncomingCallReply) fields(c *codec) {
	u16(c, &m.CallID)
	u16(c, &m.PeerCallID)
	u8(c, &m.ResultCode)
	u8(c, &m.ErrorCode)
	u16(c, &m.PacketRecvWindowSize)
	u16(c, &m.PacketTransmitDelay)
	c.reserved(2)
}

func (m *IncomingCallConnected) fields(c *codec) {
	u16(c, &m.PeerCallID)
	c.reserved(2)
	u32(c, &m.ConnectSpeed)
	u16(c, &m.PacketRecvWindowSize)
	u16(c, &m.PacketTransmitDelay)
	u32(c, &m.FramingType)
}

func (m *CallClearRequest) fields(c *codec) {
	u16(c, &m.CallID)
	c.reserved(2)
}

func (m *CallDisconnectNotify) fields(c *codec) {
	u16(c, &m.CallID)
	u8(c, &m.ResultCode)
	u8(c, &m.ErrorCode)
	u16(c, &m.CauseCode)
	c.reserved(2)
	c.text(&m.CallStatistics, MaxStatistics)
}

func (m *WANErrorNotify) fields(c *codec) {
	u16(c, &m.PeerCallID)
	c.reserved(2)
	u32(c, &m.CRCErrors)
	u32(c, &m.FramingErrors)
	u32(c, &m.HardwareOverruns)
	u32(c, &m.BufferOverruns)
	u32(c, &m.TimeoutErrors)
	u32(c, &m.AlignmentErrors)
}

func (m *SetLinkInfo) fields(c *codec) {
	u16(c, &m.PeerCallID)
	c.reserved(2)
	u32(c, &m.SendACCM)
	u32(c, &m.ReceiveACCM)
}

// newMessage returns an empty message of a known type.
func newMessage(t Type) Message {
	switch t {
	case TypeStartRequest:
		return &StartRequest{}
	case TypeStartReply:
		return &StartReply{}
	case TypeStopRequest:
		return &StopRequest{}
	case TypeStopReply:
		return &StopReply{}
	case TypeEchoRequest:
		return &EchoRequest{}
	case TypeEchoReply:
		return &EchoReply{}
	case TypeOutgoingCallRequest:
		return &OutgoingCallRequest{}
	case TypeOutgoingCallReply:
		return &OutgoingCallReply{}
	case TypeIncomingCallRequest:
		return &IncomingCallRequest{}
	case TypeIncomingCallReply:
		return &IncomingCallReply{}
	case TypeIncomingCallConnected:
		return &IncomingCallConnected{}
	case TypeCallClearRequest:
		return &CallClearRequest{}
	case TypeCallDisconnectNotify:
		return &CallDisconnectNotify{}
	case TypeWANErrorNotify:
		return &WANErrorNotify{}
	case TypeSetLinkInfo:
		return &SetLinkInfo{}
	}
	return nil
}

// Parse reads one whole message, as Split delivers it. The result does not
// refer to b. Errors are *FormatError (the connection is out of step and must
// end, §1.4) and *UnknownTypeError (the message can be skipped). Field values
// are not judged here.
func Parse(b []byte) (Message, error) {
	n, err := messageLen(b)
	switch {
	case err != nil:
		return nil, err
	case n == 0 || n != len(b):
		return nil, &FormatError{Field: "Length", Value: uint32(len(b)), Want: "one whole message"}
	}
	messageType := binary.BigEndian.Uint16(b[2:])
	if messageType != controlMessage {
		return nil, &UnknownTypeError{MessageType: messageType}
	}
	t := Type(binary.BigEndian.Uint16(b[8:]))
	m := newMessage(t)
	if m == nil {
		return nil, &UnknownTypeError{MessageType: messageType, ControlType: t}
	}
	m.fields(&codec{b: b[controlLen:]})
	return m, nil
}

// Append appends the message's octets to dst and returns the extended slice.
func Append(dst []byte, m Message) []byte {
	t := m.Type()
	start := len(dst)
	dst = append(dst, make([]byte, t.Length())...)
	b := dst[start:]
	binary.BigEndian.PutUint16(b, uint16(len(b)))
	binary.BigEndian.PutUint16(b[2:], controlMessage)
	binary.BigEndian.PutUint32(b[4:], Magic)
	binary.BigEndian.PutUint16(b[8:], uint16(t))
	m.fields(&codec{b: b[controlLen:], write: true})
	return dst
}

// codec walks the fields of a message, reading or writing. b is what is left
// of the message; its length was checked against the type before.
type codec struct {
	b     []byte
	write bool // b is zeroed
}

func (c *codec) take(n int) []byte {
	f := c.b[:n]
	c.b = c.b[n:]
	return f
}

func (c *codec) reserved(n int) { c.take(n) }

func u8[T ~uint8](c *codec, v *T) {
	f := c.take(1)
	if c.write {
		f[0] = uint8(*v)
	} else {
		*v = T(f[0])
	}
}

func u16[T ~uint16](c *codec, v *T) {
	f := c.take(2)
	if c.write {
		binary.BigEndian.PutUint16(f, uint16(*v))
	} else {
		*v = T(binary.BigEndian.Uint16(f))
	}
}

func u32[T ~uint32](c *codec, v *T) {
	f := c.take(4)
	if c.write {
		binary.BigEndian.PutUint32(f, uint32(*v))
	} else {
		*v = T(binary.BigEndian.Uint32(f))
	}
}

// text is a field of n octets, filled up with NUL.
func (c *codec) text(s *string, n int) {
	f := c.take(n)
	if c.write {
		copy(f, cutNUL(*s))
		return
	}
	if end := bytes.IndexByte(f, 0); end >= 0 {
		f = f[:end]
	}
	*s = string(f)
}

// digits is the length field of a number.
func (c *codec) digits(s string) int {
	n := uint16(min(len(cutNUL(s)), MaxName))
	u16(c, &n)
	return int(n)
}

// number is a text field with a length field elsewhere. A length of 0 or
// beyond the field is not believed: the text then ends at its NUL.
func (c *codec) number(s *string, digits int) {
	c.text(s, MaxName)
	if !c.write && digits > 0 && digits < len(*s) {
		*s = (*s)[:digits]
	}
}

func cutNUL(s string) string {
	s, _, _ = strings.Cut(s, "\x00")
	return s
}
