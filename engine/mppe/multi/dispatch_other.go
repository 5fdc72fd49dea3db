//go:build !amd64 || noasm

package multi

var tuning = [numWays]tune{Portable: {rowMin: noRows, laneMax: laneMaxGo}}

func (w Way) usable() bool { return w == Portable }

func (c *Cipher) hash(m *shaMessage, k *KeyState, out *[16]byte) { hashGo(m, k, out) }

func (c *Cipher) laneSchedule(n int, s *[maxLanes][256]byte) { laneScheduleGo(&c.lane, s, n) }

func (c *Cipher) laneStream(n, blocks int) { laneStreamGo(&c.lane, &c.data, n, blocks) }

// There are no rows here: batchSize never asks for them.
func (c *Cipher) hashWords(int)         {}
func (c *Cipher) rowRekey(int)          {}
func (c *Cipher) rowSchedule(int)       {}
func (c *Cipher) rowStream(_, _, _ int) {}
func (c *Cipher) rowXor(_, _, _ int)    {}
func (c *Cipher) rowSplit(int)          {}
