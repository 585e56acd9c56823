package config_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/polygate/polygate/internal/tenant"
)

// TestPlanKeepsProvenHosts: what a tenant proved to own, and what waits for its proof, no file takes away.
func TestPlanKeepsProvenHosts(t *testing.T) {
	r := newRegistry(t)
	r.want("tenants: [{id: a, hosts: [x.example.org]}]", "create a", "")
	a := r.records["a"]
	a.Hosts, a.ProvenHosts = append(a.Hosts, "mine.example.net"), []string{"mine.example.net"}
	a.PendingHosts = []tenant.PendingHost{{Host: "p.example.net", Token: "t"}, {Host: "q.example.net", Token: "t"}}
	a.Certificates = &tenant.Certificates{Digest: "sha256:1"}
	r.want("tenants: [{id: a, hosts: [x.example.org]}]", "", "")
	r.want("tenants: [{id: a, hosts: [y.example.org, p.example.net], certificates: {source: provided}}]", "update a", "")
	a = r.records["a"]
	if !slices.Equal(a.Hosts, []string{"y.example.org", "p.example.net", "mine.example.net"}) || !slices.Equal(a.ProvenHosts, []string{"mine.example.net"}) {
		t.Errorf("hosts %v, of which %v are proven", a.Hosts, a.ProvenHosts)
	}
	if len(a.PendingHosts) != 1 || a.PendingHosts[0].Host != "q.example.net" {
		t.Errorf("pending %v: want that alone which is not declared", a.PendingHosts)
	}
	if *a.Certificates != (tenant.Certificates{Source: tenant.SourceProvided, Digest: "sha256:1"}) {
		t.Errorf("certificates %+v", a.Certificates)
	}
	// Declared as well, and taken out again: it is still the tenant's own.
	r.want("tenants: [{id: a, hosts: [mine.example.net]}]", "update a", "")
	r.want("tenants: [{id: a}]", "", "")
	if a = r.records["a"]; !slices.Equal(a.Hosts, []string{"mine.example.net"}) || *a.Certificates != (tenant.Certificates{Digest: "sha256:1"}) {
		t.Errorf("hosts %v, certificates %+v", a.Hosts, a.Certificates)
	}
}

// TestPlanProvenHostIsNotGivenAway: to no other tenant, not even once its owner vanished from the file.
func TestPlanProvenHostIsNotGivenAway(t *testing.T) {
	r := newRegistry(t)
	r.want("tenants: [{id: a, hosts: [x.example.org]}, {id: b}]", "create a, create b", "")
	a := r.records["a"]
	a.Hosts, a.ProvenHosts = append(a.Hosts, "mine.example.net"), []string{"mine.example.net"}
	const clash = `host "mine.example.net" of tenant "b" belongs to tenant "a", which proved to own it: it stays there until it is given up (polygate host remove mine.example.net)`
	r.want("tenants: [{id: a, hosts: [x.example.org]}, {id: b, hosts: [mine.example.net]}]", "", clash)
	r.want("tenants: [{id: b, hosts: [mine.example.net]}]", "suspend a", clash)
	r.want("tenants: [{id: b, hosts: [x.example.org]}]", "release a, update b", "") // that one a had from the file alone
	if a := r.records["a"]; !slices.Equal(a.Hosts, []string{"mine.example.net"}) {
		t.Errorf("a has %v", a.Hosts)
	}
}

// TestPlanTooManyHosts: with those that were proven, a tenant may have too many.
func TestPlanTooManyHosts(t *testing.T) {
	r := newRegistry(t)
	r.want("tenants: [{id: a}]", "create a", "")
	a := r.records["a"]
	for _, c := range "abcdefghijklmnop" {
		a.ProvenHosts = append(a.ProvenHosts, string(c)+".example.net")
	}
	a.Hosts = slices.Clone(a.ProvenHosts)
	r.want("tenants: [{id: a, hosts: [z.example.net]}]", "", `tenant "a" cannot be so together with what was made of it through the API: 17 hosts`)
}

// TestPlanModeKeepsTheRest: a change of the mode changes nothing else.
func TestPlanModeKeepsTheRest(t *testing.T) {
	const rest = ", api_keys: [{name: ci, key_hash: 'sha256:0000000000000000000000000000000000000000000000000000000000000001'}], " +
		"hosts: [x.example.org], tls: {min_version: '1.3'}, certificates: {source: acme, acme: {directory: 'https://acme.example.org'}}}]"
	r := newRegistry(t)
	r.want("tenants: [{id: a"+rest, "create a", "")
	a := r.records["a"]
	a.Hosts, a.ProvenHosts = append(a.Hosts, "mine.example.net"), []string{"mine.example.net"}
	a.CatalogDigest, a.Certificates.Digest = "hmac-sha256:00", "sha256:1"
	a.Policy = &tenant.PolicyRef{Digest: "sha256:" + strings.Repeat("2", 64), Source: tenant.SourceAPI}
	was := *a
	for _, mode := range []string{
		"mode: dedicated, dedicated: {upstream: 'https://u.example.org:8443', client_certificate: local, server_name: u.example.org}",
		"mode: passthrough, passthrough: {upstream: 'u.example.org:8443', proxy_protocol: true}",
		"mode: virtual",
	} {
		r.want("tenants: [{id: a, "+mode+rest, "update a", "")
		got := *r.records["a"]
		switch got.Mode {
		case tenant.ModeDedicated:
			if !got.Dedicated.Client.Local || got.Dedicated.ServerName != "u.example.org" {
				t.Errorf("%+v", got.Dedicated)
			}
		case tenant.ModePassthrough:
			if !got.Passthrough.ProxyProtocol || got.Dedicated != nil {
				t.Errorf("%+v", got)
			}
		}
		got.Mode, got.Dedicated, got.Passthrough = was.Mode, nil, nil
		if want := stored(t, &was); !sameJSON(t, &got, want) {
			t.Errorf("%s:\n got %+v\nwant %+v", mode, got, want)
		}
	}
}

func sameJSON(t *testing.T, a, b *tenant.Record) bool {
	t.Helper()
	x, y := *stored(t, a), *stored(t, b)
	x.Updated = y.Updated
	return jsonOf(t, x) == jsonOf(t, y)
}

func jsonOf(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
