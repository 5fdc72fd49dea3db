package pptp

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// vector is one message of testdata/messages.json: from a recorded session of
// pptp-linux and pptpd, or laid out by hand from the RFC's figures, and what
// tshark reads in it.
type vector struct {
	Source string         `json:"source"`
	Octets string         `json:"octets"`
	Tshark map[string]any `json:"tshark"`
}

func (v vector) bytes() []byte {
	b, err := hex.DecodeString(v.Octets)
	if err != nil {
		panic(err)
	}
	return b
}

func loadVectors(tb testing.TB) []vector {
	tb.Helper()
	b, err := os.ReadFile("testdata/messages.json")
	if err != nil {
		tb.Fatal(err)
	}
	var out []vector
	if err := json.Unmarshal(b, &out); err != nil {
		tb.Fatal(err)
	}
	return out
}

// tsharkFields maps tshark's names to ours; nil stands for what the structs do
// not hold.
var tsharkFields = map[string][]string{
	"pptp.length":                     nil,
	"pptp.type":                       nil,
	"pptp.magic_cookie":               nil,
	"pptp.control_message_type":       nil,
	"pptp.reserved":                   nil,
	"pptp.phone_number_length":        nil,
	"pptp.dialed_number_length":       nil,
	"pptp.dialing_number_length":      nil,
	"pptp.protocol_version":           {"ProtocolVersion"},
	"pptp.framing_capabilities":       {"FramingCapabilities"},
	"pptp.bearer_capabilities":        {"BearerCapabilities"},
	"pptp.maximum_channels":           {"MaximumChannels"},
	"pptp.firmware_revision":          {"FirmwareRevision"},
	"pptp.host_name":                  {"HostName"},
	"pptp.vendor_name":                {"VendorName"},
	"pptp.control_result":             {"ResultCode"},
	"pptp.stop_result":                {"ResultCode"},
	"pptp.echo_result":                {"ResultCode"},
	"pptp.out_result":                 {"ResultCode"},
	"pptp.in_result":                  {"ResultCode"},
	"pptp.disc_result":                {"ResultCode"},
	"pptp.error":                      {"ErrorCode"},
	"pptp.cause":                      {"CauseCode"},
	"pptp.reason":                     {"Reason"},
	"pptp.identifier":                 {"Identifier"},
	"pptp.call_id":                    {"CallID"},
	"pptp.peer_call_id":               {"PeerCallID"},
	"pptp.call_serial_number":         {"CallSerialNumber"},
	"pptp.minimum_bps":                {"MinimumBPS"},
	"pptp.maximum_bps":                {"MaximumBPS"},
	"pptp.bearer_type":                {"BearerType", "CallBearerType"},
	"pptp.framing_type":               {"FramingType"},
	"pptp.packet_receive_window_size": {"PacketRecvWindowSize"},
	"pptp.packet_processing_delay":    {"PacketProcessingDelay", "PacketTransmitDelay"},
	"pptp.phone_number":               {"PhoneNumber"},
	"pptp.subaddress":                 {"Subaddress"},
	"pptp.connect_speed":              {"ConnectSpeed"},
	"pptp.physical_channel_id":        {"PhysicalChannelID"},
	"pptp.dialed_number":              {"DialedNumber"},
	"pptp.dialing_number":             {"DialingNumber"},
	"pptp.call_Statistics":            {"CallStatistics"},
	"pptp.crc_errors":                 {"CRCErrors"},
	"pptp.framing_errors":             {"FramingErrors"},
	"pptp.hardware_overruns":          {"HardwareOverruns"},
	"pptp.buffer_overruns":            {"BufferOverruns"},
	"pptp.timeout_errors":             {"TimeoutErrors"},
	"pptp.alignment_errors":           {"AlignmentErrors"},
	"pptp.send_accm":                  {"SendACCM"},
	"pptp.receive_accm":               {"ReceiveACCM"},
}

func TestMessagesAgainstTshark(t *testing.T) {
	recorded := map[Type]int{}
	for _, v := range loadVectors(t) {
		b := v.bytes()
		m, err := Parse(b)
		if err != nil {
			t.Fatalf("%s: %s: %v", v.Source, v.Octets, err)
		}
		if got := Append(nil, m); !bytes.Equal(got, b) {
			t.Errorf("%s: %v: Append(Parse(b))\n got %x\nwant %x", v.Source, m.Type(), got, b)
		}
		recorded[m.Type()]++

		got := reflect.ValueOf(m).Elem()
		seen := 0
		for name, value := range v.Tshark {
			fields, ok := tsharkFields[name]
			if !ok {
				t.Fatalf("%v: tshark field %s is not in the map", m.Type(), name)
			}
			if fields == nil {
				continue
			}
			var f reflect.Value
			for _, name := range fields {
				if f = got.FieldByName(name); f.IsValid() {
					break
				}
			}
			if !f.IsValid() {
				t.Errorf("%v: no field for %s", m.Type(), name)
				continue
			}
			seen++
			want := value.(string)
			if f.Kind() == reflect.String {
				if f.String() != want {
					t.Errorf("%v: %s is %q, tshark says %q", m.Type(), name, f.String(), want)
				}
				continue
			}
			n, err := strconv.ParseUint(want, 0, 32)
			if err != nil {
				t.Fatal(err)
			}
			if f.Uint() != n {
				t.Errorf("%v: %s is %d, tshark says %d", m.Type(), name, f.Uint(), n)
			}
		}
		if seen != got.NumField() {
			t.Errorf("%v: compared %d of %d fields", m.Type(), seen, got.NumField())
		}
	}
	for typ := TypeStartRequest; typ.known(); typ++ {
		if recorded[typ] == 0 {
			t.Errorf("no vector for %v", typ)
		}
	}
}

