package telemetry

import (
	"context"
	"net/http/httptest"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/quota"
	"github.com/polygate/polygate/internal/tenant"
)

// clusters is some replicas' numbers, joined by a network of memory.
type clusters struct {
	of      map[string]*Cluster
	metrics map[string]*Metrics
	usage   map[string]guard.Usage
	away    string // does not answer
	garbage string // answers nonsense
}

func (c *clusters) Call(ctx context.Context, replica, _ string, body []byte) ([]byte, error) {
	switch replica {
	case c.away:
		<-ctx.Done()
		return nil, fault.New(fault.Unavailable, "no way to %s", replica)
	case c.garbage:
		return []byte("<html>"), nil
	}
	return c.of[replica].Handle(ctx, "somebody", body)
}

func newClusters(t *testing.T, names ...string) *clusters {
	c := &clusters{of: map[string]*Cluster{}, metrics: map[string]*Metrics{}, usage: map[string]guard.Usage{}}
	for i, name := range names {
		m, reg := newMetrics(t, 10)
		m.Observe(Sources{Tenants: func() int { return 7 }})
		c.metrics[name] = m
		c.of[name] = NewCluster(ClusterConfig{
			Replica: name, Replicas: func() []string { return names }, Caller: c, Gatherer: reg, Metrics: m,
			Usage:  func(tenant.ID) (guard.Usage, bool) { u, ok := c.usage[name]; return u, ok },
			Status: func() ReplicaStatus { return ReplicaStatus{Version: "v1", Tenants: i + 1} },
		})
		for range i + 1 {
			request(m.Tenant("team-a"), Result{Status: 200, Duration: 3 * time.Millisecond, BytesIn: 10})
		}
		m.Tenant("team-a").Begin()
		m.Tenant("team-a").Refused(quota.TenantRate)
	}
	return c
}

func TestMetricsOfAllReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClusters(t, "r0", "r1", "r2")
		scrape := func() map[string]string {
			w := httptest.NewRecorder()
			c.of["r0"].ServeHTTP(w, httptest.NewRequest("GET", "/metrics/cluster", nil))
			if w.Code != 200 || w.Header().Get("Content-Type") != TextType {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
			return samples(w.Body.String())
		}
		expect(t, scrape(), map[string]string{
			`polygate_tenant_requests_total{code="2xx",tenant="team-a"}`:                  "6",
			`polygate_tenant_requests_in_flight{tenant="team-a"}`:                         "3",
			`polygate_tenant_received_bytes_total{tenant="team-a"}`:                       "60",
			`polygate_tenant_request_duration_seconds_count{tenant="team-a"}`:             "6",
			`polygate_tenant_request_duration_seconds_bucket{tenant="team-a",le="0.005"}`: "6",
			`polygate_tenant_request_duration_seconds_bucket{tenant="team-a",le="0.001"}`: "0",
			`polygate_tenants{replica="r0"}`:                                              "7",
			`polygate_tenants{replica="r2"}`:                                              "7",
			`polygate_replica_up{replica="r1"}`:                                           "1",
			`polygate_tenants`:                                                            "",
		})
		c.away, c.garbage = "r2", "r1"
		began := time.Now()
		expect(t, scrape(), map[string]string{
			`polygate_tenant_requests_total{code="2xx",tenant="team-a"}`: "1",
			`polygate_replica_up{replica="r0"}`:                          "1",
			`polygate_replica_up{replica="r1"}`:                          "0",
			`polygate_replica_up{replica="r2"}`:                          "0",
			`polygate_tenants{replica="r2"}`:                             "",
		})
		if took := time.Since(began); took != time.Second {
			t.Errorf("a replica that does not answer is waited for %v", took)
		}
	})
}

func TestTenantTextOfAllReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClusters(t, "r0", "r1", "r2")
		request(c.metrics["r1"].Tenant("team-b"), Result{Status: 200})
		text, missing := c.of["r0"].TenantText(t.Context(), "team-a")
		got := samples(string(text))
		expect(t, got, map[string]string{
			`polygate_tenant_requests_total{code="2xx",tenant="team-a"}`:               "6",
			`polygate_tenant_quota_refusals_total{reason="rate",tenant="team-a"}`:      "3",
			`polygate_tenant_requests_total{code="2xx",tenant="team-b"}`:               "",
			`polygate_tenants{replica="r0"}`:                                           "",
			`polygate_tenant_request_duration_seconds_bucket{tenant="team-a",le="60"}`: "6",
		})
		if len(missing) != 0 {
			t.Errorf("missing %v", missing)
		}
		c.away = "r1"
		text, missing = c.of["r0"].TenantText(t.Context(), "team-a")
		expect(t, samples(string(text)), map[string]string{`polygate_tenant_requests_total{code="2xx",tenant="team-a"}`: "4"})
		if !slices.Equal(missing, []string{"r1"}) {
			t.Errorf("missing %v, want r1", missing)
		}
	})
}

