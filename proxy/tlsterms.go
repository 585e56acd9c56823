package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/polygate/polygate/internal/authn"
	"github.com/polygate/polygate/internal/tenant"
)

// demand is what handshakes on a tenant's hosts have to show, beside what the platform demands of all. It holds contents and
// names no tenant, so that tenants who demand the same share one tls.Config. The zero value is nothing.
type demand struct {
	min uint16 // TLS version; 0 = the platform's
	ca  string // PEM roots under which the client has to show a certificate; "" = it need not
	ask bool   // a certificate is asked for: authenticators look at it, with each request
}

// demandOf returns what a tenant demands. Certificates are asked for where somebody looks at them and nowhere else, since a
// browser would ask its user for one.
func (s *Server) demandOf(e *tenant.Entry) demand {
	d := demand{ask: s.cfg.Authenticator != nil && authn.WantsClientCert(e)}
	if t := e.Record.TLS; t != nil {
		d.ca = t.ClientCA
		if v := tlsVersion(t.MinVersion); v > s.minVersion() {
			d.min = v
		}
	}
	return d
}

// tlsVersion reads TLS.MinVersion. What this version does not know is the strictest that it does: a later one wrote it.
func tlsVersion(s string) uint16 {
	switch s {
	case "":
		return 0
	case "1.2":
		return tls.VersionTLS12
	}
	return tls.VersionTLS13
}

// keptTerms bounds the configs in memory. An own CA for each of so many tenants with handshakes at once is parsed anew now
// and then: 50 µs beside the 500 of the handshake.
const keptTerms = 1024

// termsCache keeps tls.Configs by what they demand, the longest unused of which falls out. It is safe for concurrent use.
type termsCache struct {
	make func(demand) (*tls.Config, error)
	lru  *lru.Cache[demand, *tls.Config]
}

func newTermsCache(make func(demand) (*tls.Config, error)) (*termsCache, error) {
	c, err := lru.New[demand, *tls.Config](keptTerms)
	return &termsCache{make, c}, err
}

// get returns the config of a demand. Two that miss at once make one each; either will do.
func (t *termsCache) get(d demand) (*tls.Config, error) {
	if c, ok := t.lru.Get(d); ok {
		return c, nil
	}
	c, err := t.make(d)
	if err != nil {
		return nil, err
	}
	t.lru.Add(d, c)
	return c, nil
}

// config makes the config of a demand. Roots that cannot be read refuse every handshake: without them nobody could be told
// from anybody (case X08).
func (h *handshakes) config(d demand) (*tls.Config, error) {
	c := h.base.Clone()
	c.GetConfigForClient = nil
	c.MinVersion = max(c.MinVersion, d.min)
	if d.ask {
		c.ClientAuth = tls.RequestClientCert
	}
	if d.ca != "" {
		pool, err := authn.ClientPool(d.ca)
		if err != nil {
			return nil, fmt.Errorf("tls.client_ca of the tenant cannot be read, so nobody is let in: %w", err)
		}
		demandCertificate(c, pool)
	}
	h.sessions(c, d)
	return c, nil
}

// demandCertificate makes a handshake fail without a certificate under pool. It is verified by VerifyConnection and not by
// crypto/tls itself: that runs on resumed sessions too (CVE-2025-68121, case X07), and crypto/tls would try the
// intermediates that a stranger made up in every order, 0.1 s of CPU for one handshake.
func demandCertificate(c *tls.Config, pool *x509.CertPool) {
	c.ClientAuth, c.ClientCAs = tls.RequireAnyClientCert, pool
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		if _, err := authn.VerifyClient(pool, cs.PeerCertificates, time.Now()); err != nil {
			return fmt.Errorf("the client's certificate is not one that the tenant's client CA vouches for: %w", err)
		}
		return nil
	}
}
