package admin_test

import (
	"strings"
	"testing"
)

// TestA1Harden: what operators decide of sandboxes is theirs alone to declare, an adopted namespace is hardened by one
// operation, and no declaration can say that it was.
func TestA1Harden(t *testing.T) {
	f := newFixture(t)
	f.want(201, "POST", "/api/v1/tenants", `{"id":"team-a","namespace":"old","sandboxes":{"adopted":true,"egress":["internet:443"]}}`)
	f.want(201, "POST", "/api/v1/tenants", `{"id":"team-b"}`)
	if got := f.want(409, "POST", "/api/v1/tenants/team-b/harden", ""); !strings.Contains(got.detail(t), "not adopted") {
		t.Errorf("harden what is not adopted: %s", got.body)
	}
	if got := f.want(400, "PUT", "/api/v1/tenants/team-a", `{"namespace":"old","sandboxes":{"adopted":true,"hardened":true}}`); !strings.Contains(got.detail(t), "tenant harden") {
		t.Errorf("declared hard: %s", got.body)
	}
	hard := f.want(200, "POST", "/api/v1/tenants/team-a/harden", "").tenant(t)
	if hard.Sandboxes == nil || !hard.Sandboxes.Hardened || hard.Sandboxes.Observed() || len(hard.Sandboxes.Egress) != 1 {
		t.Errorf("hardened: %+v", hard.Sandboxes)
	}
	if got := f.want(200, "PUT", "/api/v1/tenants/team-a", `{"namespace":"old","sandboxes":{"adopted":true}}`).tenant(t); !got.Sandboxes.Hardened {
		t.Error("a declaration softened the namespace")
	}
	if got := f.want(200, "PUT", "/api/v1/tenants/team-a", `{"namespace":"new","sandboxes":{"adopted":true}}`).tenant(t); got.Sandboxes.Hardened {
		t.Error("another namespace is taken for a hardened one")
	}
	for body, want := range map[string]string{
		`{"sandboxes":{"adopted":true}}`:                            "namespace is missing",
		`{"sandboxes":{"pod_security":"none"}}`:                     "pod_security",
		`{"sandboxes":{"network":"off"}}`:                           "network",
		`{"sandboxes":{"images":["a/b:1"]}}`:                        "tag",
		`{"sandboxes":{"egress":["169.254.169.254/32"]}}`:           "no sandbox may reach",
		`{"sandboxes":{"egress":["10.0.0.1/8"]}}`:                   "10.0.0.0/8",
		`{"namespace":"kube-system"}`:                               "belongs to the cluster",
		`{"sandboxes":{"service_account":"admin"}}`:                 "unknown field",
		`{"quotas":{"max_sandboxes":-1}}`:                           "max_sandboxes",
		`{"namespace":"x","sandboxes":{"runtime_classes":["A b"]}}`: "RuntimeClass",
	} {
		if got := f.want(400, "PUT", "/api/v1/tenants/team-b", body); !strings.Contains(got.detail(t), want) {
			t.Errorf("%s: %s, want %q", body, got.body, want)
		}
	}
}
