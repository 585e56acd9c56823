package authn

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"slices"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

const (
	maxChain      = 5                // certificates that a client may present: more is no chain, but work for us
	maxOUs        = 64               // groups taken from one certificate
	keptPools     = 1024             // parsed CAs
	keptChains    = 8192             // verified certificates
	keptRefused   = 1024             // certificates that were refused
	refusedFor    = 30 * time.Second // how long a refusal is remembered; a client may come back with its intermediates
	oidCommonName = "2.5.4.3"
)

// WantsClientCert says whether a tenant's host shall ask for a client certificate in the TLS handshake. It shall not verify
// it there: whether it is good depends on the authenticator.
func WantsClientCert(e *tenant.Entry) bool {
	for i := range e.Record.Authenticators {
		a := &e.Record.Authenticators[i]
		if a.MTLS != nil || a.Upstream != nil && a.Upstream.CA != "" {
			return true
		}
	}
	return false
}

// CheckAuthenticator checks the certificates of an authenticator, which tenant.Authenticator.Validate leaves unread. Errors
// are fault.Invalid and name the field.
func CheckAuthenticator(a *tenant.Authenticator) error {
	field, text := "", ""
	switch {
	case a.OIDC != nil:
		field, text = "oidc.ca", a.OIDC.CA
	case a.MTLS != nil:
		field, text = "mtls.ca", a.MTLS.CA
	case a.Upstream != nil:
		field, text = "upstream.ca", a.Upstream.CA
	}
	if text == "" {
		return nil
	}
	if err := ParsePool(text); err != nil {
		return fault.New(fault.Invalid, "authenticator %q: %s: %s", a.Name, field, fault.From(err).Detail)
	}
	return nil
}

// ParsePool says whether a PEM text holds certificates of authorities and nothing else. The error is a fault.Invalid that
// says what is wrong, and never holds a key that was pasted beside them.
func ParsePool(text string) error {
	_, err := parsePool(text)
	return err
}

// ClientPool returns the authorities of a PEM text that ParsePool accepts.
func ClientPool(text string) (*x509.CertPool, error) { return parsePool(text) }

// VerifyClient verifies the chain that a client presented against one authority, with the bounds of the authenticators, and
// returns until when it stands.
func VerifyClient(pool *x509.CertPool, chain []*x509.Certificate, now time.Time) (until time.Time, err error) {
	if len(chain) == 0 || len(chain) > maxChain {
		return time.Time{}, refusal("no certificate, or too long a chain")
	}
	return verifyChain(pool, chain, now)
}

func parsePool(text string) (*x509.CertPool, error) {
	pool, rest := x509.NewCertPool(), []byte(text)
	for n := 1; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			if n == 1 {
				return nil, fault.New(fault.Invalid, "there is no PEM certificate (-----BEGIN CERTIFICATE-----) in it")
			}
			if bytes.Contains(rest, []byte("-----BEGIN")) {
				return nil, fault.New(fault.Invalid, "block %d is damaged PEM", n)
			}
			return pool, nil
		}
		c, err := parseAuthority(block)
		if err != nil {
			return nil, fault.Wrap(fault.Invalid, err, "block %d: %s", n, fault.From(err).Detail)
		}
		pool.AddCert(c)
	}
}

