package certs

import (
	"context"
	"crypto/tls"
	"net/http"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// Run orders and renews certificates, fetches OCSP answers and hands out ticket keys, until ctx ends.
func (m *Manager) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// TenantChanged is to be called with each new or changed record, not for each tenant at the start: hosts that need an order
// are put on the queue. It does not block.
func (m *Manager) TenantChanged(id tenant.ID, e *tenant.Entry) {}

// Changed is to be called with each change of what is kept, of this replica and of others; owner "" = anything may have
// changed. It does not block.
func (m *Manager) Changed(owner, key string) {}

// List returns the certificates of a tenant's hosts, or of the platform's own for a nil tenant.
func (m *Manager) List(ctx context.Context, e *tenant.Entry) ([]tenant.Certificate, error) {
	return nil, nil
}

// Get returns one of them, with its chain.
func (m *Manager) Get(ctx context.Context, e *tenant.Entry, host string) (tenant.Certificate, error) {
	return tenant.Certificate{}, fault.New(fault.NotImplemented, "not built")
}

// Import provides a certificate for a host. ifRevision 0 = whatever is there.
func (m *Manager) Import(ctx context.Context, e *tenant.Entry, host string, chain, key []byte, ifRevision int64, entry audit.Entry) (tenant.Certificate, error) {
	return tenant.Certificate{}, fault.New(fault.NotImplemented, "not built")
}

// ImportFile provides a certificate for each host of the tenant, or of the platform, that its leaf covers, and returns them.
func (m *Manager) ImportFile(ctx context.Context, e *tenant.Entry, chain, key []byte, entry audit.Entry) (hosts []string, err error) {
	return nil, fault.New(fault.NotImplemented, "not built")
}

// Renew has a new certificate ordered as soon as may be.
func (m *Manager) Renew(ctx context.Context, e *tenant.Entry, host string, entry audit.Entry) (tenant.Certificate, error) {
	return tenant.Certificate{}, fault.New(fault.NotImplemented, "not built")
}

// Revoke stops serving a certificate at once and revokes it at its issuer. reason is that of RFC 5280 §5.3.1.
func (m *Manager) Revoke(ctx context.Context, e *tenant.Entry, host string, reason int, entry audit.Entry) (tenant.Certificate, error) {
	return tenant.Certificate{}, fault.New(fault.NotImplemented, "not built")
}

// Remove takes back a certificate that was provided.
func (m *Manager) Remove(ctx context.Context, e *tenant.Entry, host string, ifRevision int64, entry audit.Entry) error {
	return fault.New(fault.NotImplemented, "not built")
}

// ClientCertificate returns the certificate with which we show ourselves to a tenant's dedicated gateway; nil = none.
func (m *Manager) ClientCertificate(ctx context.Context, e *tenant.Entry) (*tls.Certificate, error) {
	return nil, nil
}

// Challenge answers http-01 challenges below /.well-known/acme-challenge/, and 404 to everything else.
func (m *Manager) Challenge() http.Handler { return http.NotFoundHandler() }

// Expiries returns when the first certificate of each tenant ends, of those in memory or in trouble, for at most max tenants:
// those that end first. The platform's own are under "".
func (m *Manager) Expiries(max int) map[tenant.ID]time.Time { return nil }

// Stats are counts at one moment.
type Stats struct {
	Resident int // certificates in memory
	Ordering int // orders in progress on this replica
	Waiting  int // hosts that wait to be put on the queue
	Clients  int // client certificates in memory
}

// Stats returns counts.
func (m *Manager) Stats() Stats { return Stats{Resident: m.cache.Len()} }
