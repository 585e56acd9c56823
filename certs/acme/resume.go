package acme

import (
	"context"
	"crypto/x509"
	"errors"
	"net/http"
	"time"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
)

// telling is the source of a certificate request, which the library asks for once all challenges are met and nothing is issued
// yet: the moment to write down which order it is.
type telling struct {
	acmez.CSRSource
	tell func(ctx context.Context) error
}

// CSR implements acmez.CSRSource.
func (s telling) CSR(ctx context.Context, ids []acme.Identifier) (*x509.CertificateRequest, error) {
	if err := s.tell(ctx); err != nil {
		return nil, err
	}
	return s.CSRSource.CSR(ctx, ids)
}

// resumePause is between two looks at an order that the server still works on.
const resumePause = time.Second

// resume finishes an order that was begun before. It returns neither chains nor an error if the server has none by this URL, or
// it has failed: a new one is to be placed.
func (c *call) resume(ctx context.Context, o Order, params acmez.OrderParameters) ([]acme.Certificate, error) {
	account, err := c.ensureAccount(ctx, o.Accounts, "")
	if err != nil {
		return nil, err
	}
	for {
		order, err := c.client.GetOrder(ctx, account, acme.Order{Location: o.Resume})
		if err != nil {
			return nil, unlessGone(err)
		}
		switch order.Status {
		case acme.StatusValid:
			chains, err := c.client.GetCertificateChain(ctx, account, order.Certificate)
			return chains, unlessGone(err)
		case acme.StatusReady:
			csr, err := params.CSR.CSR(ctx, params.Identifiers)
			if err != nil {
				return nil, err
			}
			order.Location = o.Resume
			if order, err = c.client.FinalizeOrder(ctx, account, order, csr.Raw); err != nil {
				return nil, unlessGone(err)
			}
			chains, err := c.client.GetCertificateChain(ctx, account, order.Certificate)
			return chains, unlessGone(err)
		case acme.StatusProcessing:
		default: // pending: its challenges are gone with whoever set them; invalid
			return nil, nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(resumePause):
		}
	}
}

// unlessGone returns err, or nil where it says that the server does not know the order, or will not go on with it.
func unlessGone(err error) error {
	var p acme.Problem
	if errors.As(err, &p) && p.Status >= 400 && p.Status < 500 && p.Status != http.StatusTooManyRequests && p.Type != acme.ProblemTypeBadNonce {
		return nil
	}
	return err
}