func TestUsageOfAllReplicas(t *testing.T) {
	c := newClusters(t, "r0", "r1", "r2")
	day := time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC)
	e := &tenant.Entry{Record: &tenant.Record{ID: "team-a"}, Scope: tenant.Confine("team-a", "u")}
	limits := guard.Limits{MaxConcurrent: 9}
	own := guard.Usage{Since: day, InFlight: 1, Requests: 5, RateLeft: 2, Limits: limits, Part: 0.5, Callers: []guard.CallerUsage{{Ref: "key:a", Requests: 5, RateLeft: -1}}}
	other := guard.Usage{Since: day.Add(-time.Hour), InFlight: 2, Requests: 10, RateLeft: 3, Part: 0.25, BytesOwed: time.Second,
		Callers: []guard.CallerUsage{{Ref: "key:b", Requests: 6}, {Ref: "key:a", Requests: 4, InFlight: 2}}}
	other.Refused[quota.TenantRate] = 8
	c.usage["r0"], c.usage["r2"] = own, other
	u, missing := c.of["r0"].Usage(t.Context(), e, own)
	if len(missing) != 0 || !u.Since.Equal(other.Since) || u.InFlight != 3 || u.Requests != 15 || u.RateLeft != 5 || u.Limits != limits ||
		u.Part != 0.75 || u.BytesOwed != time.Second || u.Refused[quota.TenantRate] != 8 {
		t.Errorf("usage %+v, missing %v", u, missing)
	}
	if want := []guard.CallerUsage{{Ref: "key:a", Requests: 9, InFlight: 2, RateLeft: -1}, {Ref: "key:b", Requests: 6}}; !slices.Equal(u.Callers, want) {
		t.Errorf("callers %+v, want %+v", u.Callers, want)
	}
}

func TestStatusOfAllReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClusters(t, "r0", "r1", "r2")
		c.away = "r1"
		st := c.of["r2"].Status(t.Context())
		if len(st.Replicas) != 3 || st.Tenants != 4 || st.Requests != 4 || st.InFlight != 2 || st.Refused != 2 || !slices.Equal(st.Incomplete, []string{"r1"}) {
			t.Errorf("status %+v", st)
		}
		if r := st.Replicas[1]; r.Name != "r1" || r.Up || r.Error == "" || r.Requests != 0 {
			t.Errorf("the one that is away: %+v", r)
		}
		if r := st.Replicas[0]; r.Name != "r0" || !r.Up || r.Version != "v1" || r.Requests != 1 {
			t.Errorf("r0: %+v", r)
		}
	})
}

// TestAloneInTheCluster: without others nobody is asked.
func TestAloneInTheCluster(t *testing.T) {
	m, reg := newMetrics(t, 10)
	c := NewCluster(ClusterConfig{Replica: "r0", Gatherer: reg, Metrics: m})
	if st := c.Status(t.Context()); len(st.Replicas) != 1 || !st.Replicas[0].Up || st.Incomplete != nil {
		t.Errorf("status %+v", st)
	}
	if _, missing := c.TenantText(t.Context(), "team-a"); missing != nil {
		t.Errorf("missing %v", missing)
	}
}

func TestHandleRefusesWhatItDoesNotKnow(t *testing.T) {
	m, reg := newMetrics(t, 10)
	c := NewCluster(ClusterConfig{Replica: "r0", Gatherer: reg, Metrics: m})
	for body, want := range map[string]fault.Kind{`{`: fault.Invalid, `{}`: fault.Invalid, `{"v":1,"of":"weather"}`: fault.NotFound} {
		if _, err := c.Handle(t.Context(), "r1", []byte(body)); fault.KindOf(err) != want {
			t.Errorf("Handle(%s) = %v, want %v", body, err, want)
		}
	}
}

// FuzzUnpack: whatever a replica says, reading it ends, in an error or in families that can be written.
func FuzzUnpack(f *testing.F) {
	for _, text := range []string{"", "# TYPE polygate_a counter\npolygate_a 1\n", "polygate_b{tenant=\"x\"} 2\n", "{"} {
		packed, err := squeeze([]byte(text))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packed)
	}
	f.Fuzz(func(t *testing.T, packed []byte) {
		families, err := unpack(packed)
		if err != nil {
			return
		}
		m := newMerger()
		m.add("r0", families)
		again, err := unpack(packed)
		if err != nil {
			t.Fatal(err)
		}
		m.add("r1", again)
		if _, err := render(m.families()); err != nil {
			t.Skip(err) // duplicates within one replica's text are the replica's fault, and said
		}
	})
}
