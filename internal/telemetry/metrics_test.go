package telemetry

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/quota"
	"github.com/polygate/polygate/internal/tenant"
)

var _ guard.Meter = (*TenantMetrics)(nil)

func newMetrics(t *testing.T, max int) (*Metrics, *prometheus.Registry) {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	m, err := NewMetrics(reg, max)
	if err != nil {
		t.Fatal(err)
	}
	return m, reg
}

// scrape returns the samples of a scrape, by name and labels.
func scrape(t *testing.T, reg *prometheus.Registry) map[string]string {
	t.Helper()
	w := httptest.NewRecorder()
	promhttp.HandlerFor(reg, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("scrape: %d %s", w.Code, w.Body)
	}
	return samples(w.Body.String())
}

func samples(text string) map[string]string {
	out := make(map[string]string)
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "} "); ok && line[0] != '#' {
			out[name+"}"] = value
		} else if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && line[0] != '#' {
			out[name] = value
		}
	}
	return out
}

func expect(t *testing.T, got map[string]string, want map[string]string) {
	t.Helper()
	for name, value := range want {
		if got[name] != value {
			t.Errorf("%s is %q, want %q", name, got[name], value)
		}
	}
}

func request(m *TenantMetrics, r Result) {
	m.Begin()
	m.End(r)
}

func TestTenantMetrics(t *testing.T) {
	m, reg := newMetrics(t, 10)
	a := m.Tenant("team-a")
	request(a, Result{Status: 200, Duration: 3 * time.Millisecond, BytesIn: 10, BytesOut: 100})
	request(a, Result{Status: 204, Duration: 2 * time.Minute, BytesIn: -1})
	request(a, Result{Status: 429, Err: fault.New(fault.RateLimited, "x"), Duration: time.Microsecond})
	request(a, Result{Status: 502, Err: fmt.Errorf("y: %w", fault.New(fault.BadUpstream, "x"))})
	request(a, Result{Status: 504, Err: fault.New(fault.UpstreamTimeout, "x")})
	request(a, Result{Status: 500, Err: errors.New("defect")})
	request(a, Result{Status: 101, Duration: time.Hour})
	request(a, Result{Status: 0, Err: fault.New(fault.Kind(200), "x")})
	a.Begin()
	want := map[string]string{
		`polygate_tenant_requests_total{code="1xx",tenant="team-a"}`:                   "1",
		`polygate_tenant_requests_total{code="2xx",tenant="team-a"}`:                   "2",
		`polygate_tenant_requests_total{code="4xx",tenant="team-a"}`:                   "1",
		`polygate_tenant_requests_total{code="5xx",tenant="team-a"}`:                   "3",
		`polygate_tenant_refusals_total{kind="rate-limited",tenant="team-a"}`:          "1",
		`polygate_tenant_refusals_total{kind="bad-upstream",tenant="team-a"}`:          "1",
		`polygate_tenant_refusals_total{kind="internal",tenant="team-a"}`:              "2",
		`polygate_tenant_requests_in_flight{tenant="team-a"}`:                          "1",
		`polygate_tenant_received_bytes_total{tenant="team-a"}`:                        "10",
		`polygate_tenant_sent_bytes_total{tenant="team-a"}`:                            "100",
		`polygate_tenant_rate_limited_total{tenant="team-a"}`:                          "1",
		`polygate_tenant_upstream_errors_total{tenant="team-a"}`:                       "2",
		`polygate_tenant_request_duration_seconds_bucket{tenant="team-a",le="0.0025"}`: "5",
		`polygate_tenant_request_duration_seconds_bucket{tenant="team-a",le="0.005"}`:  "6",
		`polygate_tenant_request_duration_seconds_bucket{tenant="team-a",le="60"}`:     "6",
		`polygate_tenant_request_duration_seconds_bucket{tenant="team-a",le="+Inf"}`:   "7",
		`polygate_tenant_request_duration_seconds_count{tenant="team-a"}`:              "7",
	}
	got := scrape(t, reg)
	expect(t, got, want)
	if _, ok := got[`polygate_tenant_refusals_total{kind="conflict",tenant="team-a"}`]; ok {
		t.Error("a kind that was never met has a series")
	}

	// The tenant's own page says the same under the same names, and nothing else.
	m.Tenant("team-b").Begin()
	own := samples(string(m.TenantText("team-a")))
	expect(t, own, want)
	for name, value := range own {
		if got[name] != value || !strings.Contains(name, `tenant="team-a"`) {
			t.Errorf("the tenant's own page says %s = %s, the platform's %q", name, value, got[name])
		}
	}
}

