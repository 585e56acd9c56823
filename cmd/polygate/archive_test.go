package main

import (
	"bytes"
	"errors"
	"testing"

	"github.com/polygate/polygate/internal/archive"
	"github.com/polygate/polygate/internal/config"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// TestImportOfAlteredArchive imports archives that whoever had them has changed: each is refused before anything is made.
func TestImportOfAlteredArchive(t *testing.T) {
	cfg := new(config.Platform)
	cfg.SharedHosts, cfg.Admin.Hosts = []string{"gw.example.com"}, []string{"admin.example.com"}
	good := `{"v":1,"id":"i","name":"one","url":"https://mcp.example.com/mcp"}`
	for name, test := range map[string]struct {
		host, object, value string
		secrets             archive.Secrets
		ok                  bool
	}{
		"as it was":                       {"a.example.com", "server/one", good, archive.Secrets{"object/server/one/X-A": []byte("b")}, true},
		"the platform's shared host":      {"gw.example.com", "server/one", good, nil, false},
		"the operators' host":             {"ADMIN.example.com", "server/one", good, nil, false},
		"another kind":                    {"a.example.com", "datakey/current", `{}`, nil, false},
		"the store's own kind":            {"a.example.com", "_/0", `{}`, nil, false},
		"another tenant's key":            {"a.example.com", "server/../../t2/server/one", `{"v":1,"name":"../../t2/server/one","url":"https://a.example.com/"}`, nil, false},
		"a policy's id with a slash":      {"a.example.com", "policy/../x", `{}`, nil, false},
		"no id":                           {"a.example.com", "policy", `{}`, nil, false},
		"a name that nobody can have":     {"a.example.com", "server/One%2f", `{"v":1,"name":"One%2f","url":"https://a.example.com/"}`, nil, false},
		"another server's name":           {"a.example.com", "server/two", good, nil, false},
		"a header of HTTP itself":         {"a.example.com", "server/one", good, archive.Secrets{"object/server/one/Host": []byte("b")}, false},
		"a header that splits":            {"a.example.com", "server/one", good, archive.Secrets{"object/server/one/X-A": []byte("b\r\nX-B: c")}, false},
		"a delegation that nobody reads":  {"a.example.com", "grant/g1", `{"v":1,"id":"g2"}`, nil, false},
		"a delegation of another version": {"a.example.com", "grant/g1", `{"v":9,"id":"g1"}`, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			m := &tenantImport{
				d: &daemon{cfg: cfg}, record: &tenant.Record{Hosts: []string{test.host}},
				objects: map[string][]byte{test.object: []byte(test.value)}, secrets: test.secrets,
			}
			err := m.check()
			if test.ok != (err == nil) || err != nil && !fault.Is(err, fault.Invalid) {
				t.Errorf("check() = %v, want it to pass: %v", err, test.ok)
			}
		})
	}
}

// TestImportWithoutSecrets holds that a record is valid where what belonged to a secret was left out with it.
func TestImportWithoutSecrets(t *testing.T) {
	r := &tenant.Record{
		Dedicated:    &tenant.Dedicated{Client: tenant.ClientCertificate{Chain: "PEM"}},
		Certificates: &tenant.Certificates{ACME: &tenant.ACME{Directory: "https://ca.example.com/", EABKeyID: "kid"}},
	}
	dropHalves(r)
	if r.Dedicated.Client != (tenant.ClientCertificate{}) || r.Certificates.ACME.EABKeyID != "" {
		t.Errorf("left are %+v and %+v", r.Dedicated.Client, r.Certificates.ACME)
	}
	r.Dedicated.Client, r.Certificates.ACME.EABKeyID, r.Certificates.ACME.EABKey = tenant.ClientCertificate{Chain: "PEM", Key: "sealed"}, "kid", "sealed"
	dropHalves(r)
	if r.Dedicated.Client.Chain == "" || r.Certificates.ACME.EABKeyID == "" {
		t.Error("what has its secret was dropped")
	}
}

// TestNotArchive reads what is no archive of a tenant.
func TestNotArchive(t *testing.T) {
	var b bytes.Buffer
	w := must(archive.NewWriter(&b, archive.Manifest{Kind: archive.Tenant}))
	must(w.Close(nil, nil))
	for name, text := range map[string]string{"empty": "", "words": "polygate", "no tenant in it": b.String(), "a huge length": "polygate-archive\nM\xff\xff\xff\xff\xff\xff\xff\xff\x7f"} {
		m := &tenantImport{objects: map[string][]byte{}, secrets: archive.Secrets{}}
		if err := m.read(bytes.NewReader([]byte(text))); !errors.Is(err, archive.ErrDamaged) {
			t.Errorf("%s: %v, want ErrDamaged", name, err)
		}
	}
}

func TestRekeyState(t *testing.T) {
	for _, test := range []struct {
		phase   string
		running bool
		want    string
	}{
		{phaseDone, false, "done"},
		{phaseDone, true, "done"}, // the lock is given back after the end is written
		{phaseWrap, true, "running"},
		{phaseWrap, false, "stopped"}, // its replica died
	} {
		if got := stateName(rekeyState{Phase: test.phase}, test.running); got != test.want {
			t.Errorf("%+v: %s", test, got)
		}
	}
}
