package admin_test

import (
	"strings"
	"testing"

	"github.com/polygate/polygate/internal/tenant"
)

func (f *fixture) record(id tenant.ID) *tenant.Record {
	f.t.Helper()
	e, ok := f.store.ByID(id)
	if !ok {
		f.t.Fatalf("no tenant %s", id)
	}
	return e.Record
}

// TestPassthroughTenant: the mode, what goes with it, and the way back.
func TestPassthroughTenant(t *testing.T) {
	f := newFixture(t)
	ca, _ := pemPair(t)
	got := f.want(201, "POST", "/api/v1/tenants", `{"id":"team-a","mode":"passthrough","passthrough":{"upstream":"gw.internal:8443","proxy_protocol":true},
		"tls":{"min_version":"1.3","client_ca":`+asJSON(t, ca)+`}}`).tenant(t)
	if got.Mode != tenant.ModePassthrough || *got.Passthrough != (tenant.Passthrough{Upstream: "gw.internal:8443", ProxyProtocol: true}) || got.TLS.MinVersion != "1.3" || got.TLS.ClientCA != ca {
		t.Errorf("created: %+v", got)
	}
	f.want(201, "POST", "/api/v1/tenants", `{"id":"team-a","mode":"passthrough","passthrough":{"upstream":"gw.internal:8443","proxy_protocol":true},
		"tls":{"min_version":"1.3","client_ca":`+asJSON(t, ca)+`}}`, "Idempotency-Key", "1")
	for _, differs := range []string{
		`"passthrough":{"upstream":"gw.internal:8443"},"tls":{"min_version":"1.3","client_ca":` + asJSON(t, ca) + `}`,
		`"passthrough":{"upstream":"gw.internal:8443","proxy_protocol":true},"tls":{"client_ca":` + asJSON(t, ca) + `}`,
		`"passthrough":{"upstream":"gw.internal:8443","proxy_protocol":true},"tls":{"min_version":"1.3","client_ca":` + asJSON(t, ca) + `},"certificates":{"source":"local"}`,
	} {
		f.want(409, "POST", "/api/v1/tenants", `{"id":"team-a","mode":"passthrough",`+differs+`}`, "Idempotency-Key", "1")
	}
	got = f.want(200, "PUT", "/api/v1/tenants/team-a", `{"tls":{}}`).tenant(t)
	if got.Mode != tenant.ModeVirtual || got.Passthrough != nil || got.TLS != nil {
		t.Errorf("put back: %+v", got)
	}
	for _, c := range []struct{ body, detail string }{
		{`{"mode":"passthrough"}`, "passthrough.upstream is missing"},
		{`{"mode":"virtual","passthrough":{"upstream":"a:1"}}`, "passthrough is set but mode is virtual"},
		{`{"mode":"passthrough","passthrough":{"upstream":"https://a"}}`, "passthrough.upstream"},
		{`{"mode":"passthrough","passthrough":{"upstream":"a:1","tls":true}}`, "(/passthrough/tls): unknown field"},
		{`{"tls":{"min_version":"1.1"}}`, "tls.min_version"},
		{`{"tls":{"client_ca":"x"}}`, "tls.client_ca"},
		{`{"certificates":{"source":"magic"}}`, "certificates.source"},
		{`{"certificates":{"source":"local","acme":{"directory":"https://a"}}}`, "certificates.acme is set but source"},
		{`{"certificates":{"source":"acme","acme":{"directory":"http://a"}}}`, "certificates.acme.directory"},
		{`{"certificates":{"source":"acme","acme":{"directory":"https://a","eab_key_id":"k"}}}`, "certificates.acme.eab_key is missing"},
		{`{"certificates":{"source":"acme","acme":{"directory":"https://a","eab_key":"c2VjcmV0"}}}`, "eab_key_id"},
		{`{"certificates":{"source":"acme","acme":{"directory":"https://a","eab_key_id":"k","eab_key":"§"}}}`, "certificates.acme.eab_key is no base64url"},
		{`{"certificates":{"digest":"x"}}`, "(/certificates/digest): unknown field"},
		{`{"mode":"dedicated","dedicated":{"upstream":"http://a","ca":` + asJSON(t, ca) + `}}`, "https upstream"},
		{`{"mode":"dedicated","dedicated":{"upstream":"https://a","ca":"x"}}`, "dedicated.ca"},
		{`{"mode":"dedicated","dedicated":{"upstream":"https://a","server_name":"A"}}`, `"A"`},
		{`{"mode":"dedicated","dedicated":{"upstream":"https://a","client":{"chain":` + asJSON(t, ca) + `}}}`, "dedicated.client.key is missing"},
		{`{"mode":"dedicated","dedicated":{"upstream":"https://a","client":{"key":"x"}}}`, "dedicated.client"},
		{`{"mode":"dedicated","dedicated":{"upstream":"https://a","client":{"local":true,"chain":"x","key":"y"}}}`, "dedicated.client.local"},
	} {
		if got := f.want(400, "PUT", "/api/v1/tenants/team-a", c.body).detail(t); !strings.Contains(got, c.detail) {
			t.Errorf("%s: %q, want it to hold %q", c.body, got, c.detail)
		}
	}
}

