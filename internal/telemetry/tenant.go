// Package telemetry shows what Polygate does: metrics by tenant with a bounded number of series, one structured log
// event per request, and the listener that serves metrics and health. It counts and shows, and decides nothing.
package telemetry

import (
	"sync/atomic"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/quota"
)

// numKinds is the number of kinds of error; a test fails when one is added.
const numKinds = int(fault.NotAcceptable) + 1

// numClasses is the number of status classes, 1xx to 5xx.
const numClasses = 5

// bounds returns the upper bounds of the duration histogram, in seconds. They span a cached answer to a long tool call.
func bounds() [numBounds]float64 {
	return [numBounds]float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60}
}

const numBounds = 13

// TenantMetrics are the counters of one tenant on this replica, some 700 bytes. They are safe for concurrent use.
type TenantMetrics struct {
	inFlight  atomic.Int64
	classes   [numClasses]atomic.Uint64
	kinds     [numKinds]atomic.Uint64
	buckets   [numBounds + 1]atomic.Uint64 // not cumulative; the last is +Inf
	nanos     atomic.Uint64                // sum of the durations
	bytesIn   atomic.Uint64
	bytesOut  atomic.Uint64
	rateLimit atomic.Uint64
	upstream  atomic.Uint64
	streams   atomic.Int64
	quotas    [quota.NumReasons]atomic.Uint64
	policies  [numPolicies]atomic.Uint64
	policyFor atomic.Uint64 // nanoseconds in the tenant's policy
	evicted   atomic.Uint64
	sandboxes atomic.Pointer[sandboxCounts] // nil = it has used none here
}

// The outcomes of a policy, by which its decisions are counted.
const (
	policyAllowed = iota
	policyDenied
	policyFailed
	numPolicies
)

func policyOutcome(i int) string { return [numPolicies]string{"allowed", "denied", "failed"}[i] }

// Refused counts a request or a stream that a quota refused.
func (t *TenantMetrics) Refused(r quota.Reason) {
	if int(r) < quota.NumReasons {
		t.quotas[r].Add(1)
	}
}

// Streams counts streams that opened, or, below 0, ended.
func (t *TenantMetrics) Streams(delta int) { t.streams.Add(int64(delta)) }

// Policy counts a decision of the tenant's policy; failed means that it had no say of its own.
func (t *TenantMetrics) Policy(took time.Duration, denied, failed bool) {
	outcome := policyAllowed
	switch {
	case failed:
		outcome = policyFailed
	case denied:
		outcome = policyDenied
	}
	t.policies[outcome].Add(1)
	t.policyFor.Add(uint64(max(took, 0)))
}

// Evicted counts callers that left the tenant's table of budgets while they were idle.
func (t *TenantMetrics) Evicted(n int) { t.evicted.Add(uint64(max(n, 0))) }

// Result is how a request ended.
type Result struct {
	Status   int           // as answered
	Err      error         // nil if the request was served; else its fault.Kind is counted
	Duration time.Duration // from the request's first byte to the response's last
	BytesIn  int64         // of the request body
	BytesOut int64         // of the response body
}

// Begin counts a request in flight. Each Begin is to be paired with one End.
func (t *TenantMetrics) Begin() { t.inFlight.Add(1) }

// End counts a request that has ended. The duration of an upgraded connection (101) is not that of a request and stays
// out of the histogram.
func (t *TenantMetrics) End(r Result) {
	t.inFlight.Add(-1)
	if c := r.Status/100 - 1; c >= 0 && c < numClasses {
		t.classes[c].Add(1)
	}
	if r.Err != nil {
		t.failed(fault.KindOf(r.Err))
	}
	if r.Status != 101 {
		t.observe(r.Duration)
	}
	t.bytesIn.Add(uint64(max(r.BytesIn, 0)))
	t.bytesOut.Add(uint64(max(r.BytesOut, 0)))
}

// Pass takes back a Begin: the request was forwarded to another replica, which counts it.
func (t *TenantMetrics) Pass() { t.inFlight.Add(-1) }

func (t *TenantMetrics) failed(k fault.Kind) {
	if int(k) >= numKinds {
		k = fault.Internal
	}
	t.kinds[k].Add(1)
	switch k {
	case fault.RateLimited:
		t.rateLimit.Add(1)
	case fault.BadUpstream, fault.UpstreamTimeout:
		t.upstream.Add(1)
	}
}

func (t *TenantMetrics) observe(d time.Duration) {
	d = max(d, 0)
	b := bounds()
	i, s := 0, d.Seconds()
	for i < numBounds && s > b[i] {
		i++
	}
	t.buckets[i].Add(1)
	t.nanos.Add(uint64(d))
}

// totals is a reading of TenantMetrics, or the sum of several.
type totals struct {
	inFlight                             int64
	classes                              [numClasses]uint64
	kinds                                [numKinds]uint64
	buckets                              [numBounds + 1]uint64
	seconds                              float64
	bytesIn, bytesOut, limited, upstream uint64
	streams                              int64
	quotas                               [quota.NumReasons]uint64
	policies                             [numPolicies]uint64
	policySeconds                        float64
	evicted                              uint64
}

// add adds what t counts. The parts are read one by one, so a request that ends meanwhile may be in some of them only.
func (s *totals) add(t *TenantMetrics) {
	s.inFlight += t.inFlight.Load()
	for i := range t.classes {
		s.classes[i] += t.classes[i].Load()
	}
	for i := range t.kinds {
		s.kinds[i] += t.kinds[i].Load()
	}
	for i := range t.buckets {
		s.buckets[i] += t.buckets[i].Load()
	}
	s.seconds += float64(t.nanos.Load()) / 1e9
	s.bytesIn += t.bytesIn.Load()
	s.bytesOut += t.bytesOut.Load()
	s.limited += t.rateLimit.Load()
	s.upstream += t.upstream.Load()
	s.streams += t.streams.Load()
	for i := range t.quotas {
		s.quotas[i] += t.quotas[i].Load()
	}
	for i := range t.policies {
		s.policies[i] += t.policies[i].Load()
	}
	s.policySeconds += float64(t.policyFor.Load()) / 1e9
	s.evicted += t.evicted.Load()
}

// histogram returns the count, and the cumulative counts by upper bound.
func (s *totals) histogram() (uint64, map[float64]uint64) {
	out := make(map[float64]uint64, numBounds)
	var n uint64
	for i, b := range bounds() {
		n += s.buckets[i]
		out[b] = n
	}
	return n + s.buckets[numBounds], out
}
