package authn

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"log/slog"
	"strings"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// Bounds of sealed secrets.
const (
	sealedPrefix = "pgs1."
	maxSecret    = 1024 // bytes of a secret
	maxSealed    = len(sealedPrefix) + (sivSize+maxSecret+tagSize)*4/3 + 4
	sivSize      = 12 // of AES-GCM's nonce
	tagSize      = 16
)

// Secrets seals the secrets of authenticators, such as an OpenID Connect client's, for the routing record. It is
// deterministic: the same secret of the same place is the same text, so that applying an unchanged file again changes
// nothing. Whoever reads the records can therefore tell that a secret has not changed, or is back; nothing more, and nothing
// across places. It is immutable, and safe for concurrent use.
type Secrets struct {
	mac  []byte
	aead cipher.AEAD
}

// NewSecrets returns the sealer of a platform's secret.
func NewSecrets(platformSecret []byte) (*Secrets, error) {
	if len(platformSecret) < 16 {
		return nil, fault.New(fault.Internal, "the platform's secret has %d bytes: at least 16 are needed to seal with it", len(platformSecret))
	}
	mac, err := hkdf.Key(sha256.New, platformSecret, nil, "polygate/authn/secrets/v1/siv", 32)
	if err != nil {
		return nil, err
	}
	key, err := hkdf.Key(sha256.New, platformSecret, nil, "polygate/authn/secrets/v1/key", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return &Secrets{mac: mac, aead: aead}, nil
}

// Seal returns a secret as it is stored: readable by Open for the same tenant and authenticator alone. The empty secret, of
// a public client, stays empty. The caller bounds secrets (CheckSecret).
func (s *Secrets) Seal(id tenant.ID, authenticator, plain string) string {
	if plain == "" {
		return ""
	}
	place := place(id, authenticator)
	nonce := s.siv(place, plain)
	return sealedPrefix + base64.RawURLEncoding.EncodeToString(s.aead.Seal(nonce, nonce, []byte(plain), place))
}

// Open returns the secret that Seal sealed for this place. The error is a fault.Internal: what is stored was altered, or
// sealed with the secret of another platform.
func (s *Secrets) Open(id tenant.ID, authenticator, sealed string) (string, error) {
	if sealed == "" {
		return "", nil
	}
	text, ok := strings.CutPrefix(sealed, sealedPrefix)
	if !ok || len(sealed) > maxSealed || strings.ContainsAny(text, "\r\n") {
		return "", errSealed(authenticator)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) < sivSize+tagSize {
		return "", errSealed(authenticator)
	}
	place := place(id, authenticator)
	plain, err := s.aead.Open(nil, b[:sivSize], b[sivSize:], place)
	if err != nil || !hmac.Equal(s.siv(place, string(plain)), b[:sivSize]) {
		return "", errSealed(authenticator)
	}
	return string(plain), nil
}

// CheckSecret checks a secret as it comes from the API or a file. The error never holds any of it.
func CheckSecret(field, plain string) error {
	if len(plain) > maxSecret {
		return fault.New(fault.Invalid, "%s has %d bytes: at most %d are allowed", field, len(plain), maxSecret)
	}
	if strings.ContainsFunc(plain, func(c rune) bool { return c < 0x20 || c == 0x7f }) {
		return fault.New(fault.Invalid, "%s holds a control character: was a line end copied with it?", field)
	}
	return nil
}

func errSealed(authenticator string) error {
	return fault.New(fault.Internal, "the client secret of authenticator %q does not open: set it again", authenticator)
}

// siv makes the nonce from all that is sealed (as in RFC 8452 and RFC 5297), so that two different secrets do not share one
// but by the chance of 2^-48 after as many as 2^24 of them.
func (s *Secrets) siv(place []byte, plain string) []byte {
	h := hmac.New(sha256.New, s.mac)
	h.Write(place)
	h.Write([]byte(plain))
	return h.Sum(nil)[:sivSize]
}

// place is what a secret is bound to. The lengths keep ("a", "bc") from being ("ab", "c").
func place(id tenant.ID, authenticator string) []byte {
	var b []byte
	for _, part := range [...]string{string(id), authenticator} {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(part))), part...)
	}
	return b
}

// String keeps the keys out of logs and messages, as do GoString and LogValue.
func (s *Secrets) String() string { return "authn.Secrets(hidden)" }

// GoString implements fmt.GoStringer.
func (s *Secrets) GoString() string { return s.String() }

// LogValue implements slog.LogValuer.
func (s *Secrets) LogValue() slog.Value { return slog.StringValue(s.String()) }
