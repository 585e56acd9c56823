package credential

import (
	"crypto/ecdsa"
	"errors"
)

// Issuer is a small OpenID provider for a laboratory.
type Issuer struct{}

// StartIssuer starts a provider on a loopback address ("127.0.0.1:0" = any port): discovery, keys (JWKS) and a token endpoint for the
// client credentials grant, with a certificate of its own authority. Its files go to dir.
func StartIssuer(dir, listen string) (*Issuer, error) { return nil, errors.New("not built yet") }

// URL returns the issuer's identifier, an https URL.
func (i *Issuer) URL() string { return "" }

// CAFile returns the path of the authority that signed its certificate, as PEM.
func (i *Issuer) CAFile() string { return "" }

// Key returns the public key of its tokens.
func (i *Issuer) Key() *ecdsa.PublicKey { return nil }

// KeyFile returns the path of that key as PEM (PKIX).
func (i *Issuer) KeyFile() string { return "" }

// Client returns the identifier and the secret of its one client.
func (i *Issuer) Client() (id, secret string) { return "", "" }

// Minter returns a source of tokens as the issuer signs them, without asking it. audience and subject are by tenant; a nil subject is "bench".
func (i *Issuer) Minter(audience func(tenant int) []string, subject func(tenant int) string) (*Minter, error) {
	return nil, errors.New("not built yet")
}

// Close ends it.
func (i *Issuer) Close() error { return nil }
