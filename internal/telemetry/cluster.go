package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/polygate/polygate/internal/fault"

	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/peer"
	"github.com/polygate/polygate/internal/tenant"
)

// ClusterConfig is what a Cluster is made with.
type ClusterConfig struct {
	Replica  string              // this replica's name
	Replicas func() []string     // the names of the live replicas; nil = this one alone
	Caller   peer.Caller         // nil = there are no others
	Gatherer prometheus.Gatherer // of this replica; required
	Metrics  *Metrics            // of this replica; required
	// Usage reads a tenant's guard; false if this replica has none of it, which it must not make for this. nil = none has.
	Usage  func(id tenant.ID) (guard.Usage, bool)
	Status func() ReplicaStatus // of this replica; nil = only its name
	Wait   time.Duration        // for the answers of other replicas; 0 = 1 s
	Logger *slog.Logger         // nil = nothing is logged
}

// Cluster adds up what all replicas count. A replica that does not answer in time is named, and is in no sum: numbers of
// before are not kept in its place.
type Cluster struct {
	cfg ClusterConfig
}

// NewCluster returns the numbers of the replicas that cfg names.
func NewCluster(cfg ClusterConfig) *Cluster {
	if cfg.Wait <= 0 {
		cfg.Wait = time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Usage == nil {
		cfg.Usage = func(tenant.ID) (guard.Usage, bool) { return guard.Usage{}, false }
	}
	return &Cluster{cfg: cfg}
}

// ReplicaStatus is what one replica says of itself.
type ReplicaStatus struct {
	Name     string    `json:"name"`
	Up       bool      `json:"up"` // it answered within a second; else nothing but its name is known
	Error    string    `json:"error,omitempty"`
	Version  string    `json:"version,omitempty"`
	Draining bool      `json:"draining,omitempty"`
	Started  time.Time `json:"started,omitzero"`
	Tenants  int       `json:"tenants"` // that it serves by its claim
	Guards   int       `json:"guards"`  // tenants that it has met
	Requests uint64    `json:"requests"`
	Refused  uint64    `json:"refused"` // by quotas
	InFlight int64     `json:"in_flight"`
	Streams  int64     `json:"streams"`
	BytesIn  uint64    `json:"bytes_in"`
	BytesOut uint64    `json:"bytes_out"`
}

// Status is the numbers of all replicas together. Those of replicas that are away are in no sum.
type Status struct {
	Replicas   []ReplicaStatus `json:"replicas"` // by name
	Incomplete []string        `json:"incomplete,omitempty"`
	Registered int             `json:"registered"` // tenants in the index
	Tenants    int             `json:"tenants"`    // served by a claim
	Requests   uint64          `json:"requests"`
	Refused    uint64          `json:"refused"`
	InFlight   int64           `json:"in_flight"`
	Streams    int64           `json:"streams"`
	BytesIn    uint64          `json:"bytes_in"`
	BytesOut   uint64          `json:"bytes_out"`
}

// What a reading can be of.
const (
	readMetrics = "metrics" // of the platform
	readTenant  = "tenant"  // metrics of one tenant
	readUsage   = "usage"   // of one tenant
	readStatus  = "status"
)

// query asks a replica for one reading.
type query struct {
	V      int       `json:"v"`
	Of     string    `json:"of"`
	Tenant tenant.ID `json:"tenant,omitempty"`
}

// reading is the answer: what was asked for is set.
type reading struct {
	V       int            `json:"v"`
	Metrics []byte         `json:"metrics,omitempty"` // Prometheus text, gzip
	Usage   *guard.Usage   `json:"usage,omitempty"`   // nil = the replica has no guard of the tenant
	Status  *ReplicaStatus `json:"status,omitempty"`
}

// Handle answers peer.Usage.
func (c *Cluster) Handle(_ context.Context, _ string, body []byte) ([]byte, error) {
	var q query
	if err := json.Unmarshal(body, &q); err != nil || q.V < 1 {
		return nil, &fault.Error{Kind: fault.Invalid, Detail: "the question about numbers is not of a known form", Err: err}
	}
	r, err := c.read(q)
	if err != nil {
		return nil, err
	}
	return json.Marshal(r)
}

// read takes a reading of this replica.
func (c *Cluster) read(q query) (r reading, err error) {
	r.V = 1
	switch q.Of {
	case readMetrics:
		families, err := c.cfg.Gatherer.Gather()
		if err != nil {
			return r, fmt.Errorf("gather metrics: %w", err)
		}
		r.Metrics, err = pack(families)
		return r, err
	case readTenant:
		r.Metrics, err = squeeze(c.cfg.Metrics.TenantText(q.Tenant))
		return r, err
	case readUsage:
		if u, ok := c.cfg.Usage(q.Tenant); ok {
			r.Usage = &u
		}
		return r, nil
	case readStatus:
		st := c.own()
		r.Status = &st
		return r, nil
	}
	return r, fault.New(fault.NotFound, "this version knows no numbers of %.40q", q.Of)
}

// own is this replica's status.
func (c *Cluster) own() ReplicaStatus {
	st := ReplicaStatus{}
	if c.cfg.Status != nil {
		st = c.cfg.Status()
	}
	st.Name, st.Up = c.cfg.Replica, true
	sum := c.cfg.Metrics.sum()
	for _, n := range sum.classes {
		st.Requests += n
	}
	for _, n := range sum.quotas {
		st.Refused += n
	}
	st.InFlight, st.Streams, st.BytesIn, st.BytesOut = sum.inFlight, sum.streams, sum.bytesIn, sum.bytesOut
	return st
}

// sum returns the totals of all tenants, and of requests of none.
func (m *Metrics) sum() totals {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := m.gone
	all.add(m.none)
	m.of.Range(func(_, v any) bool {
		all.add(&v.(*member).metrics)
		return true
	})
	return all
}

// ask takes a reading of all replicas at once. missing says of those that did not answer why.
func (c *Cluster) ask(ctx context.Context, q query) (all map[string]reading, missing map[string]error) {
	q.V = 1
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Wait)
	defer cancel()
	var mu sync.Mutex
	var calls sync.WaitGroup
	all, missing = map[string]reading{}, map[string]error{}
	for _, replica := range c.replicas() {
		calls.Go(func() {
			r, err := c.askOne(ctx, replica, q)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				missing[replica] = err
				return
			}
			all[replica] = r
		})
	}
	calls.Wait()
	for replica, err := range missing {
		c.cfg.Logger.Warn("a replica did not say what it counts", "replica", replica, "error", Clean(err.Error(), maxCause))
	}
	return all, missing
}

