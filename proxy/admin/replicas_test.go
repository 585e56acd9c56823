package admin_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/proxy/admin"
)

// replicas are two, the first of which owns every tenant at the beginning.
type replicas struct {
	mu       sync.Mutex
	owner    map[tenant.ID]string
	draining map[string]bool
	entries  []audit.Entry
}

func newReplicas() *replicas {
	return &replicas{owner: map[tenant.ID]string{}, draining: map[string]bool{}}
}

func (c *replicas) names() []string { return []string{"r1", "r2"} }

func (c *replicas) Replicas() []admin.Replica {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []admin.Replica
	for _, name := range c.names() {
		state := "ready"
		if c.draining[name] {
			state = "draining"
		}
		all = append(all, admin.Replica{Name: name, Self: name == "r1", State: state, Capacity: 100})
	}
	return all
}

func (c *replicas) Owner(s tenant.Scope) admin.Owner {
	c.mu.Lock()
	defer c.mu.Unlock()
	return admin.Owner{Tenant: s.ID(), Replica: c.owner[s.ID()], Preferred: "r1"}
}

func (c *replicas) Move(_ context.Context, s tenant.Scope, to string, e audit.Entry) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if to == "" {
		to = "r2"
	}
	if !slices.Contains(c.names(), to) {
		return "", fault.New(fault.Conflict, "there is no live replica %q", to)
	}
	c.entries, c.owner[s.ID()] = append(c.entries, e), to
	return to, nil
}

func (c *replicas) Drain(_ context.Context, replica string, on bool, e audit.Entry) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entries, c.draining[replica] = append(c.entries, e), on
	return nil
}

func (c *replicas) Status(context.Context) (any, error) { return map[string]int{"tenants": 1}, nil }

// shows is want, and looks for each `"name":value` in the answer.
func (f *fixture) shows(status int, method, path, body string, pairs ...string) {
	f.t.Helper()
	got := f.want(status, method, path, body).body
	for i := 0; i < len(pairs); i += 2 {
		if text := `"` + pairs[i] + `":` + pairs[i+1]; !strings.Contains(got, text) {
			f.t.Errorf("%s %s: no %s in %s", method, path, text, got)
		}
	}
}

func TestReplicas(t *testing.T) {
	f := newFixture(t)
	all, cfg := newReplicas(), f.config()
	cfg.Cluster = all
	f.rebuild(cfg)
	f.want(201, "POST", "/api/v1/tenants", `{"id":"team-a"}`)
	f.shows(200, "GET", "/api/v1/replicas", "", "name", `"r1"`, "state", `"ready"`)
	f.shows(200, "GET", "/api/v1/replicas/r2", "", "name", `"r2"`)
	f.want(404, "GET", "/api/v1/replicas/r3", "")
	f.shows(200, "POST", "/api/v1/replicas/r2/drain", "", "state", `"draining"`)
	f.want(404, "POST", "/api/v1/replicas/r3/drain", "")
	f.shows(200, "POST", "/api/v1/replicas/r2/resume", "", "state", `"ready"`)
	f.shows(200, "GET", "/api/v1/tenants/team-a/owner", "", "preferred", `"r1"`)
	f.want(404, "GET", "/api/v1/tenants/team-b/owner", "")
	f.shows(200, "POST", "/api/v1/tenants/team-a/move", "", "replica", `"r2"`)
	f.shows(200, "POST", "/api/v1/tenants/team-a/move", `{"to":"r1"}`, "replica", `"r1"`)
	f.want(409, "POST", "/api/v1/tenants/team-a/move", `{"to":"r9"}`)
	f.want(400, "POST", "/api/v1/tenants/team-a/move", `{"too":"r1"}`)
	f.want(404, "POST", "/api/v1/tenants/team-b/move", "")
	f.want(200, "POST", "/api/v1/tenants/team-a/suspend", "")
	f.want(409, "POST", "/api/v1/tenants/team-a/move", "")
	f.shows(200, "GET", "/api/v1/status", "", "tenants", "1")
	var actions []string
	for _, e := range all.entries {
		actions = append(actions, e.Action+" "+e.Resource)
	}
	want := "replica.drain replica/r2, replica.drain replica/r2, tenant.move tenant/team-a, tenant.move tenant/team-a"
	if got := strings.Join(actions, ", "); got != want {
		t.Errorf("recorded %s\nwant %s", got, want)
	}
	cfg.Cluster = nil
	f.rebuild(cfg)
	f.want(503, "GET", "/api/v1/replicas", "")
}
