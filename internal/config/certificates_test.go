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
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/config"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// pair is a certificate with its key, as PEM.
type pair struct{ chain, key string }

type pairOptions struct {
	names         []string
	before, after time.Time // when it is valid; default around now
	ca            bool
}

func newPair(t testing.TB, o pairOptions) pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if o.after.IsZero() {
		o.before, o.after = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "pair"}, DNSNames: o.names,
		NotBefore: o.before, NotAfter: o.after, IsCA: o.ca, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pair{pemText("CERTIFICATE", der), pemText("PRIVATE KEY", pkcs8)}
}

func pemText(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// TestDeepIsNotLong: how deep a file is nested does not grow with its length.
func TestDeepIsNotLong(t *testing.T) {
	var text strings.Builder
	text.WriteString("tenants:\n")
	for i := range 200 {
		fmt.Fprintf(&text, "  - id: t%d\n    api_keys:\n      - name: ci\n        key_hash: sha256:%064d\n    quotas:\n      per_key:\n        burst: 0\n", i, i+1)
	}
	if ts := loadTenants(t, write(t, "tenants.yaml", text.String())); len(ts.List) != 200 {
		t.Errorf("got %d tenants", len(ts.List))
	}
}

// TestCertificatesAreNotReadAtLoad: a broken pair must not hold up other tenants.
func TestCertificatesAreNotReadAtLoad(t *testing.T) {
	path := files(t, [2]string{"tenants.yaml", "tenants: [{id: a, certificates: {files: [{cert_file: c/a.pem, key_file: c/a.key}]}}, {id: b}]"})
	ts := loadTenants(t, path)
	if len(ts.List) != 2 || ts.List[0].Record.Certificates != nil {
		t.Errorf("got %+v", ts.List)
	}
	for _, want := range []string{"c/a.pem", "c/a.key"} {
		if !slices.Contains(ts.Files, filepath.Join(filepath.Dir(path), want)) {
			t.Errorf("%s is not watched: %v", want, ts.Files)
		}
	}
	pairs, digest, errs := config.ReadCertificates(ts.List[0].CertificateFiles)
	if len(pairs) != 0 || digest == "" || len(errs) != 1 || !strings.Contains(errs[0].Error(), "tenants.yaml:1:") || !strings.Contains(errs[0].Msg, "the first cannot open") {
		t.Errorf("got %v, %q, %v", pairs, digest, errs)
	}
}

func TestReadCertificates(t *testing.T) {
	one, two := newPair(t, pairOptions{names: []string{"a.example.com"}}), newPair(t, pairOptions{names: []string{"x.example.org"}})
	path := files(t, [2]string{"tenants.yaml", "tenants: [{id: a, certificates: {files: [{cert_file: 1.pem, key_file: 1.key}, {cert_file: 2.pem, key_file: 2.key}]}}]"},
		[2]string{"1.pem", one.chain}, [2]string{"1.key", one.key})
	list := loadTenants(t, path).List[0].CertificateFiles
	put := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(filepath.Dir(path), name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	read := func() (int, string, int) {
		pairs, digest, errs := config.ReadCertificates(list)
		return len(pairs), digest, len(errs)
	}
	n, first, bad := read()
	if n != 1 || bad != 1 {
		t.Errorf("with one of two there: %d pairs, %d errors", n, bad)
	}
	put("2.pem", two.chain)
	put("2.key", two.key)
	n, second, bad := read()
	if n != 2 || bad != 0 || second == first {
		t.Errorf("with both: %d pairs, %d errors, digest %s after %s", n, bad, second, first)
	}
	put("2.key", strings.Repeat("x", 70<<10))
	if n, third, bad := read(); n != 1 || bad != 1 || third == second {
		t.Errorf("with a key that is too large: %d pairs, %d errors, digest %s", n, bad, third)
	}
	if _, digest, _ := config.ReadCertificates(nil); digest != "" {
		t.Errorf("of no file: %q", digest)
	}
}

// TestCheckCertificates: what is wrong with each pair is told with the place at which it is named.
func TestCheckCertificates(t *testing.T) {
	path := files(t, [2]string{"tenants.yaml", "tenants:\n  - id: a\n    hosts: [x.example.org]\n    certificates:\n      files:\n" +
		"        - {cert_file: good.pem, key_file: good.key}\n        - {cert_file: bad.pem, key_file: good.key}\n        - {cert_file: none.pem, key_file: good.key}\n  - id: b\n"},
		[2]string{"good.pem", "good"}, [2]string{"good.key", "hunter2"}, [2]string{"bad.pem", "bad"})
	var of []string
	errs := loadTenants(t, path).CheckCertificates("example.com", func(chain, key []byte, hosts []string) error {
		of = append(of, fmt.Sprintf("%s for %v", chain, hosts))
		if string(chain) == "bad" && string(key) == "hunter2" {
			return fault.New(fault.Invalid, "it expired")
		}
		return nil
	})
	if want := []string{"good for [a.example.com x.example.org]", "bad for [a.example.com x.example.org]"}; !slices.Equal(of, want) {
		t.Errorf("checked %v, want %v", of, want)
	}
	got := strings.ReplaceAll(errs.Error(), filepath.Dir(path)+"/", "")
	want := `tenants.yaml:7:11: cert_file "bad.pem", key_file "good.key": it expired` + "\n" + `tenants.yaml:8:11: cert_file "none.pem", key_file "good.key": the first cannot open: no such file or directory`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestPlatformCertificates(t *testing.T) {
	wild := newPair(t, pairOptions{names: []string{"*.example.com"}})
	dir := filepath.Dir(files(t, [2]string{"w.pem", wild.chain}, [2]string{"w.key", wild.key}, [2]string{"ca.pem", root(t, "acme")},
		[2]string{"eab", "bWFj\n"}, [2]string{"empty", ""}, [2]string{"tsig", "c2VjcmV0\n"}))
	load := func(text string) *config.Platform {
		t.Helper()
		p, err := config.LoadPlatform(write(t, "polygate.yaml", "base_domain: example.com\ncertificates:\n"+strings.ReplaceAll(text, "DIR", dir)))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := load("  files: [{cert_file: DIR/w.pem, key_file: DIR/w.key}]\n  source: acme\n  acme:\n    {email: o@example.com, ca_file: DIR/ca.pem, eab_key_id: k, eab_key_file: DIR/eab, profile: p, wildcard: true, " +
		"dns: {provider: rfc2136, rfc2136: {server: '127.0.0.1:53', key_name: k., key_file: DIR/tsig}}}\n")
	check := func(chain, _ []byte, hosts []string) error {
		if !slices.Contains(hosts, "*.example.com") || !strings.HasPrefix(string(chain), "-----BEGIN CERT") {
			return fault.New(fault.Invalid, "no certificate")
		}
		return nil
	}
	if errs := p.CheckCertificates(check); len(errs) > 0 || len(p.Warnings()) > 0 {
		t.Errorf("%v %v", errs, p.Warnings())
	}
	d, err := p.Certificates.Default()
	if err != nil || d.Source != tenant.SourceACME || d.ACME.EABKey != "bWFj" || d.ACME.EABKeyID != "k" || !strings.HasPrefix(d.ACME.CA, "-----BEGIN") || d.ACME.Profile != "p" {
		t.Errorf("%v: %+v %+v", err, d, d.ACME)
	}
	if d, err := config.Default().Certificates.Default(); err != nil || d.Source != tenant.SourceLocalCA || d.ACME.Validate("acme") != nil {
		t.Errorf("by default: %v, %+v", err, d)
	}
	p = load("  files: [{cert_file: DIR/w.key, key_file: DIR/w.key}, {cert_file: DIR/none, key_file: DIR/w.key}]\n  acme:\n    {ca_file: DIR/eab, eab_key_id: k, eab_key_file: DIR/empty, " +
		"dns: {provider: webhook, webhook: {url: 'https://dns.example.com/', token_file: DIR/none, ca_file: DIR/none}}}\n")
	var told []string
	for _, e := range p.CheckCertificates(check) {
		told = append(told, strings.ReplaceAll(e.Error(), dir, "DIR"))
	}
	all := strings.Join(told, "\n")
	for _, want := range []string{
		`polygate.yaml:3:11: cert_file "DIR/w.key", key_file "DIR/w.key": no certificate`, `cert_file "DIR/none", key_file`,
		"certificates.acme.eab_key_file: ", "certificates.acme.ca_file: ", "certificates.acme.dns.webhook.token_file: ", "certificates.acme.dns.webhook.ca_file: ",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is not told:\n%s", want, all)
		}
	}
	if _, err := p.Certificates.Default(); err == nil {
		t.Error("an account with an empty key is taken")
	}
}

func TestPlatformWarnings(t *testing.T) {
	for text, want := range map[string]string{
		"certificates: {source: acme}\n":                                                                                                            "",
		"certificates: {source: acme}\nlisten: {plain: ''}\n":                                                                                       "",
		"certificates: {source: acme, acme: {challenges: []}}\n":                                                                                    "2:24: certificates.source: is acme, but no challenge can work",
		"certificates: {source: acme, acme: {challenges: [http-01]}}\nlisten: {plain: ''}\n":                                                        "2:24: certificates.source: is acme, but no challenge can work, so that no certificate will be issued: http-01",
		"certificates: {acme: {wildcard: true}}\n":                                                                                                  "2:33: certificates.acme.wildcard: is true, but a wildcard is proven by DNS alone",
		"certificates: {source: acme, acme: {wildcard: true}}\n":                                                                                    "2:47: certificates.acme.wildcard: is true, but a wildcard is proven by DNS alone",
		"certificates: {acme: {wildcard: true, dns: {provider: webhook, webhook: {url: 'https://d.example.com'}}}}\n":                               "source is local",
		"certificates: {source: acme, acme: {challenges: [], wildcard: true, dns: {provider: webhook, webhook: {url: 'https://d.example.com'}}}}\n": "2:49: certificates.acme.challenges: certificates.acme.challenges is empty: the wildcard is ordered, but no other host",
	} {
		p, err := config.LoadPlatform(write(t, "polygate.yaml", "base_domain: example.com\n"+text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := p.Warnings().Error(); !strings.Contains(got, want) || (want == "") != (got == "") {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
}

// TestSecretsNeedSeal: without what seals them, secrets are read and left out, and what belongs to them too.
func TestSecretsNeedSeal(t *testing.T) {
	p := newPair(t, pairOptions{})
	path := files(t, [2]string{"tenants.yaml", "tenants: [{id: a, mode: dedicated, dedicated: {upstream: 'https://u.example.org', client_cert_file: c.pem, client_key_file: c.key}, " +
		"certificates: {source: acme, acme: {directory: 'https://acme.example.org', eab_key_id: k, eab_key_file: eab}}}]"},
		[2]string{"c.pem", p.chain}, [2]string{"c.key", p.key}, [2]string{"eab", "bWFj"})
	opt := testOptions()
	opt.Seal = nil
	ts, err := config.LoadTenants(path, opt)
	if err != nil {
		t.Fatal(err)
	}
	r := ts.List[0].Record
	if r.Dedicated.Client != (tenant.ClientCertificate{}) || r.Certificates.ACME.EABKey != "" || r.Certificates.ACME.EABKeyID != "" || len(ts.Warnings) != 1 {
		t.Errorf("%+v %+v %v", r.Dedicated, r.Certificates.ACME, ts.Warnings)
	}
}

func TestTenantDoubts(t *testing.T) {
	ts := loadTenants(t, write(t, "tenants.yaml", "tenants:\n  - {id: a, tls: {min_version: 1.2}}\n  - {id: b, certificates: {source: acme}}\n"+
		"  - {id: c, mode: dedicated, dedicated: {upstream: 'https://u.example.org', client_certificate: local}}\n"))
	p := config.Default()
	if got := ts.Doubts(p); len(got) != 1 {
		t.Errorf("got %v, want what is said of c's client certificate alone", got)
	}
	p.TLS.MinVersion, p.Certificates.ACME.Challenges = "1.3", nil
	got := ts.Doubts(p).Error()
	for _, want := range []string{`tenants.yaml:2:10: tenant "a": tls.min_version is 1.2`, `tenants.yaml:3:10: tenant "b": certificates.source is acme, but no challenge`, `tenants.yaml:4:41: tenant "c": its upstream`} {
		if !strings.Contains(got, want) {
			t.Errorf("got %s\nwant %s", got, want)
		}
	}
}

// TestExpiredClientCertificate: it is told, and holds up nobody.
func TestExpiredClientCertificate(t *testing.T) {
	now := testOptions().Now()
	p := newPair(t, pairOptions{before: now.Add(-2 * time.Hour), after: now.Add(-time.Hour)})
	ts := loadTenants(t, files(t, [2]string{"tenants.yaml", "tenants: [{id: a, mode: dedicated, dedicated: {upstream: 'https://u.example.org', client_cert_file: c.pem, client_key_file: c.key}}]"},
		[2]string{"c.pem", p.chain}, [2]string{"c.key", p.key}))
	if got := ts.Warnings.Error(); len(ts.Warnings) != 2 || !strings.Contains(got, "dedicated.client_cert_file \"c.pem\" expired at") {
		t.Errorf("got %s", got)
	}
}

// TestExternalAccountKeyIsBase64: a key that no server could have given is refused where it is named, and not shown.
func TestExternalAccountKeyIsBase64(t *testing.T) {
	for text, ok := range map[string]bool{"bWFj": true, "bW-_": true, "bW+/": true, "bWE=": true, "hunter2!": false, "hunter2 x": false} {
		path := files(t, [2]string{"tenants.yaml", "tenants: [{id: a, certificates: {source: acme, acme: {directory: 'https://acme.example.org', eab_key_id: k, eab_key_file: eab}}}]"}, [2]string{"eab", text})
		_, err := config.LoadTenants(path, testOptions())
		if (err == nil) != ok || err != nil && (strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "base64url")) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
