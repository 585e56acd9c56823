package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/polygate/polygate/certs"
	"github.com/polygate/polygate/certs/acme"
	"github.com/polygate/polygate/certs/keep"
	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/config"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/proxy"
	"github.com/polygate/polygate/vgw"
)

// openCerts makes what has a certificate for every host. It orders none before serve.
func (d *daemon) openCerts(ctx context.Context) error {
	engine, err := d.openACME()
	if err != nil {
		return err
	}
	c := d.cfg.Certificates
	fallback, err := c.Default()
	if err != nil {
		return err
	}
	store := d.store.Vault()
	d.certs, err = certs.New(certs.Config{
		Store: d.store.Platform(), Wrapper: d.kek, Lookup: d.store.Index().ByHost, Keeper: keep.New(store, d.kek), Vault: store,
		BaseDomain: d.cfg.BaseDomain, ExtraHosts: d.cfg.SharedHosts, AdminHosts: d.cfg.Admin.Hosts,
		ACME: engine, Default: fallback, Means: d.acmeMeans(), Wildcard: c.ACME.Wildcard, OpenSecret: d.secrets.Open, Entry: d.certificateEntry,
		Replicas: d.store.Index().ReplicaCount,
		Limits: certs.Limits{
			OrdersPerMinute: c.ACME.OrdersPerMinute, OrdersPerTenantPerHour: c.ACME.OrdersPerTenantPerHour, Concurrent: c.ACME.MaxConcurrent,
		},
		OCSP: c.OCSP, DialContext: d.dial.DialContext(false),
		TicketKeys:     func(keys [][32]byte) { d.front.SetTicketKeys(keys) },
		TicketRotation: d.cfg.TLS.TicketRotation,
		Observer:       certificateOrders{d},
		LeafLife:       c.LeafLife, Resident: d.cfg.Limits.ResidentCertificates, Logger: d.log.With("part", "certificates"),
	})
	if err != nil {
		return err
	}
	if err := d.certs.Open(ctx); err != nil {
		return err
	}
	if err := writeFile(d.caFile(), string(d.certs.RootPEM())); err != nil {
		return fmt.Errorf("cannot write %s: %w: make its folder writable", d.caFile(), cause(err))
	}
	return nil
}

// caFile is where the local authority's certificate lies, for clients to trust.
func (d *daemon) caFile() string { return filepath.Join(d.cfg.DataDir, "ca.pem") }

// openACME makes what speaks to ACME servers. Tenants may name servers of their own (operators do it for them), so there is
// one even where the platform orders nothing.
func (d *daemon) openACME() (*acme.Engine, error) {
	a := d.cfg.Certificates.ACME
	dns, err := acmeDNS(a.DNS)
	if err != nil {
		return nil, err
	}
	engine, err := acme.New(acme.Config{
		DialContext: d.dial.DialContext(a.TrustedDirectory), DNS: dns,
		HTTP01:    slices.Contains(a.Challenges, config.ChallengeHTTP) && d.listen.plain != nil,
		TLSALPN01: slices.Contains(a.Challenges, config.ChallengeTLSALPN),
		Resolvers: d.cfg.Certificates.Resolvers, Logger: d.log.With("part", "acme"), UserAgent: "polygate/" + readBuild().Version,
	})
	if err != nil {
		return nil, fmt.Errorf("certificates.acme: %w", err)
	}
	return engine, nil
}

// acmeMeans describes what can make an order fail beside the account.
func (d *daemon) acmeMeans() string {
	a := d.cfg.Certificates.ACME
	return fmt.Sprintf("%q %t %q %v %t %v", a.Challenges, d.listen.plain != nil, d.cfg.Certificates.Resolvers, a.DNS, a.TrustedDirectory, d.cfg.Egress.Allow)
}

func acmeDNS(c config.ACMEDNS) (*acme.DNS, error) {
	if c.Provider == "" {
		return nil, nil
	}
	key, err := config.Secret(c.RFC2136.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("certificates.acme.dns.rfc2136: %w", err)
	}
	token, err := config.Secret(c.Webhook.TokenFile)
	if err != nil {
		return nil, fmt.Errorf("certificates.acme.dns.webhook: %w", err)
	}
	roots, err := config.RootsPEM(c.Webhook.CAFile)
	if err != nil {
		return nil, fmt.Errorf("certificates.acme.dns.webhook: %w", err)
	}
	return &acme.DNS{
		Provider: c.Provider, Propagation: c.PropagationTimeout,
		RFC2136: acme.RFC2136{Server: c.RFC2136.Server, KeyName: c.RFC2136.KeyName, Algorithm: c.RFC2136.KeyAlgorithm, Key: key, TCP: c.RFC2136.TCP},
		Webhook: acme.Webhook{URL: c.Webhook.URL, Token: token, CA: roots},
	}, nil
}

// certificateOrders counts orders. The metrics are opened after the certificates.
type certificateOrders struct{ d *daemon }

// CertificateOrdered implements certs.Observer.
func (o certificateOrders) CertificateOrdered(source tenant.CertificateSource, code string) {
	o.d.metrics.CertificateOrdered(source, code)
}

// certificateEntry makes the record of what the gateway does with certificates by itself. It passes the platform's guard like
// everything else that has an effect.
func (d *daemon) certificateEntry(e *tenant.Entry, a authz.Action, resource, outcome string) (audit.Entry, error) {
	visit, err := d.guards.Platform().Enter(tenant.System("certificates"), guard.Request{ID: "certificate-" + audit.NewID()})
	if err != nil {
		return audit.Entry{}, err
	}
	defer visit.Leave()
	effect := guard.Effect{Action: a, Resource: resource}
	if e != nil {
		effect.Subject = e.Scope
	}
	permit, err := visit.Admit(effect)
	if err != nil {
		return audit.Entry{}, err
	}
	return permit.Entry(outcome), nil
}

// runCerts orders and renews, from when requests and challenges are served.
func (d *daemon) runCerts(ctx context.Context) error {
	cancel := d.store.Vault().Subscribe(d.certs.Changed)
	d.parts.onStop("certificate subscription", func() error { cancel(); return nil })
	d.parts.start(ctx, "certificates", d.certs.Run)
	if files := d.cfg.Certificates.Files; len(files) > 0 {
		w := &platformFiles{files: files, certs: d.certs, entry: d.certificateEntry, log: d.log.With("part", "certificate files")}
		d.parts.start(ctx, "certificate files", w.run)
	}
	return nil
}

// reservedHost refuses hosts that are not for tenants to have.
func (d *daemon) reservedHost(host string) error {
	for _, h := range slices.Concat(d.cfg.SharedHosts, d.cfg.Admin.Hosts) {
		if strings.EqualFold(h, host) {
			return fault.New(fault.Invalid, "host %q belongs to the platform", host)
		}
	}
	return nil
}

// tlsVersion returns the version with a name that the configuration accepted.
func tlsVersion(name string) uint16 {
	if name == "1.3" {
		return tls.VersionTLS13
	}
	return tls.VersionTLS12
}

// passthrough bounds the connections that are spliced.
func (d *daemon) passthrough() proxy.Passthrough {
	p := d.cfg.Passthrough
	return proxy.Passthrough{
		Dial: d.dial.DialContext, MaxConnections: p.MaxConnections, MaxPerTenant: p.MaxConnectionsPerTenant, MaxDrain: p.MaxDrain,
		HandshakeTime: p.DialTimeout, Idle: p.IdleTimeout,
	}
}

var _ vgw.Certificates = (*certs.Manager)(nil)
