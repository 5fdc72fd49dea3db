package mppc_test

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"xpptp/engine"
	"xpptp/engine/mppc"
)

// The two ends of a call without MPPE: the header is the bits and the coherency
// count, what follows is compressed or not.
func Example() {
	var (
		tx   mppc.Tx
		rx   mppc.Rx
		room [1500]byte
		next uint16 // the count that the receiver expects
	)
	packet := append([]byte{0x00, 0x21, 0x45}, bytes.Repeat([]byte("so much to say "), 20)...)
	for count := range uint16(3) {
		// The sender.
		body, bits := tx.Compress(room[:], packet)
		wire := binary.BigEndian.AppendUint16(nil, uint16(bits)|count)
		wire = append(wire, body...)
		fmt.Printf("%d bytes as %d, header %x\n", len(packet), len(wire), wire[:2])

		// The receiver.
		header := binary.BigEndian.Uint16(wire)
		if header&0x0fff != next {
			rx.Lost() // and a Reset-Request goes out
		}
		got, drop := rx.Decompress(room[:], wire[2:], mppc.Bits(header&0xf000))
		if drop != engine.Pass {
			fmt.Println(drop)
			continue
		}
		rx.Commit(got, mppc.Bits(header&0xf000))
		next = (header + 1) & 0x0fff
		fmt.Println("received:", bytes.Equal(got, packet))
	}
	// Output:
	// 303 bytes as 24, header e000
	// received: true
	// 303 bytes as 6, header 2001
	// received: true
	// 303 bytes as 6, header 2002
	// received: true
}
