package session

// Rate polices what a call carries in one direction: a token bucket over the
// bytes of inside packets. The zero value lets everything pass.
type Rate struct {
	bits uint64 // per second; 0: no limit
	full int64  // when the bucket was, or will be, full, in nanoseconds
}

// A bucket holds what the rate gives in rateBurst, and at least rateLeast bytes,
// which are two packets of the largest size.
const (
	rateBurst = int64(200e6)
	rateLeast = 2 * 3700
)

const second = int64(1e9)

// Set sets the limit in bits per second, 0 for none. The bucket is as full as
// it was.
func (r *Rate) Set(bits uint64) { r.bits = min(bits, 1<<50) }

// Bits is the limit.
func (r *Rate) Bits() uint64 { return r.bits }

// Take takes n bytes, at most 65,535, and reports whether they were there.
func (r *Rate) Take(now int64, n int) bool {
	if r.bits == 0 {
		return true
	}
	full := max(r.full, now) + r.cost(n)
	if full-now > max(rateBurst, r.cost(rateLeast)) {
		return false
	}
	r.full = full
	return true
}

// cost is the time in which the rate gives n bytes.
func (r *Rate) cost(n int) int64 { return int64(uint64(n) * 8 * uint64(second) / r.bits) }