func (c *Cluster) askOne(ctx context.Context, replica string, q query) (r reading, err error) {
	if replica == c.cfg.Replica {
		return c.read(q)
	}
	if c.cfg.Caller == nil {
		return r, fault.New(fault.Unavailable, "replica %s cannot be asked: this one has no listen.peer", replica)
	}
	body, err := json.Marshal(q)
	if err != nil {
		return r, err
	}
	reply, err := c.cfg.Caller.Call(ctx, replica, peer.Usage, body)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(reply, &r); err != nil || r.V < 1 {
		return r, &fault.Error{Kind: fault.Unavailable, Detail: "replica " + replica + " said what is not of a known form", Err: err}
	}
	return r, nil
}

// replicas returns the names of all, this one among them.
func (c *Cluster) replicas() []string {
	var all []string
	if c.cfg.Replicas != nil {
		all = slices.Clone(c.cfg.Replicas())
	}
	if !slices.Contains(all, c.cfg.Replica) {
		all = append(all, c.cfg.Replica)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// ServeHTTP answers with the metrics of all replicas together, for GET /metrics/cluster. Counters and histograms are sums;
// so are a tenant's gauges; gauges of a replica have its name. polygate_replica_up is 0 for one that did not answer.
func (c *Cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	all, missing := c.ask(r.Context(), query{Of: readMetrics})
	m := newMerger()
	for _, replica := range slices.Sorted(maps.Keys(all)) {
		families, err := unpack(all[replica].Metrics)
		if err != nil {
			c.cfg.Logger.Warn("the metrics of a replica cannot be read", "replica", replica, "error", Clean(err.Error(), maxCause))
			missing[replica] = err
			continue
		}
		m.add(replica, families)
	}
	for _, replica := range c.replicas() {
		m.up(replica, missing[replica] == nil)
	}
	text, err := render(m.families())
	if err != nil {
		c.cfg.Logger.Error("metrics of all replicas", "error", err)
		answer(w, http.StatusInternalServerError, "the metrics of the replicas do not fit together\n")
		return
	}
	w.Header().Set("Content-Type", TextType)
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(text) // a scraper that went away needs no answer
}

// TenantText is Metrics.TenantText of all replicas together. missing names those that did not answer, which are not in it.
func (c *Cluster) TenantText(ctx context.Context, id tenant.ID) (text []byte, missing []string) {
	all, away := c.ask(ctx, query{Of: readTenant, Tenant: id})
	m := newMerger()
	for replica, r := range all {
		families, err := unpack(r.Metrics)
		if err != nil {
			away[replica] = err
			continue
		}
		m.add(replica, families)
	}
	text, err := render(m.families())
	if err != nil {
		text = c.cfg.Metrics.TenantText(id)
	}
	return text, slices.Sorted(maps.Keys(away))
}

// Usage returns what a tenant uses on all replicas together; own is what it uses here, and says which limits it has. missing
// names the replicas that did not answer.
func (c *Cluster) Usage(ctx context.Context, e *tenant.Entry, own guard.Usage) (u guard.Usage, missing []string) {
	all, away := c.ask(ctx, query{Of: readUsage, Tenant: e.Scope.ID()})
	delete(all, c.cfg.Replica)
	u = own
	for _, replica := range slices.Sorted(maps.Keys(all)) {
		if other := all[replica].Usage; other != nil {
			u = addUsage(u, *other)
		}
	}
	return u, slices.Sorted(maps.Keys(away))
}

// Status returns the numbers of all replicas. How many tenants are registered is for the caller to set.
func (c *Cluster) Status(ctx context.Context) Status {
	all, missing := c.ask(ctx, query{Of: readStatus})
	st := Status{Replicas: []ReplicaStatus{}, Incomplete: slices.Sorted(maps.Keys(missing))}
	for _, replica := range c.replicas() {
		one := ReplicaStatus{Name: replica}
		if r, ok := all[replica]; ok && r.Status != nil {
			one = *r.Status
			one.Name, one.Up = replica, true
		} else if err := missing[replica]; err != nil {
			one.Error = Clean(err.Error(), maxText)
		}
		st.add(one)
	}
	return st
}

func (st *Status) add(r ReplicaStatus) {
	st.Replicas = append(st.Replicas, r)
	st.Tenants += r.Tenants
	st.Requests += r.Requests
	st.Refused += r.Refused
	st.InFlight += r.InFlight
	st.Streams += r.Streams
	st.BytesIn += r.BytesIn
	st.BytesOut += r.BytesOut
}

// render writes families as Prometheus text.
func render(families []*dto.MetricFamily) ([]byte, error) {
	var out bytes.Buffer
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&out, f); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), nil
}
