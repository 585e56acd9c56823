package vgw_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

// newRoot returns a self-signed certificate as JSON text of its PEM.
func newRoot(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// an admin cannot make admins by having others believed to be some. What takes away, or concerns roles below its own
// alone, is its to change.
func TestA2AdminsAreNotMadeByAuthenticators(t *testing.T) {
	a, b := newRoot(t), newRoot(t)
	text := func(s string) string { out, _ := json.Marshal(s); return string(out) }
	mtls := func(ca, more string) string { return `{"type":"mtls","mtls":{"ca":` + text(ca) + more + `}}` }
	upstream := func(s string) string { return `{"type":"upstream","upstream":{"header":"X-User",` + s + `}}` }
	oidc := func(s string) string { return `{"type":"oidc","oidc":{"issuer":"https://idp.test"` + s + `}}` }
	kube := func(s string) string { return `{"type":"kubernetes","kubernetes":{` + s + `}}` }
	up := upstream(`"sources":["10.1.0.0/16"],"groups_header":"X-Groups","ca":` + text(a+b) + `,"names":["lb","lc"]`)
	for name, tc := range map[string]struct{ have, next, field string }{
		"another CA":            {mtls(a, ""), mtls(b, ""), "mtls.ca"},
		"one CA more":           {mtls(a, ""), mtls(a+b, ""), "mtls.ca"},
		"one CA less":           {mtls(a+b, ""), mtls(b, ""), ""},
		"units are groups":      {mtls(a, ""), mtls(a, `,"groups":true`), "mtls.groups"},
		"another source":        {up, upstream(`"sources":["0.0.0.0/0"]`), "upstream.sources"},
		"a part of the source":  {up, upstream(`"sources":["10.1.2.0/24"],"attribute_headers":{"X-Team":"team"}`), ""},
		"another upstream's CA": {up, upstream(`"ca":` + text(newRoot(t)) + `,"names":["lb"]`), "upstream.ca"},
		"another name":          {up, upstream(`"ca":` + text(a) + `,"names":["mine"]`), "upstream.names"},
		"other groups":          {up, upstream(`"sources":["10.1.0.0/16"],"groups_header":"X-Mine"`), "upstream.groups_header"},
		"a CA for an issuer":    {oidc(""), oidc(`,"ca":` + text(a)), "oidc.ca"},
		"groups elsewhere":      {oidc(""), oidc(`,"claims":{"groups":"nickname"}`), "oidc.claims.groups"},
		"another audience":      {oidc(`,"audiences":["gw"]`), oidc(`,"audiences":["gw","mine"]`), "oidc.audiences"},
		"any client":            {oidc(`,"client_ids":["gw"]`), oidc(""), "oidc.client_ids"},
		"fewer audiences":       {oidc(`,"audiences":["gw","x"]`), oidc(`,"audiences":["gw"],"client_ids":["c"],"required_scopes":["s"]`), ""},
		"another pod audience":  {kube(`"audiences":["gw"]`), kube(`"audiences":["mine"]`), "kubernetes.audiences"},
	} {
		t.Run(name, func(t *testing.T) {
			w := full(t)
			w.store.add("team-a")
			admin := w.principal("team-a", tenant.Admin)
			w.must(t, "team-a", admin, post("/api/v1/authenticators", `{"name":"corp",`+tc.have[1:]), 201)
			w.must(t, "team-a", admin, post("/api/v1/members", `{"kind":"group","authenticator":"corp","name":"ops","role":"editor"}`), 201)
			change := put("/api/v1/authenticators/corp", tc.next)
			promote := func() {
				w.store.edit("team-a", func(r *tenant.Record) { r.Members[0].Role = tenant.Admin })
			}
			if tc.field == "" {
				promote()
				w.must(t, "team-a", admin, change, 200)
				return
			}
			w.must(t, "team-a", admin, change, 200) // editors are its to make
			w.must(t, "team-a", admin, put("/api/v1/authenticators/corp", tc.have), 200)
			promote()
			before := w.store.entry("team-a").Record
			w.says(t, "team-a", admin, change, 403, tc.field)
			if got := w.store.entry("team-a").Record; got != before {
				t.Errorf("the record was changed: %+v", got.Authenticators)
			}
		})
	}
}
