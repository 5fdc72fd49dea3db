package main

const (
	maxLanes  = 5
	group     = 8           // lanes in a group
	groupSize = 256 * group // bytes of a group's S-boxes
	groupKey  = 16 * group  // bytes of a group's keys
	groupOut  = 256 * group // bytes of a group's keystream
	maxGroups = 8
)

var lane, row map[string]int

func layouts() {
	lane = layout("laneMem", "is what the lane kernels work on. It stands on a multiple of 256.", []field{
		{"s", "[5][256]byte", 5 * 256, "S-boxes"},
		{"key", "[5][16]byte", 5 * 16, "keys; a shorter one is repeated to 16 bytes"},
		{"i", "[5]uint64", 5 * 8, "RC4's i, a multiple of 16"},
		{"j", "[5]uint64", 5 * 8, "RC4's j"},
	})
	row = layout("rowMem", "is what the row kernels work on. It stands on a multiple of 64.", []field{
		{"s", "[8][256][8]byte", maxGroups * groupSize, "S-boxes: group, index, lane"},
		{"key", "[8][16][8]byte", maxGroups * groupKey, "keys: group, byte, lane"},
		{"out", "[8][256][8]byte", maxGroups * groupOut, "keystream: group, byte, lane"},
		{"j", "[8][8]byte", maxGroups * group, "RC4's j: group, lane"},
	})
}
