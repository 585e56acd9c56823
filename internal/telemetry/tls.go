package telemetry

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/polygate/polygate/internal/tenant"
)

// maxOutcomes bounds the series of orders, should an outcome ever be made of what an ACME server says.
const maxOutcomes = 64

// orders counts orders of certificates by source and outcome.
type orders struct {
	mu sync.Mutex
	of map[order]uint64 // guarded by mu
}

type order struct{ source, outcome string }

// CertificateOrdered counts an order that ended: code is one of the words that a certificate's status has for a failure, ""
// for none.
func (m *Metrics) CertificateOrdered(source tenant.CertificateSource, code string) {
	if code == "" {
		code = "ok"
	}
	m.orders.mu.Lock()
	defer m.orders.mu.Unlock()
	k := order{string(source), code}
	if m.orders.of == nil {
		m.orders.of = make(map[order]uint64)
	}
	if _, ok := m.orders.of[k]; !ok && len(m.orders.of) >= maxOutcomes {
		k.outcome = labelOther
	}
	m.orders.of[k]++
}

// spliced counts connections of tenants whose TLS does not end here.
type spliced struct {
	open                          atomic.Int64
	ended, refused, upstream, cut atomic.Uint64
}

// SplicedEnd says how a spliced connection ended.
type SplicedEnd uint8

// The ways.
const (
	SplicedOK       SplicedEnd = iota // either side closed it
	SplicedRefused                    // over a bound or a quota, or the tenant is not served: it never began
	SplicedUpstream                   // the tenant's gateway could not be reached
	SplicedCut                        // the gateway cut it: after a change of mode, at shutdown, or since the tenant is not served any more
)

// SplicedBegin counts a connection that is being spliced.
func (m *Metrics) SplicedBegin() { m.spliced.open.Add(1) }

// SplicedDone counts the end of a connection; began says whether SplicedBegin was called for it.
func (m *Metrics) SplicedDone(how SplicedEnd, began bool) {
	if began {
		m.spliced.open.Add(-1)
	}
	switch how {
	case SplicedOK:
		m.spliced.ended.Add(1)
	case SplicedRefused:
		m.spliced.refused.Add(1)
	case SplicedUpstream:
		m.spliced.upstream.Add(1)
	case SplicedCut:
		m.spliced.cut.Add(1)
	}
}

// tlsDescs are the names of the series about certificates and spliced connections.
type tlsDescs struct {
	orders, expiry, splicedOpen, splicedTotal *prometheus.Desc
}

func newTLSDescs() tlsDescs {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("polygate_"+name, help, labels, nil)
	}
	return tlsDescs{
		orders:       d("certificate_orders_total", "Orders of certificates that ended, by source and outcome.", "source", "result"),
		expiry:       d("tenant_certificate_expiry_timestamp_seconds", "When the first of the tenant's certificates in memory ends, in Unix time.", "tenant"),
		splicedOpen:  d("passthrough_connections", "Connections spliced to tenants' own gateways."),
		splicedTotal: d("passthrough_connections_total", "Spliced connections that ended, by how: ok, refused, upstream (could not be reached), cut (by this gateway).", "result"),
	}
}

func (n *tlsDescs) describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{n.orders, n.expiry, n.splicedOpen, n.splicedTotal} {
		ch <- d
	}
}

func (m *Metrics) collectTLS(ch chan<- prometheus.Metric, s *Sources) {
	n, c := &m.names.tls, &m.names
	m.orders.mu.Lock()
	for k, v := range m.orders.of {
		c.counter(ch, n.orders, v, k.source, k.outcome)
	}
	m.orders.mu.Unlock()
	c.gauge(ch, n.splicedOpen, float64(m.spliced.open.Load()))
	c.counter(ch, n.splicedTotal, m.spliced.ended.Load(), "ok")
	c.counter(ch, n.splicedTotal, m.spliced.refused.Load(), "refused")
	c.counter(ch, n.splicedTotal, m.spliced.upstream.Load(), "upstream")
	c.counter(ch, n.splicedTotal, m.spliced.cut.Load(), "cut")
	if s == nil || s.Expiries == nil {
		return
	}
	for id, at := range s.Expiries(m.max) {
		c.gauge(ch, n.expiry, float64(at.Unix()), string(id))
	}
}

// Expiries returns, of at most limit tenants, when the first of their certificates ends: those that end first.
type Expiries func(limit int) map[tenant.ID]time.Time