func TestSeriesAreBounded(t *testing.T) {
	m, reg := newMetrics(t, 2)
	for i := range 50 {
		request(m.Tenant(tenant.ID(fmt.Sprintf("team-%d", i))), Result{Status: 200, BytesIn: 1})
	}
	got := scrape(t, reg)
	expect(t, got, map[string]string{
		`polygate_tenant_requests_total{code="2xx",tenant="team-0"}`: "1",
		`polygate_tenant_requests_total{code="2xx",tenant="team-1"}`: "1",
		`polygate_tenant_requests_total{code="2xx",tenant="_other"}`: "48",
		`polygate_tenant_requests_total{code="2xx",tenant="team-2"}`: "",
	})
	if len(got) > 4*40 {
		t.Errorf("%d series for two tenants, the rest and none", len(got))
	}
	if own := samples(string(m.TenantText("team-30"))); own[`polygate_tenant_requests_total{code="2xx",tenant="team-30"}`] != "1" {
		t.Errorf("a tenant beyond the bound does not see its own metrics: %v", own)
	}
	// A counter must not fall, or every rate over it jumps; a place that is free goes to the next new tenant.
	m.Forget("team-30")
	m.Forget("team-0")
	request(m.Tenant("late"), Result{Status: 200})
	request(m.Tenant("later"), Result{Status: 200})
	expect(t, scrape(t, reg), map[string]string{
		`polygate_tenant_requests_total{code="2xx",tenant="_other"}`: "49",
		`polygate_tenant_requests_total{code="2xx",tenant="late"}`:   "1",
		`polygate_tenant_requests_total{code="2xx",tenant="team-0"}`: "",
	})
}

func TestForgetFrees(t *testing.T) {
	m, reg := newMetrics(t, 5)
	old := m.Tenant("team-a")
	old.Begin()
	m.Forget("team-a")
	m.Forget("team-a")
	m.Forget("never-seen")
	n := 0
	m.of.Range(func(any, any) bool { n++; return true })
	if n != 0 || m.named != 0 {
		t.Errorf("%d tenants held, %d named; want none", n, m.named)
	}
	old.End(Result{Status: 200}) // a request that outlives its tenant
	if m.Tenant("team-a") == old {
		t.Error("a tenant made again has the old one's metrics")
	}
	if v := scrape(t, reg)[`polygate_tenant_requests_in_flight{tenant="team-a"}`]; v != "0" {
		t.Errorf("in flight %s, want 0", v)
	}
}

// TestLateRequestLeavesNoSeries: a request that counts for its tenant just after that was deleted leaves nothing behind,
// wherever between the steps of the deletion it comes.
func TestLateRequestLeavesNoSeries(t *testing.T) {
	m, reg := newMetrics(t, 5)
	alive := true
	asked := func() {}
	m.Observe(Sources{Alive: func(tenant.ID) bool { defer asked(); return alive }})
	m.Tenant("team-a").Begin()
	alive = false // out of the index …
	m.Tenant("team-b").Begin()
	m.Forget("team-a") // … and forgotten, before the next request comes
	late := m.Tenant("team-a")
	late.Begin()
	late.End(Result{Status: 200})

	alive = true // a deletion between the question and its answer's use
	asked = func() { alive = false; m.Forget("team-c") }
	m.Tenant("team-c").Begin()
	m.of.Range(func(id, _ any) bool { t.Errorf("%v is kept", id); return true })
	if m.named != 0 {
		t.Errorf("%d places taken", m.named)
	}
	for name := range scrape(t, reg) {
		if strings.Contains(name, `tenant="team-`) {
			t.Errorf("series %s", name)
		}
	}
}

func TestQuotaAndPolicyMetrics(t *testing.T) {
	m, reg := newMetrics(t, 1)
	a, b := m.Tenant("team-a"), m.Tenant("team-b")
	for _, t := range []*TenantMetrics{a, b} {
		t.Refused(quota.TenantRate)
		t.Refused(quota.Reason(250)) // must not count elsewhere, nor crash
		t.Streams(3)
		t.Streams(-1)
		t.Policy(time.Second, false, false)
		t.Policy(time.Second/2, true, false)
		t.Policy(-time.Second, true, true)
		t.Evicted(4)
	}
	m.Tenant("team-c")
	want := map[string]string{}
	for _, name := range []string{"team-a", "_other"} {
		for series, v := range map[string]string{
			`polygate_tenant_quota_refusals_total{reason="rate",tenant="%s"}`:      "1",
			`polygate_tenant_quota_refusals_total{reason="bytes",tenant="%s"}`:     "",
			`polygate_tenant_streams{tenant="%s"}`:                                 "2",
			`polygate_tenant_policy_decisions_total{result="allowed",tenant="%s"}`: "1",
			`polygate_tenant_policy_decisions_total{result="denied",tenant="%s"}`:  "1",
			`polygate_tenant_policy_decisions_total{result="failed",tenant="%s"}`:  "1",
			`polygate_tenant_policy_seconds_total{tenant="%s"}`:                    "1.5",
			`polygate_tenant_callers_evicted_total{tenant="%s"}`:                   "4",
		} {
			want[fmt.Sprintf(series, name)] = v
		}
	}
	expect(t, scrape(t, reg), want)
	m.Forget("team-b") // its streams end with it, what it counted does not
	want[`polygate_tenant_streams{tenant="_other"}`] = "0"
	expect(t, scrape(t, reg), want)
}

