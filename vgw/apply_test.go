package vgw_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw"
	"github.com/polygate/polygate/vgw/catalog"
)

func decl(name, url string) catalog.Server { return catalog.Server{Name: name, URL: url} }

// apply applies a file's catalog as the system.
func (w *world) apply(id tenant.ID, file string, servers ...catalog.Server) error {
	visit, err := w.guards.Platform().Enter(tenant.System("reload"), guard.Request{})
	if err != nil {
		return err
	}
	defer visit.Leave()
	return w.mux.ApplyCatalog(context.Background(), visit, w.store.entry(id), file, servers)
}

func TestApplyCatalog(t *testing.T) {
	w := newWorld(t)
	w.store.add("team-a")
	secret := catalog.Server{Name: "b", URL: "https://b.test/", Headers: map[string]string{"Authorization": "Bearer one"}, Timeout: 5 * time.Second}
	w.addServer(t, "team-a", "mine", "https://m.test/")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(w.apply("team-a", "a.yaml", decl("a", "https://a.test/"), secret))
	first := w.as(tenant.Admin, "team-a", request{method: "GET", path: "/api/v1/servers/b"})
	if !strings.Contains(first.body, `"source":"file","file":"a.yaml"`) {
		t.Errorf("applied: %s", first.body)
	}
	commits := w.store.commits
	must(w.apply("team-a", "a.yaml", secret, decl("a", "https://a.test/")))
	if w.store.commits != commits {
		t.Error("the same catalog again was written")
	}
	secret.Headers = map[string]string{"Authorization": "Bearer two"}
	must(w.apply("team-a", "a.yaml", secret))
	if w.store.commits != commits+1 {
		t.Errorf("%d commits for one change", w.store.commits-commits)
	}
	if e := w.store.entriesA[len(w.store.entriesA)-1]; e.Action != "catalog.apply" || e.Resource != "catalog/a.yaml -a b" || e.Tenant != "team-a" || e.Principal != "system:reload" {
		t.Errorf("recorded %+v", e)
	}
	second := w.as(tenant.Admin, "team-a", request{method: "GET", path: "/api/v1/servers/b"})
	if first.header.Get("Etag") == second.header.Get("Etag") {
		t.Error("a changed header left the ETag as it was")
	}
	if got := w.as(tenant.Admin, "team-a", request{method: "GET", path: "/api/v1/servers/a"}); got.status != 404 {
		t.Errorf("removed from the file: %d", got.status)
	}
	if got := w.as(tenant.Admin, "team-a", request{method: "GET", path: "/api/v1/servers/mine"}); got.status != 200 {
		t.Errorf("the API's server: %d", got.status)
	}
	if n, err := w.mux.ServerCount(context.Background(), w.store.entry("team-a")); n != 2 || err != nil {
		t.Errorf("ServerCount = %d, %v", n, err)
	}
}

func TestApplyCatalogRefuses(t *testing.T) {
	w := newWorld(t)
	w.store.add("team-a")
	w.store.edit("team-a", func(r *tenant.Record) { r.Quotas.MaxServers = 3 })
	w.addServer(t, "team-a", "mine", "https://m.test/")
	var many []catalog.Server
	for i := range 3 {
		many = append(many, decl(fmt.Sprintf("s%d", i), "https://s.test/"))
	}
	for name, tc := range map[string]struct {
		kind    fault.Kind
		says    string
		servers []catalog.Server
	}{
		"clash with the API's": {fault.Conflict, `"mine"`, []catalog.Server{decl("a", "https://a.test/"), decl("mine", "https://x.test/")}},
		"a name twice":         {fault.Invalid, `"a"`, []catalog.Server{decl("a", "https://a.test/"), decl("a", "https://b.test/")}},
		"a bad URL":            {fault.Invalid, `"a"`, []catalog.Server{decl("a", "nonsense")}},
		"over the quota":       {fault.Conflict, "max_servers", many},
	} {
		before := w.store.dump()
		err := w.apply("team-a", "a.yaml", tc.servers...)
		if !fault.Is(err, tc.kind) || !strings.Contains(fmt.Sprint(err), tc.says) {
			t.Errorf("%s: %v", name, err)
		}
		if w.store.dump() != before {
			t.Errorf("%s: something was applied", name)
		}
	}
}

// The platform's own limit holds for the catalog of a tenant that has none, as it does for the API.
func TestApplyCatalogUnderDefaultQuota(t *testing.T) {
	w := newWorld(t, func(c *vgw.Config) {
		c.Guards = guard.NewSet(guard.Config{Recorder: &recorder{}, Defaults: guard.Defaults{MaxServers: 1}})
	})
	w.store.add("team-a")
	if err := w.apply("team-a", "a.yaml", decl("a", "https://a.test/"), decl("b", "https://b.test/")); !fault.Is(err, fault.Conflict) {
		t.Errorf("two servers, one allowed: %v", err)
	}
}

// A catalog that is larger than a transaction is applied in several.
func TestApplyLargeCatalog(t *testing.T) {
	w := newWorld(t)
	w.store.add("team-a")
	var many []catalog.Server
	for i := range 250 {
		many = append(many, decl(fmt.Sprintf("s%d", i), "https://s.test/"))
	}
	w.store.onCommit = func(_ tenant.Scope, writes []tenant.Write) (error, error) {
		if len(writes) > 100 {
			return fmt.Errorf("%d writes", len(writes)), nil
		}
		return nil, nil
	}
	if err := w.apply("team-a", "a.yaml", many...); err != nil {
		t.Fatal(err)
	}
	if n, _ := w.mux.ServerCount(context.Background(), w.store.entry("team-a")); n != 250 {
		t.Errorf("%d servers", n)
	}
}

// One whose headers are large is cut by bytes as well: etcd refuses requests above 1.5 MiB.
func TestApplyHeavyCatalog(t *testing.T) {
	w := newWorld(t)
	w.store.add("team-a")
	headers := make(map[string]string)
	for i := range catalog.MaxHeaders {
		headers[fmt.Sprintf("X-H%d", i)] = strings.Repeat("v", catalog.MaxHeaderValue)
	}
	var many []catalog.Server
	for i := range 40 {
		many = append(many, catalog.Server{Name: fmt.Sprintf("s%d", i), URL: "https://s.test/", Headers: headers})
	}
	w.store.onCommit = func(_ tenant.Scope, writes []tenant.Write) (error, error) {
		n := 0
		for _, w := range writes {
			n += len(w.Value)
		}
		if n > 1<<20 {
			return fmt.Errorf("%d bytes", n), nil
		}
		return nil, nil
	}
	if err := w.apply("team-a", "a.yaml", many...); err != nil {
		t.Fatal(err)
	}
}