// parseAuthority refuses whatever cannot sign certificates. x509.Verify takes any certificate in the pool for good, so an
// end-entity's would let exactly its owner in, and look as if it were an authority's.
func parseAuthority(block *pem.Block) (*x509.Certificate, error) {
	if block.Type != "CERTIFICATE" {
		return nil, fault.New(fault.Invalid, "it is a %q: only certificates belong here", block.Type)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	switch {
	case err != nil:
		return nil, fault.Wrap(fault.Invalid, err, "it is no certificate")
	case !c.BasicConstraintsValid || !c.IsCA:
		return nil, fault.New(fault.Invalid, "%q is no authority's certificate (basicConstraints CA:TRUE is missing)", c.Subject)
	case c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, fault.New(fault.Invalid, "%q may not sign certificates (its keyUsage has no keyCertSign)", c.Subject)
	}
	return c, nil
}

// certs remembers parsed authorities and verified certificates, so that a kept connection is verified once. Keys hold the
// authenticator's generation: what was learned under other settings is found no more, and falls out in time.
type certs struct {
	pools   *lru.Cache[poolKey, *x509.CertPool]
	good    *lru.Cache[chainKey, *verdict]
	refused *lru.Cache[chainKey, *verdict] // apart, so that made-up certificates displace only each other
}

// poolKey names one authenticator's settings.
type poolKey struct {
	uid, name, generation string
}

// chainKey names a leaf under an authenticator's settings. The rest of the chain does not matter: a leaf that some chain
// leads to the authority is good.
type chainKey struct {
	poolKey
	leaf [sha256.Size]byte
}

// verdict is what an authenticator thinks of a certificate, until a moment.
type verdict struct {
	user  *user  // of an mtls authenticator
	why   string // it was refused; "" = it is good
	until time.Time
}

func newCerts() *certs {
	c := &certs{}
	c.pools, _ = lru.New[poolKey, *x509.CertPool](keptPools) // fails only for a size of 0
	c.good, _ = lru.New[chainKey, *verdict](keptChains)
	c.refused, _ = lru.New[chainKey, *verdict](keptRefused)
	return c
}

// certPrincipal judges the request's client certificate by one authenticator. ok is false where it is none of that
// authenticator's. The first authenticator that accepts a certificate says whose it is.
func (s *Service) certPrincipal(e *tenant.Entry, a *tenant.Authenticator, ev Evidence) (p tenant.Principal, ok bool, err error) {
	now := s.cfg.Now()
	v := s.certs.judge(e, a, ev.Peer, now)
	if v.why != "" {
		return tenant.Principal{}, false, nil
	}
	p, ok = v.user.principal(e, tenant.ViaMTLS, now)
	if !ok {
		return tenant.Principal{}, false, nil
	}
	return p, true, nil
}

// judge returns the verdict on a chain, from memory where it can.
func (c *certs) judge(e *tenant.Entry, a *tenant.Authenticator, chain []*x509.Certificate, now time.Time) *verdict {
	if len(chain) == 0 || len(chain) > maxChain {
		return &verdict{why: "no certificate, or too long a chain"}
	}
	key := chainKey{poolKey{e.Scope.UID(), a.Name, a.Generation}, sha256.Sum256(chain[0].Raw)}
	if v, ok := c.good.Get(key); ok && now.Before(v.until) {
		return v
	}
	if v, ok := c.refused.Get(key); ok && now.Before(v.until) {
		return v
	}
	v := c.verdict(key.poolKey, a, chain, now)
	if v.why == "" {
		c.good.Add(key, v)
	} else {
		c.refused.Add(key, v)
	}
	return v
}

func (c *certs) verdict(key poolKey, a *tenant.Authenticator, chain []*x509.Certificate, now time.Time) *verdict {
	bad := func(why string) *verdict { return &verdict{why: why, until: now.Add(refusedFor)} }
	ca := ""
	if a.MTLS != nil {
		ca = a.MTLS.CA
	} else if a.Upstream != nil {
		ca = a.Upstream.CA
	}
	pool, err := c.pool(key, ca)
	if err != nil {
		return bad(err.Error())
	}
	until, err := verifyChain(pool, chain, now)
	if err != nil {
		return bad(err.Error())
	}
	if a.Upstream != nil {
		if !upstreamName(a.Upstream.Names, chain[0]) {
			return bad("the certificate names no believed upstream")
		}
		return &verdict{until: until}
	}
	u, err := certUser(a, chain[0], until)
	if err != nil {
		return bad(err.Error())
	}
	return &verdict{user: u, until: until}
}

func (c *certs) pool(key poolKey, text string) (*x509.CertPool, error) {
	if p, ok := c.pools.Get(key); ok {
		return p, nil
	}
	p, err := parsePool(text)
	if err != nil {
		return nil, err
	}
	c.pools.Add(key, p)
	return p, nil
}

// verifyChain verifies a chain for use as a client against one authority and never the system's (x509 checks time, path
// length, name constraints and key usage, and bounds its own work), and returns until when it stands.
func verifyChain(pool *x509.CertPool, chain []*x509.Certificate, now time.Time) (until time.Time, err error) {
	between := x509.NewCertPool()
	for i, c := range chain[1:] {
		// Several authorities of one name would be tried in every order: 100 signature checks, some 0.1 s, for each connection
		// of anybody.
		if slices.ContainsFunc(chain[1:1+i], func(o *x509.Certificate) bool { return bytes.Equal(o.RawSubject, c.RawSubject) }) {
			return time.Time{}, refusal("two authorities of one name in the chain")
		}
		between.AddCert(c)
	}
	paths, err := chain[0].Verify(x509.VerifyOptions{
		Roots: pool, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return time.Time{}, err
	}
	for _, path := range paths {
		if end := firstEnd(path); end.After(until) {
			until = end
		}
	}
	return until, nil
}

// firstEnd returns when the first certificate of a path expires.
func firstEnd(path []*x509.Certificate) time.Time {
	end := path[0].NotAfter
	for _, c := range path[1:] {
		if c.NotAfter.Before(end) {
			end = c.NotAfter
		}
	}
	return end
}

// certUser reads who a verified certificate stands for. Its first day counts as when it was issued: a revocation of the
// principal ends the certificates that it has, not one that its authority makes for it afterwards.
func certUser(a *tenant.Authenticator, leaf *x509.Certificate, until time.Time) (*user, error) {
	if leaf.NotAfter.Sub(leaf.NotBefore) > tenant.MaxCertLife {
		return nil, refusal("the certificate lives for longer than tenant.MaxCertLife")
	}
	subject, err := certIdentity(a.MTLS, leaf)
	if err != nil {
		return nil, err
	}
	c := &tenant.Claims{
		Authenticator: a.Name, Generation: a.Generation, Issuer: string(tenant.AuthnMTLS), Subject: subject, Issued: leaf.NotBefore,
	}
	if a.MTLS.Groups {
		c.Groups = organizationalUnits(leaf)
	}
	return &user{claims: c, username: subject, expires: until}, nil
}

// certIdentity returns the one name of a certificate that begins with the configured prefix, without it. Two such names
// would let whoever verifies choose which of two users it is; a wildcard is a name of many.
func certIdentity(m *tenant.MTLS, leaf *x509.Certificate) (string, error) {
	found := 0
	subject := ""
	for _, name := range certNames(m.Identity, leaf) {
		if rest, ok := strings.CutPrefix(name, m.Prefix); ok {
			subject, found = rest, found+1
		}
	}
	if found != 1 {
		return "", refusal("not exactly one name of the certificate begins with the prefix")
	}
	if m.Identity == "san-dns" && strings.Contains(subject, "*") {
		return "", refusal("a wildcard is nobody's name")
	}
	return subject, tenant.CheckSubject("the certificate's name", subject)
}

func certNames(identity string, leaf *x509.Certificate) []string {
	var names []string
	switch identity {
	case "san-dns":
		return leaf.DNSNames
	case "san-email":
		return leaf.EmailAddresses
	case "cn":
		for _, n := range leaf.Subject.Names { // Subject.CommonName is the last of several
			if s, ok := n.Value.(string); ok && isCommonName(n.Type) {
				names = append(names, s)
			}
		}
	default:
		for _, u := range leaf.URIs {
			names = append(names, u.String())
		}
	}
	return names
}

func isCommonName(oid asn1.ObjectIdentifier) bool { return oid.String() == oidCommonName }

// organizationalUnits returns those that can be names of groups.
func organizationalUnits(leaf *x509.Certificate) []string {
	var groups []string
	for _, ou := range leaf.Subject.OrganizationalUnit {
		if len(groups) < maxOUs && tenant.CheckSubject("group", ou) == nil && !slices.Contains(groups, ou) {
			groups = append(groups, ou)
		}
	}
	return groups
}

// upstreamName says whether a certificate bears one of the names, as a DNS name or a URI. DNS names know no case.
func upstreamName(names []string, leaf *x509.Certificate) bool {
	for _, want := range names {
		for _, dns := range leaf.DNSNames {
			if strings.EqualFold(dns, want) && !strings.Contains(dns, "*") {
				return true
			}
		}
		for _, u := range leaf.URIs {
			if u.String() == want {
				return true
			}
		}
	}
	return false
}
