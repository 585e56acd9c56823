package vgw

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/tenant"
)

// Certificates keeps the certificates of tenants' hosts. It is safe for concurrent use. Its answers hold no key. A host that
// is not the tenant's is fault.NotFound. A change commits the entry with what it changes, or neither; ifRevision is the
// Revision of the certificate that it is of, else fault.PreconditionFailed, and 0 any. Errors are shown to the tenant's admins,
// so they say what is wrong and where, and nothing of a key.
type Certificates interface {
	// List returns the state of each of the tenant's hosts.
	List(ctx context.Context, e *tenant.Entry) ([]tenant.Certificate, error)
	// Get returns the state of one host, with the chain.
	Get(ctx context.Context, e *tenant.Entry, host string) (tenant.Certificate, error)
	// Import checks chain and key, both PEM, against each other and the host, and serves them from then on; fault.Invalid.
	Import(ctx context.Context, e *tenant.Entry, host string, chain, key []byte, ifRevision int64, entry audit.Entry) (tenant.Certificate, error)
	// Renew has a new one ordered, and does not wait for it.
	Renew(ctx context.Context, e *tenant.Entry, host string, entry audit.Entry) (tenant.Certificate, error)
	// Revoke stops serving what there is, and tells its issuer, for a reason of RFC 5280 §5.3.1.
	Revoke(ctx context.Context, e *tenant.Entry, host string, reason int, entry audit.Entry) (tenant.Certificate, error)
	// Remove takes back what is stored.
	Remove(ctx context.Context, e *tenant.Entry, host string, ifRevision int64, entry audit.Entry) error
}

// certificateIn bounds a change of a certificate: a revocation asks the issuer. It is no part of the caller's patience, as
// with commits.
const certificateIn = 30 * time.Second

func certificateRoutes() []route {
	return []route{
		{Route: exchange.Route{Method: "GET", Pattern: "/api/v1/certificates", Action: authz.CertificateList, Summary: "the certificates of the tenant's hosts, without their keys"}, handle: listCertificates},
		{Route: exchange.Route{Method: "GET", Pattern: "/api/v1/certificates/{host}", Owner: exchange.OwnerAny, Action: authz.CertificateRead, Summary: "the certificate of one host, with its chain"}, handle: getCertificate},
		{Route: exchange.Route{Method: "PUT", Pattern: "/api/v1/certificates/{host}", Owner: exchange.OwnerAny, Action: authz.CertificateUpdate, Summary: "provide a certificate with its key"}, handle: putCertificate},
		{Route: exchange.Route{Method: "DELETE", Pattern: "/api/v1/certificates/{host}", Owner: exchange.OwnerAny, Action: authz.CertificateDelete, Summary: "take back the certificate that is stored for a host"}, handle: deleteCertificate},
		{Route: exchange.Route{Method: "POST", Pattern: "/api/v1/certificates/{host}/renew", Owner: exchange.OwnerAny, Action: authz.CertificateRenew, Summary: "have a new certificate ordered"}, handle: renewCertificate},
		{Route: exchange.Route{Method: "POST", Pattern: "/api/v1/certificates/{host}/revoke", Owner: exchange.OwnerAny, Action: authz.CertificateRevoke, Summary: "revoke a certificate, which is not served any more"}, handle: revokeCertificate},
	}
}

// certificateView is the certificate of a host as the tenant's people see it. There is no field that a key could be in.
type certificateView struct {
	Host            string                   `json:"host"`
	Source          tenant.CertificateSource `json:"source"`
	State           tenant.CertificateState  `json:"state"`
	Warning         string                   `json:"warning,omitzero"`
	Names           []string                 `json:"names,omitempty"`
	Issuer          string                   `json:"issuer,omitzero"`
	Serial          string                   `json:"serial,omitzero"`
	Fingerprint     string                   `json:"fingerprint,omitzero"`
	KeyType         string                   `json:"key_type,omitzero"`
	NotBefore       time.Time                `json:"not_before,omitzero"`
	NotAfter        time.Time                `json:"not_after,omitzero"`
	RenewAt         time.Time                `json:"renew_at,omitzero"`
	Error           string                   `json:"error,omitzero"`
	Code            string                   `json:"code,omitzero"`
	Attempts        int                      `json:"attempts,omitzero"`
	NextAttempt     time.Time                `json:"next_attempt,omitzero"`
	Chain           string                   `json:"chain,omitzero"`
	ResourceVersion string                   `json:"resource_version,omitzero"` // also the ETag; none where nothing is stored
}