func TestTenantTextOfAnUnknownTenant(t *testing.T) {
	m, _ := newMetrics(t, 5)
	text := string(m.TenantText("team-a"))
	if samples(text)[`polygate_tenant_requests_total{code="2xx",tenant="team-a"}`] != "0" {
		t.Errorf("want zeros, got %s", text)
	}
	if _, ok := m.of.Load(tenant.ID("team-a")); ok {
		t.Error("asking took memory")
	}
}

func TestPlatformMetrics(t *testing.T) {
	m, reg := newMetrics(t, 5)
	scrape(t, reg) // without sources
	m.Reload(nil)
	m.Reload(nil)
	m.Reload(errors.New("x"))
	m.CertificateOrdered(tenant.SourceACME, "")
	m.CertificateOrdered(tenant.SourceACME, "rate_limited")
	m.SplicedBegin()
	m.SplicedDone(SplicedCut, true)
	m.SplicedBegin()
	m.SplicedDone(SplicedRefused, false)
	request(m.NoTenant(), Result{Status: 401, Err: fault.New(fault.Unauthenticated, "x")})
	m.Observe(Sources{
		Tenants: func() int { return 200 }, Claims: func() int { return 3 }, Certificates: func() int { return 4 },
		Expiries: func(limit int) map[tenant.ID]time.Time {
			if limit != 5 {
				t.Errorf("the expiries of %d tenants are asked for, want 5", limit)
			}
			return map[tenant.ID]time.Time{"team-a": time.Unix(1000, 0)}
		},
		Guards: func() int { return 7 }, CallerBytes: func() int64 { return 8 }, LentRequests: func() int64 { return 9 }, LentStreams: func() int64 { return 10 },
		AuditDropped: func() uint64 { return 5 }, AuditWritten: func() uint64 { return 6 }, AuditLag: func() time.Duration { return time.Second / 2 },
	})
	expect(t, scrape(t, reg), map[string]string{
		`polygate_config_reloads_total{result="ok"}`:                             "2",
		`polygate_config_reloads_total{result="failed"}`:                         "1",
		`polygate_certificate_orders_total{result="ok",source="acme"}`:           "1",
		`polygate_certificate_orders_total{result="rate_limited",source="acme"}`: "1",
		`polygate_tenant_certificate_expiry_timestamp_seconds{tenant="team-a"}`:  "1000",
		`polygate_passthrough_connections`:                                       "1",
		`polygate_passthrough_connections_total{result="cut"}`:                   "1",
		`polygate_passthrough_connections_total{result="refused"}`:               "1",
		`polygate_tenant_refusals_total{kind="unauthenticated",tenant="_none"}`:  "1",
		`polygate_tenants`:                  "200",
		`polygate_claims`:                   "3",
		`polygate_certificates`:             "4",
		`polygate_audit_dropped_total`:      "5",
		`polygate_audit_written_total`:      "6",
		`polygate_audit_anchor_lag_seconds`: "0.5",
		`polygate_guards`:                   "7",
		`polygate_guard_callers_bytes`:      "8",
		`polygate_requests_lent`:            "9",
		`polygate_streams_lent`:             "10",
	})
}

func TestRegisterTwice(t *testing.T) {
	_, reg := newMetrics(t, 1)
	if _, err := NewMetrics(reg, 1); err == nil {
		t.Error("a second registration is accepted")
	}
}

// TestKindsAreCounted fails when a kind is added to package fault and numKinds does not know it.
func TestKindsAreCounted(t *testing.T) {
	if k := fault.Kind(numKinds); k.String() != "internal" {
		t.Errorf("kind %s is not counted: raise numKinds", k)
	}
	if k := fault.Kind(numKinds - 1); k.String() == "internal" {
		t.Error("numKinds is too large")
	}
}

func TestMetricsConcurrently(t *testing.T) {
	m, reg := newMetrics(t, 3)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j := range 500 {
				id := tenant.ID(fmt.Sprintf("team-%d", j%9))
				request(m.Tenant(id), Result{Status: 200, Duration: time.Millisecond})
				if j%100 == 99 && i == 0 {
					m.Forget(id)
					scrape(t, reg)
				}
			}
		})
	}
	wg.Wait()
	scrape(t, reg)
}

func BenchmarkRequest(b *testing.B) {
	m, err := NewMetrics(prometheus.NewRegistry(), 10)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		request(m.Tenant("team-a"), Result{Status: 200, Duration: 3 * time.Millisecond, BytesIn: 10, BytesOut: 10})
	}
}
