package traffic

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// Op says what a packet with FlagControl is about.
type Op uint8

// The operations. The first three are for the far end, which answers each with
// a Report under the same sequence number.
const (
	OpSend   Op = iota + 1 // send the stream, or go on sending it
	OpStop                 // send no more of it
	OpQuery                // what has come of the stream?
	OpReport               // what has come, or was sent
)

// MaxLease is for how long at most the far end sends without being asked again.
const MaxLease = 10 * time.Second

const (
	requestLen = 44 // without the sizes of a mix
	reportLen  = 56
	// MaxControl is the longest IP packet of a request or report.
	MaxControl = headersV6 + StampLen + requestLen + 4*maxMix
)

// Request is the body of a packet with FlagControl for the far end. What
// follows Lease counts for OpSend, and the first time only.
type Request struct {
	Op       Op
	Lease    time.Duration // how long to send, from now; whole microseconds
	Wait     time.Duration // when the schedule begins, from now; whole microseconds
	Schedule Schedule
	Sizes    Sizes
}

// Append appends the body to b:
//
//	 0  operation
//	 1  unit of the rate
//	 2  number of sizes in the mix
//	 4  packets in a burst
//	 8  rate, and where the ramp ends, as IEEE 754
//	24  ramp's time in ns
//	32  lease and wait in µs
//	40  smallest and largest size
//	44  size and weight, for each of the mix
func (r *Request) Append(b []byte) []byte {
	b = append(b, byte(r.Op), byte(r.Schedule.Unit))
	b = be.AppendUint16(b, uint16(len(r.Sizes.Mix)))
	b = be.AppendUint32(b, uint32(r.Schedule.Burst))
	b = be.AppendUint64(b, math.Float64bits(r.Schedule.Rate))
	b = be.AppendUint64(b, math.Float64bits(r.Schedule.To))
	b = be.AppendUint64(b, uint64(r.Schedule.Over))
	b = be.AppendUint32(b, uint32(r.Lease/time.Microsecond))
	b = be.AppendUint32(b, uint32(r.Wait/time.Microsecond))
	b = be.AppendUint16(b, uint16(r.Sizes.Min))
	b = be.AppendUint16(b, uint16(r.Sizes.Max))
	for _, w := range r.Sizes.Mix {
		b = be.AppendUint16(b, uint16(w.Size))
		b = be.AppendUint16(b, uint16(w.Weight))
	}
	return b
}

var errBody = errors.New("body of a wrong length")

// ParseRequest reads the body of a request and checks everything in it.
func ParseRequest(b []byte) (r Request, err error) {
	if len(b) < requestLen {
		return r, errBody
	}
	n := int(be.Uint16(b[2:]))
	if n > maxMix || len(b) != requestLen+4*n {
		return r, errBody
	}
	r = Request{
		Op:    Op(b[0]),
		Lease: time.Duration(be.Uint32(b[32:])) * time.Microsecond,
		Wait:  time.Duration(be.Uint32(b[36:])) * time.Microsecond,
		Schedule: Schedule{
			Unit: Unit(b[1]), Burst: int(be.Uint32(b[4:])),
			Rate: math.Float64frombits(be.Uint64(b[8:])), To: math.Float64frombits(be.Uint64(b[16:])),
			Over: time.Duration(be.Uint64(b[24:])),
		},
		Sizes: Sizes{Min: int(be.Uint16(b[40:])), Max: int(be.Uint16(b[42:]))},
	}
	for i := range n {
		w := b[requestLen+4*i:]
		r.Sizes.Mix = append(r.Sizes.Mix, Weighted{int(be.Uint16(w)), int(be.Uint16(w[2:]))})
	}
	if r.Op < OpSend || r.Op > OpQuery {
		return r, fmt.Errorf("operation %d: want %d to %d", r.Op, OpSend, OpQuery)
	}
	if r.Op != OpSend {
		return r, nil
	}
	if r.Lease <= 0 || r.Lease > MaxLease {
		return r, fmt.Errorf("lease %v: want up to %v", r.Lease, MaxLease)
	}
	if r.Wait > r.Lease {
		return r, fmt.Errorf("wait %v is above the lease, %v", r.Wait, r.Lease)
	}
	if err := r.Schedule.Check(); err != nil {
		return r, err
	}
	return r, r.Sizes.Check()
}

// Report is the body of the far end's answer.
type Report struct {
	Sending                                    bool // there is more to come
	Sent, Received, Duplicated, Reordered, Old uint64
	Next                                       uint64 // highest number received, plus one
}

// Append appends the body to b: OpReport, 1 or 0 for Sending, six bytes of zero,
// and the counts in the order of the fields, eight bytes each.
func (r *Report) Append(b []byte) []byte {
	head := uint64(OpReport) << 56
	if r.Sending {
		head |= 1 << 48
	}
	b = be.AppendUint64(b, head)
	for _, n := range []uint64{r.Sent, r.Received, r.Duplicated, r.Reordered, r.Old, r.Next} {
		b = be.AppendUint64(b, n)
	}
	return b
}

// ParseReport reads the body of a report.
func ParseReport(b []byte) (r Report, err error) {
	if len(b) != reportLen {
		return r, errBody
	}
	head := be.Uint64(b)
	r.Sending = head == uint64(OpReport)<<56|1<<48
	if !r.Sending && head != uint64(OpReport)<<56 {
		return r, fmt.Errorf("report begins with %016x", head)
	}
	for i, p := range []*uint64{&r.Sent, &r.Received, &r.Duplicated, &r.Reordered, &r.Old, &r.Next} {
		*p = be.Uint64(b[8+8*i:])
	}
	if r.Received > r.Next {
		return r, fmt.Errorf("%d packets received with numbers below %d", r.Received, r.Next)
	}
	return r, nil
}

// PutControl makes b, StampLen + len(body) bytes, the payload of a packet with
// a body; f gets FlagControl.
func PutControl(b []byte, f *StampFields, body []byte) {
	copy(b[StampLen:], body)
	f.Flags |= FlagControl
	putStamp(b, f, checksum(body))
}