func viewCertificate(s tenant.Certificate) certificateView {
	v := certificateView{
		Host: s.Host, Source: s.Source, State: s.State, Warning: s.Warning, Names: s.Names, Issuer: s.Issuer, Serial: s.Serial,
		Fingerprint: s.Fingerprint, KeyType: s.KeyType, NotBefore: s.NotBefore, NotAfter: s.NotAfter, RenewAt: s.RenewAt,
		Error: s.Error, Code: s.Code, Attempts: s.Attempts, NextAttempt: s.NextAttempt, Chain: s.Chain,
	}
	if s.Revision > 0 {
		v.ResourceVersion = strconv.FormatInt(s.Revision, 10)
	}
	return v
}

func replyCertificate(status int, s tenant.Certificate) (exchange.Decision, error) {
	d, err := reply(status, viewCertificate(s))
	if err != nil {
		return nil, err
	}
	if s.Revision > 0 {
		d.Header.Set("Etag", etag(s.Revision))
	}
	return d, nil
}

// keeper returns who keeps the certificates.
func (c *call) keeper() (Certificates, error) {
	if c.cfg.Certificates == nil {
		return nil, fault.New(fault.Unavailable, "this gateway is not configured to keep certificates: ask a platform operator")
	}
	return c.cfg.Certificates, nil
}

// owns says whether a host is the tenant's, by the record that the front resolved the request with. One that it asked for
// and has not proven to own is not.
func (c *call) owns(host string) bool {
	return c.own(host) || slices.Contains(c.e.Record.Hosts, host)
}

// keeperOf is keeper for the host that the path names, which has to be the tenant's.
func (c *call) keeperOf(host string) (Certificates, error) {
	k, err := c.keeper()
	if err == nil && !c.owns(host) {
		return nil, fault.New(fault.NotFound, "no certificate of the host %q", host)
	}
	return k, err
}

func listCertificates(ctx context.Context, c *call) (exchange.Decision, error) {
	permit, may, err := admitList(c, authz.CertificateList, "certificate")
	if err != nil {
		return nil, err
	}
	var items []tenant.Certificate
	if may {
		if items, err = c.allCertificates(ctx); err != nil {
			permit.Done(err)
			return nil, err
		}
	}
	return answerList(c, permit, items, func(s tenant.Certificate) string { return s.Host }, viewCertificate)
}

// allCertificates returns the certificates of the tenant's hosts. What may be left of a host that it had is not shown, as it
// is not served.
func (c *call) allCertificates(ctx context.Context) ([]tenant.Certificate, error) {
	k, err := c.keeper()
	if err != nil {
		return nil, err
	}
	all, err := k.List(ctx, c.e)
	if err != nil {
		return nil, err
	}
	items := make([]tenant.Certificate, 0, len(all))
	for _, s := range all {
		if c.owns(s.Host) {
			s.Chain = ""
			items = append(items, s)
		}
	}
	slices.SortFunc(items, func(a, b tenant.Certificate) int { return strings.Compare(a.Host, b.Host) })
	return items, nil
}

func getCertificate(ctx context.Context, c *call) (exchange.Decision, error) {
	permit, err := c.r.Visit.Admit(guard.Effect{Action: authz.CertificateRead, Resource: "certificate/" + label(c.params[0])})
	if err != nil {
		return nil, err
	}
	var s tenant.Certificate
	k, err := c.keeperOf(c.params[0])
	if err == nil {
		s, err = k.Get(ctx, c.e, c.params[0])
	}
	permit.Done(err)
	if err != nil {
		return nil, err
	}
	return replyCertificate(200, s)
}

