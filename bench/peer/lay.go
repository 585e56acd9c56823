package peer

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/polygate/polygate/bench/backend"
)

// maxSite is how many tenants a site may have: each has two files, and a loopback address of a /10.
const maxSite = 100_000

// TenantName returns the name of a site's n-th tenant, from 0.
func TenantName(n int) string { return fmt.Sprintf("t%d", n) }

// Lay makes a site of n tenants in the folder dir: an authority, one certificate and one API key for each tenant, and the canaries
// that the upstream at that port answers with for the seed. The tenants are t0, t1 and so on. In dir, it writes ca.pem and, for
// each tenant, certs/<host>.pem and certs/<host>-key.pem; Site.Dir is the empty folder dir/subject. The authority's key is kept
// nowhere: nobody can make another certificate that a client of the site trusts.
func Lay(dir, domain string, n, upstreamPort int, seed string) (*Site, error) {
	if n < 1 || n > maxSite {
		return nil, fmt.Errorf("a site of %d tenants: it has 1 to %d", n, maxSite)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("lay out a site: %w", err)
	}
	a, err := newAuthority(domain)
	if err != nil {
		return nil, fmt.Errorf("make the authority of %s: %w", domain, err)
	}
	s := &Site{
		Dir: filepath.Join(dir, "subject"), Domain: domain, Tenants: make([]Tenant, n),
		CAFile: filepath.Join(dir, "ca.pem"), CA: x509.NewCertPool(), Auth: NoAuth,
	}
	s.CA.AddCert(a.cert)
	certs := filepath.Join(dir, "certs")
	for _, sub := range []string{s.Dir, certs} {
		if err := os.MkdirAll(sub, 0o700); err != nil {
			return nil, fmt.Errorf("lay out a site: %w", err)
		}
	}
	if err := os.WriteFile(s.CAFile, certificatePEM(a.cert.Raw), 0o600); err != nil {
		return nil, fmt.Errorf("lay out a site: %w", err)
	}
	for i := range s.Tenants {
		s.Tenants[i] = tenantOf(i, domain, certs, upstreamPort, seed)
	}
	if err := a.certify(s.Tenants); err != nil {
		return nil, fmt.Errorf("make the tenants' certificates: %w", err)
	}
	return s, nil
}

// tenantOf names what belongs to the n-th tenant. Its key is new each time.
func tenantOf(n int, domain, certs string, upstreamPort int, seed string) Tenant {
	host := TenantName(n) + "." + domain
	var key [24]byte
	rand.Read(key[:])
	return Tenant{
		Name: TenantName(n), Host: host,
		CertFile: filepath.Join(certs, host+".pem"), KeyFile: filepath.Join(certs, host+"-key.pem"),
		Upstream: backend.Addr(n, upstreamPort), Canary: backend.Canary(seed, n),
		Key: "pk_" + hex.EncodeToString(key[:]),
	}
}

// certify writes the certificate and the key of every tenant.
func (a *authority) certify(tenants []Tenant) error {
	var g errgroup.Group
	g.SetLimit(4 * runtime.GOMAXPROCS(0)) // some wait for the disk while others sign
	for i := range tenants {
		t := &tenants[i]
		g.Go(func() error {
			chain, key, err := a.issue(t.Host)
			if err != nil {
				return fmt.Errorf("%s: %w", t.Host, err)
			}
			if err := os.WriteFile(t.CertFile, chain, 0o600); err != nil {
				return err
			}
			return os.WriteFile(t.KeyFile, key, 0o600)
		})
	}
	return g.Wait()
}
