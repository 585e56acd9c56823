package admin_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/proxy/admin"
)

// sealing is a seal that tests can read.
func sealing(id tenant.ID, name, plain string) (string, error) {
	return fmt.Sprintf("sealed(%s,%s,%x)", id, name, plain), nil
}

// certKeeper keeps certificates in memory, as the product's keeper does for whoever asks it.
type certKeeper struct {
	mu      sync.Mutex
	kept    map[string]tenant.Certificate // by owner and host
	entries []audit.Entry
	rev     int64
	fail    func(key string) error // what an import says
}

func (k *certKeeper) owner(e *tenant.Entry, host string) (string, error) {
	switch {
	case e == nil && (host == "gateway.localhost" || host == "*.localhost"):
		return "/" + host, nil
	case e != nil && (host == tenant.OwnHost(e.Scope.ID(), "localhost") || slices.Contains(e.Record.Hosts, host)):
		return string(e.Scope.ID()) + "/" + host, nil
	}
	return "", fault.New(fault.NotFound, "no certificate of the host %q", host)
}

func (k *certKeeper) hosts(e *tenant.Entry) []string {
	if e == nil {
		return []string{"gateway.localhost", "*.localhost"}
	}
	return append([]string{tenant.OwnHost(e.Scope.ID(), "localhost")}, e.Record.Hosts...)
}

