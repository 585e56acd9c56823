package admin

import (
	"cmp"
	"crypto/tls"
	"encoding/base64"
	"slices"
	"strings"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// The names under which a tenant's secrets are sealed; those of its tenants file are the same, so that what one has written
// the other can leave as it is.
const (
	secretClientKey = "dedicated.client"
	secretACME      = "certificates.acme"
)

const maxEABKey = 1024 // bytes, as text

// CertificateSettings say where a tenant's certificates come from.
type CertificateSettings struct {
	Source tenant.CertificateSource `json:"source,omitempty"` // default: the platform's
	ACME   *ACME                    `json:"acme,omitempty"`
}

// ACME is a tenant's own account at an ACME server.
type ACME struct {
	Directory string `json:"directory"`
	Email     string `json:"email,omitempty"`
	CA        string `json:"ca,omitempty"`
	Profile   string `json:"profile,omitempty"`
	EABKeyID  string `json:"eab_key_id,omitempty"`
	EABKey    string `json:"eab_key,omitempty"` // write-only: it is in no answer. Left out, with directory and eab_key_id as they are: as it is
}

// renderDedicated leaves out the key of the client certificate: it is sealed, but there is no use in showing it.
func renderDedicated(d *tenant.Dedicated) *tenant.Dedicated {
	if d == nil || d.Client.Key == "" {
		return d
	}
	shown := *d
	shown.Client.Key = ""
	return &shown
}

func renderSettings(c *tenant.Certificates) *CertificateSettings {
	if c == nil || c.Source == "" && c.ACME == nil {
		return nil
	}
	v := &CertificateSettings{Source: c.Source}
	if a := c.ACME; a != nil {
		v.ACME = &ACME{Directory: a.Directory, Email: a.Email, CA: a.CA, Profile: a.Profile, EABKeyID: a.EABKeyID}
	}
	return v
}

// sealFunc seals a secret of a tenant. It returns the same for the same arguments, so that to declare the same again is no
// change.
type sealFunc func(id tenant.ID, name, plain string) (string, error)

// secret seals a secret that a request brings.
func (f sealFunc) secret(id tenant.ID, name, field, plain string) (string, error) {
	if f == nil {
		return "", fault.New(fault.NotImplemented, "this gateway has no secret to seal %s with", field)
	}
	sealed, err := f(id, name, plain)
	if err != nil {
		return "", fault.Wrap(fault.Internal, err, "%s cannot be sealed", field)
	}
	return sealed, nil
}

// applyTLS sets what the spec declares of handshakes, certificates and connections to the tenant's own gateway.
func (spec *TenantSpec) applyTLS(r *tenant.Record, seal sealFunc) error {
	r.Passthrough, r.TLS = nil, nil
	if spec.Passthrough != nil {
		p := *spec.Passthrough
		r.Passthrough = &p
	}
	if spec.TLS != nil && *spec.TLS != (tenant.TLS{}) {
		t := *spec.TLS
		r.TLS = &t
	}
	if err := spec.applyDedicated(r, seal); err != nil {
		return err
	}
	return spec.applyCertificates(r, seal)
}

func (spec *TenantSpec) applyDedicated(r *tenant.Record, seal sealFunc) error {
	was := r.Dedicated
	r.Dedicated = nil
	if spec.Dedicated == nil {
		return nil
	}
	d := *spec.Dedicated
	d.Auth = cmp.Or(d.Auth, tenant.AuthUpstream)
	switch c := &d.Client; {
	case c.Key != "":
		if err := checkClientPair(c); err != nil {
			return err
		}
		sealed, err := seal.secret(r.ID, secretClientKey, "dedicated.client.key", c.Key)
		if err != nil {
			return err
		}
		c.Key = sealed
	case c.Chain != "" && was != nil && was.Client.Chain == c.Chain:
		c.Key = was.Client.Key
	case c.Chain != "":
		return fault.New(fault.Invalid, "dedicated.client.key is missing: send it together with the chain, as PEM")
	}
	r.Dedicated = &d
	return nil
}

// checkClientPair checks what cannot be checked any more once the key is sealed. What crypto/tls says of a key quotes none
// of it; that this stays so is not for it to promise.
func checkClientPair(c *tenant.ClientCertificate) error {
	if c.Local {
		return fault.New(fault.Invalid, "dedicated.client.local is set together with a key: choose one")
	}
	if len(c.Key) > tenant.MaxCAPEM {
		return fault.New(fault.Invalid, "dedicated.client.key is %d bytes long: at most %d are allowed", len(c.Key), tenant.MaxCAPEM)
	}
	if _, err := tls.X509KeyPair([]byte(c.Chain), []byte(c.Key)); err != nil {
		err = fault.New(fault.Invalid, "dedicated.client: chain and key are no pair of PEM, not encrypted: %v", err)
		return fault.Hide(err, "dedicated.client.key is not the PEM key of dedicated.client.chain", c.Key)
	}
	return nil
}

// applyCertificates keeps the digest of files that were imported, which no request sets.
func (spec *TenantSpec) applyCertificates(r *tenant.Record, seal sealFunc) error {
	was := r.Certificates
	next := tenant.Certificates{}
	if was != nil {
		next.Digest = was.Digest
	}
	if c := spec.Certificates; c != nil {
		next.Source = c.Source
		if c.ACME != nil {
			a, err := c.ACME.record(r.ID, was, seal)
			if err != nil {
				return err
			}
			next.ACME = a
		}
	}
	r.Certificates = nil
	if next != (tenant.Certificates{}) {
		r.Certificates = &next
	}
	return nil
}

// record seals the key of the external account, or takes the one that is there for the same account.
func (a *ACME) record(id tenant.ID, was *tenant.Certificates, seal sealFunc) (*tenant.ACME, error) {
	next := &tenant.ACME{Directory: a.Directory, Email: a.Email, CA: a.CA, Profile: a.Profile, EABKeyID: a.EABKeyID}
	if a.EABKey == "" {
		if was != nil && was.ACME != nil && was.ACME.Directory == a.Directory && was.ACME.EABKeyID == a.EABKeyID {
			next.EABKey = was.ACME.EABKey
		}
		if next.EABKey == "" && a.EABKeyID != "" {
			return nil, fault.New(fault.Invalid, "certificates.acme.eab_key is missing: send it together with eab_key_id")
		}
		return next, nil
	}
	key := strings.NewReplacer("+", "-", "/", "_").Replace(strings.TrimRight(a.EABKey, "=")) // some issuers show it in the other alphabet
	if _, err := base64.RawURLEncoding.DecodeString(key); err != nil || len(key) > maxEABKey {
		return nil, fault.New(fault.Invalid, "certificates.acme.eab_key is no base64url of at most %d bytes: send it as the issuer gave it (RFC 8555 §7.3.4)", maxEABKey)
	}
	var err error
	next.EABKey, err = seal.secret(id, secretACME, "certificates.acme.eab_key", a.EABKey)
	return next, err
}

// applyHosts sets the hosts that are declared. Those that the tenant proved to own stay, as they do where a file declares a
// tenant, unless the spec takes them away.
func (spec *TenantSpec) applyHosts(r *tenant.Record) error {
	if spec.ProvenHosts != nil {
		for _, h := range *spec.ProvenHosts {
			if !slices.Contains(r.ProvenHosts, h) {
				return fault.New(fault.Invalid, "proven_hosts names %q, which the tenant has not proven to own: only the tenant can; declare it in hosts", h)
			}
		}
		r.ProvenHosts = slices.DeleteFunc(r.ProvenHosts, func(h string) bool { return !slices.Contains(*spec.ProvenHosts, h) })
	}
	r.Hosts = slices.Clone(spec.Hosts)
	for _, h := range r.ProvenHosts {
		if !slices.Contains(r.Hosts, h) {
			r.Hosts = append(r.Hosts, h)
		}
	}
	r.PendingHosts = slices.DeleteFunc(r.PendingHosts, func(p tenant.PendingHost) bool { return slices.Contains(r.Hosts, p.Host) })
	if len(r.Hosts) == 0 {
		r.Hosts = nil
	}
	if len(r.ProvenHosts) == 0 {
		r.ProvenHosts = nil
	}
	if len(r.PendingHosts) == 0 {
		r.PendingHosts = nil
	}
	return nil
}