func TestEveryTypeFillsItsLength(t *testing.T) {
	for typ := TypeStartRequest; typ.known(); typ++ {
		m := newMessage(typ)
		if m.Type() != typ {
			t.Errorf("newMessage(%v) is a %v", typ, m.Type())
		}
		b := make([]byte, typ.Length()-controlLen)
		c := &codec{b: b, write: true}
		m.fields(c)
		if len(c.b) != 0 {
			t.Errorf("%v: fields leave %d octets", typ, len(c.b))
		}
		if strings.HasPrefix(typ.String(), "control message type") {
			t.Errorf("%v has no name", typ)
		}
	}
}

func TestReservedFieldsTolerated(t *testing.T) {
	for typ := TypeStartRequest; typ.known(); typ++ {
		want := newMessage(typ)
		b := Append(nil, want)
		b[10], b[11] = 0xff, 0xff // Reserved0
		got, err := Parse(b)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%v: got %+v, %v", typ, got, err)
		}
	}
	b := Append(nil, &CallClearRequest{CallID: 7})
	b[14], b[15] = 1, 2
	if got, err := Parse(b); err != nil || *got.(*CallClearRequest) != (CallClearRequest{CallID: 7}) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestTextFields(t *testing.T) {
	long := strings.Repeat("a", 65)
	request := Append(nil, &StartRequest{HostName: long, VendorName: "x\x00y"})
	m, err := Parse(request)
	if err != nil {
		t.Fatal(err)
	}
	if got := m.(*StartRequest); got.HostName != long[:64] || got.VendorName != "x" {
		t.Errorf("got %+v", got)
	}

	for _, tt := range []struct {
		field  string
		length uint16
		want   string
	}{
		{"12345", 5, "12345"},
		{"12345", 3, "123"},
		{"12345", 0, "12345"},     // a peer that leaves the length out
		{"12345", 60, "12345"},    // padding counted
		{"12345", 65535, "12345"}, // beyond the field
		{"", 9, ""},
	} {
		b := Append(nil, &OutgoingCallRequest{PhoneNumber: tt.field})
		binary.BigEndian.PutUint16(b[36:], tt.length)
		m, err := Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		if got := m.(*OutgoingCallRequest).PhoneNumber; got != tt.want {
			t.Errorf("number %q, length %d: got %q, want %q", tt.field, tt.length, got, tt.want)
		}
	}
}

func header(length, messageType, magic, controlType int) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(length))
	b = binary.BigEndian.AppendUint16(b, uint16(messageType))
	b = binary.BigEndian.AppendUint32(b, uint32(magic))
	b = binary.BigEndian.AppendUint16(b, uint16(controlType))
	return append(b, 0, 0)
}

func TestSplit(t *testing.T) {
	echo := Append(nil, &EchoRequest{Identifier: 9})
	unknown := append(header(20, 1, Magic, 99), make([]byte, 8)...)
	management := header(12, 2, Magic, 1)
	for _, tt := range []struct {
		name  string
		in    []byte
		msg   int // octets of the first message, 0: more needed
		field string
	}{
		{"empty", nil, 0, ""},
		{"half a header", echo[:7], 0, ""},
		{"type missing", echo[:9], 0, ""},
		{"body missing", echo[:15], 0, ""},
		{"whole", echo, 16, ""},
		{"two", append(bytes.Clone(echo), echo...), 16, ""},
		{"unknown control type", unknown, 20, ""},
		{"unknown control type, half", unknown[:19], 0, ""},
		{"management message", management, 12, ""},
		{"bare management message", header(8, 2, Magic, 0)[:8], 8, ""},
		{"wrong cookie", header(16, 1, Magic+1, 5), 0, "Magic Cookie"},
		{"wrong cookie, found at once", header(16, 1, Magic+1, 5)[:8], 0, "Magic Cookie"},
		{"length 0", header(0, 1, Magic, 5)[:8], 0, "Length"},
		{"length 11", header(11, 1, Magic, 99), 0, "Length"},
		{"length 7, management", header(7, 2, Magic, 0), 0, "Length"},
		{"length beyond the limit", header(MaxMessage+1, 1, Magic, 99), 0, "Length"},
		{"length one short of the type's", header(155, 1, Magic, 1), 0, "Length"},
		{"length one above the type's", header(169, 1, Magic, 7)[:10], 0, "Length"},
	} {
		msg, rest, err := Split(tt.in)
		var format *FormatError
		switch {
		case tt.field != "":
			if !errors.As(err, &format) || format.Field != tt.field {
				t.Errorf("%s: error %v, want one about %s", tt.name, err, tt.field)
			}
		case err != nil || len(msg) != tt.msg || len(rest) != len(tt.in)-tt.msg:
			t.Errorf("%s: %d octets, %d left, %v; want %d", tt.name, len(msg), len(rest), err, tt.msg)
		}
	}
}