func (k *certKeeper) List(ctx context.Context, e *tenant.Entry) ([]tenant.Certificate, error) {
	var all []tenant.Certificate
	for _, h := range k.hosts(e) {
		c, err := k.Get(ctx, e, h)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

func (k *certKeeper) Get(_ context.Context, e *tenant.Entry, host string) (tenant.Certificate, error) {
	name, err := k.owner(e, host)
	if err != nil {
		return tenant.Certificate{}, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if c, ok := k.kept[name]; ok {
		return c, nil
	}
	return tenant.Certificate{Host: host, Source: tenant.SourceLocalCA, State: tenant.CertificatePending}, nil
}

func (k *certKeeper) put(e *tenant.Entry, host string, entry audit.Entry, edit func(*tenant.Certificate)) (tenant.Certificate, error) {
	name, err := k.owner(e, host)
	if err != nil {
		return tenant.Certificate{}, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.rev++
	c := k.kept[name]
	c.Host, c.Revision = host, k.rev
	edit(&c)
	k.kept[name] = c
	k.entries = append(k.entries, entry)
	return c, nil
}

func (k *certKeeper) Import(_ context.Context, e *tenant.Entry, host string, chain, key []byte, rev int64, entry audit.Entry) (tenant.Certificate, error) {
	if k.fail != nil {
		return tenant.Certificate{}, k.fail(string(key))
	}
	return k.put(e, host, entry, func(c *tenant.Certificate) {
		c.Source, c.State, c.Chain = tenant.SourceProvided, tenant.CertificateReady, string(chain)
	})
}

func (k *certKeeper) Renew(_ context.Context, e *tenant.Entry, host string, entry audit.Entry) (tenant.Certificate, error) {
	return k.put(e, host, entry, func(c *tenant.Certificate) { c.Source, c.State = tenant.SourceACME, tenant.CertificatePending })
}

func (k *certKeeper) Revoke(_ context.Context, e *tenant.Entry, host string, reason int, entry audit.Entry) (tenant.Certificate, error) {
	return k.put(e, host, entry, func(c *tenant.Certificate) {
		c.Source, c.State, c.Attempts = tenant.SourceACME, tenant.CertificateRevoked, reason
	})
}

func (k *certKeeper) Remove(_ context.Context, e *tenant.Entry, host string, rev int64, entry audit.Entry) error {
	name, err := k.owner(e, host)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.kept, name)
	k.entries = append(k.entries, entry)
	return nil
}

// pemPair makes a self-signed certificate with its key.
func pemPair(t *testing.T) (chain, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	leaf, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (r reply) certificate(t *testing.T) (c admin.Certificate) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.body), &c); err != nil {
		t.Fatalf("%s: %v", r.body, err)
	}
	return c
}

// TestCertificates: the life of a certificate, of a tenant and of the platform, with the record of each change.
func TestCertificates(t *testing.T) {
	f := newFixture(t)
	f.want(201, "POST", "/api/v1/tenants", `{"id":"team-a","hosts":["a.example.com"]}`)
	chain, key := pemPair(t)
	pair := asJSON(t, admin.CertificateRequest{Chain: chain, Key: key})
	for _, c := range []struct{ all, host, resource, tenant string }{
		{"/api/v1/tenants/team-a/certificates", "a.example.com", "tenant/team-a/certificate/a.example.com", "team-a"},
		{"/api/v1/certificates", "gateway.localhost", "certificate/gateway.localhost", ""},
		{"/api/v1/certificates", "*.localhost", "certificate/*.localhost", ""},
	} {
		one := c.all + "/" + c.host
		f.certs.entries = nil
		if got := f.want(200, "GET", one, ""); got.header.Get("Etag") != "" || got.certificate(t).ResourceVersion != "" {
			t.Errorf("%s, of which none is stored: %v %s", c.host, got.header, got.body)
		}
		f.want(412, "PUT", one, pair, "If-Match", `"1"`)
		put := f.want(200, "PUT", one, pair)
		if v := put.certificate(t); v.State != tenant.CertificateReady || v.Chain != chain || put.header.Get("Etag") != `"`+v.ResourceVersion+`"` {
			t.Errorf("put of %s: %v %s", c.host, put.header, put.body)
		}
		var list admin.CertificateList
		if err := json.Unmarshal([]byte(f.want(200, "GET", c.all, "").body), &list); err != nil || len(list.Items) != 2 || list.Items[0].Host > list.Items[1].Host {
			t.Errorf("list: %+v, %v", list, err)
		}
		for _, item := range list.Items {
			if item.Chain != "" {
				t.Errorf("a list holds chains: %+v", item)
			}
		}
		f.want(412, "PUT", one, pair, "If-Match", `"99999"`)
		f.want(412, "DELETE", one, "", "If-Match", `"99999"`)
		f.want(200, "PUT", one, pair, "If-Match", put.header.Get("Etag"))
		f.want(200, "PUT", one, pair, "If-Match", "*")
		f.want(202, "POST", one+"/renew", "")
		f.want(202, "POST", one+"/renew", "{}")
		f.want(400, "POST", one+"/renew", `{"now":true}`)
		f.want(400, "POST", one+"/revoke", `{"reason":2}`)
		f.want(200, "POST", one+"/revoke", "")
		if v := f.want(200, "POST", one+"/revoke", `{"reason":1}`).certificate(t); v.State != tenant.CertificateRevoked || v.Attempts != 1 {
			t.Errorf("revoke: %+v", v)
		}
		f.want(204, "DELETE", one, "")
		f.want(404, "GET", c.all+"/other.example.com", "")
		f.want(404, "PUT", c.all+"/other.example.com", pair)
		var actions []string
		for _, e := range f.certs.entries {
			if e.Resource != c.resource || string(e.Tenant) != c.tenant || e.Principal != "operator:token" || e.RequestID == "" || e.Outcome != audit.OutcomeOK {
				t.Errorf("entry: %+v", e)
			}
			actions = append(actions, e.Action)
		}
		if got, want := fmt.Sprint(actions), "[certificate.update certificate.update certificate.update certificate.renew certificate.renew certificate.revoke certificate.revoke certificate.delete]"; got != want {
			t.Errorf("%s: entries %s, want %s", c.host, got, want)
		}
	}
	f.want(404, "GET", "/api/v1/tenants/nobody/certificates", "")
	f.want(404, "PUT", "/api/v1/tenants/nobody/certificates/a.example.com", pair)
	f.want(404, "GET", "/api/v1/certificates/a.example.com", "") // a tenant's is not the platform's
	f.want(404, "GET", "/api/v1/tenants/team-a/certificates/gateway.localhost", "")
	for _, r := range f.records.all() {
		if strings.Contains(r.Resource, "\x1b") {
			t.Errorf("record %+v", r)
		}
	}
	f.want(404, "GET", "/api/v1/certificates/%1b%5b31m", "")
	if got := f.records.all(); got[len(got)-1].Resource != "certificate/?" {
		t.Errorf("a host that none is called by is recorded as %q", got[len(got)-1].Resource)
	}
}

// TestCertificatesAbsent: without a keeper they are a 503, and the rest works.
func TestCertificatesAbsent(t *testing.T) {
	f := newFixture(t)
	cfg := f.config()
	cfg.Certificates = nil
	f.rebuild(cfg)
	f.want(201, "POST", "/api/v1/tenants", `{"id":"team-a"}`)
	f.want(503, "GET", "/api/v1/certificates", "")
	f.want(503, "GET", "/api/v1/tenants/team-a/certificates/team-a.localhost", "")
	f.want(404, "GET", "/api/v1/tenants/nobody/certificates", "")
}

// TestKeysAreNowhere: the key of a certificate that is provided is in no answer, log or record, whatever goes wrong.
func TestKeysAreNowhere(t *testing.T) {
	f := newFixture(t)
	f.want(201, "POST", "/api/v1/tenants", `{"id":"team-a"}`)
	chain, key := pemPair(t)
	secret := strings.Split(key, "\n")[1][10:40]
	good := asJSON(t, admin.CertificateRequest{Chain: chain, Key: key})
	quoted := asJSON(t, key)
	var bodies []string
	for _, path := range []string{"/api/v1/tenants/team-a/certificates/team-a.localhost", "/api/v1/certificates/gateway.localhost"} {
		f.certs.fail = nil
		bodies = append(bodies, f.want(200, "PUT", path, good).body, f.want(200, "GET", path, "").body)
		for _, fail := range []func(string) error{
			func(key string) error { return fault.New(fault.Invalid, "cannot parse %s", key) },
			func(key string) error { return fmt.Errorf("defect: %s", strings.ReplaceAll(key, "\n", "")) },
		} {
			f.certs.fail = fail
			bodies = append(bodies, f.send("PUT", path, good).body)
		}
		for _, body := range []string{
			key, quoted, `{"key":` + quoted + `}`, `{"chain":` + quoted + `}`, `{"chain":"x","key":` + quoted + `,"more":1}`, `{"chain":[` + quoted + `]}`,
			`{` + quoted + `:1}`, `{"chain":1,"key":{"` + secret + `":1}}`, `{"key":` + quoted + `,"key":` + quoted + `}`, `{"chain":"x","key":` + quoted,
			`{"chain":"x","key":` + quoted + `}` + quoted, `{"chain":"x","` + secret + `":"x"}`,
			asJSON(t, admin.CertificateRequest{Chain: strings.Repeat(chain, 1000), Key: key}),
		} {
			got := f.send("PUT", path, body)
			if got.status != 400 && got.status != 413 {
				t.Errorf("%.60s: %d %s", body, got.status, got.body)
			}
			bodies = append(bodies, got.body)
		}
	}
	everything := strings.Join(bodies, "\n") + f.log.String() + asJSON(t, f.records.all()) + asJSON(t, f.store.committed()) + asJSON(t, f.certs.entries)
	if strings.Contains(everything, secret) {
		i := strings.Index(everything, secret)
		t.Errorf("a key is shown: …%s…", everything[max(0, i-200):i+40])
	}
}

// TestHosts: operators see which hosts a tenant has, by whose word, and for which it has asked.
func TestHosts(t *testing.T) {
	f := newFixture(t)
	f.want(201, "POST", "/api/v1/tenants", `{"id":"team-a","hosts":["declared.example.com"]}`)
	now := time.Now().UTC().Truncate(time.Second)
	f.update("team-a", func(r *tenant.Record) {
		r.Hosts, r.ProvenHosts = append(r.Hosts, "proven.example.com"), []string{"proven.example.com"}
		r.PendingHosts = []tenant.PendingHost{
			{Host: "asked.example.com", Token: "tok", Created: now, LastError: "nothing there"},
			{Host: "forgotten.example.com", Token: "tok", Created: now.Add(-8 * 24 * time.Hour)},
		}
	})
	var list admin.HostList
	if err := json.Unmarshal([]byte(f.want(200, "GET", "/api/v1/tenants/team-a/hosts", "").body), &list); err != nil {
		t.Fatal(err)
	}
	want := []admin.Host{
		{Host: "asked.example.com", State: "pending", DeclaredBy: "tenant", Created: now, Expires: now.Add(7 * 24 * time.Hour), TXTName: "_polygate-challenge.asked.example.com", TXTValue: "tok", LastError: "nothing there"},
		{Host: "declared.example.com", State: "active", DeclaredBy: "operator"},
		{Host: "proven.example.com", State: "active", DeclaredBy: "tenant"},
		{Host: "team-a.localhost", State: "active", DeclaredBy: "platform"},
	}
	if !slices.Equal(list.Items, want) {
		t.Errorf("hosts:\n%+v\nwant\n%+v", list.Items, want)
	}
	f.want(404, "GET", "/api/v1/tenants/nobody/hosts", "")

	put := f.want(200, "PUT", "/api/v1/tenants/team-a", `{"hosts":["asked.example.com"]}`).tenant(t)
	if got, want := put.Hosts, []string{"asked.example.com", "proven.example.com"}; !slices.Equal(got, want) || !slices.Equal(put.ProvenHosts, want[1:]) {
		t.Errorf("a put takes hosts away that the tenant proved to own: %+v", put)
	}
	f.want(400, "PUT", "/api/v1/tenants/team-a", `{"proven_hosts":["other.example.com"]}`)
	put = f.want(200, "PUT", "/api/v1/tenants/team-a", `{"hosts":["asked.example.com"],"proven_hosts":[]}`).tenant(t)
	if got := put.Hosts; !slices.Equal(got, []string{"asked.example.com"}) || len(put.ProvenHosts) > 0 {
		t.Errorf("a put that says so does not: %+v", put)
	}
}

// update changes a record as another part of the product does.
func (f *fixture) update(id tenant.ID, edit func(*tenant.Record)) {
	f.t.Helper()
	e := audit.Entry{ID: audit.NewID(), Time: time.Now(), Tenant: id, Principal: "user:x", Action: "host.create", Decision: audit.Allow, Outcome: audit.OutcomeOK}
	if _, err := f.store.UpdateTenant(f.t.Context(), id, 0, func(r *tenant.Record) error { edit(r); return nil }, e); err != nil {
		f.t.Fatal(err)
	}
}
