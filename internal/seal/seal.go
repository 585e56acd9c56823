// Package seal keeps secrets unreadable at rest: a key-encryption key (KEK) from a file wraps one data key per tenant, and
// data keys seal values and tokens with AES-256-GCM, bound to a context such as tenant, kind and name, so that what was
// sealed for one place opens in no other. It does not decide which key serves whom, and stores nothing but the KEK file.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

// KeySize is the size of every key, in bytes.
const KeySize = 32

// Bounds of tokens, which come back from clients and are opened before anything is known of them.
const (
	MaxToken      = 4096                              // bytes of a token's text
	MaxTokenPlain = MaxToken*3/4 - 1 - nonceSize - 16 // bytes that fit into such a token
	MaxEnvelope   = 16 << 10                          // bytes of an envelope
	nonceSize     = 12                                // of AES-GCM: 96 random bits; fewer than 2^32 values under one key
	version       = byte(1)                           // first byte of sealed values and tokens
	minSealed     = 1 + nonceSize + 16                // version, nonce, tag
)

// The domains keep the three uses of a key apart: a sealed value is no token, a token no sealed value.
const (
	domainWrap  = "polygate/wrap/v1"
	domainValue = "polygate/value/v1"
	domainToken = "polygate/token/v1" //nolint:gosec // a name for a use of keys, no key
	domainKey   = "polygate/derive/v1/"
)

// ErrOpen is the answer to whatever does not open: altered bytes, another key, another context. Which of them it was cannot
// be told, and must not be.
var ErrOpen = errors.New("seal: does not open: altered, or sealed with another key or for another place")

// Wrapper wraps data keys. *KEK is one; a key management service could be another.
type Wrapper interface {
	// Wrap seals a small secret into an envelope that opens only with the same context.
	Wrap(secret []byte, context ...string) (envelope []byte, err error)
	// Unwrap opens an envelope; the error is ErrOpen, or a *WrongKEKError when another key made it.
	Unwrap(envelope []byte, context ...string) (secret []byte, err error)
}

// DataKey seals values and tokens. It is immutable, and safe for concurrent use.
type DataKey struct {
	key  [KeySize]byte
	aead cipher.AEAD
}

// NewDataKey returns a new random key.
func NewDataKey() *DataKey {
	var k [KeySize]byte
	rand.Read(k[:]) // never fails (crypto/rand)
	return dataKey(k)
}

// DataKeyFrom returns the key with these bytes, which are copied.
func DataKeyFrom(b []byte) (*DataKey, error) {
	if len(b) != KeySize {
		return nil, fmt.Errorf("seal: data key of %d bytes: want %d", len(b), KeySize)
	}
	return dataKey([KeySize]byte(b)), nil
}

func dataKey(k [KeySize]byte) *DataKey {
	return &DataKey{key: k, aead: newAEAD(k[:])}
}

// newAEAD returns AES-256-GCM that draws a random nonce for each Seal and puts it before the ciphertext, so that no
// caller can repeat one.
func newAEAD(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic("seal: " + err.Error()) // only for a key of the wrong size, which the types exclude
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic("seal: " + err.Error()) // only for a block that is not AES
	}
	return aead
}

// Bytes returns a copy of the key, to be wrapped.
func (d *DataKey) Bytes() []byte { return append([]byte(nil), d.key[:]...) }

// Derive returns the key for one purpose (HKDF-SHA256, RFC 5869). Keys of different purposes tell nothing of each other.
func (d *DataKey) Derive(purpose string) *DataKey {
	k, err := hkdf.Key(sha256.New, d.key[:], nil, domainKey+purpose, KeySize)
	if err != nil {
		panic("seal: " + err.Error()) // only for an output longer than 255 hashes
	}
	return dataKey([KeySize]byte(k))
}

// Seal encrypts plain and binds it to context: version byte, nonce, ciphertext. The error is always nil; it is there
// for implementations that ask a service.
func (d *DataKey) Seal(plain []byte, context ...string) ([]byte, error) {
	return d.seal(plain, domainValue, context), nil
}

// Open decrypts what Seal made with the same context. The error is ErrOpen.
func (d *DataKey) Open(sealed []byte, context ...string) ([]byte, error) {
	return d.open(sealed, domainValue, context)
}

// SealToken encrypts plain into base64url text that a client may hold, such as a session id or a cursor. plain is at
// most MaxTokenPlain bytes: a longer one makes a token that OpenToken refuses.
func (d *DataKey) SealToken(plain []byte, context ...string) string {
	return base64.RawURLEncoding.EncodeToString(d.seal(plain, domainToken, context))
}

// OpenToken decrypts a token that SealToken made with the same context. The error is ErrOpen, for whatever else comes in.
// Each token has exactly one text: line breaks and loose trailing bits, which base64 decoders let pass, are refused.
func (d *DataKey) OpenToken(token string, context ...string) ([]byte, error) {
	if len(token) > MaxToken || strings.ContainsAny(token, "\r\n") {
		return nil, ErrOpen
	}
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil {
		return nil, ErrOpen
	}
	return d.open(sealed, domainToken, context)
}

func (d *DataKey) seal(plain []byte, domain string, context []string) []byte {
	out := make([]byte, 1, minSealed+len(plain))
	out[0] = version
	return d.aead.Seal(out, nil, plain, bind(domain, context))
}

func (d *DataKey) open(sealed []byte, domain string, context []string) ([]byte, error) {
	if len(sealed) < minSealed || sealed[0] != version {
		return nil, ErrOpen
	}
	plain, err := d.aead.Open(nil, nil, sealed[1:], bind(domain, context))
	if err != nil {
		return nil, ErrOpen
	}
	return plain, nil
}

// bind makes the additional data. Each part is preceded by its length, or ("a", "bc") would open what ("ab", "c") sealed.
func bind(domain string, context []string) []byte {
	n := 4 + len(domain)
	for _, c := range context {
		n += 4 + len(c)
	}
	b := make([]byte, 0, n)
	b = append(binary.BigEndian.AppendUint32(b, uint32(len(domain))), domain...)
	for _, c := range context {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(c))), c...)
	}
	return b
}

// String keeps the key out of logs and messages, as do GoString and LogValue.
func (d *DataKey) String() string { return "seal.DataKey(hidden)" }

// GoString implements fmt.GoStringer.
func (d *DataKey) GoString() string { return d.String() }

// LogValue implements slog.LogValuer.
func (d *DataKey) LogValue() slog.Value { return slog.StringValue(d.String()) }
