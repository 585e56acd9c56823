package tenant

import (
	"strings"
	"testing"
)

// TestSettle: what an operator gives is not kept back by what was asked for, and the proof of a host ends with it.
func TestSettle(t *testing.T) {
	r := &Record{
		Hosts:        []string{"a.example.org", "b.example.org"},
		ProvenHosts:  []string{"b.example.org", "gone.example.org"},
		PendingHosts: []PendingHost{{Host: "a.example.org", Token: "t"}, {Host: "c.example.org", Token: "t"}},
	}
	if err := r.checkPending(); err == nil {
		t.Fatal("a host that is asked for and the tenant's is accepted")
	}
	r.Settle()
	if err := r.checkPending(); err != nil {
		t.Error(err)
	}
	if len(r.PendingHosts) != 1 || r.PendingHosts[0].Host != "c.example.org" || len(r.ProvenHosts) != 1 || r.ProvenHosts[0] != "b.example.org" {
		t.Errorf("got %+v, %q", r.PendingHosts, r.ProvenHosts)
	}
}

func TestCheckTLS(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*Record)
		says string // "" = accepted
	}{
		{"nothing", func(*Record) {}, ""},
		{"versions", func(r *Record) { r.TLS = &TLS{MinVersion: "1.3"} }, ""},
		{"an old version", func(r *Record) { r.TLS = &TLS{MinVersion: "1.1"} }, "tls.min_version"},
		{"no certificate", func(r *Record) { r.TLS = &TLS{ClientCA: "x"} }, "tls.client_ca"},
		{"a key among roots", func(r *Record) {
			r.TLS = &TLS{ClientCA: "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"}
		}, "only certificates belong there"},
		{"a source", func(r *Record) { r.Certificates = &Certificates{Source: SourceLocalCA} }, ""},
		{"an unknown source", func(r *Record) { r.Certificates = &Certificates{Source: "vault"} }, "certificates.source"},
		{"an account that is not asked for", func(r *Record) { r.Certificates = &Certificates{ACME: &ACME{Directory: "https://a.example/dir"}} }, "set source: acme"},
		{"a directory without TLS", func(r *Record) {
			r.Certificates = &Certificates{Source: SourceACME, ACME: &ACME{Directory: "http://a.example/dir"}}
		}, "certificates.acme.directory"},
		{"half an external account", func(r *Record) {
			r.Certificates = &Certificates{Source: SourceACME, ACME: &ACME{Directory: "https://a.example/dir", EABKeyID: "k"}}
		}, "belong together"},
		{"spliced to nowhere", func(r *Record) { r.Mode = ModePassthrough }, "passthrough.upstream is missing"},
		{"spliced to a URL", func(r *Record) {
			r.Mode, r.Passthrough = ModePassthrough, &Passthrough{Upstream: "https://gw.example:443"}
		}, "is not host:port"},
		{"spliced", func(r *Record) { r.Mode, r.Passthrough = ModePassthrough, &Passthrough{Upstream: "gw.example:443"} }, ""},
		{"two modes", func(r *Record) { r.Passthrough = &Passthrough{Upstream: "gw.example:443"} }, "passthrough is set but mode is virtual"},
		{"TLS settings of an upstream without TLS", func(r *Record) {
			r.Mode, r.Dedicated = ModeDedicated, &Dedicated{Upstream: "http://gw.example", Auth: AuthUpstream, ServerName: "gw.example"}
		}, "are for an https upstream"},
		{"half a client certificate", func(r *Record) {
			r.Mode, r.Dedicated = ModeDedicated, &Dedicated{Upstream: "https://gw.example", Auth: AuthUpstream, Client: ClientCertificate{Key: "k"}}
		}, "together with its key"},
		{"the proof of another's host", func(r *Record) { r.ProvenHosts = []string{"x.example.org"} }, "proven_hosts"},
	} {
		r := &Record{V: 1, UID: "u", ID: "team-a", State: StateActive, Mode: ModeVirtual, Source: SourceAPI}
		c.edit(r)
		err := r.Validate("example.com")
		if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.says)
		}
	}
}
