package config

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

func (t TLS) check(cs *checks) {
	if t.MinVersion != "1.2" && t.MinVersion != "1.3" {
		cs.fail("tls.min_version", "%q is unknown: use \"1.2\" or \"1.3\"", clip(t.MinVersion))
	}
	within(cs, "tls.ticket_rotation", t.TicketRotation, 10*time.Minute, 7*24*time.Hour)
}

func (p Passthrough) check(cs *checks) {
	within(cs, "passthrough.max_connections", p.MaxConnections, 1, 1<<20)
	within(cs, "passthrough.max_connections_per_tenant", p.MaxConnectionsPerTenant, 1, 1<<20)
	within(cs, "passthrough.max_drain", p.MaxDrain, 0, 9600*time.Hour)
	within(cs, "passthrough.dial_timeout", p.DialTimeout, 100*time.Millisecond, 5*time.Minute)
	within(cs, "passthrough.idle_timeout", p.IdleTimeout, time.Second, 7*24*time.Hour)
}

func (c *Certificates) check(cs *checks) {
	within(cs, "certificates.leaf_life", c.LeafLife, time.Hour, 9600*time.Hour)
	if c.Source != string(tenant.SourceLocalCA) && c.Source != string(tenant.SourceACME) {
		cs.fail("certificates.source", "%q is unknown: use local or acme; what is provided is served whatever the source", clip(c.Source))
	}
	for i, addr := range c.Resolvers {
		if err := checkServer(addr); err != "" {
			cs.fail(fmt.Sprintf("certificates.resolvers[%d]", i), "%s", err)
		}
	}
	if n := len(c.Files); n > tenant.MaxCertificateFiles {
		cs.fail("certificates.files", "names %d pairs: at most %d are allowed", n, tenant.MaxCertificateFiles)
	}
	for i, f := range c.Files {
		if f.Cert == "" || f.Key == "" {
			cs.fail(fmt.Sprintf("certificates.files[%d]", i), "cert_file and key_file belong together: set both")
		}
	}
	c.ACME.check(cs)
}

// checkServer checks host:port of something to connect to.
func checkServer(addr string) string {
	if port, err := checkAddr(addr); err != "" {
		return strings.Replace(err, ":8443 or 127.0.0.1:8443", "192.0.2.53:53", 1)
	} else if host, _, _ := net.SplitHostPort(addr); host == "" || port == 0 {
		return fmt.Sprintf("%q is not host:port: write, for example, 192.0.2.53:53", clip(addr))
	}
	return ""
}

func (a *ACME) check(cs *checks) {
	form := tenant.ACME{Directory: a.Directory, Email: a.Email, Profile: a.Profile, EABKeyID: a.EABKeyID, EABKey: a.EABKeyFile}
	if err := form.Validate("acme"); err != nil {
		field, msg, _ := strings.Cut(reason(err), " ")
		cs.fail("certificates."+strings.TrimSuffix(field, ":"), "%s", strings.Replace(msg, "eab_key_id and the key", "eab_key_id and eab_key_file", 1))
	}
	for i, name := range a.Challenges {
		path := fmt.Sprintf("certificates.acme.challenges[%d]", i)
		if name != ChallengeTLSALPN && name != ChallengeHTTP {
			cs.fail(path, "%q is unknown: use %s or %s; dns-01 is for wildcard: true, and needs dns.provider alone", clip(name), ChallengeTLSALPN, ChallengeHTTP)
		}
		if slices.Contains(a.Challenges[:i], name) {
			cs.fail(path, "%q is listed twice", clip(name))
		}
	}
	within(cs, "certificates.acme.orders_per_minute", a.OrdersPerMinute, 1, 100_000)
	within(cs, "certificates.acme.orders_per_tenant_per_hour", a.OrdersPerTenantPerHour, 1, 10_000)
	within(cs, "certificates.acme.max_concurrent", a.MaxConcurrent, 1, 1000)
	a.DNS.check(cs)
}

func (d *ACMEDNS) check(cs *checks) {
	const path = "certificates.acme.dns"
	within(cs, path+".propagation_timeout", d.PropagationTimeout, time.Second, time.Hour)
	switch d.Provider {
	case "":
	case ProviderRFC2136:
		d.RFC2136.check(cs, path+".rfc2136")
	case ProviderWebhook:
		d.Webhook.check(cs, path+".webhook")
	default:
		cs.fail(path+".provider", "%q is unknown: use %s or %s", clip(d.Provider), ProviderRFC2136, ProviderWebhook)
	}
}

func (r RFC2136) check(cs *checks, path string) {
	if err := checkServer(r.Server); err != "" {
		cs.fail(path+".server", "%s", err)
	}
	if r.KeyName == "" || r.KeyFile == "" {
		cs.fail(path, "has no key_name or no key_file: unsigned updates are not sent, so set both")
	}
	if !slices.Contains([]string{"hmac-sha224", "hmac-sha256", "hmac-sha384", "hmac-sha512"}, r.KeyAlgorithm) {
		cs.fail(path+".key_algorithm", "%q is unknown: use hmac-sha224, hmac-sha256, hmac-sha384 or hmac-sha512", clip(r.KeyAlgorithm))
	}
}

func (w DNSWebhook) check(cs *checks, path string) {
	u, err := url.Parse(w.URL)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		cs.fail(path+".url", "is not an http or https URL with a host, without user and query: write, for example, https://dns.example.com/acme, and put a credential into token_file")
	case u.Scheme == "http" && w.CAFile != "":
		cs.fail(path+".ca_file", "is set, but url is http, which verifies nobody: use https")
	}
}

// doubts are what is allowed, but cannot do what it seems meant for.
func (p *Platform) doubts() []problem {
	var cs checks
	a := &p.Certificates.ACME
	dns := a.DNS.Provider != ""
	if a.Wildcard && !dns {
		cs.fail("certificates.acme.wildcard", "is true, but a wildcard is proven by DNS alone and dns.provider is not set: set it, or every tenant's host gets a certificate of its own")
	}
	if p.Certificates.Source != string(tenant.SourceACME) {
		if a.Wildcard {
			cs.fail("certificates.acme.wildcard", "is true, but source is local: it is for hosts with source acme")
		}
		return cs
	}
	if !p.challenge() {
		why := "certificates.acme.challenges is empty"
		if len(a.Challenges) > 0 {
			why = "http-01, the only one of certificates.acme.challenges, needs listen.plain"
		}
		if a.Wildcard && dns {
			cs.fail("certificates.acme.challenges", "%s: the wildcard is ordered, but no other host than <id>.%s will get a certificate", why, p.BaseDomain)
		} else {
			cs.fail("certificates.source", "is acme, but no challenge can work, so that no certificate will be issued: %s", why)
		}
	}
	return cs
}

// challenge says whether there is one by which a single host could be proven.
func (p *Platform) challenge() bool {
	c := p.Certificates.ACME.Challenges
	return slices.Contains(c, ChallengeTLSALPN) || slices.Contains(c, ChallengeHTTP) && p.Listen.Plain != ""
}

// Warnings are what is allowed in the file, but cannot do what it seems meant for. Only LoadPlatform finds them.
func (p *Platform) Warnings() Errors { return p.warnings }
