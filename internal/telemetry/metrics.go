package telemetry

import (
	"bytes"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/quota"
	"github.com/polygate/polygate/internal/tenant"
)

// The values of the label tenant that are no tenant's: an id holds no '_'.
const (
	labelOther = "_other" // the sum of all tenants beyond the bound
	labelNone  = "_none"  // requests that no tenant could be found for
)

// Metrics counts what happens on this replica. It is safe for concurrent use.
type Metrics struct {
	names descs
	max   int
	none  *TenantMetrics

	of sync.Map // tenant.ID -> *member

	mu    sync.Mutex
	named int    // guarded by mu: how many members have a series of their own
	gone  totals // guarded by mu: what forgotten members of _other had counted, so that no counter ever falls

	goneSandboxes sandboxTotals // guarded by mu: likewise

	reloads  [2]atomic.Uint64 // ok, failed
	orders   orders
	spliced  spliced
	platform atomic.Pointer[Sources]
}

type member struct {
	metrics TenantMetrics
	named   bool
}

// NewMetrics registers the metrics. At most maxTenants tenants, in the order of their first requests, have series of
// their own; the others are summed as "_other". A tenant that is forgotten gives its place to the next new one.
func NewMetrics(reg prometheus.Registerer, maxTenants int) (*Metrics, error) {
	m := &Metrics{names: newDescs(), max: maxTenants, none: new(TenantMetrics)}
	if err := reg.Register(m); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return m, nil
}

// Tenant returns the metrics of a tenant, which must exist: an unknown name would take memory for good. Those of a tenant
// that Sources.Alive does not know are not kept. It is asked after they are: a tenant that goes before the question is
// seen by it, one that goes after it is followed by Forget.
func (m *Metrics) Tenant(id tenant.ID) *TenantMetrics {
	if t, ok := m.of.Load(id); ok {
		return &t.(*member).metrics
	}
	t := m.add(id)
	if s := m.platform.Load(); s != nil && s.Alive != nil && !s.Alive(id) {
		m.Forget(id)
	}
	return t
}

func (m *Metrics) add(id tenant.ID) *TenantMetrics {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t, ok := m.of.Load(id); ok {
		return &t.(*member).metrics
	}
	t := &member{named: m.named < m.max}
	if t.named {
		m.named++
	}
	m.of.Store(id, t)
	return &t.metrics
}

// NoTenant returns the metrics of requests for which no tenant could be found.
func (m *Metrics) NoTenant() *TenantMetrics { return m.none }

// Forget drops the metrics of a tenant that was deleted. Requests in flight may still count into what is dropped.
func (m *Metrics) Forget(id tenant.ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.of.LoadAndDelete(id)
	if !ok {
		return
	}
	t := v.(*member)
	if t.named {
		m.named--
		return
	}
	m.gone.add(&t.metrics)
	m.gone.inFlight, m.gone.streams = 0, 0
	if c := t.metrics.sandboxes.Load(); c != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		m.goneSandboxes.fold(sandboxTotals{any: true, sum: c.sum})
	}
}

// Reload counts a reload of the configuration; err says why it was refused.
func (m *Metrics) Reload(err error) {
	if err != nil {
		m.reloads[1].Add(1)
		return
	}
	m.reloads[0].Add(1)
}

// Sources are read at each scrape. A nil one has no series.
type Sources struct {
	Tenants      func() int           // registered tenants in the index
	Claims       func() int           // claims that this replica holds
	AuditDropped func() uint64        // audit entries dropped, see audit.Buffer
	AuditWritten func() uint64        // audit lines written, see audit.Drain
	AuditLag     func() time.Duration // age of the oldest audit line that is not anchored
	Certificates func() int           // certificates in memory
	Expiries     Expiries             // when tenants' certificates end

	Guards       func() int   // tenants that this replica has a guard of
	CallerBytes  func() int64 // of the tables of callers, in memory
	LentRequests func() int64 // requests in flight beyond the shares of their tenants
	LentStreams  func() int64 // streams beyond the shares of their tenants

	Alive func(tenant.ID) bool // no series: says whether a tenant is in the index, when one is first counted; nil = not asked
}

// Observe sets what the platform's metrics are read from.
func (m *Metrics) Observe(s Sources) { m.platform.Store(&s) }

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) { m.names.describe(ch) }

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	named, other := m.read()
	for id, t := range named {
		m.names.tenant(ch, string(id), &t)
	}
	if other != (totals{}) {
		m.names.tenant(ch, labelOther, &other)
	}
	var none totals
	none.add(m.none)
	m.names.tenant(ch, labelNone, &none)
	m.collectSandboxes(ch)
	m.collectPlatform(ch)
}

