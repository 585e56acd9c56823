package config

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"github.com/polygate/polygate/internal/tenant"
)

// problem is what is wrong with the field at a path.
type problem struct {
	path string
	msg  string
}

// Validate checks the configuration as a whole. The error is of type Errors; each names its field.
func (p *Platform) Validate() error {
	c := &collector{}
	c.place(nil, p.problems())
	return c.err()
}

// place adds problems at the places of their fields in the document; root may be nil.
func (c *collector) place(root ast.Node, list []problem) {
	for _, p := range list {
		var pos position
		if root != nil {
			pos = place(find(root, p.path))
		}
		c.add(pos, "%s: %s", p.path, p.msg)
	}
}

// checks gathers problems.
type checks []problem

func (cs *checks) fail(path, format string, args ...any) {
	*cs = append(*cs, problem{path, fmt.Sprintf(format, args...)})
}

func (p *Platform) problems() []problem {
	var cs checks
	if p.DataDir == "" {
		cs.fail("data_dir", "is empty: name a folder")
	}
	p.checkHosts(&cs)
	p.Listen.check(&cs)
	p.Etcd.check(&cs)
	p.Replica.check(&cs)
	for i, a := range p.Egress.Allow {
		if a != a.Masked() {
			cs.fail(fmt.Sprintf("egress.allow[%d]", i), "%s has bits after its length: write %s", a, a.Masked())
		}
		if a.Addr().Is4In6() {
			cs.fail(fmt.Sprintf("egress.allow[%d]", i), "%s is an IPv4-mapped prefix: write the IPv4 one", a)
		}
	}
	p.checkPeers(&cs)
	p.Placement.check(&cs)
	p.Drain.check(&cs)
	p.Limits.check(&cs)
	p.Admin.check(&cs)
	p.Quotas.check(&cs)
	p.Sandboxes.check(&cs)
	p.Authn.check(&cs)
	p.Policy.check(&cs)
	p.TLS.check(&cs)
	p.Passthrough.check(&cs)
	p.Certificates.check(&cs)
	p.Audit.check(&cs)
	p.Tracing.check(&cs)
	p.checkRest(&cs)
	return cs
}

func (p *Platform) checkHosts(cs *checks) {
	if p.BaseDomain == "" {
		cs.fail("base_domain", "is missing: name the domain under which each tenant gets its host, such as gateway.example.com")
		return
	}
	if err := checkPlatformHost(p.BaseDomain); err != "" {
		cs.fail("base_domain", "%s", err)
	}
	for i, h := range p.SharedHosts {
		path := fmt.Sprintf("shared_hosts[%d]", i)
		if err := checkPlatformHost(h); err != "" {
			cs.fail(path, "%s", err)
		}
		if label, ok := strings.CutSuffix(h, "."+p.BaseDomain); ok {
			if _, err := tenant.ParseID(label); err == nil {
				cs.fail(path, "%q would be the host of a tenant %q: use base_domain itself, a reserved name such as api.%s, or another domain", h, label, p.BaseDomain)
			}
		}
		if slices.Contains(p.SharedHosts[:i], h) {
			cs.fail(path, "%q is listed twice", h)
		}
	}
	for i, h := range p.Admin.Hosts {
		if err := checkPlatformHost(h); err != "" && net.ParseIP(h) == nil {
			cs.fail(fmt.Sprintf("admin.hosts[%d]", i), "%s", err)
		}
	}
}

// checkPlatformHost checks a host of the platform's own, which may be localhost, unlike a tenant's.
func checkPlatformHost(h string) string {
	if h == "localhost" {
		return ""
	}
	if err := tenant.CheckHost(h); err != nil {
		return reason(err)
	}
	return ""
}

func (l Listen) check(cs *checks) {
	if l.Public == "" {
		cs.fail("listen.public", "is empty: name an address such as :8443")
	}
	seen := make(map[string]string)
	for _, f := range []struct{ name, addr string }{
		{"listen.public", l.Public}, {"listen.plain", l.Plain}, {"listen.admin", l.Admin}, {"listen.telemetry", l.Telemetry},
		{"listen.peer", l.Peer},
	} {
		if f.addr == "" {
			continue
		}
		port, err := checkAddr(f.addr)
		if err != "" {
			cs.fail(f.name, "%s", err)
			continue
		}
		if other, ok := seen[f.addr]; ok && port != 0 {
			cs.fail(f.name, "%q is the address of %s too", f.addr, other)
		}
		seen[f.addr] = f.name
	}
}

// checkAddr checks host:port and returns the port.
func checkAddr(addr string) (uint64, string) {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return 0, fmt.Sprintf("%q is not host:port: write, for example, :8443 or 127.0.0.1:8443", clip(addr))
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return 0, fmt.Sprintf("%q has the port %q: use 0 to 65535", clip(addr), clip(port))
	}
	return n, ""
}

func (e Etcd) check(cs *checks) {
	if e.Prefix == "" || !strings.HasSuffix(e.Prefix, "/") {
		cs.fail("etcd.prefix", "%q does not end in /: without it, the range of one prefix holds the keys of another", e.Prefix)
	}
	within(cs, "etcd.embedded.quota_bytes", e.Embedded.QuotaBytes, 16<<20, 64<<30)
	within(cs, "etcd.embedded.compact_after", e.Embedded.CompactAfter, time.Second, 24*time.Hour)
	within(cs, "etcd.reserve", e.Reserve, 5, 80)
	e.Embedded.Cluster.check(cs)
	if len(e.Endpoints) > 0 && len(e.Embedded.Cluster.Members) > 0 {
		cs.fail("etcd", "endpoints and embedded.cluster exclude each other: the store is one of them")
	}
	for i, s := range e.Endpoints {
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Port() == "" || strings.Trim(u.Path, "/") != "" || u.User != nil {
			cs.fail(fmt.Sprintf("etcd.endpoints[%d]", i), "is not http(s)://host:port and nothing more")
		}
	}
	if (e.TLS.Cert == "") != (e.TLS.Key == "") {
		cs.fail("etcd.tls", "cert and key belong together: set both or neither")
	}
	if (e.User == "") != (e.PasswordFile == "") {
		cs.fail("etcd.user", "user and password_file belong together: set both or neither")
	}
	if len(e.Endpoints) == 0 && (e.User != "" || e.TLS != EtcdTLS{}) {
		cs.fail("etcd", "tls and user are for an etcd at endpoints, and there are none")
	}
}

