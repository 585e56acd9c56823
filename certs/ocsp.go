package certs

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/polygate/polygate/certs/keep"
	"github.com/polygate/polygate/internal/tenant"
)

const (
	ocspTimeout = 10 * time.Second
	maxOCSP     = 8 << 10         // bytes of an answer; the key in it, by which the library verifies it, is the responder's choice and the dearer the longer
	ocspSkew    = 5 * time.Minute // between the responder's clock and ours
	ocspRetry   = time.Hour       // after a responder that failed
	ocspLeast   = 15 * time.Minute
	ocspMost    = 7 * 24 * time.Hour // after an answer without an end
)

// offersOCSP says whether an answer for the leaf can be asked for: its issuer is needed, to ask and to check.
func offersOCSP(chain []*x509.Certificate) bool {
	return len(chain) > 1 && len(chain[0].OCSPServer) > 0
}

// newOCSPClient returns the client for responders, which certificates that people bring may name: the dialer decides where it
// may go, and it follows nobody.
func newOCSPClient(cfg *Config) *http.Client {
	return &http.Client{
		Timeout:       ocspTimeout,
		Transport:     &http.Transport{DialContext: cfg.DialContext, DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10, ResponseHeaderTimeout: ocspTimeout},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// staple fetches the answer of a certificate's responder into its record and says when the next one is fetched. A good one is
// kept to its end if the responder fails. What is revoked is ordered anew, as far as an order may be.
func (m *Manager) staple(ctx context.Context, h *keep.Host, now time.Time) {
	h.OCSPAt = now.Add(ocspRetry + rand.N(ocspRetry/4)) //nolint:gosec // spreads load
	raw, res, err := m.askOCSP(ctx, h.Chain, now)
	if err != nil {
		m.cfg.Logger.Info("no OCSP answer to staple; it is tried again", "host", h.Host, "at", h.OCSPAt, "error", err)
		return
	}
	switch res.Status {
	case ocsp.Good:
		h.OCSP, h.OCSPUntil = raw, res.NextUpdate.UTC()
		if h.OCSPUntil.IsZero() {
			h.OCSPUntil = now.Add(ocspMost).UTC()
		}
		h.OCSPAt = now.Add(max(ocspLeast, h.OCSPUntil.Sub(now)/2))
	case ocsp.Revoked:
		h.OCSP, h.OCSPUntil = nil, time.Time{}
		h.Order.Forced = h.Order.Forced || h.Source == tenant.SourceACME
		m.cfg.Logger.Error("the issuer revoked a certificate that is served", "host", h.Host, "serial", h.Serial, "source", h.Source)
	default:
		m.cfg.Logger.Warn("the OCSP responder does not know a certificate that is served", "host", h.Host, "serial", h.Serial)
	}
}

// askOCSP asks the first responder that the leaf names, and checks its answer.
func (m *Manager) askOCSP(ctx context.Context, chainPEM []byte, now time.Time) ([]byte, *ocsp.Response, error) {
	chain, err := parseChain(chainPEM)
	if err != nil || !offersOCSP(chain) {
		return nil, nil, errors.Join(errors.New("the certificate names no responder, or the chain no issuer"), err)
	}
	req, err := ocsp.CreateRequest(chain[0], chain[1], nil)
	if err != nil {
		return nil, nil, fmt.Errorf("make the request: %w", err)
	}
	raw, err := m.postOCSP(ctx, chain[0].OCSPServer[0], req)
	if err != nil {
		return nil, nil, err
	}
	res, err := ocsp.ParseResponseForCert(raw, chain[0], chain[1])
	if err != nil {
		return nil, nil, fmt.Errorf("the responder's answer: %w", err)
	}
	if now.Add(ocspSkew).Before(res.ThisUpdate) || !res.NextUpdate.IsZero() && !now.Before(res.NextUpdate) {
		return nil, nil, fmt.Errorf("the responder's answer is for %s to %s, and it is %s here: check the clock", day(res.ThisUpdate), day(res.NextUpdate), day(now))
	}
	return raw, res, nil
}

func (m *Manager) postOCSP(ctx context.Context, server string, body []byte) ([]byte, error) {
	if u, err := url.Parse(server); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("the responder %.100q is no http URL", server)
	}
	ctx, cancel := context.WithTimeout(ctx, ocspTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, server, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("ask the responder: %w", err)
	}
	req.Header.Set("Content-Type", "application/ocsp-request")
	res, err := m.ocsp.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the responder: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the responder answers %s", res.Status)
	}
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxOCSP+1))
	if err == nil && len(raw) > maxOCSP {
		err = fmt.Errorf("more than %d bytes", maxOCSP)
	}
	return raw, err
}
