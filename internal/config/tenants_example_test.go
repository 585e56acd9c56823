package config_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/config"
	"github.com/polygate/polygate/internal/policy"
	"github.com/polygate/polygate/internal/tenant"
)

const tenantsExample = "../../deploy/tenants.example.yaml"

// files writes files into a folder of their own, the first of which is returned.
func files(t testing.TB, list ...[2]string) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range list {
		path := filepath.Join(dir, f[0])
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(f[1]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, list[0][0])
}

// root makes a certificate.
func root(t testing.TB, name string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestTenantsExample(t *testing.T) {
	ts, err := config.LoadTenants(tenantsExample, config.Options{BaseDomain: "gateway.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	a := ts.List[0].Record
	o := a.Authenticators[0].OIDC
	if !slices.Equal(o.Algorithms, tenant.DefaultAlgorithms()) || o.Claims.Subject != "sub" || a.Authenticators[0].DefaultRole != tenant.NoRole {
		t.Errorf("the example shows other defaults than there are: %+v", a.Authenticators[0])
	}
	if len(ts.List) != 3 || len(a.Members) != 2 || len(ts.Files) != 1 {
		t.Errorf("got %d tenants with %d members, %d files", len(ts.List), len(a.Members), len(ts.Files))
	}
}

// TestTenantsExampleHasEveryField takes the #name: lines of the example in, looks for each field at its place, and loads it
// with the files that it names.
func TestTenantsExampleHasEveryField(t *testing.T) {
	src, err := os.ReadFile(tenantsExample)
	if err != nil {
		t.Fatal(err)
	}
	whole := takeIn(string(src))
	wantPaths(t, whole, config.TenantsForm())
	whole = regexp.MustCompile(`(?m)^ +client_secret_env:.*\n`).ReplaceAllString(whole, "") // an alternative
	ca, client := root(t, "clients"), newPair(t, pairOptions{})
	path := files(t, [2]string{"tenants.yaml", whole},
		[2]string{"certs/issuer-ca.pem", root(t, "issuer")}, [2]string{"certs/clients-ca.pem", ca}, [2]string{"certs/portal-ca.pem", root(t, "portal")},
		[2]string{"certs/devices-ca.pem", "some words\n" + ca + "and more\n"}, [2]string{"certs/acme-ca.pem", ca}, [2]string{"certs/team-b-ca.pem", ca},
		[2]string{"certs/team-b-client.pem", client.chain}, [2]string{"certs/team-b-client-key.pem", client.key}, [2]string{"secrets/team-a-eab", "bWFj\n"},
		[2]string{"secrets/corp", "hunter2\n"}, [2]string{"catalogs/team-a.yaml", "servers: []\n"},
		[2]string{"policies/team-a/authz.rego", "package polygate.authz\nallow := true\n"})
	opt := testOptions()
	opt.Ceilings = tenant.Quotas{MaxServers: 20, BytesBurst: 50 << 20}
	ts, err := config.LoadTenants(path, opt)
	if err != nil {
		t.Fatal(err)
	}
	checkWhole(t, &ts.List[0], ca)
	checkWholeTLS(t, ts, ca, client)
	var read []string
	for _, f := range ts.Files {
		read = append(read, strings.TrimPrefix(f, filepath.Dir(path)+"/"))
	}
	for _, want := range []string{
		"tenants.yaml", "certs/issuer-ca.pem", "certs/clients-ca.pem", "certs/portal-ca.pem", "secrets/corp", "catalogs/team-a.yaml",
		"policies/team-a", "policies/team-a/authz.rego", "certs/devices-ca.pem", "certs/acme-ca.pem", "secrets/team-a-eab", "certs/tools.pem",
		"certs/tools-key.pem", "certs/team-b-ca.pem", "certs/team-b-client.pem", "certs/team-b-client-key.pem",
	} {
		if !slices.Contains(read, want) {
			t.Errorf("%s is not watched, but %v are", want, read)
		}
	}
}

func checkWhole(t *testing.T, d *config.Tenant, ca string) {
	t.Helper()
	r := d.Record
	if r.State != tenant.StateSuspended || r.AllowedOrigins[0] != "https://app.example.org" {
		t.Errorf("got %+v", r)
	}
	if k := r.Keys[0]; k.Role != tenant.Editor || k.Bot != "" || !k.Expires.Equal(time.Date(2035, 1, 31, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("key %+v", k)
	}
	if k, b := r.Keys[1], r.Bots[0]; k.Bot != b.ID || k.Role != b.Role || b.Source != tenant.SourceFile || b.Name != "deploy" {
		t.Errorf("key %+v of bot %+v", k, b)
	}
	by := make(map[tenant.AuthnType]*tenant.Authenticator)
	for i := range r.Authenticators {
		by[r.Authenticators[i].Type] = &r.Authenticators[i]
	}
	if l := by[tenant.AuthnOIDC].OIDC.Login; l.ClientSecret != "sealed(team-a,corp,7)" || l.SessionLife != 3600 {
		t.Errorf("login %+v", l)
	}
	if c := by[tenant.AuthnOIDC].OIDC; c.Claims.Attributes["department"] != "org.department" || c.RequiredClaims["email_verified"] != "true" || c.CA == "" {
		t.Errorf("oidc %+v", c)
	}
	if m := by[tenant.AuthnMTLS].MTLS; m.CA != ca || m.Identity != "san-uri" {
		t.Errorf("mtls %+v", m)
	}
	up := &tenant.UpstreamUsers{
		Sources: []netip.Prefix{netip.MustParsePrefix("10.1.2.0/24")}, CA: by[tenant.AuthnUpstream].Upstream.CA, Names: []string{"portal.example.com"},
		Header: "X-Remote-User", Groups: "X-Remote-Groups", Attributes: map[string]string{"X-Remote-Team": "team"},
	}
	if got := by[tenant.AuthnUpstream].Upstream; !reflect.DeepEqual(got, up) || got.CA == "" {
		t.Errorf("upstream %+v", got)
	}
	if k := by[tenant.AuthnKubernetes].Kubernetes; !slices.Equal(k.Audiences, []string{"polygate"}) || !slices.Equal(k.Namespaces, []string{"team-a"}) {
		t.Errorf("kubernetes %+v", k)
	}
	if m := r.Members; m[0].Kind != tenant.MemberUser || m[0].Role != tenant.Admin || m[1].Kind != tenant.MemberGroup || m[1].Name != "engineering" {
		t.Errorf("members %+v", m)
	}
	q := tenant.Quotas{
		MaxServers: 20, MaxConcurrentRequests: 100, RequestsPerSecond: 50, Burst: 100, MaxStreams: 50, BytesPerSecond: 10 << 20, BytesBurst: 50 << 20, MaxStoredBytes: 4 << 20,
		MaxSandboxes: 10, SandboxCPU: 4000, SandboxMemory: 8 << 30, SandboxStorage: 20 << 30, SandboxGPUs: 1, SandboxLifetime: 8 * 3600,
		PerPrincipal: tenant.Share{MaxConcurrentRequests: 20, RequestsPerSecond: 10, Burst: 20},
		PerKey:       tenant.Share{MaxConcurrentRequests: 20, RequestsPerSecond: 10, Burst: 20},
	}
	if s := r.Sandboxes; s == nil || s.PodSecurity != tenant.PodRestricted || s.Network != tenant.NetworkEnforce || s.Adopted || len(s.Images) != 1 || len(s.RuntimeClasses) != 1 || len(s.Egress) != 2 {
		t.Errorf("sandboxes %+v", s)
	}
	if r.Quotas != q {
		t.Errorf("quotas %+v", r.Quotas)
	}
	if d.Policy == nil || d.PolicyDir != "policies/team-a" || d.PolicyDigest != d.Policy.Digest() || d.PolicyDigest == "" {
		t.Errorf("policy %+v in %q, digest %q", d.Policy, d.PolicyDir, d.PolicyDigest)
	}
}

// checkWholeTLS checks what the example says of certificates and of the tenants that have gateways of their own.
func checkWholeTLS(t *testing.T, ts *config.Tenants, ca string, client pair) {
	t.Helper()
	dir := filepath.Dir(ts.Path)
	a, b, c := &ts.List[0], ts.List[1].Record, ts.List[2].Record
	if got := a.Record.TLS; *got != (tenant.TLS{MinVersion: "1.3", ClientCA: ca}) { // without the words around it
		t.Errorf("tls %+v", got)
	}
	acme := &tenant.ACME{
		Directory: "https://acme.example.org/directory", Email: "team-a@example.org", CA: ca, Profile: "shortlived",
		EABKeyID: "kid-team-a", EABKey: "sealed(team-a,certificates.acme,4)",
	}
	if got := a.Record.Certificates; got.Source != tenant.SourceACME || !reflect.DeepEqual(got.ACME, acme) {
		t.Errorf("certificates %+v %+v", got, got.ACME)
	}
	if f := a.CertificateFiles; len(f) != 1 || f[0].Cert != filepath.Join(dir, "certs/tools.pem") || f[0].Key != filepath.Join(dir, "certs/tools-key.pem") {
		t.Errorf("files %+v", f)
	}
	key := fmt.Sprintf("sealed(team-b,dedicated.client,%d)", len(client.key))
	if d := b.Dedicated; d.CA != ca || d.ServerName != "gateway.team-b.example" || d.Client != (tenant.ClientCertificate{Chain: client.chain, Key: key}) {
		t.Errorf("dedicated %+v", d)
	}
	if *c.Passthrough != (tenant.Passthrough{Upstream: "10.20.0.8:8443"}) || c.Mode != tenant.ModePassthrough {
		t.Errorf("passthrough %+v", c.Passthrough)
	}
	if w := ts.Warnings; len(w) != 1 || !strings.Contains(w[0].Error(), "must not take that for a user") || w[0].Line == 0 {
		t.Errorf("warnings %v", w)
	}
}

// TestPolicyReadOnce: tenants may share a folder, which is then compiled once.
func TestPolicyReadOnce(t *testing.T) {
	n := 0
	opt := testOptions()
	opt.CheckPolicy = func(*policy.Bundle) error { n++; return nil }
	path := files(t, [2]string{"tenants.yaml", "tenants: [{id: a, policy_dir: p}, {id: b, policy_dir: p}, {id: c, policy_dir: ./p}]"},
		[2]string{"p/a.rego", "package polygate.authz\n"})
	ts, err := config.LoadTenants(path, opt)
	if err != nil || n != 1 || ts.List[0].Policy != ts.List[2].Policy {
		t.Errorf("%d checks, %v", n, err)
	}
}

// TestBadPolicyIsWatched: what must be repaired is watched, or its repair would not be seen.
func TestBadPolicyIsWatched(t *testing.T) {
	path := files(t, [2]string{"tenants.yaml", "tenants: [{id: a, policy_dir: p}, {id: b, policy_dir: gone}]"},
		[2]string{"p/lib/a.rego", "package polygate.authz\n\nallow if wrong\n"})
	ts, err := config.LoadTenants(path, testOptions())
	dir := filepath.Dir(path)
	if err == nil || !strings.HasPrefix(err.Error(), filepath.Join(dir, "p/lib/a.rego")+":3:7: ") {
		t.Errorf("got %v, want the place in the policy", err)
	}
	for _, want := range []string{"p", "p/lib", "p/lib/a.rego", "gone"} {
		if !slices.Contains(ts.Files, filepath.Join(dir, want)) {
			t.Errorf("%s is not watched: %v", want, ts.Files)
		}
	}
	opt := testOptions()
	opt.PolicyLimits.BundleBytes = 4
	ts, err = config.LoadTenants(path, opt)
	if err == nil || !slices.Contains(ts.Files, filepath.Join(dir, "p/lib/a.rego")) {
		t.Errorf("a bundle that is too large: %v, files %v", err, ts.Files)
	}
}

// TestNoSecretWithoutSeal: a record never holds a client secret in plain.
func TestNoSecretWithoutSeal(t *testing.T) {
	opt := testOptions()
	opt.Seal = nil
	path := files(t, [2]string{"tenants.yaml", "tenants: [{id: a, authenticators: [{name: c, type: oidc, oidc: {issuer: 'https://i.example.com', login: {client_id: x, client_secret_env: TOKEN}}}]}]"})
	ts, err := config.LoadTenants(path, opt)
	if err != nil || ts.List[0].Record.Authenticators[0].OIDC.Login.ClientSecret != "" {
		t.Errorf("%v: %+v", err, ts.List[0].Record)
	}
}