// read returns the totals of the tenants with series of their own, and the sum of the others.
func (m *Metrics) read() (named map[tenant.ID]totals, other totals) {
	m.mu.Lock()
	defer m.mu.Unlock()
	named, other = make(map[tenant.ID]totals, m.named), m.gone
	m.of.Range(func(id, v any) bool {
		t := v.(*member)
		if !t.named {
			other.add(&t.metrics)
			return true
		}
		var s totals
		s.add(&t.metrics)
		named[id.(tenant.ID)] = s
		return true
	})
	return named, other
}

func (m *Metrics) collectPlatform(ch chan<- prometheus.Metric) {
	n := &m.names
	n.counter(ch, n.reloads, m.reloads[0].Load(), "ok")
	n.counter(ch, n.reloads, m.reloads[1].Load(), "failed")
	s := m.platform.Load()
	m.collectTLS(ch, s)
	if s == nil {
		return
	}
	if s.Tenants != nil {
		n.gauge(ch, n.tenants, float64(s.Tenants()))
	}
	if s.Claims != nil {
		n.gauge(ch, n.claims, float64(s.Claims()))
	}
	if s.AuditDropped != nil {
		n.counter(ch, n.auditDropped, s.AuditDropped())
	}
	if s.AuditWritten != nil {
		n.counter(ch, n.auditWritten, s.AuditWritten())
	}
	if s.AuditLag != nil {
		n.gauge(ch, n.auditLag, s.AuditLag().Seconds())
	}
	if s.Certificates != nil {
		n.gauge(ch, n.certificates, float64(s.Certificates()))
	}
	m.collectGuards(ch, s)
}

func (m *Metrics) collectGuards(ch chan<- prometheus.Metric, s *Sources) {
	n := &m.names
	if s.Guards != nil {
		n.gauge(ch, n.guards, float64(s.Guards()))
	}
	if s.CallerBytes != nil {
		n.gauge(ch, n.callerBytes, float64(s.CallerBytes()))
	}
	if s.LentRequests != nil {
		n.gauge(ch, n.lentRequests, float64(s.LentRequests()))
	}
	if s.LentStreams != nil {
		n.gauge(ch, n.lentStreams, float64(s.LentStreams()))
	}
}

// TenantText returns one tenant's metrics in the Prometheus text format, under the names that the platform's own
// listener uses, and under the tenant's own label even if that listener sums it as "_other". A tenant without requests
// has zeros.
func (m *Metrics) TenantText(id tenant.ID) []byte {
	one := &single{names: &m.names, id: id}
	if t, ok := m.of.Load(id); ok {
		one.totals.add(&t.(*member).metrics)
		one.sandboxes = t.(*member).metrics.readSandboxes()
	}
	reg := prometheus.NewRegistry()
	var out bytes.Buffer
	if err := reg.Register(one); err != nil {
		return nil
	}
	families, err := reg.Gather()
	if err != nil {
		return nil
	}
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&out, f); err != nil {
			return nil
		}
	}
	return out.Bytes()
}

// TextType is the media type of TenantText.
const TextType = "text/plain; version=0.0.4; charset=utf-8"

// single collects one tenant.
type single struct {
	names  *descs
	id     tenant.ID
	totals totals

	sandboxes sandboxTotals
}

func (s *single) Describe(ch chan<- *prometheus.Desc) { s.names.describeTenant(ch) }

func (s *single) Collect(ch chan<- prometheus.Metric) {
	s.names.tenant(ch, string(s.id), &s.totals)
	s.names.sandboxes.emit(ch, string(s.id), s.sandboxes)
}

// descs are the names of all series.
type descs struct {
	requests, refusals, inFlight, duration, bytesIn, bytesOut, limited, upstream *prometheus.Desc // by tenant
	streams, quotas, policies, policyFor, evicted                                *prometheus.Desc // by tenant
	tls                                                                          tlsDescs
	sandboxes                                                                    sandboxDescs
	reloads, tenants, claims, auditDropped, auditWritten, auditLag, certificates *prometheus.Desc
	guards, callerBytes, lentRequests, lentStreams                               *prometheus.Desc
}

