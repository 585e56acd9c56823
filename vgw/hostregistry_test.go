package vgw_test

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/seal"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/registry"
	"github.com/polygate/polygate/registry/memory"
	"github.com/polygate/polygate/vgw"
)

// hostRegistry is a Mux on the real registry, in memory.
type hostRegistry struct {
	t      *testing.T
	store  *registry.Store
	mux    *vgw.Mux
	guards *guard.Set
	dns    *dns
}

type registryClaims struct{ store *registry.Store }

func (c registryClaims) Claim(ctx context.Context, s tenant.Scope) (vgw.Claim, error) {
	claim, err := c.store.Claim(ctx, s)
	if err != nil {
		return nil, err
	}
	return claim, nil
}

func newHostRegistry(t *testing.T) *hostRegistry {
	t.Helper()
	b := memory.New()
	t.Cleanup(func() { _ = b.Close() })
	s, err := registry.New(registry.Config{Backend: b, Replica: "r1", BaseDomain: "gw.test"})
	if err != nil {
		t.Fatal(err)
	}
	kek, err := seal.CreateKEK(filepath.Join(t.TempDir(), "kek"))
	if err != nil {
		t.Fatal(err)
	}
	h := &hostRegistry{t: t, store: s, guards: guard.NewSet(guard.Config{Recorder: &recorder{}, Replica: "r1"}), dns: &dns{txt: map[string][]string{}}}
	h.mux, err = vgw.NewMux(vgw.Config{
		Claims: registryClaims{s}, Records: s, Keys: kek, Guards: h.guards, BaseDomain: "gw.test", HostProof: h.dns.prove, ReservedHost: reservedHost,
	})
	if err != nil {
		t.Fatal(err)
	}
	h.start(s.Run)
	h.start(h.mux.Run)
	<-s.Ready()
	return h
}

func (h *hostRegistry) start(run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = run(ctx) })
	h.t.Cleanup(func() { cancel(); wg.Wait() })
}

// add makes a tenant with an admin's key.
func (h *hostRegistry) add(id tenant.ID, hosts ...string) {
	h.t.Helper()
	_, err := h.store.CreateTenant(h.t.Context(), &tenant.Record{
		ID: id, State: tenant.StateActive, Mode: tenant.ModeVirtual, Source: tenant.SourceAPI, Hosts: hosts,
		Keys: []tenant.Key{{ID: "k", Name: "k", Role: tenant.Admin, Source: tenant.SourceAPI, Hash: tenant.HashKey(string(id)), Created: time.Now()}},
	}, audit.Entry{ID: audit.NewID(), Time: time.Now(), Tenant: id, Action: string(authz.TenantCreate), Principal: "operator:x"})
	if err != nil {
		h.t.Fatal(err)
	}
}

// ask asks as the tenant's admin, and returns the host that is answered.
func (h *hostRegistry) ask(id tenant.ID, q request) (map[string]any, error) {
	h.t.Helper()
	e, ok := h.store.Index().ByID(id)
	if !ok {
		h.t.Fatalf("no tenant %s", id)
	}
	v, err := h.guards.For(e).Enter(tenant.Principal{Tenant: id, Kind: tenant.KindKey, ID: "k", KeyID: "k", Role: tenant.Admin}, guard.Request{ID: "req-1"})
	if err != nil {
		h.t.Fatal(err)
	}
	defer v.Leave()
	d, err := h.mux.Decide(h.t.Context(), e, q.exchange(v))
	if err != nil {
		return nil, err
	}
	out := map[string]any{}
	if body := d.(*exchange.Reply).Body; len(body) > 0 {
		err = json.Unmarshal(body, &out)
	}
	return out, err
}

func (h *hostRegistry) must(id tenant.ID, q request) map[string]any {
	h.t.Helper()
	out, err := h.ask(id, q)
	if err != nil {
		h.t.Fatalf("%s %s: %v", q.method, q.path, err)
	}
	return out
}

// whose returns whom the index routes a host to.
func (h *hostRegistry) whose(host string) tenant.ID {
	e, ok := h.store.Index().ByHost(host)
	if !ok {
		return ""
	}
	return e.Scope.ID()
}

// On the registry as it is: a host is routed from its proof to its deletion and not a moment more, and is one tenant's.
func TestHostsOnTheRegistry(t *testing.T) {
	h := newHostRegistry(t)
	h.add("team-a")
	h.add("team-b", "held.example.com")
	const host = "held.example.com"
	asked := h.must("team-a", ask(host))
	if got := h.whose(host); got != "team-b" {
		t.Errorf("asked for, %s is %q's", host, got)
	}
	h.dns.publish(host, asked["txt_value"].(string))
	_, err := h.ask("team-a", verify(host))
	var f *fault.Error
	if !errors.As(err, &f) || f.Kind != fault.Conflict || !strings.Contains(f.Detail, "holds the host") || strings.Contains(f.Detail, "team-b") {
		t.Errorf("proven while another holds it: %v", err)
	}
	if e, _ := h.store.Index().ByID("team-a"); len(e.Record.Hosts) != 0 || e.Record.PendingHosts[0].LastError != f.Detail {
		t.Errorf("the record has %v %+v", e.Record.Hosts, e.Record.PendingHosts)
	}

	const free = "free.example.com"
	h.dns.publish(free, h.must("team-a", ask(free))["txt_value"].(string))
	if got := h.whose(free); got != "" {
		t.Errorf("not proven, %s is %q's", free, got)
	}
	if got := h.must("team-a", verify(free)); got["state"] != "active" || h.whose(free) != "team-a" {
		t.Errorf("proven: %v, and it is %q's", got, h.whose(free))
	}
	h.must("team-b", ask(free))
	if _, err := h.ask("team-b", verify(free)); !fault.Is(err, fault.Conflict) || h.whose(free) != "team-a" {
		t.Errorf("by A's token it is %q's: %v", h.whose(free), err)
	}
	h.must("team-a", del("/api/v1/hosts/"+free))
	if got := h.whose(free); got != "" {
		t.Errorf("deleted, %s is %q's", free, got)
	}
	if _, err := h.ask("team-a", get("/api/v1/hosts/"+free)); !fault.Is(err, fault.NotFound) {
		t.Errorf("deleted: %v", err)
	}
}

// Of two tenants that prove the same host at once, one has it.
func TestHostIsProvenOnce(t *testing.T) {
	h := newHostRegistry(t)
	const host = "both.example.com"
	teams := []tenant.ID{"team-a", "team-b", "team-c"}
	var tokens []string
	for _, id := range teams {
		h.add(id)
		tokens = append(tokens, h.must(id, ask(host))["txt_value"].(string))
	}
	h.dns.publish(host, tokens...)
	var together sync.WaitGroup
	together.Add(len(teams))
	h.dns.onLook = func(context.Context, string) error { together.Done(); together.Wait(); return nil }
	errs := make([]error, len(teams))
	var wg sync.WaitGroup
	for i, id := range teams {
		wg.Go(func() { _, errs[i] = h.ask(id, verify(host)) })
	}
	wg.Wait()
	won := 0
	for i, id := range teams {
		e, _ := h.store.Index().ByID(id)
		switch has := len(e.Record.Hosts) == 1; {
		case errs[i] == nil && has && h.whose(host) == id:
			won++
		case fault.Is(errs[i], fault.Conflict) && !has:
		default:
			t.Errorf("%s: %v, has %v", id, errs[i], e.Record.Hosts)
		}
	}
	if won != 1 {
		t.Errorf("%d tenants have %s", won, host)
	}
}
