package traffic

import (
	"bytes"
	"math"
	"reflect"
	"testing"
	"time"
)

func TestRequest(t *testing.T) {
	good := Request{
		Op: OpSend, Lease: 3 * time.Second, Wait: 20 * time.Millisecond,
		Schedule: Schedule{Rate: 1000, To: 2000, Over: time.Minute}, Sizes: IMIX(),
	}
	for _, r := range []Request{good, {Op: OpStop}, {Op: OpQuery}} {
		got, err := ParseRequest(r.Append(nil))
		if err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("%+v came out as %+v, %v", r, got, err)
		}
	}
	if n := len(good.Append(nil)); headersV6+StampLen+n > MaxControl {
		t.Errorf("a body of %d bytes", n)
	}
	for name, f := range map[string]func(*Request){
		"operation":      func(r *Request) { r.Op = OpReport },
		"no operation":   func(r *Request) { r.Op = 0 },
		"no lease":       func(r *Request) { r.Lease = 0 },
		"long lease":     func(r *Request) { r.Lease = MaxLease + time.Millisecond },
		"long wait":      func(r *Request) { r.Wait = r.Lease + 1000 },
		"rate":           func(r *Request) { r.Schedule.Rate = math.NaN() },
		"unit":           func(r *Request) { r.Schedule.Unit = 9 },
		"negative ramp":  func(r *Request) { r.Schedule.Over = -1 },
		"no sizes":       func(r *Request) { r.Sizes = Sizes{} },
		"too many sizes": func(r *Request) { r.Sizes.Mix = make([]Weighted, 17) },
	} {
		r := good
		f(&r)
		if _, err := ParseRequest(r.Append(nil)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	b := good.Append(nil)
	for n := range b {
		if _, err := ParseRequest(b[:n]); err == nil {
			t.Errorf("taken with %d bytes of %d", n, len(b))
		}
	}
}

func TestReport(t *testing.T) {
	r := Report{Sending: true, Sent: 1, Received: 2, Duplicated: 3, Reordered: 4, Old: 5, Next: 6}
	b := r.Append(nil)
	if got, err := ParseReport(b); err != nil || got != r {
		t.Errorf("%+v, %v", got, err)
	}
	for n := range b {
		if _, err := ParseReport(b[:n]); err == nil {
			t.Errorf("taken with %d bytes", n)
		}
	}
	r.Received = 7
	if _, err := ParseReport(r.Append(nil)); err == nil {
		t.Error("more received than there are numbers: taken")
	}
}

func FuzzRequest(f *testing.F) {
	r := Request{Op: OpSend, Lease: time.Second, Schedule: Schedule{Rate: 1000}, Sizes: IMIX()}
	f.Add(r.Append(nil))
	f.Add((&Request{Op: OpQuery}).Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRequest(b)
		if err != nil {
			return
		}
		if got := r.Append(nil); !bytes.Equal(got, b) {
			t.Fatalf("% x\nwritten again is\n% x", b, got)
		}
	})
}

func FuzzReport(f *testing.F) {
	f.Add((&Report{Sending: true, Sent: 1, Received: 2, Next: 6}).Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseReport(b)
		if err != nil {
			return
		}
		if got := r.Append(nil); !bytes.Equal(got, b) {
			t.Fatalf("% x\nwritten again is\n% x", b, got)
		}
	})
}
