package certs

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// residentClients bounds the client certificates in memory.
const residentClients = 1024

// client is a client certificate in memory.
type client struct {
	cert  *tls.Certificate
	until time.Time // when another one is made; zero = never
}

// ClientCertificate returns the certificate with which we show ourselves to a tenant's dedicated gateway; nil = none. It says
// that the connection is ours and for which tenant, and nothing of who asks.
func (m *Manager) ClientCertificate(_ context.Context, e *tenant.Entry) (*tls.Certificate, error) {
	if e == nil || e.Record.Dedicated == nil || e.Record.Dedicated.Client == (tenant.ClientCertificate{}) {
		return nil, nil
	}
	c := e.Record.Dedicated.Client
	key := clientKey(e, c)
	now := m.cfg.Now()
	if got, ok := m.clients.Get(key); ok && (got.until.IsZero() || now.Before(got.until)) {
		return got.cert, nil
	}
	made, err := m.makeClient(e, c, now)
	if err != nil {
		return nil, err
	}
	m.clients.Add(key, made)
	return made.cert, nil
}

// clientKey tells client certificates apart by what they are made of: a sealed key that changed is another one.
func clientKey(e *tenant.Entry, c tenant.ClientCertificate) string {
	if c.Local {
		return "local\x00" + e.Scope.UID() + "\x00" + string(e.Scope.ID())
	}
	sum := sha256.Sum256([]byte(c.Chain + "\x00" + c.Key))
	return "given\x00" + e.Scope.UID() + "\x00" + string(sum[:])
}

func (m *Manager) makeClient(e *tenant.Entry, c tenant.ClientCertificate, now time.Time) (client, error) {
	if c.Local {
		ca := m.ca.Load()
		if ca == nil {
			return client{}, ErrNotOpen
		}
		cert, err := ca.issueClient(e.Scope.ID(), m.cfg.LeafLife, now)
		if err != nil {
			return client{}, fmt.Errorf("certs: client certificate of %s: %w", e.Scope.ID(), err)
		}
		return client{cert, warnAt(cert.Leaf.NotBefore, cert.Leaf.NotAfter)}, nil
	}
	if m.cfg.OpenSecret == nil {
		return client{}, errors.New("certs: OpenSecret is not set")
	}
	key, err := m.cfg.OpenSecret(e.Scope.ID(), "dedicated.client", c.Key)
	if err != nil {
		return client{}, fmt.Errorf("certs: the key of the client certificate of %s: %w", e.Scope.ID(), err)
	}
	cert, err := tls.X509KeyPair([]byte(c.Chain), []byte(key))
	if err != nil { // of the library's own words, lest they show a part of the key
		return client{}, fault.New(fault.Invalid, "dedicated.client of %s: chain and key cannot be read, or do not belong together: set both anew", e.Scope.ID())
	}
	return client{&cert, time.Time{}}, nil
}

// issueClient makes a certificate for connections to a tenant's own gateway.
func (ca *authority) issueClient(id tenant.ID, life time.Duration, now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{ // without a serial number: a random one is drawn
		Subject:               pkix.Name{Organization: []string{"Polygate"}, CommonName: string(id)},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(life),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{{Scheme: "polygate", Host: "tenant", Path: "/" + string(id)}},
	}
	return ca.finish(template, key)
}