// TestTenantSecretsAreWriteOnly: what is secret of a tenant's settings is sealed, is in no answer, log or record, and stays
// as it is where what was read is written again.
func TestTenantSecretsAreWriteOnly(t *testing.T) {
	f := newFixture(t)
	chain, key := pemPair(t)
	other, otherKey := pemPair(t)
	const eab = "ZWFiLWNhbmFyeS1zZWNyZXQ"
	body := func(chain, key, eab string) string {
		return `{"mode":"dedicated","dedicated":{"upstream":"https://gw.internal","server_name":"gw.example.com","client":{"chain":` + asJSON(t, chain) + key + `}},
			"certificates":{"source":"acme","acme":{"directory":"https://ca.example.com/dir","eab_key_id":"kid"` + eab + `}}`
	}
	withKey := `,"key":` + asJSON(t, key)
	var bodies []string
	say := func(r reply) reply { bodies = append(bodies, r.body); return r }
	say(f.want(201, "POST", "/api/v1/tenants", body(chain, withKey, `,"eab_key":"`+eab+`"`)+`,"id":"team-a"}`))
	check := func(what string) {
		t.Helper()
		r := f.record("team-a")
		wantKey, _ := sealing("team-a", "dedicated.client", key)
		wantEAB, _ := sealing("team-a", "certificates.acme", eab)
		if r.Dedicated.Client.Key != wantKey || r.Certificates.ACME.EABKey != wantEAB {
			t.Errorf("%s: sealed %.60q and %q", what, r.Dedicated.Client.Key, r.Certificates.ACME.EABKey)
		}
	}
	check("created")
	rev := f.record("team-a").Revision
	get := say(f.want(200, "GET", "/api/v1/tenants/team-a", ""))
	if v := get.tenant(t); v.Dedicated.Client.Chain != chain || v.Dedicated.Client.Key != "" || v.Certificates.ACME.EABKeyID != "kid" || v.Certificates.ACME.EABKey != "" || v.Dedicated.ServerName != "gw.example.com" {
		t.Errorf("read: %s", get.body)
	}
	say(f.want(200, "GET", "/api/v1/tenants", ""))
	say(f.want(200, "PUT", "/api/v1/tenants/team-a", body(chain, "", "")+"}"))
	say(f.want(200, "PUT", "/api/v1/tenants/team-a", body(chain, withKey, `,"eab_key":"`+eab+`"`)+"}"))
	if check("written again"); f.record("team-a").Revision != rev {
		t.Error("the same again was a change")
	}
	f.update("team-a", func(r *tenant.Record) { r.Certificates.Digest = "sha256:files" })
	say(f.want(200, "PUT", "/api/v1/tenants/team-a", body(chain, "", "")+"}"))
	if check("with a digest"); f.record("team-a").Certificates.Digest != "sha256:files" {
		t.Error("a put lost what was imported from files")
	}
	for _, bad := range []string{
		body(other, "", "") + "}",      // another certificate, without its key
		body(other, withKey, "") + "}", // of another certificate
		body(chain, `,"key":`+asJSON(t, strings.Replace(key, "\nMI", "\nAA", 1)), "") + "}",
		strings.Replace(body(chain, withKey, ""), "ca.example.com", "evil.example.com", 1) + "}", // the account of another server
		strings.Replace(body(chain, withKey, ""), `"kid"`, `"other"`, 1) + "}",
		`{"dedicated":{"client":` + asJSON(t, key) + `}}`, `{"dedicated":{"client":{"key":["` + eab + `"]}}}`, `{"certificates":"` + eab + `"}`,
		`{"certificates":{"acme":{"eab_key":["` + eab + `"]}}}`, `{"api_keys":[{"name":"x","expires":"` + eab + `"}]}`,
	} {
		say(f.want(400, "PUT", "/api/v1/tenants/team-a", bad))
	}
	say(f.want(200, "PUT", "/api/v1/tenants/team-a", body(other, `,"key":`+asJSON(t, otherKey), "")+"}"))
	if r := f.record("team-a"); r.Dedicated.Client.Chain != other {
		t.Errorf("the certificate was not replaced")
	}
	say(f.want(200, "PUT", "/api/v1/tenants/team-a", `{"mode":"dedicated","dedicated":{"upstream":"https://gw.internal","client":{"local":true}}}`))
	if r := f.record("team-a"); !r.Dedicated.Client.Local || r.Dedicated.Client.Key != "" || r.Certificates.ACME != nil {
		t.Errorf("put without secrets: %+v, %+v", r.Dedicated, r.Certificates)
	}
	cfg := f.config()
	cfg.Seal = nil
	f.rebuild(cfg)
	say(f.want(501, "PUT", "/api/v1/tenants/team-a", body(chain, withKey, "")+"}"))

	everything := strings.Join(bodies, "\n") + f.log.String() + asJSON(t, f.records.all()) + asJSON(t, f.store.committed())
	for what, secret := range map[string]string{"the key": strings.Split(key, "\n")[1][10:40], "the EAB key": eab, "a sealed secret": "sealed("} {
		if i := strings.Index(everything, secret); i >= 0 {
			t.Errorf("%s is shown: …%s…", what, everything[max(0, i-200):i+40])
		}
	}
}
