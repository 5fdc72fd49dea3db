package multi

// The lane kernels in Go. Several streams in one loop body overlap, though the compiler keeps fewer
// of their variables in registers than one would wish.

// laneMaxGo is how many streams go together.
const laneMaxGo = 2

func laneScheduleGo(l *laneMem, s *[maxLanes][256]byte, n int) {
	i := 0
	for ; i+2 <= n; i += 2 {
		schedule2(&s[i], &s[i+1], &l.key[i], &l.key[i+1])
	}
	if i < n {
		schedule(&s[i], l.key[i][:])
	}
}

func schedule2(s, t *[256]byte, a, b *[16]byte) {
	for i := range s {
		s[i] = byte(i)
		t[i] = byte(i)
	}
	var j, k uint8
	for i := range s {
		x, y := s[i], t[i]
		j += x + a[i&15]
		k += y + b[i&15]
		s[i], t[i] = s[j], t[k]
		s[j], t[k] = x, y
	}
}

func laneStreamGo(l *laneMem, data *[maxLanes][]byte, n, blocks int) {
	i := 0
	for ; i+2 <= n; i += 2 {
		stream2(l, i, data[i][:16*blocks], data[i+1][:16*blocks])
	}
	if i < n {
		x, y := uint8(l.i[i]), uint8(l.j[i])
		xor(&l.s[i], &x, &y, data[i][:16*blocks], data[i][:16*blocks])
		l.i[i], l.j[i] = uint64(x), uint64(y)
	}
}

func stream2(l *laneMem, n int, a, b []byte) {
	s, t := &l.s[n], &l.s[n+1]
	i, j := uint8(l.i[n]), uint8(l.j[n])
	k, m := uint8(l.i[n+1]), uint8(l.j[n+1])
	b = b[:len(a)]
	for p := range a {
		i++
		k++
		x, y := s[i], t[k]
		j += x
		m += y
		u, v := s[j], t[m]
		s[i], t[k] = u, v
		s[j], t[m] = x, y
		a[p] ^= s[x+u]
		b[p] ^= t[y+v]
	}
	l.i[n], l.j[n] = uint64(i), uint64(j)
	l.i[n+1], l.j[n+1] = uint64(k), uint64(m)
}

// xor is RC4's output function.
func xor(s *[256]byte, pi, pj *uint8, dst, src []byte) {
	i, j := *pi, *pj
	dst = dst[:len(src)]
	for k, v := range src {
		i++
		x := s[i]
		j += x
		y := s[j]
		s[i], s[j] = y, x
		dst[k] = v ^ s[x+y]
	}
	*pi, *pj = i, j
}
