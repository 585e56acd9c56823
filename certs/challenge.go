package certs

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/polygate/polygate/internal/tenant"
)

// challengeTimeout bounds the answer to one challenge.
const challengeTimeout = 5 * time.Second

// challenge answers a tls-alpn-01 challenge (RFC 8737) that any replica began. Each costs a read, so that only so many are
// answered at once: whoever knows a host can ask.
func (m *Manager) challenge(hello *tls.ClientHelloInfo, host string, e *tenant.Entry) (cert *tls.Certificate, err error) {
	defer caught(&err)
	p := m.cfg.planFor(host, e)
	if m.cfg.ACME == nil || m.cfg.Keeper == nil || !p.ordered {
		return nil, ErrNoChallenge
	}
	select {
	case m.challenges <- struct{}{}:
		defer func() { <-m.challenges }()
	default:
		return nil, fmt.Errorf("%w: too many are asked for at once", ErrNoChallenge)
	}
	ctx := hello.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, challengeTimeout)
	defer cancel()
	if cert, err = m.cfg.ACME.ChallengeCertificate(ctx, m.cfg.Keeper.Storage(p.owner), host); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoChallenge, err)
	}
	return cert, nil
}

// Challenge answers http-01 challenges below /.well-known/acme-challenge/ for hosts that the index knows, and 404 to
// everything else.
func (m *Manager) Challenge() http.Handler {
	if m.cfg.ACME == nil || m.cfg.Keeper == nil {
		return http.NotFoundHandler()
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case m.challenges <- struct{}{}:
			defer func() { <-m.challenges }()
		default:
			http.Error(w, "too many challenges at once", http.StatusServiceUnavailable)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), challengeTimeout)
		defer cancel()
		m.cfg.ACME.HTTPChallenge(m.tokens, w, r.WithContext(ctx))
	})
}

// tokens returns where the open challenges of a host lie.
func (m *Manager) tokens(host string) (certmagic.Storage, bool) {
	e, ok := m.lookup(host)
	if !ok {
		return nil, false
	}
	p := m.cfg.planFor(host, e)
	return m.cfg.Keeper.Storage(p.owner), p.ordered
}