// changeCertificate has f make an admitted change of the certificate that the path names. It goes on when the caller leaves.
func (c *call) changeCertificate(ctx context.Context, a authz.Action, f func(ctx context.Context, k Certificates, e audit.Entry) error) error {
	permit, err := c.r.Visit.Admit(guard.Effect{Action: a, Resource: "certificate/" + label(c.params[0])})
	if err != nil {
		return err
	}
	k, err := c.keeperOf(c.params[0])
	if err == nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), certificateIn)
		defer cancel()
		err = f(ctx, k, permit.Entry(audit.OutcomeOK))
	}
	return permit.Settle(err)
}

// revision returns the revision that an If-Match binds a change to; 0 = none. A tag never fits where nothing is stored.
func (c *call) revision(ctx context.Context, k Certificates, pre precondition) (int64, error) {
	if pre.tags == nil {
		return 0, nil
	}
	have, err := k.Get(ctx, c.e, c.params[0])
	if err != nil {
		return 0, err
	}
	if have.Revision == 0 || !pre.allows(have.Revision) {
		return 0, stale(have.Revision)
	}
	return have.Revision, nil
}

func putCertificate(ctx context.Context, c *call) (exchange.Decision, error) {
	pre, err := ifMatch(c.r.Header)
	if err != nil {
		return nil, err
	}
	pair, err := decodePair(c)
	if err != nil {
		return nil, err
	}
	var s tenant.Certificate
	err = c.changeCertificate(ctx, authz.CertificateUpdate, func(ctx context.Context, k Certificates, e audit.Entry) error {
		if err := pair.whole(); err != nil {
			return err
		}
		rev, err := c.revision(ctx, k, pre)
		if err == nil {
			s, err = k.Import(ctx, c.e, c.params[0], []byte(pair.Chain), []byte(pair.Key), rev, e)
		}
		return pair.without(err)
	})
	if err != nil {
		return nil, err
	}
	return replyCertificate(200, s)
}

func deleteCertificate(ctx context.Context, c *call) (exchange.Decision, error) {
	pre, err := ifMatch(c.r.Header)
	if err != nil {
		return nil, err
	}
	err = c.changeCertificate(ctx, authz.CertificateDelete, func(ctx context.Context, k Certificates, e audit.Entry) error {
		rev, err := c.revision(ctx, k, pre)
		if err != nil {
			return err
		}
		return k.Remove(ctx, c.e, c.params[0], rev, e)
	})
	if err != nil {
		return nil, err
	}
	return noContent(), nil
}

func renewCertificate(ctx context.Context, c *call) (exchange.Decision, error) {
	if err := noBody(c); err != nil {
		return nil, err
	}
	var s tenant.Certificate
	err := c.changeCertificate(ctx, authz.CertificateRenew, func(ctx context.Context, k Certificates, e audit.Entry) (err error) {
		s, err = k.Renew(ctx, c.e, c.params[0], e)
		return err
	})
	if err != nil {
		return nil, err
	}
	return replyCertificate(202, s)
}

// reasonBody is the body of POST /api/v1/certificates/{host}/revoke.
type reasonBody struct {
	Reason int32 `json:"reason"`
}

func revokeCertificate(ctx context.Context, c *call) (exchange.Decision, error) {
	var body reasonBody
	if c.r.Length != 0 {
		var err error
		if body, err = decode[reasonBody](c); err != nil {
			return nil, err
		}
	}
	switch body.Reason {
	case 0, 1, 3, 4, 5:
	default: // the others of RFC 5280 are for issuers alone
		return nil, fault.New(fault.Invalid, "reason must be 0 (unspecified), 1 (the key is compromised), 3 (affiliation changed), 4 (superseded) or 5 (cessation of operation)")
	}
	var s tenant.Certificate
	err := c.changeCertificate(ctx, authz.CertificateRevoke, func(ctx context.Context, k Certificates, e audit.Entry) (err error) {
		s, err = k.Revoke(ctx, c.e, c.params[0], int(body.Reason), e)
		return err
	})
	if err != nil {
		return nil, err
	}
	return replyCertificate(200, s)
}

// noBody refuses a body that is more than an empty object.
func noBody(c *call) error {
	if c.r.Length == 0 {
		return nil
	}
	_, err := decode[struct{}](c)
	return err
}