func newDescs() descs {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("polygate_"+name, help, labels, nil)
	}
	return descs{
		requests: d("tenant_requests_total", "Requests that ended, by class of the status.", "tenant", "code"),
		refusals: d("tenant_refusals_total", "Requests that ended in an error of ours, by its kind.", "tenant", "kind"),
		inFlight: d("tenant_requests_in_flight", "Requests and streams in flight.", "tenant"),
		duration: d("tenant_request_duration_seconds", "Time from a request's first byte to its response's last; upgrades left out.", "tenant"),
		bytesIn:  d("tenant_received_bytes_total", "Bytes of request bodies.", "tenant"),
		bytesOut: d("tenant_sent_bytes_total", "Bytes of response bodies.", "tenant"),
		limited:  d("tenant_rate_limited_total", "Requests refused for a rate or concurrency quota.", "tenant"),
		upstream: d("tenant_upstream_errors_total", "Requests that failed at the upstream.", "tenant"),

		reloads:      d("config_reloads_total", "Reloads of the configuration.", "result"),
		tls:          newTLSDescs(),
		sandboxes:    newSandboxDescs(),
		tenants:      d("tenants", "Registered tenants."),
		claims:       d("claims", "Tenants that this replica owns."),
		auditDropped: d("audit_dropped_total", "Audit records of the data plane that were dropped because the buffer was full."),
		auditWritten: d("audit_written_total", "Audit records written to the chains."),
		auditLag:     d("audit_anchor_lag_seconds", "Age of the oldest audit record that is not anchored."),
		certificates: d("certificates", "Certificates in memory."),

		streams:   d("tenant_streams", "Event streams and WebSockets open.", "tenant"),
		quotas:    d("tenant_quota_refusals_total", "Requests and streams that a quota refused, by what they were over.", "tenant", "reason"),
		policies:  d("tenant_policy_decisions_total", "Decisions of the tenant's policy; failed = it had no say and nothing was allowed.", "tenant", "result"),
		policyFor: d("tenant_policy_seconds_total", "Time in the tenant's policy.", "tenant"),
		evicted:   d("tenant_callers_evicted_total", "Idle callers that left the tenant's table of budgets.", "tenant"),

		guards:       d("guards", "Tenants that this replica has a guard of."),
		callerBytes:  d("guard_callers_bytes", "Memory of the tables of callers."),
		lentRequests: d("requests_lent", "Requests in flight beyond the guaranteed shares of their tenants."),
		lentStreams:  d("streams_lent", "Streams beyond the guaranteed shares of their tenants."),
	}
}

func (n *descs) describeTenant(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{n.requests, n.refusals, n.inFlight, n.duration, n.bytesIn, n.bytesOut, n.limited, n.upstream,
		n.streams, n.quotas, n.policies, n.policyFor, n.evicted} {
		ch <- d
	}
	n.sandboxes.describe(ch)
}

func (n *descs) describe(ch chan<- *prometheus.Desc) {
	n.describeTenant(ch)
	n.tls.describe(ch)
	for _, d := range []*prometheus.Desc{n.reloads, n.tenants, n.claims, n.auditDropped, n.auditWritten, n.auditLag, n.certificates,
		n.guards, n.callerBytes, n.lentRequests, n.lentStreams} {
		ch <- d
	}
}

func (n *descs) counter(ch chan<- prometheus.Metric, d *prometheus.Desc, v uint64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
}

func (n *descs) gauge(ch chan<- prometheus.Metric, d *prometheus.Desc, v float64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

// tenant emits the series of one tenant: some 30, one more for each kind of error and each quota that it has met, and four if
// it has a policy.
func (n *descs) tenant(ch chan<- prometheus.Metric, name string, s *totals) {
	for i, v := range s.classes {
		n.counter(ch, n.requests, v, name, string(rune('1'+i))+"xx")
	}
	for k, v := range s.kinds {
		if v > 0 {
			n.counter(ch, n.refusals, v, name, fault.Kind(k).String())
		}
	}
	n.gauge(ch, n.inFlight, float64(s.inFlight), name)
	count, buckets := s.histogram()
	ch <- prometheus.MustNewConstHistogram(n.duration, count, s.seconds, buckets, name)
	n.counter(ch, n.bytesIn, s.bytesIn, name)
	n.counter(ch, n.bytesOut, s.bytesOut, name)
	n.counter(ch, n.limited, s.limited, name)
	n.counter(ch, n.upstream, s.upstream, name)
	n.gauge(ch, n.streams, float64(s.streams), name)
	n.counter(ch, n.evicted, s.evicted, name)
	for r, v := range s.quotas {
		if v > 0 {
			n.counter(ch, n.quotas, v, name, quota.Reason(r).String())
		}
	}
	n.policy(ch, name, s)
}

// policy emits the series of a tenant that has or had a policy.
func (n *descs) policy(ch chan<- prometheus.Metric, name string, s *totals) {
	if s.policies == [numPolicies]uint64{} {
		return
	}
	for i, v := range s.policies {
		n.counter(ch, n.policies, v, name, policyOutcome(i))
	}
	ch <- prometheus.MustNewConstMetric(n.policyFor, prometheus.CounterValue, s.policySeconds, name)
}
