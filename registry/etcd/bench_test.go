package etcd_test

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/registry/etcd"
	"github.com/polygate/polygate/registry/registrytest"
)

func create(t testing.TB, r *registrytest.Replica, i int) error {
	t.Helper()
	id := fmt.Sprintf("tenant-%05d", i)
	record := registrytest.Record(id, registrytest.Host(id+".example.com"), registrytest.Key(id), registrytest.Key(id+"-ci"), identity)
	_, err := r.CreateTenant(t.Context(), record, registrytest.Entry("", "tenant.create"))
	return err
}

// identity gives a tenant an issuer, which all have, and three groups.
func identity(r *tenant.Record) {
	r.Authenticators = []tenant.Authenticator{{
		Name: "sso", Type: tenant.AuthnOIDC, DefaultRole: tenant.Viewer, Generation: uuid.NewString(), Source: tenant.SourceAPI,
		OIDC: &tenant.OIDC{Issuer: "https://login.example.com/realms/staff", Audiences: []string{"polygate"}, Login: &tenant.Login{ClientID: "polygate"}},
	}}
	for i, group := range []string{"readers", "developers", "administrators"} {
		r.Members = append(r.Members, tenant.Member{
			ID: uuid.NewString(), Kind: tenant.MemberGroup, Authenticator: "sso", Name: group, Role: tenant.Role(i + 1),
			Source: tenant.SourceAPI, By: "operator:token",
		})
	}
}

// TestTenThousand measures what a registry of 10,000 tenants costs, and holds the bounds: 2.25 KiB a tenant, and
// ready in good time: a third of a second where nothing else runs.
func TestTenThousand(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	const n = 10000
	e := startEmbedded(t, etcd.EmbeddedConfig{})
	b, err := e.Backend("")
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	fill(t, b, n)

	before, goroutines := heap(), runtime.NumGoroutine()
	start := time.Now()
	r := registrytest.Start(t, b, "r1")
	ready := time.Since(start)
	per := (int64(heap()) - int64(before)) / n
	t.Logf("ready after %v with %d tenants; %d bytes and %.4f goroutines per tenant", ready, r.Index().Len(), per, float64(runtime.NumGoroutine()-goroutines)/n)
	if r.Index().Len() != n || ready > 10*time.Second || per > 2304 {
		t.Errorf("%d tenants, ready after %v, %d bytes each", r.Index().Len(), ready, per)
	}
}

// fill makes n tenants, and writes some state of one, with a replica that it stops.
func fill(t *testing.T, b *etcd.Backend, n int) {
	t.Helper()
	r := registrytest.Start(t, b, "r1")
	var g errgroup.Group
	g.SetLimit(32)
	start := time.Now()
	for i := range n {
		g.Go(func() error { return create(t, r, i) })
	}
	if err := g.Wait(); err != nil {
		t.Fatalf("CreateTenant: %v", err)
	}
	t.Logf("%.0f tenants created per second, 32 at a time", float64(n)/time.Since(start).Seconds())

	c := registrytest.Claim(t, r, mustByID(t, r, "tenant-00042").Scope)
	var took []time.Duration
	for i := range 500 {
		start := time.Now()
		registrytest.Write(t, c, "server", fmt.Sprint(i%10), `{"v":1}`)
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	t.Logf("commit: median %v, p99 %v", took[len(took)/2], took[len(took)*99/100])
	r.Stop()
}

func mustByID(t testing.TB, r *registrytest.Replica, id tenant.ID) *tenant.Entry {
	t.Helper()
	e, ok := r.Index().ByID(id)
	if !ok {
		t.Fatalf("no tenant %s", id)
	}
	return e
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func BenchmarkCreateTenant(b *testing.B) {
	e := startEmbedded(b, etcd.EmbeddedConfig{})
	be, err := e.Backend(strings.ToLower(b.Name()) + "/")
	if err != nil {
		b.Fatal(err)
	}
	defer be.Close()
	r := registrytest.Start(b, be, "r1")
	defer r.Stop()
	var n atomic.Int64
	b.SetParallelism(32 / runtime.GOMAXPROCS(0))
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := create(b, r, int(n.Add(1))); err != nil {
				b.Error(err)
			}
		}
	})
}
