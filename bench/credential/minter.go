package credential

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// MinterConfig is what a minter is made of.
type MinterConfig struct {
	Key      crypto.Signer             // ECDSA on P-256, P-384 or P-521, or RSA of at least 2048 bits; required. See LoadKey
	KeyID    string                    // "kid" of the header; "" = none
	Issuer   string                    // "iss"; required
	Audience func(tenant int) []string // "aud"; required
	Subject  func(tenant int) string   // "sub"; nil = "bench"
	TTL      time.Duration             // from "iat" to "exp"; default 1h
}

// Minter makes JWTs. It is a Source.
type Minter struct {
	config MinterConfig
	signer jose.Signer
	tokens *cache
}

// NewMinter checks a configuration and returns a minter.
func NewMinter(c MinterConfig) (*Minter, error) {
	if c.TTL == 0 {
		c.TTL = time.Hour
	}
	if c.Subject == nil {
		c.Subject = func(int) string { return "bench" }
	}
	switch {
	case c.Issuer == "":
		return nil, errors.New("tokens need an issuer: name the one that the target trusts")
	case c.Audience == nil:
		return nil, errors.New("tokens need an audience: give one for each tenant, or all tenants would accept the same token")
	case c.TTL < time.Second:
		return nil, fmt.Errorf("tokens that live for %s are of no use: give them a second at least", c.TTL)
	}
	algorithm, err := algorithmOf(c.Key)
	if err != nil {
		return nil, err
	}
	opts := (&jose.SignerOptions{}).WithType("JWT")
	if c.KeyID != "" {
		opts = opts.WithHeader("kid", c.KeyID)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: c.Key}, opts)
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	return &Minter{config: c, signer: signer, tokens: newCache()}, nil
}

// Token returns a token for a tenant: the same one until shortly before its end.
func (m *Minter) Token(ctx context.Context, tenant int) (string, error) {
	return m.tokens.get(ctx, tenant, m.mint)
}

// mint makes a token.
func (m *Minter) mint(_ context.Context, tenant int) (token, error) {
	now := time.Now()
	ends := now.Add(m.config.TTL)
	text, err := jwt.Signed(m.signer).Claims(jwt.Claims{
		Issuer: m.config.Issuer, Subject: m.config.Subject(tenant), Audience: m.config.Audience(tenant),
		IssuedAt: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(ends),
	}).Serialize()
	if err != nil {
		return token{}, fmt.Errorf("sign a token: %w", err)
	}
	return token{text: text, renew: renewal(now, ends)}, nil
}

// algorithmOf returns how a key signs (RFC 7518 §3.1).
func algorithmOf(key crypto.Signer) (jose.SignatureAlgorithm, error) {
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		switch k.Params().BitSize {
		case 256:
			return jose.ES256, nil
		case 384:
			return jose.ES384, nil
		case 521:
			return jose.ES512, nil
		}
		return "", fmt.Errorf("there is no algorithm for tokens with curve %s: take a key on P-256", k.Params().Name)
	case *rsa.PrivateKey:
		if k.N.BitLen() < 2048 {
			return "", fmt.Errorf("an RSA key of %d bits is too short to be trusted: take one of 2048 at least", k.N.BitLen())
		}
		return jose.RS256, nil
	default:
		return "", fmt.Errorf("tokens are signed with an ECDSA or RSA key, not with %T", key)
	}
}

// LoadKey reads a private key from a PEM file: PKCS #8, SEC 1 (EC PRIVATE KEY) or PKCS #1 (RSA PRIVATE KEY). Other blocks before it are
// skipped.
func LoadKey(path string) (crypto.Signer, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		key, err := parseKey(block)
		if err != nil {
			return nil, fmt.Errorf("signing key %s: %w", path, err)
		}
		if key != nil {
			return key, nil
		}
	}
	return nil, fmt.Errorf("signing key %s: there is no private key in it: it should be PEM, PKCS #8, EC or RSA", path)
}

// parseKey returns the key in a block; nil = it holds something else.
func parseKey(block *pem.Block) (crypto.Signer, error) {
	var (
		key any
		err error
	)
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "ENCRYPTED PRIVATE KEY":
		return nil, errors.New("it is encrypted: decrypt it first (openssl pkcs8)")
	default:
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a %T does not sign", key)
	}
	_, err = algorithmOf(signer)
	return signer, err
}