func (r Replica) check(cs *checks) {
	ok := r.Name != "" && len(r.Name) <= 63
	for i := range len(r.Name) {
		c := r.Name[i]
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '.')
	}
	if !ok && r.Name != "" {
		cs.fail("replica.name", "%q is not 1 to 63 of a-z, 0-9, - and .", clip(r.Name))
	}
	within(cs, "replica.ttl", r.TTL, 2*time.Second, time.Minute)
	if r.TTL%time.Second != 0 {
		cs.fail("replica.ttl", "is %s: leases have whole seconds", r.TTL)
	}
}

func (l Limits) check(cs *checks) {
	within(cs, "limits.max_connections", l.MaxConnections, 1, 1<<20)
	within(cs, "limits.max_connections_per_address", l.MaxConnectionsPerAddress, 0, l.MaxConnections)
	within(cs, "limits.max_requests", l.MaxRequests, 1, 10_000_000)
	within(cs, "limits.max_streams", l.MaxStreams, 1, 10_000_000)
	within(cs, "limits.max_streams_per_connection", l.MaxStreamsPerConnection, 1, 10_000)
	within(cs, "limits.max_header_bytes", l.MaxHeaderBytes, 1<<10, 1<<20)
	within(cs, "limits.max_headers", l.MaxHeaders, 10, 10_000)
	within(cs, "limits.max_uri_bytes", l.MaxURIBytes, 256, 1<<20)
	within(cs, "limits.max_query_parameters", l.MaxQueryParameters, 1, 10_000)
	within(cs, "limits.max_body_bytes", l.MaxBodyBytes, 1<<10, 1<<40)
	within(cs, "limits.mcp_max_body_bytes", l.MCPMaxBodyBytes, 1<<10, 256<<20)
	within(cs, "limits.mcp_max_tenant_bytes", l.MCPMaxTenantBytes, min(l.MCPMaxBodyBytes, l.MaxBodyBytes), 1<<40)
	within(cs, "limits.mcp_max_total_bytes", l.MCPMaxTotalBytes, l.MCPMaxTenantBytes, 1<<40)
	within(cs, "limits.header_timeout", l.HeaderTimeout, 100*time.Millisecond, 5*time.Minute)
	within(cs, "limits.body_idle_timeout", l.BodyIdleTimeout, 100*time.Millisecond, time.Hour)
	within(cs, "limits.write_idle_timeout", l.WriteIdleTimeout, time.Second, time.Hour)
	within(cs, "limits.max_cookies", l.MaxCookies, 1, 3000)
	within(cs, "limits.idle_timeout", l.IdleTimeout, time.Second, time.Minute)
	within(cs, "limits.upstream_header_timeout", l.UpstreamHeaderTimeout, 100*time.Millisecond, 24*time.Hour)
	within(cs, "limits.dial_timeout", l.DialTimeout, 100*time.Millisecond, 5*time.Minute)
	within(cs, "limits.shutdown_grace", l.ShutdownGrace, time.Millisecond, time.Hour)
	within(cs, "limits.idle_gateway_after", l.IdleGatewayAfter, time.Second, 30*24*time.Hour)
	within(cs, "limits.resident_certificates", l.ResidentCertificates, 16, 10_000_000)
	within(cs, "limits.garbage_headroom", l.GarbageHeadroom, 0, 1<<40)
	if l.MCPMaxBodyBytes > l.MaxBodyBytes {
		cs.fail("limits.mcp_max_body_bytes", "is %s, more than max_body_bytes (%s)", l.MCPMaxBodyBytes, l.MaxBodyBytes)
	}
	if l.MaxURIBytes > l.MaxHeaderBytes {
		cs.fail("limits.max_uri_bytes", "is %s, more than max_header_bytes (%s), which bounds the request line too", l.MaxURIBytes, l.MaxHeaderBytes)
	}
}

func (p *Platform) checkRest(cs *checks) {
	within(cs, "metrics.max_tenants", p.Metrics.MaxTenants, 1, 100_000)
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, p.Log.Level) {
		cs.fail("log.level", "%q is unknown: use debug, info, warn or error", clip(p.Log.Level))
	}
	if p.Log.Format != "json" && p.Log.Format != "text" {
		cs.fail("log.format", "%q is unknown: use json or text", clip(p.Log.Format))
	}
	for i, id := range p.Demo.Tenants {
		if _, err := tenant.ParseID(id); err != nil {
			cs.fail(fmt.Sprintf("demo.tenants[%d]", i), "%s", reason(err))
		}
	}
	if len(p.Demo.Tenants) > 0 && p.Demo.EnvFile == "" {
		cs.fail("demo.tenants", "has no demo.env_file to write the keys to")
	}
}

// within checks that a value lies between two bounds, both allowed.
func within[T ~int | ~int64 | ~float64](cs *checks, path string, v, least, most T) {
	if !(v >= least && v <= most) { // so that NaN is refused
		cs.fail(path, "is %v: %v to %v are allowed", v, least, most)
	}
}
