// Package aead protects the packets of a call between two xpptp with
// authenticated encryption: AES-256-GCM or ChaCha20-Poly1305 in place of MPPE.
// One direction of one call is a Tx or an Rx, and an Engine, one per worker,
// seals and opens many packets of many calls at once, as in package mppe.
//
// # Wire format
//
// A protected packet is what follows PPP protocol 00FD, where MPPE would stand
// (RFC 3078 §3). All numbers are big endian.
//
//	0                4                              n-16             n
//	+----------------+------------------------------+----------------+
//	| counter, low   | ciphertext of PPP protocol   | tag            |
//	| 32 bits        | and payload                  |                |
//	+----------------+------------------------------+----------------+
//
// Packets of a direction are numbered from 0 with 64 bits; the lower 32 travel.
// The receiver takes the number that is nearest to the one it waits for and
// ends in these 32 bits (RFC 9000 appendix A.3, RFC 4303 appendix A2).
//
//	nonce            iv of the epoch XOR (0 in 32 bits | number in 64 bits)
//	additional data  00 FD | version 01 | suite: 01 AES-256-GCM, 02 ChaCha20-Poly1305
//
// So what PPP calls the packet, and how it is protected, is authentic with it;
// the number is in the nonce.
//
// # Keys
//
// An epoch is 2^23 packets: its number is the packet number shifted right by 23.
// Both ends change keys where the numbers do, so no message is needed, a key
// protects fewer packets than AES-GCM may with one (RFC 8446 §5.5), and the
// wire's 32 bits cannot come round under one key. All is HKDF with SHA-256 (RFC
// 5869), from a master secret and a context that both ends know:
//
//	prk      = Extract(salt = context, master)
//	secret 0 = Expand(prk, "xpptp aead 1 " suite " " sender, 32)
//	key n    = Expand(secret n, "key", 32)
//	iv n     = Expand(secret n, "iv", 12)
//	secret n+1 = Expand(secret n, "update", 32)
//
// with suite "aes-256-gcm" or "chacha20-poly1305" and sender "client" or
// "server". Older secrets are forgotten, so packets recorded before stay closed
// to who takes the box later, once the master secret is gone.
//
// testdata/vectors.json holds examples, made by another implementation.
//
// # What a receiver takes
//
// It opens packets in any order, each once, as far as Window behind the highest
// number; the bitmap is that of RFC 6479. Nothing is kept of a packet that is
// not authentic. The keys of the epoch before and of the one after are at hand.
// A packet further ahead, after the loss of a whole epoch, costs the derivation
// of its key before it can be believed, so only a few a second are tried.
package aead
