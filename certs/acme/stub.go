package acme

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/polygate/polygate/internal/tenant"
)

// Obtain orders a certificate and returns its chain as PEM, leaf first.
func (e *Engine) Obtain(ctx context.Context, o Order) (chainPEM []byte, err error) {
	return nil, &Error{Code: CodeInternal, Detail: "not built"}
}

// Revoke revokes the leaf of a chain with the account's key.
func (e *Engine) Revoke(ctx context.Context, account tenant.ACME, accounts certmagic.Storage, chainPEM []byte, reason int) error {
	return &Error{Code: CodeInternal, Detail: "not built"}
}

// RenewalInfo asks when a certificate should be renewed (RFC 9773).
func (e *Engine) RenewalInfo(ctx context.Context, account tenant.ACME, leaf *x509.Certificate) (start, end, pollAgain time.Time, err error) {
	return start, end, pollAgain, &Error{Code: CodeInternal, Detail: "not built"}
}

// ChallengeCertificate returns the certificate that answers an acme-tls/1 handshake for host.
func (e *Engine) ChallengeCertificate(ctx context.Context, tokens certmagic.Storage, host string) (*tls.Certificate, error) {
	return nil, &Error{Code: CodeInternal, Detail: "not built"}
}

// HTTPChallenge answers requests below /.well-known/acme-challenge/.
func (e *Engine) HTTPChallenge(tokens func(host string) (certmagic.Storage, bool), w http.ResponseWriter, r *http.Request) {
	http.NotFound(w, r)
}
