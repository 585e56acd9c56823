package credential

import (
	"crypto/x509"
	"errors"
)

// OIDCConfig is what a source of access tokens is made of.
type OIDCConfig struct {
	Issuer       string // https URL; its discovery document names the token endpoint
	ClientID     string
	ClientSecret string
	Scopes       []string
	Audience     func(tenant int) string // sent as "audience"; nil = not sent, and one token serves all tenants
	Roots        *x509.CertPool          // nil = the system's
}

// NewOIDC returns a source that gets tokens by the client credentials grant (RFC 6749 §4.4). It connects to nothing yet.
func NewOIDC(c OIDCConfig) (Source, error) { return nil, errors.New("not built yet") }
