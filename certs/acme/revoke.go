package acme

import (
	"context"
	"crypto/x509"
	"errors"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"

	"github.com/polygate/polygate/internal/tenant"
)

// Revoke revokes the leaf of a chain with the account that ordered it. The reason is one of RFC 5280 §5.3.1. A certificate
// that is revoked already is no error.
func (e *Engine) Revoke(ctx context.Context, account tenant.ACME, accounts certmagic.Storage, chainPEM []byte, reason int) error {
	list, err := parseChain(chainPEM)
	if err != nil {
		return &Error{Code: CodeInternal, Permanent: true, Detail: "the certificate to be revoked cannot be read", Err: err}
	}
	if reason < acme.ReasonUnspecified || reason > acme.ReasonAACompromise || reason == 7 {
		return &Error{Code: CodeUnsupported, Permanent: true, Detail: "there is no such reason for a revocation: use 0 (unspecified), 1 (key compromised), 4 (superseded) or 5 (no longer used)"}
	}
	ctx, cancel := context.WithTimeout(ctx, e.cfg.OrderTime)
	defer cancel()
	c, err := e.begin(ctx, account, false)
	if err != nil {
		return err
	}
	defer c.close()
	return c.classify(ctx, c.revoke(ctx, accounts, list[0], reason))
}

func (c *call) revoke(ctx context.Context, accounts certmagic.Storage, leaf *x509.Certificate, reason int) error {
	a, found, err := c.loadAccount(ctx, accounts)
	if err != nil {
		return err
	}
	if !found || a.Location == "" {
		return &Error{Code: CodeAccount, Permanent: true, Detail: "there is no account at " + c.where() + " that could revoke: the certificate was ordered under another directory, email or external account"}
	}
	_, err = retryNonces(func() (struct{}, error) {
		return struct{}{}, c.client.RevokeCertificate(ctx, a, leaf, nil, reason)
	})
	if isProblem(err, acme.ProblemTypeAlreadyRevoked) {
		return nil
	}
	return err
}

// RenewalInfo asks the server when a certificate should be renewed, and when to ask again (RFC 9773). It is CodeUnsupported
// if the server does not say.
func (e *Engine) RenewalInfo(ctx context.Context, account tenant.ACME, leaf *x509.Certificate) (start, end, pollAgain time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.OrderTime)
	defer cancel()
	c, err := e.begin(ctx, account, true)
	if err != nil {
		return start, end, pollAgain, err
	}
	defer c.close()
	if c.dir.RenewalInfo == "" || len(leaf.AuthorityKeyId) == 0 {
		return start, end, pollAgain, &Error{Code: CodeUnsupported, Detail: c.where() + " does not say when to renew: a third of the life left is used"}
	}
	ari, err := c.client.GetRenewalInfo(ctx, leaf)
	if errors.Is(err, acme.ErrUnsupported) {
		return start, end, pollAgain, &Error{Code: CodeUnsupported, Detail: c.where() + " does not say when to renew: a third of the life left is used"}
	}
	if err != nil {
		return start, end, pollAgain, c.classify(ctx, err)
	}
	w := ari.SuggestedWindow
	return w.Start, w.End, clampPoll(ari.RetryAfter, e.cfg.Now()), nil
}
