package aead

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"
)

// Suite is an algorithm; its number is part of the additional data.
type Suite uint8

// The suites.
const (
	AES256GCM        Suite = 1 // NIST SP 800-38D
	ChaCha20Poly1305 Suite = 2 // RFC 8439
)

// Suites are all suites.
func Suites() []Suite { return []Suite{AES256GCM, ChaCha20Poly1305} }

// String returns "aes-256-gcm" or "chacha20-poly1305".
func (s Suite) String() string {
	switch s {
	case AES256GCM:
		return "aes-256-gcm"
	case ChaCha20Poly1305:
		return "chacha20-poly1305"
	}
	return "unknown"
}

// ParseSuite is the suite of that name.
func ParseSuite(name string) (Suite, error) {
	for _, s := range Suites() {
		if s.String() == name {
			return s, nil
		}
	}
	return 0, fmt.Errorf("suite %q: want one of %v", name, Suites())
}

// Role is an end of the call, as in authentication: the client proves who it
// is to the server.
type Role uint8

// The ends.
const (
	Client Role = 1 + iota
	Server
)

// peer is the other end.
func (r Role) peer() Role { return Client + Server - r }

// String returns "client" or "server".
func (r Role) String() string {
	switch r {
	case Client:
		return "client"
	case Server:
		return "server"
	}
	return "unknown"
}

const (
	epochBits = 23 // an epoch is 2^23 packets
	keyLen    = 32
	nonceLen  = 12
	minMaster = 32
)

// chain is the secret of one epoch of one direction. step moves it to the next.
type chain struct {
	suite  Suite
	secret [32]byte
}

func newChain(p *Params, sender Role) (chain, error) {
	c := chain{suite: p.Suite}
	if p.Suite != AES256GCM && p.Suite != ChaCha20Poly1305 {
		return c, fmt.Errorf("aead: suite %d: want %d or %d", p.Suite, AES256GCM, ChaCha20Poly1305)
	}
	if p.Role != Client && p.Role != Server {
		return c, fmt.Errorf("aead: role %d: want %d (client) or %d (server)", p.Role, Client, Server)
	}
	if len(p.Master) < minMaster {
		return c, fmt.Errorf("aead: master secret of %d bytes: want %d or more", len(p.Master), minMaster)
	}
	prk, err := hkdf.Extract(sha256.New, p.Master, p.Context)
	if err != nil {
		return c, fmt.Errorf("aead: %w", err)
	}
	copy(c.secret[:], expand(prk, "xpptp aead 1 "+p.Suite.String()+" "+sender.String(), len(c.secret)))
	return c, nil
}

// step moves the chain to the next epoch.
func (c *chain) step() { copy(c.secret[:], expand(c.secret[:], "update", len(c.secret))) }

// key derives what protects the packets of the epoch. It allocates.
func (c *chain) key() *key {
	k := &key{ad: [4]byte{0x00, 0xfd, 1, byte(c.suite)}}
	copy(k.iv[:], expand(c.secret[:], "iv", nonceLen))
	secret := expand(c.secret[:], "key", keyLen)
	var err error
	if c.suite == AES256GCM {
		var block cipher.Block
		if block, err = aes.NewCipher(secret); err == nil {
			k.aead, err = cipher.NewGCM(block)
		}
	} else {
		k.aead, err = chacha20poly1305.New(secret)
	}
	if err != nil {
		panic(err) // for the length of a key only, and that is right
	}
	return k
}

// expand is HKDF-Expand. n is at most 32, and prk at least that long.
func expand(prk []byte, info string, n int) []byte {
	b, err := hkdf.Expand(sha256.New, prk, info, n)
	if err != nil {
		panic(err) // for an n beyond 255 hashes only
	}
	return b
}

// key protects the packets of one epoch.
type key struct {
	aead cipher.AEAD
	iv   [nonceLen]byte
	ad   [4]byte
}

// nonce writes the nonce of packet number n to b.
func (k *key) nonce(b *[nonceLen]byte, n uint64) {
	*b = k.iv
	binary.BigEndian.PutUint64(b[4:], binary.BigEndian.Uint64(b[4:])^n)
}
