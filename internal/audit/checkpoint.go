package audit

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// CheckpointChain is the chain of the checkpoints. Like PlatformChain it is no tenant id.
const CheckpointChain = "_checkpoint"

// Signer signs checkpoints with Ed25519.
type Signer interface {
	Sign(message []byte) ([]byte, error)
	KeyID() string
	Public() ed25519.PublicKey
}

// NewSigner returns a Signer with the key made from a seed of 32 bytes.
func NewSigner(seed []byte) (Signer, error) {
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("audit: the seed of the signing key has %d bytes: make one of %d", len(seed), ed25519.SeedSize)
	}
	return seedSigner(ed25519.NewKeyFromSeed(seed)), nil
}

type seedSigner ed25519.PrivateKey

func (s seedSigner) Sign(message []byte) ([]byte, error) {
	return ed25519.Sign(ed25519.PrivateKey(s), message), nil
}

func (s seedSigner) KeyID() string { return KeyID(s.Public()) }

func (s seedSigner) Public() ed25519.PublicKey {
	return ed25519.PrivateKey(s).Public().(ed25519.PublicKey)
}

// KeyID returns the name of a public key: the first 16 hex digits of its SHA-256.
func KeyID(key ed25519.PublicKey) string {
	h := sha256.Sum256(key)
	return hex.EncodeToString(h[:8])
}