func TestParseErrors(t *testing.T) {
	echo := Append(nil, &EchoRequest{})
	for _, tt := range []struct {
		in   []byte
		want string
	}{
		{nil, "pptp: Length is 0, want one whole message"},
		{echo[:15], "pptp: Length is 15, want one whole message"},
		{append(bytes.Clone(echo), 0), "pptp: Length is 17, want one whole message"},
		{header(200, 1, Magic, 9), "pptp: Incoming-Call-Request: Length is 200, want 220"},
		{header(12, 1, 0x1A2B3C4E, 9), "pptp: Magic Cookie is 0x1a2b3c4e, want 0x1a2b3c4d"},
		{header(12, 1, Magic, 16), "pptp: unknown control message type 16"},
		{header(12, 1, Magic, 0), "pptp: unknown control message type 0"},
		{header(12, 2, Magic, 1), "pptp: unknown PPTP message type 2"},
	} {
		m, err := Parse(tt.in)
		if m != nil || err == nil || err.Error() != tt.want {
			t.Errorf("Parse(%x): %v, %v; want %q", tt.in, m, err, tt.want)
		}
	}
}

// A stream of messages comes out the same however TCP cuts it.
func TestSplitAnySegments(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var want []Message
		var stream []byte
		for range rapid.IntRange(1, 6).Draw(t, "messages") {
			m := newMessage(Type(rapid.IntRange(1, numTypes-1).Draw(t, "type")))
			want = append(want, m)
			stream = Append(stream, m)
		}
		var got []Message
		var pending []byte
		for len(stream) > 0 {
			n := rapid.IntRange(1, len(stream)).Draw(t, "segment")
			pending, stream = append(pending, stream[:n]...), stream[n:]
			for {
				msg, rest, err := Split(pending)
				if err != nil {
					t.Fatal(err)
				}
				if msg == nil {
					break
				}
				m, err := Parse(msg)
				if err != nil {
					t.Fatal(err)
				}
				got, pending = append(got, m), rest
			}
		}
		if len(pending) != 0 || !reflect.DeepEqual(got, want) {
			t.Fatalf("got %v and %d octets, want %v", got, len(pending), want)
		}
	})
}

func TestCodeNames(t *testing.T) {
	for _, tt := range []struct {
		got  interface{ String() string }
		want string
	}{
		{StartExists, "command channel already exists (3)"},
		{StartResult(0), "unknown (0)"},
		{StopLocalShutdown, "Stop-Local-Shutdown (3)"},
		{StopReason(0), "unspecified (0)"},
		{StopOK, "OK (1)"},
		{EchoGeneralError, "general error (2)"},
		{OutgoingDoNotAccept, "Do Not Accept (7)"},
		{IncomingDoNotAccept, "Do Not Accept (3)"},
		{DisconnectRequest, "Request (4)"},
		{ErrorPAC, "PAC-Error (6)"},
		{ErrorCode(200), "unknown (200)"},
		{CauseCode(17), "user busy (17)"},
		{CauseCode(2), "unknown (2)"},
		{FramingAsync | FramingSync, "async+sync"},
		{Bearer(0), "none"},
		{Bearer(0x12), "digital+0x10"},
		{Type(16), "control message type 16"},
	} {
		if got := tt.got.String(); got != tt.want {
			t.Errorf("%T: got %q, want %q", tt.got, got, tt.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, v := range loadVectors(f) {
		f.Add(v.bytes())
	}
	f.Add(header(20, 1, Magic, 99))
	f.Fuzz(func(t *testing.T, in []byte) {
		msg, rest, err := Split(in)
		if len(msg)+len(rest) != len(in) {
			t.Fatalf("Split lost octets: %d + %d of %d", len(msg), len(rest), len(in))
		}
		if err != nil || msg == nil {
			return
		}
		m, err := Parse(msg)
		if err != nil {
			var unknown *UnknownTypeError
			if !errors.As(err, &unknown) {
				t.Fatalf("Split delivers what Parse refuses: %v", err)
			}
			return
		}
		out := Append(nil, m)
		again, err := Parse(out)
		if err != nil || !reflect.DeepEqual(m, again) {
			t.Fatalf("%+v comes back as %+v, %v", m, again, err)
		}
		if len(out) != len(msg) {
			t.Fatalf("%d octets come back as %d", len(msg), len(out))
		}
	})
}
